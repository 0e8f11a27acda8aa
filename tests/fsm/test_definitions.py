"""Building machines, checking, cloning and pickling them."""

from __future__ import annotations

import asyncio
import inspect
import pickle
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import (
    DAG,
    FSM,
    DisconnectedNodeError,
    FSMReturn,
    InvalidNodeError,
    Node,
    ValidationError,
)
from fast_dag.errors import UnknownNodeError
from tests.fsm.support import closed, counting, door, locked, machine, opened

if TYPE_CHECKING:
    from collections.abc import Callable


def told(fsm: FSM, **options: bool) -> list[str]:
    return [str(problem) for problem in fsm.validate(**options)]


# Building.


def test_decorators_with_and_without_options() -> None:
    fsm = FSM("m")

    @fsm.state(initial=True, retry=1)
    def first(n: int, *, m: int = 0) -> int:
        """The first."""
        return n

    @fsm.state
    def second(x: int) -> FSMReturn:
        return FSMReturn("third", x + 1)

    @fsm.state()
    def between() -> None: ...

    @fsm.cached_state(terminal=True, name="third", ttl=60)
    def last(x: int) -> int:
        return x + 1

    @fsm.cached_state
    def bare(x: int) -> int:
        return x

    fsm.add_transition(first, second)
    assert fsm.run(n=1) == 3
    assert (first(5), second(5).value, last(5), bare(1)) == (5, 6, 6, 1)
    assert (first.__name__, first.__doc__) == ("first", "The first.")
    assert list(inspect.signature(first).parameters) == ["n", "m"]
    assert list(fsm) == ["first", "second", "between", "third", "bare"]
    assert (fsm.initial_state, fsm.terminal_states, len(fsm)) == ("first", ["third"], 5)
    assert "second" in fsm.nodes
    assert repr(fsm) == "<FSM 'm': 5 states, 1 transitions>"


def test_states_are_nodes_and_nodes_are_lent() -> None:
    node = Node(closed, "shut", retry=2)
    fsm = FSM("m").add_state(node, initial=True, terminal=True)
    other = FSM("n").add_state(fsm.nodes["shut"], initial=True, terminal=True)
    assert (fsm.run(), other.run(), other.nodes["shut"].retry) == ("shut", "shut", 2)
    assert fsm.nodes["shut"] is not other.nodes["shut"]


def test_a_second_state_of_one_name_says_how_to_replace_it() -> None:
    fsm = counting(1)
    with pytest.raises(InvalidNodeError, match=r"already has a state 'tick'.*replace=True"):
        fsm.add_state("tick", closed)
    with pytest.raises(InvalidNodeError, match="replace=True"):
        fsm.state(name="tick")(closed)
    fsm.add_state("tick", lambda: FSMReturn(stop=True, value="new"), replace=True)
    assert fsm.run() == "new"


def test_a_notebook_cell_may_be_run_twice() -> None:
    fsm = FSM("m")
    for number in (1, 2):
        fsm.state(initial=True, terminal=True, replace=True, name="a")(lambda n=number: n)
    assert (fsm.run(), fsm.initial_state, fsm.is_valid) == (2, "a", True)


@pytest.mark.parametrize("name", ["", "a.b", 3])
def test_names_of_states_are_names(name: Any) -> None:
    with pytest.raises((ValidationError, TypeError)):
        FSM("m").add_state(name, closed)


def test_misused_constructors_say_so() -> None:
    with pytest.raises(ValidationError, match="a list of names"):
        FSM("m", terminal_states="end")
    with pytest.raises(ValidationError, match="non-empty string"):
        FSM("")


def test_removing_a_state_takes_its_transitions_along() -> None:
    fsm = door()
    assert fsm.remove_state("opened") is fsm
    assert [str(each) for each in fsm.transitions] == ["'closed' -> 'locked' on 'lock'"]
    assert fsm.is_valid
    fsm.remove_state("closed")
    assert (fsm.initial_state, list(fsm)) == (None, ["locked"])
    with pytest.raises(KeyError, match="did you mean 'locked'"):
        fsm.remove_state("lockde")


def test_lists_of_a_machine_are_copies() -> None:
    fsm = door()
    fsm.transitions.clear()
    fsm.terminal_states.clear()
    assert (len(fsm.transitions), fsm.terminal_states) == (3, ["locked"])


