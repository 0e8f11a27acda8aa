"""The peak of a run's memory, measured by the standard library's tracemalloc."""

from __future__ import annotations

from threading import Lock

_lock = Lock()
_watching = 0
_started = False


class MemoryWatch:
    """Measures from its construction to `stop()`. Runs that overlap share one trace of the whole
    process, so each also counts the memory of the others.

    >>> watch = MemoryWatch()
    >>> _ = bytearray(3_000_000)
    >>> watch.stop() > 2
    True
    """

    def __init__(self) -> None:
        import tracemalloc  # slow to import

        global _watching, _started  # noqa: PLW0603  a process has one trace
        with _lock:
            if not tracemalloc.is_tracing():
                tracemalloc.start()
                _started = True
            if not _watching:
                tracemalloc.reset_peak()
            _watching += 1

    def stop(self) -> float:
        """End the measurement. Returns the peak in MiB."""
        import tracemalloc

        global _watching, _started  # noqa: PLW0603
        with _lock:
            peak = tracemalloc.get_traced_memory()[1] / 2**20
            _watching -= 1
            if not _watching and _started:
                tracemalloc.stop()
                _started = False
            return peak
