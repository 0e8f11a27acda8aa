"""What tests of codecs share: values of all kinds, and whether two of them are the same."""

from __future__ import annotations

import math
import struct
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import PosixPath, PurePosixPath, PureWindowsPath
from typing import Any
from uuid import UUID
from zlib import crc32
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

from fast_dag import ConditionalReturn, SelectReturn
from fast_dag.store.codec import Plain

BERLIN = ZoneInfo("Europe/Berlin")


def same(left: Any, right: Any) -> bool:
    """Whether two values are the same in every type, order and bit."""
    kind = type(left)
    if kind is not type(right):
        return False
    if kind is float:
        return struct.pack("<d", left) == struct.pack("<d", right)
    if kind is complex:
        return same(left.real, right.real) and same(left.imag, right.imag)
    if kind is defaultdict:
        return left.default_factory is right.default_factory and same(dict(left), dict(right))
    if kind is deque:
        return left.maxlen == right.maxlen and same(list(left), list(right))
    if isinstance(left, dict):
        return same(list(left.items()), list(right.items()))
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, (set, frozenset)):
        return len(left) == len(right) and all(any(same(a, b) for b in right) for a in left)
    if isinstance(left, Decimal):
        return left.as_tuple() == right.as_tuple()
    if isinstance(left, (datetime, time)):
        return left.replace(tzinfo=None, fold=0) == right.replace(tzinfo=None, fold=0) and (
            left.fold == right.fold and same_zone(left.tzinfo, right.tzinfo)
        )
    return bool(left == right)


def same_zone(left: Any, right: Any) -> bool:
    return type(left) is type(right) and (
        left.key == right.key if isinstance(left, ZoneInfo) else repr(left) == repr(right)
    )


def again(value: Any, plain: Plain | None = None) -> Any:
    """A value as it is when it is read again."""
    plain = plain or Plain()
    return plain.decode(plain.encode(value))


def sealed(instructions: bytes) -> bytes:
    """Bytes with the right checksum, as an attacker would write them."""
    return b"\x01" + crc32(instructions).to_bytes(4, "little") + instructions


_texts = st.text(st.characters(exclude_categories=()), max_size=8)  # surrogates, too
_zones = st.none() | st.sampled_from([UTC, timezone(timedelta(hours=-3), "here"), BERLIN])
_hashable: Any = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**200), 2**200),
    st.floats(allow_nan=False),
    _texts,
    st.binary(max_size=8),
    st.dates(),
    st.datetimes(timezones=_zones),
    st.times(),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.fractions(),
    st.uuids(),
)
_atoms = st.one_of(
    _hashable,
    st.floats(),
    st.complex_numbers(),
    st.decimals(),
    st.binary(max_size=8).map(bytearray),
    st.builds(range, st.integers(), st.integers(), st.integers(1)),
    st.lists(st.floats(), min_size=14, max_size=20),
    st.lists(st.integers(-(2**64), 2**63 - 1), min_size=14, max_size=20),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=14, max_size=20).map(tuple),
)


def _containers(inner: Any) -> Any:
    return st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.lists(inner, max_size=4).map(deque),
        st.dictionaries(_texts, inner, max_size=4),
        st.dictionaries(_hashable, inner, max_size=4),
        st.dictionaries(_hashable, inner, max_size=4).map(OrderedDict),
        st.sets(_hashable, max_size=4),
        st.frozensets(_hashable | st.tuples(_hashable, _hashable), max_size=4),
    )


VALUES = st.recursive(_atoms, _containers, max_leaves=20)

EXAMPLES: dict[str, Any] = {
    "None": None,
    "booleans": [True, False],
    "ints": (0, -1, 127, -128, 128, 2**63 - 1, -(2**63), 2**63, -(2**100), 10**5000),
    "floats": (0.0, -0.0, math.inf, -math.inf, 5e-324, 0.1),
    "nan": [math.nan],
    "text": "Gr\u00fc\u00dfe \U0001f600",
    "lone surrogates": ["\ud83d\ude00", "\udc80"],
    "long text": "x" * 300,
    "bytes": b"\x00\xff" * 200,
    "JSON": {"id": 12, "rows": [{"a": [1.5, None, True], "b": ""}, {}], "": []},
    "many floats": [float(each) for each in range(20)],
    "many ints": tuple(range(-10, 10)),
    "many long ints": [2**70] * 20,
    "keys of all kinds": {1: "a", None: "b", (1, "x"): "c", b"k": "d", 2.5: {}},
    "sets": [{3, 1, 2, "x", None, (1, 2)}, frozenset({frozenset(), "b"})],
    "collections": [
        deque([1, 2], maxlen=2),
        OrderedDict(b=1, a=2),
        defaultdict(list, {"a": [1]}),
        defaultdict(None, {}),
        Counter("abca"),
        Counter({"minus": -2, "zero": 0}),
    ],
    "dates": [date(1, 1, 1), time(1, 2, 3, 4, fold=1), timedelta(-1, 5, 7)],
    "moments": [
        datetime(2026, 11, 27, 20, 21, 6, 1),
        datetime(999, 1, 1, tzinfo=UTC),
        datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1),
        datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=45), "Nepal")),
    ],
    "zones": [UTC, BERLIN, timezone(timedelta(seconds=1))],
    "numbers": [
        Decimal("1.10"),
        Decimal("-0"),
        Decimal("sNaN"),
        Decimal("1E+400"),
        Fraction(-1, 3),
        complex(-0.0, math.inf),
        range(5, -5, -2),
    ],
    "UUID": UUID("12345678-1234-5678-1234-567812345678"),
    "bytearray": bytearray(b"abc"),
    "paths": [PurePosixPath("/a/../b"), PureWindowsPath("C:\\a"), PosixPath("x")],
    "decisions": [ConditionalReturn(True, (1,)), SelectReturn(["a", "b"]), SelectReturn("a", {})],
    "ellipses apart": ((), [], {}, [[]], ((),), [{}]),
}
