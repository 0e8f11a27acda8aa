"""Store: the runs that survive, in a database file."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from math import inf
from time import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn
from weakref import WeakKeyDictionary

from fast_dag.cache.keys import UnkeyableError, digest_of, key_of, stable_text
from fast_dag.define.node import Node, name_of
from fast_dag.define.options import WRONG, asked_count, seconds
from fast_dag.define.signature import ABSENT
from fast_dag.errors import ValidationError, closest, failures, names
from fast_dag.store.codec import CloudPickle, Pickle, Plain
from fast_dag.store.database import Database, closed, placeholders, reading
from fast_dag.store.doctor import examined
from fast_dag.store.durable import DOUBTS, IN_DOUBT, WITH_VALUES
from fast_dag.store.errors import (
    DecodeError,
    EncodeError,
    RunExistsError,
    RunInUseError,
    StoreError,
    UnknownRunError,
)
from fast_dag.store.graphs import StoredGraph, codes_in
from fast_dag.store.records import RunRecord
from fast_dag.store.reruns import Rows, paths_of, undecided
from fast_dag.store.values import LARGE, Values
from fast_dag.store.wrapped import WRAPPED, own_parts, unwrapped, wrapped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from sqlite3 import Connection
    from typing import Self

    from fast_dag.store.codec import Codec
    from fast_dag.store.durable import Placed

FINAL: Final = frozenset({"completed", "completed_with_errors", "failed", "timed_out", "cancelled"})
"""The statuses of runs that are over."""

_STATUSES: Final = FINAL | {"running", "interrupted", "in_doubt", "waiting"}


class Store:
    """Where durable runs are kept.

    Parameters
    ----------
    path:
        The database file, which is made if there is none; ":memory:" keeps nothing.
    codec:
        How values become bytes: "plain" for data of exact types; "pickle" or "cloudpickle" for
        anything, with a `key`.
    key:
        The secret of the pickles, at least 16 bytes.
    allow:
        Classes that plain values may have, beside those in the annotations of nodes: classes,
        "module:Class", or names of modules.
    durability:
        "disk": what is committed survives a power cut. "process": it survives the process only,
        for a tenth of the time.
    check_filesystem:
        False allows file systems of networks, whose locks may not hold what they promise.
    max_resumes:
        So many owners of a run may die in a row without a commit; then the run has failed.
    retention:
        Runs that ended longer ago than that, "30 days" say, are pruned when the store is opened.

    >>> from fast_dag import DAG
    >>> dag = DAG("shop").add_node("price", lambda: 21).add_node("total", lambda x: 2 * x)
    >>> dag = dag.connect("price", "total")
    >>> with Store(":memory:") as store:
    ...     dag.run(store=store, run_id="order-17"), dag.run(store=store, run_id="order-17")
    (42, 42)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        codec: str = "plain",
        key: bytes | None = None,
        allow: Iterable[type | str] = (),
        durability: str = "disk",
        check_filesystem: bool = True,
        max_resumes: int = 10,
        retention: Any = None,
    ) -> None:
        self.path = os.fsdecode(path)
        self.allow = (allow,) if isinstance(allow, (str, type)) else tuple(allow)
        self.max_resumes = asked_count("max_resumes", max_resumes) or 10
        keeps = None if retention is None else age(retention)
        if codec not in ("plain", "pickle", "cloudpickle"):
            raise ValidationError(f"codec is 'plain', 'pickle' or 'cloudpickle', not {codec!r}")
        if codec != "plain" and key is None:
            raise ValidationError(
                f"codec={codec!r} needs key=, a secret like secrets.token_bytes(32): a pickle can "
                "run any code, so only what was written with the key is loaded"
            )
        self.codec = codec
        self.key = key
        self._database = database = Database.of(self.path, durability, check_filesystem)
        self.is_closed = False
        try:
            # Beside the file itself, whatever the current directory and links become.
            self.values = Values(f"{database.path}-values") if database.is_file else None
            self.shelf = Shelf(self, [])
            self._given = Shelf(self, [], is_given=True)
            self._shelves: WeakKeyDictionary[Any, tuple[object, Shelf]] = WeakKeyDictionary()
            if keeps is not None:
                self.prune(keeps)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the store. Runs that are at work with it are interrupted."""
        if not self.is_closed:
            self.is_closed = True
            self._database.leave()

    @property
    def database(self) -> Database:
        """Where its rows are. Raises StoreError if the store is closed, also if other Stores of the
        same file are open."""
        if self.is_closed:
            raise closed(self.path)
        return self._database

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended_by: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Store, and a record that reads from one, cannot be copied or pickled: open a Store "
            "of the same path where it is needed"
        )

    def __repr__(self) -> str:
        return f"<Store {self.path!r}>"

    # Looking.

    def run(self, run_id: str) -> RunRecord:
        """The record of a run. Raises UnknownRunError, a KeyError, if there is none.

        >>> from fast_dag import DAG
        >>> dag = DAG("shop").add_node("price", lambda: 21)
        >>> with Store(":memory:") as store:
        ...     _ = dag.run(store=store, run_id="order-17", tags={"customer": "ada"})
        ...     record = store.run("order-17")
        ...     record.status, record["price"], record.tags
        ('completed', 21, {'customer': 'ada'})
        """
        return self._recorded([self._row(run_id)])[0]

    def runs(
        self,
        *,
        workflow: str | None = None,
        status: str | None = None,
        tag: Mapping[str, Any] | None = None,
        before: datetime | float | None = None,
        after: datetime | float | None = None,
        limit: int | None = 100,
    ) -> list[RunRecord]:
        """The records of the runs that are all of this, the newest first.

        `before` and `after` are compared with the time when a run was begun. `tag` are tags that
        it has. Raises ValidationError for a status that there is not.

        >>> from fast_dag import DAG
        >>> dag = DAG("shop").add_node("price", lambda: 21)
        >>> with Store(":memory:") as store:
        ...     runs = [dag.execute(store=store, run_id=each) for each in ("a", "b")]
        ...     [record.run_id for record in store.runs(workflow="shop")]
        ['b', 'a']
        """
        conditions, values = [], list[Any]()
        kept = _kept_as(status)
        if limit is not None and (not isinstance(limit, int) or limit < 0):
            raise ValidationError(f"limit is a count, not {limit!r}")
        if workflow is not None:
            conditions.append("workflow = ?")
            values.append(_name("workflow", workflow))
        if kept:
            conditions.append(f"status IN ({placeholders(kept)})")
            values += kept
        for sign, at in (("<", before), (">", after)):
            if at is not None:
                conditions.append(f"created {sign} ?")
                values.append(_moment(at))
        for key, each in checked_tags("tag", tag).items():
            conditions.append("id IN (SELECT run FROM tags WHERE key = ? AND value = ?)")
            values += [key, json.dumps(each)]
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        found: list[RunRecord] = []
        statement = f"SELECT {_RUN} FROM runs AS r{where} ORDER BY id DESC"
        if limit is not None and len(kept) < 2:  # else only the locks tell which are meant
            statement += " LIMIT ?"
            values.append(limit)
        rows = [RunRow(*row) for row in self.database.rows(statement, *values)]
        for row in rows:
            if limit is not None and len(found) >= limit:
                break
            (record,) = self._recorded([row])
            if status is None or record.status == status:
                found.append(record)
        return found

    def _row(self, run_id: str) -> RunRow:
        rows = []
        with suppress(UnicodeEncodeError):  # no run is called so: see `checked_id`
            rows = self.database.rows(f"SELECT {_RUN} FROM runs AS r WHERE run_id = ?", run_id)
        if not rows:
            known = [row[0] for row in self.database.rows("SELECT run_id FROM runs")]
            raise UnknownRunError(
                f"{self.path!r} has no run {run_id!r}{closest(run_id, known)[1]}", run_id=run_id
            )
        return RunRow(*rows[0])

    def _recorded(self, rows: list[RunRow]) -> list[RunRecord]:
        found = []
        for row in rows:
            tags = self.database.rows("SELECT key, value FROM tags WHERE run = ?", row.id)
            with reading(self.path):
                known = {key: json.loads(value) for key, value in tags}
                found.append(RunRecord(self, row, self._status_of(row), known))
        return found

    def _status_of(self, row: RunRow) -> str:
        """The status; a run whose owner has died is interrupted."""
        if row.status == "running" and not self.database.locks.is_held(row.id):
            again = self.database.rows("SELECT status FROM runs WHERE id = ?", row.id)
            return "interrupted" if again and again[0][0] == "running" else str(again[0][0])
        return row.status

    def owner_of(self, row: RunRow) -> str:
        """The owner of a run, for people."""
        return owner_text(row.owner)

    def node_rows(self, run: int) -> Iterator[NodeRow]:
        """The rows of the nodes of a run that count: of each nested workflow, those of its last
        attempt."""
        parents = {}
        last: dict[tuple[int, str], int] = {}
        for scope, parent, node in self.database.rows(
            "SELECT id, parent, node FROM scopes WHERE run = ? AND replaced IS NULL ORDER BY id",
            run,
        ):
            parents[scope] = (parent, node)
            last[parent, node] = scope
        for row in self.database.rows(_NODES, run):
            made = NodeRow(*row)
            scope, path = made.scope, made.node
            while scope and last.get(parents.get(scope, (-1, ""))) == scope:
                scope, node = parents[scope]
                path = f"{node}.{path}"
            if not scope:  # a node that was renamed was written with another path
                yield made if path == made.path else made._replace(path=path)

    def scopes_of(self, run: int, scope: int, node: str) -> list[int]:
        """The attempts of a nested workflow, in order."""
        statement = (
            "SELECT id FROM scopes WHERE run = ? AND parent = ? AND node = ? AND replaced IS NULL"
            " ORDER BY id"
        )
        return [each for (each,) in self.database.rows(statement, run, scope, node)]

    def value_of(self, row: NodeRow) -> Any:
        """The value of a node's row."""
        return self.shelf.take((row.codec, row.value, row.file), row[-5:])

    def inputs_of(self, run: int) -> dict[str, Any]:
        """The inputs of a run."""
        return {row[0]: self._input(row) for row in self.database.rows(INPUTS, run)}

    def _input(self, row: Any) -> Any:
        return self.shelf.take(row[2:5], ("input", *row[5:]))

    def doubts_of(self, run: int) -> list[str]:
        """The nodes of a run that are in doubt."""
        return [path for (path,) in self.database.rows(DOUBTS, run)]

    def graph_text(self, digest: Any) -> str | None:
        """The graph of a run, as JSON."""
        rows = self.database.rows("SELECT parts FROM codes WHERE digest = ?", digest)
        return rows[0][0] if rows else None

    # Changing.

    def cancel(self, run_id: str) -> bool:
        """Cancel a run. If it is at work, here or elsewhere, it ends with its next commit. Returns
        False if it has ended already. `rerun="failed"` goes on with it.

        >>> from fast_dag import DAG
        >>> dag = DAG("shop").add_node("price", lambda: 21)
        >>> with Store(":memory:") as store:
        ...     _ = dag.run(store=store, run_id="order-17")
        ...     store.cancel("order-17")
        False
        """
        row = self._row(run_id)
        if row.status in FINAL:
            return False
        hold = self.database.locks.take(row.id)
        try:
            if hold is None:
                statement = "UPDATE runs SET cancel = 1 WHERE id = ? AND status = 'running'"
                values: tuple[Any, ...] = (row.id,)
            else:
                statement = (
                    "UPDATE runs SET status = 'cancelled', epoch = epoch + 1, owner = NULL,"
                    " cancel = 0, ended = ? WHERE id = ? AND status NOT IN"
                    f" ({placeholders([*FINAL])})"
                )
                values = (time(), row.id, *FINAL)
            changed = self.database.transact(
                lambda connection: connection.execute(statement, values).rowcount
            )
        finally:
            if hold is not None:
                self.database.locks.give_back(hold)
        return bool(changed)

    def decide(
        self,
        run_id: str,
        node: str | Node[..., Any],
        *,
        value: Any = ABSENT,
        again: bool = False,
    ) -> None:
        """Settle a node that is in doubt: with the value that it has computed, or by having it
        called again. The run then goes on when it is executed again.

        Raises StoreError if the node is not in doubt, EncodeError if the value cannot be stored.
        """
        if (value is ABSENT) is not again:
            raise ValidationError("decide with value=..., or with again=True")
        node = _name("node", node)
        row = self._row(run_id)
        placed: Any = (None, None, None)
        if not again:
            identity = (run_id, node, 0, b"", row.generation)
            placed = self._given.put(value, identity)
        with self._owned(row):
            self.database.transact(
                lambda connection: self._decided(connection, row, node, again, placed, value)
            )

    def _decided(
        self,
        connection: Connection,
        row: RunRow,
        node: str,
        again: bool,
        placed: Any,
        value: Any,
    ) -> None:
        calls = connection.execute(f"{_CALLS} AND path = ?", (row.id, node)).fetchall()
        if not calls:
            doubts = names(path for (path,) in connection.execute(DOUBTS, (row.id,)))
            raise StoreError(
                f"node {node!r} of the run {row.run_id!r} is not in doubt; in doubt are: "
                f"{doubts or 'none'}",
                run_id=row.run_id,
                node=node,
            )
        scope, name, generation, began = calls[-1]
        if again:
            connection.execute(
                "DELETE FROM calls WHERE run = ? AND scope = ? AND node = ? AND generation = ?",
                (row.id, scope, name, generation),
            )
            return
        graph = StoredGraph.of(self.graph_text_in(connection, row.graph))
        choice = None if graph is None else graph.choice_of(node, value)
        connection.execute(
            "INSERT INTO nodes (run, scope, node, generation, path, ok, goes_on, choice, attempts,"
            " began, seconds, stored, codec, value, file)"
            " VALUES (?, ?, ?, ?, ?, 1, 1, ?, 1, ?, 0, 1, ?, ?, ?)",
            (row.id, scope, name, row.generation, node, choice, began, *placed),
        )

    def graph_text_in(self, connection: Connection, digest: Any) -> str | None:
        """The graph of a run, inside of a transaction."""
        row = connection.execute("SELECT parts FROM codes WHERE digest = ?", (digest,)).fetchone()
        return None if row is None else str(row[0])

    @contextmanager
    def _owned(self, row: RunRow) -> Iterator[None]:
        """Own a run that nobody is at work on. Raises RunInUseError."""
        hold = self.database.locks.take(row.id)
        if hold is None:
            raise in_use(row.run_id, self._row(row.run_id).owner)
        try:
            yield
        finally:
            self.database.locks.give_back(hold)

    def fork(
        self,
        source: str,
        *,
        run_id: str | None = None,
        at: str | Node[..., Any] | Iterable[str | Node[..., Any]],
        inputs: Mapping[str, Any] | None = None,
    ) -> str:
        """Begin a run that shares with another what that has computed, but for the nodes `at` and
        what is below them. Returns its id. It goes on when it is executed with that id.

        `at` is a node or several, by name or themselves. `inputs` are those that differ; what takes
        them is computed anew, too. Values are shared, not copied. The other run may be at work.

        >>> from fast_dag import DAG
        >>> dag = DAG("shop").add_node("price", lambda: 21).add_node("total", lambda x: 2 * x)
        >>> dag = dag.connect("price", "total")
        >>> with Store(":memory:") as store:
        ...     _ = dag.run(store=store, run_id="order-17")
        ...     store.fork("order-17", run_id="order-17b", at="total")
        ...     run = dag.execute(store=store, run_id="order-17b")
        ...     run.value, run.metrics["replayed"]
        'order-17b'
        (42, 1)
        """
        made = os.urandom(16).hex() if run_id is None else checked_id(run_id)
        row = self._row(source)
        if row.pruned is not None:
            raise StoreError(f"the run {source!r} was pruned", run_id=source)
        if inputs is not None and not isinstance(inputs, Mapping):
            raise ValidationError(f"inputs is a mapping of names to values, not {inputs!r}")
        given = {
            name: (input_digest(value), *self._given.put(value, ("input", made, name)))
            for name, value in (inputs or {}).items()
        }
        several = at if isinstance(at, Iterable) and not isinstance(at, str) else [at]
        nodes = [_name("at", each) for each in several]
        self.database.transact(lambda connection: self._forked(connection, row, made, nodes, given))
        return made

    def _forked(
        self,
        connection: Connection,
        row: RunRow,
        run_id: str,
        nodes: list[str],
        inputs: Mapping[str, tuple[Any, ...]],
    ) -> None:
        if connection.execute("SELECT 1 FROM runs WHERE run_id = ?", (run_id,)).fetchone():
            raise RunExistsError(f"there is a run {run_id!r} already", run_id=run_id)
        graph = StoredGraph.of(self.graph_text_in(connection, row.graph))
        if graph is None:
            raise StoreError(f"the graph of the run {row.run_id!r} is not in the store")
        known = {each for takes in graph.takes.values() for each in takes}
        for name in inputs.keys() - known:
            raise ValidationError(
                f"no node of {graph.name!r} takes an input {name!r}{closest(name, known)[1]}"
            )
        taken = [name for name, takes in graph.takes.items() if not inputs.keys().isdisjoint(takes)]
        rows = Rows(connection, row.id, graph)
        left_out, gone = rows.below(paths_of([*nodes, *taken]))
        if row.status not in FINAL:  # a rerun may not have decided yet what it leaves as it was
            more, more_gone = undecided(connection, rows, row.generation)
            for scope, undone in more.items():
                left_out[scope] = left_out.get(scope, set()) | undone
            gone |= more_gone
        cursor = connection.execute(
            "INSERT INTO runs (run_id, workflow, kind, status, outputs, graph, origin, created)"
            " SELECT ?, workflow, kind, 'interrupted', outputs, graph, id, ? FROM runs"
            " WHERE id = ?",
            (run_id, time(), row.id),
        )
        new = cursor.lastrowid
        connection.execute(
            "INSERT INTO tags SELECT ?, key, value FROM tags WHERE run = ?", (new, row.id)
        )
        for table in ("inputs", "kept"):
            key = "name, digest" if table == "inputs" else "key"
            connection.execute(
                f"INSERT INTO {table} (run, {key}, codec, source)"
                f" SELECT ?, {key}, codec, COALESCE(source, id) FROM {table} WHERE run = ?",
                (new, row.id),
            )
        for name, placed in inputs.items():
            connection.execute("DELETE FROM inputs WHERE run = ? AND name = ?", (new, name))
            connection.execute(
                "INSERT INTO inputs (run, name, digest, codec, value, file)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (new, name, *placed),
            )
        scopes = {0: 0}
        for scope, parent in connection.execute(
            "SELECT id, parent FROM scopes WHERE run = ? AND replaced IS NULL ORDER BY id",
            (row.id,),
        ).fetchall():
            if scope not in gone and parent in scopes:
                made = connection.execute(
                    "INSERT INTO scopes (run, parent, node, visit, item, attempt, generation)"
                    " SELECT ?, ?, node, visit, item, attempt, 1 FROM scopes WHERE id = ?",
                    (new, scopes[parent], scope),
                )
                assert made.lastrowid is not None
                scopes[scope] = made.lastrowid
        for node_id, scope, node in connection.execute(
            "SELECT id, scope, node FROM nodes WHERE run = ? AND replaced IS NULL ORDER BY id",
            (row.id,),
        ).fetchall():
            if scope in scopes and node not in left_out.get(scope, ()):
                connection.execute(_SHARE, (new, scopes[scope], node_id))

    def prune(
        self,
        older_than: Any = 0,
        *,
        status: str | None = None,
        forget: bool = False,
        dry_run: bool = False,
    ) -> Pruned:
        """Delete what ended longer ago than that: "30 days", a timedelta, or seconds. Of runs that
        have ended nothing stays but the record; of others, the values that a rerun replaced go.

        The ids stay taken, so that a late repetition of a call does not start its run anew, unless
        `forget`. Values that a fork shares stay.

        >>> with Store(":memory:") as store:
        ...     store.prune(older_than="30 days")
        Pruned(runs=0, rows=0, files=0, bytes=0)
        """
        end = time() - age(older_than)
        pruned = self.database.transact(
            lambda connection: self._pruned(connection, end, status, forget, dry_run)
        )
        values = self.values
        if values is None or dry_run:
            return pruned
        # Only now: if the process died before the commit, rows would name files that are gone.
        files, size = self.database.transact(
            lambda connection: self._pruned_files(connection, values, end)
        )
        return pruned._replace(files=files, bytes=size)

    def _pruned(
        self, connection: Connection, end: float, status: str | None, forget: bool, dry_run: bool
    ) -> Pruned:
        chosen = [status] if status is not None else sorted(FINAL)
        runs = [
            run
            for (run,) in connection.execute(
                f"SELECT id FROM runs WHERE ended < ? AND status IN ({placeholders(chosen)})"
                f"{'' if forget else ' AND pruned IS NULL'}",
                (end, *chosen),
            )
            if not self.database.locks.is_held(run)
        ]
        if dry_run:
            rows = sum(
                connection.execute("SELECT COUNT(*) FROM nodes WHERE run = ?", (run,)).fetchone()[0]
                for run in runs
            )
            return Pruned(len(runs), rows, 0, 0)
        rows = sum(connection.execute(each, (end,)).rowcount for each in _PRUNE_REPLACED)
        connection.execute("CREATE TEMP TABLE chosen (run INTEGER PRIMARY KEY)")
        connection.executemany("INSERT INTO chosen VALUES (?)", [(run,) for run in runs])
        for table in ("nodes", "inputs", "kept"):
            deleted = connection.execute(
                f"DELETE FROM {table} WHERE run IN chosen AND id NOT IN (SELECT source FROM {table}"
                " WHERE source IS NOT NULL AND run NOT IN chosen)"
            ).rowcount
            rows += deleted if table == "nodes" else 0
        for table in ("calls", "scopes"):
            connection.execute(f"DELETE FROM {table} WHERE run IN chosen")
        if forget:
            unshared = " AND ".join(
                f"run NOT IN (SELECT run FROM {table})" for table in ("nodes", "inputs", "kept")
            )
            connection.execute(
                f"DELETE FROM runs WHERE id IN (SELECT run FROM chosen WHERE {unshared})"
            )
            connection.execute("DELETE FROM tags WHERE run NOT IN (SELECT id FROM runs)")
        connection.execute("UPDATE runs SET pruned = ?, graph = NULL WHERE id IN chosen", (time(),))
        connection.execute("DROP TABLE chosen")
        _prune_codes(connection)
        return Pruned(len(runs), rows, 0, 0)

    def _pruned_files(self, connection: Connection, values: Values, end: float) -> tuple[int, int]:
        """Delete the files that no row names, in a transaction, so that nobody commits a row that
        names one. Returns how many there were, and their bytes."""
        used, sizes = _files_in(connection), []
        # Values that were written of late may belong to commits that are under way.
        hour_ago = before = time() - 3600
        running = connection.execute("SELECT id FROM runs WHERE status = 'running'")
        if not any(self.database.locks.is_held(run) for (run,) in running):
            before = max(end, hour_ago)
        for name in [each for each in values.names() if each not in used]:
            size = values.drop(name, before)
            if size is not None:
                sizes.append(size)
        values.drop_drafts(hour_ago)
        return len(sizes), sum(sizes)

    def backup(self, path: str | os.PathLike[str]) -> None:
        """Copy the store, as it is at one moment, to a new file; the files of large values go
        beside it.

        Raises StoreError if the file exists or cannot be written.
        """
        database, target = self.database, os.fspath(path)
        try:
            os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            try:
                with reading(self.path):
                    while not self._is_copied(database, target):
                        pass
            except BaseException:
                os.unlink(target)  # half a copy is none
                raise
        except (OSError, sqlite3.Error) as error:
            raise StoreError(
                f"{self.path!r} cannot be copied to {target!r}: {error}", path=target
            ) from error

    def _is_copied(self, database: Database, target: str) -> bool:
        """Copy the database, and the files that it names. Returns False if a prune has deleted one
        of them meanwhile: then the copy is to be made anew."""
        copy = sqlite3.connect(target)
        try:
            database.call(lambda connection: connection.backup(copy))
            files = _files_in(copy)
        finally:
            copy.close()
        if self.values is None:
            return True
        twin = Values(f"{target}-values")
        for name in sorted(files):
            if twin.has(name):
                continue
            try:
                data = self.values.read(name)
            except StoreError:
                if self.values.has(name) or name in database.transact(_files_in):
                    raise
                return False
            twin.write(data)
        for name in [each for each in twin.names() if each not in files]:
            twin.drop(name, before=inf)
        return True

    def doctor(self) -> dict[str, Any]:
        """What there is to say of the health of the store: versions, sizes, and `problems`, which
        should be empty. Reads every value."""
        with reading(self.path):
            return examined(self)

    # What a run needs.

    def shelf_of(self, workflow: Any) -> Shelf:
        """Where the values of a workflow's nodes are: annotations name their classes."""
        known = self._shelves.get(workflow)
        version = workflow.version
        if known is None or known[0] != version:
            known = version, Shelf(self, list(annotations_of(workflow)))
            self._shelves[workflow] = known
        return known[1]


