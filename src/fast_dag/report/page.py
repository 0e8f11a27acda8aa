"""The report of a run as one HTML page that loads nothing."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from fast_dag.draw.mermaid import mermaid
from fast_dag.draw.picture import TONES
from fast_dag.draw.sketch import sketch
from fast_dag.draw.svg import svg
from fast_dag.draw.view import view_of
from fast_dag.draw.words import counted, duration, shown
from fast_dag.errors import FastDAGError, text_of
from fast_dag.report.analysis import analyse

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence

    from fast_dag.draw.view import Viewable, WorkflowView
    from fast_dag.report.analysis import Analysis, Bar, Row

_MOST_SHRUNK = 2_000
"""A wider picture is shown in full size and scrolled; shrunk to the page it could not be read."""
_WORDS = {
    "ran": "ran",
    "cached": "looked up in its cache in",
    "failed": "failed after",
    "slept": "waited",
}
_MOST_BOXES, _MOST_LINKS, _MOST_BARS, _MOST_CHAIN, _MOST_ERRORS = 1_500, 5_000, 1_000, 60, 200


def page(run: Viewable, filename: str | os.PathLike[str] | None = None) -> str:
    """See `Run.report`."""
    view = view_of(run)
    analysis = analyse(view)
    script = _file("page.js")
    digest = b64encode(sha256(script.encode()).digest()).decode()
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        # Nothing is fetched, and no script runs but the one below.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        f"style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'\">",
        f"<title>{escape(analysis.headline)}</title>",
        f"<style>{_file('page.css')}{_tones()}</style></head><body>",
        *_header(analysis),
        *_section("Graph", _graph(view)),
        *_section("What bounds the run", _bounds(analysis)),
        *_section("Timeline", _timeline(analysis)),
        *_section("Items", _maps(analysis)),
        *_section("Errors", _errors(analysis)),
        *_section(f"Slowest {analysis.noun}s", _rows(analysis)),
        *_section("Inputs", _pairs(analysis.inputs)),
        *_section("Metrics", _pairs(analysis.metrics)),
        f"<script>{script}</script></body></html>",
    ]
    text = "\n".join(parts) + "\n"
    if filename is not None:
        Path(filename).write_text(text, encoding="utf-8")
    return text


def _file(name: str) -> str:
    return files("fast_dag.report").joinpath(name).read_text(encoding="utf-8")


def _key(path: str) -> str:
    """A node's path, as `data-node` has it in the picture and everywhere else on the page."""
    return escape(shown(path, None))


def _tones() -> str:
    return "".join(
        f".{name}{{background:{tone.fill};border-color:{tone.border};color:{tone.text}}}"
        for name, tone in TONES.items()
    )


def _section(title: str, body: Iterable[str]) -> Iterator[str]:
    lines = list(body)
    if lines:
        yield f"<section><h2>{escape(title)}</h2>"
        yield from lines
        yield "</section>"


def _header(analysis: Analysis) -> Iterator[str]:
    yield f'<header><h1>{escape(shown(analysis.name))} <span class="chip {_tone(analysis.status)}">'
    yield f"{escape(analysis.status.replace('_', ' '))}</span></h1><p>"
    yield escape(f"{duration(analysis.seconds)}, {analysis.setting}. {analysis.tally}.")
    yield f"<br><small>{escape(analysis.origin)}</small>"
    yield "</p></header>"


def _tone(status: str) -> str:
    """The colours of a run's status."""
    known = {"completed_with_errors": "failed", "timed_out": "failed", "not_run": "neutral"}
    return known.get(status, status)


def _graph(view: WorkflowView) -> Iterator[str]:
    picture = sketch(view)
    try:
        if picture.has_more_than(_MOST_BOXES, _MOST_LINKS):
            raise FastDAGError(f"it has more than {_MOST_BOXES:,} boxes or {_MOST_LINKS:,} links")
        drawn = svg(picture)
    except FastDAGError as error:
        yield f'<p class="note">The graph is not drawn: {escape(text_of(error))}.</p>'
        yield "<details><summary>The graph as Mermaid text</summary>"
        yield f"<pre>{escape(mermaid(picture))}</pre></details>"
        return
    wide = int(drawn.split('width="', 1)[1].split('"', 1)[0])
    checked = " checked" if wide > _MOST_SHRUNK else ""
    yield f'<input type="checkbox" id="full"{checked}><label for="full">full size</label>'
    yield f'<div class="graph">{drawn}</div>'


def _bounds(analysis: Analysis) -> Iterator[str]:
    for line in analysis.bounds:
        yield f"<p>{escape(line)}</p>"
    if analysis.critical:
        share = analysis.share(analysis.critical_seconds)
        yield (
            f"<p>Critical path, {duration(analysis.critical_seconds)} ({share} of the run):</p>"
            '<ol class="chain">'
        )
        yield from (
            f'<li data-node="{_key(each)}" tabindex="0">{escape(shown(each))}</li>'
            for each in analysis.critical[:_MOST_CHAIN]
        )
        more = len(analysis.critical) - _MOST_CHAIN
        yield f"<li>and {more:,} more</li></ol>" if more > 0 else "</ol>"


