"""A DAG as a state, an FSM as a node, and both inside of each other."""

from __future__ import annotations

import asyncio
import pickle
import threading
from typing import Any

import pytest

import fast_dag
from fast_dag import (
    DAG,
    FSM,
    Context,
    ExecutionError,
    FSMContext,
    FSMReturn,
    InvalidTransitionError,
    MaxCyclesError,
    MissingInputError,
    ValidationError,
)
from fast_dag.errors import MissingResultError
from tests.fsm.support import counting, machine
from tests.patience import LONG
from tests.ways import MODES, MODES_EVERYWHERE


class BoomError(Exception):
    """What a state raises that is told to fail."""


def doubled() -> DAG:
    """double -> text."""
    dag = DAG("doubled").add_node("double", lambda n: 2 * n)
    return dag.add_node("text", lambda double: f"<{double}>").connect("double", "text")


# A DAG as a state.


@pytest.mark.process_mode
def test_a_dag_is_a_state_with_its_unfed_parameters(execute: Any) -> None:
    fsm = machine(first=lambda: 4, dag=doubled(), last=lambda text: f"{text}!")
    ran = execute(fsm)
    assert ran.value == "<8>!"
    assert ran.results == {"first": 4, "dag": "<8>", "last": "<8>!"}
    assert (ran["dag.double"], ran["dag.text"], ran["dag.0"]) == (8, "<8>", "<8>")
    assert fsm["dag.double"] == 8


def test_a_dag_takes_the_keys_of_a_mapping(run: Any) -> None:
    dag = DAG("sum").add_node("add", lambda a, b=10, *, c=100: a + b + c)
    assert run(machine(first=lambda: {"a": 1, "c": 2, "z": 3}, add=dag)) == 13
    assert run(machine(first=lambda: {"a": 1}, add=dag), b=0) == 101
    assert run(machine(first=lambda: 5, add=dag)) == 115


def test_a_dag_may_be_the_initial_state_and_say_where_to_go(run: Any) -> None:
    dag = DAG("choose").add_node("pick", lambda n: FSMReturn("big" if n > 5 else "small", n))
    fsm = FSM("m", initial_state="choose", terminal_states=["big", "small"])
    fsm.add_state(dag, initial=True).add_state("big", lambda n: f"big {n}")
    fsm.add_state("small", lambda n: f"small {n}")
    assert [run(fsm, n=n) for n in (9, 1)] == ["big 9", "small 1"]
    with pytest.raises(MissingInputError, match="'n' of 'choose'"):
        run(fsm)


def test_results_inside_are_those_of_the_latest_visit(run: Any) -> None:
    fsm = FSM("m", initial_state="dag", terminal_states=["end"])
    fsm.add_state("dag", DAG("d").add_node("inc", lambda n=0: n + 1)).add_state("end", lambda n: n)
    fsm.add_transition("dag", "end", lambda n: n > 2).add_transition("dag", "dag")
    assert run(fsm) == 3
    assert (fsm["dag.inc"], fsm["dag"]) == (3, 3)
    assert [fsm[f"dag.{visit}"] for visit in range(3)] == [1, 2, 3]


def test_a_failure_inside_names_its_path(execute: Any) -> None:
    def boom(double: int) -> None:
        raise BoomError("no luck")

    dag = doubled().add_node("boom", boom).connect("double", "boom")
    ran = execute(machine(first=lambda: 1, dag=dag, last=lambda: 1))
    error = ran.exception()
    assert type(error) is ExecutionError
    assert isinstance(error.__cause__, BoomError)
    assert (error.node_name, error.run) == ("dag.boom", ran)
    assert str(error) == "state 'dag.boom' of 'm' failed: BoomError: no luck"
    assert list(ran.errors) == ["dag.boom"]
    assert ran.state_history == ["first", "dag"]
    assert ran["dag.double"] == 2


def test_options_of_a_state_cover_the_whole_dag(execute: Any) -> None:
    calls: list[int] = []

    def flaky(n: int) -> int:
        calls.append(n)
        if len(calls) < 3:
            raise BoomError
        return n

    fsm = FSM("m", initial_state="first", terminal_states=["dag"]).add_state("first", lambda: 7)
    inner = DAG("inner").add_node("flaky", flaky)
    fsm.add_state("dag", inner, retry=2, retry_delay=0.001).add_transition("first", "dag")
    ran = execute(fsm)
    assert (ran.value, calls, ran.state_history) == (7, [7, 7, 7], ["first", "dag"])


# An FSM as a node.


