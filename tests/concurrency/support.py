"""What the tests of this directory share: events that reach other processes, and waits."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from multiprocessing.managers import SyncManager
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from tests.leaks import children, is_alive, is_kept, open_files
from tests.patience import LONG
from tests.ways import EXECUTE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fast_dag import DAG

__all__ = [
    "EXECUTE",
    "children",
    "is_alive",
]  # found here, too


ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def run(
    folder: Path, text: str, *command: str, name: str = "program.py", **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a program of its own, by its path where no command is given."""
    path = folder / name
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-W", "error", *(command or (str(path),))],
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
        cwd=folder,
        env=ENVIRONMENT,
        **options,
    )


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
    """A way to run a DAG, and the events, barriers and lists that its nodes can use."""

    def __init__(self, name: str, shared: Any) -> None:
        self.execute = EXECUTE[name]
        self.shared = shared
        self.has_processes = shared is not Here

    def __call__(self, dag: DAG, **options: Any) -> Any:
        """What `run` returns."""
        run = self.execute(dag, **options)
        run.raise_for_error()
        return run.value


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
