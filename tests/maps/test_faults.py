"""Faults around items: timeouts, hooks, worker processes that die, values that do not pickle."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import tracemalloc
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import DAG, ExecutionError, ItemError, Limits, TimeoutError
from tests.concurrency.support import wait_until
from tests.leaks import Births, without_collector
from tests.patience import LONG, timeouts
from tests.ways import EXECUTE, HERE, OWN, OWN_AT_ONCE, mostly
from tests.workers import steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

here = pytest.mark.parametrize("way", mostly(HERE, but={"async", "executor"}))


def mapped(func: Callable[..., Any], /, **options: Any) -> DAG:
    return DAG("faults").add_node("f", func, **{"over": "x", **options})


# Timeouts, attempts, hooks: each item has its own.


@pytest.mark.parametrize("way", OWN)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_item_that_hangs_is_late_and_others_are_not(way: str, kind: str) -> None:
    hangs = threading.Event()

    def f(x: int) -> int:
        if x == 2:
            hangs.wait(LONG)
        return x

    async def f_async(x: int) -> int:
        if x == 2:
            await asyncio.Event().wait()
        return x

    dag = mapped(f if kind == "sync" else f_async, timeout=0.5, on_error="keep")
    try:
        run = EXECUTE[way](dag, x=range(5))
    finally:
        hangs.set()
    assert list(run.errors) == ["f[2]"]
    assert isinstance(run.errors["f[2]"], TimeoutError)
    assert [each for each in run.value if not isinstance(each, ItemError)] == [0, 1, 3, 4]


@here
def test_each_item_has_its_own_attempts(way: str) -> None:
    calls: dict[int, int] = {}

    def f(x: int) -> int:
        calls[x] = calls.get(x, 0) + 1
        if calls[x] <= x:
            raise ValueError(x)
        return x

    run = EXECUTE[way](mapped(f, retry=2, retry_delay=0, on_error="keep"), x=range(5))
    assert run.value[:3] == [0, 1, 2]
    assert calls == {0: 1, 1: 2, 2: 3, 3: 3, 4: 3}
    assert run.items("f").retries == 1 + 2 + 2 + 2
    strict = mapped(lambda x: 1 / x, retry=2, retry_delay=0)
    with pytest.raises(ExecutionError) as caught:
        EXECUTE[way](strict, x=[0]).raise_for_error()
    assert (caught.value.attempts, caught.value.node_name) == (3, "f[0]")


@pytest.mark.one_in(3)
@pytest.mark.parametrize("way", ["parallel", "process"])
@pytest.mark.parametrize("hangs", [0, 20, 700, 1998])
def test_an_item_that_hangs_keeps_no_other_from_ending(
    way: str, hangs: int, tmp_path: Path
) -> None:
    def f(x: int, hangs: int, ended: str) -> int:
        deadline = monotonic() + LONG
        while x == hangs and not Path(ended).exists():
            sleep(0.002)
            if monotonic() > deadline:
                return -1
        if x == hangs + 1:
            Path(ended).touch()
        return x

    run = EXECUTE[way](mapped(f), x=range(2000), hangs=hangs, ended=str(tmp_path / "ended"))
    assert run.value == list(range(2000))


@here
def test_hooks_surround_each_item_and_not_the_map(way: str) -> None:
    log: list[Any] = []
    dag = mapped(lambda x: 1 / x, on_error="drop")
    dag.set_node_hooks(
        "f",
        pre_execute=lambda node, inputs: log.append(("pre", inputs["x"])),
        post_execute=lambda node, inputs, result: result * 10,
        on_error=lambda node, inputs, error: log.append(("error", inputs["x"])),
    )
    run = EXECUTE[way](dag, x=[1, 0, 2])
    assert run.value == [10, 5]
    assert sorted(log) == [("error", 0), ("pre", 0), ("pre", 1), ("pre", 2)]


@here
def test_the_handler_of_a_run_is_called_once_for_a_map_that_fails(way: str) -> None:
    log: list[Any] = []

    def handler(name: str, error: Exception, context: Any) -> None:
        log.append((name, type(error)))

    for on_error in ("fail", "keep", "drop"):
        dag = mapped(lambda x: 1 / x, on_error=on_error)
        EXECUTE[way](dag, x=[0, 0, 0], error_handler=handler, error_strategy="continue")
    assert log == [("f", ZeroDivisionError)]


@here
def test_errors_with_odd_classes(way: str) -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    def f(x: int) -> None:
        raise [
            MuteError,
            StopIteration,
            StopAsyncIteration,
            GeneratorExit(),
            asyncio.CancelledError,
        ][x]

    for number in (0, 1, 2, 4):
        run = EXECUTE[way](mapped(f, on_error="keep"), x=[number])
        assert list(run.errors) == ["f[0]"]


@here
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_exception_that_is_no_failure_ends_the_run(way: str, error: Any) -> None:
    closed: list[bool] = []

    def source() -> Iterator[int]:
        try:
            yield from range(100)
        finally:
            closed.append(True)

    def f(x: int) -> None:
        if x == 3:
            raise error

    with pytest.raises(error):
        EXECUTE[way](mapped(f, on_error="keep"), x=source())
    wait_until(lambda: bool(closed))  # by the thread that pulled, if it was just at that


@pytest.mark.parametrize("way", ["sequential", "observed"])
@pytest.mark.parametrize("kind", ["function", "workflow"])
def test_resuming_calls_no_item_that_completed_before_an_interrupt(way: str, kind: str) -> None:
    called: list[int] = []
    is_first = True

    def f(x: int) -> int:
        called.append(x)
        if x == 70 and is_first:
            raise KeyboardInterrupt
        return 2 * x

    func: Any = f if kind == "function" else DAG("inner").add_node("f", f)
    dag = DAG("faults").add_node("f", func, over="x")
    with pytest.raises(KeyboardInterrupt):
        EXECUTE[way](dag, x=range(100))
    stopped = dag.last_run
    assert stopped is not None
    items = stopped.items("f")
    assert (items.completed, sum(count for _, count in items.histogram)) == (70, 70)
    is_first = False
    called.clear()
    assert EXECUTE[way](dag, resume=stopped).value == [2 * x for x in range(100)]
    assert called == [*range(70, 100)]


@here
def test_the_failure_of_another_node_cancels_the_map(way: str) -> None:
    if way == "sequential":
        pytest.skip("one after the other")
    begun, failed = threading.Event(), threading.Event()
    called: list[int] = []

    def f(x: int) -> None:
        called.append(x)
        begun.set()
        failed.wait(LONG)

    def boom() -> None:
        begun.wait(LONG)
        failed.set()
        raise ValueError

    dag = mapped(f, max_concurrency=1).add_node("boom", boom)
    run = EXECUTE[way](dag, x=iter(int, 1))  # endless
    assert run.status == "failed"
    assert list(run.errors) == ["boom"]
    assert run.statuses["f"] == "cancelled"


@pytest.mark.parametrize("way", OWN_AT_ONCE)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_into_is_told_when_another_node_fails_before_an_item_has_begun(way: str, kind: str) -> None:
    begun, taken, free = threading.Event(), threading.Event(), threading.Event()
    limits = Limits(unit=1)
    holder = DAG("holder", limits=limits)
    holder.add_node("hold", lambda: taken.set() or free.wait(LONG), uses="unit")
    told: list[str] = []

    def into(results: Any) -> Any:
        begun.set()
        try:
            return list(results)
        except RuntimeError as error:
            told.append(str(error))
            raise

    async def into_async(results: Any) -> Any:
        begun.set()
        try:
            return [each async for each in results]
        except RuntimeError as error:
            told.append(str(error))
            raise

    def boom() -> None:
        assert begun.wait(LONG)
        raise ValueError

    into_here: Any = into if kind == "sync" else into_async
    page = DAG("page").add_node("f", lambda x: x, over="x", uses="unit", into=into_here)
    dag = DAG("outer", limits=limits).add_node("page", page).add_node("boom", boom)
    with ThreadPoolExecutor(1) as other:
        held = other.submit(holder.run)
        assert taken.wait(LONG)
        try:
            run = EXECUTE[way](dag, x=[1, 2], max_workers=3)
        finally:
            free.set()
        held.result()
    assert list(run.errors) == ["boom"]
    assert run.statuses["page"] == "cancelled"
    assert told == ["map 'f' was cut short"]


# Names in deep places.


@here
def test_names_in_maps_in_workflows_in_maps(way: str) -> None:
    clean = DAG("clean").add_node("strip", lambda text: text.strip())
    pages = DAG("pages").add_node("clean", clean, over="text")
    dag = DAG("outer").add_node("sub", DAG("sub").add_node("page", pages, over="text"))
    run = EXECUTE[way](dag, text=[["a"], ["b", 3]])
    name = "sub.page[1].clean[1].strip"
    assert list(run.errors) == [name]
    with pytest.raises(ExecutionError) as caught:
        run.raise_for_error()
    assert caught.value.node_name == name


@here
def test_keep_outputs_drops_what_nobody_takes_and_not_what_follows_takes(way: str) -> None:
    dag = DAG("keep").add_node("numbers", lambda: list(range(10)))
    dag.add_node("f", lambda x: x + 1, over="x").connect("numbers", "f", input="x")
    dag.add_node("total", lambda f: sum(f)).connect("f", "total")
    run = EXECUTE[way](dag, keep="outputs")
    assert run.value == 55
    with pytest.raises(KeyError):
        run["f"]
    with pytest.raises(KeyError):
        run["f[1]"]
    assert run.items("f").completed == 10


@here
@pytest.mark.parametrize("kind", ["plain", "spread", "async", "workflow", "into"])
def test_values_are_freed_with_their_run(way: str, kind: str) -> None:
    births = Births()

    def new(x: int, y: int = 0) -> Any:
        return births.new()

    async def new_async(x: int) -> Any:
        return births.new()

    func: Any = new_async if kind == "async" else new
    if kind == "workflow":
        func = DAG("inner").add_node("new", new).add_node("same", lambda new: new)
        func.connect("new", "same")
    dag = DAG("births", remember=False)
    if kind == "spread":
        dag.add_node("f", func, product=["x", "y"])
    else:
        dag.add_node("f", func, over="x", into=list if kind == "into" else None)
    given = {"x": range(50), "y": [0]} if kind == "spread" else {"x": range(50)}
    EXECUTE[way](DAG("warm", remember=False).add_node("f", lambda x: x, over="x"), x=[1, 2])
    with without_collector():
        run = EXECUTE[way](dag, **given)
        assert births.alive() == 50
        del run
        wait_until(lambda: births.alive() == 0)  # without the collector: nothing is in a cycle


@here
def test_failed_items_hold_no_frames_of_the_engine(way: str) -> None:
    class Value:
        pass

    born: list[weakref.ref[Any]] = []

    def f(x: int) -> int:
        value = Value()
        born.append(weakref.ref(value))
        return 1 // x

    dag = DAG("frames", remember=False).add_node("f", f, over="x", on_error="drop")
    run = EXECUTE[way](dag, x=[0, 1, 0])
    assert set(run.errors) == {"f[0]", "f[2]"}
    del run
    wait_until(lambda: gc.collect() >= 0 and not any(each() for each in born))


@here
def test_items_whose_errors_are_not_kept_are_freed_at_once(way: str) -> None:
    births = Births()

    def source() -> Iterator[Any]:
        for _ in range(4000):
            yield births.new()

    def f(x: object) -> None:
        raise ValueError

    dag = DAG("errors", remember=False).add_node("f", f, over="x", on_error="drop")
    with without_collector():
        run = EXECUTE[way](dag, x=source())
        assert len(run.errors) == 1000
        assert births.alive() < 3000  # 1,000 by the errors, some by the last batches
    del run


@pytest.mark.one_in(2)
@pytest.mark.parametrize("way", ["sequential", "parallel"])
def test_an_item_takes_few_bytes(way: str) -> None:
    dag = DAG("bytes", remember=False).add_node("f", lambda x: None, over="x")
    count = 30_000
    EXECUTE[way](dag, x=range(1000))
    tracemalloc.start()
    try:
        run = EXECUTE[way](dag, x=range(count))
        assert len(run.value) == count
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40 * count


@pytest.mark.parametrize("way", ["sequential", pytest.param("parallel", marks=pytest.mark.stress)])
def test_results_that_are_not_kept_take_no_memory(way: str) -> None:
    dag = DAG("bytes", remember=False).add_node("f", lambda x: x, over="x", into=sum)
    EXECUTE[way](dag, x=iter(range(1000)))
    tracemalloc.start()
    try:
        assert EXECUTE[way](dag, x=iter(range(50_000))).value == sum(range(50_000))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000


# Into, cut short.


@pytest.mark.parametrize("way", OWN_AT_ONCE)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_into_is_told_when_the_run_is_late(way: str, kind: str) -> None:
    hangs, begun, told = threading.Event(), threading.Event(), threading.Event()

    def into(results: Iterator[Any]) -> None:
        begun.set()
        try:
            for _ in results:
                pass
        except RuntimeError:
            told.set()

    async def into_async(results: Any) -> None:
        begun.set()
        try:
            async for _ in results:
                pass
        except (RuntimeError, asyncio.CancelledError):
            told.set()
            raise

    dag = mapped(lambda x: hangs.wait(LONG), into=into if kind == "sync" else into_async)
    try:
        for timeout in timeouts():
            run = EXECUTE[way](dag, x=[1, 2], timeout=timeout)
            if begun.is_set():
                break
    finally:
        hangs.set()
    assert run.status == "timed_out"
    assert told.wait(LONG)


# Other processes.

process = pytest.mark.needs("cloudpickle")


@process
def test_a_worker_that_dies_costs_the_item_it_was_at() -> None:
    def f(x: int) -> int:
        if x == 5:
            os._exit(1)
        return x

    run = EXECUTE["process"](mapped(f, on_error="keep"), x=range(12))
    assert "f[5]" in run.errors
    done = [each for each in run.value if not isinstance(each, ItemError)]
    assert len(run.value) == 12
    assert set(done) <= set(range(12)) - {5}
    assert {7, 8, 9, 10, 11} & set(done)
    assert all("process" in str(error) for error in run.errors.values())


@process
def test_few_items_of_a_lazy_source_are_on_their_way_at_once_if_they_are_large() -> None:
    """They would fit in one message by their time, which takes no account of what travels."""
    ever: set[int] = set()

    def source() -> Iterator[bytes]:
        for number in range(400):
            ever.add(number - taken[0])
            yield bytes(500_000)

    def each(results: Iterator[int]) -> int:
        for _ in results:
            taken[0] += 1
        return taken[0]

    taken = [0]
    dag = DAG("heavy", remember=False).add_node("f", lambda x: len(x), over="x", into=each)
    assert EXECUTE["process"](dag, x=source(), max_workers=1).value == 400
    assert max(ever) <= 40  # 2 batches of 8 MiB each, and a bit


@process
def test_what_does_not_pickle_fails_its_item() -> None:
    def f(x: Any) -> Any:
        if x == 1:
            return threading.Lock()
        if x == 2:
            raise type("Odd", (Exception,), {"lock": threading.Lock()})("odd")
        return "fine"

    run = EXECUTE["process"](mapped(f, on_error="keep"), x=[0, 1, 2, threading.Lock(), 4])
    assert [run.value[0], run.value[4]] == ["fine", "fine"]
    assert set(run.errors) == {"f[1]", "f[2]", "f[3]"}


@process
def test_an_item_that_does_not_unpickle_fails_and_costs_no_other() -> None:
    items: list[Any] = list(range(60))
    items[1] = items[40] = steps.Unpicklable()
    run = EXECUTE["process"](mapped(lambda x: x, on_error="drop"), x=items)
    assert run.value == [x for x in range(60) if x not in (1, 40)]
    assert set(run.errors) == {"f[1]", "f[40]"}
    assert "not here" in str(run.errors["f[40]"])


@process
@pytest.mark.parametrize("on_error", ["keep", "fail"])
def test_an_item_that_kills_the_worker_that_unpickles_it_costs_no_other(on_error: str) -> None:
    items: list[Any] = [0, steps.DiesHere(arriving=True), 2]
    run = EXECUTE["process"](mapped(lambda x: x, on_error=on_error), x=items)
    assert set(run.errors) == {"f[1]"}
    assert "died before the call ended (exit code -9)" in str(run.errors["f[1]"])
    if on_error == "keep":
        assert [run.value[0], run.value[2]] == [0, 2]


@process
def test_a_result_that_does_not_unpickle_costs_those_of_its_message() -> None:
    def f(x: int) -> Any:
        return steps.Unpicklable() if x == 5 else x

    run = EXECUTE["process"](mapped(f, on_error="keep"), x=range(60))
    assert run.status == "completed_with_errors"
    assert "cannot be unpickled" in str(run.value[5].error)
    others = [each for x, each in enumerate(run.value) if x != 5]
    assert all("the same message" in str(each.error) for each in others if not each and each != 0)
    assert {0, 59} <= {each for each in others if not isinstance(each, ItemError)}


@process
def test_what_all_items_are_given_and_does_not_unpickle_fails_the_map() -> None:
    dag = mapped(lambda x, y: x, on_error="keep")
    run = EXECUTE["process"](dag, x=range(5), y=steps.Unpicklable())
    assert "not here" in str(run.errors["f"])
    assert "source" not in str(run.exception())


@process
def test_a_coroutine_that_fails_in_a_process_costs_no_other() -> None:
    async def later(x: int) -> float:
        return 1 / x

    items = [x % 10 for x in range(100)]
    run = EXECUTE["process"](mapped(lambda x: later(x), on_error="drop"), x=items)
    assert run.value == [1 / x for x in items if x]
    assert set(run.errors) == {f"f[{x}]" for x in range(0, 100, 10)}


@process
def test_an_item_that_fails_in_a_process_is_named_and_into_goes_on_at_home() -> None:
    here_pid = os.getpid()
    run = EXECUTE["process"](
        mapped(
            lambda x: (os.getpid(), 1 / x),
            on_error="drop",
            into=lambda results: [(pid != here_pid, value) for pid, value in results],
        ),
        x=iter([1, 0, 2]),
    )
    assert run.value == [(True, 1), (True, 0.5)]
    assert list(run.errors) == ["f[1]"]


@process
def test_what_is_whole_is_given_to_items_in_processes() -> None:
    dag = mapped(lambda x, weights: x * sum(weights))
    assert EXECUTE["process"](dag, x=range(20), weights=[1, 2]).value == [3 * x for x in range(20)]
