"""Building a graph and running it for the first time, from 100 to 100,000 nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphs import chain, dag_of, layered, straight_line
from timing import Row, Side, in_turn, per_node, ratios

from fast_dag import DAG

if TYPE_CHECKING:
    from collections.abc import Iterator

    from graphs import Calls
    from timing import Effort


def stages(work: str, calls: Calls, rounds: int) -> Iterator[Row]:
    """What a node costs in each stage of a graph's life, next to L of a chain of 1,000: how fast
    the machine is. To be linear is to cost the same at every size."""
    line = Side(straight_line(chain(1_000)))
    kept = dag_of(calls)
    build = Side(dag_of, lambda: calls)
    first = Side(DAG.run, lambda: dag_of(calls))
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
        yield from stages(f"chain of {nodes:,}", chain(nodes), rounds)


def layered_growth(effort: Effort) -> Iterator[Row]:
    """The same of layers of 100 nodes with two inputs each, so nearly two edges a node."""
    for depth, rounds in effort.of(((10, 50), (100, 15)), ((10, 2),)):
        yield from stages(f"layered {depth} x 100", layered(depth, 100), rounds)


BENCHMARKS = (growth, layered_growth)
