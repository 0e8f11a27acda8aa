"""One run of a store, as the process that owns it executes it.

`Durable` is the run, `Scope` the store of one execution in it (`Execution.store`): of the outermost
workflow, or of one attempt of a nested one. The end of a node is one row, written before any
successor starts. A later owner replays these rows.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from threading import Lock
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final

from fast_dag.cache.keys import is_quick
from fast_dag.call.effects import STOPPED, Await, Invoke, Outcome, Raised
from fast_dag.define.node import NodeType
from fast_dag.define.signature import ABSENT
from fast_dag.errors import ExecutionError, failures, is_a
from fast_dag.returns import ConditionalReturn, SelectReturn
from fast_dag.run.execution import Store as ExecutionStore
from fast_dag.run.execution import Verdict
from fast_dag.schedule.dag import DagSchedule
from fast_dag.store.database import Write, closed, reading
from fast_dag.store.errors import (
    EncodeError,
    InDoubtError,
    RunLostError,
    StoreError,
    from_data,
    to_data,
    unstorable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
    from sqlite3 import Connection
    from typing import Protocol

    from fast_dag.call.effects import Effect, Effects
    from fast_dag.define.graph import Edge
    from fast_dag.plan.topology import Topology
    from fast_dag.run.dag_execution import DagExecution
    from fast_dag.run.execution import Ended
    from fast_dag.store.database import Database
    from fast_dag.store.locks import Hold

    class Store(Protocol):
        """The store of a run."""

        path: str
        is_closed: bool

        @property
        def database(self) -> Database: ...

    class Shelf(Protocol):
        """Where the values of a store are: its codecs and files."""

        def put(self, value: object, identity: tuple[Any, ...], /) -> Placed: ...
        def encoded(self, value: object, identity: tuple[Any, ...], /) -> Placed: ...
        def placed(self, encoded: Placed, /) -> Placed: ...
        def is_large(self, placed: Placed, /) -> bool: ...

        def take(self, placed: Placed, identity: tuple[Any, ...], /) -> Any: ...
        @property
        def take_plain(self) -> Callable[[bytes], Any]: ...
        def key(self, key: object, /) -> bytes | None: ...
        def key_from(self, data: bytes, /) -> Any: ...
        def is_there(self, placed: Placed, /) -> bool: ...
        def is_same(
            self,
            one: Placed,
            identity: tuple[Any, ...],
            other: Placed,
            other_identity: tuple[Any, ...],
            /,
        ) -> bool: ...

    Placed = tuple[str | None, bytes | None, str | None]
    """A value in a row: the name of its codec, and its bytes or the name of its file."""

ERROR: Final = "error"
"""The codec of failures: JSON of `StoredError`."""

NOTHING: Final[Placed] = (None, None, None)


class CutShortError(BaseException):
    """Ends a run that its store cannot keep any more; `error` says why. No node fails of it."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


