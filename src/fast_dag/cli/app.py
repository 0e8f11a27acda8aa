"""The commands.

Each returns its exit code:

    0    all is well
    1    a node failed
    2    the command or the workflow is not as it should be; nothing has run
    74   all went well, but its output, or its report, could not be written
    124  the run timed out
    130  interrupted
"""

from __future__ import annotations

import functools
import re
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import click
from click.shell_completion import CompletionItem, get_completion_class

from fast_dag.cli.output import (
    as_document,
    as_error,
    as_text,
    can_show,
    own_stdout,
    say,
    say_json,
    summary,
    tell_error,
    unwritten,
)
from fast_dag.cli.starter import starter
from fast_dag.cli.target import Target, all_found, found, place_of
from fast_dag.cli.tree import MARKS, heading, inputs, topology_of, tree
from fast_dag.context import Context
from fast_dag.define.fsm import FSM
from fast_dag.errors import ExecutionError, FastDAGError, ValidationError, text_of
from fast_dag.run.run import Run
from fast_dag.run.settings import ExecutionMode
from fast_dag.serial.texts import from_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from fast_dag.define.workflow import Workflow

OK, FAILED, WRONG, UNWRITTEN, TIMED_OUT, INTERRUPTED = 0, 1, 2, 74, 124, 130
_NAME = "fast-dag"
_COMPLETE = "_FAST_DAG_COMPLETE"


def start(args: list[str] | None = None) -> int:
    """Carry out a command line; its exit code."""
    try:
        code, lost = _carried_out(args), unwritten()
    except OSError as error:  # of help, which is not printed by us
        code, lost = OK, unwritten() or error
    if lost is None:
        return code
    tell_error(FastDAGError(f"stdout could not be written: {_reason(lost)}"))
    return code or UNWRITTEN


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or text_of(error)


def _carried_out(args: list[str] | None) -> int:
    try:
        code = main.main(args, prog_name=_NAME, complete_var=_COMPLETE, standalone_mode=False)
    except click.ClickException as error:
        with suppress(OSError):  # where stderr is full, the code has to do
            error.show()
        return WRONG
    except click.Abort:
        return INTERRUPTED
    return code if isinstance(code, int) else OK


