"""Random workflows on a loop that are cut off at random points, once and again and again.

Each case builds a graph or a machine from a seed: sync and async nodes, retries, hooks, resources,
nested workflows. It runs it under asyncio or anyio, cancels it when its ledger has so many entries,
and then reads in the ledger what happened: what was opened was closed, once, the last opened first;
each node that started was cleaned up after, once; the cancellation came out; nothing is left.

A failure names its seed. `SOAK_SEED=17` runs that one only, `SOAK_ROUNDS=1000` that many.
"""

from __future__ import annotations

import asyncio
import builtins
import itertools
import os
import random
import sys
import threading
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import DAG, FSM, ExecutionError, FSMReturn, TimeoutError
from tests.leaks import timers
from tests.patience import LONG

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator

anyio = pytest.importorskip("anyio")

pytestmark = [pytest.mark.stress, pytest.mark.timeout(120)]

SEEDS = (
    [int(os.environ["SOAK_SEED"])]
    if "SOAK_SEED" in os.environ
    else list(range(int(os.environ.get("SOAK_ROUNDS", "40"))))
)
FOR_EVER = 30.0
"""Seconds between attempts of nodes that are to be cut off while they wait."""

opened_in: ContextVar[str] = ContextVar("opened_in")


class Boom(Exception):  # noqa: N818  it is short in the ledgers
    """What nodes fail with."""


