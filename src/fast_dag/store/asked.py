"""What a call of `execute` or `run` asks of a store, and how that is carried out."""

from __future__ import annotations

import json
import os
from collections import deque
from contextvars import copy_context
from functools import partial
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

from fast_dag.call.effects import ONE_SHOT
from fast_dag.define.node import name_of
from fast_dag.drive.slots import cpu_count
from fast_dag.errors import ValidationError, failures, names
from fast_dag.store.changes import Codes, changes_of
from fast_dag.store.claim import COLUMNS, Claim, Found, MovedError
from fast_dag.store.database import reading
from fast_dag.store.errors import EncodeError, RunExistsError, unstorable
from fast_dag.store.graphs import graph_of
from fast_dag.store.reruns import Rows
from fast_dag.store.store import FINAL, INPUTS, Store, checked_id, checked_tags, input_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future
    from sqlite3 import Connection
    from typing import Protocol

    from fast_dag.run.dag_execution import DagExecution
    from fast_dag.store.claim import Workflow

    class Request(Protocol):
        """What was asked of the run itself."""

        inputs: Mapping[str, Any]
        outputs: Any
        context: Any
        resume: Any


class Asked:
    """A run with a store, as it was asked for. Raises ValidationError where that cannot be."""

    def __init__(
        self,
        store: Any,
        run_id: str | None,
        rerun: Any = None,
        tags: Mapping[str, Any] | None = None,
        on_change: str | None = None,
        renamed: Mapping[str, str] | None = None,
    ) -> None:
        if not isinstance(store, Store):
            options = {
                "run_id": run_id,
                "rerun": rerun,
                "tags": tags,
                "on_change": on_change,
                "renamed": renamed,
            }
            given = next((k for k, v in options.items() if v is not None), "store")
            given = "store" if store is not None else given
            problem = (
                f"store= is a fast_dag.store.Store, not a {type(store).__name__}"
                if store is not None
                else f"{given}= is for runs with store="
            )
            raise ValidationError(
                f"{problem}; to give an input of that name: inputs={{{given!r}: ...}}"
            )
        self.store = store
        self._has_new_id = run_id is None
        self.run_id = os.urandom(16).hex() if run_id is None else checked_id(run_id)
        self.rerun = checked_rerun(rerun)
        self.tags = checked_tags("tags", tags)
        if on_change not in (None, "keep", "rerun"):
            raise ValidationError(
                f"on_change is 'keep' or 'rerun', not {on_change!r}; to give an input of that "
                "name: inputs={'on_change': ...}"
            )
        self.on_change = on_change
        self.renamed = dict(renamed or {})

    # Carried out by a caller that waits in its thread, or that awaits.

    def execute(self, workflow: Workflow, request: Request) -> DagExecution:
        """Start, go on, or take what is there. Returns the execution, which has ended."""
        claim = self._claim(workflow, request)
        error: BaseException | None = None
        try:
            if not claim.is_over:
                workflow._drive(claim.execution)
        except BaseException as raised:
            error = raised
        try:
            claim.leave(error)
        finally:
            del error
            workflow._remember(claim.execution)
        return claim.execution

    async def execute_async(self, workflow: Workflow, request: Request) -> DagExecution:
        """`execute` that does not block the event loop."""
        claim: Claim
        claim, interrupted = await _in_thread(lambda: self._claim(workflow, request))
        error: BaseException | None = interrupted
        try:
            if not claim.is_over and error is None:
                await workflow._drive_async(claim.execution)
        except BaseException as raised:
            error = raised
        try:
            if isinstance(error, GeneratorExit):  # the loop was closed, so nothing can be awaited
                claim.leave(error)
            else:
                _, interrupted = await _in_thread(partial(claim.leave, error))
        finally:
            del error
            workflow._remember(claim.execution)
        if interrupted is not None:
            raise interrupted
        return claim.execution

    # Before the run.

    def _claim(self, workflow: Workflow, request: Request) -> Claim:
        if request.resume is not None:
            raise ValidationError(
                "resume= is for runs without store=; with a store the same run_id goes on, and "
                "rerun= begins anew what you name"
            )
        given = request.inputs, request.outputs
        while True:
            request.inputs, request.outputs = given
            try:
                return self._claimed(workflow, request, self._find())
            except MovedError:  # the next look finds it as it is
                continue

    def _claimed(self, workflow: Workflow, request: Request, found: Found | None) -> Claim:
        execution = self._made(workflow, request, found)
        execution._check()
        metadata = execution.context.metadata
        own = metadata.get("run_id")
        if own is not None and own not in (self.run_id, execution.context._own_run_id):
            asked = f"but run_id= is {self.run_id!r}; drop one of them"
            if self._has_new_id:
                asked = f"which is not given: say run_id={own!r}, or drop it from the metadata"
            raise ValidationError(f"the context's metadata has the run_id {own!r}, {asked}")
        claim = Claim(
            self.store,
            workflow,
            execution,
            self.run_id,
            self.tags,
            self.rerun,
            self.on_change,
            self.renamed,
        )
        if found is None:
            claim.begin(self._encoded_inputs(workflow, execution))
        elif found.status in FINAL and self.rerun is None:
            claim.look_at(found)
        elif found.status == "completed" and self.rerun == "failed":
            claim.look_at(found)  # nothing has
        else:
            claim.take(found)
        return claim

    def _made(self, workflow: Workflow, request: Request, found: Found | None) -> DagExecution:
        """The execution, with what is stored of the run. Stored inputs that the workflow takes no
        longer are left out."""
        if found is None:
            return workflow._made(request)
        self._refuse_others(workflow, found)
        given = request.inputs.keys()
        self._take_stored(workflow, request, found)
        try:
            return workflow._made(request)
        except ValidationError as error:
            unknown = set(getattr(error, "inputs", ()))
            if not unknown or unknown & given:
                raise
        request.inputs = {
            name: value for name, value in request.inputs.items() if name not in unknown
        }
        return workflow._made(request)

    def _find(self) -> Found | None:
        rows = self.store.database.rows(f"SELECT {COLUMNS} FROM runs WHERE run_id = ?", self.run_id)
        return Found(*rows[0]) if rows else None

    def _refuse_others(self, workflow: Workflow, found: Found) -> None:
        if (found.workflow, found.kind) != (workflow.name, workflow.kind):
            raise RunExistsError(
                f"the run {self.run_id!r} is one of {found.workflow!r}, not of "
                f"{workflow.name!r}; give this one another run_id",
                run_id=self.run_id,
                workflow=found.workflow,
            )
        if found.pruned is not None:
            raise RunExistsError(
                f"the run {self.run_id!r} {found.status}, and was pruned; its id stays taken. "
                f"Give this one another run_id, or say store.prune(forget=True)",
                run_id=self.run_id,
            )

    def _take_stored(self, workflow: Workflow, request: Request, found: Found) -> None:
        """Take the inputs and outputs of a run that there is. Raises RunExistsError where others
        are asked for."""
        store, given, differs = self.store, request.inputs, []
        shelf = store.shelf_of(workflow)
        stored: dict[str, Any] = {}
        for row in store.database.rows(INPUTS, found.id):
            name, digest = row[:2]
            old = shelf.take(row[2:5], ("input", *row[5:]))
            stored[name] = old
            if name in given and not _is_same(given[name], old, digest):
                differs.append(f"the input {name!r} is another")
        differs += [
            f"the input {name!r} was not given then" for name in given if name not in stored
        ]
        with reading(store.path):
            outputs = None if found.outputs is None else json.loads(found.outputs)
            if outputs is not None and not all(isinstance(each, str) for each in list(outputs)):
                raise TypeError(outputs)
        if request.outputs is not None and _output_names(request.outputs) != set(outputs or ()):
            differs.append(f"outputs were {'not given' if outputs is None else names(outputs)}")
        if differs:
            raise RunExistsError(
                f"there is a run {self.run_id!r} of {found.workflow!r} that differs: "
                f"{'; '.join(differs)}. Leave out what is stored, or give another run_id",
                run_id=self.run_id,
                differs=tuple(differs),
            )
        request.inputs, request.outputs = stored, outputs

    def _encoded_inputs(self, workflow: Workflow, execution: DagExecution) -> list[tuple[Any, ...]]:
        rows, shelf = [], self.store.shelf_of(workflow)
        for name, value in execution.inputs.items():
            if ONE_SHOT[type(value)]:
                raise ValidationError(
                    f"the input {name!r} is a {type(value).__name__}, which can be gone through "
                    "once only, so it cannot be stored; make it a list"
                )
            try:
                placed = shelf.put(value, ("input", self.run_id, name))
            except EncodeError as error:
                raise unstorable(error, f"the store cannot keep the input {name!r}") from error
            rows.append((name, input_digest(value), *placed))
        return rows


