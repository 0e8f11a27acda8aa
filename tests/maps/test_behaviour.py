"""What a map does, in every way to run."""

from __future__ import annotations

import asyncio
import functools
import pickle
import threading
from collections import OrderedDict, deque
from itertools import count
from time import sleep
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import DAG, FSM, Context, ExecutionError, FSMReturn, InvalidNodeError, ItemError
from tests.patience import LONG
from tests.ways import EVERYWHERE, EXECUTE, HERE, WAYS, mostly

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

everywhere = pytest.mark.parametrize("way", mostly(EVERYWHERE, but={"async", "executor"}))
here = pytest.mark.parametrize("way", mostly(HERE, but={"async", "executor"}))


def divided(x: tuple[Any, float]) -> float:
    return 1 / x[1]


def inverse(x: float) -> float:
    return 1 / x


async def inverse_async(x: float) -> float:
    await asyncio.sleep(0)
    return 1 / x


def mapped(func: Callable[..., Any] = inverse, /, **options: Any) -> DAG:
    """A workflow with one map, `f`."""
    return DAG("demo").add_node("f", func, **{"over": "x", **options})


def upper() -> DAG:
    """A workflow of two nodes for each item."""
    dag = DAG("upper")

    @dag.node
    def strip(text: str) -> str:
        return text.strip()

    @dag.node
    def raised(strip: str) -> str:
        return strip.upper()

    strip >> raised
    return dag


# Results.


@everywhere
def test_the_result_is_a_list_in_the_order_of_the_items(way: str) -> None:
    run = EXECUTE[way](mapped(), x=[1, 2, 4, 8])
    assert (run.status, run.value) == ("completed", [1, 0.5, 0.25, 0.125])
    assert run["f[3]"] == 0.125


@here
def test_async_functions_are_mapped(way: str) -> None:
    run = EXECUTE[way](mapped(inverse_async), x=[1, 2, 4])
    assert run.value == [1, 0.5, 0.25]


@here
def test_a_function_that_returns_a_coroutine_is_mapped(way: str) -> None:
    assert EXECUTE[way](mapped(lambda x: inverse_async(x)), x=[1, 2]).value == [1, 0.5]


@here
def test_the_collection_comes_from_an_earlier_node_and_the_list_goes_to_a_later_one(
    way: str,
) -> None:
    dag = DAG("edges")

    @dag.node
    def numbers(n: int) -> list[int]:
        return list(range(n))

    @dag.map
    def square(numbers: int) -> int:
        return numbers**2

    @dag.node
    def total(square: list[int]) -> int:
        return sum(square)

    numbers >> square >> total
    run = EXECUTE[way](dag, n=4)
    assert run.value == 14
    assert run["square"] == [0, 1, 4, 9]
    assert list(run.statuses) == ["numbers", "square", "total"]
    assert run.context.metrics["execution_order"] == ["numbers", "square", "total"]
    assert set(run.timings) == {"numbers", "square", "total"}


COLLECTIONS: dict[str, Callable[[], Any]] = {
    "list": lambda: [1, 2],
    "tuple": lambda: (1, 2),
    "range": lambda: range(1, 3),
    "set": lambda: {1, 2},
    "deque": lambda: deque([1, 2]),
    "keys": lambda: {1: 0, 2: 0}.keys(),
    "generator": lambda: (each for each in (1, 2)),
    "iterator": lambda: iter([1, 2]),
    "map": lambda: map(int, "12"),
}


@here
@pytest.mark.parametrize("kind", COLLECTIONS)
def test_any_iterable_is_walked(way: str, kind: str) -> None:
    assert EXECUTE[way](mapped(), x=COLLECTIONS[kind]()).value == [1, 0.5]


@here
def test_files_are_walked_line_by_line_and_stay_open(way: str, tmp_path: Any) -> None:
    path = tmp_path / "lines"
    path.write_text("a\nb\n")
    with path.open() as file:
        assert EXECUTE[way](mapped(lambda x: x.strip()), x=file).value == ["a", "b"]
        assert not file.closed


@here
def test_what_has_getitem_only_is_walked(way: str) -> None:
    class Old:
        def __getitem__(self, position: int) -> int:
            if position > 2:
                raise IndexError
            return position + 1

    assert EXECUTE[way](mapped(), x=Old()).value == [1, 0.5, 1 / 3]


@here
def test_rows_of_arrays_are_walked(way: str) -> None:
    numpy = pytest.importorskip("numpy")
    assert EXECUTE[way](mapped(lambda x: int(sum(x))), x=numpy.ones((3, 2))).value == [2, 2, 2]
    run = EXECUTE[way](mapped(), x=numpy.array(3))
    assert "parameter 'x' of map 'f' got one ndarray as input of the run" in str(run.errors["f"])


@here
@pytest.mark.parametrize("kind", [dict, OrderedDict, MappingProxyType])
def test_of_a_mapping_the_result_is_a_dict_with_its_keys(way: str, kind: Any) -> None:
    run = EXECUTE[way](mapped(), x=kind({"a": 1, "b": 2}))
    assert run.value == {"a": 1, "b": 0.5}
    assert list(run.value) == ["a", "b"]
    assert run["f[b]"] == 0.5


@here
@pytest.mark.parametrize("empty", [[], {}, (), range(0)], ids=repr)
def test_no_items_are_a_completed_map_and_what_follows_runs(way: str, empty: Any) -> None:
    dag = mapped().add_node("after", lambda f: ("after", f)).connect("f", "after")
    run = EXECUTE[way](dag, x=empty)
    assert (run.status, run["after"]) == ("completed", ("after", type(run["f"])()))
    assert run["f"] == ({} if isinstance(empty, dict) else [])
    assert run.items("f").total == 0


@here
def test_no_items_of_unknown_length(way: str) -> None:
    run = EXECUTE[way](mapped(), x=iter(()))
    assert (run.value, run.items("f").total) == ([], 0)


@here
def test_none_is_a_value(way: str) -> None:
    assert EXECUTE[way](mapped(lambda x: x), x=[None, 1, None]).value == [None, 1, None]
    into = mapped(lambda x: x, into=list)
    assert EXECUTE[way](into, x=[None, 1, None]).value == [None, 1, None]


@here
def test_what_decides_elsewhere_is_a_value_in_a_map(way: str) -> None:
    answer = EXECUTE[way](mapped(lambda x: FSMReturn(value=x)), x=[1]).value
    assert answer == [FSMReturn(value=1)]


# Arguments.


