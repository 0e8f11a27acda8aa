"""Which branch the result of a condition or select takes."""

from __future__ import annotations

from fast_dag.define.node import Node, NodeType
from fast_dag.errors import ValidationError, failures, names, text_of
from fast_dag.returns import ConditionalReturn, SelectReturn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


def choice_of(
    node: Node[..., Any], value: Any, known: Sequence[bool | str]
) -> bool | str | frozenset[str]:
    """The branch that a decider chose by returning `value`, or the branches if it may choose
    several; `known` are the connected branches.

    Raises ValidationError if the value chooses none of them.

    >>> choice_of(Node(len, "count", type="condition"), 3, [True, False])
    True
    >>> choice_of(Node(len, "route", type="select"), "fax", ["email", "default"])
    'default'
    """
    if node.type is NodeType.CONDITION:
        return _truth(node.name, value)
    branch = value.branch if isinstance(value, SelectReturn) else value
    if not node.options.get("several"):
        return _branch(node.name, branch, known)
    if isinstance(branch, (list, tuple)):
        return _branches(node.name, branch, known)
    return frozenset([_branch(node.name, branch, known)])


def _truth(name: str, value: Any) -> bool:
    if isinstance(value, ConditionalReturn):
        value = value.condition
    if value is None:
        raise ValidationError(
            f"condition {name!r} returned None; did it forget to return True or False?", node=name
        )
    try:
        return bool(value)
    except failures() as error:
        raise ValidationError(
            f"condition {name!r} returned a {type(value).__name__} that is neither true nor "
            f"false ({text_of(error)}); return a bool, with .all() or .any(), say",
            node=name,
        ) from error


def _branches(name: str, branches: Sequence[Any], known: Sequence[bool | str]) -> frozenset[str]:
    chosen = [_named(name, branch, known) for branch in branches]
    unknown = [branch for branch in dict.fromkeys(chosen) if branch not in known]
    if unknown and known:
        if "default" not in known:
            raise _unconnected(name, unknown, known)
        chosen = [branch for branch in chosen if branch in known] + ["default"]
    return frozenset(chosen)


def _branch(name: str, branch: Any, known: Sequence[bool | str]) -> str:
    chosen = _named(name, branch, known)
    if chosen in known or not known:
        return chosen
    if "default" in known:
        return "default"
    raise _unconnected(name, [chosen], known)


def _named(name: str, branch: Any, known: Sequence[bool | str]) -> str:
    """A branch, which must be a string."""
    if branch is None:
        raise ValidationError(
            f"select {name!r} returned no branch (None); did it forget to return?", node=name
        )
    if isinstance(branch, str):
        return branch
    from fast_dag.draw.words import brief

    several = "; to choose several branches make it with several=True"
    hint = several if isinstance(branch, (list, tuple)) else ""
    raise ValidationError(
        f"select {name!r} returned {brief(branch)}; a branch is named by a string: one of "
        f"{names(known) or 'those you connect'}{hint}",
        node=name,
    )


def _unconnected(
    name: str, branches: Sequence[str], known: Sequence[bool | str]
) -> ValidationError:
    word = "branch" if len(branches) == 1 else "branches"
    return ValidationError(
        f"select {name!r} chose the {word} {names(branches)}, which nothing is connected to; "
        f"it has {names(known)} (connect branches['default'] to take all others)",
        node=name,
        branch=branches[0],
        branches=tuple(known),
    )
