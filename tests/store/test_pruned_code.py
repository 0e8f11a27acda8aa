"""The texts of code and graphs: deleted once nothing refers to them, and no moment earlier."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import DAG
from fast_dag.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def flow(number: int, last: Callable[..., Any]) -> DAG:
    """A graph as a program makes it for each request: with another closure each time."""

    def first() -> int:
        return number

    return DAG("request").add_node("first", first).add_node("last", last).connect("first", "last")


def texts(path: Path) -> tuple[int, int]:
    """How many texts there are, and how many are referred to and missing."""
    with closing(sqlite3.connect(path)) as connection:
        (count,) = connection.execute("SELECT COUNT(*) FROM codes").fetchone()
        (missing,) = connection.execute(
            "SELECT COUNT(*) FROM (SELECT code FROM nodes UNION SELECT graph FROM runs)"
            " WHERE code NOTNULL AND code NOT IN (SELECT digest FROM codes)"
        ).fetchone()
    return count, missing


def stop(first: int) -> None:
    raise KeyboardInterrupt


def test_code_that_nothing_refers_to_is_pruned_and_written_again_where_it_is_needed(
    tmp_path: Path,
) -> None:
    path = tmp_path / "runs.db"
    with Store(path, durability="process") as store:
        dags = [flow(number, lambda first: first) for number in range(5)]
        for number, dag in enumerate(dags):
            dag.run(store=store, run_id=str(number))
        assert texts(path) == (5 * 2 + 1, 0), "each a graph and a node, and one node of them all"
        store.fork("4", run_id="fork", at="last")
        store.prune()
        assert texts(path) == (3, 0), "the fork has the rest"
        assert "request" in store.run("0").summary()
        assert store.run("fork").statuses == {"first": "completed", "last": "not_run"}
        dags[4].run(store=store, run_id="fork")
        store.prune(forget=True)
        assert texts(path) == (0, 0)
        dags[0].run(store=store, run_id="again")
        assert texts(path) == (3, 0), "this process knows that what it had written is gone"
        assert {*dags[0].explain(store=store, run_id="again").states.values()} == {"fresh"}
        assert store.prune("1 day").runs == 0
        assert texts(path) == (3, 0)


def test_code_of_a_run_at_work_is_not_pruned(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with Store(path, durability="process") as store:

        def first() -> int:
            store.prune(forget=True)
            return 1

        dag = DAG("request").add_node("first", first).add_node("last", stop)
        with pytest.raises(KeyboardInterrupt):
            dag.connect("first", "last").run(store=store, run_id="a")
        store.prune(forget=True)
        assert texts(path) == (3, 0)
        changed = DAG("request").add_node("first", lambda: 2).add_node("last", stop)
        told = changed.connect("first", "last").explain(store=store, run_id="a")
        assert [each for each in told.reasons["first"] if each.endswith("is used no longer")]


PRUNING = """
import select, sys
from fast_dag.store import Store
with Store(sys.argv[1], durability="process") as store:
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0.002)[0]:
        store.prune(forget=True)
"""


def test_runs_begin_while_another_process_prunes(tmp_path: Path) -> None:
    path, found = tmp_path / "runs.db", []

    def last(first: int) -> int:
        found.append(texts(path)[1])
        if first % 2:
            raise KeyboardInterrupt
        return first

    with Store(path, durability="process") as store:
        child = subprocess.Popen(
            [sys.executable, "-c", PRUNING, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with child:
            assert child.stdout is not None
            child.stdout.readline()
            for number in range(20):
                dag = flow(number // 2, last)
                try:
                    assert dag.run(store=store) == number // 2
                except KeyboardInterrupt:
                    assert number // 2 % 2
            assert child.stdin is not None
            child.stdin.close()
        assert child.returncode == 0
        assert found == [0] * 20
        assert texts(path)[1] == 0
        assert store.doctor()["problems"] == []
