"""Values that are let go: keep="outputs", forget(), remember=False."""

from __future__ import annotations

import copy
import gc
import itertools
import pickle
import weakref
from typing import Any

import pytest

from fast_dag import DAG, FSM, ConditionalReturn, Context, FSMReturn, ValidationError
from fast_dag.errors import MissingResultError
from tests.concurrency.support import wait_until


class Value:
    """Something that tells whether it is still held."""

    def __init__(self, name: str) -> None:
        self.name = name


class Held(dict[str, "weakref.ref[Value]"]):
    def make(self, name: str) -> Value:
        value = Value(name)
        self[name] = weakref.ref(value)
        return value

    def names(self) -> list[str]:
        gc.collect()
        return sorted(name for name, value in self.items() if value() is not None)

    def only(self, *names: str) -> bool:
        """Whether these alone are held, once all threads are back from their calls."""
        wait_until(lambda: self.names() == list(names))
        return True


@pytest.fixture
def held() -> Held:
    return Held()


def chain(held: Held, *names: str) -> DAG:
    """Each takes the value of the one before; what there is at the end is told by `last`."""
    dag = DAG("chain").add_node(names[0], lambda: held.make(names[0]))
    for before, name in itertools.pairwise(names):
        dag.add_node(name, lambda value, name=name: held.make(name), inputs=["value", "name"])
        dag.connect(before, name, input="value")
    return dag


@pytest.mark.same_process
def test_results_are_dropped_after_their_last_use(execute: Any, held: Held) -> None:
    dag = chain(held, "a", "b", "c", "d")
    seen: list[list[str]] = []
    dag.add_node("look", lambda d: seen.append(held.names())).connect("d", "look")
    run = execute(dag, keep="outputs")
    assert [name for name in seen[0] if name in ("a", "b")] == []
    assert run.results == {"look": None}
    assert held.only()
    assert set(run.statuses.values()) == {"completed"}
    with pytest.raises(MissingResultError, match=r"'a'.*dropped.*keep='outputs'") as caught:
        dag["a"]
    assert caught.value.reason == "dropped"
    with pytest.raises(MissingResultError, match="dropped"):
        pickle.loads(pickle.dumps(run))["a"]


@pytest.mark.same_process
def test_sinks_and_outputs_stay(execute: Any, held: Held) -> None:
    dag = chain(held, "a", "b", "c").add_node("alone", lambda: 1)
    run = execute(dag, keep="outputs", outputs=["a", "c", "alone"])
    assert held.only("a", "c")
    assert sorted(run.results) == ["a", "alone", "c"]


@pytest.mark.same_process
def test_all_stays_where_nothing_else_is_asked_for(execute: Any, held: Held) -> None:
    run = execute(chain(held, "a", "b", "c"))
    assert sorted(run.results) == ["a", "b", "c"]
    assert held.only("a", "b", "c")


@pytest.mark.same_process
def test_value_stays_while_a_consumer_has_not_ended(execute: Any, held: Held) -> None:
    dag = chain(held, "a", "b")
    seen: dict[str, bool] = {}
    dag.set_node_hooks("b", cleanup=lambda node, context: seen.update(there="a" in context))
    dag.add_node("late", lambda a, b: "a" in held.names()).connect("a", "late")
    assert execute(dag.connect("b", "late"), keep="outputs").value is True
    assert seen == {"there": True}
    assert held.only()


@pytest.mark.same_process
def test_branches_are_consumers_of_what_a_decider_was_given(execute: Any, held: Held) -> None:
    dag = chain(held, "a").add_node("first", lambda a: True, type="condition")
    dag.add_node("second", lambda a: "x", type="select").connect("a", "first")
    dag.connect(dag.nodes["first"].on_true, "second")
    dag.add_node("other", lambda a: a).connect(dag.nodes["first"].on_false, "other")
    dag.add_node("use", lambda a: a.name).connect(dag.nodes["second"].branches["x"], "use")
    dag.add_node("end", lambda use: (use, held.names())).connect("use", "end")
    run = execute(dag, keep="outputs")
    assert run["end"] == ("a", [])
    assert run.statuses["other"] == "skipped"
    assert list(run.results) == ["end"]


@pytest.mark.same_process
def test_value_of_a_conditional_return_is_dropped(execute: Any, held: Held) -> None:
    dag = DAG("d").add_node(
        "check", lambda: ConditionalReturn(True, held.make("own")), type="condition"
    )
    dag.add_node("use", lambda own: own.name).connect(dag.nodes["check"].on_true, "use")
    dag.add_node("end", lambda use: held.names()).connect("use", "end")
    assert execute(dag, keep="outputs").value == []


@pytest.mark.same_process
def test_what_failed_nodes_would_take_stays_and_the_run_goes_on(execute: Any, held: Held) -> None:
    dag = chain(held, "a", "b", "c")
    broken = [True]

    def fail(a: Any, b: Any) -> Any:
        if broken:
            raise ConnectionError
        return a.name + b.name

    dag.add_node("fail", fail).connect("a", "fail").connect("b", "fail")
    dag.add_node("below", lambda fail, a: fail + a.name).connect("fail", "below")
    run = execute(dag.connect("a", "below"), keep="outputs", error_strategy="continue")
    assert sorted(run.results) == ["a", "b", "c"]
    assert held.only("a", "b", "c")
    broken.clear()
    again = execute(dag, resume=run, keep="outputs")
    assert (again["below"], sorted(again.results)) == ("aba", ["below", "c"])
    assert sorted(run.results) == ["a", "b", "c"]  # of the earlier run


