"""Keys of values: two keys are equal if no function could tell the values apart.

Containers are taken apart. Arrays, data frames and long lists become digests. Other values that
compare by value stand for themselves. Types count: 1, 1.0 and True are different inputs. So do
signs of zero, exponents of decimals and time zones, though `==` does not see them. No package is
imported: classes of numpy, pandas, polars and Arrow are known by their names.

The methods of users' values are called here, and may raise anything. Whatever they raise becomes an
UnkeyableError.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from enum import Enum
from functools import cached_property
from marshal import dumps
from math import copysign
from operator import itemgetter
from sys import modules
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary, ref

from fast_dag.errors import brief_of, failures, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
    from typing import Protocol

    class Counts(Protocol):
        @property
        def uncached(self) -> int:
            """How many nodes have ended that are not cached."""
            ...

    class Host(Protocol):
        """What keys need of a run."""

        @property
        def home(self) -> Host:
            """The run itself."""
            ...

        @property
        def record(self) -> Counts: ...


_PLAIN: Final = frozenset({type(None), bool, int, str, bytes})


class UnkeyableError(TypeError):
    """Raised when a value has no key: it can change in a way that nothing is known about, or it
    raises when it is looked at."""


class Identity:
    """Stands in a key for a value that compares by identity, and keeps that value alive."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


class Key:
    """The key of one value. It is hashed once, in the thread that makes it.

    Two keys can always be compared. If a value's own `__eq__` raises, they differ."""

    __slots__ = ("hash", "parts")

    def __init__(self, parts: Hashable) -> None:
        self.parts = parts
        self.hash = hash(parts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Key) or self.hash != other.hash:
            return False
        try:
            return self.parts == other.parts
        except failures():
            return False

    def __hash__(self) -> int:
        return self.hash


def key_of(value: Any) -> Key:
    """The key of one value. Raises UnkeyableError, and nothing else, whatever the value does.

    >>> key_of({"a": [1], "b": {2, 3}}) == key_of({"b": {3, 2}, "a": [1]})
    True
    >>> key_of([1]) == key_of((1,)), key_of(1) == key_of(True)
    (False, False)
    """
    try:
        return Key(_key(value))
    except UnkeyableError:
        raise
    except RecursionError:
        raise UnkeyableError("it contains itself, or is nested too deeply") from None
    except failures() as error:
        raise UnkeyableError(f"looking at it raised {brief_of(error)}") from None


_FEW: Final = 1000
"""So many values, or thousands of characters, take less time than a worker thread does to begin."""


def is_quick(values: Iterable[Any]) -> bool:
    """Whether making the keys of these values takes no time: they are plain values, few and short,
    also in plain containers. For other values only making the key would tell.

    >>> is_quick([1, "a", {"b": [2.5, None]}]), is_quick([range(3)]), is_quick(["a" * 10**7])
    (True, False, False)
    """
    left = _FEW
    todo = [*values]
    while todo:
        value = todo.pop()
        kind = type(value)
        left -= 1
        if kind is str or kind is bytes:
            left -= len(value) // 1000
        elif kind in _CONTAINERS:
            if len(value) > left:
                return False
            todo.extend(value)
            if kind is dict:
                todo.extend(value.values())
        elif kind not in _SHORT:
            return False
        if left < 0:
            return False
    return True


_SHORT: Final = frozenset({type(None), bool, int, float, complex})
_CONTAINERS: Final = frozenset({list, tuple, dict, set, frozenset})


def _key(value: Any) -> Hashable:
    kind = type(value)
    if kind in _PLAIN:
        return (kind, value)
    if kind not in _BUILTIN and issubclass(kind, _EXTENDED):
        own = _attributes(kind, value)
        if own:
            return (_content_key(kind, value), _items_key(own))
    return _content_key(kind, value)


_BUILTIN: Final = frozenset({float, complex, list, tuple, dict, set, frozenset})
_EXTENDED: Final = (str, bytes, int, *_BUILTIN)
"""Subclasses of these compare by their content, although they may have attributes, too."""


def _attributes(kind: type, value: Any) -> dict[str, Any]:
    """What an instance of such a subclass has beside its content."""
    if issubclass(kind, Enum):
        return {}
    state: Any = object.__getstate__(value)  # its own would say what to pickle
    parts = state if type(state) is tuple else (state,)  # the second are those in slots
    return {
        name: each
        for part in parts
        if part is not None
        for name, each in part.items()
        if type(getattr(kind, name, None)) is not cached_property  # what it has found so far
    }


