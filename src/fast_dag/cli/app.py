"""The commands.

Each returns its exit code:

    0    everything worked
    1    a node failed, or ended the program
    2    the command or the workflow is wrong; nothing has run
    74   everything worked, but the output, the report or the saved run could not be written
    124  the run timed out
    129  interrupted by SIGHUP
    130  interrupted by Ctrl-C
    143  interrupted by SIGTERM
"""

from __future__ import annotations

import functools
import os
import re
import signal
import sys
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from fast_dag.cli.command import (
    FAILED,
    OK,
    TIMED_OUT,
    UNWRITTEN,
    WRONG,
    Answer,
    allow_option,
    command,
    inputs_of,
    interrupted,
    json_option,
    mapping_in,
    not_written,
    reason_of,
    signals,
    target_argument,
)
from fast_dag.cli.output import (
    as_document,
    as_error,
    as_json,
    as_text,
    can_show,
    say,
    summary,
    tell_error,
    unwritten,
)
from fast_dag.cli.runs import STORE_VARIABLE, finished, opened, runs, store_option, tags_of
from fast_dag.cli.saved import refuse_file, save, saved, told_lost
from fast_dag.cli.starter import starter
from fast_dag.cli.target import Target, all_found, found
from fast_dag.cli.tree import MARKS, called, heading, inputs, topology_of, tree
from fast_dag.context import Context
from fast_dag.define.fsm import FSM
from fast_dag.errors import (
    ExecutionError,
    FastDAGError,
    MissingInputError,
    ValidationError,
    names,
)
from fast_dag.run.run import Run
from fast_dag.run.settings import ExecutionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from fast_dag.define.workflow import Workflow

_NAME = "fast-dag"
_COMPLETE = "_FAST_DAG_COMPLETE"


def start(args: list[str] | None = None) -> int:
    """Carry out a command line and return its exit code."""
    if sys.stdin is None:  # it was closed before Python began
        sys.stdin = open(os.devnull)  # noqa: SIM115  until the end
    with signals:
        try:
            code, lost = _carried_out(args), unwritten()
        except OSError as error:  # of help, which click prints
            code, lost = OK, unwritten() or error
    if lost is None:
        return code
    tell_error(FastDAGError(f"stdout could not be written: {reason_of(lost)}"))
    return code or UNWRITTEN


def _carried_out(args: list[str] | None) -> int:
    try:
        code = main.main(args, prog_name=_NAME, complete_var=_COMPLETE, standalone_mode=False)
    except click.ClickException as error:
        with suppress(OSError):  # stderr is full: the exit code must do
            error.show()
        return WRONG
    except click.Abort:
        return interrupted()
    except SystemExit:  # of click: shell completion ends so, and help that nobody reads to its end
        if _COMPLETE in os.environ:
            raise
        return OK
    return code if isinstance(code, int) else OK


