"""What there is to say of the health of a store."""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from fast_dag.store import schema
from fast_dag.store.database import filesystem_of
from fast_dag.store.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable
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
    for (found,) in database.rows("PRAGMA integrity_check"):
        if found != "ok":
            problems.append(f"the database is damaged: {found}")
    statuses: dict[str, int] = {}
    for record in store.runs(limit=None):
        statuses[record.status] = statuses.get(record.status, 0) + 1
    used = {
        name
        for table in ("nodes", "inputs", "kept")
        for (name,) in database.rows(f"SELECT DISTINCT file FROM {table} WHERE file IS NOT NULL")
    }
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
