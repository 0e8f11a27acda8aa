"""Who watches a run: progress callbacks, the bar, the log, metrics."""

from __future__ import annotations

import asyncio
import logging
import os
import pty
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import sleep
from typing import Any

import pytest

from fast_dag import (
    DAG,
    FSM,
    ConditionalReturn,
    Context,
    ExecutionError,
    MissingInputError,
    Run,
    TimeoutError,
    ValidationError,
)
from tests.concurrency.support import Tally, wait_for, wait_until
from tests.counting import steps_of
from tests.patience import LONG
from tests.ways import AT_ONCE_EVERYWHERE, EVERYWHERE, EXECUTE, OWN, OWN_AT_ONCE

Execute = Callable[..., Run]
Event = tuple[str, str, float]
Told = list[Event]

everywhere = pytest.mark.parametrize(
    "execute", [EXECUTE[way] for way in EVERYWHERE], ids=EVERYWHERE
)


def noting(told: Told) -> Callable[[str, str, float], None]:
    return lambda name, status, fraction: told.append((name, status, fraction))


def chain() -> DAG:
    dag = DAG("chain").add_node("a", lambda: 1).add_node("b", lambda x: x + 1)
    return dag.connect("a", "b")


def ends(told: Told, name: str) -> list[str]:
    """What was told of a node, in order."""
    return [status for each, status, _ in told if each == name]


# What is told.


@everywhere
def test_start_and_end_of_each_node_are_told_with_the_fraction_done(execute: Execute) -> None:
    told: Told = []
    assert execute(chain(), progress=noting(told)).value == 2
    assert told == [
        ("a", "running", 0.0),
        ("a", "completed", 0.5),
        ("b", "running", 0.5),
        ("b", "completed", 1.0),
    ]


