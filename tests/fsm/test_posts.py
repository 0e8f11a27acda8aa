"""Events that are posted, and `fsm.machine`."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import pickle
import threading
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import (
    DAG,
    FSM,
    ExecutionError,
    FSMContext,
    InvalidTransitionError,
    MaxCyclesError,
    ValidationError,
)
from tests.fsm.support import counting, door
from tests.patience import LONG
from tests.ways import STARTED, WAYS

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_dag import Machine


@pytest.fixture(params=[*STARTED, "run_async"])
def drive(request: pytest.FixtureRequest) -> Callable[..., Any]:
    way = WAYS[request.param]

    def driven(live: Machine, method: str, *args: Any, **data: Any) -> Any:
        if way.is_awaited:
            return asyncio.run(getattr(live, f"{method}_async")(*args, **data))
        return getattr(live, method)(*args, **data)

    driven.options = way.options  # type: ignore[attr-defined]
    return driven


def test_posted_events_are_taken_in_their_order(drive: Any) -> None:
    live = door().start(**drive.options)
    for event, data in (("push", {"by": "Ada"}), ("pull", {}), ("push", {"by": "Bob"})):
        live.post(event, **data)
    assert live.queue == [("push", {"by": "Ada"}), ("pull", {}), ("push", {"by": "Bob"})]
    assert (live.cycle_count, drive(live, "run")) == (0, "opened by Bob")
    assert (live.queue, live.state_history) == ([], ["closed", "opened", "closed", "opened"])


def test_send_comes_after_what_is_queued(drive: Any) -> None:
    live = door().start(**drive.options)
    live.post("push", by="Ada")
    assert drive(live, "send", "pull") == "shut"
    assert live.state_history == ["closed", "opened", "closed"]


def test_a_step_takes_events_before_and_after_its_state(drive: Any) -> None:
    live = door().start(**drive.options)
    live.post("push", by="Ada")
    assert drive(live, "step") == ("closed", "shut", "opened")
    assert live.queue == []
    assert drive(live, "step") == ("opened", "opened by Ada", None)
    live.post("pull")
    assert (live.waiting, live.next_state) == (True, None)
    assert drive(live, "step") == ("closed", "shut", None)
    with pytest.raises(InvalidTransitionError, match="waits for an event"):
        drive(live, "step")


def test_iterating_goes_on_while_something_is_queued() -> None:
    live = door().start()
    live.post("push")
    live.post("pull")
    assert [step.state for step in live] == ["closed", "opened", "closed"]
    live.post("push")
    assert [step.state for step in live] == ["opened"]


def test_iterating_ends_at_a_failure_that_is_not_raised() -> None:
    fsm = FSM("m", "a", ["b"]).add_state("a", lambda: 1).add_state("b", lambda x: 1 / 0)
    live = fsm.add_transition("a", "b").start(error_strategy="continue")
    assert [step.state for step in live] == ["a", "b"]
    assert live.next_state == "b"


@pytest.mark.parametrize("where", ["state", "condition", "hook", "node inside"])
def test_inside_of_a_machine_events_are_posted(drive: Any, where: str) -> None:
    fsm = door()

    def tell() -> None:
        machine = fsm.machine
        assert machine is live
        if machine.cycle_count == 1:
            machine.post("push", by=where)

    if where == "state":
        fsm.add_state("closed", lambda: tell() or "shut", replace=True)
    elif where == "hook":
        fsm.add_state_hook(lambda *args: tell())
        fsm.add_state("ajar", lambda: 1, replace=True).add_transition("ajar", "closed")
        fsm._initial = {"ajar": None}
    elif where == "condition":
        fsm.add_transition("closed", "locked", lambda value: bool(tell()))
    else:
        inner = DAG("inner").add_node("tells", lambda: tell() or "shut")
        fsm.add_state("closed", inner, replace=True)
    live = fsm.start(**drive.options)
    assert drive(live, "run") == f"opened by {where}"
    assert (fsm.machine, live.queue) == (None, [])


def test_there_is_no_live_machine_in_a_run(run: Any) -> None:
    fsm = FSM("m", "a", ["a"]).add_state("a", lambda: fsm.machine)
    assert run(fsm) is None


def test_driving_a_machine_from_inside_is_an_error_that_names_post(drive: Any) -> None:
    calls: list[Callable[[Machine], object]] = [
        lambda machine: machine.send("push"),
        lambda machine: machine.run(),
        lambda machine: machine.step(),
        lambda machine: machine.snapshot(),
        lambda machine: list(machine),
    ]
    made = FSM("m", "a", ["a"]).add_state("a", lambda call: call(made.machine))
    for call in calls:
        with pytest.raises(ExecutionError, match=r"machine\.post\(\)"):
            drive(made.start(call=call, **drive.options), "run")


def test_an_event_that_nobody_waits_for_when_its_turn_comes(drive: Any) -> None:
    live = door().start(**drive.options)
    live.post("pull")
    live.post("push", by="Ada")
    with pytest.raises(InvalidTransitionError, match="sent 'pull'") as caught:
        drive(live, "run")
    assert (caught.value.event, live.queue) == ("pull", [("push", {"by": "Ada"})])
    assert drive(live, "run") == "opened by Ada"
    live.post("push", on_unknown="ignore")
    live.post("pull")
    assert (drive(live, "run"), live.queue) == ("shut", [])


def test_data_that_nobody_takes_there_is_refused_and_gone(drive: Any) -> None:
    live = door().start(**drive.options)
    live.post("push", by="Ada")
    with pytest.raises(ValidationError, match="brings 'who'"):
        live.post("push", who="Bob")
    assert drive(live, "run") == "opened by Ada"


def test_a_queued_event_whose_condition_raises_stays(drive: Any) -> None:
    broken = [True]

    def holds(value: Any, context: Any, data: Any) -> bool:
        if broken:
            broken.pop()
            raise OSError("not now")
        return bool(data["by"] == "Ada")

    fsm = FSM("m", "a", ["b"]).add_state("a", lambda: 1).add_state("b", lambda by: by)
    live = fsm.add_transition("a", "b", holds, event="go").start(**drive.options)
    live.post("go", by="Bob")
    live.post("go", by="Ada")
    with pytest.raises(ExecutionError, match="not now"):
        drive(live, "run")
    assert (live.waiting, [data["by"] for _, data in live.queue]) == (True, ["Bob", "Ada"])
    with pytest.raises(InvalidTransitionError, match="no condition"):
        drive(live, "run")
    assert (drive(live, "run"), live.queue) == ("Ada", [])


def test_what_cannot_be_taken_ever_is_told_at_once() -> None:
    live = door().start()
    with pytest.raises(InvalidTransitionError, match=r"'pusch' \(did you mean 'push'\?\)"):
        live.post("pusch")
    live.post("pusch", on_unknown="ignore")
    with pytest.raises(ValidationError, match="on_unknown"):
        live.post("push", on_unknown="drop")  # type: ignore[arg-type]
    live.post("lock", key=1)
    live.post("push")
    assert (live.run(), live.done) == ("locked with 1", True)
    assert live.queue == [("push", {})]  # what is left is no error
    with pytest.raises(InvalidTransitionError, match="it has ended"):
        live.post("push")
    live.post("push", "ignore")


def test_what_max_cycles_keep_from_being_taken_stays_queued(drive: Any) -> None:
    live = door().start(max_cycles=2, **drive.options)
    for event in ("push", "pull", "push"):
        live.post(event)
    with pytest.raises(MaxCyclesError):
        drive(live, "run")
    assert (live.state, live.queue) == ("opened", [("pull", {}), ("push", {})])
    assert (drive(live, "run"), live.queue) == ("opened by shut", [])


def test_the_queue_is_part_of_snapshots(drive: Any) -> None:
    live = door().start(**drive.options)
    live.post("push", by="Ada")
    live.post("pull", on_unknown="ignore")
    saved = json.loads(json.dumps(live.snapshot()))
    again = door().restore(saved, **drive.options)
    assert (again.queue, again.snapshot()) == (live.queue, saved)
    assert (drive(again, "run"), again.state) == ("shut", "closed")
    other = FSM("door", "closed").add_state("closed", lambda: 1)
    other.add_transition("closed", "closed", event="push")
    with pytest.raises(ValidationError, match="no event 'pull' any more"):
        other.restore(saved)


def test_threads_post_while_the_machine_is_driven(drive: Any) -> None:
    """Whoever posts and is refused to run knows that the event is taken all the same."""
    fsm = FSM("sum", "wait").add_state("wait", lambda total=0, n=0: {"total": total + n})
    fsm.add_transition("wait", "wait", event="add")
    live = fsm.start(max_cycles=None, **drive.options)
    drive(live, "run")
    gate = threading.Barrier(4)

    def post() -> None:
        gate.wait(LONG)
        for number in range(1, 51):
            live.post("add", n=number)
            with contextlib.suppress(ValidationError):  # it is at a step already
                drive(live, "run")

    threads = [threading.Thread(target=post) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG * 6)
    assert (live.queue, live.value) == ([], {"total": 4 * 50 * 51 // 2})
    assert live.cycle_count == 201


def test_can_tells_whether_send_would_be_taken(drive: Any) -> None:
    asked: list[Any] = []

    def holds(value: Any, context: FSMContext, data: Any) -> bool:
        asked.append((value, fsm.current_state))
        return bool(data.get("key") == 7)

    fsm = door()
    fsm.add_transition("opened", "locked", holds, event="lock")
    fsm.add_state_hook(lambda *args: asked.append("hook"))
    live = fsm.start(**drive.options)
    assert not drive(live, "can", "push")
    drive(live, "run")
    assert drive(live, "can", "push", by="Ada")
    assert not drive(live, "can", "push", who="Ada")
    assert not drive(live, "can", "pull")
    assert not drive(live, "can", "fly")
    assert asked == []
    drive(live, "send", "push")
    asked.clear()
    before = live.snapshot()
    assert drive(live, "can", "lock", key=7)
    assert not drive(live, "can", "lock", key=8)
    assert asked == [("opened by shut", "opened")] * 2
    assert live.snapshot() == before


def test_can_is_false_while_a_state_runs() -> None:
    fsm = FSM("m", "a", ["b"]).add_state("a", lambda: fsm.machine.can("go"))
    fsm.add_state("b", lambda x: x).add_transition("a", "b", event="go")
    live = fsm.start()
    assert (live.run(), live.can("go")) == (False, True)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_copies_of_a_machine_are_snapshots(copied: Any) -> None:
    with pytest.raises(TypeError, match=r"machine\.snapshot\(\)"):
        copied(counting(2).start())


def test_names_of_all_scripts_and_data_of_all_kinds() -> None:
    fsm = FSM("Übergänge", "Käse auf", ["終"], description="")
    fsm.add_state("Käse auf", lambda: object).add_state("終", lambda **data: data)
    fsm.add_transition("Käse auf", "終", event="a.b c/ü")
    live = fsm.start()
    given = {"self": 1, "event": 2, "on_step": None, "machine": {1: {2}}, "data": ()}
    assert live.send("a.b c/ü", **given) == given
    assert live.state_history == ["Käse auf", "終"]