def _timeline(analysis: Analysis) -> Iterator[str]:
    bars: Sequence[Bar] = analysis.bars
    if not bars:
        return
    if len(bars) > _MOST_BARS:
        bars = analysis.longest(_MOST_BARS)
        yield f'<p class="note">The {_MOST_BARS:,} longest of {len(analysis.bars):,}.</p>'
    yield (
        '<p class="legend"><i class="ran"></i> ran <i class="cached"></i> from its cache '
        '<i class="failed"></i> failed attempt <i class="slept"></i> wait before the next '
        '<i class="queued"></i> wait for a worker</p>'
    )
    yield '<div class="timeline"><div class="row scale"><span></span><span class="track">'
    for part in range(5):
        yield (f'<b style="left:{part * 25}%">{escape(duration(analysis.seconds * part / 4))}</b>')
    yield "</span></div>"
    for bar in bars:
        yield from _bar(bar, analysis)
    yield "</div>"


def _bar(bar: Bar, analysis: Analysis) -> Iterator[str]:
    name = bar.path.rpartition(".")[2] if bar.depth else bar.path
    critical = " critical" if bar.path in analysis.critical else ""
    yield (
        f'<div class="row{critical}" data-node="{_key(bar.path)}" tabindex="0">'
        f'<span class="name" style="padding-left:{bar.depth}em">{escape(shown(name, 40))}</span>'
        '<span class="track">'
    )
    if bar.start - bar.ready > 0.002 * analysis.seconds:
        waited = f"waited {duration(bar.start - bar.ready)} for a worker"
        yield _piece("queued", bar.ready, bar.start, analysis, waited)
    for piece in bar.pieces:
        title = f"{_WORDS[piece.kind]} {duration(piece.end - piece.start)}"
        yield _piece(piece.kind, piece.start, piece.end, analysis, title)
    yield f"</span><em>{escape(duration(bar.seconds))}</em></div>"


def _piece(kind: str, start: float, end: float, analysis: Analysis, title: str) -> str:
    whole = analysis.seconds or 1.0
    left, wide = start / whole * 100, (end - start) / whole * 100
    return (
        f'<i class="{kind}" style="left:{left:.3f}%;width:{wide:.3f}%" title="{escape(title)}"></i>'
    )


def _maps(analysis: Analysis) -> Iterator[str]:
    for each in analysis.maps:
        path = escape(shown(each.path))
        yield f'<div data-node="{_key(each.path)}" tabindex="0">'
        yield f"<p><strong>{path}</strong>: {escape(each.tally)}.</p>"
        yield '<div class="items"><table><thead><tr><th>slowest</th><th>time</th></tr></thead>'
        yield "<tbody>"
        for key, seconds in each.slowest:
            yield f"<tr><td>[{escape(shown(key))}]</td><td>{escape(duration(seconds))}</td></tr>"
        yield '</tbody></table><div class="histogram">'
        for words, count, part in each.bars:
            yield f'<div class="row"><span class="name">{escape(words)}</span><span class="track">'
            yield f'<i class="ran" style="left:0;width:{part:.3%}"></i></span>'
            yield f"<em>{count:,}</em></div>"
        yield "</div></div></div>"


def _errors(analysis: Analysis) -> Iterator[str]:
    if analysis.ended_by is not None:
        yield f'<p class="ended">{escape(analysis.ended_by)}</p>'
    for number, each in enumerate(analysis.failures[:_MOST_ERRORS]):
        tries = f", {counted(each.attempts, 'attempt')}" if each.attempts > 1 else ""
        is_open = " open" if number == 0 else ""
        yield (
            f'<details data-node="{_key(each.path)}"{is_open}><summary>'
            f"<strong>{escape(shown(each.path))}</strong>{tries}: {escape(each.message)}</summary>"
            f"<pre>{escape(each.traceback)}</pre></details>"
        )
    if len(analysis.failures) > _MOST_ERRORS:
        yield f'<p class="note">And {len(analysis.failures) - _MOST_ERRORS:,} more.</p>'


def _rows(analysis: Analysis) -> Iterator[str]:
    rows: Sequence[Row] = analysis.slowest
    rest = [row for row in analysis.rows if row.seconds is None]
    if not analysis.rows:
        return
    yield "<table><thead><tr><th>name</th><th>status</th><th>time</th><th>share</th>"
    yield "<th>executions</th><th>attempts</th></tr></thead><tbody>"
    for row in [*rows, *rest][:_MOST_BARS]:
        seconds = "" if row.seconds is None else duration(row.seconds)
        share = "" if row.seconds is None else analysis.share(row.seconds)
        yield (
            f'<tr data-node="{_key(row.path)}" tabindex="0"><td>{escape(shown(row.path))}</td>'
            f'<td><span class="chip {_tone(row.status)}">{row.status.replace("_", " ")}</span>'
            f" <small>{escape(shown(row.note))}</small></td>"
            f"<td>{escape(seconds)}</td><td>{share}</td>"
            f"<td>{row.visits or ''}</td><td>{row.attempts or ''}</td></tr>"
        )
    yield "</tbody></table>"
    more = len(analysis.rows) - _MOST_BARS
    if more > 0:
        yield f'<p class="note">And {more:,} more.</p>'


def _pairs(pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    if pairs:
        yield "<dl>"
        for name, value in pairs:
            yield f"<dt>{escape(name)}</dt><dd><code>{escape(value)}</code></dd>"
        yield "</dl>"
