"""The hook that surrounds a node's call, sync and async, in every way to run."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from concurrent.futures import Future
from typing import Any

import pytest

from fast_dag import DAG, FSM, Context, ExecutionError, FSMReturn, InvalidNodeError
from fast_dag import TimeoutError as Late
from tests.patience import LONG, timeouts
from tests.ways import AT_ONCE, EVERYWHERE, EXECUTE, MACHINES, OWN

STYLES = ("sync", "async")


class Story(list[Any]):
    """What happened, in its order."""


def surround(style: str, story: Story, change: Any = None) -> Any:
    """A hook that notes what comes, and returns what `change` makes of the value."""

    def came(node: Any, inputs: Any) -> None:
        story.append(("begin", node.name, dict(inputs)))

    def ended(value: Any) -> Any:
        story.append(("end", value))
        return value if change is None else change(value)

    def sync_hook(node: Any, inputs: Any, context: Context, call: Any) -> Any:
        came(node, inputs)
        try:
            value = call()
        except BaseException as error:
            story.append(("raised", type(error).__name__))
            raise
        return ended(value)

    async def async_hook(node: Any, inputs: Any, context: Context, call: Any) -> Any:
        came(node, inputs)
        try:
            value = await call()
        except BaseException as error:
            story.append(("raised", type(error).__name__))
            raise
        return ended(value)

    return sync_hook if style == "sync" else async_hook


def double(x: int) -> int:
    return 2 * x


async def double_later(x: int) -> int:
    await asyncio.sleep(0)
    return 2 * x


def fail(x: int) -> int:
    raise ValueError("no luck")


def of(func: Any, hook: Any, **options: Any) -> DAG:
    dag = DAG("d").add_node("n", func, **options).add_node("after", lambda n: [n])
    dag.set_node_hooks("n", around=hook)
    return dag.connect("n", "after")


everywhere = pytest.mark.parametrize("way", EVERYWHERE)
styles = pytest.mark.parametrize("style", STYLES)


@pytest.mark.one_in(3)
@everywhere
@styles
@pytest.mark.parametrize("func", [double, double_later])
def test_hook_surrounds_the_call_and_gives_the_result(way: str, style: str, func: Any) -> None:
    story = Story()
    run = EXECUTE[way](of(func, surround(style, story, lambda value: value + 1)), x=5)
    assert run.results == {"n": 11, "after": [11]}
    assert story == [("begin", "n", {"x": 5}), ("end", 10)]


@everywhere
@styles
def test_none_is_a_result(way: str, style: str) -> None:
    run = EXECUTE[way](of(double, surround(style, Story(), lambda value: None)), x=5)
    assert run.results == {"n": None, "after": [None]}


@everywhere
@styles
def test_hook_sees_the_failure_after_all_attempts(way: str, style: str) -> None:
    story = Story()
    run = EXECUTE[way](of(fail, surround(style, story), retry=2, retry_delay=0), x=5)
    assert story == [("begin", "n", {"x": 5}), ("raised", "ValueError")]
    error = run.exception()
    assert error is not None
    assert error.attempts == 3
    assert "(in its" not in str(error)
    assert isinstance(error.__cause__, ValueError)


@pytest.mark.parametrize("way", OWN)
@styles
def test_hook_may_give_a_result_in_place_of_a_failure(way: str, style: str) -> None:
    def sync_hook(node, inputs, context, call):
        try:
            return call()
        except ValueError:
            return "instead"

    async def async_hook(node, inputs, context, call):
        try:
            return await call()
        except ValueError:
            return "instead"

    hook = sync_hook if style == "sync" else async_hook
    assert EXECUTE[way](of(fail, hook), x=1)["after"] == ["instead"]


@pytest.mark.parametrize("way", OWN)
@styles
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_the_hook_raises_names_it_and_is_not_tried_again(
    way: str, style: str, when: str
) -> None:
    calls: list[int] = []

    def sync_hook(node, inputs, context, call):
        if when == "after":
            call()
        raise KeyError(when)

    async def async_hook(node, inputs, context, call):
        if when == "after":
            await call()
        raise KeyError(when)

    dag = of(lambda x: calls.append(x), sync_hook if style == "sync" else async_hook, retry=3)
    seen: list[Any] = []
    dag.set_node_hooks(
        "n",
        on_error=lambda node, inputs, error: seen.append(("on_error", type(error))),
        cleanup=lambda node: seen.append("cleanup"),
    )
    run = EXECUTE[way](dag, x=1)
    assert len(calls) == (when == "after")
    assert seen == [("on_error", KeyError), "cleanup"]
    assert "(in its around hook)" in str(run.exception())


@pytest.mark.parametrize("way", OWN)
@styles
def test_without_a_call_nothing_inside_happens(way: str, style: str) -> None:
    def sync_hook(node, inputs, context, call):
        return "own"

    async def async_hook(node, inputs, context, call):
        return "own"

    seen: list[str] = []
    dag = of(lambda x: seen.append("called"), sync_hook if style == "sync" else async_hook)
    dag.set_node_hooks("n", post_execute=lambda *args: seen.append("post"))
    dag.set_node_hooks("n", cleanup=lambda node: seen.append("cleanup"))
    assert EXECUTE[way](dag, x=1).value == ["own"]
    assert seen == ["cleanup"]


@pytest.mark.parametrize("way", OWN)
@styles
def test_order_of_everything_around_a_call(way: str, style: str) -> None:
    seen: list[str] = []

    def function(x):
        seen.append("function")
        if seen.count("function") == 1:
            raise ValueError
        return x

    def sync_hook(node, inputs, context, call):
        seen.append("around")
        try:
            return call()
        finally:
            seen.append("end of around")

    async def async_hook(node, inputs, context, call):
        seen.append("around")
        try:
            return await call()
        finally:
            seen.append("end of around")

    dag = of(function, sync_hook if style == "sync" else async_hook, retry=1, retry_delay=0)
    for phase in ("pre_execute", "post_execute", "on_retry", "cleanup"):
        dag.set_node_hooks("n", **{phase: lambda *args, phase=phase: seen.append(phase)})
    EXECUTE[way](dag, x=1)
    assert seen == [
        "pre_execute",
        "around",
        "function",
        "on_retry",
        "function",
        "post_execute",
        "end of around",
        "cleanup",
    ]


@pytest.mark.parametrize("way", OWN)
@styles
def test_hits_of_a_cache_pass_through_and_what_it_makes_is_not_stored(way: str, style: str) -> None:
    story, calls = Story(), []
    dag = DAG("d")
    dag.cached_node(lambda x: calls.append(x) or x, name="n")
    dag.set_node_hooks("n", around=surround(style, story, lambda value: value + 1))
    assert [EXECUTE[way](dag, x=1).value for _ in range(3)] == [2, 2, 2]
    assert calls == [1]
    assert [each for each in story if each[0] == "end"] == [("end", 1)] * 3
    assert dag.context.metrics["cache_hits"] == 1


@pytest.mark.parametrize("way", OWN)
@styles
def test_call_can_be_called_once(way: str, style: str) -> None:
    def sync_hook(node, inputs, context, call):
        call()
        return call()

    async def async_hook(node, inputs, context, call):
        await call()
        return await call()

    run = EXECUTE[way](of(double, sync_hook if style == "sync" else async_hook), x=1)
    assert "an around hook calls call() once" in str(run.errors["n"])


@pytest.mark.parametrize("way", OWN)
def test_async_hook_that_does_not_await_the_call_fails_the_node(way: str) -> None:
    async def hook(node, inputs, context, call):
        return call()

    run = EXECUTE[way](of(double, hook), x=1)
    assert "says `return await call()`" in str(run.errors["n"])


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


@pytest.mark.parametrize("way", OWN)
@styles
@pytest.mark.parametrize("is_async", [False, True])
def test_contextvars_that_it_sets_are_seen_by_all_attempts(
    way: str, style: str, is_async: bool
) -> None:
    seen: list[str] = []

    def function(x):
        seen.append(VARIABLE.get())
        if len(seen) < 3:
            raise ValueError

    async def function_later(x):
        function(x)

    def sync_hook(node, inputs, context, call):
        VARIABLE.set("set")
        return call()

    async def async_hook(node, inputs, context, call):
        VARIABLE.set("set")
        return await call()

    func = function_later if is_async else function
    dag = of(func, sync_hook if style == "sync" else async_hook, retry=2, retry_delay=0)
    dag.add_node("beside", lambda: VARIABLE.get())
    run = EXECUTE[way](dag, x=1)
    assert seen == ["set"] * 3
    assert run["beside"] == "unset"
    assert VARIABLE.get() == "unset"


@pytest.mark.parametrize("way", OWN)
def test_attempts_stay_in_the_thread_of_a_sync_hook(way: str) -> None:
    threads: list[int] = []

    def function(x):
        threads.append(threading.get_ident())
        if len(threads) < 3:
            raise ValueError

    def hook(node, inputs, context, call):
        threads.append(threading.get_ident())
        return call()

    EXECUTE[way](of(function, hook, retry=1, retry_delay=0), x=1)
    assert len(threads) == 3
    assert len(set(threads)) == 1


@everywhere
@styles
def test_it_surrounds_a_nested_workflow(way: str, style: str) -> None:
    inner = DAG("inner").add_node("a", double).add_node("b", double_later).connect("a", "b")
    story = Story()
    run = EXECUTE[way](of(inner, surround(style, story, str)), x=3)
    assert (run["after"], run["n.a"]) == (["12"], 6)
    assert story == [("begin", "n", {"x": 3}), ("end", 12)]


@pytest.mark.parametrize("way", MACHINES)
@styles
def test_it_surrounds_each_visit_of_a_state(way: str, style: str) -> None:
    fsm = FSM("m", initial_state="count", terminal_states=["end"])
    fsm.add_state("count", lambda n: FSMReturn("count" if n > 1 else "end", n - 1))
    fsm.add_state("end", lambda n: n)
    story = Story()
    fsm.set_node_hooks("count", around=surround(style, story))
    run = EXECUTE[way](fsm, n=2)
    assert run.state_history == ["count", "count", "end"]  # type: ignore[attr-defined]
    assert story == [
        ("begin", "count", {"n": 2}),
        ("end", FSMReturn("count", 1)),
        ("begin", "count", {"n": 1}),
        ("end", FSMReturn("end", 0)),
    ]


@pytest.mark.parametrize("way", OWN)
def test_own_hook_replaces_the_default_one(way: str) -> None:
    own, default = Story(), Story()
    dag = of(double, surround("sync", own))
    dag.set_default_hooks(around=surround("async", default))
    EXECUTE[way](dag, x=1)
    assert [each[1] for each in own if each[0] == "begin"] == ["n"]
    assert [each[1] for each in default if each[0] == "begin"] == ["after"]
    dag.set_node_hooks("n", around=None)
    EXECUTE[way](dag, x=1)
    assert [each[1] for each in default if each[0] == "begin"] == ["after", "n", "after"]


@pytest.mark.parametrize("way", AT_ONCE)
@styles
def test_many_nodes_at_once_do_not_starve(way: str, style: str) -> None:
    dag = DAG("d")
    for number in range(60):
        inner = DAG("inner").add_node("a", double).add_node("b", double_later).connect("a", "b")
        dag.add_node(f"n{number}", inner if number % 3 else double_later)
    dag.set_default_hooks(around=surround(style, Story()))
    run = EXECUTE[way](dag, x=1, max_workers=3)
    assert run.status == "completed"


@pytest.mark.parametrize("way", ["sequential", "parallel", "async", "run_async"])
@styles
def test_late_attempt_is_seen_as_a_failure(way: str, style: str) -> None:
    gate = threading.Event()

    async def slow(x):
        await asyncio.Event().wait()

    def told(func):
        """The story of the first attempt that had time to begin."""
        for timeout in timeouts(0.05):
            story = Story()
            run = EXECUTE[way](of(func, surround(style, story), timeout=timeout), x=1)
            assert isinstance(run.errors["n"], Late)
            if story:
                break
        return story

    assert told(slow)[-1] == ("raised", "TimeoutError")
    story = told(lambda x: gate.wait(LONG))
    if style == "async":  # a sync one is abandoned along with its thread
        assert story[-1] == ("raised", "TimeoutError")
    gate.set()


@styles
@pytest.mark.parametrize("swallows", [False, True])
def test_swallowing_a_cancellation_changes_nothing(style: str, swallows: bool) -> None:
    story = Story()

    async def slow(x):
        running.set()
        await asyncio.sleep(60)

    def sync_hook(node, inputs, context, call):
        try:
            return call()
        except BaseException as error:
            story.append(type(error).__name__)
            if not swallows:
                raise
        finally:
            unwound.set_result(None)

    async def async_hook(node, inputs, context, call):
        try:
            return await call()
        except BaseException as error:
            story.append(type(error).__name__)
            if not swallows:
                raise
        finally:
            unwound.set_result(None)

    dag = of(slow, sync_hook if style == "sync" else async_hook)
    dag.set_node_hooks("n", cleanup=lambda node: story.append("cleanup"))
    unwound: Future[None] = Future()

    async def main() -> None:
        nonlocal running
        running = asyncio.Event()
        task = asyncio.ensure_future(dag.run_async(x=1))
        await running.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    running: Any = None
    asyncio.run(main())
    unwound.result(LONG)
    assert sorted(story) == ["CancelledError", "cleanup"]
    assert dag.last_run is not None
    assert dag.last_run.status == "cancelled"


@pytest.mark.parametrize("mode", ["sequential", "parallel", "async"])
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
@styles
def test_swallowing_what_ends_the_program_changes_nothing(
    mode: Any, error: Any, style: str
) -> None:
    def sync_hook(node, inputs, context, call):
        try:
            return call()
        except BaseException:
            return "swallowed"

    async def async_hook(node, inputs, context, call):
        try:
            return await call()
        except BaseException:
            return "swallowed"

    def function(x):
        raise error

    dag = of(function, sync_hook if style == "sync" else async_hook)
    with pytest.raises(error):
        dag.run(x=1, mode=mode)


@pytest.mark.parametrize("way", ["run_async", "async", "parallel"])
def test_hook_that_gives_up_waiting_has_its_result(way: str) -> None:
    async def slow(x):
        await asyncio.sleep(60)

    async def hook(node, inputs, context, call):
        try:
            return await asyncio.wait_for(call(), 0.05)
        except TimeoutError:
            return "gave up"

    began = time.monotonic()
    assert EXECUTE[way](of(slow, hook), x=1)["after"] == ["gave up"]
    assert time.monotonic() - began < 30


def test_hook_must_take_all_that_it_is_offered() -> None:
    dag = DAG("d").add_node("n", double)
    with pytest.raises(InvalidNodeError, match=r"must take all of \(node, inputs, context, call\)"):
        dag.set_node_hooks("n", around=lambda node, inputs: None)
    dag.set_node_hooks("n", around=lambda *args: args[-1]())
    assert dag.run(x=1) == 2


def test_run_raises_what_the_hook_raised() -> None:
    def hook(node, inputs, context, call):
        try:
            return call()
        except ValueError as error:
            raise LookupError("translated") from error

    with pytest.raises(ExecutionError, match="LookupError: translated") as caught:
        of(fail, hook).run(x=1)
    assert isinstance(caught.value.__cause__, LookupError)
    assert isinstance(caught.value.__cause__.__cause__, ValueError)
