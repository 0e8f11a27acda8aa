"""Execution: the engine's side of one run, and what the end of a node means to the run."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from contextvars import ContextVar
from time import perf_counter, time
from types import MappingProxyType
from weakref import ref

from fast_dag.call.effects import ONE_SHOT, STOPPED, Invoke, Outcome, bare_effects, ended
from fast_dag.call.resources import Resources
from fast_dag.errors import ExecutionError, add_note, brief_of, failures, text_of
from fast_dag.run.failures import (
    CLOSING,
    Failures,
    cut_traceback,
    exception_of,
    missing_inputs,
    shared,
)
from fast_dag.run.memory import MemoryWatch
from fast_dag.run.run import Run
from fast_dag.schedule.base import NodeStatus
from fast_dag.watch import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable, Mapping
    from threading import Lock
    from typing import Any

    from fast_dag.call.effects import Attempt, Effect, Effects
    from fast_dag.call.host import Host
    from fast_dag.call.policy import CallPolicy
    from fast_dag.context import Context
    from fast_dag.define.graph import Graph
    from fast_dag.draw.view import MachineView, RunView, WorkflowView
    from fast_dag.plan.plan import Plan
    from fast_dag.plan.step import Step
    from fast_dag.plan.topology import Topology
    from fast_dag.plan.ways import Ways
    from fast_dag.run.items import Items
    from fast_dag.run.keeping import Keeping
    from fast_dag.run.limits import Claim
    from fast_dag.run.record import Record
    from fast_dag.run.settings import Settings
    from fast_dag.watch.observers import Observers

    Ended = tuple[str, Outcome | None, Any, Any, float, float]
    """How a node ended, from a store: its name; if it failed the outcome with its verdict, else
    None, its value and its choice; when it began by the wall clock, and how many seconds it took.
    """


class Store:
    """Keeps how the nodes of one execution ended. It says what is different from how it is without
    a store."""

    __slots__ = ()

    def load(self, execution: Any, /) -> Iterable[Ended]:
        """How its nodes ended before, in the order in which they did."""
        return ()

    def nested(self, execution: Any, index: int, /) -> Store | None:
        """Keeps how the nodes of a nested workflow end, in one attempt of its node; None if it
        keeps the end of that node only."""
        return None

    def items(self, execution: Any, index: int, /) -> Any:
        """Keeps the items of a map, and has those that are `known` by key; None if it keeps the end
        of the map only."""
        return None

    def ended_items(self, name: str, /) -> tuple[int, Mapping[Any, Outcome]]:
        """Of a map that has ended: how many of its items are known to have completed, and those
        that failed, by key."""
        return 0, {}

    def completed(self, path: str, /) -> int:
        """How often a node has completed before this call."""
        return 0

    def begin(self, execution: Any, index: int, /) -> Generator[Effect, Any, Outcome | None] | None:
        """Called before the call of a node; None if there is nothing to do. If it returns an
        Outcome, with its verdict or STOPPED, the call is not made."""
        return None

    def commit(self, execution: Any, index: int, outcome: Outcome, began: float, /) -> Effects:
        """Keep how a node ended. Returns the same outcome once that is done, else the failure that
        the node ends with in its place, or STOPPED."""
        answer = yield Invoke(self.commit_now, (execution, index, outcome, began), False)
        return answer if isinstance(answer, Outcome) else _not_kept(outcome, answer.error)

    def commit_now(self, execution: Any, index: int, outcome: Outcome, began: float, /) -> Outcome:
        """The same, in a thread that may block. An exception fails the node."""
        raise NotImplementedError

    def settled(self, execution: Any, index: int, /) -> None:
        """Called when the end of a node was kept, and its execution has recorded it. Raises what
        ends the run then."""


def _quoted(name: str) -> str:
    """The name of a node as ids of calls have it: "pay~2" and "pay[0]" are further calls of "pay".

    >>> _quoted("pay"), _quoted("pay~2")
    ('pay', "'pay~2'")
    """
    return repr(name) if "~" in name or "[" in name else name


def _not_kept(outcome: Outcome, error: BaseException) -> Outcome:
    return Outcome(False, error, outcome.attempts, "store")


current: ContextVar[Execution | None] = ContextVar("fast_dag_execution", default=None)
"""The execution whose node, hook or handler is being called."""


class Verdict:
    """What the end of a node means to its execution.

    `choice` is the choice of a node that decides. `key` is the name of its error in `failures`,
    None if the failure is no error of the execution. `goes_on` is False if the failure ends the
    execution.
    """

    __slots__ = ("choice", "goes_on", "key", "outcome")

    def __init__(
        self, outcome: Outcome, key: str | None, choice: Any = None, goes_on: bool = True
    ) -> None:
        self.outcome = outcome
        self.key = key
        self.choice = choice
        self.goes_on = goes_on


class Execution(ABC):
    """One execution of a plan, as drivers see it.

    A driver calls `open` and `begin`; then `start`, the node's call and `finish` for each node that
    may start; then `close`. `run` is the public view. Values are in `results`, which is
    `context.results`.
    """

    noun = "node"
    advice = "pass inputs, connect a node to them, or give them defaults"
    run_class: type[Run] = Run
    is_map = False

    # Defaults on the class, so that making an execution sets fewer attributes.
    status = "running"
    value: Any = None
    observers: Observers | None = None
    store: Store | None = None
    keeping: Keeping | None = None  # if results are dropped that nobody takes any more
    resources: Resources | None = None
    units: Mapping[int, Any] = MappingProxyType({})  # what its nodes take of limits, by index
    items: Mapping[str, Items] = MappingProxyType({})  # of its maps, by the name of their node
    ways: Ways | None = None  # from its nodes to its end, once nodes must wait
    _claims: type[Claim]
    claim: Claim | None = None  # that of the node in whose call it was started
    # The nodes whose cleanup hook was cut off before its end.
    cut_off: tuple[str, ...] = ()
    # The nodes whose results were dropped once nobody needed them any more.
    dropped: Collection[str] = ()
    # Whether its caller waits in the thread of an event loop, and so blocks the loop.
    holds_loop = False
    _stopped = False
    _exception: ExecutionError | None = None
    _memory: MemoryWatch | None = None
    _run: ref[Run] | None = None

    def __init__(
        self,
        graph: Graph,
        plan: Plan,
        inputs: Mapping[str, Any],
        context: Context,
        settings: Settings,
        record: Record,
        *,
        parent: Execution | None = None,
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
        self.prefix = prefix
        self.results = context.results
        self.failures = Failures()
        self.children: dict[str, Execution] = {}
        # The execution whose node started this one. Views used in a node of this execution look for
        # a run of their workflow outwards from here.
        self.outer: Execution | None = current.get() if parent is None else parent
        if parent is not None:
            self.observers = parent.observers
        if plan.resources:
            self.resources = Resources(plan.resources, context, is_nested=parent is not None)

    @property
    def run(self) -> Run:
        """The public view; the same object as long as somebody refers to it."""
        run = None if self._run is None else self._run()
        if run is None:
            run = self.run_class(self)
            self._run = ref(run)
        return run

    @property
    def topology(self) -> Topology:
        """Its nodes and edges."""
        return self.plan.topology

    @property
    def choices(self) -> Mapping[str, Any]:
        """The branches that its deciders took, by name."""
        return {}

    @property
    def consumed(self) -> frozenset[str]:
        """The nodes whose results can be gone through once only, and were given to a node."""
        return self.record.consumed(self.results)

    @property
    def watched(self) -> bool:
        """Whether an observer, a store or `keep="outputs"` must be told of each node. Drivers then
        take no fast path."""
        return self.store is not None or self.is_told_each

    @property
    def is_told_each(self) -> bool:
        """Whether an observer or `keep="outputs"` must be told of each node."""
        return self.observers is not None or self.keeping is not None

    @property
    def is_straight(self) -> bool:
        """Whether a sequential driver only has to call one node after another."""
        return self.plan.is_straight and self.resources is None and not self.watched

    @property
    def needs_loop(self) -> bool:
        """Whether something in it is known to be async."""
        return self.plan.needs_loop

    @property
    def home(self) -> Execution:
        """Itself."""
        return self

    def host_of(self, index: int) -> Host:
        """The execution as the call of a node sees it."""
        return self

    @property
    def blocks_loop(self) -> bool:
        """Whether an event loop is blocked until the execution ends."""
        return self.holds_loop and self.status == "running"

    # Begin and end.

    def open(self) -> None:
        """Check the inputs, take the context, and start the clock.

        Raises MissingInputError if values are missing, ValidationError if another run uses the
        context."""
        self._check()
        if self.plan.needs_limits:
            self._find_units()
        self.context._enter_run(self.record)
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
        """Whether the execution gets a new run_id: the user set none in the metadata."""
        own = self.context._own_run_id
        return bool(self.context.metadata.get("run_id", own) == own)

    def _check(self) -> None:
        """Raise for mistakes that show only when the values of the inputs are known."""
        if self.plan.missing:
            raise missing_inputs(self.name, self.plan.missing, (), self.advice)
        if self.inputs:
            self._refuse_shared_inputs()

    def _find_units(self) -> None:
        """Look up what its nodes and those of nested workflows use. Raises ValidationError for what
        there is not, and for what could never be had."""
        from fast_dag.run import limits  # for workflows that use some

        around = []
        outer = self.parent
        while outer is not None:
            around.append(outer.plan.limits)
            outer = outer.parent
        self._claims = limits.Claim
        self.claim = limits.held.get() if self.parent is None else self.parent.claim
        self.units = limits.units_of(self.plan, self.settings.limits, tuple(around), self.claim)

    def claim_of(self, index: int) -> Claim:
        """What an attempt of a node that uses limits takes."""
        return self._claims(self.units[index], self, index)

    def find_ways(self) -> Ways:
        """How long the ways from its nodes to its end are; the same from now on."""
        self.ways = ways = self.plan.ways
        return ways

    def priority_of(self, index: int) -> int:
        """A node's priority; that of a workflow's node adds to those of the nodes inside."""
        own = self.plan.steps[index].node.priority
        if self.parent is None or not self.prefix:
            return own
        if self.parent.is_map:
            return own + self.parent.priority_of(0)  # the same for all its items
        name = self.prefix[len(self.parent.prefix) : -1]
        return own + self.parent.priority_of(self.parent.plan.topology.index[name])

    def _refuse_shared_inputs(self) -> None:
        for name, value in self.inputs.items():
            if ONE_SHOT[type(value)]:
                topology, takers = self.plan.topology, self.plan.takers(name)
                if topology.clash([(topology.index[taker], None) for taker in takers]):
                    raise shared(name, "is", value, takers)

    def _prepare_results(self) -> None:
        """Drop old results of the nodes that are about to run."""
        if self.results:
            for name in self.plan.names:
                self.results.pop(name, None)

    @abstractmethod
    def begin(self, *, eager: bool) -> list[int]:
        """Make the schedule. Returns the nodes that may start at once."""

    def close(self, status: str | None = None) -> None:
        """End the execution with that status; None if its errors decide."""
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
        # The outer executions refer to this one; without a cycle they are freed at once.
        self.outer = self.parent = None

    def tell_end(self) -> None:
        """Tell the observers and the log that the outermost run ended. Drivers call it when they
        hold no lock."""
        if self.parent is not None or self.status == "running":
            return
        if self.observers is not None:
            self.observers.close(self)
        if self.is_told:
            log.ended(self)

    @property
    def is_told(self) -> bool:
        """Whether the end is logged."""
        return True

    def _status_by_errors(self) -> str:
        if not self.failures.errors:
            return "completed"
        return "failed" if self._stopped else "completed_with_errors"

    @abstractmethod
    def _final_value(self) -> Any:
        """What `run()` returns."""

    @property
    def stopped(self) -> bool:
        """Whether nothing more starts, because this execution, or one that it is nested in, was
        stopped."""
        return self._stopped or (self.parent is not None and self.parent.stopped)

    @property
    def cut_short(self) -> bool:
        """Whether the execution was stopped, but not by a failure of its own."""
        return self.stopped and self.failures.fatal is None

    def stop(self) -> None:
        """Let nothing more start."""
        self._stopped = True

    def let_go(self) -> object:
        """Drop all results of a nested execution, which nobody takes any more. Returns them, to be
        freed when no lock is held."""
        freed = (dict(self.results), self.value)
        self.results.clear()
        self.value = None
        return freed

    # Resources.

    def release(self, status: str | None = None) -> Effects | None:
        """Close the resources, as effects; None if none is open. `status` is how the run ends; None
        if its errors decide."""
        if self.resources is None or not self.resources.end():
            return None
        # A resource may read in its context how the run ends.
        self.resources.set_status(status or self._status_by_errors())
        ended_by: BaseException | None = None
        fatal = self.failures.fatal
        if self._stopped and fatal is not None:
            ended_by = self.failures.errors[fatal]
        elif status is not None or self.stopped:
            ended_by = ExecutionError(f"{self.name!r} was cut short: {status}", run=self.run)
        return self.resources.close(ended_by, self._not_closed)

    def _not_closed(self, name: str, error: BaseException) -> None:
        self.lose(name, error, CLOSING)

    def lose(self, resource: str, error: BaseException, where: str = "use") -> None:
        """Fail the run, because a resource broke while it was open or as it was closed."""
        known = self.failures
        if known.fatal is not None:
            what = "could not be closed" if where == CLOSING else "broke"
            add_note(known.errors[known.fatal], f"resource {resource!r} {what}: {brief_of(error)}")
            return
        known.add(resource, error, where=where, is_resource=True)
        if self.parent is None:
            log.failed(self, resource, error, 1)
        self._stopped, known.fatal = True, resource

    # One node: start, call, finish.

    def start(self, index: int) -> Attempt:
        """Start a node. Returns its arguments; raises if they cannot be gathered."""
        self.record.schedule.start(index)  # type: ignore[union-attr]
        return self.gather(index)

    def start_plain(self, index: int) -> list[Any] | None:
        """`start` for a node whose arguments are results (`Step.keys`). Returns the arguments. If
        the node is another one, or a result is missing, returns None and starts nothing."""
        keys = self.plan.steps[index].keys
        if keys is None:
            return None
        results = self.results
        try:
            # One and two keys are handled apart because a comprehension takes as long as all else.
            if len(keys) == 1:
                args = [results[keys[0]]]
            elif len(keys) == 2:
                args = [results[keys[0]], results[keys[1]]]
            else:
                args = [results[key] for key in keys]
        except KeyError:
            return None  # `start` then raises the error
        self.record.schedule.start(index)  # type: ignore[union-attr]
        return args

    @abstractmethod
    def gather(self, index: int) -> Attempt:
        """A node's arguments. Raises if they cannot be gathered."""

    def take_back(self, index: int) -> None:
        """A node that was ready does not start, because the execution was stopped."""
        self.record.schedule.take_back(index)  # type: ignore[union-attr]

    def note_start(self, index: int) -> None:
        """Tell the observers, if there are any, that a node starts."""
        if self.observers is not None:
            self.observers.started(self, self.path_of(index))

    def is_surrounded(self, step: Step) -> bool:
        """Whether the call of a node is more than a call of its function, and needs effects."""
        return step.policy is not None or self.store is not None

    def sole_policy(self, step: Step) -> CallPolicy | None:
        """The policy of a node, if nothing else surrounds its call; else None."""
        return step.policy if self.store is None else None

    def effects_of(self, index: int, attempt: Attempt) -> Effects:
        """The call of a node as effects: those of its policy, then the commit if there is a
        store."""
        policy = self.plan.steps[index].policy
        effects = (
            bare_effects(attempt)
            if policy is None
            else policy.effects_of(self.host_of(index), attempt)
        )
        return effects if self.store is None else self._committed(index, effects, self.store)

    def effects_of_failed(self, index: int, outcome: Outcome) -> Effects:
        """What is left to do for a node that failed before its call, if there is a store."""
        assert self.store is not None
        return self._committed(index, ended(outcome), self.store)

    def effects_of_cancelled(self, step: Step) -> Effects | None:
        """What is left to do for a call of a node that was cut off; None if that is nothing."""
        return None if step.policy is None else step.policy.effects_of_cancelled(self)

    def _committed(self, index: int, effects: Effects, store: Store) -> Effects:
        began = time()
        before = store.begin(self, index)
        if before is not None:
            known = yield from before
            if known is not None:
                return known
        outcome = yield from effects
        try:
            while outcome is not STOPPED:
                kept = self._kept(index, outcome)
                answer = yield from store.commit(self, index, kept, began)
                if answer is kept:
                    break
                outcome = answer
        except BaseException:
            self.cut_off += (self.plan.names[index],)  # whose cleanup is over
            raise
        return outcome

    def committed_now(self, index: int, outcome: Outcome, began: float) -> Outcome:
        """Keep how a plain call ended, in a thread that may block."""
        store = self.store
        assert store is not None
        while outcome is not STOPPED:
            kept = self._kept(index, outcome)
            try:
                answer = store.commit_now(self, index, kept, began)
            except failures() as error:
                answer = _not_kept(outcome, error)
            if answer is kept:
                break
            outcome = answer
        return outcome

    def _kept(self, index: int, outcome: Outcome) -> Outcome:
        """What a store keeps of how a node ended."""
        outcome.verdict = verdict = self.judge(index, outcome)
        kept: Outcome = verdict.outcome
        kept.verdict = verdict
        return kept

    def finish(
        self, index: int, outcome: Outcome, started: float, guard: Lock | Any = None
    ) -> list[int]:
        """End a node: judge and record its outcome, and note it for observers. Returns the nodes
        that may start now. Nodes end nowhere else, except for plain ones (`finish_plain`).

        `guard` is the lock of a run that uses several threads. It is not held while user code is
        called (an error handler, `bool(value)`). An outcome is dropped if the execution was closed
        before. Drivers call `deliver` later, when they hold no lock."""
        verdict = outcome.verdict
        if verdict is None:
            verdict = self.judge(index, outcome)
        else:  # it refers to the outcome: a cycle would keep the value alive
            outcome.verdict = verdict.outcome.verdict = None
        if guard is None:
            return self._settle(index, verdict, started)
        with guard:
            return self._settle(index, verdict, started) if self.status == "running" else []

    def deliver(self) -> None:
        """Deliver noted events to the observers, if there are any."""
        if self.observers is not None:
            self.observers.deliver()

    def finish_plain(self, index: int, value: Any, started: float, ended: float) -> list[int]:
        """`finish` for a plain node that completed in an execution that is not watched."""
        record = self.record
        record.spans.append((index, started, ended))
        self.results[self.plan.names[index]] = value
        ready = record.schedule.complete(index)  # type: ignore[union-attr]
        return [] if self._stopped or (self.parent is not None and self.stopped) else ready

    def judge(self, index: int, outcome: Outcome) -> Verdict:
        """What the end of a node means. Calls user code, so drivers must hold no lock."""
        verdict = self._judged(index, outcome)
        if not verdict.outcome.ok or self.children or self.items:
            self._log_failures(index, verdict)
        return verdict

    def _judged(self, index: int, outcome: Outcome) -> Verdict:
        name = self.plan.names[index]
        if outcome.ok:
            try:
                return self._decide(index, outcome)
            except failures() as problem:
                outcome = Outcome(False, problem, outcome.attempts)
        error = outcome.value
        inner = self.children.get(name)
        if inner is not None and error is inner.failure():
            # The nested execution has recorded its errors, and decided whether to go on, but where
            # a resource of its own broke: that ends it in any case.
            known = inner.failures
            key, fatal = f"{name}.{known.first}", known.fatal
            goes_on = fatal is None
            if fatal is not None and known.is_own_resource(fatal):
                goes_on = self._goes_on(key, known.errors[fatal])
            return Verdict(outcome, key, goes_on=goes_on)
        cut_traceback(error)
        items = self.items.get(name)
        failed = None if items is None else items._fatal
        if failed is not None and error is failed.error:
            outcome = Outcome(False, error, failed.attempts, failed.where)
            return Verdict(outcome, name + failed.label, goes_on=self._goes_on(name, error))
        return Verdict(outcome, name, goes_on=self._goes_on(name, error))

    @abstractmethod
    def _decide(self, index: int, outcome: Outcome) -> Verdict:
        """The verdict on a node that succeeded. Raises if its value makes it a failure, such as a
        decider's that names no branch."""

    def _settle(self, index: int, verdict: Verdict, started: float) -> list[int]:
        """Record how a node ended. Returns the nodes that may start now. Never called by two
        threads at once."""
        outcome, schedule = verdict.outcome, self.record.schedule
        assert schedule is not None
        seconds = self.record.add(index, started, outcome)
        name = self.plan.names[index]
        if self.children and name in self.children:
            inner = self.children[name].failures
            if verdict.key is not None or inner.are_items:
                self.failures.adopt(name, inner)
        if name in self.items:
            for failed in self.items[name]._kept:
                self.failures.add_item(name, failed)
        if outcome.ok:
            self.results[name] = outcome.value
            ready = schedule.complete(index, verdict.choice)
        else:
            if verdict.key == name:
                self.failures.add(name, outcome.value, outcome.attempts, outcome.where)
            elif name in self.items:
                self.failures.add_item(name, self.items[name]._fatal, is_fatal=True)
            ready = schedule.fail(index)
            if not verdict.goes_on and not self._stopped:
                self._stopped, self.failures.fatal = True, verdict.key
        if self.observers is not None:
            status = "completed" if outcome.ok else "failed"
            error = None if outcome.ok else outcome.value
            path = self.path_of(index)
            self.observers.ended(self, path, status, error, outcome.attempts, seconds)
        if self.observers is not None or self.keeping is not None:
            self._note_ended(index if outcome.ok else None)
        if self.store is not None:
            self.store.settled(self, index)
        return [] if self._stopped or (self.parent is not None and self.stopped) else ready

    def _note_ended(self, completed: int | None) -> None:
        """Note the nodes that were skipped meanwhile; `completed` is one that completed."""
        assert self.record.schedule is not None
        skipped = self.record.schedule.skipped
        if self.observers is not None:
            for index in skipped:
                self.observers.ended(self, self.path_of(index), "skipped")
        skipped.clear()

    def path_of(self, index: int) -> str:
        """A node's name, from the outermost workflow on: `"sub.inner"`."""
        return self.prefix + self.plan.names[index]

    def nested(self, index: int, attempt: Attempt) -> Execution:
        """The execution that the call of a node is: of a nested workflow, or of a map."""
        return self.child(index, attempt[1])

    def line_of(self, graph: Graph) -> Execution | None:
        """The execution of a workflow that this thread makes the bare calls of, for an item of this
        map; None if it makes none of that workflow."""
        return None

    def goes_on_with(self, index: int) -> None:  # noqa: B027  only maps count those that wait
        """The call of a node has waited, and goes on."""

    def child_of(self, index: int) -> Execution:
        """The execution that `nested` made last for a node that is a workflow."""
        return self.children[self.plan.names[index]]

    def call_id(self, name: str) -> str:
        """The id of a node's call, by which others know it again: the same over retries, also of
        the workflow that it is in, and resumes; another ("~2") where a rerun calls it again after
        it completed."""
        return f"{self.context.metadata['run_id']}/{self._called(self.prefix + name)}"

    def _called(self, path: str) -> str:
        """The path of a node of this execution, as ids of calls have it. What is inside of a node
        that is stored as one is called again when that is."""
        name, parent = path.removeprefix(self.prefix), self.parent
        before = self._completed(name)
        if "~" in path or "[" in path:
            path = ".".join([_quoted(each) for each in path.split(".")])
        if self.store is None and parent is not None:
            path = f"{parent._called_inner(self)}.{_quoted(name)}"
        return f"{path}~{before + 1}" if before else path

    def _called_inner(self, inner: Execution) -> str:
        """The path of the node that a nested execution is, as ids of calls have it."""
        return self._called(inner.prefix.removesuffix("."))

    def _completed(self, name: str) -> int:
        """How often a node has completed, so that the call that begins now is made on purpose."""
        return 0 if self.store is None else self.store.completed(self.prefix + name)

    def child(self, index: int, inputs: dict[str, Any]) -> Execution:
        """The execution of a nested workflow, ready to be driven."""
        step = self.plan.steps[index]
        workflow: Any = step.node.workflow
        prefix = f"{self.prefix}{step.name}."
        child: Execution = workflow._nested_execution(self, prefix, step.nested, inputs)
        if self.store is not None:
            child.store = self.store.nested(self, index)
        self.children[step.name] = child
        return child

    # Failures.

    def _log_failures(self, index: int, verdict: Verdict) -> None:
        """Log the errors of a node, of the items of a map, and of a workflow nested in it, if this
        is the outermost run."""
        # The node of the parent may be tried again or have a handler, so the errors are not final.
        if self.parent is not None:
            return
        name, outcome = self.plan.names[index], verdict.outcome
        if name in self.items:
            for each in self.items[name]._kept:
                log.failed(self, name + each.label, each.error, each.attempts)
        child = self.children.get(name)
        if child is not None and (verdict.key is not None or child.failures.are_items):
            for key, error in child.failures.errors.items():
                path = f"{name}.{key}"
                # Those of an earlier visit of this state were logged then.
                if self.failures.errors.get(path) is not error:
                    log.failed(self, path, error, child.failures.attempts(key))
        if (
            not outcome.ok
            and verdict.key is not None
            and (verdict.key == name or name in self.items)
        ):
            log.failed(self, verdict.key, outcome.value, outcome.attempts)

    def retries(self, name: str, error: Exception, attempt: int, delay: float) -> None:
        """Record, log and tell observers that an attempt failed, and another follows."""
        self.record.note_retry(name, error, delay)
        path = self.prefix + name
        log.retried(self, path, error, attempt)
        if self.observers is not None:
            self.observers.failed(self, path, error, attempt)
            self.observers.deliver()

    def handled(self, name: str, error: Exception, attempts: int) -> None:
        """Log that a node's error handler gave a result in place of its error."""
        log.handled(self, self.prefix + name, error, attempts)

    def _goes_on(self, key: str, error: BaseException) -> bool:
        """Whether the run continues after a failure."""
        path = self.prefix + key
        handler = self.settings.error_handler
        if handler is not None:
            return self._asked(handler, path, error)
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

    def _asked(
        self, handler: Callable[[str, Exception, Context], str], path: str, error: BaseException
    ) -> bool:
        token = current.set(self)
        try:
            # The error may be a CancelledError.
            answer = handler(path, error, self.context)  # type: ignore[arg-type]
        except failures() as raised:
            add_note(error, f"error_handler raised for it: {brief_of(raised)}")
            return False
        finally:
            current.reset(token)
        if not isinstance(answer, str) or answer not in ("stop", "continue"):
            from fast_dag.draw.words import brief as shown

            told = f"error_handler returned {shown(answer)} for it"
            add_note(error, f"{told}; it must return 'stop' or 'continue'")
            return False
        return answer == "continue"

    def exception(self) -> ExecutionError | None:
        """The error to raise for this execution: that of the failure that ended it, or of its first
        failure if it went on; None if nothing failed."""
        if self._exception is None:
            self._exception = exception_of(self, self.settings.timeout)
        return self._exception

    def failure(self) -> Exception | None:
        """The error of the node that this execution is nested in; None if it completes. Items that
        a map kept or dropped fail nothing."""
        return None if self.failures.are_items else self.exception()

    # Plain data for pictures and reports.

    def _view(self) -> WorkflowView:
        from fast_dag.draw.view import WorkflowView, nested_views

        topology = self.plan.topology.whole
        nested = nested_views(topology, self.children)
        return WorkflowView(self.name, topology, nested, self._machine_view(), self._run_view())

    def _machine_view(self) -> MachineView | None:
        return None

    def _run_view(self) -> RunView:
        from fast_dag.draw.view import RunView, Span

        settings, record, names = self.settings, self.record, self.plan.names
        known, statuses, timings = self.failures, record.statuses(), record.times()
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
                Span(names[index], start, end, statuses[names[index]] is NodeStatus.FAILED)
                for index, start, end in record.executed()
            ],
            retries=tuple(record.retried),
            live=(),
            errors=dict(known.errors),
            attempts={key: known.attempts(key) for key in known.errors},
            error=self.exception() if self.status in ("failed", "timed_out") else None,
            inputs=self.inputs,
            results=dict(self.results),
            metrics=self.context.metrics | record.measure(),
            run_id=self.context.metadata.get("run_id"),
            began_at=record.began_at,
            from_cache=frozenset(record.from_cache),
            items={name: items._view() for name, items in self.items.items()},
        )
