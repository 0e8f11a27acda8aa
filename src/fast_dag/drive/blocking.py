"""The coordinator of a run whose caller waits in a thread."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING

from fast_dag._waits import SIGNALS_SEEN
from fast_dag.drive.dispatcher import GRACE, Dispatcher, is_call
from fast_dag.drive.interruptions import Interruptions
from fast_dag.drive.job import Lane
from fast_dag.drive.lanes import Lanes
from fast_dag.drive.threads import Pool, ThreadLane, pool_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_dag.drive.job import Job
    from fast_dag.drive.threads import Call
    from fast_dag.run.execution import Execution

_RESPONSE = 1.0
"""Seconds in which the loop of a run that is cut short must respond; else it is abandoned."""


class _Inbox:
    """What a thread is to call, in order. What is put there is not lost if Ctrl-C interrupts the
    thread as it waits: a queue would have given it away by then."""

    def __init__(self) -> None:
        self._functions: deque[Callable[[], None]] = deque()
        self._bell: SimpleQueue[None] = SimpleQueue()

    def put(self, function: Callable[[], None]) -> None:
        self._functions.append(function)
        self._bell.put(None)

    def next(self, timeout: float) -> Callable[[], None]:
        """What to call next, for which the thread waits; a function that does nothing if it waited
        in vain."""
        functions = self._functions
        with suppress(Empty):
            self._bell.get(not functions, timeout)
        return functions.popleft() if functions else _look_again


def drive(execution: Execution) -> None:
    """Execute a run, in copies of the caller's contextvars."""
    copy_context().run(_Coordinator(execution).drive)


class _Coordinator(Lane):
    """Keeps the time and runs inline nodes. If there is no time to keep, it also works as one of
    the worker threads."""

    def __init__(self, execution: Execution) -> None:
        from fast_dag.drive.loops import ThreadedLoopLane  # asyncio is slow to import

        self.execution = execution
        self.dispatcher = dispatcher = Dispatcher(execution)
        self.loop = ThreadedLoopLane(dispatcher)
        self.pool = Pool(pool_size(execution))
        self.threads = ThreadLane(dispatcher, self.pool)
        self.lanes = Lanes(
            dispatcher, execution.settings, self.threads, loop=self.loop, inline=self
        )
        self._inbox = _Inbox()
        # Inline nodes may keep the caller's thread busy, so another thread keeps the time then,
        # unless nodes run one at a time.
        self._is_apart = execution.plan.has_inline and not execution.settings.ordered
        self._inline = _Inbox() if self._is_apart else self._inbox
        self._finished = False
        self._cut_short: float | None = None  # when this thread saw that the run was cut short
        self._helps = execution.settings.timeout is None and not execution.plan.needs_coordinator
        dispatcher.lanes = self.lanes
        dispatcher.finish = self._finish
        dispatcher.soon = self._inbox.put
        dispatcher.timers.is_earlier = lambda: self._inbox.put(_look_again)

    def drive(self) -> None:
        """Execute the run. An exception that interrupts the caller, such as KeyboardInterrupt, cuts
        the run short, and is raised when the run has ended. A second one ends the run at once."""
        self.execution.open()
        with Interruptions(partial(is_call, outermost=_DRIVE), self._cut_short_by):
            self._drive()

    def _drive(self) -> None:
        dispatcher = self.dispatcher
        todo, serve = self._begin, self._serve_inline if self._is_apart else self._serve
        try:
            while not self._finished:
                try:
                    todo()
                    todo = serve
                except BaseException as error:
                    todo = serve
                    self._cut_short_by(error)
        finally:
            dispatcher.kill()  # does nothing if the run has ended
            self.lanes.close(abandon=dispatcher.is_killed)
            dispatcher.let_go()
            del self.lanes  # they refer to this coordinator: that would be a cycle
            self.execution.tell_end()
        if dispatcher.crash is not None:
            raise dispatcher.crash

    def _cut_short_by(self, error: BaseException) -> None:
        if self.dispatcher.crash is not None:
            self.dispatcher.kill()
        self.dispatcher.fail(error)

    def _begin(self) -> None:
        self.lanes.open()
        jobs = self.dispatcher.begin()
        if self._is_apart:
            threading.Thread(target=self._serve_apart, name="fast_dag time", daemon=True).start()
        if not self._helps:
            self.dispatcher.go_on(jobs)
            return
        job = self.dispatcher.go_on(jobs, self.threads)
        call = None if job is None else self.threads.new_call(job)
        if call is not None:
            self.pool.give_place(call)
        self._work(call)

    def _finish(self) -> None:
        self._finished = True
        self._inbox.put(_look_again)
        self._inline.put(_look_again)

    def _serve(self) -> None:
        """Call what is due and what is put into the inbox, until the run has ended."""
        timers = self.dispatcher.timers
        while not self._finished:
            for callback in timers.due():
                callback()
            now = monotonic()
            ends = [now + SIGNALS_SEEN]
            if (due := timers.next()) is not None:
                ends.append(due)
            if self.dispatcher.ending is not None:
                ends.append(self._lose_patience(now))
            self._inbox.next(max(min(ends) - now, 0.0))()

    def _serve_apart(self) -> None:
        while not self._finished:
            try:
                copy_context().run(self._serve)
            except BaseException as error:
                self.dispatcher.fail(error)

    def _serve_inline(self) -> None:
        """Run inline nodes until the run has ended."""
        while not self._finished:
            self._inline.next(SIGNALS_SEEN)()

    def _lose_patience(self, now: float) -> float:
        """Kill a run that was cut short if it has not ended by itself in time. Returns when to look
        again."""
        if self._cut_short is None:
            self._cut_short = now
            self.loop.ask()
        patience = GRACE + _RESPONSE if self.loop.responds else _RESPONSE
        end = self._cut_short + patience
        if now >= end:
            self.dispatcher.kill()
        return end

    # As a worker.

    def _work(self, call: Call | None) -> None:
        if call is None:
            self.pool.lend(self._take)
        while call is not None:
            call.make()
            call, _ = self.pool.rested(call, self._take)

    def _take(self, call: Call | None) -> None:
        if call is not None:
            self._inbox.put(lambda: self._work(call))

    # As the lane of inline nodes.

    def launch(self, job: Job) -> None:
        generation = job.generation
        self._inline.put(lambda: self._run_inline(job, generation))

    def _run_inline(self, job: Job | None, generation: int) -> None:
        while job is not None:
            job = self.dispatcher.run_here(job, generation, self)
            if job is not None:
                generation = job.generation


_DRIVE = _Coordinator._drive.__code__


def _look_again() -> None: ...
