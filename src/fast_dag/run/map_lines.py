"""Mapped workflows that are nothing but calls of plain functions. No run is made for an item,
unless somebody asks for one, or a call fails."""

from __future__ import annotations

from threading import get_ident
from time import perf_counter
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final

from fast_dag.call.effects import LOOKED_AT, ONE_SHOT, Outcome
from fast_dag.run.failures import shared

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fast_dag.plan.line import Line
    from fast_dag.plan.map_plan import MapPlan
    from fast_dag.run.execution import Execution


class LineCalls:
    """Calls the functions of a workflow for one item after the other.

    `constants` are what each item is given whole, by name. `new_run(number, inputs)` makes the
    execution of an item.
    """

    def __init__(
        self,
        plan: MapPlan,
        line: Line,
        constants: Mapping[str, Any],
        new_run: Callable[[int, dict[str, Any]], Execution],
    ) -> None:
        self._plan = plan
        self._line = line
        self._new_run = new_run
        self._slots = [line.inputs.index(name) for name in plan.places]
        self._before = [constants.get(name) for name in line.inputs] + line.constants
        self.is_sole = len(self._slots) == 1
        self._values: dict[int, list[Any]] = {}  # by thread: of the item that it calls

    def call(self, given: Any) -> Any:
        """The value of the workflow for an item."""
        line = self._line
        values = self._values[get_ident()] = self._before.copy()
        slots = self._slots
        if self.is_sole:
            values[slots[0]] = given
        else:
            for slot, value in zip(slots, given, strict=True):
                values[slot] = value
        keep, plain = values.append, None
        for call, places in line.calls:
            if len(places) == 1:
                value = call(values[places[0]])
            else:
                value = call(*[values[place] for place in places])
            if type(value) is not plain:
                plain = type(value)
                if LOOKED_AT[plain]:
                    value, plain = self._looked_at(value, len(values) - len(self._before)), None
            keep(value)
        return values[line.result]

    def _looked_at(self, value: Any, call: int) -> Any:
        """The result of a call that cannot simply be kept: a coroutine is awaited, here, and what
        can be gone through once only may have one consumer."""
        if type(value) is CoroutineType:
            import asyncio  # slow to import

            value = asyncio.run(value)
        if ONE_SHOT[type(value)]:
            topology, index = self._plan.nested.topology, self._line.order[call]
            clash = topology.clash(topology.consumers(index))
            if clash is not None:
                raise shared(topology.names[index], "returned", value, clash)
        return value

    def failed(self, number: int, error: BaseException) -> Execution:
        """A call for an item raised. Returns the execution of the item, made now, as if it had been
        there before."""
        child: Any = self._run(number, self._values.pop(get_ident()))
        index, _ = child.leave_straight()
        child.finish(index, Outcome(False, error), perf_counter())
        child.close()
        execution: Execution = child
        return execution

    def in_progress(self) -> Execution | None:
        """The execution of the item that this thread calls, made only to be looked at; None if it
        calls none."""
        values = self._values.get(get_ident())
        return None if values is None else self._run(NOBODY, values)

    def _run(self, number: int, values: Sequence[Any]) -> Execution:
        line, plan = self._line, self._plan.nested
        inputs = {
            name: value
            for name, value in zip(line.inputs, values, strict=False)
            if name in plan.input_names
        }
        child = self._new_run(number, inputs)
        child.open()
        made = values[len(self._before) :]
        names = [plan.names[index] for index in line.order]
        child.results.update(zip(names, made, strict=False))
        child.record.stamps += [perf_counter()] * (len(made) + 1)
        return child


NOBODY: Final = -4
"""The number of an item whose run is only looked at."""
