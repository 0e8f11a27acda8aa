"""Who computes what several runs want, and who takes over: every step of it, on a loop whose time
passes when the test says so."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fast_dag import DAG, Context

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


@settings(max_examples=60)
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
