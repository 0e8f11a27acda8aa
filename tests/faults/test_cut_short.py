"""Runs that are cancelled or late: nothing is lost, and all that was begun is ended."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import fast_dag
from fast_dag import DAG, FSM, Context, ExecutionError
from fast_dag.drive import dispatcher
from tests.concurrency.support import wait_until
from tests.patience import LONG, timeouts
from tests.ways import EXECUTE, MODES, OWN, OWN_AT_ONCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from fast_dag import Run


def nested_in(dag: DAG) -> DAG:
    return DAG("outer").add_node("sub", dag)


# Many that sleep.


@pytest.mark.parametrize("mode", OWN_AT_ONCE)
@pytest.mark.parametrize("is_nested", [False, True], ids=["flat", "nested"])
def test_any_number_of_jobs_between_two_attempts_end_with_their_run(
    mode: str, is_nested: bool
) -> None:
    asleep = threading.Semaphore(0)

    async def flaky() -> None:
        raise ValueError

    def boom() -> None:
        for _ in range(400):
            assert asleep.acquire(timeout=LONG)
        raise KeyError

    dag = DAG("many")
    for number in range(400):
        dag.add_node(f"n{number}", flaky, retry=1, retry_delay=3600)
        dag.set_node_hooks(f"n{number}", on_retry=lambda node: asleep.release())
    dag.add_node("boom", boom)
    run = EXECUTE[mode](nested_in(dag) if is_nested else dag)
    assert run.status == "failed"
    assert isinstance(run.errors["sub.boom" if is_nested else "boom"], KeyError)


@pytest.mark.parametrize("mode", OWN_AT_ONCE)
def test_any_number_of_jobs_between_two_attempts_end_when_time_is_over(mode: str) -> None:
    async def flaky() -> None:
        raise ValueError

    dag = DAG("many")
    for number in range(400):
        dag.add_node(f"n{number}", flaky, retry=1, retry_delay=3600)
    assert EXECUTE[mode](nested_in(dag), timeout=0.3).status == "timed_out"


# Cancellations.


def test_a_cancellation_while_a_late_run_unwinds_is_not_lost() -> None:
    async def main() -> None:
        unwinds, may_end = asyncio.Event(), asyncio.Event()

        async def held() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                unwinds.set()
                await may_end.wait()

        dag = DAG("late").add_node("held", held)
        for timeout in timeouts():
            task = asyncio.create_task(dag.run_async(timeout=timeout))
            begins = asyncio.create_task(unwinds.wait())
            await asyncio.wait({task, begins}, return_when=asyncio.FIRST_COMPLETED)
            if unwinds.is_set():
                break
            begins.cancel()
        task.cancel()
        await asyncio.sleep(0)
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert dag.context.metadata["execution_status"] == "timed_out"

    asyncio.run(main())


class Opened:
    """Resources and hooks that note, with awaits in between, what was opened and closed."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.started = asyncio.Event()
        self.dag = DAG("opened")
        for name in ("first", "second", "third"):
            self.dag.resource(name, self._factory(name))
        self.dag.add_node("held", self.held)
        self.dag.set_default_hooks(cleanup=self.cleanup)

    def _factory(self, name: str) -> Any:
        async def opened() -> AsyncIterator[str]:
            await asyncio.sleep(0)
            self.log.append(f"open {name}")
            yield name
            for _ in range(5):
                await asyncio.sleep(0)
            self.log.append(f"close {name}")

        return opened

    async def held(self, first: str, second: str, third: str) -> None:
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(5):
                await asyncio.sleep(0)
            self.log.append("unwound")

    async def cleanup(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        self.log.append("cleaned up")


ALL = [
    *("open first", "open second", "open third"),
    *("unwound", "cleaned up"),
    *("close third", "close second", "close first"),
]


@pytest.mark.parametrize("times", [1, 2, 50])
def test_being_cancelled_again_and_again_leaves_nothing_open(times: int) -> None:
    async def main() -> None:
        opened = Opened()
        task = asyncio.create_task(opened.dag.run_async())
        await opened.started.wait()
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert opened.log == ALL
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_a_scope_that_cancels_at_every_await_leaves_nothing_open() -> None:
    async def main() -> None:
        opened = Opened()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(opened.dag.run_async)
                await opened.started.wait()
                scope.cancel()
        assert scope.cancelled_caught
        assert opened.log == ALL

    anyio.run(main)


@pytest.mark.parametrize("is_nested", [False, True], ids=["flat", "nested"])
def test_a_scope_with_a_deadline_leaves_nothing_open(is_nested: bool) -> None:
    async def main() -> None:
        for timeout in timeouts():
            opened = Opened()
            dag = nested_in(opened.dag) if is_nested else opened.dag
            with anyio.move_on_after(timeout) as scope:
                await dag.run_async()
            assert scope.cancelled_caught
            if opened.started.is_set():
                break
        assert opened.log == ALL

    anyio.run(main)


def test_machines_close_what_is_open_though_cancelled_again_and_again() -> None:
    async def main() -> None:
        log: list[str] = []
        started = asyncio.Event()
        fsm = FSM("held", initial_state="held")

        @fsm.resource("connection")
        async def connect() -> AsyncIterator[int]:
            log.append("open")
            yield 1
            await asyncio.sleep(0)
            log.append("close")

        @fsm.state
        async def held(connection: int) -> None:
            started.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(fsm.run_async())
        await started.wait()
        for _ in range(9):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log == ["open", "close"]

    asyncio.run(main())


@pytest.mark.parametrize("mode", OWN)
def test_a_node_that_awaits_what_was_cancelled_has_failed_and_no_more(mode: str) -> None:
    async def node() -> None:
        task = asyncio.ensure_future(asyncio.Event().wait())
        task.cancel()
        await task

    dag = DAG("inside").add_node("node", node).add_node("other", lambda: 1)
    run = EXECUTE[mode](dag, error_strategy="continue")
    assert (run.status, run.results) == ("completed_with_errors", {"other": 1})
    assert isinstance(run.errors["node"], asyncio.CancelledError)
    with pytest.raises(ExecutionError):
        EXECUTE[mode](dag).raise_for_error()


@pytest.mark.parametrize("mode", OWN)
def test_a_cancellation_inside_of_a_node_is_retried_and_handled_like_a_failure(mode: str) -> None:
    calls: list[int] = []

    async def node() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise asyncio.CancelledError
        return "done"

    dag = DAG("again").add_node("node", node, retry=1, retry_delay=0)
    assert EXECUTE[mode](dag).value == "done"
    dag = DAG("sync").add_node("node", lambda: asyncio.run(cancelled()))
    dag.set_node_error_handler("node", lambda node, inputs, error: type(error).__name__)
    assert EXECUTE[mode](dag).value == "CancelledError"


async def cancelled() -> None:
    raise asyncio.CancelledError


def test_a_task_group_around_a_run_sees_the_failure_of_a_node_that_was_cancelled_inside() -> None:
    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(DAG("inside").add_node("node", cancelled).run_async())

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(main())
    assert isinstance(caught.value.exceptions[0], ExecutionError)


def test_a_run_in_the_background_ends_with_its_loop() -> None:
    """`asyncio.run` cancels all tasks at its end, those that a run has made included."""
    opened: list[Opened] = []

    async def main() -> None:
        opened.append(Opened())
        opened.append(asyncio.create_task(opened[0].dag.run_async()))  # type: ignore[arg-type]
        await opened[0].started.wait()

    asyncio.run(main())
    assert opened[0].log == ALL


# Lateness.


@pytest.mark.parametrize("mode", OWN)
def test_an_async_node_that_keeps_the_loop_beyond_its_timeout_has_failed(mode: str) -> None:
    async def node() -> str:
        end = time.monotonic() + 0.1
        while time.monotonic() < end:  # as work does that forgets to let go
            continue
        return "late"

    run = EXECUTE[mode](DAG("late").add_node("node", node, timeout=0.05))
    assert isinstance(run.errors["node"], fast_dag.TimeoutError)
    assert run.results == {}


@pytest.mark.parametrize("mode", OWN)
def test_an_async_node_that_catches_its_cancellation_is_late_all_the_same(mode: str) -> None:
    async def node() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "caught"
        raise AssertionError

    run = EXECUTE[mode](DAG("late").add_node("node", node, timeout=0.05))
    assert isinstance(run.errors["node"], fast_dag.TimeoutError)


def test_a_loop_that_others_keep_busy_makes_no_node_late() -> None:
    async def main() -> Run:
        begun = asyncio.Event()

        async def node() -> str:
            begun.set()
            await asyncio.sleep(0.01)
            await asyncio.sleep(0.01)
            return "in time"

        task = asyncio.create_task(DAG("busy").add_node("node", node, timeout=0.2).execute_async())
        await begun.wait()
        time.sleep(0.5)  # what keeps the loop busy
        return await task

    assert asyncio.run(main()).value == "in time"


def test_a_chain_that_never_suspends_keeps_to_the_timeout_and_lets_others_have_the_loop() -> None:
    async def step(x: int = 0) -> int:
        end = time.monotonic() + 0.002
        while time.monotonic() < end:
            continue
        return x + 1

    dag = DAG("chain").add_node("n0", step)
    for number in range(1, 2000):
        dag.add_node(f"n{number}", step).connect(f"n{number - 1}", f"n{number}")
    ticks: list[int] = []

    async def tick() -> None:
        while True:
            await asyncio.sleep(0)
            ticks.append(1)

    async def main(timeout: float) -> Run:
        beside = asyncio.create_task(tick())
        run = await dag.execute_async(timeout=timeout)
        beside.cancel()
        return run

    timeout = 0.1
    while len((run := asyncio.run(main(timeout))).results) < 30:  # a busy machine needs longer
        timeout *= 2
    assert run.status == "timed_out"
    assert len(run.results) < 2000
    assert len(ticks) > 2


@pytest.mark.parametrize("mode", OWN)
def test_a_run_whose_last_node_ended_too_late_is_late_and_keeps_its_results(mode: str) -> None:
    async def node() -> str:
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            continue
        return "value"

    run = EXECUTE[mode](DAG("late").add_node("node", node), timeout=0.1)
    assert run.status == run.context.metadata["execution_status"] == "timed_out"


# Timers, and what they hold.


class Value:
    """Something that can be watched by a weak reference."""


@pytest.fixture
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_a_finished_run_leaves_no_timer_in_the_loop() -> None:
    async def sleeps() -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        dag = DAG("timed").add_node("sync", lambda: 1, timeout=3600)
        dag.add_node("async", sleeps, timeout=3600).add_node("plain", sleeps)
        for _ in range(20):
            await dag.run_async(timeout=3600)
            assert not [each for each in loop._scheduled if not each.cancelled()]

    asyncio.run(main())


@pytest.mark.one_in(4)
@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize("way", MODES)
@pytest.mark.parametrize("limit", [None, LONG])
@pytest.mark.parametrize("kind", ["flat", "nested", "timed", "hooked", "machine"])
def test_what_a_run_held_is_freed_with_it_without_the_collector(
    way: str, limit: float | None, kind: str
) -> None:
    references: list[weakref.ref[Value]] = []

    def make() -> Value:
        value = Value()
        references.append(weakref.ref(value))
        return value

    async def pass_on(value: Value) -> Value:
        await asyncio.sleep(0)
        return value

    workflow: Any
    if kind == "machine":
        workflow = FSM("held", initial_state="make", terminal_states=["last"])
        workflow.add_state("make", make).add_state("last", pass_on)
        workflow.add_transition("make", "last")
    else:
        workflow = DAG("held").add_node("make", make, timeout=LONG if kind == "timed" else None)
        workflow.add_node("a", pass_on, retry=2).add_node("b", lambda value: value)
        workflow.connect("make", "a").connect("make", "b")
        if kind == "hooked":
            workflow.set_default_hooks(cleanup=lambda node: None)
        if kind == "nested":
            workflow = nested_in(workflow)
    for _ in range(4):
        EXECUTE[way](workflow, timeout=limit)
    wait_until(lambda: sum(each() is not None for each in references) <= 1)


@pytest.mark.usefixtures("_no_collector")
def test_what_an_awaited_run_held_is_freed_with_it_without_the_collector() -> None:
    references: list[weakref.ref[Value]] = []

    def make() -> Value:
        value = Value()
        references.append(weakref.ref(value))
        return value

    async def main() -> None:
        dag = DAG("held").add_node("make", make, timeout=LONG)
        dag.add_node("below", lambda make: make)
        dag.connect("make", "below")
        for _ in range(4):
            await dag.run_async(timeout=LONG)

    asyncio.run(main())
    wait_until(lambda: sum(each() is not None for each in references) <= 1)


# Cleaning up.


@pytest.mark.parametrize("mode", OWN)
@pytest.mark.parametrize("is_nested", [False, True], ids=["flat", "nested"])
def test_cleanup_after_a_deadline_is_inside_of_its_run(mode: str, is_nested: bool) -> None:
    let_go, begun = threading.Event(), threading.Event()
    seen: list[tuple[bool, str]] = []
    dag = DAG("late").add_node("held", lambda: begun.set() or (let_go.wait(LONG) and None))
    outer = nested_in(dag) if is_nested else dag
    contexts: list[Context] = []
    dag.set_default_hooks(
        cleanup=lambda node: seen.append((outer.context is contexts[-1], node.name))
    )
    for timeout in timeouts():
        contexts.append(Context())
        seen.clear()
        run = EXECUTE[mode](outer, context=contexts[-1], timeout=timeout)
        if begun.is_set():
            break
    let_go.set()
    assert run.status == "timed_out"
    assert seen == [(True, "held")]


@pytest.mark.parametrize("mode", OWN)
def test_cleanup_after_a_deadline_sees_the_contextvars_of_its_call(mode: str) -> None:
    import contextvars

    name = contextvars.ContextVar("name", default="none")
    let_go, begun = threading.Event(), threading.Event()
    seen: list[str] = []
    dag = DAG("late").add_node("held", lambda: begun.set() or (let_go.wait(LONG) and None))
    dag.set_default_hooks(
        pre_execute=lambda node: name.set("set") and None,
        cleanup=lambda node: seen.append(name.get()),
    )
    for timeout in timeouts():
        seen.clear()
        EXECUTE[mode](dag, timeout=timeout)
        if begun.is_set():
            break
    let_go.set()
    assert seen == ["set"]


@pytest.fixture
def _short_grace() -> Iterator[None]:
    grace, dispatcher.GRACE = dispatcher.GRACE, 0.3
    yield
    dispatcher.GRACE = grace


@pytest.mark.usefixtures("_short_grace")
@pytest.mark.parametrize("mode", OWN)
def test_cleanup_that_does_not_end_is_cut_off_after_its_grace_and_the_next_begins(
    mode: str,
) -> None:
    let_go, begun = threading.Event(), threading.Event()
    closed: list[str] = []
    dag = DAG("late")
    dag.add_node("held", lambda resource: begun.set() or (let_go.wait(LONG * 3) and None))
    dag.set_default_hooks(cleanup=lambda node: let_go.wait(LONG * 3) and None)

    @dag.resource("resource")
    def opened() -> Iterator[int]:
        yield 1
        closed.append("closed")

    for timeout in timeouts():
        closed.clear()
        began = time.monotonic()
        run = EXECUTE[mode](dag, timeout=timeout)
        assert time.monotonic() - began < LONG
        if begun.is_set():
            break
    let_go.set()
    assert run.status == "timed_out"
    assert closed == ["closed"]


@pytest.mark.parametrize("mode", OWN)
def test_a_nested_workflow_that_is_late_has_cleaned_up_before_its_node_ends(mode: str) -> None:
    let_go, begun = threading.Event(), threading.Event()
    log: list[str] = []

    async def unwinds() -> None:
        log.append("unwinds begun")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            log.append("unwound")

    inner = DAG("inner")

    @inner.resource("resource")
    def opened() -> Iterator[int]:
        yield 1
        log.append("closed")

    inner.add_node("held", lambda resource: begun.set() or (let_go.wait(LONG) and None))
    inner.add_node("unwinds", unwinds)
    inner.set_default_hooks(cleanup=lambda node: log.append(f"{node.name} cleaned up"))
    for timeout in timeouts():
        log.clear()
        outer = DAG("outer").add_node("sub", inner, timeout=timeout)
        outer.set_node_hooks("sub", cleanup=lambda node: log.append("sub cleaned up"))
        run = EXECUTE[mode](outer)
        if begun.is_set() and (mode == "sequential" or "unwinds begun" in log):
            break
    let_go.set()
    assert isinstance(run.errors["sub"], fast_dag.TimeoutError)
    assert log[-2:] == ["closed", "sub cleaned up"]
    assert "held cleaned up" in log
    if mode != "sequential":
        assert log.index("unwound") < log.index("unwinds cleaned up")


# A loop that is closed under runs.


@pytest.mark.parametrize("calls_first", [False, True], ids=["any order", "calls first"])
@pytest.mark.parametrize("node", [{}, {"uses": "db"}, {"timeout": 60}])
def test_a_run_whose_loop_was_closed_gives_back_what_others_wait_for(
    node: dict[str, Any], calls_first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    log: list[str] = []

    calls: list[Any] = []

    async def work(wait: bool) -> bool:
        task = asyncio.current_task()
        assert task is not None
        calls.append(task.get_coro())
        try:
            while wait:
                await asyncio.Event().wait()
        finally:
            log.append("unwound")
        return wait

    dag = DAG("shared", limits=fast_dag.Limits(db=2))
    dag.add_node("one", work, **node).add_node("other", work, **node)
    loop = asyncio.new_event_loop()
    run = loop.create_task(dag.run_async(wait=True))
    for _ in range(10):
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    for each in calls if calls_first else []:  # the collector may begin anywhere
        each.close()
    calls.clear()
    del run, loop
    gc.collect()  # what raises here is a warning, and therefore an error
    assert log == ["unwound", "unwound"]
    assert {each.levelname for each in caplog.records} == {"ERROR"}  # of asyncio: tasks that pended
    assert {each.name for each in caplog.records} == {"asyncio"}

    async def again() -> bool:
        async with asyncio.timeout(LONG):
            return await dag.run_async(wait=False)

    assert asyncio.run(again()) is False
