"""What is to come hangs onto the engine in a few places: a store where nodes end, a span inside of
their calls, a limiter around them, an observer beside them. Toys of each work in every mode."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import contextmanager
from functools import wraps
from threading import Event, Lock
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import DAG, FSM, FSMReturn, Run
from fast_dag.call.effects import STOPPED, Await, Outcome
from fast_dag.run.execution import Store
from fast_dag.watch.observers import Observers
from tests.ways import OWN_AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fast_dag.call.effects import Effects
    from fast_dag.call.host import Host
    from fast_dag.define.node import Node
    from fast_dag.run.execution import Ended, Execution


class ToyStore(dict[str, Any], Store):
    """Keeps how nodes ended; a run that is given it goes on behind these."""

    def load(self, execution: Execution) -> Iterator[Ended]:
        for name in execution.plan.names:
            if execution.prefix + name in self:
                value, choice = self[execution.prefix + name]
                yield name, None, value, choice, 0.0, 0.0

    def nested(self, execution: Execution, index: int) -> ToyStore:
        return self

    def commit_now(
        self, execution: Execution, index: int, outcome: Outcome, began: float
    ) -> Outcome:
        self.keep(execution.path_of(index), outcome)
        return outcome

    def keep(self, path: str, outcome: Outcome) -> None:
        if outcome.ok:
            self[path] = outcome.value, outcome.verdict.choice


class ToySpan:
    """Writes when each call of a node begins and ends, inside of the call, wherever that is."""

    def __init__(self, file: Path) -> None:
        self.file = file

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        self.write(f"{name} begins\n")
        try:
            yield
        finally:
            self.write(f"{name} ends\n")

    def write(self, line: str) -> None:
        with self.file.open("a") as file:
            file.write(line)

    def __call__(self, node: Node[..., Any]) -> Callable[..., Any] | None:
        func, name = node.func, node.name
        if node.workflow is not None:
            return None

        @wraps(func)
        def spanned(*args: Any, **kwargs: Any) -> Any:
            with self.span(name):
                return func(*args, **kwargs)

        @wraps(func)
        async def spanned_async(*args: Any, **kwargs: Any) -> Any:
            with self.span(name):
                return await func(*args, **kwargs)

        return spanned_async if node.signature.is_async else spanned


class Token:
    """The right to call a node, once it is there."""

    def __init__(self) -> None:
        self.event = Event()
        self.callbacks: list[Callable[[], None]] = []

    def wait(self) -> None:
        self.event.wait()

    def when_ready(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)
        if self.event.is_set():
            callback()


class ToyLimiter:
    """Lets so many calls be made at once, of all workflows that it is around."""

    def __init__(self, units: int) -> None:
        self.free = units
        self.lock = Lock()
        self.waiting: deque[Token] = deque()

    def around(self, host: Host, effects: Effects) -> Effects:
        token = Token()
        with self.lock:
            self.waiting.append(token)
        self.hand_out(0)
        try:
            if not (yield Await(token)):
                return STOPPED
            return (yield from effects)
        finally:
            with self.lock:
                had_one = token not in self.waiting
                if not had_one:
                    self.waiting.remove(token)
            self.hand_out(int(had_one))

    def hand_out(self, returned: int) -> None:
        with self.lock:
            self.free += returned
            ready = [self.waiting.popleft() for _ in range(min(self.free, len(self.waiting)))]
            self.free -= len(ready)
        for token in ready:
            token.event.set()
            for callback in token.callbacks:
                callback()


MODES = [
    pytest.param("sequential", id="sequential"),
    pytest.param("parallel", id="parallel"),
    pytest.param("async", id="async"),
    pytest.param("run_async", id="run_async"),
    pytest.param("process", id="process", marks=pytest.mark.needs("cloudpickle")),
]


def executed(
    workflow: Any, mode: str, prepare: Callable[[Execution], None] | None = None, **options: Any
) -> Run:
    """Run a workflow; `prepare` hangs something onto its execution before it begins."""
    asked = "async" if mode == "run_async" else mode
    execution = workflow._made(workflow._request(mode=asked, **options))
    if prepare is not None:
        prepare(execution)
    if mode == "run_async":
        asyncio.run(workflow._drive_async(execution))
    else:
        workflow._drive(execution)
    run: Run = execution.run
    return run


def stored(store: ToyStore) -> Callable[[Execution], None]:
    def prepare(execution: Execution) -> None:
        execution.store = store

    return prepare


def appended(file: Path, line: str, value: Any) -> Any:
    with file.open("a") as lines:
        lines.write(f"{line}\n")
    return value


def pipeline(calls: Path, fails: Path) -> DAG:
    """load -> check -> big | small -> sub (inside) -> last, which fails while a file is there."""
    dag = DAG("pipeline")

    @dag.node
    def load() -> int:
        return int(appended(calls, "load", 20))

    @dag.condition
    def check(load: int) -> bool:
        return bool(appended(calls, "check", load > 10))

    @dag.node(retry=1, retry_delay=0)
    def big(load: int) -> int:
        return int(appended(calls, "big", load + 1))

    @dag.node
    async def small(load: int) -> int:
        return int(appended(calls, "small", load - 1))

    inner = DAG("inner")

    @inner.node
    async def inside(big: int) -> int:
        return int(appended(calls, "inside", 2 * big))

    dag.add_node("sub", inner)

    @dag.node
    def last(sub: int) -> int:
        if fails.exists():
            raise LookupError("not yet")
        return int(appended(calls, "last", sub + 1))

    load >> check
    check.on_true >> big
    check.on_false >> small
    dag.connect("load", "big", input=False)
    dag.connect("big", "sub", input="big").connect("sub", "last")
    return dag


@pytest.mark.parametrize("mode", MODES)
def test_a_store_is_told_of_every_end_and_a_later_run_goes_on_behind_these(
    mode: str, tmp_path: Path
) -> None:
    calls, fails = tmp_path / "calls", tmp_path / "fails"
    fails.touch()
    dag, store = pipeline(calls, fails), ToyStore()
    run = executed(dag, mode, stored(store))
    assert run.status == "failed"
    done = ["load", "check", "big", "sub.inside", "sub"]
    assert list(store) == done
    assert calls.read_text().split() == ["load", "check", "big", "inside"]
    fails.unlink()
    again = executed(dag, mode, stored(store))
    assert (again.status, again.value) == ("completed", 43)
    assert calls.read_text().split()[4:] == ["last"], "what was committed is not called again"
    assert again.statuses == {
        "load": "completed",
        "check": "completed",
        "big": "completed",
        "small": "skipped",
        "sub": "completed",
        "last": "completed",
    }
    assert list(store) == [*done, "last"]


@pytest.mark.parametrize("mode", MODES)
def test_a_store_that_raises_fails_the_node_and_keeps_the_cause(mode: str) -> None:
    class Full(ToyStore):
        def keep(self, path: str, outcome: Outcome) -> None:
            if outcome.ok:
                raise OSError(28, "no space left")

    dag = DAG("full").add_node("one", lambda: 1).add_node("two", lambda one: one)
    run = executed(dag.connect("one", "two"), mode, stored(Full()))
    assert run.status == "failed"
    assert isinstance(run.errors["one"], OSError)
    assert str(run.exception()).startswith("node 'one' of 'full' failed (in its store)")


@pytest.mark.parametrize("mode", MODES)
def test_a_store_is_told_of_each_visit_of_a_state(mode: str) -> None:
    fsm, seen = FSM("count", initial_state="up", terminal_states=["done"]), []

    @fsm.state
    def up(n: int = 0) -> FSMReturn:
        return FSMReturn(next_state="up" if n < 2 else "done", value={"n": n + 1})

    @fsm.state
    def done(n: int) -> int:
        return n

    class Seen(ToyStore):
        def keep(self, path: str, outcome: Outcome) -> None:
            seen.append((path, outcome.value))

    assert executed(fsm, mode, stored(Seen())).value == 3
    assert seen == [("up", {"n": 1}), ("up", {"n": 2}), ("up", {"n": 3}), ("done", 3)]


@pytest.mark.parametrize("mode", MODES)
def test_a_span_is_inside_of_every_call(mode: str, tmp_path: Path) -> None:
    dag = pipeline(tmp_path / "calls", tmp_path / "fails")
    spans = tmp_path / "spans"
    inner: Any = dag.nodes["sub"].workflow
    for workflow in (dag, inner):
        workflow._wrappers = (ToySpan(spans),)
    assert executed(dag, mode).value == 43
    called = ["load", "check", "big", "inside", "last"]
    expected = [f"{name} {what}" for name in called for what in ("begins", "ends")]
    assert spans.read_text().splitlines() == expected


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode.id != "process"])
def test_a_limiter_lets_no_more_calls_in_than_it_has_units(mode: str) -> None:
    limiter, inside, lock = ToyLimiter(2), [0, 0], Lock()

    def enter() -> None:
        with lock:
            inside[0] += 1
            inside[1] = max(inside)

    def work() -> None:
        enter()
        with lock:
            inside[0] -= 1

    async def work_async() -> None:
        enter()
        for _ in range(10):
            await asyncio.sleep(0)
        with lock:
            inside[0] -= 1

    dag = DAG("limited")
    for number in range(20):
        dag.add_node(f"n{number}", work if number % 2 else work_async)
    dag._arounds = (limiter.around,)
    run = executed(dag, mode, max_workers=8)
    assert run.status == "completed"
    assert 1 <= inside[1] <= 2
    assert (limiter.free, len(limiter.waiting)) == (2, 0)


@pytest.mark.parametrize("mode", OWN_AT_ONCE)
def test_a_limiter_has_all_its_units_after_a_run_that_was_late(mode: str) -> None:
    limiter = ToyLimiter(1)

    async def endless() -> None:
        await asyncio.Event().wait()

    dag = DAG("late").add_node("one", endless).add_node("two", endless).add_node("three", endless)
    dag._arounds = (limiter.around,)
    assert executed(dag, mode, timeout=0.05).status == "timed_out"
    assert (limiter.free, len(limiter.waiting)) == (1, 0)


@pytest.mark.parametrize("mode", MODES)
def test_an_observer_needs_only_the_methods_that_it_wants(mode: str, tmp_path: Path) -> None:
    ended: list[tuple[str, str]] = []

    class Ends:
        def node_ended(self, event: Any) -> None:
            ended.append((event.path, event.status))

    def prepare(execution: Execution) -> None:
        execution.observers = Observers([Ends()], len(execution.plan.names))

    dag = pipeline(tmp_path / "calls", tmp_path / "fails")
    assert executed(dag, mode, prepare).value == 43
    assert sorted(ended) == sorted(
        [
            ("load", "completed"),
            ("check", "completed"),
            ("small", "skipped"),
            ("big", "completed"),
            ("sub.inside", "completed"),
            ("sub", "completed"),
            ("last", "completed"),
        ]
    )


def test_what_nobody_watches_takes_the_fast_paths() -> None:
    dag = DAG("plain").add_node("one", lambda: 1)
    execution = dag._made(dag._request())
    assert (execution.watched, execution.is_straight) == (False, True)
    execution.store = ToyStore()
    assert (execution.watched, execution.is_straight) == (True, False)
