"""Memory that a definition with its plan takes, and what each run takes beside the values."""

from __future__ import annotations

import gc
import tracemalloc
from typing import TYPE_CHECKING, Any

from graphs import chain, dag_of, layered
from timing import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from graphs import Calls
    from timing import Effort


def passed_on(x: int) -> int:
    """Makes no value of its own, so that what is counted is the engine's."""
    return x


def taken(work: str, make: Callable[[], Calls], rounds: int) -> Iterator[Row]:
    """Bytes of traced memory a node. A run is kept as its caller keeps it, with its results and
    times; definition and plan are all the rest, the names included."""
    definitions, runs = [], []
    for _ in range(rounds):
        tracemalloc.start()
        dag = dag_of(make())
        kept: list[Any] = [dag.execute()]
        before = _traced()
        kept.append(dag.execute())
        a_run = _traced() - before
        runs.append(a_run / len(dag))
        definitions.append((before - a_run) / len(dag))
        tracemalloc.stop()
    yield Row(f"{work}: definition and plan", definitions, "bytes a node", 1_500.0)
    yield Row(f"{work}: a run", runs, "bytes a node", 300.0)


def _traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def memory(effort: Effort) -> Iterator[Row]:
    """A chain and layers of 10,000 nodes."""
    depth = effort.of(100, 10)
    rounds = effort.of(3, 1)
    yield from taken(f"memory, chain of {depth * 100:,}", lambda: _chain(depth * 100), rounds)
    yield from taken(f"memory, layered {depth} x 100", lambda: layered(depth, 100), rounds)


def _chain(nodes: int) -> Calls:
    return chain(nodes, passed_on)


BENCHMARKS = (memory,)
