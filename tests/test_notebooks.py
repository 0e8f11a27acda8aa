"""Tracebacks in IPython and notebooks: of the user's mistakes, without the frames of the engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from fast_dag import DAG, ExecutionError, InvalidNodeError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SHELL = """
import json, sys
from io import StringIO
from contextlib import redirect_stdout
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
shell.run_line_magic("colors", "nocolor")
told = {}
for name, cell in json.load(sys.stdin).items():
    with redirect_stdout(StringIO()) as out:
        shell.run_cell(cell)
    told[name] = out.getvalue()
print(json.dumps(told))
"""
CELLS = {
    "setup": """
from fast_dag import DAG, FSM, Context
from fast_dag.define.graph import Graph
dag = DAG("dag")
@dag.node
def load(n):
    return helper(n)
def helper(n):
    return 1 / n
@dag.node
def other(load):
    return load
load >> other
outer = DAG("outer")
@outer.node
def calls(n):
    return dag.run(n=n)
machine = FSM("machine").add_state("lost", lambda: 1, initial=True)
""",
    "sequential": "dag.run(n=0)",
    "parallel": "dag.run(n=0, mode='parallel')",
    "async": "dag.run(n=0, mode='async')",
    "awaited": "await dag.run_async(n=0)",
    "nested run": "outer.run(n=0)",
    "input": "dag.run(m=0)",
    "awaited input": "await dag.run_async(m=0)",
    "edge": "load >> 3",
    "definition": "dag.node(retry='x')(load)",
    "result": "dag['lod']",
    "machine": "machine.run(mode='parallel')",
    "bug": """
real, Graph.node = Graph.node, None
try:
    dag.run_until("load")
finally:
    Graph.node = real
""",
    "bug below a node": """
parallel = DAG("parallel").add_node("below", lambda: dag.run_until("load"))
real, Graph.node = Graph.node, None
try:
    parallel.run(mode="parallel")
finally:
    Graph.node = real
""",
    "kept": """
try:
    dag.run(m=0)
except ValueError as error:
    given = error
raise given
""",
    "kept whole": "import traceback; print(*traceback.format_exception(given))",
    "verbose": "%xmode Verbose\ndag.run(m=0)",
}
ENGINE = os.path.join("fast_dag", "")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """What IPython shows of each cell."""
    home: Path = tmp_path_factory.mktemp("ipython")
    done = subprocess.run(
        [sys.executable, "-c", SHELL],
        input=json.dumps(CELLS),
        env={**os.environ, "IPYTHONDIR": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    shown: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return shown


def places(shown: str) -> list[str]:
    """The functions and files of its frames, without line numbers."""
    lines = [line for line in shown.splitlines() if line.startswith(("Cell In", "File "))]
    return [line.partition(", in ")[2].partition("(")[0] or "cell" for line in lines]


MISTAKES = [
    ("sequential", ["load", "helper", "cell"], "ExecutionError: node 'load' of 'dag' failed"),
    ("parallel", ["load", "helper", "cell"], "ExecutionError: node 'load' of 'dag' failed"),
    ("async", ["load", "helper", "cell"], "ExecutionError: node 'load' of 'dag' failed"),
    ("awaited", ["load", "helper", "cell"], "ExecutionError: node 'load' of 'dag' failed"),
    ("nested run", ["load", "helper", "calls", "cell"], "node 'calls' of 'outer' failed"),
    ("input", ["cell"], "ValidationError: 'dag' was given an input that fills no parameter: 'm'"),
    ("awaited input", ["cell"], "ValidationError: 'dag' was given an input"),
    ("edge", ["cell"], "InvalidNodeError: cannot connect 'load' to 3"),
    ("definition", ["cell"], "InvalidNodeError: node 'load': retry is a count"),
    ("result", ["cell"], "UnknownNodeError: 'dag' has no node 'lod' (did you mean 'load'?)"),
    ("machine", ["cell"], "InvalidTransitionError: state 'lost' of 'machine' leads nowhere"),
]


@pytest.mark.one_in(4)
@pytest.mark.needs("IPython")
@pytest.mark.parametrize(("name", "frames", "words"), MISTAKES)
def test_traceback_of_a_mistake_has_the_frames_of_the_user_only(
    told: Mapping[str, str], name: str, frames: list[str], words: str
) -> None:
    shown = told[name]
    assert words in shown
    assert (places(shown), ENGINE in shown) == (frames, False), shown


@pytest.mark.needs("IPython")
def test_traceback_of_an_error_in_the_engine_has_all_frames_that_led_to_it(
    told: Mapping[str, str],
) -> None:
    whole = ["DAG.run_until", "DAG._part", "DAG._named"]
    assert [each for each in places(told["bug"]) if each != "<listcomp>"] == ["cell", *whole]
    below = [each for each in places(told["bug below a node"]) if each != "<listcomp>"]
    assert below == ["<lambda>", *whole, "cell"]


@pytest.mark.needs("IPython")
def test_traceback_itself_is_left_whole(told: Mapping[str, str]) -> None:
    assert places(told["kept"]) == ["cell", "cell"]
    assert "_compile" in told["kept whole"]


@pytest.mark.needs("IPython")
def test_verbose_traceback_has_all_frames(told: Mapping[str, str]) -> None:
    assert "DAG._compile" in places(told["verbose"])


def test_traceback_outside_of_ipython_is_that_of_python() -> None:
    with pytest.raises(InvalidNodeError) as caught:
        DAG("dag").node(3)  # type: ignore[call-overload]
    lines = caught.value._render_traceback_()
    assert lines[0] == "Traceback (most recent call last):\n"
    assert ENGINE in "".join(lines)
    assert ExecutionError("no")._render_traceback_() == [
        f"{ExecutionError.__module__}.ExecutionError: no\n"
    ]
