"""What a map goes through, and what became of its items."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Set
from heapq import nlargest
from itertools import islice, product
from sys import maxsize
from types import AsyncGeneratorType, GeneratorType

from fast_dag.define.signature import ABSENT
from fast_dag.errors import names, text_of_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, Final, Self

    from fast_dag.call.effects import Outcome
    from fast_dag.define.mapspec import MapSpec
    from fast_dag.draw.view import ItemsView
    from fast_dag.plan.map_plan import MapPlan

    Item = tuple[Any, tuple[Any, ...]]
    """The key of an item, its position if it has none, and a value for each walked parameter."""

_TEXTS: Final = (str, bytes, bytearray, memoryview)
_OF_FRAMES: Final = ("itertuples", "iter_rows", "to_pylist", "collect")
"""What data frames have, of pandas, polars, Arrow, and lazy ones."""
_IN_MEMORY: Final = (list, tuple, dict, range, set, frozenset, deque)
"""Collections of these classes are gone through without a call of anybody's code."""

_ONCE: Final = (Iterator, AsyncIterator)
"""What can be gone through once only."""

MOST_ERRORS: Final = 1000
"""How many errors of items are kept, by item."""
_SLOWEST: Final = 10
_MOST_PARTS: Final = 1000
_MOST_WAITING: Final = 1 << 14
"""Parts, and items, that are not counted yet, at most."""


