"""Nodes, DAGs, errors and Contexts pickle; what belongs to runs stays behind."""

from __future__ import annotations

import copyreg
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fast_dag import DAG, Context, ExecutionError, MissingInputError, Node
from tests.behaviour import pickled
from tests.behaviour.support import BoomError, Scale, add, boom, double
from tests.patience import LONG

cloudpickle = pytest.importorskip("cloudpickle")


def copied(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))


def test_decorated_function_of_a_module_pickles() -> None:
    twin = copied(pickled.load)
    assert isinstance(twin, Node)
    assert (twin.name, twin.retry, twin.inputs, twin.__doc__) == (
        "load",
        2,
        ("x",),
        "Where it begins.",
    )
    assert twin(3) == 3
    assert twin.func is pickled.load.func
    assert twin.graph is None


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_node_pickles_with_every_protocol(protocol: int) -> None:
    assert pickle.loads(pickle.dumps(pickled.load, protocol))(3) == 3


@pytest.mark.parametrize(
    ("func", "argument", "expected"),
    [(double, 2, 4), (Scale(3), 2, 6), (Scale(3).method, 2, 6), (len, "ab", 2)],
    ids=["function", "callable", "method", "builtin"],
)
def test_node_of_what_pickles_pickles(func: Any, argument: Any, expected: Any) -> None:
    assert copied(Node(func, "f"))(argument) == expected


def test_dag_of_a_module_pickles() -> None:
    twin = copied(pickled.dag)
    assert list(twin) == list(pickled.dag)
    assert twin.run(x=2) == pickled.dag.run(x=2) == "even 2"
    assert twin.run(x=3) == "odd 3"


def test_pickled_dag_can_be_edited() -> None:
    twin = copied(pickled.dag)
    twin.add_node("end", double).connect("show", "end")
    assert twin.run(x=2) == "even 2even 2"
    assert twin.nodes["load"].graph is twin.graph
    assert "end" not in pickled.dag.nodes


def test_pickled_dag_keeps_options_and_what_it_was_made_with() -> None:
    dag = DAG("d", description="for tests", metadata={"k": 1}, autowire=True)
    dag.add_node("a", double, retry=1, inputs=["value"], outputs=["o"], metadata={"m": 1})
    twin = copied(dag)
    assert (twin.name, twin.description, twin.metadata, twin.autowire) == (
        "d",
        "for tests",
        {"k": 1},
        True,
    )
    node = twin.nodes["a"]
    assert (node.retry, node.inputs, node.outputs, node.metadata) == (
        1,
        ("value",),
        ("o",),
        {"m": 1},
    )


def test_pickled_dag_leaves_its_last_run_behind() -> None:
    dag = DAG("d").add_node("a", double)
    dag.run(x=2)
    twin = copied(dag)
    with pytest.raises(KeyError, match="has not run"):
        twin["a"]
    assert dag["a"] == 4


def test_nested_dag_pickles() -> None:
    inner = DAG("inner").add_node("f", double)
    twin = copied(DAG("outer").add_node("sub", inner))
    assert twin.run(x=2) == 4
    assert twin["sub.f"] == 4


def test_dag_with_hooks_pickles() -> None:
    dag = DAG("d").add_node("a", boom)
    dag.set_node_error_handler("a", add_handler)
    assert copied(dag).run() == "handled"


def add_handler(node, inputs, error):
    return "handled"


def test_dag_of_closures_pickles_by_cloudpickle() -> None:
    offset = 5
    dag = DAG("d").add_node("a", lambda x: x + offset)

    @dag.node
    def b(a):
        return a * offset

    dag.connect("a", "b").run(x=0)
    assert pickle.loads(cloudpickle.dumps(dag)).run(x=1) == 30


SCRIPT = """
import pickle, sys
import cloudpickle
from fast_dag import DAG

dag = DAG("script")
offset = 5

@dag.node
def load(x):
    return x + offset

for twin in (pickle.loads(pickle.dumps(load)), pickle.loads(pickle.dumps(dag)).nodes["load"]):
    assert twin is not load and twin.func is load.func and twin.name == "load"
if __name__ == "__main__":
    sys.stdout.buffer.write(cloudpickle.dumps(dag))
"""


