"""What pictures and reports know of a workflow and its runs: plain data, made by their owners.

Nothing else in `draw/` and `report/` reads a workflow, a run or a machine."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from fast_dag.call.hooks import Hook
from fast_dag.define.mapspec import MAP_OPTIONS
from fast_dag.define.options import name_of_function
from fast_dag.plan.topology import Topology

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from fast_dag.define.graph import Edge
    from fast_dag.define.node import Node, NodeType
    from fast_dag.define.transitions import Transition
    from fast_dag.run.record import Retry
    from fast_dag.schedule.base import NodeStatus


class Viewable(Protocol):
    """A workflow, a run or a machine."""

    def _view(self) -> WorkflowView: ...


def view_of(owner: Viewable) -> WorkflowView:
    """What there is to draw and to report, as it stands now."""
    return owner._view()


def nested_views(
    topology: Topology, runs: Mapping[str, Viewable] | None = None
) -> dict[str, WorkflowView]:
    """The views of the workflows that are nodes, by name: of the run of each in `runs`."""
    nested: dict[str, Any] = {node.name: node.workflow for node in topology.special}
    nested = {name: workflow for name, workflow in nested.items() if workflow is not None}
    return {name: view_of(owner) for name, owner in (nested | dict(runs or {})).items()}


class WorkflowView(NamedTuple):
    """A workflow, or a run of it: then `run` is there, and so it is for each workflow in `nested`
    that ran. `topology` is the whole graph, also where a part of it ran."""

    name: str
    topology: Topology
    nested: Mapping[str, WorkflowView]
    machine: MachineView | None = None
    run: RunView | None = None

    @property
    def noun(self) -> str:
        """What its nodes are called."""
        return "node" if self.machine is None else "state"

    def edges_into(self, index: int) -> Iterator[tuple[Edge, bool | None]]:
        """The edges into a node, and whether each ended live; None where no run decided that."""
        edges = self.topology.incoming[index]
        live = None if self.run is None else self.run.live
        yield from zip(edges, live[index] if live else [None] * len(edges), strict=True)

    def skip_reasons(self) -> dict[str, str]:
        """For each skipped node the choice or the failure because of which it was skipped."""
        reasons: dict[str, str] = {}
        statuses: Mapping[str, str] = {} if self.run is None else self.run.statuses
        for index in self.topology.order:
            name = self.topology.names[index]
            if statuses.get(name) != "skipped":
                continue
            ends = self.edges_into(index)
            dead = (edge for edge, live in ends if live is False and not edge.optional)
            edge = next(dead, None)
            if edge is None:
                continue
            source = edge.source
            if source in reasons:
                reasons[name] = reasons[source]
            elif statuses.get(source) == "failed":
                reasons[name] = f"{source} failed"
            elif isinstance(edge.branch, bool):
                reasons[name] = f"{source} was {str(not edge.branch).lower()}"
            elif edge.branch is not None:
                reasons[name] = f"{source} did not choose {edge.branch}"
            else:
                reasons[name] = f"{source} has no result"
        return reasons


class MachineView(NamedTuple):
    """What a machine has besides its states. `on_error` has, for a state, the one that its failure
    leads to."""

    transitions: Sequence[Transition]
    initial: Collection[str]
    terminal: Collection[str]
    on_error: Mapping[str, str]


class RunView(NamedTuple):
    """A run as it stood when it was looked at.

    `began` and `ended` are readings of the clock of `spans`, `began_at` of the wall clock. `live`
    has, for each node of the topology, whether each of its incoming edges ended live (None: not
    decided); it is empty for a machine. `attempts` are those of the nodes in `errors`, and `error`
    is what ended the run. `from_cache` are the nodes whose last value came from a cache, and
    `items` is what became of those of each map that began. Of a machine, `current` is the
    state it is in, and `awaited` are the events it waits for. `tracebacks` has the texts of
    those that got lost in a pickle.
    """

    status: str
    mode: str
    max_workers: int | None
    timeout: float | None
    is_ordered: bool
    began: float
    ended: float | None
    statuses: Mapping[str, NodeStatus]
    timings: Mapping[str, float]
    visits: Mapping[str, int]
    spans: Sequence[Span]
    retries: Sequence[Retry]
    live: Sequence[Sequence[bool | None]]
    errors: Mapping[str, BaseException]
    attempts: Mapping[str, int]
    error: BaseException | None
    inputs: Mapping[str, Any]
    results: Mapping[str, Any]
    metrics: Mapping[str, Any]
    run_id: str | None
    began_at: float
    from_cache: Collection[str]
    items: Mapping[str, ItemsView] = MappingProxyType({})
    current: str | None = None
    awaited: Collection[str] = ()
    tracebacks: Mapping[str, str] = MappingProxyType({})


class ItemsView(NamedTuple):
    """What became of the items of a map; see `Items`. Items are named by their keys as text, and
    `fatal` is how the one that ended the map is named in `errors`, after the name of the map."""

    total: int | None
    completed: int
    failed: int
    dropped: int
    retries: int
    slowest: Sequence[tuple[str, float]]
    histogram: Sequence[tuple[float, int]]
    fatal: str | None

    @property
    def ended(self) -> int:
        """How many have ended."""
        return self.completed + self.failed

    @property
    def times(self) -> str:
        """How many there are, and how many of them failed.

        >>> ItemsView(1_000_000, 999_997, 3, 0, 0, (), (), None).times
        'x 1,000,000 (3 failed)'
        """
        count = self.ended if self.total is None else self.total
        return f"x {count:,} ({self.failed:,} failed)" if self.failed else f"x {count:,}"


class Span(NamedTuple):
    """One execution of a node, by the clock of this process; `start` is 0 where the execution was
    in another process, whose clock is not known here."""

    node: str
    start: float
    end: float
    failed: bool


# The same without functions, so that it pickles.


TOLD = ("wait", "several", "uses", "priority", *MAP_OPTIONS)
"""The options of nodes that a plain node has besides those below, for tips."""


class PlainNode(NamedTuple):
    """What pictures and reports know of a node. Of a nested workflow they know its description."""

    name: str
    type: NodeType
    description: str
    inputs: tuple[str, ...]
    options: Mapping[str, Any]
    retry: int
    timeout: float | None
    run_in: str | None
    cache: bool | None
    workflow: PlainWorkflow | None
    map: bool

    @classmethod
    def of(cls, node: Node[..., Any]) -> PlainNode:
        """Of a node, or of one that is plain already."""
        if isinstance(node, PlainNode):
            return node
        workflow: Any = node.workflow
        return cls(
            node.name,
            node.type,
            node.description,
            tuple(node.inputs),
            {name: _plain_option(node.options[name]) for name in TOLD if name in node.options},
            node.retry,
            node.timeout,
            node.run_in,
            None if node.cache is None else True,
            None if workflow is None else PlainWorkflow(workflow.description),
            bool(node.map),
        )


def _plain_option(value: Any) -> Any:
    return Named(name_of_function(value)) if callable(value) else value


class PlainWorkflow(NamedTuple):
    """What they know of a workflow that is a node, besides its view."""

    description: str


class Named:
    """In the place of a function: its name."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self) -> None:
        """It is never called."""


def plain_topology(topology: Topology) -> Topology:
    """A whole topology of plain nodes."""
    nodes: Any = [PlainNode.of(node) for node in topology.nodes]
    return Topology(topology.name, nodes, [tuple(edges) for edges in topology.incoming])


def plain_view(view: WorkflowView, topology: Topology) -> WorkflowView:
    """The view without functions, and of the run without the user's values and errors; `topology`
    is the plain one."""
    machine, run = view.machine, view.run
    if machine is not None:
        machine = machine._replace(transitions=[_plain_way(way) for way in machine.transitions])
    if run is not None:
        run = run._replace(errors={}, error=None, inputs={}, results={}, metrics={}, tracebacks={})
    nested = {
        name: plain_view(each, plain_topology(each.topology)) for name, each in view.nested.items()
    }
    return WorkflowView(view.name, topology, nested, machine, run)


def _plain_way(way: Transition) -> Transition:
    condition: Any = way.condition
    if condition is not None:
        condition = Hook(Named(name_of_function(condition.func)), 0, False)
    return way._replace(condition=condition)