class Walk:
    """Goes through the collections of a map, item by item.

    `total` is the number of items, None if nobody can tell before the end. `is_keyed`: items have
    keys. `is_quick`: pulling an item calls nobody's code and never waits. `is_async`: items are
    pulled from an async iterator. `place` is what is being done, for errors.

    Raises TypeError for what cannot be mapped over, and ValueError for collections that do not fit
    each other.
    """

    def __init__(self, plan: MapPlan, values: Sequence[Any]) -> None:
        spec = plan.spec
        for name, value in zip(spec.walked, values, strict=True):
            _check(plan, name, value)
        self.place = "source"
        self.pulled = 0
        self._plan = plan
        self._keys = spec.keys
        self._values: Sequence[Any] = values
        self._own = [
            each for each in values if isinstance(each, (GeneratorType, AsyncGeneratorType))
        ]
        mappings: list[Any] = [each for each in values if isinstance(each, Mapping)]
        if mappings and not spec.is_product and len(mappings) < len(values):
            raise ValueError(
                f"map {plan.name!r} walks a mapping beside something else, so nobody can tell "
                "which items belong together; give mappings with the same keys, or lists"
            )
        self._mappings = mappings if mappings and not spec.is_product else []
        self.is_keyed = bool(self._mappings) or spec.keys is not None
        self.is_async = any(_is_async(each) for each in values)
        self.is_quick = all(map(_is_in_memory, values)) and spec.keys is None
        self._rest: list[list[Any]] = []  # of a product: all its collections but the first
        self._is_read = not spec.is_product  # whether they have been read
        self.total = self._total()
        self._items: Any = None
        self._sources: list[Callable[[], Any]] = []  # of a walk that is async
        self._row: list[Any] = []  # what they gave last

    def _total(self) -> int | None:
        plan, values = self._plan, self._values
        if plan.spec.is_product:
            if not all(map(_is_in_memory, values[1:])):
                return None  # what may call somebody's code, or wait, is read by who pulls
            self._read([_listed(each) for each in values[1:]])
            return self.total
        lengths = [_length(each) for each in values]
        if self._mappings:
            first = self._mappings[0].keys()
            for name, mapping in zip(plan.spec.walked, self._mappings, strict=True):
                if mapping.keys() != first:
                    lacking = [*(first - mapping.keys()), *(mapping.keys() - first)]
                    raise ValueError(
                        f"map {plan.name!r} walks mappings side by side, but {name!r} has other "
                        f"keys than {plan.spec.walked[0]!r}: {names(lacking)}"
                    )
        known = {each for each in lengths if each is not None}
        if len(known) > 1:
            told = ", ".join(
                f"{name!r} has {length}"
                for name, length in zip(plan.spec.walked, lengths, strict=True)
                if length is not None
            )
            raise ValueError(
                f"map {plan.name!r} walks collections of different lengths side by side: {told}"
            )
        return known.pop() if None not in lengths else None

    def _read(self, rest: list[list[Any]]) -> None:
        """All collections of a product but the first have been read: now `total` may be known."""
        self._rest, self._is_read = rest, True
        if not all(rest):
            self._values = ((),)  # no combinations, even of an endless first one
        self.total = _length(self._values[0])
        for each in rest:
            self.total = None if self.total is None else self.total * len(each)

    @property
    def left(self) -> int | None:
        """How many items are still to be pulled by whoever calls them; None if nobody can tell."""
        return self.total - self.pulled if self.is_quick and self.total is not None else None

    def pull(self) -> Item | None:
        """The next item; None after the last one."""
        if self._items is None:
            self._items = self._walk()
        return next(self._items, None)

    def several(self, most: int, is_sole: bool) -> list[Any]:
        """The next items, at most so many. Without keys only their values; if `is_sole`, their one
        value."""
        if self.is_keyed or not is_sole:
            if self._items is None:
                self._items = self._walk()
            pulled = list(islice(self._items, most))
            return pulled if self.is_keyed else [values for _, values in pulled]
        if self._items is None:
            self._items = iter(self._values[0])
        items = list(islice(self._items, most))
        self.pulled += len(items)
        return items

    def unkeyed(self, is_sole: bool) -> Iterator[Any]:
        """All items, for somebody who goes through all of them: their one value if `is_sole`, else
        tuples of values. Where that may raise, `pulled` counts them."""
        if not is_sole:
            return self._counted(values for _, values in self._walk())
        sole: Any = self._values[0]
        if type(sole) in (list, tuple, range):
            self.pulled = maxsize
            return iter(sole)
        return self._counted(sole)

    def _counted(self, items: Iterable[Any]) -> Iterator[Any]:
        for number, item in enumerate(items, 1):
            self.pulled = number
            yield item

    async def step(self) -> Item | None:
        """The same of a walk that is async. (An async generator would do this in a few lines. But
        the loop closes one that is left in a task of its own, which would outlive the run.)"""
        if self._items is None:
            if not self._is_read:
                self._read([await _listed_async(each) for each in self._values[1:]])
            pulled = self._values[: 1 if self._plan.spec.is_product else None]
            self._sources, self._items = [_anext(each) for each in pulled], iter(())
        while (rest := next(self._items, None)) is None:
            self._row = [await source() for source in self._sources]
            if any(each is ABSENT for each in self._row):
                if not self._plan.spec.is_product:
                    self._refuse_rest(self._row)
                return None
            self._items = product(*self._rest)
        number, self.pulled, keys = self.pulled, self.pulled + 1, self._keys
        values = (*self._row, *rest)
        return (number if keys is None else self._key(keys, values)), values

    def _walk(self) -> Iterator[Item]:
        keys = self._keys
        if self._mappings:
            first, *others = self._mappings
            for key, value in first.items():
                self.pulled += 1
                values = (value, *(each[key] for each in others))
                yield (key if keys is None else self._key(keys, values)), values
            return
        for number, values in enumerate(self._side_by_side()):
            self.pulled = number + 1
            yield (number if keys is None else self._key(keys, values)), values

    def _key(self, keys: Callable[..., Any], values: tuple[Any, ...]) -> Any:
        self.place = "keys function"
        key = keys(*values)
        try:
            hash(key)
            is_itself = bool(key == key)  # noqa: PLR0124  NaN is not: nobody could find its item
        except Exception as error:
            raise TypeError(
                f"the keys function of map {self._plan.name!r} gave {key!r} to item "
                f"{self.pulled - 1}, which is not hashable: {error}"
            ) from error
        if not is_itself:
            raise ValueError(
                f"the keys function of map {self._plan.name!r} gave {key!r} to item "
                f"{self.pulled - 1}, which is not equal to itself, so it is no key"
            )
        self.place = "source"
        return key

    def _side_by_side(self) -> Iterator[tuple[Any, ...]]:
        if not self._is_read:
            self._read([_listed(each) for each in self._values[1:]])
        values = self._values
        if self._plan.spec.is_product:
            for one in _elements(values[0]):
                for rest in product(*self._rest):
                    yield (one, *rest)
        elif len(values) == 1:
            for one in values[0]:
                yield (one,)
        else:
            iterators = [iter(each) for each in values]
            while True:
                row = [next(each, ABSENT) for each in iterators]
                if any(each is ABSENT for each in row):
                    self._refuse_rest(row)
                    return
                yield tuple(row)

    def _refuse_rest(self, row: list[Any]) -> None:
        """Raise ValueError if some of the collections side by side have ended, and others not."""
        ended = [
            name for name, each in zip(self._plan.spec.walked, row, strict=True) if each is ABSENT
        ]
        if len(ended) < len(row):
            raise ValueError(
                f"map {self._plan.name!r} walks collections side by side, and {names(ended)} ended "
                f"after {self.pulled} {'item' if self.pulled == 1 else 'items'}, before the others"
            )

    @property
    def has_lasting_keys(self) -> bool:
        """Whether another walk of the same collections gives the same keys to the same items. Sets
        that were pickled may come in another order; an iterator gives what is left of it."""
        values = self._values
        is_ordered = self.is_keyed or not any(isinstance(each, Set) for each in values)
        return is_ordered and not any(isinstance(each, _ONCE) for each in values)

    @property
    def needs_close(self) -> bool:
        """Whether `close` does anything."""
        return bool(self._own)

    def close(self) -> None:
        """Close the generators that the map went through."""
        for each in self._own:
            if isinstance(each, GeneratorType):
                each.close()

    async def aclose(self) -> None:
        """The same for async ones, too."""
        for each in self._own:
            if isinstance(each, GeneratorType):
                each.close()
            else:
                await each.aclose()

    def let_go(self) -> None:
        """Refer to no collection any more."""
        self._values, self._rest, self._own, self._mappings = (), [], [], []
        self._items = None
        self._sources, self._row = [], []


