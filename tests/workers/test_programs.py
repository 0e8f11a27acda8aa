"""Programs with a pool: how they end and fork, what is edited meanwhile, and prompts."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import DAG, Workers
from tests.concurrency.support import ENVIRONMENT, is_alive, run, wait_until
from tests.patience import LONG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ENDS = """
    import os, sys, threading
    from fast_dag import DAG, Workers

    dag = DAG("pids").add_node("pid", os.getpid, inputs=[])

    def hangs():
        threading.Event().wait()

    if __name__ == "__main__":
        workers = Workers(2)
        print(dag.run(executor=workers), flush=True)
        {how}
"""


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    "how",
    [
        "",
        pytest.param("sys.exit()", marks=pytest.mark.stress),
        "1 / 0",
        pytest.param("workers.submit(hangs)", marks=pytest.mark.stress),
        "threading.Thread(target=workers.submit(hangs).result, daemon=True).start()",
        pytest.param("os._exit(0)", marks=pytest.mark.stress),
        "os.kill(os.getpid(), 9)",
    ],
)
def test_no_process_outlives_a_program_that_does_not_close_its_pool(
    tmp_path: Path, how: str
) -> None:
    done = run(tmp_path, ENDS.replace("{how}", how))
    assert ("Error" in done.stderr) is (how == "1 / 0")
    assert "fast_dag" not in done.stderr
    wait_until(lambda: not is_alive(int(done.stdout)))


def test_a_forked_child_has_an_empty_pool(tmp_path: Path) -> None:
    """It may use it; what it does is no matter to the parent."""
    done = run(
        tmp_path,
        """
        import os
        from fast_dag import DAG, Workers

        dag = DAG("pids").add_node("pid", os.getpid, inputs=[])

        if __name__ == "__main__":
            with Workers(1) as workers:
                here = dag.run(executor=workers)
                child = os.fork()
                if not child:
                    there = dag.run(executor=workers)
                    workers.shutdown()
                    print(there != here, os.getppid() != there, flush=True)
                    os._exit(0)
                os.waitpid(child, 0)
                print(dag.run(executor=workers) == here)
        """,
    )
    assert done.stderr == ""
    assert done.stdout == "True True\nTrue\n"


def test_a_child_forked_in_the_middle_of_a_call_does_not_keep_its_process_alive(
    tmp_path: Path,
) -> None:
    done = run(
        tmp_path,
        """
        import os, signal, time
        from fast_dag import DAG, Workers

        def forks():
            if not os.fork():
                while not os.path.exists("over"):
                    time.sleep(0.01)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)

        if __name__ == "__main__":
            dag = DAG("forks").add_node("n", forks)
            with Workers(1) as workers:
                print(dag.execute(executor=workers).errors["n"])
            open("over", "w").close()
        """,
    )
    assert (
        done.stdout == "the worker process of node 'n' died before the call ended (exit code -9)\n"
    )


def test_a_script_may_have_a_pool_that_its_processes_make_too_but_do_not_use(
    tmp_path: Path,
) -> None:
    """They import the script."""
    done = run(
        tmp_path,
        """
        from fast_dag import DAG, Workers

        workers = Workers(2)
        dag = DAG("global").add_node("square", lambda x: x * x)

        def squared(x):
            return dag.run(x=x, executor=workers)

        if __name__ == "__main__":
            print(squared(3))
        """,
    )
    assert done.stderr == ""
    assert done.stdout == "9\n"


@pytest.mark.parametrize("use", ["dag.run(executor=workers)", "workers.submit(abs, 1).result()"])
def test_a_script_that_uses_a_pool_without_the_guard_is_told_of_it(
    tmp_path: Path, use: str
) -> None:
    done = run(
        tmp_path,
        f"""
        from fast_dag import DAG, Workers
        dag = DAG("unguarded").add_node("one", lambda: 1)
        with Workers(1) as workers:
            {use}
        """,
    )
    assert done.returncode != 0
    assert "if __name__ == '__main__':" in done.stderr


def test_functions_of_a_prompt_go_by_value() -> None:
    program = """
from fast_dag import DAG, Workers
FACTOR = 3
def scaled(x): return x * FACTOR
dag = DAG("prompt").add_node("scaled", scaled)
with Workers(1) as workers:
    print(dag.run(x=5, executor=workers), workers.submit(scaled, 2).result())
    FACTOR = 4
    print(dag.run(x=5, executor=workers))
    def scaled(x): return -x
    dag.replace_node("scaled", scaled)
    print(dag.run(x=5, executor=workers))
    many = DAG("many")
    @many.map
    def plus(x): return x + FACTOR
    print(many.run(x=[1, 2], executor=workers))
    @many.map(replace=True)
    def plus(x): return x - FACTOR
    print(many.run(x=[1, 2], executor=workers))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout == "15 6\n20\n-5\n[5, 6]\n[-3, -2]\n"


def test_a_map_below_the_guard_of_a_script_goes_by_value(tmp_path: Path) -> None:
    program = """
    from fast_dag import DAG, Workers

    if __name__ == "__main__":
        dag = DAG("many")

        @dag.map
        def plus(x):
            return x + 1

        with Workers(1) as workers:
            print(dag.run(x=[1, 2], executor=workers))
    """
    done = run(tmp_path, program)
    assert (done.stdout, done.stderr) == ("[2, 3]\n", "")


