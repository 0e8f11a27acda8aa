"""The execution of a map: items that are pulled as there are places for them, and their results."""

from __future__ import annotations

from array import array
from collections import deque
from contextlib import suppress
from copy import copy
from itertools import islice, repeat
from threading import Condition, get_ident
from time import perf_counter
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final

from fast_dag.call.effects import LOOKED_AT, ONE_SHOT, STOPPED, Invoke, Outcome, Raised
from fast_dag.define.signature import ABSENT
from fast_dag.errors import ExecutionError, failures
from fast_dag.plan.map_plan import INTO, PULL, batch_index, number_of, rest_index
from fast_dag.returns import ItemError
from fast_dag.run.execution import Execution, Verdict
from fast_dag.run.failures import cut_traceback, shared
from fast_dag.run.items import MOST_ERRORS, Failed, Items, Walk
from fast_dag.run.record import Record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence

    from fast_dag.call.effects import Attempt, Effects
    from fast_dag.define.graph import Graph
    from fast_dag.plan.line import Line
    from fast_dag.plan.map_plan import MapPlan
    from fast_dag.plan.step import Step

    Given = tuple[Any, tuple[Any, ...]]

AT_ONCE: Final = 1e-3
"""Seconds that a batch of items takes in a thread."""

AT_ONCE_ASYNC: Final = 1e-2
"""Seconds after which a task on a loop takes no further item."""

_TINY: Final = 2e-6
_TOGETHER: Final = 256
"""Items that take less than `_TINY` seconds are timed together, at most so many, because reading
the clock takes as long as their calls."""

_MOST: Final = 1 << 16
"""Items that a batch has at most."""

_TOLD_EVERY: Final = 0.1
"""Seconds between two events of progress."""

_DROPPED: Final = object()
"""Stands in the place of an item that is left out."""


_NO_KEYWORDS: Final[dict[str, Any]] = {}

_FAILED: Final = object()
"""Stands for the result of an item that failed, in a batch."""


_NOBODY: Final = -4
"""The number of an item whose run is only looked at."""


class Batch:
    """What became of the items of a batch: results and seconds of runs of items, those that failed,
    and the numbers of those for which a sync function returned a coroutine."""

    __slots__ = ("failed", "is_over", "parts", "rests")

    def __init__(self) -> None:
        self.parts: list[tuple[Sequence[int], list[Any], array[float]]] = []
        self.failed: list[tuple[int, BaseException]] = []
        self.rests: set[int] = set()
        self.is_over = False


class _Unscheduled:
    """The schedule of items, which depend on nothing."""

    skipped: tuple[int, ...] = ()
    status: tuple[str, ...] = ()

    def start(self, item: int) -> None:
        """Nothing: items have no status."""

    def take_back(self, item: int) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class _Ways:
    """Items go first in their order; all together stand in line where the node of the map does."""

    def __init__(self, way: float) -> None:
        self.to_end = self.after = self
        self._way = way

    def __getitem__(self, item: int) -> float:
        return self._way


