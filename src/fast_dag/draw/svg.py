"""A picture as SVG that loads nothing."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from fast_dag.draw.layout import layout
from fast_dag.draw.picture import TONES, Box, Form
from fast_dag.draw.words import width

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fast_dag.draw.layers import Point
    from fast_dag.draw.layout import Area, Route
    from fast_dag.draw.picture import Link, Picture

_MARGIN = 8.0
_LINK, _TAKEN, _NOT_TAKEN = "#4b5b76", "#2e8b4f", "#c3c8d0"
_FONT = "Helvetica, Arial, 'DejaVu Sans', sans-serif"


def svg(picture: Picture) -> str:
    """The text. It is styled by attributes only, because a `<style>` would apply to the whole page
    that it is put in.

    Raises GraphvizError if Graphviz is installed but fails.
    """
    places = layout(picture)
    wide, high = places.width + 2 * _MARGIN, places.height + 2 * _MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide:.0f}" height="{high:.0f}" '
        f'viewBox="{-_MARGIN:g} {-_MARGIN:g} {wide:.1f} {high:.1f}" font-family="{_FONT}" '
        f'font-size="12" text-anchor="middle" role="img">',
        f"<title>{escape(picture.root.frame.name)}</title>",
    ]
    for cluster in picture.clusters():
        if cluster is not picture.root:
            lines += _frame(cluster.frame, places.areas[cluster.id])
    for link, route in zip(picture.links(), places.routes, strict=True):
        lines += _link(link, route)
    for box in picture.boxes():
        lines += _box(box, places.areas[box.id])
    for link, route in zip(picture.links(), places.routes, strict=True):
        if link.label:
            lines.append(_label(link, route))
    return "\n".join([*lines, "</svg>"]) + "\n"


def _frame(frame: Box, area: Area) -> Iterator[str]:
    tone = TONES[frame.tone]
    yield f'<g data-node="{escape(frame.path)}"><title>{escape(frame.tip)}</title>'
    yield f'<rect {_corner(area)} rx="8" fill-opacity="0.45" {_look(frame)}/>'
    top = area.y - area.height / 2 + 15
    yield _text(frame.name, area.x, top, tone.text, bold=True)
    for number, line in enumerate(frame.lines):
        yield _text(line, area.x, top + 14 + 13 * number, tone.text, size=10)
    yield "</g>"


def _box(box: Box, area: Area) -> Iterator[str]:
    tone = TONES[box.tone]
    if box.form is Form.DOT:
        yield f'<circle cx="{area.x:.1f}" cy="{area.y:.1f}" r="6" fill="{_LINK}"/>'
        return
    yield f'<g data-node="{escape(box.path)}"><title>{escape(box.tip)}</title>'
    yield from _outline(box.form, area, _look(box))
    top = area.y - 6.5 * len(box.lines) + 4
    yield _text(box.name, area.x, top, tone.text)
    for number, line in enumerate(box.lines):
        yield _text(line, area.x, top + 13 * (number + 1), tone.text, size=10)
    yield "</g>"


def _look(box: Box) -> str:
    tone = TONES[box.tone]
    dashed = ' stroke-dasharray="4 3"' if tone.dashed else ""
    wide = 3 if box.is_current else 1.2
    return f'fill="{tone.fill}" stroke="{tone.border}" stroke-width="{wide}"{dashed}'


def _outline(form: Form, area: Area, look: str) -> Iterator[str]:
    x, y, w, h = area.x, area.y, area.width / 2, area.height / 2
    if form is Form.DIAMOND:
        yield _polygon([(x, y - h), (x + w, y), (x, y + h), (x - w, y)], look)
    elif form is Form.HEXAGON:
        left, right = x - w + 10, x + w - 10
        corners = [(left, y - h), (right, y - h), (x + w, y), (right, y + h), (left, y + h)]
        yield _polygon([*corners, (x - w, y)], look)
    else:
        radius = {Form.BOX: 3.0, Form.FRAMED: 3.0, Form.STADIUM: min(h, 17.0)}.get(form, 9.0)
        yield f'<rect {_corner(area)} rx="{radius:g}" {look}/>'
        if form is Form.DOUBLE:
            inner = area._replace(width=area.width - 6, height=area.height - 6)
            yield f'<rect {_corner(inner)} rx="6.5" {look}/>'
        if form is Form.FRAMED:
            for side in (x - w + 6, x + w - 6):
                yield f'<path d="M{side:.1f},{y - h:.1f}V{y + h:.1f}" {look}/>'


def _link(link: Link, route: Route) -> Iterator[str]:
    colour = {True: _TAKEN, False: _NOT_TAKEN, None: _LINK}[link.taken]
    points = route.points
    curve = " ".join(f"{x:.1f},{y:.1f}" for x, y in points[1:])
    dashed = ' stroke-dasharray="5 3"' if link.is_dashed else ""
    wide = 1.6 if link.taken else 1.1
    yield (
        f'<path d="M{points[0][0]:.1f},{points[0][1]:.1f}C{curve}" fill="none" '
        f'stroke="{colour}" stroke-width="{wide}"{dashed}/>'
    )
    yield _arrow(points, colour)


def _arrow(points: list[Point], colour: str) -> str:
    """The arrow head at the end of a link, in its last direction."""
    x, y = points[-1]
    before = next((each for each in reversed(points) if _far(each, (x, y))), (x, y - 1))
    length = ((x - before[0]) ** 2 + (y - before[1]) ** 2) ** 0.5 or 1.0
    dx, dy = (x - before[0]) / length, (y - before[1]) / length
    back = (x - 7 * dx, y - 7 * dy)
    sides = [(back[0] - 3 * dy, back[1] + 3 * dx), (back[0] + 3 * dy, back[1] - 3 * dx)]
    return _polygon([(x, y), *sides], f'fill="{colour}"')


def _far(one: Point, other: Point) -> bool:
    return abs(one[0] - other[0]) + abs(one[1] - other[1]) > 0.5


def _label(link: Link, route: Route) -> str:
    colour = _NOT_TAKEN if link.taken is False else "#374151"
    x, y = route.label
    half = 2.9 * width(link.label) + 2
    return (
        f'<rect x="{x - half:.1f}" y="{y - 7:.1f}" width="{2 * half:.1f}" height="14" rx="3" '
        f'fill="#ffffff" fill-opacity="0.85"/>' + _text(link.label, x, y + 3.5, colour, size=10)
    )


def _text(text: str, x: float, y: float, colour: str, *, size: int = 12, bold: bool = False) -> str:
    looks = f' font-size="{size}"' if size != 12 else ""
    looks += ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}"{looks}>{escape(text)}</text>'


def _corner(area: Area) -> str:
    return (
        f'x="{area.x - area.width / 2:.1f}" y="{area.y - area.height / 2:.1f}" '
        f'width="{area.width:.1f}" height="{area.height:.1f}"'
    )


def _polygon(points: list[Point], look: str) -> str:
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polygon points="{corners}" {look}/>'