@pytest.mark.parametrize("mode", MODES_EVERYWHERE)
def test_an_fsm_is_a_node_with_the_parameters_of_its_initial_state(mode: Any) -> None:
    inner = FSM("inner", initial_state="a", terminal_states=["b"])
    inner.add_state("a", lambda n, step=2, context=None: n + step)
    inner.add_state("b", lambda x, other=5: (x, other)).add_transition("a", "b")
    dag = DAG("outer").add_node("load", lambda: 1).add_node("sub", inner).connect("load", "sub")
    dag.add_node("end", lambda sub: sub).connect("sub", "end")
    assert dag.nodes["sub"].inputs == ("n", "step")
    assert dag.run(mode=mode) == (3, 5)
    assert dag.run(mode=mode, step=10) == (11, 5)
    assert (dag["sub.a"], dag["sub.a.0"], dag["sub.b.0"]) == (11, 11, (11, 5))
    with pytest.raises(MissingResultError, match=r"'a' was visited 1 time$"):
        dag["sub.a.1"]
    with pytest.raises(ValidationError, match="'other'"):
        dag.run(other=1)
    assert inner.state_history == []  # it was not run itself


def test_many_machines_run_as_nodes_at_once() -> None:
    barrier = threading.Barrier(3, timeout=LONG)
    dag = DAG("outer")
    for number in range(3):
        inner = FSM(f"f{number}", initial_state="wait", terminal_states=["end"])
        inner.add_state("wait", lambda: barrier.wait() * 0 + 1).add_state("end", lambda x: x)
        dag.add_node(inner.add_transition("wait", "end"))
    assert dag.run(mode="parallel", max_workers=3, outputs=["f0", "f1", "f2"]) == {
        "f0": 1,
        "f1": 1,
        "f2": 1,
    }


def test_nested_machines_do_not_starve_one_worker() -> None:
    dag = DAG("outer")
    for number in range(4):
        dag.add_node(f"f{number}", counting(20))
    dag.add_node("all", lambda **counts: sum(counts.values()))
    for number in range(4):
        dag.connect(f"f{number}", "all")
    assert dag.run(mode="parallel", max_workers=1) == 80
    assert asyncio.run(dag.run_async(max_workers=1)) == 80


def test_views_of_a_nested_machine_are_its_own_inside_of_it() -> None:
    inner = machine(a=lambda: inner.state_history, b=lambda x: (x, inner.cycle_count))
    dag = DAG("outer").add_node("sub", inner)
    for mode in MODES:
        assert dag.run(mode=mode) == (["a"], 2)  # type: ignore[arg-type]


def test_nested_runs_share_metadata_and_nothing_else(run: Any) -> None:
    def inner_state(context: Context) -> Any:
        context.metadata["seen"] = list(context.results)
        return context.metadata["run_id"]

    inner = machine(first=lambda: 1, inner_state=inner_state)
    fsm = machine(first=lambda: 2, sub=DAG("d").add_node("f", inner), last=lambda x: x)
    context = FSMContext()
    assert run(fsm, context=context) == context.metadata["run_id"]
    assert context.metadata["seen"] == ["first"]
    assert context.metadata["execution_status"] == "completed"
    assert context.state_history == ["first", "sub", "last"]


# Three levels.


def three() -> FSM:
    """An FSM in a DAG in an FSM: top.work -> dag.count -> machine.tick ..."""
    dag = DAG("dag").add_node("start", lambda n: n).add_node("count", counting(3))
    dag.add_node("more", lambda count: count + 1).connect("start", "count").connect("count", "more")
    fsm = FSM("top", initial_state="work", terminal_states=["end"]).add_state("work", dag)
    fsm.add_state("end", lambda n: n)
    return fsm.add_transition("work", "end", lambda n: n > 3).add_transition("work", "work")


@pytest.mark.process_mode
def test_an_fsm_in_a_dag_in_an_fsm(execute: Any) -> None:
    fsm = three()
    ran = execute(fsm, n=0)
    assert (ran.value, ran.state_history) == (4, ["work", "end"])
    assert (ran["work.more"], ran["work.count"], ran["work.count.tick.1"]) == (4, 3, 3)
    assert (fsm["work.count.tick"], fsm["work.count.tock.0"], fsm["work.0"]) == (3, 2, 4)
    for path in ("work.count.tock.1", "work.count.tikc", "work.cuont", "wrok.count"):
        with pytest.raises(KeyError):
            fsm[path]


def test_a_failure_three_levels_down_names_its_path(execute: Any) -> None:
    def boom(n: int) -> None:
        raise BoomError("deep")

    fsm = FSM("top").add_state(
        "work",
        DAG("dag").add_node("count", machine(a=lambda n: n, b=boom, c=lambda: 0)),
        initial=True,
        terminal=True,
    )
    error = execute(fsm, n=1).exception()
    assert (error.node_name, type(error.__cause__)) == ("work.count.b", BoomError)
    assert "work.count.b" in str(error)
    back = pickle.loads(pickle.dumps(error))
    assert (back.node_name, str(back)) == (error.node_name, str(error))


