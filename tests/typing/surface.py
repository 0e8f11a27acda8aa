"""What type checkers see of the public names; checked by mypy and pyright, never run."""

from __future__ import annotations

from concurrent.futures import Future
from datetime import timedelta
from typing import Any, assert_type

from fast_dag import DAG, ConditionalReturn, Context, Run, SelectReturn, Workers

dag = DAG("typed")


@dag.node
def plain(x: int, y: str = "") -> float:
    return float(x)


@dag.node(name="renamed", retry=2, retry_on=(OSError,), timeout=1.0)
def with_options(x: int) -> list[int]:
    return [x]


@dag.node
async def asynchronous(url: str) -> bytes:
    return url.encode()


@dag.condition
def check(x: int) -> ConditionalReturn:
    return ConditionalReturn(x > 0, value=x)


@dag.select()
def route(x: int) -> SelectReturn:
    return SelectReturn("email", value=x)


@dag.any(wait=True)
def first(a: int | None = None, b: int | None = None) -> int:
    return a or b or 0


@dag.all(collect="parts")
def together(parts: dict[str, int]) -> int:
    return sum(parts.values())


@dag.cached_node(ttl=60, cache_key=["user"])
def profile(user: str, verbose: bool = False) -> str:
    return user


def a_decorated_function_keeps_its_types() -> None:
    assert_type(plain(1), float)
    assert_type(plain(1, y="a"), float)
    assert_type(with_options(1), list[int])
    assert_type(check(1), ConditionalReturn)
    assert_type(route(1), SelectReturn)
    assert_type(first(1, None), int)
    assert_type(together({"a": 1}), int)
    assert_type(profile("ada", verbose=True), str)
    plain("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    plain()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def an_async_node_is_awaited() -> None:
    assert_type(await asynchronous("http://localhost"), bytes)


def edges_keep_the_type_of_their_target() -> None:
    assert_type((plain >> with_options)(1), list[int])
    targets = plain >> [with_options, together]
    assert len(targets) == 2
    check.on_true >> plain
    route.branches["email"] >> plain
    [plain, with_options] >> together
    dag.connect(check.on_false, "renamed", input="x").connect("plain", with_options)
    dag.connect("a", "b", input=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def runs_have_types() -> None:
    run = dag.execute({"x": 1}, mode="parallel", max_workers=2, y="another input")
    assert_type(run, Run)
    assert_type(run.value, Any)
    assert_type(run.status, str)
    assert_type(run.errors, dict[str, Exception])
    assert_type(run.timings, dict[str, float])
    assert_type(run.context, Context)
    assert_type(run["plain"], Any)
    assert_type(run[plain], float)
    assert_type(run[asynchronous], bytes)
    assert_type(dag[with_options], list[int])
    assert_type(dag.run(outputs=[plain, "check"]), Any)
    dag.run_from([plain, "check"])
    dag.run_until(plain)
    dag.replace_node(plain, lambda x: x)
    assert_type(dag.run(x=1, error_strategy="continue"), Any)
    dag.run(mode="wavy")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    dag.run(max_workers="two")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def workers_are_executors() -> None:
    with Workers(2, idle=timedelta(minutes=1), initializer=lambda: None, max_calls=9) as workers:
        assert_type(workers, Workers)
        assert_type(workers.submit(plain, 1), Future[float])
        assert_type(workers.submit(len, "abc"), Future[int])
        assert_type(dag.run(x=1, executor=workers), Any)
        workers.submit(len, 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def runs_are_awaited() -> None:
    assert_type(await dag.execute_async(x=1), Run)
    assert_type(await dag.run_async(x=1), Any)
