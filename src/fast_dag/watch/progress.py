"""Progress callbacks, and the bar that is one."""

from __future__ import annotations

import sys

from fast_dag._extras import needed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from fast_dag.watch.events import AttemptFailed, NodeEnded, NodeStarted, Reported, RunEnded


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
        """Take a bar away."""
        if isinstance(self._callback, Bar):
            self._callback.close()


def needed_for_bars() -> Any:
    """The module that makes bars; raises MissingExtraError."""
    return needed("rich.progress", extra="progress", purpose="progress bars")


def _is_terminal(stream: Any) -> bool:
    return stream is not None and bool(stream.isatty())


class Bar:
    """A progress bar on stderr, by rich; silent if that is neither a terminal nor a notebook, and
    FORCE_COLOR does not say that it can show colours."""

    def __init__(self, name: str) -> None:
        progress = needed_for_bars()
        console = needed("rich.console", extra="progress", purpose="progress bars").Console(
            stderr=True
        )
        # What nodes print stands above the bar, where both go to one terminal.
        shares = _is_terminal(sys.stdout) and _is_terminal(sys.stderr)
        self._bar = progress.Progress(transient=True, console=console, redirect_stdout=shares)
        self._bar.disable = not (console.is_interactive or console.is_jupyter)
        self._task = self._bar.add_task(name, total=1.0)

    def __call__(self, node: str, status: str, fraction: float) -> None:
        self._bar.start()  # the first time; a run that is refused shows none
        self._bar.update(self._task, completed=fraction, description=f"{node}: {status}")

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()
