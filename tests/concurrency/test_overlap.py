"""What runs at the same time as what, and where: never level by level, never more than allowed."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter
from typing import Any

import pytest

from fast_dag import DAG, ValidationError
from tests.concurrency.support import Tally, Way, threads_of_runs, wait_for
from tests.patience import LONG
from tests.ways import (
    AT_ONCE,
    AT_ONCE_EVERYWHERE,
    EVERYWHERE,
    EXECUTE,
    MODES_EVERYWHERE,
    OWN_AT_ONCE,
    OWN_EVERYWHERE,
)

in_threads = pytest.mark.parametrize("way", AT_ONCE, indirect=True)
overlapping = pytest.mark.parametrize("way", AT_ONCE_EVERYWHERE, indirect=True)
everywhere = pytest.mark.parametrize("way", EVERYWHERE, indirect=True)
with_one_worker = pytest.mark.parametrize("way", [*OWN_EVERYWHERE, "one thread"], indirect=True)


# Branches and levels.


@overlapping
def test_a_fast_branch_ends_while_its_slow_sibling_is_held(way: Way) -> None:
    fast_is_done = way.shared.Event()
    dag = DAG("branches")
    dag.add_node("root", lambda: 1)
    dag.add_node("slow", lambda root: wait_for(fast_is_done) or "slow")
    dag.add_node("fast", lambda root: root + 1)
    dag.add_node("faster", lambda fast: fast + 1)
    dag.add_node("last", lambda faster: fast_is_done.set() or faster + 1)
    dag.add_node("end", lambda slow, last: (slow, last))
    dag.nodes["root"] >> [dag.nodes["slow"], dag.nodes["fast"]]
    dag.nodes["fast"] >> dag.nodes["faster"] >> dag.nodes["last"]
    [dag.nodes["slow"], dag.nodes["last"]] >> dag.nodes["end"]

    assert way(dag, max_workers=2) == ("slow", 4)


@pytest.mark.one_in(2)
@overlapping
@pytest.mark.parametrize("held", ["first", "second"])
def test_a_node_starts_the_moment_its_own_inputs_are_there(way: Way, held: str) -> None:
    """Whichever of two roots is held, what is below the other one runs."""
    released = way.shared.Event()

    def root(name: str) -> Callable[[], Any]:
        return lambda: wait_for(released) if name == held else name

    dag = DAG("levels")
    for name in ("first", "second"):
        dag.add_node(name, root(name))
        dag.add_node(f"below {name}", lambda above, name=name: name == held or released.set())
        dag.connect(name, f"below {name}", input="above")

    run = way.execute(dag, max_workers=2)
    assert set(run.statuses.values()) == {"completed"}


@overlapping
def test_an_any_node_starts_while_its_losing_source_is_held(way: Way) -> None:
    released = way.shared.Event()
    dag = DAG("race")
    dag.add_node("loser", lambda: wait_for(released) or "loser")
    dag.add_node("winner", lambda: "winner")
    dag.add_node("first", lambda value: released.set() or value, type="any")
    dag.connect("loser", "first")
    dag.connect("winner", "first")

    run = way.execute(dag, max_workers=2)
    assert run.value == "winner"
    assert run.results["loser"] == "loser"


@overlapping
def test_an_any_node_that_waits_is_not_started_by_the_first_source(way: Way) -> None:
    seen = way.shared.list()
    dag = DAG("wait")
    for name in ("a", "b", "c"):
        dag.add_node(name, lambda name=name: seen.append(name), inputs=[])
    dag.add_node("last", lambda: sorted(seen), type="any", wait=True)
    for name in ("a", "b", "c"):
        dag.connect(name, "last")

    assert way(dag, max_workers=3) == ["a", "b", "c"]


def test_a_sequential_run_has_one_node_at_a_time() -> None:
    tally = Tally()
    dag = DAG("one by one")

    async def asynchronous() -> None:
        tally.enter()
        await asyncio.sleep(0)
        tally.leave()

    for index in range(6):
        dag.add_node(f"a{index}", asynchronous)
        dag.add_node(f"s{index}", lambda: (tally.enter(), tally.leave()))
    dag.run()
    dag.run(timeout=LONG)

    assert tally.most() == 1


# How many.


@overlapping
@pytest.mark.parametrize("workers", [2, 3])
def test_as_many_nodes_run_at_once_as_there_are_workers_and_never_more(
    way: Way, workers: int
) -> None:
    """The barrier lets nobody pass unless that many run; the tally sees whether it is more."""
    barrier, tally = way.shared.Barrier(workers), way.shared.Tally()

    def work() -> None:
        tally.enter()
        barrier.wait(LONG)
        tally.leave()

    dag = DAG("crowd")
    for index in range(4 * workers):
        dag.add_node(f"n{index}", work)
    way(dag, max_workers=workers)

    assert tally.most() == workers


@overlapping
def test_chains_that_fork_keep_to_the_number_of_workers(way: Way) -> None:
    tally = way.shared.Tally()

    def work(above: int = 0) -> int:
        tally.enter()
        try:
            return above + 1
        finally:
            tally.leave()

    dag = DAG("tree")
    dag.add_node("n0", work)
    for index in range(1, 40):
        dag.add_node(f"n{index}", work)
        dag.connect(f"n{(index - 1) // 3}", f"n{index}")
    run = way.execute(dag, max_workers=2)

    assert run.results["n39"] == 4
    assert tally.most() <= 2


@in_threads
def test_async_nodes_count_against_max_workers_too(way: Way) -> None:
    workers, tally = 3, Tally()
    barrier = threading.Barrier(workers)

    def sync() -> None:
        tally.enter()
        barrier.wait(LONG)
        tally.leave()

    async def asynchronous() -> None:
        tally.enter()
        await asyncio.to_thread(barrier.wait, LONG)
        tally.leave()

    dag = DAG("mixed")
    for index in range(6):
        dag.add_node(f"s{index}", sync)
        dag.add_node(f"a{index}", asynchronous)
    way(dag, max_workers=workers)

    assert tally.most() == workers


@in_threads
def test_nodes_of_nested_workflows_share_the_workers_of_the_whole(way: Way) -> None:
    workers, tally, barrier = 2, Tally(), threading.Barrier(2)

    def work() -> None:
        tally.enter()
        barrier.wait(LONG)
        tally.leave()

    outer = DAG("outer")
    for index in range(4):
        inner = DAG(f"inner{index}")
        for position in range(3):
            inner.add_node(f"n{position}", work)
        outer.add_node(inner.name, inner)
    way(outer, max_workers=workers)

    assert tally.most() == workers


@in_threads
def test_async_nodes_are_unbounded_where_no_number_is_given(way: Way) -> None:
    many = 200
    arrived: list[int] = []
    dag = DAG("unbounded")

    def make(index: int) -> Any:
        async def node() -> int:
            arrived.append(index)
            while len(arrived) < many:
                await asyncio.sleep(0)
            return index

        return node

    for index in range(many):
        dag.add_node(f"n{index}", make(index))
    way(dag)

    assert len(arrived) == many


@pytest.mark.parametrize("mode", OWN_AT_ONCE)
def test_the_widest_graph_starts_no_more_threads_than_workers(mode: str) -> None:
    workers = 4
    used: set[int] = set()
    most: list[int] = []
    before = len(threads_of_runs())
    dag = DAG("wide")

    def work(root: int) -> None:
        used.add(threading.get_ident())
        most.append(threading.active_count())

    dag.add_node("root", lambda: len(threads_of_runs()))
    for index in range(5000):
        dag.add_node(f"n{index}", work)
        dag.connect("root", f"n{index}")
    others = threading.active_count() - before
    EXECUTE[mode](dag, max_workers=workers)

    assert len(most) == 5000
    assert len(used) <= workers
    assert max(most) - others - before <= workers


class Window(ThreadPoolExecutor):
    """Knows how many calls were submitted and have not ended, and how many that were at most."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.tally = Tally()

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        self.tally.enter()
        future = super().submit(*args, **kwargs)
        future.add_done_callback(lambda _: self.tally.leave())
        return future


