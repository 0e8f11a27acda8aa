"""Line: a straight plan as the bare calls of its functions, for workflows that are called often."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fast_dag.plan.binding import Constant, FromEdge, FromInput

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from typing import Any, Protocol

    from fast_dag.plan.step import Step
    from fast_dag.plan.topology import Topology

    class Plan(Protocol):
        """A plan, as far as lines are concerned."""

        @property
        def is_straight(self) -> bool: ...
        @property
        def input_names(self) -> Collection[str]: ...
        @property
        def topology(self) -> Topology: ...
        @property
        def steps(self) -> Sequence[Step]: ...
        @property
        def resources(self) -> Mapping[str, Any]: ...
        @property
        def missing(self) -> Sequence[object]: ...


class Line:
    """The calls of a plan in order. Values are kept in a list: first those of the `inputs`, then
    `constants`, then what each call returned.

    `calls` are pairs of a function and the places of its arguments. `result` is the place of the
    value of the workflow. `is_chain`: no two calls could ever be made at once.
    """

    __slots__ = ("calls", "constants", "inputs", "is_chain", "order", "result")

    def __init__(
        self,
        inputs: list[str],
        constants: list[Any],
        calls: list[tuple[Callable[..., Any], tuple[int, ...]]],
        plan: Plan,
    ) -> None:
        first = len(inputs) + len(constants)
        self.inputs = tuple(inputs)
        self.constants = constants
        self.calls = [(function, _shift(places, first)) for function, places in calls]
        self.order = order = plan.topology.order
        self.result = first + order.index(plan.topology.sinks[-1])
        self.is_chain = plan.topology.is_line or len(calls) == 1


_CALL = -1
"""Places of results are counted downwards from here, until the number of inputs is known."""


def _shift(places: tuple[int, ...], first: int) -> tuple[int, ...]:
    return tuple([first + _CALL - place if place < 0 else place for place in places])


def line_of(plan: Plan) -> Line | None:
    """The bare calls of a plan; None if there is more to it than calls of plain functions, with
    results, inputs and defaults as arguments."""
    if not plan.is_straight or plan.resources or plan.missing or plan.topology.external:
        return None
    inputs, constants, calls = sorted(plan.input_names), list[object](), []
    index, order = plan.topology.index, plan.topology.order
    for number in order:
        step = plan.steps[number]
        if step.plain != "sync" or step.is_parted:
            return None
        if step.keys is not None:
            sources = [_CALL - order.index(index[key]) for key in step.keys]
        else:
            sources = []
            assert step.binding is not None
            if step.binding.keywords:
                return None
            for source in step.binding.positional:
                if isinstance(source, FromInput):
                    sources.append(inputs.index(source.name))
                elif isinstance(source, Constant):
                    sources.append(len(inputs) + len(constants))
                    constants.append(source.value)
                elif isinstance(source, FromEdge) and source.edge.output is None:
                    sources.append(_CALL - order.index(index[source.edge.source]))
                else:
                    return None
        calls.append((step.call, tuple(sources)))
    return Line(inputs, constants, calls, plan)
