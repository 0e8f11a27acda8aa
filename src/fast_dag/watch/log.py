"""The records of the logger `fast_dag`: which are written, at which level, with which attributes.

Whether to log each node is decided once, when a run starts, because it takes the run off its fast
paths. All other records are rare, so the logger is asked each time. A handler that raises does not
harm the run.
"""

from __future__ import annotations

import sys
from functools import cache

from fast_dag.errors import brief_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fast_dag.watch.events import NodeEnded, NodeStarted, Reported, Watched

DEBUG, INFO, WARNING, ERROR = 10, 20, 30, 40
"""The levels of `logging`, which is slow to import."""


class NodeLog:
    """The observer that logs the start and the end of each node, at DEBUG."""

    def node_started(self, event: NodeStarted) -> None:
        """Log the start of a node."""
        _write(DEBUG, event.execution, event.path, "running", attempt=1)

    def node_ended(self, event: NodeEnded) -> None:
        """Log the end of a node."""
        _write(
            DEBUG,
            event.execution,
            event.path,
            event.status,
            attempt=event.attempts,
            seconds=event.seconds,
        )

    def reported(self, event: Reported) -> None:
        """Log what a node reported."""
        _write(DEBUG, event.execution, event.path, event.status, attempt=1)


def node_log() -> NodeLog | None:
    """The observer that logs nodes; None if no handler would take its records now."""
    log = _logger(DEBUG)
    return NodeLog() if log is not None and _is_taken(log, DEBUG) else None


def failed(execution: Watched, path: str, error: BaseException, attempts: int) -> None:
    """Log that a node failed for good: its error ends the run, or is kept in `run.errors`."""
    _write(ERROR, execution, path, "failed", error=error, attempt=attempts)


def retried(execution: Watched, path: str, error: BaseException, attempt: int) -> None:
    """Log that an attempt failed, and another follows."""
    _write(WARNING, execution, path, "retrying", error=error, attempt=attempt)


def handled(execution: Watched, path: str, error: BaseException, attempts: int) -> None:
    """Log that a node failed, and its error handler gave a result in its place."""
    _write(WARNING, execution, path, "handled", error=error, attempt=attempts)


def kept(execution: Watched, path: str, units: str) -> None:
    """A call that nobody waits for any more keeps its units of limits until it really ends."""
    _write(WARNING, execution, path, f"abandoned; it keeps {units} until its call really ends")


def ended(execution: Watched) -> None:
    """Log that an outermost run ended."""
    if execution.status == "timed_out":
        _write(ERROR, execution, None, "failed", error=execution.exception())
    if _logger(INFO) is not None:
        _write(INFO, execution, None, execution.status, seconds=execution.record.seconds)


def raised(execution: Watched, path: str | None, error: BaseException) -> None:
    """Log that a progress callback raised, with the traceback."""
    message = "the progress callback raised; the run goes on"
    _write(ERROR, execution, path, None, message=message, exc_info=error)


def _write(
    level: int,
    execution: Watched,
    path: str | None,
    status: str | None,
    *,
    error: BaseException | None = None,
    attempt: int | None = None,
    seconds: float | None = None,
    message: str | None = None,
    exc_info: BaseException | None = None,
) -> None:
    """Log one record. Names and errors are quoted, so that a line break in them does not make the
    record several lines."""
    log = _logger(level)
    if log is None:
        return
    outermost = execution
    while outermost.parent is not None:
        outermost = outermost.parent
    args: list[Any] = []
    if message is None:
        message, args = "run of %r: %s", [outermost.name, status]
        if path is not None:
            message, args = "%s %r of %r: %s", [execution.noun, path, outermost.name, status]
        if error is not None:
            message += ": %r"
            args.append(brief_of(error))
    facts = {
        "run_id": outermost.context.metadata.get("run_id"),
        "workflow": outermost.name,
        "node": path,
        "attempt": attempt,
        "status": status,
        "seconds": seconds,
    }
    try:
        log.log(level, message, *args, exc_info=exc_info, extra=facts)
    except Exception:  # raised by a handler; the log is broken, so this cannot be logged
        return


def _logger(level: int) -> Any:
    """The logger, which is silent unless a user configured it; None if it takes no records of that
    level."""
    logging: Any = sys.modules.get("logging")
    if logging is None:  # then nobody can have configured it
        return None
    log = _found()
    if not log.isEnabledFor(level):
        return None
    if not any(isinstance(each, logging.NullHandler) for each in log.handlers):
        log.addHandler(logging.NullHandler())  # again if a configuration removed it
    return log


@cache
def _found() -> Any:
    return sys.modules["logging"].getLogger("fast_dag")


def _is_taken(log: Any, level: int) -> bool:
    """Whether a record of this level would reach a handler that accepts it."""
    null: Any = sys.modules["logging"].NullHandler
    while log is not None:
        if any(each.level <= level and not isinstance(each, null) for each in log.handlers):
            return True
        log = log.parent if log.propagate else None
    return False
