"""Async conditions and state hooks, errors that lead on, and telling of steps: in every mode."""

from __future__ import annotations

import asyncio
import gc
import json
import pickle
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import DAG, FSM, ExecutionError, FSMReturn, InvalidTransitionError, ValidationError
from tests.fsm.support import counting, machine
from tests.patience import LONG, timeouts
from tests.ways import STARTED, WAYS

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_dag.run.machine import Machine, Step


def guarded(calls: list[Any]) -> FSM:
    """Where `a` leads is asked by an async condition and an async hook."""
    fsm = FSM("guarded", "a", ["small", "big"])

    async def is_big(value: int) -> bool:
        await asyncio.sleep(0)
        calls.append((value, fsm.state_history))
        return value > 5

    async def hook(fsm: FSM, source: str, target: str, result: Any) -> str | None:
        await asyncio.sleep(0)
        calls.append((source, target, result))
        return None

    fsm.add_state("a", lambda n: n).add_state("small", lambda x: -x).add_state("big", lambda x: x)
    fsm.add_transition("a", "big", is_big).add_transition("a", "small")
    fsm.add_state_hook(hook)
    return fsm


def test_async_conditions_and_hooks_decide(run: Any) -> None:
    calls: list[Any] = []
    assert run(guarded(calls), n=7) == 7
    assert calls == [(7, ["a"]), ("a", "big", 7)]
    assert run(guarded(calls), n=3) == -3


def test_async_conditions_of_a_machine_inside_of_a_dag(run: Any) -> None:
    dag = DAG("outer").add_node("size", lambda: 7).add_node("inner", guarded([]))
    dag.connect("size", "inner", input="n")
    assert run(dag) == 7


def test_an_async_condition_that_raises_names_itself(execute: Any) -> None:
    async def broken(value: int) -> bool:
        raise OSError("no answer")

    fsm = FSM("m", "a", ["b"]).add_state("a", lambda: 1).add_state("b", lambda x: x)
    ran = execute(fsm.add_transition("a", "b", broken))
    assert (ran.status, ran.results, ran.statuses["a"]) == ("failed", {"a": 1}, "completed")
    with pytest.raises(ExecutionError, match=r"condition of 'a' -> 'b'.*no answer"):
        ran.raise_for_error()


def test_async_hooks_redirect_and_cleanup_is_called_once(run: Any) -> None:
    async def hook(fsm: FSM, source: str, target: str) -> str | None:
        return "c" if target == "b" else None

    cleaned: list[str] = []
    fsm = machine(a=lambda: 1, b=lambda x: 0, c=lambda x: x + 1)
    fsm.add_state_hook(hook)
    fsm.set_default_hooks(cleanup=lambda node: cleaned.append(node.name))
    assert run(fsm) == 2
    assert cleaned == ["a", "c"]


