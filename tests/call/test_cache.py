"""Cached nodes: what is looked up by what, who computes, and where results are kept.

Who takes over when a computation ends without a value: step by step in `test_flights.py`.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import datetime
import decimal
import enum
import gc
import pickle
import threading
import weakref
from array import array
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_dag import DAG, Context, ExecutionError, InvalidNodeError, Run, ValidationError
from fast_dag.cache import store
from fast_dag.cache.keys import UnkeyableError, inputs_key, key_of, stable_text
from fast_dag.cache.memory import MemoryBackend
from tests.concurrency.support import end_of, threads_of_runs, wait_for
from tests.patience import LONG, timeouts
from tests.ways import EXECUTE, HERE, MODES, OWN

Execute = Callable[..., Run]


# Keys.

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([0.0, 1.0, -1.5, 2.0])
    | st.text("ab", max_size=2)
    | st.binary(max_size=1)
    | st.sampled_from([1j, 0j])
)


def compact(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """The same with a short repr: nested ones have reprs of many kilobytes."""

    @st.composite
    def value(draw: st.DrawFn) -> Any:
        return draw(strategy)

    return value()


hashables = compact(
    st.recursive(
        scalars,
        lambda inner: st.tuples(inner) | st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
        max_leaves=4,
    )
)
plain = compact(
    st.recursive(
        hashables,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.tuples(inner, inner)
            | st.dictionaries(hashables, inner, max_size=3)
            | st.sets(hashables, max_size=3)
        ),
        max_leaves=6,
    )
)


def same(a: Any, b: Any) -> bool:
    """Whether two plain values are equal and of the same types, all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(
            any(same(key, other) and same(a[key], b[other]) for other in b) for key in a
        )
    if isinstance(a, (set, frozenset)):
        return len(a) == len(b) and all(any(same(each, other) for other in b) for each in a)
    return bool(a == b)


@given(a=plain, b=plain)
def test_keys_of_plain_data_are_equal_exactly_where_the_data_are(a: Any, b: Any) -> None:
    assert (key_of(a) == key_of(b)) == same(a, b)
    if same(a, b):
        assert hash(key_of(a)) == hash(key_of(b))


@given(value=plain)
def test_a_copy_has_the_same_key_and_the_same_text(value: Any) -> None:
    other = pickle.loads(pickle.dumps(value))
    assert key_of(value) == key_of(other) == key_of(copy.deepcopy(value))
    assert stable_text(key_of(value)) == stable_text(key_of(other))


@given(a=plain, b=plain)
def test_texts_of_keys_tell_apart_what_keys_tell_apart(a: Any, b: Any) -> None:
    if key_of(a) != key_of(b):
        assert stable_text(key_of(a)) != stable_text(key_of(b))


@given(items=st.lists(st.tuples(hashables, scalars), max_size=5, unique_by=lambda item: item[0]))
def test_the_order_of_dicts_and_sets_does_not_count(items: list[tuple[Any, Any]]) -> None:
    assert key_of(dict(items)) == key_of(dict(reversed(items)))
    assert key_of({k for k, _ in items}) == key_of({k for k, _ in reversed(items)})
    if len(items) > 1:
        assert key_of(OrderedDict(items)) != key_of(OrderedDict(reversed(items)))


@given(
    a=st.dictionaries(st.sampled_from("xyz"), plain),
    b=st.dictionaries(st.sampled_from("xyz"), plain),
)
def test_keys_of_inputs_are_equal_exactly_where_the_inputs_are(a: Any, b: Any) -> None:
    assert (inputs_key(a) == inputs_key(b)) == same(a, b)


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass
class Point:
    x: int
    y: list[int]


@dataclasses.dataclass
class Place:
    x: int
    y: list[int]


@dataclasses.dataclass
class Scaled:
    """With what is no field, though dataclasses list it."""

    x: int
    factor: dataclasses.InitVar[int]
    seen: ClassVar[list[int]] = []

    def __post_init__(self, factor: int) -> None:
        self.x *= factor


@dataclasses.dataclass(eq=False)
class ById:
    x: int


class Pair(NamedTuple):
    a: int
    b: int


NOON = datetime.datetime(2026, 3, 1, 12)
DIFFERENT: list[Any] = [
    Colour.RED,
    Colour.BLUE,
    NOON,
    NOON.date(),
    NOON.replace(tzinfo=datetime.UTC),
    datetime.timedelta(1),
    decimal.Decimal("1.5"),
    decimal.Decimal("2.5"),
    1.5,
    Path("a"),
    "a",
    b"a",
    bytearray(b"a"),
    Point(1, [2]),
    Point(1, [3]),
    Place(1, [2]),
    Pair(1, 2),
    (1, 2),
    [1, 2],
    {1, 2},
    frozenset({1, 2}),
    {"x": 1, "y": [2]},
    OrderedDict(x=1, y=[2]),
    defaultdict(list, x=1, y=[2]),
    range(3),
    float("nan"),
    float("inf"),
    int,
    len,
    ...,
]


@pytest.mark.parametrize("value", DIFFERENT, ids=repr)
def test_values_of_many_types_are_keyed_by_what_they_are(value: Any) -> None:
    is_function_or_type = callable(value) or value is ...
    other = value if is_function_or_type else copy.deepcopy(value)
    assert key_of(value) == key_of(other)
    assert [each for each in DIFFERENT if key_of(each) == key_of(value)] == [value]


def test_every_nan_is_the_same_input() -> None:
    assert key_of([float("nan")]) == key_of([-float("nan")])


def test_a_dataclass_is_keyed_by_its_fields_only() -> None:
    key = key_of(Scaled(2, 3))
    Scaled.seen.append(1)
    assert key == key_of(Scaled(3, 2)) == key_of(Scaled(6, 1))
    assert key != key_of(Scaled(7, 1))


def test_values_that_compare_by_identity_are_keyed_by_it() -> None:
    one, other = ById(1), ById(1)
    assert key_of(one) == key_of(one) != key_of(other)
    assert key_of([one]) == key_of([one]) != key_of([other])


