"""What all concurrent ways of running share: an event comes in, calls to launch come out.

A *job* is one node on its way through its call. A *lane* is a place where calls happen. Whoever
finishes a call, wherever that is, reports it here; the node is finished, and the jobs that it made
ready go on. The *coordinator* is the caller: it waits for the end, keeps the time, and lends its
thread to inline nodes.

A job belongs to one thread at a time, or, from the launch of a call to its end, to its lane
(`is_out`). Only its owner takes it further. Who wants a job to stop that another thread owns marks
it, and the owner sees the mark at its next step.

A run that is cut short (cancelled, late, or ended by something that is no node's failure) ends as
any other does: calls are cancelled or abandoned, cleanup hooks and the closings of resources are
jobs like others, and the run has ended with the last of them. Being interrupted again changes
nothing about that.

One lock guards what threads share (schedules, results, counters and queues of the outermost
execution and of those nested in it), so nothing here relies on the interpreter's own lock. No user
code is called while it is held.
"""

from __future__ import annotations

from contextlib import suppress
from contextvars import copy_context
from functools import partial
from time import monotonic, perf_counter
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final

from fast_dag.call.effects import LOOKED_AT, STOPPED, Await, Invoke, Outcome, Sleep
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
from fast_dag.drive.timers import Timers
from fast_dag.errors import TimeoutError, failures
from fast_dag.run.execution import current
from fast_dag.watch import log

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
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
        def of(self, node: Node[..., Any], /, *, stays: bool = False) -> Lane:
            """The lane of a node's calls; with `stays`, not in another process."""
            ...


GRACE = 5.0
"""Seconds that cleanup hooks and the closings of resources have in all once a run is cut short."""

_LEAST = 0.25
"""Seconds that each of them has, though the others took more."""

_SHORT = 200e-6
"""Seconds: whoever made a plain call in less goes on with one that this call made ready, though
others may have a longer way to the end."""

SIGNALS_SEEN = 0.5
"""Seconds after which a waiting caller looks around. A signal that comes just before a thread
blocks does not end its wait (no wait in Python is safe from that), and Ctrl-C is to end a run
promptly."""


class _Open:
    """An execution that has not ended: how many of its jobs have not, and for a nested one the job
    of its node, with the generation in which that was launched."""

    __slots__ = ("execution", "generation", "jobs", "parent")

    def __init__(self, execution: Execution, parent: Job | None, generation: int) -> None:
        self.execution = execution
        self.parent = parent
        self.generation = generation
        self.jobs = 0


class _Wake:
    """Wakes a job when what it waits for is ready; once it is cancelled, it holds nothing."""

    __slots__ = ("dispatcher", "job")

    def __init__(self, dispatcher: Dispatcher, job: Job) -> None:
        self.dispatcher: Dispatcher | None = dispatcher
        self.job: Job | None = job

    def __call__(self) -> None:
        """Called by whoever made it ready, who must not come to harm if this run is over."""
        dispatcher, job = self.dispatcher, self.job
        if dispatcher is not None and job is not None and not dispatcher.over:
            with suppress(RuntimeError):  # its loop was closed just now
                dispatcher.soon(lambda: dispatcher.wake(job))

    def cancel(self) -> None:
        """Wake nobody."""
        self.dispatcher = self.job = None


