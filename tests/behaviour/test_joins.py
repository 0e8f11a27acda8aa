"""Which nodes run: every edge ends live or dead, and the node's type tells what that means."""

from __future__ import annotations

from typing import Any

import pytest

from fast_dag import DAG, ValidationError
from tests.behaviour.support import boom


def forked() -> DAG:
    """check -> yes on true, no on false; both say what they are."""
    dag = DAG("forked").add_node("check", lambda x: x > 0, type="condition")
    dag.add_node("yes", lambda x: f"yes {x}").add_node("no", lambda x: f"no {x}")
    check, yes, no = dag.nodes.values()
    check.on_true >> yes
    check.on_false >> no
    return dag


# Plain nodes and `all`.


@pytest.mark.parametrize("kind", ["node", "all"])
def test_node_runs_when_all_its_edges_are_live(execute: Any, kind: str) -> None:
    dag = DAG("d").add_node("a", lambda: 1).add_node("b", lambda: 2)
    dag.add_node("t", lambda a, b: (a, b), type=kind)
    [dag.nodes["a"], dag.nodes["b"]] >> dag.nodes["t"]
    ran = execute(dag)
    assert ran.statuses == {"a": "completed", "b": "completed", "t": "completed"}
    assert ran.value == (1, 2)


@pytest.mark.parametrize("kind", ["node", "all", "condition", "select"])
def test_node_is_skipped_when_one_of_its_edges_is_dead(execute: Any, kind: str) -> None:
    dag = forked().add_node("other", lambda: 1)
    dag.add_node("t", lambda no, other: True, type=kind)
    [dag.nodes["no"], dag.nodes["other"]] >> dag.nodes["t"]
    ran = execute(dag, x=1)
    assert ran.statuses["other"] == "completed"
    assert ran.statuses["t"] == "skipped"
    assert "t" not in ran.results


def test_skipping_goes_on_below(execute: Any) -> None:
    dag = forked()
    for above, name in [("no", "a"), ("a", "b"), ("b", "c")]:
        dag.add_node(name, lambda x: x).connect(above, name)
    ran = execute(dag, x=1)
    assert [ran.statuses[name] for name in ("no", "a", "b", "c")] == ["skipped"] * 4
    assert ran.status == "completed"


@pytest.mark.process_mode
def test_failure_skips_what_depends_on_it_and_nothing_else(execute: Any) -> None:
    dag = DAG("d").add_node("a", lambda: 1).add_node("bad", boom)
    dag.add_node("below", lambda x: x).add_node("lower", lambda x: x).add_node("side", lambda x: x)
    dag.connect("a", "bad").connect("bad", "below").connect("below", "lower").connect("a", "side")
    ran = execute(dag, error_strategy="continue")
    assert ran.statuses == {
        "a": "completed",
        "bad": "failed",
        "below": "skipped",
        "lower": "skipped",
        "side": "completed",
    }


def test_diamond_joins_its_halves(run: Any) -> None:
    dag = DAG("d").add_node("top", lambda: 1)
    dag.add_node("left", lambda top: top + 1).add_node("right", lambda top: top + 2)
    dag.add_node("bottom", lambda left, right: (left, right))
    top, left, right, bottom = dag.nodes.values()
    top >> [left, right] >> bottom
    assert run(dag) == (2, 3)


def test_all_joins_nodes_of_one_branch(execute: Any) -> None:
    dag = forked()
    dag.add_node("also", lambda x: f"also {x}").connect(dag.nodes["check"].on_true, "also")
    dag.add_node("t", lambda values: values, type="all")
    [dag.nodes["yes"], dag.nodes["also"]] >> dag.nodes["t"]
    assert execute(dag, x=1).results["t"] == {"yes": "yes 1", "also": "also 1"}
    assert execute(dag, x=0).statuses["t"] == "skipped"


# What an `all` collects.


def collector(**options: Any) -> DAG:
    dag = DAG("d").add_node("a", lambda: 1).add_node("b", lambda: {"p": 2, "q": 3})
    return dag.add_node("t", lambda values, extra=None: (values, extra), type="all", **options)


def test_all_collects_several_edges_of_one_parameter_by_source(run: Any) -> None:
    dag = collector().connect("a", "t", input="values").connect("b", "t", input="values")
    assert run(dag) == ({"a": 1, "b": {"p": 2, "q": 3}}, None)


