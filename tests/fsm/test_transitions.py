"""Where a machine goes: returns, declared transitions, terminal states, max_cycles, state hooks."""

from __future__ import annotations

import functools
import pickle
from typing import Any

import numpy as np
import pytest

from fast_dag import (
    FSM,
    ExecutionError,
    FSMReturn,
    InvalidTransitionError,
    MaxCyclesError,
    ValidationError,
)
from tests.fsm.support import counting, machine


class BoomError(Exception):
    """What a guard or hook raises that is told to fail."""


def fork(**options: Any) -> FSM:
    """start -> small, start -> big; all without conditions yet."""
    fsm = FSM("fork", initial_state="start", terminal_states=["small", "big"], **options)
    fsm.add_state("start", lambda n: n).add_state("small", lambda n: f"small {n}")
    return fsm.add_state("big", lambda n: f"big {n}")


# Declared transitions and their conditions.


def test_the_first_transition_whose_condition_holds_is_taken(run: Any) -> None:
    fsm = fork().add_transition("start", "big", lambda n: n > 9)
    fsm.add_transition("start", "small", lambda n: n > 5).add_transition("start", "big")
    assert [run(fsm, n=n) for n in (10, 6, 1)] == ["big 10", "small 6", "big 1"]


def test_one_without_condition_keeps_later_ones_from_being_asked(run: Any) -> None:
    asked: list[int] = []
    fsm = fork().add_transition("start", "small").add_transition("start", "big", asked.append)
    assert run(fsm, n=1) == "small 1"
    assert asked == []


def test_conditions_are_asked_once_each_and_not_after_one_holds(run: Any) -> None:
    asked: list[str] = []

    def answer(name: str, holds: bool) -> Any:
        return lambda value: asked.append(name) or holds

    fsm = fork().add_transition("start", "big", answer("no", False))
    fsm.add_transition("start", "small", answer("yes", True))
    fsm.add_transition("start", "big", answer("more", True))
    assert run(fsm, n=1) == "small 1"
    assert asked == ["no", "yes"]


def test_a_condition_may_take_the_value_the_context_and_event_data(run: Any) -> None:
    seen: list[Any] = []
    fsm = fork().add_transition("start", "big", lambda: seen.append("nothing"))
    fsm.add_transition("start", "big", lambda value: seen.append(value))
    fsm.add_transition("start", "big", lambda value, context: seen.append(context["start"]))
    fsm.add_transition("start", "big", lambda value, context, data: seen.append(dict(data)))
    fsm.add_transition("start", "small", lambda *args: seen.append(len(args)) or True)
    assert run(fsm, n=7) == "small 7"
    assert seen == ["nothing", 7, 7, {}, 3]


def test_a_condition_is_given_the_value_not_the_return(run: Any) -> None:
    fsm = machine(a=lambda: FSMReturn(value={"ok": True}), b=lambda ok: ok)
    fsm = FSM("m", initial_state="a", terminal_states=["b"])
    fsm.add_state("a", lambda: FSMReturn(value={"ok": True})).add_state("b", lambda ok: ok)
    assert run(fsm.add_transition("a", "b", lambda value: value["ok"])) is True


def test_a_condition_decides_by_its_truth(run: Any) -> None:
    fsm = fork().add_transition("start", "big", lambda n: []).add_transition("start", "small")
    assert run(fsm, n=1) == "small 1"
    fsm = fork().add_transition("start", "big", lambda n: np.bool_(True))
    assert run(fsm, n=1) == "big 1"


def test_conditions_of_every_kind_of_callable(run: Any) -> None:
    class Above:
        def __call__(self, value: int) -> bool:
            return value > 5

    over = functools.partial(lambda most, value: value > most, 7)
    fsm = fork().add_transition("start", "small", over).add_transition("start", "big", Above())
    fsm.add_transition("start", "small", bool)
    assert [run(fsm, n=n) for n in (8, 6, 1)] == ["small 8", "big 6", "small 1"]


def test_a_condition_that_raises_fails_the_run_and_is_named(execute: Any) -> None:
    def guard(value: int) -> bool:
        raise BoomError("no idea")

    ran = execute(fork().add_transition("start", "big", guard), n=1)
    error = ran.exception()
    assert type(error) is ExecutionError
    assert isinstance(error.__cause__, BoomError)
    assert error.node_name == "start"
    assert "condition of 'start' -> 'big'" in str(error)
    assert (ran.status, ran.state_history, ran.results) == ("failed", ["start"], {"start": 1})
    assert ran.statuses["start"] == "completed"
    assert not ran.is_terminated