# Inputs and options.


def checked_rerun(rerun: Any) -> str | list[str] | None:
    """What shall be computed anew: "failed", "stale", or paths of nodes; raises ValidationError."""
    if rerun is None or rerun in ("failed", "stale"):
        found: str | None = rerun
        return found
    several = rerun if isinstance(rerun, (list, tuple, set)) else [rerun]
    asked = [name_of(each) for each in several]
    if not asked or not all(isinstance(each, str) for each in asked):
        raise ValidationError(
            f"rerun is 'failed', 'stale', a node or a list of nodes, not {rerun!r}; to give an "
            "input of that name: inputs={'rerun': ...}"
        )
    return sorted(asked)


def _is_same(new: object, old: object, digest: bytes | None) -> bool:
    """Whether an input is the one that was stored."""
    mine = None if digest is None or ONE_SHOT[type(new)] else input_digest(new)
    if mine is not None:
        return mine == digest
    try:
        return bool(new == old)
    except failures():
        return False


def _output_names(outputs: Any) -> set[str]:
    several = outputs if isinstance(outputs, (list, tuple, set, dict)) else [outputs]
    return {name_of(each) for each in several}


class Explanation:
    """What `dag.explain` tells of a run: of each node by path whether what is stored of it is
    "fresh", "stale", or "maybe", because something above it is stale; "open" if it has not ended.
    `reasons` says why. Printed, it is a table."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.states: dict[str, str] = {}
        self.reasons: dict[str, list[str]] = {}

    def note(self, path: Sequence[str], state: str, reasons: list[str]) -> None:
        """Note how a node stands."""
        name = ".".join(path)
        self.states[name] = state
        if reasons:
            self.reasons[name] = reasons

    def __str__(self) -> str:
        width = max(map(len, self.states), default=0)
        return "\n".join(
            f"{name:{width}}  {state:5}  {'; '.join(self.reasons.get(name, ()))}".rstrip()
            for name, state in self.states.items()
        )

    def __repr__(self) -> str:
        return f"<explanation of the run {self.run_id!r}>"


def explained(workflow: Workflow, store: Store, run_id: str) -> Explanation:
    """See `DAG.explain`."""
    asked = Asked(store, run_id)
    found = asked._find()
    if found is None:
        store.run(run_id)  # which raises
        raise AssertionError
    plan = asked._made(workflow, workflow._request(), found).plan
    codes = Codes.of(plan).by_path
    graph = graph_of(plan)
    not_ended = "the run ended without it" if found.status in FINAL else "it has not ended"

    def explain(connection: Connection) -> Explanation:
        told = Explanation(run_id)
        rows = Rows(connection, found.id, graph)
        changed = changes_of(connection, rows, codes)
        there = {path: change for path, change in changed.items() if not change.is_gone}
        scopes, gone = rows.below([path for path in there if not there[path].is_inside])
        for path, change in there.items():
            if change.is_inside:  # what is in it stays
                for scope, names in rows.below([path])[0].items():
                    scopes.setdefault(scope, set()).update(names)
        ended = {path: (scope, name) for path, scope, name in rows.ended()}
        for path in graph.paths():
            at = ended.get(path)
            if path in changed:
                change = changed[path]
                told.note(path, "stale", [*change.seen, *change.may])
            elif at is None:
                told.note(path, "open", [not_ended])
            elif at[0] in gone or at[1] in scopes.get(at[0], ()):
                told.note(path, "maybe", ["something above it is stale"])
            else:
                told.note(path, "fresh", [])
        for path, change in changed.items():
            if change.is_gone:
                told.note(path, "stale", change.seen)
        return told

    return store.database.call(explain)


async def _in_thread(function: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """The result of a function that blocks, and the cancellation that came meanwhile, if one did:
    the function is waited for all the same."""
    import asyncio

    interrupted: BaseException | None = None
    future = asyncio.wrap_future(_helpers.submit(partial(copy_context().run, function)))
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            interrupted = error
    return future.result(), interrupted


class _Helpers:
    """Threads that wait for stores, while event loops go on: so many at most, which end when they
    find nothing to do.

    They are not those of the loop's own executor: these may all wait for a run that needs one."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = Lock()
        self._todo: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._busy = 0

    def submit(self, function: Callable[[], Any]) -> Future[Any]:
        """Have a function called in one of the threads."""
        from concurrent.futures import Future

        future: Future[Any] = Future()
        with self._lock:
            self._todo.append((future, function))
            starts = self._busy < self._most
            self._busy += starts
        if starts:
            Thread(target=self._work, name="fast_dag store", daemon=True).start()
        return future

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._todo:
                    self._busy -= 1
                    return
                future, function = self._todo.popleft()
            try:
                result = function()
            except BaseException as error:
                future.set_exception(error)
                del error  # whose traceback refers to this frame
            else:
                future.set_result(result)
                del result
            del future, function


_helpers = _Helpers(min(32, cpu_count() + 4))


def _forget() -> None:
    """A forked child has none of these threads."""
    global _helpers  # noqa: PLW0603  a process has one
    _helpers = _Helpers(min(32, cpu_count() + 4))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
