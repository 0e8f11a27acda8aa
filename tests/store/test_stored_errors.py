"""Errors of stores carry facts and pickle; failures of nodes are stored as data."""

from __future__ import annotations

import pickle
import traceback

import pytest

from fast_dag.errors import FastDAGError
from fast_dag.store import errors
from fast_dag.store.codec import Plain
from fast_dag.store.errors import StoredError, StoreError, from_data, to_data

TREE = [
    each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, StoreError)
]


@pytest.mark.parametrize("kind", TREE)
def test_error_pickles_with_its_facts(kind: type[StoreError]) -> None:
    copy = pickle.loads(pickle.dumps(kind("what is wrong", run_id="order-17", node="charge")))
    assert type(copy) is kind
    assert (str(copy), copy.run_id, copy.node) == ("what is wrong", "order-17", "charge")


def test_unknown_run_is_a_key_error() -> None:
    assert issubclass(errors.UnknownRunError, KeyError)


def failure() -> BaseException:
    try:
        try:
            1 / 0
        except ZeroDivisionError as error:
            raise ValueError("bad \ud800") from error
    except ValueError as error:
        error.add_note("see the log")
        return error


def test_failure_is_kept_as_data() -> None:
    plain = Plain()
    error = from_data(plain.decode(plain.encode(to_data(failure()))))
    assert type(error) is StoredError
    assert not isinstance(error, StoreError)
    assert isinstance(error, FastDAGError)
    assert (error.type, error.message, error.notes) == (
        "ValueError",
        "bad \ud800",
        ("see the log",),
    )
    assert "1 / 0" in error.traceback
    assert "direct cause" in error.traceback
    assert "see the log" in "".join(traceback.format_exception(error))


def test_stored_error_pickles() -> None:
    error = from_data(to_data(failure()))
    error.__cause__ = KeyError("x")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.type, copy.notes, copy.traceback) == (
        str(error),
        error.type,
        error.notes,
        error.traceback,
    )
    assert copy.__notes__ == ["see the log"]
    assert repr(copy.__cause__) == "KeyError('x')"


def test_stored_error_that_is_stored_again_is_the_same() -> None:
    data = to_data(failure())
    assert to_data(from_data(data)) == data


def test_endless_texts_are_cut() -> None:
    data = to_data(ValueError("x" * 1_000_000))
    assert len(data["message"]) < 110_000
    assert "left out" in data["message"]


class OddError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_exception_that_cannot_be_shown_is_stored() -> None:
    odd = OddError()
    odd.__notes__ = [1, "two"]  # type: ignore[list-item]
    assert Plain().encode(to_data(odd))
    assert to_data(odd)["notes"] == ["1", "two"]
    assert to_data(odd)["type"].endswith("test_stored_errors.OddError")
