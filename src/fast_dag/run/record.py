"""Record: the clock readings and counts of a run. Views of them are built when they are read."""

from __future__ import annotations

from time import perf_counter, time

from fast_dag._fields import Fields
from fast_dag.errors import brief_of
from fast_dag.plan.binding import gives_one_shot
from fast_dag.schedule.base import NodeStatus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from typing import Any

    from fast_dag.call.effects import Outcome
    from fast_dag.plan.topology import Topology
    from fast_dag.schedule.base import Schedule

_EXECUTED = (NodeStatus.COMPLETED, NodeStatus.FAILED)
_CALLED = (*_EXECUTED, NodeStatus.RUNNING, NodeStatus.CANCELLED)


class Retry(Fields):
    """An attempt that failed. Another one follows after `delay` seconds."""

    __slots__ = ("at", "delay", "error", "node")

    def __init__(self, node: str, at: float, delay: float, error: str) -> None:
        self.node = node
        self.at = at
        self.delay = delay
        self.error = error


class Record:
    """Clock readings, counts and the schedule of one run. It refers neither to values nor to the
    run, so that it keeps neither of them alive.

    The straight line appends to `stamps`: one reading at the start and one after each node, in
    sequential order. All other ways append (node, start, end) to `spans`.
    """

    # Defaults on the class, so that making a record sets fewer attributes.
    schedule: Schedule | None = None
    began = 0.0
    began_at = 0.0  # by the wall clock
    ended: float | None = None
    retries = cache_hits = cache_misses = 0
    retried: Sequence[Retry] = ()  # a list of this record's own after the first retry
    most_retried: int | None = None
    peak_mb: float | None = None
    # The nodes that completed in an earlier run, and the one-shot results that were used up there.
    taken: Collection[int] = ()
    used_up: Collection[str] = ()

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.stamps: list[float] = []
        self.spans: list[tuple[int, float, float]] = []
        self.from_cache: set[str] = set()  # the nodes whose value came from their cache

    @property
    def seconds(self) -> float:
        """How long the run took, or has taken so far."""
        if not self.began:
            return 0.0
        return (perf_counter() if self.ended is None else self.ended) - self.began

    def begin(self) -> None:
        """Start the clock, or start it again for a machine that goes on: the time between does not
        count."""
        spent = 0.0 if self.ended is None else self.ended - self.began
        self.began = perf_counter() - spent
        self.began_at = self.began_at or time()
        self.ended = None

    def add(self, index: int, started: float, outcome: Outcome) -> float:
        """Record that a node ended now. Returns the seconds that it took."""
        ended = perf_counter()
        self.spans.append((index, started, ended))
        if outcome.attempts > 1 or outcome.cached is not None:
            self.count(self.topology.names[index], outcome)
        return ended - started

    def count(self, node: str, outcome: Outcome) -> None:
        """Add a node's outcome to the counts."""
        if outcome.attempts > 1:
            self.retries += outcome.attempts - 1
        if outcome.cached is not None:
            if outcome.cached:
                self.note_hit(node)
            else:
                self.cache_misses += 1
                self.from_cache.discard(node)  # an earlier visit of the state may have added it

    def note_hit(self, node: str) -> None:
        """Count that a node's value came from its cache."""
        self.cache_hits += 1
        self.from_cache.add(node)

    @property
    def ended_count(self) -> int:
        """How many nodes have ended."""
        return len(self.spans) + len(self.stamps)

    @property
    def uncached(self) -> int:
        """How many of those have no cache; the others counted as a hit or a miss."""
        return self.ended_count - self.cache_hits - self.cache_misses

    def note_retry(self, node: str, error: Exception, delay: float) -> None:
        """Record that an attempt failed now, and another follows."""
        text = brief_of(error)
        # `setdefault` is atomic: several threads may call this at once.
        own: list[Retry] = vars(self).setdefault("retried", [])
        own.append(Retry(node, perf_counter(), delay, text))
        if self.most_retried is not None and len(own) > 2 * self.most_retried:
            del own[: -self.most_retried]

    def leave_straight(self) -> None:
        """Turn `stamps` into `spans`. From now on the schedule knows which nodes have run."""
        self.spans = list(self.executed())
        self.stamps = []

    def executed(self) -> Iterator[tuple[int, float, float]]:
        """(node, start, end) of each node that ran, in the order in which they ended."""
        yield from self.spans
        yield from zip(self.topology.order, self.stamps, self.stamps[1:], strict=False)

    def status(self, index: int) -> NodeStatus:
        """The status of one node."""
        if self.schedule is not None:
            return self.schedule.status[index]
        return self.statuses()[self.topology.names[index]]

    def statuses(self) -> dict[str, NodeStatus]:
        """The status of every node, in the order of definition."""
        names = self.topology.names
        if self.schedule is not None:
            return dict(zip(names, self.schedule.status, strict=True))
        statuses = dict.fromkeys(names, NodeStatus.NOT_RUN)
        for index, _, _ in self.executed():
            statuses[names[index]] = NodeStatus.COMPLETED
        order, begun = self.topology.order, len(self.stamps)
        if 0 < begun <= len(order):
            is_over = self.ended is not None
            at = NodeStatus.CANCELLED if is_over else NodeStatus.RUNNING
            statuses[names[order[begun - 1]]] = at
        return statuses

    def times(self) -> dict[str, float]:
        """The seconds that each node took, by name, in the order in which the nodes ended."""
        names = self.topology.names
        return {names[index]: end - start for index, start, end in self.executed()}

    def consumed(self, results: Mapping[str, Any]) -> frozenset[str]:
        """The nodes with a result that can be gone through once only, in whole or in part, and that
        some node was given."""
        topology, found = self.topology, set(self.used_up)
        whole = topology.whole
        ran = [
            index
            for index, status in enumerate(self.statuses().values())
            if status in _CALLED and index not in self.taken
        ]
        found.difference_update(topology.names[index] for index in ran)
        for index in ran:
            for edge in topology.incoming[index]:
                name = edge.source
                if edge.input is not None and name in results and name not in found:
                    source = whole.nodes[whole.index[name]]
                    if gives_one_shot(edge, source, results[name]):
                        found.add(name)
        return frozenset(found)

    def measure(self) -> dict[str, Any]:
        """The engine's part of `context.metrics`."""
        times = self.times()
        statuses = list(self.statuses().values())
        memory = {} if self.peak_mb is None else {"memory_usage": {"peak_mb": self.peak_mb}}
        return {
            **memory,
            "execution_time": self.seconds,
            "node_times": times,
            "execution_order": list(times),
            "nodes_executed": sum(status in _EXECUTED for status in statuses) - len(self.taken),
            "nodes_failed": statuses.count(NodeStatus.FAILED),
            "nodes_skipped": statuses.count(NodeStatus.SKIPPED),
            "retries": self.retries,
            "cache_hits": self.cache_hits,
            "cache_misses": self.cache_misses,
        }
