"""The store that is kept in `golden/`, one for each version of the tables.

    python -m tests.store.golden

writes that of the version of today, which must never be written again once it was released.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

from fast_dag import DAG
from fast_dag.store import Store, schema

DIRECTORY = Path(__file__).parent / "golden"


def load(n: int) -> dict[str, Any]:
    return {"n": n, "day": date(2026, 11, 27), "price": Decimal("1.50"), "set": {1, 2}}


def is_many(load: dict[str, Any]) -> bool:
    return bool(load["n"] > 2)


def many(load: dict[str, Any]) -> list[int]:
    return list(range(load["n"]))


def few(load: dict[str, Any]) -> list[int]:
    return []


def square(x: int) -> int:
    return x * x


def add(squares: list[int]) -> int:
    return sum(squares)


def pay(total: int) -> str:
    if total == 30:
        raise KeyboardInterrupt
    if total == 14:
        raise ValueError("no money")
    return f"paid {total}"


def pipeline() -> DAG:
    inner = DAG("inner")
    inner.map(name="squares")(square)
    inner.add_node("add", add).connect("squares", "add")
    dag = DAG("golden").add_node("load", load).add_node("is_many", is_many, type="condition")
    dag.add_node("many", many).add_node("few", few).add_node("total", inner)
    dag.add_node("pay", pay, once=True)
    dag.connect("load", "is_many").connect("is_many", "many", output="true", input="load")
    dag.connect("is_many", "few", output="false", input="load")
    return dag.connect("many", "total", input="x").connect("total", "pay")


def make(path: Path) -> None:
    dag = pipeline()
    with Store(path) as store:
        dag.run(store=store, run_id="finished", n=3, tags={"kind": "good", "size": 3})
        dag.execute(store=store, run_id="failed", n=4)
        with suppress(KeyboardInterrupt):
            dag.run(store=store, run_id="in doubt", n=5)
        store.fork("finished", run_id="interrupted", at="pay")
        store.fork("in doubt", run_id="forked", at="total.add")
        dag.run(store=store, run_id="rerun", n=3)
        dag.run(store=store, run_id="rerun", rerun="many")


def check(store: Store) -> None:
    """What must be found in each of them."""
    record = store.run("finished")
    assert record["load"] == load(3)
    assert record["total.squares"] == [0, 1, 4]
    assert record["pay"] == "paid 5"
    assert record.tags == {"kind": "good", "size": 3}
    assert record.statuses["few"] == "skipped"
    assert str(store.run("failed").errors["pay"]) == "ValueError: no money"
    assert store.run("in doubt").in_doubt == ["pay"]
    assert store.run("rerun").generation == 2
    dag = pipeline()
    assert dag.run(store=store, run_id="finished") == "paid 5"
    run = dag.execute(store=store, run_id="interrupted")
    assert (run.value, run.metrics["replayed"]) == ("paid 5", 4)
    store.decide("in doubt", "pay", value="paid by hand")
    assert dag.run(store=store, run_id="in doubt") == "paid by hand"


def main() -> None:
    path = DIRECTORY / f"v{schema.VERSION}.db"
    DIRECTORY.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    make(path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute("VACUUM")
    connection.close()
    for each in DIRECTORY.glob("*-*"):
        each.unlink()


if __name__ == "__main__":
    main()
