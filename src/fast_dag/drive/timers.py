"""Timers: a heap of callbacks by the time when they are due. Each can be cancelled. Stopwatch: the
time of a run."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import count
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Timer:
    """One callback that is due at some time. Once cancelled, it refers to nothing."""

    __slots__ = ("_timers", "callback")

    def __init__(self, timers: Timers, callback: Callable[[], None]) -> None:
        self._timers = timers
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Do not call back."""
        self._timers._drop(self)


class Timers:
    """The timers of one outermost run. Safe to use from several threads.

    `clock` returns the time in seconds. `is_earlier` is called when a timer was added that is due
    before all others; the coordinator, which keeps the time, must then ask `next` again.

    >>> timers = Timers()
    >>> first, second = timers.add(0, lambda: None), timers.add(60, lambda: None)
    >>> first.cancel()
    >>> timers.due(), round(timers.next() - monotonic())
    ([], 60)
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self.is_earlier: Callable[[], None] = _nobody_waits
        self._heap: list[tuple[float, int, Timer]] = []
        self._count = count()
        self._cancelled = 0
        self._lock = Lock()

    def add(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Have `callback` called in so many seconds."""
        timer = Timer(self, callback)
        entry = (self._clock() + seconds, next(self._count), timer)
        with self._lock:
            heappush(self._heap, entry)
            is_first = self._heap[0] is entry
        if is_first:
            self.is_earlier()
        return timer

    def _drop(self, timer: Timer) -> None:
        with self._lock:
            if timer.callback is None:
                return
            timer.callback = None
            self._cancelled += 1
            if self._cancelled > _FEW and 2 * self._cancelled > len(self._heap):
                self._heap = [entry for entry in self._heap if entry[2].callback is not None]
                heapify(self._heap)
                self._cancelled = 0

    def next(self) -> float | None:
        """When the next timer is due, by the clock; None if there is none."""
        with self._lock:
            while self._heap and self._heap[0][2].callback is None:
                heappop(self._heap)
                self._cancelled -= 1
            return self._heap[0][0] if self._heap else None

    def due(self) -> list[Callable[[], None]]:
        """Remove the timers that are due now, and return their callbacks."""
        callbacks: list[Callable[[], None]] = []
        now = self._clock()
        with self._lock:
            while self._heap and self._heap[0][0] <= now:
                timer = heappop(self._heap)[2]
                if timer.callback is None:
                    self._cancelled -= 1
                else:
                    callbacks.append(timer.callback)
                    timer.callback = None
        return callbacks

    def clear(self) -> None:
        """Cancel all timers."""
        with self._lock:
            for *_, timer in self._heap:
                timer.callback = None
            self._heap.clear()
            self._cancelled = 0
            self.is_earlier = _nobody_waits


class Stopwatch:
    """The time of a run, in seconds, for its timeouts. It stands still while the run commits to a
    store. Whoever stops it holds the lock of the run. Whoever reads it without the lock may read a
    time that is too early, but none that is too late.

    >>> seconds = [10.0]
    >>> watch = Stopwatch(lambda: seconds[0])
    >>> watch.stop(); seconds[0] = 15.0; watch(), watch.stands
    (10.0, True)
    >>> watch.go_on(); seconds[0] = 16.0; watch(), watch.stands
    (11.0, False)
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._stops = 0
        self._since = 0.0  # when it was stopped
        self._lost = 0.0  # for how long it stood still before

    def __call__(self) -> float:
        """The time now."""
        return (self._since if self._stops else self._clock()) - self._lost

    @property
    def stands(self) -> bool:
        """Whether it stands still."""
        return self._stops > 0

    def stop(self) -> None:
        """Stand still until `go_on` was called as often as this."""
        if not self._stops:
            self._since = self._clock()
        self._stops += 1

    def go_on(self) -> None:
        """Go on, if nobody else has stopped it."""
        if self._stops == 1:
            self._lost += self._clock() - self._since
        self._stops -= 1


_FEW = 64
"""Up to so many cancelled timers stay in the heap, because removing them takes longer."""


def _nobody_waits() -> None: ...
