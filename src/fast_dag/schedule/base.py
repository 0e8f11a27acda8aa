"""What all schedules have in common: how every node stands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import StrEnum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class NodeStatus(StrEnum):
    """How a node stands in a run; equal to its string.

    >>> NodeStatus.COMPLETED == "completed"
    True
    """

    NOT_RUN = "not_run"
    READY = "ready"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


# Looked up for every node, where members of an enum cost several times a global.
NOT_RUN, READY, RUNNING = NodeStatus.NOT_RUN, NodeStatus.READY, NodeStatus.RUNNING
COMPLETED, FAILED, SKIPPED = NodeStatus.COMPLETED, NodeStatus.FAILED, NodeStatus.SKIPPED


class Schedule(ABC):
    """Told what starts and ends, it answers what may start; it knows no thread, clock, value or
    user code. Nodes are known by their index."""

    __slots__ = ("skipped", "status")

    def __init__(self, nodes: int) -> None:
        self.status = [NOT_RUN] * nodes
        self.skipped: list[int] = []

    def start(self, node: int) -> None:
        """`node` runs now."""
        self.status[node] = RUNNING

    def take_back(self, node: int) -> None:
        """`node` was to start, but did not."""
        self.status[node] = NOT_RUN

    def close(self) -> None:
        """Nothing more starts, and what still runs is given up."""
        if READY in self.status or RUNNING in self.status:
            ended = {READY: NOT_RUN, RUNNING: NodeStatus.CANCELLED}
            self.status = [ended.get(status, status) for status in self.status]

    @abstractmethod
    def complete(self, node: int, choice: Any = None) -> list[int]:
        """`node` completed, and made that choice, if it makes any: what may start now."""

    @abstractmethod
    def fail(self, node: int) -> list[int]:
        """`node` failed: what may start now."""