def _complete_node(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The nodes of the workflow on the command line; none if that cannot be loaded."""
    given, comma, begun = incomplete.rpartition(",") if param.multiple else ("", "", incomplete)
    # Click leaves arguments in `args` if an option after them has no value yet.
    target = ctx.params.get("target") or next(iter(ctx.args), "")
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            workflow = found(target, ctx.params.get("allow") or ())
    except Exception:  # the shell would show it as a completion
        return []
    return [
        CompletionItem(given + comma + name) for name in workflow.nodes if name.startswith(begun)
    ]


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(None, "-V", "--version", package_name="fast-dag", prog_name=_NAME)
def main() -> None:
    """Run, show and check workflows.

    TARGET is a file or a module, and the workflow in it: pipeline.py:dag, package.module:dag. The
    name may be left out if there is only one workflow.

    Exit codes: 0 everything worked, 1 a node failed, 2 the command or the workflow is wrong, 74
    everything worked but the output could not be written, 124 the run timed out, 129, 130, 143
    interrupted by SIGHUP, Ctrl-C, SIGTERM.
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
    help="An input of the run; a value that is no valid JSON is text. Repeatable.",
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
    help="For --from: the results of the other nodes, as an earlier run printed them with --json.",
)
@click.option(
    "--save",
    "saves_to",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the run to this file, a pickle, however it ends; for --resume.",
)
@click.option(
    "--resume",
    "resumed",
    type=click.File("rb"),
    metavar="FILE",
    help="Go on from a run that --save wrote: run what did not complete. Only a file of your own: "
    "a pickle can execute anything.",
)
@click.option("--continue", "goes_on", is_flag=True, help="Run on after a failure, where possible.")
@click.option("--max-cycles", type=int, metavar="N", help="FSM: how many states it executes.")
@click.option(
    "--report",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write a report of the run, an HTML page, to this file.",
)
@click.option("--progress", is_flag=True, help="Show a bar on stderr (extra progress).")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="Write the log to stderr, from this level up: the workflow's own and that of the run.",
)
@click.option("-q", "--quiet", is_flag=True, help="Leave out the line about the run.")
@click.option(
    "--store",
    "store_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep what nodes compute in this file; a run of the same --id goes on with it. With --id, "
    "and not given: that in FAST_DAG_STORE.",
)
@click.option("--id", "run_id", metavar="ID", help="With --store: the id of the run.")
@click.option(
    "--rerun",
    multiple=True,
    metavar="failed|stale|NODE",
    help="With --store: compute this anew, and what is below it. Nodes are repeatable.",
)
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="With --store. Repeatable.")
@click.option(
    "--on-change",
    type=click.Choice(["keep", "rerun"]),
    help="With --store: what to do with results of code that has changed.",
)
@allow_option
@json_option
@functools.partial(command, shares_stdout=True)
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
    saves_to: Path | None,
    resumed: Any,
    goes_on: bool,
    max_cycles: int | None,
    report: Path | None,
    progress: bool,
    log_level: str | None,
    quiet: bool,
    store_file: Path | None,
    run_id: str | None,
    rerun: tuple[str, ...],
    tags: tuple[str, ...],
    on_change: str | None,
    allow: tuple[str, ...],
    as_data: bool,
) -> Answer:
    """Run a workflow and print its value.

    The value goes to stdout, a line about the run to stderr. With --json, stdout has one document
    with all results, and what nodes print goes to stderr.
    """
    if report is not None and not report.parent.is_dir():
        raise ValidationError(f"--report: there is no directory {str(report.parent)!r}")
    if saves_to is not None:
        refuse_file("--save", saves_to)
    if log_level is not None:
        _log_from(log_level)
    workflow = found(target, allow)
    options: dict[str, Any] = {
        "mode": mode,
        "max_workers": workers,
        "timeout": timeout,
        "error_strategy": "continue" if goes_on else "fail_fast",
        "progress": True if progress else None,
    }
    inputs_ = inputs_of(given, given_file)
    for_store = {"--id": run_id, "--rerun": rerun, "--tag": tags, "--on-change": on_change}
    if isinstance(workflow, FSM):
        parts = {"--until": until, "--from": from_, "--outputs": outputs, "--results": results_file}
        _refuse({**parts, "--resume": resumed, "--store": store_file}, "a DAG", workflow)
        _refuse(for_store, "a DAG", workflow)
        if max_cycles is not None:
            options["max_cycles"] = max_cycles
    else:
        _refuse({"--max-cycles": max_cycles}, "an FSM", workflow)
        if outputs:
            options["outputs"] = _listed(outputs, workflow)
    as_text_only: list[str] = []
    if results_file is not None:
        results, as_text_only = _results(results_file)
        if from_ is None:
            raise ValidationError("--results are for --from, which names the node to go on with")
        options["context"] = Context.from_dict({"results": results})
    if resumed is not None:
        if until is not None or from_ is not None:
            raise ValidationError(
                "--resume finds by itself what has to run; omit --from and --until"
            )
        options["resume"] = saved(resumed)
    with ExitStack() as closing:
        told = None
        store_file = _store_file(store_file, for_store)
        if store_file is not None:
            store = closing.enter_context(opened(store_file, makes=True))
            told = None if run_id is None or rerun else finished(store, run_id)
            options |= {
                "store": store,
                "run_id": run_id,
                "rerun": _asked_again(rerun),
                "tags": tags_of(tags) or None,
                "on_change": on_change,
            }
        answer = _ran(
            workflow, inputs_, until, from_, options, as_text_only, quiet, saves_to, report, as_data
        )
        if told is not None:  # it was not refused
            say(told, err=True)
        return answer


