"""Conditions and selects: what they decide, and what their edges carry."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import numpy as np
import pytest

from fast_dag import (
    DAG,
    ConditionalReturn,
    ExecutionError,
    InvalidNodeError,
    SelectReturn,
    ValidationError,
)
from tests.behaviour.support import Undecided, boom


def condition(func: Any) -> DAG:
    """A condition with a node on each branch, which tell what they got."""
    dag = DAG("d").add_node("check", func, type="condition")
    dag.add_node("yes", lambda got: ("yes", got)).add_node("no", lambda got: ("no", got))
    check, yes, no = dag.nodes.values()
    check.on_true >> yes
    check.on_false >> no
    return dag


def select(func: Any, *names: str) -> DAG:
    """A select with a node of the branch's name on each branch."""
    dag = DAG("d").add_node("route", func, type="select")
    for name in names:
        dag.add_node(f"to {name}", lambda got, name=name: (name, got))
        dag.nodes["route"].branches[name] >> dag.nodes[f"to {name}"]
    return dag


def why(caught: pytest.ExceptionInfo[ExecutionError]) -> Any:
    """The problem behind the error of a run."""
    return caught.value.__cause__


# Conditions.


@pytest.mark.parametrize(
    ("answer", "branch"),
    [
        (True, "yes"),
        (False, "no"),
        (1, "yes"),
        (0, "no"),
        ("text", "yes"),
        ("", "no"),
        ([0], "yes"),
        ([], "no"),
        (np.bool_(True), "yes"),
        (np.bool_(False), "no"),
        (float("nan"), "yes"),
    ],
    ids=repr,
)
def test_truth_decides(execute: Any, answer: Any, branch: str) -> None:
    ran = execute(condition(lambda x: answer), x="in")
    assert ran.value == (branch, "in")
    assert ran.statuses["no" if branch == "yes" else "yes"] == "skipped"


def test_result_of_a_condition_is_what_it_returned(execute: Any) -> None:
    assert execute(condition(lambda x: [x]), x=1).results["check"] == [1]
    returned = ConditionalReturn(True, value=3)
    assert execute(condition(lambda x: returned), x=1).results["check"] == returned


@pytest.mark.process_mode
@pytest.mark.parametrize("answer", [True, False, 1, []])
def test_conditional_return_carries_its_value(run: Any, answer: Any) -> None:
    dag = condition(lambda x: ConditionalReturn(answer, value=x + 1))
    assert run(dag, x=1) == ("yes" if answer else "no", 2)


def test_conditional_return_without_a_value_carries_none(run: Any) -> None:
    assert run(condition(lambda x: ConditionalReturn(True)), x=1) == ("yes", None)


def test_plain_answer_carries_the_one_value_that_was_given(run: Any) -> None:
    assert run(condition(lambda x: x > 0), x=5) == ("yes", 5)
    assert run(condition(lambda x, limit=3: x > limit), x=5) == ("yes", 5)


def test_plain_answer_carries_several_given_values_by_parameter(run: Any) -> None:
    assert run(condition(lambda x, y: x > y), x=5, y=3) == ("yes", {"x": 5, "y": 3})


def test_plain_answer_carries_what_edges_gave(run: Any) -> None:
    dag = condition(lambda amount, limit: amount > limit).add_node("load", lambda: 7)
    dag.connect("load", "check")
    assert run(dag, limit=3) == ("yes", {"amount": 7, "limit": 3})


def test_plain_answer_carries_no_context(run: Any) -> None:
    def check(x, context):
        return x > 0

    assert run(condition(check), x=5) == ("yes", 5)


def test_plain_answer_of_a_condition_that_takes_nothing_carries_none(run: Any) -> None:
    assert run(condition(lambda: True)) == ("yes", None)


