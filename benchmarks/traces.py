"""Recorded workflows, replayed with sleeps: how close a run comes to what no order can beat, next
to dask where it is installed.

The recordings are JSON files in the directory that the environment variable TRACES names: "seconds"
by task, and "parents", the tasks that each one waits for (made of WfInstances of WfCommons)."""

from __future__ import annotations

import json
import os
import time
from functools import partial
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timing import Row, Skip, in_turn

from fast_dag import DAG

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from timing import Effort

WORKERS = 8


def traces(effort: Effort) -> Iterator[Row]:
    """Each recording, its sleeps scaled to one second between them on one worker's way, on eight
    threads: the first run, which does not know how long nodes take, and later ones."""
    place = os.environ.get("TRACES", "")
    files = sorted(Path(place).glob("*.json")) if place else []
    if not files:
        raise Skip("TRACES names no directory with recordings")
    for file in files:
        recording = json.loads(file.read_text(encoding="utf-8"))
        seconds: dict[str, float] = recording["seconds"]
        parents = {task: recording["parents"].get(task, []) for task in seconds}
        bound = _bound(seconds, parents)
        scale = effort.of(1.0, 0.05) / bound
        ideal = bound * scale
        name = file.name.partition("-")[0]
        first, later, by_dask = [], [], []
        for _ in range(effort.of(5, 1)):
            run = partial(
                _dag(name, seconds, parents, scale).run, mode="parallel", max_workers=WORKERS
            )
            first.append(_timed(run) / ideal)
            later.append(_timed(run) / ideal)
        yield Row(f"{name}, first run", first, "x bound", 1.25 if name == "atacseq" else None)
        yield Row(f"{name}, later runs", later, "x bound", 1.15 if name == "atacseq" else None)
        dask = _dask(seconds, parents, scale)
        if dask is not None:
            (by_dask,) = in_turn(dask, rounds=effort.of(5, 1))
            yield Row(f"{name}, dask", [each / ideal for each in by_dask], "x bound")


def _timed(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _bound(seconds: Mapping[str, float], parents: Mapping[str, Sequence[str]]) -> float:
    """The longest way, or the sum of all by the workers, whichever is more."""
    ends: dict[str, float] = {}
    for task in TopologicalSorter(parents).static_order():
        ends[task] = seconds[task] + max((ends[each] for each in parents[task]), default=0.0)
    return max(*ends.values(), sum(seconds.values()) / WORKERS)


def _dag(
    name: str, seconds: Mapping[str, float], parents: Mapping[str, Sequence[str]], scale: float
) -> DAG:
    dag = DAG(name)
    for task, lasts in seconds.items():
        dag.add_node(task, partial(_sleep, lasts * scale))
    for task, sources in parents.items():
        for source in sources:
            dag.connect(source, task, input=False)
    return dag


def _sleep(seconds: float) -> None:
    time.sleep(seconds)


def _dask(seconds: Mapping[str, float], parents: Mapping[str, Sequence[str]], scale: float) -> Any:
    try:
        from dask.threaded import get
    except ImportError:
        return None
    graph = {task: (_slept, lasts * scale, [*parents[task]]) for task, lasts in seconds.items()}
    return lambda: get(graph, list(graph), num_workers=WORKERS)


def _slept(seconds: float, _after: object) -> None:
    time.sleep(seconds)


BENCHMARKS = (traces,)
