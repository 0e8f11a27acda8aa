"""Return values that carry a decision: which branch, which next state."""

from __future__ import annotations

from fast_dag._fields import Fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Protocol

    class State(Protocol):
        """The node of a state. (A member of an Enum has a `name`, too, but is no state.)"""

        @property
        def name(self) -> str: ...
        @property
        def signature(self) -> object: ...


class ConditionalReturn(Fields):
    """Returned by a condition to give its branches another value than its own input.

    Parameters
    ----------
    condition:
        The branch is `on_true` if this is true, else `on_false`.
    value:
        The value that the edges of the condition carry.

    >>> ConditionalReturn(True, value=3)
    ConditionalReturn(condition=True, value=3)
    """

    __slots__ = ("condition", "value")
    __match_args__ = ("condition", "value")

    def __init__(self, condition: Any, value: Any = None) -> None:
        self.condition = condition
        self.value = value


class SelectReturn(Fields):
    """Returned by a select to give its branches another value than its own input.

    Parameters
    ----------
    branch:
        The name of the branch to take; of a select with `several=True` also a list of names.
    value:
        The value that the edges of the select carry.

    >>> SelectReturn("email", value="hello")
    SelectReturn(branch='email', value='hello')
    """

    __slots__ = ("branch", "value")
    __match_args__ = ("branch", "value")

    def __init__(self, branch: str | Sequence[str], value: Any = None) -> None:
        self.branch = branch
        self.value = value


def to_data(value: Any) -> Any:
    """A return of a condition or select as data that JSON can write if it can write the value in
    it; anything else as it is.

    >>> to_data(SelectReturn("email", value=3)), to_data("email")
    ({'SelectReturn': {'branch': 'email', 'value': 3}}, 'email')
    """
    kind = type(value)
    if kind is ConditionalReturn:
        return {"ConditionalReturn": {"condition": bool(value.condition), "value": value.value}}
    if kind is SelectReturn:
        return {"SelectReturn": {"branch": value.branch, "value": value.value}}
    return value


def from_data(value: Any) -> Any:
    """What `to_data` described.

    >>> from_data({"SelectReturn": {"branch": "email", "value": 3}}), from_data("email")
    (SelectReturn(branch='email', value=3), 'email')
    """
    if type(value) is dict and len(value) == 1:
        for kind in (ConditionalReturn, SelectReturn):
            fields = value.get(kind.__name__)
            if type(fields) is dict and fields.keys() == set(kind.__match_args__):
                return kind(**fields)
    return value


class FSMReturn(Fields):
    """Returned by a state to choose the next state of its machine.

    Parameters
    ----------
    next_state:
        The next state, or its name; None if the declared transitions choose it.
    value:
        The state's value, which the next state is given.
    stop:
        True ends the machine after this state.

    >>> FSMReturn("shipped", value=3)
    FSMReturn(next_state='shipped', value=3, stop=False)
    """

    __slots__ = ("next_state", "stop", "value")
    __match_args__ = ("next_state", "value", "stop")

    def __init__(
        self, next_state: str | State | None = None, value: Any = None, stop: bool = False
    ) -> None:
        self.next_state = next_state
        self.value = value
        self.stop = stop


class ItemError(Fields):
    """Stands in the place of an item of a map that failed, with `on_error="keep"`. It is false in a
    truth test.

    Parameters
    ----------
    key:
        The position of the item, or its key if the map has keys.
    error:
        The exception that the item ended with.

    >>> from fast_dag import DAG
    >>> dag = DAG("demo")
    >>> @dag.map(on_error="keep")
    ... def inverse(x: float) -> float:
    ...     return 1 / x
    >>> [result for result in dag.run(x=[1, 0, 2]) if result]
    [1.0, 0.5]
    >>> dag["inverse"][1].key
    1
    """

    __slots__ = ("error", "key")
    __match_args__ = ("key", "error")

    key: Any
    error: BaseException

    def __init__(self, key: Any, error: BaseException) -> None:
        object.__setattr__(self, "key", key)
        object.__setattr__(self, "error", error)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"an ItemError is frozen: {name!r} cannot be set")

    def __hash__(self) -> int:
        return hash((self.key, type(self.error)))

    def __bool__(self) -> bool:
        return False

    def __reduce__(self) -> tuple[Any, ...]:
        return ItemError, (self.key, self.error)