def test_no_more_calls_are_submitted_to_an_executor_than_workers() -> None:
    dag = DAG("wide")
    for index in range(300):
        dag.add_node(f"n{index}", lambda: None)
    with Window(4) as executor:
        dag.run(executor=executor, max_workers=2)
        assert executor.tally.most() <= 2


@pytest.mark.parametrize("awaited", [False, True])
def test_an_executor_that_returns_no_future_fails_the_node(awaited: bool) -> None:
    class Cluster(ThreadPoolExecutor):
        def submit(self, *args: Any, **kwargs: Any) -> Any:
            return object()  # a job of its own kind

    dag = DAG("d").add_node("n", lambda: 1)
    with Cluster(1) as executor:
        if awaited:
            run = asyncio.run(dag.execute_async(executor=executor))
        else:
            run = dag.execute(executor=executor)
    assert "submit() returned a object, which is no" in str(run.errors["n"])


def test_the_widest_graph_does_not_queue_up_in_an_executor() -> None:
    dag = DAG("wide")
    for index in range(2000):
        dag.add_node(f"n{index}", lambda: None)
    with Window(4) as executor:
        dag.run(executor=executor)
        assert executor.tally.most() <= 4


def test_every_sync_node_is_one_call_submitted_to_the_executor() -> None:
    dag = DAG("chain")
    dag.add_node("n0", lambda: 0)
    for index in range(1, 10):
        dag.add_node(f"n{index}", lambda above: above + 1)
        dag.connect(f"n{index - 1}", f"n{index}")
    submitted: list[int] = []

    class Counting(ThreadPoolExecutor):
        def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
            submitted.append(1)
            return super().submit(*args, **kwargs)

    with Counting(2) as executor:
        assert dag.run(executor=executor) == 9
    assert len(submitted) == 10


