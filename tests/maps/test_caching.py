"""Maps whose items are cached."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import DAG, InvalidNodeError
from fast_dag.cache import DiskCache

if TYPE_CHECKING:
    from pathlib import Path

MODES = ["sequential", "parallel", "async"]


class Calls:
    """A function that counts its calls."""

    def __init__(self) -> None:
        self.of: Counter[Any] = Counter()
        self.lock = threading.Lock()

    def __call__(self, x: Any) -> Any:
        with self.lock:
            self.of[x] += 1
        return x * 2


@pytest.fixture
def calls() -> Calls:
    return Calls()


def cached(calls: Calls, **options: Any) -> DAG:
    dag = DAG("d")
    dag.cached_node(calls, name="f", over="x", **options)
    return dag


@pytest.mark.parametrize("mode", MODES)
def test_each_item_is_looked_up(mode: str, calls: Calls) -> None:
    dag = cached(calls)
    assert dag.run(mode=mode, x=[1, 2]) == [2, 4]
    run = dag.execute(mode=mode, x=[3, 2, 1])
    assert run.value == [6, 4, 2]
    assert calls.of == {1: 1, 2: 1, 3: 1}
    assert (run.metrics["cache_hits"], run.metrics["cache_misses"]) == (2, 1)


@pytest.mark.parametrize("mode", MODES)
def test_equal_items_of_one_map_are_computed_once(mode: str, calls: Calls) -> None:
    run = cached(calls).execute(mode=mode, x=[1, 2] * 50)
    assert run.value == [2, 4] * 50
    assert calls.of == {1: 1, 2: 1}
    assert run.metrics["cache_hits"] == 98


def test_cache_of_a_map_has_no_bound_unless_one_is_given(calls: Calls) -> None:
    dag = cached(calls)
    dag.run(x=range(3000))
    dag.run(x=range(3000))
    assert calls.of.total() == 3000
    few = cached(Calls(), max_entries=10)
    few.run(x=range(100))
    assert len(few.nodes["f"].cache.backend) == 10  # type: ignore[union-attr,arg-type]
    plain = DAG("plain").cached_node(Calls(), name="f")
    assert plain.cache.backend.max_entries == 1024  # type: ignore[union-attr]
    back = DAG.from_dict(dag.to_dict({"c": calls}), registry={"c": calls})
    assert back.nodes["f"].cache.backend.max_entries is None  # type: ignore[union-attr]


def test_items_are_invalidated_one_by_one_or_all(calls: Calls) -> None:
    dag = cached(calls)
    dag.run(x=[1, 2, 3])
    dag.invalidate_cache("f", x=2)
    dag.run(x=[1, 2, 3])
    assert calls.of == {1: 1, 2: 2, 3: 1}
    dag.invalidate_cache("f")
    dag.run(x=[1, 2, 3])
    assert calls.of == {1: 2, 2: 3, 3: 2}


@pytest.mark.parametrize("mode", MODES)
def test_key_is_made_of_the_item_and_of_what_is_whole(mode: str) -> None:
    seen: list[tuple[int, int]] = []

    def scale(x: int, by: int) -> int:
        seen.append((x, by))
        return x * by

    dag = DAG("d")
    dag.cached_node(scale, over="x")
    assert dag.run(mode=mode, x=[1, 2], by=10) == [10, 20]
    assert dag.run(mode=mode, x=[2, 1], by=10) == [20, 10]
    assert dag.run(mode=mode, x=[1], by=20) == [20]
    assert sorted(seen) == [(1, 10), (1, 20), (2, 10)]


def test_cache_key_function_gets_the_item() -> None:
    given: list[Any] = []

    def key(row: dict[str, int]) -> int:
        given.append(row)
        return row["id"]

    dag = DAG("d")

    @dag.cached_node(over="row", cache_key=key)
    def text(row: dict[str, int]) -> str:
        return str(row)

    rows = [{"id": 1, "n": 1}, {"id": 1, "n": 2}]
    assert dag.run(row=rows) == ["{'id': 1, 'n': 1}"] * 2
    assert given == rows


def test_backend_keeps_items_for_other_workflows(tmp_path: Path) -> None:
    def called_with(x: list[int]) -> list[int]:
        called: list[int] = []
        dag = DAG("d")

        @dag.cached_node(over="x", backend=DiskCache(tmp_path), cache_key=["x"])
        def square(x: int, called: list[int]) -> int:
            called.append(x)
            return x * x

        assert dag.run(x=x, called=called) == [each * each for each in x]
        return called

    assert called_with([1, 2]) == [1, 2]
    assert called_with([1, 2, 3]) == [3]


@pytest.mark.parametrize("mode", MODES)
def test_failed_items_are_not_kept(mode: str) -> None:
    calls: Counter[int] = Counter()
    dag = DAG("d")

    @dag.cached_node(over="x", on_error="keep")
    def inverse(x: int) -> int:
        calls[x] += 1
        return 6 // x

    dag.run(mode=mode, x=[1, 0])
    dag.run(mode=mode, x=[1, 0])
    assert calls == {1: 1, 0: 2}


def test_workflow_of_each_item_is_cached() -> None:
    called: list[int] = []
    inner = DAG("inner").add_node("f", lambda x: called.append(x) or x + 1)
    dag = DAG("d")
    dag.cached_node(inner, over="x")
    assert dag.run(x=[1, 2]) == [2, 3]
    assert dag.run(x=[2, 1, 3]) == [3, 2, 4]
    assert called == [1, 2, 3]


def test_clone_of_a_cached_map_starts_empty(calls: Calls) -> None:
    dag = cached(calls)
    dag.run(x=[1])
    dag.clone().run(x=[1])
    assert calls.of == {1: 2}


def test_cache_key_names_parameters_of_the_function(calls: Calls) -> None:
    with pytest.raises(InvalidNodeError, match="cache_key names 'y'"):
        cached(calls, cache_key=["y"])


@pytest.mark.needs("numpy")
def test_key_of_a_large_value_that_is_whole_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    from fast_dag.cache import keys

    made: list[Any] = []
    make = keys.key_of

    def noted(value: Any) -> Any:
        made.append(value)
        return make(value)

    monkeypatch.setattr(keys, "key_of", noted)
    dag = DAG("d")
    table = np.arange(10_000)
    dag.cached_node(lambda x, table: int(table[x]), name="f", over="x", cache_key=["x", "table"])
    dag.run(x=range(50), table=table)
    assert len([each for each in made if each is table]) == 1


# What a cached workflow with a map in it depends on.


def outer_of(tmp_path: Path, **options: Any) -> DAG:
    inner = DAG("inner").add_node("f", half, **options)
    dag = DAG("outer")
    dag.cached_node(inner, name="inner", backend=DiskCache(tmp_path))
    return dag


def half(x: int, y: int = 2) -> float:
    return x / y


def by_text(x: int) -> str:
    return f"item {x}"


def by_number(x: int) -> int:
    return x + 1


def test_key_of_a_cached_workflow_has_the_options_of_its_maps(tmp_path: Path) -> None:
    def hits(**options: Any) -> int:
        run = outer_of(tmp_path, **options).execute(x=[1, 2], y=[2, 4])
        assert run.status == "completed"
        return int(run.metrics["cache_hits"])

    changes: list[dict[str, Any]] = [
        {"over": ["x", "y"]},
        {"over": ["y", "x"]},
        {"product": ["x", "y"]},
        {"product": ["y", "x"]},
        {"product": ["x", "y"], "on_error": "drop"},
        {"product": ["x", "y"], "on_error": "keep"},
        {"product": ["x", "y"], "on_error": "keep", "min_success": 0.5},
        {"product": ["x", "y"], "into": sum},
        {"product": ["x", "y"], "into": list},
        {"product": ["x", "y"], "into": list, "ordered": False},
    ]
    assert [hits(**each) for each in changes] == [0] * len(changes)
    assert [hits(**each) for each in changes] == [1] * len(changes)
    assert hits(product=["x", "y"], into=sum, max_concurrency=3) == 1


def test_key_of_a_cached_workflow_has_the_keys_function_of_its_maps(tmp_path: Path) -> None:
    def value(keys: Any) -> Any:
        dag = DAG("outer")
        inner = DAG("inner").add_node("f", half, over="x", keys=keys)
        dag.cached_node(inner, name="inner", backend=DiskCache(tmp_path))
        return dag.run(x=[1, 2])

    assert value(by_text) == {"item 1": 0.5, "item 2": 1.0}
    assert value(by_number) == {2: 0.5, 3: 1.0}
    assert value(by_text) == {"item 1": 0.5, "item 2": 1.0}
