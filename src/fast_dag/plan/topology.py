"""The frozen shape of a graph: nodes by index, edges, order, cycles, and which branches exclude
each other. Everything here takes time linear in nodes and edges, and nothing recurses."""

from __future__ import annotations

from functools import cached_property
from heapq import heapify, heappop, heappush
from itertools import pairwise

from fast_dag.define.graph import Edge, Graph
from fast_dag.define.node import Node, NodeType
from fast_dag.plan.choices import Choices

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from typing import Any

    from fast_dag.plan.choices import Choice, Needs


# A member of an enum takes ten times as long to look up as a global.
_NODE = NodeType.NODE


class Topology:
    """A snapshot of a graph, or of the part of it that a run was narrowed to.

    Nodes are known by their index, in the order of their definition. `incoming` has the edges into
    each node, in the order in which they were made. `external` has the edges that enter a narrowed
    part from outside. `picked` has the nodes of which an edge takes a part, `parted` those of which
    several edges take one part. `order` has the
    nodes in the order of a sequential run; nodes of cycles, and those below them, are not in it.
    `whole` is the topology of the whole graph.
    """

    def __init__(
        self,
        name: str,
        nodes: Sequence[Node[..., Any]],
        incoming: Sequence[Sequence[Edge]],
        whole: Topology | None = None,
    ) -> None:
        self.name = name
        self.nodes = tuple(nodes)
        self.names = tuple([node.name for node in nodes])
        self.index = {name: position for position, name in enumerate(self.names)}
        self.incoming = incoming
        self.whole = self if whole is None else whole
        external: list[tuple[int, Edge]] = []
        leads_on = [False] * len(self.nodes)
        find = self.index.get
        in_order = True
        outputs: set[tuple[str, str]] = set()
        parted: set[str] = set()
        for target, edges in enumerate(incoming):
            for edge in edges:
                if edge.output is not None:
                    port = edge.source, edge.output
                    if port in outputs:
                        parted.add(edge.source)
                    outputs.add(port)
                source = find(edge.source)
                if source is None:
                    external.append((target, edge))
                else:
                    leads_on[source] = True
                    if source >= target:
                        in_order = False
        self.external = external
        self.parted = parted
        self.picked = {source for source, _ in outputs}
        self._leads_on = leads_on
        # If each node was defined after those that it depends on, the order of definition is
        # already what Kahn's algorithm would find.
        self.order = tuple(range(len(self.nodes))) if in_order else self._sequential_order()

    @cached_property
    def successors(self) -> list[list[tuple[int, bool | str | None, bool]]]:
        """For each node, the targets of its edges as (target, branch, optional); only targets in
        here."""
        successors: list[list[tuple[int, bool | str | None, bool]]] = [[] for _ in self.nodes]
        find = self.index.get
        for target, edges in enumerate(self.incoming):
            for edge in edges:
                source = find(edge.source)
                if source is not None:
                    successors[source].append((target, edge.branch, edge.optional))
        return successors

    @cached_property
    def deciders(self) -> frozenset[str]:
        """The names of the nodes that choose a branch."""
        return frozenset([node.name for node in self.special if node.type.decides])

    @cached_property
    def several(self) -> frozenset[str]:
        """The names of the selects that may choose several branches: these do not exclude each
        other."""
        special = self.whole.special
        return frozenset([node.name for node in special if node.options.get("several")])

    @cached_property
    def special(self) -> list[Node[..., Any]]:
        """The nodes that decide, join, map, nest a workflow or use limits."""
        return [
            node
            for node in self.nodes
            if node.type is not _NODE
            or node.workflow is not None
            or node.uses is not None
            or node.map is not None
        ]

    @classmethod
    def of(cls, graph: Graph, given: Collection[str] = (), *, autowire: bool = False) -> Topology:
        """The shape of `graph`. With `autowire`, a node feeds the parameters of its name in other
        nodes, except for parameters that an edge feeds, or a run input (`given` has their names).
        """
        nodes = list(graph.nodes.values())
        incoming: list[Sequence[Edge]] = [tuple(graph.incoming(node.name)) for node in nodes]
        if autowire:
            incoming = [
                (*edges, *_autowired(graph, node, edges, given))
                for node, edges in zip(nodes, incoming, strict=True)
            ]
        return cls(graph.name, nodes, incoming)

    def narrowed(self, keep: Collection[int]) -> Topology:
        """The part of this topology that has the nodes of `keep` only."""
        if len(keep) == len(self.nodes):
            return self
        chosen = sorted(keep)
        return Topology(
            self.name,
            [self.nodes[index] for index in chosen],
            [self.incoming[index] for index in chosen],
            self.whole,
        )

    def _sequential_order(self) -> tuple[int, ...]:
        """Kahn's algorithm with a heap: of the ready nodes always the one defined first."""
        waiting = [0] * len(self.nodes)
        for targets in self.successors:
            for target, *_ in targets:
                waiting[target] += 1
        ready = [index for index, count in enumerate(waiting) if not count]
        heapify(ready)
        order = []
        while ready:
            index = heappop(ready)
            order.append(index)
            for target, *_ in self.successors[index]:
                waiting[target] -= 1
                if not waiting[target]:
                    heappush(ready, target)
        return tuple(order)

    @cached_property
    def cycles(self) -> list[tuple[str, ...]]:
        """Cycles that have no node in common; at least one if the graph has cycles. Each starts and
        ends with that of its nodes that was defined first."""
        stuck = set(range(len(self.nodes))).difference(self.order)
        # Each stuck node has a stuck predecessor, so walking back from any of them meets a cycle.
        back = {
            index: next(
                source
                for edge in self.incoming[index]
                if (source := self.index.get(edge.source)) in stuck
            )
            for index in sorted(stuck)
        }
        found = []
        seen: dict[int, int] = {}
        for start in back:
            at = start
            while at not in seen:
                seen[at] = start
                at = back[at]
            if seen[at] == start:
                cycle = [at]
                while (at := back[at]) != cycle[0]:
                    cycle.append(at)
                cycle.reverse()
                first = cycle.index(min(cycle))
                cycle = [*cycle[first:], *cycle[: first + 1]]
                found.append(tuple([self.names[index] for index in cycle]))
        return found

    def sources(self, index: int) -> Iterable[int]:
        """The nodes in here that have an edge to a node."""
        for edge in self.incoming[index]:
            source = self.index.get(edge.source)
            if source is not None:
                yield source

    def below(self, starts: Iterable[int]) -> set[int]:
        """`starts` and all nodes that depend on them."""
        return _closure(starts, lambda index: [target for target, *_ in self.successors[index]])

    def above(self, ends: Iterable[int]) -> set[int]:
        """`ends` and all nodes that they depend on."""
        return _closure(ends, self.sources)

    @cached_property
    def sinks(self) -> tuple[int, ...]:
        """The nodes without an edge out, in sequential order."""
        leads_on = self._leads_on
        return tuple([index for index in self.order if not leads_on[index]])

    @cached_property
    def telling(self) -> tuple[int, ...]:
        """The sinks that may make the value of a run, in sequential order: the last one, and the
        ones before it, back to one that runs whatever deciders choose."""
        for start in range(len(self.sinks) - 1, 0, -1):
            above = self.above([self.sinks[start]])
            if all(edge.branch is None for index in above for edge in self.incoming[index]):
                return self.sinks[start:]
        return self.sinks

    @cached_property
    def is_line(self) -> bool:
        """Whether each node but the first has an edge from the one before it in sequential
        order."""
        return all(
            any(target == after for target, *_ in self.successors[index])
            for index, after in pairwise(self.order)
        )

    # For schedules.

    @cached_property
    def in_degrees(self) -> list[int]:
        """For each node, the number of edges into it."""
        return [len(edges) for edges in self.incoming]

    @cached_property
    def roots(self) -> list[int]:
        """The nodes without an edge in."""
        return [index for index, count in enumerate(self.in_degrees) if not count]

    @cached_property
    def alternatives(self) -> list[int]:
        """The `any` nodes that have edges."""
        return [
            index
            for index, node in enumerate(self.nodes)
            if node.type is NodeType.ANY and self.incoming[index]
        ]

    @cached_property
    def links(self) -> list[int | None]:
        """For each node, its successor if that is its only one and waits for no other node; else
        None. In such a link of a chain a schedule need not count edges."""
        alone = [count == 1 for count in self.in_degrees]
        for index in self.alternatives:
            alone[index] = False
        return [
            targets[0][0]
            if len(targets) == 1
            and alone[targets[0][0]]
            and targets[0][1] is None
            and not node.type.decides
            else None
            for node, targets in zip(self.nodes, self.successors, strict=True)
        ]

    @cached_property
    def counted(self) -> list[tuple[int, ...] | None]:
        """For each node, its successors if a schedule only has to count that one more edge into
        each ended live; None if a successor is an `any` node, or an edge leaves a branch."""
        others = set(self.alternatives)
        return [
            tuple([target for target, *_ in targets])
            if all(branch is None and target not in others for target, branch, _ in targets)
            else None
            for targets in self.successors
        ]

    # Branches.

    @cached_property
    def choices(self) -> list[Needs | None]:
        """For each node, the choices of deciders without which it cannot run."""
        needed: list[Needs | None] = [None] * len(self.nodes)
        for index in self.order if self.listened else ():
            is_any = self.nodes[index].type is NodeType.ANY
            merge = self._cells.both if is_any else self._cells.either
            edges = (edge for edge in self.incoming[index] if is_any or not edge.optional)
            edge = next(edges, None)
            if edge is not None:
                own = self._edge_choices(edge, needed)
                for edge in edges:
                    own = merge(own, self._edge_choices(edge, needed))
                needed[index] = own
        return needed

    @cached_property
    def _cells(self) -> Choices:
        listened, inside = self.listened, [self.names[index] for index in self.order]
        known = set(inside)
        outside = [name for name in listened if name not in known]
        return Choices([*outside, *(name for name in inside if name in listened)])

    def _edge_choices(self, edge: Edge, choices: Sequence[Needs | None]) -> Needs | None:
        source = self.index.get(edge.source)
        before = None if source is None else choices[source]
        if edge.branch is None or edge.source in self.several:
            return before
        return self._cells.add(edge.source, edge.branch, before)

    def edge_choices(self, edge: Edge) -> Needs | None:
        """The choices without which an edge cannot be live."""
        return self._edge_choices(edge, self.choices)

    def contradiction_at(self, index: int) -> tuple[Choice, Choice] | None:
        """Two branches of one decider that the edges into a node all need; None if there are none.
        Such a node could never run."""
        edges = (edge for edge in self.incoming[index] if not edge.optional)
        needed: Needs | None = None
        for edge in edges:
            own = self.edge_choices(edge)
            clash = self._cells.contradiction(needed, own)
            if clash is not None:
                return clash
            needed = self._cells.either(needed, own)
        return None

    def known_branches(self, name: str) -> list[bool | str]:
        """The branches of a decider that have edges in the whole graph."""
        return list(self.whole.listened.get(name, ()))

    @cached_property
    def listened(self) -> dict[str, dict[bool | str, None]]:
        """For each decider whose branches have edges in here, these branches in order."""
        listened: dict[str, dict[bool | str, None]] = {}
        for edges in self.incoming:
            for edge in edges:
                if edge.branch is not None:
                    listened.setdefault(edge.source, {})[edge.branch] = None
        return listened

    def consumers(self, index: int) -> list[tuple[int, Edge]]:
        """The edges in here that carry a node's value, as (target, edge)."""
        name = self.names[index]
        targets = dict.fromkeys(target for target, *_ in self.successors[index])
        return [
            (target, edge)
            for target in targets
            for edge in self.incoming[target]
            if edge.source == name and edge.input is not None
        ]

    def clash(self, takers: Iterable[tuple[int, Edge | None]]) -> tuple[str, str] | None:
        """Two of these nodes that may both run in one run, each given with the edge by which it
        takes a value; None if there are none."""
        takes = [
            (
                target,
                self.choices[target]
                if edge is None
                else self._cells.either(self.choices[target], self.edge_choices(edge)),
            )
            for target, edge in takers
        ]
        for position, (target, needed) in enumerate(takes):
            for other, needed_there in takes[:position]:
                if self._cells.contradiction(needed, needed_there) is None:
                    return self.names[other], self.names[target]
        return None


def _autowired(
    graph: Graph, node: Node[..., Any], edges: Sequence[Edge], given: Collection[str]
) -> list[Edge]:
    fed = {edge.input for edge in edges}
    return [
        Edge(name, node.name, None, name)
        for name in node.signature.inputs
        if name in graph.nodes and name != node.name and name not in fed and name not in given
    ]


def _closure(starts: Iterable[int], follow: Any) -> set[int]:
    reached = set(starts)
    todo = list(reached)
    while todo:
        for index in follow(todo.pop()):
            if index not in reached:
                reached.add(index)
                todo.append(index)
    return reached
