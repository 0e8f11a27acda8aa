"""A run of a store, taken by this process: begun, gone on with, or looked at."""

from __future__ import annotations

import json
from functools import cached_property, partial
from time import perf_counter, time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fast_dag.define.signature import ABSENT
from fast_dag.errors import ExecutionError, add_note, names
from fast_dag.run.failures import timed_out
from fast_dag.store.changes import Codes, changes_of, is_refed
from fast_dag.store.database import reading
from fast_dag.store.durable import (
    REPLACE,
    CutShortError,
    Durable,
    End,
    cancelled,
    error_of,
    in_doubt,
    schedule_of,
)
from fast_dag.store.errors import ChangedError, RunLostError, StoreError, to_data
from fast_dag.store.graphs import StoredGraph, graph_of
from fast_dag.store.reruns import (
    Rows,
    below_replaced,
    paths_of,
    rename,
    replace,
    replace_failed,
    replace_only,
    replace_pending,
)
from fast_dag.store.store import FINAL, in_use, owner_now, prunes_in

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence, Set
    from sqlite3 import Connection
    from typing import Protocol

    from fast_dag.run.dag_execution import DagExecution
    from fast_dag.run.execution import Ended
    from fast_dag.store.locks import Hold
    from fast_dag.store.store import Store

    class Workflow(Protocol):
        """The workflow that is run."""

        @property
        def name(self) -> str: ...
        @property
        def kind(self) -> str: ...
        def _request(self, /) -> Any: ...
        def _made(self, request: Any, /) -> DagExecution: ...
        def _drive(self, execution: Any, /) -> Any: ...
        def _drive_async(self, execution: Any, /) -> Coroutine[Any, Any, Any]: ...
        def _remember(self, execution: Any, /) -> None: ...


class Found(NamedTuple):
    """The row of a run."""

    id: int
    run_id: str
    workflow: str
    kind: str
    status: str
    epoch: int
    generation: int
    rerun: str | None
    owner: str | None
    cancel: int
    before: int
    deaths: int
    outputs: str | None
    graph: bytes | None
    created: float
    began: float | None
    ended: float | None
    error: str | None
    pruned: float | None


COLUMNS: Final = ", ".join(Found._fields)


class MovedError(Exception):
    """Raised inside of a transaction: the run is not as it was a moment ago. Look again."""