def test_plain_answer_to_star_args_carries_what_edges_gave(run: Any) -> None:
    dag = condition(lambda *values: len(values) > 1).add_node("one", lambda: 1)
    assert run(dag.connect("one", "check")) == ("no", 1)
    dag.add_node("two", lambda: 2).connect("two", "check")
    assert run(dag) == ("yes", (1, 2))


def test_plain_answer_to_star_kwargs_carries_a_dict_of_them(run: Any) -> None:
    dag = condition(lambda **values: len(values) > 1)
    assert run(dag, p=1) == ("no", 1)
    assert run(dag, p=1, q=2) == ("yes", {"p": 1, "q": 2})


def test_carried_dict_can_be_taken_apart(run: Any) -> None:
    dag = DAG("d").add_node("check", lambda x, y: x > y, type="condition")
    dag.add_node("then", lambda p, q: (p, q))
    dag.connect(dag.nodes["check"].on_true, "then", output="y")
    dag.connect(dag.nodes["check"].on_true, "then", output="x")
    assert run(dag, x=5, y=3) == (3, 5)


def test_edge_without_a_branch_is_live_either_way(run: Any) -> None:
    dag = DAG("d").add_node("check", lambda x: x > 0, type="condition")
    dag.add_node("then", lambda got: got).connect("check", "then")
    assert run(dag, x=1) == 1
    assert run(dag, x=-1) == -1


def test_edge_without_a_branch_carries_the_value_of_a_conditional_return(run: Any) -> None:
    dag = DAG("d").add_node("check", lambda x: ConditionalReturn(False, x + 1), type="condition")
    dag.add_node("then", lambda got: got).connect("check", "then")
    assert run(dag, x=1) == 2


def test_conditions_carry_on_along_a_chain(run: Any) -> None:
    dag = DAG("d").add_node("first", lambda x: x > 0, type="condition")
    dag.add_node("second", lambda y: y > 10, type="condition").add_node("end", lambda z: z)
    dag.connect(dag.nodes["first"].on_true, "second")
    dag.connect(dag.nodes["second"].on_false, "end")
    assert run(dag, x=5) == 5
    assert run(dag, x=50, outputs=["end"]) == {}


def test_branch_takes_several_nodes(execute: Any) -> None:
    dag = condition(lambda x: x > 0).add_node("more", lambda got: ("more", got))
    dag.nodes["check"].on_true >> [dag.nodes["more"]]
    ran = execute(dag, x=1)
    assert (ran["yes"], ran["more"]) == (("yes", 1), ("more", 1))


def test_branch_without_edges_simply_ends(execute: Any) -> None:
    dag = DAG("d").add_node("check", lambda x: x > 0, type="condition")
    dag.add_node("yes", lambda x: "yes").connect(dag.nodes["check"].on_true, "yes")
    ran = execute(dag, x=-1)
    assert (ran.status, ran.value) == ("completed", None)
    assert ran.statuses == {"check": "completed", "yes": "skipped"}


def test_condition_as_the_last_node_is_the_value(run: Any) -> None:
    assert run(DAG("d").add_node("check", lambda x: x > 0, type="condition"), x=1) is True


def test_async_condition_decides(run: Any) -> None:
    async def check(x):
        return x > 0

    assert run(condition(check), x=1) == ("yes", 1)


def test_condition_that_returns_none_fails(run: Any) -> None:
    with pytest.raises(ExecutionError, match="forget to return") as caught:
        run(condition(lambda x: None), x=1)
    assert caught.value.node_name == "check"
    assert why(caught).node == "check"


def test_conditional_return_of_none_fails(run: Any) -> None:
    with pytest.raises(ExecutionError, match="forget to return"):
        run(condition(lambda x: ConditionalReturn(None, value=3)), x=1)


