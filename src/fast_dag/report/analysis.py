"""What is told of a run: where its time went, what held it up, what failed."""

from __future__ import annotations

from collections import Counter
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from fast_dag.define.node import NodeType
from fast_dag.draw.words import brief, counted, duration, lines_shown, shown
from fast_dag.errors import text_of, traceback_of
from fast_dag.run.machine_state import FAILED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from fast_dag.draw.shape import Shape
    from fast_dag.run.record import Retry
    from fast_dag.run.run import Run

_MUCH = 0.8
"""The share of a run that its critical path takes where that is what bounds it."""


class Piece(NamedTuple):
    """A part of a bar: "ran", "failed" (an attempt) or "slept" (before the next), in seconds since
    the run began."""

    kind: str
    start: float
    end: float


class Bar(NamedTuple):
    """One execution of a node, in seconds since the run began. It could have started at `ready`,
    had there been a worker."""

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


class Row(NamedTuple):
    """One node in all: how it stands, its seconds, executions and attempts."""

    path: str
    status: str
    seconds: float | None
    visits: int
    attempts: int


class Failure(NamedTuple):
    """A failed node, its exception in a line, and the traceback."""

    path: str
    message: str
    attempts: int
    traceback: str


class Facts(NamedTuple):
    """All of it. `critical` is the longest chain of nodes that waited for each other, and
    `critical_seconds` how long it took."""

    name: str
    status: str
    noun: str
    how: str
    seconds: float
    counts: dict[str, int]
    bars: list[Bar]
    rows: list[Row]
    critical: list[str]
    critical_seconds: float
    work: float
    bounds: list[str]
    failures: list[Failure]
    retries: int
    cache_hits: int
    inputs: list[tuple[str, str]]
    metrics: list[tuple[str, str]]
    ended: str | None

    @property
    def headline(self) -> str:
        """How it ended, in a line."""
        return f"{shown(self.name)}: {self.status.replace('_', ' ')} in {duration(self.seconds)}"

    @property
    def tally(self) -> str:
        """How many nodes there are, and how they stand."""
        told = [f"{count:,} {name.replace('_', ' ')}" for name, count in self.counts.items()]
        if self.retries:
            told.append(counted(self.retries, "retry", "retries"))
        if self.cache_hits:
            told.append(counted(self.cache_hits, "cache hit"))
        return f"{counted(sum(self.counts.values()), self.noun)}: {', '.join(told)}"

    @property
    def slowest(self) -> list[Row]:
        """Those that ran, the slowest first."""
        ran = [row for row in self.rows if row.seconds is not None]
        return sorted(ran, key=lambda row: -(row.seconds or 0))

    def share(self, seconds: float) -> str:
        """Seconds as a part of the whole run."""
        return f"{seconds / self.seconds:.0%}" if self.seconds > 0 else "100%"


def facts(run: Run) -> Facts:
    """Find everything out. Clocks and statuses are read once."""
    shape, record = run._shape(), run.record
    ended = perf_counter() if record.ended is None else record.ended
    spans = [span for span in record.executed() if span[1] > 0.0]  # not those of other processes
    began = min([record.began, *(start for _, start, _ in spans)])
    bars = list(_bars(run, began))
    seconds = max([ended, *(end for *_, end in spans)]) - began
    outer = [bar for bar in bars if bar.depth == 0]
    chain, length = _critical(shape, {bar.path: bar for bar in outer})
    work = sum(bar.seconds for bar in outer)
    rows = list(_rows(run))
    told = Facts(
        run.name,
        run.status,
        run.noun,
        _how(run),
        seconds,
        Counter(str(status) for status in run.statuses.values()),
        bars,
        rows,
        chain,
        length,
        work,
        [],
        [_failure(run, path, error) for path, error in run.errors.items()],
        record.retries,
        record.cache_hits,
        [(shown(name), brief(value, 200)) for name, value in run.inputs.items()],
        _metrics(run),
        _end(run),
    )
    told.bounds.extend(_bounds(run, shape, told, outer))
    return told


def _how(run: Run) -> str:
    settings = run.settings
    mode = str(settings.mode)
    if settings.executor is not None:
        mode = type(settings.executor).__name__
    workers = settings.max_workers
    limit = "" if workers is None else f", {counted(workers, 'worker')}"
    timeout = "" if settings.timeout is None else f", timeout {duration(settings.timeout)}"
    return f"{mode}{limit}{timeout}"


def _end(run: Run) -> str | None:
    """What ended a run that failed or timed out."""
    error = run.exception() if run.status in ("failed", "timed_out") else None
    return None if error is None else lines_shown(text_of(error))


# Where the time went.


def _bars(
    run: Run, began: float, depth: int = 0, prefix: str = "", parent: float | None = None
) -> Iterator[Bar]:
    """The executions in the order of their start, those in nested workflows behind their node,
    which started at `parent`."""
    names, shape, statuses = run.record.topology.names, run._shape(), run.statuses
    retries: dict[str, list[Retry]] = {}
    for retry in run.record.retried:
        retries.setdefault(retry.node, []).append(retry)
    visits = () if shape.machine_state is None else shape.machine_state.visits
    failed = {start for _, value, start, _ in visits if value is FAILED}
    spans = sorted(run.record.executed(), key=lambda span: span[1])
    ends = {names[index]: end for index, _, end in spans}
    last = {names[index]: start for index, start, _ in spans}
    at_once = not (shape.is_machine or run.settings.ordered)
    for index, start, end in spans:
        if (
            start <= 0.0
        ):  # of a machine restored from another process, whose clock says nothing here
            continue
        name, ready = names[index], start
        status = str(statuses[name])
        if at_once:
            ready = min(start, _ready(shape, name, ends, began if parent is None else parent))
        if shape.is_machine:
            status = "failed" if start in failed else "completed"
        pieces = tuple(_pieces(retries.get(name, ()), start, end, status, began))
        yield Bar(prefix + name, depth, status, ready - began, start - began, end - began, pieces)
        child = run.children.get(name)
        if child is not None and last[name] == start:
            yield from _bars(child, began, depth + 1, f"{prefix}{name}.", start)


