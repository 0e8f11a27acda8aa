"""What people write who know stores from their documentation only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import (
    DAG,
    FSM,
    ConditionalReturn,
    ExecutionError,
    FSMReturn,
    SelectReturn,
    ValidationError,
)
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
        assert again["plain"] == ["a/plain~2[0]", "a/plain~2[1]"]
        assert again["nested"] == run["nested"]
        again = paying().execute(store=store, run_id="a", rerun="nested", mode=mode)
        assert again["nested"] == [(5, "a/nested~2[0].pay"), (6, "a/nested~2[1].pay")]


def test_names_of_nodes_are_not_mistaken_for_further_calls_or_items() -> None:
    seen: list[str] = []
    inner = DAG("inner").add_node("pay~2", lambda call_id: seen.append(call_id))
    dag = DAG("shop").add_node("pay", lambda call_id: seen.append(call_id))
    dag.add_node("pay~2", lambda call_id: seen.append(call_id)).add_node("sub", inner)
    dag.map(lambda price, call_id: seen.append(call_id), name="items")
    dag.add_node("items[0]", lambda call_id: seen.append(call_id))
    with Store(":memory:") as store:
        dag.run(store=store, run_id="a", price=[1])
        dag.run(store=store, run_id="a", rerun=["pay", "items"])
        dag.run(store=store, run_id="a", rerun=["pay~2", "sub"])
    assert len({*seen}) == len(seen) == 9
    assert {"a/pay~2", "a/'pay~2'", "a/'pay~2'~2", "a/sub.'pay~2'", "a/items[0]"} <= {*seen}


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


def test_fork_computes_anew_what_takes_an_input_that_was_not_given_before() -> None:
    inner = DAG("inner").add_node("add", lambda base, extra=1: base + extra)
    dag = DAG("outer").add_node("sub", inner).add_node("rated", lambda base, rate=2: base * rate)
    with Store(":memory:") as store:
        assert dag.execute(store=store, run_id="a", base=3).results == {"sub": 4, "rated": 6}
        store.fork("a", run_id="b", at=[], inputs={"rate": 10})
        run = dag.execute(store=store, run_id="b")
        assert (run.results, run.metrics["replayed"]) == ({"sub": 4, "rated": 30}, 1)
        store.fork("a", run_id="c", at=[], inputs={"extra": 5})
        assert dag.execute(store=store, run_id="c").results == {"sub": 8, "rated": 6}
        with pytest.raises(ValidationError, match=r"takes an input 'ratte' \(did you mean 'rate'"):
            store.fork("a", run_id="d", at=[], inputs={"ratte": 5})
        assert len(store.runs()) == 3


def test_runs_and_their_forks_are_pruned_together() -> None:
    dag = DAG("chain").add_node("one", lambda n: n).add_node("two", lambda one: one + 1)
    dag.connect("one", "two")
    with Store(":memory:") as store:
        dag.run(store=store, run_id="a", n=1, tags={"kind": "first"})
        store.fork("a", run_id="kept", at="two")
        store.fork("a", run_id="b", at="two")
        dag.run(store=store, run_id="b")
        assert store.prune(0).runs == 2
        assert dag.run(store=store, run_id="kept") == 2, "it shares the first node's value"
        assert store.prune(0, forget=True).runs == 3
        assert store.runs() == []
        assert dag.run(store=store, run_id="a", n=5) == 6


def test_listing_looks_for_a_status_and_takes_the_newest() -> None:
    dag = DAG("one").add_node("one", lambda n: 1 // n)
    with Store(":memory:") as store:
        for n in (0, 1, 2):
            dag.execute(store=store, run_id=f"run {n}", n=n)
        assert [each.run_id for each in store.runs(limit=1)] == ["run 2"]
        assert [each.run_id for each in store.runs(status="failed", limit=5)] == ["run 0"]
        assert [each.run_id for each in store.runs(limit=0)] == []
        store.fork("run 2", run_id="fork", at="one")
        assert [each.run_id for each in store.runs(status="interrupted", limit=1)] == ["fork"]
        assert store.runs(status="running", limit=1) == []


def test_completed_run_has_nothing_that_failed_to_be_run_again() -> None:
    dag = DAG("one").add_node("one", lambda n: n)
    with Store(":memory:") as store:
        dag.run(store=store, run_id="a", n=1)
        before = store.run("a")
        assert dag.run(store=store, run_id="a", rerun="failed") == 1
        assert (store.run("a").generation, store.run("a").ended) == (1, before.ended)


def test_what_a_store_cannot_keep_is_told_once_with_the_ways_out() -> None:
    dag = DAG("one").add_node("one", lambda n: [n, print])
    with Store(":memory:") as store, pytest.raises(ExecutionError) as caught:
        dag.run(store=store, n=1)
    told = str(caught.value)
    assert "node 'one' returned what the store cannot keep: what is at [1] in the value" in told
    assert told.count("stored=False") == 1


def test_node_that_is_called_once_cannot_be_in_a_mapped_workflow() -> None:
    inner = DAG("inner")
    inner.node(once=True, name="charge")(lambda price: price)
    dag = DAG("outer").add_node("each", inner, over="price")
    with pytest.raises(ValidationError, match=r"map 'each' calls 'each\.charge' for each item"):
        dag.run(price=[1, 2])


def test_what_a_machine_calls_has_another_id_at_each_visit_and_in_each_rerun() -> None:
    seen = list[str]()
    step = DAG("step").add_node("pay", lambda n, call_id: seen.append(call_id) or n)
    machine = FSM("machine", initial_state="step").add_state("step", step)
    machine.add_state("next", lambda n: FSMReturn("step", n - 1) if n else FSMReturn(stop=True))
    machine.add_transition("step", "next")
    dag = DAG("dag").add_node("loop", machine)
    with Store(":memory:") as store:
        dag.run(store=store, run_id="a", n=1)
        assert seen == ["a/loop.step.pay", "a/loop.step~2.pay"]
        dag.run(store=store, run_id="a", rerun="loop")
        assert seen[2:] == ["a/loop~2.step.pay", "a/loop~2.step~2.pay"]
