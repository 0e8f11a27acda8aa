"""Job: one node on its way through its call. Lane: a place where calls are made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from contextvars import Context as Variables

    from fast_dag.call.effects import Effect, Outcome
    from fast_dag.plan.step import Step
    from fast_dag.run.execution import Execution
    from fast_dag.run.limits import Claim

# What the dispatcher does next with a job.
BEGIN: Final = 0  # gather the arguments of its node
CALL: Final = 1  # launch its next call
ADVANCE: Final = 2  # send `answer` to its effects
CONCLUDE: Final = 3  # go on after its call ended; `answer` is the outcome
SETTLE: Final = 4  # finish its node; `answer` is the outcome
UNWIND: Final = 5  # clean up after a call that was cancelled, then end
RETURN: Final = 6  # go on after its nested workflow ended; `answer` is (generation, outcome)
CLAIM: Final = 7  # take the units that its next call uses, or wait for them

# The phase of a job.
RUNS: Final = 0
CANCELLED: Final = 1  # it must clean up and end
CLEANS: Final = 2  # it calls its cleanup hook or closes resources, which is not cut short


class Lane(ABC):
    """A place where the calls of jobs happen. From the launch of a call to its end the job belongs
    to its lane."""

    calls_here = False  # whether the thread that takes a job calls its function itself
    ends_calls = False  # whether a call that was given up ends soon, and its end is reported
    shares_memory = True  # whether calls happen in this process
    takes_batches = False  # whether the items of a map can be sent there together
    kills_calls = False  # whether a call that was given up is killed

    @abstractmethod
    def launch(self, job: Job) -> None:
        """Have the job's call made soon, without blocking. The outcome is reported to
        `Dispatcher.ended`."""

    def withdraw(self, job: Job) -> bool:
        """Take back a call that was launched but has not begun. If this returns True, the job
        belongs to the caller; False if it was not possible."""
        return False

    def give_up(self, job: Job) -> None:  # noqa: B027  most lanes have nothing to do
        """Called when nobody waits for the job's call any more. If `ends_calls`, the lane makes it
        end soon."""

    def close(self, *, abandon: bool) -> None:  # noqa: B027  some lanes have started nothing
        """End what was started for this lane. With `abandon`, calls may still be running, and are
        not waited for."""


class Job:
    """One node of one execution.

    `func(*args, **kwargs)` is the next call, made on `lane`; the lane is None if the node is a
    nested workflow. `generation` changes whenever a call begins or ends. A report of the end of a
    call is dropped if it has an older number. `given_up` is that of the last call that was given
    up: it may have ended when its lane hears of that, and another one must not suffer for it.
    """

    __slots__ = (
        "answer",
        "args",
        "claim",
        "deadline",
        "effects",
        "entered",
        "execution",
        "func",
        "generation",
        "given_up",
        "hook",
        "index",
        "is_late",
        "is_out",
        "is_plain",
        "kwargs",
        "lane",
        "parent",
        "phase",
        "started",
        "step",
        "takes_slot",
        "timeout",
        "timer",
        "todo",
        "variables",
    )

    def __init__(self, execution: Execution, index: int, step: Step, parent: Job | None) -> None:
        self.execution = execution
        self.index = index
        self.step = step
        self.parent = parent
        self.lane: Lane | None = None
        self.func: Callable[..., Any] = step.call
        self.args: Sequence[Any] = ()
        self.kwargs: dict[str, Any] = {}
        self.timeout = step.timeout
        self.deadline: float | None = None  # of the call that is being made, if it has one
        self.timer: Any = None  # of that call, or of a wait; cancelled when this ends
        self.is_plain = False  # whether the thread may go on with plain nodes after it
        self.is_out = False  # whether it belongs to its lane
        self.is_late = False
        self.claim: Claim | None = None  # that it waits with
        self.effects: Generator[Effect, Any, Outcome] | None = None
        self.variables: Variables | None = None
        self.hook: Any = None  # that surrounds the rest of its call, and has begun
        self.todo = BEGIN
        self.answer: Any = None
        self.phase = RUNS
        self.generation = self.given_up = 0
        self.started = self.entered = 0.0
        self.takes_slot = False

    @property
    def order(self) -> tuple[int, ...]:
        """The job's place in a sequential run: by definition; jobs of a nested workflow are in the
        place of its node."""
        order: list[int] = []
        job: Job | None = self
        while job is not None:
            order.append(job.index)
            job = job.parent
        return tuple(reversed(order))

    def placed(self, has_priorities: bool, number: int) -> tuple[int, float, int, int, Job]:
        """The job with its place among those that wait, more for those that go first: by priority,
        then by the way to the end of the run, the longest first, then by definition."""
        execution, index, job = self.execution, self.index, self.parent
        priority = execution.priority_of(index) if has_priorities else 0
        way = (execution.ways or execution.find_ways()).to_end[index]
        while job is not None:
            outer = job.execution
            if outer.is_map:  # items begun earlier go first, whatever is in them
                way, index = 0.0, job.index
            way += (outer.ways or outer.find_ways()).after[job.index]
            job = job.parent
        return priority, way, -index, -number, self

    @property
    def path(self) -> str:
        """The node's name, from the outermost workflow on: `"sub.inner"`."""
        return self.execution.path_of(self.index)

    def is_inside(self, execution: Execution) -> bool:
        """Whether the job belongs to `execution`, or to one that is nested in it."""
        job: Job | None = self
        while job is not None:
            if job.execution is execution:
                return True
            job = job.parent
        return False

    def __lt__(self, other: Job) -> bool:
        return self.order < other.order
