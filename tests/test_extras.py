"""What works without optional packages, and what is said where one is needed."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from fast_dag._extras import needed
from fast_dag.errors import MissingExtraError
from tests.ways import MODES_EVERYWHERE

if TYPE_CHECKING:
    from pathlib import Path

OPTIONAL = ("click", "cloudpickle", "distributed", "grandalf", "rich", "yaml")

BARE = f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in {OPTIONAL!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""

WORKFLOWS = """
from fast_dag import DAG, FSM
from fast_dag.errors import MissingExtraError

ran = []

def node(x=1):
    ran.append("node")
    return x

def workflows():
    dag = DAG("demo").add_node("a", node).add_node("b", node).connect("a", "b")
    fsm = FSM("machine").add_state("s", node, initial=True, terminal=True)
    for each in (dag, fsm):
        each.set_default_hooks(pre_execute=lambda node, inputs: ran.append("hook"))
    return dag, fsm

def refused(call):
    try:
        call()
    except MissingExtraError as error:
        print(error.extra, "|", error)
    else:
        print("not refused")
"""


def bare(script: str) -> str:
    """What a script prints in a process in which no optional package can be imported, and there is
    no Graphviz."""
    done = subprocess.run(
        [sys.executable, "-c", BARE + WORKFLOWS + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        env={"PATH": ""},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_report_and_pictures_need_no_extra() -> None:
    told = bare(
        """
        for each in workflows():
            run = each.execute()
            page = run.report()
            for drawn in (page, each.visualize("svg"), run.visualize("svg")):
                assert "<svg" in drawn and "is not drawn" not in page
            for shown in (each, run, FSM.start(each) if isinstance(each, FSM) else run):
                assert shown._repr_mimebundle_()["image/svg+xml"].startswith("<svg")
            print(run.status, run.summary().splitlines()[0].split(":")[0])
        """
    )
    assert told.splitlines() == ["completed demo", "completed machine"]


@pytest.mark.parametrize("mode", MODES_EVERYWHERE)
def test_bar_without_its_extra_is_refused_before_any_node_and_hook(mode: str) -> None:
    told = bare(
        f"""
        import asyncio
        dag, fsm = workflows()
        for each in (dag, fsm):
            refused(lambda: each.run(progress=True, mode={mode!r}))
            refused(lambda: each.execute(progress=True, mode={mode!r}))
            refused(lambda: asyncio.run(each.run_async(progress=True, mode={mode!r})))
        refused(lambda: dag.run_until("a", progress=True, mode={mode!r}))
        refused(lambda: fsm.start(progress=True, mode={mode!r}))
        print(ran)
        """
    )
    need = (
        "progress | progress bars need rich: pip install '/path/to/checkout[progress]', "
        "with the path of your checkout of fast-dag"
    )
    assert told.splitlines() == [need] * 8 + ["[]"]


def test_every_extra_is_named_where_its_package_is_missing() -> None:
    told = bare(
        """
        dag, _ = workflows()
        refused(lambda: dag.run(mode="process"))
        import statistics
        refused(DAG("demo").add_node("mean", statistics.mean).to_yaml)
        refused(lambda: DAG.from_yaml("name: demo"))
        refused(lambda: dag.run(progress=True))
        print(ran)
        """
    )
    extras = [line.partition(" | ")[0] for line in told.splitlines()]
    assert extras == ["process", "yaml", "yaml", "progress", "[]"]


def test_command_line_without_click_names_its_extra() -> None:
    script = BARE + "from fast_dag.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(
        "fast-dag's commands need click: pip install '/path/to/checkout[cli]'"
    )


@pytest.mark.needs("click")
def test_command_line_writes_its_report_and_refuses_the_bar_without_extras(tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(
        "from fast_dag import DAG\ndag = DAG('demo').add_node('a', lambda: print('ran') or 1)\n",
        encoding="utf-8",
    )
    start = BARE.replace("'click', ", "") + "from fast_dag.__main__ import main; main()"

    def cli(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", start, "run", "flow.py", *args],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={"PATH": ""},
            check=False,
        )

    reported = cli("--report", "run.html")
    assert (reported.returncode, reported.stdout) == (0, "ran\n1\n"), reported.stderr
    assert "<svg" in (tmp_path / "run.html").read_text(encoding="utf-8")
    refused = cli("--progress")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "/path/to/checkout[progress]" in refused.stderr


# What counts as missing.


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that can be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "needs_more", raising=False)
    return tmp_path


@pytest.mark.parametrize("module", ["no_such_thing", "no_such_thing.inner.most"])
def test_missing_module_and_missing_parent_are_a_missing_extra(module: str) -> None:
    with pytest.raises(
        MissingExtraError, match=r"need no_such_thing: pip .*/path/to/checkout\[some\]"
    ) as it:
        needed(module, extra="some", purpose="tests")
    assert it.value.extra == "some"


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("import no_such_thing", ModuleNotFoundError, "No module named 'no_such_thing'"),
        ("import needs_more.no_such_part", ModuleNotFoundError, "needs_more.no_such_part"),
        ("from os import no_such_name", ImportError, "no_such_name"),
        ("raise ImportError('wrong version')", ImportError, "wrong version"),
        ("raise ModuleNotFoundError", ModuleNotFoundError, "^$"),
    ],
)
def test_what_an_installed_package_fails_to_import_is_no_missing_extra(
    packages: Path, source: str, error: type[ImportError], message: str
) -> None:
    (packages / "needs_more").mkdir()
    (packages / "needs_more" / "__init__.py").write_text("", encoding="utf-8")
    (packages / "needs_more" / "inner.py").write_text(source, encoding="utf-8")
    with pytest.raises(error, match=message) as caught:
        needed("needs_more.inner", extra="some", purpose="tests")
    assert not isinstance(caught.value, MissingExtraError)


def test_workers_without_their_extra_are_refused_when_they_are_made() -> None:
    told = bare(
        """
        from fast_dag import Workers
        refused(lambda: Workers(2))
        """
    )
    assert told.startswith("process | worker processes need cloudpickle: pip install")
