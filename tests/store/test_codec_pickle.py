"""Pickles are behind a digest with a key, and nothing is loaded before it is right."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from fast_dag.store.codec import CloudPickle, Pickle
from fast_dag.store.errors import DamagedError, DecodeError, EncodeError
from tests.store.shop import Plainly

KEY = b"a secret of this test"

run: list[str] = []
codecs = pytest.mark.parametrize(
    "codec",
    [Pickle, pytest.param(CloudPickle, marks=pytest.mark.needs("cloudpickle"))],
)


class Bomb:
    def __reduce__(self) -> Any:
        return run.append, ("bang",)


@codecs
def test_value_comes_back(codec: Any) -> None:
    value = {"a": [1, (2,)], "b": {3}}
    assert codec(KEY).decode(codec(KEY).encode(value, context=b"x"), context=b"x") == value


@codecs
@pytest.mark.parametrize("change", ["key", "context", "byte", "short", "empty"])
def test_nothing_is_loaded_if_the_digest_is_another(codec: Any, change: str) -> None:
    data = codec(KEY).encode(Bomb(), context=b"here")
    run.clear()
    key, context = KEY, b"here"
    if change == "key":
        key = b"another secret, as long"
    elif change == "context":
        context = b"her\xff"
    elif change == "byte":
        data = data[:-1] + bytes([data[-1] ^ 1])
    elif change == "short":
        data = data[:20]
    else:
        data = b""
    with pytest.raises(DamagedError, match="nothing of it was loaded"):
        codec(key).decode(data, context=context)
    assert run == []


def test_context_and_data_do_not_run_together() -> None:
    codec = Pickle(KEY)
    data = codec.encode(1, context=b"a")
    moved = data[:33] + b"a" + data[33:]
    with pytest.raises(DamagedError):
        codec.decode(moved, context=b"")


@pytest.mark.needs("cloudpickle")
def test_bytes_of_one_codec_are_not_those_of_the_other() -> None:
    with pytest.raises(DamagedError):
        CloudPickle(KEY).decode(Pickle(KEY).encode(1))


@codecs
@pytest.mark.parametrize(
    "value", [(x for x in ()), iter([1]), zip([1])], ids=["generator", "iterator", "zip"]
)
def test_one_shot_values_are_refused(codec: Any, value: Any) -> None:
    with pytest.raises(EncodeError, match="once only"):
        codec(KEY).encode(value)


def test_what_does_not_pickle_is_refused() -> None:
    with pytest.raises(EncodeError, match="pickle") as caught:
        Pickle(KEY).encode(lambda: 0)
    assert isinstance(caught.value.__cause__, (pickle.PicklingError, AttributeError))


def failing() -> None:
    raise RuntimeError("gone")


def test_what_cannot_be_loaded_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Pickle(KEY).encode(Plainly())
    monkeypatch.delattr("tests.store.shop.Plainly")
    with pytest.raises(DecodeError, match="cannot be loaded"):
        Pickle(KEY).decode(data)


@pytest.mark.parametrize("key", [b"", b"short", "a text that is long enough", None])
def test_key_must_be_long(key: Any) -> None:
    with pytest.raises(ValueError, match="at least 16 bytes"):
        Pickle(key)


def test_key_is_not_shown() -> None:
    assert "secret" not in repr(Pickle(KEY))