class Ledger:
    """What happened, in order: pairs of what and to whom."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        self._serial = itertools.count()
        self._due: int | None = None
        self._strike: Callable[[], object] = lambda: None

    def note(self, what: str, whom: str) -> None:
        with self._lock:
            self.entries.append((what, whom))
            is_due = len(self.entries) == self._due
        if is_due:
            self._strike()

    def unique(self, name: str) -> str:
        return f"{name}#{next(self._serial)}"

    def at(self, count: int, strike: Callable[[], object]) -> None:
        """Call `strike`, in whatever thread, as soon as there are so many entries."""
        self._due, self._strike = count, strike

    def all(self, what: str) -> list[str]:
        return [whom for kind, whom in self.entries if kind == what]

    def when(self, what: str, whom: str) -> list[int]:
        return [place for place, entry in enumerate(self.entries) if entry == (what, whom)]


class Builder:
    """Makes the parts of one case; all that is random is decided here, not while they run."""

    def __init__(self, seed: int, *, is_cut_off: bool) -> None:
        self.rng = random.Random(seed)
        self.ledger = Ledger()
        self.is_cut_off = is_cut_off
        self.may_fail = self.rng.random() < 0.3
        self.names = itertools.count()

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    # Waits.

    def pause(self) -> Callable[[], Awaitable[None]]:
        """A wait of an async function: for a few turns of the loop, or for a short time."""
        turns, seconds = self.rng.choice([(0, 0.0), (1, 0.0), (3, 0.0), (1, 0.001), (1, 0.004)])

        async def wait() -> None:
            for _ in range(turns):
                await asyncio.sleep(seconds)

        return wait

    def nap(self) -> Callable[[], None]:
        """A wait of a sync function."""
        seconds = self.rng.choice([0.0, 0.0, 0.001, 0.003])
        return lambda: time.sleep(seconds)

    # Resources.

    def resource(self, workflow: str, name: str) -> Any:
        """The factory of a resource, of any kind that there is."""
        note, unique, whole = self.ledger.note, self.ledger.unique, f"{workflow}/{name}"
        nap_before, nap_after = self.nap(), self.nap()
        before, after, last = self.pause(), self.pause(), self.pause()

        def opening() -> str:
            key = unique(whole)
            note("opening", key)
            return key

        def generator() -> Iterator[str]:
            key = opening()
            nap_before()
            token = opened_in.set(key)
            note("opened", key)
            yield key
            note("closing", key)
            nap_after()
            opened_in.reset(token)
            note("closed", key)

        async def async_generator() -> AsyncIterator[str]:
            key = opening()
            await before()
            token = opened_in.set(key)
            note("opened", key)
            yield key
            note("closing", key)
            await after()
            await last()
            opened_in.reset(token)
            note("closed", key)

        @asynccontextmanager
        async def group() -> AsyncIterator[str]:
            key = opening()
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(anyio.sleep_forever)
                    await before()
                    note("opened", key)
                    try:
                        yield key
                    finally:
                        note("closing", key)
                        await after()
                        tasks.cancel_scope.cancel()
            finally:  # it is told of the failure that ended the run
                note("closed", key)

        class Manager:
            def __enter__(self) -> str:
                self.key = opening()
                nap_before()
                note("opened", self.key)
                return self.key

            def __exit__(self, *failure: object) -> None:
                note("closing", self.key)
                nap_after()
                note("closed", self.key)

        class AsyncManager:
            async def __aenter__(self) -> str:
                self.key = opening()
                await before()
                note("opened", self.key)
                return self.key

            async def __aexit__(self, *failure: object) -> None:
                note("closing", self.key)
                await after()
                await last()
                note("closed", self.key)

        return self.rng.choice([generator, async_generator, group, Manager, AsyncManager])

    # Functions.

    def function(self, name: str, resources: tuple[str, ...], end: Callable[[], Any]) -> Any:
        """The function of a node that takes these resources; it returns what `end` does."""
        note = self.ledger.note
        nap, before, unwinding = self.nap(), self.pause(), self.pause()
        failures = itertools.repeat(True, self.rng.choice([0, 0, 0, 1, 2]))
        fails = self.may_fail and self.chance(0.1)

        def begin(keys: tuple[str, ...]) -> None:
            note("called", name)
            for key in keys:
                note("used", key)

        def finish() -> Any:
            if fails or next(failures, False):
                raise Boom(name)
            return end()

        def sync(*keys: str) -> Any:
            begin(keys)
            nap()
            return finish()

        async def asynchronous(*keys: str) -> Any:
            begin(keys)
            note("entered", name)
            try:
                await before()
                return finish()
            finally:
                try:
                    await unwinding()
                finally:
                    note("left", name)

        return taking(resources, sync if self.chance(0.3) else asynchronous)

    def options(self) -> dict[str, Any]:
        """Of a node: enough attempts for all failures but those for good."""
        options: dict[str, Any] = {"retry": 2, "retry_backoff": 1.0}
        options["retry_delay"] = self.rng.choice([0, 0, 0.001, 0.003])
        if self.is_cut_off and self.chance(0.1):
            options["retry_delay"] = FOR_EVER
        if self.chance(0.2):
            options["timeout"] = FOR_EVER
        return options

    def hooks(self, name: str) -> dict[str, Any]:
        """Of a node: `pre_execute` and `cleanup`, sync or async, and others at times."""
        note = self.ledger.note

        def hook(begun: str, ended: str) -> Any:
            nap, pause = self.nap(), self.pause()

            def sync() -> None:
                note(begun, name)
                nap()
                note(ended, name)

            async def asynchronous() -> None:
                note(begun, name)
                await pause()
                note(ended, name)

            return sync if self.chance(0.3) else asynchronous

        hooks = {"pre_execute": hook("started", "prepared"), "cleanup": hook("cleaning", "cleaned")}
        for phase in ("post_execute", "on_error", "on_retry"):
            if self.chance(0.2):
                hooks[phase] = hook(phase, f"{phase} ended")
        return hooks

    # Workflows.

    def dag(self, depth: int = 0) -> DAG:
        """A graph of some nodes, up to two levels of nested workflows among them."""
        dag = DAG(f"dag{next(self.names)}")
        resources = self.resources(dag)
        for index in range(self.rng.randint(2, 8)):
            name = f"n{index}"
            if depth < 2 and self.chance(0.15):
                dag.add_node(name, self.workflow(depth + 1))
            else:
                self.add(dag.add_node, dag, name, resources, lambda: None)
            for source in range(index):
                if self.chance(0.3):
                    dag.connect(f"n{source}", name, input=False)
        return dag

    def machine(self, depth: int = 0) -> FSM:
        """A machine that visits its states in a random order."""
        names = ["s0", "s1", "s2"]
        way = iter([*self.rng.choices(names, k=self.rng.randint(1, 8)), "end"])
        fsm = FSM(f"fsm{next(self.names)}", initial_state="s0", terminal_states=["end"])
        resources = self.resources(fsm)
        for name in names:
            self.add(fsm.add_state, fsm, name, resources, lambda: FSMReturn(next(way), None))
        self.add(fsm.add_state, fsm, "end", resources, lambda: None)
        return fsm

    def workflow(self, depth: int = 0) -> Any:
        return self.rng.choice([self.dag, self.machine])(depth)

    def resources(self, workflow: Any) -> tuple[str, ...]:
        names = self.rng.choice([(), ("db",), ("net",), ("db", "net")])
        for name in names:
            workflow.resource(name, self.resource(workflow.name, name))
        return names

    def add(self, add: Any, workflow: Any, name: str, resources: tuple[str, ...], end: Any) -> None:
        taken = tuple(each for each in resources if self.chance(0.5))
        whole = f"{workflow.name}.{name}"
        add(name, self.function(whole, taken, end), **self.options())
        if self.chance(0.7):
            workflow.set_node_hooks(name, **self.hooks(whole))


def taking(names: tuple[str, ...], call: Any) -> Any:
    """A function with parameters of these names, sync or async as `call` is."""
    if asyncio.iscoroutinefunction(call):

        async def neither() -> Any:
            return await call()

        async def first(db: str) -> Any:
            return await call(db)

        async def second(net: str) -> Any:
            return await call(net)

        async def both(db: str, net: str) -> Any:
            return await call(db, net)

        functions: dict[tuple[str, ...], Any]
        functions = {(): neither, ("db",): first, ("net",): second, ("db", "net"): both}
        return functions[names]
    return {
        (): lambda: call(),
        ("db",): lambda db: call(db),
        ("net",): lambda net: call(net),
        ("db", "net"): lambda db, net: call(db, net),
    }[names]


# Ways to be cut off.


class Case:
    """One run that is to be cut off at a random point."""

    def __init__(self, builder: Builder, run: Callable[[], Awaitable[Any]]) -> None:
        self._run = run
        self.ledger = builder.ledger
        self.rng = builder.rng
        self.problems: list[str] = []
        self.end: BaseException | None = None
        self.returned = 0
        """How many entries the ledger had when the run had ended."""
        self.was_struck = False
        self._spare: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Await the run and note how it ends."""
        try:
            await self._run()
        except BaseException as error:
            self.end = error
            raise
        finally:
            self.returned = len(self.ledger.entries)
            if self._spare is not None:
                self._spare.cancel()

    async def run_and_ignore_failures(self) -> None:
        with suppress(ExecutionError):
            await self.run()

    def soon(self, strike: Callable[[], object]) -> None:
        """Call `strike` on this loop once the ledger has a random number of entries, or a little
        later where it never has."""
        loop = asyncio.get_running_loop()

        def once() -> None:
            if not self.was_struck:
                self.was_struck = True
                strike()

        self.ledger.at(self.rng.randint(1, 60), lambda: loop.call_soon_threadsafe(once))
        self._spare = loop.call_later(0.05, once)

    def moment(self) -> float:
        return self.rng.uniform(0, 0.03)


