"""What counts as the same input of a cached node, and what an invalidation reaches."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import datetime
import enum
import functools
import os
import subprocess
import sys
import threading
import time
import tracemalloc
import types
import weakref
import zoneinfo
from collections import deque
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from fast_dag import DAG, InvalidNodeError, ValidationError
from fast_dag.cache.keys import UnkeyableError, key_of, stable_text
from tests.patience import LONG
from tests.ways import EXECUTE, OWN

SAME = {
    "series": lambda: pd.Series([1, 2], index=[7, 8]),
    "frame": lambda: pd.DataFrame({"a": [1, None], "b": ["x", "y"]}),
    "categories": lambda: pd.Series(pd.Categorical(["x", "y"])),
    "moment": lambda: pd.Timestamp("2020-01-01"),
    "index": lambda: pd.MultiIndex.from_tuples([(1, 2)]),
}


@pytest.mark.parametrize("make", SAME.values(), ids=SAME)
def test_pandas_values_of_equal_content_are_one_input(make):
    assert key_of(make()) == key_of(make())
    assert hash(key_of(make())) == hash(key_of(make()))


OTHERS = {
    "another index": (pd.Series([1, 2]), pd.Series([1, 2], index=[7, 8])),
    "another name": (pd.Series([1, 2]), pd.Series([1, 2], name="a")),
    "another dtype": (pd.Series([1, 2]), pd.Series([1.0, 2.0])),
    "categories": (pd.DataFrame({"a": ["x"]}), pd.DataFrame({"a": pd.Categorical(["x"])})),
    "another moment": (pd.Timestamp("2020-01-01"), pd.Timestamp("2021-01-01")),
}


@pytest.mark.parametrize(("one", "other"), OTHERS.values(), ids=OTHERS)
def test_pandas_values_that_differ_are_two_inputs(one, other):
    assert key_of(one) != key_of(other)


class Way(enum.StrEnum):
    LEFT = "left"
    RIGHT = "right"


class Side(enum.IntEnum):
    LEFT = 1


class Flags(enum.Flag):
    A = 1
    B = 2


def attributed(unit):
    frame = pd.DataFrame({"a": [1]})
    frame.attrs["unit"] = unit
    return frame


class Words(list):
    unit = None


class Text(str):
    __slots__ = ("unit", "whole")


class Length(float):
    @functools.cached_property
    def half(self):
        return self / 2


class Table(dict):
    pass


def in_unit(value, unit):
    value.unit = unit
    return value


UTC, BERLIN = datetime.UTC, zoneinfo.ZoneInfo("Europe/Berlin")
NOON = datetime.datetime(2026, 7, 1, 12, tzinfo=UTC)
TOLD_APART = {
    "signs of zero": [0.0, -0.0],
    "in complex numbers": [0j, complex(0.0, -0.0), complex(-0.0, 0.0), complex(-0.0, -0.0)],
    "in lists": [[0.0], [-0.0]],
    "in arrays": [np.array([0.0]), np.array([-0.0])],
    "in scalars": [np.float64(0.0), np.float64(-0.0), np.complex128(0j), np.complex128(-0j)],
    "in frames": [pd.DataFrame({"a": [0.0]}), pd.DataFrame({"a": [-0.0]})],
    "exponents": [Decimal("1.0"), Decimal("1.00"), Decimal("1")],
    "zeros": [Decimal("0"), Decimal("-0"), Decimal("0E+3")],
    "not numbers": [Decimal("NaN"), Decimal("sNaN"), Decimal("NaN1")],
    "masks": [
        np.ma.array([1, 2], mask=[False, True]),
        np.ma.array([1, 2], mask=[True, False]),
        np.ma.array([1, 2], mask=False),
        np.ma.array([1, 2]),
        np.array([1, 2]),
    ],
    "what is masked": [np.ma.array([1, 2], mask=[0, 1]), np.ma.array([1, 3], mask=[0, 1])],
    "fill values": [np.ma.array([1, 2], fill_value=0), np.ma.array([1, 2], fill_value=9)],
    "hard masks": [np.ma.array([1]), np.ma.array([1], hard_mask=True)],
    "masks of objects": [
        np.ma.array(["a", "b"], mask=[0, 1], dtype=object),
        np.ma.array(["a", "b"], mask=[1, 0], dtype=object),
    ],
    "time zones": [
        NOON,
        NOON.astimezone(BERLIN),
        NOON.astimezone(datetime.timezone(datetime.timedelta(hours=2))),
        NOON.astimezone(datetime.timezone(datetime.timedelta(hours=2), "CEST")),
        NOON.astimezone(zoneinfo.ZoneInfo("Europe/Paris")),
        NOON.replace(tzinfo=None),
    ],
    "folds": [datetime.datetime(2026, 10, 25, 2, 30, fold=fold) for fold in (0, 1)],
    "times of day": [
        datetime.time(12, tzinfo=UTC),
        datetime.time(14, tzinfo=datetime.timezone(datetime.timedelta(hours=2))),
        datetime.time(12),
        datetime.time(12, fold=1),
    ],
    "timestamps": [
        pd.Timestamp(NOON),
        pd.Timestamp(NOON).tz_convert("Europe/Berlin"),
        pd.Timestamp(NOON).tz_localize(None),
        pd.Timestamp(NOON).as_unit("s"),
    ],
    "series of moments": [
        pd.Series(pd.DatetimeIndex([NOON]).tz_convert(zone)) for zone in ("UTC", "Europe/Berlin")
    ],
    "missing values": [pd.NA, pd.NaT, None],
    "spans": [datetime.timedelta(1), pd.Timedelta(1, "D"), pd.Timedelta(1, "D").as_unit("s")],
    "extension arrays": [
        pd.array([1, None], dtype="Int64"),
        pd.array([1, 0], dtype="Int64"),
        pd.array([1, None], dtype="Int32"),
        pd.array([1, None], dtype="Float64"),
        pd.array([True, None], dtype="boolean"),
        pd.array(["1", None], dtype="string"),
        pd.array(["1", "None"], dtype="string"),
        pd.arrays.SparseArray([1, 0]),
        pd.period_range("2026-01", periods=2, freq="M").array,
        pd.period_range("2026-02", periods=2, freq="M").array,
        pd.interval_range(0, 2).array,
        pd.interval_range(0, 2, closed="left").array,
        pd.Categorical(["a", "b"]),
        pd.Categorical(["a", "b"], ordered=True),
        pd.Categorical(["a", "b"], categories=["b", "a"]),
    ],
    "series of them": [
        pd.Series([1, None], dtype="Int64"),
        pd.Series([1, 0], dtype="Int64"),
        pd.Series(["a", None], dtype="string"),
        pd.Series(["a", ""], dtype="string"),
        pd.Series(["a", None], dtype=object),
        pd.Series(["a", "None"], dtype=object),
    ],
    "labels that are attributes of frames": [
        pd.Series([1, 2], index=["columns", "iloc"]),
        pd.Series([1, 3], index=["columns", "iloc"]),
        pd.DataFrame({"columns": [1], "index": [2]}),
        pd.DataFrame({"columns": [1], "index": [3]}),
    ],
    "what users hang on a frame": [attributed(unit) for unit in ("m", "km")],
    "flags of a frame": [
        pd.DataFrame({"a": [1]}).set_flags(allows_duplicate_labels=allowed)
        for allowed in (True, False)
    ],
    "attributes of texts": [in_unit(Text("a"), "m"), in_unit(Text("a"), "km"), Text("a"), "a"],
    "attributes of numbers": [in_unit(Length(1), "m"), in_unit(Length(1), "km"), Length(1), 1.0],
    "attributes of lists": [in_unit(Words("a"), "m"), in_unit(Words("a"), ["m"]), Words("a")],
    "attributes of dicts": [in_unit(Table(), "m"), in_unit(Table(), "km"), Table(), {}],
    "indexes": [
        pd.RangeIndex(3),
        pd.RangeIndex(3, name="a"),
        pd.Index([0, 1, 2]),
        pd.date_range("2026-01-01", periods=3),
        pd.DatetimeIndex([*pd.date_range("2026-01-01", periods=3)]),
        pd.MultiIndex.from_tuples([(0, 1), (0, 2)]),
        pd.MultiIndex.from_tuples([(0, 1), (0, 2)], names=["a", "b"]),
    ],
    "deques": [deque([1, 2]), deque([2, 1]), deque([1, 2], maxlen=2), [1, 2]],
    "slices": [slice(1), slice(0, 1), slice(0, 1, 1)],
    "namespaces": [types.SimpleNamespace(x=1), types.SimpleNamespace(x=2), {"x": 1}],
    "long lists": [[*range(1000)], [*range(999), 0], tuple(range(1000)), [*range(999), 999.0]],
    "long lists of floats": [[0.0] * 1000, [-0.0] * 1000, [0] * 1000, [False] * 1000],
    "long lists of texts": [["ab", "c"] * 500, ["a", "bc"] * 500, [b"ab", b"c"] * 500],
    "members of enums": [Way.LEFT, Way.RIGHT, "left", Side.LEFT, 1, Flags.A, Flags.A | Flags.B],
    "large integers": [10**10_000, 10**10_000 + 1, -(10**10_000)],
}


@pytest.mark.parametrize("values", TOLD_APART.values(), ids=TOLD_APART)
def test_what_a_function_can_tell_apart_are_several_inputs(values):
    keys = [key_of(value) for value in values]
    texts = [stable_text(key) for key in keys]
    for place, value in enumerate(values):
        other = copy.deepcopy(value)
        assert [key == key_of(other) for key in keys].count(True) == 1
        assert [text == stable_text(key_of(other)) for text in texts].count(True) == 1
        assert keys[place] == key_of(other)


class Rounded(float):
    def __repr__(self):
        return f"{self:.0f}"


def test_how_a_value_shows_itself_is_not_what_it_is():
    assert stable_text(key_of(Rounded(1.4))) != stable_text(key_of(Rounded(1.1)))


def test_arrays_are_digested_where_they_are():
    """Without a copy, which would take as much memory again, and lets no other thread run."""
    large = np.zeros(2**21)
    key_of(large)
    tracemalloc.start()
    try:
        key_of(large)
        key_of(large.reshape(2, -1))
        assert tracemalloc.get_traced_memory()[1] < large.nbytes / 100
    finally:
        tracemalloc.stop()


class InUnit(np.ndarray):
    """As arrays with units are made: a subclass that has attributes."""


def test_attributes_of_arrays_are_told_apart():
    def in_unit(unit):
        array = np.array([1.0, 2.0]).view(InUnit)
        array.unit = unit
        return array

    assert key_of(in_unit("m")) == key_of(in_unit("m"))
    assert key_of(in_unit("m")) != key_of(in_unit("km"))


def test_what_a_cached_property_has_found_is_no_input():
    length = Length(3)
    before = key_of(length)
    assert length.half == 1.5
    assert key_of(length) == before


def test_many_nans_are_one_input():
    assert key_of([float("nan"), 1.0] * 500) == key_of([-float("nan"), 1.0] * 500)


@pytest.mark.parametrize("where", ["memory", "shared"])
@pytest.mark.parametrize("mode", OWN)
def test_what_compares_by_identity_fails_no_node(mode, where):
    """Group-bys, estimators: known again in memory, no key for others."""
    grouped = pd.DataFrame({"a": [1, 1], "b": [2, 3]}).groupby("a")
    dag = DAG("d")
    dag.cached_node(name="f", backend=None if where == "memory" else Kept())(constant)
    if where == "memory":
        runs = [EXECUTE[mode](dag, x=grouped) for _ in range(2)]
    else:
        with pytest.warns(RuntimeWarning, match="DataFrameGroupBy, which compares") as warned:
            runs = [EXECUTE[mode](dag, x=grouped) for _ in range(2)]
        assert len(warned) == 1
    assert [run.metrics["cache_hits"] for run in runs] == [0, int(where == "memory")]


ONCE = {
    "iterator": lambda: iter([1]),
    "generator": lambda: (x for x in [1]),
    "map": lambda: map(abs, [1]),
}


@pytest.mark.parametrize("make", ONCE.values(), ids=ONCE)
def test_what_can_be_read_once_has_no_key(make):
    """It is another value after it was read."""
    with pytest.raises(UnkeyableError, match="changes when it is read"):
        key_of(make())


def test_frames_of_polars_are_one_input_where_they_hold_the_same():
    pl = pytest.importorskip("polars")
    makes = [
        lambda: pl.DataFrame({"a": [1, None], "b": ["x", "y"]}),
        lambda: pl.DataFrame({"a": [1, 2], "b": ["x", "y"]}),
        lambda: pl.DataFrame({"a": [1, None], "c": ["x", "y"]}),
        lambda: pl.Series("a", [0.0]),
        lambda: pl.Series("a", [-0.0]),
        lambda: pl.Series("b", [0.0]),
    ]
    keys = [key_of(make()) for make in makes]
    assert [keys.index(key_of(make())) for make in makes] == [*range(len(makes))]
    assert len({stable_text(key) for key in keys}) == len(keys)
    for what in (pl.Series("a", [object()], dtype=pl.Object), pl.LazyFrame({"a": [1]})):
        with pytest.raises(UnkeyableError):
            key_of(what)


def test_tables_of_arrow_are_one_input_where_they_hold_the_same():
    pa = pytest.importorskip("pyarrow")
    makes = [
        lambda: pa.table({"a": [1, None], "b": ["x", "y"]}),
        lambda: pa.table({"a": [1, 2], "b": ["x", "y"]}),
        lambda: pa.record_batch({"a": [1, 2], "b": ["x", "y"]}),
        lambda: pa.array([1, None]),
        lambda: pa.array([1, None], pa.int32()),
        lambda: pa.chunked_array([[1], [None]], pa.int64()),
    ]
    keys = [key_of(make()) for make in makes]
    assert [keys.index(key_of(make())) for make in makes] == [*range(len(makes))]
    assert len({stable_text(key) for key in keys}) == len(keys)


# One key for all nodes of a run that take the same object.


def wide_dag(nodes):
    dag = DAG("wide")
    for number in range(nodes):
        dag.cached_node(name=f"n{number}")(lambda x: 1)
    return dag


@pytest.mark.one_in(4)
@pytest.mark.parametrize("mode", OWN)
@pytest.mark.parametrize("make", [lambda array: array, pd.DataFrame], ids=["array", "frame"])
def test_a_large_input_is_digested_once_for_all_nodes(make, mode):
    value, dag = make(np.zeros((2**22, 1))), wide_dag(50)
    EXECUTE[mode](dag, x=value)
    began = time.process_time()
    key_of(value)
    once = time.process_time() - began
    began = time.process_time()
    run = EXECUTE[mode](dag, x=value)
    assert run.metrics["cache_hits"] == 50
    assert time.process_time() - began < 15 * once + 0.1


def test_no_key_keeps_a_value_alive():
    dag, value = DAG("d"), np.zeros(1000)
    gone = weakref.ref(value)

    @dag.node
    def made():
        return np.ones(1000)

    @dag.cached_node
    def total(x, made):
        return x.sum() + made.sum()

    made >> total
    run = dag.execute(x=value)
    inner = weakref.ref(run.results.pop("made"))
    assert inner() is None
    del value, run
    dag.run(x=np.zeros(1))
    assert gone() is None


@pytest.mark.parametrize("mode", OWN)
def test_a_value_that_a_node_changes_in_place_has_another_key_then(mode):
    dag = DAG("d")

    @dag.cached_node
    def before(x):
        return x.sum()

    @dag.node
    def change(before, x):
        x += 1
        return x

    @dag.cached_node
    def after(change):
        return change.sum()

    before >> change >> after
    assert EXECUTE[mode](dag, x=np.zeros(3)).value == 3
    run = EXECUTE[mode](dag, x=np.ones(3) - 1)
    assert (run.value, run.metrics["cache_hits"]) == (3, 2)
    dag.invalidate_cache("before")
    dag.replace_node("change", lambda before, x: x)
    assert EXECUTE[mode](dag, x=np.zeros(3)).value == 0


@pytest.mark.parametrize("mode", OWN)
def test_what_a_cached_node_changes_and_returns_has_another_key_then(mode):
    dag = DAG("d")

    @dag.cached_node
    def change(x):
        x += 1
        return x

    @dag.cached_node
    def after(change):
        return change.sum()

    change >> after
    assert EXECUTE[mode](dag, x=np.zeros(3)).value == 3
    dag.replace_node("change", lambda x: x)
    assert EXECUTE[mode](dag, x=np.zeros(3)).value == 0


# What nobody can make a key of.


class RaisesInEq:
    def __eq__(self, other):
        raise ArithmeticError("no answer")

    def __hash__(self):
        return 1


class RaisesInHash:
    def __eq__(self, other):
        return self is other

    def __hash__(self):
        raise MemoryError


class RaisesInClass:
    @property
    def __class__(self):
        raise OSError("who knows")


@dataclasses.dataclass
class RaisesInField:
    x: int = 1

    def __getattribute__(self, name):
        if name == "x":
            raise LookupError("gone")
        return super().__getattribute__(name)


class MuteError(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class RaisesMute:
    def __eq__(self, other):
        raise MuteError

    __hash__ = object.__hash__


class Undecided:
    """As an array, or an expression of a query."""

    def __eq__(self, other):
        return np.array([True, False])

    def __hash__(self):
        return 1


class NeverEqual:
    def __eq__(self, other):
        return False

    def __hash__(self):
        return 1


def raises_in_class():
    return [RaisesInClass()]


def deep():
    value = []
    for _ in range(100_000):
        value = [value]
    return value


SURPRISES = {
    each.__name__: each
    for each in (
        RaisesInEq,
        RaisesInHash,
        raises_in_class,
        RaisesInField,
        RaisesMute,
        Undecided,
        NeverEqual,
        deep,
    )
}


class Kept(dict):
    set = dict.__setitem__

    def delete(self, key):
        self.pop(key, None)


def constant(x):
    return 1


@pytest.mark.one_in(4)
@pytest.mark.parametrize("where", ["memory", "shared"])
@pytest.mark.parametrize("mode", OWN)
@pytest.mark.parametrize("make", SURPRISES.values(), ids=SURPRISES)
def test_whatever_a_value_does_its_node_runs_uncached_with_one_warning(make, mode, where):
    dag = DAG("d")
    dag.cached_node(name="f", backend=None if where == "memory" else Kept())(constant)
    value = make()
    with pytest.warns(RuntimeWarning, match=r"'f'.*'x'.*uncached") as warned:
        runs = [EXECUTE[mode](dag, x=given) for given in (value, [value], {"a": value})]
    assert len(warned) == 1
    assert [run.value for run in runs] == [1, 1, 1]
    assert [run.metrics["cache_hits"] for run in runs] == [0, 0, 0]
    with pytest.raises(ValidationError, match="'x'"):
        dag.invalidate_cache("f", x=value)
    del value, runs


class EqualsItselfOnly:
    def __eq__(self, other):
        if self is other:
            return True
        raise ArithmeticError("not comparable")

    def __hash__(self):
        return 1


@pytest.mark.parametrize("mode", OWN)
def test_values_that_cannot_be_compared_are_two_inputs(mode):
    dag = DAG("d")
    dag.cached_node(name="f")(lambda x: object())
    one, other = EqualsItselfOnly(), EqualsItselfOnly()
    first = EXECUTE[mode](dag, x=one).value
    assert EXECUTE[mode](dag, x=other).value not in (None, first)
    assert EXECUTE[mode](dag, x=one).value is first
    dag.invalidate_cache("f", x=one)
    assert EXECUTE[mode](dag, x=one).value is not first


# Who makes keys.


class Watched:
    """Tells which threads look at it."""

    def __init__(self):
        self.threads = set()

    def __reduce__(self):
        self.threads.add(threading.get_ident())
        return Watched, ()

    def __eq__(self, other):
        self.threads.add(threading.get_ident())
        return isinstance(other, Watched)

    def __hash__(self):
        self.threads.add(threading.get_ident())
        return 1


@pytest.mark.parametrize("where", ["memory", "shared", "function"])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_loop_goes_on_while_the_key_of_an_unknown_value_is_made(is_async, where):
    def sync_node(x):
        return 1

    async def async_node(x):
        return 1

    options = {
        "memory": {},
        "shared": {"backend": Kept(), "version": 1},
        "function": {"cache_key": lambda x: x},
    }
    dag = DAG("d")
    dag.cached_node(name="f", **options[where])(async_node if is_async else sync_node)
    values = [Watched(), [Watched()], {"a": Watched()}, Watched()]

    async def main():
        hits = [(await dag.execute_async(x=value)).metrics["cache_hits"] for value in values]
        return threading.get_ident(), hits

    loop, hits = asyncio.run(main())
    assert hits == [0, 0, 0, 1]
    for value in (values[0], values[3]):
        assert value.threads
        assert loop not in value.threads


def test_invalidation_outdates_what_is_being_computed():
    dag = DAG("d")
    calls: list[int] = []
    started, go_on = threading.Event(), threading.Event()

    @dag.cached_node
    def slow(x):
        calls.append(x)
        started.set()
        assert go_on.wait(LONG)
        return len(calls)

    first = threading.Thread(target=dag.run, kwargs={"x": 1})
    first.start()
    assert started.wait(LONG)
    dag.invalidate_cache("slow")
    go_on.set()
    first.join()
    assert dag.run(x=1) == 2
    assert calls == [1, 1]


def test_invalidation_refuses_a_name_that_is_no_part_of_the_key():
    dag = DAG("d")

    @dag.cached_node(cache_key=["user"])
    def profile(user, verbose=False):
        return user

    with pytest.raises(ValidationError, match="did you mean 'user'"):
        dag.invalidate_cache("profile", usr="ada")
    with pytest.raises(ValidationError, match="part of the cache key of 'profile'"):
        dag.invalidate_cache("profile", verbose=True)


def test_cache_key_is_a_list_of_names():
    with pytest.raises(InvalidNodeError, match=r"cache_key is a list of names, or .*, not 'user'"):
        DAG("d").cached_node(name="n", cache_key="user")(lambda user: user)


PROGRAM = """
from fast_dag import DAG
class Kept(dict):
    set, delete = dict.__setitem__, dict.pop
