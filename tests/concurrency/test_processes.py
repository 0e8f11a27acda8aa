"""Worker processes and executors: what travels, what dies, and what is left."""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import DAG, Context, ExecutionError, TimeoutError
from tests.concurrency import functions
from tests.concurrency.support import children, is_alive, wait_for, wait_until
from tests.patience import LONG

pytestmark = pytest.mark.needs("cloudpickle")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def script(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Run a program of its own."""
    path = folder / "program.py"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-W", "error", path],
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def process_pool() -> ProcessPoolExecutor:
    # Not fork: this process has threads.
    return ProcessPoolExecutor(2, multiprocessing.get_context("forkserver"))


# What travels.


def test_what_a_script_defines_runs_in_processes(tmp_path: Path) -> None:
    done = script(
        tmp_path,
        """
        import functools
        import multiprocessing
        from dataclasses import dataclass

        from fast_dag import DAG

        FACTOR = 3
        dag = DAG("script")

        @dataclass
        class Point:
            x: int

            def moved(self, by):
                return Point(self.x + by)

        class Odd(Exception):
            pass

        def helper(point):
            return point.moved(1)

        def closing_over(n):
            return lambda helped: Point(helped.x + n)

        @dag.node
        def plain(x):
            return Point(x * FACTOR)

        @dag.node
        def helped(plain):
            return helper(plain)

        @dag.node
        def away():
            return multiprocessing.parent_process() is not None

        @dag.node
        def fails():
            raise Odd("odd")

        dag.add_node("closure", closing_over(10))
        dag.add_node("partial", functools.partial(lambda by, closure: closure.moved(by), 100))
        dag.add_node("method", Point(1000).moved)
        dag.connect("plain", "helped").connect("helped", "closure").connect("closure", "partial")

        if __name__ == "__main__":
            run = dag.execute(x=1, by=5, mode="process", max_workers=2, error_strategy="continue")
            print(run.results["partial"], run.results["method"], run.results["away"])
            print(type(run.errors["fails"]) is Odd)
        """,
    )
    assert done.stderr == ""
    assert done.stdout == "Point(x=114) Point(x=1005) True\nTrue\n"


def test_what_a_script_sets_under_the_guard_is_not_in_its_workers_and_that_is_told(
    tmp_path: Path,
) -> None:
    """Functions go by name, as with the pools of the standard library."""
    done = script(
        tmp_path,
        """
        from fast_dag import DAG

        dag = DAG("script")

        @dag.node
        def scaled(x):
            return x * FACTOR

        if __name__ == "__main__":
            FACTOR = 3
            error = dag.execute(x=1, mode="process", max_workers=1).errors["scaled"]
            print(type(error).__name__, *error.__notes__)
        """,
    )
    assert done.stderr == ""
    assert done.stdout.startswith("NameError")
    assert "what it sets under `if __name__ == '__main__':` is not there" in done.stdout


def test_a_program_without_a_file_runs_in_processes() -> None:
    """As in a notebook, or with `python -c`: there is nothing that a worker could import."""
    program = """
from fast_dag import DAG
dag = DAG("prompt")
FACTOR = 3
def helper(x): return x * FACTOR
class Odd(Exception): ...
@dag.node
def scaled(x): return helper(x)
@dag.node
def fails(): raise Odd("odd")
run = dag.execute(x=5, mode="process", max_workers=1, error_strategy="continue")
print(run.results, type(run.errors["fails"]) is Odd)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout == "{'scaled': 15} True\n"


def test_a_script_without_the_guard_is_told_of_it_and_ends(tmp_path: Path) -> None:
    done = script(
        tmp_path,
        """
        from fast_dag import DAG
        print(DAG("unguarded").add_node("one", lambda: 1).run(mode="process"))
        """,
    )
    assert done.returncode != 0
    assert "if __name__ == '__main__':" in done.stderr


def test_functions_of_every_kind_travel() -> None:
    away = 7
    counter = functions.Counter(2)

    def closure(x: int) -> int:
        return x + away

    dag = DAG("kinds")
    dag.add_node("closure", closure)
    dag.add_node("lambda", lambda x: x + away)
    dag.add_node("method", counter.up)
    dag.add_node("class method", functions.Counter.of_class)
    dag.add_node("static method", functions.Counter.static)
    dag.add_node("callable", counter)
    dag.add_node("partial", functools.partial(pow, 2), inputs=["x"])
    dag.add_node("partial of method", functools.partial(counter.up), inputs=["x"])
    dag.add_node("module", functions.wrapped)
    dag.add_node("cached", functions.cached)
    dag.add_node("builtin", abs, inputs=["x"])
    dag.add_node("pid", lambda x: os.getpid())
    results = dict(dag.execute(x=-3, mode="process", max_workers=2).results)

    assert results.pop("pid") != os.getpid()
    assert results == {
        "closure": 4,
        "lambda": 4,
        "method": -1,
        "class method": ("Counter", -3),
        "static method": 3,
        "callable": -6,
        "partial": 0.125,
        "partial of method": -1,
        "module": 97,
        "cached": -9,
        "builtin": 3,
    }


def test_decorated_nodes_of_a_module_travel() -> None:
    value, pid = functions.importable.run(mode="process", max_workers=1)
    assert value == 21
    assert pid != os.getpid()


def test_values_of_every_size_travel() -> None:
    dag = DAG("sizes")
    dag.add_node("small", lambda: None).add_node("large", lambda: b"x" * 20_000_000)
    dag.add_node("many", lambda: {(index, str(index)): [index] for index in range(100_000)})
    dag.add_node("sum", lambda small, large, many: (small, len(large), len(many)))
    dag.connect("small", "sum").connect("large", "sum").connect("many", "sum")
    assert dag.run(mode="process", max_workers=2) == (None, 20_000_000, 100_000)


# What cannot travel.


@pytest.mark.parametrize("strategy", ["fail_fast", "continue"])
def test_an_argument_that_cannot_be_pickled_is_named(strategy: Any) -> None:
    dag = DAG("arguments").add_node("make", functions.Opaque, run_in="thread", inputs=[])
    dag.add_node("take", lambda first, thing: 1)
    dag.connect("make", "take", input="thing")
    run = dag.execute(mode="process", first=1, error_strategy=strategy)

    assert run.statuses == {"make": "completed", "take": "failed"}
    error = run.exception()
    assert error is not None
    assert error.node_name == "take"
    assert "Opaque" in str(error)
    assert "thing" in str(error)
    assert "not for pickling" in str(error)


def test_a_result_that_cannot_be_pickled_is_named() -> None:
    dag = DAG("results").add_node("make", functions.Opaque, inputs=[])
    with pytest.raises(ExecutionError, match=r"'make'.*result.*Opaque") as caught:
        dag.run(mode="process")
    assert caught.value.node_name == "make"


def test_a_function_that_cannot_be_pickled_is_named() -> None:
    lock = threading.Lock()
    dag = DAG("functions").add_node("locked", lock.locked, inputs=[])
    with pytest.raises(ExecutionError, match=r"'locked'.*function") as caught:
        dag.run(mode="process")
    assert caught.value.node_name == "locked"


def test_exceptions_keep_the_traceback_of_their_worker_as_text() -> None:
    dag = DAG("tracebacks")

    def deep_inside() -> None:
        raise LookupError("here it is")

    dag.add_node("node", deep_inside)
    with pytest.raises(ExecutionError, match="here it is") as caught:
        dag.run(mode="process")
    cause = caught.value.__cause__
    assert type(cause) is LookupError
    told = "".join(getattr(cause, "__notes__", ()))
    assert "deep_inside" in told
    assert Path(__file__).name in told
    assert "worker process" in told


def test_a_cause_travels_with_its_exception() -> None:
    dag = DAG("causes")

    @dag.node
    def node() -> None:
        try:
            {}["lost"]
        except KeyError as error:
            raise RuntimeError("above") from error

    error = dag.execute(mode="process").errors["node"]
    assert type(error) is RuntimeError
    assert isinstance(error.__cause__, KeyError)


def test_stop_iteration_is_a_failure_like_others() -> None:
    dag = DAG("stop").add_node("node", lambda: next(iter(())))
    error = dag.execute(mode="process").errors["node"]
    assert isinstance(error, StopIteration)


# What dies.


def killed_by_itself(log: Path) -> Callable[[], None]:
    def node() -> None:
        with log.open("a", encoding="utf-8") as file:
            file.write("called\n")
        os.kill(os.getpid(), signal.SIGKILL)

    return node


def test_a_killed_worker_costs_its_own_node_and_is_not_run_again(
    tmp_path: Path, shared: Any
) -> None:
    log = tmp_path / "log"
    both, over = shared.Barrier(2), shared.Event()

    def survivor() -> str:
        both.wait(LONG)
        wait_for(over)
        return "alive"

    def victim() -> None:
        both.wait(LONG)
        killed_by_itself(log)()

    dag = DAG("kill").add_node("victim", victim).add_node("survivor", survivor)
    dag.add_node("below", lambda victim: 1).connect("victim", "below")
    dag.add_node("after", lambda survivor: survivor + " still").connect("survivor", "after")

    def note(name: str, error: Exception, context: Context) -> str:
        over.set()
        return "continue"

    run = dag.execute(mode="process", max_workers=2, error_handler=note)
    assert run.statuses == {
        "victim": "failed",
        "survivor": "completed",
        "below": "skipped",
        "after": "completed",
    }
    assert run.results["after"] == "alive still"
    assert log.read_text(encoding="utf-8") == "called\n"
    error = run.errors["victim"]
    assert isinstance(error, ExecutionError)
    assert "'victim'" in str(error)


def test_many_killed_workers_cost_one_node_each() -> None:
    dag = DAG("massacre")
    for index in range(4):
        dag.add_node(f"dies{index}", lambda: os.kill(os.getpid(), signal.SIGKILL))
        dag.add_node(f"lives{index}", lambda: "alive")
    run = dag.execute(mode="process", max_workers=2, error_strategy="continue")
    assert {name for name, status in run.statuses.items() if status == "failed"} == {
        f"dies{index}" for index in range(4)
    }
    assert list(run.results.values()) == ["alive"] * 4


def test_a_worker_that_exits_costs_its_own_node() -> None:
    dag = DAG("exit").add_node("exits", lambda: os._exit(3)).add_node("lives", lambda: 1)
    run = dag.execute(mode="process", max_workers=1, error_strategy="continue")
    assert run.statuses == {"exits": "failed", "lives": "completed"}
    assert "'exits'" in str(run.errors["exits"])
    assert "3" in str(run.errors["exits"])


def test_a_killed_node_is_run_again_where_it_asks_for_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    dies = killed_by_itself(log)
    dag = DAG("retry")
    dag.add_node("once", lambda: log.exists() or dies(), retry=1, retry_delay=0)
    assert dag.run(mode="process") is True
    assert log.read_text(encoding="utf-8") == "called\n"

    dag = DAG("retry").add_node("always", dies, retry=2, retry_delay=0)
    with pytest.raises(ExecutionError, match="'always'") as caught:
        dag.run(mode="process")
    assert caught.value.attempts == 3
    assert log.read_text(encoding="utf-8") == "called\n" * 4


def test_a_node_timeout_kills_the_process_and_no_other(shared: Any) -> None:
    pids, never, timeout = shared.list(), shared.Event(), 0.2

    def late() -> None:
        pids.append(os.getpid())
        never.wait()

    while not pids:  # a busy machine may need longer to start a worker
        timeout *= 2
        assert timeout < LONG
        dag = DAG("late").add_node("late", late, timeout=timeout)
        dag.add_node("good", lambda: "good")
        run = dag.execute(mode="process", max_workers=2, error_strategy="continue")
    assert run.statuses == {"late": "failed", "good": "completed"}
    assert isinstance(run.errors["late"], TimeoutError)
    assert len(pids) == 1
    wait_until(lambda: not is_alive(pids[0]))


def test_a_worker_that_dies_while_it_is_idle_costs_nothing() -> None:
    dag = DAG("idle").add_node("first", os.getpid, inputs=[])

    @dag.node(run_in="thread")
    def kill(first: int) -> int:
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: not is_alive(first))
        return first

    dag.add_node("second", lambda kill: (kill, os.getpid()))
    dag.connect("first", "kill").connect("kill", "second")
    first, second = dag.run(mode="process", max_workers=1)
    assert first != second


