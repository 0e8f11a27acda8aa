"""The execution of a map: items that are pulled as there are places for them, and their results."""

from __future__ import annotations

from array import array
from collections import deque
from contextlib import suppress
from copy import copy
from threading import Condition
from time import perf_counter
from typing import TYPE_CHECKING

from fast_dag.call.effects import ONE_SHOT, STOPPED, Invoke, Outcome, Raised
from fast_dag.define.signature import ABSENT
from fast_dag.errors import ExecutionError, failures
from fast_dag.plan.map_plan import INTO, PULL
from fast_dag.returns import ItemError
from fast_dag.run.execution import Execution, Verdict
from fast_dag.run.failures import cut_traceback
from fast_dag.run.items import MOST_ERRORS, Failed, Items, Walk
from fast_dag.run.record import Record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from typing import Any, Final

    from fast_dag.call.effects import Attempt, Effects
    from fast_dag.plan.map_plan import MapPlan
    from fast_dag.plan.step import Step

_TOLD_EVERY: Final = 0.1
"""Seconds between two events of progress."""

_DROPPED: Final = object()
"""Stands in the place of an item that is left out."""


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

    The driver sets `places`, how many items may be in progress at once, and `call_soon`, which asks
    `more` again as soon as it can: called by the thread of `into` when it has taken a result.
    `known` has results of an earlier run by key: these items are not called.
    """

    noun = "item"
    is_map = True
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
        self._given: dict[int, tuple[Any, tuple[Any, ...]]] = {}  # the items in progress
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
            self._source_failed(answer.error, "source, as it was closed")
        return STOPPED

    # What may start.

    def more(self) -> list[int]:
        """What may start now: items, or the call that pulls the next one. Must be called under the
        lock of a run that has several threads."""
        ready: list[int] = []
        walk = self._walk
        while (
            not self._is_exhausted
            and not self._pulling
            and len(self._given) < self.places
            and self._has_room
            and not self.stopped
        ):
            if not walk.is_quick:
                self._pulling = True
                return [PULL]
            try:
                pulled = walk.pull()
            except failures() as error:  # a set that was changed meanwhile, for example
                self._source_failed(error)
                break
            if pulled is None:
                self._end_of_items()
            else:
                ready += self._take_in(pulled)
        return ready

    @property
    def _has_room(self) -> bool:
        """Whether `into` has taken so many results that there is room for more."""
        if self.spec.into is None:
            return True
        waiting = self._walk.pulled - self._taken
        return bool(waiting < 2 * self.places)

    def _take_in(self, pulled: tuple[Any, tuple[Any, ...]]) -> list[int]:
        """An item was pulled. Returns its number if it is to be called."""
        number = self._walk.pulled - 1
        self._given[number] = pulled
        if self.spec.into is not None:
            return [number]
        result = self.result
        if isinstance(result, dict):
            key = pulled[0]
            if key in result:
                self._refuse_key(key, list(result).index(key), number)
            result[key] = _DROPPED
        else:
            result.append(_DROPPED)
        if self._known:
            value = self._known.get(pulled[0], _DROPPED)
            if value is not _DROPPED:
                del self._given[number]
                self.tally.completed += 1
                self._keep(number, pulled[0], value)
                return []
        return [number]

    def _refuse_key(self, key: Any, first: int, second: int) -> None:
        del self._given[second]
        raise ValueError(
            f"the keys function of map {self.plan.name!r} gave {key!r} to item {first} and to item "
            f"{second}; each item needs a key of its own"
        )

    def _end_of_items(self) -> None:
        self._is_exhausted = True
        self.tally.total = self._walk.pulled
        self._check_success()
        self._notify()

    def gather(self, index: int) -> Attempt:
        if index == PULL:
            return [self._walk.step if self._walk.is_async else self._walk.pull], {}
        if index == INTO:
            results: Any = _AsyncResults(self) if self.spec.is_into_async else _Results(self)
            return [self.spec.into, results], {}
        values = self._given[index][1]
        if self.plan.is_sole:
            return ([values[0]], {})
        return self.arguments(values)

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

    # One item.

    def finish(self, index: int, outcome: Outcome, started: float, guard: Any = None) -> list[int]:
        if guard is None:
            return self._ended(index, outcome, started)
        with guard:
            return self._ended(index, outcome, started) if self.status == "running" else []

    def _ended(self, index: int, outcome: Outcome, started: float) -> list[int]:
        if index == PULL:
            return self._pulled(outcome)
        if index == INTO:
            self._into_ended(outcome)
            return []
        self.settle(index, outcome, perf_counter() - started)
        return self.more()

    def _pulled(self, outcome: Outcome) -> list[int]:
        self._pulling = False
        if not outcome.ok:
            self._source_failed(outcome.value)
        elif outcome.value is None:
            self._end_of_items()
        else:
            try:
                ready = self._take_in(outcome.value)
            except ValueError as error:
                self._source_failed(error, "keys function")
            else:
                return ready + self.more()
        return []

    def _source_failed(self, error: BaseException, place: str | None = None) -> None:
        walk = self._walk
        where = place or walk.place
        if where == "source":
            where = f"source, after item {walk.pulled - 1}" if walk.pulled else "source"
        elif where == "keys function":
            where = f"keys function, for item {walk.pulled - 1}"
        self._fail(Failed("", None, error, 1, where))

    def settle(self, number: int, outcome: Outcome, seconds: float) -> None:
        """An item ended: keep its result, or find what its failure means."""
        key, _ = self._given.pop(number)
        inner = self._inner.pop(number, None)
        self.record.count(self.plan.name, outcome)
        self.tally._note(key, seconds)
        if outcome.ok:
            self.tally.completed += 1
            self._keep(number, key, outcome.value)
        else:
            self._item_failed(number, key, outcome, inner)
        self._tell()

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
                    raise RuntimeError(
                        f"the results of map {self.plan.name!r} can be taken while its into= "
                        "function runs, and not afterwards"
                    )
                if self.stopped:
                    raise RuntimeError(f"map {self.plan.name!r} was cut short")
                number = self._next_number()
                if number is not None:
                    self._taken += 1
                    value = self._ready.pop(number)
                    if value is _DROPPED:
                        continue
                    return value
                if self._is_exhausted and not self._given and not self._ready:
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


def _nothing() -> None: ...
