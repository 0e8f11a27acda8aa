"""What `execute()` returns: one run, as its user looks at it."""

from __future__ import annotations

from fast_dag._typing import T, overload
from fast_dag.define.node import Node
from fast_dag.define.signature import ABSENT
from fast_dag.errors import InvalidNodeError, MissingResultError, UnknownNodeError, text_of_key
from fast_dag.schedule.base import NodeStatus

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Coroutine, Mapping
    from typing import Any, Literal, Protocol, Self

    from fast_dag.context import Context
    from fast_dag.define.graph import Graph
    from fast_dag.define.node import Mapped
    from fast_dag.draw.sketch import DrawingOptions
    from fast_dag.draw.view import WorkflowView
    from fast_dag.errors import ExecutionError
    from fast_dag.plan.topology import Topology
    from fast_dag.returns import FSMReturn
    from fast_dag.run.failures import Failures
    from fast_dag.run.items import Items

    class Recorded(Protocol):
        """What was recorded of an execution."""

        def statuses(self) -> dict[str, NodeStatus]: ...
        def status(self, index: int, /) -> NodeStatus: ...
        def times(self) -> dict[str, float]: ...
        @property
        def from_cache(self) -> Collection[str]: ...

    class Viewed(Protocol):
        """The execution that a Run shows, or the plain data that is left of it in a pickle."""

        name: str
        noun: str
        status: str
        inputs: Mapping[str, Any]
        context: Context
        value: Any

        @property
        def results(self) -> dict[str, Any]: ...

        failures: Failures
        dropped: Collection[str]
        items: Mapping[str, Items]

        @property
        def graph(self) -> Graph | None: ...
        @property
        def topology(self) -> Topology: ...
        @property
        def record(self) -> Recorded: ...

        @property
        def run(self) -> Run: ...
        @property
        def children(self) -> Mapping[str, Viewed]: ...
        def exception(self) -> ExecutionError | None: ...
        def _view(self) -> WorkflowView: ...


