"""Items that are called in batches: random ones are slow, or fail, or both."""

from __future__ import annotations

from random import Random
from time import sleep
from typing import Any

import pytest

from fast_dag import DAG, Workers


def called(x: int, slow: dict[int, float], failing: set[int]) -> int:
    if x in slow:
        sleep(slow[x])
    if x in failing:
        raise ValueError(x)
    return x


def check(seed: int, **options: Any) -> None:
    """Compare one random map with the items that do not fail."""
    random = Random(seed)
    count = random.choice([1, 2, 3, 50, 500, 3000])
    some = [random.randrange(count) for _ in range(random.choice([0, 1, 3, 20]))]
    slow = {each: random.choice([0.0005, 0.002, 0.02, 0.15]) for each in some[:4]}
    failing = {each for each in some if random.random() < 0.7}
    into = random.choice([None, None, list])
    dag = DAG("random").add_node("f", called, over="x", on_error="drop", into=into)
    x = random.choice([range(count), iter(range(count))])
    run = dag.execute(x=x, slow=slow, failing=failing, **options)
    assert run.value == [each for each in range(count) if each not in failing]
    items = run.items("f")
    assert (items.completed, items.failed) == (count - len(failing), len(failing))
    assert sum(number for _, number in items.histogram) == count


@pytest.mark.stress
@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("seed", range(0, 200, 50))
def test_each_item_is_called_once_in_threads(workers: int, seed: int) -> None:
    for each in range(seed, seed + 50):
        check(each, mode="parallel", max_workers=workers)


@pytest.mark.stress
@pytest.mark.needs("cloudpickle")
@pytest.mark.parametrize("seed", range(0, 100, 50))
def test_each_item_is_called_once_in_processes(seed: int) -> None:
    with Workers(3) as workers:
        for each in range(seed, seed + 50):
            check(each, executor=workers)
