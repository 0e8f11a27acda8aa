"""A run is killed before and after each of its commits, and goes on. What was committed is not
called again, and the value is that of an undisturbed run.

    FAST_DAG_KILLS=20 pytest -m stress -n0 --timeout=0 tests/store/test_kills.py

makes thousands of kills: each sweep is repeated with another second kill. It prints how many."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.store.conftest import committed
from tests.store.flows import VALUE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.store.conftest import Zygote

pytestmark = pytest.mark.stress

ROUNDS = int(os.environ.get("FAST_DAG_KILLS", "1"))
NODES = {
    "load",
    "check",
    "big",
    "sub.first",
    "sub.second",
    "sub",
    "left",
    "right",
    "broken",
    "cached",
    "numbers",
    "items",
    "last",
}
ITEMS = {f"items[{number}]" for number in range(5)}
STATUSES = {
    "load": "completed",
    "check": "completed",
    "big": "completed",
    "small": "skipped",
    "sub": "completed",
    "left": "completed",
    "right": "completed",
    "broken": "failed",
    "cached": "completed",
    "numbers": "completed",
    "items": "completed",
    "last": "completed",
}


def killed_twice(zygote: Zygote, path: Path, mode: str, first: int, second: int) -> int:
    """Kill a run twice, and let it end. Returns how many children were killed."""
    calls, answer, store = path / "calls", path / "answer", path / "runs.db"
    kills, done, counted = 0, set[str](), Counter[str]()
    for kill in (first, second, None):
        calls.write_text("")
        found: Any = zygote.call(
            answer, "execute", kill, path=str(store), calls=str(calls), mode=mode
        )
        names = calls.read_text().split()
        assert not done & set(names), f"committed, and called again: {done & set(names)}"
        counted.update(names)
        done = committed(store)
        kills += found is None
    assert found["value"] == VALUE
    assert found["status"] == "completed_with_errors"
    assert found["statuses"] == STATUSES
    assert found["errors"]["broken"].endswith("always")
    assert found["errors"]["items[3]"].endswith("not this one")
    assert done - ITEMS == NODES
    assert max(counted.values()) <= 1 + kills
    assert set(counted) == (NODES | ITEMS) - {"sub", "items"}
    return kills


def sweep(zygote: Zygote, path: Path, mode: str, steps: range) -> int:
    kills = 0
    for round, first in itertools.product(range(ROUNDS), steps):
        place = path / f"{round}-{first}"
        place.mkdir()
        kills += killed_twice(zygote, place, mode, first, (first * 7 + round) % 24)
    print(f"{kills} kills in mode {mode}")
    return kills


STEPS = {
    # The tables, the run, 13 nodes, items and the end are committed: 17 times before and after.
    "sequential": range(34),
    "parallel": range(0, 34, 2),
    "async": range(1, 34, 2),
    "run_async": range(0, 34, 3),
}


@pytest.mark.parametrize("mode", STEPS)
def test_run_that_is_killed_at_any_commit_goes_on(
    mode: str, zygote: Zygote, tmp_path: Path
) -> None:
    assert sweep(zygote, tmp_path, mode, STEPS[mode]) > len(STEPS[mode])


@pytest.mark.needs("cloudpickle")
def test_run_with_worker_processes_that_is_killed_goes_on(zygote: Zygote, tmp_path: Path) -> None:
    assert sweep(zygote, tmp_path, "process", range(6, 24, 6)) > 3
