"""Worker processes: each belongs to a thread of its own, which sends it one call at a time.

So it is always known which call a process is making, and its thread sees its death at once.

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
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker, spawn
from multiprocessing.connection import Pipe
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from fast_dag._extras import needed
from fast_dag.call.effects import STOPPED, Outcome
from fast_dag.drive import payload, scripts
from fast_dag.drive.job import Lane
from fast_dag.drive.worker import BEGINS, END
from fast_dag.errors import ExecutionError, ValidationError, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

    from fast_dag.drive.dispatcher import Dispatcher
    from fast_dag.drive.job import Job

GRACE = 5.0
"""Seconds in which an idle worker must end when it is told to. After that it is killed."""


def refuse() -> None:
    """Raise if there can be no worker processes: MissingExtraError if cloudpickle is not installed,
    ValidationError in a worker process that is importing the main script."""
    needed("cloudpickle", extra="process", purpose="worker processes")
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ValidationError(
            "a worker process is importing the main script, which runs a workflow in "
            "processes; put that run under `if __name__ == '__main__':`"
        )


class ProcessLane(Lane):
    """The lane to worker processes, which are started on demand. If one dies or is killed, only the
    node that it was running fails."""

    kills_calls = True

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._workers: set[_Worker] = set()
        self._given_up: list[_Worker] = []
        self._closed = False

    def launch(self, job: Job) -> None:
        with self._lock:
            if self._closed:  # the run ended before the job arrived here
                return
            if self._idle:
                worker = self._idle.pop()
            else:
                worker = _Worker(self)
                self._workers.add(worker)
        worker.inbox.put((job, job.generation))

    def rest(self, worker: _Worker) -> None:
        """Called by a worker that has nothing to do."""
        with self._lock:
            self._idle.append(worker)

    def give_up(self, job: Job) -> None:
        with self._lock:
            worker = next((each for each in self._workers if each.job is job), None)
            if worker is None:
                return
            self._workers.discard(worker)
            self._given_up.append(worker)
        worker.kill()

    def close(self, *, abandon: bool) -> None:
        with self._lock:
            self._closed = True
            workers = list(self._workers)
        for worker in workers:
            worker.inbox.put(None)
        if abandon:
            for worker in workers:
                if worker.job is not None:
                    worker.kill()
        # Also those that were killed: unlike a thread, a killed process always ends.
        for worker in (*workers, *self._given_up):
            worker.thread.join()


class _Worker:
    """A thread that has one process make the calls of one job after another."""

    def __init__(self, lane: ProcessLane) -> None:
        self.lane = lane
        self.inbox: SimpleQueue[tuple[Job, int] | None] = SimpleQueue()
        self.job: Job | None = None
        self._killed = False
        self._process: _Process | None = None
        variables = lane.dispatcher.variables.copy()
        self.thread = threading.Thread(
            target=variables.run, args=(self._work,), name="fast_dag worker", daemon=True
        )
        self.thread.start()

    def _work(self) -> None:
        lane, dispatcher = self.lane, self.lane.dispatcher
        try:
            while (given := self.inbox.get()) is not None:
                try:
                    job: Job | None
                    job, generation = given
                    while job is not None and not self._killed:
                        self.job = job
                        job = self._serve(job, generation)
                        generation = 0 if job is None else job.generation
                    if job is not None:  # this worker was killed, so another one makes the call
                        lane.launch(job)
                except BaseException as error:
                    dispatcher.fail(error, self.job)
                self.job = job = given = None  # so that an idle thread does not keep the job alive
                if self._killed:
                    return
                lane.rest(self)
        finally:
            self._bury()

    def _serve(self, job: Job, generation: int) -> Job | None:
        dispatcher = self.lane.dispatcher
        if not dispatcher.begins(job, generation):
            return dispatcher.go_on(dispatcher.ended(job, generation, STOPPED), self.lane)
        return dispatcher.go_on(
            dispatcher.called(job, generation, self._call(job, generation)), self.lane
        )

    def _call(self, job: Job, generation: int) -> Outcome:
        """Have the process make a job's call."""
        try:
            is_new = self._process is None
            begun, answer = self._asked(job, generation)
            if not (begun or is_new or self._killed):
                # The process had died while it was idle, so the call was not made.
                self._bury()
                begun, answer = self._asked(job, generation)
        except Exception as error:
            return Outcome(False, error)
        if answer is None:
            return Outcome(False, self._died(job))
        return payload.unpack(job, answer)

    def _asked(self, job: Job, generation: int) -> tuple[bool, bytes | None]:
        """Send a job's call to the process. Returns whether it began the call, and its answer, None
        if it died."""
        process, begun = self._alive(job), False
        packed = payload.pack(job, process.names)
        try:
            process.pipe.send_bytes(packed)
            answer = process.pipe.recv_bytes()
            begun = True
            if answer == BEGINS:  # otherwise it could not unpack the call
                self.lane.dispatcher.watch(job, generation)
                answer = process.pipe.recv_bytes()
            return begun, answer
        except (EOFError, OSError):
            return begun, None

    def _alive(self, job: Job) -> _Process:
        """The process, started if necessary. Raises ExecutionError, which says why it cannot be
        started."""
        process = self._process
        if process is not None:
            return process
        try:
            process = self._process = _Process()
            if self._killed:  # `kill` was called while there was no process
                process.kill()
            process.be_prepared()
        except Exception as error:
            code = self._bury()
            if isinstance(error, EOFError):
                reason = f"it died at once (exit code {code})"
            else:
                reason = text_of(error)
            raise ExecutionError(
                f"the worker process of node {job.path!r} could not be started: {reason}",
                node_name=job.path,
            ) from error.__cause__
        return process

    def _died(self, job: Job) -> ExecutionError:
        code = self._bury()
        return ExecutionError(
            f"the worker process of node {job.path!r} died before the call ended "
            f"(exit code {code})",
            node_name=job.path,
        )

    def _bury(self) -> int | None:
        """End the process, if there is one, and return its exit code. The next call starts a new
        process."""
        process, self._process = self._process, None
        return None if process is None else process.end()

    def kill(self) -> None:
        """Kill the process, even during a call. The thread then ends, too."""
        self._killed = True
        process = self._process
        if process is not None:
            process.kill()


