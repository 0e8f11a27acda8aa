"""What a report says of a run: where its time went, what bounds it, what failed."""

from __future__ import annotations

from collections import Counter
from os import getpid
from platform import node, python_version
from time import localtime, perf_counter, strftime
from typing import TYPE_CHECKING, Any, NamedTuple

from fast_dag.define.node import NodeType
from fast_dag.draw.words import brief, counted, duration, lines_shown, shown
from fast_dag.errors import brief_of, text_of, traceback_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from fast_dag.draw.view import RunView, WorkflowView
    from fast_dag.run.record import Retry

_MUCH = 0.8
"""From this share of a run on, its critical path is what bounds it."""


class Piece(NamedTuple):
    """A part of a bar: `kind` is "ran", "cached" (the value was looked up), "failed" (an attempt)
    or "slept" (before the next one)."""

    kind: str
    start: float
    end: float


class Bar(NamedTuple):
    """One execution of a node, in seconds since the run began. With a free worker it would have
    started at `ready`."""

    path: str
    depth: int
    status: str
    ready: float
    start: float
    end: float
    pieces: tuple[Piece, ...]

    @property
    def seconds(self) -> float:
        """How long it took, waits between attempts included."""
        return self.end - self.start

    @property
    def is_cached(self) -> bool:
        """Whether the value came from a cache."""
        return self.pieces[-1].kind == "cached"


class Row(NamedTuple):
    """One node over all its executions. `note` says why it was skipped, or that its value came
    from its cache; `seconds` is None if it did not run."""

    path: str
    status: str
    note: str
    seconds: float | None
    visits: int
    attempts: int


class Walked(NamedTuple):
    """A map that began: the numbers of its items in `tally`, and its slowest items, by key. Of
    `histogram` each entry has how long items took at most, and how many took that long."""

    path: str
    tally: str
    slowest: list[tuple[str, float]]
    histogram: list[tuple[float, int]]

    @property
    def bars(self) -> Iterator[tuple[str, int, float]]:
        """Of each entry of the histogram the time in words, the count, and its part of the largest
        count."""
        most = max((count for _, count in self.histogram), default=1)
        for bound, count in self.histogram:
            words = "longer" if bound == float("inf") else f"up to {duration(bound)}"
            yield words, count, count / most


class Failure(NamedTuple):
    """A failed node; `message` is its exception on one line."""

    path: str
    message: str
    attempts: int
    traceback: str


class Analysis(NamedTuple):
    """A run, analysed. `critical` is the longest chain of nodes that waited for each other,
    `critical_seconds` how long it took, `bounds` sentences that say what kept the run from being
    shorter, and `ended_by` the error that ended it."""

    name: str
    status: str
    noun: str
    setting: str
    origin: str
    seconds: float
    counts: dict[str, int]
    bars: list[Bar]
    rows: list[Row]
    critical: list[str]
    critical_seconds: float
    bounds: list[str]
    maps: list[Walked]
    failures: list[Failure]
    retries: int
    cache_hits: int
    inputs: list[tuple[str, str]]
    metrics: list[tuple[str, str]]
    ended_by: str | None

    @property
    def headline(self) -> str:
        """How the run ended, on one line."""
        return f"{shown(self.name)}: {self.status.replace('_', ' ')} in {duration(self.seconds)}"

    @property
    def tally(self) -> str:
        """The numbers of nodes, retries and cache hits."""
        parts = [f"{count:,} {name.replace('_', ' ')}" for name, count in self.counts.items()]
        if self.retries:
            parts.append(counted(self.retries, "retry", "retries"))
        if self.cache_hits:
            parts.append(counted(self.cache_hits, "cache hit"))
        return f"{counted(sum(self.counts.values()), self.noun)}: {', '.join(parts)}"

    @property
    def slowest(self) -> list[Row]:
        """The nodes that ran, the slowest first."""
        ran = [row for row in self.rows if row.seconds is not None]
        return sorted(ran, key=lambda row: -(row.seconds or 0))

    def longest(self, most: int) -> list[Bar]:
        """The longest `most` bars, in the order of all."""
        chosen = set(sorted(self.bars, key=lambda bar: -bar.seconds)[:most])
        return [bar for bar in self.bars if bar in chosen]

    def share(self, seconds: float) -> str:
        """Seconds in percent of the whole run."""
        return f"{seconds / self.seconds:.0%}" if self.seconds > 0 else "100%"


