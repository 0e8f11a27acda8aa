"""The atlas against counts made in another way, on the standard library and on small trees."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import subprocess
import sys
import sysconfig
import tokenize
import warnings
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples import stdlib_atlas
from examples.stdlib_atlas import workflow
from fast_dag import ExecutionError, ExecutionMode
from tests.patience import LONG

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PROGRAM = Path(stdlib_atlas.__file__)
STDLIB = Path(sysconfig.get_paths()["stdlib"])


def run_program(
    *arguments: str | Path, flags: Sequence[str] = (), encoding: str = "utf-8"
) -> subprocess.CompletedProcess[str]:
    """The program as a user starts it."""
    return subprocess.run(
        [sys.executable, *flags, PROGRAM, *arguments],
        capture_output=True,
        encoding=encoding,
        timeout=LONG,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": encoding},
    )


def atlas_of(root: Path) -> dict[str, Any]:
    """The whole atlas, by way of the report for programs."""
    report = workflow.run(root=str(root), format="json", top=5)
    found: dict[str, Any] = json.loads(report)
    return found


def write_tree(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files, and the directories they need, below `root`."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def problems_of(atlas: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The files that do not parse, by path."""
    return {file["path"]: file for file in atlas["verdict"]["files"]}


# Counting without a syntax tree.


def files_below(root: Path) -> list[Path]:
    """The .py files that an atlas is about, found without its code."""
    return sorted(
        path
        for path in root.rglob("*.py")
        if not {"site-packages", "dist-packages", "__pycache__"}
        & set(path.parts[len(root.parts) :])
        and not any(part.startswith(".") for part in path.parts[len(root.parts) :])
    )


def lines_in(path: Path) -> int:
    """Physical lines, as the text layer sees them."""
    with open(path, encoding="latin-1", newline=None) as file:
        return sum(1 for _ in file)


def logical_lines(path: Path) -> Iterator[list[tokenize.TokenInfo]]:
    """The tokens of each logical line, without comments and layout."""
    layout = (tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING)
    line: list[tokenize.TokenInfo] = []
    for token in tokenize.tokenize(io.BytesIO(path.read_bytes()).readline):
        if token.type in (tokenize.NEWLINE, tokenize.ENDMARKER):
            if line:
                yield line
            line = []
        elif token.type not in layout:
            line.append(token)


def is_string(line: list[tokenize.TokenInfo]) -> bool:
    """Whether a logical line is nothing but string literals, as a docstring is."""
    return all(
        token.type == tokenize.STRING and not re.match("[a-z]*[bf]", token.string, re.I)
        for token in line
    )


def tokens_counted(path: Path) -> dict[str, int]:
    """Functions, classes, branches and docstrings, told by the words that begin a line."""
    lines = [[], *logical_lines(path)]
    words = [[token.string for token in line] for line in lines]
    headers = ("def", "class")
    count = {"functions": 0, "classes": 0, "branches": 0, "documented": 0}
    for line in words:
        start = line[1:2] if line[:1] == ["async"] else line[:1]
        count["functions"] += start == ["def"]
        count["classes"] += start == ["class"]
        count["branches"] += start[:1] in (["if"], ["elif"], ["for"], ["while"], ["except"])
    for (before, first), (_, second) in pairwise(zip(words, lines, strict=True)):
        opens = not before or (set(before[:2]) & set(headers) and before[-1] == ":")
        count["documented"] += bool(opens and second and is_string(second))
        if before and set(before[:2]) & set(headers) and before[-1] != ":":
            count["documented"] += before[-2] == ":" and is_string(first[-1:])
    return count


@pytest.fixture(scope="module")
def whole() -> SimpleNamespace:
    """The main job, as a user runs it, with a report that a program can read."""
    done = run_program("--format", "json", "--timings", "--top", "3")
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(atlas=json.loads(done.stdout), stderr=done.stderr)


