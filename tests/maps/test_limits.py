"""How many items are inside at once, and who goes first: never more than the bounds."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import DAG, Limits
from tests.concurrency.support import wait_for
from tests.patience import LONG
from tests.ways import AT_ONCE, EXECUTE, HERE, mostly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

here = pytest.mark.parametrize("way", mostly(HERE, but={"async", "executor"}))


class Inside:
    """Fails if more are inside at once than there may be."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.seen = 0
        self._now = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self._now += 1
            self.seen = max(self.seen, self._now)
            assert self._now <= self.most, f"{self._now} of {self.most}"

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._now -= 1


def functions(inside: Inside) -> dict[str, Callable[[int], Any]]:
    def work(x: int) -> int:
        with inside:
            if x % 10 == 0:
                threading.Event().wait(0.001)
            return x

    async def work_async(x: int) -> int:
        with inside:
            await asyncio.sleep(0)
            return x

    return {"sync": work, "async": work_async, "both": lambda x: work_async(x)}


kinds = pytest.mark.parametrize("kind", ["sync", "async", "both"])
sources = pytest.mark.parametrize("source", [range, lambda n: iter(range(n))], ids=["list", "lazy"])


@pytest.mark.one_in(4)
@here
@kinds
@sources
@pytest.mark.parametrize("options", [{}, {"retry": 1}, {"into": list}], ids=str)
def test_max_concurrency_bounds_one_map(
    way: str, kind: str, source: Any, options: dict[str, Any]
) -> None:
    inside = Inside(3)
    dag = DAG("bounded").add_node(
        "f", functions(inside)[kind], over="x", max_concurrency=3, **options
    )
    run = EXECUTE[way](dag, x=source(100))
    assert not run.errors
    assert run.value == [*range(100)]


@pytest.mark.parametrize("way", ["parallel", "async", "run_async"])
@kinds
def test_max_workers_bounds_all_maps_and_nodes_of_a_run(way: str, kind: str) -> None:
    inside = Inside(2)
    func = functions(inside)[kind]
    dag = DAG("bounded")
    for name in ("f", "g"):
        dag.add_node(name, func, over="x")
    for number in range(10):
        dag.add_node(f"n{number}", lambda x: func(1))
    if kind == "async":
        dag = DAG("bounded").add_node("f", func, over="x").add_node("g", func, over="x")
    run = EXECUTE[way](dag, x=list(range(60)), max_workers=2)
    assert not run.errors
    assert inside.seen <= 2


@here
@kinds
def test_units_are_taken_for_each_running_item(way: str, kind: str) -> None:
    inside, limits = Inside(2), Limits(db=2)
    func = functions(inside)[kind]
    dag = DAG("limited", limits=limits)
    dag.add_node("f", func, over="x", uses="db").add_node("g", func, over="x", uses="db")
    run = EXECUTE[way](dag, x=range(40))
    assert not run.errors
    assert (run["f"], run["g"]) == ([*range(40)], [*range(40)])


@here
@pytest.mark.parametrize("on_error", ["fail", "keep", "drop"])
def test_units_are_given_back_however_items_end(way: str, on_error: str) -> None:
    limits = Limits(db=2)
    dag = DAG("limited", limits=limits)
    dag.add_node("f", lambda x: 1 / (x % 3), over="x", uses="db", on_error=on_error, retry=1)
    dag.add_node("g", lambda x: x, over="x", uses={"db": 2}, into=next)
    EXECUTE[way](dag, x=range(20), error_strategy="continue")  # the fixture counts the units


@here
def test_units_for_nodes_of_mapped_workflows(way: str) -> None:
    inside = Inside(2)
    inner = DAG("inner").add_node("work", functions(inside)["sync"], uses="db")
    inner.add_node("then", lambda work: work).connect("work", "then")
    dag = DAG("outer", limits=Limits(db=2))
    dag.map(inner, name="f", over="x")
    assert EXECUTE[way](dag, x=range(30)).value == [*range(30)]


@here
def test_two_items_of_a_rendezvous_are_inside_at_once_where_there_are_two_places(way: str) -> None:
    if way == "sequential":
        pytest.skip("one after the other")
    barrier = threading.Barrier(2)
    options: dict[str, Any] = {"max_concurrency": 2, "timeout": 60}  # so that they travel alone
    dag = DAG("pairs").add_node("f", lambda x: barrier.wait(LONG) >= 0, over="x", **options)
    assert EXECUTE[way](dag, x=range(8)).value == [True] * 8