def _check(plan: MapPlan, name: str, value: Any) -> None:
    whose = f"parameter {name!r} of map {plan.name!r}"
    came = plan.source_of(name)
    if value is None:
        raise TypeError(f"{whose} got None {came}: nothing to map over; return [] for no items")
    kind = type(value)
    if isinstance(value, _TEXTS):
        parts = "characters" if isinstance(value, str) else "bytes"
        raise TypeError(
            f"{whose} got one {kind.__name__} {came}, and its items would be its {parts}; give "
            f"a list, or say list(...) if you mean that"
        )
    if hasattr(kind, "columns") and any(hasattr(kind, each) for each in _OF_FRAMES):
        raise TypeError(
            f"{whose} got a data frame {came}, whose items are its columns, or their names; give "
            'its rows: frame.itertuples(), frame.to_dict("records"), frame.iter_rows(named=True) '
            "or table.to_pylist(), of a lazy frame after frame.collect()"
        )
    is_single = getattr(value, "ndim", None) == 0  # an array of no dimension
    if is_single or not (
        hasattr(kind, "__iter__") or hasattr(kind, "__getitem__") or hasattr(kind, "__aiter__")
    ):
        raise TypeError(f"{whose} got one {kind.__name__} {came}, which cannot be gone through")


def _is_async(value: Any) -> bool:
    return hasattr(type(value), "__aiter__") and not hasattr(type(value), "__iter__")


def _is_array(value: Any) -> bool:
    kind = type(value)
    return kind.__module__ == "numpy" and kind.__name__ == "ndarray" and not value.dtype.hasobject


