"""The database of a store: commits, locks, forks, and disks that fail."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing, suppress
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import DAG, ValidationError
from fast_dag.store import RunInUseError, Store, StoreError
from fast_dag.store.database import Change, Database, Write, filesystem_of, refuse_network
from fast_dag.store.locks import LockFile
from fast_dag.store.values import Values
from tests.leaks import nothing_left
from tests.patience import LONG

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "runs.db") as made:
        yield made


def child(code: str, *args: str) -> subprocess.Popen[str]:
    """A Python process that runs these lines."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def told(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


# Commits.


class Counting(sqlite3.Connection):
    """Counts the transactions of this process."""

    commits = 0

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:  # type: ignore[override]
        if sql == "COMMIT" or "INSERT INTO nodes" in sql:
            Counting.commits += sql == "COMMIT" or not self.in_transaction
        return super().execute(sql, *values)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> type[Counting]:
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda path, **options: connect(path, factory=Counting, **options)
    )
    Counting.commits = 0
    return Counting


def test_node_is_one_commit(counting: type[Counting], tmp_path: Path) -> None:
    dag = DAG("chain").add_node("n0", lambda: 0)
    for number in range(1, 10):
        dag.add_node(f"n{number}", lambda x: x + 1).connect(f"n{number - 1}", f"n{number}")
    with Store(tmp_path / "runs.db") as store:
        dag.run(store=store, run_id="warm")
        counting.commits = 0
        dag.run(store=store, run_id="a")
    assert counting.commits == 10 + 2


def test_nodes_that_end_together_share_a_commit(counting: type[Counting], tmp_path: Path) -> None:
    dag = DAG("wide")
    for number in range(200):
        dag.add_node(f"n{number}", asyncio.sleep, inputs=["delay", "result"])
    with Store(tmp_path / "runs.db") as store:
        counting.commits = 0
        asyncio.run(dag.run_async(store=store, run_id="a", delay=0, result=1))
    assert counting.commits < 100


def test_runs_that_begin_together_share_a_commit(counting: type[Counting], tmp_path: Path) -> None:
    """They do so while another commit lasts, for which this test stands."""
    dag = DAG("one").add_node("one", lambda: 1)
    with Store(tmp_path / "runs.db") as store:
        dag.run(store=store)
        database, begun = store.database, threading.Semaphore(0)
        first = Change(database, lambda _: None, lambda: None)
        others = [Change(database, _noted(begun, number), lambda: None) for number in range(5)]
        counting.commits = 0
        with database.lock:
            for each in (first, *others):
                each.when_ready(begun.release)
        for _ in range(11):  # each was written, and each but the first noted that
            assert begun.acquire(timeout=LONG)
        assert counting.commits == 1
        assert [type(each.error) for each in others] == [type(None), ValueError] * 2 + [type(None)]
        found = database.rows("SELECT value FROM about WHERE key LIKE 'test%' ORDER BY key")
        assert found == [(0,), (2,), (4,)]


def _noted(called: threading.Semaphore, number: int) -> Any:
    """Writes a number, and then raises if it is odd."""

    def write(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO about VALUES (?, ?)", (f"test {number}", number))
        called.release()
        if number % 2:
            raise ValueError(number)

    return write


@pytest.mark.parametrize("mode", ["sequential", "parallel", "async"])
def test_nothing_outlives_a_run_or_its_store(mode: Any, tmp_path: Path) -> None:
    with nothing_left(), Store(tmp_path / "runs.db") as store:
        dag = DAG("two").add_node("a", lambda: 1).add_node("b", lambda a: a).connect("a", "b")
        assert dag.run(store=store, run_id="a", mode=mode) == 1


def test_files_can_be_read_by_their_owner_only(store: Store, tmp_path: Path) -> None:
    DAG("one").add_node("one", lambda: 1).run(store=store)
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()}
    assert set(modes.values()) == {0o600}
    assert {"runs.db", "runs.db-wal", "runs.db-locks"} <= set(modes)


