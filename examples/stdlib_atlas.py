"""An atlas of Python source: how big it is, what imports what, and where imports run in circles.

    python examples/stdlib_atlas.py                             the standard library of this Python
    python examples/stdlib_atlas.py src --format html --output atlas.html
    python examples/stdlib_atlas.py src --mode parallel --timings

It is written to be read as an introduction to fast_dag. The workflow: "," stands for nodes side by
side, "|" for branches of which one is taken, "?" for the node that decides which, "*" for a map,
whose function is called for each file.

    discover >> measure* >> survey
    survey >> import_graph >> cycles, hubs
    survey >> has_unparsable? >> list_unparsable | all_parsed >> verdict
    survey, import_graph, cycles, hubs, verdict >> atlas
    atlas >> choose_format? >> as_text | as_json | as_html >> report

What is counted:

- A file is what ends in `.py` in the directory or below it. Directories that are called
  `site-packages`, `dist-packages` or `__pycache__`, or that begin with a dot, are left out, and
  symbolic links to directories are not followed.
- Lines are physical lines, functions are `def` and `async def`, classes are `class`.
- Branches are `if`, `elif`, `for`, `while`, `except` and `case` (statements, not expressions).
- Docstring coverage is the share of modules, classes and functions that have a docstring.
- An import counts when it runs as soon as its module is imported. That leaves out what stands in a
  function, under `if TYPE_CHECKING:` or `if __name__ == "__main__":`, and imports by a call such as
  `importlib.import_module`.
- `import a.b` is an edge to the module `a.b`, `from a import b` one to `a.b` if that is a module
  and to `a` if it is not: always the longest part of the dotted name that is a module of the tree.
  The packages above it do not count, nor does what lies outside the tree.
- A module is named by its path from the directory given (from the outermost package, where that
  directory lies in one). Code in `src/pkg` is also found as `pkg`. Files of one name, such as
  `a.py` beside `a/__init__.py`, share a place in the graph.
- A cycle is a largest set of modules each of which reaches every other by imports.

A file that does not parse or cannot be read is listed with its reason and otherwise left out.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import posixpath
import stat
import sys
import sysconfig
import warnings
from collections import Counter
from html import escape
from typing import TYPE_CHECKING, Any, Literal, TypedDict, final

from fast_dag import (
    DAG,
    ExecutionError,
    ExecutionMode,
    FastDAGError,
    SelectReturn,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

PROGRAM = "stdlib_atlas"
LEFT_OUT = {"site-packages", "dist-packages", "__pycache__"}

# What flows between the nodes is plain data: any mode can hand it on, to another process too.


class Source(TypedDict):
    """A file to measure. `path` is relative to the root, with `/`."""

    path: str
    module: str


@final
class Module(TypedDict):
    """The measures of one file. `imports` are the dotted names it asks for."""

    name: str
    path: str
    lines: int
    functions: int
    classes: int
    branches: int
    documentable: int
    documented: int
    imports: list[str]


@final
class Unparsable(TypedDict):
    """A file without measures, and why."""

    name: str
    path: str
    line: int | None
    reason: str


class Survey(TypedDict):
    """All files, each in one of the two lists."""

    modules: list[Module]
    unparsable: list[Unparsable]


class Verdict(TypedDict):
    """What there is to say about files that do not parse."""

    headline: str
    files: list[Unparsable]


class Hub(TypedDict):
    """A module and how many others import it."""

    name: str
    imported_by: int


Graph = dict[str, list[str]]

MEASURES: tuple[Literal["lines", "functions", "classes", "branches"], ...] = (
    "lines",
    "functions",
    "classes",
    "branches",
)


class Atlas(TypedDict):
    """Everything a report can show."""

    root: str
    totals: dict[str, int]
    docstring_coverage: float
    modules: list[Module]
    import_graph: Graph
    hubs: list[Hub]
    cycles: list[list[str]]
    verdict: Verdict


# The workflow. A decorated function becomes a node and stays a function: `discover("src")` works.
# A parameter is fed by an edge, or by the input of the run that bears its name.

# Inputs of a run: `root` (the directory), `format` ("text", "json" or "html"), and `top` (how many
# entries a list of the report shows).

workflow = DAG("atlas", description="From a directory of Python source to a report about it")


@workflow.node(outputs=["files", "unlisted"])
def discover(root: str) -> tuple[list[Source], list[Unparsable]]:
    """Find the files, in a fixed order, and the directories that cannot be listed."""
    files: list[Source] = []
    unlisted: list[Unparsable] = []
    package = enclosing_package(root)

    def cannot_list(error: OSError) -> None:
        path = relative(str(error.filename), root)
        if path == ".":
            raise OSError(f"cannot read {printable(root)}: {error.strerror}") from error
        name = module_name(path, package)
        reason = f"cannot be listed: {error.strerror}"
        unlisted.append(
            {"name": name, "path": printable(path) + "/", "line": None, "reason": reason}
        )

    for directory, below, names in os.walk(root, onerror=cannot_list):
        below[:] = [each for each in below if each not in LEFT_OUT and each[0] != "."]
        for name in names:
            if name.endswith(".py"):
                path = relative(os.path.join(directory, name), root)
                files.append({"path": path, "module": module_name(path, package)})
    if not files:
        raise ValueError(f"there are no .py files in {printable(root)}")
    files.sort(key=lambda file: file["path"])
    unlisted.sort(key=lambda directory: directory["path"])
    return files, unlisted


def parsed(source: bytes) -> ast.Module:
    """The syntax tree of a file. Python 3.11's parser counts its depth for all threads at once, and
    gives up with a SystemError where they meet: then it is asked again."""
    for _ in range(20):
        try:
            return ast.parse(source, PARSED_AS)
        except SystemError:
            continue
    return ast.parse(source, PARSED_AS)


@workflow.map(over="file")
def measure(file: Source, root: str) -> Module | Unparsable:
    """Parse and measure one file; `root` is the same for all."""
    silence_parser()
    try:
        return measure_source(read(os.path.join(root, file["path"])), file)
    except OSError as error:
        return unparsable(file, error.strerror or str(error))
    except SyntaxError as error:
        return unparsable(file, error.msg, error.lineno)
    except ValueError as error:
        return unparsable(file, str(error))
    except (RecursionError, MemoryError):
        return unparsable(file, "too large or nested too deeply for the parser")


@workflow.node
def survey(files: list[Module | Unparsable], unlisted: list[Unparsable]) -> Survey:
    """Tell what was measured from what could not be: the map gives a list, as long as its own."""
    bad = [each for each in files if "reason" in each]
    return {
        "modules": [each for each in files if "reason" not in each],
        "unparsable": sorted(bad + unlisted, key=lambda file: file["path"]),
    }


@workflow.node
def import_graph(survey: Survey) -> Graph:
    """Which modules of the tree each module imports."""
    known = import_names(survey)
    graph: dict[str, set[str]] = {name: set() for name in known.values()}
    for module in survey["modules"]:
        for name in module["imports"]:
            target = longest_known(name, known)
            if target is not None and target != module["name"]:
                graph[module["name"]].add(target)
    return {name: sorted(graph[name]) for name in sorted(graph)}


@workflow.node
def cycles(import_graph: Graph) -> list[list[str]]:
    """The sets of modules that import each other in circles, the largest first."""
    circles = [sorted(each) for each in strongly_connected(import_graph) if len(each) > 1]
    return sorted(circles, key=lambda names: (-len(names), names))


@workflow.node
def hubs(import_graph: Graph) -> list[Hub]:
    """All modules that others import, the most depended-on first."""
    counts = Counter(target for targets in import_graph.values() for target in targets)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [{"name": name, "imported_by": count} for name, count in ranked]


@workflow.condition
def has_unparsable(survey: Survey) -> bool:
    """Decides by its truth; its branches are given what it was given, the survey."""
    return bool(survey["unparsable"])


@workflow.node
def list_unparsable(survey: Survey) -> Verdict:
    """The bad news."""
    bad, good = len(survey["unparsable"]), len(survey["modules"])
    return {
        "headline": f"{bad:,} of {bad + good:,} files do not parse",
        "files": survey["unparsable"],
    }


@workflow.node
def all_parsed(survey: Survey) -> Verdict:
    """The good news."""
    return {"headline": f"All files parse ({len(survey['modules']):,})", "files": []}


@workflow.any
def verdict(news: Verdict) -> Verdict:
    """Whichever of the two branches was taken."""
    return news


@workflow.node
def atlas(
    root: str,
    survey: Survey,
    import_graph: Graph,
    cycles: list[list[str]],
    hubs: list[Hub],
    verdict: Verdict,
) -> Atlas:
    """Everything in one place; each edge feeds the parameter that is named like its source."""
    modules = survey["modules"]
    totals: dict[str, int] = {
        "files": len(modules) + len(survey["unparsable"]),
        "unparsable": len(survey["unparsable"]),
        **{measure: sum(module[measure] for module in modules) for measure in MEASURES},
        "documentable": sum(module["documentable"] for module in modules),
        "documented": sum(module["documented"] for module in modules),
        "imports": sum(len(targets) for targets in import_graph.values()),
        "cycles": len(cycles),
    }
    return {
        "root": printable(os.path.abspath(root)),
        "totals": totals,
        "docstring_coverage": share(totals["documented"], totals["documentable"]),
        "modules": modules,
        "import_graph": import_graph,
        "hubs": hubs,
        "cycles": cycles,
        "verdict": verdict,
    }


@workflow.select
def choose_format(atlas: Atlas, format: str) -> SelectReturn:
    """Names the branch to take, and says what goes down it."""
    return SelectReturn(branch=format, value=atlas)


@workflow.node
def as_text(atlas: Atlas, top: int) -> str:
    """One screen of plain text."""
    totals = atlas["totals"]
    title = f"Atlas of {atlas['root']}"
    lines = [title, "=" * len(title)]
    columns = (("files", "lines"), ("functions", "classes"), ("branches", "imports"))
    lines.extend(
        "   ".join(f"{key:<10}{totals[key]:>10,}" for key in row)
        for row in zip(*columns, strict=True)
    )
    lines.append(f"docstrings{atlas['docstring_coverage']:>10.1%}")
    biggest = sorted(atlas["modules"], key=lambda module: (-module["lines"], module["path"]))
    left = ranking("Biggest modules", "lines", [(m["name"], m["lines"]) for m in biggest[:top]])
    right = ranking(
        "Most depended-on modules",
        "importers",
        [(hub["name"], hub["imported_by"]) for hub in atlas["hubs"][:top]],
    )
    height = max(len(left), len(right))
    left += [""] * (height - len(left))
    right += [""] * (height - len(right))
    lines.append("")
    lines.extend(f"{a:<39}{b}".rstrip() for a, b in zip(left, right, strict=True))

    lines += ["", cycles_headline(atlas)]
    for names in atlas["cycles"][:top]:
        lines.append(shortened(f"  {len(names):>4,} modules: {', '.join(names)}", 79))
    lines += and_more(len(atlas["cycles"]) - top)
    lines += ["", atlas["verdict"]["headline"]]
    for file in atlas["verdict"]["files"][:top]:
        lines.append(shortened(f"  {location(file)}: {file['reason']}", 79))
    lines += and_more(len(atlas["verdict"]["files"]) - top)
    return "\n".join(lines)


@workflow.node
def as_json(atlas: Atlas) -> str:
    """Everything, for programs."""
    return json.dumps(atlas, indent=1)


@workflow.node
def as_html(atlas: Atlas, top: int) -> str:
    """A page that needs nothing else."""
    totals = atlas["totals"]
    figures: list[Sequence[object]] = [(name, count) for name, count in totals.items()]
    figures.append(("docstring coverage", f"{atlas['docstring_coverage']:.1%}"))
    imported_by = {hub["name"]: hub["imported_by"] for hub in atlas["hubs"]}
    modules = [
        (
            module["name"],
            *(module[measure] for measure in MEASURES),
            f"{share(module['documented'], module['documentable']):.0%}",
            len(atlas["import_graph"][module["name"]]),
            imported_by.get(module["name"], 0),
        )
        for module in sorted(atlas["modules"], key=lambda each: (-each["lines"], each["path"]))
    ]
    measures = ("module", *MEASURES, "docstrings", "imports", "importers")
    title = escape(f"Atlas of {atlas['root']}")
    sections = [
        ("Totals", html_table(("", ""), figures)),
        ("Biggest modules", html_table(measures, modules[:top])),
        (
            "Most depended-on modules",
            html_table(
                ("module", "importers"),
                [(hub["name"], hub["imported_by"]) for hub in atlas["hubs"][:top]],
            ),
        ),
        (
            cycles_headline(atlas),
            html_table(
                ("modules", "names"), [(len(names), ", ".join(names)) for names in atlas["cycles"]]
            ),
        ),
        (
            atlas["verdict"]["headline"],
            html_table(
                ("file", "reason"),
                [(location(file), file["reason"]) for file in atlas["verdict"]["files"]],
            ),
        ),
        ("All modules", html_table(measures, modules)),
    ]
    body = "\n".join(f"<h2>{escape(name)}</h2>\n{content}" for name, content in sections)
    return HTML_PAGE.format(title=title, body=body)


@workflow.any
def report(document: str) -> str:
    """Whichever format was chosen. It is the last node, so the run returns its value."""
    return document


# The edges. `>>` feeds the parameter named like the source, else the first that is still free.

workflow.connect("discover", "measure", output="files", input="file")
measure >> survey
workflow.connect("discover", "survey", output="unlisted", input="unlisted")
survey >> [import_graph, has_unparsable]
import_graph >> [cycles, hubs]
has_unparsable.on_true >> list_unparsable >> verdict
has_unparsable.on_false >> all_parsed >> verdict
[survey, import_graph, cycles, hubs, verdict] >> atlas
atlas >> choose_format
choose_format.branches["text"] >> as_text >> report
choose_format.branches["json"] >> as_json >> report
choose_format.branches["html"] >> as_html >> report


# Finding and reading files.


def relative(path: str, root: str) -> str:
    """The path from the root, with `/` whatever the system writes."""
    return os.path.relpath(path, root).replace(os.sep, "/")


def read(path: str) -> bytes:
    """The bytes of a regular file: opening a pipe or a device might never end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("not a regular file")
    with open(path, "rb") as file:
        return file.read()