@pytest.mark.same_process
def test_dropped_values_are_computed_again_where_a_later_run_needs_them(
    execute: Any, held: Held
) -> None:
    dag = chain(held, "a", "b", "c")
    run = execute(dag, keep="outputs")
    dag.add_node("more", lambda b: b.name).connect("b", "more")
    again = execute(dag, resume=run)
    assert again["more"] == "b"
    assert sorted(again.timings) == ["a", "b", "c", "more"]


@pytest.mark.same_process
def test_nested_workflows_inherit_it(execute: Any, held: Held) -> None:
    inner = chain(held, "i", "j", "k")
    inner.add_node("begin", lambda x: held.make("begin")).connect("begin", "i", input=False)
    dag = chain(held, "a").add_node("sub", inner).connect("a", "sub", input="x")
    dag.add_node("end", lambda sub: [n for n in held.names() if n in "aij"]).connect("sub", "end")
    run = execute(dag, keep="outputs")
    assert run.value == []
    assert held.only()
    with pytest.raises(MissingResultError, match="dropped"):
        run["sub.k"]


@pytest.mark.same_process
def test_what_came_with_a_context_stays(run_from: Any, held: Held) -> None:
    dag = chain(held, "a", "b", "c")
    context = Context(results={"a": held.make("a")})
    run_from(dag, "b", context=context, keep="outputs")
    assert sorted(context.results) == ["a", "c"]
    assert held.only("a", "c")


@pytest.mark.same_process
def test_partial_run_names_what_was_dropped(execute: Any, run_from: Any, held: Held) -> None:
    dag = chain(held, "a", "b", "c")
    execute(dag, keep="outputs")
    with pytest.raises(ValidationError, match="the result of 'a'"):
        run_from(dag, "b")


@pytest.mark.same_process
def test_finalizers_may_look_at_the_run(execute: Any) -> None:
    seen: list[Any] = []

    class Nosy:
        def __del__(self) -> None:
            seen.append(dag.get("end"))

    dag = DAG("d").add_node("a", Nosy).add_node("b", lambda a: 1).connect("a", "b")
    dag.add_node("end", lambda b: 2).connect("b", "end")
    assert execute(dag, keep="outputs").value == 2
    gc.collect()
    assert len(seen) == 1


@pytest.mark.same_process
def test_thousands_of_nodes_hold_few_values(execute: Any) -> None:
    alive = weakref.WeakSet[Value]()
    most = [0]

    def step(value: Any) -> Value:
        made = Value("")
        alive.add(made)
        most[0] = max(most[0], len(alive))
        return made

    dag = DAG("d").add_node("n0", lambda: None)
    for number in range(1, 3_000):
        dag.add_node(f"n{number}", step).connect(f"n{number - 1}", f"n{number}")
    execute(dag, keep="outputs")
    assert most[0] < 10


# forget() and remember=False


def workflows(**options: Any) -> list[Any]:
    fsm = FSM("m", initial_state="one", **options)
    fsm.add_terminal_state("one", lambda: FSMReturn(value=[1]))
    return [DAG("d", **options).add_node("one", lambda: [1]), fsm]


@pytest.mark.parametrize("which", [0, 1], ids=["DAG", "FSM"])
def test_forget_lets_the_last_run_go(run: Any, which: int) -> None:
    workflow = workflows()[which]
    run(workflow)
    gone = weakref.ref(workflow.last_run._execution)
    workflow.forget()
    gc.collect()
    wait_until(lambda: gone() is None)  # a shared thread may still be on its way back from its call
    assert (workflow.last_run, workflow.results, workflow.get("one")) == (None, {}, None)
    with pytest.raises(MissingResultError, match=r"forget\(\) has let its last run go"):
        workflow["one"]
    run(workflow)
    assert workflow["one"] == [1]


@pytest.mark.parametrize("which", [0, 1], ids=["DAG", "FSM"])
def test_workflow_that_does_not_remember_keeps_no_run(execute: Any, which: int) -> None:
    workflow = workflows(remember=False)[which]
    for each in (workflow, workflow.clone(), copy.deepcopy(workflow)):
        assert execute(each)["one"] == [1]
        assert each.last_run is None
        with pytest.raises(MissingResultError, match="remember=False"):
            each["one"]


@pytest.mark.same_process
def test_run_in_progress_is_seen_from_inside(run: Any) -> None:
    dag = DAG("d", remember=False).add_node("one", lambda: 1)
    dag.add_node("two", lambda one: (dag["one"], dag.last_run.status)).connect("one", "two")
    assert run(dag) == (1, "running")
    assert dag.last_run is None


def test_partial_run_without_a_memory_wants_a_run(execute: Any, run_from: Any) -> None:
    dag = DAG("d", remember=False).add_node("one", lambda: 1).add_node("two", lambda one: one + 1)
    ran = execute(dag.connect("one", "two"))
    with pytest.raises(ValidationError, match="pass run= or context="):
        run_from(dag, "two")
    assert run_from(dag, "two", run=ran) == 2
