"""Cancellation at every point of a run, KeyboardInterrupt and SystemExit."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from typing import Any

import pytest

from fast_dag import DAG, Context, ExecutionError
from tests.concurrency.support import (
    Way,
    end_of,
    is_alive,
    threads_of_runs,
    wait_for,
    wait_until,
)
from tests.patience import LONG
from tests.ways import EVERYWHERE, EXECUTE, MODES, OWN


class Watched:
    """A DAG of all kinds of nodes, each of which tells when it starts and when it ends.

    At the event number `stop_at` it calls `reached`; a sync node that brought that about then waits
    until it is let go, and an async one for ever, as do all async nodes that start afterwards.
    """

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.lock = threading.Lock()
        self.events: list[str] = []
        self.thread_of: list[int] = []  # of each event
        self.open_async: set[str] = set()
        self.threads: set[threading.Thread] = set()
        self.let_go = threading.Event()
        self.failed_once = False
        self.loop: asyncio.AbstractEventLoop | None = None
        self.task: asyncio.Task[Any] | None = None
        self.dag = self._dag()

    def started_late(self, done: int) -> list[str]:
        """What started after the first `done` events, but for this: a worker thread may have been
        about to make its next call then, and makes that one."""
        late: list[str] = []
        has_moved: set[int] = {threading.main_thread().ident or 0}
        for event, thread in zip(self.events[done:], self.thread_of[done:], strict=True):
            if thread in has_moved and event.startswith("start"):
                late.append(event)
            has_moved.add(thread)
        return late

    def _is_stopped_by(self, event: str) -> bool:
        with self.lock:
            self.events.append(event)
            self.thread_of.append(threading.get_ident())
            reached = len(self.events)
        if self.stop_at is None or reached < self.stop_at:
            return False
        if reached == self.stop_at:
            assert self.loop is not None
            assert self.task is not None
            self.loop.call_soon_threadsafe(self.task.cancel)
        return True

    def sync(self, name: str, value: Any) -> Any:
        self.threads.add(threading.current_thread())
        if self._is_stopped_by(f"start {name}"):
            wait_for(self.let_go)
        if self._is_stopped_by(f"end {name}"):
            wait_for(self.let_go)
        return value

    async def asynchronous(self, name: str, value: Any) -> Any:
        self.open_async.add(name)
        is_cancelled = False
        try:
            if self._is_stopped_by(f"start {name}"):
                await asyncio.Event().wait()
            await asyncio.sleep(0)
            if self._is_stopped_by(f"end {name}"):
                await asyncio.Event().wait()
            return value
        except asyncio.CancelledError:
            is_cancelled = True
            raise
        finally:
            try:
                await asyncio.sleep(0)  # cleaning up may take a while
            except asyncio.CancelledError:
                if not is_cancelled:  # the one cancellation arrived here; a second one must not
                    self.open_async.discard(name)
                raise
            self.open_async.discard(name)

    def _dag(self) -> DAG:
        async def asynchronous(root: int) -> int:
            return await self.asynchronous("async", root + 1)

        async def inner_async(above: int) -> int:
            return await self.asynchronous("inner async", above + 1)

        async def flaky(root: int) -> int:
            value = await self.asynchronous("flaky", root)
            if not self.failed_once:
                self.failed_once = True
                raise OSError("once")
            return int(value)

        inner = DAG("inner")
        inner.add_node("above", lambda above: self.sync("inner sync", above))
        inner.add_node("below", inner_async).connect("above", "below")
        dag = DAG("watched")
        dag.add_node("root", lambda: self.sync("root", 1))
        dag.add_node("sync", lambda root: self.sync("sync", root + 1))
        dag.add_node("async", asynchronous)
        dag.add_node("inner", inner)
        dag.add_node("flaky", flaky, retry=1, retry_delay=0.001)
        dag.add_node("check", lambda root: self.sync("check", True), type="condition")
        dag.add_node("yes", lambda x: self.sync("yes", "yes"))
        dag.add_node("no", lambda x: self.sync("no", "no"))
        dag.add_node("word", lambda x: self.sync("word", x), type="any")
        dag.add_node("inline", lambda word: self._tell("inline", word), run_in="inline")
        dag.add_node("timed", lambda sync: self.sync("timed", sync), timeout=LONG)
        dag.add_node("end", lambda **given: self.sync("end", given))
        for name in ("sync", "async", "inner", "flaky", "check"):
            dag.connect("root", name)
        dag.nodes["check"].on_true >> dag.nodes["yes"] >> dag.nodes["word"]
        dag.nodes["check"].on_false >> dag.nodes["no"] >> dag.nodes["word"]
        dag.connect("sync", "timed").connect("word", "inline")
        for name in ("timed", "async", "inner", "flaky", "inline"):
            dag.connect(name, "end")
        return dag

    def _tell(self, name: str, value: Any) -> Any:
        """An inline node cannot be held: it has the loop's own thread."""
        self._is_stopped_by(f"start {name}")
        self._is_stopped_by(f"end {name}")
        return value

    def end(self) -> None:
        """Let the held nodes go, and wait until their threads have ended."""
        self.let_go.set()
        end_of({thread for thread in self.threads if thread is not threading.main_thread()})


