"""What the logger `fast_dag` gets: levels, attributes, and what a run costs under it."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fast_dag import DAG, FSM, Context, ExecutionError, FSMReturn, Run
from fast_dag.drive import inline
from tests.call.test_observers import Held, Watch, chain, cut_off, noting
from tests.patience import LONG
from tests.ways import EVERYWHERE, EXECUTE

Execute = Callable[..., Run]
Line = tuple[str, str, str | None, int | None]

everywhere = pytest.mark.parametrize(
    "execute", [EXECUTE[way] for way in EVERYWHERE], ids=EVERYWHERE
)
BROKEN = "'ZeroDivisionError: division by zero'"


def lines(caplog: pytest.LogCaptureFixture) -> list[Line]:
    return [
        (each.levelname, each.getMessage(), each.__dict__["node"], each.__dict__["attempt"])
        for each in caplog.records
        if each.name == "fast_dag"
    ]


@pytest.fixture
def at_debug(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "fast_dag")
    return caplog


@pytest.fixture
def at_info(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "fast_dag")
    return caplog


# Levels.


@everywhere
def test_nodes_are_logged_at_debug_and_runs_at_info(
    execute: Execute, at_debug: pytest.LogCaptureFixture
) -> None:
    run = execute(chain())
    assert lines(at_debug) == [
        ("DEBUG", "node 'a' of 'chain': running", "a", 1),
        ("DEBUG", "node 'a' of 'chain': completed", "a", 1),
        ("DEBUG", "node 'b' of 'chain': running", "b", 1),
        ("DEBUG", "node 'b' of 'chain': completed", "b", 1),
        ("INFO", "run of 'chain': completed", None, None),
    ]
    assert {each.__dict__["run_id"] for each in at_debug.records} == {run.run_id}


@everywhere
def test_failures_are_errors_and_retries_are_warnings(
    execute: Execute, at_info: pytest.LogCaptureFixture
) -> None:
    dag = DAG("fails")
    dag.add_node("bad", lambda: 1 / 0, retry=2, retry_delay=0.0).add_node("after", lambda x: x)
    dag.connect("bad", "after")
    assert execute(dag).status == "failed"
    assert lines(at_info) == [
        ("WARNING", f"node 'bad' of 'fails': retrying: {BROKEN}", "bad", 1),
        ("WARNING", f"node 'bad' of 'fails': retrying: {BROKEN}", "bad", 2),
        ("ERROR", f"node 'bad' of 'fails': failed: {BROKEN}", "bad", 3),
        ("INFO", "run of 'fails': failed", None, None),
    ]


@everywhere
def test_failures_that_the_run_goes_on_after_are_errors(
    execute: Execute, at_info: pytest.LogCaptureFixture
) -> None:
    dag = DAG("fails").add_node("bad", lambda: 1 / 0).add_node("good", lambda: 1)
    execute(dag, error_handler=lambda node, error, context: "continue")
    assert lines(at_info) == [
        ("ERROR", f"node 'bad' of 'fails': failed: {BROKEN}", "bad", 1),
        ("INFO", "run of 'fails': completed_with_errors", None, None),
    ]


@everywhere
def test_failure_that_the_nodes_handler_gave_a_result_for_is_a_warning(
    execute: Execute, at_info: pytest.LogCaptureFixture
) -> None:
    dag = DAG("fails").add_node("bad", lambda: 1 / 0)
    dag.set_node_error_handler("bad", lambda node, inputs, error: 0)
    assert execute(dag).value == 0
    assert lines(at_info) == [
        ("WARNING", f"node 'bad' of 'fails': handled: {BROKEN}", "bad", 1),
        ("INFO", "run of 'fails': completed", None, None),
    ]


def test_skipped_and_cancelled_nodes_are_logged_at_debug_and_the_timeout_is_an_error(
    at_debug: pytest.LogCaptureFixture,
) -> None:
    def call(held: Held, seconds: float, watch: Watch) -> Run:
        at_debug.clear()
        dag = DAG("late").add_node("bad", lambda: 1 / 0).add_node("after", lambda x: x)
        dag.connect("bad", "after").add_node("held", held)
        options: dict[str, Any] = {"timeout": seconds, "error_strategy": "continue"}
        return dag.execute(mode="parallel", max_workers=2, progress=watch, **options)

    run, _ = cut_off(call, ("after", "skipped"), ("held", "running"))
    assert ("DEBUG", "node 'after' of 'late': skipped", "after", 1) in lines(at_debug)
    told = f"TimeoutError: {run.exception()}"
    assert lines(at_debug)[-3:] == [
        ("DEBUG", "node 'held' of 'late': cancelled", "held", 1),
        ("ERROR", f"run of 'late': failed: {told!r}", None, None),
        ("INFO", "run of 'late': timed_out", None, None),
    ]


# Nested workflows: what stands is what the outermost run keeps.


@everywhere
def test_nested_nodes_are_logged_by_path_under_the_outermost_run(
    execute: Execute, at_debug: pytest.LogCaptureFixture
) -> None:
    context = Context(metadata={"run_id": "run-7"})
    execute(DAG("outer").add_node("sub", chain()), context=context)
    assert {each.__dict__["run_id"] for each in at_debug.records} == {"run-7"}
    assert {each.__dict__["workflow"] for each in at_debug.records} == {"outer"}
    assert ("DEBUG", "node 'sub.b' of 'outer': completed", "sub.b", 1) in lines(at_debug)
    assert lines(at_debug)[-1] == ("INFO", "run of 'outer': completed", None, None)
    assert sum(line[0] == "INFO" for line in lines(at_debug)) == 1


def nested(depth: int, inner: DAG | FSM, **options: Any) -> DAG:
    for level in range(depth):
        inner = DAG(f"level {level}").add_node("sub", inner, **(options if level == 0 else {}))
    assert isinstance(inner, DAG)
    return inner


@everywhere
@pytest.mark.parametrize("depth", [1, 3])
def test_nested_failure_is_one_error(
    depth: int, execute: Execute, at_info: pytest.LogCaptureFixture
) -> None:
    run = execute(nested(depth, DAG("inner").add_node("bad", lambda: 1 / 0)))
    path = "sub." * depth + "bad"
    assert list(run.errors) == [path]
    assert [line[:3] for line in lines(at_info)] == [
        ("ERROR", f"node {path!r} of {run.name!r}: failed: {BROKEN}", path),
        ("INFO", f"run of {run.name!r}: failed", None),
    ]


@everywhere
def test_nested_failure_whose_workflow_is_tried_again_is_a_warning(
    execute: Execute, at_info: pytest.LogCaptureFixture
) -> None:
    tries = iter([0, 1])
    inner = DAG("inner").add_node("flaky", lambda: 1 / next(tries), run_in="thread")
    assert execute(nested(1, inner, retry=1, retry_delay=0.0)).value == 1.0
    assert [line[0] for line in lines(at_info)] == ["WARNING", "INFO"]


@everywhere
def test_each_error_that_a_run_keeps_is_logged_once(
    execute: Execute, at_info: pytest.LogCaptureFixture
) -> None:
    inner = DAG("inner").add_node("bad", lambda: 1 / 0).add_node("good", lambda: 1)
    outer = nested(2, inner).add_node("worse", lambda: 1 / 0)
    run = execute(outer, error_strategy="continue")
    logged = [line[2] for line in lines(at_info) if line[0] == "ERROR"]
    assert sorted(filter(None, logged)) == sorted(run.errors) == ["sub.sub.bad", "worse"]


# Machines.


def test_machines_log_their_states(execute: Execute, at_debug: pytest.LogCaptureFixture) -> None:
    fsm = FSM("machine", initial_state="only")
    fsm.add_state("only", lambda: FSMReturn(stop=True))
    execute(fsm)
    assert [line[1] for line in lines(at_debug)] == [
        "state 'only' of 'machine': running",
        "state 'only' of 'machine': completed",
        "run of 'machine': completed",
    ]


def test_state_that_leads_nowhere_is_an_error(
    execute: Execute, at_info: pytest.LogCaptureFixture
) -> None:
    run = execute(FSM("machine").add_state("stuck", lambda: 1, initial=True))
    assert run.status == "failed"
    assert [line[0] for line in lines(at_info)] == ["ERROR", "INFO"]
    assert lines(at_info)[0][1].startswith("state 'stuck' of 'machine': failed: \"Invalid")


def test_live_machine_logs_its_end_once_and_each_failure(at_info: pytest.LogCaptureFixture) -> None:
    fsm = FSM("door", initial_state="closed", terminal_states=["open"])
    fsm.add_state("closed", lambda: 1).add_state("open", lambda: 2)
    fsm.add_transition("closed", "open", lambda value, context, data: data["key"], event="push")
    machine = fsm.start()
    machine.run()
    with pytest.raises(ExecutionError):
        machine.send("push", key=False)
    assert machine.send("push", key=True) == 2
    assert [line[0] for line in lines(at_info)] == ["ERROR", "INFO", "INFO"]
    assert lines(at_info)[-1][1] == "run of 'door': completed"


# Attributes.


@everywhere
def test_every_record_has_the_same_attributes(
    execute: Execute, at_debug: pytest.LogCaptureFixture
) -> None:
    dag = DAG("fails").add_node("good", lambda: 1)
    dag.add_node("bad", lambda x: 1 / 0, retry=1, retry_delay=0.0).connect("good", "bad")
    run = execute(dag)
    told = [
        (each.levelname, each.__dict__["status"], each.__dict__["seconds"])
        for each in at_debug.records
    ]
    good, bad = run.timings["good"], run.timings["bad"]
    assert told == [
        ("DEBUG", "running", None),
        ("DEBUG", "completed", pytest.approx(good)),
        ("DEBUG", "running", None),
        ("WARNING", "retrying", None),
        ("ERROR", "failed", None),
        ("DEBUG", "failed", pytest.approx(bad)),
        ("INFO", "failed", run.metrics["execution_time"]),
    ]
    for record in at_debug.records:
        assert (record.__dict__["run_id"], record.__dict__["workflow"]) == (run.run_id, "fails")


def test_every_record_is_one_line_whatever_names_and_errors_hold(
    at_debug: pytest.LogCaptureFixture,
) -> None:
    def bad() -> None:
        raise ValueError("first\nERROR forged\r\x1b[2J%s%d")

    dag = DAG("two\nlines").add_node("a\nb", bad, retry=1, retry_delay=0.0)
    dag.execute()
    assert len(at_debug.records) == 5
    for record in at_debug.records:
        assert record.getMessage().isprintable(), record.getMessage()


def test_values_are_not_logged(at_debug: pytest.LogCaptureFixture) -> None:
    DAG("demo").add_node("a", lambda secret: secret * 2).execute(secret="hunter2")
    assert "hunter2" not in at_debug.text


# Nodes cost nothing where they are not logged.


class Handler(logging.Handler):
    """Keeps levels, at most those that it takes."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.levels: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.levels.append(record.levelname)


