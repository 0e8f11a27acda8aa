"""Worker processes that several runs use at once, taking turns.

A *task* is one call, or one batch of calls, for a worker process. Tasks stand in lines, one for
each run, and the lines take turns. A free process and a task whose turn it is are given to a thread
of the pool, which has the process make the call (`Pool.make`). The process is free again as soon as
it has answered; what follows from the answer happens while it may work for others. So nobody who
waits holds a process.
"""

from __future__ import annotations

import os
import sys
import threading
from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any
from weakref import WeakSet, ref

from fast_dag.drive.processes import Head, LostError, Process
from fast_dag.drive.protocol import CALL, TooManyFilesError
from fast_dag.errors import text_of

if TYPE_CHECKING:
    from fast_dag.drive import payload
    from fast_dag.drive.protocol import Message, Packed
    from fast_dag.errors import ExecutionError


class Task(ABC):
    """What a worker process is given to do. `line` says with which others it stands in line."""

    kind = CALL
    reports = False  # whether the beginning of its call is reported to `told`
    since = 0  # which reload its function needs
    head: Head | None = None
    patience: float | None = None  # seconds without a word of its process, after which it is `late`
    is_killed = False
    process: Process | None = None  # that makes it now
    at: int | None = None  # the item of its batch that a process was at when it died
    prefers: Process | None = None  # the process that should make it, if that is free

    @property
    @abstractmethod
    def line(self) -> object: ...

    @abstractmethod
    def error(self, text: str) -> ExecutionError:
        """An error of the worker process that it has, or should have."""

    @abstractmethod
    def packed(self, names: payload.Names) -> Packed:
        """The call for a worker that knows these names of the main script."""

    def fit(self, most: int) -> None:  # noqa: B027  most are one call
        """Keep so many calls at most: its process may make no more."""

    def told(self, message: Message) -> None:  # noqa: B027  most have nothing to do
        """Called with what the process says before it answers, and with each PART."""

    def late(self) -> bool:
        """Called when there was no word for `patience` seconds. Returns whether that was enough."""
        return True

    @abstractmethod
    def serve(self, pool: Pool, process: Process | None) -> tuple[Task, Process] | None:
        """Have it made, and go on with what follows. Called in a thread of the pool. Without a
        process the pool refuses it. Returns a task that this thread makes next, if there is one."""