def test_views_of_memory_are_told_apart_by_what_they_show() -> None:
    ints, four = memoryview(array("i", [1])), memoryview(array("i", [1])).cast("B")
    assert ints != four
    assert key_of(ints) != key_of(four)
    assert key_of(ints) == key_of(memoryview(array("i", [1])))


def test_what_contains_itself_cannot_be_keyed() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(UnkeyableError, match="itself"):
        key_of(endless)


@pytest.mark.parametrize("value", [array("i", [1]), [{"a": array("i", [1])}]], ids=str)
def test_what_compares_by_value_and_has_no_hash_cannot_be_keyed(value: Any) -> None:
    with pytest.raises(UnkeyableError, match="array"):
        key_of(value)


def test_arrays_are_keyed_by_type_shape_and_contents() -> None:
    a = np.arange(6)
    assert key_of(a) == key_of(a.copy()) == key_of(np.arange(12)[::2] // 2)
    assert key_of(a) == key_of(np.arange(6)[::-1][::-1]) == key_of(np.repeat(a, 2)[::2])
    assert key_of(np.ones((2, 3))) == key_of(np.broadcast_to(1.0, (2, 3)))
    assert key_of(a[::-1]) == key_of(a[::-1].copy()) != key_of(a)
    assert key_of(np.zeros((0, 3))) == key_of(np.zeros((3, 0)).T) != key_of(np.zeros((3, 0)))
    assert key_of(np.array(["", ""])) == key_of(np.array(["", ""])) != key_of(np.array([""]))
    assert key_of(np.arange(6).reshape(2, 3)) == key_of(
        np.asfortranarray(np.arange(6).reshape(2, 3))
    )
    different = [
        a,
        a + 1,
        a.reshape(2, 3),
        a.reshape(3, 2),
        a.astype("int32"),
        a.astype("float64"),
        a.astype(">i8"),
        list(range(6)),
        np.array(["a", "b"], dtype=object),
        np.array(["a", "c"], dtype=object),
        np.array(["a", "b"]),
        np.array(0),
        np.int64(0),
        np.float64(0),
        0,
        0.0,
        np.array(["2026-01-01"], dtype="M8[D]"),
        np.zeros(2, dtype=[("a", "i4")]),
        np.zeros(2, dtype=[("a", "f4")]),
        np.zeros(2, dtype=[("b", "i4")]),
        np.ma.array([1, 2], mask=[False, True]),
        np.ma.array([1, 2], mask=[False, False]),
    ]
    for one in range(len(different)):
        for other in range(len(different)):
            equal = key_of(different[one]) == key_of(different[other])
            assert equal == (one == other), (different[one], different[other])


def test_an_array_that_changes_in_place_has_another_key_than_before() -> None:
    a = np.zeros(3)
    before = key_of(a)
    a[1] = 1
    assert key_of(a) != before


def test_data_frames_are_keyed_by_what_they_hold() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    different = [
        *[
            frame,
            frame.rename(columns={"a": "c"}),
            frame.set_index("b"),
            frame.set_index([[5, 6]]),
            frame.astype({"a": "float64"}),
            frame.assign(a=[1, 3]),
            frame[["b", "a"]],
            frame["a"],
            frame["a"].rename("z"),
            frame["a"].set_axis([5, 6]),
            frame["a"].astype("float64"),
            frame["b"].astype("category"),
            frame["b"],
        ],
        pd.Timestamp(NOON),
    ]
    for one in range(len(different)):
        assert key_of(different[one]) == key_of(copy.deepcopy(different[one]))
        for other in range(len(different)):
            equal = key_of(different[one]) == key_of(different[other])
            assert equal == (one == other), (different[one], different[other])


def test_pydantic_models_are_keyed_by_their_fields() -> None:
    class User(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="allow")
        name: str
        tags: list[str]

    one = User(name="a", tags=["t"])
    assert key_of(one) == key_of(User(name="a", tags=["t"]))
    assert key_of(one) != key_of(User(name="a", tags=["u"]))
    assert key_of(one) != key_of(User(name="a", tags=["t"], more=1))


# Hits and misses.


class Counted:
    """A cached node `double` of a dag that counts its calls."""

    def __init__(self, **options: Any) -> None:
        self.calls: list[Any] = []
        self.dag = DAG("counted")

        def double(x: Any) -> Any:
            self.calls.append(x)
            return [x, x]

        self.dag.cached_node(**options)(double)


def test_a_hit_is_the_same_object(execute: Execute) -> None:
    counted = Counted()
    first, second = execute(counted.dag, x=1), execute(counted.dag, x=1)
    assert first.value is second.value
    assert counted.calls == [1]
    assert (first.metrics["cache_hits"], first.metrics["cache_misses"]) == (0, 1)
    assert (second.metrics["cache_hits"], second.metrics["cache_misses"]) == (1, 0)
    assert execute(counted.dag, x=2).value == [2, 2]
    assert execute(counted.dag, x=1.0).value == [1.0, 1.0]
    assert [type(each) for each in counted.calls] == [int, int, float]


@pytest.mark.parametrize("phase", ["post_execute", "around", "cleanup"])
def test_a_hit_counts_where_a_hook_fails_after_it(execute: Execute, phase: str) -> None:
    counted = Counted()
    counted.dag.run(x=1)

    def refuse(node: Any, inputs: Any = None, result: Any = None) -> None:
        raise ValueError("refused")

    def around(node: Any, inputs: Any, context: Any, call: Any) -> None:
        refuse(call())

    counted.dag.set_node_hooks("double", **{phase: around if phase == "around" else refuse})
    watched: list[str] = []
    for progress in (None, lambda name, status, fraction: watched.append(status)):
        run = execute(counted.dag, x=1, error_strategy="continue", progress=progress)
        assert (run.metrics["cache_hits"], run.metrics["cache_misses"]) == (1, 0)
        assert str(run.errors["double"]) == "refused"
    assert counted.calls == [1]
    assert watched == ["running", "failed"]


@pytest.mark.parametrize("handled", [None, 0, LookupError])
def test_a_miss_counts_whatever_becomes_of_its_failure(execute: Execute, handled: Any) -> None:
    def handler(node: Any, inputs: Any, error: Any) -> Any:
        if handled is LookupError:
            raise handled
        return handled

    def on_error(node: Any, inputs: Any, error: Any) -> None:
        raise ValueError("no")

    dag = DAG("missed")
    dag.cached_node(name="inverse")(lambda x: 1 / x)
    dag.set_node_error_handler("inverse", handler)
    dag.set_node_hooks("inverse", on_error=on_error)
    run = execute(dag, x=0, error_strategy="continue")
    assert (run.metrics["cache_hits"], run.metrics["cache_misses"]) == (0, 1)


def test_a_miss_makes_its_key_once(execute: Execute) -> None:
    """Digests of large arrays take their time."""
    reads: list[str] = []

    @dataclasses.dataclass
    class Told:
        x: int

        def __getattribute__(self, name: str) -> Any:
            if name == "x":
                reads.append(name)
            return super().__getattribute__(name)

    counted = Counted()
    told = Told(1)
    reads.clear()
    assert execute(counted.dag, x=told).value == [told, told]
    assert reads == ["x"]


def test_a_hit_in_one_mode_is_a_hit_in_every_other() -> None:
    counted = Counted()
    for mode in HERE:
        assert EXECUTE[mode](counted.dag, x=1).value == [1, 1]
    assert counted.calls == [1]


@pytest.mark.needs("cloudpickle")
def test_a_result_computed_in_a_process_is_cached_at_home(tmp_path: Path) -> None:
    calls = str(tmp_path / "calls")
    dag = DAG("away")

    @dag.cached_node
    def away(x: int) -> int:
        with open(calls, "a", encoding="utf-8") as file:
            file.write("x")
        return x + 1

    first = dag.execute(x=1, mode="process")
    second = dag.execute(x=1, mode="process")
    assert (first.value, second.value, second.metrics["cache_hits"]) == (2, 2, 1)
    assert Path(calls).read_text() == "x"


def test_none_is_cached_like_any_value(execute: Execute) -> None:
    calls: list[int] = []
    dag = DAG("none")
    dag.cached_node(name="none")(lambda x: calls.append(x))
    assert execute(dag, x=1).value is None
    assert execute(dag, x=1).metrics["cache_hits"] == 1
    assert calls == [1]


def test_failures_are_not_cached(execute: Execute) -> None:
    left = [2]
    dag = DAG("fails")

    @dag.cached_node
    def flaky(x: int) -> int:
        left[0] -= 1
        if left[0] >= 0:
            raise ValueError("not yet")
        return x

    statuses = [execute(dag, x=1).status for _ in range(4)]
    assert statuses == ["failed", "failed", "completed", "completed"]
    assert left == [-1]


def test_async_nodes_are_cached(execute: Execute) -> None:
    calls: list[int] = []
    dag = DAG("async")

    @dag.cached_node(ttl=60)
    async def double(x: int) -> int:
        await asyncio.sleep(0)
        calls.append(x)
        return 2 * x

    assert [execute(dag, x=3).value for _ in range(3)] == [6, 6, 6]
    assert calls == [3]


def test_the_context_is_no_part_of_the_key(execute: Execute) -> None:
    calls: list[int] = []
    dag = DAG("context")

    @dag.cached_node
    def tells(x: int, context: Context) -> int:
        calls.append(x)
        return x

    for user in ("a", "b"):
        assert execute(dag, x=1, context=Context(metadata={"user": user})).value == 1
    assert calls == [1]


def test_inputs_that_cannot_be_keyed_run_uncached_with_one_warning() -> None:
    counted = Counted()
    odd = array("i", [1])
    with pytest.warns(RuntimeWarning, match="'double'.*'x'.*uncached") as warned:
        runs = [counted.dag.execute(x=odd) for _ in range(3)]
    assert len(warned) == 1
    assert len(counted.calls) == 3
    assert all(run.value == [odd, odd] for run in runs)
    assert all(not run.metrics["cache_hits"] for run in runs)


def test_a_value_that_compares_by_identity_is_kept_alive_by_its_entry() -> None:
    counted = Counted()
    value = ById(1)
    alive = weakref.ref(value)
    dag = DAG("identity")
    dag.cached_node(name="x_of")(lambda point: point.x)
    dag.run(point=value)
    dag.run(point=ById(2))  # which another object's id must not be taken for
    del value, counted
    gc.collect()
    assert alive() is not None
    dag.invalidate_cache()
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: (each for each in "ab"),
        lambda: map(str, "ab"),
        lambda: filter(None, "ab"),
        lambda: zip("ab", "cd", strict=True),
    ],
    ids=["generator", "map", "filter", "zip"],
)
def test_a_cached_node_that_returns_what_can_be_gone_through_once_fails(
    execute: Execute, make: Callable[[], Any]
) -> None:
    dag = DAG("once")
    dag.cached_node(name="once")(make)
    with pytest.raises(ExecutionError, match="once only"):
        execute(dag).raise_for_error()


