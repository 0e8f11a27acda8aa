"""Batches of plain items of a map: with these, what is around a call takes longest."""

from __future__ import annotations

from array import array
from functools import partial
from itertools import islice, repeat
from operator import length_hint
from threading import Lock
from time import perf_counter
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final

from fast_dag.errors import failures
from fast_dag.run.turns import turn_ends

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Protocol

    from fast_dag.define.mapspec import MapSpec
    from fast_dag.run.items import Walk
    from fast_dag.run.map_results import Results

    class Calls(Protocol):
        """The map whose items are called."""

        call: Callable[[Any], Any]
        """Of an item, as `taken` has it."""
        stream: Results | None
        spec: MapSpec
        is_sole: bool
        places: int
        """How many batches may be in progress at once."""

        @property
        def walk(self) -> Walk: ...
        @property
        def stopped(self) -> bool: ...
        def failed(self, number: int, error: BaseException, /) -> BaseException:
            """The error to note for an item whose call raised."""
            ...

        @property
        def is_lost(self) -> bool:
            """Whether what `failed` was told ends the map."""
            ...

        def taken(self, most: int, /) -> tuple[Sequence[int], list[Any]]:
            """Items to call, at most so many, and their numbers; empty if there are none now."""
            ...

        def give_back(self, numbers: Sequence[int], items: Sequence[Any], /) -> None:
            """There was no time for these items."""

        call_soon: Callable[[], None]
        """Have items begin, if there are places for them."""

        def rests(self, number: int, coroutine: Any, /) -> None:
            """The call for an item returned a coroutine, which must be awaited still."""


AT_ONCE: Final = 1e-3
"""Seconds that a batch takes in a thread."""

AT_ONCE_AWAY: Final = 5e-2
"""Seconds that a batch takes in another process."""

TINY: Final = 2e-6
TOGETHER: Final = 64
"""Items that take less than `TINY` seconds are timed together, at most so many, because reading
the clock takes as long as their calls."""

_MOST: Final = 1 << 16
"""Items that are taken together, at most."""

_MOST_STREAMED: Final = 2048
"""The same for `into`: all that was pulled and all results that it has not taken stay alive."""

_HEAVY: Final = 1 << 23
"""Bytes of items, or of results, that travel in one message, unless one alone has more."""

_SHARES: Final = 32
"""Into how many parts a batch for another process is divided at most, so that all end together."""

FAILED: Final = object()
"""Stands for the result of an item that failed."""


class Batch:
    """What became of the items of a batch: results and seconds of runs of items, those that failed,
    and those for which a sync function returned a coroutine. `is_over`: the map has failed with
    it."""

    __slots__ = ("failed", "is_over", "parts", "rests")

    def __init__(self) -> None:
        self.parts: list[tuple[Sequence[int], list[Any], array[float]]] = []
        self.failed: list[tuple[int, BaseException]] = []
        self.rests: set[int] = set()
        self.is_over = False


