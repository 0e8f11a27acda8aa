"""The tables of a store, and the steps from one version of them to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sqlite3 import Connection

VERSION: Final = 1
"""The version that this code writes."""

OLDEST_READER: Final = 1
"""The oldest version of this code that may use what this one writes."""

APPLICATION: Final = 0x66646167
""""fdag": what SQLite's header calls the application that the file belongs to."""

TABLES: Final = (
    # What the file says of itself.
    "CREATE TABLE about (key TEXT PRIMARY KEY, value) WITHOUT ROWID",
    # One row for each run. Its id is the byte of its lock, so it is never used again.
    # `epoch` counts the owners: what an earlier one commits is refused. `generation` counts
    # reruns; `rerun` is what the last one asked for. `before` is the last commit when the owner
    # took the run, `deaths` how many owners in a row died without a commit. `lease` and `waits`
    # are for owners that no lock shows, and for runs that wait.
    """CREATE TABLE runs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        run_id TEXT NOT NULL UNIQUE,
        workflow TEXT NOT NULL,
        kind TEXT NOT NULL,
        status TEXT NOT NULL,
        epoch INTEGER NOT NULL DEFAULT 0,
        generation INTEGER NOT NULL DEFAULT 1,
        rerun TEXT,
        owner TEXT,
        lease REAL,
        waits TEXT,
        cancel INTEGER NOT NULL DEFAULT 0,
        before INTEGER NOT NULL DEFAULT 0,
        deaths INTEGER NOT NULL DEFAULT 0,
        outputs TEXT,
        graph TEXT,
        origin INTEGER,
        created REAL NOT NULL,
        began REAL,
        ended REAL,
        error TEXT,
        pruned REAL
    )""",
    "CREATE INDEX runs_by_workflow ON runs (workflow, id)",
    "CREATE INDEX runs_by_status ON runs (status, id)",
    """CREATE TABLE tags (
        run INTEGER NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,
        PRIMARY KEY (run, key)
    ) WITHOUT ROWID""",
    "CREATE INDEX tags_by_value ON tags (key, value, run)",
    # The inputs of runs. `digest` is that of section "keys of values" in cache/keys.py.
    """CREATE TABLE inputs (
        id INTEGER PRIMARY KEY,
        run INTEGER NOT NULL, name TEXT NOT NULL, digest BLOB,
        codec TEXT NOT NULL, value BLOB, file TEXT, source INTEGER,
        UNIQUE (run, name)
    )""",
    # One attempt of a node that is a workflow: what its nodes commit belongs to it. The outermost
    # workflow has the scope 0, and no row.
    """CREATE TABLE scopes (
        id INTEGER PRIMARY KEY,
        run INTEGER NOT NULL, parent INTEGER NOT NULL, node TEXT NOT NULL,
        visit INTEGER NOT NULL DEFAULT 0, item BLOB NOT NULL DEFAULT x'',
        attempt INTEGER NOT NULL, generation INTEGER NOT NULL, replaced INTEGER
    )""",
    "CREATE INDEX scopes_of_run ON scopes (run, parent, node)",
    # The end of a node, in the order of the commits. `replaced` is the generation that has another
    # one in its place, 0 if the node has failed when it was called again for a value that is not
    # stored; the row of that failure is not `stored`, either. `source` is the row that has the
    # value, where runs share it.
    """CREATE TABLE nodes (
        id INTEGER PRIMARY KEY,
        run INTEGER NOT NULL, scope INTEGER NOT NULL, node TEXT NOT NULL,
        visit INTEGER NOT NULL DEFAULT 0, item BLOB NOT NULL DEFAULT x'',
        generation INTEGER NOT NULL, replaced INTEGER,
        path TEXT NOT NULL,
        ok INTEGER NOT NULL, goes_on INTEGER NOT NULL, key TEXT, choice TEXT, place TEXT,
        attempts INTEGER NOT NULL, cached INTEGER,
        began REAL NOT NULL, seconds REAL NOT NULL,
        stored INTEGER NOT NULL, codec TEXT, value BLOB, file TEXT, source INTEGER,
        digest BLOB, inputs BLOB, code BLOB
    )""",
    """CREATE UNIQUE INDEX nodes_in_force ON nodes (run, scope, node, visit, item)
        WHERE replaced IS NULL""",
    "CREATE INDEX nodes_by_source ON nodes (source) WHERE source IS NOT NULL",
    # A node that may be called once only is about to be called.
    """CREATE TABLE calls (
        run INTEGER NOT NULL, scope INTEGER NOT NULL, node TEXT NOT NULL,
        visit INTEGER NOT NULL DEFAULT 0, item BLOB NOT NULL DEFAULT x'',
        generation INTEGER NOT NULL, path TEXT NOT NULL, began REAL NOT NULL,
        PRIMARY KEY (run, scope, node, visit, item, generation)
    ) WITHOUT ROWID""",
    # What nodes keep in the context.
    """CREATE TABLE kept (
        id INTEGER PRIMARY KEY,
        run INTEGER NOT NULL, key TEXT NOT NULL,
        codec TEXT NOT NULL, value BLOB, file TEXT, source INTEGER,
        UNIQUE (run, key)
    )""",
    # What code nodes had: the parts of their fingerprints. Also the graphs of runs, each of which
    # lists the `codes` of its nodes. Pruned when nothing refers to them, which `prunes` in `about`
    # counts.
    "CREATE TABLE codes (digest BLOB PRIMARY KEY, parts TEXT NOT NULL) WITHOUT ROWID",
)

STEPS: Final[dict[int, tuple[str, ...]]] = {}
"""By the version that they lead from: the statements of the next version."""


def make(connection: Connection) -> None:
    """Make the tables, inside of a transaction."""
    for statement in TABLES:
        connection.execute(statement)
    about = {"version": VERSION, "oldest_reader": OLDEST_READER}
    connection.executemany("INSERT INTO about VALUES (?, ?)", about.items())
    connection.execute(f"PRAGMA application_id = {APPLICATION}")


def migrate(connection: Connection, version: int) -> None:
    """Take the tables from an older version to this one, inside of a transaction."""
    for each in range(version, VERSION):
        for statement in STEPS[each]:
            connection.execute(statement)
    connection.execute("UPDATE about SET value = ? WHERE key = 'version'", (VERSION,))