class Run:
    """One execution of a workflow, as `execute()` returns it.

    `name` is the workflow's, `inputs` what it was given, `context` the Context it worked in,
    `value` what `run()` would have returned, `status` one of running, completed,
    completed_with_errors, failed, cancelled, timed_out. `errors` has the original exception of each
    failed node by name (`"sub.inner"` in nested workflows); `children` the runs of nested ones.
    `run["name"]` is a node's result, or a KeyError that says why there is none. A Run pickles,
    without functions, and `dag.run(resume=run)` goes on from it.

    >>> from fast_dag import DAG
    >>> dag = DAG("demo")
    >>> @dag.node
    ... def double(x: int) -> int:
    ...     return 2 * x
    >>> run = dag.execute(x=21)
    >>> run.value, run.status, run.statuses
    (42, 'completed', {'double': <NodeStatus.COMPLETED: 'completed'>})
    """

    def __init__(self, execution: Viewed) -> None:
        self._execution = execution

    @property
    def name(self) -> str:
        """The workflow's name."""
        return self._execution.name

    @property
    def inputs(self) -> Mapping[str, Any]:
        """What the run was given, by parameter."""
        return self._execution.inputs

    @property
    def context(self) -> Context:
        """The Context that it worked in."""
        return self._execution.context

    @property
    def results(self) -> dict[str, Any]:
        """What each node returned, by name: `context.results`."""
        return self._execution.results

    @property
    def status(self) -> str:
        """running, completed, completed_with_errors, failed, cancelled or timed_out."""
        return self._execution.status

    @property
    def value(self) -> Any:
        """What `run()` returns; None while the run is in progress."""
        return self._execution.value

    @property
    def errors(self) -> dict[str, Exception]:
        """The original exception of each failed node by name, `"sub.inner"` in nested workflows."""
        return self._execution.failures.errors

    @property
    def children(self) -> dict[str, Run]:
        """The runs of nested workflows, by the name of their node."""
        return {name: child.run for name, child in self._execution.children.items()}

    @property
    def run_id(self) -> str:
        """The run's id, that of the outermost run in nested workflows."""
        return str(self.context.metadata["run_id"])

    @property
    def statuses(self) -> dict[str, NodeStatus]:
        """How every node of the run stands; each status equals its string ("skipped")."""
        return self._execution.record.statuses()

    @property
    def timings(self) -> dict[str, float]:
        """Seconds each node took, in the order in which they ended."""
        return self._execution.record.times()

    @property
    def metrics(self) -> dict[str, Any]:
        """The same as `run.context.metrics`."""
        return self.context.metrics

    def raise_for_error(self) -> None:
        """Raise the ExecutionError of the failure that ended the run, or, where it went on after
        failures, of the first; return where nothing failed."""
        error = self.exception()
        if error is not None:
            raise error

    def exception(self) -> ExecutionError | None:
        """What `raise_for_error` raises, or None."""
        return self._execution.exception()

    @overload
    def __getitem__(self, name: Node[..., FSMReturn]) -> Any: ...
    @overload
    def __getitem__(self, name: Mapped[..., Any]) -> Any: ...
    @overload
    def __getitem__(self, name: Node[..., Coroutine[Any, Any, T]]) -> T: ...
    @overload
    def __getitem__(self, name: Node[..., T]) -> T: ...
    @overload
    def __getitem__(self, name: str) -> Any: ...
    def __getitem__(self, name: str | Node[..., Any]) -> Any:
        """The result of a node, which is given by name or as itself; `"sub.inner"` looks into a
        nested workflow.

        Raises a KeyError that says why there is none: unknown, not run, skipped, failed, deleted.
        """
        execution = self._execution
        if isinstance(name, Node):
            graph = execution.graph  # of a pickled run nobody knows it
            if graph is not None and graph not in (name.graph, name.replaced_in):
                raise InvalidNodeError(
                    f"node {name.name!r} is none of {self.name!r}, which this is a run of",
                    node=name.name,
                )
            name = name.name
        return self._result(name)

    def _result(self, name: str) -> Any:
        execution = self._execution
        value = execution.results.get(name, ABSENT)
        if value is not ABSENT:
            return value
        whole = execution.topology.whole
        if isinstance(name, str) and name not in whole.index:
            mapped, bracket, key = name.partition("[")
            at = whole.index.get(mapped) if bracket else None
            if at is not None and whole.nodes[at].map:
                return self._item(mapped, key.removesuffix("]"), name)
        first, dot, rest = name.partition(".") if isinstance(name, str) else (name, "", "")
        if dot and first in execution.children:
            return execution.children[first].run[rest]
        at = whole.index.get(first)
        if at is None or (dot and not whole.nodes[at].workflow):
            raise UnknownNodeError.named(name, whole.index, repr(self.name), execution.noun)
        reason = self._why_missing(first)
        why = _REASONS[reason]
        if reason == "deleted" and not whole.nodes[at].options.get("stored", True):
            why += ", or was not stored (stored=False)"
        elif dot and reason == "deleted":  # the nested workflow has no run that could have a result
            reason, why = "not run", _REASONS["not run"]
            if first in execution.record.from_cache:
                why = f"did not run, because the value of {first!r} came from its cache"
        raise MissingResultError(
            f"{self.name!r} has no result of {name!r}: it {why}",
            node=name,
            reason=reason,
        )

    def _item(self, mapped: str, key: str, name: str) -> Any:
        """The result of one item of a map; `key` is its position, or the text of its key."""
        result = self._result(mapped)
        items = self._execution.items.get(mapped)
        if items is None or items._left_out is None:
            result = None
        found = _items_named(result, key, items)
        if not found and "]." in key:
            found = self._inside(mapped, key, result, items)
        if len(found) > 1:
            raise MissingResultError(
                f"several keys of map {mapped!r} are {key!r} as text; ask for run[{mapped!r}][key]",
                node=name,
                reason="ambiguous",
            )
        if found:
            return found[0]
        raise MissingResultError(
            f"{self.name!r} has no result of {name!r}: {_why_no_item(items, mapped, key, result)}",
            node=name,
            reason="no such item",
        )

    def _inside(self, mapped: str, key: str, result: Any, items: Items | None) -> list[Any]:
        """What is inside of an item that is a workflow, as far as its value has that: the last node
        of the workflow, and the items of that."""
        whole = self._execution.topology.whole
        workflow: Any = whole.nodes[whole.index[mapped]].workflow
        if getattr(workflow, "kind", None) != "dag":
            return []
        graph = workflow.graph
        sinks = [each for each in graph.nodes if not graph.outgoing(each)]
        if len(sinks) != 1:
            return []
        (last,) = sinks
        outer, _, inner = key.partition("].")
        values = _items_named(result, outer, items)
        if inner == last:
            return values
        spec = graph.nodes[last].map
        if not values or not spec or spec.on_error == "drop" or not inner.startswith(f"{last}["):
            return []
        return _items_named(values[0], inner.removeprefix(f"{last}["), None)

    def items(self, name: str | Node[..., Any]) -> Items:
        """What became of the items of a map: how many completed and failed, their errors, the
        slowest ones, a histogram of their times. Raises a KeyError for what is no map, or has not
        begun.

        >>> from fast_dag import DAG
        >>> dag = DAG("demo")
        >>> @dag.map
        ... def square(x: int) -> int:
        ...     return x * x
        >>> dag.execute(x=range(3)).items("square")
        <Items of 'square': 3 of 3 completed>
        """
        asked = name.name if isinstance(name, Node) else name
        found = self._execution.items.get(asked)
        if found is not None:
            return found
        first, dot, rest = asked.partition(".")
        if dot and first in self._execution.children:
            return self._execution.children[first].run.items(rest)
        whole = self._execution.topology.whole
        at = whole.index.get(asked)
        if at is None:
            raise UnknownNodeError.named(asked, whole.index, repr(self.name), self._execution.noun)
        why = "it has not begun" if whole.nodes[at].map else "it is no map"
        raise MissingResultError(
            f"{self.name!r} has no items of {asked!r}: {why}", node=asked, reason="not run"
        )

    def _why_missing(self, name: str) -> str:
        index = self._execution.topology.index.get(name)
        status = NodeStatus.NOT_RUN if index is None else self._execution.record.status(index)
        if status is NodeStatus.COMPLETED:
            return "dropped" if name in self._execution.dropped else "deleted"
        return status.value if status.value in _REASONS else "not run"

    def get(self, name: str | Node[..., Any], default: Any = None) -> Any:
        """The result of a node, `default` where there is none."""
        try:
            return self[name]
        except KeyError:
            return default

    def __repr__(self) -> str:
        count = len(self._execution.topology.names)
        word = "node" if count == 1 else "nodes"
        return f"<Run of {self.name!r}: {self.status}, {count} {word}>"

    def visualize(
        self,
        backend: Literal["mermaid", "graphviz", "svg"] = "mermaid",
        filename: str | os.PathLike[str] | None = None,
        format: str | None = None,
        show_results: bool = False,
        options: DrawingOptions | None = None,
    ) -> str:
        """Draw the workflow as this run left it: statuses, times, attempts, errors, which edges
        and transitions were taken, and with `show_results` what each node returned. All else is
        as in `DAG.visualize`.

        >>> from fast_dag import DAG
        >>> run = DAG("demo").add_node("answer", lambda: 42).execute()
        >>> print(run.visualize(show_results=True, options={"details": False}))
        flowchart TB
            n0["answer"]
            classDef completed fill:#e3f5e8,stroke:#2e8b4f,color:#111827
            class n0 completed
        <BLANKLINE>
        """
        from fast_dag.draw.visualize import visualize

        return visualize(self, backend, filename, format, show_results, options)

    def summary(self) -> str:
        """A report for a terminal: how the run ended, its timeline with attempts and waits, the
        slowest nodes, what bounds the run, why nodes were skipped, errors, inputs.

        >>> from fast_dag import DAG
        >>> run = DAG("demo").add_node("double", lambda x: 2 * x).execute(x=21)
        >>> print(run.summary().splitlines()[1])
        1 node: 1 completed
        """
        from fast_dag.report.text import summary

        return summary(self)

    def report(self, filename: str | os.PathLike[str] | None = None) -> str:
        """The same as one HTML page, with the picture and tracebacks. The page loads nothing. It is
        returned, and written to `filename` if that is given.

        >>> from fast_dag import DAG
        >>> page = DAG("demo").add_node("double", lambda x: 2 * x).execute(x=21).report()
        >>> page.startswith("<!doctype html>"), "completed" in page
        (True, True)
        """
        from fast_dag.report.page import page

        return page(self, filename)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """The picture in a notebook."""
        from fast_dag.draw.visualize import mimebundle

        return mimebundle(self)

    def _view(self) -> WorkflowView:
        """What pictures and reports know of it."""
        return self._execution._view()

    # A pickle has no functions. Copies show the same execution.

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        from fast_dag.run.past import packed_run, unpickled_run

        return unpickled_run, (packed_run(self._execution),)

    def __copy__(self) -> Self:
        return type(self)(self._execution)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)(self._execution)

    def __dir__(self) -> list[str]:
        """The documented names, for completion."""
        return [name for name in super().__dir__() if name != "_execution"]


