"""The ways to run a machine, and each test of this directory that asks for `run` or `execute` once
for each way.

"observed" is sequential mode with somebody watching, which takes the general path, where
"sequential" may go round in a loop of its own. A test marked `process_mode` runs its states in
other processes, too.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.fsm.support import machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor

    from fast_dag import FSM

WAYS = ["sequential", "observed", "parallel", "async", "run_async", "thread pool"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "process_mode: also with mode='process', which starts processes for each run"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "way" not in metafunc.fixturenames:
        return
    marked = any(mark.name == "process_mode" for mark in metafunc.definition.iter_markers())
    metafunc.parametrize("way", [*WAYS, "process"] if marked else WAYS)


@pytest.fixture(scope="session")
def thread_pool() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture
def started_in_way(way: str, request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Call one of the methods that run a machine, in the way under test."""
    if way == "run_async":
        return start_awaited
    options: dict[str, Any]
    if way == "thread pool":
        options = {"executor": request.getfixturevalue("thread_pool")}
    elif way == "observed":
        options = {"progress": lambda name, status, fraction: None}
    else:
        options = {"mode": way}

    def started(fsm: FSM, method: str, /, *args: Any, **more: Any) -> Any:
        return getattr(fsm, method)(*args, **{**options, **more})

    return started


def start_awaited(fsm: FSM, method: str, /, *args: Any, **options: Any) -> Any:
    return asyncio.run(getattr(fsm, f"{method}_async")(*args, **options))


def _fixture(method: str) -> Any:
    def bound(started_in_way: Callable[..., Any]) -> Callable[..., Any]:
        def started(fsm: FSM, /, *args: Any, **options: Any) -> Any:
            return started_in_way(fsm, method, *args, **options)

        return started

    return pytest.fixture(bound, name=method)


run = _fixture("run")
execute = _fixture("execute")


@pytest.fixture
def second(run: Any) -> Callable[..., Any]:
    """What a state is given after one that returned `value`: `second(state, value, **inputs)`."""

    def given(state: Callable[..., Any], value: Any, **inputs: Any) -> Any:
        return run(machine(first=lambda: value, second=state), **inputs)

    return given
