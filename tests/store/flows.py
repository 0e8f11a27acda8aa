"""Workflows that write down each call of a node, for tests that kill the process."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from fast_dag import DAG
from fast_dag.store import Store

CALLS = ""
"""The file for the names of nodes that are called."""


def called(name: str, value: Any) -> Any:
    # In the process of the run, and in those of its nodes.
    with open(os.environ["FAST_DAG_CALLS"], "a") as file:
        file.write(f"{name}\n")
    return value


def load(n: int) -> int:
    return int(called("load", n))


def check(load: int) -> bool:
    return bool(called("check", load > 3))


def big(check: int) -> list[int]:
    return list(called("big", [check]))


def small(check: int) -> list[int]:
    return list(called("small", [check]))


async def first(big: list[int]) -> list[int]:
    return list(called("sub.first", [*big, 1]))


def second(first: list[int]) -> list[int]:
    return list(called("sub.second", [*first, 2]))


def left(load: int) -> int:
    return int(called("left", load * 2))


def right(load: int) -> int:
    return int(called("right", load * 3))


def broken(load: int) -> int:
    called("broken", None)
    raise ValueError("always")


def cached(left: int, right: int) -> dict[str, int]:
    return dict(called("cached", {"left": left, "right": right}))


def numbers(load: int) -> list[int]:
    return list(called("numbers", list(range(load))))


def item(number: int) -> int:
    called(f"items[{number}]", None)
    if number == 3:
        raise ValueError("not this one")
    return number * number


def last(sub: list[int], cached: dict[str, int], items: list[int], name: str = "last") -> list[Any]:
    return list(called("last", [*sub, cached["left"], cached["right"], *items, name]))


VALUE = [5, 1, 2, 10, 15, 0, 1, 4, 16, "last"]


def pipeline() -> DAG:
    """load -> check -> big | small -> sub (first -> second) -> last; beside that left and right ->
    cached -> last, a map with an item that fails, and a node that fails."""
    inner = DAG("inner").add_node("first", first).add_node("second", second)
    inner.connect("first", "second")
    dag = DAG("pipeline").add_node("load", load).add_node("check", check, type="condition")
    dag.add_node("big", big).add_node("small", small).add_node("sub", inner)
    dag.add_node("left", left, retry=1).add_node("right", right).add_node("broken", broken)
    dag.add_node("cached", cached, cache={}).add_node("last", last)
    dag.map(name="items", on_error="drop")(item)
    dag.add_node("numbers", numbers)
    dag.connect("load", "numbers").connect("numbers", "items")
    dag.connect("load", "check").connect("check", "big", output="true")
    dag.connect("check", "small", output="false").connect("big", "sub", input="big")
    dag.connect("load", "left").connect("load", "right").connect("load", "broken")
    dag.connect("left", "cached", input="left").connect("right", "cached", input="right")
    dag.connect("sub", "last").connect("cached", "last", input="cached")
    dag.connect("items", "last", input="items")
    return dag


def execute(path: str, calls: str, mode: str, durability: str = "process", **options: Any) -> Any:
    """Run the pipeline; what came of it, as data."""
    os.environ["FAST_DAG_CALLS"] = calls
    dag = pipeline()
    with Store(path, durability=durability) as store:
        asked = {"store": store, "run_id": "r", "n": 5, "error_strategy": "continue", **options}
        if mode == "run_async":
            run = asyncio.run(dag.execute_async(**asked))
        else:
            run = dag.execute(mode=mode, **asked)
    return {
        "value": run.value,
        "status": run.status,
        "statuses": {name: str(status) for name, status in run.statuses.items()},
        "errors": {name: str(error) for name, error in run.errors.items()},
    }
