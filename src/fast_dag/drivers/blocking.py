"""The coordinator of a run whose caller waits in its own thread."""

from __future__ import annotations

from contextlib import suppress
from contextvars import copy_context
from heapq import heappop, heappush
from itertools import count
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING

from fast_dag.drivers.crew import Crew, Lane
from fast_dag.drivers.lanes import Lanes

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_dag.drivers.crew import Job
    from fast_dag.run import Run


def drive(run: Run) -> None:
    """Execute a run from its start to its end, in copies of the caller's contextvars."""
    copy_context().run(_Coordinator(run).drive)


class _Coordinator(Lane):
    """Keeps the time and runs inline nodes; where there is no time to keep, it is one of the
    workers."""

    def __init__(self, run: Run) -> None:
        from fast_dag.drivers.loops import ThreadedLoopLane  # asyncio is slow to import

        self.run = run
        self.crew = Crew(run)
        self.loop = ThreadedLoopLane(self.crew)
        self.lanes = Lanes(self.crew, run.settings, loop=self.loop, inline=self)
        self.crew.finish = lambda: self._inbox.put(_wake)
        self.crew.call_later = self._call_later
        self.crew.lanes = self.lanes
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._count = count()
        self._helps = run.settings.timeout is None and not run.plan.needs_coordinator

    def drive(self) -> None:
        timeout = self.run.settings.timeout
        deadline = None if timeout is None else monotonic() + timeout
        try:
            jobs = self.crew.begin()
            if self._helps:
                self._work(self.crew.go_on(jobs, self.lanes.threads))
            else:
                self.crew.go_on(jobs)
            self._coordinate(deadline)
            if self.crew.crash is not None:
                raise self.crew.crash
        except BaseException:
            self._abort("cancelled")
            self.lanes.close(abandon=True)
            raise
        else:
            self.lanes.close(abandon=self.run.status == "timed_out")
        finally:
            self.run.tell_end()

    def _coordinate(self, deadline: float | None) -> None:
        while not self.crew.over:
            now = monotonic()
            if deadline is not None and now >= deadline:
                self._abort("timed_out")
                return
            if self._timers and self._timers[0][0] <= now:
                heappop(self._timers)[2]()
                continue
            ends = [now + _SIGNALS_SEEN, deadline, self._timers[0][0] if self._timers else None]
            try:
                self._inbox.get(timeout=min(end for end in ends if end is not None) - now)()
            except Empty:
                continue

    def _abort(self, status: str) -> None:
        for hook in self.crew.abort(status):
            with suppress(Exception):  # the run's end is what its caller is told of
                if hook.is_async:
                    self.loop.wait_for(hook.func, hook.args)
                else:
                    hook.func(*hook.args)

    def _call_later(self, seconds: float, function: Callable[[], None]) -> None:
        entry = (monotonic() + seconds, next(self._count), function)
        self._inbox.put(lambda: heappush(self._timers, entry))

    # As a worker.

    def _work(self, job: Job | None) -> None:
        while job is not None:
            job = self.crew.run_here(job, self.lanes.threads)
        self.lanes.threads.rest(self._take)

    def _take(self, job: Job | None) -> None:
        self._inbox.put(lambda: self._work(job))

    # As the lane of inline nodes.

    def launch(self, job: Job) -> None:
        self._inbox.put(lambda: self._run_inline(job))

    def _run_inline(self, job: Job | None) -> None:
        while job is not None:
            job = self.crew.run_here(job, self)

    def close(self, *, abandon: bool) -> None:
        """The caller's thread is not ended."""


def _wake() -> None: ...


_SIGNALS_SEEN = 0.5
"""Seconds after which a waiting caller looks around. A signal that comes just before a thread
blocks does not end its wait (no wait in Python is safe from that), and Ctrl-C is to end a run
promptly."""
