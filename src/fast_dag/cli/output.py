"""What commands print: results for the next program on stdout, all that is about them on stderr."""

from __future__ import annotations

import codecs
import errno
import json
import os
import sys
from collections import Counter
from contextlib import contextmanager, suppress
from math import isfinite
from pprint import pformat
from typing import TYPE_CHECKING, Any

import click

from fast_dag.cli.target import place_of
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
from fast_dag.run.machine_execution import MachineRun
from fast_dag.serial.plain import plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fast_dag.run.run import Run


_lost: list[Exception] = []
"""What kept stdout from being written, the first cause first."""


def say(text: str, *, err: bool = False, mark: str = "") -> None:
    """Print text, behind a mark that may be styled. What the stream cannot encode is written out,
    as `\\u2192`. Where a stream cannot be written to, what it would get from then on is dropped:
    `unwritten` tells that of stdout."""
    stream = sys.stderr if err else sys.stdout
    try:
        if stream is None:  # it was closed before Python began
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if not can_show(text, err=err):
            encoding = _encoding(err)
            text = text.encode(encoding, "backslashreplace").decode(encoding)
        if mark:
            click.echo(f"{mark} ", file=stream, nl=False)
        stream.write(f"{text}\n")
        stream.flush()
    except (OSError, ValueError) as error:  # the latter of a stream that was closed
        _give_up(error, err)


def say_json(data: Any) -> None:
    """Print one JSON document: ASCII, unless stdout is UTF-8, which JSON has to be."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    if codecs.lookup(_encoding()).name != "utf-8" or not can_show(text):
        text = json.dumps(data, indent=2)
    say(text)


def can_show(text: str, *, err: bool = False) -> bool:
    """Whether the stream can encode a text."""
    try:
        text.encode(_encoding(err))
    except UnicodeEncodeError:
        return False
    return True


def _encoding(err: bool = False) -> str:
    return getattr(sys.stderr if err else sys.stdout, "encoding", None) or "ascii"


def unwritten() -> Exception | None:
    """What kept stdout from being written, as far as anyone was there to read it; both streams are
    flushed, and the account is closed."""
    for err in (False, True):
        stream = sys.stderr if err else sys.stdout
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError) as error:
            _give_up(error, err)
    first = _lost[0] if _lost else None
    _lost.clear()
    # Who reads us, and went away, has seen enough.
    return None if isinstance(first, BrokenPipeError) else first


def _give_up(error: Exception, err: bool) -> None:
    if not err:
        _lost.append(error)
    if (sys.stderr if err else sys.stdout) is not None:
        _to_nowhere(2 if err else 1)


def _to_nowhere(descriptor: int) -> None:
    """So that nothing is written there, neither what is left to flush when Python ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


@contextmanager
def own_stdout(wanted: bool) -> Iterator[None]:
    """Where stdout is for JSON: what nodes print, also in other processes, goes to stderr."""
    if not wanted or sys.stdout is None:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    if sys.stderr is None:
        _to_nowhere(1)
    else:
        os.dup2(2, 1)
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
        except (OSError, ValueError):  # stderr is full: what nodes print is not part of the JSON
            _to_nowhere(1)
            with suppress(ValueError):
                sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


# Values.


def as_text(value: Any) -> str:
    """A result as people read it: strings as they are.

    >>> as_text("done"), as_text({"a": 1})
    ('done', "{'a': 1}")
    """
    if isinstance(value, str):
        return value
    try:
        return pformat(value, width=100, sort_dicts=False)
    except Exception:  # of a `__repr__` in it
        return brief(value)


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception:
        return brief(value)


def is_plain(value: Any) -> bool:
    """Whether JSON keeps a value as it is.

    >>> is_plain([1, "a", None]), is_plain((1, 2)), is_plain({1: 2})
    (True, False, False)
    """
    try:
        return bool(plain(value, "") == value)
    except Exception:  # also of a value's own methods
        return False


def as_json(value: Any) -> Any:
    """A value as JSON can have it; for what it cannot, its repr.

    >>> as_json({1: (1j, float("inf"), None)})
    {'1': ['1j', 'inf', None]}
    """
    try:
        return _as_json(value)
    except Exception:  # it is nested too deeply, or its own methods raise
        return _repr(value)


def _as_json(value: Any) -> Any:
    if value is None or isinstance(value, (bool, str, int)):
        return value
    if isinstance(value, float):
        return value if isfinite(value) else _repr(value)
    if isinstance(value, dict):
        return {
            key if isinstance(key, str) else str(key): _as_json(it) for key, it in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_as_json(each) for each in value]
    return _repr(value)


# Runs.


def as_document(run: Run) -> dict[str, Any]:
    """All that is to be told of a run."""
    error = run.exception()
    results = {name: value for name, value in run.results.items() if is_plain(value)}
    document = {
        "workflow": run.name,
        "run_id": run.run_id,
        "status": run.status,
        "value": as_json(run.value),
        "seconds": run.context.metrics["execution_time"],
        "statuses": {name: str(status) for name, status in run.statuses.items()},
        "timings": run.timings,
        "results": results,
        "not_json": {
            name: _repr(value) for name, value in run.results.items() if name not in results
        },
        "errors": {name: as_error(each) for name, each in run.errors.items()},
    }
    if isinstance(run, MachineRun):
        document["state_history"] = run.state_history
    if error is not None:
        document["error"] = as_error(error)
    return document


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
    """One line about a run, with another word for how it ended where one is given.

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
    """Print an error for people."""
    if traced:
        say(traceback_of(error).rstrip("\n"), err=True)
        return
    cause = cause_of(error) if is_a(error, ExecutionError) else None
    place = "" if cause is None else place_of(cause)
    mark = click.style("error:", fg="red", bold=True)
    say(f"{text_of(error)}{place}", err=True, mark=mark)
    for note in notes_of(error):
        say(f"  {note}", err=True)
