"""What all concurrent ways of running share: jobs, slots, lanes, attempts, timers and the end.

A *job* is a node on its way through its call: one call of its function, or, where more was asked
for, a generator of effects (hooks, attempts, waits) that is carried out step by step. A *lane* is a
place where calls happen: worker threads, an event loop, processes, the caller's own thread. Whoever
finishes a call, wherever that is, tells the dispatcher; it settles the node under one lock, and
gives back jobs to go on with. The *coordinator* is the caller: it waits for the end, keeps time,
and lends its thread to inline nodes.

A job belongs to one thread at a time, or, from the beginning of a call to its end, to its lane
(`is_out`). Only its owner takes it further. Who wants a job to stop that another thread owns marks
it, and the owner sees the mark at its next step.

A run that is cut short (cancelled, late, or ended by something that is no node's failure) takes the
same way as any other: what runs is cancelled or abandoned, cleanup hooks and the closings of
resources are jobs like others, and the run has ended when they have. Being interrupted again
changes nothing about that.

One lock guards all that is shared between threads (the schedules, results, counters and queues of a
run and of those nested in it), so nothing here relies on the interpreter's own lock. No user code
is called while it is held.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from heapq import heappop, heappush
from threading import Lock, get_ident
from time import monotonic, perf_counter, sleep
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final

from fast_dag.call.effects import (
    LOOKED_AT,
    STOPPED,
    Invoke,
    Outcome,
    Sleep,
)
from fast_dag.drive.timers import Timers
from fast_dag.errors import TimeoutError, failures
from fast_dag.run.run import ASYNC, current_run

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from contextlib import AbstractContextManager
    from contextvars import Context as Variables

    from fast_dag.call.effects import Await, Effect
    from fast_dag.define.node import Node
    from fast_dag.drive.lanes import Lanes
    from fast_dag.run.run import Run, Settings

GRACE = 5.0
"""Seconds that cleanup hooks and the closings of resources have in all once a run is cut short."""

_LEAST = 0.25
"""Seconds that each of them has, though the others took more."""

SIGNALS_SEEN = 0.5
"""Seconds after which a waiting caller looks around. A signal that comes just before a thread
blocks does not end its wait (no wait in Python is safe from that), and Ctrl-C is to end a run
promptly."""

# What is to be done with a job that is handed on.
BEGIN: Final = 0  # gather its arguments and make its first call
CALL: Final = 1  # make the call that it has
RESUME: Final = 2  # its effects go on with `answer`
END: Final = (
    3  # its nested run ended: `answer` is the generation it was launched in, and the outcome
)

# How far a job is.
RUNS: Final = 0
CANCELLED: Final = 1  # it is to end, and to clean up
CLEANS: Final = 2  # its cleanup hook is at work, or it closes resources: these are let end


class Job:
    """One node of one run. `func(*args, **kwargs)` is the call to be made next, in `lane`; None is
    a nested workflow's. `generation` changes whenever a call begins or ends: what ends with an
    older number is late and is dropped."""

    __slots__ = (
        "answer",
        "args",
        "deadline",
        "effects",
        "entered",
        "func",
        "generation",
        "index",
        "is_late",
        "is_out",
        "is_plain",
        "kwargs",
        "lane",
        "node",
        "parent",
        "phase",
        "run",
        "started",
        "takes_slot",
        "timeout",
        "timer",
        "todo",
        "variables",
    )

    def __init__(self, run: Run, index: int, node: Node[..., Any], parent: Job | None) -> None:
        self.run = run
        self.index = index
        self.node = node
        self.parent = parent
        self.lane: Lane | None = None
        self.func: Callable[..., Any] = node.func
        self.args: Sequence[Any] = ()
        self.kwargs: dict[str, Any] = {}
        self.timeout = node.timeout
        self.deadline: float | None = None  # of the call that is being made, where it has one
        self.timer: Any = None  # what is to be cancelled once that call, or a wait, has ended
        self.is_plain = False  # see `Plan.plain`
        self.is_out = False
        self.is_late = False
        self.effects: Generator[Effect, Any, Outcome] | None = None
        self.variables: Variables | None = None
        self.todo = BEGIN
        self.answer: Any = None
        self.phase = RUNS
        self.generation = 0
        self.started = self.entered = 0.0
        self.takes_slot = False

    @property
    def order(self) -> tuple[int, ...]:
        """Where a sequential run has this job: by definition, nested ones in their node's place."""
        order: list[int] = []
        job: Job | None = self
        while job is not None:
            order.append(job.index)
            job = job.parent
        return tuple(reversed(order))

    @property
    def path(self) -> str:
        """The node's name, from the outermost run on."""
        return self.run.path_of(self.index)

    def is_inside(self, run: Run) -> bool:
        """Whether it is a job of `run`, or of one that is nested in it."""
        job: Job | None = self
        while job is not None:
            if job.run is run:
                return True
            job = job.parent
        return False

    def __lt__(self, other: Job) -> bool:
        return self.order < other.order