def _content_key(kind: type, value: Any) -> Hashable:
    if isinstance(value, float):
        return (kind, _float_key(value))
    if isinstance(value, complex):
        return (kind, _float_key(value.real), _float_key(value.imag))
    if isinstance(value, (list, tuple)):
        return (kind, _sequence_key(value))
    if isinstance(value, OrderedDict):  # its order is part of what it equals
        return (kind, tuple([(_key(key), _key(each)) for key, each in value.items()]))
    if isinstance(value, dict):
        items = _items_key(value)
        factory = getattr(value, "default_factory", None)  # what a lookup may find beside them
        if factory is None:
            return (kind, items)
        return (kind, items, factory if isinstance(factory, type) else Identity(factory))
    if isinstance(value, (set, frozenset)):
        return (kind, frozenset([_key(each) for each in value]))
    if isinstance(value, Enum):
        return _member_key(value)
    read = _reader_of(kind)
    if read is not None:
        return (kind, read(value))
    if hasattr(kind, "__next__") or hasattr(kind, "__anext__"):
        raise UnkeyableError(f"a {kind.__name__} changes when it is read")
    fields = _fields(value)
    if fields is not None:
        return (kind, _key(fields))
    compares: Any = kind.__eq__
    if compares is object.__eq__:
        return Identity(value)
    try:
        hash(value)
    except TypeError:
        raise UnkeyableError(f"a {kind.__name__} compares by value, but has no hash") from None
    if not value == value:  # noqa: PLR0124  its own answer is asked for
        raise UnkeyableError(f"this {kind.__name__} does not equal itself")
    return (kind, value)


def _float_key(value: float) -> Hashable:
    """A float as it is, but for zeros and nans: zeros differ by sign, nans are all equal."""
    if value:
        return value if value == value else "nan"  # noqa: PLR0124  nan does not
    return value if copysign(1.0, value) > 0 else "-0.0"


def _items_key(value: Any) -> Hashable:
    return frozenset([(_key(key), _key(each)) for key, each in value.items()])


def _member_key(value: Enum) -> Hashable:
    """A member of an enum: its value counts, too, because a later version may give it another."""
    kind, inner = type(value), value.value
    if value.name is None:  # flags without a name of their own
        return (kind, _key(inner))
    return (kind, value.name, (type(inner), inner) if type(inner) in _PLAIN else None)


_MANY: Final = 256
"""From so many elements on, a sequence of plain values is keyed by one digest."""
_PACKED: Final = _PLAIN | {float}


def _sequence_key(values: Sequence[Any]) -> Hashable:
    if len(values) >= _MANY:
        kinds = {*map(type, values)}
        if kinds <= _PACKED:
            return _packed(values, float in kinds)
    return tuple([_key(each) for each in values])


def _packed(values: Sequence[Any], has_floats: bool) -> bytes:
    """A digest of plain values, which takes a tenth of the time of a key for each."""
    if has_floats:  # there are many nans, and every nan is the same
        values = [each if each == each else _NAN for each in values]  # noqa: PLR0124
    # Format 2 is the last that depends on nothing but the values.
    return digest_of(dumps(list(values), 2))


_NAN: Final = float("nan")


# Classes that hold more than their `==` tells, or hold it in another way, or are too large to be
# taken apart. None of them is imported: they are known by the package and name of a class.


def _reader_of(kind: type) -> Callable[[Any], Hashable] | None:
    for base in kind.__mro__:
        read = _READ.get((base.__module__.partition(".")[0], base.__name__))
        if read is not None:
            return read
    return None


def _singleton_key(value: Any) -> Hashable:
    return ()  # its type says all


def _decimal_key(value: Any) -> Hashable:
    return (*value.as_tuple(),)


def _range_key(value: Any) -> Hashable:
    return (value.start, value.stop, value.step)


def _view_key(value: Any) -> Hashable:
    return (value.format, value.shape, bytes(value))


def _slice_key(value: Any) -> Hashable:
    return (_key(value.start), _key(value.stop), _key(value.step))


def _deque_key(value: Any) -> Hashable:
    return (value.maxlen, _sequence_key(list(value)))


def _namespace_key(value: Any) -> Hashable:
    return _items_key(vars(value))


def _moment_key(value: Any) -> Hashable:
    """A datetime or time; those of pandas have a unit, too."""
    zone = value.tzinfo
    parts = (value, value.fold, getattr(value, "unit", None))
    if zone is None:
        return parts
    return (*parts, _zone_key(zone), _key(value.utcoffset()), value.tzname())


