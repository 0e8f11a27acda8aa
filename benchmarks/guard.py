"""The hot paths next to G, in a few seconds and with bounds that are generous: noise stays within
them, and what makes a path twice or three times as slow does not. `.ci/run` prints it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphs import cached_dag, chain, dag_of, hooked_dag, keyword_loop, layered, side_by_side
from loops import increment, one_loop, start
from timing import Row, in_turn, ratios, same_results

from fast_dag import FSM, FSMReturn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from timing import Effort

_NODES = 1_000


def hot_paths(effort: Effort) -> Iterator[Row]:
    """What a node or a transition costs on each hot path, next to a node of G."""
    calls, halves = chain(_NODES), side_by_side(chain(_NODES // 2))
    plain, two, wide = dag_of(calls), dag_of(halves), dag_of(layered(10, 100))
    awaited = dag_of(chain(_NODES, increment, start))
    awaited_two = dag_of(side_by_side(chain(_NODES // 2, increment, start)))
    with one_loop() as run:
        paths = {
            "sequential": (plain.run, 1.2),
            "sequential, two inputs": (wide.run, 1.5),
            "threads": (lambda: plain.run(mode="parallel"), 1.2),
            "threads, two chains": (lambda: two.run(mode="parallel", max_workers=2), 16.0),
            "threads, two inputs": (lambda: wide.run(mode="parallel", max_workers=2), 25.0),
            "asyncio": (lambda: run(awaited.run_async), 4.0),
            "asyncio, two chains": (lambda: run(awaited_two.run_async), 8.0),
            "a retry policy": (dag_of(calls, retry=2).run, 4.0),
            "a hook": (hooked_dag(calls).run, 6.0),
            "a cache hit": (cached_dag(calls).run, 10.0),
            "build": (lambda: dag_of(calls), 16.0),
            "a machine": (_machine, 4.0),
        }
        by_hand = keyword_loop(calls)
        same_results(by_hand, *(path for name, (path, _) in paths.items() if name in _LIKE_CHAIN))
        sides = [by_hand, *(path for path, _ in paths.values())]
        loop, *taken = in_turn(*sides, rounds=effort.of(30, 2))
    for (work, (_, bound)), seconds in zip(paths.items(), taken, strict=True):
        yield Row(work, ratios(seconds, loop), "x G", bound)


_LIKE_CHAIN = "sequential", "threads", "asyncio", "a retry policy", "a hook", "a cache hit"


def _machine() -> int:
    """As many transitions as the chain has nodes."""
    result: int = _RING.run(count=0)
    return result


_RING = FSM("ring", initial_state="on", max_cycles=2 * _NODES)


@_RING.state
def on(count: int) -> FSMReturn:
    return FSMReturn("off", count + 1, stop=count == _NODES)


@_RING.state
def off(count: int) -> FSMReturn:
    return FSMReturn("on", count + 1, stop=count == _NODES)


BENCHMARKS = (hot_paths,)
