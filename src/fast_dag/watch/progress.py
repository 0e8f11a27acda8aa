"""The observer that calls a progress callback, and the progress bar, which is such a callback."""

from __future__ import annotations

import sys

from fast_dag._extras import needed
from fast_dag.define.signature import gives_coroutine
from fast_dag.errors import ValidationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from fast_dag.watch.events import AttemptFailed, NodeEnded, NodeStarted, Reported, RunEnded


def refuse_async(callback: Callable[..., object], what: str = "a progress callback") -> None:
    """Raise ValidationError for an async callback where nobody would await it."""
    if gives_coroutine(callback):
        raise ValidationError(
            f"{what} is a sync function, called while the run goes on; {callback!r} is async"
        )


class Progress:
    """The observer that calls `f(node_name, status, fraction_done)`."""

    def __init__(self, callback: Callable[[str, str, float], object]) -> None:
        self._callback = callback

    def node_started(self, event: NodeStarted) -> None:
        """Pass it on."""
        self._callback(event.path, "running", event.fraction)

    def attempt_failed(self, event: AttemptFailed) -> None:
        """Pass it on."""
        self._callback(event.path, "retrying", event.fraction)

    def node_ended(self, event: NodeEnded) -> None:
        """Pass it on."""
        self._callback(event.path, event.status, event.fraction)

    def reported(self, event: Reported) -> None:
        """Pass it on."""
        self._callback(event.path, event.status, event.fraction)

    def run_ended(self, event: RunEnded) -> None:
        """Remove the bar, if the callback is one."""
        if isinstance(self._callback, Bar):
            self._callback.close()


def needed_for_bars() -> Any:
    """The module that makes bars; raises MissingExtraError."""
    return needed("rich.progress", extra="progress", purpose="progress bars")


def _is_terminal(stream: Any) -> bool:
    return stream is not None and bool(stream.isatty())


class Bar:
    """A progress bar on stderr, made by rich. None is shown if stderr is neither a terminal nor a
    notebook, unless FORCE_COLOR is set."""

    def __init__(self, name: str) -> None:
        progress = needed_for_bars()
        console = needed("rich.console", extra="progress", purpose="progress bars").Console(
            stderr=True
        )
        # If stdout and the bar go to one terminal, rich prints what nodes print above the bar.
        shares = _is_terminal(sys.stdout) and _is_terminal(sys.stderr)
        self._bar = progress.Progress(transient=True, console=console, redirect_stdout=shares)
        self._bar.disable = not (console.is_interactive or console.is_jupyter)
        self._task = self._bar.add_task(name, total=1.0)

    def __call__(self, node: str, status: str, fraction: float) -> None:
        self._bar.start()  # here and not earlier, so that a run that is refused shows no bar
        self._bar.update(self._task, completed=fraction, description=f"{node}: {status}")

    def close(self) -> None:
        """Remove the bar."""
        self._bar.stop()
