"""What type checkers see of nodes and edges, checked by mypy and pyright; it runs, too."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, assert_type

from fast_dag import DAG, FSM, ConditionalReturn, Context, Node, NodeType, SelectReturn

dag = DAG("typed", description="types", metadata={"owner": "tests"}, autowire=False)


# Every decorator, bare and with options.


@dag.node
def bare(number: int, /, text: str = "", *, flag: bool = False) -> float:
    return number + len(text) + flag


@dag.node()
def called(number: int) -> list[int]:
    return [number]


@dag.node(
    name="renamed",
    description="all options",
    inputs=["number"],
    outputs=["one", "two"],
    metadata={"a": 1},
    retry=2,
    retry_delay=0.5,
    retry_backoff=1.5,
    retry_max_delay=3,
    retry_jitter=True,
    retry_on=lambda error: isinstance(error, OSError),
    timeout=1.0,
    run_in="thread",
    replace=False,
)
def with_options(value: int) -> tuple[int, int]:
    return value, value


@dag.condition
def bare_condition(number: int) -> bool:
    return number > 0


@dag.condition(retry=1)
def condition_with_options(number: int) -> ConditionalReturn:
    return ConditionalReturn(number > 0, value=number)


@dag.select
def bare_select(number: int) -> str:
    return "even" if number % 2 == 0 else "odd"


@dag.select(metadata=None)
def select_with_options(number: int) -> SelectReturn:
    return SelectReturn("even", value=number)


@dag.any
def bare_any(one: int | None = None, other: int | None = None) -> int | None:
    return one or other


@dag.any(wait=True)
def any_with_options(one: int) -> set[int]:
    return {one}


@dag.all
def bare_all(*numbers: int) -> int:
    return sum(numbers)


@dag.all(collect="numbers")
def all_with_options(numbers: dict[str, int]) -> int:
    return sum(numbers.values())


@dag.node
async def bare_async(url: str) -> bytes:
    return url.encode()


@dag.node(timeout=5, retry_on=(OSError, ValueError))
async def async_with_options(url: str, context: Context) -> dict[str, str]:
    return {url: repr(context.metadata)}


@dag.cached_node
def bare_cached(key: str) -> int:
    return len(key)


def test_decorated_function_keeps_its_parameters_and_result() -> None:
    assert_type(bare(1), float)
    assert_type(bare(1, "a", flag=True), float)
    assert_type(called(1), list[int])
    assert_type(with_options(1), tuple[int, int])
    assert_type(bare_condition(1), bool)
    assert_type(condition_with_options(1), ConditionalReturn)
    assert_type(bare_select(1), str)
    assert_type(select_with_options(1), SelectReturn)
    assert_type(bare_any(1, None), int | None)
    assert_type(any_with_options(1), set[int])
    assert_type(bare_all(1, 2, 3), int)
    assert_type(all_with_options({"a": 1}), int)
    assert_type(bare_cached("key"), int)


def test_function_may_stand_before_the_options() -> None:
    graph = DAG("first")

    def double(number: int, /) -> int:
        return 2 * number

    assert_type(graph.node(double, name="node", retry=1), Node[[int], int])
    assert_type(graph.condition(double, name="condition", timeout=1), Node[[int], int])
    assert_type(graph.select(double, name="select", metadata={"a": 1}), Node[[int], int])
    assert_type(graph.any(double, name="any", wait=True), Node[[int], int])
    assert_type(graph.all(double, name="all", collect="number"), Node[[int], int])
    assert_type(graph.cached_node(double, name="cached", ttl=60, backend=None), Node[[int], int])
    assert_type(graph.node(double, name="node", replace=True)(3), int)
    assert list(graph) == ["node", "condition", "select", "any", "all", "cached"]
    assert [each.type for each in graph.nodes.values()] == [*NodeType, NodeType.NODE]
    assert graph.nodes["cached"].cache is not None
    assert_type(graph.add_node("join", double, type="any", wait=True), DAG)
    assert_type(graph.add_node("collector", double, type="all", collect="number"), DAG)


def test_a_workflow_may_stand_in_the_place_of_a_function() -> None:
    graph, inner = DAG("outer"), DAG("inner").add_node("double", lambda x: 2 * x)
    assert_type(graph.node(inner), Node[..., Any])
    assert_type(graph.cached_node(inner, name="cached", ttl=60), Node[..., Any])
    assert_type(graph.cached_node(ttl=60, name="later")(inner), Node[..., Any])
    assert_type(FSM("machine").state(inner, initial=True), Node[..., Any])
    assert_type(FSM("machine").cached_state(ttl=60)(inner), Node[..., Any])
    assert graph.run(x=2) == 4


def test_decorated_function_is_a_node_of_its_parameters_and_result() -> None:
    node: Node[..., float] = bare
    function: Callable[[int], list[int]] = called
    assert_type(function(3), list[int])
    assert_type(node.name, str)
    assert_type(node.type, NodeType)
    assert_type(node.description, str)
    assert_type(node.inputs, tuple[str, ...])
    assert_type(node.outputs, tuple[str, ...])
    assert_type(node.metadata, dict[str, Any])
    assert_type(bare_condition.func(1), bool)


def test_async_node_is_awaited_for_its_result() -> None:
    async def main() -> None:
        assert_type(await bare_async("url"), bytes)
        assert_type(await async_with_options("url", Context()), dict[str, str])

    asyncio.run(main())


def test_node_made_by_hand_has_the_types_of_its_function() -> None:
    def double(number: int, /) -> int:
        return 2 * number

    node = Node(double, "double", retry=1)
    assert_type(node, Node[[int], int])
    assert_type(node(3), int)
    assert_type(DAG("other").add_node(node), DAG)
    assert_type(DAG("other").add_node("double", double, timeout=3.0), DAG)


class Scaled:
    """Methods are nodes like functions."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def scale(self, number: int, /) -> int:
        return self.factor * number