@pytest.mark.process_mode
@pytest.mark.parametrize(
    "make",
    [
        lambda: np.array([True, False]),
        Undecided,
        lambda: ConditionalReturn(np.array([1, 2])),
    ],
    ids=["array", "class", "in a ConditionalReturn"],
)
def test_truth_that_cannot_be_told_fails(execute: Any, make: Any) -> None:
    ran = execute(condition(lambda x: make()), x=1)
    assert ran.statuses == {"check": "failed", "yes": "skipped", "no": "skipped"}
    problem = ran.errors["check"]
    assert isinstance(problem, ValidationError)
    assert problem.node == "check"
    assert "neither true nor false" in str(problem)
    assert isinstance(problem.__cause__, ValueError)


def test_array_of_one_element_is_as_true_as_its_element(run: Any) -> None:
    assert run(condition(lambda x: np.array([x > 0])), x=1) == ("yes", 1)


def test_failed_condition_takes_no_branch(execute: Any) -> None:
    ran = execute(condition(lambda x: boom()), x=1, error_strategy="continue")
    assert ran.statuses == {"check": "failed", "yes": "skipped", "no": "skipped"}


# Selects.


class Post(StrEnum):
    EMAIL = "email"


@pytest.mark.parametrize("answer", ["email", Post.EMAIL, np.str_("email")], ids=repr)
def test_name_decides(execute: Any, answer: Any) -> None:
    ran = execute(select(lambda x: answer, "email", "sms"), x="in")
    assert ran.statuses == {"route": "completed", "to email": "completed", "to sms": "skipped"}
    assert ran.value == ("email", "in")


def test_result_of_a_select_is_what_it_returned(execute: Any) -> None:
    assert execute(select(lambda x: "email", "email"), x=1).results["route"] == "email"
    returned = SelectReturn("email", value=3)
    assert execute(select(lambda x: returned, "email"), x=1).results["route"] == returned


def test_select_return_carries_its_value(run: Any) -> None:
    assert run(select(lambda x: SelectReturn("sms", x + 1), "email", "sms"), x=1) == ("sms", 2)


def test_select_return_without_a_value_carries_none(run: Any) -> None:
    assert run(select(lambda x: SelectReturn("sms"), "sms"), x=1) == ("sms", None)


def test_plain_name_carries_what_was_given(run: Any) -> None:
    assert run(select(lambda x: "sms", "sms"), x=1) == ("sms", 1)
    dag = select(lambda x, y: "sms", "sms")
    assert run(dag, x=1, y=2) == ("sms", {"x": 1, "y": 2})


def test_edge_of_a_select_without_a_branch_is_live_either_way(run: Any) -> None:
    dag = select(lambda x: x, "email", "sms").add_node("log", lambda got: ("log", got))
    dag.connect("route", "log")
    assert run(dag, x="sms", outputs=["log", "to sms", "to email"]) == {
        "log": ("log", "sms"),
        "to sms": ("sms", "sms"),
    }


@pytest.mark.process_mode
def test_default_branch_takes_what_no_other_does(run: Any) -> None:
    dag = select(lambda x: x, "email", "default")
    assert run(dag, x="pigeon") == ("default", "pigeon")
    assert run(dag, x="default") == ("default", "default")
    assert run(dag, x="email", outputs=["to email", "to default"]) == {
        "to email": ("email", "email")
    }


def test_unknown_branch_fails_with_the_known_ones(execute: Any) -> None:
    ran = execute(select(lambda x: x, "email", "sms"), x="pigeon")
    assert ran.statuses == {"route": "failed", "to email": "skipped", "to sms": "skipped"}
    problem = ran.errors["route"]
    assert isinstance(problem, ValidationError)
    assert (problem.node, problem.branch, problem.branches) == ("route", "pigeon", ("email", "sms"))
    assert all(name in str(problem) for name in ("'pigeon'", "'email'", "'sms'", "default"))


def test_select_that_returns_none_fails(run: Any) -> None:
    with pytest.raises(ExecutionError, match="forget to return") as caught:
        run(select(lambda x: None, "email", "default"), x=1)
    assert why(caught).node == "route"


