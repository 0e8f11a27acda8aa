"""What type checkers see of maps, checked by mypy and pyright; the same code runs, too."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, assert_type

from fast_dag import DAG, ItemError, Run
from fast_dag.run.items import Items

dag = DAG("typed maps")


@dag.map
def bare(number: int) -> float:
    return number / 2


@dag.map(over="page", max_concurrency=8, retry=3, timeout=10)
def with_options(page: str, times: int = 2) -> str:
    return page * times


@dag.map(product=["a", "b"], on_error="keep", min_success=0.5, ordered=True, into=list)
async def async_product(a: int, b: str) -> str:
    return a * b


@dag.map(keys=lambda row: row["id"])
def by_key(row: dict[str, int]) -> int:
    return row["id"]


@dag.node(over=["x", "y"])
def of_node(x: int, y: int) -> int:
    return x + y


@dag.cached_node(over="key", ttl=60)
def cached(key: str) -> int:
    return len(key)


@dag.node
def total(bare: list[float]) -> float:
    return sum(bare)


bare >> total


def test_call_of_a_map_is_that_of_its_function() -> None:
    assert_type(bare(1), float)
    assert_type(with_options("a", times=3), str)
    assert_type(by_key({"id": 1}), int)
    assert_type(of_node(1, 2), int)
    assert_type(cached("key"), int)


def test_result_of_a_map_may_be_anything() -> None:
    run = dag.execute(outputs=["bare", "total", "of_node", "cached"], **INPUTS)
    assert isinstance(run, Run)
    assert_type(run[bare], Any)
    assert_type(run[of_node], Any)
    assert_type(run[cached], Any)
    assert_type(dag[bare], Any)
    assert_type(run[total], float)
    assert run[bare] == [0.5, 1.0]
    assert_type(run.items(bare), Items)
    assert_type(run.items("bare").slowest, list[tuple[Any, float]])


INPUTS: dict[str, Any] = {"number": [1, 2], "x": [1], "y": [2], "key": ["a"]}


def test_function_and_workflow_may_stand_before_the_options() -> None:
    graph = DAG("first")

    def double(number: int) -> int:
        return 2 * number

    def add_up(results: Iterator[int]) -> int:
        return sum(results)

    made = graph.map(double, name="map", over="number", into=add_up)
    assert_type(made(2), int)
    inner = DAG("inner")
    inner.node(double)
    each = graph.map(inner, name="each", over="number")
    run = graph.execute(number=[1, 2])
    assert_type(run[made], Any)
    assert_type(run[each], Any)
    assert (run[made], run[each]) == (6, [2, 4])


def test_kept_item_has_its_key_and_error() -> None:
    item = ItemError(3, ValueError("x"))
    assert_type(item.key, Any)
    assert_type(item.error, BaseException)
    assert not item


def wrong_options_of_a_map() -> None:
    dag.map(overr="x")  # type: ignore[call-overload]
    dag.map(over=1)  # type: ignore[call-overload]
    dag.map(bare, over=1)  # type: ignore[call-overload]
    dag.map(on_error="skip")  # type: ignore[call-overload]
    dag.map(into="sum")  # type: ignore[call-overload]
    dag.map(max_concurrency="3")  # type: ignore[call-overload]
    dag.map(ttl=60)  # type: ignore[call-overload]
    dag.condition(over="x")  # type: ignore[call-overload]
    dag.any(over="x")  # type: ignore[call-overload]
    dag.add_node("f", bare, on_error="skip")  # type: ignore[arg-type]


def wrong_arguments_of_a_map() -> None:
    bare("1")  # type: ignore[arg-type]
    with_options(page="a", time=2)  # type: ignore[call-arg]