def test_no_process_is_left_after_a_run_however_it_ends(shared: Any) -> None:
    before = children()
    never = shared.Event()

    def ends(**options: Any) -> str:
        dag = DAG("ends").add_node("a", lambda: 1)
        dag.add_node(
            "b", lambda a, how: a / 0 if how == "fails" else how == "late" and never.wait()
        )
        dag.connect("a", "b")
        return dag.execute(mode="process", max_workers=2, **options).status

    assert ends(how="well") == "completed"
    assert children() <= before  # those of earlier tests may end meanwhile
    assert ends(how="fails") == "failed"
    assert children() <= before
    assert ends(how="late", timeout=0.5) == "timed_out"
    wait_until(lambda: children() <= before)
    assert not [each for each in multiprocessing.active_children() if each.pid not in before]


# The context.


def test_a_node_that_takes_the_context_runs_at_home() -> None:
    dag = DAG("home").add_node("before", lambda: 5)
    dag.add_node("node", functions.with_context).connect("before", "node", input="x")
    run = dag.execute(mode="process", context=Context(metadata={"mine": 1}))
    seen = run.results["node"]
    assert seen["pid"] == os.getpid()
    assert seen["results"] == {"before": 5}
    assert seen["metadata"]["mine"] == 1
    assert run.context.metadata["set"] == 5


