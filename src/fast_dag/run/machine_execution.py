"""The execution of a machine: what each state is given, where it leads, what was visited."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from fast_dag.context import FSMContext
from fast_dag.errors import InvalidTransitionError, MaxCyclesError, failures, names
from fast_dag.returns import FSMReturn
from fast_dag.run.execution import Execution, Verdict, current
from fast_dag.run.machine_state import FAILED, MachineState
from fast_dag.run.record import Record
from fast_dag.run.run import Run
from fast_dag.schedule.base import NodeStatus
from fast_dag.schedule.fsm import FsmSchedule
from fast_dag.watch import log

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fast_dag.call.effects import Attempt, Outcome
    from fast_dag.context import Context
    from fast_dag.define.graph import Graph
    from fast_dag.draw.view import MachineView, RunView
    from fast_dag.plan.machine_plan import MachinePlan
    from fast_dag.plan.topology import Topology
    from fast_dag.run.settings import Settings
    from fast_dag.watch.observers import Observers


class Definition(Protocol):
    """The FSM that an execution is of."""

    keep_history: int | None

    @property
    def name(self) -> str: ...
    @property
    def graph(self) -> Graph: ...
    def _observers(self, execution: MachineExecution, /) -> Observers | None: ...
    def _drive(self, execution: MachineExecution, /) -> MachineExecution: ...
    async def _drive_async(self, execution: MachineExecution, /) -> MachineExecution: ...


class MachineRecord(Record):
    """What is recorded of a machine, over all the runs that its now takes."""

    def __init__(self, topology: Topology, machine_state: MachineState) -> None:
        super().__init__(topology)
        self.machine_state = machine_state
        self.most_retried = machine_state.keep

    def add(self, index: int, started: float, outcome: Outcome) -> float:
        value, ended = outcome.value if outcome.ok else FAILED, perf_counter()
        self.machine_state.visits.append((index, value, started, ended))
        self.machine_state.forget()
        self.count(self.topology.names[index], outcome)
        return ended - started

    def executed(self) -> Iterator[tuple[int, float, float]]:
        for state, _, started, ended in self.machine_state.kept:
            yield state, started, ended

    @property
    def ended_count(self) -> int:
        return self.machine_state.visited

    def status(self, index: int) -> NodeStatus:
        return self.statuses()[self.topology.names[index]]

    def statuses(self) -> dict[str, NodeStatus]:
        topology = self.topology
        statuses = [NodeStatus.NOT_RUN] * len(topology.names)
        if self.schedule is not None:
            statuses = list(self.schedule.status)
        for state in self.machine_state.counts():
            if statuses[state] in (NodeStatus.NOT_RUN, NodeStatus.READY):
                statuses[state] = NodeStatus.COMPLETED
        if self.machine_state.running is not None:
            statuses[self.machine_state.running] = NodeStatus.RUNNING
        return dict(zip(topology.names, statuses, strict=True))

    def times(self) -> dict[str, float]:
        return {
            self.topology.names[state]: spent
            for state, spent in self.machine_state.seconds().items()
        }

    def measure(self) -> dict[str, Any]:
        measured = super().measure()
        return {
            **measured,
            "execution_order": [
                self.topology.names[state] for state, *_ in self.machine_state.kept
            ],
            "nodes_executed": self.machine_state.visited,
        }


class Bounds(NamedTuple):
    """How far one run of a machine goes: the most states of all its runs, and whether it is an
    error to want more; how many states this run executes; whether it may wait for events."""

    max_cycles: int
    raises: bool
    steps: int | None = None
    may_wait: bool = False


class Move(NamedTuple):
    """Where a state leads: to `next`, or to a wait for events, or to the end; `halts` ends the run,
    though there is a next."""

    next: int | None = None
    waits: bool = False
    ended: bool = False
    halts: bool = False


class MachineRun(Run):
    """The Run of a machine: also where it was, and how often."""

    _execution: MachineExecution  # type: ignore[assignment]  # more than every Run shows

    @property
    def state_history(self) -> list[str]:
        """The visited states in order, as far as they are kept."""
        return self._execution.machine_state.state_history

    @property
    def current_state(self) -> str | None:
        """The running state, else the one visited last."""
        return self._execution.machine_state.current_state

    @property
    def cycle_count(self) -> int:
        """How many states have been executed, the running one included."""
        return self._execution.machine_state.cycle_count

    @property
    def is_terminated(self) -> bool:
        """Whether a terminal state, or a return with `stop`, has ended the machine."""
        return self._execution.machine_state.ended

    def _result(self, name: str) -> Any:
        """The latest value of a state; `"s.0"` that of its first visit, `"sub.inner"` looks into a
        nested workflow. Raises a KeyError that says why there is none."""
        execution = self._execution
        first, dot, rest = name.partition(".") if isinstance(name, str) else (name, "", "")
        state = execution.plan.topology.index.get(first)
        if dot and rest.isdecimal() and state is not None:
            return execution.machine_state.value_of(state, int(rest), execution.deciding)
        return super()._result(name)


class MachineExecution(Execution):
    """One execution of a machine.

    `record` is that of its `Machine`; `continues` tells that there were executions before, of which
    `children` are the nested ones; `event` is what was sent to it, with its data.
    """

    plan: MachinePlan
    noun = "state"
    advice = "pass inputs, or give them defaults"
    run_class = MachineRun

    def __init__(
        self,
        fsm: Definition,
        plan: MachinePlan,
        inputs: Mapping[str, Any],
        context: Context,
        settings: Settings,
        bounds: Bounds,
        *,
        record: MachineRecord | None = None,
        continues: bool = False,
        event: tuple[str, Mapping[str, Any]] | None = None,
        children: Mapping[str, Execution] | None = None,
        parent: Execution | None = None,
        prefix: str = "",
    ) -> None:
        self.continues = continues
        if record is None:
            record = MachineRecord(
                plan.topology, MachineState(plan.names, plan.start, fsm.keep_history)
            )
        self.machine_state = record.machine_state
        super().__init__(
            fsm.graph, plan, inputs, context, settings, record, parent=parent, prefix=prefix
        )
        self.fsm = fsm
        self.bounds = bounds
        self.children.update(children or {})
        self._event = event
        self._steps = 0
        # An event that no condition lets through leaves the machine as it was.
        self._is_refused = False
        self._status_before: Any = None
        # The state whose way on is looked for, and its value: what conditions and hooks see.
        self.deciding: tuple[int, Any] | None = None
        self._fault_in: str | None = None  # the condition or state hook that raised last

    # Begin and end.

    @property
    def is_told(self) -> bool:
        """Whether the log is told of its end: that of a machine which goes on is none."""
        return not self.bounds.may_wait or self.machine_state.ended or self.status != "completed"

    @property
    def _is_new(self) -> bool:
        """Whether it is given a new run_id."""
        return not self.continues and super()._is_new

    def _check(self) -> None:
        if not self.continues:
            super()._check()

    def _prepare_results(self) -> None:
        if not self.continues:
            super()._prepare_results()
        if isinstance(self.context, FSMContext):
            self.context._state = self.machine_state

    def _final_value(self) -> Any:
        return self.machine_state.value

    def open(self) -> None:
        self._status_before = self.context.metadata.get("execution_status")
        super().open()

    def close(self, status: str | None = None) -> None:
        now, schedule = self.machine_state, self.record.schedule
        if now.running is not None and schedule is not None:  # cut short
            schedule.start(now.running)
        now.running = None
        super().close(status)
        if self._is_refused and self._status_before is not None:
            self.context.metadata["execution_status"] = self._status_before

    def begin(self, *, eager: bool) -> list[int]:
        schedule = self.record.schedule
        if not isinstance(schedule, FsmSchedule):
            schedule = self.record.schedule = FsmSchedule(len(self.plan.names))
        now = self.machine_state
        if self._event is not None:
            assert now.at is not None
            try:
                self._follow(self._by_event(now.at, *self._event))
                now.data = self._event[1]
            except failures() as fault:
                self._is_refused = True
                if self.parent is None:
                    log.failed(self, self.plan.names[now.at], fault, 0)
                self._keep_fault(now.at, fault, self._goes_on(self.plan.names[now.at], fault))
                return []
        return schedule.begin(now.next)

    # One state.

    def gather(self, index: int) -> Attempt:
        now = self.machine_state
        now.running = index
        return self.plan.steps[index].intake.gather(now.value, now.data, self.inputs, self.context)

    def _decide(self, index: int, outcome: Outcome) -> Verdict:
        result, name = outcome.value, self.plan.names[index]
        value = result.value if isinstance(result, FSMReturn) else result
        outcome.value = value
        move: Move | None = None
        if self.status == "running":
            self.results[name], self.deciding = value, (index, value)
        try:
            move = self._move(index, result, value)
            if move.halts and self.bounds.steps is None and self.bounds.raises:
                raise too_many(self.name, name, self.bounds.max_cycles)
        except failures() as fault:
            return Verdict(outcome, name, move, self._goes_on(name, fault), fault)
        return Verdict(outcome, name, move)

    def _settle(self, index: int, verdict: Verdict, started: float) -> list[int]:
        now, move = self.machine_state, verdict.choice
        self._steps += 1
        self.deciding = None
        going = move.next if isinstance(move, Move) and not move.halts else None
        verdict.choice = going
        ready = super()._settle(index, verdict, started)
        now.running = None
        now.at = index
        if verdict.outcome.ok:
            now.value = verdict.outcome.value
            now.data = {}
        if verdict.fault is not None:
            self._keep_fault(index, verdict.fault, verdict.goes_on)
            self._follow(
                move if isinstance(move, Move) else Move(waits=bool(self.plan.steps[index].events))
            )
        elif isinstance(move, Move):
            self._follow(move)
        return ready

    def _follow(self, move: Move) -> None:
        now = self.machine_state
        now.next, now.waits, now.ended = (
            move.next,
            move.waits,
            move.ended,
        )

    def _keep_fault(self, index: int, fault: BaseException, goes_on: bool) -> None:
        """A state ran, but not what follows it."""
        name, where = self.plan.names[index], self._fault_in
        self.failures.add(name, fault, where=where)
        if isinstance(fault, (InvalidTransitionError, MaxCyclesError)) and where is None:
            fault.node_name = self.path_of(index)
        if not goes_on:
            self._stopped, self.failures.fatal = True, name

    @property
    def free_steps(self) -> int:
        """How many states may be executed with no look at bounds, events and the history."""
        now = self.machine_state
        if now.data or self.bounds.steps is not None:
            return 0
        left = max(self.bounds.max_cycles - now.visited - 1, 0)
        return left if now.room is None else min(left, now.room - len(now.visits))

    # Where a state leads.

    def _move(self, index: int, result: Any, value: Any) -> Move:
        """Raises what keeps the machine from going on."""
        plan = self.plan
        target: Any = None
        if isinstance(result, FSMReturn):
            if result.stop:
                return Move(ended=True)
            target = result.next_state
        if plan.steps[index].is_terminal:
            return Move(ended=True)
        token, self._fault_in = current.set(self), None
        try:
            if target is not None:
                chosen = plan.find(target, index)
            else:
                way = self._first(plan.steps[index].ways, index, value, {})
                if way is None:
                    if plan.steps[index].events and self.bounds.may_wait:
                        return Move(waits=True)
                    raise self._stuck(index)
                chosen = plan.topology.index[way]
            if self.machine_state.visited + 1 >= self.bounds.max_cycles:
                return Move(chosen, halts=True)
            halts = self.bounds.steps is not None and self._steps + 1 >= self.bounds.steps
            return Move(self._hooked(index, chosen, value), halts=halts)
        finally:
            current.reset(token)

    def _by_event(self, index: int, event: str, data: Mapping[str, Any]) -> Move:
        plan, name = self.plan, self.plan.names[index]
        value = self.machine_state.value
        heard = [each for each in plan.steps[index].events if each.event == event]
        token, self._fault_in = current.set(self), None
        try:
            way = self._first(heard, index, value, data)
            if way is None:
                raise InvalidTransitionError(
                    f"state {name!r} of {self.name!r} was sent {event!r}, but no condition of "
                    f"{names([str(each) for each in heard])} holds",
                    node_name=name,
                    state=name,
                    target=None,
                    event=event,
                    events=plan.heard(index),
                )
            chosen = plan.topology.index[way]
            return Move(self._hooked(index, chosen, value, event))
        finally:
            current.reset(token)

    def _first(self, ways: Any, index: int, value: Any, data: Mapping[str, Any]) -> str | None:
        """The target of the first transition that holds."""
        for each in ways:
            try:
                holds = each.holds(value, self.context, data)
            except failures():
                self._fault_in = f"condition of {each}"
                raise
            if holds:
                return str(each.target)
        return None

    def _hooked(self, index: int, chosen: int, value: Any, event: str | None = None) -> int:
        """Where the state hooks let it go."""
        plan = self.plan
        name = plan.names[index]
        for hook in plan.state_hooks:
            try:
                other = hook.func(*(self.fsm, name, plan.names[chosen], value)[: hook.takes])
            except failures():
                self._fault_in = f"state hook of {name!r} -> {plan.names[chosen]!r}"
                raise
            if other is not None:
                chosen = plan.find(other, index, event)
        return chosen

    def _stuck(self, index: int) -> InvalidTransitionError:
        name, plan = self.plan.names[index], self.plan
        heard = plan.heard(index)
        if heard:
            why = (
                f"waits for an event ({names(heard)}), which nobody can send in run(); drive the "
                "machine with start() and send()"
            )
        else:
            declared = ", ".join(map(str, plan.steps[index].ways))
            reason = f"no condition of {declared} holds" if declared else "it has no transitions"
            why = (
                f"leads nowhere: it returned no next_state, and {reason}; return "
                "FSMReturn(next_state=...), or end the machine there with terminal=True or "
                "FSMReturn(stop=True)"
            )
        return InvalidTransitionError(
            f"state {name!r} of {self.name!r} {why}",
            node_name=name,
            state=name,
            target=None,
            events=heard,
        )

    # What pictures and reports know of it.

    def _machine_view(self) -> MachineView:
        from fast_dag.draw.view import MachineView

        plan = self.plan
        ways = [way for step in plan.steps for way in (*step.ways, *step.events)]
        terminal = {step.name for step in plan.steps if step.is_terminal}
        return MachineView(ways, (plan.names[plan.start],), terminal)

    def _run_view(self) -> RunView:
        from fast_dag.draw.view import Span

        known, state = self.plan.names, self.machine_state
        visits = {known[index]: count for index, count in state.counts().items()}
        spans = [
            Span(known[at], start, end, value is FAILED) for at, value, start, end in state.kept
        ]
        at = state.at if state.waits else None
        return (
            super()
            ._run_view()
            ._replace(
                visits=visits,
                spans=spans,
                current=state.current_state or known[self.plan.start],
                awaited=() if at is None else self.plan.heard(at),
            )
        )


def too_many(machine: str, state: str, most: int) -> MaxCyclesError:
    """The error of a machine that wants to execute more states than it may."""
    return MaxCyclesError(
        f"{machine!r} executed {most} states, which is its max_cycles, and did not end; the last "
        f"was {state!r}; raise max_cycles, or return what there is with on_max_cycles='stop'",
        node_name=state,
        max_cycles=most,
    )
