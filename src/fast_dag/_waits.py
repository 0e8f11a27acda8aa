"""Waits that end soon after Ctrl-C.

A signal that arrives just before a thread blocks does not end its wait: no wait in Python is safe
from that. On some systems another thread is given the signal, which does not end the wait either.
So whoever waits in the caller's thread wakes up at intervals. Python then calls the handlers of the
signals that have arrived.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from threading import Event

SIGNALS_SEEN = 0.5
"""Seconds after which a waiting caller wakes up to see signals."""


def wait(event: Event) -> None:
    """Wait until the event is set."""
    while not event.wait(SIGNALS_SEEN):
        pass


def sleep(seconds: float) -> None:
    """Wait that long."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, SIGNALS_SEEN))


class Heartbeat:
    """Wakes a loop that runs in the caller's thread."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._beat()

    def _beat(self) -> None:
        self._handle = self._loop.call_later(SIGNALS_SEEN, self._beat)

    def stop(self) -> None:
        self._handle.cancel()
