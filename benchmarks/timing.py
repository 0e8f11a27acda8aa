"""How everything here is measured: the compared sides in turn, in one process, round after round.

What else runs on the machine disturbs neighbouring measurements alike, so each round gives one
ratio (or difference) of what was measured side by side, and a row of the table is the median of
these, with the quartiles as its spread.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from math import ceil
from statistics import median, quantiles
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_SHORTEST = 1e-3
"""Seconds that one measurement takes at least; shorter calls are repeated to fill them."""


class Row(NamedTuple):
    """One line of the table: a value for each round, in `unit`, and at most how much it should be.
    Without a target it is reported only."""

    work: str
    values: Sequence[float]
    unit: str
    target: float | None = None
    note: str = ""

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The lower and the upper quartile."""
        if len(self.values) < 2:
            return self.median, self.median
        low, _, high = quantiles(self.values, n=4, method="inclusive")
        return low, high

    @property
    def verdict(self) -> str:
        if self.target is None:
            return "reported"
        return "met" if self.median <= self.target else "missed"


class Skip(Exception):  # noqa: N818  it is no error
    """Raised by a benchmark that cannot run here; says why."""


class Effort(NamedTuple):
    """How much is measured; `quick` shows that everything runs, and gives no figures to rely on."""

    quick: bool = False

    def of(self, full: Any, quick: Any) -> Any:
        """A number of rounds or a size."""
        return quick if self.quick else full


class Side(NamedTuple):
    """One of the things that are compared: `call`, given what `fresh` makes anew for each round.
    Where there is no `fresh` it is called without arguments, and short calls are repeated."""

    call: Callable[..., object]
    fresh: Callable[[], object] | None = None


def in_turn(
    *sides: Side | Callable[[], object], rounds: int, collecting: bool = False
) -> list[list[float]]:
    """Seconds that each side took in each round, after a round to warm up.

    The garbage collector runs before each measurement, and during it where `collecting`: of work
    that makes many objects which stay, collections are a part.
    """
    prepared = [side if isinstance(side, Side) else Side(side) for side in sides]
    repeats = [_repeats(side) for side in prepared]
    taken: list[list[float]] = [[] for _ in prepared]
    for _ in range(rounds):
        for side, times, seconds in zip(prepared, repeats, taken, strict=True):
            seconds.append(_measured(side, times, collecting=collecting))
    return taken


def _repeats(side: Side) -> int:
    once = _measured(side, 1, collecting=False)
    return 1 if side.fresh is not None else max(1, ceil(_SHORTEST / once))


def _measured(side: Side, times: int, *, collecting: bool) -> float:
    call = side.call
    arguments = () if side.fresh is None else (side.fresh(),)
    with collector(running=collecting):
        if side.fresh is None:
            call()  # the collector has just filled the processor's caches with other things
        started = perf_counter()
        for _ in range(times):
            call(*arguments)
        return (perf_counter() - started) / times


@contextmanager
def collector(*, running: bool) -> Iterator[None]:
    """The garbage collector, just run, and running on or not."""
    was_running = gc.isenabled()
    gc.collect()
    (gc.enable if running else gc.disable)()
    try:
        yield
    finally:
        (gc.enable if was_running else gc.disable)()


def ratios(ours: Sequence[float], baseline: Sequence[float]) -> list[float]:
    """Round by round, how many times the baseline."""
    return [one / other for one, other in zip(ours, baseline, strict=True)]


def added(ours: Sequence[float], baseline: Sequence[float], nodes: int) -> list[float]:
    """Round by round, how many microseconds a node more than the baseline."""
    return [1e6 * (one - other) / nodes for one, other in zip(ours, baseline, strict=True)]


def per_node(name: str, seconds: Sequence[float], nodes: int) -> str:
    """What a side took, as a note: `"L 0.080"`."""
    return f"{name} {1e6 * median(seconds) / nodes:.3g}"


def same_results(*calls: Callable[[], object]) -> None:
    """Raise where the sides that are to be compared do not give the same result."""
    first, *others = [call() for call in calls]
    for other in others:
        if other != first:
            raise AssertionError(f"compared sides differ: {first!r} and {other!r}")
