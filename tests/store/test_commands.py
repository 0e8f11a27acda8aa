"""`fast-dag run --store` and `fast-dag runs`, as processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.patience import LONG

pytestmark = pytest.mark.needs("click")

FLOW = """
import os
from fast_dag import DAG

dag = DAG("flow")

@dag.node
def load(n: int = 3) -> int:
    print("load")
    return n

@dag.node
def double(load: int) -> int:
    print("double")
    if os.environ.get("FAIL"):
        raise ValueError("no")
    if os.environ.get("HANG"):
        print("hangs", flush=True)
        import time
        time.sleep(60)
    return 2 * load

@dag.node(once=True)
def pay(double: int) -> str:
    if os.environ.get("DIE"):
        os._exit(9)
    return f"paid {double}"

load >> double >> pay
"""


class Shell:
    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "flow.py").write_text(FLOW)

    def popen(self, *args: str, **environ: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "fast_dag", *args],
            cwd=self.path,
            env={**os.environ, "FAST_DAG_STORE": "runs.db", **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *args: str, code: int = 0, **environ: str) -> str:
        with self.popen(*args, **environ) as process:
            out, err = process.communicate(timeout=LONG)
        assert process.returncode == code, err
        return out + err

    def data(self, *args: str) -> Any:
        with self.popen(*args, "--json") as process:
            out, _ = process.communicate(timeout=LONG)
        return json.loads(out)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.mark.stress
def test_run_of_an_id_goes_on_and_says_when_nothing_is_to_do(shell: Shell) -> None:
    run = ("run", "flow.py", "--store", "runs.db", "--id", "nightly", "--tag", "team=a")
    assert "ValueError: no" in shell(*run, "-i", "n=5", code=1, FAIL="1")
    assert "failed on" in shell(*run, code=1)
    again = shell(*run, "--rerun", "failed")
    assert "paid 10" in again
    assert "load\n" not in again
    last = shell(*run)
    assert "nightly: finished on" in last
    assert "nothing to do" in last
    assert "double" not in last
    refused = shell(*run, "-i", "n=6", code=2)
    assert "the input 'n' is another" in refused
    assert "nothing to do" not in refused
    lost = shell("runs", "report", "nightly", "--html", "no/page.html", code=74)
    assert "--html: 'no/page.html' could not be written: No such file" in lost
    assert "--value '{' is no JSON" in shell(
        "runs", "decide", "nightly", "pay", "--value", "{", code=2
    )
    (record,) = shell.data("runs", "list", "--tag", "team=a")
    assert (record["run_id"], record["status"]) == ("nightly", "completed")
    assert shell.data("runs", "show", "nightly")["nodes"][0]["path"] == "load"
    assert shell.data("runs", "show", "nightly", "--node", "pay")["value"] == "paid 10"
    assert "flow: completed" in shell("runs", "report", "nightly")
    assert "load    fresh" in shell("runs", "explain", "flow.py", "nightly")
    assert shell.data("runs", "doctor")["problems"] == []
    shell("runs", "fork", "nightly", "--at", "pay", "--id", "other", "-i", "n=6")
    assert "paid 12" in shell("runs", "resume", "flow.py", "other")
    assert shell.data("runs", "rerun", "flow.py", "other", "double")["value"] == "paid 12"
    assert "has ended already" in shell("runs", "cancel", "other", code=1)
    assert shell.data("runs", "prune", "--older-than", "0 seconds")["runs"] == 2


def test_run_that_a_signal_ends_is_interrupted_and_goes_on(shell: Shell) -> None:
    run = ("run", "flow.py", "--store", "runs.db", "--id", "a", "--mode", "parallel")
    with shell.popen(*run, HANG="1") as process:
        assert process.stdout is not None
        while process.stdout.readline() != "hangs\n":
            pass
        (record,) = shell.data("runs", "list")
        assert record["status"] == "running"
        assert f"process {process.pid}" in record["owner"]
        assert "at work in process" in shell(*run, code=2)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=LONG)
    assert process.returncode == 128 + signal.SIGTERM
    assert shell.data("runs", "list")[0]["status"] == "interrupted"
    out = shell(*run)
    assert "paid 6" in out
    assert "load\n" not in out


def test_node_in_doubt_is_decided_from_the_shell(shell: Shell) -> None:
    run = ("run", "flow.py", "--store", "runs.db", "--id", "a")
    shell(*run, code=9, DIE="1")
    assert "in doubt" in shell(*run, code=2)
    assert shell.data("runs", "list")[0]["status"] == "in_doubt"
    assert "pay  in doubt" in shell("runs", "show", "a")
    shell("runs", "decide", "a", "pay", "--value", '"by hand"')
    assert "by hand" in shell(*run)


@pytest.mark.stress
def test_value_with_a_class_is_shown_if_that_is_allowed(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "teas.py").write_text(
        "from dataclasses import dataclass\nfrom fast_dag import DAG\n"
        "@dataclass\nclass Tea:\n    cups: int\n"
        "dag = DAG('teas')\n@dag.node\ndef tea() -> Tea:\n    return Tea(2)\n"
    )
    shell("run", "teas.py", "--store", "runs.db", "--id", "a")
    show = ("runs", "show", "a", "--node", "tea")
    assert "allow=['teas:Tea']" in shell(*show, code=2)
    assert "Tea(cups=2)" in shell(*show, "--allow", "teas:Tea")


def test_the_variable_names_the_store_of_a_run_that_asks_for_one(shell: Shell) -> None:
    shell("run", "flow.py")
    shell("run", "flow.py", "--id", "a")
    (record,) = shell.data("runs", "list")
    assert record["run_id"] == "a"
    (shell.path / "lamp.py").write_text(
        "from fast_dag import FSM\nfsm = FSM('lamp').add_state('on', lambda: 1, initial=True)\n"
        "fsm.add_terminal_state('on')\n"
    )
    assert "--id is for a DAG; 'lamp' is an FSM" in shell("run", "lamp.py", "--id", "b", code=2)


@pytest.mark.stress
def test_mistakes_are_told(shell: Shell) -> None:
    assert "no file" in shell("runs", "list", code=2)
    told = shell("run", "flow.py", "--id", "a", code=2, FAST_DAG_STORE="")
    assert "--id is for runs with --store FILE, or with FAST_DAG_STORE" in told
    shell("run", "flow.py", "--store", "runs.db", "--id", "a")
    assert "has no run 'b'" in shell("runs", "show", "b", code=2)
    assert "another" in shell(
        "run", "flow.py", "--store", "runs.db", "--id", "a", "-i", "n=9", code=2
    )
