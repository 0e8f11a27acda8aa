"""What runs held is freed with them: values at once, timers when the run ends."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from fast_dag import DAG, FSM, Context, FSMReturn
from fast_dag.store import Store
from tests.concurrency.support import wait_until
from tests.leaks import Births, Value, timers, without_collector
from tests.ways import EXECUTE, HERE

RUNS = 8
FOR_EVER = 3600.0


def same(value: Value) -> Value:
    return value


async def same_later(value: Value) -> Value:
    await asyncio.sleep(0)
    return value


def chain(births: Births, **options: Any) -> DAG:
    """A sync, an async and a sync node that hand a new value on."""
    dag = DAG("chain").add_node("first", births.new, **options)
    dag.add_node("second", same_later, **options).add_node("third", same, **options)
    return dag.connect("first", "second").connect("second", "third")


def wide(births: Births) -> DAG:
    """Several that are fed by one, so that they overlap."""
    dag = DAG("wide").add_node("first", births.new)
    dag.add_node("joined", lambda *values: values[0])
    for index in range(4):
        dag.add_node(f"n{index}", same_later if index % 2 else same)
        dag.connect("first", f"n{index}").connect(f"n{index}", "joined")
    return dag


def nested(births: Births) -> DAG:
    dag = DAG("outer").add_node("inner", chain(births)).add_node("after", same)
    return dag.connect("inner", "after")


def hooked(births: Births) -> DAG:
    async def cleanup() -> None:
        await asyncio.sleep(0)

    dag = chain(births)
    for name in dag:
        dag.set_node_hooks(name, post_execute=lambda: None, cleanup=cleanup)
    return dag


def tried_again(births: Births) -> DAG:
    failures = iter([True] * 3)

    def flaky(value: Value) -> Value:
        if next(failures, False):
            raise ValueError(value)
        return value

    dag = chain(births).add_node("flaky", flaky, retry=3, retry_delay=0)
    return dag.connect("third", "flaky")


def with_resource(births: Births) -> DAG:
    dag = DAG("resource")

    @dag.resource("db")
    def connect() -> Any:
        yield births.new()

    return dag.add_node("node", lambda db: db)


def machine(births: Births) -> FSM:
    fsm = FSM("machine", initial_state="a", terminal_states=["c"])
    fsm.add_state("a", lambda: FSMReturn("b", births.new()))
    fsm.add_state("b", same_later).add_state("c", same)
    return fsm.add_transition("b", "c")


SHAPES = {
    "chain": chain,
    "with timeouts": lambda births: chain(births, timeout=FOR_EVER),
    "wide": wide,
    "nested": nested,
    "hooked": hooked,
    "tried again": tried_again,
    "with resource": with_resource,
    "machine": machine,
}


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id=""),
        pytest.param({"timeout": FOR_EVER}, id="timeout", marks=pytest.mark.stress),
    ],
)
@pytest.mark.parametrize("mode", HERE)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_of_a_finished_run_are_freed_without_the_collector(
    shape: str, mode: str, options: dict[str, Any]
) -> None:
    births = Births()
    workflow = SHAPES[shape](births)
    with without_collector():
        for _ in range(RUNS):
            EXECUTE[mode](workflow, **options).raise_for_error()
        # The run that finished last is that of `dag["x"]`.
        # A shared thread may still be on its way back from its last call.
        wait_until(lambda: births.alive() <= 1)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("mode", HERE)
@pytest.mark.parametrize("shape", ["chain", "hooked", "nested"])
def test_values_of_a_finished_durable_run_are_freed_without_the_collector(
    shape: str, mode: str
) -> None:
    births = Births()
    workflow = SHAPES[shape](births)
    with Store(":memory:", codec="pickle", key=bytes(16)) as store, without_collector():
        for _ in range(RUNS):
            EXECUTE[mode](workflow, store=store).raise_for_error()
        wait_until(lambda: births.alive() <= 1)


def numbered(births: Births) -> DAG:
    dag = DAG("numbered").add_node("load", lambda: None).add_node("last", same)
    dag.add_node("first", lambda load, number=0: births.new())
    return dag.connect("load", "first").connect("first", "last")


@pytest.mark.one_in(4)
@pytest.mark.parametrize("is_nested", [False, True], ids=["", "nested"])
@pytest.mark.parametrize("way", ["run_from", "resume"])
@pytest.mark.parametrize("mode", HERE)
def test_runs_that_go_on_keep_no_values_of_the_runs_before(
    mode: str, way: str, is_nested: bool
) -> None:
    births = Births()
    dag = numbered(births)
    if is_nested:
        dag = DAG("outer").add_node("first", dag)
    with without_collector():
        run = EXECUTE[mode](dag)
        for number in range(1, RUNS):
            if way == "run_from":
                run = dag.run_from(
                    "first", mode=mode if mode in ("parallel", "async") else "sequential"
                )
            else:
                run = EXECUTE[mode](dag, resume=run, number=number)
        run = None
        assert births.count() == RUNS
        wait_until(lambda: births.alive() <= 1)


@pytest.mark.parametrize("way", ["run_from", "resume"])
@pytest.mark.parametrize("mode", ["sequential", "parallel", "async"])
def test_a_failure_keeps_no_values_of_the_run_that_it_went_on_from(mode: str, way: str) -> None:
    """Its traceback has the frames of the call, which was given that run."""
    births = Births()
    dag = numbered(births).add_node("broken", lambda last: 1 / 0).connect("last", "broken")
    dag.execute()
    for number in range(1, RUNS):
        if way == "run_from":
            dag.run_from("first", run=dag.last_run, mode=mode, error_strategy="continue")
        else:
            dag.execute(resume=dag.last_run, mode=mode, number=number)
    assert births.count() == RUNS
    wait_until(lambda: gc.collect() >= 0 and births.alive() <= 1)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("options", [{}, {"timeout": FOR_EVER}], ids=["", "timeout"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_loop_keeps_neither_timers_nor_values_of_the_runs_that_it_had(
    shape: str, options: dict[str, Any]
) -> None:
    births = Births()
    workflow = SHAPES[shape](births)

    async def main() -> None:
        for _ in range(RUNS):
            await workflow.run_async(**options)
        assert timers(asyncio.get_running_loop()) == []
        await asyncio.to_thread(wait_until, lambda: births.alive() <= 1)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with without_collector():
        asyncio.run(main())


@pytest.mark.parametrize("mode", HERE)
def test_a_value_that_a_node_deletes_is_freed_at_once(mode: str) -> None:
    births = Births()
    alive: list[int] = []
    dag = DAG("deletes").add_node("make", births.new, timeout=FOR_EVER)
    dag.add_node("use", lambda value: None, timeout=FOR_EVER).connect("make", "use")

    def delete(context: Context) -> None:
        del context.results["make"]
        alive.append(births.alive())

    dag.add_node("delete", delete).connect("use", "delete", input=False)
    with without_collector():
        EXECUTE[mode](dag).raise_for_error()
    assert alive == [0]