class Durable:
    """A run that this process owns.

    `hold` is its lock (None if it is only looked at), `epoch` the number of this owner. `ends` are
    the ends of nodes that were committed before, by scope, as the engine takes them. `scopes` are
    the known attempts of nested workflows: (attempt, id) by scope and node.
    """

    def __init__(
        self,
        store: Store,
        shelf: Shelf,
        run_id: str,
        row: int,
        epoch: int,
        generation: int,
        hold: Hold | None,
    ) -> None:
        self.store = store
        self.database = store.database
        self.shelf = shelf
        self.run_id = run_id
        self.row = row
        self.epoch = epoch
        self.generation = generation
        self.hold = hold
        # The ends as they were read, and those with more to them than a plain value, by id.
        self._rows: list[tuple[Any, ...]] = []
        self._others: dict[int, tuple[Any, ...]] = {}
        self._paths = {0: ""}  # before the names of nodes, by scope
        self._item_rows: list[tuple[Any, ...]] = []
        self.ends: dict[int, list[Ended]] = {}
        self.scopes: dict[tuple[int, str], tuple[int, int | None]] = {}
        self.older: set[int | None] = set()  # of these, the ids of earlier generations
        # Of rerun="stale". `pending` are the nodes by scope that keep their old end if all that
        # they take is as before; `olds` the ends that are computed anew; `same` whether the new
        # ones are the same; `left` the nodes that completed before, and are not computed anew;
        # `refed` those that are, and take their arguments from elsewhere now.
        self.pending: dict[int, set[str]] = {}
        self.olds: dict[tuple[int, str], tuple[Any, ...]] = {}
        self.left: set[tuple[int, str]] = set()
        self.refed: set[tuple[int, str]] = set()
        self._pending_rows: dict[tuple[int, str], tuple[Any, ...]] = {}
        self._renewed: list[tuple[Any, ...]] = []  # the ends that this generation has committed
        self.old_ends: dict[tuple[int, str], Outcome] = {}  # of pending nodes
        self.same: dict[tuple[int, str], bool] = {}
        self.is_cancelled = False
        self.interrupt: BaseException | None = None  # which came during a commit
        self.lacks_values = False  # of some nodes that completed
        self.is_over = False  # it is only looked at: nothing is committed any more
        self.codes: Mapping[str, bytes] = {}  # what tells the code of nodes, by path
        self.times: dict[str, int] = {}  # in how many generations nodes completed, by path
        self.kept: dict[str, Any] = {}  # what nodes kept in the context
        self._keeps: dict[str, Placed] = {}  # the same, to be committed with the next end
        # By scope and node: the known items of a map, only those that failed if the map has ended;
        # then also how many completed.
        self.items: dict[tuple[int, str], dict[Any, Any]] = {}
        self.completed_items: Counter[tuple[int, str]] = Counter()
        self.item_codes: dict[tuple[int, str], bytes] = {}  # of items whose code is an older one
        self.mapped: dict[tuple[int, str], ItemScope] = {}  # the maps in progress
        self.made: set[Call] = set()  # calls that were announced, and not made

    @property
    def root(self) -> Scope:
        """The store of the outermost execution. Not kept here, as it refers to this."""
        return Scope(self, None, "", 1, 0)

    def check(self, connection: Connection) -> None:
        """Raise RunLostError unless this is still the owner, StoreError if the store was closed;
        see whether the run is cancelled."""
        if self.store.is_closed:
            raise closed(self.store.path)
        found = None
        if self.hold is not None and not self.hold.is_lost:
            found = connection.execute(
                "SELECT epoch, cancel FROM runs WHERE id = ?", (self.row,)
            ).fetchone()
        if found is None or found[0] != self.epoch:
            raise lost(self.run_id, self.hold)
        if found[1]:
            self.is_cancelled = True

    def go_on_after(self, write: Write) -> None:
        """Raise CutShortError if something could not be committed, or what ends the run."""
        if write.error is not None:
            raise CutShortError(write.error)
        self.go_on()

    def go_on(self) -> None:
        """Raise what ends the run, once what was committed is known to it: that it was cancelled,
        or the Ctrl-C that came during the commit."""
        interrupt, self.interrupt = self.interrupt, None
        if interrupt is not None:
            raise interrupt
        if self.is_cancelled:
            raise CutShortError(cancelled(self.run_id))

    def read(self, connection: Connection) -> None:
        """Read what was committed before."""
        for scope, parent, node, attempt, is_older in connection.execute(
            "SELECT id, parent, node, attempt, generation < ? FROM scopes"
            " WHERE run = ? AND replaced IS NULL ORDER BY id",
            (self.generation, self.row),
        ):
            self.scopes[parent, node] = (attempt, scope)
            if is_older:
                self.older.add(scope)
        for (parent, node), (_, inner) in self.scopes.items():
            if inner is not None and parent in self._paths:
                self._paths[inner] = f"{self._paths[parent]}{node}."
        for row in connection.execute(_KEPT, (self.row,)):
            self.kept[row[0]] = row[1:]
        self._item_rows = connection.execute(_ITEMS, (self.row,)).fetchall()
        self._rows = connection.execute(_ENDS, (self.row,)).fetchall()
        if None in [row[6] for row in self._rows]:
            others = connection.execute(_OTHER_ENDS, (self.row,)).fetchall()
            self._others = {row[20]: row for row in others}

    def known_codes(self) -> set[bytes | None]:
        """The codes of the nodes that have ended."""
        return {row[5] for row in self._rows}

    def has_changed(self) -> bool:
        """Whether the code of a node that has ended may be another by now."""
        paths, codes = self._paths, self.codes
        return any(
            row[5] != codes.get(paths[row[1]] + row[2], ABSENT)
            for row in self._rows
            if row[1] in paths
        ) or any(
            row[2] != codes.get(paths[row[0]] + row[1], ABSENT)
            for row in self._item_rows
            if row[0] in paths
        )

    def count(self, connection: Connection) -> None:
        """Count in how many earlier generations nodes completed, for the ids of their calls."""
        rows = connection.execute(_TIMES, (self.row, self.generation))
        self.times.update(dict(rows.fetchall()))

    def read_olds(
        self,
        connection: Connection,
        pending: dict[int, set[str]],
        is_refed: Callable[[str, bytes | None], bool],
    ) -> None:
        """Read what this generation computes anew, if what is below keeps its end where a value
        does not differ. `is_refed` tells of a node, and the code that it had, whether its arguments
        come from elsewhere now."""
        self.pending = pending
        for row in connection.execute(_OLDS, (self.row, self.generation)):
            self.olds[row[0], row[1]] = row
            if row[0] in self._paths and is_refed(self._paths[row[0]] + row[1], row[22]):
                self.refed.add(row[:2])
        for row in connection.execute(_IN_FORCE, (self.row,)):
            if row[1] in pending.get(row[0], ()):
                self._pending_rows[row[:2]] = row
            if row[21] < self.generation:
                if row[2]:
                    self.left.add(row[:2])
            elif row[:2] in self.olds:
                self._renewed.append(row)

    def renew(self, scope: int, node: str) -> None:
        """A node does not keep its old end: it is computed anew, too."""
        self.pending[scope].discard(node)
        self.left.discard((scope, node))
        self.olds[scope, node] = self._pending_rows[scope, node]

    def compare(self, scope: int, node: str, new: tuple[Any, ...]) -> None:
        """Note whether the end of a node that was computed anew is as before; `new` is (ok, choice,
        placed, identity)."""
        old = self.olds.get((scope, node))
        if old is None:
            return
        ok, choice, placed, identity = new
        self.same[scope, node] = (
            bool(ok and old[2])
            and old[5] == choice
            and bool(old[11])
            and self.shelf.is_same(placed, identity, old[12:15], old[15:20])
        )

    def is_left(self, topology: Topology) -> bool:
        """Whether something of the outermost workflow is left to run."""
        with reading(self.database.path):
            return self._is_left(topology)

    def _is_left(self, topology: Topology) -> bool:
        index_of, goes_on = topology.index, True
        ended: dict[int, Any] = {}
        failed = []
        for id, scope, node, *_, data in self._rows:
            if scope or node not in index_of:
                continue
            other = None if data is not None else self._others[id]
            if other is None or other[2]:
                index = index_of[node]
                choice = None if other is None else other[5]
                if choice is None and topology.nodes[index].type.decides:
                    return True  # it decides since then: what its value chooses is to run
                ended[index] = None if choice is None else choice_from(choice)
            else:
                failed.append(index_of[node])
                goes_on = goes_on and other[3]
        status = schedule_of(topology, ended, failed).status
        return goes_on and any(each not in _OVER for each in status)

    def decode(self) -> None:
        """Decode what was read."""
        with reading(self.database.path):
            self._decode()

    def _decode(self) -> None:
        for row in self._renewed:
            self.compare(row[0], row[1], (row[2], row[5], row[12:15], row[15:20]))
        self.old_ends = {at: self._outcome(row) for at, row in self._pending_rows.items()}
        self.kept = {
            key: self.shelf.take(row[:3], ("kept", *row[3:])) for key, row in self.kept.items()
        }
        ended = {row[1:3] for row in self._rows} if self._item_rows else set()
        for row in self._item_rows:
            if row[:2] in ended and row[4]:
                self.completed_items[row[:2]] += 1
            else:
                if row[2] != self.codes.get(f"{self._paths.get(row[0])}{row[1]}", row[2]):
                    self.item_codes[row[:2]] = row[2]
                known = self.items.setdefault(row[:2], {})
                known[self.shelf.key_from(row[3])] = self._item(*row[4:])
        take, paths = self.shelf.take_plain, self._paths
        ends: dict[int, list[Ended]] = {scope: [] for scope in paths}
        at, inside = 0, ends[0]
        for id, scope, node, began, seconds, _, data in self._rows:
            if scope != at:
                if scope not in paths:  # of an earlier attempt
                    continue
                at, inside = scope, ends[scope]
            try:
                inside.append(
                    self._ended(self._others[id])
                    if data is None
                    else (node, None, take(data), None, float(began), float(seconds))
                )
            except StoreError as error:
                raise of_node(error, paths[scope] + node) from error.__cause__
        self.ends = ends
        self._item_rows, self._rows, self._others = [], [], {}

    def _item(self, ok: int, key: str | None, place: str | None, attempts: int, *row: Any) -> Any:
        if ok:
            return self.shelf.take(row[:3], row[3:])
        outcome = Outcome(False, error_of(row[1]), attempts, place)
        outcome.verdict = Verdict(outcome, key)
        return outcome

    def keep(self, key: str, value: Any) -> None:
        """Have what a node keeps in the context committed with the next end of a node."""
        try:
            self._keeps[key] = self.shelf.put(value, ("kept", self.run_id, key))
        except EncodeError as error:
            raise unstorable(error, f"context.keep({key!r}, ...)") from error.__cause__

    @property
    def has_kept(self) -> bool:
        """Whether something is kept that was not committed yet."""
        return bool(self._keeps)

    def write_kept(self, connection: Connection) -> dict[str, Placed]:
        """Write what nodes kept since the last commit, and return it."""
        keeps = self._keeps.copy()
        for key, placed in keeps.items():
            connection.execute(_KEEP, (self.row, key, *placed))
        return keeps

    def has_written(self, keeps: dict[str, Placed]) -> None:
        """These were committed."""
        for key, placed in keeps.items():
            if self._keeps.get(key) is placed:
                del self._keeps[key]

    def _outcome(self, row: tuple[Any, ...]) -> Outcome:
        _, node, ok, goes_on, key, choice, place, attempts, cached = row[:9]
        if ok:
            value = ABSENT
            if row[11]:
                value = self.shelf.take(row[12:15], row[15:20])
            else:
                self.lacks_values = True
            outcome = Outcome(True, value, attempts, None, cached)
            chosen = None if choice is None else choice_from(choice)
            outcome.verdict = Verdict(outcome, node, chosen)
        else:
            outcome = Outcome(False, error_of(row[13]), attempts, place)
            outcome.verdict = Verdict(outcome, key, None, bool(goes_on))
        return outcome

    def _ended(self, row: tuple[Any, ...]) -> Ended:
        outcome, began, seconds = self._outcome(row), float(row[9]), float(row[10])
        if not outcome.ok:
            return row[1], outcome, None, None, began, seconds
        verdict, outcome.verdict = outcome.verdict, None  # which refer to each other
        return row[1], None, outcome.value, verdict.choice, began, seconds

    def doubts_of(self, connection: Connection) -> list[str]:
        """The paths of the nodes that are in doubt: called, and not known to have ended."""
        return [path for (path,) in connection.execute(DOUBTS, (self.row,))]


