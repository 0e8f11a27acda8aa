"""The ways to run a DAG, and each test of this directory once for each way.

A test that asks for `run`, `execute`, `run_from`, `run_until` or `run_between` gets the DAG's own
method, bound to one way: it is given the DAG first, then what the method takes. Nodes may run in
other processes, unless the test is marked `same_process`.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor

    from fast_dag import DAG

HERE = ["sequential", "parallel", "async", "run_async", "thread pool"]
"""The ways whose nodes run in this process."""


def pytest_configure(config: pytest.Config) -> None:
    for mark in (
        "same_process: nodes share objects with the test, so they cannot run elsewhere",
        "process_mode: also with mode='process', which starts processes for each single run",
    ):
        config.addinivalue_line("markers", mark)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "way" not in metafunc.fixturenames:
        return
    marks = {mark.name for mark in metafunc.definition.iter_markers()}
    ways = HERE if "same_process" in marks else [*HERE, "process pool"]
    metafunc.parametrize("way", [*ways, "process"] if "process_mode" in marks else ways)


@pytest.fixture(scope="session")
def thread_pool() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture(scope="session")
def process_pool() -> Iterator[Executor]:
    # Not fork: this process has threads.
    with ProcessPoolExecutor(2, multiprocessing.get_context("forkserver")) as executor:
        yield executor


@pytest.fixture
def started_in_way(way: str, request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Call one of the methods that run a DAG, in the way under test."""
    if way == "run_async":
        return start_awaited
    if way.endswith("pool"):
        given = {"executor": request.getfixturevalue(way.replace(" ", "_"))}
    else:
        given = {"mode": way}

    def started(dag: DAG, method: str, /, *args: Any, **options: Any) -> Any:
        return getattr(dag, method)(*args, **given, **options)

    return started


def start_awaited(dag: DAG, method: str, /, *args: Any, **options: Any) -> Any:
    return asyncio.run(getattr(dag, f"{method}_async")(*args, **options))


def _fixture(method: str) -> Any:
    def bound(started_in_way: Callable[..., Any]) -> Callable[..., Any]:
        def started(dag: DAG, /, *args: Any, **options: Any) -> Any:
            return started_in_way(dag, method, *args, **options)

        return started

    return pytest.fixture(bound, name=method)


run = _fixture("run")
execute = _fixture("execute")
run_from = _fixture("run_from")
run_until = _fixture("run_until")
run_between = _fixture("run_between")
