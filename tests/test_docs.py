"""README.md and docs/ keep their word: every snippet runs, every link leads somewhere, nothing
public is left out.

The `python` blocks of a page run in their order, in one namespace, as a script would. A statement
may promise something in the comment at its end:

    total([1, 2])  # -> 3                       its value has that repr
    total(None)    # raises TypeError: 'None'   it raises that, with this somewhere in the message

A block of `text` right below another block is what that prints. On docs/start.md the commands run,
too. The blocks of docs/testing.md are one module of tests, which pass.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import fast_dag
from fast_dag import DAG, FSM, FastDAGError, Machine
from fast_dag.define.options import CACHE_OPTIONS, OPTIONS
from fast_dag.errors import MissingExtraError
from tests.patience import LONG

yaml = pytest.importorskip("yaml")  # and so on: the pages show every extra

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
REFERENCE = sorted((DOCS / "api").glob("*.md"))
OTHERS = [ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
ALL_PAGES = [*PAGES, *REFERENCE, *OTHERS]

QUICK_START = [
    "python3 -m venv .venv && .venv/bin/pip install -q . "
    "&& .venv/bin/python examples/stdlib_atlas.py",
    "python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' -c requirements/dev.lock "
    "&& .venv/bin/python -m pytest -q",
]


class Block(NamedTuple):
    """A fenced block: its language, its text, the line of the page on which that begins, and
    whether it is what the block above it prints."""

    language: str
    text: str
    line: int
    is_output: bool = False


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    fences = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [
        Block(
            each[1],
            each[2],
            text.count("\n", 0, each.start(2)),
            each[1] == "text" and text[: each.start()].endswith("\n```\n\n"),
        )
        for each in fences
    ]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def relative(page: Path) -> str:
    return str(page.relative_to(ROOT))


# Running snippets.


def promises(code: str) -> dict[int, str]:
    """The comments that promise something, by their line."""
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    return {
        token.start[0]: token.string.lstrip("# ")
        for token in tokens
        if token.type == tokenize.COMMENT and re.match(r"# (->|raises) ", token.string)
    }


def perform(statement: ast.stmt, page: Path, namespace: dict[str, Any]) -> Any:
    """Run one statement; the value, where it is an expression."""
    if isinstance(statement, ast.Expr):
        return eval(compile(ast.Expression(statement.value), page, "eval"), namespace)
    exec(compile(ast.Module([statement], type_ignores=[]), page, "exec"), namespace)
    return None


def check(statement: ast.stmt, promise: str, page: Path, namespace: dict[str, Any]) -> None:
    """Run one statement and compare it with what its comment says."""
    where = f"{relative(page)}:{statement.lineno}"
    kind, expected = promise.split(" ", 1)
    if kind == "->":
        assert isinstance(statement, ast.Expr), f"{where}: only an expression has a value"
        assert repr(perform(statement, page, namespace)) == expected, where
        return
    name, _, message = expected.partition(": ")
    try:
        perform(statement, page, namespace)
    except Exception as error:
        if type(error).__name__ != name or message not in str(error):
            raise
    else:
        pytest.fail(f"{where}: does not raise {name}")


def run_block(block: Block, page: Path, namespace: dict[str, Any]) -> None:
    """Run one snippet; tracebacks show its place on the page."""
    tree = ast.parse(block.text)
    made = {line + block.line: text for line, text in promises(block.text).items()}
    for statement in tree.body:
        ast.increment_lineno(statement, block.line)
        promise = made.pop(statement.end_lineno or 0, None)
        if promise is None:
            perform(statement, page, namespace)
        else:
            check(statement, promise, page, namespace)
    assert not made, f"promises inside of statements are not checked: {relative(page)} {made}"


def printed_by(commands: str, where: Path) -> str:
    """What the commands of a `sh` block print. What they would install is there already."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    lines = [line for line in commands.splitlines() if not line.startswith("pip install ")]
    done = [
        subprocess.run(
            shlex.split(line),
            cwd=where,
            env={**os.environ, "PATH": path},
            capture_output=True,
            encoding="utf-8",
            check=True,
            timeout=LONG,
        )
        for line in lines
    ]
    return "".join(each.stdout for each in done)


COMMANDED = {
    "pipeline.py": """
from pathlib import Path

from fast_dag import DAG

dag = DAG("pipeline")


@dag.node
def load(path: str = "data.csv", limit: int = 10) -> list[str]:
    return Path(path).read_text().splitlines()[:limit]


@dag.node
def clean(load: list[str]) -> list[int]:
    return [int(each) for each in load]


@dag.node
def total(clean: list[int]) -> int:
    return sum(clean)


load >> clean >> total
""",
    "data.csv": "1\n2\n3\n",
    "inputs.json": '{"limit": 2}',
    "shop/__init__.py": "",
    "shop/steps.py": "def price(): return 3",
    "flow.json": '{"fast_dag": 1, "kind": "dag", "name": "flow", '
    '"nodes": [{"name": "price", "function": "shop.steps:price"}], "edges": []}',
    "flows.py": "from pipeline import dag",
}
"""What the commands of docs/command-line.md are about."""