WITH_VALUES: Final = """
    FROM nodes AS n
    JOIN nodes AS v ON v.id = COALESCE(n.source, n.id)
    JOIN runs AS r ON r.id = v.run
    WHERE n.run = ?"""
"""The rows of nodes of a run, each with the row that has its value, which runs may share."""

_WIDE: Final = f"""
    SELECT n.scope, n.node, n.ok, n.goes_on, n.key, n.choice, n.place, n.attempts, n.cached,
        n.began, n.seconds, n.stored, v.codec, v.value, v.file,
        r.run_id, v.path, v.visit, v.item, v.generation, n.id, n.generation, n.code
    {WITH_VALUES} AND n.item = x''"""

_OLDS: Final = f"{_WIDE} AND n.replaced = ? ORDER BY n.id"

_IN_FORCE: Final = f"{_WIDE} AND n.replaced IS NULL"

_PLAIN: Final = """
    (n.ok AND n.stored AND n.codec IS 'plain' AND n.value IS NOT NULL AND n.choice IS NULL
        AND n.file IS NULL AND n.source IS NULL)"""

_ENDS: Final = f"""
    SELECT id, scope, node, began, seconds, code, CASE WHEN {_PLAIN} THEN value END AS plain
    FROM nodes AS n WHERE id IN (
        SELECT id FROM nodes WHERE run = ? AND replaced IS NULL AND item = x'')
    ORDER BY id"""
"""Most nodes complete, with a plain value: little is read of them, because columns take time."""

_OTHER_ENDS: Final = f"{_IN_FORCE} AND NOT {_PLAIN}"

_ITEMS: Final = f"""
    SELECT n.scope, n.node, n.code, n.item, n.ok, n.key, n.place, n.attempts,
        v.codec, v.value, v.file, r.run_id, v.path, v.visit, v.item, v.generation
    {WITH_VALUES} AND n.replaced IS NULL AND n.item != x'' AND NOT (n.ok AND EXISTS (
        SELECT 1 FROM nodes AS m WHERE m.run = n.run AND m.scope = n.scope AND m.node = n.node
            AND m.visit = n.visit AND m.item = x'' AND m.replaced IS NULL AND m.ok))
    ORDER BY n.id"""

