"""Worker threads, their start included, next to a loop by hand, bare threads and bare sleeps."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Thread
from time import sleep
from typing import TYPE_CHECKING

from graphs import chain, dag_of, independent, layered, measured_loop, side_by_side
from timing import Row, in_turn, per_node, ratios, same_results

from fast_dag import DAG

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from graphs import Calls
    from timing import Effort


def _next_to_m(work: str, calls: Calls, target: float | None, rounds: int) -> Row:
    ours = partial(dag_of(calls).run, mode="parallel")
    by_hand = measured_loop(calls)
    same_results(ours, by_hand)
    engine, loop = in_turn(ours, by_hand, rounds=rounds)
    noted = f"{per_node('ours', engine, len(calls))}, {per_node('M', loop, len(calls))}"
    return Row(work, ratios(engine, loop), "x M", target, f"us a node: {noted}")


def thread_costs(effort: Effort) -> Iterator[Row]:
    """A chain of 1,000, two of 500 and layers of 10,000 nodes that compute next to nothing, next to
    M. A chain alone has nothing to run beside, so that it needs no other thread."""
    yield _next_to_m("threads, chain of 1,000", chain(1_000), 4 / 2.1, effort.of(100, 2))
    two = side_by_side(chain(500))
    yield _next_to_m("threads, two chains of 500", two, None, effort.of(100, 2))
    depth = effort.of(100, 10)
    work = f"threads, layered {depth} x 100"
    yield _next_to_m(work, layered(depth, 100), 8 / 2.1, effort.of(20, 2))


def irregular_sleeps(effort: Effort) -> Iterator[Row]:
    """8 chains of 4 nodes that sleep 10 to 80 ms, on 8 workers, next to the sleeps of the longest
    chain in a plain loop."""
    milliseconds = effort.of(1.0, 0.1)
    chains = [[10 + (29 * row + 37 * place) % 71 for place in range(4)] for row in range(8)]
    waits = [[each * milliseconds / 1e3 for each in sleeps] for sleeps in chains]
    dag = _chains_of_sleeps(waits)
    longest = max(waits, key=sum)
    ours, path = in_turn(
        partial(dag.run, mode="parallel", max_workers=8),
        lambda: deque(map(sleep, longest), maxlen=0),
        rounds=effort.of(15, 2),
    )
    work = "threads, irregular sleeps"
    yield Row(work, ratios(ours, path), "x critical path", 1.03)


def _chains_of_sleeps(waits: Sequence[Sequence[float]]) -> DAG:
    dag = DAG("sleeps")
    for row, chained in enumerate(waits):
        for place, seconds in enumerate(chained):
            dag.add_node(f"n{row}_{place}", partial(_wait, seconds))
            if place:
                dag.connect(f"n{row}_{place - 1}", f"n{row}_{place}", input=False)
    return dag


def _wait(seconds: float) -> None:
    sleep(seconds)


def equal_sleeps(effort: Effort) -> Iterator[Row]:
    """32 nodes that sleep 50 ms on 32 workers, started for the run or warm in an executor, next to
    one such sleep; bare threads and a bare executor are measured along."""
    wait = partial(_wait, effort.of(0.05, 0.02))
    dag = dag_of(independent(32, wait))

    def bare_threads() -> None:
        threads = [Thread(target=wait) for _ in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    with ThreadPoolExecutor(32) as pool:

        def bare_executor() -> None:
            for future in [pool.submit(wait) for _ in range(32)]:
                future.result()

        own, warm, bare, bare_warm, ideal = in_turn(
            partial(dag.run, mode="parallel", max_workers=32),
            partial(dag.run, mode="parallel", executor=pool, max_workers=32),
            bare_threads,
            bare_executor,
            wait,
            rounds=effort.of(30, 2),
        )
    yield Row("32 sleeps, own threads", ratios(own, ideal), "x ideal", 1.25)
    yield Row("32 sleeps, warm executor", ratios(warm, ideal), "x ideal", 1.1)
    yield Row("32 sleeps, bare threads", ratios(bare, ideal), "x ideal")
    yield Row("32 sleeps, bare executor", ratios(bare_warm, ideal), "x ideal")


BENCHMARKS = (thread_costs, irregular_sleeps, equal_sleeps)
