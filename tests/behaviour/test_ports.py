"""Which parameter an edge feeds, and what it carries."""

from __future__ import annotations

from collections import OrderedDict, UserDict
from typing import Any, NamedTuple

import pytest

from fast_dag import DAG, Context, ValidationError
from tests.behaviour.support import Point


def into(target: Any, *sources: str, kind: str = "node") -> DAG:
    """Sources, which return their own names, and the node "t", not connected yet."""
    dag = DAG("ports")
    for name in sources:
        dag.add_node(name, lambda name=name: name)
    return dag.add_node("t", target, type=kind)


def value(run: Any, dag: DAG) -> Any:
    return run(dag, outputs=["t"])["t"]


# Which parameter.


def test_parameter_named_like_the_source_comes_first(run: Any) -> None:
    dag = into(lambda x, y: (x, y), "y", "x").connect("y", "t").connect("x", "t")
    assert value(run, dag) == ("x", "y")


def test_else_the_first_parameter_that_nothing_feeds(run: Any) -> None:
    dag = into(lambda p, q, r: (p, q, r), "a", "q", "c")
    dag.connect("a", "t").connect("q", "t").connect("c", "t")
    assert value(run, dag) == ("a", "q", "c")


def test_parameter_named_like_the_output_comes_before_that_of_the_source(run: Any) -> None:
    dag = DAG("d").add_node("s", lambda: {"p": 1, "q": 2})
    dag.add_node("t", lambda s, q, p: (s, q, p))
    dag.connect("s", "t", output="p").connect("s", "t", output="q").connect("s", "t")
    assert value(run, dag) == ({"p": 1, "q": 2}, 2, 1)


def test_output_without_a_parameter_of_its_name_goes_by_the_source(run: Any) -> None:
    dag = DAG("d").add_node("s", lambda: {"p": 1}).add_node("t", lambda x=0, s=0: (x, s))
    assert value(run, dag.connect("s", "t", output="p")) == (0, 1)


def test_parameters_with_defaults_are_fed_in_their_order(run: Any) -> None:
    dag = into(lambda p=1, q=2: (p, q), "a").connect("a", "t")
    assert value(run, dag) == ("a", 2)


def test_input_says_which(run: Any) -> None:
    dag = into(lambda x, y: (x, y), "x", "a").connect("x", "t", input="y").connect("a", "t")
    assert value(run, dag) == ("a", "x")


def test_first_parameter_that_nothing_feeds_may_stand_before_a_fed_one(run: Any) -> None:
    dag = into(lambda p, q: (p, q), "a", "b").connect("a", "t", input="q").connect("b", "t")
    assert value(run, dag) == ("b", "a")


def test_two_edges_between_two_nodes_feed_two_parameters(run: Any) -> None:
    dag = into(lambda x, y: (x, y), "a").connect("a", "t").connect("a", "t", input="y")
    assert value(run, dag) == ("a", "a")


def test_edge_said_twice_feeds_one_parameter(run: Any) -> None:
    dag = into(lambda x, y=2: (x, y), "a").connect("a", "t").connect("a", "t")
    assert value(run, dag) == ("a", 2)


def test_context_parameter_is_passed_over(run: Any) -> None:
    def target(context: Context, x):
        return isinstance(context, Context), x

    assert value(run, into(target, "a").connect("a", "t")) == (True, "a")


def test_node_of_a_context_only_has_no_parameter_for_an_edge(run: Any) -> None:
    def target(context: Context):
        return context.get("a")

    dag = into(target, "a").connect("a", "t")
    assert value(run, dag) == "a"
    assert repr(dag.graph.incoming("t")) == "[<edge a -> t>]"


def test_no_edge_can_feed_the_context() -> None:
    def target(context: Context, x):
        return x

    dag = into(target, "context")
    with pytest.raises(ValidationError, match="filled by the engine") as caught:
        dag.connect("context", "t", input="context")
    assert (caught.value.node, caught.value.parameter) == ("t", "context")
    dag.connect("context", "t")
    assert dag.run() == "context"