def test_entries_expire_after_their_ttl() -> None:
    counted = Counted(ttl=0.02)
    began = monotonic()
    counted.dag.run(x=1)
    while len(counted.calls) == 1 and monotonic() < began + LONG:
        counted.dag.run(x=1)
    assert len(counted.calls) == 2
    assert monotonic() - began >= 0.02


def test_the_least_recently_used_entry_makes_room() -> None:
    counted = Counted(max_entries=2)
    for x in (1, 2, 1, 3, 1, 2):
        counted.dag.run(x=x)
    assert counted.calls == [1, 2, 3, 2]


@given(
    st.lists(st.tuples(st.sampled_from("gsd"), st.integers(0, 4)), max_size=40), st.integers(1, 4)
)
def test_the_memory_backend_is_a_bounded_mapping(steps: list[tuple[str, int]], size: int) -> None:
    backend, model = MemoryBackend(size), OrderedDict[int, int]()
    for number, (step, key) in enumerate(steps, 1):
        if step == "g":
            assert backend.get(key) == model.get(key)
            if key in model:
                model.move_to_end(key)
        elif step == "s":
            backend.set(key, number)
            model.pop(key, None)
            model[key] = number
            if len(model) > size:
                model.popitem(last=False)
        else:
            backend.delete(key)
            model.pop(key, None)
        assert backend.known() == list(model)
    backend.clear()
    assert len(backend) == 0


