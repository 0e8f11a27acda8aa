"""The picture in ARCHITECTURE.md is that of the code: its modules, and which may import which."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import fast_dag
from tests.patience import LONG

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "fast_dag"
SLOW = {"asyncio", "concurrent", "dataclasses", "inspect", "logging", "multiprocessing", "typing"}
SLOW_OR_OPTIONAL = (
    *SLOW,
    "_ast",
    "contextlib",
    "difflib",
    "hashlib",
    "json",
    "pickle",
    "traceback",
    "random",
    "re",
    "tracemalloc",
    "importlib",
    # Not on Windows.
    "resource",
    # Runs that survive.
    "fast_dag.store",
    # Signals, for runs on a loop of their own.
    "fast_dag.drive.interruptions",
    # Limits, for workflows that have some.
    "fast_dag.run.limits",
    # Maps, for workflows that have some.
    "fast_dag.plan.map_plan",
    "fast_dag.run.items",
    "fast_dag.run.map_execution",
    "fast_dag.drive.apart",
    "fast_dag.drive.inline_map",
    "fast_dag.drive.process_items",
    # The cache of a node that has one, and machines.
    "fast_dag.cache.store",
    # What only backends need that others share.
    "fast_dag.cache.disk",
    "fast_dag.cache.fingerprint",
    "fast_dag.cache.origins",
    "fast_dag.drive.inline_machine",
    # Pictures are drawn when somebody looks.
    "fast_dag.draw",
    "fast_dag.report",
    # Few runs are pickled, or go on from others.
    "copy",
    "fast_dag._pickling",
    "fast_dag.drive.faults",
    "fast_dag.run.past",
    "fast_dag.cache.keys",
    # Files are written and read when somebody asks.
    "fast_dag.serial",
    # Only where large buffers are sent.
    "ctypes",
    "tempfile",
    # They import asyncio, or what an extra brings.
    "fast_dag.cli",
    "fast_dag.drive.aio",
    "fast_dag.drive.blocking",
    "fast_dag.drive.loops",
    "fast_dag.drive.processes",
    "fast_dag.drive.process_lane",
    "fast_dag.drive.workers",
    "fast_dag.drive.executor",
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
    return len(statements_of(path)) <= 1


@functools.cache
def statements_of(path: Path) -> list[ast.stmt]:
    return ast.parse(path.read_text(encoding="utf-8")).body


def imports_in(
    statements: list[ast.stmt], *, typed: bool = False, lazy: bool = False
) -> Iterator[tuple[str, bool]]:
    """Every name that is imported at run time, and whether that waits until it is needed. `typed`
    has those that only type checkers import, too."""
    for each in statements:
        match each:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                both = [*(each.body if typed else ()), *each.orelse]
                yield from imports_in(both, typed=typed, lazy=lazy)
            case ast.Import():
                yield from ((alias.name, lazy) for alias in each.names)
            case ast.ImportFrom():
                yield from ((f"{each.module}.{alias.name}", lazy) for alias in each.names)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield from imports_in(each.body, typed=typed, lazy=True)
            case _:
                for block in ("body", "orelse", "handlers", "finalbody"):
                    inner = getattr(each, block, [])
                    yield from imports_in(inner, typed=typed, lazy=lazy)


def imports_of(path: Path, *, typed: bool = False) -> list[tuple[str, bool]]:
    return list(imports_in(statements_of(path), typed=typed))


def test_layout_lists_every_module_once() -> None:
    listed = [dotted(PACKAGE / name) for name in layout()]
    assert sorted(listed) == sorted(modules())


def test_module_imports_only_from_lines_above_its_own_not_even_for_type_checkers() -> None:
    place = {dotted(PACKAGE / name): line for line, name in enumerate(layout())}
    against = {
        (importer, name)
        for importer, path in modules().items()
        for name, _ in imports_of(path, typed=True)
        if name.startswith("fast_dag.")
        # `from fast_dag.a import b`: a module b of a package a, or a name b in the module a
        and place.get(name, place.get(name.rpartition(".")[0], -1)) >= place[importer]
    }
    assert against == set()


def test_import_inside_a_function_has_a_reason() -> None:
    lazy = {name for path in modules().values() for name, lazy in imports_of(path) if lazy}
    known = tuple(f"{name}." for name in SLOW_OR_OPTIONAL)
    assert {name for name in lazy if not f"{name}.".startswith(known)} == set()


def loaded_by(code: str) -> set[str]:
    """The modules that these statements load in a bare interpreter, which no .pth file touches."""
    lines = (
        "import sys",
        f"sys.path.insert(0, {str(PACKAGE.parent)!r})",
        "before = set(sys.modules)",
        code,
        "print(*(set(sys.modules) - before))",
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-W", "error", "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        check=True,
        timeout=LONG,
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    """The modules that `import fast_dag` loads."""
    return loaded_by("import fast_dag")


def test_import_loads_the_standard_library_only(loaded: set[str]) -> None:
    tops = {name.partition(".")[0] for name in loaded}
    assert tops - sys.stdlib_module_names == {"fast_dag"}


def test_import_loads_nothing_slow(loaded: set[str]) -> None:
    assert loaded & SLOW == set()


def test_plain_run_loads_nothing_more(loaded: set[str]) -> None:
    run = "from fast_dag import DAG; DAG('demo').add_node('zero', lambda x: 2 * x).run(x=1)"
    assert loaded_by(run) == loaded


MACHINE = "fast_dag.FSM('demo', initial_state='a', terminal_states=['a']).add_state('a', lambda: 0)"


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("fast_dag.define.fsm", "fast_dag.FSM"),
        ("fast_dag.run.machine", "fast_dag.Machine, fast_dag.Step"),
        ("fast_dag.drive.inline_machine", f"{MACHINE}.run()"),
        ("fast_dag.cache.store", "fast_dag.Node(abs, cache={})"),
        ("fast_dag.cache.disk", "from fast_dag.cache import DiskCache"),
    ],
)
def test_what_few_programs_use_is_loaded_when_it_is_used(
    module: str, code: str, loaded: set[str]
) -> None:
    assert module not in loaded
    assert module in loaded_by(f"import fast_dag; {code}")


def test_every_public_name_is_there_and_listed() -> None:
    code = (
        "import fast_dag; listed = dir(fast_dag); from fast_dag import *;"
        "assert set(fast_dag.__all__) <= set(listed) & set(globals())"
    )
    assert "fast_dag.define.fsm" in loaded_by(code)


def test_file_of_a_machine_is_read_where_no_machine_was_made() -> None:
    functions = {"now": lambda: 0}
    machine = fast_dag.FSM("lamp", initial_state="on", terminal_states=["on"])
    machine.add_state("on", functions["now"])
    data = fast_dag.DAG("house").add_node("lamp", machine).to_dict(functions)
    read = (
        f"from fast_dag import DAG; read = DAG.from_dict({data!r}, registry={{'now': lambda: 0}})"
    )
    assert "fast_dag.define.fsm" in loaded_by(f"{read}; assert read.run() == 0")


def test_unknown_name_of_the_package_is_told_as_python_does() -> None:
    with pytest.raises(AttributeError, match="module 'fast_dag' has no attribute 'Fsm'"):
        fast_dag.Fsm
