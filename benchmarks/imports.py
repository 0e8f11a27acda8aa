"""What `import fast_dag` takes, each measured in an interpreter of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from timing import Row, in_turn, ratios

if TYPE_CHECKING:
    from collections.abc import Iterator

    from timing import Effort

_SLOW = ("asyncio", "concurrent.futures", "multiprocessing", "logging")


def _python(code: str) -> str:
    # With compiled modules, as where a package is installed.
    settings = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=settings)
    return done.stdout


def _import_seconds(module: str) -> float:
    clock = "from time import perf_counter as clock; started = clock()"
    return float(_python(f"{clock}; import {module}; print(clock() - started)"))


def import_time(effort: Effort) -> Iterator[Row]:
    """The import statement next to that of `dataclasses`, and a whole `python -c` next to one that
    does nothing; the modules it should not have loaded, counted."""
    times = [
        (_import_seconds("fast_dag"), _import_seconds("dataclasses"))
        for _ in range(effort.of(30, 2))
    ]
    ours, theirs = zip(*times, strict=True)
    note = f"{1e3 * sorted(ours)[len(ours) // 2]:.1f} ms"
    yield Row("import fast_dag", ratios(ours, theirs), "x import dataclasses", 1.3, note)
    whole, nothing = in_turn(
        lambda: _python("import fast_dag"), lambda: _python("pass"), rounds=effort.of(30, 2)
    )
    yield Row("python -c 'import fast_dag'", ratios(whole, nothing), "x python -c pass")
    loaded = _python(
        "import sys; before = set(sys.modules); import fast_dag; "
        "print(*(set(sys.modules) - before))"
    ).split()
    known = sys.stdlib_module_names | {"fast_dag"}
    unwanted = [name for name in loaded if name.partition(".")[0] not in known or name in _SLOW]
    noted = ", ".join(sorted(unwanted)) or "the standard library only, and not its slow modules"
    yield Row("modules it should not load", [float(len(unwanted))], "modules", 0.0, noted)


BENCHMARKS = (import_time,)
