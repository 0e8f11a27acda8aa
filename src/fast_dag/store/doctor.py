"""What there is to say of the health of a store."""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from fast_dag.store import schema
from fast_dag.store.database import filesystem_of
from fast_dag.store.errors import StoreError
from fast_dag.store.stream import is_intact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Protocol

    from fast_dag.store.database import Database
    from fast_dag.store.values import Values

    class Store(Protocol):
        """What is looked at."""

        path: str
        values: Values | None

        @property
        def database(self) -> Database: ...
        def runs(self, *, limit: int | None = None) -> Iterable[Any]: ...


_MENDED: Final = (3, 51, 3)
"""The first SQLite without the fault that a checkpoint right after another one may corrupt a
database."""


def examined(store: Store) -> dict[str, Any]:
    """Versions, sizes and problems."""
    database = store.database
    problems: list[str] = []
    sizes = {}
    for ending in ("", "-wal"):
        with suppress(OSError):
            sizes[f"database{ending}"] = os.path.getsize(database.path + ending)
    statuses: dict[str, int] = {}
    used = set[str]()

    def look_at(what: str, look: Callable[[], None]) -> None:
        try:
            look()
        except StoreError as error:
            problems.append(f"{what} cannot be read: {error}")

    def pages() -> None:
        for (found,) in database.rows("PRAGMA integrity_check"):
            if found != "ok":
                problems.append(f"the database is damaged: {found}")

    def runs() -> None:
        for record in store.runs(limit=None):
            statuses[record.status] = statuses.get(record.status, 0) + 1

    def values(table: str, name: str) -> None:
        files = f"SELECT DISTINCT file FROM {table} WHERE file IS NOT NULL"
        used.update(file for (file,) in database.rows(files))
        for run, what, data in _values(database, table, name):
            if not (isinstance(data, bytes) and is_intact(data)):
                problems.append(f"what run {run!r} has of {what!r} is damaged")

    look_at("the database", pages)
    look_at("the table of runs", runs)
    for table, name in (("nodes", "path"), ("inputs", "name"), ("kept", "key")):
        look_at(f"the table of {table}", partial(values, table, name))
    there = set() if store.values is None else set(store.values.names())
    for name in sorted(used):
        try:
            if store.values is None:
                raise StoreError(f"there is no file {name!r}")
            store.values.read(name)
        except StoreError as error:
            problems.append(str(error))
    return {
        "path": store.path,
        "schema": schema.VERSION,
        "sqlite": sqlite3.sqlite_version,
        "sqlite_resets_safely": sqlite3.sqlite_version_info >= _MENDED,
        "python": sys.version.split()[0],
        "filesystem": filesystem_of(database.path) if database.is_file else None,
        "durability": database.durability,
        "sizes": sizes,
        "runs": statuses,
        "files": len(used),
        "unused_files": len(there - used),
        "problems": problems,
    }


def _values(database: Database, table: str, name: str) -> Iterator[tuple[str, str, Any]]:
    """The values of a table that have checksums, a few at a time: each with its run and name."""
    rows: list[Any] = [(0,)]
    while rows:
        rows = database.rows(
            f"SELECT t.id, r.run_id, t.{name}, t.value FROM {table} AS t"
            " JOIN runs AS r ON r.id = t.run WHERE t.id > ? AND t.codec LIKE 'plain%'"
            " AND t.value NOTNULL ORDER BY t.id LIMIT 100",
            rows[-1][0],
        )
        yield from [row[1:] for row in rows]
