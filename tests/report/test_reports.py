"""Reports, as text and as a page."""

from __future__ import annotations

import asyncio
import os
import pickle
import platform
import re
import time
from datetime import datetime
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import DAG, FSM, FSMReturn
from fast_dag.draw.view import view_of
from fast_dag.draw.words import duration
from fast_dag.report.analysis import analyse
from tests.draw.conftest import at_times, retried
from tests.ways import MODES

if TYPE_CHECKING:
    from fast_dag import Run
    from fast_dag.report.analysis import Analysis

GOLDEN = Path(__file__).parent / "golden" / "summary.txt"


def chain(*names: str) -> DAG:
    dag = DAG("chain")
    for name in names:
        dag.add_node(name, lambda *values: 1)
    for one, other in pairwise(names):
        dag.connect(one, other)
    return dag


def diamond(mode: str, workers: int | None = None) -> Run:
    """a, then b1 and b2, then c."""
    dag = chain("a", "b1", "c").add_node("b2", lambda a: 1)
    dag.connect("a", "b2").connect("b2", "c")
    return dag.execute(mode=mode, max_workers=workers)  # type: ignore[arg-type]


# The analysis.


def analysis_of(run: Run) -> Analysis:
    return analyse(view_of(run))


def test_critical_path_is_the_longest_chain() -> None:
    run = diamond("parallel")
    at_times(run, {"a": (0, 1), "b1": (1, 2), "b2": (1, 4), "c": (4, 5)}, 5)
    analysis = analysis_of(run)
    assert analysis.critical == ["a", "b2", "c"]
    assert analysis.critical_seconds == pytest.approx(5)
    assert "critical path" in analysis.bounds[1]


def test_any_is_reached_by_its_first_source() -> None:
    dag = DAG("demo").add_node("slow", lambda: 1).add_node("fast", lambda: 1)

    @dag.any
    def first(value: int) -> int:
        return value

    dag.connect("slow", "first").connect("fast", "first")
    run = dag.execute(mode="parallel")
    at_times(run, {"slow": (0, 2), "fast": (0, 1), "first": (1, 4)}, 4)
    assert analysis_of(run).critical == ["fast", "first"]