# Options.


def test_cache_key_names_the_inputs_that_count(execute: Execute) -> None:
    calls: list[Any] = []
    dag = DAG("subset")

    @dag.cached_node(ttl=1800, cache_key=["user", "version"])
    def calculated(user: str, version: int, data: Any) -> Any:
        calls.append((user, version))
        return data

    odd = array("i", [1])  # which could not be keyed, and need not be
    assert execute(dag, user="a", version=1, data=odd).value is odd
    assert execute(dag, user="a", version=1, data={"other": 1}).value is odd
    assert execute(dag, user="a", version=2, data=0).value == 0
    assert calls == [("a", 1), ("a", 2)]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"cache_key": ["usr"]}, "user"),
        ({"ttl": 0}, "ttl"),
        ({"ttl": -1}, "ttl"),
        ({"max_entries": 0}, "max_entries"),
        ({"max_entries": 1.5}, "max_entries"),
        ({"backend": object()}, "get"),
    ],
)
def test_options_without_meaning_are_refused_at_definition(
    options: dict[str, Any], told: str
) -> None:
    dag = DAG("refuses")
    with pytest.raises(InvalidNodeError, match=told):
        dag.cached_node(name="f", **options)(lambda user: user)


def test_cached_results_are_forgotten_on_demand() -> None:
    counted = Counted()
    dag, calls = counted.dag, counted.calls
    dag.cached_node(name="other")(lambda double: calls.append("other"))
    dag.connect("double", "other")

    def recomputed() -> list[Any]:
        calls.clear()
        dag.run(x=1)
        dag.run(x=2)
        return calls

    assert recomputed() == [1, "other", 2, "other"]
    assert recomputed() == []
    dag.invalidate_cache("double", x=1)
    assert recomputed() == [1]
    dag.invalidate_cache("double")
    assert recomputed() == [1, 2]
    dag.invalidate_cache(dag.nodes["other"])
    assert recomputed() == ["other", "other"]
    dag.invalidate_cache()
    assert recomputed() == [1, "other", 2, "other"]
    dag.invalidate_cache("double", x=99)
    assert recomputed() == []


def test_some_inputs_forget_all_calls_that_had_them() -> None:
    calls: list[Any] = []
    dag = DAG("some")
    dag.cached_node(name="f")(lambda x, y: calls.append((x, y)))
    for _ in range(2):
        for x, y in ((1, 1), (1, 2), (2, 1)):
            dag.run(x=x, y=y)
        dag.invalidate_cache("f", x=1)
    assert calls == [(1, 1), (1, 2), (2, 1), (1, 1), (1, 2)]


def test_inputs_that_do_not_count_in_the_key_do_not_count_in_forgetting() -> None:
    calls: list[Any] = []
    dag = DAG("subset")
    dag.cached_node(name="f", cache_key=["user"])(lambda user, data: calls.append(user))
    dag.run(user="a", data=1)
    dag.invalidate_cache("f", user="a", data=1)
    dag.run(user="a", data=1)
    assert calls == ["a", "a"]


def test_what_cannot_be_forgotten_is_an_error() -> None:
    dag = DAG("errors").add_node("plain", lambda x: x)
    with pytest.raises(KeyError, match="plain"):
        dag.invalidate_cache("plan")
    with pytest.raises(ValidationError, match="not cached"):
        dag.invalidate_cache("plain")
    with pytest.raises(ValidationError, match="name"):
        dag.invalidate_cache(x=1)


def test_nodes_of_one_name_in_two_graphs_share_nothing() -> None:
    one, two = Counted(), Counted()
    assert one.dag.run(x=1) is not two.dag.run(x=1)
    assert (one.calls, two.calls) == ([1], [1])


def test_pickling_leaves_the_contents_behind() -> None:
    dag = DAG("pickled")
    dag.cached_node(name="f", ttl=60, cache_key=["values"])(sorted_copy)
    first = dag.run(values=[2, 1])
    other = pickle.loads(pickle.dumps(dag))
    second = other.run(values=[2, 1])
    assert second == first
    assert second is not first
    assert other.run(values=[2, 1]) is second
    assert dag.run(values=[2, 1]) is first


def sorted_copy(values: list[int]) -> list[int]:
    return sorted(values)


def test_a_clone_has_a_cache_of_its_own() -> None:
    counted = Counted()
    other = counted.dag.clone()
    counted.dag.run(x=1)
    other.run(x=1)
    assert counted.calls == [1, 1]


def test_a_nested_workflow_is_cached_as_a_whole(execute: Execute) -> None:
    calls: list[str] = []
    inner = DAG("inner").add_node("one", lambda x: calls.append("one") or x)
    inner.add_node("two", lambda one: calls.append("two") or one + 1).connect("one", "two")
    dag = DAG("outer")
    dag.add_node("sub", inner, cache={})
    dag.add_node("last", lambda sub: -sub)
    dag.connect("sub", "last")
    assert [execute(dag, x=1).value for _ in range(2)] == [-2, -2]
    assert calls == ["one", "two"]


# Backends that others share.


class DictBackend:
    """What a shared backend is, without a server."""

    def __init__(self) -> None:
        self.entries: dict[Any, Any] = {}
        self.threads: set[int] = set()

    def get(self, key: Any) -> Any:
        self.threads.add(threading.get_ident())
        return self.entries.get(key)

    def set(self, key: Any, entry: Any) -> None:
        self.entries[key] = entry

    def delete(self, key: Any) -> None:
        self.entries.pop(key, None)

    def clear(self) -> None:
        self.entries.clear()


def shared_double(x: int) -> list[int]:
    return [x, x]


