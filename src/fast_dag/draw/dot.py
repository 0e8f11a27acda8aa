"""A picture as the text of a Graphviz graph, and Graphviz itself."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from fast_dag.draw.picture import TONES, Box, Cluster, Form
from fast_dag.errors import FastDAGError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fast_dag.draw.picture import Link, Picture

FORMATS = ("svg", "png", "pdf")
"""The formats that Graphviz makes for `visualize`."""

_FORMS = {
    Form.BOX: "shape=box",
    Form.ROUND: "shape=box",
    Form.DIAMOND: 'shape=diamond margin="0.02,0.02"',
    Form.HEXAGON: "shape=hexagon",
    Form.STADIUM: "shape=box",
    Form.DOUBLE: "shape=box peripheries=2",
    Form.FRAMED: "shape=component",
    Form.DOT: "shape=point width=0.14",
}
_ROUNDED = (Form.ROUND, Form.STADIUM, Form.DOUBLE)


class GraphvizError(FastDAGError):
    """Raised when the program `dot` is missing, or cannot draw a picture."""


def dot(picture: Picture, sizes: Mapping[str, tuple[float, float]] | None = None) -> str:
    """The text. `sizes` (width and height in points) fixes the size of each box, for `layout`.

    >>> from fast_dag import DAG
    >>> dag = DAG("demo").add_node("load", lambda: 1).add_node("double", lambda x: 2 * x)
    >>> text = dag.connect("load", "double").visualize("graphviz")
    >>> print(*text.splitlines()[-4:], sep="\\n")
        n0 [label="load" shape=box tooltip="load"]
        n1 [label="double" shape=box tooltip="double"]
        n0 -> n1
    }
    """
    packed = (
        "" if any(picture.links()) else ' pack=20 packmode="array"'
    )  # packing loses the labels of links
    label_size = 9 if sizes is None else 11  # only the room for it counts
    lines = [
        f"digraph {_quoted(picture.root.frame.name)} {{",
        f"    graph [rankdir={picture.direction} compound=true fontname=Helvetica fontsize=11 "
        f"nodesep=0.3 ranksep=0.45{packed}]",
        '    node [fontname=Helvetica fontsize=11 style="filled" fillcolor="#f4f6fb" '
        'color="#4b5b76" height=0.35 margin="0.14,0.06"]',
        f'    edge [fontname=Helvetica fontsize={label_size} color="#4b5b76" fontcolor="#4b5563" '
        "arrowsize=0.7]",
        *_cluster(picture.root, 1, sizes),
    ]
    ends = {each.id: each for each in picture.clusters()}
    for number, link in enumerate(picture.links()):
        name = "" if sizes is None else f"id=e{number}"
        lines.append(f"    {_link(link, ends, name)}")
    return "\n".join([*lines, "}"]) + "\n"


def render(text: str, format: str, timeout: float | None = None) -> bytes:
    """What the program `dot` makes of a text. Raises GraphvizError if it is missing or fails, and
    TimeoutExpired after `timeout` seconds."""
    program = shutil.which("dot")
    if program is None:
        raise GraphvizError(
            f"to make {format} the program dot of Graphviz is needed, and is not on PATH: install "
            "it (apt install graphviz, brew install graphviz, winget install graphviz, conda "
            "install graphviz), or use the backend 'svg' or 'mermaid'"
        )
    done = subprocess.run(
        [program, f"-T{format}"],
        input=text.encode(),
        capture_output=True,
        check=False,
        timeout=timeout,
    )
    if done.returncode or not done.stdout:
        raise GraphvizError(f"dot failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def _cluster(
    cluster: Cluster, level: int, sizes: Mapping[str, tuple[float, float]] | None
) -> Iterator[str]:
    indent = "    " * level
    for item in cluster.items:
        if isinstance(item, Box):
            yield f"{indent}{item.id} [{_box(item, sizes)}]"
            continue
        frame = item.frame
        tone = TONES[frame.tone]
        yield f"{indent}subgraph cluster_{frame.id} {{"
        yield f"{indent}    label={_label(frame.name, frame.lines)} tooltip={_quoted(frame.tip)}"
        style = "rounded,dashed" if tone.dashed else "rounded"
        wide = " penwidth=3" if frame.is_current else ""
        yield f'{indent}    style="{style}" color="{tone.border}" fontcolor="{tone.text}"{wide}'
        yield from _cluster(item, level + 1, sizes)
        yield f"{indent}}}"


def _box(box: Box, sizes: Mapping[str, tuple[float, float]] | None) -> str:
    if sizes is not None:
        width, height = sizes[box.id]
        size = f"width={width / 72:.3f} height={height / 72:.3f} fixedsize=true"
        shape = box.form if box.form in (Form.DIAMOND, Form.HEXAGON) else Form.BOX
        return f'label="" shape={shape} {size}'
    if box.form is Form.DOT:
        return f'label="" {_FORMS[box.form]} fillcolor="#4b5b76"'
    tone = TONES[box.tone]
    attributes = [f"label={_label(box.name, box.lines)}", _FORMS[box.form]]
    styles = ["rounded"] * (box.form in _ROUNDED) + ["dashed"] * tone.dashed
    if styles:
        attributes.append(f'style="filled,{",".join(styles)}"')
    if box.tone != "neutral":
        attributes.append(f'fillcolor="{tone.fill}" color="{tone.border}" fontcolor="{tone.text}"')
    if box.is_current:
        attributes.append("penwidth=3")
    attributes.append(f"tooltip={_quoted(box.tip)}")
    return " ".join(attributes)


def _link(link: Link, clusters: Mapping[str, Cluster], name: str) -> str:
    attributes = [name] if name else []
    source, target = clusters.get(link.source), clusters.get(link.target)
    start = link.source if source is None else _inner(source, last=True)
    end = link.target if target is None else _inner(target, last=False)
    if source is not None and source is not target:
        attributes.append(f"ltail=cluster_{source.id}")
    if target is not None and source is not target:
        attributes.append(f"lhead=cluster_{target.id}")
    if link.label:
        attributes.append(f"label={_label(link.label)}")
    if link.is_dashed:
        attributes.append("style=dashed")
    if link.taken is not None:
        attributes.append('color="#2e8b4f" penwidth=1.6' if link.taken else 'color="#c3c8d0"')
    return f"{start} -> {end}" + (f" [{' '.join(attributes)}]" if attributes else "")


def _inner(cluster: Cluster, *, last: bool) -> str:
    """The box that stands for a cluster at the start of a link (`last`), or at its end: Graphviz
    links boxes only."""
    taken = {each.source if last else each.target for each in cluster.links}
    items = [
        each for each in cluster.items if not (isinstance(each, Box) and each.form is Form.DOT)
    ]
    if last:
        items.reverse()
    item = next((each for each in items if each.id not in taken), items[0])
    return _inner(item, last=last) if isinstance(item, Cluster) else item.id


def _label(name: str, lines: tuple[str, ...] = ()) -> str:
    # Graphviz replaces HTML entities in labels.
    return _quoted("\n".join((name, *lines)).replace("&", "&amp;"))


def _quoted(text: str) -> str:
    r"""Text in quotes, in which no character has a meaning of its own.

    >>> print(_quoted('a "b" \\N'))
    "a \"b\" \\N"
    """
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
