"""A value as something that can be looked up: equal exactly where the values are equal.

Containers are taken apart, arrays and data frames become digests of their memory, and other values
that compare by value stand for themselves. Types count: 1, 1.0 and True are different inputs.
Nothing is imported for that; values of numpy, pandas and pydantic are known by their shape.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from math import isnan
from operator import itemgetter
from sys import modules
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

_PLAIN: Final = frozenset({type(None), bool, int, str, bytes, complex})


class UnkeyableError(TypeError):
    """Raised when a value cannot be looked up by: it is mutable in a way nothing is known about."""


class Identity:
    """A value that compares by identity, kept alive by the key it is in."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


def key_of(value: Any) -> Hashable:
    """The key of one value. Raises UnkeyableError.

    >>> key_of({"a": [1], "b": {2, 3}}) == key_of({"b": {3, 2}, "a": [1]})
    True
    >>> key_of([1]) == key_of((1,)), key_of(1) == key_of(True)
    (False, False)
    """
    try:
        return _key(value)
    except RecursionError:
        raise UnkeyableError("it contains itself, or is nested too deeply") from None


def _key(value: Any) -> Hashable:
    kind = type(value)
    if kind in _PLAIN:
        return (kind, value)
    if kind is float:
        return (kind, "nan" if isnan(value) else value + 0.0)  # -0.0 equals 0.0
    if isinstance(value, (list, tuple)):
        return (kind, tuple([_key(each) for each in value]))
    if isinstance(value, OrderedDict):  # its order is part of what it equals
        return (kind, tuple([(_key(key), _key(each)) for key, each in value.items()]))
    if isinstance(value, dict):
        return (kind, frozenset([(_key(key), _key(each)) for key, each in value.items()]))
    if isinstance(value, (set, frozenset)):
        return (kind, frozenset([_key(each) for each in value]))
    if isinstance(value, Enum):
        return (kind, value.name or _key(value.value))
    if isinstance(value, bytearray):
        return (kind, bytes(value))
    if isinstance(value, memoryview):
        return (kind, value.format, value.shape, bytes(value))
    array = _array_key(value)
    if array is not None:
        return (kind, array)
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
    return (kind, value)


def _array_key(value: Any) -> Hashable | None:
    """Arrays and data frames, by what they hold."""
    root = type(value).__module__.partition(".")[0]
    if root == "numpy" and hasattr(value, "tobytes"):
        if value.dtype.hasobject:
            return (repr(value.dtype), value.shape, _key(value.tolist()))
        return (repr(value.dtype), value.shape, _digest(value.tobytes()))
    if root != "pandas":
        return None
    if hasattr(value, "columns"):
        parts = [value.iloc[:, place] for place in range(value.shape[1])]
        return (
            _key(value.columns),
            _key(value.index),
            tuple([_values_key(each) for each in parts]),
        )
    if hasattr(value, "iloc"):
        return (_key(value.name), _key(value.index), _values_key(value))
    if hasattr(value, "to_numpy") and hasattr(value, "dtype"):  # an index; a Timestamp has none
        return (_key(list(value.names)), _values_key(value))
    return None


def _values_key(column: Any) -> Hashable:
    """The values of a series or index, told apart by their dtype and its categories, if any."""
    categories = getattr(column.dtype, "categories", None)
    ordered = getattr(column.dtype, "ordered", None)
    kept = None if categories is None else _key(list(categories))
    return (str(column.dtype), kept, ordered, _key(column.to_numpy()))


def _digest(data: bytes) -> bytes:
    from hashlib import blake2b  # slow to import

    return blake2b(data, digest_size=20).digest()


def _fields(value: Any) -> dict[str, Any] | None:
    """The fields of dataclasses and pydantic models that compare by them."""
    kind = type(value)
    if hasattr(kind, "__dataclass_fields__"):
        if not kind.__dataclass_params__.eq:
            return None
        fields = modules["dataclasses"].fields(value)  # who has one has imported it
        return {each.name: getattr(value, each.name) for each in fields if each.compare}
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
    if type(key) in _PLAIN or isinstance(key, float):
        return repr(key)
    try:
        import pickle  # slow to import

        return _digest(pickle.dumps(key, protocol=4)).hex()
    except Exception as error:  # of the value's own methods, too
        raise UnkeyableError(
            f"{where} is a {type(key).__name__}, which cannot be pickled: {error}"
        ) from None
