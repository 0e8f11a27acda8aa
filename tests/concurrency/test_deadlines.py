"""Timeouts of runs and of nodes: met in every mode, and nothing happens behind their back.

How far past its deadline each run ended is printed (`pytest -rP`) and recorded as the property
`overshoot_ms`; what is asserted leaves room for a machine under load.
"""

from __future__ import annotations

import asyncio
import builtins
import functools
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

import pytest

import fast_dag
from fast_dag import DAG, ExecutionError, Run, ValidationError
from tests.concurrency.support import (
    Here,
    Way,
    end_of,
    is_alive,
    threads_of_runs,
    wait_for,
    wait_until,
)
from tests.patience import LONG, timeouts
from tests.ways import EXECUTE, MODES, OWN, OWN_AT_ONCE, OWN_EVERYWHERE

LATE = LONG / 2
"""Seconds a deadline may be missed by when the machine is busy; without load it is 0.05."""

everywhere = pytest.mark.parametrize("way", OWN_EVERYWHERE, indirect=True)
in_this_process = pytest.mark.parametrize("way", OWN, indirect=True)
Measure = Callable[[float], None]


@pytest.fixture
def overshoot(record_property: Callable[[str, object], None]) -> Measure:
    """Say how far past its deadline something ended."""

    def measure(seconds: float) -> None:
        record_property("overshoot_ms", round(1000 * seconds, 1))
        print(f"overshoot: {1000 * seconds:.1f} ms")
        assert 0 <= seconds < LATE

    return measure


def time_for(way: Way) -> float:
    """Seconds in which a run gets to the node that is held, unless the machine is busy."""
    return 0.6 if way.has_processes else 0.2


class Held:
    """A DAG whose second node ends when it is let go; it knows what has started, and in which
    threads."""

    def __init__(self, way: Way) -> None:
        self.started, self.let_go = way.shared.list(), way.shared.Event()
        self.threads: set[threading.Thread] = set()
        started, let_go = self.started, self.let_go
        threads = None if way.has_processes else self.threads

        def quick() -> int:
            started.append("quick")
            return 1

        def held(quick: int) -> str:
            if threads is not None:
                threads.add(threading.current_thread())
            started.append("held")
            wait_for(let_go)
            return "late"

        def after(held: str) -> None:
            started.append("after")

        self.dag = DAG("held").add_node("quick", quick).add_node("held", held)
        self.dag.add_node("after", after).connect("quick", "held").connect("held", "after")

    def end(self) -> None:
        """Let the held node go, and wait until its thread has ended."""
        self.let_go.set()
        end_of(self.threads)


def held_at_the_deadline(
    way: Way, wrap: Callable[[Held], DAG] = lambda held: held.dag
) -> tuple[Held, Run, float]:
    """Run until a deadline that comes while the node is held; how far past it the run ended."""
    for timeout in timeouts(time_for(way)):
        held = Held(way)
        dag = wrap(held)
        began = monotonic()
        run = way.execute(dag, timeout=timeout)
        late = monotonic() - began - timeout
        if "held" in held.started:
            break
        held.end()
    return held, run, late


# The whole run.


@everywhere
def test_a_run_ends_at_its_deadline_and_nothing_starts_afterwards(
    way: Way, overshoot: Measure
) -> None:
    held, run, late = held_at_the_deadline(way)
    overshoot(late)
    assert run.status == run.context.metadata["execution_status"] == "timed_out"
    assert run.results == {"quick": 1}
    assert run.statuses == {"quick": "completed", "held": "cancelled", "after": "not_run"}

    held.end()
    assert list(held.started) == ["quick", "held"]
    assert run.results == {"quick": 1}
    assert run.status == run.context.metadata["execution_status"] == "timed_out"
    assert held.dag["quick"] == 1


def test_a_run_on_an_executor_ends_at_its_deadline(overshoot: Measure) -> None:
    way = Way("executor", Here)
    with ThreadPoolExecutor(2) as executor:
        way.execute = functools.partial(DAG.execute, executor=executor)
        held, run, late = held_at_the_deadline(way)
        overshoot(late)
        assert run.status == "timed_out"
        held.let_go.set()
        assert executor.submit(len, "open").result(LONG) == 4
    assert list(held.started) == ["quick", "held"]
    assert run.results == {"quick": 1}


