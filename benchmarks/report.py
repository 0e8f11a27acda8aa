"""The command line: rows as a table in Markdown, printed as they come, and as JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from graphs import chain, straight_line
from timing import Effort, Row, Skip, in_turn, per_node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Benchmark = Callable[[Effort], Iterator[Row]]

_WIDTHS = 46, 28, 18, 8, 16, 6
_HEADINGS = "work", "measured (median)", "target, at most", "", "quartiles", "rounds"


def _line(*cells: str) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=False)]
    return f"| {' | '.join([*padded, *cells[len(_WIDTHS) :]])} |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _cells(row: Row) -> list[str]:
    low, high = row.spread
    return [
        row.work,
        f"{_number(row.median)} {row.unit}",
        "" if row.target is None else _number(row.target),
        row.verdict,
        f"{_number(low)} to {_number(high)}",
        str(len(row.values)),
        row.note,
    ]


def machine() -> dict[str, str]:
    """What the figures depend on, and when they were taken."""
    (line,) = in_turn(straight_line(chain(1_000)), rounds=50)
    try:
        load = f"{os.getloadavg()[0]:.1f}"
    except OSError:
        load = "unknown"
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "load": load,
        "us a node": per_node("L", line, 1_000),
    }


def tabulate(benchmarks: Mapping[str, Benchmark], effort: Effort) -> Iterator[Row]:
    """Run benchmarks; print a line for each row, and yield the row."""
    print("; ".join(f"{key}: {value}" for key, value in machine().items()), end="\n\n")
    print(_line(*_HEADINGS, "more"))
    print(_line(*("-" * width for width in _WIDTHS), "-"), flush=True)
    for name, benchmark in benchmarks.items():
        try:
            for row in benchmark(effort):
                print(_line(*_cells(row)), flush=True)
                yield row
        except Skip as reason:
            print(_line(name, f"skipped: {reason}", *[""] * 5), flush=True)


def command_line(
    benchmarks: Mapping[str, Benchmark],
    description: str | None,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Run the benchmarks that the command line names, by their names or those of groups of them."""
    parser = argparse.ArgumentParser(
        description=description,
        epilog=f"names: {', '.join([*benchmarks, *(groups or ())])}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", help="what to measure; everything when not given")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every value there, too")
    parser.add_argument("--quick", action="store_true", help="a few rounds of small sizes")
    asked = parser.parse_args()
    names = {each for name in asked.names for each in (groups or {}).get(name, (name,))}
    unknown = names - benchmarks.keys()
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; see --help")
    chosen = {name: each for name, each in benchmarks.items() if not names or name in names}
    rows = list(tabulate(chosen, Effort(quick=asked.quick)))
    if asked.json is not None:
        _save(rows, asked.json)


def _save(rows: Sequence[Row], file: Path) -> None:
    told = [row._asdict() | {"median": row.median, "verdict": row.verdict} for row in rows]
    data = {"machine": machine(), "command": sys.argv, "rows": told}
    file.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
