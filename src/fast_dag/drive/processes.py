"""Worker processes: how one is started, what it is sent, how it ends.

They are not forked, but started as programs of their own. They are not started by multiprocessing
either: its processes are daemons, which may not have children, or they keep the interpreter from
ending; and a daemon may not start either kind.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import sysconfig
import threading
import traceback
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker, spawn
from multiprocessing.connection import Pipe
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from fast_dag._extras import needed
from fast_dag.drive import payload, reloads, scripts
from fast_dag.drive.faults import words_of
from fast_dag.drive.protocol import (
    CALL,
    END,
    FORGET,
    HEAD,
    LOG,
    NO_ITEMS,
    PART,
    RESULT,
    VERSION,
    Cell,
    Channel,
    Packed,
)
from fast_dag.errors import ExecutionError, ValidationError, add_note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

    from fast_dag.drive.protocol import Message

GRACE = 5.0
"""Seconds in which an idle worker must end when it is told to. After that it is killed."""


def refuse_without_extra() -> None:
    """Raise MissingExtraError if cloudpickle is not installed."""
    needed("cloudpickle", extra="process", purpose="worker processes")


def refuse() -> None:
    """Raise if there can be no worker processes: MissingExtraError if cloudpickle is not installed,
    ValidationError in a worker process that is importing the main script."""
    refuse_without_extra()
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ValidationError(
            "a worker process is importing the main script, which runs a workflow in "
            "processes; put that run under `if __name__ == '__main__':`"
        )


class Head:
    """The function of batches, and what all their calls are given; each process is sent this
    once."""

    _count = 0

    def __init__(self, call: payload.Head) -> None:
        Head._count += 1
        self.number = Head._count
        self.call = call

    def packed(self, names: payload.Names) -> Packed:
        """The head for a worker that knows these names of the main script."""
        return payload.packed_head(self.call, names)


class LostError(Exception):
    """Raised when a worker process died before it answered."""


class Process:
    """A worker process: a new interpreter at the other end of a pipe. `start` starts it; from then
    on it makes one call after another. One thread has it at a time, but any may kill it."""

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.names: payload.Names = {}
        self.is_started = False
        self.is_killed = False
        self.has_ended = False
        self.calls = 0  # how many it has been sent, but for that of the initializer
        self.born = reloads.count()  # how many reloads there had been when it was made
        self.idle_since = 0.0
        self.heads: set[int] = set()  # those that it was sent
        self._number = 0  # of the call that it was sent last
        self._has_begun = False
        self._popen: subprocess.Popen[bytes] | None = None
        self._cell: Cell | None = None

    def start(self, level: int | str | None = None, initializer: Any = None) -> None:
        """Start the process, and wait until it takes calls. Raises ExecutionError if it cannot,
        LostError if it has died."""
        self.is_started = True
        self._begin()
        if self.is_killed:  # `kill` was called while there was no process
            self.kill()
        with _as_lost():
            self.pipe.send_bytes(pickle.dumps({**preparation(), "logging": level}))
            ok, value, cause, _ = payload.unpacked(self._channel.receive())
        if ok is None:
            raise ExecutionError(value) from cause
        self.names = value
        if initializer is None:
            return
        call = payload.packed_function(initializer, (), {}, self.names)
        ok, value, extra, _ = payload.unpacked(self.ask(CALL, call))
        if ok is None:
            raise ExecutionError(f"its initializer failed: {value}") from extra
        if not ok:
            add_note(value, *extra)
            text = f"its initializer failed: {type(value).__name__}: {words_of(value)}"
            raise ExecutionError(text) from value
        self.calls = 0

    def _begin(self) -> None:
        with _starting:
            self.pipe, theirs = Pipe()
            watched, self._alive = Pipe(duplex=False)
            _pipes.update((self.pipe, self._alive))
            self._cell, cell = Cell.made()
            try:
                self._popen = _started(theirs.fileno(), watched.fileno(), cell)
            except BaseException:
                self._close()
                raise
            finally:
                theirs.close()
                watched.close()
                if cell is not None:
                    os.close(cell)
        self._channel = Channel(self.pipe)

    def ask(
        self,
        kind: int,
        packed: Packed,
        told: Callable[[Message], object] = lambda _: None,
        *,
        reports: bool = False,
        head: Head | None = None,
        patience: float | None = None,
        late: Callable[[], bool] = bool,
    ) -> Message:
        """Send a call, or a batch, and wait for the last answer. Raises LostError.

        `told` is given what comes before the last answer, and each PART. With `reports`, this
        includes the beginning of the call. `head` is that of the batch; it is sent if the process
        does not have it. `late` is called whenever nothing came for `patience` seconds, until it
        returns True."""
        if head is not None and head.number in self.heads:
            head = None
        self.calls += kind == CALL
        self._number += 1
        self._has_begun = False
        with _as_lost():
            if head is not None:
                self._channel.send(HEAD, head.packed(self.names), head.number)
                self.heads.add(head.number)
            self._channel.send(kind, packed, self._number, reports)
        while True:
            with _as_lost():
                while patience is not None and not self.pipe.poll(patience):
                    if late():
                        patience = None
                message = self._channel.receive()
            if message.kind == LOG:
                _log(message)
                continue
            self._has_begun = True
            if message.kind == RESULT:
                return message
            told(message)
            if message.kind == PART:
                self.calls += message.number if message.number < NO_ITEMS else 0
                if message.flag:
                    return message

    def forget(self, head: Head) -> None:
        """Have an idle process free a head."""
        if head.number in self.heads:
            self.heads.discard(head.number)
            with suppress(OSError):  # it has died; the next call finds that out
                self._channel.send(FORGET, Packed(b""), head.number)

    @property
    def has_begun(self) -> bool:
        """Whether the worker has begun the call that it was sent last."""
        return self._has_begun or (self._cell is not None and self._cell.call == self._number)

    @property
    def at(self) -> int | None:
        """The item that was begun last of the batch, None if it is not known."""
        return None if self._cell is None else self._cell.item

    def stop(self) -> int | None:
        """Have no further item begun of the batch that the worker makes. Returns how many it has
        begun, None if that is not known yet: ask again a moment later."""
        cell = self._cell
        if cell is None or cell.call != self._number:
            return None
        # The worker writes which item it begins, and then looks whether it may. What it writes
        # after this it does not begin; what it wrote before can be read a moment later.
        return cell.item + 1 if cell.stop(self._number) else None

    def kill(self) -> None:
        """Kill the process, in whatever it does."""
        self.is_killed = True
        popen = self._popen
        if popen is not None:
            popen.kill()

    def tell_end(self) -> None:
        """Tell an idle process to end, and do not wait for that."""
        if self._popen is not None and not self.has_ended:
            with suppress(OSError):
                self._channel.send(END, Packed(b""))

    def end(self) -> int | None:
        """End the process and return its exit code, None if it was never started. An idle process
        ends by itself; one that does not end in time is killed."""
        popen = self._popen
        if popen is None or self.has_ended:
            return None if popen is None else popen.returncode
        try:
            self.tell_end()
            with suppress(OSError, EOFError):
                while self.pipe.poll(GRACE):  # its end of the pipe was closed, or records came
                    self._channel.receive()
            try:
                return popen.wait(_AT_ITS_END)
            except subprocess.TimeoutExpired:  # it has threads or processes that do not end
                popen.kill()
                return popen.wait()
        finally:
            self.has_ended = True
            self._close()

    def _close(self) -> None:
        self.pipe.close()
        self._alive.close()
        if self._cell is not None:
            self._cell.close()


@contextmanager
def _as_lost() -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError) as error:
        raise LostError from error


def _log(message: Message) -> None:
    """Handle a log record of a worker as if it were one of this process."""
    import logging

    try:
        record = logging.makeLogRecord(payload.unpacked(message))
        logging.getLogger(record.name).handle(record)
    except Exception:  # of a record that does not unpickle here, or a handler: not of the call
        if logging.raiseExceptions:
            traceback.print_exc()


_AT_ITS_END = 1.0
"""Seconds that a worker has to exit after its end of the pipe was closed."""

_pipes: WeakSet[Connection[Any, Any]] = WeakSet()
_starting = threading.RLock()


def _in_child() -> None:
    for each in list(_pipes):
        each.close()
    _starting.release()


if hasattr(os, "register_at_fork"):
    # A forked child closes the pipes: else a worker would not see the end of its parent, nor the
    # parent that of a worker, as long as the child lives. A fork waits while a worker is being
    # started: the child would inherit locks that nobody in it releases.
    os.register_at_fork(
        before=_starting.acquire, after_in_parent=_starting.release, after_in_child=_in_child
    )


def preparation() -> dict[str, Any]:
    """The settings that make a worker process like this one."""
    from multiprocessing import process

    me = multiprocessing.current_process()
    path = [each or process.ORIGINAL_DIR for each in sys.path]  # type: ignore[attr-defined]
    return {
        "version": VERSION,
        "logging": None,
        "path": path,
        "argv": sys.argv,
        "name": "fast_dag worker",
        "parent": (me.name, os.getpid()),
        "authkey": bytes(me.authkey),
        "start_method": multiprocessing.get_start_method(allow_none=True),
        "files": scripts.FILES,
        "main": _main_script(process.ORIGINAL_DIR),  # type: ignore[attr-defined]
    }


def _main_script(directory: str) -> tuple[str | None, str | None]:
    """The module name, or else the path, of the main script. Neither for a program from stdin,
    `-c` or a prompt, which cannot be imported."""
    module = sys.modules["__main__"]
    name = getattr(getattr(module, "__spec__", None), "name", None)
    if name is not None:
        # The `__main__` of a package has no guard, so importing it would run the program.
        return (None, None) if name.rpartition(".")[2] == "__main__" else (name, None)
    file = getattr(module, "__file__", None)
    path = "" if file is None else str(os.path.join(directory, file))  # pdb sets a str subclass
    # The script of an installed command only calls what it imports.
    is_script = os.path.isfile(path) and os.path.dirname(path) != sysconfig.get_path("scripts")
    return None, path if is_script else None


def _started(pipe: int, watched: int, cell: int | None) -> subprocess.Popen[bytes]:
    # The tracker is shared, so that shared memory that a node makes outlives its worker.
    tracker = None if sys.platform == "win32" else resource_tracker.getfd()
    given = [-1 if end is None else end for end in (pipe, watched, cell, tracker)]
    ends = [end for end in given if end >= 0]
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    command = [os.fsdecode(spawn.get_executable()), *flags, "-c", _PROGRAM, *map(str, given)]
    if sys.platform == "win32":
        for end in ends:
            os.set_handle_inheritable(end, True)
        info = subprocess.STARTUPINFO(lpAttributeList={"handle_list": ends})
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, startupinfo=info)
    with _no_interrupt():
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=ends)


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Block SIGINT in a process that is started here, until it has a handler for it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_PROGRAM = """\
import os, pickle, sys
sys.path = [each for each in sys.path if each]
import multiprocessing.connection as connection
Pipe = getattr(connection, "PipeConnection", connection.Connection)
numbers = list(map(int, sys.argv[1:]))
pipe, alive = Pipe(numbers[0]), Pipe(numbers[1], writable=False)
try:
    home = pickle.loads(pipe.recv_bytes())
except (EOFError, OSError):
    os._exit(1)
sys.path = home["path"]
from fast_dag.drive.worker import main
main(pipe, alive, numbers[2], home, numbers[3])
"""
"""The program of a worker. Everything else comes through its pipe."""
