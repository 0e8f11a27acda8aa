"""What counts as the same input of a cached node, and what an invalidation reaches."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading

import pandas as pd
import pytest

from fast_dag import DAG, InvalidNodeError, ValidationError
from fast_dag.cache.keys import key_of

SAME = {
    "series": lambda: pd.Series([1, 2], index=[7, 8]),
    "frame": lambda: pd.DataFrame({"a": [1, None], "b": ["x", "y"]}),
    "categories": lambda: pd.Series(pd.Categorical(["x", "y"])),
    "moment": lambda: pd.Timestamp("2020-01-01"),
    "index": lambda: pd.MultiIndex.from_tuples([(1, 2)]),
}


@pytest.mark.parametrize("make", SAME.values(), ids=SAME)
def test_pandas_values_of_equal_content_are_one_input(make):
    assert key_of(make()) == key_of(make())
    assert hash(key_of(make())) == hash(key_of(make()))


OTHERS = {
    "another index": (pd.Series([1, 2]), pd.Series([1, 2], index=[7, 8])),
    "another name": (pd.Series([1, 2]), pd.Series([1, 2], name="a")),
    "another dtype": (pd.Series([1, 2]), pd.Series([1.0, 2.0])),
    "categories": (pd.DataFrame({"a": ["x"]}), pd.DataFrame({"a": pd.Categorical(["x"])})),
    "another moment": (pd.Timestamp("2020-01-01"), pd.Timestamp("2021-01-01")),
}


@pytest.mark.parametrize(("one", "other"), OTHERS.values(), ids=OTHERS)
def test_pandas_values_that_differ_are_two_inputs(one, other):
    assert key_of(one) != key_of(other)


def test_both_zeros_are_one_input():
    assert key_of(-0.0) == key_of(0.0)


def test_invalidation_outdates_what_is_being_computed():
    dag = DAG("d")
    calls: list[int] = []
    started, go_on = threading.Event(), threading.Event()

    @dag.cached_node
    def slow(x):
        calls.append(x)
        started.set()
        assert go_on.wait(30)
        return len(calls)

    first = threading.Thread(target=dag.run, kwargs={"x": 1})
    first.start()
    assert started.wait(30)
    dag.invalidate_cache("slow")
    go_on.set()
    first.join()
    assert dag.run(x=1) == 2
    assert calls == [1, 1]


def test_invalidation_refuses_a_name_that_is_no_part_of_the_key():
    dag = DAG("d")

    @dag.cached_node(cache_key=["user"])
    def profile(user, verbose=False):
        return user

    with pytest.raises(ValidationError, match="did you mean 'user'"):
        dag.invalidate_cache("profile", usr="ada")
    with pytest.raises(ValidationError, match="part of the cache key of 'profile'"):
        dag.invalidate_cache("profile", verbose=True)


def test_cache_key_is_a_list_of_names():
    with pytest.raises(InvalidNodeError, match="cache_key is a list of names, not 'user'"):
        DAG("d").cached_node(name="n", cache_key="user")(lambda user: user)


PROGRAM = """
from fast_dag import DAG
class Kept(dict):
    set, delete = dict.__setitem__, dict.pop
kept, dag = Kept(), DAG("d")
@dag.cached_node(backend=kept)
def known(x):
    return x in {"a", "b", "c", "d"}
dag.run(x="a")
print(*kept)
"""


def test_keys_in_a_backend_are_the_same_in_every_process():
    keys = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=50,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(keys) == 1
    assert keys != {"\n"}


class Times:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return self.factor * x

    def method(self, x):
        return self.factor * x


def times(factor, x):
    return factor * x


def closure(factor):
    return lambda x: factor * x


def wrapped(func):
    @functools.wraps(func)
    def wrapper(*args):
        return func(*args)

    return wrapper


MADE_OF_MORE_THAN_CODE = {
    "closure": closure(3),
    "object": Times(3),
    "method": Times(3).method,
    "partial": functools.partial(times, 3),
    "wrapped": wrapped(lambda x: 3 * x),
}


@pytest.mark.parametrize("func", MADE_OF_MORE_THAN_CODE.values(), ids=MADE_OF_MORE_THAN_CODE)
def test_what_code_does_not_tell_needs_a_version_in_a_shared_backend(func):
    class Kept(dict):
        set, delete = dict.__setitem__, dict.pop

    dag, kept = DAG("d"), Kept()
    with pytest.raises(InvalidNodeError, match=r"'f'.*needs version="):
        dag.cached_node(name="f", backend=kept)(func)
    dag.cached_node(name="f", backend=kept, version=3)(func)
    assert [dag.run(x=2), dag.run(x=2)] == [6, 6]
    assert dag.context.metrics["cache_hits"] == 1
