"""Places the boxes of a picture: with Graphviz if it is installed, else with grandalf if that is,
else with `layers`, and so where the other two would take too long."""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from contextlib import suppress
from itertools import pairwise
from subprocess import TimeoutExpired
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from fast_dag._extras import needed
from fast_dag.draw.dot import dot, render
from fast_dag.draw.layers import Part, layered
from fast_dag.draw.picture import Box, Cluster, Form
from fast_dag.draw.words import width
from fast_dag.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fast_dag.draw.layers import Pair, Point, Size
    from fast_dag.draw.picture import Link, Picture

_DOT_TIMEOUT = 3.0
"""In seconds. `dot` takes minutes for some dense graphs, of which `layers` makes as much."""
_MOST_LINKS = 500
"""In a picture with more, only `layers` is fast enough."""
_GAP, _LAYER_GAP = 24.0, 46.0
"""Between boxes of one layer, and between layers."""
_PADDING, _HEADER = 14.0, 17.0
"""Between a cluster's frame and its boxes, and for each line of its label."""
_LOOP = 26.0
"""How far a link from a box to itself leads away from it."""


class Area(NamedTuple):
    """A rectangle; `x` and `y` are its centre."""

    x: float
    y: float
    width: float
    height: float


class Route(NamedTuple):
    """The curve of a link: its start, then three points for each Bézier curve; and the middle of
    its label."""

    points: list[Point]
    label: Point


class Layout(NamedTuple):
    """Where everything is; `y` grows downwards. `areas` go by id, `routes` are in the order of the
    picture's links."""

    width: float
    height: float
    areas: dict[str, Area]
    routes: list[Route]


def layout(picture: Picture) -> Layout:
    """Place everything. Raises GraphvizError if Graphviz is installed but fails."""
    if len(list(picture.links())) <= _MOST_LINKS:
        with suppress(MissingExtraError, TimeoutExpired):
            if shutil.which("dot") is None:
                return by_grandalf(picture)
            return by_graphviz(picture, _DOT_TIMEOUT)
    return by_layers(picture)


def size(box: Box) -> tuple[float, float]:
    """Width and height of a box, in points.

    >>> size(Box("n0", "load", "load", Form.BOX))
    (60.0, 30.0)
    """
    if box.form is Form.DOT:
        return 12.0, 12.0
    text = max(7.0 * width(box.name), *(5.8 * width(each) for each in box.lines), 0)
    wide, high = max(text + 24.0, 60.0), 30.0 + 13.0 * len(box.lines)
    if box.form is Form.DIAMOND:
        return wide * 1.3 + 16, high * 1.5 + 4
    if box.form in (Form.HEXAGON, Form.FRAMED, Form.STADIUM, Form.DOUBLE):
        return wide + 14, high + 4
    return wide, high


# Graphviz.


