"""What people write who know stores from their documentation only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import DAG, ConditionalReturn, SelectReturn
from fast_dag.store import Store

if TYPE_CHECKING:
    from pathlib import Path


class Stop(KeyboardInterrupt):
    """Ctrl-C in a node."""


@pytest.mark.parametrize("mode", ["sequential", "parallel", "async"])
def test_decisions_with_values_of_their_own_are_replayed(mode: Any) -> None:
    dag, calls = DAG("decide"), list[str]()

    @dag.condition
    def is_large(n: int) -> ConditionalReturn:
        calls.append("is_large")
        return ConditionalReturn(n > 2, value=[n])

    @dag.node
    def large(value: list[int]) -> list[int]:
        return value * 2

    @dag.select(several=True)
    def ways(value: Any):  # type: ignore[no-untyped-def]  # nothing names the class
        calls.append("ways")
        return SelectReturn(["left", "right"], value=(1, value))

    @dag.node
    def left(value: Any) -> Any:
        return "left", value

    @dag.node
    def right(value: Any) -> Any:
        if len(calls) == 2:
            calls.append("stopped")
            raise Stop
        return "right", value

    @dag.all
    def both(values: dict[str, Any]) -> dict[str, Any]:
        return values

    is_large.on_true >> large >> ways
    for each in (left, right):
        dag.connect("ways", each, output=each.name)
        each >> both
    with Store(":memory:") as store:
        with pytest.raises(Stop):
            dag.run(store=store, run_id="a", n=3, mode=mode)
        value = dag.run(store=store, run_id="a", mode=mode)
        assert value == {"left": ("left", (1, [3, 3])), "right": ("right", (1, [3, 3]))}
        assert calls == ["is_large", "ways", "stopped"]
        assert store.run("a")["is_large"] == ConditionalReturn(True, value=[3])


def paying() -> DAG:
    """Maps whose items are told the ids of their calls."""
    inner = DAG("inner").add_node("pay", lambda price, call_id: (price, call_id))
    dag = DAG("shop")
    dag.map(lambda price, call_id: call_id, name="plain")
    dag.map(lambda *, call_id, price: call_id, name="named", keys=lambda price: f"key {price}")
    dag.add_node("nested", inner, over="price")
    return dag


@pytest.mark.parametrize("mode", ["sequential", "parallel", "async"])
def test_each_item_of_a_map_has_a_call_id_of_its_own(mode: Any) -> None:
    with Store(":memory:") as store:
        run = paying().execute(store=store, run_id="a", price=[5, 6], mode=mode)
        assert run["plain"] == ["a/plain[0]", "a/plain[1]"]
        assert run["named"] == {"key 5": "a/named[key 5]", "key 6": "a/named[key 6]"}
        assert run["nested"] == [(5, "a/nested[0].pay"), (6, "a/nested[1].pay")]
        again = paying().execute(store=store, run_id="a", rerun="plain", mode=mode)
        assert again["plain"] == ["a/plain[0]~2", "a/plain[1]~2"]
        assert again["nested"] == run["nested"]


def test_call_ids_of_items_are_the_same_over_retries_and_after_hooks() -> None:
    dag, seen = DAG("shop"), list[str]()

    @dag.map(retry=1, retry_delay=0)
    def pay(price: int, call_id: str) -> int:
        seen.append(call_id.partition("/")[2])
        if len(seen) % 2:
            raise ConnectionError
        return price

    dag.set_default_hooks(pre_execute=lambda node, inputs: {**inputs})
    assert dag.run(price=[5, 6]) == [5, 6]
    assert seen == ["pay[0]", "pay[0]", "pay[1]", "pay[1]"]


def test_mapped_workflow_goes_on_with_the_items_that_are_missing(tmp_path: Path) -> None:
    calls = list[int]()

    def double(number: int) -> int:
        calls.append(number)
        if calls == [1, 2, 3]:
            raise Stop
        return 2 * number

    inner = DAG("inner").add_node("double", double)
    dag = DAG("outer").add_node("all", inner, over="number")
    with Store(tmp_path / "runs.db", durability="process") as store:
        with pytest.raises(Stop):
            dag.run(store=store, run_id="a", number=[1, 2, 3, 4])
        assert dag.run(store=store, run_id="a") == [2, 4, 6, 8]
        assert calls[3:] == [1, 2, 3, 4][-len(calls[3:]) :]
        assert dag.explain(store=store, run_id="a").states == {"all": "fresh"}
        assert store.run("a").statuses == {"all": "completed"}
        assert "outer" in store.run("a").summary()
