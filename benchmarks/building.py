"""Building a graph and running it for the first time, from 100 to 100,000 nodes."""

from __future__ import annotations

from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any

from graphs import chain, dag_of, layered, straight_line
from timing import Row, Side, in_turn, per_node, ratios

from fast_dag import DAG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from graphs import Calls
    from timing import Effort


def stages(work: str, made: Callable[[], Calls], rounds: int) -> Iterator[Row]:
    """What a node costs in each stage of a graph's life, next to L of a chain of 1,000: how fast
    the machine is. To be linear is to cost the same at every size. Each round has calls `made`
    for it."""
    calls = made()
    line = Side(straight_line(chain(1_000)))
    kept = dag_of(calls)
    build = Side(dag_of, made)
    first = Side(DAG.run, lambda: dag_of(made()))
    unit, *taken = in_turn(line, build, first, Side(kept.run), rounds=rounds, collecting=True)
    named = ("build", 150.0), ("first run", 125.0), ("further run", None)
    for (stage, target), seconds in zip(named, taken, strict=True):
        a_node = [each * 1_000 / len(calls) for each in seconds]
        note = f"us a node: {per_node('ours', seconds, len(calls))}, {per_node('L', unit, 1_000)}"
        yield Row(f"{work}: {stage}", ratios(a_node, unit), "x L", target, note)


def growth(effort: Effort) -> Iterator[Row]:
    """Chains of 100 to 100,000 nodes: define and connect; validate, compile and run; run again."""
    for nodes, rounds in effort.of(
        ((100, 100), (1_000, 50), (10_000, 15), (100_000, 5)), ((100, 2), (1_000, 2))
    ):
        yield from stages(f"chain of {nodes:,}", partial(chain, nodes), rounds)


def layered_growth(effort: Effort) -> Iterator[Row]:
    """The same of layers of 100 nodes with two inputs each, so nearly two edges a node."""
    for depth, rounds in effort.of(((10, 50), (100, 15)), ((10, 2),)):
        yield from stages(f"layered {depth} x 100", partial(layered, depth, 100), rounds)


def own_functions(effort: Effort) -> Iterator[Row]:
    """A chain in which no two nodes have the same function, so that each is read."""

    def made() -> Calls:
        return [call._replace(func=_copy(call.func)) for call in chain(1_000)]

    yield from stages("chain of 1,000 functions", made, effort.of(50, 2))


def _copy(func: Any) -> Any:
    return FunctionType(func.__code__, func.__globals__, func.__name__)


BENCHMARKS = (growth, layered_growth, own_functions)
