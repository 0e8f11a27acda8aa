"""Workflows to draw, and the files that their pictures are compared with."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fast_dag import DAG, FSM, FSMReturn
from fast_dag.run.record import Retry

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_dag import Run

GOLDEN = Path(__file__).parent / "golden"

needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """Compare a text with a file; with GOLDEN=write in the environment, write it instead."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if os.environ.get("GOLDEN") == "write":
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8")

    return compare


@pytest.fixture
def without_dot(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which Graphviz is not installed."""
    monkeypatch.setenv("PATH", "")


@pytest.fixture
def without_any(without_dot: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nothing that places boxes is installed."""
    for name in ("grandalf", "grandalf.graphs", "grandalf.layouts"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def failing_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which Graphviz is installed, but fails."""
    program = tmp_path / "dot"
    program.write_text("#!/bin/sh\necho broken >&2\nexit 1\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def orders() -> DAG:
    """All that a DAG can have."""
    dag = DAG("orders")

    @dag.node(outputs=["train", "test"])
    def load(path: str = "x") -> tuple[int, int]:
        """Read them."""
        return 3, 4

    @dag.condition
    def enough(train: int) -> bool:
        return train > 2

    @dag.node(retry=1, retry_delay=0)
    def model(rows: int, test: int) -> int:
        return rows + test

    @dag.node
    def guess(rows: int) -> int:
        return 0

    @dag.any
    def best(value: int) -> int:
        return value

    @dag.select
    def route(best: int) -> str:
        return "mail"

    @dag.node
    def mail(best: int) -> int:
        raise OSError("no server")

    @dag.node
    def paper(best: int) -> int:
        return best

    @dag.all
    def everything(parts: dict[str, int], tag: str = "t") -> dict[str, int]:
        return parts

    inner = DAG("inner", description="Checks them.")
    inner.add_node("first", lambda value: value).add_node("second", lambda value: value + 1)
    dag.add_node("checks", inner.connect("first", "second"))
    dag.connect("load", "enough", output="train").connect("load", "model", output="test")
    enough.on_true >> model
    enough.on_false >> guess
    [model, guess] >> best >> route
    route.branches["mail"] >> mail
    route.branches["paper"] >> paper
    best >> dag.nodes["checks"]
    dag.connect("checks", "everything").connect("best", "everything", input="parts")
    everything.after(load)
    return dag


@pytest.fixture
def order() -> FSM:
    """All that a machine can have."""
    fsm = FSM("order", initial_state="pending", terminal_states=["shipped", "cancelled"])
    fsm.add_state("pending", lambda: 0)
    fsm.add_state("paying", lambda n: n + 1)
    fsm.add_state("checking", lambda n: FSMReturn("paying", n))
    fsm.add_state("shipped", lambda n: n)
    fsm.add_state("cancelled", lambda: None)

    def paid(value: int) -> bool:
        return value > 2

    fsm.add_transition("pending", "paying").add_transition("paying", "shipped", paid)
    fsm.add_transition("paying", "paying", lambda value: value == 1)
    fsm.add_transition("paying", "cancelled", event="cancel")
    return fsm.add_transition("paying", "checking")


def at_times(run: Run, times: dict[str, tuple[float, float]], whole: float) -> Run:
    """The run as if its nodes had started and ended then, in seconds since it began."""
    record, index = run._execution.record, run._execution.record.topology.index
    record.stamps = []
    record.spans = [(index[name], 100 + start, 100 + end) for name, (start, end) in times.items()]
    record.began, record.ended = 100.0, 100.0 + whole
    return run


def retried(run: Run, node: str, at: float, delay: float, error: str) -> Run:
    """The run as if an attempt had failed then."""
    run._execution.record.retried = (
        *run._execution.record.retried,
        Retry(node, 100 + at, delay, error),
    )
    run._execution.record.retries += 1
    return run
