"""The lane to worker processes. If one dies or is killed, only the node that it was running fails.

A map may have the calls of many items made in one message: it makes a `Head` of the function and
what all items are given, and hands `Batch`es to `ProcessLane.launch_batch`. See there.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from fast_dag.call.effects import STOPPED, Outcome
from fast_dag.drive import payload, reloads
from fast_dag.drive.job import Lane
from fast_dag.drive.pool import Pool, Task
from fast_dag.drive.protocol import BATCH, BEGINS, NO_HEAD, NO_ITEMS, PART
from fast_dag.errors import ExecutionError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fast_dag.drive.dispatcher import Dispatcher
    from fast_dag.drive.job import Job
    from fast_dag.drive.processes import Head, Process
    from fast_dag.drive.protocol import Message, Packed


class ProcessLane(Lane):
    """The lane of one run to the processes of a pool: one of its own, or one that it shares.

    Raises RuntimeError if the pool is closed."""

    kills_calls = True
    shares_memory = False
    takes_batches = True

    def __init__(self, dispatcher: Dispatcher, pool: Pool | None = None) -> None:
        self.dispatcher = dispatcher
        self.owns_pool = pool is None
        self.pool = Pool() if pool is None else pool
        self._lock = threading.Lock()
        self._quiet = threading.Condition(self._lock)
        self._calls: dict[Job, _Call] = {}
        self._tasks: set[Task] = set()  # those that threads of the pool may still work at
        self._closed = False
        self._home = threading.get_ident()
        self.pool.enter(self._home)

    def launch(self, job: Job) -> None:
        task = self.task_of(job)
        if task is not None:
            self.pool.submit(task)

    def task_of(self, job: Job) -> _Call | None:
        """The task of a job's next call; None if the run has ended."""
        with self._lock:
            if self._closed:  # the run ended before the job arrived here
                return None
            task = self._calls[job] = _Call(self, job)
            self._tasks.add(task)
        return task

    def launch_batch(self, batch: Batch) -> None:
        """Have the calls of a batch made by one process, when the turn of this run comes. What
        happens is told to `batch`; `kill_batch` ends it."""
        with self._lock:
            if self._closed:
                return
            self._tasks.add(batch)
        batch.lane = self
        self.pool.submit(batch)

    def kill_batch(self, batch: Batch) -> None:
        """Take a batch back, or kill the process that makes it: nobody waits for it any more."""
        if self.pool.withdraw(batch):
            self.left(batch)
        else:
            self.pool.kill(batch)

    def withdraw(self, job: Job) -> bool:
        with self._lock:
            task = self._calls.get(job)
        if task is None or not self.pool.withdraw(task):
            return False
        self.left(task)
        return True

    def give_up(self, job: Job) -> None:
        with self._lock:
            task = self._calls.get(job)
        if task is not None:
            self.pool.kill(task)

    def left(self, task: Task) -> None:
        """A thread of the pool has done what follows from a task."""
        with self._lock:
            self._tasks.discard(task)
            if isinstance(task, _Call) and self._calls.get(task.job) is task:
                del self._calls[task.job]
            if not self._tasks:
                self._quiet.notify_all()

    def close(self, *, abandon: bool) -> None:
        with self._lock:
            self._closed = True
            tasks = list(self._tasks)
        for task in tasks if abandon else ():
            if self.pool.withdraw(task):
                self.left(task)
            else:
                self.pool.kill(task)
        try:
            with self._lock:
                while self._tasks:  # also those that were killed: a killed process always ends
                    self._quiet.wait()
        finally:
            self.pool.leave(self._home)
            if self.owns_pool:
                self.pool.close()


class _Call(Task):
    """The call of a job."""

    def __init__(self, lane: ProcessLane, job: Job) -> None:
        self.lane = lane
        self.job = job
        self.generation = job.generation
        self.reports = job.timeout is not None
        self.since = reloads.last(job.func)
        self.prefers = lane.pool.maker((*job.args, *job.kwargs.values()))

    @property
    def line(self) -> ProcessLane:
        return self.lane

    def error(self, text: str) -> ExecutionError:
        return _error(self.job.path, text)

    def packed(self, names: payload.Names) -> Packed:
        return payload.packed_call(self.job, names)

    def told(self, message: Message) -> None:
        if message.kind == BEGINS:
            self.lane.dispatcher.watch(self.job, self.generation)

    def serve(self, pool: Pool, process: Process | None) -> tuple[Task, Process] | None:
        lane, following = self.lane, None
        try:
            variables = lane.dispatcher.variables.copy()
            job = variables.run(self._serve, pool, process)
            following = None if job is None else lane.task_of(job)
        except BaseException as error:
            lane.dispatcher.fail(error, self.job)
        finally:
            lane.left(self)
        return None if following is None else pool.follow(following)

    def _serve(self, pool: Pool, process: Process | None) -> Job | None:
        dispatcher, job, generation = self.lane.dispatcher, self.job, self.generation
        if not dispatcher.begins(job, generation):
            if process is not None:
                pool.release(self, process)
            return dispatcher.go_on(dispatcher.ended(job, generation, STOPPED), self.lane)
        outcome = self._outcome(pool, process)
        return dispatcher.go_on(dispatcher.called(job, generation, outcome), self.lane)

    def _outcome(self, pool: Pool, process: Process | None) -> Outcome:
        if process is None:
            text = f"node {self.job.path!r} was not run: the Workers were shut down"
            return Outcome(False, ExecutionError(text, node_name=self.job.path))
        try:
            answer, process = pool.make(self, process)
        except Exception as error:
            return Outcome(False, error)
        outcome = payload.unpack(self.job, answer)
        if answer.buffers and outcome.ok:
            pool.made(outcome.value, answer, process)
        return outcome


