"""One computation that several calls want at once."""

from __future__ import annotations

from threading import Event, RLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from fast_dag.run.run import Run


_waiting_lock = RLock()  # a signal handler or a finalizer may come back here
_waiting: list[tuple[Run, SingleFlight]] = []
"""Which runs wait for which computations, in this process."""


def _around(run: Run | None) -> Iterator[Run]:
    """A run, the one in whose node it was started, and so on outwards."""
    while run is not None:
        yield run
        run = run.outer


class SingleFlight:
    """A computation in progress: who computes, and who is to be told of its end.

    `result` is a tuple of the value once there is one; it stays None where the computation failed
    or was given up, and one of those that waited takes over.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.result: Sequence[Any] | None = None
        self.is_stale = False  # the cache was invalidated since it began
        self._finished = Event()
        self._lock = RLock()
        self._callbacks: list[Callable[[], None]] = []

    def is_part_of(self, run: Run) -> bool:
        """Whether `run` was started by a node of the run that computes: to wait there may be to
        wait for oneself. A node of the same run is none that the computation needs."""
        return any(each is self.run for each in _around(run.outer))

    def join(self, run: Run) -> bool:
        """Whether `run` may wait; not where this computation, in the end, waits for `run`, and not
        where an event loop would stand still meanwhile, which the computation may need."""
        if any(each.blocks_loop and each.status == "running" for each in _around(run)):
            return False
        with _waiting_lock:
            todo: list[SingleFlight] = [self]
            seen: set[SingleFlight] = {self}
            while todo:
                flight = todo.pop()
                if flight.is_part_of(run):
                    return False
                for waiter, awaited in _waiting:
                    if awaited not in seen and flight.is_part_of(waiter):
                        seen.add(awaited)
                        todo.append(awaited)
            _waiting.append((run, self))
            return True

    def leave(self, run: Run) -> None:
        """`run`, which had joined, waits no more."""
        with _waiting_lock:
            _waiting.remove((run, self))

    def wait(self) -> None:
        """Block until it ends."""
        self._finished.wait()

    def when_ready(self, callback: Callable[[], None]) -> None:
        """Call back at its end, or now, if that was."""
        with self._lock:
            if not self._finished.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def finish(self) -> None:
        """It ended."""
        with self._lock:
            self._finished.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()