@everywhere
def test_a_run_that_was_late_has_a_timeout_error_to_raise(way: Way) -> None:
    held, run, _ = held_at_the_deadline(way)
    with pytest.raises(fast_dag.TimeoutError, match="'held'") as caught:
        run.raise_for_error()
    error = caught.value
    assert isinstance(error, builtins.TimeoutError)
    assert isinstance(error, ExecutionError)
    assert error.run is run
    assert run.status == "timed_out"
    assert run.results == {"quick": 1}
    assert error.timeout == run._execution.settings.timeout
    held.end()


@pytest.mark.parametrize("mode", MODES)
def test_dag_run_raises_the_timeout_error(mode: Any) -> None:
    never, before = threading.Event(), threads_of_runs()
    dag = DAG("never").add_node("node", lambda: never.wait(LONG) and None)
    with pytest.raises(builtins.TimeoutError) as caught:
        dag.run(mode=mode, timeout=0.1)
    assert type(caught.value) is fast_dag.TimeoutError
    never.set()
    end_of(threads_of_runs() - before)


async def _raises_when_awaited(dag: DAG) -> None:
    with pytest.raises(fast_dag.TimeoutError):
        await dag.run_async(timeout=0.1)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_run_async_raises_the_timeout_error_and_leaves_no_task() -> None:
    async def node() -> None:
        await asyncio.Event().wait()

    asyncio.run(_raises_when_awaited(DAG("never").add_node("node", node)))


@everywhere
def test_async_nodes_are_cancelled_at_the_deadline_and_clean_up(
    way: Way, overshoot: Measure
) -> None:
    seen: list[str] = []

    async def held() -> None:
        seen.append("started")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            seen.append("cleaned up")

    dag = DAG("async").add_node("held", held).add_node("after", lambda held: seen.append("after"))
    dag.connect("held", "after")
    for timeout in timeouts():
        began = monotonic()
        run = way.execute(dag, timeout=timeout)
        overshoot(monotonic() - began - timeout)
        if "started" in seen:
            break
    assert run.status == "timed_out"
    assert run.statuses == {"held": "cancelled", "after": "not_run"}
    assert seen == ["started", "cleaned up"]


@everywhere
def test_a_run_that_ends_in_time_is_not_touched_by_its_timeout(way: Way) -> None:
    async def c(b: int) -> int:
        return b + 1

    dag = DAG("in time").add_node("a", lambda: 1).add_node("b", lambda a: a + 1).add_node("c", c)
    dag.connect("a", "b").connect("b", "c")
    run = way.execute(dag, timeout=LONG)
    assert (run.status, run.value) == ("completed", 3)


@everywhere
def test_waits_between_attempts_end_at_the_deadline(way: Way, overshoot: Measure) -> None:
    called = way.shared.list()
    dag = DAG("retry").add_node(
        "fails", lambda: called.append(1) or 1 / 0, retry=5, retry_delay=3600
    )
    for timeout in timeouts(time_for(way)):
        began = monotonic()
        run = way.execute(dag, timeout=timeout)
        overshoot(monotonic() - began - timeout)
        if called:
            break
    assert run.status == "timed_out"
    assert list(called) == [1]


@everywhere
def test_a_deadline_reaches_into_nested_workflows(way: Way, overshoot: Measure) -> None:

    def nested(held: Held) -> DAG:
        outer = DAG("outer").add_node("sub", held.dag)
        below = held.started
        outer.add_node("below", lambda sub: below.append("below")).connect("sub", "below")
        return outer

    held, run, late = held_at_the_deadline(way, nested)
    overshoot(late)
    assert run.status == "timed_out"
    assert run.children["sub"].status in ("timed_out", "cancelled")
    assert run["sub.quick"] == 1

    held.end()
    assert list(held.started) == ["quick", "held"]
    assert "sub" not in run.results


@in_this_process
def test_a_context_is_free_again_after_a_deadline(way: Way) -> None:
    held, run, _ = held_at_the_deadline(way)
    held.end()
    again = way.execute(held.dag, context=run.context)
    assert again.status == "completed"
    assert list(held.started) == ["quick", "held", "quick", "held", "after"]


