"""Scripts that run workflows in processes: what goes by name, what starts where, what is left."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.concurrency.support import ENVIRONMENT, is_alive, run, wait_until
from tests.patience import LONG

pytestmark = pytest.mark.needs("cloudpickle")

STATE = """
    import functools
    import pickle
    from fast_dag import DAG
    from fast_dag.drive import payload

    class Model:
        def __init__(self, x):
            self.x = x

        def times(self, y):
            return self.x * y

    COUNTS = []
    dag = DAG("state")

    @functools.lru_cache
    def slow(x):
        COUNTS.append(x)
        return x

    @dag.node
    def made():
        slow(1)
        assert pickle.loads(payload._dumps(lambda: 2))() == 2
        return pickle.loads(pickle.dumps(Model(1)))

    @dag.node
    @functools.lru_cache
    def counted(made):
        slow(1)
        assert type(made) is Model
        return len(COUNTS)

    dag.add_node("method", Model(5).times, inputs=["counted"])
    dag.add_node("lambda", lambda method: (slow(1), method, len(COUNTS_OF())))

    def COUNTS_OF():
        return COUNTS

    made >> counted >> dag.nodes["method"] >> dag.nodes["lambda"]

    if __name__ == "__main__":
        run = dag.execute(mode="process", max_workers=1)
        run.raise_for_error()
        print(type(run["made"]) is Model, run["counted"], run["method"], run["lambda"])
"""


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "command",
    [(), ("-m", "program"), ("-m", "pdb", "-c", "continue", "-c", "quit", "program.py")],
    ids=["script", "module", "debugger"],
)
def test_state_and_classes_of_a_script_are_one_in_its_workers(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    done = run(tmp_path, STATE, *command)
    assert done.stderr == ""
    assert done.stdout.splitlines()[0] == "True 1 5 (1, 5, 1)"


def test_what_stands_below_the_guard_goes_by_value(tmp_path: Path) -> None:
    """Also what is something else above it."""
    done = run(
        tmp_path,
        """
        from fast_dag import DAG

        def changed(x):
            return "old"

        def replaced(x):
            return "old"

        if __name__ == "__main__":
            dag = DAG("below")

            class Below:
                def __init__(self, x):
                    self.x = x

            def helper(x):
                return Below(x)

            @dag.node
            def below(x):
                return helper(x)

            @dag.node
            def changed(x):
                return "new"

            def other(x):
                return "other"

            replaced = other
            dag.add_node("replaced", replaced)
            run = dag.execute(x=3, mode="process", max_workers=1)
            run.raise_for_error()
            print(type(run["below"]) is Below, run["below"].x, run["changed"], run["replaced"])
        """,
    )
    assert done.stderr == ""
    assert done.stdout == "True 3 new other\n"


GUARDED = """
    from fast_dag import DAG

    dag = DAG("guarded")
    FACTOR = 2

    class Odd(Exception):
        def __init__(self, a, b):
            self.a = a

    @dag.node
    def double(x):
        return FACTOR * x

    @dag.node
    def fails():
        raise Odd(1, 2)

    if __name__ == "__main__":
        run = dag.execute(x=4, mode="process", max_workers=1, error_strategy="continue")
        print(run.results, type(run.errors["fails"]) is Odd)
"""


@pytest.mark.parametrize("command", [(), ("-",)], ids=["nothing", "dash"])
def test_a_script_from_stdin_runs_in_processes(tmp_path: Path, command: tuple[str, ...]) -> None:
    text = textwrap.dedent(GUARDED)
    done = subprocess.run(
        [sys.executable, "-W", "error", *command],
        input=text,
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
        env=ENVIRONMENT,
    )
    assert done.stderr == ""
    assert done.stdout == "{'double': 8} True\n"


def test_a_script_without_the_guard_is_told_so_once(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        from fast_dag import DAG
        dag = DAG("unguarded").add_node("one", lambda: 1).add_node("two", lambda: 2)
        dag.run(mode="process", max_workers=2)
        """,
    )
    assert done.returncode == 1
    assert "put that run under `if __name__ == '__main__':`" in done.stderr.splitlines()[-1]
    assert done.stderr.count("Traceback") <= 2
    assert len(done.stderr.splitlines()) < 50


def test_what_keeps_the_script_from_being_imported_is_told_with_its_line(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        import sys
        from fast_dag import DAG
        dag = DAG("broken").add_node("one", lambda: 1)
        if __name__ != "__main__":
            print(1 / 0)
        if __name__ == "__main__":
            dag.run(mode="process")
        """,
    )
    assert "importing the main script failed: ZeroDivisionError" in done.stderr
    assert 'program.py", line 6' in done.stderr


def test_nodes_start_processes_of_their_own(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        from fast_dag import DAG

        dag = DAG("children")

        def square(x):
            return x * x

        @dag.node(run_in="process")
        def pool():
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                return pool.map(square, [1, 2])

        @dag.node
        def executor(pool):
            with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")) as executor:
                return list(executor.map(square, pool))

        @dag.node
        def forked(executor):
            queue = multiprocessing.get_context("fork").SimpleQueue()
            child = multiprocessing.get_context("fork").Process(target=queue.put, args=(5,))
            child.start()
            child.join()
            return [*executor, queue.get()]

        @dag.node
        def workflow(forked):
            return DAG("inner").add_node("square", square).run(x=3, mode="process"), forked

        pool >> executor >> forked >> workflow
        if __name__ == "__main__":
            print(dag.run(mode="process", max_workers=1))
        """,
    )
    assert done.stderr == ""
    assert done.stdout == "(9, [1, 16, 5])\n"


