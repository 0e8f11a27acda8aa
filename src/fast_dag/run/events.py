"""Who is told how a run goes: progress callbacks, the bar, and the log of nodes. What nobody asked
for costs nothing.

Drivers note events while they hold their lock, and deliver them when they do not, one at a time.
"""

from __future__ import annotations

from collections import deque
from threading import RLock

from fast_dag._extras import needed
from fast_dag._fields import Fields
from fast_dag.errors import failures
from fast_dag.watch import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from fast_dag.run.run import Run

    class Observer(Protocol):
        """Something that is told of events, and of the end."""

        def tell(self, event: Event) -> None: ...
        def close(self, run: Run) -> None: ...


class Event(Fields):
    """Something happened to a node: `path` is its name, from the outermost run on; `seconds` how
    long it took, where it ended."""

    __slots__ = ("attempt", "error", "fraction", "path", "run", "seconds", "status")

    def __init__(
        self,
        run: Run,
        path: str,
        status: str,
        fraction: float,
        error: BaseException | None = None,
        attempt: int = 1,
        seconds: float | None = None,
    ) -> None:
        self.run = run
        self.path = path
        self.status = status
        self.fraction = fraction
        self.error = error
        self.attempt = attempt
        self.seconds = seconds


class Observers:
    """All that watch one outermost run and those nested in it.

    `total` is how many nodes the outermost run has; the fraction done counts those that ended,
    each once, and not those that were cut off.
    """

    def __init__(self, observers: list[Observer], total: int) -> None:
        self._observers = observers
        self._events: deque[Event] = deque()
        self._total = total
        self._running: dict[Run, dict[str, None]] = {}  # paths in order
        self._ended: set[str] = set()
        self._over = False
        # Reentrant: a callback may cause the next event itself.
        self._lock = RLock()
        self._broken: set[int] = set()

    def note(
        self,
        run: Run,
        path: str,
        status: str,
        error: BaseException | None = None,
        attempt: int = 1,
        seconds: float | None = None,
    ) -> None:
        """Remember an event. Calls are serialised by the driver."""
        if self._over:  # a worker that was abandoned as it began
            return
        running = self._running.setdefault(run, {})
        if status == "running":
            running[path] = None
        elif path in running:
            del running[path]
        elif status != "skipped":  # it ended before it was called: by a cache, or its inputs
            self._events.append(Event(run, path, "running", self.fraction))
        if run.parent is None and status in ("completed", "failed", "skipped"):
            self._ended.add(path)
        self._events.append(Event(run, path, status, self.fraction, error, attempt, seconds))

    def go_on_from(self, ended: set[str]) -> None:
        """These ended before the run began; those that end in it are added to this set."""
        self._ended = ended

    @property
    def fraction(self) -> float:
        """How much of the outermost run is done."""
        return len(self._ended) / self._total

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
            for observer in self._observers:
                try:
                    observer.tell(event)
                except failures() as error:
                    self._log_once(observer, event.run, event.path, error)

    def cut_off(self, run: Run) -> None:
        """A run ended: remember that those of its nodes that have not are cut off."""
        for path in list(self._running.get(run, ())):
            self.note(run, path, "cancelled")
        self._running.pop(run, None)

    def close(self, run: Run) -> None:
        """The outermost run ended, and with it all, a callback in another thread included."""
        with self._lock:
            self.deliver()
            self._over = True
            for observer in self._observers:
                try:
                    observer.close(run)
                except failures() as error:
                    self._log_once(observer, run, None, error)

    def _log_once(
        self, observer: Observer, run: Run, path: str | None, error: BaseException
    ) -> None:
        if id(observer) not in self._broken:
            self._broken.add(id(observer))
            log.raised(run, path, error)


class Progress:
    """Calls `f(node_name, status, fraction_done)`."""

    def __init__(self, callback: Callable[[str, str, float], object]) -> None:
        self.callback = callback

    def tell(self, event: Event) -> None:
        """Pass an event on."""
        self.callback(event.path, event.status, event.fraction)

    def close(self, run: Run) -> None:
        """Take a bar away."""
        if isinstance(self.callback, Bar):
            self.callback.close()


def needed_for_bars() -> Any:
    """The module that makes bars; raises MissingExtraError."""
    return needed("rich.progress", extra="progress", purpose="progress bars")


class Bar:
    """A progress bar in a terminal or notebook, by rich; silent where the output is neither."""

    def __init__(self, name: str) -> None:
        self._bar = needed_for_bars().Progress(transient=True)
        console = self._bar.console
        self._bar.disable = not (console.is_interactive or console.is_jupyter)
        self._task = self._bar.add_task(name, total=1.0)

    def __call__(self, node: str, status: str, fraction: float) -> None:
        self._bar.start()  # the first time; a run that is refused shows none
        self._bar.update(self._task, completed=fraction, description=f"{node}: {status}")

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()
