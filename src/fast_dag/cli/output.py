"""What commands print: results go to stdout for the next program, everything about them to
stderr."""

from __future__ import annotations

import errno
import os
import sys
from collections import Counter
from pprint import pformat
from typing import TYPE_CHECKING, Any

import click

from fast_dag.cli.target import place_of
from fast_dag.draw.view import view_of
from fast_dag.draw.words import brief, counted, duration
from fast_dag.errors import (
    ExecutionError,
    ValidationError,
    cause_of,
    is_a,
    notes_of,
    text_of,
    traceback_of,
)
from fast_dag.returns import ItemError, to_data
from fast_dag.run.machine_execution import MachineRun
from fast_dag.serial.plain import plain

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TextIO

    from fast_dag.draw.view import ItemsView
    from fast_dag.run.run import Run

_own_stdout: TextIO | None = None
"""The stdout of the command, once what others print goes to stderr."""
_lost: list[Exception] = []
"""The errors that kept stdout from being written."""


def keep_stdout() -> None:
    """From now on stdout is for this command alone: what the workflow prints, also in other
    processes, and also in threads that outlive the run, goes to stderr."""
    global _own_stdout  # noqa: PLW0603  as there is one stdout
    shared: Any = sys.__stdout__
    if _own_stdout is not None or shared is None:
        return
    shared.flush()
    _own_stdout = open(os.dup(1), "w", encoding=shared.encoding)  # noqa: SIM115  until the end
    # As stderr has it, where that goes now; a stderr that is full must not fail nodes that print.
    watched = sys.__stderr__ is not None and sys.__stderr__.isatty()
    shared.reconfigure(errors="backslashreplace", line_buffering=watched)
    if sys.__stderr__ is None:
        _to_nowhere(1)
    else:
        os.dup2(2, 1)


def say(text: str, *, err: bool = False, mark: str = "", document: bool = False) -> None:
    """Print text, after a mark that may be styled.

    Characters that the stream cannot encode are written as `\\u2192`. A document is UTF-8 in every
    terminal. After a failure nothing more is written to the stream; `unwritten` returns the failure
    of stdout."""
    stream = _stream(err)
    try:
        if stream is None:  # it was closed before Python began
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if mark:
            click.echo(f"{mark} ", file=stream, nl=False, color=_colour())
        encoding = "utf-8" if document else _encoding(stream)
        # In JSON, a lone surrogate as `\ud800` is that surrogate.
        encoded = f"{text}\n".encode(encoding, "backslashreplace")
        if document:
            stream.buffer.write(encoded)
        else:
            stream.write(encoded.decode(encoding))
        stream.flush()
    except (OSError, ValueError) as error:  # ValueError: the stream was closed
        _give_up(error, stream)


def can_show(text: str) -> bool:
    """Whether stdout can encode a text."""
    try:
        text.encode(_encoding(_stream(False)))
    except UnicodeEncodeError:
        return False
    return True


def unwritten() -> Exception | None:
    """Flush everything; the error that kept stdout from being written. A reader that went away is
    no error."""
    for stream in (_own_stdout, sys.__stdout__, sys.__stderr__):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError) as error:
            _give_up(error, stream)
    first = _lost[0] if _lost else None
    _lost.clear()
    return None if isinstance(first, BrokenPipeError) else first


def _stream(err: bool) -> Any:
    # Not `sys.stdout`, which a node may have replaced.
    return sys.__stderr__ if err else _own_stdout or sys.__stdout__


def _encoding(stream: Any) -> str:
    return getattr(stream, "encoding", None) or "ascii"


def _colour() -> bool | None:
    """Whether to use colours; None means: in a terminal."""
    return False if os.environ.get("NO_COLOR") else True if os.environ.get("FORCE_COLOR") else None


def _give_up(error: Exception, stream: Any) -> None:
    if stream is _stream(False):
        _lost.append(error)
    if stream is not None:
        # Not `fileno()`, which the first two lack once a node has closed them.
        own = 1 if stream is sys.__stdout__ else 2 if stream is sys.__stderr__ else None
        _to_nowhere(stream.fileno() if own is None else own)


