"""Data that JSON and YAML have in common, and where in it something stands."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from reprlib import repr as short_repr
from typing import Any

from fast_dag.errors import ValidationError


def below(place: str, key: str) -> str:
    """The place of a key of what stands at `place`.

    >>> below("nodes[3]", "retry"), below("", "nodes"), below("metadata", "a.b")
    ('nodes[3].retry', 'nodes', "metadata['a.b']")
    """
    if not key.isidentifier():
        return f"{place}[{key!r}]"
    return f"{place}.{key}" if place else key


def problem(place: str, message: str) -> ValidationError:
    """What is wrong at a place."""
    return ValidationError(f"{place}: {message}" if place else message, place=place)


def placed(error: ValueError, place: str) -> ValidationError:
    """The error with the place where it was met, unless it tells one already."""
    if isinstance(error, ValidationError) and "place" in error.__dict__:
        return error
    told = problem(place, str(error))
    told.__cause__ = error
    return told


def plain(value: Any, place: str) -> Any:
    """A copy of `value` as text files can keep it: tuples become lists, what is derived from a
    builtin type becomes that.

    Raises ValidationError where it holds anything but mappings, lists, strings, numbers, booleans
    and None.

    >>> plain({"sizes": (1, 2.5)}, "metadata")
    {'sizes': [1, 2.5]}
    >>> plain({"sizes": [1j]}, "metadata")
    Traceback (most recent call last):
    fast_dag.errors.ValidationError: metadata.sizes[0]: 1j is a complex, which text files ...
    """
    return _plain(value, place, ())


def _plain(value: Any, place: str, outer: tuple[int, ...]) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not isfinite(value):
            raise problem(place, f"{float(value)} is no number that text files can keep")
        return float(value)
    if not isinstance(value, (Mapping, list, tuple)):
        raise problem(
            place,
            f"{short_repr(value)} is a {type(value).__name__}, which text files cannot keep; "
            "make it of mappings, lists, strings, numbers, booleans and None",
        )
    if id(value) in outer:
        raise problem(place, "it contains itself")
    outer = (*outer, id(value))
    if not isinstance(value, Mapping):
        return [_plain(each, f"{place}[{index}]", outer) for index, each in enumerate(value)]
    copy = {}
    for key, each in value.items():
        if not isinstance(key, str):
            raise problem(place, f"the key {short_repr(key)} is no string")
        copy[str.__str__(key)] = _plain(each, below(place, key), outer)
    return copy
