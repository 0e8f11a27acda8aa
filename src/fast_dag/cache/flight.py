"""One computation that several calls want at once."""

from __future__ import annotations

from threading import Event, Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_dag.run import Run


class Flight:
    """A computation in progress: who computes, and who is to be told of its end.

    `result` is a tuple of the value once there is one; it stays None where the computation failed
    or was given up, and one of those that waited takes over.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.result: tuple[Any] | None = None
        self.is_stale = False  # the cache was invalidated since it began
        self._landed = Event()
        self._lock = Lock()
        self._callbacks: list[Callable[[], None]] = []

    def is_part_of(self, run: Run) -> bool:
        """Whether waiting in `run` would be waiting for oneself."""
        at: Run | None = run
        while at is not None:
            if at is self.run:
                return True
            at = at.outer
        return False

    def wait(self) -> None:
        """Block until it ends."""
        self._landed.wait()

    def when_landed(self, callback: Callable[[], None]) -> None:
        """Call back at its end, or now, if that was."""
        with self._lock:
            if not self._landed.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def land(self) -> None:
        """It ended."""
        with self._lock:
            self._landed.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()