def test_log_is_kept_short_by_checkpoints(tmp_path: Path) -> None:
    dag = DAG("wide")
    for number in range(600):
        dag.add_node(f"n{number}", lambda: "x" * 20_000)
    with Store(tmp_path / "runs.db", durability="process") as store:
        dag.run(store=store, run_id="a")
        assert (tmp_path / "runs.db-wal").stat().st_size < 10 * 2**20


@pytest.mark.timeout(50)  # a checkpoint that waited for the reader would take a minute
def test_somebody_who_reads_for_long_holds_up_no_commit(tmp_path: Path) -> None:
    dag = DAG("wide")
    for number in range(600):
        dag.add_node(f"n{number}", lambda: "x" * 20_000)
    path = tmp_path / "runs.db"
    with Store(path, durability="process") as store, closing(sqlite3.connect(path)) as reader:
        dag.run(store=store, run_id="a")
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM nodes").fetchone() == (600,)
        dag.run(store=store, run_id="b")
        assert reader.execute("SELECT count(*) FROM nodes").fetchone() == (600,)
        reader.rollback()
        dag.run(store=store, run_id="c")
        assert (tmp_path / "runs.db-wal").stat().st_size < 10 * 2**20


# Locks.


def test_file_that_is_opened_twice_keeps_its_locks(tmp_path: Path) -> None:
    path = str(tmp_path / "locks")
    one, other = LockFile.of(path), LockFile.of(str(tmp_path / "." / "locks"))
    hold = one.take(3)
    assert hold is not None
    other.leave()
    code = (
        "import sys; from fast_dag.store.locks import LockFile;"
        "print(LockFile.of(sys.argv[1]).take(3) is None, LockFile.of(sys.argv[1]).take(4) is None)"
    )
    with child(code, path) as process:
        assert told(process) == "True False"
    one.give_back(hold)
    one.leave()


def test_store_that_is_opened_twice_is_one_database(tmp_path: Path) -> None:
    with Store(tmp_path / "runs.db") as one:
        with Store(tmp_path / ".." / tmp_path.name / "runs.db") as other:
            assert one.database is other.database
        assert DAG("one").add_node("one", lambda: 1).run(store=one) == 1


def test_ten_thousand_claims_leave_nothing(tmp_path: Path) -> None:
    with nothing_left():
        locks = LockFile.of(str(tmp_path / "locks"))
        holds = [locks.take(byte) for byte in range(1, 10_001)]
        assert all(hold is not None for hold in holds)
        assert locks.take(5000) is None
        for hold in holds:
            assert hold is not None
            locks.give_back(hold)
        locks.leave()


HOLDER = """
import sys, signal
from fast_dag import DAG
from fast_dag.store import Store

def wait():
    print("begun", flush=True)
    return sys.stdin.readline()

dag = DAG("slow").add_node("first", lambda: 1).add_node("wait", wait).add_node("last", lambda x: x)
dag.connect("first", "wait", input=False).connect("wait", "last")
try:
    print(dag.run(store=Store(sys.argv[1]), run_id="a").strip(), flush=True)
except BaseException as error:
    print(type(error).__name__, flush=True)
"""


def slow() -> DAG:
    dag = DAG("slow").add_node("first", lambda: 1).add_node("wait", lambda: "mine\n")
    dag.add_node("last", lambda x: x)
    return dag.connect("first", "wait", input=False).connect("wait", "last")


def test_stopped_process_keeps_its_run_and_a_killed_one_does_not(tmp_path: Path) -> None:
    path = str(tmp_path / "runs.db")
    with child(HOLDER, path) as process, Store(path) as store:
        assert told(process) == "begun"
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(RunInUseError, match=f"process {process.pid} on"):
            slow().run(store=store, run_id="a", on_change="keep")
        process.send_signal(signal.SIGCONT)
        assert store.run("a").status == "running"
        process.kill()
        process.wait()
        assert store.run("a").status == "interrupted"
        run = slow().execute(store=store, run_id="a", on_change="keep")
        assert (run.value, run.metrics["replayed"]) == ("mine\n", 1)