def shared_triple(x: int) -> list[int]:
    return [x, x, x]


def test_a_shared_backend_serves_other_nodes_of_the_same_function(execute: Execute) -> None:
    backend = DictBackend()
    one, two = DAG("one"), DAG("two")
    one.cached_node(name="a", backend=backend)(shared_double)
    two.cached_node(name="b", backend=backend)(shared_double)
    two.cached_node(name="c", backend=backend)(shared_triple)
    value = execute(one, x=1).value
    run = execute(two, x=1)
    assert run["b"] is value
    assert run["c"] == [1, 1, 1]
    assert (run.metrics["cache_hits"], run.metrics["cache_misses"]) == (1, 1)


def test_versions_do_not_share() -> None:
    backend = DictBackend()
    dag = DAG("versions")
    dag.cached_node(name="old", backend=backend, version=1)(shared_double)
    dag.cached_node(name="new", backend=backend, version="2")(shared_double)
    run = dag.execute(x=1)
    assert run.metrics["cache_misses"] == 2
    assert run["old"] is not run["new"]


def test_functions_of_one_name_that_do_something_else_do_not_share() -> None:
    backend, dag = DictBackend(), DAG("edited")

    def define(source: str) -> Any:
        scope: dict[str, Any] = {"__name__": "edited"}
        exec(source, scope)
        return scope["f"]

    sources = [
        "def f(x): return x + 1",
        "def f(x): return x + 2",
        "def f(x): return x - 1",
        "def f(x): return abs(x)",
        "def f(x): return str(x)",
        "def f(x, y=1): return x + y",
        "def f(x, y=2): return x + y",
        "def f(x, *, y=1): return x + y",
        "def f(x, *, y=2): return x + y",
    ]
    for number, source in enumerate(sources):
        dag.cached_node(name=f"n{number}", backend=backend)(define(source))
    dag.cached_node(name="same", backend=backend)(define(sources[0]))
    run = dag.execute(x=5)
    assert [run[f"n{number}"] for number in range(len(sources))] == [6, 7, 4, 5, "5", 6, 7, 6, 7]
    assert (run.metrics["cache_misses"], run.metrics["cache_hits"]) == (len(sources), 1)


def test_a_function_with_free_variables_that_are_no_plain_data_must_give_its_version() -> None:
    def times(x: int, factor: int) -> int:
        return factor * x

    dag = DAG("free")
    with pytest.raises(InvalidNodeError, match=r"'f'.*free variables.*version"):
        dag.cached_node(name="f", backend=DictBackend())(lambda x: times(x, 3))
    dag.cached_node(name="f", backend=DictBackend(), version=1)(lambda x: times(x, 3))
    assert dag.run(x=2) == 6


def test_plain_free_variables_are_part_of_the_key() -> None:
    def multiply(factor: int) -> Callable[[int], int]:
        return lambda x: factor * x

    backend, dag = DictBackend(), DAG("free")
    for name, factor in {"double": 2, "triple": 3, "also_double": 2}.items():
        dag.cached_node(name=name, backend=backend)(multiply(factor))
    run = dag.execute(x=1)
    assert [run["double"], run["triple"], run["also_double"]] == [2, 3, 2]
    assert (run.metrics["cache_misses"], run.metrics["cache_hits"]) == (2, 1)


def test_free_variable_that_others_set_later_changes_the_key() -> None:
    dag, calls, rate = DAG("sweep"), [], 0

    @dag.cached_node(backend=DictBackend(), cache_key=["x"])
    def price(x: int, calls: list[int]) -> int:
        calls.append(rate)
        return x * rate

    def at(asked: int) -> Any:
        nonlocal rate
        rate = asked
        return dag.run(x=5, calls=calls)

    assert [at(1), at(2), at(2), at(1)] == [5, 10, 10, 5]
    assert calls == [1, 2]


def test_free_variable_that_the_function_itself_sets_does_not_change_the_key() -> None:
    dag, calls = DAG("counting"), 0

    @dag.cached_node(backend=DictBackend())
    def price(x: int) -> int:
        nonlocal calls
        calls += 1
        return 2 * x

    assert [dag.run(x=5), dag.run(x=5), calls] == [10, 10, 1]