class MapExecution(Execution):
    """One execution of a map, which is a node of `parent`. Its nodes are the items, by number.

    The driver sets `places`, how many items may be in progress at once, `is_here`, whether they are
    called in this process, and `call_soon`, which asks `more` again as soon as it can: called by the
    threads of `into` and of what pulls.

    Plain items are called in batches: a batch goes on with items as long as they take `AT_ONCE`
    seconds together.

    `known` has results of an earlier run by key: these items are not called.
    """

    noun = "item"
    is_map = True
    is_here = True
    places = 1
    plan: MapPlan  # type: ignore[assignment]  # it has what executions ask of plans

    def __init__(
        self,
        parent: Execution,
        index: int,
        plan: MapPlan,
        attempt: Attempt,
        known: Mapping[Any, Any],
    ) -> None:
        record = Record(plan)  # type: ignore[arg-type]  # asks for names only
        record.schedule = _Unscheduled()  # type: ignore[assignment]
        super().__init__(
            None,  # type: ignore[arg-type]  # it is no workflow that somebody could look for
            plan,  # type: ignore[arg-type]
            {},
            parent.context,
            _inside(parent.settings),
            record,
            parent=parent,
            prefix=f"{parent.prefix}{plan.name}",
        )
        self.index = index
        self.spec = plan.spec
        self.resources = parent.resources
        self.claim = parent.claim
        self._watchers, self.observers = self.observers, None
        self._args, self._kwargs = attempt
        self.tally = Items(parent.prefix + plan.name, None)
        self.call_soon: Callable[[], None] = _nothing
        self.result: list[Any] | dict[Any, Any] = []
        self._known = {} if self.spec.into is not None else known
        self._walk: Any = None
        self._pulled: deque[int] = deque()  # the items that wait for a place
        self._given: dict[int, Given] = {}  # these, and the items in progress
        self._batches = 0  # how many were begun
        self._running = 0  # calls in progress, of items or batches
        self._size = 1  # how many items take as long as a batch should
        self._rests: dict[int, Any] = {}  # coroutines that sync functions returned, by item
        self.call: Callable[..., Any] = plan.item.call
        self.is_sole = plan.is_sole
        self._line: Line | None = None  # the calls of the workflow, if they are all that is to it
        self._values: dict[int, list[Any]] = {}  # by thread: what these calls have returned so far
        self._inner: dict[int, Execution] = {}  # of these, the workflows
        self._pulling = False
        self._is_exhausted = False
        self._is_satisfied = False  # `into` has returned
        self._error: Exception | None = None
        self._told_at = 0.0
        self._ready: dict[int, Any] = {}  # results that `into` has not taken, by number
        self._in_turn: deque[int] = deque()  # the numbers of these, as they came
        self._taken = 0
        self._changed = Condition()
        self._waits: Any = None  # the loop and the event of an async `into` that waits

    # Begin and end.

    def open(self) -> None:
        """Look at the collections. Raises TypeError or ValueError if they cannot be mapped over."""
        plan = self.plan
        args = list(self._args)
        values: list[Any] = [None] * len(self.spec.walked)
        for order, position in zip(plan.order, plan.positions, strict=False):
            values[order] = args[position]
            args[position] = None
        kwargs = dict(self._kwargs)
        for order, name in zip(plan.order[len(plan.positions) :], plan.keywords, strict=True):
            values[order] = kwargs.pop(name)
        self._args, self._kwargs = args, kwargs
        for value in (*args, *kwargs.values()):
            if ONE_SHOT[type(value)]:
                raise TypeError(
                    f"map {plan.name!r} would give a {type(value).__name__} to each item, which "
                    "can be gone through once only; make it a list"
                )
        self._walk = Walk(plan, values)
        if self._known and not self._walk.has_lasting_keys:
            self._known = {}
        line = plan.line
        if line is not None and not (line.is_chain or self.settings.ordered):
            line = None  # its nodes may run side by side
        self.is_batched = (
            (plan.item.plain is not None or line is not None)
            and self.store is None
            and not self._known
            and self.is_here
        )
        if line is not None and self.is_batched:
            self._line = line
            self.call = self._line_call
            self._slots = [line.inputs.index(name) for name in plan.keywords]
            self._before = [kwargs.get(name) for name in line.inputs] + line.constants
            self.is_sole = len(self._slots) == 1
        self.tally.total = self._walk.total
        if self._walk.is_keyed:
            self.result = {}
        self.record.begin()

    def begin(self, *, eager: bool) -> list[int]:
        ready = [INTO] if self.spec.into is not None else []
        return ready + self.more()

    def close(self, status: str | None = None) -> None:
        self.record.ended = perf_counter()
        items, parent = self.tally, self.parent
        assert parent is not None
        self.status = status or ("completed" if self._error is None else "failed")
        items.retries = self.record.retries
        if self._error is None and status is None:
            self.value = self._value()
        else:
            result = self.result
            pairs = result.items() if isinstance(result, dict) else enumerate(result)
            items._results = {
                key: each
                for key, each in pairs
                if each is not _DROPPED and type(each) is not ItemError
            }
        parent.record.retries += self.record.retries
        parent.record.cache_hits += self.record.cache_hits
        parent.record.cache_misses += self.record.cache_misses
        parent.cut_off += self.cut_off
        self._args, self._kwargs = (), {}
        self.result = []
        self._walk.let_go()
        self._given.clear()
        self._inner.clear()
        with self._changed:
            self._ready.clear()
            rests, self._rests = self._rests, {}
        for coroutine in rests.values():
            coroutine.close()
        self._notify()
        self.call_soon = _nothing
        self.outer = self.parent = None

    def _value(self) -> Any:
        if self.spec.into is not None:
            return self.value
        result = self.result
        self.tally._left_out = ()
        if not self.tally.dropped:
            return result
        if isinstance(result, dict):
            return {key: each for key, each in result.items() if each is not _DROPPED}
        self.tally._left_out = array(
            "q", [position for position, each in enumerate(result) if each is _DROPPED]
        )
        return [each for each in result if each is not _DROPPED]

    def _final_value(self) -> Any:
        return self.value

    def exception(self) -> Any:
        return self._error

    @property
    def cut_short(self) -> bool:
        parent = self.parent
        return (parent is not None and parent.stopped) or (
            self._stopped and self._error is None and not self._is_satisfied
        )

    @property
    def watched(self) -> bool:
        """True: each item that ends is counted."""
        return True

    def stop(self) -> None:
        super().stop()
        self._notify()

    @property
    def stopped(self) -> bool:
        return self._stopped or (self.parent is not None and self.parent.stopped)

    def release(self, status: str | None = None) -> Effects | None:
        walk = self._walk
        if walk is None or not walk.needs_close or (self._pulling and not walk.is_async):
            return None  # a generator that still runs, in an abandoned thread, cannot be closed
        self._walk = _Closed(walk)
        return self._closing(walk)

    def _closing(self, walk: Walk) -> Effects:
        if walk.is_async:
            answer = yield Invoke(walk.aclose, (), True, cleans_up=True)
        else:
            answer = yield Invoke(walk.close, (), False, cleans_up=True, role="pull")
        if isinstance(answer, Raised):
            self._is_satisfied = False
            self._source_failed(answer.error, "source, as it was closed")
        return STOPPED

    # What may start.

    def more(self) -> list[int]:
        """What may start now: items, batches of items, or the call that pulls more. Must be called
        under the lock of a run that has several threads."""
        ready: list[int] = []
        quick = self._walk.is_quick
        while self._running < self.places and not self.stopped:
            if not self._pulled:
                if not quick or self._is_exhausted or not self._has_room:
                    break
                if self.is_batched and not self._is_left(len(ready)):
                    break
            if self.is_batched:
                ready.append(batch_index(self._batches))
                self._batches += 1
            else:
                if not self._pulled and not self._pull():
                    break
                ready.append(self._pulled.popleft())
            self._running += 1
        if not quick and not self._pulling and self._wants_items:
            self._pulling = True
            ready.append(PULL)
        return ready

    def _is_left(self, batches: int) -> bool:
        """Whether there are items for one more batch than these."""
        total = self._walk.total
        return total is None or total - self._walk.pulled > batches

    @property
    def _wants_items(self) -> bool:
        """Whether an item more may be pulled."""
        if self._is_exhausted or self.stopped or not self._has_room:
            return False
        return len(self._given) < self.places * self._size

    @property
    def _has_room(self) -> bool:
        """Whether `into` has taken so many results that there is room for more."""
        if self.spec.into is None:
            return True
        return bool(self._walk.pulled - self._taken < 2 * self.places * self._size)

    def _pull(self) -> bool:
        """Pull one item, in any thread, because that calls nobody's code. Returns False if there is
        none."""
        while not self._pulled:  # what an earlier run knows is not called
            try:
                pulled = self._walk.pull()
            except failures() as error:  # a set that was changed meanwhile, for example
                self._source_failed(error)
                return False
            if pulled is None:
                self._end_of_items()
                return False
            self._take_in(pulled)
        return True

    def _pull_items(self) -> bool:
        """Pull items as long as there is room for them. Returns whether there are no more."""
        pull = self._walk.pull
        while self._wants_items:
            pulled = pull()
            if pulled is None:
                return True
            self._take_in(pulled)
            if self._running < self.places:
                self.call_soon()
        return False

    async def _step_items(self) -> bool:
        """The same of an async source."""
        step = self._walk.step
        while self._wants_items:
            pulled = await step()
            if pulled is None:
                return True
            self._take_in(pulled)
            if self._running < self.places:
                self.call_soon()
        return False

    def _take_in(self, pulled: Given) -> None:
        """An item was pulled."""
        number, key = self._walk.pulled - 1, pulled[0]
        if self.spec.into is None:
            result = self.result
            if isinstance(result, dict):
                if key in result:
                    self._walk.place = "keys function"
                    raise ValueError(
                        f"the keys function of map {self.plan.name!r} gave {key!r} to item "
                        f"{list(result).index(key)} and to item {number}; each item needs a key of "
                        "its own"
                    )
                result[key] = _DROPPED
            else:
                result.append(_DROPPED)
            if self._known:
                value = self._known.get(key, _DROPPED)
                if value is not _DROPPED:
                    self.tally.completed += 1
                    self._keep(number, key, value)
                    return
        self._given[number] = pulled
        self._pulled.append(number)

    def _end_of_items(self) -> None:
        self._is_exhausted = True
        self.tally.total = self._walk.pulled
        self._check_success()
        self._notify()

    def gather(self, index: int) -> Attempt:
        if index >= 0:
            values = self._given[index][1]
            return ([values[0]], {}) if self.plan.is_sole else self.arguments(values)
        if index == PULL:
            return [self._step_items if self._walk.is_async else self._pull_items], {}
        if index == INTO:
            results: Any = _AsyncResults(self) if self.spec.is_into_async else _Results(self)
            return [self.spec.into, results], {}
        if index % 2:
            return [self._rests.pop, number_of(index)], {}
        return [self._await_items if self.plan.is_async else self._call_items], {}

    def arguments(self, values: tuple[Any, ...]) -> Attempt:
        """The arguments of the call for an item."""
        plan, args, kwargs = self.plan, list(self._args), self._kwargs
        order = plan.order
        at = 0
        for position in plan.positions:
            args[position] = values[order[at]]
            at += 1
        if plan.keywords:
            kwargs = dict(kwargs)
            for name in plan.keywords:
                kwargs[name] = values[order[at]]
                at += 1
        return args, kwargs

    def take_back(self, index: int) -> None:
        if index == PULL:
            self._pulling = False

    # Items end.

    def finish(self, index: int, outcome: Outcome, started: float, guard: Any = None) -> list[int]:
        if guard is None:
            return self._ended(index, outcome, started)
        with guard:
            return self._ended(index, outcome, started) if self.status == "running" else []

    def _ended(self, index: int, outcome: Outcome, started: float) -> list[int]:
        ready: list[int] = []
        if index == PULL:
            self._pulling = False
            if not outcome.ok:
                self._source_failed(outcome.value)
            elif outcome.value:
                self._end_of_items()
        elif index == INTO:
            self._into_ended(outcome)
        else:
            self._running -= 1
            if index >= 0:
                self.settle(index, outcome, perf_counter() - started)
            elif index % 2:
                self.settle(number_of(index), outcome, perf_counter() - started)
            elif outcome.ok:
                ready = self._settle_batch(outcome.value)
            else:
                self._source_failed(outcome.value)
            self._tell()
            if self.spec.into is not None:
                self._notify()
        return ready + self.more()

    def _source_failed(self, error: BaseException, place: str | None = None) -> None:
        walk = self._walk
        where = place or walk.place
        if where == "source" and walk.pulled:
            where = f"source, after item {walk.pulled - 1}"
        elif where == "keys function":
            where = f"keys function, for item {walk.pulled - 1}"
        self._fail(Failed("", None, error, 1, where))

    # Sequential runs of plain items.

    @property
    def is_plain(self) -> bool:
        """Whether all items can be called one after the other in `call_each`."""
        return (
            self.is_batched
            and not self.plan.is_async
            and not self._walk.is_async
            and not self._walk.is_keyed
        )

    def begin_plainly(self) -> Iterator[Any]:
        """All items, for `call_each`."""
        self._is_exhausted = True  # nobody else pulls
        items: Iterator[Any] = self._walk.unkeyed()
        return items

    @property
    def tells_at(self) -> float:
        """When observers are to hear of progress, by the clock."""
        if self._watchers is None:
            return float("inf")
        return perf_counter() + _TOLD_EVERY

    def finish_plainly(self, done: Batch, pulled: Outcome | None) -> list[int]:
        """Some items have been called. `pulled` is how it ended to go through them, if it has."""
        ready = self._settle_batch(done)
        numbers, values, _ = done.parts[0]
        self._walk.pulled = numbers.start + len(values)  # type: ignore[attr-defined]
        if pulled is not None and pulled.ok:
            self._end_of_items()
        elif pulled is not None:
            self._source_failed(pulled.value)
        self._tell()
        return ready

    @property
    def is_taking(self) -> bool:
        """Whether `into` may take further results. Raises RuntimeError once it has returned."""
        if self._is_satisfied or self.status != "running":
            raise self._untimely()
        return not self.stopped

    def count_plainly(self, number: int, seconds: array[float], outcome: Outcome | None) -> None:
        """Some items before `number` completed. `outcome` is how the next one ended, or how it
        ended to go through them."""
        first = number - len(seconds)
        self.tally.completed += len(seconds)
        self.tally._add(range(first, number), None, seconds)
        walk = self._walk
        if outcome is not None and outcome.ok:
            walk.pulled = number
            self._end_of_items()
        elif outcome is not None and walk.pulled <= number:
            self._source_failed(outcome.value)
        elif outcome is not None:
            self._taken = number
            self.tally._add((number,), None, array("f", (0.0,)))
            self._item_failed(number, number, outcome, None)
            self._taken = number + 1
        self._tell()

    def _untimely(self) -> RuntimeError:
        return RuntimeError(
            f"the results of map {self.plan.name!r} can be taken while its into= function runs, "
            "and not afterwards"
        )

    # Batches: what plain items cost most is all that is around their calls.

    def _call_items(self) -> Batch:
        """Call items, one after the other, for a short time."""
        done = Batch()
        now = perf_counter()
        until = now + AT_ONCE
        while now < until and not done.is_over:
            numbers, items = self._taken_items()
            if not items:
                break
            begun, now = now, self.call_each(items, numbers, done, until)
            values = done.parts[-1][1]
            self._adapt(len(values), now - begun)
            left = len(items) - len(values)
            if left:
                self._give_back(numbers, items, left)
                break
        return done

    def call_each(
        self, items: Iterable[Any], numbers: Sequence[int], done: Batch, until: float
    ) -> float:
        """Call items until the time is `until`, and note in `done` what became of them. Returns the
        time. What the items raise as they are gone through is raised."""
        call, clock, is_sole = self.call, perf_counter, self.is_sole
        into, is_strict = self.spec.into is not None, self.spec.on_error == "fail"
        values: list[Any] = []
        seconds = array("f")
        done.parts.append((numbers, values, seconds))
        keep, stamp = values.append, seconds.append
        iterator, group = iter(items), 1
        now = clock()
        while True:
            try:
                if is_sole and not into:  # what most maps are: written out, it takes half as long
                    while True:
                        made, last = len(values), now
                        for item in islice(iterator, group):  # `map` would end at a StopIteration
                            keep(call(item))
                        now = clock()
                        count = len(values) - made
                        if count == 1:
                            stamp(now - last)
                        elif count:
                            seconds.extend(repeat((now - last) / count, count))
                        else:
                            return now
                        if CoroutineType in set(map(type, values[made:])):
                            self._note_rests(values, made, numbers, done)
                        if now > until:
                            return now
                        group = min(2 * group, _TOGETHER) if now - last < group * _TINY else 1
                for item in iterator:
                    args, kwargs = ([item], _NO_KEYWORDS) if is_sole else self.arguments(item)
                    value = call(*args, **kwargs)
                    keep(value)
                    last, now = now, clock()
                    stamp(now - last)
                    if type(value) is CoroutineType:
                        self._note_rests(values, len(values) - 1, numbers, done)
                    elif into:
                        self._keep(numbers[len(values) - 1], None, value)
                    if now > until or self._stopped:
                        return now
                return now
            except failures() as error:
                number = numbers[len(values)]
                if self._walk.pulled <= number:
                    raise  # by what is gone through
                if self._line is not None:
                    error = self._line_failed(number, error)
                done.failed.append((number, error))
                keep(_FAILED)
                last, now = now, clock()
                seconds.extend(repeat(now - last, len(values) - len(seconds)))
                done.is_over = is_strict
                if is_strict or now > until:
                    return now

    # Workflows that are nothing but calls of plain functions.

    def _line_call(self, given: Any) -> Any:
        """The value of the workflow for an item."""
        line = self._line
        assert line is not None
        values = self._values[get_ident()] = self._before.copy()
        slots = self._slots
        if self.is_sole:
            values[slots[0]] = given
        else:
            order = self.plan.order
            for at, slot in enumerate(slots):
                values[slot] = given[order[at]]
        keep, plain = values.append, None
        for call, places in line.calls:
            if len(places) == 1:
                value = call(values[places[0]])
            else:
                value = call(*[values[place] for place in places])
            if type(value) is not plain:
                plain = type(value)
                if LOOKED_AT[plain]:
                    value, plain = self._looked_at(value, len(values) - len(self._before)), None
            keep(value)
        return values[line.result]

    def _looked_at(self, value: Any, call: int) -> Any:
        """The result of a call that cannot simply be kept: a coroutine is awaited, here, and what
        can be gone through once only may have one consumer."""
        if type(value) is CoroutineType:
            import asyncio  # slow to import

            value = asyncio.run(value)
        if ONE_SHOT[type(value)]:
            line, topology = self._line, self.plan.nested.topology
            assert line is not None
            index = line.order[call]
            clash = topology.clash(topology.consumers(index))
            if clash is not None:
                raise shared(topology.names[index], "returned", value, clash)
        return value

    def _line_failed(self, number: int, error: BaseException) -> BaseException:
        """A call of the workflow of an item raised. Returns the error of the workflow's run, which
        is made now, as if it had been there before."""
        child: Any = self._line_run(number, self._values.pop(get_ident()))
        self._inner[number] = child
        index, _ = child.leave_straight()
        child.finish(index, Outcome(False, error), perf_counter())
        child.close()
        raised: BaseException = child.exception()
        return raised

    def _line_run(self, number: int, values: list[Any]) -> Execution:
        line, plan = self._line, self.plan.nested
        assert line is not None
        inputs = {
            name: value
            for name, value in zip(line.inputs, values, strict=False)
            if name in plan.input_names
        }
        self._given.setdefault(number, (number, ()))
        child = self.child(number, inputs)
        child.open()
        made = values[len(line.inputs) + len(line.constants) :]
        names, now = plan.names, perf_counter()
        child.results.update(zip([names[index] for index in line.order], made, strict=False))
        child.record.stamps += [now] * (len(made) + 1)
        return child

    def line_of(self, graph: Graph) -> Execution | None:
        values = self._values.get(get_ident())
        workflow: Any = self.plan.node.workflow
        if values is None or workflow is None or workflow.graph is not graph:
            return None
        try:
            return self._line_run(_NOBODY, list(values))
        finally:
            del self._given[_NOBODY], self._inner[_NOBODY]

    def _note_rests(
        self, values: list[Any], since: int, numbers: Sequence[int], done: Batch
    ) -> None:
        """Note which values are coroutines that must be awaited still."""
        for at in range(since, len(values)):
            if type(values[at]) is CoroutineType:
                self._note_rest(numbers[at], values[at])
                done.rests.add(numbers[at])
                values[at] = _FAILED

    def _note_rest(self, number: int, coroutine: Any) -> None:
        with self._changed:
            if self.status == "running":
                self._rests[number] = coroutine
                return
        coroutine.close()  # nobody waits for this batch any more

    async def _await_items(self) -> Batch:
        """The same for an async function."""
        call, clock, done = self.plan.item.call, perf_counter, Batch()
        now = clock()
        until = now + AT_ONCE_ASYNC
        while now < until and not done.is_over:
            numbers, items = self._taken_items(1)
            if not items:
                break
            begun = clock()
            try:
                if self.plan.is_sole:
                    value = await call(items[0])
                else:
                    args, kwargs = self.arguments(items[0])
                    value = await call(*args, **kwargs)
            except failures() as error:
                if is_cancelled(error):
                    raise
                done.failed.append((numbers[0], error))
                value = _FAILED
                done.is_over = self.spec.on_error == "fail"
            now = clock()
            done.parts.append((numbers, [value], array("f", (now - begun,))))
            if self.spec.into is not None and value is not _FAILED:
                self._keep(numbers[0], None, value)
            if self._stopped:
                break
        return done

    def _taken_items(self, most: int | None = None) -> tuple[Sequence[int], list[Any]]:
        """Items to call, and their numbers: at most `most`, or as many as take as long as a batch
        should. Empty if there are none."""
        size = self._size if most is None else most
        walk, is_sole = self._walk, self.is_sole
        with self._changed:
            if self.stopped:
                return (), []
            if not walk.is_quick or self._pulled:
                numbers = [self._pulled.popleft() for _ in range(min(size, len(self._pulled)))]
                given = [self._given[number][1] for number in numbers]
                return numbers, [each[0] for each in given] if is_sole else given
            if self._is_exhausted or not self._has_room:
                return (), []
            first = walk.pulled
            try:
                items = walk.several(size, is_sole)
            except failures() as error:
                self._source_failed(error)
                return (), []
            if len(items) < size:
                self._is_exhausted = True
            if self.spec.into is None:
                result: Any = self.result
                if walk.is_keyed:
                    result.update((key, _DROPPED) for key, _ in items)
                else:
                    result.extend([_DROPPED] * len(items))
            numbers_of = range(first, first + len(items))
            if walk.is_keyed:
                self._given.update(zip(numbers_of, items, strict=True))
                items = [each[1][0] if is_sole else each[1] for each in items]
            return numbers_of, items

    def _give_back(self, numbers: Sequence[int], items: list[Any], left: int) -> None:
        """A batch has no time for the last of its items."""
        walk, is_sole = self._walk, self.is_sole
        with self._changed:
            rest = numbers[-left:]
            for number, item in zip(rest, items[-left:], strict=True):
                if number not in self._given:
                    self._given[number] = (number, (item,) if is_sole else item)
            self._pulled.extendleft(reversed(rest))
            assert walk is not None

    def _adapt(self, items: int, seconds: float) -> None:
        """Find how many items take as long as a batch should, from a batch of so many."""
        if items:
            fitting = int(AT_ONCE / max(seconds / items, 1e-8) / 4)
            self._size = max(1, min(fitting, 4 * self._size, _MOST))

    def _settle_batch(self, done: Batch) -> list[int]:
        """The items of a batch ended. Returns what may start."""
        tally, result, given = self.tally, self.result, self._given
        keeps = self.spec.into is None
        failed = dict(done.failed)
        rests = done.rests
        ready = []
        for numbers, values, seconds in done.parts:
            keys: list[Any] | None = None
            if self._walk.is_keyed:
                keys = [given.pop(number)[0] for number in numbers[: len(values)]]
            elif given:
                for number in numbers[: len(values)]:
                    given.pop(number, None)
            if keeps and isinstance(result, list):
                if type(numbers) is range:
                    result[numbers.start : numbers.start + len(values)] = values
                else:
                    for number, value in zip(numbers, values, strict=False):
                        result[number] = value
            elif keeps and keys is not None:
                for key, value in zip(keys, values, strict=True):
                    result[key] = value
            tally._add(numbers, keys, seconds)
            tally.completed += len(values)
            if not failed and not rests:
                continue
            for position, (number, value) in enumerate(zip(numbers, values, strict=False)):
                if value is not _FAILED:
                    continue
                key = number if keys is None else keys[position]
                tally.completed -= 1
                if keeps:
                    result[key] = _DROPPED
                if number in failed:
                    outcome = Outcome(False, failed[number])
                    self._item_failed(number, key, outcome, self._inner.pop(number, None))
                else:
                    given[number] = (key, ())
                    self._running += 1
                    ready.append(rest_index(number))
        return ready

    def settle(self, number: int, outcome: Outcome, seconds: float) -> None:
        """An item ended: keep its result, or find what its failure means."""
        key, _ = self._given.pop(number)
        inner = self._inner.pop(number, None)
        self.record.count(self.plan.name, outcome)
        self.tally._add((number,), (key,), array("f", (seconds,)))
        if outcome.ok:
            self.tally.completed += 1
            self._keep(number, key, outcome.value)
        else:
            self._item_failed(number, key, outcome, inner)

    def _keep(self, number: int, key: Any, value: Any) -> None:
        if self.spec.into is None:
            if isinstance(self.result, dict):
                self.result[key] = value
            else:
                self.result[number] = value
            return
        with self._changed:
            self._ready[number] = value
            self._in_turn.append(number)
        self._notify()

    def _item_failed(
        self, number: int, key: Any, outcome: Outcome, inner: Execution | None
    ) -> None:
        items, spec = self.tally, self.spec
        error, label, where = outcome.value, self._label(number, key), outcome.where
        attempts = outcome.attempts
        if inner is not None and error is inner.exception():
            first = inner.failures.first
            label = f"{label}.{first}"
            error = inner.failures.errors[first]
            attempts, where, _ = inner.failures.facts(first)
        cut_traceback(error)
        items.failed += 1
        if len(items.errors) < MOST_ERRORS:
            items.errors[key] = error
        failed = Failed(label, key, error, attempts, where)
        if spec.on_error == "fail":
            self._fail(failed)
            return
        if len(items._kept) < MOST_ERRORS:
            items._kept.append(failed)
        if spec.on_error == "keep":
            self._keep(number, key, ItemError(key, error))
        else:
            items.dropped += 1
            if spec.into is not None:
                self._keep(number, key, _DROPPED)
        self._check_success()

    def _check_success(self) -> None:
        """Fail if too few items can complete."""
        least, items = self.spec.min_success, self.tally
        if least is None or not items.failed or items.total is None:
            return
        if items.total - items.failed >= least * items.total - 1e-9:
            return
        first = next(iter(items.errors.values()))
        error = ExecutionError(
            f"of {items.total} items of map {self.plan.name!r} {items.failed} failed, and "
            f"min_success={least:g} must complete"
        )
        error.__cause__ = first
        self._fail(Failed("", None, error, 1, None))

    def _fail(self, failed: Failed) -> None:
        """End the map: nothing more starts. The first failure stands."""
        if self._error is None and not self._is_satisfied:
            self.tally._fatal = failed
            self._error = failed.error  # type: ignore[assignment]
        self._stopped = True
        self._notify()

    def _label(self, number: int, key: Any) -> str:
        if not self._walk.is_keyed:
            return f"[{number}]"
        try:
            return f"[{key}]"
        except failures():
            return f"[{number}]"

    def _into_ended(self, outcome: Outcome) -> None:
        if not outcome.ok:
            if self._error is None:
                cut_traceback(outcome.value)
            self._fail(Failed("", None, outcome.value, outcome.attempts, "into function"))
        elif ONE_SHOT[type(outcome.value)]:
            error = TypeError(
                f"into= of map {self.plan.name!r} returned a {type(outcome.value).__name__}, which "
                "can be gone through once only; return a list"
            )
            self._fail(Failed("", None, error, 1, "into function"))
        else:
            self.value = outcome.value
            self._is_satisfied = self._error is None
            self._stopped = True
        self._notify()

    # Results as `into` takes them.

    def next_result(self, wait: bool) -> Any:
        """The next result; _DROPPED where there is none any more, ABSENT where it must be waited
        for. With `wait`, waits for it. Raises what ended the map."""
        with self._changed:
            while True:
                if self._error is not None:
                    raise self._error
                if self._is_satisfied or self.status != "running":
                    raise self._untimely()
                if self.stopped:
                    raise RuntimeError(f"map {self.plan.name!r} was cut short")
                number = self._next_number()
                if number is not None:
                    self._taken += 1
                    value = self._ready.pop(number)
                    if value is _DROPPED:
                        continue
                    return value
                if self._is_exhausted and not (self._running or self._pulled or self._ready):
                    return _DROPPED
                if not wait:
                    return ABSENT
                self._changed.wait()

    def ready_results(self) -> Iterator[Any]:
        """The results that are there, for the thread that makes them itself. Raises what ended the
        map."""
        while True:
            result = self.next_result(wait=False)
            if result is ABSENT or result is _DROPPED:
                return
            yield result

    async def next_result_async(self) -> Any:
        """`next_result`, for code on an event loop."""
        import asyncio  # slow to import

        loop, event = asyncio.get_running_loop(), asyncio.Event()
        while True:
            event.clear()
            self._waits = loop, event
            result = self.next_result(wait=False)
            if result is not ABSENT:
                return result
            await event.wait()

    def _notify(self) -> None:
        """Wake `into`, which may wait for a result."""
        with self._changed:
            self._changed.notify_all()
        waits, self._waits = self._waits, None
        if waits is not None:
            with suppress(RuntimeError):  # the loop was closed
                waits[0].call_soon_threadsafe(waits[1].set)

    def _next_number(self) -> int | None:
        if self.spec.ordered:
            return self._taken if self._taken in self._ready else None
        return self._in_turn.popleft() if self._in_turn else None

    # What drivers and calls ask of executions.

    def judge(self, index: int, outcome: Outcome) -> Verdict:
        return Verdict(outcome, None)

    def _decide(self, index: int, outcome: Outcome) -> Verdict:
        return Verdict(outcome, None)

    def note_start(self, index: int) -> None:
        """Nothing: observers are not told of items."""

    def is_surrounded(self, step: Step) -> bool:
        return not step.role and super().is_surrounded(step)

    def child(self, index: int, inputs: dict[str, Any]) -> Execution:
        step = self.plan.item
        workflow: Any = step.node.workflow
        prefix = f"{self.path_of(index)}."
        child: Execution = workflow._nested_execution(self, prefix, step.nested, inputs)
        self._inner[index] = child
        return child

    def child_of(self, index: int) -> Execution:
        return self._inner[index]

    def path_of(self, index: int) -> str:
        if index < 0:
            return self.prefix
        given = self._given.get(index)
        return self.prefix + self._label(index, index if given is None else given[0])

    def claim_of(self, index: int) -> Any:
        assert self.parent is not None
        return self.parent.claim_of(self.index)

    def priority_of(self, index: int) -> int:
        assert self.parent is not None
        return self.parent.priority_of(self.index)

    def find_ways(self) -> Any:
        parent = self.parent
        assert parent is not None
        self.ways = ways = _Ways((parent.ways or parent.find_ways()).to_end[self.index])  # type: ignore[assignment]
        return ways

    def lose(self, resource: str, error: BaseException, where: str = "use") -> None:
        if self.parent is not None:
            self.parent.lose(resource, error, where)

    def is_role_async(self, role: str) -> bool:
        """Whether what a map calls besides its items belongs on an event loop."""
        if role == "into":
            return self.spec.is_into_async
        return bool(self._walk.is_async)

    # Progress.

    def _tell(self) -> None:
        watchers = self._watchers
        if watchers is None:
            return
        now = perf_counter()
        if now - self._told_at < _TOLD_EVERY:
            return
        self._told_at = now
        items, parent = self.tally, self.parent
        assert parent is not None
        done = items.completed + items.failed
        of = "" if items.total is None else f" of {items.total:,}"
        share = done / items.total if items.total and parent.parent is None else 0.0
        watchers.progressed(parent, self.prefix, f"running {done:,}{of}", share)

    def deliver(self) -> None:
        if self._watchers is not None:
            self._watchers.deliver()


