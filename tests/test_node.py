"""Nodes by themselves: options, names, branches."""

from __future__ import annotations

from typing import Any

import pytest

from fast_dag import DAG, InvalidNodeError, Node, NodeType
from fast_dag.define.options import OPTIONS


async def later(x):
    return x


def test_node_types_are_their_names() -> None:
    assert [each.value for each in NodeType] == ["node", "condition", "select", "any", "all"]
    assert NodeType.CONDITION == "condition"
    assert [each for each in NodeType if each.decides] == [NodeType.CONDITION, NodeType.SELECT]
    assert [each for each in NodeType if each.joins] == [NodeType.ANY, NodeType.ALL]


def test_unknown_type_is_refused() -> None:
    with pytest.raises(ValueError, match="switch"):
        Node(len, type="switch")


def test_node_without_options_has_their_defaults() -> None:
    node = Node(lambda x: x, "f")
    assert (node.retry, node.timeout, node.run_in, node.outputs) == (0, None, None, ())
    assert (node.description, node.metadata, node.graph, node.workflow) == ("", {}, None, None)


def test_metadata_of_a_node_is_its_own() -> None:
    given = {"a": 1}
    node = Node(len, "f", metadata=given)
    lent = Node(node)
    assert node.metadata == lent.metadata == {"a": 1}
    node.metadata["b"] = 2
    assert "b" not in lent.metadata
    assert given == {"a": 1}


def test_node_lends_its_options_and_takes_others() -> None:
    node = Node(len, "count", retry=2, timeout=3.0)
    lent = Node(node, retry=5)
    assert (lent.name, lent.retry, lent.timeout, lent.func) == ("count", 5, 3.0, len)
    assert node.retry == 2


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"retry": -1}, "retry is a count"),
    ({"retry": 1.5}, "retry is a count"),
    ({"retry": True}, "retry is a count"),
    ({"retry": "3"}, "retry is a count"),
    ({"retry_delay": -1}, "retry_delay is a number"),
    ({"retry_delay": "1"}, "retry_delay is a number"),
    ({"retry_delay": float("nan")}, "retry_delay is a number"),
    ({"retry_backoff": -0.5}, "retry_backoff is a number"),
    ({"retry_max_delay": -1}, "retry_max_delay is a number"),
    ({"retry_jitter": 2}, "retry_jitter is"),
    ({"retry_jitter": "some"}, "retry_jitter is"),
    ({"retry_on": 3}, "retry_on"),
    ({"retry_on": (ValueError, "KeyError")}, "retry_on"),
    ({"timeout": 0}, "timeout is a number"),
    ({"timeout": -1}, "timeout is a number"),
    ({"timeout": "1"}, "timeout is a number"),
    ({"timeout": float("nan")}, "timeout is a number"),
    ({"run_in": "cloud"}, "run_in is"),
    ({"run_in": "inline", "timeout": 1}, "cannot be timed out"),
    ({"outputs": "train"}, "outputs is a list"),
    ({"outputs": ["a", "a"]}, "outputs is a list"),
    ({"wait": True}, "wait= is for"),
    ({"collect": "x"}, "collect= is for"),
    ({"inputs": "x"}, "list of names"),
    ({"inputs": [3]}, "list of names"),
    ({"inputs": ["a", "b"]}, "2 names for 1 parameters"),
    ({"inputs": ["a", "a"]}, "twice"),
    ({"retires": 3}, "did you mean 'retry'|no option 'retires'"),
    ({"descripton": "x"}, "did you mean 'description'"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[str(each) for each, _ in WRONG])
def test_option_that_is_wrong_is_refused_at_definition(options: Any, message: str) -> None:
    dag = DAG("d")
    with pytest.raises(InvalidNodeError, match=message):
        dag.node(**options)(lambda_of_x)
    with pytest.raises(InvalidNodeError, match=message):
        dag.add_node("f", lambda_of_x, **options)
    assert len(dag) == 0


def lambda_of_x(x):
    return x


def test_wrong_option_names_the_node() -> None:
    with pytest.raises(InvalidNodeError, match="node 'f'") as caught:
        Node(lambda_of_x, "f", retry=-1)
    assert caught.value.node == "f"


def test_inline_async_node_may_have_a_timeout() -> None:
    assert Node(later, run_in="inline", timeout=1).timeout == 1


def test_every_option_is_known_to_the_checker() -> None:
    harmless: dict[str, Any] = {
        "description": "d",
        "inputs": ["a"],
        "outputs": ["o"],
        "metadata": {},
        "retry": 1,
        "retry_delay": 0,
        "retry_backoff": 1,
        "retry_max_delay": 1,
        "retry_jitter": 0.5,
        "retry_on": ValueError,
        "timeout": 1,
        "run_in": "thread",
    }
    assert set(harmless) <= set(OPTIONS)
    node = Node(lambda_of_x, **harmless)
    assert {key: node.options[key] for key in harmless} == harmless


def test_repr_of_a_node_that_stands_alone() -> None:
    assert repr(Node(lambda x, y=1: x, "f")) == "<node 'f'(x, y)>"


def test_on_true_is_the_same_branch_each_time() -> None:
    node = Node(lambda x: x, "check", type="condition")
    assert (node.on_true.node, node.on_true.choice, node.on_false.choice) == (node, True, False)


def test_node_of_a_dag_shows_its_parameters() -> None:
    inner = DAG("inner").add_node("f", lambda x, y=1: x)
    node = Node(inner)
    assert (node.name, node.inputs, node.workflow) == ("inner", ("x", "y"), inner)


def test_after_returns_the_node_for_chains() -> None:
    dag = DAG("d").add_node("a", len).add_node("b", lambda: 1)
    a, b = dag.nodes["a"], dag.nodes["b"]
    assert b.after(a) is b
    assert b.after() is b


def test_after_of_a_node_of_no_dag_is_refused() -> None:
    with pytest.raises(InvalidNodeError, match="belongs to no DAG"):
        Node(len).after(Node(lambda_of_x))