class RunRow(NamedTuple):
    """The row of a run."""

    id: int
    run_id: str
    workflow: str
    kind: str
    status: str
    generation: int
    owner: str | None
    graph: bytes | None
    created: float
    began: float | None
    ended: float | None
    error: str | None
    pruned: float | None
    origin_id: str | None


_RUN: Final = (
    ", ".join(f"r.{field}" for field in RunRow._fields[:-1])
    + ", (SELECT o.run_id FROM runs AS o WHERE o.id = r.origin)"
)


class NodeRow(NamedTuple):
    """The row of a node, with the value of the row that it shares."""

    scope: int
    node: str
    path: str
    ok: int
    choice: str | None
    attempts: int
    cached: int | None
    began: float
    seconds: float
    stored: int
    generation: int
    codec: str | None
    value: bytes | None
    file: str | None
    source_run: str
    source_path: str
    source_visit: int
    source_item: bytes
    source_generation: int


_NODES: Final = f"""
    SELECT n.scope, n.node, n.path, n.ok, n.choice, n.attempts, n.cached, n.began, n.seconds,
        n.stored, n.generation, v.codec, v.value, v.file,
        r.run_id, v.path, v.visit, v.item, v.generation
    {WITH_VALUES} AND n.replaced IS NULL AND n.item = x'' ORDER BY n.id"""

