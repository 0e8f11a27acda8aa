"""Exceptions come out of worker processes as what they were."""

from __future__ import annotations

import asyncio
import builtins
import dataclasses
import io
import json
import pickle
import subprocess
import threading
import urllib.error
from email.message import Message
from typing import TYPE_CHECKING, Any

import pytest

import fast_dag
from fast_dag import DAG, ExecutionError
from fast_dag.drive import payload
from tests.concurrency import functions
from tests.concurrency.functions import Opaque
from tests.ways import MODES_EVERYWHERE

if TYPE_CHECKING:
    from collections.abc import Callable


pytestmark = pytest.mark.needs("cloudpickle")


class ApiError(Exception):
    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self.body = body


class KeywordError(ValueError):
    def __init__(self, *, code: int) -> None:
        self.code = code

    def __str__(self) -> str:
        return f"code {self.code}"


class SlottedError(LookupError):
    __slots__ = ("place", "unset")

    def __init__(self, place: str) -> None:
        self.place = place


class NoisyError(OSError):
    def __init__(self, errno: int, host: str) -> None:
        super().__init__(errno, f"host {host}", f"/{host}")
        self.host = host


class OwnWayError(Exception):
    """Pickles in a way of its own, which works."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")
        self.pair = (a, b)
        self.lock = threading.Lock()

    def __reduce__(self) -> Any:
        return OwnWayError, self.pair


class WrongWayError(Exception):
    """Pickles in a way of its own, which does not work."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __reduce__(self) -> Any:
        return WrongWayError, (1, 2, 3)


class FrozenError(Exception):
    def __init__(self, code: int) -> None:
        self.__dict__["code"] = code

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"frozen: {name}")


class AppError(RuntimeError):
    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"{host}:{port}")
        self.host = host


class AppTimeoutError(AppError, builtins.TimeoutError):
    pass


class AppOSError(AppError, OSError):
    pass


class AppConnectionError(AppError, ConnectionError):
    pass


@dataclasses.dataclass(frozen=True)
class FrozenDataError(Exception):
    code: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FrozenSlottedError(ValueError):
    code: int


class UnspeakableError(Exception):
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __str__(self) -> str:
        raise RuntimeError("no message")

    __repr__ = __str__

    def __reduce__(self) -> Any:
        raise SystemExit("not for pickling")


class Sum(ExceptionGroup):
    def __new__(cls, errors: list[Exception]) -> Sum:
        self = super().__new__(cls, f"{len(errors)} errors", errors)
        self.count = len(errors)
        return self

    count: int


def there_and_back(error: BaseException) -> Any:
    """As in a worker process: what a call that raises it is told as."""

    def fails() -> None:
        raise error

    call = payload._dumps(((fails, (), {}, False, None), b"", None))
    ok, value, _, _ = pickle.loads(payload.run_packed(call))
    assert ok is False, value
    return value


@pytest.mark.parametrize(
    "make",
    [
        lambda: ApiError(503, "busy"),
        lambda: KeywordError(code=4),
        lambda: SlottedError("attic"),
        lambda: NoisyError(113, "example"),
        lambda: FrozenError(5),
        lambda: FrozenDataError(6),
        lambda: FrozenSlottedError(code=7),
        lambda: WrongWayError("wrong"),
        lambda: AppTimeoutError("host", 1),
        lambda: AppOSError("host", 2),
        lambda: AppConnectionError("host", 3),
        lambda: fast_dag.TimeoutError("late", node_name="x", timeout=0.2),
        lambda: functions.TwoArgumentsError(404, "not found"),
        lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        lambda: FileNotFoundError(2, "No such file", "a", None, "b"),
        lambda: OSError("plain"),
        lambda: ImportError("no", name="it", path="there"),
        lambda: SyntaxError("bad", ("file", 1, 2, "text")),
        lambda: StopIteration(5),
        lambda: SystemExit(3),
        lambda: KeyboardInterrupt(),
        lambda: subprocess.CalledProcessError(1, ["false"], b"out", b"err"),
        lambda: json.JSONDecodeError("bad", "{", 1),
        lambda: ExecutionError("failed", node_name="x", attempts=2),
        lambda: urllib.error.HTTPError("http://x", 404, "nope", Message(), io.BytesIO(b"body")),
    ],
    ids=lambda make: type(make()).__name__,
)
def test_class_args_and_attributes_travel(make: Callable[[], BaseException]) -> None:
    error = make()
    came = there_and_back(error)
    assert type(came) is type(error)
    assert came.args == error.args
    assert str(came) == str(error)
    for name, value in vars(error).items():
        if isinstance(value, (int, str, bytes, list)):
            assert getattr(came, name) == value
    for name in ("errno", "strerror", "filename", "filename2", "encoding", "reason", "value"):
        assert getattr(came, name, None) == getattr(error, name, None)
    for name in ("name", "path", "lineno", "text", "code", "place"):
        assert getattr(came, name, None) == getattr(error, name, None)


