"""Whatever the bytes are, reading them ends in a value or in a DecodeError: nothing is imported,
nothing is called, no memory is taken that the bytes do not fill."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_dag.store.codec import Plain
from fast_dag.store.errors import DamagedError, DecodeError
from tests.patience import LONG
from tests.properties import TIMES, tries
from tests.store import shop
from tests.store.shop import Colour, Item, Order, Point, Right, Slotted
from tests.store.support import EXAMPLES, VALUES, sealed

PLAIN = Plain([Colour, Item, Order, Point, Right, Slotted])
INSTANCES = [
    Order([Item("tea", Right.READ | Right.WRITE, Colour.GREEN)], start=5),
    {Point(1.5, 2): {Slotted(1, "x")}},
]


def is_read_or_refused(data: bytes) -> None:
    with suppress(DecodeError):
        PLAIN.decode(data)


@given(VALUES, st.data())
@tries(100)
def test_every_changed_byte_is_found(value: Any, data: st.DataObject) -> None:
    good = bytearray(PLAIN.encode(value))
    place = data.draw(st.integers(0, len(good) - 1))
    good[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DamagedError):
        PLAIN.decode(bytes(good))


@given(VALUES, st.data())
@tries(50)
def test_bytes_that_end_too_early_are_found(value: Any, data: st.DataObject) -> None:
    good = PLAIN.encode(value)
    with pytest.raises(DamagedError):
        PLAIN.decode(good[: data.draw(st.integers(0, len(good) - 1))])


@given(st.binary(max_size=200))
@tries(150)
def test_bytes_of_nobody_are_refused(data: bytes) -> None:
    is_read_or_refused(sealed(data))


def mutated(data: bytes, random: Random) -> bytes:
    """Bytes with a few changes: bits, cuts, copies of parts, numbers that are huge."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        place = random.randrange(len(changed) + 1)
        other = random.randrange(len(changed) + 1)
        match random.randrange(5):
            case 0 if place < len(changed):
                changed[place] = random.randrange(256)
            case 1:
                del changed[place : place + random.randint(1, 9)]
            case 2:
                changed[place:place] = changed[other : other + random.randint(1, 20)]
            case 3:
                changed[place:place] = b"\xff" + random.randbytes(8)
            case _:
                changed[place:place] = random.choice(b"[])}>zfcouJNTFilndsbvDQ").to_bytes()
    return bytes(changed)


@pytest.mark.parametrize("name", [*EXAMPLES, *range(len(INSTANCES))])
def test_mutated_bytes_with_the_right_checksum_are_read_or_refused(name: Any) -> None:
    value = INSTANCES[name] if isinstance(name, int) else EXAMPLES[name]
    good = PLAIN.encode(value)[5:]
    random = Random(str(name))
    for _ in range(100 * TIMES):
        is_read_or_refused(sealed(mutated(good, random)))


def named(*told: str) -> bytes:
    """The definition of a class."""
    texts = [each.encode() for each in told]
    return b"[" + b"".join(b"s" + bytes([len(each)]) + each for each in texts) + b"c"


@pytest.mark.parametrize(
    "name",
    [
        "antigravity:geohash",
        "os:system",
        "builtins:eval",
        "tests.store.shop:Tree",
        "tests.store.shop:Item.__class__",
        "tests.store.shop:sell",
        "fast_dag.store.classes:Layout",
        "",
        ":",
        "x" * 200,
    ],
)
def test_class_that_nothing_allows_is_refused_and_not_imported(name: str) -> None:
    loaded = set(sys.modules)
    with pytest.raises(DecodeError):
        PLAIN.decode(sealed(named(name, "fields", "a") + b"N"))
    assert set(sys.modules) == loaded