def analyse(view: WorkflowView) -> Analysis:
    """Analyse the view of a run."""
    run = view.run
    assert run is not None
    spans = [span for span in run.spans if span.start > 0.0]
    began = min([run.began, *(span.start for span in spans)])
    ended = max([run.ended or perf_counter(), *(span.end for span in spans)])
    bars = list(_bars(view, began))
    chain, length = _critical(view, {bar.path: bar for bar in bars if bar.depth == 0})
    analysis = Analysis(
        view.name,
        run.status,
        view.noun,
        _setting(run),
        _origin(run),
        ended - began,
        Counter(map(str, run.statuses.values())),
        bars,
        list(_rows(view)),
        chain,
        length,
        [],
        list(_maps(view)),
        [_failure(run, path, error) for path, error in run.errors.items()],
        run.metrics["retries"],
        run.metrics["cache_hits"],
        [(shown(name), brief(value, 200)) for name, value in run.inputs.items()],
        _metrics(run.metrics),
        None if run.error is None else lines_shown(text_of(run.error)),
    )
    return analysis._replace(bounds=_bounds(run, analysis))


def _setting(run: RunView) -> str:
    """The mode and the limits that were asked for."""
    parts = [run.mode]
    if run.max_workers is not None:
        parts.append(counted(run.max_workers, "worker"))
    if run.timeout is not None:
        parts.append(f"timeout {duration(run.timeout)}")
    return ", ".join(parts)


def _origin(run: RunView) -> str:
    """Which run it was, when and where."""
    began = strftime("%Y-%m-%d %H:%M:%S %z", localtime(run.began_at)) if run.began_at else "never"
    return (
        f"run {shown(str(run.run_id))}, began {began}, on {node()}, process {getpid()}, "
        f"Python {python_version()}"
    )


# Where the time went.


def _bars(
    view: WorkflowView,
    began: float,
    prefix: str = "",
    depth: int = 0,
    parent_start: float | None = None,
) -> Iterator[Bar]:
    """The executions in the order of their start; those in a nested workflow, whose node started
    at `parent_start`, follow that of the node."""
    run = view.run
    assert run is not None
    retries: dict[str, list[Retry]] = {}
    for retry in run.retries:
        retries.setdefault(retry.node, []).append(retry)
    spans = sorted(run.spans, key=lambda span: span.start)
    ends = {span.node: span.end for span in spans}
    last = {span.node: span for span in spans}
    at_once = view.machine is None and not run.is_ordered
    for span in spans:
        name, start, end, failed = span
        if not start:
            continue
        ready = start
        if at_once:
            first = began if parent_start is None else parent_start
            ready = min(start, _ready(view, name, ends, first))
        status = str(run.statuses[name])
        if view.machine is not None:
            status = "failed" if failed else "completed"
        ran = "failed" if failed else "ran"
        if view.machine is None and name in run.from_cache:
            ran = "cached"
        pieces = tuple(_pieces(retries.get(name, ()), start, end, ran, began))
        yield Bar(prefix + name, depth, status, ready - began, start - began, end - began, pieces)
        inner = view.nested.get(name)
        if inner is not None and inner.run is not None and last[name] is span:
            yield from _bars(inner, began, f"{prefix}{name}.", depth + 1, start)


def _ready(view: WorkflowView, name: str, ends: Mapping[str, float], began: float) -> float:
    """When a node could have started; without sources that was when its run began."""
    index = view.topology.index[name]
    waited_for = [ends[each] for each in _live_sources(view, index, ends)]
    decisive: float = _decisive(view, index)(waited_for, default=began)
    return decisive


def _live_sources(view: WorkflowView, index: int, known: Mapping[str, float]) -> list[str]:
    """The sources, among those that are known, that a node waited for."""
    edges = view.edges_into(index)
    return [edge.source for edge, live in edges if live and edge.source in known]


def _decisive(view: WorkflowView, index: int) -> Callable[..., Any]:
    """`min` if the first of its sources lets a node start, else `max`."""
    node = view.topology.nodes[index]
    return min if node.type is NodeType.ANY and not node.options.get("wait") else max


def _pieces(
    retries: Iterable[Retry], start: float, end: float, ran: str, began: float
) -> Iterator[Piece]:
    at = start
    for retry in retries:
        if not start <= retry.at <= end:  # it belongs to another visit of the state
            continue
        yield Piece("failed", at - began, retry.at - began)
        at = min(retry.at + retry.delay, end)
        yield Piece("slept", retry.at - began, at - began)
    yield Piece(ran, at - began, end - began)


def _rows(view: WorkflowView, prefix: str = "") -> Iterator[Row]:
    run = view.run
    assert run is not None
    retries = Counter(retry.node for retry in run.retries)
    reasons = view.skip_reasons()
    for name, status in run.statuses.items():
        visits = run.visits.get(name, 0)
        attempts = visits + retries[name]
        note = "from its cache" if name in run.from_cache else reasons.get(name, "")
        if name in run.items:
            note = run.items[name].times
        yield Row(prefix + name, str(status), note, run.timings.get(name), visits, attempts)
        inner = view.nested.get(name)
        if inner is not None and inner.run is not None:
            yield from _rows(inner, f"{prefix}{name}.")


