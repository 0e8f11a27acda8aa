"""The execution of a map: items that are pulled as there are places for them, and their results."""

from __future__ import annotations

from array import array
from collections import deque
from copy import copy
from threading import Lock
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from fast_dag.call.effects import ONE_SHOT, STOPPED, Invoke, Outcome, Raised
from fast_dag.errors import ExecutionError, failures
from fast_dag.plan.map_plan import INTO, PULL, batch_index, number_of, rest_index
from fast_dag.returns import ItemError
from fast_dag.run.execution import Execution, Verdict
from fast_dag.run.failures import cut_traceback
from fast_dag.run.items import MOST_ERRORS, Failed, Items, Walk
from fast_dag.run.map_batches import FAILED, Batches
from fast_dag.run.map_lines import NOBODY, LineCalls
from fast_dag.run.map_results import END, Results
from fast_dag.run.record import Record
from fast_dag.watch import log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from fast_dag.call.effects import Attempt, Effects
    from fast_dag.define.graph import Graph
    from fast_dag.plan.map_plan import MapPlan
    from fast_dag.plan.step import Step
    from fast_dag.run.failures import Failures
    from fast_dag.run.map_batches import Batch

    Given = tuple[Any, tuple[Any, ...]]

_TOLD_EVERY: Final = 0.1
"""Seconds between two events of progress."""


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


class _Record(Record):
    """What is recorded of items."""

    @property
    def uncached(self) -> int:
        """None: items are all looked up in a cache, or none is."""
        return 0