class _Closed:
    """A walk that is over."""

    needs_close = False

    def __init__(self, walk: Walk) -> None:
        self.is_async, self.is_keyed, self.pulled = walk.is_async, walk.is_keyed, walk.pulled
        self.let_go = walk.let_go


class _Results:
    """The results of a map, one by one, as its `into` function takes them."""

    def __init__(self, execution: MapExecution) -> None:
        self._execution = execution

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        execution = self._execution
        result = execution.next_result(wait=True)
        if result is _DROPPED:
            raise StopIteration
        execution.call_soon()
        return result


class _AsyncResults:
    """The same for an async `into` function."""

    def __init__(self, execution: MapExecution) -> None:
        self._execution = execution

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        execution = self._execution
        result = await execution.next_result_async()
        if result is _DROPPED:
            raise StopAsyncIteration
        execution.call_soon()
        return result


def _inside(settings: Any) -> Any:
    """The settings of what is in an item: its failure ends it, and the map decides what that
    means."""
    if settings.error_strategy == "fail_fast" and settings.error_handler is None:
        return settings
    inside = copy(settings)
    inside.error_strategy, inside.error_handler = "fail_fast", None
    return inside


def is_cancelled(error: BaseException) -> bool:
    """Whether the task of an item was cancelled, and did not raise a CancelledError by itself."""
    from asyncio import CancelledError, current_task  # slow to import

    task = current_task()
    return isinstance(error, CancelledError) and task is not None and bool(task.cancelling())


def _nothing() -> None: ...
