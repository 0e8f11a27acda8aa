"""Those who are told how a run goes. What nobody asked for costs nothing.

Drivers note events while they hold their lock, and deliver them when they do not, one at a time.
"""

from __future__ import annotations

from collections import deque
from threading import RLock

from fast_dag.errors import failures
from fast_dag.watch import log
from fast_dag.watch.events import AttemptFailed, NodeEnded, NodeStarted, Reported, RunEnded

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
    RunEnded: "run_ended",
}
"""The method of an observer that is told of each kind of event; each is optional."""


class Observers:
    """All that watch one outermost run and those nested in it: objects with some of the methods
    `node_started`, `attempt_failed`, `node_ended`, `reported` and `run_ended`, each called with the
    event.

    `total` is how many nodes the outermost run has; the fraction done counts those that ended,
    each once, and not those that were cut off.
    """

    def __init__(self, observers: list[Any], total: int) -> None:
        self._told: dict[type[Event], list[tuple[int, Callable[[Any], object]]]] = {
            kind: [(id(each), getattr(each, method)) for each in observers if hasattr(each, method)]
            for kind, method in _METHODS.items()
        }
        self._events: deque[Event] = deque()
        self._total = total
        self._running: dict[Watched, dict[str, None]] = {}  # paths in order
        self._ended: set[str] = set()
        self._over = False
        # Reentrant: a callback may cause the next event itself.
        self._lock = RLock()
        self._broken: set[int] = set()

    # What drivers note; their lock lets one at a time do so.

    def started(self, execution: Watched, path: str) -> None:
        """A node is about to be called."""
        if not self._over:  # else by a worker that was abandoned as it began
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
        elif status != "skipped":  # it ended before it was called: by a cache, or its inputs
            self._events.append(NodeStarted(execution, path, self.fraction))
        if execution.parent is None and status != "cancelled":
            self._ended.add(path)
        event = NodeEnded(execution, path, self.fraction, status, error, attempts, seconds)
        self._events.append(event)

    def cut_off(self, execution: Watched) -> None:
        """An execution ended, and so did those of its nodes that were at work."""
        for path in list(self._running.get(execution, ())):
            self.ended(execution, path, "cancelled")
        self._running.pop(execution, None)

    def go_on_from(self, ended: set[str]) -> None:
        """These ended before the run began; those that end in it are added to this set."""
        self._ended = ended

    @property
    def fraction(self) -> float:
        """How much of the outermost run is done."""
        return len(self._ended) / self._total

    # What observers are told.

    def deliver(self) -> None:
        """Tell of what was noted. Where another thread is at that, it tells of this, too: nobody
        waits for somebody else's callback."""
        while self._events and self._lock.acquire(blocking=False):
            try:
                while self._events:
                    self.tell(self._events.popleft())
            finally:
                self._lock.release()

    def tell(self, event: Event) -> None:
        """Tell of one event now; an observer that raises does no harm and is logged once."""
        with self._lock:
            if self._over:
                return
            for observer, method in self._told[type(event)]:
                try:
                    method(event)
                except failures() as error:
                    if observer not in self._broken:
                        self._broken.add(observer)
                        log.raised(event.execution, event.path or None, error)

    def close(self, execution: Watched) -> None:
        """The outermost run ended, and with it all, a callback in another thread included."""
        with self._lock:
            self.deliver()
            self.tell(RunEnded(execution, "", self.fraction))
            self._over = True
