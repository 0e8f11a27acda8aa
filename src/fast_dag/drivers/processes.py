"""Worker processes: each belongs to a thread of its own, which sends it one call at a time.

So it is always known which call a process is at, and a death is seen at once, by its own thread.
"""

from __future__ import annotations

import multiprocessing
import signal
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from fast_dag.call.effects import Outcome
from fast_dag.drivers import payload
from fast_dag.drivers.threads import ThreadLane, Worker
from fast_dag.errors import ExecutionError, ValidationError
from fast_dag.extras import needed

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

    from fast_dag.drivers.crew import Crew, Job


class ProcessLane(ThreadLane):
    """Workers are started on demand. One that dies or is killed costs its own node only."""

    calls_here = False

    def __init__(self, crew: Crew) -> None:
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise ValidationError(
                "a worker process is importing the main script, which runs a workflow in "
                "processes: put that run under `if __name__ == '__main__':`"
            )
        needed("cloudpickle", extra="process", purpose="worker processes")
        # Not fork: this process has threads, whose locks a forked child would find held for ever.
        methods = multiprocessing.get_all_start_methods()
        self.start: Any = multiprocessing.get_context(
            "forkserver" if "forkserver" in methods else "spawn"
        )
        super().__init__(crew)

    def new_worker(self) -> Worker:
        return _ProcessWorker(self)


class _ProcessWorker(Worker):
    lane: ProcessLane

    def __init__(self, lane: ProcessLane) -> None:
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        super().__init__(lane)

    def _work(self) -> None:
        try:
            super()._work()
        finally:
            if self._pipe is not None:
                self._pipe.close()  # which ends the process, where it is idle
            self._bury()

    def call(self, job: Job) -> Outcome:
        """Have the process make a job's call."""
        try:
            packed = payload.pack(job)
            pipe, process = self._started()
            pipe.send_bytes(packed)
            # A process that dies closes its end; its last words, if any, come first.
            wait([pipe, process.sentinel])
            answer = pipe.recv_bytes() if pipe.poll() else None
        except (EOFError, OSError):
            answer = None
        except Exception as error:
            return Outcome(False, error)
        return self._died(job) if answer is None else payload.unpack(job, answer)

    def _started(self) -> tuple[Connection, BaseProcess]:
        if self._process is None or self._pipe is None:
            pipe, theirs = self.lane.start.Pipe()
            process: BaseProcess = self.lane.start.Process(
                target=serve, args=(theirs,), name="fast_dag worker", daemon=True
            )
            process.start()
            theirs.close()
            self._pipe, self._process = pipe, process
            if self.abandoned:  # while it started
                process.kill()
            return pipe, process
        return self._pipe, self._process

    def _died(self, job: Job) -> Outcome:
        code = self._bury()
        hint = ""
        if code == 1:  # Python ends so where an exception came up outside of a call
            hint = (
                "; if it could not import the main script: that must run nothing outside of "
                "`if __name__ == '__main__':`"
            )
        return Outcome(
            False,
            ExecutionError(
                f"the worker process of node {job.path!r} died before the call ended "
                f"(exit code {code}){hint}",
                node_name=job.path,
            ),
        )

    def _bury(self) -> int | None:
        """The exit code of the process, which has ended or is about to; the next call has a new
        one."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.join()
        code = process.exitcode
        process.close()
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        return code

    def abandon(self) -> None:
        """Unlike a thread, a process can be ended."""
        super().abandon()
        process = self._process
        if process is not None:
            process.kill()


def serve(pipe: Connection) -> None:
    """What a worker process does: answer one call after another until its pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run that started it ends it
    while True:
        try:
            packed = pipe.recv_bytes()
        except EOFError:
            return
        pipe.send_bytes(payload.run_packed(packed))
