"""What user code may raise in odd places, and values and exceptions of odd classes."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import subprocess
import sys
import textwrap
import threading
import weakref
from collections import defaultdict
from pathlib import PureWindowsPath
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import DAG, FSM, Context, ExecutionError
from fast_dag.cache.keys import key_of, stable_text
from tests.concurrency.support import wait_until
from tests.patience import LONG
from tests.ways import EXECUTE, OWN

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

everywhere = pytest.mark.parametrize("mode", OWN)


def leaves(*args: Any) -> Any:
    raise SystemExit(3)


def is_cancelled(*args: Any) -> Any:
    raise asyncio.CancelledError


class Undecided:
    """A value whose truth ends the program."""

    def __init__(self, raises: Callable[[], Any]) -> None:
        self._raises = raises

    def __bool__(self) -> bool:
        self._raises()
        return True


def fails() -> None:
    raise ValueError


def with_error_handler(raises: Any) -> tuple[Any, dict[str, Any]]:
    return DAG("odd").add_node("fails", fails), {"error_handler": raises}


def with_condition(raises: Any) -> tuple[Any, dict[str, Any]]:
    dag = DAG("odd").add_node("decides", lambda: Undecided(raises), type="condition")
    dag.add_node("yes", lambda x: x)
    dag.nodes["decides"].on_true >> dag.nodes["yes"]
    return dag, {}


def with_transition(raises: Any) -> tuple[Any, dict[str, Any]]:
    fsm = FSM("odd", initial_state="a", terminal_states=["b"])
    fsm.add_state("a", lambda: 1).add_state("b", lambda: 2)
    return fsm.add_transition("a", "b", lambda value: raises()), {}


def with_state_hook(raises: Any) -> tuple[Any, dict[str, Any]]:
    fsm, options = with_transition(lambda: True)
    fsm.add_state_hook(raises)
    return fsm, options


ODD = [with_error_handler, with_condition, with_transition, with_state_hook]


@everywhere
@pytest.mark.parametrize("make", ODD)
@pytest.mark.parametrize("is_nested", [False, True], ids=["flat", "nested"])
def test_what_ends_programs_ends_the_run_from_wherever_it_is_raised(
    mode: str, make: Any, is_nested: bool
) -> None:
    closed: list[str] = []
    workflow, options = make(leaves)

    @workflow.resource("resource")
    def opened() -> Iterator[int]:
        yield 1
        closed.append("closed")

    if isinstance(workflow, DAG):
        workflow.add_node("first", lambda resource: 1)
        for name in list(workflow.nodes):
            if name in ("fails", "decides"):
                workflow.connect("first", name, input=False)
    outer = DAG("outer").add_node("sub", workflow) if is_nested else workflow
    with pytest.raises(SystemExit):
        EXECUTE[mode](outer, **options)
    assert closed == ["closed"] * isinstance(workflow, DAG)


@everywhere
@pytest.mark.parametrize("make", ODD)
def test_a_cancellation_raised_beside_a_node_is_a_failure(mode: str, make: Any) -> None:
    workflow, options = make(is_cancelled)
    run = EXECUTE[mode](workflow, **options)
    assert run.status == "failed"
    assert isinstance(run.exception(), ExecutionError)


@everywhere
def test_a_cancellation_raised_around_a_node_is_its_failure(mode: str) -> None:
    dag = DAG("around")
    dag.add_node("retried", fails, retry=1, retry_on=is_cancelled)
    dag.add_node("hooked", lambda: 1)
    dag.set_node_hooks("hooked", pre_execute=is_cancelled)
    dag.add_node("other", lambda: 1)
    run = EXECUTE[mode](dag, error_strategy="continue")
    assert set(run.errors) == {"retried", "hooked"}
    assert run.results == {"other": 1}


@everywhere
def test_a_progress_callback_that_raises_a_cancellation_does_no_harm(mode: str) -> None:
    assert EXECUTE[mode](DAG("told").add_node("a", lambda: 1), progress=is_cancelled).value == 1


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    code: int


class UnchangeableError(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise RuntimeError("frozen")


class NoTracebackError(Exception):
    __traceback__ = property(lambda self: 1 / 0)  # type: ignore[assignment]


class OddNotesError(Exception):
    __notes__ = 5  # type: ignore[assignment]


@everywhere
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    "error", [FrozenError(1), UnchangeableError(), NoTracebackError(), OddNotesError()]
)
def test_exceptions_that_do_not_let_themselves_be_changed_are_failures_like_others(
    mode: str, is_async: bool, error: Exception
) -> None:
    def node() -> None:
        raise error

    async def node_async() -> None:
        raise error

    dag = DAG("frozen").add_node("node", node_async if is_async else node)
    dag.add_node("other", lambda: 1)
    dag.set_node_hooks("node", cleanup=fails)
    run = EXECUTE[mode](dag, error_strategy="continue")
    assert run.errors == {"node": error}
    assert run.results == {"other": 1}
    with pytest.raises(ExecutionError):
        run.raise_for_error()


@everywhere
def test_generator_exit_of_a_node_is_no_success(mode: str) -> None:
    closed: list[str] = []

    async def node(resource: int) -> None:
        raise GeneratorExit

    dag = DAG("exits").add_node("node", node)

    @dag.resource("resource")
    def opened() -> Iterator[int]:
        yield 1
        closed.append("closed")

    with pytest.raises(GeneratorExit):
        EXECUTE[mode](dag)
    assert closed == ["closed"]


class Proxy:
    """As those of werkzeug outside of a request."""

    __class__ = property(lambda self: fails())  # type: ignore[assignment]


@everywhere
def test_values_whose_class_cannot_be_asked_for_are_values_like_others(mode: str) -> None:
    async def make_async() -> Proxy:
        return Proxy()

    dag = DAG("proxies").add_node("make", lambda: Proxy()).add_node("make_async", make_async)
    dag.add_node("take", lambda make, make_async, given: 1)
    dag.connect("make", "take").connect("make_async", "take")
    assert EXECUTE[mode](dag, given=Proxy()).value == 1


# Resources that end in odd ways.


@everywhere
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("kind", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
def test_what_one_closing_raises_keeps_no_other_from_being_closed(
    mode: str, is_async: bool, kind: type[BaseException]
) -> None:
    closed: list[str] = []
    dag = DAG("closes").add_node("use", lambda first, second: 1)

    @dag.resource("first")
    async def opened() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(0)
        closed.append("first")

    def breaks() -> Iterator[int]:
        yield 2
        raise kind

    async def breaks_async() -> AsyncIterator[int]:
        yield 2
        raise kind

    dag.resource("second", breaks_async if is_async else breaks)
    if kind is asyncio.CancelledError:
        assert EXECUTE[mode](dag).status == "failed"
    else:
        with pytest.raises(kind):
            EXECUTE[mode](dag)
    assert closed == ["first"]


@everywhere
@pytest.mark.parametrize("fault", [None, ValueError])
def test_the_resource_of_a_nested_workflow_knows_how_that_ended(mode: str, fault: Any) -> None:
    seen: list[Any] = []

    def use(resource: int) -> None:
        if fault is not None:
            raise fault

    inner = DAG("inner").add_node("use", use)

    @inner.resource("resource")
    def opened(context: Any) -> Iterator[int]:
        context.metadata["opened"] = True
        yield 1
        seen.append(context.metadata["execution_status"])

    run = EXECUTE[mode](DAG("outer").add_node("sub", inner), error_strategy="continue")
    assert seen == ["completed" if fault is None else "completed_with_errors"]
    assert run.context.metadata["opened"] is True


# Cleanup that hangs.


def test_many_cleanup_hooks_that_hang_share_one_grace() -> None:
    from fast_dag.drive import dispatcher

    let_go = threading.Event()
    many = 40
    dag = DAG("hangs")

    all_run = asyncio.Event()
    running: list[int] = []

    async def held() -> None:
        running.append(1)
        if len(running) == many:
            all_run.set()
        await asyncio.Event().wait()

    for number in range(many):
        dag.add_node(f"n{number}", held)
    begun: list[int] = []
    dag.set_default_hooks(cleanup=lambda node: begun.append(1) or (let_go.wait(LONG) and None))

    async def main() -> None:
        run = asyncio.create_task(dag.run_async())
        await all_run.wait()
        run.cancel()
        async with asyncio.timeout(LONG * 2):
            with pytest.raises(asyncio.CancelledError):
                await run

    grace, dispatcher.GRACE = dispatcher.GRACE, 1.0
    try:
        asyncio.run(main())
    finally:
        dispatcher.GRACE = grace
        let_go.set()
    assert len(begun) == many


# Interruptions.


INLINE = """
import signal, threading
from fast_dag import DAG

