"""What the tests of this directory share: ways to run, and events that reach other processes."""

from __future__ import annotations

import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.managers import SyncManager
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from tests.leaks import LONG, children, is_alive, is_kept, open_files

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_dag import DAG, Run

__all__ = ["LONG", "children", "is_alive"]  # the tests of this directory find these here, too


def wait_for(event: Any) -> None:
    """Wait for an event that must come."""
    assert event.wait(LONG), "what the event stands for has not happened"


def wait_until(holds: Callable[[], object]) -> None:
    """Wait for what nothing signals: the death of a process, say."""
    end = monotonic() + LONG
    while not holds():
        assert monotonic() < end, "it has not happened"
        sleep(0.005)


class Tally:
    """Counts who is inside, and how many were at most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._most = 0

    def enter(self) -> None:
        with self._lock:
            self._inside += 1
            self._most = max(self._most, self._inside)

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1

    def most(self) -> int:
        return self._most


class Shared(SyncManager):
    """A process that owns events, barriers and lists which nodes in any process can use."""


Shared.register("Tally", Tally)


class Here:
    """The same for nodes that are threads or tasks of this process."""

    Event = threading.Event
    Barrier = threading.Barrier
    Tally = Tally
    list = list


class Way:
    """A way to run a DAG."""

    def __init__(self, execute: Callable[..., Run], shared: Any) -> None:
        self.execute = execute
        self.shared = shared
        self.has_processes = shared is not Here

    def __call__(self, dag: DAG, **options: Any) -> Any:
        """What `run` returns."""
        run = self.execute(dag, **options)
        run.raise_for_error()
        return run.value


def execute_awaited(dag: DAG, **options: Any) -> Run:
    return asyncio.run(dag.execute_async(**options))


def execute_on_threads(dag: DAG, **options: Any) -> Run:
    with ThreadPoolExecutor(4) as executor:
        return dag.execute(executor=executor, **options)


def execute_on_one_thread(dag: DAG, **options: Any) -> Run:
    with ThreadPoolExecutor(1) as executor:
        return dag.execute(executor=executor, **options)


EXECUTE: dict[str, Callable[..., Run]] = {
    "sequential": lambda dag, **options: dag.execute(**options),
    "parallel": lambda dag, **options: dag.execute(mode="parallel", **options),
    "process": lambda dag, **options: dag.execute(mode="process", **options),
    "async": lambda dag, **options: dag.execute(mode="async", **options),
    "run_async": execute_awaited,
    "executor": execute_on_threads,
    "one thread": execute_on_one_thread,
}
IN_THREADS = ("parallel", "async", "run_async", "executor")
OVERLAPPING = (*IN_THREADS, "process")
MODES = ("sequential", *OVERLAPPING)


def threads_of_runs() -> set[threading.Thread]:
    """The threads that the library started and that are alive, but those that it keeps."""
    return {
        thread
        for thread in threading.enumerate()
        if thread.name.startswith("fast_dag") and not is_kept(thread)
    }


def descriptors() -> int:
    """How many files, sockets and pipes this process has open."""
    return len(open_files())


def rests(thread: threading.Thread) -> bool:
    """Whether a thread of the shared pool has nothing to do, or has ended."""
    frame = sys._current_frames().get(thread.ident or 0)
    return not thread.is_alive() or frame is None or frame.f_code.co_filename.endswith("threads.py")


def end_of(threads: set[threading.Thread]) -> None:
    """Wait until threads have ended that have been let go, or rest, where they are shared."""
    for thread in threads:
        if is_kept(thread):
            wait_until(lambda thread=thread: rests(thread))
            continue
        thread.join(LONG)
        assert not thread.is_alive(), thread
