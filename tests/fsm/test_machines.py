"""Live machines: steps, events, iteration, snapshots."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import textwrap
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

import fast_dag
from fast_dag import (
    DAG,
    FSM,
    ExecutionError,
    FSMContext,
    FSMReturn,
    InvalidTransitionError,
    Machine,
    MaxCyclesError,
    MissingInputError,
    ValidationError,
)
from fast_dag.run.machine import Step
from tests.fsm.support import counting, door, machine
from tests.patience import LONG, timeouts
from tests.ways import STARTED, WAYS

if TYPE_CHECKING:
    from collections.abc import Callable


class Awaited:
    """A machine driven by the async twins of its methods."""

    def __init__(self, driven: Machine) -> None:
        self._driven = driven

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driven, name)

    def __getitem__(self, name: str) -> Any:
        return self._driven[name]

    def step(self) -> Step:
        return asyncio.run(self._driven.step_async())

    def run(self) -> Any:
        return asyncio.run(self._driven.run_async())

    def send(self, *args: Any, **data: Any) -> Any:
        return asyncio.run(self._driven.send_async(*args, **data))

    def __iter__(self) -> Any:
        async def steps() -> list[Step]:
            return [step async for step in self._driven]

        return iter(asyncio.run(steps()))


@pytest.fixture(params=[*STARTED, "run_async"])
def start(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """`fsm.start(...)`, in one of the ways to drive a machine."""
    way = WAYS[request.param]

    def started(fsm: FSM, *args: Any, **options: Any) -> Any:
        live = fsm.start(*args, **{**way.options, **options})
        return Awaited(live) if way.is_awaited else live

    return started


# Steps.


def test_a_machine_has_executed_nothing_before_its_first_step(start: Any) -> None:
    ran: list[int] = []
    live = start(machine(a=lambda: ran.append(1), b=lambda: 2))
    assert (live.state, live.next_state, live.value) == ("a", "a", None)
    assert (live.done, live.waiting, live.events) == (False, False, [])
    assert (live.state_history, live.cycle_count, live.results, ran) == ([], 0, {}, [])
    with pytest.raises(KeyError, match="has not run"):
        live["a"]


def test_each_step_executes_one_state(start: Any) -> None:
    live = start(machine(a=lambda n: n, b=lambda x: x + 1, c=lambda x: x + 1), n=5)
    assert live.step() == Step("a", 5, "b")
    assert (live.state, live.next_state, live.value, live.done) == ("a", "b", 5, False)
    assert live.step() == ("b", 6, "c")
    assert live.step() == ("c", 7, None)
    assert (live.state, live.next_state, live.done, live.waiting) == ("c", None, True, False)
    assert (live.state_history, live.cycle_count) == (["a", "b", "c"], 3)
    assert (live["a"], live["b.0"], live.results) == (5, 6, {"a": 5, "b": 6, "c": 7})


def test_a_step_after_the_end_is_an_error(start: Any) -> None:
    live = start(machine(a=lambda: 1))
    live.run()
    with pytest.raises(InvalidTransitionError, match="has ended") as caught:
        live.step()
    assert caught.value.state == "a"
    assert live.run() == 1
    assert live.cycle_count == 1


def test_run_goes_on_from_where_the_machine_is(start: Any) -> None:
    live = start(counting(5))
    live.step()
    assert live.run() == 5
    assert live.state_history == ["tick", "tock", "tick", "tock", "tick", "done"]


def test_iteration_steps_until_the_end(start: Any) -> None:
    live = start(counting(3))
    assert list(live) == [
        ("tick", 1, "tock"),
        ("tock", 2, "tick"),
        ("tick", 3, "done"),
        ("done", 3, None),
    ]
    assert list(live) == []


def test_iteration_can_be_left_and_taken_up_again(start: Any) -> None:
    live = counting(3).start()
    for step in live:
        if step.state == "tock":
            break
    assert [step.state for step in live] == ["tick", "done"]


def test_steps_and_one_run_give_the_same(start: Any) -> None:
    fsm = counting(30, keep_history=7)
    whole = fsm.execute()
    live = start(fsm)
    assert [step.value for step in live] == [*range(1, 31), 30]
    assert live.state_history == whole.state_history
    assert live.results == whole.results
    assert live["tick.14"] == whole["tick.14"]


def test_all_steps_are_one_run_in_one_context(start: Any) -> None:
    context = FSMContext(metadata={"user": "ada"})
    live = start(machine(a=lambda: 1, b=lambda: 2), context=context)
    live.step()
    run_id = context.metadata["run_id"]
    live.step()
    assert context is live.context
    assert (context.metadata["run_id"], context.metadata["user"]) == (run_id, "ada")
    assert context.state_history == ["a", "b"]
    assert context.metrics["nodes_executed"] == 2
    assert context.metrics["execution_order"] == ["a", "b"]


def test_missing_inputs_are_told_at_the_first_step(start: Any) -> None:
    live = start(machine(a=lambda n: n))
    for _ in range(2):
        with pytest.raises(MissingInputError, match="'n' of 'a'"):
            live.step()
    assert (live.cycle_count, live.next_state) == (0, "a")


def test_what_is_wrong_with_the_machine_is_told_at_the_start() -> None:
    with pytest.raises(ValidationError, match="no initial state"):
        FSM("m").add_state("a", lambda: 1).start()
    with pytest.raises(ValidationError, match="did you mean 'max_cycles'"):
        counting(1).start(max_cycle=1)
    with pytest.raises(ValidationError, match="mode is one of"):
        counting(1).start(mode="fast")  # type: ignore[arg-type]


def test_a_machine_keeps_to_its_definition_as_it_was(start: Any) -> None:
    fsm = machine(a=lambda: 1, b=lambda x: x + 1)
    live = start(fsm)
    fsm.remove_state("b")
    assert live.run() == 2


def test_state_hooks_see_the_transitions_of_steps(start: Any) -> None:
    seen: list[str] = []
    fsm = machine(a=lambda: 1, b=lambda x: x, c=lambda x: x)
    fsm.add_state_hook(lambda fsm, source, to: seen.append(source + to) or None)
    fsm.add_state_hook(lambda fsm, source, to: "c" if to == "b" else None)
    live = start(fsm)
    assert live.step().next_state == "c"
    assert seen == ["ab"]
    live.step()
    assert live.state_history == ["a", "c"]


def test_progress_of_a_machine_is_told_over_all_its_steps() -> None:
    told: list[Any] = []
    live = machine(a=lambda: 1, b=lambda: 2).start(progress=lambda *event: told.append(event))
    live.step()
    live.step()
    assert told == [
        ("a", "running", 0.0),
        ("a", "completed", 0.5),
        ("b", "running", 0.5),
        ("b", "completed", 1.0),
    ]


def test_a_bounded_history_bounds_that_of_a_machine(start: Any) -> None:
    live = start(counting(2500, keep_history=2), max_cycles=9999)
    live.run()
    assert (live.state_history, live.cycle_count) == (["tock", "done"], 2501)


# max_cycles.


def test_max_cycles_count_anew_in_each_call(start: Any) -> None:
    live = start(counting(20), max_cycles=3)
    assert [live.step().state for _ in range(4)] == ["tick", "tock", "tick", "tock"]
    for number in (7, 10):
        with pytest.raises(MaxCyclesError, match="executed 3 states in one run") as caught:
            live.run()
        assert caught.value.max_cycles == 3
        assert (live.cycle_count, live.value, live.done) == (number, number, False)
    assert live.next_state == "tick"
    assert [step.value for step in live][-1] == 20
    assert live.done


def test_max_cycles_that_stop_leave_a_machine_to_go_on(start: Any) -> None:
    live = start(counting(7, on_max_cycles="stop"), max_cycles=3)
    assert (live.run(), live.done, live.next_state) == (3, False, "tock")
    with pytest.raises(InvalidTransitionError, match="has the event 'push'"):
        start(counting(9, on_max_cycles="stop"), max_cycles=3).send("push")
    assert (live.run(), live.run(), live.done) == (6, 7, True)


def test_max_cycles_of_a_run_ask_the_hooks_once(start: Any) -> None:
    seen: list[tuple[str, str]] = []
    fsm = counting(6, on_max_cycles="stop")
    fsm.add_state_hook(lambda fsm, source, to: seen.append((source, to)))
    live = start(fsm, max_cycles=2)
    live.run()
    assert (seen, live.next_state) == ([("tick", "tock")], "tick")
    live.run()
    live.step()
    live.run()
    assert live.value == 6
    assert seen == list(itertools.pairwise(live.state_history))


@pytest.mark.parametrize("given", [None, 5000])
def test_no_max_cycles_is_no_limit(start: Any, given: int | None) -> None:
    assert counting(3000, max_cycles=None).run() == 3000
    assert start(counting(3000), max_cycles=given).run() == 3000
    assert counting(3000, max_cycles=3).run(max_cycles=given) == 3000


def test_max_cycles_of_a_send_count_what_was_left_before_it(start: Any) -> None:
    live = start(door(), max_cycles=2)
    assert live.send("push", by="Ada") == "opened by Ada"
    assert (live.send("pull"), live.send("push", by="Bob")) == ("shut", "opened by Bob")
    live = start(door(), max_cycles=1)
    with pytest.raises(MaxCyclesError):
        live.send("push")
    assert (live.state, live.waiting, live.queue) == ("closed", True, [])
    live = start(door(on_max_cycles="stop"), max_cycles=1)
    assert live.send("push", by="Ada") == "shut"
    assert (live.waiting, live.queue) == (True, [("push", {"by": "Ada"})])
    assert (live.run(), live.queue) == ("opened by Ada", [])


def test_as_many_states_as_max_cycles_is_well(start: Any) -> None:
    live = start(machine(a=lambda: 1, b=lambda: 2), max_cycles=2)
    assert (live.run(), live.done) == (2, True)


# Events.


def test_a_state_whose_ways_all_have_an_event_waits(start: Any) -> None:
    live = start(door())
    assert live.run() == "shut"
    assert (live.waiting, live.done, live.next_state) == (True, False, None)
    assert live.events == ["push", "lock"]
    assert live.run() == "shut"
    with pytest.raises(InvalidTransitionError, match="waits for an event; send one of 'push'") as e:
        live.step()
    assert (e.value.event, e.value.events) == (None, ("push", "lock"))
    assert list(live) == []


def test_an_event_leads_on_until_the_machine_waits_again(start: Any) -> None:
    live = start(door())
    assert live.send("push", by="Ada") == "opened by Ada"  # first what is left before it
    assert (live.state, live.events) == ("opened", ["pull"])
    assert live.send("pull") == "shut"
    assert live.send("lock", key=7) == "locked with 7"
    assert (live.done, live.events, live.state) == (True, [], "locked")
    assert live.state_history == ["closed", "opened", "closed", "locked"]


def test_an_event_that_nobody_listens_to_names_those_that_are_listened_to(start: Any) -> None:
    live = start(door())
    with pytest.raises(InvalidTransitionError) as caught:
        live.send("psh")
    error = caught.value
    assert "it listens to 'push', 'lock' (did you mean 'push'?)" in str(error)
    assert (error.event, error.events, error.state) == ("psh", ("push", "lock"), "closed")
    assert live.send("psh", on_unknown="ignore") == "shut"
    assert live.state_history == ["closed"]
    with pytest.raises(ValidationError, match="'raise' or 'ignore'"):
        live.send("psh", on_unknown="drop")


def test_an_event_after_the_end_is_an_error(start: Any) -> None:
    live = start(door())
    live.send("lock", key=1)
    with pytest.raises(InvalidTransitionError, match="it has ended") as caught:
        live.send("push")
    assert (caught.value.event, caught.value.events) == ("push", ())
    assert live.send("push", on_unknown="ignore") == "locked with 1"
    with pytest.raises(InvalidTransitionError, match="has ended") as caught:
        live.step()
    assert (caught.value.event, caught.value.events) == (None, ())


def test_an_event_that_a_state_hook_sends_to_no_state_is_told_with_the_error(start: Any) -> None:
    fsm = door()
    fsm.add_state_hook(lambda fsm, source, to, result: "opnd" if to == "opened" else None)
    live = start(fsm)
    with pytest.raises(InvalidTransitionError, match="did you mean 'opened'") as caught:
        live.send("push")
    error = caught.value
    assert (error.state, error.target) == ("closed", "opnd")
    assert (error.event, error.events) == ("push", ("push", "lock"))


def test_an_event_to_a_machine_that_never_waits(start: Any) -> None:
    live = start(machine(a=lambda: 1, b=lambda: 2))
    with pytest.raises(InvalidTransitionError, match="it has ended"):
        live.send("push")
    assert live.state_history == ["a", "b"]


def test_conditions_of_an_event_see_its_data(start: Any) -> None:
    fsm = FSM("safe", initial_state="shut", terminal_states=["open"])
    fsm.add_state("shut", lambda: 42).add_state("open", lambda: "open").add_state("loud", lambda: 0)
    fsm.add_transition(
        "shut", "open", lambda value, context, data: data["code"] == value, event="enter"
    )
    fsm.add_transition("shut", "loud", lambda value, context, data: "force" in data, event="enter")
    live = start(fsm)
    with pytest.raises(InvalidTransitionError, match="no condition of") as caught:
        live.send("enter", code=1)
    assert (caught.value.state, caught.value.node_name) == ("shut", "shut")
    assert (caught.value.event, caught.value.events) == ("enter", ("enter",))
    assert (live.waiting, live.events, live.cycle_count) == (True, ["enter"], 1)
    assert live.send("enter", code=42) == "open"


def test_a_condition_of_an_event_that_raises_leaves_the_machine_waiting(start: Any) -> None:
    fsm = door()
    fsm.add_transition("opened", "locked", lambda value: 1 / 0, event="slam")
    live = start(fsm)
    live.send("push")
    with pytest.raises(ExecutionError, match="condition of 'opened' -> 'locked' on 'slam'"):
        live.send("slam")
    assert (live.waiting, live.state, live.cycle_count) == (True, "opened", 2)
    assert live.send("pull") == "shut"


def test_a_hook_may_veto_or_redirect_an_event(start: Any) -> None:
    def hook(fsm: FSM, source: str, to: str) -> str | None:
        if to == "locked":
            raise PermissionError("not you")
        return "closed" if to == "opened" else None

    fsm = door()
    fsm.add_state_hook(hook)
    live = start(fsm)
    assert live.send("push", by="Bob") == "shut"
    with pytest.raises(ExecutionError, match="state hook of 'closed' -> 'locked'"):
        live.send("lock", key=1)
    assert (live.waiting, live.state_history) == (True, ["closed", "closed"])


def test_data_that_nothing_takes_is_refused(start: Any) -> None:
    live = start(door())
    with pytest.raises(ValidationError, match=r"brings 'bye'.*did you mean 'by'"):
        live.send("push", bye="Ada")
    assert (live.state, live.waiting) == ("closed", True)
    assert live.send("push", by="Ada") == "opened by Ada"


def test_data_may_be_for_a_condition_only(start: Any) -> None:
    fsm = FSM("m", initial_state="a", terminal_states=["b"]).add_state("a", lambda: 1)
    fsm.add_state("b", lambda by="nobody", x=0: (by, x))
    fsm.add_transition("a", "b", lambda value, context, data: data["force"], event="go")
    live = start(fsm)
    assert live.send("go", force=True, by="Ada") == ("Ada", 0)


def test_data_wins_over_keys_values_and_inputs(start: Any) -> None:
    def shown(state: Callable[..., Any], value: Any, data: dict[str, Any], **inputs: Any) -> Any:
        fsm = FSM("m", initial_state="a", terminal_states=["b"]).add_state("a", lambda: value)
        live = start(fsm.add_state("b", state).add_transition("a", "b", event="go"), **inputs)
        return live.send("go", **data)

    assert shown(lambda n: n, {"n": 1}, {"n": 2}) == 2
    assert shown(lambda n: n, "whole", {"n": 2}) == 2
    assert shown(lambda n: n, None, {"n": 2}, n=3) == 2
    assert shown(lambda n: n, None, {"n": None}, n=3) is None
    assert shown(lambda n, m: (n, m), {"n": 1}, {"m": 2}) == (1, 2)
    assert shown(lambda cart, amount: (cart, amount), ["book"], {"amount": 5}) == (["book"], 5)
    assert shown(lambda cart, amount, k: (cart, amount, k), [1], {"amount": 5}, k=2) == ([1], 5, 2)
    assert shown(lambda **more: more, {"a": 1, "b": 1}, {"b": 2}) == {"a": 1, "b": 2}
    assert shown(lambda by, note="-": (by, note), "whole", {"by": "Ada"}) == ("Ada", "-")


def test_data_is_for_the_next_state_only(start: Any) -> None:
    fsm = FSM("m", initial_state="a", terminal_states=["c"]).add_state("a", lambda: 1)
    fsm.add_state("b", lambda by: None).add_state("c", lambda by="default": by)
    live = start(fsm.add_transition("a", "b", event="go").add_transition("b", "c"))
    assert live.send("go", by="Ada") == "default"


def test_ways_without_an_event_come_first(start: Any) -> None:
    fsm = FSM("m", initial_state="a", terminal_states=["end"])
    fsm.add_state("a", lambda n: n).add_state("b", lambda n: n - 1).add_state("end", lambda: "end")
    fsm.add_transition("a", "end", event="stop")
    fsm.add_transition("a", "b", lambda n: n > 0).add_transition("b", "a")
    live = start(fsm, n=2)
    assert live.run() == 0
    assert (live.waiting, live.state_history) == (True, ["a", "b", "a", "b", "a"])
    assert live.send("stop") == "end"


def test_returns_and_events_drive_one_machine(start: Any) -> None:
    fsm = FSM("m", initial_state="ask", terminal_states=["end"])
    fsm.add_state("ask", lambda: "question").add_state("end", lambda n: f"got {n}")
    fsm.add_state("check", lambda n: FSMReturn("end", n) if n > 5 else FSMReturn("ask"))
    fsm.add_transition("ask", "check", event="answer")
    live = start(fsm)
    assert live.send("answer", n=1) == "question"
    assert live.waiting
    assert live.send("answer", n=6) == "got 6"


def test_the_first_way_of_an_event_that_holds_is_taken(start: Any) -> None:
    fsm = FSM("m", initial_state="a", terminal_states=["b", "c"]).add_state("a", lambda: 5)
    fsm.add_state("b", lambda x: "b").add_state("c", lambda x: "c")
    fsm.add_transition("a", "b", lambda x: x > 9, event="go").add_transition("a", "c", event="go")
    live = start(fsm)
    live.step()
    assert live.events == ["go"]
    assert live.send("go") == "c"


def test_events_are_named_by_strings() -> None:
    for event in ("", 3):
        with pytest.raises(ValidationError, match="an event is named"):
            door().add_transition("closed", "opened", event=event)  # type: ignore[arg-type]


def test_async_states_and_events(start: Any) -> None:
    async def later(by: str = "nobody") -> str:
        await asyncio.sleep(0)
        return f"opened by {by}"

    fsm = door()
    fsm.add_state("opened", later, replace=True)
    live = start(fsm)
    assert live.send("push", by="Ada") == "opened by Ada"


def test_the_async_twins_in_one_loop() -> None:
    async def main() -> None:
        live = door().start()
        assert [step async for step in live] == [("closed", "shut", None)]
        assert await live.send_async("push") == "opened by shut"
        assert await live.send_async("nothing", on_unknown="ignore") == "opened by shut"
        assert await live.run_async() == "opened by shut"
        with pytest.raises(InvalidTransitionError, match="waits"):
            await live.step_async()
        assert await live.send_async("pull") == "shut"

    asyncio.run(main())


# Failures.


def test_a_state_that_fails_is_tried_again_by_the_next_step(start: Any) -> None:
    calls: list[Any] = []

    def flaky(x: int) -> int:
        calls.append(x)
        if len(calls) < 3:
            raise OSError("not now")
        return x + 1

    live = start(machine(a=lambda: 1, b=flaky, c=lambda x: x))
    with pytest.raises(ExecutionError, match="not now") as caught:
        live.run()
    assert caught.value.node_name == "b"
    assert (live.state, live.next_state, live.value, live.done) == ("b", "b", 1, False)
    with pytest.raises(ExecutionError, match="not now"):
        live.step()
    assert live.run() == 2
    assert calls == [1, 1, 1]
    assert live.state_history == ["a", "b", "b", "b", "c"]
    assert live["b"] == live["b.2"] == 2
    with pytest.raises(KeyError, match="failed in this visit"):
        live["b.1"]
    assert live.context.metadata["execution_status"] == "completed"
    assert live.context.metrics["nodes_failed"] == 0


def test_a_state_that_fails_after_an_event_keeps_the_data(start: Any) -> None:
    fails = [True]

    def flaky(by: str) -> str:
        if fails:
            fails.pop()
            raise OSError("not now")
        return by

    fsm = FSM("m", initial_state="a", terminal_states=["b"]).add_state("a", lambda: 1)
    live = start(fsm.add_state("b", flaky).add_transition("a", "b", event="go"))
    with pytest.raises(ExecutionError, match="not now"):
        live.send("go", by="Ada")
    assert (live.waiting, live.next_state) == (False, "b")
    with pytest.raises(InvalidTransitionError, match="it has ended"):
        live.send("go", by="Bob")  # first what is left before the event
    assert live.value == "Ada"


def test_a_failed_first_state_is_tried_again(start: Any) -> None:
    fails = [True]

    def flaky(n: int) -> int:
        if fails:
            fails.pop()
            raise OSError("not now")
        return n

    live = start(machine(a=flaky, b=lambda x: x + 1), n=1)
    with pytest.raises(ExecutionError):
        live.step()
    run_id = live.context.metadata["run_id"]
    assert live.run() == 2
    assert live.context.metadata["run_id"] == run_id


def test_error_strategy_continue_keeps_failures_from_being_raised(start: Any) -> None:
    live = start(machine(a=lambda: 1, b=lambda x: 1 / 0), error_strategy="continue")
    live.step()
    assert live.step().value == 1
    assert live.context.metadata["execution_status"] == "completed_with_errors"
    assert (live.next_state, live.state_history) == ("b", ["a", "b"])


def test_a_machine_that_leads_nowhere_is_done(start: Any) -> None:
    live = start(FSM("m").add_state("a", lambda: 1, initial=True))
    with pytest.raises(InvalidTransitionError, match="leads nowhere"):
        live.run()
    assert (live.done, live.value) == (True, 1)
    with pytest.raises(InvalidTransitionError, match="leads nowhere from there"):
        live.step()


@pytest.mark.parametrize("name", STARTED)
def test_an_interrupted_machine_goes_on_where_it_was(name: str) -> None:
    interrupt = [True]

    def tock(n: int) -> Any:
        if n == 5 and interrupt:
            interrupt.pop()
            raise KeyboardInterrupt
        return FSMReturn("tick", n + 1)

    fsm = counting(9)
    fsm.add_state("tock", tock, replace=True)
    live = fsm.start(**WAYS[name].options)
    with pytest.raises(KeyboardInterrupt):
        live.run()
    assert (live.state, live.next_state, live.value) == ("tick", "tock", 5)
    assert live.context.metadata["execution_status"] == "cancelled"
    assert live.run() == 9
    assert live.state_history == [*["tick", "tock"] * 4, "tick", "done"]


def test_a_cancelled_machine_goes_on_where_it_was() -> None:
    async def main() -> None:
        began, hold = asyncio.Event(), [True]

        async def held(x: int) -> int:
            if hold:
                hold.pop()
                began.set()
                await asyncio.Event().wait()
            return x + 1

        live = machine(a=lambda: 1, b=held, c=lambda x: x).start()
        task = asyncio.create_task(live.run_async())
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (live.state, live.next_state) == ("a", "b")
        assert await live.run_async() == 2
        assert live.state_history == ["a", "b", "c"]

    asyncio.run(main())


def test_the_timeout_holds_for_each_step() -> None:
    let_go = threading.Event()
    for timeout in timeouts(0.4):
        live = machine(a=lambda: 1, b=lambda x: let_go.wait(LONG), c=lambda: 3).start(
            timeout=timeout
        )
        with suppress(fast_dag.TimeoutError):
            live.step()
            break
    with pytest.raises(fast_dag.TimeoutError):
        live.step()
    assert (live.state, live.next_state) == ("a", "b")
    let_go.set()
    assert live.run() == 3
    assert live.state_history == ["a", "b", "c"]


def test_a_step_in_a_running_loop_is_refused_where_it_needs_one() -> None:
    async def later() -> int:
        return 1

    async def main() -> None:
        live = FSM("m").add_state("a", later, initial=True, terminal=True).start()
        with pytest.raises(ValidationError, match="running event loop"):
            live.step()
        assert await live.step_async() == ("a", 1, None)

    asyncio.run(main())


def test_a_machine_serves_one_call_at_a_time() -> None:
    inside, let_go = threading.Event(), threading.Event()

    def held() -> str:
        inside.set()
        let_go.wait(LONG)
        return "held"

    live = machine(a=held, b=lambda x: x).start()
    thread = threading.Thread(target=live.run)
    thread.start()
    assert inside.wait(LONG)
    for call in (live.step, live.run, lambda: live.send("go"), live.snapshot):
        with pytest.raises(ValidationError, match="one call at a time"):
            call()
    let_go.set()
    thread.join(LONG)
    assert (live.value, live.done) == ("held", True)


def test_a_state_cannot_drive_its_own_machine(start: Any) -> None:
    live: Any = None

    def state() -> Any:
        live.step()

    live = start(machine(a=state))
    with pytest.raises(ExecutionError) as caught:
        live.run()
    assert isinstance(caught.value.__cause__, (ValidationError, RuntimeError))


def test_tasks_that_step_one_machine_are_refused_too() -> None:
    async def main() -> None:
        began, let_go = asyncio.Event(), asyncio.Event()

        async def held() -> int:
            began.set()
            await let_go.wait()
            return 1

        live = FSM("m").add_state("a", held, initial=True, terminal=True).start()
        task = asyncio.create_task(live.step_async())
        await began.wait()
        with pytest.raises(ValidationError, match="one call at a time"):
            await live.step_async()
        let_go.set()
        assert (await task).value == 1

    asyncio.run(main())


def test_many_machines_of_one_fsm_do_not_meet(start: Any) -> None:
    fsm = counting(20)
    alive = [start(fsm) for _ in range(5)]
    for number, live in enumerate(alive):
        for _ in range(number):
            live.step()
    assert [live.cycle_count for live in alive] == [0, 1, 2, 3, 4]
    assert [live.run() for live in alive] == [20] * 5


def test_from_inside_of_a_step_the_views_are_of_that_machine(start: Any) -> None:
    fsm = machine(a=lambda: fsm.state_history, b=lambda x: (x, fsm.state_history, fsm["a.0"]))
    live = start(fsm)
    live.step()
    fsm.run()
    assert live.run() == (["a"], ["a", "b"], ["a"])
    assert fsm.state_history == ["a", "b"]


def test_a_nested_workflow_is_read_by_path_also_after_further_steps(start: Any) -> None:
    inner = DAG("inner").add_node("x", lambda n: n + 1)
    fsm = FSM("m", initial_state="sub", terminal_states=["c"]).add_state("sub", inner)
    fsm.add_state("b", lambda n: n).add_state("c", lambda n: n)
    live = start(fsm.add_transition("sub", "b").add_transition("b", "c"), n=1)
    for _ in range(3):
        live.step()
        assert (live["sub.x"], live["sub.0"]) == (2, 2)


# Snapshots.


def jsoned(snapshot: Any) -> Any:
    return json.loads(json.dumps(snapshot))


def test_a_snapshot_restored_goes_on_exactly_there(start: Any) -> None:
    live = start(door())
    live.send("push", by="Ada")
    saved = jsoned(live.snapshot())
    again = door().restore(saved)
    assert again.snapshot() == saved
    assert (again.state, again.value, again.events) == ("opened", "opened by Ada", ["pull"])
    assert (again.waiting, again.done, again.cycle_count) == (True, False, 2)
    assert (again["closed"], again["opened.0"]) == ("shut", "opened by Ada")
    assert again.context.state_history == ["closed", "opened"]
    assert again.send("pull") == "shut"
    assert again.state_history == ["closed", "opened", "closed"]
    assert live.state_history == ["closed", "opened"]
    assert again.context.metadata["run_id"] == live.context.metadata["run_id"]


def test_a_snapshot_before_the_first_step(start: Any) -> None:
    saved = jsoned(start(machine(a=lambda n: n, b=lambda x: x), n=1).snapshot())
    again = machine(a=lambda n: n, b=lambda x: x).restore(saved)
    assert again.snapshot() == saved
    assert again.run() == 1
    assert again.context.metadata["run_id"]
    again = machine(a=lambda n: n, b=lambda x: x).restore({**saved, "inputs": {}})
    with pytest.raises(MissingInputError):
        again.run()


def test_a_snapshot_after_the_end(start: Any) -> None:
    live = start(counting(3))
    live.run()
    again = counting(3).restore(jsoned(live.snapshot()))
    assert (again.done, again.run(), again.cycle_count) == (True, 3, 4)


def test_a_snapshot_after_a_failure_tries_again(start: Any) -> None:
    def boom(by: str) -> None:
        raise OSError("not now")

    def made(state: Callable[..., Any]) -> FSM:
        fsm = FSM("m", initial_state="a", terminal_states=["b"]).add_state("a", lambda: 1)
        return fsm.add_state("b", state).add_transition("a", "b", event="go")

    live = start(made(boom))
    with pytest.raises(ExecutionError):
        live.send("go", by="Ada")
    saved = jsoned(live.snapshot())
    again = made(lambda by: f"by {by}").restore(saved)
    assert again.snapshot() == saved
    with pytest.raises(KeyError, match="failed in this visit"):
        again["b.0"]
    assert again.run() == "by Ada"
    assert (again["b.1"], again.state_history) == ("by Ada", ["a", "b", "b"])


def test_a_snapshot_carries_inputs_metadata_and_metrics() -> None:
    fsm = machine(a=lambda n: n, b=lambda x, n: x + n)
    live = fsm.start(n=5, context=FSMContext(metadata={"user": "ada"}))
    live.step()
    spent = live.context.metrics["execution_time"]
    again = fsm.restore(jsoned(live.snapshot()))
    assert again.context.metadata["user"] == "ada"
    assert again.context.metrics["execution_time"] == pytest.approx(spent)
    assert again.run() == 10
    assert again.context.metrics["execution_time"] > spent
    assert again.context.metrics["nodes_executed"] == 2


def test_a_snapshot_keeps_counts_of_what_it_forgot() -> None:
    fsm = counting(50, keep_history=2)
    live = fsm.start()
    for _ in range(20):
        live.step()
    again = fsm.restore(jsoned(live.snapshot()))
    assert (again.cycle_count, again.state_history) == (20, ["tick", "tock"])
    assert again["tock.9"] == 20
    with pytest.raises(KeyError, match="no longer kept"):
        again["tock.8"]
    assert again.run() == 50


def test_the_snapshot_is_not_the_machines_own() -> None:
    live = counting(5).start(context=FSMContext(metadata={"user": "ada"}))
    live.step()
    saved = live.snapshot()
    before = json.dumps(saved)
    live.run()
    assert json.dumps(saved) == before
    saved["results"]["tick"] = saved["metadata"]["user"] = saved["history"] = None
    assert live["tick.0"] == 1
    assert live.context.metadata["user"] == "ada"


def test_a_restored_machine_takes_options_and_a_context() -> None:
    live = counting(9).start(max_cycles=2)
    live.step()
    live.step()
    saved = live.snapshot()
    context = FSMContext(metadata={"mine": 1})
    again = counting(9).restore(saved, max_cycles=20, mode="parallel", context=context)
    assert again.run() == 9
    assert (context.metadata["mine"], context.state_history[-1]) == (1, "done")
    again = counting(9).restore(saved, max_cycles=2)
    assert again["tick"] == 1
    with pytest.raises(MaxCyclesError):
        again.run()


def test_a_snapshot_of_another_version_names_the_states_that_are_gone() -> None:
    live = door().start()
    live.send("push")
    with pytest.raises(ValidationError, match="no state 'opened' any more") as caught:
        door().remove_state("opened").restore(live.snapshot())
    assert caught.value.states == ("opened",)
    assert "'door' is of another version" in str(caught.value)


def test_a_snapshot_of_a_version_without_its_inputs_is_refused() -> None:
    live = machine(a=lambda n: n, b=lambda: 1).start(n=1)
    with pytest.raises(ValidationError, match="'n'"):
        machine(a=lambda: 1, b=lambda: 1).restore(live.snapshot())


@pytest.mark.parametrize("snapshot", [None, "{}", {}, [], {"state": "a"}], ids=repr)
def test_what_is_no_snapshot_is_refused(snapshot: Any) -> None:
    with pytest.raises(ValidationError, match="a snapshot is what"):
        door().restore(snapshot)


def test_a_snapshot_of_another_format_or_cut_short_is_refused() -> None:
    saved = door().start().snapshot()
    with pytest.raises(ValidationError, match="has the format 99"):
        door().restore({**saved, "format": 99})
    del saved["history"], saved["inputs"]
    with pytest.raises(ValidationError, match="lacks 'history', 'inputs'"):
        door().restore(saved)


def test_a_machine_goes_on_in_another_process() -> None:
    live = door().start()
    live.send("push", by="Ada")
    program = """
        import json, sys
        from tests.fsm.support import door

        live = door().restore(json.load(sys.stdin))
        assert live.state == "opened", live
        live.send("pull")
        json.dump(live.snapshot(), sys.stdout)
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        input=json.dumps(live.snapshot()),
        capture_output=True,
        text=True,
        check=True,
        timeout=LONG,
    )
    back = door().restore(json.loads(done.stdout))
    assert back.send("lock", key=3) == "locked with 3"
    assert back.state_history == ["closed", "opened", "closed", "locked"]
    assert back["opened.0"] == "opened by Ada"


def test_machines_show_where_they_are() -> None:
    live = door().start()
    assert repr(live) == "<Machine of 'door': in 'closed', next 'closed'>"
    live.run()
    assert repr(live) == "<Machine of 'door': in 'closed', waits for 'push', 'lock'>"
    live.send("lock", key=1)
    assert repr(live) == "<Machine of 'door': in 'locked', done>"