class Chunk:
    """Items that a thread calls in their order, and what other threads have not taken of them. The
    thread takes each from an iterator, which takes no lock and gives no item twice."""

    __slots__ = ("_begun", "_end", "_group", "_items", "_lock", "numbers")

    def __init__(self, numbers: Sequence[int], items: list[Any]) -> None:
        self.numbers = numbers
        self._items = items
        self._group: Iterator[Any] = iter(())  # what is left of the items before `_begun`
        self._begun = 0
        self._end = len(items)
        self._lock = Lock()

    @property
    def left(self) -> int:
        """How many nobody has called."""
        return self._end - self._begun + length_hint(self._group)

    def begin(self, most: int) -> Iterator[Any]:
        """The next items, at most so many, which the thread calls now: first those that are left of
        the last ones, because a call raised or another thread took some."""
        with self._lock:
            group = list(self._group)
            if not group:
                first = self._begun
                self._begun = min(first + most, self._end)
                group = self._items[first : self._begun]
            self._group = iter(group)
            return self._group

    def take(self, part: int) -> tuple[Sequence[int], list[Any]]:
        """Take one in `part` of those that nobody has called away, from the end."""
        with self._lock:
            end, first = self._end, self._begun - len(list(self._group))
            self._end = end - -(-(end - first) // part)
            self._begun = min(self._begun, self._end)
            self._group = iter(self._items[first : self._begun])
            return self.numbers[self._end : end], self._items[self._end : end]

    def __iter__(self) -> Iterator[Any]:
        while (item := next(self.begin(1), FAILED)) is not FAILED:
            yield item


class Batches:
    """Calls items as long as they take `AT_ONCE` seconds together. `size` is how many are taken
    from the map at a time, found from how long they took so far."""

    def __init__(self, calls: Calls) -> None:
        self.size = 1
        self.is_sole = calls.is_sole
        self._calls = calls
        self._most = _MOST if calls.stream is None else _MOST_STREAMED
        self._weight = 1.0  # bytes of an item, or of a result, in messages
        self._chunks: set[Chunk] = set()  # that threads are at
        self._left: list[Chunk] = []  # that threads had no time for
        self._lock = Lock()

    def call_items(self) -> Batch:
        """Call items, one after the other, for a short time."""
        done = Batch()
        now = perf_counter()
        until = now + AT_ONCE
        while now < until and not (done.is_over or self._calls.stopped):
            chunk = self._chunk()
            if not chunk.left:
                break
            with self._lock:
                self._chunks.add(chunk)
            try:
                begun, now = now, self.call_each(chunk, chunk.numbers, done, until)
            finally:
                with self._lock:
                    self._chunks.discard(chunk)
                    if chunk.left:
                        self._left.append(Chunk(*chunk.take(1)))
            self._adapt(len(done.parts[-1][1]), now - begun)
        return done

    def spare(self) -> int:
        """How many items threads have taken and not begun: one of them may hang."""
        with self._lock:
            return sum(chunk.left for chunk in (*self._chunks, *self._left))

    def _chunk(self) -> Chunk:
        """Items that a thread had no time for, or that nobody has taken, or half of what the thread
        that has most still has; empty if there are none."""
        with self._lock:
            if self._left:
                return self._left.pop()
        taken = self._taken()
        if taken is None:
            with self._lock:
                chunk = max(self._chunks, key=_left, default=None)
            taken = ((), []) if chunk is None else chunk.take(2)
        return Chunk(*taken)

    def call_each(
        self, items: Iterable[Any], numbers: Sequence[int], done: Batch, until: float
    ) -> float:
        """Call items until the time is `until`, and note in `done` what became of them. Returns the
        time. What the items raise as they are gone through is raised."""
        calls, iterator = self._calls, iter(items)
        some = items.begin if isinstance(items, Chunk) else partial(islice, iterator)
        values: list[Any] = []
        seconds = array("f")
        done.parts.append((numbers, values, seconds))
        while True:
            begun, before = perf_counter(), len(seconds)
            try:
                if calls.stream is None:
                    return self._call_some(some, done, until)
                return self._call_one(iterator, done, until)
            except failures() as error:
                number = numbers[len(values)]
                if calls.walk.pulled <= number:
                    raise  # by what is gone through
                done.failed.append((number, calls.failed(number, error)))
                values.append(FAILED)
                now = perf_counter()
                seconds.extend(repeat(now - begun - sum(seconds[before:]), 1))
                done.is_over = calls.is_lost
                if done.is_over or now > until or calls.stopped:
                    return now
            finally:
                seconds.extend(repeat(0.0, len(values) - len(seconds)))

    def _call_some(self, some: Callable[[int], Iterable[Any]], done: Batch, until: float) -> float:
        """Call some items between two looks at the clock."""
        _, values, seconds = done.parts[-1]
        call, clock, keep = self._calls.call, perf_counter, values.append
        group, now, made = 1, clock(), len(values)
        try:
            while True:
                last = now
                for item in some(group):  # `map` would end at a StopIteration
                    keep(call(item))
                now = clock()
                count = len(values) - made
                if not count:
                    return now
                seconds += array("f", ((now - last) / count,)) * count
                if CoroutineType in set(map(type, values[made:])):
                    self._note_rests(values, made, done)
                made += count
                if now > until:
                    return now
                group = min(2 * group, TOGETHER) if now - last < group * TINY else 1
        finally:
            self._note_rests(values, made, done)  # of those before a call that raised

    def _call_one(self, iterator: Iterator[Any], done: Batch, until: float) -> float:
        """Call items one by one, and hand over each result at once."""
        numbers, values, seconds = done.parts[-1]
        calls, clock, now = self._calls, perf_counter, perf_counter()
        call, stream = calls.call, calls.stream
        assert stream is not None
        for item in iterator:
            value = call(item)
            values.append(value)
            last, now = now, clock()
            seconds.append(now - last)
            if type(value) is CoroutineType:
                self._note_rests(values, len(values) - 1, done)
            else:
                stream.put(numbers[len(values) - 1], value)
            if now > until or calls.stopped:
                break
        return now

    async def await_items(self) -> Batch:
        """The same for an async function."""
        calls, clock, done = self._calls, perf_counter, Batch()
        call, results = calls.call, calls.stream
        until, now = turn_ends(), 0.0
        while now < until and not done.is_over:
            taken = self._taken(1)
            if taken is None:
                break
            numbers, items = taken
            begun = clock()
            try:
                value = await call(items[0])
            except failures() as error:
                if _is_cancelled(error):
                    raise
                done.failed.append((numbers[0], error))
                value = FAILED
                done.is_over = calls.is_lost
            now = clock()
            done.parts.append((numbers, [value], array("f", (now - begun,))))
            if results is not None and value is not FAILED:
                results.put(numbers[0], value)
            if calls.stopped:
                break
        return done

    def _taken(self, most: int | None = None) -> tuple[Sequence[int], list[Any]] | None:
        numbers, items = self._calls.taken(self.size if most is None else most)
        return (numbers, items) if items else None

    def _note_rests(self, values: list[Any], since: int, done: Batch) -> None:
        """Note which values are coroutines that must be awaited still."""
        numbers = done.parts[-1][0]
        for at in range(since, len(values)):
            if type(values[at]) is CoroutineType:
                self._calls.rests(numbers[at], values[at])
                done.rests.add(numbers[at])
                values[at] = FAILED

    def _adapt(
        self, items: int, seconds: float, at_once: float = AT_ONCE / 4, growth: int = 4
    ) -> None:
        """Find how many items take so long together, from how long some took."""
        if items:
            fitting = int(at_once / max(seconds / items, 1e-8))
            light = int(_HEAVY / self._weight)
            self.size = max(1, min(fitting, light, growth * self.size, self._most))

    def parcel(self) -> Parcel:
        """Items to be called in another process. Of the last ones each process takes a share."""
        calls, size = self._calls, self.size
        left = calls.walk.left
        if left is not None:
            size = max(min(size, left // (2 * calls.places)), size // _SHARES, 1)
        return Parcel(calls, self, *calls.taken(size))

    def timed(self, items: int, seconds: float, weight: float) -> None:
        """So many items took so long in another process, and each took so many bytes of a message,
        there or back."""
        self._weight = weight
        self._adapt(items, seconds, AT_ONCE_AWAY, 16)


class Parcel:
    """Items that are called in another process, and what became of them."""

    def __init__(
        self, calls: Calls, batches: Batches, numbers: Sequence[int], items: list[Any]
    ) -> None:
        self.items = items
        self.is_sole = batches.is_sole
        self._calls = calls
        self._batches = batches
        self._numbers = numbers
        self._done = Batch()
        self._values: list[Any] = []
        self._seconds = array("f")
        self._weight = 1.0
        self._done.parts.append((numbers, self._values, self._seconds))

    @property
    def is_unsent(self) -> bool:
        """Whether nothing is known of its items."""
        return not self._values

    def took(
        self, values: list[Any], seconds: array[float], failed: Mapping[int, BaseException]
    ) -> None:
        """The next items ended: with these values, but for those that failed, by their places."""
        numbers, first, stream = self._numbers, len(self._values), self._calls.stream
        for at, error in failed.items():
            self._done.failed.append((numbers[first + at], error))
            values[at] = FAILED
        self._values += values
        self._seconds += seconds
        if stream is not None:
            for at, value in enumerate(values, first):
                if value is not FAILED:
                    stream.put(numbers[at], value)

    def weigh(self, size: int, count: int) -> None:
        """A message has so many bytes, for so many items or results."""
        self._weight = max(self._weight, size / count)

    def keep(self, count: int) -> None:
        """Give back all but the first so many items, while these are being called."""
        numbers, items = self._numbers[count:], self.items[count:]
        self.items = self.items[:count]
        self._calls.give_back(numbers, items)
        self._calls.call_soon()

    def ended(self, begun: int, error: Exception | None) -> Batch:
        """Nothing more comes: `begun` items were begun, and those without an outcome are lost,
        because of `error`. The rest is given back."""
        self._batches.timed(len(self._values), sum(self._seconds), self._weight)
        if error is not None:
            lost = max(min(begun, len(self.items)) - len(self._values), 0)
            self.took([None] * lost, array("f", [0.0] * lost), dict.fromkeys(range(lost), error))
        made = len(self._values)
        if made < len(self.items):
            self._calls.give_back(self._numbers[made:], self.items[made:])
        return self._done

    def unread(self, error: Exception) -> Batch:
        """The other process could not unpickle the items. The one item cannot be sent, or all are
        given back, to be sent one by one."""
        self._batches.size = 1
        return self.without({0: error} if len(self.items) == 1 else {})

    def without(self, failed: Mapping[int, Exception]) -> Batch:
        """These items cannot be sent. The others are given back."""
        numbers, items = self._numbers, self.items
        rest = [at for at in range(len(items)) if at not in failed]
        self._calls.give_back([numbers[at] for at in rest], [items[at] for at in rest])
        done = self._done
        done.parts[0] = (
            [numbers[at] for at in failed],
            [FAILED] * len(failed),
            array("f", [0.0] * len(failed)),
        )
        done.failed.extend((numbers[at], error) for at, error in failed.items())
        return done


def _left(chunk: Chunk) -> int:
    return chunk.left


def _is_cancelled(error: BaseException) -> bool:
    """Whether the task of an item was cancelled, and did not raise a CancelledError by itself."""
    from asyncio import CancelledError, current_task  # slow to import

    task = current_task()
    return isinstance(error, CancelledError) and task is not None and bool(task.cancelling())
