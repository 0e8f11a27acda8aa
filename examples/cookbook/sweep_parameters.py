"""A parameter sweep, as in a notebook: load once, fit many times, look, and try some more.

    python examples/cookbook/sweep_parameters.py

Needs numpy. Every `# %%` begins a cell, which many editors run alone. The data are made: a curve
with noise, to which polynomials of several degrees are fitted.
"""

# %% The data, and one fit.
from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np
import numpy.typing as npt

from fast_dag import DAG, Run

Vector = npt.NDArray[np.float64]
Data = tuple[Vector, Vector]
sweep = DAG("sweep")
calls: list[str] = []


@sweep.cached_node
def data(seed: int = 7) -> Data:
    """The slow step: it stands for a query. The cache keeps it from one cell to the next."""
    calls.append("data")
    x = np.linspace(-1, 1, 60)
    return x, np.sin(3 * x) + np.random.default_rng(seed).normal(0, 0.2, len(x))


def fit(data: Data, degree: int, ridge: int) -> float:
    """The error of a fit on the third of the points that it has not seen; `ridge` in percent."""
    x, y = data
    seen = np.arange(len(x)) % 3 != 0
    if degree >= seen.sum():
        raise ValueError(f"{seen.sum()} points are too few for degree {degree}")
    powers = np.vander(x, degree + 1)
    squares = powers[seen].T @ powers[seen] + ridge / 100 * np.eye(degree + 1)
    found = np.linalg.solve(squares, powers[seen].T @ y[seen])
    return float(np.sqrt(np.mean((powers[~seen] @ found - y[~seen]) ** 2)))


# %% A node for each combination. Those that are there stay, with what they gave.
def add(degrees: list[int], ridges: list[int]) -> list[str]:
    """The names of the nodes that are new."""
    names = []
    for degree, ridge in product(degrees, ridges):
        name = f"degree {degree}, ridge {ridge}%"
        if name not in sweep.nodes:
            sweep.add_node(name, partial(fit, degree=degree, ridge=ridge), inputs=["data"])
            sweep.connect("data", name)
            names.append(name)
    return names


def run(names: list[str]) -> Run:
    """Run these nodes and what they need. A fit that fails leaves a gap and ends nothing."""
    return sweep.execute(outputs=names, mode="parallel", error_strategy="continue")


def show(errors: dict[str, float]) -> None:
    """The best three."""
    for name, error in sorted(errors.items(), key=lambda item: item[1])[:3]:
        print(f"  {name:<24}{error:.3f}")


errors = run(add([1, 3, 9], [0, 1, 100])).value
print(f"{len(errors)} fits:")
show(errors)

# %% A closer look around the best one.
closer = run(add([3, 4, 5, 50], [0, 1, 10]))
errors |= closer.value
print(f"{len(closer.value)} more:")
show(errors)
for name, error in sorted(closer.errors.items()):
    print(f"  {name} failed: {error}")

# %% What was computed: each combination once, and the data once for all of them.
print(f"{len(errors)} fits in all, data loaded {len(calls)} time(s)")
