"""The engine's own values, taken apart for a codec: returns that decide, and failed items of maps.

A row names how its value is wrapped after the name of its codec: "plain:condition".
"""

from __future__ import annotations

from typing import Any, Final

from fast_dag.returns import ConditionalReturn, ItemError, SelectReturn
from fast_dag.store.errors import from_data, to_data

WRAPPED: Final = frozenset({ConditionalReturn, SelectReturn, list, dict})
"""The classes of values that may be wrapped."""


def unwrapped(value: Any) -> tuple[str, Any]:
    """How a value is wrapped, "" if it is not, and what a codec is to encode.

    >>> unwrapped(ConditionalReturn(True, value=3)), unwrapped([1])
    (('condition', (True, 3)), ('', [1]))
    """
    kind = type(value)
    if kind is ConditionalReturn:
        return "condition", (value.condition, value.value)
    if kind is SelectReturn:
        branch = value.branch
        return "select", (branch if isinstance(branch, str) else list(branch), value.value)
    if kind is list and any(type(each) is ItemError for each in value):
        return "items", _apart(enumerate(value))
    if kind is dict and any(type(each) is ItemError for each in value.values()):
        return "keyed", _apart(value.items())
    return "", value


def own_parts(how: str, value: Any) -> list[Any]:
    """The user's own values in what `unwrapped` took apart; none if nothing was.

    >>> own_parts(*unwrapped(ConditionalReturn(True, value=3)))
    [3]
    """
    if how in ("condition", "select"):
        return [value[1]]
    return [each for _, failed, each in value if not failed] if how else []


def _apart(items: Any) -> list[tuple[Any, bool, Any]]:
    """Items as (key, whether it failed, the value or the error and its key)."""
    return [
        (key, True, (each.key, to_data(each.error)))
        if type(each) is ItemError
        else (key, False, each)
        for key, each in items
    ]


def wrapped(how: str, value: Any) -> Any:
    """What `unwrapped` took apart.

    >>> wrapped("condition", (True, 3))
    ConditionalReturn(condition=True, value=3)
    """
    if not how:
        return value
    if how == "condition":
        return ConditionalReturn(*value)
    if how == "select":
        return SelectReturn(*value)
    items = {
        key: ItemError(each[0], from_data(each[1])) if failed else each
        for key, failed, each in value
    }
    return items if how == "keyed" else list(items.values())
