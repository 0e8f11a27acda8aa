"""What fills the parameters that no edge feeds."""

from __future__ import annotations

from typing import Any

import pytest

from fast_dag import DAG, MissingInputError, ValidationError


def test_inputs_are_a_mapping_or_keywords_or_both(run: Any) -> None:
    dag = DAG("d").add_node("f", lambda x, y: (x, y))
    assert run(dag, {"x": 1, "y": 2}) == (1, 2)
    assert run(dag, inputs={"x": 1, "y": 2}) == (1, 2)
    assert run(dag, x=1, y=2) == (1, 2)
    assert run(dag, {"x": 1}, y=2) == (1, 2)


def test_input_fills_every_parameter_of_its_name_that_no_edge_feeds(run: Any) -> None:
    dag = DAG("d").add_node("f", lambda x: x).add_node("g", lambda f, x: (f, x)).connect("f", "g")
    assert run(dag, x=3) == (3, 3)


@pytest.mark.process_mode
def test_default_stands_where_nothing_else_does(run: Any) -> None:
    dag = DAG("d").add_node("f", lambda x, y=5, *, z=6: (x, y, z))
    assert run(dag, x=1) == (1, 5, 6)
    assert run(dag, x=1, z=2) == (1, 5, 2)
    assert run(dag, x=1, y=2) == (1, 2, 6)


def test_default_before_a_given_parameter_is_kept(run: Any) -> None:
    dag = DAG("d").add_node("f", lambda x=1, y=2, z=3: (x, y, z))
    assert run(dag, y=5) == (1, 5, 3)
    assert run(dag, z=5) == (1, 2, 5)


def test_none_is_an_input_like_any_other(run: Any) -> None:
    assert run(DAG("d").add_node("f", lambda x=5: x), x=None) is None


def test_edge_wins_over_an_input(run: Any) -> None:
    dag = DAG("d").add_node("x", lambda: "edge").add_node("f", lambda x: x)
    dag.add_node("g", lambda f, x: (f, x)).connect("x", "f").connect("f", "g")
    assert run(dag, x="input") == ("edge", "input")


@pytest.mark.parametrize(
    "name", ["mode", "inputs", "context", "timeout", "outputs", "self", "dag", "node"]
)
def test_input_may_be_called_like_an_option(run: Any, name: str) -> None:
    scope: dict[str, Any] = {}
    exec(f"def f({name}: int): return {name}", scope)
    assert run(DAG("d").add_node("f", scope["f"]), {name: 3}) == 3


def test_positional_arguments_leave_their_names_to_inputs(run_from: Any, run_until: Any) -> None:
    dag = DAG("d").add_node("f", lambda self, node, dag: (self, node, dag))
    assert run_from(dag, "f", self=1, node=2, dag=3) == (1, 2, 3)
    assert run_until(dag, "f", self=1, node=2, dag=3) == (1, 2, 3)


def test_positional_arguments_of_run_between_leave_their_names(run_between: Any) -> None:
    dag = DAG("d").add_node("a", lambda start: start).add_node("b", lambda a, end: (a, end))
    assert run_between(dag.connect("a", "b"), "a", "b", start=1, end=2) == (1, 2)


def test_given_mapping_stays_as_it_was(run: Any) -> None:
    given = {"x": 1}
    run(DAG("d").add_node("f", lambda x, y: x + y), given, y=2)
    assert given == {"x": 1}


def test_inputs_of_one_run_are_gone_in_the_next(run: Any) -> None:
    dag = DAG("d").add_node("f", lambda x=0: x)
    assert [run(dag, x=1), run(dag), run(dag, x=2)] == [1, 0, 2]


@pytest.mark.same_process
def test_missing_inputs_are_found_before_anything_runs(run: Any) -> None:
    seen: list[str] = []
    dag = DAG("d").add_node("a", lambda: seen.append("a"))
    dag.add_node("b", lambda a, x, y=1, *, z: seen.append("b")).add_node("c", lambda x: x)
    dag.connect("a", "b")
    dag.set_default_hooks(pre_execute=lambda node: seen.append("hook"))
    with pytest.raises(MissingInputError) as caught:
        run(dag)
    assert caught.value.missing == (("b", "x"), ("b", "z"), ("c", "x"))
    assert all(text in str(caught.value) for text in ("'x' of 'b'", "'z' of 'b'", "'x' of 'c'"))
    assert seen == []


def test_execute_raises_for_missing_inputs_too(execute: Any) -> None:
    with pytest.raises(MissingInputError) as caught:
        execute(DAG("d").add_node("a", lambda x: x), error_strategy="continue")
    assert caught.value.missing == (("a", "x"),)


