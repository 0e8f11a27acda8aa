"""A live machine: driven step by step, by events, or both; its state as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from fast_dag.context import FSMContext
from fast_dag.define.signature import ABSENT
from fast_dag.errors import InvalidTransitionError, ValidationError, closest, names
from fast_dag.run.machine_execution import MachineExecution, MachineRecord, too_many
from fast_dag.run.machine_state import MachineState

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Iterator

    from fast_dag.context import Context
    from fast_dag.define.request import Request
    from fast_dag.draw.sketch import DrawingOptions
    from fast_dag.draw.view import WorkflowView
    from fast_dag.plan.machine_plan import MachinePlan
    from fast_dag.run.machine_execution import Definition
    from fast_dag.run.settings import Settings

_FORMAT = 1
_COUNTS = ("retries", "cache_hits", "cache_misses")


class Step(NamedTuple):
    """One executed state, its value, and the state that comes next, if one does."""

    state: str
    value: Any
    next_state: str | None


class Machine:
    """One machine on its way, made by `FSM.start()` or `FSM.restore()`.

    It executes states when `step`, `run` or `send` is called, or when it is iterated over; each of
    these has an async twin. It keeps to the FSM as that was when it was made. One call at a time.

    >>> from fast_dag import FSM
    >>> fsm = FSM("order", initial_state="cart", terminal_states=["paid"])
    >>> fsm = fsm.add_state("cart", lambda: "waiting").add_state("paid", lambda amount: amount)
    >>> machine = fsm.add_transition("cart", "paid", event="pay").start()
    >>> machine.step(), machine.waiting, machine.events
    (Step(state='cart', value='waiting', next_state=None), True, ['pay'])
    >>> machine.send("pay", amount=5), machine.done, machine.state
    (5, True, 'paid')
    """

    def __init__(
        self,
        fsm: Definition,
        plan: MachinePlan,
        request: Request,
        async_settings: Settings,
        snapshot: Mapping[str, Any] | None = None,
    ) -> None:
        self.fsm = fsm
        self._plan = plan
        self._request = request
        self._async_settings = async_settings
        self._state = MachineState(plan.names, plan.start, fsm.keep_history)
        self._record = MachineRecord(plan.topology, self._state)
        self._context: Context = FSMContext() if request.context is None else request.context
        self._last: MachineExecution | None = None
        self._begun = False
        self._in_use = Lock()
        if snapshot is not None:
            self._load(snapshot)

    # Where it is.

    @property
    def state(self) -> str:
        """The state it is in: the one executed last, the initial one before the first."""
        return self._state.current_state or self._plan.names[self._plan.start]

    @property
    def next_state(self) -> str | None:
        """The state that the next step executes; None where it waits for an event, or is done."""
        return None if self._state.next is None else self._plan.names[self._state.next]

    @property
    def value(self) -> Any:
        """The value of the state executed last."""
        return self._state.value

    @property
    def done(self) -> bool:
        """Whether nothing is left to do: it has ended, leads nowhere, or has executed as many
        states as it may."""
        now = self._state
        return self._is_spent or (now.next is None and not now.waits)

    @property
    def waiting(self) -> bool:
        """Whether it waits for an event."""
        return self._state.waits and not self._is_spent

    @property
    def events(self) -> list[str]:
        """The events that are listened to in this state."""
        now = self._state
        if now.at is None or now.ended or now.next is not None or self._is_spent:
            return []
        return list(self._plan.heard(now.at))

    @property
    def context(self) -> Context:
        """The Context that all its steps work in."""
        return self._context

    @property
    def results(self) -> dict[str, Any]:
        """The latest value of each state, by name."""
        return self._context.results

    @property
    def state_history(self) -> list[str]:
        """The visited states in order, as far as they are kept."""
        return self._state.state_history

    @property
    def cycle_count(self) -> int:
        """How many states have been executed."""
        return self._state.cycle_count

    def __getitem__(self, name: str) -> Any:
        """The latest value of a state; `"s.0"` that of its first visit. Raises KeyError."""
        return (self._last or self._made(None)).run[name]

    def visualize(
        self,
        backend: Literal["mermaid", "graphviz", "svg"] = "mermaid",
        filename: str | os.PathLike[str] | None = None,
        format: str | None = None,
        show_results: bool = False,
        options: DrawingOptions | None = None,
    ) -> str:
        """Draw the machine as it stands: the states that were visited and how often, the
        transitions that were taken; all else is as in `Run.visualize`.

        >>> from fast_dag import FSM
        >>> fsm = FSM("lamp", initial_state="on", terminal_states=["off"])
        >>> fsm = fsm.add_state("on", lambda: 1).add_state("off", lambda x: 0)
        >>> machine = fsm.add_transition("on", "off").start()
        >>> machine.step().state, "class n0 completed" in machine.visualize()
        ('on', True)
        """
        from fast_dag.draw.visualize import visualize

        return visualize(self, backend, filename, format, show_results, options)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """The picture in a notebook."""
        from fast_dag.draw.visualize import mimebundle

        return mimebundle(self)

    def _view(self) -> WorkflowView:
        from fast_dag.draw.view import view_of

        return view_of(self._last or self._made(None))

    def __repr__(self) -> str:
        if self.done:
            doing = "done"
        else:
            doing = (
                f"waits for {names(self.events)}" if self.waiting else f"next {self.next_state!r}"
            )
        return f"<Machine of {self.fsm.name!r}: in {self.state!r}, {doing}>"

    # Going on.

    def step(self) -> Step:
        """Execute the next state.

        Raises InvalidTransitionError where it is done or waits for an event, MaxCyclesError, and
        what `FSM.run` raises. After a failure the same state is still the next.
        """
        with self._exclusively():
            self._refuse_stepping()
            return self._stepped(self._driven(self._next(1)))

    async def step_async(self) -> Step:
        """`step` for code that runs in an event loop."""
        with self._exclusively():
            self._refuse_stepping()
            return self._stepped(await self._driven_async(self._next(1)))

    def run(self) -> Any:
        """Execute states until it is done or waits for an event; return the last value."""
        with self._exclusively():
            if self._can_go_on:
                self._driven(self._next(None))
            return self._state.value

    async def run_async(self) -> Any:
        """`run` for code that runs in an event loop."""
        with self._exclusively():
            if self._can_go_on:
                await self._driven_async(self._next(None))
            return self._state.value

    def send(
        self, event: str, /, *, on_unknown: Literal["raise", "ignore"] = "raise", **data: Any
    ) -> Any:
        """Take the transition that listens to `event`, and go on until it is done or waits again;
        return the last value.

        What is left to do before the event is done first. `data` is given to the conditions, and
        to the parameters of the next state.

        Raises InvalidTransitionError where nobody listens to the event in this state (unless that
        is to be ignored) or no condition holds, and what `run` raises.
        """
        with self._exclusively():
            if self._can_go_on:
                self._driven(self._next(None))
            if self._hears(event, on_unknown, data):
                self._driven(self._next(None, (event, data)))
            return self._state.value

    async def send_async(
        self, event: str, /, *, on_unknown: Literal["raise", "ignore"] = "raise", **data: Any
    ) -> Any:
        """`send` for code that runs in an event loop."""
        with self._exclusively():
            if self._can_go_on:
                await self._driven_async(self._next(None))
            if self._hears(event, on_unknown, data):
                await self._driven_async(self._next(None, (event, data)))
            return self._state.value

    def __iter__(self) -> Iterator[Step]:
        """Step until it is done or waits for an event."""
        while self._can_go_on:
            yield self.step()

    async def __aiter__(self) -> AsyncIterator[Step]:
        """Step until it is done or waits for an event."""
        while self._can_go_on:
            yield await self.step_async()

    @property
    def _is_spent(self) -> bool:
        """Whether it has executed as many states as it may, and stops at that."""
        bounds = self._request.bounds
        return not bounds.raises and self._state.visited >= bounds.max_cycles

    @property
    def _can_go_on(self) -> bool:
        return self._state.next is not None and not self._is_spent

    def _exclusively(self) -> _Exclusively:
        return _Exclusively(self._in_use, self.fsm.name)

    def _next(
        self, steps: int | None, event: tuple[str, Mapping[str, Any]] | None = None
    ) -> MachineExecution:
        """An execution that goes on from here. Raises MaxCyclesError where that is not allowed."""
        bounds = self._request.bounds
        if bounds.raises and self._state.visited >= bounds.max_cycles:
            raise too_many(self.fsm.name, self.state, bounds.max_cycles)
        execution = self._made(steps, event)
        execution.observers = self.fsm._observers(execution)
        if execution.observers is not None:
            execution.observers.go_on_from(self._state.seen())
        return execution

    def _made(
        self, steps: int | None, event: tuple[str, Mapping[str, Any]] | None = None
    ) -> MachineExecution:
        request, last = self._request, self._last
        children = {} if last is None else last.children
        return MachineExecution(
            self.fsm,
            self._plan,
            request.inputs,
            self._context,
            request.settings,
            request.bounds._replace(steps=steps, may_wait=True),
            record=self._record,
            event=event,
            continues=self._begun,
            children={name: each for name, each in children.items() if not each.failures.errors},
        )

    def _driven(self, execution: MachineExecution) -> MachineExecution:
        try:
            self.fsm._drive(execution)
        finally:
            self._begun = self._begun or execution.status != "running"
        self._last = execution
        return _succeeded(execution)

    async def _driven_async(self, execution: MachineExecution) -> MachineExecution:
        execution.settings = self._async_settings
        try:
            await self.fsm._drive_async(execution)
        finally:
            self._begun = self._begun or execution.status != "running"
        self._last = execution
        return _succeeded(execution)

    def _stepped(self, execution: MachineExecution) -> Step:
        return Step(self.state, execution.value, self.next_state)

    def _refuse_stepping(self) -> None:
        if self._can_go_on:
            return
        now = self._state
        if self.waiting:
            why = f"waits for an event; send one of {names(self.events)}"
        elif now.ended:
            why = "has ended"
        elif self._is_spent:
            why = f"has executed its max_cycles, {self._request.bounds.max_cycles} states"
        else:
            why = "leads nowhere from there"
        raise InvalidTransitionError(
            f"this machine of {self.fsm.name!r}, in {self.state!r}, {why}",
            node_name=self.state,
            state=self.state,
            target=None,
            events=tuple(self.events),
        )

    def _hears(self, event: str, on_unknown: str, data: Mapping[str, Any]) -> bool:
        """Whether an event is to be followed; raises where that cannot be."""
        if on_unknown not in ("raise", "ignore"):
            raise ValidationError(f"on_unknown is 'raise' or 'ignore', not {on_unknown!r}")
        known = self.events
        if event not in known:
            if on_unknown == "ignore":
                return False
            hint = closest(event, known)[1]
            heard = f"it listens to {names(known)}" if known else "it listens to no events"
            if self._state.ended:
                heard = "it has ended"
            elif self._is_spent:
                heard = f"it has executed its max_cycles, {self._state.visited} states"
            raise InvalidTransitionError(
                f"this machine of {self.fsm.name!r}, in {self.state!r}, was sent {event!r}: "
                f"{heard}{hint}",
                node_name=self.state,
                state=self.state,
                target=None,
                event=event,
                events=tuple(known),
            )
        self._refuse_unknown(event, data)
        return True

    def _refuse_unknown(self, event: str, data: Mapping[str, Any]) -> None:
        """What an event brings is for a state that it leads to, or for a condition."""
        assert self._state.at is not None
        ways = [each for each in self._plan.steps[self._state.at].events if each.event == event]
        if any(each.condition is not None and each.condition.takes > 2 for each in ways):
            return
        targets = [self._plan.topology.index[each.target] for each in ways]
        for name in data:
            if all(self._plan.steps[target].intake.unknown({name: 0}) for target in targets):
                inputs = [
                    each for t in targets for each in self._plan.steps[t].node.signature.inputs
                ]
                raise ValidationError(
                    f"the event {event!r} brings {name!r}, which no parameter of "
                    f"{names(dict.fromkeys(each.target for each in ways))} takes"
                    f"{closest(name, inputs)[1]}",
                    inputs=(name,),
                )

    # As plain data.

    def snapshot(self) -> dict[str, Any]:
        """Where it is, as plain data that `FSM.restore` goes on from, in another process too.

        JSON-able when inputs, values and metadata are. Containers are new, values the machine's
        own: write it down before they change.
        """
        with self._exclusively():
            metrics = self._record.measure()
            return {
                "format": _FORMAT,
                "machine": self.fsm.name,
                **self._state.to_dict(),
                "inputs": dict(self._request.inputs),
                "results": {
                    name: value
                    for name, value in self._context.results.items()
                    if name in self._plan.topology.index
                },
                "metadata": dict(self._context.metadata),
                "metrics": {key: metrics[key] for key in ("execution_time", *_COUNTS)},
            }

    def _load(self, snapshot: Mapping[str, Any]) -> None:
        used = {
            *(each["state"] for each in snapshot["history"]),
            *snapshot["forgotten"],
            *snapshot["results"],
            *(each for each in (snapshot["at"], snapshot["next"]) if each is not None),
        }
        gone = sorted(used.difference(self._plan.names))
        if gone:
            raise ValidationError(
                f"this snapshot of {snapshot['machine']!r} is of another version of "
                f"{self.fsm.name!r}: it has no state {names(gone)} any more; there are "
                f"{names(self._plan.names)}",
                states=tuple(gone),
            )
        now, context, record = self._state, self._context, self._record
        now.load(snapshot)
        self._begun = now.at is not None
        context.results.update(snapshot["results"])
        context.metadata.update(snapshot["metadata"])
        for key in _COUNTS:
            setattr(record, key, snapshot["metrics"][key])
        record.began, record.ended = -snapshot["metrics"]["execution_time"], 0.0
        context._measure = record.measure
        if isinstance(context, FSMContext):
            context._state = now


class _Exclusively:
    """Refuses, rather than waits, where the machine is in use."""

    def __init__(self, lock: Lock, name: str) -> None:
        self._lock = lock
        self._name = name

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise ValidationError(
                f"this machine of {self._name!r} is at a step already; one call at a time"
            )

    def __exit__(self, *error: object) -> None:
        self._lock.release()


def check_snapshot(snapshot: Any) -> None:
    """Raise ValidationError for what no machine's `snapshot()` returned."""
    if not isinstance(snapshot, Mapping) or "format" not in snapshot:
        raise ValidationError(
            f"a snapshot is what machine.snapshot() returns, not {snapshot!r:.80}"
        )
    if snapshot["format"] != _FORMAT:
        raise ValidationError(
            f"this snapshot has the format {snapshot['format']!r}; this version of fast_dag reads "
            f"{_FORMAT}"
        )
    missing = [key for key in _SHAPE if key not in snapshot]
    if missing:
        raise ValidationError(f"this snapshot lacks {names(missing)}")
    _check_shape("", snapshot, _SHAPE)
    for position, visit in enumerate(snapshot["history"]):
        _check_shape(f"history[{position}].", visit, {"state": str, "seconds": (int, float)})
    for name, visits in snapshot["forgotten"].items():
        _check_shape(f"forgotten[{name!r}].", visits, {"visits": int, "seconds": (int, float)})
    counts: tuple[str, ...] = ("execution_time", *_COUNTS)
    _check_shape("metrics.", snapshot["metrics"], dict.fromkeys(counts, (int, float)))


_SHAPE: dict[str, Any] = {
    "machine": str,
    "at": (str, type(None)),
    "next": (str, type(None)),
    "waits": bool,
    "ended": bool,
    "value": object,
    "data": Mapping,
    "history": (list, tuple),
    "forgotten": Mapping,
    "inputs": Mapping,
    "results": Mapping,
    "metadata": Mapping,
    "metrics": Mapping,
}
"""What a snapshot has."""


def _check_shape(where: str, found: Any, wanted: Mapping[str, Any]) -> None:
    for key, kind in wanted.items():
        value = found.get(key, ABSENT) if isinstance(found, Mapping) else ABSENT
        if not isinstance(value, kind):
            had = "is missing" if value is ABSENT else f"is {value!r:.40}"
            raise ValidationError(f"this snapshot is damaged: {where}{key} {had}")


def _succeeded(execution: MachineExecution) -> MachineExecution:
    if execution.status in ("failed", "timed_out"):
        error = execution.exception()
        assert error is not None
        raise error
    return execution