_CALLS: Final = f"SELECT scope, node, generation, began {IN_DOUBT}"

INPUTS: Final = """
    SELECT i.name, i.digest, v.codec, v.value, v.file, r.run_id, v.name FROM inputs AS i
    JOIN inputs AS v ON v.id = COALESCE(i.source, i.id) JOIN runs AS r ON r.id = v.run
    WHERE i.run = ? ORDER BY i.id"""

_SHARE: Final = """
    INSERT INTO nodes (run, scope, node, visit, item, generation, path, ok, goes_on, key, choice,
        place, attempts, cached, began, seconds, stored, codec, source, digest, inputs, code)
    SELECT ?, ?, node, visit, item, 1, path, ok, goes_on, key, choice,
        place, attempts, cached, began, seconds, stored, codec, COALESCE(source, id), digest,
        inputs, code
    FROM nodes WHERE id = ?"""

_REPLACED: Final = """
    replaced IS NOT NULL AND began < ?
    AND NOT EXISTS (SELECT 1 FROM nodes AS o WHERE o.source = nodes.id)"""

_PRUNE_REPLACED: Final = (
    # How often a node has completed counts in the ids of its calls, so the row stays.
    f"""
    UPDATE nodes SET stored = 0, codec = NULL, value = NULL, file = NULL, source = NULL
    WHERE ok AND stored AND item = x'' AND {_REPLACED}""",
    f"DELETE FROM nodes WHERE NOT (ok AND item = x'') AND {_REPLACED}",
)


