"""Worker processes, next to bare processes, pools of others, and sequential runs."""

from __future__ import annotations

import gc
import mmap
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from graphs import Call, chain, dag_of, increment, one
from timing import Row, Skip, in_turn, ratios

from fast_dag import Workers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Executor

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


def warm(effort: Effort) -> Iterator[Row]:
    """Runs of three small nodes on warm Workers, next to the same three calls on warm pools of
    others. In the chain each call waits for the one before it; else all are submitted at once."""
    if find_spec("cloudpickle") is None:
        raise Skip("cloudpickle is not installed")
    in_line = dag_of(chain(3))
    at_once = dag_of([Call(f"n{index}", one) for index in range(3)])

    def chained(pool: Executor) -> int:
        value = pool.submit(one).result()
        for _ in range(2):
            value = pool.submit(increment, value).result()
        return value

    def fanned(pool: Executor) -> list[int]:
        return [each.result() for each in [pool.submit(one) for _ in range(3)]]

    rounds = effort.of(40, 2)
    with Workers(2) as workers:
        for name, pool in _other_pools():
            with pool:
                fanned(pool)
                ours, theirs = in_turn(
                    partial(in_line.run, executor=workers), partial(chained, pool), rounds=rounds
                )
                target = 1.3 if name == "ProcessPoolExecutor" else None
                yield Row("warm Workers, chain of 3", ratios(ours, theirs), f"x {name}", target)
                ours, theirs = in_turn(
                    partial(at_once.run, executor=workers), partial(fanned, pool), rounds=rounds
                )
                yield Row("warm Workers, 3 at once", ratios(ours, theirs), f"x {name}", target)


def _other_pools() -> Iterator[tuple[str, Executor]]:
    methods = multiprocessing.get_all_start_methods()
    start: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    yield "ProcessPoolExecutor", ProcessPoolExecutor(2, start)
    if find_spec("loky") is not None:
        import loky

        yield "loky", loky.get_reusable_executor(2)


def ones(size: int) -> Any:
    import numpy as np

    return np.ones(size)


def scaled(array: Any) -> Any:
    return array * 1.5


def large(effort: Effort) -> Iterator[Row]:
    """An array of 80 MB through 5 nodes on warm Workers, next to a sequential run."""
    if find_spec("cloudpickle") is None or find_spec("numpy") is None:
        raise Skip("cloudpickle or numpy is not installed")
    nodes = dag_of(chain(5, scaled, partial(ones, effort.of(10_000_000, 500_000))))
    with Workers(2) as workers:
        warm_ones = partial(nodes.run, executor=workers)
        ours, alone = in_turn(warm_ones, nodes.run, rounds=effort.of(9, 1))
    yield Row("warm Workers, 80 MB through 5 nodes", ratios(ours, alone), "x sequential", 3)


def growth(effort: Effort) -> Iterator[Row]:
    """What many tiny runs on one pool leave behind here."""
    if find_spec("cloudpickle") is None or not STATM.exists():
        raise Skip("cloudpickle is not installed, or the system does not tell what memory is used")
    tiny, runs = dag_of(chain(1)), effort.of(10_000, 50)
    with Workers(1) as workers:

        def many() -> int:
            for _ in range(runs // 2):
                tiny.run(executor=workers)
            gc.collect()
            return int(STATM.read_text(encoding="ascii").split()[1]) * mmap.PAGESIZE

        before, after = many(), many()
    yield Row(f"warm Workers, {runs:,} runs", [(after - before) / runs], "bytes a run", 100)


STATM = Path("/proc/self/statm")

BENCHMARKS = (processes, warm, large, growth)