kept, dag = Kept(), DAG("d")
@dag.cached_node(backend=kept)
def known(x):
    return x in {"a", "b", "c", "d"}
dag.run(x="a")
print(*kept)
"""


def test_keys_in_a_backend_are_the_same_in_every_process():
    keys = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=LONG,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(keys) == 1
    assert keys != {"\n"}


class Times:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return self.factor * x

    def method(self, x):
        return self.factor * x


def times(factor, x):
    return factor * x


def closure(func):
    return lambda x: func(x)


def wrapped(func):
    @functools.wraps(func)
    def wrapper(*args):
        return func(*args)

    return wrapper


MADE_OF_MORE_THAN_CODE = {
    "closure": closure(lambda x: 3 * x),
    "object": Times(3),
    "method": Times(3).method,
    "partial": functools.partial(times, 3),
    "wrapped": wrapped(lambda x: 3 * x),
}


@pytest.mark.parametrize("func", MADE_OF_MORE_THAN_CODE.values(), ids=MADE_OF_MORE_THAN_CODE)
def test_what_code_does_not_tell_needs_a_version_in_a_shared_backend(func):
    class Kept(dict):
        set, delete = dict.__setitem__, dict.pop

    dag, kept = DAG("d"), Kept()
    with pytest.raises(InvalidNodeError, match=r"'f'.*needs version="):
        dag.cached_node(name="f", backend=kept)(func)
    dag.cached_node(name="f", backend=kept, version=3)(func)
    assert [dag.run(x=2), dag.run(x=2)] == [6, 6]
    assert dag.context.metrics["cache_hits"] == 1


# Keys that a function makes.


@pytest.fixture(params=OWN)
def execute(request):
    return EXECUTE[request.param]


def test_a_function_makes_the_key_of_what_it_returns(execute):
    dag, calls = DAG("d"), []

    @dag.cached_node(cache_key=lambda user: {"id": user["id"]})
    def profile(user, verbose=False):
        calls.append(user)
        return len(calls)

    for user in ({"id": 1, "seen": 1}, {"id": 1, "seen": 2}, {"id": 2}, {"id": 1.0}):
        execute(dag, user=user)
    assert [each["id"] for each in calls] == [1, 2, 1.0]
    assert execute(dag, user={"id": 1}, verbose=True).value == 1
    dag.invalidate_cache("profile", user={"id": 1})
    assert execute(dag, user={"id": 1}).value == 4
    assert execute(dag, user={"id": 2}).value == 2
    dag.invalidate_cache("profile")
    assert execute(dag, user={"id": 2}).value == 5


def test_a_function_is_given_the_inputs_that_it_takes_and_their_defaults(execute):
    given = []
    functions = [
        lambda x: given.append({"x": x}),
        lambda y: given.append({"y": y}),
        lambda y, z=3: given.append({"y": y, "z": z}),
        lambda **all_of_them: given.append(all_of_them),
        functools.partial(lambda x, y: given.append({"x": x, "y": y})),
    ]
    for function in functions:
        dag = DAG("d")
        dag.cached_node(name="f", cache_key=function)(lambda x, context, y=2: x)
        execute(dag, x=1)
    assert given == [{"x": 1}, {"y": 2}, {"y": 2, "z": 3}, {"x": 1, "y": 2}, {"x": 1, "y": 2}]


def test_a_function_makes_keys_for_a_shared_backend():
    dag, kept = DAG("d"), Kept()
    dag.cached_node(name="f", backend=kept, cache_key=lambda x: x % 2)(constant)
    dag.run(x=1)
    assert dag.execute(x=3).metrics["cache_hits"] == 1
    assert dag.execute(x=2).metrics["cache_hits"] == 0


@pytest.mark.parametrize(
    "make",
    [lambda x: 1 / 0, lambda x: RaisesInEq(), lambda x, **rest: rest[1]],
    ids=["raises", "returns what has no key", "lacks a key"],
)
def test_a_function_that_makes_no_key_is_told_once_and_fails_no_node(execute, make):
    dag = DAG("d")
    dag.cached_node(name="f", cache_key=make)(constant)
    with pytest.warns(RuntimeWarning, match=r"'f'.*cache_key.*uncached") as warned:
        assert [execute(dag, x=1).value for _ in range(2)] == [1, 1]
    assert len(warned) == 1
    with pytest.raises(ValidationError, match="cache_key"):
        dag.invalidate_cache("f", x=1)


async def later(x):
    return x


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda usr: usr, r"cache_key takes 'usr'.*did you mean 'user'"),
        (later, "sync function or a list of names"),
    ],
)
def test_a_function_that_can_make_no_key_is_refused_at_definition(function, told):
    with pytest.raises(InvalidNodeError, match=told):
        DAG("d").cached_node(name="n", cache_key=function)(lambda user: user)


@pytest.mark.parametrize("ttl", [10**400, 1e300, float("inf")], ids=["int", "float", "inf"])
@pytest.mark.parametrize("where", ["memory", "shared"])
def test_a_ttl_of_any_length_keeps_results(where, ttl):
    dag = DAG("d")
    dag.cached_node(name="f", ttl=ttl, backend=None if where == "memory" else Kept())(constant)
    dag.run(x=1)
    assert dag.execute(x=1).metrics["cache_hits"] == 1


@pytest.mark.parametrize("ttl", [float("nan"), "1"])
def test_a_ttl_is_a_number(ttl):
    with pytest.raises(InvalidNodeError, match="ttl is a number of seconds above 0"):
        DAG("d").cached_node(name="f", ttl=ttl)(constant)
