"""The execution of a machine: what each state is given, where it leads, what was visited."""

from __future__ import annotations

from collections.abc import Mapping
from sys import maxsize
from time import perf_counter
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from fast_dag.call.effects import Invoke, Outcome, Raised
from fast_dag.context import FSMContext
from fast_dag.errors import InvalidTransitionError, MaxCyclesError, failures, names
from fast_dag.returns import FSMReturn
from fast_dag.run import failures as told
from fast_dag.run.execution import Execution, Verdict, current
from fast_dag.run.machine_state import FAILED, MachineState, Sent
from fast_dag.run.record import Record
from fast_dag.run.run import Run
from fast_dag.schedule.base import NodeStatus
from fast_dag.schedule.fsm import FsmSchedule
from fast_dag.watch import log

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from threading import Lock
    from typing import TypeVar

    from fast_dag.call.effects import Attempt, Effects
    from fast_dag.call.hooks import Hook
    from fast_dag.call.policy import CallPolicy
    from fast_dag.context import Context
    from fast_dag.define.graph import Graph
    from fast_dag.define.transitions import Transition
    from fast_dag.draw.view import MachineView, RunView
    from fast_dag.plan.machine_plan import MachinePlan, MachineStep
    from fast_dag.plan.step import Step
    from fast_dag.plan.topology import Topology
    from fast_dag.run.settings import Settings
    from fast_dag.watch.observers import Observers

    Decision = tuple["Move", BaseException | None, bool]
    """Where a visit leads; what kept it from leading on; whether the run goes on after that."""
    T = TypeVar("T")
    Asking = Generator[Invoke, Any, T]
    """Asks async conditions and hooks by effects, the others at once."""


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
    """What is recorded of a machine, over all its runs. Its state has the visits."""

    def __init__(self, topology: Topology, machine_state: MachineState) -> None:
        super().__init__(topology)
        self.machine_state = machine_state
        self.most_retried = machine_state.keep

    def add(self, index: int, started: float, outcome: Outcome) -> float:
        self.count(self.topology.names[index], outcome)
        _, _, began, ended = self.machine_state.visits[-1]
        return ended - began

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
    """How far one run of a machine goes.

    It executes at most `max_cycles` states, any number if that is None; `raises`: wanting more is
    an error. It ends after `steps` states, unless that is None. `may_wait`: it may wait for events.
    """

    max_cycles: int | None
    raises: bool
    steps: int | None = None
    may_wait: bool = False


class Move(NamedTuple):
    """Where a visit leads: to `next`, to a wait for events, or to the end. `is_open`: that is not
    known yet. `halts`: the run ends, although there is more to do. `event` and `data` are the event
    that is taken; `taken` events leave the queue; `is_sent`: it is the event that this run was
    sent. `stands` and `asked` are as in `MachineState`."""

    next: int | None = None
    waits: bool = False
    ended: bool = False
    is_open: bool = False
    stands: bool = False
    asked: int | None = None
    halts: bool = False
    event: str | None = None
    data: Mapping[str, Any] | None = None
    taken: int = 0
    is_sent: bool = False


# What a visit leads to if nothing is known, if nothing leads on, and if a return leads nowhere.
_OPEN: Final = Move(is_open=True)
_NOWHERE: Final = Move()
_LOST: Final = Move(stands=True)
_ENDED: Final = Move(ended=True)
_WAITS: Final = Move(waits=True)
_STOPPED: Final = Move(ended=True, stands=True)


class MachineRun(Run):
    """The Run of a machine: also where it was, and how often."""

    _execution: MachineExecution

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
        state = execution.topology.index.get(first)
        if dot and rest.isdecimal() and state is not None:
            return execution.machine_state.value_of(state, int(rest))
        return super()._result(name)


