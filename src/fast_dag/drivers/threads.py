"""Worker threads: started on demand, ended with the run, abandoned where a call does not end."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING

from fast_dag.drivers.crew import Lane, call_here

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_dag.call.effects import Outcome
    from fast_dag.drivers.crew import Crew, Job


class ThreadLane(Lane):
    """Hands each job to an idle worker, or to a new one; the crew's slots bound how many there
    are."""

    calls_here = True

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self._lock = threading.Lock()
        self._idle: list[Callable[[Job | None], None]] = []
        self._workers: set[Worker] = set()
        self._closed = False

    def launch(self, job: Job) -> None:
        with self._lock:
            if self._closed:  # the run ended while the job was on its way here
                return
            if self._idle:
                take = self._idle.pop()
            else:
                worker = self.new_worker()
                self._workers.add(worker)
                take = worker.inbox.put
        take(job)

    def new_worker(self) -> Worker:
        """One more worker, which waits for its first job."""
        return Worker(self)

    def rest(self, take: Callable[[Job | None], None]) -> None:
        """A worker, or the coordinator that helps out, has nothing to do."""
        with self._lock:
            self._idle.append(take)

    def give_up(self, job: Job) -> None:
        with self._lock:
            for worker in self._workers:
                if worker.job is job:
                    self._workers.discard(worker)
                    worker.abandon()
                    return

    def close(self, *, abandon: bool) -> None:
        with self._lock:
            self._closed = True
            workers = list(self._workers)
        for worker in workers:
            worker.inbox.put(None)
        for worker in workers:
            if abandon and worker.job is not None:
                worker.abandon()
            else:
                worker.thread.join()


class Worker:
    """A thread that makes the calls of one job after another."""

    def __init__(self, lane: ThreadLane) -> None:
        self.lane = lane
        self.inbox: SimpleQueue[Job | None] = SimpleQueue()
        self.job: Job | None = None
        self.abandoned = False
        variables = lane.crew.variables.copy()
        self.thread = threading.Thread(
            target=variables.run, args=(self._work,), name="fast_dag worker", daemon=True
        )
        self.thread.start()

    def _work(self) -> None:
        crew = self.lane.crew
        while (job := self.inbox.get()) is not None:
            try:
                while job is not None and not self.abandoned:
                    self.job = job
                    job = crew.run_here(job, job.turn, self.lane, self.call)
                if job is not None:  # for another worker, where this one came too late
                    self.lane.launch(job)
            except BaseException as error:
                crew.fail(error)
            self.job = None
            if self.abandoned:
                return
            self.lane.rest(self.inbox.put)

    def call(self, job: Job) -> Outcome:
        """Make a job's call."""
        return call_here(job)

    def abandon(self) -> None:
        """Wait for it no more: a thread cannot be ended from outside."""
        self.abandoned = True