@pytest.mark.parametrize("mode", EVERYWHERE)
@pytest.mark.parametrize("workers", [0, -1, 1.5])
def test_less_than_one_worker_is_an_error(mode: str, workers: Any) -> None:
    ran: list[int] = []
    dag = DAG("none").add_node("n", lambda: ran.append(1))
    with pytest.raises(ValidationError, match="max_workers"):
        EXECUTE[mode](dag, max_workers=workers)
    assert not ran


# Nested workflows.


def nest(depth: int) -> DAG:
    """Workflows in workflows, each with nodes of its own before, beside and after the inner one."""
    dag = DAG(f"level{depth}")

    async def beside(start: int) -> int:
        await asyncio.sleep(0)
        return start

    dag.add_node("start", lambda x: x + 1)
    dag.add_node("beside", beside)
    if depth:
        dag.add_node("inner", nest(depth - 1))
    else:
        dag.add_node("inner", lambda x: x * 10)
    dag.add_node("end", lambda inner, beside: inner + beside)
    dag.connect("start", "inner", input="x")
    dag.connect("start", "beside")
    dag.connect("inner", "end")
    dag.connect("beside", "end")
    return dag


@with_one_worker
def test_workflows_nested_in_each_other_get_by_with_one_worker(way: Way) -> None:
    expected = nest(3).run(x=0)
    assert way(nest(3), max_workers=1, inputs={"x": 0}) == expected == 50


@with_one_worker
def test_more_nested_workflows_than_workers_get_by(way: Way) -> None:
    outer = DAG("outer")
    for index in range(6):
        inner = DAG(f"inner{index}")
        inner.add_node("a", lambda: 1).add_node("b", lambda: 2).add_node("c", lambda a, b: a + b)
        inner.connect("a", "c").connect("b", "c")
        outer.add_node(inner.name, inner)
    outer.add_node("sum", lambda **each: sum(each.values()))
    for index in range(6):
        outer.connect(f"inner{index}", "sum")

    assert way(outer, max_workers=1) == 18


@pytest.mark.parametrize("way", AT_ONCE_EVERYWHERE, indirect=True)
def test_nodes_of_a_nested_workflow_overlap_with_those_around_it(way: Way) -> None:
    barrier = way.shared.Barrier(2)
    inner = DAG("inner").add_node("meet", lambda: barrier.wait(LONG) is None)
    outer = DAG("outer").add_node("inner", inner)
    outer.add_node("meet", lambda: barrier.wait(LONG) is None)

    run = way.execute(outer, max_workers=2)
    assert run.statuses == {"inner": "completed", "meet": "completed"}


# Where.


@pytest.mark.needs("cloudpickle")
@everywhere
def test_run_in_says_where_a_node_runs(way: Way) -> None:
    def here() -> tuple[int, int]:
        return os.getpid(), threading.get_ident()

    dag = DAG("places")
    dag.add_node("inline", here, run_in="inline")
    dag.add_node("thread", here, run_in="thread")
    dag.add_node("process", here, run_in="process")
    results = way.execute(dag, max_workers=2).results

    me = here()
    assert results["inline"] == me
    assert results["thread"][0] == me[0]
    assert results["thread"][1] != me[1]
    assert results["process"][0] != me[0]


def test_a_sequential_run_stays_in_the_thread_of_its_caller() -> None:
    dag = DAG("here")
    dag.add_node("a", threading.get_ident, inputs=[])
    dag.add_node("b", lambda a: (a, threading.get_ident()))
    dag.connect("a", "b")
    assert dag.run() == (threading.get_ident(), threading.get_ident())


