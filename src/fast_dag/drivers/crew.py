"""What all concurrent ways of running share: jobs, slots, lanes, attempts, timers and the end.

A *job* is a node on its way through its call: one call of its function, or, where more was asked
for, a generator of effects (hooks, attempts, waits) that is carried out step by step. A *lane* is a
place where calls happen: worker threads, an event loop, processes, the caller's own thread. Whoever
finishes a job, wherever that is, tells the crew; it settles the node under one lock, and gives back
a job to go on with. The *coordinator* is the caller: it waits for the end, keeps the time, and
lends its thread to inline nodes.

One lock guards all that is shared between threads (the schedules, results, counters and queues of a
run and of those nested in it), so nothing here relies on the interpreter's own lock. No user code
is called while it is held, but what reading a value may trigger (an attribute named by `output=`).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress
from contextvars import copy_context
from heapq import heappop, heappush
from threading import Lock, get_ident
from time import perf_counter, sleep
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from fast_dag.call.effects import LOOKED_AT, STOPPED, Await, Invoke, Outcome, Sleep
from fast_dag.errors import TimeoutError
from fast_dag.run import ASYNC, current_run

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from contextlib import AbstractContextManager
    from contextvars import Context as Variables

    from fast_dag.call.effects import Effect
    from fast_dag.drivers.lanes import Lanes
    from fast_dag.node import Node
    from fast_dag.run import Run, Settings


class Job:
    """One node of one run. `func(*args, **kwargs)` is the call to be made next, in `lane`; None is
    a nested workflow's. `turn` changes whenever a call begins or ends: what ends with an older
    number is late and is dropped."""

    __slots__ = (
        "args",
        "effects",
        "func",
        "index",
        "is_async",
        "is_plain",
        "kwargs",
        "lane",
        "node",
        "parent",
        "refused",
        "run",
        "started",
        "takes_slot",
        "timeout",
        "turn",
        "variables",
        "wakes",
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
        self.is_async = False
        self.is_plain = False  # see `Plan.plain`
        self.effects: Generator[Effect, Any, Outcome] | None = None
        self.variables: Variables | None = None
        self.refused: Outcome | None = None
        self.turn = 0
        self.started = 0.0
        self.takes_slot = False
        self.wakes = False  # has waited for its next attempt

    @property
    def order(self) -> tuple[int, ...]:
        """Where a sequential run has this job: by definition, nested ones in their node's place."""
        return (self.index,) if self.parent is None else (*self.parent.order, self.index)

    @property
    def path(self) -> str:
        """The node's name, from the outermost run on."""
        return self.run.path_of(self.index)

    def __lt__(self, other: Job) -> bool:
        return self.order < other.order


class Lane(ABC):
    """A place where the calls of jobs happen."""

    calls_here = False  # in the thread that takes a job, by a mere call

    @abstractmethod
    def launch(self, job: Job) -> None:
        """Start the job's call, soon and without blocking; `crew.ended` is told the outcome."""

    def give_up(self, job: Job) -> None:  # noqa: B027  most lanes have nothing to do
        """The job's present attempt is late and is given up."""

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

_Left = tuple[list[Job], list[Job], "Job | None", "tuple[Outcome, int] | None"]