def _is_in_memory(value: Any) -> bool:
    return type(value) in _IN_MEMORY or _is_array(value)


def _length(value: Any) -> int | None:
    if not hasattr(type(value), "__len__"):
        return None
    try:
        return len(value)
    except Exception:
        return None


def _elements(value: Any) -> Any:
    return value.values() if isinstance(value, Mapping) else value


def _listed(value: Any) -> list[Any]:
    return list(iter(_elements(value)))  # not by its len()


async def _listed_async(value: Any) -> list[Any]:
    return [each async for each in value] if _is_async(value) else _listed(value)


def _anext(value: Any) -> Callable[[], Any]:
    if _is_async(value):
        iterator = value.__aiter__()

        async def step() -> Any:
            try:
                return await iterator.__anext__()
            except StopAsyncIteration:
                return ABSENT

    else:
        plain = iter(value)

        async def step() -> Any:
            return next(plain, ABSENT)

    return step


_BOUNDS: Final = tuple(float(f"{base}e{power}") for power in range(-6, 4) for base in (1, 2, 5))
"""The upper bounds of the histogram, in seconds."""


class Failed:
    """An item that failed: what it is called (`"[3]"`), what failed inside of it (`".fetch"`), its
    key, and how it ended. `shown` is the key of its error, that of an item inside of it perhaps."""

    __slots__ = ("attempts", "error", "inside", "key", "place", "shown", "where")

    def __init__(
        self,
        place: str,
        key: Any,
        error: BaseException,
        attempts: int,
        where: str | None,
        inside: str = "",
        shown: Any = ABSENT,
    ) -> None:
        self.place = place
        self.key = key
        self.error = error
        self.attempts = attempts
        self.where = where
        self.inside = inside
        self.shown = key if shown is ABSENT else shown

    @property
    def label(self) -> str:
        """The name of its error, after that of the map."""
        return self.place + self.inside


