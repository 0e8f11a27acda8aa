"""Nodes of an importable module, as other processes find them."""

from __future__ import annotations

import functools
import os
import socket
from email.message import Message
from typing import Any
from urllib.error import HTTPError

from fast_dag import DAG, Context

importable = DAG("importable")


@importable.node
def number() -> int:
    return 20


@importable.node
def add(number: int, more: int = 1) -> int:
    return number + more


@importable.node
def where(add: int) -> tuple[int, int]:
    return add, os.getpid()


number >> add >> where


UNHEARD: list[Any] = []
"""Events for calls that stay in this process."""


class Counter:
    """Something with methods of all kinds."""

    def __init__(self, step: int) -> None:
        self.step = step

    def up(self, x: int) -> int:
        return x + self.step

    @classmethod
    def of_class(cls, x: int) -> tuple[str, int]:
        return cls.__name__, x

    @staticmethod
    def static(x: int) -> int:
        return -x

    def __call__(self, x: int) -> int:
        return x * self.step


def wrapped(x: int) -> int:
    return x + 100


@functools.lru_cache
def cached(x: int) -> int:
    return x * 3


class Opaque:
    """What cannot be pickled, and says so."""

    def __reduce__(self) -> Any:
        raise TypeError("Opaque is not for pickling")


class TwoArgumentsError(Exception):
    """An exception that pickles and does not unpickle."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")


class RefusedError(Exception):
    """An exception that carries what cannot be pickled."""

    def __init__(self) -> None:
        super().__init__("refused")
        self.what = Opaque()


def with_context(x: int, context: Context) -> dict[str, Any]:
    """Looks at its context and changes it."""
    seen = {
        "pid": os.getpid(),
        "metadata": dict(context.metadata),
        "results": dict(context.results),
    }
    context.metadata["set"] = x
    context.metadata["changed"] = "new"
    return seen


def fails_with_http() -> None:
    raise HTTPError("http://x", 404, "Not Found", Message(), Connection())  # type: ignore[arg-type]


class Connection:
    """What an HTTPError reads from, with a socket."""

    def __init__(self) -> None:
        self.socket = socket.socket()
        self.socket.close()


class Unpicklable:
    def __reduce__(self) -> Any:
        raise KeyboardInterrupt("not for pickling")


class Quits:
    def __reduce__(self) -> Any:
        raise SystemExit("not for pickling")


def refuse_to_pickle() -> Any:
    return Quits()


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value
