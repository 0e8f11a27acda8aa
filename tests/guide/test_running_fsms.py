"""The guide on running machines, snippet by snippet."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from fast_dag import FSM, FSMContext, FSMReturn


def orders() -> FSM:
    """pending -> processing (three times) -> processed -> completed."""
    fsm = FSM("orders")

    @fsm.state(initial=True)
    def pending(order_id: str = "ORD-0", amount: float = 1.0) -> FSMReturn:
        return FSMReturn(
            next_state="processing", value={"order_id": order_id, "amount": amount, "tries": 1}
        )

    @fsm.state
    def processing(order_id: str, amount: float, tries: int) -> FSMReturn:
        going = {"order_id": order_id, "amount": amount, "tries": tries + 1}
        return FSMReturn("processing" if tries < 3 else "processed", going)

    @fsm.state
    def processed(order_id: str, amount: float) -> FSMReturn:
        return FSMReturn(next_state="completed", value=f"{order_id}: {amount}")

    @fsm.state(terminal=True)
    def completed(receipt: str) -> str:
        return receipt

    return fsm


HISTORY = ["pending", "processing", "processing", "processing", "processed", "completed"]


def test_simple_run() -> None:
    fsm = orders()
    result = fsm.run()
    assert result == "ORD-0: 1.0"


def test_with_initial_state_data() -> None:
    fsm = orders()
    result = fsm.run(order_id="ORD-123", amount=99.99)
    assert result == "ORD-123: 99.99"


def test_with_context() -> None:
    fsm = orders()
    context = FSMContext()
    result = fsm.run(context=context)
    assert result == "ORD-0: 1.0"
    assert fsm.context is context
    assert context.results["completed"] == result
    assert context.metadata["execution_status"] == "completed"


def test_maximum_cycles() -> None:
    fsm = orders()
    result = fsm.run(max_cycles=50)
    assert result == "ORD-0: 1.0"
    with pytest.raises(RuntimeError, match="5 states"):
        fsm.run(max_cycles=5)


def test_state_history(capsys: pytest.CaptureFixture[str]) -> None:
    fsm = orders()
    fsm.run()
    print(fsm.state_history)
    assert capsys.readouterr().out == f"{HISTORY}\n"


def test_results_by_cycle() -> None:
    fsm = orders()
    fsm.run()

    def tries(value: Any) -> int:
        return int(value["tries"])

    assert tries(fsm["processing"]) == 4  # latest
    assert tries(fsm["processing.0"]) == 2  # first
    assert tries(fsm["processing.2"]) == 4  # third
    with pytest.raises(KeyError):
        fsm["processing.3"]


def test_termination(capsys: pytest.CaptureFixture[str]) -> None:
    fsm = orders()
    assert not fsm.is_terminated
    fsm.run()
    if fsm.is_terminated:
        print(f"FSM ended in state: {fsm.current_state}")
    assert capsys.readouterr().out == "FSM ended in state: completed\n"


def test_state_hooks_see_transitions(capsys: pytest.CaptureFixture[str]) -> None:
    fsm = orders()

    def on_state_change(fsm, from_state, to_state, result):  # type: ignore[no-untyped-def]
        print(f"Transition: {from_state} -> {to_state}")

    fsm.add_state_hook(on_state_change)
    result = fsm.run()
    assert result == "ORD-0: 1.0"
    assert capsys.readouterr().out.splitlines() == [
        f"Transition: {source} -> {target}" for source, target in itertools.pairwise(HISTORY)
    ]


def test_state_hooks_can_modify_or_validate_transitions() -> None:
    fsm = orders()
    fsm.add_state("rejected", lambda: "rejected", terminal=True)

    def on_state_change(fsm: FSM, from_state: str, to_state: str, result: Any) -> str | None:
        if from_state == "pending" and result["amount"] < 0:
            raise ValueError("an amount below zero")
        return "rejected" if from_state == "pending" and result["amount"] > 1000 else None

    fsm.add_state_hook(on_state_change)
    assert fsm.run(amount=5.0) == "ORD-0: 5.0"
    assert fsm.run(amount=5000.0) == "rejected"
    with pytest.raises(RuntimeError, match="an amount below zero"):
        fsm.run(amount=-1.0)


def test_the_history_is_the_one_of_the_guide_where_each_state_runs_once() -> None:
    fsm = FSM("once", initial_state="pending", terminal_states=["completed"])
    names = ["pending", "processing", "processed", "completed"]
    for name in names:
        fsm.add_state(name, lambda: None)
    for source, target in itertools.pairwise(names):
        fsm.add_transition(source, target)
    fsm.run()
    assert fsm.state_history == names
