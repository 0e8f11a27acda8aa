"""The report of a run as text for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fast_dag._frames import PACKAGE
from fast_dag.draw.view import view_of
from fast_dag.draw.words import counted, duration, shown, width
from fast_dag.report.analysis import analyse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fast_dag.draw.view import Viewable
    from fast_dag.report.analysis import Analysis, Bar, Row

_COLUMNS = 40
"""The width of the timeline."""
_MOST_BARS, _MOST_SLOW, _MOST_CHAIN, _MOST_SKIPPED, _MOST_ERRORS = 25, 5, 8, 10, 20
_MARKS = {"ran": "#", "cached": "=", "failed": "x", "slept": "~"}


def summary(run: Viewable) -> str:
    """See `Run.summary`."""
    analysis = analyse(view_of(run))
    parts = [
        f"{analysis.headline} ({analysis.setting})\n{analysis.tally}\n{analysis.origin}",
        "\n".join(_timeline(analysis)),
        "\n".join(_slowest(analysis)),
        "\n".join(_bounds(analysis)),
        "\n".join(_maps(analysis)),
        "\n".join(_skipped(analysis)),
        "\n".join(_errors(analysis)),
        "\n".join(_inputs(analysis)),
    ]
    return "\n\n".join(part for part in parts if part)


def _timeline(analysis: Analysis) -> Iterator[str]:
    if not analysis.bars:
        return
    bars, head = analysis.bars, "Timeline"
    if len(bars) > _MOST_BARS:
        bars = analysis.longest(_MOST_BARS)
        head += f", the {_MOST_BARS} longest of {len(analysis.bars):,}"
    labels = [_label(bar) for bar in bars]
    wide = max(map(width, labels))
    cached = ", = from its cache" * any(bar.is_cached for bar in bars)
    yield f"{head} (# ran{cached}, x failed attempt, ~ wait before the next, . wait for a worker)"
    for bar, label in zip(bars, labels, strict=True):
        padded = label + " " * (wide - width(label))
        status = "" if bar.status == "completed" else f" {bar.status}"
        yield f"  {padded} |{_drawn(bar, analysis.seconds)}| {duration(bar.seconds)}{status}"


def _label(bar: Bar) -> str:
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


def _slowest(analysis: Analysis) -> Iterator[str]:
    rows = analysis.slowest[:_MOST_SLOW]
    if not rows:
        return
    yield "Slowest"
    wide = max(width(shown(row.path)) for row in rows)
    for row in rows:
        name = shown(row.path)
        padded = name + " " * (wide - width(name))
        seconds = row.seconds or 0.0
        yield f"  {padded}  {duration(seconds):>8}  {analysis.share(seconds):>4}{_tries(row)}"


def _tries(row: Row) -> str:
    visits = "  " + counted(row.visits, "visit") if row.visits > 1 else ""
    attempts = "  " + counted(row.attempts, "attempt") if row.attempts > row.visits else ""
    return visits + attempts


def _bounds(analysis: Analysis) -> Iterator[str]:
    if analysis.critical:
        share = analysis.share(analysis.critical_seconds)
        yield f"Critical path: {duration(analysis.critical_seconds)}, {share} of the run"
        yield "  " + " > ".join(shown(each) for each in _shortened(analysis.critical))
    yield from analysis.bounds


def _shortened(chain: Sequence[str]) -> Sequence[str]:
    if len(chain) <= _MOST_CHAIN:
        return chain
    half = _MOST_CHAIN // 2
    return [*chain[:half], f"... {len(chain) - 2 * half} more ...", *chain[-half:]]


def _maps(analysis: Analysis) -> Iterator[str]:
    if analysis.maps:
        yield "Items"
    for each in analysis.maps:
        yield f"  {shown(each.path)}: {each.tally}"
        if each.slowest:
            slowest = (f"[{shown(key, 30)}] {duration(seconds)}" for key, seconds in each.slowest)
            yield f"    slowest: {', '.join(slowest)}"
        for words, count, part in each.bars:
            yield f"    {words:>12} {'#' * max(round(part * _COLUMNS), 1)} {count:,}"


def _skipped(analysis: Analysis) -> Iterator[str]:
    rows = [row for row in analysis.rows if row.status == "skipped" and row.note]
    if rows:
        yield "Skipped"
    for row in rows[:_MOST_SKIPPED]:
        yield f"  {shown(row.path)}: {shown(row.note)}"
    if len(rows) > _MOST_SKIPPED:
        yield f"  and {len(rows) - _MOST_SKIPPED:,} more"


def _errors(analysis: Analysis) -> Iterator[str]:
    if analysis.ended_by is not None and not analysis.failures:
        yield f"Ended by: {analysis.ended_by}"
    if analysis.failures:
        yield "Errors"
    for each in analysis.failures[:_MOST_ERRORS]:
        tries = f" after {each.attempts} attempts" if each.attempts > 1 else ""
        yield f"  {shown(each.path)}{tries}: {each.message}"
        places = [line.strip() for line in each.traceback.splitlines() if line.startswith("  File")]
        # A node may run another workflow: then its last lines are in this package.
        users = [place for place in places if not place.startswith(f'File "{PACKAGE}')]
        if places:
            yield f"    at {(users or places)[-1]}"
    if len(analysis.failures) > _MOST_ERRORS:
        yield f"  and {len(analysis.failures) - _MOST_ERRORS:,} more"


def _inputs(analysis: Analysis) -> Iterator[str]:
    if analysis.inputs:
        yield "Inputs"
    for name, value in analysis.inputs:
        yield f"  {name} = {value if len(value) <= 60 else value[:59] + '…'}"
