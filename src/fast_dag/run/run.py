"""One execution of a plan: what it was given, what came out, how every node stands."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from contextvars import ContextVar
from enum import StrEnum
from time import perf_counter, time

from fast_dag._fields import Fields
from fast_dag.call.effects import ONE_SHOT, Outcome, waitable
from fast_dag.call.resources import Resources
from fast_dag.errors import (
    ExecutionError,
    InvalidTransitionError,
    MaxCyclesError,
    MissingInputError,
    MissingResultError,
    TimeoutError,
    UnknownNodeError,
    ValidationError,
    add_note,
    failures,
    is_a,
    names,
    notes_of,
    text_of,
    trace_of,
)
from fast_dag.run.events import Event, needed_for_bars
from fast_dag.run.memory import MemoryWatch
from fast_dag.run.record import Record
from fast_dag.schedule.base import NodeStatus
from fast_dag.watch import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Executor
    from typing import Any, Final, Literal

    from fast_dag.call.effects import Effects
    from fast_dag.context import Context
    from fast_dag.define.graph import Edge, Graph
    from fast_dag.define.node import Node
    from fast_dag.draw.sketch import DrawingOptions
    from fast_dag.draw.view import MachineView, RunView, WorkflowView
    from fast_dag.plan.plan import Plan
    from fast_dag.run.events import Observers

current_run: ContextVar[Run | None] = ContextVar("fast_dag_run", default=None)
"""The run in whose node, hook or handler the caller is."""

_PACKAGE = os.path.dirname(os.path.dirname(__file__))
_ASYNCIO = os.path.join(os.path.dirname(os.__file__), "asyncio")
MISSING: Final = object()


class ExecutionMode(StrEnum):
    """Where nodes run; equal to its string.

    >>> ExecutionMode.SEQUENTIAL == "sequential"
    True
    """

    SEQUENTIAL = "sequential"
    PARALLEL = "parallel"
    PROCESS = "process"
    ASYNC = "async"


# Members of enums cost ten times a global.
SEQUENTIAL, PARALLEL = ExecutionMode.SEQUENTIAL, ExecutionMode.PARALLEL
PROCESS, ASYNC = ExecutionMode.PROCESS, ExecutionMode.ASYNC
_MODES: Final = {each.value: each for each in ExecutionMode}


class Settings:
    """The options of one run, inherited by the workflows nested in it."""

    __slots__ = (
        "error_handler",
        "error_strategy",
        "executor",
        "max_workers",
        "mode",
        "progress",
        "timeout",
        "track_memory",
    )

    def __init__(
        self,
        mode: str = "sequential",
        max_workers: int | None = None,
        executor: Executor | None = None,
        timeout: float | None = None,
        error_strategy: str = "fail_fast",
        error_handler: Callable[[str, Exception, Context], str] | None = None,
        progress: Callable[[str, str, float], object] | bool | None = None,
        track_memory: bool = False,
    ) -> None:
        if not (progress is None or isinstance(progress, bool) or callable(progress)):
            raise ValidationError(
                f"progress is a function of (node_name, status, fraction_done), or True for a bar, "
                f"not {progress!r}"
            )
        if progress is True:
            needed_for_bars()
        if not isinstance(mode, str) or mode not in _MODES:
            raise ValidationError(f"mode is one of {names(_MODES)}, not {mode!r}")
        if max_workers is not None and (not isinstance(max_workers, int) or max_workers < 1):
            raise ValidationError(f"max_workers is a count of at least 1, not {max_workers!r}")
        if timeout is not None and (not isinstance(timeout, (int, float)) or not timeout > 0):
            raise ValidationError(f"timeout is a number of seconds above 0, not {timeout!r}")
        if executor is not None and not callable(getattr(executor, "submit", None)):
            raise ValidationError(f"executor is a concurrent.futures.Executor, not {executor!r}")
        if error_strategy not in ("fail_fast", "continue"):
            raise ValidationError(
                f"error_strategy is 'fail_fast' or 'continue', not {error_strategy!r}"
            )
        if error_handler is not None and not callable(error_handler):
            raise ValidationError(f"error_handler is not callable: {error_handler!r}")
        self.mode = _MODES[mode]
        self.max_workers = max_workers
        self.executor = executor
        self.timeout = None if timeout is None else waitable(timeout)
        self.error_strategy = error_strategy
        self.error_handler = error_handler
        self.progress = progress
        self.track_memory = track_memory

    @classmethod
    def of(cls, *asked: Any) -> Settings:
        """Settings of these options, in their order; runs that ask for none share one."""
        return _DEFAULTS if asked == _NOTHING_ASKED else cls(*asked)

    @property
    def stays_here(self) -> bool:
        """Whether sync nodes run in this process, unless they say otherwise."""
        return self.executor is None and self.mode is not PROCESS

    @property
    def ordered(self) -> bool:
        """One node at a time, in the order of a sequential run."""
        return self.mode is SEQUENTIAL and self.executor is None


_NOTHING_ASKED: Final = ("sequential", None, None, None, "fail_fast", None, None, False)
_DEFAULTS: Final = Settings(*_NOTHING_ASKED)


class Verdict(Fields):
    """What a node's end means to its run: what it chose, or the `key` of its error, and whether the
    run goes on after it. `fault` is what keeps a state that succeeded from leading on."""

    __slots__ = ("choice", "fault", "goes_on", "key", "outcome")

    def __init__(
        self,
        outcome: Outcome,
        key: str,
        choice: Any = None,
        goes_on: bool = True,
        fault: BaseException | None = None,
    ) -> None:
        self.outcome = outcome
        self.key = key
        self.choice = choice
        self.goes_on = goes_on
        self.fault = fault


class Run(ABC):
    """One execution of a workflow, as `execute()` returns it.

    `name` is the workflow's, `inputs` what it was given, `context` the Context it worked in,
    `value` what `run()` would have returned, `status` one of running, completed,
    completed_with_errors, failed, cancelled, timed_out. `errors` has the original exception of each
    failed node by name (`"sub.inner"` in nested workflows); `children` the runs of nested ones.
    `run["name"]` is a node's result, or a KeyError that says why there is none.

    >>> from fast_dag import DAG
    >>> dag = DAG("demo")
    >>> @dag.node
    ... def double(x: int) -> int:
    ...     return 2 * x
    >>> run = dag.execute(x=21)
    >>> run.value, run.status, run.statuses
    (42, 'completed', {'double': <NodeStatus.COMPLETED: 'completed'>})
    """

    noun = "node"
    advice = "pass inputs, connect a node to them, or give them defaults"

    # Until it is otherwise, so that a new run does not set them all.
    status = "running"
    value: Any = None
    observers: Observers | None = None
    resources: Resources | None = None
    # The nodes whose cleanup hook was cut off, by what it raised or by the end of the run.
    cut_off: tuple[str, ...] = ()
    _lost: frozenset[str] = frozenset()  # the resources that failed
    # Whether it keeps an event loop from turning: its caller waits in that loop's thread.
    blocks_loop = False
    _stopped = False
    _fatal: str | None = None
    _exception: ExecutionError | None = None
    _memory: MemoryWatch | None = None

    def __init__(
        self,
        graph: Graph,
        plan: Plan,
        inputs: Mapping[str, Any],
        context: Context,
        settings: Settings,
        record: Record,
        *,
        parent: Run | None = None,
        prefix: str = "",
    ) -> None:
        self.graph = graph
        self.plan = plan
        self.name = plan.name
        self.inputs = inputs
        self.context = context
        self.settings = settings
        self.record = record
        self.parent = parent
        self.results = context.results
        self.errors: dict[str, Exception] = {}
        self.children: dict[str, Run] = {}
        self._prefix = prefix
        self._attempts: dict[str, int] = {}
        self._where: dict[str, str] = {}
        # Whose node this run was started in, so that views from in here find that run, too.
        self.outer: Run | None = current_run.get() if parent is None else parent
        if parent is not None:
            self.observers = parent.observers
        if plan.resources:
            self.resources = Resources(plan.resources, context, is_nested=parent is not None)

    # What users look at.

    @property
    def run_id(self) -> str:
        """The run's id, that of the outermost run in nested workflows."""
        return str(self.context.metadata["run_id"])

    @property
    def statuses(self) -> dict[str, NodeStatus]:
        """How every node of the run stands; each status equals its string ("skipped")."""
        return self.record.statuses()

    @property
    def timings(self) -> dict[str, float]:
        """Seconds each node took, in the order in which they ended."""
        return self.record.times()

    @property
    def metrics(self) -> dict[str, Any]:
        """The same as `run.context.metrics`."""
        return self.context.metrics

    def raise_for_error(self) -> None:
        """Raise the ExecutionError of the failure that ended the run, or, where it went on after
        failures, of the first; return where nothing failed."""
        error = self.exception()
        if error is not None:
            raise error

    def exception(self) -> ExecutionError | None:
        """What `raise_for_error` raises, or None."""
        if self._exception is None:
            if self.status == "timed_out":
                self._exception = self._make_timeout()
            elif self.errors:
                self._exception = self._make_exception()
        return self._exception

    def _make_timeout(self) -> TimeoutError:
        late = [name for name, status in self.statuses.items() if status == "cancelled"]
        error = TimeoutError(
            f"{self.name!r} did not end within its timeout of {self.settings.timeout:g} s; "
            f"still running: {names(late) or 'nothing'}",
            run=self,
            timeout=self.settings.timeout,
        )
        self._note_others(error, None)
        return error

    def __getitem__(self, name: str) -> Any:
        """The result of a node; `"sub.inner"` looks into a nested workflow.

        Raises a KeyError that says why there is none: unknown, not run, skipped, failed, deleted.
        """
        value = self.results.get(name, MISSING)
        if value is not MISSING:
            return value
        first, dot, rest = name.partition(".") if isinstance(name, str) else (name, "", "")
        if dot and first in self.children:
            return self.children[first][rest]
        whole = self.plan.topology.whole.index
        if first not in whole or (dot and not self._node(first).workflow):
            raise UnknownNodeError.named(name, whole, repr(self.name), self.noun)
        reason = self._why_missing(first)
        raise MissingResultError(
            f"{self.name!r} has no result of {name!r}: it {_REASONS[reason]}",
            node=name,
            reason=reason,
        )

    def get(self, name: str, default: Any = None) -> Any:
        """The result of a node, `default` where there is none."""
        try:
            return self[name]
        except KeyError:
            return default

    def __repr__(self) -> str:
        return f"<Run of {self.name!r}: {self.status}, {len(self.plan.names)} nodes>"

    def visualize(
        self,
        backend: Literal["mermaid", "graphviz", "svg"] = "mermaid",
        filename: str | os.PathLike[str] | None = None,
        format: str | None = None,
        show_results: bool = False,
        options: DrawingOptions | None = None,
    ) -> str:
        """Draw the workflow as this run left it: statuses, times, attempts, errors, which edges
        and transitions were taken, and with `show_results` what each node returned. All else is
        as in `DAG.visualize`.

        >>> from fast_dag import DAG
        >>> run = DAG("demo").add_node("answer", lambda: 42).execute()
        >>> print(run.visualize(show_results=True, options={"details": False}))
        flowchart TB
            n0["answer"]
            classDef completed fill:#e3f5e8,stroke:#2e8b4f,color:#111827
            class n0 completed
        <BLANKLINE>
        """
        from fast_dag.draw.visualize import visualize

        return visualize(self, backend, filename, format, show_results, options)

    def summary(self) -> str:
        """The run told for a terminal: how it ended, its timeline with attempts and waits, the
        slowest nodes, what bounds it, errors, inputs.

        >>> from fast_dag import DAG
        >>> run = DAG("demo").add_node("double", lambda x: 2 * x).execute(x=21)
        >>> print(run.summary().splitlines()[1])
        1 node: 1 completed
        """
        from fast_dag.report.text import summary

        return summary(self)

    def report(self, filename: str | os.PathLike[str] | None = None) -> str:
        """The same as one HTML page, with the picture and tracebacks, which needs no network; it is
        returned, and written to `filename` where one is given.

        >>> from fast_dag import DAG
        >>> page = DAG("demo").add_node("double", lambda x: 2 * x).execute(x=21).report()
        >>> page.startswith("<!doctype html>"), "completed" in page
        (True, True)
        """
        from fast_dag.report.page import page

        return page(self, filename)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """The picture in a notebook."""
        from fast_dag.draw.visualize import mimebundle

        return mimebundle(self)

    def _view(self) -> WorkflowView:
        """What pictures and reports know of it."""
        from fast_dag.draw.view import WorkflowView, nested_views

        topology = self.plan.topology.whole
        nested = nested_views(topology, self.children)
        return WorkflowView(self.name, topology, nested, self._machine_view(), self._run_view())

    def _machine_view(self) -> MachineView | None:
        return None

    def _run_view(self) -> RunView:
        from fast_dag.draw.view import RunView, Span

        settings, record, names_ = self.settings, self.record, self.plan.names
        statuses, timings = self.statuses, self.timings
        return RunView(
            self.status,
            str(settings.mode) if settings.executor is None else type(settings.executor).__name__,
            settings.max_workers,
            settings.timeout,
            settings.ordered,
            record.began,
            record.ended,
            statuses,
            timings,
            visits=dict.fromkeys(timings, 1),
            spans=[
                Span(names_[index], start, end, statuses[names_[index]] is NodeStatus.FAILED)
                for index, start, end in record.executed()
            ],
            retries=tuple(record.retried),
            live=(),
            errors=dict(self.errors),
            attempts=dict(self._attempts),
            error=self.exception() if self.status in ("failed", "timed_out") else None,
            inputs=self.inputs,
            results=dict(self.results),
            metrics=self.metrics | record.measure(),
        )

    def _node(self, name: str) -> Node[..., Any]:
        whole = self.plan.topology.whole
        return whole.nodes[whole.index[name]]

    def _why_missing(self, name: str) -> str:
        index = self.plan.topology.index.get(name)
        status = NodeStatus.NOT_RUN if index is None else self.record.status(index)
        if status is NodeStatus.COMPLETED:
            return "deleted"
        return status.value if status.value in _REASONS else "not run"

    # The life of a run, for drivers.

    def open(self) -> None:
        """Check what can only be checked now, take the context, and begin.

        Raises MissingInputError for values that are missing, ValidationError where the context
        serves another run."""
        self._check()
        self.context._enter_run(self.record.measure)
        self._prepare_results()
        if self.parent is None:
            metadata = self.context.metadata
            if self._is_new:
                metadata["run_id"] = self.context._own_run_id = os.urandom(16).hex()
            metadata["execution_status"] = "running"
            if self.settings.track_memory:
                self._memory = MemoryWatch()
        self.record.begin()

    @property
    def _is_new(self) -> bool:
        """Whether it is given a new run_id: the user gave none."""
        own = self.context._own_run_id
        return bool(self.context.metadata.get("run_id", own) == own)

    def _check(self) -> None:
        """Refuse what can only be found wrong now."""
        self._refuse_missing()
        if self.inputs:
            self._refuse_shared_inputs()

    def _prepare_results(self) -> None:
        """Drop the results of what is about to run."""
        if self.results:
            for name in self.plan.names:
                self.results.pop(name, None)

    @abstractmethod
    def _final_value(self) -> Any:
        """What `run()` returns."""

    @abstractmethod
    def begin(self, *, eager: bool) -> list[int]:
        """Make the schedule; the nodes that may start at once."""

    @abstractmethod
    def gather(self, index: int) -> tuple[list[Any], dict[str, Any]]:
        """A node's arguments. Raises what keeps them from being gathered."""

    @abstractmethod
    def _decide(self, index: int, outcome: Outcome) -> Verdict:
        """What a node's success means. Raises what makes it a failure."""

    def release(self, status: str | None = None) -> Effects | None:
        """Close the run's resources, as effects; None where none is open. `status` is how the run
        ends, None where its errors tell."""
        if self.resources is None or not self.resources.end():
            return None
        ends_as = status or self._status_by_errors()  # what a resource may want to know
        if self.parent is None:
            self.context.metadata["execution_status"] = ends_as
        else:
            self.resources.context.metadata.maps[0]["execution_status"] = ends_as  # type: ignore[attr-defined]
        ended_by: BaseException | None = None
        if self._stopped and self._fatal is not None:
            ended_by = self.errors[self._fatal]
        elif status is not None or self.stopped:
            ended_by = ExecutionError(f"{self.name!r} was cut short: {status}", run=self)
        return self.resources.close(ended_by, self._tell_unclosed)

    def _tell_unclosed(self, name: str, error: BaseException) -> None:
        self.lose(name, error, _CLOSING)

    def lose(self, name: str, error: BaseException, where: str = "use") -> None:
        """A resource broke, while it was open or as it was closed."""
        if self._fatal is not None:
            what = "could not be closed" if where == _CLOSING else "broke"
            told = f"{type(error).__name__}: {text_of(error)}"
            add_note(self.errors[self._fatal], f"resource {name!r} {what}: {told}")
            return
        self.errors[name], self._where[name] = error, where  # type: ignore[assignment]
        self._lost |= {name}
        if self.parent is None:
            log.failed(self, name, error, 1)
        self._stopped, self._fatal = True, name

    def _status_by_errors(self) -> str:
        if not self.errors:
            return "completed"
        return "failed" if self._stopped else "completed_with_errors"

    def close(self, status: str | None = None) -> None:
        """End the run with that status, else the one that its errors tell."""
        self.record.ended = perf_counter()
        if self._memory is not None:
            self.record.peak_mb = self._memory.stop()
        if self.record.schedule is not None:
            self.record.schedule.close()
        self.status = self._status_by_errors() if status is None else status
        self.value = self._final_value()
        if self.parent is None:
            self.context.metadata["execution_status"] = self.status
        self.context._leave_run()
        if self.observers is not None:
            self.observers.cut_off(self)
        # What is above holds this run, which is not to hold it in turn.
        self.outer = self.parent = None

    def tell_end(self) -> None:
        """Tell the observers, if there are any, and the log that the outermost run ended; a driver
        does, when it holds no lock any more."""
        if self.parent is not None or self.status == "running":
            return
        if self.observers is not None:
            self.observers.close(self)
        if self.is_told:
            log.ended(self)

    def start(self, index: int) -> tuple[list[Any], dict[str, Any]]:
        """A node starts: its arguments. Raises what keeps them from being gathered."""
        assert self.record.schedule is not None
        self.record.schedule.start(index)
        return self.gather(index)

    def take_back(self, index: int) -> None:
        """A node that was to start did not, since the run was stopped."""
        assert self.record.schedule is not None
        self.record.schedule.take_back(index)

    def surround(
        self,
        index: int,
        args: Sequence[Any],
        kwargs: dict[str, Any],
    ) -> Effects:
        """The call of a node that has something around it, as effects."""
        return self.plan.policies[index].effects_of(self, (args, kwargs))

    def judge(self, index: int, outcome: Outcome) -> Verdict:
        """What a node's end means. Calls user code (a handler, a value's truth, those that take the
        log), so drivers hold no lock here."""
        verdict = self._judged(index, outcome)
        if not verdict.outcome.ok or verdict.fault is not None or self.children:
            self._log_failures(index, verdict)
        return verdict

    def _log_failures(self, index: int, verdict: Verdict) -> None:
        """Log the errors that the outermost run keeps of a node, and of what is nested in it."""
        if self.parent is not None:  # whose node may be tried again, or have a handler
            return
        name, outcome = self.plan.names[index], verdict.outcome
        child = self.children.get(name)
        if child is not None:
            for key, error in child.errors.items():
                path = f"{name}.{key}"
                if self.errors.get(path) is not error:  # as of an earlier visit of a state
                    log.failed(self, path, error, child._attempts.get(key, 1))
        if verdict.fault is not None:
            log.failed(self, name, verdict.fault, outcome.attempts)
        elif not outcome.ok and verdict.key == name:
            log.failed(self, name, outcome.value, outcome.attempts)

    def _judged(self, index: int, outcome: Outcome) -> Verdict:
        name = self.plan.names[index]
        if outcome.ok:
            try:
                return self._decide(index, outcome)
            except failures() as problem:
                outcome = Outcome(False, problem, outcome.attempts)
        error = outcome.value
        inner = self.children.get(name)
        if inner is not None and error is inner.exception():
            # Its errors are recorded and have been decided about in there.
            return Verdict(outcome, f"{name}.{inner.first_error}", goes_on=inner._fatal is None)
        BaseException.with_traceback(error, _user_traceback(error))
        return Verdict(outcome, name, goes_on=self._goes_on(name, error))

    def settle(self, index: int, verdict: Verdict, started: float) -> list[int]:
        """A node ended: record how; the nodes that may start now. One call at a time."""
        outcome, schedule = verdict.outcome, self.record.schedule
        assert schedule is not None
        seconds = self.record.add(index, started, outcome)
        name = self.plan.names[index]
        child = self.children.get(name)
        if child is not None:
            self._adopt(name, child)
        if outcome.ok:
            self.results[name] = outcome.value
            ready = schedule.complete(index, verdict.choice)
        else:
            if verdict.key == name:
                self.errors[name] = outcome.value
                self._attempts[name] = outcome.attempts
                if outcome.where is not None:
                    self._where[name] = outcome.where
            ready = schedule.fail(index)
            if not verdict.goes_on and not self._stopped:
                self._stopped = True
                self._fatal = verdict.key
        if self.observers is not None:
            error = None if outcome.ok else outcome.value
            status = "completed" if outcome.ok else "failed"
            path = self.path_of(index)
            self.observers.note(self, path, status, error, outcome.attempts, seconds)
            self._note_skipped()
        return [] if self.stopped else ready

    def start_plain(self, index: int) -> list[Any] | None:
        """`start` for a node that takes results only, one by one; None where that cannot be."""
        keys = self.plan.bindings[index].keys
        if keys is None:
            return None
        results = self.results
        try:
            # The comprehension takes as long as all else here.
            if len(keys) == 1:
                args = [results[keys[0]]]
            elif len(keys) == 2:
                args = [results[keys[0]], results[keys[1]]]
            else:
                args = [results[key] for key in keys]
        except KeyError:
            return None  # `start` tells why
        self.record.schedule.start(index)  # type: ignore[union-attr]
        return args

    def settle_plain(self, index: int, value: Any, started: float, ended: float) -> list[int]:
        """`settle` for a plain node that completed; see `Plan.plain`."""
        record = self.record
        record.spans.append((index, started, ended))
        self.results[self.plan.names[index]] = value
        ready = record.schedule.complete(index)  # type: ignore[union-attr]
        return [] if self._stopped or (self.parent is not None and self.stopped) else ready

    def note_start(self, index: int) -> None:
        """Tell the observers, if there are any, that a node starts."""
        if self.observers is not None:
            self.observers.note(self, self.path_of(index), "running")

    def tell_retry(self, name: str, error: Exception, attempt: int, delay: float) -> None:
        """Record, and tell the log, and the observers, if there are any, that an attempt failed and
        another follows."""
        self.record.note_retry(name, error, delay)
        log.retried(self, self._prefix + name, error, attempt)
        if self.observers is not None:
            path, fraction = self._prefix + name, self.observers.fraction
            self.observers.tell(Event(self, path, "retrying", fraction, error, attempt))

    def tell_handled(self, name: str, error: Exception, attempts: int) -> None:
        """Tell the log that a node's error handler gave a result in place of its error."""
        log.handled(self, self._prefix + name, error, attempts)

    def _note_skipped(self) -> None:
        assert self.record.schedule is not None
        assert self.observers is not None
        skipped = self.record.schedule.skipped
        for index in skipped:
            self.observers.note(self, self.path_of(index), "skipped")
        skipped.clear()

    @property
    def is_told(self) -> bool:
        """Whether the log is told of its end."""
        return True

    @property
    def stopped(self) -> bool:
        """Whether a failure ended this run or one that it is nested in: nothing more starts."""
        return self._stopped or (self.parent is not None and self.parent.stopped)

    @property
    def cut_short(self) -> bool:
        """Whether it was stopped by no failure of its own."""
        return self.stopped and self._fatal is None

    def stop(self) -> None:
        """Nothing more starts."""
        self._stopped = True

    def path_of(self, index: int) -> str:
        """A node's name, from the outermost run on: `"sub.inner"`."""
        return self._prefix + self.plan.names[index]

    def child(self, index: int, inputs: dict[str, Any]) -> Run:
        """The run of a nested workflow, ready to be driven."""
        name = self.plan.names[index]
        workflow: Any = self.plan.nodes[index].workflow
        plan = self.plan.nested.get(index)
        child: Run = workflow._nested_run(self, f"{self._prefix}{name}.", plan, inputs)
        self.children[name] = child
        return child

    def _adopt(self, name: str, child: Run) -> None:
        for key, error in child.errors.items():
            self.errors[f"{name}.{key}"] = error
            self._attempts[f"{name}.{key}"] = child._attempts.get(key, 1)
            if key in child._where:
                self._where[f"{name}.{key}"] = child._where[key]

    # Errors.

    def _goes_on(self, key: str, error: BaseException) -> bool:
        """Whether the run continues after a failure."""
        path = self._prefix + key
        handler = self.settings.error_handler
        if handler is not None:
            return self._handled(handler, path, error)
        if self.settings.error_strategy == "fail_fast":
            return False
        self.context.metadata.setdefault("errors", []).append(
            {
                "node": path,
                "error": text_of(error),
                "type": type(error).__name__,
                "timestamp": time(),
            }
        )
        return True

    def _handled(
        self, handler: Callable[[str, Exception, Context], str], path: str, error: BaseException
    ) -> bool:
        token = current_run.set(self)
        try:
            answer = handler(path, error, self.context)  # type: ignore[arg-type]  # or CancelledError
        except failures() as raised:
            add_note(
                error, f"error_handler raised for it: {type(raised).__name__}: {text_of(raised)}"
            )
            return False
        finally:
            current_run.reset(token)
        if answer not in ("stop", "continue"):
            add_note(
                error,
                f"error_handler returned {answer!r} for it; it must return 'stop' or 'continue'",
            )
            return False
        return answer == "continue"

    @property
    def first_error(self) -> str:
        """The node whose failure ended the run, else that of the first failure."""
        return self._fatal or next(iter(self.errors))

    def _make_exception(self) -> ExecutionError:
        key = self.first_error
        cause = self.errors[key]
        path = self._prefix + key
        attempts = self._attempts.get(key, 1)
        own = (TimeoutError, InvalidTransitionError, MaxCyclesError)
        if is_a(cause, own) and cause.node_name == path and key not in self._where:
            # Raised itself.
            cause.run, cause.attempts = self, attempts
            self._note_others(cause, key)
            return cause
        tries = f" after {attempts} attempts" if attempts > 1 else ""
        where = self._where.get(key)
        if where is not None:
            tries += f" (in its {where})"
        told = f"{type(cause).__name__}: {text_of(cause)}"
        kind = "resource" if key in self._lost else self.noun
        error = ExecutionError(
            f"{kind} {path!r} of {self.name!r} failed{tries}: {told}",
            node_name=path,
            attempts=attempts,
            run=self,
        )
        error.__cause__ = cause
        add_note(error, *notes_of(cause))
        self._note_others(error, key)
        return error

    def _note_others(self, error: ExecutionError, key: str | None) -> None:
        for other, also in self.errors.items():
            if other != key:
                kind = "resource" if other in self._lost else self.noun
                add_note(
                    error,
                    f"{kind} {self._prefix + other!r} failed too: "
                    f"{type(also).__name__}: {text_of(also)}",
                )

    def _refuse_shared_inputs(self) -> None:
        for name, value in self.inputs.items():
            if type(value) in ONE_SHOT:
                takers = [
                    node.name
                    for node, binding in zip(self.plan.nodes, self.plan.bindings, strict=True)
                    if name in binding.used
                ]
                if len(takers) > 1:
                    raise shared_error(name, "is", value, takers)

    def _refuse_missing(self, outside: Sequence[Edge] = ()) -> None:
        """Raise MissingInputError for all that this run lacks."""
        unfed = self.plan.missing
        if not unfed and not outside:
            return
        told: list[str] = []
        advice: list[str] = []
        if unfed:
            told.extend(f"{parameter!r} of {node!r}" for node, parameter in unfed)
            advice.append(self.advice)
            if any(parameter == "self" for _, parameter in unfed):
                advice.append(
                    "make a method's node of the bound one: add_node(name, object.method)"
                )
        for edge in outside:
            port = edge.input or "its order"
            told.append(f"{port!r} of {edge.target!r} (the result of {edge.source!r})")
        if outside:
            advice.append(
                "for results from outside of this part run the whole, or pass run= or context="
            )
        raise MissingInputError(
            f"{self.name!r} lacks values for required parameters: {', '.join(told)}; "
            f"{'; '.join(advice)}",
            missing=(*unfed, *((edge.target, edge.input or edge.source) for edge in outside)),
            sources=tuple(edge.source for edge in outside),
        )


_CLOSING = "closing"

_REASONS = {
    "not run": "has not run",
    "running": "is still running",
    "skipped": "was skipped, because a branch was not taken or a node above it failed",
    "failed": "failed",
    "deleted": "ran, but its result was deleted from context.results",
}


def shared_error(name: str, does: str, value: Any, takers: Sequence[str]) -> ValidationError:
    return ValidationError(
        f"{name!r} {does} a {type(value).__name__}, which can be gone through once only, but "
        f"{names(takers)} take it; make it a list, or connect one node",
        node=name,
        consumers=tuple(takers),
    )


def _user_traceback(error: BaseException) -> Any:
    """The traceback from the user's own code on."""
    traceback = trace_of(error)
    at = traceback
    while at is not None and at.tb_frame.f_code.co_filename.startswith((_PACKAGE, _ASYNCIO)):
        at = at.tb_next
    return at or traceback
