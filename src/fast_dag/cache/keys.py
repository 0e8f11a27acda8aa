"""A value as something that can be looked up: equal exactly where no function could tell.

Containers are taken apart, arrays and data frames become digests of their memory, and other values
that compare by value stand for themselves. Types count: 1, 1.0 and True are different inputs. So do
signs of zero, exponents of decimals and time zones, though `==` does not see them.
Nothing is imported for that; values of numpy, pandas and pydantic are known by their shape.

The methods of users' values are called here, and may raise anything. All of that is UnkeyableError.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from math import copysign
from operator import itemgetter
from sys import modules
from typing import TYPE_CHECKING, Any, Final

from fast_dag.errors import failures, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping

_PLAIN: Final = frozenset({type(None), bool, int, str, bytes})


class UnkeyableError(TypeError):
    """Raised when a value cannot be looked up by: it is mutable in a way nothing is known about, or
    raises when it is looked at."""


class Identity:
    """A value that compares by identity, kept alive by the key it is in."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


class Key:
    """The key of one value, hashed once: where it is made, which may be a thread that has the time.

    Two of them can always be compared. Where a value's own `__eq__` raises, they differ."""

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
        raise UnkeyableError(f"looking at it raised {_told(error)}") from None


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {text_of(error)}"


_FEW: Final = 1000
"""How many values, or thousands of characters, are looked at in less time than it takes to have a
worker thread do it."""


