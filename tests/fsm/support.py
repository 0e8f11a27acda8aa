"""Machines and states that several tests of this directory use, also in other processes."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from fast_dag import FSM, FSMReturn

if TYPE_CHECKING:
    from collections.abc import Callable


def machine(name: str = "m", /, **states: Callable[..., Any]) -> FSM:
    """A machine that goes through its states in their order and ends in the last."""
    names = list(states)
    fsm = FSM(name, initial_state=names[0], terminal_states=names[-1:])
    for state, function in states.items():
        fsm.add_state(state, function)
    for source, target in itertools.pairwise(names):
        fsm.add_transition(source, target)
    return fsm


def counting(most: int, **options: Any) -> FSM:
    """A machine that goes `tick`, `tock`, `tick`, ... and ends in `done` once it counted to
    `most`; it starts at `start`."""
    fsm = FSM("counting", initial_state="tick", terminal_states=["done"], **options)

    def tick(n: int = 0) -> Any:
        return FSMReturn("tock" if n + 1 < most else "done", n + 1)

    def tock(n: int) -> Any:
        return FSMReturn("tick" if n + 1 < most else "done", n + 1)

    return fsm.add_state("tick", tick).add_state("tock", tock).add_state("done", lambda n: n)


def door(**options: Any) -> FSM:
    """closed <- pull, push -> opened, lock -> locked, which ends it."""
    fsm = FSM("door", initial_state="closed", terminal_states=["locked"], **options)
    fsm.add_state("closed", closed).add_state("opened", opened).add_state("locked", locked)
    fsm.add_transition("closed", "opened", event="push")
    fsm.add_transition("opened", "closed", event="pull")
    return fsm.add_transition("closed", "locked", event="lock")


def closed() -> str:
    return "shut"


def opened(by: str = "nobody") -> str:
    return f"opened by {by}"


def locked(key: int) -> str:
    return f"locked with {key}"
