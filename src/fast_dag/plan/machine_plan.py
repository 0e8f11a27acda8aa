"""A machine compiled: its states with their bindings, and the transitions between them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from fast_dag.define.node import name_of
from fast_dag.errors import InvalidTransitionError, ValidationError, closest, names
from fast_dag.plan.plan import Plan
from fast_dag.plan.state_binding import StateBinding
from fast_dag.plan.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from fast_dag.call.hooks import Hook
    from fast_dag.call.policy import CallPolicy
    from fast_dag.define.graph import Edge
    from fast_dag.define.node import Node
    from fast_dag.define.transitions import Transition
    from fast_dag.plan.binding import Binding
    from fast_dag.plan.step import Wrapper
    from fast_dag.plan.topology import Topology


class MachineStep(Step):
    """One state of a machine.

    `intake` gathers its arguments. `ways` are the transitions that need no event, `events` those
    that wait for one, both in the order of declaration. `asked` are the `ways` that may be taken:
    none of a terminal state, and none behind one without a condition. `onward` is the only state
    that can follow if the state returns a plain value, None if the execution must decide. The
    machine ends after a state with `is_terminal`. `on_error` is the state that a failure leads to.
    `awaits` is True if a condition that may be asked, or a state hook, is async. A state is never
    plain, because the execution decides what follows.
    """

    __slots__ = ("asked", "awaits", "events", "intake", "is_terminal", "on_error", "onward", "ways")

    def __init__(
        self,
        index: int,
        node: Node[..., Any],
        edges: Sequence[Edge],
        keys: tuple[str, ...] | None,
        binding: Binding | None,
        policy: CallPolicy | None,
    ) -> None:
        super().__init__(index, node, edges, keys, binding, policy)
        self.plain = None
        self.intake: StateBinding
        self.ways: list[Transition] = []
        self.events: list[Transition] = []
        self.asked: list[Transition] = []
        self.onward: int | None = None
        self.is_terminal = False
        self.on_error: int | None = None
        self.awaits = False


class MachinePlan(Plan):
    """What an execution needs to know of a machine.

    Parameters
    ----------
    topology, inputs, policy_of, resources, wrappers, limits:
        As in `Plan`; states have no edges.
    start, terminals, transitions:
        The first state, the states that end the machine, and the declared transitions, in their
        order.
    state_hooks:
        Hooks that are called at each transition.
    on_error:
        For each state the one that its failure leads to, if it has any.
    """

    step_class = MachineStep
    has_states = True
    steps: list[MachineStep]  # type: ignore[assignment]  # a list of a subclass

    def __init__(
        self,
        topology: Topology,
        inputs: Collection[str],
        policy_of: Callable[[Node[..., Any], Sequence[str]], CallPolicy | None] | None,
        resources: Mapping[str, Hook],
        wrappers: Sequence[Wrapper] = (),
        limits: Any = None,
        *,
        start: str,
        terminals: Collection[str],
        transitions: Sequence[Transition],
        state_hooks: Sequence[Hook],
        on_error: Mapping[str, str],
    ) -> None:
        super().__init__(topology, inputs, policy_of, resources, wrappers, limits)
        index, steps = topology.index, self.steps
        self.start = index[start]
        self.state_hooks = tuple(state_hooks)
        for name in terminals:
            steps[index[name]].is_terminal = True
        for each in transitions:
            step = steps[index[each.source]]
            if each.event is not None:
                step.events.append(each)
                continue
            if not (step.is_terminal or (step.asked and step.asked[-1].condition is None)):
                step.asked.append(each)
            step.ways.append(each)
        self.events = frozenset(each.event for each in transitions if each.event is not None)
        hooks_wait = any(hook.is_async for hook in state_hooks)
        for name, target in on_error.items():
            steps[index[name]].on_error = index[target]
        for step in steps:
            step.awaits = hooks_wait or any(way.is_async for way in (*step.asked, *step.events))
            step.intake = StateBinding(step.node, step.binding, inputs)
            if step.ways and step.ways[0].condition is None:
                step.onward = index[step.ways[0].target]
        # Only the first state can be checked: later states may take values from those before them.
        self.missing = tuple((start, name) for name in steps[self.start].intake.missing)

    @cached_property
    def is_straight(self) -> bool:
        """Whether a run is nothing but calling one state after another."""
        return not (
            self.has_policies
            or self.has_uses
            or self.state_hooks
            or any(step.awaits for step in self.steps)
            or any(step.node.workflow is not None for step in self.steps)
        )

    @cached_property
    def needs_loop(self) -> bool:
        """Whether a state, a condition or a state hook is known to be async."""
        return any(step.awaits or step.node.signature.is_async for step in self.steps)

    def refusal(self, state: int, event: str, data: Collection[str]) -> Exception | None:
        """Why an event with this data is not taken in a state that waits; None if it may be, where
        a condition holds."""
        name, heard = self.names[state], self.heard(state)
        if event not in heard:
            hint = closest(event, heard)[1]
            listens = f"listens to {names(heard)}" if heard else "listens to no events"
            return InvalidTransitionError(
                f"state {name!r} of {self.name!r} was sent {event!r}: it {listens}{hint}",
                node_name=name,
                state=name,
                target=None,
                event=event,
                events=heard,
            )
        return self._refused(event, data, [e for e in self.steps[state].events if e.event == event])

    def refusal_anywhere(self, event: str, data: Collection[str]) -> Exception | None:
        """Why an event with this data is taken in no state at all; None if it may be."""
        if event not in self.events:
            hint = closest(event, self.events)[1]
            known = f"there are {names(sorted(self.events))}" if self.events else "it has no events"
            return InvalidTransitionError(
                f"no transition of {self.name!r} has the event {event!r}{hint}; {known}",
                state=None,
                target=None,
                event=event,
                events=(),
            )
        ways = [each for step in self.steps for each in step.events if each.event == event]
        return self._refused(event, data, ways)

    def _refused(
        self, event: str, data: Collection[str], ways: Sequence[Transition]
    ) -> Exception | None:
        """What an event brings is for a state that it leads to, or for a condition."""
        if any(each.condition is not None and each.condition.takes > 2 for each in ways):
            return None
        targets = [self.steps[self.topology.index[each.target]] for each in ways]
        for name in data:
            if all(target.intake.unknown({name: 0}) for target in targets):
                inputs = [each for target in targets for each in target.node.signature.inputs]
                return ValidationError(
                    f"the event {event!r} brings {name!r}, which no parameter of "
                    f"{names(dict.fromkeys(each.target for each in ways))} takes"
                    f"{closest(name, inputs)[1]}",
                    inputs=(name,),
                )
        return None

    def heard(self, state: int) -> tuple[str, ...]:
        """The events that have a transition from a state."""
        return tuple(dict.fromkeys(str(each.event) for each in self.steps[state].events))

    def find(self, target: Any, source: int, event: str | None = None) -> int:
        """The index of the state `target`, a name or the state itself.

        Raises InvalidTransitionError if there is none; its facts are `source`, the state that leads
        there, and `event`, which was sent to it."""
        target = name_of(target)
        found = self.topology.index.get(target) if isinstance(target, str) else None
        if found is None:
            from fast_dag.draw.words import brief

            told = brief(target)
            hint = closest(target if isinstance(target, str) else told, self.names)[1]
            raise InvalidTransitionError(
                f"state {self.names[source]!r} of {self.name!r} leads to {told}, which is "
                f"no state{hint}; there are {names(self.names)}",
                node_name=self.names[source],
                state=self.names[source],
                target=target,
                event=event,
                events=() if event is None else self.heard(source),
            )
        return found