@everywhere
def test_each_start_comes_before_its_end_and_the_fraction_never_falls(execute: Execute) -> None:
    told: Told = []
    dag = DAG("wide")
    for number in range(8):
        dag.add_node(f"n{number}", lambda: 1)
    execute(dag, progress=noting(told))
    assert len(told) == 16
    for name in dag.nodes:
        assert ends(told, name) == ["running", "completed"]
    fractions = [fraction for *_, fraction in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_skipped_nodes_are_told_once_and_count_as_done(execute: Execute) -> None:
    told: Told = []
    dag = DAG("branches")

    @dag.condition
    def decide() -> ConditionalReturn:
        return ConditionalReturn(True, 1)

    dag.add_node("yes", lambda x: x).add_node("no", lambda x: x).add_node("after", lambda x: x)
    decide.on_true >> dag.nodes["yes"]
    decide.on_false >> dag.nodes["no"] >> dag.nodes["after"]
    execute(dag, progress=noting(told))
    assert ends(told, "yes") == ["running", "completed"]
    assert ends(told, "no") == ends(told, "after") == ["skipped"]
    assert told[-1] == ("yes", "completed", 1.0)


@everywhere
def test_failures_are_told_and_what_they_skip(execute: Execute) -> None:
    told: Told = []
    dag = DAG("fails").add_node("bad", lambda: 1 / 0).add_node("after", lambda x: x)
    dag.connect("bad", "after")
    run = execute(dag, progress=noting(told), error_strategy="continue")
    assert run.status == "completed_with_errors"
    assert told == [("bad", "running", 0.0), ("bad", "failed", 0.5), ("after", "skipped", 1.0)]


@everywhere
def test_what_fail_fast_leaves_unstarted_is_not_told(execute: Execute) -> None:
    told: Told = []
    dag = DAG("fails").add_node("bad", lambda: 1 / 0).add_node("good", lambda x: x)
    dag.add_node("last", lambda x: x).connect("good", "last").connect("bad", "good")
    assert execute(dag, progress=noting(told)).status == "failed"
    assert {name for name, *_ in told if name != "bad"} <= {"good", "last"}
    assert "running" not in ends(told, "good") + ends(told, "last")
    assert ends(told, "bad") == ["running", "failed"]


def test_retries_are_told_between_start_and_end(execute: Execute) -> None:
    told: Told = []
    left = [ValueError("once"), ValueError("twice")]

    def flaky() -> int:
        if left:
            raise left.pop()
        return 1

    dag = DAG("retries").add_node("flaky", flaky, retry=2, retry_delay=0.0)
    assert execute(dag, progress=noting(told)).value == 1
    assert ends(told, "flaky") == ["running", "retrying", "retrying", "completed"]


def test_a_cache_hit_is_a_start_and_an_end(execute: Execute) -> None:
    told: Told = []
    dag = DAG("cached")

    @dag.cached_node
    def value() -> int:
        return 1

    for _ in range(2):
        assert execute(dag, progress=noting(told)).value == 1
    assert told == [("value", "running", 0.0), ("value", "completed", 1.0)] * 2


def test_a_node_that_fails_before_its_call_has_a_start_and_an_end(execute: Execute) -> None:
    told: Told = []
    dag = DAG("lacks").add_node("pair", lambda: {"x": 1}).add_node("takes", lambda y: y)
    dag.connect("pair", "takes", output="y")
    assert execute(dag, progress=noting(told)).status == "failed"
    assert ends(told, "takes") == ["running", "failed"]


@everywhere
def test_nested_nodes_are_told_by_path_and_the_fraction_is_of_the_outermost(
    execute: Execute,
) -> None:
    told: Told = []
    dag = DAG("outer").add_node("first", lambda: 1).add_node("sub", chain())
    execute(dag, progress=noting(told))
    inner = [event for event in told if event[0].startswith("sub")]
    assert [event[:2] for event in inner] == [
        ("sub", "running"),
        ("sub.a", "running"),
        ("sub.a", "completed"),
        ("sub.b", "running"),
        ("sub.b", "completed"),
        ("sub", "completed"),
    ]
    assert {fraction for *_, fraction in told} <= {0.0, 0.5, 1.0}
    assert told[-1][2] == 1.0


def test_the_fraction_of_a_part_counts_the_part() -> None:
    told: Told = []
    dag = chain().add_node("c", lambda x: x).connect("b", "c")
    dag.run_until("b", progress=noting(told))
    assert [fraction for *_, fraction in told] == [0.0, 0.5, 0.5, 1.0]


@everywhere
def test_each_visit_of_a_state_is_told(execute: Execute) -> None:
    told: Told = []
    fsm = FSM("rounds", initial_state="first", terminal_states=["last"])
    fsm.add_state("first", lambda: 1).add_state("last", lambda x: x)
    fsm.add_transition("first", "last")
    execute(fsm, progress=noting(told))
    assert told == [
        ("first", "running", 0.0),
        ("first", "completed", 0.5),
        ("last", "running", 0.5),
        ("last", "completed", 1.0),
    ]


# One at a time, and harmless.


@pytest.mark.parametrize("mode", AT_ONCE_EVERYWHERE)
def test_a_callback_is_never_called_twice_at_once(mode: str) -> None:
    tally, calls = Tally(), Counter[str]()
    dag = DAG("busy")

    def watching(name: str, status: str, fraction: float) -> None:
        tally.enter()
        calls[status] += 1
        sleep(0.0005)  # long enough to be interrupted
        tally.leave()

    def talks() -> None:
        for _ in range(5):
            dag.progress_callback("talks", "on my way", 0.5)

    async def talks_awaiting() -> None:
        for _ in range(5):
            await asyncio.sleep(0)
            dag.progress_callback("talks", "on my way", 0.5)

    for number in range(6):
        if mode == "process":
            dag.add_node(f"n{number}", lambda: 1)
        else:
            dag.add_node(f"n{number}", talks).add_node(f"a{number}", talks_awaiting)
    EXECUTE[mode](dag, progress=watching, max_workers=2 if mode == "process" else 4)
    assert tally.most() == 1
    assert calls["running"] == calls["completed"] == len(dag.nodes)
    assert calls["on my way"] == (0 if mode == "process" else 60)


@everywhere
def test_a_callback_that_raises_is_logged_once_and_does_no_harm(
    execute: Execute, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "fast_dag")
    calls = 0

    def broken(name: str, status: str, fraction: float) -> None:
        nonlocal calls
        calls += 1
        raise RuntimeError("screen is off")

    run = execute(chain(), progress=broken)
    assert (run.status, run.value, calls) == ("completed", 2, 4)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("fast_dag", "ERROR")
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], RuntimeError)
    assert (record.__dict__["run_id"], record.__dict__["node"]) == (run.run_id, "a")


