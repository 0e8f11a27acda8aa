"""The lock of a run, as each of its threads takes it."""

from __future__ import annotations

from threading import Lock, get_ident
from time import sleep
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


class Guards:
    """One lock for all that the threads of an outermost run share. No user code is called while it
    is held."""

    __slots__ = ("_home", "_lock", "_patient")

    def __init__(self) -> None:
        self._lock = Lock()
        self._patient = _Patient(self._lock)
        self._home = get_ident()

    def __call__(self) -> AbstractContextManager[object]:
        """The lock, for a `with` in the calling thread. The coordinator takes it as it is: a Ctrl-C
        between taking and entering would leave it taken forever, but for locks, which do both at
        once."""
        return self._lock if get_ident() == self._home else self._patient


class _Patient:
    """A lock as worker threads take it: who finds it taken comes back a moment later, and never
    stands in line.

    A thread in line owns the lock once it is free, and has yet to wait for the interpreter, up to
    5 ms. The one that has the interpreter soon finds the lock taken and stands in line in turn:
    from then on threads of short nodes would change places at every node."""

    __slots__ = ("_release", "_try")

    def __init__(self, lock: Lock) -> None:
        self._try, self._release = lock.acquire, lock.release

    def __enter__(self) -> None:
        while not self._try(False):
            sleep(_A_MOMENT)

    def __exit__(self, *exc_info: object) -> None:
        self._release()


_A_MOMENT = 50e-6
"""Seconds: less than what a thread waits for the interpreter anyway."""