def test_a_wrong_transition_three_levels_down_names_its_path(execute: Any) -> None:
    inner = machine(a=lambda n: FSMReturn("nowhere", n), b=lambda: 0)
    fsm = machine(work=DAG("dag").add_node("count", inner))
    error = execute(fsm, n=1).exception()
    assert type(error) is InvalidTransitionError
    assert (error.node_name, error.state, error.target) == ("work.count.a", "a", "nowhere")


def test_too_many_cycles_three_levels_down_name_their_path(execute: Any) -> None:
    fsm = machine(work=DAG("dag").add_node("count", counting(9, max_cycles=4)))
    error = execute(fsm).exception()
    assert type(error) is MaxCyclesError
    assert (error.node_name, error.max_cycles) == ("work.count.tock", 4)
    fsm = machine(work=DAG("dag").add_node("c", counting(9, max_cycles=4, on_max_cycles="stop")))
    assert execute(fsm).value == 4


def test_max_cycles_of_the_outer_run_are_not_those_of_the_inner(run: Any) -> None:
    assert run(machine(work=counting(9)), max_cycles=1) == 9


def test_a_guard_that_raises_inside_names_its_path(execute: Any) -> None:
    inner = FSM("inner", initial_state="a", terminal_states=["b"]).add_state("a", lambda: 1)
    inner.add_state("b", lambda: 2).add_transition("a", "b", lambda value: 1 / 0)
    error = execute(machine(work=DAG("dag").add_node("sub", inner))).exception()
    assert error.node_name == "work.sub.a"
    assert isinstance(error.__cause__, ZeroDivisionError)
    assert "condition of 'a' -> 'b'" in str(error)


def test_errors_inside_are_told_to_the_one_error_handler_once(execute: Any) -> None:
    asked: list[str] = []

    def handler(name: str, error: Exception, context: Context) -> str:
        asked.append(name)
        return "continue"

    inner = machine(a=lambda: 1 / 0)
    ran = execute(machine(work=DAG("dag").add_node("sub", inner)), error_handler=handler)
    assert asked == ["work.sub.a"]
    assert ran.status == "completed_with_errors"


def test_state_hooks_of_a_nested_machine_are_called(run: Any) -> None:
    seen: list[Any] = []
    inner = counting(2)
    inner.add_state_hook(lambda fsm, source, to: seen.append((fsm is inner, source, to)))
    outer = machine(work=inner, end=lambda n: n)
    outer.add_state_hook(lambda fsm, source, to: seen.append((fsm is outer, source, to)))
    assert run(outer) == 2
    assert seen == [(True, "tick", "tock"), (True, "tock", "done"), (True, "work", "end")]


def test_a_deadline_reaches_nested_machines() -> None:
    endless = FSM("endless", keep_history=1, max_cycles=10**9)
    endless.add_state("a", lambda: FSMReturn("a"), initial=True)
    fsm = machine(work=DAG("dag").add_node("sub", endless))
    for mode in MODES:
        with pytest.raises(fast_dag.TimeoutError):
            fsm.run(timeout=0.05, mode=mode)  # type: ignore[arg-type]


def test_a_late_nested_machine_is_given_up_as_a_whole() -> None:
    let_go = threading.Event()
    inner = machine(a=lambda: 1, b=lambda x: let_go.wait(LONG))
    dag = DAG("outer").add_node("sub", inner, timeout=0.05)
    with pytest.raises(fast_dag.TimeoutError) as caught:
        dag.run(mode="parallel")
    assert caught.value.node_name == "sub"
    let_go.set()


def test_a_nested_machine_is_cancelled_with_its_parent() -> None:
    async def main() -> None:
        began, ended = asyncio.Event(), asyncio.Event()

        async def held() -> None:
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        dag = DAG("outer").add_node("sub", machine(a=lambda: 1, b=held))
        task = asyncio.create_task(dag.run_async())
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    asyncio.run(main())


def test_a_nested_machine_that_waits_for_events_cannot_go_on(run: Any) -> None:
    inner = FSM("inner", initial_state="a", terminal_states=["b"]).add_state("a", lambda: 1)
    inner.add_state("b", lambda: 2).add_transition("a", "b", event="go")
    with pytest.raises(InvalidTransitionError, match="waits for an event"):
        run(machine(work=inner))


def test_a_machine_inside_of_itself_is_refused() -> None:
    fsm = counting(1)
    with pytest.raises(ValidationError, match="inside itself"):
        fsm.add_state("me", fsm)
    dag = DAG("dag").add_node("sub", fsm)
    with pytest.raises(ValidationError, match="inside itself"):
        fsm.add_state("dag", dag)


def test_what_is_wrong_inside_is_told_outside() -> None:
    inner = FSM("inner").add_state("a", lambda: 1)
    for outer in (DAG("outer").add_node("sub", inner), machine(sub=inner)):
        (problem,) = outer.validate()
        assert str(problem).startswith("in 'sub': 'inner' has no initial state")
        with pytest.raises(ValidationError, match="in 'sub'"):
            outer.run()
