"""A picture as the text of a Mermaid flowchart."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fast_dag.draw.picture import TONES, Box, Cluster, Form

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fast_dag.draw.picture import Link, Picture, Tone

_FORMS = {
    Form.BOX: ("[", "]"),
    Form.ROUND: ("(", ")"),
    Form.DIAMOND: ("{", "}"),
    Form.HEXAGON: ("{{", "}}"),
    Form.STADIUM: ("([", "])"),
    Form.DOUBLE: ("(((", ")))"),
    Form.FRAMED: ("[[", "]]"),
    Form.DOT: ("((", "))"),
}
_CLASSES = {"start": "fill:#4b5b76,stroke:#4b5b76", "current": "stroke-width:4px"}
_MOST_LINKS = 500
"""From so many links on Mermaid refuses to draw, unless the page has set `maxEdges`."""
_SPECIAL = re.compile(
    r"""[^\w .,:;!?()\[\]{}=+/'→…µ-]
    | (?<=fa): | (?<=fa[bklrs]):                # icons
    # The rest is Markdown, which Mermaid 11.0 to 11.9 reads in labels.
    | (?<![^\W_])_ | _(?![^\W_])                # emphasis
    | ^[-+](?=[ -]|$) | ^\d+[.)](?=[ ]|$)       # lists
    | ^=(?==*$) | ^[ ] | [ ]$                   # headings, code, line breaks
    | :(?=//) | (?<=(?i:www))\. | \](?=[(:\[])  # links""",
    re.VERBOSE,
)


def mermaid(picture: Picture) -> str:
    """The text, for a renderer of version 10 or later.

    >>> from fast_dag import DAG
    >>> dag = DAG("demo").add_node("load", lambda: 1).add_node("double", lambda x: 2 * x)
    >>> print(dag.connect("load", "double").visualize(), end="")
    flowchart TB
        n0["load"]
        n1["double"]
        n0 --> n1
    """
    lines = [f"flowchart {picture.direction}", *_cluster(picture.root, 1, picture.direction)]
    links = [f"    {_link(each)}" for each in picture.links()]
    if len(links) >= _MOST_LINKS:
        lines.insert(
            1, f"    %% {len(links)} links: call mermaid.initialize with maxEdges, or draw SVG"
        )
    lines += links
    lines += _styles(picture)
    return "\n".join(lines) + "\n"


def _cluster(cluster: Cluster, level: int, direction: str) -> Iterator[str]:
    indent = "    " * level
    for item in cluster.items:
        if isinstance(item, Box):
            start, end = _FORMS[item.form]
            text = _text(item.name, item.lines) if item.form is not Form.DOT else '" "'
            yield f"{indent}{item.id}{start}{text}{end}"
        else:
            title = ", ".join(
                (item.frame.name, *item.frame.lines)
            )  # Mermaid leaves room for one line
            yield f"{indent}subgraph {item.id} [{_text(title)}]"
            yield f"{indent}    direction {direction}"
            yield from _cluster(item, level + 1, direction)
            yield f"{indent}end"


def _link(link: Link) -> str:
    arrow = "-.->" if link.is_dashed else "-->"
    label = f"|{_text(link.label)}|" if link.label else ""
    return f"{link.source} {arrow}{label} {link.target}"


def _styles(picture: Picture) -> Iterator[str]:
    classes: dict[str, list[str]] = {}
    for box in (*(each.frame for each in picture.clusters()), *picture.boxes()):
        classes.setdefault("start" if box.form is Form.DOT else box.tone, []).append(box.id)
        if box.is_current:
            classes.setdefault("current", []).append(box.id)
    classes.pop("neutral", None)
    for name, ids in sorted(classes.items()):
        yield f"    classDef {name} {_CLASSES.get(name) or _style(TONES[name])}"
        yield f"    class {','.join(ids)} {name}"
    links = list(picture.links())
    for taken, style in ((True, "stroke:#2e8b4f,stroke-width:2px"), (False, "stroke:#c3c8d0")):
        numbers = [str(number) for number, link in enumerate(links) if link.taken is taken]
        if numbers:
            yield f"    linkStyle {','.join(numbers)} {style}"


def _style(tone: Tone) -> str:
    dashed = ",stroke-dasharray:4 3" if tone.dashed else ""
    return f"fill:{tone.fill},stroke:{tone.border},color:{tone.text}{dashed}"


def _text(name: str, lines: tuple[str, ...] = ()) -> str:
    # No "<br>": in labels with HTML, Mermaid 11.0 to 11.9 reads escaped text as Markdown, too.
    return '"' + "\n".join(escaped(each) for each in (name, *lines)) + '"'


def escaped(text: str) -> str:
    """Text in which no character has a meaning for Mermaid.

    >>> print(escaped('"><b>'), escaped("1. load_data"))
    #34;#62;#60;b#62; 1#46; load_data
    """
    return _SPECIAL.sub(lambda match: f"{match[0][:-1]}#{ord(match[0][-1])};", text)
