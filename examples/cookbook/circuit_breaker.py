"""A circuit breaker that every process shares: who failed too often is left alone for a while.

    python examples/cookbook/circuit_breaker.py breaker.json --at 0 ok fail fail fail ok
    python examples/cookbook/circuit_breaker.py breaker.json --at 40 ok
    python examples/cookbook/circuit_breaker.py breaker.json --at 70 fail

The words are what the service does when it is called, `--at` is the time in seconds. Between two
commands the breaker is a file: the snapshot of its machine.

    closed      calls are made          -> opened after three failures in a row
    opened      none is made            -> half_open at the first call after a minute
    half_open   one is made, to see     -> closed where it is well, else opened
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fast_dag import FSM, InvalidTransitionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fast_dag import Machine

MOST_FAILURES = 3
COOL_DOWN = 60.0

breaker = FSM("breaker", keep_history=5)


@breaker.state(initial=True)
def closed(failures: int = 0, ok: bool = True) -> dict[str, Any]:
    """Calls are made, and failures in a row counted."""
    return {"failures": 0 if ok else failures + 1}


@breaker.state
def opened(at: float) -> dict[str, Any]:
    """No call is made for a while."""
    return {"until": at + COOL_DOWN}


@breaker.state
def half_open() -> None:
    """One call is made, to see."""


def is_too_much(value: Mapping[str, Any], context: object, data: Mapping[str, Any]) -> bool:
    """Whether this failure is one too many."""
    return not data["ok"] and value["failures"] + 1 >= MOST_FAILURES


def is_over(value: Mapping[str, Any], context: object, data: Mapping[str, Any]) -> bool:
    """Whether the service was left alone for long enough."""
    return bool(data["at"] >= value["until"])


def is_well(value: object, context: object, data: Mapping[str, Any]) -> bool:
    """Whether the call succeeded."""
    return bool(data["ok"])


breaker.add_transition("closed", "opened", is_too_much, event="result")
breaker.add_transition("closed", "closed", event="result")
breaker.add_transition("opened", "half_open", is_over, event="ask")
breaker.add_transition("half_open", "closed", is_well, event="result")
breaker.add_transition("half_open", "opened", event="result")


def load(path: Path) -> Machine:
    """The breaker as it was left, or a new one."""
    if path.exists():
        return breaker.restore(json.loads(path.read_text(encoding="utf-8")))
    machine = breaker.start()
    machine.run()
    return machine


def save(path: Path, machine: Machine) -> None:
    """Keep the breaker for the next process."""
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(machine.snapshot()), encoding="utf-8")
    beside.replace(path)


def call(machine: Machine, outcome: str, at: float) -> str:
    """Call the service, unless the breaker is open."""
    if machine.state == "opened":
        try:
            machine.send("ask", at=at)
        except InvalidTransitionError:  # its condition does not hold, and it stays where it is
            return f"not called, {machine.value['until'] - at:.0f} s to wait"
    before = machine.state
    machine.send("result", ok=outcome == "ok", at=at)
    return f"called, {outcome}: {before} -> {machine.state}"


def main() -> None:
    """Call the service some times."""
    parser = argparse.ArgumentParser(description="Calls behind a circuit breaker.")
    parser.add_argument("file", type=Path, help="where the breaker is kept")
    parser.add_argument("outcomes", nargs="+", choices=("ok", "fail"), metavar="ok|fail")
    parser.add_argument("--at", type=float, default=time.time(), help="default: now")
    options = parser.parse_args()
    machine = load(options.file)
    for outcome in options.outcomes:
        print(call(machine, outcome, options.at))
        save(options.file, machine)


if __name__ == "__main__":
    main()
