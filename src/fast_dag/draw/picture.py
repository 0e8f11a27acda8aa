"""A picture as data: boxes, clusters of boxes, and links. Its texts are on one line and printable,
but not escaped for any language."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Form(StrEnum):
    """What a box looks like."""

    BOX = "box"
    ROUND = "round"
    DIAMOND = "diamond"
    HEXAGON = "hexagon"
    STADIUM = "stadium"
    DOUBLE = "double"  # round, with two borders
    FRAMED = "framed"  # a nested workflow that is not opened
    DOT = "dot"


class Tone(NamedTuple):
    """Colours, and whether borders are dashed."""

    fill: str
    border: str
    text: str = "#111827"
    dashed: bool = False


TONES = {
    "neutral": Tone("#f4f6fb", "#4b5b76"),
    "completed": Tone("#e3f5e8", "#2e8b4f"),
    "from_cache": Tone("#e0f2f1", "#2e8b4f"),
    "failed": Tone("#fde4e4", "#c62f2f"),
    "skipped": Tone("#f3f4f6", "#9ca3af", "#6b7280", dashed=True),
    "running": Tone("#e0eeff", "#2b6fd9"),
    "cancelled": Tone("#fff1d6", "#c47a00"),
    "not_run": Tone("#ffffff", "#9ca3af"),
    "ready": Tone("#ffffff", "#9ca3af"),
    "outside": Tone("#ffffff", "#d1d5db", "#9ca3af", dashed=True),
    "missing": Tone("#ffffff", "#c62f2f", "#c62f2f", dashed=True),
}
"""By the status of a node in a run; "neutral" where there is no run."""


class Box(NamedTuple):
    """One node, which shows `name` and `lines`, and `tip` to those who point at it. `path` is its
    name from the outermost workflow on, as in "sub.inner". `is_current`: a machine is in this
    state."""

    id: str
    path: str
    name: str
    form: Form
    tone: str = "neutral"
    lines: tuple[str, ...] = ()
    tip: str = ""
    is_current: bool = False


class Cluster(NamedTuple):
    """A nested workflow, opened. `frame` is the box that it would be if it were not."""

    frame: Box
    items: Sequence[Box | Cluster]
    links: Sequence[Link]

    @property
    def id(self) -> str:
        """That of its frame."""
        return self.frame.id


class Link(NamedTuple):
    """From one item of a cluster to another of the same. It is dashed where no value flows, or no
    transition is declared. `taken`: whether a run went along it, None where that is not known."""

    source: str
    target: str
    label: str = ""
    is_dashed: bool = False
    taken: bool | None = None


class Picture(NamedTuple):
    """`root` is the outermost workflow, drawn without a frame; `direction` is TB, BT, LR or RL."""

    root: Cluster
    direction: str = "TB"

    def boxes(self) -> Iterator[Box]:
        """All boxes, those of the outermost workflow first."""
        for cluster in self.clusters():
            yield from (each for each in cluster.items if isinstance(each, Box))

    def clusters(self) -> Iterator[Cluster]:
        """All clusters, the root first."""
        todo = [self.root]
        while todo:
            cluster = todo.pop()
            yield cluster
            todo.extend(each for each in reversed(cluster.items) if isinstance(each, Cluster))

    def links(self) -> Iterator[Link]:
        """All links, cluster by cluster."""
        for cluster in self.clusters():
            yield from cluster.links

    def has_more_than(self, boxes: int, links: int) -> bool:
        """Whether it is larger than that."""
        return len(list(self.boxes())) > boxes or len(list(self.links())) > links