def test_each_run_logs_its_raising_callback(
    execute: Execute, caplog: pytest.LogCaptureFixture
) -> None:
    dag = chain()

    def broken(name: str, status: str, fraction: float) -> None:
        raise RuntimeError("screen is off")

    dag.progress_callback = broken
    for _ in range(3):
        execute(dag)
    assert len({record.__dict__["run_id"] for record in caplog.records}) == 3
    assert len(caplog.records) == 3


def test_a_node_is_not_harmed_by_the_callback_that_it_calls(execute: Execute) -> None:
    dag = DAG("asks")

    def broken(name: str, status: str, fraction: float) -> None:
        raise RuntimeError("screen is off")

    dag.add_node("talks", lambda: dag.progress_callback("talks", "half", 0.5))
    assert execute(dag, progress=broken).status == "completed"


def test_ctrl_c_in_a_callback_ends_the_run() -> None:
    told: Told = []

    def interrupted(name: str, status: str, fraction: float) -> None:
        told.append((name, status, fraction))
        if len(told) == 1:
            raise KeyboardInterrupt

    dag = chain()
    with pytest.raises(KeyboardInterrupt):
        dag.run(progress=interrupted)
    assert [event[:2] for event in told] == [("a", "running"), ("a", "cancelled")]
    assert dag.context.metadata["execution_status"] == "cancelled"


def test_a_callback_may_look_at_the_run_and_start_another(execute: Execute) -> None:
    dag, other = chain(), chain()
    seen: list[Any] = []

    def curious(name: str, status: str, fraction: float) -> None:
        seen.append((name, status, dag.context.metrics["nodes_executed"], other.run()))

    dag.progress_callback = curious
    dag.run()
    assert [event[:2] for event in seen] == [
        ("a", "running"),
        ("a", "completed"),
        ("b", "running"),
        ("b", "completed"),
    ]
    assert all(event[3] == 2 for event in seen)
    assert execute(dag).value == 2


# Which callback.


def test_the_attribute_can_always_be_called() -> None:
    for workflow in (chain(), FSM("m", initial_state="a").add_state("a", lambda: 1)):
        assert workflow.progress_callback("anything", "half", 0.5) is None
        told: Told = []
        workflow.progress_callback = noting(told)
        workflow.progress_callback("anything", "half", 0.5)
        assert told == [("anything", "half", 0.5)]
        workflow.progress_callback = None
        workflow.progress_callback("anything", "half", 0.5)
        assert len(told) == 1


def test_what_cannot_be_called_is_refused() -> None:
    dag: Any = chain()
    with pytest.raises(ValidationError, match="progress_callback is not callable: 5"):
        dag.progress_callback = 5
    with pytest.raises(ValidationError, match="progress is a function"):
        dag.run(progress=5)


def test_the_callback_of_a_run_takes_the_place_of_the_workflows_own(execute: Execute) -> None:
    own: Told = []
    for_run: Told = []
    dag = DAG("talks").add_node("n", lambda: dag.progress_callback("n", "half", 0.5))
    dag.progress_callback = noting(own)
    execute(dag)
    events = [("n", "running", 0.0), ("n", "half", 0.5), ("n", "completed", 1.0)]
    assert own == events
    execute(dag, progress=noting(for_run))
    assert for_run == events
    assert own == events, "it was told of a run that has a callback of its own"
    execute(dag, progress=False)
    assert [event[1] for event in own[3:]] in ([], ["half"])