@pytest.fixture
def edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Writes a module, and imports it, again if it was imported before."""
    monkeypatch.syspath_prepend(str(tmp_path))
    names = set()

    def write(name: str, text: str, *, reload: bool = True) -> Any:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text), encoding="utf-8")
        names.add(name)
        # Sources of one second and one length look alike to the cache of bytecode.
        sys.dont_write_bytecode = True
        importlib.invalidate_caches()
        if name not in sys.modules:
            return importlib.import_module(name)
        return importlib.reload(sys.modules[name]) if reload else sys.modules[name]

    before = sys.dont_write_bytecode
    yield write
    sys.dont_write_bytecode = before
    for name in names:
        del sys.modules[name]


def test_a_module_that_was_loaded_again_is_the_new_one_in_processes_too(
    edited: Callable[..., Any],
) -> None:
    steps = edited("edited_steps", "import os\ndef f(x): return x + 1, os.getpid()")
    with Workers(1) as workers:
        first = DAG("first").add_node("f", steps.f).run(x=1, executor=workers)
        again = DAG("again").add_node("f", steps.f).run(x=1, executor=workers)
        edited("edited_steps", "import os\ndef f(x): return x + 2, os.getpid()")
        new = DAG("new").add_node("f", steps.f).run(x=1, executor=workers)
        submitted = workers.submit(steps.f, 1).result()
    assert first == again
    assert (first[0], new[0]) == (2, 3)
    assert new == submitted
    assert new[1] != first[1]


def test_a_helper_that_was_loaded_again_is_new_for_those_that_use_it(
    edited: Callable[..., Any],
) -> None:
    """As autoreloaders do it: only what was edited is loaded again."""
    edited("edited_helper", "FACTOR = 2")
    steps = edited("edited_user", "import edited_helper\ndef f(x): return x * edited_helper.FACTOR")
    with Workers(1) as workers:
        assert workers.submit(steps.f, 5).result() == 10
        edited("edited_helper", "FACTOR = 3")
        assert workers.submit(steps.f, 5).result() == 15
        pid = workers.submit(os.getpid).result()
        assert workers.submit(steps.f, 5).result() == 15
        assert workers.submit(os.getpid).result() == pid


def test_a_map_that_was_loaded_again_is_the_new_one_in_processes_too(
    edited: Callable[..., Any],
) -> None:
    text = "from fast_dag import DAG\ndag = DAG('many')\n@dag.map\ndef f(x): return x + "
    with Workers(1) as workers:
        assert edited("edited_map", text + "1").dag.run(x=[1], executor=workers) == [2]
        assert edited("edited_map", text + "2").dag.run(x=[1], executor=workers) == [3]


def test_restart_imports_what_was_edited_but_not_loaded_again(edited: Callable[..., Any]) -> None:
    steps = edited("edited_later", "def f(x): return x + 1")
    with Workers(1) as workers:
        assert workers.submit(steps.f, 1).result() == 2
        edited("edited_later", "def f(x): return x + 2", reload=False)
        assert workers.submit(steps.f, 1).result() == 2
        workers.restart()
        assert workers.submit(steps.f, 1).result() == 3


def test_code_that_was_exchanged_counts_as_loaded_again(edited: Callable[..., Any]) -> None:
    steps = edited("edited_code", "def f(x): return x + 1")
    with Workers(1) as workers:
        pid = workers.submit(os.getpid).result()
        assert workers.submit(steps.f, 1).result() == 2
        edited("edited_code", "def f(x): return x + 5", reload=False)
        steps.f.__code__ = (lambda x: x + 5).__code__
        assert workers.submit(steps.f, 1).result() == 6
        assert workers.submit(os.getpid).result() != pid


def test_a_program_that_is_interrupted_ends_with_its_processes(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(
        textwrap.dedent(
            """
            import os, threading
            from fast_dag import DAG, Workers

            def hangs():
                print(os.getpid(), flush=True)
                threading.Event().wait()

            if __name__ == "__main__":
                with Workers(1) as workers:
                    DAG("hangs").add_node("n", hangs).run(executor=workers)
            """
        ),
        encoding="utf-8",
    )
    program = subprocess.Popen(
        [sys.executable, path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    assert program.stdout is not None
    worker = int(program.stdout.readline())
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=LONG)
    assert errors.splitlines()[-1] == "KeyboardInterrupt"
    wait_until(lambda: not is_alive(worker))


def test_functions_that_only_bear_a_name_cost_no_process(edited: Callable[..., Any]) -> None:
    """Many functions of one name, none of which is found by it: they go by value."""
    steps = edited(
        "edited_maker",
        """
        def f():
            pass

        def make(n):
            made = {}
            exec(f"def f(): return {n}", globals(), made)
            return made["f"]
        """,
    )
    with Workers(1) as workers:
        pid = workers.submit(os.getpid).result()
        assert [workers.submit(steps.make(n)).result() for n in range(3)] == [0, 1, 2]
        assert workers.submit(os.getpid).result() == pid
