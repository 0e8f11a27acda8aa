"""What is told where a workflow is not written as it is meant."""

from __future__ import annotations

import asyncio
import warnings
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from fast_dag import (
    DAG,
    FSM,
    ExecutionError,
    InvalidNodeError,
    MissingInputError,
    Node,
    Run,
    ValidationError,
)
from fast_dag.define.graph import Edge
from tests.behaviour.support import Index


def give() -> int:
    return 1


def two(x: int, y: int = 0) -> int:
    return x + y


def dag_of(**functions: Any) -> DAG:
    dag = DAG("demo")
    for name, function in functions.items():
        dag.add_node(name, function)
    return dag


# Edges.


def test_missing_input_that_is_called_like_a_node_asks_for_an_edge() -> None:
    dag = dag_of(load=give, show=lambda load, width: load)
    with pytest.raises(MissingInputError) as caught:
        dag.run()
    assert "say load >> show, or DAG(autowire=True)" in str(caught.value)
    assert "width >>" not in str(caught.value)


def test_joined_branches_ask_for_an_any_node() -> None:
    dag = DAG("demo")
    check = dag.condition(lambda ok: ok, name="check")
    left = dag.node(lambda x: x, name="left")
    right = dag.node(lambda x: x, name="right")
    end = dag.node(lambda x: x, name="end")
    check.on_true >> left
    check.on_false >> right
    left >> end
    with pytest.raises(ValidationError, match=r"make it an @dag\.any node"):
        right >> end


@pytest.mark.parametrize("value", [3, None, "a", 2.5, {"a": 1}])
def test_called_node_on_the_left_of_an_edge_is_told(value: Any) -> None:
    b = dag_of(b=two).nodes["b"]
    with pytest.raises(InvalidNodeError, match=r"both sides of >> are nodes.*do not call them"):
        value >> b


def test_called_node_on_the_right_of_an_edge_is_told() -> None:
    a = dag_of(a=give).nodes["a"]
    with pytest.raises(InvalidNodeError, match=r"cannot connect 'a' to 1: .*do not call them"):
        a >> 1
    with pytest.raises(InvalidNodeError, match="cannot connect 'a' to None"):
        a >> [None]


# Options.


@pytest.mark.parametrize(
    ("mode", "meant"),
    [("threads", "parallel"), ("multiprocessing", "process"), ("paralel", "parallel")],
)
def test_mode_of_another_name_is_suggested(mode: Any, meant: str) -> None:
    with pytest.raises(ValidationError, match=f"not '{mode}' \\(did you mean '{meant}'"):
        dag_of(a=give).run(mode=mode)


@pytest.mark.parametrize("outputs", [5, "a", [], ()])
def test_outputs_is_a_list(outputs: Any) -> None:
    with pytest.raises(ValidationError, match=r"outputs is a list of nodes or their names, not "):
        dag_of(a=give).run(outputs=outputs)


def test_outputs_that_is_a_node_says_how_to_get_one_value() -> None:
    dag = dag_of(a=give)
    node: Any = dag.nodes["a"]
    with pytest.raises(ValidationError, match=r"say outputs=\[node\], or run_until\(node\)"):
        dag.run(outputs=node)


def test_seconds_of_a_run_may_be_a_timedelta_and_counts_any_whole_number() -> None:
    dag = dag_of(a=give)
    assert dag.run(timeout=timedelta(minutes=1), mode="parallel", max_workers=Index(2)) == 1
    with pytest.raises(ValidationError, match="timeout is a number of seconds above 0, or a"):
        dag.run(timeout=timedelta(0))
    with pytest.raises(ValidationError, match=r"max_workers is a count of at least 1, not 2\.0"):
        dag.run(max_workers=2.0)  # type: ignore[arg-type]


def test_cycles_may_be_any_whole_number() -> None:
    fsm = FSM("m", initial_state="a", terminal_states=["a"], max_cycles=Index(3))
    fsm.add_state("a", give)
    assert (fsm.max_cycles, fsm.run(max_cycles=Index(1))) == (3, 1)


def test_option_among_the_inputs_is_told_to_be_one() -> None:
    with pytest.raises(ValidationError, match=r"'context' \(an option: pass context=\.\.\. beside"):
        dag_of(a=give).run({"context": 3})


# Warnings.


def text() -> str:
    return "a"


def test_edge_that_feeds_what_nobody_meant_is_a_warning() -> None:
    dag = dag_of(text=text, two=two).connect("text", "two")
    with pytest.warns(
        UserWarning, match="'text' returns str, but 'x' of 'two' takes int: .* input="
    ):
        assert dag.validate() == []
    outer = DAG("outer").add_node("sub", dag)
    with pytest.warns(UserWarning, match="in 'sub': 'text' returns str"):
        outer.validate()
    assert dag.execute().status == "failed", "a run warns of nothing"


