"""FSM: builds and runs finite-state machines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, Self, SupportsIndex, Unpack

from fast_dag.call.hooks import Hook
from fast_dag.context import Context, FSMContext
from fast_dag.define.decorators import Decorator
from fast_dag.define.graph import Graph
from fast_dag.define.node import Node, as_node, name_of
from fast_dag.define.options import asked_count
from fast_dag.define.request import Request, option_names, takes_what
from fast_dag.define.signature import Kind, Parameter, Signature
from fast_dag.define.transitions import Transition
from fast_dag.define.validate import problems
from fast_dag.define.workflow import Workflow, value_of
from fast_dag.errors import (
    DisconnectedNodeError,
    InvalidNodeError,
    UnknownNodeError,
    ValidationError,
    closest,
    names,
)
from fast_dag.plan.machine_plan import MachinePlan
from fast_dag.plan.topology import Topology
from fast_dag.run.execution import current
from fast_dag.run.machine import Machine, Step, read_snapshot
from fast_dag.run.machine_execution import Bounds, MachineExecution, MachineRun
from fast_dag.run.settings import ExecutionMode, Settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from concurrent.futures import Executor

    from fast_dag.define.decorators import CachedStateDecorator, StateDecorator
    from fast_dag.define.node import Nestable
    from fast_dag.define.options import CommonOptions, Seconds
    from fast_dag.draw.view import MachineView
    from fast_dag.run.execution import Execution
    from fast_dag.run.limits import Limits
    from fast_dag.run.machine_state import MachineState


class _States(Graph):
    """The states of a machine: to connect two of them is to declare a transition."""

    def __init__(self, name: str, fsm: FSM) -> None:
        super().__init__(name, "state")
        self._fsm = fsm

    def connect(
        self,
        source: Any,
        target: Any,
        output: str | None = None,
        input: Any = None,
        *,
        optional: bool = False,
    ) -> None:
        start, end = self.node(source).name, self.node(target).name
        if output is not None or input is not None or optional:
            raise ValidationError(
                f"states have no outputs and inputs to connect: say {start} >> {end}, or "
                f"add_transition({start!r}, {end!r}) with a condition or an event"
            )
        self._fsm.add_transition(start, end)


_OWN = {"initial": False, "terminal": False, "on_error": None, "replace": False}
"""The options of states that other nodes do not have, and their defaults."""


class _OfTheFSM:
    def __repr__(self) -> str:
        return "<that of the FSM>"


_OF_THE_FSM: Any = _OfTheFSM()


def _refuse_store(name: str, value: Any) -> None:
    """Raise ValidationError for a Store; an input may have that name, too."""
    if type(value).__module__ == "fast_dag.store.store":
        raise ValidationError(
            f"{name!r} is a machine, and store= keeps runs of DAGs: keep a snapshot() of the "
            "machine that start() returns, or make it a node of a DAG, which is then stored as one"
        )


class FSM(Workflow):
    """A finite-state machine, whose states are functions.

    Parameters
    ----------
    name, description, metadata:
        As in `DAG`.
    initial_state, terminal_states:
        Names of states; `@fsm.state(initial=True)` and `terminal=True` say the same.
    max_cycles:
        How many states a run executes at most; a further state raises MaxCyclesError. None is no
        limit. Each call that drives a live machine counts anew.
    on_max_cycles:
        "raise", or "stop" to end the run and return the last value instead.
    keep_history:
        How many visits of states are kept; None keeps all.
    replace:
        A state takes the place of the state of its name, as with `replace=True` on every state.
    remember:
        Whether the run that finished last is kept; as in `DAG`.
    on_error:
        The state that a failure of another state leads to, unless that has an `on_error` of its
        own. It is given what the failed one was given, and the exception as `error`.
    limits:
        As in `DAG`.

    >>> from fast_dag import FSMReturn
    >>> fsm = FSM("countdown")
    >>> @fsm.state(initial=True)
    ... def count(n: int):
    ...     return FSMReturn("count" if n > 1 else "lift_off", n - 1)
    >>> @fsm.state(terminal=True)
    ... def lift_off():
    ...     return "up"
    >>> fsm.run(n=3), fsm.state_history, fsm["count.0"]
    ('up', ['count', 'count', 'count', 'lift_off'], 2)
    """

    kind = "fsm"
    _noun = "state"

    def __init__(
        self,
        name: str,
        initial_state: str | None = None,
        terminal_states: Iterable[str] = (),
        max_cycles: SupportsIndex | None = 1000,
        on_max_cycles: Literal["raise", "stop"] = "raise",
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        keep_history: SupportsIndex | None = None,
        replace: bool = False,
        remember: bool = True,
        on_error: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        super().__init__(name, description, metadata, replace, remember, limits)
        if isinstance(terminal_states, str) or not isinstance(terminal_states, Iterable):
            raise ValidationError(f"terminal_states is a list of names, not {terminal_states!r}")
        if on_max_cycles not in ("raise", "stop"):
            raise ValidationError(f"on_max_cycles is 'raise' or 'stop', not {on_max_cycles!r}")
        self.max_cycles = asked_count("max_cycles", max_cycles)
        self.on_max_cycles: Literal["raise", "stop"] = on_max_cycles
        self.keep_history = asked_count("keep_history", keep_history)
        initial, terminal = name_of(initial_state), [name_of(each) for each in terminal_states]
        # In the order of declaration. More than one initial state is a problem for `validate`.
        self._initial: dict[str, None] = {} if initial is None else {initial: None}
        self._terminal: dict[str, None] = dict.fromkeys(terminal)
        self._transitions: list[Transition] = []
        self._state_hooks: list[Hook] = []
        self._on_error: dict[str, str] = {}  # of single states
        self._said: dict[str, list[str]] = {}  # where the declaration of a state put it, above
        self._default_on_error = _checked_on_error(on_error)

    # Building.

    def _new_graph(self, name: str) -> Graph:
        return _States(name, self)

    @property
    def state(self) -> StateDecorator:
        """Decorator: a function becomes a state. Options: `initial`, `terminal`, those of a node
        (see `NodeOptions`), `name` and `replace`; `on_error`, the state that its failure leads to.

        It returns an `FSMReturn`, or another value if declared transitions say what comes next. Its
        parameters get the keys of the value that the previous state returned, or that value as a
        whole; else run inputs, else their defaults.

        >>> from fast_dag import FSMReturn
        >>> fsm = FSM("order", initial_state="cart")
        >>> @fsm.state
        ... def cart(items):
        ...     return FSMReturn("paid", {"total": sum(items)})
        >>> @fsm.state(terminal=True)
        ... def paid(total):
        ...     return f"{total} paid"
        >>> fsm.run(items=[3, 4])
        '7 paid'
        """
        return Decorator(self._add, own=_OWN, maps=False)

    @property
    def cached_state(self) -> CachedStateDecorator:
        """Decorator: a state whose results are kept and looked up by its inputs, with the options
        of `DAG.cached_node` besides those of `state`.

        >>> fsm = FSM("quote", initial_state="ask")
        >>> @fsm.cached_state(ttl=60, terminal=True)
        ... def ask(symbol):
        ...     print("asked")
        ...     return f"{symbol}: 5"
        >>> fsm.run(symbol="A"), fsm.run(symbol="A")
        asked
        ('A: 5', 'A: 5')
        """
        return Decorator(self._add, cached=True, own=_OWN, maps=False)

    def add_state(
        self,
        name: str | Node[..., Any] | Nestable,
        func: Callable[..., Any] | Nestable | None = None,
        *,
        initial: bool = False,
        terminal: bool = False,
        on_error: str | None = None,
        replace: bool = False,
        **options: Unpack[CommonOptions],
    ) -> Self:
        """Add a function, a Node or a whole workflow as a state; returns the FSM, for chains.

        >>> FSM("demo").add_state("double", lambda x: 2 * x, initial=True, terminal=True).run(x=2)
        4
        """
        node = as_node(name, func, None, options)
        self._add(node, initial=initial, terminal=terminal, on_error=on_error, replace=replace)
        return self

    def add_terminal_state(
        self,
        name: str | Node[..., Any] | Nestable,
        func: Callable[..., Any] | Nestable | None = None,
        **options: Unpack[CommonOptions],
    ) -> Self:
        """Add a state that ends the machine; with a name alone, make that state a terminal one."""
        if isinstance(name, str) and func is None:
            self._terminal[name_of(name)] = None
            self._graph.version += 1
            return self
        return self.add_state(name, func, terminal=True, **options)

    def _add(
        self,
        node: Node[..., Any],
        *,
        initial: bool = False,
        terminal: bool = False,
        on_error: str | None = None,
        replace: bool = False,
    ) -> Node[..., Any]:
        if node.name == "*":
            raise InvalidNodeError("a state cannot be called '*': that means every state", node="*")
        super()._add(node, replace=replace)
        name = node.name
        for place in self._said.pop(name, ()):  # its earlier declaration counts no more
            getattr(self, place).pop(name, None)
        said = []
        for flag, place in ((initial, "_initial"), (terminal, "_terminal")):
            if flag and name not in getattr(self, place):
                getattr(self, place)[name] = None
                said.append(place)
        if on_error is not None:
            self.set_error_state(node, on_error)
            said.append("_on_error")
        self._said[name] = said
        return node

    def add_transition(
        self,
        source: str | Node[..., Any] | Sequence[str | Node[..., Any]],
        target: str | Node[..., Any],
        condition: Callable[..., Any] | None = None,
        *,
        event: str | None = None,
    ) -> Self:
        """Declare a transition from one state to another; returns the FSM, for chains.

        Parameters
        ----------
        source, target:
            States or their names; the states may be defined later. Of a list of sources each gets
            the transition, and of "*" every state that is not terminal, also those added later.
        condition:
            `f(value, context, data)`, or with fewer parameters: whether to take the transition.
            `value` is what the source returned, `data` what came with the event. Of several
            transitions the first whose condition holds is taken.
        event:
            Take the transition only when this event is sent to a machine made by `start()`.

        >>> fsm = FSM("demo", initial_state="draw", terminal_states=["win"])
        >>> fsm = fsm.add_state("draw", lambda n=0: n + 1).add_state("win", lambda n: f"won by {n}")
        >>> fsm = fsm.add_transition("draw", "win", lambda n: n > 2).add_transition("draw", "draw")
        >>> fsm.run()
        'won by 3'
        """
        sources = [*source] if isinstance(source, (list, tuple)) else [source]
        ends = [name_of(each) for each in (*sources, target)]
        for each in ends:
            if not isinstance(each, str):
                raise ValidationError(f"a transition is between states or names, not {each!r}")
        for name in ends[:-1]:
            made = Transition.read(name, ends[-1], condition, event)
            if made not in self._transitions:  # a cell of a notebook that is run again, say
                self._transitions.append(made)
        self._graph.version += 1
        return self

    def set_error_state(
        self, state: str | Node[..., Any], target: str | Node[..., Any] | None
    ) -> None:
        """Let a failure of `state` lead to the state `target`, as `on_error=` of the state does;
        None takes that away, so that the `on_error` of the FSM holds.

        >>> fsm = FSM("demo", initial_state="divide", terminal_states=["divide", "excuse"])
        >>> fsm = fsm.add_state("divide", lambda x: 1 / x)
        >>> fsm = fsm.add_state("excuse", lambda x, error: f"cannot divide by {x}: {error}")
        >>> fsm.set_error_state("divide", "excuse")
        >>> fsm.run(x=0)
        'cannot divide by 0: division by zero'
        """
        name = self._graph.node(state).name
        self._on_error.pop(name, None)
        leads_to = _checked_on_error(target)
        if leads_to is not None:
            self._on_error[name] = leads_to
        self._graph.version += 1

    def add_state_hook(
        self,
        hook: Callable[
            [FSM, str, str, Any],
            str | Node[..., Any] | Awaitable[str | Node[..., Any] | None] | None,
        ],
    ) -> None:
        """Call `hook(fsm, from_state, to_state, result)` at each transition, in order of adding.

        `result` is the value of `from_state`. A hook may return another state, or its name, to go
        to instead, or raise to refuse the transition.

        >>> fsm = FSM("demo", initial_state="a", terminal_states=["b"])
        >>> fsm = fsm.add_state("a", lambda: 1).add_state("b", lambda x: x + 1)
        >>> fsm.add_state_hook(lambda fsm, a, b, result: print(a, "->", b, result))
        >>> fsm.add_transition("a", "b").run()
        a -> b 1
        2
        """
        self._state_hooks.append(
            Hook.read(hook, ("fsm", "from_state", "to_state", "result"), "state")
        )
        self._graph.version += 1

    def remove_state(self, state: str | Node[..., Any]) -> Self:
        """Remove a state and its transitions."""
        name = self._graph.node(state).name
        self._graph.remove(name)
        self._transitions = [
            each for each in self._transitions if name not in (each.source, each.target)
        ]
        self._initial.pop(name, None)
        self._terminal.pop(name, None)
        self._on_error.pop(name, None)
        self._said.pop(name, None)
        return self

    def __repr__(self) -> str:
        return f"<FSM {self.name!r}: {len(self)} states, {len(self.transitions)} transitions>"

    @property
    def initial_state(self) -> str | None:
        """The name of the first state."""
        return next(iter(self._initial), None)

    @property
    def initial_states(self) -> list[str]:
        """The names of the states that were declared initial; `validate()` reports more than
        one."""
        return list(self._initial)

    @property
    def terminal_states(self) -> list[str]:
        """The names of the states that end the machine."""
        return list(self._terminal)

    @property
    def transitions(self) -> list[Transition]:
        """The transitions, in the order of their declaration; those from "*" as one from each
        state."""
        going = [name for name in self._graph.nodes if name not in self._terminal]
        return [
            each._replace(source=name)
            for each in self._transitions
            for name in (going if each.source == "*" else [each.source])
        ]

    @property
    def on_error(self) -> str | None:
        """The state that failures lead to, of states without an `on_error` of their own."""
        return self._default_on_error

    @property
    def error_states(self) -> dict[str, str]:
        """The state that the failure of a state leads to, by name of the state."""
        default = self._default_on_error
        targets = {
            name: self._on_error.get(name, None if name == default else default)
            for name in self._graph.nodes
        }
        return {name: target for name, target in targets.items() if target is not None}

    @property
    def state_hooks(self) -> list[Callable[..., Any]]:
        """The state hooks, in the order in which they were added."""
        return [hook.func for hook in self._state_hooks]

    # Checking.

    def validate(
        self, allow_disconnected: bool = False, check_types: bool = False
    ) -> list[ValidationError]:
        """All problems of the machine, as error objects; an empty list if there are none.

        States that no declared transition leads to are a problem unless `allow_disconnected`: other
        states may return their names, so runs accept them.

        >>> fsm = FSM("demo", initial_state="strat").add_state("start", lambda: 1)
        >>> [str(problem) for problem in fsm.validate()]
        ["initial state 'strat' of 'demo' is no state (did you mean 'start'?)"]
        """
        self._warn(check_types)
        return self._problems(allow_disconnected=allow_disconnected, check_types=check_types)

    def _problems(
        self, *, allow_disconnected: bool = False, check_types: bool = False
    ) -> list[ValidationError]:
        if not len(self):
            problem = f"{self.name!r} has no states; add one with @fsm.state or add_state()"
            return [ValidationError(problem)]
        topology = self._topology()
        found = problems(topology, allow_disconnected=True, check_types=check_types)
        found += self._declared_wrong()
        found += self._resource_problems()
        if not allow_disconnected and not found:
            found += self._unreachable()
        return found

    def _declared_wrong(self) -> list[ValidationError]:
        """Problems of initial and terminal states and of transitions."""
        found = []
        if not self._initial:
            found.append(
                ValidationError(
                    f"{self.name!r} has no initial state; give one state initial=True, or the FSM "
                    "initial_state="
                )
            )
        elif len(self._initial) > 1:
            found.append(
                ValidationError(
                    f"{self.name!r} has several initial states: {names(self._initial)}; keep one"
                )
            )
        named: dict[tuple[str, str], None] = {}
        named.update({(f"initial state {name!r}", name): None for name in self._initial})
        named.update({(f"terminal state {name!r}", name): None for name in self._terminal})
        for each in self.transitions:
            for name in (each.source, each.target):
                named[f"{name!r} of the transition {each}", name] = None
        for name, target in self._on_error.items():
            named[f"on_error={target!r} of the state {name!r}", target] = None
        if self._default_on_error is not None:
            named[f"on_error={self._default_on_error!r}", self._default_on_error] = None
        for where, name in named:
            if name not in self._graph.nodes:
                suggestion, hint = closest(name, self._graph.nodes)
                problem = f"{where} of {self.name!r} is no state{hint}"
                found.append(UnknownNodeError(problem, node=name, suggestion=suggestion))
        return found

    def _unreachable(self) -> list[ValidationError]:
        if not self._transitions:
            return []
        reached = set(self._initial)
        ways: dict[str, list[str]] = {}
        for each in self.transitions:
            ways.setdefault(each.source, []).append(each.target)
        for name, target in self.error_states.items():
            ways.setdefault(name, []).append(target)
        todo = list(reached)
        while todo:
            for target in ways.get(todo.pop(), ()):
                if target not in reached:
                    reached.add(target)
                    todo.append(target)
        alone = [name for name in self._graph.nodes if name not in reached]
        if not alone:
            return []
        return [
            DisconnectedNodeError(
                f"{self.name!r} has states that no declared transition leads to: {names(alone)}. "
                "If other states return their names, that is fine: pass allow_disconnected=True. "
                "Else declare add_transition(), or remove_state()",
                nodes=tuple(alone),
            )
        ]

    def validate_or_raise(self, allow_disconnected: bool = True, check_types: bool = False) -> None:
        """Raise the problem that `validate` finds, or one ValidationError with all of them."""
        found = self.validate(allow_disconnected, check_types)
        if found:
            raise ValidationError.of(found, repr(self.name))

    @property
    def is_valid(self) -> bool:
        """Whether the machine can be run."""
        return not self._problems(allow_disconnected=True)

    @property
    def _waiting_states(self) -> list[str]:
        ways = self.transitions
        waits = {
            name: all(each.event is not None for each in ways if each.source == name)
            for name in dict.fromkeys(each.source for each in ways)
        }
        return [name for name, does in waits.items() if does and name not in self._terminal]

    def _topology(self) -> Topology:
        return Topology.of(self._graph)

    def _machine_view(self) -> MachineView:
        from fast_dag.draw.view import MachineView

        return MachineView(
            self.transitions, tuple(self._initial), set(self._terminal), self.error_states
        )

    # Running.

    def _request(
        self,
        /,
        inputs: Mapping[str, Any] | None = None,
        *,
        max_cycles: SupportsIndex | None = _OF_THE_FSM,
        context: Context | None = None,
        mode: ExecutionMode | Literal["sequential", "parallel", "process", "async"] = "sequential",
        max_workers: SupportsIndex | None = None,
        executor: Executor | None = None,
        timeout: Seconds | None = None,
        error_strategy: Literal["fail_fast", "continue"] = "fail_fast",
        error_handler: Callable[[str, Exception, Context], str] | None = None,
        progress: Callable[[str, str, float], object] | bool | None = None,
        track_memory: bool = False,
        limits: Limits | None = None,
        **more_inputs: Any,
    ) -> Request:
        """The options that every way of running takes; see `execute`."""
        settings = Settings.of(
            mode,
            max_workers,
            executor,
            timeout,
            error_strategy,
            error_handler,
            progress,
            track_memory,
            "all",
            limits,
        )
        cycles = self.max_cycles
        if max_cycles is not _OF_THE_FSM:
            cycles = asked_count("max_cycles", max_cycles)
        bounds = Bounds(cycles, self.on_max_cycles == "raise")
        if "store" in more_inputs:
            _refuse_store(self.name, more_inputs["store"])
        return Request(self.name, inputs, more_inputs, context, settings, bounds=bounds)

    _request.__qualname__ = "FSM.run"  # a TypeError about its arguments says that

    @takes_what(_request)
    def execute(self, /, *args: Any, **options: Any) -> MachineRun:
        """Run the machine from its initial state; returns the `Run`, also if it failed.

        Parameters
        ----------
        inputs, more_inputs:
            Values by the name of the parameters that they fill, on any state.
        max_cycles:
            How many states the run executes at most, instead of the FSM's `max_cycles`. None is no
            limit.
        context, mode, max_workers, executor, timeout, error_strategy, error_handler, progress,
        track_memory, limits:
            As in `DAG.execute`. The fraction given to `progress` is that of the states visited so
            far.

        Raises ValidationError, before any state runs, if the machine, an input or an option is
        wrong.

        >>> fsm = FSM("demo").add_state("a", lambda n: n + 1, initial=True, terminal=True)
        >>> run = fsm.execute(n=1)
        >>> run.value, run.status, run.state_history, run.is_terminated
        (2, 'completed', ['a'], True)
        """
        run = self._drive(self._made(self._request(*args, **options))).run
        assert isinstance(run, MachineRun)
        return run

    @takes_what(_request)
    def run(self, /, *args: Any, **options: Any) -> Any:
        """Run the machine from its initial state; returns the value of the last state.

        Takes the options of `execute`. Raises ExecutionError if a state failed, with the state's
        exception as its cause, InvalidTransitionError if a state has no next state, MaxCyclesError,
        and ValidationError as `execute` does.
        """
        return value_of(self._drive(self._made(self._request(*args, **options))))

    @takes_what(_request, mode="async")
    async def execute_async(self, /, *args: Any, **options: Any) -> MachineRun:
        """`execute` for code in an event loop. It does not block the loop: sync states run in
        worker threads."""
        request = self._request(*args, **{"mode": "async", **options})
        run = (await self._drive_async(self._made(request))).run
        assert isinstance(run, MachineRun)
        return run

    @takes_what(_request, mode="async")
    async def run_async(self, /, *args: Any, **options: Any) -> Any:
        """`run` for code in an event loop."""
        request = self._request(*args, **{"mode": "async", **options})
        return value_of(await self._drive_async(self._made(request)))

    def _start_request(
        self,
        /,
        inputs: Mapping[str, Any] | None = None,
        *,
        on_step: Callable[[Machine, Step], object] | None = None,
        max_cycles: SupportsIndex | None = _OF_THE_FSM,
        context: Context | None = None,
        mode: ExecutionMode | Literal["sequential", "parallel", "process", "async"] = "sequential",
        max_workers: SupportsIndex | None = None,
        executor: Executor | None = None,
        timeout: Seconds | None = None,
        error_strategy: Literal["fail_fast", "continue"] = "fail_fast",
        error_handler: Callable[[str, Exception, Context], str] | None = None,
        progress: Callable[[str, str, float], object] | bool | None = None,
        track_memory: bool = False,
        limits: Limits | None = None,
        **more_inputs: Any,
    ) -> Request:
        """The options of `start`: those of `_request`, and `on_step`."""
        raise NotImplementedError  # it tells type checkers and `help()`

    @takes_what(_start_request)
    def start(self, /, *args: Any, **options: Any) -> Machine:
        """A live `Machine`, to be driven step by step or by events; takes what `execute` does, and
        `on_step`. No state has been executed yet. `timeout` and `max_cycles` hold for each call
        that drives the machine.

        Parameters
        ----------
        on_step:
            `f(machine, step)`, called after each visit of a state is recorded (with the value None
            if the visit failed), before the machine goes on. It may be async, and may call
            `machine.snapshot()`. What it raises ends the call that drives the machine.

        >>> fsm = FSM("door", initial_state="closed", terminal_states=["open"])
        >>> fsm = fsm.add_state("closed", lambda: "closed").add_state("open", lambda: "open")
        >>> fsm = fsm.add_transition("closed", "open", event="push")
        >>> machine = fsm.start(on_step=lambda machine, step: print(step.state))
        >>> machine.send("push"), machine.state
        closed
        open
        ('open', 'open')
        """
        return self._machine(None, *args, **options)

    def _restore_request(
        self,
        snapshot: Mapping[str, Any],
        /,
        inputs: Mapping[str, Any] | None = None,
        *,
        check_name: bool = True,
        on_step: Callable[[Machine, Step], object] | None = None,
        max_cycles: SupportsIndex | None = _OF_THE_FSM,
        context: Context | None = None,
        mode: ExecutionMode | Literal["sequential", "parallel", "process", "async"] = "sequential",
        max_workers: SupportsIndex | None = None,
        executor: Executor | None = None,
        timeout: Seconds | None = None,
        error_strategy: Literal["fail_fast", "continue"] = "fail_fast",
        error_handler: Callable[[str, Exception, Context], str] | None = None,
        progress: Callable[[str, str, float], object] | bool | None = None,
        track_memory: bool = False,
        limits: Limits | None = None,
        **more_inputs: Any,
    ) -> Request:
        """The options of `restore`: `snapshot`, `check_name`, and those of `start`."""
        raise NotImplementedError  # it tells type checkers and `help()`

    @takes_what(_restore_request)
    def restore(
        self,
        snapshot: Mapping[str, Any],
        /,
        inputs: Mapping[str, Any] | None = None,
        *,
        check_name: bool = True,
        **options: Any,
    ) -> Machine:
        """The `Machine` of a snapshot that `Machine.snapshot()` made; it goes on from there.

        Takes what `start` does; inputs that are given take the place of those of the snapshot. What
        declarations decide (whether the machine waits, has ended, or which state is next) is
        decided by this version of the FSM; what a state returned stands.

        Raises ValidationError if `snapshot` is no snapshot, is one of an FSM of another name
        (unless `check_name=False`), or could not go on here: this FSM lacks a state or an event
        that the snapshot names, or leads nowhere from there.

        >>> fsm = FSM("demo", initial_state="a", terminal_states=["b"])
        >>> fsm = fsm.add_state("a", lambda: 1).add_state("b", lambda x: x + 1)
        >>> machine = fsm.add_transition("a", "b").start()
        >>> _ = machine.step()
        >>> fsm.restore(machine.snapshot()).run()
        2
        """
        read = read_snapshot(snapshot, self.name if check_name else None)
        return self._machine(read, inputs, **options)

    def _machine(
        self, snapshot: Mapping[str, Any] | None, /, *args: Any, on_step: Any = None, **options: Any
    ) -> Machine:
        request = self._request(*args, **options)
        if snapshot is not None:
            request.inputs = {**snapshot["inputs"], **request.inputs}
        awaited = self._request(*args, **{"mode": "async", **options})
        plan = self._plan(frozenset(request.inputs))
        return Machine(self, plan, request, awaited.settings, snapshot, on_step)

    def _made(self, request: Request) -> MachineExecution:
        plan = self._plan(frozenset(request.inputs))
        context = FSMContext() if request.context is None else request.context
        execution = MachineExecution(
            self, plan, request.inputs, context, request.settings, request.bounds
        )
        execution.observers = self._observers(execution)
        return execution

    def _plan(self, inputs: frozenset[str]) -> MachinePlan:
        return self._kept(self._compile, inputs)

    def _checked(self) -> Topology:
        """The topology; raises if there are problems."""
        found = self._problems(allow_disconnected=True)
        if found:
            raise ValidationError.of(found, repr(self.name))
        return self._topology()

    def _compile(self, inputs: frozenset[str]) -> MachinePlan:
        plan = MachinePlan(
            self._kept(self._checked),
            inputs,
            self._policy_of,
            self._resources,
            self._wrappers,
            self._limits,
            start=next(iter(self._initial)),
            terminals=self._terminal,
            transitions=self.transitions,
            state_hooks=self._state_hooks,
            on_error=self.error_states,
        )
        plan.refuse_unknown(option_names(FSM._request))
        return plan

    # As a state or node of another workflow.

    def _nested_plan(self, inputs: frozenset[str]) -> MachinePlan:
        return self._plan(inputs)

    def _nested_execution(
        self, parent: Execution, prefix: str, plan: MachinePlan | None, inputs: dict[str, Any]
    ) -> MachineExecution:
        if plan is None or plan.input_names != inputs.keys():
            plan = self._plan(frozenset(inputs))
        context = parent.context._inner(FSMContext)
        bounds = Bounds(self.max_cycles, self.on_max_cycles == "raise")
        return MachineExecution(
            self, plan, inputs, context, parent.settings, bounds, parent=parent, prefix=prefix
        )

    def _read_signature(self) -> Signature:
        nodes = self._graph.nodes
        first = nodes.get(self.initial_state or "")
        parameters = () if first is None else first.signature.parameters
        return Signature(
            [
                Parameter(each.name, Kind.KEYWORD_ONLY, optional=each.optional)
                for each in parameters
                if not each.by_engine and each.name not in self._resources
            ],
            origin=self,
            var_keyword=None if first is None else first.signature.var_keyword,
            is_async=any(node.signature.is_async for node in nodes.values())
            or any(each.is_async for each in self._transitions)
            or any(hook.is_async for hook in self._state_hooks),
        )

    # Views of the run in progress, or of the one that finished last.

    @property
    def _state(self) -> MachineState | None:
        """Where the machine in view is."""
        execution = self._in_view()
        if execution is None:
            return None
        assert isinstance(execution, MachineExecution)
        return execution.machine_state

    def _refuse_path(self, name: str) -> None:
        state, _, visit = name.partition(".")  # "s.0" is a visit of the state s
        super()._refuse_path(state if visit.isdecimal() else name)

    @property
    def context(self) -> Context:
        """Inside a run, the FSMContext of that run; else that of the run that finished last; an
        empty one before the first run."""
        execution = self._in_view()
        return FSMContext() if execution is None else execution.context

    @property
    def machine(self) -> Machine | None:
        """Inside a state, condition or hook, the live machine that is in progress, to `post` events
        to; None in `run()`, and outside.

        >>> fsm = FSM("demo", initial_state="a").add_terminal_state("a", lambda: fsm.machine)
        >>> fsm.start().run(), fsm.run()
        (<Machine of 'demo': in 'a', done>, None)
        """
        execution = current.get()
        while execution is not None and execution.graph is not self._graph:
            execution = execution.outer
        machine: Machine | None = getattr(execution, "machine", None)
        return machine

    @property
    def state_history(self) -> list[str]:
        """The visited states in order, the running one included."""
        state = self._state
        return [] if state is None else state.state_history

    @property
    def current_state(self) -> str | None:
        """The running state, or the one visited last; None before the first run."""
        state = self._state
        return None if state is None else state.current_state

    @property
    def is_terminated(self) -> bool:
        """Whether a terminal state, or a return with `stop`, has ended the machine."""
        state = self._state
        return state is not None and state.ended

    @property
    def cycle_count(self) -> int:
        """How many states have been executed, the running one included."""
        state = self._state
        return 0 if state is None else state.cycle_count


def _checked_on_error(given: Any) -> str | None:
    name = name_of(given)
    if name is not None and not isinstance(name, str):
        raise ValidationError(f"on_error is the name of a state, not {given!r}")
    return name
