"""`visualize`: a picture in the language that was asked for, written to a file or shown by a
notebook."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fast_dag.draw.dot import FORMATS, dot, render
from fast_dag.draw.mermaid import mermaid
from fast_dag.draw.sketch import count_boxes, read_options, sketch
from fast_dag.draw.svg import svg
from fast_dag.draw.view import view_of
from fast_dag.errors import ValidationError, closest

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from fast_dag.draw.view import Viewable

_BACKENDS = {"mermaid": ("mmd",), "graphviz": ("dot", "gv", *FORMATS), "svg": ("svg",)}
"""The formats that each backend makes; the first is its own text."""
_MOST_BOXES = _MOST_LINKS = 1_000
"""A notebook draws no larger picture by itself; `visualize` does when it is called."""


def visualize(
    owner: Viewable,
    backend: str,
    filename: str | os.PathLike[str] | None,
    format: str | None,
    show_results: bool,
    options: Mapping[str, Any] | None,
) -> str:
    """See `Workflow.visualize`."""
    if backend not in _BACKENDS:
        hint = closest(backend, _BACKENDS)[1]
        raise ValidationError(f"backend is 'mermaid', 'graphviz' or 'svg', not {backend!r}{hint}")
    path = None if filename is None else Path(filename)
    formats = _BACKENDS[backend]
    if format is None:
        ending = "" if path is None else path.suffix.lower().removeprefix(".")
        format = ending if ending in formats else formats[0]
    if format not in formats:
        others = [each for each, known in _BACKENDS.items() if format in known]
        hint = f"; the backend {others[0]!r} does" if others else ""
        raise ValidationError(f"the backend {backend!r} does not make {format!r}{hint}")
    picture = sketch(view_of(owner), results=show_results, options=read_options(options))
    if backend == "mermaid":
        text = mermaid(picture)
    elif backend == "svg":
        text = svg(picture)
    else:
        text = dot(picture)
        if format in FORMATS:
            if path is None and format != "svg":
                raise ValidationError(f"a {format} is no text: say where to write it, filename=")
            drawn = render(text, format)
            if format == "svg":
                text = drawn.decode()
            elif path is not None:
                path.write_bytes(drawn)
                return text
    if path is not None:
        path.write_text(text, encoding="utf-8")
    return text


def mimebundle(owner: Viewable) -> dict[str, str]:
    """The picture for a notebook: as SVG, else as Mermaid, which some notebooks draw; and as text.
    It never raises."""
    bundle = {"text/plain": object.__repr__(owner)}
    try:
        bundle["text/plain"] = repr(owner)
        view = view_of(owner)
        if count_boxes(view, None) > _MOST_BOXES:  # to sketch many takes seconds
            return bundle
        picture = sketch(view)
        if picture.has_more_than(_MOST_BOXES, _MOST_LINKS):
            return bundle
        bundle["text/vnd.mermaid"] = mermaid(picture)
        bundle["image/svg+xml"] = svg(picture)
        del bundle["text/vnd.mermaid"]
    except Exception:  # Graphviz is installed, but fails to draw
        pass
    return bundle