def _to_nowhere(descriptor: int) -> None:
    """Make a descriptor lead to the null device, also for what Python flushes when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


# Values.

_DEEPEST = 400
"""How many levels of a value are written as JSON."""
_LONGEST = 100_000
"""Characters up to which a value is laid out in lines: that takes a second for each million."""


def as_text(value: Any) -> str:
    """A result for people; a string as it is.

    >>> as_text("done"), as_text({"a": 1})
    ('done', "{'a': 1}")
    """
    if isinstance(value, str):
        return value
    text = _repr(value)
    try:
        return pformat(value, width=100, sort_dicts=False) if len(text) < _LONGEST else text
    except Exception:  # of a `__repr__` in it
        return text


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception:
        return brief(value)


def as_json(value: Any) -> Any:
    """A value as JSON can have it; a part that JSON cannot have becomes its repr.

    >>> as_json({1: (1j, float("inf"), None)})
    {'1': ['1j', 'inf', None]}
    """
    try:
        return _as_json(value, 0)
    except Exception:  # it is nested too deeply, or its own methods raise
        return _repr(value)


def _as_json(value: Any, depth: int) -> Any:
    if depth > _DEEPEST:
        raise RecursionError
    if isinstance(value, dict):
        return {
            key if isinstance(key, str) else str(key): _as_json(each, depth + 1)
            for key, each in value.items()
        }
    if isinstance(value, ItemError):
        return {"key": _as_json(value.key, depth + 1), "error": as_error(value.error)}
    if isinstance(value, (list, tuple)):
        return [_as_json(each, depth + 1) for each in value]
    try:
        return plain(value, "")
    except Exception:
        return _repr(value)


# Runs.


def as_document(run: Run) -> dict[str, Any]:
    """A run as data."""
    error = run.exception()
    results, not_json = {}, {}
    for name, value in run.results.items():
        copy = _plain_copy(to_data(value))
        if copy is None and value is not None:
            not_json[name] = _repr(value)
        else:
            results[name] = copy
    document = {
        "workflow": run.name,
        "run_id": run.context.metadata.get("run_id"),  # which a node may have deleted
        "status": run.status,
        "value": as_json(run.value),
        "seconds": run.context.metrics["execution_time"],
        "statuses": {name: str(status) for name, status in run.statuses.items()},
        "timings": run.timings,
        "results": results,
        "not_json": not_json,
        "errors": {name: as_error(each) for name, each in run.errors.items()},
    }
    shown = view_of(run).run
    assert shown is not None
    if shown.items:
        document["items"] = {name: _counts(each) for name, each in shown.items.items()}
    if isinstance(run, MachineRun):
        document["state_history"] = run.state_history
    if error is not None:
        document["error"] = as_error(error)
    return document


def _counts(items: ItemsView) -> dict[str, Any]:
    names = ("total", "completed", "failed", "dropped", "retries")
    return {name: getattr(items, name) for name in names}


def _plain_copy(value: Any) -> Any:
    """A copy of plain data that is equal to it; None if `value` is anything else."""
    try:
        copy = plain(value, "")
        return copy if copy == value else None
    except Exception:  # also of the value's own methods
        return None


def as_error(error: BaseException) -> dict[str, Any]:
    """An error as data."""
    data: dict[str, Any] = {"type": type(error).__name__, "message": text_of(error)}
    if is_a(error, ExecutionError) and error.node_name is not None:
        data |= {"node": error.node_name, "attempts": error.attempts}
    if is_a(error, ValidationError) and len(error.problems) > 1:
        data["problems"] = [str(each) for each in error.problems]
    notes = [str(each) for each in notes_of(error)]
    return {**data, "notes": notes} if notes else data


def summary(run: Run, status: str | None = None) -> str:
    """One line about a run; `status` replaces the word for how it ended.

    >>> from fast_dag import DAG
    >>> summary(DAG("demo").add_node("a", lambda: 1).execute()).partition(" in ")[0]
    'demo: completed'
    """
    status = status or run.status.replace("_", " ")
    spent = duration(run.context.metrics["execution_time"])
    if isinstance(run, MachineRun):
        told = f"{counted(run.cycle_count, 'state')} executed"
    else:
        counts: Mapping[str, int] = Counter(str(each) for each in run.statuses.values())
        told = ", ".join(f"{count} {each.replace('_', ' ')}" for each, count in counts.items())
    return f"{run.name}: {status} in {spent} ({told})"


def tell_error(error: BaseException, *, traced: bool = False) -> None:
    """Print an error to stderr."""
    if traced:
        say(traceback_of(error).rstrip("\n"), err=True)
        return
    cause = cause_of(error) if is_a(error, ExecutionError) else None
    place = "" if cause is None else place_of(cause)
    mark = click.style("error:", fg="red", bold=True)
    say(f"{text_of(error)}{place}", err=True, mark=mark)
    for note in notes_of(error):
        say(f"  {note}", err=True)
