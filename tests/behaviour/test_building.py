"""Every way to define a graph, and to change it."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest

from fast_dag import (
    DAG,
    FSM,
    InvalidNodeError,
    MissingConnectionError,
    Node,
    NodeType,
    ValidationError,
)
from fast_dag.errors import UnknownNodeError
from tests.behaviour.support import Scale, add, double

DECORATORS = ["node", "condition", "select", "any", "all"]


# Decorators and add_node.


@pytest.mark.parametrize("kind", DECORATORS)
def test_decorator_works_without_parentheses(kind: str) -> None:
    dag = DAG("d")
    made = getattr(dag, kind)(double)
    assert isinstance(made, Node)
    assert made.type is NodeType(kind)
    assert dag.nodes["double"] is made


@pytest.mark.parametrize("kind", DECORATORS)
def test_decorator_works_with_empty_parentheses(kind: str) -> None:
    dag = DAG("d")
    made = getattr(dag, kind)()(double)
    assert made.type is NodeType(kind)
    assert dag.nodes["double"] is made


def test_cached_node_works_with_and_without_parentheses() -> None:
    dag = DAG("d")
    made = [dag.cached_node(add), dag.cached_node()(double), dag.cached_node(name="c")(double)]
    assert list(dag.nodes.values()) == made
    assert {node.type for node in made} == {NodeType.NODE}
    assert made[0](1, 2) == 3


@pytest.mark.parametrize("kind", DECORATORS)
def test_decorator_takes_options(kind: str) -> None:
    dag = DAG("d")
    made = getattr(dag, kind)(
        name="twice",
        description="doubles",
        inputs=["value"],
        outputs=["result"],
        metadata={"team": "blue"},
        retry=2,
        retry_delay=0.5,
        retry_backoff=1.5,
        retry_max_delay=4.0,
        retry_jitter=True,
        retry_on=ValueError,
        timeout=3.0,
        run_in="thread",
    )(double)
    assert dag.nodes["twice"] is made
    assert (made.name, made.description, made.inputs, made.outputs) == (
        "twice",
        "doubles",
        ("value",),
        ("result",),
    )
    assert (made.metadata, made.retry, made.timeout, made.run_in) == (
        {"team": "blue"},
        2,
        3.0,
        "thread",
    )


def test_add_node_returns_the_dag() -> None:
    dag = DAG("d")
    assert dag.add_node("a", add) is dag
    assert dag.add_node(Node(double)) is dag
    assert list(dag) == ["a", "double"]


def test_add_node_takes_options_and_a_type() -> None:
    dag = DAG("d").add_node("a", double, type="condition", retry=2, description="is it?")
    node = dag.nodes["a"]
    assert (node.type, node.retry, node.description) == (NodeType.CONDITION, 2, "is it?")


def test_add_node_takes_a_node_as_it_is() -> None:
    node = Node(double, "twice", retry=1)
    dag = DAG("d").add_node(node)
    assert dag.nodes["twice"] is node


def test_add_node_takes_a_node_under_another_name() -> None:
    dag = DAG("d").add_node("other", Node(double, "twice", retry=1))
    assert list(dag) == ["other"]
    assert dag.nodes["other"].retry == 1


def test_node_of_another_dag_lends_its_function_and_options() -> None:
    one, two = DAG("one"), DAG("two")
    made = one.node(retry=2, name="twice")(double)
    two.add_node(made)
    lent = two.nodes["twice"]
    assert lent is not made
    assert (lent.func, lent.retry) == (double, 2)
    assert one.nodes["twice"] is made


def test_decorators_of_two_dags_stack() -> None:
    one, two = DAG("one"), DAG("two")

    @two.node
    @one.node(retry=2)
    def load(x):
        return x + 1

    assert list(one) == list(two) == ["load"]
    assert one.nodes["load"] is not two.nodes["load"]
    assert two.nodes["load"].retry == 2
    assert one.run(x=1) == two.run(x=1) == load(1) == 2


def test_type_of_a_lent_node_is_that_of_the_new_decorator() -> None:
    one, two = DAG("one"), DAG("two")
    lent = two.condition(one.node(double))
    assert lent.type is NodeType.CONDITION
    assert one.nodes["double"].type is NodeType.NODE


def test_one_node_in_one_dag_under_two_names_is_two_nodes() -> None:
    dag = DAG("d")
    node = dag.node(double)
    dag.add_node("again", node).connect(node, "again")
    assert dag.run(x=3) == 12


def test_node_keeps_what_its_function_was() -> None:
    def load(path: str, *, limit: int = 3) -> list[int]:
        """Read it."""

    node = DAG("d").node(load)
    assert node.__name__ == "load"
    assert node.__doc__ == "Read it."
    assert node.__wrapped__ is load
    assert inspect.signature(node) == inspect.signature(load)


def test_description_is_the_first_line_of_the_docstring() -> None:
    assert Node(double).description == "Twice of it."
    assert Node(lambda: 1, "none").description == ""
    assert Node(double, description="").description == ""


def test_node_in_a_class_body_is_a_method() -> None:
    dag = DAG("d")

    class Loader:
        factor = 3

        @dag.node
        def load(self, x):
            return self.factor * x

    assert Loader().load(2) == 6
    assert isinstance(Loader.load, Node)


@pytest.mark.parametrize(
    ("func", "name"),
    [
        (double, "double"),
        (Scale, "Scale"),
        (Scale(2), "Scale"),
        (Scale(2).method, "method"),
        (len, "len"),
    ],
)
def test_node_is_named_after_its_function(func: Any, name: str) -> None:
    assert Node(func).name == name


def test_dag_keeps_description_and_metadata() -> None:
    given = {"team": "blue"}
    dag = DAG("d", description="for tests", metadata=given)
    dag.metadata["more"] = 1
    assert (dag.name, dag.description) == ("d", "for tests")
    assert dag.metadata == {"team": "blue", "more": 1}
    assert given == {"team": "blue"}


@pytest.mark.parametrize("name", ["", None, 3])
def test_name_of_a_dag_is_a_string_with_something_in_it(name: Any) -> None:
    with pytest.raises(ValidationError, match="non-empty string"):
        DAG(name)


@pytest.mark.parametrize("name", ["with space", "größe", "class", "a-b"])
def test_name_of_a_node_may_be_any_string_without_a_dot(run: Any, name: str) -> None:
    dag = DAG("d").add_node(name, lambda: 1).add_node("after", lambda x: x + 1)
    assert run(dag.connect(name, "after")) == 2


# What a graph shows.


def test_len_iter_and_in_are_about_the_nodes() -> None:
    dag = DAG("d").add_node("b", add).add_node("a", add)
    assert len(dag) == 2
    assert list(dag) == ["b", "a"]
    assert "a" in dag.nodes
    assert "c" not in dag.nodes


def test_empty_dag_is_true() -> None:
    assert len(DAG("d")) == 0
    assert bool(DAG("d")) is True


def test_nodes_cannot_be_set_past_the_methods() -> None:
    dag = DAG("d").add_node("a", add)
    with pytest.raises(TypeError):
        dag.nodes["b"] = dag.nodes["a"]  # type: ignore[index]


def test_repr_tells_what_things_are() -> None:
    dag = DAG("shop").add_node("a", lambda: 1).add_node("is_big", double, type="condition")
    dag.connect("a", "is_big")
    assert repr(dag) == "<DAG 'shop': 2 nodes, 1 edges>"
    assert repr(dag.nodes["is_big"]) == "<condition 'is_big' of 'shop'(x)>"
    assert "is_big" in repr(dag.nodes["is_big"].on_true)
    assert "True" in repr(dag.nodes["is_big"].on_true)
    assert "shop" in repr(dag.execute())
    dag.add_node("told", lambda amount, text="": text)
    assert repr(dag.signature) == "<signature (amount, text)>"
    assert repr(dag.graph) == "<graph of 'shop': 3 nodes>"


# Edges by operators.


def sums(*names: str) -> DAG:
    """Nodes that each add one to the sum of what they get."""
    dag = DAG("sums")
    for name in names:
        dag.add_node(name, lambda x=0, y=0: x + y + 1)
    return dag


def edges(dag: DAG) -> list[str]:
    return [repr(edge) for edge in dag.graph.edges()]


def test_arrow_chains(run: Any) -> None:
    dag = sums("a", "b", "c")
    a, b, c = dag.nodes.values()
    assert (a >> b >> c) is c
    assert edges(dag) == ["<edge a -> b.x>", "<edge b -> c.x>"]
    assert run(dag) == 3


@pytest.mark.parametrize("collection", [list, tuple])
def test_arrow_fans_out_and_in(run: Any, collection: Any) -> None:
    dag = sums("a", "b", "c", "d")
    a, b, c, d = dag.nodes.values()
    a >> collection([b, c])
    collection([b, c]) >> d
    assert edges(dag) == [
        "<edge a -> b.x>",
        "<edge a -> c.x>",
        "<edge b -> d.x>",
        "<edge c -> d.y>",
    ]
    assert run(dag) == 5


def test_arrow_between_lists_goes_through_a_node() -> None:
    dag = sums("a", "b", "c", "d", "e")
    a, b, c, d, e = dag.nodes.values()
    [a, b] >> c >> [d, e]
    assert dag.execution_order == ["a", "b", "c", "d", "e"]
    assert dag.run(outputs=["d", "e"]) == {"d": 4, "e": 4}


@pytest.mark.parametrize("wrong", ["b", None, 3, double])
def test_arrow_to_what_is_no_node_is_refused(wrong: Any) -> None:
    dag = sums("a")
    with pytest.raises((InvalidNodeError, TypeError)):
        dag.nodes["a"] >> wrong
    with pytest.raises((InvalidNodeError, TypeError)):
        wrong >> dag.nodes["a"]


def test_connect_takes_names_and_nodes_and_returns_the_dag(run: Any) -> None:
    dag = sums("a", "b", "c")
    assert dag.connect("a", dag.nodes["b"]).connect(dag.nodes["b"], "c") is dag
    assert run(dag) == 3


def test_node_of_another_dag_cannot_be_connected() -> None:
    one, two = sums("a"), sums("b")
    with pytest.raises(InvalidNodeError, match="belongs to another one of that name") as caught:
        one.nodes["a"] >> two.nodes["b"]
    assert caught.value.node == "b"
    assert edges(one) == edges(two) == []


def test_node_of_no_dag_cannot_be_connected() -> None:
    with pytest.raises(InvalidNodeError, match=r"add_node\(node\)") as caught:
        Node(double) >> Node(add)
    assert caught.value.node == "double"


# Changing a graph.


def test_replaced_node_keeps_its_edges_and_its_place(run: Any) -> None:
    dag = sums("a", "b", "c")
    dag.connect("a", "b").connect("b", "c")
    assert dag.replace_node("b", lambda x: 10 * x) is dag
    assert list(dag) == ["a", "b", "c"]
    assert run(dag) == 11


def test_replacing_by_the_decorator_keeps_edges(run: Any) -> None:
    dag = sums("a", "b", "c")
    dag.connect("a", "b").connect("b", "c")

    @dag.node(replace=True)
    def b(x):
        return 10 * x

    assert dag.nodes["b"] is b
    assert run(dag) == 11


def test_replacing_by_add_node_keeps_edges(run: Any) -> None:
    dag = sums("a", "b", "c")
    dag.connect("a", "b").connect("b", "c")
    assert run(dag.add_node("b", lambda x: 10 * x, replace=True)) == 11


def test_cells_of_a_notebook_can_be_run_again(run: Any) -> None:
    dag = DAG("notebook")
    for factor in (2, 3):

        @dag.node(replace=True)
        def load():
            return 1

        @dag.node(replace=True)
        def scale(load, factor=factor):
            return factor * load

        if factor == 2:
            load >> scale
    assert run(dag) == 3


def test_replacement_finds_ports_anew_where_connect_found_them(run: Any) -> None:
    dag = DAG("d").add_node("a", lambda: 1).add_node("b", lambda: 2)
    dag.add_node("c", lambda x, y: (x, y)).connect("a", "c").connect("b", "c")
    assert run(dag.replace_node("c", lambda b, a: {"a": a, "b": b})) == {"a": 1, "b": 2}


def test_replacement_keeps_ports_that_were_asked_for(run: Any) -> None:
    dag = DAG("d").add_node("a", lambda: 1).add_node("c", lambda x, y=0: (x, y))
    dag.connect("a", "c", input="y")
    assert run(dag.replace_node("c", lambda z=5, y=6: (z, y))) == (5, 1)


def test_replacement_that_edges_do_not_fit_changes_nothing() -> None:
    dag = sums("a", "b", "c")
    dag.connect("a", "c").connect("b", "c", input="y")
    before, node = edges(dag), dag.nodes["c"]
    with pytest.raises(ValidationError, match="'y'"):
        dag.replace_node("c", lambda x: x)
    assert edges(dag) == before
    assert dag.nodes["c"] is node
    assert dag.run() == 3


def pair(function: Any = lambda x, y=0: (x, y)) -> DAG:
    """A node that feeds the first parameter of another."""
    return DAG("d").add_node("a", lambda: 1).add_node("c", function).connect("a", "c")


@pytest.mark.parametrize(
    "replace",
    [
        lambda dag, function: dag.replace_node("c", function),
        lambda dag, function: dag.add_node("c", function, replace=True),
        lambda dag, function: dag.node(name="c", replace=True)(function),
    ],
    ids=["replace_node", "add_node", "decorator"],
)
@pytest.mark.parametrize(
    "function",
    [lambda z, w: z, lambda y: y, lambda z, w, *rest: z],
    ids=["new ones", "the other one", "*args"],
)
def test_edge_of_a_lost_parameter_is_never_moved_to_a_free_one(replace: Any, function: Any) -> None:
    dag = pair()
    before, node, version = edges(dag), dag.nodes["c"], dag.version
    with pytest.raises(ValidationError) as caught:
        replace(dag, function)
    told, free = str(caught.value), ", ".join(map(repr, Node(function, "c").inputs))
    assert "the edge 'a' -> 'c' feeds 'x'" in told
    assert f"it takes {free}." in told
    assert "disconnect('a', 'c')" in told
    facts = (caught.value.node, caught.value.parameter, caught.value.sources)
    assert facts == ("c", "x", ("a",))
    assert (edges(dag), dag.nodes["c"], dag.version) == (before, node, version)


def test_what_the_error_of_a_lost_parameter_says_to_do_helps(run: Any) -> None:
    dag = pair().disconnect("a", "c").replace_node("c", lambda z, w=0: (z, w))
    assert run(dag.connect("a", "c", input="w"), z=5) == (5, 1)


def test_edge_stays_at_its_parameter_wherever_that_stands(run: Any) -> None:
    dag = DAG("d").add_node("a", lambda: 1).add_node("b", lambda: 2)
    dag.add_node("c", lambda x, y: (x, y)).connect("a", "c").connect("b", "c")
    assert run(dag.replace_node("c", lambda y, a=0, *, x: (x, y, a))) == (1, 2, 0)


@pytest.mark.parametrize(
    ("function", "edge", "value"),
    [
        (lambda value: value, "<edge a -> c.value>", 1),
        (lambda w=5, *, a: (w, a), "<edge a -> c.a>", (5, 1)),
        (lambda *all: all, "<edge a -> c.*all>", (1,)),
        (lambda **named: named, "<edge a -> c.x>", {"x": 1}),
        (lambda *all, **named: (all, named), "<edge a -> c.x>", ((), {"x": 1})),
        (lambda: "after", "<edge a -> c>", "after"),
    ],
    ids=["the only one", "named like the source", "*args", "**kwargs", "both", "none"],
)
def test_edge_of_a_lost_parameter_finds_the_only_place_there_is(
    run: Any, function: Any, edge: str, value: Any
) -> None:
    dag = pair().replace_node("c", function)
    assert edges(dag) == [edge]
    assert run(dag) == value


def test_edge_into_args_stays_in_args_of_another_name(run: Any) -> None:
    dag = pair(lambda *all: all).replace_node("c", lambda w=5, *rest: (w, rest))
    assert edges(dag) == ["<edge a -> c.*rest>"]
    with pytest.raises(ValidationError, match=r"feeds '\*rest'"):
        dag.replace_node("c", lambda x, y: x)


def test_several_edges_into_one_parameter_stay_where_a_join_takes_them() -> None:
    dag = DAG("d").add_node("a", lambda: 1).add_node("b", lambda: 2)
    dag.add_node("c", lambda values: values, type="all").connect("a", "c").connect("b", "c")
    with pytest.raises(ValidationError, match="'a' does already"):
        dag.replace_node("c", lambda values: values)
    dag.replace_node("c", lambda values: [*values], type="all")
    assert dag.run() == ["a", "b"]


def test_replacement_has_type_and_options_of_its_own_and_the_surroundings_of_its_name() -> None:
    told = []
    dag = pair().add_node("c", lambda x: x, type="any", retry=2, replace=True)
    dag.set_node_hooks("c", cleanup=lambda node: told.append(node.name))
    dag.set_node_error_handler("c", lambda node, inputs, error: "handled")
    dag.replace_node("c", lambda x: x // 0)
    assert (dag.nodes["c"].type, dag.nodes["c"].retry) == (NodeType.NODE, 0)
    assert dag.run() == "handled"
    assert told == ["c"]


def test_replacing_an_unknown_node_is_an_error() -> None:
    with pytest.raises(UnknownNodeError, match="did you mean 'load'"):
        DAG("d").add_node("load", add).replace_node("laod", double)


def test_decider_with_branches_is_replaced_by_its_like_only(run: Any) -> None:
    dag = DAG("d").add_node("check", lambda x: x > 1, type="condition")
    dag.add_node("yes", lambda x: "yes")
    dag.connect(dag.nodes["check"].on_true, "yes")
    with pytest.raises(InvalidNodeError, match="yes") as caught:
        dag.replace_node("check", lambda x: x)
    assert caught.value.node == "check"
    dag.replace_node("check", lambda x: x > 5, type="condition")
    assert run(dag, x=3) is None
    assert run(dag, x=6) == "yes"


def test_removed_node_takes_its_edges_along(run: Any) -> None:
    dag = sums("a", "b", "c")
    dag.connect("a", "b").connect("b", "c").connect("a", "c")
    assert dag.remove_node("b") is dag
    assert list(dag) == ["a", "c"]
    assert edges(dag) == ["<edge a -> c.y>"]
    assert run(dag) == 2


def test_removed_node_leaves_its_name_free() -> None:
    dag = sums("a", "b")
    dag.remove_node(dag.nodes["b"]).add_node("b", double).connect("a", "b")
    assert dag.run() == 2


def test_removed_node_may_be_added_again() -> None:
    dag = sums("a", "b")
    node = dag.nodes["b"]
    dag.remove_node(node)
    assert dag.add_node(node).nodes["b"] is node


def test_removing_an_unknown_node_is_an_error() -> None:
    with pytest.raises(UnknownNodeError, match="has no node 'b'"):
        sums("a").remove_node("b")


def test_disconnected_parameter_is_free_again(run: Any) -> None:
    dag = sums("a", "b")
    dag.connect("a", "b")
    assert dag.disconnect("a", "b") is dag
    assert edges(dag) == []
    assert run(dag, x=5, outputs=["b"]) == {"b": 6}
    assert run(dag.connect("a", "b")) == 2


def test_disconnect_can_take_one_edge_of_several() -> None:
    dag = DAG("d").add_node("a", lambda: {"p": 1, "q": 2}).add_node("b", lambda x=0, y=0: (x, y))
    dag.connect("a", "b", output="p").connect("a", "b", output="q")
    dag.disconnect("a", "b", output="p")
    assert dag.run() == (0, 2)
    dag.connect("a", "b", output="p").disconnect("a", "b", input="y")
    assert dag.run() == (1, 0)


def test_disconnect_can_take_one_branch() -> None:
    dag = DAG("d").add_node("check", lambda x: x > 1, type="condition")
    dag.add_node("then", lambda value=None: f"then {value}", type="any")
    check, then = dag.nodes.values()
    check.on_true >> then
    check.on_false >> then
    dag.disconnect(check.on_false, then)
    assert dag.run(x=2) == "then 2"
    assert dag.execute(x=1).statuses["then"] == "skipped"


def test_disconnecting_what_is_not_connected_is_an_error() -> None:
    dag = sums("a", "b")
    dag.connect("a", "b")
    with pytest.raises(MissingConnectionError, match="no such edge from 'b' to 'a'") as caught:
        dag.disconnect("b", "a")
    assert (caught.value.source, caught.value.target) == ("b", "a")
    with pytest.raises(MissingConnectionError):
        dag.disconnect("a", "b", input="y")
    assert edges(dag) == ["<edge a -> b.x>"]


def test_clone_is_a_dag_of_its_own(run: Any) -> None:
    dag = DAG("d", description="for tests", metadata={"k": 1}, autowire=True)
    dag.add_node("a", lambda: 1, retry=1).add_node("b", lambda x, a: (x, a))
    dag.connect("a", "b", input="x")
    twin = dag.clone("twin")
    assert (twin.name, twin.description, twin.metadata) == ("twin", "for tests", {"k": 1})
    assert twin.nodes["a"].retry == 1
    assert twin.nodes["a"] is not dag.nodes["a"]
    assert run(twin) == run(dag)
    twin.remove_node("a").metadata["k"] = 2
    assert list(dag) == ["a", "b"]
    assert dag.metadata == {"k": 1}


def test_clone_keeps_branches_and_joins(run: Any) -> None:
    dag = DAG("d").add_node("check", lambda x: x > 1, type="condition")
    dag.add_node("yes", lambda x: "yes").add_node("no", lambda x: "no")
    dag.add_node("join", lambda value: value, type="any")
    check, yes, no, join = dag.nodes.values()
    check.on_true >> yes >> join
    check.on_false >> no >> join
    twin = dag.clone()
    assert twin.name == "d"
    assert (run(twin, x=2), run(twin, x=1)) == ("yes", "no")


class Pipeline(DAG):
    def __init__(self, name: str, source: str) -> None:
        super().__init__(name)
        self.source = source


class Game(FSM):
    rounds = 0


@pytest.mark.parametrize("copied", [lambda workflow: workflow.clone(), copy.copy])
def test_clone_is_of_the_same_class_and_has_its_attributes(copied: Any) -> None:
    pipeline, game = Pipeline("d", source="a.csv"), Game("f")
    game.rounds = 3
    twin, again = copied(pipeline), copied(game)
    assert (type(twin), twin.source) == (Pipeline, "a.csv")
    assert (type(again), again.rounds) == (Game, 3)


def test_a_copy_is_a_clone() -> None:
    dag = sums("a")
    twin = copy.copy(dag)
    twin.add_node("b", lambda: 1).set_default_hooks(cleanup=lambda: None)
    assert (list(dag), dag.default_hooks) == (["a"], {})
    with pytest.raises(ValidationError, match="name is a non-empty string"):
        dag.clone(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [DAG, FSM])
@pytest.mark.parametrize("given", [5, ["owner"]])
def test_metadata_that_is_no_mapping_is_refused(kind: Any, given: Any) -> None:
    with pytest.raises(ValidationError, match="metadata is a mapping, not"):
        kind("w", metadata=given)


@pytest.mark.parametrize("given", [5, "done"])
def test_terminal_states_that_are_no_list_are_refused(given: Any) -> None:
    with pytest.raises(ValidationError, match="terminal_states is a list of names, not"):
        FSM("f", terminal_states=given)


def test_clone_has_no_run_behind_it() -> None:
    dag = sums("a")
    dag.run()
    with pytest.raises(KeyError, match="has not run"):
        dag.clone()["a"]
    assert dag["a"] == 1
