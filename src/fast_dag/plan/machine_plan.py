"""A machine compiled: its states with everything bound, and the ways between them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from fast_dag.errors import InvalidTransitionError, closest, names
from fast_dag.plan.plan import Plan
from fast_dag.plan.state_binding import StateBinding

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from fast_dag.call.hooks import Hook
    from fast_dag.call.policy import CallPolicy
    from fast_dag.define.node import Node
    from fast_dag.define.transitions import Transition
    from fast_dag.plan.topology import Topology


class PlainState(NamedTuple):
    """One state of a straight machine: it takes nothing, `parameter` only, or what its StateBinding
    gathers. `onward` is the state after it, None if the run decides that; `is_last`: terminal."""

    name: str
    func: Callable[..., Any]
    takes_none: bool
    parameter: str | None
    onward: int | None
    is_last: bool


class FsmPlan(Plan):
    """What a run needs to know of a machine.

    Parameters
    ----------
    topology, inputs, policy_of, resources:
        As in `Plan`; states have no edges.
    start, terminals, transitions:
        Where it starts, which states end it, and the declared ways, in their order.
    state_hooks:
        Called at each transition.
    """

    def __init__(
        self,
        topology: Topology,
        inputs: Collection[str],
        policy_of: Callable[[Node[..., Any], Sequence[str]], CallPolicy | None] | None,
        resources: Mapping[str, Hook],
        *,
        start: str,
        terminals: Collection[str],
        transitions: Sequence[Transition],
        state_hooks: Sequence[Hook],
    ) -> None:
        super().__init__(topology, inputs, policy_of, resources)
        index = topology.index
        self.start = index[start]
        self.terminals = frozenset(index[name] for name in terminals)
        self.state_hooks = tuple(state_hooks)
        self.state_bindings = [
            StateBinding(node, binding, inputs)
            for node, binding in zip(topology.nodes, self.bindings, strict=True)
        ]
        # What a state after the first lacks, the states before it may give.
        self.missing = tuple((start, name) for name in self.state_bindings[self.start].missing)
        self.ways: list[list[Transition]] = [[] for _ in topology.nodes]
        self.events: list[list[Transition]] = [[] for _ in topology.nodes]
        for each in transitions:
            (self.ways if each.event is None else self.events)[index[each.source]].append(each)

    @cached_property
    def is_straight(self) -> bool:
        """Whether a run is nothing but calling one state after another."""
        return not (
            self.policies
            or self.state_hooks
            or any(node.workflow is not None for node in self.nodes)
        )

    @cached_property
    def plain(self) -> list[str | None]:
        """None: after each state the run decides."""
        return [None] * len(self.nodes)

    @cached_property
    def plain_states(self) -> list[PlainState]:
        """The states, prepared for a run that is straight."""
        index = self.topology.index
        return [
            PlainState(
                node.name,
                node.func,
                state_binding.takes_none,
                state_binding.takes_one,
                index[ways[0].target] if ways and ways[0].condition is None else None,
                position in self.terminals,
            )
            for position, (node, state_binding, ways) in enumerate(
                zip(self.nodes, self.state_bindings, self.ways, strict=True)
            )
        ]

    def heard(self, state: int) -> tuple[str, ...]:
        """The events that are listened to in a state."""
        return tuple(dict.fromkeys(str(each.event) for each in self.events[state]))

    def find(self, target: Any, source: int, event: str | None = None) -> int:
        """The state of that name, to which `source` leads, when sent `event` if there is one;
        raises InvalidTransitionError."""
        target = getattr(target, "name", target)  # a state itself
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
