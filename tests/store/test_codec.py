"""Codec plain keeps data exactly, in the same bytes on every Python, or says where it cannot."""

from __future__ import annotations

import pickle
import sys
import threading
from collections import defaultdict
from contextlib import suppress
from datetime import datetime, tzinfo
from typing import Any

import pytest
from hypothesis import given

from fast_dag.store.codec import Plain, digest
from fast_dag.store.errors import EncodeError, StoreError
from tests.properties import tries
from tests.store.shop import Rows, Text, Twice
from tests.store.support import EXAMPLES, VALUES, again, same

GOLDEN = {
    "None": "011a8366434e",
    "booleans": "018e82eb534a0c5b747275652c66616c73655d",
    "ints": "4b57f83e1d4e700a",
    "floats": "332344a7da7e5474",
    "nan": "019e25beee5b64000000000000f87f5d",
    "text": "0170f83a52730c4772c3bcc39f6520f09f9880",
    "lone surrogates": "01d5f2e6ad5b7306eda0bdedb8807303edb2805d",
    "long text": "99e080b1e35735fb",
    "bytes": "00a01db7490bc04e",
    "JSON": "e9df1709c728fba9",
    "many floats": "b670de38adba8b43",
    "many ints": "b70697d887cc6f4b",
    "many long ints": "1c45052915f40c49",
    "keys of all kinds": (
        "017b4c9b3a5b69017301614e7301625b69017301782973016362016b7301646400000000000004404a027b7d7d"
    ),
    "sets": "014fc3c5c55b5b4e5b69016902296901690269037301783e5b5b7a7301627a5d",
    "collections": "d42d7d184e18c1fd",
    "dates": (
        "018387389c5b5b730a303030312d30312d303166015b730f30313a30323a30332e3030"
        "3030303469014e66035b69ff6905690766045d"
    ),
    "moments": "479512c4f13c4b8e",
    "zones": (
        "01649363125b5b5b690069006900660466055b730d4575726f70652f4265726c696e66"
        "065b5b690069016900660466055d"
    ),
    "numbers": "67ccb9a124d06fa5",
    "UUID": "011841a8085b6210123456781234567812345678123456784e6609",
    "bytearray": "014033bf215b7603616263660c",
    "paths": "01de39fac25b5b73072f612f2e2e2f6266135b7304433a5c6166145b73017866115d",
    "decisions": "b3a2d6c7b52980b4",
    "ellipses apart": "01e6f0e0475b5b294a025b5d4a027b7d4a045b5b5d5d5b5b29294a045b7b7d5d29",
}
"""The bytes of the examples, or the beginning of their digest if they are long."""


@given(VALUES)
@tries(150)
def test_value_is_the_same_when_it_is_read_again(value: Any) -> None:
    assert same(again(value), value)


@given(VALUES)
@tries(50)
def test_same_value_has_the_same_bytes(value: Any) -> None:
    plain = Plain()
    data = plain.encode(value)
    assert plain.encode(plain.decode(data)) == data


@pytest.mark.parametrize("name", EXAMPLES)
def test_bytes_are_the_same_on_every_python(name: str) -> None:
    data = Plain().encode(EXAMPLES[name])
    assert GOLDEN[name] in (data.hex(), digest(data)[:16])
    assert same(Plain().decode(data), EXAMPLES[name])


def test_sets_have_the_same_bytes_in_every_order() -> None:
    words = [f"word {number}" for number in range(50)]
    assert Plain().encode(set(words)) == Plain().encode({*words[::-1]})


def test_order_of_dicts_is_kept() -> None:
    assert list(again({"b": 1, "a": 2})) == ["b", "a"]
    assert list(again({2: 1, 1: 2})) == [2, 1]


def test_int_is_read_where_python_reads_no_long_decimals() -> None:
    data = Plain().encode({"n": 10**700, "m": [-(10**1000)]})
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(640)
    try:
        assert Plain().decode(data) == {"n": 10**700, "m": [-(10**1000)]}
    finally:
        sys.set_int_max_str_digits(before)


class Zone(tzinfo):
    pass


