"""The hot paths next to G, in a few seconds and with bounds that are generous: noise stays within
them, and what makes a path twice or three times as slow does not. The tests run it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphs import cached_dag, chain, dag_of, hooked_dag, keyword_loop, layered
from loops import increment, one_loop, start
from timing import Row, in_turn, ratios, same_results

from fast_dag import FSM, FSMReturn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from timing import Effort

_NODES = 1_000


def hot_paths(effort: Effort) -> Iterator[Row]:
    """What a node or a transition costs on each hot path, next to a node of G."""
    calls = chain(_NODES)
    wide = layered(10, 100)
    plain = dag_of(calls)
    asynchronous = dag_of(chain(_NODES, increment, start))
    with one_loop() as run:
        paths = {
            "sequential": (plain.run, 1.5),
            "sequential, two inputs": (dag_of(wide).run, 1.5),
            "threads": (lambda: plain.run(mode="parallel", max_workers=2), 12.0),
            "asyncio": (lambda: run(asynchronous.run_async), 8.0),
            "a retry policy": (dag_of(calls, retry=2).run, 8.0),
            "a hook": (hooked_dag(calls).run, 12.0),
            "a cache hit": (cached_dag(calls).run, 16.0),
            "build": (lambda: dag_of(calls), 20.0),
            "a machine": (_machine, 6.0),
        }
        by_hand = keyword_loop(calls)
        same_results(by_hand, *(path for name, (path, _) in paths.items() if name in _LIKE_CHAIN))
        sides = [by_hand, *(path for path, _ in paths.values())]
        loop, *taken = in_turn(*sides, rounds=effort.of(30, 9))
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
