"""A table of sales for cron: what has not changed since the last time is not computed again.

    python examples/cookbook/daily_sales.py sales --example     files to begin with
    python examples/cookbook/daily_sales.py sales
    python examples/cookbook/daily_sales.py sales --add 2026-02-11,cup,4,4.5

Needs pandas. There is a CSV file for each month. Each file is read every time, which is fast; what
is slow is done for the months whose data differ. In a crontab:

    5 6 * * *  cd /srv/shop && .venv/bin/python daily_sales.py sales >> sales.log

Exit status: 0 all is well, 1 a month could not be used; the table has the others.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import pandas as pd  # type: ignore[import-untyped]

from fast_dag import DAG
from fast_dag.cache import DiskCache

EXAMPLE = {
    "2026-01": "day,item,pieces,price\n2026-01-05,tea,3,4.0\n2026-01-19,cup,2,4.5\n",
    "2026-02": "day,item,pieces,price\n2026-02-02,tea,5,4.0\n2026-02-09,pot,1,22.0\n",
    "2026-03": "day,item,pieces,price\n2026-03-03,cup,6,4.5\n2026-03-04,tea,1,4.25\n",
}


def read(path: Path) -> pd.DataFrame:
    """The sales of a month."""
    return pd.read_csv(path, parse_dates=["day"])


def earned(sales: pd.DataFrame) -> pd.DataFrame:
    """What each item brought: the slow step, say."""
    priced = sales.assign(earned=sales["pieces"] * sales["price"])
    return priced.pivot_table(index="item", values="earned", aggfunc="sum")


def table(months: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Items by months."""
    columns = {month: frame["earned"] for month, frame in months.items()}
    return pd.DataFrame(columns).fillna(0.0).sort_index().rename_axis(None)


def pipeline(files: list[Path], cache: DiskCache) -> DAG:
    """The workflow: two nodes for each month."""
    dag = DAG("sales")
    for path in files:
        dag.add_node(f"read {path.stem}", partial(read, path))
        dag.cached_node(name=path.stem, backend=cache)(earned)
        dag.connect(f"read {path.stem}", path.stem)
    return dag


def main() -> int:
    """Write the example, or print the table."""
    parser = argparse.ArgumentParser(description="What was earned, by items and months.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--example", action="store_true", help="write files to begin with")
    parser.add_argument("--add", metavar="LINE", help="a line for the file of its month")
    options = parser.parse_args()
    if options.example:
        options.folder.mkdir()
        for month, text in EXAMPLE.items():
            (options.folder / f"{month}.csv").write_text(text, encoding="utf-8")
        return 0
    if options.add:
        with (options.folder / f"{options.add[:7]}.csv").open("a", encoding="utf-8") as file:
            print(options.add, file=file)

    files = sorted(options.folder.glob("*.csv"))
    run = pipeline(files, DiskCache(options.cache)).execute(
        mode="parallel", error_strategy="continue"
    )
    months = [path.stem for path in files if path.stem in run.results]
    print(table({month: run[month] for month in months}).to_string())
    print(f"computed {run.metrics['cache_misses']}, found {run.metrics['cache_hits']}")
    for name, error in run.errors.items():
        print(f"{name} failed: {error}", file=sys.stderr)
    return 1 if run.errors else 0


if __name__ == "__main__":
    raise SystemExit(main())
