"""Whatever the graph: every node and every edge is drawn exactly once."""

from __future__ import annotations

import os
import re
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from itertools import combinations
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_dag import DAG, FSM
from fast_dag.draw.layers import layered
from fast_dag.draw.layout import by_grandalf, by_layers
from fast_dag.draw.sketch import sketch
from fast_dag.draw.view import view_of
from tests.draw.conftest import needs_dot
from tests.properties import tries

if TYPE_CHECKING:
    from fast_dag.draw.layout import Layout

SVG = "{http://www.w3.org/2000/svg}"
CALM = tries(40)
Pairs = list[tuple[int, int]]


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, Pairs]:
    count = draw(st.integers(1, 12))
    pair = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1))
    return count, draw(st.lists(pair, max_size=24))


def dag_of(count: int, pairs: Pairs) -> DAG:
    dag = DAG("random")
    for number in range(count):
        dag.add_node(f"node {number}", lambda *values: values)
    for source, target in pairs:
        if source != target:
            dag.connect(f"node {min(source, target)}", f"node {max(source, target)}")
    return dag


def machine_of(count: int, pairs: Pairs) -> FSM:
    fsm = FSM("random", initial_state="node 0")
    for number in range(count):
        fsm.add_state(f"node {number}", lambda: 1)
    for source, target in pairs:
        fsm.add_transition(f"node {source}", f"node {target}")
    return fsm


def expected(workflow: DAG | FSM) -> Counter[tuple[str, str]]:
    if isinstance(workflow, FSM):
        return Counter((each.source, each.target) for each in workflow.transitions)
    return Counter((each.source, each.target) for each in workflow.graph.edges())


def drawn(text: str, node: str, edge: str) -> tuple[list[str], Counter[tuple[str, str]]]:
    """The names and pairs of names that a text draws, by two patterns."""
    ids = dict(re.findall(node, text, re.MULTILINE))
    found = re.findall(edge, text, re.MULTILINE)
    pairs = Counter((ids[a], ids[b]) for a, b in found if a in ids and b in ids)
    return sorted(re.findall(node, text, re.MULTILINE)), pairs  # type: ignore[return-value]


@CALM
@given(graphs())
def test_mermaid_has_each_node_and_edge_once(graph: tuple[int, Pairs]) -> None:
    for workflow in (dag_of(*graph), machine_of(*graph)):
        node, edge = r'^ +(n\d+)[\[(]+"([^"]+\d)"[\])]+$', r"^ +(n\d+) -->(?:\|.*\|)? (n\d+)$"
        found, pairs = drawn(workflow.visualize(), node, edge)
        assert sorted(name for _, name in found) == sorted(workflow.nodes)
        assert pairs == expected(workflow)


@CALM
@given(graphs())
def test_dot_has_each_node_and_edge_once(graph: tuple[int, Pairs]) -> None:
    for workflow in (dag_of(*graph), machine_of(*graph)):
        node, edge = r'^ +(n\d+) \[label="([^"]+)"', r"^ +(n\d+) -> (n\d+)(?: \[.*\])?$"
        found, pairs = drawn(workflow.visualize("graphviz"), node, edge)
        assert sorted(name for _, name in found) == sorted(workflow.nodes)
        assert pairs == expected(workflow)


@CALM
@given(graphs())
@patch.dict(os.environ, PATH="")
def test_svg_has_each_node_and_edge_once(graph: tuple[int, Pairs]) -> None:
    for workflow in (dag_of(*graph), machine_of(*graph)):
        tree = ET.fromstring(workflow.visualize("svg"))
        groups = [each.get("data-node") for each in tree.iter(f"{SVG}g")]
        assert sorted(groups) == sorted(workflow.nodes)  # type: ignore[type-var]
        starts = int(isinstance(workflow, FSM))
        assert sum(1 for _ in tree.iter(f"{SVG}path")) == expected(workflow).total() + starts


