"""An execution as plain data: what a Run that was pickled shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_dag._pickling import packed, unpacked
from fast_dag.context import again, parts_of
from fast_dag.draw.view import WorkflowView, plain_topology, plain_view
from fast_dag.errors import traceback_of
from fast_dag.run.failures import Failures, exception_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from fast_dag.context import Context
    from fast_dag.draw.view import RunView
    from fast_dag.errors import ExecutionError
    from fast_dag.plan.topology import Topology
    from fast_dag.run.items import Items
    from fast_dag.schedule.base import NodeStatus


class PastRecord:
    """What was recorded of it."""

    def __init__(self, view: RunView) -> None:
        self._view = view

    def statuses(self) -> dict[str, NodeStatus]:
        """How every node stands."""
        return dict(self._view.statuses)

    def status(self, index: int) -> NodeStatus:
        """How one node stands."""
        return list(self._view.statuses.values())[index]

    def times(self) -> dict[str, float]:
        """Seconds each node took."""
        return dict(self._view.timings)

    @property
    def from_cache(self) -> Collection[str]:
        """The nodes whose value came from their cache."""
        return self._view.from_cache


class Past:
    """What a Run shows of its execution, in the place of that. It has names, statuses, values,
    errors, times and the drawing, and no functions."""

    def __init__(self, execution: Any) -> None:
        view = execution._view()
        self.name: str = execution.name
        self.noun: str = execution.noun
        self.prefix: str = execution.prefix
        self.status: str = execution.status
        self.timeout: float | None = view.run.timeout
        self.value: Any = execution.value
        self.inputs: Mapping[str, Any] = dict(execution.inputs)
        self.context: Context = execution.context
        self.failures: Failures = execution.failures
        self.choices: Mapping[str, Any] = dict(execution.choices)
        self.consumed: frozenset[str] = execution.consumed
        self.dropped: frozenset[str] = frozenset(execution.dropped)
        self.children: dict[str, Past] = {
            name: past_of(child) for name, child in execution.children.items()
        }
        self.items: Mapping[str, Items] = dict(execution.items)
        self._tracebacks = {key: traceback_of(each) for key, each in self.failures.errors.items()}
        # Of a machine.
        self.machine_state: Any = getattr(execution, "machine_state", None)
        self.graph = None
        self._run_class = execution.run_class
        whole = plain_topology(execution.topology.whole)
        index = execution.topology.index
        self.topology: Topology = whole.narrowed([whole.index[name] for name in index])
        self._shown: WorkflowView = plain_view(view, whole)
        assert self._shown.run is not None
        self.record = PastRecord(self._shown.run)

    @property
    def results(self) -> dict[str, Any]:
        """What each node returned: `context.results`."""
        return self.context.results

    @property
    def run(self) -> Any:
        """The public view of it."""
        return self._run_class(self)

    def exception(self) -> ExecutionError | None:
        """The error of the failure that ended it, or of the first."""
        return exception_of(self, self.timeout)

    def _view(self) -> WorkflowView:
        shown = self._shown
        assert shown.run is not None
        errors = dict(self.failures.errors)
        run = shown.run._replace(
            errors=errors,
            error=self.exception() if self.status in ("failed", "timed_out") else None,
            inputs=self.inputs,
            results=dict(self.results),
            metrics=self.context.metrics,
            tracebacks=self._tracebacks,
        )
        nested = {name: child._view() for name, child in self.children.items()}
        return shown._replace(run=run, nested={**shown.nested, **nested})

    # Pickling. The context goes as its dictionaries, so that what is in several places stays one.

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "context": (type(self.context), self.context._state_now())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.context = again(*state["context"])

    def without(self, nodes: Collection[str]) -> Past:
        """This, without the results of these nodes, which are named by their paths, and without the
        values that are made of them."""
        state = self.context._state_now()
        lost = {name for name in state["results"] if f"{self.prefix}{name}" in nodes}
        gone = {id(state["results"].pop(name)) for name in lost}
        self.context = again(type(self.context), state)
        if id(self.value) in gone:
            self.value = None
        elif isinstance(self.value, dict) and lost.intersection(self.value):  # of `outputs`
            self.value = {name: self.value[name] for name in self.value if name not in lost}
        self.items = {
            name: items for name, items in self.items.items() if self.prefix + name not in nodes
        }
        for child in self.children.values():
            child.without(nodes)
        return self

    def parts(self) -> Iterator[tuple[str, str, Any]]:
        """The user's values in it, as (node, words, value)."""
        prefix = self.prefix
        if not prefix:
            for name, value in self.inputs.items():
                yield "", f"the input {name!r}", value
        yield from parts_of(self.context._state_now(), prefix)
        for name, items in self.items.items():
            for key, value in items._results.items():
                yield prefix + name, f"the result of item {key!r} of {prefix + name!r}", value
        if self.machine_state is not None:
            names = self.machine_state.names
            for index, value, *_ in self.machine_state.visits:
                state = prefix + names[index]
                yield state, f"the value of a visit of {state!r}", value
        for child in self.children.values():
            yield from child.parts()


def past_of(execution: Any) -> Past:
    """An execution as plain data; what is that already stays as it is."""
    return execution if isinstance(execution, Past) else Past(execution)


def packed_run(execution: Any) -> bytes:
    """It as bytes. Raises ValidationError that names the nodes whose values do not pickle."""
    past = past_of(execution)
    return packed(past, f"the Run of {past.name!r}", past.parts)


def unpickled_run(data: bytes) -> Any:
    """The Run whose execution was made these bytes."""
    return unpacked(data).run