@pytest.mark.stress
def test_every_file_of_the_standard_library_is_in_the_atlas(whole: SimpleNamespace) -> None:
    listed = [file["path"] for file in whole.atlas["modules"] + whole.atlas["verdict"]["files"]]
    assert sorted(listed) == sorted(
        str(path.relative_to(STDLIB).as_posix()) for path in files_below(STDLIB)
    )
    assert whole.atlas["totals"]["files"] == len(listed) > 500


@pytest.mark.stress
def test_lines_of_the_standard_library_are_those_of_its_files(whole: SimpleNamespace) -> None:
    counted = {module["path"]: module["lines"] for module in whole.atlas["modules"]}
    assert counted == {path: lines_in(STDLIB / path) for path in counted}
    assert whole.atlas["totals"]["lines"] == sum(counted.values())


@pytest.mark.stress
def test_files_of_the_standard_library_that_do_not_parse_do_not_compile(
    whole: SimpleNamespace,
) -> None:
    for path, file in problems_of(whole.atlas).items():
        with pytest.raises((SyntaxError, ValueError)):
            compile((STDLIB / path).read_bytes(), path, "exec")
        assert file["reason"]


@pytest.mark.parametrize("package", ["json", "asyncio", "email", "logging", "importlib"])
@pytest.mark.stress
def test_measures_are_those_that_the_tokens_tell(whole: SimpleNamespace, package: str) -> None:
    modules = [
        module for module in whole.atlas["modules"] if module["path"].startswith(f"{package}/")
    ]
    assert modules
    for module in modules:
        counted = tokens_counted(STDLIB / module["path"])
        assert counted == {key: module[key] for key in counted}, module["path"]
        assert module["documentable"] == 1 + counted["functions"] + counted["classes"]


@pytest.mark.stress
def test_imports_of_json_are_those_that_its_source_states(whole: SimpleNamespace) -> None:
    graph = whole.atlas["import_graph"]
    assert graph["json"] == ["codecs", "json.decoder", "json.encoder"]
    assert graph["json.decoder"] == ["json.scanner", "re"]
    assert graph["json.scanner"] == ["re"]
    assert graph["json.encoder"] == ["re"]


@pytest.mark.parametrize("module", ["json", "email.message", "unittest", "http.server", "asyncio"])
@pytest.mark.stress
def test_python_loads_nothing_that_the_import_graph_does_not_lead_to(
    whole: SimpleNamespace, module: str
) -> None:
    graph = whole.atlas["import_graph"]
    with_packages = {
        name: [*targets, *filter(None, [name.rpartition(".")[0]])]
        for name, targets in graph.items()
    }
    loaded = modules_loaded_by(f"import {module}") - modules_loaded_by("pass")
    assert loaded & set(graph) <= reachable(with_packages, module) | {module}
    assert len(loaded & set(graph)) > 5