@pytest.mark.parametrize(
    "name",
    [
        "tests.store.shop:sell",
        "tests.store.shop:made",
        "tests.store.shop:Item.__class__",
        "tests.store.shop:Enum",
        "tests.store.shop:Any",
        "tests.store.shop:dataclass",
        "tests.store.shop:nothing",
        "tests.store.shop:TYPE_CHECKING",
        "tests.store.nowhere:Tea",
        "tests.store.shop_:Tea",
    ],
)
def test_allowed_module_gives_its_own_classes_only(name: str) -> None:
    shop.made.clear()
    with pytest.raises(DecodeError):
        Plain(["tests.store.shop", "tests.store.nowhere"]).decode(
            sealed(named(name, "fields", "a") + b"N")
        )
    assert shop.made == []


@pytest.mark.parametrize(
    "told",
    [
        ("tests.store.shop:Item", "fields", "name"),
        ("tests.store.shop:Item", "tuple", "name"),
        ("tests.store.shop:Item", "enum"),
        ("tests.store.shop:Colour", "flag"),
    ],
)
def test_class_of_another_layout_is_refused(told: tuple[str, ...]) -> None:
    with pytest.raises(DecodeError, match="has changed"):
        PLAIN.decode(sealed(named(*told) + b"N"))


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b"[" * 100_000 + b")" * 100_000 + b"f\x01",
        b"J\xff" + (400_002).to_bytes(8, "little") + b"[" * 200_001 + b"]" * 200_001,
        b"J\xff" + (200_000).to_bytes(8, "little") + b"1" * 200_000,
        b"J\x02[]]",
        b"J\x01\xff",
        b"b\xff" + b"\xff" * 8,
        b"s\xff" + b"\x00" * 7 + b"\x7f",
        b"d\x00",
        b"D\x09" + b"\x00" * 9,
        b"[J\x02[]N}",
        b"[[]N}",
        b"[NNNN}",
        b"[N}",
        b"[[]>",
        b"[NN>",
        b"]",
        b"NN",
        b"",
        b"[N",
        b"[f\xff",
        b"[s\x01xf\x09",
        b"[s\x01xs\x01yf\x04",
        b"[l" + b"\xff" * 7 + b"\x7fi\x00i\x00f\x04",
        b"[s\x0b../../etc/xf\x06",
        b"[l" + b"\xff" * 7 + b"\x00f\x0c",
        b"[s\x04eval[}f\x0f",
        b"o\x00\x00\x00\x00",
        b"[Nc",
        b"[cN",
        bytes(range(256)),
    ],
    ids=range(32),
)
def test_hostile_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        PLAIN.decode(sealed(data))


def test_instance_without_all_of_its_fields_is_refused() -> None:
    for value in (Point(1, 2), Item("tea"), Slotted(1)):
        good = PLAIN.encode(value)[5:]
        begin = good.index(b"c[") + 2 if b"c[" in good else 0
        assert begin
        with pytest.raises(DecodeError):
            PLAIN.decode(sealed(good[:begin] + good[-5:]))


def test_long_tuple_of_tuples_as_key_does_not_fill_the_stack() -> None:
    with pytest.raises(DamagedError):
        PLAIN.decode(sealed(b"[" + b"[" * 50_000 + b")" * 50_000 + b"N}"))


def test_newer_format_is_told() -> None:
    with pytest.raises(DamagedError, match="newer version"):
        PLAIN.decode(b"\x02" + PLAIN.encode(1)[1:])


def test_flag_that_its_class_does_not_know_is_refused() -> None:
    good = PLAIN.encode(Right.WRITE)
    assert good.count(b"i\x02") == 1
    with pytest.raises(DecodeError):
        PLAIN.decode(sealed(good[5:].replace(b"i\x02", b"i\x70")))


def test_no_package_is_loaded_that_no_value_needs() -> None:
    code = (
        "import sys; from fast_dag.store.codec import Plain; p = Plain();"
        "p.decode(p.encode({'a': (1, {2})}));"
        "print(*{'numpy', 'pandas', 'polars', 'pyarrow', 'pydantic_core', 'cloudpickle'}"
        "& set(sys.modules))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=LONG
    )
    assert told.stdout.strip() == ""
