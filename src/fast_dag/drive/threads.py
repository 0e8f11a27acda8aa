"""Worker threads: started on demand, as many as may be busy at once, abandoned where a call does
not end.

The pool of a run that a thread waits for ends with the run. Runs that are awaited on event loops
share one pool of the process, so that any number of them starts a bounded number of threads.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from fast_dag.drive.job import Lane
from fast_dag.drive.slots import cpu_count, slots_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fast_dag.drive.dispatcher import Dispatcher
    from fast_dag.drive.job import Job
    from fast_dag.run.execution import Execution

    Take = Callable[["Call | None"], None]

_IDLE = 5.0
"""Seconds after which a shared worker thread without work ends."""


class Call:
    """A job on its way through a thread of a pool, and those that it leads to, one by one."""

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
        self.lends = 0  # how many runs that this thread waits for have its place

    def make(self) -> None:
        """Make it, here and now."""
        self.lane.dispatcher.variables.copy().run(self._follow)

    def _follow(self) -> None:
        lane, job, generation = self.lane, self.job, self.generation
        try:
            while job is not None:
                self.job = job
                job = lane.dispatcher.run_here(job, generation, lane)
                if job is not None:
                    if self.is_abandoned:
                        lane.launch(job)  # another thread makes it
                        break
                    generation = job.generation
        except BaseException as error:
            lane.dispatcher.break_off(error)
        finally:
            self.job = None
            lane.left(self)


class Pool:
    """At most `most` calls at once, each in a thread of its own; what comes then waits its turn.
    What cleans up after a run that was cut short comes first, and finds as many places again.

    A thread without work ends after `idle` seconds; None keeps it until the pool is closed.
    """

    def __init__(self, most: int, *, idle: float | None = None, name: str = "worker") -> None:
        self.most = most
        self._idle_seconds = idle
        self._name = f"fast_dag {name}"
        self._lock = threading.Lock()
        self._busy = 0  # places that are taken
        self._waiting: deque[Call] = deque()
        self._idle: list[Take] = []
        self._threads: set[threading.Thread] = set()
        self._closed = False

    def submit(self, call: Call) -> None:
        """Have a call made, by a thread that is idle, or by a new one, as soon as a place is
        free."""
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
        """Take back a call that has no place yet; whether there was one."""
        with self._lock:
            for call in self._waiting:
                if call.job is job:
                    self._waiting.remove(call)
                    call.lane.left(call)
                    return True
        return False

    def _placed(self) -> list[tuple[Call, Take | None]]:
        """The calls that have a place now, each with an idle thread, if there is one."""
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
        for call, take in ready:
            if take is not None:
                take(call)
                continue
            inbox: SimpleQueue[Call | None] = SimpleQueue()
            inbox.put(call)  # and not an argument, which the thread would hold while it lives
            thread = call.thread = threading.Thread(
                target=self._work, args=(inbox,), name=self._name, daemon=True
            )
            with self._lock:
                self._threads.add(thread)
            thread.start()

    def _work(self, inbox: SimpleQueue[Call | None]) -> None:
        thread, take = threading.current_thread(), inbox.put
        call = inbox.get()
        while call is not None:
            call.thread, _here.call = thread, call
            call.make()
            call, is_needed = self.rested(call, take)
            _here.call = None
            if call is None and is_needed:
                call = self._next(inbox, take)
        with self._lock:
            self._threads.discard(thread)

    def _next(self, inbox: SimpleQueue[Call | None], take: Take) -> Call | None:
        """What an idle thread makes next; None where it is not needed any more."""
        try:
            return inbox.get(timeout=self._idle_seconds)
        except Empty:
            with self._lock:
                if take in self._idle:
                    self._idle.remove(take)
                    return None
        return inbox.get()  # which came just now

    def rested(self, call: Call, take: Take) -> tuple[Call | None, bool]:
        """A thread has made a call: the one to make next, if there is one, and whether the thread
        is needed any more. `take` gives it more to do when it is idle."""
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
        """A thread that is none of the pool's own makes calls, too, while it has nothing else to
        do."""
        with self._lock:
            self._idle.append(take)

    def give_place(self, call: Call) -> None:
        """Count a call that a thread makes which is none of the pool's own."""
        with self._lock:
            call.has_place = True
            self._busy += 1

    def give_up(self, call: Call) -> None:
        """Wait for a call no more: a thread cannot be ended from outside. Its place is free."""
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
        """The thread of a call is about to wait for others, which may need its place."""
        with self._lock:
            call.lends += 1
            self._vacate(call)
            ready = self._placed()
        self._start(ready)

    def take_back(self, call: Call) -> None:
        """It waits no more. It goes on at once, though there may be one too many then."""
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
    """The threads of a pool, as one run has them; `most` calls of it may be made at once, where
    that is more than the pool has places."""

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
        """A call that is about to be made."""
        call = Call(self, job)
        self._calls.add(call)
        return call

    def left(self, call: Call) -> None:
        """A thread is done with a call."""
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
        """Wait for none of the calls any more."""
        for call in list(self._calls):
            self._abandon(call)

    def when_quiet(self, callback: Callable[[], None]) -> None:
        """Call back once no thread is at work for this run, or now."""
        self._on_quiet = callback
        if not self._calls:
            callback()

    def close(self, *, abandon: bool) -> None:
        if abandon:
            self.abandon()
        if self.pool is not _shared:
            self.pool.close()


def pool_size(execution: Execution) -> int:
    """How many threads the pool of a run has that a thread waits for. A sequential run stays in
    one. Others have as many as nodes may run at once, and some for hooks of async nodes, which are
    not counted as that."""
    settings = execution.settings
    return 1 if settings.ordered else max(slots_of(settings)[0], cpu_count() + 4)


# The threads that all runs share that are awaited on event loops.

_lock = threading.Lock()
_shared: Pool | None = None


def shared() -> Pool:
    """The pool of this process."""
    global _shared  # noqa: PLW0603  it is one for the process
    with _lock:
        if _shared is None:
            _shared = Pool(min(32, cpu_count() + 4), idle=_IDLE, name="pool")
        return _shared


def _forget() -> None:
    """A forked child has none of the threads."""
    global _lock, _shared
    _lock, _shared = threading.Lock(), None
    _here.call = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


# A node that waits for a run of its own lends its place to it.


class _Here(threading.local):
    call: Call | None = None


_here = _Here()


@contextmanager
def place_lent() -> Iterator[None]:
    """While a run that was started here is waited for, others may have this thread's place."""
    call = _here.call
    if call is None:
        yield
        return
    call.pool.lend_place(call)
    try:
        yield
    finally:
        call.pool.take_back(call)