def test_node_of_a_script_pickles_by_name_and_by_cloudpickle_by_value(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, script], capture_output=True, check=True, timeout=LONG)
    assert pickle.loads(done.stdout).run(x=1) == 6


def test_nodes_of_a_module_go_by_name_by_cloudpickle_too() -> None:
    twin = pickle.loads(cloudpickle.dumps(pickled.load))
    assert twin.func is pickled.load.func


# Errors.


def failure(dag: DAG, **options: Any) -> ExecutionError:
    with pytest.raises(ExecutionError) as caught:
        dag.run(**options)
    return caught.value


def test_execution_error_pickles_with_its_cause_and_without_its_run() -> None:
    error = failure(DAG("d").add_node("a", boom, retry=1, retry_delay=0))
    twin = copied(error)
    assert type(twin) is ExecutionError
    assert str(twin) == str(error)
    assert (twin.node_name, twin.attempts, twin.run) == ("a", 2, None)
    assert type(twin.__cause__) is BoomError
    assert str(twin.__cause__) == "no luck"


def raise_local():
    class LocalError(Exception):
        """Nobody finds it by its name."""

    raise LocalError("1 and 2")


def test_cause_that_does_not_pickle_becomes_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    # distributed, once imported, has pickle take all causes along (tblib).
    monkeypatch.delitem(copyreg.dispatch_table, ExecutionError, raising=False)
    twin = copied(failure(DAG("d").add_node("a", raise_local)))
    assert twin.__cause__ is None
    assert any("LocalError: 1 and 2" in note for note in twin.__notes__)


def test_notes_survive_pickling() -> None:
    error = failure(DAG("d").add_node("a", boom))
    error.add_note("mine")
    assert "mine" in copied(error).__notes__


def test_cause_of_a_cause_survives_pickling() -> None:
    def outer():
        return DAG("inner").add_node("deep", boom).run()

    twin = copied(failure(DAG("outer").add_node("a", outer)))
    assert twin.__cause__.node_name == "deep"
    assert type(twin.__cause__.__cause__) is BoomError


def test_missing_input_error_pickles_with_what_is_missing() -> None:
    with pytest.raises(MissingInputError) as caught:
        DAG("d").add_node("a", add).run()
    twin = copied(caught.value)
    assert twin.missing == (("a", "a"), ("a", "b"))
    assert str(twin) == str(caught.value)


def test_error_of_many_problems_pickles_with_them() -> None:
    dag = DAG("d").add_node("a", double).add_node("b", double).add_node("sub", DAG("empty"))
    dag.connect("a", "b").connect("b", "a", input=False)
    with pytest.raises(ValueError, match="problems") as caught:
        dag.run()
    twin = copied(caught.value)
    assert [type(each) for each in twin.problems] == [type(each) for each in caught.value.problems]
    assert twin.problems[0].cycle == ("a", "b", "a")


# Context.


def test_context_pickles() -> None:
    context = Context(results={"a": 1}, metadata={"b": 2}, metrics={"c": 3})
    assert copied(context).to_dict() == context.to_dict()


def test_context_of_a_run_pickles_with_its_metrics() -> None:
    dag = DAG("d").add_node("a", double)
    dag.run(x=2)
    twin = copied(dag.context)
    assert twin.results == {"a": 4}
    assert twin.metadata == dag.context.metadata
    assert twin.metrics["nodes_executed"] == 1


def test_context_pickled_during_a_run_serves_another_one() -> None:
    def snapshot(context: Context):
        return pickle.dumps(context)

    dag = DAG("d").add_node("a", snapshot)
    twin = pickle.loads(dag.run())
    assert DAG("d").add_node("b", double).run(x=1, context=twin) == 2


def test_returns_of_deciders_pickle() -> None:
    from fast_dag import ConditionalReturn, SelectReturn

    assert copied(ConditionalReturn(True, value=[1])) == ConditionalReturn(True, value=[1])
    assert copied(SelectReturn("a", value=[1])) == SelectReturn("a", value=[1])
