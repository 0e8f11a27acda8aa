"""The phases of a node call, in every mode: which come, in which order, and what each may do."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any, NamedTuple

import pytest

from fast_dag import DAG, Context, ExecutionError, InvalidNodeError, Run, TimeoutError
from tests.concurrency.support import end_of, threads_of_runs, wait_for
from tests.patience import LONG, timeouts
from tests.ways import EXECUTE, OWN

Execute = Callable[..., Run]
PHASES = ("pre_execute", "post_execute", "on_error", "on_retry", "cleanup")


class Watched:
    """A node `watched` with hooks that write down what happens, and `below`, which does, too."""

    def __init__(self, phases: tuple[str, ...], *, is_async: bool = False, **options: Any) -> None:
        self.log: list[str] = []
        self.failures = 0
        self.dag = DAG("watched")
        self.held = threading.Event()
        self.let_go = threading.Event()
        self.let_go.set()
        cached = options.pop("cached", False)
        decorator = self.dag.cached_node if cached else self.dag.node

        def watched(x: int) -> int:
            self.log.append("attempt")
            if not self.let_go.is_set():
                self.held.set()
                self.let_go.wait(LONG)
            if self.failures:
                self.failures -= 1
                raise ValueError("not yet")
            return 2 * x

        def below(watched: int) -> int:
            self.log.append("below")
            return watched

        decorator(**options)(watched)
        self.dag.node(below)
        self.dag.connect("watched", "below")
        for phase in phases:
            self.dag.set_node_hooks("watched", **{phase: self.hook(phase, is_async)})

    def hook(self, phase: str, is_async: bool) -> Callable[..., Any]:
        def write(*offered: Any) -> None:
            self.log.append(phase)

        async def write_async(*offered: Any) -> None:
            await asyncio.sleep(0)
            self.log.append(phase)

        return write_async if is_async else write

    def execute_held(self, execute: Execute, **options: Any) -> Run:
        """Execute with an attempt that ends only after the run."""
        self.let_go.clear()
        before = threads_of_runs()
        try:
            return execute(self.dag, **options)
        finally:
            self.let_go.set()
            end_of(threads_of_runs() - before)


class Case(NamedTuple):
    """What a call meets, and the phases that it goes through if all hooks are there."""

    failures: int
    retry: int
    log: list[str]
    status: str


CASES = {
    "succeeds": Case(0, 1, ["pre_execute", "attempt", "post_execute", "cleanup"], "completed"),
    "succeeds later": Case(
        1,
        1,
        ["pre_execute", "attempt", "on_retry", "attempt", "post_execute", "cleanup"],
        "completed",
    ),
    "fails at last": Case(
        2, 1, ["pre_execute", "attempt", "on_retry", "attempt", "on_error", "cleanup"], "failed"
    ),
    "fails at once": Case(1, 0, ["pre_execute", "attempt", "on_error", "cleanup"], "failed"),
}
SETS_OF_HOOKS = [
    (),
    *((phase,) for phase in PHASES),
    ("pre_execute", "post_execute", "cleanup"),
    PHASES,
]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("cached", [False, True], ids=["uncached", "cached"])
def test_phases_come_in_order(execute: Execute, cached: bool, is_async: bool) -> None:
    for (name, case), phases in product(CASES.items(), SETS_OF_HOOKS):
        watched = Watched(
            phases, is_async=is_async, cached=cached, retry=case.retry, retry_delay=0.0
        )
        watched.failures = case.failures
        run = execute(watched.dag, x=4)
        wanted = [each for each in case.log if each == "attempt" or each in phases]
        if case.status == "completed":
            wanted.append("below")
        assert watched.log == wanted, (name, phases)
        assert run.status == case.status, (name, phases)
        assert run.value == (8 if case.status == "completed" else None)
        if cached and case.status == "completed":
            watched.log.clear()
            assert execute(watched.dag, x=4).value == 8
            hit = [p for p in ("pre_execute", "post_execute", "cleanup") if p in phases]
            assert watched.log == [*hit, "below"], (name, phases)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("mode", OWN)
def test_a_timed_out_attempt_goes_the_way_of_failures(mode: str, is_async: bool) -> None:
    for timeout in timeouts():
        watched = Watched(PHASES, is_async=is_async, timeout=timeout)
        run = watched.execute_held(EXECUTE[mode], x=4)
        if watched.held.is_set():
            break
    assert watched.log == ["pre_execute", "attempt", "on_error", "cleanup"]
    assert isinstance(run.errors["watched"], TimeoutError)


@pytest.mark.parametrize("mode", OWN)
def test_a_timed_out_attempt_is_retried(mode: str) -> None:
    # Of the attempts after the first one will be in time, however busy the machine is.
    watched = Watched(PHASES, timeout=0.2, retry=9, retry_delay=0.0)
    watched.let_go.clear()
    watched.dag.set_node_hooks("watched", on_retry=lambda node: watched.let_go.set())
    before = threads_of_runs()
    run = EXECUTE[mode](watched.dag, x=4)
    assert run.value == 8
    assert watched.log[0] == "pre_execute"
    assert watched.log.count("pre_execute") == 1
    assert watched.log[-4:] == ["attempt", "post_execute", "cleanup", "below"]
    assert run.metrics["retries"] > 0
    end_of(threads_of_runs() - before)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("mode", OWN)
def test_a_run_that_is_out_of_time_cleans_up(mode: str, is_async: bool) -> None:
    for timeout in timeouts():
        watched = Watched(PHASES, is_async=is_async)
        run = watched.execute_held(EXECUTE[mode], x=4, timeout=timeout)
        if watched.held.is_set():
            break
    assert run.status == "timed_out"
    assert watched.log == ["pre_execute", "attempt", "cleanup"]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_cancelled_run_cleans_up_and_tells_no_hook_of_an_error(is_async: bool) -> None:
    watched = Watched(PHASES, is_async=is_async)
    watched.let_go.clear()
    handled: list[Any] = []
    watched.dag.set_node_error_handler("watched", lambda *offered: handled.append(offered))
    before = threads_of_runs()

    async def main() -> None:
        task = asyncio.create_task(watched.dag.run_async(x=4))
        assert await asyncio.to_thread(watched.held.wait, LONG)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    watched.let_go.set()
    end_of(threads_of_runs() - before)
    assert watched.log == ["pre_execute", "attempt", "cleanup"]
    assert handled == []


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("mode", OWN)
def test_what_ends_programs_is_cleaned_up_after_and_nothing_else(
    mode: str, kind: type[BaseException]
) -> None:
    log: list[str] = []
    dag = DAG("ends")

    @dag.node(retry=3, retry_delay=0.0)
    def leaves() -> None:
        log.append("attempt")
        raise kind(3)

    for phase in PHASES:
        dag.set_default_hooks(**{phase: lambda *offered, phase=phase: log.append(phase)})
    dag.set_node_error_handler("leaves", lambda node: log.append("handler"))
    with pytest.raises(kind):
        EXECUTE[mode](dag)
    assert log == ["pre_execute", "attempt", "cleanup"]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize(
    ("node", "is_async"),
    [
        ("succeeds", False),
        ("fails", False),
        ("leaves", False),
        ("succeeds", True),
        ("fails", True),
    ],
)
@pytest.mark.parametrize("mode", OWN)
def test_a_cleanup_that_ends_programs_is_called_once(
    mode: str, is_async: bool, node: str, kind: type[BaseException]
) -> None:
    log: list[str] = []

    def leaves() -> None:
        raise kind(3)

    def cleanup(node: Any) -> None:
        log.append(node.name)
        raise kind(4)

    async def cleanup_async(node: Any) -> None:
        cleanup(node)

    dag = DAG("ends").add_node("succeeds", lambda: 1).add_node("fails", lambda: 1 // 0)
    dag.add_node("leaves", leaves)
    dag.set_default_hooks(cleanup=cleanup_async if is_async else cleanup)
    with pytest.raises(kind) as caught:
        EXECUTE[mode](dag, outputs=[node])
    assert caught.value.args == (4,)
    assert log == [node]


def test_a_cleanup_that_is_at_work_when_the_run_is_cancelled_is_let_end() -> None:
    log: list[str] = []

    async def main() -> None:
        at_work, may_end = asyncio.Event(), asyncio.Event()

        async def cleanup(node: Any) -> None:
            at_work.set()
            await may_end.wait()
            log.append(node.name)

        dag = DAG("cancelled").add_node("a", lambda: 1)
        dag.set_node_hooks("a", cleanup=cleanup)
        task = asyncio.create_task(dag.run_async())
        await at_work.wait()
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert dag["a"] == 1

    asyncio.run(main())
    assert log == ["a"]


@pytest.mark.needs("cloudpickle")
def test_phases_of_a_node_in_a_process_happen_at_home_but_the_attempt() -> None:
    import os

    dag = DAG("elsewhere")

    @dag.node
    def away(x: int) -> tuple[int, int]:
        return x, os.getpid()

    pids: dict[str, int] = {}
    for phase in ("pre_execute", "post_execute", "cleanup"):
        dag.set_default_hooks(
            **{phase: lambda node, *, phase=phase: pids.update({phase: os.getpid()})}
        )
    x, pid = dag.run(x=1, mode="process")
    assert x == 1
    assert pid != os.getpid()
    assert pids == dict.fromkeys(("pre_execute", "post_execute", "cleanup"), os.getpid())


@pytest.mark.needs("cloudpickle")
def test_retries_in_processes_have_their_phases() -> None:
    dag = DAG("elsewhere")

    @dag.node(retry=1, retry_delay=0.0)
    def away(x: int) -> int:
        if x < 0:
            raise ValueError("negative")
        return x

    log: list[Any] = []
    dag.set_node_hooks(
        "away",
        on_retry=lambda n, i, e, c, attempt, delay: log.append((type(e), attempt, delay)),
        on_error=lambda n, i, e: log.append(type(e)),
        cleanup=lambda n: log.append("cleanup"),
    )
    run = dag.execute(x=-1, mode="process")
    assert log == [(ValueError, 1, 0.0), ValueError, "cleanup"]
    assert run.metrics["retries"] == 1


# What hooks are given and may change.


def test_hooks_are_offered_the_node_its_inputs_and_the_context(execute: Execute) -> None:
    dag = DAG("offers")

    @dag.node(retry=1, retry_delay=0.0)
    def flaky(x: int, context: Context, scale: int = 3) -> int:
        if not context.metadata.setdefault("failed", []):
            context.metadata["failed"].append(1)
            raise KeyError("once")
        return x * scale

    seen: dict[str, tuple[Any, ...]] = {}
    for phase in ("pre_execute", "post_execute", "on_retry", "cleanup"):
        dag.set_node_hooks("flaky", **{phase: lambda *a, phase=phase: seen.update({phase: a})})
    context = Context()
    execute(dag, x=2, context=context).raise_for_error()
    node = dag.nodes["flaky"]
    inputs = seen["pre_execute"][1]
    assert {key: inputs[key] for key in inputs if key != "scale"} == {"x": 2}
    assert seen["pre_execute"] == (node, inputs, context)
    assert seen["post_execute"] == (node, inputs, 6, context)
    assert seen["cleanup"] == (node, context)
    _, _, error, _, attempt, delay = seen["on_retry"]
    assert (type(error), attempt, delay) == (KeyError, 1, 0.0)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_hooks_may_take_less_than_they_are_offered(execute: Execute, is_async: bool) -> None:
    log: list[Any] = []
    dag = DAG("less").add_node("half", lambda x: x / 2)
    if is_async:

        async def nothing() -> None:
            log.append("pre")

        async def two(node: Any, inputs: Any) -> None:
            log.append(dict(inputs))

        dag.set_default_hooks(pre_execute=nothing, post_execute=two, cleanup=nothing)
    else:
        dag.set_default_hooks(
            pre_execute=lambda: log.append("pre"),
            post_execute=lambda node, inputs: log.append(dict(inputs)),
            cleanup=lambda: log.append("pre"),
        )
    assert execute(dag, x=4).value == 2
    assert log == ["pre", {"x": 4}, "pre"]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_hooks_may_change_inputs_and_result(execute: Execute, is_async: bool) -> None:
    dag = DAG("changes").add_node("double", lambda x: 2 * x)
    if is_async:

        async def more(node: Any, inputs: Any) -> dict[str, int]:
            return {"x": inputs["x"] + 1}

        async def told(node: Any, inputs: Any, result: Any) -> tuple[Any, Any]:
            return inputs["x"], result

        dag.set_node_hooks("double", pre_execute=more, post_execute=told)
    else:
        dag.set_node_hooks(
            "double",
            pre_execute=lambda node, inputs: {"x": inputs["x"] + 1},
            post_execute=lambda node, inputs, result: (inputs["x"], result),
        )
    assert execute(dag, x=4).value == (5, 10)


def test_hooks_that_return_nothing_change_nothing(execute: Execute) -> None:
    dag = DAG("none").add_node("double", lambda x: 2 * x)
    dag.set_default_hooks(pre_execute=lambda n, i, c: None, post_execute=lambda n, i, r, c: None)
    assert execute(dag, x=4).value == 8


def test_hooks_of_a_node_stand_in_for_default_ones_phase_by_phase(execute: Execute) -> None:
    log: list[str] = []
    dag = DAG("both").add_node("a", lambda: 1)
    dag.set_default_hooks(
        pre_execute=lambda node: log.append(f"default pre {node.name}"),
        cleanup=lambda node: log.append(f"default cleanup {node.name}"),
    )
    dag.set_node_hooks("a", pre_execute=lambda node: log.append("own pre a"))
    dag.add_node("b", lambda a: a)  # later than the defaults
    dag.connect("a", "b")
    execute(dag).raise_for_error()
    assert log == ["own pre a", "default cleanup a", "default pre b", "default cleanup b"]


def test_an_unknown_phase_is_an_error_with_the_closest_one() -> None:
    dag = DAG("x").add_node("a", lambda: 1)
    with pytest.raises(InvalidNodeError, match="pre_execute"):
        dag.set_node_hooks("a", pre_exec=lambda: None)
    with pytest.raises(InvalidNodeError):
        dag.set_default_hooks(pre_execute=lambda a, b, c, d: None)
    with pytest.raises(InvalidNodeError, match="callable"):
        dag.set_default_hooks(cleanup=3)  # type: ignore[arg-type]
    with pytest.raises(KeyError):
        dag.set_node_hooks("b", cleanup=lambda: None)
    with pytest.raises(KeyError):
        dag.set_node_error_handler("b", lambda: None)


# Hooks that raise.


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("phase", ["pre_execute", "post_execute", "cleanup"])
def test_a_hook_that_raises_fails_the_node_and_is_named(
    execute: Execute, phase: str, is_async: bool
) -> None:
    log: list[str] = []
    dag = DAG("hooked")

    @dag.node(retry=2, retry_delay=0.0)
    def fine() -> int:
        log.append("attempt")
        return 1

    def broken(*offered: Any) -> None:
        raise LookupError("no such thing")

    async def broken_async(*offered: Any) -> None:
        raise LookupError("no such thing")

    dag.set_default_hooks(
        on_error=lambda n, i, e: log.append(f"on_error {e}"), cleanup=lambda: log.append("cleanup")
    )
    dag.set_node_hooks("fine", **{phase: broken_async if is_async else broken})
    run = execute(dag)
    with pytest.raises(ExecutionError, match=f"{phase} hook.*no such thing") as caught:
        run.raise_for_error()
    assert isinstance(caught.value.__cause__, LookupError)
    assert (
        log
        == {
            "pre_execute": ["on_error no such thing", "cleanup"],
            "post_execute": ["attempt", "on_error no such thing", "cleanup"],
            "cleanup": ["attempt"],
        }[phase]
    )
    assert "fine" not in run.results


@pytest.mark.parametrize("phase", ["on_retry", "on_error", "handler"])
def test_what_is_raised_about_an_error_is_chained_onto_it(execute: Execute, phase: str) -> None:
    log: list[str] = []
    dag = DAG("hooked")
    original = ValueError("original")

    @dag.node(retry=1, retry_delay=0.0)
    def fails() -> int:
        raise original

    def broken(*offered: Any) -> None:
        raise LookupError("from the hook")

    if phase == "handler":
        dag.set_node_error_handler("fails", broken)
    else:
        dag.set_node_hooks("fails", **{phase: broken})
    dag.set_node_hooks("fails", cleanup=lambda: log.append("cleanup"))
    run = execute(dag)
    error = run.errors["fails"]
    assert isinstance(error, LookupError)
    assert original in (error.__cause__, error.__context__)
    assert log == ["cleanup"]
    with pytest.raises(ExecutionError, match=phase):
        run.raise_for_error()


def test_a_raising_cleanup_after_a_failure_is_a_note_on_it(execute: Execute) -> None:
    dag = DAG("hooked").add_node("fails", lambda: 1 / 0)

    def broken(node: Any) -> None:
        raise LookupError("cleanup is out of order")

    dag.set_node_hooks("fails", cleanup=broken)
    run = execute(dag)
    assert isinstance(run.errors["fails"], ZeroDivisionError)
    with pytest.raises(ExecutionError) as caught:
        run.raise_for_error()
    assert any("cleanup is out of order" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("returned", [5, "x", ["x"], {"y": 1}, {}])
def test_pre_execute_that_returns_no_fitting_inputs_is_named(
    execute: Execute, returned: Any
) -> None:
    dag = DAG("hooked").add_node("double", lambda x: 2 * x)
    dag.set_node_hooks("double", pre_execute=lambda: returned)
    with pytest.raises(ExecutionError, match="pre_execute hook") as caught:
        execute(dag, x=1).raise_for_error()
    assert isinstance(caught.value.__cause__, TypeError)


# Error handlers.


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_handler_gives_a_result_that_flows_on(execute: Execute, is_async: bool) -> None:
    offered: list[Any] = []
    dag = (
        DAG("handled")
        .add_node("inverse", lambda x: 1 / x)
        .add_node("told", lambda inverse: -inverse)
    )
    dag.connect("inverse", "told")

    def handle(node: Any, inputs: Any, error: Any) -> float:
        offered.append((node.name, inputs, type(error)))
        return 99.0

    async def handle_async(node: Any, inputs: Any, error: Any) -> float:
        return handle(node, inputs, error)

    dag.set_node_error_handler("inverse", handle_async if is_async else handle)
    run = execute(dag, x=0)
    assert (run.value, run.status, run.errors) == (-99.0, "completed", {})
    assert offered == [("inverse", {"x": 0}, ZeroDivisionError)]


def test_a_handler_that_returns_none_lets_the_error_stand(execute: Execute) -> None:
    dag = DAG("handled").add_node("inverse", lambda x: 1 / x)
    dag.set_node_error_handler("inverse", lambda: None)
    run = execute(dag, x=0)
    assert isinstance(run.errors["inverse"], ZeroDivisionError)
    assert run.status == "failed"


def test_a_handled_failure_is_not_cached(execute: Execute) -> None:
    calls: list[int] = []
    dag = DAG("handled")

    @dag.cached_node
    def inverse(x: int) -> float:
        calls.append(x)
        return 1 / x

    dag.set_node_error_handler("inverse", lambda: 99.0)
    assert [execute(dag, x=0).value for _ in range(2)] == [99.0, 99.0]
    assert calls == [0, 0]


def test_a_run_handler_is_told_after_retries_and_the_nodes_own(execute: Execute) -> None:
    log: list[Any] = []
    dag = DAG("handled")

    @dag.node(retry=2, retry_delay=0.0)
    def fails() -> None:
        log.append("attempt")
        raise KeyError("k")

    dag.set_node_error_handler("fails", lambda: log.append("own"))

    def decide(name: str, error: Exception, context: Context) -> str:
        log.append((name, type(error)))
        return "continue"

    run = execute(dag, error_handler=decide)
    assert log == ["attempt"] * 3 + ["own", ("fails", KeyError)]
    assert run.status == "completed_with_errors"
    assert "errors" not in run.context.metadata


# Contextvars.

shade: contextvars.ContextVar[str] = contextvars.ContextVar("shade", default="none")


@contextmanager
def shaded(value: str) -> Iterator[None]:
    token = shade.set(value)
    try:
        yield
    finally:
        shade.reset(token)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_hooks_and_attempts_of_one_call_share_their_contextvars(
    execute: Execute, is_async: bool
) -> None:
    seen: list[tuple[str, str]] = []
    dag = DAG("vars")

    def step(name: str, new: str | None = None) -> None:
        seen.append((name, shade.get()))
        if new is not None:
            shade.set(new)

    if is_async:

        @dag.node(retry=1, retry_delay=0.0)
        async def flaky() -> int:
            await asyncio.sleep(0)
            step("attempt", "by attempt")
            if len(seen) < 4:
                raise ValueError("once")
            return 1
    else:

        @dag.node(retry=1, retry_delay=0.0)
        def flaky() -> int:
            step("attempt", "by attempt")
            if len(seen) < 4:
                raise ValueError("once")
            return 1

    @dag.node
    def other(flaky: int) -> None:
        step("other")

    flaky >> other
    dag.set_node_hooks(
        "flaky",
        pre_execute=lambda: step("pre", "by pre"),
        on_retry=lambda: step("retry", "by retry"),
        post_execute=lambda: step("post", "by post"),
        cleanup=lambda: step("cleanup"),
    )
    with shaded("of the caller"):
        execute(dag).raise_for_error()
        assert shade.get() == "of the caller"
    assert seen == [
        ("pre", "of the caller"),
        ("attempt", "by pre"),
        ("retry", "by attempt"),
        ("attempt", "by retry"),
        ("post", "by attempt"),
        ("cleanup", "by post"),
        ("other", "of the caller"),
    ]


# Late results.


@pytest.mark.one_in(3)
@pytest.mark.parametrize("mode", OWN)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync hooks", "async hooks"])
def test_a_late_result_reaches_neither_results_nor_cache_nor_hooks(
    mode: str, is_async: bool
) -> None:
    for timeout in timeouts(0.4):
        watched = Watched(PHASES, is_async=is_async, cached=True, timeout=timeout)
        run = watched.execute_held(EXECUTE[mode], x=4)  # the late call has ended after this
        if watched.held.is_set():
            break
    assert watched.log == ["pre_execute", "attempt", "on_error", "cleanup"]
    assert "watched" not in run.results
    assert run.status == "failed"
    watched.log.clear()
    again = EXECUTE[mode](watched.dag, x=4)
    assert watched.log == ["pre_execute", "attempt", "post_execute", "cleanup", "below"]
    assert again.metrics["cache_misses"] == 1


@pytest.mark.parametrize("mode", OWN)
def test_a_late_result_does_not_replace_that_of_the_attempt_after_it(mode: str) -> None:
    let_go, calls = threading.Event(), []
    dag = DAG("late")

    @dag.cached_node(timeout=0.2, retry=9, retry_delay=0.0)  # one of them will be in time
    def slow() -> str:
        calls.append(1)
        if len(calls) == 1:
            wait_for(let_go)
            return "late"
        return "in time"

    before = threads_of_runs()
    run = EXECUTE[mode](dag)
    let_go.set()
    end_of(threads_of_runs() - before)
    assert (run.value, run.results["slow"]) == ("in time", "in time")
    assert EXECUTE[mode](dag).value == "in time"
    assert len(calls) == 2


def test_cleanup_has_ended_before_dependents_start(overlapping: Execute) -> None:
    log: list[str] = []
    dag = DAG("order")
    dag.add_node("a", lambda: 1).add_node("b", lambda a: log.append("b"))
    dag.connect("a", "b")

    async def cleanup() -> None:
        for _ in range(20):
            await asyncio.sleep(0)
        log.append("cleanup")

    dag.set_node_hooks("a", cleanup=cleanup)
    overlapping(dag).raise_for_error()
    assert log == ["cleanup", "b"]


def test_hooks_see_the_run_in_progress(execute: Execute) -> None:
    seen: list[Any] = []
    dag = DAG("view").add_node("a", lambda x: x).add_node("b", lambda a: a)
    dag.connect("a", "b")
    dag.set_node_hooks(
        "b", pre_execute=lambda: seen.append((dag["a"], dag.context.metadata["run_id"]))
    )
    run = execute(dag, x=7)
    assert seen == [(7, run.run_id)]


def test_phases_surround_a_nested_workflow_as_a_whole(execute: Execute) -> None:
    log: list[str] = []
    inner = DAG("inner").add_node("one", lambda x: log.append("one") or x)
    inner.add_node("two", lambda one: one + 1).connect("one", "two")
    dag = DAG("outer").add_node("sub", inner)
    for phase in PHASES:
        dag.set_node_hooks("sub", **{phase: lambda *offered, phase=phase: log.append(phase)})
    assert execute(dag, x=1).value == 2
    assert log == ["pre_execute", "one", "post_execute", "cleanup"]
