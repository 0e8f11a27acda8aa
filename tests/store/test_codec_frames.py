"""Arrays, frames and models of other packages, without a pickle; each where it is installed."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest

from fast_dag.store.codec import Plain
from fast_dag.store.errors import DecodeError, EncodeError
from fast_dag.store.frames import _polars_parts
from tests.patience import LONG
from tests.properties import TIMES
from tests.store.support import BERLIN, again, sealed
from tests.store.test_codec_damage import mutated

numpy = pytest.importorskip("numpy")


@pytest.fixture(autouse=True)
def no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is pickled."""

    def pickled(*args: object) -> None:
        raise AssertionError("a pickle")

    for name in ("dumps", "loads", "dump", "load"):
        monkeypatch.setattr(pickle, name, pickled)


ARRAYS = {
    "floats": lambda: numpy.array([1.5, -0.0, numpy.nan, numpy.inf]),
    "big-endian": lambda: numpy.arange(3, dtype=">i4"),
    "two dimensions": lambda: numpy.arange(6).reshape(2, 3),
    "Fortran": lambda: numpy.asfortranarray(numpy.arange(6).reshape(2, 3)),
    "strided": lambda: numpy.arange(10)[::3],
    "backwards": lambda: numpy.arange(5)[::-1],
    "transposed": lambda: numpy.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    "no dimension": lambda: numpy.array(5, "u2"),
    "empty": lambda: numpy.zeros((0, 3), "f4"),
    "bool": lambda: numpy.array([True, False]),
    "complex": lambda: numpy.array([1 + 2j]),
    "half": lambda: numpy.array([1.5], "f2"),
    "long": lambda: numpy.array([1, 2], numpy.longlong),
    "long double": lambda: numpy.array([1.5], numpy.longdouble),
    "text": lambda: numpy.array(["a", "\u00fc\U0001f600"]),
    "bytes": lambda: numpy.array([b"a", b"bc"]),
    "dates": lambda: numpy.array(["2026-11-27", "NaT"], "M8[D]"),
    "spans": lambda: numpy.array([1, 2], "m8[25s]"),
    "fields": lambda: numpy.array([("a", 1, [1, 2])], [("n", "U3"), ("k", "i4"), ("v", "f4", 2)]),
    "aligned": lambda: numpy.zeros(2, numpy.dtype([("a", "i1"), ("b", "f8")], align=True)),
    "titles": lambda: numpy.zeros(1, numpy.dtype([(("A long title", "a"), "i1")])),
    "nested fields": lambda: numpy.zeros(2, [("a", [("b", "i4"), ("c", "f8")])]),
    "opaque": lambda: numpy.zeros(2, "V5"),
    "objects": lambda: numpy.array([[1, "a"], [None, datetime(2026, 1, 1)]], object),
    "lists": lambda: _of_objects([[1, 2], [3, 4]]),
    "arrays": lambda: _of_objects([numpy.arange(2), numpy.arange(2)]),
    "texts of any length": lambda: numpy.array(["a", "bc" * 50], numpy.dtypes.StringDType()),
}


def _of_objects(items: list[Any]) -> Any:
    made = numpy.empty(len(items), object)
    for place, each in enumerate(items):
        made[place] = each
    return made


@pytest.mark.parametrize("name", ARRAYS)
def test_array_is_the_same_when_it_is_read_again(name: str) -> None:
    array = ARRAYS[name]()
    copy = again({"x": [array]})["x"][0]
    assert type(copy) is numpy.ndarray
    assert copy.dtype == array.dtype
    assert (copy.dtype.char, copy.dtype.isalignedstruct) == (
        array.dtype.char,
        array.dtype.isalignedstruct,
    )
    assert copy.shape == array.shape
    assert copy.flags.writeable
    assert copy.flags.owndata or copy.base.flags.owndata
    if array.dtype.hasobject or array.dtype.char == "T":
        assert repr(copy.tolist()) == repr(array.tolist())
    else:
        assert copy.tobytes() == array.tobytes()
    if array.flags.forc:
        assert copy.flags.f_contiguous == array.flags.f_contiguous


