"""What all schedules have in common: the status of every node."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import StrEnum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class NodeStatus(StrEnum):
    """The status of a node in a run; equal to its string.

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


# Used for every node: a member of an enum takes several times as long to look up as a global.
NOT_RUN, READY, RUNNING = NodeStatus.NOT_RUN, NodeStatus.READY, NodeStatus.RUNNING
COMPLETED, FAILED, SKIPPED = NodeStatus.COMPLETED, NodeStatus.FAILED, NodeStatus.SKIPPED


class Schedule(ABC):
    """Its methods are called when nodes start and end, and return the nodes that may start. It
    knows no thread, clock, value or user code. Nodes are known by their index."""

    __slots__ = ("skipped", "status")

    def __init__(self, nodes: int) -> None:
        self.status = [NOT_RUN] * nodes
        self.skipped: list[int] = []

    def start(self, node: int) -> None:
        """`node` runs now."""
        self.status[node] = RUNNING

    def take_back(self, node: int) -> None:
        """`node` does not start after all."""
        self.status[node] = NOT_RUN

    def close(self) -> None:
        """Nothing more starts; nodes that still run are cancelled."""
        if READY in self.status or RUNNING in self.status:
            ended = {READY: NOT_RUN, RUNNING: NodeStatus.CANCELLED}
            self.status = [ended.get(status, status) for status in self.status]

    @abstractmethod
    def complete(self, node: int, choice: Any = None) -> list[int]:
        """`node` completed with that choice, None if it makes none. Returns what may start now."""

    @abstractmethod
    def fail(self, node: int) -> list[int]:
        """`node` failed. Returns what may start now."""
