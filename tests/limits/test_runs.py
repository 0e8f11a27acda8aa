"""Limits in runs: never more at once than there are, in every way to run, and all comes back."""

from __future__ import annotations

import asyncio
import copy
import gc
import logging
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from time import sleep
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import (
    DAG,
    FSM,
    ExecutionError,
    FSMReturn,
    InvalidNodeError,
    Limits,
    Rate,
    ValidationError,
)
from fast_dag.run import limits as module
from tests.concurrency.support import Tally, wait_for, wait_until
from tests.patience import LONG, timeouts
from tests.ways import AT_ONCE, EXECUTE, HERE

if TYPE_CHECKING:
    pass


def free(limits: Limits) -> dict[str, float]:
    return {name: units.free for name, units in limits._units.items()}


def counted(dag: DAG, count: int, **options: Any) -> Tally:
    """Nodes that count how many of them are at work."""
    tally = Tally()

    def work() -> None:
        tally.enter()
        sleep(0.001)
        tally.leave()

    async def work_async() -> None:
        tally.enter()
        await asyncio.sleep(0.001)
        tally.leave()

    for number in range(count):
        dag.add_node(f"n{number}", work_async if number % 3 == 0 else work, **options)
    return tally


@pytest.mark.parametrize("mode", HERE)
@pytest.mark.parametrize("options", [{}, {"retry": 1}, {"timeout": 60}])
def test_never_more_at_once_than_there_are(mode: str, options: dict[str, Any]) -> None:
    limits = Limits(db=2)
    dag = DAG("many", limits=limits)
    tally = counted(dag, 12, uses="db", **options)
    assert EXECUTE[mode](dag).status == "completed"
    assert tally.most() <= 2
    assert free(limits) == {"db": 2}


@pytest.mark.parametrize("mode", HERE)
def test_nested_nodes_use_the_limits_of_the_workflow_around(mode: str) -> None:
    inner, limits = DAG("inner"), Limits(db=1)
    tally = counted(inner, 5, uses={"db": 1})
    outer = DAG("outer", limits=limits).add_node("one", inner).add_node("two", inner)
    assert EXECUTE[mode](outer).status == "completed"
    assert tally.most() == 1


@pytest.mark.needs("cloudpickle")
def test_limits_hold_for_worker_processes() -> None:
    limits = Limits(db=1)
    dag = DAG("many", limits=limits)
    for number in range(4):
        dag.add_node(f"n{number}", abs, inputs=["x"], uses="db")
    run = dag.execute(mode="process", max_workers=2, x=-1)
    assert run.status == "completed"
    spans = sorted((start, end) for _, start, end in run._execution.record.executed())
    assert len(spans) == 4


def test_runs_in_threads_and_loops_share_one_object() -> None:
    limits = Limits(db=3)
    dags = [DAG(f"dag {number}", limits=limits) for number in range(3)]
    tallies = [counted(dag, 8, uses="db") for dag in dags]
    for dag, tally in zip(dags[1:], tallies[1:], strict=True):
        assert tally is not tallies[0]
        assert dag.limits is limits
    shared, tally = dags[0], tallies[0]

    async def awaited() -> None:
        await asyncio.gather(*(shared.run_async() for _ in range(3)))

    with ThreadPoolExecutor(4) as threads:
        futures = [threads.submit(shared.run, mode="parallel") for _ in range(2)]
        futures += [threads.submit(lambda: asyncio.run(awaited())), threads.submit(shared.run)]
        for each in futures:
            each.result(6 * LONG)
    assert 1 <= tally.most() <= 3


def test_states_of_machines_use_limits() -> None:
    limits, inside = Limits(db=1), []
    fsm = FSM("machine", limits=limits, initial_state="a", terminal_states=["z"])

    @fsm.state(uses="db")
    def a(n: int = 0) -> FSMReturn:
        inside.append(free(limits)["db"])
        return FSMReturn("a" if n < 3 else "z", n + 1)

    @fsm.state
    def z(n: int) -> int:
        inside.append(free(limits)["db"])
        return n

    assert fsm.run() == 4
    assert fsm.run(mode="parallel") == 4
    assert inside == [0, 0, 0, 0, 1] * 2


