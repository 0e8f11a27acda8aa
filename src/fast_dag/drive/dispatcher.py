"""Dispatcher: what all concurrent drivers share. An event comes in, calls to launch come out.

A *job* is one node on its way through its call. A *lane* is a place where calls happen. A lane
reports the end of a call to the dispatcher, which finishes the node and goes on with the jobs that
became ready. The *coordinator* is the caller: it waits for the end, keeps the time, and lends its
thread to inline nodes.

A job belongs to one thread at a time, or, from the launch of a call to its end (`is_out`), to its
lane. Only the owner takes it further. A thread that wants to stop another thread's job marks it;
the owner sees the mark at its next step.

A run can be cut short: cancelled, late, or ended by an exception that is not a node's failure. It
then ends as any other run does: calls are cancelled or abandoned, cleanup hooks and the closing of
resources are jobs like others, and the run ends with the last job. A second interruption changes
nothing about that.

One lock guards what threads share: schedules, results, counters and queues of the outermost
execution and of those nested in it. So nothing here relies on the interpreter's own lock. No user
code is called while the lock is held.
"""

from __future__ import annotations

from contextlib import suppress
from contextvars import copy_context
from functools import partial
from time import monotonic, perf_counter
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final

from fast_dag.call.effects import LOOKED_AT, STOPPED, Await, Invoke, Outcome, Sleep, Surround
from fast_dag.drive.around import InThread, OnLoop
from fast_dag.drive.guard import Guards
from fast_dag.drive.inline import in_running_loop
from fast_dag.drive.job import (
    ADVANCE,
    BEGIN,
    CALL,
    CANCELLED,
    CLAIM,
    CLEANS,
    CONCLUDE,
    RETURN,
    SETTLE,
    UNWIND,
    Job,
)
from fast_dag.drive.slots import Slots
from fast_dag.drive.timers import Stopwatch, Timer, Timers
from fast_dag.errors import TimeoutError, ValidationError, failures
from fast_dag.plan.map_plan import BATCHES
from fast_dag.run.execution import current
from fast_dag.watch import log

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from types import CodeType, FrameType
    from typing import Protocol

    from fast_dag.call.effects import Effect
    from fast_dag.define.node import Node
    from fast_dag.drive.job import Lane
    from fast_dag.run.execution import Execution
    from fast_dag.run.limits import Claim

    class Lanes(Protocol):
        """The lanes of a run, which the coordinator makes."""

        @property
        def loop(self) -> Any: ...
        @property
        def home(self) -> Lane: ...
        @property
        def threads(self) -> Lane: ...
        def of(self, node: Node[..., Any], /, *, stays: bool = False) -> Lane:
            """The lane of a node's calls; with `stays`, not in another process."""
            ...

        def apart(self, execution: Execution, role: str, /) -> Lane:
            """The lane of what a map calls in a thread of its own."""
            ...

        def items(self, execution: Execution, /) -> Lane:
            """The lane of the batches of a map to other processes."""
            ...

        def leave(self, execution: Execution, /) -> None:
            """The execution of a map has ended: end the threads that it had."""


GRACE = 5.0
"""Seconds that all cleanup hooks and closings of resources have together once a run is cut
short."""

PULLING = 1.0
"""Seconds that the source of a map has for an item that nobody needs any more. Then the thread that
pulls is abandoned, and the source is not closed."""

_LEAST = 0.25
"""Seconds that each of them has at least, even if the others used up `GRACE`."""

_SHORT = 200e-6
"""Seconds: whoever made a plain call in less goes on with one that this call made ready, though
others may have a longer way to the end."""


class _Open:
    """An execution that has not ended. `jobs` counts its jobs that have not ended. `parent` is the
    job of the node that a nested execution belongs to, `generation` that of the job's launch."""

    __slots__ = ("execution", "generation", "jobs", "parent")

    def __init__(self, execution: Execution, parent: Job | None, generation: int) -> None:
        self.execution = execution
        self.parent = parent
        self.generation = generation
        self.jobs = 0


class _Wake:
    """The callback that wakes a job when its Waitable is ready. Once cancelled, it refers to
    nothing, so that a Waitable does not keep the run alive. The time of the run stands still until
    then, unless the wait is `timed`."""

    __slots__ = ("dispatcher", "job", "timed")

    def __init__(self, dispatcher: Dispatcher, job: Job, timed: bool = True) -> None:
        self.dispatcher: Dispatcher | None = dispatcher
        self.job: Job | None = job
        self.timed = timed

    def __call__(self) -> None:
        """Called by the code that made the Waitable ready. That may belong to another run, so
        nothing is raised if this run is over."""
        dispatcher, job = self.dispatcher, self.job
        if dispatcher is not None and job is not None and not dispatcher.over:
            with suppress(RuntimeError):  # the loop of this run was closed just now
                dispatcher.soon(lambda: dispatcher.wake(job))

    def cancel(self) -> None:
        """Wake nobody."""
        self.dispatcher = self.job = None