def _ready(shape: Shape, name: str, ends: dict[str, float], began: float) -> float:
    """When a node could have started."""
    if shape.ended is None:
        return began
    topology = shape.topology
    index = topology.index[name]
    node = topology.nodes[index]
    ended = [
        ends[edge.source]
        for edge in topology.incoming[index]
        if edge.source in ends and shape.ended(edge)
    ]
    if not ended:
        return began
    eager = node.type is NodeType.ANY and not node.options.get("wait")
    return min(ended) if eager else max(ended)


def _pieces(
    retries: Iterable[Retry], start: float, end: float, status: str, began: float
) -> Iterator[Piece]:
    at = start
    for retry in retries:
        if not start <= retry.at <= end:  # in another visit of that state
            continue
        yield Piece("failed", at - began, retry.at - began)
        at = min(retry.at + retry.delay, end)
        yield Piece("slept", retry.at - began, at - began)
    yield Piece("failed" if status == "failed" else "ran", at - began, end - began)


def _rows(run: Run, prefix: str = "") -> Iterator[Row]:
    timings = run.timings
    visits: dict[str, int] = {}
    shape = run._shape()
    if shape.machine_state is not None:
        visits = {
            shape.machine_state.names[state]: count
            for state, count in shape.machine_state.counts().items()
        }
    retries = Counter(retry.node for retry in run.record.retried)
    for name, status in run.statuses.items():
        ran = visits.get(name, int(name in timings))
        seconds = timings.get(name)
        yield Row(prefix + name, str(status), seconds, ran, ran + retries[name])
        child = run.children.get(name)
        if child is not None:
            yield from _rows(child, f"{prefix}{name}.")


def _critical(shape: Shape, bars: dict[str, Bar]) -> tuple[list[str], float]:
    """The chain of nodes, each waiting for the one before, that took longest; and how long."""
    if shape.is_machine or shape.ended is None:
        return [], 0.0
    topology = shape.topology
    finish: dict[str, float] = {}
    before: dict[str, str | None] = {}
    for index in topology.order:
        node = topology.nodes[index]
        bar = bars.get(node.name)
        if bar is None:
            continue
        sources = [
            edge.source
            for edge in topology.incoming[index]
            if edge.source in finish and shape.ended(edge)
        ]
        eager = node.type is NodeType.ANY and not node.options.get("wait")
        choose: Any = min if eager else max
        waited = choose(sources, key=finish.__getitem__, default=None)
        before[node.name] = waited
        finish[node.name] = bar.seconds + (0.0 if waited is None else finish[waited])
    at: str | None = max(finish, key=finish.__getitem__, default=None)
    length = 0.0 if at is None else finish[at]
    chain: list[str] = []
    while at is not None:
        chain.append(at)
        at = before[at]
    return chain[::-1], length


def _peak(bars: Sequence[Bar]) -> int:
    """How many nodes ran at once, at most."""
    moments = sorted([(bar.start, 1) for bar in bars] + [(bar.end, -1) for bar in bars])
    now = most = 0
    for _, change in moments:
        now += change
        most = max(most, now)
    return most


def _bounds(run: Run, shape: Shape, told: Facts, bars: list[Bar]) -> list[str]:
    """What keeps the run from being shorter."""
    work, wall, length = told.work, told.seconds, told.critical_seconds
    if not bars or wall <= 0:
        return []
    if shape.is_machine:
        return [
            f"A machine is in one state at a time: its states took {duration(work)} of "
            f"{duration(wall)}."
        ]
    path = f"the critical path ({counted(len(told.critical), run.noun)}, {duration(length)})"
    if run.settings.ordered:
        lines = [f"One node at a time: together they took {duration(work)} of {duration(wall)}."]
        if length >= _MUCH * work:
            lines.append(f"Nearly all of that is {path}, so other modes could gain little.")
        else:
            lines.append(f"Where nodes run at once, {path} would be the least that it takes.")
        return lines
    peak = _peak(bars)
    at_once = f"At most {counted(peak, run.noun)} ran at once; all together they took " + (
        f"{duration(work)}, {work / wall:.1f} times the run."
    )
    if length >= _MUCH * wall:
        return [
            at_once,
            f"What bounds it is {path}, {told.share(length)} of the run: more workers would gain "
            "little; make these nodes faster, or let them wait for less.",
        ]
    waited = sum(bar.start - bar.ready for bar in bars)
    workers = run.settings.max_workers or peak
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


# What failed, what went in.


def _failure(run: Run, path: str, error: BaseException) -> Failure:
    message = shown(f"{type(error).__name__}: {text_of(error)}", 200)
    text = lines_shown(traceback_of(error))
    return Failure(path, message, run._attempts.get(path, 1), text)


def _metrics(run: Run) -> list[tuple[str, str]]:
    """The engine's numbers, and what users added to them."""
    told: list[tuple[str, str]] = []
    for name, value in run.metrics.items():
        if name in ("node_times", "execution_order"):  # they are in the timeline
            continue
        text = duration(value) if name == "execution_time" else brief(value, 200)
        told.append((shown(str(name)), text))
    return told
