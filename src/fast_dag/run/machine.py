"""A live machine: driven step by step, by events, or both; its state as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import copy_context
from copy import deepcopy
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from fast_dag.call.effects import Invoke, Outcome
from fast_dag.call.hooks import Hook
from fast_dag.context import FSMContext
from fast_dag.define.node import name_of
from fast_dag.define.signature import ABSENT
from fast_dag.drive.inline import Waiter, in_running_loop
from fast_dag.errors import InvalidTransitionError, ValidationError, failures, names
from fast_dag.run.execution import current
from fast_dag.run.machine_execution import MachineExecution, MachineRecord
from fast_dag.run.machine_state import MachineState, Sent

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from typing import NoReturn, SupportsIndex

    from fast_dag.call.effects import Effects
    from fast_dag.context import Context
    from fast_dag.define.request import Request
    from fast_dag.draw.sketch import DrawingOptions
    from fast_dag.draw.view import WorkflowView
    from fast_dag.plan.machine_plan import MachinePlan
    from fast_dag.run.machine_execution import Definition
    from fast_dag.run.settings import Settings

_FORMAT = 2
_COUNTS = ("retries", "cache_hits", "cache_misses")


class Step(NamedTuple):
    """One executed state, its value, and the state that comes next, if one does.

    >>> Step("cart", 5, next_state="paid").next_state
    'paid'
    """

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
        on_step: Callable[[Machine, Step], object] | None = None,
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
        self._on_step: Hook | None = None
        if on_step is not None:
            self._on_step = Hook.read(on_step, ("machine", "step"), "on_step")
        if snapshot is not None:
            self._load(snapshot)

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(
            f"a live machine of {self.fsm.name!r} cannot be copied or pickled: take "
            "machine.snapshot(), and make another one of that with FSM.restore()"
        )

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
        """Whether nothing is left to do: it has ended, or leads nowhere."""
        now = self._state
        return now.next is None and not now.waits and not now.is_open

    @property
    def waiting(self) -> bool:
        """Whether it waits for an event."""
        return self._state.waits

    @property
    def events(self) -> list[str]:
        """The events that are listened to in this state."""
        now = self._state
        return [] if now.at is None or not now.waits else list(self._plan.heard(now.at))

    @property
    def queue(self) -> list[tuple[str, dict[str, Any]]]:
        """The events that were posted and not taken yet, each with its data."""
        return [(each.event, dict(each.data)) for each in list(self._state.queue)]

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
        elif self.waiting:
            doing = f"waits for {names(self.events)}"
        elif self._state.is_open:
            doing = "not decided where next"
        else:
            doing = f"next {self.next_state!r}"
        queued = f", {len(self._state.queue)} queued" if self._state.queue else ""
        return f"<Machine of {self.fsm.name!r}: in {self.state!r}, {doing}{queued}>"

    # Going on.

    def step(self) -> Step:
        """Execute the next state, after taking a queued event if it waits for one. A queued event
        that it waits for after that is taken, too: `next_state` is where that leads.

        Raises InvalidTransitionError where it is done or waits for an event, and what `FSM.run`
        raises. After a failure the same state is still the next.
        """
        with self._exclusively():
            self._refuse_stepping()
            return self._step_of(self._driven(self._made(1)))

    async def step_async(self) -> Step:
        """`step` for code that runs in an event loop."""
        with self._exclusively():
            self._refuse_stepping()
            return self._step_of(await self._driven_async(self._made(1)))

    def run(self) -> Any:
        """Execute states until it is done or waits for an event, and none is queued; return the
        last value."""
        with self._exclusively():
            if self._can_go_on:
                self._driven(self._made(None))
            value = self._state.value
        return self._run_late(value)

    async def run_async(self) -> Any:
        """`run` for code that runs in an event loop."""
        with self._exclusively():
            if self._can_go_on:
                await self._driven_async(self._made(None))
            value = self._state.value
        return await self._run_late_async(value)

    def send(
        self, event: str, /, *, on_unknown: Literal["raise", "ignore"] = "raise", **data: Any
    ) -> Any:
        """Take the transition that listens to `event`, and go on until it is done or waits again;
        return the last value.

        What is left to do before the event, and what is queued, comes first. `data` is given to the
        conditions, and to the parameters of the next state.

        Raises InvalidTransitionError where nobody listens to the event in this state (unless that
        is to be ignored) or no condition holds, and what `run` raises.
        """
        sent = _sent(event, data, on_unknown)
        with self._exclusively():
            if self._is_open_to(sent):
                self._see_off(sent, self._driven(self._made(None, sent)))
            value = self._state.value
        return self._run_late(value)

    async def send_async(
        self, event: str, /, *, on_unknown: Literal["raise", "ignore"] = "raise", **data: Any
    ) -> Any:
        """`send` for code that runs in an event loop."""
        sent = _sent(event, data, on_unknown)
        with self._exclusively():
            if self._is_open_to(sent):
                self._see_off(sent, await self._driven_async(self._made(None, sent)))
            value = self._state.value
        return await self._run_late_async(value)

    def post(
        self,
        event: str,
        /,
        on_unknown: Literal["raise", "ignore"] | None = None,
        **data: Any,
    ) -> None:
        """Queue an event, for the call in progress or the next one: it is taken when the machine
        waits, after those queued before it. Any thread may post, and so may states, conditions and
        hooks.

        Raises InvalidTransitionError where no transition has the event, or the machine is done. An
        event that nobody listens to when its turn comes, or that no condition lets through, is an
        InvalidTransitionError of the call that takes it; with `on_unknown="ignore"` it is dropped.

        >>> from fast_dag import FSM
        >>> fsm = FSM("lamp", initial_state="off").add_state("off", lambda: "dark")
        >>> fsm = fsm.add_state("on", lambda color: color).add_transition("off", "on", event="push")
        >>> machine = fsm.add_transition("on", "off", event="push").start()
        >>> machine.post("push", color="green")
        >>> machine.queue, machine.run(), machine.queue
        ([('push', {'color': 'green'})], 'green', [])
        """
        sent = _sent(event, data, on_unknown or "raise")
        refusal = self._plan.refusal_anywhere(sent.event, data)
        if refusal is None and self.done:
            refusal = self._refusal(sent)
        if refusal is None:
            self._state.queue.append(sent)
        elif not sent.is_dropped:
            raise refusal

    def can(self, event: str, /, **data: Any) -> bool:
        """Whether `send` would be taken now: the machine waits, listens to the event, some
        parameter or condition takes the data, and a condition holds. Conditions are asked, and
        should change nothing; state hooks are not.

        >>> from fast_dag import FSM
        >>> fsm = FSM("door", initial_state="closed").add_state("closed", lambda: "shut")
        >>> fsm = fsm.add_transition("closed", "closed", event="push")
        >>> machine = fsm.start()
        >>> machine.can("push"), machine.run(), machine.can("push"), machine.can("pull")
        (False, 'shut', True, False)
        """
        sent, at = _sent(event, data, "raise"), self._state.at
        if at is not None and self._plan.steps[at].awaits and in_running_loop():
            raise ValidationError(
                f"{self.fsm.name!r} has async conditions, and this is inside of a running event "
                "loop; use `await machine.can_async(...)` here"
            )
        execution, variables, waiter = self._made(None), copy_context(), Waiter()
        variables.run(current.set, execution)
        try:
            asking = self._asking(execution, sent)
            return bool(waiter.carry_out(asking, _nothing, variables).value)
        finally:
            waiter.close()

    async def can_async(self, event: str, /, **data: Any) -> bool:
        """`can` for code that runs in an event loop."""
        execution, answer = self._made(None), None
        asking = self._asking(execution, _sent(event, data, "raise"))
        token = current.set(execution)
        try:
            while True:
                effect = asking.send(answer)
                assert isinstance(effect, Invoke)
                answer = await effect.func(*effect.args)
        except StopIteration as end:
            return bool(end.value.value)
        finally:
            current.reset(token)

    def _asking(self, execution: MachineExecution, sent: Sent) -> Effects:
        now = self._state
        at, is_at_rest = now.at, now.waits and now.running is None
        if at is None or not is_at_rest or self._plan.refusal(at, sent.event, sent.data):
            return Outcome(True, False)
        heard = [each for each in self._plan.steps[at].events if each.event == sent.event]
        way = yield from execution.first(heard, sent.data)
        return Outcome(True, way is not None)

    def __iter__(self) -> Iterator[Step]:
        """Step until it is done or waits for an event, and none is queued, or something fails."""
        while self._can_go_on:
            with self._exclusively():
                step = self._step_or_none(self._driven(self._made(1)))
            if step is None:
                return
            yield step
            if self._has_failed:
                return

    async def __aiter__(self) -> AsyncIterator[Step]:
        """Step until it is done or waits for an event, and none is queued, or something fails."""
        while self._can_go_on:
            with self._exclusively():
                step = self._step_or_none(await self._driven_async(self._made(1)))
            if step is None:
                return
            yield step
            if self._has_failed:
                return

    @property
    def _can_go_on(self) -> bool:
        now = self._state
        return now.next is not None or now.is_open or (now.waits and bool(now.queue))

    def _run_late(self, value: Any) -> Any:
        """Take what was posted between the last look at the queue and the end of the call: whoever
        posted that may have been refused to run it."""
        while self._is_late_posted and self._in_use.acquire(blocking=False):
            try:
                if self._can_go_on:
                    self._driven(self._made(None))
                value = self._state.value
            finally:
                self._in_use.release()
        return value

    async def _run_late_async(self, value: Any) -> Any:
        while self._is_late_posted and self._in_use.acquire(blocking=False):
            try:
                if self._can_go_on:
                    await self._driven_async(self._made(None))
                value = self._state.value
            finally:
                self._in_use.release()
        return value

    @property
    def _is_late_posted(self) -> bool:
        last = self._last
        return self.waiting and bool(self._state.queue) and not (last and last.is_halted)

    @property
    def _has_failed(self) -> bool:
        return self._last is not None and not self._last.failures.are_items

    def _exclusively(self) -> _Exclusively:
        return _Exclusively(self)

    def _inside(self) -> MachineExecution | None:
        """The call in progress, where the caller is inside of it."""
        execution = current.get()
        while execution is not None:
            if isinstance(execution, MachineExecution) and execution.machine is self:
                return execution
            execution = execution.outer
        return None

    def _made(self, steps: int | None, event: Sent | None = None) -> MachineExecution:
        """An execution that goes on from here."""
        request, last = self._request, self._last
        children = {} if last is None else last.children
        execution = MachineExecution(
            self.fsm,
            self._plan,
            request.inputs,
            self._context,
            request.settings,
            request.bounds._replace(steps=steps, may_wait=True),
            record=self._record,
            event=event,
            continues=self._begun,
            children={name: each for name, each in children.items() if each.failures.are_items},
        )
        execution.machine, execution.on_step = self, self._on_step
        return execution

    def _watch(self, execution: MachineExecution) -> None:
        execution.observers = self.fsm._observers(execution)
        if execution.observers is not None:
            execution.observers.go_on_from(self._state.seen())

    def _driven(self, execution: MachineExecution) -> MachineExecution:
        self._watch(execution)
        try:
            self.fsm._drive(execution)
        finally:
            self._begun = self._begun or execution.status != "running"
        self._last = execution
        return _succeeded(execution)

    async def _driven_async(self, execution: MachineExecution) -> MachineExecution:
        execution.settings = self._async_settings
        self._watch(execution)
        try:
            await self.fsm._drive_async(execution)
        finally:
            self._begun = self._begun or execution.status != "running"
        self._last = execution
        return _succeeded(execution)

    def _visited(self) -> Step:
        """The visit just recorded."""
        value = None if self._state.has_failed else self._state.value
        return Step(self.state, value, self.next_state)

    def _step_of(self, execution: MachineExecution) -> Step:
        if not execution.executed:  # what it was restored as led to a wait
            self._refuse_stepping()
        return Step(self.state, execution.value, self.next_state)

    def _step_or_none(self, execution: MachineExecution) -> Step | None:
        return self._step_of(execution) if execution.executed else None

    def _refuse_stepping(self) -> None:
        if self._can_go_on:
            return
        if self.waiting:
            why = f"waits for an event; send one of {names(self.events)}"
        else:
            why = "has ended" if self._state.ended else "leads nowhere from there"
        raise InvalidTransitionError(
            f"this machine of {self.fsm.name!r}, in {self.state!r}, {why}",
            node_name=self.state,
            state=self.state,
            target=None,
            events=tuple(self.events),
        )

    def _is_open_to(self, sent: Sent) -> bool:
        """Whether a machine is to go on, or to take an event; raises where it cannot."""
        refusal = None if self._can_go_on else self._refusal(sent)
        if refusal is not None and not sent.is_dropped:
            raise refusal
        return refusal is None

    def _see_off(self, sent: Sent, execution: MachineExecution) -> None:
        """Queue an event that was not taken by the call it was sent with, or raise why it is
        refused."""
        if execution.event is None:
            return
        if execution.is_halted:
            refusal = self._plan.refusal_anywhere(sent.event, sent.data)
            if refusal is None:
                self._state.queue.append(sent)
        else:
            refusal = self._refusal(sent)
        if refusal is not None and not sent.is_dropped:
            raise refusal

    def _refusal(self, sent: Sent) -> Exception | None:
        """Why an event is not taken now; None if it may be."""
        now = self._state
        if now.waits:
            assert now.at is not None
            return self._plan.refusal(now.at, sent.event, sent.data)
        why = "it has ended" if now.ended else "it listens to no events"
        return InvalidTransitionError(
            f"this machine of {self.fsm.name!r}, in {self.state!r}, was sent {sent.event!r}: {why}",
            node_name=self.state,
            state=self.state,
            target=None,
            event=sent.event,
            events=(),
        )

    # As plain data.

    def snapshot(self, *, history: bool = True, check: bool = False) -> dict[str, Any]:
        """Where it is, as plain data that `FSM.restore` goes on from, in another process too; what
        is queued included. It shares nothing with the machine.

        Without `history` only the number of visits of each state is kept, and of values the last
        one. The snapshot is JSON-able when inputs, values and metadata are; `check` makes sure of
        that, and raises ValidationError with the place of what is no plain data.

        `on_step` may call it; the machine goes on from there with the step after that.

        >>> from fast_dag import FSM
        >>> fsm = FSM("demo", initial_state="a").add_state("a", lambda: {"size": 1j})
        >>> machine = fsm.add_terminal_state("a").start()
        >>> _ = machine.run()
        >>> machine.snapshot(check=True, history=False)
        Traceback (most recent call last):
        fast_dag.errors.ValidationError: snapshot.value.size: 1j is a complex, which text files ...
        """
        inside = self._inside()
        if inside is not None and inside.is_telling:
            taken = self._taken(history=history)
        else:
            with self._exclusively():
                taken = self._taken(history=history)
        if not check:
            return _copied(taken)  # type: ignore[no-any-return]
        from fast_dag.serial.plain import plain

        return plain(taken, "snapshot")  # type: ignore[no-any-return]

    def _taken(self, *, history: bool) -> dict[str, Any]:
        metrics, results = self._record.measure(), self._context.results if history else {}
        return {
            "format": _FORMAT,
            "machine": self.fsm.name,
            **self._state.to_dict(history=history),
            "inputs": dict(self._request.inputs),
            "results": {
                name: value for name, value in results.items() if name in self._plan.topology.index
            },
            "metadata": dict(self._context.metadata),
            "metrics": {key: metrics[key] for key in ("execution_time", *_COUNTS)},
        }

    def _load(self, snapshot: Mapping[str, Any]) -> None:
        named = [snapshot[key] for key in ("at", "next")]
        if snapshot["open"]:
            named.append(snapshot["choice"])
        used = {
            *(each["state"] for each in snapshot["history"]),
            *snapshot["forgotten"],
            *snapshot["results"],
            *(each for each in named if each is not None),
        }
        if not snapshot["stands"]:
            used.discard(snapshot["next"])  # declarations may lead elsewhere now
        self._refuse_gone(snapshot, used, self._plan.names, "state", "states")
        posted = {each["event"] for each in snapshot["queue"]}
        self._refuse_gone(snapshot, posted, sorted(self._plan.events), "event", "events")
        now, context, record = self._state, self._context, self._record
        now.load(snapshot)
        self._begun = now.at is not None
        context.results.update(snapshot["results"])
        if now.at is not None and not now.has_failed:
            context.results.setdefault(self._plan.names[now.at], now.value)
        context.metadata.update(snapshot["metadata"])
        for key in _COUNTS:
            setattr(record, key, snapshot["metrics"][key])
        record.began, record.ended = -snapshot["metrics"]["execution_time"], 0.0
        context._record = record
        if isinstance(context, FSMContext):
            context._state = now
        self._decide_anew(was_stuck=self.done)

    def _refuse_gone(
        self,
        snapshot: Mapping[str, Any],
        used: set[str],
        known: Sequence[str],
        noun: str,
        fact: str,
    ) -> None:
        gone = sorted(used.difference(known))
        if gone:
            raise ValidationError(
                f"this snapshot of {snapshot['machine']!r} is of another version of "
                f"{self.fsm.name!r}: it has no {noun} {names(gone)} any more; there are "
                f"{names(known)}",
                **{fact: tuple(gone)},
            )

    def _decide_anew(self, *, was_stuck: bool) -> None:
        """What declarations decide is decided by this version of the machine."""
        now, plan = self._state, self._plan
        if now.at is None:
            now.next = plan.start
        elif now.is_open and now.error is not None and plan.steps[now.at].on_error is None:
            now.next = now.asked = now.at  # the failure leads nowhere any more
            now.error, now.is_open, now.stands = None, False, True
        elif not now.is_open and not now.stands:
            now.next, now.waits, now.ended = None, False, False
            if any(way.is_async for way in plan.steps[now.at].asked):
                now.is_open = True
            else:
                self._follow_declarations(was_stuck=was_stuck)

    def _follow_declarations(self, *, was_stuck: bool) -> None:
        now = self._state
        try:
            now.next, now.waits, now.ended = self._made(None).declared()
        except InvalidTransitionError as error:
            if not was_stuck:
                raise ValidationError(
                    f"this snapshot cannot go on in this version of {self.fsm.name!r}: {error}",
                    state=self.state,
                ) from error
        except failures():
            now.is_open = True  # so that the next call finds and tells that


class _Exclusively:
    """Refuses, rather than waits, where the machine is in use."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def __enter__(self) -> None:
        machine = self._machine
        if machine._in_use.acquire(blocking=False):
            return
        told = f"this machine of {machine.fsm.name!r} is at a step already; one call at a time"
        if machine._inside() is not None:
            told += "; inside of its states, conditions and hooks machine.post() queues an event"
        raise ValidationError(told)

    def __exit__(self, *error: object) -> None:
        self._machine._in_use.release()