def test_no_edge_can_feed_the_call_id() -> None:
    def target(call_id: str, x=None):
        return x

    dag = into(target, "call_id")
    with pytest.raises(ValidationError, match="filled by the engine"):
        dag.connect("call_id", "t", input="call_id")
    with pytest.raises(ValidationError, match="filled by the engine") as caught:
        dag.connect("call_id", "t")
    assert (caught.value.node, caught.value.parameter) == ("t", "call_id")
    dag.connect("call_id", "t", input="x")
    assert dag.run() == "call_id"


@pytest.mark.parametrize("kind", ["node", "condition", "select"])
def test_nothing_left_is_an_error_at_once(kind: str) -> None:
    dag = into(lambda p, q: p, "a", "b", "c", kind=kind).connect("a", "t").connect("b", "t")
    with pytest.raises(ValidationError, match="no parameter of 't' is left for 'c'") as caught:
        dag.connect("c", "t")
    assert "'p' by 'a', 'q' by 'b'" in str(caught.value)
    assert (caught.value.node, caught.value.sources) == ("t", ("c",))
    assert len(list(dag.graph.edges())) == 2


@pytest.mark.parametrize("kind", ["any", "all"])
def test_nothing_left_of_several_is_an_error_for_joins_too(kind: str) -> None:
    dag = into(lambda p, q: p, "a", "b", "c", kind=kind).connect("a", "t").connect("b", "t")
    with pytest.raises(ValidationError, match="say which with connect"):
        dag.connect("c", "t")


def test_one_parameter_of_an_any_takes_every_edge(run: Any) -> None:
    dag = into(lambda x: x, "a", "b", kind="any").connect("a", "t").connect("b", "t")
    assert run(dag) in ("a", "b")


def test_one_parameter_of_an_all_takes_every_edge(run: Any) -> None:
    dag = into(lambda x: x, "a", "b", kind="all").connect("a", "t").connect("b", "t")
    assert value(run, dag) == {"a": "a", "b": "b"}


@pytest.mark.parametrize("kind", ["node", "condition", "any", "all"])
def test_node_without_parameters_takes_edges_that_only_order(run: Any, kind: str) -> None:
    dag = into(lambda: True, "a", "b", kind=kind)
    [dag.nodes["a"], dag.nodes["b"]] >> dag.nodes["t"]
    assert value(run, dag) is True
    assert [edge.input for edge in dag.graph.incoming("t")] == [None, None]


def test_unknown_input_is_an_error_with_the_closest_parameter() -> None:
    dag = into(lambda value: value, "a")
    with pytest.raises(ValidationError, match="did you mean 'value'") as caught:
        dag.connect("a", "t", input="valeu")
    assert (caught.value.node, caught.value.parameter) == ("t", "valeu")


def test_input_of_a_node_without_parameters_is_an_error() -> None:
    with pytest.raises(ValidationError, match="takes no value at all"):
        into(lambda: 1, "a").connect("a", "t", input="x")


@pytest.mark.parametrize("wrong", [True, 3, ["x"]])
def test_input_is_a_name_or_false(wrong: Any) -> None:
    with pytest.raises(ValidationError, match="parameter's name, or False"):
        into(lambda x: 1, "a").connect("a", "t", input=wrong)


@pytest.mark.parametrize("wrong", ["", 3, False])
def test_output_is_a_name(wrong: Any) -> None:
    with pytest.raises(ValidationError, match="is no name"):
        into(lambda x: 1, "a").connect("a", "t", output=wrong)


# Edges that only order.


def order_only(dag: DAG, how: str) -> DAG:
    a, t = dag.nodes["a"], dag.nodes["t"]
    if how == "connect":
        return dag.connect(a, t, input=False)
    assert t.after(a) is t
    return dag


@pytest.mark.parametrize("how", ["connect", "after"])
def test_edge_that_only_orders_carries_nothing(run: Any, how: str) -> None:
    dag = order_only(into(lambda x=5: x, "a"), how)
    assert value(run, dag) == 5
    assert run(dag, x=6, outputs=["t"]) == {"t": 6}


@pytest.mark.parametrize("how", ["connect", "after"])
def test_edge_that_only_orders_leaves_its_parameter_to_others(run: Any, how: str) -> None:
    dag = order_only(into(lambda x: x, "a", "b"), how).connect("b", "t")
    assert value(run, dag) == "b"