def test_exceptions_of_libraries_travel() -> None:
    numpy = pytest.importorskip("numpy")
    pandas = pytest.importorskip("pandas")
    pydantic = pytest.importorskip("pydantic")

    class Model(pydantic.BaseModel):
        x: int

    for fails in (
        lambda: numpy.sum(numpy.zeros(2), axis=5),
        lambda: numpy.linalg.inv(numpy.zeros((2, 2))),
        lambda: pandas.Timestamp("9999-99-99"),
        lambda: pandas.DataFrame()["x"],
        lambda: Model(x="word"),
    ):
        with pytest.raises(Exception) as caught:  # noqa: PT011  of five libraries
            fails()
        came = there_and_back(caught.value)
        assert type(came) is type(caught.value)
        assert str(came) == str(caught.value)
        assert came.args == caught.value.args


def test_a_class_that_pickles_in_its_own_way_is_pickled_in_its_own_way() -> None:
    came = there_and_back(OwnWayError(1, 2))
    assert came.pair == (1, 2)
    assert type(came.lock) is type(threading.Lock())
    assert all("Left out" not in note for note in getattr(came, "__notes__", ()))


def test_causes_contexts_and_notes_travel() -> None:
    error = ApiError(1, "above")
    error.add_note("see the log")
    error.__cause__ = ApiError(2, "cause")
    error.__cause__.__context__ = SlottedError("below")
    came = there_and_back(error)
    assert came.__notes__ == ["see the log"]
    assert came.__suppress_context__
    assert (type(came.__cause__), came.__cause__.status) == (ApiError, 2)
    assert came.__cause__.__context__.place == "below"
    assert not came.__cause__.__suppress_context__


@pytest.mark.parametrize(
    "notes", [["text", 1, (2,), LookupError], [], ("text", 1), "text", 5], ids=repr
)
def test_notes_travel_as_they_are(notes: object) -> None:
    error = ApiError(1, "noted")
    error.__notes__ = notes  # type: ignore[assignment]
    assert there_and_back(error).__notes__ == notes


def test_notes_that_cannot_travel_are_left_out_with_a_note() -> None:
    error = ApiError(1, "noted")
    error.__notes__ = ["before", threading.Lock(), "after"]  # type: ignore[list-item]
    before, after, told = there_and_back(error).__notes__
    assert (before, after) == ("before", "after")
    assert "a note, a lock" in told

    error.__notes__ = (threading.Lock(),)  # type: ignore[assignment]
    (told,) = there_and_back(error).__notes__
    assert "'__notes__', a tuple" in told


