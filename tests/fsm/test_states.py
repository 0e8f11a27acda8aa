"""What a state is given, parameter by parameter."""

from __future__ import annotations

import collections
import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
import pytest

from fast_dag import FSM, Context, ExecutionError, FSMContext, FSMReturn, MissingInputError
from tests.fsm.support import machine

if TYPE_CHECKING:
    import fast_dag


@dataclass(frozen=True)
class Point:
    x: int
    y: int


class Unloaded:
    """A proxy whose target cannot be loaded, as lazy objects of web frameworks are."""

    @property
    def __class__(self) -> Any:
        raise LookupError("no target")


@pytest.mark.parametrize("hooks", [{}, {"post_execute": lambda node, inputs, result: None}])
def test_a_value_that_does_not_tell_its_class_fails_the_state_that_is_given_it(
    execute: Any, hooks: dict[str, Any]
) -> None:
    fsm = machine(first=lambda: Unloaded(), last=lambda x: x)
    fsm.set_default_hooks(**hooks)
    run = execute(fsm)
    assert list(run.errors) == ["last"]
    assert isinstance(run.errors["last"], LookupError)
    assert fsm.state_history == ["first", "last"]


# Keys of a mapping.


def test_keys_of_a_mapping_fill_parameters_of_their_names(second: Any) -> None:
    assert second(lambda b, a: (a, b), {"a": 1, "b": 2, "c": 3}) == (1, 2)


def test_keys_win_over_run_inputs(second: Any) -> None:
    assert second(lambda a, n: (a, n), {"a": 1}, a="input", n="run") == (1, "run")


def test_keys_win_over_defaults(second: Any) -> None:
    assert second(lambda a=0, b=0: (a, b), {"b": 2}) == (0, 2)


def test_one_key_taken_keeps_the_whole_from_being_passed(second: Any) -> None:
    with pytest.raises(ExecutionError, match=r"lacks values for 'x'.*the keys 'b', 'c'"):
        second(lambda x, b=0: (x, b), {"b": 2, "c": 3})


def test_a_key_that_is_none_is_a_value(second: Any) -> None:
    assert second(lambda a=0: a, {"a": None}) is None