@pytest.mark.parametrize("mode", OWN_EVERYWHERE)
@pytest.mark.parametrize("timeout", [0, -1, "soon"])
def test_a_timeout_that_is_no_time_is_an_error(mode: str, timeout: Any) -> None:
    ran: list[int] = []
    with pytest.raises(ValidationError, match="timeout"):
        EXECUTE[mode](DAG("odd").add_node("node", lambda: ran.append(1)), timeout=timeout)
    with pytest.raises(ValidationError, match="timeout"):
        DAG("odd").add_node("node", lambda: 1, timeout=timeout)
    assert not ran


# One node.


@everywhere
def test_a_late_node_fails_at_its_timeout_and_its_value_comes_to_nothing(
    way: Way, overshoot: Measure
) -> None:
    for timeout in timeouts(time_for(way)):
        held = Held(way)
        quick, late, after = (held.dag.nodes[name].func for name in ("quick", "held", "after"))
        dag = DAG("late").add_node("quick", quick).add_node("late", late, timeout=timeout)
        dag.add_node("after", after).add_node("beside", lambda quick: quick + 1)
        dag.connect("quick", "late").connect("late", "after").connect("quick", "beside")
        run = way.execute(dag, error_strategy="continue", max_workers=2)
        if "held" in held.started:
            break
        held.end()
    overshoot(run.timings["late"] - timeout)
    assert run.status == "completed_with_errors"
    assert run.statuses == {
        "quick": "completed",
        "late": "failed",
        "after": "skipped",
        "beside": "completed",
    }
    error = run.errors["late"]
    assert type(error) is fast_dag.TimeoutError
    assert (error.node_name, error.timeout) == ("late", timeout)

    held.end()
    assert "late" not in run.results
    assert list(held.started) == ["quick", "held"]
    assert run.statuses["late"] == "failed"


@everywhere
def test_a_node_timeout_that_ends_the_run_is_raised_itself(way: Way) -> None:
    never, before = way.shared.Event(), threads_of_runs()
    dag = DAG("late").add_node("late", lambda: never.wait(LONG), timeout=0.3)
    with pytest.raises(fast_dag.TimeoutError) as caught:
        way(dag)
    assert caught.value.node_name == "late"
    assert caught.value.run is not None
    assert caught.value.run.status == "failed"
    never.set()
    end_of(threads_of_runs() - before)


@everywhere
def test_a_late_async_node_is_cancelled_and_cleans_up_before_the_run_goes_on(
    way: Way, overshoot: Measure
) -> None:
    seen: list[str] = []

    async def late() -> None:
        seen.append("started")
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("cleaned up")

    for timeout in timeouts():
        seen.clear()
        dag = DAG("late").add_node("late", late, timeout=timeout)
        dag.add_node("other", lambda: None)
        dag.add_node("last", lambda: seen.append("last"), type="any", wait=True, run_in="thread")
        dag.connect("late", "last").connect("other", "last")
        run = way.execute(dag, error_strategy="continue")
        overshoot(run.timings["late"] - timeout)
        assert type(run.errors["late"]) is fast_dag.TimeoutError
        if "started" in seen:
            break
    assert seen == ["started", "cleaned up", "last"]


@everywhere
def test_a_timeout_error_of_the_users_own_is_an_ordinary_failure(way: Way) -> None:
    async def own() -> None:
        raise builtins.TimeoutError("the server said so")

    def sync_own() -> None:
        raise builtins.TimeoutError("the server said so")

    dag = DAG("own").add_node("a", own, timeout=LONG).add_node("b", sync_own, timeout=LONG)
    run = way.execute(dag, error_strategy="continue")
    for name in "ab":
        assert type(run.errors[name]) is builtins.TimeoutError
        assert "the server said so" in str(run.errors[name])


@pytest.mark.one_in(2)
@everywhere
def test_each_attempt_has_the_time_of_its_own(way: Way) -> None:
    """Two attempts that are late, and a third that is not."""
    before = threads_of_runs()
    for timeout in timeouts(time_for(way)):
        called, never = way.shared.list(), way.shared.Event()

        def node(called: Any = called, never: Any = never) -> str:
            called.append(1)
            if len(called) < 3:
                never.wait(LONG)
            return "in time"

        dag = DAG("attempts").add_node("node", node, timeout=timeout, retry=2, retry_delay=0)
        run = way.execute(dag)
        never.set()
        end_of(threads_of_runs() - before)
        if len(called) == 3:
            break
    assert run.value == "in time"
    assert run.metrics["retries"] == 2


