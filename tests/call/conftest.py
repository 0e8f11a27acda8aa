"""Fixtures of the tests of what surrounds node calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.concurrency.support import EXECUTE
from tests.leaks import nothing_left

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fast_dag import Run

IN_PROCESS = ("sequential", "parallel", "async", "run_async", "executor")
"""The modes in which nodes run in this process."""


@pytest.fixture(params=IN_PROCESS)
def execute(request: pytest.FixtureRequest) -> Callable[..., Run]:
    """`execute(dag, **options)` in each mode of this process."""
    return EXECUTE[request.param]


@pytest.fixture(params=[mode for mode in IN_PROCESS if mode != "sequential"])
def overlapping(request: pytest.FixtureRequest) -> Callable[..., Run]:
    """The same, in those in which nodes overlap."""
    return EXECUTE[request.param]


@pytest.fixture(autouse=True)
def _nothing_outlives_a_run() -> Iterator[None]:
    with nothing_left():
        yield
