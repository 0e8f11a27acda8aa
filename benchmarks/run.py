"""Measure fast_dag next to the same calls made by hand: see README.md.

python benchmarks/run.py                      everything
python benchmarks/run.py chain_steady memory  some benchmarks, by their names
python benchmarks/run.py threads --quick      those of a module, just to see that they run
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import building
import fsm
import imports
import loops
import memory
import processes
import sequential
import threads
from report import save, tabulate
from timing import Effort

if TYPE_CHECKING:
    from collections.abc import Iterator

    from report import Benchmark

THEMES = (sequential, building, memory, threads, loops, processes, imports, fsm)


def chosen(names: list[str]) -> Iterator[tuple[str, Benchmark]]:
    """The benchmarks that bear one of these names, or stand in a module that does."""
    for theme in THEMES:
        for benchmark in theme.BENCHMARKS:
            if not names or {benchmark.__name__, theme.__name__} & set(names):
                yield benchmark.__name__, benchmark


def main() -> None:
    known = {name: benchmark.__doc__ for name, benchmark in chosen([])}
    listed = "\n".join(f"  {name}\n      {doc}" for name, doc in known.items())
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"benchmarks:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", help="benchmarks or modules; all when not given")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every value there, too")
    parser.add_argument("--quick", action="store_true", help="a few rounds of small sizes")
    asked = parser.parse_args()
    unknown = set(asked.names) - {*known, *(theme.__name__ for theme in THEMES)}
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; see --help")
    rows = list(tabulate(dict(chosen(asked.names)), Effort(quick=asked.quick)))
    if asked.json is not None:
        save(rows, asked.json)


if __name__ == "__main__":
    main()