@here
def test_what_is_not_walked_is_given_whole_to_every_item(way: str) -> None:
    dag = DAG("whole")

    @dag.node
    def weights() -> list[int]:
        return [10, 20]

    @dag.map(over="x")
    def f(offset: int, x: int, /, *, weights: list[int], power: int = 1) -> int:
        return offset + sum(weights) * x**power

    weights >> f
    assert EXECUTE[way](dag, x=[1, 2], offset=1).value == [31, 61]
    assert EXECUTE[way](dag, x=[1, 2], offset=1, power=2).value == [31, 121]


@here
def test_a_walked_parameter_may_be_keyword_only_and_have_a_default_which_is_never_used(
    way: str,
) -> None:
    def f(*, a: int = 5, b: int = 7) -> int:
        return 10 * a + b

    assert EXECUTE[way](mapped(f, over="a"), a=[1, 2]).value == [17, 27]
    assert EXECUTE[way](mapped(f, over=["b", "a"]), a=[1, 2], b=[3, 4]).value == [13, 24]
    with pytest.raises(Exception, match="'a'"):
        EXECUTE[way](mapped(f, over="a"))


@here
def test_a_walked_parameter_may_have_another_name_for_edges(way: str) -> None:
    dag = DAG("renamed")
    dag.add_node("rows", lambda: [1, 2])
    dag.add_node("f", inverse, over="x")
    dag.connect("rows", "f", input="x")
    assert EXECUTE[way](dag).value == [1, 0.5]


@here
def test_the_order_of_walked_parameters_is_that_of_over(way: str) -> None:
    def f(a: Any, b: Any, c: Any) -> Any:
        return a, b, c

    dag = mapped(f, over=["c", "a"])
    assert EXECUTE[way](dag, a=[1, 2], b=[0], c=["x", "y"]).value == [
        (1, [0], "x"),
        (2, [0], "y"),
    ]
    dag = mapped(f, over=None, product=["c", "a"])
    assert EXECUTE[way](dag, a=[1, 2], b=0, c=["x", "y"]).value == [
        (1, 0, "x"),
        (2, 0, "x"),
        (1, 0, "y"),
        (2, 0, "y"),
    ]


@here
def test_items_see_the_context_of_the_run(way: str) -> None:
    def f(x: int, context: Context) -> Any:
        return x, context.metadata["who"]

    run = EXECUTE[way](mapped(f), x=[1, 2], context=Context(metadata={"who": "ada"}))
    assert run.value == [(1, "ada"), (2, "ada")]


@here
def test_a_resource_is_opened_once_for_all_items(way: str) -> None:
    log: list[str] = []

    def session() -> Iterator[str]:
        log.append("open")
        yield "session"
        log.append("close")

    dag = DAG("pages")
    dag.resource("session", session)

    @dag.map  # the resource is declared: `page` is the only parameter that it could mean
    def fetch(page: int, session: str) -> Any:
        return page, session

    assert EXECUTE[way](dag, page=[1, 2]).value == [(1, "session"), (2, "session")]
    assert log == ["open", "close"]


# Several collections.


@here
def test_side_by_side(way: str) -> None:
    dag = mapped(lambda x, y: (x, y), over=["x", "y"])
    assert EXECUTE[way](dag, x=[1, 2], y=iter("ab")).value == [(1, "a"), (2, "b")]


@here
@pytest.mark.parametrize("lazy", [False, True], ids=["sized", "lazy"])
def test_side_by_side_of_other_lengths_fails(way: str, lazy: bool) -> None:
    called: list[int] = []
    dag = mapped(lambda x, y: called.append(x), over=["x", "y"])
    run = EXECUTE[way](dag, x=iter([1, 2, 3]) if lazy else [1, 2, 3], y=[1, 2])
    assert run.status == "failed"
    assert isinstance(run.errors["f"], ValueError)
    assert "'y'" in str(run.errors["f"])
    assert lazy or not called


@here
def test_mappings_side_by_side_are_matched_by_their_keys(way: str) -> None:
    dag = mapped(lambda x, y: (x, y), over=["x", "y"])
    run = EXECUTE[way](dag, x={"a": 1, "b": 2}, y={"b": 20, "a": 10})
    assert run.value == {"a": (1, 10), "b": (2, 20)}
    assert list(run.value) == ["a", "b"]
    run = EXECUTE[way](dag, x={"a": 1}, y={"b": 2})
    assert "'a'" in str(run.errors["f"])
    assert "'b'" in str(run.errors["f"])
    for other in [[1], iter([1]), {1}]:
        assert "beside something else" in str(EXECUTE[way](dag, x={"a": 1}, y=other).errors["f"])


@here
def test_of_a_product_the_last_one_is_fastest(way: str) -> None:
    dag = mapped(lambda x, y: (x, y), product=["x", "y"], over=None)
    run = EXECUTE[way](dag, x=iter([1, 2]), y=(each for each in "ab"))
    assert run.value == [(1, "a"), (1, "b"), (2, "a"), (2, "b")]
    assert EXECUTE[way](dag, x=[1], y=[]).value == []
    assert EXECUTE[way](dag, x=[], y=[1]).value == []
    assert EXECUTE[way](dag, x={"k": 1}, y={"l": 2}).value == [(1, 2)]


@here
def test_a_product_with_nothing_has_no_items_though_its_first_is_endless(way: str) -> None:
    async def endless() -> AsyncIterator[int]:
        for each in count():
            await asyncio.sleep(0)
            yield each

    dag = mapped(lambda x, y: (x, y), product=["x", "y"], over=None)
    for first in (count(), endless()):
        run = EXECUTE[way](dag, x=first, y=[])
        assert (run.value, run.items("f").total) == ([], 0)


@here
def test_nobody_needs_the_lengths_of_a_product(way: str) -> None:
    class Odd(list[int]):
        def __len__(self) -> int:
            raise LookupError

    dag = mapped(lambda x, y: (x, y), product=["x", "y"], over=None)
    assert EXECUTE[way](dag, x=Odd([1]), y=Odd([2, 3])).value == [(1, 2), (1, 3)]


@everywhere
def test_parameters_are_walked_in_any_order(way: str) -> None:
    def f(a: int, b: str, *, c: str, d: str = "whole") -> str:
        return f"{a}{b}{c}{d}"

    dag = mapped(f, over=["c", "b", "a"])
    assert EXECUTE[way](dag, a=[1, 2], b=["x", "y"], c=["p", "q"]).value == ["1xpwhole", "2yqwhole"]
    dag = mapped(f, over=None, product=["c", "a"])
    run = EXECUTE[way](dag, a=[1, 2], b="x", c=["p", "q"], d="!")
    assert run.value == ["1xp!", "2xp!", "1xq!", "2xq!"]


