"""Which results are still needed, where a run keeps its outputs only."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from fast_dag.plan.topology import Topology


class Keeping:
    """Counts, for each node, those that will take its result: told which nodes have ended, it
    answers which results nobody takes any more.

    A node lets go of what it was given when it completed, or was left out by a choice. A decider
    keeps hold of that until nobody takes its own result, because its branches may carry it. What a
    failed, cancelled or unreached node would take stays.

    `kept` are the nodes whose results stay in any case.

    >>> from fast_dag import DAG
    >>> dag = DAG("demo").add_node("a", lambda: 1).add_node("b", lambda a: a).connect("a", "b")
    >>> keeping = Keeping(dag._topology(), kept={1})
    >>> keeping.ended(0), keeping.ended(1)
    ([], [0])
    """

    __slots__ = ("_ended", "_kept", "_left", "_nodes", "_sources")

    def __init__(self, topology: Topology, kept: Collection[int]) -> None:
        self._nodes = topology.nodes
        self._kept = kept
        self._ended = [False] * len(topology.nodes)
        self._left = [0] * len(topology.nodes)
        self._sources: list[list[int]] = []
        for edges in topology.incoming:
            sources = [
                topology.index[edge.source]
                for edge in edges
                if edge.input is not None and edge.source in topology.index
            ]
            self._sources.append(sources)
            for source in sources:
                self._left[source] += 1

    def ended(self, index: int) -> list[int]:
        """A node completed, or was left out by a choice: the nodes whose results nobody takes any
        more."""
        self._ended[index] = True
        free: list[int] = []
        todo = []
        if not self._left[index]:
            free.append(index)
        if not self._left[index] or not self._nodes[index].type.decides:
            todo.append(index)
        while todo:
            for source in self._sources[todo.pop()]:
                self._left[source] -= 1
                if not self._left[source] and self._ended[source]:
                    free.append(source)
                    if self._nodes[source].type.decides:
                        todo.append(source)
        return [each for each in free if each not in self._kept]
