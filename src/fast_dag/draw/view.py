"""What pictures and reports know of a workflow and its runs: plain data, made by their owners.

Nothing else in `draw/` and `report/` reads a workflow, a run or a machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from fast_dag.define.graph import Edge
    from fast_dag.define.transitions import Transition
    from fast_dag.plan.topology import Topology
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
            dead = (edge for edge, live in self.edges_into(index) if live is False)
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
    """What a machine has besides its states."""

    transitions: Sequence[Transition]
    initial: Collection[str]
    terminal: Collection[str]


class RunView(NamedTuple):
    """A run as it stood when it was looked at.

    `began` and `ended` are readings of the clock of `spans`, `began_at` of the wall clock. `live`
    has, for each node of the topology, whether each of its incoming edges ended live (None: not
    decided); it is empty for a machine. `attempts` are those of the nodes in `errors`, and `error`
    is what ended the run. `from_cache` are the nodes whose last value came from a cache. Of a
    machine, `current` is the state it is in, and `awaited` are the events it waits for.
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
    current: str | None = None
    awaited: Collection[str] = ()


class Span(NamedTuple):
    """One execution of a node, by the clock of this process; `start` is 0 where the execution was
    in another process, whose clock is not known here."""

    node: str
    start: float
    end: float
    failed: bool