@here
def test_async_iterators_are_walked(way: str) -> None:
    async def numbers() -> AsyncIterator[int]:
        for each in (1, 2, 4):
            await asyncio.sleep(0)
            yield each

    assert EXECUTE[way](mapped(), x=numbers()).value == [1, 0.5, 0.25]
    dag = mapped(lambda x, y: (x, y), over=["x", "y"])
    assert EXECUTE[way](dag, x=numbers(), y=["a", "b", "c"]).value == [
        (1, "a"),
        (2, "b"),
        (4, "c"),
    ]
    dag = mapped(lambda x, y: (x, y), product=["x", "y"], over=None)
    assert EXECUTE[way](dag, x=numbers(), y=[1]).value == [(1, 1), (2, 1), (4, 1)]


# Keys.


@everywhere
def test_with_keys_the_result_is_a_dict_by_them(way: str) -> None:
    run = EXECUTE[way](mapped(keys=lambda x: f"k{x}"), x=[1, 2])
    assert run.value == {"k1": 1, "k2": 0.5}
    assert run["f[k2]"] == 0.5


@here
def test_keys_are_made_of_all_walked_values_once_an_item(way: str) -> None:
    calls: list[Any] = []

    def keys(*values: Any) -> Any:
        calls.append(values)
        return values

    dag = mapped(lambda x, y: x + y, over=["x", "y"], keys=keys)
    assert EXECUTE[way](dag, x=[1, 2], y=[3, 4]).value == {(1, 3): 4, (2, 4): 6}
    assert calls == [(1, 3), (2, 4)]


@here
def test_keys_of_a_mapping_may_be_made_anew(way: str) -> None:
    assert EXECUTE[way](mapped(keys=lambda x: -x), x={"a": 1, "b": 2}).value == {-1: 1, -2: 0.5}


@pytest.mark.one_in(3)
@here
@pytest.mark.parametrize("on_error", ["fail", "keep", "drop"])
@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (lambda x: x % 2, ["0", "item 0", "item 2"]),
        (lambda x: [x], ["[0]", "item 0", "not hashable"]),
        (lambda x: float("nan"), ["nan", "item 0", "not equal to itself"]),
        (lambda x: 1 / (x - 1), ["item 1", "division by zero"]),
    ],
    ids=["twice", "unhashable", "nan", "raises"],
)
@pytest.mark.parametrize("into", [None, list])
def test_a_bad_key_fails_the_map_whatever_on_error_says(
    way: str, on_error: str, keys: Any, says: list[str], into: Any
) -> None:
    dag = mapped(lambda x: x, keys=keys, on_error=on_error, into=into)
    run = EXECUTE[way](dag, x=[0, 1, 2])
    assert run.status == "failed"
    assert list(run.errors) == ["f"]
    with pytest.raises(ExecutionError) as caught:
        run.raise_for_error()
    assert (caught.value.node_name, caught.value.key) == ("f", None)
    assert all(each in str(caught.value) for each in [*says, "keys function"])


@here
def test_keys_name_the_items_whose_results_into_takes(way: str) -> None:
    dag = mapped(keys=lambda x: f"k{x}", into=list, on_error="drop")
    run = EXECUTE[way](dag, x=[1, 0, 2])
    assert run.value == [1, 0.5]
    assert (list(run.errors), list(run.items("f").errors)) == (["f[k0]"], ["k0"])


@here
def test_two_keys_of_one_text_are_asked_for_in_the_result(way: str) -> None:
    run = EXECUTE[way](mapped(keys=lambda x: "1" if x == 2 else x), x=[1, 2])
    assert run.value == {1: 1, "1": 0.5}
    with pytest.raises(KeyError, match=r"run\['f'\]\[key\]"):
        run["f[1]"]


@here
def test_errors_of_keys_of_one_text_are_all_kept(way: str) -> None:
    dag = DAG("d")
    dag.map(name="f", over="x", inputs=["x"], keys=lambda x: x[0], on_error="keep")(divided)
    run = EXECUTE[way](dag, x=[(1, 0), ("1", 0), ("b", 0), ("2", 2), ("'1'", 0)])
    assert run.errors.keys() == {"f[1]", "f['1']", "f[\"'1'\"]", "f[b]"}
    assert {*run.items("f").errors} == {1, "1", "b", "'1'"}
    run = EXECUTE[way](dag, x=[("1", 0), (2, 0), ("b", 0)])
    assert sorted(run.errors) == ["f[1]", "f[2]", "f[b]"]


@here
def test_errors_inside_of_items_with_keys_of_one_text_are_all_kept(way: str) -> None:
    inner = DAG("inner").add_node("start", lambda x: [x[1], x[1]])
    inner.map(name="g", over="x", inputs=["x"], on_error="keep")(lambda x: 1 / x)
    inner.connect("start", "g")
    dag = DAG("d")
    dag.map(inner, name="f", over="x", keys=lambda x: x[0])
    run = EXECUTE[way](dag, x=[(1, 0), ("1", 0), ("b", 1)])
    told = ["f['1'].g[0]", "f['1'].g[1]", "f[1].g[0]", "f[1].g[1]"]
    assert (sorted(run.errors), run.status) == (told, "completed_with_errors")


@here
def test_keys_with_brackets_and_dots_and_without_text(way: str) -> None:
    class Mute:
        def __str__(self) -> str:
            raise ValueError

    mute = Mute()
    dag = mapped(keys=lambda x: {1: "a].b[c", 2: mute, 4: ""}[x])
    run = EXECUTE[way](dag, x=[1, 2, 4])
    assert run["f[a].b[c]"] == 1
    assert run["f[]"] == 0.25
    assert run["f"][mute] == 0.5
    dag = mapped(keys=lambda x: mute, on_error="keep")
    assert list(EXECUTE[way](dag, x=[0]).errors) == ["f[0]"]


# Failures of items.


@everywhere
def test_an_item_that_fails_fails_the_map(way: str) -> None:
    dag = mapped().add_node("after", lambda f: f).connect("f", "after")
    run = EXECUTE[way](dag, x=[1, 0, 2])
    assert run.status == "failed"
    assert list(run.errors) == ["f[1]"]
    assert run.statuses["f"] == "failed"
    assert run.statuses["after"] != "completed"
    with pytest.raises(ExecutionError, match=r"f\[1\]") as caught:
        run.raise_for_error()
    assert (caught.value.node_name, caught.value.key) == ("f[1]", 1)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert run.items("f").failed == 1
    assert list(run.items("f").errors) == [1]
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.node_name, again.key) == ("f[1]", 1)