EXPECTED = {"timed": 2, "async": 2, "inner": 2, "flaky": 1, "inline": "yes"}


async def cancelled_at(watched: Watched, context: Context, **options: Any) -> None:
    """Run it, be cancelled by it, and check all that must hold then."""
    watched.loop = asyncio.get_running_loop()
    watched.task = asyncio.create_task(watched.dag.run_async(context=context, **options))
    with pytest.raises(asyncio.CancelledError):
        await watched.task
    assert not watched.open_async, "async nodes that were not waited for"
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert context.metadata["execution_status"] == "cancelled"
    done, results = len(watched.events), dict(context.results)

    await asyncio.to_thread(watched.end)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not watched.started_late(done), "nodes that started after the cancellation"
    assert context.results == results, "results that came after the cancellation"
    assert context.metadata["execution_status"] == "cancelled"

    watched.stop_at = None
    assert await watched.dag.run_async(context=context) == EXPECTED
    assert context.metadata["execution_status"] == "completed"


async def _uncancelled(options: dict[str, Any]) -> int:
    watched = Watched()
    assert await watched.dag.run_async(**options) == EXPECTED
    return len(watched.events)


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    "options",
    [{}, {"max_workers": 1}, {"max_workers": 2, "mode": "parallel"}, {"timeout": LONG}],
    ids=str,
)
def test_a_run_can_be_cancelled_at_every_point(options: dict[str, Any]) -> None:
    events = asyncio.run(_uncancelled(options))
    assert events == 26
    for stop_at in range(1, events + 1):
        asyncio.run(cancelled_at(Watched(stop_at), Context(), **options))


@pytest.mark.parametrize("turns", range(4))
def test_a_run_can_be_cancelled_in_its_first_turns_on_the_loop(turns: int) -> None:
    async def main() -> None:
        watched = Watched()
        task = asyncio.create_task(watched.dag.run_async())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        done = len(watched.events)
        await asyncio.to_thread(watched.end)
        assert not watched.started_late(done)
        assert not watched.open_async

    asyncio.run(main())


def test_execute_async_raises_the_cancellation_too() -> None:
    async def main() -> None:
        began = asyncio.Event()

        async def node() -> None:
            began.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(DAG("held").add_node("node", node).execute_async())
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_a_cancelled_run_can_be_looked_at_afterwards() -> None:
    async def main() -> None:
        began = asyncio.Event()

        async def held(quick: int) -> None:
            began.set()
            await asyncio.Event().wait()

        dag = DAG("looked at").add_node("quick", lambda: 1).add_node("held", held)
        dag.add_node("after", lambda held: 1).connect("quick", "held").connect("held", "after")
        task = asyncio.create_task(dag.run_async())
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert dag["quick"] == 1
        assert dag.get("held") is None
        assert dag.context.metadata["execution_status"] == "cancelled"

    asyncio.run(main())