def test_states_may_be_named_before_they_are_defined() -> None:
    fsm = FSM("m", initial_state="a", terminal_states=["b"]).add_transition("a", "b")
    fsm.add_state("b", lambda x: x).add_state("a", lambda: 1)
    assert fsm.run() == 1


# Checking.


def test_a_machine_without_states_says_how_to_add_one() -> None:
    assert told(FSM("m")) == ["'m' has no states; add one with @fsm.state or add_state()"]
    with pytest.raises(ValidationError, match="has no states"):
        FSM("m", initial_state="a", terminal_states=["b"]).run()


def test_a_machine_without_an_initial_state_says_how_to_give_one() -> None:
    (problem,) = told(FSM("m").add_state("a", closed))
    assert "has no initial state" in problem
    assert "initial=True" in problem


def test_two_initial_states_are_told() -> None:
    fsm = FSM("m", initial_state="a").add_state("a", closed).add_state("b", closed, initial=True)
    assert told(fsm) == ["'m' has several initial states: 'a', 'b'; keep one"]
    assert FSM("m", initial_state="a").add_state("a", closed, initial=True).is_valid


def test_all_problems_are_told_at_once() -> None:
    fsm = FSM("m", initial_state="strat", terminal_states=["edn"])
    fsm.add_state("start", closed).add_state("end", closed)
    fsm.add_transition("start", "ende").add_transition("satrt", "end", event="go")
    problems = told(fsm)
    assert len(problems) == 4
    for name, meant in [("strat", "start"), ("edn", "end"), ("ende", "end"), ("satrt", "start")]:
        (problem,) = [each for each in problems if repr(name) in each.partition(" of ")[0]]
        assert f"did you mean {meant!r}" in problem
    for call in (fsm.run, fsm.start, fsm.validate_or_raise, lambda: asyncio.run(fsm.run_async())):
        with pytest.raises(ValidationError, match="'m' has 4 problems") as caught:
            call()
        assert [str(problem) for problem in caught.value.problems] == problems
    assert not fsm.is_valid


def test_problems_carry_the_name_and_the_suggestion() -> None:
    fsm = FSM("m", initial_state="strat").add_state("start", closed)
    (problem,) = fsm.validate()
    assert isinstance(problem, KeyError)
    assert (problem.node, problem.suggestion) == ("strat", "start")


def test_states_that_no_declared_transition_leads_to_are_told_but_run() -> None:
    fsm = machine(a=lambda: FSMReturn("c"), b=lambda: 1).add_state("c", lambda: FSMReturn("b"))
    (problem,) = fsm.validate()
    assert isinstance(problem, DisconnectedNodeError)
    assert problem.nodes == ("c",)
    assert fsm.validate(allow_disconnected=True) == []
    fsm.validate_or_raise()
    with pytest.raises(DisconnectedNodeError, match="'c'"):
        fsm.validate_or_raise(allow_disconnected=False)
    assert fsm.is_valid
    assert fsm.run() == 1
    assert counting(1).validate() == []  # returns only


def test_ways_by_event_and_with_conditions_lead_there() -> None:
    assert door().validate() == []
    assert machine(a=closed, b=closed).add_transition("b", "a", lambda: False).validate() == []


UNKNOWN = {
    "remove_state": lambda fsm: fsm.remove_state("clsed"),
    "set_node_hooks": lambda fsm: fsm.set_node_hooks("clsed", cleanup=print),
    "set_node_error_handler": lambda fsm: fsm.set_node_error_handler("clsed", print),
    "invalidate_cache": lambda fsm: fsm.invalidate_cache("clsed"),
    "result": lambda fsm: fsm["clsed"],
    "machine": lambda fsm: fsm.start()["clsed"],
    "nested": lambda fsm: DAG("outer").add_node("sub", fsm)["sub.clsed"],
    "run of the outer one": lambda fsm: DAG("outer").add_node("sub", fsm).execute()["sub.clsed"],
}


@pytest.mark.parametrize("has_run", [False, True], ids=["before a run", "after a run"])
@pytest.mark.parametrize("use", UNKNOWN)
def test_an_unknown_state_is_called_a_state(use: str, has_run: bool) -> None:
    fsm = machine(closed=closed, locked=lambda: "locked")
    if has_run:
        fsm.run()
    with pytest.raises(UnknownNodeError) as caught:
        UNKNOWN[use](fsm)
    assert str(caught.value) == "'m' has no state 'clsed' (did you mean 'closed'?)"
    assert (caught.value.node, caught.value.suggestion) == ("clsed", "closed")