@pytest.fixture
def alone() -> Iterator[Callable[[int, Handler], logging.Logger]]:
    """The logger with one handler alone, at a level."""
    log = logging.getLogger("fast_dag")
    before = (log.level, log.propagate, log.handlers[:])

    def configured(level: int, handler: Handler) -> logging.Logger:
        log.setLevel(level)
        log.propagate = False
        log.handlers[:] = [handler]
        return log

    yield configured
    log.level, log.propagate, log.handlers[:] = before
    log.setLevel(log.level)


@pytest.mark.parametrize(
    ("logger_takes", "handler_takes", "are_logged"),
    [
        (logging.DEBUG, logging.NOTSET, True),
        (logging.DEBUG, logging.INFO, False),
        (logging.INFO, logging.NOTSET, False),
        (logging.WARNING, logging.NOTSET, False),
    ],
)
def test_only_who_takes_nodes_takes_a_run_off_its_fast_paths(
    logger_takes: int,
    handler_takes: int,
    are_logged: bool,
    alone: Callable[[int, Handler], logging.Logger],
) -> None:
    handler = Handler(handler_takes)
    alone(logger_takes, handler)
    for workflow in (chain(), FSM("m").add_state("s", lambda: 1, initial=True, terminal=True)):
        run = workflow.execute()
        assert (run._execution.observers is not None) is are_logged
    assert ("DEBUG" in handler.levels) is are_logged
    assert ("INFO" in handler.levels) is (logger_takes <= logging.INFO)


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
def test_straight_run_at_info_calls_nothing_for_a_node_but_the_node(
    level: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(level)
    dag = DAG("chain").add_node("n0", lambda: 1)
    for number in range(1, 50):
        dag.add_node(f"n{number}", lambda x: x).connect(f"n{number - 1}", f"n{number}")
    dag.run()
    calls: list[str] = []

    def watch(frame: Any, event: str, argument: Any) -> None:
        is_direct = frame.f_back.f_code is inline._drive_straight.__code__
        is_ours = frame.f_globals["__name__"].startswith(
            ("fast_dag", __name__)
        )  # no callback of gc
        if event == "call" and is_direct and is_ours and frame.f_code.co_name != "<listcomp>":
            calls.append(frame.f_code.co_name)

    sys.setprofile(watch)
    try:
        dag.run()
    finally:
        sys.setprofile(None)
    assert calls == ["<lambda>"] * 50


# However logging is configured.


def test_level_is_asked_anew_for_each_run(caplog: pytest.LogCaptureFixture) -> None:
    dag = chain()
    counts = []
    for level in (logging.WARNING, logging.INFO, logging.DEBUG, logging.WARNING):
        caplog.set_level(level, "fast_dag")
        caplog.clear()
        dag.run()
        counts.append(len(caplog.records))
    assert counts == [0, 1, 5, 0]


@pytest.mark.one_in(3)
@everywhere
@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
def test_handler_that_raises_harms_nothing(
    level: int, execute: Execute, alone: Callable[[int, Handler], logging.Logger]
) -> None:
    calls = 0

    class Broken(Handler):
        def emit(self, record: logging.LogRecord) -> None:
            nonlocal calls
            calls += 1
            raise OSError("disk is full")

    alone(level, Broken(logging.NOTSET))
    dag = chain().add_node("bad", lambda: 1 / 0, retry=1, retry_delay=0.0)
    run = execute(dag, error_strategy="continue")
    assert (run.status, list(run.errors), run["b"]) == ("completed_with_errors", ["bad"], 2)
    assert calls >= 3


def test_handler_may_run_a_workflow(
    execute: Execute, alone: Callable[[int, Handler], logging.Logger]
) -> None:
    other, dag = chain(), DAG("fails").add_node("bad", lambda: 1 / 0)
    seen: list[Any] = []

    class Curious(Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.__dict__["workflow"] == "fails":
                seen.append(other.run())

    alone(logging.DEBUG, Curious(logging.NOTSET))
    run = execute(dag)
    assert set(seen) == {2}
    assert run.status == "failed"


def test_nothing_is_written_where_logging_is_not_configured() -> None:
    script = textwrap.dedent("""
        import logging
        from fast_dag import DAG
        def broken(*event):
            raise RuntimeError("screen is off")
        dag = DAG("quiet").add_node("bad", lambda: 1 / 0, retry=1, retry_delay=0.0)
        dag.execute(progress=broken, error_strategy="continue")
        dag.execute(mode="parallel", progress=broken)
        import logging.config
        logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
        dag.execute()
    """)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=LONG, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_logging_that_is_configured_by_a_node_gets_its_failure() -> None:
    script = textwrap.dedent("""
        from fast_dag import DAG
        def bad():
            import logging
            logging.basicConfig(format="%(levelname)s %(message)s")
            raise ValueError("broken")
        DAG("late").add_node("bad", bad).execute()
    """)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=LONG, check=False
    )
    assert done.stderr == "ERROR node 'bad' of 'late': failed: 'ValueError: broken'\n"


def test_the_log_and_a_callback_are_told_the_same(
    execute: Execute, at_debug: pytest.LogCaptureFixture
) -> None:
    told: list[tuple[str, str, float]] = []
    execute(chain(), progress=noting(told))
    logged = [line[1] for line in lines(at_debug) if line[2] is not None]
    assert logged == [f"node {name!r} of 'chain': {status}" for name, status, _ in told]
