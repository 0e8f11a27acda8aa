"""Lanes that submit calls to an executor of the caller's."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from abc import abstractmethod
from contextvars import copy_context
from queue import SimpleQueue
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from fast_dag._extras import needed
from fast_dag.call.effects import STOPPED, Outcome
from fast_dag.drive import payload
from fast_dag.drive.dispatcher import call_here
from fast_dag.drive.job import Lane
from fast_dag.errors import ExecutionError, brief_of, failures

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor, Future

    from fast_dag.drive.dispatcher import Dispatcher
    from fast_dag.drive.job import Job


def refuse(executor: Executor) -> None:
    """Raise MissingExtraError if the executor may use other processes and cloudpickle is not
    installed, ValidationError if it is `Workers` that are shut down."""
    from concurrent.futures import ThreadPoolExecutor

    check = getattr(executor, "_fast_dag_check", None)
    if check is not None:
        check()
    elif not isinstance(executor, ThreadPoolExecutor):
        needed("cloudpickle", extra="process", purpose="executors of other processes")


class RemoteLane(Lane):
    """Submits each job's call as a call of a top-level function.

    A courier thread packs the arguments and unpacks the outcomes, so that this blocks neither the
    caller's loop nor the executor's threads.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        self._inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._futures: dict[Job, Future[Any]] = {}
        self._courier = threading.Thread(
            target=dispatcher.variables.copy().run,
            args=(self._work,),
            name="fast_dag courier",
            daemon=True,
        )
        self._courier.start()

    def _work(self) -> None:
        while (task := self._inbox.get()) is not None:
            try:
                task()
            except BaseException as error:
                self.dispatcher.fail(error)

    def launch(self, job: Job) -> None:
        generation = job.generation
        self._inbox.put(lambda: self._send(job, generation))

    def _send(self, job: Job, generation: int) -> None:
        if not self.dispatcher.begins(job, generation):
            self.dispatcher.go_on(self.dispatcher.ended(job, generation, STOPPED))
            return
        try:
            future = self._submit(job, generation)
            if not hasattr(future, "add_done_callback"):
                raise TypeError(
                    f"the executor's submit() returned a {type(future).__name__}, which is no "
                    "concurrent.futures.Future"
                )
        except failures() as error:
            self.dispatcher.go_on(self.dispatcher.ended(job, generation, Outcome(False, error)))
            return
        self._futures[job] = future
        future.add_done_callback(lambda done: self._done(job, generation, done))

    def _done(self, job: Job, generation: int, future: Future[Any]) -> None:
        if not self._goes_on(job, generation, future):
            self.dispatcher.returned(job, generation)  # nobody may look into the inbox any more
        self._inbox.put(lambda: self._receive(job, generation, future))

    def _receive(self, job: Job, generation: int, future: Future[Any]) -> None:
        self._futures.pop(job, None)
        if future.cancelled():
            outcome = Outcome(False, ExecutionError(f"the executor cancelled {job.path!r}"))
        else:
            outcome = self._outcome(job, future)
        self.dispatcher.go_on(self.dispatcher.called(job, generation, outcome))

    def give_up(self, job: Job) -> None:
        future = self._futures.pop(job, None)
        if future is not None:
            future.cancel()

    def close(self, *, abandon: bool) -> None:
        if abandon:
            for future in list(self._futures.values()):
                future.cancel()
        self._inbox.put(None)
        self._courier.join()

    def _goes_on(self, job: Job, generation: int, future: Future[Any]) -> bool:
        """Whether the call has returned a coroutine, which somebody will await."""
        return False

    @abstractmethod
    def _submit(self, job: Job, generation: int) -> Future[Any]: ...

    @abstractmethod
    def _outcome(self, job: Job, future: Future[Any]) -> Outcome: ...


