"""Each test of this directory that asks for `run` or `execute` runs once for each way to run a
machine.

A test marked `process_mode` runs its states in other processes, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.fsm.support import machine
from tests.ways import MACHINES, method

if TYPE_CHECKING:
    from collections.abc import Callable


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "process_mode: also with mode='process', which starts processes for each run"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "way" not in metafunc.fixturenames:
        return
    marked = any(mark.name == "process_mode" for mark in metafunc.definition.iter_markers())
    metafunc.parametrize("way", [*MACHINES, "process"] if marked else MACHINES)


run = method("run")
execute = method("execute")


@pytest.fixture
def second(run: Any) -> Callable[..., Any]:
    """What a state is given after one that returned `value`: `second(state, value, **inputs)`."""

    def given(state: Callable[..., Any], value: Any, **inputs: Any) -> Any:
        return run(machine(first=lambda: value, second=state), **inputs)

    return given
