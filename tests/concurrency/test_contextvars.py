"""contextvars: the caller's are visible in every node, and nothing that is set inside gets out."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest

from fast_dag import DAG
from tests.patience import LONG
from tests.ways import AT_ONCE, EXECUTE, HERE, OWN_AT_ONCE

variable: ContextVar[str] = ContextVar("variable", default="unset")
everywhere = pytest.mark.parametrize("way", [*HERE, "one thread", "timed"])


@everywhere
def test_the_callers_variables_are_visible_in_every_node(way: str) -> None:
    async def asynchronous() -> str:
        return variable.get()

    async def coroutine() -> str:
        await asyncio.sleep(0)
        return variable.get()

    def hidden() -> Any:
        return coroutine()

    inner = DAG("inner").add_node("sync", variable.get, inputs=[]).add_node("async", asynchronous)
    dag = DAG("seen")
    dag.add_node("sync", variable.get, inputs=[]).add_node("async", asynchronous)
    dag.add_node("inline", variable.get, inputs=[], run_in="inline")
    dag.add_node("thread", variable.get, inputs=[], run_in="thread")
    dag.add_node("retried", variable.get, inputs=[], retry=1)
    dag.add_node("watched", variable.get, inputs=[], timeout=LONG)
    dag.add_node("hidden", hidden)
    dag.add_node("inner", inner)
    for value in ("one", "two"):
        token = variable.set(value)
        try:
            run = EXECUTE[way](dag)
        finally:
            variable.reset(token)
        assert {**run.results, **run.children["inner"].results} == dict.fromkeys(
            [*dag.nodes, *inner.nodes], value
        )


@everywhere
def test_nothing_that_a_node_sets_reaches_the_caller(way: str) -> None:
    async def asynchronous() -> None:
        variable.set("async")

    dag = DAG("set")
    dag.add_node("sync", lambda: variable.set("sync")).add_node("async", asynchronous)
    dag.add_node("inline", lambda: variable.set("inline"), run_in="inline")
    dag.add_node("retried", lambda: variable.set("retried"), retry=1)
    dag.add_node("inner", DAG("inner").add_node("nested", lambda: variable.set("nested")))
    token = variable.set("mine")
    try:
        assert EXECUTE[way](dag).status == "completed"
        assert variable.get() == "mine"
    finally:
        variable.reset(token)
    assert variable.get() == "unset"


def test_nothing_that_a_node_sets_reaches_the_task_that_awaits_the_run() -> None:
    async def asynchronous() -> None:
        variable.set("async")

    dag = DAG("set").add_node("async", asynchronous)
    dag.add_node("inline", lambda: variable.set("inline"), run_in="inline")

    async def main() -> str:
        variable.set("mine")
        await dag.run_async()
        return variable.get()

    assert asyncio.run(main()) == "mine"


@everywhere
def test_the_attempts_of_a_node_share_one_copy(way: str) -> None:
    """What the first attempt sets is seen by the second, wherever that runs."""
    seen: list[str] = []

    def node() -> str:
        seen.append(variable.get())
        variable.set("by the first attempt")
        if len(seen) == 1:
            raise OSError("again")
        return variable.get()

    async def asynchronous() -> str:
        return node()

    for func in (node, asynchronous):
        seen.clear()
        dag = DAG("attempts").add_node("node", func, retry=1, retry_delay=0)
        token = variable.set("mine")
        try:
            assert EXECUTE[way](dag).value == "by the first attempt"
        finally:
            variable.reset(token)
        assert seen == ["mine", "by the first attempt"]


@everywhere
def test_a_node_with_a_copy_of_its_own_tells_no_other_node(way: str) -> None:
    dag = DAG("own").add_node("sets", lambda: variable.set("leaked") and None, retry=1)
    dag.add_node("reads", lambda sets: variable.get()).connect("sets", "reads")
    assert EXECUTE[way](dag).value == "unset"


@pytest.mark.parametrize("way", AT_ONCE)
def test_workers_do_not_see_what_others_set(way: str) -> None:
    """Both nodes run at once, each in a worker of its own."""
    have_set = threading.Barrier(2)

    def node(name: str) -> str:
        variable.set(name)
        have_set.wait(LONG)
        return variable.get()

    dag = DAG("workers").add_node("a", lambda: node("a")).add_node("b", lambda: node("b"))
    assert EXECUTE[way](dag, max_workers=2).results == {"a": "a", "b": "b"}


@pytest.mark.parametrize("way", OWN_AT_ONCE)
def test_async_nodes_do_not_see_what_others_set(way: str) -> None:
    barrier = asyncio.Barrier(2)

    def make(name: str) -> Any:
        async def node() -> str:
            variable.set(name)
            await barrier.wait()
            return variable.get()

        return node

    dag = DAG("tasks").add_node("a", make("a")).add_node("b", make("b"))
    assert EXECUTE[way](dag).results == {"a": "a", "b": "b"}


def test_runs_at_once_see_each_their_own_callers_variables() -> None:
    barrier = threading.Barrier(8)
    dag = DAG("callers").add_node("node", lambda: barrier.wait(LONG) >= 0 and variable.get())

    def call(index: int) -> tuple[str, str]:
        variable.set(f"caller {index}")
        value = dag.run(mode=("sequential", "parallel")[index % 2])
        return value, variable.get()

    with ThreadPoolExecutor(8) as pool:
        for index, values in enumerate(pool.map(call, range(8))):
            assert values == (f"caller {index}", f"caller {index}")
