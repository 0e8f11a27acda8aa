"""The guide on execution modes and execution control, snippet by snippet."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from fast_dag import DAG, TimeoutError
from tests.patience import LONG, timeouts


def letters() -> DAG:
    """Two sources that meet: an order to see, and a result."""
    dag = DAG("letters")
    dag.add_node("b", lambda: "b").add_node("a", lambda: "a")
    dag.add_node("join", lambda first, second: first + second)
    return dag.connect("b", "join").connect("a", "join")


def test_default_mode_takes_one_node_at_a_time_in_topological_order() -> None:
    dag = letters()
    result = dag.run()
    assert result == "ba"
    assert dag.context.metrics["execution_order"] == ["b", "a", "join"]


def test_sequential_mode_can_be_named() -> None:
    assert letters().run(mode="sequential") == "ba"


@pytest.mark.parametrize("options", [{"max_workers": 3}, {}])
def test_independent_regions_run_in_threads_and_meet_in_an_all_node(
    options: dict[str, Any],
) -> None:
    dag = DAG("regions")
    sales = {"region_a": [1, 2], "region_b": [3], "region_c": [4, 5]}
    # With three workers all regions are in progress at once, or this would break.
    meet = threading.Barrier(3 if options else 1, timeout=LONG)

    def total(of: list[int]) -> dict[str, int]:
        meet.wait()
        return {"total": sum(of)}

    @dag.node
    def process_region_a(data):
        return total(data["region_a"])

    @dag.node
    def process_region_b(data):
        return total(data["region_b"])

    @dag.node
    def process_region_c(data):
        return total(data["region_c"])

    @dag.all()
    def combine_regions(a: dict, b: dict, c: dict):
        return a["total"] + b["total"] + c["total"]

    [process_region_a, process_region_b, process_region_c] >> combine_regions
    assert dag.run(inputs={"data": sales}, mode="parallel", **options) == 15


def test_async_nodes_wait_at_the_same_time() -> None:
    dag = DAG("fetch")

    async def serve() -> Any:
        both = asyncio.Barrier(2)

        @dag.node
        async def fetch_api_data(url: str) -> dict:
            await both.wait()
            return {"from": url}

        @dag.node
        async def fetch_db_data(query: str) -> list:
            await both.wait()
            return [query]

        @dag.all
        def report(api, rows):
            return api["from"], rows

        [fetch_api_data, fetch_db_data] >> report
        result = await dag.run_async(url="/users", query="select 1")
        return result

    assert asyncio.run(serve()) == ("/users", ["select 1"])


def test_sync_and_async_nodes_mix_and_the_loop_goes_on() -> None:
    dag = DAG("upload")
    ticked = threading.Event()

    @dag.node
    def prepare_data(raw: dict) -> dict:
        assert ticked.wait(LONG), "the loop is blocked"
        return {key: value * 2 for key, value in raw.items()}

    @dag.node
    async def upload_data(data: dict) -> str:
        await asyncio.sleep(0)
        return f"id-{data['n']}"

    prepare_data >> upload_data

    async def serve() -> str:
        run = asyncio.create_task(dag.run_async(raw={"n": 21}))
        await asyncio.sleep(0)
        ticked.set()
        return await run

    assert asyncio.run(serve()) == "id-42"


def test_timeout_bounds_the_entire_dag() -> None:
    begun, held = threading.Event(), threading.Event()
    dag = DAG("slow").add_node("quick", lambda: 1)
    dag.add_node("held", lambda x: begun.set() or held.wait(LONG)).connect("quick", "held")
    try:
        for timeout in timeouts(0.2):
            started = time.monotonic()
            with pytest.raises(TimeoutError, match=rf"{timeout} s"):
                dag.run(timeout=timeout)
            assert time.monotonic() - started < LONG / 2
            if begun.is_set():
                break
    finally:
        held.set()
    assert dag["quick"] == 1
    assert dag.context.metadata["execution_status"] == "timed_out"
    assert letters().run(timeout=300.0) == "ba"


def test_cancelling_the_task_cancels_the_run() -> None:
    dag = DAG("endless")
    told = []

    async def controlled_run() -> None:
        begun = asyncio.Event()

        @dag.node
        async def endless() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                told.append("cleaned up")

        task = asyncio.create_task(dag.run_async())
        await begun.wait()
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            told.append("DAG execution cancelled")

    asyncio.run(controlled_run())
    assert told == ["cleaned up", "DAG execution cancelled"]
    assert dag.context.metadata["execution_status"] == "cancelled"


def test_best_practice_async_for_io_overlaps_what_sequential_mode_does_not() -> None:
    def shop(overlapping: list[int]) -> DAG:
        dag = DAG("shop")
        running = 0

        async def ask(what: str, user_id: str) -> str:
            nonlocal running
            running += 1
            overlapping.append(running)
            for _ in range(3):
                await asyncio.sleep(0)
            running -= 1
            return f"{what} of {user_id}"

        @dag.node
        async def fetch_user(user_id: str) -> dict:
            return {"user": await ask("user", user_id)}

        @dag.node
        async def fetch_orders(user_id: str) -> list:
            return [await ask("orders", user_id)]

        @dag.node
        async def fetch_preferences(user_id: str) -> dict:
            return {"preferences": await ask("preferences", user_id)}

        return dag

    together: list[int] = []
    dag = shop(together)
    result = asyncio.run(dag.run_async(user_id="7"))
    assert result == {"preferences": "preferences of 7"}
    assert max(together) == 3

    alone: list[int] = []
    assert shop(alone).run(mode="sequential", user_id="7") == result
    assert max(alone) == 1
