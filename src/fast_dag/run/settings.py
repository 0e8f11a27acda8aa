"""Settings: the options of one run. They are checked when they are given."""

from __future__ import annotations

from enum import StrEnum

from fast_dag.define.options import asked_count, asked_deadline
from fast_dag.errors import ValidationError, closest, names
from fast_dag.watch.progress import needed_for_bars, refuse_async

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor
    from typing import Any, Final, SupportsIndex

    from fast_dag.context import Context
    from fast_dag.define.options import Seconds
    from fast_dag.run.limits import Limits


class ExecutionMode(StrEnum):
    """Where nodes run; equal to its string.

    >>> ExecutionMode.SEQUENTIAL == "sequential"
    True
    """

    SEQUENTIAL = "sequential"
    PARALLEL = "parallel"
    PROCESS = "process"
    ASYNC = "async"


# A member of an enum takes ten times as long to look up as a global.
SEQUENTIAL, PARALLEL = ExecutionMode.SEQUENTIAL, ExecutionMode.PARALLEL
PROCESS, ASYNC = ExecutionMode.PROCESS, ExecutionMode.ASYNC
_MODES: Final = {each.value: each for each in ExecutionMode}
_ALSO_CALLED: Final = {
    "threads": "parallel",
    "thread": "parallel",
    "threading": "parallel",
    "multiprocessing": "process",
    "serial": "sequential",
}


class Settings:
    """The options of one run, and of the workflows nested in it."""

    __slots__ = (
        "error_handler",
        "error_strategy",
        "executor",
        "keep",
        "limits",
        "max_workers",
        "mode",
        "progress",
        "timeout",
        "track_memory",
    )

    def __init__(
        self,
        mode: str = "sequential",
        max_workers: SupportsIndex | None = None,
        executor: Executor | None = None,
        timeout: Seconds | None = None,
        error_strategy: str = "fail_fast",
        error_handler: Callable[[str, Exception, Context], str] | None = None,
        progress: Callable[[str, str, float], object] | bool | None = None,
        track_memory: bool = False,
        keep: str = "all",
        limits: Limits | None = None,
    ) -> None:
        if not (progress is None or isinstance(progress, bool) or callable(progress)):
            raise ValidationError(
                f"progress is a function of (node_name, status, fraction_done), or True for a bar, "
                f"not {progress!r}"
            )
        if callable(progress):
            refuse_async(progress)
        if progress is True:
            needed_for_bars()
        if not isinstance(mode, str) or mode not in _MODES:
            meant = _ALSO_CALLED.get(str(mode))
            hint = closest(mode, _MODES)[1] if meant is None else f" (did you mean {meant!r}?)"
            raise ValidationError(f"mode is one of {names(_MODES)}, not {mode!r}{hint}")
        if executor is not None and not callable(getattr(executor, "submit", None)):
            raise ValidationError(f"executor is a concurrent.futures.Executor, not {executor!r}")
        if error_strategy not in ("fail_fast", "continue"):
            raise ValidationError(
                f"error_strategy is 'fail_fast' or 'continue', not {error_strategy!r}"
            )
        if error_handler is not None:
            if not callable(error_handler):
                raise ValidationError(f"error_handler is not callable: {error_handler!r}")
            refuse_async(error_handler, "error_handler")
        if keep not in ("all", "outputs"):
            raise ValidationError(
                f"keep is 'all' or 'outputs', not {keep!r}; to give an input of that name: "
                "inputs={'keep': ...}"
            )
        self.mode = _MODES[mode]
        self.max_workers = asked_count("max_workers", max_workers)
        self.executor = executor
        self.timeout = asked_deadline("timeout", timeout)
        self.error_strategy = error_strategy
        self.error_handler = error_handler
        self.progress = progress
        self.track_memory = track_memory
        self.keep = keep
        self.limits = checked_limits(limits)

    @classmethod
    def of(cls, *asked: Any) -> Settings:
        """Settings made of the options in their order. Runs with all defaults share one object."""
        return _DEFAULTS if asked == _NOTHING_ASKED else cls(*asked)

    @property
    def stays_here(self) -> bool:
        """Whether sync nodes run in this process, except for those with `run_in="process"`."""
        return self.executor is None and self.mode is not PROCESS

    @property
    def fails_fast(self) -> bool:
        """Whether the failure of a node ends the run, without anybody being asked."""
        return self.error_strategy == "fail_fast" and self.error_handler is None

    @property
    def ordered(self) -> bool:
        """Whether nodes run one at a time, in sequential order."""
        return self.mode is SEQUENTIAL and self.executor is None


def checked_limits(value: Any) -> Limits | None:
    """The value of an option `limits=`; raises ValidationError."""
    if value is None:
        return None
    from fast_dag.run.limits import asked_limits  # for those who have limits

    return asked_limits(value)


_NOTHING_ASKED: Final = Settings.__init__.__defaults__
_DEFAULTS: Final = Settings()
