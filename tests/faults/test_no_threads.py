"""The system allows no further threads: runs go on with those that there are, or say so."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import DAG, Workers
from tests.ways import EXECUTE

if TYPE_CHECKING:
    from collections.abc import Iterator

TOO_MUCH = 1 << 60
"""No system has so much memory for the stack of a thread."""

NODES = 6


@pytest.fixture(autouse=True)
def _stacks() -> Iterator[None]:
    before = threading.stack_size()
    yield
    threading.stack_size(before)


def fan(first: Any) -> DAG:
    """`first`, then several nodes at once, which return their thread."""
    dag = DAG("fan").add_node("first", first, run_in="thread")
    for number in range(NODES):
        dag.add_node(f"n{number}", lambda first: threading.get_ident()).connect(
            "first", f"n{number}"
        )
    return dag


def allow_no_further_threads() -> None:
    threading.stack_size(TOO_MUCH)


@pytest.mark.parametrize("way", ["parallel", "timed", "async", "run_async"])
def test_calls_wait_for_threads_that_there_are(way: str) -> None:
    run = EXECUTE[way](fan(allow_no_further_threads))
    assert run.status == "completed"
    assert threading.main_thread().ident not in run.results.values() or way == "parallel"


@pytest.mark.parametrize("way", ["timed", "async", "process"])
def test_run_that_gets_no_thread_at_all_says_so(way: str) -> None:
    dag = DAG("d").add_node("a", int, inputs=[]).add_node("b", int, inputs=[])
    threading.stack_size(TOO_MUCH)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        EXECUTE[way](dag)
    threading.stack_size(0)
    assert EXECUTE[way](dag).status == "completed"


def test_workers_are_served_by_the_threads_that_there_are() -> None:
    pytest.importorskip("cloudpickle")
    dag = DAG("d")
    for number in range(NODES):
        dag.add_node(f"n{number}", lambda x=number: x)
    with Workers(3) as workers:
        assert workers.submit(int).result() == 0
        threading.stack_size(TOO_MUCH)
        run = dag.execute(executor=workers)
        assert run.results == {f"n{number}": number for number in range(NODES)}
