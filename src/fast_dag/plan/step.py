"""One node, compiled: all that an execution needs to know about it."""

from __future__ import annotations

from fast_dag.define.node import NodeType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from fast_dag.call.policy import CallPolicy
    from fast_dag.define.node import Node
    from fast_dag.plan.binding import Binding

    class Wrapper(Protocol):
        """Returns the function to call in place of a node's own, or None to keep the node's own.

        The new function takes the same arguments, and is async if the node is. It is sent to worker
        processes for the nodes that run there."""

        def __call__(self, node: Node[..., Any], /) -> Callable[..., Any] | None: ...


# A member of an enum takes ten times as long to look up as a global.
_NODE = NodeType.NODE


class Step:
    """One node of a plan.

    `call` is the function to call: the node's own, or what wrappers made of it. `binding` knows
    where its arguments come from. `policy` is what surrounds the call, None if nothing does.
    `decides` is True if the result chooses branches. `nested` is the plan of a nested workflow,
    compiled for the inputs that its edges give.

    `plain` is "sync" or "async" if a driver only has to call the function and store its result,
    else None. Only plain steps may take the fast paths of the drivers.
    """

    __slots__ = ("binding", "call", "decides", "index", "name", "nested", "node", "plain", "policy")

    def __init__(
        self,
        index: int,
        node: Node[..., Any],
        binding: Binding,
        policy: CallPolicy | None,
    ) -> None:
        self.index = index
        self.node = node
        self.name = node.name
        self.binding = binding
        self.policy = policy
        self.call: Callable[..., Any] = node.func
        self.nested: Any = None
        self.decides = decides = node.type is not _NODE and node.type.decides
        self.plain: str | None = None
        if policy is None and not (decides or node.timeout or node.run_in or node.workflow):
            self.plain = "async" if node.signature.is_async else "sync"
