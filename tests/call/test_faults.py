"""Whatever misbehaves around a node harms that node only, and says so."""

from __future__ import annotations

import copy
import logging
import threading
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pytest

from fast_dag import DAG, ExecutionError, Run
from tests.concurrency.support import end_of, threads_of_runs
from tests.patience import LONG
from tests.ways import EXECUTE, OWN, OWN_EVERYWHERE

if TYPE_CHECKING:
    from collections.abc import Callable

Execute = "Callable[..., Run]"


@pytest.fixture(params=OWN_EVERYWHERE)
def execute(request: pytest.FixtureRequest) -> Callable[..., Run]:
    return EXECUTE[request.param]


class UnpicklableError(Exception):
    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.lock = threading.Lock()


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class LeavesError(BaseException):
    """Of the user's own, and not to be handled."""


class NeedsTwoError(Exception):
    """Comes back from pickling only by chance: its arguments are not those of its `__init__`."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


def unpicklable() -> NoReturn:
    raise UnpicklableError("has a lock")


def mute() -> NoReturn:
    raise MuteError


def needs_two() -> NoReturn:
    raise NeedsTwoError(404, "not found")


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    ("func", "told"),
    [(unpicklable, "has a lock"), (needs_two, "404: not found"), (mute, "MuteError")],
)
def test_exceptions_that_do_not_travel_are_told_all_the_same(
    execute: Callable[..., Run], func: Any, told: str
) -> None:
    dag = DAG("d").add_node("bad", func).add_node("good", lambda: 1)
    run = execute(dag, error_strategy="continue")
    assert run.status == "completed_with_errors"
    assert run["good"] == 1
    (entry,) = run.context.metadata["errors"]
    assert entry["node"] == "bad"
    with pytest.raises(ExecutionError, match=told):
        run.raise_for_error()


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    "error",
    [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), LeavesError()],
    ids=lambda error: type(error).__name__,
)
def test_what_is_no_exception_ends_the_run_and_comes_through(
    execute: Callable[..., Run], error: BaseException
) -> None:
    handled: list[Any] = []
    before = threads_of_runs()

    def bad() -> NoReturn:
        raise copy.copy(error)

    dag = DAG("d").add_node("bad", bad, retry=3, retry_delay=0)
    dag.set_node_hooks("bad", on_error=lambda *args: handled.append(args))
    dag.set_node_error_handler("bad", lambda *args: handled.append(args))
    with pytest.raises(type(error)):
        execute(dag)
    end_of(threads_of_runs() - before)
    assert handled == []
    assert dag.context.metadata["execution_status"] == "cancelled"


@pytest.mark.parametrize("mode", OWN)
@pytest.mark.parametrize(
    "where",
    ["pre_execute", "post_execute", "on_error", "on_retry", "cleanup", "handler", "get", "set"],
)
def test_what_is_no_exception_comes_through_from_anything_around_a_node(
    mode: str, where: str
) -> None:
    leaves = True

    def leave(*args: Any) -> Any:
        if leaves:
            raise LeavesError(where)

    def func(x: int) -> int:
        if leaves and where in ("on_error", "on_retry", "handler"):
            raise ValueError(x)
        return x

    backend = BadBackend("")
    dag = DAG("d")
    retry = 1 if where == "on_retry" else 0
    dag.cached_node(name="n", backend=backend, version=1, retry=retry, retry_delay=0)(func)
    if where == "handler":
        dag.set_node_error_handler("n", leave)
    elif where in ("get", "set"):
        setattr(backend, where, leave)
    else:
        dag.set_node_hooks("n", **{where: leave})
    with pytest.raises(LeavesError, match=where):
        EXECUTE[mode](dag, x=1)
    assert dag.context.metadata["execution_status"] == "cancelled"
    leaves = False
    assert EXECUTE[mode](dag, x=1, timeout=LONG).value == 1, "nobody waits for the one that left"


VALUES: list[Any] = [None, np.arange(3), ValueError("a value"), StopIteration(3), float("nan")]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("around", [{}, {"retry": 1}], ids=["plain", "retry"])
def test_any_value_is_a_result_like_others(
    execute: Callable[..., Run], value: Any, around: dict[str, Any]
) -> None:
    dag = DAG("d")
    dag.add_node("give", lambda: value, **around).add_node("take", lambda x: [x], **around)
    dag.connect("give", "take")
    run = execute(dag)
    assert run.status == "completed"
    for each in (run["give"], run["take"][0]):
        assert type(each) is type(value)
        assert repr(each) == repr(value)


@pytest.mark.parametrize("phase", ["pre_execute", "post_execute", "on_error", "cleanup"])
def test_hooks_that_return_nonsense_or_raise_name_themselves(
    execute: Callable[..., Run], phase: str
) -> None:
    def fail() -> NoReturn:
        raise LookupError("of the node")

    def hook(node: Any) -> NoReturn:
        raise OSError(f"of {phase}")

    dag = DAG("d").add_node("n", fail if phase == "on_error" else lambda: 1)
    dag.set_node_hooks("n", **{phase: hook})
    run = execute(dag)
    error = run.errors["n"]
    assert isinstance(error, OSError)
    if phase == "on_error":
        assert isinstance(error.__cause__, LookupError)
    with pytest.raises(ExecutionError, match=rf"in its {phase} hook.*of {phase}"):
        run.raise_for_error()


def test_pre_execute_that_returns_no_mapping_is_an_error(execute: Callable[..., Run]) -> None:
    dag = DAG("d").add_node("n", lambda x: x)
    dag.set_node_hooks("n", pre_execute=lambda node: 3)
    assert "return a mapping of inputs" in str(execute(dag, x=1).errors["n"])
    dag.set_node_hooks("n", pre_execute=lambda node: {"y": 1})
    assert "lack" in str(execute(dag, x=1).errors["n"])


@pytest.mark.parametrize("answer", ["halt", None, RuntimeError("no answer")], ids=repr)
def test_an_error_handler_without_an_answer_stops_the_run_and_is_noted(
    execute: Callable[..., Run], answer: Any
) -> None:
    def handler(*args: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    dag = DAG("d").add_node("bad", lambda: 1 // 0).add_node("after", lambda x: x)
    dag.connect("bad", "after")
    run = execute(dag, error_handler=handler)
    assert run.status == "failed"
    assert any("error_handler" in note for note in run.errors["bad"].__notes__)


def test_all_that_failed_at_once_are_told(execute: Callable[..., Run]) -> None:
    dag = DAG("d")
    for name in ("a", "b", "c"):
        dag.add_node(name, lambda: 1 // 0)
    run = execute(dag, error_handler=lambda *args: "continue")
    assert set(run.errors) == {"a", "b", "c"}
    error = run.exception()
    assert error is not None
    assert sum("failed too" in note for note in error.__notes__) == 2


def test_failures_while_another_ends_the_run_are_kept() -> None:
    both = threading.Barrier(2)

    def bad() -> NoReturn:
        both.wait(LONG)
        raise ValueError("together")

    dag = DAG("d").add_node("a", bad).add_node("b", bad)
    run = dag.execute(mode="parallel", max_workers=2)
    assert run.status == "failed"
    assert set(run.errors) == {"a", "b"}
    with pytest.raises(ExecutionError) as caught:
        run.raise_for_error()
    other = ({"a", "b"} - {str(caught.value.node_name)}).pop()
    assert any(repr(other) in note for note in caught.value.__notes__)


@pytest.mark.parametrize("mode", OWN)
def test_a_late_result_reaches_nothing(mode: str) -> None:
    held, seen, calls = threading.Event(), [], []
    before = threads_of_runs()
    dag = DAG("d")

    @dag.cached_node(timeout=0.2, retry=9, retry_delay=0)  # one of them will be in time
    def slow(x: int) -> str:
        calls.append(x)
        if len(calls) == 1:
            held.wait(LONG)
            return "late"
        return "in time"

    dag.set_node_hooks("slow", post_execute=lambda node, inputs, result: seen.append(result))
    run = EXECUTE[mode](dag, x=1)
    held.set()
    end_of(threads_of_runs() - before)
    assert run.value == "in time"
    assert run.results == {"slow": "in time"}
    again = EXECUTE[mode](dag, x=1)
    assert (again.value, again.metrics["cache_hits"]) == ("in time", 1)
    assert seen == ["in time", "in time"]


class BadBackend:
    def __init__(self, broken: str) -> None:
        self.broken = broken
        self.entries: dict[Any, Any] = {}

    def _check(self, method: str) -> None:
        if method == self.broken:
            raise ConnectionError(f"{method}: no server")

    def get(self, key: Any) -> Any:
        self._check("get")
        return self.entries.get(key)

    def set(self, key: Any, entry: Any) -> None:
        self._check("set")
        self.entries[key] = entry

    def delete(self, key: Any) -> None:
        self._check("delete")

    def clear(self) -> None: ...


def double(x: int) -> int:
    return 2 * x


@pytest.mark.one_in(3)
@pytest.mark.parametrize("method", ["get", "set"])
def test_a_backend_that_fails_fails_no_node_and_is_told_once(
    execute: Callable[..., Run], method: str
) -> None:
    dag = DAG("d")
    backend = BadBackend(method)
    dag.cached_node(backend=backend)(double)
    with pytest.warns(RuntimeWarning, match=rf"'double'.*{method}: no server") as warned:
        runs = [execute(dag, x=1) for _ in range(3)]
    assert len(warned) == 1
    assert [run.value for run in runs] == [2, 2, 2]
    assert [run.metrics["cache_misses"] for run in runs] == [1, 1, 1]
    assert backend.entries == {}, "nothing is written to a place that is not known"
    backend.broken = ""
    assert execute(dag, x=1).metrics["cache_misses"] == 1
    assert execute(dag, x=1).metrics["cache_hits"] == 1


def test_what_a_backend_does_not_take_back_is_a_result_all_the_same(
    execute: Callable[..., Run],
) -> None:
    """Invalidated while it was computed, it is written and deleted again."""
    dag = DAG("d")

    class Slow(BadBackend):
        def set(self, key: Any, entry: Any) -> None:
            super().set(key, entry)
            if not key.endswith(":place"):
                dag.invalidate_cache("double")

    backend = Slow("delete")
    dag.cached_node(backend=backend)(double)
    with pytest.warns(RuntimeWarning, match="delete: no server"):
        assert execute(dag, x=1).value == 2
    assert execute(dag, x=1).metrics["cache_misses"] == 1, "it has another place now"


def test_a_backend_that_fails_to_forget_says_so() -> None:
    dag = DAG("d")
    dag.cached_node(backend=BadBackend("delete"))(double)
    with pytest.raises(ConnectionError, match="delete: no server"):
        dag.invalidate_cache("double", x=1)


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "entry",
    [
        3,
        (1, "soon"),
        *(pytest.param(it, marks=pytest.mark.stress) for it in ("ab", (1, 2, 3), b"")),
    ],
    ids=repr,
)
def test_a_backend_that_returns_what_it_was_not_given_has_nothing(
    execute: Callable[..., Run], entry: Any
) -> None:
    class Confused(BadBackend):
        def get(self, key: str) -> Any:
            return None if key.endswith(":place") else entry

    dag = DAG("d")
    dag.cached_node(backend=Confused(""))(double)
    with pytest.warns(RuntimeWarning, match=rf"type {type(entry).__name__}, not an entry"):
        run = execute(dag, x=1)
    assert (run.value, run.metrics["cache_misses"]) == (2, 1)


def test_a_log_handler_that_raises_harms_no_run(execute: Callable[..., Run]) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("disk full")

    log, handler = logging.getLogger("fast_dag"), Broken()
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        run = execute(DAG("d").add_node("n", lambda: 1))
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
    assert (run.status, run.value) == ("completed", 1)