def _prune_codes(connection: Connection) -> None:
    """Delete the graphs and the code that nothing refers to any more. A run that is not over may
    still commit nodes with the code that its graph lists."""
    over = sorted(FINAL)
    unused = {
        key
        for (key,) in connection.execute(
            "SELECT digest FROM codes EXCEPT SELECT code FROM nodes EXCEPT SELECT graph FROM runs"
        )
    }
    for (text,) in connection.execute(
        "SELECT parts FROM codes WHERE digest IN (SELECT graph FROM runs"
        f" WHERE status NOT IN ({placeholders(over)}))",
        over,
    ):
        unused.difference_update(codes_in(text))
    if unused:
        connection.executemany("DELETE FROM codes WHERE digest = ?", [(key,) for key in unused])
        connection.execute(
            "INSERT INTO about VALUES ('prunes', 1) ON CONFLICT DO UPDATE SET value = value + 1"
        )


def _files_in(connection: Connection) -> set[str]:
    """The files of values that rows name."""
    return {
        name
        for table in ("nodes", "inputs", "kept")
        for (name,) in connection.execute(
            f"SELECT DISTINCT file FROM {table} WHERE file IS NOT NULL"
        )
    }


def prunes_in(connection: Connection) -> object:
    """How often code was deleted: what a process remembers to be there may be gone since."""
    return connection.execute("SELECT value FROM about WHERE key = 'prunes'").fetchone()


