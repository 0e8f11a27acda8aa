"""Calls that are submitted to an executor of the caller's."""

from __future__ import annotations

import threading
from abc import abstractmethod
from contextvars import copy_context
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from fast_dag.call.effects import STOPPED, Outcome
from fast_dag.drivers import payload
from fast_dag.drivers.crew import Lane, call_here
from fast_dag.errors import ExecutionError
from fast_dag.extras import needed

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor, Future

    from fast_dag.drivers.crew import Crew, Job


class RemoteLane(Lane):
    """Submits each job as one call of a top-level function.

    A courier thread packs the arguments and takes the outcomes in, so that neither the caller's
    loop nor the pool's own threads are held up by that.
    """

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self._inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._futures: dict[Job, Future[Any]] = {}
        self._courier = threading.Thread(
            target=crew.variables.copy().run,
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
                self.crew.fail(error)

    def launch(self, job: Job) -> None:
        turn = job.turn
        self._inbox.put(lambda: self._send(job, turn))

    def _send(self, job: Job, turn: int) -> None:
        if not self.crew.begins(job, turn):
            self.crew.go_on(self.crew.ended(job, turn, STOPPED))
            return
        try:
            future = self._submit(job)
        except Exception as error:
            self.crew.go_on(self.crew.ended(job, turn, Outcome(False, error)))
            return
        self._futures[job] = future
        self.crew.watch(job)
        future.add_done_callback(
            lambda done: self._inbox.put(lambda: self._receive(job, turn, done))
        )

    def _receive(self, job: Job, turn: int, future: Future[Any]) -> None:
        self._futures.pop(job, None)
        if future.cancelled():
            outcome = Outcome(False, ExecutionError(f"the executor cancelled {job.path!r}"))
        else:
            outcome = self._outcome(job, future)
        self.crew.go_on(self.crew.called(job, turn, outcome))

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

    @abstractmethod
    def _submit(self, job: Job) -> Future[Any]: ...

    @abstractmethod
    def _outcome(self, job: Job, future: Future[Any]) -> Outcome: ...


class ExecutorLane(RemoteLane):
    """An executor that the caller gave, and that is left open."""

    def __init__(self, crew: Crew, executor: Executor | None) -> None:
        from concurrent.futures import ThreadPoolExecutor

        assert executor is not None
        self._executor = executor
        self.shares_memory = isinstance(executor, ThreadPoolExecutor)
        if not self.shares_memory:
            needed("cloudpickle", extra="process", purpose="an executor of other processes")
        super().__init__(crew)

    def _submit(self, job: Job) -> Future[Any]:
        if self.shares_memory:
            return self._executor.submit(copy_context().run, call_here, job)
        return self._executor.submit(payload.run_packed, payload.pack(job))

    def _outcome(self, job: Job, future: Future[Any]) -> Outcome:
        error = future.exception()
        if error is not None:
            if not isinstance(error, Exception):
                self.crew.fail(error)
            lost = ExecutionError(
                f"the executor lost node {job.path!r}: {type(error).__name__}: {error}",
                node_name=job.path,
            )
            lost.__cause__ = error
            return Outcome(False, lost)
        if self.shares_memory:
            outcome: Outcome = future.result()
            return outcome
        return payload.unpack(job, future.result())