@pytest.mark.same_process
def test_after_orders_nodes(run: Any) -> None:
    seen: list[str] = []
    dag = DAG("d")
    for name in ("c", "b", "a"):
        dag.add_node(name, lambda name=name: seen.append(name))
    dag.nodes["b"].after(dag.nodes["a"])
    dag.nodes["c"].after(dag.nodes["a"], dag.nodes["b"])
    run(dag)
    assert seen == ["a", "b", "c"]


def test_after_takes_a_branch(run: Any) -> None:
    dag = DAG("d").add_node("check", lambda x: x > 1, type="condition")
    dag.add_node("then", lambda: "done")
    dag.nodes["then"].after(dag.nodes["check"].on_true)
    assert run(dag, x=2) == "done"
    assert run(dag, x=1, outputs=["then"]) == {}


@pytest.mark.process_mode
def test_edge_that_only_orders_skips_when_its_source_failed(execute: Any) -> None:
    dag = DAG("d").add_node("a", lambda: 1 / 0).add_node("t", lambda: 1)
    dag.nodes["t"].after(dag.nodes["a"])
    assert execute(dag, error_strategy="continue").statuses == {"a": "failed", "t": "skipped"}


# What an edge carries.


def carried(source: Any, output: str | None = None, **options: Any) -> DAG:
    dag = DAG("d").add_node("s", source, **options).add_node("t", lambda x: x)
    return dag.connect("s", "t", output=output)


class Named(NamedTuple):
    p: int
    q: int


@pytest.mark.parametrize(
    "whole",
    [{"p": 1}, (1, 2), [1, 2], "text", None, 0, Point(1), (), {}],
    ids=repr,
)
def test_without_output_the_whole_value_flows(run: Any, whole: Any) -> None:
    assert run(carried(lambda: whole)) == whole


def test_declared_outputs_do_not_change_what_flows_whole(run: Any) -> None:
    assert run(carried(lambda: (1, 2), outputs=["p", "q"])) == (1, 2)


@pytest.mark.parametrize("mapping", [dict, OrderedDict, UserDict], ids=lambda each: each.__name__)
def test_output_takes_a_key_of_a_mapping(run: Any, mapping: Any) -> None:
    assert run(carried(lambda: mapping({"p": 1, "q": 2}), "q")) == 2


def test_output_takes_an_attribute(run: Any) -> None:
    assert run(carried(lambda: Point(3, 4), "y")) == 4


def test_output_prefers_a_key_to_an_attribute(run: Any) -> None:
    assert run(carried(lambda: {"items": 3}, "items")) == 3


@pytest.mark.process_mode
def test_output_takes_an_element_of_a_tuple_with_declared_outputs(run: Any) -> None:
    assert run(carried(lambda: (1, 2, 3), "q", outputs=["p", "q", "r"])) == 2


def test_output_takes_a_field_of_a_named_tuple(run: Any) -> None:
    assert run(carried(lambda: Named(1, 2), "q")) == 2


def test_output_takes_a_declared_key_of_a_mapping(run: Any) -> None:
    assert run(carried(lambda: {"p": 1, "q": 2}, "q", outputs=["q", "p"])) == 2


def test_output_that_is_none_is_a_value(run: Any) -> None:
    assert run(carried(lambda: {"p": None}, "p")) is None


def test_outputs_go_to_several_consumers(run: Any) -> None:
    dag = DAG("d").add_node("split", lambda: ([1, 2], [3]), outputs=["train", "test"])
    dag.add_node("fit", lambda train: sum(train, 0)).add_node(
        "score", lambda fit, test: (fit, test)
    )
    dag.connect("split", "fit", output="train").connect("split", "score", output="test")
    dag.connect("fit", "score")
    assert run(dag) == (3, [3])


def test_output_that_the_source_does_not_declare_is_an_error_at_once() -> None:
    dag = DAG("d").add_node("s", lambda: (1, 2), outputs=["train", "test"])
    dag.add_node("t", lambda x: x)
    with pytest.raises(ValidationError, match="did you mean 'train'") as caught:
        dag.connect("s", "t", output="trian")
    assert (caught.value.source, caught.value.target) == ("s", "t")
    assert list(dag.graph.edges()) == []