@pytest.mark.needs("grandalf")
@CALM
@given(graphs())
def test_links_end_at_their_boxes(graph: tuple[int, Pairs]) -> None:
    for workflow in (dag_of(*graph), machine_of(*graph)):
        picture = sketch(view_of(workflow))
        for place in (by_grandalf, by_layers):
            places: Layout = place(picture)
            for link, route in zip(picture.links(), places.routes, strict=True):
                ends = (link.source, route.points[0]), (link.target, route.points[-1])
                for name, (x, y) in ends:
                    area = places.areas[name]
                    assert abs(x - area.x) <= area.width / 2 + 0.5
                    assert abs(y - area.y) <= area.height / 2 + 0.5


@CALM
@given(graphs())
def test_boxes_of_any_graph_do_not_overlap(graph: tuple[int, Pairs]) -> None:
    for workflow in (dag_of(*graph), machine_of(*graph)):
        picture = sketch(view_of(workflow))
        places = by_layers(picture)
        boxes = [places.areas[box.id] for box in picture.boxes()]
        for one, other in combinations(boxes, 2):
            apart_x = abs(one.x - other.x) >= (one.width + other.width) / 2 - 0.5
            apart_y = abs(one.y - other.y) >= (one.height + other.height) / 2 - 0.5
            assert apart_x or apart_y
        assert all(box.x - box.width / 2 >= -0.5 for box in boxes)
        assert all(box.x + box.width / 2 <= places.width + 0.5 for box in boxes)


def test_nested_workflows_are_drawn_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = DAG("inner").add_node("x", lambda v: v).add_node("y", lambda v: v).connect("x", "y")
    middle = DAG("middle").add_node("a", inner).add_node("b", inner).connect("a", "b")
    outer = DAG("outer").add_node("s", lambda: 1).add_node("m", middle).connect("s", "m")
    monkeypatch.setenv("PATH", "")
    tree = ET.fromstring(outer.visualize("svg"))
    groups = sorted(each.get("data-node") or "" for each in tree.iter(f"{SVG}g"))
    assert groups == ["m", "m.a", "m.a.x", "m.a.y", "m.b", "m.b.x", "m.b.y", "s"]
    assert outer.visualize().count("-->") == 4
    assert outer.visualize("graphviz").count("->") == 4


# Many.


def many(kind: str) -> DAG:
    dag = DAG(kind).add_node("n0", lambda: 1)
    for number in range(1, 500):
        dag.add_node(f"n{number}", lambda *values: 1)
        source = {"chain": number - 1, "fan": 0, "tree": number // 2, "ladder": max(number - 3, 0)}
        if kind != "apart":
            dag.connect(f"n{source[kind]}", f"n{number}")
        if kind == "ladder":
            dag.connect(f"n{number - 1}", f"n{number}")
    return dag


@pytest.mark.one_in(3)
@pytest.mark.parametrize("kind", ["chain", "fan", "tree", "ladder", "apart"])
def test_500_nodes_are_drawn(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dag = many(kind)
    text = dag.visualize()
    assert len(text) < 50_000  # what Mermaid takes
    assert ("maxEdges" in text) is (kind == "ladder")
    monkeypatch.setenv("PATH", "")
    assert dag.visualize("svg").count("<g ") == 500
    monkeypatch.setitem(sys.modules, "grandalf", None)
    monkeypatch.setitem(sys.modules, "grandalf.graphs", None)
    assert dag.visualize("svg").count("<g ") == 500


def test_links_too_long_to_bend_go_straight() -> None:
    sizes = {f"n{number}": (60.0, 30.0) for number in range(300)}
    pairs = list(combinations(sizes, 2))  # which pass some four million layers
    part = layered(sizes, pairs, gap=24, layer_gap=46)
    assert set(part.bends) == set(pairs)
    assert max(map(len, part.bends.values())) == 2
    assert part.height == 300 * 30 + 299 * 46


@needs_dot
@pytest.mark.parametrize("kind", ["chain", "fan", "tree", "ladder", "apart"])
def test_500_nodes_are_drawn_by_graphviz(kind: str) -> None:
    assert many(kind).visualize("svg").count("<g ") == 500
