"""Which choices of deciders a node depends on, and which of them exclude each other.

The choices that a node needs are stored in a tree. The number of the decider leads to its place,
with eight subtrees at each level. Trees share equal subtrees: adding a choice makes one new cell
for each level, and shared subtrees are skipped when two trees are compared or joined. The result
for two subtrees is remembered, so nodes whose needs differ only a little cost little.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Needs = tuple[Any, ...]
    """A tree of at least one choice: its eight subtrees, each None if it is empty. A subtree of the
    lowest level is the tuple of the choices of one decider."""

_BITS = 3
_WAYS = 1 << _BITS
_NOTHING = (None,) * _WAYS


class Choice:
    """`decider` chose `branch`."""

    __slots__ = ("branch", "decider")

    def __init__(self, decider: str, branch: bool | str) -> None:
        self.decider = decider
        self.branch = branch


class Choices:
    """Makes and compares the needs of the nodes of one graph.

    `deciders` are all nodes that choose a branch. If several pairs of choices exclude each other,
    `contradiction` returns the pair of the decider that comes last in `deciders`.

    >>> choices = Choices(["check", "route"])
    >>> yes = choices.add("check", True, None)
    >>> both = choices.either(yes, choices.add("route", "a", None))
    >>> one, other = choices.contradiction(both, choices.add("check", False, None))
    >>> one.decider, one.branch, other.branch
    ('check', True, False)
    """

    def __init__(self, deciders: Iterable[str]) -> None:
        self._numbers = {decider: number for number, decider in enumerate(deciders)}
        self._top = 0
        while len(self._numbers) > _WAYS << self._top:
            self._top += _BITS
        self._chosen: dict[tuple[str, bool | str], tuple[Choice, ...]] = {}
        # Results for two subtrees, by their ids. The subtrees are kept, too: the id of an object
        # that was freed may be given to another.
        self._either: dict[tuple[int, int], tuple[Needs, Needs, Needs]] = {}
        self._both: dict[tuple[int, int], tuple[Needs, Needs, Needs | None]] = {}
        self._agreeing: dict[tuple[int, int], tuple[Needs, Needs]] = {}

    def add(self, decider: str, branch: bool | str, before: Needs | None) -> Needs:
        """The needs `before` with one more choice."""
        chosen = self._chosen.get((decider, branch))
        if chosen is None:
            chosen = self._chosen[decider, branch] = (Choice(decider, branch),)
        return self._put(before, self._numbers[decider], chosen, self._top)

    def _put(
        self, needs: Needs | None, number: int, chosen: tuple[Choice, ...], shift: int
    ) -> Needs:
        ways: Needs = _NOTHING if needs is None else needs
        way = number >> shift & _WAYS - 1
        old = ways[way]
        new = self._put(old, number, chosen, shift - _BITS) if shift else _all_of(old, chosen)
        return ways if new is old else (*ways[:way], new, *ways[way + 1 :])

    def either(self, one: Needs | None, other: Needs | None) -> Needs | None:
        """The choices that are in at least one of two trees."""
        return self._joined(one, other, self._top)

    def _joined(self, one: Needs | None, other: Needs | None, shift: int) -> Needs | None:
        if other is None or one is other:
            return one
        if one is None:
            return other
        if shift < 0:
            return _all_of(one, other)
        key = id(one), id(other)
        if key not in self._either:
            below = shift - _BITS
            ways = [self._joined(*each, below) for each in zip(one, other, strict=True)]
            self._either[key] = one, other, _like(ways, one, other)
        return self._either[key][2]

    def both(self, one: Needs | None, other: Needs | None) -> Needs | None:
        """The choices that are in both trees."""
        return self._common(one, other, self._top)

    def _common(self, one: Needs | None, other: Needs | None, shift: int) -> Needs | None:
        if one is None or other is None:
            return None
        if one is other:
            return one
        if shift < 0:
            return tuple([each for each in one if each in other]) or None
        key = id(one), id(other)
        if key not in self._both:
            below = shift - _BITS
            ways = [self._common(*each, below) for each in zip(one, other, strict=True)]
            self._both[key] = one, other, _like(ways, one, other) if any(ways) else None
        return self._both[key][2]

    def contradiction(self, one: Needs | None, other: Needs | None) -> tuple[Choice, Choice] | None:
        """One choice of each tree, of the same decider but for different branches; None if there is
        no such pair."""
        return self._clash(one, other, self._top)

    def _clash(
        self, one: Needs | None, other: Needs | None, shift: int
    ) -> tuple[Choice, Choice] | None:
        if one is None or other is None or one is other:
            return None
        if shift < 0:
            return next(((a, b) for a in one for b in other if a is not b), None)
        key = id(one), id(other)
        if key in self._agreeing:
            return None
        for mine, its in zip(reversed(one), reversed(other), strict=True):
            clash = self._clash(mine, its, shift - _BITS)
            if clash is not None:
                return clash
        self._agreeing[key] = one, other
        return None


def _all_of(one: tuple[Choice, ...] | None, other: tuple[Choice, ...]) -> tuple[Choice, ...]:
    """The choices of one decider that are in at least one of two tuples."""
    if one is None or one is other:
        return other
    more = tuple([each for each in other if each not in one])
    return one + more if more else one


def _like(ways: list[Needs | None], one: Needs, other: Needs) -> Needs:
    """The tree of these subtrees. It is `one` or `other` itself if that has the same subtrees, so
    that equal trees stay shared."""
    for each in (one, other):
        if all(new is old for new, old in zip(ways, each, strict=True)):
            return each
    return tuple(ways)