@pytest.mark.parametrize(
    "value",
    [
        collections.OrderedDict(a=1),
        collections.ChainMap({}, {"a": 1}),
        types.MappingProxyType({"a": 1}),
        collections.UserDict(a=1),
        collections.Counter("a"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_mapping_will_do(second: Any, value: Any) -> None:
    assert second(lambda a: a, value) == 1


def test_a_defaultdict_is_not_filled_by_asking(second: Any) -> None:
    value = collections.defaultdict(list, b=2)
    assert second(lambda a=0, b=1: (a, b), value) == (0, 2)
    assert dict(value) == {"b": 2}


def test_keys_that_are_no_names_are_no_parameters(second: Any) -> None:
    assert second(lambda x: x, {1: "one", ("a",): "tuple"}) == {1: "one", ("a",): "tuple"}


# The whole value.


@pytest.mark.parametrize(
    "value",
    [0, 1.5, "", "text", b"", (), [], [1, 2], {3}, False, Point(1, 2), {}, {"other": 1}, len],
    ids=repr,
)
def test_the_whole_value_goes_to_the_one_required_parameter(second: Any, value: Any) -> None:
    assert second(lambda x: (x,), value) == (value,)
    assert second(lambda x, factor=2: (x, factor), value) == (value, 2)
    assert second(lambda *, x, factor=2: (x, factor), value) == (value, 2)


def test_the_whole_value_wins_over_the_run_input_of_the_one_required_parameter(second: Any) -> None:
    assert second(lambda n: n, "whole", n="input") == "whole"
    assert second(lambda n, m=0: (n, m), "whole", n="input", m="given") == ("whole", "given")


def test_of_several_required_ones_it_goes_to_the_only_one_that_no_input_names(second: Any) -> None:
    assert second(lambda a, b, c: (a, b, c), "whole", a=1, c=3) == (1, "whole", 3)
    assert second(lambda a, b, c: (a, b, c), {"z": 0}, a=1, c=3) == (1, {"z": 0}, 3)


def test_of_several_required_ones_without_inputs_none_gets_it(second: Any) -> None:
    with pytest.raises(ExecutionError, match="state 'second' lacks values for 'a', 'b'"):
        second(lambda a, b: (a, b), "whole")


def test_where_inputs_name_all_of_several_required_ones_none_gets_it(second: Any) -> None:
    assert second(lambda a, b: (a, b), "whole", a=1, b=2) == (1, 2)


def test_where_none_is_required_it_goes_to_the_only_one_with_a_default(second: Any) -> None:
    assert second(lambda x=1: x, "whole") == "whole"
    assert second(lambda x=1: x, "whole", x="input") == "whole"
    assert second(lambda *, x=1: x, "whole") == "whole"


def test_where_none_is_required_and_several_have_defaults_none_gets_it(second: Any) -> None:
    assert second(lambda x=1, y=2: (x, y), "whole") == (1, 2)
    assert second(lambda x=1, y=2: (x, y), "whole", y="input") == (1, "input")


def test_none_is_not_passed_on(second: Any) -> None:
    assert second(lambda x=1: x, None) == 1
    assert second(lambda x: x, None, x="input") == "input"
    with pytest.raises(ExecutionError, match="the state before gave None"):
        second(lambda x: x, None)


def test_a_state_without_parameters_takes_nothing(second: Any) -> None:
    assert second(lambda: "alone", {"a": 1}) == "alone"
    assert second(lambda context: "alone", "whole") == "alone"


def test_the_context_is_no_candidate_for_the_value(second: Any) -> None:
    assert second(lambda x, context: (x, type(context)), 1) == (1, FSMContext)
    assert second(lambda context, x=0: (x, type(context)), 1) == (1, FSMContext)


def test_an_array_is_passed_whole(second: Any) -> None:
    array = np.arange(4)
    assert second(lambda x: x, array) is array
    assert second(lambda x=None, *, scale=2: (x, scale), array) == (None, 2)
    assert second(lambda x, *, scale=2: x * scale, array).tolist() == [0, 2, 4, 6]


def test_a_dataclass_is_no_mapping(second: Any) -> None:
    assert second(lambda x: x, Point(1, 2)) == Point(1, 2)


def test_a_value_is_passed_as_it_is(second: Any) -> None:
    value = {"deep": []}
    assert second(lambda x: x, value) is value
    assert second(lambda deep: deep, value) is value["deep"]


# Other parameters.


def test_star_args_take_the_whole_value_where_there_is_nothing_else(second: Any) -> None:
    assert second(lambda *args: args, 1) == (1,)
    assert second(lambda *args: args, (1, 2)) == ((1, 2),)
    assert second(lambda *args: args, None) == ()
    assert second(lambda x, *args: (x, args), 1) == (1, ())
    assert second(lambda *args, x: (args, x), 1) == ((), 1)


def test_double_star_takes_all_keys(second: Any) -> None:
    assert second(lambda **more: more, {"a": 1, "b": 2, 3: 4}) == {"a": 1, "b": 2}
    assert second(lambda a, **more: (a, more), {"a": 1, "b": 2}) == (1, {"b": 2})
    assert second(lambda **more: more, "whole") == {}
    assert second(lambda context, **more: more, {"context": 1, "a": 2}) == {"a": 2}


def test_double_star_takes_run_inputs_that_no_other_parameter_names(second: Any) -> None:
    assert second(lambda **more: more, {"a": 1}, a=0, b=2) == {"a": 1, "b": 2}


def test_positional_only_parameters_are_passed_by_position(second: Any) -> None:
    def state(a: int = 1, b: int = 2, /) -> Any:
        return a, b

    assert second(state, {"b": 5}) == (1, 5)
    assert second(lambda x, /: x, "whole") == "whole"
    assert second(lambda a, /, **more: (a, more), {"a": 1, "b": 2}) == (1, {"b": 2})


def test_renamed_inputs_are_what_keys_are_compared_with(run: Any) -> None:
    fsm = FSM("m", initial_state="first", terminal_states=["second"])
    fsm.add_state("first", lambda: {"price": 3, "n": 4})
    fsm.add_state("second", lambda x, n: (x, n), inputs=["price"]).add_transition("first", "second")
    assert run(fsm) == (3, 4)


def test_methods_and_callable_objects_are_states(second: Any) -> None:
    class Scaled:
        def __call__(self, x: int) -> int:
            return 2 * x

        def method(self, x: int) -> int:
            return 3 * x

    assert second(Scaled(), 5) == 10
    assert second(Scaled().method, 5) == 15


# The context.


def bare(context: Any = None) -> Any:
    return type(context)


def unnamed(context: Any) -> Any:
    return type(context)


def plain(ctx: Context) -> Any:
    return type(ctx)


def of_fsm(ctx: FSMContext) -> Any:
    return type(ctx)


def optional(ctx: Optional[FSMContext] = None) -> Any:  # noqa: UP045
    return type(ctx)


def union(ctx: FSMContext | None = None) -> Any:
    return type(ctx)


def checkers_only(ctx: fast_dag.FSMContext) -> Any:
    return type(ctx)


def quoted(ctx: Optional[FSMContext]) -> Any:  # noqa: UP045
    return type(ctx)


@pytest.mark.parametrize("state", [plain, of_fsm, optional, union, checkers_only, quoted])
def test_what_is_annotated_as_a_context_is_given_the_context(second: Any, state: Any) -> None:
    assert second(state, None) is FSMContext
    assert second(state, {"ctx": 1}) is FSMContext
    assert second(state, "whole") is FSMContext


def test_what_is_named_context_and_annotated_otherwise_is_a_parameter(second: Any) -> None:
    assert second(lambda context: type(context), {"context": 1}) is FSMContext
    assert second(bare, {"context": 1}) is int
    assert second(unnamed, 1) is int


def test_the_context_of_the_caller_is_given(run: Any) -> None:
    fsm = machine(first=lambda context: context, second=lambda x, context: x is context)
    assert run(fsm, context=FSMContext()) is True
    assert run(fsm, context=Context()) is True


# The initial state, and what is missing.


def test_the_initial_state_is_given_run_inputs_and_defaults(run: Any) -> None:
    fsm = FSM("m").add_state("only", lambda a, b=2: (a, b), initial=True, terminal=True)
    assert run(fsm, a=1) == (1, 2)
    assert run(fsm, {"a": 1, "b": 3}) == (1, 3)
    assert run(fsm, inputs={"a": 1}, b=None) == (1, None)


def test_what_the_initial_state_lacks_is_told_before_anything_runs(run: Any) -> None:
    ran: list[str] = []
    fsm = machine(first=lambda a, b, c=0: ran.append("first"), second=lambda d: 1)
    fsm.set_default_hooks(pre_execute=lambda node: ran.append("hook"))
    with pytest.raises(MissingInputError, match="'a' of 'first', 'b' of 'first'") as caught:
        run(fsm)
    assert caught.value.missing == (("first", "a"), ("first", "b"))
    assert ran == []


def test_what_a_later_state_lacks_names_state_and_parameter(execute: Any) -> None:
    ran = execute(machine(first=lambda: {"a": 1}, second=lambda a, b, c: 1))
    error = ran.exception()
    assert isinstance(error.__cause__, MissingInputError)
    assert error.__cause__.missing == (("second", "b"), ("second", "c"))
    assert (error.node_name, error.attempts) == ("second", 0)
    assert (ran.status, ran.state_history) == ("failed", ["first", "second"])


def test_run_inputs_reach_any_state(run: Any) -> None:
    fsm = machine(first=lambda: None, second=lambda n: n + 1, third=lambda x, n: (x, n))
    assert run(fsm, n=1) == (2, 1)


def test_an_input_that_no_state_takes_is_refused_with_the_closest_name(run: Any) -> None:
    with pytest.raises(ValueError, match="did you mean 'amount'"):
        run(machine(first=lambda amount: amount), amuont=1)
    with pytest.raises(ValueError, match="did you mean 'max_cycles'"):
        run(machine(first=lambda: 1), max_cycle=1)


# FSMReturn and values.


@pytest.mark.process_mode
def test_the_value_of_an_fsm_return_is_what_the_next_state_is_given(run: Any) -> None:
    fsm = FSM("m", initial_state="a", terminal_states=["c"])
    fsm.add_state("a", lambda: FSMReturn("b", {"x": 1}))
    fsm.add_state("b", lambda x: FSMReturn(value=x + 1, next_state="c"))
    assert run(fsm.add_state("c", lambda x: FSMReturn("nowhere", x + 1))) == 3
    assert (fsm["a"], fsm["b"], fsm["c"]) == ({"x": 1}, 2, 3)


def test_a_subclass_of_fsm_return_will_do(run: Any) -> None:
    class Go(FSMReturn):
        pass

    fsm = machine(a=lambda: Go("c", 1), b=lambda x: "b", c=lambda x: f"c {x}")
    assert run(fsm) == "c 1"


def test_an_fsm_return_without_next_state_leaves_that_to_the_transitions(run: Any) -> None:
    fsm = machine(a=lambda: FSMReturn(value=1), b=lambda x: FSMReturn(value=x + 1))
    assert run(fsm) == 2


def test_a_return_that_stops_ends_the_machine(execute: Any) -> None:
    fsm = machine(a=lambda: FSMReturn("b", "value", stop=True), b=lambda x: 1)
    ran = execute(fsm)
    assert (ran.value, ran.status, ran.is_terminated) == ("value", "completed", True)
    assert ran.state_history == ["a"]


def test_async_states_and_sync_ones_that_return_a_coroutine_are_awaited(run: Any) -> None:
    async def later(n: int) -> int:
        return n + 1

    async def go(n: int) -> FSMReturn:
        return FSMReturn("d", 10 * n)

    fsm = machine(a=later, b=lambda n: later(n), c=lambda n: go(n), skipped=lambda: 0, d=later)
    assert run(fsm, n=1) == 31