def test_bound_method_keeps_its_types() -> None:
    node = DAG("methods").node(Scaled(3).scale)
    assert_type(node, Node[[int], int])
    assert_type(node(5), int)


def test_edges_have_the_type_of_their_target() -> None:
    graph = DAG("edges")

    @graph.node
    def start() -> int:
        return 1

    @graph.node
    def middle(number: int, /) -> str:
        return str(number)

    @graph.node
    def beside(number: int, /) -> str:
        return str(number)

    @graph.node
    def end(text: str, also: str = "") -> bytes:
        return (text + also).encode()

    assert_type(start >> [middle, beside], list[Node[[int], str]])
    assert_type((middle >> end)("a"), bytes)
    assert_type(end.after(start)("a"), bytes)
    assert_type(graph.connect("beside", end, output="upper", input="also"), DAG)
    assert_type(graph.disconnect("beside", end), DAG)
    [beside] >> end
    assert_type((DAG("chain").add_node(start).nodes["start"])(), Any)


def test_chain_has_the_type_of_its_last_node() -> None:
    graph = DAG("chain")

    @graph.node
    def start() -> int:
        return 1

    @graph.node
    def middle(number: int) -> str:
        return str(number)

    @graph.node
    def end(text: str, /) -> bytes:
        return text.encode()

    assert_type(start >> middle >> end, Node[[str], bytes])
    assert graph.run() == b"1"


def test_branches_connect_like_nodes() -> None:
    graph = DAG("branches")

    @graph.condition
    def check(number: int) -> bool:
        return number > 0

    @graph.select
    def route(number: int) -> str:
        return "email"

    @graph.node
    def use(number: int) -> str:
        return str(number)

    @graph.any
    def join(text: str) -> str:
        return text

    assert_type((check.on_true >> use)(1), str)
    assert_type((route.branches["email"] >> join)("a"), str)
    graph.connect(check.on_false, "join")
    assert len(graph.graph.incoming("join")) == 2
