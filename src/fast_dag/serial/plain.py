"""The data that JSON and YAML have in common, and the places of values in it."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from reprlib import repr as short_repr
from typing import Any

from fast_dag.errors import ValidationError

_DEEPEST = 400
"""How many levels of mappings and lists are written; reading needs as many calls inside of each
other."""
_MOST_BITS = 14_000
"""The size of the largest integers: Python reads up to 4300 digits."""


def below(place: str, key: str) -> str:
    """The place of the value that a mapping at `place` has under `key`.

    >>> below("nodes[3]", "retry"), below("", "nodes"), below("metadata", "a.b")
    ('nodes[3].retry', 'nodes', "metadata['a.b']")
    """
    if not key.isidentifier():
        return f"{place}[{key!r}]"
    return f"{place}.{key}" if place else key


def problem(place: str, message: str) -> ValidationError:
    """The error that says what is wrong at a place."""
    return ValidationError(f"{place}: {message}" if place else message, place=place)


def placed(error: ValueError, place: str) -> ValidationError:
    """The same error with a place in its message; an error that has one is returned as it is."""
    if isinstance(error, ValidationError) and "place" in error.__dict__:
        return error
    made = problem(place, str(error))
    made.__cause__ = error
    return made


def plain(value: Any, place: str) -> Any:
    """A copy of `value` that JSON and YAML can hold.

    Tuples become lists, members of enums that are strings or numbers become these, and numbers of
    other libraries become Python's. Raises ValidationError with the place of the first value that
    is anything but a mapping, list, string, finite number, boolean or None.

    >>> plain({"sizes": (1, 2.5)}, "metadata")
    {'sizes': [1, 2.5]}
    >>> plain({"sizes": [1j]}, "metadata")
    Traceback (most recent call last):
    fast_dag.errors.ValidationError: metadata.sizes[0]: 1j is a complex, which text files ...
    """
    return _plain(value, place, ())


def _plain(value: Any, place: str, outer: tuple[int, ...]) -> Any:
    try:
        if getattr(value, "shape", None) == () and value.item() == value:
            value = value.item()  # a number of NumPy, say
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, int):
            if int.bit_length(value) > _MOST_BITS:
                raise problem(place, "the number has more digits than text files can hold")
            return int.__index__(value)
        if isinstance(value, float):
            if not isfinite(value):
                raise problem(place, f"{value!r} is no number that text files can hold")
            return float.__float__(value)
        if not isinstance(value, (Mapping, list, tuple)):
            raise problem(
                place,
                f"{short_repr(value)} is a {type(value).__name__}, which text files cannot hold; "
                "make it of mappings, lists, strings, numbers, booleans and None",
            )
        if id(value) in outer:
            raise problem(place, "it contains itself")
        if len(outer) == _DEEPEST:
            raise problem(place, "it is nested too deeply")
        outer = (*outer, id(value))
        if not isinstance(value, Mapping):
            return [_plain(each, f"{place}[{index}]", outer) for index, each in enumerate(value)]
        copy = {}
        for key, each in value.items():
            if not isinstance(key, str):
                raise problem(place, f"the key {short_repr(key)} is no string")
            name = str.__str__(key)
            copy[name] = _plain(each, below(place, name), outer)
        return copy
    except (ValidationError, RecursionError):
        raise
    except Exception as error:  # of the value's own methods
        kind = type(value).__name__
        raise problem(place, f"a {kind} cannot be read: {type(error).__name__}") from error