class Unpicklable:
    """Compares by value, and cannot be taken elsewhere."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unpicklable)

    def __hash__(self) -> int:
        return 1

    def __reduce__(self) -> str:
        raise RuntimeError("stays here")


@pytest.mark.parametrize(
    "value",
    [array("i", [1]), ById(1), object(), Unpicklable()],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_keyed_for_others_runs_uncached_with_one_warning(
    execute: Execute, value: Any
) -> None:
    backend, dag = DictBackend(), DAG("shared")
    dag.cached_node(name="f", backend=backend)(shared_double)
    with pytest.warns(RuntimeWarning, match=r"'f'.*'x'.*uncached") as warned:
        runs = [execute(dag, x=value) for _ in range(2)]
    assert len(warned) == 1
    assert [run.value for run in runs] == [[value, value]] * 2
    assert backend.entries == {}
    with pytest.raises(ValidationError, match=r"'f'.*'x'"):
        dag.invalidate_cache("f", x=value)


@pytest.mark.parametrize("value", [Colour.RED, {"colour": Colour.BLUE}, Path("a"), NOON], ids=repr)
def test_members_of_enums_and_plain_objects_can_be_keyed_for_others(value: Any) -> None:
    dag = DAG("shared")
    dag.cached_node(name="f", backend=DictBackend())(shared_double)
    assert dag.run(x=value) == [value, value]
    assert dag.execute(x=value).metrics["cache_hits"] == 1


def test_a_shared_backend_keeps_none_and_honours_the_ttl() -> None:
    backend, dag = DictBackend(), DAG("shared")
    dag.cached_node(name="f", backend=backend, ttl=3600)(returns_none)
    dag.run(x=1)
    assert dag.execute(x=1).metrics["cache_hits"] == 1
    assert len(backend.entries) == 1
    for key, (value, expires) in list(backend.entries.items()):
        backend.entries[key] = (value, expires - 3601)
    assert dag.execute(x=1).metrics["cache_hits"] == 0
    assert dag.execute(x=1).metrics["cache_hits"] == 1


def returns_none(x: Any) -> None: ...


def test_results_in_a_shared_backend_are_forgotten_on_demand() -> None:
    backend, dag = DictBackend(), DAG("shared")
    dag.cached_node(name="f", backend=backend)(shared_double)
    dag.cached_node(name="g", backend=backend)(shared_triple)

    def misses(**inputs: Any) -> int:
        return dag.execute(**inputs).metrics["cache_misses"]

    assert [misses(x=1), misses(x=1), misses(x=2)] == [2, 0, 2]
    dag.invalidate_cache("f", x=1)
    assert [misses(x=1), misses(x=2)] == [1, 0]
    dag.invalidate_cache("f")
    assert [misses(x=1), misses(x=2), misses(x=1)] == [1, 1, 0]


def test_what_another_node_invalidated_meanwhile_is_not_kept() -> None:
    flights = Flights(backend=DictBackend(), version=1)
    other = DAG("other")
    other.cached_node(name="same", backend=flights.dag.nodes["held"].cache.backend, version=1)(
        flights.held
    )
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(flights.dag.run)
        assert flights.started.acquire(timeout=LONG)
        other.invalidate_cache("same")
        flights.go_on.set()
        assert first.result(LONG) == "call 1"
    assert other.run() == "call 2"
    assert flights.dag.run() == "call 2"


@pytest.mark.parametrize("inputs", [{}, {"x": 1}], ids=["all", "some"])
def test_what_is_invalidated_while_it_is_written_is_not_kept(inputs: dict[str, Any]) -> None:
    class Slow(DictBackend):
        def __init__(self) -> None:
            super().__init__()
            self.writing, self.go_on = threading.Event(), threading.Event()

        def set(self, key: Any, entry: Any) -> None:
            if not key.endswith(":place"):
                self.writing.set()
                wait_for(self.go_on)
            super().set(key, entry)

    backend, dag = Slow(), DAG("slow")
    dag.cached_node(name="f", backend=backend)(shared_double)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(dag.run, x=1)
        wait_for(backend.writing)
        dag.invalidate_cache("f", **inputs)
        backend.go_on.set()
        assert first.result(LONG) == [1, 1]
    assert dag.execute(x=1).metrics["cache_misses"] == 1
    assert dag.execute(x=1).metrics["cache_hits"] == 1


@pytest.mark.parametrize(
    ("method", "inputs"), [("delete", {"x": 1}), ("set", {})], ids=["some", "all"]
)
def test_forgetting_by_a_method_that_would_have_to_be_awaited_is_an_error(
    method: str, inputs: dict[str, Any]
) -> None:
    async def later() -> None: ...

    backend, dag = DictBackend(), DAG("later")
    dag.cached_node(name="f", backend=backend)(shared_double)
    dag.run(x=1)
    setattr(backend, method, lambda *args: later())  # which does not look async
    with pytest.raises(ValidationError, match=r"returned a coroutine.*sync methods"):
        dag.invalidate_cache("f", **inputs)


def test_a_sync_backend_never_blocks_the_loop() -> None:
    class Slow(DictBackend):
        """Answers when the loop has gone on."""

        def __init__(self) -> None:
            super().__init__()
            self.asked, self.answers = threading.Event(), threading.Event()

        def get(self, key: Any) -> Any:
            self.asked.set()
            wait_for(self.answers)
            return super().get(key)

    backend, dag = Slow(), DAG("slow")

    @dag.cached_node(backend=backend)
    async def double(x: int) -> int:
        return 2 * x

    async def main() -> None:
        run = asyncio.create_task(dag.run_async(x=1))
        assert await asyncio.to_thread(backend.asked.wait, LONG)
        backend.answers.set()
        assert await run == 2
        assert threading.get_ident() not in backend.threads

    asyncio.run(main())


class Counting(DictBackend):
    """Counts what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []

    def get(self, key: Any) -> Any:
        self.reads.append(key)
        return super().get(key)


def test_a_hit_reads_a_backend_once(execute: Execute) -> None:
    backend, dag = Counting(), DAG("counting")
    dag.cached_node(name="f", backend=backend)(shared_double)
    execute(dag, x=1)
    backend.reads.clear()
    assert execute(dag, x=1).metrics["cache_hits"] == 1
    assert len(backend.reads) == 1


def test_a_process_that_meets_a_new_generation_reads_which_one_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend, dag = Counting(), DAG("here")
    dag.cached_node(name="f", backend=backend)(shared_double)
    dag.run(x=1)
    elsewhere = DictBackend()  # of another process, with the same entries
    elsewhere.entries = backend.entries
    other = DAG("there")
    other.cached_node(name="f", backend=elsewhere)(shared_double)
    other.invalidate_cache("f")
    other.run(x=1)
    monkeypatch.setattr(store, "READ_AGAIN", 3600.0)
    assert dag.execute(x=1).metrics["cache_hits"] == 1, "the new one"
    assert dag.execute(x=1).metrics["cache_hits"] == 1
    other.invalidate_cache("f")
    monkeypatch.setattr(store, "READ_AGAIN", 0.0)
    assert dag.execute(x=1).metrics["cache_misses"] == 1
    assert dag.execute(x=1).metrics["cache_hits"] == 1


def test_what_was_computed_before_an_invalidation_elsewhere_is_not_kept() -> None:
    backend = DictBackend()
    flights = Flights(backend=backend, version=1)
    elsewhere = DictBackend()
    elsewhere.entries = backend.entries
    other = DAG("other")
    other.cached_node(name="same", backend=elsewhere, version=1)(flights.held)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(flights.dag.run)
        assert flights.started.acquire(timeout=LONG)
        other.invalidate_cache("same")
        flights.go_on.set()
        assert first.result(LONG) == "call 1"
    assert other.run() == "call 2"


# Backends with async methods.