@everywhere
def test_a_failed_item_is_kept(way: str) -> None:
    run = EXECUTE[way](mapped(on_error="keep"), x=[1, 0, 2])
    assert run.status == "completed_with_errors"
    first, failed, last = run.value
    assert (first, last) == (1, 0.5)
    assert isinstance(failed, ItemError)
    assert failed.key == 1
    assert isinstance(failed.error, ZeroDivisionError)
    assert not failed
    assert run["f[1]"] is failed
    assert run.errors == {"f[1]": failed.error}
    again = pickle.loads(pickle.dumps(failed))
    assert (again.key, type(again.error)) == (1, ZeroDivisionError)
    with pytest.raises(AttributeError):
        failed.key = 2
    assert {failed, ItemError(1, failed.error)} == {failed}


@everywhere
def test_a_failed_item_is_dropped(way: str) -> None:
    run = EXECUTE[way](mapped(on_error="drop"), x=[1, 0, 2, 0, 4])
    assert (run.status, run.value) == ("completed_with_errors", [1, 0.5, 0.25])
    assert [run["f[0]"], run["f[2]"], run["f[4]"]] == [1, 0.5, 0.25]
    for name in ("f[1]", "f[3]", "f[5]", "f[-1]", "f[x]", "f[", "f[]"):
        with pytest.raises(KeyError, match="dropped 2"):
            run[name]
    assert set(run.errors) == {"f[1]", "f[3]"}
    items = run.items("f")
    assert (items.total, items.completed, items.failed, items.dropped) == (5, 3, 2, 2)


@here
def test_dropped_items_of_a_dict_have_no_key(way: str) -> None:
    run = EXECUTE[way](mapped(on_error="drop"), x={"a": 1, "b": 0, "1": 2})
    assert run.value == {"a": 1, "1": 0.5}
    assert run["f[1]"] == 0.5
    with pytest.raises(KeyError):
        run["f[b]"]
    assert list(run.errors) == ["f[b]"]
    assert list(run.items("f").errors) == ["b"]


@here
@pytest.mark.parametrize("on_error", ["keep", "drop"])
def test_all_items_may_fail(way: str, on_error: str) -> None:
    run = EXECUTE[way](mapped(on_error=on_error), x=[0, 0])
    assert run.status == "completed_with_errors"
    assert len(run.value) == (2 if on_error == "keep" else 0)


@here
@pytest.mark.parametrize("on_error", ["keep", "drop"])
def test_what_follows_a_map_that_kept_failures_runs(way: str, on_error: str) -> None:
    dag = mapped(on_error=on_error).add_node("after", lambda f: len(f)).connect("f", "after")
    run = EXECUTE[way](dag, x=[1, 0])
    assert (run.status, run["after"]) == ("completed_with_errors", 2 if on_error == "keep" else 1)


@here
@pytest.mark.parametrize("sized", [True, False], ids=["sized", "lazy"])
def test_too_few_successes_fail_the_map(way: str, sized: bool) -> None:
    called: list[float] = []

    def f(x: float) -> float:
        called.append(x)
        return 1 / x

    dag = mapped(f, on_error="drop", min_success=0.5, max_concurrency=1)
    zeros: list[float] = [0] * 20
    run = EXECUTE[way](dag, x=zeros if sized else iter(zeros))
    assert run.status == "failed"
    assert "f" in run.errors
    assert "of 20 items" in str(run.errors["f"])
    assert "min_success=0.5" in str(run.errors["f"])
    assert len(called) == (11 if sized else 20)  # as soon as it cannot be reached any more
    assert EXECUTE[way](dag, x=[0, 1]).status == "completed_with_errors"
    assert EXECUTE[way](dag, x=[]).status == "completed"


@here
def test_min_success_counts_exactly(way: str) -> None:
    dag = mapped(on_error="keep", min_success=0.9)
    assert EXECUTE[way](dag, x=[0, *range(1, 10)]).status == "completed_with_errors"
    assert EXECUTE[way](dag, x=[0, 0, *range(1, 9)]).status == "failed"
    dag = mapped(on_error="keep", min_success=1)
    assert EXECUTE[way](dag, x=[1, 2]).status == "completed"
    assert EXECUTE[way](dag, x=[1, 0]).status == "failed"


@here
def test_the_errors_of_the_first_thousand_items_are_kept(way: str) -> None:
    run = EXECUTE[way](mapped(on_error="drop"), x=[0] * 1100)
    assert len(run.errors) == len(run.items("f").errors) == 1000
    assert (run.items("f").failed, run.items("f").dropped) == (1100, 1100)


@here
def test_a_source_that_raises_fails_the_map(way: str) -> None:
    def numbers() -> Iterator[int]:
        yield 1
        yield 2
        raise LookupError("no more")

    run = EXECUTE[way](mapped(on_error="keep"), x=numbers())
    assert run.status == "failed"
    with pytest.raises(ExecutionError, match="after item 1") as caught:
        run.raise_for_error()
    assert (caught.value.node_name, caught.value.key) == ("f", None)
    assert isinstance(caught.value.__cause__, LookupError)
    assert run.errors == {"f": caught.value.__cause__}


@here
@pytest.mark.parametrize("length", [RuntimeError, TypeError, OverflowError])
def test_a_length_that_cannot_be_told_is_unknown(way: str, length: Any) -> None:
    class Odd:
        def __len__(self) -> int:
            raise length

        def __iter__(self) -> Iterator[int]:
            return iter([1, 2])

    run = EXECUTE[way](mapped(), x=Odd())
    assert (run.value, run.items("f").total) == ([1, 0.5], 2)


@here
def test_a_length_that_lies(way: str) -> None:
    class Lies(list[int]):
        def __len__(self) -> int:
            return 7

    run = EXECUTE[way](mapped(), x=Lies([1, 2]))
    assert (run.value, run.items("f").total) == ([1, 0.5], 2)


@here
def test_a_set_that_is_changed_meanwhile_fails_the_map(way: str) -> None:
    numbers = {1, 2, 3}
    dag = mapped(lambda x: numbers.add(x + 10), max_concurrency=1)
    run = EXECUTE[way](dag, x=numbers)
    assert isinstance(run.errors["f"], RuntimeError)
    assert run.status == "failed"


WRONG: dict[str, tuple[Any, str]] = {
    "None": (None, "return []"),
    "str": ("ab", "characters"),
    "bytes": (b"ab", "bytes"),
    "bytearray": (bytearray(b"ab"), "bytearray"),
    "memoryview": (memoryview(b"ab"), "memoryview"),
    "int": (3, "int"),
    "type": (int, "type"),
}