def enclosing_package(root: str) -> list[str]:
    """The packages that the root lies in, itself included; empty for a plain directory."""
    path = os.path.abspath(root)
    packages: list[str] = []
    while os.path.basename(path) and os.path.isfile(os.path.join(path, "__init__.py")):
        path, name = os.path.split(path)
        packages.insert(0, name)
    return packages


def module_name(path: str, package: Sequence[str] = ()) -> str:
    """The dotted name of a file: "email/mime/text.py" is "email.mime.text"."""
    parts = [*package, *path.removesuffix(".py").split("/")]
    if parts[-1] == "__init__":
        parts.pop()
    return printable(".".join(parts))


def printable(text: str) -> str:
    """The text with control characters and undecodable bytes of a file name written out."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def unparsable(file: Source, reason: str, line: int | None = None) -> Unparsable:
    """A file as a report lists it."""
    return {
        "name": file["module"],
        "path": printable(file["path"]),
        "line": line or None,
        "reason": printable(reason),
    }


# Measuring.

PARSED_AS = "<atlas source>"


def silence_parser() -> None:
    """Let no warning of the parser out, whatever the filters: under `-W error` it would become a
    syntax error, and the report another one.

    Filters belong to the process, and `warnings.catch_warnings` does not suit threads. So this one
    stays, and concerns nobody else: it ignores what is parsed under the name `PARSED_AS`.
    """
    first = warnings.filters[0][3] if warnings.filters else None
    if getattr(first, "pattern", None) != PARSED_AS:
        warnings.filterwarnings("ignore", module=PARSED_AS)


def measure_source(source: bytes, file: Source) -> Module:
    """Parse one file; raises SyntaxError, ValueError, RecursionError or MemoryError."""
    functions = classes = branches = documented = 0
    imports: set[str] = set()
    package = file["module"].split(".")
    if not file["path"].endswith("__init__.py"):
        package.pop()
    for node, deferred in statements(parsed(source)):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                functions += 1
                documented += has_docstring(node)
            case ast.ClassDef():
                classes += 1
                documented += has_docstring(node)
            case ast.Module():
                documented += has_docstring(node)
            case ast.Import() | ast.ImportFrom():
                if not deferred:
                    imports.update(imported_names(node, package))
            case (
                ast.If() | ast.For() | ast.AsyncFor() | ast.While()
                | ast.ExceptHandler() | ast.match_case()
            ):  # fmt: skip
                branches += 1
    return {
        "name": file["module"],
        "path": printable(file["path"]),
        "lines": len(source.splitlines()),
        "functions": functions,
        "classes": classes,
        "branches": branches,
        "documentable": 1 + functions + classes,
        "documented": documented,
        "imports": sorted(imports),
    }


def statements(tree: ast.Module) -> Iterator[tuple[ast.AST, bool]]:
    """The module and all its statements, handlers and cases, each with whether it is deferred: not
    run when the module is imported. A loop, not a recursion: an `elif` nests deeper than its `if`.
    """
    waiting: list[tuple[ast.AST, bool]] = [(tree, False)]
    while waiting:
        node, deferred = waiting.pop()
        yield node, deferred
        inside = deferred or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for block in ("body", "handlers", "orelse", "finalbody", "cases"):
            skipped = block == "body" and isinstance(node, ast.If) and never_imported(node)
            waiting.extend((each, inside or skipped) for each in getattr(node, block, ()))


def never_imported(node: ast.If) -> bool:
    """Whether what it guards is for type checkers, or for a module that is run as a program."""
    match node.test:
        case ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING"):
            return True
        case ast.Compare(
            left=ast.Name(id="__name__"),
            ops=[ast.Eq()],
            comparators=[ast.Constant(value="__main__")],
        ):
            return True
    return False


def has_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether the body begins with a string."""
    return ast.get_docstring(node, clean=False) is not None