@pytest.fixture(params=[*STARTED, "run_async"])
def drive(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Call a method of a live machine in one of the ways to drive it: `drive(start, method, ...)`,
    where `start(**options)` makes the machine."""
    way = WAYS[request.param]

    def driven(live: Machine, method: str, *args: Any, **data: Any) -> Any:
        if way.is_awaited:
            return asyncio.run(getattr(live, f"{method}_async")(*args, **data))
        return getattr(live, method)(*args, **data)

    driven.options = way.options  # type: ignore[attr-defined]
    return driven


def test_async_conditions_of_events(drive: Any) -> None:
    async def is_ada(value: Any, context: Any, data: Any) -> bool:
        await asyncio.sleep(0)
        return bool(data.get("by") == "Ada")

    fsm = FSM("door", "closed", ["opened"]).add_state("closed", lambda: "shut")
    fsm.add_state("opened", lambda by: f"opened by {by}")
    live = fsm.add_transition("closed", "opened", is_ada, event="push").start(**drive.options)
    drive(live, "run")
    assert (drive(live, "can", "push", by="Ada"), drive(live, "can", "push", by="Bob")) == (
        True,
        False,
    )
    with pytest.raises(InvalidTransitionError, match="no condition"):
        drive(live, "send", "push", by="Bob")
    assert live.waiting
    assert drive(live, "send", "push", by="Ada") == "opened by Ada"
    assert live.state_history == ["closed", "opened"]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_condition_that_raises_is_asked_anew_by_the_next_call(drive: Any, is_async: bool) -> None:
    broken, ran = [True], []

    def holds(value: int) -> bool:
        if broken:
            broken.pop()
            raise OSError("not now")
        return True

    async def later(value: int) -> bool:
        return holds(value)

    fsm = FSM("m", "a", ["b"]).add_state("a", lambda: ran.append(1) or 5)
    fsm.add_state("b", lambda x: x).add_transition("a", "b", later if is_async else holds)
    live = fsm.start(**drive.options)
    with pytest.raises(ExecutionError, match="not now"):
        drive(live, "run")
    assert (live.done, live.waiting, live.next_state, live["a"]) == (False, False, None, 5)
    saved = json.loads(json.dumps(live.snapshot()))
    again = fsm.restore(saved, **drive.options)
    assert again.snapshot() == saved
    assert (drive(live, "run"), drive(again, "run")) == (5, 5)
    assert live.state_history == again.state_history == ["a", "b"]
    assert ran == [1]


def test_a_vetoing_hook_is_asked_anew_and_others_once_more(drive: Any) -> None:
    allowed: list[bool] = []

    def hook(fsm: FSM, source: str, target: str) -> None:
        if not allowed:
            raise PermissionError("ask the boss")

    fsm = machine(a=lambda: 1, b=lambda x: x + 1)
    fsm.add_state_hook(hook)
    live = fsm.start(**drive.options)
    with pytest.raises(ExecutionError, match="ask the boss"):
        drive(live, "step")
    with pytest.raises(ExecutionError, match="ask the boss"):
        drive(live, "step")
    assert (live.cycle_count, live.done) == (1, False)
    allowed.append(True)
    assert (drive(live, "step"), live.state_history) == (("b", 2, None), ["a", "b"])


def test_a_cancellation_in_a_condition_leaves_the_visit() -> None:
    async def main() -> None:
        asked, hold, cleaned = asyncio.Event(), [True], []

        async def held(value: int) -> bool:
            if hold:
                hold.pop()
                asked.set()
                await asyncio.Event().wait()
            return True

        fsm = FSM("m", "a", ["b"]).add_state("a", lambda: 1).add_state("b", lambda x: x + 1)
        fsm.set_default_hooks(cleanup=lambda node: cleaned.append(node.name))
        live = fsm.add_transition("a", "b", held).start()
        task = asyncio.create_task(live.run_async())
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (live.state, live["a"], live.done, live.cycle_count) == ("a", 1, False, 1)
        assert (cleaned, live.context.metadata["execution_status"]) == (["a"], "cancelled")
        assert await live.run_async() == 2
        assert (live.state_history, cleaned) == (["a", "b"], ["a", "b"])

    asyncio.run(main())


def test_a_timeout_in_a_condition_leaves_the_visit() -> None:
    hold = [True]

    async def held(value: int) -> bool:
        if hold:
            hold.pop()
            await asyncio.Event().wait()
        return True

    fsm = FSM("m", "a", ["b"]).add_state("a", lambda: 1).add_state("b", lambda x: x + 1)
    fsm.add_transition("a", "b", held)
    for timeout in timeouts(0.4):
        live = fsm.start(timeout=timeout)
        with pytest.raises(TimeoutError):
            live.run()
        if not hold:
            break
    assert (live.state, live.done, live.cycle_count) == ("a", False, 1)
    assert (live.run(), live.state_history) == (2, ["a", "b"])


def test_an_interrupt_in_a_condition_leaves_the_visit(drive: Any) -> None:
    hold = [True]

    def held(value: int) -> bool:
        if hold:
            hold.pop()
            raise KeyboardInterrupt
        return True

    fsm = FSM("m", "a", ["b"]).add_state("a", lambda: 1).add_state("b", lambda x: x + 1)
    live = fsm.add_transition("a", "b", held).start(**drive.options)
    with pytest.raises(KeyboardInterrupt):
        drive(live, "run")
    assert (live.state, live.done, live.cycle_count, live["a"]) == ("a", False, 1, 1)
    assert (drive(live, "run"), live.state_history) == (2, ["a", "b"])


def test_async_conditions_in_a_running_loop_say_what_to_await() -> None:
    async def main() -> None:
        live = guarded([]).start(n=7)
        with pytest.raises(ValidationError, match="running event loop"):
            live.run()
        assert await live.run_async() == 7

    asyncio.run(main())


# on_error.


def failing(**options: Any) -> FSM:
    def work(x: int, by: str = "nobody") -> int:
        raise ValueError(f"no {x}")

    def rescue(x: int, error: Exception, by: str = "nobody") -> Any:
        return (x, by, type(error).__name__, str(error))

    fsm = FSM("m", "a", ["rescue"], **options)
    return fsm.add_state("a", lambda: 4).add_state("rescue", rescue).add_state("work", work)


@pytest.mark.parametrize("whose", ["state", "machine"])
def test_a_failure_leads_where_on_error_says(execute: Any, whose: str) -> None:
    asked: list[Any] = []
    fsm = failing(**({"on_error": "rescue"} if whose == "machine" else {}))
    if whose == "state":
        fsm.add_state("work", fsm.nodes["work"].func, on_error="rescue", replace=True)
    fsm.add_transition("a", "work")
    fsm.add_state_hook(lambda fsm, source, target, result: asked.append((source, target, result)))
    handler = lambda *args: asked.append(args) or "stop"  # noqa: E731
    ran = execute(fsm, error_handler=handler)
    assert (ran.status, ran.value) == ("completed", (4, "nobody", "ValueError", "no 4"))
    assert (ran.state_history, ran.errors) == (["a", "work", "rescue"], {})
    assert asked == [("a", "work", 4), ("work", "rescue", None)]
    with pytest.raises(KeyError, match="failed in this visit"):
        ran["work.0"]


def test_on_error_comes_after_retries_and_handlers(execute: Any) -> None:
    calls: list[int] = []

    def work(x: int) -> int:
        calls.append(x)
        raise OSError

    fsm = failing(on_error="rescue").add_transition("a", "work")
    fsm.add_state("work", work, retry=2, retry_delay=0, replace=True)
    assert execute(fsm).value[2:] == ("OSError", "")
    assert calls == [4] * 3
    fsm.set_node_error_handler("work", lambda node, inputs, error: FSMReturn(stop=True, value=1))
    assert execute(fsm).value == 1


def test_the_machines_on_error_does_not_lead_a_state_to_itself(execute: Any) -> None:
    fsm = failing(on_error="rescue").add_transition("a", "work")
    fsm.add_state("rescue", lambda error: 1 / 0, replace=True)
    ran = execute(fsm)
    assert (ran.status, list(ran.errors), ran.state_history[-1]) == ("failed", ["rescue"], "rescue")


def test_on_error_is_not_for_what_follows_a_state(execute: Any) -> None:
    ran = execute(failing(on_error="rescue"))
    assert (ran.status, type(ran.errors["a"])) == ("failed", InvalidTransitionError)
    fsm = failing(on_error="rescue").add_transition("a", "work", lambda value: 1 / 0)
    assert type(execute(fsm).errors["a"]) is ZeroDivisionError


def test_on_error_is_for_nested_workflows_and_timeouts(execute: Any) -> None:
    inner = DAG("inner").add_node("boom", lambda: 1 / 0)
    fsm = FSM("m", "work", ["rescue"], on_error="rescue").add_state("work", inner)
    fsm.add_state("rescue", lambda error: error)
    ran = execute(fsm)
    assert (ran.status, ran.errors) == ("completed", {})
    assert isinstance(ran.value, ExecutionError)
    assert ran.value.node_name == "work.boom"


def test_data_of_an_event_goes_along_with_the_error(drive: Any) -> None:
    fsm = failing(on_error="rescue").add_transition("a", "work", event="go")
    live = fsm.start(**drive.options)
    drive(live, "run")
    live.post("go", by="Ada")
    assert drive(live, "step") == ("work", 4, "rescue")
    saved = json.loads(json.dumps(live.snapshot(check=True)))
    again = fsm.restore(json.loads(json.dumps(fsm.restore(saved).snapshot())), **drive.options)
    assert drive(live, "run") == (4, "Ada", "ValueError", "no 4")
    value = drive(again, "run")
    assert value == (4, "Ada", value[2], "ValueError: no 4")
    assert again.state_history == ["a", "work", "rescue"]


def test_on_error_of_no_state_is_told() -> None:
    with pytest.raises(ValidationError, match=r"on_error='rescu'.*did you mean 'rescue'"):
        failing(on_error="rescu").run()
    with pytest.raises(ValidationError, match="name of a state"):
        failing(on_error=3)
    assert failing(on_error="rescue").error_states == {"a": "rescue", "work": "rescue"}
    assert failing(on_error="rescue").clone().on_error == "rescue"


# on_step.


def test_on_step_is_told_of_each_visit(drive: Any) -> None:
    told: list[Any] = []

    def tell(machine: Machine, step: Step) -> None:
        told.append(step)
        assert machine.state == step.state

    live = counting(3).start(on_step=tell, **drive.options)
    assert drive(live, "step") == ("tick", 1, "tock")
    assert drive(live, "run") == 3
    assert told == [
        ("tick", 1, "tock"),
        ("tock", 2, "tick"),
        ("tick", 3, "done"),
        ("done", 3, None),
    ]


def test_on_step_is_told_of_failures_and_only_of_the_outer_machine(drive: Any) -> None:
    told: list[Any] = []

    async def tell(machine: Machine, step: Step) -> None:
        await asyncio.sleep(0)
        told.append(step)

    fsm = machine(a=lambda: 4, b=counting(1), c=lambda x: 1 / 0)
    live = fsm.start(on_step=tell, **drive.options)
    with pytest.raises(ExecutionError, match="division"):
        drive(live, "run")
    assert told == [("a", 4, "b"), ("b", 5, "c"), ("c", None, "c")]
    assert (live.value, live.done, live.context.metadata["execution_status"]) == (
        5,
        False,
        "failed",
    )


def test_a_snapshot_in_on_step_goes_on_right_behind_the_visit(drive: Any) -> None:
    saved: list[Any] = []
    live = counting(5).start(
        on_step=lambda machine, step: saved.append(json.dumps(machine.snapshot())), **drive.options
    )
    drive(live, "run")
    for number, text in enumerate(saved):
        again = counting(5).restore(json.loads(text), **drive.options)
        assert again.cycle_count == number + 1
        assert drive(again, "run") == 5
        assert again.state_history == live.state_history


def test_what_on_step_raises_ends_the_call_as_itself(drive: Any) -> None:
    full = [OSError("disk full")]

    def tell(machine: Machine, step: Step) -> None:
        if step.value == 2 and full:
            raise full.pop()

    live = counting(5).start(on_step=tell, **drive.options)
    with pytest.raises(OSError, match="disk full"):
        drive(live, "run")
    assert (live.value, live.next_state, live.cycle_count) == (2, "tick", 2)
    assert live.context.metadata["execution_status"] == "cancelled"
    assert drive(live, "run") == 5


def test_on_step_that_is_cancelled_leaves_the_visit() -> None:
    async def main() -> None:
        asked, hold = asyncio.Event(), [True]

        async def tell(machine: Machine, step: Step) -> None:
            if hold:
                hold.pop()
                asked.set()
                await asyncio.Event().wait()

        live = counting(3).start(on_step=tell)
        task = asyncio.create_task(live.run_async())
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (live.state, live.next_state, live.cycle_count) == ("tick", "tock", 1)
        assert await asyncio.wait_for(live.run_async(), LONG) == 3

    asyncio.run(main())


def test_files_have_where_failures_lead_and_no_limit() -> None:
    fsm = failing(on_error="rescue", max_cycles=None).add_transition("a", "work")
    fsm.set_error_state("work", "a")
    registry = {f"f {name}": node.func for name, node in fsm.nodes.items()}
    data = fsm.to_dict(registry)
    assert (data["on_error"], data["error_states"]) == ("rescue", {"work": "a"})
    back = FSM.from_json(json.dumps(data), registry=registry)
    assert (back.error_states, back.max_cycles) == ({"a": "rescue", "work": "a"}, None)
    assert back.to_dict(registry) == data
    fsm.set_error_state("work", None)
    assert fsm.error_states["work"] == "rescue"
    twin = pickle.loads(pickle.dumps(machine(a=abs, b=abs)))
    assert (twin.error_states, twin.on_error) == ({}, None)
    with pytest.raises(ValidationError, match="mapping of states"):
        FSM.from_dict({**data, "error_states": ["work"]}, registry=registry)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_machine_is_freed_without_the_garbage_collector(is_async: bool) -> None:
    async def later(value: int) -> bool:
        return True

    fsm = FSM("m", "a", ["b"]).add_state("a", lambda: 1).add_state("b", lambda: 2)
    fsm.add_transition("a", "b", later if is_async else lambda value: True)
    live = fsm.start(on_step=lambda machine, step: None)
    gc.collect()
    gc.disable()
    try:
        assert live.run() == 2
        freed = weakref.ref(live)
        del live
        assert freed() is None
    finally:
        gc.enable()
