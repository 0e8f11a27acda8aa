"""After each test of maps: nothing has outlived its runs, and all units of limits are back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.leaks import KINDS, nothing_left
from tests.limits.conftest import _all_units_are_back  # noqa: F401  a fixture of these tests, too
from tests.ways import process_pool

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _nothing_outlives_a_map(request: pytest.FixtureRequest) -> Iterator[None]:
    kinds: set[Any] = set(KINDS)
    if "process pool" in request.node.name:
        process_pool().submit(int).result()  # its processes and pipes stay
        kinds -= {"threads", "processes", "files"}
    with nothing_left(kinds):
        yield