def test_a_context_sent_to_a_process_has_metadata_and_brings_back_what_was_set() -> None:
    dag = DAG("away").add_node("before", lambda: 5)
    dag.add_node("node", functions.with_context, run_in="process")
    dag.connect("before", "node", input="x")
    for mode in ("process", "parallel"):
        context = Context(metadata={"mine": [1], "changed": "old"})
        mine = context.metadata["mine"]
        run = dag.execute(mode=mode, context=context)
        seen = run.results["node"]
        assert seen["pid"] != os.getpid()
        assert seen["results"] == {}
        assert seen["metadata"]["mine"] == [1]
        assert seen["metadata"]["run_id"] == run.run_id
        assert context.metadata["set"] == 5
        assert context.metadata["changed"] == "new"
        assert context.metadata["mine"] is mine
        assert context.metadata["execution_status"] == "completed"


def test_what_a_failing_node_set_in_another_process_is_kept_out_or_in_but_never_breaks() -> None:
    def node(context: Context) -> None:
        context.metadata["set"] = 1
        raise ValueError("no")

    dag = DAG("away").add_node("node", node, run_in="process")
    run = dag.execute(mode="process")
    assert run.status == "failed"
    assert type(run.errors["node"]) is ValueError


# Executors.


class Wrapper(Executor):
    """An executor that does not tell what it is, nor its size; with `silent`, nor how its calls
    are getting on: as Dask's."""

    def __init__(self, inner: Executor, *, silent: bool = False) -> None:
        self._inner = inner
        self._silent = silent

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = self._inner.submit(fn, *args, **kwargs)
        if not self._silent:
            return future
        told: Future[Any] = Future()
        future.add_done_callback(lambda done: told.set_result(done.result()))
        return told

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._inner.shutdown(wait, cancel_futures=cancel_futures)


