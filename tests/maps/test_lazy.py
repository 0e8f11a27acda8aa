"""Sources: pulled as there is room, by one thread in one Context, and closed in the end."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import DAG
from tests.concurrency.support import wait_for, wait_until
from tests.patience import LONG, timeouts
from tests.ways import AT_ONCE, EXECUTE, HERE, OWN, OWN_AT_ONCE, mostly

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

here = pytest.mark.parametrize("way", mostly(HERE, but={"async", "executor"}))


def mapped(func: Callable[..., Any], /, **options: Any) -> DAG:
    return DAG("lazy").add_node("f", func, **{"over": "x", **options})


def same(x: Any) -> Any:
    return x


async def same_async(x: Any) -> Any:
    await asyncio.sleep(0)
    return x


FUNCTIONS = {"sync": same, "async": same_async}
functions = pytest.mark.parametrize("kind", FUNCTIONS)


class Source:
    """A generator that notes where it is pulled and closed."""

    def __init__(self, items: Any = None) -> None:
        self.pulled = 0
        self.number: ContextVar[int] = ContextVar("number", default=-1)
        self.threads: set[int] = set()
        self.is_closed = False
        self.was_in_context = True
        self.on_loop = False
        self._items = itertools.count() if items is None else items
        self.generator = self._generator()

    def _look(self) -> None:
        self.threads.add(threading.get_ident())
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            self.on_loop = True

    def _generator(self) -> Iterator[Any]:
        self._look()
        try:
            for each in self._items:
                self._look()
                self.was_in_context &= self.number.get() == self.pulled - 1
                self.number.set(self.pulled)
                self.pulled += 1
                yield each
        finally:
            self._look()
            self.was_in_context &= self.number.get() == self.pulled - 1
            self.is_closed = True

    @property
    def has_ended(self) -> bool:
        """Whether it was closed, also if a busy machine left no time to pull from it."""
        return self.generator.gi_frame is None  # type: ignore[attr-defined,no-any-return]

    def check(self) -> None:
        assert self.is_closed
        assert self.has_ended
        assert len(self.threads) == 1
        assert self.was_in_context
        assert not self.on_loop


# How much is pulled.


@here
@functions
def test_an_endless_source_where_into_returns_early(way: str, kind: str) -> None:
    source = Source()
    dag = mapped(FUNCTIONS[kind], into=lambda results: sum(itertools.islice(results, 5)))
    assert EXECUTE[way](dag, x=source.generator).value == 10
    source.check()


@pytest.mark.parametrize("way", [*AT_ONCE, "sequential"])
@pytest.mark.parametrize("options", [{}, {"retry": 1}, {"timeout": 60}], ids=str)
def test_no_more_is_pulled_than_a_window_beyond_what_into_has_taken(
    way: str, options: dict[str, Any]
) -> None:
    taken = 0
    most = 0
    places = 3

    def numbers() -> Iterator[int]:
        nonlocal most
        for number in range(60):
            most = max(most, number - taken)
            yield number

    def slow(x: int) -> int:  # a batch has one such item
        threading.Event().wait(0.002)
        return x

    def into(results: Iterator[int]) -> int:
        nonlocal taken
        total = 0
        for each in results:
            total += each
            taken += 1
        return total

    dag = mapped(slow, into=into, max_concurrency=places, **options)
    assert EXECUTE[way](dag, x=numbers()).value == sum(range(60))
    assert most <= 2 * places


@here
def test_an_item_that_was_pulled_does_not_wait_for_the_next_pull(way: str) -> None:
    called = [threading.Event() for _ in range(40)]

    def numbers() -> Iterator[int]:
        for number in range(40):
            if number:
                wait_for(called[number - 1])
            yield number

    dag = mapped(lambda x: called[x].set())
    assert EXECUTE[way](dag, x=numbers()).status == "completed"


@here
def test_a_result_does_not_wait_for_the_end_of_its_batch(way: str) -> None:
    taken = [threading.Event() for _ in range(40)]

    def f(x: int) -> int:
        if x:
            wait_for(taken[x - 1])
        return x

    def into(results: Iterator[int]) -> int:
        count = 0
        for each in results:
            taken[each].set()
            count += 1
        return count

    for x in (range(40), iter(range(40))):
        assert EXECUTE[way](mapped(f, into=into, max_concurrency=1), x=x).value == 40
        for each in taken:
            each.clear()


@here
@functions
def test_results_are_let_go_once_into_has_taken_them(way: str, kind: str) -> None:
    born: list[weakref.ref[Any]] = []

    class Value:
        pass

    def numbers() -> Iterator[Any]:
        for _ in range(300):
            value = Value()
            born.append(weakref.ref(value))
            yield value

    def into(results: Iterator[Any]) -> int:
        most = 0
        for _ in results:
            most = max(most, sum(each() is not None for each in born))
        return most

    dag = mapped(FUNCTIONS[kind], into=into, max_concurrency=2, retry=1)
    assert EXECUTE[way](dag, x=numbers()).value <= 12


# How a source is closed.


@here
@functions
def test_a_source_is_pulled_and_closed_by_one_thread_in_one_context(way: str, kind: str) -> None:
    source = Source(range(300))
    assert EXECUTE[way](mapped(FUNCTIONS[kind]), x=source.generator).value == [*range(300)]
    source.check()
    if way == "sequential":
        assert source.threads == {threading.get_ident()}


def pairs() -> DAG:
    return DAG("pairs").add_node("f", lambda x, y: (x, y), product=["x", "y"])


@here
def test_all_collections_of_a_product_are_read_by_the_thread_that_pulls(way: str) -> None:
    first, second = Source(range(2)), Source(range(2))
    run = EXECUTE[way](pairs(), x=first.generator, y=second.generator)
    assert run.value == [(0, 0), (0, 1), (1, 0), (1, 1)]
    first.check()
    second.check()
    assert first.threads == second.threads
    if way != "sequential":
        assert threading.get_ident() not in second.threads


@pytest.mark.parametrize("way", OWN)
def test_a_product_whose_second_collection_hangs_is_late(way: str) -> None:
    hangs = threading.Event()

    def items() -> Iterator[int]:
        hangs.wait(LONG)
        yield 1

    source = Source(items())
    try:
        assert EXECUTE[way](pairs(), x=[1], y=source.generator, timeout=0.1).status == "timed_out"
    finally:
        hangs.set()
    wait_until(lambda: source.has_ended)


@here
def test_any_collection_of_a_product_may_be_an_async_iterator(way: str) -> None:
    async def some() -> AsyncIterator[int]:
        for each in range(2):
            await asyncio.sleep(0)
            yield each

    both = [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert EXECUTE[way](pairs(), x=some(), y=some()).value == both
    assert EXECUTE[way](pairs(), x=[0, 1], y=some()).value == both


@here
@pytest.mark.parametrize("options", [{}, {"retry": 1, "retry_delay": 0}], ids=["plain", "retry"])
def test_a_source_is_closed_when_an_item_has_failed(way: str, options: dict[str, Any]) -> None:
    source = Source()
    run = EXECUTE[way](mapped(lambda x: 1 / (x - 3), **options), x=source.generator)
    assert list(run.errors) == ["f[3]"]
    source.check()


@here
def test_several_sources_are_closed_whichever_ends_first(way: str) -> None:
    long, short = Source(), Source(range(3))
    dag = mapped(lambda x, y: x, over=["x", "y"])
    run = EXECUTE[way](dag, x=long.generator, y=short.generator)
    assert "'y' ended after 3 items" in str(run.errors["f"])
    long.check()
    short.check()


class Endless:
    """An async iterator that is no generator, so nobody but its owner closes it."""

    def __aiter__(self) -> Endless:
        return self

    async def __anext__(self) -> int:
        await asyncio.sleep(0)
        return 1


async def first_of(results: AsyncIterator[Any]) -> Any:
    return await anext(results)


async def counting() -> AsyncIterator[int]:
    for number in itertools.count():
        yield number


@functions
@pytest.mark.parametrize("source", [Endless, counting])
def test_no_task_outlives_a_map_that_leaves_its_async_source(
    source: Callable[[], Any], kind: str
) -> None:
    dag = mapped(FUNCTIONS[kind], into=first_of)

    async def main() -> tuple[Any, set[asyncio.Task[Any]]]:
        before = asyncio.all_tasks()
        return await dag.run_async(x=source()), asyncio.all_tasks() - before

    value, left = asyncio.run(main())
    assert (value in {0, 1}, left) == (True, set())


@here
def test_a_source_that_was_never_pulled_is_closed(way: str) -> None:
    source = Source()
    dag = mapped(lambda x, y: x, over=["x", "y"])
    run = EXECUTE[way](dag, x=source.generator, y=None)
    assert run.status == "failed"
    assert source.pulled == 0


@pytest.mark.parametrize("way", OWN)
def test_a_source_is_closed_when_the_run_is_late(way: str) -> None:
    source, hangs = Source(), threading.Event()
    try:
        dag = mapped(lambda x: hangs.wait(LONG))
        assert EXECUTE[way](dag, x=source.generator, timeout=0.1).status == "timed_out"
    finally:
        hangs.set()
    wait_until(lambda: source.has_ended)


@pytest.mark.parametrize("way", OWN)
def test_a_source_that_hangs_is_abandoned_when_the_run_is_late_and_closed_when_it_goes_on(
    way: str,
) -> None:
    begun, hangs = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield 1
        begun.set()
        hangs.wait(LONG)
        yield 2

    for timeout in timeouts():
        source = Source(items())
        run = EXECUTE[way](mapped(same), x=source.generator, timeout=timeout)
        assert run.status == "timed_out"
        if begun.is_set():
            break
    assert not source.is_closed
    hangs.set()
    wait_until(lambda: source.has_ended)
    source.check()


@pytest.mark.parametrize("mode", ["parallel", "async"])
def test_a_source_is_closed_when_the_run_is_cancelled(mode: Any) -> None:
    source, hangs, begun = Source(), threading.Event(), threading.Event()

    def hang(x: int) -> None:
        begun.set()
        hangs.wait(LONG)

    async def main() -> None:
        task = asyncio.create_task(mapped(hang).run_async(x=source.generator, mode=mode))
        await asyncio.to_thread(wait_for, begun)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    try:
        asyncio.run(main())
    finally:
        hangs.set()
    wait_until(lambda: source.is_closed)


@here
def test_a_source_that_fails_as_it_is_closed_fails_the_map(way: str) -> None:
    def items() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            raise LookupError("not closed")

    run = EXECUTE[way](mapped(same, into=next), x=items())
    assert run.status == "failed"
    assert isinstance(run.errors["f"], LookupError)
    with pytest.raises(Exception, match="as it was closed"):
        run.raise_for_error()


@here
def test_iterators_and_files_stay_their_owners(way: str) -> None:
    class Cursor:
        is_closed = False
        number = 0

        def __iter__(self) -> Iterator[int]:
            return self

        def __next__(self) -> int:
            self.number += 1
            return self.number

        def close(self) -> None:
            self.is_closed = True

    cursor = Cursor()
    assert EXECUTE[way](mapped(same, into=next), x=cursor).value == 1
    assert not cursor.is_closed


@here
def test_nothing_refers_to_the_source_and_its_items_after_the_run(way: str) -> None:
    class Value:
        pass

    born: list[weakref.ref[Any]] = []

    def numbers() -> Iterator[Any]:
        for _ in range(20):
            value = Value()
            born.append(weakref.ref(value))
            yield value

    source = numbers()
    dag = mapped(lambda x: None)
    run = EXECUTE[way](dag, x=source)
    assert run.status == "completed"
    gc.collect()
    wait_until(lambda: not any(each() for each in born))  # a thread may be on its way back


@here
@pytest.mark.parametrize("begun", [False, True])
def test_results_that_into_has_kept_cannot_be_taken_afterwards(way: str, begun: bool) -> None:
    kept: list[Iterator[Any]] = []

    def into(results: Iterator[Any]) -> int:
        kept.append(results)
        return next(results) if begun else 0

    assert EXECUTE[way](mapped(same, into=into), x=range(5)).value == 0
    with pytest.raises(RuntimeError, match="while its into= function runs"):
        next(kept[0])


# Async sources.


class AsyncSource:
    """An async generator that notes how it ended."""

    def __init__(self, hangs_at: int = -1) -> None:
        self.log: list[str] = []
        self.hangs_at = hangs_at
        self.generator = self._generator()

    async def _generator(self) -> AsyncIterator[int]:
        try:
            for number in itertools.count():
                if number == self.hangs_at:
                    self.log.append("hangs")
                    await asyncio.Event().wait()
                yield number
        except asyncio.CancelledError:
            self.log.append("cancelled")
            raise
        finally:
            await asyncio.sleep(0)
            self.log.append("closed")


@here
@functions
def test_an_endless_async_source_where_into_returns_early(way: str, kind: str) -> None:
    source = AsyncSource()
    dag = mapped(FUNCTIONS[kind], into=lambda results: sum(itertools.islice(results, 5)))
    assert EXECUTE[way](dag, x=source.generator).value == 10
    assert source.log == ["closed"]


@here
@functions
def test_an_async_source_is_closed_when_an_item_has_failed(way: str, kind: str) -> None:
    async def inverse_async(x: int) -> float:
        return 1 / (x - 3)

    source = AsyncSource()
    func = inverse_async if kind == "async" else lambda x: 1 / (x - 3)
    run = EXECUTE[way](mapped(func), x=source.generator)
    assert list(run.errors) == ["f[3]"]
    assert source.log == ["closed"]


@pytest.mark.parametrize("way", OWN)
def test_an_async_source_that_hangs_is_cancelled_and_awaited_when_the_run_is_late(way: str) -> None:
    for timeout in timeouts():
        source = AsyncSource(hangs_at=2)
        run = EXECUTE[way](mapped(same), x=source.generator, timeout=timeout)
        assert run.status == "timed_out"
        if "hangs" in source.log:
            break
    assert source.log == ["hangs", "cancelled", "closed"]


@pytest.mark.parametrize("way", OWN_AT_ONCE)
@pytest.mark.parametrize("kind", ["item", "into"])
def test_a_source_that_hangs_does_not_keep_a_map_that_has_ended(way: str, kind: str) -> None:
    source = AsyncSource(hangs_at=2)
    if kind == "item":
        run = EXECUTE[way](mapped(lambda x: 1 / x), x=source.generator)
        assert list(run.errors) == ["f[0]"]
    else:
        assert EXECUTE[way](mapped(same, into=next), x=source.generator).value == 0
    assert source.log in (["hangs", "cancelled", "closed"], ["closed"])


@pytest.mark.parametrize("way", OWN_AT_ONCE)
@pytest.mark.parametrize("into", [None, list])
def test_a_source_that_hangs_does_not_keep_a_run_in_which_another_node_has_failed(
    way: str, into: Any
) -> None:
    source = AsyncSource(hangs_at=2)

    def boom() -> None:
        wait_until(lambda: source.log == ["hangs"])
        raise ValueError

    options = {} if into is None else {"into": into}
    dag = DAG("outer").add_node("inner", mapped(same, **options)).add_node("boom", boom)
    run = EXECUTE[way](dag, x=source.generator, max_workers=3)
    assert list(run.errors) == ["boom"]
    assert run.statuses["inner"] == "cancelled"
    assert source.log == ["hangs", "cancelled", "closed"]


def test_a_thread_that_pulls_from_a_source_that_hangs_is_abandoned_when_a_node_has_failed() -> None:
    hangs, go_on = threading.Event(), threading.Event()

    def source() -> Iterator[int]:
        hangs.set()
        assert go_on.wait(LONG)
        yield 0

    def boom() -> None:
        assert hangs.wait(LONG)
        raise ValueError

    run = EXECUTE["parallel"](mapped(same).add_node("boom", boom), x=source())
    go_on.set()
    assert run.statuses == {"f": "cancelled", "boom": "failed"}


@pytest.mark.parametrize("mode", ["parallel", "async"])
def test_an_async_source_that_hangs_is_cancelled_and_awaited_with_the_run(mode: Any) -> None:
    source = AsyncSource(hangs_at=2)

    async def main() -> None:
        task = asyncio.create_task(mapped(same).run_async(x=source.generator, mode=mode))
        while source.log != ["hangs"]:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert source.log == ["hangs", "cancelled", "closed"]


@here
def test_an_async_source_that_raises_fails_the_map(way: str) -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1
        raise LookupError("no more")

    run = EXECUTE[way](mapped(same), x=numbers())
    assert isinstance(run.errors["f"], LookupError)
    with pytest.raises(Exception, match="after item 0"):
        run.raise_for_error()