class Pruned(NamedTuple):
    """What `Store.prune` has deleted."""

    runs: int
    rows: int
    files: int
    bytes: int


def _kept_as(status: str | None) -> list[str]:
    """The statuses that the row may have: who died could not write that the run is interrupted."""
    if status in ("interrupted", "running"):
        return ["interrupted", "running"]
    if status is not None and _name("status", status) not in _STATUSES:
        raise ValidationError(
            f"status is one of {names(sorted(_STATUSES))}, not {status!r}"
            f"{closest(status, _STATUSES)[1]}"
        )
    return [] if status is None else [status]


def _moment(at: Any) -> float:
    """A time as seconds since 1970; raises ValidationError."""
    if isinstance(at, datetime):
        return at.timestamp()
    if isinstance(at, (int, float)) and not isinstance(at, bool):
        return float(at)
    raise ValidationError(f"before and after are datetimes, or seconds since 1970, not {at!r}")


def age(value: Any) -> float:
    """A duration in seconds: "30 days", a timedelta, a number of seconds.

    >>> age("36 hours"), age(5)
    (129600.0, 5.0)
    """
    if isinstance(value, str):
        number, _, unit = value.strip().partition(" ")
        factor = _UNITS.get(unit.strip().rstrip("s"))
        try:
            if factor is not None:
                return seconds(float(number) * factor)
        except ValueError:
            factor = None
    else:
        try:
            return float(seconds(value))
        except WRONG:
            factor = None
    raise ValidationError(
        f'an age is a text like "30 days" or "12 hours", a timedelta, or seconds, not {value!r}'
    )


