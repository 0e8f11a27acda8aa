"""Try all combinations of two parameters, and make a table of what they lead to.

    python examples/cookbook/sweep_table.py
    python examples/cookbook/sweep_table.py --mode process --tills 3 4 5

How long do customers wait in a shop, depending on the number of tills and on how often somebody
comes in? Each combination is simulated by itself.
"""

from __future__ import annotations

import argparse
import heapq
import random

from fast_dag import DAG, ExecutionMode

sweep = DAG("sweep")


@sweep.map(product=["tills", "minutes"], keys=lambda tills, minutes: (tills, minutes))
def mean_wait(tills: int, minutes: float, customers: int = 2_000, seed: int = 7) -> float:
    """Simulate a day: somebody comes in every so many minutes, and needs about two at a till."""
    chance = random.Random(seed)
    free_at = [0.0] * tills
    now = waited = 0.0
    for _ in range(customers):
        now += chance.expovariate(1 / minutes)
        begins = max(now, heapq.heappop(free_at))
        waited += begins - now
        heapq.heappush(free_at, begins + chance.expovariate(1 / 2))
    return waited / customers


@sweep.node
def table(mean_wait: dict[tuple[int, float], float]) -> str:
    """A line for each number of tills, a column for each distance between customers."""
    columns = sorted({minutes for _, minutes in mean_wait})
    lines = ["tills" + "".join(f"{f'{each:g} min':>9}" for each in columns)]
    for tills in sorted({tills for tills, _ in mean_wait}):
        waits = (mean_wait[tills, each] for each in columns)
        lines.append(f"{tills:5}" + "".join(f"{wait:9.2f}" for wait in waits))
    return "\n".join(lines)


mean_wait >> table


def main() -> None:
    """Sweep, and print the table."""
    parser = argparse.ArgumentParser(description="Minutes of waiting at the tills of a shop.")
    parser.add_argument("--tills", type=int, nargs="+", default=[1, 2, 3], metavar="N")
    parser.add_argument("--minutes", type=float, nargs="+", default=[2.5, 1.5, 1, 0.75])
    modes = [each.value for each in ExecutionMode]
    parser.add_argument("--mode", choices=modes, default="sequential")
    options = parser.parse_args()
    run = sweep.execute(tills=options.tills, minutes=options.minutes, mode=options.mode)
    run.raise_for_error()
    print(run.value)
    print(f"{run.items(mean_wait).completed} simulations")


if __name__ == "__main__":
    main()
