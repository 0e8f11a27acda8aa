"""Building machines, checking, cloning and pickling them."""

from __future__ import annotations

import asyncio
import inspect
import pickle
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import (
    DAG,
    FSM,
    DisconnectedNodeError,
    FSMReturn,
    InvalidNodeError,
    InvalidTransitionError,
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


def ways(fsm: FSM) -> list[tuple[str, str]]:
    return [(each.source, each.target) for each in fsm.transitions]


def test_states_connected_by_operator_have_a_transition_once() -> None:
    fsm = FSM("m", initial_state="a", terminal_states=["c"])
    fsm.add_state("a", closed).add_state("b", closed).add_state("c", opened)
    a, b, c = fsm.nodes.values()
    for _ in range(2):
        a >> b >> c
        assert ways(fsm) == [("a", "b"), ("b", "c")]
    assert fsm.validate() == []
    fsm.run()
    assert fsm.state_history == ["a", "b", "c"]


def test_several_states_connected_by_operator_have_a_transition_each() -> None:
    fsm = FSM("m").add_state("a", closed).add_state("b", closed).add_state("c", opened)
    a, b, c = fsm.nodes.values()
    [a, b] >> c
    a >> [b, c]
    assert ways(fsm) == [("a", "c"), ("b", "c"), ("a", "b")]


def test_states_take_no_outputs_inputs_and_orders() -> None:
    fsm = FSM("m").add_state("a", closed).add_state("b", closed)
    a, b = fsm.nodes.values()
    with pytest.raises(ValidationError, match=r"say a >> b, or add_transition\('a', 'b'\)"):
        b.after(a)
    with pytest.raises(ValidationError, match="states have no outputs"):
        fsm.graph.connect("a", "b", output="k")


def test_transition_of_several_sources_is_one_of_each_in_their_order() -> None:
    fsm = FSM("m").add_state("a", closed).add_state("b", closed).add_state("c", opened)
    fsm.add_transition(["b", fsm.nodes["a"]], "c", event="go").add_transition("a", "b")
    assert ways(fsm) == [("b", "c"), ("a", "c"), ("a", "b")]
    assert [each.event for each in fsm.transitions] == ["go", "go", None]


def test_star_is_every_state_that_is_not_terminal_also_later_ones() -> None:
    fsm = FSM("m", initial_state="a", terminal_states=["end"])
    fsm.add_state("a", closed).add_state("end", opened).add_transition("*", "help", event="stuck")
    fsm.add_transition("a", "end").add_state("help", opened).add_state("late", closed)
    stuck = [("a", "help"), ("help", "help"), ("late", "help")]
    assert ways(fsm) == [*stuck, ("a", "end")]
    assert ways(fsm.clone()) == ways(pickle.loads(pickle.dumps(fsm))) == ways(fsm)
    fsm.add_terminal_state("late")
    assert ways(fsm) == [stuck[0], stuck[1], ("a", "end")]
    assert fsm.start().events == []
    with pytest.raises(InvalidNodeError, match="cannot be called '\\*'"):
        fsm.add_state("*", closed)


def test_star_leads_on_from_where_no_other_transition_does() -> None:
    fsm = FSM("m", initial_state="a", terminal_states=["end"])
    fsm.add_state("a", closed).add_state("b", closed).add_state("end", opened)
    fsm.add_transition("a", "b").add_transition("*", "end")
    fsm.run()
    assert fsm.state_history == ["a", "b", "end"]


class Step(StrEnum):
    DRAFT = "draft"
    DONE = "done"


class Old(str, Enum):  # noqa: UP042  as before Python 3.11
    DRAFT = "draft"
    DONE = "done"


@pytest.mark.parametrize("names", [Step, Old])
def test_member_of_an_enum_names_the_state_of_its_value(names: Any) -> None:
    fsm = FSM("m", initial_state=names.DRAFT, terminal_states=[names.DONE])

    @fsm.state(name=names.DRAFT)
    def first():
        return 1

    fsm.add_state(names.DONE, lambda x: x + 1).add_transition(names.DRAFT, names.DONE)
    assert fsm.run() == 2
    assert (fsm.state_history, fsm[names.DRAFT]) == (["draft", "done"], 1)
    assert all(type(name) is str for name in (*fsm.nodes, *fsm.state_history, *fsm.terminal_states))
    assert type(fsm.initial_state) is type(fsm.transitions[0].source) is str


def test_return_of_a_member_goes_to_the_state_that_its_value_names() -> None:
    class Way(StrEnum):
        left = "right"

    fsm = FSM("m", terminal_states=["left", "right"])
    fsm.add_state("go", lambda: FSMReturn(Way.left), initial=True)
    fsm.add_state("left", closed).add_state("right", opened)
    fsm.run()
    assert fsm.current_state == "right"


class Unshown:
    def __repr__(self) -> str:
        raise ValueError("not to be shown")


def test_a_next_state_that_is_no_name_and_cannot_be_shown_leads_nowhere() -> None:
    fsm = FSM("m", initial_state="a").add_state("a", lambda: FSMReturn(Unshown()))  # type: ignore
    with pytest.raises(InvalidTransitionError, match=r"leads to <.*Unshown.*, which is no state"):
        fsm.run()


def test_defined_again_a_state_takes_the_place_of_the_first() -> None:
    fsm = FSM("m", initial_state="a", terminal_states=["a"], replace=True)
    for value in (1, 2):
        fsm.add_state("a", lambda value=value: value)
        assert fsm.run() == value
    assert fsm.clone().replace
    assert pickle.loads(pickle.dumps(FSM("m", replace=True))).replace


def test_defined_again_a_state_is_what_its_new_declaration_says() -> None:
    fsm = FSM("m", terminal_states=["end"], replace=True)
    fsm.add_state("a", lambda: 1 / 0, initial=True, terminal=True, on_error="end")
    fsm.add_state("end", lambda error: "handled", terminal=True)
    assert fsm.run() == "handled"
    for each in (fsm.clone(), fsm):
        each.add_state("a", lambda n: n).add_state("b", lambda n: n + 1, initial=True)
        each.add_state("end", lambda n: n, terminal=False).add_transition("b", "end")
        declared = each.initial_states, each.terminal_states, each.error_states
        assert declared == (["b"], ["end"], {})
        assert each.run(n=1) == 2


@pytest.mark.parametrize("given", [{"max_cycles": 0}, {"keep_history": "3"}, {"max_cycles": 2.0}])
def test_limits_are_counts(given: Any) -> None:
    with pytest.raises(ValidationError, match="is a count of at least 1"):
        FSM("m", **given)


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


def test_restored_machine_has_the_inputs_of_its_snapshot() -> None:
    fsm = FSM("m", initial_state="a", terminal_states=["a"]).add_state("a", lambda n: n)
    snapshot = fsm.start(n=1).snapshot()
    assert fsm.restore(snapshot).run() == 1
    assert (
        fsm.restore(snapshot, inputs={"n": 2}).run() == fsm.restore(snapshot, {"n": 2}).run() == 2
    )
    assert fsm.restore(snapshot, n=3).run() == 3
    with pytest.raises(ValidationError, match="'m'"):
        fsm.restore(snapshot, m=3)
