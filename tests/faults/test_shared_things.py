"""What runs share and must give back: resources and their contexts, threads."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from fast_dag import DAG, FSM, ExecutionError
from fast_dag.drive.threads import shared
from tests.concurrency.support import wait_for
from tests.patience import LONG, timeouts
from tests.ways import EXECUTE, OWN, OWN_AT_ONCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


inside: contextvars.ContextVar[str] = contextvars.ContextVar("inside", default="nothing")


# Contexts and tasks of resources.


def token() -> Iterator[str]:
    before = inside.set("a resource")
    yield "value"
    inside.reset(before)


async def token_async() -> AsyncIterator[str]:
    before = inside.set("a resource")
    await asyncio.sleep(0)
    yield "value"
    await asyncio.sleep(0)
    inside.reset(before)


@contextlib.contextmanager
def token_of_a_manager() -> Iterator[str]:
    before = inside.set("a resource")
    try:
        yield "value"
    finally:
        inside.reset(before)


async def group() -> AsyncIterator[str]:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(asyncio.sleep(0))
        yield "value"


async def group_of_anyio() -> AsyncIterator[str]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep, 0)
        yield "value"


async def scope() -> AsyncIterator[str]:
    with anyio.fail_after(LONG):
        yield "value"


def numpy_errors() -> Iterator[str]:
    numpy = pytest.importorskip("numpy")
    with numpy.errstate(divide="raise"):
        yield "value"


def flask_context() -> Iterator[str]:
    """As Flask's `app_context` does it: a token in a ContextVar, checked as it is taken back."""
    before = inside.set("an app")
    yield "value"
    assert inside.get() == "an app"
    inside.reset(before)


@pytest.mark.parametrize(
    "factory",
    [
        token,
        token_async,
        token_of_a_manager,
        group,
        group_of_anyio,
        scope,
        pytest.param(numpy_errors, marks=pytest.mark.needs("numpy")),
        flask_context,
    ],
)
@pytest.mark.parametrize("mode", OWN)
@pytest.mark.parametrize("kind", ["dag", "machine", "nested"])
def test_a_resource_is_opened_and_closed_in_one_context_and_one_task(
    mode: str, kind: str, factory: Any
) -> None:
    async def use(resource: str) -> str:
        await asyncio.sleep(0)
        return inside.get()

    workflow: Any
    if kind == "machine":
        workflow = FSM("uses", initial_state="use", terminal_states=["last"])
        workflow.add_state("use", use).add_state("last", lambda resource, x: x)
        workflow.add_transition("use", "last")
    else:
        workflow = DAG("uses").add_node("use", use)
        workflow.add_node("again", lambda use, resource: use).connect("use", "again")
    workflow.resource("resource", factory)
    if kind == "nested":
        workflow = DAG("outer").add_node("sub", workflow)
    run = EXECUTE[mode](workflow)
    run.raise_for_error()
    assert run.value == "nothing", "what a resource sets, nodes do not see"
    assert inside.get() == "nothing"


