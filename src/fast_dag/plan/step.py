"""One node, compiled: all that an execution needs to know about it."""

from __future__ import annotations

from fast_dag.define.node import NodeType
from fast_dag.plan.binding import missing_result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Protocol

    from fast_dag.call.effects import Attempt
    from fast_dag.call.policy import CallPolicy
    from fast_dag.define.graph import Edge
    from fast_dag.define.node import Node
    from fast_dag.plan.binding import Binding, Values

    class Wrapper(Protocol):
        """Returns the function to call in place of a node's own, or None to keep the node's own.

        The new function takes the same arguments, and is async if the node is. It is sent to worker
        processes for the nodes that run there."""

        def __call__(self, node: Node[..., Any], /) -> Callable[..., Any] | None: ...


# A member of an enum takes ten times as long to look up as a global.
_NODE = NodeType.NODE


class Step:
    """One node of a plan.

    `call` is the function to call: the node's own, or what wrappers made of it. Its arguments are
    the results that `keys` names, by position. If it takes anything else, `keys` is None and
    `binding` gathers the arguments. `edges` are the edges into the node. `policy` is what surrounds
    the call, None if nothing does. `decides` is True if the result chooses branches. `nested` is
    the plan of a nested workflow, compiled for the inputs that its edges give.

    `timeout` and `uses` are those of the call. `nests` is True if the call is an execution of its
    own: of a nested workflow, or, if it `maps`, of a map, whose plan is `nested` then. `role` is ""
    for nodes and items; else it says what a map calls besides: "pull" or "into".

    `is_parted`: several nodes take one part of its result.

    `plain` is "sync" or "async" if a driver only has to call the function and store its result,
    else None. Only plain steps may take the fast paths of the drivers.
    """

    __slots__ = (
        "binding",
        "call",
        "decides",
        "edges",
        "index",
        "is_parted",
        "keys",
        "maps",
        "name",
        "nested",
        "nests",
        "node",
        "plain",
        "policy",
        "role",
        "timeout",
        "uses",
    )

    def __init__(
        self,
        index: int,
        node: Node[..., Any],
        edges: Sequence[Edge],
        keys: tuple[str, ...] | None,
        binding: Binding | None,
        policy: CallPolicy | None,
    ) -> None:
        self.index = index
        self.node = node
        self.name = node.name
        self.edges = edges
        self.keys = keys
        self.binding = binding
        self.policy = policy
        self.call: Callable[..., Any] = node.func
        self.nested: Any = None
        self.timeout = node.timeout
        self.uses = node.uses
        self.nests = node.workflow is not None
        self.maps = False
        self.role = ""
        self.decides = decides = node.type is not _NODE and node.type.decides
        self.is_parted = False
        self.plain: str | None = None
        if policy is None and not (
            decides or node.timeout or node.run_in or node.uses or node.workflow
        ):
            self.plain = "async" if node.signature.is_async else "sync"

    def gather(self, values: Values) -> Attempt:
        """The arguments of the call. Raises MissingResultError if a result was deleted."""
        keys, results = self.keys, values.results
        if keys is None:
            return self.binding.gather(values)  # type: ignore[union-attr]
        try:
            # One key is handled apart because a comprehension takes as long as all else here.
            if len(keys) == 1:
                return [results[keys[0]]], {}
            return [results[key] for key in keys], {}
        except KeyError:
            gone = next(
                edge for edge in self.edges if edge.input is not None and edge.source not in results
            )
            raise missing_result(gone) from None