def imported_names(node: ast.Import | ast.ImportFrom, package: Sequence[str]) -> list[str]:
    """The full dotted names that a statement asks for, seen from a module in `package`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if node.level > len(package):  # above the outermost package: Python refuses it too
        return []
    base = [*package[: len(package) - node.level + 1]] if node.level else []
    base += [node.module] if node.module else []
    return [".".join([*base, alias.name]).removesuffix(".*") for alias in node.names]


# The import graph.


def import_names(survey: Survey) -> dict[str, str]:
    """The module that each dotted name stands for: the modules' own names and, for what lies in a
    package that is not at the top (`src/pkg`), the one that begins at that package.
    """
    files = [(each["name"], each["path"]) for each in survey["modules"]]
    files += [(each["name"], each["path"]) for each in survey["unparsable"]]
    packages = {posixpath.dirname(path) for _, path in files if path.endswith("__init__.py")}
    known: dict[str, str] = {}
    for name, path in files:
        outside = posixpath.dirname(path)
        while outside and outside in packages:
            outside = posixpath.dirname(outside)
        if outside and outside != posixpath.dirname(path):
            known.setdefault(module_name(path.removeprefix(outside + "/")), name)
    return known | {name: name for name, _ in files}


def longest_known(name: str, known: Mapping[str, str]) -> str | None:
    """The module that the longest possible part of a dotted name stands for."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return known.get(name)


