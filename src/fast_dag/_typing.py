"""Stand-ins for what definitions need of `typing`, because importing `typing` takes a fifth as long
as importing this package. Type checkers see the real names."""

from __future__ import annotations

from types import GenericAlias

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Generic, ParamSpec, TypeVar, overload

    P = ParamSpec("P")
    R = TypeVar("R")
    T = TypeVar("T")

    class OfFunction(Generic[P, R]):
        """Base of the classes that are generic in a function's parameters and result."""

else:
    P = R = T = None

    class OfFunction:
        __class_getitem__ = classmethod(GenericAlias)

    def overload(func):
        return func


__all__ = ["OfFunction", "P", "R", "T", "overload"]