def scalars() -> list[Any]:
    return [
        numpy.float64(-0.0),
        numpy.float32("nan"),
        numpy.int8(-1),
        numpy.uint64(2**64 - 1),
        numpy.longlong(1),
        numpy.bool_(True),
        numpy.complex64(1j),
        numpy.str_("a"),
        numpy.bytes_(b"a"),
        numpy.datetime64("2026-11-27T20:00", "ms"),
        numpy.timedelta64(5, "D"),
        numpy.array([("a", 1)], [("n", "U3"), ("k", "i4")])[0],
    ]


@pytest.mark.parametrize("place", range(12))
def test_scalar_is_the_same_when_it_is_read_again(place: int) -> None:
    scalar = scalars()[place]
    copy = again((scalar,))[0]
    assert type(copy) is type(scalar)
    assert (copy.dtype, copy.tobytes()) == (scalar.dtype, scalar.tobytes())


def test_scalar_that_would_lose_a_zero_is_refused() -> None:
    with pytest.raises(EncodeError, match="another when it is read again"):
        Plain().encode(numpy.bytes_(b"a\0"))


def test_masked_array_is_the_same_when_it_is_read_again() -> None:
    for array in (
        numpy.ma.array([1, 2, 3], mask=[0, 1, 0], fill_value=-9),
        numpy.ma.array([1.5]),
        numpy.ma.array([1, 2], mask=[1, 1], hard_mask=True),
    ):
        copy = again(array)
        assert type(copy) is numpy.ma.MaskedArray
        assert copy.data.tobytes() == array.data.tobytes()
        assert (copy.mask is numpy.ma.nomask) == (array.mask is numpy.ma.nomask)
        assert numpy.array_equal(copy.mask, array.mask)
        assert (copy.fill_value, copy.hardmask) == (array.fill_value, array.hardmask)


class Measured(numpy.ndarray):  # type: ignore[misc]
    pass


def refused() -> list[tuple[Any, str]]:
    return [
        (numpy.arange(3).view(Measured), "none of the data"),
        (numpy.matrix([1]), "none of the data"),
        (numpy.rec.array([(1,)], dtype=[("a", "i4")]), "none of the data"),
        (numpy.array([(1, None)], [("a", "i4"), ("b", "O")]), "objects inside"),
        (numpy.zeros(1, numpy.dtype("i4", metadata={"a": 1})), "metadata"),
        (numpy.empty(2, "V0"), "no bytes"),
        (numpy.ma.masked, "none of the data"),
        (numpy.array([1, object()], object), "none of the data"),
        (numpy.dtype("i4"), "none of the data"),
        (numpy.random.default_rng(1), "none of the data"),
    ]


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_what_is_more_than_an_array_is_refused() -> None:
    for value, words in refused():
        with pytest.raises(EncodeError, match=words):
            Plain().encode({"x": value})


def test_place_goes_into_arrays_of_objects() -> None:
    with pytest.raises(EncodeError) as caught:
        Plain().encode({"x": numpy.array([1, object()], object)})
    assert (caught.value.place, caught.value.type) == ("['x'][1]", "object")