def test_too_few_workers_bound_a_run() -> None:
    dag = DAG("apart")
    for number in range(8):
        dag.add_node(f"n{number}", lambda: 1)
    run = dag.execute(mode="parallel", max_workers=2)
    times = {f"n{number}": (number // 2, number // 2 + 1.0) for number in range(8)}
    analysis = analysis_of(at_times(run, times, 4))
    assert "What bounds it is workers: 2 workers need at least 4 s" in analysis.bounds[1]
    assert [bar.ready for bar in analysis.bars] == [0.0] * 8


def test_sequential_run_says_what_other_modes_could_gain() -> None:
    run = diamond("sequential")
    at_times(run, {"a": (0, 1), "b1": (1, 3), "b2": (3, 5), "c": (5, 6)}, 6)
    assert "the critical path (3 nodes, 4 s) would be the least" in analysis_of(run).bounds[1]
    run = chain("a", "b").execute()
    at_times(run, {"a": (0, 1), "b": (1, 3)}, 3)
    assert "other modes could gain little" in analysis_of(run).bounds[1]


def test_time_outside_of_nodes_is_reported() -> None:
    run = diamond("parallel", 4)
    at_times(run, {"a": (3, 4), "b1": (4, 5), "b2": (4, 5), "c": (9, 10)}, 10)
    assert "Neither" in analysis_of(run).bounds[1]


def test_wait_for_a_worker_begins_where_all_sources_have_ended() -> None:
    run = diamond("parallel", 1)
    at_times(run, {"a": (0, 1), "b1": (1, 3), "b2": (3, 5), "c": (5, 6)}, 6)
    assert {bar.path: bar.start - bar.ready for bar in analysis_of(run).bars} == pytest.approx(
        {"a": 0, "b1": 0, "b2": 2, "c": 0}
    )


def test_attempts_and_waits_are_pieces_of_a_bar() -> None:
    run = at_times(chain("a").execute(), {"a": (0, 4)}, 4)
    retried(run, "a", 1, 0.5, "OSError: busy")
    retried(run, "a", 2, 1, "OSError: busy")
    (bar,) = analysis_of(run).bars
    assert [(each.kind, each.start, each.end) for each in bar.pieces] == [
        ("failed", 0, 1),
        ("slept", 1, 1.5),
        ("failed", 1.5, 2),
        ("slept", 2, 3),
        ("ran", 3, 4),
    ]


@pytest.mark.parametrize("mode", MODES)
def test_retries_are_recorded_in_every_mode(mode: Any) -> None:
    dag, tries = DAG("demo"), []

    @dag.node(retry=2, retry_delay=0.001)
    def flaky() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise OSError("busy")
        return 1

    run = dag.execute(mode=mode)
    (bar,) = analysis_of(run).bars
    kinds = [piece.kind for piece in bar.pieces]
    assert kinds == ["failed", "slept", "failed", "slept", "ran"]
    assert [retry.error for retry in run._execution.record.retried] == ["OSError: busy"] * 2
    assert all(piece.start <= piece.end for piece in bar.pieces)


def test_retries_of_a_state_belong_to_their_visit() -> None:
    fsm, tries = FSM("demo", initial_state="a", terminal_states=["b"]), []

    @fsm.state(retry=1, retry_delay=0)
    def a(n: int = 0) -> Any:
        tries.append(n)
        if tries == [0, 1]:
            raise OSError("busy")
        return FSMReturn("a" if n < 2 else "b", {"n": n + 1})

    fsm.add_state("b", lambda: 1)
    bars = analysis_of(fsm.execute()).bars
    assert [len(bar.pieces) for bar in bars] == [1, 3, 1, 1]


def test_retries_of_a_machine_are_remembered_as_long_as_its_visits() -> None:
    fsm = FSM("demo", initial_state="a", terminal_states=["b"], keep_history=5)

    @fsm.state(retry=3, retry_delay=0)
    def a(n: int = 0) -> Any:
        seen.append(n)
        if seen.count(n) < 3:
            raise OSError("busy")
        return FSMReturn("a" if n < 50 else "b", {"n": n + 1})

    seen: list[int] = []
    fsm.add_state("b", lambda: 1)
    run = fsm.execute()
    assert len(run._execution.record.retried) <= 10
    assert run.metrics["retries"] == 102
    run.summary()


def test_retries_at_once_are_all_recorded() -> None:
    dag = DAG("demo")

    def fails() -> None:
        raise OSError("busy")

    for number in range(50):
        dag.add_node(f"n{number}", fails, retry=4, retry_delay=0)
    run = dag.execute(mode="parallel", max_workers=8, error_strategy="continue")
    assert len(run._execution.record.retried) == 200


def test_nested_nodes_stand_behind_their_workflow(orders: DAG) -> None:
    analysis = analysis_of(orders.execute(error_strategy="continue", mode="parallel"))
    paths = [bar.path for bar in analysis.bars]
    position = paths.index("checks")
    assert paths[position : position + 3] == ["checks", "checks.first", "checks.second"]
    assert [bar.depth for bar in analysis.bars][position : position + 3] == [0, 1, 1]
    assert "checks.first" in [row.path for row in analysis.rows]


def test_place_of_an_error_of_a_workflow_that_a_node_runs_is_the_line_of_the_user() -> None:
    inner = DAG("inner").add_node("bad", lambda: 1 / 0)
    outer = DAG("outer").add_node("calls", lambda: inner.run())
    outer.add_node("misuses", lambda: inner.run(x=1))
    run = outer.execute(error_strategy="continue")
    for drawn in (run, pickle.loads(pickle.dumps(run))):
        places = [line for line in drawn.summary().splitlines() if line.startswith("    at ")]
        assert [place.startswith(f'    at File "{__file__}", line ') for place in places] == [
            True
        ] * 2


def test_machine_is_reported_by_its_visits(order: FSM) -> None:
    analysis = analysis_of(order.execute())
    assert [bar.path for bar in analysis.bars][:3] == ["pending", "paying", "paying"]
    assert analysis.critical == []
    assert "one state at a time" in analysis.bounds[0]
    paying = next(row for row in analysis.rows if row.path == "paying")
    assert (paying.visits, paying.attempts) == (3, 3)


def test_machine_restored_elsewhere_has_no_clock_for_earlier_visits(order: FSM) -> None:
    machine = order.start()
    machine.step()
    again = order.restore(machine.snapshot())
    again.run()
    run = order.last_run
    assert run is not None
    analysis = analysis_of(run)
    assert "pending" not in [bar.path for bar in analysis.bars]
    assert analysis.seconds < 60
    run.summary()


def test_run_in_progress_is_reported() -> None:
    dag, seen = DAG("demo"), []
    dag.add_node("first", lambda: 1)
    dag.add_node("second", lambda first: seen.append(dag.last_run.summary()))  # type: ignore[union-attr]
    dag.connect("first", "second").run(mode="parallel")
    assert "demo: running" in seen[0]


# As text.


def failing(orders: DAG) -> Run:
    run = orders.execute(
        {"path": "a" * 80}, error_strategy="continue", mode="parallel", max_workers=2
    )
    times = {
        "load": (0.0, 0.1),
        "enough": (0.1, 0.1),
        "model": (0.1, 0.7),
        "best": (0.7, 0.8),
        "route": (0.8, 0.9),
        "checks": (0.8, 1.0),
        "mail": (1.0, 1.1),
        "everything": (1.0, 1.25),
    }
    at_times(run, times, 1.25)
    at_times(run.children["checks"], {"first": (0.8, 0.9), "second": (0.9, 1.0)}, 1.0)
    return retried(run, "model", 0.2, 0.1, "OSError: busy")


def test_summary_of_a_run(orders: DAG) -> None:
    text = re.sub(r'File ".*?", line \d+', 'File "orders.py", line 1', failing(orders).summary())
    text = re.sub(r"^run \w{32}, began .*$", "run 1, began ...", text, flags=re.MULTILINE)
    if os.environ.get("GOLDEN") == "write":
        GOLDEN.write_text(text + "\n", encoding="utf-8")
    assert text + "\n" == GOLDEN.read_text(encoding="utf-8")


def test_summary_of_many_nodes_is_short() -> None:
    names = [f"n{number}" for number in range(500)]
    text = chain(*names).execute().summary()
    assert len(text.splitlines()) < 50
    assert "... 492 more ..." in text
    assert "the 25 longest of 500" in text


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.stress
def test_report_of_10_000_nodes_is_made_in_time(fails: bool) -> None:
    def first() -> None:
        if fails:
            raise OSError("no server")

    names = [f"n{number}" for number in range(1, 10_000)]
    dag = chain(*names).add_node("n0", first).connect("n0", "n1")
    run = dag.execute(error_strategy="continue")
    assert "10,000 nodes" in run.summary()
    assert ("  n9: n0 failed\n" in run.summary()) is fails
    assert "more than 1,500 boxes" in run.report()


def test_summary_of_a_run_that_timed_out() -> None:
    dag = DAG("demo")

    @dag.node
    async def slow() -> None:
        await asyncio.sleep(30)

    text = dag.execute(timeout=0.01).summary()
    assert "demo: timed out" in text
    assert "did not end within its timeout" in text


def test_summary_of_nothing() -> None:
    text = DAG("demo").add_node("a", lambda: 1).execute(mode="parallel").summary()
    assert text.startswith("demo: completed in ")


def test_durations_are_readable() -> None:
    seconds = (0, 1e-6, 0.00099951, 0.9996, 59.99, 3599.7, 7261)
    assert [duration(each) for each in seconds] == [
        "0 s",
        "1 µs",
        "1 ms",
        "1 s",
        "1 min 0 s",
        "1 h 0 min",
        "2 h 1 min",
    ]


def test_report_tells_which_run_it_was_and_where(orders: DAG) -> None:
    before = int(time.time())
    run = orders.execute(error_strategy="continue")
    text = run.summary().splitlines()[2]
    assert text.startswith(f"run {run.run_id}, began ")
    began = datetime.strptime(text.split("began ")[1].split(",")[0], "%Y-%m-%d %H:%M:%S %z")
    assert before <= began.timestamp() <= time.time()
    assert text.endswith(f"process {os.getpid()}, Python {platform.python_version()}")
    assert platform.node() in text
    assert text in run.report()


def test_machine_began_when_its_first_run_did(order: FSM) -> None:
    machine = order.start()
    machine.step()
    first = view_of(machine).run
    machine.run()
    last = view_of(machine).run
    assert first is not None
    assert last is not None
    assert first.began_at == last.began_at > 0


# As a page.


class Page(HTMLParser):
    """The elements of a page: those that load or run something, ids, and whether tags close."""

    VOID = ("meta", "input", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_is_whole_and_loads_nothing(orders: DAG, tmp_path: Path) -> None:
    path = tmp_path / "run.html"
    text = failing(orders).report(path)
    assert path.read_text(encoding="utf-8") == text
    page = Page(text)
    assert page.open == []
    assert page.tags.count("script") == 1
    assert not {"link", "img", "iframe", "object"}.intersection(page.tags)
    names = {name for name, _ in page.attributes}
    assert not {"src", "href"}.intersection(names)
    assert not any(name.startswith("on") for name in names)
    for section in ("Graph", "Timeline", "What bounds the run", "Errors", "Inputs", "Metrics"):
        assert section in page.text
    assert "OSError: no server" in page.text
    assert "Traceback (most recent call last)" in page.text


def test_page_names_nodes_alike_everywhere(orders: DAG) -> None:
    page = Page(failing(orders).report())
    keys = [value for name, value in page.attributes if name == "data-node"]
    assert keys.count("checks.first") == 3  # graph, timeline, table
    assert keys.count("mail") == 4  # and its error


def test_page_shows_names_and_values_as_they_are() -> None:
    evil = '"></code></pre><script>alert(1)</script>'

    def raises(x: str) -> None:
        raise ValueError(evil + x)

    dag = DAG(evil).add_node(evil, raises).add_node("\x00\ud800", lambda: 1)
    run = dag.execute({"x": evil}, error_strategy="continue")
    page = Page(run.report())
    assert page.tags.count("script") == 1
    assert page.open == []
    assert evil in page.text


def raising(name: str) -> Any:
    def look(*args: Any) -> Any:
        raise RuntimeError(name)

    return look


@pytest.mark.parametrize("as_cause", [False, True])
@pytest.mark.parametrize(
    "namespace",
    [
        {"__bool__": raising("__bool__")},
        {"__getattribute__": raising("__getattribute__")},
        *(
            {name: property(raising(name))}
            for name in ("__class__", "__cause__", "__context__", "__traceback__", "__notes__")
        ),
    ],
    ids=lambda each: next(iter(each)),
)
def test_errors_of_odd_classes_are_reported(namespace: dict[str, Any], as_cause: bool) -> None:
    kind: Any = type("Odd", (Exception,), namespace)

    def fails() -> None:
        if as_cause:
            raise ValueError("outer") from kind("boo")
        raise kind("boo")

    run = DAG("demo").add_node("fails", fails).execute(error_strategy="continue")
    for text in (run.summary(), run.report()):
        assert ("ValueError: outer" if as_cause else "Odd: boo") in text
        assert "in fails" in text
    assert "Odd: boo" in run.report()


def test_page_has_its_picture_without_graphviz_and_grandalf(without_any: None, orders: DAG) -> None:
    page = Page(failing(orders).report())
    assert page.tags.count("svg") == 1
    assert "not drawn" not in page.text


def test_page_has_the_graph_as_text_where_graphviz_fails(failing_dot: None, orders: DAG) -> None:
    page = Page(failing(orders).report())
    assert "dot failed: broken" in page.text
    assert "flowchart" in page.text


def test_page_of_a_machine(order: FSM) -> None:
    assert "Slowest states" in Page(order.execute().report()).text
