"""Event loops: async nodes as tasks, each of which follows the chain it is on."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from fast_dag.call.effects import ONE_SHOT, STOPPED, Outcome
from fast_dag.drivers.crew import Lane, timed_out
from fast_dag.run import current_run

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from fast_dag.drivers.crew import Crew, Job


async def cancel_all(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait for them."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    while not all(task.done() for task in tasks):
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            continue  # being cancelled once more does not end the wait for them


class LoopLane(Lane):
    """Tasks on a running loop, which may belong to another thread than the one that launches."""

    def __init__(
        self,
        crew: Crew,
        loop: asyncio.AbstractEventLoop,
        thread: int,
        known_as: Lane | None = None,
    ) -> None:
        self.crew = crew
        self._known_as = known_as or self  # the lane that jobs name
        self.loop = loop
        self._thread = thread
        self._tasks: dict[Job, asyncio.Task[None]] = {}

    def launch(self, job: Job) -> None:
        self._soon(self._start, job)

    def adopt(self, job: Job, turn: int, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Await what a sync function returned, as the end of its call."""
        self._soon(self._start, job, turn, coroutine)

    def _soon(self, function: Any, *args: Any) -> None:
        if threading.get_ident() == self._thread:
            function(*args)
        else:
            self.loop.call_soon_threadsafe(function, *args)

    def _start(
        self, job: Job, turn: int = 0, coroutine: Coroutine[Any, Any, Any] | None = None
    ) -> None:
        if self.crew.over:  # the run ended while this was on its way here
            if coroutine is not None:
                coroutine.close()
            return
        variables = job.variables or self.crew.variables.copy()
        call = self._work(job) if coroutine is None else self._end_of(job, turn, coroutine)
        self._tasks[job] = self.loop.create_task(call, context=variables)

    async def _work(self, job: Job) -> None:
        try:
            await self._follow(job)
        except Exception as error:  # nobody else would see it
            self.crew.fail(error)

    async def _follow(self, job: Job) -> None:
        """Make a job's call, and then those of the jobs of this lane that it made ready."""
        crew = self.crew
        following: Job | None = job
        while following is not None:
            job = following
            if not crew.begins(job):
                jobs: list[Job] | None = crew.ended(job, job.turn, STOPPED)
            elif job.is_plain:
                jobs = await self._follow_plain(job)
            else:
                jobs = await self._called(job)
            task = self._tasks.pop(job, None)
            if jobs is None:
                return
            following = crew.go_on(jobs, self._known_as)
            if following is not None and following.variables is not None:
                self.launch(following)  # in its own contextvars
                return
            if following is not None and task is not None:
                self._tasks[following] = task

    async def _called(self, job: Job) -> list[Job] | None:
        """Make a job's call; the jobs to launch, None where nobody wants to know any more."""
        turn = job.turn
        outcome = await self._outcome(job, turn, None)
        return None if outcome is None else self.crew.ended(job, turn, outcome)

    async def _follow_plain(self, job: Job) -> list[Job] | None:
        """Make the plain call of a job, and those that it leads to one by one; the jobs to
        launch."""
        crew, guard = self.crew, self.crew.guard()
        current_run.set(job.run)
        while True:
            turn = job.turn
            try:
                value = await job.func(*job.args, **job.kwargs)
            except Exception as error:
                return crew.ended(job, turn, Outcome(False, error))
            except BaseException as error:
                self._cut_off(job, turn, error)
                return None
            if value.__class__ in ONE_SHOT:
                return crew.ended(job, turn, Outcome(True, value))
            goes_on, jobs = crew.went_on(job, turn, value, guard)
            if not goes_on:
                return jobs
            if jobs:
                crew.go_on(jobs)

    async def _end_of(self, job: Job, turn: int, coroutine: Coroutine[Any, Any, Any]) -> None:
        outcome = await self._outcome(job, turn, coroutine)
        self._tasks.pop(job, None)
        if outcome is not None:
            try:
                self.crew.go_on(self.crew.ended(job, turn, outcome))
            except Exception as error:  # nobody else would see it
                self.crew.fail(error)

    async def _outcome(
        self, job: Job, turn: int, coroutine: Coroutine[Any, Any, Any] | None
    ) -> Outcome | None:
        """How an async call ends; None where nobody wants to know any more."""
        current_run.set(job.run)
        scope: asyncio.Timeout | None = None
        try:
            if coroutine is not None:  # watched since the sync function was called
                return Outcome(True, await coroutine)
            if job.timeout is None:
                return Outcome(True, await job.func(*job.args, **job.kwargs))
            async with asyncio.timeout(job.timeout) as scope:
                return Outcome(True, await job.func(*job.args, **job.kwargs))
        except Exception as error:
            late = scope is not None and isinstance(error, TimeoutError) and scope.expired()
            return Outcome(False, timed_out(job) if late else error)
        except BaseException as error:
            self._cut_off(job, turn, error)
            return None

    def _cut_off(self, job: Job, turn: int, error: BaseException) -> None:
        """A call was cancelled, which ends the run unless that asked for it."""
        if not self.crew.over and job.turn == turn:
            self.crew.fail(error)

    def give_up(self, job: Job) -> None:
        self._soon(self._cancel, job)

    def _cancel(self, job: Job) -> None:
        task = self._tasks.pop(job, None)
        if task is not None:
            task.cancel()

    async def cancel_all(self) -> None:
        """Cancel the tasks and wait for them."""
        await cancel_all(self._tasks.values())

    def close(self, *, abandon: bool) -> None:
        """The owner of the loop awaits `cancel_all`."""


