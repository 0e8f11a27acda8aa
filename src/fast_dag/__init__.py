"""Workflows of plain Python functions.

>>> from fast_dag import DAG
>>> dag = DAG("orders")
>>> @dag.node
... def load() -> list[int]:
...     return [3, 4]
>>> @dag.node
... def total(load: list[int]) -> int:
...     return sum(load)
>>> _ = load >> total
>>> dag.run()
7
"""

from fast_dag.context import Context, FSMContext
from fast_dag.define.dag import DAG
from fast_dag.define.node import Node, NodeType
from fast_dag.errors import (
    CycleError,
    DisconnectedNodeError,
    ExecutionError,
    FastDAGError,
    InvalidNodeError,
    InvalidTransitionError,
    MaxCyclesError,
    MissingConnectionError,
    MissingInputError,
    TimeoutError,
    ValidationError,
)
from fast_dag.returns import ConditionalReturn, FSMReturn, ItemError, SelectReturn
from fast_dag.run.run import Run
from fast_dag.run.settings import ExecutionMode
from fast_dag.schedule.base import NodeStatus

__all__ = [
    "DAG",
    "FSM",
    "ConditionalReturn",
    "Context",
    "CycleError",
    "DisconnectedNodeError",
    "ExecutionError",
    "ExecutionMode",
    "FSMContext",
    "FSMReturn",
    "FastDAGError",
    "InvalidNodeError",
    "InvalidTransitionError",
    "ItemError",
    "Items",
    "Limits",
    "Machine",
    "MaxCyclesError",
    "MissingConnectionError",
    "MissingInputError",
    "Node",
    "NodeStatus",
    "NodeType",
    "Rate",
    "Run",
    "SelectReturn",
    "Step",
    "TimeoutError",
    "ValidationError",
    "Workers",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fast_dag.define.fsm import FSM
    from fast_dag.drive.workers import Workers
    from fast_dag.run.items import Items
    from fast_dag.run.limits import Limits, Rate
    from fast_dag.run.machine import Machine, Step
else:
    _LATER = {
        "FSM": "fast_dag.define.fsm",
        "Items": "fast_dag.run.items",
        "Limits": "fast_dag.run.limits",
        "Machine": "fast_dag.run.machine",
        "Rate": "fast_dag.run.limits",
        "Step": "fast_dag.run.machine",
        "Workers": "fast_dag.drive.workers",
    }

    def __getattr__(name):
        """Machines, limits and workers are loaded when somebody asks for one (PEP 562)."""
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        globals()[name] = found = getattr(import_module(_LATER[name]), name)
        return found

    def __dir__():
        return sorted({*globals(), *__all__})
