"""What type checkers see of machines, checked by mypy and pyright; the same code runs, too."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, assert_type

from fast_dag import (
    FSM,
    Context,
    ExecutionMode,
    FSMContext,
    FSMReturn,
    Machine,
    Node,
    NodeStatus,
    Run,
    ValidationError,
)
from fast_dag.run.machine import Step

fsm = FSM(
    "typed",
    initial_state="bare",
    terminal_states=["end"],
    max_cycles=50,
    on_max_cycles="stop",
    description="types",
    metadata={"owner": "tests"},
    keep_history=10,
)


@fsm.state
def bare(number: int, /, text: str = "", *, flag: bool = False) -> dict[str, int]:
    return {"number": number + len(text) + flag}


@fsm.state(retry=2, timeout=1.0, name="middle", metadata=None, retry_on=(OSError,))
def with_options(number: int) -> FSMReturn:
    return FSMReturn("cached", number)


@fsm.cached_state
def cached(number: int) -> int:
    return number + 1


@fsm.cached_state(ttl=60, cache_key=["number"], max_entries=10, terminal=True)
def end(number: int, context: FSMContext) -> list[str]:
    return context.state_history


@fsm.state(initial=False, terminal=True)
async def later(number: int) -> bytes:
    return b"later"


fsm.add_transition(bare, with_options)
fsm.add_transition("cached", end, lambda value: value > 0)


def test_function_may_stand_before_the_options() -> None:
    machine = FSM("first")

    def double(number: int, /) -> int:
        return 2 * number

    assert_type(machine.state(double, initial=True, retry=1), Node[[int], int])
    assert_type(machine.cached_state(double, name="last", terminal=True, ttl=60), Node[[int], int])
    assert (machine.initial_state, machine.terminal_states) == ("double", ["last"])
    assert machine.add_transition("double", "last").run(number=2) == 8


def test_decorated_function_keeps_its_parameters_and_result() -> None:
    assert_type(bare(1), dict[str, int])
    assert_type(bare(1, "a", flag=True), dict[str, int])
    assert_type(with_options(1), FSMReturn)
    assert_type(cached(1), int)
    assert_type(end(1, FSMContext(state_history=["a"])), list[str])
    node: Node[..., list[str]] = end
    assert node.name == "end"

    async def main() -> None:
        assert_type(await later(1), bytes)

    asyncio.run(main())


async def hook_later(fsm: FSM, source: str, target: str, result: Any) -> str | None:
    return None


def test_building_returns_the_machine() -> None:
    made = FSM("built")
    assert_type(made.add_state("a", lambda: 1, initial=True, retry=1), FSM)
    assert_type(made.add_terminal_state("b", lambda: 1), FSM)
    assert_type(made.add_terminal_state("b"), FSM)
    assert_type(made.add_transition("a", "b", lambda value, context: True, event=None), FSM)
    assert_type(made.clone("other"), FSM)
    assert_type(made.remove_state("b"), FSM)
    made.add_state_hook(lambda fsm, source, target, result: None)
    made.add_state_hook(lambda fsm, source, target, result: "a")
    made.add_state_hook(hook_later)
    made.add_state_hook(lambda fsm, source, target, result: fsm.nodes["a"])
    made.set_error_state("a", made.nodes["a"])


def test_run_takes_its_options_and_returns_any() -> None:
    assert_type(fsm.run({"number": 1}), Any)
    assert_type(fsm.run(number=1, max_cycles=9, mode="parallel"), Any)
    context = FSMContext(metadata={"user": "ada"})
    assert_type(fsm.run(number=1, context=context, mode=ExecutionMode.ASYNC), Any)
    assert_type(fsm.run(number=1, timeout=30, error_strategy="continue"), Any)


def test_execute_returns_the_run() -> None:
    run = fsm.execute(number=1)
    plain: Run = run
    assert_type(run.state_history, list[str])
    assert_type(run.current_state, str | None)
    assert_type(run.cycle_count, int)
    assert_type(run.is_terminated, bool)
    assert_type(run.value, Any)
    assert_type(run.statuses, dict[str, NodeStatus])
    assert_type(run.inputs, Mapping[str, Any])
    assert_type(run["bare.0"], Any)
    assert plain.value == ["bare", "middle", "cached", "end"]


def test_awaited_runs_have_the_same_types() -> None:
    async def main() -> None:
        assert_type(await fsm.run_async(number=1, max_workers=1), Any)
        run = await fsm.execute_async(number=1, max_cycles=9)
        assert_type(run.state_history, list[str])

    asyncio.run(main())


def test_views_have_types() -> None:
    fsm.run(number=1)
    assert_type(fsm.state_history, list[str])
    assert_type(fsm.current_state, str | None)
    assert_type(fsm.is_terminated, bool)
    assert_type(fsm.cycle_count, int)
    assert_type(fsm.initial_state, str | None)
    assert_type(fsm.terminal_states, list[str])
    assert_type(fsm["bare"], Any)
    assert_type(fsm[bare], dict[str, int])
    assert_type(fsm[with_options], Any)
    assert_type(fsm.get("bare.0", None), Any)
    assert_type(fsm.context, Context)
    assert_type(fsm.validate(), list[ValidationError])
    assert_type(fsm.is_valid, bool)


def test_context_and_return_have_types() -> None:
    context = FSMContext(state_history=["a"])
    assert_type(context.state_history, list[str])
    assert_type(context.current_state, str | None)
    assert_type(context.cycle_count, int)
    assert_type(FSMContext.from_dict(context.to_dict()), FSMContext)
    returned = FSMReturn(next_state="a", value=1, stop=False)
    assert returned.next_state == "a"
    assert_type(returned.stop, bool)
    for state in (bare, fsm.nodes["middle"], FSM("inner"), "bare", None):
        assert FSMReturn(state, 1).next_state is FSMReturn(next_state=state).next_state is state


def test_machines_have_types() -> None:
    machine = fsm.start(number=1, max_cycles=9)
    assert_type(machine, Machine)
    assert_type(machine.step(), Step)
    assert_type(machine.step().state, str)
    assert_type(machine.state, str)
    assert_type(machine.next_state, str | None)
    assert_type(machine.value, Any)
    assert_type(machine.done, bool)
    assert_type(machine.waiting, bool)
    assert_type(machine.events, list[str])
    assert_type(machine.snapshot(), dict[str, Any])
    assert_type(fsm.restore(machine.snapshot()), Machine)
    steps: list[str] = []
    restored = fsm.restore(
        machine.snapshot(),
        {"number": 2},
        check_name=False,
        on_step=lambda machine, step: steps.append(step.state),
        max_cycles=9,
        mode="parallel",
    )
    assert_type(restored, Machine)
    assert_type(list(machine), list[Step])
    assert_type(machine.run(), Any)
    assert_type(machine.send("push", on_unknown="ignore", by="Ada"), Any)


def test_awaited_machines_have_types() -> None:
    async def main() -> None:
        machine = fsm.start(number=1)
        assert_type(await machine.step_async(), Step)
        assert_type([step async for step in machine], list[Step])
        assert_type(await machine.run_async(), Any)
        assert_type(await machine.send_async("push", on_unknown="ignore"), Any)

    asyncio.run(main())
