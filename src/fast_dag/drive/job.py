"""One node of one execution on its way through its call, and the place where that is made."""

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
BEGIN: Final = 0  # gather its arguments, and make its first call
CALL: Final = 1  # make the call that it has
ADVANCE: Final = 2  # send `answer` to its effects
CONCLUDE: Final = 3  # its call ended: `answer` is the outcome
SETTLE: Final = 4  # finish its node: `answer` is the outcome
UNWIND: Final = 5  # end it, though its call came to nothing
CLAIM: Final = 7  # take the units that its next call uses, or wait for them
RETURN: Final = 6  # the workflow nested in it ended: `answer` is the generation, and the outcome

# How far a job is.
RUNS: Final = 0
CANCELLED: Final = 1  # it must end, and clean up
CLEANS: Final = 2  # its cleanup hook is at work, or it closes resources: that is not cut short


class Lane(ABC):
    """A place where the calls of jobs happen. From the launch of a call to its end the job belongs
    to its lane."""

    calls_here = False  # in the thread that takes a job, by a mere call
    ends_calls = False  # calls that are given up end soon, and say so
    kills_calls = False  # calls that are given up are killed

    @abstractmethod
    def launch(self, job: Job) -> None:
        """Start the job's call, soon and without blocking; report its outcome to the dispatcher's
        `ended`."""

    def withdraw(self, job: Job) -> bool:
        """Take back a call that was launched and has not begun; whether that was possible. The job
        belongs to the caller then."""
        return False

    def give_up(self, job: Job) -> None:  # noqa: B027  most lanes have nothing to do
        """Nobody waits for the job's present call any more; it ends soon if `ends_calls`."""

    @abstractmethod
    def close(self, *, abandon: bool) -> None:
        """End what was started for this lane; with `abandon`, although calls may be at work."""


class Job:
    """One node of one execution.

    `func(*args, **kwargs)` is the call to make next, in `lane`; None is that of a nested workflow.
    `generation` changes whenever a call begins or ends: who reports the end of a call with an older
    number is late, and the report is dropped.
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
        self.timeout = step.node.timeout
        self.deadline: float | None = None  # of the call that is being made, if it has one
        self.timer: Any = None  # to cancel once that call, or a wait, has ended
        self.is_plain = False  # see `Step.plain`
        self.is_out = False  # its lane has it
        self.is_late = False
        self.claim: Claim | None = None  # that it waits with
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

    def placed(self, has_priorities: bool, number: int) -> tuple[int, float, int, int, Job]:
        """The job with its place among those that wait, more for those that go first: by priority,
        then by the way to the end of the run, the longest first, then by definition."""
        execution, index, job = self.execution, self.index, self.parent
        way = (execution.ways or execution.find_ways()).to_end[index]
        while job is not None:
            outer = job.execution
            way += (outer.ways or outer.find_ways()).after[job.index]
            job = job.parent
        priority = execution.priority_of(index) if has_priorities else 0
        return priority, way, -index, -number, self

    @property
    def path(self) -> str:
        """The node's name, from the outermost workflow on."""
        return self.execution.path_of(self.index)

    def is_inside(self, execution: Execution) -> bool:
        """Whether it belongs to `execution`, or to one that is nested in it."""
        job: Job | None = self
        while job is not None:
            if job.execution is execution:
                return True
            job = job.parent
        return False

    def __lt__(self, other: Job) -> bool:
        return self.order < other.order
