"""MapPlan: a map, compiled: the step of its items, and where an item goes among the arguments."""

from __future__ import annotations

from functools import cached_property
from types import MappingProxyType

from fast_dag.define.signature import CALL_ID, Kind
from fast_dag.plan.line import line_of
from fast_dag.plan.step import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Final

    from fast_dag.call.policy import CallPolicy
    from fast_dag.define.graph import Edge
    from fast_dag.define.mapspec import MapSpec
    from fast_dag.define.node import Node
    from fast_dag.plan.line import Line

INTO: Final = -3
PULL: Final = -2
"""Indices of the two calls that a map makes besides those of its items: of `into`, and of what
pulls items. Items are known by their number, from 0 on."""

BATCHES: Final = -10
"""From here on downwards, the indices of calls for several items: each other one. Those between are
of coroutines that such calls returned."""


def batch_index(batch: int) -> int:
    """The index of a batch.

    >>> batch_index(0), batch_index(1)
    (-10, -12)
    """
    return BATCHES - 2 * batch


def rest_index(number: int) -> int:
    """The index of the coroutine that the sync function returned for an item.

    >>> number_of(rest_index(3))
    3
    """
    return BATCHES - 1 - 2 * number


def number_of(index: int) -> int:
    """The number of the item that such an index means."""
    return (BATCHES - 1 - index) // 2


class _Same:
    """What a plan has by index, for a map: the same for every item."""

    __slots__ = ("_item", "_others")
    __iter__ = None  # nobody knows how many items there are

    def __init__(self, item: Any, others: Mapping[int, Any]) -> None:
        self._item = item
        self._others = others

    def __getitem__(self, index: int) -> Any:
        if index >= 0:
            return self._item
        return self._others[index if index > BATCHES else BATCHES - index % 2]


class MapPlan:
    """What the execution of a map needs to know.

    `item` is the step of each item: its call, its policy, its timeout. `places` are where a call
    takes the values of an item: a position each, or a keyword. `call_id` is the place of the
    parameter that gets the id of a call.
    """

    resources: Mapping[str, Any] = MappingProxyType({})  # those of the workflow are shared
    limits = None
    missing = ()
    is_straight = False
    needs_limits = False  # names are looked up for the whole workflow

    def __init__(self, step: Step, policy: CallPolicy | None) -> None:
        node = step.node
        spec = node.map
        assert spec is not None
        self.node: Node[..., Any] = node
        self.name = node.name
        self.spec: MapSpec = spec
        self.edges: Sequence[Edge] = step.edges
        self.item = item = Step(0, node, (), None, None, policy)
        others = {PULL: "pull", INTO: "into", BATCHES: "", BATCHES - 1: ""}
        steps = {index: _made_step(node, index, role) for index, role in others.items()}
        self.steps: Any = _Same(item, steps)
        self.names: Any = _Same(node.name, dict.fromkeys(others, node.name))
        walked = set(spec.walked)
        positional = [
            each.name for each in node.signature.parameters if each.kind != Kind.KEYWORD_ONLY
        ]
        self.places: list[int | str] = [
            positional.index(name) if name in positional else node.signature.keyword_of(name)
            for name in spec.walked
        ]
        self.call_id: int | str | None = None
        if node.signature.takes_call_id:
            self.call_id = positional.index(CALL_ID) if CALL_ID in positional else CALL_ID
        self.is_sole = len(walked) == 1 and node.signature.by_position == spec.walked
        self.is_async = node.signature.is_async

    @property
    def nested(self) -> Any:
        """The plan of the workflow that is mapped; None if a function is."""
        return self.item.nested

    @cached_property
    def line(self) -> Line | None:
        """The bare calls of the workflow that is mapped; None if there is more to it, or none is
        mapped."""
        item = self.item
        if item.nested is None or item.policy is not None or item.timeout or item.uses:
            return None
        return None if item.nested.has_states else line_of(item.nested)

    @cached_property
    def needs_coordinator(self) -> bool:
        """Whether some item needs a thread that keeps the time."""
        return self.item.policy is not None or bool(self.nested and self.nested.needs_coordinator)

    @cached_property
    def awaits_around(self) -> bool:
        """Whether an async hook is around the call of an item or of a node inside of it."""
        policy, nested = self.item.policy, self.nested
        return bool((policy and policy.awaits_around) or (nested and nested.awaits_around))

    @property
    def ways(self) -> Any:
        """How long it takes: as long as one item, because nobody knows how many there are."""
        return _ONE if self.nested is None else self.nested.ways

    def source_of(self, parameter: str) -> str:
        """Where the collection of a walked parameter comes from, for messages."""
        for edge in self.edges:
            if edge.input == parameter:
                return f"from {edge.source!r}"
        return "as input of the run"


def _made_step(node: Node[..., Any], index: int, role: str) -> Step:
    """The step of what a map calls besides single items: its first argument is what to call."""
    step = Step(index, node, (), None, None, None)
    step.timeout = step.uses = step.plain = None
    step.nests, step.role, step.call = False, role, _call
    return step


def _call(function: Any, *args: Any) -> Any:
    return function(*args)


class _Ways:
    longest = 1.0


_ONE: Final = _Ways()
