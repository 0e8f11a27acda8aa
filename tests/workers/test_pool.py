"""One pool of worker processes, used by many: runs, threads, loops, nested runs, callers."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import threading
from collections import Counter
from concurrent.futures import CancelledError, wait
from pathlib import Path
from typing import Any

import pytest

import fast_dag
from fast_dag import DAG, Context, ExecutionError, TimeoutError, ValidationError, Workers
from fast_dag.drive import payload, protocol
from fast_dag.drive.workers import _Submitted
from tests.concurrency.support import children, is_alive, wait_for, wait_until
from tests.patience import LONG
from tests.workers import steps


def chain(name: str = "chain") -> DAG:
    dag = DAG(name).add_node("a", steps.add).add_node("b", steps.add).add_node("c", steps.pid)
    dag.connect("a", "b", input="x")
    return dag.connect("b", "c", input=False)


def test_processes_stay_from_run_to_run() -> None:
    with Workers(1) as workers:
        pids = {chain().run(x=1, executor=workers) for _ in range(3)}
        assert len(pids) == 1
        assert pids != {os.getpid()}
        assert children() >= pids
    wait_until(lambda: not is_alive(pids.pop()))


def test_processes_are_started_on_demand_only() -> None:
    with Workers(4) as workers:
        before = children()
        assert not children() - before
        for _ in range(3):
            chain().run(x=1, executor=workers)
        assert len(children() - before) == 1


def test_runs_of_many_threads_and_loops_share_a_pool() -> None:
    async def awaited(workers: Workers) -> set[int]:
        runs = [chain().run_async(x=1, executor=workers) for _ in range(5)]
        return set(await asyncio.gather(*runs))

    found: list[set[int]] = []
    with Workers(2) as workers:
        threads = [
            threading.Thread(target=lambda: found.append(asyncio.run(awaited(workers))))
            for _ in range(3)
        ]
        threads += [
            threading.Thread(target=lambda: found.append({chain().run(x=1, executor=workers)}))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 9
    assert len(set().union(*found)) <= 2


def test_runs_inside_of_nodes_use_the_pool_of_the_run_around_them() -> None:
    """Neither the nodes that wait for a run, nor nested workflows, hold a process meanwhile."""
    inner = DAG("inner").add_node("x", steps.add)
    with Workers(1) as workers:

        def runs_inside(x: int) -> Any:
            deeper = DAG("deeper").add_node("x", steps.add).add_node("nested", inner)
            deeper.connect("x", "nested", input="x")
            return deeper.run(x=x, executor=workers)

        dag = DAG("outer").add_node("first", steps.add)
        dag.add_node("home", runs_inside, run_in="thread").add_node("last", steps.add)
        dag.connect("first", "home", input="x").connect("home", "last", input="x")
        assert dag.run(x=1, executor=workers) == 5


def test_an_observer_that_starts_a_run_does_not_wait_for_its_own_process() -> None:
    with Workers(1) as workers:
        seen: list[int] = []

        def watch(name: str, status: str, fraction: float) -> None:
            if status == "completed" and name == "a":
                seen.append(DAG("inside").add_node("n", steps.add).run(x=9, executor=workers))

        chain().run(x=1, executor=workers, progress=watch)
    assert seen == [10]


def test_runs_take_turns(tmp_path: Path) -> None:
    """A short run does not wait for all that a long one has queued."""
    ready, go, log = tmp_path / "ready", tmp_path / "go", tmp_path / "log"
    long = DAG("long").add_node("begin", lambda: steps.when(str(ready), str(go)))
    for index in range(20):
        long.add_node(f"n{index}", lambda index=index: steps.noted(str(log)), inputs=[])
    with Workers(1) as workers:
        thread = threading.Thread(target=lambda: long.run(executor=workers, max_workers=30))
        thread.start()
        wait_until(ready.exists)
        short: list[int] = []

        def made_before() -> int:
            return len(log.read_text(encoding="utf-8").splitlines()) if log.exists() else 0

        def soon() -> None:
            short.append(DAG("short").add_node("n", made_before).run(executor=workers))

        other = threading.Thread(target=soon)
        other.start()
        wait_until(lambda: len(workers._pool._lines) == 2)
        go.touch()
        other.join()
        thread.join()
    assert short[0] < 20


def test_a_node_that_is_late_costs_no_other(tmp_path: Path) -> None:
    never = str(tmp_path / "never")
    dag = DAG("late").add_node(
        "late", lambda: steps.when(str(tmp_path / "ready"), never), timeout=0.3
    )
    dag.add_node("good", steps.pid)
    with Workers(2) as workers:
        warm = [
            workers.submit(steps.when, str(tmp_path / f"r{i}"), str(tmp_path / "go"))
            for i in range(2)
        ]
        wait_until(lambda: (tmp_path / "r0").exists() and (tmp_path / "r1").exists())
        (tmp_path / "go").touch()
        before = {each.result() for each in warm}
        run = dag.execute(executor=workers, error_strategy="continue")
        assert isinstance(run.errors["late"], TimeoutError)
        assert run["good"] in before
        wait_until(lambda: sum(map(is_alive, before)) == 1)
        assert chain().run(x=1, executor=workers)


def test_time_in_the_line_is_not_the_nodes(tmp_path: Path) -> None:
    ready, go = tmp_path / "ready", tmp_path / "go"
    with Workers(1) as workers:
        busy = workers.submit(steps.when, str(ready), str(go))
        wait_until(ready.exists)
        dag = DAG("waits").add_node("n", steps.pid, timeout=1.0)
        done: list[Any] = []
        thread = threading.Thread(target=lambda: done.append(dag.execute(executor=workers)))
        thread.start()
        assert not busy.done()
        threading.Event().wait(1.1)
        go.touch()
        thread.join()
    assert done[0].errors == {}


def test_a_run_that_is_late_does_not_wait_for_its_turn(tmp_path: Path) -> None:
    ready, go = tmp_path / "ready", tmp_path / "go"
    with Workers(1) as workers:
        busy = workers.submit(steps.when, str(ready), str(go))
        wait_until(ready.exists)
        run = DAG("late").add_node("n", steps.pid).execute(executor=workers, timeout=0.1)
        assert run.status == "timed_out"
        assert not busy.done()
        go.touch()
        busy.result()


def test_a_run_that_failed_does_not_wait_for_its_turn(tmp_path: Path) -> None:
    ready, go = tmp_path / "ready", tmp_path / "go"
    dag = DAG("fails").add_node("queued", steps.pid).add_node("below", steps.pid)
    dag.connect("queued", "below", input=False)
    dag.add_node("fails", lambda: 1 / 0, run_in="thread")
    with Workers(1) as workers:
        busy = workers.submit(steps.when, str(ready), str(go))
        wait_until(ready.exists)
        run = dag.execute(executor=workers, max_workers=2)
        assert run.statuses == {"queued": "not_run", "below": "not_run", "fails": "failed"}
        assert not busy.done()
        go.touch()
        busy.result()


def test_where_nodes_run() -> None:
    dag = DAG("where").add_node("context", lambda context: os.getpid(), inputs=[])
    dag.add_node(
        "away", lambda context: context.metadata.__setitem__("away", os.getpid()), run_in="process"
    )
    dag.add_node("thread", steps.pid, run_in="thread").add_node(
        "inline", steps.pid, run_in="inline"
    )
    dag.add_node("plain", steps.pid)

    @dag.node
    async def awaits() -> int:
        return os.getpid()

    with Workers(1) as workers:
        run = dag.execute(executor=workers, context=Context())
    here = {name for name in run.results if run[name] == os.getpid()}
    assert here == {"context", "thread", "inline", "awaits"}
    assert run.context.metadata["away"] == run["plain"]


# Its options.


def test_idle_processes_end_and_new_ones_are_started() -> None:
    with Workers(2, idle=0.1) as workers:
        first = chain().run(x=1, executor=workers)
        wait_until(lambda: not is_alive(first))
        wait_until(lambda: not workers._pool._threads)
        assert chain().run(x=1, executor=workers) != first


def test_an_initializer_is_called_once_in_each_process() -> None:
    with Workers(1, initializer=steps.starts) as workers:
        for _ in range(2):
            pid = workers.submit(steps.pid).result()
            assert workers.submit(steps.started).result() == [pid]


@pytest.mark.parametrize(
    ("initializer", "why"),
    [
        (steps.fails_to_start, "its initializer failed: LookupError: no model there"),
        (steps.dies_as_it_starts, r"it died at once \(exit code -9\)"),
        (threading.Lock().acquire, "cannot pickle"),
    ],
)
def test_what_keeps_a_process_from_starting_fails_the_node(initializer: Any, why: str) -> None:
    with (
        Workers(1, initializer=initializer) as workers,
        pytest.raises(ExecutionError, match=f"'a' could not be started: .*{why}") as caught,
    ):
        chain().run(x=1, executor=workers)
    assert caught.value.node_name == "a"


def test_log_records_come_home(caplog: pytest.LogCaptureFixture) -> None:
    with Workers(1, logging=logging.INFO) as workers, caplog.at_level(logging.INFO):
        pid = workers.submit(steps.pid).result()
        DAG("logs").add_node("n", steps.logs).run(text="this", executor=workers)
    records = [each for each in caplog.records if each.name == "steps"]
    assert [each.getMessage() for each in records] == ["said this", "and failed"]
    assert {each.process for each in records} == {pid}
    assert "KeyError" in (records[1].exc_text or "")


class Raises(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise ValueError(record)


def test_log_records_that_cannot_be_handled_cost_no_call(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in other programs, logging writes to stderr what is wrong with them."""
    monkeypatch.setattr(logging.getLogger("steps"), "propagate", False)
    monkeypatch.setattr(logging.getLogger("steps"), "handlers", [Raises()])
    dag = DAG("logs").add_node("n", steps.logs_badly).add_node("fine", steps.logs)
    with Workers(1, logging=logging.INFO) as workers:
        run = dag.execute(text="this", executor=workers)
        assert (run.errors, run["n"]) == ({}, "this")
        assert workers.submit(steps.same, 1).result() == 1
    written = capfd.readouterr().err
    assert all(each in written for each in ("no number", "not here", "ValueError: <LogRecord"))


