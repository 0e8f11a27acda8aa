"""Worker processes: each belongs to a thread of its own, which sends it one call at a time.

So it is always known which call a process is at, and a death is seen at once, by its own thread.

They are started as programs of their own, not by multiprocessing: its processes are either daemons,
which may not have children, or keep the interpreter from ending, and daemons may not start them.
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
"""Seconds in which an idle worker must end by itself, once it is told to; then it is killed."""


def refuse() -> None:
    """Raise where there can be no worker processes: MissingExtraError without cloudpickle,
    ValidationError in a worker process that imports the main script."""
    needed("cloudpickle", extra="process", purpose="worker processes")
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ValidationError(
            "a worker process is importing the main script, which runs a workflow in "
            "processes: put that run under `if __name__ == '__main__':`"
        )


class ProcessLane(Lane):
    """Workers are started on demand. One that dies or is killed costs its own node only."""

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
            if self._closed:  # the run ended while the job was on its way here
                return
            if self._idle:
                worker = self._idle.pop()
            else:
                worker = _Worker(self)
                self._workers.add(worker)
        worker.inbox.put((job, job.generation))

    def rest(self, worker: _Worker) -> None:
        """A worker has nothing to do."""
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
        # Those that were killed, too: unlike a thread, a process can be ended.
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
                    if job is not None:  # for another worker, where this one came too late
                        lane.launch(job)
                except BaseException as error:
                    dispatcher.fail(error)
                self.job = job = given = None  # which an idle thread is not to hold
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
                # It had died while it was idle, so the call was never made.
                self._bury()
                begun, answer = self._asked(job, generation)
        except Exception as error:
            return Outcome(False, error)
        if answer is None:
            return Outcome(False, self._died(job))
        return payload.unpack(job, answer)

    def _asked(self, job: Job, generation: int) -> tuple[bool, bytes | None]:
        """Whether the process began with a job's call, and its answer; None where it died."""
        process, begun = self._alive(job), False
        packed = payload.pack(job, process.names)
        try:
            process.pipe.send_bytes(packed)
            answer = process.pipe.recv_bytes()
            begun = True
            if answer == BEGINS:  # else it could not even unpack the call
                self.lane.dispatcher.watch(job, generation)
                answer = process.pipe.recv_bytes()
            return begun, answer
        except (EOFError, OSError):
            return begun, None

    def _alive(self, job: Job) -> _Process:
        """The process. Raises ExecutionError that says what keeps it from starting."""
        process = self._process
        if process is not None:
            return process
        try:
            process = self._process = _Process()
            if self._killed:  # before there was anything to kill
                process.kill()
            process.be_prepared()
        except Exception as error:
            code = self._bury()
            if isinstance(error, EOFError):
                told = f"it died at once (exit code {code})"
            else:
                told = text_of(error)
            raise ExecutionError(
                f"the worker process of node {job.path!r} could not be started: {told}",
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
        """The exit code of the process, which has ended or is told to; the next call has a new
        one."""
        process, self._process = self._process, None
        return None if process is None else process.end()

    def kill(self) -> None:
        """End the process, whatever it is at, and then the thread."""
        self._killed = True
        process = self._process
        if process is not None:
            process.kill()


class _Process:
    """A fresh interpreter, at the other end of a pipe."""

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
        """Wait until it takes calls. Raises ExecutionError where it cannot, EOFError where it has
        died."""
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
        """Have it end, by itself where it is idle; its exit code."""
        try:
            with suppress(OSError, EOFError):
                self.pipe.send_bytes(END)
                if self.pipe.poll(GRACE):  # when its end is closed
                    self.pipe.recv_bytes()
            try:
                return self._popen.wait(_AT_ITS_END)
            except subprocess.TimeoutExpired:  # threads, or processes of its own, that do not end
                self.kill()
                return self._popen.wait()
        finally:
            self.pipe.close()
            self._alive.close()


_AT_ITS_END = 1.0
"""Seconds between the end of a worker's pipe and its own."""

_pipes: WeakSet[Connection[Any, Any]] = WeakSet()
_starting = threading.RLock()


def _in_child() -> None:
    for each in list(_pipes):
        each.close()
    _starting.release()


if hasattr(os, "register_at_fork"):
    # Or a worker would not see its parent's end while a child of that lives, nor the parent its. A
    # fork waits for a start: the child would have the locks of that, which nobody releases.
    os.register_at_fork(
        before=_starting.acquire, after_in_parent=_starting.release, after_in_child=_in_child
    )


def preparation() -> dict[str, Any]:
    """What makes a process like this one."""
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
    """The name or else the path of the script that this program is; neither for one that came from
    stdin, `-c` or a prompt, which nobody could import."""
    module = sys.modules["__main__"]
    name = getattr(getattr(module, "__spec__", None), "name", None)
    if name is not None:
        # Of a package: such modules need no guard, and run at once.
        return (None, None) if name.rpartition(".")[2] == "__main__" else (name, None)
    file = getattr(module, "__file__", None)
    path = "" if file is None else str(os.path.join(directory, file))  # pdb has one of its own kind
    # An installed command has nothing of its own but a call of what it imports.
    is_script = os.path.isfile(path) and os.path.dirname(path) != sysconfig.get_path("scripts")
    return None, path if is_script else None


def _started(pipe: Connection[Any, Any], watched: Connection[Any, Any]) -> subprocess.Popen[bytes]:
    # Shared, so that shared memory which a node makes outlives its worker.
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
    """A process that is started here sees no Ctrl-C until it has a handler for it."""
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
"""All that a worker is started with; the rest comes through its pipe."""