def mutations(value: Any) -> None:
    good, random = Plain().encode(value)[5:], Random(0)
    for _ in range(150 * TIMES):
        with suppress(DecodeError):
            Plain().decode(sealed(mutated(good, random)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["fields", "objects", "dates", "two dimensions"])
def test_mutated_arrays_are_read_or_refused(name: str) -> None:
    mutations(ARRAYS[name]())


@pytest.mark.parametrize(
    "shape", [(2**40,), (2**62, 4), (-1,), (-1, -8), (0, 2**70), "x", None, (1.5,)], ids=repr
)
def test_shape_that_the_bytes_do_not_fill_is_refused(shape: Any) -> None:
    body = Plain().encode(("<f8", shape, "C", b"12345678"))[5:]
    assert body[-1:] == b")"
    hostile = body[:-1].replace(b"b\x08", b"v\x08") + b"f\x40"
    with pytest.raises(DecodeError):
        Plain().decode(sealed(hostile))


def test_objects_are_not_made_of_bytes() -> None:
    for dtype in ("O", "|O", "O8", "i4,O"):
        text = dtype.encode()
        hostile = b"[s" + bytes([len(text)]) + text + b"[i\x01)s\x01Cv\x0812345678f\x40"
        with pytest.raises(DecodeError):
            Plain().decode(sealed(hostile))


# pandas


def frames() -> dict[str, Any]:
    import pandas as pd

    moments = pd.to_datetime(["2026-11-27 00:00", None, "2026-10-25 02:30"])
    frame = pd.DataFrame(
        {
            "ints": [1, 2, 3],
            "floats": [1.5, None, -0.0],
            "texts": ["a", None, "c"],
            "objects": pd.Series([1, "a", (2,)], dtype=object),
            "moments": moments,
            "zoned": moments.tz_localize("UTC").tz_convert("Europe/Berlin"),
            "spans": pd.to_timedelta([1, 2, None], unit="s"),
            "nullable": pd.array([1, None, 3], dtype="Int64"),
            "yes": pd.array([True, None, False], dtype="boolean"),
            "decimals": pd.array([1.5, None, 3], dtype="Float32"),
            "kinds": pd.Categorical(["b", None, "a"], ["b", "a"], ordered=True),
            "months": pd.period_range("2026-01", periods=3, freq="M"),
            "ranges": pd.interval_range(0, 3, closed="left"),
            "strings": pd.array(["a", None, "c"], dtype=pd.StringDtype("python")),
        }
    )
    frame.attrs["source"] = {"file": "a.csv"}
    two = pd.MultiIndex.from_product([["a", "b"], [1, 2]], names=["x", None])
    twice = pd.DataFrame([[1, 2.5], [3, 4.5]], columns=["a", "a"], index=["r", "r"])
    once = pd.Series([1, 2]).set_flags(allows_duplicate_labels=False)
    return {
        "frame": frame,
        "rows": frame.iloc[::2],
        "no columns": pd.DataFrame(index=[1, 2]),
        "nothing": pd.DataFrame(),
        "same names": twice,
        "two levels": pd.DataFrame({"v": range(4)}, index=two).T,
        "series": pd.Series(
            [1, 2], index=pd.date_range("2026", periods=2, freq="MS"), name=("a", 1)
        ),
        "flags": once,
        "names": pd.Series([1], index=pd.Index([1.5], name="i"), name=0),
        "categories": pd.Series(["x"], dtype="category"),
        "range": pd.RangeIndex(1, 10, 3, name="r"),
        "objects": pd.Index([1, "a", None], dtype=object),
        "levels": two,
        "moments": pd.DatetimeIndex(["2026-01-01", "NaT"], tz=BERLIN, name="m").as_unit("s"),
        "business days": pd.bdate_range("2026", periods=3),
        "spans": pd.timedelta_range("1h", periods=3),
        "months": pd.period_range("2026-01", periods=3, freq="Q-NOV"),
        "category index": pd.CategoricalIndex(["a", "b", None]),
        "interval index": pd.interval_range(pd.Timestamp("2026"), periods=2, freq="D"),
        "categorical": pd.Categorical(["a", None]),
        "array": pd.array([1, None], dtype="UInt8"),
    }


FRAMES = [
    "frame", "rows", "no columns", "nothing", "same names", "two levels", "series", "flags",
    "names", "categories", "range", "objects", "levels", "moments", "business days", "spans",
    "months", "category index", "interval index", "categorical", "array",
]  # fmt: skip


@pytest.mark.parametrize("name", FRAMES)
def test_frame_is_the_same_when_it_is_read_again(name: str) -> None:
    pytest.importorskip("pandas")
    from pandas import testing

    all_frames = frames()
    assert list(all_frames) == FRAMES
    value = all_frames[name]
    copy = again([value])[0]
    assert type(copy) is type(value)
    kind = type(value).__name__
    if kind == "DataFrame":
        testing.assert_frame_equal(copy, value, check_exact=True, check_freq=True)
    elif kind == "Series":
        testing.assert_series_equal(copy, value, check_exact=True, check_freq=True)
    elif "Index" in kind:
        testing.assert_index_equal(copy, value, exact=True)
        assert getattr(copy, "freq", None) == getattr(value, "freq", None)
    else:
        testing.assert_extension_array_equal(copy, value)
    if kind in ("DataFrame", "Series"):
        assert copy.attrs == value.attrs
        assert copy.flags.allows_duplicate_labels == value.flags.allows_duplicate_labels


def test_scalars_of_pandas_are_the_same_when_they_are_read_again() -> None:
    pd = pytest.importorskip("pandas")
    for value in (
        pd.Timestamp("2026-11-27 20:00:00.123456789"),
        pd.Timestamp(0, tz=BERLIN),
        pd.Timestamp("2026-10-25 00:30", tz="UTC").tz_convert(BERLIN),
        pd.Timestamp("2026-10-25 01:30", tz="UTC").tz_convert(BERLIN),
        pd.Timestamp("1600-01-01").as_unit("s"),
        pd.Timedelta("1 day 1ns"),
        pd.Timedelta(5, "s"),
        pd.Period("2026-11", "M"),
        pd.Interval(1, 2.5, "both"),
    ):
        copy = again(value)
        assert type(copy) is type(value)
        assert copy == value
        assert getattr(copy, "unit", None) == getattr(value, "unit", None)
        assert getattr(copy, "fold", None) == getattr(value, "fold", None)
        assert str(getattr(copy, "tz", None)) == str(getattr(value, "tz", None))
    nat, missing = again([pd.NaT, pd.NA])
    assert nat is pd.NaT
    assert missing is pd.NA


def test_what_pandas_has_beside_that_is_refused() -> None:
    pd = pytest.importorskip("pandas")
    for value in (
        pd.arrays.SparseArray([0, 0, 1]),
        pd.DataFrame({"a": [object()]}),
        type("Frame", (pd.DataFrame,), {})({"a": [1]}),
        pd.DatetimeIndex(
            ["2026-01-02"], freq=pd.offsets.CustomBusinessDay(holidays=["2026-01-01"])
        ),
        pd.Series([1]).groupby([1]),
    ):
        with pytest.raises(EncodeError):
            Plain().encode([value])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["frame", "levels", "moments"])