def test_a_worker_that_is_killed_is_seen_to_be_though_its_children_live(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        import multiprocessing
        import os
        import signal
        from pathlib import Path
        from fast_dag import DAG

        def leaves_a_child():
            child = multiprocessing.get_context("fork").Process(target=signal.pause)
            child.start()
            Path("pid").write_text(str(child.pid))
            os.kill(os.getpid(), signal.SIGKILL)

        if __name__ == "__main__":
            run = DAG("orphan").add_node("node", leaves_a_child).execute(mode="process")
            print(run.errors["node"])
            os.kill(int(Path("pid").read_text()), signal.SIGKILL)
        """,
    )
    assert done.stderr == ""
    assert "died" in done.stdout


@pytest.mark.one_in(3)
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_run_in_processes_works_in_a_pool_of_multiprocessing(tmp_path: Path, method: str) -> None:
    done = run(
        tmp_path,
        f"""
        import multiprocessing
        from fast_dag import DAG

        dag = DAG("inner")

        @dag.node
        def square(x):
            return x * x

        dag.add_node("next", lambda square: square + 1).connect("square", "next")

        def inside(x):
            return dag.run(x=x, mode="process", max_workers=1)

        if __name__ == "__main__":
            with multiprocessing.get_context({method!r}).Pool(1) as pool:
                print(pool.map(inside, [2, 3]), flush=True)
        """,
    )
    assert done.stderr == ""
    assert done.stdout == "[5, 10]\n"


def test_a_run_in_processes_works_in_a_forked_child(tmp_path: Path) -> None:
    """After a run in the parent, while another goes on there."""
    done = run(
        tmp_path,
        """
        import os
        import threading
        from fast_dag import DAG

        dag = DAG("forks")

        @dag.node
        def square(x):
            return x * x

        def wait():
            import time
            time.sleep(60)

        if __name__ == "__main__":
            assert dag.run(x=1, mode="process") == 1
            begun = threading.Event()
            going = DAG("going").add_node("wait", wait, timeout=30)
            options = {"mode": "process", "progress": lambda *_: begun.set()}
            threading.Thread(target=going.execute, kwargs=options, daemon=True).start()
            begun.wait()
            child = os.fork()
            if not child:
                print(dag.run(x=3, mode="process"), flush=True)
                os._exit(0)
            os.waitpid(child, 0)
        """,
    )
    assert done.stderr == ""
    assert done.stdout == "9\n"


@pytest.mark.parametrize(
    "name",
    [
        "etl.v2.py",
        "json.py",
        *(pytest.param(it, marks=pytest.mark.stress) for it in ("my flow.py", "1st-flow.py")),
    ],
)
def test_a_file_of_any_name_runs_in_processes_from_the_command_line(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text(textwrap.dedent(GUARDED), encoding="utf-8")
    command = [Path(sys.executable).with_name("fast-dag"), "run", name, "--mode", "process"]
    done = subprocess.run(
        [*command, "-i", "x=4", "--outputs", "double"],
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
        cwd=tmp_path,
    )
    assert "completed" in done.stderr
    assert done.stdout == "{'double': 8}\n"


ENDED = """
    import os
    import sys
    import time
    from fast_dag import DAG

    dag = DAG("killed")

    @dag.node
    def works():
        os.write(1, f"{os.getpid()}\\n".encode())
        print("printed", flush=True)
        for _ in range(600):
            time.sleep(0.1)

    dag.add_node("rests", len, inputs=["text"])

    if __name__ == "__main__":
        dag.run(text="", mode="process", max_workers=2)
"""


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_no_worker_outlives_a_killed_parent_or_prints_anything(tmp_path: Path, by: int) -> None:
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(ENDED), encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        worker = int(program.stdout.readline())
        program.send_signal(by)
        # Both pipes end when nobody has them any more.
        assert program.stdout.read() in (b"printed\n", b"")
        assert program.stderr.read() == b""
    wait_until(lambda: not is_alive(worker))


@pytest.mark.parametrize("how", ["interrupt", "timeout"])
def test_a_run_that_is_cut_short_leaves_no_thread_and_says_nothing(
    tmp_path: Path, how: str
) -> None:
    done = run(
        tmp_path,
        f"""
        import os
        import signal
        import threading
        import time
        from fast_dag import DAG

        def works(name):
            time.sleep(60)

        dag = DAG("cut").add_node("a", works).add_node("b", works)
        dag.add_node("c", works, timeout=30)
        options = {{"mode": "process", "max_workers": 3}}

        if __name__ == "__main__":
            if {how!r} == "timeout":
                assert dag.execute(name="n", timeout=0.7, **options).status == "timed_out"
            else:
                timer = threading.Timer(0.7, os.killpg, (0, signal.SIGINT))
                timer.start()
                try:
                    dag.execute(name="n", **options)
                except KeyboardInterrupt:
                    print("interrupted")
                timer.join()
            print([thread for thread in threading.enumerate() if "fast_dag" in thread.name])
        """,
        start_new_session=True,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "[]"
    assert ("interrupted" in done.stdout) is (how == "interrupt")


def test_a_worker_whose_threads_do_not_end_does_not_hold_the_run(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        import threading
        from fast_dag import DAG
        from fast_dag.drive import processes

        processes.GRACE = 0.2

        def leaves():
            threading.Thread(target=threading.Event().wait).start()
            return "left"

        if __name__ == "__main__":
            print(DAG("threads").add_node("leaves", leaves).run(mode="process"))
        """,
    )
    assert done.stderr == ""
    assert done.stdout == "left\n"