class Dispatcher:
    """Drives one outermost execution and the executions nested in it.

    Parameters
    ----------
    execution:
        The outermost execution. Its nodes see the contextvars of the code that makes the
        Dispatcher.
    clock:
        Returns the time in seconds, for deadlines and waits.

    The coordinator sets `lanes`, `finish` (called at the end of the run) and `soon` (calls a
    function later, in the coordinator's thread). It calls what is due in `timers`.
    """

    def __init__(self, execution: Execution, clock: Callable[[], float] = monotonic) -> None:
        self.execution = execution
        self.clock = clock
        self.variables = copy_context()
        self.over = False  # the run has ended; reports that come now are dropped
        self.is_killed = False  # the run was ended while calls may still be running
        self.ending: str | None = None  # the final status of a run that is cut short
        self.crash: BaseException | None = None
        self.timers = Timers(clock)
        self.guard = Guards()
        self.lanes: Lanes
        self._slots = Slots(execution.settings, execution.plan)
        self._has_priorities = execution.plan.has_priorities
        # Whether plain calls happen in this process, so that a thread can go on with the next node.
        self._follows = not self._slots.is_ordered and execution.settings.stays_here
        self._time = Stopwatch(clock)  # for the timeouts of the run and of nested workflows
        self._deadline: float | None = None
        self._alarms: list[tuple[float, Callable[[], None]]] = []  # due when time goes on
        self._grace_ends = 0.0
        self._open: dict[Execution, _Open] = {}
        self._running: set[Job] = set()  # the jobs that have begun; those in `_sleeping`, too
        self._sleeping: set[Job] = set()
        self._held: dict[tuple[Job, int], Claim] = {}  # by the call that has the units
        self.finish: Callable[[], None] = _nothing
        self.soon: Callable[[Callable[[], None]], None] = _nowhere

    # Begin and end of the run.

    def begin(self) -> list[Job]:
        """Begin the execution, which is open. Returns the jobs to go on with."""
        timeout = self.execution.settings.timeout
        if timeout is not None:
            self._deadline = self._time() + timeout
            self._alarm(self._deadline, partial(self.abort, "timed_out"))
        jobs: list[Job] = []
        self._enter(self.execution, None, 0, jobs)
        jobs.reverse()
        return jobs

    def fail(self, error: BaseException, job: Job | None = None) -> None:
        """End the run because of an exception that is not a node's failure, such as SystemExit in a
        worker thread; `job` is the one whose call raised it."""
        with self.guard():
            if self.over:
                return
            if self.crash is not None:
                error.__context__ = self.crash
            self.crash = error
            self.execution.failures.crashed = (
                None if job is None or job.index == _NO_NODE else job.path
            )
        self.abort("cancelled")

    def break_off(self, error: BaseException) -> None:
        """`fail`, for an exception that interrupted the engine itself. Some job may then never end,
        so the run is killed after a while."""
        self.timers.add(GRACE + _LEAST, self.kill)
        self.fail(error)

    def abort(self, status: str) -> None:
        """Cut the run short: nothing more starts, and running calls are given up and cleaned
        up."""
        with self.guard():
            if self.over or self.ending is not None:
                return
            self.ending = status
            self._grace_ends = self.clock() + GRACE
            cleaning = [
                (job, job.generation) for job in self._running if job.phase is CLEANS and job.is_out
            ]
            jobs, given_up = self._stopped(self.execution)
        for job, generation in cleaning:
            job.timeout = self._grace()
            self.watch(job, generation)
        self._cut(jobs, given_up)

    def kill(self) -> None:
        """End the run now, even if calls that do not end are still running."""
        with self.guard():
            if self.over:
                return
            self.over = self.is_killed = True
            executions = list(self._open)
            self._open.clear()
            jobs = list(self._running)
        for job in jobs:
            if job.effects is not None:
                with suppress(ValueError):  # the generator is running in another thread just now
                    # So that a call that waits for this one's result takes over.
                    job.effects.close()
            if job.hook is not None:
                job.hook.cancel()
            if not job.is_out:
                self._give_back(job)
        for execution in reversed(executions):
            execution.close(self.ending or "cancelled")
        self.finish()

    def let_go(self) -> None:
        """Drop what refers to the run, which has ended, so that its memory is freed."""
        self.timers.clear()
        self.finish, self.soon = _nothing, _nowhere
        del self.lanes

    def _lost(self, execution: Execution) -> None:
        """Stop an execution, because a resource of it broke while it was open."""
        with self.guard():
            if self.over or execution not in self._open:
                return
            jobs, given_up = self._stopped(execution)
        self._cut(jobs, given_up)

    def _stopped(self, execution: Execution) -> tuple[list[Job], list[Job]]:
        """Stop an execution and those nested in it. Returns the jobs to go on with, and the jobs
        whose calls must be given up once the lock is released."""
        execution.stop()
        jobs: list[Job] = []
        given_up: list[Job] = []
        for job in list(self._running):
            if job.phase is CLEANS or not job.is_inside(execution):
                continue
            job.phase = CANCELLED
            if job in self._sleeping:
                jobs.append(self._roused(job))
            elif job.is_out and job.lane is not None:
                given_up.append(job)
                job.given_up = job.generation
                if not job.lane.ends_calls:
                    self._take_in(job)
                    job.todo = UNWIND
                    jobs.append(job)
            elif job.lane is not None and job.lane.withdraw(job):
                job.todo = UNWIND
                jobs.append(job)
        return [*jobs, *self._picked()], given_up

    def _cut(self, jobs: list[Job], given_up: list[Job]) -> None:
        for job in given_up:
            self._give_up(job)
        self.go_on(jobs)

    def _give_up(self, job: Job) -> None:
        """Give up a job's call: nobody waits for it any more."""
        lane = job.lane
        assert lane is not None
        lane.give_up(job)
        if not lane.ends_calls:
            if self._held and not lane.kills_calls:
                self._tell_kept(job)
            self.lanes.loop.give_up(job)  # the call may have returned a coroutine
            if job.variables is not None:
                job.variables = job.variables.copy()  # the abandoned call still uses the old ones

    # Executions.

    def _enter(
        self, execution: Execution, parent: Job | None, generation: int, jobs: list[Job]
    ) -> None:
        """Begin an execution that is open."""
        if execution.resources is not None and not execution.is_map:
            execution.resources.when_lost = partial(self._lost, execution)
        ready: list[int] = []
        try:
            ready = execution.begin(eager=not self._slots.is_ordered)
        except BaseException as error:  # raised by the condition of a machine's transition
            self.fail(error)
        with self.guard():
            if self.over:
                return
            opened = self._open[execution] = _Open(execution, parent, generation)
            self._add(opened, ready)
            more = self._picked()
            has_ended = not opened.jobs and self._has_ended(opened, more)
        jobs.extend(reversed(more))
        if has_ended:
            self._leave(opened, jobs)

    def _add(self, opened: _Open, ready: list[int]) -> None:
        """Make jobs for the nodes that may start."""
        execution = opened.execution
        opened.jobs += len(ready)
        follows = self._follows and not execution.watched
        for index in ready:
            step = execution.plan.steps[index]
            job = Job(execution, index, step, opened.parent)
            if step.role:
                job.lane = self._lane_of(job)
                self._slots.queue(job)
            elif not step.nests:
                job.is_plain = follows and step.plain is not None
                job.lane = self._lane_of(job)
                self._slots.queue_new(job)
            else:
                self._slots.queue(job)

    def _lane_of(self, job: Job) -> Lane:
        if job.step.role:
            return self.lanes.apart(job.execution, job.step.role)
        if job.index <= BATCHES and not job.index % 2 and not job.execution.is_here:  # type: ignore[attr-defined]
            return self.lanes.items(job.execution)
        policy = job.step.policy
        return self.lanes.of(job.step.node, stays=policy is not None and bool(policy.resources))

    def _picked(self) -> list[Job]:
        """Give free slots to waiting jobs. Returns the jobs that may go on now."""
        picked = self._slots.picked()
        for job in picked:
            if job.todo is not BEGIN:  # it goes on after a `Sleep` or `Await`
                job.answer = not job.execution.stopped
                continue
            job.generation += 1
            if job.execution.stopped:
                job.phase = CANCELLED
            else:
                self._running.add(job)
                job.execution.record.schedule.start(job.index)  # type: ignore[union-attr]
        return picked

    def _has_ended(self, opened: _Open, more: list[Job]) -> bool:
        """Whether an execution without jobs has ended. If resources are open, it has not: a job
        that closes one of them is added to `more`."""
        execution = opened.execution
        effects = execution.release(self._status_of(execution))
        if effects is None:
            del self._open[execution]
            self.over = execution is self.execution
            return True
        job = Job(execution, _NO_NODE, execution.plan.steps[0], opened.parent)
        job.effects = effects
        job.variables = self.variables.copy()
        job.variables.run(current.set, execution)
        job.started = perf_counter()
        job.phase, job.todo = CLEANS, ADVANCE
        opened.jobs = 1
        self._running.add(job)
        more.append(job)
        return False

    def _status_of(self, execution: Execution) -> str | None:
        """The final status of an execution without jobs; None if its errors decide."""
        if self.ending is not None:
            return self.ending
        if execution.cut_short:
            return "cancelled"
        if execution is self.execution and self._deadline is not None and not execution.stopped:
            return "timed_out" if self._time() > self._deadline else None
        return None

    def _leave(self, opened: _Open, jobs: list[Job]) -> None:
        """Close an execution without jobs. If it is nested, its node's job goes on with its
        outcome."""
        execution, parent = opened.execution, opened.parent
        status = self._status_of(execution)
        if execution.is_map:
            self.lanes.leave(execution)
        elif execution.resources is not None:
            execution.resources.when_lost = None
        outcome = STOPPED
        try:
            execution.close(status)
            if parent is not None and status is None:
                error = execution.failure()
                outcome = Outcome(error is None, execution.value if error is None else error)
        except BaseException as problem:  # raised by, say, a mapping of the user's as metadata
            self.crash = problem
            self.abort("cancelled")
        if parent is None:
            self.finish()
        else:
            parent.todo, parent.answer = RETURN, (opened.generation, outcome)
            jobs.append(parent)

    # The worklist: what each job does next.

    def go_on(self, jobs: list[Job], lane: Lane | None = None) -> Job | None:
        """Take jobs further, up to their next calls, and launch these calls on their lanes. If
        `lane` is given, the first call of that lane is not launched: its job is returned, and the
        caller makes the call."""
        mine = None
        jobs.reverse()  # now a stack
        while jobs:
            job = jobs.pop()
            if job.todo is not CALL:
                _STEPS[job.todo](self, job, jobs)
            elif job.phase is CANCELLED:
                self._unwind(job, jobs)
            elif job.lane is None:
                self._call_nested(job, jobs)
            elif job.lane is lane and mine is None:
                mine = job
            else:
                try:
                    job.lane.launch(job)
                except RuntimeError as error:  # the system allows no thread for it, say
                    self.fail(error, job)
                    if job.phase is not CANCELLED:  # it cleans up
                        raise
                    if job.todo is CALL and not job.is_out:  # `fail` took it from no lane
                        jobs.append(job)
        return mine

    def _begin(self, job: Job, jobs: list[Job]) -> None:
        """Gather the arguments of a node."""
        if job.phase is CANCELLED:
            self._unwind(job, jobs)
            return
        jobs.append(job)
        job.todo, execution = CALL, job.execution
        try:
            job.args, job.kwargs = execution.gather(job.index)
        except failures() as error:
            outcome = Outcome(False, error, attempts=0)
            job.todo, job.answer = SETTLE, outcome
            if execution.store is not None:
                job.variables = self.variables.copy()
                job.effects = execution.effects_of_failed(job.index, outcome)
                job.todo, job.answer = ADVANCE, None
        except BaseException as error:  # raised by the attribute that `output=` names
            self.fail(error)
            job.todo = UNWIND
        else:
            if execution.is_surrounded(job.step):
                job.entered = perf_counter()  # it may end without a call: its value is cached
                # Hooks and attempts of one call share a copy of the contextvars.
                job.variables = self.variables.copy()
                job.effects = execution.effects_of(job.index, (job.args, job.kwargs))
                job.todo, job.answer = ADVANCE, None
            elif job.step.uses:
                job.todo = CLAIM

    def _advance(self, job: Job, jobs: list[Job]) -> None:
        """Send the answer to a job's effects, and prepare the next effect."""
        if job.phase is CANCELLED:
            self._unwind(job, jobs)
            return
        answer, job.answer = job.answer, None
        assert job.effects is not None
        effect: Effect | None = None
        outcome = STOPPED
        try:
            effect = job.effects.send(answer)
        except StopIteration as stop:
            outcome = stop.value
        except BaseException as error:  # a fault of the engine, or Ctrl-C; in any case the job ends
            if job.index == _NO_NODE or not isinstance(error, Exception):
                self.fail(error)
            else:
                outcome = Outcome(False, error)
        # Outside of the `except` block, or the error would become the `__context__` of others.
        if effect is None:
            hook = job.hook
            if hook is not None and job.effects is hook.effect.inner:
                self._leave_inside(job, outcome, jobs)
                return
            job.answer = outcome
            self._settle(job, jobs)
            return
        if job.phase is CANCELLED:
            job.todo = UNWIND
        elif isinstance(effect, (Sleep, Await)):
            self._wait(job, effect, jobs)
            return
        else:
            self._take(job, effect)
        jobs.append(job)

    def _leave_inside(self, job: Job, outcome: Outcome, jobs: list[Job]) -> None:
        """What a hook surrounds has ended: the hook goes on."""
        hook = job.hook
        hook.effect.outcome = outcome
        job.effects = hook.outer
        if hook.is_lost or outcome is STOPPED:
            hook.cancel()
            job.todo, job.answer = ADVANCE, outcome.answer()
        else:
            job.todo, job.lane, job.timeout = CALL, hook, None
        jobs.append(job)

    def _take(self, job: Job, effect: Any) -> None:
        """Make a call of the effect: the job's next call."""
        job.todo = CALL
        hook = job.hook
        if isinstance(effect, Surround):
            self._surround(job, effect)
        elif isinstance(effect, Invoke):
            if effect.cleans_up:
                job.phase = CLEANS
            job.func, job.args, job.kwargs = effect.func, effect.args, _NO_KEYWORDS
            job.timeout = None  # `begins` sets one for cleanup
            job.lane = self.lanes.loop if effect.is_async else self.lanes.home
            if effect.role:
                job.lane = self.lanes.apart(job.execution, effect.role)
            if hook is not None and hook.makes_calls and not effect.is_async:
                job.lane = hook
        else:
            job.func, (job.args, job.kwargs) = job.step.call, effect
            job.timeout = job.step.timeout
            job.lane = None if job.step.nests else self._lane_of(job)
            if hook is not None and hook.makes_calls and job.lane in self._here:
                job.lane = hook
            if job.step.uses:
                job.todo = CLAIM

    @property
    def _here(self) -> tuple[Lane, ...]:
        """The lanes of threads of this process that are as good as each other."""
        return self.lanes.home, self.lanes.threads

    def _surround(self, job: Job, effect: Surround) -> None:
        """Make a hook that surrounds the rest of the call the job's next call."""
        assert job.effects is not None
        kind, lane = (
            (OnLoop, self.lanes.loop) if effect.is_async else (InThread, self.lanes.threads)
        )
        job.hook = hook = kind(self, job, effect, job.effects, lane, _call)
        job.func, job.args, job.kwargs = hook.begin, (), _NO_KEYWORDS
        job.timeout, job.lane = None, lane

    def _conclude(self, job: Job, jobs: list[Job]) -> None:
        """Go on after a job's call ended."""
        outcome = job.answer
        job.deadline, job.is_late = None, False
        if job.phase is CANCELLED or outcome is STOPPED:
            self._unwind(job, jobs)
        elif job.effects is None:
            self._settle(job, jobs)
        else:
            hook = job.hook
            if hook is not None and outcome.value is hook:  # it has called what it surrounds
                job.effects, outcome = hook.effect.inner, Outcome(True, None)
            elif hook is not None and job.effects is hook.outer:
                job.hook = None
            job.answer = outcome.answer()
            self._advance(job, jobs)

    def _unwind(self, job: Job, jobs: list[Job]) -> None:
        """End a job that was cancelled, after a call of its cleanup hook."""
        effects, job.effects = job.effects, None
        job.todo, job.answer = SETTLE, STOPPED
        self._give_back(job)
        hook, job.hook = job.hook, None
        if hook is not None:
            hook.cancel()
            effects = hook.outer
        if effects is not None:
            effects.close()  # so that a call that waits for this one's result takes over
            left = job.execution.effects_of_cancelled(job.step)
            if left is not None and job.started and job.phase is not CLEANS:
                job.phase, job.effects = CLEANS, left
                job.todo, job.answer = ADVANCE, None
        jobs.append(job)

    def _settle(self, job: Job, jobs: list[Job]) -> None:
        """Finish the node of a job that is done."""
        outcome, job.answer = job.answer, None
        execution, ready = job.execution, []
        if outcome is not STOPPED:
            try:
                started = job.started or job.entered or perf_counter()
                ready = execution.finish(job.index, outcome, started, self.guard())
            except BaseException as error:  # SystemExit in an error handler, for example
                self.fail(error)
        with self.guard():
            if self.over:
                return
            if outcome is STOPPED and not job.started:
                execution.take_back(job.index)
            more, ended = self._left(job, ready)
        execution.deliver()
        jobs.extend(reversed(more))
        if ended is not None:
            self._leave(ended, jobs)
        if execution.stopped:
            self._end_maps()

    def _left(self, job: Job, ready: list[int]) -> tuple[list[Job], _Open | None]:
        """Remove a job that has ended, and add the nodes that became `ready`. Returns the jobs to
        go on with, and the job's execution if that has ended."""
        opened = self._open[job.execution]
        job.args, job.kwargs = (), _NO_KEYWORDS  # which would keep values from being freed
        self._running.discard(job)
        self._slots.give_back(job)
        self._add(opened, ready)
        opened.jobs -= 1
        more: list[Job] = []
        if self._sleeping and opened.execution.stopped:
            more = [
                self._roused(each)
                for each in list(self._sleeping)
                if each.execution.stopped and each.phase is not CLEANS
            ]
        if opened.execution.stopped:
            more.extend(self._withdrawn())
        more.extend(self._picked())
        return more, opened if not opened.jobs and self._has_ended(opened, more) else None

    def _withdrawn(self) -> list[Job]:
        """The jobs of stopped executions whose calls were launched but need not wait for their
        turn any more, because they would not be made: other runs may use their lane, too."""
        withdrawn = []
        for job in list(self._running):
            waits = job.execution.stopped and not job.started and not job.is_out
            if waits and job.lane is not None and job.lane.withdraw(job):
                job.todo, job.answer = CONCLUDE, STOPPED
                withdrawn.append(job)
        return withdrawn

    def _call_nested(self, job: Job, jobs: list[Job]) -> None:
        """Begin the workflow that is nested in a node."""
        generation = job.generation
        if not self.begins(job, generation):
            jobs.extend(self.ended(job, generation, STOPPED))
            return
        try:
            child = job.execution.nested(job.index, (job.args, job.kwargs))
            if child.is_map:
                self._prepare(child, job)
            child.open()
        except failures() as error:
            jobs.extend(self.ended(job, generation, Outcome(False, error)))
        except BaseException as error:
            jobs.extend(self.crashed(job, generation, error))
        else:
            self.watch(job, generation)
            self._enter(child, job, generation, jobs)

    def _prepare(self, child: Execution, job: Job) -> None:
        """Prepare the execution of a map."""
        mapping: Any = child
        mapping.places = self._slots.places_of(job.step)
        if job.step.nested.item.nests:
            mapping.is_here = self.execution.settings.stays_here
        else:
            lane = self.lanes.of(job.step.node)
            mapping.is_here, mapping.travels = lane.shares_memory, lane.takes_batches
        mapping.call_soon = partial(self.look_again, mapping)

    def _end_maps(self) -> None:
        """Tell the maps that have been stopped, by a failure of their own or one around them, so
        that their `into` functions wait no longer. If such a map waits for nothing but the call
        that pulls, nobody waits long for that call: it may hang."""
        for job in list(self._running):
            mapping: Any = job.execution
            if not job.step.role or not mapping.stopped:
                continue
            mapping.stop()
            lane = job.lane
            if job.step.role == "pull" and mapping.waits_for_pull and lane is not None:
                delay = 0.0 if lane.ends_calls else PULLING
                self.timers.add(delay, partial(self._give_up_pull, job, job.generation))

    def _give_up_pull(self, job: Job, generation: int) -> None:
        jobs: list[Job] = []
        with self.guard():
            if self.over or job.generation != generation or not job.is_out:
                return
            job.phase, job.given_up = CANCELLED, generation
            if job.lane is not None and not job.lane.ends_calls:
                self._take_in(job)
                job.todo = UNWIND
                jobs.append(job)
        self._give_up(job)
        self.go_on(jobs)

    def look_again(self, execution: Any) -> None:
        """Ask the execution of a map what may start, because something has changed."""
        with self.guard():
            if self.over or execution not in self._open:
                return
            ready = execution.more()
            if not ready:
                return
            self._add(self._open[execution], ready)
            jobs = self._picked()
        self.go_on(jobs)

    def _return(self, job: Job, jobs: list[Job]) -> None:
        """Go on with a node after the workflow nested in it ended."""
        generation, outcome = job.answer
        job.answer = None
        jobs.extend(reversed(self.ended(job, generation, outcome)))

    # Calls, as lanes report them.

    def begins(self, job: Job, generation: int) -> bool:
        """Must be called by a lane before it makes a call. If it returns False, the lane must not
        make the call, and reports STOPPED as its outcome."""
        if self.over or job.generation != generation:
            return False
        if self.ending is not None and job.phase is CLEANS:
            job.timeout = self._grace()
        # `is_out` is set before `phase` is read. A thread that cuts the run short does the reverse:
        # it sets `phase`, then reads `is_out`. So at least one of the two sees the other.
        job.is_out = True
        if job.phase is CANCELLED:
            return False
        if job.started:
            return True
        execution = job.execution
        if execution.stopped:
            return False
        if self._deadline is not None and self._time() > self._deadline:
            self.abort("timed_out")
            return False
        job.started = perf_counter()
        if execution.observers is not None:
            with self.guard():
                execution.note_start(job.index)
            execution.deliver()
        # The run may have changed while observers were called.
        return not self.over and job.generation == generation and job.phase is not CANCELLED

    def _grace(self) -> float:
        return max(self._grace_ends - self.clock(), _LEAST)

    def run_here(self, job: Job, generation: int, lane: Lane) -> Job | None:
        """Make a job's call in this thread. Returns another job of the same lane to go on with."""
        if not self.begins(job, generation):
            return self.go_on(self.ended(job, generation, STOPPED), lane)
        if job.is_plain and lane.calls_here:
            return self._follow(job, generation, lane)
        self.watch(job, generation)
        try:
            outcome = call_here(job)
        except BaseException as error:
            return self.go_on(self.crashed(job, generation, error), lane)
        jobs = self.called(job, generation, outcome)
        del outcome  # the traceback of a failure refers to this frame: that would be a cycle
        return self.go_on(jobs, lane)

    def _follow(self, job: Job, generation: int, lane: Lane) -> Job | None:
        """Make the plain call of a job, and then those of the plain nodes that follow it, one by
        one, with little more than the calls. Returns another job of the same lane to go on with."""
        token, guard = current.set(job.execution), self.guard()
        try:
            while True:
                try:
                    value = _IN_CALL  # `is_call` looks at this
                    kwargs = job.kwargs
                    value = job.func(*job.args, **kwargs) if kwargs else job.func(*job.args)
                except failures() as error:
                    value = Outcome(False, error)
                    others = self.ended(job, generation, value)
                    break
                except BaseException as error:
                    value = error
                    others = self.crashed(job, generation, error)
                    break
                if LOOKED_AT[type(value)]:
                    others = self.called(job, generation, Outcome(True, value))
                    break
                goes_on, others = self.went_on(job, generation, value, guard)
                if not goes_on:
                    break
                generation = job.generation
                if others:
                    self.go_on(others)
        finally:
            current.reset(token)
            value = None  # so that deleting it from the results frees it
        return self.go_on(others, lane)

    def went_on(
        self, job: Job, generation: int, value: Any, guard: AbstractContextManager[object]
    ) -> tuple[bool, list[Job]]:
        """Finish a node whose plain call returned; `guard` is the lock, as this thread takes it.

        Returns whether the job now stands for a node that became ready, so that the thread can go
        on with it, and the other jobs to go on with."""
        execution, index = job.execution, job.index
        with guard:
            if self.over:
                return False, []
            if job.generation != generation:
                return False, self._picked()
            if job.phase is CANCELLED:  # the call returned nevertheless
                self._take_in(job)
                job.todo = UNWIND
                return False, [job]
            job.generation += 1
            now = perf_counter()
            ready = execution.finish_plain(index, value, job.started, now)
            # Others may be before the node that follows. Where calls are short, to look at that
            # would take longer than the calls.
            is_long = now - job.started > _SHORT or self._has_priorities
            compete = is_long and (len(ready) > 1 or self._slots.is_full)
            if ready and not compete:
                steps, following = execution.plan.steps, ready[0]
                step = steps[following]
                is_alike = step.plain == job.step.plain
                args = execution.start_plain(following) if is_alike else None
                if args is not None:
                    job.step, job.index, job.func = step, following, step.call
                    job.args, job.kwargs, job.started = args, _NO_KEYWORDS, now
                    if len(ready) == 1:
                        return _ALONE
                    self._add(self._open[execution], ready[1:])
                    return True, self._picked()
            job.is_out = False
            more, ended = self._left(job, ready)
        if ended is not None:
            more.reverse()
            self._leave(ended, more)
            more.reverse()
        return False, more

    def called(self, job: Job, generation: int, outcome: Outcome) -> list[Job]:
        """Report that a sync call returned. If it returned a coroutine, the call goes on until that
        ends. Returns the jobs to go on with."""
        if outcome.ok and type(outcome.value) is CoroutineType:
            if self.over or job.generation != generation:
                outcome.value.close()
                self.returned(job, generation)
            else:
                if job.timer is not None:
                    job.timer.cancel()  # the loop watches the deadline from now on
                self.lanes.loop.adopt(job, generation, outcome.value)
            return []
        return self.ended(job, generation, outcome)

    def ended(self, job: Job, generation: int, outcome: Outcome) -> list[Job]:
        """Report that a job's call ended; only the first report of a generation counts. Returns the
        jobs to go on with."""
        if self._held:
            self.returned(job, generation)
        deadline = job.deadline
        if deadline is not None and job.generation == generation:
            job.is_late = job.is_late or self._clock_of(job)() > deadline
        with self.guard():
            if self.over:
                return []
            if job.generation != generation:
                return self._picked()
            self._take_in(job)
        if job.is_late:
            outcome = too_late(job, outcome)
        job.todo, job.answer = CONCLUDE, outcome
        return [job]

    def crashed(self, job: Job, generation: int, error: BaseException) -> list[Job]:
        """End the run, because a job's call raised an exception that is not a failure. Returns the
        jobs to go on with."""
        self.returned(job, generation)
        with self.guard():
            is_owner = not self.over and job.generation == generation
            if is_owner:
                self._take_in(job)
        self.fail(error, job)
        if not is_owner:
            return []
        job.todo, job.answer = CONCLUDE, STOPPED
        return [job]

    def _take_in(self, job: Job) -> None:
        """Make the calling thread the owner of a job whose call has ended or was given up."""
        job.generation += 1
        job.is_out = False
        if job.timer is not None:
            job.timer.cancel()
            job.timer = None

    def watch(self, job: Job, generation: int) -> None:
        """Start the timeout, if there is one, of the call that begins now."""
        timeout = job.timeout
        if timeout is None:
            return
        with self.guard():
            if not self.over and job.generation == generation:
                job.deadline = self._clock_of(job)() + timeout
                late = partial(self._time_out, job, generation)
                if job.lane is None:
                    job.timer = self._alarm(job.deadline, late)
                else:
                    job.timer = self.timers.add(timeout, late)

    def _clock_of(self, job: Job) -> Callable[[], float]:
        """The clock of a job's timeout: commits do not count in that of a nested workflow."""
        return self._time if job.lane is None else self.clock

    def _alarm(self, end: float, callback: Callable[[], None]) -> Timer:
        """Have `callback` called once this is the time of the run."""
        return self.timers.add(end - self._time(), partial(self._ring, end, callback))

    def _ring(self, end: float, callback: Callable[[], None]) -> None:
        with self.guard():
            if self.over:
                return
            is_due = self._time() >= end
            if not is_due and self._time.stands:
                self._alarms.append((end, callback))
            elif not is_due:
                self._alarm(end, callback)
        if is_due:
            callback()

    def _time_out(self, job: Job, generation: int) -> None:
        jobs: list[Job] = []
        given_up = [job]
        with self.guard():
            if self.over or job.generation != generation or not job.is_out:
                return
            job.timer, job.is_late, job.given_up = None, True, generation
            if job.lane is None:  # its nested workflow is stopped, and the job ends with that
                jobs, given_up = self._stopped(job.execution.child_of(job.index))
            elif not job.lane.ends_calls:
                self._take_in(job)
        for each in given_up:
            self._give_up(each)
        if not job.is_out:
            job.todo, job.answer = CONCLUDE, Outcome(False, late_error(job))
            jobs.append(job)
        self.go_on(jobs)

    # Units of limits: taken with the slot, before a call, and given back by whoever tells its end.

    def _claim(self, job: Job, jobs: list[Job]) -> None:
        """Take the units that a job's call uses, beside the slot that it has; else wait for both
        without either."""
        execution = job.execution
        jobs.append(job)
        if job.phase is CANCELLED:
            job.todo = UNWIND
            return
        if job.claim is None:
            job.claim = execution.claim_of(job.index)
            job.claim.group = self
        claim = job.claim
        if execution.stopped:
            job.todo, job.answer = CONCLUDE, STOPPED
            return
        if claim.take():
            self._hold(job)
            return
        if self._slots.is_ordered and in_running_loop():
            job.todo, job.answer = CONCLUDE, Outcome(False, claim.blocks())
            return
        jobs.pop()
        with self.guard():
            if self.over:
                return
            if execution.stopped:
                job.todo, job.answer = CONCLUDE, STOPPED
                jobs.append(job)
                return
            self._sleeping.add(job)
            job.timer = wake = _Wake(self, job)
            if not self._slots.is_ordered:
                self._slots.give_back(job)
                jobs.extend(reversed(self._picked()))
        try:
            has_units = claim.take(wake)
        except ValidationError as error:
            with self.guard():
                if not self.over and job in self._sleeping:
                    jobs.append(self._roused(job))
                    job.answer = Outcome(False, error)
            return
        if has_units:
            self.wake(job)
        if job.claim is claim and (self.over or wake.job is None):
            claim.give_back()  # the job was ended just before that, so that nobody else does it

    def _hold(self, job: Job) -> None:
        """A job has its units: they belong to the call that it makes next."""
        claim, job.claim, job.todo = job.claim, None, CALL
        assert claim is not None
        if job.variables is None:
            job.variables = self.variables.copy()
        job.variables.run(claim.enter)
        self._held[job, job.generation] = claim
        if self.over:
            self._give_back(job)

    def _admit(self, job: Job) -> None:
        """A job that waited has its units. If no slot is free, it gives them back, and wants both
        again once one is."""
        with self.guard():
            if self.over or job not in self._sleeping:
                return
            self._sleeping.discard(job)
            job.timer = None
            has_slot = self._slots.is_ordered or self._slots.take_free(job)
        if has_slot:
            self._hold(job)
            jobs = [job]
        else:
            assert job.claim is not None
            job.claim.give_back(passes_over=self)
            with self.guard():
                if self.over:
                    return
                self._slots.queue(job)
                jobs = self._picked()
        self.go_on(jobs)

    def returned(self, job: Job, generation: int) -> None:
        """A call has really ended, whether or not anybody still waited for it: it has no units any
        more. Lanes must say so of each call that began; who reports its end says it, too."""
        if self._held:
            claim = self._held.pop((job, generation), None)
            if claim is not None:
                claim.give_back()

    def _give_back(self, job: Job) -> None:
        """The call that a job was about to make, or waited to make, is not made."""
        self.returned(job, job.generation)
        if job.claim is not None:
            job.claim.give_back()

    def _tell_kept(self, job: Job) -> None:
        """Tell the log of units that a call has which nobody waits for any more."""
        for (holder, _), claim in list(self._held.items()):
            if holder is job:
                log.kept(job.execution, job.path, claim.told)

    # Waits: `Sleep` and `Await`.

    def _wait(self, job: Job, effect: Sleep | Await, jobs: list[Job]) -> None:
        """Let a job wait. It gives its slot back, except in a sequential run. A job of a stopped
        run does not wait."""
        wake: _Wake | None = None
        job.todo = ADVANCE
        with self.guard():
            if self.over:
                return
            if isinstance(effect, Await) and effect.cleans_up:
                job.phase = CLEANS
            elif job.execution.stopped:
                job.answer = False
                jobs.append(job)
                return
            self._sleeping.add(job)
            if isinstance(effect, Sleep):
                job.timer = self.timers.add(effect.seconds, partial(self.wake, job))
            else:
                job.timer = wake = _Wake(self, job, effect.timed)
                if not effect.timed:
                    self._time.stop()
            if not self._slots.is_ordered:
                self._slots.give_back(job)
                execution: Any = job.execution
                if execution.is_map:
                    self._add(self._open[execution], execution.pauses(job.index))
                jobs.extend(reversed(self._picked()))
        if wake is not None:
            effect.waitable.when_ready(wake)  # type: ignore[union-attr]

    def wake(self, job: Job) -> None:
        """Go on with a job whose wait is over."""
        if job.todo is CLAIM:
            self._admit(job)
            return
        with self.guard():
            if self.over or job not in self._sleeping:
                return
            if self._slots.is_ordered:
                jobs = [self._roused(job)]
                job.answer = True
            else:
                self._end_wait(job)
                self._slots.queue(job)
                jobs = self._picked()
        self.go_on(jobs)

    def _end_wait(self, job: Job) -> None:
        self._sleeping.discard(job)
        job.execution.goes_on_with(job.index)
        wake, job.timer = job.timer, None
        if isinstance(wake, _Wake) and not wake.timed:
            self._time.go_on()
            if self._alarms and not self._time.stands:
                for alarm in self._alarms:
                    self._alarm(*alarm)
                self._alarms = []

    def _roused(self, job: Job) -> Job:
        """End a job's wait, even if no slot is free. Its answer is False unless the caller changes
        that: the run was stopped."""
        job.timer.cancel()
        self._end_wait(job)
        if not self._slots.is_ordered:
            self._slots.take(job)
        job.todo, job.answer = (CONCLUDE, STOPPED) if job.todo is CLAIM else (ADVANCE, False)
        return job