_KEPT: Final = """
    SELECT k.key, v.codec, v.value, v.file, r.run_id, v.key FROM kept AS k
    JOIN kept AS v ON v.id = COALESCE(k.source, k.id) JOIN runs AS r ON r.id = v.run
    WHERE k.run = ?"""

_KEEP: Final = """
    INSERT INTO kept (run, key, codec, value, file) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET codec = excluded.codec, value = excluded.value,
        file = excluded.file, source = NULL"""

_TIMES: Final = """
    SELECT path, COUNT(DISTINCT generation) FROM nodes
    WHERE run = ? AND generation < ? AND ok AND item = x'' GROUP BY path"""

IN_DOUBT: Final = """
    FROM calls AS c WHERE c.run = ? AND NOT EXISTS (
        SELECT 1 FROM nodes AS n WHERE n.run = c.run AND n.scope = c.scope AND n.node = c.node
            AND n.visit = c.visit AND n.item = c.item AND n.generation >= c.generation)"""
"""The calls of a run that are not known to have ended."""

DOUBTS: Final = f"SELECT path {IN_DOUBT} ORDER BY began"


def lost(run_id: str, hold: Hold | None) -> RunLostError:
    """The error of an owner whose run somebody else has taken."""
    why = (
        "a forked child does not own what its parent began"
        if hold is not None and hold.is_lost
        else "another process goes on with it"
    )
    return RunLostError(f"the run {run_id!r} is not this one's any more: {why}", run_id=run_id)


