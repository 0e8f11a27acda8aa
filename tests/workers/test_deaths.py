"""A process that is killed, wherever it is: what that costs, and what is left of it."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import DAG, ExecutionError, Workers
from fast_dag.drive.processes import LostError, Process
from tests.concurrency.support import is_alive, wait_until
from tests.workers import steps

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    path.touch()
    return path


def calls(log: Path) -> int:
    return len(log.read_text(encoding="utf-8").splitlines())


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid))


def test_idle_costs_nothing(log: Path) -> None:
    dag = DAG("idle").add_node("n", steps.noted)
    with Workers(2) as workers:
        kill(dag.run(log=str(log), executor=workers))
        dag.run(log=str(log), executor=workers)
    assert calls(log) == 2


@pytest.mark.parametrize("initializer", [None, steps.starts])
def test_before_its_first_call_costs_nothing(log: Path, initializer: Any) -> None:
    dag = DAG("first").add_node("n", steps.noted)
    with Workers(1, initializer=initializer) as workers:
        with pytest.raises(TypeError, match="pickle"):
            workers.submit(steps.same, threading.Lock()).result()  # it was started for this
        (process,) = workers._pool._all
        assert process._popen is not None
        kill(process._popen.pid)
        dag.run(log=str(log), executor=workers)
    assert calls(log) == 1


def test_all_idle_ones_dead_cost_nothing(log: Path, tmp_path: Path) -> None:
    with Workers(2) as workers:
        both = [
            workers.submit(steps.when, str(tmp_path / f"r{i}"), str(tmp_path / "go"))
            for i in range(2)
        ]
        wait_until(lambda: all((tmp_path / f"r{i}").exists() for i in range(2)))
        (tmp_path / "go").touch()
        for each in both:
            kill(each.result())
        dag = DAG("two").add_node("a", steps.noted).add_node("b", steps.noted)
        dag.run(log=str(log), executor=workers)
    assert calls(log) == 2


def test_while_it_receives_costs_nothing(log: Path) -> None:
    """The call was not made: another process makes it."""
    large = "x" * 20_000_000  # more than a pipe holds
    dag = DAG("receives").add_node("n", steps.takes)
    with Workers(1) as workers:
        pid = workers.submit(steps.pid).result()
        os.kill(pid, signal.SIGSTOP)  # so that it does not read what it is sent
        runs: list[Any] = []
        thread = threading.Thread(
            target=lambda: runs.append(dag.execute(thing=large, log=str(log), executor=workers))
        )
        thread.start()
        process = next(iter(workers._pool._all))
        wait_until(lambda: process.calls == 2)
        os.kill(pid, signal.SIGKILL)
        thread.join()
    assert runs[0].errors == {}
    assert calls(log) == 1


def test_by_what_it_unpickles_fails_the_node_whose_call_is_not_made(log: Path) -> None:
    dag = DAG("unpickles").add_node("n", steps.takes).add_node("other", steps.noted)
    with Workers(1) as workers:
        run = dag.execute(
            thing=steps.DiesHere(arriving=True),
            log=str(log),
            executor=workers,
            error_strategy="continue",
        )
    assert run.statuses == {"n": "failed", "other": "completed"}
    assert "'n' died before the call ended (exit code -9)" in str(run.errors["n"])
    assert calls(log) == 1


@pytest.mark.parametrize("node", [steps.noted_and_killed, steps.noted_and_killed_as_it_answers])
def test_while_it_runs_or_answers_costs_its_node_which_is_not_run_again(
    log: Path, node: Any
) -> None:
    dag = DAG("runs").add_node("n", node).add_node("other", steps.noted)
    dag.add_node("below", steps.noted).connect("other", "below", input=False)
    with Workers(1) as workers:
        workers.submit(steps.pid).result()  # a process that had died while idle is replaced
        run = dag.execute(log=str(log), executor=workers, error_strategy="continue")
    assert run.statuses == {"n": "failed", "other": "completed", "below": "completed"}
    error = run.errors["n"]
    assert isinstance(error, ExecutionError)
    assert error.node_name == "n"
    assert calls(log) == 3


def test_a_node_is_run_again_where_it_asks_for_that(log: Path) -> None:
    dag = DAG("again").add_node("n", steps.noted_and_killed, retry=2, retry_delay=0)
    with Workers(1) as workers:
        error = dag.execute(log=str(log), executor=workers).exception()
    assert error is not None
    assert error.attempts == 3
    assert calls(log) == 3


@pytest.mark.parametrize("is_map", [False, True], ids=["node", "map"])
def test_while_it_starts_costs_nothing(log: Path, is_map: bool) -> None:
    dag = DAG("starts")
    if is_map:
        dag.map(name="n", over="y", inputs=["x", "y"])(steps.add)
    else:
        dag.add_node("n", steps.add)
    initializer = partial(steps.dies_as_the_first_that_starts, f"{log}.mark")
    with Workers(2, initializer=initializer) as workers:
        y = list(range(50)) if is_map else 5
        assert dag.run(x=1, y=y, executor=workers) == ([1 + n for n in y] if is_map else 6)


def test_while_it_starts_again_fails_the_node_that_needed_it(log: Path) -> None:
    with Workers(1, initializer=partial(steps.noted_and_killed, str(log))) as workers:
        dag = DAG("starts").add_node("n", steps.pid)
        error = dag.execute(executor=workers).errors["n"]
    assert "could not be started: it died at once (exit code -9)" in str(error)
    assert calls(log) == 2


def test_before_it_is_told_anything_leaves_nothing_that_the_collector_complains_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Stillborn(Process):
        def _begin(self) -> None:
            super()._begin()
            self.kill()
            assert self._popen is not None
            self._popen.wait()

    complaints: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    process = Stillborn()
    try:
        process.start()
    except LostError as lost:
        kept: list[object] = [lost]
        kept.append(kept)  # from here, only the collector can free it
    del kept
    process.end()
    gc.collect()
    assert not complaints


@pytest.mark.stress
def test_at_any_moment_costs_no_more_than_its_own_node(log: Path) -> None:
    """Processes are killed while runs go on: each node is called once at most, and all runs end."""
    dag = DAG("storm")
    for index in range(6):
        dag.add_node(f"n{index}", lambda index=index: steps.noted(str(log)), inputs=[])
    over = threading.Event()
    with Workers(2) as workers:

        def storm() -> None:
            while not over.wait(0.02):
                for process in list(workers._pool._all):
                    process.is_started and process._popen and process._popen.kill()

        thread = threading.Thread(target=storm)
        thread.start()
        runs = [dag.execute(executor=workers, error_strategy="continue") for _ in range(10)]
        over.set()
        thread.join()
        assert not dag.execute(executor=workers).errors
    assert {each.status for each in runs} <= {"completed", "completed_with_errors", "failed"}
    done = sum(len(each.results) for each in runs) + 6
    assert done <= calls(log) <= 66
