"""The backend in this process: bounded; the entry that was not used for longest goes first."""

from __future__ import annotations

from collections import OrderedDict
from threading import RLock
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Hashable


class Backend(Protocol):
    """Where cached results are kept. `get` returns None for a key that is not there. Each method
    may be async. A fifth method, `forget(prefix)`, is optional: see `DiskCache.forget`."""

    def get(self, key: Any, /) -> Any: ...
    def set(self, key: Any, entry: Any, /) -> Any: ...
    def delete(self, key: Any, /) -> Any: ...
    def clear(self) -> Any: ...


class MemoryBackend:
    """Keeps at most `max_entries` entries, all if that is None; threads may share it.

    >>> backend = MemoryBackend(max_entries=1)
    >>> backend.set("a", 1); backend.set("b", 2)
    >>> backend.get("a"), backend.get("b")
    (None, 2)
    """

    def __init__(self, max_entries: int | None = 1024) -> None:
        self.max_entries = max_entries
        self._entries: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = RLock()  # a signal handler or a finalizer may come back here

    def get(self, key: Hashable, /) -> Any:
        """The entry, which counts as used now; None if there is none."""
        entries, lock = self._entries, self._lock
        lock.acquire()  # `with` takes as long as all else here
        try:
            entry = entries.get(key)
            if entry is not None:
                entries.move_to_end(key)
            return entry
        finally:
            lock.release()

    def set(self, key: Hashable, entry: Any, /) -> None:
        """Store an entry; the one that was not used for longest makes room."""
        dropped = None
        with self._lock:
            self._entries[key] = entry
            self._entries.move_to_end(key)
            if self.max_entries is not None and len(self._entries) > self.max_entries:
                dropped = self._entries.popitem(last=False)
        del dropped  # outside of the lock, because a finalizer of the user's may run

    def delete(self, key: Hashable, /) -> None:
        """Delete an entry, if it is there."""
        with self._lock:
            dropped = self._entries.pop(key, None)
        del dropped

    def clear(self) -> None:
        """Delete all entries."""
        with self._lock:
            dropped, self._entries = self._entries, OrderedDict()
        del dropped

    def known(self) -> list[Any]:
        """The keys of all entries."""
        with self._lock:
            return list(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __getstate__(self) -> dict[str, Any]:
        return {"max_entries": self.max_entries}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]