def _items_named(result: Any, key: str, items: Items | None) -> list[Any]:
    """The items of a map's result whose key has that text, or whose position it is."""
    if isinstance(result, dict):
        return [value for each, value in result.items() if text_of_key(each) == key]
    if not isinstance(result, list) or not key.isdecimal():
        return []
    position = int(key) if items is None else items._place_of(int(key))
    return [] if position is None else result[position : position + 1]


def _why_no_item(items: Items | None, mapped: str, key: str, result: Any) -> str:
    if items is None:
        return f"map {mapped!r} was not walked in this run"
    if not isinstance(result, (list, dict)):
        return f"map {mapped!r} keeps no items, but what into= made of them"
    if "]." in key:
        return (
            f"map {mapped!r} keeps the value of each item, and nothing else of what is inside of it"
        )
    if items.dropped:
        return (
            f"map {mapped!r} has dropped {items.dropped} of its items; run[{mapped!r}] has the "
            "others"
        )
    return f"map {mapped!r} has {len(result)} items, and none of that name"


_REASONS = {
    "not run": "has not run",
    "running": "is still running",
    "skipped": "was skipped, because a branch was not taken or a node above it failed",
    "failed": "failed",
    "deleted": "ran, but its result was deleted from context.results",
    "dropped": "ran, but its result was dropped after its last use, because of keep='outputs'",
}
