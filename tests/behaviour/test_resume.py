"""Going on from an earlier Run, also from one out of a pickle."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from fast_dag import (
    DAG,
    FSM,
    ConditionalReturn,
    Context,
    FSMReturn,
    NodeStatus,
    Run,
    ValidationError,
)


def copied(run: Run) -> Run:
    twin = pickle.loads(pickle.dumps(run))
    assert isinstance(twin, Run)
    return twin


@pytest.fixture(params=[lambda run: run, copied], ids=["at hand", "pickled"])
def kept(request: pytest.FixtureRequest) -> Any:
    """What becomes of a Run before another goes on from it."""
    return request.param


class Calls(list[str]):
    """Which functions were called, and which of them fail."""

    def __init__(self) -> None:
        super().__init__()
        self.broken: set[str] = set()

    def __call__(self, name: str, value: Any = None) -> Any:
        self.append(name)
        if name in self.broken:
            raise ConnectionError(f"{name} is down")
        return value

    def taken(self) -> list[str]:
        names, self[:] = sorted(self), []
        return names


@pytest.fixture
def calls() -> Calls:
    return Calls()


def pipeline(calls: Calls) -> DAG:
    """load -> clean -> train -> report, and load -> count beside them."""
    dag = DAG("pipeline")
    dag.add_node("load", lambda path: calls("load", [path]))
    dag.add_node("clean", lambda load: calls("clean", [*load, "clean"]))
    dag.add_node("train", lambda clean, rate=1: calls("train", (*clean, rate)))
    dag.add_node("report", lambda train: calls("report", ["report", *train]))
    dag.add_node("count", lambda load: calls("count", len(load)))
    dag.connect("load", "clean").connect("clean", "train").connect("train", "report")
    return dag.connect("load", "count")


def failed(execute: Any, dag: DAG, calls: Calls, *broken: str, **options: Any) -> Run:
    """A run in which these failed; they are mended then."""
    calls.broken = set(broken)
    run: Run = execute(dag, error_strategy="continue", **options)
    assert set(run.errors) == calls.broken
    calls.broken = set()
    calls.taken()
    return run


@pytest.mark.same_process
def test_what_failed_runs_and_what_depends_on_it(execute: Any, calls: Calls, kept: Any) -> None:
    dag = pipeline(calls)
    first = failed(execute, dag, calls, "train", path="a.csv")
    run = execute(dag, resume=kept(first))
    assert calls.taken() == ["report", "train"]
    assert run.value == 1
    assert run.results == {
        "load": ["a.csv"],
        "clean": ["a.csv", "clean"],
        "train": ("a.csv", "clean", 1),
        "report": ["report", "a.csv", "clean", 1],
        "count": 1,
    }
    assert set(run.statuses.values()) == {"completed"}
    assert sorted(run.timings) == ["report", "train"]
    assert run.metrics["nodes_executed"] == 2
    assert sorted(run.metrics["execution_order"]) == ["report", "train"]
    assert run.errors == {}
    assert "errors" not in run.context.metadata


@pytest.mark.same_process
def test_earlier_run_is_not_changed(execute: Any, calls: Calls) -> None:
    dag = pipeline(calls)
    first = failed(execute, dag, calls, "train", path="a.csv")
    before = first.statuses, dict(first.results), dict(first.context.metadata)
    second = execute(dag, resume=first)
    assert (first.statuses, first.results, first.context.metadata) == before
    assert second.run_id != first.run_id
    assert second["load"] is first["load"]


@pytest.mark.same_process
def test_completed_run_runs_nothing(execute: Any, calls: Calls, kept: Any) -> None:
    dag = pipeline(calls)
    first = failed(execute, dag, calls, path="a.csv")
    run = execute(dag, resume=kept(first))
    assert calls.taken() == []
    assert (run.status, run.value, run.results) == (first.status, first.value, first.results)
    assert kept(run).results == first.results


@pytest.mark.same_process
def test_input_with_another_value_runs_what_took_it(execute: Any, calls: Calls, kept: Any) -> None:
    dag = pipeline(calls)
    first = kept(failed(execute, dag, calls, path="a.csv", rate=2))
    assert execute(dag, resume=first, rate=3)["train"][-1] == 3
    assert calls.taken() == ["report", "train"]
    assert execute(dag, resume=first, rate=2)["train"][-1] == 2
    assert calls.taken() == []
    assert execute(dag, resume=first, rate=True)["train"][-1] is True  # True is not 1
    assert calls.taken() == ["report", "train"]
    execute(dag, resume=first, path="b.csv")
    assert calls.taken() == ["clean", "count", "load", "report", "train"]


@pytest.mark.same_process
def test_input_that_took_its_default_before_runs_what_takes_it(execute: Any, calls: Calls) -> None:
    dag = pipeline(calls)
    first = failed(execute, dag, calls, path="a.csv")
    assert execute(dag, resume=first, rate=1)["train"][-1] == 1
    assert calls.taken() == ["report", "train"]


class Opaque:
    """Compares by nothing: `==` raises."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise TypeError("not comparable")