def test_cancelling_twice_does_not_leave_async_nodes_behind() -> None:
    """The second cancellation comes while the nodes of the first are cleaning up."""

    async def main() -> None:
        began, cleaning, cleaned = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def node() -> None:
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                cleaning.set()
                for _ in range(20):
                    await asyncio.sleep(0)
                cleaned.set()

        task = asyncio.create_task(DAG("twice").add_node("node", node).run_async())
        await began.wait()
        task.cancel()
        await cleaning.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert cleaned.is_set()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_one_of_many_runs_is_cancelled_alone() -> None:
    async def main() -> None:
        go, began = asyncio.Event(), asyncio.Barrier(4)

        async def node(x: int) -> int:
            await began.wait()
            await go.wait()
            return x

        dag = DAG("many").add_node("node", node)
        tasks = [asyncio.create_task(dag.run_async(x=x)) for x in range(3)]
        await began.wait()
        tasks[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]
        go.set()
        assert [await tasks[0], await tasks[2]] == [0, 2]

    asyncio.run(main())


def test_a_run_inside_of_a_timeout_of_asyncio_is_ended_by_it() -> None:
    async def node() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await DAG("held").add_node("node", node).run_async()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_a_node_that_raises_cancelled_error_itself_has_failed() -> None:
    async def node() -> None:
        raise asyncio.CancelledError

    async def main() -> None:
        dag = DAG("itself").add_node("node", node).add_node("after", lambda node: 1)
        dag.connect("node", "after")
        async with asyncio.timeout(LONG):
            with pytest.raises(ExecutionError, match="'node'") as caught:
                await dag.run_async()
        assert type(caught.value.__cause__) is asyncio.CancelledError
        assert dag.context.metadata["execution_status"] == "failed"

    asyncio.run(main())


@pytest.mark.needs("cloudpickle")
def test_cancelling_kills_worker_processes(shared: Any) -> None:
    pids, began, never = shared.list(), shared.Event(), shared.Event()
    dag = DAG("process")
    dag.add_node(
        "held", lambda: pids.append(os.getpid()) or began.set() or never.wait(), run_in="process"
    )

    async def main() -> None:
        task = asyncio.create_task(dag.run_async())
        await asyncio.to_thread(wait_for, began)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    wait_until(lambda: not is_alive(pids[0]))


def test_a_wait_between_attempts_ends_with_the_cancellation() -> None:
    async def main() -> None:
        began, called = threading.Event(), []

        def node() -> None:
            called.append(1)
            began.set()
            raise OSError("no")

        dag = DAG("retry").add_node("node", node, retry=3, retry_delay=3600)
        task = asyncio.create_task(dag.run_async())
        await asyncio.to_thread(wait_for, began)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert called == [1]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


# KeyboardInterrupt.


INTERRUPTED = """
import os, signal, sys, threading, time
from time import monotonic
from fast_dag import DAG

MODE, HOLDS = sys.argv[1:]
started = []
began, never = threading.Event(), threading.Event()

def held(quick):
    started.append("held")
    if HOLDS != "process":
        began.set()
    while not never.wait(0.05):
        pass

async def held_async(quick):
    import asyncio
    started.append("held")
    began.set()
    try:
        while True:
            await asyncio.sleep(0.05)
    finally:
        started.append("cleaned up")

def held_elsewhere(quick):
    os.kill(int(os.environ["HOME_PID"]), signal.SIGUSR1)
    time.sleep(1000)

os.environ.setdefault("HOME_PID", str(os.getpid()))
AT_HOME = {"run_in": "thread"} if MODE == "process" else {}
dag = DAG("held")
dag.add_node("quick", lambda: started.append("quick") or 1, **AT_HOME)
if HOLDS == "async":
    dag.add_node("held", held_async)
elif HOLDS == "process":
    dag.add_node("held", held_elsewhere, run_in="process")
else:
    dag.add_node("held", held, run_in="thread" if HOLDS == "thread" else None)
dag.add_node("after", lambda held: started.append("after"), **AT_HOME)
dag.connect("quick", "held").connect("held", "after")

def interrupt():
    global sent
    began.wait()
    sent = monotonic()
    # As the terminal does it; some kernels would give a signal for the process to another thread.
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, lambda *_: began.set())
    threading.Thread(target=interrupt, daemon=True).start()
    options = {"timeout": 1000} if MODE == "timed" else {}
    try:
        dag.run(mode="sequential" if MODE == "timed" else MODE, **options)
    except KeyboardInterrupt:
        prompt = monotonic() - sent < 40  # what is held would be for ever
        print(dag.context.metadata["execution_status"], started, dag.get("quick"), prompt)
"""
INTERRUPTIONS = [
    *(
        (mode, holds)
        for mode in ("sequential", "timed", "parallel", "async")
        for holds in ("sync", "async")
    ),
    ("sequential", "thread"),
    ("process", "thread"),
    ("process", "async"),
    ("process", "process"),
    ("parallel", "process"),
]


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("mode", "holds"), INTERRUPTIONS)
def test_keyboard_interrupt_ends_a_run_promptly(mode: str, holds: str, tmp_path: Any) -> None:
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(INTERRUPTED), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", program, mode, holds],
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    started = {
        "async": ["quick", "held", "cleaned up"],
        "process": ["quick"],
    }.get(holds, ["quick", "held"])
    assert done.stdout == f"cancelled {started} 1 True\n", done.stderr
    assert done.stderr == ""
    assert done.returncode == 0