def test_owner_whose_run_was_taken_commits_nothing_more(tmp_path: Path) -> None:
    path = str(tmp_path / "runs.db")
    with child(HOLDER, path) as process, Store(path) as store:
        assert told(process) == "begun"
        store.database.transact(
            lambda connection: connection.execute("UPDATE runs SET epoch = epoch + 1")
        )
        assert process.stdin is not None
        process.stdin.write("theirs\n")
        process.stdin.flush()
        assert told(process) == "RunLostError"
        assert list(store.run("a").nodes) == ["first"]


def test_two_processes_on_one_run_are_one_owner_and_one_that_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "runs.db")
    Store(path).close()
    processes = [child(HOLDER, path) for _ in range(4)]
    answers = [told(process) for process in processes]
    assert sorted(answers) == ["RunInUseError"] * 3 + ["begun"]
    for process in processes:
        process.communicate("x\n" if process.returncode is None else None, timeout=LONG)


# Timeouts.


@pytest.mark.parametrize(
    ("mode", "nested"), [("sequential", False), ("parallel", True), ("async", False)]
)
def test_time_of_commits_counts_in_no_timeout(mode: Any, nested: bool, store: Store) -> None:
    """The first commit waits until a run with the same timeout, which began later, is late."""
    locked, seconds = threading.Event(), 0.75

    def first() -> int:
        store.database.lock.acquire()
        locked.set()
        return 1

    def time_out() -> None:
        with pytest.raises(TimeoutError):
            DAG("late").add_node("hangs", lambda: done.wait(LONG)).run(timeout=seconds)
        store.database.lock.release()

    done, late = threading.Event(), DAG("inner").add_node("first", first)
    late.add_node("second", lambda x: x + 1).connect("first", "second")
    options: dict[str, Any] = {"timeout": seconds}
    if nested:
        late, options = DAG("outer").add_node("inner", late, timeout=seconds), {}
    helper = threading.Thread(target=lambda: locked.wait(LONG) and time_out())
    helper.start()
    try:
        assert late.run(store=store, mode=mode, **options) == 2
    finally:
        done.set()
        helper.join()


@pytest.mark.parametrize("nested", [False, True])
def test_time_of_nodes_counts_after_a_commit(nested: bool, store: Store) -> None:
    done = threading.Event()
    dag = DAG("late").add_node("first", lambda: 1).add_node("hangs", lambda x: done.wait(LONG))
    dag.connect("first", "hangs")
    options: dict[str, Any] = {"timeout": 0.05}
    if nested:
        dag, options = DAG("outer").add_node("inner", dag, timeout=0.05), {}
    try:
        with pytest.raises(TimeoutError):
            dag.run(store=store, **options)
    finally:
        done.set()


# Forks.


def forked(function: Any) -> int:
    """The exit code of a forked child that calls a function."""
    code = f"""
import os, sys, tempfile, traceback
from fast_dag import DAG
from fast_dag.store import *
store = Store(tempfile.mkdtemp() + "/runs.db")
dag = DAG("one").add_node("one", lambda: 1)
{function}
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LONG,
    )
    print(done.stderr)
    return done.returncode


def test_forked_child_may_use_the_store_and_leaves_that_of_its_parent_alone() -> None:
    code = """
dag.run(store=store, run_id="a")
pid = os.fork()
if pid == 0:
    dag.run(store=store, run_id="b")
    assert dag.run(store=store, run_id="a") == 1
    store.close()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
dag.run(store=store, run_id="c")
assert {each.run_id for each in store.runs()} == {"a", "b", "c"}
assert store.doctor()["problems"] == []
"""
    assert forked(code) == 0


def test_child_that_is_forked_while_others_commit_can_use_the_store() -> None:
    code = """
import signal, threading
inside, forks = threading.Event(), threading.Event()

def slowly(connection):
    connection.execute("UPDATE runs SET owner = owner")
    inside.set()
    forks.wait(0.2)