def test_missing_input_of_a_node_that_will_be_skipped_is_missing_all_the_same() -> None:
    dag = DAG("d").add_node("check", lambda: False, type="condition")
    dag.add_node("then", lambda check, x: x).connect("check", "then")
    with pytest.raises(MissingInputError) as caught:
        dag.run()
    assert caught.value.missing == (("then", "x"),)


def test_inputs_that_are_no_mapping_are_refused(run: Any) -> None:
    with pytest.raises(ValidationError, match="mapping of names to values"):
        run(DAG("d").add_node("f", lambda x: x), [1, 2])


def test_input_given_twice_is_refused(run: Any) -> None:
    with pytest.raises(ValidationError, match="given twice: 'x'"):
        run(DAG("d").add_node("f", lambda x: x), {"x": 1}, x=2)


def test_all_unknown_inputs_are_named_at_once() -> None:
    dag = DAG("d").add_node("f", lambda value, limit=1: value)
    with pytest.raises(ValidationError) as caught:
        dag.run(value=1, valeu=2, limt=3)
    assert caught.value.inputs == ("limt", "valeu")
    assert "did you mean 'value'" in str(caught.value)
    assert "did you mean 'limit'" in str(caught.value)


@pytest.mark.parametrize(
    ("typo", "option"),
    [("max_worker", "max_workers"), ("time_out", "timeout"), ("error_strategi", "error_strategy")],
)
def test_option_with_a_typo_is_suggested(typo: str, option: str) -> None:
    with pytest.raises(ValidationError, match=f"did you mean '{option}'"):
        DAG("d").add_node("f", lambda: 1).run({}, **{typo: 1})


def test_one_dag_runs_with_many_sets_of_inputs(run: Any) -> None:
    names = [f"p{number}" for number in range(40)]
    scope: dict[str, Any] = {}
    exec(f"def f({', '.join(f'{name}=0' for name in names)}): return locals()", scope)
    dag = DAG("d").add_node("f", scope["f"])
    for number in (*range(40), *range(0, 40, 7)):
        given = dict.fromkeys(names[: number + 1], number)
        assert run(dag, given) == dict.fromkeys(names, 0) | given


# Autowire.


@pytest.mark.process_mode
def test_autowire_connects_parameters_that_bear_the_name_of_a_node(run: Any) -> None:
    dag = DAG("d", autowire=True).add_node("total", lambda left, right: (left, right))
    dag.add_node("left", lambda: 1).add_node("right", lambda left: left + 1)
    assert run(dag) == (1, 2)
    assert dag.execution_order == ["left", "right", "total"]


def test_without_autowire_names_connect_nothing() -> None:
    dag = DAG("d").add_node("left", lambda: 1).add_node("total", lambda left: left)
    with pytest.raises(MissingInputError):
        dag.run()


def test_autowire_leaves_what_an_edge_feeds(run: Any) -> None:
    dag = DAG("d", autowire=True).add_node("a", lambda: "a").add_node("b", lambda: "b")
    dag.add_node("t", lambda a: a).connect("b", "t", input="a")
    assert run(dag, outputs=["t"]) == {"t": "b"}


def test_autowire_leaves_what_an_input_fills(run: Any) -> None:
    dag = DAG("d", autowire=True).add_node("a", lambda: "a").add_node("t", lambda a: a)
    assert run(dag, a="input", outputs=["t"]) == {"t": "input"}
    assert run(dag, outputs=["t"]) == {"t": "a"}


def test_autowire_goes_before_a_default(run: Any) -> None:
    dag = DAG("d", autowire=True).add_node("a", lambda: "a").add_node("t", lambda a="default": a)
    assert run(dag) == "a"


def test_autowire_leaves_a_parameter_of_the_nodes_own_name(run: Any) -> None:
    dag = DAG("d", autowire=True).add_node("a", lambda a=3: a)
    assert run(dag) == 3
    assert run(dag, a=4) == 4


def test_autowire_sees_nodes_that_come_later(run: Any) -> None:
    dag = DAG("d", autowire=True).add_node("t", lambda a=0: a)
    assert run(dag) == 0
    dag.add_node("a", lambda: 1)
    assert run(dag) == 1


def test_autowire_of_a_cycle_is_reported() -> None:
    dag = DAG("d", autowire=True).add_node("a", lambda b: b).add_node("b", lambda a: a)
    (problem,) = dag.validate()
    assert problem.cycle == ("a", "b", "a")


def test_autowire_carries_what_deciders_carry(run: Any) -> None:
    dag = DAG("d", autowire=True).add_node("check", lambda x: x > 1, type="condition")
    dag.add_node("t", lambda check: check)
    assert run(dag, x=5) == 5


def test_autowired_edges_count_as_connections() -> None:
    dag = DAG("d", autowire=True).add_node("a", lambda: 1).add_node("b", lambda a: a)
    assert dag.is_valid
    assert dag.entry_points == ["a"]