@pytest.mark.one_in(4)
@pytest.mark.parametrize("mode", MODES_EVERYWHERE)
@pytest.mark.parametrize("notes", [[1, "text"], ("text",), 5], ids=repr)
def test_a_run_fails_with_the_error_whatever_its_notes_are(mode: Any, notes: Any) -> None:
    def fails() -> None:
        error = ApiError(1, "noted")
        error.__notes__ = notes
        raise error

    with pytest.raises(ExecutionError) as caught:
        DAG("notes").add_node("fails", fails).run(mode=mode)
    cause = caught.value.__cause__
    assert type(cause) is ApiError
    is_list = isinstance(notes, list)
    assert (cause.__notes__[:2] if is_list else cause.__notes__) == notes


@pytest.mark.one_in(4)
@pytest.mark.parametrize("mode", MODES_EVERYWHERE)
@pytest.mark.parametrize(
    "make",
    [lambda: FrozenError(5), lambda: FrozenDataError(5), lambda: FrozenSlottedError(code=5)],
    ids=lambda make: type(make()).__name__,
)
def test_a_run_fails_with_errors_that_refuse_attributes(mode: Any, make: Any) -> None:
    def fails() -> None:
        raise make()

    def refuses(*_: object) -> Any:
        raise ValueError("no answer")

    def cleanup(*_: object) -> None:
        raise ValueError("not clean")

    dag = DAG("frozen")
    dag.add_node("fails", fails, retry=1, retry_delay=0, retry_on=refuses)
    dag.set_node_hooks("fails", cleanup=cleanup)
    with pytest.raises(ExecutionError) as caught:
        dag.run(mode=mode, error_handler=refuses)
    cause = caught.value.__cause__
    assert type(cause) is type(make())
    assert cause.code == 5  # type: ignore[union-attr]
    notes = "".join(cause.__notes__)
    for told in ("retry_on raised", "cleanup hook raised", "error_handler raised"):
        assert told in notes


def test_a_nested_run_that_is_late_in_a_worker_is_a_timeout_at_home(tmp_path: Any) -> None:
    log = tmp_path / "log"

    def late() -> str:
        with log.open("a", encoding="utf-8") as file:
            file.write("x")
        if len(log.read_text(encoding="utf-8")) == 2:
            return "in time"

        async def waits() -> None:
            await asyncio.Event().wait()

        return str(DAG("inner").add_node("waits", waits).run(timeout=0.05))

    dag = DAG("late")
    dag.add_node("late", late, retry=1, retry_delay=0, retry_on=fast_dag.TimeoutError)
    assert dag.run(mode="process") == "in time"


def test_circles_of_causes_travel() -> None:
    one, two = ApiError(1, ""), ApiError(2, "")
    one.__cause__, two.__context__ = two, one
    came = there_and_back(one)
    assert came.__cause__.status == 2
    assert came.__cause__.__context__ is came

    one, two = ApiError(1, ""), ApiError(2, "")
    one.others, two.original = [two], one  # type: ignore[attr-defined]
    came = there_and_back(one)
    assert came.others[0].status == 2
    assert came.others[0].original.args == ("1: ",)


def test_a_chain_of_causes_without_end_is_cut() -> None:
    error = first = ApiError(0, "")
    for index in range(1, 400):
        error.__context__ = ApiError(index, "")
        error = error.__context__
    came, count = there_and_back(first), 0
    while came.__context__ is not None:
        count, came = count + 1, came.__context__
    assert 20 < count < 400
    assert "left out" in came.__notes__[0]


def test_members_of_groups_travel() -> None:
    group = ExceptionGroup("several", [ApiError(1, ""), ExceptionGroup("more", [OSError(2, "x")])])
    came = there_and_back(group)
    assert type(came) is ExceptionGroup
    assert came.message == "several"
    assert came.exceptions[0].status == 1
    assert came.exceptions[1].exceptions[0].errno == 2

    came = there_and_back(Sum([ApiError(1, ""), ApiError(2, "")]))
    assert type(came) is Sum
    assert came.count == 2
    assert [each.status for each in came.exceptions] == [1, 2]


