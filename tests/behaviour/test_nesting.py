"""A DAG as a node of another."""

from __future__ import annotations

import asyncio
import pickle
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import (
    DAG,
    Context,
    CycleError,
    ExecutionError,
    InvalidNodeError,
    MissingInputError,
    ValidationError,
)
from fast_dag.errors import MissingResultError
from tests.behaviour.support import BoomError, boom
from tests.patience import LONG

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def clean() -> DAG:
    """strip -> lower."""
    dag = DAG("clean").add_node("strip", lambda text: text.strip())
    return dag.add_node("lower", lambda strip: strip.lower()).connect("strip", "lower")


def outer(inner: DAG, **options: Any) -> DAG:
    """load -> sub -> end."""
    dag = DAG("outer").add_node("load", lambda: "  Text ").add_node("sub", inner, **options)
    return dag.add_node("end", lambda sub: f"<{sub}>").connect("load", "sub").connect("sub", "end")


def test_nested_dag_is_a_node(execute: Any) -> None:
    ran = execute(outer(clean()))
    assert ran.value == "<text>"
    assert ran.statuses == {"load": "completed", "sub": "completed", "end": "completed"}
    assert ran.results == {"load": "  Text ", "sub": "text", "end": "<text>"}


def test_a_node_of_a_workflow_whose_value_came_from_its_cache_did_not_run(execute: Any) -> None:
    dag = DAG("outer")
    dag.cached_node(name="sub")(clean())
    assert execute(dag, text=" A ")["sub.strip"] == "A"
    run = execute(dag, text=" A ")
    for each in (run, pickle.loads(pickle.dumps(run))):
        with pytest.raises(
            MissingResultError, match=r"did not run.*'sub' came from its cache"
        ) as it:
            each["sub.strip"]
        assert (it.value.node, it.value.reason) == ("sub.strip", "not run")
        assert each["sub"] == "a"


def test_a_node_of_a_workflow_that_a_hook_did_not_call_has_not_run(execute: Any) -> None:
    dag = DAG("outer").add_node("sub", clean())
    dag.set_node_hooks("sub", around=lambda node, inputs, context, call: "instead")
    run = execute(dag, text=" A ")
    assert run["sub"] == "instead"
    with pytest.raises(MissingResultError, match=r"'sub\.strip': it has not run"):
        run["sub.strip"]


def test_nested_dag_takes_its_own_name(run: Any) -> None:
    dag = DAG("outer").add_node(clean())
    assert list(dag) == ["clean"]
    assert run(dag, text=" A ") == "a"


def test_parameters_are_what_nothing_inside_feeds() -> None:
    inner = clean().add_node("scale", lambda x, lower, *, factor=2: 1).connect("lower", "scale")
    assert DAG("outer").add_node("sub", inner).nodes["sub"].inputs == ("text", "x", "factor")


def test_defaults_of_the_inside_stay(run: Any) -> None:
    inner = DAG("inner").add_node("f", lambda x, factor=3: factor * x)
    dag = DAG("outer").add_node("sub", inner)
    assert run(dag, x=2) == 6
    assert run(dag, x=2, factor=5) == 10


def test_one_parameter_fills_all_of_its_name_inside(run: Any) -> None:
    inner = DAG("inner").add_node("f", lambda x: x).add_node("g", lambda f, x=7: (f, x))
    dag = DAG("outer").add_node("sub", inner.connect("f", "g"))
    assert run(dag, x=2) == (2, 2)


def test_required_somewhere_is_required(run: Any) -> None:
    inner = DAG("inner").add_node("f", lambda x=7: x).add_node("g", lambda f, x: (f, x))
    with pytest.raises(MissingInputError) as caught:
        run(DAG("outer").add_node("sub", inner.connect("f", "g")))
    assert caught.value.missing == (("sub", "x"),)


def test_edges_feed_parameters_of_a_nested_dag_by_the_rule(run: Any) -> None:
    inner = DAG("inner").add_node("f", lambda x, y: (x, y))
    dag = DAG("outer").add_node("a", lambda: "a").add_node("x", lambda: "x")
    dag.add_node("sub", inner).connect("x", "sub").connect("a", "sub")
    assert run(dag, outputs=["sub"]) == {"sub": ("x", "a")}
    with pytest.raises(ValidationError, match="no parameter of 'sub' is left"):
        dag.add_node("b", lambda: "b").connect("b", "sub")


