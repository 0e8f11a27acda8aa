"""Mapping: what a node is told of the collection that it maps its function over."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    pass