def _store_file(given: Path | None, for_store: dict[str, Any]) -> Path | None:
    """The file of `--store`. An environment variable may name it, too, but no run is kept that asks
    for nothing that has to do with a store."""
    asked = next((option for option, value in for_store.items() if value), None)
    if given is not None or asked is None:
        return given
    named = os.environ.get(STORE_VARIABLE)
    if not named:
        raise ValidationError(f"{asked} is for runs with --store FILE, or with {STORE_VARIABLE}")
    return Path(named)


def _asked_again(rerun: tuple[str, ...]) -> Any:
    return list(rerun) if len(rerun) > 1 else next(iter(rerun), None)


def _ran(
    workflow: Workflow,
    inputs_: Any,
    until: str | None,
    from_: str | None,
    options: dict[str, Any],
    as_text_only: list[str],
    quiet: bool,
    saves_to: Path | None,
    report: Path | None,
    as_data: bool,
) -> Answer:
    """Run, and tell how that ended."""
    try:
        done, code, status = _executed(workflow, inputs_, until, from_, options)
    except MissingInputError as error:
        raise _with_remedy(error, as_text_only) from None
    if not quiet:
        say(summary(done, status), err=True)
    cut_short = code is not None
    if not as_data and not cut_short and done.value is not None:
        say(as_text(done.value))
    answer = _told(done, _code(done) if code is None else code, saves_to, report, as_data)
    if as_data and status == "failed":
        answer.data["status"] = status
    return answer if cut_short else answer._replace(error=done.exception())


def _executed(
    workflow: Workflow, inputs_: Any, until: str | None, from_: str | None, options: Any
) -> tuple[Run, int | None, str | None]:
    """The run, whether it failed or not; the exit code if a signal cut it short; and the word for
    how it ended, if its own status does not tell."""
    earlier = workflow.last_run  # of a module that runs its workflow when it is imported
    workflow.remember = True
    code, status = None, None
    try:
        with suppress(ExecutionError):  # the Run has it
            _run(workflow, inputs_, until, from_, options)
    except Exception:
        raise
    except BaseException as error:  # of a signal, or of a node that ends the program
        if workflow.last_run is None or workflow.last_run is earlier:
            raise
        if isinstance(error, KeyboardInterrupt):
            code, status = interrupted(), _interruption()
        else:
            status = "failed"
            _blame_a_node(error, workflow.last_run)
    assert workflow.last_run is not None
    return workflow.last_run, code, status


def _run(workflow: Any, inputs_: Any, until: str | None, from_: str | None, options: Any) -> None:
    if until is not None and from_ is not None:
        workflow.run_between(from_, until, inputs_, **options)
    elif until is not None:
        workflow.run_until(until, inputs_, **options)
    elif from_ is not None:
        workflow.run_from(from_, inputs_, **options)
    else:
        workflow.run(inputs_, **options)


def _interruption() -> str:
    by = "" if signals.number is signal.SIGINT else f" by {signals.number.name}"
    return f"interrupted{by}"


def _blame_a_node(error: BaseException, run: Run) -> None:
    """Add an error that is no Exception, SystemExit say, to those of the run: it ended the run
    without being an error of a node."""
    name = run._execution.failures.crashed or _cut_off_in(run)
    run.errors[name] = error  # type: ignore[assignment]  # no Exception, but told like one