class Dispatcher:
    """Drives one outermost execution and all that are nested in it.

    Parameters
    ----------
    execution:
        The outermost one. Made in the context whose contextvars its nodes are to see.
    clock:
        Tells the time in seconds, for deadlines and waits.

    The coordinator gives it its `lanes`, its way to `finish` and its way to do something `soon`; it
    waits for the `timers`.
    """

    def __init__(self, execution: Execution, clock: Callable[[], float] = monotonic) -> None:
        self.execution = execution
        self.clock = clock
        self.variables = copy_context()
        self.over = False  # what happens from now on is of no interest
        self.is_killed = False  # though something may still be at work
        self.ending: str | None = None  # the status of a run that is cut short
        self.crash: BaseException | None = None
        self.timers = Timers(clock)
        self.guard = Guards()
        self.lanes: Lanes
        self._slots = Slots(execution.settings, execution.plan)
        self._has_priorities = execution.plan.has_priorities
        # Whether plain calls happen in this process, so that those after them can follow at once.
        self._follows = not self._slots.is_ordered and execution.settings.stays_here
        self._deadline: float | None = None
        self._grace_ends = 0.0
        self._open: dict[Execution, _Open] = {}
        self._running: set[Job] = set()  # those that have a slot, or wait between attempts
        self._sleeping: set[Job] = set()
        self._held: dict[tuple[Job, int], Claim] = {}  # by the call that has the units
        self.finish: Callable[[], None] = _nothing
        self.soon: Callable[[Callable[[], None]], None] = _nowhere

    # The end of the run, and what brings it about.

    def begin(self) -> list[Job]:
        """Begin with the execution, which is open; the jobs to go on with."""
        timeout = self.execution.settings.timeout
        if timeout is not None:
            self._deadline = self.clock() + timeout
            self.timers.add(timeout, partial(self.abort, "timed_out"))
        jobs: list[Job] = []
        self._enter(self.execution, None, 0, jobs)
        jobs.reverse()
        return jobs

    def fail(self, error: BaseException) -> None:
        """Something that is no node's failure came up (SystemExit in a worker, say): end the
        run."""
        with self.guard():
            if self.over:
                return
            if self.crash is not None:
                error.__context__ = self.crash
            self.crash = error
        self.abort("cancelled")

    def break_off(self, error: BaseException) -> None:
        """The engine itself was interrupted, so that some job may never end: the run ends all the
        same."""
        self.timers.add(GRACE + _LEAST, self.kill)
        self.fail(error)

    def abort(self, status: str) -> None:
        """Cut the run short: nothing more starts, what runs is given up and cleaned up."""
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
        """End the run, though something may be at work that does not end."""
        with self.guard():
            if self.over:
                return
            self.over = self.is_killed = True
            executions = list(self._open)
            self._open.clear()
            jobs = list(self._running)
        for job in jobs:
            if job.effects is not None:
                with suppress(ValueError):  # it takes a step just now, in another thread
                    job.effects.close()  # so that others who wait for what it computes take over
            if not job.is_out:
                self._give_back(job)
        for execution in reversed(executions):
            execution.close(self.ending or "cancelled")
        self.finish()

    def let_go(self) -> None:
        """The run has ended, and nothing is to hold it any more."""
        self.timers.clear()
        self.finish, self.soon = _nothing, _nowhere
        del self.lanes

    def _lost(self, execution: Execution) -> None:
        """A resource broke while it was open: its execution has failed."""
        with self.guard():
            if self.over or execution not in self._open:
                return
            jobs, given_up = self._stopped(execution)
        self._cut(jobs, given_up)

    def _stopped(self, execution: Execution) -> tuple[list[Job], list[Job]]:
        """Stop an execution, and what is nested in it: the jobs to go on with, and those whose
        calls are given up."""
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
        """Nobody waits any more for what a call still does."""
        lane = job.lane
        assert lane is not None
        lane.give_up(job)
        if not lane.ends_calls:
            if self._held and not lane.kills_calls:
                self._tell_kept(job)
            self.lanes.loop.give_up(job)  # it may have returned a coroutine
            if job.variables is not None:
                job.variables = job.variables.copy()  # the call is still inside of the old ones

    # Executions.

    def _enter(
        self, execution: Execution, parent: Job | None, generation: int, jobs: list[Job]
    ) -> None:
        """Begin with an execution that is open."""
        if execution.resources is not None:
            execution.resources.when_lost = partial(self._lost, execution)
        ready: list[int] = []
        try:
            ready = execution.begin(eager=not self._slots.is_ordered)
        except BaseException as error:  # of a condition that an event asks
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
        """Make jobs of nodes that may start."""
        execution = opened.execution
        opened.jobs += len(ready)
        follows = self._follows and not execution.watched
        for index in ready:
            step = execution.plan.steps[index]
            job = Job(execution, index, step, opened.parent)
            if step.node.workflow is None:
                job.is_plain = follows and step.plain is not None
                job.lane = self._lane_of(job)
                self._slots.queue_new(job)
            else:
                self._slots.queue(job)

    def _lane_of(self, job: Job) -> Lane:
        policy = job.step.policy
        return self.lanes.of(job.step.node, stays=policy is not None and bool(policy.resources))

    def _picked(self) -> list[Job]:
        """The jobs that may go on now; they have their slots."""
        picked = self._slots.picked()
        for job in picked:
            if job.todo is not BEGIN:  # it has waited for this
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
        """All jobs of an execution have ended: whether it has ended, too. If resources are open,
        one more job closes them."""
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
        """How an execution ends that has nothing left to do; None if its errors tell."""
        if self.ending is not None:
            return self.ending
        if execution.cut_short:
            return "cancelled"
        if execution is self.execution and self._deadline is not None and not execution.stopped:
            return "timed_out" if self.clock() > self._deadline else None
        return None

    def _leave(self, opened: _Open, jobs: list[Job]) -> None:
        """An execution is over: the node that it is nested in goes on with how it ended."""
        execution, parent = opened.execution, opened.parent
        status = self._status_of(execution)
        if execution.resources is not None:
            execution.resources.when_lost = None
        outcome = STOPPED
        try:
            execution.close(status)
            if parent is not None and status is None:
                error = execution.exception()
                outcome = Outcome(error is None, execution.value if error is None else error)
        except BaseException as problem:  # of a mapping that the user gave as metadata, say
            self.crash = problem
            self.fail(problem)
        if parent is None:
            self.finish()
        else:
            parent.todo, parent.answer = RETURN, (opened.generation, outcome)
            jobs.append(parent)

    # The worklist: what each job does next.

    def go_on(self, jobs: list[Job], lane: Lane | None = None) -> Job | None:
        """Take jobs further, up to their next calls. Launch these where they belong, but the first
        of `lane`, which is returned for the caller to make."""
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
                job.lane.launch(job)
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
            job.todo, job.answer = SETTLE, Outcome(False, error, attempts=0)
        except BaseException as error:  # of an attribute that `output=` names
            self.fail(error)
            job.todo = UNWIND
        else:
            if execution.is_surrounded(job.step):
                job.entered = perf_counter()  # it may end without a call: its value is cached
                # Hooks and attempts of one call share a copy of the contextvars.
                job.variables = self.variables.copy()
                job.effects = execution.effects_of(job.index, (job.args, job.kwargs))
                job.todo, job.answer = ADVANCE, None
            elif job.step.node.uses:
                job.todo = CLAIM

    def _advance(self, job: Job, jobs: list[Job]) -> None:
        """A call that is a generator of effects takes its next step."""
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
        except BaseException as error:  # of our own, or Ctrl-C in the middle of it: the job ends
            if job.index == _NO_NODE or not isinstance(error, Exception):
                self.fail(error)
            else:
                outcome = Outcome(False, error)
        if effect is None:  # no longer while that is handled: it is no error's context
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

    def _take(self, job: Job, effect: Any) -> None:
        """Make an effect that calls something the job's next call."""
        job.todo = CALL
        if isinstance(effect, Invoke):
            if effect.cleans_up:
                job.phase = CLEANS
            job.func, job.args, job.kwargs = effect.func, effect.args, _NO_KEYWORDS
            job.timeout = None  # but for what cleans up: see `begins`
            job.lane = self.lanes.loop if effect.is_async else self.lanes.home
        else:
            job.func, (job.args, job.kwargs) = job.step.call, effect
            job.timeout = job.step.node.timeout
            nested = job.step.node.workflow is not None
            job.lane = None if nested else self._lane_of(job)
            if job.step.node.uses:
                job.todo = CLAIM

    def _conclude(self, job: Job, jobs: list[Job]) -> None:
        """A job's call ended."""
        outcome = job.answer
        job.deadline, job.is_late = None, False
        if job.phase is CANCELLED or outcome is STOPPED:
            self._unwind(job, jobs)
        elif job.effects is None:
            self._settle(job, jobs)
        else:
            job.answer = outcome.answer()
            self._advance(job, jobs)

    def _unwind(self, job: Job, jobs: list[Job]) -> None:
        """A job that was cut off ends, once its cleanup hook has been called."""
        effects, job.effects = job.effects, None
        job.todo, job.answer = SETTLE, STOPPED
        self._give_back(job)
        if effects is not None:
            effects.close()  # so that others who wait for what it computes take over
            policy = job.step.policy
            if policy is not None and job.started and job.phase is not CLEANS:
                job.phase = CLEANS
                job.effects = policy.effects_of_cancelled(job.execution)
                job.todo, job.answer = ADVANCE, None
        jobs.append(job)

    def _settle(self, job: Job, jobs: list[Job]) -> None:
        """The job is done: finish its node."""
        outcome, job.answer = job.answer, None
        execution, ready = job.execution, []
        if outcome is not STOPPED:
            try:
                started = job.started or job.entered or perf_counter()
                ready = execution.finish(job.index, outcome, started, self.guard())
            except BaseException as error:  # of a handler or condition that ends the program, say
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

    def _left(self, job: Job, ready: list[int]) -> tuple[list[Job], _Open | None]:
        """A job has ended: the jobs to go on with, and its execution, if that has ended."""
        opened = self._open[job.execution]
        self._running.discard(job)
        self._slots.give_back(job)
        self._add(opened, ready)
        opened.jobs -= 1
        more: list[Job] = []
        if self._sleeping and opened.execution.stopped:
            more = [self._roused(each) for each in list(self._sleeping) if each.execution.stopped]
        more.extend(self._picked())
        return more, opened if not opened.jobs and self._has_ended(opened, more) else None

    def _call_nested(self, job: Job, jobs: list[Job]) -> None:
        """Begin with the workflow that is nested in a node."""
        generation = job.generation
        if not self.begins(job, generation):
            jobs.extend(self.ended(job, generation, STOPPED))
            return
        try:
            child = job.execution.child(job.index, job.kwargs)
            child.open()
        except failures() as error:
            jobs.extend(self.ended(job, generation, Outcome(False, error)))
        except BaseException as error:
            jobs.extend(self.crashed(job, generation, error))
        else:
            self.watch(job, generation)
            self._enter(child, job, generation, jobs)

    def _return(self, job: Job, jobs: list[Job]) -> None:
        """The workflow that is nested in a node ended."""
        generation, outcome = job.answer
        job.answer = None
        jobs.extend(reversed(self.ended(job, generation, outcome)))

    # Calls, as lanes report them.

    def begins(self, job: Job, generation: int) -> bool:
        """Must be called by a lane before it makes a call. False if the call must not be made, and
        ends as STOPPED instead."""
        if self.over or job.generation != generation:
            return False
        if self.ending is not None and job.phase is CLEANS:
            job.timeout = self._grace()
        # In this order: who cuts the run short marks the job first, and then looks whether it is
        # out. So either of the two sees the other.
        job.is_out = True
        if job.phase is CANCELLED:
            return False
        if job.started:
            return True
        execution = job.execution
        if execution.stopped:
            return False
        if self._deadline is not None and self.clock() > self._deadline:
            self.abort("timed_out")
            return False
        job.started = perf_counter()
        if execution.observers is not None:
            with self.guard():
                execution.note_start(job.index)
            execution.deliver()
        # Things may have changed by now, where somebody was told.
        return not self.over and job.generation == generation and job.phase is not CANCELLED

    def _grace(self) -> float:
        return max(self._grace_ends - self.clock(), _LEAST)

    def run_here(self, job: Job, generation: int, lane: Lane) -> Job | None:
        """Make a call from this thread; another job of the same lane to go on with."""
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
        del outcome  # a failure's traceback leads to this frame
        return self.go_on(jobs, lane)

    def _follow(self, job: Job, generation: int, lane: Lane) -> Job | None:
        """Make the plain call of a job, and those that it leads to one by one, each with little
        more than the call itself; another job of the same lane to go on with."""
        token, guard = current.set(job.execution), self.guard()
        try:
            while True:
                try:
                    kwargs = job.kwargs
                    value = job.func(*job.args, **kwargs) if kwargs else job.func(*job.args)
                except failures() as error:
                    others = self.ended(job, generation, Outcome(False, error))
                    break
                except BaseException as error:
                    others = self.crashed(job, generation, error)
                    break
                if type(value) in LOOKED_AT:
                    others = self.called(job, generation, Outcome(True, value))
                    break
                goes_on, others = self.went_on(job, generation, value, guard)
                del value  # who deletes it from the results frees it
                if not goes_on:
                    break
                generation = job.generation
                if others:
                    self.go_on(others)
        finally:
            current.reset(token)
        return self.go_on(others, lane)

    def went_on(
        self, job: Job, generation: int, value: Any, guard: AbstractContextManager[object]
    ) -> tuple[bool, list[Job]]:
        """A plain call returned, in the thread whose `guard` that is. Whether the job goes on in
        the same place, with a node that is ready now; and the jobs to go on with."""
        execution, index = job.execution, job.index
        with guard:
            if self.over:
                return False, []
            if job.generation != generation:
                return False, self._picked()
            if job.phase is CANCELLED:  # it came back all the same
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
        """A sync call returned; if it returned a coroutine, the call ends with that."""
        if outcome.ok and type(outcome.value) is CoroutineType:
            if self.over or job.generation != generation:
                outcome.value.close()
                self.returned(job, generation)
            else:
                if job.timer is not None:
                    job.timer.cancel()  # the loop keeps its time from now on
                self.lanes.loop.adopt(job, generation, outcome.value)
            return []
        return self.ended(job, generation, outcome)

    def ended(self, job: Job, generation: int, outcome: Outcome) -> list[Job]:
        """A job's call ended: the jobs to go on with. Whoever says so first decides."""
        if self._held:
            self.returned(job, generation)
        deadline = job.deadline
        if deadline is not None and job.generation == generation and self.clock() > deadline:
            job.is_late = True
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
        """A job's call raised what is no failure, which ends the run: the jobs to go on with."""
        self.returned(job, generation)
        with self.guard():
            is_owner = not self.over and job.generation == generation
            if is_owner:
                self._take_in(job)
        self.fail(error)
        if not is_owner:
            return []
        job.todo, job.answer = CONCLUDE, STOPPED
        return [job]

    def _take_in(self, job: Job) -> None:
        """The job's call has ended, or nobody waits for it any more: the job belongs to the calling
        thread."""
        job.generation += 1
        job.is_out = False
        if job.timer is not None:
            job.timer.cancel()
            job.timer = None

    def watch(self, job: Job, generation: int) -> None:
        """Give the call that begins now up at its timeout, if it has one."""
        timeout = job.timeout
        if timeout is None:
            return
        with self.guard():
            if not self.over and job.generation == generation:
                job.deadline = self.clock() + timeout
                job.timer = self.timers.add(timeout, partial(self._time_out, job, generation))

    def _time_out(self, job: Job, generation: int) -> None:
        jobs: list[Job] = []
        given_up = [job]
        with self.guard():
            if self.over or job.generation != generation or not job.is_out:
                return
            job.timer, job.is_late = None, True
            if job.lane is None:  # it ends when all that is nested in it has ended
                jobs, given_up = self._stopped(job.execution.children[job.step.name])
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
        if claim.take(wake):
            self.wake(job)

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
            job.claim.give_back()
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

    # Waits: between attempts, and for something to be ready.

    def _wait(self, job: Job, effect: Sleep | Await, jobs: list[Job]) -> None:
        """Wait without a slot, but in a sequential run; a stopped run does not wait."""
        wake: _Wake | None = None
        job.todo = ADVANCE
        with self.guard():
            if self.over:
                return
            if job.execution.stopped:
                job.answer = False
                jobs.append(job)
                return
            self._sleeping.add(job)
            if isinstance(effect, Sleep):
                job.timer = self.timers.add(effect.seconds, partial(self.wake, job))
            else:
                job.timer = wake = _Wake(self, job)
            if not self._slots.is_ordered:
                self._slots.give_back(job)
                jobs.extend(reversed(self._picked()))
        if wake is not None:
            effect.waitable.when_ready(wake)  # type: ignore[union-attr]

    def wake(self, job: Job) -> None:
        """What a job waited for has come."""
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
                self._sleeping.discard(job)
                job.timer = None
                self._slots.queue(job)
                jobs = self._picked()
        self.go_on(jobs)

    def _roused(self, job: Job) -> Job:
        """A job waits no more, whether or not a slot is free."""
        self._sleeping.discard(job)
        job.timer.cancel()
        job.timer = None
        if not self._slots.is_ordered:
            self._slots.take(job)
        job.todo, job.answer = (CONCLUDE, STOPPED) if job.todo is CLAIM else (ADVANCE, False)
        return job


