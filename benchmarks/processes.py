"""Worker processes, next to bare processes of the same start method that import the same."""

from __future__ import annotations

import multiprocessing
from functools import partial
from importlib.util import find_spec
from time import perf_counter
from typing import TYPE_CHECKING, Any

from graphs import Call, dag_of
from timing import Row, Skip, in_turn, ratios

if TYPE_CHECKING:
    from collections.abc import Iterator

    from timing import Effort


def compute(steps: int) -> int:
    total = 0
    for step in range(steps):
        total += step & 3
    return total


def compute_twice(steps: int) -> None:
    """What a bare process does, with what a worker process has imported."""
    import cloudpickle  # noqa: F401

    from fast_dag.drive import processes  # noqa: F401

    compute(steps)
    compute(steps)


def _steps_of(seconds: float) -> int:
    """As many steps as take that long here and now."""
    started = perf_counter()
    compute(1_000_000)
    return round(1_000_000 * seconds / (perf_counter() - started))


def processes(effort: Effort) -> Iterator[Row]:
    """4 nodes of pure Python that take 0.5 s each on 2 worker processes, next to 2 bare processes
    that make 2 of these calls each; starting and ending them included on both sides."""
    if find_spec("cloudpickle") is None:
        raise Skip("cloudpickle is not installed")
    steps = _steps_of(effort.of(0.5, 0.02))
    node = partial(compute, steps)
    dag = dag_of([Call(f"n{index}", node) for index in range(4)])
    methods = multiprocessing.get_all_start_methods()
    start: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")

    def bare() -> None:
        workers = [start.Process(target=compute_twice, args=(steps,)) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    ours, by_hand = in_turn(
        partial(dag.run, mode="process", max_workers=2), bare, rounds=effort.of(7, 1)
    )
    yield Row("processes, 4 nodes of 0.5 s on 2", ratios(ours, by_hand), "x bare", 1.1)


BENCHMARKS = (processes,)
