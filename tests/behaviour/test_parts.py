"""Running a part of a graph: run_from, run_until, run_between."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from fast_dag import (
    DAG,
    ConditionalReturn,
    Context,
    MissingConnectionError,
    MissingInputError,
    ValidationError,
)
from fast_dag.errors import UnknownNodeError
from tests.behaviour.support import boom


def diamond() -> DAG:
    """load -> left, right -> join -> end, and lone beside them."""
    dag = DAG("diamond").add_node("load", lambda x=1: x)
    dag.add_node("left", lambda load: ("left", load)).add_node("right", lambda load: (load, "r"))
    dag.add_node("join", lambda left, right, plus=0: (*left, *right, plus))
    dag.add_node("end", lambda join: list(join)).add_node("lone", lambda y=0: y)
    dag.connect("load", "left").connect("load", "right")
    return dag.connect("left", "join").connect("right", "join").connect("join", "end")


def ran(dag: DAG) -> list[str]:
    """The nodes of the run that finished last, by name."""
    return sorted(dag.context.metrics["execution_order"])


# run_until


def test_run_until_runs_the_node_and_all_above(run_until: Any) -> None:
    dag = diamond()
    assert run_until(dag, "join") == ("left", 1, 1, "r", 0)
    assert ran(dag) == ["join", "left", "load", "right"]
    assert "end" not in dag.results


def test_run_until_takes_a_node(run_until: Any) -> None:
    dag = diamond()
    assert run_until(dag, dag.nodes["left"]) == ("left", 1)


def test_run_until_takes_inputs_of_the_whole_graph(run_until: Any) -> None:
    assert run_until(diamond(), "left", {"x": 5}, y=3) == ("left", 5)


def test_run_until_needs_only_the_inputs_of_its_part(run_until: Any) -> None:
    dag = diamond().add_node("more", lambda join, needed: needed).connect("join", "more")
    assert run_until(dag, "load") == 1


def test_run_until_a_skipped_node_is_none(run_until: Any) -> None:
    dag = DAG("d").add_node("check", lambda: False, type="condition").add_node("then", lambda: 1)
    dag.connect(dag.nodes["check"].on_true, "then")
    assert run_until(dag, "then") is None


def test_run_until_an_unknown_node_is_an_error(run_until: Any) -> None:
    with pytest.raises(UnknownNodeError, match="did you mean 'left'") as caught:
        run_until(diamond(), "lfet")
    assert (caught.value.node, caught.value.suggestion) == ("lfet", "left")


def test_run_until_an_input_nobody_takes_is_an_error(run_until: Any) -> None:
    with pytest.raises(ValidationError, match="did you mean 'plus'"):
        run_until(diamond(), "left", plsu=1)


# run_from


@pytest.mark.process_mode
def test_run_from_takes_the_rest_from_the_last_run(run: Any, run_from: Any) -> None:
    dag = diamond()
    run(dag, x=4)
    assert run_from(dag, "join", plus=7) == ["left", 4, 4, "r", 7]
    assert ran(dag) == ["end", "join"]


def test_run_from_copies_the_other_results(run: Any, run_from: Any) -> None:
    dag = diamond()
    run(dag, x=4, y=2)
    before = dag.context
    run_from(dag, "end")
    assert dag.context is not before
    assert dag.results == before.results


def test_run_from_keeps_the_inputs_that_are_not_given_anew(run: Any, run_from: Any) -> None:
    dag = DAG("d").add_node("a", lambda: 1).add_node("b", lambda a, x, y: (a, x, y))
    run(dag.connect("a", "b"), x=2, y=3)
    assert run_from(dag, "b", y=4) == (1, 2, 4)
    assert run_from(dag, "b", {"x": 5}) == (1, 5, 4)


def test_run_from_the_top_runs_all_below(run: Any, run_from: Any) -> None:
    dag = diamond()
    run(dag)
    run_from(dag, "load", x=2)
    assert ran(dag) == ["end", "join", "left", "load", "right"]


def test_run_from_the_top_needs_no_run_before(run_from: Any) -> None:
    assert run_from(diamond(), "load", x=2) == ["left", 2, 2, "r", 0]


def test_run_from_takes_a_run(execute: Any, run_from: Any) -> None:
    dag = diamond()
    first = execute(dag, x=1)
    execute(dag, x=2)
    assert run_from(dag, "join", run=first) == ["left", 1, 1, "r", 0]
    assert run_from(dag, "left", run=first) == ["left", 1, 1, "r", 0]


def test_run_from_takes_a_context(run_from: Any) -> None:
    context = Context(results={"left": ("L",), "right": ("R",)})
    dag = diamond()
    assert run_from(dag, "join", context=context, plus=1) == ["L", "R", 1]
    assert context.results == {
        "left": ("L",),
        "right": ("R",),
        "join": ("L", "R", 1),
        "end": ["L", "R", 1],
    }


def test_context_wins_over_the_last_run(run: Any, run_from: Any) -> None:
    dag = diamond()
    run(dag, x=5)
    context = Context(results={"left": ("L",), "right": ("R",)})
    assert run_from(dag, "join", context=context) == ["L", "R", 0]


def test_context_that_lacks_a_value_is_not_filled_up_from_the_last_run(
    run: Any, run_from: Any
) -> None:
    dag = diamond()
    run(dag)
    with pytest.raises(MissingInputError, match="the result of 'right'"):
        run_from(dag, "join", context=Context(results={"left": ("L",)}))


def test_run_from_without_what_it_needs_names_all_of_it(run_from: Any) -> None:
    with pytest.raises(MissingInputError) as caught:
        run_from(diamond(), "join")
    assert set(caught.value.missing) == {("join", "left"), ("join", "right")}
    message = str(caught.value)
    assert all(text in message for text in ("'join'", "'left'", "'right'", "the result of 'left'"))


def test_run_from_after_a_failure_starts_where_it_failed(execute: Any, run_from: Any) -> None:
    dag = diamond()
    dag.replace_node("join", lambda left, right: boom())
    assert execute(dag, x=3).status == "failed"
    dag.replace_node("join", lambda left, right: [*left, *right])
    assert run_from(dag, "join") == ["left", 3, 3, "r"]


def test_run_from_below_a_failure_lacks_its_result(execute: Any, run_from: Any) -> None:
    dag = diamond()
    dag.replace_node("join", lambda left, right: boom())
    execute(dag)
    with pytest.raises(MissingInputError, match="the result of 'join'") as caught:
        run_from(dag, "end")
    assert caught.value.missing == (("end", "join"),)


def test_run_from_twice_goes_on_from_the_second(run: Any, run_from: Any) -> None:
    dag = diamond()
    run(dag, x=1)
    run_from(dag, "left", x=9)
    assert dag["left"] == ("left", 1)
    assert run_from(dag, "end") == ["left", 1, 1, "r", 0]


def test_run_from_has_metadata_of_the_earlier_run_but_an_id_of_its_own(
    execute: Any, run_from: Any
) -> None:
    dag = diamond()
    first = execute(dag, context=Context(metadata={"user": "ada"}))
    run_from(dag, "join")
    assert dag.context.metadata["user"] == "ada"
    assert dag.context.metadata["run_id"] != first.run_id


def test_run_of_another_dag_is_refused(execute: Any, run_from: Any) -> None:
    with pytest.raises(ValidationError, match="run= is a run of 'other'"):
        run_from(diamond(), "join", run=execute(DAG("other").add_node("left", lambda: 1)))


def test_run_from_an_unknown_node_is_an_error(run_from: Any) -> None:
    with pytest.raises(UnknownNodeError, match="did you mean 'join'"):
        run_from(diamond(), "jion")


def test_run_from_with_outputs_runs_only_what_they_need(run: Any, run_from: Any) -> None:
    dag = diamond()
    run(dag)
    got = run_from(dag, "left", outputs=["join"])
    assert got == {"join": ("left", 1, 1, "r", 0)}
    assert ran(dag) == ["join", "left"]


def test_outputs_outside_of_the_part_are_an_error(run: Any, run_from: Any) -> None:
    dag = diamond()
    run(dag)
    with pytest.raises(ValidationError, match="'right' are outside"):
        run_from(dag, "left", outputs=["right"])


def test_values_of_unfed_parameters_come_anew(run: Any, run_from: Any) -> None:
    dag = diamond()
    run(dag, plus=5)
    assert run_from(dag, "join", run=dag.execute(plus=3))[-1] == 3


# Deciders whose result is stored.


def decided(func: Any) -> DAG:
    dag = DAG("decided").add_node("check", func, type="condition")
    dag.add_node("yes", lambda got: ("yes", got)).add_node("no", lambda got: ("no", got))
    dag.add_node("end", lambda value: value, type="any")
    check, yes, no, end = dag.nodes.values()
    check.on_true >> yes >> end
    check.on_false >> no >> end
    return dag


def test_stored_decision_tells_the_branch(run: Any, run_from: Any) -> None:
    dag = decided(lambda x: x > 0)
    run(dag, x=3)
    assert run_from(dag, "yes") == ("yes", 3)
    assert run_from(dag, "no", outputs=["no"]) == {}
    assert dag.context.metrics["nodes_skipped"] == 1


def test_stored_decision_carries_its_value(run: Any, run_from: Any) -> None:
    dag = decided(lambda x: ConditionalReturn(x > 0, value="told"))
    run(dag, x=-1)
    assert run_from(dag, "no") == ("no", "told")


@pytest.mark.process_mode
def test_stored_decision_carries_what_it_was_given_by_an_edge(run: Any, run_from: Any) -> None:
    dag = decided(lambda x: x > 0).add_node("load", lambda: 7).connect("load", "check")
    run(dag)
    assert run_from(dag, "yes") == ("yes", 7)


def test_stored_selection_tells_the_branch(run: Any, run_from: Any) -> None:
    dag = DAG("d").add_node("route", lambda x: x, type="select")
    for name in ("a", "default"):
        dag.add_node(f"to {name}", lambda got, name=name: (name, got))
        dag.connect(dag.nodes["route"].branches[name], f"to {name}")
    run(dag, x="elsewhere")
    assert run_from(dag, "to default") == ("default", "elsewhere")
    assert run_from(dag, "to a") is None


def test_stored_decisions_carry_along_their_chain(run: Any, run_from: Any) -> None:
    dag = DAG("d").add_node("load", lambda: 7)
    above = dag.nodes["load"]
    for number in range(4):
        dag.add_node(f"check{number}", lambda value: value > 0, type="condition")
        check = dag.nodes[f"check{number}"]
        above >> check
        above = check.on_true
    dag.add_node("end", lambda value: ("end", value))
    above >> dag.nodes["end"]
    assert run(dag) == ("end", 7)
    assert run_from(dag, "end") == ("end", 7)
    assert run_from(dag, "check2") == ("end", 7)


def test_join_below_stored_branches_takes_the_live_one(run: Any, run_from: Any) -> None:
    dag = decided(lambda x: x > 0)
    run(dag, x=3)
    assert run_from(dag, "end") == ("yes", 3)


def test_node_below_a_skipped_one_is_skipped_again(run: Any, run_from: Any) -> None:
    dag = decided(lambda x: x > 0).add_node("below", lambda no: no).connect("no", "below")
    run(dag, x=3)
    assert run_from(dag, "below") is None
    with pytest.raises(KeyError, match="skipped"):
        dag["below"]


def test_decision_in_a_context_tells_the_branch(run_from: Any) -> None:
    dag = decided(lambda x: x > 0)
    context = Context(results={"check": False})
    assert run_from(dag, "no", x=4, context=context) == ("no", 4)


# run_between


def test_run_between_runs_the_nodes_on_the_paths(run: Any, run_between: Any) -> None:
    dag = diamond()
    run(dag, x=1)
    assert run_between(dag, "load", "join", x=2) == ("left", 2, 2, "r", 0)
    assert ran(dag) == ["join", "left", "load", "right"]


@pytest.mark.process_mode
def test_run_between_leaves_out_side_paths(run: Any, run_between: Any) -> None:
    dag = diamond()
    run(dag, x=1)
    assert run_between(dag, "left", "join", plus=2) == ("left", 1, 1, "r", 2)
    assert ran(dag) == ["join", "left"]


def test_run_between_a_node_and_itself_runs_it(run: Any, run_between: Any) -> None:
    dag = diamond()
    run(dag)
    assert run_between(dag, "left", "left") == ("left", 1)
    assert ran(dag) == ["left"]


@pytest.mark.parametrize(("start", "end"), [("join", "load"), ("left", "right"), ("lone", "end")])
def test_run_between_without_a_path_is_an_error(run_between: Any, start: str, end: str) -> None:
    with pytest.raises(MissingConnectionError, match="no path from") as caught:
        run_between(diamond(), start, end)
    assert (caught.value.source, caught.value.target) == (start, end)


def test_run_between_takes_a_run_and_a_context(execute: Any, run_between: Any) -> None:
    dag = diamond()
    first = execute(dag, x=1)
    execute(dag, x=2)
    assert run_between(dag, "left", "join", run=first) == ("left", 1, 1, "r", 0)
    context = Context(results={"load": 5, "right": ("R",)})
    assert run_between(dag, "left", "join", context=context) == ("left", 5, "R", 0)


def test_run_between_without_what_it_needs_names_it(run_between: Any) -> None:
    with pytest.raises(MissingInputError, match="the result of 'right'") as caught:
        run_between(diamond(), "left", "join", context=Context(results={"load": 1}))
    assert caught.value.missing == (("join", "right"),)


def test_run_between_unknown_nodes_is_an_error(run_between: Any) -> None:
    with pytest.raises(UnknownNodeError):
        run_between(diamond(), "laod", "join")
    with pytest.raises(UnknownNodeError):
        run_between(diamond(), "load", "jion")


# Nested workflows.


def test_run_from_below_a_nested_dag_keeps_its_inside(run: Any, run_from: Any) -> None:
    inner = DAG("inner").add_node("f", lambda x: x + 1)
    dag = DAG("d").add_node("sub", inner).add_node("end", lambda sub: sub * 10)
    run(dag.connect("sub", "end"), x=1)
    assert run_from(dag, "end") == 20
    assert dag["sub.f"] == 2


def test_run_until_a_nested_dag_returns_its_value(run_until: Any) -> None:
    inner = DAG("inner").add_node("f", lambda x: x + 1)
    dag = DAG("d").add_node("sub", inner).add_node("end", boom)
    assert run_until(dag.connect("sub", "end", input=False), "sub", x=1) == 2


def test_order_only_edges_from_outside_need_no_value(run_from: Any) -> None:
    dag = DAG("d").add_node("first", lambda: 1).add_node("then", lambda: 2)
    dag.nodes["then"].after(dag.nodes["first"])
    assert run_from(dag, "then") == 2


def test_part_with_an_async_node(run_until: Any) -> None:
    async def later(x):
        return x

    dag = DAG("d").add_node("later", later).add_node("end", boom)
    assert run_until(dag.connect("later", "end", input=False), "later", x=1) == 1


def test_inputs_of_the_earlier_run_that_nobody_takes_any_more_are_left_out(
    run: Any, run_from: Any
) -> None:
    dag = DAG("d").add_node("a", lambda x: x).add_node("b", lambda a: a * 10).connect("a", "b")
    assert run(dag, x=1) == 10
    dag.replace_node("a", lambda: 5)
    assert run_from(dag, "a") == 50
    with pytest.raises(ValidationError, match="'x'"):
        run_from(dag, "a", x=1)


def test_run_from_after_the_source_is_gone_takes_an_input(run: Any, run_from: Any) -> None:
    dag = DAG("d").add_node("a", lambda: 1).add_node("b", lambda a: a).add_node("c", lambda b: b)
    run(dag.connect("a", "b").connect("b", "c"))
    assert run_from(dag.remove_node("a"), "b", a=7) == 7


def test_run_from_below_a_result_that_was_deleted_lacks_it(run: Any, run_from: Any) -> None:
    dag = DAG("d").add_node("a", lambda: 1).add_node("b", lambda a: a).connect("a", "b")
    run(dag)
    del dag.results["a"]
    with pytest.raises(MissingInputError, match="the result of 'a'"):
        run_from(dag, "b")


# What a decider outside of the part was given, which its edges carry.


def passing_on() -> DAG:
    """load -> check -> on_true -> then, and `check` takes an input."""
    dag = DAG("d").add_node("load", lambda: 5).add_node("then", lambda value: ("then", value))
    dag.add_node("check", lambda load, least: load > least, type="condition")
    dag.connect("load", "check").connect(dag.nodes["check"].on_true, "then")
    return dag


def test_run_from_below_a_decider_needs_what_that_was_given(run_from: Any) -> None:
    with pytest.raises(MissingInputError, match="nodes of this part get what 'check'") as caught:
        run_from(passing_on(), "then", context=Context(results={"check": True}))
    assert caught.value.missing == (("check", "least"), ("check", "load"))
    assert caught.value.sources == ("load",)


def test_run_from_below_a_decider_that_was_given_all(run_from: Any) -> None:
    context = Context(results={"check": True, "load": 7})
    assert run_from(passing_on(), "then", {"least": 6}, context=context) == (
        "then",
        {"load": 7, "least": 6},
    )


def test_run_from_below_a_decider_that_returned_a_value(run_from: Any) -> None:
    context = Context(results={"check": ConditionalReturn(True, 3)})
    assert run_from(passing_on(), "then", context=context) == ("then", 3)


def test_run_from_below_a_decider_that_chose_otherwise(run_from: Any) -> None:
    assert run_from(passing_on(), "then", context=Context(results={"check": False})) is None


def test_run_from_below_several_deciders_needs_what_the_first_was_given(run_from: Any) -> None:
    dag = passing_on().add_node("again", lambda value: True, type="condition")
    dag.disconnect("check", "then").connect(dag.nodes["check"].on_true, "again")
    dag.connect(dag.nodes["again"].on_true, "then")
    results = {"check": True, "again": True, "load": 7}
    with pytest.raises(MissingInputError) as caught:
        run_from(dag, "then", context=Context(results=results))
    assert caught.value.missing == (("check", "least"),)
    given = {"load": 7, "least": 1}
    assert run_from(dag, "then", least=1, context=Context(results=results)) == ("then", given)


def test_an_any_node_needs_nothing_of_edges_that_are_not_its_first(run_from: Any) -> None:
    dag = passing_on().add_node("either", lambda value: value, type="any")
    dag.connect("load", "either").connect(dag.nodes["check"].on_true, "either")
    context = Context(results={"check": True, "load": 7})
    assert run_from(dag, "either", context=context) == 7


def test_a_resource_is_nothing_that_a_decider_passes_on(run_from: Any) -> None:
    dag = DAG("d").add_node("then", lambda value: ("then", value))
    dag.add_node("check", lambda db: True, type="condition")
    dag.resource("db", contextlib.nullcontext)
    dag.connect(dag.nodes["check"].on_true, "then")
    assert run_from(dag, "then", context=Context(results={"check": True})) == ("then", None)
