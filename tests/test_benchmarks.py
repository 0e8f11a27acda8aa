"""The benchmarks run: what they measure is not looked at here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[1] / "benchmarks" / "run.py"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, RUN, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.stress
def test_quick_run_prints_and_saves_a_row_for_each_comparison(tmp_path: Path) -> None:
    saved = tmp_path / "rows.json"
    done = run("chain_steady", "memory", "loops", "fsm", "--quick", "--json", saved)
    assert done.returncode == 0, done.stderr
    for work in ("chain of 1,000", "memory, layered 10 x 100: a run", "asyncio, 1,000 independent"):
        assert f"| {work} " in done.stdout
    rows = json.loads(saved.read_text())["rows"]
    assert {row["unit"] for row in rows} >= {"x L", "x P", "bytes a node", "x gather"}
    assert all(row["work"] in done.stdout and row["values"] for row in rows)


def test_unknown_benchmark_is_named() -> None:
    done = run("chane", "--quick")
    assert done.returncode == 2
    assert "no such benchmark: chane" in done.stderr


@pytest.mark.stress
def test_quick_guard_has_a_verdict_for_every_hot_path(tmp_path: Path) -> None:
    """Which it is depends on what else the machine does: `.ci/run` prints those of a full run."""
    saved = tmp_path / "rows.json"
    done = run("guard", "--quick", "--json", saved)
    assert done.returncode == 0, done.stderr
    rows = json.loads(saved.read_text())["rows"]
    assert len(rows) == 12
    assert {row["verdict"] for row in rows} <= {"met", "missed"}