@here
@pytest.mark.parametrize("source", ["input", "edge"])
@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_mapped_over(way: str, kind: str, source: str) -> None:
    value, says = WRONG[kind]
    if source == "input":
        run, came = EXECUTE[way](mapped(), x=value), "as input of the run"
    else:
        dag = mapped().add_node("rows", lambda: value).connect("rows", "f", input="x")
        run, came = EXECUTE[way](dag), "from 'rows'"
    error = run.errors["f"]
    assert isinstance(error, TypeError)
    assert all(each in str(error) for each in ("'x'", "'f'", came, says))


@here
def test_a_data_frame_is_refused_with_advice(way: str) -> None:
    class Frame:
        columns = ("a",)

        def __iter__(self) -> Iterator[str]:
            return iter(self.columns)

        def itertuples(self) -> Iterator[tuple[int]]:
            return iter([(1,)])

    run = EXECUTE[way](mapped(), x=Frame())
    assert all(each in str(run.errors["f"]) for each in ("itertuples", "iter_rows", "to_dict"))


def test_tables_and_lazy_frames_are_data_frames_too() -> None:
    pl, pa = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    rows = {"a": [1]}
    for each in (pl.DataFrame(rows), pl.LazyFrame(rows), pa.table(rows), pa.record_batch(rows)):
        assert "data frame" in str(mapped().execute(x=each).errors["f"])


@here
def test_what_is_whole_may_not_be_used_up_by_the_first_item(way: str) -> None:
    called: list[int] = []
    dag = mapped(lambda x, y: called.append(x))
    run = EXECUTE[way](dag, x=[1, 2], y=(each for each in "ab"))
    assert isinstance(run.errors["f"], TypeError)
    assert not called


# into.


def test_into_that_is_a_generator_function_is_refused() -> None:
    class Into:
        def __call__(self, results: Iterator[Any]) -> Iterator[Any]:
            yield from results

    into = Into()
    for each in (into, into.__call__, functools.partial(into.__call__), lambda results: (yield)):
        with pytest.raises(InvalidNodeError, match="a generator function would return before"):
            mapped(into=each)


@everywhere
def test_into_makes_the_value_of_the_results(way: str) -> None:
    run = EXECUTE[way](mapped(into=sum), x=[1, 2, 4])
    assert run.value == 1.75
    with pytest.raises(KeyError, match="into"):
        run["f[0]"]


@here
@pytest.mark.parametrize("way_of_items", [inverse, inverse_async], ids=["sync", "async"])
def test_into_may_be_async(way: str, way_of_items: Any) -> None:
    async def collected(results: AsyncIterator[float]) -> list[float]:
        return [each async for each in results]

    assert EXECUTE[way](mapped(way_of_items, into=collected), x=[1, 2, 4]).value == [1, 0.5, 0.25]


@here
def test_into_gets_results_in_order(way: str) -> None:
    numbers = range(1, 300)
    run = EXECUTE[way](mapped(inverse_async, into=list), x=numbers)
    assert run.value == [1 / each for each in numbers]
    dag = mapped(inverse_async, into=list, ordered=False)
    run = EXECUTE[way](dag, x=numbers)
    assert sorted(run.value, reverse=True) == [1 / each for each in numbers]


@here
def test_a_list_from_into_has_no_items(way: str) -> None:
    run = EXECUTE[way](mapped(into=sorted), x=[1, 2])
    assert run.value == [0.5, 1]
    with pytest.raises(KeyError):
        run["f[0]"]
    run = EXECUTE[way](mapped(into=lambda results: dict(enumerate(results, 5))), x=[1, 2])
    assert run.value == {5: 1, 6: 0.5}
    with pytest.raises(KeyError):
        run["f[5]"]


@here
def test_into_gets_kept_failures_and_no_dropped_ones(way: str) -> None:
    kept = EXECUTE[way](mapped(on_error="keep", into=list), x=[1, 0, 2]).value
    assert [kept[0], kept[2]] == [1, 0.5]
    assert isinstance(kept[1], ItemError)
    run = EXECUTE[way](mapped(on_error="drop", into=list), x=[0, 1, 0, 2, 0])
    assert run.value == [1, 0.5]
    assert run.status == "completed_with_errors"


@here
def test_a_failed_map_raises_in_into_and_fails_whatever_that_returns(way: str) -> None:
    seen: list[Any] = []

    begun = threading.Event()

    def f(x: float) -> float:
        begun.wait(LONG)
        return 1 / x

    def into(results: Iterator[float]) -> str:
        begun.set()
        try:
            seen.extend(results)
        except ZeroDivisionError as error:
            seen.append(error)
        return "fine"

    run = EXECUTE[way](mapped(f, into=into, max_concurrency=1), x=[1, 0, 2])
    assert run.status == "failed"
    assert list(run.errors) == ["f[1]"]
    assert seen[-1] is run.errors["f[1]"]


@here
def test_an_into_that_raises_fails_the_map(way: str) -> None:
    def into(results: Iterator[float]) -> None:
        next(results)
        raise LookupError("into")

    run = EXECUTE[way](mapped(into=into, on_error="keep"), x=[1, 2])
    with pytest.raises(ExecutionError, match="into function") as caught:
        run.raise_for_error()
    assert (caught.value.node_name, caught.value.key) == ("f", None)
    assert isinstance(caught.value.__cause__, LookupError)


@here
def test_the_results_cannot_be_taken_once_into_has_returned(way: str) -> None:
    held: list[Iterator[float]] = []

    def into(results: Iterator[float]) -> float:
        held.append(results)
        return next(results)

    assert EXECUTE[way](mapped(into=into), x=[1, 2]).value == 1
    with pytest.raises(RuntimeError, match="into="):
        next(held[0])


@here
def test_a_one_shot_value_of_into_fails_the_map(way: str) -> None:
    run = EXECUTE[way](mapped(into=lambda results: (each for each in results)), x=[1])
    assert isinstance(run.errors["f"], TypeError)
    assert "generator" in str(run.errors["f"])


@here
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 16, 33, 64, 100, 257])
def test_into_of_any_number_of_items(way: str, count: int) -> None:
    assert EXECUTE[way](mapped(lambda x: x, into=sum), x=range(count)).value == sum(range(count))


@here
def test_into_of_no_items(way: str) -> None:
    run = EXECUTE[way](mapped(into=sum), x=[])
    assert (run.status, run.value) == ("completed", 0)
    run = EXECUTE[way](mapped(into=max), x=[])
    assert isinstance(run.errors["f"], ValueError)


