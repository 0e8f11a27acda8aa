"""Bad input, one test for each kind: what the message says, and what the error carries."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fast_dag import (
    DAG,
    FSM,
    Context,
    CycleError,
    ExecutionError,
    InvalidNodeError,
    MissingInputError,
    ValidationError,
)
from fast_dag.errors import MissingResultError, UnknownNodeError
from tests.behaviour.support import Undecided


def test_cycle(run: Any) -> None:
    dag = DAG("loop")
    for name in ("fetch", "parse", "store"):
        dag.add_node(name, lambda x=0: x)
    dag.connect("fetch", "parse").connect("parse", "store").connect("store", "fetch")
    with pytest.raises(CycleError) as caught:
        run(dag)
    assert caught.value.cycle == ("fetch", "parse", "store", "fetch")
    assert str(caught.value) == (
        "'loop' has a cycle: fetch -> parse -> store -> fetch; "
        "remove one of these edges with disconnect()"
    )


USES = {
    "connect from": lambda dag: dag.connect("laod", "save"),
    "connect to": lambda dag: dag.connect("save", "laod"),
    "disconnect": lambda dag: dag.disconnect("laod", "save"),
    "remove_node": lambda dag: dag.remove_node("laod"),
    "replace_node": lambda dag: dag.replace_node("laod", len),
    "run_until": lambda dag: dag.run_until("laod"),
    "run_from": lambda dag: dag.run_from("laod"),
    "run_between": lambda dag: dag.run_between("laod", "save"),
    "outputs": lambda dag: dag.run(outputs=["laod"]),
    "result": lambda dag: dag["laod"],
    "get_result": lambda dag: dag.get_result("laod"),
    "set_node_hooks": lambda dag: dag.set_node_hooks("laod", cleanup=print),
    "set_node_error_handler": lambda dag: dag.set_node_error_handler("laod", print),
}


@pytest.mark.parametrize("use", USES)
def test_unknown_node(use: str) -> None:
    dag = DAG("shop").add_node("load", lambda: 1).add_node("save", lambda x: x)
    with pytest.raises(UnknownNodeError) as caught:
        USES[use](dag)
    assert str(caught.value) == "'shop' has no node 'laod' (did you mean 'load'?)"
    assert (caught.value.node, caught.value.suggestion) == ("laod", "load")
    assert isinstance(caught.value, (InvalidNodeError, KeyError))


INSIDE = {
    "outputs": lambda dag: dag.run(outputs=["save", "sub.load"]),
    "run_until": lambda dag: dag.run_until("sub.load"),
    "connect": lambda dag: dag.connect("sub.load", "save"),
    "set_node_hooks": lambda dag: dag.set_node_hooks("sub.load", cleanup=print),
}


@pytest.mark.parametrize("use", INSIDE)
def test_node_inside_a_workflow_cannot_be_named_without_it(use: str) -> None:
    dag = DAG("shop").add_node("save", lambda x=0: x)
    dag.add_node("sub", DAG("inner").add_node("load", lambda: 1))
    with pytest.raises(UnknownNodeError) as caught:
        INSIDE[use](dag)
    assert "'sub.load' is inside the workflow 'sub'" in str(caught.value)
    assert "outputs=['sub']" in str(caught.value)
    assert "dag['sub.load']" in str(caught.value)
    assert (caught.value.node, caught.value.suggestion) == ("sub.load", "sub")
    assert dag.run(outputs=["sub"]) == {"sub": dag["sub.load"]} == {"sub": 1}


def test_unknown_node_inside_a_workflow_is_looked_for_in_there() -> None:
    dag = DAG("shop").add_node("sub", DAG("inner").add_node("load", lambda: 1))
    with pytest.raises(UnknownNodeError, match=r"'inner' has no node 'laod'.*'load'"):
        dag.run(outputs=["sub.laod"])
    with pytest.raises(UnknownNodeError, match=r"'shop' has no node 'sup\.load'"):
        dag.run(outputs=["sup.load"])


def test_unknown_node_that_resembles_none() -> None:
    with pytest.raises(UnknownNodeError) as caught:
        DAG("shop").add_node("load", lambda: 1).remove_node("xyz")
    assert str(caught.value) == "'shop' has no node 'xyz'"
    assert caught.value.suggestion is None


DEFINITIONS = {
    "add_node": lambda dag: dag.add_node("load", len),
    "node": lambda dag: dag.node(name="load")(len),
    "condition": lambda dag: dag.condition(name="load")(len),
    "workflow": lambda dag: dag.add_node("load", DAG("inner")),
}


@pytest.mark.parametrize("define", DEFINITIONS)
def test_duplicate_name(define: str) -> None:
    dag = DAG("shop").add_node("load", lambda: 1)
    node = dag.nodes["load"]
    with pytest.raises(InvalidNodeError) as caught:
        DEFINITIONS[define](dag)
    assert caught.value.node == "load"
    assert "already has a node 'load'" in str(caught.value)
    assert "replace=True" in str(caught.value)
    assert "replace_node" in str(caught.value)
    assert dag.nodes["load"] is node


@pytest.mark.same_process
def test_missing_input(run: Any) -> None:
    seen: list[str] = []
    dag = DAG("price").add_node("first", lambda: seen.append("first"))
    dag.add_node("net", lambda price, tax: seen.append("net"))
    dag.add_node("label", lambda net, currency: 1).connect("net", "label")
    with pytest.raises(MissingInputError) as caught:
        run(dag, tax=1)
    assert caught.value.missing == (("net", "price"), ("label", "currency"))
    assert "'price' of 'net', 'currency' of 'label'" in str(caught.value)
    assert "pass inputs, connect a node to them, or give them defaults" in str(caught.value)
    assert seen == []


def test_input_nobody_takes(run: Any) -> None:
    dag = DAG("price").add_node("net", lambda price, tax=0: price)
    with pytest.raises(ValidationError) as caught:
        run(dag, price=1, taxx=2)
    assert caught.value.inputs == ("taxx",)
    assert "'taxx' (did you mean 'tax'?)" in str(caught.value)
    assert "it takes 'price', 'tax'" in str(caught.value)


def test_input_that_edges_feed_everywhere(run: Any) -> None:
    dag = DAG("price").add_node("load", lambda: 1).add_node("net", lambda price: price)
    with pytest.raises(ValidationError) as caught:
        run(dag.connect("load", "net"), price=1)
    assert caught.value.inputs == ("price",)
    assert "edges feed every parameter of that name ('load' feeds that of 'net')" in str(
        caught.value
    )


def test_input_of_a_dag_without_any(run: Any) -> None:
    with pytest.raises(ValidationError, match="it takes no inputs"):
        run(DAG("price").add_node("net", lambda: 1), price=1)


MISSING_OUTPUTS = {
    "key": (lambda: {"train": 1, "test": 2}, {}, "'train', 'test'"),
    "attribute": (Context, {}, "'results'"),
    "element without declared outputs": (lambda: (1, 2), {}, "outputs="),
    "element of a tuple that is too short": (
        lambda: (1,),
        {"outputs": ["train", "valid"]},
        "returned 1 values",
    ),
    "anything of None": (lambda: None, {}, "NoneType"),
}


@pytest.mark.process_mode
@pytest.mark.parametrize("kind", MISSING_OUTPUTS)
def test_missing_output(execute: Any, kind: str) -> None:
    func, options, there = MISSING_OUTPUTS[kind]
    dag = DAG("d").add_node("split", func, **options).add_node("fit", lambda x: x)
    ran = execute(dag.connect("split", "fit", output="valid"))
    assert ran.statuses == {"split": "completed", "fit": "failed"}
    problem = ran.errors["fit"]
    assert isinstance(problem, MissingResultError)
    assert (problem.node, problem.consumer, problem.output) == ("split", "fit", "valid")
    assert all(text in str(problem) for text in ("'fit'", "'split'", "'valid'", there))
    with pytest.raises(ExecutionError, match="'valid'") as caught:
        ran.raise_for_error()
    assert caught.value.node_name == "fit"


def test_two_edges_into_one_parameter() -> None:
    dag = DAG("d").add_node("one", lambda: 1).add_node("two", lambda: 2)
    dag.add_node("t", lambda x, y: x).connect("one", "t", input="x")
    with pytest.raises(ValidationError) as caught:
        dag.connect("two", "t", input="x")
    assert (caught.value.node, caught.value.parameter) == ("t", "x")
    assert caught.value.sources == ("one", "two")
    assert "'two' cannot feed the parameter 'x' of 't': 'one' does already" in str(caught.value)
    assert "@dag.any or @dag.all" in str(caught.value)
    assert [edge.source for edge in dag.graph.edges()] == ["one"]


@pytest.mark.parametrize("thing", [3, "text", None, [len], {"a": 1}], ids=repr)
@pytest.mark.parametrize("kind", ["node", "condition", "select", "any", "all"])
def test_decorated_non_callable(thing: Any, kind: str) -> None:
    dag = DAG("d")
    with pytest.raises(InvalidNodeError) as caught:
        getattr(dag, kind)(thing)
    assert f"{thing!r} is not callable" in str(caught.value)
    assert "add_node(name, function)" in str(caught.value)
    assert caught.value.node is None
    assert len(dag) == 0


def test_added_non_callable() -> None:
    with pytest.raises(InvalidNodeError, match="3 is not callable") as caught:
        DAG("d").add_node("three", 3)  # type: ignore[arg-type]
    assert caught.value.node == "three"


def test_decorated_classmethod() -> None:
    with pytest.raises(InvalidNodeError, match="bound method"):
        DAG("d").node(classmethod(lambda cls: 1))


@pytest.mark.parametrize("builtin", [math.hypot, max, int, dict], ids=lambda each: each.__name__)
def test_signature_that_cannot_be_read(builtin: Any) -> None:
    dag = DAG("d")
    with pytest.raises(InvalidNodeError) as caught:
        dag.add_node("f", builtin)
    assert caught.value.node == "f"
    assert repr(builtin) in str(caught.value)
    assert "inputs=[...]" in str(caught.value)
    assert "wrap it in a function" in str(caught.value)
    assert len(dag) == 0


def test_star_args_have_room_for_every_edge(run: Any) -> None:
    dag = DAG("d").add_node("t", lambda *values: values)
    for number in range(20):
        dag.add_node(f"n{number}", lambda number=number: number).connect(f"n{number}", "t")
    assert run(dag) == tuple(range(20))


def test_star_args_are_no_input(run: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        run(DAG("d").add_node("t", lambda *values: values), values=(1, 2))
    assert caught.value.inputs == ("values",)


def test_positional_only_parameter_that_is_missing(run: Any) -> None:
    with pytest.raises(MissingInputError) as caught:
        run(DAG("d").add_node("t", lambda x, y, /: (x, y)), x=1)
    assert caught.value.missing == (("t", "y"),)


def test_keyword_only_parameter_that_is_missing(run: Any) -> None:
    with pytest.raises(MissingInputError) as caught:
        run(DAG("d").add_node("t", lambda *, x, y: (x, y)), x=1)
    assert caught.value.missing == (("t", "y"),)


def test_keyword_only_parameters_without_room() -> None:
    dag = DAG("d").add_node("a", lambda: 1).add_node("b", lambda: 2).add_node("t", lambda *, x: x)
    with pytest.raises(ValidationError, match="no parameter of 't' is left for 'b'"):
        dag.connect("a", "t").connect("b", "t")


def test_parameter_named_self_that_is_missing(run: Any) -> None:
    class Loader:
        def load(self, path):
            return path

    with pytest.raises(MissingInputError) as caught:
        run(DAG("d").add_node("load", Loader.load), path="x")
    assert caught.value.missing == (("load", "self"),)
    assert "'self' of 'load'" in str(caught.value)
    assert "add_node(name, object.method)" in str(caught.value)


@pytest.mark.process_mode
@pytest.mark.parametrize("make", [lambda: np.array([1, 2]), Undecided], ids=["array", "class"])
def test_ambiguous_truth(run: Any, make: Any) -> None:
    dag = DAG("d").add_node("check", make, type="condition").add_node("then", lambda: 1)
    dag.connect(dag.nodes["check"].on_true, "then")
    with pytest.raises(ExecutionError) as caught:
        run(dag)
    assert caught.value.node_name == "check"
    problem = caught.value.__cause__
    assert isinstance(problem, ValidationError)
    assert problem.node == "check"
    assert "condition 'check' returned a" in str(problem)
    assert "neither true nor false" in str(problem)
    assert ".all() or .any()" in str(problem)


@pytest.mark.same_process
def test_one_shot_iterator_with_two_consumers(run: Any) -> None:
    dag = DAG("d").add_node("rows", lambda: (row for row in [1, 2]))
    dag.add_node("one", lambda rows: [*rows]).add_node("two", lambda rows: [*rows])
    dag.connect("rows", "one").connect("rows", "two")
    with pytest.raises(ExecutionError) as caught:
        run(dag)
    assert caught.value.node_name == "rows"
    problem = caught.value.__cause__
    assert (problem.node, problem.consumers) == ("rows", ("one", "two"))
    assert "generator, which can be gone through once only" in str(problem)
    assert "'one', 'two' take it" in str(problem)


def test_node_that_deletes_a_result_that_is_needed(run: Any) -> None:
    def eat(load, context: Context):
        del context.results["load"]

    dag = DAG("d").add_node("load", lambda: 1).add_node("eat", eat).add_node("use", lambda x: x)
    dag.connect("load", "eat").connect("load", "use")
    dag.nodes["use"].after(dag.nodes["eat"])
    with pytest.raises(ExecutionError) as caught:
        run(dag)
    assert (caught.value.node_name, caught.value.attempts) == ("use", 0)
    problem = caught.value.__cause__
    assert (problem.node, problem.consumer, problem.reason) == ("load", "use", "deleted")
    assert "'use' needs the result of 'load' for its parameter 'x', but it was deleted" in str(
        problem
    )


def test_node_that_edits_a_result(run: Any) -> None:
    def edit(load, context: Context):
        context.results["load"] = "edited"

    dag = DAG("d").add_node("load", lambda: "loaded").add_node("edit", edit)
    dag.add_node("use", lambda load: load).connect("load", "edit").connect("load", "use")
    dag.nodes["use"].after(dag.nodes["edit"])
    assert run(dag) == "edited"


@pytest.mark.same_process
def test_dag_edited_while_it_runs(run: Any) -> None:
    dag = DAG("d")

    def edit():
        dag.add_node("new", lambda: "new", replace=True)
        dag.replace_node("last", lambda: "changed")
        return "first"

    dag.add_node("edit", edit).add_node("last", lambda: "last")
    dag.nodes["last"].after(dag.nodes["edit"])
    assert run(dag, outputs=["edit", "last"]) == {"edit": "first", "last": "last"}
    assert set(dag.results) == {"edit", "last"}
    assert run(dag, outputs=["new", "last"]) == {"new": "new", "last": "changed"}


def test_empty_dag(run: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        run(DAG("nothing"))
    assert str(caught.value) == "'nothing' has no nodes; add one with @dag.node or add_node()"
    assert caught.value.problems == (caught.value,)


@pytest.mark.parametrize("name", ["", "a.b", ".", "a.", 3, ("a",)], ids=repr)
def test_name_that_no_node_can_have(name: Any) -> None:
    with pytest.raises(InvalidNodeError) as caught:
        DAG("d").node(name=name)(len)
    assert caught.value.node == (name if isinstance(name, str) else None)


def test_dot_in_a_name_is_explained() -> None:
    with pytest.raises(InvalidNodeError, match="stands for nesting") as caught:
        DAG("d").add_node("sub.inner", len)
    assert caught.value.node == "sub.inner"
    assert "name it 'sub_inner', say" in str(caught.value)


def test_lambda_without_a_name_is_asked_for_one() -> None:
    with pytest.raises(InvalidNodeError, match="give the node one with name="):
        DAG("d").node(lambda: 1)


@pytest.mark.parametrize("decorator", ["node", "condition", "any", "cached_node"])
def test_a_decorator_takes_no_type(decorator: str) -> None:
    with pytest.raises(InvalidNodeError, match="no option 'type' here"):
        getattr(DAG("demo"), decorator)(type="all")(lambda x: x)


def test_a_nested_workflow_takes_no_other_names_for_its_parameters() -> None:
    inner = DAG("inner").add_node("double", lambda x: 2 * x)
    with pytest.raises(InvalidNodeError, match="inputs= is for functions"):
        DAG("outer").add_node("sub", inner, inputs=["y"])


def test_values_by_position_are_an_error_that_names_the_method() -> None:
    dag, fsm = DAG("sum").add_node("add", lambda a, b: a + b), FSM("m")
    with pytest.raises(TypeError, match=r"^DAG\.run\(\) takes from 1 to 2 positional"):
        dag.run(1, 2)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"^FSM\.run\(\) takes from 1 to 2 positional"):
        fsm.run(1, 2)  # type: ignore[call-arg]
