"""Fixtures of the tests of what surrounds node calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.leaks import nothing_left
from tests.ways import AT_ONCE, EXECUTE, HERE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fast_dag import Run

"""The modes in which nodes run in this process."""


@pytest.fixture(params=HERE)
def execute(request: pytest.FixtureRequest) -> Callable[..., Run]:
    """`execute(dag, **options)` in each mode of this process."""
    return EXECUTE[request.param]


@pytest.fixture(params=AT_ONCE)
def overlapping(request: pytest.FixtureRequest) -> Callable[..., Run]:
    """The same, in those in which nodes overlap."""
    return EXECUTE[request.param]


@pytest.fixture(autouse=True)
def _nothing_outlives_a_run() -> Iterator[None]:
    with nothing_left():
        yield