_NO_NODE: Final = -1
_IN_CALL: Final = object()
_ALONE: Final[tuple[bool, list[Job]]] = (True, [])  # the job goes on, and no other became ready
_NO_KEYWORDS: Final[dict[str, Any]] = {}

_STEPS: Final[dict[int, Callable[[Dispatcher, Job, list[Job]], None]]] = {
    BEGIN: Dispatcher._begin,
    ADVANCE: Dispatcher._advance,
    CONCLUDE: Dispatcher._conclude,
    SETTLE: Dispatcher._settle,
    UNWIND: Dispatcher._unwind,
    RETURN: Dispatcher._return,
    CLAIM: Dispatcher._claim,
}
"""The step that `go_on` takes with a job. Each may put jobs on the stack, also the same one."""


def _nothing() -> None: ...


def _nowhere(function: Callable[[], None]) -> None: ...


def call_here(job: Job) -> Outcome:
    """Make a job's sync call in this thread."""
    if job.variables is not None:
        return job.variables.run(_call, job)
    return _call(job)


def is_call(frame: FrameType | None, outermost: CodeType) -> bool:
    """Whether a thread that was interrupted at this frame, and in which a run is driven by
    `outermost`, was making the call of a job of that run. An exception may be raised there."""
    while frame is not None and frame.f_code is not outermost:
        if frame.f_code is _call.__code__:
            return True
        if frame.f_code is Dispatcher._follow.__code__:
            return frame.f_locals.get("value") is _IN_CALL
        frame = frame.f_back
    return False


def _call(job: Job) -> Outcome:
    token = current.set(job.execution)
    try:
        return Outcome(True, job.func(*job.args, **job.kwargs))
    except failures() as error:
        return Outcome(False, error)
    finally:
        current.reset(token)


def late_error(job: Job) -> TimeoutError:
    """The error of a call that did not end in time."""
    if job.phase is CLEANS:
        return TimeoutError(
            f"cleaning up after {job.execution.name!r} took more than the {GRACE:g} s that a run "
            "has for it once it is cut short",
            timeout=job.timeout,
        )
    timeout = job.step.timeout
    return TimeoutError(
        f"node {job.path!r} did not end within its timeout of {timeout:g} s",
        node_name=job.path,
        timeout=timeout,
    )


def too_late(job: Job, outcome: Outcome) -> Outcome:
    """The outcome of a call that ended after its deadline. Its value is lost; an exception becomes
    the cause of the TimeoutError."""
    error = late_error(job)
    if isinstance(outcome.value, Exception) and not outcome.ok:
        error.__cause__ = outcome.value
    return Outcome(False, error, outcome.attempts or 1)
