"""Event loops: async nodes run as tasks. A task goes on with the nodes that follow its own."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from time import perf_counter
from types import coroutine as as_coroutine
from typing import TYPE_CHECKING, Any, cast

from fast_dag.call.effects import ONE_SHOT, STOPPED, Outcome
from fast_dag.drive.job import CANCELLED, Lane
from fast_dag.run.execution import current
from fast_dag.run.turns import turn_ends

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from fast_dag.drive.dispatcher import Dispatcher
    from fast_dag.drive.job import Job

UNWINDING = 1.0
"""Seconds that a call cancelled by somebody else has to unwind before it is cancelled again."""


class LoopLane(Lane):
    """Makes calls as tasks on a running loop, which may run in another thread than the caller."""

    ends_calls = True  # by cancelling their tasks

    def __init__(
        self,
        dispatcher: Dispatcher,
        loop: asyncio.AbstractEventLoop,
        thread: int,
        known_as: Lane | None = None,
    ) -> None:
        self.dispatcher = dispatcher
        self._known_as = known_as  # the lane that jobs have in `lane`, if it is not this one
        self.loop = loop
        self._thread = thread
        self._tasks: set[asyncio.Task[None]] = set()  # kept, because a loop refers to them weakly
        # The tasks that are inside of a call, with its generation; None if one follows the other.
        self._inside: dict[Job, tuple[int | None, asyncio.Task[Any]]] = {}

    def launch(self, job: Job) -> None:
        self.soon(self._start, job, job.generation, None)

    def adopt(self, job: Job, generation: int, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Await the coroutine that a job's sync function returned."""
        self.soon(self._start, job, generation, coroutine)

    def soon(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function in the loop's thread; at once if this is that thread."""
        if threading.get_ident() == self._thread:
            function(*args)
            return
        try:
            self.loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop was closed before the run had ended
            self.dispatcher.kill()

    def _start(self, job: Job, generation: int, coroutine: Coroutine[Any, Any, Any] | None) -> None:
        if self.dispatcher.over:  # the run ended before this was called
            if coroutine is not None:
                coroutine.close()
            return
        variables = job.variables or self.dispatcher.variables.copy()
        task = self.loop.create_task(self._work(job, generation, coroutine), context=variables)
        if not task.done():  # with an eager task factory, it may have ended
            self._tasks.add(task)
            task.add_done_callback(partial(self._done, job, generation, coroutine))

    def _done(
        self,
        job: Job,
        generation: int,
        coroutine: Coroutine[Any, Any, Any] | None,
        task: asyncio.Task[None],
    ) -> None:
        self._tasks.discard(task)
        if task.cancelled():  # somebody else cancelled it before its first step
            if coroutine is not None:
                coroutine.close()
            self.dispatcher.go_on(
                self.dispatcher.ended(job, generation, self._failed(job, asyncio.CancelledError()))
            )

    async def _work(
        self, job: Job, generation: int, coroutine: Coroutine[Any, Any, Any] | None
    ) -> None:
        try:
            await self._follow(job, generation, coroutine)
        except BaseException as error:  # nobody awaits this task, so nobody else would see it
            self.dispatcher.break_off(error)

    async def _follow(
        self, job: Job, generation: int, coroutine: Coroutine[Any, Any, Any] | None
    ) -> None:
        """Make a job's call, and then the calls of jobs of this lane that became ready by it."""
        dispatcher = self.dispatcher
        task = asyncio.current_task()
        assert task is not None
        until = turn_ends()
        following: Job | None = job
        while following is not None:
            job = following
            begins = coroutine is not None or dispatcher.begins(job, generation)
            if begins and job.is_plain and coroutine is None:
                jobs = await self._follow_plain(job, generation, task)
            else:
                outcome = STOPPED
                if begins:
                    try:
                        outcome = await self._outcome(job, generation, coroutine, task)
                    finally:  # also if the loop was closed, so that nothing else follows
                        dispatcher.returned(job, generation)
                if job.variables is not None:
                    # The job goes on outside of this task. The task has entered the job's
                    # contextvars, and another thread could not enter them for the next call.
                    self.loop.call_soon(
                        self._ended, job, generation, outcome, context=dispatcher.variables
                    )
                    return
                jobs = dispatcher.ended(job, generation, outcome)
            coroutine = None
            # A task that was cancelled must not make further calls: cancel scopes in them would
            # not work.
            following = dispatcher.go_on(
                jobs, None if task.cancelling() else self._known_as or self
            )
            if following is None:
                return
            generation = following.generation
            if following.variables is not None or following.execution is not job.execution:
                self.launch(following)  # in its own contextvars
                return
            if perf_counter() > until:
                until = await let_others_go()

    def _ended(self, job: Job, generation: int, outcome: Outcome) -> None:
        try:
            following = self.dispatcher.go_on(
                self.dispatcher.ended(job, generation, outcome), self._known_as or self
            )
        except BaseException as error:  # nobody else would see it in a callback of the loop
            self.dispatcher.break_off(error)
        else:
            if following is not None:
                self._start(following, following.generation, None)

    async def _follow_plain(self, job: Job, generation: int, task: asyncio.Task[Any]) -> list[Job]:
        """Make the plain call of a job, and then those of the plain nodes that follow it. Returns
        the jobs to go on with."""
        dispatcher, guard, inside = self.dispatcher, self.dispatcher.guard(), self._inside
        current.set(job.execution)
        until = turn_ends()
        inside[job] = None, task
        try:
            while True:
                try:
                    value = await job.func(*job.args, **job.kwargs)
                except BaseException as error:
                    return dispatcher.ended(job, generation, self._failed(job, error))
                if ONE_SHOT[type(value)]:
                    return dispatcher.ended(job, generation, Outcome(True, value))
                goes_on, jobs = dispatcher.went_on(job, generation, value, guard)
                del value  # so that deleting it from the results frees it
                if not goes_on:
                    return jobs
                generation = job.generation
                if jobs:
                    dispatcher.go_on(jobs)
                if job.started > until:
                    del inside[job]
                    until = await let_others_go()
                    if not dispatcher.begins(job, generation):
                        return dispatcher.ended(job, generation, STOPPED)
                    inside[job] = None, task
        finally:
            inside.pop(job, None)

    async def _outcome(
        self,
        job: Job,
        generation: int,
        coroutine: Coroutine[Any, Any, Any] | None,
        task: asyncio.Task[Any],
    ) -> Outcome:
        """Make an async call, or await `coroutine`. Returns the outcome."""
        current.set(job.execution)
        self._inside[job] = generation, task
        scope: _Deadline | None = None
        try:
            if coroutine is None:
                coroutine = cast("Coroutine[Any, Any, Any]", job.func(*job.args, **job.kwargs))
                deadline = None if job.timeout is None else self.loop.time() + job.timeout
            else:  # the deadline was set when the sync function was called
                deadline, job.deadline = job.deadline, None
            if deadline is None:
                return Outcome(True, await coroutine)
            scope = _Deadline(self.loop, task, deadline)
            return Outcome(True, await scope.watched(coroutine))
        except BaseException as error:
            return self._failed(job, error)
        finally:
            self._inside.pop(job, None)
            if scope is not None and scope.end():
                job.is_late = True

    def _failed(self, job: Job, error: BaseException) -> Outcome:
        """The outcome of a call that raised. A CancelledError is a failure, unless this run
        cancelled the call. An exception that is not a failure ends the run."""
        if isinstance(error, asyncio.CancelledError):
            if job.phase is CANCELLED or self.dispatcher.over:
                return STOPPED
        elif isinstance(error, GeneratorExit) and self.loop.is_closed():
            self.dispatcher.kill()  # the loop was closed before the run had ended
            return STOPPED
        elif not isinstance(error, Exception):
            self.dispatcher.fail(error, job)
            return STOPPED
        return Outcome(False, error)

    def give_up(self, job: Job) -> None:
        self.soon(self._cancel, job)

    def step_out(self, job: Job) -> None:
        """The task of a job waits for other calls of that job: none of its own is to be given
        up."""
        self._inside.pop(job, None)

    def _cancel(self, job: Job) -> None:
        generation, task = self._inside.get(job, (None, None))
        if task is None or generation not in (None, job.given_up):
            return
        if task.cancelling() and job.phase is CANCELLED:
            # Somebody else has cancelled it, as `asyncio.run` does at its end. A second
            # cancellation would interrupt its unwinding, so that has some time first.
            self.dispatcher.timers.add(UNWINDING, partial(self._cancel_again, job, task))
        else:
            task.cancel()

    def _cancel_again(self, job: Job, task: asyncio.Task[Any]) -> None:
        def cancel() -> None:
            if self._inside.get(job, (None, None))[1] is task:
                task.cancel()

        self.soon(cancel)

    def cancel_all(self) -> None:
        """Cancel the tasks that are left of a run that was given up. Those of a closed loop end
        when they are collected."""
        for task in [] if self.loop.is_closed() else list(self._tasks):
            task.cancel()


async def let_others_go() -> float:
    """Yield to the loop once. Returns when to do so again. A cancellation that arrives here is
    dropped: no user code is interrupted, and a stopped run is noticed after this returns."""
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
    return turn_ends()


class _Deadline:
    """Cancels a call at its deadline, and knows whether the call was late.

    A call was late if it was cancelled here, even if it caught the CancelledError, or if a step of
    its coroutine began before the deadline and ended after it. If other tasks kept the loop busy
    beyond the deadline, the call gets the time that they took, once.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any], deadline: float
    ) -> None:
        self._loop = loop
        self._task = task
        self._deadline = deadline
        self._stepped = 0.0  # when the last step of the coroutine began
        self._returned = 0.0  # when that step ended
        self._is_fired = False
        self._is_extended = False
        self._handle = loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        now = self._loop.time()
        lag = now - self._deadline
        if lag > _NOTHING and not self._is_extended and not self._overstayed:
            self._is_extended = True
            self._deadline = now + lag
            self._handle = self._loop.call_at(self._deadline, self._expire)
        else:
            self._is_fired = True
            self._task.cancel()

    @property
    def _overstayed(self) -> bool:
        return self._stepped <= self._deadline < self._returned

    @as_coroutine
    def watched(self, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Run the coroutine and return its result. Notes when each of its steps begins and ends."""
        steps: Any = coroutine if hasattr(coroutine, "send") else coroutine.__await__()
        thrown: BaseException | None = None
        while True:
            self._stepped = self._loop.time()
            try:
                if thrown is None:
                    waits_for = steps.send(None)
                else:
                    waits_for = steps.throw(thrown)
            except StopIteration as stop:
                return stop.value
            finally:
                self._returned = self._loop.time()
            thrown = None
            try:
                yield waits_for
            except GeneratorExit:
                steps.close()
                raise
            except BaseException as error:
                thrown = error

    def end(self) -> bool:
        """Called when the call has ended. Returns whether it was late."""
        self._handle.cancel()
        if self._is_fired:
            self._task.uncancel()
        return self._is_fired or self._overstayed


_NOTHING = 0.01
"""Seconds by which a loop calls back late even if nothing keeps it busy."""


class ThreadedLoopLane(Lane):
    """The lane to a loop of the run's own, in a thread that is started when first needed."""

    ends_calls = True

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        self._lock = threading.Lock()
        self._lane: LoopLane | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._responds = threading.Event()

    def launch(self, job: Job) -> None:
        lane = self._started()
        if lane is not None:
            lane.launch(job)

    def adopt(self, job: Job, generation: int, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Await the coroutine that a job's sync function returned."""
        lane = self._started()
        if lane is None:
            coroutine.close()
        else:
            lane.adopt(job, generation, coroutine)

    def give_up(self, job: Job) -> None:
        with self._lock:
            if self._lane is not None and not self._closed:
                self._lane.give_up(job)

    def step_out(self, job: Job) -> None:
        """See `LoopLane`."""
        with self._lock:
            if self._lane is not None:
                self._lane.step_out(job)

    def ask(self) -> None:
        """Ask the loop to respond; see `responds`. A loop that a node blocks does not."""
        with self._lock:
            if self._lane is not None and not self._closed:
                self._lane.soon(self._responds.set)
            else:
                self._responds.set()

    @property
    def responds(self) -> bool:
        """Whether the loop has responded since `ask`."""
        return self._responds.is_set()

    def _started(self) -> LoopLane | None:
        """The lane on the running loop, which is started if necessary; None if the run has
        ended."""
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
        lane = self._lane = LoopLane(self.dispatcher, loop, threading.get_ident(), known_as=self)
        ready.set()
        await self._closing.wait()
        lane.cancel_all()

    def close(self, *, abandon: bool) -> None:
        with self._lock:
            self._closed = True
            lane, self._lane = self._lane, None
        if lane is not None and self._thread is not None:
            lane.loop.call_soon_threadsafe(self._closing.set)
            # With `abandon`, a node may block the loop, which then never ends: its thread is
            # abandoned.
            if not abandon:
                self._thread.join()
