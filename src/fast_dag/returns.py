"""Return values that carry a decision: which branch, which next state."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


# No dataclasses: importing `dataclasses` takes longer than importing the rest of the package.


class _Return:
    __slots__ = ()
    __match_args__: tuple[str, ...] = ()

    def _fields(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__match_args__)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._fields() == other._fields()

    __hash__ = None  # type: ignore[assignment]  # a value may be unhashable

    def __repr__(self) -> str:
        fields = zip(self.__match_args__, self._fields(), strict=True)
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in fields)})"


class ConditionalReturn(_Return):
    """What a condition returns when its branches should get another value than it was given.

    Parameters
    ----------
    condition:
        Decides by its truth: `on_true` or `on_false`.
    value:
        What the edges of the condition carry.

    >>> ConditionalReturn(True, value=3)
    ConditionalReturn(condition=True, value=3)
    """

    __slots__ = ("condition", "value")
    __match_args__ = ("condition", "value")

    def __init__(self, condition: Any, value: Any = None) -> None:
        self.condition = condition
        self.value = value


class SelectReturn(_Return):
    """What a select returns when its branches should get another value than it was given.

    Parameters
    ----------
    branch:
        The name of the branch to take; of a select with `several=True` also a list of names.
    value:
        What the edges of the select carry.

    >>> SelectReturn("email", value="hello")
    SelectReturn(branch='email', value='hello')
    """

    __slots__ = ("branch", "value")
    __match_args__ = ("branch", "value")

    def __init__(self, branch: str | Sequence[str], value: Any = None) -> None:
        self.branch = branch
        self.value = value


class FSMReturn(_Return):
    """What a state returns to say where its machine goes next.

    Parameters
    ----------
    next_state:
        The name of the state to go to; None leaves that to the declared transitions.
    value:
        The state's value: what the next state is given.
    stop:
        True ends the machine here.

    >>> FSMReturn("shipped", value=3)
    FSMReturn(next_state='shipped', value=3, stop=False)
    """

    __slots__ = ("next_state", "stop", "value")
    __match_args__ = ("next_state", "value", "stop")

    def __init__(
        self, next_state: str | None = None, value: Any = None, stop: bool = False
    ) -> None:
        self.next_state = next_state
        self.value = value
        self.stop = stop