def _zone_key(zone: Any) -> Hashable:
    name = getattr(zone, "key", None) or getattr(zone, "zone", None)  # of zoneinfo, of pytz
    if name is None:
        name = Identity(zone) if type(zone).__hash__ is None else _key(zone)
    return (type(zone), name)


def _span_key(value: Any) -> Hashable:
    """A timedelta; those of pandas have nanoseconds and a unit, too."""
    unit = getattr(value, "unit", None)
    return (value.days, value.seconds, value.microseconds, getattr(value, "nanoseconds", 0), unit)


def _array_key(value: Any) -> Hashable:
    """An array of numpy, or one of its scalars, by what it holds."""
    extra = getattr(value, "__dict__", None)  # of a subclass, a unit say
    dtype = value.dtype
    told = (repr(dtype), value.shape, _items_key(extra) if extra else None)
    if dtype.hasobject:
        return (*told, _sequence_key(value.ravel().tolist()))
    # The bytes as they are: `tobytes` would copy them, and let no other thread run meanwhile.
    flat = modules["numpy"].ascontiguousarray(value).reshape(-1)
    return (*told, digest_of(flat.view("u1") if flat.dtype.itemsize else b""))


def _masked_key(value: Any) -> Hashable:
    parts = (value.data, value.mask, value.fill_value)
    return (*[_key(each) for each in parts], value.hardmask)


def _frame_key(value: Any) -> Hashable:
    """A data frame of pandas."""
    columns = [_values_key(value.iloc[:, place]) for place in range(value.shape[1])]
    return (_key(value.columns), _key(value.index), tuple(columns), _extras_key(value))


def _series_key(value: Any) -> Hashable:
    return (_key(value.name), _key(value.index), _values_key(value), _extras_key(value))


def _extras_key(value: Any) -> Hashable:
    """What users and subclasses hang on a data frame or series."""
    flags = value.flags.allows_duplicate_labels
    metadata = tuple([_key(getattr(value, each)) for each in value._metadata])
    return (_key(value.attrs), flags, metadata)


def _index_key(value: Any) -> Hashable:
    names, frequency = _key(list(value.names)), getattr(value, "freqstr", None)
    if hasattr(value, "codes") and hasattr(value, "levels"):
        levels = [_key(each) for each in value.levels]
        return (names, tuple(levels), tuple([_key(each) for each in value.codes]))
    if hasattr(value, "start") and hasattr(value, "step"):  # a range, which may be a long one
        return (names, value.start, value.stop, value.step)
    return (names, frequency, _values_key(value))


def _values_key(column: Any) -> Hashable:
    """The values of a series, an index or an array of pandas, by their dtype."""
    dtype = column.dtype
    if not hasattr(dtype, "na_value"):  # numpy's own
        return _key(column.to_numpy())
    return (repr(dtype), _extension_key(getattr(column, "array", column), dtype))


def _extension_key(values: Any, dtype: Any) -> Hashable:
    name = type(dtype).__name__
    if name == "CategoricalDtype":
        return (_key(values.categories), values.ordered, _key(values.codes))
    if name == "DatetimeTZDtype":
        return (_zone_key(dtype.tz), _key(values.to_numpy(f"M8[{dtype.unit}]")))
    if name == "PeriodDtype":
        return _key(values.asi8)
    if name == "IntervalDtype":
        return (_key(values.left), _key(values.right))
    if name == "SparseDtype":
        return _key(values.to_dense())
    if hasattr(values, "__arrow_array__") and getattr(dtype, "storage", "pyarrow") == "pyarrow":
        arrow = modules.get("pyarrow")
        if arrow is not None and name in ("ArrowDtype", "StringDtype"):
            return _arrow_key(arrow.array(values))
    missing = values.isna()
    if hasattr(dtype, "numpy_dtype") and dtype.kind in "iufb":
        return (_key(missing), _key(values.to_numpy(dtype.numpy_dtype, na_value=0)))
    plain = modules["numpy"].array(values, dtype=object)  # a copy
    plain[missing] = None
    return (_key(missing), _key(plain))


class _Digester:
    """A file that digests what is written to it."""

    closed = False

    def __init__(self) -> None:
        from hashlib import sha256  # slow to import

        self._hash = sha256()

    def write(self, data: Any) -> int:
        self._hash.update(data)
        return len(data)

    def digest(self) -> bytes:
        return self._hash.digest()[:20]

    def flush(self) -> None: ...

    def close(self) -> None: ...