_NO_NODE: Final = -1
_ALONE: Final[tuple[bool, list[Job]]] = (True, [])  # a job goes on, and made no other ready
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
"""What `go_on` does with a job: each step may put jobs on the stack, this one included."""


def _nothing() -> None: ...


def _nowhere(function: Callable[[], None]) -> None: ...


def call_here(job: Job) -> Outcome:
    """Make a job's sync call here and now."""
    if job.variables is not None:
        return job.variables.run(_call, job)
    return _call(job)


def _call(job: Job) -> Outcome:
    token = current.set(job.execution)
    try:
        return Outcome(True, job.func(*job.args, **job.kwargs))
    except failures() as error:
        return Outcome(False, error)
    finally:
        current.reset(token)


def late_error(job: Job) -> TimeoutError:
    """What a call failed with that did not end in time."""
    if job.phase is CLEANS:
        return TimeoutError(
            f"cleaning up after {job.execution.name!r} took more than the {GRACE:g} s that a run "
            "has for it once it is cut short",
            timeout=job.timeout,
        )
    timeout = job.step.node.timeout
    return TimeoutError(
        f"node {job.path!r} did not end within its timeout of {timeout:g} s",
        node_name=job.path,
        timeout=timeout,
    )


def too_late(job: Job, outcome: Outcome) -> Outcome:
    """How a call ended that ended after its time: what it gave or raised comes to nothing."""
    error = late_error(job)
    if isinstance(outcome.value, Exception) and not outcome.ok:
        error.__cause__ = outcome.value
    return Outcome(False, error, outcome.attempts or 1)
