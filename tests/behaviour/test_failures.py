"""Failures of nodes: strategies, handlers, and what the errors tell."""

from __future__ import annotations

import signal
import traceback
from typing import Any

import pytest

from fast_dag import DAG, Context, ExecutionError, FastDAGError, ValidationError
from tests.behaviour.support import BoomError, boom


def failing() -> DAG:
    """good, bad -> below, other."""
    dag = DAG("failing").add_node("good", lambda: "good").add_node("bad", boom)
    dag.add_node("below", lambda bad: bad).connect("bad", "below")
    return dag.add_node("other", lambda good: f"other {good}").connect("good", "other")


# fail_fast


@pytest.mark.process_mode
@pytest.mark.parametrize("options", [{}, {"error_strategy": "fail_fast"}], ids=str)
def test_failure_is_raised_with_its_facts(run: Any, options: Any) -> None:
    with pytest.raises(ExecutionError) as caught:
        run(failing(), **options)
    error = caught.value
    assert (error.node_name, error.attempts) == ("bad", 1)
    assert isinstance(error, FastDAGError)
    assert isinstance(error, RuntimeError)
    assert type(error.__cause__) is BoomError
    assert all(text in str(error) for text in ("'bad'", "'failing'", "BoomError", "no luck"))


def test_failure_carries_its_run(run: Any) -> None:
    with pytest.raises(ExecutionError) as caught:
        run(failing())
    ran = caught.value.run
    assert ran.status == "failed"
    assert ran.errors == {"bad": caught.value.__cause__}
    assert ran.statuses["below"] == "skipped"
    assert ran.context.metadata["execution_status"] == "failed"


@pytest.mark.same_process
def test_traceback_of_the_cause_starts_in_the_users_function(run: Any) -> None:
    with pytest.raises(ExecutionError) as caught:
        run(failing())
    first = traceback.extract_tb(caught.value.__cause__.__traceback__)[0]
    assert first.name == "boom"


@pytest.mark.same_process
def test_traceback_of_an_async_function_starts_there(run: Any) -> None:
    async def later():
        boom()

    with pytest.raises(ExecutionError) as caught:
        run(DAG("d").add_node("later", later))
    names = [frame.name for frame in traceback.extract_tb(caught.value.__cause__.__traceback__)]
    assert names == ["later", "boom"]


def test_fail_fast_starts_nothing_more(execute: Any) -> None:
    dag = failing().add_node("join", lambda other: other, type="any")
    dag.connect("other", "join").connect("below", "join")
    dag.nodes["good"].after(dag.nodes["bad"])
    ran = execute(dag)
    assert ran.statuses["bad"] == "failed"
    assert {ran.statuses[name] for name in ("good", "other", "join")} <= {"skipped", "not_run"}
    assert ran.results == {}


def test_sequential_fail_fast_keeps_what_was_there() -> None:
    ran = failing().execute()
    assert ran.results == {"good": "good"}
    assert ran.statuses == {
        "good": "completed",
        "bad": "failed",
        "below": "skipped",
        "other": "not_run",
    }


def test_execute_returns_a_failed_run(execute: Any) -> None:
    ran = execute(failing())
    assert ran.status == "failed"
    assert isinstance(ran.exception(), ExecutionError)
    with pytest.raises(ExecutionError) as caught:
        ran.raise_for_error()
    assert caught.value is ran.exception()
    assert caught.value.run is ran


def test_fail_fast_leaves_no_list_of_errors(execute: Any) -> None:
    assert "errors" not in execute(failing()).context.metadata


# continue


def test_continue_runs_all_that_does_not_depend_on_the_failure(execute: Any) -> None:
    ran = execute(failing(), error_strategy="continue")
    assert ran.statuses == {
        "good": "completed",
        "bad": "failed",
        "below": "skipped",
        "other": "completed",
    }
    assert (ran.status, ran.value) == ("completed_with_errors", "other good")
    assert list(ran.errors) == ["bad"]
    assert type(ran.errors["bad"]) is BoomError


