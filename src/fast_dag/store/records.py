"""Records: what a store knows of a run, for those who look at it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from fast_dag.draw.view import RunView, Span, WorkflowView
from fast_dag.errors import ExecutionError, MissingResultError, UnknownNodeError
from fast_dag.schedule.base import NodeStatus
from fast_dag.schedule.dag import DagSchedule
from fast_dag.store.database import reading
from fast_dag.store.durable import choice_from, error_of
from fast_dag.store.graphs import StoredGraph

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from fast_dag.draw.sketch import DrawingOptions
    from fast_dag.store.errors import StoredError


class NodeRecord(NamedTuple):
    """How a node ended.

    `path` is its name, "sub.inner" inside of a nested workflow. `began` is when, `seconds` how long
    it took, `attempts` how often its function was called. `error` is why it failed, None if it
    completed. `generation` counts the reruns of its run.
    """

    path: str
    status: str
    began: datetime
    seconds: float
    attempts: int
    cached: bool | None
    is_stored: bool
    generation: int
    error: StoredError | None


class RunRecord:
    """A run as a store has it; `Store.run` and `Store.runs` return it. Values are read when they
    are asked for: `record["node"]`.

    `status` is running, waiting, interrupted, in_doubt, or how the run ended. `created`, `began`
    and `ended` are when. `owner` is the process that is at work on it, as text, else None.
    `generation` counts reruns, from 1 on. `origin` is the run that it was forked from, else None.
    """

    def __init__(self, store: Any, row: Any, status: str, tags: Mapping[str, Any]) -> None:
        self._store = store
        self._row = row
        self.run_id: str = row.run_id
        self.workflow: str = row.workflow
        self.kind: str = row.kind
        self.status = status
        self.tags = dict(tags)
        self.created = moment(row.created)
        self.began = None if row.began is None else moment(row.began)
        self.ended = None if row.ended is None else moment(row.ended)
        self.generation: int = row.generation
        self.origin: str | None = row.origin_id
        self.is_pruned = row.pruned is not None
        self.owner: str | None = store.owner_of(row) if status == "running" else None

    def __repr__(self) -> str:
        return f"<run {self.run_id!r} of {self.workflow!r}: {self.status}>"

    @property
    def seconds(self) -> float | None:
        """From the beginning to the end, also while nobody was at work; None before the end."""
        if self.ended is None:
            return None
        return (self.ended - (self.began or self.created)).total_seconds()

    @cached_property
    def _nodes(self) -> list[Any]:
        return list(self._store.node_rows(self._row.id))

    @property
    def nodes(self) -> dict[str, NodeRecord]:
        """How the nodes ended that have, by path, in the order of their commits."""
        with reading(self._store.path):
            return {row.path: self._node_of(row) for row in self._nodes}

    def _node_of(self, row: Any) -> NodeRecord:
        return NodeRecord(
            row.path,
            "completed" if row.ok else "failed",
            moment(row.began),
            float(row.seconds),
            int(row.attempts),
            None if row.cached is None else bool(row.cached),
            bool(row.stored),
            row.generation,
            None if row.ok else error_of(row.value),  # type: ignore[arg-type]
        )

    @property
    def errors(self) -> dict[str, StoredError]:
        """The failures, by path, in the order in which they were committed."""
        return {path: each.error for path, each in self.nodes.items() if each.error is not None}

    @property
    def in_doubt(self) -> list[str]:
        """The nodes that were called, and of which nobody knows how that ended."""
        doubts: list[str] = self._store.doubts_of(self._row.id)
        return doubts

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """The inputs that the run was given."""
        found: dict[str, Any] = self._store.inputs_of(self._row.id)
        return found

    def __getitem__(self, path: str) -> Any:
        """The value of a node. Raises MissingResultError, a KeyError, if there is none."""
        for row in self._nodes:
            if row.path == path and row.ok:
                if not row.stored:
                    raise MissingResultError(
                        f"the run {self.run_id!r} has no value of {path!r}: it has stored=False",
                        node=path,
                        reason="dropped",
                    )
                return self._store.value_of(row)
        graph = StoredGraph.of(self._store.graph_text(self._row.graph))
        if graph is not None and not graph.has(path.split(".")):
            known = map(".".join, graph.paths())
            raise UnknownNodeError.named(path, known, f"the run {self.run_id!r}")
        failed = path in self.errors
        raise MissingResultError(
            f"the run {self.run_id!r} has no value of {path!r}: it "
            f"{'failed' if failed else 'was pruned' if self.is_pruned else 'has not completed'}",
            node=path,
            reason="failed" if failed else "not run",
        )

    def get(self, path: str, default: Any = None) -> Any:
        """The value of a node, `default` if there is none."""
        try:
            return self[path]
        except KeyError:
            return default

    @property
    def statuses(self) -> dict[str, str]:
        """How every node of the outermost workflow stands; those without a row are skipped, or have
        not run."""
        view = self._view().run
        assert view is not None
        return {name: str(status) for name, status in view.statuses.items()}

    def to_dict(self) -> dict[str, Any]:
        """The record as data that JSON can write, without values."""
        return {
            "run_id": self.run_id,
            "workflow": self.workflow,
            "kind": self.kind,
            "status": self.status,
            "tags": self.tags,
            "created": self.created.isoformat(),
            "began": self.began and self.began.isoformat(),
            "ended": self.ended and self.ended.isoformat(),
            "owner": self.owner,
            "generation": self.generation,
            "origin": self.origin,
            "nodes": [
                {
                    "path": each.path,
                    "status": each.status,
                    "began": each.began.isoformat(),
                    "seconds": each.seconds,
                    "attempts": each.attempts,
                    "error": None if each.error is None else str(each.error),
                }
                for each in self.nodes.values()
            ],
        }

    # Reports and pictures, with the graph that the run had.

    def summary(self) -> str:
        """A report for a terminal, as `Run.summary` makes it."""
        from fast_dag.report.text import summary

        with reading(self._store.path):
            return summary(self)

    def to_html(self) -> str:
        """The report as one HTML page, as `Run.to_html` makes it."""
        from fast_dag.report.page import page

        with reading(self._store.path):
            return page(self)

    def visualize(
        self,
        backend: str = "mermaid",
        filename: str | os.PathLike[str] | None = None,
        format: str | None = None,
        show_results: bool = False,
        options: DrawingOptions | None = None,
    ) -> str:
        """Draw the workflow as it was, and as the run left it; see `Run.visualize`."""
        from fast_dag.draw.visualize import visualize

        return visualize(self, backend, filename, format, show_results, options)

    def _view(self) -> WorkflowView:
        with reading(self._store.path):
            return self._viewed()

    def _viewed(self) -> WorkflowView:
        graph = StoredGraph.of(self._store.graph_text(self._row.graph))
        if graph is None:
            graph = StoredGraph(
                {
                    "name": self.workflow,
                    "nodes": [
                        {"name": row.node, "type": "node"} for row in self._nodes if not row.scope
                    ],
                    "edges": [],
                }
            )
        return self._view_of(graph, 0)

    def _view_of(self, graph: StoredGraph, scope: int) -> WorkflowView:
        rows = {row.node: row for row in self._nodes if row.scope == scope}
        topology = graph.topology
        ended = {
            topology.index[name]: None if row.choice is None else choice_from(row.choice)
            for name, row in rows.items()
            if row.ok and name in graph.names
        }
        failed = [
            topology.index[name] for name, row in rows.items() if not row.ok and name in graph.names
        ]
        schedule = DagSchedule(topology, eager=True)
        schedule.begin((), ended, failed)
        schedule.close()
        nested = {}
        for name, inner in graph.nested.items():
            scopes = self._store.scopes_of(self._row.id, scope, name)
            if scopes:
                nested[name] = self._view_of(inner, scopes[-1])
            else:
                nested[name] = WorkflowView(inner.name, inner.topology, {})
        return WorkflowView(
            graph.name, topology, nested, None, self._run_view(graph, rows, schedule, scope)
        )

    def _run_view(
        self, graph: StoredGraph, rows: Mapping[str, Any], schedule: DagSchedule, scope: int
    ) -> RunView:
        topology = graph.topology
        statuses = dict(zip(topology.names, schedule.status, strict=True))
        live: Sequence[Sequence[bool | None]] = [
            [_live(schedule, topology.index[edge.source], edge.branch) for edge in edges]
            for edges in topology.incoming
        ]
        errors: dict[str, Any] = {
            name: error_of(row.value) for name, row in rows.items() if not row.ok
        }
        whole = not scope
        first = min((row.began for row in rows.values()), default=self._row.created)
        last = max((row.began + row.seconds for row in rows.values()), default=first)
        began = (self._row.began or self._row.created) if whole else first
        error: BaseException | None = None
        if whole and self.status in ("failed", "timed_out") and errors:
            name = next(iter(errors))
            error = ExecutionError(f"node {name!r} of {graph.name!r} failed: {errors[name]}")
        return RunView(
            self.status if whole else "completed" if not errors else "failed",
            "stored",
            None,
            None,
            False,
            began,
            (self._row.ended or last) if whole else last,
            statuses,
            {name: row.seconds for name, row in rows.items()},
            dict.fromkeys(rows, 1),
            [
                Span(name, row.began, row.began + row.seconds, not row.ok)
                for name, row in rows.items()
            ],
            (),
            live,
            errors,
            {name: rows[name].attempts for name in errors},
            error,
            self.inputs if whole else {},
            _Values(self, rows),
            {
                "retries": sum(max(row.attempts - 1, 0) for row in rows.values()),
                "cache_hits": sum(row.cached == 1 for row in rows.values()),
                "cache_misses": sum(row.cached == 0 for row in rows.values()),
            },
            self.run_id,
            began,
            frozenset(name for name, row in rows.items() if row.cached),
            tracebacks={name: each.traceback for name, each in errors.items()},
        )


class _Values(Mapping[str, Any]):
    """The values of nodes, decoded when they are looked at."""

    def __init__(self, record: RunRecord, rows: Mapping[str, Any]) -> None:
        self._store = record._store
        self._rows = {name: row for name, row in rows.items() if row.ok and row.stored}

    def __getitem__(self, name: str) -> Any:
        return self._store.value_of(self._rows[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def _live(schedule: DagSchedule, source: int, branch: Any) -> bool | None:
    status = schedule.status[source]
    if status in (NodeStatus.FAILED, NodeStatus.SKIPPED):
        return False
    return schedule.is_live(source, branch) if status == NodeStatus.COMPLETED else None


def moment(seconds: float) -> datetime:
    """A time of the wall clock, in UTC.

    >>> moment(0).isoformat()
    '1970-01-01T00:00:00+00:00'
    """
    return datetime.fromtimestamp(seconds, UTC)
