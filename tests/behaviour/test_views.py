"""Looking at results: dag["x"], dag.get, get_result, results, context, from outside and inside."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from fast_dag import DAG, Context, FastDAGError
from fast_dag.errors import MissingResultError, UnknownNodeError
from tests.behaviour.support import boom


def branched() -> DAG:
    """load -> check -> then, on true."""
    dag = DAG("views").add_node("load", lambda x: x)
    dag.add_node("check", lambda load: load > 0, type="condition").connect("load", "check")
    dag.add_node("then", lambda got: got).connect(dag.nodes["check"].on_true, "then")
    return dag


def eaten() -> DAG:
    """load -> eat, which deletes what it was given."""

    def eat(load, context: Context):
        del context.results["load"]

    dag = DAG("eaten").add_node("load", lambda: [1]).add_node("eat", eat)
    return dag.connect("load", "eat")


def test_result_of_a_node_is_read_by_its_name(run: Any) -> None:
    dag = branched()
    run(dag, x=3)
    assert dag["load"] == dag.get_result("load") == dag.get("load") == 3
    assert dag["check"] is True
    assert dag.results == {"load": 3, "check": True, "then": 3}
    assert dag.results is dag.context.results


def test_result_that_is_none_or_false_is_there(run: Any) -> None:
    dag = DAG("d").add_node("a", lambda: None).add_node("b", lambda: False)
    run(dag)
    assert dag["a"] is None
    assert dag["b"] is False
    assert dag.get("a", "default") is None


def test_unknown_node_is_told_with_the_closest_name(run: Any) -> None:
    dag = branched()
    run(dag, x=3)
    for look in (dag.__getitem__, dag.get_result):
        with pytest.raises(UnknownNodeError, match="did you mean 'load'") as caught:
            look("laod")
        assert isinstance(caught.value, KeyError)
        assert (caught.value.node, caught.value.suggestion) == ("laod", "load")


def test_unknown_node_is_told_before_any_run() -> None:
    with pytest.raises(UnknownNodeError, match="did you mean 'load'"):
        branched()["laod"]


def reason(dag: Any, name: str) -> str:
    """Why there is no result of a node."""
    with pytest.raises(KeyError) as caught:
        dag[name]
    assert isinstance(caught.value, (MissingResultError, FastDAGError))
    assert caught.value.node == name
    assert f"{name!r}" in str(caught.value)
    return caught.value.reason


def test_before_a_run_nothing_has_run() -> None:
    dag = branched()
    assert reason(dag, "load") == "not run"
    assert dag.results == {}
    assert dag.context.metadata == {}


def test_skipped_node_says_so(execute: Any) -> None:
    dag = branched()
    ran = execute(dag, x=-1)
    assert reason(dag, "then") == reason(ran, "then") == "skipped"


@pytest.mark.process_mode
def test_failed_node_says_so_and_what_is_below_was_skipped(execute: Any) -> None:
    dag = DAG("d").add_node("bad", boom).add_node("below", lambda bad: bad).connect("bad", "below")
    ran = execute(dag)
    assert reason(dag, "bad") == reason(ran, "bad") == "failed"
    assert reason(dag, "below") == reason(ran, "below") == "skipped"


def test_node_after_the_end_of_a_failed_run_has_not_run() -> None:
    dag = DAG("d").add_node("bad", boom).add_node("other", lambda: 1)
    dag.execute()
    assert reason(dag, "other") == "not run"


def test_node_outside_of_the_part_has_not_run(run_until: Any) -> None:
    dag = branched()
    run_until(dag, "load", x=1)
    assert reason(dag, "then") == "not run"


def test_deleted_result_says_so(execute: Any) -> None:
    dag = eaten()
    ran = execute(dag)
    assert reason(dag, "load") == reason(ran, "load") == "deleted"


def test_result_deleted_after_the_run_says_so(run: Any) -> None:
    dag = branched()
    run(dag, x=1)
    del dag.results["load"]
    assert reason(dag, "load") == "deleted"


def test_get_gives_a_default_for_whatever_reason(run: Any) -> None:
    dag = branched()
    assert dag.get("load") is None
    run(dag, x=-1)
    assert dag.get("then") is None
    assert dag.get("then", 5) == 5
    assert dag.get("unknown", 5) == 5


def test_views_show_the_run_that_finished_last(run: Any) -> None:
    dag = branched()
    run(dag, x=1)
    run(dag, x=2)
    assert dag["load"] == 2


def test_views_show_a_failed_run_too(run: Any) -> None:
    dag = DAG("d").add_node("a", lambda x: x).add_node("bad", lambda a: 10 / a).connect("a", "bad")
    assert run(dag, x=1) == 10
    with pytest.raises(RuntimeError):
        run(dag, x=0)
    assert dag["a"] == 0
    assert dag.context.metadata["execution_status"] == "failed"


def test_run_that_was_refused_leaves_the_views_alone(run: Any) -> None:
    dag = branched()
    run(dag, x=1)
    with pytest.raises(ValueError, match="lacks values"):
        run(dag)
    assert dag["load"] == 1


def test_node_that_came_after_the_run_is_unknown_to_it(run: Any) -> None:
    dag = branched()
    run(dag, x=1)
    dag.add_node("new", lambda: 1)
    assert dag.get("new", "default") == "default"
    with pytest.raises(KeyError):
        dag["new"]


# From the inside.


@pytest.mark.same_process
def test_inside_of_a_node_views_are_those_of_its_run(run: Any) -> None:
    dag = DAG("d").add_node("a", lambda x: x)
    dag.add_node("look", lambda a: (dag["a"], dag.get_result("a"), dag.get("a"), dag.results["a"]))
    dag.connect("a", "look")
    assert run(dag, x=1) == (1, 1, 1, 1)
    assert run(dag, x=2) == (2, 2, 2, 2)


@pytest.mark.same_process
def test_inside_of_an_async_node_views_are_those_of_its_run(run: Any) -> None:
    dag = DAG("d").add_node("a", lambda x: x)

    async def look(a):
        return dag["a"], dag.context.metadata["execution_status"]

    dag.add_node("look", look).connect("a", "look")
    run(dag, x=1)
    assert run(dag, x=2) == (2, "running")


@pytest.mark.same_process
def test_inside_of_a_node_its_context_is_that_of_the_dag(run: Any) -> None:
    dag = DAG("d")
    dag.add_node("look", lambda context: dag.context is context)
    assert run(dag) is True


@pytest.mark.same_process
def test_inside_of_a_node_what_has_not_run_says_so(run: Any) -> None:
    dag = DAG("d")

    def look():
        return [dag.get(name, "nothing") for name in ("look", "later")], [
            reason(dag, name) for name in ("later",)
        ]

    dag.add_node("look", look).add_node("later", lambda look: look).connect("look", "later")
    assert run(dag) == (["nothing", "nothing"], ["not run"])


@pytest.mark.same_process
def test_inside_of_a_node_its_own_result_is_not_there_yet(run: Any) -> None:
    dag = DAG("d")
    dag.add_node("look", lambda: dag.get("look", "nothing"))
    assert [run(dag), run(dag)] == ["nothing", "nothing"]


@pytest.mark.same_process
def test_views_inside_of_an_error_handler_are_those_of_the_run(execute: Any) -> None:
    dag = DAG("d").add_node("a", lambda x: x).add_node("bad", lambda a: boom())
    seen: list[Any] = []
    dag.connect("a", "bad")
    execute(dag, x=1, error_strategy="continue")

    def handler(node_name, error, context):
        seen.append((dag["a"], dag.context is context))
        return "stop"

    execute(dag, x=2, error_handler=handler)
    assert seen == [(2, True)]


@pytest.mark.same_process
def test_views_inside_of_hooks_are_those_of_the_run(execute: Any) -> None:
    dag = DAG("d").add_node("a", lambda x: x).add_node("b", lambda a: a)
    seen: list[Any] = []
    dag.connect("a", "b")
    dag.set_node_hooks("b", pre_execute=lambda: seen.append(dag["a"]))
    execute(dag, x=1)
    execute(dag, x=2)
    assert seen == [1, 2]


@pytest.mark.same_process
def test_nested_node_sees_the_runs_of_its_own_and_of_the_outer_dag(run: Any) -> None:
    inner, dag = DAG("inner"), DAG("outer")
    inner.add_node("a", lambda load: load + 1)
    inner.add_node("look", lambda a: (inner["a"], dag["load"])).connect("a", "look")
    dag.add_node("load", lambda x: x).add_node("sub", inner).connect("load", "sub")
    assert run(dag, x=1) == (2, 1)
    assert run(dag, x=5) == (6, 5)


@pytest.mark.same_process
def test_views_of_another_dag_are_those_of_its_last_run(run: Any) -> None:
    other = branched()
    other.run(x=7)
    assert run(DAG("d").add_node("look", lambda: other["load"])) == 7


def test_runs_in_two_threads_each_see_their_own() -> None:
    dag = DAG("d").add_node("a", lambda x: x)
    both_are_there = threading.Barrier(2)
    dag.add_node("look", lambda a: (both_are_there.wait(), dag["a"])[1]).connect("a", "look")
    got: dict[int, Any] = {}
    threads = [threading.Thread(target=lambda x=x: got.setdefault(x, dag.run(x=x))) for x in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {1: 1, 2: 2}