EXECUTORS: dict[str, Callable[[], Executor]] = {
    "threads": lambda: ThreadPoolExecutor(2),
    "processes": process_pool,
    "wrapper": lambda: Wrapper(ThreadPoolExecutor(2)),
    "loky": lambda: pytest.importorskip("loky").get_reusable_executor(max_workers=2),
}


@pytest.fixture(
    params=[*EXECUTORS, pytest.param("dask", marks=pytest.mark.dask)],
)
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """Executors as users have them."""
    if request.param == "dask":
        yield request.getfixturevalue("dask_executor")
        return
    with EXECUTORS[request.param]() as made:
        yield made
        if request.param == "loky":
            made.shutdown(wait=True, kill_workers=True)


def sample() -> DAG:
    """A bit of everything."""
    offset = 1
    inner = DAG("inner").add_node("square", lambda x: x * x).add_node("up", lambda y: y + 1)
    inner.connect("square", "up")
    dag = DAG("sample")

    async def later(left: int) -> int:
        return left * 10

    dag.add_node("root", lambda n: n + offset)
    dag.add_node("left", lambda root: root * 2)
    dag.add_node("later", later)
    dag.add_node("inner", inner)
    dag.add_node("home", lambda root, context: (root, "root" in context))
    dag.add_node("even", lambda root: root % 2 == 0, type="condition")
    dag.add_node("yes", lambda number: "even").add_node("no", lambda number: "odd")
    dag.add_node("word", lambda word: word, type="any")
    dag.add_node("end", lambda later, inner, home, word: (later, inner, home, word))
    for source, target in [
        ("root", "left"),
        ("left", "later"),
        ("root", "inner"),
        ("root", "home"),
        ("root", "even"),
        ("yes", "word"),
        ("no", "word"),
        ("later", "end"),
        ("inner", "end"),
        ("home", "end"),
        ("word", "end"),
    ]:
        dag.connect(source, target)
    dag.nodes["even"].on_true >> dag.nodes["yes"]
    dag.nodes["even"].on_false >> dag.nodes["no"]
    return dag