class Lane(ABC):
    """A place where the calls of jobs happen."""

    calls_here = False  # in the thread that takes a job, by a mere call
    ends_calls = False  # calls that are given up end soon, and say so

    @abstractmethod
    def launch(self, job: Job) -> None:
        """Start the job's call, soon and without blocking; report its outcome to `ended`."""

    def withdraw(self, job: Job) -> bool:
        """Take a call back that was launched and has to wait for its beginning; whether there was
        one. The job belongs to the caller then."""
        return False

    def give_up(self, job: Job) -> None:  # noqa: B027  most lanes have nothing to do
        """The job's present call is not waited for any more; it ends soon where `ends_calls`."""

    @abstractmethod
    def close(self, *, abandon: bool) -> None:
        """End what was started for this lane; with `abandon`, though calls may still be running."""


class _Patience:
    """A lock as worker threads take it: who finds it taken comes back a moment later, and never
    stands in line.

    A thread in line owns the lock once it is free, and has yet to wait for the interpreter, up to
    5 ms. The one that has the interpreter soon finds the lock taken and stands in line in turn:
    from then on threads of short nodes would change places at every node."""

    __slots__ = ("_release", "_try")

    def __init__(self, lock: Lock) -> None:
        self._try, self._release = lock.acquire, lock.release

    def __enter__(self) -> None:
        while not self._try(False):
            sleep(_A_MOMENT)

    def __exit__(self, *exc_info: object) -> None:
        self._release()


_A_MOMENT = 50e-6
"""Seconds: less than what a thread waits for the interpreter anyway."""


class _Wake:
    """Wakes a job when a computation of another run has ended; cancelled, it holds nothing."""

    __slots__ = ("dispatcher", "job")

    def __init__(self, dispatcher: Dispatcher, job: Job) -> None:
        self.dispatcher: Dispatcher | None = dispatcher
        self.job: Job | None = job

    def __call__(self) -> None:
        """Called by the other run, which must not come to harm where this one is over."""
        dispatcher, job = self.dispatcher, self.job
        if dispatcher is not None and job is not None and not dispatcher.over:
            with suppress(RuntimeError):  # its loop was closed just now
                dispatcher.soon(lambda: dispatcher.wake(job))

    def cancel(self) -> None:
        """Wake nobody."""
        self.dispatcher = self.job = None


