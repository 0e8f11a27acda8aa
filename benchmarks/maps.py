"""Maps next to what people write by hand: a comprehension, executors' `map`, gather with a
Semaphore."""

from __future__ import annotations

import asyncio
import math
import time
import tracemalloc
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from loops import one_loop
from timing import Row, Skip, in_turn, ratios, same_results

from fast_dag import DAG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from timing import Effort


def same(x: int) -> int:
    return x


def _mapped(func: Callable[..., object], **options: Any) -> DAG:
    dag = DAG("map")
    dag.map(func, name="f", over="x", **options)
    return dag


def map_sequential(effort: Effort) -> Iterator[Row]:
    """A function that does nothing, and a workflow of two such nodes, for each item."""
    data = list(range(effort.of(100_000, 1_000)))
    bare, with_into = _mapped(same), _mapped(same, into=sum)
    inner = DAG("inner").add_node("first", same).add_node("second", lambda first: first)
    workflow = DAG("map")
    workflow.map(inner.connect("first", "second"), name="f", over="x")

    def by_hand() -> list[int]:
        return [same(x) for x in data]

    same_results(by_hand, partial(bare.run, x=data), partial(workflow.run, x=data))
    hand, ours, into, inside = in_turn(
        by_hand,
        partial(bare.run, x=data),
        lambda: with_into.run(x=(x for x in data)),
        partial(workflow.run, x=data),
        rounds=effort.of(15, 2),
    )
    yield Row("map, sequential", ratios(ours, hand), "x comprehension", 4.0)
    yield Row("map, sequential, a generator into sum", ratios(into, hand), "x comprehension")
    each = [seconds / len(data) * 1e6 for seconds in inside]
    note = f"{_median(hand) / len(data) * 1e6:.3f} us in a comprehension"
    yield Row("map of a workflow of two nodes", each, "us an item", 1.0, note)


def map_in_threads(effort: Effort) -> Iterator[Row]:
    """A function that does nothing on two threads; 1,000 sleeps of 10 ms on 32."""
    data = list(range(effort.of(100_000, 1_000)))
    dag = _mapped(same)
    run = partial(dag.run, mode="parallel", max_workers=2)
    hand, ours = in_turn(
        lambda: [same(x) for x in data], lambda: run(x=data), rounds=effort.of(15, 2)
    )
    yield Row("map, two threads", ratios(ours, hand), "x comprehension", 5.0)
    sleeps, workers = [effort.of(0.01, 0.001)] * effort.of(1_000, 64), 32
    waits = _mapped(_sleep)
    with ThreadPoolExecutor(workers) as pool:
        bare, ours = in_turn(
            lambda: list(pool.map(_sleep, sleeps)),
            lambda: waits.run(x=sleeps, mode="parallel", max_workers=workers),
            rounds=effort.of(7, 2),
        )
    yield Row("map, sleeps on 32 threads", ratios(ours, bare), "x executor.map", 1.05)
    ideal = sleeps[0] * math.ceil(len(sleeps) / workers)
    yield Row("map, sleeps on 32 threads", [each / ideal for each in ours], "x ideal", 1.1)


def _sleep(x: float) -> None:
    time.sleep(x)


def map_in_processes(effort: Effort) -> Iterator[Row]:
    """A function that does nothing, next to `ProcessPoolExecutor.map` with the best chunk size; and
    one that computes for a millisecond."""
    try:
        import cloudpickle  # noqa: F401  of the extra `process`
    except ImportError:
        raise Skip("needs the extra `process`") from None
    from fast_dag import Workers

    data = list(range(effort.of(100_000, 1_000)))
    heavy = [effort.of(12_000, 100)] * effort.of(1_000, 20)
    dag, computes = _mapped(same), _mapped(work)
    with Workers(2) as workers, ProcessPoolExecutor(2) as pool:

        def ours(mapped: DAG, items: Sequence[int]) -> Callable[[], object]:
            return lambda: mapped.run(x=items, executor=workers)

        def bare(
            func: Callable[[int], int], items: Sequence[int], size: int
        ) -> Callable[[], list[int]]:
            return lambda: list(pool.map(func, items, chunksize=size))

        sizes = effort.of((500, 1_000, 2_000, 5_000, 10_000), (100,))
        rounds = effort.of(7, 2)
        mapped, *chunked = in_turn(
            ours(dag, data), *(bare(same, data, size) for size in sizes), rounds=rounds
        )
        best = min(chunked, key=_median)
        yield Row("map, processes", ratios(mapped, best), "x best chunks", 1.1)
        mapped, chunked_heavy = in_turn(ours(computes, heavy), bare(work, heavy, 20), rounds=rounds)
        yield Row("map, processes, 1 ms items", ratios(mapped, chunked_heavy), "x chunks", 1.1)