def _maps(view: WorkflowView, prefix: str = "") -> Iterator[Walked]:
    run = view.run
    assert run is not None
    for name, items in run.items.items():
        ended = counted(items.ended, "item")
        if items.total is not None and items.total > items.ended:
            ended = f"{items.ended:,} of {counted(items.total, 'item')}"
        parts = [f"{items.completed:,} completed"]
        parts += [f"{items.failed:,} failed"] if items.failed else []
        parts += [f"{items.dropped:,} of these left out"] if items.dropped else []
        parts += [counted(items.retries, "retry", "retries")] if items.retries else []
        tally = f"{ended} ended: {', '.join(parts)}"
        yield Walked(prefix + name, tally, [*items.slowest], [*items.histogram])
    for name, inner in view.nested.items():
        if inner.run is not None:
            yield from _maps(inner, f"{prefix}{name}.")


def _critical(view: WorkflowView, bars: Mapping[str, Bar]) -> tuple[list[str], float]:
    """The chain of nodes, each waiting for the one before, that took longest; and how long."""
    if view.machine is not None:
        return [], 0.0
    finish: dict[str, float] = {}
    before: dict[str, str | None] = {}
    for index in view.topology.order:
        name = view.topology.names[index]
        if name in bars:
            sources = _live_sources(view, index, finish)
            source = _decisive(view, index)(sources, key=finish.__getitem__, default=None)
            before[name] = source
            finish[name] = bars[name].seconds + (0.0 if source is None else finish[source])
    at: str | None = max(finish, key=finish.__getitem__, default=None)
    length = 0.0 if at is None else finish[at]
    chain: list[str] = []
    while at is not None:
        chain.append(at)
        at = before[at]
    return chain[::-1], length


def _most_at_once(bars: Iterable[Bar]) -> int:
    """How many nodes ran at once, at most."""
    moments = sorted(each for bar in bars for each in ((bar.start, 1), (bar.end, -1)))
    now = most = 0
    for _, change in moments:
        now += change
        most = max(most, now)
    return most


def _bounds(run: RunView, analysis: Analysis) -> list[str]:
    """What keeps the run from being shorter."""
    bars = [bar for bar in analysis.bars if bar.depth == 0]
    work = sum(bar.seconds for bar in bars)
    wall, length = analysis.seconds, analysis.critical_seconds
    if not bars or wall <= 0:
        return []
    if analysis.noun == "state":
        return [
            f"A machine is in one state at a time: its states took {duration(work)} of "
            f"{duration(wall)}."
        ]
    nodes = counted(len(analysis.critical), "node")
    path = f"the critical path ({nodes}, {duration(length)})"
    if run.is_ordered:
        together = f"One node at a time: together they took {duration(work)} of {duration(wall)}."
        if length >= _MUCH * work:
            return [together, f"Nearly all of that is {path}, so other modes could gain little."]
        return [together, f"Where nodes run at once, {path} would be the least that it takes."]
    most = _most_at_once(bars)
    at_once = (
        f"At most {counted(most, 'node')} ran at once; all together they took "
        f"{duration(work)}, {work / wall:.1f} times the run."
    )
    if length >= _MUCH * wall:
        return [
            at_once,
            f"What bounds it is {path}, {analysis.share(length)} of the run: more workers would "
            "gain little; make these nodes faster, or let them wait for less.",
        ]
    waited = sum(bar.start - bar.ready for bar in bars)
    workers = run.max_workers or most
    if waited > wall - length and work / workers >= 0.5 * wall:
        return [
            at_once,
            f"What bounds it is workers: {counted(workers, 'worker')} need at least "
            f"{duration(work / workers)} for that work. With more it could come down to {path}.",
        ]
    return [
        at_once,
        f"Neither {path} nor the work of its nodes explains the whole run: the rest went into "
        "hooks, starting workers and handing over.",
    ]


# Failures and metrics.


def _failure(run: RunView, path: str, error: BaseException) -> Failure:
    message = shown(brief_of(error), 200)
    traceback = run.tracebacks.get(path) or traceback_of(error)
    return Failure(path, message, run.attempts.get(path, 1), lines_shown(traceback))


def _metrics(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The engine's numbers, and what users added to them."""
    return [
        (shown(str(name)), duration(value) if name == "execution_time" else brief(value, 200))
        for name, value in metrics.items()
        if name not in ("node_times", "execution_order")  # the timeline shows them
    ]