@pytest.mark.process_mode
def test_all_names_edges_of_an_output_by_source_and_output(run: Any) -> None:
    dag = collector().connect("a", "t", input="values")
    dag.connect("b", "t", output="p", input="values").connect("b", "t", output="q", input="values")
    assert run(dag) == ({"a": 1, "b.p": 2, "b.q": 3}, None)


def test_all_collects_in_the_order_of_the_edges(run: Any) -> None:
    dag = collector().connect("b", "t", input="values").connect("a", "t", input="values")
    assert list(run(dag)[0]) == ["b", "a"]


def test_all_gives_a_single_edge_as_it_is(run: Any) -> None:
    assert run(collector().connect("a", "t")) == (1, None)


def test_all_collects_a_single_edge_where_told_to(run: Any) -> None:
    assert run(collector(collect="values").connect("a", "t")) == ({"a": 1}, None)


def test_all_with_collect_leaves_other_parameters_alone(run: Any) -> None:
    dag = collector(collect="values").connect("a", "t", input="extra")
    dag.connect("b", "t", input="values", output="p")
    assert run(dag) == ({"b.p": 2}, 1)


def test_all_of_many_edges_collects_them_all(run: Any) -> None:
    dag = DAG("d").add_node("t", lambda values: sum(values.values()), type="all")
    for number in range(30):
        dag.add_node(f"n{number}", lambda number=number: number).connect(f"n{number}", "t")
    assert run(dag) == sum(range(30))


# `any`.


@pytest.mark.process_mode
@pytest.mark.parametrize(("x", "expected"), [(1, "yes 1"), (0, "no 0")])
def test_any_joins_branches(execute: Any, x: int, expected: str) -> None:
    dag = forked().add_node("t", lambda value: value, type="any")
    [dag.nodes["yes"], dag.nodes["no"]] >> dag.nodes["t"]
    ran = execute(dag, x=x)
    assert ran.value == expected
    assert ran.statuses["t"] == "completed"


def test_any_takes_branches_themselves(run: Any) -> None:
    dag = forked().add_node("t", lambda value: value, type="any")
    check = dag.nodes["check"]
    [check.on_true, check.on_false] >> dag.nodes["t"]
    assert run(dag, x=1) == 1
    assert run(dag, x=0) == 0


def test_any_runs_on_what_did_not_fail(execute: Any) -> None:
    dag = DAG("d").add_node("bad", boom).add_node("good", lambda: "good")
    dag.add_node("t", lambda value: value, type="any")
    [dag.nodes["bad"], dag.nodes["good"]] >> dag.nodes["t"]
    ran = execute(dag, error_strategy="continue")
    assert ran.statuses == {"bad": "failed", "good": "completed", "t": "completed"}
    assert ran.value == "good"


def test_any_is_skipped_when_all_its_edges_are_dead(execute: Any) -> None:
    dag = forked().add_node("bad", boom).add_node("t", lambda value: value, type="any")
    [dag.nodes["no"], dag.nodes["bad"]] >> dag.nodes["t"]
    ran = execute(dag, x=1, error_strategy="continue")
    assert ran.statuses["t"] == "skipped"


def test_any_without_edges_runs_like_any_node(run: Any) -> None:
    assert run(DAG("d").add_node("t", lambda x: x, type="any"), x=3) == 3


def test_any_gives_defaults_or_none_for_edges_that_are_not_live(run: Any) -> None:
    dag = forked()
    dag.add_node("t", lambda yes, no="default", more=0: (yes, no, more), type="any")
    [dag.nodes["yes"], dag.nodes["no"]] >> dag.nodes["t"]
    assert run(dag, x=1) == ("yes 1", "default", 0)
    assert run(dag, x=0) == (None, "no 0", 0)


def test_any_gives_defaults_to_keyword_only_parameters(run: Any) -> None:
    dag = forked()
    dag.add_node("t", lambda *, yes, no="default": (yes, no), type="any")
    [dag.nodes["yes"], dag.nodes["no"]] >> dag.nodes["t"]
    assert run(dag, x=1) == ("yes 1", "default")
    assert run(dag, x=0) == (None, "no 0")


