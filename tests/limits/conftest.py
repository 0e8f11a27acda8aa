"""After each test of limits: all units are back, and nobody is in line."""

from __future__ import annotations

from time import monotonic, sleep
from typing import TYPE_CHECKING

import pytest

from fast_dag.run import limits
from tests.patience import LONG

if TYPE_CHECKING:
    from collections.abc import Iterator


def missing() -> list[str]:
    """What is still in use, or waited for, of all limits of the process."""
    return [
        f"{units.name}: {units.free} of {units.most}, in line {len(units.line)}"
        for each in list(limits._known)
        for units in each._units.values()
        if units.line or (units.gives_back and units.free != units.most)
    ]


@pytest.fixture(autouse=True)
def _all_units_are_back() -> Iterator[None]:
    yield
    end = monotonic() + LONG
    while missing() and monotonic() < end:  # threads that were abandoned may take a moment
        sleep(0.005)
    assert missing() == []