@pytest.mark.parametrize("mode", OWN_AT_ONCE)
def test_a_chain_is_followed_by_one_worker(mode: str) -> None:
    """Two chains side by side, held together at their heads so that each has a worker."""
    barrier = threading.Barrier(2)
    dag = DAG("chains")
    for chain in "ab":
        dag.add_node(f"{chain}0", lambda: barrier.wait(LONG) and None)
        for index in range(1, 20):
            dag.add_node(f"{chain}{index}", lambda above: threading.get_ident())
            dag.connect(f"{chain}{index - 1}", f"{chain}{index}")
    results = EXECUTE[mode](dag, max_workers=2).results

    workers = [{results[f"{chain}{index}"] for index in range(1, 20)} for chain in "ab"]
    assert [len(each) for each in workers] == [1, 1]
    assert workers[0] != workers[1]


@pytest.mark.parametrize("mode", OWN_AT_ONCE)
def test_a_chain_of_async_nodes_is_followed_by_one_task(mode: str) -> None:
    async def node(above: Any = None) -> Any:
        await asyncio.sleep(0)
        return asyncio.current_task()

    dag = DAG("chain").add_node("n0", node)
    for index in range(1, 10):
        dag.add_node(f"n{index}", node)
        dag.connect(f"n{index - 1}", f"n{index}")
    results = EXECUTE[mode](dag).results

    assert len(set(results.values())) == 1


# The loop.


@pytest.mark.parametrize("way", EVERYWHERE, indirect=True)
def test_there_is_one_loop_for_each_run_and_it_is_closed_with_it(way: Way) -> None:
    async def loop_of_run(above: Any = None) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    inner = DAG("inner").add_node("c", loop_of_run)
    dag = DAG("loops")
    dag.add_node("a", loop_of_run, run_in=None).add_node("between", lambda above: None)
    dag.add_node("b", loop_of_run)
    dag.add_node("inner", inner)
    dag.connect("between", "b")
    first, second = (
        way.execute(dag, inputs={"above": None}),
        way.execute(dag, inputs={"above": None}),
    )

    loops = [[run.results["a"], run.results["b"], run["inner.c"]] for run in (first, second)]
    assert len(set(loops[0])) == len(set(loops[1])) == 1
    assert loops[0][0] is not loops[1][0]
    assert all(loop.is_closed() for loop in (*loops[0], *loops[1]))


@overlapping
def test_async_nodes_overlap_with_each_other(way: Way) -> None:
    barrier = asyncio.Barrier(3)

    async def meet() -> bool:
        async with asyncio.timeout(LONG):
            await barrier.wait()
        return True

    inner = DAG("inner").add_node("c", meet)
    dag = DAG("meeting").add_node("a", meet).add_node("b", meet).add_node("inner", inner)
    run = way.execute(dag)
    assert set(run.statuses.values()) == {"completed"}


@in_threads
def test_async_and_sync_nodes_overlap_with_each_other(way: Way) -> None:
    barrier = threading.Barrier(2)

    async def asynchronous() -> None:
        await asyncio.to_thread(barrier.wait, LONG)

    dag = DAG("both").add_node("async", asynchronous)
    dag.add_node("sync", lambda: barrier.wait(LONG) and None)
    run = way.execute(dag, max_workers=2)
    assert set(run.statuses.values()) == {"completed"}


@pytest.mark.parametrize(
    "options", [{}, {"max_workers": 1}, {"mode": "parallel"}, {"timeout": LONG}], ids=str
)
def test_sync_nodes_never_block_the_loop_of_run_async(options: dict[str, Any]) -> None:
    """The node ends only when a task on the loop has ticked on, after the node began."""
    began, ticked = threading.Event(), threading.Event()
    ticks = 0

    def node() -> str:
        began.set()
        wait_for(ticked)
        return "done"

    async def tick() -> None:
        nonlocal ticks
        while not ticked.is_set():
            await asyncio.sleep(0)
            ticks += began.is_set()
            if ticks > 100:
                ticked.set()

    async def main() -> Any:
        ticking = asyncio.create_task(tick())
        value = await DAG("blocking").add_node("node", node).run_async(**options)
        await ticking
        return value

    assert asyncio.run(main()) == "done"


async def busy(x: int = 0) -> int:
    """Never waits."""
    until = perf_counter() + 5e-5
    while perf_counter() < until:
        pass
    return x


def chains(width: int, length: int) -> DAG:
    dag = DAG("chains")
    for chain in range(width):
        for at in range(length):
            dag.add_node(f"{chain}_{at}", busy)
            if at:
                dag.connect(f"{chain}_{at - 1}", f"{chain}_{at}", input="x")
    return dag