def test_runs_at_once_have_their_own_callbacks() -> None:
    dag = DAG("shared")
    meet = threading.Barrier(2, timeout=LONG)

    @dag.node
    def talks(who: str) -> str:
        meet.wait()
        dag.progress_callback("talks", who, 0.5)
        return who

    told: dict[str, Told] = {"one": [], "two": []}
    threads = [
        threading.Thread(target=dag.run, kwargs={"who": who, "progress": noting(told[who])})
        for who in told
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    for who, events in told.items():
        assert [event[1] for event in events] == ["running", who, "completed"]


def test_nodes_of_a_nested_workflow_call_the_callback_of_the_outermost_run(
    execute: Execute,
) -> None:
    told: Told = []
    inner = DAG("inner").add_node("n", lambda: inner.progress_callback("n", "half", 0.5))
    outer = DAG("outer").add_node("sub", inner)
    execute(outer, progress=noting(told))
    assert ("n", "half", 0.5) in told


# What is cut off.


Held = Callable[[], None]
Watch = Callable[[str, str, float], None]


@contextmanager
def released_at_the_end() -> Iterator[Held]:
    """A function that blocks until the block ends."""
    over = threading.Event()
    try:
        yield lambda: wait_for(over)
    finally:
        over.set()


def cut_off(
    call: Callable[[Held, float, Watch], Run], *needed: tuple[str, str]
) -> tuple[Run, Told]:
    """A run that a timeout ended when these events had been told, and all that was told; on a
    machine too slow for that, with more time."""
    for seconds in (0.1, 1.0, LONG / 2):
        told: Told = []
        with released_at_the_end() as held:
            run = call(held, seconds, noting(told))
            at_the_end = list(told)
        if {event[:2] for event in at_the_end} >= {*needed}:
            assert told == at_the_end, "it was told of something after the run"
            return run, told
    raise AssertionError(f"{needed} were not told in time, but {told}")


def execute_and_leave_behind(workflow: Any, **options: Any) -> Run:
    """On an executor that does not wait for the calls that were given up."""
    executor = ThreadPoolExecutor(4)
    try:
        return workflow.execute(executor=executor, **options)
    finally:
        executor.shutdown(wait=False)


ABANDONING: dict[str, Callable[..., Run]] = {mode: EXECUTE[mode] for mode in OWN_AT_ONCE} | {
    "executor": execute_and_leave_behind
}
abandoning = pytest.mark.parametrize("execute", ABANDONING.values(), ids=ABANDONING)


@abandoning
def test_nodes_cut_off_by_the_timeout_are_told_to_be_cancelled(execute: Execute) -> None:
    def call(held: Held, seconds: float, watch: Watch) -> Run:
        dag = DAG("late").add_node("done", lambda: 1).add_node("first", lambda x: held())
        dag.add_node("second", lambda x: held()).add_node("never", lambda x, y: None)
        dag.connect("done", "first").connect("done", "second")
        dag.connect("first", "never").connect("second", "never")
        return execute(dag, progress=watch, timeout=seconds, max_workers=3)

    run, told = cut_off(call, ("first", "running"), ("second", "running"))
    assert run.status == "timed_out"
    assert ends(told, "done") == ["running", "completed"]
    assert ends(told, "first") == ends(told, "second") == ["running", "cancelled"]
    assert ends(told, "never") == []
    assert [event[2] for event in told[-2:]] == [0.25, 0.25], "what was cut off is not done"


@abandoning
def test_nested_nodes_cut_off_are_told_before_those_they_are_in(execute: Execute) -> None:
    def call(held: Held, seconds: float, watch: Watch) -> Run:
        dag = DAG("outer").add_node("sub", DAG("inner").add_node("held", held))
        return execute(dag, progress=watch, timeout=seconds)

    run, told = cut_off(call, ("sub.held", "running"))
    assert run.status == "timed_out"
    assert [event[:2] for event in told] == [
        ("sub", "running"),
        ("sub.held", "running"),
        ("sub.held", "cancelled"),
        ("sub", "cancelled"),
    ]


@abandoning
def test_a_node_that_fails_by_its_own_timeout_takes_nested_ones_with_it(execute: Execute) -> None:
    def call(held: Held, seconds: float, watch: Watch) -> Run:
        dag = DAG("outer").add_node("sub", DAG("inner").add_node("held", held), timeout=seconds)
        dag.add_node("alone", held, timeout=seconds)
        return execute(dag, progress=watch, error_strategy="continue", max_workers=4)

    run, told = cut_off(call, ("sub.held", "running"))
    assert run.status == "completed_with_errors"
    assert ends(told, "alone") == ends(told, "sub") == ["running", "failed"]
    assert ends(told, "sub.held") == ["running", "cancelled"]
    assert told[-1][2] == 1.0


@abandoning
def test_a_state_cut_off_by_the_timeout_is_told_to_be_cancelled(execute: Execute) -> None:
    def call(held: Held, seconds: float, watch: Watch) -> Run:
        fsm: Any = FSM("late", initial_state="first", terminal_states=["held"])
        fsm.add_state("first", lambda: 1).add_state("held", held)
        fsm.add_transition("first", "held")
        return execute(fsm, progress=watch, timeout=seconds)

    run, told = cut_off(call, ("held", "running"))
    assert run.status == "timed_out"
    assert [event[:2] for event in told] == [
        ("first", "running"),
        ("first", "completed"),
        ("held", "running"),
        ("held", "cancelled"),
    ]


@abandoning
def test_a_wait_for_a_retry_that_is_cut_off_is_told_to_be_cancelled(execute: Execute) -> None:
    def call(held: Held, seconds: float, watch: Watch) -> Run:
        dag = DAG("waits").add_node("flaky", lambda: 1 / 0, retry=1, retry_delay=3600)
        return execute(dag, progress=watch, timeout=seconds)

    run, told = cut_off(call, ("flaky", "retrying"))
    assert run.status == "timed_out"
    assert ends(told, "flaky") == ["running", "retrying", "cancelled"]


@abandoning
def test_a_run_that_ends_waits_for_the_callback_that_is_being_called(execute: Execute) -> None:
    finished: Told = []

    def call(held: Held, seconds: float, watch: Watch) -> Run:
        context = Context()
        finished.clear()

        def slow(name: str, status: str, fraction: float) -> None:
            watch(name, status, fraction)
            if status == "completed":
                wait_until(lambda: context.metadata["execution_status"] == "timed_out")
                sleep(0.05)  # a run that does not wait is over by then
            finished.append((name, status, fraction))

        dag = DAG("late").add_node("quick", lambda: 1).add_node("held", held)
        run = execute(dag, progress=slow, timeout=seconds, max_workers=2, context=context)
        finished.append(("run", "over", 1.0))
        return run

    cut_off(call, ("quick", "completed"), ("held", "running"))
    assert finished[-1] == ("run", "over", 1.0)
    assert {event[:2] for event in finished} >= {("quick", "completed"), ("held", "cancelled")}


@pytest.mark.needs("cloudpickle")
def test_a_process_of_a_cancelled_task_is_told_to_be_cancelled() -> None:
    told: Told = []
    dag = DAG("late").add_node("held", lambda: __import__("time").sleep(60))

    async def cancelled() -> None:
        loop = asyncio.get_running_loop()

        def watch(name: str, status: str, fraction: float) -> None:
            told.append((name, status, fraction))
            loop.call_soon_threadsafe(task.cancel)

        task = asyncio.create_task(dag.run_async(mode="process", progress=watch))
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert told == [("held", "running", 0.0), ("held", "cancelled", 0.0)]


def test_nodes_of_a_cancelled_task_are_told_to_be_cancelled() -> None:
    told: Told = []
    dag = DAG("endless")

    async def cancelled() -> None:
        begun = asyncio.Event()

        @dag.node
        async def endless() -> None:
            begun.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(dag.run_async(progress=noting(told)))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert told == [("endless", "running", 0.0), ("endless", "cancelled", 0.0)]


@pytest.mark.parametrize("mode", OWN)
@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_nodes_that_end_the_program_are_told_to_be_cancelled(
    mode: str, stop: type[BaseException]
) -> None:
    told: Told = []

    def stops() -> None:
        raise stop

    dag = DAG("outer").add_node("sub", DAG("inner").add_node("stops", stops))
    with pytest.raises(stop):
        EXECUTE[mode](dag, progress=noting(told))
    assert [event[:2] for event in told] == [
        ("sub", "running"),
        ("sub.stops", "running"),
        ("sub.stops", "cancelled"),
        ("sub", "cancelled"),
    ]


# The bar.


@pytest.mark.needs("rich")
@everywhere
def test_the_bar_writes_nothing_where_the_output_is_no_terminal(
    execute: Execute, capfd: pytest.CaptureFixture[str]
) -> None:
    assert execute(chain(), progress=True).value == 2
    assert capfd.readouterr() == ("", "")


IN_A_TERMINAL = textwrap.dedent("""
    import threading
    from fast_dag import DAG, MissingInputError, ExecutionError
    def end():
        for thread in threading.enumerate():
            if thread is not threading.current_thread():
                thread.join(60)
                assert not thread.is_alive(), thread
    dag = DAG("shown").add_node("loading", lambda x: x).add_node("ending", lambda x: 1 / x)
    dag.connect("loading", "ending")
    try:
        dag.run(progress=True)
    except MissingInputError:
        end()
    assert dag.run(x=1, progress=True) == 1
    try:
        dag.run(x=0, progress=True, mode="parallel")
    except ExecutionError:
        end()
    print("at the end")
""")


@pytest.mark.needs("rich")
def test_the_bar_is_shown_in_a_terminal_and_taken_away() -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    try:
        child = subprocess.Popen(
            [sys.executable, "-c", IN_A_TERMINAL],
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            env=environment,
        )
        os.close(theirs)
        written = b""
        try:
            while part := os.read(ours, 4096):
                written += part
        except OSError:  # the other end is closed
            pass
        child.wait(timeout=LONG)
    finally:
        os.close(ours)
    assert child.returncode == 0
    text = written.decode()
    assert "ending: completed" in text
    assert "ending: failed" in text
    assert text.rstrip().endswith("at the end")
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 2, "the cursor is back"


# Metrics.


KEYS = {
    "execution_time",
    "node_times",
    "execution_order",
    "nodes_executed",
    "nodes_failed",
    "nodes_skipped",
    "retries",
    "cache_hits",
    "cache_misses",
}


@everywhere
@pytest.mark.parametrize("observed", [False, True], ids=["", "observed"])
def test_metrics_of_a_run_count_what_ran_failed_and_was_skipped(
    execute: Execute, observed: bool
) -> None:
    dag = chain().add_node("bad", lambda x: 1 / 0).add_node("after", lambda x: x)
    dag.connect("b", "bad").connect("bad", "after")
    options: dict[str, Any] = {"progress": noting([])} if observed else {}
    run = execute(dag, error_strategy="continue", **options)
    metrics = run.context.metrics
    assert set(metrics) == KEYS
    assert metrics == run.metrics
    assert metrics["execution_order"] == list(metrics["node_times"]) == ["a", "b", "bad"]
    counts = ("nodes_executed", "nodes_failed", "nodes_skipped")
    assert [metrics[key] for key in counts] == [3, 1, 1]
    assert all(seconds >= 0 for seconds in metrics["node_times"].values())
    assert 0 < sum(metrics["node_times"].values()) <= metrics["execution_time"]
    assert metrics == run.context.metrics, "time goes on after the end"


@everywhere
def test_metrics_count_retries_where_the_attempts_are_made(execute: Execute) -> None:
    dag = DAG("retries").add_node("bad", lambda: 1 / 0, retry=2, retry_delay=0.0)
    dag.add_node("good", lambda: 1, retry=2)
    assert execute(dag, error_strategy="continue").metrics["retries"] == 2


@everywhere
def test_metrics_count_hits_and_misses(execute: Execute) -> None:
    dag = DAG("cached")
    dag.cached_node(lambda x: x + 1, name="cached")
    dag.add_node("plain", lambda cached: cached).connect("cached", "plain")
    found = [execute(dag, x=x).metrics for x in (1, 1, 2)]
    assert [each["cache_hits"] for each in found] == [0, 1, 0]
    assert [each["cache_misses"] for each in found] == [1, 0, 1]
    assert [each["nodes_executed"] for each in found] == [2, 2, 2]


@everywhere
def test_a_nested_workflow_counts_as_one_node_and_has_metrics_of_its_own(
    execute: Execute,
) -> None:
    run = execute(DAG("outer").add_node("sub", chain()))
    assert run.metrics["execution_order"] == ["sub"]
    inner = run.children["sub"].metrics
    assert inner["execution_order"] == ["a", "b"]
    assert inner["execution_time"] <= run.metrics["execution_time"]


def test_nodes_can_look_at_the_metrics_so_far(execute: Execute) -> None:
    dag = DAG("looks").add_node("first", lambda: 1)
    dag.add_node("second", lambda x: dict(dag.context.metrics)).connect("first", "second")
    seen = execute(dag).value
    assert seen["execution_order"] == ["first"]
    assert seen["execution_time"] > 0


@everywhere
def test_metrics_of_a_machine_count_visits(execute: Execute) -> None:
    fsm = FSM("rounds", initial_state="up")
    fsm.add_state("up", lambda n: n + 1).add_state("done", lambda n: n, terminal=True)
    fsm.add_transition("up", "done", condition=lambda n: n >= 3).add_transition("up", "up")
    metrics = execute(fsm, n=0).metrics
    assert set(metrics) >= KEYS
    assert metrics["execution_order"] == ["up", "up", "up", "done"]
    assert metrics["nodes_executed"] == 4
    assert set(metrics["node_times"]) == {"up", "done"}


def test_a_run_cut_short_has_metrics() -> None:
    def call(held: Held, seconds: float, watch: Watch) -> Run:
        dag = chain().add_node("held", lambda x: held()).connect("b", "held")
        return dag.execute(mode="parallel", timeout=seconds, progress=watch)

    run, _ = cut_off(call, ("held", "running"))
    assert run.status == "timed_out"
    assert run.metrics["execution_order"] == ["a", "b"]
    # The deadline counts from a moment before the run opens.
    assert 0.05 <= run.metrics["execution_time"] < LONG


# Memory.


SIZE = 4 * 2**20


def test_the_peak_of_memory_is_measured_where_asked_for(execute: Execute) -> None:
    dag = DAG("large").add_node("large", lambda: len(bytearray(SIZE)))
    assert "memory_usage" not in execute(dag).metrics
    metrics = execute(dag, track_memory=True).metrics
    assert set(metrics) == {*KEYS, "memory_usage"}
    assert 4 <= metrics["memory_usage"]["peak_mb"] < 8
    assert not tracemalloc.is_tracing()
    small = execute(DAG("small").add_node("small", lambda: 1), track_memory=True)
    assert small.metrics["memory_usage"]["peak_mb"] < 4, "a peak of an earlier run"


@pytest.mark.needs("cloudpickle")
def test_memory_of_worker_processes_is_not_measured() -> None:
    dag = DAG("large").add_node("large", lambda size: len(bytearray(size)))
    run = dag.execute(mode="process", track_memory=True, size=16 * SIZE)
    assert run.metrics["memory_usage"]["peak_mb"] < 64


def test_the_peak_of_a_machine_is_measured(execute: Execute) -> None:
    fsm = FSM("large", initial_state="large")
    fsm.add_state("large", lambda: len(bytearray(SIZE)), terminal=True)
    assert execute(fsm, track_memory=True).metrics["memory_usage"]["peak_mb"] >= 4
    assert not tracemalloc.is_tracing()


def test_tracing_ends_with_runs_that_fail_time_out_or_are_refused(execute: Execute) -> None:
    assert execute(DAG("bad").add_node("bad", lambda: 1 / 0), track_memory=True).status == "failed"
    assert not tracemalloc.is_tracing()
    with pytest.raises(MissingInputError):
        execute(DAG("lacks").add_node("lacks", lambda x: x), track_memory=True)
    assert not tracemalloc.is_tracing()
    with released_at_the_end() as held:
        late = DAG("late").add_node("held", held)
        with pytest.raises(TimeoutError):
            late.run(mode="parallel", track_memory=True, timeout=0.05)
    assert not tracemalloc.is_tracing()
    assert late.context.metrics["memory_usage"]["peak_mb"] >= 0


def test_tracing_that_somebody_else_began_goes_on(execute: Execute) -> None:
    tracemalloc.start()
    try:
        assert execute(chain(), track_memory=True).metrics["memory_usage"]["peak_mb"] >= 0
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()


def test_runs_at_once_share_the_trace_and_the_last_one_ends_it() -> None:
    meet = threading.Barrier(2, timeout=LONG)
    first_over = threading.Event()
    traced: list[bool] = []
    one = DAG("one").add_node("meet", lambda: meet.wait())
    two = DAG("two").add_node("meet", lambda: meet.wait())

    @two.node
    def after(place: int) -> None:
        wait_for(first_over)
        traced.append(tracemalloc.is_tracing())

    two.connect("meet", "after")
    thread = threading.Thread(target=two.run, kwargs={"track_memory": True})
    thread.start()
    one.run(track_memory=True)
    first_over.set()
    thread.join(LONG)
    assert traced == [True]
    assert not tracemalloc.is_tracing()


def test_an_error_of_a_watched_run_is_the_same(execute: Execute) -> None:
    dag = DAG("fails").add_node("bad", lambda: 1 / 0)
    plain, watched = execute(dag), execute(dag, progress=noting([]), track_memory=True)
    for run in (plain, watched):
        with pytest.raises(ExecutionError) as caught:
            run.raise_for_error()
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert str(plain.exception()) == str(watched.exception())


# What watching costs.


@pytest.mark.parametrize("keep", [None, 5])
@pytest.mark.parametrize("by", ["progress", "log"])
def test_step_of_a_watched_machine_costs_the_same_after_many(
    by: str, keep: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    fsm = FSM("long", initial_state="on", keep_history=keep, max_cycles=10**6)
    fsm.add_state("on", lambda: None).add_transition("on", "on")
    if by == "log":
        caplog.set_level(logging.DEBUG, "fast_dag")
    machine = fsm.start(progress=noting([]) if by == "progress" else None)
    for _ in range(20):
        machine.step()
    # The least of some: what the collector finds to do in between is counted, too.
    early = min(steps_of(machine.step) for _ in range(5))
    for _ in range(500):
        machine.step()
    assert abs(min(steps_of(machine.step) for _ in range(5)) - early) < 100


def nested_at_once(number: int) -> int:
    """What it costs to watch so many nested workflows that run at once, per workflow."""
    told: Told = []
    outer, held = DAG("outer"), asyncio.Event()

    async def waits() -> None:
        await held.wait()

    async def goes() -> None:
        held.set()

    for each in range(number):
        outer.add_node(f"n{each}", DAG("inner").add_node("waits", waits))
    outer.add_node("last", goes)
    outer.validate()
    cost = steps_of(lambda: asyncio.run(outer.run_async(progress=noting(told))))
    assert len(told) == 4 * number + 2
    return cost // number


def test_nested_run_that_ends_costs_the_same_however_many_are_running() -> None:
    assert nested_at_once(400) < 1.05 * nested_at_once(20)


def test_fraction_of_a_machine_goes_on_where_it_stood() -> None:
    fsm = FSM("four", initial_state="a", keep_history=1)
    for here, there in ("ab", "bc", "cd"):
        fsm.add_state(here, lambda: None).add_transition(here, there)
    fsm.add_terminal_state("d", lambda: None)
    machine = fsm.start()
    machine.step()
    told: Told = []
    machine = fsm.restore(machine.snapshot(), progress=noting(told))
    machine.step()
    machine.run()
    assert [fraction for *_, fraction in told] == [0.25, 0.5, 0.5, 0.75, 0.75, 1.0]


def test_an_async_callback_is_refused_where_it_is_given() -> None:
    async def told(name: str, status: str, fraction: float) -> None: ...

    dag = DAG("d").add_node("n", lambda: 1)
    with pytest.raises(ValidationError, match="a progress callback is a sync function"):
        dag.run(progress=told)
    with pytest.raises(ValidationError, match="a progress callback is a sync function"):
        dag.progress_callback = told


def test_a_retry_does_not_wait_for_the_callback_of_another_thread_and_progress_never_falls() -> (
    None
):
    held, told = threading.Event(), list[tuple[str, str, float]]()

    def callback(name: str, status: str, fraction: float) -> None:
        told.append((name, status, fraction))
        if (name, status) == ("quick", "completed"):
            assert held.wait(LONG)

    async def flaky() -> int:
        flaky_calls.append(1)
        if len(flaky_calls) == 2:
            held.set()  # the loop went on, though the callback of "quick" has not returned
            return 2
        while ("quick", "completed") not in [event[:2] for event in told]:
            await asyncio.sleep(0.001)
        raise LookupError("not yet")

    flaky_calls: list[int] = []
    dag = DAG("d").add_node("quick", lambda: 1).add_node("flaky", flaky, retry=1, retry_delay=0)
    assert asyncio.run(dag.execute_async(progress=callback)).status == "completed"
    fractions = [fraction for _, _, fraction in told]
    assert fractions == sorted(fractions)
    assert ("flaky", "retrying", 0.5) in told
