"""What commands print: results for the next program on stdout, all that is about them on stderr."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections import Counter
from contextlib import contextmanager
from math import isfinite
from pprint import pformat
from typing import TYPE_CHECKING, Any

import click

from fast_dag.cli.target import place_of
from fast_dag.cli.tree import plainer
from fast_dag.draw.words import brief, counted, duration
from fast_dag.errors import ExecutionError, ValidationError, notes_of, text_of
from fast_dag.fsm_run import FsmRun
from fast_dag.serial.plain import plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fast_dag.run import Run


def say(text: str, *, err: bool = False) -> None:
    """Print text, with what the stream can show."""
    stream = sys.stderr if err else sys.stdout
    encoding = getattr(stream, "encoding", None) or "ascii"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = plainer(text).encode(encoding, "backslashreplace").decode(encoding)
    click.echo(text, err=err)


def say_json(data: Any) -> None:
    """Print one JSON document."""
    say(json.dumps(data, indent=2, ensure_ascii=False))


@contextmanager
def own_stdout(wanted: bool) -> Iterator[None]:
    """Where stdout is for JSON: what nodes print, also in other processes, goes to stderr."""
    if not wanted:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
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
    except (ValidationError, RecursionError):
        return False


def as_json(value: Any) -> Any:
    """A value as JSON can have it; for what it cannot, its repr.

    >>> as_json({1: (1j, float("inf"), None)})
    {'1': ['1j', 'inf', None]}
    """
    try:
        return _as_json(value)
    except RecursionError:
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
    if isinstance(run, FsmRun):
        document["state_history"] = run.state_history
    if error is not None:
        document["error"] = as_error(error)
    return document


def as_error(error: BaseException) -> dict[str, Any]:
    """An error as data."""
    data: dict[str, Any] = {"type": type(error).__name__, "message": text_of(error)}
    if isinstance(error, ExecutionError) and error.node_name is not None:
        data |= {"node": error.node_name, "attempts": error.attempts}
    if isinstance(error, ValidationError) and len(error.problems) > 1:
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
    if isinstance(run, FsmRun):
        told = f"{counted(run.cycle_count, 'state')} executed"
    else:
        counts: Mapping[str, int] = Counter(str(each) for each in run.statuses.values())
        told = ", ".join(f"{count} {each.replace('_', ' ')}" for each, count in counts.items())
    return f"{run.name}: {status} in {spent} ({told})"


def tell_error(error: BaseException, *, traced: bool = False) -> None:
    """Print an error for people."""
    if traced:
        lines = traceback.format_exception(error)
        say("".join(lines).rstrip("\n"), err=True)
        return
    cause = error.__cause__ if isinstance(error, ExecutionError) else None
    place = "" if cause is None else place_of(cause)
    say(f"{click.style('error:', fg='red', bold=True)} {text_of(error)}{place}", err=True)
    for note in notes_of(error):
        say(f"  {note}", err=True)
