"""Functions and classes that worker processes import and pickles find again."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class BoomError(Exception):
    """What a node raises that is told to fail."""


class Index:
    """A whole number as numpy has them: neither an int nor a float."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value

    def __float__(self) -> float:
        return float(self.value)

    def __le__(self, other: float) -> bool:
        return self.value <= other

    def __ge__(self, other: float) -> bool:
        return self.value >= other


def boom(*args: Any, **kwargs: Any) -> Any:
    raise BoomError("no luck")


def add(a: Any, b: Any) -> Any:
    return a + b


async def add_later(a: Any, b: Any) -> Any:
    return a + b


def double(x: Any) -> Any:
    """Twice of it.

    More about it.
    """
    return 2 * x


class Scale:
    """Callable objects, methods of every kind, and a class that is a node itself."""

    def __init__(self, factor: int = 1) -> None:
        self.factor = factor

    def __call__(self, x: int) -> int:
        return self.factor * x

    def method(self, x: int) -> int:
        return self.factor * x

    async def method_later(self, x: int) -> int:
        return self.factor * x

    @classmethod
    def of_class(cls, factor: int) -> int:
        return cls(factor)(10)

    @staticmethod
    def static(x: int) -> int:
        return 100 * x


class ScaleLater:
    """A callable object whose call is a coroutine."""

    async def __call__(self, x: int) -> int:
        return 5 * x


@dataclass(frozen=True)
class Point:
    """A class with a generated signature."""

    x: int
    y: int = 7


class Undecided:
    """Has no truth, as arrays of several elements have none."""

    def __bool__(self) -> bool:
        raise ValueError("neither here nor there")


def wrapped(func: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator as it should be."""

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)

    return wrapper


def opaque(func: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator without `functools.wraps`."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)

    return wrapper


def opaque_later(func: Callable[..., Any]) -> Callable[..., Any]:
    """The same for async functions."""

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await func(*args, **kwargs)

    return wrapper


class Breaker:
    """A decorator object with state: it stops calling what failed too often."""

    def __init__(self, threshold: int = 2) -> None:
        self.failures = 0
        self.threshold = threshold

    def __call__(self, func: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if self.failures >= self.threshold:
                raise ConnectionError("the breaker is open")
            with self.counted():
                return func(*args, **kwargs)

        return wrapper

    @contextlib.contextmanager
    def counted(self) -> Any:
        try:
            yield
        except Exception:
            self.failures += 1
            raise
        self.failures = 0
