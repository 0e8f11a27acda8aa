"""The mutable graph itself: edges on both sides, versions, and nothing half done."""

from __future__ import annotations

from typing import Any

import pytest

from fast_dag import InvalidNodeError, Node, ValidationError
from fast_dag.define.graph import Graph
from fast_dag.errors import UnknownNodeError


def graph(*names: str) -> Graph:
    made = Graph("g")
    for name in names:
        made.add(Node(lambda x=0, y=0: x, name))
    return made


def seen(each: Graph) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """All edges as the nodes see them: into them, and out of them."""
    return (
        {name: [repr(edge) for edge in each.incoming(name)] for name in each.nodes},
        {name: [repr(edge) for edge in each.outgoing(name)] for name in each.nodes},
    )


def consistent(each: Graph) -> bool:
    """Every edge is known at both of its ends, as one object."""
    into = [id(edge) for name in each.nodes for edge in each.incoming(name)]
    out = [id(edge) for name in each.nodes for edge in each.outgoing(name)]
    return sorted(into) == sorted(out) == sorted(id(edge) for edge in each.edges())


def test_edge_is_known_at_both_ends() -> None:
    g = graph("a", "b")
    g.connect("a", "b")
    (edge,) = g.edges()
    assert g.outgoing("a") == [edge] == g.incoming("b")
    assert (edge.source, edge.target, edge.input, edge.output, edge.branch) == (
        "a",
        "b",
        "x",
        None,
        None,
    )


def test_repr_of_an_edge_tells_all_of_it() -> None:
    g = graph("b")
    check = g.add(Node(lambda x: x, "check", type="condition"))
    g.connect(check.on_true, "b", output="p", input="y")
    g.connect("check", "b", input=False)
    assert [repr(edge) for edge in g.edges()] == [
        "<edge check.p[True] -> b.y>",
        "<edge check -> b>",
    ]


@pytest.mark.parametrize(
    "edit",
    [
        lambda g: g.add(Node(len, "new")),
        lambda g: g.add(Node(lambda x=0: x, "a"), replace=True),
        lambda g: g.remove("a"),
        lambda g: g.connect("b", "a"),
        lambda g: g.disconnect("a", "b"),
    ],
    ids=["add", "replace", "remove", "connect", "disconnect"],
)
def test_every_edit_changes_the_version(edit: Any) -> None:
    g = graph("a", "b")
    g.connect("a", "b")
    before = g.version
    edit(g)
    assert g.version > before
    assert consistent(g)


@pytest.mark.parametrize(
    "edit",
    [
        lambda g: g.add(Node(len, "a")),
        lambda g: g.add(Node(lambda: 1, "b"), replace=True),
        lambda g: g.remove("c"),
        lambda g: g.connect("a", "b", input="z"),
        lambda g: g.connect("a", "c"),
        lambda g: g.disconnect("b", "a"),
        lambda g: g.connect("a", "b", output=""),
    ],
    ids=["add", "replace", "remove", "connect", "connect to", "disconnect", "output"],
)
def test_refused_edit_changes_nothing(edit: Any) -> None:
    g = graph("a", "b")
    g.connect("a", "b", input="y")
    before, version, nodes = seen(g), g.version, dict(g.nodes)
    with pytest.raises(ValidationError):
        edit(g)
    assert (seen(g), g.version, g.nodes) == (before, version, nodes)
    assert consistent(g)


def test_removed_node_leaves_no_edge_behind() -> None:
    g = graph("a", "b", "c")
    g.connect("a", "b")
    g.connect("b", "c")
    g.connect("b", "b")
    g.remove("b")
    assert seen(g) == ({"a": [], "c": []}, {"a": [], "c": []})


def test_removed_node_belongs_to_no_graph() -> None:
    g = graph("a")
    node = g.nodes["a"]
    g.remove(node)
    assert node.graph is None
    with pytest.raises(InvalidNodeError, match="belongs to no DAG"):
        g.node(node)


def test_replaced_node_belongs_to_no_graph() -> None:
    g = graph("a")
    old = g.nodes["a"]
    new = g.add(Node(len, "a"), replace=True)
    assert (old.graph, new.graph, g.nodes["a"]) == (None, g, new)


def test_replacing_a_node_with_an_edge_to_itself_keeps_both_ends() -> None:
    g = graph("a", "b")
    g.connect("a", "a")
    g.connect("a", "b")
    g.add(Node(lambda p=0: p, "a"), replace=True)
    assert consistent(g)
    assert [repr(edge) for edge in g.edges()] == ["<edge a -> a.p>", "<edge a -> b.x>"]


