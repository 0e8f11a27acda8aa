"""Lines: each node waits for the one before it, so that never two could run at once."""

from __future__ import annotations

import asyncio
import threading
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_dag import DAG, Context, ExecutionError, TimeoutError, ValidationError
from fast_dag.define.graph import Graph
from fast_dag.define.node import Node
from fast_dag.plan.topology import Topology
from tests.patience import LONG, timeouts


def line(*functions: Any) -> DAG:
    """The functions one after the other, named a, b, c, ..."""
    dag = DAG("line")
    names = "abcdef"[: len(functions)]
    for name, func in zip(names, functions, strict=True):
        dag.add_node(name, func)
    for source, target in pairwise(names):
        dag.connect(source, target)
    return dag


@given(st.integers(1, 6), st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5))))
def test_line_is_where_of_any_two_nodes_one_waits_for_the_other(
    size: int, pairs: set[tuple[int, int]]
) -> None:
    graph = Graph("drawn")
    nodes = [graph.add(Node(lambda *each: each, f"n{index}")) for index in range(size)]
    for source, target in sorted(pairs):
        if source < target < size:
            graph.connect(nodes[source], nodes[target])
    topology = Topology.of(graph)
    ordered = all(
        second in topology.below([first]) or first in topology.below([second])
        for first in range(size)
        for second in range(size)
    )
    assert topology.is_line is ordered


def test_threads_leave_a_line_to_the_caller() -> None:
    dag = line(lambda: threading.get_ident(), lambda x: (x, threading.get_ident()))
    here = threading.get_ident()
    assert dag.run(mode="parallel") == (here, here)


def test_threads_take_what_is_beside_a_line() -> None:
    meet = threading.Barrier(2)
    dag = line(lambda: meet.wait(LONG) >= 0, lambda x: x)
    dag.add_node("beside", lambda: meet.wait(LONG) >= 0)
    run = dag.execute(mode="parallel", max_workers=2)
    assert run.results == {"a": True, "b": True, "beside": True}


def test_line_of_threads_awaits_inside_of_a_running_loop() -> None:
    async def later() -> int:
        await asyncio.sleep(0)
        return 20

    async def main() -> Any:
        return line(lambda: later(), lambda x: x + 1).run(mode="parallel")

    assert asyncio.run(main()) == 21


async def one(x: int = 1) -> int:
    return x


async def increment(x: int) -> int:
    await asyncio.sleep(0)
    return x + 1


async def fails(x: int) -> int:
    raise KeyError(x)


def test_awaited_line_passes_results_inputs_and_context() -> None:
    async def told(x: int, context: Context, more: int, *, last: int = 5) -> list[int]:
        return [x, context["a"], more, last]

    dag = line(one, increment, told)
    run = asyncio.run(dag.execute_async(more=3))
    assert run.value == [2, 1, 3, 5]
    assert list(run.statuses.values()) == ["completed"] * 3
    assert list(run.timings) == ["a", "b", "c"]
    assert sum(run.timings.values()) <= run.metrics["execution_time"]


@pytest.mark.parametrize("strategy", ["fail_fast", "continue"])
def test_failure_in_an_awaited_line_keeps_what_came_before(strategy: Any) -> None:
    run = asyncio.run(line(one, fails, increment).execute_async(error_strategy=strategy))
    assert run.results == {"a": 1}
    assert {name: str(status) for name, status in run.statuses.items()} == {
        "a": "completed",
        "b": "failed",
        "c": "skipped",
    }
    assert run.status == ("failed" if strategy == "fail_fast" else "completed_with_errors")
    with pytest.raises(ExecutionError, match=r"'b' of 'line' failed: KeyError: 1") as caught:
        run.raise_for_error()
    assert caught.value.attempts == 1
    assert list(run.timings) == ["a", "b"]


def test_result_deleted_in_an_awaited_line_is_missed_where_it_is_needed() -> None:
    async def forgets(x: int, context: Context) -> int:
        del context.results["a"]
        return x

    async def both(x: int, y: int) -> int:
        return x + y

    dag = line(one, forgets)
    dag.add_node("c", both).connect("b", "c", input="x").connect("a", "c", input="y")
    with pytest.raises(ExecutionError, match=r"deleted from context\.results") as caught:
        asyncio.run(dag.run_async())
    assert (caught.value.node_name, caught.value.attempts) == ("c", 0)


def test_awaited_line_refuses_a_generator_that_two_would_share() -> None:
    async def counts() -> Any:
        return (each for each in range(3))

    async def both(x: Any, y: Any) -> Any:
        return x, y

    async def same(x: Any) -> Any:
        return x

    dag = line(counts, same)
    dag.add_node("c", both).connect("b", "c", input="x").connect("a", "c", input="y")
    with pytest.raises(ExecutionError, match="gone through once only") as caught:
        asyncio.run(dag.run_async())
    assert isinstance(caught.value.__cause__, ValidationError)
    assert caught.value.node_name == "a"


def test_timeout_of_an_awaited_line_names_the_node_that_ran() -> None:
    async def never(x: int) -> None:
        begun.append(x)
        await asyncio.Event().wait()

    async def main() -> Any:
        for timeout in timeouts():
            run = await line(one, never, increment).execute_async(timeout=timeout)
            if begun:
                break
        return run

    begun: list[int] = []
    run = asyncio.run(main())
    assert list(run.statuses.values()) == ["completed", "cancelled", "not_run"]
    with pytest.raises(TimeoutError, match=r"still running: 'b'"):
        run.raise_for_error()


def test_awaited_line_goes_no_further_where_a_node_swallows_the_end() -> None:
    async def main() -> tuple[Any, list[str]]:
        began, called = asyncio.Event(), []

        async def stubborn(x: int) -> int:
            began.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                called.append("stubborn")
            return x

        async def after(x: int) -> int:
            called.append("after")
            return x

        context = Context()
        task = asyncio.create_task(line(one, stubborn, after).run_async(context=context))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return context.results, called

    assert asyncio.run(main()) == ({"a": 1}, ["stubborn"])


def test_line_cancelled_before_it_began_leaves_nothing_behind() -> None:
    async def main() -> None:
        task = asyncio.create_task(line(one, increment).run_async())
        await asyncio.sleep(0)  # its own task is made, and has not begun
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_interrupted_node_of_a_sequential_run_is_cancelled() -> None:
    def interrupted(x: int) -> int:
        assert dag.context.metrics["nodes_executed"] == 1
        raise KeyboardInterrupt

    dag = line(lambda: 1, interrupted, lambda x: x)
    with pytest.raises(KeyboardInterrupt):
        dag.run()
    run = dag.last_run
    assert run is not None
    assert list(run.statuses.values()) == ["completed", "cancelled", "not_run"]