def _arrow_key(value: Any) -> Hashable:
    """A table, batch or array of Arrow, by its schema and its buffers."""
    arrow = modules["pyarrow"]
    if not hasattr(value, "schema"):
        chunks = value.chunks if hasattr(value, "chunks") else [value]
        value = arrow.table({"": arrow.chunked_array(chunks, value.type)})
    elif not hasattr(value, "combine_chunks"):
        value = arrow.Table.from_batches([value])
    file = _Digester()
    with arrow.ipc.new_stream(file, value.schema) as stream:
        stream.write_table(value.combine_chunks())
    return file.digest()


def _polars_frame_key(value: Any) -> Hashable:
    if any(str(each) == "Object" for each in value.dtypes):
        raise UnkeyableError("it has a column of Python objects, which polars does not look into")
    file = _Digester()
    value.rechunk().write_ipc_stream(file)
    return file.digest()


def _polars_series_key(value: Any) -> Hashable:
    return _polars_frame_key(value.to_frame())


_READ: Final[dict[tuple[str, str], Callable[[Any], Hashable]]] = {
    ("builtins", "bytearray"): bytes,
    ("builtins", "ellipsis"): _singleton_key,
    ("builtins", "mappingproxy"): _items_key,
    ("builtins", "memoryview"): _view_key,
    ("builtins", "range"): _range_key,
    ("builtins", "slice"): _slice_key,
    ("collections", "deque"): _deque_key,
    ("datetime", "datetime"): _moment_key,
    ("datetime", "time"): _moment_key,
    ("datetime", "timedelta"): _span_key,
    ("datetime", "timezone"): repr,  # which has a name
    ("decimal", "Decimal"): _decimal_key,
    ("numpy", "MaskedArray"): _masked_key,
    ("numpy", "generic"): _array_key,
    ("numpy", "ndarray"): _array_key,
    ("pandas", "DataFrame"): _frame_key,
    ("pandas", "ExtensionArray"): _values_key,
    ("pandas", "Index"): _index_key,
    ("pandas", "NAType"): _singleton_key,
    ("pandas", "NaTType"): _singleton_key,  # does not equal itself
    ("pandas", "Series"): _series_key,
    ("pathlib", "PurePath"): str,  # on Windows they are equal in other letters, too
    ("polars", "DataFrame"): _polars_frame_key,
    ("polars", "Series"): _polars_series_key,
    ("pyarrow", "Array"): _arrow_key,
    ("pyarrow", "ChunkedArray"): _arrow_key,
    ("pyarrow", "RecordBatch"): _arrow_key,
    ("pyarrow", "Table"): _arrow_key,
    ("types", "SimpleNamespace"): _namespace_key,
}
"""By package and name of the class, or of a class that it inherits from."""

_BULK: Final = frozenset({"numpy", "pandas", "polars", "pyarrow"})


def digest_of(data: Any) -> bytes:
    """A short text's worth of bytes that tells any data apart.

    >>> len(digest_of(b"anything"))
    20
    """
    from hashlib import sha256  # slow to import; most processors have instructions for it

    return sha256(data).digest()[:20]


def _fields(value: Any) -> dict[str, Any] | None:
    """The fields of dataclasses, attrs classes and pydantic models that compare by their fields;
    None for other values."""
    kind: Any = type(value)
    if kind.__eq__ is object.__eq__:
        return None
    if hasattr(kind, "__dataclass_fields__"):
        if not kind.__dataclass_params__.eq:
            return None
        fields = modules["dataclasses"].fields(value)  # who has one has imported it
        # Also fields that do not take part in `==`, because a function can read them.
        return {each.name: getattr(value, each.name) for each in fields}
    if hasattr(kind, "__attrs_attrs__"):
        return {each.name: getattr(value, each.name) for each in kind.__attrs_attrs__}
    if hasattr(kind, "__pydantic_fields__") or hasattr(kind, "__pydantic_core_schema__"):
        parts = ("__dict__", "__pydantic_extra__", "__pydantic_private__")
        return {part: getattr(value, part, None) for part in parts}
    return None


# Keys of large values, which nodes of one run share that take the same object.

_memos: WeakKeyDictionary[Host, dict[int, tuple[ref[Any], int, Key]]] = WeakKeyDictionary()
"""For each run the keys of the large values that it has met, by identity. No value is kept alive
by that: an entry goes when its value does, and all go with the run."""


def _shared_key(value: Any, run: Host) -> Key:
    """The key of a large value. Raises UnkeyableError.

    Nodes that are not cached may change a value in place. So a key holds until the next one of
    these has ended."""
    memo = _memos.setdefault(run.home, {})
    uncached = run.record.uncached
    known = memo.get(id(value))
    if known is not None and known[1] == uncached and known[0]() is value:
        return known[2]
    key, place = key_of(value), id(value)
    with suppress(TypeError):  # there are no weak references to values of this class
        memo[place] = ref(value, lambda gone: _drop(memo, place, gone)), uncached, key
    return key