def test_mutated_frames_are_read_or_refused(name: str) -> None:
    pytest.importorskip("pandas")
    mutations(frames()[name])


# polars and Arrow


def test_frame_of_polars_is_the_same_when_it_is_read_again() -> None:
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame(
        {
            "a": [1, None],
            "b": ["x", None],
            "c": [[1.5], []],
            "d": [{"k": 1}, {"k": 2}],
            "e": [datetime(2026, 1, 1, tzinfo=UTC), None],
            "f": pl.Series(["x", "y"], dtype=pl.Categorical),
            "g": pl.Series(["x", "y"], dtype=pl.Enum(["x", "y"])),
        }
    )
    copy = again({"f": frame})["f"]
    assert type(copy) is pl.DataFrame
    assert copy.schema == frame.schema
    assert copy.equals(frame)
    series = again(frame["c"])
    assert type(series) is pl.Series
    assert (series.name, series.dtype, series.to_list()) == ("c", frame["c"].dtype, [[1.5], []])
    assert again(pl.DataFrame()).shape == (0, 0)
    for value in (pl.DataFrame({"a": [object()]}), frame.lazy(), pl.col("a")):
        with pytest.raises(EncodeError):
            Plain().encode(value)


def tables() -> list[Any]:
    import pyarrow as pa

    table = pa.table(
        {
            "a": pa.chunked_array([[1], [None, 3]]),
            "b": pa.array(["x", "y", "x"]).dictionary_encode(),
        },
        metadata={"k": "v"},
    )
    return [
        table,
        table.slice(1, 1),
        table.slice(0, 0),
        pa.table({}),
        pa.RecordBatch.from_pydict({"a": [1.5, None]}),
        pa.RecordBatch.from_pydict({"a": pa.array([], pa.list_(pa.int8()))}),
        pa.array([{"k": [1]}, None]),
        pa.array([], pa.string()),
        pa.array(["a", "b"])[1:],
        pa.chunked_array([["a"], ["b"]]),
        pa.chunked_array([], pa.int8()),
    ]