def test_shared_memory_that_a_node_makes_outlives_its_worker(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        from multiprocessing.shared_memory import SharedMemory
        from fast_dag import DAG

        dag = DAG("memory")

        @dag.node
        def make():
            memory = SharedMemory(create=True, size=3)
            memory.buf[:3] = b"abc"
            memory.close()
            return memory.name

        if __name__ == "__main__":
            memory = SharedMemory(dag.run(mode="process"))
            print(bytes(memory.buf[:3]))
            memory.close()
            memory.unlink()
        """,
    )
    assert done.stderr == ""
    assert done.stdout == "b'abc'\n"


def test_the_start_of_a_worker_is_no_time_of_its_node(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        import time
        from fast_dag import DAG

        if __name__ != "__main__":
            time.sleep(1.5)
        dag = DAG("slow start").add_node("quick", lambda: "done", timeout=1)
        if __name__ == "__main__":
            print(dag.run(mode="process"))
        """,
    )
    assert done.stderr == ""
    assert done.stdout == "done\n"


MISSING = """
    import sys
    sys.modules["cloudpickle"] = None
    from concurrent.futures import ProcessPoolExecutor
    from fast_dag import DAG
    from fast_dag.errors import MissingExtraError

    ran = []
    inner = DAG("inner").add_node("away", len, run_in="process", inputs=["text"])
    by_mode = DAG("mode").add_node("one", lambda context: ran.append(1))
    by_node = DAG("node").add_node("one", lambda: ran.append(1)).add_node("inner", inner)

    class Pool(ProcessPoolExecutor):
        def submit(self, *args):
            raise AssertionError("nothing is submitted")

    if __name__ == "__main__":
        for dag, options in (
            (by_mode, {"mode": "process"}),
            (by_node, {"text": "x"}),
            (by_node, {"text": "x", "mode": "async"}),
            (by_mode, {"executor": Pool(1)}),
        ):
            try:
                dag.execute(**options)
            except MissingExtraError as error:
                print(error.extra, ran, dag.last_run if hasattr(dag, "last_run") else None)
"""


def test_a_missing_cloudpickle_is_found_before_the_run(tmp_path: Path) -> None:
    done = run(tmp_path, MISSING)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["process [] None"] * 4


def test_errors_of_a_script_arrive_as_those_of_the_script(tmp_path: Path) -> None:
    """By the script's own name, and without a note that their class is not there."""
    script = """
        from fast_dag import DAG

        class Plain(Exception):
            pass

        class Pair(Plain):
            def __reduce__(self):
                return Pair, self.args

        dag = DAG("errors")

        @dag.node
        def chain():
            try:
                raise Plain(1)
            except Plain as cause:
                raise Pair(2) from cause

        @dag.node
        def group():
            raise ExceptionGroup("several", [Plain(3), Pair(4)])

        @dag.node
        def local():
            class Local(Plain):
                pass

            raise Local(5)

        @dag.node
        def values():
            def function():
                pass

            class Local:
                pass

            return Plain(6), Local, function

        if __name__ == "__main__":
            run = dag.execute(mode="process", max_workers=1, error_strategy="continue")
            chain, group, local = (run.errors[each] for each in ("chain", "group", "local"))
            value, kind, function = run["values"]
            assert type(chain) is Pair and type(chain.__cause__) is type(value) is Plain
            assert [type(each) for each in group.exceptions] == [Plain, Pair]
            assert isinstance(local, Plain) and type(local).__name__ == "Local"
            for made in (type(local), kind, function):
                assert made.__module__ == "__main__", made
            for error in (chain, group, local):
                (note,) = error.__notes__
                assert note.startswith("In the worker process:") and "__mp_main__" not in note
            for error in (chain.__cause__, *group.exceptions, value):
                assert not hasattr(error, "__notes__"), error.__notes__
            print(chain.__notes__[0].splitlines()[-1])
    """
    done = run(tmp_path, script)
    assert done.stderr == ""
    assert done.stdout == "__main__.Pair: 2\n"
