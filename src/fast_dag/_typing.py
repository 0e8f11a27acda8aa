"""What definitions need of `typing`, which takes as long to import as a fifth of this package: type
checkers see the real thing, and at run time stands no more than is looked at."""

from __future__ import annotations

from types import GenericAlias

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Generic, ParamSpec, TypeVar, overload

    P = ParamSpec("P")
    R = TypeVar("R")
    T = TypeVar("T")

    class OfFunction(Generic[P, R]):
        """Known by the parameters and the result of a function."""

else:
    P = R = T = None

    class OfFunction:
        __class_getitem__ = classmethod(GenericAlias)

    def overload(func):
        return func


__all__ = ["OfFunction", "P", "R", "T", "overload"]