def is_quick(values: Iterable[Any]) -> bool:
    """Whether the keys of these are made in no time: plain values, few and short, also in plain
    containers. Of all others nobody can tell but by making them.

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
    if isinstance(value, float):
        return (kind, _float_key(value))
    if isinstance(value, complex):
        return (kind, _float_key(value.real), _float_key(value.imag))
    if isinstance(value, (list, tuple)):
        return (kind, tuple([_key(each) for each in value]))
    if isinstance(value, OrderedDict):  # its order is part of what it equals
        return (kind, tuple([(_key(key), _key(each)) for key, each in value.items()]))
    if isinstance(value, dict):
        items = frozenset([(_key(key), _key(each)) for key, each in value.items()])
        factory = getattr(value, "default_factory", None)  # what a lookup may find beside them
        if factory is None:
            return (kind, items)
        return (kind, items, factory if isinstance(factory, type) else Identity(factory))
    if isinstance(value, (set, frozenset)):
        return (kind, frozenset([_key(each) for each in value]))
    if isinstance(value, Enum):
        return (kind, value.name or _key(value.value))
    if isinstance(value, bytearray):
        return (kind, bytes(value))
    if isinstance(value, memoryview):
        return (kind, value.format, value.shape, bytes(value))
    parts = _known_key(value)
    if parts is not None:
        return (kind, parts)
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
    """What tells the signs of zero apart; every nan is the same."""
    if value:
        return value if value == value else "nan"  # noqa: PLR0124  nan does not
    return value if copysign(1.0, value) > 0 else "-0.0"


def _known_key(value: Any) -> Hashable | None:
    """What is known to hold more than its `==` tells, or to hold it in another way."""
    for base in type(value).__mro__:
        read = _READ.get((base.__module__, base.__name__))
        if read is not None:
            return read(value)
    root = type(value).__module__.partition(".")[0]
    if root == "numpy" and hasattr(value, "tobytes"):
        return _array_key(value)
    return _pandas_key(value) if root == "pandas" else None


def _singleton_key(value: Any) -> Hashable:
    return ()  # its type says all


def _decimal_key(value: Any) -> Hashable:
    return (*value.as_tuple(),)


def _range_key(value: Any) -> Hashable:
    return (value.start, value.stop, value.step)


def _moment_key(value: Any) -> Hashable:
    """A datetime or time; those of pandas have a unit, too."""
    zone = value.tzinfo
    parts = (value, value.fold, getattr(value, "unit", None))
    if zone is None:
        return parts
    name = getattr(zone, "key", None) or getattr(zone, "zone", None)  # of zoneinfo, of pytz
    if name is None:
        name = Identity(zone) if type(zone).__hash__ is None else _key(zone)
    return (*parts, type(zone), name, _key(value.utcoffset()), value.tzname())


_READ: Final[dict[tuple[str, str], Callable[[Any], Hashable]]] = {
    ("decimal", "Decimal"): _decimal_key,
    ("pandas.api.typing", "NaTType"): _singleton_key,  # does not equal itself
    ("pandas.api.typing", "NAType"): _singleton_key,
    ("pandas._libs.tslibs.nattype", "NaTType"): _singleton_key,
    ("pandas._libs.missing", "NAType"): _singleton_key,
    ("builtins", "range"): _range_key,
    ("pathlib", "PurePath"): str,  # on Windows they are equal in other letters, too
    ("pathlib._local", "PurePath"): str,  # its name in Python 3.13
    ("datetime", "timezone"): repr,  # which has a name
    ("datetime", "datetime"): _moment_key,
    ("datetime", "time"): _moment_key,
}
"""Of the classes with these names, and of those that are made of them."""


def _array_key(value: Any) -> Hashable:
    """An array of numpy, or one of its scalars, by what it holds."""
    if hasattr(value, "fill_value"):  # a masked array
        parts = (value.data, value.mask, value.fill_value)
        return (*[_key(each) for each in parts], value.hardmask)
    if value.dtype.hasobject:
        return (repr(value.dtype), value.shape, _key(value.tolist()))
    # The bytes as they are: `tobytes` would copy them, and let no other thread run meanwhile.
    flat = modules["numpy"].ascontiguousarray(value).reshape(-1)
    data = flat.view("u1") if flat.dtype.itemsize else b""
    return (repr(value.dtype), value.shape, _digest(data))


def _pandas_key(value: Any) -> Hashable | None:
    """A data frame, series or index, by what it holds."""
    if hasattr(value, "columns"):
        parts = [value.iloc[:, place] for place in range(value.shape[1])]
        return (
            _key(value.columns),
            _key(value.index),
            tuple([_values_key(each) for each in parts]),
        )
    if hasattr(value, "iloc"):
        return (_key(value.name), _key(value.index), _values_key(value))
    if hasattr(value, "to_numpy") and hasattr(value, "dtype"):  # an index, or an array of pandas
        return (_key(list(getattr(value, "names", ()))), _values_key(value))
    return None


def _values_key(column: Any) -> Hashable:
    """The values of a series or index, told apart by their dtype and its categories, if any."""
    categories = getattr(column.dtype, "categories", None)
    ordered = getattr(column.dtype, "ordered", None)
    kept = None if categories is None else _key(list(categories))
    return (str(column.dtype), kept, ordered, _key(column.to_numpy()))


def _digest(data: Any) -> bytes:
    from hashlib import blake2b  # slow to import

    return blake2b(data, digest_size=20).digest()


def _fields(value: Any) -> dict[str, Any] | None:
    """The fields of dataclasses and pydantic models that compare by them."""
    kind = type(value)
    if hasattr(kind, "__dataclass_fields__"):
        if not kind.__dataclass_params__.eq:
            return None
        fields = modules["dataclasses"].fields(value)  # who has one has imported it
        # Those that do not compare, too: a function can read them.
        return {each.name: getattr(value, each.name) for each in fields}
    if hasattr(kind, "__pydantic_fields__") or hasattr(kind, "__pydantic_core_schema__"):
        parts = ("__dict__", "__pydantic_extra__", "__pydantic_private__")
        return {part: getattr(value, part, None) for part in parts}
    return None


def inputs_key(inputs: Mapping[str, Any]) -> tuple[tuple[str, Hashable], ...]:
    """The key of a call's inputs, sorted by name. Raises UnkeyableError that names the
    parameter."""
    pairs: list[tuple[str, Hashable]] = []
    for name, value in inputs.items():
        kind = type(value)
        if kind in _PLAIN:
            pairs.append((name, (kind, value)))
            continue
        try:
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
    if isinstance(key, type):
        return f"{key.__module__}.{key.__qualname__}"
    if isinstance(key, tuple):
        return "(" + ",".join([stable_text(each, where) for each in key]) + ")"
    if isinstance(key, frozenset):
        return "{" + ",".join(sorted([stable_text(each, where) for each in key])) + "}"
    if type(key) in _PLAIN or type(key) is float:  # a subclass may show itself as it likes
        # Long integers have no decimal form that Python would make.
        return hex(key) if type(key) is int else repr(key)
    try:
        import pickle  # slow to import

        return _digest(pickle.dumps(key, protocol=4)).hex()
    except failures() as error:  # of the value's own methods, too
        raise UnkeyableError(
            f"{where} is a {type(key).__name__}, which cannot be pickled: {text_of(error)}"
        ) from None