@here
def test_an_into_that_takes_nothing(way: str) -> None:
    run = EXECUTE[way](mapped(abs, inputs=["x"], into=lambda results: "nothing"), x=iter(int, 1))
    assert (run.status, run.value) == ("completed", "nothing")


@here
@pytest.mark.parametrize("source", ["sized", "lazy", "async"])
@pytest.mark.parametrize(
    "func", [inverse, inverse_async, lambda x: inverse_async(x)], ids=["sync", "async", "both"]
)
def test_an_async_into_may_return_early(way: str, source: str, func: Any) -> None:
    async def first(results: AsyncIterator[Any]) -> Any:
        return await anext(results)

    async def endless() -> AsyncIterator[int]:
        while True:
            yield 1

    given = {"sized": [1] * 50, "lazy": iter([1] * 50), "async": endless()}[source]
    assert EXECUTE[way](mapped(func, into=first), x=given).value == 1


@here
@pytest.mark.parametrize("count", [10, 3000])
def test_an_item_that_raises_stop_iteration_has_failed(way: str, count: int) -> None:
    def f(x: int) -> int:
        return next(iter([])) if x == count - 2 else x

    run = EXECUTE[way](mapped(f, on_error="keep"), x=range(count))
    assert len(run.value) == count
    assert run.value[: count - 2] == list(range(count - 2))
    assert run.value[-1] == count - 1
    assert list(run.errors) == [f"f[{count - 2}]"]
    run = EXECUTE[way](mapped(f), x=range(count))
    assert list(run.errors) == [f"f[{count - 2}]"]


@here
def test_items_behind_one_that_fails_late_are_called(way: str) -> None:
    def f(x: int) -> int:
        if x % 1000 == 500:
            sleep(0.005)  # longer than a batch of quick items
            raise ValueError(x)
        return x

    run = EXECUTE[way](mapped(f, on_error="drop"), x=range(3000))
    assert run.value == [x for x in range(3000) if x % 1000 != 500]
    assert run.items("f").failed == 3


@here
def test_coroutines_that_a_function_returns_for_some_items(way: str) -> None:
    def f(x: int) -> Any:
        return inverse_async(x) if x % 3 == 0 else x

    dag = mapped(f, on_error="drop")
    run = EXECUTE[way](dag, x=range(200))
    assert run.value == [1 / x if x % 3 == 0 else x for x in range(1, 200)]
    assert list(run.errors) == ["f[0]"]
    strict = EXECUTE[way](mapped(f), x=range(200))  # what is not awaited any more is closed
    assert list(strict.errors) == ["f[0]"]


@here
def test_coroutines_of_items_before_one_that_fails_are_awaited(way: str) -> None:
    async def later(x: int) -> int:
        return x

    def f(x: int, bad: int) -> Any:
        if x == bad:
            raise ValueError(x)
        return later(x) if x % 2 else x

    for bad in range(25, 50):  # wherever it is among those that are timed together
        run = EXECUTE[way](mapped(f, on_error="drop"), x=range(50), bad=bad)
        assert run.value == [x for x in range(50) if x != bad]
        assert sum(count for _, count in run.items("f").histogram) == 50
        strict = EXECUTE[way](mapped(f), x=range(50), bad=bad)
        assert list(strict.errors) == [f"f[{bad}]"]


# A workflow for each item.


@everywhere
def test_a_workflow_is_mapped(way: str) -> None:
    dag = DAG("outer")
    dag.map(upper(), name="clean", over="text")
    run = EXECUTE[way](dag, text=[" a", "b "])
    assert run.value == ["A", "B"]
    assert run["clean[1]"] == "B"
    run = EXECUTE[way](dag, text=[" a", 3])
    assert list(run.errors) == ["clean[1].strip"]
    with pytest.raises(ExecutionError) as caught:
        run.raise_for_error()
    assert (caught.value.node_name, caught.value.key) == ("clean[1].strip", 1)


@here
@pytest.mark.parametrize("strategy", ["fail_fast", "continue"])
def test_the_failure_of_a_workflow_is_that_of_its_item(way: str, strategy: Any) -> None:
    dag = DAG("outer")
    dag.map(upper(), name="clean", over="text", on_error="keep")
    run = EXECUTE[way](dag, text=["a", 3, " c"], error_strategy=strategy)
    assert run.status == "completed_with_errors"
    assert [run.value[0], run.value[2]] == ["A", "C"]
    assert run.value[1].key == 1
    assert list(run.errors) == ["clean[1].strip"]


@here
def test_what_a_mapped_workflow_takes_besides_is_whole(way: str) -> None:
    inner = DAG("inner").add_node("add", lambda x, k: x + k)
    dag = DAG("outer").add_node("k", lambda: 10)
    dag.map(inner, name="each", over="x")
    dag.connect("k", "each", input="k")
    assert EXECUTE[way](dag, x=[1, 2]).value == [11, 12]


@here
def test_a_mapped_workflow_that_branches(way: str) -> None:
    inner = DAG("inner")

    @inner.condition
    def even(n: int) -> bool:
        return n % 2 == 0

    @inner.node
    def half(n: int) -> Any:
        return n // 2

    @inner.node
    def more(n: int) -> Any:
        return 3 * n + 1

    even.on_true >> half
    even.on_false >> more
    dag = DAG("outer")
    dag.map(inner, name="step", over="n")
    expected = [inner.run(n=each) for each in range(6)]
    assert EXECUTE[way](dag, n=range(6)).value == expected == [0, 4, 1, 10, 2, 16]


@here
def test_a_machine_is_mapped(way: str) -> None:
    machine = FSM("countdown")

    @machine.state(initial=True)
    def count(n: int) -> FSMReturn:
        return FSMReturn(next_state="done", value=n)

    @machine.state(terminal=True)
    def done(count: int) -> int:
        return count + 1

    machine.add_transition("count", "done")
    dag = DAG("outer")
    dag.map(machine, name="each", over="n")
    assert EXECUTE[way](dag, n=[1, 2]).value == [machine.run(n=1), machine.run(n=2)]


@everywhere
def test_maps_nest(way: str) -> None:
    cells = DAG("cells").add_node("cell", inverse, over="x")
    dag = DAG("rows")
    dag.map(cells, name="rows", over="x")
    run = EXECUTE[way](dag, x=[[1, 2], [], [4]])
    assert run.value == [[1, 0.5], [], [0.25]]
    assert run["rows[2]"] == run["rows[2].cell"] == [0.25]
    assert (run["rows[0].cell[1]"], run["rows[2].cell[0]"]) == (0.5, 0.25)
    for missing in ("rows[1].cell[0]", "rows[3].cell[0]", "rows[0].other", "rows[0].cell[1].more"):
        with pytest.raises(KeyError, match="no result"):
            run[missing]
    run = EXECUTE[way](dag, x=[[1], [2, 0]])
    assert list(run.errors) == ["rows[1].cell[1]"]
    with pytest.raises(ExecutionError) as caught:
        run.raise_for_error()
    assert caught.value.node_name == "rows[1].cell[1]"
    assert caught.value.key == 1