def test_a_condition_without_a_truth_fails_the_run(run: Any) -> None:
    fsm = FSM("m", initial_state="a", terminal_states=["b"]).add_state("b", lambda x: 1)
    fsm.add_state("a", lambda: np.arange(3)).add_transition("a", "b", lambda value: value > 1)
    with pytest.raises(ExecutionError, match="condition of 'a' -> 'b'") as caught:
        run(fsm)
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_condition_that_turns_out_to_be_async_does_not_hold_silently(run: Any) -> None:
    async def later(value: int) -> bool:
        return False

    fsm = fork().add_transition("start", "big", lambda value: later(value))
    with pytest.raises(ExecutionError, match="cannot be async"):
        run(fsm, n=1)


def test_conditions_that_want_more_than_they_are_offered_are_refused() -> None:
    with pytest.raises(ValidationError, match="offered"):
        fork().add_transition("start", "big", lambda value, context, data, more: True)
    with pytest.raises(ValidationError, match="not callable"):
        fork().add_transition("start", "big", "n > 5")  # type: ignore[arg-type]


def test_transitions_are_between_states_or_their_names() -> None:
    fsm = fork()
    fsm.add_transition(fsm.nodes["start"], fsm.nodes["big"])
    assert fsm.run(n=1) == "big 1"
    assert [str(each) for each in fsm.transitions] == ["'start' -> 'big'"]
    with pytest.raises(ValidationError, match="between states or names"):
        fsm.add_transition("start", 3)  # type: ignore[arg-type]


@pytest.mark.process_mode
def test_a_transition_to_itself_goes_round(run: Any) -> None:
    fsm = FSM("m", initial_state="more", terminal_states=["end"])
    fsm.add_state("more", lambda n=0: n + 1).add_state("end", lambda n: n)
    fsm.add_transition("more", "end", lambda n: n >= 4).add_transition("more", "more")
    assert run(fsm) == 4
    assert fsm.state_history == ["more"] * 4 + ["end"]


# Returns.


def test_a_return_wins_over_declared_transitions(run: Any) -> None:
    fsm = FSM("m", initial_state="a", terminal_states=["b", "c"])
    fsm.add_state("a", lambda: FSMReturn("c")).add_state("b", lambda: "b")
    assert run(fsm.add_state("c", lambda: "c").add_transition("a", "b")) == "c"


def test_a_return_may_name_the_state_itself_by_its_node(run: Any) -> None:
    fsm = FSM("m", initial_state="a", terminal_states=["b"]).add_state("b", lambda x: x)
    fsm.add_state("a", lambda: FSMReturn(fsm.nodes["b"], 5))
    assert run(fsm) == 5


def test_a_return_to_the_own_state_goes_round(run: Any) -> None:
    fsm = FSM("m", initial_state="a", terminal_states=["b"]).add_state("b", lambda n: n)
    fsm.add_state("a", lambda n=0: FSMReturn("a" if n < 3 else "b", n + 1))
    assert run(fsm) == 4
    assert fsm.state_history == ["a", "a", "a", "a", "b"]


@pytest.mark.parametrize("target", ["paide", "", 3, ["paid"], True, b"paid"], ids=repr)
def test_a_return_to_what_is_no_state_is_an_error(execute: Any, target: Any) -> None:
    fsm = machine(pending=lambda: FSMReturn(target, 5), paid=lambda x: x)
    ran = execute(fsm)
    error = ran.exception()
    assert type(error) is InvalidTransitionError
    assert (error.node_name, error.state, error.target) == ("pending", "pending", target)
    assert (error.run, error.attempts) == (ran, 1)
    assert ("did you mean 'paid'" in str(error)) == (target == "paide" or "paid" in str(target))
    assert "there are 'pending', 'paid'" in str(error)
    assert (ran.status, ran.results) == ("failed", {"pending": 5})


def test_errors_of_transitions_travel(run: Any) -> None:
    with pytest.raises(InvalidTransitionError) as caught:
        run(machine(a=lambda: FSMReturn("nowhere"), b=lambda: 1))
    back = pickle.loads(pickle.dumps(caught.value))
    assert type(back) is InvalidTransitionError
    assert (str(back), back.state, back.target) == (str(caught.value), "a", "nowhere")
    assert back.run is None


# Leading nowhere, and ending.


def test_a_state_that_leads_nowhere_says_how_to_end_it(run: Any) -> None:
    fsm = FSM("m").add_state("a", lambda: 1, initial=True)
    with pytest.raises(InvalidTransitionError) as caught:
        run(fsm)
    for advice in ("it has no transitions", "FSMReturn(stop=True)", "terminal=True"):
        assert advice in str(caught.value)
    assert (caught.value.state, caught.value.target) == ("a", None)
    assert (caught.value.event, caught.value.events) == (None, ())


