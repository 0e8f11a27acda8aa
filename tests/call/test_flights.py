"""Who computes what several runs want, and who takes over: every step of it, on a loop whose time
passes when the test says so."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_dag import DAG, FSM, Context
from tests.properties import tries
from tests.ways import MODES, MODES_ON_A_LOOP

if TYPE_CHECKING:
    from fast_dag import Run


class MovedClock(asyncio.SelectorEventLoop):
    now = 0.0

    def time(self) -> float:
        return self.now


async def settled() -> None:
    """All that the last step led to has happened: more turns of the loop than any step takes."""
    for _ in range(60):
        await asyncio.sleep(0)


LIMIT = 10.0
KEYS = (0, 1)
ACTIONS = ("start", "start", "start limited", "return", "fail", "cancel", "wait")


@tries(60)
@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.sampled_from(KEYS)), max_size=16))
def test_one_call_at_a_time_computes_a_key_and_when_it_ends_without_a_value_another_takes_over(
    steps: list[tuple[str, int]],
) -> None:
    with asyncio.Runner(loop_factory=MovedClock) as runner:
        runner.run(take_steps(steps))


async def take_steps(steps: list[tuple[str, int]]) -> None:
    """Runs that want a key start and end. At any time one of those that want it computes it."""
    loop: Any = asyncio.get_running_loop()
    inside: dict[int, list[asyncio.Future[object]]] = {key: [] for key in KEYS}
    wanting: dict[int, list[tuple[asyncio.Task[Run], bool]]] = {key: [] for key in KEYS}
    known: dict[int, object] = {}
    dag = DAG("steps")

    @dag.cached_node
    async def held(key: int) -> object:
        end = loop.create_future()
        inside[key].append(end)
        try:
            return await end
        finally:
            inside[key].remove(end)

    for action, key in steps:
        ends: list[str] = []  # how those runs end that this step ends
        if action.startswith("start"):
            limited = action.endswith("limited")
            run = dag.execute_async(key=key, timeout=LIMIT if limited else None)
            wanting[key].append((asyncio.create_task(run), limited))
            ends = ["completed"] * (key in known)
        elif action == "wait":
            loop.now += LIMIT
            ends = ["timed_out" for runs in wanting.values() for _, limited in runs if limited]
        elif action == "cancel" and wanting[key]:
            wanting[key][0][0].cancel()  # the one that computes, or a late one that waits
            ends = ["cancelled"]
        elif action == "fail" and inside[key]:
            inside[key][0].set_exception(ValueError("no luck"))
            ends = ["failed"]
        elif action == "return" and inside[key]:
            known[key] = object()
            inside[key][0].set_result(known[key])
            ends = ["completed"] * len(wanting[key])
        await settled()
        ended: list[str] = []
        for each, runs in wanting.items():
            for task, _ in runs:
                if task.done():
                    ended.append("cancelled" if task.cancelled() else task.result().status)
                    assert ended[-1] != "completed" or task.result().value is known[each]
            runs[:] = [entry for entry in runs if not entry[0].done()]
            assert len(inside[each]) == bool(runs), "one computes where somebody wants it"
        assert ended == ends
    for runs in wanting.values():
        for task, _ in runs:
            task.cancel()
        await asyncio.gather(*[task for task, _ in runs], return_exceptions=True)


def test_two_runs_may_wait_for_each_others_nodes_where_these_do_not_need_each_other() -> None:
    calls: list[str] = []

    async def main() -> list[Any]:
        dag = DAG("two")
        returns = asyncio.Event()
        for name in ("left", "right"):

            @dag.cached_node(name=name)
            async def held(name: str = name) -> str:
                calls.append(name)
                await returns.wait()
                return name

        async def wait_for_its_turn(node: Any, inputs: Any, context: Context) -> None:
            await context.metadata[node.name].wait()

        dag.set_default_hooks(pre_execute=wait_for_its_turn)
        turns = [{name: asyncio.Event() for name in ("left", "right")} for _ in range(2)]
        turns[0]["left"].set()
        turns[1]["right"].set()
        runs = [
            asyncio.create_task(dag.execute_async(context=Context(metadata=each))) for each in turns
        ]
        await settled()
        assert calls == ["left", "right"]
        turns[0]["right"].set()  # each computes what the other one wants next
        await settled()
        turns[1]["left"].set()
        await settled()
        returns.set()
        return [(await run).results for run in runs]

    assert asyncio.run(main()) == [{"left": "left", "right": "right"}] * 2
    assert calls == ["left", "right"], "each was computed once"


# A waiter never blocks an event loop.


class Held:
    """A cached node whose first call goes on when it is let go, by the loop that it is awaited on;
    `workflow` has it."""

    def __init__(self, build: Any) -> None:
        self.calls = 0
        self.started, self.go_on = asyncio.Event(), asyncio.Event()
        self.workflow = build(self.held)

    async def wait(self) -> None:
        self.started.set()
        await self.go_on.wait()

    def held(self, x: int = 1) -> Any:
        self.calls += 1
        return f"call {self.calls}" if self.calls > 1 else self._first()

    async def _first(self) -> str:
        await self.wait()
        return "call 1"


def alone(func: Any) -> Any:
    dag = DAG("alone")
    dag.cached_node(name="held")(func)
    return dag


def nested(func: Any) -> Any:
    return DAG("outer").add_node("sub", alone(func))


def cached_as_a_whole(func: Any) -> Any:
    return DAG("outer").add_node("sub", DAG("inner").add_node("held", func), cache={})


def machine(func: Any) -> Any:
    fsm = FSM("machine", initial_state="held", terminal_states=["held"])
    fsm.cached_state(name="held")(func)
    return fsm


BUILDS = [alone, nested, cached_as_a_whole, machine]


@pytest.mark.parametrize("mode", MODES_ON_A_LOOP)
@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.__name__)
@pytest.mark.parametrize("limit", [None, LIMIT], ids=["unlimited", "limited"])
def test_a_run_that_a_loop_waits_for_computes_what_a_run_on_that_loop_is_at(
    build: Any, mode: str, limit: float | None
) -> None:
    async def main() -> None:
        held = Held(build)
        first = asyncio.create_task(held.workflow.run_async())
        await held.started.wait()
        assert held.workflow.run(mode=mode, timeout=limit) == "call 2"
        held.go_on.set()
        assert await first == "call 1"
        assert held.workflow.run(mode=mode) == "call 1", "which was stored last"

    asyncio.run(main())


def test_a_run_that_was_started_there_and_is_awaited_later_waits() -> None:
    async def main() -> None:
        held, tasks = Held(alone), []
        first = asyncio.create_task(held.workflow.run_async())
        await held.started.wait()
        dag = DAG("starts another")

        @dag.node
        def starts() -> None:
            tasks.append(asyncio.create_task(held.workflow.run_async()))

        dag.run()
        await settled()
        held.go_on.set()
        assert [await first, await tasks[0]] == ["call 1", "call 1"]

    asyncio.run(main())


@pytest.mark.parametrize("inner", MODES)
@pytest.mark.parametrize("outer", MODES_ON_A_LOOP)
def test_nor_does_a_run_wait_that_a_node_of_such_a_run_starts(outer: str, inner: str) -> None:
    async def main() -> None:
        held = Held(alone)
        first = asyncio.create_task(held.workflow.run_async())
        await held.started.wait()
        dag = DAG("starts another")

        @dag.node(run_in="thread")
        def starts() -> Any:
            return held.workflow.run(mode=inner)

        assert dag.run(mode=outer) == "call 2"
        held.go_on.set()
        assert await first == "call 1"

    asyncio.run(main())
