"""What a workflow, or a run of one, tells about itself to be drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from fast_dag.graph import Edge
    from fast_dag.topology import Topology
    from fast_dag.transitions import Transition
    from fast_dag.walk import Walk


class Shape(NamedTuple):
    """The nodes and edges of a graph; of a machine, the ways between its states.

    `ended` tells of a run whether an edge ended live, None where it has not ended; `walk` where a
    machine has been.
    """

    name: str
    topology: Topology
    is_machine: bool = False
    transitions: Sequence[Transition] = ()
    initial: Collection[str] = ()
    terminal: Collection[str] = ()
    ended: Callable[[Edge], bool | None] | None = None
    walk: Walk | None = None
