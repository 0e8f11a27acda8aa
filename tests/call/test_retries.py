"""Retries in runs: what they cost, what ends their waits, what they leave behind."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest

from fast_dag import DAG, FSM, ExecutionError, Run, TimeoutError
from tests.concurrency.support import wait_for
from tests.patience import LONG, timeouts
from tests.ways import AT_ONCE, EXECUTE, HERE, OWN, OWN_AT_ONCE

Execute = Callable[..., Run]
FOREVER = 3600.0


class Flaky:
    """A function that fails as often as it is told to."""

    def __init__(self, failures: int, error: BaseException | None = None) -> None:
        self.left = failures
        self.calls = 0
        self.error = ValueError("not yet") if error is None else error

    def __call__(self, x: int = 1) -> int:
        self.calls += 1
        if self.calls <= self.left:
            raise self.error
        return x


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("mode", OWN_AT_ONCE)
def test_nodes_that_wait_for_a_retry_leave_the_worker_to_others(mode: str, is_async: bool) -> None:
    """Or else four of a hundred would wait for ever and keep the others from their first call."""
    waiting = threading.Semaphore(0)
    dag = DAG("many")

    @dag.node(run_in="thread")
    def ends_the_run() -> None:
        assert all(waiting.acquire(timeout=LONG) for _ in range(100))
        raise LookupError("all of them wait")

    for number in range(100):
        func: Any = awaited(Flaky(1)) if is_async else Flaky(1)
        dag.add_node(f"n{number}", func, retry=1, retry_delay=FOREVER)
        dag.set_node_hooks(f"n{number}", on_retry=lambda: waiting.release())
    run = EXECUTE[mode](dag, max_workers=4)
    assert isinstance(run.errors["ends_the_run"], LookupError)


@pytest.mark.parametrize("mode", OWN_AT_ONCE)
def test_all_that_wait_for_a_retry_are_tried_again(mode: str) -> None:
    dag = DAG("many")
    for number in range(100):
        dag.add_node(f"n{number}", Flaky(1), retry=1, retry_delay=0.05)
    run = EXECUTE[mode](dag, max_workers=4)
    assert run.status == "completed"
    assert run.metrics["retries"] == 100


def awaited(func: Callable[[], Any]) -> Callable[[], Any]:
    async def call() -> Any:
        await asyncio.sleep(0)
        return func()

    return call


def test_another_node_runs_on_the_only_worker_while_one_waits() -> None:
    order: list[str] = []
    dag = DAG("one worker")
    goes_on = threading.Event()

    @dag.node(retry=1, retry_delay=0.2)
    def flaky() -> None:
        order.append("flaky")
        if len(order) == 1:
            raise ValueError("once")

    @dag.node
    def other() -> None:
        order.append("other")
        goes_on.set()

    dag.run(mode="parallel", max_workers=1)
    assert order == ["flaky", "other", "flaky"]


def test_a_wait_in_sequential_mode_blocks_those_after_it() -> None:
    order: list[str] = []
    flaky = Flaky(1)
    dag = DAG("blocks")
    dag.add_node("first", lambda: order.append("first") or flaky(), retry=1, retry_delay=0.01)
    dag.add_node("second", lambda: order.append("second"))
    dag.run()
    assert order == ["first", "first", "second"]


def test_attempts_are_in_the_error_and_retries_in_the_metrics(execute: Execute) -> None:
    dag = DAG("counts")
    dag.add_node("fails", Flaky(9), retry=2, retry_delay=0.0)
    run = execute(dag)
    with pytest.raises(ExecutionError, match="after 3 attempts") as caught:
        run.raise_for_error()
    assert caught.value.attempts == 3
    assert run.metrics["retries"] == 2
    assert run.metrics["nodes_failed"] == 1


@pytest.mark.parametrize("retry", [0, 1, 3])
def test_retry_counts_the_attempts_after_the_first(execute: Execute, retry: int) -> None:
    enough, too_few = Flaky(retry), Flaky(retry + 1)
    dag = DAG("counts").add_node("f", enough, retry=retry, retry_delay=0.0)
    assert execute(dag, x=5).value == 5
    assert enough.calls == retry + 1
    dag = DAG("counts").add_node("f", too_few, retry=retry, retry_delay=0.0)
    assert execute(dag, x=5).status == "failed"
    assert too_few.calls == retry + 1


def test_retry_on_ends_the_attempts(execute: Execute) -> None:
    func = Flaky(3, KeyError("other"))
    dag = DAG("only").add_node("f", func, retry=5, retry_delay=0.0, retry_on=ValueError)
    run = execute(dag)
    assert func.calls == 1
    assert isinstance(run.errors["f"], KeyError)


def test_stop_iteration_is_an_ordinary_failure(execute: Execute) -> None:
    func = Flaky(1, StopIteration("over"))
    dag = DAG("stops").add_node("f", func, retry=1, retry_delay=0.0)
    assert execute(dag).value == 1
    run = execute(DAG("stops").add_node("f", Flaky(1, StopIteration("over"))))
    assert run.status == "failed"
    assert "over" in str(run.exception())


def test_stop_iteration_of_a_hook_is_an_ordinary_failure(execute: Execute) -> None:
    def stops(*offered: Any) -> None:
        raise StopIteration("over")

    for phase in ("pre_execute", "post_execute", "cleanup"):
        dag = DAG("stops").add_node("f", lambda: 1)
        dag.set_default_hooks(**{phase: stops})
        run = execute(dag)
        assert run.status == "failed"
        assert phase in str(run.exception())


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(3)], ids=lambda e: type(e).__name__
)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("mode", OWN)
def test_what_ends_programs_is_never_retried(
    mode: str, is_async: bool, error: BaseException
) -> None:
    func: Any = Flaky(9, error)
    dag = DAG("ends")
    options: dict[str, Any] = {"retry": 3, "retry_delay": 0.0, "retry_on": lambda error: True}
    dag.add_node("f", awaited(func) if is_async else func, **options)
    with pytest.raises(type(error)):
        EXECUTE[mode](dag)
    assert func.calls == 1


def test_cancellation_is_never_retried() -> None:
    calls: list[int] = []

    async def main() -> None:
        started = asyncio.Event()
        dag = DAG("cancelled")

        @dag.node(retry=5, retry_delay=0.0, retry_on=lambda error: True)
        async def waits() -> None:
            calls.append(1)
            started.set()
            await asyncio.sleep(FOREVER)

        task = asyncio.create_task(dag.run_async())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert calls == [1]


# What ends a wait.


def test_cancelling_the_run_ends_a_wait() -> None:
    async def main() -> None:
        waits = asyncio.Event()
        dag = DAG("waits").add_node("f", Flaky(1), retry=1, retry_delay=FOREVER)
        loop = asyncio.get_running_loop()
        dag.set_node_hooks("f", on_retry=lambda: loop.call_soon_threadsafe(waits.set))
        task = asyncio.create_task(dag.run_async())
        await asyncio.wait_for(waits.wait(), LONG)
        for _ in range(10):
            await asyncio.sleep(0)
        began = monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert monotonic() - began < LONG / 2

    asyncio.run(main())


@pytest.mark.parametrize("mode", HERE)
def test_the_deadline_ends_a_wait(mode: str) -> None:
    for timeout in timeouts():
        func = Flaky(1)
        dag = DAG("waits").add_node("f", func, retry=1, retry_delay=FOREVER)
        began = monotonic()
        run = EXECUTE[mode](dag, timeout=timeout)
        assert timeout <= monotonic() - began < LONG / 2
        if func.calls:
            break
    assert func.calls == 1
    assert isinstance(run.exception(), TimeoutError)


@pytest.mark.parametrize("mode", AT_ONCE)
def test_a_failure_elsewhere_ends_a_wait(mode: str) -> None:
    waits = threading.Event()
    flaky = Flaky(1)
    dag = DAG("waits").add_node("flaky", flaky, retry=1, retry_delay=FOREVER)
    dag.set_node_hooks("flaky", on_retry=waits.set)

    @dag.node
    def fails() -> None:
        wait_for(waits)
        raise LookupError("elsewhere")

    began = monotonic()
    run = EXECUTE[mode](dag)
    assert monotonic() - began < LONG / 2
    assert flaky.calls == 1
    assert isinstance(run.errors["fails"], LookupError)
    error = run.exception()
    assert error is not None
    assert error.node_name == "fails"


@pytest.mark.parametrize("mode", AT_ONCE)
def test_a_wait_goes_on_where_failures_elsewhere_do_not_stop_the_run(mode: str) -> None:
    flaky = Flaky(1)
    dag = DAG("waits").add_node("flaky", flaky, retry=1, retry_delay=0.05)
    dag.add_node("fails", lambda: 1 / 0)
    run = EXECUTE[mode](dag, error_strategy="continue")
    assert flaky.calls == 2
    assert run.results["flaky"] == 1
    assert list(run.errors) == ["fails"]


def test_a_nested_workflow_is_retried_as_a_whole(execute: Execute) -> None:
    flaky, first = Flaky(1), Flaky(0)
    inner = DAG("inner").add_node("first", first)
    inner.add_node("then", lambda first: flaky(first)).connect("first", "then")
    dag = DAG("outer").add_node("sub", inner, retry=1, retry_delay=0.0)
    run = execute(dag, x=4)
    assert run.value == 4
    assert (first.calls, flaky.calls) == (2, 2)
    assert run.status == "completed"
    assert run.errors == {}


def test_waits_of_runs_in_parallel_are_jittered_within_bounds() -> None:
    delays: list[float] = []
    dag = DAG("jitter").add_node("f", Flaky(5), retry=5, retry_delay=0.001, retry_jitter=0.5)
    dag.set_node_hooks("f", on_retry=lambda n, i, e, c, attempt, delay: delays.append(delay))
    dag.run()
    assert len(delays) == 5
    for attempt, delay in enumerate(delays):
        assert 0.5 * 0.001 * 2**attempt <= delay <= 0.001 * 2**attempt


HUGE: list[Any] = [10**400, 1e300, float("inf")]
"""More than any clock can tell, each in its own way."""


@pytest.mark.one_in(4)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("huge", HUGE, ids=["int", "float", "inf"])
def test_waits_of_any_length_leave_the_error_as_it_is(
    execute: Execute, huge: Any, is_async: bool
) -> None:
    """The wait is never waited: another node fails at once, or there is none left to make."""
    for options in (
        {"retry": 0, "retry_delay": huge},
        {"retry": 3, "retry_delay": 0, "retry_backoff": huge},
        {"retry": 3, "retry_delay": huge, "retry_backoff": huge, "retry_max_delay": 0},
        {"retry": 3, "retry_delay": huge, "retry_backoff": 0, "retry_max_delay": 0.001},
        {"retry": 1, "retry_delay": 0, "retry_max_delay": huge},
    ):
        func: Any = Flaky(9)
        dag = DAG("huge")
        dag.add_node("f", awaited(func) if is_async else func, **options)
        run = execute(dag)
        assert run.errors["f"] is func.error
        assert func.calls == options["retry"] + 1


@pytest.mark.one_in(4)
@pytest.mark.parametrize("huge", HUGE, ids=["int", "float", "inf"])
@pytest.mark.parametrize("mode", HERE)
def test_a_wait_of_any_length_is_waited_until_the_run_ends(mode: str, huge: Any) -> None:
    """Also in machines, and in workflows that are nested."""
    for build in (_waits_alone, _waits_in_a_machine, _waits_nested):
        flaky = Flaky(9)
        run = EXECUTE[mode](build(flaky, retry=1, retry_delay=huge), timeout=0.05)
        assert run.status == "timed_out"
        assert flaky.calls <= 1, "none where the machine is that busy"
    flaky = Flaky(9)
    run = EXECUTE[mode](
        _waits_alone(flaky, retry=2, retry_backoff=huge, retry_delay=1e-9), timeout=0.1
    )
    assert run.status == "timed_out"
    assert flaky.calls <= 2


def _waits_alone(flaky: Flaky, **options: Any) -> Any:
    return DAG("waits").add_node("f", flaky, **options)


def _waits_in_a_machine(flaky: Flaky, **options: Any) -> Any:
    return FSM("waits", initial_state="f", terminal_states=["f"]).add_state("f", flaky, **options)


def _waits_nested(flaky: Flaky, **options: Any) -> Any:
    return DAG("outer").add_node("sub", _waits_alone(flaky, **options))


@pytest.mark.one_in(4)
@pytest.mark.parametrize("huge", HUGE, ids=["int", "float", "inf"])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("mode", HERE)
def test_a_timeout_of_any_length_is_no_timeout(mode: str, is_async: bool, huge: Any) -> None:
    func: Any = Flaky(0)
    func = awaited(func) if is_async else func
    for node, whole in ((huge, None), (None, huge), (huge, huge)):
        limited = {"timeout": node}
        assert EXECUTE[mode](_waits_alone(func, **limited), timeout=whole).value == 1
        assert EXECUTE[mode](_waits_nested(func, **limited), timeout=whole).value == 1
        assert EXECUTE[mode](_waits_in_a_machine(func, **limited), timeout=whole).value == 1


WAITS = """
import asyncio, threading, time
from queue import SimpleQueue
from fast_dag.call.effects import LONGEST

