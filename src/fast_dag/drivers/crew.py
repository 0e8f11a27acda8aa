"""What all concurrent ways of running share: jobs, slots, lanes, attempts, timers and the end.

A *job* is a node on its way through its attempts. A *lane* is a place where calls happen: worker
threads, an event loop, processes, the caller's own thread. Whoever finishes a job, wherever that
is, tells the crew; it settles the node under one lock, and gives back a job to go on with. The
*coordinator* is the caller: it waits for the end, keeps the time, and lends its thread to inline
nodes.

One lock guards all that is shared between threads (the schedules, results, counters and queues of a
run and of those nested in it), so nothing here relies on the interpreter's own lock. No user code
is called while it is held, but what reading a value may trigger (an attribute named by `output=`).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from heapq import heappop, heappush
from threading import Lock
from time import perf_counter
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from fast_dag.call.attempts import Outcome, Sleep, attempts
from fast_dag.errors import TimeoutError
from fast_dag.run import current_run

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextvars import Context as Variables

    from fast_dag.node import Node
    from fast_dag.run import Run


class Job:
    """One node of one run. `attempt` changes with every attempt: what ends with an older number is
    late and is dropped."""

    __slots__ = (
        "args",
        "attempt",
        "effects",
        "index",
        "kwargs",
        "lane",
        "node",
        "parent",
        "run",
        "started",
        "takes_slot",
    )

    def __init__(
        self, run: Run, index: int, node: Node[..., Any], lane: Lane | None, parent: Job | None
    ) -> None:
        self.run = run
        self.index = index
        self.node = node
        self.lane = lane
        self.parent = parent
        self.effects: Generator[Any, Outcome | None, Outcome] | None = None
        self.args: list[Any] = []
        self.kwargs: dict[str, Any] = {}
        self.attempt = 0
        self.started = 0.0
        self.takes_slot = False

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

    @abstractmethod
    def launch(self, job: Job) -> None:
        """Start the job's call, soon and without blocking; `crew.ended` is told the outcome."""

    def give_up(self, job: Job) -> None:  # noqa: B027  most lanes have nothing to do
        """The job's present attempt is late and is given up."""

    @abstractmethod
    def close(self, *, abandon: bool) -> None:
        """End what was started for this lane; with `abandon`, though calls may still be running."""