@pytest.mark.stress
def test_commands_of_the_page_about_the_shell_succeed(tmp_path: Path) -> None:
    first, *others = [
        block.text for block in blocks(ROOT / "docs" / "command-line.md") if block.language == "sh"
    ]
    assert "words, the longest is" in printed_by(first, tmp_path)
    for name, text in COMMANDED.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for block in others:
        commands = block if shutil.which("dot") else re.sub(r"\| dot .*", "", block)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            capture_output=True,
            encoding="utf-8",
            timeout=LONG,
            check=False,
        )
        assert done.returncode == 0, (block, done.stderr)


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_snippets_run_as_written(page: Path, tmp_path: Path) -> None:
    # By this name the main guard of a snippet holds, and worker processes get its functions whole.
    namespace: dict[str, Any] = {"__name__": "__main__"}
    printed = ""
    for block in blocks(page):
        if block.language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as output:
                run_block(block, page, namespace)
            printed = output.getvalue()
        elif block.language == "sh" and page.name == "start.md":
            printed = printed_by(block.text, tmp_path)
        elif block.is_output and page.name != "cookbook.md":  # see test_cookbook.py
            assert printed.rstrip() == block.text.rstrip(), f"{relative(page)}:{block.line}"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("1 + 1  # -> 3", AssertionError),
        ("x = 2  # -> 2", AssertionError),
        ("1 / 0  # raises KeyError", ZeroDivisionError),
        ("1 / 0  # raises ArithmeticError", ZeroDivisionError),
        ("1 / 0  # raises ZeroDivisionError: by one", ZeroDivisionError),
        ("1 + 1  # raises ValueError", pytest.fail.Exception),
        ("if True:\n    1 + 1  # -> 2\n    pass", AssertionError),
    ],
)
def test_broken_promise_of_a_snippet_is_found(code: str, error: type[BaseException]) -> None:
    with pytest.raises(error):
        run_block(Block("python", code, 0), ROOT / "README.md", {})