def test_edge_may_name_a_parameter_of_the_inside(run: Any) -> None:
    inner = DAG("inner").add_node("f", lambda x, y=0: (x, y))
    dag = DAG("outer").add_node("a", lambda: "a").add_node("sub", inner)
    assert run(dag.connect("a", "sub", input="y"), x=1) == (1, "a")


def test_nested_dag_without_parameters_is_put_after_its_source(run: Any) -> None:
    dag = DAG("outer").add_node("a", lambda: 1).add_node(DAG("inner").add_node("f", lambda: 2))
    assert run(dag.connect("a", "inner")) == 2


@pytest.mark.same_process
def test_results_inside_are_read_by_path(execute: Any) -> None:
    dag = outer(clean())
    ran = execute(dag)
    assert (dag["sub.strip"], dag["sub.lower"]) == ("Text", "text")
    assert ran["sub.strip"] == dag.get_result("sub.strip") == dag.get("sub.strip") == "Text"


@pytest.mark.process_mode
def test_two_levels_are_read_by_path(execute: Any) -> None:
    dag = DAG("top").add_node("mid", outer(clean()))
    ran = execute(dag)
    assert ran.value == "<text>"
    assert (ran["mid"], ran["mid.sub"], ran["mid.sub.strip"]) == ("<text>", "text", "Text")
    assert (dag["mid.load"], dag["mid.sub.lower"]) == ("  Text ", "text")


def test_paths_that_lead_nowhere_say_so() -> None:
    dag = outer(clean())
    dag.run()
    for path in ("sub.stripp", "sup.strip", "load.strip", "sub.strip.more", "sub."):
        with pytest.raises(KeyError, match="has no node"):
            dag[path]
    assert dag.get("sub.nothing", 3) == 3


def test_paths_before_a_run_say_that_nothing_has_run() -> None:
    with pytest.raises(KeyError, match="has not run"):
        outer(clean())["sub.strip"]


def test_results_never_collide(execute: Any) -> None:
    inner = DAG("inner").add_node("load", lambda x: f"inner {x}")
    dag = DAG("outer").add_node("load", lambda: 1).add_node("sub", inner).connect("load", "sub")
    dag.add_node("end", lambda load, sub: (load, sub)).connect("load", "end").connect("sub", "end")
    ran = execute(dag)
    assert ran.value == (1, "inner 1")
    assert (ran["load"], ran["sub.load"]) == (1, "inner 1")
    assert set(ran.results) == {"load", "sub", "end"}


def test_one_dag_nested_twice_has_two_sets_of_results(execute: Any) -> None:
    inner = DAG("inner").add_node("double", lambda x: 2 * x)
    dag = DAG("outer").add_node("one", inner).add_node("two", inner).connect("one", "two")
    ran = execute(dag, x=1)
    assert (ran["one.double"], ran["two.double"]) == (2, 4)


@pytest.mark.process_mode
def test_metadata_is_shared(run: Any) -> None:
    def note(x, context: Context):
        context.metadata["seen"].append((x, context.metadata["run_id"]))
        return x

    inner = DAG("inner").add_node("note", note)
    dag = DAG("outer").add_node("mid", DAG("mid").add_node("sub", inner))
    dag.add_node("last", note).connect("mid", "last")
    context = Context(metadata={"seen": []})
    run(dag, x=1, context=context)
    run_id = context.metadata["run_id"]
    assert context.metadata["seen"] == [(1, run_id), (1, run_id)]


def test_only_the_outermost_run_writes_the_status() -> None:
    seen: list[str] = []
    dag = outer(clean())
    dag.add_node("ask", lambda end, context: seen.append(context.metadata["execution_status"]))
    dag.connect("end", "ask").run()
    assert seen == ["running"]
    assert dag.context.metadata["execution_status"] == "completed"


@pytest.mark.same_process
def test_nested_node_sees_its_own_results_only(run: Any) -> None:
    seen: list[Any] = []
    inner = DAG("inner").add_node("a", lambda x: x)
    inner.add_node("b", lambda a, context: seen.append(dict(context.results))).connect("a", "b")
    run(outer(inner))
    assert seen == [{"a": "  Text "}]


def test_context_of_an_outer_run_keeps_the_results_of_the_outer_nodes_only(run: Any) -> None:
    context = Context(results={"strip": "mine"})
    run(outer(clean()), context=context)
    assert context.results == {"strip": "mine", "load": "  Text ", "sub": "text", "end": "<text>"}