@pytest.mark.parametrize("answer", [3, True, ("email",), b"email"], ids=repr)
def test_select_that_returns_no_name_fails(run: Any, answer: Any) -> None:
    with pytest.raises(ExecutionError, match="named by a string") as caught:
        run(select(lambda x: answer, "email", "default"), x=1)
    assert why(caught).node == "route"


class Unshown:
    def __repr__(self) -> str:
        raise ValueError("not to be shown")


@pytest.mark.parametrize(
    ("answer", "told"),
    [(Unshown(), "<Unshown"), (["text"] * 1_000, r"returned \['text', .{,60}; a")],
)
def test_select_that_returns_no_name_is_told_in_short(run: Any, answer: Any, told: str) -> None:
    with pytest.raises(ExecutionError, match=told):
        run(select(lambda: answer, "email", "default"))


def test_branches_meet_in_an_any(run: Any) -> None:
    dag = select(lambda x: x, "email", "sms", "default")
    dag.add_node("end", lambda value: value, type="any")
    for name in ("to email", "to sms", "to default"):
        dag.connect(name, "end")
    assert [run(dag, x=x)[0] for x in ("email", "sms", "owl")] == ["email", "sms", "default"]


def test_two_branches_lead_to_one_any_itself(run: Any) -> None:
    dag = DAG("d").add_node("route", lambda x: x, type="select")
    dag.add_node("end", lambda value: value, type="any")
    route, end = dag.nodes.values()
    [route.branches["email"], route.branches["sms"]] >> end
    assert run(dag, x="sms") == "sms"
    assert run(dag, x="email") == "email"


def test_async_select_decides(run: Any) -> None:
    async def route(x):
        return "sms"

    assert run(select(route, "email", "sms"), x=1) == ("sms", 1)


# Asking for branches.


@pytest.mark.parametrize("kind", ["node", "select", "any", "all"])
@pytest.mark.parametrize("branch", ["on_true", "on_false"])
def test_only_conditions_have_on_true_and_on_false(kind: str, branch: str) -> None:
    node = DAG("d").add_node("f", lambda x: x, type=kind).nodes["f"]
    with pytest.raises(InvalidNodeError, match=r"make it with @dag\.condition") as caught:
        getattr(node, branch)
    assert caught.value.node == "f"


@pytest.mark.parametrize("kind", ["node", "condition", "any", "all"])
def test_only_selects_have_branches(kind: str) -> None:
    node = DAG("d").add_node("f", lambda x: x, type=kind).nodes["f"]
    with pytest.raises(InvalidNodeError, match=r"make it with @dag\.select") as caught:
        node.branches
    assert caught.value.node == "f"


@pytest.mark.parametrize("name", [3, None, True])
def test_branch_is_named_by_a_string(name: Any) -> None:
    node = DAG("d").add_node("f", lambda x: x, type="select").nodes["f"]
    with pytest.raises(ValidationError, match="named by a string"):
        node.branches[name]


def test_returns_of_deciders_are_plain_values_elsewhere(run: Any) -> None:
    dag = DAG("d").add_node("a", lambda: ConditionalReturn(True, value=3))
    dag.add_node("b", lambda a: a.value).connect("a", "b")
    assert run(dag) == 3


# What deciders return.


@pytest.mark.parametrize("kind", [ConditionalReturn, SelectReturn])
def test_returns_of_deciders_are_compared_and_shown(kind: Any) -> None:
    assert kind("a", value=[1]) == kind("a", [1])
    assert kind("a", value=[1]) != kind("a", [2])
    assert kind("a", value=[1]) != kind("b", [1])
    assert kind("a") != ("a", None)
    assert kind("a").value is None
    assert f"{kind.__name__}(" in repr(kind("a", 3))
    assert "value=3" in repr(kind("a", 3))


def test_returns_of_deciders_are_matched_and_told_apart() -> None:
    match ConditionalReturn(True, 3):
        case ConditionalReturn(condition, value):
            assert (condition, value) == (True, 3)
    assert ConditionalReturn("a", 3) != SelectReturn("a", 3)
