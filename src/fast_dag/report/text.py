"""What is told of a run, as text for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fast_dag.draw.words import counted, duration, shown, width
from fast_dag.report.analysis import facts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fast_dag.report.analysis import Bar, Facts, Row
    from fast_dag.run.run import Run

_COLUMNS = 40
"""The width of the timeline."""
_MOST_BARS, _MOST_SLOW, _MOST_CHAIN = 25, 5, 8
_MARKS = {"ran": "#", "failed": "x", "slept": "~"}


def summary(run: Run) -> str:
    """See `Run.summary`."""
    told = facts(run)
    parts = [
        "\n".join([f"{told.headline} ({told.how})", told.tally]),
        "\n".join(_timeline(told)),
        "\n".join(_slowest(told)),
        "\n".join(_bounds(told)),
        "\n".join(_errors(told)),
        "\n".join(_inputs(told)),
    ]
    return "\n\n".join(part for part in parts if part)


def _timeline(told: Facts) -> Iterator[str]:
    bars = told.bars
    if not bars:
        return
    head = "Timeline"
    if len(bars) > _MOST_BARS:
        kept = set(sorted(bars, key=lambda bar: -bar.seconds)[:_MOST_BARS])
        bars = [bar for bar in bars if bar in kept]
        head += f", the {_MOST_BARS} longest of {len(told.bars):,}"
    names = [_name(bar) for bar in bars]
    wide = max(map(width, names))
    yield f"{head} (# ran, x failed attempt, ~ wait before the next, . wait for a worker)"
    for bar, name in zip(bars, names, strict=True):
        padded = name + " " * (wide - width(name))
        status = "" if bar.status == "completed" else f" {bar.status}"
        yield f"  {padded} |{_drawn(bar, told.seconds)}| {duration(bar.seconds)}{status}"


def _name(bar: Bar) -> str:
    name = bar.path.rpartition(".")[2] if bar.depth else bar.path
    return "  " * bar.depth + shown(name, 30)


def _drawn(bar: Bar, seconds: float) -> str:
    def column(at: float) -> int:
        return min(int(at / seconds * _COLUMNS), _COLUMNS - 1) if seconds > 0 else 0

    cells = [" "] * _COLUMNS
    for at in range(column(bar.ready), column(bar.start)):
        cells[at] = "."
    for piece in bar.pieces:
        for at in range(column(piece.start), column(piece.end) + 1):
            cells[at] = _MARKS[piece.kind]
    return "".join(cells)


def _slowest(told: Facts) -> Iterator[str]:
    rows = told.slowest[:_MOST_SLOW]
    if not rows:
        return
    yield "Slowest"
    wide = max(width(shown(row.path)) for row in rows)
    for row in rows:
        name = shown(row.path)
        padded = name + " " * (wide - width(name))
        seconds = row.seconds or 0.0
        yield f"  {padded}  {duration(seconds):>8}  {told.share(seconds):>4}{_tries(row)}"


def _tries(row: Row) -> str:
    told = []
    if row.visits > 1:
        told.append(counted(row.visits, "visit"))
    if row.attempts > row.visits:
        told.append(counted(row.attempts, "attempt"))
    return "".join(f"  {each}" for each in told)


def _bounds(told: Facts) -> Iterator[str]:
    if told.critical:
        share = told.share(told.critical_seconds)
        yield f"Critical path: {duration(told.critical_seconds)}, {share} of the run"
        yield "  " + " > ".join(shown(each) for each in _ends(told.critical))
    yield from told.bounds


def _ends(chain: Sequence[str]) -> Sequence[str]:
    if len(chain) <= _MOST_CHAIN:
        return chain
    half = _MOST_CHAIN // 2
    return [*chain[:half], f"... {len(chain) - 2 * half} more ...", *chain[-half:]]


def _errors(told: Facts) -> Iterator[str]:
    if told.ended is not None and not told.failures:
        yield f"Ended by: {told.ended}"
    if told.failures:
        yield "Errors"
    for each in told.failures:
        tries = f" after {each.attempts} attempts" if each.attempts > 1 else ""
        yield f"  {shown(each.path)}{tries}: {each.message}"
        place = [line.strip() for line in each.traceback.splitlines() if line.startswith("  File")]
        if place:
            yield f"    at {place[-1]}"


def _inputs(told: Facts) -> Iterator[str]:
    if told.inputs:
        yield "Inputs"
    for name, value in told.inputs:
        yield f"  {name} = {value if len(value) <= 60 else value[:59] + '…'}"
