"""Signals that end a run as Ctrl-C does: SIGTERM, and SIGHUP where there is one."""

from __future__ import annotations

import signal
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

_REPEATED = 1.0
"""Seconds in which further signals are ignored: a terminal that closes sends several."""


class Signals:
    """Interrupts the main thread at a signal; `number` is the signal that interrupted it, SIGINT
    for Ctrl-C. A signal that is ignored, as `nohup` has it, stays ignored."""

    def __init__(self) -> None:
        self.number = signal.SIGINT
        self._last = -_REPEATED
        self._watched: list[signal.Signals] = []

    def __enter__(self) -> Signals:
        numbers = (getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP"))
        for number in numbers:
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, self._interrupt)
                self._watched.append(number)
        return self

    def __exit__(self, *ended_by: object) -> None:
        for number in self._watched:
            signal.signal(number, signal.SIG_DFL)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        now = monotonic()
        if now - self._last < _REPEATED:
            return
        self._last, self.number = now, signal.Signals(number)
        # That of asyncio, while the main thread runs an event loop: it cancels the loop's task.
        ctrl_c: Any = signal.getsignal(signal.SIGINT)
        if not callable(ctrl_c):  # it is ignored, as in background jobs of scripts
            raise KeyboardInterrupt
        ctrl_c(signal.SIGINT, frame)