def work(x: int) -> int:
    total = 0
    for number in range(x):
        total += number & 7
    return total


def map_async(effort: Effort) -> Iterator[Row]:
    """Items that yield to the loop once, 100 at a time."""
    data = list(range(effort.of(10_000, 200)))
    dag = _mapped(_yields)

    async def gathered() -> list[int]:
        places = asyncio.Semaphore(100)

        async def one(x: int) -> int:
            async with places:
                return await _yields(x)

        return await asyncio.gather(*[one(x) for x in data])

    with one_loop() as run:
        bare, ours = in_turn(
            lambda: run(gathered),
            lambda: run(lambda: dag.run_async(x=data)),
            rounds=effort.of(15, 2),
        )
    yield Row("map, async", ratios(ours, bare), "x gather", 1.1)


async def _yields(x: int) -> int:
    await asyncio.sleep(0)
    return x


def map_memory(effort: Effort) -> Iterator[Row]:
    """Traced memory of many items beside their values."""
    items = effort.of(1_000_000, 10_000)
    dag, lazy = _mapped(_nothing), _mapped(_nothing, into=_counted)
    dag.run(x=[None])
    lazy.run(x=[None])
    yield Row("map, a list of results", [_peak(dag, range(items)) / items], "bytes an item", 16.0)
    peak = _peak(lazy, (x for x in range(items)))
    yield Row("map, a lazy source and into", [peak / 1e6], "MB", 2.0)


def _peak(dag: DAG, items: Iterable[int]) -> float:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        dag.run(x=items)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def _nothing(x: object) -> None: ...


def _counted(results: Iterator[object]) -> int:
    return sum(1 for _ in results)


def map_growth(effort: Effort) -> Iterator[Row]:
    """The processor time of an item among many, next to among few."""
    dag = _mapped(same)
    largest = effort.of((1_000, 100_000, 1_000_000), (100, 1_000))
    for mode in ("sequential", "parallel"):
        costs = []
        for items in largest:
            data = range(items)
            seconds = []
            for _ in range(effort.of(max(3, 100_000 // items), 1)):
                start = time.process_time()
                dag.run(x=data, mode=mode)
                seconds.append(time.process_time() - start)
            costs.append(min(seconds) / items)
        worst = max(costs[1:]) / costs[0]
        yield Row(f"map, {mode}, an item of many", [worst], f"x of {largest[0]:,}", 1.5)


def map_first_results(effort: Effort) -> Iterator[Row]:
    """Five results of an endless source, which `into` returns with: nothing runs ahead for long."""
    dag = _mapped(same, into=_five)
    for mode in ("sequential", "parallel"):
        seconds = []
        for _ in range(effort.of(50, 2)):
            start = time.perf_counter()
            dag.run(x=count(), mode=mode)
            seconds.append((time.perf_counter() - start) * 1e3)
        yield Row(f"map, {mode}, five of an endless source", seconds, "ms")


def _five(results: Iterator[int]) -> list[int]:
    return [next(results) for _ in range(5)]


def _median(seconds: Sequence[float]) -> float:
    return sorted(seconds)[len(seconds) // 2]


BENCHMARKS = (
    map_sequential,
    map_in_threads,
    map_in_processes,
    map_async,
    map_memory,
    map_growth,
    map_first_results,
)