@pytest.mark.parametrize("mode", HERE)
def test_hooks_waits_and_hits_hold_no_units(mode: str) -> None:
    limits, seen = Limits(db=1), []
    dag = DAG("hooks", limits=limits)

    def look(*_: Any) -> None:
        seen.append(free(limits)["db"])

    @dag.cached_node(uses="db", retry=1, retry_delay=0.001)
    def work(x: int) -> int:
        assert free(limits)["db"] == 0
        if len(seen) < 2:
            raise ValueError
        return x

    dag.set_node_hooks("work", pre_execute=look, on_retry=look, post_execute=look, cleanup=look)
    assert EXECUTE[mode](dag, x=1).status == "completed"
    assert EXECUTE[mode](dag, x=1).results == {"work": 1}
    assert set(seen) == {1}


def test_hit_of_a_cache_takes_nothing() -> None:
    limits = Limits(api=Rate(1, per=3600))
    dag = DAG("cached", limits=limits)

    @dag.cached_node(uses="api")
    def work(x: int) -> int:
        return x

    assert [dag.run(x=1) for _ in range(3)] == [1, 1, 1]


def test_waiting_node_holds_no_slot() -> None:
    limits, other_ran, holds, release = Limits(db=1), *(threading.Event() for _ in range(3))
    holder = DAG("holder", limits=limits)

    @holder.node(uses="db")
    def hold() -> None:
        holds.set()
        wait_for(release)

    dag = DAG("waits", limits=limits)

    @dag.node(uses="db", priority=1, timeout=60)
    def waits() -> None:
        assert other_ran.is_set()

    @dag.node
    def other() -> None:
        other_ran.set()
        release.set()

    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(holder.run)
        wait_for(holds)
        assert dag.execute(mode="parallel", max_workers=1).status == "completed"
        future.result(LONG)


def test_higher_priority_is_taken_first_by_the_only_worker() -> None:
    order: list[str] = []
    dag = DAG("order")
    dag.add_node("start", lambda: None)
    for name, priority in (("a", 0), ("b", 5), ("c", 0), ("d", 9), ("e", -1)):
        dag.add_node(name, lambda start, name=name: order.append(name), priority=priority)
        dag.connect("start", name, input="start")
    dag.run(mode="parallel", max_workers=1)
    assert order == ["d", "b", "a", "c", "e"]
    order.clear()
    dag.run()
    assert order == ["a", "b", "c", "d", "e"]


def test_worker_leaves_its_chain_for_a_higher_priority() -> None:
    order: list[str] = []
    dag = DAG("chains")
    for name, priority in (("a", 0), ("b", 0), ("x", 0), ("y", 7)):
        dag.add_node(name, lambda *_, name=name: order.append(name), inputs=[], priority=priority)
    dag.connect("a", "b", input=False).connect("x", "y", input=False)
    dag.add_node("high", lambda: order.append("high"), priority=3)
    dag.run(mode="parallel", max_workers=1)
    assert order == ["high", "a", "x", "y", "b"]


def test_longest_way_in_nodes_goes_first() -> None:
    order: list[str] = []
    dag = DAG("ways")
    for name in ("short", "long", "l2", "l3"):
        dag.add_node(name, lambda name=name: order.append(name))
    dag.connect("long", "l2", input=False).connect("l2", "l3", input=False)
    dag.run(mode="parallel", max_workers=1)
    assert order[0] == "long"


def test_longest_way_in_seconds_goes_first_once_a_run_tells() -> None:
    order: list[str] = []
    for seconds in timeouts():
        dag = DAG("ways")
        for name in ("l1", "l2", "l3"):
            dag.add_node(name, lambda name=name: order.append(name))
        dag.connect("l1", "l2", input=False).connect("l2", "l3", input=False)
        dag.add_node("heavy", lambda seconds=seconds: order.append("heavy") or sleep(seconds))
        run = dag.execute(mode="parallel", max_workers=1)
        assert order[0] == "l1"
        order.clear()
        if run.timings["heavy"] > sum(run.timings[name] for name in ("l1", "l2", "l3")):
            break
    dag.run(mode="parallel", max_workers=1)
    assert order[0] == "heavy"


# The ends of jobs.


@pytest.mark.parametrize("mode", HERE)
def test_failure_gives_units_back(mode: str) -> None:
    limits = Limits(db=1)
    dag = DAG("fails", limits=limits)
    for number in range(5):
        dag.add_node(f"n{number}", lambda: 1 / 0, uses="db", retry=1, retry_delay=0)
    assert EXECUTE[mode](dag, error_strategy="continue").status == "completed_with_errors"
    assert EXECUTE[mode](dag).status == "failed"
    assert free(limits) == {"db": 1}