@pytest.mark.parametrize("place", range(11))
def test_table_of_arrow_is_the_same_when_it_is_read_again(place: int) -> None:
    pytest.importorskip("pyarrow")
    table = tables()[place]
    copy = again((table,))[0]
    assert type(copy) is type(table)
    assert copy.equals(table)
    assert getattr(copy, "schema", None) == getattr(table, "schema", None)
    if hasattr(table, "schema"):
        assert copy.schema.metadata == table.schema.metadata
    copy.validate(full=True)


def test_parts_of_a_frame_are_freed_in_any_order() -> None:
    pl = pytest.importorskip("polars")
    parts: list[Any] = [_polars_parts(pl.DataFrame({"a": [1, 2]}))]
    parts.append(parts)
    del parts
    gc.collect()  # Python 3.13 tells of a view that is freed after what it is of


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("package", ["polars", "pyarrow"])
def test_mutated_tables_are_read_or_refused(package: str) -> None:
    pytest.importorskip(package)
    if package == "pyarrow":
        mutations(tables()[0])
    else:
        import polars as pl

        mutations(pl.DataFrame({"a": [1, None], "b": ["x", "y"]}))


def test_columns_of_arrow_in_pandas_are_the_same() -> None:
    pytest.importorskip("pyarrow")
    pd = pytest.importorskip("pandas")
    for dtype in ("int64[pyarrow]", "string[pyarrow]", "bool[pyarrow]"):
        series = pd.Series([1, None], dtype="Int64").astype(dtype)
        pd.testing.assert_series_equal(again(series), series)
    series = pd.Series(["a", None], dtype=pd.StringDtype("pyarrow"))
    pd.testing.assert_series_equal(again(series), series)


def test_zones_of_pytz_are_the_same_when_they_are_read_again() -> None:
    pytz = pytest.importorskip("pytz")
    berlin = pytz.timezone("Europe/Berlin")
    for zone in (berlin, pytz.utc, pytz.timezone("Etc/GMT+5")):
        assert again(zone) is zone
    for moment in (datetime(2026, 7, 1), datetime(2026, 12, 1)):
        local = berlin.localize(moment)
        assert again(local).tzinfo is local.tzinfo


# pydantic


def test_models_of_pydantic_are_the_same_when_they_are_read_again() -> None:
    pytest.importorskip("pydantic")
    from tests.store.models import Account, Page, Tags, validated

    plain = Plain([Account, Page[Account], Tags])
    account = Account(name="ada", born="1815-12-10T00:00:00Z", extra=1)  # type: ignore[call-arg, arg-type]
    account.note("secret")
    validated.clear()
    page = Page[Account](items=[account])
    copy = plain.decode(plain.encode([page, Tags(["a"])]))
    assert copy == [page, Tags(["a"])]
    read = copy[0].items[0]
    assert type(read) is Account
    assert type(copy[0]) is Page[Account]
    assert read.model_fields_set == {"name", "born", "extra"}
    assert read.model_extra == {"extra": 1}
    assert read.noted() == "secret"
    assert validated == []


def test_package_that_is_missing_is_told() -> None:
    data = Plain().encode({"x": [numpy.arange(3)]})
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        "from fast_dag.store.codec import Plain\n"
        "from fast_dag.store.errors import DecodeError\n"
        "try:\n"
        f"    Plain().decode(bytes.fromhex('{data.hex()}'))\n"
        "except DecodeError as error:\n"
        "    print(error.name, error)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=LONG
    )
    assert told.stdout.startswith("numpy the value needs numpy, which is not installed here")