class Claim:
    """A run that was found or begun, and the execution of it. `hold` is its lock, None if it is
    over and only looked at."""

    def __init__(
        self,
        store: Store,
        workflow: Workflow,
        execution: DagExecution,
        run_id: str,
        tags: Mapping[str, Any],
        rerun: str | Sequence[str] | None = None,
        on_change: str | None = None,
        renamed: Mapping[str, str] | None = None,
    ) -> None:
        self.store = store
        self.workflow = workflow
        self.execution = execution
        self.run_id = run_id
        self.tags = tags
        self.rerun = rerun
        self.on_change = on_change
        self.renamed = renamed
        self.hold: Hold | None = None
        self.is_over = False
        self.durable: Durable
        self._doubts: list[str] = []
        self._deaths = 0
        self._prunes: object = None  # how many there have been, by this transaction

    @cached_property
    def codes(self) -> Codes:
        """The code of the nodes."""
        return Codes.of(self.execution.plan)

    def _enter(self) -> None:
        """Let the execution use the store."""
        execution, durable = self.execution, self.durable
        durable.decode()
        execution.store = durable.root
        execution.context.metadata.update({**durable.kept, "run_id": self.run_id})
        self.store.database.enter()
        if self._doubts:
            self._stop("in_doubt")
        elif self._deaths >= self.store.max_resumes:
            self._give_up()

    def _durable(self, row: int, epoch: int, generation: int) -> Durable:
        shelf = self.store.shelf_of(self.workflow)
        made = Durable(self.store, shelf, self.run_id, row, epoch, generation, self.hold)
        if self.hold is not None:
            made.codes = self.codes.keys
        return made

    def _note(self, connection: Connection, known: Set[bytes | None] = frozenset()) -> None:
        """Store the graph and the code of the nodes, as far as they are not there. This process
        remembers that they are, until somebody prunes."""
        self._prunes = prunes_in(connection)
        if self.codes.noted.get(self.store.database, self) != self._prunes:
            texts = [each for each in self.codes.texts.items() if each[0] not in known]
            connection.executemany("INSERT OR IGNORE INTO codes VALUES (?, ?)", texts)

    def _change(
        self, function: Callable[[Connection], None], undo: Callable[[], None] = lambda: None
    ) -> None:
        try:
            database = self.store.database
            database.change(function, undo)
            self.codes.noted[database] = self._prunes
            self._enter()
        except BaseException:
            self._let_go()
            raise

    def _let_go(self) -> None:
        """Give back the lock of the run."""
        if self.hold is not None:
            self.store.database.locks.give_back(self.hold)
            self.hold = None

    def _tag(self, connection: Connection, row: int) -> None:
        """Add the tags to those of the run."""
        connection.executemany(
            "INSERT INTO tags VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
            [(row, key, json.dumps(value)) for key, value in self.tags.items()],
        )

    # Beginning.

    def begin(self, inputs: Sequence[tuple[Any, ...]]) -> None:
        """Make the row of a new run, and own it. Raises MovedError if there is one by now."""
        self._change(lambda connection: self._begin(connection, inputs), self._let_go)

    def _begin(self, connection: Connection, inputs: Sequence[tuple[Any, ...]]) -> None:
        now, outputs = round(time(), 6), self.execution._outputs
        if connection.execute("SELECT 1 FROM runs WHERE run_id = ?", (self.run_id,)).fetchone():
            raise MovedError
        cursor = connection.execute(
            "INSERT INTO runs (run_id, workflow, kind, status, epoch, owner, outputs, graph,"
            " created, began) VALUES (?, ?, ?, 'running', 1, ?, ?, ?, ?, ?)",
            (
                self.run_id,
                self.workflow.name,
                self.workflow.kind,
                owner_now(),
                None if outputs is None else json.dumps(outputs),
                self.codes.graph,
                now,
                now,
            ),
        )
        row = cursor.lastrowid
        assert row is not None
        shelf = self.store.shelf
        if not all(each[-1] is None or shelf.is_there(each[-3:]) for each in inputs):
            raise MovedError  # a prune took the file of an input, which is written again
        if self.rerun not in (None, "failed", "stale"):  # of a run that there is, this is an error
            self._rows(connection, row).below(paths_of(self.rerun))
        connection.executemany(
            "INSERT INTO inputs (run, name, digest, codec, value, file) VALUES (?, ?, ?, ?, ?, ?)",
            [(row, *each) for each in inputs],
        )
        self._tag(connection, row)
        self._note(connection)
        self.hold = self.store.database.locks.take(row)
        if self.hold is None:
            raise StoreError(f"the lock of the new run {self.run_id!r} is taken by somebody else")
        self.durable = self._durable(row, 1, 1)

    # Going on.

    def take(self, found: Found) -> None:
        """Become the owner of a run that there is. Raises RunInUseError if somebody else owns it,
        MovedError if it is another than was found."""
        self.hold = self.store.database.locks.take(found.id)
        if self.hold is None:
            rows = self.store.database.rows("SELECT owner FROM runs WHERE id = ?", found.id)
            raise in_use(self.run_id, rows[0][0] if rows else None)
        self._change(lambda connection: self._take(connection, found))

    def _take(self, connection: Connection, found: Found) -> None:
        row = connection.execute(f"SELECT {COLUMNS} FROM runs WHERE id = ?", (found.id,)).fetchone()
        if row is None:
            raise MovedError
        found = Found(*row)
        numbers = (found.epoch, found.generation, found.deaths, found.before)
        if not all(isinstance(each, int) for each in numbers):
            raise StoreError(f"the store is damaged: the run {self.run_id!r} has {numbers}")
        if found.pruned is not None or (found.status in FINAL and self.rerun is None):
            raise MovedError
        last = connection.execute(
            "SELECT COALESCE(MAX(id), 0) FROM nodes WHERE run = ?", (found.id,)
        ).fetchone()[0]
        deaths = 0
        if found.status == "running" and last == found.before:
            deaths = found.deaths + 1
        elif found.status == "running":
            deaths = 1
        if self.renamed:
            rename(connection, self._rows(connection, found.id), self.renamed)
        generation, rerun = found.generation, found.rerun
        if self.rerun is not None:
            rerun = json.dumps(self.rerun)
            if found.status in FINAL or found.rerun != rerun:
                generation += 1
                if found.status not in FINAL:
                    replace_pending(connection, self._rows(connection, found.id), generation)
                self._replace(connection, found.id, generation)
                deaths = 0
            elif self.rerun == "stale":
                self._replace_edited(connection, found.id, generation)
        durable = self._durable(found.id, found.epoch + 1, generation)
        durable.read(connection)
        self._note(connection, durable.known_codes())
        if self.on_change != "keep" and self.rerun != "stale" and durable.has_changed():
            generation = self._look_at_changes(connection, durable)
            if generation != durable.generation:
                durable = self._durable(found.id, found.epoch + 1, generation)
                durable.read(connection)
        self.durable = durable
        connection.execute(
            "UPDATE runs SET generation = ?, rerun = ?, graph = ? WHERE id = ?",
            (generation, rerun, self.codes.graph, found.id),
        )
        self._deaths = deaths
        connection.execute(
            "UPDATE runs SET status = 'running', epoch = epoch + 1, owner = ?, before = ?,"
            " deaths = ?, began = COALESCE(began, ?), ended = NULL, error = NULL WHERE id = ?",
            (owner_now(), last, deaths, time(), found.id),
        )
        self._tag(connection, found.id)
        if self.execution.plan.takes_call_ids:
            self.durable.count(connection)
        if rerun == '"stale"':
            rows = self._rows(connection, found.id)
            pending = below_replaced(connection, rows, generation)
            self.durable.read_olds(connection, pending, partial(self._is_refed, connection))
        self._doubts = self.durable.doubts_of(connection)

    def _replace(self, connection: Connection, row: int, generation: int) -> None:
        """Begin a new generation of what is to be computed anew."""
        rows = self._rows(connection, row)
        assert self.rerun is not None
        if self.rerun == "stale":
            stale = changes_of(connection, rows, self.codes.by_path)
            inside = [path for path, change in stale.items() if change.is_inside]
            replace_only(connection, rows, stale.keys() - inside, generation)
            replace_only(connection, rows, inside, generation, keeps_inside=True)
        elif self.rerun == "failed":
            replace_failed(connection, rows, generation)
        else:
            replace(connection, rows, paths_of(self.rerun), generation)

    def _replace_edited(self, connection: Connection, row: int, generation: int) -> None:
        """Let what has changed since this generation began be computed anew in it, and what is
        below."""
        rows, codes = self._rows(connection, row), self.codes.by_path
        edited = [
            path
            for path, scope, name in rows.committed()
            if path in codes and {codes[path].key} != rows.codes[scope, name]
        ]
        changed = changes_of(connection, rows, codes)
        replace(connection, rows, [path for path in edited if path in changed], generation)

    def _is_refed(self, connection: Connection, node: str, old: bytes | None) -> bool:
        """Whether the arguments of a node come from elsewhere than with the code that it had."""
        code = self.codes.by_path.get(tuple(node.split(".")))
        return code is not None and old != code.key and is_refed(connection, old, code)

    def _rows(self, connection: Connection, row: int) -> Rows:
        return Rows(connection, row, graph_of(self.execution.plan))

    def _look_at_changes(self, connection: Connection, durable: Durable) -> int:
        """Raise ChangedError if the code of committed nodes was seen to change while something is
        left to run, or begin a new generation of them. Returns the generation."""
        generation = durable.generation
        rows = self._rows(connection, durable.row)
        changed = {
            path: change
            for path, change in changes_of(connection, rows, self.codes.by_path).items()
            if change.seen
        }
        if not changed or not durable.is_left(self.execution.plan.topology):
            return generation
        if self.on_change == "rerun":
            there = [path for path, change in changed.items() if not change.is_gone]
            replace_pending(connection, rows, generation + 1)
            replace(connection, rows, there, generation + 1)
            return generation + 1
        reasons = tuple(
            f"{'.'.join(path)}: {'; '.join(change.seen)}" for path, change in changed.items()
        )
        shown = "".join(f"\n  - {each}" for each in reasons)
        raise ChangedError(
            f"code has changed that the run {self.run_id!r} has results of:{shown}\n"
            "Say on_change='keep' to go on with these results, on_change='rerun' to compute them "
            "and what is below them anew, or renamed={'old': 'new'} for nodes with new names",
            run_id=self.run_id,
            reasons=reasons,
        )

    def _give_up(self) -> None:
        """End a run whose owners died one after the other."""
        ready = self._stop("failed")
        self.execution._exception = gave_up(self.run_id, self._deaths, ready)

    def _stop(self, status: str) -> list[str]:
        """End the run before anything is called. Returns the paths of the nodes that could be."""
        execution = self.execution
        self.is_over = True
        execution.observers = None
        execution.open()
        ready = [execution.path_of(index) for index in execution.begin(eager=True)]
        execution.close(status)
        return ready

    # After the run.

    def leave(self, error: BaseException | None) -> None:
        """Write how the run ended, and give it back. Raises what ended it from outside."""
        if self.hold is None:
            if error is not None:
                raise error
            return
        durable, database = self.durable, self.durable.database
        execution = self.execution
        cut = error.error if isinstance(error, CutShortError) else None
        try:
            status = "interrupted" if error is not None else execution.status
            if durable.is_cancelled and (error is None or cut is not None):
                status = "cancelled"
            if not isinstance(cut, RunLostError):
                left = [end for mapped in durable.mapped.values() for end in mapped.left()]
                doubts = database.change(partial(self._end, status, left), partial(_undo, left))
                if doubts:
                    status = "in_doubt"
                    execution._exception = in_doubt(durable.run_id, doubts)  # type: ignore[assignment]
                elif status == "cancelled":
                    execution._exception = cancelled(durable.run_id)
        except StoreError as broken:
            status = "interrupted"
            if error is None:
                cut = broken
            else:
                add_note(cut or error, f"the store failed, too: {broken}")
        finally:
            database.locks.give_back(self.hold)
            database.rest()
        execution.status = status
        execution.context.metadata["execution_status"] = status
        try:
            if cut is not None and status not in ("cancelled", "in_doubt"):
                raise cut
            if error is not None and cut is None:
                raise error
        finally:  # its traceback refers to this frame: that would be a cycle
            del error, cut

    def _end(self, status: str, left: Sequence[End], connection: Connection) -> list[str]:
        """Write the end of the run. Returns the nodes that are in doubt."""
        durable, execution = self.durable, self.execution
        durable.check(connection)
        for call in durable.made:
            call.withdraw(connection)
        for end in left:
            end.insert(connection)
        durable.write_kept(connection)
        doubts = self._doubts or durable.doubts_of(connection)
        ended: dict[str, Any] = {}
        if doubts:
            status = "in_doubt"
        elif status != "interrupted":
            ended = ending_of(execution)
            connection.executemany(  # what was not reached this time
                REPLACE,
                [
                    (durable.generation, durable.row, scope, name)
                    for scope, pending in durable.pending.items()
                    for name in pending
                ],
            )
        connection.execute(
            "UPDATE runs SET status = ?, owner = NULL, ended = ?, error = ?, cancel = 0"
            " WHERE id = ?",
            (
                status,
                time() if status in FINAL else None,
                json.dumps(ended) if ended else None,
                durable.row,
            ),
        )
        return doubts

    # A run that is over.

    def look_at(self, found: Found) -> None:
        """Make the execution one that has ended, as the store has it."""
        execution = self.execution
        self.is_over = True
        self.durable = durable = self._durable(found.id, found.epoch, found.generation)
        durable.is_over = True
        self.store.database.call(durable.read)
        durable.decode()
        ends = durable.ends[0]
        context, record = execution.context, execution.record
        execution.store, execution.observers = durable.root, None
        context.metadata.update({**durable.kept, "run_id": self.run_id})
        context._enter_run(record)
        execution._prepare_results()
        record.begin()
        shift = perf_counter() - time()
        with reading(self.store.path):
            record.began, record.began_at = (found.began or found.created) + shift, found.created
            ended_at = (found.ended or found.created) + shift
            ended: dict[str, Any] = {} if found.error is None else dict(json.loads(found.error))
        try:
            execution.begin(eager=True)
            for key, data, attempts, where in ended.get("resources", ()):
                failed = error_of(json.dumps(data).encode())
                execution.failures.add(key, failed, attempts, where, True)
            if ended.get("fatal") is not None:
                execution._stopped, execution.failures.fatal = True, ended["fatal"]
        finally:
            execution.close(found.status)
        if execution._outputs is None:
            execution.value = self._value_of(found, ends)
        record.ended = ended_at
        if found.status == "timed_out":
            execution._exception = timed_out(
                execution.name, ended.get("timeout") or 0.0, ended.get("late", ()), execution.run
            )
        elif found.status == "cancelled":
            execution._exception = cancelled(self.run_id)
        elif "deaths" in ended:
            execution._exception = gave_up(self.run_id, ended["deaths"], ended["late"])

    def _value_of(self, found: Found, ends: Sequence[Ended]) -> Any:
        """What the run has returned, also if nodes were added below its last one since, or that is
        gone."""
        topology = self.execution.plan.topology
        sinks, names_ = {topology.names[index] for index in topology.sinks}, topology.index.keys()
        ended = {end[0]: end for end in ends}
        if sinks <= ended.keys() <= names_:
            return self.execution.value
        graph = StoredGraph.of(self.store.graph_text(found.graph))
        if (
            graph is None
            or {graph.topology.names[index] for index in graph.topology.sinks} == sinks
        ):
            return self.execution.value
        topology, known = graph.topology, graph.topology.index
        completed = {known[each[0]]: each for each in ends if each[1] is None and each[0] in known}
        failed = [known[each[0]] for each in ends if each[1] is not None and each[0] in known]
        schedule = schedule_of(topology, {at: end[3] for at, end in completed.items()}, failed)
        done = schedule.in_order([index for index in topology.sinks if index in completed])
        value = completed[done[-1]][2] if done else ABSENT
        return None if value is ABSENT else value