began = threading.Event()

def busy():
    began.set()
    while True:
        threading.Event().wait(0.01)

async def other():
    import asyncio
    await asyncio.sleep(60)

dag = DAG("inline").add_node("busy", busy, run_in="inline").add_node("other", other)

def interrupt():
    began.wait()
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
try:
    dag.run(mode="async")
except KeyboardInterrupt:
    print("interrupted", dag.context.metadata["execution_status"])
"""


def test_ctrl_c_interrupts_an_inline_node_of_a_run_on_a_loop_of_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(INLINE)],
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    assert done.stdout == "interrupted cancelled\n", done.stderr


def test_a_signal_handler_may_run_a_cached_workflow_that_it_interrupts() -> None:
    dag = DAG("reentrant")
    dag.cached_node(name="f", max_entries=5)(lambda x: x)
    runs: list[int] = []

    def handler(*args: object) -> None:
        runs.append(dag.run(x=len(runs) % 7))

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        number = 0
        while len(runs) < 300:
            number += 1
            dag.run(x=number % 9)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# Freed where it is deleted.


@everywhere
def test_a_result_that_the_next_node_deletes_is_freed_there(mode: str) -> None:
    class Value:
        pass

    made: list[weakref.ref[Value]] = []

    def make() -> Value:
        value = Value()
        made.append(weakref.ref(value))
        return value

    def free(context: Context) -> bool:
        del context.results["make"]
        wait_until(lambda: made[-1]() is None)  # another thread may be on its way back
        return True

    dag = DAG("frees").add_node("make", make).add_node("free", free)
    dag.connect("make", "free", input=False)
    assert EXECUTE[mode](dag).value is True


# Keys.


@dataclasses.dataclass(frozen=True)
class Point:
    number: int
    name: str = dataclasses.field(default="", compare=False)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Point(1, "a"), Point(1, "b")),
        (defaultdict(int), defaultdict(list)),
        (range(0, 4, 2), range(0, 3, 2)),
        (PureWindowsPath("a"), PureWindowsPath("A")),
    ],
)
def test_keys_tell_apart_what_a_function_can_tell_apart(one: Any, other: Any) -> None:
    assert key_of(one) != key_of(other)
    assert stable_text(key_of(one)) != stable_text(key_of(other))


def test_integers_of_any_size_are_keys_of_shared_caches() -> None:
    assert stable_text(key_of(10**5000)) != stable_text(key_of(10**5000 + 1))


@pytest.mark.parametrize("mode", ["sequential", "parallel"])
def test_a_run_does_not_mind_that_another_thread_imports_asyncio_just_now(
    mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(x: int) -> float:
        return x / 0

    dag = DAG("fails").add_node("fail", fail)
    dag.execute(x=1, mode=mode)  # with all that it imports
    monkeypatch.setitem(sys.modules, "asyncio", ModuleType("asyncio"))  # it has nothing yet
    assert isinstance(dag.execute(x=1, mode=mode).errors["fail"], ZeroDivisionError)
