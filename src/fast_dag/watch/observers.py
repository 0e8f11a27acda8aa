"""Observers: delivers the events of a run to the objects that watch it.

Drivers note events while they hold their lock. They deliver them later, when they hold no lock, one
at a time. A run without observers has no Observers, so it pays nothing.
"""

from __future__ import annotations

from collections import deque
from threading import RLock

from fast_dag.errors import failures
from fast_dag.watch import log
from fast_dag.watch.events import (
    Advanced,
    AttemptFailed,
    NodeEnded,
    NodeStarted,
    Reported,
    RunEnded,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    from fast_dag.watch.events import Event, Watched

_METHODS: Final = {
    NodeStarted: "node_started",
    AttemptFailed: "attempt_failed",
    NodeEnded: "node_ended",
    Reported: "reported",
    Advanced: "reported",
    RunEnded: "run_ended",
}
"""The method of an observer that is called with each kind of event. All are optional."""


class Observers:
    """The observers of one outermost run and of the runs nested in it.

    An observer is an object with some of the methods `node_started`, `attempt_failed`,
    `node_ended`, `reported` and `run_ended`, which are called with the event.

    `total` is the number of nodes of the outermost run. The fraction done counts each of its nodes
    that ended once, and of a map that runs the share of its items that ended; nodes that were
    cancelled do not count.
    """

    def __init__(self, observers: list[Any], total: int) -> None:
        self._callbacks: dict[type[Event], list[tuple[int, Callable[[Any], object]]]] = {
            kind: [(id(each), getattr(each, method)) for each in observers if hasattr(each, method)]
            for kind, method in _METHODS.items()
        }
        self._events: deque[Event] = deque()
        self._total = total
        self._running: dict[Watched, dict[str, None]] = {}  # paths in order
        self._ended: set[str] = set()
        self._shares: dict[str, float] = {}  # of maps that run, by path
        self._over = False
        self._told_fraction = 0.0  # of the last event that was told, so that it never goes back
        # Reentrant because a callback may itself cause the next event.
        self._lock = RLock()
        self._broken: set[int] = set()

    # Called by drivers, one call at a time, because the driver's lock is held.

    def started(self, execution: Watched, path: str) -> None:
        """A node is about to be called."""
        if not self._over:  # a worker that was abandoned may call this after the end
            self._running.setdefault(execution, {})[path] = None
            self._events.append(NodeStarted(execution, path, self.fraction))

    def ended(
        self,
        execution: Watched,
        path: str,
        status: str,
        error: BaseException | None = None,
        attempts: int = 1,
        seconds: float | None = None,
    ) -> None:
        """A node ended."""
        if self._over:
            return
        running = self._running.setdefault(execution, {})
        if path in running:
            del running[path]
        elif status != "skipped":  # it ended before its start was noted
            self._events.append(NodeStarted(execution, path, self.fraction))
        if execution.parent is None and status != "cancelled":
            self._ended.add(path)
            self._shares.pop(path, None)
        event = NodeEnded(execution, path, self.fraction, status, error, attempts, seconds)
        self._events.append(event)

    def failed(self, execution: Watched, path: str, error: BaseException, attempt: int) -> None:
        """An attempt failed, and another follows. Unlike the other events, this may be noted by
        several threads at once; `tell` knows how much is done."""
        self._events.append(AttemptFailed(execution, path, 0.0, error, attempt))

    def progressed(self, execution: Watched, path: str, status: str, share: float) -> None:
        """A map went on; `share` is how much of it is done. Noted by one thread at a time."""
        if self._over:
            return
        if execution.parent is None:
            self._shares[path] = share
        self._events.append(Advanced(execution, path, self.fraction, status))

    def cut_off(self, execution: Watched) -> None:
        """An execution ended. Its nodes that were still running are cancelled."""
        for path in list(self._running.get(execution, ())):
            self.ended(execution, path, "cancelled")
        self._running.pop(execution, None)

    def go_on_from(self, ended: set[str]) -> None:
        """Use `ended`, a set of the paths that ended before this run began. Paths that end in this
        run are added to the same set."""
        self._ended = ended

    @property
    def fraction(self) -> float:
        """The part of the outermost run that is done, from 0.0 to 1.0."""
        return (len(self._ended) + sum(self._shares.values())) / self._total

    # Calls of observers.

    def deliver(self) -> None:
        """Tell the observers of the events that were noted. If another thread is already doing
        this, it takes over these events, too: no thread waits for another one's callback."""
        while self._events and self._lock.acquire(blocking=False):
            try:
                while self._events:
                    self.tell(self._events.popleft())
            finally:
                self._lock.release()

    def tell(self, event: Event) -> None:
        """Tell the observers of one event now. An observer that raises does not harm the run; the
        first error of each is logged."""
        with self._lock:
            if self._over:
                return
            if isinstance(event, AttemptFailed):
                event.fraction = self._told_fraction
            elif type(event) is not Reported:
                self._told_fraction = event.fraction
            for observer, method in self._callbacks[type(event)]:
                try:
                    method(event)
                except failures() as error:
                    if observer not in self._broken:
                        self._broken.add(observer)
                        log.raised(event.execution, event.path or None, error)

    def close(self, execution: Watched) -> None:
        """The outermost run ended: deliver the last events, and none after them. Waits for a
        callback that another thread is calling."""
        with self._lock:
            self.deliver()
            self.tell(RunEnded(execution, "", self.fraction))
            self._over = True