def modules_loaded_by(code: str) -> set[str]:
    """What a bare interpreter has imported once it has run some code."""
    command = [sys.executable, "-ISc", f"import sys; {code}; print(*sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LONG)
    return set(done.stdout.split())


@pytest.mark.stress
def test_cycles_of_the_standard_library_are_sets_of_mutual_reach(whole: SimpleNamespace) -> None:
    graph, cycles = whole.atlas["import_graph"], whole.atlas["cycles"]
    assert whole.atlas["totals"]["cycles"] == len(cycles) > 0
    reach = {name: reachable(graph, name) for name in graph}
    for members in cycles:
        assert set(members) == {
            name for name in graph if name in reach[members[0]] and members[0] in reach[name]
        }
    alone = set(graph) - {name for members in cycles for name in members}
    assert not any(name in reach[name] for name in alone)


@pytest.mark.stress
def test_hubs_are_the_modules_that_most_edges_end_at(whole: SimpleNamespace) -> None:
    graph = whole.atlas["import_graph"]
    for hub in whole.atlas["hubs"][:20]:
        assert hub["imported_by"] == sum(hub["name"] in targets for targets in graph.values())
    counts = [hub["imported_by"] for hub in whole.atlas["hubs"]]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == whole.atlas["totals"]["imports"]


@pytest.mark.stress
def test_timings_name_the_slowest_nodes_and_their_number(whole: SimpleNamespace) -> None:
    first, *nodes = whole.stderr.splitlines()
    ran = len(workflow) - 3  # one verdict and two formats are not taken
    assert re.fullmatch(rf"{ran} nodes in \d+\.\d+ s", first)
    assert nodes[-1] == f"  ... and {ran - 3} more"
    assert all(re.fullmatch(r"  \w+ +\d+\.\d+ s", node) for node in nodes[:-1])
    assert nodes[0].split()[0] == "measure"
    seconds = [float(node.split()[1]) for node in nodes[:-1]]
    assert seconds == sorted(seconds, reverse=True)


# Measures on sources of known figures.

KNOWN = '''\
"""Doc."""
import typing
class A:
    "doc"
    async def f(self):
        """Doc."""
        def inner(): pass
        async for x in y: pass
class B: b"bytes are no docstring"
def g(): "on one line"
def h():
    f"nor are {B}"
    if 1: pass
    elif 2: pass
    else: pass
    try: pass
    except A: pass
    except (B, A): pass
    finally: pass
    while 0: pass
    else: pass
    match g:
        case 1: pass
        case _: pass
    return [a if a else 0 for a in h if a] and (lambda: 1)
'''


def test_known_source_has_its_known_measures(tmp_path: Path) -> None:
    (module,) = atlas_of(write_tree(tmp_path, {"a.py": KNOWN}))["modules"]
    assert module == {
        "name": "a",
        "path": "a.py",
        "lines": 25,
        "functions": 4,
        "classes": 2,
        "branches": 8,
        "documentable": 7,
        "documented": 4,
        "imports": ["typing"],
    }


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        (b"", 0),
        (b"\n", 1),
        (b"a = 1", 1),
        (b"a = 1\nb = 2\n", 2),
        (b"a = 1\r\nb = 2\r\n", 2),
        (b"a = 1\rb = 2\r", 2),
        (b"a = 1\n\x0c\nb = 2", 3),
        ("a = '\u2028'\n".encode(), 1),
        (b"\xef\xbb\xbfa = 1\n", 1),
        (b"# coding: latin-1\nn = '\xe9'\n", 2),
    ],
)
def test_lines_end_where_the_parser_ends_them(tmp_path: Path, source: bytes, lines: int) -> None:
    atlas = atlas_of(write_tree(tmp_path, {"a.py": source}))
    assert [module["lines"] for module in atlas["modules"]] == [lines]
    assert atlas["verdict"] == {"headline": "All files parse (1)", "files": []}


def test_docstring_coverage_is_a_share_of_modules_classes_and_functions(tmp_path: Path) -> None:
    atlas = atlas_of(write_tree(tmp_path, {"a.py": KNOWN, "empty.py": ""}))
    assert atlas["docstring_coverage"] == 4 / 8


# The import graph.

PACKAGE = {
    "top.py": "import pack.left\nimport pack.right as r, os.path, sys",
    "lonely.py": "import json\nfrom nowhere import thing",
    "pack/__init__.py": "from . import left\nfrom .right import thing\nvalue = 1",
    "pack/left.py": "from pack import right, value",
    "pack/right.py": "from .sub.deep import *\nthing = 1",
    "pack/sub/__init__.py": "",
    "pack/sub/deep.py": "from ... import beyond\nfrom ..left import something\nfrom .. import sub",
    "lazy.py": """
from typing import TYPE_CHECKING
import typing
if TYPE_CHECKING:
    import top
elif typing.TYPE_CHECKING:
    import top
else:
    import eager_a
try:
    import eager_b
except ImportError:
    import eager_c
class C:
    import eager_d
    def f(self):
        import top
def g():
    class D:
        import top
async def h():
    import top
if __name__ == "__main__":
    import top
""",
    "eager_a.py": "import eager_b",
    "eager_b.py": "import eager_a",
    "eager_c.py": "import eager_c",
    "eager_d.py": "import pack.left.attribute.of_it",
    "plain/part.py": "from . import other\nfrom .other import x\nimport plain.other\nimport other",
    "plain/other.py": "",
    "broken.py": "import top\n(",
    "asks.py": "import broken",
}