class Scope(ExecutionStore):
    """The store of one execution: the outermost (`parent` None), or one attempt of the workflow
    that is nested in `node`. `id` is None until something of it is committed."""

    __slots__ = (
        "_again",
        "_attempts",
        "_held",
        "_needs",
        "_valueless",
        "attempt",
        "durable",
        "id",
        "node",
        "parent",
    )

    def __init__(
        self, durable: Durable, parent: Scope | None, node: str, attempt: int, id: int | None
    ) -> None:
        self.durable = durable
        self.parent = parent
        self.node = node
        self.attempt = attempt
        self.id = id
        self._attempts: dict[str, int] = {}  # of nested workflows, as far as they have begun here
        self._again = set[str]()  # the nodes that have completed, and are called for their values
        # Deciders that have ended, and pass on a value that is computed again: they end once more
        # when that is there.
        self._held: dict[str, Ended] = {}
        self._valueless = set[int]()  # those that keep an end without a value
        self._needs: dict[int, bool] = {}  # of some of these, whether it is needed

    def ensure(self, connection: Connection, made: list[Scope]) -> int:
        """The row of this scope, which is made if there is none."""
        if self.id is None:
            assert self.parent is not None
            parent = self.parent.ensure(connection, made)
            durable = self.durable
            cursor = connection.execute(
                "INSERT INTO scopes (run, parent, node, attempt, generation)"
                " VALUES (?, ?, ?, ?, ?)",
                (durable.row, parent, self.node, self.attempt, durable.generation),
            )
            self.id = cursor.lastrowid
            made.append(self)
        assert self.id is not None
        return self.id

    # As the engine sees it.

    def nested(self, execution: DagExecution, index: int) -> Scope | None:
        """The store of a nested DAG; a nested machine has none, so that it is one node."""
        step = execution.plan.steps[index]
        if getattr(step.node.workflow, "kind", None) != "dag":
            return None
        name, scope = step.name, None
        attempt = self._attempts.get(name, 0) + 1
        if attempt == 1 and self.id is not None:
            attempt, scope = self.durable.scopes.get((self.id, name), (1, None))
        self._attempts[name] = attempt
        return Scope(self.durable, self, name, attempt, scope)

    def items(self, execution: DagExecution, index: int) -> ItemScope | None:
        """The store of the items of a map."""
        step = execution.plan.steps[index]
        if not step.node.options.get("stored", True):
            return None
        known: dict[Any, Any] = {}
        if self.id is not None and all(
            each.node.options.get("stored", True)
            for edge in step.edges
            for each in [execution.plan.steps[execution.plan.topology.index[edge.source]]]
        ):
            known = self.durable.items.pop((self.id, step.name), {})
        path = execution.path_of(index)
        if known and self.id is not None and (self.id, step.name) in self.durable.item_codes:
            # A map is as old as its items.
            older = self.durable.item_codes[self.id, step.name]
            self.durable.codes = {**self.durable.codes, path: older}
        made = ItemScope(self, step, path, known)
        self.durable.mapped[id(self), step.name] = made
        return made

    def load(self, execution: DagExecution) -> Iterable[Ended]:
        """How the nodes of an execution ended before."""
        durable, index_of = self.durable, execution.plan.topology.index
        execution.context._keeper = durable.keep
        if self.id is None:
            return ()
        pending = durable.pending.get(self.id)
        ends = [each for each in durable.ends.pop(self.id, []) if each[0] in index_of]
        deciders = execution.plan.topology.deciders
        if deciders and not durable.is_over:
            ends = [_decided(execution, each) if each[0] in deciders else each for each in ends]
        if pending:
            ends = [each for each in ends if each[0] not in pending]
        if durable.is_over or not (deciders or durable.lacks_values):
            return ends
        known = {each[0] for each in ends}
        gone = {each[0] for each in ends if each[2] is ABSENT}
        if gone or _lacks(execution, known):
            self._again, passing = _needed_again(execution, ends, gone)
            known -= self._again
            self._held = _held_by(execution, ends, known, passing)
            ends = [each for each in ends if each[0] in known and each[0] not in self._held]
        return ends

    def ended_items(self, name: str) -> tuple[int, dict[Any, Outcome]]:
        """How many items of a map that has ended completed, and those that failed."""
        durable = self.durable
        assert self.id is not None
        at = self.id, name
        return durable.completed_items[at], durable.items.pop(at, {})

    def completed(self, path: str) -> int:
        """In how many earlier generations a node has completed."""
        return self.durable.times.get(path, 0)

    def begin(
        self, execution: DagExecution, index: int
    ) -> Generator[Effect, Any, Outcome | None] | None:
        """Look whether a node keeps its old end; announce the call of a node that may be called
        once only."""
        step, durable = execution.plan.steps[index], self.durable
        if self._held and step.name in self._held:
            return self._ended_again(execution, index)
        is_pending = bool(durable.pending) and self._is_pending(step.name)
        is_once = bool(step.node.options.get("once"))
        if is_pending or is_once or (durable.olds and step.nests):
            return self._begun(execution, index, is_once)
        return None

    def _ended_again(
        self, execution: DagExecution, index: int
    ) -> Generator[Effect, Any, Outcome | None]:
        """Let a decider that was held end as it did."""
        name, _, value, choice, *_ = self._held.pop(execution.plan.names[index])
        outcome = Outcome(True, value)
        outcome.verdict = Verdict(outcome, name, choice)
        execution.keep(index, outcome)
        yield from ()
        return outcome

    def _begun(
        self, execution: DagExecution, index: int, is_once: bool
    ) -> Generator[Effect, Any, Outcome | None]:
        durable, name = self.durable, execution.plan.names[index]
        if self.id is not None:
            pending = durable.pending.get(self.id, set())
            attempt, inner = durable.scopes.get((self.id, name), (0, None))
            is_older = bool(durable.olds) and inner in durable.older
            if name in pending or is_older:
                edges = execution.plan.steps[index].edges
                if not all(self._is_as_before(execution, edge) for edge in edges):
                    if is_older:  # what is nested there begins anew
                        self._attempts.setdefault(name, attempt)
                elif name in pending:
                    pending.discard(name)
                    old = durable.old_ends[self.id, name]
                    if old.value is not ABSENT or not self._is_needed(execution, index):
                        execution.keep(index, old)
                        if old.value is ABSENT:
                            self._valueless.add(index)
                        return old
                    self._again.add(name)
            if name in pending:
                durable.renew(self.id, name)
                durable.items.pop((self.id, name), None)
        if not is_once:
            return None
        return (yield from self._announced(execution, name))

    def _is_as_before(self, execution: DagExecution, edge: Edge) -> bool:
        """Whether an edge gives what it gave in the generation before."""
        assert self.id is not None
        durable, source, scope = self.durable, edge.source, self.id
        completed = execution.record.status(execution.plan.topology.index[source]) == "completed"
        old = durable.olds.get((scope, source))
        if completed != (bool(old[2]) if old is not None else (scope, source) in durable.left):
            return False
        if not completed or (edge.input is None and edge.branch is None):
            return True
        if not durable.same.get((scope, source), True):
            return False
        step = execution.plan.steps[execution.plan.topology.index[source]]
        if (
            edge.input is None
            or not step.decides
            or isinstance(execution.results.get(source), (ConditionalReturn, SelectReturn))
        ):
            return True
        # It carries what it was given.
        return (scope, source) not in durable.refed and all(
            self._is_as_before(execution, each) for each in step.edges
        )

    def _is_needed(self, execution: DagExecution, index: int) -> bool:
        """Whether a node that may be called takes the value of this one, which keeps its end."""
        came: dict[int, int] = {index: index}
        todo = [index]
        while todo:
            at = todo.pop()
            known = self._needs.get(at)
            takers = [] if known is False else self._takers(execution, at)
            if known or takers is None:
                while not self._needs.get(at):
                    self._needs[at] = True
                    at = came[at]
                return True
            for each in takers:
                if each not in came:
                    came[each] = at
                    todo.append(each)
        self._needs.update(dict.fromkeys(came, False))
        return False

    def _takers(self, execution: DagExecution, index: int) -> list[int] | None:
        """The nodes that take the value of a node that keeps its end, and are not called unless
        their own values are needed; None if another node may take it."""
        topology, status = execution.plan.topology, execution.record.status
        name, takers = topology.names[index], list[int]()
        if name in execution.wanted:
            return None
        for target, *_ in topology.successors[index]:
            node, edges = topology.nodes[target], topology.incoming[target]
            if all(edge.source != name or edge.input is None for edge in edges):
                continue
            is_kept = status(target) in _OVER or (
                self._is_pending(node.name)
                and all(
                    edge.source == name
                    or (
                        status(topology.index[edge.source]) in _OVER
                        and self._is_as_before(execution, edge)
                    )
                    for edge in edges
                )
            )
            if not is_kept:
                return None
            if node.type.decides or not node.options.get("stored", True):
                takers.append(target)  # a decider passes on what it was given
        return takers

    def _is_pending(self, name: str) -> bool:
        return self.id is not None and name in self.durable.pending.get(self.id, ())

    def _announced(
        self, execution: DagExecution, name: str
    ) -> Generator[Effect, Any, Outcome | None]:
        durable = self.durable
        call = Call(durable, self, name, execution.prefix + name)
        durable.made.add(call)
        if not (yield Await(call, timed=False)):
            return STOPPED
        durable.go_on_after(call)
        durable.made.discard(call)
        return None

    def commit(
        self, execution: DagExecution, index: int, outcome: Outcome, began: float
    ) -> Effects:
        """Commit the end of a node."""
        if outcome.ok and self._is_again(execution, index):
            return outcome
        end = self._end(execution, index, outcome, began)
        error = yield from end.encoded(outcome)
        if error is not None:
            return Outcome(False, _told(error, end.path), outcome.attempts, "store")
        yield Await(end, cleans_up=True, timed=False)
        return self._committed(end, outcome)

    def commit_now(
        self, execution: DagExecution, index: int, outcome: Outcome, began: float
    ) -> Outcome:
        """Commit the end of a node in this thread, which may block."""
        if outcome.ok and self._is_again(execution, index):
            return outcome
        end = self._end(execution, index, outcome, began)
        error = end.encode_now()
        if error is not None:
            return Outcome(False, _told(error, end.path), outcome.attempts, "store")
        end.wait()
        return self._committed(end, outcome)

    def _is_again(self, execution: DagExecution, index: int) -> bool:
        """Whether the end of a node is committed, and it was called for its value only."""
        return bool(self._again) and execution.plan.names[index] in self._again

    def _end(self, execution: DagExecution, index: int, outcome: Outcome, began: float) -> End:
        """The end of a node, to be committed."""
        durable, step = self.durable, execution.plan.steps[index]
        path = execution.prefix + step.name
        end = End(durable, self, step, path, outcome, began)
        end.is_stored = end.is_stored and not self._is_again(execution, index)
        if not outcome.ok and step.node.options.get("once") and is_unknown(outcome.value, path):
            raise CutShortError(in_doubt(durable.run_id, [path]))
        if durable.mapped:
            mapped = durable.mapped.pop((id(self), step.name), None)
            if mapped is not None:
                end.before = mapped.left(is_ended=outcome.ok)
        return end

    def _committed(self, end: End, outcome: Outcome) -> Outcome:
        """The end of a node was committed, or could not be."""
        durable = self.durable
        if end.error is not None:
            raise CutShortError(end.error)
        if end.kept:
            durable.has_written(end.kept)
        if durable.olds:
            end.compare()
        return outcome

    def settled(self, execution: DagExecution, index: int) -> None:
        """The end of a node was recorded. Raises what ends the run."""
        durable = self.durable
        if self._valueless and index in self._valueless:
            execution.results.pop(execution.plan.names[index], None)  # it may be dropped already
        if durable.is_cancelled or durable.interrupt is not None:
            durable.go_on()


