"""State machines, next to a while-loop that looks the same functions up in a dict."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from graphs import chain, straight_line
from timing import Row, added, in_turn, per_node, ratios, same_results

from fast_dag import FSM, FSMReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from timing import Effort

_CALLS = 1_000


def _ring(transitions: int) -> dict[str, Callable[[int], Any]]:
    """Three states that hand a count on in a ring until it is reached."""

    def red(count: int) -> Any:
        return FSMReturn(next_state="green", value=count + 1, stop=count == transitions)

    def green(count: int) -> Any:
        return FSMReturn(next_state="yellow", value=count + 1, stop=count == transitions)

    def yellow(count: int) -> Any:
        return FSMReturn(next_state="red", value=count + 1, stop=count == transitions)

    return {"red": red, "green": green, "yellow": yellow}


def fsm_ring(effort: Effort) -> Iterator[Row]:
    """A million transitions in a ring of three states, the last 100 of them kept."""
    transitions = effort.of(1_000_000, 1_000)
    states = _ring(transitions)
    machine = FSM("ring", initial_state="red", max_cycles=transitions + 1, keep_history=100)
    for name, func in states.items():
        machine.add_state(name, func)

    def ours() -> Any:
        return machine.run(count=0)

    def loop() -> Any:
        state, value = "red", 0
        while True:
            returned = states[state](value)
            value = returned.value
            if returned.stop:
                return value
            state = returned.next_state

    same_results(ours, loop)
    engine, by_hand = in_turn(ours, loop, rounds=effort.of(7, 2))
    noted = f"{per_node('ours', engine, transitions)}, {per_node('loop', by_hand, transitions)}"
    work = f"FSM, {transitions:,} transitions"
    yield Row(work, ratios(engine, by_hand), "x while-loop", 2.5, f"us each: {noted}")


def fsm_general(effort: Effort) -> Iterator[Row]:
    """The same ring, with something at each state that the fast loop leaves to the general path."""
    visits = effort.of(20_000, 1_000)
    states = _ring(visits)

    def machine(**options: Any) -> FSM:
        made = FSM("ring", initial_state="red", max_cycles=visits + 1, **options)
        for name, func in states.items():
            made.add_state(name, func)
        return made

    conditions = FSM("ring", initial_state="red", terminal_states=["end"], max_cycles=visits + 2)
    conditions.add_state("end", lambda count: count)
    for name, after in (("red", "green"), ("green", "yellow"), ("yellow", "red")):
        conditions.add_state(name, lambda count: count + 1)
        conditions.add_transition(name, "end", lambda count: count > visits)
        conditions.add_transition(name, after, lambda count: count <= visits)
    hooks, state_hooks = machine(), machine()
    hooks.set_default_hooks(post_execute=lambda node, inputs, result: None)
    state_hooks.add_state_hook(lambda fsm, before, after, result: None)
    works = {"two conditions": conditions, "a hook": hooks, "a state hook": state_hooks}
    same_results(*(partial(each.run, count=0) for each in works.values()))
    plain, *others = in_turn(
        *(partial(each.run, count=0) for each in (machine(), *works.values())),
        rounds=effort.of(15, 2),
    )
    for work, taken in zip(works, others, strict=True):
        yield Row(f"FSM, {work} at each state: added", added(taken, plain, visits), "us a state")


def fsm_return(effort: Effort) -> Iterator[Row]:
    """Making an FSMReturn, with keywords and without, next to a call of L; and an object of a class
    that does nothing else."""
    line = straight_line(chain(_CALLS))

    def thousand() -> None:
        for _ in range(_CALLS):
            FSMReturn(next_state="green", value=1)

    def by_position() -> None:
        for _ in range(_CALLS):
            FSMReturn("green", 1)

    def bare() -> None:
        for _ in range(_CALLS):
            _Bare(next_state="green", value=1)

    sides = thousand, by_position, bare, line
    ours, positions, least, by_hand = in_turn(*sides, rounds=effort.of(300, 3))
    noted = f"us each: {per_node('ours', ours, _CALLS)}, {per_node('L', by_hand, _CALLS)}"
    yield Row("making an FSMReturn", ratios(ours, by_hand), "x L", 0.3 / 0.08, noted)
    yield Row("making an FSMReturn, by position", ratios(positions, by_hand), "x L")
    yield Row("making an object of three slots", ratios(least, by_hand), "x L")


class _Bare:
    """The least that a class of these keywords does."""

    __slots__ = ("next_state", "stop", "value")

    def __init__(
        self, next_state: str | None = None, value: object = None, stop: bool = False
    ) -> None:
        self.next_state = next_state
        self.value = value
        self.stop = stop


BENCHMARKS = (fsm_ring, fsm_general, fsm_return)