class MachineExecution(Execution):
    """One execution of a machine: one run, or one drive of a live machine.

    `record` is that of its `Machine`; `continues` tells that there were executions before, of which
    `children` are the nested ones; `event` is what was sent to it, with its data. `machine` is the
    live machine, and `on_step` is told of each visit.

    After a visit drivers may be given the same state again, for an *errand*: asking async
    conditions and hooks where it leads, or telling of the visit. To them it is a call like others,
    so it works in every mode, may wait, and is cut short with the run. What the visit came to is
    recorded before.
    """

    plan: MachinePlan
    noun = "state"
    advice = "pass inputs, or give them defaults"
    run_class = MachineRun

    # Of a live machine.
    machine: Any = None
    on_step: Hook | None = None
    broken_by: BaseException | None = None  # what `on_step` raised

    is_halted = False  # there is more to do than it may
    _is_spent = False  # it has executed as many states as it may
    _rest = _OPEN  # what the visit leads to if a condition or state hook raises now
    _fault_in: str | None = None  # the condition or state hook that raised last
    _errand: Callable[[], Effects] | None = None
    _status_at_errand = NodeStatus.NOT_RUN
    _ready: Sequence[int] = ()  # what may start after the errand
    _stops_later = False  # after the errand
    _is_refused = False  # an event that no condition lets through leaves the machine as it was
    _status_before: Any = None

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
        event: Sent | None = None,
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
        self.event = event
        self._visited_before = before = self.machine_state.visited
        most = bounds.max_cycles if bounds.steps is None else bounds.steps
        self._visited_at_most = maxsize if most is None else before + most

    # Begin and end.

    @property
    def is_told(self) -> bool:
        """Whether the end is logged: a machine that goes on has not ended."""
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
        if self._errand is not None:
            self._end_errand()
        if now.running is not None and schedule is not None:  # cut short
            schedule.start(now.running)
        now.running = None
        super().close(status)
        if self._is_refused and self._status_before is not None:
            self.context.metadata["execution_status"] = self._status_before
        # The machine refers to this execution; without a cycle both are freed at once.
        self.machine = self.on_step = None

    def _status_by_errors(self) -> str:
        return super()._status_by_errors() if self.broken_by is None else "cancelled"

    @property
    def needs_loop(self) -> bool:
        """Whether something in it is known to be async."""
        return super().needs_loop or (self.on_step is not None and self.on_step.is_async)

    @property
    def is_straight(self) -> bool:
        """Whether there is nothing to do but to call one state after another."""
        return self.on_step is None and super().is_straight

    def begin(self, *, eager: bool) -> list[int]:
        schedule = self.record.schedule
        if not isinstance(schedule, FsmSchedule):
            schedule = self.record.schedule = FsmSchedule(len(self.plan.names))
        now, at = self.machine_state, self.machine_state.at
        if at is None or not self._is_undecided:
            return schedule.begin(now.next)
        if self.plan.steps[at].awaits:
            return self._begin_errand(at, self._deciding_first)
        return self._begun(at, _at_once(self._decided()))

    @property
    def _is_undecided(self) -> bool:
        """Whether the first thing to do is to find where the machine goes."""
        now = self.machine_state
        if now.waits:
            return bool(now.queue) or self.event is not None
        return now.is_open or (now.next != now.asked and bool(self.plan.state_hooks))

    def _begun(self, index: int, decision: Decision) -> list[int]:
        self._is_refused = decision[1] is not None
        self._conclude(index, decision)
        return self._following(decision[0])

    # One state.

    def gather(self, index: int) -> Attempt:
        if self._errand is not None:
            return (), {}
        now = self.machine_state
        now.running = index
        data = now.data if now.error is None else {**now.data, "error": now.error}
        return self.plan.steps[index].intake.gather(
            now.value, data, self.inputs, self.context, self.call_id
        )

    def finish(
        self, index: int, outcome: Outcome, started: float, guard: Lock | Any = None
    ) -> list[int]:
        if self._errand is not None:
            if guard is None:
                return self._after_errand(index, outcome)
            with guard:
                return self._after_errand(index, outcome) if self.status == "running" else []
        if guard is None:
            self._note_visit(index, outcome, started)
        else:
            with guard:
                if self.status != "running":
                    return []
                self._note_visit(index, outcome, started)
        verdict = self.judge(index, outcome)
        if guard is None:
            return self._settle(index, verdict, started)
        with guard:
            return self._settle(index, verdict, started) if self.status == "running" else []

    def _note_visit(self, index: int, outcome: Outcome, started: float) -> None:
        """Record a visit. It stands, whatever is decided after it."""
        now, ended = self.machine_state, perf_counter()
        self._is_spent = now.visited + 1 >= self._visited_at_most
        if outcome.ok:
            outcome.value = now.completed(index, outcome.value, started, ended)
            self.results[self.plan.names[index]] = outcome.value
        else:
            leads_on = self.plan.steps[index].on_error is not None
            now.failed(index, outcome.value, started, ended, leads_on=leads_on)

    def _judged(self, index: int, outcome: Outcome) -> Verdict:
        if not outcome.ok and self.plan.steps[index].on_error is None:
            return super()._judged(index, outcome)
        step = self.plan.steps[index]
        key: str | None = step.name
        if not outcome.ok:
            told.cut_traceback(outcome.value)
            self.handled(step.name, outcome.value, outcome.attempts)
            key = None
        if not self.machine_state.is_open:  # a return has ended it
            return Verdict(outcome, key, (_STOPPED, None, True))
        if step.awaits:
            return Verdict(outcome, key)  # an errand finds where it leads
        return Verdict(outcome, key, _at_once(self._decided()))

    _decide = _judged  # a failure, too, may lead on

    def _settle(self, index: int, verdict: Verdict, started: float) -> list[int]:
        decision: Decision | None = verdict.choice
        move = _NOWHERE if decision is None else decision[0]
        verdict.choice = None if self._is_spent else move.next
        was_stopped = self._stopped
        ready = super()._settle(index, verdict, started)
        if decision is not None:
            self._conclude(index, decision)
            if not verdict.outcome.ok or self._stopped:
                ready = self._following(move)
        elif self.machine_state.is_open:
            return [] if was_stopped else self._begin_errand(index, self._deciding_on)
        return ready if self.on_step is None else self._tell(index, ready, was_stopped=was_stopped)

    def _following(self, move: Move) -> list[int]:
        """What may start after a move."""
        schedule = self.record.schedule
        assert isinstance(schedule, FsmSchedule)
        return [] if self.stopped or self._is_spent else schedule.begin(move.next)

    def _conclude(self, index: int, decision: Decision) -> None:
        """Record where a visit leads, and the error if one kept that from being found."""
        move, fault, goes_on = decision
        now = self.machine_state
        if fault is not None:
            self._keep_fault(index, fault, goes_on)
        now.next, now.waits, now.ended, now.is_open, now.stands, now.asked = move[:6]
        self.is_halted = move.halts
        if move.data is not None:
            now.data = move.data
        for _ in range(move.taken):
            now.queue.popleft()
        if move.is_sent:
            self.event = None

    def _keep_fault(self, index: int, fault: BaseException, goes_on: bool) -> None:
        """Record an error that was raised after a state had ended."""
        name, where = self.plan.names[index], self._fault_in
        self.failures.add(name, fault, where=where)
        if isinstance(fault, (InvalidTransitionError, MaxCyclesError)) and where is None:
            fault.node_name = self.path_of(index)
        if not goes_on:
            self._stopped, self.failures.fatal = True, name

    @property
    def executed(self) -> int:
        """How many states this execution has executed."""
        return self.machine_state.visited - self._visited_before

    @property
    def free_steps(self) -> int:
        """How many states may be executed without a look at bounds, events and the history; none
        if negative."""
        now = self.machine_state
        if now.data or now.error is not None:
            return 0
        left = self._visited_at_most - now.visited - 1
        return left if now.room is None else min(left, now.room - len(now.visits))

    def _completed(self, name: str) -> int:
        return self.machine_state.counts().get(self.plan.topology.index[name], 0)

    # Errands.

    def is_surrounded(self, step: Step) -> bool:
        return self._errand is not None or super().is_surrounded(step)

    def sole_policy(self, step: Step) -> CallPolicy | None:
        return None if self._errand is not None else super().sole_policy(step)

    def effects_of(self, index: int, attempt: Attempt) -> Effects:
        return super().effects_of(index, attempt) if self._errand is None else self._errand()

    def effects_of_cancelled(self, step: Step) -> Effects | None:
        return super().effects_of_cancelled(step) if self._errand is None else None

    def note_start(self, index: int) -> None:
        if self._errand is None:
            super().note_start(index)

    def _kept(self, index: int, outcome: Outcome) -> Outcome:
        # It is judged once the visit is recorded.
        if not (outcome.ok and issubclass(type(outcome.value), FSMReturn)):
            return outcome
        return Outcome(True, outcome.value.value, outcome.attempts, None, outcome.cached)

    def _begin_errand(self, index: int, errand: Callable[[], Effects]) -> list[int]:
        assert self.record.schedule is not None
        self._errand = errand
        self._status_at_errand = self.record.schedule.status[index]
        return [index]

    def _end_errand(self) -> None:
        now, schedule = self.machine_state, self.record.schedule
        assert schedule is not None
        assert now.at is not None
        schedule.status[now.at] = self._status_at_errand
        self._errand = None

    def _after_errand(self, index: int, outcome: Outcome) -> list[int]:
        errand, stopped = self._errand, self._stopped
        self._end_errand()
        if errand == self._telling:
            if not outcome.ok:
                self._stopped, self.broken_by = True, outcome.value
            self._stopped = self._stopped or self._stops_later
            return [] if self._stopped else [*self._ready]
        decision: Decision = outcome.value
        if errand == self._deciding_first:
            return self._begun(index, decision)
        self._conclude(index, decision)
        return self._tell(index, self._following(decision[0]), was_stopped=stopped)

    def _deciding_first(self) -> Effects:
        return Outcome(True, (yield from self._decided()))

    def _deciding_on(self) -> Effects:
        return Outcome(True, (yield from self._decided()))

    def _tell(self, index: int, ready: list[int], *, was_stopped: bool) -> list[int]:
        """Have `on_step` called before anything else, also if the visit's failure ends the run."""
        if self.on_step is None or was_stopped:
            return ready
        self._stops_later, self._stopped, self._ready = self._stopped, False, ready
        return self._begin_errand(index, self._telling)

    @property
    def is_telling(self) -> bool:
        """Whether `on_step` is being called."""
        return self._errand == self._telling

    def _telling(self) -> Effects:
        assert self.on_step is not None
        answer = yield self.on_step.invoke(self.machine, self.machine._visited())
        if type(answer) is Raised:
            return Outcome(False, answer.error)
        return Outcome(True, None)

    # Where a visit leads.

    def _decided(self) -> Asking[Decision]:
        """Where the visit leads that the machine is at."""
        now, plan, bounds = self.machine_state, self.plan, self.bounds
        assert now.at is not None
        step, self._fault_in = plan.steps[now.at], None
        move = self._rest = _OPEN
        try:
            if not now.is_open:
                asked = now.asked
                move = self._rest = Move(now.next, now.waits, now.ended, False, now.stands, asked)
            else:
                found = self._found(step)
                move = found or self._by(step, (yield from self.first(step.asked, {})))
            if move.waits:
                move = yield from self._by_event()
            if move.next is not None and move.next != now.asked:
                if self._is_at_limit:  # the next run asks the hooks
                    move = move._replace(halts=True)
                    if bounds.raises:
                        raise too_many(self.name, step.name, bounds.max_cycles)
                elif plan.state_hooks:
                    chosen = yield from self._hooked(move)
                    stands = move.stands or chosen != move.next
                    # Not by `_replace`, which takes three times as long.
                    move = Move(chosen, False, False, False, stands, chosen, False, *move[7:])
            elif move.halts and bounds.raises:
                raise too_many(self.name, step.name, bounds.max_cycles)
            return move, None, True
        except failures() as fault:
            if not isinstance(fault, MaxCyclesError) or self._fault_in is not None:
                move = self._rest
            goes_on = self._goes_on(step.name, fault)
            if self.parent is None:
                log.failed(self, step.name, fault, min(self.executed, 1))
            return move, fault, goes_on

    @property
    def _is_at_limit(self) -> bool:
        return self._is_spent and self.bounds.steps is None

    def declared(self) -> tuple[int | None, bool, bool]:
        """Where declarations lead from a visit, as `next`, `waits` and `ended` of `MachineState`;
        none of the conditions is async. Raises InvalidTransitionError where they lead nowhere."""
        at, self._fault_in = self.machine_state.at, None
        assert at is not None
        step = self.plan.steps[at]
        move = self._found(step)
        if move is None:
            try:
                way = _at_once(self.first(step.asked, {}))
            except InvalidTransitionError as error:
                raise ValueError from error  # of the user's
            move = self._by(step, way)
        return move[:3]

    def _found(self, step: MachineStep) -> Move | None:
        """Where a return or a failure leads; None if the transitions must be asked."""
        now = self.machine_state
        if now.error is not None:
            return Move(step.on_error, stands=True)
        if step.is_terminal:
            return _ENDED
        if now.choice is None:
            return None
        self._rest = _LOST
        chosen, self._rest = self.plan.find(now.choice, step.index), _OPEN
        return Move(chosen, False, False, False, True)

    def _by(self, step: MachineStep, way: Transition | None) -> Move:
        """Where the transition leads that was found, if one was."""
        if way is not None:
            return Move(self.plan.topology.index[way.target])
        if step.events and self.bounds.may_wait:
            return _WAITS
        self._rest = _NOWHERE
        raise self._stuck(step.index)

    def _by_event(self) -> Asking[Move]:
        """What a machine that waits makes of the events that are there."""
        now, plan = self.machine_state, self.plan
        assert now.at is not None
        taken = 0
        while True:
            self._rest = Move(waits=True, taken=taken)
            is_sent = taken == len(now.queue)
            sent = self.event if is_sent else now.queue[taken]
            if sent is None:
                return self._rest
            refusal = plan.refusal(now.at, sent.event, sent.data)
            if refusal is not None and is_sent:  # who sent it tells
                return self._rest
            if refusal is None and self._is_at_limit:
                return self._rest._replace(halts=True)
            taken += not is_sent
            if refusal is None:
                heard = [way for way in plan.steps[now.at].events if way.event == sent.event]
                way = yield from self.first(heard, sent.data)
                if way is not None:
                    chosen = plan.topology.index[way.target]
                    return Move(
                        chosen,
                        stands=True,
                        event=sent.event,
                        data=sent.data,
                        taken=taken,
                        is_sent=is_sent,
                    )
                refusal = self._shut(now.at, sent.event, heard)
            if is_sent or not sent.is_dropped:
                self._rest = Move(waits=True, taken=taken)
                raise refusal

    def first(
        self, ways: Sequence[Transition], data: Mapping[str, Any]
    ) -> Asking[Transition | None]:
        """The first transition that holds."""
        value, context = self.machine_state.value, self.context
        for each in ways:
            condition = each.condition
            if condition is None:
                return each
            try:
                if condition.is_async:
                    answer = yield from self._ask(condition, value, context, data)
                else:
                    answer = self._asked_now(condition, value, context, data)
                    if type(answer) is CoroutineType:
                        answer.close()
                        raise TypeError(
                            "it returned a coroutine, but cannot be async: make it an `async def`"
                        )
                holds = bool(answer)
            except failures():
                self._fault_in = f"condition of {each}"
                raise
            if holds:
                return each
        return None

    def _hooked(self, move: Move) -> Asking[int]:
        """Where the state hooks let it go."""
        now, plan, chosen = self.machine_state, self.plan, move.next
        assert now.at is not None
        assert chosen is not None
        name, result = plan.names[now.at], None if now.error is not None else now.value
        for hook in plan.state_hooks:
            try:
                offered = self.fsm, name, plan.names[chosen], result
                if hook.is_async:
                    other = yield from self._ask(hook, *offered)
                else:
                    other = self._asked_now(hook, *offered)
            except failures():
                self._fault_in = f"state hook of {name!r} -> {plan.names[chosen]!r}"
                raise
            if other is not None:
                chosen = plan.find(other, now.at, move.event)
        return chosen

    def _ask(self, hook: Hook, *offered: Any) -> Asking[Any]:
        """What an async condition or hook returns."""
        answer = yield hook.invoke(*offered)
        if type(answer) is Raised:
            raise answer.error
        return answer

    def _asked_now(self, hook: Hook, *offered: Any) -> Any:
        """What a sync condition or hook returns."""
        if current.get() is self:  # as in sequential mode
            return hook.func(*hook.offered(*offered))
        token = current.set(self)
        try:
            return hook.func(*hook.offered(*offered))
        finally:
            current.reset(token)

    def _shut(self, index: int, event: str, heard: Sequence[Transition]) -> InvalidTransitionError:
        name = self.plan.names[index]
        return InvalidTransitionError(
            f"state {name!r} of {self.name!r} was sent {event!r}, but no condition of "
            f"{names([str(each) for each in heard])} holds",
            node_name=name,
            state=name,
            target=None,
            event=event,
            events=self.plan.heard(index),
        )

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
        on_error = {
            step.name: plan.names[step.on_error] for step in plan.steps if step.on_error is not None
        }
        return MachineView(ways, (plan.names[plan.start],), terminal, on_error)

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


def _at_once(asking: Asking[T]) -> T:
    """The answer, where nothing in it is async."""
    try:
        asking.send(None)
    except StopIteration as end:
        answer: T = end.value
        return answer
    raise AssertionError("something async is asked, and `MachineStep.awaits` does not tell")


def too_many(machine: str, state: str, most: int | None) -> MaxCyclesError:
    """The error of a machine that wants to execute more states than it may."""
    states = "1 state" if most == 1 else f"{most} states"
    return MaxCyclesError(
        f"{machine!r} executed {states} in one run, which is its max_cycles, and did not end; "
        f"the last was {state!r}; raise max_cycles of the FSM or of this run, or return what there "
        "is with on_max_cycles='stop'",
        node_name=state,
        max_cycles=most,
    )