# Failures.


def broken() -> DAG:
    """good -> bad; side."""
    dag = DAG("broken").add_node("good", lambda text: text).add_node("bad", boom)
    return dag.add_node("side", lambda text: "side").connect("good", "bad", input=False)


def test_failure_inside_is_named_by_its_path(run: Any) -> None:
    with pytest.raises(ExecutionError, match="no luck") as caught:
        run(outer(broken()))
    assert caught.value.node_name == "sub.bad"
    assert "sub.bad" in str(caught.value)
    assert isinstance(caught.value.__cause__, BoomError)
    assert list(caught.value.run.errors) == ["sub.bad"]
    assert caught.value.run.name == "outer"


@pytest.mark.process_mode
def test_failure_two_levels_down_is_one_error(run: Any) -> None:
    with pytest.raises(ExecutionError) as caught:
        run(DAG("top").add_node("mid", outer(broken())))
    assert caught.value.node_name == "mid.sub.bad"
    assert isinstance(caught.value.__cause__, BoomError)


def test_failure_inside_fails_the_node(execute: Any) -> None:
    ran = execute(outer(broken()))
    assert ran.status == "failed"
    assert ran.statuses == {"load": "completed", "sub": "failed", "end": "skipped"}
    assert ran["sub.good"] == "  Text "


@pytest.mark.process_mode
def test_nested_run_inherits_the_error_strategy(execute: Any) -> None:
    context = Context()
    ran = execute(outer(broken()), error_strategy="continue", context=context)
    assert ran.status == "completed_with_errors"
    assert ran.statuses == {"load": "completed", "sub": "failed", "end": "skipped"}
    assert ran["sub.side"] == "side"
    assert list(ran.errors) == ["sub.bad"]
    (told,) = context.metadata["errors"]
    assert (told["node"], told["type"]) == ("sub.bad", "BoomError")


def test_error_handler_is_asked_once_about_a_failure_inside(execute: Any) -> None:
    asked: list[tuple[str, type]] = []

    def handler(node_name, error, context):
        asked.append((node_name, type(error)))
        return "continue"

    ran = execute(outer(broken()), error_handler=handler)
    assert asked == [("sub.bad", BoomError)]
    assert ran.status == "completed_with_errors"


@pytest.mark.same_process
def test_retry_of_a_nested_dag_runs_it_anew_as_a_whole(execute: Any) -> None:
    calls: list[str] = []

    def fails_once(text):
        calls.append("bad")
        if calls.count("bad") < 2:
            raise BoomError("once")
        return text

    inner = DAG("inner").add_node("first", lambda text: calls.append("first") or text)
    inner.add_node("bad", fails_once).connect("first", "bad")
    ran = execute(outer(inner, retry=2, retry_delay=0))
    assert ran.value == "<  Text >"
    assert calls == ["first", "bad", "first", "bad"]
    assert ran.errors == {}


def test_inner_branch_not_taken_gives_none(execute: Any) -> None:
    inner = DAG("inner").add_node("check", lambda text: False, type="condition")
    inner.add_node("then", lambda x: x).connect(inner.nodes["check"].on_true, "then")
    ran = execute(outer(inner))
    assert ran.value == "<None>"
    with pytest.raises(KeyError, match="skipped"):
        ran["sub.then"]


# More of the inside.


def test_nested_dag_with_async_nodes(run: Any) -> None:
    async def later(text):
        return text.strip()

    assert run(outer(DAG("inner").add_node("later", later))) == "<Text>"


def test_nested_dag_autowires_inside(run: Any) -> None:
    inner = DAG("inner", autowire=True).add_node("b", lambda a: a + "!")
    inner.add_node("a", lambda text: text.strip())
    assert run(outer(inner)) == "<Text!>"


def test_nested_dag_joined_by_branches(run: Any) -> None:
    dag = DAG("outer").add_node("check", lambda text: len(text) > 3, type="condition")
    dag.add_node("sub", clean()).add_node("end", lambda value: value, type="any")
    check, sub, end = dag.nodes.values()
    check.on_true >> sub >> end
    check.on_false >> end
    assert run(dag, text=" LONG ") == "long"
    assert run(dag, text=" S") == " S"


