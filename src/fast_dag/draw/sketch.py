"""From a workflow or a run to its picture: the only place that knows what is drawn."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

from fast_dag.define.node import NodeType
from fast_dag.draw.picture import Box, Cluster, Form, Link, Picture
from fast_dag.draw.words import brief, counted, duration, shown
from fast_dag.errors import ValidationError, closest, names, text_of
from fast_dag.run.machine_state import FAILED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fast_dag.define.graph import Edge
    from fast_dag.define.node import Node
    from fast_dag.define.transitions import Transition
    from fast_dag.draw.shape import Shape
    from fast_dag.run.run import Run

_MANY = 80
"""From so many boxes on each has a line of its own only, unless `details` is asked for."""

_FORMS = {
    NodeType.NODE: Form.BOX,
    NodeType.CONDITION: Form.DIAMOND,
    NodeType.SELECT: Form.HEXAGON,
    NodeType.ANY: Form.STADIUM,
    NodeType.ALL: Form.STADIUM,
}


class DrawingOptions(TypedDict, total=False):
    """The options of `visualize`, all optional.

    - `direction`: "TB", "LR", "BT" or "RL"; when not given, whichever makes the better sheet.
    - `depth`: how many levels of nested workflows are opened; all when not given, none with 0.
    - `details`: whether boxes have more than one line; when not given, up to 80 boxes.
    """

    direction: Literal["TB", "LR", "BT", "RL"] | None
    depth: int | None
    details: bool | None


def read_options(options: Mapping[str, Any] | None) -> DrawingOptions:
    """The options, checked. Raises ValidationError.

    >>> read_options({"depth": 0})
    {'depth': 0}
    """
    given = dict(options or {})
    for name in given:
        if name not in DrawingOptions.__annotations__:
            hint = closest(name, DrawingOptions.__annotations__)[1]
            known = names(DrawingOptions.__annotations__)
            raise ValidationError(f"visualize has no option {name!r}{hint}; there are {known}")
    if given.get("direction") not in (None, "TB", "LR", "BT", "RL"):
        raise ValidationError(f"direction is TB, LR, BT or RL, not {given['direction']!r}")
    depth = given.get("depth")
    if depth is not None and (not isinstance(depth, int) or depth < 0):
        raise ValidationError(f"depth is a count of levels, not {depth!r}")
    checked: Any = given
    return checked  # type: ignore[no-any-return]


def sketch(
    shape: Shape,
    run: Run | None = None,
    *,
    results: bool = False,
    options: DrawingOptions | None = None,
) -> Picture:
    """The picture of a workflow, or of a run; with `results`, what each node returned."""
    options = {} if options is None else options
    depth, details = options.get("depth"), options.get("details")
    if details is None:
        details = _count(shape, depth) <= _MANY
    sketcher = _Sketcher(results=results, details=details)
    root = sketcher.cluster("root", "", shape, run, depth)
    return Picture(root, options.get("direction") or _better_direction(shape))


def _count(shape: Shape, depth: int | None) -> int:
    """How many boxes there will be."""
    count = 0
    for node in shape.topology.nodes:
        inner: Any = node.workflow
        if inner is None or depth == 0:
            count += 1
        else:
            count += _count(inner._shape(), None if depth is None else depth - 1)
    return count


def _better_direction(shape: Shape) -> str:
    """Boxes are wider than high, so many beside each other are better drawn below each other."""
    topology = shape.topology
    rank: dict[int, int] = {}
    for index in topology.order:
        rank[index] = max((rank.get(each, 0) + 1 for each in topology.sources(index)), default=0)
    layers = Counter(rank.values())
    widest = max(layers.values(), default=0)
    return "LR" if not shape.is_machine and widest > 8 and widest * 2 > len(layers) else "TB"


class _Place(NamedTuple):
    """Where a node stands: in which shape, and in which run, if any."""

    shape: Shape
    run: Run | None
    path: str
    statuses: Mapping[str, str]
    timings: Mapping[str, float]
    visits: Mapping[str, int]
    retries: Mapping[str, int]


class _Sketcher:
    def __init__(self, *, results: bool, details: bool) -> None:
        self.results = results
        self.details = details
        self._made = 0

    def _id(self) -> str:
        self._made += 1
        return f"n{self._made - 1}"

    def cluster(
        self,
        own_id: str,
        path: str,
        shape: Shape,
        run: Run | None,
        depth: int | None,
        head: Box | None = None,
    ) -> Cluster:
        """Everything in one workflow; `head` is the node that it is in another."""
        place = _place(shape, run, path)
        ids: dict[str, str] = {}
        items: list[Box | Cluster] = []
        for node in shape.topology.nodes:
            ids[node.name] = own = self._id()
            box = self._box(own, node, place)
            inner: Any = node.workflow
            if inner is None or depth == 0 or not len(inner):
                items.append(box)
                continue
            below = None if run is None else run.children.get(node.name)
            inside = inner._shape() if below is None else below._shape()
            deeper = None if depth is None else depth - 1
            items.append(self.cluster(own, f"{place.path}{node.name}.", inside, below, deeper, box))
        if shape.is_machine:
            links = self._ways(place, ids, items)
        else:
            links = [
                Link(
                    ids[edge.source],
                    ids[edge.target],
                    _edge_label(edge, shape),
                    "order" if edge.input is None else "value",
                    None if shape.ended is None else shape.ended(edge),
                )
                for edges in shape.topology.incoming
                for edge in edges
            ]
        if head is None:
            return Cluster(own_id, path, shown(shape.name), "plain", (), "", items, links)
        return Cluster(head.id, head.path, head.name, head.tone, head.lines, head.tip, items, links)

    def _box(self, own_id: str, node: Node[..., Any], place: _Place) -> Box:
        name, run = node.name, place.run
        tone, lines = "plain", []
        if run is not None:
            status = place.statuses.get(name)
            tone = "outside" if status is None else str(status)
            lines = self._lines(node, place, tone)
        if node.type.joins:
            lines.insert(0, node.type.value)
        form = _FORMS[node.type]
        if node.workflow is not None:
            form = Form.FRAMED
        elif place.shape.is_machine:
            form = Form.DOUBLE if name in place.shape.terminal else Form.ROUND
        tip = [shown(place.path + name, None), *lines, *_about(node)]
        shortened = lines if self.details else lines[: int(tone == "failed")]
        return Box(
            own_id,
            shown(place.path + name, None),
            shown(name),
            form,
            tone,
            tuple(shortened),
            "\n".join(dict.fromkeys(tip)),
        )

    def _lines(self, node: Node[..., Any], place: _Place, tone: str) -> list[str]:
        """How a node stands in a run."""
        name, run = node.name, place.run
        assert run is not None
        told = [] if tone in ("completed", "outside") else [tone.replace("_", " ")]
        visits = place.visits.get(name, 0)
        if visits > 1:
            told.append(counted(visits, "visit"))
        if name in place.timings:
            told.append(duration(place.timings[name]))
        if place.retries.get(name):
            told.append(counted(place.retries[name] + max(visits, 1), "attempt"))
        lines = [", ".join(told)] if told else []
        error = run.errors.get(name)
        if error is not None:
            lines.insert(0, shown(f"{type(error).__name__}: {text_of(error)}"))
        if self.results and name in run.results:
            lines.append("= " + brief(run.results[name], 40))
        return lines

    # Machines.

    def _ways(self, place: _Place, ids: dict[str, str], items: list[Box | Cluster]) -> list[Link]:
        shape = place.shape
        links: list[Link] = []
        for name in shape.initial:
            items.insert(0, Box(start := self._id(), "", "", Form.DOT))
            links.append(Link(start, self._known(name, place, ids, items), taken=_true(shape)))
        went = _went(shape)
        for each in shape.transitions:
            source = self._known(each.source, place, ids, items)
            target = self._known(each.target, place, ids, items)
            times = went.pop((each.source, each.target), 0)
            taken = None if shape.machine_state is None else times > 0
            if taken is False and (source, target) in {(a, b) for a, b, *_ in links}:
                taken = None  # one of several ways between the two was taken, perhaps this one
            links.append(Link(source, target, _way_label(each, times), "value", taken))
        for (start, end), times in went.items():
            links.append(Link(ids[start], ids[end], _times(times), "returned", True))
        return links

    def _known(
        self, name: str, place: _Place, ids: dict[str, str], items: list[Box | Cluster]
    ) -> str:
        """The id of a state, or of a stand-in where there is none of that name."""
        if name not in ids:
            ids[name] = self._id()
            path, tip = shown(place.path + name, None), f"{shown(name)} is no state"
            items.append(Box(ids[name], path, shown(name), Form.ROUND, "missing", (), tip))
        return ids[name]


def _place(shape: Shape, run: Run | None, path: str) -> _Place:
    visits: dict[str, int] = {}
    if shape.machine_state is not None:
        visits = {
            shape.machine_state.names[state]: count
            for state, count in shape.machine_state.counts().items()
        }
    if run is None:
        return _Place(shape, None, path, {}, {}, visits, {})
    retries = Counter(each.node for each in run.record.retried)
    return _Place(shape, run, path, run.statuses, run.timings, visits, retries)


def _true(shape: Shape) -> bool | None:
    return None if shape.machine_state is None else True


def _edge_label(edge: Edge, shape: Shape) -> str:
    """The branch, and what flows where, as far as that is not plain to see."""
    branch = "" if edge.branch is None else str(edge.branch)
    if isinstance(edge.branch, bool):
        branch = branch.lower()
    port = ""
    if edge.input is not None and edge.input not in (edge.source, edge.output):
        target = shape.topology.nodes[shape.topology.index[edge.target]]
        several = len(target.inputs) > 1 or (target.inputs and edge.input[0] == "*")
        port = f"→ {edge.input}" if several else ""
    told = " ".join(each for each in (edge.output or "", port) if each)
    return shown(": ".join(each for each in (branch, told) if each))


def _way_label(way: Transition, times: int) -> str:
    event = "" if way.event is None else way.event
    condition = ""
    if way.condition is not None:
        name = getattr(way.condition.func, "__name__", "") or type(way.condition.func).__name__
        condition = "[condition]" if name == "<lambda>" else f"[{name}]"
    return shown(" ".join(each for each in (event, condition, _times(times)) if each))


def _times(times: int) -> str:
    return f"{times:,}x" if times else ""


def _went(shape: Shape) -> Counter[tuple[str, str]]:
    """How often a machine went from one state to another, as far as its visits are kept. After a
    state that failed the same one is tried again, which is no transition."""
    went: Counter[tuple[str, str]] = Counter()
    if shape.machine_state is not None:
        visits, known = shape.machine_state.visits, shape.machine_state.names
        for (source, value, *_), (target, *_) in pairwise(visits):
            if value is not FAILED:
                went[known[source], known[target]] += 1
    return went


def _about(node: Node[..., Any]) -> list[str]:
    """What was asked of a node, for those who point at it."""
    workflow: Any = node.workflow
    described = node.description if workflow is None else workflow.description
    told = [shown(described, 200)] if described else []
    asked = []
    if node.retry:
        asked.append(counted(node.retry, "retry", "retries"))
    if node.timeout:
        asked.append(f"timeout {duration(node.timeout)}")
    if node.cache is not None:
        asked.append("cached")
    if node.run_in:
        asked.append(f"runs in {node.run_in}")
    return [*told, ", ".join(asked)] if asked else told