def _error(name: str, text: str) -> ExecutionError:
    return ExecutionError(f"the worker process of node {name!r} {text}", node_name=name)


class Ended(NamedTuple):
    """How a batch ended: how many of its items were begun, and what cost it its process, if
    something did. Of the begun items, those without an outcome are lost; others were not begun."""

    begun: int
    error: ExecutionError | None
    is_unread: bool = False
    """Whether the process could not unpickle the items, or died before it began one."""


class Batch(Task):
    """Calls of one function, which one process makes one after the other.

    Parameters
    ----------
    node_name:
        Of which node they are.
    head:
        The function, and what all calls are given. One for all batches of a map: a process is sent
        it once. `Pool.forget` frees it.
    items:
        The values of each call, for the head's `places`; if `is_sole`, its one value.
    budget:
        Seconds after which no further item is begun. If an item takes that long, those behind it
        are left to others.
    took:
        Called with the number of an item and what became (`payload.Part`) of that and of those
        behind it, at least every `protocol.EVERY` seconds; in a thread of the pool.
    ended:
        Called once at the end. Then the process is free for others already.
    left:
        Called with how many items the process may still make: those behind these are not made.
    """

    kind = BATCH
    lane: ProcessLane

    def __init__(
        self,
        node_name: str,
        head: Head,
        items: Sequence[Any],
        budget: float,
        took: Callable[[int, payload.Part], None],
        ended: Callable[[Ended], None],
        left: Callable[[int], None],
        *,
        is_sole: bool = False,
    ) -> None:
        self.is_sole = is_sole
        self.node_name = node_name
        self.head = head
        self._number = head.number
        self.items = items
        self.budget = self.patience = budget
        self.since = reloads.last(head.call.func)
        self._took = took
        self._ended = ended
        self._left = left
        self._count = 0  # of the outcomes that have come
        self._problem: ExecutionError | None = None  # that kept it from beginning
        self._is_unread = False
        self._is_sent = False

    @property
    def line(self) -> ProcessLane:
        return self.lane

    def error(self, text: str) -> ExecutionError:
        return _error(self.node_name, text)

    def fit(self, most: int) -> None:
        if most < len(self.items):
            self.items = self.items[:most]
            self._left(most)

    def packed(self, names: payload.Names) -> Packed:
        packed = payload.packed((self._number, self.items, self.budget, self.is_sole), names)
        self._is_sent = True  # to a process that could be started
        return packed

    def told(self, message: Message) -> None:
        if message.kind == BEGINS:
            self.at = message.number
        elif message.kind == PART and message.number in (NO_HEAD, NO_ITEMS):
            _, text, cause, _ = payload.unpacked(message)
            self._problem = payload.failed(self.node_name, None, text, cause).value
            self._is_unread = message.number == NO_ITEMS
        elif message.kind == PART:
            part = payload.unpacked_part(message)
            first, self._count = self._count, self._count + len(part.values)
            self._took(first, part)

    def late(self) -> bool:
        process = self.process
        begun = None if process is None else process.stop()
        if begun is None:
            return False
        if begun < len(self.items):
            self._left(begun)
        return True

    def serve(self, pool: Pool, process: Process | None) -> None:
        lane = self.lane
        try:
            lane.dispatcher.variables.copy().run(self._serve, pool, process)
        except BaseException as error:
            lane.dispatcher.fail(error)
        finally:
            lane.left(self)
            # These may be methods of this object, which would keep all results until garbage is
            # collected.
            del self._took, self._ended, self._left

    def _serve(self, pool: Pool, process: Process | None) -> None:
        """Have the batch made. Raises what keeps it from being pickled."""
        error: ExecutionError | None = None
        if process is None:
            text = f"items of node {self.node_name!r} were not run: the Workers were shut down"
            error = ExecutionError(text, node_name=self.node_name)
        else:
            try:
                pool.make(self, process)
                error = self._problem
            except ExecutionError as problem:
                error = problem
                self._is_unread = self._is_sent and self.at is None and not self._count
        at = -1 if self.at is None else self.at
        begun = self._count if error is None else max(self._count, at + 1)
        self._ended(Ended(begun, error, self._is_unread))
