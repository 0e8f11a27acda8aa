"""A machine compiled: its states with their bindings, and the transitions between them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from fast_dag.define.node import name_of
from fast_dag.errors import InvalidTransitionError, closest, names
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
    that wait for one, both in the order of declaration. `onward` is the only state that can follow
    if the state returns a plain value, None if the execution must decide. The machine ends after a
    state with `is_terminal`. A state is never plain, because the execution decides what follows.
    """

    __slots__ = ("events", "intake", "is_terminal", "onward", "ways")

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
        self.onward: int | None = None
        self.is_terminal = False


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
    """

    step_class = MachineStep
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
    ) -> None:
        super().__init__(topology, inputs, policy_of, resources, wrappers, limits)
        index, steps = topology.index, self.steps
        self.start = index[start]
        self.state_hooks = tuple(state_hooks)
        for name in terminals:
            steps[index[name]].is_terminal = True
        for each in transitions:
            step = steps[index[each.source]]
            (step.ways if each.event is None else step.events).append(each)
        for step in steps:
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
            or any(step.node.workflow is not None for step in self.steps)
        )

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
            raise InvalidTransitionError(
                f"state {self.names[source]!r} of {self.name!r} leads to {target!r}, which is no "
                f"state{closest(target, self.names)[1]}; there are {names(self.names)}",
                node_name=self.names[source],
                state=self.names[source],
                target=target,
                event=event,
                events=() if event is None else self.heard(source),
            )
        return found
