"""Load CSV files into a database, and keep what is wrong with them apart.

    python examples/cookbook/csv_to_sqlite.py               files made for the purpose
    python examples/cookbook/csv_to_sqlite.py FILE ...      files of yours: day, product, pieces

A file that cannot be read fails its own node, and the run goes on without it. A row that cannot be
right is no failure: it takes the other way out of `check`, with the reason.
"""

from __future__ import annotations

import argparse
import csv
import sqlite3
import sys
import tempfile
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from fast_dag import DAG

SAMPLES = {
    "north.csv": "day,product,pieces\n2026-03-01,tea,12\n2026-03-01,cup,three\n2026-03-02,tea,7\n",
    "south.csv": "day,product,pieces\n2026-03-01,cup,4\n2026-02-30,tea,5\n2026-03-02,,1\n",
    "west.csv": "day,product\n2026-03-01,tea\n",
}

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """The rows of a file, each with the place where it stands."""
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = {"day", "product", "pieces"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"no column {', '.join(sorted(missing))}")
        return [{**row, "place": f"{path.name}:{reader.line_num}"} for row in reader]


def check(*files: list[Row] | None) -> tuple[list[Row], list[Row]]:
    """Good rows, and bad ones with the reason. A file that was not read is None."""
    good, bad = [], []
    for row in (row for rows in files if rows is not None for row in rows):
        try:
            if not row["product"]:
                raise ValueError("no product")
            day = date.fromisoformat(row["day"]).isoformat()
            good.append({**row, "day": day, "pieces": int(row["pieces"])})
        except (TypeError, ValueError) as error:  # a TypeError where the row is too short
            bad.append({**row, "reason": str(error)})
    return good, bad


def load(good: list[Row], database: str) -> list[tuple[str, int]]:
    """Write the good rows, all or none of them; returns what the database has now."""
    db = sqlite3.connect(database)
    try:
        with db:
            db.execute("create table if not exists sales (day text, product text, pieces int)")
            db.executemany("insert into sales values (:day, :product, :pieces)", good)
        totals = "select product, sum(pieces) from sales group by product order by product"
        return db.execute(totals).fetchall()
    finally:
        db.close()


def tell(load: list[tuple[str, int]], bad: list[Row]) -> str:
    """What was loaded, and what was rejected."""
    lines = [f"{product:<6}{pieces:>4} pieces" for product, pieces in load]
    lines += [f"rejected {row['place']}: {row['reason']}" for row in bad]
    return "\n".join(lines)


def sales(files: list[Path]) -> DAG:
    """The workflow for these files: a node for each, and what comes after all of them."""
    dag = DAG("sales")
    dag.add_node("check", check, type="any", wait=True, outputs=["good", "bad"])
    for path in files:
        name = f"read {path.name.replace('.', '_')}"
        dag.add_node(name, partial(read, path)).connect(name, "check")
    dag.add_node("load", load).connect("check", "load", output="good")
    dag.add_node("tell", tell).connect("load", "tell").connect("check", "tell", output="bad")
    return dag


def main() -> int:
    """Run the program; its exit status is 1 where a file could not be read."""
    parser = argparse.ArgumentParser(description="Load CSV files into a database.")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--database", default=":memory:", metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        samples = [Path(directory, name) for name in SAMPLES]
        for path in samples:
            path.write_text(SAMPLES[path.name], encoding="utf-8")
        dag = sales(options.files or samples)
        run = dag.execute(database=options.database, error_strategy="continue")
    if run.value is not None:
        print(run.value)
    for name, error in run.errors.items():
        print(f"{name!r} failed: {error}")
    return 1 if run.errors else 0


if __name__ == "__main__":
    sys.exit(main())
