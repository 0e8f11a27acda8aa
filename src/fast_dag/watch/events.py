"""Events: what happens in a run, as data for observers."""

from __future__ import annotations

from fast_dag._fields import Fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    class Watched(Protocol):
        """An execution, as events and observers see it."""

        name: str
        noun: str
        status: str
        context: Any
        record: Any

        @property
        def parent(self) -> Watched | None:
            """The execution that this one is nested in."""

        def exception(self) -> BaseException | None:
            """The error that ended it."""


class Event(Fields):
    """Something happened to a node of `execution`. `path` is the node's name from the outermost
    workflow on, such as "sub.inner". `fraction` is the part of the outermost workflow that is
    done."""

    __slots__ = ("execution", "fraction", "path")

    def __init__(self, execution: Watched, path: str, fraction: float) -> None:
        self.execution = execution
        self.path = path
        self.fraction = fraction


class NodeStarted(Event):
    """A node is about to be called."""

    __slots__ = ()


class AttemptFailed(Event):
    """Attempt number `attempt` of a node failed, and another follows."""

    __slots__ = ("attempt", "error")

    def __init__(
        self,
        execution: Watched,
        path: str,
        fraction: float,
        error: BaseException,
        attempt: int,
    ) -> None:
        super().__init__(execution, path, fraction)
        self.error = error
        self.attempt = attempt


class NodeEnded(Event):
    """A node completed, failed, was skipped or was cancelled: `status` says which. `seconds` is how
    long it took, None if it was skipped or cancelled."""

    __slots__ = ("attempts", "error", "seconds", "status")

    def __init__(
        self,
        execution: Watched,
        path: str,
        fraction: float,
        status: str,
        error: BaseException | None = None,
        attempts: int = 1,
        seconds: float | None = None,
    ) -> None:
        super().__init__(execution, path, fraction)
        self.status = status
        self.error = error
        self.attempts = attempts
        self.seconds = seconds


class Reported(Event):
    """A node reported its own progress, by `dag.progress_callback`; or see `Advanced`."""

    __slots__ = ("status",)

    def __init__(self, execution: Watched, path: str, fraction: float, status: str) -> None:
        super().__init__(execution, path, fraction)
        self.status = status


class Advanced(Reported):
    """Items of a map ended: `status` is "running 1,200 of 5,000", or "running 1,200" as long as
    nobody knows how many there are."""

    __slots__ = ()


class RunEnded(Event):
    """The outermost run ended."""

    __slots__ = ()