class Crew:
    """Executes one outermost run and all that are nested in it.

    Parameters
    ----------
    run:
        The outermost run. Made in the context whose contextvars its nodes are to see.

    The coordinator gives it its `lanes` and its ways to `finish` and to `call_later` (in seconds).
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.variables = copy_context()
        self.over = False
        self.crash: BaseException | None = None
        self._lock = Lock()
        self._patience = _Patience(self._lock)
        self._home = get_ident()
        self.lanes: Lanes
        self._free, self._bounds_all = slots_of(run.settings)
        # One job at a time, and waits between attempts keep the slot.
        self._ordered = run.settings.ordered
        # Whether plain calls happen in this process, so that those after them can follow at once.
        self._follows = not self._ordered and run.settings.stays_here
        self._waiting: deque[Job] = deque()  # for a slot
        self._unbounded: list[Job] = []  # that need none
        self._heap: list[Job] = []  # both, where the order counts
        self._open: dict[Run, int] = {}  # of each open run, how many of its jobs have not ended
        self._turns: dict[Run, int] = {}  # of each open run, that of its node when it was launched
        self._running: set[Job] = set()
        self.finish: Callable[[], None] = _nothing
        self.call_later: Callable[[float, Callable[[], None]], None] = _no_timer
        self._sleeping: set[Job] = set()

    def guard(self) -> AbstractContextManager[object]:
        """The lock, for a `with`. The coordinator takes it as it is: a Ctrl-C between taking and
        entering would leave it taken forever, but for locks, which do both at once."""
        return self._lock if get_ident() == self._home else self._patience

    # Begin and end.

    def begin(self) -> list[Job]:
        """Open the run; the jobs to launch."""
        self.run.open()
        return self._opened(self.run, None, 0)

    def _opened(self, run: Run, parent: Job | None, turn: int) -> list[Job]:
        ready = run.begin(eager=not self._ordered)
        with self.guard():
            self._open[run] = 0
            self._turns[run] = turn
            self._add(run, ready, parent)
            if self._open[run]:
                return self._picked()
            outcome, turn = self._closed(run)
        return self._continue(parent, turn, outcome)

    def _closing(self, run: Run, parent: Job | None) -> Job | None:
        """The job that closes a run's resources, the last of its jobs; None where none is open."""
        effects = run.release()
        if effects is None:
            return None
        job = Job(run, _NO_NODE, run.plan.nodes[0], parent)
        job.effects = effects
        job.variables = self.variables.copy()
        job.started = perf_counter()
        self._open[run] = 1
        return job

    def fail(self, error: BaseException) -> None:
        """Something that is no node's failure came up (SystemExit in a worker, say): end the
        run."""
        with self.guard():
            if self.over:
                return
            self.over = True
            self.crash = error
        self.finish()

    def abort(self, status: str) -> Iterator[Invoke]:
        """End the run now: nothing starts, and what still runs is given up. The hooks that clean up
        after it are the caller's to call, as they come."""
        with self.guard():
            self.over = True
            runs = list(self._open)
            for run in reversed(runs):
                run.close(status)
            self._open.clear()
            given_up = [job for job in self._running if job.effects is not None]
        for job in given_up:
            _close(job)
        left = [_clean_up(job) for job in given_up if job.started]
        left.extend(each for run in reversed(runs) if (each := run.release(status)) is not None)
        return (effect for effects in left for effect in _answered(effects))

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
                job.is_async = node.signature.is_async
                job.takes_slot = self._bounds_all or not job.is_async
            self._queue(job)

    def _lane_of(self, job: Job) -> Lane:
        around = job.run.plan.around.get(job.index)
        return self.lanes.of(job.node, stays=around is not None and bool(around.resources))

    def _queue(self, job: Job) -> None:
        if self._ordered:
            heappush(self._heap, job)
        elif job.takes_slot:
            self._waiting.appendleft(job)
        else:
            self._unbounded.append(job)

    def _picked(self) -> list[Job]:
        """Jobs that may go on now; they have their slots, and their arguments are gathered."""
        if self._ordered:
            picked = [heappop(self._heap)] if self._heap and self._free else []
            for job in picked:
                self._free -= job.takes_slot
        else:
            picked, self._unbounded = self._unbounded, []
            waiting = self._waiting
            while waiting and (self._free > 0 or waiting[0].run.stopped):
                self._free -= 1
                picked.append(waiting.popleft())
        for job in picked:
            self._start(job)
        return picked

    def _start(self, job: Job) -> None:
        if job.wakes:
            return
        job.turn += 1
        if job.run.stopped:
            job.refused = STOPPED
        else:
            self._running.add(job)
            try:
                job.args, job.kwargs = job.run.start(job.index)
            except Exception as error:
                job.refused = Outcome(False, error, attempts=0)

    def go_on(self, jobs: list[Job], lane: Lane | None = None) -> Job | None:
        """Launch jobs where they belong, but the first of `lane`, which the caller goes on with."""
        mine = None
        jobs.reverse()
        while jobs:
            job = jobs.pop()
            if job.refused is None and job.effects is None and self._surround(job):
                more = self._advanced(job, None)
            elif job.wakes:
                job.wakes = False
                more = self._advanced(job, not job.run.stopped)
            elif job.refused is not None:
                more = self.ended(job, job.turn, job.refused)
            elif job.lane is None:
                more = self._launch_nested(job)
            elif job.lane is lane and mine is None:
                mine = job
                continue
            else:
                job.lane.launch(job)
                continue
            jobs.extend(reversed(more))
        return mine

    def _surround(self, job: Job) -> bool:
        """Make a job's call a generator of effects, where more than the bare function was asked
        for."""
        if job.index not in job.run.plan.around:
            return False
        job.effects = job.run.surround(job.index, job.args, job.kwargs)
        # Hooks and attempts of one call share a copy of the contextvars.
        job.variables = self.variables.copy()
        return True

    def _take(self, job: Job, effect: Effect) -> None:
        """Make an effect that calls something the job's next call."""
        if isinstance(effect, tuple):
            job.func, (job.args, job.kwargs) = job.node.func, effect
            job.timeout = job.node.timeout
            nested = job.node.workflow is not None
            job.lane = None if nested else self._lane_of(job)
            job.is_async = not nested and job.node.signature.is_async
        elif isinstance(effect, Invoke):
            job.func, job.args, job.kwargs = effect.func, effect.args, {}
            job.timeout = None
            job.is_async = effect.is_async
            job.lane = self.lanes.loop if effect.is_async else self.lanes.home

    def _launch_nested(self, job: Job) -> list[Job]:
        turn = job.turn
        try:
            child = job.run.child(job.index, job.kwargs)
            child.open()
        except Exception as error:
            return self.ended(job, turn, Outcome(False, error))
        if not job.started:
            job.started = perf_counter()
            self._tell_start(job)
        self.watch(job)
        return self._opened(child, job, turn)

    # Calls.

    def begins(self, job: Job) -> bool:
        """A lane is about to make a job's call; False where it is to end as STOPPED instead."""
        if self.over or (job.run.stopped and not job.started):
            return False
        if not job.started:
            job.started = perf_counter()
            self._tell_start(job)
        return not self.over  # which it may be by now, where somebody was told

    def _tell_start(self, job: Job) -> None:
        observers = job.run.observers
        if observers is not None:
            with self.guard():
                job.run.note_start(job.index)
            observers.deliver()

    def run_here(
        self, job: Job, lane: Lane, call: Callable[[Job], Outcome] | None = None
    ) -> Job | None:
        """Make a call from this thread; another job of the same lane to go on with."""
        turn = job.turn
        if not self.begins(job):
            return self.go_on(self.ended(job, turn, STOPPED), lane)
        if job.is_plain and lane.calls_here:
            return self._follow(job, lane)
        self.watch(job)
        return self.go_on(self.called(job, turn, (call or call_here)(job)), lane)

    def _follow(self, job: Job, lane: Lane) -> Job | None:
        """Make the plain call of a job, and those that it leads to one by one, each with little
        more than the call itself; another job of the same lane to go on with."""
        token, guard = current_run.set(job.run), self.guard()
        try:
            while True:
                turn = job.turn
                try:
                    kwargs = job.kwargs
                    value = job.func(*job.args, **kwargs) if kwargs else job.func(*job.args)
                except Exception as error:
                    others = self.ended(job, turn, Outcome(False, error))
                    break
                if value.__class__ in LOOKED_AT:
                    others = self.called(job, turn, Outcome(True, value))
                    break
                goes_on, others = self.went_on(job, turn, value, guard)
                if not goes_on:
                    break
                if others:
                    self.go_on(others)
        finally:
            current_run.reset(token)
        return self.go_on(others, lane)

    def went_on(
        self, job: Job, turn: int, value: Any, guard: AbstractContextManager[object]
    ) -> tuple[bool, list[Job]]:
        """A plain call returned, in the thread whose `guard` that is. Whether the job goes on in
        the same place, with a node that is ready now; and the jobs to launch."""
        run, index = job.run, job.index
        with guard:
            if self.over:
                return False, []
            if job.turn != turn:
                return False, self._picked()
            job.turn += 1
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
            left = self._left(job, ready)
        return False, self._after(job, *left)

    def called(self, job: Job, turn: int, outcome: Outcome) -> list[Job]:
        """A sync call returned; where it returned a coroutine, the call ends with that."""
        if outcome.ok and outcome.value.__class__ is CoroutineType:
            if self.over or job.turn != turn:
                outcome.value.close()
            else:
                self.lanes.loop.adopt(job, turn, outcome.value)
            return []
        return self.ended(job, turn, outcome)

    def watch(self, job: Job) -> None:
        """Give the call that begins now up at its timeout."""
        timeout = job.timeout
        if timeout is not None:
            turn = job.turn
            self.call_later(timeout, lambda: self._time_out(job, turn))

    def _time_out(self, job: Job, turn: int) -> None:
        if self._claim(job, turn):
            self._give_up(job)
            self.go_on(self._concluded(job, Outcome(False, timed_out(job))))

    def _give_up(self, job: Job) -> None:
        """What a late call still does is of no interest any more."""
        if job.variables is not None:
            job.variables = job.variables.copy()  # the late call is still inside of the old ones
        if job.lane is not None:
            job.lane.give_up(job)
            if job.lane is not self.lanes.loop:
                self.lanes.loop.give_up(job)  # it may have returned a coroutine
            return
        child = job.run.children[job.run.plan.names[job.index]]
        child.stop()
        with self.guard():
            inner = [(each, each.turn) for each in self._running if each.parent is job]
        for each, turn in inner:
            if self._claim(each, turn):
                with self.guard():
                    if each in self._sleeping:  # without a slot, which its end gives back
                        self._sleeping.discard(each)
                        self._free -= each.takes_slot and not self._ordered
                self._give_up(each)
                self.go_on(self._concluded(each, STOPPED))

    def _claim(self, job: Job, turn: int) -> bool:
        """Whether the caller is the one to say how this call ended."""
        with self.guard():
            if self.over or job.turn != turn:
                return False
            job.turn += 1
            return True

    def ended(self, job: Job, turn: int, outcome: Outcome) -> list[Job]:
        """A job's call ended: the jobs to launch now, one of which the caller may take."""
        if self._claim(job, turn):
            return self._concluded(job, outcome)
        with self.guard():
            return [] if self.over else self._picked()

    def _concluded(self, job: Job, outcome: Outcome) -> list[Job]:
        if job.effects is not None and outcome is not STOPPED:
            return self._advanced(job, outcome.answer())
        return self._settled(job, outcome)

    def _advanced(self, job: Job, answer: Any) -> list[Job]:
        """A call that is a generator of effects takes its next step."""
        assert job.effects is not None
        effect: Effect | None = None
        outcome = STOPPED
        try:
            effect = job.effects.send(answer)
        except StopIteration as stop:
            outcome = stop.value
        if effect is None:  # no longer while that is handled: it is no error's context
            return self._settled(job, outcome)
        if self.over:
            _close(job)
            return []
        if isinstance(effect, (Sleep, Await)):
            return self._put_to_sleep(job, effect)
        self._take(job, effect)
        return [job]

    def _settled(self, job: Job, outcome: Outcome) -> list[Job]:
        """The job is done."""
        verdict = None if outcome is STOPPED else job.run.judge(job.index, outcome)
        with self.guard():
            if self.over:
                return []
            ready: list[int] = []
            if verdict is not None:
                ready = job.run.settle(job.index, verdict, job.started)
            elif not job.started:
                job.run.take_back(job.index)
            left = self._left(job, ready)
        return self._after(job, *left)

    def _left(self, job: Job, ready: list[int]) -> _Left:
        """A job is settled: what is to be done now, some of it when the lock is given back."""
        run, over, closing = job.run, None, None
        self._running.discard(job)
        self._free += job.takes_slot
        self._add(run, ready, job.parent)
        self._open[run] -= 1
        if not self._open[run]:
            closing = self._closing(run, job.parent)
            over = self._closed(run) if closing is None else None
        picked = self._picked() if over is None else []
        asleep = [each for each in self._sleeping if each.run.stopped] if run.stopped else []
        return picked, asleep, closing, over

    def _after(
        self,
        job: Job,
        picked: list[Job],
        asleep: list[Job],
        closing: Job | None,
        over: tuple[Outcome, int] | None,
    ) -> list[Job]:
        """What `_left` found, done."""
        run = job.run
        if run.observers is not None:
            run.observers.deliver()
        for each in asleep:
            picked.extend(self._woken(each, goes_on=False))
        if closing is not None:
            picked.extend(self._advanced(closing, None))
        if over is not None:
            outcome, turn = over
            picked.extend(self._continue(job.parent, turn, outcome))
        return picked

    def _closed(self, run: Run) -> tuple[Outcome, int]:
        """A run is over; as an outcome of the node that it is nested in, and the turn of that."""
        del self._open[run]
        turn = self._turns.pop(run)
        if run is self.run:
            self.over = True
        cut_short = run.cut_short
        run.close("cancelled" if cut_short else None)
        if cut_short:
            return STOPPED, turn
        error = run.exception()
        return Outcome(error is None, run.value if error is None else error), turn

    def _continue(self, parent: Job | None, turn: int, outcome: Outcome) -> list[Job]:
        if parent is None:
            self.finish()
            return []
        return self.ended(parent, turn, outcome)

    # Waits between attempts.

    def _put_to_sleep(self, job: Job, effect: Sleep | Await) -> list[Job]:
        """Wait without a slot, but in a sequential run; a stopped run does not wait."""
        with self.guard():
            if self.over:
                return []
            stopped = job.run.stopped
            if not stopped:
                self._sleeping.add(job)
            if self._ordered or stopped:
                picked = []
            else:
                self._free += job.takes_slot
                picked = self._picked()
        if stopped:
            return self._advanced(job, False)
        if isinstance(effect, Sleep):
            self.call_later(effect.seconds, lambda: self._wake(job))
        else:
            # In this run's own coordinator, not in the thread of the run that computes.
            effect.flight.when_landed(lambda: self._landed(job))
        return picked

    def _landed(self, job: Job) -> None:
        """Called by another run, which must not come to harm where this one is over."""
        if not self.over:
            with suppress(RuntimeError):  # its loop was closed just now
                self.call_later(0, lambda: self._wake(job))

    def _wake(self, job: Job) -> None:
        self.go_on(self._woken(job, goes_on=True))

    def _woken(self, job: Job, *, goes_on: bool) -> list[Job]:
        with self.guard():
            if self.over or job not in self._sleeping:
                return []
            self._sleeping.discard(job)
            if goes_on and not self._ordered:
                job.wakes = True
                self._queue(job)
                return self._picked()
            self._free -= job.takes_slot and not self._ordered
        return self._advanced(job, goes_on)