@pytest.mark.parametrize("way", AT_ONCE)
def test_two_endless_maps_and_nodes_do_not_starve_each_other(way: str) -> None:
    node_ran, other = threading.Event(), threading.Event()

    def endless(event: threading.Event) -> Iterator[int]:
        number = 0
        while not event.is_set():
            yield number
            number += 1

    dag = DAG("fair")
    dag.add_node("a", lambda x: x, over="x", into=lambda results: sum(1 for _ in results))
    dag.add_node("b", lambda y: other.set(), over="y", into=lambda results: sum(1 for _ in results))
    dag.add_node("before", lambda: wait_for(other))
    dag.add_node("node", lambda before: node_ran.set()).connect("before", "node")
    options = {} if way == "executor" else {"max_workers": 2}
    run = EXECUTE[way](dag, x=endless(node_ran), y=endless(node_ran), **options)
    assert run.status == "completed"


@pytest.mark.parametrize("way", AT_ONCE)
def test_many_waiting_outer_items_hold_no_slots(way: str) -> None:
    inner = DAG("inner").add_node("leaf", lambda x: x, over="x")
    middle = DAG("middle").add_node("inner", inner, over="x")
    dag = DAG("outer").add_node("middle", middle, over="x")
    value = [[[1, 2], [3]], [[4]], [], [[], [5]]]
    options = {} if way == "executor" else {"max_workers": 1}
    assert EXECUTE[way](dag, x=value, **options).value == value


@pytest.mark.parametrize("way", AT_ONCE)
def test_of_a_mapped_workflow_as_many_items_are_in_progress_as_there_are_places(way: str) -> None:
    inside = Inside(2)
    held: list[Any] = []

    def begin(x: int) -> int:
        inside.__enter__()
        held.append(x)
        return x

    def end(begin: int) -> int:
        inside.__exit__()
        return begin

    inner = DAG("inner").add_node("begin", begin, retry=1).add_node("end", end, retry=1)
    inner.connect("begin", "end")
    dag = DAG("outer")
    dag.map(inner, name="f", over="x", max_concurrency=2)
    run = EXECUTE[way](dag, x=range(20))
    assert not run.errors
    assert run.value == [*range(20)]


@pytest.mark.parametrize("way", ["parallel", "async", "run_async"])
def test_a_node_of_higher_priority_goes_before_the_items_that_wait(way: str) -> None:
    order: list[Any] = []
    begun = threading.Event()

    def f(x: int) -> None:
        order.append(x)
        begun.set()
        threading.Event().wait(0.001)

    dag = DAG("first")
    dag.add_node("f", f, over="x", retry=1)
    dag.add_node("gate", lambda: None, priority=9)
    dag.add_node("urgent", lambda gate: order.append("urgent"), priority=9).connect(
        "gate", "urgent"
    )
    EXECUTE[way](dag, x=range(50), max_workers=1)
    assert order.index("urgent") <= 3


def test_an_item_that_waits_for_its_next_attempt_keeps_no_other_from_starting() -> None:
    begun = threading.Event()

    def f(x: int) -> None:
        if x == 0:
            raise LookupError(x)
        begun.set()

    async def main() -> bool:
        dag = DAG("waits")
        dag.map(f, retry=1, retry_delay=2 * LONG)
        task = asyncio.create_task(dag.run_async(x=[0, 1], max_workers=1))
        has_begun = await asyncio.to_thread(begun.wait, LONG)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return has_begun

    assert asyncio.run(main())


@pytest.mark.parametrize("way", ["parallel", "run_async", "one thread"])
def test_items_that_are_workflows_of_fewer_nodes_have_their_priority(way: str) -> None:
    """Their number is none of a node inside."""
    order: list[str] = []
    inner = DAG("inner").add_node("first", lambda x: x)
    inner.add_node("last", lambda first: order.append(f"item {first}"), timeout=LONG)
    inner.connect("first", "last")
    dag = DAG("priorities")
    dag.map(inner, name="items", over="x", priority=3, max_concurrency=5)
    dag.add_node("gate", lambda: None, priority=9)
    dag.add_node("late", lambda gate: order.append("late"), priority=2).connect("gate", "late")
    run = EXECUTE[way](dag, x=range(10), max_workers=1)
    assert run.status == "completed"
    assert order == [*(f"item {x}" for x in range(10)), "late"]
