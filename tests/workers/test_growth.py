"""Many runs on one pool leave nothing behind, neither here nor in its processes."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from fast_dag import DAG, Workers
from tests.leaks import open_files
from tests.workers import arrays, steps


def resident() -> int:
    """The kilobytes that this process has in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE") // 1024


@pytest.mark.stress
def test_many_runs_on_one_pool_do_not_grow() -> None:
    small = DAG("small").add_node("a", steps.add).add_node("b", steps.add)
    small.connect("a", "b", input="x")
    small.add_node("value", lambda: np.ones(200_000)).add_node("sum", arrays.total)
    small.connect("value", "sum", input="*args")
    with Workers(1) as workers:

        def rounds(count: int) -> tuple[int, ...]:
            for _ in range(count):
                small.run(x=1, executor=workers)
            gc.collect()
            there = workers.submit(resident).result()
            return threading.active_count(), len(open_files()), there, resident()

        before = rounds(100)
        after = rounds(200)
    assert after[0] <= before[0]
    assert after[1] <= before[1]
    assert after[2] - before[2] < 2_000  # a leaked array would be 300 MB, a leaked kilobyte 200
    assert after[3] - before[3] < 4_000