async def not_at_all(case: Case) -> None:
    await case.run_and_ignore_failures()


async def _by_cancel(case: Case, times: int, pause: float | None) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(case.run_and_ignore_failures())
    struck: list[bool] = []

    def strike() -> None:
        if task.done():
            return
        struck.append(task.cancel())
        if len(struck) < times:
            next_one = loop.call_soon if pause is None else partial(loop.call_later, pause)
            handles.append(next_one(strike))

    handles: list[asyncio.Handle] = []
    case.soon(strike)
    await asyncio.wait([task])
    for handle in handles:
        handle.cancel()
    if struck and not task.cancelled():
        case.problems.append(f"a cancellation was lost: the run ended with {case.end!r}")


async def cancel_once(case: Case) -> None:
    await _by_cancel(case, 1, None)


async def cancel_again(case: Case) -> None:
    await _by_cancel(case, 3, case.moment() / 10)


async def cancel_always(case: Case) -> None:
    """At every turn of the loop, until it is done."""
    await _by_cancel(case, sys.maxsize, None)


async def timeout_of_asyncio(case: Case) -> None:
    with suppress(builtins.TimeoutError):
        async with asyncio.timeout(case.moment()):
            await case.run_and_ignore_failures()
    no_cancellation_counts(case)


async def anyio_scope(case: Case) -> None:
    """A scope of anyio cancels at every await."""
    with anyio.CancelScope() as scope:
        case.soon(scope.cancel)
        await case.run_and_ignore_failures()
    no_cancellation_counts(case)


