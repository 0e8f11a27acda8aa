"""The parts of `typing` that definitions use.

Importing `typing` takes a fifth of the time of importing this package. So only type checkers see
the real names; at run time there are stand-ins for those that Python evaluates.
"""

from __future__ import annotations

from types import GenericAlias

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Generic, ParamSpec, TypeVar, overload

    P = ParamSpec("P")
    R_co = TypeVar("R_co", covariant=True)
    T = TypeVar("T")

    class OfFunction(Generic[P, R_co]):
        """Generic over the parameters and the result of a function."""

else:
    P = R_co = T = None

    class OfFunction:
        __class_getitem__ = classmethod(GenericAlias)

    def overload(func):
        return func


__all__ = ["OfFunction", "P", "R_co", "T", "overload"]
