"""Snapshots that were damaged, and events that are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fast_dag import FSM, InvalidTransitionError, ValidationError


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