@pytest.mark.parametrize(
    ("value", "place", "kind"),
    [
        (object(), "", "object"),
        ({"rows": [0, 1, {"owner": print}]}, "['rows'][2]['owner']", "builtin_function_or_method"),
        ([(1, {2: {object()}})], None, "object"),
        ({print: 1}, None, "builtin_function_or_method"),
        ([int], "[0]", "type"),
        ((x for x in ()), "", "generator"),
        ([iter([1])], "[0]", "list_iterator"),
        ([lambda: 0], "[0]", "function"),
        ({"a": Text("x")}, "['a']", "tests.store.shop.Text"),
        ([[Rows([1])]], "[0][0]", "tests.store.shop.Rows"),
        (Twice(), "", "tests.store.shop.Twice"),
        ({"t": [datetime(2026, 1, 1, tzinfo=Zone())]}, "['t'][0]", f"{__name__}.Zone"),
        (defaultdict(lambda: 0), "", "collections.defaultdict"),
        ([memoryview(b"")], "[0]", "memoryview"),
        ({"e": [ValueError("x")]}, "['e'][0]", "ValueError"),
        (threading.Lock(), "", "_thread.lock"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_its_place(
    value: Any, place: str | None, kind: str
) -> None:
    with pytest.raises(EncodeError) as caught:
        Plain().encode(value)
    error = caught.value
    assert error.type == kind
    assert place in (None, error.place)
    assert error.place in str(error)
    assert "stored=False" in str(error)
    assert "codec='pickle'" in str(error)
    assert isinstance(error, StoreError)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.place, copy.type, str(copy)) == (error.place, error.type, str(error))


def test_subclass_is_refused_by_the_name_of_what_it_derives_from() -> None:
    with pytest.raises(EncodeError, match="a subclass of str"):
        Plain().encode([Text("x")])


def test_place_tells_equal_parts_apart() -> None:
    same_part = [1]
    with pytest.raises(EncodeError) as caught:
        Plain().encode({"a": same_part, "b": same_part, "c": [same_part, object()]})
    assert caught.value.place == "['c'][1]"


WRAPS = {
    "list": lambda x: [x],
    "tuple": lambda x: (x,),
    "dict": lambda x: {"a": x},
    "keys": lambda x: {1: x},
}
wraps = pytest.mark.parametrize("wrap", WRAPS)


@wraps
def test_cycle_is_refused(wrap: str) -> None:
    inner: list[Any] = []
    inner.append(WRAPS[wrap](inner))
    with pytest.raises(EncodeError, match="contains itself"):
        Plain().encode({"x": inner})


def nested(depth: int, wrap: str) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = WRAPS[wrap](value)
    return value


@wraps
@pytest.mark.parametrize("depth", [49, 50, 51, 52, 150, 200])
def test_nested_containers_are_kept(wrap: str, depth: int) -> None:
    value = nested(depth, wrap)
    assert again(value) == value


@wraps
@pytest.mark.parametrize("depth", [201, 300, 100_000])
def test_what_is_nested_too_deeply_is_refused(wrap: str, depth: int) -> None:
    value = nested(depth, wrap)
    with pytest.raises(EncodeError, match="nested"):
        Plain().encode(value)


def test_stack_that_is_nearly_full_is_an_error_of_ours() -> None:
    value = nested(150, "tuple")
    data = Plain().encode(value)
    ends: set[str] = set()

    def down() -> None:
        with suppress(RecursionError):
            down()
        try:
            Plain().encode(value)
            Plain().decode(data)
        except StoreError as error:
            ends.add(type(error).__name__)
        except RecursionError:  # before it began
            ends.add("full")
        else:
            ends.add("done")

    down()
    assert "done" in ends
    assert "EncodeError" in ends


def test_value_that_shares_its_parts_without_bound_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fast_dag.store.stream._MOST", 10_000)
    json: Any = [1]
    other: Any = (1,)
    for _ in range(45):
        json, other = [json, json], (other, other)
    for value in (json, other):
        with pytest.raises(EncodeError, match="more than 10,000 containers"):
            Plain().encode(value)


def test_equal_parts_that_were_one_are_two() -> None:
    part: list[int] = []
    left, right = again([part, part])
    assert left == right
    assert left is not right


def test_threads_share_a_codec() -> None:
    plain, wrong = Plain(), []

    def work() -> None:
        wrong.extend(name for name, each in EXAMPLES.items() if not same(again(each, plain), each))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert wrong == []


def test_digest_is_the_same_on_every_python() -> None:
    assert digest(b"") == "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8"
