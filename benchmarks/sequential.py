"""Sequential runs of a compiled graph, with results and node times on, next to the same calls made
by hand."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from graphs import (
    Call,
    cached_dag,
    chain,
    dag_of,
    fan,
    hooked_dag,
    increment,
    keyword_loop,
    layered,
    measured_loop,
    prepared_pairs,
    straight_line,
)
from timing import Row, added, in_turn, per_node, ratios, same_results

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from graphs import Calls
    from timing import Effort


def steady(work: str, calls: Calls, rounds: int) -> Iterator[Row]:
    """A graph that has run before, next to L, P, G and M."""
    hands = [make(calls) for make in (straight_line, prepared_pairs, keyword_loop, measured_loop)]
    ours = dag_of(calls).run
    same_results(ours, *hands)
    engine, *others = in_turn(ours, *hands, rounds=rounds)
    line, pairs, _, _ = others
    noted = [
        per_node(name, seconds, len(calls))
        for name, seconds in zip(("ours", "L", "P", "G", "M"), (engine, *others), strict=True)
    ]
    yield Row(work, ratios(engine, line), "x L", 6.0, f"us a node: {', '.join(noted)}")
    yield Row(work, ratios(engine, pairs), "x P", 0.9)


def chain_steady(effort: Effort) -> Iterator[Row]:
    """A chain of 1,000 nodes."""
    yield from steady("chain of 1,000", chain(1_000), effort.of(300, 3))


def layered_steady(effort: Effort) -> Iterator[Row]:
    """100 layers of 100 nodes, each of which takes two results of the layer above."""
    yield from steady("layered 100 x 100", layered(100, 100), effort.of(60, 2))


def fan_steady(effort: Effort) -> Iterator[Row]:
    """From one node to 1,000, and from these to one, whose call takes 1,000 arguments."""
    calls = fan(1_000)
    ours, line = dag_of(calls).run, straight_line(calls)
    same_results(ours, line)
    engine, by_hand = in_turn(ours, line, rounds=effort.of(300, 3))
    note = f"us a node: {per_node('ours', engine, 1_002)}, {per_node('L', by_hand, 1_002)}"
    yield Row("fan-out 1 -> 1,000 -> 1", ratios(engine, by_hand), "x L", 8.0, note)


def decided_steady(effort: Effort) -> Iterator[Row]:
    """A chain of 1,000 nodes and a condition at its end, so that a schedule is asked after each."""
    calls = chain(1_000)
    dag = dag_of(calls)
    is_odd = dag.condition(name="is_odd")(lambda x: x % 2)
    dag.add_node("odd", increment).add_node("even", increment)
    dag.connect(calls[-1].name, is_odd)
    dag.connect(is_odd.on_true, "odd").connect(is_odd.on_false, "even")
    line = straight_line([*calls, Call("end", increment, (calls[-1].name,))])
    same_results(dag.run, line)
    engine, by_hand = in_turn(dag.run, line, rounds=effort.of(100, 3))
    note = f"us a node: {per_node('ours', engine, 1_002)}, {per_node('L', by_hand, 1_001)}"
    yield Row("chain of 1,000 and a condition", ratios(engine, by_hand), "x L", note=note)


def body_of_20_us(effort: Effort) -> Iterator[Row]:
    """What the engine adds to a node that computes for 20 us, and what P and M add: such a body
    leaves the processor's caches and predictions to others."""
    work = range(round(1_000 * 20e-6 / _seconds(lambda: sum(range(1_000)))))

    def compute(x: int) -> int:
        return x + sum(work) % 7

    calls = chain(effort.of(1_000, 100), compute)
    ours = dag_of(calls).run
    hands = [make(calls) for make in (straight_line, prepared_pairs, measured_loop)]
    same_results(ours, *hands)
    engine, line, pairs, measured = in_turn(ours, *hands, rounds=effort.of(60, 3))
    note = f"us a node: {per_node('L', line, len(calls))}"
    yield Row("a 20 us body: added", added(engine, line, len(calls)), "us a node", 0.6, note)
    yield Row("a 20 us body: added by P", added(pairs, line, len(calls)), "us a node")
    yield Row("a 20 us body: added by M", added(measured, line, len(calls)), "us a node")


def _seconds(call: Callable[[], object]) -> float:
    """How long a call takes where nothing disturbs it."""
    taken = []
    for _ in range(200):
        started = perf_counter()
        call()
        taken.append(perf_counter() - started)
    return min(taken)


# What surrounds each call.


def around_each_node(effort: Effort) -> Iterator[Row]:
    """What one retry policy, hook, cache hit or timeout on every node of a chain of 1,000 adds to
    that chain."""
    calls = chain(1_000)
    bare = dag_of(calls)
    retried = dag_of(calls, retry=2)
    hooked = hooked_dag(calls)
    cached = cached_dag(calls)
    same_results(bare.run, retried.run, hooked.run, cached.run)
    named = {"a retry policy": retried, "a hook": hooked, "a cache hit": cached}
    sides = [bare.run, *(dag.run for dag in named.values())]
    plain, *asked = in_turn(*sides, rounds=effort.of(100, 2))
    for name, seconds in zip(named, asked, strict=True):
        yield Row(f"{name} on every node: added", added(seconds, plain, 1_000), "us a node", 2.0)
    assert cached.context.metrics["cache_hits"] == len(calls)

    watched = dag_of(calls, timeout=60)
    same_results(bare.run, watched.run)
    plain, asked_for = in_turn(bare.run, watched.run, rounds=effort.of(30, 2))
    yield Row("a timeout on every node: added", added(asked_for, plain, 1_000), "us a node")


BENCHMARKS = (
    chain_steady,
    layered_steady,
    fan_steady,
    decided_steady,
    body_of_20_us,
    around_each_node,
)
