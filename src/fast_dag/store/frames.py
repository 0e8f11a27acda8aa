"""Arrays and frames as parts, and back: numpy, pandas, polars, Arrow, without any pickle.

No package is imported before there is a value of it: classes are known by their names.
"""

from __future__ import annotations

from io import BytesIO
from math import prod
from sys import modules
from typing import Any, Final

from fast_dag.store.forms import OFFSET, PYTZ, Form, Raw, Refused, package

# numpy.


def _dtype_parts(value: Any, dtype: Any) -> object:
    """A dtype as text, or as a tuple if it has fields or a shape."""
    if dtype.metadata:
        raise Refused(value, "with a dtype with metadata")
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return ("of", _dtype_parts(value, base), shape)
    if dtype.names is not None:
        fields = [dtype.fields[name] for name in dtype.names]
        formats = [_dtype_parts(value, each[0]) for each in fields]
        offsets = [each[1] for each in fields]
        titles = [each[2] if len(each) > 2 else None for each in fields]
        is_aligned = bool(dtype.isalignedstruct)
        return ("with", list(dtype.names), formats, offsets, titles, dtype.itemsize, is_aligned)
    if dtype.hasobject:
        raise Refused(value, f"with objects inside of its dtype {dtype}")
    numpy = modules["numpy"]
    for text in (dtype.str, f"{dtype.byteorder}{dtype.char}"):
        try:
            again = numpy.dtype(text)
        except TypeError:
            continue
        if again == dtype and again.char == dtype.char:
            return text
    raise Refused(value, f"with the dtype {dtype}, which numpy does not know by its text")


def _dtype(parts: Any) -> Any:
    numpy = package("numpy")
    if type(parts) is str:
        return numpy.dtype(parts)
    if parts[0] == "of":
        return numpy.dtype((_dtype(parts[1]), parts[2]))
    _, names, formats, offsets, titles, itemsize, is_aligned = parts
    told = {"names": names, "formats": [*map(_dtype, formats)], "offsets": offsets}
    if any(each is not None for each in titles):
        told["titles"] = titles
    return numpy.dtype({**told, "itemsize": itemsize}, align=is_aligned)


def _array_parts(value: Any) -> tuple[object, ...]:
    is_fortran = value.flags.f_contiguous and not value.flags.c_contiguous
    order = "F" if is_fortran else "C"
    shape, dtype = value.shape, value.dtype
    flat = value.ravel(order)
    if dtype.char == "O":
        return "O", shape, order, flat.tolist()
    if dtype.char == "T":
        if hasattr(dtype, "na_object") or not dtype.coerce:
            raise Refused(value, f"with the dtype {dtype}, whose options are not stored")
        return "T", shape, order, flat.tolist()
    if not dtype.itemsize:
        raise Refused(value, f"with the dtype {dtype}, whose elements have no bytes")
    told = _dtype_parts(value, dtype)
    return told, shape, order, Raw(flat.view("u1") if flat.size else b"")