class AsyncBackend:
    """As the asyncio client of a server: each method answers after others had their turn."""

    def __init__(self) -> None:
        self.entries: dict[str, Any] = {}
        self.loops: set[Any] = set()

    async def get(self, key: str) -> Any:
        self.loops.add(asyncio.get_running_loop())
        await asyncio.sleep(0)
        return self.entries.get(key)

    async def set(self, key: str, entry: Any) -> None:
        await asyncio.sleep(0)
        self.entries[key] = entry

    async def delete(self, key: str) -> None:
        await asyncio.sleep(0)
        self.entries.pop(key, None)

    async def clear(self) -> None:
        self.entries.clear()


class LooksSync(AsyncBackend):
    """Plain methods that return coroutines, as those of redis.asyncio do."""

    def get(self, key: str) -> Any:
        return super().get(key)

    def set(self, key: str, entry: Any) -> Any:
        return super().set(key, entry)

    def delete(self, key: str) -> Any:
        return super().delete(key)


class Mixed(AsyncBackend):
    def set(self, key: str, entry: Any) -> None:  # type: ignore[override]
        self.entries[key] = entry


ASYNC = [AsyncBackend, LooksSync, Mixed]


@pytest.mark.parametrize("kind", ASYNC)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync node", "async node"])
def test_async_backends_serve_every_mode(execute: Execute, kind: Any, is_async: bool) -> None:
    backend, dag = kind(), DAG("awaits")

    async def awaited(x: int) -> list[int]:
        return [x, x]

    dag.cached_node(name="f", backend=backend, ttl=60)(awaited if is_async else shared_double)
    runs = [execute(dag, x=x) for x in (1, 1, 2)]
    assert [run.value for run in runs] == [[1, 1], [1, 1], [2, 2]]
    assert [run.metrics["cache_hits"] for run in runs] == [0, 1, 0]
    asyncio.run(dag.invalidate_cache_async("f", x=1))
    assert [execute(dag, x=x).metrics["cache_hits"] for x in (1, 2)] == [0, 1]
    asyncio.run(dag.invalidate_cache_async())
    assert [execute(dag, x=x).metrics["cache_hits"] for x in (1, 2, 1)] == [0, 0, 1]


def test_an_async_backend_is_called_on_the_loop_of_the_run() -> None:
    backend, dag = AsyncBackend(), DAG("awaits")
    dag.cached_node(name="f", backend=backend)(shared_double)

    async def main() -> None:
        for _ in range(2):
            await dag.run_async(x=1)
        assert backend.loops == {asyncio.get_running_loop()}

    asyncio.run(main())


@pytest.mark.parametrize("kind", ASYNC)
def test_forgetting_in_an_async_backend_says_how_to_await_it(kind: Any) -> None:
    dag = DAG("awaits")
    dag.cached_node(name="f", backend=kind())(shared_double)
    with pytest.raises(ValidationError, match=r"await dag\.invalidate_cache_async"):
        dag.invalidate_cache("f", x=1)


@pytest.mark.parametrize("method", ["get", "set"])
def test_an_async_backend_that_raises_fails_no_node(execute: Execute, method: str) -> None:
    async def fails(*args: Any) -> None:
        await asyncio.sleep(0)
        raise ConnectionError("no server")

    backend, dag = AsyncBackend(), DAG("awaits")
    setattr(backend, method, fails)
    dag.cached_node(name="f", backend=backend)(shared_double)
    with pytest.warns(RuntimeWarning, match="ConnectionError: no server") as warned:
        assert [execute(dag, x=1).value for _ in range(2)] == [[1, 1]] * 2
    assert len(warned) == 1


@pytest.mark.parametrize("method", ["get", "set"])
def test_a_run_that_is_cancelled_while_an_async_backend_answers_is_cancelled(method: str) -> None:
    async def main() -> None:
        asked = asyncio.Event()

        async def never(*args: Any) -> None:
            asked.set()
            await asyncio.Event().wait()

        backend, dag = AsyncBackend(), DAG("awaits")
        setattr(backend, method, never)
        dag.cached_node(name="f", backend=backend)(shared_double)
        run = asyncio.create_task(dag.run_async(x=1))
        await asked.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        setattr(backend, method, getattr(AsyncBackend(), method))
        assert await dag.run_async(x=1) == [1, 1]

    asyncio.run(asyncio.wait_for(main(), LONG))


@pytest.mark.parametrize("mode", ["sequential", "parallel", "async"])
def test_a_backend_that_blocks_is_bounded_by_the_timeout_of_the_run(mode: str) -> None:
    go_on, asked = threading.Event(), []

    class Blocks(DictBackend):
        def get(self, key: Any) -> Any:
            asked.append(key)
            wait_for(go_on)

    dag = DAG("blocks")
    dag.cached_node(name="f", backend=Blocks())(shared_double)
    before = threads_of_runs()
    for timeout in timeouts():
        assert dag.execute(x=1, timeout=timeout, mode=mode).status == "timed_out"
        if asked:
            break
    go_on.set()
    end_of(threads_of_runs() - before)


# Who computes.


class Flights:
    """A cached node whose calls are held until they are let go."""

    def __init__(self, **options: Any) -> None:
        self.calls = 0
        self.inside = 0
        self.most = 0
        self.lock = threading.Lock()
        self.started = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.holds: set[int] = set()  # all, where it is empty
        self.fails: set[int] = set()
        self.dag = DAG("flights")
        self.dag.cached_node(name="held", **options)(self.held)

    def held(self, x: int = 0) -> str:
        with self.lock:
            self.calls += 1
            number = self.calls
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.started.release()
        try:
            if not self.holds or number in self.holds:
                wait_for(self.go_on)
            if number in self.fails:
                raise ValueError(f"call {number}")
            return f"call {number}"
        finally:
            with self.lock:
                self.inside -= 1


@pytest.fixture(params=OWN)
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