NAN = float("nan")


@pytest.mark.same_process
@pytest.mark.parametrize(
    ("old", "new", "runs"),
    [
        (None, None, False),
        (NAN, NAN, False),
        (NAN, float("nan"), False),
        ([1, {"a": 2}], [1, {"a": 2}], False),
        (0.0, -0.0, True),
        (Opaque(), Opaque(), True),
        (iter([1]), iter([1]), True),
    ],
    ids=["None", "NaN itself", "NaN", "nested", "zeros", "opaque", "iterator"],
)
def test_inputs_are_compared_as_by_a_cache(
    execute: Any, calls: Calls, old: Any, new: Any, runs: bool
) -> None:
    dag = pipeline(calls)
    first = failed(execute, dag, calls, path="a.csv", rate=old)
    execute(dag, resume=first, rate=new)
    assert calls.taken() == (["report", "train"] if runs else [])


@pytest.mark.same_process
def test_arrays_are_compared_by_what_is_in_them(execute: Any, calls: Calls, kept: Any) -> None:
    np = pytest.importorskip("numpy")
    dag = pipeline(calls)
    first = kept(failed(execute, dag, calls, path="a.csv", rate=np.arange(3)))
    execute(dag, resume=first, rate=np.arange(3))
    assert calls.taken() == []
    execute(dag, resume=first, rate=np.arange(1, 4))
    assert calls.taken() == ["report", "train"]


@pytest.mark.same_process
def test_deleted_value_is_computed_again_where_it_is_needed(
    execute: Any, calls: Calls, kept: Any
) -> None:
    dag = pipeline(calls)
    first = failed(execute, dag, calls, "report", path="a.csv")
    del first.results["load"], first.results["clean"]
    first = kept(first)
    run = execute(dag, resume=first)  # the report takes the result of train, which is there
    assert calls.taken() == ["report"]
    assert "clean" not in run.results
    del first.results["train"]
    execute(dag, resume=first)
    assert calls.taken() == ["clean", "count", "load", "report", "train"]


@pytest.mark.same_process
def test_deleted_value_of_the_last_sink_is_computed_again(
    execute: Any, calls: Calls, kept: Any
) -> None:
    dag = DAG("d").add_node("load", lambda: 1)
    dag.add_node("first", lambda load: calls("first", "first"))
    dag.add_node("broken", lambda load: calls("broken", "mended"))
    dag.add_node("last", lambda load: calls("last", "last"))
    dag.connect("load", "first").connect("load", "broken").connect("load", "last")
    run = failed(execute, dag, calls, "broken")
    assert (run.value, calls.taken()) == ("last", [])
    del run.results["first"], run.results["last"]
    assert execute(dag, resume=kept(run)).value == "last"
    assert calls.taken() == ["broken", "last"]
    assert execute(dag, resume=kept(run), outputs=["broken"]).value == {"broken": "mended"}
    assert calls.taken() == ["broken"]