def test_import_graph_of_a_small_tree_is_the_known_one(tmp_path: Path) -> None:
    atlas = atlas_of(write_tree(tmp_path, PACKAGE))
    assert atlas["import_graph"] == {
        "asks": ["broken"],
        "broken": [],
        "eager_a": ["eager_b"],
        "eager_b": ["eager_a"],
        "eager_c": [],
        "eager_d": ["pack.left"],
        "lazy": ["eager_a", "eager_b", "eager_c", "eager_d"],
        "lonely": [],
        "pack": ["pack.left", "pack.right"],
        "pack.left": ["pack", "pack.right"],
        "pack.right": ["pack.sub.deep"],
        "pack.sub": [],
        "pack.sub.deep": ["pack.left", "pack.sub"],
        "plain.other": [],
        "plain.part": ["plain.other"],
        "top": ["pack.left", "pack.right"],
    }
    assert atlas["cycles"] == [
        ["pack", "pack.left", "pack.right", "pack.sub.deep"],
        ["eager_a", "eager_b"],
    ]
    assert atlas["hubs"][:4] == [
        {"name": "pack.left", "imported_by": 4},
        {"name": "pack.right", "imported_by": 3},
        {"name": "eager_a", "imported_by": 2},
        {"name": "eager_b", "imported_by": 2},
    ]
    assert atlas["totals"]["imports"] == 18


@pytest.mark.parametrize("below", ["", "pack", "pack/sub"])
def test_directory_inside_a_package_keeps_the_full_names(tmp_path: Path, below: str) -> None:
    atlas = atlas_of(write_tree(tmp_path / "outer", PACKAGE) / below)
    names = [module["name"] for module in atlas["modules"]]
    assert "pack.sub.deep" in names
    assert all(name.startswith(below.replace("/", ".")) for name in names)
    assert "pack.sub" in atlas["import_graph"]["pack.sub.deep"]


def test_relative_import_above_the_outermost_package_leads_nowhere(tmp_path: Path) -> None:
    tree = {"a.py": "from . import b", "b.py": "from .. import a", "p/c.py": "from ... import a"}
    assert atlas_of(write_tree(tmp_path, tree))["totals"]["imports"] == 0


def test_source_layout_is_found_by_the_name_of_its_package(tmp_path: Path) -> None:
    tree = {
        "src/pack/__init__.py": "",
        "src/pack/core.py": "import pack.sub.leaf, json",
        "src/pack/sub/__init__.py": "",
        "src/pack/sub/leaf.py": "from .. import core",
        "tests/test_pack.py": "from pack import core",
        "tests/json.py": "",
    }
    assert atlas_of(write_tree(tmp_path, tree))["import_graph"] == {
        "src.pack": [],
        "src.pack.core": ["src.pack.sub.leaf"],
        "src.pack.sub": [],
        "src.pack.sub.leaf": ["src.pack.core"],
        "tests.json": [],
        "tests.test_pack": ["src.pack.core"],
    }


def test_files_of_one_name_share_a_place_in_the_graph(tmp_path: Path) -> None:
    tree = {"a.py": "import b", "a/__init__.py": "import c", "b.py": "import a", "c.py": ""}
    atlas = atlas_of(write_tree(tmp_path, tree))
    assert atlas["import_graph"] == {"a": ["b", "c"], "b": ["a"], "c": []}
    assert atlas["totals"]["files"] == 4


