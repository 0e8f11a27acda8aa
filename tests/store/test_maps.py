"""The items of maps in a store: which are known, and which are called again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import DAG, Context, ExecutionError
from fast_dag.store import Store, StoredError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "runs.db", durability="process") as made:
        yield made


class Inverse:
    """Called for items: 0 fails, and what is in `deadly` interrupts the run."""

    def __init__(self, *deadly: int) -> None:
        self.calls: list[int] = []
        self.deadly = set(deadly)

    def __call__(self, n: int) -> float:
        self.calls.append(n)
        if n in self.deadly:
            self.deadly.discard(n)
            raise KeyboardInterrupt
        return 1 / n

    def taken(self) -> list[int]:
        taken, self.calls = self.calls, []
        return taken


def mapped(inverse: Inverse, **options: Any) -> DAG:
    dag = DAG("mapped")
    dag.map(name="inverses", over="n", inputs=["n"], **options)(inverse)
    return dag


def interrupted(dag: DAG, store: Store, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        dag.run(store=store, run_id="a", **options)


@pytest.mark.parametrize("mode", ["sequential", "parallel"])
@pytest.mark.parametrize("on_error", ["keep", "drop"])
def test_item_that_failed_is_not_called_again_when_the_map_goes_on(
    on_error: str, mode: Any, store: Store
) -> None:
    inverse = Inverse(4)
    dag = mapped(inverse, on_error=on_error, max_concurrency=1, retry=1, retry_delay=0)
    interrupted(dag, store, n=[2, 0, 4, 0, 8], mode=mode)
    assert inverse.taken() == [2, 0, 0, 4]
    run = dag.execute(store=store, run_id="a", mode=mode)
    assert inverse.taken() == [4, 0, 0, 8]
    assert [each for each in run["inverses"] if each] == [0.5, 0.25, 0.125]
    items = run.items("inverses")
    assert (items.completed, items.failed, len(run["inverses"])) == (
        3,
        2,
        3 if items.dropped else 5,
    )
    assert [type(each) for each in items.errors.values()] == [StoredError, ZeroDivisionError]
    assert run.errors["inverses[1]"] is items.errors[1]


def died_before_the_map_ended(store: Store) -> None:
    """Leave the run as a process does that dies when the end of the map is all that is missing."""

    def die(connection: Any) -> None:
        connection.execute("DELETE FROM nodes WHERE item = x''")
        connection.execute("UPDATE runs SET status = 'running', error = NULL")

    store.database.transact(die)


@pytest.mark.parametrize("mode", ["sequential", "parallel"])
def test_failure_of_an_item_that_was_committed_stands(mode: Any, store: Store) -> None:
    inverse = Inverse()
    dag = mapped(inverse, max_concurrency=1)
    dag.execute(store=store, run_id="a", n=[2, 0, 4], mode=mode)
    died_before_the_map_ended(store)
    inverse.taken()
    run = dag.execute(store=store, run_id="a", mode=mode)
    assert (run.status, inverse.taken(), list(run.errors)) == ("failed", [], ["inverses[1]"])


@pytest.mark.parametrize("dies", [True, False])
def test_items_that_failed_or_were_not_reached_are_all_that_is_run_again(
    dies: bool, store: Store
) -> None:
    inverse = Inverse()
    dag = mapped(inverse)
    n = [2, 0, 4]
    dag.execute(store=store, run_id="a", n=n)
    if dies:
        died_before_the_map_ended(store)
    inverse.taken()
    run = dag.execute(store=store, run_id="a", rerun="failed")
    assert (run.status, inverse.taken()) == ("failed", [0])
    record = store.run("a")
    assert (record.generation, str(record.errors["inverses"])) == (
        2,
        "ZeroDivisionError: division by zero",
    )


def test_node_that_is_named_is_called_for_all_items_again(store: Store) -> None:
    inverse = Inverse()
    dag = mapped(inverse, on_error="drop")
    dag.execute(store=store, run_id="a", n=[2, 0, 4])
    inverse.taken()
    dag.execute(store=store, run_id="a", rerun="inverses")
    assert inverse.taken() == [2, 0, 4]


def test_failed_items_are_stored_wherever_they_are_in_a_value(store: Store) -> None:
    dag = mapped(Inverse(), on_error="keep")
    dag.add_node("parted", lambda inverses: {True: inverses[:1], False: inverses[1:]})
    dag.add_node("errors", lambda parted: [each.error for each in parted[False]], stored=False)
    dag.connect("inverses", "parted").connect("parted", "errors")
    dag.run(store=store, run_id="a", n=[4, 0])
    again = dag.execute(store=store, run_id="a", rerun="errors")
    assert again["parted"][True] == [0.25]
    (failed,) = again["parted"][False]
    assert (failed.key, failed.error.type, bool(failed)) == (1, "ZeroDivisionError", False)
    assert again["errors"] == [failed.error]


@pytest.mark.parametrize("mode", ["sequential", "parallel"])
def test_nested_workflow_whose_map_failed_fails_also_when_it_goes_on(
    mode: Any, store: Store
) -> None:
    stops = [1]

    def late(waits: Any = None) -> int:
        if stops:
            raise KeyboardInterrupt(stops.pop())
        return 1

    inner = mapped(Inverse()).add_node("late", late)
    inner.connect("inverses", "late", input="waits", optional=True)
    dag = DAG("outer").add_node("sub", inner).add_node("below", lambda sub: sub)
    dag.connect("sub", "below")
    interrupted(dag, store, n=[1, 0], mode=mode, error_strategy="continue")
    for _ in range(2):
        run = dag.execute(store=store, run_id="a", mode=mode, error_strategy="continue")
        assert (run.statuses["sub"], run.statuses["below"]) == ("failed", "skipped")
        assert list(run.errors) == ["sub.inverses[1]"]


def test_failed_item_of_a_mapped_workflow_is_known_with_its_node(store: Store) -> None:
    deadly = {3}

    def half(n: int) -> float:
        if n in deadly:
            deadly.discard(n)
            raise KeyboardInterrupt
        return 1 / n

    inner = DAG("inner").add_node("half", half).add_node("done", lambda half: half)
    inner.connect("half", "done")
    dag = DAG("outer")
    dag.map(inner, name="rows", over="n", on_error="keep", retry=0)
    interrupted(dag, store, n=[0, 2, 3])
    run = dag.execute(store=store, run_id="a")
    assert list(run.errors) == ["rows[0].half"]
    assert run["rows"][1:] == [0.5, 1 / 3]


@pytest.mark.parametrize("mode", ["sequential", "parallel"])
def test_items_whose_results_are_taken_one_by_one_are_not_called_again(
    mode: Any, store: Store
) -> None:
    inverse = Inverse(4)
    taken = []

    def total(results: Iterable[float]) -> float:
        taken.extend(each for each in results)
        return sum(taken)

    dag = mapped(inverse, into=total, on_error="drop", max_concurrency=1)
    interrupted(dag, store, n=[1, 0, 2, 4, 8], mode=mode)
    taken.clear()
    inverse.taken()
    assert dag.run(store=store, run_id="a", mode=mode) == 1.875
    assert (inverse.taken(), taken) == ([4, 8], [1.0, 0.5, 0.25, 0.125])


def test_keys_of_one_text_are_different_items(store: Store) -> None:
    seen: list[str] = []
    deadly = {"b"}

    def pay(n: Any, call_id: str) -> str:
        seen.append(call_id)
        if n in deadly:
            deadly.discard(n)
            raise KeyboardInterrupt
        return f"paid {n!r}"

    dag = DAG("keyed")
    dag.map(name="pay", over="n", inputs=["n"], keys=lambda n: n)(pay)
    interrupted(dag, store, n=[1, "1", "a", None, "None", "b"])
    assert seen[:5] == ["a/pay[1]", "a/pay['1']", "a/pay[a]", "a/pay[None]", "a/pay['None']"]
    seen.clear()
    assert dag.run(store=store, run_id="a") == {
        1: "paid 1",
        "1": "paid '1'",
        "a": "paid 'a'",
        None: "paid None",
        "None": "paid 'None'",
        "b": "paid 'b'",
    }
    assert seen == ["a/pay[b]"]


def test_errors_of_keys_of_one_text_are_all_there_again(store: Store) -> None:
    dag = DAG("keyed")
    dag.map(name="pay", over="n", inputs=["n"], keys=lambda n: n, on_error="drop")(lambda n: 1 / 0)
    runs = [dag.execute(store=store, run_id="a", n=[1, "1", "a"]) for _ in range(2)]
    for run in runs:
        assert sorted(run.errors) == ["pay['1']", "pay[1]", "pay[a]"]


def test_set_without_keys_is_gone_through_as_a_whole(store: Store) -> None:
    inverse = Inverse(4)
    dag = mapped(inverse)
    interrupted(dag, store, n={1, 2, 4})
    rows = store.database.rows("SELECT COUNT(*) FROM nodes WHERE item != x''")
    assert rows == [(0,)]
    inverse.taken()
    assert sorted(dag.run(store=store, run_id="a")) == [0.25, 0.5, 1.0]
    assert sorted(inverse.taken()) == [1, 2, 4]


def test_what_is_kept_inside_of_an_item_is_kept(store: Store) -> None:
    def visit(n: int, context: Context) -> int:
        context.keep(f"seen {n}", n)
        return n

    inner = DAG("inner").add_node("visit", visit)
    dag = DAG("outer")
    dag.map(inner, name="rows", over="n")
    dag.add_node("end", lambda rows: 1 / 0).connect("rows", "end")
    with pytest.raises(ExecutionError):
        dag.run(store=store, run_id="a", n=[1, 2])
    run = dag.execute(store=store, run_id="a")
    assert (run.context.metadata["seen 1"], run.context.metadata["seen 2"]) == (1, 2)


@pytest.mark.parametrize("on_error", ["keep", "drop"])
def test_run_with_failed_items_ends_alike_whether_it_was_interrupted_or_not(
    on_error: str, store: Store
) -> None:
    deadly = {"end"}

    def end(inverses: list[Any]) -> int:
        if deadly:
            deadly.clear()
            raise KeyboardInterrupt
        return len(inverses)

    dag = mapped(Inverse(), on_error=on_error).add_node("end", end).connect("inverses", "end")
    interrupted(dag, store, n=[2, 0, 4])
    runs = [
        dag.execute(n=[2, 0, 4]),
        dag.execute(store=store, run_id="a"),
        dag.execute(store=store, run_id="a"),
    ]
    for run in runs:
        assert (run.status, list(run.errors)) == ("completed_with_errors", ["inverses[1]"])
        items = run.items("inverses")
        assert (items.total, items.completed, items.failed) == (3, 2, 1)
        assert (list(items.errors), items.dropped) == ([1], on_error == "drop")
        assert run["inverses[2]"] == 0.25


def test_failed_map_is_shown_with_its_item(store: Store) -> None:
    dag = mapped(Inverse())
    dag.execute(store=store, run_id="a", n=[2, 4, 0])
    run = dag.execute(store=store, run_id="a")
    assert (run.status, list(run.errors)) == ("failed", ["inverses[2]"])
    assert (run.items("inverses").completed, run.items("inverses").failed) == (2, 1)
    with pytest.raises(ExecutionError, match="division by zero") as caught:
        dag.run(store=store, run_id="a")
    assert (caught.value.node_name, caught.value.key) == ("inverses[2]", 2)