def _raised_by(function: Callable[[], object]) -> Any:
    try:
        function()
    except failures() as error:
        return error
    return None


def is_unknown(error: BaseException, path: str) -> bool:
    """Whether a failure tells nothing of what the call has done: it was late, or its process
    died."""
    if is_a(error, ExecutionError) and error.node_name == path:
        return True
    return any(each.__name__ == "BrokenExecutor" for each in type(error).__mro__)


def _told(error: EncodeError, path: str) -> EncodeError:
    """The error of a value that cannot be stored, with its node."""
    found = unstorable(error, f"node {path!r} returned what the store cannot keep", node=path)
    found.__cause__ = error.__cause__
    return found


# Rows.


class End(Write):
    """The end of a node, to be committed."""

    before: Sequence[End] = ()  # what is to be written with it
    kept: dict[str, Placed] | None = None
    _made: list[Scope] | None = None
    _placed: Placed = NOTHING
    # ok, goes_on, key, choice, place, attempts, cached: of most nodes.
    _facts: tuple[Any, ...] = (True, True, None, None, None, 1, None)

    def __init__(
        self,
        durable: Durable,
        scope: Scope,
        step: Any,
        path: str,
        outcome: Outcome,
        began: float,
        item: bytes = b"",
    ) -> None:
        self.database = durable.database
        self.path = path
        self._item = item
        self._durable = durable
        self._scope = scope
        self._name = step.name
        self._value = outcome.value
        self._began = began
        self._seconds = max(time() - began, 0.0)
        verdict, ok = outcome.verdict, outcome.ok
        self.is_stored = not ok or step.decides or step.node.options.get("stored", True)
        if not ok or outcome.attempts != 1 or outcome.cached is not None or step.decides:
            choice = verdict.choice
            self._facts = (
                ok,
                verdict.goes_on,
                None if ok else verdict.key,
                None if choice is None else choice_text(choice),
                outcome.where,
                outcome.attempts,
                outcome.cached,
            )

    @property
    def _identity(self) -> tuple[Any, ...]:
        durable = self._durable
        return durable.run_id, self.path, 0, self._item, durable.generation

    def encode_now(self) -> EncodeError | None:
        """Encode the value in this thread, which may block. Returns why it cannot be."""
        try:
            self._encode(self._durable.shelf.put)
        except EncodeError as error:
            return error
        except failures() as error:
            raise CutShortError(error) from None
        return None

    def encoded(self, outcome: Outcome) -> Generator[Effect, Any, EncodeError | None]:
        """Encode the value: here if that takes no time, else in a thread that may block. Returns
        why it cannot be."""
        is_quick_ = not outcome.ok or is_quick((outcome.value,))
        for step in (partial(self._encode, self._durable.shelf.encoded), self._write_file):
            if is_quick_:
                error = _raised_by(step)
            else:
                answer = yield Invoke(step, (), False, cleans_up=True)
                error = answer.error if type(answer) is Raised else None
            if isinstance(error, EncodeError):
                return error
            if error is not None:
                raise CutShortError(error)
            if not self.is_ok or not self._durable.shelf.is_large(self._placed):
                break
            is_quick_ = False
        return None

    @property
    def is_ok(self) -> bool:
        """Whether it is no failure."""
        return bool(self._facts[0])

    def _encode(self, encoded: Callable[[object, tuple[Any, ...]], Placed]) -> None:
        if not self._facts[0]:
            error: Any = self._value
            text = json.dumps(to_data(error))
            self._placed = ERROR, text.encode("utf-8", "surrogatepass"), None
        elif self.is_stored:
            self._placed = encoded(self._value, self._identity)
        self._value = None

    def _write_file(self) -> None:
        self._placed = self._durable.shelf.placed(self._placed)

    def apply_alone(self, connection: Connection) -> bool:
        """Write it in a transaction of one statement, if it is no more than that of most nodes."""
        durable, scope, (codec, data, file) = self._durable, self._scope.id, self._placed
        if scope is None or codec != "plain" or file is not None or self._facts is not End._facts:
            return False
        if durable.pending or durable._keeps or self.before or self._item:
            return False
        if durable.store.is_closed:
            return False
        if durable.hold is None or durable.hold.is_lost:
            return False
        row, path = durable.row, self.path
        values = (
            *(row, scope, self._name, durable.generation, path),
            *(self._began, self._seconds, durable.codes.get(path), data, row, durable.epoch),
        )
        return connection.execute(_INSERT_ALONE, values).rowcount == 1

    def apply(self, connection: Connection) -> None:
        self._durable.check(connection)
        for each in self.before:
            each.insert(connection)
        self.insert(connection)

    def wait(self) -> None:
        try:
            self.database.settle(self)
        except BaseException as interrupt:
            if not self.is_done or self.error is not None:
                raise
            self._durable.interrupt = interrupt

    def insert(self, connection: Connection) -> None:
        """Write the row."""
        durable, placed = self._durable, self._placed
        if placed[2] is not None and not durable.shelf.is_there(placed):
            raise StoreError(f"the file {placed[2]!r} of a value has gone before its commit")
        scope = self._scope.id
        if scope is None:
            self._made = []
            scope = self._scope.ensure(connection, self._made)
        row, name, generation = durable.row, self._name, durable.generation
        times = self._began, self._seconds, self.is_stored, durable.codes.get(self.path)
        values = scope, row, name, generation, self.path, *self._facts, *times, *placed
        if not self.is_stored and not self.is_ok:  # it had completed, and was called again
            connection.execute(_FORGET_UNSTORED, (row, scope, name))
        if durable.pending:  # of a node that does not keep its old end
            connection.execute(_REPLACE_OLDER, (generation, row, scope, name, generation))
        if self._item:
            connection.execute(_REPLACE_ITEM, (generation, row, scope, name, self._item))
            connection.execute(_INSERT_ITEM, (*values, self._item))
            return
        connection.execute(_INSERT, values)
        if durable.has_kept:
            self.kept = durable.write_kept(connection)

    def take_back(self) -> None:
        for each in self._made or ():
            each.id = None
        self._made = None
        for end in self.before:
            end.take_back()

    def compare(self) -> None:
        """Note whether the end is as it was in the generation before."""
        scope, facts = self._scope.id, self._facts
        assert scope is not None
        new = facts[0], facts[3], self._placed, self._identity
        self._durable.compare(scope, self._name, new)