def test_what_cannot_travel_is_left_out_with_a_note() -> None:
    error = ApiError(1, "x")
    error.lock, error.rest = threading.Lock(), {"a": 1}  # type: ignore[attr-defined]
    came = there_and_back(error)
    assert (came.status, came.rest, came.lock) == (1, {"a": 1}, None)
    assert "'lock', a lock" in came.__notes__[0]

    came = there_and_back(ValueError("bad", Opaque(), 3))
    assert came.args == ("bad", "<Opaque>", 3)


def test_a_class_that_is_not_there_becomes_its_nearest_base(monkeypatch: Any) -> None:
    class NearError(KeyError):
        lock = threading.Lock()

    came = there_and_back(NearError("k"))
    assert type(came) is KeyError
    assert came.args == ("k",)
    assert "NearError" in came.__notes__[0]

    packed = payload._dumps(ApiError(2, "y"))
    monkeypatch.delattr(f"{__name__}.ApiError")
    came = pickle.loads(packed)
    assert type(came) is Exception
    assert came.status == 2  # type: ignore[attr-defined]
    assert "ApiError" in came.__notes__[0]
    assert "2: y" in came.__notes__[0]


def test_exceptions_as_values_are_values() -> None:
    dag = DAG("values").add_node("make", lambda: [ApiError(1, "a"), NoisyError(2, "b")])
    dag.add_node("take", lambda errors: [type(each).__name__ for each in errors])
    dag.connect("make", "take")
    run = dag.execute(mode="process", max_workers=1)
    assert run.value == ["ApiError", "NoisyError"]
    assert [type(each) for each in run["make"]] == [ApiError, NoisyError]


def test_retry_on_and_except_see_the_class_in_worker_processes(tmp_path: Any) -> None:
    log = tmp_path / "log"
    dag = DAG("retries")

    @dag.node(retry=2, retry_delay=0, retry_on=(ApiError, urllib.error.HTTPError))
    def flaky() -> str:
        with log.open("a", encoding="utf-8") as file:
            file.write("x")
        count = len(log.read_text(encoding="utf-8"))
        if count == 1:
            raise ApiError(503, "busy")
        if count == 2:
            raise urllib.error.HTTPError("http://x", 503, "busy", Message(), None)
        return "done"

    dag.add_node("http", functions.fails_with_http)
    run = dag.execute(mode="process", max_workers=1, error_strategy="continue")
    assert run.results == {"flaky": "done"}
    error = run.errors["http"]
    assert isinstance(error, urllib.error.HTTPError)
    assert (error.code, str(error)) == (404, "HTTP Error 404: Not Found")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: (_ for _ in ()).throw(UnspeakableError()),
        functions.Unpicklable,
        lambda: functions.nested(100_000),
        functions.refuse_to_pickle,
    ],
    ids=["message", "result", "depth", "system exit"],
)
def test_nothing_that_a_node_makes_ends_its_worker(wrong: Any) -> None:
    def pid() -> int:
        import os

        return os.getpid()

    dag = DAG("wrong").add_node("before", pid).add_node("wrong", wrong, inputs=[])
    dag.add_node("after", pid)
    dag.connect("before", "wrong", input=False).nodes["after"].after("before")
    run = dag.execute(mode="process", max_workers=1, error_strategy="continue")
    assert run["before"] == run["after"]
    error = run.errors["wrong"]
    assert "died" not in "".join(map(str, error.args))
    assert type(error) in (ExecutionError, UnspeakableError)


def test_tracebacks_of_workers_tell_the_file_of_whatever_travels_by_value(tmp_path: Any) -> None:
    """Nested functions and methods of local classes, too, whatever the version of cloudpickle."""

    class Local:
        def method(self) -> None:
            def nested() -> None:
                raise LookupError("here")

            nested()

    dag = DAG("files").add_node("node", Local().method)
    error = dag.execute(mode="process").errors["node"]
    told = "".join(error.__notes__)
    assert told.count(f'File "{__file__}"') == 2
    assert "nested" in told
    assert "raise LookupError" in told