class _Process:
    """A new interpreter at the other end of a pipe."""

    def __init__(self) -> None:
        self.names: payload.Names = {}
        with _starting:
            self.pipe, theirs = Pipe()
            watched, self._alive = Pipe(duplex=False)
            _pipes.update((self.pipe, self._alive))
            try:
                self._popen = _started(theirs, watched)
            except BaseException:
                self.pipe.close()
                self._alive.close()
                raise
            finally:
                theirs.close()
                watched.close()

    def be_prepared(self) -> None:
        """Wait until the process takes calls. Raises ExecutionError if it cannot, EOFError if it
        has died."""
        try:
            self.pipe.send(preparation())
            hello = pickle.loads(self.pipe.recv_bytes())
        except OSError:
            raise EOFError from None
        if hello[0] is None:
            raise ExecutionError(f"importing the main script failed: {hello[1]}") from hello[2]
        self.names = hello[1]

    def kill(self) -> None:
        self._popen.kill()

    def end(self) -> int:
        """End the process and return its exit code. An idle process ends by itself; one that does
        not end in time is killed."""
        try:
            with suppress(OSError, EOFError):
                self.pipe.send_bytes(END)
                if self.pipe.poll(GRACE):  # its end of the pipe was closed
                    self.pipe.recv_bytes()
            try:
                return self._popen.wait(_AT_ITS_END)
            except subprocess.TimeoutExpired:  # it has threads or processes that do not end
                self.kill()
                return self._popen.wait()
        finally:
            self.pipe.close()
            self._alive.close()


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


def _started(pipe: Connection[Any, Any], watched: Connection[Any, Any]) -> subprocess.Popen[bytes]:
    # The tracker is shared, so that shared memory that a node makes outlives its worker.
    tracker = None if sys.platform == "win32" else resource_tracker.getfd()
    ends = pipe.fileno(), watched.fileno(), *(() if tracker is None else (tracker,))
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    command = [os.fsdecode(spawn.get_executable()), *flags, "-c", _PROGRAM, *map(str, ends)]
    if sys.platform == "win32":
        for end in ends:
            os.set_handle_inheritable(end, True)
        info = subprocess.STARTUPINFO(lpAttributeList={"handle_list": list(ends)})
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
import os, sys
sys.path = [each for each in sys.path if each]
import multiprocessing.connection as connection
Pipe = getattr(connection, "PipeConnection", connection.Connection)
pipe, alive = Pipe(int(sys.argv[1])), Pipe(int(sys.argv[2]), writable=False)
try:
    home = pipe.recv()
except (EOFError, OSError):
    os._exit(1)
sys.path, tracker = home["path"], map(int, sys.argv[3:])
from fast_dag.drive.worker import main
main(pipe, alive, home, *tracker)
"""
"""The program of a worker. Everything else comes through its pipe."""