def test_any_of_a_live_edge_that_only_orders_runs(run: Any) -> None:
    dag = forked().add_node("t", lambda value="default": value, type="any")
    dag.connect("no", "t").connect("yes", "t", input=False)
    assert run(dag, x=1) == "default"
    assert run(dag, x=0) == "no 0"


def test_any_that_waits_sees_every_live_value_in_every_mode(run: Any) -> None:
    dag = DAG("d").add_node("a", lambda: 1).add_node("b", lambda a: a + 1)
    dag.add_node("c", lambda b: b + 1).connect("a", "b").connect("b", "c")
    dag.add_node("t", lambda c, a, b: (c, a, b), type="any", wait=True)
    for name in ("a", "b", "c"):
        dag.connect(name, "t")
    assert run(dag) == (3, 1, 2)


def test_any_that_waits_runs_on_the_live_ones(run: Any) -> None:
    dag = forked().add_node("t", lambda yes, no: (yes, no), type="any", wait=True)
    [dag.nodes["yes"], dag.nodes["no"]] >> dag.nodes["t"]
    assert run(dag, x=1) == ("yes 1", None)


def test_first_live_edge_is_the_first_made_where_all_have_ended(run: Any) -> None:
    dag = DAG("d").add_node("a", lambda: "a").add_node("b", lambda: "b")
    dag.add_node("t", lambda value: value, type="any", wait=True)
    dag.connect("b", "t").connect("a", "t")
    assert run(dag) == "b"


def test_any_takes_star_args_from_live_edges(run: Any) -> None:
    dag = forked().add_node("t", lambda *values: values, type="any")
    [dag.nodes["yes"], dag.nodes["no"]] >> dag.nodes["t"]
    assert "yes 1" in run(dag, x=1)


def test_losers_of_an_any_run_to_their_end(execute: Any) -> None:
    dag = DAG("d").add_node("a", lambda: "a").add_node("b", lambda: "b")
    dag.add_node("t", lambda value: value, type="any")
    [dag.nodes["a"], dag.nodes["b"]] >> dag.nodes["t"]
    ran = execute(dag)
    assert set(ran.statuses.values()) == {"completed"}
    assert {"a", "b", "t"} == set(ran.results)


def test_any_after_any_joins_three_ways(run: Any) -> None:
    dag = forked().add_node("first", lambda value: value, type="any")
    [dag.nodes["yes"], dag.nodes["no"]] >> dag.nodes["first"]
    dag.add_node("third", lambda: 3).add_node("last", lambda first, third: first, type="any")
    dag.add_node("end", lambda last: last)
    [dag.nodes["first"], dag.nodes["third"]] >> dag.nodes["last"]
    dag.connect("last", "end")
    assert run(dag, x=1, outputs=["first"]) == {"first": "yes 1"}
    assert run(dag, x=1, outputs=["end"])["end"] in ("yes 1", None)


def test_wait_is_for_any_only() -> None:
    with pytest.raises(ValidationError, match=r"wait= is for @dag\.any"):
        DAG("d").add_node("t", lambda x: x, type="all", wait=True)


def test_collect_is_for_all_only() -> None:
    with pytest.raises(ValidationError, match=r"collect= is for @dag\.all"):
        DAG("d").add_node("t", lambda x: x, type="any", collect="x")


def test_collect_names_a_parameter() -> None:
    with pytest.raises(ValidationError, match="none of its parameters"):
        DAG("d").add_node("t", lambda x: x, type="all", collect="y")


@pytest.mark.parametrize("kind", ["node", "condition", "select"])
def test_two_edges_into_one_parameter_are_for_joins_only(kind: str) -> None:
    dag = DAG("d").add_node("a", lambda: 1).add_node("b", lambda: 2)
    dag.add_node("t", lambda x, y: True, type=kind).connect("a", "t", input="x")
    with pytest.raises(ValidationError, match=r"@dag\.any or @dag\.all") as caught:
        dag.connect("b", "t", input="x")
    assert (caught.value.node, caught.value.parameter) == ("t", "x")
    assert caught.value.sources == ("a", "b")


# The order of a sequential run.


