"""The commands for runs that a store has: `fast-dag runs ...`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fast_dag.cli.command import (
    FAILED,
    OK,
    UNWRITTEN,
    Answer,
    allow_option,
    command,
    inputs_of,
    json_option,
    not_written,
    target_argument,
)
from fast_dag.cli.output import as_json, as_text, say
from fast_dag.cli.target import found, search_first
from fast_dag.define.signature import ABSENT
from fast_dag.errors import ValidationError
from fast_dag.serial.texts import from_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fast_dag.store import Store
    from fast_dag.store.records import RunRecord

STORE_VARIABLE = "FAST_DAG_STORE"
store_option = click.option(
    "--store",
    "file",
    required=True,
    envvar=STORE_VARIABLE,
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"The file of the store; if not given, that in {STORE_VARIABLE}.",
)
id_argument = click.argument("run_id", metavar="ID")


def opened(file: Path, *, makes: bool = False, allow: Iterable[str] = ()) -> Store:
    """The store in a file. Raises ValidationError if there is none, unless it `makes` one."""
    from fast_dag.store import Store  # sqlite3 is slow to import

    if not makes and not file.exists():
        raise ValidationError(f"--store: there is no file {str(file)!r}")
    return Store(file, allow=allow)


def tags_of(given: Iterable[str]) -> dict[str, Any]:
    """Tags as KEY=VALUE each."""
    tags: dict[str, Any] = {}
    for each in given:
        key, equals, value = each.partition("=")
        if not equals or not key:
            raise ValidationError(f"--tag {each!r} is not KEY=VALUE")
        tags[key] = value
    return tags


@click.group()
def runs() -> None:
    """Look at runs that a store has, go on with them, and clear up.

    A run gets into a store by `fast-dag run TARGET --store FILE --id ID`, or by
    `dag.run(store=Store(FILE), run_id=ID)`.
    """


@runs.command("list")
@store_option
@click.option("--workflow", help="Only runs of this workflow.")
@click.option("--status", help="Only runs with this status: running, failed, completed, ...")
@click.option("--tag", "given", multiple=True, metavar="KEY=VALUE", help="Only runs with this tag.")
@click.option("--limit", type=int, default=100, show_default=True, help="So many at most.")
@json_option
@command
def list_(
    file: Path,
    workflow: str | None,
    status: str | None,
    given: tuple[str, ...],
    limit: int,
    as_data: bool,
) -> Answer:
    """List runs, the newest first."""
    with opened(file) as store:
        records = store.runs(workflow=workflow, status=status, tag=tags_of(given), limit=limit)
        if not as_data:
            for record in records:
                say(_line(record))
        return Answer(OK, [_brief(record) for record in records])


def _line(record: RunRecord) -> str:
    when = record.created.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    tags = " ".join(f"{key}={value}" for key, value in record.tags.items())
    return f"{record.run_id}  {record.workflow}  {record.status}  {when}  {tags}".rstrip()


def _brief(record: RunRecord) -> dict[str, Any]:
    return {key: value for key, value in record.to_dict().items() if key != "nodes"}


@runs.command()
@store_option
@id_argument
@click.option("--node", help="Print the value of this node.")
@click.option(
    "--allow",
    multiple=True,
    metavar="MODULE",
    help="A module, or MODULE:CLASS, whose classes the value may have. It is imported. Repeatable.",
)
@json_option
@command
def show(
    file: Path, run_id: str, node: str | None, allow: tuple[str, ...], as_data: bool
) -> Answer:
    """Show a run: its status, inputs, nodes and errors; or the value of one node."""
    if allow:
        search_first(Path.cwd())
    with opened(file, allow=allow) as store:
        record = store.run(run_id)
        if node is not None:
            value = record[node]
            if not as_data:
                say(as_text(value))
            return Answer(OK, {"node": node, "value": as_json(value)})
        if not as_data:
            say(_line(record))
            if record.owner is not None:
                say(f"at work: {record.owner}")
            for path, each in record.nodes.items():
                tries = f", {each.attempts} attempts" if each.attempts > 1 else ""
                say(f"  {path}  {each.status} in {each.seconds:.3g} s{tries}")
                if each.error is not None:
                    say(f"    {each.error}")
            for path in record.in_doubt:
                say(f"  {path}  in doubt: fast-dag runs decide says how it ended")
        return Answer(OK, record.to_dict())


@runs.command()
@store_option
@id_argument
@click.option(
    "--html", type=click.Path(dir_okay=False, path_type=Path), help="Write an HTML page to a file."
)
@command
def report(file: Path, run_id: str, html: Path | None) -> Answer:
    """Print the report of a run, or write it as a page."""
    with opened(file) as store:
        record = store.run(run_id)
        if html is None:
            say(record.summary())
            return Answer()
        page = record.to_html()
    try:
        html.write_text(page, encoding="utf-8")
    except OSError as error:
        return Answer(UNWRITTEN, error=not_written("--html", html, error))
    return Answer()


@runs.command()
@store_option
@target_argument
@id_argument
@allow_option
@json_option
@command
def explain(file: Path, target: str, run_id: str, allow: tuple[str, ...], as_data: bool) -> Answer:
    """Tell which results of a run the code of today would compute otherwise, and why."""
    workflow: Any = found(target, allow)
    with opened(file) as store:
        told = workflow.explain(store=store, run_id=run_id)
    if not as_data:
        say(str(told))
    return Answer(OK, {"states": told.states, "reasons": told.reasons})


@runs.command()
@store_option
@id_argument
@click.option("--at", "nodes", multiple=True, required=True, metavar="NODE", help="Repeatable.")
@click.option("--id", "new", metavar="ID", help="That of the new run.")
@click.option("-i", "--input", "given", multiple=True, metavar="NAME=VALUE", help="Repeatable.")
@json_option
@command
def fork(
    file: Path,
    run_id: str,
    nodes: tuple[str, ...],
    new: str | None,
    given: tuple[str, ...],
    as_data: bool,
) -> Answer:
    """Begin a run that shares with another all but some nodes and what is below them."""
    with opened(file) as store:
        made = store.fork(run_id, run_id=new, at=nodes, inputs=inputs_of(given, None))
    if not as_data:
        say(made)
    return Answer(OK, {"run_id": made})


@runs.command()
@store_option
@id_argument
@json_option
@command
def cancel(file: Path, run_id: str, as_data: bool) -> Answer:
    """Cancel a run; one that is at work ends with its next commit."""
    with opened(file) as store:
        done = store.cancel(run_id)
        status = store.run(run_id).status
    if not as_data:
        say(f"{run_id} is cancelled" if done else f"{run_id} has ended already: {status}")
    return Answer(OK if done else FAILED, {"run_id": run_id, "cancelled": done, "status": status})


@runs.command()
@store_option
@id_argument
@click.argument("node")
@click.option("--value", "text", metavar="JSON", help="What it has computed.")
@click.option("--again", is_flag=True, help="Have it called again.")
@command
def decide(file: Path, run_id: str, node: str, text: str | None, again: bool) -> Answer:
    """Say how a node ended that is in doubt."""
    value = ABSENT if text is None else from_json(text, f"--value {text!r}")
    with opened(file) as store:
        store.decide(run_id, node, value=value, again=again)
    return Answer()


@runs.command()
@store_option
@click.option("--older-than", default="30 days", show_default=True, metavar="AGE")
@click.option("--status", help="Only runs with this status.")
@click.option("--forget", is_flag=True, help="Let the ids be used again.")
@click.option("--dry-run", is_flag=True, help="Tell what would go, and delete nothing.")
@json_option
@command
def prune(
    file: Path, older_than: str, status: str | None, forget: bool, dry_run: bool, as_data: bool
) -> Answer:
    """Delete what runs that ended long ago have computed."""
    with opened(file) as store:
        pruned = store.prune(older_than, status=status, forget=forget, dry_run=dry_run)
    if not as_data:
        say(f"{pruned.runs} runs, {pruned.rows} rows, {pruned.files} files, {pruned.bytes} bytes")
    return Answer(OK, pruned._asdict())


@runs.command()
@store_option
@json_option
@command
def doctor(file: Path, as_data: bool) -> Answer:
    """Look at the health of a store: versions, sizes, problems."""
    with opened(file) as store:
        told = store.doctor()
    if not as_data:
        for key, value in told.items():
            if key != "problems":
                say(f"{key}: {value}")
        for problem in told["problems"]:
            say(f"problem: {problem}")
        if not told["problems"]:
            say("problems: none")
    return Answer(FAILED if told["problems"] else OK, told)


def finished(store: Store, run_id: str) -> str | None:
    """What to tell of a run that has ended already; None if it has not."""
    from fast_dag.store import UnknownRunError
    from fast_dag.store.store import FINAL

    try:
        record = store.run(run_id)
    except UnknownRunError:
        return None
    if record.status not in FINAL or record.ended is None:
        return None
    when = record.ended.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    word = "finished" if record.status.startswith("completed") else record.status.replace("_", " ")
    return f"{run_id}: {word} on {when}, nothing to do"