@pytest.mark.same_process
def test_outputs_that_are_gone_are_computed_again(execute: Any, calls: Calls) -> None:
    dag = pipeline(calls)
    first = failed(execute, dag, calls, path="a.csv")
    del first.results["count"]
    run = execute(dag, resume=first, outputs=["count", "clean"])
    assert calls.taken() == ["count"]
    assert run.value == {"count": 1, "clean": ["a.csv", "clean"]}


@pytest.mark.same_process
def test_consumed_iterator_is_made_again(execute: Any, calls: Calls) -> None:
    def rows():
        calls("rows")
        return iter([1, 2])

    dag = DAG("d").add_node("rows", rows)
    dag.add_node("total", lambda rows: calls("total", sum(rows))).connect("rows", "total")
    first = failed(execute, dag, calls, "total")
    assert execute(dag, resume=first).value == 3
    assert calls.taken() == ["rows", "total"]


@pytest.mark.same_process
def test_iterator_that_nobody_took_is_given_on(execute: Any, calls: Calls) -> None:
    dag = DAG("d").add_node("rows", lambda: calls("rows", iter([1, 2])))
    dag.add_node("gate", lambda: calls("gate"))
    dag.add_node("total", lambda rows: calls("total", sum(rows))).connect("rows", "total")
    dag.nodes["total"].after(dag.nodes["gate"])
    first = failed(execute, dag, calls, "gate")
    assert execute(dag, resume=first).value == 3
    assert calls.taken() == ["gate", "total"]


@pytest.mark.same_process
def test_consumed_input_is_refused_unless_it_is_given_anew(execute: Any, calls: Calls) -> None:
    dag = DAG("d").add_node("total", lambda rows: calls("total", sum(rows)))
    first = failed(execute, dag, calls, "total", rows=iter([1, 2]))
    with pytest.raises(ValidationError, match=r"the input 'rows' is a list_iterator, .* 'total'"):
        execute(dag, resume=first)
    assert execute(dag, resume=first, rows=iter([3])).value == 3


# Deciders.


def branching(calls: Calls, *, choice: Any = True) -> DAG:
    """check -> (on_true) yes or (on_false) no -> join, and late behind the join."""
    dag = DAG("branching").add_node("load", lambda: calls("load", 5))
    dag.add_node("check", lambda load: calls("check", choice), type="condition")
    dag.add_node("yes", lambda value: calls("yes", ("yes", value)))
    dag.add_node("no", lambda value: calls("no", ("no", value)))
    dag.add_node("join", lambda value: calls("join", value), type="any")
    dag.add_node("late", lambda join: calls("late", join))
    check = dag.connect("load", "check").nodes["check"]
    dag.connect(check.on_true, "yes").connect(check.on_false, "no")
    return dag.connect("yes", "join").connect("no", "join").connect("join", "late")


@pytest.mark.same_process
def test_what_a_taken_decider_skipped_stays_skipped(execute: Any, calls: Calls, kept: Any) -> None:
    dag = branching(calls)
    first = failed(execute, dag, calls, "late")
    run = execute(dag, resume=kept(first))
    assert calls.taken() == ["late"]
    assert (run.statuses["no"], run.value) == ("skipped", ("yes", 5))


@pytest.mark.same_process
def test_branch_of_a_taken_decider_is_given_what_the_decider_was_given(
    execute: Any, calls: Calls, kept: Any
) -> None:
    dag = branching(calls)
    first = failed(execute, dag, calls, "yes")
    assert execute(dag, resume=kept(first)).value == ("yes", 5)
    assert calls.taken() == ["join", "late", "yes"]
    del first.results["load"]
    assert execute(dag, resume=kept(first)).value == ("yes", 5)
    assert calls.taken() == ["check", "join", "late", "load", "yes"]


