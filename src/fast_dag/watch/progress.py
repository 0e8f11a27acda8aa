"""Progress callbacks, and the bar that is one."""

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
        """Take a bar away."""
        if isinstance(self._callback, Bar):
            self._callback.close()


def needed_for_bars() -> Any:
    """The module that makes bars; raises MissingExtraError."""
    return needed("rich.progress", extra="progress", purpose="progress bars")


class Bar:
    """A progress bar in a terminal or notebook, by rich; silent where the output is neither."""

    def __init__(self, name: str) -> None:
        self._bar = needed_for_bars().Progress(transient=True)
        console = self._bar.console
        self._bar.disable = not (console.is_interactive or console.is_jupyter)
        self._task = self._bar.add_task(name, total=1.0)

    def __call__(self, node: str, status: str, fraction: float) -> None:
        self._bar.start()  # the first time; a run that is refused shows none
        self._bar.update(self._task, completed=fraction, description=f"{node}: {status}")

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()
