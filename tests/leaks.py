"""What must not outlive a run, counted before and after it.

    with nothing_left():                 threads, processes, open files, shared memory, timers
        dag.run(mode="process")

    births = Births()                    values, by weak references: is each freed in time?
    with without_collector():
        dag.run(value=births.new())
        ...
        assert births.alive() == 0

What was there before does not count, nor what the process keeps for all runs to come: see
`is_kept`. What was let go may take a moment to end; only what is still there after `LONG` seconds
has been left behind, so a busy machine makes no leaks.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, NamedTuple

from tests.patience import LONG

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

POOL = "fast_dag pool"
"""What the names of the worker threads begin with that all runs on event loops share."""


def is_kept(thread: threading.Thread) -> bool:
    """Whether a thread may stay: idle workers that the process keeps for the next run."""
    return thread.name.startswith(POOL)


class Census(NamedTuple):
    """What this process has at one moment."""

    threads: frozenset[object]
    processes: frozenset[object]
    files: frozenset[object]
    shared_memory: frozenset[object]

    @classmethod
    def taken(cls) -> Census:
        """The census of now."""
        return cls(
            frozenset(thread for thread in threading.enumerate() if not is_kept(thread)),
            frozenset(children()),
            frozenset(open_files().items()),
            frozenset(os.listdir("/dev/shm")),
        )

    def since(self, earlier: Census, kinds: Collection[str]) -> dict[str, list[object]]:
        """What is new since an earlier census, of these kinds."""
        both = zip(self._fields, self, earlier, strict=True)
        new = {kind: now - before for kind, now, before in both if kind in kinds}
        if new.get("shared_memory"):
            new["shared_memory"] &= shared_memory()
        return {kind: sorted(things, key=str) for kind, things in new.items() if things}


KINDS = (*Census._fields, "timers")


@contextmanager
def nothing_left(kinds: Collection[str] = KINDS) -> Iterator[None]:
    """Assert that whatever begins inside has ended soon after, as far as it is of these kinds."""
    # These stay, as multiprocessing has it.
    forkserver.ensure_running()
    resource_tracker.ensure_running()
    before = Census.taken()
    with no_timer_in_closed_loops() if "timers" in kinds else nullcontext():
        yield
    end = monotonic() + LONG
    while left := Census.taken().since(before, kinds):
        assert monotonic() < end, f"left behind: {left}"
        sleep(0.005)


# Threads, processes, files.


def is_alive(pid: int) -> bool:
    """Whether a process exists and has not ended (a zombie has)."""
    stat = _stat(pid)
    return stat is not None and stat[0] not in "ZX"


def children() -> set[int]:
    """The processes below this one, of whatever generation, that are alive."""
    below: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        stat = _stat(int(entry)) if entry.isdigit() else None
        if stat is not None and stat[0] not in "ZX":
            below.setdefault(int(stat[1]), []).append(int(entry))
    found: set[int] = set()
    todo = [os.getpid()]
    while todo:
        mine = [pid for pid in below.get(todo.pop(), []) if not _is_tracker(pid)]
        found.update(mine)
        todo.extend(mine)
    return found


def _is_tracker(pid: int) -> bool:
    """Multiprocessing and loky keep one each for the whole process."""
    try:
        return "resource_tracker" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False


def _stat(pid: int) -> list[str] | None:
    """State, parent, and so on; None where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def open_files() -> dict[int, str]:
    """The files, sockets and pipes that this process has open, by their descriptors."""
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # that of the listing itself
            found[int(entry)] = os.readlink(f"/proc/self/fd/{entry}")
    return found


def shared_memory() -> set[str]:
    """The blocks and semaphores in shared memory, but those that a process has mapped which is
    neither this one nor below it: the tests of another worker run there."""
    # Semaphores are those of multiprocessing and loky, in tests of these: the one's are unlinked
    # some time after the script that made them was killed, the other's when they are collected.
    blocks = {block for block in os.listdir("/dev/shm") if not block.startswith("sem.")}
    if not blocks:
        return blocks
    ours = {os.getpid(), *children()}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) not in ours:
            with suppress(OSError):
                maps = Path(f"/proc/{entry}/maps").read_text()
                blocks = {block for block in blocks if f"/dev/shm/{block}" not in maps}
    return blocks


# Timers.


def timers(loop: asyncio.AbstractEventLoop) -> list[asyncio.TimerHandle]:
    """The timers of a loop that are still to go off. (A cancelled one holds nothing.)"""
    scheduled: list[asyncio.TimerHandle] = loop._scheduled  # type: ignore[attr-defined]
    return [handle for handle in scheduled if not handle.cancelled()]


@contextmanager
def no_timer_in_closed_loops() -> Iterator[None]:
    """Assert that no loop that is closed inside, of whatever thread, still has timers."""
    left: list[str] = []
    close = asyncio.BaseEventLoop.close

    def counted(loop: asyncio.BaseEventLoop) -> None:
        left.extend(map(repr, timers(loop)))
        close(loop)

    asyncio.BaseEventLoop.close = counted  # type: ignore[method-assign]
    try:
        yield
    finally:
        asyncio.BaseEventLoop.close = close  # type: ignore[method-assign]
    assert not left, f"timers that outlived their run: {left}"


# Values.


class Value:
    """Something whose life can be watched."""


class Births:
    """Makes values and tells how many are alive."""

    def __init__(self) -> None:
        self._born: list[weakref.ref[Value]] = []

    def new(self) -> Value:
        value = Value()
        self._born.append(weakref.ref(value))
        return value

    def count(self) -> int:
        return len(self._born)

    def alive(self) -> int:
        return sum(1 for born in self._born if born() is not None)


@contextmanager
def without_collector() -> Iterator[None]:
    """The garbage collector off: only what nothing refers to is freed, and at once."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
