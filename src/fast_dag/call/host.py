"""Host: what a node's call needs of its execution."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from fast_dag.context import Context

    class Host(Protocol):
        """An execution, as policies, caches and resources see it."""

        context: Context
        status: str
        """How it ended; "running" before that."""
        resources: Any
        """The resources that its nodes share, None if there are none."""
        record: Any
        """Its record, in which calls count the hits of caches."""
        cut_off: tuple[str, ...]
        """The nodes whose cleanup hook was cut off."""

        @property
        def home(self) -> Host:
            """The execution itself, where this is its view for one item of a map."""
            ...

        @property
        def outer(self) -> Host | None:
            """The execution in whose node this one was started."""

        @property
        def watched(self) -> bool:
            """Whether an observer or a store must be told of each node."""
            ...

        @property
        def stopped(self) -> bool:
            """Whether nothing more starts."""
            ...

        @property
        def blocks_loop(self) -> bool:
            """Whether an event loop is blocked until the execution ends."""
            ...

        def call_id(self, name: str, /) -> str:
            """The id of the call of a node: the same for all its attempts."""
            ...

        def retries(self, name: str, error: Exception, attempt: int, delay: float, /) -> None:
            """Called when an attempt failed, and another follows after `delay` seconds."""

        def handled(self, name: str, error: Exception, attempts: int, /) -> None:
            """Called when a node's error handler gave a result in place of its error."""

        def lose(self, resource: str, error: BaseException, where: str = "use", /) -> None:
            """Called when a resource broke while it was open, or could not be closed."""
