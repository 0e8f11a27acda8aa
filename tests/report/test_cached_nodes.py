"""What runs record and tell of nodes whose value comes from a cache."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import DAG
from fast_dag.cache import single_flight
from fast_dag.cache.memory import MemoryBackend
from fast_dag.draw.view import view_of
from tests.concurrency.support import EXECUTE, IN_THREADS, LONG, MODES, wait_until

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


@pytest.mark.parametrize("backend", [None, MemoryBackend()], ids=["own", "shared"])
@pytest.mark.parametrize("cache_key", [None, ["x"], first_key], ids=["inputs", "names", "function"])
@pytest.mark.parametrize("mode", MODES)
def test_seconds_of_a_cached_hit_are_those_of_its_call(
    mode: str, cache_key: Any, backend: Any
) -> None:
    dag = DAG("demo")
    dag.cached_node(square, cache_key=cache_key, backend=backend)
    for _ in range(2):
        seconds_are_sound(EXECUTE[mode](dag, x=3))
    assert dag.context.metrics["cache_hits"] == 1


@pytest.mark.parametrize("mode", MODES)
def test_seconds_of_a_node_whose_inputs_are_missing_are_sound(mode: str) -> None:
    dag = DAG("demo").add_node("pair", pair).add_node("square", square)
    dag.connect("pair", "square", output="lost")
    run = EXECUTE[mode](dag)
    assert "square" in run.errors
    seconds_are_sound(run)


@pytest.mark.parametrize("mode", IN_THREADS)
def test_waiting_for_what_another_run_computes_is_no_wait_for_a_worker(mode: str) -> None:
    dag, started, may_end = DAG("demo"), threading.Event(), threading.Event()

    @dag.cached_node
    def slow(x: int) -> int:
        started.set()
        assert may_end.wait(LONG)
        return x

    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(EXECUTE[mode], dag, x=1)]
        assert started.wait(LONG)
        runs.append(pool.submit(EXECUTE[mode], dag, x=1))
        wait_until(lambda: bool(single_flight._waiting))
        meanwhile = perf_counter()
        may_end.set()
    for run in runs:
        view = view_of(run.result()).run
        assert view is not None
        (span,) = view.spans
        assert span.start < meanwhile < span.end
        seconds_are_sound(run.result())