class ExecutorLane(RemoteLane):
    """The lane to the caller's executor, which is never shut down here.

    A call may wait in the executor's queue behind others, of this run or not, but a node's timeout
    counts from when its call begins. In a thread the call reports its beginning itself. In another
    process of this machine it rings a bell. From another machine the beginning is not reported: the
    call is found to be late when it has ended, by its own clock.
    """

    def __init__(self, dispatcher: Dispatcher, executor: Executor | None) -> None:
        from concurrent.futures import ThreadPoolExecutor

        assert executor is not None
        self._executor = executor
        self.shares_memory = isinstance(executor, ThreadPoolExecutor)
        self._bell = _Bell(dispatcher) if hasattr(os, "mkfifo") else None
        super().__init__(dispatcher)

    def _submit(self, job: Job, generation: int) -> Future[Any]:
        if self.shares_memory:
            return self._executor.submit(copy_context().run, self._call_here, job, generation)
        bell = self._bell
        to_ring = None if job.timeout is None or bell is None else bell.expected(job, generation)
        future = self._executor.submit(payload.run_packed, payload.pack(job, bell=to_ring))
        if job.timeout is not None and bell is None:
            self._watch(job, generation, job.timeout, future)
        return future

    def _call_here(self, job: Job, generation: int) -> list[Outcome]:
        """Make a call in a thread of the executor. The outcome is returned in a list, from which
        `_outcome` removes it: a frame of the executor keeps what it returned, and the traceback of
        a failure refers to that frame."""
        # The call may have been given up while it waited in the executor's queue.
        if self.dispatcher.over or job.generation != generation:
            return [STOPPED]
        self.dispatcher.watch(job, generation)
        return [call_here(job)]

    def _watch(self, job: Job, generation: int, timeout: float, future: Future[Any]) -> None:
        """Start the timeout of a call once its Future is running. Used on platforms without named
        pipes."""

        def look() -> None:
            if job.generation != generation:
                return
            if future.running():
                self.dispatcher.watch(job, generation)
            else:
                self._watch(job, generation, timeout, future)

        self.dispatcher.timers.add(min(max(timeout, _LOOKS), 1.0), look)

    def close(self, *, abandon: bool) -> None:
        super().close(abandon=abandon)
        if self._bell is not None:
            self._bell.close()

    def _goes_on(self, job: Job, generation: int, future: Future[Any]) -> bool:
        if not self.shares_memory or future.cancelled() or future.exception() is not None:
            return False
        if self.dispatcher.over or job.generation != generation:
            return False
        return type(future.result()[0].value) is CoroutineType

    def _outcome(self, job: Job, future: Future[Any]) -> Outcome:
        error = future.exception()
        if error is not None:
            if not isinstance(error, Exception):
                self.dispatcher.fail(error, job)
            lost = ExecutionError(
                f"the executor lost node {job.path!r}: {brief_of(error)}",
                node_name=job.path,
            )
            lost.__cause__ = error
            return Outcome(False, lost)
        if self.shares_memory:
            outcome: Outcome = future.result().pop()
            return outcome
        return payload.unpack(job, future.result())


_LOOKS = 0.05
"""The least number of seconds between two looks at a Future."""


class _Bell:
    """A named pipe into which calls in other processes of this machine write when they begin,
    because executors do not report that. It is made for the first call with a timeout."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._calls: dict[bytes, tuple[Job, int]] = {}
        self._listener: threading.Thread | None = None

    def expected(self, job: Job, generation: int) -> payload.Bell:
        """The bell that the call of a job must ring. Called before the call is submitted."""
        if self._listener is None:
            self._directory = tempfile.mkdtemp(prefix="fast_dag")
            self._path = os.path.join(self._directory, "begins")
            os.mkfifo(self._path, 0o600)
            self._reads = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)
            self._writes = os.open(self._path, os.O_WRONLY)  # keeps the pipe open without writers
            os.set_blocking(self._reads, True)
            self._listener = threading.Thread(
                target=self._listen, name="fast_dag bell", daemon=True
            )
            self._listener.start()
        token = b"r" + os.urandom(_TOKEN - 1)
        self._calls[token] = job, generation
        return self._path, token

    def _listen(self) -> None:
        while (token := os.read(self._reads, _TOKEN)) != _END:
            job, generation = self._calls.pop(token, (None, 0))
            if job is not None:
                self._dispatcher.watch(job, generation)

    def close(self) -> None:
        """End the listener, and remove the pipe."""
        if self._listener is not None:
            os.write(self._writes, _END)
            self._listener.join()
            os.close(self._reads)
            os.close(self._writes)
            shutil.rmtree(self._directory, ignore_errors=True)


_TOKEN = 16
_END = bytes(_TOKEN)