class Dispatcher:
    """Executes one outermost run and all that are nested in it.

    Parameters
    ----------
    run:
        The outermost run. Made in the context whose contextvars its nodes are to see.
    clock:
        Tells the time in seconds, for deadlines and waits.

    The coordinator gives it its `lanes`, its way to `finish` and its way to do something `soon`; it
    waits for the `timers`.
    """

    def __init__(self, run: Run, clock: Callable[[], float] = monotonic) -> None:
        self.run = run
        self.clock = clock
        self.variables = copy_context()
        self.over = False  # what happens from now on is of no interest
        self.is_killed = False  # though something may still be at work
        self.ending: str | None = None  # the status of a run that is cut short
        self.crash: BaseException | None = None
        self.timers = Timers(clock)
        self._lock = Lock()
        self._patience = _Patience(self._lock)
        self._home = get_ident()
        self.lanes: Lanes
        self._free, self._bounds_all = slots_of(run.settings)
        # One job at a time, and waits between attempts keep the slot.
        self._ordered = run.settings.ordered
        # Whether plain calls happen in this process, so that those after them can follow at once.
        self._follows = not self._ordered and run.settings.stays_here
        self._deadline: float | None = None
        self._grace_ends = 0.0
        self._waiting: deque[Job] = deque()  # for a slot
        self._unbounded: list[Job] = []  # that need none
        self._heap: list[Job] = []  # both, where the order counts
        self._open: dict[Run, int] = {}  # of each open run, how many of its jobs have not ended
        self._generations: dict[
            Run, int
        ] = {}  # of each open run, that of its node when it was launched
        self._running: set[Job] = set()  # those that have a slot, or wait between attempts
        self._sleeping: set[Job] = set()
        self.finish: Callable[[], None] = _nothing
        self.soon: Callable[[Callable[[], None]], None] = _nowhere

    def guard(self) -> AbstractContextManager[object]:
        """The lock, for a `with`. The coordinator takes it as it is: a Ctrl-C between taking and
        entering would leave it taken forever, but for locks, which do both at once."""
        return self._lock if get_ident() == self._home else self._patience

    # Begin and end.

    def begin(self) -> list[Job]:
        """Begin with the run, which is open; the jobs to launch."""
        timeout = self.run.settings.timeout
        if timeout is not None:
            self._deadline = self.clock() + timeout
            self.timers.add(timeout, partial(self.abort, "timed_out"))
        return self._opened(self.run, None, 0)

    def _opened(self, run: Run, parent: Job | None, generation: int) -> list[Job]:
        if run.resources is not None:
            run.resources.when_lost = partial(self._lost, run)
        ready: list[int] = []
        try:
            ready = run.begin(eager=not self._ordered)
        except BaseException as error:  # of a condition that an event asks
            self.fail(error)
        with self.guard():
            if self.over:
                return []
            self._open[run] = 0
            self._generations[run] = generation
            self._add(run, ready, parent)
            closed = None
            jobs = self._picked()
            if not self._open[run]:
                jobs, closed = self._emptied(run, parent, jobs)
        return jobs if closed is None else self._closed(closed, parent, jobs)

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
            jobs, given_up = self._stopped(self.run)
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
            runs = list(self._open)
            self._open.clear()
            jobs = list(self._running)
        for job in jobs:
            if job.effects is not None:
                with suppress(ValueError):  # it takes a step just now, in another thread
                    job.effects.close()  # so that others who wait for what it computes take over
        for run in reversed(runs):
            run.close(self.ending or "cancelled")
        self.finish()

    def let_go(self) -> None:
        """The run has ended, and nothing is to hold it any more."""
        self.timers.clear()
        self.finish, self.soon = _nothing, _nowhere
        del self.lanes

    def _lost(self, run: Run) -> None:
        """A resource broke while it was open: its run has failed."""
        with self.guard():
            if self.over or run not in self._open:
                return
            jobs, given_up = self._stopped(run)
        self._cut(jobs, given_up)

    def _stopped(self, run: Run) -> tuple[list[Job], list[Job]]:
        """Stop a run, and what is nested in it: the jobs to go on with, and those whose calls are
        given up."""
        run.stop()
        jobs: list[Job] = []
        given_up: list[Job] = []
        for job in list(self._running):
            if job.phase is CLEANS or not job.is_inside(run):
                continue
            job.phase = CANCELLED
            if job in self._sleeping:
                jobs.append(self._roused(job))
            elif job.is_out and job.lane is not None:
                given_up.append(job)
                if not job.lane.ends_calls:
                    self._take_in(job)
                    job.todo = RESUME
                    jobs.append(job)
            elif job.lane is not None and job.lane.withdraw(job):
                job.todo = RESUME
                jobs.append(job)
        return [*jobs, *self._picked()], given_up

    def _cut(self, jobs: list[Job], given_up: list[Job]) -> None:
        for job in given_up:
            self._give_up(job)
        self.go_on(jobs)

    def _give_up(self, job: Job) -> None:
        """What a call still does is of no interest any more."""
        lane = job.lane
        assert lane is not None
        lane.give_up(job)
        if not lane.ends_calls:
            self.lanes.loop.give_up(job)  # it may have returned a coroutine
            if job.variables is not None:
                job.variables = job.variables.copy()  # the call is still inside of the old ones

    # Jobs.

    def _add(self, run: Run, ready: list[int], parent: Job | None) -> None:
        self._open[run] += len(ready)
        # The first comes last, to the front: whoever made them ready goes on with it.
        follows = self._follows and run.observers is None
        for index in reversed(ready):
            node = run.plan.nodes[index]
            job = Job(run, index, node, parent)
            if node.workflow is None:
                job.is_plain = follows and run.plan.plain[index] is not None
                job.lane = self._lane_of(job)
                job.takes_slot = self._bounds_all or not node.signature.is_async
            self._queue(job)

    def _lane_of(self, job: Job) -> Lane:
        policy = job.run.plan.policies.get(job.index)
        return self.lanes.of(job.node, stays=policy is not None and bool(policy.resources))

    def _queue(self, job: Job) -> None:
        if self._ordered:
            heappush(self._heap, job)
        elif job.takes_slot:
            self._waiting.appendleft(job)
        else:
            self._unbounded.append(job)

    def _picked(self) -> list[Job]:
        """Jobs that may go on now; they have their slots."""
        if self._ordered:
            picked = [heappop(self._heap)] if self._heap and self._free else []
            for job in picked:
                self._free -= job.takes_slot
        else:
            picked, self._unbounded = self._unbounded[::-1], []
            waiting = self._waiting
            while waiting and (self._free > 0 or waiting[0].run.stopped):
                self._free -= 1
                picked.append(waiting.popleft())
        for job in picked:
            if job.todo is RESUME:  # it has waited for this
                job.answer = not job.run.stopped
                continue
            job.generation += 1
            if job.run.stopped:
                job.phase = CANCELLED
            else:
                self._running.add(job)
                job.run.record.schedule.start(job.index)  # type: ignore[union-attr]
        return picked

    def go_on(self, jobs: list[Job], lane: Lane | None = None) -> Job | None:
        """Take jobs further, up to their next calls. Launch these where they belong, but the first
        of `lane`, which the caller makes."""
        mine = None
        jobs.reverse()
        while jobs:
            job = jobs.pop()
            more = self._taken_further(job)
            if more is None:
                if job.lane is lane and mine is None:
                    mine = job
                else:
                    job.lane.launch(job)  # type: ignore[union-attr]
            elif more:
                jobs.extend(reversed(more))
        return mine

    def _taken_further(self, job: Job) -> list[Job] | None:
        """One step of a job: the jobs to go on with. None where the job's call is next."""
        todo, job.todo = job.todo, CALL
        if todo is END:
            generation, outcome = job.answer
            job.answer = None
            return self.ended(job, generation, outcome)
        if job.phase is CANCELLED:
            return self._unwound(job)
        if todo is RESUME:
            answer, job.answer = job.answer, None
            return self._advanced(job, answer)
        if todo is BEGIN:
            try:
                job.args, job.kwargs = job.run.gather(job.index)
            except failures() as error:
                return self._settled(job, Outcome(False, error, attempts=0))
            except BaseException as error:  # of an attribute that `output=` names
                self.fail(error)
                return self._unwound(job)
            if job.index in job.run.plan.policies:
                job.entered = perf_counter()  # it may end before its first call: a value is cached
                # Hooks and attempts of one call share a copy of the contextvars.
                job.variables = self.variables.copy()
                job.effects = job.run.surround(job.index, job.args, job.kwargs)
                return self._advanced(job, None)
        return self._launched_nested(job) if job.lane is None else None

    def _take(self, job: Job, effect: Effect) -> None:
        """Make an effect that calls something the job's next call."""
        if isinstance(effect, tuple):
            job.func, (job.args, job.kwargs) = job.node.func, effect
            job.timeout = job.node.timeout
            nested = job.node.workflow is not None
            job.lane = None if nested else self._lane_of(job)
        else:
            assert isinstance(effect, Invoke)
            if effect.cleans_up:
                job.phase = CLEANS
            job.func, job.args, job.kwargs = effect.func, effect.args, {}
            job.timeout = None  # but for what cleans up: see `begins`
            job.lane = self.lanes.loop if effect.is_async else self.lanes.home

    def _grace(self) -> float:
        return max(self._grace_ends - self.clock(), _LEAST)

    def _launched_nested(self, job: Job) -> list[Job]:
        generation = job.generation
        if not self.begins(job, generation):
            return self.ended(job, generation, STOPPED)
        try:
            child = job.run.child(job.index, job.kwargs)
            child.open()
        except failures() as error:
            return self.ended(job, generation, Outcome(False, error))
        except BaseException as error:
            return self.crashed(job, generation, error)
        self.watch(job, generation)
        return self._opened(child, job, generation)

    # Calls.

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
        if job.run.stopped:
            return False
        if self._deadline is not None and self.clock() > self._deadline:
            self.abort("timed_out")
            return False
        job.started = perf_counter()
        observers = job.run.observers
        if observers is not None:
            with self.guard():
                job.run.note_start(job.index)
            observers.deliver()
        # Things may have changed by now, where somebody was told.
        return not self.over and job.generation == generation and job.phase is not CANCELLED

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
        token, guard = current_run.set(job.run), self.guard()
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
            current_run.reset(token)
        return self.go_on(others, lane)

    def went_on(
        self, job: Job, generation: int, value: Any, guard: AbstractContextManager[object]
    ) -> tuple[bool, list[Job]]:
        """A plain call returned, in the thread whose `guard` that is. Whether the job goes on in
        the same place, with a node that is ready now; and the jobs to launch."""
        run, index = job.run, job.index
        with guard:
            if self.over:
                return False, []
            if job.generation != generation:
                return False, self._picked()
            if job.phase is CANCELLED:  # it came back all the same
                self._take_in(job)
                job.todo = RESUME
                return False, [job]
            job.generation += 1
            now = perf_counter()
            ready = run.settle_plain(index, value, job.started, now)
            if ready:
                plan, following = run.plan, ready[0]
                is_alike = plan.plain[following] == plan.plain[index]
                args = run.start_plain(following) if is_alike else None
                if args is not None:
                    node = job.node = plan.nodes[following]
                    job.index, job.func = following, node.func
                    job.args, job.kwargs, job.started = args, _NO_KEYWORDS, now
                    if len(ready) == 1:
                        return _ALONE
                    self._add(run, ready[1:], job.parent)
                    return True, self._picked()
            job.is_out = False
            jobs, closed = self._left(job, ready)
        return False, self._after(job, jobs, closed)

    def called(self, job: Job, generation: int, outcome: Outcome) -> list[Job]:
        """A sync call returned; where it returned a coroutine, the call ends with that."""
        if outcome.ok and type(outcome.value) is CoroutineType:
            if self.over or job.generation != generation:
                outcome.value.close()
            else:
                if job.timer is not None:
                    job.timer.cancel()  # the loop keeps its time from now on
                self.lanes.loop.adopt(job, generation, outcome.value)
            return []
        return self.ended(job, generation, outcome)

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
                jobs, given_up = self._stopped(job.run.children[job.run.plan.names[job.index]])
            elif not job.lane.ends_calls:
                self._take_in(job)
        for each in given_up:
            self._give_up(each)
        if not job.is_out:
            jobs.extend(self._concluded(job, Outcome(False, late_error(job))))
        self.go_on(jobs)

    def _take_in(self, job: Job) -> None:
        """The job's call has ended, or is of no interest any more: the job belongs to the calling
        thread."""
        job.generation += 1
        job.is_out = False
        if job.timer is not None:
            job.timer.cancel()
            job.timer = None

    def ended(self, job: Job, generation: int, outcome: Outcome) -> list[Job]:
        """A job's call ended: the jobs to launch now, one of which the caller may take. Whoever
        says so first decides."""
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
        return self._concluded(job, outcome)

    def crashed(self, job: Job, generation: int, error: BaseException) -> list[Job]:
        """A job's call raised what is no failure, which ends the run: the jobs to launch now."""
        with self.guard():
            is_owner = not self.over and job.generation == generation
            if is_owner:
                self._take_in(job)
        self.fail(error)
        return self._concluded(job, STOPPED) if is_owner else []

    def _concluded(self, job: Job, outcome: Outcome) -> list[Job]:
        job.deadline, job.is_late = None, False
        if job.phase is CANCELLED or outcome is STOPPED:
            return self._unwound(job)
        if job.effects is not None:
            return self._advanced(job, outcome.answer())
        return self._settled(job, outcome)

    def _unwound(self, job: Job) -> list[Job]:
        """A job that was cut off ends, once its cleanup hook has been called."""
        effects, job.effects = job.effects, None
        if effects is not None:
            effects.close()  # so that others who wait for what it computes take over
        if effects is None or not job.started or job.phase is CLEANS:
            return self._settled(job, STOPPED)
        job.phase = CLEANS
        job.effects = job.run.plan.policies[job.index].effects_of_cancelled(job.run)
        return self._advanced(job, None)

    def _advanced(self, job: Job, answer: Any) -> list[Job]:
        """A call that is a generator of effects takes its next step."""
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
            return self._settled(job, outcome)
        if job.phase is CANCELLED:
            return self._unwound(job)
        if isinstance(effect, (tuple, Invoke)):
            self._take(job, effect)
            return [job]
        return self._put_to_sleep(job, effect)

    def _settled(self, job: Job, outcome: Outcome) -> list[Job]:
        """The job is done."""
        verdict = None
        if outcome is not STOPPED:
            try:
                verdict = job.run.judge(job.index, outcome)
            except BaseException as error:  # of a handler or condition that ends the program, say
                self.fail(error)
        with self.guard():
            if self.over:
                return []
            ready: list[int] = []
            if verdict is not None:
                started = job.started or job.entered or perf_counter()
                ready = job.run.settle(job.index, verdict, started)
            elif not job.started:
                job.run.take_back(job.index)
            jobs, closed = self._left(job, ready)
        return self._after(job, jobs, closed)

    def _left(self, job: Job, ready: list[int]) -> tuple[list[Job], Run | None]:
        """A job is settled: the jobs to go on with, and its run, if that has ended."""
        run = job.run
        self._running.discard(job)
        self._free += job.takes_slot
        self._add(run, ready, job.parent)
        self._open[run] -= 1
        jobs: list[Job] = []
        if self._sleeping and run.stopped:
            jobs = [self._roused(each) for each in list(self._sleeping) if each.run.stopped]
        jobs.extend(self._picked())
        if not self._open[run]:
            return self._emptied(run, job.parent, jobs)
        return jobs, None

    def _emptied(
        self, run: Run, parent: Job | None, jobs: list[Job]
    ) -> tuple[list[Job], Run | None]:
        """All jobs of a run have ended; one more closes its resources, if any is open."""
        effects = run.release(self._status_of(run))
        if effects is None:
            del self._open[run]
            self.over = run is self.run
            return jobs, run
        job = Job(run, _NO_NODE, run.plan.nodes[0], parent)
        job.effects = effects
        job.variables = self.variables.copy()
        job.variables.run(current_run.set, run)
        job.started = perf_counter()
        job.phase, job.todo = CLEANS, RESUME
        self._open[run] = 1
        self._running.add(job)
        jobs.append(job)
        return jobs, None

    def _status_of(self, run: Run) -> str | None:
        """How a run ends that nothing is left to do of; None where its errors tell."""
        if self.ending is not None:
            return self.ending
        if run.cut_short:
            return "cancelled"
        is_late = run is self.run and self._deadline is not None and not run.stopped
        return "timed_out" if is_late and self.clock() > self._deadline else None  # type: ignore[operator]

    def _after(self, job: Job, jobs: list[Job], closed: Run | None) -> list[Job]:
        """What follows once the lock is released."""
        if job.run.observers is not None:
            job.run.observers.deliver()
        return jobs if closed is None else self._closed(closed, job.parent, jobs)

    def _closed(self, run: Run, parent: Job | None, jobs: list[Job]) -> list[Job]:
        """A run is over: the node that it is nested in goes on with how it ended."""
        generation = self._generations.pop(run)
        status = self._status_of(run)
        if run.resources is not None:
            run.resources.when_lost = None
        outcome = STOPPED
        try:
            run.close(status)
            if parent is not None and status is None:
                error = run.exception()
                outcome = Outcome(error is None, run.value if error is None else error)
        except BaseException as problem:  # of a mapping that the user gave as metadata, say
            self.crash = problem
            self.fail(problem)
        if parent is None:
            self.finish()
            return jobs
        parent.todo, parent.answer = END, (generation, outcome)
        jobs.append(parent)
        return jobs

    # Waits between attempts.

    def _put_to_sleep(self, job: Job, effect: Sleep | Await) -> list[Job]:
        """Wait without a slot, but in a sequential run; a stopped run does not wait."""
        wake: _Wake | None = None
        with self.guard():
            if self.over:
                return []
            if job.run.stopped:
                job.todo, job.answer = RESUME, False
                return [job]
            self._sleeping.add(job)
            if isinstance(effect, Sleep):
                job.timer = self.timers.add(effect.seconds, partial(self.wake, job))
            else:
                job.timer = wake = _Wake(self, job)
            picked: list[Job] = []
            if not self._ordered:
                self._free += job.takes_slot
                picked = self._picked()
        if wake is not None:
            effect.flight.when_ready(wake)  # type: ignore[union-attr]
        return picked

    def wake(self, job: Job) -> None:
        """What a job waited for has come."""
        with self.guard():
            if self.over or job not in self._sleeping:
                return
            if self._ordered:
                jobs = [self._roused(job)]
                job.answer = True
            else:
                self._sleeping.discard(job)
                job.timer, job.todo = None, RESUME
                self._queue(job)
                jobs = self._picked()
        self.go_on(jobs)

    def _roused(self, job: Job) -> Job:
        """A job waits no more, whether or not a slot is free."""
        self._sleeping.discard(job)
        job.timer.cancel()
        job.timer = None
        self._free -= job.takes_slot and not self._ordered
        job.todo, job.answer = RESUME, False
        return job