def _cut_off_in(run: Run) -> str:
    """The path of the node that was running."""
    running = [name for name, status in run.statuses.items() if status == "cancelled"]
    name = " or ".join(running) or run.name
    return f"{name}.{_cut_off_in(run.children[name])}" if name in run.children else name


def _with_remedy(error: MissingInputError, as_text_only: list[str]) -> ValidationError:
    """The error with what to do about it on a command line."""
    sources = getattr(error, "sources", ())
    lost = [name for name in as_text_only if name in sources]
    if lost:
        told = f"--results has the result of {names(lost)} only as text, since it is no JSON; "
        return ValidationError(f"{error}; {told}run from an earlier node")
    return ValidationError(f"{error}; --results FILE gives them") if sources else error


def _log_from(level: str) -> None:
    import logging  # slow to import

    line = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=level.upper(), format=line, stream=sys.stderr)


def _code(done: Run) -> int:
    if done.status == "timed_out":
        return TIMED_OUT
    return FAILED if done.errors or done.status in ("cancelled", "in_doubt") else OK


def _told(
    done: Run, code: int, saves_to: Path | None, report: Path | None, as_data: bool
) -> Answer:
    """Save the run and write the report; the answer has the run even if that fails."""
    document = as_document(done) if as_data else None

    def write(option: str, file: Path, writer: Callable[[Run, Path], Any]) -> Any:
        nonlocal code
        try:
            return writer(done, file)
        except (OSError, ValidationError) as error:
            lost = not_written(option, file, error)
            tell_error(lost)
            if document is not None:
                document.setdefault("error", as_error(lost))
            code = code or UNWRITTEN

    if saves_to is not None:
        without = write("--save", saves_to, save)
        if without:
            say(f"--save: {told_lost(without, saves_to)}", err=True)
    if report is not None:
        write("--report", report, Run.report)
    return Answer(code, document)


def _refuse(asked: Mapping[str, Any], kind: str, workflow: Workflow) -> None:
    for option, value in asked.items():
        if value:
            other = "an FSM" if kind == "a DAG" else "a DAG"
            raise ValidationError(f"{option} is for {kind}; {workflow.name!r} is {other}")


def _listed(outputs: Iterable[str], dag: Workflow) -> list[str]:
    """The names of nodes in options; one with commas that is no node's is a list."""
    listed: list[str] = []
    for each in outputs:
        listed += [each] if each in dag.nodes else [name.strip() for name in each.split(",")]
    return listed


def _results(file: Any) -> tuple[dict[str, Any], list[str]]:
    """The results in the file of an earlier run, and the nodes whose results it has as text."""
    data = mapping_in(file, "--results", "nodes to their results")
    results: Any = data
    lost: Any = {}
    if "workflow" in data:
        results, lost = data.get("results"), data.get("not_json", {})
    if not isinstance(results, dict) or not isinstance(lost, dict):
        raise ValidationError("--results: the file is no mapping of nodes to their results")
    return results, list(lost)


@runs.command()
@store_option
@target_argument
@click.argument("run_id", metavar="ID")
@click.option("--on-change", type=click.Choice(["keep", "rerun"]))
@click.option("-q", "--quiet", is_flag=True, help="Leave out the line about the run.")
@allow_option
@json_option
@functools.partial(command, shares_stdout=True)
def resume(
    file: Path,
    target: str,
    run_id: str,
    on_change: str | None,
    quiet: bool,
    allow: tuple[str, ...],
    as_data: bool,
) -> Answer:
    """Go on with a run, and print its value."""
    return _gone_on(file, target, run_id, None, on_change, quiet, allow, as_data)