async def anyio_group(case: Case) -> None:
    """As Starlette cancels a response whose client disconnects."""
    async with anyio.create_task_group() as tasks:

        async def respond() -> None:
            await case.run_and_ignore_failures()
            tasks.cancel_scope.cancel()

        async def listen() -> None:
            is_gone = asyncio.Event()
            case.soon(is_gone.set)
            await is_gone.wait()
            tasks.cancel_scope.cancel()

        tasks.start_soon(respond)
        await listen()
    no_cancellation_counts(case)


async def anyio_move_on(case: Case) -> None:
    with anyio.move_on_after(case.moment()):
        await case.run_and_ignore_failures()
    no_cancellation_counts(case)


def no_cancellation_counts(case: Case) -> None:
    """What was cancelled and has come out of it is no longer being cancelled."""
    task = asyncio.current_task()
    assert task is not None
    if task.cancelling():
        case.problems.append(f"{task.cancelling()} cancellations were not taken back")


WAYS = {
    way.__name__: way
    for way in (
        not_at_all,
        cancel_once,
        cancel_again,
        cancel_always,
        timeout_of_asyncio,
        anyio_scope,
        anyio_group,
        anyio_move_on,
    )
}


# What must hold.


def problems_of_the_end(case: Case, has_timeout: bool) -> Iterator[str]:
    """Whether the run ended with what it may end with."""
    end = case.end
    if isinstance(end, TimeoutError):
        if not has_timeout:
            yield f"the run timed out: {end!r}"
    elif isinstance(end, ExecutionError):
        cause: BaseException = end
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if not isinstance(cause, Boom):
            yield f"the run failed with {end!r}, caused by {cause!r}"
    elif end is not None and not isinstance(end, asyncio.CancelledError):
        yield f"the run ended with {end!r}"
    for note in getattr(end, "__notes__", ()):
        if "close" in note:
            yield note


def problems_of_nodes(case: Case) -> Iterator[str]:
    """Each async call has ended, and each node that started was cleaned up after, once."""
    at_return = case.ledger.entries[: case.returned]
    count = {
        what: Counter(whom for kind, whom in at_return if kind == what) for what, _ in at_return
    }
    none: Counter[str] = Counter()
    for name in count.get("entered", none) - count.get("left", none):
        yield f"{name} was still running when the run had ended"
    cleaning, cleaned = count.get("cleaning", none), count.get("cleaned", none)
    for name in cleaning - cleaned:
        yield f"the cleanup of {name} was begun but not completed"
    started = count.get("started", none)
    for name, times in started.items():
        # A machine may be cut off as it comes to a state again, before that starts.
        allowed = {times, times + 1} if name.startswith("fsm") else {times}
        if cleaning[name] not in allowed:
            yield f"{name} started {times} times and was cleaned up after {cleaning[name]} times"
    for name, times in (cleaning - started).items():
        if times > 1:
            yield f"{name} was cleaned up after {times} times too many"