def test_continue_returns_as_usual(run: Any) -> None:
    assert run(failing(), error_strategy="continue") == "other good"


@pytest.mark.process_mode
def test_continue_notes_failures_as_plain_data(execute: Any) -> None:
    context = Context()
    execute(failing(), error_strategy="continue", context=context)
    (told,) = context.metadata["errors"]
    assert set(told) == {"node", "error", "type", "timestamp"}
    assert (told["node"], told["error"], told["type"]) == ("bad", "no luck", "BoomError")
    assert isinstance(told["timestamp"], float)


def test_continue_appends_to_a_list_that_is_there(execute: Any) -> None:
    context = Context(metadata={"errors": ["mine"]})
    execute(failing(), error_strategy="continue", context=context)
    assert context.metadata["errors"][0] == "mine"
    assert len(context.metadata["errors"]) == 2


def test_continue_collects_several_failures(execute: Any) -> None:
    dag = failing().add_node("worse", boom)
    ran = execute(dag, error_strategy="continue")
    assert set(ran.errors) == {"bad", "worse"}
    assert {each["node"] for each in ran.context.metadata["errors"]} == {"bad", "worse"}


def test_raise_for_error_after_continue_names_one_and_notes_the_others(execute: Any) -> None:
    ran = execute(failing().add_node("worse", boom), error_strategy="continue")
    with pytest.raises(ExecutionError) as caught:
        ran.raise_for_error()
    (other,) = {"bad", "worse"} - {caught.value.node_name}
    assert any(f"'{other}' failed too" in note for note in caught.value.__notes__)


def test_error_names_some_of_very_many_failures(execute: Any) -> None:
    dag = DAG("demo")
    for number in range(50):
        dag.add_node(f"n{number}", boom)
    ran = execute(dag, error_strategy="continue")
    with pytest.raises(ExecutionError) as caught:
        ran.raise_for_error()
    assert len(ran.errors) == 50
    *notes, last = caught.value.__notes__
    assert sum("failed too" in note for note in notes) == 20
    assert last == "29 more failed too: see `run.errors`"


# error_handler


class CriticalError(Exception):
    pass


@pytest.mark.process_mode
def test_handler_gets_name_original_error_and_context(execute: Any) -> None:
    asked: list[Any] = []
    context = Context()

    def handler(node_name, error, given):
        asked.append((node_name, type(error), str(error), given is context))
        return "continue"

    ran = execute(failing(), error_handler=handler, context=context)
    assert asked == [("bad", BoomError, "no luck", True)]
    assert ran.status == "completed_with_errors"
    assert ran.value == "other good"


def test_handler_replaces_the_list_of_errors(execute: Any) -> None:
    ran = execute(failing(), error_handler=lambda *asked: "continue")
    assert "errors" not in ran.context.metadata
    assert list(ran.errors) == ["bad"]


@pytest.mark.parametrize("strategy", ["fail_fast", "continue"])
def test_handler_decides_alone(execute: Any, strategy: str) -> None:
    stopped = execute(failing(), error_handler=lambda *asked: "stop", error_strategy=strategy)
    assert stopped.status == "failed"
    went_on = execute(failing(), error_handler=lambda *asked: "continue", error_strategy=strategy)
    assert went_on.status == "completed_with_errors"


def test_handler_that_stops_makes_run_raise(run: Any) -> None:
    with pytest.raises(ExecutionError, match="no luck") as caught:
        run(failing(), error_handler=lambda *asked: "stop")
    assert caught.value.node_name == "bad"


def test_handler_may_decide_by_the_error(execute: Any) -> None:
    def handler(node_name, error, context):
        return "stop" if isinstance(error, BoomError) else "continue"

    dag = DAG("d").add_node("zero", lambda: 1 / 0).add_node("end", lambda: "end")
    assert execute(dag, error_handler=handler).value == "end"
    assert execute(failing(), error_handler=handler).status == "failed"