def test_waiting_ends_at_the_deadline() -> None:
    limits, release = Limits(db=1), threading.Event()
    holder = DAG("holder", limits=limits).add_node("hold", lambda: wait_for(release), uses="db")
    dag = DAG("waits", limits=limits).add_node("n", lambda: None, uses="db")
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(holder.run)
        while free(limits)["db"]:
            sleep(0.001)
        for options in ({}, {"mode": "parallel"}, {"mode": "async"}):
            assert dag.execute(timeout=0.05, **options).status == "timed_out"
        release.set()
        future.result(LONG)


def test_waiting_ends_when_the_run_is_cancelled() -> None:
    limits = Limits(db=1)

    async def main() -> None:
        holds, release = asyncio.Event(), asyncio.Event()
        holder, dag = DAG("holder", limits=limits), DAG("waits", limits=limits)

        @holder.node(uses="db")
        async def hold() -> None:
            holds.set()
            await release.wait()

        @dag.node(uses="db")
        async def waits() -> None: ...

        held = asyncio.create_task(holder.run_async())
        await holds.wait()
        task = asyncio.create_task(dag.run_async())
        while not limits._units["db"].line:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not limits._units["db"].line
        held.cancel()
        with pytest.raises(asyncio.CancelledError):
            await held

    asyncio.run(main())
    assert free(limits) == {"db": 1}


def test_failure_of_another_node_ends_waiting() -> None:
    limits, release = Limits(db=1), threading.Event()
    holder = DAG("holder", limits=limits).add_node("hold", lambda: wait_for(release), uses="db")
    dag = DAG("waits", limits=limits).add_node("n", lambda: None, uses="db")

    @dag.node
    def fails() -> None:
        while not limits._units["db"].line:
            sleep(0.001)
        raise ValueError

    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(holder.run)
        while free(limits)["db"]:
            sleep(0.001)
        assert dag.execute(mode="parallel", max_workers=2).status == "failed"
        release.set()
        future.result(LONG)


