"""Stores that somebody has changed, and stores of earlier versions."""

from __future__ import annotations

import pickle
import shutil
import sqlite3
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fast_dag import DAG
from fast_dag.errors import FastDAGError
from fast_dag.store import Store, StoreError
from tests.patience import LONG
from tests.store import golden

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A copy of the store of this version, as it is kept."""
    return Path(shutil.copy(GOLDEN / "v1.db", tmp_path / "runs.db"))


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("*.db")), ids=lambda file: file.name)
def test_stores_of_every_version_are_read(file: Path, tmp_path: Path) -> None:
    copy = shutil.copy(file, tmp_path / "runs.db")
    with Store(copy) as store:
        golden.check(store)
        assert store.doctor()["problems"] == []


def columns() -> list[tuple[str, str]]:
    connection = sqlite3.connect(GOLDEN / "v1.db")
    tables = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
    ).fetchall()
    found = [
        (table, row[1])
        for (table,) in tables
        for row in connection.execute(f"PRAGMA table_info({table})")
    ]
    connection.close()
    return found


WRONG: tuple[Any, ...] = (b"\x00\xff\x80", "text", 2**62, -1)


@pytest.mark.stress
@pytest.mark.parametrize(("table", "column"), columns(), ids=lambda name: str(name))
def test_changed_column_ends_in_an_error_of_ours(table: str, column: str, path: Path) -> None:
    clean = path.read_bytes()
    for value in WRONG:
        path.write_bytes(clean)
        connection = sqlite3.connect(path)
        try:
            connection.execute(f"UPDATE OR IGNORE {table} SET {column} = ?", (value,))
            connection.commit()
        except sqlite3.IntegrityError:
            continue
        finally:
            connection.close()
        looked_at(path)


@pytest.mark.stress
def test_changed_bytes_of_values_end_in_an_error_of_ours(path: Path) -> None:
    connection = sqlite3.connect(path)
    values = connection.execute("SELECT id, value FROM nodes WHERE value IS NOT NULL").fetchall()
    connection.close()
    clean = path.read_bytes()
    for row, value in values[:6]:
        for position in range(0, len(value), max(len(value) // 8, 1)):
            path.write_bytes(clean)
            data = bytearray(value)
            data[position] ^= 0x5A
            connection = sqlite3.connect(path)
            connection.execute("UPDATE nodes SET value = ? WHERE id = ?", (bytes(data), row))
            connection.commit()
            connection.close()
            looked_at(path)


def looked_at(path: Path) -> None:
    """Look at everything in a store, and go on with its runs: only our own errors come of it."""
    try:
        store = Store(path, durability="process")
    except FastDAGError:
        return
    with store:
        records = []
        with suppress(FastDAGError):
            records = store.runs()
        for record in records:
            for look in (record.to_dict, record.summary, record.to_html):
                with suppress(FastDAGError):
                    look()
            with suppress(FastDAGError):
                [record.get(each) for each in record.nodes]
        for action in (store.doctor, store.prune):
            with suppress(FastDAGError):
                action()
        for run_id in ("finished", "failed", "interrupted"):
            with suppress(FastDAGError):
                golden.pipeline().execute(store=store, run_id=run_id, on_change="keep")


def test_pickle_of_somebody_else_is_not_loaded(tmp_path: Path) -> None:
    path, key = tmp_path / "runs.db", b"k" * 32
    with Store(path, codec="pickle", key=key) as store:
        DAG("one").add_node("one", lambda: {1, 2}).run(store=store, run_id="a")
    evil = pickle.dumps(Evil(str(tmp_path / "ran")))
    connection = sqlite3.connect(path)
    (value,) = connection.execute("SELECT value FROM nodes").fetchone()
    for data in (evil, value[:33] + evil):
        connection.execute("UPDATE nodes SET value = ?", (data,))
        connection.commit()
        with Store(path, codec="pickle", key=key) as store, pytest.raises(StoreError):
            store.run("a")["one"]
    connection.execute("UPDATE nodes SET value = ?", (value,))
    connection.commit()
    connection.close()
    with Store(path, codec="pickle", key=key) as store:
        assert store.run("a")["one"] == {1, 2}
    with Store(path) as store, pytest.raises(StoreError, match="no key"):
        store.run("a")["one"]
    assert not (tmp_path / "ran").exists()


class Evil:
    def __init__(self, file: str) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return open, (self.file, "w")


def test_reading_imports_nothing(path: Path) -> None:
    code = """
import sys
from fast_dag.store import Store
store = Store(sys.argv[1])
before = set(sys.modules)
for record in store.runs():
    record.to_dict(), record.statuses
    for each in record.nodes:
        record.get(each)
print(*{name.partition(".")[0] for name in set(sys.modules) - before})
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        check=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LONG,
    )
    assert set(done.stdout.split()) <= {"fast_dag", *sys.stdlib_module_names}
