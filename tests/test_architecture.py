"""The picture in ARCHITECTURE.md is that of the code: its modules, and which may import which."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import fast_dag

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "fast_dag"
SLOW = {"asyncio", "concurrent", "dataclasses", "inspect", "logging", "multiprocessing", "typing"}
SLOW_OR_OPTIONAL = (
    *SLOW,
    "contextlib",
    "difflib",
    "hashlib",
    "json",
    "pickle",
    "random",
    "tracemalloc",
    "importlib",
    # The cache of a node that has one, and machines.
    "fast_dag.cache.store",
    "fast_dag.drivers.rounds",
    # Pictures are drawn when somebody looks.
    "fast_dag.draw",
    "fast_dag.report",
    # Files are written and read when somebody asks.
    "fast_dag.serial",
    # They import asyncio, or what an extra brings.
    "fast_dag.cli",
    "fast_dag.drivers.aio",
    "fast_dag.drivers.blocking",
    "fast_dag.drivers.loops",
    "fast_dag.drivers.processes",
    "fast_dag.drivers.remote",
)


def layout() -> list[str]:
    """The modules as ARCHITECTURE.md lists them, in that order."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    section = re.search(r"^## The layout\n.*?^```text\n(.*?)^```$", text, re.M | re.S)
    assert section is not None
    return [line.split()[0] for line in section[1].splitlines()]


def modules() -> dict[str, Path]:
    """The files that hold code, by their dotted name."""
    return {dotted(path): path for path in PACKAGE.rglob("*.py") if not is_bare(path)}


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")


def is_bare(path: Path) -> bool:
    """A docstring is all that is there."""
    return len(ast.parse(path.read_text(encoding="utf-8")).body) <= 1


def executed_imports(
    statements: list[ast.stmt], *, lazy: bool = False
) -> Iterator[tuple[str, bool]]:
    """Every name that is imported at run time, and whether that waits until it is needed."""
    for each in statements:
        match each:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                yield from executed_imports(each.orelse, lazy=lazy)
            case ast.Import():
                yield from ((alias.name, lazy) for alias in each.names)
            case ast.ImportFrom():
                yield from ((f"{each.module}.{alias.name}", lazy) for alias in each.names)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield from executed_imports(each.body, lazy=True)
            case _:
                for block in ("body", "orelse", "handlers", "finalbody"):
                    inner = getattr(each, block, [])
                    yield from executed_imports(inner, lazy=lazy)


def imports_of(path: Path) -> list[tuple[str, bool]]:
    return list(executed_imports(ast.parse(path.read_text(encoding="utf-8")).body))


def test_layout_lists_every_module_once() -> None:
    listed = [dotted(PACKAGE / name) for name in layout()]
    assert sorted(listed) == sorted(modules())


def test_module_imports_only_from_lines_above_its_own() -> None:
    place = {dotted(PACKAGE / name): line for line, name in enumerate(layout())}
    against = [
        (importer, name)
        for importer, path in modules().items()
        for name, _ in imports_of(path)
        if name.startswith("fast_dag.")
        # `from fast_dag.a import b`: a module b of a package a, or a name b in the module a
        and place.get(name, place.get(name.rpartition(".")[0], -1)) >= place[importer]
    ]
    assert against == []


def test_import_inside_a_function_has_a_reason() -> None:
    lazy = {name for path in modules().values() for name, lazy in imports_of(path) if lazy}
    assert {name for name in lazy if not name.startswith(SLOW_OR_OPTIONAL)} == set()


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    """The top-level modules that `import fast_dag` loads in a bare interpreter."""
    code = (
        "import sys; before = set(sys.modules); import fast_dag;"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    return set(_python(code).split())


def test_import_loads_the_standard_library_only(loaded: set[str]) -> None:
    assert loaded - sys.stdlib_module_names == {"fast_dag"}


def test_import_loads_nothing_slow(loaded: set[str]) -> None:
    assert loaded & SLOW == set()


def _python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.strip()


def test_machines_and_caches_load_when_they_are_used() -> None:
    told = _python(
        "import sys, fast_dag;"
        "print(*(name in sys.modules for name in ('fast_dag.fsm', 'fast_dag.cache.store')));"
        "fast_dag.FSM('machine').state(lambda: 1, name='state', initial=True, terminal=True);"
        "fast_dag.DAG('cached').cached_node(lambda: 1, name='node');"
        "print(*(name in sys.modules for name in ('fast_dag.fsm', 'fast_dag.cache.store')))"
    )
    assert told.splitlines() == ["False False", "True True"]


def test_every_public_name_is_there_though_it_was_not_loaded() -> None:
    told = _python(
        "import fast_dag; listed = dir(fast_dag); from fast_dag import *;"
        "print(set(fast_dag.__all__) <= set(listed), set(fast_dag.__all__) <= set(globals()))"
    )
    assert told == "True True"


def test_unknown_name_of_the_package_is_told_as_python_does() -> None:
    with pytest.raises(AttributeError, match="module 'fast_dag' has no attribute 'Fsm'"):
        fast_dag.Fsm
