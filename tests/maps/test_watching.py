"""What is told of a map while it runs: progress, and the log."""

from __future__ import annotations

import logging
import re
from collections import Counter
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import DAG

if TYPE_CHECKING:
    from collections.abc import Iterator

MODES = ["sequential", "parallel", "async"]
Told = list[tuple[str, str, float]]


def watched(dag: DAG, mode: str, **inputs: Any) -> Told:
    told: Told = []
    dag.run(mode=mode, progress=lambda *each: told.append(each), **inputs)
    return told


@pytest.fixture
def each_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is told whenever items have ended."""
    monkeypatch.setattr("fast_dag.run.map_execution._TOLD_EVERY", 0.0)


@pytest.mark.usefixtures("each_told")
@pytest.mark.parametrize("mode", MODES)
def test_progress_tells_how_many_items_have_ended(mode: str) -> None:
    dag = DAG("d").add_node("load", lambda: range(4)).add_node("f", lambda x: x, over="x")
    dag.connect("load", "f")
    first, second, third, *counts, last = watched(dag, mode)
    assert [first, second] == [("load", "running", 0.0), ("load", "completed", 0.5)]
    assert [third, last] == [("f", "running", 0.5), ("f", "completed", 1.0)]
    assert counts
    possible = [("f", f"running {count} of 4", 0.5 + count / 8) for count in range(5)]
    assert counts == sorted(counts, key=possible.index)  # in this order, and no others


@pytest.mark.parametrize("mode", MODES)
def test_progress_without_a_known_length_counts_only(mode: str) -> None:
    told: Told = []

    def until_told() -> Iterator[int]:
        while len(told) < 2:
            yield 1

    dag = DAG("d").add_node("f", lambda x: x, over="x")
    dag.run(mode=mode, progress=lambda *each: told.append(each), x=until_told())
    assert told[0] == ("f", "running", 0.0)
    assert re.fullmatch(r"running [\d,]+", told[1][1])
    assert told[1][2] == 0.0


@pytest.mark.usefixtures("each_told")
@pytest.mark.parametrize("mode", MODES)
def test_fraction_never_goes_back(mode: str) -> None:
    dag = DAG("d")
    for name in "abc":
        dag.add_node(name, lambda x: x, over="x", max_concurrency=1)
    dag.add_node("other", lambda: None)
    fractions = [each for _, _, each in watched(dag, mode, x=range(20))]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


@pytest.mark.usefixtures("each_told")
def test_map_of_a_nested_workflow_is_told_by_its_path() -> None:
    inner = DAG("inner").add_node("f", lambda x: x, over="x")
    dag = DAG("d").add_node("sub", inner)
    told = watched(dag, "sequential", x=[1, 2])
    assert ("sub.f", "running 1 of 2", 0.0) in told


@pytest.mark.parametrize("mode", MODES)
def test_progress_of_a_map_is_told_ten_times_a_second_at_most(mode: str) -> None:
    dag = DAG("d").add_node("f", sleep, inputs=["x"], over="x", max_concurrency=2)
    began = perf_counter()
    told = watched(dag, mode, x=[0.005] * 60)
    seconds = perf_counter() - began
    counted = [status for _, status, _ in told if status.startswith("running ")]
    assert 1 <= len(counted) <= 10 * seconds + 2


def test_items_of_nested_maps_are_not_told() -> None:
    inner = DAG("inner").add_node("cell", lambda x: x, over="x")
    dag = DAG("d").add_node("rows", inner, over="x")
    told = watched(dag, "sequential", x=[[1, 2]] * 50)
    assert Counter(path for path, _, _ in told)["rows.cell"] == 0


# The log.


@pytest.mark.parametrize("mode", MODES)
def test_log_names_the_items_that_fail_for_good(
    mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "fast_dag")
    dag = DAG("d").add_node("inverse", lambda x: 1 // x, over="x", on_error="keep")
    dag.run(mode=mode, x=[1, 0, 2, 0])
    assert sorted(each.getMessage() for each in caplog.records) == [
        f"node 'inverse[{number}]' of 'd': failed: "
        "'ZeroDivisionError: integer division or modulo by zero'"
        for number in (1, 3)
    ]


@pytest.mark.parametrize("mode", MODES)
def test_log_names_the_item_that_ends_the_map(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "fast_dag")
    dag = DAG("d").add_node("inverse", lambda x: 1 // x, over="x")
    dag.execute(mode=mode, x=[1, 0])
    (record,) = caplog.records
    assert record.getMessage().startswith("node 'inverse[1]' of 'd': failed")
    assert record.node == "inverse[1]"  # type: ignore[attr-defined]


@pytest.mark.parametrize("hooks", [False, True], ids=["bare", "hooks"])
@pytest.mark.parametrize("mode", MODES)
def test_log_names_the_item_that_is_tried_again(
    mode: str, hooks: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "fast_dag")
    seen: Counter[str] = Counter()

    def flaky(name: str) -> str:
        seen[name] += 1
        if seen[name] == 1 and name != "c":
            raise OSError(name)
        return name

    dag = DAG("d")
    dag.add_node("flaky", flaky, over="name", keys=str.upper, retry=1, retry_delay=0)
    if hooks:
        dag.set_node_hooks("flaky", around=lambda node, inputs, context, call: call())
    run = dag.execute(mode=mode, name=["a", "b", "c"])
    assert run.value == {"A": "a", "B": "b", "C": "c"}
    assert run.items("flaky").retries == 2
    assert sorted(each.getMessage() for each in caplog.records) == [
        "item 'flaky[A]' of 'd': retrying: 'OSError: a'",
        "item 'flaky[B]' of 'd': retrying: 'OSError: b'",
    ]


@pytest.mark.parametrize("mode", MODES)
def test_log_names_the_item_whose_error_was_handled(
    mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "fast_dag")
    dag = DAG("d").add_node("inverse", lambda x: 1 // x, over="x")
    dag.set_node_error_handler("inverse", lambda node, inputs, error: -1)
    assert dag.run(mode=mode, x=[1, 0]) == [1, -1]
    (record,) = caplog.records
    assert record.getMessage().startswith("item 'inverse[1]' of 'd': handled")


def test_no_more_than_a_thousand_failed_items_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "fast_dag")
    dag = DAG("d").add_node("inverse", lambda x: 1 // x, over="x", on_error="drop")
    dag.run(x=[0] * 1500)
    assert len(caplog.records) == 1000
