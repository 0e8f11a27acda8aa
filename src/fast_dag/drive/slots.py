"""Who may run now: the slots of one run, and the jobs that wait for one."""

from __future__ import annotations

import os
from collections import deque
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from fast_dag.run.settings import ASYNC

if TYPE_CHECKING:
    from fast_dag.drive.job import Job
    from fast_dag.run.settings import Settings


class Slots:
    """Hands out the slots of one run. It knows no threads and no clock; the dispatcher's lock
    guards it."""

    def __init__(self, settings: Settings) -> None:
        # One job at a time, the one that is defined first, and waits keep the slot.
        self.is_ordered = settings.ordered
        self._free, self._bounds_all = slots_of(settings)
        self._waiting: deque[Job] = deque()
        self._unbounded: list[Job] = []  # that need no slot
        self._heap: list[Job] = []  # all that wait, where the order counts

    def queue(self, job: Job) -> None:
        """A job wants to go on. Jobs that are queued later come first: whoever finishes a node goes
        on with one that it made ready."""
        if self.is_ordered:
            heappush(self._heap, job)
        elif job.takes_slot:
            self._waiting.appendleft(job)
        else:
            self._unbounded.append(job)

    def queue_new(self, job: Job) -> None:
        """The same for a job that has not begun."""
        job.takes_slot = self._bounds_all or not job.step.node.signature.is_async
        self.queue(job)

    def picked(self) -> list[Job]:
        """The jobs that may go on now, each with its slot. Those of stopped executions need no free
        one: they only end."""
        if self.is_ordered:
            if not self._heap or not self._free:
                return []
            job = heappop(self._heap)
            self._free -= job.takes_slot
            return [job]
        picked, self._unbounded = self._unbounded[::-1], []
        waiting = self._waiting
        while waiting and (self._free > 0 or waiting[0].execution.stopped):
            self._free -= 1
            picked.append(waiting.popleft())
        return picked

    def take(self, job: Job) -> None:
        """A job goes on, whether or not a slot is free."""
        self._free -= job.takes_slot

    def give_back(self, job: Job) -> None:
        """A job has ended, or waits without its slot."""
        self._free += job.takes_slot


def slots_of(settings: Settings) -> tuple[int, bool]:
    """How many jobs may run at once, and whether those of async nodes count."""
    if settings.ordered:
        return 1, True
    if settings.max_workers is not None:
        return settings.max_workers, True
    cpus = cpu_count()
    if settings.executor is not None:
        # Those of the standard library and loky know how many they serve.
        return getattr(settings.executor, "_max_workers", None) or min(32, cpus + 4), False
    return (min(32, cpus + 4) if settings.mode is ASYNC else cpus), False


def cpu_count() -> int:
    """The CPUs this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this platform
        return os.cpu_count() or 1
