"""The ways to run a DAG, and each test of this directory once for each way.

A test that asks for `run`, `execute`, `run_from`, `run_until` or `run_between` gets the DAG's own
method, bound to one mode: it is given the DAG first, then what the method takes. Its nodes may run
in other processes, unless the test is marked `same_process`.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_dag import DAG


def start_in(mode: str, dag: DAG, method: str, /, *args: Any, **options: Any) -> Any:
    return getattr(dag, method)(*args, **{"mode": mode, **options})


def start_awaited(dag: DAG, method: str, /, *args: Any, **options: Any) -> Any:
    return asyncio.run(getattr(dag, f"{method}_async")(*args, **options))


def start_on_executor(dag: DAG, method: str, /, *args: Any, **options: Any) -> Any:
    with ThreadPoolExecutor(2) as executor:
        return getattr(dag, method)(*args, **{"executor": executor, **options})


WAYS: dict[str, Callable[..., Any]] = {
    "sequential": partial(start_in, "sequential"),
    "parallel": partial(start_in, "parallel"),
    "async": partial(start_in, "async"),
    "run_async": start_awaited,
    "executor": start_on_executor,
    "process": partial(start_in, "process"),
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "same_process: nodes share objects with the test, so they cannot run elsewhere"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "way" in metafunc.fixturenames:
        stays = metafunc.definition.get_closest_marker("same_process") is not None
        metafunc.parametrize("way", [name for name in WAYS if not (stays and name == "process")])


def _fixture(method: str) -> Any:
    def start(way: str) -> Callable[..., Any]:
        def started(dag: DAG, /, *args: Any, **options: Any) -> Any:
            return WAYS[way](dag, method, *args, **options)

        return started

    return pytest.fixture(start, name=method)


run = _fixture("run")
execute = _fixture("execute")
run_from = _fixture("run_from")
run_until = _fixture("run_until")
run_between = _fixture("run_between")
