"""The errors of one execution, and the exceptions that a run raises because of them."""

from __future__ import annotations

import os

from fast_dag._frames import PACKAGE, trace_of
from fast_dag.errors import (
    ExecutionError,
    InvalidTransitionError,
    MaxCyclesError,
    MissingInputError,
    TimeoutError,
    ValidationError,
    add_note,
    brief_of,
    is_a,
    names,
    notes_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Container, Sequence
    from typing import Any, Final

    from fast_dag.define.graph import Edge

_ASYNCIO: Final = os.path.join(os.path.dirname(os.__file__), "asyncio")

CLOSING = "closing"
"""The `where` of an error that a resource raised as it was closed."""

_MOST_NOTES: Final = 20
"""Failures that the error of another one tells of, at most: a map may have kept a thousand."""

_OWN: Final = (TimeoutError, InvalidTransitionError, MaxCyclesError)
"""Errors of the engine. They are raised as they are, not as the cause of an ExecutionError."""


class Failures:
    """The errors of one execution by the name of the node (`"sub.inner"` for nested ones) or
    resource, in the order in which they occurred. `fatal` is the name of the error that ended the
    execution, None if none did. `crashed` is the path of the node that raised what is no failure,
    SystemExit say, where several were running."""

    __slots__ = ("_facts", "_keys", "_of_items", "crashed", "errors", "fatal")

    def __init__(self) -> None:
        self.errors: dict[str, Exception] = {}
        self.fatal: str | None = None
        self.crashed: str | None = None
        self._facts: dict[str, tuple[int, str | None, bool]] = {}
        self._keys: dict[str, Any] = {}  # of items of maps
        self._of_items: set[str] = set()  # the errors of items that maps kept or dropped

    def add(
        self,
        key: str,
        error: BaseException,
        attempts: int = 1,
        where: str | None = None,
        is_resource: bool = False,
    ) -> None:
        """Keep an error. `attempts` is the number of calls that were made, `where` is what raised
        it, such as "cleanup hook", None for the node's own function."""
        self.errors[key] = error  # type: ignore[assignment]  # may be a CancelledError
        self._facts[key] = attempts, where, is_resource
        self._of_items.discard(key)

    def add_item(self, name: str, failed: Any, *, is_fatal: bool = False) -> None:
        """Keep the error of an item of map `name`. It fails the map if it `is_fatal`."""
        key = name + failed.label
        self.add(key, failed.error, failed.attempts, failed.where)
        if not is_fatal:
            self._of_items.add(key)
        if failed.shown is not None:
            self._keys[key] = failed.shown

    def adopt(self, name: str, inner: Failures) -> None:
        """Keep the errors of the workflow that is nested in node `name`."""
        for key, error in inner.errors.items():
            self.add(f"{name}.{key}", error, *inner.facts(key))
        for key, item in inner._keys.items():
            self._keys[f"{name}.{key}"] = item
        self._of_items.update(f"{name}.{key}" for key in inner._of_items)

    @property
    def are_items(self) -> bool:
        """Whether nothing failed but items that their maps kept or dropped."""
        return len(self.errors) == len(self._of_items)

    def key_of(self, name: str) -> Any:
        """The key of the item whose error that is; None if it is none."""
        return self._keys.get(name)

    def facts(self, key: str) -> tuple[int, str | None, bool]:
        """The number of attempts before an error, what raised it (see `add`), and whether it is
        the error of a resource."""
        return self._facts.get(key, (1, None, False))

    def is_own_resource(self, key: str) -> bool:
        """Whether an error is that of a resource of this execution, not of a nested one."""
        return self.facts(key)[2] and "." not in key

    def attempts(self, key: str) -> int:
        """The number of calls that were made before an error was final."""
        return self.facts(key)[0]

    @property
    def first(self) -> str:
        """The name of the error that ended the execution, else of the first error; those of items
        come last."""
        own = (key for key in self.errors if key not in self._of_items)
        return self.fatal or next(own, None) or next(iter(self.errors))

    def exception(self, name: str, noun: str, prefix: str, run: Any) -> ExecutionError:
        """The error to raise for workflow `name`, with the user's exception as its cause."""
        key = self.first
        cause: Any = self.errors[key]
        attempts, where, is_resource = self.facts(key)
        path = prefix + key
        if is_a(cause, _OWN) and cause.node_name == path and where is None:
            cause.run, cause.attempts = run, attempts
            self.note_others(cause, key, noun, prefix)
            return cause
        tries = f" after {attempts} attempts" if attempts > 1 else ""
        if where is not None:
            tries += f" (in its {where})"
        kind = "resource" if is_resource else noun
        error = ExecutionError(
            f"{kind} {path!r} of {name!r} failed{tries}: {brief_of(cause)}",
            node_name=path,
            attempts=attempts,
            run=run,
        )
        if key in self._keys:
            error.key = self._keys[key]
        error.__cause__ = cause
        add_note(error, *notes_of(cause))
        self.note_others(error, key, noun, prefix)
        return error

    def note_others(self, error: ExecutionError, key: str | None, noun: str, prefix: str) -> None:
        """Add a note to `error` for each other error but that of `key`, at most `_MOST_NOTES`."""
        others = [other for other in self.errors if other != key]
        for other in others[:_MOST_NOTES]:
            kind = "resource" if self.facts(other)[2] else noun
            add_note(error, f"{kind} {prefix + other!r} failed too: {brief_of(self.errors[other])}")
        if len(others) > _MOST_NOTES:
            add_note(error, f"{len(others) - _MOST_NOTES} more failed too: see `run.errors`")


def exception_of(execution: Any, timeout: float | None) -> ExecutionError | None:
    """The error of the failure that ended an execution, or, if it went on after failures, of the
    first; None if nothing failed."""
    known: Failures = execution.failures
    run = execution.run
    if execution.status == "timed_out":
        late = [name for name, at in execution.record.statuses().items() if at == "cancelled"]
        error: ExecutionError = timed_out(execution.name, timeout or 0.0, late, run)
        known.note_others(error, None, execution.noun, execution.prefix)
        return error
    if not known.errors:
        return None
    return known.exception(execution.name, execution.noun, execution.prefix, run)


def timed_out(name: str, timeout: float, late: Sequence[str], run: Any) -> TimeoutError:
    """The error of a run that did not end in time; `late` are the nodes that were running."""
    return TimeoutError(
        f"{name!r} did not end within its timeout of {timeout:g} s; "
        f"still running: {names(late) or 'nothing'}",
        run=run,
        timeout=timeout,
    )


def shared(name: str, does: str, value: Any, takers: Sequence[str]) -> ValidationError:
    """The error for an iterator that several nodes take."""
    return ValidationError(
        f"{name!r} {does} a {type(value).__name__}, which can be gone through once only, but "
        f"{names(takers)} take it; make it a list, or connect one node",
        node=name,
        consumers=tuple(takers),
    )


def consumed(what: str, value: Any, node: str) -> ValidationError:
    """The error of a one-shot value that would be given to a node again."""
    return ValidationError(
        f"{what} is a {type(value).__name__}, which can be gone through once only and was given to "
        f"a node before, but {node!r} would take it; make it a list, or give it anew",
        node=node,
    )


def missing_inputs(
    name: str,
    unfed: Sequence[tuple[str, str]],
    outside: Sequence[Edge],
    advice: str,
    nodes: Container[str] = (),
    deciders: Collection[str] = (),
) -> MissingInputError:
    """The error of a run that lacks values: for the parameters `unfed`, as (node, parameter), and
    for the edges that enter the part that is run from outside. `nodes` are the names of nodes that
    could feed a parameter of their name. `deciders` are not in that part, but pass on what they
    were given."""
    lacking = [f"{parameter!r} of {node!r}" for node, parameter in unfed]
    advices = [advice] if unfed else []
    named = [f"{source} >> {node}" for node, source in unfed if source in nodes and source != node]
    if named:
        advices.append(f"nodes have these names: say {', '.join(named)}, or DAG(autowire=True)")
    if any(parameter == "self" for _, parameter in unfed):
        advices.append("add a method as a bound method: add_node(name, object.method)")
    for edge in outside:
        port = edge.input or "its order"
        lacking.append(f"{port!r} of {edge.target!r} (the result of {edge.source!r})")
    if outside:
        advices.append(
            "for results from outside of this part run the whole, or pass run= or context="
        )
    if deciders:
        advices.append(f"nodes of this part get what {names(sorted(deciders))} was given")
    where = ", ".join(lacking)
    return MissingInputError(
        f"{name!r} lacks values for required parameters: {where}; {'; '.join(advices)}",
        missing=(*unfed, *((edge.target, edge.input or edge.source) for edge in outside)),
        sources=tuple(edge.source for edge in outside),
    )


def cut_traceback(error: BaseException) -> None:
    """Remove the frames of this package and of asyncio from the start of an error's traceback, so
    that it begins in the user's code."""
    traceback = trace_of(error)
    at = traceback
    while at is not None and at.tb_frame.f_code.co_filename.startswith((PACKAGE, _ASYNCIO)):
        at = at.tb_next
    BaseException.with_traceback(error, at or traceback)
