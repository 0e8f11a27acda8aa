"""The observer that calls a progress callback, and the progress bar, which is such a callback."""

from __future__ import annotations

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
        """Remove the bar, if the callback is one."""
        if isinstance(self._callback, Bar):
            self._callback.close()


def needed_for_bars() -> Any:
    """The module that makes bars; raises MissingExtraError."""
    return needed("rich.progress", extra="progress", purpose="progress bars")


class Bar:
    """A progress bar in a terminal or notebook, made by rich. Any other output shows none."""

    def __init__(self, name: str) -> None:
        self._bar = needed_for_bars().Progress(transient=True)
        console = self._bar.console
        self._bar.disable = not (console.is_interactive or console.is_jupyter)
        self._task = self._bar.add_task(name, total=1.0)

    def __call__(self, node: str, status: str, fraction: float) -> None:
        self._bar.start()  # here and not earlier, so that a run that is refused shows no bar
        self._bar.update(self._task, completed=fraction, description=f"{node}: {status}")

    def close(self) -> None:
        """Remove the bar."""
        self._bar.stop()
