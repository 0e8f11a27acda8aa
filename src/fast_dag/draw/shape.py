"""What a workflow, or a run of one, tells about itself to be drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from fast_dag.define.graph import Edge
    from fast_dag.define.transitions import Transition
    from fast_dag.plan.topology import Topology
    from fast_dag.run.machine_state import MachineState


class Shape(NamedTuple):
    """The nodes and edges of a graph; of a machine, the ways between its states.

    Of a run, `ended(edge)` is whether an edge ended live, None if it has not ended; of a machine,
    `machine_state` is where it has been.
    """

    name: str
    topology: Topology
    is_machine: bool = False
    transitions: Sequence[Transition] = ()
    initial: Collection[str] = ()
    terminal: Collection[str] = ()
    ended: Callable[[Edge], bool | None] | None = None
    machine_state: MachineState | None = None
