"""What a node's call asks of the execution that it belongs to."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from fast_dag.context import Context

    class Host(Protocol):
        """An execution, as policies, caches and resources see it."""

        context: Context
        resources: Any
        """The resources that its nodes share, None if there are none."""
        record: Any
        """What it records; calls count hits of caches in it."""
        cut_off: tuple[str, ...]
        """The nodes whose cleanup hook was cut off."""

        @property
        def outer(self) -> Host | None:
            """The execution in whose node this one was started."""

        @property
        def watched(self) -> bool:
            """Whether somebody wants to know of each node."""
            ...

        @property
        def stopped(self) -> bool:
            """Whether nothing more starts."""
            ...

        @property
        def blocks_loop(self) -> bool:
            """Whether an event loop stands still until it ends."""
            ...

        def retries(self, name: str, error: Exception, attempt: int, delay: float, /) -> None:
            """An attempt failed, and another follows after `delay` seconds."""

        def handled(self, name: str, error: Exception, attempts: int, /) -> None:
            """A node's error handler gave a result in place of its error."""

        def lose(self, resource: str, error: BaseException, where: str = "use", /) -> None:
            """A resource broke while it was open, or could not be closed."""
