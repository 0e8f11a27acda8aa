"""What a run with a store takes next to the same commits made by hand with sqlite3."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import tempfile
from functools import partial
from itertools import count
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from timing import Row, Side, Skip, in_turn, ratios

from fast_dag import DAG
from fast_dag.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from timing import Effort

_TABLE = (
    "CREATE TABLE IF NOT EXISTS ends (run TEXT, node TEXT, value BLOB, PRIMARY KEY (run, node))"
)
_ids = (f"run {number}" for number in count())


def _chain(nodes: int) -> DAG:
    dag = DAG("chain").add_node("n0", lambda: 0)
    for number in range(1, nodes):
        dag.add_node(f"n{number}", lambda x: x + 1).connect(f"n{number - 1}", f"n{number}")
    return dag


def _raw(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=60)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(_TABLE)
    return connection


def _commit(connection: sqlite3.Connection, run: str, nodes: int) -> None:
    for number in range(nodes):
        connection.execute("INSERT INTO ends VALUES (?, ?, ?)", (run, f"n{number}", b"123"))


def durable_node(effort: Effort) -> Iterator[Row]:
    """A node of a chain: on disk next to a raw commit of one row, and in memory."""
    nodes, rounds = effort.of((100, 40), (5, 2))
    dag = _chain(nodes)
    with tempfile.TemporaryDirectory() as directory, Store(f"{directory}/runs.db") as store:
        connection = _raw(f"{directory}/raw.db")
        ours, theirs = in_turn(
            Side(lambda run: dag.run(store=store, run_id=run), lambda: next(_ids)),
            Side(lambda run: _commit(connection, run, nodes), lambda: next(_ids)),
            rounds=rounds,
        )
        connection.close()
    yield Row("durable node: on disk", ratios(ours, theirs), "x a raw commit", 1.15)
    nodes, rounds = effort.of((1000, 30), (50, 2))
    dag = _chain(nodes)
    with Store(":memory:") as store:
        connection = _raw(":memory:")
        ours, theirs, plain = in_turn(
            Side(lambda run: dag.run(store=store, run_id=run), lambda: next(_ids)),
            Side(lambda run: _commit(connection, run, nodes), lambda: next(_ids)),
            dag.run,
            rounds=rounds,
        )
        connection.close()
    own = [1e6 * (a - b) / nodes for a, b in zip(ours, theirs, strict=True)]
    note = f"a plain node takes {1e6 * sorted(plain)[len(plain) // 2] / nodes:.2f} us"
    yield Row("durable node: the engine's own time", own, "us", 10, note)


def replayed_node(effort: Effort) -> Iterator[Row]:
    """A committed node of a run that goes on, or has finished."""
    nodes, rounds = effort.of((2000, 30), (50, 2))
    dag = _chain(nodes)
    with Store(":memory:") as store:
        dag.run(store=store, run_id="replayed")
        (seconds,) = in_turn(lambda: dag.run(store=store, run_id="replayed"), rounds=rounds)
    yield Row("durable: replay of a node", [1e6 * each / nodes for each in seconds], "us", 3)


def _in_threads(function: Callable[[int], object], threads: int) -> None:
    made = [Thread(target=function, args=(number,)) for number in range(threads)]
    for each in made:
        each.start()
    for each in made:
        each.join()


def group_commit(effort: Effort) -> Iterator[Row]:
    """8 threads that commit at once, in runs with one store, and with a connection each."""
    nodes, rounds = effort.of((20, 15), (2, 2))
    dag = _chain(nodes)
    with tempfile.TemporaryDirectory() as directory, Store(f"{directory}/runs.db") as store:
        connections = [_raw(f"{directory}/raw.db") for _ in range(8)]
        dag.run(store=store)

        def ours(number: int) -> None:
            dag.run(store=store)

        def theirs(number: int) -> None:
            _commit(connections[number], next(_ids), nodes)

        one, other = in_turn(
            partial(_in_threads, ours, 8), partial(_in_threads, theirs, 8), rounds=rounds
        )
        for connection in connections:
            connection.close()
    yield Row("durable: 8 threads, time", ratios(one, other), "x a connection each", 1 / 5)


_SYNCS = """
import sys
sys.path.insert(0, sys.argv[2])
from durable import _chain
from fast_dag.store import Store
with Store(sys.argv[1]) as store:
    _chain(int(sys.argv[3])).run(store=store)
"""


def syncs(effort: Effort) -> Iterator[Row]:
    """fsync and fdatasync of a node of a sequential run."""
    strace = shutil.which("strace")
    if strace is None:
        raise Skip("strace is not there to count system calls")
    here = str(Path(__file__).parent)
    counts = []
    with tempfile.TemporaryDirectory() as directory:
        for nodes in (10, 110):
            path = f"{directory}/{nodes}.db"
            command: list[Any] = [strace, "-f", "-e", "trace=fsync,fdatasync", sys.executable, "-c"]
            command += [_SYNCS, path, here, str(nodes)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            counts.append(done.stderr.count("sync("))
    yield Row("durable: syncs of a node", [(counts[1] - counts[0]) / 100], "syncs", 1)


BENCHMARKS = (durable_node, replayed_node, group_commit, syncs)