class Items:
    """What became of the items of a map: `run.items("score")`.

    `total` is how many there are, None as long as nobody knows. `completed`, `failed`, `dropped`
    and `retries` are counts. `errors` are the exceptions by key, or by position, of at most 1,000
    items.

    >>> from fast_dag import DAG
    >>> dag = DAG("demo")
    >>> @dag.map(on_error="drop")
    ... def inverse(x: float) -> float:
    ...     return 1 / x
    >>> run = dag.execute(x=[1, 0, 2])
    >>> items = run.items("inverse")
    >>> items.total, items.completed, items.failed, items.dropped, list(items.errors)
    (3, 2, 1, 1, [1])
    """

    def __init__(self, name: str, total: int | None) -> None:
        self.name = name
        self.total = total
        self.completed = 0
        self.failed = 0
        self.dropped = 0
        self.retries = 0
        self.errors: dict[Any, BaseException] = {}
        # The seconds of items that are not in `_counts` yet, with their numbers or keys.
        self._parts: list[tuple[Sequence[Any], array[float]]] = []
        self._waiting = 0  # how many these are
        self._is_stream = False  # whether there may be any number of items
        self._slow: list[tuple[float, Any]] = []
        self._counts = [0] * (len(_BOUNDS) + 1)
        self._fatal: Failed | None = None  # why the map failed
        self._kept: list[Failed] = []
        self._results: dict[Any, Any] = {}  # of items that completed, if the map did not
        # The positions of dropped items, if items have no keys; None if no results are kept.
        self._left_out: Sequence[int] | None = None

    @classmethod
    def _restored(
        cls, name: str, spec: MapSpec, result: Any, completed: int, failed: Mapping[Any, Outcome]
    ) -> Self:
        """What a store has of a map that has ended: its result, ABSENT if it failed, how many items
        are known to have completed, and those that failed."""
        self = cls(name, None)
        is_kept = isinstance(result, (list, dict)) and spec.into is None
        self.failed = len(failed)
        self.dropped = self.failed if spec.on_error == "drop" else 0
        self.completed = len(result) + self.dropped - self.failed if is_kept else completed
        self.total = self.completed + self.failed if is_kept else None
        for key, outcome in failed.items():
            place, inner = f"[{text_of_key(key)}]", outcome.verdict.key
            inside = "" if inner is None else f".{inner}"
            error, attempts, where = outcome.value, outcome.attempts, outcome.where
            self.errors[key] = error
            self._kept.append(Failed(place, key, error, attempts, where, inside))
        self._tell_apart()
        if is_kept:
            is_short = self.dropped and isinstance(result, list)
            self._left_out = array("q", sorted(failed)) if is_short else ()
        return self

    def _tell_apart(self) -> None:
        """Called at the end of the map: where keys of failed items have one text, as 1 and "1" do,
        call these items what `call_id` calls them."""
        failed = [each for each in (*self._kept, self._fatal) if each is not None and each.place]
        places = {each.key: each.place for each in failed}
        if len({*places.values()}) == len(places):
            return
        from fast_dag.cache.keys import exact_text  # for those who have such keys

        for number, key in enumerate(places):
            text = exact_text(key)
            places[key] = f"[{f'#{number}' if text is None else text}]"
        for each in failed:
            each.place = places[each.key]

    def _place_of(self, position: int) -> int | None:
        """Where in the list of results that of an item is; None if the item was dropped."""
        left_out = self._left_out or ()
        before = bisect_left(left_out, position)
        is_dropped = before < len(left_out) and left_out[before] == position
        return None if is_dropped else position - before

    def _add(
        self, numbers: Sequence[int], keys: Sequence[Any] | None, seconds: array[float]
    ) -> None:
        """Items ended after so many seconds. They are counted when somebody asks, or there are
        many."""
        self._parts.append((numbers if keys is None else keys, seconds))
        self._waiting += len(seconds)
        if len(self._parts) > _MOST_PARTS or (self._is_stream and self._waiting > _MOST_WAITING):
            self._fold()

    def _fold(self) -> None:
        """Count the items whose seconds are known."""
        parts, self._parts, self._waiting = self._parts, [], 0
        counts, slow = self._counts, self._slow
        for names_of, seconds in parts:
            ordered, at = sorted(seconds), 0
            for bucket, bound in enumerate(_BOUNDS):
                before, at = at, bisect_right(ordered, bound, at)
                counts[bucket] += at - before
            counts[-1] += len(ordered) - at
            least = slow[-1][0] if len(slow) == _SLOWEST else -1.0
            if ordered and ordered[-1] > least:
                found = zip(seconds, names_of, strict=False)
                slow += nlargest(_SLOWEST, found, key=_by_seconds)
                slow.sort(key=_by_seconds, reverse=True)
                del slow[_SLOWEST:]

    @property
    def slowest(self) -> list[tuple[Any, float]]:
        """The ten items that took longest, as pairs of key and seconds."""
        self._fold()
        return [(key, seconds) for seconds, key in self._slow]

    @property
    def histogram(self) -> list[tuple[float, int]]:
        """How many items took how long, as pairs of an upper bound in seconds and a count."""
        self._fold()
        bounds = (*_BOUNDS, float("inf"))
        return [(bound, count) for bound, count in zip(bounds, self._counts, strict=True) if count]

    def _view(self) -> ItemsView:
        """What pictures and reports know of it."""
        from fast_dag.draw.view import ItemsView

        return ItemsView(
            self.total,
            self.completed,
            self.failed,
            self.dropped,
            self.retries,
            [(text_of_key(key), seconds) for key, seconds in self.slowest],
            self.histogram,
            None if self._fatal is None else self._fatal.label,
        )

    def __repr__(self) -> str:
        of = "" if self.total is None else f" of {self.total}"
        failed = f", {self.failed} failed" if self.failed else ""
        return f"<Items of {self.name!r}: {self.completed}{of} completed{failed}>"


def _by_seconds(entry: tuple[float, Any]) -> float:
    return entry[0]