thread = threading.Thread(target=store.database.transact, args=[slowly])
dag.run(store=store, run_id="a")
thread.start()
inside.wait()
pid = os.fork()
if pid == 0:
    signal.alarm(20)
    os._exit(dag.run(store=store, run_id="b") != 1)
assert os.waitpid(pid, 0)[1] == 0
thread.join()
dag.run(store=store, run_id="c")
assert store.doctor()["problems"] == []
"""
    assert forked(code) == 0


def test_forked_child_does_not_own_what_its_parent_began() -> None:
    code = """
def fork():
    global pid
    pid = os.fork()
    return pid
dag = DAG("two").add_node("fork", fork).add_node("last", lambda fork: 1).connect("fork", "last")
try:
    value = dag.run(store=store, run_id="a")
except RunLostError as error:
    assert pid == 0 and "forked child" in str(error)
    os._exit(7)
assert pid and value == 1
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
assert list(store.run("a").nodes) == ["fork", "last"]
"""
    assert forked(code) == 0


# Failing disks.


def test_file_that_grows_no_more_interrupts_the_run_and_keeps_what_was_committed() -> None:
    code = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
big = DAG("big")
for number in range(50):
    big.add_node(f"n{number}", lambda: "x" * 10_000)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
try:
    big.run(store=store, run_id="a", error_strategy="continue")
except StoreError as error:
    assert "failed" in str(error), error
else:
    raise AssertionError
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
record = store.run("a")
assert record.status == "interrupted", record
assert 0 < len(record.nodes) < 50
assert not record.errors
assert big.execute(store=store, run_id="a").metrics["replayed"] == len(record.nodes)
"""
    assert forked(code) == 0


def test_store_where_nothing_can_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(tmp_path / "none" / "runs.db")
    (tmp_path / "runs.db").mkdir()
    with pytest.raises(StoreError):
        Store(tmp_path / "runs.db")


class Failing(sqlite3.Connection):
    """Fails at the n-th statement of a kind, as a disk would."""

    left = -1

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:  # type: ignore[override]
        if sql.strip().startswith(("BEGIN", "COMMIT", "INSERT INTO nodes", "UPDATE runs")):
            Failing.left -= 1
            if Failing.left == -1:
                raise sqlite3.OperationalError("disk I/O error")
        return super().execute(sql, *values)


@pytest.mark.parametrize("mode", ["sequential", "parallel", "async"])
def test_disk_that_fails_once_anywhere_fails_no_node(
    mode: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda path, **options: connect(path, factory=Failing, **options)
    )
    calls: list[str] = []
    dag = DAG("three").add_node("a", lambda: calls.append("a") or 1)
    dag.add_node("b", lambda a: calls.append("b") or a + 1)
    dag.add_node("c", lambda b: calls.append("c") or b + 1).connect("a", "b").connect("b", "c")
    failed = 0
    for step in range(12):
        Failing.left = -1
        with Store(tmp_path / f"{step}.db", durability="process") as store:
            Failing.left = step
            try:
                run = dag.execute(store=store, run_id="a", mode=mode, error_strategy="continue")
            except StoreError as error:
                assert "disk I/O error" in str(error)  # noqa: PT017
                failed += 1
            else:
                assert (run.status, run.errors) == ("completed", {})
            Failing.left = -1
            done = set(store.run("a").nodes) if store.runs() else set()
            calls.clear()
            assert dag.run(store=store, run_id="a", mode=mode) == 3
            assert not done & set(calls)
    assert failed >= 5


def test_prune_that_fails_before_its_end_deletes_no_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda path, **options: connect(path, factory=Failing, **options)
    )
    dag = DAG("large").add_node("one", lambda: b"x" * 300_000)
    with Store(tmp_path / "runs.db", durability="process") as store:
        dag.run(store=store, run_id="a")
        Failing.left = 2  # the commit
        with pytest.raises(StoreError, match="disk I/O error"):
            store.prune()
        Failing.left = -1
        assert store.doctor()["problems"] == []
        assert dag.run(store=store, run_id="a") == b"x" * 300_000
        assert store.prune().files == 1


