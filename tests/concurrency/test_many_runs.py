"""Many runs of one DAG at once, beside and inside of each other."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import DAG, Context, ValidationError
from fast_dag.drive.threads import shared
from tests.concurrency.support import wait_for
from tests.patience import LONG
from tests.ways import EXECUTE, MODES, OWN, OWN_AT_ONCE, OWN_EVERYWHERE

if TYPE_CHECKING:
    from fast_dag import Run

RUNS = 50


def shared_dag(meeting: Any = None) -> DAG:
    """Sync, async and nested nodes, a decision and a join; what it returns tells its input."""

    async def asynchronous(start: int) -> int:
        await asyncio.sleep(0)
        return start * 2

    inner = DAG("inner").add_node("one", lambda y: y + 1).add_node("two", lambda one: one * 10)
    inner.connect("one", "two")
    dag = DAG("shared")
    dag.add_node("start", lambda x: (meeting() if meeting else None, x)[1])
    dag.add_node("asynchronous", asynchronous)
    dag.add_node("inner", inner).connect("start", "inner").connect("start", "asynchronous")
    dag.add_node("even", lambda start: start % 2 == 0, type="condition").connect("start", "even")
    dag.add_node("yes", lambda v: f"{v} is even").add_node("no", lambda v: f"{v} is odd")
    dag.nodes["even"].on_true >> dag.nodes["yes"]
    dag.nodes["even"].on_false >> dag.nodes["no"]
    dag.add_node("word", lambda word: word, type="any")
    dag.connect("yes", "word").connect("no", "word")
    # What is seen of the run from inside of it is its own, too.
    dag.add_node("view", lambda word: (dag["start"], dag.get("inner.one"))).connect("word", "view")
    dag.add_node("end", lambda asynchronous, inner, view: (asynchronous, inner, view[0]))
    dag.connect("asynchronous", "end").connect("inner", "end").connect("view", "end")
    return dag


def expected(x: int) -> tuple[int, int, int]:
    return 2 * x, 10 * (x + 1), x


def check(run: Run, x: int) -> None:
    assert run.value == expected(x)
    assert run.results["word"] == f"{x} is {'odd' if x % 2 else 'even'}"
    assert run["inner.one"] == x + 1
    assert run.inputs == {"x": x}


@pytest.mark.parametrize("mode", MODES)
def test_fifty_threads_run_one_dag_each_with_its_own_result(mode: Any) -> None:
    """The barrier lets no run go on before all of them are inside of their first node."""
    barrier = threading.Barrier(RUNS)
    dag = shared_dag(lambda: barrier.wait(LONG))

    def run(x: int) -> Run:
        return dag.execute(x=x, mode=mode, max_workers=2)

    with ThreadPoolExecutor(RUNS) as pool:
        runs = list(pool.map(run, range(RUNS)))
    for x in range(RUNS):
        check(runs[x], x)
    assert len({each.run_id for each in runs}) == RUNS
    assert dag.context in [each.context for each in runs]


@pytest.mark.parametrize("options", [{}, {"max_workers": 2}, {"mode": "parallel"}], ids=str)
def test_fifty_tasks_run_one_dag_each_with_its_own_result(options: dict[str, Any]) -> None:
    """As many as there are shared threads are inside of their first node before one goes on."""
    inside, met = threading.Semaphore(shared().most - 1), threading.Event()

    def meet() -> None:
        if not inside.acquire(blocking=False):
            met.set()
        assert met.wait(LONG)

    dag = shared_dag(meet)

    async def main() -> list[Run]:
        return await asyncio.gather(*(dag.execute_async(x=x, **options) for x in range(RUNS)))

    for x, run in enumerate(asyncio.run(main())):
        check(run, x)


@pytest.mark.needs("cloudpickle")
def test_threads_run_one_dag_in_processes_at_the_same_time() -> None:
    dag = DAG("processes").add_node("double", lambda x: 2 * x).add_node("up", lambda y: y + 1)
    dag.connect("double", "up")
    with ThreadPoolExecutor(3) as pool:
        values = pool.map(lambda x: dag.run(x=x, mode="process", max_workers=1), range(3))
        assert list(values) == [1, 3, 5]


def test_runs_share_an_executor() -> None:
    dag = shared_dag()
    with ThreadPoolExecutor(2) as executor, ThreadPoolExecutor(10) as pool:
        runs = list(pool.map(lambda x: dag.execute(x=x, executor=executor), range(RUNS)))
    for x, run in enumerate(runs):
        check(run, x)


@pytest.mark.parametrize("outer_mode", MODES)
@pytest.mark.parametrize("inner_mode", MODES)
def test_nodes_run_another_dag_themselves(outer_mode: Any, inner_mode: Any) -> None:
    inner = shared_dag()

    def node(x: int) -> tuple[Any, Any]:
        value = inner.run(x=x, mode=inner_mode, max_workers=1)
        return value, outer.get("other", "not yet")

    outer = DAG("outer")
    for index in range(5):
        outer.add_node(f"n{index}", lambda x, index=index: node(x + index))
    results = outer.execute(x=100, mode=outer_mode, max_workers=1).results
    assert results == {f"n{index}": (expected(100 + index), "not yet") for index in range(5)}


@pytest.mark.parametrize("mode", MODES)
def test_a_dag_runs_itself_from_inside_of_a_node(mode: Any) -> None:
    """Recursion with an end: each level has its own inputs and results."""
    dag = DAG("factorial")

    def node(n: int) -> int:
        if n == 0:
            return 1
        below: int = dag.run(n=n - 1, mode=mode, max_workers=1)
        return n * below

    dag.add_node("node", node).add_node("same", lambda node, n: (node, n)[0])
    dag.connect("node", "same")
    assert dag.run(n=5, mode=mode, max_workers=1) == 120


def test_async_nodes_await_another_dag_themselves() -> None:
    inner = shared_dag()
    outer = DAG("outer")

    def make(x: int) -> Any:
        async def node() -> Any:
            return await inner.run_async(x=x)

        return node

    for index in range(10):
        outer.add_node(f"n{index}", make(index))
    for mode in OWN:
        results = EXECUTE[mode](outer).results
        assert results == {f"n{index}": expected(index) for index in range(10)}, mode


@pytest.mark.needs("cloudpickle")
def test_a_worker_process_runs_a_dag_itself() -> None:
    def node(x: int) -> Any:
        inner = DAG("inner").add_node("double", lambda x: 2 * x)
        return inner.run(x=x), inner.run(x=x, mode="parallel")

    assert DAG("outer").add_node("node", node).run(x=4, mode="process") == (8, 8)


@pytest.mark.parametrize("mode", OWN_AT_ONCE)
def test_more_runs_than_threads_of_an_executor_wait_for_each_other_without_end_of_any(
    mode: str,
) -> None:
    """Each node runs a DAG on the same executor that it does not run on itself."""
    with ThreadPoolExecutor(1) as executor:
        inner = DAG("inner").add_node("a", lambda x: x + 1).add_node("b", lambda a: a + 1)
        inner.connect("a", "b")
        outer = DAG("outer")
        for index in range(4):
            outer.add_node(f"n{index}", lambda index=index: inner.run(x=index, executor=executor))
        results = EXECUTE[mode](outer).results
    assert results == {f"n{index}": index + 2 for index in range(4)}


# One context.


@pytest.mark.parametrize("mode", OWN_EVERYWHERE)
def test_one_context_in_two_runs_at_once_is_a_clear_error(mode: str) -> None:
    inside, let_go, ran = threading.Event(), threading.Event(), []
    first = DAG("first").add_node(
        "held", lambda: inside.set() or wait_for(let_go) or "held", run_in="thread"
    )
    second = DAG("second").add_node("node", lambda: ran.append(1), run_in="thread")
    context = Context()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(first.run, context=context)
        wait_for(inside)
        try:
            with pytest.raises(ValidationError, match="Context"):
                EXECUTE[mode](second, context=context)
        finally:
            let_go.set()
        assert running.result(LONG) == "held"
    assert not ran
    assert context.metadata["execution_status"] == "completed"
    assert EXECUTE[mode](second, context=context).status == "completed"


@pytest.mark.parametrize("mode", MODES)
def test_a_node_that_gives_its_own_context_to_another_run_is_told_so(mode: Any) -> None:
    inner = DAG("inner").add_node("node", lambda: 1)
    outer = DAG("outer").add_node("outer", lambda context: inner.run(context=context))
    run = outer.execute(mode=mode)
    assert isinstance(run.errors["outer"], ValidationError)
    assert run.status == "failed"


# Editing.


@pytest.mark.parametrize("mode", OWN)
def test_editing_a_dag_during_a_run_affects_the_next_run(mode: str) -> None:
    dag = DAG("edited")
    inner = DAG("inner").add_node("x", lambda: "old")
    edited: list[int] = []

    def edit() -> int:
        if not edited:
            edited.append(1)
            dag.replace_node("value", lambda edit: "new")
            dag.add_node("more", lambda value: f"{value} and more").connect("value", "more")
            inner.replace_node("x", lambda: "new")
            dag.remove_node("removed")
        return 1

    dag.add_node("edit", edit).add_node("value", lambda edit: "old").connect("edit", "value")
    dag.add_node("inner", inner).add_node("removed", lambda: "still there")
    dag.connect("edit", "inner", input=False).connect("edit", "removed")

    first = EXECUTE[mode](dag)
    assert first.results == {"edit": 1, "value": "old", "inner": "old", "removed": "still there"}
    second = EXECUTE[mode](dag)
    assert second.results == {"edit": 1, "value": "new", "inner": "new", "more": "new and more"}


def test_editing_while_others_run_never_shows_half_of_an_edit() -> None:
    """Each run sees the graph of one moment: both nodes old, or both of one later version."""
    dag = DAG("flipping")
    dag.add_node("a", lambda: 0).add_node("b", lambda a: (a, 0)).connect("a", "b")
    versions = 60
    stop = threading.Event()

    def edit() -> None:
        for version in range(1, versions):
            dag.replace_node("a", lambda version=version: version)
        stop.set()

    seen: set[int] = set()
    editor = threading.Thread(target=edit)
    editor.start()
    while not stop.is_set():
        seen.add(dag.run()[0])
    editor.join()
    assert dag.run() == (versions - 1, 0)
    assert seen <= set(range(versions))
