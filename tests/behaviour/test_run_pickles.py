"""Runs and Contexts pickle: what they show stays, functions do not travel, what cannot is named."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
from typing import Any

import pytest

from fast_dag import DAG, FSM, Context, ExecutionError, FSMContext, Run, ValidationError
from fast_dag import TimeoutError as Late
from tests.patience import timeouts


def copied(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))


def sample() -> DAG:
    """Every kind of node, a failure, a branch that is not taken, and a nested workflow."""
    inner = DAG("inner").add_node("first", lambda x: x).add_node("second", lambda first: 1 / first)
    inner.connect("first", "second")
    dag = DAG("sample", description="all there is").add_node("x", lambda n: n, retry=1)
    dag.add_node("check", lambda x: x > 0, type="condition").connect("x", "check")
    dag.add_node("yes", lambda x: [x]).connect(dag.nodes["check"].on_true, "yes")
    dag.add_node("no", lambda x: x).connect(dag.nodes["check"].on_false, "no")
    dag.add_node("join", lambda value: value, type="any", wait=True)
    dag.add_node("sub", inner).connect("x", "sub", input="x")
    return dag.connect("yes", "join").connect("no", "join")


@pytest.mark.same_process
@pytest.mark.parametrize("n", [1, 0, -1])
def test_pickled_run_shows_the_same(execute: Any, n: int) -> None:
    run = execute(sample(), n=n, error_strategy="continue")
    twin = copied(copied(run))
    assert repr(twin) == repr(run)
    for shown in ("name", "status", "statuses", "timings", "results", "value", "run_id", "inputs"):
        assert getattr(twin, shown) == getattr(run, shown)
    assert twin.metrics == run.metrics
    assert twin.context.metadata == run.context.metadata
    assert {k: repr(e) for k, e in twin.errors.items()} == {
        k: repr(e) for k, e in run.errors.items()
    }
    for backend in ("mermaid", "graphviz"):
        drawn = run.visualize(backend, show_results=True)
        assert twin.visualize(backend, show_results=True) == drawn
    assert twin.summary() == run.summary()
    assert twin.report() == run.report()
    assert twin["sub.first"] == run["sub.first"]
    assert twin.children["sub"].statuses == run.children["sub"].statuses
    error = twin.exception()
    assert (error is None) == (run.exception() is None)
    assert str(error) == str(run.exception())
    if error is not None:
        assert error.run is not None
        assert isinstance(error.__cause__, ZeroDivisionError)
        with pytest.raises(ExecutionError):
            twin.raise_for_error()
    for path in ("nowhere", "no", "sub.second", "sub.nowhere"):
        assert told(twin, path) == told(run, path)


def told(run: Run, path: str) -> str:
    try:
        return repr(run[path])
    except KeyError as error:
        return f"{type(error).__name__}: {error}"


def test_value_in_several_places_stays_one() -> None:
    rows = [1]
    dag = DAG("d").add_node("a", lambda x: x).add_node("b", lambda a: {"a": a}).connect("a", "b")
    twin = copied(dag.execute(x=rows))
    assert twin["a"] is twin.inputs["x"] is twin["b"]["a"] is twin.results["a"]


def test_run_of_a_machine_pickles() -> None:
    fsm = FSM("m", initial_state="go")
    fsm.add_state("go", lambda n: n + 1).add_terminal_state("end", lambda n: [n])
    fsm.add_transition("go", "go", condition=lambda n: n < 3).add_transition("go", "end")
    run = fsm.execute(n=1)
    twin = copied(run)
    assert twin.state_history == run.state_history == ["go", "go", "end"]
    assert (twin.value, twin["go"], twin["go.0"], twin.cycle_count) == ([3], 3, 2, 3)
    assert (twin.is_terminated, twin.current_state) == (True, "end")
    assert twin.visualize() == run.visualize()
    assert twin.summary() == run.summary()
    assert isinstance(twin.context, FSMContext)
    assert twin.context.state_history == ["go", "go", "end"]


class StubbornError(Exception):
    """Cannot be made of its args, and holds what does not pickle."""

    def __init__(self, code: int, *, lock: Any) -> None:
        super().__init__(f"code {code}")
        self.code = code
        self.lock = lock


@pytest.mark.same_process
def test_exception_that_does_not_pickle_travels(execute: Any) -> None:
    def fail():
        try:
            raise KeyError("inner")
        except KeyError as cause:
            raise StubbornError(7, lock=threading.Lock()) from cause

    run = copied(execute(DAG("d").add_node("fail", fail)))
    error = run.errors["fail"]
    assert isinstance(error, StubbornError)
    assert (error.code, str(error), repr(error.__cause__)) == (7, "code 7", "KeyError('inner')")
    assert "lock" in str(error.__notes__)
    assert "in fail" in run.report()


@pytest.mark.parametrize("kind", ["result", "input", "metadata", "nested"])
def test_what_does_not_pickle_is_named(kind: str) -> None:
    lock = threading.Lock()
    dag = DAG("d").add_node("load", lambda x, context: lock if kind == "result" else 1)
    inner = DAG("inner").add_node("deep", lambda: lock if kind == "nested" else 1)
    inner.add_node("after", lambda deep: 1).connect("deep", "after")
    dag.add_node("sub", inner)
    context = Context(metadata={"db": lock} if kind == "metadata" else {})
    run = dag.execute(x=lock if kind == "input" else 1, context=context)
    words = {
        "result": "the result of 'load', a lock",
        "input": "the input 'x', a lock",
        "metadata": r"context\.metadata\['db'\], a lock",
        "nested": "the result of 'sub.deep', a lock",
    }
    with pytest.raises(ValidationError, match=f"the Run of 'd' cannot be pickled: {words[kind]}"):
        pickle.dumps(run)


def test_what_does_not_pickle_can_be_deleted() -> None:
    dag = DAG("d").add_node("load", lambda: threading.Lock()).add_node("use", lambda load: 1 / 0)
    run = dag.connect("load", "use").execute()
    with pytest.raises(ValidationError) as caught:
        pickle.dumps(run)
    assert (caught.value.node, caught.value.nodes) == ("load", ("load",))
    del run.results["load"]
    dag.replace_node("use", lambda load: load.locked())
    assert dag.run(resume=copied(run)) is False


def test_context_names_what_does_not_pickle() -> None:
    context = Context(results={"rows": (each for each in ())}, metadata={"fine": 1})
    with pytest.raises(ValidationError, match="the result of 'rows', a generator") as caught:
        pickle.dumps(context)
    assert caught.value.node == "rows"
    assert copy.copy(context)["rows"] is context["rows"]


def test_copies_share_values_as_copies_do() -> None:
    run = DAG("d").add_node("load", lambda: threading.Lock()).execute()
    assert copy.copy(run)["load"] is copy.deepcopy(run)["load"] is run["load"]
    context = Context(results={"rows": [1]})
    assert copy.copy(context)["rows"] is context["rows"]
    twin = copy.deepcopy(context)
    assert twin["rows"] == context["rows"]
    assert twin["rows"] is not context["rows"]


def test_partial_run_takes_values_of_a_pickled_run(run_from: Any) -> None:
    dag = DAG("d").add_node("load", lambda x: [x]).add_node("use", lambda load, y=0: (*load, y))
    twin = copied(dag.connect("load", "use").execute(x=1))
    assert run_from(dag, "use", run=twin, y=2) == (1, 2)
    assert dag["load"] == [1]
    with pytest.raises(ValidationError, match="is a run of 'd', not of 'other'"):
        run_from(dag.clone("other"), "use", run=twin)


def test_run_that_timed_out_pickles() -> None:
    gate = threading.Event()
    dag = DAG("d").add_node("fast", lambda: 1).add_node("slow", gate.wait)
    dag.connect("fast", "slow", input=False)
    for timeout in timeouts(0.05):
        run = dag.execute(timeout=timeout)
        if "fast" in run.results:
            break
    gate.set()
    twin = copied(run)
    assert (twin.status, twin["fast"]) == ("timed_out", 1)
    assert isinstance(twin.exception(), Late)
    assert str(twin.exception()) == str(run.exception())


SCRIPT = """
import pickle, sys
from fast_dag import DAG

def build(broken):
    dag = DAG("nightly").add_node("load", lambda: print("load") or [1, 2])
    def total(load):
        if broken:
            raise OSError("disk full")
        return sum(load)
    return dag.add_node("total", total).connect("load", "total")

if sys.argv[1] == "first":
    with open(sys.argv[2], "wb") as file:
        pickle.dump(build(True).execute(), file)
else:
    with open(sys.argv[2], "rb") as file:
        run = pickle.load(file)
    print(repr(run.errors["total"]), build(False).run(resume=run))
"""


def test_failed_run_goes_on_in_another_process(tmp_path: Any) -> None:
    script, file = tmp_path / "nightly.py", tmp_path / "run.pickle"
    script.write_text(SCRIPT)
    said = [
        subprocess.run(
            [sys.executable, str(script), which, str(file)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for which in ("first", "then")
    ]
    assert said == ["load\n", "OSError('disk full') 3\n"]