@here
def test_each_item_of_a_workflow_has_its_own_resources_and_shares_those_of_the_outer(
    way: str,
) -> None:
    log: list[str] = []

    def opened(name: str) -> Callable[[], Iterator[str]]:
        def factory() -> Iterator[str]:
            log.append(f"open {name}")
            yield name
            log.append(f"close {name}")

        return factory

    inner = DAG("inner")
    inner.resource("own", opened("own"))
    inner.add_node("use", lambda x, own, shared: (x, own, shared))
    dag = DAG("outer")
    dag.resource("shared", opened("shared"))
    dag.map(inner, name="each", over="x")
    run = EXECUTE[way](dag, x=[1, 2])
    assert run.value == [(1, "own", "shared"), (2, "own", "shared")]
    assert sorted(log) == ["close own"] * 2 + [
        "close shared",
        "open own",
        "open own",
        "open shared",
    ]


@here
def test_a_map_inside_of_a_nested_workflow(way: str) -> None:
    dag = DAG("outer").add_node("sub", mapped(on_error="keep"))
    run = EXECUTE[way](dag, x=[1, 0])
    assert run.status == "completed_with_errors"
    assert list(run.errors) == ["sub.f[1]"]
    assert run["sub.f[0]"] == 1
    assert run.items("sub.f").failed == 1
    assert run.value == run["sub.f"]


def counting(on_error: str) -> DAG:
    """A workflow with a map, and a node that counts what it came to."""
    inner = mapped(on_error=on_error).add_node("count", len)
    return inner.connect("f", "count")


@pytest.mark.one_in(3)
@everywhere
@pytest.mark.parametrize(("on_error", "counted"), [("keep", 3), ("drop", 2)])
def test_an_item_that_is_kept_inside_fails_neither_the_workflow_around_it_nor_its_item(
    way: str, on_error: str, counted: int
) -> None:
    dag = DAG("outer").add_node("sub", counting(on_error)).add_node("after", lambda sub: sub)
    run = EXECUTE[way](dag.connect("sub", "after"), x=[1, 0, 2])
    assert (run.status, run.value, list(run.errors)) == (
        "completed_with_errors",
        counted,
        ["sub.f[1]"],
    )
    dag = DAG("rows")
    dag.map(counting(on_error), name="row", over="x", keys=str)
    run = EXECUTE[way](dag, x=[[4], [1, 0, 2]])
    assert run.status == "completed_with_errors"
    assert run.value == {"[4]": 1, "[1, 0, 2]": counted}
    assert list(run.errors) == ["row[[1, 0, 2]].f[1]"]
    assert (run.items("row").completed, run.items("row").failed) == (2, 0)


@here
@pytest.mark.parametrize("strategy", ["fail_fast", "continue"])
def test_what_fails_besides_a_kept_item_is_the_error_of_the_workflow(
    way: str, strategy: Any
) -> None:
    inner = mapped(on_error="keep").add_node("total", sum).connect("f", "total")
    dag = DAG("outer").add_node("sub", inner).add_node("after", lambda sub: sub)
    run = EXECUTE[way](dag.connect("sub", "after"), x=[0], error_strategy=strategy)
    assert list(run.errors) == ["sub.f[0]", "sub.total"]
    assert run.statuses == {"sub": "failed", "after": "skipped"}
    with pytest.raises(ExecutionError) as caught:
        run.raise_for_error()
    assert caught.value.node_name == "sub.total"


@here
def test_a_state_goes_on_though_a_map_in_it_kept_an_item(way: str) -> None:
    machine = FSM("machine", initial_state="work", terminal_states=["end"])
    machine.add_state("work", counting("keep"))
    machine.add_state("end", lambda n: n)
    machine.add_transition("work", "end")
    run = EXECUTE[way](machine, x=[0, 1])
    assert (run.status, run.value, list(run.errors)) == ("completed_with_errors", 2, ["work.f[0]"])


# Looking.


@here
def test_what_became_of_the_items(way: str) -> None:
    run = EXECUTE[way](mapped(retry=1, retry_delay=0, on_error="keep"), x=[*range(1, 30), 0])
    items = run.items("f")
    assert (items.total, items.completed, items.failed, items.dropped) == (30, 29, 1, 0)
    assert items.retries == 1
    assert len(items.slowest) == 10
    assert [seconds for _, seconds in items.slowest] == sorted(
        (seconds for _, seconds in items.slowest), reverse=True
    )
    assert sum(count for _, count in items.histogram) == 30
    assert repr(items) == "<Items of 'f': 29 of 30 completed, 1 failed>"


@here
def test_a_literal_name_of_a_node_wins(way: str) -> None:
    dag = mapped().add_node("f[1]", lambda: "the node")
    run = EXECUTE[way](dag, x=[1, 2])
    assert run["f[1]"] == "the node"
    assert run["f[0]"] == 1


@here
def test_what_is_no_item_is_a_key_error_that_says_why(way: str) -> None:
    run = EXECUTE[way](mapped(), x=[1, 2])
    for name, says in {
        "f[2]": "2 items",
        "f[a]": "2 items",
        "f[0].x": "inside of it",
        "g[0]": "no node",
    }.items():
        with pytest.raises(KeyError, match=says):
            run[name]
    with pytest.raises(KeyError):
        run.items("g")
    with pytest.raises(KeyError, match="no map"):
        EXECUTE[way](DAG("none").add_node("g", lambda: 1)).items("g")


@here
def test_a_skipped_map_is_skipped_whole(way: str) -> None:
    dag = DAG("skips")

    @dag.condition
    def positive(n: int) -> bool:
        return n > 0

    @dag.node
    def numbers(n: int) -> list[int]:
        return list(range(n))

    @dag.map
    def each(numbers: int) -> int:
        return numbers

    @dag.node
    def after(each: list[int]) -> int:
        return sum(each)

    positive.on_true >> numbers
    numbers >> each >> after
    run = EXECUTE[way](dag, n=-1)
    assert [run.statuses[name] for name in ("numbers", "each", "after")] == ["skipped"] * 3
    with pytest.raises(KeyError, match="skipped"):
        run["each[0]"]
    with pytest.raises(KeyError, match="not begun"):
        run.items("each")
    assert EXECUTE[way](dag, n=3).value == 3


