"""What a run takes from an earlier one that it goes on from, and what it runs again."""

from __future__ import annotations

from fast_dag.call.effects import ONE_SHOT
from fast_dag.errors import failures
from fast_dag.plan.binding import gives_one_shot
from fast_dag.returns import ConditionalReturn, SelectReturn
from fast_dag.schedule.base import COMPLETED
from fast_dag.schedule.dag import is_skipped, is_taken

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from typing import Any, Final, Protocol

    from fast_dag.define.graph import Edge
    from fast_dag.plan.plan import Plan
    from fast_dag.plan.topology import Topology

    class Earlier(Protocol):
        """The earlier execution, or the plain data that a pickle has of it."""

        name: str
        noun: str
        status: str
        inputs: Mapping[str, Any]
        record: Any
        dropped: Collection[str]

        @property
        def results(self) -> dict[str, Any]: ...
        @property
        def topology(self) -> Topology: ...
        @property
        def choices(self) -> Mapping[str, Any]: ...
        @property
        def consumed(self) -> frozenset[str]: ...
        @property
        def children(self) -> Mapping[str, Any]: ...
        @property
        def items(self) -> Mapping[str, Any]: ...

    class Later(Protocol):
        """The execution that goes on from it."""

        plan: Plan
        inputs: Mapping[str, Any]

        def _choice(self, name: str, value: Any, /) -> Any: ...


_TAKEN, _SKIPPED, _RUNS = "taken", "skipped", "runs"