def test_runs_in_all_modes_at_once_share_one_computation() -> None:
    flights = Flights()
    modes = [*HERE, *HERE]
    with ThreadPoolExecutor(len(modes)) as pool:
        runs = [pool.submit(EXECUTE[mode], flights.dag) for mode in modes]
        assert flights.started.acquire(timeout=LONG)
        flights.go_on.set()
        done = [run.result(LONG) for run in runs]
    assert {run.value for run in done} == {"call 1"}
    assert flights.calls == 1
    assert sum(run.metrics["cache_misses"] for run in done) == 1
    assert sum(run.metrics["cache_hits"] for run in done) == len(modes) - 1


def test_where_the_computing_one_fails_one_waiter_takes_over(mode: str) -> None:
    flights = Flights()
    flights.fails = {1, 2}
    with ThreadPoolExecutor(6) as pool:
        runs = [pool.submit(EXECUTE[mode], flights.dag) for _ in range(6)]
        assert flights.started.acquire(timeout=LONG)
        flights.go_on.set()
        done = [run.result(LONG) for run in runs]
    assert sorted(run.status for run in done) == ["completed"] * 4 + ["failed"] * 2
    assert {run.value for run in done if run.status == "completed"} == {"call 3"}
    assert (flights.calls, flights.most) == (3, 1), "never two at once"


@pytest.mark.parametrize("whose", ["node", "run"])
def test_where_the_computing_one_is_abandoned_a_waiter_takes_over(mode: str, whose: str) -> None:
    before = threads_of_runs()
    for timeout in timeouts(0.3):
        flights = Flights(timeout=timeout if whose == "node" else None)
        dag, flights.holds = flights.dag, {1}
        limited = {"timeout": timeout} if whose == "run" else {}
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(EXECUTE[mode], dag, **limited)
            while not (has_begun := flights.started.acquire(timeout=0.01)) and not first.done():
                pass
            second = pool.submit(EXECUTE[mode], dag)
            assert first.result(LONG).status == ("failed" if whose == "node" else "timed_out")
            value = second.result(LONG).value
        flights.go_on.set()
        end_of(threads_of_runs() - before)
        if has_begun:
            break
    assert value == "call 2"
    assert EXECUTE[mode](dag).value == "call 2", "not that of the late call"


def test_a_waiter_whose_time_is_up_does_not_wait_on(mode: str) -> None:
    flights = Flights()
    before = threads_of_runs()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(EXECUTE["parallel"], flights.dag)
        assert flights.started.acquire(timeout=LONG)
        assert EXECUTE[mode](flights.dag, timeout=0.1).status == "timed_out"
        assert not first.done()
        flights.go_on.set()
        assert first.result(LONG).value == "call 1"
    end_of(threads_of_runs() - before)


@pytest.mark.parametrize("inner", MODES)
@pytest.mark.parametrize("outer", ["sequential", "parallel", "executor"])
def test_a_cached_node_that_runs_its_own_dag_does_not_wait_for_itself(
    outer: str, inner: str
) -> None:
    depth: list[int] = []
    dag = DAG("recursive")

    @dag.cached_node
    def recursive(x: int) -> int:
        depth.append(x)
        if len(depth) < 3:
            return dag.run(x=x, mode=inner) + 1
        return 0

    run = EXECUTE[outer](dag, x=1)
    assert run.value == 2
    assert depth == [1, 1, 1]


def test_a_cached_async_node_that_awaits_its_own_dag_does_not_wait_for_itself() -> None:
    depth: list[int] = []
    dag = DAG("recursive")

    @dag.cached_node
    async def recursive(x: int) -> int:
        depth.append(x)
        return await dag.run_async(x=x) + 1 if len(depth) < 3 else 0

    assert asyncio.run(asyncio.wait_for(dag.run_async(x=1), LONG)) == 2


def test_two_that_need_each_others_results_do_not_wait_for_each_other_for_ever() -> None:
    both = threading.Barrier(2)
    one, two = DAG("one"), DAG("two")
    first_calls: dict[str, bool] = {}

    def needs(name: str, other: DAG) -> Callable[[], str]:
        def call() -> str:
            if name in first_calls:
                return name
            first_calls[name] = True
            both.wait(LONG)
            return name + other.run()

        return call

    one.cached_node(name="a")(needs("a", two))
    two.cached_node(name="b")(needs("b", one))
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda dag=dag: results.append(dag.run()), daemon=True)
        for dag in (one, two)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert len(results) == 2, "they wait for each other"


def test_a_call_that_missed_just_before_another_one_ended_takes_its_value() -> None:
    missed, ended = threading.Event(), threading.Event()

    class Racing(DictBackend):
        """Keeps the answer of the second look-up back until the first run has ended."""

        looks = 0

        def get(self, key: Any) -> Any:
            entry = super().get(key)
            if "place" not in str(key) and threading.current_thread().name == "second":
                Racing.looks += 1
                if Racing.looks == 1:
                    missed.set()
                    wait_for(ended)
            return entry

    backend, dag, calls = Racing(), DAG("racing"), []

    def once(x: int) -> int:
        calls.append(x)
        return x

    dag.cached_node(name="f", backend=backend, version=1)(once)
    thread = threading.Thread(target=lambda: dag.run(x=1), name="second")
    thread.start()
    wait_for(missed)
    dag.run(x=1)
    ended.set()
    thread.join(LONG)
    assert calls == [1]


@pytest.mark.stress
@pytest.mark.parametrize("mode", OWN)
def test_one_computation_per_key_at_once_whatever_happens(mode: str) -> None:
    inside: dict[int, int] = {}
    most: list[int] = []
    lock = threading.Lock()
    dag = DAG("stress")

    @dag.cached_node(max_entries=2)
    def computed(x: int) -> int:
        with lock:
            inside[x] = inside.get(x, 0) + 1
            most.append(inside[x])
            fails = len(most) % 3 == 0
        try:
            for _ in range(50):
                pass
            if fails:
                raise ValueError("each third")
            return x
        finally:
            with lock:
                inside[x] -= 1

    def run(number: int) -> Run:
        return EXECUTE[mode](dag, x=number % 3)

    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(run, range(150)))
    assert max(most) == 1
    for number, done in enumerate(runs):
        assert done.value == (number % 3 if done.status == "completed" else None)