def test_an_executor_gives_what_a_sequential_run_gives(executor: Executor) -> None:
    for n in (2, 3):
        expected = sample().execute(n=n)
        run = sample().execute(n=n, executor=executor)
        assert (
            run.value
            == expected.value
            == ((n + 1) * 20, (n + 1) ** 2 + 1, (n + 1, True), run.results["word"])
        )
        assert run.statuses == expected.statuses
        assert run.results == expected.results
        assert run["inner.square"] == (n + 1) ** 2


def test_an_executor_is_left_open(executor: Executor) -> None:
    DAG("first").add_node("node", lambda: 1).run(executor=executor)
    assert executor.submit(len, "still open").result(LONG) == 10
    assert DAG("second").add_node("node", lambda: 2).run(executor=executor) == 2


def test_failures_and_retries_are_the_same_on_an_executor(
    executor: Executor, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    dag = DAG("flaky")

    @dag.node(retry=2, retry_delay=0)
    def flaky() -> str:
        with log.open("a", encoding="utf-8") as file:
            file.write("called ")
        if len(log.read_text(encoding="utf-8").split()) < 3:
            raise OSError("not yet")
        return "at last"

    @dag.node
    def fails(flaky: str) -> None:
        raise KeyError(flaky)

    dag.connect("flaky", "fails")
    with pytest.raises(ExecutionError, match="at last") as caught:
        dag.run(executor=executor)
    assert caught.value.node_name == "fails"
    assert isinstance(caught.value.__cause__, KeyError)
    assert dag["flaky"] == "at last"


def test_calls_that_look_alike_are_each_made_on_an_executor(
    executor: Executor, tmp_path: Path
) -> None:
    """The same function with the same arguments, in two nodes and in two runs."""
    log = tmp_path / "log"

    def call(x: int) -> int:
        with log.open("a", encoding="utf-8") as file:
            file.write("called ")
        return x

    dag = DAG("twins").add_node("a", call).add_node("b", call)
    for _ in range(2):
        assert dag.execute(x=1, executor=executor).results == {"a": 1, "b": 1}
    assert log.read_text(encoding="utf-8").split() == ["called"] * 4


def test_values_that_cannot_be_pickled_are_named_on_an_executor(executor: Executor) -> None:
    dag = DAG("opaque").add_node("make", functions.Opaque, inputs=[], run_in="thread")
    dag.add_node("take", lambda thing: "taken").connect("make", "take")
    if isinstance(executor, ThreadPoolExecutor):
        assert dag.run(executor=executor) == "taken"
        return
    with pytest.raises(ExecutionError, match=r"'take'.*Opaque"):
        dag.run(executor=executor)


def test_run_in_holds_beside_an_executor(executor: Executor) -> None:
    def here() -> tuple[int, int]:
        return os.getpid(), threading.get_ident()

    dag = DAG("places").add_node("inline", here, run_in="inline")
    dag.add_node("thread", here, run_in="thread").add_node("there", here)
    results = dag.execute(executor=executor).results
    me = here()
    assert results["inline"] == me
    assert results["thread"][0] == me[0]
    assert results["thread"][1] != me[1]
    assert results["there"] != me


def test_a_node_that_is_late_on_an_executor_costs_no_other(executor: Executor, shared: Any) -> None:
    released, ended = shared.Event(), shared.Event()
    dag = DAG("late").add_node("late", lambda: wait_for(released) or ended.set(), timeout=0.3)
    dag.add_node("good", lambda: "good").add_node("below", lambda good: good)
    dag.connect("good", "below")
    try:
        run = dag.execute(executor=executor, error_strategy="continue")
        assert run.statuses == {"late": "failed", "good": "completed", "below": "completed"}
        assert isinstance(run.errors["late"], TimeoutError)
    finally:
        released.set()
    wait_for(ended)  # the executor is the user's: nobody kills what runs there


@pytest.mark.one_in(5)
def test_time_in_the_queue_of_an_executor_is_not_the_nodes(executor: Executor) -> None:
    dag = DAG("queue").add_node("a", lambda: time.sleep(1.5)).add_node("b", lambda: time.sleep(1.5))
    for index in range(4):
        dag.add_node(f"quick{index}", lambda: "done", timeout=1.2)
    run = dag.execute(executor=executor, max_workers=6, error_strategy="continue")
    assert run.errors == {}
    assert list(run.results.values()).count("done") == 4


def test_a_call_that_begins_unheard_is_late_by_its_own_clock(monkeypatch: Any) -> None:
    """On another machine, say: nothing tells of it before it ends."""
    monkeypatch.delattr(os, "mkfifo")
    dag = DAG("silent").add_node("late", lambda: time.sleep(0.3), timeout=0.1)
    dag.add_node("good", lambda: 1, timeout=5)
    with Wrapper(ThreadPoolExecutor(1), silent=True) as executor:
        run = dag.execute(executor=executor, error_strategy="continue")
    assert isinstance(run.errors["late"], TimeoutError)
    assert run.results == {"good": 1}


def test_a_call_that_begins_unheard_is_late_once_its_future_has_run_so_long(
    monkeypatch: Any,
) -> None:
    monkeypatch.delattr(os, "mkfifo")
    released = threading.Event()
    functions.UNHEARD[:] = [released]
    dag = DAG("unheard").add_node("late", lambda: functions.UNHEARD[0].wait(LONG), timeout=0.1)
    with Wrapper(ThreadPoolExecutor(1)) as executor:
        try:
            assert isinstance(dag.execute(executor=executor).errors["late"], TimeoutError)
        finally:
            released.set()


def test_an_executor_of_processes_that_breaks_fails_the_nodes_by_name() -> None:
    dag = DAG("breaks").add_node("dies", lambda: os.kill(os.getpid(), signal.SIGKILL))
    dag.add_node("home", lambda: "home", run_in="thread")
    with process_pool() as executor:
        run = dag.execute(executor=executor, error_strategy="continue")
        assert run.statuses == {"dies": "failed", "home": "completed"}
        error = run.exception()
        assert error is not None
        assert error.node_name == "dies"
        cause = run.errors["dies"]
        assert isinstance(cause, ExecutionError)
        assert isinstance(cause.__cause__, BrokenProcessPool)
        # It stays broken, as the standard library has it, and says so.
        with pytest.raises(ExecutionError, match="'node'") as caught:
            DAG("again").add_node("node", lambda: 1).run(executor=executor)
        assert caught.value.node_name == "node"


@pytest.mark.parametrize("make", [lambda: ThreadPoolExecutor(1), process_pool], ids=["t", "p"])
def test_an_executor_that_is_shut_down_fails_the_node_by_name(
    make: Callable[[], Executor],
) -> None:
    executor = make()
    executor.shutdown()
    dag = DAG("down").add_node("node", lambda: 1).add_node("below", lambda node: node)
    dag.connect("node", "below")
    with pytest.raises(ExecutionError, match=r"'node'.*shutdown") as caught:
        dag.run(executor=executor)
    assert caught.value.node_name == "node"
    assert caught.value.run is not None
    assert caught.value.run.statuses["below"] in ("skipped", "not_run")


def test_what_is_not_an_executor_is_refused() -> None:
    with pytest.raises(ValueError, match="executor"):
        DAG("odd").add_node("node", lambda: 1).run(executor=2)  # type: ignore[arg-type]


def test_futures_of_an_executor_that_were_cancelled_fail_their_node() -> None:
    """Somebody else shuts the executor down, and cancels what waits in it, during the run."""
    began, released = threading.Event(), threading.Event()
    executor = ThreadPoolExecutor(1)
    dag = DAG("cancelled")
    dag.add_node("first", lambda: began.set() or wait_for(released) or "first")
    dag.add_node("second", lambda: "second")

    def shut() -> None:
        wait_for(began)
        executor.shutdown(wait=False, cancel_futures=True)
        released.set()

    shutter = threading.Thread(target=shut)
    shutter.start()
    run = dag.execute(executor=executor, max_workers=2, error_strategy="continue")
    shutter.join()
    assert run.statuses == {"first": "completed", "second": "failed"}
    assert "'second'" in str(run.exception())


def test_errors_of_workers_pickle_with_what_they_tell() -> None:
    dag = DAG("kill").add_node("dies", lambda: os.kill(os.getpid(), signal.SIGKILL))
    error = dag.execute(mode="process").exception()
    assert error is not None
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert again.node_name == "dies"