_UNITS: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}


def _name(option: str, given: Any) -> str:
    """The name that is meant: that of a node or workflow, or a text; raises ValidationError."""
    name = name_of(given)
    if not isinstance(name, str):
        raise ValidationError(f"{option} is a name, not {given!r}")
    return name


def checked_tags(option: str, tags: Any) -> dict[str, Any]:
    """Tags that may be some; raises ValidationError."""
    if tags is None:
        return {}
    found: dict[Any, Any] = {}
    try:
        found = dict(tags)
        fits = all(
            isinstance(key, str) and (value is None or isinstance(value, (str, int, float, bool)))
            for key, value in found.items()
        )
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValidationError(
            f"{option} is a mapping such as {{'customer': 'ada'}}, of names to strings, numbers, "
            f"bools or None, not {tags!r}"
        )
    return found


def checked_id(run_id: Any) -> str:
    """A run_id that may be one; raises ValidationError."""
    if (
        not isinstance(run_id, str)
        or not 1 <= len(run_id) <= 200
        or not run_id.isprintable()
        or "/" in run_id
    ):
        raise ValidationError(
            f"run_id is a string of 1 to 200 printable characters without '/', not {run_id!r}; "
            "to give an input of that name: inputs={'run_id': ...}"
        )
    return run_id


