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
        """The lock, for a `with` statement in the calling thread.

        The coordinator gets the plain lock. It may run in the main thread, where Ctrl-C can come
        between two Python instructions: an `__enter__` written in Python could then leave the lock
        locked forever."""
        return self._lock if get_ident() == self._home else self._patient


class _Patient:
    """The lock, as worker threads take it: a thread that finds it locked tries again a moment
    later, and never queues for it.

    A queued thread gets the lock as soon as it is free, but must then wait up to 5 ms for the
    interpreter. The thread that has the interpreter soon finds the lock locked, and queues in turn.
    From then on threads of short nodes would change places at every node."""

    __slots__ = ("_release", "_try")

    def __init__(self, lock: Lock) -> None:
        self._try, self._release = lock.acquire, lock.release

    def __enter__(self) -> None:
        while not self._try(False):
            sleep(_A_MOMENT)

    def __exit__(self, *exc_info: object) -> None:
        self._release()


_A_MOMENT = 50e-6
"""Seconds until the next try: less than a thread waits for the interpreter anyway."""