@pytest.mark.parametrize("asked", [{"input": "x"}, {"output": "x"}])
def test_edge_whose_parameter_was_named_is_no_warning(asked: Any) -> None:
    assert dag_of(text=text, two=two).connect("text", "two", **asked).validate() == []
    assert dag_of(x=text, two=two).connect("x", "two").validate() == []


def test_nested_machine_that_waits_for_events_is_a_warning() -> None:
    door = FSM("door", initial_state="closed", terminal_states=["open"])
    door.add_state("closed", give).add_state("open", give)
    door.add_transition("closed", "open", event="push")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert door.validate() == []
    with pytest.warns(UserWarning, match="'door' is a machine that waits for events in 'closed'"):
        DAG("house").add_node("door", door).validate()
    door.add_transition("closed", "open")
    assert DAG("house").add_node("door", door).validate() == []


# Types.


@dataclass
class Point:
    x: int


def area(point: Point) -> int:
    return point.x


def length(point: str) -> int:
    return len(point)


def test_class_used_as_a_node_returns_its_instances() -> None:
    dag = dag_of(point=Point, area=area).connect("point", "area")
    assert dag.validate(check_types=True) == []
    assert dag.run(x=3) == 3
    (problem,) = dag.replace_node("area", length).validate(check_types=True)
    assert "'point' returns Point, but 'point' of 'area' takes str" in str(problem)


# A notebook.


def test_cells_of_a_notebook_may_run_again() -> None:
    dag = DAG("notebook", replace=True)
    for offset in (1, 2):

        @dag.node
        def load() -> int:
            return offset  # noqa: B023  called while it is this one

        @dag.cached_node
        def double(x: int, y: int = 0) -> int:
            return 2 * x + y

        dag.add_node("last", two)
        load >> double >> dag.nodes["last"]
        assert dag.run() == 2 * offset
    edges: list[Edge] = list(dag.graph.edges())
    assert [(each.source, each.input) for each in edges] == [("load", "x"), ("double", "x")]
    assert dag.clone().replace
    assert not DAG("other").replace


# Nodes in the place of names.


def test_node_stands_wherever_its_name_does() -> None:
    dag = DAG("demo")
    load = dag.node(give, name="load")
    add = dag.node(two, name="add")
    load >> add
    run: Run = dag.execute()
    assert (run[load], run[add], run.get(load), dag[load], dag.get(add)) == (1, 1, 1, 1, 1)
    assert dag.get_result(load) == 1
    assert dag.run(outputs=[load, "add"]) == {"load": 1, "add": 1}
    assert dag.run_from(add, y=2) == 3
    dag.replace_node(add, lambda x: 10 * x)
    assert dag.run_until(add) == 10, "what took its place"
    assert dag[add] == 10
    with pytest.raises(InvalidNodeError, match="belongs to no DAG"):
        dag[Node(give, "load")]
    with pytest.raises(InvalidNodeError, match="node 'load' is none of 'demo'"):
        run[DAG("other").node(give, name="load")]


def test_parts_of_a_run_take_several_nodes() -> None:
    calls: list[str] = []

    def told(name: str) -> Any:
        def node(x: int = 0) -> str:
            calls.append(name)
            return name

        return node

    dag = dag_of(**{name: told(name) for name in "abcd"})
    dag.connect("a", "b").connect("a", "c")
    assert dag.run_until(["b", dag.nodes["d"]]) == {"b": "b", "d": "d"}
    assert sorted(calls) == ["a", "b", "d"]
    dag.run()
    calls.clear()
    dag.run_from([dag.nodes["b"], "d"])
    assert sorted(calls) == ["b", "d"]
    with pytest.raises(ValidationError, match="name at least one"):
        dag.run_from([])


# Words that fit.


def test_a_node_without_a_name_is_told_what_a_name_is() -> None:
    with pytest.raises(InvalidNodeError, match="name is a non-empty string, not ''"):
        DAG("demo").add_node("", give)


def test_a_part_of_an_empty_mapping_is_told() -> None:
    dag = dag_of(load=lambda: {}, show=two).connect("load", "show", output="x")
    with pytest.raises(ExecutionError, match="which is not there: it has no keys"):
        dag.run()


def test_a_machine_on_a_running_loop_names_the_twins_of_its_methods() -> None:
    async def state() -> int:
        return 1

    fsm = FSM("demo", initial_state="state").add_state("state", state, terminal=True)

    async def main() -> None:
        with pytest.raises(ValidationError, match="step_async"):
            fsm.start().step()

    asyncio.run(main())