def _drop(memo: dict[int, tuple[ref[Any], int, Key]], place: int, gone: ref[Any]) -> None:
    known = memo.get(place)
    if known is not None and known[0] is gone:
        del memo[place]


def forget_key(value: Any, run: Host) -> None:
    """A cached node returned this value: if it was given it, it may have changed it."""
    memo = _memos.get(run)
    if memo is not None:
        memo.pop(id(value), None)


def _is_bulk(kind: type) -> bool:
    """Whether values of a class may be so large that a key takes a while."""
    module = kind.__module__
    return type(module) is str and module.partition(".")[0] in _BULK


def inputs_key(
    inputs: Mapping[str, Any], run: Host | None = None
) -> tuple[tuple[str, Hashable], ...]:
    """The key of a call's inputs in a run, sorted by name. Raises UnkeyableError that names the
    parameter."""
    pairs: list[tuple[str, Hashable]] = []
    for name, value in inputs.items():
        kind = type(value)
        if kind in _PLAIN:
            pairs.append((name, (kind, value)))
            continue
        try:
            if run is not None and _is_bulk(kind):
                pairs.append((name, _shared_key(value, run)))
            else:
                pairs.append((name, key_of(value)))
        except UnkeyableError as error:
            raise UnkeyableError(f"parameter {name!r}: {error}") from None
    if len(pairs) > 1:
        pairs.sort(key=_first)
    return tuple(pairs)


_first = itemgetter(0)


def stable_text(key: Any, where: str = "it") -> str:
    """A key as text that another process finds, too. Raises UnkeyableError for identities, and for
    what cannot be pickled.

    >>> stable_text(key_of({"b": 1, "a": None})) == stable_text(key_of({"a": None, "b": 1}))
    True
    """
    if isinstance(key, Key):
        key = key.parts
    if isinstance(key, Identity):
        raise UnkeyableError(
            f"{where} is a {type(key.value).__name__}, which compares by identity and means "
            "nothing to another process"
        )
    if isinstance(key, tuple):
        return "(" + ",".join([stable_text(each, where) for each in key]) + ")"
    if isinstance(key, frozenset):
        return "{" + ",".join(sorted([stable_text(each, where) for each in key])) + "}"
    if type(key) in _PLAIN or type(key) is float:  # a subclass may show itself as it likes
        # Long integers have no decimal form that Python would make.
        return hex(key) if type(key) is int else repr(key)
    if isinstance(key, type) and key.__module__ == "builtins":  # most of them
        return f"builtins.{key.__qualname__}"
    from fast_dag.cache.origins import KeyPickler, full_name  # with pickle, which is slow to import

    if isinstance(key, type):
        return full_name(key)
    try:
        return digest_of(KeyPickler.dumps(key)).hex()
    except failures() as error:  # of the value's own methods, too
        raise UnkeyableError(
            f"{where} is a {type(key).__name__}, which cannot be pickled: {text_of(error)}"
        ) from None


def exact_text(value: Any) -> str | None:
    """A hashable value as text that no other value has, the same in every process; None if nobody
    can tell. Most strings stand for themselves.

    >>> exact_text("ada-1"), exact_text("1"), exact_text(1), exact_text(("a", None))
    ('ada-1', "'1'", '1', '(a, None)')
    """
    kind = type(value)
    if kind is str:
        is_name = value[:1].isidentifier() and value.translate(_JOINTS).isidentifier()
        return value if is_name and value not in _WORDS else repr(value)
    if kind is tuple:
        texts = [exact_text(each) for each in value]
        return None if None in texts else f"({', '.join(map(str, texts))}{',' * (len(texts) == 1)})"
    if kind is int and value.bit_length() > 64:  # long integers may have no decimal form
        return hex(value)
    if kind in _PLAIN or kind is float or kind.__module__ in _EXACT:
        return repr(value)
    try:
        digest = digest_of(stable_text(key_of(value)).encode("utf-8", "surrogatepass"))
    except UnkeyableError:
        return None
    return f"{kind.__name__}#{digest.hex()[:16]}"


_JOINTS: Final = str.maketrans("-.@:/+ ", "_______")
_WORDS: Final = ("None", "True", "False", "nan", "inf")
_EXACT: Final = ("datetime", "decimal", "fractions", "pathlib", "uuid")
"""The modules of classes whose instances say all of themselves in their repr."""