def test_nested_dag_may_be_a_decider(run: Any) -> None:
    inner = DAG("inner").add_node("is_long", lambda text: len(text) > 3)
    dag = DAG("outer").add_node("check", inner, type="condition")
    dag.add_node("yes", lambda text: ("yes", text)).connect(dag.nodes["check"].on_true, "yes")
    assert run(dag, text="long") == ("yes", "long")


def test_edit_of_the_inside_counts_in_the_next_run(run: Any) -> None:
    inner = clean()
    dag = outer(inner)
    assert run(dag) == "<text>"
    inner.replace_node("lower", lambda x: x.upper())
    assert run(dag) == "<TEXT>"
    inner.add_node("end", lambda x, mark="?": x + mark).connect("lower", "end")
    assert run(dag) == "<TEXT?>"
    assert run(dag, mark="!") == "<TEXT!>"


def test_edge_into_a_parameter_that_the_inside_lost_is_reported() -> None:
    inner = clean()
    dag = outer(inner)
    inner.replace_node("strip", lambda: "fixed")
    (problem,) = dag.validate()
    assert (problem.source, problem.target) == ("load", "sub")
    assert "'text'" in str(problem)


def test_problems_inside_are_reported_with_the_name_of_the_node(run: Any) -> None:
    inner = DAG("inner").add_node("a", lambda x: x).add_node("b", lambda x: x)
    dag = DAG("outer").add_node("sub", inner.connect("a", "b").connect("b", "a"))
    with pytest.raises(CycleError, match="in 'sub'") as caught:
        run(dag)
    assert caught.value.cycle == ("a", "b", "a")


def test_empty_nested_dag_is_reported() -> None:
    with pytest.raises(ValidationError, match="in 'sub': 'inner' has no nodes"):
        DAG("outer").add_node("sub", DAG("inner")).run()


def test_autowire_feeds_the_parameters_of_a_nested_dag(run: Any) -> None:
    dag = DAG("outer", autowire=True).add_node("text", lambda: " T ").add_node("sub", clean())
    assert run(dag) == "t"


def test_output_takes_a_part_of_a_nested_dags_value(run: Any) -> None:
    inner = DAG("inner").add_node("split", lambda: {"p": 1, "q": 2})
    dag = DAG("outer").add_node("sub", inner).add_node("end", lambda x: x)
    assert run(dag.connect("sub", "end", output="q")) == 2


# A workflow inside itself.


def test_dag_inside_itself_is_refused() -> None:
    dag = clean()
    with pytest.raises(InvalidNodeError, match="inside itself") as caught:
        dag.add_node("again", dag)
    assert caught.value.node == "again"
    assert list(dag) == ["strip", "lower"]


def test_dag_inside_itself_by_way_of_another_is_refused() -> None:
    inner = clean()
    dag = outer(inner)
    with pytest.raises(InvalidNodeError, match="inside itself"):
        inner.add_node("again", dag)
    with pytest.raises(InvalidNodeError, match="inside itself"):
        inner.add_node("again", DAG("between").add_node("top", dag))


def test_dag_inside_itself_by_replacement_is_refused() -> None:
    dag = clean()
    with pytest.raises(InvalidNodeError, match="inside itself"):
        dag.replace_node("lower", dag)
    assert dag.run(text=" A ") == "a"


def test_clone_of_a_dag_may_stand_inside_of_it(run: Any) -> None:
    dag = clean()
    dag.add_node("again", dag.clone("twin")).connect("lower", "again")
    assert run(dag, text=" A ") == "a"


@pytest.mark.parametrize("options", [{}, {"timeout": LONG}])
def test_sequential_run_begins_nothing_while_a_nested_workflow_ends(options: Any) -> None:
    told: list[str] = []

    async def opened() -> AsyncIterator[int]:
        yield 1
        for _ in range(20):
            await asyncio.sleep(0)
        told.append("closed")

    async def post(node: Any, inputs: Any, result: Any) -> None:
        for _ in range(20):
            await asyncio.sleep(0)
        told.append("hooked")

    inner = DAG("inner").add_node("use", lambda at: told.append("used"))
    inner.resource("at", opened)
    dag = DAG("outer").add_node("sub", inner).add_node("later", lambda: told.append("later"))
    dag.set_node_hooks("sub", post_execute=post)
    dag.run(**options)
    assert told == ["used", "closed", "hooked", "later"]