@pytest.mark.same_process
def test_decider_whose_value_is_gone_keeps_its_choice(
    execute: Any, calls: Calls, kept: Any
) -> None:
    dag = branching(calls, choice=ConditionalReturn(False, "own"))
    first = failed(execute, dag, calls, "late")
    del first.results["check"]
    run = execute(dag, resume=kept(first))
    assert calls.taken() == ["late"]
    assert run.statuses["yes"] == "skipped"
    del first.results["join"]
    execute(dag, resume=kept(first))
    assert calls.taken() == ["join", "late"]
    del first.results["no"]
    execute(dag, resume=kept(first))
    assert calls.taken() == ["check", "join", "late", "no"]


@pytest.mark.same_process
def test_other_choice_skips_what_it_no_longer_reaches(execute: Any, calls: Calls) -> None:
    dag = DAG("d").add_node("check", lambda x: calls("check", x > 0), type="condition")
    for name in ("yes", "no"):
        dag.add_node(name, lambda x, name=name: calls(name, name), inputs=["x", "name"])
    check = dag.nodes["check"]
    dag.connect(check.on_true, "yes", input="x").connect(check.on_false, "no", input="x")
    first = failed(execute, dag, calls, x=1)
    run = execute(dag, resume=first, x=-1)
    assert run.statuses == {"check": "completed", "yes": "skipped", "no": "completed"}
    assert "yes" not in run.results


# Graphs that changed in between.


@pytest.mark.same_process
def test_new_source_runs_what_it_feeds(execute: Any, calls: Calls) -> None:
    dag = pipeline(calls)
    first = failed(execute, dag, calls, path="a.csv")
    dag.add_node("rate", lambda: calls("rate", 7)).connect("rate", "train")
    assert execute(dag, resume=first)["train"] == ("a.csv", "clean", 7)
    assert calls.taken() == ["rate", "report", "train"]


@pytest.mark.same_process
def test_replaced_function_does_not_count(execute: Any, calls: Calls) -> None:
    dag = pipeline(calls)
    first = failed(execute, dag, calls, "report", path="a.csv")
    dag.replace_node("load", lambda path: calls("load", ["other"]))
    assert execute(dag, resume=first)["report"] == ["report", "a.csv", "clean", 1]
    assert calls.taken() == ["report"]


@pytest.mark.same_process
def test_run_of_a_part_is_gone_on_from(execute: Any, calls: Calls) -> None:
    dag = pipeline(calls)
    failed(execute, dag, calls, path="a.csv")
    dag.run_from("train", rate=5)
    calls.taken()
    part = dag.last_run
    assert part is not None
    del part.results["report"]
    assert execute(dag, resume=part)["train"] == ("a.csv", "clean", 5)
    assert calls.taken() == []


# What surrounds a call, and who watches.


@pytest.mark.same_process
def test_taken_nodes_have_no_hooks_resources_progress(execute: Any, calls: Calls) -> None:
    dag = pipeline(calls)

    @dag.resource("db")
    def db():
        yield calls("open")

    dag.replace_node("load", lambda path, db: calls("load", [path]))
    hooked: list[str] = []
    dag.set_default_hooks(pre_execute=lambda node, inputs: hooked.append(node.name))
    first = failed(execute, dag, calls, "train", path="a.csv")
    hooked.clear()
    seen: list[tuple[str, str, float]] = []
    execute(dag, resume=first, progress=lambda *told: seen.append(told))
    assert sorted(hooked) == ["report", "train"]
    assert calls.taken() == ["report", "train"]
    assert {name for name, _, _ in seen} == {"report", "train"}
    assert seen[0][2] == 3 / 5
    assert seen[-1][2] == 1


@pytest.mark.same_process
def test_metadata_goes_on_unless_a_context_is_given(execute: Any, calls: Calls) -> None:
    dag = pipeline(calls)
    context = Context(metadata={"user": "ada"})
    first = failed(execute, dag, calls, "train", path="a.csv", context=context)
    assert "errors" in first.context.metadata
    second = execute(dag, resume=first)
    assert second.context is not first.context
    assert second.context.metadata["user"] == "ada"
    mine = Context(results={"clean": "stale"}, metadata={"user": "bob"})
    third = execute(dag, resume=first, context=mine)
    assert third.context is mine
    assert third.context.metadata["user"] == "bob"
    assert third["clean"] == ["a.csv", "clean"]