def test_abandoned_thread_keeps_its_units_until_it_returns(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits, begun, release = Limits(db=1), threading.Event(), threading.Event()

    def late() -> None:
        begun.set()
        release.wait(6 * LONG)

    with caplog.at_level(logging.WARNING, "fast_dag"):
        for timeout in timeouts(0.05):
            dag = DAG("late", limits=limits).add_node("late", late, uses="db", timeout=timeout)
            assert dag.execute().status == "failed"
            if begun.is_set():
                break
    assert free(limits) == {"db": 0}
    assert any("keeps 'db'" in record.getMessage() for record in caplog.records)
    release.set()


@pytest.mark.needs("cloudpickle")
def test_killed_process_gives_units_back() -> None:
    limits = Limits(db=1)
    dag = DAG("late", limits=limits)
    dag.add_node("late", sleep, inputs=["seconds"], uses="db", timeout=0.2, run_in="process")
    assert dag.execute(seconds=600).status == "failed"


def test_interpreter_that_exits_in_a_node_gives_units_back() -> None:
    limits = Limits(db=1)
    dag = DAG("exits", limits=limits)

    @dag.node(uses="db")
    def leave() -> None:
        raise SystemExit

    for options in ({}, {"mode": "parallel"}, {"mode": "async"}):
        with pytest.raises(SystemExit):
            dag.run(**options)
        assert free(limits) == {"db": 1}


def test_coroutine_that_a_sync_node_returns_holds_the_units() -> None:
    limits = Limits(db=1)
    dag = DAG("returned", limits=limits)

    async def later() -> float:
        await asyncio.sleep(0)
        return free(limits)["db"]

    dag.add_node("work", lambda: later(), uses="db")
    assert [dag.run(), dag.run(mode="parallel"), dag.run(mode="async")] == [0, 0, 0]


# Waiting in place, and inside of nodes.


def test_sequential_run_waits_in_place_for_another_run() -> None:
    limits, holds, release = Limits(db=1), threading.Event(), threading.Event()
    holder, dag = DAG("holder", limits=limits), DAG("waits", limits=limits)

    @holder.node(uses="db")
    def hold() -> None:
        holds.set()
        wait_for(release)

    dag.add_node("first", release.set, inputs=[]).add_node("second", lambda: 2, uses="db")
    dag.connect("first", "second", input=False)
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(holder.run)
        wait_for(holds)
        assert dag.run() == 2
        future.result(LONG)


def test_sequential_run_on_a_loop_fails_where_it_would_wait() -> None:
    limits = Limits(db=1)
    dag = DAG("waits", limits=limits).add_node("n", lambda: 1, uses="db")

    async def main() -> None:
        holds, release = asyncio.Event(), asyncio.Event()
        holder = DAG("holder", limits=limits)

        @holder.node(uses="db")
        async def hold() -> None:
            holds.set()
            await release.wait()

        assert dag.run() == 1
        task = asyncio.create_task(holder.run_async())
        await holds.wait()
        for options in ({}, {"timeout": 60}):
            with pytest.raises(ExecutionError) as caught:
                dag.run(**options)
            assert "await dag.run_async" in str(caught.value.__cause__)
        release.set()
        await task

    asyncio.run(main())


@pytest.mark.parametrize("mode", HERE)
def test_run_inside_of_a_node_that_could_never_get_its_units_fails(mode: str) -> None:
    limits = Limits(db=2)
    inner = DAG("inner", limits=limits).add_node("needs", lambda: 1, uses={"db": 2})
    outer = DAG("outer", limits=limits)
    outer.add_node("holds", lambda: inner.run(), uses="db")
    outer.add_node("free", lambda holds: inner.run()).connect("holds", "free")
    run = EXECUTE[mode](outer)
    assert run.status == "failed"
    told = str(run.errors["holds"])
    assert "'needs' of 'inner'" in told
    assert "'holds'" in told
    outer.replace_node("holds", lambda: 0)
    assert EXECUTE[mode](outer).status == "completed"


@pytest.mark.parametrize("mode", AT_ONCE)
def test_one_of_two_holders_whose_runs_wait_for_each_other_fails(mode: str) -> None:
    both, limits = threading.Barrier(2), Limits(db=2)
    inner = DAG("inner", limits=limits).add_node("needs", lambda: 1, uses="db")

    def holds() -> Any:
        both.wait(LONG)
        return inner.run()

    outer = DAG("outer", limits=limits)
    outer.add_node("one", holds, uses="db").add_node("other", holds, uses="db")
    run = EXECUTE[mode](outer, error_strategy="continue")
    assert sorted([*run.errors, *run.results]) == ["one", "other"]
    (error,) = run.errors.values()
    assert "'needs' would wait for 'db' for ever" in str(error)
    assert "'one', 'other'" in str(error)
    assert free(limits) == {"db": 2}


@pytest.mark.parametrize("mode", HERE)
def test_run_inside_of_a_holder_goes_before_who_may_wait_for_that(mode: str) -> None:
    limits = Limits(db=2)
    inner = DAG("inner", limits=limits).add_node("needs", lambda: 1, uses="db")
    large = DAG("large", limits=limits).add_node("all", lambda: 2, uses={"db": 2}, priority=9)
    with ThreadPoolExecutor(1) as threads:

        def holds() -> tuple[Any, Any]:
            waiting = threads.submit(large.run)
            wait_until(lambda: limits._units["db"].line)
            return inner.run(), waiting

        outer = DAG("outer", limits=limits).add_node("holds", holds, uses="db")
        value, waiting = EXECUTE[mode](outer).value
        assert (value, waiting.result(LONG)) == (1, 2)


# Definitions.


def test_unknown_name_is_an_error_before_anything_runs() -> None:
    ran: list[int] = []
    dag = DAG("etl", limits=Limits(database=1)).add_node("first", lambda: ran.append(1))
    dag.add_node("second", lambda: None, uses="databse")
    with pytest.raises(ValidationError, match=r"'second' of 'etl' uses 'databse'.*'database'"):
        dag.run()
    assert not ran
    nested = DAG("outer").add_node("first", lambda: ran.append(1)).add_node("sub", dag)
    with pytest.raises(ValidationError, match="databse"):
        nested.run()
    assert not ran


@pytest.mark.parametrize("limit", [2, Rate(10, burst=2)])
def test_more_than_there_is_is_an_error_before_anything_runs(limit: Any) -> None:
    dag = DAG("etl").add_node("load", lambda: None, uses={"db": 3})
    with pytest.raises(ValidationError, match=r"uses 3 of 'db', which has .*2"):
        dag.run(limits=Limits(db=limit))


def test_limits_of_the_run_come_before_those_of_the_workflow() -> None:
    own, asked, seen = Limits(db=1), Limits(db=1), []
    dag = DAG("etl", limits=own)
    dag.add_node("load", lambda: seen.append((free(own)["db"], free(asked)["db"])), uses="db")
    dag.run()
    dag.run(limits=asked)
    dag.run()
    assert seen == [(0, 1), (1, 0), (0, 1)]


def test_workflow_as_a_node_takes_no_uses() -> None:
    inner = DAG("inner").add_node("n", lambda: 1)
    with pytest.raises(InvalidNodeError, match="put it on the nodes inside"):
        DAG("outer").add_node("sub", inner, uses="db")


@pytest.mark.parametrize("uses", ["", [], {}, {"db": 0}, {"db": True}, {1: 1}, 3])
def test_uses_is_a_name_or_counts(uses: Any) -> None:
    with pytest.raises(InvalidNodeError, match="uses is the name of a limit"):
        DAG("d").add_node("n", lambda: 1, uses=uses)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "4", None])
