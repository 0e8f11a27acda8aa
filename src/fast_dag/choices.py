"""Which choices of deciders a node depends on, and which of them exclude each other.

The choices that a node needs are a linked list that shares its tail with those of the nodes before
it, so that a long chain of conditions costs one cell a node. Equal cells are one object.
"""

from __future__ import annotations


class Choice:
    """`decider` chose `branch`, and everything that `before` says."""

    __slots__ = ("before", "branch", "decider", "depth")

    def __init__(self, decider: str, branch: bool | str, before: Choice | None) -> None:
        self.decider = decider
        self.branch = branch
        self.before = before
        self.depth: int = 1 if before is None else before.depth + 1


class Choices:
    """Makes the lists of one graph.

    >>> choices = Choices()
    >>> yes = choices.add("check", True, None)
    >>> both = choices.either(yes, choices.add("route", "a", None))
    >>> one, other = contradiction(both, choices.add("check", False, None))
    >>> one.decider, one.branch, other.branch
    ('check', True, False)
    """

    def __init__(self) -> None:
        self._made: dict[tuple[str, bool | str, Choice | None], Choice] = {}

    def add(self, decider: str, branch: bool | str, before: Choice | None) -> Choice:
        """One more choice."""
        key = (decider, branch, before)
        choice = self._made.get(key)
        if choice is None:
            choice = self._made[key] = Choice(decider, branch, before)
        return choice

    def either(self, one: Choice | None, other: Choice | None) -> Choice | None:
        """All choices that stand in one of the lists."""
        ones, others, _ = _apart(one, other)
        known = {(each.decider, each.branch) for each in ones}
        for each in reversed(others):
            if (each.decider, each.branch) not in known:
                one = self.add(each.decider, each.branch, one)
        return one

    def both(self, one: Choice | None, other: Choice | None) -> Choice | None:
        """The choices that stand in both lists."""
        ones, others, common = _apart(one, other)
        known = {(each.decider, each.branch) for each in ones}
        for each in reversed(others):
            if (each.decider, each.branch) in known:
                common = self.add(each.decider, each.branch, common)
        return common


def contradiction(one: Choice | None, other: Choice | None) -> tuple[Choice, Choice] | None:
    """A choice of each list of which at most one can be made; None where there are none."""
    ones, others, _ = _apart(one, other)
    chosen = {each.decider: each for each in ones}
    for each in others:
        there = chosen.get(each.decider)
        if there is not None and there.branch != each.branch:
            return there, each
    return None


def _apart(
    one: Choice | None, other: Choice | None
) -> tuple[list[Choice], list[Choice], Choice | None]:
    """What each list has beyond their common tail, and that tail."""
    ones, others = [], []
    while one is not other:
        if other is None or (one is not None and one.depth >= other.depth):
            assert one is not None
            ones.append(one)
            one = one.before
        else:
            others.append(other)
            other = other.before
    return ones, others, one
