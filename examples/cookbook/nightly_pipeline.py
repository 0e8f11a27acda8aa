"""A nightly pipeline that goes on where it was when it is killed, and does nothing twice.

    python examples/cookbook/nightly_pipeline.py night --day 2026-11-27 --die load
    python examples/cookbook/nightly_pipeline.py night --day 2026-11-27

The day is the id of the run. Whoever starts it, and however often: cron, a person, a machine that
comes back after a power cut. Call it more often than needed, and it is never too late:

    */10 0-6 * * *  cd /srv/shop && python nightly_pipeline.py night --day $(date +\\%F)

`--die NODE` kills the process in that node, as the machine or the kernel might.

Exit status: 0 the day is done, 1 a node failed, 75 another process is at work on it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from fast_dag import DAG, Context
from fast_dag.store import RunInUseError, Store

pipeline = DAG("pipeline")


def told(node: str, context: Context) -> None:
    """Say what is called; die if somebody wants to see that."""
    print(f"{node} ...", flush=True)
    if node == context.metadata.get("die"):
        os.kill(os.getpid(), signal.SIGKILL)


@pipeline.node
def fetch(day: str, context: Context) -> list[tuple[str, int]]:
    """What was sold; in truth a slow service."""
    told("fetch", context)
    return [("tea", 3), ("pot", 1), ("tea", 2), ("cup", 6)]


@pipeline.node
def check(fetch: list[tuple[str, int]], context: Context) -> list[tuple[str, int]]:
    """Refuse a day without sales: it means that the service was wrong."""
    told("check", context)
    if not fetch:
        raise ValueError("nothing was sold")
    return fetch


@pipeline.node
def load(check: list[tuple[str, int]], day: str, target: Path, context: Context) -> int:
    """Put them into the table. A node may be called twice if it dies in the middle: so this one
    replaces the day, in one transaction, instead of adding to it."""
    told("load", context)
    with closing(sqlite3.connect(target)) as table, table:
        table.execute("CREATE TABLE IF NOT EXISTS sales (day, product, pieces)")
        table.execute("DELETE FROM sales WHERE day = ?", (day,))
        rows = [(day, *each) for each in check]
        table.executemany("INSERT INTO sales VALUES (?, ?, ?)", rows)
    return len(rows)


@pipeline.node
def publish(load: int, day: str, context: Context) -> str:
    """Tell the people."""
    told("publish", context)
    return f"{day}: {load} sales"


fetch >> check >> load >> publish


def main() -> int:
    parser = argparse.ArgumentParser(description="Load the sales of a day.")
    parser.add_argument("directory", type=Path, help="where the store and the table are")
    parser.add_argument("--day", required=True)
    parser.add_argument("--die", metavar="NODE", help="be killed in this node")
    given = parser.parse_args()
    given.directory.mkdir(exist_ok=True)
    with Store(given.directory / "runs.db", retention="90 days") as store:
        try:
            run = pipeline.execute(
                store=store,
                run_id=f"nightly-{given.day}",
                rerun="failed",
                context=Context(metadata={"die": given.die}),
                day=given.day,
                target=given.directory / "sales.db",
            )
        except RunInUseError as error:
            print(error, file=sys.stderr)
            return 75
    failure = run.exception()
    if failure is not None:
        print(failure, file=sys.stderr)
        return 1
    print(f"{run.value} ({run.metrics['replayed']} of {len(run.statuses)} nodes were done before)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