class _Item:
    """The execution as the call of one item sees it. It knows how to call the item."""

    __slots__ = ("_index", "home")

    def __init__(self, home: MapExecution, index: int) -> None:
        self.home = home
        self._index = index

    def __getattr__(self, name: str) -> Any:
        return getattr(self.home, name)

    def retries(self, name: str, error: Exception, attempt: int, delay: float) -> None:
        """Log that an attempt failed, and another follows."""
        log.retried(self.home, self.home.path_of(self._index), error, attempt)

    def call_id(self, name: str) -> str:
        """The id of the item's call."""
        return self.home.call_id_of(self._index)

    def handled(self, name: str, error: Exception, attempts: int) -> None:
        """Log that the error handler gave a result."""
        log.handled(self.home, self.home.path_of(self._index), error, attempts)


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
    called in this process, `travels`, whether many can be sent to another one together, and
    `call_soon`, which asks `more` again as soon as it can (called by
    the threads of `into` and of what pulls).
    `known` has what an earlier run knows of items, by key: their results, or an Outcome with its
    verdict if they failed. These items are not called.
    """

    noun = "item"
    is_map = True
    is_here = True
    travels = False
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
        record = _Record(plan)  # type: ignore[arg-type]  # asks for names only
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
        self._known = known
        self.walk: Any = None
        self._pulled: deque[int] = deque()  # the items that wait for a place
        self._given: dict[int, Given] = {}  # these, and the items in progress
        self._noted = 0  # the failures of items in batches, also of those that go on
        self._batches = 0  # how many were begun
        self._paused: set[int] = set()  # the items that wait, and have no slot
        self._running = 0  # calls in progress, of items or batches
        self._rests: dict[int, Any] = {}  # coroutines that sync functions returned, by item
        self._begun: deque[int] = deque()  # of these, those that wait for a place
        self.call: Callable[..., Any] = plan.item.call
        self.is_sole = plan.is_sole  # whether an item is its one value, and not a tuple
        self._lines: LineCalls | None = None  # makes the calls of a workflow, if they are all of it
        self._inner: dict[int, Execution] = {}  # of these, the workflows
        self._pulling = False
        self._is_in_pull = False  # in a thread
        self._is_exhausted = False
        self._is_satisfied = False  # `into` has returned
        self._error: Exception | None = None
        self._told_at = 0.0
        self.stream: Results | None = None  # for `into`
        if self.spec.into is not None:
            self.tally._is_stream = True
            self.stream = Results(self, ordered=self.spec.ordered)
        self._lock = Lock()  # of what is pulled

    # Begin and end.

    def open(self) -> None:
        """Look at the collections. Raises TypeError or ValueError if they cannot be mapped over."""
        plan = self.plan
        args, kwargs = list(self._args), dict(self._kwargs)
        values: list[Any] = []
        for place in plan.places:
            if isinstance(place, int):
                values.append(args[place])
                args[place] = None
            else:
                values.append(kwargs.pop(place))
        self._args, self._kwargs = args, kwargs
        for value in (*args, *kwargs.values()):
            if ONE_SHOT[type(value)]:
                raise TypeError(
                    f"map {plan.name!r} would give a {type(value).__name__} to each item, which "
                    "can be gone through once only; make it a list"
                )
        self.walk = Walk(plan, values)
        if not self.walk.has_lasting_keys:  # nobody could tell later which items these were
            self._known, self.store = {}, None
        line = plan.line
        if line is not None and not (line.is_chain or self.settings.ordered):
            line = None  # its nodes may run side by side
        self.is_batched = (
            (plan.item.plain is not None or line is not None)
            and plan.call_id is None
            and self.store is None
            and not self._known
            and (self.is_here or (self.travels and line is None))
        )
        if line is not None and self.is_batched:
            self._lines = lines = LineCalls(plan, line, kwargs, self.child)
            self.call, self.is_sole = lines.call, lines.is_sole
        elif not self.is_sole:
            self.call = self._spread
        self.batching = Batches(self)
        self.tally.total = self.walk.total
        if self.walk.is_keyed:
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
        items._tell_apart()
        if self._error is None and status is None:
            self.value = self._value()
        else:
            result = self.result
            pairs = result.items() if isinstance(result, dict) else enumerate(result)
            items._results = {
                key: each for key, each in pairs if each is not END and type(each) is not ItemError
            }
        parent.record.retries += self.record.retries
        parent.record.cache_hits += self.record.cache_hits
        parent.record.cache_misses += self.record.cache_misses
        parent.cut_off += self.cut_off
        self._args, self._kwargs = (), {}
        self.result = []
        self.walk.let_go()
        self._given.clear()
        self._inner.clear()
        with self._lock:
            rests, self._rests = self._rests, {}
        for coroutine in rests.values():
            coroutine.close()
        self.call_soon = _nothing
        self._stopped = True  # for a thread that was abandoned as it pulled
        self.outer = self.parent = None
        if self.stream is not None:
            self.stream.clear()
        # These refer to this execution, and would keep all results until garbage is collected.
        self.is_batched = False
        del self.batching
        self.call, self.stream, self._lines = _nothing, None, None

    def _value(self) -> Any:
        if self.spec.into is not None:
            return self.value
        result = self.result
        self.tally._left_out = ()
        if not self.tally.dropped:
            return result
        if isinstance(result, dict):
            return {key: each for key, each in result.items() if each is not END}
        self.tally._left_out = array(
            "q", [position for position, each in enumerate(result) if each is END]
        )
        return [each for each in result if each is not END]

    def _final_value(self) -> Any:
        return self.value

    def failure(self) -> Exception | None:
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

    def release(self, status: str | None = None) -> Effects | None:
        walk = self.walk
        if walk is None or not walk.needs_close:
            return None
        walk.place = "source, as it was closed"
        self.walk = closed = _Closed(walk)
        with self._lock:
            if self._is_in_pull:  # an abandoned thread, which closes it as soon as it can
                closed.let_go = _nothing
                return None
        return self._closing(walk)

    def _closing(self, walk: Walk) -> Effects:
        if walk.is_async:
            answer = yield Invoke(walk.aclose, (), True, cleans_up=True)
        else:
            answer = yield Invoke(walk.close, (), False, cleans_up=True, role="pull")
        if type(answer) is Raised:
            self._is_satisfied = False
            self._source_failed(answer.error)
        return STOPPED

    # What may start.

    def more(self) -> list[int]:
        """What may start now: items, batches of items, or the call that pulls more. Must be called
        under the lock of a run that has several threads."""
        ready: list[int] = []
        quick = self.walk.is_quick
        while self._running < self._most and not self.stopped:
            if self._begun:
                ready.append(rest_index(self._begun.popleft()))
                self._running += 1
                continue
            if not self._pulled:
                has_more = quick and not self._is_exhausted and self._has_room
                if has_more and self.is_batched and not self._is_left(len(ready)):
                    if self.walk.total == self.walk.pulled:
                        self._end_of_items()
                    has_more = False
                if not has_more and not (self.is_batched and self.batching.spare() > len(ready)):
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

    # An item that waits, for its next attempt say, has no slot: another may run meanwhile.

    def pauses(self, item: int) -> list[int]:
        """An item waits. Returns what may start now."""
        self._paused.add(item)
        return self.more()

    def goes_on_with(self, index: int) -> None:
        self._paused.discard(index)

    @property
    def _most(self) -> int:
        """How many items may be in progress now."""
        if self.spec.max_concurrency is not None:
            return self.places
        return self.places + min(len(self._paused), self.places)

    def _is_left(self, batches: int) -> bool:
        """Whether there are items for one more batch than these."""
        left = self.walk.left
        return left is None or left > batches

    @property
    def _wants_items(self) -> bool:
        """Whether an item more may be pulled."""
        if self._is_exhausted or self.stopped or not self._has_room:
            return False
        return len(self._given) < self._most * self.batching.size

    @property
    def _has_room(self) -> bool:
        """Whether `into` has taken so many results that there is room for more."""
        if self.stream is None:
            return True
        return self.stream.has_room(self.walk.pulled, 2 * self.places * self.batching.size)

    def _pull(self) -> bool:
        """Pull one item, in any thread, because that calls nobody's code. Returns False if there is
        none."""
        while not self._pulled:  # what an earlier run knows is not called
            if self.stopped:
                return False
            try:
                pulled = self.walk.pull()
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
        with self._lock:
            walk, self._is_in_pull = self.walk, True
        try:
            while self._wants_items:
                pulled = walk.pull()
                if pulled is None:
                    return True
                self._hand_on(pulled)
            return False
        finally:
            with self._lock:
                self._is_in_pull = False
                is_abandoned = self.walk is not walk
            if is_abandoned:
                walk.close()
                walk.let_go()

    async def _step_items(self) -> bool:
        """The same of an async source."""
        step = self.walk.step
        while self._wants_items:
            pulled = await step()
            if pulled is None:
                return True
            self._hand_on(pulled)
        return False

    def _hand_on(self, pulled: Given) -> None:
        """An item was pulled by its own thread or task: it may start."""
        if self.tally.total is None:
            self.tally.total = self.walk.total
        self._take_in(pulled)
        if self._running < self._most:
            self.call_soon()

    def _take_in(self, pulled: Given) -> None:
        """An item was pulled."""
        number, key = self.walk.pulled - 1, pulled[0]
        if self.stream is None or self.spec.keys is not None:  # which must be told apart
            result = self.result
            if isinstance(result, dict):
                if key in result:
                    self.walk.place = "keys function"
                    raise ValueError(
                        f"the keys function of map {self.plan.name!r} gave {key!r} to item "
                        f"{list(result).index(key)} and to item {number}; each item needs a key of "
                        "its own"
                    )
                result[key] = END
            else:
                result.append(END)
        if self._known:
            value = self._known.get(key, END)
            if type(value) is Outcome:
                self._item_failed(number, key, value.verdict)
                return
            if value is not END:
                self.tally.completed += 1
                self._keep(number, key, value)
                return
        self._given[number] = pulled
        self._pulled.append(number)

    def _end_of_items(self) -> None:
        self._is_exhausted = True
        self.tally.total = self.walk.pulled
        self._check_success()
        self._notify()

    def gather(self, index: int) -> Attempt:
        if index >= 0:
            values = self._given[index][1]
            if self.plan.is_sole:
                return [values[0]], {}
            args, kwargs = self.arguments(values)
            return (
                (args, kwargs) if self.plan.call_id is None else self._known_by(index, args, kwargs)
            )
        if index == PULL:
            return [self._step_items if self.walk.is_async else self._pull_items], {}
        if index == INTO:
            return [self.spec.into, self.stream], {}
        if index % 2:
            return [self._rests.pop, number_of(index)], {}
        batching = self.batching
        if not self.is_here:
            return [batching.parcel()], {}
        return [batching.await_items if self.plan.is_async else batching.call_items], {}

    def _spread(self, values: tuple[Any, ...]) -> Any:
        """Call the function for an item."""
        args, kwargs = self.arguments(values)
        return self.plan.item.call(*args, **kwargs)

    def arguments(self, values: tuple[Any, ...]) -> Attempt:
        """The arguments of the call for an item."""
        args, kwargs = list(self._args), dict(self._kwargs)
        for place, value in zip(self.plan.places, values, strict=True):
            if isinstance(place, int):
                args[place] = value
            else:
                kwargs[place] = value
        return args, kwargs

    def _known_by(self, index: int, args: Sequence[Any], kwargs: dict[str, Any]) -> Attempt:
        """The arguments, with the id of this item's call."""
        at, own = self.plan.call_id, self.call_id_of(index)
        if type(at) is not int:
            return args, {**kwargs, "call_id": own}
        return [*args[:at], own, *args[at + 1 :]], kwargs

    def call_id_of(self, index: int) -> str:
        """The id of the call for an item: see `call_id`."""
        return f"{self.context.metadata['run_id']}/{self._called_item(index)}"

    def _called_item(self, index: int) -> str:
        from fast_dag.cache.keys import exact_text  # for those who take the ids of calls

        assert self.parent is not None
        text = exact_text(self.key_of(index))
        return f"{self.parent._called(self.prefix)}[{f'#{index}' if text is None else text}]"

    def _called_inner(self, inner: Execution) -> str:
        return self._called_item(
            next(index for index, each in self._inner.items() if each is inner)
        )

    def take_back(self, index: int) -> None:
        if index == PULL:
            self._pulling = False
        elif index != INTO:
            self._running -= 1

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
                self._settle_batch(outcome.value)
            else:  # none of its items is to blame
                self._fail(Failed("", None, outcome.value, outcome.attempts, outcome.where))
            self._tell()
            if self.is_done:
                self._check_success()
            self._notify()
        return ready + self.more()

    def _source_failed(self, error: BaseException) -> None:
        walk = self.walk
        where = walk.place
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
            and not self.walk.is_async
            and not self.walk.is_keyed
        )

    def begin_plainly(self) -> Iterator[Any]:
        """All items, for `call_each`."""
        self._is_exhausted = True  # nobody else pulls
        items: Iterator[Any] = self.walk.unkeyed(self.is_sole)
        return items

    @property
    def tells_at(self) -> float:
        """When observers are to hear of progress, by the clock."""
        if self._watchers is None:
            return float("inf")
        return perf_counter() + _TOLD_EVERY

    def finish_plainly(self, done: Batch, pulled: Outcome | None) -> None:
        """Some items have been called. `pulled` is how it ended to go through them, if it has."""
        numbers, values, _ = done.parts[0]
        self._settle_batch(done)
        self.walk.pulled = numbers.start + len(values)  # type: ignore[attr-defined]
        if pulled is not None and pulled.ok:
            self._end_of_items()
        elif pulled is not None:
            self._source_failed(pulled.value)
        self._tell()

    def count_plainly(self, number: int, seconds: array[float], outcome: Outcome | None) -> None:
        """Some items before `number` completed. `outcome` is how the next one ended, or how it
        ended to go through them."""
        first = number - len(seconds)
        self.tally.completed += len(seconds)
        self.tally._add(range(first, number), None, seconds)
        walk = self.walk
        if outcome is not None and outcome.ok:
            walk.pulled = number
            self._end_of_items()
        elif outcome is not None and walk.pulled <= number:
            self._source_failed(outcome.value)
        elif outcome is not None:
            error = self.failed(number, outcome.value)
            self.tally._add((number,), None, array("f", (0.0,)))
            if self.stream is not None:
                self.stream.next_number = self.stream.taken = number
            self._item_failed(number, number, self.judge(number, Outcome(False, error)))
        self._tell()

    # Batches of plain items.

    def failed(self, number: int, error: BaseException) -> BaseException:
        """The error to note for an item whose call raised: that of the run of a workflow."""
        with self._lock:
            self._noted += 1
        if self._lines is None:
            return error
        self._given.setdefault(number, (number, ()))
        raised: BaseException = self._lines.failed(number, error).exception()  # type: ignore[assignment]
        return raised

    @property
    def is_lost(self) -> bool:
        """Whether the failures that batches have noted end the map."""
        if self.spec.on_error == "fail":
            return self._noted > 0
        least, total = self.spec.min_success, self.walk.total
        return (
            least is not None and total is not None and _is_less(total - self._noted, least, total)
        )

    @property
    def constants(self) -> Attempt:
        """The arguments that all items are given, with a place for those of the item."""
        return self._args, self._kwargs

    def line_of(self, graph: Graph) -> Execution | None:
        workflow: Any = self.plan.node.workflow
        if self._lines is None or workflow.graph is not graph:
            return None
        try:
            return self._lines.in_progress()
        finally:
            self._inner.pop(NOBODY, None)

    def taken(self, most: int) -> tuple[Sequence[int], list[Any]]:
        """Items to call, at most so many, and their numbers; empty if there are none now."""
        walk, is_sole = self.walk, self.is_sole
        with self._lock:
            if self.stopped:
                return (), []
            if not walk.is_quick or self._pulled:
                numbers = [self._pulled.popleft() for _ in range(min(most, len(self._pulled)))]
                given = [self._given[number][1] for number in numbers]
                return numbers, [each[0] for each in given] if is_sole else given
            if self._is_exhausted or not self._has_room:
                return (), []
            first = walk.pulled
            try:
                items = walk.several(most, is_sole)
            except failures() as error:
                self._source_failed(error)
                return (), []
            if len(items) < most:
                self._is_exhausted = True
            if self.stream is None:
                result: Any = self.result
                if walk.is_keyed:
                    result.update((key, END) for key, _ in items)
                else:
                    result.extend([END] * len(items))
            all_numbers = range(first, first + len(items))
            if walk.is_keyed:
                self._given.update(zip(all_numbers, items, strict=True))
                items = [each[1][0] if is_sole else each[1] for each in items]
            return all_numbers, items

    def give_back(self, numbers: Sequence[int], items: Sequence[Any]) -> None:
        """There was no time for these items."""
        with self._lock:
            for number, item in zip(numbers, items, strict=True):
                if number not in self._given:
                    self._given[number] = number, (item,) if self.is_sole else item
            self._pulled.extendleft(reversed(numbers))

    def rests(self, number: int, coroutine: Any) -> None:
        """The call for an item returned a coroutine, which must be awaited still."""
        with self._lock:
            if self.status == "running":
                self._rests[number] = coroutine
                return
        coroutine.close()  # nobody waits for this batch any more

    def _settle_batch(self, done: Batch) -> None:
        """The items of a batch ended."""
        tally, given = self.tally, self._given
        keeps = self.stream is None
        failed = dict(done.failed)
        rests = done.rests
        for numbers, values, seconds in done.parts:
            keys: list[Any] | None = None
            if self.walk.is_keyed:
                keys = [given.pop(number)[0] for number in numbers[: len(values)]]
            elif given:
                for number in numbers[: len(values)]:
                    given.pop(number, None)
            if keeps:
                self._put(numbers, values, keys)
            if rests:  # they are counted when they have been awaited
                names = numbers if keys is None else keys
                ended = [at for at in range(len(values)) if numbers[at] not in rests]
                tally._add(
                    [names[at] for at in ended], None, array("f", [seconds[at] for at in ended])
                )
            else:
                tally._add(numbers, keys, seconds)
            tally.completed += len(values)
            if not failed and not rests:
                continue
            for position, (number, value) in enumerate(zip(numbers, values, strict=False)):
                if value is not FAILED:
                    continue
                key = number if keys is None else keys[position]
                tally.completed -= 1
                if keeps:
                    self.result[key] = END
                if number in failed:
                    outcome = Outcome(False, failed[number])
                    self._item_failed(number, key, self.judge(number, outcome))
                else:
                    given[number] = (key, ())
                    self._begun.append(number)
        # The frames of the errors refer to the batch: that would be a cycle.
        done.failed, done.parts = [], []

    def _put(self, numbers: Sequence[int], values: list[Any], keys: list[Any] | None) -> None:
        """Keep results where they belong."""
        result = self.result
        if isinstance(result, dict):
            result.update(zip(keys or (), values, strict=True))
        elif not result:
            self.result = values
        elif type(numbers) is range:
            result[numbers.start : numbers.start + len(values)] = values
        else:
            for number, value in zip(numbers, values, strict=False):
                result[number] = value

    def settle(self, number: int, outcome: Outcome, seconds: float) -> None:
        """An item ended: keep its result, or find what its failure means."""
        verdict = outcome.verdict
        if verdict is None:
            verdict = self.judge(number, outcome)
        else:  # as in `finish`
            outcome.verdict = verdict.outcome.verdict = None
        key, _ = self._given.pop(number)
        inner = self._inner.pop(number, None)
        self.record.count(self.plan.name, outcome)
        self.tally._add((number,), (key,), array("f", (seconds,)))
        if outcome.ok:
            self.tally.completed += 1
            if inner is not None and inner.failures.are_items:
                self._adopt(self._label(number, key), key, inner.failures)
            self._keep(number, key, outcome.value)
        else:
            self._item_failed(number, key, verdict)

    def _adopt(self, place: str, key: Any, inner: Failures) -> None:
        """Keep the errors of items of the maps that are in an item, which completed."""
        kept = self.tally._kept
        for name, error in inner.errors.items():
            if len(kept) < MOST_ERRORS:
                attempts, where, _ = inner.facts(name)
                shown = inner.key_of(name)
                kept.append(Failed(place, key, error, attempts, where, f".{name}", shown))

    def _keep(self, number: int, key: Any, value: Any) -> None:
        if self.stream is not None:
            self.stream.put(number, value)
        elif isinstance(self.result, dict):
            self.result[key] = value
        else:
            self.result[number] = value

    def _item_failed(self, number: int, key: Any, verdict: Verdict) -> None:
        items, spec = self.tally, self.spec
        place, outcome = self._label(number, key), verdict.outcome
        inside = "" if verdict.key is None else f".{verdict.key}"
        error = outcome.value
        items.failed += 1
        if len(items.errors) < MOST_ERRORS:
            items.errors[key] = error
        failed = Failed(place, key, error, outcome.attempts, outcome.where, inside)
        if spec.on_error == "fail":
            self._fail(failed)
            return
        if len(items._kept) < MOST_ERRORS:
            items._kept.append(failed)
        if spec.on_error == "keep":
            self._keep(number, key, ItemError(key, error))
        else:
            items.dropped += 1
            if self.stream is not None:
                self.stream.put(number, END)
        self._check_success()

    def _check_success(self) -> None:
        """Fail if too few items can complete."""
        least, items = self.spec.min_success, self.tally
        if least is None or not items.failed or items.total is None:
            return
        if self.walk.total is None and not self.is_done:  # nobody knew how many there are
            return
        if not _is_less(items.total - items.failed, least, items.total):
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
        if not self.walk.is_keyed:
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

    def ended(self) -> Exception | None:
        if self._error is not None:
            return self._error
        if self._is_satisfied:
            return RuntimeError(
                f"the results of map {self.plan.name!r} can be taken while its into= function "
                "runs, and not afterwards"
            )
        return RuntimeError(f"map {self.plan.name!r} was cut short") if self.stopped else None

    @property
    def is_done(self) -> bool:
        if not self._is_exhausted or self._running or self._pulled or self._begun:
            return False
        return not (self.is_batched and self.batching.spare())

    @property
    def waits_for_pull(self) -> bool:
        """Whether nothing is left to do but to end the call that pulls."""
        return self._pulling and self._stopped and not self._running

    def _notify(self) -> None:
        if self.stream is not None:
            self.stream.notify()

    # What drivers and calls ask of executions.

    def judge(self, index: int, outcome: Outcome) -> Verdict:
        inner = None if outcome.ok else self._inner.pop(index, None)
        key = None
        if inner is not None and outcome.value is inner.failure():
            key = inner.failures.first
            attempts, where, _ = inner.failures.facts(key)
            outcome = Outcome(False, inner.failures.errors[key], attempts, where)
        if not outcome.ok:
            cut_traceback(outcome.value)
        return Verdict(outcome, key)

    def _decide(self, index: int, outcome: Outcome) -> Verdict:
        return Verdict(outcome, None)

    def note_start(self, index: int) -> None:
        """Nothing: observers are not told of items."""

    def host_of(self, index: int) -> Any:
        return _Item(self, index)

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

    def key_of(self, index: int) -> Any:
        """The key of an item in progress."""
        return self._given[index][0]

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
        return bool(self.walk.is_async)

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
        share = done / items.total if items.total else 0.0
        watchers.progressed(parent, self.prefix, f"running {done:,}{of}", share)

    def deliver(self) -> None:
        if self._watchers is not None:
            self._watchers.deliver()


class _Closed:
    """A walk that is over."""

    needs_close = False

    def __init__(self, walk: Walk) -> None:
        self.is_async, self.is_keyed, self.pulled = walk.is_async, walk.is_keyed, walk.pulled
        self.place = walk.place
        self.let_go: Callable[[], None] = walk.let_go


def _is_less(completed: int, least: float, total: int) -> bool:
    """Whether fewer items completed than that share of all, but for an error of rounding."""
    return completed < least * total - 1e-9


def _inside(settings: Any) -> Any:
    """The settings of what is in an item: its failure ends it, and the map decides what that
    means."""
    if settings.error_strategy == "fail_fast" and settings.error_handler is None:
        return settings
    inside = copy(settings)
    inside.error_strategy, inside.error_handler = "fail_fast", None
    return inside


def _nothing() -> None: ...