@pytest.mark.parametrize("mode", OWN)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_generator_is_resumed_however_the_run_ended_and_knows_how(
    mode: str, is_async: bool
) -> None:
    seen: list[str] = []

    def opened(context: Any) -> Iterator[int]:
        yield 1
        seen.append(context.metadata["execution_status"])

    async def opened_async(context: Any) -> AsyncIterator[int]:
        yield 1
        seen.append(context.metadata["execution_status"])

    dag = DAG("uses").add_node("use", lambda resource, x: 1 // x)
    dag.resource("resource", opened_async if is_async else opened)
    EXECUTE[mode](dag, x=1)
    EXECUTE[mode](dag, x=0)
    EXECUTE[mode](dag, x=0, error_strategy="continue")
    assert seen == ["completed", "failed", "completed_with_errors"]
    let_go, begun = threading.Event(), threading.Event()
    dag.replace_node("use", lambda resource, x: begun.set() or (let_go.wait(LONG) and None))
    for timeout in timeouts():
        seen.clear()
        EXECUTE[mode](dag, x=0, timeout=timeout)
        if begun.is_set():
            break
    let_go.set()
    assert seen == ["timed_out"]


@pytest.mark.parametrize("mode", OWN_AT_ONCE)
def test_a_resource_that_breaks_ends_its_run_and_is_named(mode: str) -> None:
    async def fails() -> None:
        raise OSError("the child failed")

    async def starts(group: asyncio.TaskGroup) -> None:
        group.create_task(fails())
        await asyncio.Event().wait()

    dag = DAG("broken").add_node("starts", starts)

    @dag.resource("group")
    async def opened() -> AsyncIterator[asyncio.TaskGroup]:
        async with asyncio.TaskGroup() as tasks:
            yield tasks

    run = EXECUTE[mode](dag)
    assert (run.status, run.statuses) == ("failed", {"starts": "cancelled"})
    with pytest.raises(ExecutionError, match="resource 'group'") as caught:
        run.raise_for_error()
    assert isinstance(caught.value.__cause__, ExceptionGroup)


@pytest.mark.parametrize("mode", OWN)
def test_all_resources_are_closed_though_closings_raise(mode: str) -> None:
    closed: list[str] = []
    dag = DAG("closes").add_node("use", lambda a, b, c: 1)

    def make(name: str) -> Any:
        def opened() -> Iterator[int]:
            yield 1
            closed.append(name)
            raise OSError(name)

        return opened

    for name in "abc":
        dag.resource(name, make(name))
    run = EXECUTE[mode](dag)
    assert closed == ["c", "b", "a"]
    assert run.status == run.context.metadata["execution_status"] == "failed"
    assert run.results == {"use": 1}


# Threads of awaited runs.


def test_runs_on_a_loop_share_a_bounded_set_of_threads() -> None:
    threads: set[int] = set()
    dag = DAG("six")
    for number in range(6):
        dag.add_node(f"n{number}", lambda: threads.add(threading.get_ident()))

    async def main() -> None:
        await asyncio.gather(*[dag.run_async() for _ in range(100)])

    asyncio.run(main())
    assert len(threads) <= shared().most


@pytest.mark.parametrize("mode", OWN_AT_ONCE)
@pytest.mark.parametrize("phase", ["pre_execute", "post_execute", "cleanup"])
def test_sync_hooks_of_many_async_nodes_share_a_bounded_set_of_threads(
    mode: str, phase: str
) -> None:
    threads: set[int] = set()

    async def node() -> None:
        await asyncio.sleep(0)

    dag = DAG("hooked")
    for number in range(300):
        dag.add_node(f"n{number}", node)
    dag.set_default_hooks(**{phase: lambda: threads.add(threading.get_ident()) or None})
    assert EXECUTE[mode](dag).status == "completed"
    assert len(threads) <= shared().most + 1


def test_a_run_that_says_so_has_more_threads_than_are_shared() -> None:
    many = shared().most + 3
    barrier = threading.Barrier(many)
    dag = DAG("many")
    for number in range(many):
        dag.add_node(f"n{number}", lambda: barrier.wait(LONG))

    async def main() -> None:
        await dag.run_async(max_workers=many)

    asyncio.run(main())


@pytest.mark.parametrize("mode", OWN)
def test_nodes_that_wait_for_runs_of_their_own_lend_them_their_threads(mode: str) -> None:
    """More of them than there are threads, several levels deep: all wait for what needs one."""
    many = shared().most + 2

    def below() -> Any:
        inner = DAG("inner").add_node("one", lambda: 1).add_node("two", lambda one: one + 1)
        inner.add_node("beside", lambda: 3).connect("one", "two")
        return EXECUTE[mode](inner, outputs=["two", "beside"]).value

    def level() -> Any:
        outer = DAG("outer")
        for number in range(3):
            outer.add_node(f"n{number}", below)
        return asyncio.run(outer.execute_async()).status

    dag = DAG("outermost")
    for number in range(many):
        dag.add_node(f"n{number}", level)

    async def main() -> Any:
        async with asyncio.timeout(LONG * 3):
            return await dag.execute_async()

    assert set(asyncio.run(main()).results.values()) == {"completed"}


def test_abandoned_calls_give_up_their_places() -> None:
    let_go = threading.Event()

    async def main() -> None:
        dag = DAG("held")
        for number in range(shared().most):
            dag.add_node(f"n{number}", lambda: let_go.wait(LONG) and None)
        assert (await dag.execute_async(timeout=0.1)).status == "timed_out"
        async with asyncio.timeout(LONG):
            assert await DAG("next").add_node("node", lambda: 1).run_async() == 1

    asyncio.run(main())
    let_go.set()


class Crowd:
    """As many nodes as there are shared threads, which hold these until they are let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.inside = threading.Semaphore(0)
        self.dag = DAG("crowd")
        for number in range(shared().most):
            self.dag.add_node(f"n{number}", self.hold)

    def hold(self) -> None:
        self.inside.release()
        wait_for(self.let_go)

    async def gathered(self) -> asyncio.Task[Any]:
        task = asyncio.create_task(self.dag.run_async())
        for _ in range(shared().most):
            await asyncio.to_thread(self.inside.acquire)
        return task


def test_a_run_whose_calls_wait_for_a_thread_ends_at_once_when_it_is_cancelled() -> None:
    async def main() -> None:
        crowd, called = Crowd(), []
        others = await crowd.gathered()
        dag = DAG("waits").add_node("node", lambda: called.append(1))
        task = asyncio.create_task(dag.run_async())
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not crowd.let_go.is_set()
        crowd.let_go.set()
        await others
        assert not called

    asyncio.run(main())


def test_cleanup_of_a_cancelled_run_does_not_wait_for_threads_that_others_have() -> None:
    async def main() -> None:
        crowd, log, started = Crowd(), [], asyncio.Event()

        async def node(resource: int) -> None:
            started.set()
            await asyncio.Event().wait()

        async def opened() -> AsyncIterator[int]:
            yield 1
            log.append("closed")

        dag = DAG("cleans").add_node("node", node)
        dag.resource("resource", opened)
        dag.set_default_hooks(cleanup=lambda node: log.append("cleaned up"))
        task = asyncio.create_task(dag.run_async())
        await started.wait()
        others = await crowd.gathered()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log == ["cleaned up", "closed"]
        crowd.let_go.set()
        await others

    asyncio.run(main())


# Waking up beside a caller's thread that is busy.


@pytest.mark.parametrize("run_in", [None, "inline"])
def test_retries_do_not_wait_for_the_node_that_the_callers_thread_is_busy_with(
    run_in: Any,
) -> None:
    tried_again = threading.Event()
    tries: list[int] = []

    def flaky() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError
        tried_again.set()

    inner = DAG("inner").add_node("flaky", flaky, retry=1, retry_delay=0.01)
    dag = DAG("outer").add_node("sub", inner)
    dag.add_node("busy", lambda: wait_for(tried_again), run_in=run_in)
    assert dag.execute(mode="parallel", max_workers=2).status == "completed"


def test_a_cached_result_wakes_its_waiters_beside_an_inline_node_that_is_at_work() -> None:
    computing, may_end, woken = threading.Event(), threading.Event(), threading.Event()
    shared_node = DAG("cache")

    @shared_node.cached_node
    def slow(x: int) -> int:
        computing.set()
        wait_for(may_end)
        return x

    dag = DAG("waits")
    dag.add_node("sub", shared_node).add_node("below", lambda sub: woken.set())
    dag.connect("sub", "below")

    def busy() -> None:
        may_end.set()
        wait_for(woken)

    dag.add_node("busy", busy, run_in="inline")
    first = threading.Thread(target=lambda: shared_node.run(x=1))
    first.start()
    wait_for(computing)
    assert dag.execute(x=1, mode="parallel", max_workers=3).status == "completed"
    first.join()


# What users look up.


@pytest.mark.parametrize("mode", OWN_AT_ONCE)
def test_a_part_of_a_result_that_is_slow_to_look_up_holds_up_no_other_node(mode: str) -> None:
    looked_up, other_ran = threading.Event(), threading.Event()

    class Slow(dict[str, int]):
        def __getitem__(self, key: str) -> int:
            looked_up.set()
            wait_for(other_ran)
            return 1

        def __contains__(self, key: object) -> bool:
            return True

    def other() -> None:
        wait_for(looked_up)

    dag = DAG("parts").add_node("make", lambda: Slow()).add_node("take", lambda part: part)
    dag.connect("make", "take", output="part", input="part")
    dag.add_node("other", other).add_node("after", lambda other: other_ran.set())
    dag.connect("other", "after")
    run = EXECUTE[mode](dag, max_workers=3)
    run.raise_for_error()
    assert run["take"] == 1