@in_this_process
def test_the_late_value_of_an_abandoned_attempt_never_replaces_that_of_a_later_one(
    way: Way,
) -> None:
    let_go, threads, called = threading.Event(), set[threading.Thread](), []

    def node() -> str:
        called.append(1)
        if len(called) > 1:
            return "second"
        threads.add(threading.current_thread())
        wait_for(let_go)
        return "first"

    # Of the attempts after the first one will be in time, however busy the machine is.
    dag = DAG("attempts").add_node("node", node, timeout=0.2, retry=9, retry_delay=0)
    dag.add_node("after", lambda node: (node, let_go.set(), end_of(threads))[0])
    dag.connect("node", "after")
    dag.add_node("last", lambda after, context: (after, context["node"])).connect("after", "last")
    assert way(dag, max_workers=2) == ("second", "second")


@everywhere
def test_a_nested_workflow_has_one_timeout_as_a_whole(way: Way, overshoot: Measure) -> None:
    for timeout in timeouts(time_for(way)):
        held = Held(way)
        outer = DAG("outer").add_node("sub", held.dag, timeout=timeout)
        outer.add_node("below", lambda sub, log=held.started: log.append("below"))
        outer.connect("sub", "below")
        outer.add_node("beside", lambda: "beside")
        run = way.execute(outer, error_strategy="continue", max_workers=2)
        held.end()
        if "held" in held.started:
            break
    overshoot(run.timings["sub"] - timeout)
    assert run.statuses == {"sub": "failed", "below": "skipped", "beside": "completed"}
    error = run.errors["sub"]
    assert type(error) is fast_dag.TimeoutError
    assert error.node_name == "sub"
    assert list(held.started) == ["quick", "held"]
    assert "held" not in run.children["sub"].results


@everywhere
def test_a_late_nested_workflow_cancels_its_async_nodes(way: Way) -> None:
    seen: list[str] = []

    async def held() -> None:
        seen.append("started")
        try:
            await asyncio.wait_for(asyncio.Event().wait(), LONG)
        finally:
            seen.append("cleaned up")

    inner = DAG("inner").add_node("held", held)
    inner.add_node("after", lambda held: seen.append("after")).connect("held", "after")
    middle = DAG("middle").add_node("inner", inner)
    for timeout in timeouts():
        outer = DAG("outer").add_node("middle", middle, timeout=timeout)
        with pytest.raises(fast_dag.TimeoutError) as caught:
            way(outer)
        assert caught.value.node_name == "middle"
        if seen:
            break
    assert seen == ["started", "cleaned up"]


@in_this_process
def test_a_nested_workflow_is_tried_again_as_a_whole_after_its_timeout(way: Way) -> None:
    let_go, called, before = threading.Event(), [], threads_of_runs()

    def first() -> int:
        called.append("first")
        return len(called)

    def second(first: int) -> str:
        called.append("second")
        if called.count("second") == 1:
            wait_for(let_go)
        return "done"

    inner = DAG("inner").add_node("first", first).add_node("second", second)
    inner.connect("first", "second")
    # Of the attempts after the first one will be in time, however busy the machine is.
    outer = DAG("outer").add_node("sub", inner, timeout=0.2, retry=9, retry_delay=0)
    run = way.execute(outer)
    let_go.set()
    end_of(threads_of_runs() - before)
    assert run.value == "done"
    assert called[-2:] == ["first", "second"]
    assert called.count("first") > 1


# Threads.


def idents(seen: dict[str, int], name: str) -> Callable[..., None]:
    def node() -> None:
        seen[name] = threading.get_ident()

    return node


def test_a_sequential_run_with_a_timeout_executes_whole_in_one_helper_thread() -> None:
    seen: dict[str, int] = {}
    inner = DAG("inner").add_node("c", idents(seen, "c"))
    dag = DAG("helper")
    dag.add_node("a", idents(seen, "a")).add_node("b", idents(seen, "b")).add_node("sub", inner)
    dag.add_node("d", idents(seen, "d"), retry=1)
    dag.run(timeout=LONG)
    assert list(seen) == ["a", "b", "c", "d"]
    assert len(set(seen.values())) == 1
    assert threading.get_ident() not in seen.values()


