"""After each test here: no thread, process, file or shared memory has outlived its pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.leaks import nothing_left

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/workers" in item.path.as_posix():
            item.add_marker(pytest.mark.needs("cloudpickle"))


@pytest.fixture(autouse=True)
def _nothing_outlives_a_pool() -> Iterator[None]:
    with nothing_left():
        yield