def _undo(ends: Sequence[End]) -> None:
    for end in ends:
        end.take_back()


def gave_up(run_id: str, deaths: int, nodes: Sequence[str]) -> ExecutionError:
    """The error of a run whose owners died one after the other."""
    return ExecutionError(
        f"the run {run_id!r} was given up: {deaths} processes died one after the other while they "
        f"worked on it, with no node committed between. What could run then: {names(nodes)}; "
        "rerun='failed' tries again",
        node_name=nodes[0] if len(nodes) == 1 else None,
        deaths=deaths,
        nodes=tuple(nodes),
    )


def ending_of(execution: DagExecution) -> dict[str, Any]:
    """What no row of a node says of how an execution ended."""
    failures_ = execution.failures
    ended: dict[str, Any] = {}
    resources = [
        (key, to_data(error), *failures_.facts(key)[:2])
        for key, error in failures_.errors.items()
        if failures_.facts(key)[2]
    ]
    if resources:
        ended["resources"] = resources
    own = execution._exception
    if own is not None and hasattr(own, "deaths"):
        ended["deaths"], ended["late"] = own.deaths, own.nodes
    if failures_.fatal is not None:
        ended["fatal"] = failures_.fatal
    if execution.status == "timed_out":
        ended["timeout"] = execution.settings.timeout
        statuses = execution.record.statuses()
        ended["late"] = [name for name, status in statuses.items() if status == "cancelled"]
    return ended