def by_graphviz(picture: Picture, timeout: float | None = None) -> Layout:
    """Let Graphviz place everything. Raises GraphvizError, and TimeoutExpired after `timeout`
    seconds."""
    sizes = {box.id: size(box) for box in picture.boxes()}
    drawn = json.loads(render(dot(picture, sizes), "json0", timeout))
    left, bottom, right, top = map(float, drawn["bb"].split(","))
    areas: dict[str, Area] = {}
    for each in drawn.get("objects", ()):
        name = each["name"]
        if "bb" in each:
            x0, y0, x1, y1 = map(float, each["bb"].split(","))
            name = name.removeprefix("cluster_")
            areas[name] = Area((x0 + x1) / 2, top - (y0 + y1) / 2, x1 - x0, y1 - y0)
        elif name in sizes:
            x, y = map(float, each["pos"].split(","))
            areas[name] = Area(x, top - y, *sizes[name])
    routes: dict[str, Route] = {}
    for each in drawn.get("edges", ()):
        points, end = [], None
        for point in each["pos"].split(" "):
            parts = point.split(",")
            place = (float(parts[-2]), top - float(parts[-1]))
            if parts[0] == "e":
                end = place
            elif parts[0] != "s":
                points.append(place)
        if end is not None:
            points += [points[-1], end, end]
        middle = points[len(points) // 2]
        if "lp" in each:
            x, y = map(float, each["lp"].split(","))
            middle = (x, top - y)
        routes[each["id"]] = Route(points, middle)
    count = sum(1 for _ in picture.links())
    return Layout(right - left, top - bottom, areas, [routes[f"e{n}"] for n in range(count)])


# Without Graphviz each cluster is laid out by itself, inner ones first; in the outer one they are
# boxes. All of that is done as if links led down; `_Turn` then turns the picture.


class _Turn(NamedTuple):
    """Turns a picture whose links lead down, `across` wide and `along` high."""

    direction: str
    across: float
    along: float

    def point(self, point: Point) -> Point:
        across, along = point
        if self.direction in ("BT", "RL"):
            along = self.along - along
        return (across, along) if self.direction in ("TB", "BT") else (along, across)

    def area(self, area: Area) -> Area:
        x, y = self.point((area.x, area.y))
        if self.direction in ("TB", "BT"):
            return Area(x, y, area.width, area.height)
        return Area(x, y, area.height, area.width)


class _Block(NamedTuple):
    """A cluster laid out; its upper left corner is at (0, 0)."""

    width: float
    height: float
    areas: dict[str, Area]
    routes: dict[int, Route]


def by_grandalf(picture: Picture) -> Layout:
    """Let grandalf place the boxes of each cluster. Raises MissingExtraError without it."""
    return _by_blocks(picture, _Grandalf())


def by_layers(picture: Picture) -> Layout:
    """Place the boxes of each cluster with the standard library alone."""
    return _by_blocks(picture, layered)


class _Placing(Protocol):
    """A function like `layered`."""

    def __call__(
        self, sizes: Mapping[str, Size], pairs: Sequence[Pair], *, gap: float, layer_gap: float
    ) -> Part: ...


def _by_blocks(picture: Picture, place: _Placing) -> Layout:
    numbers = {id(link): number for number, link in enumerate(picture.links())}
    block = _Blocks(picture.direction, numbers, place).block(picture.root)
    turn = _Turn(picture.direction, block.width, block.height)
    routes = [
        Route([turn.point(each) for each in route.points], turn.point(route.label))
        for _, route in sorted(block.routes.items())
    ]
    areas = {name: turn.area(area) for name, area in block.areas.items()}
    whole = turn.area(Area(0, 0, block.width, block.height))
    return Layout(whole.width, whole.height, areas, routes)


class _Blocks:
    def __init__(self, direction: str, numbers: dict[int, int], place: _Placing) -> None:
        self.direction = direction
        self.numbers = numbers
        self.place = place

    def block(self, cluster: Cluster) -> _Block:
        """Lay out the boxes and links of a cluster."""
        inner: dict[str, _Block] = {}
        sizes: dict[str, tuple[float, float]] = {}
        for item in cluster.items:
            if isinstance(item, Cluster):
                inner[item.id] = framed = self._framed(item)
                sizes[item.id] = framed.width, framed.height
            else:
                across, along = size(item)
                sizes[item.id] = (across, along) if self._is_upright else (along, across)
        pairs = _acyclic(list(sizes), cluster.links)
        spare = self._room_for_loops(cluster)
        room = {name: (wide + 2 * spare[name], high) for name, (wide, high) in sizes.items()}
        centres, bends, wide, high = _packed(self._parts(room, pairs))
        areas = {name: Area(x, y, *sizes[name]) for name, (x, y) in centres.items()}
        routes = self._routes(cluster, areas, bends)
        for name, block in inner.items():
            corner = areas[name].x - block.width / 2, areas[name].y - block.height / 2
            areas.update({each: _moved(area, corner) for each, area in block.areas.items()})
            routes.update({n: _moved_route(each, corner) for n, each in block.routes.items()})
        return _Block(wide, high, areas, routes)

    @property
    def _is_upright(self) -> bool:
        return self.direction in ("TB", "BT")

    def _room_for_loops(self, cluster: Cluster) -> defaultdict[str, float]:
        """The room beside each box for links to itself and their labels."""
        room: defaultdict[str, float] = defaultdict(float)
        for link in cluster.links:
            if link.source == link.target:
                room[link.source] += _LOOP + (6 * width(link.label) if self._is_upright else 10)
        return room

    def _framed(self, cluster: Cluster) -> _Block:
        """A cluster laid out, with room for its frame and label."""
        block = self.block(cluster)
        header = _HEADER * (1 + len(cluster.frame.lines))
        text = 7.0 * max(map(width, (cluster.frame.name, *cluster.frame.lines)))
        wide, high = block.width + 2 * _PADDING, block.height + 2 * _PADDING
        shift = (_PADDING, _PADDING)
        if self._is_upright:
            spare = max(text + 2 * _PADDING - wide, 0)
            top = header if self.direction == "TB" else 0
            shift = (_PADDING + spare / 2, _PADDING + top)
            wide, high = wide + spare, high + header
        else:
            spare = max(text + 2 * _PADDING - high, 0)
            shift = (_PADDING + header, _PADDING + spare / 2)
            wide, high = wide + header, high + spare
        return _Block(
            wide,
            high,
            {name: _moved(area, shift) for name, area in block.areas.items()},
            {number: _moved_route(route, shift) for number, route in block.routes.items()},
        )

    def _parts(self, sizes: dict[str, Size], pairs: Sequence[Pair]) -> list[Part]:
        """Lay out each connected part."""
        gap = _GAP if self._is_upright else _GAP / 2
        parts = []
        for part in _connected(list(sizes), pairs):
            inside = {name: sizes[name] for name in part}
            own = [pair for name in part for pair in part[name]]
            parts.append(self.place(inside, own, gap=gap, layer_gap=_LAYER_GAP))
        return parts

    def _routes(
        self,
        cluster: Cluster,
        areas: dict[str, Area],
        bends: dict[tuple[str, str], list[Point]],
    ) -> dict[int, Route]:
        beside: dict[frozenset[str], list[Link]] = {}
        for link in cluster.links:
            beside.setdefault(frozenset((link.source, link.target)), []).append(link)
        routes: dict[int, Route] = {}
        loops: Counter[str] = Counter()
        for links in beside.values():
            for position, link in enumerate(links):
                source, target = areas[link.source], areas[link.target]
                room = 0.7 * min(source.width, target.width) / len(links)
                from_middle = position - (len(links) - 1) / 2
                shift, down = min(18.0, room) * from_middle, 0.0
                if self._is_upright:  # keeps their labels apart
                    down = 13.0 * from_middle
                if link.source == link.target:
                    loops[link.source] += 1
                    route = _loop(source, loops[link.source], self._is_upright * width(link.label))
                elif (link.source, link.target) in bends:
                    way = bends[link.source, link.target]
                    route = _way(source, way, target, shift, down)
                else:
                    way = bends[link.target, link.source]
                    back = _way(target, way, source, shift, down)
                    route = Route(back.points[::-1], back.label)
                routes[self.numbers[id(link)]] = route
        return routes


class _Grandalf:
    def __init__(self) -> None:
        purpose = "pictures placed by grandalf"
        self.graphs: Any = needed("grandalf.graphs", extra="draw", purpose=purpose)
        self.layouts: Any = needed("grandalf.layouts", extra="draw", purpose=purpose)

    def __call__(
        self, sizes: Mapping[str, Size], pairs: Sequence[Pair], *, gap: float, layer_gap: float
    ) -> Part:
        if len(sizes) == 1:
            return layered(sizes, pairs, gap=gap, layer_gap=layer_gap)
        vertices = {name: self.graphs.Vertex(name) for name in sizes}
        for name, vertex in vertices.items():
            vertex.view = self.layouts.VertexViewer(*sizes[name])
        edges = [self.graphs.Edge(vertices[a], vertices[b]) for a, b in pairs]
        for edge in edges:
            edge.view = _EdgeView()
        core = self.graphs.Graph(list(vertices.values()), edges).C[0]
        sugiyama = self.layouts.SugiyamaLayout(core)
        sugiyama.xspace, sugiyama.yspace = gap, layer_gap
        roots = [vertex for vertex in core.V() if not vertex.e_in()]
        sugiyama.alt_e = []
        sugiyama.rank_all(roots)
        _shorten_links(sugiyama)
        for edge in core.E():
            sugiyama.setdummies(edge)
        for layer in sugiyama.layers:
            layer.setup(sugiyama)
        sugiyama.draw(8)
        left = min(vertex.view.xy[0] - sizes[vertex.data][0] / 2 for vertex in core.V())
        top = min(vertex.view.xy[1] - sizes[vertex.data][1] / 2 for vertex in core.V())
        points = [x for edge in core.E() for x, _ in edge.view.points]
        left = min([left, *points])
        # As in `layers`: links bend between layers only.
        half = {layer[0].view.xy[1]: max(v.view.h for v in layer) / 2 for layer in sugiyama.layers}
        bends = {
            (edge.v[0].data, edge.v[1].data): [
                (x - left, y - top + side * half[y])
                for x, y in edge.view.points
                for side in (-1, 1)
            ][1:-1]
            for edge in core.E()
        }
        centres = {
            vertex.data: (vertex.view.xy[0] - left, vertex.view.xy[1] - top) for vertex in core.V()
        }
        across = max(x + sizes[name][0] / 2 for name, (x, _) in centres.items())
        across = max([across, *(x - left for x in points)])
        along = max(y + sizes[name][1] / 2 for name, (_, y) in centres.items())
        return Part(centres, bends, across, along)


class _EdgeView:
    """Grandalf calls it with the points of an edge."""

    def __init__(self) -> None:
        self.points: list[Point] = []

    def setpath(self, points: list[Point]) -> None:
        self.points = list(points)


def _shorten_links(sugiyama: Any) -> None:
    """Move boxes near to their targets, as `layers` does: grandalf puts each near its sources."""
    rank, layers = sugiyama.grx, sugiyama.layers
    for number in range(len(layers) - 2, -1, -1):
        for vertex in list(layers[number]):
            after = vertex.N(+1)
            nearest = min((rank[each].rank for each in after), default=0) - 1
            if nearest > number and len(after) >= len(vertex.N(-1)):
                layers[number].remove(vertex)
                layers[nearest].append(vertex)
                rank[vertex].rank = nearest


def _connected(ids: Sequence[str], pairs: Sequence[Pair]) -> list[dict[str, list[Pair]]]:
    """The connected parts. Each has its boxes, in order, with the pairs that start at them."""
    own: dict[str, list[Pair]] = {each: [] for each in ids}
    beside: dict[str, list[str]] = {each: [] for each in ids}
    for source, target in pairs:
        own[source].append((source, target))
        beside[source].append(target)
        beside[target].append(source)
    parts: list[dict[str, list[Pair]]] = []
    seen: dict[str, int] = {}
    for start in ids:
        if start not in seen:
            parts.append({})
            seen[start] = len(parts) - 1
            todo = [start]
            while todo:
                for other in beside[todo.pop()]:
                    if other not in seen:
                        seen[other] = len(parts) - 1
                        todo.append(other)
        parts[seen[start]][start] = own[start]
    return parts


def _acyclic(ids: Sequence[str], links: Sequence[Link]) -> list[tuple[str, str]]:
    """The pairs that links connect, each once; those that would close a cycle are reversed."""
    targets: dict[str, dict[str, None]] = {each: {} for each in ids}
    for link in links:
        if link.source != link.target:
            targets[link.source][link.target] = None
    pairs: dict[tuple[str, str], None] = {}
    state = dict.fromkeys(ids, 0)  # 1: on the stack, 2: done
    for start in ids:
        if state[start]:
            continue
        state[start] = 1
        stack = [(start, iter(targets[start]))]
        while stack:
            at, rest = stack[-1]
            target = next(rest, None)
            if target is None:
                state[at] = 2
                stack.pop()
                continue
            pair = (target, at) if state[target] == 1 else (at, target)
            pairs[pair] = None
            if not state[target]:
                state[target] = 1
                stack.append((target, iter(targets[target])))
    return list(pairs)


def _packed(
    parts: Sequence[Part],
) -> tuple[dict[str, Point], dict[tuple[str, str], list[Point]], float, float]:
    """Set parts beside each other, in rows: centres and bends of all, width and height."""
    total = sum((part.width + _GAP) * (part.height + _LAYER_GAP) for part in parts)
    row = max([1.5 * total**0.5, *(part.width for part in parts)])
    centres: dict[str, Point] = {}
    bends: dict[tuple[str, str], list[Point]] = {}
    x = y = wide = high = 0.0
    for part in parts:
        if x and x + part.width > row:
            x, y = 0.0, y + high + _LAYER_GAP / 2
            high = 0.0
        for name, (cx, cy) in part.centres.items():
            centres[name] = (x + cx, y + cy)
        for pair, points in part.bends.items():
            bends[pair] = [(x + bx, y + by) for bx, by in points]
        wide, high = max(wide, x + part.width), max(high, part.height)
        x += part.width + _GAP
    return centres, bends, wide, y + high


def _way(source: Area, bends: Sequence[Point], target: Area, shift: float, down: float) -> Route:
    """A route down from one area to another, which leaves and arrives vertically. `shift` keeps it
    apart from others between the same two areas, `down` keeps their labels apart."""
    stops = [
        (source.x + shift, source.y + source.height / 2),
        (source.x + shift, bends[0][1]),
        *((x + shift, y) for x, y in bends[1:-1]),
        (target.x + shift, bends[-1][1]),
        (target.x + shift, target.y - target.height / 2),
    ]
    points = [stops[0]]
    for (x0, y0), (x1, y1) in pairwise(stops):
        middle = (y0 + y1) / 2
        points += [(x0, middle), (x1, middle), (x1, y1)]
    (x0, y0), (x1, y1) = stops[1:3]  # between the first two layers
    return Route(points, ((x0 + x1) / 2, (y0 + y1) / 2 + down))


def _loop(area: Area, number: int, label: int) -> Route:
    """A route out of the side of an area and back into it."""
    x, out = area.x + area.width / 2, _LOOP * (0.5 + 0.5 * number)
    high = area.height / 4
    points = [
        (x, area.y - high),
        (x + out, area.y - high * 2),
        (x + out, area.y + high * 2),
        (x, area.y + high),
    ]
    return Route(points, (x + out * 0.75 + 3 * label, area.y))


def _moved(area: Area, by: Point) -> Area:
    return area._replace(x=area.x + by[0], y=area.y + by[1])


def _moved_route(route: Route, by: Point) -> Route:
    points = [(x + by[0], y + by[1]) for x, y in route.points]
    return Route(points, (route.label[0] + by[0], route.label[1] + by[1]))
