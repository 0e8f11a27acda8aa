"""What the codecs of stores take next to pickle, which keeps no promises about damaged bytes."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from random import Random
from statistics import median
from typing import TYPE_CHECKING, Any

from timing import Row, Side, in_turn, ratios

from fast_dag.store.codec import Pickle, Plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from timing import Effort

_RECORD = {
    "id": 12345,
    "name": "ada lovelace",
    "price": 9.99,
    "tags": ["a", "b", "c"],
    "ok": True,
    "note": None,
    "city": "London",
}


@dataclass
class Line:
    """What a node may return."""

    number: int
    text: str
    price: float


def _values() -> Iterator[tuple[str, Any]]:
    random = Random(0)
    yield "an int", 12345
    yield "dict of 100 bytes", _RECORD
    yield "dict with a datetime", {**_RECORD, "when": datetime(2026, 11, 27, tzinfo=UTC)}
    yield "list of 10,000 floats", [random.random() for _ in range(10_000)]
    yield "1,000 dicts of 100 bytes", [{**_RECORD, "id": number} for number in range(1_000)]
    yield "1,000 instances", [Line(number, "x", 1.5) for number in range(1_000)]
    yield "1 MB of bytes", os.urandom(1 << 20)
    try:
        from numpy import zeros
    except ImportError:
        return
    yield "8 MB array", zeros(1 << 20)


def codecs(effort: Effort) -> Iterator[Row]:
    """Writing and reading values with codec plain, and a small one with codec pickle."""
    plain = Plain(allow=[Line])
    for name, value in _values():
        yield from _beside_pickle(f"plain, {name}", plain, value, effort)
    yield from _beside_pickle(
        "pickle with a key, dict of 100 bytes", Pickle(b"0" * 16), _RECORD, effort
    )


def _beside_pickle(work: str, codec: Any, value: Any, effort: Effort) -> Iterator[Row]:
    data, pickled = codec.encode(value), pickle.dumps(value, 5)
    sides = (
        Side(partial(codec.encode, value)),
        Side(partial(pickle.dumps, value, 5)),
        Side(partial(codec.decode, data)),
        Side(partial(pickle.loads, pickled)),
    )
    write, dumps, read, loads = in_turn(*sides, rounds=effort.of(50, 2))
    size = f"{len(data) / len(pickled):.2f} x its bytes"
    yield Row(f"{work}: write", ratios(write, dumps), "x dumps", None, _note(write, size))
    yield Row(f"{work}: read", ratios(read, loads), "x loads", None, _note(read, ""))


def _note(seconds: list[float], more: str) -> str:
    return ", ".join(filter(None, [f"{1e6 * median(seconds):.3g} us", more]))


BENCHMARKS = (codecs,)