def test_text_below_a_block_is_its_output(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```sh\nls\n```\n\n```text\na\n```\n\nOr:\n\n```text\nb\n```\n", "utf-8")
    assert [each.is_output for each in blocks(page)] == [False, True, False]


@pytest.mark.parametrize("code", ["1 + 1  # -> 2", "1 / 0  # raises ZeroDivisionError: division"])
def test_kept_promise_of_a_snippet_passes(code: str) -> None:
    run_block(Block("python", code, 0), ROOT / "README.md", {})


def test_testing_page_is_a_test_module_that_passes(tmp_path: Path) -> None:
    text = "\n\n".join(each.text for each in blocks(DOCS / "testing.md"))
    (tmp_path / "test_weather.py").write_text(text, encoding="utf-8")
    shutil.copy(
        ROOT / "tests" / "properties.py", tmp_path / "conftest.py"
    )  # on a busy machine, too
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        check=False,
        timeout=LONG,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


# What stands on the pages.


@pytest.mark.parametrize("page", ALL_PAGES, ids=relative)
def test_fenced_blocks_are_closed_and_say_what_they_are(page: Path) -> None:
    fences = re.findall(r"^\s*```.*$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) == 2 * len(blocks(page))
    assert {block.language for block in blocks(page)} <= {"python", "sh", "text", "toml"}


def test_quick_start_has_its_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (section,) = re.findall(r"^## Quick start\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)
    assert re.findall(r"^```sh\n(.*?)\n```$", section, re.MULTILINE | re.DOTALL) == QUICK_START


@pytest.mark.parametrize("page", ALL_PAGES, ids=relative)
def test_nothing_is_installed_by_the_name_that_belongs_to_another_project(page: Path) -> None:
    assert not re.search(r"pip install [^\n`]*\bfast-dag\b", page.read_text(encoding="utf-8"))


def test_picture_of_the_readme_is_what_the_library_draws() -> None:
    made = runpy.run_path(str(DOCS / "_tools" / "pictures.py"))
    assert made["graph"]() == made["GRAPH"].read_text(encoding="utf-8"), "draw it anew"
    told = made["nightly"]().summary()
    assert "5 completed, 1 failed, 1 retry" in told  # as the picture of the report says
    assert made["REPORT"].read_bytes().startswith(b"\x89PNG")


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", ALL_PAGES, ids=relative)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def named_in(navigation: Any) -> set[str]:
    """The pages that a navigation of mkdocs leads to."""
    if isinstance(navigation, str):
        return {navigation}
    inner = navigation.values() if isinstance(navigation, dict) else navigation
    return set().union(*map(named_in, inner))


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = {each.relative_to(DOCS).as_posix() for each in DOCS.rglob("*.md")}
    assert pages - named_in(site["nav"]) == set()


def test_every_public_name_is_in_the_reference() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in REFERENCE)
    shown = re.findall(r"^::: fast_dag\.(\w+)$", text, re.MULTILINE)
    assert sorted(shown) == sorted(fast_dag.__all__)


def test_every_public_class_and_decorator_shows_an_example() -> None:
    shown = {name: getattr(fast_dag, name) for name in fast_dag.__all__}
    kinds = {name: kind.__doc__ for name, kind in shown.items() if isinstance(kind, type)}
    decorators = {
        f"{kind.__name__}.{name}": given.__doc__
        for kind in (DAG, FSM)
        for name, given in vars(kind).items()
        if isinstance(given, property) and "Decorator" in str(given.fget.__annotations__)
    }
    assert len(decorators) > 8
    assert [name for name, doc in {**kinds, **decorators}.items() if ">>>" not in doc] == []


@pytest.mark.parametrize("kind", [DAG, FSM])
def test_reference_lists_every_member(kind: type) -> None:
    name = kind.__name__
    text = (DOCS / "api" / f"{name.lower()}.md").read_text(encoding="utf-8")
    (options,) = re.findall(rf"^::: fast_dag.{name}\n((?: .*\n)+)", text, re.MULTILINE)
    listed = re.findall(r"^ +- ([a-z]\w+)$", options, re.MULTILINE)
    members = [name for name in dir(kind) if not name.startswith("_")]
    assert sorted(listed) == [name for name in members if getattr(kind, name).__doc__]


def test_site_shows_a_docstring_as_markdown() -> None:
    markdown = runpy.run_path(str(DOCS / "_tools" / "docstrings.py"))["markdown"]
    text = """Double a number,
if it is one.

Parameters
----------
x, y:
    The number
    and another.

Raises TypeError else.

>>> double(2)
4
"""
    shown = """DOUBLE A NUMBER, IF IT IS ONE.

**Parameters**

`x`, `y`
:   THE NUMBER
    AND ANOTHER.


RAISES TYPEERROR ELSE.

```pycon
>>> double(2)
4
```"""
    assert markdown(text, str.upper) == shown


@pytest.fixture(scope="module")
def documented() -> set[str]:
    """Every word that the pages set as code."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    code = re.findall(r"^```.*?^```$|`[^`\n]+`", text, re.MULTILINE | re.DOTALL)
    return set(re.findall(r"\w+", "\n".join(code)))


def test_every_public_name_is_documented(documented: set[str]) -> None:
    assert set(fast_dag.__all__) - documented == set()


@pytest.mark.parametrize("kind", [DAG, FSM, Machine])
def test_every_method_of_a_workflow_is_documented(kind: type, documented: set[str]) -> None:
    methods = {name for name in dir(kind) if not name.startswith("_")}
    assert methods - documented == set()


def test_every_option_of_nodes_and_runs_is_documented(documented: set[str]) -> None:
    code = DAG._request.__code__
    options = code.co_varnames[code.co_argcount :][: code.co_kwonlyargcount]
    assert {*OPTIONS, *options} - documented == set()


def test_every_option_of_cached_nodes_is_documented(documented: set[str]) -> None:
    assert CACHE_OPTIONS.keys() - documented == set()


def test_every_metric_is_documented(documented: set[str]) -> None:
    run = DAG("measured").add_node("one", lambda: 1).execute(track_memory=True)
    assert {*run.metrics, *run.metrics["memory_usage"]} - documented == set()


def errors_below(base: type[Exception]) -> set[type[Exception]]:
    return {base}.union(*(errors_below(each) for each in base.__subclasses__()))


def test_every_error_is_documented(documented: set[str]) -> None:
    own = {each for each in errors_below(FastDAGError) if each.__module__.startswith("fast_dag")}
    assert MissingExtraError in own
    assert {each.__name__ for each in own} - documented == set()


def test_settings_for_linters_are_those_that_this_project_needs() -> None:
    (block,) = [each for each in blocks(ROOT / "docs/building.md") if each.language == "toml"]
    shown = tomllib.loads(block.text)["tool"]
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert shown["pyright"].items() <= ours["pyright"].items()
    assert set(shown["ruff"]["lint"]["ignore"]) <= {
        each for rules in ours["ruff"]["lint"]["per-file-ignores"].values() for each in rules
    }