def input_digest(value: object) -> bytes | None:
    """What tells inputs apart; None if only `==` can."""
    try:
        return digest_of(stable_text(key_of(value)).encode("utf-8", "surrogatepass"))
    except UnkeyableError:
        return None


def owner_now() -> str:
    """This process, as the owner of a run."""
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time()})


def owner_text(owner: str | None) -> str:
    """An owner for people.

    >>> owner_text('{"pid": 12, "host": "ada", "since": 0}')
    'process 12 on ada'
    """
    with suppress(ValueError, KeyError, TypeError):
        known = json.loads(owner or "")
        pid, host = known["pid"], known["host"]
        is_here = (pid, host) == (os.getpid(), socket.gethostname())
        return f"this process ({pid} on {host})" if is_here else f"process {pid} on {host}"
    return "a process"


def in_use(run_id: str, owner: str | None) -> RunInUseError:
    """The error of a run that somebody else is at work on."""
    text = owner_text(owner)
    return RunInUseError(f"the run {run_id!r} is at work in {text}", run_id=run_id, owner=text)


class Shelf:
    """The codecs and files of a store, for values with classes that these annotations name.
    `is_given`: only to write what the caller gives, for a workflow that has annotations of its
    own."""

    def __init__(self, store: Store, annotations: list[Any], *, is_given: bool = False) -> None:
        self._values = store.values
        self._path = store.path
        self._key = store.key
        self._plain = Plain(store.allow, annotations, all_classes=is_given)
        self.take_plain = self._plain.decode  # of a row with that codec and nothing around it
        self._codecs: dict[str, Codec] = {"plain": self._plain}
        self._codec = self._codec_of(store.codec)

    def put(self, value: object, identity: tuple[Any, ...]) -> Placed:
        """Encode a value. Raises EncodeError, and StoreError if its file cannot be written."""
        encoded = self.encoded(value, identity)
        data = encoded[1]
        return encoded if data is not None and len(data) < LARGE else self.placed(encoded)

    def encoded(self, value: object, identity: tuple[Any, ...]) -> Placed:
        """Encode a value, and write no file. Raises EncodeError."""
        codec, how = self._codec, ""
        name, context = codec.name, b""
        if type(value) in WRAPPED:
            how, value = unwrapped(value)
            name = f"{name}:{how}" if how else name
        if codec is not self._plain:
            context = repr(identity).encode("utf-8", "surrogatepass")
        try:
            data = codec.encode(value, context=context)
        except EncodeError:
            for each in own_parts(how, value):  # so that places are those in the user's value
                codec.encode(each, context=context)
            raise
        return name, data, None

    def is_large(self, placed: Placed) -> bool:
        """Whether a value is to be in a file, and is not yet."""
        return placed[1] is not None and len(placed[1]) >= LARGE and self._values is not None

    def placed(self, encoded: Placed) -> Placed:
        """Write the file of a value, if it is to have one. Raises StoreError."""
        name, data, _ = encoded
        if data is None or self._values is None or len(data) < LARGE:
            return encoded
        return name, None, self._values.write(data)

    def take(self, placed: Any, identity: tuple[Any, ...]) -> Any:
        """The value of a row. Raises StoreError."""
        with reading(self._path):
            return self._taken(placed, identity)

    def _taken(self, placed: Any, identity: tuple[Any, ...]) -> Any:
        name, data, file = placed
        if ":" in name:
            name, _, how = name.partition(":")
            return wrapped(how, self._taken((name, data, file), identity))
        if name == "plain" and file is None:
            return self._plain.decode(data)
        if file is not None:
            if self._values is None:
                raise StoreError(f"there is no file of values with {file!r}")
            data = self._values.read(file)
        codec = self._codecs.get(name) or self._codec_of(name)
        return codec.decode(data, context=repr(identity).encode("utf-8", "surrogatepass"))

    def is_same(
        self,
        one: Placed,
        identity: tuple[Any, ...],
        other: Placed,
        other_identity: tuple[Any, ...],
    ) -> bool:
        """Whether two stored values are the same."""
        if one[0] == other[0] and str(one[0]).startswith("plain"):
            return one == other
        try:
            mine = input_digest(self.take(one, identity))
            return mine is not None and mine == input_digest(self.take(other, other_identity))
        except StoreError:
            return False

    def key(self, key: object) -> bytes | None:
        """The bytes of an item's key; None if there are none."""
        try:
            return self._plain.encode(key)
        except EncodeError:
            return None

    def key_from(self, data: bytes) -> Any:
        """The key of these bytes."""
        with reading(self._path):
            key = self._plain.decode(data)
            hash(key)
        return key

    def is_there(self, placed: Placed) -> bool:
        """Whether the file of a value is there."""
        return placed[2] is None or (self._values is not None and self._values.has(placed[2]))

    def _codec_of(self, name: str) -> Codec:
        if name == "plain":
            return self._plain
        kind = {"pickle": Pickle, "cloudpickle": CloudPickle}.get(name)
        if kind is None or self._key is None:
            raise DecodeError(
                f"a stored value has the codec {name!r}, for which this Store has no key"
            )
        try:
            made = self._codecs[name] = kind(self._key)
        except ValueError as error:
            raise ValidationError(str(error)) from None
        return made


def annotations_of(workflow: Any) -> Iterator[Any]:
    """The annotations of all nodes, also of nested workflows."""
    for node in workflow.nodes.values():
        if node.workflow is not None:
            if hasattr(node.workflow, "nodes"):
                yield from annotations_of(node.workflow)
            continue
        signature = node.signature
        for name in ("return", *(each.keyword for each in signature.parameters)):
            try:
                found = signature.annotation(name)
            except failures():
                continue
            if found is not ABSENT:
                yield found