def test_of_the_ready_nodes_the_first_defined_runs_first() -> None:
    dag = DAG("d")
    for name in ("d", "c", "b", "a"):
        dag.add_node(name, lambda x=0: x)
    dag.connect("a", "c").connect("d", "b")
    dag.run()
    assert dag.context.metrics["execution_order"] == ["d", "b", "a", "c"]
    assert dag.execution_order == ["d", "b", "a", "c"]


def test_sequential_any_runs_when_all_its_sources_have_ended() -> None:
    dag = DAG("d").add_node("t", lambda b, a: (b, a), type="any")
    dag.add_node("a", lambda: "a").add_node("b", lambda: "b")
    dag.connect("a", "t").connect("b", "t")
    assert dag.run() == ("b", "a")
    assert dag.context.metrics["execution_order"] == ["a", "b", "t"]


# Joins that can never run.


@pytest.mark.parametrize("kind", ["node", "all", "condition"])
def test_join_of_two_branches_of_one_condition_is_refused(run: Any, kind: str) -> None:
    dag = forked().add_node("t", lambda yes, no: True, type=kind)
    [dag.nodes["yes"], dag.nodes["no"]] >> dag.nodes["t"]
    with pytest.raises(ValidationError, match=r"@dag\.any") as caught:
        run(dag, x=1)
    assert (caught.value.node, caught.value.decider) == ("t", "check")
    assert set(caught.value.branches) == {True, False}
    assert not dag.is_valid


def test_join_of_branches_far_below_their_decider_is_refused() -> None:
    dag = forked().add_node("a", lambda x: x).add_node("b", lambda x: x)
    dag.connect("yes", "a").connect("no", "b").add_node("t", lambda a, b: 1)
    dag.connect("a", "t").connect("b", "t", input=False)
    (problem,) = dag.validate()
    assert (problem.node, problem.decider) == ("t", "check")


def test_join_of_two_branches_of_a_select_is_refused() -> None:
    dag = DAG("d").add_node("route", lambda x: x, type="select").add_node("t", lambda a, b: 1)
    for name in ("a", "b"):
        dag.add_node(name, lambda x: x)
        dag.nodes["route"].branches[name] >> dag.nodes[name] >> dag.nodes["t"]
    (problem,) = dag.validate()
    assert (problem.node, problem.decider, set(problem.branches)) == ("t", "route", {"a", "b"})


def test_node_of_both_branches_themselves_is_refused() -> None:
    dag = forked().add_node("t", lambda p, q: 1)
    check, t = dag.nodes["check"], dag.nodes["t"]
    check.on_true >> t
    check.on_false >> t
    assert [problem.node for problem in dag.validate()] == ["t"]


def test_branch_of_a_decider_inside_of_its_other_branch_is_refused() -> None:
    dag = forked().add_node("t", lambda yes, x: 1).connect("yes", "t")
    dag.connect(dag.nodes["check"].on_false, "t")
    assert [problem.node for problem in dag.validate()] == ["t"]


def test_join_below_an_any_may_use_both_branches(run: Any) -> None:
    dag = forked().add_node("join", lambda value: value, type="any")
    [dag.nodes["yes"], dag.nodes["no"]] >> dag.nodes["join"]
    dag.add_node("t", lambda join, yes: (join, yes)).connect("join", "t").connect("yes", "t")
    assert dag.is_valid
    assert run(dag, x=1) == ("yes 1", "yes 1")
    assert run(dag, x=0, outputs=["t"]) == {}


def test_join_of_a_branch_and_its_decider_is_fine(run: Any) -> None:
    dag = forked().add_node("t", lambda yes, check: (yes, check))
    dag.connect("yes", "t").connect("check", "t")
    assert dag.is_valid
    assert run(dag, x=1, outputs=["t"]) == {"t": ("yes 1", 1)}


def test_join_of_branches_of_two_conditions_is_fine(run: Any) -> None:
    dag = forked().add_node("other", lambda y: y > 0, type="condition")
    dag.add_node("t", lambda yes, y: (yes, y)).connect("yes", "t")
    dag.connect(dag.nodes["other"].on_false, "t", input="y")
    assert dag.is_valid
    assert run(dag, x=1, y=0, outputs=["t"]) == {"t": ("yes 1", 0)}
    assert run(dag, x=1, y=1, outputs=["t"]) == {}