def test_states_are_not_connected_like_nodes_of_a_dag() -> None:
    fsm = FSM("m", initial_state="a", terminal_states=["b"])
    fsm.add_state("a", closed).add_state("b", opened)
    fsm.nodes["a"] >> fsm.nodes["b"]
    (problem,) = told(fsm)
    assert "add_transition('a', 'b')" in problem
    with pytest.raises(ValidationError, match="add_transition"):
        fsm.run()


def test_hooks_of_unknown_states_and_resources_named_like_states_are_refused() -> None:
    fsm = door()
    with pytest.raises(KeyError, match="did you mean 'closed'"):
        fsm.set_node_hooks("clsed", cleanup=lambda: None)
    with pytest.raises(KeyError, match="did you mean 'opened'"):
        fsm.set_node_error_handler("opend", lambda: None)
    fsm.resource("opened", lambda: None)
    assert "both a node and a resource" in told(fsm)[0]


# Cloning and pickling.


def test_a_clone_has_all_and_shares_nothing() -> None:
    seen: list[str] = []
    fsm = counting(3, max_cycles=50, on_max_cycles="stop", keep_history=2, metadata={"a": 1})
    fsm.add_state_hook(lambda fsm, source, to: seen.append(f"{fsm.name} {source}"))
    fsm.set_node_error_handler("tick", lambda: 0)
    fsm.run()
    twin = fsm.clone("twin")
    assert (twin.name, twin.initial_state, twin.terminal_states) == ("twin", "tick", ["done"])
    assert (twin.max_cycles, twin.on_max_cycles, twin.keep_history) == (50, "stop", 2)
    assert twin.metadata == {"a": 1}
    assert twin.state_history == []
    twin.run()
    way = ("tick", "tock", "tick")
    assert seen == [f"{name} {state}" for name in ("counting", "twin") for state in way]
    twin.remove_state("tock").add_state("more", closed, terminal=True)
    twin.add_transition("tick", "more")
    assert (list(fsm), fsm.terminal_states, fsm.transitions) == (
        ["tick", "tock", "done"],
        ["done"],
        [],
    )
    assert fsm.clone().name == "counting"


def allow(value: Any) -> bool:
    return bool(value)


def watch(fsm: FSM, source: str, to: str) -> None:
    fsm.context.metadata.setdefault("watched", []).append(f"{source} -> {to}")


def test_a_machine_survives_pickling() -> None:
    fsm = FSM("door", "closed", ["locked"], max_cycles=9, keep_history=3, on_max_cycles="stop")
    fsm.add_state("closed", closed).add_state("opened", opened, retry=1)
    fsm.add_state("locked", locked).add_transition("closed", "opened", allow)
    fsm.add_transition("opened", "locked", event="lock")
    fsm.add_state_hook(watch)
    fsm.run(error_strategy="continue", by="Ada")
    back = pickle.loads(pickle.dumps(fsm))
    assert (back.max_cycles, back.keep_history, back.on_max_cycles) == (9, 3, "stop")
    assert (back.state_history, back.initial_state, back.terminal_states) == (
        [],
        "closed",
        ["locked"],
    )
    assert [str(each) for each in back.transitions] == [str(each) for each in fsm.transitions]
    live = back.start()
    assert live.run() == "opened by shut"
    assert live.send("lock", key=1) == "locked with 1"
    assert live.context.metadata["watched"] == ["closed -> opened", "opened -> locked"]


def test_returns_are_plain_values() -> None:
    made = FSMReturn("paid", {"a": 1})
    assert made == FSMReturn(next_state="paid", value={"a": 1}, stop=False)
    assert pickle.loads(pickle.dumps(made)) == made
    assert repr(made) == "FSMReturn(next_state='paid', value={'a': 1}, stop=False)"
    match made:
        case FSMReturn("paid", value):
            assert value == {"a": 1}
        case _:
            raise AssertionError


def test_options_of_graphs_are_not_options_of_machines() -> None:
    run: Callable[..., Any] = counting(1).run
    for option in ({"outputs": ["done"]}, {"autowire": True}):
        with pytest.raises(ValidationError, match=next(iter(option))):
            run(**option)
    for option in ({"mode": "fast"}, {"max_workers": 0}, {"timeout": -1}, {"error_strategy": "no"}):
        with pytest.raises(ValidationError, match=next(iter(option))):
            run(**option)
    with pytest.raises(ValidationError, match="given twice"):
        run({"n": 1}, n=2)
