"""Optional edges, selects that take several branches, and outputs that name branches."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from fast_dag import DAG, FSM, SelectReturn, ValidationError
from fast_dag.errors import InvalidNodeError, MissingResultError
from tests.behaviour.support import boom


def dag_of(**funcs: Any) -> DAG:
    dag = DAG("d")
    for name, func in funcs.items():
        dag.add_node(name, func)
    return dag


def told(main: Any, extra: Any = "none") -> Any:
    return (main, extra)


def required(main: Any, extra: Any) -> Any:
    return (main, extra)


# Optional edges.


def with_extra(extra: Any, use: Any = told) -> DAG:
    """main and, optional, extra -> use."""
    dag = dag_of(main=lambda: 1, extra=extra, use=use)
    return dag.connect("main", "use").connect("extra", "use", optional=True)


@pytest.mark.parametrize(("use", "missing"), [(told, "none"), (required, None)])
def test_dead_optional_edge_gives_the_default(execute: Any, use: Any, missing: Any) -> None:
    run = execute(with_extra(boom, use), error_strategy="continue")
    assert run.statuses == {"main": "completed", "extra": "failed", "use": "completed"}
    assert run["use"] == (1, missing)
    assert list(run.errors) == ["extra"]
    assert run.status == "completed_with_errors"


def test_live_optional_edge_gives_its_value(run: Any) -> None:
    assert run(with_extra(lambda: None)) == (1, None)
    assert run(with_extra(lambda: 2)) == (1, 2)


def test_failure_stops_a_run_that_fails_fast_all_the_same(execute: Any) -> None:
    run = execute(with_extra(boom))
    assert (run.status, run.statuses["use"]) == ("failed", "not_run")


def test_required_edge_that_is_dead_skips(execute: Any) -> None:
    dag = dag_of(main=boom, extra=lambda: 1, use=told)
    dag.connect("main", "use").connect("extra", "use", optional=True)
    assert execute(dag, error_strategy="continue").statuses["use"] == "skipped"


@pytest.mark.same_process
def test_node_waits_for_the_end_of_its_optional_edges(execute: Any) -> None:
    ended: list[str] = []
    dag = dag_of(
        a=lambda: ended.append("a"),
        b=lambda a: ended.append("b") or 7,
        use=lambda main, extra=None: (list(ended), extra),
        main=lambda: ended.append("main"),
    )
    dag.connect("a", "b").connect("b", "use", input="extra", optional=True)
    run = execute(dag.connect("main", "use"))
    seen, extra = run["use"]
    assert (sorted(seen), extra) == (["a", "b", "main"], 7)


@pytest.mark.parametrize("check", [True, False])
def test_optional_edge_of_a_branch(execute: Any, check: bool) -> None:
    dag = dag_of(main=lambda: 1, use=told)
    dag.add_node("check", lambda x: x, type="condition").connect("main", "use")
    dag.connect(dag.nodes["check"].on_true, "use", input="extra", optional=True)
    run = execute(dag, x=check)
    assert run["use"] == (1, True if check else "none")
    assert run.status == "completed"


def test_optional_edge_behind_a_skipped_node(execute: Any) -> None:
    dag = dag_of(a=boom, b=lambda a: a, c=lambda b: b, always=lambda x=5: x)
    dag.connect("a", "b").connect("b", "c").connect("c", "always", input="x", optional=True)
    run = execute(dag, error_strategy="continue")
    assert run.statuses == {
        "a": "failed",
        "b": "skipped",
        "c": "skipped",
        "always": "completed",
    }
    assert run.value == 5


def test_node_of_optional_edges_only_always_runs(execute: Any) -> None:
    dag = dag_of(a=boom, b=boom, report=lambda: "done")
    report = dag.nodes["report"].after(dag.nodes["a"], dag.nodes["b"], optional=True)
    assert report.name == "report"
    assert execute(dag, error_strategy="continue").value == "done"
    assert execute(dag).statuses["report"] == "not_run"


def test_collecting_node_leaves_the_key_out(execute: Any) -> None:
    dag = dag_of(a=lambda: 1, b=boom, c=lambda: 3)
    dag.add_node("all", lambda values: values, type="all")
    dag.add_node("one", lambda values: values, type="all", collect="values")
    for name in "abc":
        dag.connect(name, "all", optional=name != "a")
    dag.connect("b", "one", optional=True)
    run = execute(dag, error_strategy="continue")
    assert run["all"] == {"a": 1, "c": 3}
    assert run["one"] == {}


def test_star_arguments_and_keywords_get_none(execute: Any) -> None:
    dag = dag_of(a=boom, b=lambda: 2, stars=lambda *rest: rest, keys=lambda **rest: rest)
    for name in "ab":
        dag.connect(name, "stars", optional=True).connect(name, "keys", optional=True)
    run = execute(dag, error_strategy="continue")
    assert run["stars"] == (None, 2)
    assert run["keys"] == {"a": None, "b": 2}


def test_nested_workflow_uses_its_own_default(execute: Any) -> None:
    inner = DAG("inner").add_node("inside", lambda x=9: x)
    strict = DAG("strict").add_node("inside", lambda x: x)
    dag = dag_of(a=boom, sub=inner, must=strict)
    dag.connect("a", "sub", input="x", optional=True).connect("a", "must", input="x", optional=True)
    run = execute(dag, error_strategy="continue")
    assert (run["sub"], run["must"]) == (9, None)


def test_decider_carries_the_default(execute: Any) -> None:
    dag = dag_of(a=boom, use=lambda value: value)
    dag.add_node("check", lambda x="default": True, type="condition")
    dag.connect("a", "check", input="x", optional=True)
    run = execute(dag.connect(dag.nodes["check"].on_true, "use"), error_strategy="continue")
    assert run["use"] == "default"


def test_run_input_never_stands_in(run: Any) -> None:
    dag = with_extra(boom)
    with pytest.raises(ValidationError, match="edges feed every parameter of that name"):
        run(dag, extra=5)


def test_missing_part_of_a_live_edge_is_an_error_still(execute: Any) -> None:
    dag = dag_of(a=lambda: {}, use=lambda part=1: part)
    run = execute(dag.connect("a", "use", output="part", optional=True))
    assert isinstance(run.errors["use"], MissingResultError)


@pytest.mark.same_process
def test_deleted_value_of_a_live_edge_is_an_error_still(execute: Any) -> None:
    dag = dag_of(a=lambda: 1, use=lambda a=2: a)
    dag.set_node_hooks("a", cleanup=lambda node, context: None)
    dag.add_node("eat", lambda context: context.results.pop("a"))
    dag.nodes["eat"].after(dag.nodes["a"])
    dag.nodes["use"].after(dag.nodes["eat"])
    run = execute(dag.connect("a", "use", optional=True))
    assert "deleted" in str(run.errors["use"])


def test_any_refuses_optional_edges() -> None:
    dag = dag_of(a=lambda: 1, b=lambda x: x).add_node("any", lambda x: x, type="any")
    with pytest.raises(ValidationError, match="cannot be optional: 'any' is an any node"):
        dag.connect("a", "any", optional=True)
    dag.connect("a", "b", optional=True)
    with pytest.raises(ValidationError, match="cannot be optional"):
        dag.replace_node("b", lambda x: x, type="any")
    assert dag.run(outputs=["b"]) == {"b": 1}
    with pytest.raises(ValidationError, match="optional is True or False"):
        dag.connect("a", "b", optional="yes")  # type: ignore[arg-type]
    fsm = FSM("m").add_state("s", lambda: 1)
    with pytest.raises(ValidationError, match="states have no outputs and inputs"):
        fsm.nodes["s"].after(fsm.nodes["s"], optional=True)


def test_said_again_with_another_optional_it_changes(execute: Any) -> None:
    dag = with_extra(boom)
    before = execute(dag, error_strategy="continue")
    dag.connect("extra", "use")
    assert execute(dag, error_strategy="continue").statuses["use"] == "skipped"
    dag.connect("extra", "use", optional=True)
    assert execute(dag, error_strategy="continue").statuses["use"] == "completed"
    assert sum(1 for _ in dag.graph.edges()) == 2
    assert "optional" in before.visualize()


def test_join_of_exclusive_branches_is_fine_where_one_is_optional(execute: Any) -> None:
    dag = dag_of(yes=lambda x: "yes", no=lambda x: "no", use=lambda yes, no="-": (yes, no))
    check = dag.add_node("check", lambda x: x, type="condition").nodes["check"]
    dag.connect(check.on_true, "yes").connect(check.on_false, "no")
    dag.connect("yes", "use")
    with pytest.raises(ValidationError, match=r"@dag\.any"):
        dag.connect("no", "use").validate_or_raise()
    dag.connect("no", "use", optional=True).validate_or_raise()
    assert execute(dag, x=True)["use"] == ("yes", "-")


def test_optional_travels(execute: Any) -> None:
    dag = with_extra(boom)
    registry = {"main": dag.nodes["main"].func, "use": told, "boom": boom}
    twins = [
        dag.clone(),
        copy.deepcopy(dag),
        DAG.from_json(dag.to_json(registry), registry=registry),
    ]
    for twin in twins:
        assert execute(twin, error_strategy="continue")["use"] == (1, "none")
    edge = dag.to_dict(registry)["edges"][1]
    assert edge == {"source": "extra", "target": "use", "input": "extra", "optional": True}


def test_pictures_mark_optional_edges() -> None:
    dag = with_extra(lambda: 2)
    for backend in ("mermaid", "graphviz"):
        assert dag.visualize(backend).count("(optional)") == 1


def test_partial_runs_take_what_there_is(execute: Any, run_from: Any) -> None:
    dag = with_extra(boom)
    first = execute(dag, error_strategy="continue")
    assert run_from(dag, "use", run=first) == (1, "none")
    dag.replace_node("extra", lambda: 2)
    assert run_from(dag, "use", run=dag.execute()) == (1, 2)


@pytest.mark.same_process
def test_resumed_run_runs_what_had_a_dead_edge(execute: Any) -> None:
    dag = with_extra(boom)
    first = execute(dag, error_strategy="continue")
    dag.replace_node("extra", lambda: 2)
    run = execute(dag, resume=pickle.loads(pickle.dumps(first)) if first else first)
    assert run["use"] == (1, 2)
    assert sorted(run.timings) == ["extra", "use"]


@pytest.mark.same_process
def test_optional_edges_let_go(execute: Any) -> None:
    run = execute(with_extra(lambda: [2]), keep="outputs")
    assert run.results == {"use": (1, [2])}


# Several branches.


def router(choose: Any, *branches: str, several: bool = True) -> DAG:
    dag = DAG("router").add_node("route", choose, type="select", several=several)
    for branch in branches:
        dag.add_node(f"to_{branch}", lambda value: value)
        dag.connect(dag.nodes["route"].branches[branch], f"to_{branch}")
    return dag


@pytest.mark.parametrize(
    ("chosen", "taken"),
    [
        (["a", "b"], {"to_a", "to_b"}),
        (("a", "a"), {"to_a"}),
        ([], set()),
        ("b", {"to_b"}),
        (SelectReturn(["a", "b"]), {"to_a", "to_b"}),
        (SelectReturn("a"), {"to_a"}),
        (["a", "other", "another"], {"to_a", "to_default"}),
        (["other"], {"to_default"}),
    ],
)
def test_all_chosen_branches_are_taken(execute: Any, chosen: Any, taken: set[str]) -> None:
    run = execute(router(lambda x: x, "a", "b", "default"), x=chosen)
    assert run.status == "completed"
    assert {name for name in run.results if name != "route"} == taken
    assert {name for name, at in run.statuses.items() if at == "skipped"} == {
        "to_a",
        "to_b",
        "to_default",
    } - taken


def test_branches_carry_the_value(execute: Any) -> None:
    run = execute(router(lambda x: SelectReturn(["a", "b"], x + 1), "a", "b"), x=1)
    assert (run["to_a"], run["to_b"]) == (2, 2)


@pytest.mark.parametrize("chosen", [["a", "x", "y"], [None], [1], None, 3])
def test_choice_that_cannot_be_taken_fails_the_select(execute: Any, chosen: Any) -> None:
    run = execute(router(lambda: chosen, "a", "b"))
    problem = run.errors["route"]
    assert isinstance(problem, ValidationError)
    if chosen == ["a", "x", "y"]:
        assert "chose the branches 'x', 'y', which nothing is connected to" in str(problem)


def test_list_without_the_option_names_it(execute: Any) -> None:
    run = execute(router(lambda: ["a"], "a", several=False))
    assert "several=True" in str(run.errors["route"])


def test_option_is_for_selects() -> None:
    dag = DAG("d")
    with pytest.raises(InvalidNodeError, match=r"several= is for @dag\.select"):
        dag.add_node("n", lambda: 1, several=True)

    @dag.select(several=True)
    def route(x):
        return x

    assert dag.clone().nodes["route"].options["several"] is True


def test_branches_that_may_be_taken_together_can_be_joined(execute: Any) -> None:
    dag = router(lambda x: x, "a", "b")
    dag.add_node("both", lambda to_a, to_b: "both").connect("to_a", "both")
    dag.connect("to_b", "both").validate_or_raise()
    assert execute(dag, x=["a", "b"])["both"] == "both"
    assert execute(dag, x=["a"]).statuses["both"] == "skipped"


@pytest.mark.same_process
def test_iterator_for_several_branches_has_several_consumers(execute: Any) -> None:
    run = execute(router(lambda: SelectReturn(["a"], iter([1])), "a", "b"))
    assert "once only" in str(run.errors["route"])


@pytest.mark.same_process
def test_several_choices_are_known_to_later_runs(execute: Any, run_from: Any) -> None:
    dag = router(lambda x: x, "a", "b", "c")
    first = execute(dag, x=["a", "b"])
    assert run_from(dag, "to_a", run=first) == ["a", "b"]
    del first.results["to_b"]
    dag.add_node("late", lambda to_b: to_b).connect("to_b", "late")
    twin = pickle.loads(pickle.dumps(first))
    run = execute(dag, resume=twin)
    assert run["late"] == ["a", "b"]
    assert run.statuses["to_c"] == "skipped"
    assert sorted(run.timings) == ["late", "to_b"]
    assert run.visualize() == pickle.loads(pickle.dumps(run)).visualize()


# Outputs that name branches.


@pytest.mark.parametrize("check", [True, False])
def test_output_of_a_condition_names_its_branch(execute: Any, check: bool) -> None:
    dag = dag_of(yes=lambda x: ("yes", x), no=lambda x: ("no", x))
    dag.add_node("check", lambda x: x, type="condition")
    dag.connect("check", "yes", output="true").connect("check", "no", output="false")
    run = execute(dag, x=check)
    assert run.results == {"check": check} | (
        {"yes": ("yes", True)} if check else {"no": ("no", False)}
    )
    assert dag.connect(dag.nodes["check"].on_true, "yes").graph.incoming("yes")[0].branch is True
    assert len(dag.graph.incoming("yes")) == 1
    dag.disconnect("check", "yes", output="true")
    assert dag.graph.incoming("yes") == []


def test_other_outputs_of_a_condition_pick_a_part(execute: Any) -> None:
    dag = dag_of(use=lambda value: value)
    dag.add_node("check", lambda x: True, type="condition").connect("check", "use", output="part")
    assert execute(dag, x={"part": 5})["use"] == 5


def test_output_of_a_select_names_its_branch(execute: Any) -> None:
    dag = dag_of(mail=lambda x: ("mail", x), part=lambda x: ("part", x))
    dag.add_node("route", lambda x: SelectReturn("email", {"k": 1}), type="select")
    dag.connect("route", "mail", output="email")
    dag.connect(dag.nodes["route"].branches["email"], "part", output="k")
    run = execute(dag, x=1)
    assert (run["mail"], run["part"]) == (("mail", {"k": 1}), ("part", 1))