def test_store_whose_file_is_gone_says_so(store: Store, tmp_path: Path) -> None:
    dag = DAG("one").add_node("one", lambda: 1)
    dag.run(store=store, run_id="a")
    (tmp_path / "runs.db").rename(tmp_path / "away.db")
    with pytest.raises(StoreError, match="is gone"):
        dag.run(store=store, run_id="b")
    (tmp_path / "away.db").rename(tmp_path / "runs.db")
    assert dag.run(store=store, run_id="a") == 1


# What is no store.


def test_database_of_something_else_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "other.db")
    connection.execute("CREATE TABLE users (id)")
    connection.close()
    with pytest.raises(StoreError, match="something else"):
        Store(tmp_path / "other.db")
    (tmp_path / "text.db").write_text("this is no database" * 100)
    with pytest.raises(StoreError, match="not a database"):
        Store(tmp_path / "text.db")


def test_store_of_a_newer_version_is_refused_unless_it_can_be_used(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    Store(path).close()
    for version, oldest, is_fine in ((2, 1, True), (3, 2, False)):
        connection = sqlite3.connect(path)
        connection.execute("UPDATE about SET value = ? WHERE key = 'version'", (version,))
        connection.execute("UPDATE about SET value = ? WHERE key = 'oldest_reader'", (oldest,))
        connection.commit()
        connection.close()
        if is_fine:
            Store(path).close()
        else:
            with pytest.raises(StoreError, match="newer fast-dag"):
                Store(path)


def test_file_systems_of_networks_are_refused(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/sda / ext4 rw 0 0\nserver:/a /mnt/a nfs4 rw 0 0\nx /mnt/a\\040b fuse.sshfs rw 0 0\n"
    )
    assert filesystem_of("/home/runs.db", str(mounts)) == "ext4"
    assert filesystem_of("/mnt/a/runs.db", str(mounts)) == "nfs4"
    assert filesystem_of("/mnt/a b/runs.db", str(mounts)) == "fuse.sshfs"
    assert filesystem_of("/mnt/ab/runs.db", str(mounts)) == "ext4"
    refuse_network(str(tmp_path))


def test_durability_is_one_of_two(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'disk' or 'process'"):
        Store(tmp_path / "runs.db", durability="none")
    with Store(tmp_path / "runs.db", durability="process") as store:
        assert store.database.rows("PRAGMA synchronous") == [(1,)]
        with Store(tmp_path / "runs.db"):
            assert store.database.rows("PRAGMA synchronous") == [(2,)]


def test_databases_in_memory_are_different_ones() -> None:
    one, other = Database.of(":memory:"), Database.of(":memory:")
    assert one is not other
    one.leave()
    other.leave()


# Ctrl-C, and event loops.


class Interrupted(sqlite3.Connection):
    """Ctrl-C comes before or after a statement."""

    left, is_after = -1, False

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:  # type: ignore[override]
        counts = sql in ("COMMIT", "BEGIN IMMEDIATE") or "INSERT INTO nodes" in sql
        if counts:
            Interrupted.left -= 1
        if counts and Interrupted.left == -1 and not Interrupted.is_after:
            raise KeyboardInterrupt
        cursor = super().execute(sql, *values)
        if counts and Interrupted.left == -1:
            raise KeyboardInterrupt
        return cursor


@pytest.mark.parametrize("is_after", [False, True])
def test_ctrl_c_during_a_commit_comes_when_it_is_completed(
    is_after: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda path, **options: connect(path, factory=Interrupted, **options)
    )
    monkeypatch.setattr(Interrupted, "is_after", is_after)
    calls: list[str] = []
    inner = DAG("inner").add_node("x", lambda a: calls.append("x") or a + 1)
    dag = DAG("three").add_node("a", lambda: calls.append("a") or 1).add_node("b", inner)
    dag.add_node("c", lambda b: calls.append("c") or b + 1).connect("a", "b", input="a")
    dag.connect("b", "c")
    for step in range(12):
        Interrupted.left = -1
        with Store(tmp_path / f"{step}.db", durability="process") as store:
            Interrupted.left = step
            with suppress(KeyboardInterrupt):
                dag.run(store=store, run_id="a")
            Interrupted.left = -1
            done = list(store.run("a").nodes) if store.runs() else []
            called = list(calls)
            calls.clear()
            if done:
                assert [path for path in done if "." not in path] == list(dag.results)
            assert dag.run(store=store, run_id="a") == 3
            assert not set(called) & set(calls), f"{done} was committed"
            calls.clear()


class Held(sqlite3.Connection):
    """A disk that takes as long as the event loop needs to do something else."""

    can_go_on = threading.Event()

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:  # type: ignore[override]
        if "INSERT INTO nodes" in sql or sql == "COMMIT":
            assert Held.can_go_on.wait(LONG), "the event loop is blocked"
            Held.can_go_on.clear()
        return super().execute(sql, *values)


def test_event_loop_goes_on_while_the_disk_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect
    Held.can_go_on.set()
    store = Store(tmp_path / "runs.db")
    store.close()
    monkeypatch.setattr(
        sqlite3, "connect", lambda path, **options: connect(path, factory=Held, **options)
    )

    async def tick() -> None:
        while True:
            Held.can_go_on.set()
            await asyncio.sleep(0)

    async def main() -> Any:
        ticking = asyncio.create_task(tick())
        try:
            return await dag.run_async(store=store, run_id="a")
        finally:
            ticking.cancel()

    async def large() -> str:
        return "x" * 300_000

    dag = DAG("two").add_node("a", large).add_node("b", lambda a: len(a)).connect("a", "b")
    with Store(tmp_path / "runs.db") as store:
        assert asyncio.run(main()) == 300_000


def test_two_hundred_runs_at_once_are_all_kept(tmp_path: Path) -> None:
    async def double(n: int) -> int:
        await asyncio.sleep(0)
        return 2 * n

    dag = DAG("service", remember=False).add_node("double", double)
    dag.add_node("text", lambda double: str(double)).connect("double", "text")

    async def main(store: Store) -> list[str]:
        runs = (dag.run_async(store=store, run_id=f"r{n}", n=n) for n in range(200))
        return await asyncio.gather(*runs)

    with nothing_left(), Store(tmp_path / "runs.db", durability="process") as store:
        assert asyncio.run(main(store)) == [str(2 * n) for n in range(200)]
        assert len(store.runs(status="completed", limit=None)) == 200


def test_prune_leaves_the_files_of_values_that_somebody_is_about_to_commit(tmp_path: Path) -> None:
    values = Values(str(tmp_path / "values"))
    name = values.write(b"value")
    (file,) = (tmp_path / "values").rglob(name)
    os.utime(file, (0, 0))
    assert values.write(b"value") == name, "another run has it, too"
    assert values.drop(name, before=time() - 60) is None
    os.utime(file, (0, 0))
    assert values.drop(name, before=time() - 60) == len(b"value")
    assert not values.has(name)


def test_prune_deletes_what_a_killed_process_had_begun_to_write(tmp_path: Path) -> None:
    with Store(tmp_path / "runs.db") as store:
        assert store.values is not None
        (file,) = store.values.directory.rglob(store.values.write(b"value"))
        old, new = (file.with_name(f"{file.name}.{end}") for end in ("1.ab", "2.cd"))
        for each in (old, new):
            each.write_bytes(b"val")
        os.utime(old, (0, 0))
        store.prune("1 day")
        assert (old.exists(), new.exists(), file.exists()) == (False, True, True)


class Prunes:
    """Takes what is in files away when it is pickled, once, as a prune might."""

    def __init__(self, files: Path) -> None:
        self.files = files
        self.taken = list[str]()

    def __reduce__(self) -> Any:
        found = [] if self.taken else [each for each in self.files.rglob("*") if each.is_file()]
        for each in found:
            self.taken.append(each.name)
            each.unlink()
        return str, ()


def test_file_of_an_input_that_a_prune_took_is_written_again(tmp_path: Path) -> None:
    dag = DAG("large").add_node("size", lambda text, prunes: len(text))
    prunes = Prunes(tmp_path / "runs.db-values")
    with Store(tmp_path / "runs.db", codec="pickle", key=bytes(16)) as store:
        value = dag.run(store=store, run_id="a", text="x" * 300_000, prunes=prunes)
        assert value == len(store.run("a").inputs["text"]) == 300_000
        assert len(prunes.taken) == 1


class Broken(Write):
    """Raises what nobody expects."""

    def apply(self, connection: sqlite3.Connection) -> None:
        raise RuntimeError("no")


def test_write_that_raises_what_nobody_expects_ends_with_an_error(store: Store) -> None:
    write = Broken()
    write.database = store.database
    store.database.settle(write)
    assert isinstance(write.error, StoreError)
    assert isinstance(write.error.__cause__, RuntimeError)
    assert DAG("one").add_node("one", lambda: 1).run(store=store) == 1


def test_no_statement_numbers_its_placeholders() -> None:
    # From Python 3.12 on SQLite warns of that where values are given in order; 3.14 refuses it.
    for file in (ROOT / "src/fast_dag/store").glob("*.py"):
        assert re.findall(r"\?[0-9]", file.read_text(encoding="utf-8")) == [], file.name


def test_doctor_tells_what_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    dag = DAG("two").add_node("one", lambda n: [n] * 1000).add_node("two", lambda one: one)
    dag.connect("one", "two")
    with Store(path, durability="process") as store:
        for number in range(50):
            dag.run(store=store, run_id=f"run {number}", n=number)
        assert store.doctor()["problems"] == []
        store.database.transact(
            lambda connection: connection.execute(
                "UPDATE nodes SET value = CAST(substr(value, 1, 50) AS BLOB) WHERE id = 3"
            )
        )
        (problem,) = store.doctor()["problems"]
        assert problem == "what run 'run 1' has of 'one' is damaged"
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4096] = b"\xff" * 4096
    path.write_bytes(data)
    with Store(path, durability="process") as store:
        told = store.doctor()
    assert len(told["problems"]) > 1
    assert any("malformed" in each for each in told["problems"])


def test_large_values_stay_beside_the_file_whatever_it_is_reached_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dag = DAG("large").add_node("one", lambda n: b"x" * n)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link.db").symlink_to(tmp_path / "runs.db")
    monkeypatch.chdir(tmp_path)
    with Store("runs.db", durability="process") as store:
        monkeypatch.chdir(tmp_path / "elsewhere")
        dag.run(store=store, run_id="a", n=300_000)
    with Store(tmp_path / "link.db", durability="process") as store:
        assert len(dag.run(store=store, run_id="a")) == 300_000
        dag.run(store=store, run_id="b", n=400_000)
    with Store(tmp_path / "runs.db", durability="process") as store:
        assert len(dag.run(store=store, run_id="b")) == 400_000
        assert store.doctor()["problems"] == []
    assert [*(tmp_path / "elsewhere").iterdir()] == []
    assert stat.S_IMODE((tmp_path / "runs.db-values").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_resumes": 0}, "max_resumes is a count of at least 1"),
        ({"retention": "soon"}, "an age is a text"),
        ({"codec": "pickle", "key": b"short"}, "at least 16 bytes"),
    ],
)
def test_store_that_cannot_be_is_not_left_open(
    tmp_path: Path, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValidationError, match=told):
        Store(tmp_path / "runs.db", **options)
    with Store(tmp_path / "runs.db") as store:
        assert store.database._users == 1
        with pytest.raises(ValidationError, match="before and after are datetimes"):
            store.runs(before="yesterday")  # type: ignore[arg-type]