def problems_of_resources(ledger: Ledger, until: int | None = None) -> Iterator[str]:
    """What was opened and used was closed once, in its turn, the last opened first."""
    entries = ledger.entries[:until]
    opened = [whom for what, whom in entries if what == "opened"]
    place = {entry: at for at, entry in reversed(list(enumerate(entries)))}
    times = Counter(entries)
    if until is not None:  # an opening that was given up may end after the run: see `settled`
        opened = [key for key in opened if ("used", key) in place]
    for key in opened:
        if times["closing", key] != 1:
            yield f"{key} was opened and {times['closing', key]} times begun to be closed"
        elif times["closed", key] != 1:
            yield f"the closing of {key} was not completed"
    whole = [key for key in opened if ("closed", key) in place]
    for one, other in itertools.permutations(whole, 2):
        if one.partition("/")[0] != other.partition("/")[0]:
            continue
        begun, ended = place["closing", one], place["closed", one]
        if place["opened", other] > begun:
            continue  # its opening was given up, so that nobody waited for it
        if begun < place["closing", other] < ended:
            yield f"{other} was closed while {one} was being closed"
        if place.get(("used", one), len(entries)) < place["opening", other] and (
            begun < place["closing", other]
        ):
            yield f"{one} was opened before {other} and closed before it"


async def soaked(
    case: Case, way: Callable[[Case], Coroutine[Any, Any, None]], has_timeout: bool
) -> None:
    """Run a case; its problems are noted in it."""
    loop, told = asyncio.get_running_loop(), case.problems
    loop.set_exception_handler(lambda loop, context: told.append(f"told the loop: {context}"))
    task = asyncio.create_task(way(case))
    done, _ = await asyncio.wait([task], timeout=LONG)
    if not done:
        raise Hangs
    if task.exception() is not None:
        told.append(f"out of the run came {task.exception()!r}")
    told += problems_of_the_end(case, has_timeout)
    told += problems_of_nodes(case)
    told += problems_of_resources(case.ledger, case.returned)
    if left := asyncio.all_tasks() - {asyncio.current_task()}:
        told.append(f"left tasks: {left}")
    if handles := timers(loop):
        told.append(f"left timers: {handles}")
    if not told:
        await settled(case)


async def settled(case: Case) -> None:
    """Wait for what was being opened in a thread, and given up, to be closed as well."""
    end = time.monotonic() + LONG
    while found := list(problems_of_resources(case.ledger)):
        if time.monotonic() > end:
            case.problems += found
            return
        await asyncio.sleep(0.002)


class Hangs(BaseException):
    """Raised where a run does not end; nothing after that can be relied on."""


@pytest.mark.parametrize("seed_of", ["dag", "machine"])
@pytest.mark.parametrize("way", list(WAYS))
def test_whatever_cuts_a_run_off_all_that_began_is_brought_to_its_end(
    way: str, seed_of: str
) -> None:
    for seed in SEEDS:
        builder = Builder(seed, is_cut_off=way != "not_at_all")
        workflow = getattr(builder, seed_of)()
        options: dict[str, Any] = {"error_strategy": builder.rng.choice(["fail_fast", "continue"])}
        if has_timeout := builder.chance(0.2):
            options["timeout"] = builder.rng.uniform(0.001, 0.03)
        case = Case(builder, partial(workflow.run_async, **options))
        main = partial(soaked, case, WAYS[way], has_timeout)
        try:
            anyio.run(main) if way.startswith("anyio") else asyncio.run(main())
        except Hangs:
            case.problems.append("the run does not end")
        if case.problems:
            happened = "\n".join(f"    {what:12} {whom}" for what, whom in case.ledger.entries)
            problems = "\n".join(case.problems)
            pytest.fail(f"SOAK_SEED={seed}, options {options}\n{problems}\n{happened}")
