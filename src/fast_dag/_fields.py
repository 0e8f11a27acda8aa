"""Fields: the base of small classes with named fields."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Fields:  # noqa: PLW1641  most are mutable, so they have no hash
    """Base of classes whose `==` and `repr` use their slots.

    A NamedTuple would do. But its instances take twice as long to make, and its class ten times as
    long, which would slow down the import of this package.
    """

    __slots__: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fields) and self._shown() == other._shown()

    def __repr__(self) -> str:
        name, fields = self._shown()
        return f"{name}({', '.join(f'{key}={value!r}' for key, value in fields.items())})"

    def _shown(self) -> tuple[str, dict[str, Any]]:
        return type(self).__name__, {key: getattr(self, key) for key in self.__slots__}
