"""One computation that several calls want at once."""

from __future__ import annotations

from threading import Event, RLock

from fast_dag._waits import wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from fast_dag.call.host import Host


_waiting_lock = RLock()  # a signal handler or a finalizer may come back here
_waiting: list[tuple[Host, SingleFlight]] = []
"""Which executions wait for which computations, in this process."""


def _around(host: Host | None) -> Iterator[Host]:
    """An execution, the one in whose node it was started, and so on outwards."""
    while host is not None:
        yield host
        host = host.outer


class SingleFlight:
    """A computation in progress: who computes, and who is to be told of its end.

    `result` is a tuple of the value once there is one; it stays None where the computation failed
    or was given up, and one of those that waited takes over.
    """

    def __init__(self, host: Host) -> None:
        self.host = host.home
        self.result: Sequence[Any] | None = None
        self.is_stale = False  # the cache was invalidated since it began
        self._finished = Event()
        self._lock = RLock()
        self._callbacks: list[Callable[[], None]] = []

    def is_part_of(self, host: Host) -> bool:
        """Whether `host` was started by a node of the execution that computes: to wait there may be
        to wait for oneself. A node of the same execution is none that the computation needs."""
        return any(each is self.host for each in _around(host.outer))

    def join(self, host: Host) -> bool:
        """Whether `host` may wait: not if this computation, in the end, waits for `host`, and not
        if an event loop would stand still meanwhile, which the computation may need."""
        if any(each.blocks_loop for each in _around(host)):
            return False
        with _waiting_lock:
            todo: list[SingleFlight] = [self]
            seen: set[SingleFlight] = {self}
            while todo:
                flight = todo.pop()
                if flight.is_part_of(host):
                    return False
                for waiter, awaited in _waiting:
                    if awaited not in seen and flight.is_part_of(waiter):
                        seen.add(awaited)
                        todo.append(awaited)
            _waiting.append((host, self))
            return True

    def leave(self, host: Host) -> None:
        """`host`, which had joined, waits no more."""
        with _waiting_lock:
            _waiting.remove((host, self))

    def wait(self) -> None:
        """Block until it ends."""
        wait(self._finished)

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
