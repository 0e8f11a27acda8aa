"""What is wrong with a definition, all at once; and what a graph tells of itself."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Protocol

import pytest

from fast_dag import (
    DAG,
    CycleError,
    DisconnectedNodeError,
    MissingConnectionError,
    ValidationError,
)


def chain(*names: str) -> DAG:
    dag = DAG("chain")
    for name in names:
        dag.add_node(name, lambda x=0, y=0: x)
    for source, target in pairwise(names):
        dag.connect(source, target)
    return dag


def kinds(problems: list[ValidationError]) -> list[str]:
    return [type(problem).__name__ for problem in problems]


def test_sound_dag_has_no_problems() -> None:
    dag = chain("a", "b", "c")
    assert dag.validate() == []
    assert dag.is_valid
    assert dag.validate_or_raise() is None


def test_one_node_alone_is_sound() -> None:
    assert chain("a").validate() == []


def test_empty_dag_is_a_problem(run: Any) -> None:
    dag = DAG("nothing")
    (problem,) = dag.validate()
    assert str(problem) == "'nothing' has no nodes; add one with @dag.node or add_node()"
    assert not dag.is_valid
    with pytest.raises(ValidationError, match="has no nodes"):
        run(dag)


def test_cycle_is_named(run: Any) -> None:
    dag = chain("a", "b", "c").connect("c", "a")
    (problem,) = dag.validate()
    assert isinstance(problem, CycleError)
    assert problem.cycle == ("a", "b", "c", "a")
    assert "a -> b -> c -> a" in str(problem)
    with pytest.raises(CycleError) as caught:
        run(dag)
    assert caught.value.cycle == ("a", "b", "c", "a")


def test_cycle_of_one_node_is_named() -> None:
    dag = chain("a").connect("a", "a")
    assert [problem.cycle for problem in dag.validate()] == [("a", "a")]


def test_cycle_leaves_out_what_only_leads_to_it() -> None:
    dag = chain("before", "a", "b", "after").connect("b", "a", input=False)
    assert [problem.cycle for problem in dag.validate()] == [("a", "b", "a")]


def test_cycle_of_order_only_edges_is_one() -> None:
    dag = chain("a", "b")
    dag.nodes["a"].after(dag.nodes["b"])
    assert kinds(dag.validate()) == ["CycleError"]


def test_cycle_through_a_branch_is_one() -> None:
    dag = DAG("d").add_node("a", lambda x=0: x).add_node("check", lambda a: a, type="condition")
    dag.connect("a", "check").connect(dag.nodes["check"].on_false, "a")
    assert kinds(dag.validate()) == ["CycleError"]


def test_two_cycles_are_two_problems() -> None:
    dag = chain("a", "b").connect("b", "a", input=False)
    dag.add_node("c", lambda x=0: x).add_node("d", lambda x=0: x)
    dag.connect("c", "d").connect("d", "c")
    assert [problem.cycle for problem in dag.validate()] == [("a", "b", "a"), ("c", "d", "c")]


def test_long_cycle_needs_no_recursion() -> None:
    names = [f"n{number}" for number in range(5000)]
    dag = chain(*names).connect(names[-1], names[0])
    (problem,) = dag.validate()
    assert problem.cycle == (*names, names[0])


def test_nodes_without_any_edge_are_a_problem_that_runs_accept(run: Any) -> None:
    dag = chain("a", "b").add_node("lone", lambda: "lone").add_node("other", lambda: "other")
    (problem,) = dag.validate()
    assert isinstance(problem, DisconnectedNodeError)
    assert problem.nodes == ("lone", "other")
    assert "allow_disconnected=True" in str(problem)
    assert dag.validate(allow_disconnected=True) == []
    assert not dag.is_valid
    assert run(dag) == "other"


def test_all_problems_are_told_at_once(run: Any) -> None:
    dag = chain("a", "b").connect("b", "a", input=False).add_node("lone", lambda: 1)
    dag.add_node("sub", DAG("empty")).connect("lone", "sub")
    dag.add_node("alone", lambda: 1)
    found = dag.validate()
    assert kinds(found) == ["CycleError", "DisconnectedNodeError", "ValidationError"]
    with pytest.raises(ValidationError) as caught:
        dag.validate_or_raise()
    assert kinds(list(caught.value.problems)) == kinds(found)
    assert all(str(problem) in str(caught.value) for problem in found)
    with pytest.raises(ValidationError) as caught:
        run(dag)
    assert kinds(list(caught.value.problems)) == ["CycleError", "ValidationError"]


def test_one_problem_is_raised_as_itself() -> None:
    dag = chain("a", "b").add_node("lone", lambda: 1)
    with pytest.raises(DisconnectedNodeError) as caught:
        dag.validate_or_raise()
    assert caught.value.problems == (caught.value,)
    assert dag.validate_or_raise(allow_disconnected=True) is None


def test_problem_goes_away_when_it_is_mended() -> None:
    dag = chain("a", "b").connect("b", "a", input=False)
    assert not dag.is_valid
    dag.disconnect("b", "a")
    assert dag.is_valid


def test_validation_names_no_node_after_a_word_of_a_message(run: Any) -> None:
    dag = chain("motorcycle", "missing", "circular")
    assert dag.is_valid
    assert run(dag) == 0


# Entry points and order.


def test_entry_points_have_no_edge_into_them() -> None:
    dag = chain("a", "b").add_node("c", lambda: 1)
    dag.nodes["b"].after(dag.nodes["c"])
    assert dag.entry_points == ["a", "c"]


def test_execution_order_is_that_of_a_sequential_run() -> None:
    dag = chain("c", "b").add_node("a", lambda: 1)
    assert dag.execution_order == ["c", "b", "a"]
    dag.run()
    assert dag.context.metrics["execution_order"] == ["c", "b", "a"]


def test_execution_order_of_a_cycle_raises_it() -> None:
    with pytest.raises(CycleError) as caught:
        chain("a", "b").connect("b", "a", input=False).execution_order
    assert caught.value.cycle == ("a", "b", "a")


def test_order_and_entry_points_of_nothing_are_empty() -> None:
    assert DAG("d").entry_points == []
    assert DAG("d").execution_order == []


# Types.


class Animal:
    pass


class Dog(Animal):
    pass


def typed(given: Any, taken: Any) -> DAG:
    def source(): ...

    def target(x): ...

    if given is not ...:
        source.__annotations__["return"] = given
    if taken is not ...:
        target.__annotations__["x"] = taken
    dag = DAG("typed").add_node("source", source).add_node("target", target)
    return dag.connect("source", "target")


FITTING = [
    (int, int),
    (Dog, Animal),
    (bool, int),
    (int, float),
    (int, int | str),
    (int | str, int | str | None),
    (Dog | int, Animal | int),
    (None, int | None),
    (int, object),
    (int, Any),
    (Any, int),
    (..., int),
    (int, ...),
    (list[int], list[str]),
    (dict[str, int], int),
    (int, "str | Unknown"),
    ("int", "int"),
]
UNFITTING = [
    (int, str),
    (Animal, Dog),
    (int | str, int),
    (None, int),
    (str, int | float),
    (float, int),
    ("int", "str"),
]


@pytest.mark.parametrize(("given", "taken"), FITTING, ids=repr)
def test_types_that_fit_are_no_problem(given: Any, taken: Any) -> None:
    assert typed(given, taken).validate(check_types=True) == []


@pytest.mark.parametrize(("given", "taken"), UNFITTING, ids=repr)
def test_types_that_do_not_fit_are_a_problem_where_asked(given: Any, taken: Any) -> None:
    dag = typed(given, taken)
    with pytest.warns(UserWarning, match="'source' returns .* say input="):
        assert dag.validate() == []
    (problem,) = dag.validate(check_types=True)
    assert (problem.source, problem.target, problem.parameter) == ("source", "target", "x")
    assert "'source' returns" in str(problem)
    with pytest.raises(ValidationError, match="'target' takes"):
        dag.validate_or_raise(check_types=True)


def test_types_do_not_stop_a_run(run: Any) -> None:
    dag = typed(int, str)
    assert run(dag) is None


def test_types_of_parts_and_of_order_are_not_compared() -> None:
    def source() -> int:
        return 1

    def target(x: str = "", y: str = "") -> str:
        return x + y

    dag = DAG("d").add_node("source", source).add_node("target", target)
    dag.connect("source", "target", output="real")
    dag.nodes["target"].after(dag.nodes["source"])
    assert dag.validate(check_types=True) == []


def test_types_of_what_an_all_collects_are_not_compared() -> None:
    def one() -> int:
        return 1

    def two() -> int:
        return 2

    def target(values: dict) -> dict:
        return values

    dag = DAG("d").add_node("one", one).add_node("two", two)
    dag.add_node("target", target, type="all")
    dag.connect("one", "target").connect("two", "target")
    assert dag.validate(check_types=True) == []


def test_types_inside_of_a_nested_dag_are_compared() -> None:
    dag = DAG("outer").add_node("sub", typed(int, str))
    (problem,) = dag.validate(check_types=True)
    assert "in 'sub'" in str(problem)


class Quacks(Protocol):
    def quack(self) -> str: ...


def test_types_that_cannot_be_asked_pass() -> None:
    assert typed(int, Quacks).validate(check_types=True) == []


def test_types_at_the_edge_of_a_nested_dag_are_not_compared() -> None:
    dag = DAG("outer").add_node("sub", typed(int, int))
    dag.add_node("after", lambda x: x).connect("sub", "after")
    assert dag.validate(check_types=True) == []


# Edges that do not exist.


def test_missing_connection_names_both_ends() -> None:
    with pytest.raises(MissingConnectionError) as caught:
        chain("a", "b").disconnect("b", "a")
    assert (caught.value.source, caught.value.target) == ("b", "a")