def test_transitions_of_which_none_holds_are_named(run: Any) -> None:
    fsm = fork().add_transition("start", "big", lambda n: n > 9)
    with pytest.raises(InvalidTransitionError, match="no condition of 'start' -> 'big' holds"):
        run(fsm, n=1)


def test_transitions_by_event_are_not_taken_by_run(run: Any) -> None:
    fsm = fork().add_transition("start", "big", event="grow")
    with pytest.raises(
        InvalidTransitionError, match=r"waits for an event \('grow'\).*start\(\)"
    ) as e:
        run(fsm, n=1)
    assert (e.value.event, e.value.events) == (None, ("grow",))
    fsm.add_transition("start", "small")
    assert run(fsm, n=1) == "small 1"


def test_a_terminal_state_ends_the_machine_whatever_it_returns(run: Any) -> None:
    fsm = machine(a=lambda: 1, b=lambda x: FSMReturn("a", x + 1)).add_transition("b", "a")
    assert run(fsm) == 2
    assert fsm.state_history == ["a", "b"]
    assert run(machine(a=lambda: FSMReturn("nowhere", 7))) == 7


def test_a_state_may_be_initial_and_terminal(run: Any) -> None:
    assert run(FSM("m").add_state("only", lambda: 1, initial=True, terminal=True)) == 1


def test_add_terminal_state_marks_a_state_or_adds_one(run: Any) -> None:
    fsm = FSM("m", initial_state="a").add_state("a", lambda: 1).add_terminal_state("a")
    assert run(fsm) == 1
    fsm = FSM("m", initial_state="a").add_state("a", lambda: FSMReturn("b"))
    assert run(fsm.add_terminal_state("b", lambda: 2)) == 2
    assert fsm.terminal_states == ["b"]


# max_cycles.


@pytest.mark.parametrize("most", [1, 2, 3, 50])
def test_as_many_states_as_max_cycles_may_be_executed(run: Any, most: int) -> None:
    fsm = counting(most)
    assert run(fsm, max_cycles=most + 1) == most
    assert fsm.cycle_count == most + 1
    with pytest.raises(MaxCyclesError) as caught:
        run(fsm, max_cycles=most)
    assert caught.value.max_cycles == most
    assert f"executed {most} state{'s' if most > 1 else ''} in" in str(caught.value)
    assert caught.value.node_name == fsm.state_history[-1]
    assert (fsm.cycle_count, len(fsm.state_history)) == (most, most)
    assert not fsm.is_terminated


def test_on_max_cycles_stop_returns_what_there_is(execute: Any) -> None:
    ran = execute(counting(50, max_cycles=7, on_max_cycles="stop"))
    assert (ran.value, ran.status, ran.errors) == (7, "completed", {})
    assert (ran.cycle_count, ran.current_state, ran.is_terminated) == (7, "tick", False)


def test_max_cycles_of_the_machine_hold_unless_the_run_says_otherwise(run: Any) -> None:
    fsm = counting(5, max_cycles=3)
    with pytest.raises(MaxCyclesError):
        run(fsm)
    assert run(fsm, max_cycles=6) == 5


def test_a_thousand_states_are_the_default(run: Any) -> None:
    assert run(counting(999)) == 999
    with pytest.raises(MaxCyclesError) as caught:
        run(counting(1000))
    assert caught.value.max_cycles == 1000


def test_max_cycles_error_travels() -> None:
    with pytest.raises(MaxCyclesError) as caught:
        counting(9).run(max_cycles=2)
    back = pickle.loads(pickle.dumps(caught.value))
    assert (type(back), back.max_cycles, back.node_name) == (MaxCyclesError, 2, "tock")


@pytest.mark.parametrize("count", [0, -1, 1.5, "3", True])
def test_counts_are_counts(count: Any) -> None:
    with pytest.raises(ValidationError, match="max_cycles is a count"):
        FSM("m", max_cycles=count)
    with pytest.raises(ValidationError, match="max_cycles is a count"):
        counting(1).run(max_cycles=count)
    with pytest.raises(ValidationError, match="keep_history is a count"):
        FSM("m", keep_history=count)


def test_on_max_cycles_is_one_of_two() -> None:
    with pytest.raises(ValidationError, match="'raise' or 'stop'"):
        FSM("m", on_max_cycles="ignore")  # type: ignore[arg-type]


# State hooks.