def test_limit_is_a_count_or_a_rate(value: Any) -> None:
    with pytest.raises(ValidationError, match="'db' is a count of at least 1 or a Rate"):
        Limits(db=value)


def test_rate_says_what_is_wrong() -> None:
    with pytest.raises(ValidationError, match="count of a Rate"):
        Rate(0)
    with pytest.raises(ValidationError, match="per="):
        Rate(1, per=0)
    with pytest.raises(ValidationError, match="burst="):
        Rate(1, burst=0)
    with pytest.raises(ValidationError, match=r"limits is a fast_dag\.Limits"):
        DAG("d", limits={"db": 1})  # type: ignore[arg-type]


def test_clone_shares_limits_and_copies_have_their_own() -> None:
    limits = Limits(db=4, api=Rate(10, per=60, burst=5))
    dag = DAG("etl", limits=limits).add_node("n", abs, inputs=["x"], uses="db", priority=3)
    assert dag.clone().limits is limits
    for copied in (
        pickle.loads(pickle.dumps(dag)),
        copy.deepcopy(dag),
        DAG.from_json(dag.to_json(), allow=["builtins"]),
    ):
        own = copied.limits
        assert own is not None
        assert own is not limits
        assert repr(own) == repr(limits)
        assert copied.nodes["n"].uses == {"db": 1}
        assert copied.nodes["n"].priority == 3
        assert copied.run(x=-1) == 1


def test_machine_keeps_limits_in_clones_and_files() -> None:
    limits = Limits(db=4)
    fsm = FSM("m", limits=limits).add_state("a", abs, inputs=["x"], initial=True, terminal=True)
    assert fsm.clone().limits is limits
    assert repr(FSM.from_dict(fsm.to_dict(), allow=["builtins"]).limits) == "Limits(db=4)"


@pytest.mark.parametrize(
    ("limits", "place"),
    [
        ({"db": 0}, "limits"),
        ({"db": "x"}, "limits"),
        ({"api": {"per": 1}}, "limits.api"),
        ({"api": {"count": 1, "many": 2}}, "limits.api.many"),
    ],
)
def test_file_says_where_a_limit_is_wrong(limits: Any, place: str) -> None:
    data = {"fast_dag": 1, "kind": "dag", "name": "d", "limits": limits, "nodes": []}
    with pytest.raises(ValidationError, match=place):
        DAG.from_dict(data)


def test_limits_that_nobody_has_any_more_are_freed() -> None:
    dag = DAG("d", limits=Limits(gone=1)).add_node("n", lambda: 1, uses="gone")
    dag.run()
    del dag
    gc.collect()
    assert not [each for each in module._known if "gone" in each._units]


def test_many_that_wait_do_not_change_places_while_no_slot_is_free() -> None:
    limits, calls = Limits(db=1), []
    dag = DAG("mixed", limits=limits)
    for number in range(150):
        dag.add_node(f"db{number}", lambda: sleep(0.0001), uses="db")
        dag.add_node(f"other{number}", lambda: sleep(0.0001))
    given = module.Claim.take

    def take(claim: module.Claim, *args: Any) -> bool:
        calls.append(claim)
        return given(claim, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.Claim, "take", take)
        assert dag.execute(mode="parallel", max_workers=3).status == "completed"
    assert len(calls) < 150 * 12


@pytest.mark.parametrize("mode", HERE)
@pytest.mark.parametrize("is_async", [False, True])
def test_units_are_taken_inside_of_a_hook_that_surrounds_the_call(
    mode: str, is_async: bool
) -> None:
    limits, seen = Limits(db=1), []
    dag = DAG("around", limits=limits)
    dag.add_node("work", lambda: seen.append(free(limits)["db"]), uses="db")

    def around(node: Any, inputs: Any, context: Any, call: Any) -> Any:
        seen.append(free(limits)["db"])
        return call()

    async def around_async(node: Any, inputs: Any, context: Any, call: Any) -> Any:
        seen.append(free(limits)["db"])
        return await call()

    dag.set_node_hooks("work", around=around_async if is_async else around)
    assert EXECUTE[mode](dag).status == "completed"
    assert seen == [1, 0]
