"""Whatever can be called can be a node, and takes its values as it is meant to."""

from __future__ import annotations

import asyncio
import functools
import math
import operator
from typing import Any

import pytest

from fast_dag import DAG, Node
from tests.behaviour.support import (
    BoomError,
    Breaker,
    Point,
    Scale,
    ScaleLater,
    add,
    add_later,
    boom,
    double,
    opaque,
    opaque_later,
    wrapped,
)


def fed(func: Any, *values: Any, **options: Any) -> DAG:
    """A DAG in which sources called s0, s1, ... feed the node "f", in this order."""
    dag = DAG("fed").add_node("f", func, **options)
    for position, value in enumerate(values):
        dag.add_node(f"s{position}", lambda value=value: value)
        dag.connect(f"s{position}", "f")
    return dag


KINDS = {
    "a function": (add, (1, 2), 3),
    "a lambda": (lambda a, b: a - b, (5, 2), 3),
    "an async function": (add_later, (1, 2), 3),
    "a bound method": (Scale(3).method, (2,), 6),
    "an async bound method": (Scale(3).method_later, (2,), 6),
    "a class method": (Scale.of_class, (4,), 40),
    "a static method": (Scale.static, (4,), 400),
    "a callable object": (Scale(4), (2,), 8),
    "an async callable object": (ScaleLater(), (2,), 10),
    "a class": (Point, (1, 2), Point(1, 2)),
    "a class whose default stays": (Point, (1,), Point(1, 7)),
    "a partial": (functools.partial(add, 10), (1,), 11),
    "a partial of a partial": (functools.partial(functools.partial(add, 10), 5), (), 15),
    "a partial with a keyword": (functools.partial(add, b=10), (1,), 11),
    "a partial of an async function": (functools.partial(add_later, 10), (1,), 11),
    "a partial of a method": (functools.partial(Scale(2).method), (3,), 6),
    "an lru_cache": (functools.lru_cache(add), (1, 2), 3),
    "an lru_cache with a size": (functools.lru_cache(maxsize=2)(add), (1, 2), 3),
    "a wrapped function": (wrapped(add), (1, 2), 3),
    "a wrapped async function": (wrapped(add_later), (1, 2), 3),
    "an opaque wrapper": (opaque(add), (1, 2), 3),
    "opaque wrappers on each other": (opaque(opaque(opaque(add))), (1, 2), 3),
    "an opaque wrapper of an async function": (opaque(add_later), (1, 2), 3),
    "an opaque async wrapper": (opaque_later(add_later), (1, 2), 3),
    "an opaque wrapper of a wrapped function": (opaque(wrapped(add)), (1, 2), 3),
    "an opaque wrapper of an lru_cache": (opaque(functools.lru_cache(add)), (1, 2), 3),
    "an opaque wrapper of a method": (opaque(Scale(3).method), (2,), 6),
    "an opaque wrapper of a partial": (opaque(functools.partial(add, 10)), (1,), 11),
    "an opaque wrapper of a builtin": (opaque(operator.add), (1, 2), 3),
    "a circuit breaker": (Breaker()(add), (1, 2), 3),
    "stacked circuit breakers": (Breaker()(Breaker()(add)), (1, 2), 3),
    "operator.add": (operator.add, (1, 2), 3),
    "len": (len, ([1, 2, 3],), 3),
    "math.sqrt": (math.sqrt, (9,), 3.0),
    "an unbound method of a builtin": (str.upper, ("loud",), "LOUD"),
    "a bound method of a builtin": ("-".join, (["a", "b"],), "a-b"),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("kind", KINDS)
def test_callable_of_any_kind_is_a_node(run: Any, kind: str) -> None:
    func, values, expected = KINDS[kind]
    assert run(fed(func, *values), outputs=["f"]) == {"f": expected}


def test_builtin_without_a_readable_signature_takes_named_inputs(run: Any) -> None:
    dag = DAG("d").add_node("hypot", math.hypot, inputs=["x", "y"])
    assert run(dag, x=3, y=4) == 5.0
    assert dag.nodes["hypot"].inputs == ("x", "y")


def test_class_without_a_readable_signature_takes_named_inputs(run: Any) -> None:
    assert run(DAG("d").add_node("to_int", int, inputs=["text"]), text="12") == 12


def test_names_given_to_a_builtin_of_any_number_of_values_are_all_required() -> None:
    dag = DAG("d").add_node("largest", max, inputs=["x", "y"])
    with pytest.raises(ValueError, match="'y' of 'largest'"):
        dag.run(x=1)


def test_inputs_rename_parameters_by_position(run: Any) -> None:
    dag = DAG("d").add_node("minus", lambda a, b: a - b, inputs=["left", "right"])
    assert run(dag, left=5, right=3) == 2


def test_inputs_may_rename_the_first_parameters_only(run: Any) -> None:
    dag = DAG("d").add_node("minus", lambda a, b=1: a - b, inputs=["left"])
    assert run(dag, left=5, b=3) == 2
    assert run(dag, left=5) == 4


def test_inputs_rename_keyword_only_parameters(run: Any) -> None:
    dag = DAG("d").add_node("minus", lambda *, a, b: a - b, inputs=["left", "right"])
    assert run(dag, left=5, right=3) == 2


def test_inputs_rename_positional_only_parameters(run: Any) -> None:
    assert run(DAG("d").add_node("add", operator.add, inputs=["x", "y"]), x=1, y=2) == 3


def test_keyword_only_parameters_take_edges_in_their_order(run: Any) -> None:
    assert run(fed(lambda *, a, b: (a, b), 1, 2), outputs=["f"]) == {"f": (1, 2)}


def test_positional_only_parameters_take_edges_and_inputs(run: Any) -> None:
    def func(a, b=10, /, c=20):
        return (a, b, c)

    assert run(fed(func, 1, 2), outputs=["f"]) == {"f": (1, 2, 20)}
    assert run(DAG("d").add_node("f", func), a=1, c=3) == (1, 10, 3)


@pytest.mark.process_mode
def test_default_between_given_positional_only_parameters_is_kept(run: Any) -> None:
    dag = DAG("d").add_node("f", lambda a, b=5, c=6, /: (a, b, c))
    assert run(dag, a=1, c=3) == (1, 5, 3)


def test_star_args_take_edges_in_their_order(run: Any) -> None:
    assert run(fed(lambda *values: values, 3, 1, 2), outputs=["f"]) == {"f": (3, 1, 2)}


def test_star_args_take_what_the_named_parameters_leave(run: Any) -> None:
    assert run(fed(lambda first, *rest: (first, rest), 3, 1, 2), outputs=["f"]) == {
        "f": (3, (1, 2))
    }


def test_star_args_without_edges_are_empty(run: Any) -> None:
    assert run(DAG("d").add_node("f", lambda *values: values)) == ()


def test_default_before_star_args_is_passed_where_star_args_are_fed(run: Any) -> None:
    dag = DAG("d").add_node("one", lambda: 1).add_node("f", lambda first=7, *rest: (first, rest))
    dag.connect("one", "f", input="rest")
    assert run(dag) == (7, (1,))


def test_keyword_only_parameter_behind_star_args_is_fed_by_its_name(run: Any) -> None:
    dag = fed(lambda *values, sign: (values, sign), 1, 2)
    dag.add_node("sign", lambda: "-").connect("sign", "f")
    assert run(dag, outputs=["f"]) == {"f": ((1, 2), "-")}


@pytest.mark.process_mode
def test_star_kwargs_take_edges_by_the_name_of_their_source(run: Any) -> None:
    assert run(fed(lambda **values: values, 3, 1), outputs=["f"]) == {"f": {"s0": 3, "s1": 1}}


def test_star_kwargs_take_edges_by_the_given_name(run: Any) -> None:
    dag = DAG("d").add_node("one", lambda: 1).add_node("f", lambda **values: values)
    assert run(dag.connect("one", "f", input="x")) == {"x": 1}


def test_star_kwargs_take_what_the_named_parameters_leave(run: Any) -> None:
    dag = fed(lambda first, **rest: (first, rest), 3, 1)
    assert run(dag, outputs=["f"]) == {"f": (3, {"s1": 1})}


def test_star_kwargs_take_the_run_inputs_that_nobody_else_names(run: Any) -> None:
    dag = DAG("d").add_node("f", lambda **values: values).add_node("g", lambda x: x)
    result = run(dag, {"x": 1, "y": 2, "z": 3}, outputs=["f", "g"])
    assert result == {"f": {"y": 2, "z": 3}, "g": 1}


def test_edge_into_star_kwargs_wins_over_the_run_input_of_its_name(run: Any) -> None:
    dag = DAG("d").add_node("x", lambda: "edge").add_node("f", lambda **values: values)
    assert run(dag.connect("x", "f"), y="input") == {"x": "edge", "y": "input"}


@pytest.mark.same_process
def test_print_is_a_node_of_star_args(run: Any, capfd: pytest.CaptureFixture[str]) -> None:
    dag = fed(print, "a", "b")
    assert run(dag, outputs=["f"], inputs={"sep": "-"}) == {"f": None}
    assert capfd.readouterr().out == "a-b\n"


def test_partial_keyword_is_a_default_that_an_input_replaces(run: Any) -> None:
    dag = DAG("d").add_node("f", functools.partial(add, b=10))
    assert run(dag, a=1) == 11
    assert run(dag, a=1, b=2) == 3


def test_wrapper_that_passes_keywords_only_gets_keywords(run: Any) -> None:
    def by_keyword(func):
        @functools.wraps(func)
        def wrapper(**kwargs):
            return func(**kwargs)

        return wrapper

    assert run(fed(by_keyword(add), 1, 2), outputs=["f"]) == {"f": 3}


def test_opaque_wrapper_has_the_name_and_the_parameters_of_its_function() -> None:
    dag = DAG("d")
    node = dag.node(opaque(add))
    assert (node.name, node.inputs) == ("add", ("a", "b"))


def test_opaque_wrapper_keeps_keyword_only_parameters(run: Any) -> None:
    dag = DAG("d").add_node("f", opaque(lambda x, *, scale=2: scale * x))
    assert run(dag, x=5) == 10
    assert run(dag, x=5, scale=3) == 15


@pytest.mark.parametrize("name", ["func", "fn", "f", "function", "wrapped"])
def test_opaque_wrapper_of_several_functions_shows_the_one_of_the_usual_name(name: str) -> None:
    scope: dict[str, Any] = {}
    exec(
        f"def decorate({name}, notify):\n"
        "    def wrapper(*args, **kwargs):\n"
        "        notify()\n"
        f"        return {name}(*args, **kwargs)\n"
        "    return wrapper\n",
        scope,
    )
    node = DAG("d").node(scope["decorate"](add, lambda: None))
    assert (node.name, node.inputs) == ("add", ("a", "b"))


def test_opaque_wrapper_of_a_callable_object_of_the_usual_name_shows_it(run: Any) -> None:
    dag = DAG("d").add_node("f", opaque(Scale(3)))
    assert run(dag, x=2) == 6


def test_wrapper_that_hides_its_function_well_is_a_node_of_star_args(run: Any) -> None:
    functions = {"one": add}

    def wrapper(*args, **kwargs):
        return functions["one"](*args, **kwargs)

    assert run(fed(wrapper, 1, 2), outputs=["f"]) == {"f": 3}
    assert DAG("d").node(wrapper).name == "wrapper"


@pytest.mark.same_process
def test_state_of_a_circuit_breaker_lasts_from_run_to_run(run: Any) -> None:
    dag = DAG("d").add_node("call", Breaker(threshold=2)(boom))
    causes = []
    for _ in range(3):
        with pytest.raises(RuntimeError) as caught:
            run(dag)
        causes.append(type(caught.value.__cause__))
    assert causes == [BoomError, BoomError, ConnectionError]


@pytest.mark.process_mode
def test_coroutine_of_a_sync_function_is_awaited(run: Any) -> None:
    dag = DAG("d").add_node("a", lambda: add_later(1, 2)).add_node("b", lambda a: a + 1)
    assert run(dag.connect("a", "b")) == 4


@pytest.mark.process_mode
def test_failure_of_a_coroutine_of_a_sync_function_is_the_nodes(run: Any) -> None:
    async def fail():
        raise BoomError("late")

    with pytest.raises(RuntimeError, match="late") as caught:
        run(DAG("d").add_node("a", lambda: fail()))
    assert isinstance(caught.value.__cause__, BoomError)


def test_async_nodes_see_each_others_loop(run: Any) -> None:
    async def loop():
        return id(asyncio.get_running_loop())

    dag = DAG("d").add_node("a", loop).add_node("b", loop)
    result = run(dag, outputs=["a", "b"])
    assert result["a"] == result["b"]


@pytest.mark.process_mode
def test_bound_method_is_decorated_by_hand(run: Any) -> None:
    scale = Scale(7)
    dag = DAG("d")
    dag.node(scale.method)
    assert run(dag, x=2) == 14


def test_parameter_named_self_of_a_plain_function_is_an_ordinary_one(run: Any) -> None:
    dag = DAG("d").add_node("f", lambda self, x: (self, x))
    assert run(dag, {"self": 1, "x": 2}) == (1, 2)
    assert run(dag, self=1, x=2) == (1, 2)


def test_unbound_method_takes_its_object_as_a_value(run: Any) -> None:
    dag = DAG("d").add_node("scale", lambda: Scale(3)).add_node("apply", Scale.method)
    dag.connect("scale", "apply", input="self")
    assert run(dag, x=5) == 15


def test_node_is_called_as_its_bare_function() -> None:
    dag = DAG("d")
    node = dag.node(retry=3)(double)
    assert node(4) == 8
    assert node(x=4) == 8
    with pytest.raises(TypeError):
        node()


def test_async_node_is_called_as_its_bare_function() -> None:
    node = Node(add_later)
    assert asyncio.run(node(1, 2)) == 3


def test_signature_that_names_do_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="3 names for 2 parameters"):
        DAG("d").add_node("f", add, inputs=["x", "y", "z"])


