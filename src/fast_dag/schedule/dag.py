"""Which nodes of a DAG may start: counters and statuses; no threads, clock, values or user code."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from types import MappingProxyType

from fast_dag.define.node import NodeType
from fast_dag.schedule.base import COMPLETED, FAILED, NOT_RUN, READY, SKIPPED, Schedule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from fast_dag.define.graph import Edge
    from fast_dag.define.node import Node
    from fast_dag.plan.topology import Topology

    Choice = bool | str | frozenset[str]
    """The branch that a decider takes; the branches, if it may take several."""


def is_skipped(node: Node[..., Any], ends: Iterable[tuple[bool | None, Edge]]) -> bool:
    """Whether a node is skipped for certain: `ends` tells of each edge into it how it ended, None
    while it has not."""
    if node.type is NodeType.ANY:
        ended = [live is False for live, _ in ends]
        return bool(ended) and all(ended)
    return any(live is False and not edge.optional for live, edge in ends)


def is_taken(choice: Choice | None, branch: bool | str | None) -> bool:
    """Whether a decider's choice makes the edges of a branch live; some choose several."""
    if branch is None:
        return True
    return branch in choice if type(choice) is frozenset else bool(branch == choice)


class DagSchedule(Schedule):
    """The one rule: every edge ends live (its source completed and chose it) or dead.

    A node may start once all edges into it are live and is skipped once one is dead; an `any` node
    may start once one is live and is skipped when all are dead. With `eager=False` an `any` waits
    until all its edges have ended, as a node with `wait=True` always does. An optional edge is
    waited for, and counts as live whatever becomes of it. Final statuses do not
    depend on the order in which nodes end.

    >>> from fast_dag.define.graph import Graph
    >>> from fast_dag.define.node import Node
    >>> from fast_dag.plan.topology import Topology
    >>> graph = Graph("demo")
    >>> a, b = graph.add(Node(lambda: 1, "a")), graph.add(Node(lambda x: x, "b"))
    >>> _ = a >> b
    >>> schedule = DagSchedule(Topology.of(graph), eager=True)
    >>> schedule.begin(), schedule.complete(0), schedule.status[0]
    ([0], [1], <NodeStatus.COMPLETED: 'completed'>)
    """

    __slots__ = (
        "_any",
        "_counted",
        "_external",
        "_links",
        "_live",
        "_successors",
        "_topology",
        "_waiting",
        "choices",
    )

    def __init__(self, topology: Topology, *, eager: bool) -> None:
        super().__init__(len(topology.nodes))
        self._topology = topology
        self._external: list[tuple[int, bool]] = []
        self._successors = topology.successors
        self._links = topology.links
        self._counted = topology.counted
        self._waiting = topology.in_degrees.copy()
        # For each `any` node: whether it waits for all its edges, and how many ended live so far.
        nodes = topology.nodes
        self._any = {
            index: not eager or bool(nodes[index].options.get("wait"))
            for index in topology.alternatives
        }
        self._live = dict.fromkeys(self._any, 0)
        self.choices: dict[int, Choice] = {}

    def begin(
        self,
        external: Iterable[tuple[int, bool]] = (),
        ended: Mapping[int, Choice | None] = MappingProxyType({}),
        failed: Iterable[int] | None = None,
    ) -> list[int]:
        """The nodes that may start at once.

        `external` has each edge from outside as (target, whether it ended live). `ended` has the
        nodes that completed before, each with its choice (None if it makes none); nodes above them
        need not have completed, and may complete later if `failed` is given: those that failed
        before."""
        status, ready = self.status, []
        for node, choice in ended.items():
            status[node] = COMPLETED
            if choice is not None:
                self.choices[node] = choice
        for node in failed or ():
            status[node] = FAILED
        if failed is not None:
            self._links = [
                link if link is None or status[link] is NOT_RUN else None for link in self._links
            ]
        for node in self._topology.roots:
            if status[node] is NOT_RUN:
                status[node] = READY
                ready.append(node)
        self._external = list(external)
        for target, live in self._external:
            self._end_edge(target, live, ready)
        for node, choice in ended.items():
            for target, branch, optional in self._successors[node]:
                if status[target] is NOT_RUN:
                    self._end_edge(target, optional or is_taken(choice, branch), ready)
        for node in failed or ():
            for target, _, optional in self._successors[node]:
                self._end_edge(target, optional, ready)
        return ready

    def complete(self, node: int, choice: Choice | None = None) -> list[int]:
        """`node` completed, and chose that branch if it is a decider. Returns what may start
        now."""
        waiting, status = self._waiting, self.status
        status[node] = COMPLETED
        link = self._links[node]
        if link is not None:
            status[link] = READY
            return [link]
        ready: list[int] = []
        counted = self._counted[node]
        if counted is not None:
            for target in counted:
                left = waiting[target] = waiting[target] - 1
                if not left and status[target] is NOT_RUN:
                    status[target] = READY
                    ready.append(target)
            return ready
        if choice is not None:
            self.choices[node] = choice
        for target, branch, optional in self._successors[node]:
            live = optional or branch is None or branch == choice or is_taken(choice, branch)
            self._end_edge(target, live, ready)
        return ready

    def fail(self, node: int) -> list[int]:
        """`node` failed. Returns what may start now, such as an `any` node that waited for it."""
        self.status[node] = FAILED
        ready: list[int] = []
        for target, _, optional in self._successors[node]:
            self._end_edge(target, optional, ready)
        return ready

    def in_order(self, nodes: Iterable[int]) -> list[int]:
        """The completed `nodes`, in the order in which a sequential run would have called them.

        This differs from the topology's order if a node could start early because a node above it
        was skipped: an `any` node, or one with an optional edge."""
        if SKIPPED not in self.status or not (self._any or self._has_optional()):
            return list(nodes)
        replay = DagSchedule(self._topology, eager=False)
        ready, order = replay.begin(self._external), []
        heapify(ready)
        while ready:
            node = heappop(ready)
            if self.status[node] is COMPLETED:
                order.append(node)
                ended = replay.complete(node, self.choices.get(node))
            else:
                ended = replay.fail(node)
            for each in ended:
                heappush(ready, each)
        wanted = set(nodes)
        return [node for node in order if node in wanted]

    def _has_optional(self) -> bool:
        return any(optional for edges in self._successors for _, _, optional in edges)

    def is_live(self, source: int, branch: bool | str | None) -> bool:
        """Whether an edge has ended live by now."""
        if self.status[source] is not COMPLETED:
            return False
        return is_taken(self.choices.get(source), branch)

    def _end_edge(self, target: int, live: bool, ready: list[int]) -> None:
        waiting, status = self._waiting, self.status
        ended = [(target, live)]
        while ended:
            target, live = ended.pop()
            waiting[target] -= 1
            if status[target] is not NOT_RUN:
                continue
            if target in self._any:
                self._live[target] += live
                may_start = self._live[target] > 0 and not (waiting[target] and self._any[target])
                skipped = not self._live[target] and not waiting[target]
            else:
                may_start = live and not waiting[target]
                skipped = not live
            if may_start:
                status[target] = READY
                ready.append(target)
            elif skipped:
                status[target] = SKIPPED
                self.skipped.append(target)
                ended.extend((each, optional) for each, _, optional in self._successors[target])
