"""Instructions a node that sequential runs take, counted by valgrind: the same from one run to the
next to about one in a thousand, where seconds are not.

Each side runs in interpreters of its own, once a few times and once twice as often; the difference
is what the runs took, without start-up. `python instructions.py WORK SIDE RUNS` is one of them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from graphs import (
    cached_dag,
    chain,
    dag_of,
    fan,
    hooked_dag,
    keyword_loop,
    layered,
    measured_loop,
    prepared_pairs,
    straight_line,
)
from timing import Row, Skip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from graphs import Calls
    from timing import Effort

WORKS = {
    "chain of 1,000": lambda: chain(1_000),
    "layered 10 x 100": lambda: layered(10, 100),
    "fan-out 1 -> 1,000 -> 1": lambda: fan(1_000),
}


SIDES: dict[str, Callable[[Calls], Callable[[], object]]] = {
    "L": straight_line,
    "P": prepared_pairs,
    "G": keyword_loop,
    "M": measured_loop,
    "ours": lambda calls: dag_of(calls).run,
    "a retry policy on every node": lambda calls: dag_of(calls, retry=2).run,
    "a hook on every node": lambda calls: hooked_dag(calls).run,
    "a cache hit on every node": lambda calls: cached_dag(calls).run,
}
_AROUND = tuple(SIDES)[5:]


def _counted(work: str, side: str, runs: int) -> int:
    """The instructions of an interpreter that runs a side `runs` times."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    command += [sys.executable, __file__, work, side, str(runs)]
    steady = os.environ | {"PYTHONHASHSEED": "0"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=steady)
    found = re.search(r"Collected : (\d+)", done.stderr)
    assert found is not None, done.stderr
    return int(found[1])


def _a_node(work: str, side: str, runs: int) -> float:
    return (_counted(work, side, 2 * runs) - _counted(work, side, runs)) / runs / len(WORKS[work]())


def instruction_counts(effort: Effort) -> Iterator[Row]:
    """The sequential loop next to L and P, and what surrounds each call."""
    if shutil.which("valgrind") is None:
        raise Skip("valgrind is not installed")
    runs = effort.of(4, 1)
    for work in WORKS:
        count = {side: _a_node(work, side, runs) for side in ("L", "P", "ours")}
        note = ", ".join(f"{side} {value:,.0f}" for side, value in count.items())
        yield Row(f"{work}: instructions", [count["ours"] / count["L"]], "x L", note=note)
        yield Row(f"{work}: instructions", [count["ours"] / count["P"]], "x P")
    work = "chain of 1,000"
    bare = _a_node(work, "ours", runs)
    for side in _AROUND:
        added = _a_node(work, side, runs) - bare
        yield Row(f"{side}: instructions added", [added], "a node", note=f"a node has {bare:,.0f}")


BENCHMARKS = (instruction_counts,)

if __name__ == "__main__":
    _, asked_work, asked_side, asked_runs = sys.argv
    call = SIDES[asked_side](WORKS[asked_work]())
    for _ in range(10):  # until the interpreter has adapted to it
        call()
    for _ in range(int(asked_runs)):
        call()
