"""run, execute and their async twins; the Context; what a run leaves behind."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from typing import Any

import pytest

from fast_dag import (
    DAG,
    Context,
    ExecutionMode,
    FastDAGError,
    NodeStatus,
    Run,
    ValidationError,
)
from fast_dag.errors import UnknownNodeError
from tests.behaviour.support import BoomError, add_later, boom
from tests.patience import LONG
from tests.ways import MODES


def line() -> DAG:
    """load -> double -> show."""
    dag = DAG("line").add_node("load", lambda x=3: x).add_node("double", lambda load: 2 * load)
    dag.add_node("show", lambda double, mark="!": f"{double}{mark}")
    return dag.connect("load", "double").connect("double", "show")


# What comes back.


@pytest.mark.process_mode
def test_value_is_that_of_the_last_sink(run: Any) -> None:
    assert run(line()) == "6!"


def test_of_several_sinks_the_last_in_sequential_order_counts(run: Any) -> None:
    dag = DAG("d").add_node("c", lambda a: "c").add_node("b", lambda: "b")
    dag.add_node("a", lambda: "a").connect("a", "c")
    assert dag.execution_order == ["b", "a", "c"]
    assert run(dag) == "c"


def test_sink_that_did_not_complete_does_not_count(run: Any) -> None:
    dag = DAG("d").add_node("a", lambda: "a").add_node("check", lambda: False, type="condition")
    dag.add_node("b", lambda: "b").connect(dag.nodes["check"].on_true, "b")
    assert run(dag) == "a"


def test_value_is_none_where_no_sink_completed(execute: Any) -> None:
    ran = execute(DAG("d").add_node("a", boom), error_strategy="continue")
    assert (ran.value, ran.status) == (None, "completed_with_errors")


def test_value_skips_sinks_that_did_not_complete(run: Any) -> None:
    dag = DAG("d").add_node("a", lambda: "a").add_node("b", lambda: "b").add_node("c", boom)
    dag.add_node("d", lambda c: "d").connect("c", "d")
    assert run(dag, error_strategy="continue") == "b"


def test_execute_returns_the_run(execute: Any) -> None:
    ran = execute(line(), x=5)
    assert isinstance(ran, Run)
    assert (ran.name, ran.status, ran.value) == ("line", "completed", "10!")
    assert ran.results == {"load": 5, "double": 10, "show": "10!"}
    assert ran.statuses == dict.fromkeys(["load", "double", "show"], NodeStatus.COMPLETED)
    assert dict(ran.inputs) == {"x": 5}
    assert ran.errors == {}
    assert ran.exception() is None
    ran.raise_for_error()


def test_run_has_times_of_its_nodes(execute: Any) -> None:
    ran = execute(line())
    assert list(ran.timings) == ["load", "double", "show"]
    assert all(seconds >= 0 for seconds in ran.timings.values())


@pytest.mark.process_mode
def test_metrics_have_the_engines_entries(execute: Any) -> None:
    dag = line().add_node("bad", boom).add_node("below", lambda x: x).connect("bad", "below")
    context = Context(metrics={"mine": 1})
    metrics = execute(dag, context=context, error_strategy="continue").metrics
    assert metrics is context.metrics
    assert metrics["mine"] == 1
    assert metrics["nodes_executed"] == 4
    assert metrics["nodes_failed"] == 1
    assert metrics["nodes_skipped"] == 1
    assert metrics["retries"] == 0
    assert metrics["execution_time"] >= max(metrics["node_times"].values()) >= 0
    assert set(metrics["node_times"]) == {"load", "double", "show", "bad"}
    assert sorted(metrics["execution_order"]) == ["bad", "double", "load", "show"]
    order = metrics["execution_order"]
    assert order.index("load") < order.index("double") < order.index("show")


def test_execution_time_stands_still_after_the_run(execute: Any) -> None:
    ran = execute(line())
    assert ran.metrics["execution_time"] == ran.metrics["execution_time"]


@pytest.mark.parametrize("mode", ["sequential", ExecutionMode.SEQUENTIAL], ids=repr)
def test_mode_is_a_name_or_a_member(mode: Any) -> None:
    assert line().run(mode=mode) == "6!"


def test_definition_is_not_changed_by_a_run(run: Any) -> None:
    dag = line()
    version, nodes = dag.version, dict(dag.nodes)
    run(dag)
    assert (dag.version, dict(dag.nodes)) == (version, nodes)


def test_dag_runs_again_after_an_edit(run: Any) -> None:
    dag = line()
    assert run(dag) == "6!"
    dag.add_node("end", lambda show: f"[{show}]").connect("show", "end")
    assert run(dag) == "[6!]"
    dag.remove_node("end").disconnect("double", "show")
    assert run(dag, double=1) == "1!"


# outputs=


def test_outputs_gives_a_dict_in_the_order_asked_for(run: Any) -> None:
    got = run(line(), outputs=["show", "load"])
    assert list(got.items()) == [("show", "6!"), ("load", 3)]


@pytest.mark.process_mode
def test_outputs_runs_only_what_they_need(execute: Any) -> None:
    dag = line().add_node("other", boom)
    ran = execute(dag, outputs=["double"])
    assert ran.value == {"double": 6}
    assert ran.statuses == {"load": "completed", "double": "completed"}
    assert "show" not in ran.results


def test_outputs_leaves_out_what_did_not_complete(run: Any) -> None:
    dag = line().add_node("bad", boom)
    assert run(dag, outputs=["bad", "load"], error_strategy="continue") == {"load": 3}


def test_outputs_take_nodes(run: Any) -> None:
    dag = line()
    assert run(dag, outputs=[dag.nodes["double"]]) == {"double": 6}


def test_outputs_still_take_any_input_of_the_graph(run: Any) -> None:
    assert run(line(), outputs=["load"], x=1, mark="?") == {"load": 1}


def test_outputs_need_only_the_inputs_of_what_runs(run: Any) -> None:
    dag = line().add_node("other", lambda needed: needed)
    assert run(dag, outputs=["double"]) == {"double": 6}


def test_outputs_that_are_unknown_are_an_error() -> None:
    with pytest.raises(UnknownNodeError, match="did you mean 'show'"):
        line().run(outputs=["shwo"])


@pytest.mark.parametrize("outputs", ["show", []])
def test_outputs_are_a_list_of_names(outputs: Any) -> None:
    with pytest.raises(ValidationError, match="list of nodes or their names"):
        line().run(outputs=outputs)


# The Context.


def test_run_without_a_context_has_one_of_its_own(execute: Any) -> None:
    dag = line()
    one, two = execute(dag), execute(dag)
    assert one.context is not two.context
    assert one.run_id != two.run_id
    assert one.results["show"] == "6!"


@pytest.mark.process_mode
def test_run_works_in_the_context_it_is_given(execute: Any) -> None:
    context = Context(metadata={"user_id": "123"})
    ran = execute(line(), context=context)
    assert ran.context is context
    assert ran.results is context.results
    assert context.results == {"load": 3, "double": 6, "show": "6!"}
    assert context.metadata["user_id"] == "123"
    assert context.metadata["execution_status"] == "completed"
    assert context.metadata["run_id"] == ran.run_id


def test_run_id_is_new_for_each_run_in_one_context(execute: Any) -> None:
    context = Context()
    one = execute(line(), context=context).run_id
    assert execute(line(), context=context).run_id != one


def test_run_id_that_the_user_set_stays(execute: Any) -> None:
    context = Context(metadata={"run_id": "mine"})
    assert [execute(line(), context=context).run_id for _ in range(2)] == ["mine", "mine"]


def test_run_id_that_the_user_sets_later_stays(execute: Any) -> None:
    context = Context()
    execute(line(), context=context)
    context.metadata["run_id"] = "mine"
    assert execute(line(), context=context).run_id == "mine"


def test_status_while_running_is_running(run: Any) -> None:
    dag = DAG("d").add_node("ask", lambda context: context.metadata["execution_status"])
    assert run(dag) == "running"


@pytest.mark.parametrize(
    ("options", "status"),
    [({}, "failed"), ({"error_strategy": "continue"}, "completed_with_errors")],
)
def test_status_after_failures(execute: Any, options: Any, status: str) -> None:
    context = Context()
    assert execute(DAG("d").add_node("a", boom), context=context, **options).status == status
    assert context.metadata["execution_status"] == status


def test_used_context_drops_the_results_of_the_nodes_that_run(execute: Any) -> None:
    context = Context(results={"show": "old", "bad": "old", "foreign": "kept"})
    dag = DAG("d").add_node("bad", boom).add_node("show", lambda bad: bad).connect("bad", "show")
    execute(dag, context=context)
    assert context.results == {"foreign": "kept"}


def test_used_context_keeps_the_results_of_nodes_that_do_not_run(run_until: Any) -> None:
    context = Context(results={"show": "old", "load": "old"})
    run_until(line(), "double", context=context)
    assert context.results == {"show": "old", "load": 3, "double": 6}


def test_one_context_serves_run_after_run(run: Any) -> None:
    context = Context()
    dag = DAG("d").add_node("count", lambda context: context.metadata.setdefault("n", []))
    dag.add_node("more", lambda count, context: context.metadata["n"].append(1))
    dag.connect("count", "more")
    run(dag, context=context)
    run(dag, context=context)
    assert context.metadata["n"] == [1, 1]


@pytest.mark.same_process
def test_context_serves_one_run_at_a_time(execute: Any) -> None:
    inner = line()
    dag = DAG("d").add_node("a", lambda context: inner.run(context=context))
    ran = execute(dag)
    assert isinstance(ran.errors["a"], ValidationError)
    assert "already serves a run" in str(ran.errors["a"])


def test_context_is_free_again_after_a_failure(execute: Any, run: Any) -> None:
    context = Context()
    execute(DAG("d").add_node("a", boom), context=context)
    assert run(line(), context=context) == "6!"


def test_context_is_free_again_after_a_run_that_did_not_begin(run: Any) -> None:
    context = Context()
    with pytest.raises(ValidationError):
        run(DAG("d").add_node("a", lambda needed: 1), context=context)
    assert run(line(), context=context) == "6!"
    assert context.metadata["execution_status"] == "completed"


def test_context_of_a_refused_run_is_left_alone(run: Any) -> None:
    context = Context(results={"a": "old"})
    with pytest.raises(ValidationError):
        run(DAG("d").add_node("a", lambda needed: 1), context=context)
    assert context.to_dict() == Context(results={"a": "old"}).to_dict()


def test_context_serves_one_of_two_threads() -> None:
    context, inside, refused = Context(), threading.Event(), threading.Event()
    dag = DAG("d").add_node("wait", lambda: inside.set() or refused.wait(LONG))
    first = threading.Thread(target=dag.run, kwargs={"context": context})
    first.start()
    assert inside.wait(LONG)
    with pytest.raises(ValidationError, match="already serves a run"):
        line().run(context=context)
    refused.set()
    first.join()
    assert context.results == {"wait": True}
    assert line().run(context=context) == "6!"


# Async.


def test_run_async_returns_the_value() -> None:
    assert asyncio.run(line().run_async()) == "6!"
    assert asyncio.run(line().run_async({"x": 1}, mark="?")) == "2?"


def test_execute_async_returns_the_run() -> None:
    ran = asyncio.run(line().execute_async())
    assert (ran.status, ran.value) == ("completed", "6!")


@pytest.mark.process_mode
def test_async_nodes_run_in_every_mode(run: Any) -> None:
    dag = line().add_node("later", add_later).connect("double", "later")
    assert run(dag, b=4, outputs=["later"]) == {"later": 10}


def needs_loop() -> DAG:
    return DAG("d").add_node("later", add_later)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ["run", "execute"])
def test_run_of_async_nodes_inside_of_a_loop_says_what_to_do(mode: str, method: str) -> None:
    async def main():
        return getattr(needs_loop(), method)(mode=mode, a=1, b=2)

    with pytest.raises(FastDAGError, match=r"await .*run_async"):
        asyncio.run(main())


def test_coroutine_of_a_sync_function_inside_of_a_loop_says_what_to_do() -> None:
    async def main():
        dag = DAG("d").add_node("a", lambda: add_later(1, 2))
        return dag.run()

    with pytest.raises(FastDAGError, match=r"run_async"):
        asyncio.run(main())


def test_run_of_sync_nodes_inside_of_a_loop_is_fine() -> None:
    async def main():
        return line().run()

    assert asyncio.run(main()) == "6!"


def test_run_async_is_fine_where_run_is_not() -> None:
    async def main():
        return await needs_loop().run_async(a=1, b=2)

    assert asyncio.run(main()) == 3


# Contextvars.

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="default")


@pytest.mark.same_process
def test_contextvars_of_the_caller_are_visible_in_nodes(run: Any) -> None:
    async def later():
        return variable.get()

    dag = DAG("d").add_node("now", variable.get, inputs=[]).add_node("later", later)
    token = variable.set("caller's")
    try:
        assert run(dag, outputs=["now", "later"]) == {"now": "caller's", "later": "caller's"}
    finally:
        variable.reset(token)


@pytest.mark.same_process
def test_contextvars_set_in_nodes_do_not_reach_the_caller(run: Any) -> None:
    async def later():
        variable.set("node's")

    dag = DAG("d").add_node("now", lambda: variable.set("node's") and None)
    dag.add_node("later", later).add_node("hooked", lambda: variable.set("node's") and None)
    dag.set_node_hooks("hooked", pre_execute=lambda: variable.set("hook's") and None)
    run(dag)
    assert variable.get() == "default"


def test_contextvars_set_in_failing_nodes_do_not_reach_the_caller() -> None:
    def fail():
        variable.set("node's")
        raise BoomError("after that")

    assert DAG("d").add_node("a", fail).execute().status == "failed"
    assert variable.get() == "default"


# Many runs of one DAG.


def test_many_threads_run_one_dag_each_with_its_own_result() -> None:
    dag = line().add_node("end", lambda show, context: (show, context.metadata["who"]))
    dag.connect("show", "end")
    got: dict[int, Any] = {}
    start = threading.Barrier(16)

    def work(number):
        start.wait()
        got[number] = [
            dag.run(x=number, mark=count, context=Context(metadata={"who": number}))
            for count in range(20)
        ]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {n: [(f"{2 * n}{count}", n) for count in range(20)] for n in range(16)}


def test_many_tasks_run_one_dag_each_with_its_own_result() -> None:
    dag = line().add_node("later", add_later).connect("double", "later")

    async def main():
        runs = [dag.run_async(x=n, b=n, outputs=["later", "show"]) for n in range(30)]
        return await asyncio.gather(*runs)

    assert asyncio.run(main()) == [{"later": 3 * n, "show": f"{2 * n}!"} for n in range(30)]


@pytest.mark.same_process
def test_node_may_run_a_dag_by_hand(run: Any) -> None:
    inner = line()
    dag = DAG("d").add_node("a", lambda: inner.run(x=1)).add_node("b", lambda a: inner.run(x=2) + a)
    assert run(dag.connect("a", "b")) == "4!2!"
    assert inner["load"] == 2


@pytest.mark.same_process
def test_dag_may_run_itself_by_hand_from_a_node(run: Any) -> None:
    dag = DAG("factorial")

    @dag.node
    def factorial(n):
        return 1 if n == 0 else n * dag.run(n=n - 1)

    assert run(dag, n=5) == 120


# Options that are not what they should be.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "fast"}, "mode is one of"),
        ({"max_workers": 0}, "at least 1"),
        ({"max_workers": -1}, "at least 1"),
        ({"max_workers": 2.5}, "at least 1"),
        ({"timeout": 0}, "above 0"),
        ({"timeout": -1}, "above 0"),
        ({"timeout": float("nan")}, "above 0"),
        ({"timeout": "1"}, "above 0"),
        ({"executor": 3}, "Executor"),
        ({"error_strategy": "ignore"}, "'fail_fast' or 'continue'"),
        ({"error_handler": 3}, "not callable"),
        ({"context": {}}, "Context"),
    ],
    ids=str,
)
def test_option_that_is_wrong_is_refused_before_anything_runs(options: Any, message: str) -> None:
    seen: list[int] = []
    with pytest.raises(ValidationError, match=message):
        DAG("d").add_node("a", lambda: seen.append(1)).run(**options)
    assert seen == []


@pytest.mark.same_process
def test_errors_have_a_time(execute: Any) -> None:
    before = time.time()
    context = Context()
    execute(DAG("d").add_node("a", boom), error_strategy="continue", context=context)
    assert before <= context.metadata["errors"][0]["timestamp"] <= time.time()
