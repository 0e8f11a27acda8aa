"""The graph of a run as data, so that old runs can be drawn and gone on with whatever became of
their code."""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from fast_dag.define.graph import Edge
from fast_dag.define.node import NodeType
from fast_dag.draw.view import PlainNode, PlainWorkflow
from fast_dag.plan.branches import choice_of
from fast_dag.plan.topology import Topology
from fast_dag.store.durable import choice_text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from fast_dag._typing import T
    from fast_dag.plan.plan import Plan

_OPTIONS: Final = ("wait", "several", "once", "stored", "retry", "timeout", "run_in")
_EDGE: Final = ("source", "target", "output", "input", "branch", "optional")


def text_of_graph(plan: Plan, codes: Iterable[bytes] = ()) -> str:
    """The graph of a plan, and of the workflows nested in it, as JSON; `codes` are the keys of the
    code of its nodes, which must not be deleted as long as a run of it may commit nodes."""
    return json.dumps(
        {**_data_of(plan), "codes": [each.hex() for each in codes]}, ensure_ascii=False
    )


def codes_in(text: str) -> list[bytes]:
    """The keys of code that the text of a graph lists; none if it cannot be read."""
    try:
        return [bytes.fromhex(each) for each in json.loads(text)["codes"]]
    except (ValueError, KeyError, TypeError):
        return []


def graph_of(plan: Plan) -> StoredGraph:
    """The graph of a plan, as it is when it was stored and read again."""
    return _once(plan, "graph", lambda: StoredGraph(json.loads(text_of_graph(plan))))


def _once(plan: Plan, name: str, make: Callable[[], T]) -> T:
    """What is made of a plan, once. It is freed with the plan."""
    known = plan.__dict__
    if name not in known:
        known[name] = make()
    made: T = known[name]
    return made


def _data_of(plan: Plan) -> dict[str, Any]:
    whole = plan.topology.whole
    steps = {step.name: step for step in plan.steps}
    nodes = []
    for index, node in enumerate(whole.nodes):
        data: dict[str, Any] = {"name": node.name, "type": node.type.value}
        if node.inputs:
            data["inputs"] = list(node.inputs)
        if node.description:
            data["description"] = node.description
        data |= {key: node.options[key] for key in _OPTIONS if key in node.options}
        if node.cache is not None:
            data["cached"] = True
        if node.map is not None:
            data["map"] = True
        step = steps.get(node.name)
        fed = {edge.input for edge in whole.incoming[index]}
        takes = {*node.signature.inputs}.difference(fed, plan.resources)
        if step is not None and step.binding is not None:
            takes |= {*step.binding.used}  # also those of **kwargs
        if takes:
            data["takes"] = sorted(takes)
        if node.workflow is not None:
            nested: Any = node.workflow
            data["workflow"] = {"kind": nested.kind, "description": nested.description}
            inner = None if step is None or node.map is not None else step.nested
            if inner is not None and nested.kind == "dag":
                data["workflow"] |= _data_of(inner)
        nodes.append(data)
    edges = [
        [getattr(edge, field) for field in _EDGE] for edges in whole.incoming for edge in edges
    ]
    return {"name": plan.name, "nodes": nodes, "edges": edges}


class StoredGraph:
    """A graph that was stored: its topology of plain nodes.

    `nested` are the graphs of its nodes that are DAGs, `takes` the run inputs that nodes take."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.name: str = data["name"]
        self.nested: dict[str, StoredGraph] = {}
        self.takes: dict[str, Sequence[str]] = {}
        self.options: dict[str, Mapping[str, Any]] = {}
        nodes: list[Any] = []
        for each in data["nodes"]:
            name, workflow = each["name"], each.get("workflow")
            self.options[name] = each
            self.takes[name] = each.get("takes", ())
            if workflow is not None and "nodes" in workflow:
                self.nested[name] = StoredGraph(workflow)
            nodes.append(_plain_node(each, workflow))
        incoming: dict[str, list[Edge]] = {node.name: [] for node in nodes}
        for source, target, output, input, branch, optional in data["edges"]:
            incoming[target].append(Edge(source, target, output, input, branch, None, optional))
        self.topology = Topology(self.name, nodes, [tuple(each) for each in incoming.values()])

    @classmethod
    def of(cls, text: str | None) -> StoredGraph | None:
        """The graph of a row; None if it has none that can be read."""
        try:
            return cls(json.loads(text or ""))
        except (ValueError, KeyError, TypeError):
            return None

    @cached_property
    def names(self) -> Collection[str]:
        """The names of its nodes."""
        return self.topology.index.keys()

    def paths(self, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
        """The paths of all nodes, also of those in nested workflows."""
        for name in self.topology.names:
            if name in self.nested:
                yield from self.nested[name].paths((*prefix, name))
            yield (*prefix, name)

    def has(self, path: Sequence[str]) -> bool:
        """Whether there is a node of this path."""
        first, *rest = path
        if rest:
            return first in self.nested and self.nested[first].has(rest)
        return first in self.names

    def choice_of(self, path: str, value: Any) -> str | None:
        """The branch that a decider takes with a plain value, as text; None if it is no decider."""
        first, _, rest = path.partition(".")
        if rest:
            return self.nested[first].choice_of(rest, value) if first in self.nested else None
        index = self.topology.index.get(first)
        if index is None or not self.topology.nodes[index].type.decides:
            return None
        node = self.topology.nodes[index]
        return choice_text(choice_of(node, value, self.topology.known_branches(first)))

    def below(self, names: Collection[str]) -> set[str]:
        """These nodes, and all that depend on them."""
        topology = self.topology
        found = topology.below([topology.index[name] for name in names])
        return {topology.names[index] for index in found}


def _plain_node(data: Mapping[str, Any], workflow: Mapping[str, Any] | None) -> PlainNode:
    return PlainNode(
        data["name"],
        NodeType(data["type"]),
        data.get("description", ""),
        tuple(data.get("inputs", ())),
        {key: data[key] for key in ("wait", "several") if key in data},
        data.get("retry", 0),
        data.get("timeout"),
        data.get("run_in"),
        data.get("cached"),
        None if workflow is None else PlainWorkflow(workflow.get("description", "")),
        "map" in data,
    )
