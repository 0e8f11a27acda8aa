"""Resources: opened at their first use in a run, shared by its nodes, closed however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import DAG, Context, ExecutionError, InvalidNodeError, TimeoutError, ValidationError
from tests.patience import LONG, timeouts
from tests.ways import EXECUTE, MODES, OWN, OWN_EVERYWHERE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from fast_dag import Run


class Tracked:
    """A context manager that keeps a log."""

    def __init__(self, log: list[Any], name: str = "it") -> None:
        self.log = log
        self.name = name

    def __enter__(self) -> str:
        self.log.append(f"open {self.name}")
        return self.name

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> bool:
        self.log.append(f"close {self.name}" + (f" after {error}" if error else ""))
        return True  # the run's failure stands nevertheless


class AsyncTracked(Tracked):
    __enter__ = None  # type: ignore[assignment]
    __exit__ = None  # type: ignore[assignment]

    async def __aenter__(self) -> str:
        self.loop = asyncio.get_running_loop()
        return Tracked.__enter__(self)

    async def __aexit__(self, *error: Any) -> None:
        assert asyncio.get_running_loop() is self.loop
        Tracked.__exit__(self, *error)


@pytest.fixture(params=OWN_EVERYWHERE)
def execute(request: pytest.FixtureRequest) -> Callable[..., Run]:
    return EXECUTE[request.param]


def test_a_resource_is_opened_once_and_given_to_each_node_that_names_it(
    execute: Callable[..., Run],
) -> None:
    log: list[Any] = []
    dag = DAG("d")
    dag.resource("pool", lambda: Tracked(log))
    for index in range(8):
        dag.add_node(f"n{index}", lambda pool: pool)
    run = execute(dag)
    assert set(run.results.values()) == {"it"}
    assert log == ["open it", "close it"]
    assert execute(dag).status == "completed"
    assert log == ["open it", "close it"] * 2


def test_what_no_node_uses_is_not_opened(execute: Callable[..., Run]) -> None:
    log: list[Any] = []
    dag = DAG("d")
    dag.resource("pool", lambda: Tracked(log))

    @dag.condition
    def wanted(x: int) -> bool:
        return x > 0

    @dag.node
    def use(pool: str) -> str:
        return pool

    use.after(wanted.on_true)
    execute(dag, x=0)
    assert log == []
    assert execute(dag, x=1).value == "it"
    assert log == ["open it", "close it"]


def test_async_resources_open_and_close_on_the_loop_of_the_run(
    execute: Callable[..., Run],
) -> None:
    log: list[Any] = []
    dag = DAG("d")
    dag.resource("client", lambda: AsyncTracked(log))

    @dag.node
    async def fetch(client: str) -> str:
        return client

    @dag.node
    def plain(client: str, fetch: str) -> str:
        return client + fetch

    fetch >> plain
    dag.disconnect(fetch, plain)
    dag.connect(fetch, plain, input="fetch")
    assert execute(dag).value == "itit"
    assert log == ["open it", "close it"]


def test_factories_come_in_every_kind(execute: Callable[..., Run]) -> None:
    log: list[str] = []
    dag = DAG("d")

    @dag.resource("generator")
    def generator(context: Context) -> Iterator[str]:
        log.append("open generator")
        yield context.metadata["user"]
        log.append("close generator")

    @dag.resource("async_generator")
    async def async_generator() -> AsyncIterator[str]:
        log.append("open async generator")
        yield "b"
        log.append("close async generator")

    async def coroutine() -> Tracked:
        return Tracked(log, "c")

    dag.resource("coroutine", coroutine)
    dag.resource("either", lambda: contextlib.nullcontext("d"))

    @dag.node
    def use(generator: str, async_generator: str, coroutine: str, *, either: str) -> str:
        return generator + async_generator + coroutine + either

    assert execute(dag, context=Context(metadata={"user": "a"})).value == "abcd"
    assert log == [
        "open generator",
        "open async generator",
        "open c",
        "close c",
        "close async generator",
        "close generator",
    ]


@pytest.mark.parametrize("manager", [Tracked, AsyncTracked])
def test_resources_are_told_of_the_failure_that_ended_the_run(
    execute: Callable[..., Run], manager: type[Tracked]
) -> None:
    log: list[Any] = []
    dag = DAG("d")
    dag.resource("pool", lambda: manager(log))

    @dag.node
    def bad(pool: str) -> None:
        raise ValueError("broken")

    run = execute(dag)
    assert run.status == "failed"
    assert log == ["open it", "close it after broken"]


def test_a_failure_that_the_run_survives_does_not_end_it_for_resources(
    execute: Callable[..., Run],
) -> None:
    log: list[Any] = []
    dag = DAG("d")
    dag.resource("pool", lambda: Tracked(log))
    dag.add_node("bad", lambda pool: 1 / 0)
    assert execute(dag, error_strategy="continue").status == "completed_with_errors"
    assert log == ["open it", "close it"]


def test_a_failure_to_open_is_an_attempt_that_failed(execute: Callable[..., Run]) -> None:
    opened: list[Any] = []

    @contextlib.contextmanager
    def unreliable() -> Iterator[int]:
        opened.append(0)
        if len(opened) < 3:
            raise ConnectionError("refused")
        yield len(opened)

    dag = DAG("d")
    dag.resource("pool", unreliable)
    dag.add_node("use", lambda pool: pool, retry=2, retry_delay=0)
    assert execute(dag).value == 3
    assert dag.context.metrics["retries"] == 2
    opened.clear()
    dag.add_node("use", lambda pool: pool, replace=True)
    run = execute(dag)
    assert isinstance(run.errors["use"], ConnectionError)
    with pytest.raises(ExecutionError, match=r"node 'use'.*in its resources.*refused"):
        run.raise_for_error()


def test_a_failure_to_close_fails_the_run_and_loses_nothing(execute: Callable[..., Run]) -> None:
    log: list[Any] = []
    dag = DAG("d")
    dag.resource("first", lambda: Tracked(log, "first"))

    @dag.resource("second")
    def second() -> Iterator[int]:
        yield 2
        raise OSError("disk full")

    dag.add_node("use", lambda first, second: (first, second))
    run = execute(dag)
    assert run.status == "failed"
    assert run["use"] == ("first", 2)
    assert log == ["open first", "close first after disk full"]
    with pytest.raises(ExecutionError, match=r"resource 'second'.*closing.*disk full") as caught:
        run.raise_for_error()
    assert isinstance(caught.value.__cause__, OSError)


def test_a_failure_to_close_after_a_failure_is_noted_on_that(execute: Callable[..., Run]) -> None:
    dag = DAG("d")

    @dag.resource("pool")
    def pool() -> Iterator[int]:
        try:
            yield 2
        finally:
            raise OSError("disk full")

    @dag.node
    def bad(pool: int) -> None:
        raise ValueError("broken")

    run = execute(dag)
    assert list(run.errors) == ["bad"]
    assert "resource 'pool' could not be closed: OSError: disk full" in run.errors["bad"].__notes__


@pytest.mark.parametrize("answer", ["continue", "stop"])
def test_a_failure_to_close_in_a_nested_workflow_is_a_failure_of_its_node(
    execute: Callable[..., Run], answer: str
) -> None:
    inner = DAG("inner").add_node("use", lambda broken: broken)

    @inner.resource("broken")
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("disk full")

    asked = []

    def lenient(node: str, error: Exception, context: Context) -> str:
        asked.append((node, str(error)))
        return answer

    dag = DAG("outer").add_node("sub", DAG("middle").add_node("in", inner))
    dag.add_node("below", lambda sub: sub).connect("sub", "below")
    dag.add_node("other", lambda: 2)
    run = execute(dag, error_handler=lenient)
    assert asked == [("sub.in.broken", "disk full")]
    assert run.status == ("completed_with_errors" if answer == "continue" else "failed")
    assert (run.statuses["sub"], run.statuses["below"]) == ("failed", "skipped")
    assert answer == "stop" or run.statuses["other"] == "completed"
    run = execute(dag, error_strategy="continue")
    assert (run.value, [each["node"] for each in run.context.metadata["errors"]]) == (
        2,
        ["sub.in.broken"],
    )


def test_nested_workflows_have_resources_of_their_own_and_take_those_of_their_parents(
    execute: Callable[..., Run],
) -> None:
    log: list[Any] = []
    inner = DAG("inner")
    inner.resource("own", lambda: Tracked(log, "own"))
    inner.add_node("use", lambda own, pool: (own, pool))
    outer = DAG("outer")
    outer.resource("pool", lambda: Tracked(log, "pool"))
    outer.add_node("sub", inner)
    outer.add_node("after", lambda value, pool: (value, pool, list(log)))
    outer.connect("sub", "after", input="value")
    value, pool, seen = execute(outer).value
    assert (value, pool) == (("own", "pool"), "pool")
    assert seen == ["open pool", "open own", "close own"]
    assert log == [*seen, "close pool"]


def test_inputs_edges_and_hooks_come_before_resources(execute: Callable[..., Run]) -> None:
    log: list[Any] = []
    dag = DAG("d")
    dag.resource("pool", lambda: Tracked(log))
    dag.add_node("use", lambda pool: pool)
    assert execute(dag, pool="given").value == "given"
    dag.set_node_hooks("use", pre_execute=lambda node, inputs: {"pool": f"hook {inputs}"})
    assert execute(dag).value == "hook {}"
    dag.set_node_hooks("use", pre_execute=None)
    dag.add_node("source", lambda: "edge").connect("source", "use", input="pool")
    assert execute(dag).value == "edge"
    assert log == []


def test_resources_are_no_part_of_a_cached_nodes_key(execute: Callable[..., Run]) -> None:
    log: list[Any] = []
    dag = DAG("d")
    dag.resource("pool", lambda: Tracked(log))

    @dag.cached_node
    def use(x: int, pool: str) -> str:
        return f"{x} {pool}"

    assert [execute(dag, x=1).value, execute(dag, x=1).value] == ["1 it", "1 it"]
    assert log == ["open it", "close it"]


def test_two_nodes_that_start_at_once_open_it_once() -> None:
    opening, go_on = threading.Event(), threading.Event()
    opened: list[int] = []

    @contextlib.contextmanager
    def slow() -> Iterator[str]:
        opened.append(1)
        opening.set()
        assert go_on.wait(LONG)
        yield "it"

    dag = DAG("d")
    dag.resource("pool", slow)
    dag.add_node("a", lambda pool: pool).add_node("b", lambda pool: pool)

    @dag.node
    def release() -> None:
        assert opening.wait(LONG)
        go_on.set()

    assert dag.execute(mode="parallel", max_workers=3).results == {
        "a": "it",
        "b": "it",
        "release": None,
    }
    assert opened == [1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("manager", [Tracked, AsyncTracked])
def test_resources_are_closed_at_the_deadline(mode: Any, manager: type[Tracked]) -> None:
    held, begun = threading.Event(), threading.Event()
    log: list[Any] = []
    dag = DAG("d")
    dag.resource("pool", lambda: manager(log))

    @dag.node
    def slow(pool: str) -> None:
        begun.set()
        held.wait(LONG)

    for timeout in timeouts():
        log.clear()
        with pytest.raises(TimeoutError):
            dag.run(mode=mode, timeout=timeout)
        if begun.is_set():
            break
    held.set()
    assert log == ["open it", "close it after 'd' was cut short: timed_out"]


def test_resources_are_closed_on_cancellation() -> None:
    log: list[Any] = []
    dag = DAG("d")
    dag.resource("pool", lambda: AsyncTracked(log))
    started = asyncio.Event()

    @dag.node
    async def forever(pool: str) -> None:
        started.set()
        await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(dag.run_async())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert log == ["open it", "close it after 'd' was cut short: cancelled"]


def test_what_opens_after_the_end_is_closed_at_once() -> None:
    begun, held, closed = threading.Event(), threading.Event(), threading.Event()

    @contextlib.contextmanager
    def slow() -> Iterator[str]:
        begun.set()
        held.wait(LONG)
        yield "late"
        closed.set()

    dag = DAG("d")
    dag.resource("pool", slow)
    dag.add_node("use", lambda pool: pool)
    for timeout in timeouts():
        with pytest.raises(TimeoutError):
            dag.run(timeout=timeout)
        if begun.is_set():
            break
    held.set()
    assert closed.wait(LONG)


@pytest.mark.parametrize("timeout", [None, 20])
def test_resources_bound_to_a_thread_stay_usable_in_a_sequential_run(timeout: Any) -> None:
    dag = DAG("d")
    dag.resource("db", lambda: contextlib.closing(sqlite3.connect(":memory:")))
    dag.add_node("make", lambda db: db.execute("create table t as select 3 as x") and None)
    dag.add_node("ask", lambda db: db.execute("select x from t").fetchone())
    dag.connect("make", "ask", input=False)
    assert dag.run(timeout=timeout) == (3,)


def test_many_runs_at_once_have_resources_of_their_own() -> None:
    log: list[Any] = []
    dag = DAG("d")
    dag.resource("pool", lambda context: Tracked(log, context.metadata["run_id"]))
    dag.add_node("use", lambda pool, context: pool == context.metadata["run_id"])

    async def main() -> list[Any]:
        return await asyncio.gather(*[dag.run_async() for _ in range(20)])

    assert asyncio.run(main()) == [True] * 20
    assert len(set(log)) == 40


@pytest.mark.parametrize(
    ("name", "factory", "message"),
    [
        ("pool", 3, "factory is a function"),
        ("not a name", dict, "that of a parameter"),
        ("pool", lambda a, b: 0, r"offered \(context\)"),
    ],
)
def test_a_resource_that_cannot_work_is_refused(name: Any, factory: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DAG("d").resource(name, factory)


def test_a_factory_that_makes_no_context_manager_fails_its_nodes() -> None:
    dag = DAG("d")
    dag.resource("pool", object)
    dag.add_node("use", lambda pool: pool)
    with pytest.raises(ExecutionError, match=r"returned a object.*contextlib\.closing"):
        dag.run()


def test_problems_with_resources_are_found_before_anything_runs() -> None:
    dag = DAG("d")
    dag.resource("pool", lambda: Tracked([]))
    dag.add_node("pool", lambda: 1)
    dag.add_node("use", lambda pool: pool, run_in="process")
    clash, elsewhere = dag.validate(allow_disconnected=True)
    assert "both a node and a resource" in str(clash)
    assert isinstance(elsewhere, InvalidNodeError)
    with pytest.raises(ValidationError, match="2 problems"):
        dag.run()


def test_clones_and_pickles_keep_their_resources() -> None:
    dag = DAG("d")
    dag.resource("pool", Pool)
    dag.add_node("use", used)
    assert dag.clone().run() == "pool"
    assert pickle.loads(pickle.dumps(dag)).run() == "pool"


class Pool(contextlib.AbstractContextManager[str]):
    def __enter__(self) -> str:
        return "pool"

    def __exit__(self, *error: object) -> None: ...


def used(pool: str) -> str:
    return pool


@pytest.mark.parametrize(
    "goes_on",
    [{"error_strategy": "continue"}, {"error_handler": lambda *error: "continue"}],
    ids=["strategy", "handler"],
)
def test_a_run_that_went_on_after_failures_tells_only_how_many_there_were(
    execute: Any, goes_on: Any
) -> None:
    log: list[Any] = []

    def pool(context: Context) -> Iterator[str]:
        with Tracked(log):
            yield "pool"
            log.append(context.metrics["nodes_failed"])

    dag = DAG("d")
    dag.resource("pool", pool)
    dag.add_node("use", lambda pool: pool).add_node("fail", lambda: 1 // 0)
    assert execute(dag, **goes_on).status == "completed_with_errors"
    assert log == ["open it", 1, "close it"]


@pytest.mark.parametrize("mode", OWN)
def test_a_task_group_that_wraps_the_failure_of_the_run_is_closed_all_the_same(mode: str) -> None:
    dag = DAG("group")

    @dag.resource("group")
    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[asyncio.TaskGroup]:
        async with asyncio.TaskGroup() as group:
            yield group

    dag.add_node("fails", lambda group: 1 // 0)
    run = EXECUTE[mode](dag)
    assert set(run.errors) == {"fails"}
    assert not getattr(run.errors["fails"], "__notes__", ())
