"""Calls of one function, made in one message: for maps."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fast_dag import DAG, Workers
from fast_dag.drive import payload
from fast_dag.drive.dispatcher import Dispatcher
from fast_dag.drive.process_lane import Batch, Ended, ProcessLane
from fast_dag.drive.processes import Head
from tests.concurrency.support import wait_until
from tests.patience import LONG, timeouts
from tests.workers import steps

if TYPE_CHECKING:
    from collections.abc import Iterator


class Crowd:
    """Has batches made, and notes what is told of them."""

    def __init__(self, workers: Workers) -> None:
        dag = DAG("crowd").add_node("n", steps.pid)
        self.pool = workers._pool
        self.lane = ProcessLane(Dispatcher(dag.execute()._execution), self.pool)

    def make(self, func: Any, items: list[Any], budget: float = LONG, **given: Any) -> Made:
        head = Head(payload.Head(func, (), given, ["x"]))
        made = Made(head, items, budget)
        self.lane.launch_batch(made.batch)
        return made


class Made:
    def __init__(self, head: Head, items: list[Any], budget: float = LONG) -> None:
        self.told: dict[int, payload.Told] = {}
        self.over = threading.Event()
        self.how: Ended | None = None
        self.kept: list[int] = []
        given = [(each,) for each in items]
        self.batch = Batch("n", head, given, budget, self._take, self._end, self.kept.append)

    def _take(self, first: int, part: payload.Part) -> None:
        for at, value in enumerate(part.values):
            self.told[first + at] = part.failed.get(at) or (True, value, {}, part.seconds[at])

    def _end(self, how: Ended) -> None:
        self.how = how
        self.over.set()

    def ended(self) -> Ended:
        assert self.over.wait(LONG)
        assert self.how is not None
        return self.how

    def values(self) -> list[Any]:
        return [told[1] for _, told in sorted(self.told.items()) if told[0]]


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    with Workers(1) as workers:
        made = Crowd(workers)
        yield made
        made.lane.close(abandon=False)


def test_each_item_has_an_outcome(crowd: Crowd) -> None:
    made = crowd.make(steps.item, list(range(12)))
    assert made.ended() == Ended(12, None)
    assert made.values() == [x * x for x in range(12) if x != 7]
    ok, error, notes, _ = made.told[7]
    assert ok is False
    assert isinstance(error, ValueError)
    assert "steps.py" in notes[0]


def test_results_come_before_the_items_behind_them_have_ended(crowd: Crowd, tmp_path: Path) -> None:
    go = tmp_path / "go"
    made = crowd.make(steps.wait_at_2, [(x, str(go)) for x in range(4)])
    wait_until(lambda: len(made.told) == 2)
    assert made.values() == [0, 1]
    go.touch()
    made.ended()
    assert made.values() == [0, 1, 2, 3]


def test_a_killed_process_tells_which_item_it_was_at(crowd: Crowd, tmp_path: Path) -> None:
    log = tmp_path / "log"
    made = crowd.make(steps.item, [1, 100, 2, 13, 5, 6], log=str(log))
    how = made.ended()
    assert how.begun == 4
    assert "'n' died before the call ended" in str(how.error)
    told = made.values()  # what had ended, but was not told yet, is lost with it
    assert told in ([1], [1, 10_000], [1, 10_000, 4])
    assert len(log.read_text(encoding="utf-8").splitlines()) == 4
    assert crowd.make(steps.item, [5, 6]).ended().begun == 2


def test_what_takes_too_long_is_given_back(crowd: Crowd) -> None:
    made = crowd.make(steps.item, [100, 1, 2], budget=0.05)
    assert made.ended() == Ended(1, None)
    assert made.values() == [10_000]


def test_items_behind_one_that_takes_too_long_are_given_back_while_it_goes_on(
    crowd: Crowd, tmp_path: Path
) -> None:
    go, begun = tmp_path / "go", tmp_path / "go begun"
    for budget in timeouts(0.05):
        made = crowd.make(steps.wait_at_2, [(x, str(go)) for x in range(10)], budget=budget)
        wait_until(lambda made=made: made.kept or made.over.is_set())
        if begun.exists():
            break
    assert made.kept == [3]
    assert not made.over.is_set()
    go.touch()
    assert made.ended().begun == 3
    assert made.values() == [0, 1, 2]


def test_a_batch_can_be_killed(crowd: Crowd) -> None:
    made = crowd.make(steps.item, [1] + [100] * 50)
    wait_until(lambda: made.told)
    crowd.lane.kill_batch(made.batch)
    how = made.ended()
    assert how.error is not None
    assert how.begun < 51


def test_what_all_are_given_is_sent_once(crowd: Crowd) -> None:
    array = np.ones(300_000)
    head = Head(payload.Head(lambda x, array: x + array.sum(), (), {"array": array}, ["x"]))
    for first in range(3):
        made = Made(head, [first])
        crowd.lane.launch_batch(made.batch)
        made.ended()
        assert made.values() == [first + 300_000]
    (process,) = crowd.pool._all
    assert process.heads == {head.number}
    crowd.pool.forget(head)
    assert process.heads == set()


def test_what_cannot_travel_costs_its_own_item(crowd: Crowd) -> None:
    made = crowd.make(lambda x: threading.Lock() if x == 2 else x, [1, 2, 3])
    made.ended()
    assert made.values() == [1, 3]
    assert made.told[1][0] is None
    assert "its result, a lock, cannot be pickled" in made.told[1][1]


def test_a_head_that_does_not_unpickle_costs_its_batch_only(crowd: Crowd) -> None:
    made = crowd.make(steps.item, [1, 2], log=steps.Unpicklable())
    how = made.ended()
    assert how.begun == 0
    assert "its call cannot be unpickled there: LookupError: not here" in str(how.error)
    assert crowd.make(steps.item, [3]).ended() == Ended(1, None)