INTERRUPTED_TWICE = """
import asyncio, contextlib, signal, sys, threading
from fast_dag import DAG

began, unwinds, seen = threading.Event(), threading.Event(), []
dag = DAG("twice")

@dag.resource("yielded")
async def yielded():
    yield 1
    seen.append("resumed")

@dag.resource("managed")
@contextlib.asynccontextmanager
async def managed():
    try:
        yield 2
    except BaseException:
        seen.append("rolled back")
        raise

def interrupt():
    for each in (began, unwinds):
        each.wait()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

@dag.node
async def held(yielded, managed):
    began.set()
    try:
        await asyncio.Event().wait()
    finally:
        unwinds.set()
        await asyncio.Event().wait()

threading.Thread(target=interrupt).start()
try:
    dag.run(mode=sys.argv[1])
except KeyboardInterrupt:
    print(dag.context.metadata["execution_status"])
for thread in threading.enumerate():
    if thread.name == "fast_dag loop":
        thread.join()
print(sorted(seen))
"""


@pytest.mark.parametrize("mode", ["async", "parallel"])
def test_a_second_ctrl_c_ends_the_tasks_of_resources_too(mode: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", INTERRUPTED_TWICE, mode],
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("cancelled\n['resumed', 'rolled back']\n", "")


INTERRUPTED_BETWEEN = """
import itertools, signal, threading
from time import monotonic
from fast_dag import DAG
from fast_dag.drive import blocking

blocking.GRACE = 60  # a run that lost what its thread was given would end after this
told = []

def into(results):
    try:
        for number in results:  # to take a result wakes the caller's thread, which waits
            if number == 300:
                sent.append(monotonic())
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    except RuntimeError as error:
        told.append(str(error))
        raise

dag = DAG("numbers").add_node("f", lambda x: x, over="x", into=into)
for _ in range(10):
    sent = []
    try:
        dag.run(x=itertools.count(), mode="parallel", max_workers=2)
    except KeyboardInterrupt:
        print(dag.context.metadata["execution_status"], monotonic() - sent[0] < 40)
print(set(told))
"""


def test_an_interruption_loses_nothing_that_its_thread_was_just_given() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", INTERRUPTED_BETWEEN],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    expected = "cancelled True\n" * 10 + "{\"map 'f' was cut short\"}\n"
    assert done.stdout == expected, done.stderr
    assert done.stderr == ""


INTERRUPTED_INSIDE = """
import asyncio, signal, sys, threading
from fast_dag import DAG

began, seen, main = threading.Event(), [], threading.main_thread()

async def held():
    try:
        began.set()
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        seen.append("unwound")

def node():
    if threading.current_thread() is main:
        inner.run(mode=sys.argv[1])
    began.wait()

def interrupt():
    began.wait()
    signal.pthread_kill(main.ident, signal.SIGINT)

inner = DAG("inner").add_node("held", held)
inner.set_node_hooks("held", cleanup=lambda node: seen.append("cleaned up"))
threading.Thread(target=interrupt, daemon=True).start()
try:
    DAG("outer").add_node("a", node).add_node("b", node).run(mode="parallel")
except KeyboardInterrupt:
    print(seen, inner.context.metadata["execution_status"])
"""


@pytest.mark.parametrize("mode", ["sequential", "async"])
def test_ctrl_c_cleans_up_in_a_run_on_a_loop_that_a_node_of_a_concurrent_run_waits_for(
    mode: str,
) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", INTERRUPTED_INSIDE, mode],
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("['unwound', 'cleaned up'] cancelled\n", "")


HEARD = """
import asyncio, signal, sys, threading, time
from fast_dag import DAG, Limits

begun, inside, never = threading.Event(), threading.Event(), threading.Event()
limits = Limits(db=1)

def held(first):
    inside.set()
    never.wait()

def elsewhere(dag):
    inside.clear()
    threading.Thread(target=dag.run, daemon=True).start()
    inside.wait()

def chain(last, **options):
    dag = DAG("waits", limits=limits).add_node("first", lambda: begun.set())
    return dag.add_node("last", last, **options).connect("first", "last")

async def waits(first):
    await asyncio.Event().wait()

def on_a_loop():
    return chain(waits)

def for_an_attempt():
    return chain(lambda first: 1 / 0, retry=1, retry_delay=3600)

def for_units():
    elsewhere(chain(held, uses="db"))
    return chain(lambda first: 1, uses="db")

def for_a_computation():
    dag = DAG("waits").add_node("first", lambda: begun.set())
    dag.cached_node(held)
    dag.connect("first", "held")
    elsewhere(dag)
    return dag

def interrupt():
    begun.wait()
    time.sleep(0.1)  # whoever is deaf does not hear it then
    signal.raise_signal(signal.SIGINT)  # in this thread, so that it ends no wait of the main one

for each in (on_a_loop, for_an_attempt, for_units, for_a_computation):
    dag = each()
    begun.clear()
    threading.Thread(target=interrupt, daemon=True).start()
    try:
        dag.run(mode=sys.argv[1])
    except KeyboardInterrupt:
        print(each.__name__, dag.context.metadata["execution_status"], flush=True)
"""


@pytest.mark.parametrize("mode", MODES)
def test_a_signal_that_does_not_end_the_wait_of_the_caller_is_heard_soon(mode: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", HEARD, mode],
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    waits = ("on_a_loop", "for_an_attempt", "for_units", "for_a_computation")
    assert done.stdout.splitlines() == [f"{each} cancelled" for each in waits], done.stderr


STORM = """
import random, signal, sys, threading
from fast_dag import DAG, Workers

def one(x=1):
    return x + 1

def strike():
    for _ in range(int(sys.argv[2])):
        signal.pthread_kill(main, signal.SIGINT)

KINDS = {
    "threads": {"mode": "parallel"},
    "timed": {"mode": "parallel", "timeout": 1000},
    "inline": {"mode": "parallel"},
    "map": {"mode": "parallel", "x": range(3000)},
    "workers": {"mode": "process"},
}

if __name__ == "__main__":
    kind, main = sys.argv[1], threading.main_thread().ident
    dag = DAG("storm")
    for name in "abcdef":
        dag.add_node(name, one, over="x" if kind == "map" else None)
    dag.connect("a", "d", input="x").connect("b", "e", input="x")
    if kind == "inline":
        dag.add_node("here", one, run_in="inline")
    options, chance = KINDS[kind], random.Random(1)
    if kind == "workers":
        options = {"executor": Workers(2)}
    expected = dag.execute(**options).results  # everything is imported now
    for _ in range(30):
        armed = threading.Timer(chance.random() * 0.01, strike)
        armed.daemon = True
        try:
            try:
                armed.start()
                while True:
                    dag.run(**options)
            except KeyboardInterrupt:
                armed.join()
        except KeyboardInterrupt:
            pass
    if kind == "workers":
        assert dag.execute(**options).results == expected
        options["executor"].shutdown()
    assert dag.execute(**KINDS[kind]).results == expected
    for thread in threading.enumerate():
        if "fast_dag" in thread.name:
            thread.join()
    print("over")
"""


@pytest.mark.stress
@pytest.mark.parametrize(
    ("kind", "presses"),
    [
        ("threads", "1"),
        pytest.param("workers", "2", marks=pytest.mark.needs("cloudpickle")),
        *(
            pytest.param(kind, presses, marks=pytest.mark.stress)
            for kind in ("threads", "timed", "inline", "map")
            for presses in ("2", "3")
        ),
    ],
)
def test_ctrl_c_at_any_moment_ends_a_run_of_short_nodes_promptly(
    kind: str, presses: str, tmp_path: Any
) -> None:
    """A run that had lost a call, because its hand-over was cut in half, would take seconds to end,
    each time, or never end."""
    program = tmp_path / "program.py"
    program.write_text(STORM, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", program, kind, presses],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("over\n", "")


def test_ctrl_c_after_a_while_is_raised_in_an_observer_that_hangs() -> None:
    """The first ones have cut the run short, and do not reach what hangs."""
    main = threading.main_thread().ident
    assert main is not None
    raised, hangs, never = [], threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        if threading.get_ident() != main or raised:
            return
        hangs.set()
        try:
            while True:
                never.wait(0.01)
        except KeyboardInterrupt:
            raised.append(1)
            raise

    def press() -> None:
        wait_for(hangs)
        while not raised:
            signal.pthread_kill(main, signal.SIGINT)
            never.wait(0.3)

    pressing = threading.Thread(target=press)
    pressing.start()
    dag = DAG("hangs").add_node("a", lambda: 1).add_node("b", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        dag.run(mode="parallel", progress=hang)
    pressing.join()
    assert raised
    assert dag.context.metadata["execution_status"] == "cancelled"


# SystemExit and KeyboardInterrupt that nodes raise.


@pytest.mark.one_in(3)
@pytest.mark.parametrize("way", EVERYWHERE, indirect=True)
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_what_ends_programs_propagates_from_a_node(
    way: Way, kind: type[BaseException], is_async: bool
) -> None:
    called, seen = way.shared.list(), []

    def leaves() -> None:
        called.append(1)
        raise kind(7)

    async def leaves_async() -> None:
        called.append(1)
        raise kind(7)

    context = Context()
    dag = DAG("leaves").add_node("node", leaves_async if is_async else leaves, retry=2)
    dag.add_node("after", lambda node: called.append("after")).connect("node", "after")
    with pytest.raises(kind) as caught:
        way.execute(
            dag,
            context=context,
            error_handler=lambda *given: seen.append(given) or "continue",
        )
    assert caught.value.args == (7,)
    assert list(called) == [1], "it is neither retried nor swallowed"
    assert not seen
    assert context.metadata["execution_status"] == "cancelled"
    assert way.execute(DAG("next").add_node("node", lambda: 1), context=context).value == 1


@pytest.mark.parametrize("mode", OWN)
def test_what_ends_programs_propagates_from_a_nested_workflow(mode: str) -> None:
    def leaves() -> None:
        sys.exit(3)

    inner = DAG("inner").add_node("node", leaves)
    outer = DAG("outer").add_node("inner", inner, retry=1).add_node("after", lambda inner: 1)
    outer.connect("inner", "after")
    with pytest.raises(SystemExit) as caught:
        EXECUTE[mode](outer)
    assert caught.value.code == 3
    assert outer.context.metadata["execution_status"] == "cancelled"


@pytest.mark.parametrize("mode", ["async", "run_async"])
def test_what_ends_programs_does_not_wait_for_other_nodes(mode: str) -> None:
    held, never, ended = threading.Event(), threading.Event(), threading.Event()
    before = threads_of_runs()

    def holds() -> None:
        held.set()
        never.wait(LONG)
        ended.set()

    def leaves() -> None:
        wait_for(held)
        sys.exit(3)

    dag = DAG("leaves").add_node("holds", holds).add_node("leaves", leaves)
    with pytest.raises(SystemExit):
        EXECUTE[mode](dag, max_workers=2)
    assert not ended.is_set()
    never.set()
    end_of(threads_of_runs() - before)


@pytest.mark.parametrize("options", [{}, {"max_workers": 3}], ids=str)
def test_after_what_is_no_failure_nothing_starts(options: Any) -> None:
    started = []

    async def leaves() -> None:
        raise SystemExit

    async def fails() -> None:
        raise ValueError

    async def node(above: Any = None) -> None:
        started.append(above)

    dag = DAG("leaves").add_node("leaves", leaves).add_node("fails", fails)
    dag.add_node("a", node).add_node("b", node).connect("a", "b")

    async def main() -> None:
        with pytest.raises(SystemExit):
            await dag.run_async(error_strategy="continue", **options)

    asyncio.run(main())
    assert not started


def test_an_interrupt_reaches_the_main_thread_of_pytest_as_of_any_program() -> None:
    """Raised by the system itself, in the middle of a sequential node."""
    dag = DAG("signal").add_node("node", lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        dag.run()
    assert dag.context.metadata["execution_status"] == "cancelled"


def test_the_cleanup_of_a_call_that_ended_as_it_was_given_up_is_not_cancelled() -> None:
    """By another thread, which tells the loop late."""
    ready, stopped, cleaning = threading.Event(), threading.Event(), threading.Event()
    over = asyncio.Event()
    log: list[str] = []

    class Loop(asyncio.SelectorEventLoop):
        def call_soon_threadsafe(self, *args: Any, **options: Any) -> Any:
            if not ready.is_set() or stopped.is_set():
                return super().call_soon_threadsafe(*args, **options)
            stopped.set()
            wait_for(cleaning)
            handle = super().call_soon_threadsafe(*args, **options)
            super().call_soon_threadsafe(over.set)
            return handle

    async def work() -> None:
        ready.set()
        wait_for(stopped)

    def leaves() -> None:
        wait_for(ready)
        sys.exit(3)

    async def clean(node: Any) -> None:
        cleaning.set()
        await over.wait()
        log.append(node.name)

    async def main() -> None:
        with pytest.raises(SystemExit):
            await dag.run_async()

    dag = DAG("late").add_node("leaves", leaves).add_node("work", work)
    dag.set_node_hooks("work", cleanup=clean)
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())
    assert log == ["work"]


@pytest.mark.parametrize("kind", ["node", "map"])
def test_ctrl_c_as_a_coroutine_of_a_sequential_run_ends_leaves_its_loop_in_order(kind: str) -> None:
    log: list[str] = []

    async def work(x: int) -> int:
        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
        return x

    async def clean(node: Any) -> None:
        await asyncio.sleep(0)
        log.append("cleaned up")

    async def into(results: Any) -> list[int]:
        try:
            return [each async for each in results]
        finally:
            log.append("into")

    dag = DAG("end")
    if kind == "map":
        dag.add_node("work", work, over="x", into=into)
    else:
        dag.add_node("work", work)
    dag.set_node_hooks("work", cleanup=clean)
    with pytest.raises(KeyboardInterrupt):
        dag.run(x=[1] if kind == "map" else 1)
    assert log == (["cleaned up", "into"] if kind == "map" else ["cleaned up"])


def test_ctrl_c_as_a_coroutine_of_a_sequential_run_begins_is_no_failure_of_its_node() -> None:
    async def work() -> None: ...

    def strike(frame: Any, event: str, arg: Any) -> None:
        if event == "return" and frame.f_code is signal.signal.__code__:  # by `Runner.run`
            sys.setprofile(None)
            signal.raise_signal(signal.SIGINT)

    dag = DAG("begin").add_node("work", work)
    sys.setprofile(strike)
    try:
        with pytest.raises(KeyboardInterrupt):
            dag.run()
    finally:
        sys.setprofile(None)
    assert dag.last_run is not None
    assert dag.last_run.status == "cancelled"


def test_ctrl_c_that_strikes_the_loop_itself_as_the_run_ends_does_not_hang() -> None:
    """In the callback that sets an event, which nobody would hear of."""
    code = """
import asyncio, sys
from fast_dag import DAG

dag = DAG("dag").add_node("one", lambda: 1)

def strike(frame, event, arg):
    if event == "call" and frame.f_code is asyncio.Event.set.__code__:
        sys.setprofile(None)
        raise KeyboardInterrupt

sys.setprofile(strike)
try:
    dag.run(mode="async")
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=LONG, check=True
    )
    assert done.stdout == "interrupted\n"
