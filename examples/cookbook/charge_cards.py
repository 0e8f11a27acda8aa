"""Orders that are paid through a service that costs money: no card is charged twice.

    python examples/cookbook/charge_cards.py shop order-17 --break charge
    python examples/cookbook/charge_cards.py shop order-17

The bank takes a key with each request, and answers a repetition with what it did the first time:
`call_id` is such a key. The post office takes none. So `print_label` has once=True: if the process
dies inside, a person looks whether the label is there, and says so.

    python examples/cookbook/charge_cards.py shop order-18 --break print_label
    python examples/cookbook/charge_cards.py shop order-18
    python examples/cookbook/charge_cards.py shop order-18 --label L-1

`--break NODE` kills the process in that node, after the service has done its work.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from fast_dag import DAG, Context
from fast_dag.store import InDoubtError, Store

shop = DAG("shop")


class Service:
    """Stands for a service somewhere else: it remembers in a file what it was asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}

    def request(self, key: str, what: str) -> str:
        """Do something, unless it was done for this key."""
        if key not in self.done:
            self.done[key] = what
            self.path.write_text(json.dumps(self.done))
            print(f"{self.path.stem}: {what}", flush=True)
        return self.done[key]


def break_in(node: str, context: Context) -> None:
    """Die here if somebody wants to see that."""
    if node == context.metadata.get("break"):
        os.kill(os.getpid(), signal.SIGKILL)


@shop.resource("bank")
def bank(context: Context) -> Iterator[Service]:
    yield Service(context.metadata["directory"] / "bank.json")


@shop.resource("post")
def post(context: Context) -> Iterator[Service]:
    yield Service(context.metadata["directory"] / "post.json")


@shop.node(retry=3, retry_delay=0.1, retry_on=(ConnectionError,))
def charge(order: str, call_id: str, bank: Service, context: Context) -> str:
    """Retries and restarts have the same `call_id`, so the bank charges once."""
    receipt = bank.request(call_id, f"charged 23.25 for {order}")
    break_in("charge", context)
    return receipt


@shop.node(once=True)
def print_label(charge: str, order: str, post: Service, context: Context) -> str:
    """Every request prints a label that costs money: so it is made at most once."""
    number = f"L-{len(post.done) + 1}"
    post.request(number, f"label {number} for {order}")
    break_in("print_label", context)
    return number


charge >> print_label


def main() -> int:
    parser = argparse.ArgumentParser(description="Charge a card and print a label.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("order", help="the order, which is the id of the run")
    parser.add_argument("--break", dest="broken", metavar="NODE", help="be killed in this node")
    parser.add_argument("--label", help="what a look at the printer has found")
    given = parser.parse_args()
    given.directory.mkdir(exist_ok=True)
    with Store(given.directory / "runs.db") as store:
        if given.label is not None:
            store.decide(given.order, "print_label", value=given.label)
        metadata = {"break": given.broken, "directory": given.directory}
        try:
            label = shop.run(
                store=store,
                run_id=given.order,
                context=Context(metadata=metadata),
                order=given.order,
            )
        except InDoubtError as error:
            print(f"{given.order} waits: look for the label of {error.node!r}")
            return 1
    print(f"{given.order} goes out with {label}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