_INSERT: Final = """
    INSERT INTO nodes (scope, run, node, generation, path, ok, goes_on, key, choice, place,
        attempts, cached, began, seconds, stored, code, codec, value, file)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""

_INSERT_ITEM: Final = _INSERT.replace("file)", "file, item)").replace("?)", "?, ?)")

REPLACE: Final = """
    UPDATE nodes SET replaced = ?
    WHERE run = ? AND scope = ? AND node = ? AND replaced IS NULL"""
"""The rows of a node, and of the items of a map, count no longer."""

_REPLACE_ITEM: Final = f"{REPLACE} AND item = ?"

_INSERT_ALONE: Final = """
    INSERT INTO nodes (run, scope, node, generation, path, ok, goes_on, attempts, began, seconds,
        stored, code, codec, value)
    SELECT ?, ?, ?, ?, ?, 1, 1, 1, ?, ?, 1, ?, 'plain', ?
    FROM runs WHERE id = ? AND epoch = ? AND NOT cancel"""

_REPLACE_OLDER: Final = f"{REPLACE} AND generation < ?"

_FORGET_UNSTORED: Final = """
    UPDATE nodes SET replaced = 0 WHERE run = ? AND scope = ? AND node = ? AND replaced IS NULL
        AND ok AND NOT stored"""


class ItemScope(ExecutionStore):
    """The store of the items of a map. They are committed many at a time, so that a kill loses the
    last of them.

    `known` are the items that were committed before, by key: their values, or the Outcome of those
    that failed."""

    def __init__(self, scope: Scope, step: Any, path: str, known: dict[Any, Any]) -> None:
        self._scope = scope
        self._durable = scope.durable
        self._step = step
        self._path = path
        self.known = known
        self._ends: list[End] = []  # that are not committed yet
        self._since = 0.0  # when the first of them ended
        self._lock = Lock()

    def commit(self, execution: Any, index: int, outcome: Outcome, began: float) -> Effects:
        """Commit the end of an item, now or with later ones."""
        key = self._durable.shelf.key(execution.key_of(index))
        if key is None:  # another process could not know it again
            return outcome
        end = End(self._durable, self._scope, self._step, self._path, outcome, began, key)
        error = yield from end.encoded(outcome)
        if error is not None:
            return Outcome(False, _told(error, execution.path_of(index)), outcome.attempts, "store")
        ends = self._due(end)
        if ends:
            *before, last = ends
            last.before = before
            yield Await(last, cleans_up=True, timed=False)
            self._durable.go_on_after(last)
        return outcome

    def _due(self, end: End) -> list[End]:
        """What is to be committed once this item has ended."""
        now = monotonic()
        with self._lock:
            if not self._ends:
                self._since = now
            self._ends.append(end)
            if len(self._ends) < _MOST_ITEMS and now - self._since < _ITEMS_EVERY:
                return []
            ends, self._ends = self._ends, []
            return ends

    def left(self, is_ended: bool = False) -> list[End]:
        """What is not committed yet. Of a map that has ended with a result, only items that failed
        matter."""
        with self._lock:
            ends, self._ends = self._ends, []
        return [each for each in ends if not (is_ended and each.is_ok)]


_MOST_ITEMS: Final = 100
"""How many items are committed together, at most."""
_ITEMS_EVERY: Final = 0.05
"""Seconds after which those that have ended are committed with the next one."""


class Call(Write):
    """That a node is about to be called which may be called once only."""

    def __init__(self, durable: Durable, scope: Scope, node: str, path: str) -> None:
        self.database = durable.database
        self._durable = durable
        self._scope = scope
        self._made: list[Scope] = []
        self._path = path
        self._node = node

    def apply(self, connection: Connection) -> None:
        durable = self._durable
        durable.check(connection)
        scope = self._scope.ensure(connection, self._made)
        connection.execute(
            "INSERT INTO calls (run, scope, node, generation, path, began)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (durable.row, scope, self._node, durable.generation, self._path, time()),
        )

    def take_back(self) -> None:
        for each in self._made:
            each.id = None
        self._made = []

    def withdraw(self, connection: Connection) -> None:
        """The call was not made."""
        connection.execute(
            "DELETE FROM calls WHERE run = ? AND scope = ? AND node = ? AND generation = ?",
            (self._durable.row, self._scope.id, self._node, self._durable.generation),
        )


def choice_text(choice: bool | str | frozenset[str]) -> str:
    """The branch that a decider took, or branches, as text.

    >>> choice_text(frozenset(["b", "a"])), choice_text(True)
    ('["a", "b"]', 'true')
    """
    return json.dumps(sorted(choice) if isinstance(choice, frozenset) else choice)


def choice_from(text: str) -> bool | str | frozenset[str]:
    """The branch that `choice_text` wrote."""
    choice = json.loads(text)
    return frozenset(choice) if isinstance(choice, list) else choice


def error_of(data: bytes | None) -> BaseException:
    """The error of a row of a failure."""
    try:
        return from_data(json.loads((data or b"").decode("utf-8", "surrogatepass")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"the store is damaged: a failure in it cannot be read: {error}"
        ) from error


def of_node(error: StoreError, path: str) -> StoreError:
    """The error of a stored value, with its node."""
    facts = {**vars(error), "node": path}
    return type(error)(f"what is stored of node {path!r} cannot be used: {error}", **facts)


def _decided(execution: DagExecution, ended: Ended) -> Ended:
    """The end of a node that decides. If it was of another type when it was committed, its value
    tells what it chooses now. Raises ValidationError if that chooses nothing."""
    name, failed, value, choice, began, seconds = ended
    topology = execution.plan.topology
    is_condition = topology.nodes[topology.index[name]].type is NodeType.CONDITION
    fits = choice is not None and (type(choice) is bool) is is_condition
    if fits or failed is not None or value is ABSENT:
        return ended
    return name, failed, value, execution._choice(name, value), began, seconds


_OVER: Final = frozenset({"completed", "failed", "skipped"})


def schedule_of(topology: Topology, ended: Mapping[int, Any], failed: list[int]) -> DagSchedule:
    """The schedule once these nodes have ended: those that completed, with their choices."""
    schedule = DagSchedule(topology, eager=False)
    schedule.begin((), ended, failed)
    return schedule


# Values that are not stored.


def _needed_again(
    execution: DagExecution, ends: list[Ended], gone: set[str]
) -> tuple[set[str], set[int]]:
    """Of the nodes in `gone`, which completed but whose values are not stored, those that a node
    needs which is yet to run, or that is called again itself. Also the deciders that have ended,
    and pass on what such a node takes."""
    topology = execution.plan.topology
    index_of = topology.index
    ended = {index_of[end[0]]: end[3] for end in ends if end[1] is None}
    failed = [index_of[end[0]] for end in ends if end[1] is not None]
    schedule = schedule_of(topology, ended, failed)
    todo = [index for index, status in enumerate(schedule.status) if status not in _OVER]
    wanted = [name for name in execution.wanted if index_of[name] in ended]
    again = gone.intersection(wanted if execution._outputs is not None else wanted[-1:])
    todo += [index_of[name] for name in again]
    seen: set[int] = set()
    passing: set[int] = set()
    while todo:
        for edge in topology.incoming[todo.pop()]:
            source = index_of.get(edge.source)
            if source is None or edge.input is None or source in seen:
                continue
            seen.add(source)
            if edge.source in gone:
                again.add(edge.source)
                todo.append(source)
            elif source in ended and topology.nodes[source].type.decides:
                passing.add(source)  # it carries what it was given
                todo.append(source)
    return again, passing


def _lacks(execution: DagExecution, known: set[str]) -> bool:
    """Whether a decider that has ended was given a value of a node that has not."""
    topology = execution.plan.topology
    return any(
        edge.input is not None and edge.source not in known
        for name in topology.deciders & known
        for edge in topology.incoming[topology.index[name]]
    )


def _held_by(
    execution: DagExecution, ends: list[Ended], known: set[str], passing: set[int]
) -> dict[str, Ended]:
    """The deciders of these that pass on a value that is not there yet, perhaps through others:
    `known` are the nodes whose values are."""
    topology = execution.plan.topology
    by_name = {end[0]: end for end in ends}
    held: dict[str, Ended] = {}
    for index in topology.order if passing else ():
        if index in passing and any(
            edge.input is not None and (edge.source not in known or edge.source in held)
            for edge in topology.incoming[index]
        ):
            held[topology.names[index]] = by_name[topology.names[index]]
    return held


def cancelled(run_id: str) -> ExecutionError:
    """The error of a run that was cancelled."""
    return ExecutionError(
        f"the run {run_id!r} was cancelled by store.cancel; rerun='failed' goes on with it"
    )


def in_doubt(run_id: str, paths: list[str]) -> InDoubtError:
    """The error of a run with nodes that may or may not have done their work."""
    node = paths[0]
    return InDoubtError(
        f"node {node!r} of the run {run_id!r} is in doubt: it was called, and nobody knows how "
        "that ended; it may be called once only. Find out what it did, then say "
        f"store.decide({run_id!r}, {node!r}, value=...) with its result, or again=True to have it "
        "called again",
        run_id=run_id,
        node=node,
    )