_NO_NODE = -1
_ALONE: tuple[bool, list[Job]] = (True, [])  # a job goes on, and made no other ready
_NO_KEYWORDS: dict[str, Any] = {}


def _nothing() -> None: ...


def _nowhere(function: Callable[[], None]) -> None: ...


def call_here(job: Job) -> Outcome:
    """Make a job's sync call here and now."""
    if job.variables is not None:
        return job.variables.run(_call, job)
    return _call(job)


def _call(job: Job) -> Outcome:
    token = current_run.set(job.run)
    try:
        return Outcome(True, job.func(*job.args, **job.kwargs))
    except failures() as error:
        return Outcome(False, error)
    finally:
        current_run.reset(token)


def late_error(job: Job) -> TimeoutError:
    """What a call failed with that did not end in time."""
    if job.phase is CLEANS:
        return TimeoutError(
            f"cleaning up after {job.run.name!r} took more than the {GRACE:g} s that a run has for "
            "it once it is cut short",
            timeout=job.timeout,
        )
    return TimeoutError(
        f"node {job.path!r} did not end within its timeout of {job.node.timeout:g} s",
        node_name=job.path,
        timeout=job.node.timeout,
    )


def too_late(job: Job, outcome: Outcome) -> Outcome:
    """How a call ended that ended after its time: what it gave or raised comes to nothing."""
    error = late_error(job)
    if isinstance(outcome.value, Exception) and not outcome.ok:
        error.__cause__ = outcome.value
    return Outcome(False, error, outcome.attempts or 1)


def slots_of(settings: Settings) -> tuple[int, bool]:
    """How many jobs may run at once, and whether those of async nodes count."""
    if settings.ordered:
        return 1, True
    if settings.max_workers is not None:
        return settings.max_workers, True
    cpus = cpu_count()
    if settings.executor is not None:
        # Those of the standard library and loky know how many they serve.
        return getattr(settings.executor, "_max_workers", None) or min(32, cpus + 4), False
    return (min(32, cpus + 4) if settings.mode is ASYNC else cpus), False


def cpu_count() -> int:
    """The CPUs this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this platform
        return os.cpu_count() or 1