def test_edge_that_is_there_is_not_added_again() -> None:
    g = graph("a", "b")
    for again in range(3):
        g.connect("a", "b")
        g.nodes["a"] >> g.nodes["b"]
        assert [edge.input for edge in g.incoming("b")] == ["x"], again
    version = g.version
    g.connect("a", "b", input="x")
    assert g.version == version
    g.disconnect("a", "b")
    assert list(g.edges()) == []
    assert consistent(g)


def test_order_only_edge_is_added_once() -> None:
    g = graph("a", "b")
    g.connect("a", "b", input=False)
    g.nodes["b"].after(g.nodes["a"])
    assert [edge.input for edge in g.incoming("b")] == [None]
    g.connect("a", "b")
    assert [edge.input for edge in g.incoming("b")] == [None, "x"]


def test_edges_of_other_parameters_outputs_and_branches_are_others() -> None:
    g = Graph("g")
    g.add(Node(lambda: 1, "a"))
    g.add(Node(lambda x: x, "check", type="condition"))
    g.add(Node(lambda *values: values, "b"))
    g.add(Node(lambda x, y, z: x, "c"))
    for _ in range(2):
        g.connect("a", "c")
        g.connect("a", "c", input="y")
        g.connect("a", "c", output="k")
        g.connect("a", "b", input="values")
        g.connect("a", "b")
        g.connect(g.nodes["check"].on_true, "b")
        g.connect(g.nodes["check"].on_false, "b")
    assert [(edge.input, edge.output) for edge in g.incoming("c")] == [
        ("x", None),
        ("y", None),
        ("z", "k"),
    ]
    assert [(edge.input, edge.branch) for edge in g.incoming("b")] == [
        ("*values", None),
        ("*values", True),
        ("*values", False),
    ]


def test_edge_into_a_node_of_many_edges_is_not_added_again() -> None:
    g = Graph("g")
    g.add(Node(lambda *values: values, "all"))
    for number in range(40):
        g.add(Node(lambda: 1, f"s{number}"))
    for _ in range(2):
        for number in range(40):
            g.connect(f"s{number}", "all")
    assert len(g.incoming("all")) == 40
    g.remove("s7")
    g.add(Node(lambda: 1, "s7"))
    g.connect("s7", "all")
    assert [edge.source for edge in g.incoming("all")][-2:] == ["s39", "s7"]


def test_replaced_node_stands_for_what_took_its_place() -> None:
    g = graph("a", "b")
    old = g.nodes["b"]
    new = g.add(Node(lambda x: x, "b"), replace=True)
    assert g.node(old) is new
    g.nodes["a"] >> old
    assert [edge.input for edge in g.incoming("b")] == ["x"]
    g.remove("b")
    with pytest.raises(InvalidNodeError, match="belongs to no DAG"):
        g.node(old)


def test_parameters_stay_free_and_fed_with_many_edges() -> None:
    names = [f"p{number}" for number in range(40)]
    scope: dict[str, Any] = {}
    exec(f"def f({', '.join(names)}): ...", scope)
    g = Graph("g")
    g.add(Node(scope["f"], "f"))
    for number in range(40):
        g.add(Node(lambda: 1, f"s{number}"))
        g.connect(f"s{number}", "f")
    assert [edge.input for edge in g.incoming("f")] == names
    g.add(Node(lambda: 1, "more"))
    with pytest.raises(ValidationError, match="no parameter of 'f' is left"):
        g.connect("more", "f")
    g.disconnect("s7", "f")
    g.connect("more", "f")
    assert g.incoming("f")[-1].input == "p7"
    g.remove("s3")
    g.connect("s1", "f", output="k")
    assert g.incoming("f")[-1].input == "p3"


def test_nodes_are_found_by_name_and_by_themselves() -> None:
    g = graph("a")
    assert g.node("a") is g.node(g.nodes["a"]) is g.nodes["a"]
    with pytest.raises(UnknownNodeError):
        g.node("b")
    with pytest.raises(InvalidNodeError, match="belongs to another one of that name, not to 'g'"):
        g.node(graph("a").nodes["a"])


def test_copy_shares_no_node_and_no_list() -> None:
    g, other = graph("a", "b"), Graph("other")
    g.connect("a", "b")
    g.copy_into(other)
    assert seen(other) == seen(g)
    assert consistent(other)
    other.disconnect("a", "b")
    other.remove("a")
    assert seen(g)[0]["b"] == ["<edge a -> b.x>"]
    assert g.nodes["b"] is not other.nodes["b"]