class Pool:
    """Starts worker processes on demand, at most `most`.

    Parameters
    ----------
    idle:
        Seconds after which an idle process is ended; None: never.
    max_calls:
        How many calls a process makes before another takes its place; None: any number.
    initializer:
        Called in each process before its first call.
    level:
        Log records of the processes from this level on come home; None: they do not.
    """

    def __init__(
        self,
        most: int = sys.maxsize,
        *,
        idle: float | None = None,
        max_calls: int | None = None,
        initializer: Any = None,
        level: int | str | None = None,
    ) -> None:
        self.most = most
        self._idle_seconds = idle
        self._max_calls = sys.maxsize if max_calls is None else max_calls
        self._initializer = initializer
        self._level = level
        self.is_closed = False
        self._refuses = False
        self._reset()
        _pools.add(self)

    def _reset(self) -> None:
        self._lock = threading.RLock()  # the collector may call `abandon` at any time
        self._changed = threading.Condition(self._lock)
        self._all: set[Process] = set()
        self._idle: list[Process] = []  # the one that was used last is at the end
        self._lines: dict[object, deque[Task]] = {}  # the one whose turn it is comes first
        self._resting: list[SimpleQueue[_Given | None]] = []  # threads without a task
        self._threads: set[threading.Thread] = set()
        self._serving = 0  # those of the threads that make tasks, or rest
        self._users = 0
        self._homes: list[int] = []  # the threads that have called, or await, the runs that use it
        self._oldest = 0  # processes made before this are ended: see `restart`
        self._count = 0
        self._makers: dict[int, _Made] = {}

    # Users: runs, and calls that were submitted.

    def enter(self, home: int | None = None) -> None:
        """Somebody begins to use the pool: a run, with the thread that has called or awaits it, or
        a submitted call. Raises RuntimeError if the pool is shut down."""
        with self._lock:
            if self.is_closed:
                raise RuntimeError("these Workers are shut down, so they take no further calls")
            self._users += 1
            if home is not None:
                self._homes.append(home)

    def leave(self, home: int | None = None) -> None:
        """Somebody does not use the pool any more."""
        with self._lock:
            self._users -= 1
            if home is not None:
                self._homes.remove(home)
            is_over = self.is_closed and not self._users
            self._changed.notify_all()
        if is_over:
            self._end_all()

    def close(self, *, wait: bool = True, refuse: bool = False) -> None:
        """Take no new users. When the last one has left, end the processes.

        With `refuse`, tasks that have not begun are not made: their `serve` gets no process. A
        thread without which some user would never leave does not wait."""
        me = threading.current_thread()
        with self._lock:
            wait = wait and me not in self._threads and me.ident not in self._homes
            self.is_closed = True
            self._refuses = self._refuses or refuse
            ready = self._matched()
        self._start(ready)
        with self._lock:
            while wait and self._users:
                self._changed.wait()
            is_over = not self._users
        if is_over:
            self._end_all()
        if wait:
            for thread in list(self._threads):
                thread.join()

    def _end_all(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
            self._all.difference_update(idle)
            resting, self._resting = self._resting, []
            self._serving -= len(resting)
        end(idle)
        for inbox in resting:
            inbox.put(None)

    def abandon(self) -> None:
        """Called when nobody refers to the pool any more, or the program ends: end what is there,
        without a wait for anybody."""
        with self._lock:
            self.is_closed = self._refuses = True
            for process in self._all.difference(self._idle):
                process.kill()
        self._end_all()

    def restart(self) -> None:
        """End all processes: those that are idle now, others when their calls end."""
        with self._lock:
            self._oldest = self._count
            idle, self._idle = self._idle, []
            self._all.difference_update(idle)
        end(idle)

    # Tasks.

    def submit(self, task: Task) -> None:
        """Have a task made by one of the pool's threads, when its turn comes."""
        with self._lock:
            self._lines.setdefault(task.line, deque()).append(task)
            ready = self._matched()
        self._start(ready)

    def follow(self, task: Task) -> tuple[Task, Process] | None:
        """`submit` for a thread of the pool that has nothing else to do. If the task's turn has
        come, it is returned with its process, and that thread makes it."""
        with self._lock:
            self._lines.setdefault(task.line, deque()).append(task)
            ready = self._matched()
        mine = next((each for each in ready if each[0] is task), None)
        self._start([each for each in ready if each is not mine])
        return mine  # type: ignore[return-value]

    def withdraw(self, task: Task) -> bool:
        """Take a task back that waits for its turn. Returns whether it did."""
        with self._lock:
            line = self._lines.get(task.line, ())
            if task not in line:
                return False
            line.remove(task)  # type: ignore[union-attr]
            if not line:
                del self._lines[task.line]
            return True

    def kill(self, task: Task) -> None:
        """Kill the process that makes a task, or is about to. Another may take its place."""
        with self._lock:
            task.is_killed = True
            process = task.process
            if process is None:
                return
            self._all.discard(process)
            process.kill()
            ready = self._matched()
        self._start(ready)

    def _matched(self) -> list[_Given]:
        """Give free processes to the tasks whose turn it is."""
        ready: list[_Given] = []
        while self._lines and (self._refuses or self._idle or len(self._all) < self.most):
            line, tasks = next(iter(self._lines.items()))
            del self._lines[line]
            task = tasks.popleft()
            if tasks:
                self._lines[line] = tasks  # at the end
            process = None if self._refuses else self._process_for(task)
            task.process = process
            ready.append((task, process))
        return ready

    def _process_for(self, task: Task) -> Process:
        if not self._idle:
            return self._new_process()
        if task.prefers in self._idle:
            self._idle.remove(task.prefers)
            return task.prefers
        return self._idle.pop()

    def _new_process(self) -> Process:
        process = Process(self._count)
        self._count += 1
        self._all.add(process)
        return process

    # The threads.

    def _start(self, ready: list[_Given]) -> None:
        for number, given in enumerate(ready):
            with self._lock:
                inbox = self._resting.pop() if self._resting else None
                if inbox is None:
                    self._serving += 1
            if inbox is not None:
                inbox.put(given)
                continue
            inbox = SimpleQueue()
            inbox.put(given)  # not an argument: the thread would refer to that as long as it lives
            thread = threading.Thread(
                target=self._work, args=(inbox,), name="fast_dag workers", daemon=True
            )
            with self._lock:
                self._threads.add(thread)
            try:
                thread.start()
            except RuntimeError:  # the system allows no further threads
                if not self._put_back(ready[number:], thread):
                    raise
                return

    def _put_back(self, ready: list[_Given], thread: threading.Thread) -> bool:
        """Have tasks wait that this thread, which could not be started, and others should make.
        Returns whether there is a thread that will look for them when it rests."""
        with self._lock:
            self._threads.discard(thread)
            self._serving -= 1
            for task, process in reversed(ready):
                task.process = None
                if process is not None and process.is_started:
                    self._idle.append(process)
                elif process is not None:
                    self._all.discard(process)
                self._lines.setdefault(task.line, deque()).appendleft(task)
            return self._serving > 0

    def _work(self, inbox: SimpleQueue[_Given | None]) -> None:
        given = inbox.get()
        while given is not None:
            while given is not None:
                task, process = given
                given = None
                given = task.serve(self, process)
                task = process = None  # type: ignore[assignment]  # an idle thread keeps nothing
            given = self._rest(inbox)
        with self._lock:
            self._threads.discard(threading.current_thread())

    def _rest(self, inbox: SimpleQueue[_Given | None]) -> _Given | None:
        """Wait for a task; None if the thread must end. Meanwhile, end processes that have been
        idle for too long."""
        with self._lock:
            if self.is_closed and not self._users:
                self._serving -= 1
                return None
            self._resting.append(inbox)
            ready = self._matched()  # tasks for which no thread could be started
        self._start(ready)
        while True:
            try:
                return inbox.get(timeout=self._patience())
            except Empty:
                pass
            with self._lock:
                old = self._idle_since(monotonic() - (self._idle_seconds or 0.0))
                # The last thread stays until no process is idle.
                leaves = inbox in self._resting and (not self._idle or len(self._resting) > 1)
                if leaves:
                    self._resting.remove(inbox)
                    self._serving -= 1
            end(old)
            if leaves:
                return None

    def _patience(self) -> float | None:
        with self._lock:
            if self._idle_seconds is None:
                return None
            if not self._idle:
                return self._idle_seconds
            ends = min(each.idle_since for each in self._idle) + self._idle_seconds
        return max(ends - monotonic(), 0.001)

    def _idle_since(self, then: float) -> list[Process]:
        old = [each for each in self._idle if each.idle_since <= then]
        self._idle = [each for each in self._idle if each.idle_since > then]
        self._all.difference_update(old)
        return old

    # Calls.

    def make(self, task: Task, process: Process) -> tuple[Message, Process]:
        """Have a process make a task. Returns the last answer, and which process gave it. Raises
        ExecutionError if no process could be started, or the one that made the task died. If one
        dies as it starts, another one is started, once."""
        is_last = False
        try:
            if process.is_started and task.since > process.born:
                process = self._replaced(task, process)
            while True:
                is_new = not process.is_started
                if is_new and not self._prepare(task, process, is_last=is_last):
                    process, is_last = self._replaced(task, process), True
                    continue
                task.fit(self._max_calls - process.calls)
                try:
                    return self._asked(task, process, task.packed(process.names)), process
                except LostError as death:
                    if is_new or process.has_begun or process.is_killed:
                        raise self._death(task, process) from death.__cause__
                # It had died while it was idle, so the call was not made.
                process = self._replaced(task, process)
        finally:
            self.release(task, process)

    def _asked(self, task: Task, process: Process, packed: Packed) -> Message:
        try:
            return process.ask(
                task.kind,
                packed,
                task.told,
                reports=task.reports,
                head=task.head,
                patience=task.patience,
                late=task.late,
            )
        except LostError:
            raise
        except TooManyFilesError as error:
            self._cut_off(task, process)
            raise task.error(f"sent what cannot be received: {error}") from error
        except BaseException:
            process.kill()  # what it says next would be taken for the answer to another call
            raise

    def _prepare(self, task: Task, process: Process, *, is_last: bool) -> bool:
        """Start a process. Returns False if it has died, but is not the last one to be tried.
        Raises ExecutionError, which says why it cannot be started."""
        try:
            process.start(self._level, self._initializer)
        except BaseException as error:
            is_dead = isinstance(error, LostError)
            if is_dead and not is_last and not process.is_killed:
                return False
            code = self._lost(process)
            if not isinstance(error, Exception):
                raise
            reason = f"it died at once (exit code {code})" if is_dead else text_of(error)
            raise task.error(f"could not be started: {reason}") from error.__cause__
        return True

    def _death(self, task: Task, process: Process) -> ExecutionError:
        return task.error(f"died before the call ended (exit code {self._cut_off(task, process)})")

    def _cut_off(self, task: Task, process: Process) -> int | None:
        """End a process in its call. Returns its exit code."""
        if process.has_begun and process.at is not None:
            task.at = process.at
        return self._lost(process)

    def _replaced(self, task: Task, process: Process) -> Process:
        """A new process, which makes a task in the place of another, which ends."""
        with self._lock:
            self._all.discard(process)
            task.process = new = self._new_process()
            if task.is_killed:
                new.kill()
        self._bury(process)
        return new

    def _lost(self, process: Process) -> int | None:
        """A process is of no use any more: end it now. Returns its exit code."""
        process.kill()
        with self._lock:
            self._all.discard(process)
            ready = self._matched()
        self._start(ready)
        return process.end()

    def release(self, task: Task, process: Process) -> None:
        """A process has answered, or was not needed: others may have it."""
        with self._lock:
            task.process = None
            is_mine = process in self._all  # else it was killed, or died
            is_used_up = process.number < self._oldest or process.calls >= self._max_calls
            if is_mine and not is_used_up and not process.is_killed:
                process.idle_since = monotonic()
                self._idle.append(process)
            else:
                self._all.discard(process)
                self._bury(process)
            ready = self._matched()
        self._start(ready)

    def _bury(self, process: Process) -> None:
        """End a process without a wait for that."""

        def end() -> None:
            process.end()
            with self._lock:
                self._threads.discard(thread)

        if process.has_ended:
            return
        thread = threading.Thread(target=end, name="fast_dag workers", daemon=True)
        with self._lock:
            self._threads.add(thread)
        thread.start()

    def forget(self, head: Head) -> None:
        """No further batch has this head: processes may free what it holds."""
        with self._lock:
            for process in self._idle:
                process.forget(head)

    # Large values.

    def made(self, value: Any, message: Message, process: Process) -> None:
        """A process has made a value: who takes that should go there."""
        size = sum(each.nbytes for each in message.buffers)
        if not size:
            return
        key = id(value)
        with suppress(TypeError):  # of a list, say
            known = ref(value, lambda _: self._makers.pop(key, None))
            self._makers[key] = known, process, size

    def maker(self, values: Any) -> Process | None:
        """The process that made the largest of some values."""
        if not self._makers:
            return None
        found = [self._makers.get(id(each)) for each in values]
        return max((each for each in found if each), key=lambda each: each[2], default=_NONE)[1]


if TYPE_CHECKING:
    _Given = tuple[Task, Process | None]
    _Made = tuple[Any, Process | None, int]
_NONE: _Made = (None, None, 0)

_pools: WeakSet[Pool] = WeakSet()
"""All pools of this process, which a forked child empties."""
_of_parent: list[Any] = []
"""What a forked child must not touch, nor free."""


def end(processes: list[Process]) -> None:
    """End idle processes, all at the same time."""
    for process in processes:
        process.tell_end()
    for process in processes:
        process.end()


def _in_child() -> None:
    for pool in list(_pools):
        _of_parent.append(dict(vars(pool)))
        pool._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
