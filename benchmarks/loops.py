"""Async nodes on the caller's event loop, next to `gather` and to bare awaits on the same loop."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from graphs import chain, dag_of, independent
from timing import Row, added, in_turn, per_node, ratios, same_results

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from timing import Effort

    Step = Callable[[int], Coroutine[Any, Any, int]]

_NODES = 1_000


async def suspends() -> None:
    await asyncio.sleep(0)


async def start() -> int:
    return 1


async def increment(x: int) -> int:
    return x + 1


async def increment_and_suspend(x: int) -> int:
    await asyncio.sleep(0)
    return x + 1


@contextmanager
def one_loop() -> Iterator[Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]]:
    """Runs what a function returns to its end, always on the same loop."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        yield lambda make: loop.run_until_complete(make())


def loop_independent(effort: Effort) -> Iterator[Row]:
    """1,000 independent nodes that suspend once, next to `gather`."""
    dag = dag_of(independent(_NODES, suspends))

    async def gathered() -> None:
        await asyncio.gather(*[suspends() for _ in range(_NODES)])

    with one_loop() as run:
        ours, bare = in_turn(
            partial(run, dag.run_async), partial(run, gathered), rounds=effort.of(60, 2)
        )
    note = f"us a node: {per_node('ours', ours, _NODES)}, {per_node('gather', bare, _NODES)}"
    yield Row("asyncio, 1,000 independent", ratios(ours, bare), "x gather", 1.2, note)


def _chained(step: Step, rounds: int) -> tuple[list[float], list[float]]:
    dag = dag_of(chain(_NODES, step, start))

    async def awaited() -> int:
        value = await start()
        for _ in range(_NODES - 1):
            value = await step(value)
        return value

    with one_loop() as run:
        ours, bare = partial(run, dag.run_async), partial(run, awaited)
        same_results(ours, bare)
        engine, loop = in_turn(ours, bare, rounds=rounds)
    return engine, loop


def loop_chains(effort: Effort) -> Iterator[Row]:
    """Chains of 1,000 nodes that suspend or do not, next to a loop that awaits the same."""
    for work, step, target in (
        ("asyncio, chain that suspends", increment_and_suspend, 2.0),
        ("asyncio, chain that does not", increment, None),
    ):
        ours, bare = _chained(step, effort.of(60, 2))
        note = f"us a node: {per_node('ours', ours, _NODES)}, {per_node('await', bare, _NODES)}"
        if target is not None:
            yield Row(work, ratios(ours, bare), "x await loop", target, note)
        else:
            yield Row(f"{work}: added", added(ours, bare, _NODES), "us a node", 1.5, note)


BENCHMARKS = (loop_independent, loop_chains)
