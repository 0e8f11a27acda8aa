"""How long compiled plans are kept, and how many."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import pytest

from fast_dag import DAG, FSM
from fast_dag.define.dag import WHOLE

if TYPE_CHECKING:
    from fast_dag import Run
    from fast_dag.plan.plan import Plan

NAMES = [f"option{number}" for number in range(16)]
SETS = [dict.fromkeys(pair, 1) for pair in combinations(NAMES, 2)]  # 120 sets of input names


def takes_any(**options: int) -> int:
    return sum(options.values())


def dag() -> DAG:
    return DAG("options").add_node("sum", takes_any).add_node("twice", lambda x: 2 * x)


def machine() -> FSM:
    return FSM("options").add_state("sum", takes_any, initial=True, terminal=True)


def plans_of(run: Run) -> list[Plan]:
    return [
        run._execution.plan,
        *(plan for child in run.children.values() for plan in plans_of(child)),
    ]


@pytest.mark.parametrize(
    "workflow",
    [
        dag().connect("sum", "twice"),
        machine(),
        DAG("outer").add_node("sub", dag().connect("sum", "twice")),
        DAG("outer").add_node("sub", machine()),
    ],
    ids=["dag", "machine", "nested dag", "nested machine"],
)
def test_sets_of_input_names_in_turn_are_compiled_once_each(workflow: DAG | FSM) -> None:
    first = [plans_of(workflow.execute(inputs)) for inputs in SETS]
    again = [plans_of(workflow.execute(inputs)) for inputs in SETS]
    for before, after in zip(first, again, strict=True):
        assert all(one is other for one, other in zip(before, after, strict=True))


def test_parts_are_kept_beside_whole_runs() -> None:
    workflow = dag().connect("sum", "twice")
    for _ in range(2):
        for inputs in SETS:
            assert workflow.run(inputs) == 4
            assert workflow.run_until("sum", inputs) == 2
    plans = [workflow.execute(inputs)._execution.plan for inputs in SETS]
    assert len({id(plan) for plan in plans}) == len(SETS)


def test_what_is_asked_for_again_stays_while_others_come_and_go() -> None:
    workflow = dag().connect("sum", "twice")
    often = workflow.execute(often=1)._execution.plan
    for number in range(2_000):
        workflow.execute({f"once{number}": 1})
        assert workflow.execute(often=1)._execution.plan is often


@pytest.mark.parametrize(("nodes", "most"), [(2, 512), (5_000, 40), (10_000, 32)])
@pytest.mark.stress
def test_the_number_of_kept_plans_is_bounded(nodes: int, most: int) -> None:
    workflow = DAG("large").add_node("sum", takes_any)
    for number in range(nodes - 1):
        workflow.add_node(f"n{number}", lambda: 1)
    alive: WeakSet[Plan] = WeakSet()
    for number in range(most * 5 // 4):
        alive.add(workflow._plan(frozenset({f"input{number}"}), WHOLE))
    gc.collect()
    assert most // 2 <= len(alive) <= most


def test_an_edit_lets_all_plans_go() -> None:
    workflow = dag().connect("sum", "twice")
    alive: WeakSet[Plan] = WeakSet(workflow.execute(inputs)._execution.plan for inputs in SETS)
    workflow.add_node("last", lambda: 5)
    assert workflow.run(SETS[0]) == 5
    gc.collect()
    assert len(alive) == 0


def test_the_shape_is_checked_once_for_all_sets_of_input_names() -> None:
    workflow = dag().connect("sum", "twice")
    shapes = {id(workflow.execute(inputs)._execution.plan.topology) for inputs in SETS}
    assert len(shapes) == 1


def test_an_input_named_like_a_node_takes_the_place_of_autowiring() -> None:
    workflow = DAG("wired", autowire=True).add_node("a", lambda: 1).add_node("b", lambda a: a + 1)
    assert [workflow.run(), workflow.run(a=5), workflow.run(), workflow.run(a=7)] == [2, 6, 2, 8]


def test_threads_that_ask_for_many_sets_at_once_get_their_own_plans() -> None:
    workflow = dag().connect("sum", "twice")

    def run(number: int) -> Any:
        return workflow.run({f"input{number % 700}": number})

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, range(3_000))) == [2 * number for number in range(3_000)]
