"""One line of JSON for everything that happens in a run, and where its time went.

    python examples/cookbook/watch_nodes.py
    python examples/cookbook/watch_nodes.py --seconds --report run.html

The log is made by hooks that hold for all nodes, so no function knows of it. The readings are of
weather stations; the first request for those of one station fails, and nobody takes the warnings.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sized
from functools import partial
from threading import Lock
from time import perf_counter
from typing import Any

from fast_dag import DAG, Context, Node

READINGS = {"hill": [3.5, 4.0, 19.0], "harbour": [8.0, 8.5], "forest": [5.5, -40.0, 6.0]}


class Journal:
    """Hooks that print a line for each event of a node."""

    def __init__(self, seconds: bool) -> None:
        self.seconds = seconds
        self.began: dict[tuple[str, str], float] = {}
        self.lock = Lock()  # nodes may run in threads, and lines are to stay whole

    def tell(self, event: str, node: Node[..., Any], **facts: Any) -> None:
        """Print one line."""
        with self.lock:
            print(json.dumps({"event": event, "node": node.name, **facts}), flush=True)

    def pre_execute(self, node: Node[..., Any], inputs: object, context: Context) -> None:
        """Before the first attempt."""
        self.began[context.metadata["run_id"], node.name] = perf_counter()

    def post_execute(
        self, node: Node[..., Any], inputs: object, result: object, context: Context
    ) -> None:
        """After a success."""
        facts: dict[str, Any] = {}
        if isinstance(result, Sized):
            facts["items"] = len(result)
        if self.seconds:
            began = self.began[context.metadata["run_id"], node.name]
            facts["seconds"] = round(perf_counter() - began, 4)
        self.tell("completed", node, **facts)

    def on_retry(
        self, node: Node[..., Any], inputs: object, error: Exception, context: Context, attempt: int
    ) -> None:
        """After a failure that another attempt follows."""
        self.tell("retry", node, attempt=attempt, error=str(error))

    def on_error(self, node: Node[..., Any], inputs: object, error: Exception) -> None:
        """After the last failure."""
        self.tell("failed", node, error=f"{type(error).__name__}: {error}")

    def cleanup(self, node: Node[..., Any], context: Context) -> None:
        """Always: nothing is left behind of a node."""
        self.began.pop((context.metadata["run_id"], node.name), None)

    def attach(self, dag: DAG) -> None:
        """Watch all nodes, those that are added later, too."""
        dag.set_default_hooks(
            pre_execute=self.pre_execute,
            post_execute=self.post_execute,
            on_retry=self.on_retry,
            on_error=self.on_error,
            cleanup=self.cleanup,
        )


def read(station: str, asked: set[str]) -> list[float]:
    """The readings of a station. One of them is hard to reach."""
    if station == "harbour" and station not in asked:
        asked.add(station)
        raise ConnectionError("no answer from the harbour")
    return READINGS[station]


def plausible(readings: dict[str, list[float]]) -> list[float]:
    """What can be true of all readings."""
    return [each for station in readings.values() for each in station if -30 < each < 45]


def average(plausible: list[float]) -> float:
    """The mean of what is left."""
    return sum(plausible) / len(plausible)


def warn(plausible: list[float]) -> None:
    """Tell somebody of the heat."""
    raise TimeoutError(f"nobody took the warning of {max(plausible)} degrees")


def weather() -> DAG:
    """The workflow, without a word about logs."""
    dag, asked = DAG("weather"), set[str]()
    dag.add_node("plausible", plausible, type="all")
    for station in READINGS:
        dag.add_node(station, partial(read, station, asked), retry=2, retry_delay=0.01)
        dag.connect(station, "plausible")
    dag.add_node("warn", warn).add_node("average", average)
    return dag.connect("plausible", "warn").connect("plausible", "average")


def main() -> None:
    """Run it, watched."""
    parser = argparse.ArgumentParser(description="A run that is watched by hooks.")
    parser.add_argument("--seconds", action="store_true", help="tell how long nodes took")
    parser.add_argument("--report", metavar="FILE", help="write a page about the run")
    options = parser.parse_args()
    dag = weather()
    Journal(options.seconds).attach(dag)
    run = dag.execute(error_strategy="continue")
    print(f"{run.status}: {run.value:.2f} degrees")
    print(run.summary().splitlines()[1])
    if options.report:
        run.report(options.report)


if __name__ == "__main__":
    main()
