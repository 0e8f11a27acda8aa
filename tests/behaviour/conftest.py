"""Each test of this directory that asks for `run`, `execute`, `run_from`, `run_until` or
`run_between` runs once for each way to run a DAG.

Nodes may run in other processes, unless the test is marked `same_process`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.ways import HERE, method, mostly

if TYPE_CHECKING:
    import pytest


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
    ways = HERE if "same_process" in marks else (*HERE, "process pool", "workers")
    ways = (*ways, "process") if "process_mode" in marks else ways
    metafunc.parametrize("way", mostly(ways, but={"process pool"}))


run = method("run")
execute = method("execute")
run_from = method("run_from")
run_until = method("run_until")
run_between = method("run_between")