def test_a_process_makes_so_many_calls_only() -> None:
    with Workers(1, max_calls=2) as workers:
        pids = [workers.submit(steps.pid).result() for _ in range(4)]
    assert pids[0] == pids[1] != pids[2] == pids[3]


def test_the_items_of_a_map_are_calls_of_their_processes() -> None:
    dag = DAG("pids").add_node("pid", lambda x: (os.getpid(), x), over="x")
    with Workers(1, max_calls=4) as workers:
        made = dag.run(x=range(10), executor=workers)
    assert [x for _, x in made] == list(range(10))
    assert list(Counter(pid for pid, _ in made).values()) == [4, 4, 2]


def test_restart_replaces_all_processes(tmp_path: Path) -> None:
    """Those that make a call end after it."""
    ready, go = tmp_path / "ready", tmp_path / "go"
    with Workers(2) as workers:
        busy = workers.submit(steps.when, str(ready), str(go))
        wait_until(ready.exists)
        idle = workers.submit(steps.pid).result()
        workers.restart()
        go.touch()
        old = {idle, busy.result()}
        assert not {workers.submit(steps.pid).result() for _ in range(3)} & old
        wait_until(lambda: not any(map(is_alive, old)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n is a count of at least 1, not 0"),
        ({"idle": 0}, "idle is a number of seconds above 0"),
        ({"max_calls": "2"}, "max_calls is a count of at least 1, not '2'"),
        ({"start_method": "fork"}, "start_method is 'spawn' or None, not 'fork'"),
        ({"initializer": 3}, "initializer is a function, not 3"),
        ({"logging": "LOUD"}, "logging is a log level, such as logging.INFO, not 'LOUD'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Workers(**options)


# The end of it.


def test_a_closed_pool_refuses_runs_and_calls() -> None:
    workers = Workers(1)
    workers.shutdown()
    assert repr(workers) == "<Workers: 1, shut down>"
    dag = DAG("down").add_node("n", steps.pid)
    with pytest.raises(ValidationError, match="shut down"):
        dag.run(executor=workers)
    with pytest.raises(RuntimeError, match="shut down"):
        workers.submit(steps.pid)


def test_shutdown_waits_for_runs_in_progress(tmp_path: Path) -> None:
    """Also for their nodes that have not begun."""
    ready, go = tmp_path / "ready", tmp_path / "go"
    dag = DAG("on").add_node("first", lambda: steps.when(str(ready), str(go)))
    dag.add_node("second", steps.pid).connect("first", "second", input=False)
    workers, runs = Workers(1), []
    thread = threading.Thread(target=lambda: runs.append(dag.execute(executor=workers)))
    thread.start()
    wait_until(ready.exists)
    workers.shutdown(wait=False)
    closing = threading.Thread(target=workers.shutdown)
    closing.start()
    go.touch()
    closing.join()
    thread.join()
    assert runs[0].status == "completed"


def test_shutdown_can_fail_what_has_not_begun(tmp_path: Path) -> None:
    ready, go = tmp_path / "ready", tmp_path / "go"
    dag = DAG("off").add_node("first", lambda: steps.when(str(ready), str(go)))
    dag.add_node("second", steps.pid).connect("first", "second", input=False)
    dag.add_node("other", steps.pid)
    workers, runs = Workers(1), []
    thread = threading.Thread(
        target=lambda: runs.append(
            dag.execute(executor=workers, max_workers=2, error_strategy="continue")
        )
    )
    thread.start()
    wait_until(ready.exists)
    wait_until(lambda: workers._pool._lines)
    queued = workers.submit(steps.pid)
    workers.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(CancelledError):
        queued.result(LONG)
    go.touch()
    workers.shutdown()
    thread.join()
    assert runs[0].statuses == {"first": "completed", "second": "failed", "other": "failed"}
    assert "'second' was not run: the Workers were shut down" in str(runs[0].errors["second"])


def test_a_forgotten_pool_ends_its_processes() -> None:
    workers = Workers(1)
    pid = workers.submit(steps.pid).result()
    del workers
    wait_until(lambda: not is_alive(pid))


def test_a_forgotten_pool_makes_the_calls_that_were_submitted() -> None:
    assert Workers(1).submit(pow, 2, 5).result() == 32
    futures = [Workers(1).submit(steps.pid), Workers(1).submit(steps.pid)]
    pids = [each.result() for each in futures]
    assert list(Workers(1).map(steps.same, [1, 2, 3])) == [1, 2, 3]
    wait_until(lambda: not any(map(is_alive, pids)))


def shut_down_by_a_callback(workers: Workers) -> None:
    ended = threading.Event()

    def ends(_: object) -> None:
        workers.shutdown()
        ended.set()

    workers.submit(steps.pid).add_done_callback(ends)
    wait_for(ended)


def shut_down_by_a_node(workers: Workers) -> None:
    dag = DAG("shuts").add_node("n", steps.pid)

    @dag.node
    def shuts(context: Context) -> None:
        workers.shutdown()

    assert dag.execute(executor=workers).status == "completed"


def shut_down_by_a_loop_that_awaits_a_run(workers: Workers) -> None:
    dag = DAG("awaited").add_node("n", steps.same).add_node("m", steps.same)
    dag.connect("n", "m")

    async def main() -> object:
        with workers:
            task = asyncio.create_task(dag.run_async(x=1, executor=workers))
            await asyncio.sleep(0)
        return await task

    assert asyncio.run(main()) == 1


@pytest.mark.parametrize(
    "shut_down",
    [shut_down_by_a_callback, shut_down_by_a_node, shut_down_by_a_loop_that_awaits_a_run],
)
def test_shutdown_does_not_wait_for_itself(shut_down: Any) -> None:
    workers = Workers(1)
    pid = workers.submit(steps.pid).result()
    shut_down(workers)
    wait_until(lambda: not is_alive(pid))
    with pytest.raises(RuntimeError, match="shut down"):
        workers.submit(steps.pid)


def test_a_pool_does_not_pickle() -> None:
    with Workers(1) as workers, pytest.raises(TypeError, match="do not pickle"):
        pickle.dumps(workers)


def test_the_package_loads_workers_only_when_asked() -> None:
    assert "Workers" in dir(fast_dag)
    assert fast_dag.Workers is Workers


# As an executor.


def test_calls_are_submitted_and_mapped() -> None:
    with Workers(2) as workers:
        assert workers.submit(steps.add, 1, y=5).result() == 6
        assert list(workers.map(steps.add, range(5))) == [1, 2, 3, 4, 5]
        assert workers.submit(lambda x: x + os.getpid(), 1).result() != os.getpid() + 1
        failed = workers.submit(steps.add, "a", y=5).exception()
    assert isinstance(failed, TypeError)
    assert "steps.py" in "".join(failed.__notes__)


def test_a_submitted_call_can_be_cancelled_until_it_begins(tmp_path: Path) -> None:
    ready, go = tmp_path / "ready", tmp_path / "go"
    with Workers(1) as workers:
        busy = workers.submit(steps.when, str(ready), str(go))
        wait_until(ready.exists)
        queued = workers.submit(steps.pid)
        assert queued.cancel()
        assert not busy.cancel()
        go.touch()
        wait([busy, queued], LONG)
        assert queued.cancelled()


def test_a_submitted_call_whose_process_dies_says_so(tmp_path: Path) -> None:
    with Workers(1) as workers:
        error = workers.submit(steps.noted_and_killed, str(tmp_path / "log")).exception()
        assert isinstance(error, ExecutionError)
        assert "the call of 'noted_and_killed' died before the call ended" in str(error)
        assert workers.submit(steps.add, 1).result() == 2


def test_what_cannot_travel_is_told_to_who_submitted_it() -> None:
    with Workers(1) as workers:
        with pytest.raises(TypeError, match="pickle"):
            workers.submit(steps.same, threading.Lock()).result()
        with pytest.raises(ExecutionError, match="its result, a lock, cannot be pickled"):
            workers.submit(threading.Lock).result()
        assert workers.submit(steps.add, 1).result() == 2


# What a call tells while it goes on.


class Watched(_Submitted):
    """A call of which somebody notes what it tells."""

    def __init__(self, workers: Workers, func: Any, *args: Any, **options: Any) -> None:
        super().__init__(workers, func, args, {})
        self.heard: list[tuple[int, Any]] = []
        vars(self).update(options)
        workers._pool.enter()
        workers._pool.submit(self)

    def packed(self, names: payload.Names) -> Any:
        func, args, kwargs = self.call
        return payload.packed((func, args, kwargs, False, {"trace": "7"}), names)

    def told(self, message: Any) -> None:
        value = payload.unpacked(message) if message.kind == protocol.EMITTED else None
        self.heard.append((message.kind, value))


def test_a_call_emits_values_and_has_its_carrier() -> None:
    with Workers(1) as workers:
        call = Watched(workers, steps.emits, "a", "b")
        assert call.future.result(LONG) == {"trace": "7"}
        assert call.heard == [(protocol.EMITTED, "a"), (protocol.EMITTED, "b")]
        call = Watched(workers, steps.pid, reports=True)
        call.future.result(LONG)
        assert call.heard == [(protocol.BEGINS, None)]


def test_nodes_and_coroutine_functions_are_submitted_as_they_are() -> None:
    dag = DAG("lent")

    @dag.node
    def doubled(x: int) -> int:
        return 2 * x

    async def awaited(x: int) -> int:
        return 3 * x

    with Workers(1) as workers:
        assert workers.submit(doubled, 2).result() == 4
        assert workers.submit(awaited, 2).result() == 6

        async def on_a_loop() -> int:
            return await asyncio.get_running_loop().run_in_executor(workers, steps.add, 1)

        assert asyncio.run(on_a_loop()) == 2
