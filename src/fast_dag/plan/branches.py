"""Which branch the result of a condition or select takes."""

from __future__ import annotations

from fast_dag.define.node import Node, NodeType
from fast_dag.errors import ValidationError, failures, names, text_of
from fast_dag.returns import ConditionalReturn, SelectReturn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


def choice_of(node: Node[..., Any], value: Any, known: Sequence[bool | str]) -> bool | str:
    """The branch that a decider chose by returning `value`; `known` are the connected branches.

    Raises ValidationError if the value chooses none of them.

    >>> choice_of(Node(len, "count", type="condition"), 3, [True, False])
    True
    >>> choice_of(Node(len, "route", type="select"), "fax", ["email", "default"])
    'default'
    """
    if node.type is NodeType.CONDITION:
        return _truth(node.name, value)
    return _branch(node.name, value, known)


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


def _branch(name: str, value: Any, known: Sequence[bool | str]) -> str:
    branch = value.branch if isinstance(value, SelectReturn) else value
    if branch is None:
        raise ValidationError(
            f"select {name!r} returned no branch (None); did it forget to return?", node=name
        )
    if not isinstance(branch, str):
        raise ValidationError(
            f"select {name!r} returned {branch!r}; a branch is named by a string: one of "
            f"{names(known) or 'those you connect'}",
            node=name,
        )
    if branch in known or not known:
        return branch
    if "default" in known:
        return "default"
    raise ValidationError(
        f"select {name!r} chose the branch {branch!r}, which nothing is connected to; "
        f"it has {names(known)} (connect branches['default'] to take all others)",
        node=name,
        branch=branch,
        branches=tuple(known),
    )