@pytest.mark.one_in(3)
@pytest.mark.parametrize("options", [{}, {"max_workers": 50}], ids=["tasks", "dispatcher"])
@pytest.mark.parametrize("kind", ["map", "chains", "runs"])
def test_async_functions_that_never_wait_leave_time_to_others_on_the_loop(
    kind: str, options: dict[str, Any]
) -> None:
    async def main() -> int:
        if kind == "map":
            runs = [DAG("map").add_node("busy", busy, over="x").run_async(x=range(4000), **options)]
        elif kind == "chains":
            runs = [chains(40, 100).run_async(**options)]
        else:
            dag = chains(1, 100)
            runs = [dag.run_async(**options) for _ in range(40)]
        working = asyncio.gather(*runs)
        steps = 0
        while not working.done():
            await asyncio.sleep(0)
            steps += 1
        await working
        return steps

    # 0.2 seconds of work, in turns of little more than 0.01 seconds, which all tasks share.
    assert asyncio.run(main()) > 8


@pytest.mark.needs("cloudpickle")
def test_processes_and_executors_never_block_the_loop_of_run_async(shared: Any) -> None:
    began, ticked = shared.Event(), shared.Event()

    async def tick() -> None:
        while not await asyncio.to_thread(began.is_set):
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        await asyncio.to_thread(ticked.set)

    async def main(**options: Any) -> Any:
        began.clear()
        ticked.clear()
        ticking = asyncio.create_task(tick())
        dag = DAG("blocking").add_node("node", lambda: began.set() or wait_for(ticked) or "done")
        value = await dag.run_async(**options)
        await ticking
        return value

    assert asyncio.run(main(mode="process")) == "done"
    with ThreadPoolExecutor(1) as executor:
        assert asyncio.run(main(executor=executor)) == "done"


def test_an_inline_node_runs_in_the_thread_of_the_loop() -> None:
    dag = DAG("inline").add_node("node", threading.get_ident, inputs=[], run_in="inline")

    async def main() -> bool:
        return await dag.run_async() == threading.get_ident()

    assert asyncio.run(main())


@pytest.mark.parametrize("mode", MODES_EVERYWHERE)
def test_a_run_that_needs_a_loop_inside_of_one_says_to_await_it(mode: Any) -> None:
    async def node() -> None: ...

    ran: list[int] = []
    dag = DAG("inside").add_node("before", lambda: ran.append(1)).add_node("node", node)
    dag.connect("before", "node")

    async def main() -> None:
        with pytest.raises(ValidationError, match="run_async"):
            dag.run(mode=mode)

    asyncio.run(main())
    assert not ran


def test_a_sync_workflow_runs_inside_of_a_loop_in_threads() -> None:
    dag = DAG("inside").add_node("node", lambda: 1)

    async def main() -> list[Any]:
        return [dag.run(), dag.run(mode="parallel")]

    assert asyncio.run(main()) == [1, 1]


@in_threads
def test_a_coroutine_that_a_sync_function_returns_is_awaited_on_the_loop(way: Way) -> None:
    barrier = asyncio.Barrier(2)

    async def meet() -> asyncio.AbstractEventLoop:
        async with asyncio.timeout(LONG):
            await barrier.wait()
        return asyncio.get_running_loop()

    def hidden() -> Any:
        return meet()

    dag = DAG("hidden").add_node("a", hidden).add_node("b", meet)
    run = way.execute(dag)
    assert set(run.statuses.values()) == {"completed"}, run.errors
    assert run.results["a"] is run.results["b"]


def test_runs_that_are_awaited_together_overlap() -> None:
    barrier = threading.Barrier(3)
    dag = DAG("together").add_node("meet", lambda: barrier.wait(LONG) is not None)

    async def main() -> list[Any]:
        return await asyncio.gather(*(dag.run_async() for _ in range(3)))

    assert asyncio.run(main()) == [True] * 3


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="new in Python 3.12")
@pytest.mark.parametrize("options", [{}, {"max_workers": 3}], ids=str)
def test_a_loop_may_start_tasks_at_once(options: Any) -> None:
    async def now(above: int = 1) -> int:
        return above + 1

    async def soon(above: int) -> int:
        await asyncio.sleep(0)
        return above + 1

    dag = DAG("eager").add_node("first", now)
    for name, func in (("a", now), ("b", soon), ("c", now), ("d", soon)):
        dag.add_node(name, func).connect("first", name)

    async def main() -> Any:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        async with asyncio.timeout(LONG):
            return await dag.execute_async(**options)

    run = asyncio.run(main())
    assert run.results == {"first": 2, "a": 3, "b": 3, "c": 3, "d": 3}
    assert set(run.statuses.values()) == {"completed"}
