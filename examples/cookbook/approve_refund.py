"""An agent that asks a person before it acts, and may wait for days.

    python examples/cookbook/approve_refund.py open case.json "the blue cup came broken"
    python examples/cookbook/approve_refund.py show case.json
    python examples/cookbook/approve_refund.py decide case.json change --amount 3
    python examples/cookbook/approve_refund.py decide case.json approve

The agent reads a complaint and proposes a refund. It then waits for an event, and the process ends:
the case is a file, the snapshot of its machine. Whoever decides does so in another process.

    propose --> review --approve--> pay
                review --change---> propose
                review --refuse---> refuse

Exit status: 0, or 2 where the case cannot take the decision.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fast_dag import FSM, InvalidTransitionError

if TYPE_CHECKING:
    from fast_dag import Machine

PRICES = {"cup": 4.5, "pot": 22.0, "spoon": 1.25}

agent = FSM("refund", initial_state="propose", terminal_states=["pay", "refuse"])


@agent.state
def propose(complaint: str, amount: float | None = None) -> dict[str, Any]:
    """Ask the model what to refund. Here a stand-in looks for known things in the complaint."""
    if amount is None:
        amount = sum(price for item, price in PRICES.items() if item in complaint)
    return {"complaint": complaint, "amount": amount}


@agent.state
def review(complaint: str, amount: float) -> dict[str, Any]:
    """Nothing leads on from here but an event, so the machine waits."""
    return {"complaint": complaint, "amount": amount}


@agent.state
def pay(amount: float, by: str) -> str:
    """The step that nobody can take back.

    A process that dies before it has saved the case leaves it in review. So a real payment would
    bear the number of the case, and be made once.
    """
    return f"paid {amount:.2f}, approved by {by}"


@agent.state
def refuse(by: str) -> str:
    """The end without a payment."""
    return f"refused by {by}"


agent.add_transition("propose", "review")
agent.add_transition("review", "pay", event="approve")
agent.add_transition("review", "propose", event="change")
agent.add_transition("review", "refuse", event="refuse")


def load(path: Path) -> Machine:
    """The case as it was left."""
    return agent.restore(json.loads(path.read_text(encoding="utf-8")))


def save(path: Path, machine: Machine) -> None:
    """Keep the case: the file is the old one or the new one, and never a part."""
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(machine.snapshot()), encoding="utf-8")
    beside.replace(path)


def told(machine: Machine) -> str:
    """How the case stands."""
    if machine.done:
        return str(machine.value)
    return f"{machine.value['amount']:.2f} for {machine.value['complaint']!r}: {machine.events}"


def main() -> int:
    """Open a case, show it, or decide it."""
    parser = argparse.ArgumentParser(description="Refunds that a person approves.")
    commands = parser.add_subparsers(dest="command", required=True)
    opened, shown, decided = map(commands.add_parser, ("open", "show", "decide"))
    for each in (opened, shown, decided):
        each.add_argument("file", type=Path, help="where the case is kept")
    opened.add_argument("complaint")
    decided.add_argument("event", choices=("approve", "change", "refuse"))
    decided.add_argument("--amount", type=float)
    decided.add_argument("--by", default="Ada")
    options = parser.parse_args()

    if options.command == "open":
        machine = agent.start(complaint=options.complaint)
        machine.run()
    else:
        machine = load(options.file)
    if options.command == "decide":
        data = {"by": options.by}
        if options.event == "change":
            data = {"complaint": machine.value["complaint"], "amount": options.amount}
        try:
            machine.send(options.event, **data)
        except InvalidTransitionError as error:
            print(error, file=sys.stderr)
            return 2
    if options.command != "show":
        save(options.file, machine)
    print(told(machine))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