def test_a_sequential_run_takes_a_new_helper_only_after_an_abandoned_attempt() -> None:
    seen: dict[str, int] = {}
    let_go, threads = threading.Event(), set[threading.Thread]()

    def late() -> None:
        if "first attempt" not in seen:
            seen["first attempt"] = threading.get_ident()
            threads.add(threading.current_thread())
            wait_for(let_go)
        seen["second attempt"] = threading.get_ident()

    dag = DAG("helpers").add_node("a", idents(seen, "a"))
    dag.add_node("late", late, timeout=0.2, retry=9, retry_delay=0)  # one will be in time
    for name in ("b", "c"):
        dag.add_node(name, idents(seen, name))
    dag.run()
    assert list(seen) == ["a", "first attempt", "second attempt", "b", "c"]
    assert seen["a"] == seen["first attempt"]
    assert seen["second attempt"] == seen["b"] == seen["c"] != seen["a"]
    let_go.set()
    end_of(threads)


@in_this_process
def test_abandoned_threads_are_daemonic(way: Way) -> None:
    held, _, _ = held_at_the_deadline(way)
    assert [thread.daemon for thread in held.threads] == [True]
    held.end()


@pytest.mark.parametrize("mode", MODES)
def test_a_program_ends_though_it_has_abandoned_threads(mode: str) -> None:
    program = f"""
        import threading
        from fast_dag import DAG
        never = threading.Event()
        dag = DAG("held").add_node("node", never.wait, inputs=[])
        print(dag.execute(mode={mode!r}, timeout=0.1).status)
        dag = DAG("held").add_node("node", never.wait, inputs=[], timeout=0.1)
        print(dag.execute(mode={mode!r}).status)
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("timed_out\nfailed\n", "", 0)


@in_this_process
def test_an_abandoned_thread_frees_its_worker(way: Way) -> None:
    """With one worker, the others run on although the first node never ends."""
    let_go, threads = threading.Event(), set[threading.Thread]()

    def late() -> None:
        threads.add(threading.current_thread())
        wait_for(let_go)

    dag = DAG("one").add_node("late", late, timeout=0.2)
    for index in range(5):
        dag.add_node(f"n{index}", lambda: "ran")
    run = way.execute(dag, max_workers=1, error_strategy="continue")
    assert run.statuses == {"late": "failed", **{f"n{index}": "completed" for index in range(5)}}
    let_go.set()
    end_of(threads)


@pytest.mark.needs("cloudpickle")
def test_processes_are_killed_at_the_deadline_of_the_run(shared: Any) -> None:
    pids, never = shared.list(), shared.Event()
    dag = DAG("processes")
    for index in range(2):
        dag.add_node(f"n{index}", lambda: pids.append(os.getpid()) or never.wait())
    for timeout in timeouts(1.0):
        run = dag.execute(mode="process", max_workers=2, timeout=timeout)
        assert run.status == "timed_out"
        if pids:
            break
    wait_until(lambda: not any(is_alive(pid) for pid in pids))


def test_a_timeout_on_an_inline_sync_node_is_refused() -> None:
    with pytest.raises(ValidationError, match="inline"):
        DAG("inline").add_node("node", lambda: 1, run_in="inline", timeout=1)


@pytest.mark.parametrize("way", [*OWN_AT_ONCE, "process"], indirect=True)
def test_many_node_timeouts_at_once_are_all_met(way: Way) -> None:
    never, before = way.shared.Event(), threads_of_runs()
    workers = 2 if way.has_processes else 20
    dag = DAG("many")
    for index in range(workers):
        dag.add_node(f"n{index}", lambda: never.wait(LONG), timeout=0.3)
    run = way.execute(dag, max_workers=workers, error_strategy="continue", timeout=LONG)
    assert set(run.statuses.values()) == {"failed"}
    assert all(type(error) is fast_dag.TimeoutError for error in run.errors.values())
    never.set()
    end_of(threads_of_runs() - before)
