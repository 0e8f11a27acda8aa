"""Train two models at once, keep the better one, and train that on everything.

    python examples/cookbook/pick_model.py
    python examples/cookbook/pick_model.py --shape line

Needs numpy. The data are made: a temperature by the hour of the day, along a curve or a line.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fast_dag import DAG

Array = npt.NDArray[np.float64]
dag = DAG("pick a model")


class Data(NamedTuple):
    """Hours, and the temperature at each."""

    x: Array
    y: Array


class Fit(NamedTuple):
    """A trained model: the coefficients of a polynomial."""

    name: str
    coefficients: Array

    def error(self, data: Data) -> float:
        """The root of the mean squared error."""
        return float(np.sqrt(np.mean((np.polyval(self.coefficients, data.x) - data.y) ** 2)))


@dag.node
def measure(shape: str, seed: int = 1) -> Data:
    """The data that somebody else would read from a file."""
    random = np.random.default_rng(seed)
    x = np.sort(random.uniform(0, 24, 200))
    y = 8 + 6 * np.sin((x - 9) / 24 * 2 * np.pi) if shape == "curve" else 20 - 0.5 * x
    return Data(x, y + random.normal(0, 0.5, x.size))


@dag.node(outputs=["train", "test"])
def split(data: Data) -> tuple[Data, Data]:
    """Every fourth measurement is for the test."""
    is_test = np.arange(data.x.size) % 4 == 0
    return Data(*(each[~is_test] for each in data)), Data(*(each[is_test] for each in data))


def train_line(data: Data) -> Fit:
    """A straight line."""
    return Fit("line", np.polyfit(data.x, data.y, 1))


def train_cubic(data: Data) -> Fit:
    """A polynomial of degree three."""
    return Fit("cubic", np.polyfit(data.x, data.y, 3))


@dag.select
def better(line: Fit, cubic: Fit, test: Data, margin: float = 0.05) -> str:
    """Which of them to take: the cubic one has to be better by a margin."""
    return "cubic" if cubic.error(test) < (1 - margin) * line.error(test) else "line"


@dag.any
def final(fit: Fit) -> Fit:
    """The better model, trained on all there is."""
    return fit


measure >> split
for name, train in (("line", train_line), ("cubic", train_cubic)):
    dag.add_node(name, train).connect("split", name, output="train").connect(name, "better")
    again = f"{name} on all"
    dag.add_node(again, train).connect("measure", again).connect(again, "final")
    dag.connect(better.branches[name], again, input=False)
dag.connect("split", "better", output="test")


def main() -> None:
    """Pick a model for one kind of data."""
    parser = argparse.ArgumentParser(description="Train two models and pick one.")
    parser.add_argument("--shape", choices=("curve", "line"), default="curve")
    options = parser.parse_args()
    run = dag.execute(shape=options.shape, mode="parallel")
    run.raise_for_error()
    test = run["split"][1]
    for name in ("line", "cubic"):
        print(f"{name:<6}is wrong by {run[name].error(test):.1f} degrees in the test")
    fit: Fit = run.value
    print(f"picked {fit.name}; at noon it tells {np.polyval(fit.coefficients, 12):.1f} degrees")
    skipped = [name for name, status in run.statuses.items() if status == "skipped"]
    print(f"never trained: {', '.join(skipped)}")


if __name__ == "__main__":
    main()
