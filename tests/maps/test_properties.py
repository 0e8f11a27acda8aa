"""Random maps against a plain loop, in every way to run."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from inspect import GEN_CLOSED, GEN_CREATED, getgeneratorstate
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_dag import DAG, ExecutionError, ItemError
from tests.concurrency.support import wait_until
from tests.patience import LONG
from tests.properties import tries
from tests.ways import EXECUTE, HERE, OWN

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from fast_dag import Run

BAD = 7
"""An item that fails, wherever it is walked."""


class BadItemError(Exception):
    """What it fails with."""


def work(*values: Any) -> Any:
    """What is done with an item: a value that tells which item it was of."""
    if BAD in values:
        raise BadItemError(values)
    return "done", *values


SOURCES: dict[str, Callable[[list[int]], Any]] = {
    "list": list,
    "tuple": tuple,
    "iterator": iter,
    "generator": lambda items: (each for each in items),
    "dict": lambda items: {f"k{at}": each for at, each in enumerate(items)},
    "async": lambda items: asynchronous(items),
}


async def asynchronous(items: Iterable[int]) -> AsyncIterator[int]:
    for each in items:
        await asyncio.sleep(0)
        yield each


@dataclass(frozen=True)
class Case:
    """A map: collections, where they come from, and the options."""

    walked: tuple[list[int], ...]
    source: str
    is_product: bool
    kind: str
    options: dict[str, Any]
    into: str | None
    keyed: bool
    strategy: str

    @property
    def parameters(self) -> list[str]:
        return ["a", "b", "c"][: len(self.walked)]

    @property
    def rows(self) -> list[tuple[int, ...]]:
        return list(product(*self.walked) if self.is_product else zip(*self.walked, strict=True))

    @property
    def is_mapping(self) -> bool:
        return self.source == "dict" and not self.is_product

    def inputs(self) -> dict[str, Any]:
        made = {}
        for at, (name, items) in enumerate(zip(self.parameters, self.walked, strict=True)):
            source = self.source
            if source == "async" and at > 0 and self.is_product:
                source = "list"
            made[name] = SOURCES[source](items)
        return made


ITEMS = st.lists(st.integers(0, BAD), max_size=12)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    count = draw(st.sampled_from([1, 1, 1, 2, 3]))
    is_product = count > 1 and draw(st.booleans())
    if is_product:
        walked = tuple(draw(st.lists(st.integers(0, BAD), max_size=4)) for _ in range(count))
    else:
        first = draw(ITEMS)
        size = len(first)
        walked = (
            first,
            *(
                draw(st.lists(st.integers(0, BAD), min_size=size, max_size=size))
                for _ in range(count - 1)
            ),
        )
    options: dict[str, Any] = {}
    on_error = draw(st.sampled_from(["fail", "keep", "drop"]))
    if on_error != "fail":
        options["on_error"] = on_error
        if draw(st.booleans()):
            options["min_success"] = draw(st.sampled_from([0, 0.25, 0.5, 1]))
    if draw(st.booleans()):
        options["max_concurrency"] = draw(st.integers(1, 4))
    options.update(draw(st.sampled_from([{}, {"retry": 1, "retry_delay": 0}, {"timeout": 60}])))
    into = draw(st.sampled_from([None, None, "list", "unordered", "async", "first"]))
    keyed = draw(st.booleans())
    return Case(
        walked,
        draw(st.sampled_from(list(SOURCES))),
        is_product,
        draw(st.sampled_from(["sync", "async", "mixed", "workflow", "async workflow"])),
        options,
        into,
        keyed,
        draw(st.sampled_from(["fail_fast", "continue"])),
    )


def function(case: Case) -> Any:
    """A function, or workflow, with the parameters of the case."""
    names = ", ".join(case.parameters)
    bodies = {
        "sync": f"def f({names}): return work({names})",
        "async": f"async def f({names}):\n await sleep(0)\n return work({names})",
        "mixed": f"async def g({names}):\n await sleep(0)\n return work({names})\n"
        f"def f({names}): return g({names}) if a % 2 else work({names})",
    }
    space: dict[str, Any] = {"work": work, "sleep": asyncio.sleep}
    kind = {"workflow": "sync", "async workflow": "async"}.get(case.kind, case.kind)
    exec(bodies[kind], space)
    if "workflow" not in case.kind:
        return space["f"]
    inner = DAG("inner").add_node("first", space["f"]).add_node("then", lambda first: first)
    return inner.connect("first", "then")


async def listed(results: AsyncIterator[Any]) -> list[Any]:
    return [each async for each in results]


def first(results: Iterator[Any]) -> Any:
    return next(results, "nothing")


INTO: dict[str, dict[str, Any]] = {
    "list": {"into": list},
    "unordered": {"into": list, "ordered": False},
    "async": {"into": listed},
    "first": {"into": first},
}


def made(case: Case) -> DAG:
    dag = DAG("random")
    options = {**case.options, "product" if case.is_product else "over": case.parameters}
    if case.into is not None:
        options |= INTO[case.into]
    if case.keyed:
        numbers = iter(range(1000))
        options["keys"] = lambda *values: f"n{next(numbers)}"
    dag.add_node("f", function(case), **options)
    return dag


def same(value: Any) -> Any:
    """A value, so that two of them compare: of an ItemError its key."""
    if isinstance(value, ItemError):
        assert isinstance(value.error, (BadItemError, ExecutionError))
        return "item error", value.key
    return value


def check(case: Case, run: Run) -> None:  # noqa: PLR0912  one rule after the other
    """Compare a run with a loop."""
    rows = case.rows
    keys: list[Any] = list(range(len(rows)))
    if case.keyed:
        keys = [f"n{at}" for at in keys]
    elif case.is_mapping:
        keys = list(SOURCES["dict"](case.walked[0]))
    failed = [key for key, row in zip(keys, rows, strict=True) if BAD in row]
    on_error = case.options.get("on_error", "fail")
    least = case.options.get("min_success", 0)
    inside = ".first" if "workflow" in case.kind else ""
    names = {f"f[{key}]{inside}" for key in failed}
    items = run.items("f")
    assert items.dropped == (items.failed if on_error == "drop" else 0)
    if case.into == "first":  # it may have returned before an item failed
        if run.status == "completed":
            assert run.value in ["nothing", *(("done", *row) for row in rows)]
        return
    fails = bool(failed) if on_error == "fail" else len(failed) > (1 - least) * len(rows) + 1e-9
    if fails:
        assert run.statuses["f"] == "failed"
        assert run.status == ("failed" if case.strategy == "fail_fast" else "completed_with_errors")
        assert set(run.errors) <= {*names, "f"}
        assert items.failed
        if case.strategy == "continue":
            return
        with pytest.raises(ExecutionError) as caught:
            run.raise_for_error()
        if on_error == "fail":
            assert caught.value.key in failed
            assert caught.value.node_name == f"f[{caught.value.key}]{inside}"
        else:
            assert (caught.value.node_name, caught.value.key) == ("f", None)
        return
    assert run.status == ("completed_with_errors" if failed else "completed")
    assert set(run.errors) == names
    assert set(items.errors) == set(failed)
    assert (items.total, items.completed, items.failed) == (
        len(rows),
        len(rows) - len(failed),
        len(failed),
    )
    if case.options.get("retry"):
        assert items.retries == len(failed) * (not inside or 1)
    pairs = [
        (key, ("item error", key) if BAD in row else ("done", *row))
        for key, row in zip(keys, rows, strict=True)
        if BAD not in row or on_error == "keep"
    ]
    if case.into is not None:
        expected = [value for _, value in pairs]
        got = [same(each) for each in run.value]
        if case.into == "unordered":
            expected, got = sorted(expected, key=str), sorted(got, key=str)
        assert got == expected
    elif case.keyed or case.is_mapping:
        assert list(run.value) == [key for key, _ in pairs]
        assert {key: same(value) for key, value in run.value.items()} == dict(pairs)
    else:
        assert [same(each) for each in run.value] == [value for _, value in pairs]
    if case.into is None:
        for key, value in pairs:
            assert same(run[f"f[{key}]"]) == value
        if on_error == "drop":
            for key in failed:
                with pytest.raises(KeyError):
                    run[f"f[{key}]"]


EXAMPLES = {"sequential": 150}


@pytest.mark.one_in(2)
@pytest.mark.hypothesis
@pytest.mark.parametrize("way", [*HERE, "observed", "one thread"])
def test_a_map_is_a_loop(way: str) -> None:
    @tries(EXAMPLES.get(way, 60))
    @given(cases())
    def check_case(case: Case) -> None:
        run = EXECUTE[way](made(case), case.inputs(), error_strategy=case.strategy)
        check(case, run)

    check_case()


# Maps of maps.

NESTED = st.recursive(st.integers(0, 60), lambda inner: st.lists(inner, max_size=4), max_leaves=20)


def depth_of(value: Any) -> int:
    return 0 if isinstance(value, int) else 1 + max(map(depth_of, value), default=0)


def evened(value: Any, depth: int) -> Any:
    """The value with all its leaves at the same depth."""
    if depth == 0:
        return value
    if isinstance(value, int):
        return [evened(value, depth - 1)]
    return [evened(each, depth - 1) for each in value]


def mapped_deeply(depth: int, func: Any) -> DAG:
    dag = DAG("m0").add_node("leaf", func, over="x")
    for level in range(1, depth):
        dag = DAG(f"m{level}").add_node("each", dag, over="x")
    return dag


def squared(value: Any) -> Any:
    return value**2 if isinstance(value, int) else [squared(each) for each in value]


async def square_async(x: int) -> int:
    await asyncio.sleep(0)
    return x**2


@pytest.mark.one_in(3)
@pytest.mark.hypothesis
@pytest.mark.parametrize("way", HERE)
@pytest.mark.parametrize("func", [lambda x: x**2, square_async], ids=["sync", "async"])
def test_maps_of_maps_are_loops_in_loops(way: str, func: Any) -> None:
    @tries(25)
    @given(NESTED.filter(lambda value: not isinstance(value, int)))
    def check_nested(value: Any) -> None:
        depth = depth_of(value)
        value = evened(value, depth)
        run = EXECUTE[way](mapped_deeply(depth, func), x=value)
        assert run.value == squared(value)

    check_nested()


# Maps among other nodes.


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[str], list[int], bool]:
    kinds = draw(st.lists(st.sampled_from(["map", "node", "sum"]), min_size=1, max_size=5))
    return kinds, draw(st.lists(st.integers(0, 9), max_size=6)), draw(st.booleans())


@pytest.mark.hypothesis
@pytest.mark.parametrize("way", HERE)
def test_maps_in_chains_with_skips_around_them(way: str) -> None:
    @tries(40)
    @given(graphs())
    def check_graph(graph: tuple[list[str], list[int], bool]) -> None:
        kinds, numbers, goes = graph
        dag = DAG("chain")

        @dag.condition
        def gate() -> bool:
            return goes

        @dag.node
        def n() -> list[int]:
            return list(numbers)

        gate.on_true >> n
        before, expected = "n", list(numbers)
        for at, kind in enumerate(kinds):
            name = f"n{at}"
            if kind == "map":
                dag.add_node(name, lambda x: x + 1, over="x")
                expected = [each + 1 for each in expected]
            elif kind == "node":
                dag.add_node(name, lambda x: [*x, len(x)])
                expected = [*expected, len(expected)]
            else:
                dag.add_node(name, lambda x: x, over="x", into=lambda results: [sum(results)])
                expected = [sum(expected)]
            dag.connect(before, name, input="x")
            before = name
        run = EXECUTE[way](dag)
        if goes:
            assert run[before] == expected
            assert run.status == "completed"
        else:
            statuses = [
                run.statuses[name] for name in ["n", *(f"n{at}" for at in range(len(kinds)))]
            ]
            assert statuses == ["skipped"] * (len(kinds) + 1)

    check_graph()


# Cut short at any time.


class Stop:
    """Counts the events of a run: items that are pulled, begin and end. At one of them, the run is
    cut short."""

    def __init__(self, at: int, stop: Callable[[], object]) -> None:
        self.left = at
        self.stop = stop

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.stop()


def watched(case: Case, event: Callable[[], None]) -> DAG:
    """The map of a case, which notes when its items begin and end."""

    def noted(*values: Any) -> Any:
        event()
        try:
            return work(*values)
        finally:
            event()

    async def noted_async(*values: Any) -> Any:
        await asyncio.sleep(0)
        return noted(*values)

    func = noted_async if "async" in case.kind else noted
    options = {**case.options, "product" if case.is_product else "over": case.parameters}
    if case.into is not None:
        options |= INTO[case.into]
    return DAG("watched").add_node("f", func, inputs=case.parameters, **options)


def flat(kind: str) -> str:
    """The kind of a case without its workflow."""
    return "async" if "async" in kind else "sync"


def begun(generator: Any) -> bool:
    """Whether a generator has been begun, and is not closed."""
    return getgeneratorstate(generator) not in (GEN_CREATED, GEN_CLOSED)


@pytest.mark.hypothesis
@pytest.mark.parametrize("way", ["parallel", "async"])
@pytest.mark.stress
def test_a_map_that_is_cancelled_after_any_event_ends(way: str) -> None:
    @tries(60)
    @given(cases(), st.integers(1, 25))
    def check_cancelled(case: Case, at: int) -> None:
        asyncio.run(cancelled(case, at))

    async def cancelled(case: Case, at: int) -> None:
        loop = asyncio.get_running_loop()
        event = Stop(at, lambda: loop.call_soon_threadsafe(task.cancel))

        def source(items: list[int]) -> Iterator[int]:
            for each in items:
                event()
                yield each
                event()

        inputs = {
            name: source(items) for name, items in zip(case.parameters, case.walked, strict=True)
        }
        mode = "parallel" if way == "parallel" else "async"
        dag = watched(case, event)
        task = asyncio.create_task(dag.execute_async(inputs, mode=mode))
        with suppress(asyncio.CancelledError):
            run = await task
            if event.left > 0:
                same = replace(case, source="generator", kind=flat(case.kind), keyed=False)
                check(replace(same, strategy="fail_fast"), run)
        for each in inputs.values():
            wait_until(lambda each=each: not begun(each))

    check_cancelled()


@pytest.mark.hypothesis
@pytest.mark.parametrize("way", OWN)
@pytest.mark.stress
def test_a_map_that_is_late_after_any_event_ends(way: str) -> None:
    @tries(4)
    @given(cases(), st.integers(1, 12))
    def check_late(case: Case, at: int) -> None:
        hangs = threading.Event()
        event = Stop(at, lambda: hangs.wait(LONG))
        try:
            run = EXECUTE[way](watched(case, event), case.inputs(), timeout=0.1)
        finally:
            hangs.set()
        if event.left <= 0 and case.into != "first":
            assert run.status in ("timed_out", "failed")
        elif run.status in ("completed", "completed_with_errors"):
            check(replace(case, kind=flat(case.kind), keyed=False), run)

    check_late()