def _close(job: Job) -> None:
    """End a call's effects, so that others who wait for what it computes take over."""
    assert job.effects is not None
    try:
        job.effects.close()
    except ValueError:
        return  # it takes a step just now, in another thread, and ends with that


_NO_NODE = -1
_ALONE: tuple[bool, list[Job]] = (True, [])  # a job goes on, and made no other ready
_NO_KEYWORDS: dict[str, Any] = {}


def _clean_up(job: Job) -> Generator[Effect, Any, Outcome]:
    """What cleans up after a job that was given up."""
    return job.run.plan.around[job.index].of_cancelled(job.run)


def _answered(effects: Generator[Effect, Any, Outcome]) -> Iterator[Invoke]:
    """The calls that effects ask for; what these raise changes nothing."""
    try:
        effect = next(effects)
        while True:
            assert isinstance(effect, Invoke)
            yield effect
            effect = effects.send(None)
    except StopIteration:
        return


def _nothing() -> None: ...


def _no_timer(seconds: float, function: Callable[[], None]) -> None:
    raise AssertionError("the coordinator keeps the time")


def call_here(job: Job) -> Outcome:
    """Make a job's sync call here and now."""
    if job.variables is not None:
        return job.variables.run(_call, job)
    return _call(job)


def _call(job: Job) -> Outcome:
    token = current_run.set(job.run)
    try:
        return Outcome(True, job.func(*job.args, **job.kwargs))
    except Exception as error:
        return Outcome(False, error)
    finally:
        current_run.reset(token)


def timed_out(job: Job) -> TimeoutError:
    return TimeoutError(
        f"node {job.path!r} did not end within its timeout of {job.node.timeout:g} s",
        node_name=job.path,
        timeout=job.node.timeout,
    )


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