class Resumption:
    """Tells of each node of an execution whether it is taken from an earlier one, stays skipped, or
    runs.

    A node that completed is taken, unless a source of one of its edges runs or is new, it took an
    input that has `changed`, or its value is gone and a node that runs, or the value of the run
    (made of the nodes `outputs`, else of the last sink that completes), needs it.

    `choices` has the branches that the taken deciders chose.
    """

    def __init__(
        self,
        execution: Later,
        earlier: Earlier,
        changed: Collection[str],
        outputs: Collection[str] | None,
    ) -> None:
        self.earlier = earlier
        self._execution = execution
        self._topology = topology = execution.plan.topology
        self._changed = frozenset(changed)
        self._gone_inputs = self._changed.difference(execution.inputs)
        self._consumed = earlier.consumed
        statuses = earlier.record.statuses()
        self._completed = {
            name
            for name in topology.names
            if statuses.get(name) == COMPLETED or (name not in statuses and name in earlier.results)
        }
        self._known = earlier.topology.whole.index
        self.choices: dict[int, Any] = {}
        self._stand: list[str] = [_RUNS] * len(topology.names)
        for index in topology.order:
            self._stand[index] = self._found(index)
        self._run_what_is_needed(self._wanted(outputs))

    @property
    def taken(self) -> list[int]:
        """The nodes that are taken."""
        return [index for index, stand in enumerate(self._stand) if stand is _TAKEN]

    def runs(self, index: int) -> bool:
        """Whether a node runs, if it is reached."""
        return self._stand[index] is _RUNS

    def is_fed_anew(self, index: int) -> bool:
        """Whether something that feeds a node runs."""
        return any(self.runs(source) for source in self._topology.sources(index))

    def goes_on(self, index: int) -> bool:
        """Whether a node runs with the same arguments as before."""
        binding = self._execution.plan.steps[index].binding
        return (
            self.runs(index)
            and not self.is_fed_anew(index)
            and (binding is None or self._changed.isdisjoint(binding.used))
        )

    # How nodes stand, from those above to those below.

    def _found(self, index: int) -> str:
        topology, name = self._topology, self._topology.names[index]
        if self._is_skipped(index):
            return _SKIPPED
        step = self._execution.plan.steps[index]
        if (
            name not in self._completed
            or self.is_fed_anew(index)
            or any(edge.source not in self._known for edge in topology.incoming[index])
            or (step.binding and not self._changed.isdisjoint(step.binding.used))
            or not self._gone_inputs.isdisjoint(self._unfed(index))
            or (step.decides and not self._has_chosen(index))
        ):
            return _RUNS
        return _TAKEN

    def _unfed(self, index: int) -> set[str]:
        """The parameters that no edge feeds."""
        fed = {edge.input for edge in self._topology.incoming[index]}
        return {name for name in self._topology.nodes[index].signature.inputs if name not in fed}

    def _is_skipped(self, index: int) -> bool:
        ends = [(self._is_live(edge), edge) for edge in self._topology.incoming[index]]
        return is_skipped(self._topology.nodes[index], ends)

    def _is_live(self, edge: Edge) -> bool | None:
        """Whether an edge is live; None while that is not decided."""
        source = self._topology.index[edge.source]
        stand = self._stand[source]
        if stand is _TAKEN:
            return edge.branch is None or is_taken(self.choices.get(source), edge.branch)
        return None if stand is _RUNS else False

    def _has_chosen(self, index: int) -> bool:
        """Find the branch that a decider took; whether it is known."""
        name = self._topology.names[index]
        try:
            if name in self.earlier.results:
                choice = self._execution._choice(name, self.earlier.results[name])
            elif name in self._topology.whole.listened:
                choice = self.earlier.choices[name]
            else:
                choice = None
        except failures():  # it chose a branch that there is no longer
            return False
        self.choices[index] = choice
        return True

    # What is needed and gone, from those below to those above.

    def _wanted(self, outputs: Collection[str] | None) -> Sequence[int]:
        """The taken nodes that may make the value of the run."""
        topology = self._topology
        named = topology.sinks if outputs is None else [topology.index[name] for name in outputs]
        taken = [index for index in named if self._stand[index] is _TAKEN]
        return taken[-1:] if outputs is None else taken

    def _run_what_is_needed(self, wanted: Iterable[int]) -> None:
        todo = [index for index, stand in enumerate(self._stand) if stand is _RUNS]
        for index in wanted:
            if self._is_gone(index):
                self._run(index, todo)
        while todo:
            for source in self._lost(todo.pop()):
                self._run(source, todo)

    def _run(self, index: int, todo: list[int]) -> None:
        """Let a node run, and all that depends on it."""
        changed = [index]
        while changed:
            index = changed.pop()
            if self._stand[index] is _RUNS:
                continue
            self._stand[index] = _RUNS
            self.choices.pop(index, None)
            todo.append(index)
            for target, *_ in self._topology.successors[index]:
                if self._stand[target] is _TAKEN or (
                    self._stand[target] is _SKIPPED and not self._is_skipped(target)
                ):
                    changed.append(target)

    def _lost(self, index: int) -> Iterator[int]:
        """The taken nodes whose values a node that runs needs, and that are gone."""
        results, todo, seen = self.earlier.results, [index], {index}
        while todo:
            for edge in self._topology.incoming[todo.pop()]:
                source = self._topology.index[edge.source]
                is_taken = self._stand[source] is _TAKEN and self._is_live(edge)
                if edge.input is None or not is_taken:
                    continue
                if self._is_gone(source, edge):
                    yield source
                elif (
                    self._topology.nodes[source].type.decides
                    and source not in seen
                    and not isinstance(results[edge.source], (ConditionalReturn, SelectReturn))
                ):
                    seen.add(source)
                    todo.append(source)  # its edges carry what it was given

    def _is_gone(self, index: int, edge: Edge | None = None) -> bool:
        name, results = self._topology.names[index], self.earlier.results
        if name not in results:
            return True
        return name in self._consumed and gives_one_shot(
            edge, self._topology.nodes[index], results[name]
        )


def changed_inputs(new: Mapping[str, Any], old: Mapping[str, Any]) -> set[str]:
    """The names of the inputs that are not what they were; what cannot be compared is another."""
    names = new.keys() | old.keys()
    return {name for name in names if not _is_same(new.get(name, _NONE), old.get(name, _NONE))}


def _is_same(new: Any, old: Any) -> bool:
    if ONE_SHOT[type(new)]:
        return False
    if new is old:
        return True
    if new is _NONE or old is _NONE:
        return False
    from fast_dag.cache.keys import UnkeyableError, key_of  # for those who go on

    try:
        return key_of(new) == key_of(old)
    except UnkeyableError:
        return False


_NONE: Final = object()