class ThreadedLoopLane(Lane):
    """A loop of the run's own, in a thread that starts when it is first needed."""

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self._lock = threading.Lock()
        self._lane: LoopLane | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def launch(self, job: Job) -> None:
        lane = self._started()
        if lane is not None:
            lane.launch(job)

    def adopt(self, job: Job, turn: int, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Await what a sync function returned, as the end of its call."""
        lane = self._started()
        if lane is None:
            coroutine.close()
        else:
            lane.adopt(job, turn, coroutine)

    def wait_for(self, func: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Call a coroutine function on the loop while this thread waits; raises TimeoutError where
        something blocks the loop."""
        lane = self._started()
        if lane is None:
            return None
        responds = threading.Event()
        lane.loop.call_soon_threadsafe(responds.set)
        if not responds.wait(_GRACE):
            raise TimeoutError("the event loop is blocked")
        return asyncio.run_coroutine_threadsafe(func(*args), lane.loop).result()

    def give_up(self, job: Job) -> None:
        with self._lock:
            if self._lane is not None and not self._closed:
                self._lane.give_up(job)

    def _started(self) -> LoopLane | None:
        """The lane on the running loop; None where the run ended while a job was on its way."""
        with self._lock:
            if self._closed:
                return None
            if self._lane is None:
                ready = threading.Event()
                self._thread = threading.Thread(
                    target=self._run, args=(ready,), name="fast_dag loop", daemon=True
                )
                self._thread.start()
                ready.wait()
            return self._lane

    def _run(self, ready: threading.Event) -> None:
        with asyncio.Runner() as runner:
            runner.run(self._serve(ready))

    async def _serve(self, ready: threading.Event) -> None:
        loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        self._lane = LoopLane(self.crew, loop, threading.get_ident(), known_as=self)
        ready.set()
        await self._closing.wait()
        await self._lane.cancel_all()

    def close(self, *, abandon: bool) -> None:
        with self._lock:
            self._closed = True
            if self._lane is None or self._thread is None:
                return
        self._lane.loop.call_soon_threadsafe(self._closing.set)
        # A loop that an async node blocks cannot be cancelled: it is abandoned like a thread.
        self._thread.join(_GRACE if abandon else None)


_GRACE = 1.0  # seconds