def _nothing() -> None: ...


def _sent(event: str, data: Mapping[str, Any], on_unknown: str) -> Sent:
    if on_unknown not in ("raise", "ignore"):
        raise ValidationError(f"on_unknown is 'raise' or 'ignore', not {on_unknown!r}")
    return Sent(name_of(event), data, on_unknown == "ignore")


def _copied(data: Any) -> Any:
    """A deep copy, but of what cannot be copied: a connection, say."""
    try:
        return deepcopy(data)
    except Exception:
        if type(data) is dict:
            return {key: _copied(value) for key, value in data.items()}
        return [_copied(each) for each in data] if type(data) is list else data


def read_snapshot(snapshot: Any, machine: str | None) -> dict[str, Any]:
    """A snapshot, of that machine unless None. Raises ValidationError for what no machine's
    `snapshot()` returned."""
    if not isinstance(snapshot, Mapping) or "format" not in snapshot:
        raise ValidationError(
            f"a snapshot is what machine.snapshot() returns, not {snapshot!r:.80}"
        )
    if snapshot["format"] != _FORMAT:
        raise ValidationError(
            f"this snapshot has the format {snapshot['format']!r}; this version of fast_dag reads "
            f"{_FORMAT}"
        )
    _check(snapshot)
    if machine is not None and snapshot["machine"] != machine:
        raise ValidationError(
            f"this is a snapshot of {snapshot['machine']!r}, not of {machine!r}; restore it there, "
            "or with check_name=False if the machine was renamed",
            machine=snapshot["machine"],
        )
    return _copied(dict(snapshot))  # type: ignore[no-any-return]


def _check(snapshot: Mapping[str, Any]) -> None:
    missing = [key for key in _SHAPE if key not in snapshot]
    if missing:
        raise ValidationError(f"this snapshot lacks {names(missing)}")
    _check_shape("", snapshot, _SHAPE)
    for position, visit in enumerate(snapshot["history"]):
        _check_shape(f"history[{position}].", visit, {"state": str, "seconds": (int, float)})
    for position, posted in enumerate(snapshot["queue"]):
        shape = {"event": str, "data": Mapping, "is_dropped": bool}
        _check_shape(f"queue[{position}].", posted, shape)
    if snapshot["error"] is not None:
        _check_shape("error.", snapshot["error"], {"type": str, "message": str})
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
    "open": bool,
    "stands": bool,
    "asked": (str, type(None)),
    "choice": (str, type(None)),
    "failed": bool,
    "value": object,
    "data": Mapping,
    "error": (Mapping, type(None)),
    "queue": (list, tuple),
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
    if execution.broken_by is not None:
        raise execution.broken_by
    if execution.status in ("failed", "timed_out"):
        error = execution.exception()
        assert error is not None
        raise error
    return execution