@pytest.mark.same_process
def test_run_goes_on_in_its_own_context(execute: Any, calls: Calls) -> None:
    dag = pipeline(calls)
    first = failed(execute, dag, calls, "train", path="a.csv")
    assert execute(dag, resume=first, context=first.context)["report"][-1] == 1
    assert calls.taken() == ["report", "train"]


@pytest.mark.same_process
def test_what_nodes_stored_under_other_names_is_there(execute: Any, calls: Calls) -> None:
    dag = DAG("d").add_node("store", lambda context: calls("store", context.set("extra", 7)))
    dag.add_node("use", lambda context, after: calls("use", context["extra"]))
    dag.connect("store", "use", input="after")
    first = failed(execute, dag, calls, "use")
    assert execute(dag, resume=first).value == 7
    assert calls.taken() == ["use"]


@pytest.mark.same_process
def test_cancelled_run_goes_on(calls: Calls, execute: Any) -> None:
    dag = pipeline(calls)

    async def stops(clean: Any) -> Any:
        if not calls.broken:
            return calls("train", clean)
        task = asyncio.current_task()
        assert task is not None
        outer.cancel()
        await asyncio.sleep(60)

    async def main() -> None:
        nonlocal outer
        outer = asyncio.ensure_future(dag.run_async(path="a.csv"))
        await outer

    outer: Any = None
    calls.broken = {"stopped"}
    dag.replace_node("train", stops)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    first = dag.last_run
    assert first is not None
    assert (first.status, first.statuses["train"]) == ("cancelled", "cancelled")
    calls.broken = set()
    calls.taken()
    assert execute(dag, resume=copied(first)).status == "completed"
    assert "train" in calls
    assert "load" not in calls


# Nested workflows.


def nested(calls: Calls) -> DAG:
    """outer: begin -> sub (load -> clean -> train -> report, count) -> end."""
    inner = pipeline(calls)
    dag = DAG("outer").add_node("begin", lambda: calls("begin", "a.csv")).add_node("sub", inner)
    dag.add_node("end", lambda sub: calls("end", sub))
    return dag.connect("begin", "sub", input="path").connect("sub", "end")


@pytest.mark.same_process
def test_nested_workflow_goes_on_inside(execute: Any, calls: Calls, kept: Any) -> None:
    dag = nested(calls)
    calls.broken = {"train"}
    first = execute(dag)
    assert list(first.errors) == ["sub.train"]
    calls.broken = set()
    before = calls.taken()
    run = execute(dag, resume=kept(first))
    assert run.status == "completed"
    assert calls.taken() == sorted(
        {"clean", "count", "train", "report", "end", "load", "begin"} - {*before} | {"train"}
    )
    assert run["sub.clean"] == ["a.csv", "clean"]
    assert run["sub.report"] == ["report", "a.csv", "clean", 1]


@pytest.mark.same_process
def test_nested_workflow_that_is_fed_anew_starts_anew(execute: Any, calls: Calls) -> None:
    dag = nested(calls)
    calls.broken = {"train"}
    first = execute(dag)
    calls.broken = set()
    calls.taken()
    del first.results["begin"]
    assert execute(dag, resume=first).status == "completed"
    assert calls.taken() == sorted(["begin", "load", "clean", "train", "report", "count", "end"])


@pytest.mark.same_process
def test_completed_nested_workflow_is_taken_with_what_is_inside(
    execute: Any, calls: Calls, kept: Any
) -> None:
    dag = nested(calls)
    calls.broken = {"end"}
    first = execute(dag)
    calls.broken = set()
    calls.taken()
    run = kept(execute(dag, resume=kept(first)))
    assert calls.taken() == ["end"]
    assert run["sub.load"] == ["a.csv"]
    assert run.children["sub"].status == "completed"
    assert run.summary().startswith("outer: completed")