@runs.command("rerun")
@store_option
@target_argument
@click.argument("run_id", metavar="ID")
@click.argument("what", nargs=-1, metavar="[failed|stale|NODE...]")
@click.option("-q", "--quiet", is_flag=True, help="Leave out the line about the run.")
@allow_option
@json_option
@functools.partial(command, shares_stdout=True)
def rerun_(
    file: Path,
    target: str,
    run_id: str,
    what: tuple[str, ...],
    quiet: bool,
    allow: tuple[str, ...],
    as_data: bool,
) -> Answer:
    """Compute anew what failed, what is stale, or nodes, and what is below them."""
    asked = _asked_again(what) or "failed"
    return _gone_on(file, target, run_id, asked, None, quiet, allow, as_data)


def _gone_on(
    file: Path,
    target: str,
    run_id: str,
    rerun: Any,
    on_change: str | None,
    quiet: bool,
    allow: tuple[str, ...],
    as_data: bool,
) -> Answer:
    workflow = found(target, allow)
    with opened(file) as store:
        store.run(run_id)  # which must be there
        options = {"store": store, "run_id": run_id, "rerun": rerun, "on_change": on_change}
        return _ran(workflow, {}, None, None, options, [], quiet, None, None, as_data)


main.add_command(runs)

# show


@main.command()
@target_argument
@click.option("--mermaid", is_flag=True, help="Print Mermaid's text.")
@click.option("--dot", is_flag=True, help="Print Graphviz's text.")
@click.option("--svg", is_flag=True, help="Print an SVG.")
@allow_option
@json_option
@command
def show(
    target: str,
    mermaid: bool,
    dot: bool,
    svg: bool,
    allow: tuple[str, ...],
    as_data: bool,
) -> Answer:
    """Print a workflow as a tree, or as a picture's text."""
    flags = {"--mermaid": mermaid, "--dot": dot, "--svg": svg, "--json": as_data}
    formats = [option for option, given in flags.items() if given]
    if len(formats) > 1:
        raise ValidationError(f"show prints one format: give one of {', '.join(formats)}")
    workflow = found(target, allow)
    if as_data:
        return Answer(data=_described(workflow))
    if not formats:
        say("\n".join(tree(workflow, plain=not can_show(MARKS))))
    else:
        backend: Any = "graphviz" if dot else formats[0].removeprefix("--")
        say(workflow.visualize(backend).rstrip("\n"), document=True)
    return Answer()


def _described(workflow: Workflow) -> dict[str, Any]:
    data: dict[str, Any] = {
        "name": workflow.name,
        "kind": workflow.kind,
        "description": workflow.description,
        "inputs": inputs(workflow),
        "limits": {} if workflow.limits is None else workflow.limits.as_data(),
        "nodes": [
            {
                "name": name,
                "type": node.type.value,
                "inputs": list(node.inputs),
                "description": node.description,
                "options": {
                    name: as_json(_by_name(value))
                    for name, value in node.options.items()
                    if name not in ("description", "inputs")
                },
                **({"workflow": _described(_inner(node))} if node.workflow else {}),
            }
            for name, node in workflow.nodes.items()
        ],
    }
    if isinstance(workflow, FSM):
        data["initial_state"] = workflow.initial_state
        data["terminal_states"] = workflow.terminal_states
        data["transitions"] = [
            {
                "source": each.source,
                "target": each.target,
                "event": each.event,
                "condition": None if each.condition is None else called(each.condition.func),
            }
            for each in workflow.transitions
        ]
        data["on_error"] = workflow.on_error
        data["error_states"] = workflow.error_states
        return data
    data["edges"] = [
        {
            "source": edge.source,
            "target": edge.target,
            "branch": edge.branch,
            "output": edge.output,
            "input": edge.input,
            "optional": edge.optional,
        }
        for edges in topology_of(workflow).incoming
        for edge in edges
    ]
    return data


def _by_name(value: Any) -> Any:
    """The value of an option, with functions and types by their names."""
    if isinstance(value, dict):
        return {key: _by_name(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return [_by_name(each) for each in value]
    return called(value) if callable(value) else value


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
