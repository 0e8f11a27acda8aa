"""Measure fast_dag next to the same calls made by hand; README.md tells how to read the table.

python benchmarks/run.py                      everything
python benchmarks/run.py chain_steady memory  some benchmarks, or those of a module
python benchmarks/run.py threads --quick      just to see that they run
"""

from __future__ import annotations

import building
import codecs_of_stores
import durable
import fsm
import guard
import imports
import instructions
import loops
import maps
import memory
import processes
import sequential
import threads
import traces
from report import command_line

THEMES = (
    sequential,
    building,
    memory,
    threads,
    loops,
    processes,
    maps,
    imports,
    codecs_of_stores,
    durable,
    fsm,
    instructions,
    traces,
    guard,
)

if __name__ == "__main__":
    command_line(
        {each.__name__: each for theme in THEMES for each in theme.BENCHMARKS},
        description=__doc__,
        groups={theme.__name__: [each.__name__ for each in theme.BENCHMARKS] for theme in THEMES},
    )