@pytest.mark.same_process
def test_input_given_anew_runs_what_took_it_inside(execute: Any, calls: Calls) -> None:
    dag = DAG("outer").add_node("sub", pipeline(calls))
    calls.broken = {"report"}
    first = execute(dag, path="a.csv", rate=2)
    calls.broken = set()
    calls.taken()
    assert execute(dag, resume=first, rate=3)["sub.train"][-1] == 3
    assert set(calls.taken()) >= {"train", "report"} != {"load"}
    assert "load" not in calls


@pytest.mark.same_process
def test_nested_value_that_is_gone_is_found_inside(execute: Any, calls: Calls) -> None:
    dag = nested(calls)
    calls.broken = {"end"}
    first = execute(dag)
    calls.broken = set()
    calls.taken()
    del first.results["sub"]
    assert execute(dag, resume=first).value == 1
    assert calls.taken() == ["end"]
    del first.children["sub"].results["count"]
    assert execute(dag, resume=first).value == 1
    assert calls.taken() == ["count", "end"]


@pytest.mark.same_process
def test_further_attempt_of_a_nested_workflow_begins_anew(execute: Any, calls: Calls) -> None:
    dag = DAG("outer").add_node("sub", pipeline(calls), retry=1, retry_delay=0)
    calls.broken = {"train"}
    first = execute(dag, path="a.csv")
    calls.taken()
    execute(dag, resume=first)
    assert calls.count("train") == 2
    assert calls.count("clean") == 1  # of the second attempt


# What is refused.


def test_what_cannot_be_gone_on_from_is_refused(run: Any) -> None:
    dag = DAG("d").add_node("one", lambda: 1)
    ended = dag.execute()
    other = DAG("other").add_node("one", lambda: 1).execute()
    machine = FSM("d", initial_state="s").add_state("s", lambda: FSMReturn(stop=True)).execute()
    for earlier, told in (
        (other, "is a run of 'other', not of 'd'"),
        (machine, "the run of a machine, 'd'"),
        (3, r"not a int; .* inputs=\{'resume': ...\}"),
    ):
        with pytest.raises(ValidationError, match=told):
            run(dag, resume=earlier)
    for method, args in (
        (dag.run_from, ("one",)),
        (dag.run_until, ("one",)),
        (dag.run_between, ("one", "one")),
    ):
        with pytest.raises(ValidationError, match="finds by itself what has to run"):
            method(*args, resume=ended)


def test_run_in_progress_is_refused() -> None:
    dag = DAG("d").add_node("again", lambda: dag.run(resume=dag.last_run))
    run = dag.execute()
    assert isinstance(run.errors["again"], ValidationError)
    assert "in progress" in str(run.errors["again"])


def test_input_of_that_name_is_given_as_a_mapping(run: Any) -> None:
    dag = DAG("d").add_node("one", lambda resume, keep: (resume, keep))
    assert run(dag, inputs={"resume": 1, "keep": 2}) == (1, 2)


# Large graphs.


@pytest.mark.one_in(5)
@pytest.mark.same_process
def test_run_of_thousands_of_nodes_goes_on(execute: Any, calls: Calls) -> None:
    dag = DAG("large").add_node("n0", lambda: 0)
    for number in range(1, 3_000):
        dag.add_node(f"n{number}", lambda x: x + 1).connect(f"n{number - 1}", f"n{number}")
    dag.replace_node("n2000", lambda x: calls("n2000", x + 1))
    first = failed(execute, dag, calls, "n2000")
    run = execute(dag, resume=copied(first))
    assert (run.value, len(run.timings)) == (2_999, 1_000)
    for name in list(first.results):
        del first.results[name]
    assert len(execute(dag, resume=first).timings) == 3_000
    assert run.statuses["n5"] is NodeStatus.COMPLETED
