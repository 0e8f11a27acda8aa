"""A machine's run: its views, history and metrics, and what surrounds its states."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import pickle
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any
from weakref import ref

import pytest

import fast_dag
from fast_dag import (
    FSM,
    Context,
    ExecutionError,
    FSMContext,
    FSMReturn,
    Run,
    ValidationError,
)
from fast_dag.errors import MissingResultError
from tests.concurrency.support import wait_until
from tests.fsm.support import counting, machine
from tests.patience import LONG, timeouts
from tests.ways import MODES

if TYPE_CHECKING:
    from collections.abc import Iterator


def unobtrusive(*event: Any) -> None:
    """Watches a run, which then takes the general path."""


HISTORY = ["tick", "tock", "tick", "tock", "tick", "done"]


OPTIONS: list[dict[str, Any]] = [
    {},
    {"progress": unobtrusive},
    {"mode": "parallel"},
    {"mode": "async"},
]


class BoomError(Exception):
    """What a state raises that is told to fail."""


def views(fsm: FSM) -> tuple[Any, ...]:
    return fsm.state_history, fsm.current_state, fsm.cycle_count, fsm.is_terminated


# Views before, in and after a run.


def test_before_the_first_run_there_is_nothing_to_see() -> None:
    fsm = counting(3)
    assert views(fsm) == ([], None, 0, False)
    assert (fsm.results, fsm.context.metadata) == ({}, {})
    assert isinstance(fsm.context, FSMContext)
    for name in ("tick", "tick.0"):
        with pytest.raises(MissingResultError, match="has not run yet"):
            fsm[name]
    for name in ("tikc", "tikc.0"):
        with pytest.raises(KeyError, match="did you mean 'tick'"):
            fsm[name]


@pytest.mark.process_mode
def test_after_a_run_all_of_it_can_be_seen(execute: Any) -> None:
    fsm = counting(5)
    ran = execute(fsm)
    assert isinstance(ran, Run)
    assert (ran.value, ran.status, ran.errors) == (5, "completed", {})
    assert views(fsm) == (HISTORY, "done", 6, True)
    assert (ran.state_history, ran.current_state, ran.cycle_count) == (HISTORY, "done", 6)
    assert ran.is_terminated
    assert ran.results == {"tick": 5, "tock": 4, "done": 5} == fsm.results
    assert ran.statuses == dict.fromkeys(["tick", "tock", "done"], "completed")
    assert ran.context.metadata["execution_status"] == "completed"
    assert ran.context.state_history == HISTORY


def test_results_are_read_by_visit(execute: Any) -> None:
    fsm = counting(5)
    ran = execute(fsm)
    for view in (fsm, ran):
        assert [view[f"tick.{n}"] for n in range(3)] == [1, 3, 5]
        assert [view["tock.0"], view["tock.1"], view["done.0"]] == [2, 4, 5]
        assert (view["tick"], view.get_result("tick") if view is fsm else 5) == (5, 5)
        assert view.get("tock.1") == 4
        assert view.get("tock.2", "none") == "none"
        with pytest.raises(MissingResultError, match="'tock' was visited 2 times") as caught:
            view["tock.2"]
        assert caught.value.reason == "not run"
        for path in ("tock.-1", "tock.x", "tock.", "tock.1.0", "tok.0", "0", ".0"):
            with pytest.raises(KeyError):
                view[path]


def test_a_state_never_visited_has_no_result(run: Any) -> None:
    fsm = machine(a=lambda: FSMReturn("c"), b=lambda: 1, c=lambda: 2)
    run(fsm)
    with pytest.raises(MissingResultError, match="has not run"):
        fsm["b"]
    with pytest.raises(MissingResultError, match="was visited 0 times"):
        fsm["b.0"]


def test_none_is_a_result_like_any_other(run: Any) -> None:
    fsm = machine(a=lambda: None, b=lambda: FSMReturn("b"))
    assert run(fsm) is None
    assert (fsm["a"], fsm["a.0"], fsm["b"]) == (None, None, None)


def test_inside_of_a_state_the_views_are_of_the_run_in_progress(run: Any) -> None:
    seen: list[Any] = []

    def look(n: int = 0) -> Any:
        seen.append((*views(fsm), fsm.get("look"), fsm.get("look.0")))
        return FSMReturn("look" if n < 2 else "end", n + 1)

    fsm = FSM("m", initial_state="look", terminal_states=["end"])
    fsm.add_state("look", look).add_state("end", lambda: views(fsm))
    once = [
        (["look"], "look", 1, False, None, None),
        (["look"] * 2, "look", 2, False, 1, 1),
        (["look"] * 3, "look", 3, False, 2, 1),
    ]
    assert run(fsm) == (["look"] * 3 + ["end"], "end", 4, False)
    assert seen == once
    run(fsm)
    assert seen == once * 2
    assert fsm.is_terminated


def test_the_context_tells_the_same_as_the_machine(run: Any) -> None:
    def look(context: FSMContext) -> Any:
        return context.state_history, context.current_state, context.cycle_count

    context = FSMContext(metadata={"user": "ada"})
    fsm = machine(first=lambda: 1, look=look)
    assert run(fsm, context=context) == (["first", "look"], "look", 2)
    assert fsm.context is context
    assert (context.state_history, context.cycle_count) == (["first", "look"], 2)
    assert context.metadata["user"] == "ada"


def test_every_run_starts_anew(run: Any) -> None:
    fsm = machine(a=lambda n: FSMReturn("c" if n else "b", n), b=lambda: "b", c=lambda: "c")
    fsm.add_state("end", lambda: 0)
    context = FSMContext()
    assert run(fsm, n=0, context=context) == "c"
    first = context.metadata["run_id"]
    assert set(context.results) == {"a", "b", "c"}
    assert run(fsm, n=1, context=context) == "c"
    assert set(context.results) == {"a", "c"}
    assert context.state_history == ["a", "c"]
    assert context.metadata["run_id"] != first


def test_a_plain_context_will_do(run: Any) -> None:
    context = Context()
    fsm = counting(2)
    assert run(fsm, context=context) == 2
    assert context.results == {"tick": 1, "tock": 2, "done": 2}
    assert fsm.state_history == ["tick", "tock", "done"]
    with pytest.raises(ValidationError, match=r"context is a fast_dag\.Context"):
        run(fsm, context={})


def test_what_was_deleted_from_the_results_says_so(run: Any) -> None:
    fsm = machine(a=lambda: 1, b=lambda context: context.results.pop("a"))
    assert run(fsm) == 1
    with pytest.raises(MissingResultError, match="deleted"):
        fsm["a"]
    assert fsm["a.0"] == 1


# FSMContext as data.


def test_an_fsm_context_goes_to_a_dict_and_back() -> None:
    context = FSMContext(metadata={"user": "ada"})
    counting(3).run(context=context)
    told = context.to_dict()
    assert told["state_history"] == ["tick", "tock", "tick", "done"]
    back = FSMContext.from_dict(json.loads(json.dumps(told)))
    assert back.to_dict() == told
    assert (back.current_state, back.cycle_count) == ("done", 4)
    assert back["done"] == 3
    told["state_history"].append("more")
    assert back.cycle_count == 4


def test_an_fsm_context_can_be_pickled_also_inside_of_a_run(run: Any) -> None:
    fsm = machine(a=lambda: 1, b=lambda context: pickle.dumps(context))
    inside = pickle.loads(run(fsm))
    assert type(inside) is FSMContext
    assert (inside.state_history, inside.results) == (["a", "b"], {"a": 1})
    assert inside.metadata["execution_status"] == "running"
    assert pickle.loads(pickle.dumps(fsm.context)).state_history == ["a", "b"]


def test_an_empty_fsm_context_has_no_state() -> None:
    context = FSMContext()
    assert (context.state_history, context.current_state, context.cycle_count) == ([], None, 0)
    with pytest.raises(ValidationError, match="from_dict"):
        FSMContext.from_dict({"history": []})


def test_a_context_of_before_is_used_again_with_its_own_history(run: Any) -> None:
    context = FSMContext.from_dict({"state_history": ["old"], "results": {"other": 1}})
    run(counting(1), context=context)
    assert context.state_history == ["tick", "done"]
    assert context.results == {"other": 1, "tick": 1, "done": 1}


# A bounded history.


def test_keep_history_keeps_the_last_visits_over_all(run: Any) -> None:
    fsm = counting(20, keep_history=3)
    assert run(fsm) == 20
    assert fsm.state_history == ["tick", "tock", "done"]
    assert (fsm.cycle_count, fsm.current_state) == (21, "done")


def test_visit_numbers_stay_absolute(run: Any) -> None:
    fsm = counting(20, keep_history=4)
    run(fsm)
    assert (fsm["tick.9"], fsm["tock.9"], fsm["tock.8"], fsm["tick"]) == (19, 20, 18, 19)
    with pytest.raises(MissingResultError, match="no longer kept") as caught:
        fsm["tick.8"]
    assert caught.value.reason == "deleted"
    with pytest.raises(MissingResultError, match="'tick' was visited 10 times"):
        fsm["tick.10"]


@pytest.mark.one_in(4)
@pytest.mark.parametrize("most", [999, 1001, 2004])
def test_a_bounded_history_tells_the_end_of_the_whole_one(run: Any, most: int) -> None:
    whole, last = counting(most), counting(most, keep_history=2)
    assert run(whole, max_cycles=9999) == run(last, max_cycles=9999) == most
    assert last.state_history == whole.state_history[-2:]
    assert last.cycle_count == whole.cycle_count == most + 1
    newest = f"tick.{(most - 1) // 2}"
    if most % 2:
        assert last[newest] == whole[newest] == most
    assert last.context.metrics["nodes_executed"] == most + 1
    assert len(last.context.metrics["execution_order"]) == 2
    assert set(last.context.metrics["node_times"]) == {"tick", "tock", "done"}


def test_inside_of_a_state_a_bounded_history_ends_with_it(run: Any) -> None:
    fsm = machine(a=lambda: 1, b=lambda: 1, c=lambda context: context.state_history)
    fsm.keep_history = 2
    assert run(fsm) == ["b", "c"]
    fsm.keep_history = 1
    assert run(fsm) == ["c"]


@pytest.mark.stress
def test_a_million_transitions_take_constant_memory() -> None:
    blocks: list[int] = []
    traced: list[int] = []

    def tick(n: int = 0) -> Any:
        if n % 100_000 == 0:
            blocks.append(sys.getallocatedblocks())
        if n == 950_000:
            tracemalloc.start(1)  # not before: it is slow
        if n == 1_000_000:
            traced.append(tracemalloc.get_traced_memory()[0])
        return FSMReturn("tick" if n < 1_000_000 else "done", n + 1)

    fsm = FSM("m", initial_state="tick", terminal_states=["done"], keep_history=100)
    fsm.add_state("tick", tick).add_state("done", lambda n: n)
    try:
        assert fsm.run(max_cycles=2_000_000) == 1_000_001
    finally:
        tracemalloc.stop()
    assert len(fsm.state_history) == 100
    assert fsm.cycle_count == 1_000_002
    # Up to 1,000 visits more than are kept may be held, at five objects each.
    assert max(blocks[1:]) - min(blocks[1:]) < 8_000, blocks
    assert traced[0] < 400_000


@pytest.mark.parametrize(
    "options",
    OPTIONS[1:],
    ids=lambda each: " ".join(
        str(value) if isinstance(value, str) else key for key, value in each.items()
    ),
)
def test_the_other_ways_take_constant_memory_too(options: dict[str, Any]) -> None:
    sizes: list[int] = []

    def tick(n: int = 0) -> Any:
        if n % 1_000 == 0:
            sizes.append(tracemalloc.get_traced_memory()[0])
        return FSMReturn("tick" if n < 4_000 else "done", n + 1)

    fsm = FSM("m", initial_state="tick", terminal_states=["done"], keep_history=10)
    fsm.add_state("tick", tick).add_state("done", lambda n: n)
    tracemalloc.start(1)
    try:
        fsm.run(max_cycles=2_000_000, **options)
    finally:
        tracemalloc.stop()
    # Up to 1,000 visits more than are kept may be held.
    assert max(sizes[1:]) - min(sizes[1:]) < 250_000, sizes


# Metrics.


def test_node_times_are_sums_per_state(execute: Any) -> None:
    ran = execute(counting(5))
    metrics = ran.metrics
    assert list(metrics["node_times"]) == ["tick", "tock", "done"]
    assert all(spent >= 0 for spent in metrics["node_times"].values())
    assert sum(metrics["node_times"].values()) <= metrics["execution_time"]
    assert metrics["execution_order"] == HISTORY
    assert (metrics["nodes_executed"], metrics["nodes_failed"]) == (6, 0)
    assert (metrics["nodes_skipped"], metrics["retries"]) == (0, 0)
    assert ran.timings == metrics["node_times"]


def test_sums_of_a_bounded_history_are_those_of_all_visits(execute: Any) -> None:
    spent: list[float] = []

    def hook(fsm: FSM) -> None:
        if fsm.cycle_count % 100 in (0, 99):
            spent.append(sum(fsm.context.metrics["node_times"].values()))

    fsm = counting(1100, keep_history=1, max_cycles=2000)
    fsm.add_state_hook(hook)
    ran = execute(fsm)
    assert spent == sorted(spent)
    assert ran.metrics["nodes_executed"] == 1101


def test_metrics_can_be_read_inside_of_a_state(run: Any) -> None:
    fsm = machine(a=lambda: 1, b=lambda context: dict(context.metrics))
    metrics = run(fsm)
    assert metrics["execution_order"] == ["a"]
    assert metrics["nodes_executed"] == 1
    assert metrics["execution_time"] > 0


def test_memory_is_tracked_where_asked_for() -> None:
    ran = counting(3).execute(track_memory=True)
    assert ran.metrics["memory_usage"]["peak_mb"] > 0


# What surrounds the call of a state.


def test_hooks_surround_every_visit(run: Any) -> None:
    seen: list[str] = []
    fsm = FSM("m", initial_state="a", terminal_states=["b"]).add_state("b", lambda n: n)
    fsm.add_state("a", lambda n=0: FSMReturn("a" if n < 20 else "b", n + 1))
    fsm.set_node_hooks(
        "a",
        pre_execute=lambda node, inputs: seen.append("pre") or {"n": 10 * inputs.get("n", 0) + 1},
        post_execute=lambda node, inputs, result: seen.append(f"post {result.value}"),
        cleanup=lambda node: seen.append("cleanup"),
    )
    assert run(fsm) == 22
    assert seen == ["pre", "post 2", "cleanup", "pre", "post 22", "cleanup"]


def test_a_post_hook_may_return_where_to_go(run: Any) -> None:
    fsm = machine(a=lambda: 1, b=lambda x: "b", c=lambda x: f"c {x}")
    fsm.set_node_hooks("a", post_execute=lambda node, inputs, result: FSMReturn("c", result + 1))
    assert run(fsm) == "c 2"
    assert fsm["a"] == 2


def test_a_state_is_tried_again(execute: Any) -> None:
    calls: list[int] = []

    def flaky(x: int) -> int:
        calls.append(x)
        if len(calls) % 3:
            raise BoomError
        return x + 1

    fsm = FSM("m", initial_state="a", terminal_states=["c"]).add_state("a", lambda: 1)
    fsm.add_state("b", flaky, retry=2, retry_delay=0.001).add_state("c", lambda x: x)
    ran = execute(fsm.add_transition("a", "b").add_transition("b", "c"))
    assert (ran.value, calls, ran.metrics["retries"]) == (2, [1, 1, 1], 2)
    assert ran.state_history == ["a", "b", "c"]


def test_a_state_that_fails_for_good_ends_the_run(execute: Any) -> None:
    def boom(x: int) -> None:
        raise BoomError("no luck")

    fsm = machine(a=lambda: 1, b=boom, c=lambda: 1)
    ran = execute(fsm)
    error = ran.exception()
    assert type(error) is ExecutionError
    assert isinstance(error.__cause__, BoomError)
    assert (error.node_name, error.attempts, error.run) == ("b", 1, ran)
    assert str(error) == "state 'b' of 'm' failed: BoomError: no luck"
    assert error.__cause__.__traceback__.tb_frame.f_code is boom.__code__
    assert ran.statuses == {"a": "completed", "b": "failed", "c": "not_run"}
    assert (ran.status, ran.value, ran.results) == ("failed", 1, {"a": 1})
    assert views(fsm) == (["a", "b"], "b", 2, False)
    assert ran.metrics["nodes_failed"] == 1
    with pytest.raises(MissingResultError, match="failed"):
        fsm["b"]
    with pytest.raises(MissingResultError, match="failed in this visit"):
        fsm["b.0"]


def test_a_state_that_fails_at_a_later_visit_keeps_its_earlier_results(execute: Any) -> None:
    def inverse(n: int = 2) -> Any:
        return FSMReturn("inverse", int(2 / n) - 1)

    fsm = FSM("m").add_state("inverse", inverse, initial=True)
    ran = execute(fsm)
    assert (ran.status, ran.state_history) == ("failed", ["inverse"] * 2)
    assert ran["inverse.0"] == 0
    assert ran.statuses == {"inverse": "failed"}
    with pytest.raises(MissingResultError, match="failed in this visit"):
        ran["inverse.1"]


def test_an_error_handler_of_a_state_gives_a_return_in_its_place(run: Any) -> None:
    fsm = machine(a=lambda: 1 / 0, b=lambda x: "b", c=lambda x: f"c {x}")
    fsm.set_node_error_handler("a", lambda node, inputs, error: FSMReturn("c", type(error)))
    assert run(fsm) == f"c {ZeroDivisionError}"
    fsm.set_node_error_handler("a", lambda node, inputs, error: 5)
    assert run(fsm) == "c b"


def test_error_strategy_continue_only_keeps_a_failure_from_being_raised(execute: Any) -> None:
    fsm = machine(a=lambda: 1, b=lambda x: 1 / 0, c=lambda: "c")
    ran = execute(fsm, error_strategy="continue")
    assert (ran.status, ran.value, ran.state_history) == ("completed_with_errors", 1, ["a", "b"])
    (told,) = ran.context.metadata["errors"]
    assert (told["node"], told["type"]) == ("b", "ZeroDivisionError")
    assert not ran.is_terminated


def test_error_strategy_continue_covers_transitions_too(execute: Any) -> None:
    fsm = machine(a=lambda: FSMReturn("nowhere", 3), b=lambda: 1)
    ran = execute(fsm, error_strategy="continue")
    assert (ran.status, ran.value) == ("completed_with_errors", 3)
    ran = execute(counting(9), max_cycles=3, error_strategy="continue")
    assert (ran.status, ran.value, ran.cycle_count) == ("completed_with_errors", 3, 3)
    assert ran.context.metadata["errors"][0]["type"] == "MaxCyclesError"


@pytest.mark.parametrize(
    ("answer", "status"), [("continue", "completed_with_errors"), ("stop", "failed")]
)
def test_the_error_handler_of_a_run_decides(execute: Any, answer: str, status: str) -> None:
    asked: list[Any] = []

    def handler(name: str, error: Exception, context: Context) -> str:
        asked.append((name, type(error), context.get("a")))
        return answer

    ran = execute(machine(a=lambda: 1, b=lambda x: 1 / 0), error_handler=handler)
    assert (ran.status, asked) == (status, [("b", ZeroDivisionError, 1)])


def test_cached_states_are_called_once_for_the_same_inputs(execute: Any) -> None:
    calls: list[int] = []
    fsm = FSM("m", initial_state="ask", terminal_states=["end"])

    @fsm.cached_state(max_entries=10)
    def ask(n: int = 0) -> Any:
        calls.append(n)
        return FSMReturn("end" if n else "count", n)

    fsm.add_state("count", lambda n: n + 1).add_state("end", lambda n: n)
    fsm.add_transition("count", "ask")
    ran = execute(fsm)
    assert (ran.value, calls) == (1, [0, 1])
    assert (ran.metrics["cache_hits"], ran.metrics["cache_misses"]) == (0, 2)
    ran = execute(fsm)
    assert (ran.value, calls, ran.state_history) == (1, [0, 1], ["ask", "count", "ask", "end"])
    assert (ran.metrics["cache_hits"], ran.metrics["cache_misses"]) == (2, 0)
    fsm.invalidate_cache("ask", n=1)
    execute(fsm)
    assert calls == [0, 1, 1]


def test_a_resource_is_opened_once_for_all_states_and_closed_at_the_end(run: Any) -> None:
    seen: list[str] = []
    fsm = machine(
        a=lambda: seen.append("a"),
        b=lambda db: seen.append(f"b {db}") or 7,
        c=lambda x, db: seen.append(f"c {x} {db}"),
    )

    @contextmanager
    def connect() -> Iterator[str]:
        seen.append("open")
        yield "db"
        seen.append("close")

    fsm.resource("db", connect)
    run(fsm)
    assert seen == ["a", "open", "b db", "c 7 db", "close"]
    seen.clear()
    run(fsm, db="mine")
    assert seen == ["a", "b mine", "c 7 mine"]


def test_a_resource_is_given_wherever_its_parameter_stands(run: Any) -> None:
    fsm = machine(
        a=lambda: 1,
        b=lambda db=None, x=0: (db, x),
        c=lambda x, *, db: (*x, db),
        d=lambda db: {"db": db, "got": 1},
        e=lambda db, got: (db, got),
        f=lambda x, **more: (x, more),
    )
    fsm.resource("db", lambda: nullcontext("opened"))
    assert run(fsm) == (("opened", 1), {})
    assert (fsm["b"], fsm["c"]) == (("opened", 1), ("opened", 1, "opened"))


def test_a_key_of_the_name_of_a_resource_wins(run: Any) -> None:
    fsm = machine(a=lambda: {"db": "key"}, b=lambda db: db)
    fsm.resource("db", lambda: nullcontext("opened"))
    assert run(fsm) == "key"


def test_progress_tells_of_each_visit_and_of_how_many_states_were_seen(execute: Any) -> None:
    told: list[Any] = []
    execute(counting(3), progress=lambda *event: told.append(event))
    third = 1 / 3
    assert told == [
        ("tick", "running", 0.0),
        ("tick", "completed", third),
        ("tock", "running", third),
        ("tock", "completed", 2 * third),
        ("tick", "running", 2 * third),
        ("tick", "completed", 2 * third),
        ("done", "running", 2 * third),
        ("done", "completed", 1.0),
    ]


def test_a_progress_callback_of_the_machine_is_told_and_can_be_called(run: Any, way: str) -> None:
    told: list[Any] = []
    fsm = machine(a=lambda: fsm.progress_callback("a", "half", 0.25), b=lambda: 1)
    run(fsm)  # a no-op
    fsm.progress_callback = lambda *event: told.append(event)
    run(fsm, **({"progress": None} if way == "observed" else {}))
    assert [each[:2] for each in told] == [
        ("a", "running"),
        ("a", "half"),
        ("a", "completed"),
        ("b", "running"),
        ("b", "completed"),
    ]


def test_contextvars_of_the_caller_are_seen_and_what_is_set_inside_does_not_get_out(
    run: Any,
) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")

    def look() -> str:
        seen = variable.get()
        variable.set("inside")
        return seen

    fsm = machine(a=look, b=lambda x: (x, variable.get() in ("inside", "outside")))
    token = variable.set("outside")
    try:
        if variable.get() == "outside":
            assert run(fsm) == ("outside", True)
        assert variable.get() == "outside"
    finally:
        variable.reset(token)


# Timeouts, cancellation, interruption.


@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_a_run_ends_at_its_timeout(mode: str, observed: bool) -> None:
    let_go, begun = threading.Event(), threading.Event()
    fsm = machine(a=lambda: 1, b=lambda x: begun.set() or let_go.wait(LONG), c=lambda: 1)
    options: dict[str, Any] = {"progress": lambda *event: None} if observed else {}
    for timeout in timeouts():
        ran = fsm.execute(mode=mode, timeout=timeout, **options)
        if begun.is_set():
            break
    assert ran.status == "timed_out"
    assert views(fsm) == (["a"], "a", 1, False)
    assert ran.statuses == {"a": "completed", "b": "cancelled", "c": "not_run"}
    error = ran.exception()
    assert isinstance(error, fast_dag.TimeoutError)
    assert "still running: 'b'" in str(error)
    let_go.set()
    assert fsm.run(mode=mode, timeout=LONG) == 1


def test_a_machine_that_goes_round_for_ever_ends_at_its_timeout() -> None:
    fsm = FSM("m", keep_history=1).add_state("a", lambda: FSMReturn("a"), initial=True)
    with pytest.raises(fast_dag.TimeoutError):
        fsm.run(timeout=0.03, max_cycles=10**9)
    assert not fsm.is_terminated
    assert len(fsm.state_history) <= 1


def test_a_late_state_is_given_up_and_its_handler_decides(execute: Any) -> None:
    async def held() -> None:
        await asyncio.Event().wait()

    fsm = machine(a=lambda: 1, b=lambda: 2)
    fsm.add_state("a", held, timeout=0.02, replace=True)
    ran = execute(fsm)
    assert isinstance(ran.errors["a"], fast_dag.TimeoutError)
    assert ran.errors["a"].node_name == "a"
    fsm.set_node_error_handler("a", lambda node, inputs, error: "late")
    assert execute(fsm).results == {"a": "late", "b": 2}


def test_a_machine_can_be_cancelled() -> None:
    async def main() -> None:
        began, ended = asyncio.Event(), asyncio.Event()

        async def held(x: int) -> None:
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        fsm = machine(a=lambda: 1, b=held, c=lambda: 1)
        task = asyncio.create_task(fsm.run_async())
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()
        assert views(fsm) == (["a"], "a", 1, False)
        assert fsm.context.metadata["execution_status"] == "cancelled"

    asyncio.run(main())


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize(
    "options", [{}, {"progress": print}, {"mode": "parallel"}, {"mode": "async"}]
)
def test_an_interrupt_in_a_state_ends_the_run(options: dict[str, Any], error: type) -> None:
    def stop(x: int) -> None:
        raise error

    context = FSMContext()
    fsm = machine(a=lambda: 1, b=lambda x: x, c=stop, d=lambda: 1)
    with pytest.raises(error):
        fsm.run(context=context, error_strategy="continue", **options)
    assert views(fsm) == (["a", "b"], "b", 2, False)
    assert context.metadata["execution_status"] == "cancelled"
    assert context.results == {"a": 1, "b": 1}
    assert fsm.last_run is not None
    assert fsm.last_run.statuses["c"] == "cancelled"
    assert fsm.last_run.statuses["d"] == "not_run"


def test_an_async_state_inside_a_running_loop_needs_run_async() -> None:
    async def later() -> int:
        return 1

    async def main() -> None:
        fsm = FSM("m").add_state("a", later, initial=True, terminal=True)
        with pytest.raises(ValidationError, match="run_async"):
            fsm.run()
        assert await fsm.run_async() == 1

    asyncio.run(main())


# Many runs of one machine.


def test_many_threads_run_one_machine_at_once() -> None:
    barrier = threading.Barrier(8, timeout=LONG)

    def begin(n: int) -> Any:
        barrier.wait()
        return FSMReturn("more", {"n": n, "left": 200})

    def more(n: int, left: int, context: FSMContext) -> Any:
        assert context.cycle_count == 202 - left
        assert fsm.cycle_count == 202 - left
        return FSMReturn("more" if left > 1 else "end", {"n": n, "left": left - 1})

    fsm = FSM("m", initial_state="begin", terminal_states=["end"], keep_history=5)
    fsm.add_state("begin", begin).add_state("more", more).add_state("end", lambda n: n)
    with ThreadPoolExecutor(8) as pool:
        ran = list(pool.map(lambda n: fsm.execute(n=n), range(8)))
    for n, each in enumerate(ran):
        each.raise_for_error()
        assert (each.value, each.cycle_count) == (n, 202)
        assert each.state_history == ["more"] * 4 + ["end"]


def test_many_tasks_run_one_machine_at_once() -> None:
    async def main() -> None:
        inside, all_there = 0, asyncio.Event()

        async def begin(n: int) -> int:
            nonlocal inside
            inside += 1
            if inside == 20:
                all_there.set()
            await all_there.wait()
            assert fsm.state_history == ["begin"]
            return n

        fsm = machine(begin=begin, end=lambda x: (x, fsm["begin"]))
        ran = await asyncio.gather(*(fsm.run_async(n=n) for n in range(20)))
        assert ran == [(n, n) for n in range(20)]

    asyncio.run(main())


def test_one_context_serves_one_run_at_a_time(run: Any) -> None:
    fsm = machine(a=lambda context: counting(1).run(context=context))
    with pytest.raises(ExecutionError, match="already serves a run"):
        run(fsm)


def test_a_machine_may_be_run_inside_of_its_own_state(run: Any) -> None:
    def down(n: int) -> Any:
        return n + (fsm.run(n=n - 1) if n else 0)

    fsm = FSM("m").add_state("down", down, initial=True, terminal=True)
    assert run(fsm, n=3) == 6


def test_edits_during_a_run_count_for_the_next(run: Any) -> None:
    def edit() -> Any:
        fsm.add_transition("a", "c").add_state("c", lambda: "c", terminal=True, replace=True)
        return FSMReturn("b")

    fsm = machine(a=edit, b=lambda: "b")
    assert run(fsm) == "b"
    assert list(fsm) == ["a", "b", "c"]


def test_max_workers_and_where_a_state_runs(run: Any) -> None:
    fsm = FSM("m", initial_state="a", terminal_states=["b"])
    fsm.add_state("a", lambda: threading.get_ident(), run_in="inline").add_transition("a", "b")
    fsm.add_state("b", lambda x: (x, threading.get_ident()), run_in="thread")
    there, elsewhere = run(fsm, max_workers=1)
    assert there == threading.get_ident()
    assert elsewhere


@pytest.mark.parametrize("mode", ["sequential", "parallel", "async"])
def test_values_of_a_machine_are_freed_with_its_run(mode: str) -> None:
    class Large: ...

    fsm = FSM("lets go", remember=False)
    fsm.add_state("large", lambda: Large(), initial=True, terminal=True)
    run = fsm.execute(mode=mode)
    value = ref(run.value)
    del run
    gc.collect()
    wait_until(lambda: value() is None)  # a shared thread may still be on its way back
