"""Snapshots: damaged ones, those of other versions of a machine, and what is in them."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import FSM, FSMReturn, InvalidTransitionError, Machine, ValidationError

if TYPE_CHECKING:
    from pathlib import Path

    from fast_dag.run.machine import Step


@pytest.fixture
def door() -> FSM:
    return (
        FSM("door", initial_state="closed", terminal_states=["opened"])
        .add_state("closed", lambda: "shut")
        .add_state("opened", lambda by: by)
        .add_transition(
            "closed", "opened", lambda value, context, data: data["by"] == "Ada", event="push"
        )
    )


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ({"history": None}, "history is None"),
        ({"history": [1]}, r"history\[0\]\.state is missing"),
        ({"history": [{"state": "closed"}]}, r"history\[0\]\.seconds is missing"),
        ({"metrics": {}}, r"metrics\.execution_time is missing"),
        ({"at": []}, r"at is \[\]"),
        ({"at": "ajar"}, "no state 'ajar'"),
        ({"waits": 1}, "waits is 1"),
        ({"forgotten": []}, r"forgotten is \[\]"),
        ({"forgotten": {"closed": {"visits": "3"}}}, r"forgotten\['closed'\]\.visits is '3'"),
        ({"inputs": None}, "inputs is None"),
    ],
)
def test_a_damaged_snapshot_is_refused_with_the_place(
    door: FSM, damage: dict[str, Any], told: str
) -> None:
    machine = door.start()
    machine.run()
    snapshot = json.loads(json.dumps(machine.snapshot()))
    assert door.restore(snapshot).events == ["push"]
    with pytest.raises(ValidationError, match=told):
        door.restore({**snapshot, **damage})


def test_an_event_that_no_condition_lets_through_leaves_the_machine_as_it_was(door: FSM) -> None:
    machine = door.start()
    machine.run()
    before = machine.snapshot()
    with pytest.raises(InvalidTransitionError, match="no condition") as caught:
        machine.send("push", by="Bob")
    assert (caught.value.event, caught.value.events) == ("push", ("push",))
    after = machine.snapshot()
    before["metrics"].pop("execution_time")
    after["metrics"].pop("execution_time")
    assert after == before
    assert machine.send("push", by="Ada") == "Ada"
    assert machine.context.metadata["execution_status"] == "completed"


# Machines that have changed since.


def approval(**options: Any) -> FSM:
    return FSM("approval", "draft", ["done"], **options).add_state("draft", lambda: 5)


def v1() -> FSM:
    fsm = approval().add_state("done", lambda x: x)
    return fsm.add_transition("draft", "done", event="approve")


@pytest.fixture
def waits() -> dict[str, Any]:
    live = v1().start()
    live.run()
    return saved(live)


def saved(live: Machine, **how: Any) -> dict[str, Any]:
    taken: dict[str, Any] = json.loads(json.dumps(live.snapshot(**how)))
    return taken


def test_a_machine_listens_to_the_events_of_its_new_version(waits: dict[str, Any]) -> None:
    v2 = approval().add_state("done", lambda x: x)
    v2.add_transition("draft", "done", event="sign")
    again = v2.restore(waits)
    assert (again.waiting, again.events, again.done) == (True, ["sign"], False)
    assert again.send("sign") == 5


def test_a_machine_that_waited_goes_on_where_its_new_version_does(waits: dict[str, Any]) -> None:
    seen: list[Any] = []
    v2 = approval().add_state("done", lambda x: x).add_transition("draft", "done")
    v2.add_state_hook(lambda fsm, source, target: seen.append((source, target)))
    again = v2.restore(waits)
    assert (again.waiting, again.next_state, seen) == (False, "done", [])
    assert (again.run(), seen) == (5, [("draft", "done")])


def test_a_machine_that_waited_may_have_ended_in_its_new_version(waits: dict[str, Any]) -> None:
    again = v1().add_terminal_state("draft").restore(waits)
    assert (again.done, again.value) == (True, 5)


def test_a_machine_that_had_ended_may_go_on_in_its_new_version() -> None:
    live = v1().start()
    live.send("approve")
    v2 = v1().add_terminal_state("archived", lambda x: x + 1)
    v2._terminal.pop("done")
    again = v2.add_transition("done", "archived").restore(saved(live))
    assert (again.done, again.next_state, again.run()) == (False, "archived", 6)


def test_a_machine_that_leads_nowhere_now_is_refused(waits: dict[str, Any]) -> None:
    v2 = approval().add_state("done", lambda x: x)
    with pytest.raises(ValidationError, match=r"cannot go on in this version.*leads nowhere"):
        v2.restore(waits)


def test_conditions_decide_anew_and_what_was_returned_stands() -> None:
    def made(limit: int, returned: str | None) -> FSM:
        fsm = FSM("m", "a", ["b", "c"]).add_state("b", lambda: "b").add_state("c", lambda: "c")
        fsm.add_state("a", lambda: FSMReturn(returned, 5))
        fsm.add_transition("a", "b", lambda value: value > limit)
        return fsm.add_transition("a", "c")

    for returned, then in ((None, "c"), ("b", "b")):
        live = made(3, returned).start()
        assert live.step().next_state == "b"
        assert made(9, returned).restore(saved(live)).next_state == then
        assert made(9, returned).restore(saved(live)).run() == then


def test_a_stop_stands() -> None:
    live = FSM("m", "a").add_state("a", lambda: FSMReturn(stop=True)).start()
    live.run()
    v2 = FSM("m", "a", ["b"]).add_state("a", lambda: 1).add_state("b", lambda: 2)
    assert v2.add_transition("a", "b").restore(saved(live)).done


def test_a_redirection_by_a_hook_stands_and_is_not_asked_for_again() -> None:
    asked: list[str] = []
    fsm = FSM("m", "a", ["b", "c"]).add_state("a", lambda: 1)
    fsm.add_state("b", lambda: 2).add_state("c", lambda: 3).add_transition("a", "b")
    fsm.add_state_hook(lambda fsm, source, target: asked.append(target) or "c")
    live = fsm.start()
    assert live.step().next_state == "c"
    again = fsm.restore(saved(live))
    assert (again.next_state, again.run(), asked) == ("c", 3, ["b"])


def test_async_conditions_are_asked_by_the_first_call() -> None:
    asked: list[int] = []

    async def holds(value: int) -> bool:
        asked.append(value)
        return True

    hooked: list[str] = []
    fsm = FSM("m", "a", ["b"]).add_state("a", lambda: 1).add_state("b", lambda: 2)
    fsm.add_transition("a", "b", holds)
    fsm.add_state_hook(lambda fsm, source, target: hooked.append(target))
    live = fsm.start()
    live.step()
    again = fsm.restore(saved(live))
    assert (asked, again.done, again.waiting) == ([1], False, False)
    assert again.step() == ("b", 2, None)
    assert (asked, hooked) == ([1, 1], ["b"])


def test_async_conditions_that_are_never_asked_hold_up_nothing() -> None:
    async def holds(value: int) -> bool:
        return True

    fsm = FSM("m", "a", ["b"]).add_state("a", lambda: 1).add_state("b", lambda: 2)
    fsm.add_transition("a", "b").add_transition("a", "a", holds)
    live = fsm.add_transition("b", "a", holds).start()
    live.step()
    assert fsm.restore(saved(live)).next_state == "b"
    assert (live.run(), live.done) == (2, True)
    again = fsm.restore(saved(live))
    assert (again.done, again.value, again.state_history) == (True, 2, ["a", "b"])


def test_another_initial_state_begins_a_machine_that_has_not_begun() -> None:
    live = v1().start()
    v2 = FSM("approval", "first", ["first"]).add_state("first", lambda: 1)
    v2.add_state("draft", lambda: 5)
    assert v2.restore(saved(live)).run() == 1


def test_a_snapshot_of_another_machine_is_refused(waits: dict[str, Any]) -> None:
    other = v1().clone("other")
    with pytest.raises(ValidationError, match="snapshot of 'approval', not of 'other'"):
        other.restore(waits)
    assert other.restore(waits, check_name=False).send("approve") == 5


# What they have, and what they share.


def test_without_history_a_snapshot_is_as_small_as_the_value() -> None:
    fsm = FSM("agent", "ask", ["answer"])
    fsm.add_state("ask", lambda turns=(): {"turns": [*turns, "x" * 100]})
    fsm.add_state("answer", lambda turns: len(turns))
    fsm.add_transition("ask", "answer", lambda value: len(value["turns"]) == 200)
    fsm.add_transition("ask", "ask")
    sizes: list[tuple[int, int]] = []

    def save(machine: Machine, step: Step) -> None:
        small = json.dumps(machine.snapshot(history=False))
        sizes.append((len(small), len(json.dumps(machine.value))))

    live = fsm.start(on_step=save)
    for _ in range(150):
        live.step()
    small = saved(live, history=False)
    assert all(size < value + 1500 for size, value in sizes)
    again = fsm.restore(small)
    assert (again["ask"], again.cycle_count, again.state_history) == (live["ask"], 150, [])
    with pytest.raises(KeyError, match="no longer kept"):
        again["ask.3"]
    assert (again.run(), again.cycle_count) == (200, 201)
    assert saved(again, history=False)["forgotten"]["ask"]["visits"] == 200


def test_a_snapshot_shares_nothing_with_the_machine() -> None:
    fsm = FSM("m", "a", ["c"]).add_state("a", lambda items: {"items": items})
    fsm.add_state("b", lambda items: items.append("b") or {"items": items})
    fsm.add_state("c", lambda items: items).add_transition("a", "b").add_transition("b", "c")
    live = fsm.start(items=["a"])
    live.step()
    taken = live.snapshot()
    before = json.dumps(taken)
    first, second = fsm.restore(taken), fsm.restore(taken)
    assert live.run() == first.run() == second.run() == ["a", "b"]
    assert json.dumps(taken) == before


def test_what_cannot_be_copied_is_in_a_snapshot_all_the_same() -> None:
    lock = threading.Lock()
    live = FSM("m", "a", ["a"]).add_state("a", lambda: {"lock": lock, "list": [1]}).start()
    value = live.run()
    taken = live.snapshot()["value"]
    assert taken["lock"] is lock
    assert taken["list"] is not value["list"]


@pytest.mark.parametrize(
    ("place", "change"),
    [
        (r"snapshot\.value\.a\[1\]", lambda live: live.value.update(a=[1, {1}])),
        (r"snapshot\.metadata\.user", lambda live: live.context.metadata.update(user=object())),
        (r"snapshot\.queue\[0\]\.data\.by", lambda live: live.post("go", by=1j)),
        (r"snapshot\.results\.a\['b c'\]", lambda live: live.results.update(a={"b c": b""})),
        (r"snapshot\.inputs\.n", lambda live: live._request.inputs.update(n=b"")),
    ],
)
def test_check_names_the_place_of_what_is_no_plain_data(place: str, change: Any) -> None:
    fsm = FSM("m", "a", ["b"]).add_state("a", lambda n: {"n": n}).add_state("b", lambda by: by)
    live = fsm.add_transition("a", "b", event="go").start(n=1)
    live.run()
    assert live.snapshot(check=True) == saved(live)
    change(live)
    with pytest.raises(ValidationError, match=place):
        live.snapshot(check=True)


def test_a_machine_that_is_killed_goes_on_behind_its_last_snapshot(tmp_path: Path) -> None:
    program = """
        import json, os, signal, sys
        from tests.fsm.support import counting

        def save(machine, step):
            with open(path + ".new", "w") as file:
                json.dump(machine.snapshot(check=True), file)
            os.replace(path + ".new", path)
            if machine.cycle_count % 4 == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        path = sys.argv[1]
        if os.path.exists(path):
            live = counting(10).restore(json.load(open(path)), on_step=save)
        else:
            live = counting(10).start(on_step=save)
        print(live.run(), live.state_history)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "machine")]
    ends = [subprocess.run(command, capture_output=True, text=True, check=False) for _ in range(3)]
    assert [end.returncode for end in ends] == [-9, -9, 0]
    assert ends[2].stdout == f"10 {[*['tick', 'tock'] * 5, 'done']}\n"
    assert ends[2].stderr == ""


@pytest.mark.parametrize("how", ["straight", "general", "by events"])
@pytest.mark.stress
def test_ten_thousand_steps_do_not_grow_what_is_kept(how: str) -> None:
    fsm = FSM("ring", "a", keep_history=3, max_cycles=None)
    fsm.add_state("a", lambda n=0: n + 1)
    fsm.add_transition("a", "a", event="go" if how == "by events" else None)
    live = fsm.start(on_step=(lambda machine, step: None) if how == "general" else None)
    live.step()

    def go(times: int) -> None:
        for _ in range(times):
            live.send("go") if how == "by events" else live.step()

    go(3000)
    gc.collect()
    before = len(gc.get_objects())
    go(10_000)
    gc.collect()
    assert len(gc.get_objects()) - before < 2_000  # a bounded history grows by 1,000 visits
    assert live.cycle_count == 13_001