def _complete_file(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    return [CompletionItem(incomplete, type="file")]


def _complete_node(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The nodes of the workflow that stands before; none where that cannot be loaded."""
    given, comma, begun = incomplete.rpartition(",") if param.multiple else ("", "", incomplete)
    # What stands before an option that lacks its value is left in `args`.
    target = ctx.params.get("target") or next(iter(ctx.args), "")
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            workflow = found(target, ctx.params.get("allow") or ())
    except Exception:  # a shell that asks has no use for errors
        return []
    return [
        CompletionItem(given + comma + name) for name in workflow.nodes if name.startswith(begun)
    ]


target_argument = click.argument("target", shell_complete=_complete_file)
json_option = click.option("--json", "as_data", is_flag=True, help="Print JSON.")
allow_option = click.option(
    "--allow",
    multiple=True,
    metavar="MODULE",
    help="Where TARGET is a .json or .yaml file: a module it may import from. Repeatable.",
)


class Answer(NamedTuple):
    """How a command ended: its exit code, and what it has for `--json`, or for people."""

    code: int = OK
    data: Any = None
    error: Exception | None = None


def command(func: Callable[..., Answer]) -> Callable[..., int]:
    """Print JSON where that is asked for; tell errors, with tracebacks only if these are."""

    @click.option("--traceback", "traced", is_flag=True, help="Show errors with tracebacks.")
    @functools.wraps(func)
    def guarded(*args: Any, traced: bool, **options: Any) -> int:
        as_data = bool(options.get("as_data"))
        try:
            answer = _answer(functools.partial(func, *args, **options), as_data)
            if as_data:
                say_json(answer.data)
            if answer.error is not None and (traced or not as_data):
                tell_error(answer.error, traced=traced)
        except KeyboardInterrupt:
            say("interrupted", err=True)
            return INTERRUPTED
        return answer.code

    return guarded


def _answer(call: Callable[[], Answer], as_data: bool) -> Answer:
    try:
        with own_stdout(as_data):
            return call()
    except FastDAGError as error:
        return Answer(WRONG, {"error": as_error(error)}, error)
    except Exception as error:
        told = FastDAGError(f"{type(error).__name__}: {text_of(error)}{place_of(error)}")
        told.__cause__ = error
        return Answer(WRONG, {"error": as_error(error)}, told)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(None, "-V", "--version", package_name="fast-dag", prog_name=_NAME)
def main() -> None:
    """Run, show and check workflows.

    TARGET is a file or a module, and the workflow in it: pipeline.py:dag, package.module:dag. The
    name may be left out where there is one workflow only.

    Exit codes: 0 all is well, 1 a node failed, 2 the command or the workflow is not as it should
    be, 74 all went well but its output could not be written, 124 the run timed out, 130
    interrupted.
    """


# run


@main.command()
@target_argument
@click.option(
    "-i",
    "--input",
    "given",
    multiple=True,
    metavar="NAME=VALUE",
    help="An input of the run; the value is JSON where it parses as that, else text. Repeatable.",
)
@click.option(
    "--input-json",
    "given_file",
    type=click.File("rb"),
    help="A file with inputs, a JSON mapping; - reads it from stdin.",
)
@click.option(
    "--mode",
    type=click.Choice([each.value for each in ExecutionMode]),
    default="sequential",
    show_default=True,
    help="Where nodes run.",
)
@click.option("--workers", type=int, metavar="N", help="How many nodes run at once, at most.")
@click.option("--timeout", type=float, metavar="SECONDS", help="For the whole run.")
@click.option(
    "--until",
    metavar="NODE",
    shell_complete=_complete_node,
    help="Run this node and what it depends on.",
)
@click.option(
    "--from",
    "from_",
    metavar="NODE",
    shell_complete=_complete_node,
    help="Run this node and what depends on it.",
)
@click.option(
    "--outputs",
    multiple=True,
    shell_complete=_complete_node,
    metavar="NODE[,NODE...]",
    help="Run only what these nodes need, and print their results. Repeatable.",
)
@click.option(
    "--results",
    "results_file",
    type=click.File("rb"),
    help="Results of nodes that are not run, for --from: what an earlier run printed with --json.",
)
@click.option("--continue", "goes_on", is_flag=True, help="Run on after a failure, where possible.")
@click.option("--max-cycles", type=int, metavar="N", help="FSM: how many states it executes.")
@click.option(
    "--report",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write a report of the run, an HTML page, to this file.",
)
@click.option("--progress", is_flag=True, help="Show a bar (extra progress).")
@click.option("-q", "--quiet", is_flag=True, help="Leave out the line about the run.")
@allow_option
@json_option
@command
def run(
    target: str,
    given: tuple[str, ...],
    given_file: Any,
    mode: str,
    workers: int | None,
    timeout: float | None,
    until: str | None,
    from_: str | None,
    outputs: tuple[str, ...],
    results_file: Any,
    goes_on: bool,
    max_cycles: int | None,
    report: Path | None,
    progress: bool,
    quiet: bool,
    allow: tuple[str, ...],
    as_data: bool,
) -> Answer:
    """Run a workflow and print its value.

    The value goes to stdout, a line about the run to stderr. With --json, stdout has one document
    with all results, and what nodes print goes to stderr.
    """
    if report is not None and not report.parent.is_dir():
        raise ValidationError(f"--report: there is no directory {str(report.parent)!r}")
    workflow = found(target, allow)
    options: dict[str, Any] = {
        "mode": mode,
        "max_workers": workers,
        "timeout": timeout,
        "error_strategy": "continue" if goes_on else "fail_fast",
        "progress": True if progress else None,
    }
    if results_file is not None:
        options["context"] = Context(results=_results(from_json(results_file.read())))
    inputs_ = _inputs(given, given_file)
    if isinstance(workflow, FSM):
        _refuse({"--until": until, "--from": from_, "--outputs": outputs}, "a DAG", workflow)
        options["max_cycles"] = max_cycles
    else:
        _refuse({"--max-cycles": max_cycles}, "an FSM", workflow)
        if outputs:
            options["outputs"] = _listed(outputs, workflow)
    earlier = workflow.last_run  # of a module that runs its workflow when it is imported
    try:
        done = _executed(workflow, inputs_, until, from_, options)
    except KeyboardInterrupt:
        cut_short = workflow.last_run
        if cut_short is None or cut_short is earlier:
            raise
        if not quiet:
            say(summary(cut_short, "interrupted"), err=True)
        return _told(cut_short, INTERRUPTED, report, as_data)
    if not quiet:
        say(summary(done), err=True)
    if not as_data and done.value is not None:
        say(as_text(done.value))
    return _told(done, _code(done), report, as_data)._replace(error=done.exception())


def _executed(
    workflow: Any, inputs_: Any, until: str | None, from_: str | None, options: Any
) -> Run:
    """Run the workflow, or a part of it, whether it fails or not."""
    with suppress(ExecutionError):  # the Run has it
        if until is not None and from_ is not None:
            workflow.run_between(from_, until, inputs_, **options)
        elif until is not None:
            workflow.run_until(until, inputs_, **options)
        elif from_ is not None:
            workflow.run_from(from_, inputs_, **options)
        else:
            workflow.run(inputs_, **options)
    run: Run = workflow.last_run
    return run


def _code(done: Run) -> int:
    if done.status == "timed_out":
        return TIMED_OUT
    return FAILED if done.errors else OK


def _told(done: Run, code: int, report: Path | None, as_data: bool) -> Answer:
    """Write the report. Where that fails, the run is told all the same."""
    document = as_document(done) if as_data else None
    if report is None:
        return Answer(code, document)
    try:
        done.report(report)
    except OSError as error:
        lost = FastDAGError(f"--report: {str(report)!r} could not be written: {_reason(error)}")
        tell_error(lost)
        if document is not None:
            document.setdefault("error", as_error(lost))
        code = code or UNWRITTEN
    return Answer(code, document)


def _refuse(asked: Mapping[str, Any], kind: str, workflow: Workflow) -> None:
    for option, value in asked.items():
        if value:
            raise ValidationError(
                f"{option} is for {kind}; {workflow.name!r} is a {type(workflow).__name__}"
            )


def _listed(outputs: Iterable[str], dag: Workflow) -> list[str]:
    """The nodes that are named, each list split where it is no name itself."""
    listed: list[str] = []
    for each in outputs:
        listed += [each] if each in dag.nodes else [name.strip() for name in each.split(",")]
    return listed


def _inputs(given: Iterable[str], file: Any) -> dict[str, Any]:
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
    try:
        data = from_json(file.read())
    except ValidationError as error:
        raise ValidationError(f"--input-json: {error}") from None
    if not isinstance(data, dict):
        raise ValidationError("--input-json: the file is no mapping of names to values")
    return {**data, **taken}


def _results(data: Any) -> dict[str, Any]:
    results = data.get("results") if isinstance(data, dict) and "workflow" in data else data
    if not isinstance(results, dict):
        raise ValidationError("--results: the file is no mapping of nodes to their results")
    return results


# show


@main.command()
@target_argument
@click.option("--mermaid", "backend", flag_value="mermaid", help="Print Mermaid's text.")
@click.option("--dot", "backend", flag_value="graphviz", help="Print Graphviz's text.")
@click.option("--svg", "backend", flag_value="svg", help="Print an SVG.")
@allow_option
@json_option
@command
def show(
    target: str,
    backend: Literal["mermaid", "graphviz", "svg"] | None,
    allow: tuple[str, ...],
    as_data: bool,
) -> Answer:
    """Print a workflow as a tree, or as a picture's text."""
    workflow = found(target, allow)
    if as_data:
        return Answer(data=_described(workflow))
    if backend is None:
        say("\n".join(tree(workflow, plain=not can_show(MARKS))))
    else:
        say(workflow.visualize(backend).rstrip("\n"))
    return Answer()


def _described(workflow: Workflow) -> dict[str, Any]:
    data: dict[str, Any] = {
        "name": workflow.name,
        "kind": workflow.kind,
        "description": workflow.description,
        "inputs": inputs(workflow),
        "nodes": [
            {
                "name": name,
                "type": node.type.value,
                "inputs": list(node.inputs),
                "description": node.description,
                **({"workflow": _described(_inner(node))} if node.workflow else {}),
            }
            for name, node in workflow.nodes.items()
        ],
    }
    if isinstance(workflow, FSM):
        data["initial_state"] = workflow.initial_state
        data["terminal_states"] = workflow.terminal_states
        data["transitions"] = [
            {"source": each.source, "target": each.target, "event": each.event}
            for each in workflow.transitions
        ]
        return data
    data["edges"] = [
        {
            "source": edge.source,
            "target": edge.target,
            "branch": edge.branch,
            "output": edge.output,
            "input": edge.input,
        }
        for edges in topology_of(workflow).incoming
        for edge in edges
    ]
    return data


def _inner(node: Any) -> Workflow:
    inner: Workflow = node.workflow
    return inner


# validate


@main.command()
@target_argument
@click.option("--strict", is_flag=True, help="Tell nodes without edges, too, and compare types.")
@allow_option
@json_option
@command
def validate(target: str, strict: bool, allow: tuple[str, ...], as_data: bool) -> Answer:
    """Check a workflow, or all of a module, without running it.

    Prints every problem, and exits with 2 where there are any.
    """
    workflows = all_found(Target.of(target), allow)
    problems = {
        name: [str(each) for each in workflow.validate(not strict, check_types=strict)]
        for name, workflow in workflows.items()
    }
    code = WRONG if any(problems.values()) else OK
    if as_data:
        return Answer(code, problems)
    for name, told in problems.items():
        say(f"{name}: {'ok' if not told else ''}".rstrip())
        for each in told:
            say(f"  {each}")
    return Answer(code)


# list


@main.command("list")
@target_argument
@allow_option
@json_option
@command
def list_(target: str, allow: tuple[str, ...], as_data: bool) -> Answer:
    """List the workflows in a module or a file."""
    workflows = all_found(Target.of(target), allow)
    if as_data:
        data = [
            {
                "variable": name,
                "name": workflow.name,
                "kind": workflow.kind,
                "description": workflow.description,
                "inputs": inputs(workflow),
            }
            for name, workflow in workflows.items()
        ]
        return Answer(data=data)
    width = max(map(len, workflows))
    for name, workflow in workflows.items():
        first_line = workflow.description.partition("\n")[0]
        say(f"{name:{width}}  {heading(workflow)}{f'  {first_line}' if first_line else ''}")
    return Answer()


# new


@main.command()
@click.argument("file", type=click.Path(path_type=Path), default=Path("pipeline.py"))
@click.option("--fsm", is_flag=True, help="Start with a state machine.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@command
def new(file: Path, fsm: bool, force: bool) -> Answer:
    """Write a small workflow that runs, to start from."""
    if not file.suffix:
        file = file.with_suffix(".py")
    if file.suffix != ".py" or not re.fullmatch(r"[\w-]+", file.stem):
        raise ValidationError(f"{str(file)!r} is no name for a Python file, like 'pipeline.py'")
    try:
        with file.open("w" if force else "x", encoding="utf-8") as out:
            out.write(starter(file.name, file.stem, machine=fsm))
    except FileExistsError:
        raise ValidationError(f"{str(file)!r} is there already; --force writes over it") from None
    except OSError as error:
        raise ValidationError(f"{str(file)!r} cannot be written: {error.strerror}") from None
    say(f"Wrote {file}. Run it:\n\n    {_NAME} run {file}")
    return Answer()


# completion


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@command
def completion(shell: str) -> Answer:
    """Print what makes a shell complete commands, options and files.

    For bash: eval "$(fast-dag completion bash)", in ~/.bashrc.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    say(kind(main, {}, _NAME, _COMPLETE).source())
    return Answer()
