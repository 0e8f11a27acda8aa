"""After each test of maps: nothing has outlived its runs, and all units of limits are back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.leaks import nothing_left
from tests.limits.conftest import _all_units_are_back  # noqa: F401  a fixture of these tests, too

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _nothing_outlives_a_map(request: pytest.FixtureRequest) -> Iterator[None]:
    kinds = {"threads", "files", "timers"}
    if "process" in request.node.name:
        kinds |= {"processes", "shared_memory"}
    with nothing_left(kinds):
        yield
