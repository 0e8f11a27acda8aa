"""Ctrl-C while a run has the main thread.

Python raises KeyboardInterrupt between any two instructions. That is right in the function of a
node, but in the code of the engine it could cut a step in half: a job that was taken out of one
place and not yet put into the next would be lost. So there it is not raised. Another thread cuts
the run short, as it does for a timeout, and the exception is raised when the run has ended.
"""

from __future__ import annotations

import signal
import threading
from _thread import start_new_thread
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

_MOST = 2
"""How many interruptions are left to another thread: the first cuts the run short, the second ends
it at once."""

_PATIENCE = 1.0
"""Seconds after the first interruption in which others do no more than that. Those that come later
are raised wherever the main thread is: it hangs in an observer, say. A run that has ended waits as
long for a thread that cut it short."""


class Interruptions:
    """Handles Ctrl-C while the main thread is in the `with` block, if nobody else does.

    Parameters
    ----------
    is_call:
        Whether the thread, interrupted at this frame, was making a call of the user's, and may be
        interrupted there.
    cut_short:
        Called in another thread if it was not.
    """

    def __init__(
        self,
        is_call: Callable[[FrameType | None], bool],
        cut_short: Callable[[BaseException], object],
    ) -> None:
        self._is_call = is_call
        self._cut_short = cut_short
        self._count = 0  # how many were left to another thread
        self._first = 0.0  # when the first of them came
        self._threads: SimpleQueue[threading.Thread] = SimpleQueue()
        self._before: Any = None  # the handler that this one stands in for

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        before: Any = signal.getsignal(signal.SIGINT)
        if before is signal.default_int_handler or isinstance(before, Interruptions):
            self._before = before
            signal.signal(signal.SIGINT, self)

    def __exit__(self, *ended_by: object) -> None:
        if self._before is None:
            return
        is_mine = signal.getsignal(signal.SIGINT) is self
        if is_mine:  # else a node has set another
            signal.signal(signal.SIGINT, self._before)
        for _ in range(self._count):
            with suppress(Empty):  # there are too many threads to start another
                self._threads.get(timeout=_PATIENCE).join(_PATIENCE)
        if self._count and ended_by[0] is None:  # it came when the run had ended
            raise KeyboardInterrupt

    def __call__(self, number: int, frame: FrameType | None) -> None:
        is_last = self._count >= _MOST and monotonic() > self._first + _PATIENCE
        if is_last or self._is_call(frame):
            raise KeyboardInterrupt
        self._first = self._first or monotonic()
        if self._count < _MOST:
            # A thread of `threading` cannot be started here: this thread may hold its lock.
            start_new_thread(self._start, ())
            self._count += 1

    def _start(self) -> None:
        thread = threading.Thread(
            target=self._cut_short, args=(KeyboardInterrupt(),), name="fast_dag Ctrl-C", daemon=True
        )
        thread.start()
        self._threads.put(thread)


class LeftToTheLoop:
    """Leaves Ctrl-C to the event loop that runs in the `with` block, in a call of a concurrent run:
    asyncio cancels what runs there only where it finds Python's own handler.

    Not a generator: what `contextmanager` makes of one writes to the exceptions that pass through,
    and some do not let themselves be changed."""

    _before: Any = None

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGINT)
            if isinstance(before, Interruptions):
                self._before = before
                signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *ended_by: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