def reachable(graph: Mapping[str, list[str]], start: str) -> set[str]:
    """All that can be reached from a node, itself only where a path leads back."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = set(graph[waiting.pop()]) - found
        found |= new
        waiting.extend(new)
    return found


graphs = st.integers(1, 9).flatmap(
    lambda size: st.sets(st.tuples(st.integers(0, size - 1), st.integers(0, size - 1))).map(
        lambda edges: {
            str(node): [str(end) for start, end in sorted(edges) if start == node]
            for node in range(size)
        }
    )
)


@given(graphs)
def test_strongly_connected_nodes_are_those_that_reach_each_other(
    graph: dict[str, list[str]],
) -> None:
    reach = {node: reachable(graph, node) | {node} for node in graph}
    expected = {frozenset(b for b in graph if b in reach[a] and a in reach[b]) for a in graph}
    found = stdlib_atlas.strongly_connected(graph)
    assert {frozenset(each) for each in found} == expected
    assert sorted(node for each in found for node in each) == sorted(graph)


@pytest.mark.stress
def test_chain_and_ring_of_100_000_modules_need_no_recursion() -> None:
    size = 100_000
    chain = {str(node): [str(node + 1)] for node in range(size)} | {str(size): []}
    assert len(stdlib_atlas.strongly_connected(chain)) == size + 1
    ring = {str(node): [str((node + 1) % size)] for node in range(size)}
    assert [len(each) for each in stdlib_atlas.strongly_connected(ring)] == [size]


# The workflow.


@pytest.mark.parametrize("mode", list(ExecutionMode))
def test_report_does_not_depend_on_the_mode(mode: ExecutionMode) -> None:
    root = str(STDLIB / "json")
    expected = workflow.run(root=root, format="json", top=5)
    assert workflow.run(root=root, format="json", top=5, mode=mode) == expected


def test_workflow_and_what_flows_in_it_come_back_from_pickling() -> None:
    root = str(STDLIB / "json")
    run = workflow.execute(root=root, format="json", top=5)
    assert pickle.loads(pickle.dumps(run.results)) == run.results
    twin = pickle.loads(pickle.dumps(workflow))
    assert twin.run(root=root, format="json", top=5) == run.value


def test_the_workflow_is_valid_and_types_fit() -> None:
    assert workflow.validate(check_types=True) == []


def test_only_the_branches_taken_run(tmp_path: Path) -> None:
    run = workflow.execute(root=str(write_tree(tmp_path, {"a.py": ""})), format="text", top=5)
    skipped = {name for name, status in run.statuses.items() if status == "skipped"}
    assert skipped == {"list_unparsable", "as_json", "as_html"}
    assert run.status == "completed"
    assert run["measure"][0]["name"] == "a"


# What is in the tree, and what is not.


def test_left_out_directories_are_not_looked_into(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        {
            "kept.py": "",
            "sub/kept.py": "",
            "kept.pyi": "",
            "kept.txt": "",
            "site-packages/x.py": "",
            "lib/dist-packages/x.py": "",
            "sub/__pycache__/x.py": "",
            ".venv/x.py": "",
            "folder.py/kept.py": "",
        },
    )
    atlas = atlas_of(tmp_path)
    paths = [module["path"] for module in atlas["modules"]]
    assert paths == ["folder.py/kept.py", "kept.py", "sub/kept.py"]


def test_directory_may_itself_be_one_of_those_left_out(tmp_path: Path) -> None:
    atlas = atlas_of(write_tree(tmp_path / ".hidden" / "site-packages", {"a.py": ""}))
    assert atlas["totals"]["files"] == 1


def test_symbolic_links_end_nowhere_in_a_loop(tmp_path: Path) -> None:
    write_tree(tmp_path, {"sub/a.py": "import b", "b.py": ""})
    (tmp_path / "sub" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "one.py").symlink_to(tmp_path / "two.py")
    (tmp_path / "two.py").symlink_to(tmp_path / "one.py")
    (tmp_path / "gone.py").symlink_to(tmp_path / "nothing")
    (tmp_path / "link.py").symlink_to(tmp_path / "b.py")
    (tmp_path / "way").symlink_to(tmp_path, target_is_directory=True)
    atlas = atlas_of(tmp_path / "way")
    assert [module["path"] for module in atlas["modules"]] == ["b.py", "link.py", "sub/a.py"]
    problems = problems_of(atlas)
    assert list(problems) == ["gone.py", "one.py", "two.py"]
    assert problems["gone.py"]["reason"] == "No such file or directory"
    assert "symbolic links" in problems["one.py"]["reason"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    assert problems_of(atlas_of(tmp_path))["pipe.py"]["reason"] == "not a regular file"


def test_file_that_vanishes_after_its_discovery_is_reported(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a.py": "", "b.py": ""})
    files, unlisted = stdlib_atlas.discover(str(tmp_path))
    (tmp_path / "a.py").unlink()
    gone, there = (stdlib_atlas.measure(file, str(tmp_path)) for file in files)
    assert unlisted == []
    assert there["path"] == "b.py"
    assert gone == {
        "name": "a",
        "path": "a.py",
        "line": None,
        "reason": "No such file or directory",
    }


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is forbidden to root"
)
def test_what_may_not_be_read_is_reported(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a.py": "", "secret.py": "", "closed/x.py": ""})
    (tmp_path / "secret.py").chmod(0)
    (tmp_path / "closed").chmod(0)
    try:
        atlas = atlas_of(tmp_path)
        done = run_program(tmp_path / "closed")
    finally:
        (tmp_path / "closed").chmod(0o700)
    reasons = {path: file["reason"] for path, file in problems_of(atlas).items()}
    assert reasons == {
        "secret.py": "Permission denied",
        "closed/": "cannot be listed: Permission denied",
    }
    assert done.returncode == 1
    assert done.stderr.endswith("closed: Permission denied\n")


BROKEN: dict[str, bytes] = {
    "syntax.py": b"x = 1\nif x\n",
    "bytes.py": b"x = 1\ny = '\xff\xfe'\n",
    "null.py": b"x = 1\n\x00\n",
    "cookie.py": b"# coding: no-such-codec\n",
    "two_minds.py": b"\xef\xbb\xbf# coding: latin-1\n",
    "deep.py": b"(" * 500,
    "endless.py": b"-" * 200_000 + b"1",
    "indent.py": b"  x\n y\n",
    "image.py": bytes(range(256)),
}


def test_broken_files_are_reported_with_a_reason_and_harm_no_other(tmp_path: Path) -> None:
    atlas = atlas_of(write_tree(tmp_path, {**BROKEN, "good.py": "def f(): pass"}))
    problems = problems_of(atlas)
    assert sorted(problems) == sorted(BROKEN)
    assert problems["syntax.py"] == {
        "name": "syntax",
        "path": "syntax.py",
        "line": 2,
        "reason": "expected ':'",
    }
    assert "null bytes" in problems["null.py"]["reason"]
    assert "no-such-codec" in problems["cookie.py"]["reason"]
    assert "can't decode byte 0xff" in problems["bytes.py"]["reason"]
    assert problems["endless.py"]["reason"] == "too large or nested too deeply for the parser"
    assert all(problem["reason"].isprintable() for problem in problems.values())
    assert atlas["totals"] | {"files": 10, "unparsable": 9, "functions": 1} == atlas["totals"]
    assert atlas["verdict"]["headline"] == "9 of 10 files do not parse"


def test_elif_chain_of_any_length_the_parser_takes_is_measured(tmp_path: Path) -> None:
    source = "if x: pass\n" + "elif x: pass\n" * 2_000
    atlas = atlas_of(write_tree(tmp_path, {"a.py": source}))
    assert atlas["totals"]["branches"] + 2_001 * atlas["totals"]["unparsable"] == 2_001


def test_file_names_of_any_kind_are_shown(tmp_path: Path) -> None:
    names = [
        "naïve.py",
        "模块.py",
        "a b.py",
        "new\nline.py",
        "<b>&.py",
        b"\xff.py".decode("utf-8", "surrogateescape"),
    ]
    try:
        write_tree(tmp_path, dict.fromkeys(names, "import naïve, 模块"))
    except OSError:
        pytest.skip("the file system refuses such names")
    atlas = atlas_of(tmp_path)
    shown = {module["path"] for module in atlas["modules"]}
    assert shown == {"naïve.py", "模块.py", "a b.py", "new\\nline.py", "<b>&.py", "\\udcff.py"}
    assert atlas["import_graph"]["a b"] == ["naïve", "模块"]
    for format_ in ("text", "html", "json"):
        done = run_program(tmp_path, "--format", format_, "--top", "20")
        assert (done.returncode, done.stderr) == (0, "")
    plain = run_program(tmp_path, "--top", "20", encoding="ascii")
    assert (plain.returncode, plain.stderr) == (0, "")
    assert "\\u6a21\\u5757" in plain.stdout


# Warnings.

INVALID_ESCAPE = "x = '\\d'\ny = 1or 2\n"


def test_no_filter_of_warnings_changes_the_report(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a.py": INVALID_ESCAPE})
    reports = set()
    for action in ("error", "always", "ignore"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter(action)
            reports.add(json.dumps(atlas_of(tmp_path)))
            assert caught == []
    assert len(reports) == 1
    assert json.loads(reports.pop())["totals"]["unparsable"] == 0


def test_other_warnings_go_on_as_before(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a.py": INVALID_ESCAPE})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atlas_of(tmp_path)
        with pytest.raises(SyntaxError):
            compile(INVALID_ESCAPE, "a.py", "exec")
        with pytest.raises(UserWarning):
            warnings.warn("seen", stacklevel=1)


def test_filters_do_not_pile_up(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a.py": INVALID_ESCAPE})
    with warnings.catch_warnings():
        atlas_of(tmp_path)
        before = len(warnings.filters)
        atlas_of(tmp_path)
        assert len(warnings.filters) == before


# Reports.


def test_text_report_fits_on_a_screen(tmp_path: Path) -> None:
    tree = {f"module_with_a_rather_long_name_{n}.py": f"import b{n}" for n in range(30)}
    tree |= {f"b{n}.py": f"import module_with_a_rather_long_name_{n}" for n in range(30)}
    tree |= {f"bad{n}.py": "(" for n in range(30)}
    report = workflow.run(root=str(write_tree(tmp_path, tree)), format="text", top=5)
    lines = report.splitlines()
    assert len(lines) <= 40
    assert all(len(line) <= 80 for line in lines[2:])
    assert lines[0] == f"Atlas of {tmp_path}"
    assert "30 import cycles" in lines
    assert "30 of 90 files do not parse" in lines
    assert lines.count("  ... and 25 more") == 2
    assert "  bad0.py:1: '(' was never closed" in lines


def test_text_report_of_a_single_empty_file_says_so(tmp_path: Path) -> None:
    report = workflow.run(root=str(write_tree(tmp_path, {"a.py": ""})), format="text", top=0)
    assert "No import cycles" in report
    assert "All files parse (1)" in report


def test_html_report_stands_alone_and_is_escaped(tmp_path: Path) -> None:
    tree = {"<script>alert(1)<&>.py": "", "bad&.py": "("}
    report = workflow.run(root=str(write_tree(tmp_path, tree)), format="html", top=5)
    assert report.startswith("<!DOCTYPE html>")
    assert "<script" not in report
    assert "&lt;script&gt;alert(1)&lt;&amp;&gt;" in report
    assert "bad&amp;.py:1" in report
    assert "1 of 2 files do not parse" in report
    assert not re.search(r"(src|href)=|https?:|@import|url\(", report)


def test_html_report_names_every_module_and_cycle(tmp_path: Path) -> None:
    report = workflow.run(root=str(write_tree(tmp_path, PACKAGE)), format="html", top=1)
    for name in atlas_of(tmp_path)["import_graph"]:
        assert name in report
    assert "eager_a, eager_b" in report


# The program.


@pytest.mark.parametrize("format_", ["text", "json", "html"])
def test_output_goes_to_a_file_where_one_is_named(tmp_path: Path, format_: str) -> None:
    root = write_tree(tmp_path / "tree", {"modulé.py": ""})
    target = tmp_path / "report"
    written = run_program(root, "--format", format_, "--output", target)
    assert (written.returncode, written.stdout, written.stderr) == (0, "", "")
    printed = run_program(root, "--format", format_)
    assert target.read_text(encoding="utf-8") == printed.stdout
    assert "modul" in printed.stdout


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that says what is wrong; a usage line may stand before it."""
    *usage, line = done.stderr.splitlines()
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert not usage or usage[0].startswith("usage: ")
    assert line.startswith("stdlib_atlas: error: ")
    return line.removeprefix("stdlib_atlas: error: ")


