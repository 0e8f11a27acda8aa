"""A hook that surrounds the rest of a node's call, where several threads or a loop are at work.

The hook is a call of its job like others, until it calls `call()`: then it waits, and the job goes
on with what is inside of it. At the end of that the hook is told how it ended, and goes on.
"""

from __future__ import annotations

from contextvars import copy_context
from queue import SimpleQueue
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Protocol

from fast_dag.call.effects import STOPPED, Outcome
from fast_dag.drive.job import CANCELLED, Lane
from fast_dag.drive.places import place_lent
from fast_dag.errors import failures

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from fast_dag.call.effects import Effects, Surround
    from fast_dag.drive.job import Job

    class Dispatcher(Protocol):
        """What hooks need of the dispatcher."""

        lanes: Any

        def begins(self, job: Job, generation: int, /) -> bool: ...
        def watch(self, job: Job, generation: int, /) -> None: ...
        def called(self, job: Job, generation: int, outcome: Outcome, /) -> list[Job]: ...
        def ended(self, job: Job, generation: int, outcome: Outcome, /) -> list[Job]: ...
        def crashed(self, job: Job, generation: int, error: BaseException, /) -> list[Job]: ...
        def go_on(self, jobs: list[Job], /) -> object: ...
        def fail(self, error: BaseException, /) -> None: ...
        def kill(self) -> None: ...


class Surrounding(Lane):
    """One call of such a hook, and the lane on which it goes on.

    `outer` are the effects that asked for it. A sync hook makes the calls inside of it in its own
    thread, if they belong to threads of this process.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        job: Job,
        effect: Surround,
        outer: Effects,
        lane: Lane,
        make: Callable[[Job], Outcome],
    ) -> None:
        self.dispatcher = dispatcher
        self.job = job
        self.effect = effect
        self.outer = outer
        self.lane = lane
        self.is_lost = False  # its thread was abandoned
        self._make = make
        self._generation = 0
        self._came = False  # it has called `call()`
        self._goes_on = False  # and knows how that ended

    @property
    def makes_calls(self) -> bool:
        """Whether calls inside of it can be made in its thread."""
        return not self.is_lost

    def begin(self) -> Any:
        """Call the hook: what it returns, if it does not call `call()`."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Let it end: nobody waits any more for what it does."""
        raise NotImplementedError

    def _come(self) -> None:
        """It calls `call()`: the job goes on inside of it."""
        if self._came:
            raise RuntimeError("an around hook calls call() once; it did so again")
        self._came = True
        # What the hook has set is seen inside, also in other threads and tasks.
        self.job.variables = copy_context()
        self._report(Outcome(True, self))

    def _report(self, outcome: Outcome) -> None:
        dispatcher = self.dispatcher
        dispatcher.go_on(dispatcher.ended(self.job, self._generation, outcome))

    def _ended(self) -> Any:
        """What `call()` returns, or raises."""
        outcome = self.effect.outcome
        assert outcome is not None
        if not outcome.ok:
            raise outcome.value
        return outcome.value


class InThread(Surrounding):
    """Of a sync hook, which waits in its thread."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._inbox: SimpleQueue[int | None] = SimpleQueue()

    def begin(self) -> Any:
        effect = self.effect
        self._generation = self.job.generation
        try:
            value = effect.func(*effect.args, self._call)
        except failures() as error:
            if not self._came:
                raise
            outcome = Outcome(False, error)
        except BaseException as error:
            if not self._came:
                raise
            dispatcher = self.dispatcher
            dispatcher.go_on(dispatcher.crashed(self.job, self._generation, error))
            return None
        else:
            if not self._came:
                return value
            outcome = Outcome(True, value)
        self._report(outcome)
        return None  # which is reported too late, and dropped

    def _call(self) -> Any:
        self._come()
        while True:
            with place_lent():
                generation = self._inbox.get()
            if generation is None:
                from asyncio import CancelledError  # slow to import

                raise CancelledError
            if self._take(generation):
                return self._ended()

    def _take(self, generation: int) -> bool:
        """Make the job's call, which may be that the hook goes on: whether it is."""
        dispatcher, job = self.dispatcher, self.job
        if not dispatcher.begins(job, generation):
            dispatcher.go_on(dispatcher.ended(job, generation, STOPPED))
            return False
        if self.effect.outcome is not None:
            self._generation = generation
            return True
        dispatcher.watch(job, generation)
        try:
            outcome = self._make(job)
        except BaseException as error:
            dispatcher.go_on(dispatcher.crashed(job, generation, error))
        else:
            dispatcher.go_on(dispatcher.called(job, generation, outcome))
        return False

    def launch(self, job: Job) -> None:
        self._inbox.put(job.generation)

    def give_up(self, job: Job) -> None:
        self.is_lost = True
        self.lane.give_up(job)

    def cancel(self) -> None:
        self._inbox.put(None)


class OnLoop(Surrounding):
    """Of an async hook, whose task waits on its loop."""

    ends_calls = True
    _loop: asyncio.AbstractEventLoop | None = None
    _task: asyncio.Task[Any] | None = None
    _waits: asyncio.Future[None] | None = None
    _final: Outcome | None = None

    @property
    def makes_calls(self) -> bool:
        return False

    async def begin(self) -> Any:
        import asyncio

        effect = self.effect
        self._generation = self.job.generation
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        try:
            value = await effect.func(*effect.args, self._call)
            if type(value) is CoroutineType:
                value.close()
                raise TypeError(
                    "an async around hook returned a coroutine; it says `return await call()`"
                )
        except BaseException as error:
            if not self._came:
                raise
            if isinstance(error, asyncio.CancelledError) and self.job.phase is CANCELLED:
                outcome = STOPPED
            elif isinstance(error, failures()):
                outcome = Outcome(False, error)
            else:
                self.dispatcher.fail(error)
                outcome = STOPPED
        else:
            if not self._came:
                return value
            outcome = Outcome(True, value)
        if self._goes_on:
            self._report(outcome)
        else:  # it has not waited for the end of what is inside of it
            self._final = outcome
        return None

    async def _call(self) -> Any:
        import asyncio

        loop = asyncio.get_running_loop()
        self._waits = loop.create_future()
        self.dispatcher.lanes.loop.step_out(self.job)
        self._come()
        try:
            await self._waits
        except asyncio.CancelledError:
            self.job.given_up = self.job.generation
            self.dispatcher.lanes.loop.give_up(self.job)
            raise
        return self._ended()

    def launch(self, job: Job) -> None:
        self._soon(self._go_on, job.generation)

    def _go_on(self, generation: int) -> None:
        dispatcher, job, waits = self.dispatcher, self.job, self._waits
        if not dispatcher.begins(job, generation):
            dispatcher.go_on(dispatcher.ended(job, generation, STOPPED))
            return
        self._generation, self._goes_on = generation, True
        if self._final is not None:
            self._report(self._final)
        elif waits is not None and not waits.done():
            waits.set_result(None)

    def give_up(self, job: Job) -> None:
        if self._task is not None:
            self._soon(self._task.cancel)

    def cancel(self) -> None:
        self.give_up(self.job)

    def _soon(self, function: Callable[..., object], *args: Any) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop was closed while the run was at work, and the run with it
            self.dispatcher.kill()