async def timeout():
    async with asyncio.timeout(LONGEST):
        await asyncio.Event().wait()

waits = {
    "sleep": lambda: time.sleep(LONGEST),
    "event": lambda: threading.Event().wait(LONGEST),
    "queue": lambda: SimpleQueue().get(timeout=LONGEST),
    "loop": lambda: asyncio.run(timeout()),
}
threads = {name: threading.Thread(target=wait, daemon=True) for name, wait in waits.items()}
for thread in threads.values():
    thread.start()
for name, thread in threads.items():
    thread.join(0.2)
    print(name, thread.is_alive())
"""


def test_the_longest_wait_is_one_that_every_kind_of_wait_takes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WAITS], capture_output=True, text=True, timeout=LONG, check=True
    )
    assert done.stdout.split() == [
        "sleep",
        "True",
        "event",
        "True",
        "queue",
        "True",
        "loop",
        "True",
    ]


NAN = float("nan")


@pytest.mark.parametrize(
    "options",
    [
        {"retry": -1},
        {"retry": 1.5},
        {"retry_delay": -1},
        {"retry_backoff": -1},
        {"retry_max_delay": -1},
        {"retry_jitter": 2},
        {"retry_on": 3},
        {"timeout": 0},
        {"retry_delay": NAN},
        {"retry_backoff": NAN},
        {"retry_max_delay": NAN},
        {"retry_jitter": NAN},
        {"timeout": NAN},
        {"timeout": -float("inf")},
    ],
    ids=str,
)
def test_options_without_meaning_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        DAG("refuses").add_node("f", lambda: 1, **options)


@pytest.mark.parametrize("failures", [0, 2])
def test_a_result_that_two_nodes_cannot_share_fails_with_all_its_attempts(
    execute: Execute, failures: int
) -> None:
    flaky = Flaky(failures)
    dag = DAG("shared")
    dag.add_node("load", lambda: iter_of(flaky()), retry=3, retry_delay=0)
    dag.add_node("a", list, inputs=["x"]).add_node("b", list, inputs=["x"])
    run = execute(dag.connect("load", "a").connect("load", "b"))
    error = run.exception()
    assert error is not None
    assert (error.node_name, error.attempts, flaky.calls) == ("load", failures + 1, failures + 1)
    assert ("after 3 attempts" in str(error)) == (failures == 2)
    assert run.metrics["retries"] == failures
    assert "'a', 'b' take it" in str(run.errors["load"])
    assert run.errors["load"].__context__ is None


def iter_of(value: int) -> Any:
    return (each for each in [value])


def test_error_of_an_attempt_is_gone_once_another_succeeded() -> None:
    """Without the garbage collector: its traceback may hold large values."""
    gone: list[weakref.ref[Exception]] = []

    class Again(Exception):  # noqa: N818  it is no error of ours
        def __init__(self) -> None:
            gone.append(weakref.ref(self))

    def flaky() -> int:
        if not gone:
            raise Again
        return 1

    dag = DAG("flaky").add_node("flaky", flaky, retry=1, retry_delay=0)
    gc.collect()
    gc.disable()
    try:
        assert dag.run() == 1
        assert gone[0]() is None
    finally:
        gc.enable()
