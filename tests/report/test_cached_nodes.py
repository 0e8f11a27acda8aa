"""What runs record and tell of nodes whose value comes from a cache."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import DAG, FSM, FSMReturn
from fast_dag.cache import single_flight
from fast_dag.cache.memory import MemoryBackend
from fast_dag.draw.view import view_of
from fast_dag.report.analysis import analyse
from tests.concurrency.support import wait_until
from tests.patience import LONG
from tests.ways import AT_ONCE, EVERYWHERE, EXECUTE

if TYPE_CHECKING:
    from fast_dag import Run


def first_key(x: int) -> int:
    return x


def pair() -> dict[str, int]:
    return {}


def square(x: int) -> int:
    return x * x


def seconds_are_sound(run: Run) -> None:
    assert run.timings
    assert all(0 <= seconds <= run.metrics["execution_time"] for seconds in run.timings.values())


@pytest.mark.one_in(4)
@pytest.mark.parametrize("backend", [None, MemoryBackend()], ids=["own", "shared"])
@pytest.mark.parametrize("cache_key", [None, ["x"], first_key], ids=["inputs", "names", "function"])
@pytest.mark.parametrize("way", EVERYWHERE)
def test_seconds_of_a_cached_hit_are_those_of_its_call(
    way: str, cache_key: Any, backend: Any
) -> None:
    dag = DAG("demo")
    dag.cached_node(square, cache_key=cache_key, backend=backend)
    for _ in range(2):
        seconds_are_sound(EXECUTE[way](dag, x=3))
    assert dag.context.metrics["cache_hits"] == 1


@pytest.mark.parametrize("way", EVERYWHERE)
def test_seconds_of_a_node_whose_inputs_are_missing_are_sound(way: str) -> None:
    dag = DAG("demo").add_node("pair", pair).add_node("square", square)
    dag.connect("pair", "square", output="lost")
    run = EXECUTE[way](dag)
    assert "square" in run.errors
    seconds_are_sound(run)


@pytest.mark.parametrize("way", AT_ONCE)
def test_waiting_for_what_another_run_computes_is_no_wait_for_a_worker(way: str) -> None:
    dag, started, may_end = DAG("demo"), threading.Event(), threading.Event()

    @dag.cached_node
    def slow(x: int) -> int:
        started.set()
        assert may_end.wait(LONG)
        return x

    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(EXECUTE[way], dag, x=1)]
        assert started.wait(LONG)
        runs.append(pool.submit(EXECUTE[way], dag, x=1))
        wait_until(lambda: bool(single_flight._waiting))
        meanwhile = perf_counter()
        may_end.set()
    for run in runs:
        view = view_of(run.result()).run
        assert view is not None
        (span,) = view.spans
        assert span.start < meanwhile < span.end
        seconds_are_sound(run.result())


@pytest.mark.parametrize("way", EVERYWHERE)
def test_nodes_whose_value_came_from_a_cache_are_marked(way: str) -> None:
    dag = DAG("demo").add_node("before", lambda x: x)
    dag.cached_node(square, inputs=["x"])
    dag.connect("before", "square")
    assert "from cache" not in EXECUTE[way](dag, x=3).visualize()
    run = EXECUTE[way](dag, x=3)
    assert "square\nfrom cache, " in run.visualize()
    assert "class n1 from_cache" in run.visualize(options={"details": False})
    assert "= from its cache" in run.summary()
    assert "looked up in its cache" in run.report()
    rows = analyse(view_of(run)).rows
    assert [row.note for row in rows] == ["", "from its cache"]


def test_state_that_computes_again_is_no_longer_from_the_cache() -> None:
    fsm = FSM("demo", initial_state="a", terminal_states=["b"])
    fsm.add_state("b", lambda: None)

    @fsm.cached_state
    def a(n: int = 0) -> Any:
        return FSMReturn("a" if n < 1 else "b", {"n": n + 1})

    run = fsm.execute()
    assert "from cache" not in run.visualize()
    assert "from cache" in fsm.execute().visualize()