def test_handler_is_asked_once_for_each_failed_node(execute: Any) -> None:
    asked: list[str] = []

    def handler(node_name, error, context):
        asked.append(node_name)
        return "continue"

    execute(failing().add_node("worse", boom), error_handler=handler)
    assert sorted(asked) == ["bad", "worse"]


def test_async_handler_is_refused_before_anything_runs(execute: Any) -> None:
    async def handler(node_name, error, context):
        return "continue"

    with pytest.raises(ValidationError, match="error_handler is a sync function"):
        execute(failing(), error_handler=handler)


class Unlike:
    """It can be compared with nothing."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("of several elements")

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "unlike"


@pytest.mark.parametrize("answer", [None, "go on", True, 3, Unlike()], ids=repr)
def test_handler_that_answers_nonsense_is_told_so(run: Any, answer: Any) -> None:
    with pytest.raises(ExecutionError) as caught:
        run(failing(), error_handler=lambda *asked: answer)
    told = str(caught.value) + "".join(getattr(caught.value, "__notes__", ()))
    assert repr(answer) in told
    assert "'stop' or 'continue'" in told
    assert caught.value.node_name == "bad"


def test_handler_that_raises_is_told_of(run: Any) -> None:
    def handler(node_name, error, context):
        raise ValueError("in the handler")

    with pytest.raises(ExecutionError) as caught:
        run(failing(), error_handler=handler)
    told = str(caught.value) + "".join(getattr(caught.value, "__notes__", ()))
    assert "in the handler" in told
    assert "no luck" in told


def test_handler_is_not_asked_without_a_failure(execute: Any) -> None:
    def handler(*asked):
        raise AssertionError("asked")

    assert execute(DAG("d").add_node("a", lambda: 1), error_handler=handler).status == "completed"


# Failures of all kinds.


class SilentError(Exception):
    def __str__(self) -> str:
        raise ValueError("no message")


class UnprintableError(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


async def unprintable() -> None:
    raise UnprintableError


async def fine() -> str:
    return "fine"


def test_error_of_an_async_node_that_does_not_print_stays_itself(execute: Any) -> None:
    before = signal.getsignal(signal.SIGINT)
    run = execute(DAG("d").add_node("a", unprintable))
    assert type(run.errors["a"]) is UnprintableError
    assert signal.getsignal(signal.SIGINT) is before
    assert execute(DAG("d").add_node("a", fine)).value == "fine"


class Value:
    shown = 0

    def __repr__(self) -> str:
        Value.shown += 1
        return "value"


async def make_value() -> Value:
    return Value()


def test_result_of_an_async_node_is_not_formatted_by_a_run(execute: Any) -> None:
    Value.shown = 0
    assert type(execute(DAG("d").add_node("a", make_value)).value) is Value
    assert Value.shown == 0


def raising(error: BaseException) -> DAG:
    def fail():
        raise error

    return DAG("d").add_node("a", fail).add_node("b", lambda a: a).connect("a", "b")


@pytest.mark.parametrize(
    "error",
    [
        StopIteration(3),
        StopAsyncIteration(),
        KeyError("key"),
        AttributeError("attribute"),
        TypeError("type"),
        RuntimeError("generator raised StopIteration"),
        RecursionError("deep"),
        MemoryError(),
        OSError(2, "no file"),
        TimeoutError("slow"),
        AssertionError(),
        ImportError("module"),
        ExceptionGroup("several", [ValueError(1), KeyError(2)]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_failure_of_any_kind_is_the_nodes(run: Any, error: Exception) -> None:
    with pytest.raises(ExecutionError) as caught:
        run(raising(error))
    assert caught.value.node_name == "a"
    assert type(caught.value) is ExecutionError
    assert type(caught.value.__cause__) is type(error)
    assert str(caught.value.__cause__) == str(error)


@pytest.mark.parametrize("error", [StopIteration(3), StopAsyncIteration()], ids=repr)
def test_stop_iteration_of_an_async_node_is_a_failure(run: Any, error: Exception) -> None:
    async def fail():
        raise error

    with pytest.raises(ExecutionError) as caught:
        run(DAG("d").add_node("a", fail))
    assert caught.value.node_name == "a"


@pytest.mark.same_process
def test_message_that_cannot_be_shown_does_no_harm(execute: Any) -> None:
    ran = execute(raising(SilentError()), error_strategy="continue")
    assert type(ran.errors["a"]) is SilentError
    assert ran.context.metadata["errors"][0]["type"] == "SilentError"
    assert "SilentError" in str(ran.exception())


def test_key_error_of_a_function_is_not_taken_for_a_missing_result(run: Any) -> None:
    dag = DAG("d").add_node("a", lambda: {}).add_node("b", lambda a: a["a"]).connect("a", "b")
    with pytest.raises(ExecutionError) as caught:
        run(dag)
    assert type(caught.value.__cause__) is KeyError
    assert caught.value.__cause__.args == ("a",)


def test_wrong_arguments_for_a_function_are_its_failure(run: Any) -> None:
    def picky(*values):
        (one,) = values
        return one

    dag = DAG("d").add_node("a", lambda: 1).add_node("b", lambda: 2).add_node("t", picky)
    dag.connect("a", "t").connect("b", "t")
    with pytest.raises(ExecutionError) as caught:
        run(dag)
    assert caught.value.node_name == "t"
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit], ids=lambda e: e.__name__)
def test_interruption_of_a_node_ends_a_sequential_run(error: Any) -> None:
    seen: list[str] = []
    dag = DAG("d").add_node("a", lambda: (_ for _ in ()).throw(error()))
    dag.add_node("b", lambda: seen.append("b"))
    context = Context()
    with pytest.raises(error):
        dag.execute(context=context, error_strategy="continue")
    assert seen == []
    assert context.metadata["execution_status"] == "cancelled"
    assert DAG("d").add_node("a", lambda: 1).run(context=context) == 1


@pytest.mark.process_mode
def test_error_of_a_run_inside_of_a_node_is_its_cause(run: Any) -> None:
    def inner():
        return DAG("inner").add_node("deep", boom).run()

    with pytest.raises(ExecutionError) as caught:
        run(DAG("outer").add_node("a", inner))
    assert caught.value.node_name == "a"
    assert isinstance(caught.value.__cause__, ExecutionError)
    assert caught.value.__cause__.node_name == "deep"


def test_notes_of_the_users_error_are_seen(run: Any) -> None:
    def fail():
        error = ValueError("bad row")
        error.add_note("row 17")
        raise error

    with pytest.raises(ExecutionError) as caught:
        run(DAG("d").add_node("a", fail))
    assert "row 17" in "".join(caught.value.__cause__.__notes__)


def test_same_error_object_raised_by_two_nodes_is_two_failures(execute: Any) -> None:
    dag = raising(BoomError("shared"))
    dag.add_node("c", dag.nodes["a"].func)
    ran = execute(dag, error_strategy="continue")
    assert set(ran.errors) == {"a", "c"}


@pytest.mark.process_mode
def test_failed_attempts_are_counted(run: Any) -> None:
    with pytest.raises(ExecutionError, match="3 attempts") as caught:
        run(DAG("d").add_node("a", boom, retry=2, retry_delay=0))
    assert caught.value.attempts == 3


@pytest.mark.same_process
@pytest.mark.parametrize("hooks", [{}, {"on_error": lambda *told: None}], ids=["bare", "hooks"])
def test_earlier_failure_is_not_the_context_of_a_later_one(execute: Any, hooks: Any) -> None:
    dag = DAG("d").add_node("a", boom, retry=1, retry_delay=0).add_node("b", boom)
    dag.set_default_hooks(**hooks)
    ran = execute(dag, error_strategy="continue")
    assert [error.__context__ for error in ran.errors.values()] == [None, None]


@pytest.mark.same_process
def test_error_that_is_found_after_retries_has_no_context(execute: Any) -> None:
    dag = DAG("d")
    dag.condition(name="a", retry=1)(lambda: None)
    assert execute(dag).errors["a"].__context__ is None
