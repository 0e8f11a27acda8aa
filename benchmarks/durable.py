"""What a run with a store takes next to the same commits made by hand with sqlite3.

    pip install dbos langgraph langgraph-checkpoint-sqlite

Libraries that are not installed are skipped.
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from threading import Thread
from time import perf_counter
from typing import TYPE_CHECKING, Any

from timing import Row, Side, Skip, added, in_turn, per_node, ratios

from fast_dag import DAG
from fast_dag.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from timing import Effort

_TABLE = (
    "CREATE TABLE IF NOT EXISTS ends (run TEXT, node TEXT, value BLOB, PRIMARY KEY (run, node))"
)
_ids = (f"run {number}" for number in count())


def _chain(nodes: int, step: Callable[[int], int] = lambda x: x + 1) -> DAG:
    dag = DAG("chain").add_node("n0", lambda: 0)
    for number in range(1, nodes):
        dag.add_node(f"n{number}", step).connect(f"n{number - 1}", f"n{number}")
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


class _Turns:
    """What each node calls: it makes a raw commit. So the node, which is committed once this has
    returned, and a raw commit take turns, and what else uses the disk disturbs both alike."""

    def __init__(self, path: str) -> None:
        self._connection = _raw(path)
        self._run = ""
        self._last: float | None = None
        self.ratios: list[float] = []  # of the time from one call to the next to that of a commit
        self._took = 0.0

    def begin(self) -> str:
        """The id of the next run."""
        self._run, self._last = next(_ids), None
        return self._run

    def __call__(self, x: int) -> int:
        now = perf_counter()
        if self._last is not None:
            self.ratios.append((now - self._last) / self._took)
        began = perf_counter()
        self._connection.execute("INSERT INTO ends VALUES (?, ?, ?)", (self._run, f"n{x}", b"123"))
        self._last = perf_counter()
        self._took = self._last - began
        return x + 1

    def close(self) -> None:
        self._connection.close()


@contextmanager
def _turns() -> Iterator[tuple[str, _Turns]]:
    """A directory, and what nodes call."""
    with tempfile.TemporaryDirectory() as directory:
        turns = _Turns(f"{directory}/raw.db")
        try:
            yield directory, turns
        finally:
            turns.close()


def durable_node_on_disk(effort: Effort) -> Iterator[Row]:
    """A node of a chain next to a raw commit of one row, node by node."""
    nodes, rounds = effort.of((100, 15), (5, 2))
    with _turns() as (directory, turns), Store(f"{directory}/runs.db") as store:
        dag = _chain(nodes, turns)
        for _ in range(rounds):
            dag.run(store=store, run_id=turns.begin())
    yield Row("durable node: on disk", turns.ratios, "x a raw commit", 1.15)


def dbos_step(effort: Effort) -> Iterator[Row]:
    """The same chain as a workflow of DBOS, with its database in SQLite."""
    try:
        from dbos import DBOS
    except ImportError:
        raise Skip("dbos is not installed") from None
    nodes, rounds = effort.of((100, 8), (5, 2))
    with _turns() as (directory, turns):
        DBOS(
            config={
                "name": "chain",
                "system_database_url": f"sqlite:///{directory}/dbos.db",
                "log_level": "ERROR",
            }
        )

        @DBOS.step()
        def step(x: int) -> int:
            return turns(x)

        @DBOS.workflow()
        def chain() -> int:
            x = 0
            for _ in range(nodes):
                x = step(x)
            return x

        DBOS.launch()
        try:
            for _ in range(rounds):
                turns.begin()
                chain()
        finally:
            DBOS.destroy()
    yield Row("DBOS: a step, on disk", turns.ratios, "x a raw commit")


def langgraph_node(effort: Effort) -> Iterator[Row]:
    """The same chain as a graph of LangGraph, with a checkpointer in SQLite."""
    try:
        from langgraph.checkpoint.sqlite import SqliteSaver
        from langgraph.graph import START, StateGraph
    except ImportError:
        raise Skip("langgraph or langgraph-checkpoint-sqlite is not installed") from None
    nodes, rounds = effort.of((100, 8), (5, 2))
    with _turns() as (directory, turns):
        graph = StateGraph(dict)
        for number in range(nodes):
            graph.add_node(f"n{number}", lambda state: {"x": turns(state["x"])})
            graph.add_edge(START if number == 0 else f"n{number - 1}", f"n{number}")
        with SqliteSaver.from_conn_string(f"{directory}/langgraph.db") as saver:
            compiled = graph.compile(checkpointer=saver)
            for _ in range(rounds):
                config = {
                    "configurable": {"thread_id": turns.begin()},
                    "recursion_limit": nodes + 2,
                }
                compiled.invoke({"x": 0}, config, durability="sync")
    yield Row("LangGraph: a node, on disk", turns.ratios, "x a raw commit")


def durable_node(effort: Effort) -> Iterator[Row]:
    """What each further node of a chain takes, in a database in memory. Runs are short, so that
    others on the processor interrupt few of them."""
    nodes, rounds = effort.of((100, 300), (5, 2))
    dag, one = _chain(nodes + 1), _chain(1)
    with Store(":memory:") as store:
        connection = _raw(":memory:")
        ours, begun, theirs, plain = in_turn(
            Side(lambda run: dag.run(store=store, run_id=run), lambda: next(_ids)),
            Side(lambda run: one.run(store=store, run_id=run), lambda: next(_ids)),
            Side(lambda run: _commit(connection, run, nodes), lambda: next(_ids)),
            dag.run,
            rounds=rounds,
        )
        connection.close()
    own = [1e6 * (a - b - c) / nodes for a, b, c in zip(ours, begun, theirs, strict=True)]
    note = f"{per_node('a plain node', plain, nodes + 1)}, {per_node('a run of one', begun, 1)}"
    yield Row("durable node: the engine's own time", own, "us", 10, note)


def _interrupt(x: int) -> None:
    raise KeyboardInterrupt


def replayed_node(effort: Effort) -> Iterator[Row]:
    """What each further committed node takes, of a run that has finished, or goes on."""
    nodes, rounds = effort.of((200, 300), (50, 2))
    for name in ("finished", "goes on"):
        with Store(":memory:", max_resumes=sys.maxsize) as store:
            short, long = (partial(_run, _replayed(n, name), store, n) for n in (1, nodes + 1))
            short()
            long()
            few, many = in_turn(short, long, rounds=rounds)
        values = added(many, few, nodes)
        note = per_node("a run of one", few, 1)
        yield Row(f"durable: replay of a node, run {name}", values, "us", 3, note)


def _replayed(nodes: int, name: str) -> DAG:
    dag = _chain(nodes)
    if name == "goes on":
        dag.add_node("last", _interrupt).connect(f"n{nodes - 1}", "last")
    return dag


def _run(dag: DAG, store: Store, nodes: int) -> None:
    with suppress(KeyboardInterrupt):
        dag.run(store=store, run_id=str(nodes))


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


BENCHMARKS = (
    durable_node_on_disk,
    durable_node,
    replayed_node,
    group_commit,
    syncs,
    dbos_step,
    langgraph_node,
)