def strongly_connected(graph: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """The largest sets of nodes that all reach each other (Tarjan, without recursion)."""
    found: list[list[str]] = []
    order: dict[str, int] = {}  # when a node was first seen
    low: dict[str, int] = {}  # the earliest open node that it is known to reach
    open_nodes: dict[str, None] = {}  # seen, and not yet in a set; as a stack
    for start in graph:
        path = [] if start in order else [(start, iter(graph[start]))]
        while path:
            node, targets = path[-1]
            if node not in order:
                order[node] = low[node] = len(order)
                open_nodes[node] = None
            for target in targets:
                if target not in order:
                    path.append((target, iter(graph[target])))
                    break
                if target in open_nodes:
                    low[node] = min(low[node], order[target])
            else:
                path.pop()
                if path:
                    parent = path[-1][0]
                    low[parent] = min(low[parent], low[node])
                if low[node] == order[node]:
                    members = [open_nodes.popitem()[0]]
                    while members[-1] != node:
                        members.append(open_nodes.popitem()[0])
                    found.append(members)
    return found


# Writing reports.


def share(part: int, whole: int) -> float:
    """A fraction, 0 where there is nothing to have a part of."""
    return part / whole if whole else 0.0


def shortened(text: str, width: int) -> str:
    """At most `width` characters of it."""
    return text if len(text) <= width else text[: width - 3] + "..."


def ranking(title: str, unit: str, entries: Sequence[tuple[str, int]]) -> list[str]:
    """A column of 36 characters."""
    lines = [f"{title:<26}{unit:>10}"]
    return lines + [f"  {shortened(name, 24):<24}{count:>10,}" for name, count in entries]


def and_more(count: int) -> list[str]:
    """The line that says what a list leaves out."""
    return [f"  ... and {count:,} more"] if count > 0 else []


def cycles_headline(atlas: Atlas) -> str:
    """How many cycles there are."""
    count = len(atlas["cycles"])
    return f"{count:,} import cycle{'s' if count != 1 else ''}" if count else "No import cycles"


def location(file: Unparsable) -> str:
    """The path, with the line where one is known."""
    return file["path"] if file["line"] is None else f"{file['path']}:{file['line']}"


HTML_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem }}
table {{ border-collapse: collapse }}
th, td {{ padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top;
          border-bottom: 1px solid #8884 }}
.number {{ text-align: right; font-variant-numeric: tabular-nums }}
</style>
<h1>{title}</h1>
{body}
</html>"""


def html_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of texts and numbers, escaped; nothing where there are no rows."""
    lines = []
    for row in rows:
        cells = (
            f'<td class="number">{cell:,}' if isinstance(cell, int) else f"<td>{escape(str(cell))}"
            for cell in row
        )
        lines.append(f"<tr>{''.join(cells)}")
    head = "".join(f"<th>{escape(heading)}" for heading in headings)
    return "\n".join(["<table>", f"<tr>{head}", *lines, "</table>"]) if lines else ""


def timings(metrics: Mapping[str, Any], top: int) -> str:
    """What a run measured about itself: the whole, and its slowest nodes."""
    times: Mapping[str, float] = metrics.get("node_times", {})
    slowest = sorted(times.items(), key=lambda item: (-item[1], item[0]))
    lines = [f"{len(times)} nodes in {metrics.get('execution_time', 0.0):.3f} s"]
    lines += [f"  {name:<24}{seconds:>10.3f} s" for name, seconds in slowest[:top]]
    return "\n".join(lines + and_more(len(slowest) - top))


# The command line.


def directory(text: str) -> str:
    """An argument that is a directory."""
    try:
        mode = os.stat(text).st_mode
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise argparse.ArgumentTypeError(f"{printable(text)}: {reason}") from None
    if not stat.S_ISDIR(mode):
        raise argparse.ArgumentTypeError(f"{printable(text)}: not a directory")
    return text


def whole_number(text: str) -> int:
    """An argument that is a number from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 0 or more")
    return int(text)


def arguments() -> argparse.ArgumentParser:
    """What the program may be told."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Measure the Python files of a directory, and draw the map of their imports.",
        epilog="Exit status: 0 with a report, 1 where the run failed, 2 where it could not begin.",
    )
    add = parser.add_argument
    add(
        "root",
        nargs="?",
        type=directory,
        metavar="DIRECTORY",
        help="where the source is (default: the standard library of this Python)",
    )
    add("--format", choices=("text", "json", "html"), default="text", help="default: text")
    add("--output", metavar="FILE", help="where the report goes (default: standard output)")
    add("--mode", choices=[mode.value for mode in ExecutionMode], default="sequential",
        help="how the nodes are run (default: sequential)")  # fmt: skip
    add("--workers", type=int, metavar="N", help="how many nodes may run at once")
    add("--top", type=whole_number, default=5, metavar="N", help="entries in a list (default: 5)")
    add("--timings", action="store_true", help="then tell what took how long, on standard error")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    options = arguments().parse_args(argv)
    root = options.root or sysconfig.get_paths()["stdlib"]
    silence_parser()  # now, while there is only one thread
    inputs = {"root": root, "format": options.format, "top": options.top}
    limits: dict[str, Any] = {} if options.workers is None else {"max_workers": options.workers}
    try:
        run = workflow.execute(inputs, mode=options.mode, **limits)
        run.raise_for_error()
        deliver(run.value, options.output)
        if options.timings:
            print(timings(run.context.metrics, options.top), file=sys.stderr)
    except ExecutionError as error:
        cause = error.__cause__
        return complain(cause if isinstance(cause, (OSError, ValueError)) else error, 1)
    except FastDAGError as error:  # the engine refused before anything ran
        return complain(error, 2)
    except KeyboardInterrupt:
        return complain("interrupted", 130)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 1
    except OSError as error:
        return complain(f"cannot write the report: {error.strerror or error}", 1)
    return 0


def deliver(document: str, output: str | None) -> None:
    """Write the report to the file of that name, or to standard output."""
    if output is not None:
        with open(output, "w", encoding="utf-8") as file:
            print(document, file=file)
        return
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack some letters
    print(document, flush=True)


def complain(problem: object, status: int) -> int:
    """Say in one line what went wrong."""
    print(f"{PROGRAM}: error: {' '.join(str(problem).split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
