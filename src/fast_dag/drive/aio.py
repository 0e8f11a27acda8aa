"""The coordinator of a run that is awaited. Its async nodes run on the caller's loop."""

from __future__ import annotations

import asyncio
import signal
import threading
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from fast_dag._waits import Heartbeat
from fast_dag.drive.dispatcher import Dispatcher
from fast_dag.drive.interruptions import LeftToTheLoop
from fast_dag.drive.job import Lane
from fast_dag.drive.lanes import Lanes
from fast_dag.drive.loops import LoopLane
from fast_dag.drive.places import place_lent
from fast_dag.drive.tasks import Tasks, suits
from fast_dag.drive.threads import Pool, ThreadLane, pool_size, shared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fast_dag.drive.job import Job
    from fast_dag.run.execution import Execution


async def drive(execution: Execution) -> None:
    """Execute a run, in copies of the caller's contextvars."""
    if suits(execution):
        await Tasks(execution).drive()
        return
    with place_lent():
        await _Coordinator(execution, shared()).drive()


def drive_here(execution: Execution) -> None:
    """Execute a run in async mode for a caller that waits in a thread, on a new loop."""

    coordinators: list[_Coordinator] = []

    async def watched() -> None:
        beat = Heartbeat(asyncio.get_running_loop())
        try:
            if suits(execution):
                await Tasks(execution).drive()
            else:
                coordinator = _Coordinator(execution, Pool(pool_size(execution)), owns_loop=True)
                coordinators.append(coordinator)
                await coordinator.drive()
        finally:
            beat.stop()

    with LeftToTheLoop(), asyncio.Runner() as runner:
        try:
            runner.run(watched())
        except BaseException:
            for coordinator in coordinators:
                coordinator.stop_waiting()
            raise


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C interrupt the call that is made here. The handler of `asyncio.Runner` would only
    cancel the main task, which notices that after the call."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Coordinator(Lane):
    """Waits on the loop, which keeps the time and runs inline nodes."""

    def __init__(self, execution: Execution, pool: Pool, *, owns_loop: bool = False) -> None:
        self.execution = execution
        self._owns_loop = owns_loop
        loop = asyncio.get_running_loop()
        self.dispatcher = dispatcher = Dispatcher(execution, loop.time)
        self.loop = LoopLane(dispatcher, loop, threading.get_ident())
        threads = ThreadLane(dispatcher, pool, execution.settings.max_workers or 0)
        self.lanes = Lanes(dispatcher, execution.settings, threads, loop=self.loop, inline=self)
        self._handle: asyncio.TimerHandle | None = None  # for the timer that is due first
        self._cancelled: asyncio.CancelledError | None = None
        self._done = asyncio.Event()
        self._waits = True
        dispatcher.lanes = self.lanes
        dispatcher.finish = lambda: self._wakes(self._done.set)
        dispatcher.soon = lambda function: self._later(self._guarded, function)
        dispatcher.timers.is_earlier = lambda: self._wakes(self._arm)

    async def drive(self) -> None:
        """Execute the run. A cancellation cuts it short, and is raised when the run has ended. A
        second cancellation meanwhile changes nothing."""
        dispatcher = self.dispatcher
        self.execution.open()
        try:
            self.lanes.open()
            self._guarded(lambda: dispatcher.go_on(dispatcher.begin()))
            await self._until(self._done)
            if dispatcher.is_killed:  # some calls have not ended
                self.loop.cancel_all()
                self.lanes.threads.abandon()
            await self._closed()
        except BaseException:  # the loop was closed, and this coroutine with it
            dispatcher.kill()
            self.loop.cancel_all()
            self.lanes.close(abandon=True)
            raise
        finally:
            self._disarm()
            dispatcher.let_go()
            del self.lanes  # they refer to this coordinator: that would be a cycle
            self.execution.tell_end()
        if dispatcher.crash is not None:
            raise dispatcher.crash
        if self._cancelled is not None:
            raise self._cancelled

    def stop_waiting(self) -> None:
        """Wait for nothing any more: Ctrl-C has stopped the loop, maybe in the callback that would
        have set the event that is waited for."""
        self._waits = False
        self.dispatcher.kill()  # unless it has ended

    async def _until(self, event: asyncio.Event) -> None:
        while self._waits and not event.is_set():
            try:
                await event.wait()
            except asyncio.CancelledError as error:
                self._cancelled = error
                self.dispatcher.abort("cancelled")

    async def _closed(self) -> None:
        """Close the lanes without blocking the loop."""
        quiet = asyncio.Event()
        self.lanes.threads.when_quiet(lambda: self.loop.soon(quiet.set))
        await self._until(quiet)
        elsewhere = self.lanes.elsewhere
        self.lanes.threads.close(abandon=False)  # does not block: all threads are idle by now
        if elsewhere:
            closed = asyncio.Event()

            def close() -> None:
                for lane in elsewhere:
                    lane.close(abandon=self.dispatcher.ending is not None)
                self.loop.soon(closed.set)

            threading.Thread(target=close, name="fast_dag closing", daemon=True).start()
            await self._until(closed)

    def _wakes(self, function: Callable[[], object]) -> None:
        """Call what wakes the loop; nothing, if that was closed under the run."""
        if not self.loop.loop.is_closed():
            self.loop.soon(function)

    # Time.

    def _later(self, function: Callable[..., object], *args: Any) -> None:
        self.loop.loop.call_soon_threadsafe(function, *args)

    def _guarded(self, function: Callable[[], object]) -> None:
        try:
            function()
        except BaseException as error:
            self.dispatcher.break_off(error)

    def _arm(self) -> None:
        """Have the loop call back when the first timer is due."""
        self._disarm()
        due = self.dispatcher.timers.next()
        if due is not None:
            self._handle = self.loop.loop.call_at(due, self._ring)

    def _disarm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _ring(self) -> None:
        for callback in self.dispatcher.timers.due():
            self._guarded(callback)
        self._arm()

    # As the lane of inline nodes.

    def launch(self, job: Job) -> None:
        self._later(self._run_inline, job, job.generation)

    def _run_inline(self, job: Job | None, generation: int) -> None:
        variables = self.dispatcher.variables.copy()
        try:
            with _interruptible() if self._owns_loop else nullcontext():
                while job is not None:
                    job = variables.run(self.dispatcher.run_here, job, generation, self)
                    if job is not None:
                        generation = job.generation
        except BaseException as error:
            self.dispatcher.break_off(error)
