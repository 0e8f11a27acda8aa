"""Fields: the base of small classes with named fields."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Fields:  # noqa: PLW1641  most are mutable, so they have no hash
    """Base of classes whose `==` and `repr` use their slots, in the order of `__match_args__` if
    they have that.

    A NamedTuple would do. But its instances take twice as long to make, and its class ten times as
    long, which would slow down the import of this package.
    """

    __slots__: tuple[str, ...] = ()
    __match_args__: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._fields() == other._fields()

    def __repr__(self) -> str:
        shown = (f"{name}={value!r}" for name, value in self._fields().items())
        return f"{type(self).__name__}({', '.join(shown)})"

    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__match_args__ or self.__slots__}
