"""Iterators have one taker: also as a part, behind a decider, in a further attempt, in a later
run."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from fast_dag import DAG, ConditionalReturn, Context, ValidationError
from tests.behaviour.support import BoomError


def rows() -> Any:
    return iter([1, 2, 3])


class Pair(NamedTuple):
    rows: Any
    more: Any = None


class Fresh:
    """Makes its rows anew for each who asks."""

    @property
    def rows(self) -> Any:
        return iter([1, 2, 3])


def parted(make: Any, *outputs: str, **options: Any) -> DAG:
    dag = DAG("parted").add_node("load", make, **options)
    for number, output in enumerate(outputs):
        dag.add_node(f"c{number}", lambda rows: [*rows])
        dag.connect("load", f"c{number}", output=output)
    return dag


@pytest.mark.same_process
@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize(
    "make",
    [lambda: {"rows": rows()}, lambda: Pair(rows()), lambda: (rows(), 1)],
    ids=["key", "attribute", "element"],
)
def test_part_has_one_consumer(execute: Any, make: Any, hooked: bool) -> None:
    options = {"outputs": ["rows", "more"]} if isinstance(make(), tuple) else {}
    dag = parted(make, "rows", "rows", **options)
    if hooked:
        dag.set_default_hooks(pre_execute=lambda node: None)
    run = execute(dag)
    assert run.statuses == {"load": "failed", "c0": "skipped", "c1": "skipped"}
    problem = run.errors["load"]
    assert isinstance(problem, ValidationError)
    assert problem.consumers == ("c0", "c1")
    assert "'rows'" in str(problem)
    alone = parted(make, "rows", **options)
    assert execute(alone).value == [1, 2, 3]


@pytest.mark.same_process
def test_parts_that_are_no_iterators_are_shared(execute: Any) -> None:
    run = execute(parted(lambda: {"rows": [1, 2]}, "rows", "rows"))
    assert run["c0"] == run["c1"] == [1, 2]


@pytest.mark.same_process
def test_different_parts_are_different(execute: Any) -> None:
    run = execute(parted(lambda: {"a": rows(), "b": rows()}, "a", "b"))
    assert run["c0"] == run["c1"] == [1, 2, 3]


@pytest.mark.same_process
def test_part_that_is_made_anew_for_each_is_shared(execute: Any) -> None:
    run = execute(parted(Fresh, "rows", "rows"))
    assert run["c0"] == run["c1"] == [1, 2, 3]


@pytest.mark.same_process
def test_part_that_is_missing_fails_its_consumer(execute: Any) -> None:
    run = execute(parted(lambda: {}, "rows", "rows"), error_strategy="continue")
    assert (run.statuses["load"], sorted(run.errors)) == ("completed", ["c0", "c1"])


@pytest.mark.same_process
def test_part_of_exclusive_branches_is_fine(execute: Any) -> None:
    dag = parted(lambda: {"rows": rows()}, "rows", "rows")
    dag.add_node("check", lambda: True, type="condition")
    dag.nodes["c0"].after(dag.nodes["check"].on_true)
    dag.nodes["c1"].after(dag.nodes["check"].on_false)
    assert execute(dag)["c0"] == [1, 2, 3]


@pytest.mark.same_process
def test_async_producer_of_a_shared_part_fails(execute: Any) -> None:
    async def load():
        return {"rows": rows()}

    assert list(execute(parted(load, "rows", "rows")).errors) == ["load"]


@pytest.mark.same_process
def test_caller_who_asks_for_one_counts(execute: Any) -> None:
    dag = DAG("d").add_node("load", rows).add_node("use", lambda rows: [*rows])
    dag.connect("load", "use")
    problem = execute(dag, outputs=["load", "use"]).errors["load"]
    assert isinstance(problem, ValidationError)
    assert problem.consumers == ("use", "outputs=")
    assert execute(dag, outputs=["use"]).value == {"use": [1, 2, 3]}
    assert [*execute(dag, outputs=["load"]).value["load"]] == [1, 2, 3]


# Deciders.


@pytest.mark.same_process
@pytest.mark.parametrize("output", [None, "rows"])
def test_decider_that_takes_one_counts(execute: Any, output: str | None) -> None:
    dag = DAG("d").add_node("load", rows)
    dag.add_node("check", lambda rows, flag=True: any(rows) and flag, type="condition")
    dag.add_node("use", lambda rows: [*rows]).connect("load", "check")
    if output is not None:
        dag.add_node("flag", lambda: True).connect("flag", "check")
    dag.connect(dag.nodes["check"].on_true, "use", output=output)
    run = execute(dag)
    assert list(run.errors) == ["check"]
    problem = run.errors["check"]
    assert isinstance(problem, ValidationError)
    assert problem.consumers == ("check", "use")


@pytest.mark.same_process
def test_decider_that_takes_one_of_several_counts(execute: Any) -> None:
    dag = DAG("d").add_node("load", rows).add_node("least", lambda: 1)
    dag.add_node("check", lambda rows, least: next(rows) >= least, type="condition")
    dag.connect("load", "check").connect("least", "check")
    dag.add_node("use", lambda given: [*given["rows"]])
    dag.connect(dag.nodes["check"].on_true, "use")
    run = execute(dag)
    problem = run.errors["check"]
    assert isinstance(problem, ValidationError)
    assert problem.consumers == ("check", "use")
    assert "a list_iterator" in str(problem)


@pytest.mark.same_process
def test_decider_that_passes_on_another_value_is_fine(execute: Any) -> None:
    def check(rows: Any) -> Any:
        return ConditionalReturn(True, iter([*rows, 4]))

    dag = DAG("d").add_node("load", rows).add_node("check", check, type="condition")
    dag.add_node("use", lambda rows: [*rows]).connect("load", "check")
    dag.connect(dag.nodes["check"].on_true, "use")
    assert execute(dag).value == [1, 2, 3, 4]


@pytest.mark.same_process
def test_input_of_exclusive_branches_is_fine(execute: Any) -> None:
    dag = DAG("d").add_node("check", lambda x: x, type="condition")
    for name, branch in (("yes", "on_true"), ("no", "on_false")):
        dag.add_node(name, lambda rows: [*rows])
        dag.nodes[name].after(getattr(dag.nodes["check"], branch))
    assert execute(dag, x=True, rows=rows())["yes"] == [1, 2, 3]


# Attempts.


def broken(calls: list[Any], error: Exception) -> Any:
    def insert(rows: Any, extra: Any = None) -> None:
        calls.append(next(rows))
        raise error

    return insert


@pytest.mark.same_process
@pytest.mark.parametrize("hooked", [False, True])
def test_node_that_was_given_one_is_not_tried_again(execute: Any, hooked: bool) -> None:
    calls: list[Any] = []
    dag = DAG("d").add_node("load", rows)
    dag.add_node("insert", broken(calls, BoomError()), retry=3, retry_delay=0)
    dag.connect("load", "insert")
    if hooked:
        dag.set_node_hooks("insert", pre_execute=lambda node, inputs: None)
    run = execute(dag)
    assert calls == [1]
    (note,) = run.errors["insert"].__notes__
    assert note == (
        "it was not tried again, because 'insert' was given a list_iterator, which can be gone "
        "through once only; give it a list"
    )
    error = run.exception()
    assert error is not None
    assert error.attempts == 1
    assert note in error.__notes__


@pytest.mark.same_process
def test_node_of_star_args_that_was_given_one_is_not_tried_again(execute: Any) -> None:
    calls: list[Any] = []

    def insert(*sources: Any) -> None:
        calls.append([next(each) for each in sources])
        raise BoomError

    dag = DAG("d").add_node("load", rows).add_node("insert", insert, retry=2, retry_delay=0)
    dag.connect("load", "insert").set_default_hooks(on_retry=lambda node: None)
    assert list(execute(dag).errors) == ["insert"]
    assert calls == [[1]]


@pytest.mark.same_process
def test_node_that_collected_one_is_not_tried_again(execute: Any) -> None:
    calls: list[Any] = []

    def insert(sources: dict[str, Any]) -> None:
        calls.append({name: next(each) for name, each in sources.items()})
        raise BoomError

    dag = DAG("d").add_node("load", rows).add_node("more", rows)
    dag.add_node("insert", insert, type="all", retry=2, retry_delay=0)
    dag.connect("load", "insert").connect("more", "insert")
    assert list(execute(dag).errors) == ["insert"]
    assert calls == [{"load": 1, "more": 1}]


@pytest.mark.same_process
def test_node_whose_hook_makes_a_list_is_tried_again(execute: Any) -> None:
    calls: list[Any] = []

    def insert(rows: Any) -> int:
        calls.append([*rows])
        if len(calls) < 3:
            raise BoomError
        return sum(rows)

    dag = DAG("d").add_node("load", rows).add_node("insert", insert, retry=3, retry_delay=0)
    dag.connect("load", "insert")
    dag.set_node_hooks("insert", pre_execute=lambda node, inputs: {"rows": [*inputs["rows"]]})
    assert execute(dag).value == 6
    assert calls == [[1, 2, 3]] * 3


@pytest.mark.same_process
def test_resource_that_is_an_iterator_may_be_asked_again(execute: Any) -> None:
    calls: list[int] = []
    dag = DAG("d").add_node("use", broken(calls, BoomError()), retry=2, retry_delay=0)
    dag.add_node("other", lambda rows: next(rows))

    @dag.resource("rows")
    def numbers():
        yield iter(range(10))

    execute(dag, error_strategy="continue")
    assert len(calls) == 3


@pytest.mark.same_process
def test_nested_workflow_that_was_given_one_is_not_tried_again(execute: Any) -> None:
    calls: list[Any] = []
    inner = DAG("inner").add_node("insert", broken(calls, BoomError()))
    dag = DAG("d").add_node("load", rows).add_node("sub", inner, retry=2, retry_delay=0)
    assert list(execute(dag.connect("load", "sub", input="rows")).errors) == ["sub.insert"]
    assert calls == [1]


# Later runs.


def consumed() -> DAG:
    dag = DAG("d").add_node("load", rows).add_node("total", lambda rows: sum(rows))
    return (
        dag.add_node("more", lambda total: total + 1)
        .connect("load", "total")
        .connect("total", "more")
    )


@pytest.mark.same_process
def test_partial_run_refuses_one_that_was_consumed(execute: Any, run_from: Any) -> None:
    dag = consumed()
    first = execute(dag)
    told = "the stored result of 'load' is a list_iterator.*'total' would take it"
    for source in ({}, {"run": first}, {"context": first.context}):
        with pytest.raises(ValidationError, match=told):
            run_from(dag, "total", **source)
    assert run_from(dag, "more") == 7
    with pytest.raises(ValidationError, match=told):  # it is known of the run before the last, too
        run_from(dag, "total")


@pytest.mark.same_process
def test_partial_run_takes_one_that_nobody_had(run_from: Any, run_until: Any) -> None:
    dag = consumed()
    run_until(dag, "load")
    assert run_from(dag, "total") == 7
    context = Context(results={"load": rows()})
    assert run_from(dag, "total", context=context) == 7
    with pytest.raises(ValidationError, match="stored result of 'load'"):
        run_from(dag, "total", context=context)


@pytest.mark.same_process
def test_partial_run_refuses_one_behind_a_decider(execute: Any, run_from: Any) -> None:
    dag = DAG("d").add_node("load", rows)
    dag.add_node("check", lambda rows: True, type="condition").connect("load", "check")
    dag.add_node("use", lambda: 1)
    dag.nodes["use"].after(dag.nodes["check"].on_true)
    execute(dag)
    dag.add_node("late", lambda rows: [*rows])
    dag.connect(dag.nodes["check"].on_true, "late")
    with pytest.raises(ValidationError, match="stored result of 'load'"):
        run_from(dag, "late")


@pytest.mark.same_process
def test_partial_run_refuses_to_share_one_from_outside(run_until: Any, run: Any) -> None:
    dag = consumed()
    run_until(dag, "load")
    last = dag.last_run
    assert last is not None
    dag.add_node("again", lambda rows: [*rows]).connect("load", "again")
    with pytest.raises(ValidationError, match="'total', 'again'"):
        dag.run_from(["total", "again"], run=last)
    with pytest.raises(ValidationError, match="'total', 'again'"):
        run(dag, resume=last)