def test_state_hooks_see_each_transition_in_order_of_adding(run: Any) -> None:
    seen: list[Any] = []
    fsm = machine(a=lambda: 1, b=lambda x: x + 1, c=lambda x: x + 1)
    fsm.add_state_hook(lambda fsm, source, to, result: seen.append((source, to, result)))
    fsm.add_state_hook(lambda fsm, source: seen.append(source))
    assert run(fsm) == 3
    assert seen == [("a", "b", 1), "a", ("b", "c", 2), "b"]


def test_conditions_and_state_hooks_see_the_value_of_the_state_that_is_left(run: Any) -> None:
    seen: list[Any] = []
    fsm = FSM("m", initial_state="a", terminal_states=["b"]).add_state("b", lambda n: n)
    fsm.add_state("a", lambda n=0: n + 1)
    fsm.add_transition("a", "b", lambda n, context: seen.append(context["a"]) or n > 1)
    fsm.add_transition("a", "a")
    fsm.add_state_hook(
        lambda fsm, *rest: seen.append((fsm["a"], fsm["a.0"], fsm.get("a.1"), fsm.context["a"]))
    )
    assert run(fsm) == 2
    assert seen == [1, (1, 1, None, 1), 2, (2, 1, 2, 2)]


def test_state_hooks_see_transitions_of_a_state_to_itself(run: Any) -> None:
    seen: list[Any] = []
    fsm = FSM("m", initial_state="a", terminal_states=["b"]).add_state("b", lambda n: n)
    fsm.add_state("a", lambda n=0: FSMReturn("a" if n < 1 else "b", n + 1))
    fsm.add_state_hook(lambda fsm, *rest: seen.append(rest))
    assert run(fsm) == 2
    assert seen == [("a", "a", 1), ("a", "b", 2)]


def test_state_hooks_are_given_the_machine_in_which_they_are(run: Any) -> None:
    seen: list[Any] = []
    fsm = machine(a=lambda: 1, b=lambda x: x + 1)
    fsm.add_state_hook(
        lambda given, *rest: seen.append(
            (given is fsm, given.state_history, given.current_state, given.cycle_count)
        )
    )
    run(fsm)
    assert seen == [(True, ["a"], "a", 1)]


def test_a_state_hook_may_redirect_and_later_ones_see_it(run: Any) -> None:
    seen: list[str] = []
    fsm = machine(a=lambda: 1, b=lambda x: "b", c=lambda x: f"c {x}", d=lambda x: "d")
    fsm.add_state_hook(lambda fsm, source, to, result: "c" if to == "b" else None)
    fsm.add_state_hook(lambda fsm, source, to, result: seen.append(to))
    fsm.add_state_hook(lambda fsm, source, to, result: to)
    assert run(fsm) == "d"
    assert (seen, fsm.state_history) == (["c", "d"], ["a", "c", "d"])


def test_a_state_hook_that_redirects_to_no_state_is_an_error(run: Any) -> None:
    fsm = machine(apple=lambda: 1, pear=lambda x: x)
    fsm.add_state_hook(lambda fsm, *rest: "peer")
    with pytest.raises(InvalidTransitionError, match="did you mean 'pear'") as caught:
        run(fsm)
    assert (caught.value.state, caught.value.target) == ("apple", "peer")
    assert (caught.value.event, caught.value.events) == (None, ())


def test_a_state_hook_that_raises_keeps_the_machine_from_going(execute: Any) -> None:
    def veto(fsm: FSM, source: str, to: str, result: Any) -> None:
        raise BoomError(f"not to {to}")

    fsm = machine(a=lambda: 1, b=lambda x: x)
    fsm.add_state_hook(veto)
    ran = execute(fsm)
    error = ran.exception()
    assert isinstance(error.__cause__, BoomError)
    assert error.node_name == "a"
    assert "state hook of 'a' -> 'b'" in str(error)
    assert "not to b" in str(error)
    assert (ran.status, ran.state_history, ran["a"]) == ("failed", ["a"], 1)
    assert set(ran.errors) == {"a"}


def test_no_state_hook_is_called_at_the_end(run: Any) -> None:
    seen: list[Any] = []
    fsm = machine(a=lambda: FSMReturn("b", 1, stop=True), b=lambda x: x)
    fsm.add_state_hook(lambda fsm, *rest: seen.append(rest))
    run(fsm)
    fsm = counting(9, max_cycles=3, on_max_cycles="stop")
    fsm.add_state_hook(lambda fsm, source, to: seen.append((source, to)))
    run(fsm)
    assert seen == [("tick", "tock"), ("tock", "tick")]


def test_state_hooks_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValidationError, match="not callable"):
        counting(1).add_state_hook("hook")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="offered"):
        counting(1).add_state_hook(lambda a, b, c, d, e: None)  # type: ignore[arg-type, misc]