def _array(dtype: Any, shape: tuple[int, ...], order: Any, data: Any) -> Any:
    numpy = package("numpy")
    if dtype in ("O", "T"):
        flat = numpy.empty(len(data), object)
        for place, each in enumerate(data):  # a list of lists would become another shape
            flat[place] = each
        if dtype == "T":
            flat = flat.astype(numpy.dtypes.StringDType())
        return flat.reshape(shape, order=order)
    kind = _dtype(dtype)
    if kind.hasobject or not kind.itemsize or prod(shape) * kind.itemsize != len(data):
        raise ValueError("the array is damaged")
    if not len(data):
        return numpy.empty(shape, kind, order)
    flat = numpy.empty(len(data) // kind.itemsize, kind)
    flat.view("u1")[:] = numpy.frombuffer(data, "u1")
    return flat.reshape(shape, order=order)


def _scalar_parts(value: Any) -> tuple[object, ...]:
    array = modules["numpy"].asarray(value)
    return (array,)


def _scalar(array: Any) -> Any:
    return array[()]


def _masked_parts(value: Any) -> tuple[object, ...]:
    numpy = modules["numpy"]
    mask = None if value.mask is numpy.ma.nomask else value.mask
    return value.data, mask, numpy.asarray(value.fill_value), value.hardmask


def _masked(data: Any, mask: Any, fill: Any, is_hard: bool) -> Any:
    numpy = package("numpy")
    mask = numpy.ma.nomask if mask is None else mask
    return numpy.ma.MaskedArray(data, mask=mask, fill_value=fill[()], hard_mask=is_hard)


# pandas. A column is an array of numpy, or one of the arrays of pandas, each with its own parts.


def _column(value: Any) -> Any:
    """The values of a series or an index."""
    return value.array if hasattr(value.dtype, "na_value") else value.to_numpy()


def _frequency(value: Any, frequency: Any) -> str | None:
    if frequency is None:
        return None
    text = str(frequency.freqstr)
    try:
        again = modules["pandas"].tseries.frequencies.to_offset(text)
    except ValueError:
        again = None
    if again != frequency:
        raise Refused(value, f"with the frequency {frequency!r}, which has no text")
    return text


def _span(value: Any) -> str:
    """The frequency of periods, which has texts of its own."""
    text = str(value.freqstr)
    if modules["pandas"].PeriodDtype(text).freq != value.freq:
        raise Refused(value, f"with the frequency {value.freq!r}, which has no text")
    return text


def _extension_parts(value: Any) -> tuple[object, ...]:
    """An array of pandas."""
    dtype = value.dtype
    name = type(dtype).__name__
    if name == "CategoricalDtype":
        return name, value.categories, value.codes, value.ordered
    if name == "DatetimeTZDtype":
        return name, dtype.tz, value.asi8, dtype.unit
    if name == "PeriodDtype":
        return name, _span(value), value.asi8
    if name == "IntervalDtype":
        return name, value.left, value.right, value.closed
    if name == "StringDtype":
        texts = value.to_numpy(dtype=object, na_value=None).tolist()
        return name, dtype.storage, dtype.na_value, texts
    if name == "ArrowDtype":
        arrow = package("pyarrow")
        array = arrow.array(value)
        return name, array if hasattr(array, "chunks") else arrow.chunked_array([array])
    if hasattr(dtype, "numpy_dtype") and dtype.kind in "iufb":
        data = value.to_numpy(dtype.numpy_dtype, na_value=0)
        return "masked", type(value).__name__, data, value.isna()
    raise Refused(value, f"with the dtype {dtype}, which is not stored")


_MASKED: Final = frozenset({"BooleanArray", "FloatingArray", "IntegerArray"})


def _extension(name: str, *parts: Any) -> Any:
    pandas = package("pandas")
    if name == "CategoricalDtype":
        categories, codes, is_ordered = parts
        return pandas.Categorical.from_codes(codes, categories=categories, ordered=is_ordered)
    if name == "DatetimeTZDtype":
        zone, ticks, unit = parts
        return pandas.DatetimeIndex(ticks.view(f"M8[{unit}]"), tz="UTC").tz_convert(zone).array
    if name == "PeriodDtype":
        frequency, ticks = parts
        return pandas.arrays.PeriodArray(ticks, dtype=pandas.PeriodDtype(frequency))
    if name == "IntervalDtype":
        left, right, closed = parts
        return pandas.arrays.IntervalArray.from_arrays(left, right, closed)
    if name == "StringDtype":
        storage, missing, texts = parts
        options = {} if missing is pandas.NA else {"na_value": missing}
        return pandas.array(texts, dtype=pandas.StringDtype(storage, **options))
    if name == "ArrowDtype":
        return pandas.arrays.ArrowExtensionArray(parts[0])
    masked, data, missing = parts
    if name != "masked" or masked not in _MASKED:
        raise ValueError("the array is damaged")
    return getattr(pandas.arrays, masked)(data, missing)


def _index_parts(value: Any) -> tuple[object, ...]:
    kind = type(value).__name__
    if kind == "RangeIndex":
        return kind, value.start, value.stop, value.step, value.name
    if kind == "MultiIndex":
        codes = [modules["numpy"].asarray(each) for each in value.codes]
        return kind, list(value.levels), codes, list(value.names)
    frequency = None if kind == "PeriodIndex" else getattr(value, "freq", None)
    return kind, _column(value), value.name, _frequency(value, frequency)


_INDEXES: Final = frozenset(
    {
        "CategoricalIndex",
        "DatetimeIndex",
        "Index",
        "IntervalIndex",
        "PeriodIndex",
        "TimedeltaIndex",
    }
)


def _index(kind: str, *parts: Any) -> Any:
    pandas = package("pandas")
    if kind == "RangeIndex":
        return pandas.RangeIndex(*parts[:3], name=parts[3])
    if kind == "MultiIndex":
        levels, codes, names = parts
        return pandas.MultiIndex(levels, codes, names=names)
    column, name, frequency = parts
    if kind not in _INDEXES:
        raise ValueError("the index is damaged")
    if kind == "Index":
        return pandas.Index(column, dtype=column.dtype, name=name)
    index = getattr(pandas, kind)(column, name=name)
    if frequency is not None:
        index.freq = frequency
    return index


def _flags(value: Any) -> tuple[object, ...]:
    return dict(value.attrs), value.flags.allows_duplicate_labels


def _flagged(value: Any, attributes: dict[Any, Any], allows_duplicates: bool) -> Any:
    value.attrs = attributes
    if not allows_duplicates:
        value.flags.allows_duplicate_labels = False
    return value


def _series_parts(value: Any) -> tuple[object, ...]:
    return value.name, value.index, _column(value), *_flags(value)


def _series(name: Any, index: Any, column: Any, *flags: Any) -> Any:
    made = package("pandas").Series(column, index=index, dtype=column.dtype, copy=False)
    made.name = name
    return _flagged(made, *flags)


def _frame_parts(value: Any) -> tuple[object, ...]:
    columns = [_column(value.iloc[:, place]) for place in range(value.shape[1])]
    return value.columns, value.index, columns, *_flags(value)


def _frame(names: Any, index: Any, columns: Any, *flags: Any) -> Any:
    pandas = package("pandas")
    series = {
        place: pandas.Series(each, index=index, dtype=each.dtype, copy=False)
        for place, each in enumerate(columns)
    }
    made = pandas.DataFrame(series, index=index)
    made.columns = names
    return _flagged(made, *flags)


def _timestamp_parts(value: Any) -> tuple[object, ...]:
    return value.asm8, value.tzinfo


def _timestamp(moment: Any, zone: Any) -> Any:
    pandas = package("pandas")
    if zone is None:
        return pandas.Timestamp(moment)
    return pandas.Timestamp(moment, tz="UTC").tz_convert(zone)


def _timedelta(span: Any) -> Any:
    return package("pandas").Timedelta(span)


def _period(ordinal: int, frequency: str) -> Any:
    return package("pandas").Period(ordinal=ordinal, freq=frequency)


def _interval(*parts: Any) -> Any:
    return package("pandas").Interval(*parts)


# Arrow and polars: their own format for streams.


def _stream(table: Any) -> Raw:
    arrow = modules["pyarrow"]
    file = arrow.BufferOutputStream()
    with arrow.ipc.new_stream(file, table.schema) as stream:
        stream.write(table)
    return Raw(memoryview(file.getvalue()))


def _table(data: Any) -> Any:
    arrow = package("pyarrow")
    stream = bytes(data)
    if b"arrow.py_extension_type" in stream:
        raise ValueError("a type of Arrow that is a pickle")  # old versions would load it
    table = arrow.ipc.open_stream(stream).read_all()
    table.validate(full=True)
    return table


def _batch(data: Any) -> Any:
    table = _table(data)
    batches = table.to_batches() or [package("pyarrow").RecordBatch.from_pylist([], table.schema)]
    (batch,) = batches
    return batch


def _arrow_parts(value: Any) -> tuple[object, ...]:
    batch = modules["pyarrow"].RecordBatch.from_arrays([value], [""])
    return (_stream(batch),)


def _chunked_parts(value: Any) -> tuple[object, ...]:
    return (_stream(modules["pyarrow"].table({"": value})),)


def _polars_parts(value: Any) -> tuple[object, ...]:
    if any("Object" in str(each) for each in value.dtypes):
        raise Refused(value, "with a column of Python objects")
    file = BytesIO()
    value.write_ipc_stream(file)
    return (Raw(file.getvalue()),)  # no copy is made; a view could not be freed in any order


def _polars(data: Any) -> Any:
    try:
        return package("polars").read_ipc_stream(BytesIO(data))
    except BaseException as error:  # a panic of Rust is no Exception
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError("polars cannot read it") from None


_ARRAY: Final = Form(64, _array_parts, _array)
_SCALAR: Final = Form(65, _scalar_parts, _scalar)
_SPECIAL: Final = Form(65, _scalar_parts, _scalar, True)
_INDEX: Final = Form(71, _index_parts, _index, True)
_EXTENSION: Final = Form(72, _extension_parts, _extension, True)

BY_NAME: Final[dict[tuple[str, str], Form]] = {
    ("numpy", "ndarray"): _ARRAY,
    ("numpy", "MaskedArray"): Form(66, _masked_parts, _masked, True),
    ("pandas", "DataFrame"): Form(69, _frame_parts, _frame, True),
    ("pandas", "Series"): Form(70, _series_parts, _series, True),
    **{("pandas", each): _INDEX for each in (*_INDEXES, "RangeIndex", "MultiIndex")},
    ("pandas", "Timestamp"): Form(73, _timestamp_parts, _timestamp, True),
    ("pandas", "Timedelta"): Form(74, lambda value: (value.asm8,), _timedelta, True),
    ("pandas", "NaTType"): Form(75, lambda value: (), lambda: package("pandas").NaT),
    ("pandas", "NAType"): Form(76, lambda value: (), lambda: package("pandas").NA),
    ("pandas", "Period"): Form(77, lambda value: (value.ordinal, _span(value)), _period, True),
    ("pandas", "Interval"): Form(
        78, lambda value: (value.left, value.right, value.closed), _interval, True
    ),
    ("polars", "DataFrame"): Form(80, _polars_parts, _polars, True),
    ("polars", "Series"): Form(
        81,
        lambda value: _polars_parts(value.to_frame()),
        lambda data: _polars(data).to_series(),
        True,
    ),
    ("pyarrow", "Table"): Form(84, lambda value: (_stream(value),), _table, True),
    ("pyarrow", "RecordBatch"): Form(85, lambda value: (_stream(value),), _batch, True),
    ("pyarrow", "ChunkedArray"): Form(
        86, _chunked_parts, lambda data: _table(data).column(0), True
    ),
    ("pydantic_core", "TzInfo"): OFFSET,
}
"""Forms by package and name of a class."""

_ARROW_ARRAY: Final = Form(87, _arrow_parts, lambda data: _batch(data).column(0), True)
_BASES: Final[dict[tuple[str, str], Form]] = {
    ("numpy", "generic"): _SCALAR,
    ("pandas", "ExtensionArray"): _EXTENSION,
    ("pyarrow", "Array"): _ARROW_ARRAY,
    ("pytz", "BaseTzInfo"): PYTZ,
}
"""Forms of all classes that a package itself derives from one."""

BY_CODE: Final[dict[int, Form]] = {
    form.code: form for form in (*BY_NAME.values(), *_BASES.values())
}


def form_of(kind: type) -> Form | None:
    """The form of a class of one of these packages; None for all other classes."""
    top = str(kind.__module__).partition(".")[0]
    home = modules.get(top)
    if home is None:
        return None
    found = BY_NAME.get((top, kind.__name__))
    if found is not None:
        return found if _is_there(home, kind) else None
    for base in kind.__mro__[1:]:
        module = str(base.__module__).partition(".")[0]
        found = _BASES.get((module, base.__name__))
        if module == top and found is not None:
            return _SPECIAL if found is _SCALAR and kind.__name__ in _STRIPPED else found
    return None


_STRIPPED: Final = frozenset({"str_", "bytes_", "void"})
"""Scalars of numpy that lose zeros at their end."""


def _is_there(home: Any, kind: type) -> bool:
    """Whether a package has this class under its name, so that it is no class of the same name."""
    places = (home, getattr(home, "ma", None), getattr(home, "arrays", None))
    found = [getattr(place, kind.__name__, None) for place in places if place is not None]
    return kind in found or kind.__name__ in ("NaTType", "NAType")