def test_missing_directory_is_a_usage_error(tmp_path: Path) -> None:
    done = run_program(tmp_path / "nowhere")
    assert done.returncode == 2
    assert complaint(done).endswith("nowhere: No such file or directory")


def test_file_in_place_of_a_directory_is_a_usage_error() -> None:
    done = run_program(PROGRAM)
    assert done.returncode == 2
    assert complaint(done).endswith("stdlib_atlas.py: not a directory")


def test_directory_without_source_is_a_failure(tmp_path: Path) -> None:
    write_tree(tmp_path, {"readme.txt": "", ".hidden/a.py": ""})
    done = run_program(tmp_path)
    assert done.returncode == 1
    assert complaint(done) == f"there are no .py files in {tmp_path}"


def test_directory_of_nothing_but_broken_files_gets_a_report(tmp_path: Path) -> None:
    done = run_program(write_tree(tmp_path, BROKEN), flags=["-W", "error"])
    assert (done.returncode, done.stderr) == (0, "")
    assert "9 of 9 files do not parse" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--mode", "warp"], "invalid choice: 'warp'"),
        (["--format", "pdf"], "invalid choice: 'pdf'"),
        (["--top", "-1"], "not a whole number"),
        (["--workers", "many"], "invalid int value: 'many'"),
        (["--workers", "0"], "max_workers"),
    ],
)
def test_option_out_of_range_is_a_usage_error(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    done = run_program(write_tree(tmp_path, {"a.py": ""}), *arguments)
    assert done.returncode == 2
    assert words in complaint(done)


def test_report_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a.py": ""})
    done = run_program(tmp_path, "--output", tmp_path / "no" / "report.txt")
    assert done.returncode == 1
    assert complaint(done).startswith("cannot write the report: ")


def test_reader_that_leaves_early_gets_no_traceback(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a.py": f"import {'b' * 2_000_000}"})  # no pipe holds that much
    command = [sys.executable, str(PROGRAM), str(tmp_path), "--format", "json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        program.stdout.read(10)
        program.stdout.close()
        assert program.stderr.read() == b""
        assert program.wait(timeout=LONG) == 1


def test_failure_inside_the_workflow_is_an_execution_error_of_its_node(tmp_path: Path) -> None:
    with pytest.raises(ExecutionError, match=r"there are no \.py files") as caught:
        workflow.run(root=str(tmp_path), format="text", top=5)
    assert caught.value.node_name == "discover"
    with pytest.raises(ExecutionError, match=r"cannot read .*nowhere: No such file"):
        workflow.run(root=str(tmp_path / "nowhere"), format="text", top=5)


def test_timings_do_without_metrics() -> None:
    assert stdlib_atlas.timings({}, top=3) == "0 nodes in 0.000 s"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a.py", "a"),
        ("a/__init__.py", "a"),
        ("a/b/c.py", "a.b.c"),
        ("py.py", "py"),
    ],
)
def test_module_is_named_by_its_path(path: str, name: str) -> None:
    assert stdlib_atlas.module_name(path) == name