def test_star_kwargs_take_any_name_of_a_source(run: Any) -> None:
    dag = DAG("d").add_node("load-data", lambda: 1).add_node("f", lambda **values: values)
    assert run(dag.connect("load-data", "f")) == {"load-data": 1}


def test_star_args_and_star_kwargs_take_edges_and_inputs(run: Any) -> None:
    dag = fed(lambda *args, **kwargs: (args, kwargs), 1, 2)
    dag.add_node("named", lambda: 3).connect("named", "f", input="k")
    assert run(dag, z=4, outputs=["f"]) == {"f": ((1, 2), {"k": 3, "z": 4})}


@pytest.mark.parametrize("kind", ["any", "all"])
def test_joins_of_star_args_take_edges_in_their_order(run: Any, kind: str) -> None:
    dag = fed(lambda *values: values, 3, 1, type=kind, **({"wait": True} if kind == "any" else {}))
    assert run(dag, outputs=["f"]) == {"f": (3, 1)}


def test_all_of_star_kwargs_takes_edges_by_the_name_of_their_source(run: Any) -> None:
    dag = fed(lambda **values: values, 3, 1, type="all")
    assert run(dag, outputs=["f"]) == {"f": {"s0": 3, "s1": 1}}


@functools.singledispatch
def by_type(x):
    return "anything"


@by_type.register
def _(x: int):
    return "a number"


def test_single_dispatch_function_is_a_node(run: Any) -> None:
    assert run(DAG("d").add_node(Node(by_type)), x=1) == "a number"


def test_static_method_decorated_in_a_class_body_is_a_node(run: Any) -> None:
    dag = DAG("d")

    class Tools:
        @dag.node
        @staticmethod
        def twice(x):
            return 2 * x

    assert run(dag, x=2) == Tools.twice(2) == 4
