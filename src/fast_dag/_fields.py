"""Fields: the base of small classes with named fields."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Fields:  # noqa: PLW1641  most subclasses are mutable, so they have no hash
    """Defines `==` and `repr` by the names in `__slots__`.

    A NamedTuple does that, too, but its instances take twice as long to make, and its class ten
    times as long, which every import would pay.
    """

    __slots__: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fields) and self._told() == other._told()

    def __repr__(self) -> str:
        name, fields = self._told()
        return f"{name}({', '.join(f'{key}={value!r}' for key, value in fields.items())})"

    def _told(self) -> tuple[str, dict[str, Any]]:
        return type(self).__name__, {key: getattr(self, key) for key in self.__slots__}
