"""Worker threads: started on demand, at most as many as may be busy at once. A thread whose call
does not end is abandoned.

A run whose caller waits in a thread has a pool of its own, which ends with the run. Runs that are
awaited on event loops share one pool of the process, so that the number of threads is bounded
however many runs there are.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from fast_dag.drive.job import Lane
from fast_dag.drive.places import here
from fast_dag.drive.slots import cpu_count, slots_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_dag.drive.dispatcher import Dispatcher
    from fast_dag.drive.job import Job
    from fast_dag.run.execution import Execution

    Take = Callable[["Call | None"], None]

_IDLE = 5.0
"""Seconds after which an idle thread of the shared pool ends."""


class Call:
    """What one thread of a pool does: the call of a job, then those of the jobs that follow it."""

    __slots__ = (
        "generation",
        "has_place",
        "is_abandoned",
        "is_urgent",
        "job",
        "lane",
        "lends",
        "pool",
        "thread",
    )

    def __init__(self, lane: ThreadLane, job: Job) -> None:
        self.lane = lane
        self.job: Job | None = job
        self.generation = job.generation
        self.pool = lane.pool
        self.thread: threading.Thread | None = None
        self.has_place = False
        self.is_abandoned = False
        self.is_urgent = lane.dispatcher.ending is not None  # it cleans up
        self.lends = 0  # how many runs that this thread waits for use its place

    def make(self) -> None:
        """Make the call in this thread."""
        self.lane.dispatcher.variables.copy().run(self._follow)

    def _follow(self) -> None:
        lane, job, generation = self.lane, self.job, self.generation
        try:
            while job is not None:
                self.job = job
                job = lane.dispatcher.run_here(job, generation, lane)
                if job is not None:
                    if self.is_abandoned:
                        lane.launch(job)  # another thread makes this call
                        break
                    generation = job.generation
        except BaseException as error:
            lane.dispatcher.break_off(error)
        finally:
            self.job = None
            lane.left(self)


class Pool:
    """Makes at most `most` calls at once, each in a thread of its own; others wait. Calls that
    clean up after a run that was cut short come first, and have `most` further places.

    An idle thread ends after `idle` seconds; if that is None, when the pool is closed.
    """

    def __init__(self, most: int, *, idle: float | None = None, name: str = "worker") -> None:
        self.most = most
        self._idle_seconds = idle
        self._name = f"fast_dag {name}"
        self._lock = threading.Lock()
        self._busy = 0  # the places in use
        self._waiting: deque[Call] = deque()
        self._idle: list[Take] = []
        self._threads: set[threading.Thread] = set()
        self._closed = False

    def submit(self, call: Call) -> None:
        """Have a call made by an idle thread, or by a new one, as soon as a place is free."""
        with self._lock:
            if self._closed:  # the run ended while the job was on its way here
                return
            if call.is_urgent:
                self._waiting.appendleft(call)
            else:
                self._waiting.append(call)
            ready = self._placed()
        self._start(ready)

    def withdraw(self, job: Job) -> bool:
        """Take back the call of a job if it still waits for a place. Returns whether it did."""
        with self._lock:
            for call in self._waiting:
                if call.job is job:
                    self._waiting.remove(call)
                    call.lane.left(call)
                    return True
        return False

    def _placed(self) -> list[tuple[Call, Take | None]]:
        """Give free places to waiting calls. Returns these calls, each with an idle thread, or None
        if there is no idle one."""
        ready: list[tuple[Call, Take | None]] = []
        waiting = self._waiting
        while waiting:
            most = max(self.most, waiting[0].lane.most)
            if self._busy >= (2 * most if waiting[0].is_urgent else most):
                break
            call = waiting.popleft()
            call.has_place = True
            self._busy += 1
            ready.append((call, self._idle.pop() if self._idle else None))
        return ready

    def _start(self, ready: list[tuple[Call, Take | None]]) -> None:
        left: list[Call] = []
        failure: RuntimeError | None = None
        for call, take in ready:
            if take is not None:
                take(call)
                continue
            inbox: SimpleQueue[Call | None] = SimpleQueue()
            inbox.put(call)  # not an argument: the thread would refer to that as long as it lives
            thread = call.thread = threading.Thread(
                target=self._work, args=(inbox,), name=self._name, daemon=True
            )
            with self._lock:
                self._threads.add(thread)
            try:
                thread.start()
            except RuntimeError as error:  # the system allows no further threads
                left.append(call)
                failure = error
                with self._lock:
                    self._threads.discard(thread)
        if failure is not None:
            self._put_back(left, failure)

    def _put_back(self, calls: list[Call], error: RuntimeError) -> None:
        """Have calls for which no thread could be started wait for one that is busy. If none is,
        end their runs, since the calls might wait for ever."""
        with self._lock:
            for call in calls:
                self._vacate(call)
                call.thread = None
            self._waiting.extendleft(call for call in reversed(calls) if not call.is_abandoned)
            waiting = () if self._busy else tuple(self._waiting)
        for dispatcher, job in {call.lane.dispatcher: call.job for call in waiting}.items():
            dispatcher.fail(error, job)

    def _work(self, inbox: SimpleQueue[Call | None]) -> None:
        thread, take = threading.current_thread(), inbox.put
        call = inbox.get()
        while call is not None:
            call.thread, here.call = thread, call
            call.make()
            call, is_needed = self.rested(call, take)
            here.call = None
            if call is None and is_needed:
                call = self._next(inbox, take)
        with self._lock:
            self._threads.discard(thread)

    def _next(self, inbox: SimpleQueue[Call | None], take: Take) -> Call | None:
        """The next call of an idle thread; None if the thread must end."""
        try:
            return inbox.get(timeout=self._idle_seconds)
        except Empty:
            with self._lock:
                if take in self._idle:
                    self._idle.remove(take)
                    return None
        return inbox.get()  # it was put there between the timeout and the lock

    def rested(self, call: Call, take: Take) -> tuple[Call | None, bool]:
        """Called by a thread that has made a call. Returns the next call, None if there is none,
        and whether the thread is still needed. `take` sends a call to the thread when it is
        idle."""
        with self._lock:
            if call.is_abandoned:
                return None, False
            self._vacate(call)
            if self._closed:
                return None, False
            self._idle.append(take)
            ready = self._placed()
            mine = next((following for following, taker in ready if taker is take), None)
        self._start([each for each in ready if each[0] is not mine])
        return mine, True

    def lend(self, take: Take) -> None:
        """Let a thread that is not one of the pool's make calls, too, while it is idle."""
        with self._lock:
            self._idle.append(take)

    def give_place(self, call: Call) -> None:
        """Count a call that is made by a thread that is not one of the pool's."""
        with self._lock:
            call.has_place = True
            self._busy += 1

    def give_up(self, call: Call) -> None:
        """Abandon a call and its thread, because a thread cannot be ended from outside. The place
        is free again."""
        with self._lock:
            if call in self._waiting:
                self._waiting.remove(call)
                return
            call.is_abandoned = True
            if call.thread is not None:
                self._threads.discard(call.thread)
            self._vacate(call)
            ready = self._placed()
        self._start(ready)

    def _vacate(self, call: Call) -> None:
        if call.has_place:
            call.has_place = False
            self._busy -= 1

    def lend_place(self, call: Call) -> None:
        """Free the place of a call whose thread waits for other calls, which may need it."""
        with self._lock:
            call.lends += 1
            self._vacate(call)
            ready = self._placed()
        self._start(ready)

    def take_back(self, call: Call) -> None:
        """Undo `lend_place` after the wait. The call goes on at once, even if more calls than
        `most` are then made."""
        with self._lock:
            call.lends -= 1
            if not call.lends and not call.is_abandoned and not call.has_place:
                call.has_place = True
                self._busy += 1

    def close(self) -> None:
        """End the threads, and wait for those that were not abandoned."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            threads = list(self._threads)
        for take in idle:
            take(None)
        for thread in threads:
            thread.join()


class ThreadLane(Lane):
    """The lane of one run to the threads of a pool. If `most` is greater than the number of the
    pool's places, `most` calls of this run may be made at once."""

    calls_here = True

    def __init__(self, dispatcher: Dispatcher, pool: Pool, most: int = 0) -> None:
        self.dispatcher = dispatcher
        self.pool = pool
        self.most = most
        self._calls: set[Call] = set()
        self._on_quiet: Callable[[], None] | None = None

    def launch(self, job: Job) -> None:
        self.pool.submit(self.new_call(job))

    def new_call(self, job: Job) -> Call:
        """A Call for a job, counted as one of this run."""
        call = Call(self, job)
        self._calls.add(call)
        return call

    def left(self, call: Call) -> None:
        """Called when a thread has made a call, or the call was taken back."""
        self._calls.discard(call)
        quiet = self._on_quiet
        if quiet is not None and not self._calls:
            quiet()

    def withdraw(self, job: Job) -> bool:
        return self.pool.withdraw(job)

    def give_up(self, job: Job) -> None:
        for call in list(self._calls):
            if call.job is job:
                self._abandon(call)

    def _abandon(self, call: Call) -> None:
        self._calls.discard(call)
        self.pool.give_up(call)

    def abandon(self) -> None:
        """Abandon all calls."""
        for call in list(self._calls):
            self._abandon(call)

    def when_quiet(self, callback: Callable[[], None]) -> None:
        """Call `callback` when no thread makes calls of this run any more; at once if none does."""
        self._on_quiet = callback
        if not self._calls:
            callback()

    def close(self, *, abandon: bool) -> None:
        if abandon:
            self.abandon()
        if self.pool is not _shared:
            self.pool.close()


def pool_size(execution: Execution) -> int:
    """The size of the pool of a run whose caller waits in a thread. A sequential run has one
    thread. Others have as many as nodes may run at once, but at least some more than CPUs, because
    the hooks of async nodes take threads without taking slots."""
    settings = execution.settings
    return 1 if settings.ordered else max(slots_of(settings)[0], cpu_count() + 4)


# The pool that is shared by all runs that are awaited on event loops.

_lock = threading.Lock()
_shared: Pool | None = None


def shared() -> Pool:
    """The shared pool of this process."""
    global _shared  # noqa: PLW0603  a process has one
    with _lock:
        if _shared is None:
            _shared = Pool(min(32, cpu_count() + 4), idle=_IDLE, name="pool")
        return _shared


def _forget() -> None:
    """Forget the pool in a forked child, which has none of its threads."""
    global _lock, _shared
    _lock, _shared = threading.Lock(), None
    here.call = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
