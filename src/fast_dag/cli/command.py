"""What the commands have in common: options, answers, errors, exit codes."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from fast_dag.cli.output import as_error, keep_stdout, say, tell_error
from fast_dag.cli.signals import Signals
from fast_dag.cli.target import place_of
from fast_dag.errors import FastDAGError, ValidationError, brief_of, text_of
from fast_dag.serial.texts import from_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

OK, FAILED, WRONG, UNWRITTEN, TIMED_OUT, BY_SIGNAL = 0, 1, 2, 74, 124, 128
signals = Signals()


def interrupted() -> int:
    """The exit code after a signal."""
    return BY_SIGNAL + signals.number


def _complete_file(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    return [CompletionItem(incomplete, type="file")]


target_argument = click.argument("target", shell_complete=_complete_file)
json_option = click.option("--json", "as_data", is_flag=True, help="Print JSON.")
allow_option = click.option(
    "--allow",
    multiple=True,
    metavar="MODULE",
    help="Where TARGET is a .json or .yaml file: a module it may import from. Repeatable.",
)


def reason_of(error: Exception) -> str:
    """Why something could not be written."""
    return getattr(error, "strerror", None) or text_of(error)


def not_written(option: str, file: Path, error: Exception) -> FastDAGError:
    """The error of an option whose file could not be written."""
    return FastDAGError(f"{option}: {str(file)!r} could not be written: {reason_of(error)}")


class Answer(NamedTuple):
    """How a command ended: its exit code, the data for `--json`, and the error to print."""

    code: int = OK
    data: Any = None
    error: Exception | None = None


def command(func: Callable[..., Answer], *, shares_stdout: bool = False) -> Callable[..., int]:
    """A command that prints JSON where `--json` asks for it, and errors, with tracebacks where
    `--traceback` does. `shares_stdout`: what the workflow prints may go to stdout, too."""

    @click.option("--traceback", "traced", is_flag=True, help="Show errors with tracebacks.")
    @functools.wraps(func)
    def guarded(*args: Any, traced: bool, **options: Any) -> int:
        as_data = bool(options.get("as_data"))
        try:
            if as_data or not shares_stdout:
                keep_stdout()
            answer = _answer(functools.partial(func, *args, **options))
            if as_data:
                say(json.dumps(answer.data, indent=2, ensure_ascii=False), document=True)
            if answer.error is not None and (traced or not as_data):
                tell_error(answer.error, traced=traced)
        except KeyboardInterrupt:
            say("interrupted", err=True)
            return interrupted()
        return answer.code

    return guarded


def _answer(call: Callable[[], Answer]) -> Answer:
    try:
        return call()
    except FastDAGError as error:
        return Answer(WRONG, {"error": as_error(error)}, error)
    except (Exception, SystemExit) as error:
        told = FastDAGError(f"{brief_of(error)}{place_of(error)}")
        told.__cause__ = error
        return Answer(WRONG, {"error": as_error(error)}, told)


def inputs_of(given: Iterable[str], file: Any) -> dict[str, Any]:
    """The inputs of a command line: NAME=VALUE each, and a file."""
    taken: dict[str, Any] = {}
    for each in given:
        name, equals, text = each.partition("=")
        if not equals or not name:
            raise ValidationError(f"--input {each!r} is not NAME=VALUE")
        if name in taken:
            raise ValidationError(f"--input gives {name!r} twice")
        try:
            taken[name] = from_json(text)
        except ValidationError:
            taken[name] = text
    if file is None:
        return taken
    return {**mapping_in(file, "--input-json", "names to values"), **taken}


def mapping_in(file: Any, option: str, words: str) -> dict[str, Any]:
    """The JSON mapping in a file that an option names."""
    try:
        data = from_json(file.read())
    except ValidationError as error:
        raise ValidationError(f"{option}: {error}") from None
    if not isinstance(data, dict):
        raise ValidationError(f"{option}: the file is no mapping of {words}")
    return data