@here
@pytest.mark.parametrize("method", ["run_until", "run_from"])
def test_parts_of_a_workflow_with_a_map(way: str, method: str) -> None:
    dag = DAG("parts").add_node("numbers", lambda: [1, 2]).add_node("f", inverse, over="x")
    dag.add_node("after", lambda f: sum(f)).connect("numbers", "f", input="x").connect("f", "after")
    start = WAYS[way].start
    if method == "run_until":
        assert start(dag, "run_until", "f") == [1, 0.5]
    else:
        earlier = start(dag, "execute")
        assert start(dag, "run_from", "f", context=earlier.context) == 1.5
        assert start(dag, "run_from", "after", context=earlier.context) == 1.5
    with pytest.raises(Exception, match=r"f\[1\]"):
        start(dag, method, "f[1]")


@here
def test_an_item_is_no_output(way: str) -> None:
    with pytest.raises(Exception, match=r"f\[1\]"):
        EXECUTE[way](mapped(), x=[1, 2], outputs=["f[1]"])
    assert EXECUTE[way](mapped(), x=[1, 2], outputs=["f"]).value == {"f": [1, 0.5]}


@here
def test_a_run_with_a_map_pickles(way: str) -> None:
    run = EXECUTE[way](mapped(on_error="drop"), x=[1, 0, 2])
    again = pickle.loads(pickle.dumps(run))
    assert again.value == [1, 0.5]
    assert again["f[2]"] == 0.5
    assert again.items("f").dropped == 1
    with pytest.raises(KeyError):
        again["f[1]"]


# Going on.


@here
def test_a_resumed_run_calls_only_the_items_that_had_not_completed(way: str) -> None:
    called: list[int] = []
    bad = {3}

    def f(x: int) -> int:
        called.append(x)
        if x in bad:
            raise ValueError
        return -x

    dag = mapped(f)
    first = EXECUTE[way](dag, x=range(6))
    completed = set(called) - bad
    called.clear()
    bad.clear()
    second = EXECUTE[way](dag, resume=first)
    assert second.value == [0, -1, -2, -3, -4, -5]
    assert sorted(called) == sorted(set(range(6)) - completed)
    assert second.items("f").completed == 6


@here
def test_a_resumed_run_shows_the_items_of_maps_that_had_completed(way: str) -> None:
    bad = [1]
    dag = mapped().add_node("after", lambda f: f[bad[0]]).connect("f", "after")
    first = EXECUTE[way](dag, x=[1])
    assert first.status == "failed"
    bad[0] = 0
    second = EXECUTE[way](dag, resume=first)
    assert (second.value, second["f[0]"], second.items("f").completed) == (1, 1, 1)


@here
@pytest.mark.parametrize("travels", [False, True])
def test_a_resumed_run_tells_what_maps_that_had_completed_kept_or_dropped(
    way: str, travels: bool
) -> None:
    inner = DAG("inner").add_node("g", lambda x: 1 // x, over="x", on_error="drop")
    dag = mapped(on_error="keep").add_node("sub", inner)
    bad = [1]
    dag.add_node("after", lambda f, sub: f[bad[0]] + len(sub) // (1 - bad[0]))
    dag.connect("f", "after").connect("sub", "after")
    first = EXECUTE[way](dag, x=[1, 0], error_strategy="continue")
    assert set(first.errors) == {"f[1]", "sub.g[1]", "after"}
    bad[0] = 0
    earlier = pickle.loads(pickle.dumps(first)) if travels else first
    second = EXECUTE[way](dag, resume=earlier)
    assert (second.status, second.value) == ("completed_with_errors", 2)
    assert set(second.errors) == {"f[1]", "sub.g[1]"}


@here
def test_a_resumed_run_with_other_items_calls_all(way: str) -> None:
    called: list[float] = []

    def f(x: float) -> float:
        called.append(x)
        return 1 / x

    dag = mapped(f)
    first = EXECUTE[way](dag, x=[2, 0])
    called.clear()
    assert EXECUTE[way](dag, resume=first, x=[2, 4]).value == [0.5, 0.25]
    assert sorted(called) == [2, 4]


@here
def test_a_resumed_run_relies_on_no_order_of_sets_but_on_keys(way: str) -> None:
    called: list[str] = []
    bad = {"b"}

    def f(x: str) -> str:
        called.append(x)
        if x in bad:
            raise ValueError
        return x

    plain, keyed = mapped(f, max_concurrency=1), mapped(f, keys=str, max_concurrency=1)
    letters = {"a", "b", "c"}
    for dag, again in (plain, letters), (keyed, None):
        bad.add("b")
        called.clear()
        first = pickle.loads(pickle.dumps(EXECUTE[way](dag, x=letters)))
        done = set(called) - bad
        bad.clear()
        called.clear()
        value = EXECUTE[way](dag, resume=first).value
        assert set(value) == letters
        assert set(called) == (again if again is not None else letters - done)


@here
def test_each_item_is_cached(way: str) -> None:
    called: list[int] = []
    dag = DAG("cached")

    @dag.cached_node(over="x")
    def f(x: int) -> int:
        called.append(x)
        return -x

    assert EXECUTE[way](dag, x=[1, 2, 1, 2, 1]).value == [-1, -2, -1, -2, -1]
    run = EXECUTE[way](dag, x=range(300))
    assert run.value == [-each for each in range(300)]
    assert sorted(called) == [0, 1, 2, *range(3, 300)]
    assert run.context.metrics["cache_hits"] == 2
    called.clear()
    assert EXECUTE[way](dag, x=range(300)).value == run.value
    assert not called  # all are kept, however many there are


@here
def test_progress_counts_items(way: str) -> None:
    seen: list[tuple[str, str, float]] = []
    dag = mapped(lambda x: x, max_concurrency=1)
    EXECUTE[way](
        dag,
        x=range(50),
        progress=lambda name, status, fraction: seen.append((name, status, fraction)),
    )
    assert {name for name, _, _ in seen} == {"f"}
    assert seen[-1] == ("f", "completed", 1.0)
    running = [status for _, status, _ in seen if status.startswith("running ")]
    assert all(status.endswith(" of 50") for status in running)
    assert [fraction for _, _, fraction in seen] == sorted(fraction for _, _, fraction in seen)


@here
def test_a_definition_is_mapped_by_many_runs_at_once(way: str) -> None:
    inner = mapped(inverse)
    dag = DAG("runs").add_node("g", lambda x: inner.run(x=[x, 2 * x]), over="x")
    assert EXECUTE[way](dag, x=[1, 2]).value == [[1, 0.5], [0.5, 0.25]]