class Crew:
    """Executes one outermost run and all that are nested in it.

    Parameters
    ----------
    run:
        The outermost run.
    lane_of:
        Which lane a node's calls go to.
    ordered:
        One job at a time, in the order of a sequential run; waits between attempts keep the slot.
    slots, bounds_all:
        How many jobs run at once, and whether those of async nodes count.
    """

    def __init__(
        self,
        run: Run,
        lane_of: Callable[[Node[..., Any]], Lane],
        *,
        variables: Variables,
        slots: int,
        bounds_all: bool,
        ordered: bool = False,
    ) -> None:
        self.run = run
        self.variables = variables
        self.over = False
        self.crash: BaseException | None = None
        self.lock = Lock()
        self._lane_of = lane_of
        self._free = slots
        self._bounds_all = bounds_all
        self._ordered = ordered
        self._waiting: deque[Job] = deque()  # for a slot
        self._unbounded: list[Job] = []  # that need none
        self._heap: list[Job] = []  # both, where the order counts
        self._open: dict[Run, int] = {}  # of each open run, how many of its jobs have not ended
        self._running: set[Job] = set()
        self.finish: Callable[[], None] = _nothing
        self.call_later: Callable[[float, Callable[[], None]], None] = _no_timer
        self.adopt: Callable[[Job, int, Any], None] = _no_loop

    # Begin and end.

    def begin(self) -> list[Job]:
        """Open the run; the jobs to launch."""
        self.run.open()
        return self._opened(self.run, None)

    def _opened(self, run: Run, parent: Job | None) -> list[Job]:
        ready = run.begin(eager=not self._ordered)
        with self.lock:
            self._open[run] = 0
            self._add(run, ready, parent)
            if self._open[run]:
                return self._picked()
            outcome = self._closed(run)
        return self._continue(parent, outcome)

    def fail(self, error: BaseException) -> None:
        """Something that is no node's failure came up (SystemExit in a worker, say): end the
        run."""
        with self.lock:
            if self.over:
                return
            self.over = True
            self.crash = error
        self.finish()

    def abort(self, status: str) -> None:
        """End the run now: nothing starts, and what still runs is given up."""
        with self.lock:
            self.over = True
            runs = list(self._open)
            for run in reversed(runs):
                run.close(status)
            self._open.clear()

    # Jobs.

    def _add(self, run: Run, ready: list[int], parent: Job | None) -> None:
        self._open[run] += len(ready)
        # The first comes last, to the front: whoever made them ready goes on with it.
        for index in reversed(ready):
            node = run.plan.nodes[index]
            lane = None if node.workflow is not None else self._lane_of(node)
            job = Job(run, index, node, lane, parent)
            job.takes_slot = lane is not None and (self._bounds_all or not node.signature.is_async)
            self._queue(job)

    def _queue(self, job: Job) -> None:
        if self._ordered:
            heappush(self._heap, job)
        elif job.takes_slot:
            self._waiting.appendleft(job)
        else:
            self._unbounded.append(job)

    def _picked(self) -> list[Job]:
        """Jobs that may start now; they have their slots."""
        if self._ordered:
            if not self._heap or not self._free:
                return []
            job = heappop(self._heap)
            self._free -= job.takes_slot
            return [job]
        picked, self._unbounded = self._unbounded, []
        waiting = self._waiting
        while waiting and (self._free > 0 or waiting[0].run.stopped):
            self._free -= 1
            picked.append(waiting.popleft())
        return picked

    def bind(self, job: Job) -> Outcome | None:
        """Gather a job's arguments before its first attempt; what keeps it from running, if
        anything."""
        with self.lock:
            if self.over or job.run.stopped:
                return _STOPPED
            if not job.started:
                job.started = perf_counter()
                try:
                    job.args, job.kwargs = job.run.start(job.index)
                except Exception as error:
                    return Outcome(False, error, attempts=0)
            job.attempt += 1
            self._running.add(job)
        if job.node.retry and job.effects is None:
            job.effects = attempts(job.node)
            next(job.effects)
        return None

    def go_on(self, jobs: list[Job], lane: Lane | None = None) -> Job | None:
        """Launch jobs where they belong, but the first of `lane`, which the caller goes on with."""
        mine = None
        jobs.reverse()
        while jobs:
            job = jobs.pop()
            if job.run.stopped:
                jobs.extend(reversed(self.ended(job, job.attempt, _STOPPED)))
            elif job.lane is None:
                jobs.extend(reversed(self._launch_nested(job)))
            elif job.lane is lane and mine is None:
                mine = job
            else:
                job.lane.launch(job)
        return mine

    def _launch_nested(self, job: Job) -> list[Job]:
        refused = self.bind(job)
        if refused is not None:
            return self.ended(job, job.attempt, refused)
        try:
            child = job.run.child(job.index, job.kwargs)
            child.open()
        except Exception as error:
            return self.ended(job, job.attempt, Outcome(False, error))
        self.watch(job)
        return self._opened(child, job)

    def run_here(self, job: Job, lane: Lane) -> Job | None:
        """Run a job of a sync function in this thread; another of the same lane to go on with."""
        refused = self.bind(job)
        attempt = job.attempt
        if refused is None:
            if job.node.timeout is not None:
                self.watch(job)
            return self.go_on(self.called(job, attempt, call(job)), lane)
        return self.go_on(self.ended(job, attempt, refused), lane)

    def called(self, job: Job, attempt: int, outcome: Outcome) -> list[Job]:
        """A sync call returned; where it returned a coroutine, the attempt ends with that."""
        if outcome.ok and outcome.value.__class__ is CoroutineType:
            if self.over or job.attempt != attempt:
                outcome.value.close()
            else:
                self.adopt(job, attempt, outcome.value)
            return []
        return self.ended(job, attempt, outcome)

    def watch(self, job: Job) -> None:
        """Give the attempt that begins now up at its node's timeout."""
        timeout = job.node.timeout
        if timeout is not None:
            attempt = job.attempt
            self.call_later(timeout, lambda: self._time_out(job, attempt))

    def _time_out(self, job: Job, attempt: int) -> None:
        if self._claim(job, attempt):
            self._give_up(job)
            self.go_on(self._concluded(job, Outcome(False, timed_out(job))))

    def _give_up(self, job: Job) -> None:
        """What a late attempt still does is of no interest any more."""
        if job.lane is not None:
            job.lane.give_up(job)
            return
        child = job.run.children[job.run.plan.names[job.index]]
        child.stop()
        with self.lock:
            inner = [(each, each.attempt) for each in self._running if each.parent is job]
        for each, attempt in inner:
            if self._claim(each, attempt):
                self._give_up(each)
                self.go_on(self._concluded(each, _STOPPED))

    def _claim(self, job: Job, attempt: int) -> bool:
        """Whether the caller is the one to say how this attempt ended."""
        with self.lock:
            if self.over or job.attempt != attempt:
                return False
            job.attempt += 1
            self._running.discard(job)
            return True

    def ended(self, job: Job, attempt: int, outcome: Outcome) -> list[Job]:
        """An attempt of a job ended: the jobs to launch now, one of which the caller may take."""
        if self._claim(job, attempt):
            return self._concluded(job, outcome)
        with self.lock:
            return [] if self.over else self._picked()

    def _concluded(self, job: Job, outcome: Outcome) -> list[Job]:
        verdict = None
        if outcome is not _STOPPED:
            if job.effects is not None and outcome.attempts:
                outcome, wait = self._next_effect(job, outcome)
                if wait is not None:
                    return self._wait(job, wait)
            verdict = job.run.judge(job.index, outcome)
        with self.lock:
            if self.over:
                return []
            self._free += job.takes_slot
            run = job.run
            if verdict is not None:
                self._add(run, run.settle(job.index, verdict, job.started), job.parent)
            self._open[run] -= 1
            if self._open[run]:
                return self._picked()
            over = self._closed(run)
        return self._continue(job.parent, over)

    def _closed(self, run: Run) -> Outcome | None:
        """A run is over; as an outcome of the node that it is nested in."""
        del self._open[run]
        if run is self.run:
            self.over = True
        cut_short = run.cut_short
        run.close("cancelled" if cut_short else None)
        if cut_short:
            return _STOPPED
        error = run.exception()
        return Outcome(True, run.value) if error is None else Outcome(False, error)

    def _continue(self, parent: Job | None, outcome: Outcome | None) -> list[Job]:
        if parent is None:
            self.finish()
            return []
        assert outcome is not None
        return self.ended(parent, parent.attempt, outcome)

    # Attempts.

    def _next_effect(self, job: Job, outcome: Outcome) -> tuple[Outcome, float | None]:
        assert job.effects is not None
        try:
            effect = job.effects.send(outcome)
        except StopIteration as stop:
            return stop.value, None
        assert isinstance(effect, Sleep)
        return outcome, effect.seconds

    def _wait(self, job: Job, seconds: float) -> list[Job]:
        """Wait before the next attempt, without a slot, but in a sequential run."""
        with self.lock:
            if not self._ordered:
                self._free += job.takes_slot
            picked = [] if self._ordered else self._picked()
        self.call_later(seconds, lambda: self._again(job))
        return picked

    def _again(self, job: Job) -> None:
        assert job.effects is not None
        next(job.effects)
        with self.lock:
            if self.over:
                return
            if self._ordered:
                picked = [job]
            else:
                self._queue(job)
                picked = self._picked()
        self.go_on(picked)


def _nothing() -> None: ...


def _no_loop(job: Job, attempt: int, coroutine: Any) -> None:
    raise AssertionError("the coordinator has the loop")


def _no_timer(seconds: float, function: Callable[[], None]) -> None:
    raise AssertionError("the coordinator keeps the time")


_STOPPED = Outcome(False, None, attempts=0)
"""A job that was not run, since its run has been stopped."""


def call(job: Job) -> Outcome:
    """Call a sync node's function here and now."""
    token = current_run.set(job.run)
    try:
        return Outcome(True, job.node.func(*job.args, **job.kwargs))
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


def cpu_count() -> int:
    """The CPUs this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this platform
        return os.cpu_count() or 1
