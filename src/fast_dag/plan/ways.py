"""How long the way from each node to the end of the run is: who goes first where not all can."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Protocol

    from fast_dag.plan.step import Step
    from fast_dag.plan.topology import Topology

    class Plan(Protocol):
        """A plan, as far as ways are concerned."""

        @property
        def names(self) -> Sequence[str]: ...
        @property
        def topology(self) -> Topology: ...
        @property
        def steps(self) -> Sequence[Step]: ...

    class Record(Protocol):
        """What an earlier execution of the plan recorded."""

        @property
        def seconds(self) -> float: ...
        def times(self) -> Mapping[str, float]: ...


_SHORT = 20e-6
"""Seconds that a run takes for each node, with all that is around it: where that is less, the order
decides nothing, and adding seconds up would cost more than it saves."""


class Ways:
    """For each node by index: `to_end`, the longest way from its beginning to the end of the run,
    and `after`, the same from its end. In seconds, if `told`, which an earlier execution recorded,
    tells, else in nodes."""

    __slots__ = ("after", "to_end")

    def __init__(self, plan: Plan, told: Record | None = None) -> None:
        topology = plan.topology
        self.to_end = lengths = _in_nodes(plan) if told is None else _in_seconds(plan, told)
        self.after = after = [0.0] * len(lengths)
        for index in reversed(topology.order):
            longest = lengths[index] = lengths[index] + after[index]
            for edge in topology.incoming[index]:
                source = topology.index.get(edge.source)
                if source is not None and after[source] < longest:
                    after[source] = longest

    @property
    def longest(self) -> float:
        """The longest way through the whole plan."""
        return max(self.to_end, default=0.0)


def tells(told: Record | None, nodes: int) -> bool:
    """Whether it is worth while to look at how long the nodes of an execution took."""
    return told is not None and told.seconds > _SHORT * nodes


def _in_nodes(plan: Plan) -> list[float]:
    return [1.0 if step.nested is None else step.nested.ways.longest for step in plan.steps]


def _in_seconds(plan: Plan, told: Record) -> list[float]:
    times = told.times()
    usual = sum(times.values()) / max(len(times), 1)  # of those that did not run
    return [times.get(name, usual) for name in plan.names]
