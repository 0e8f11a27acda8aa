"""Slots: which jobs may run now, and which wait."""

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
        # One job at a time, in the order of definition. A job that waits keeps its slot.
        self.is_ordered = settings.ordered
        self._free, self._bounds_all = slots_of(settings)
        self._waiting: deque[Job] = deque()
        self._unbounded: list[Job] = []  # jobs that need no slot
        self._heap: list[Job] = []  # the waiting jobs of an ordered run

    def queue(self, job: Job) -> None:
        """Queue a job that can go on. The job that was queued last comes first, so that a thread
        that finishes a node goes on with one that became ready by that."""
        if self.is_ordered:
            heappush(self._heap, job)
        elif job.takes_slot:
            self._waiting.appendleft(job)
        else:
            self._unbounded.append(job)

    def queue_new(self, job: Job) -> None:
        """Queue a job that has not begun."""
        job.takes_slot = self._bounds_all or not job.step.node.signature.is_async
        self.queue(job)

    def picked(self) -> list[Job]:
        """Remove from the queue, and return, the jobs that may go on now; each has taken its slot.
        Jobs of a stopped execution do not wait for a free slot, because they only end."""
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
        """Take a slot for a job, even if none is free."""
        self._free -= job.takes_slot

    def give_back(self, job: Job) -> None:
        """Free the slot of a job that has ended or waits."""
        self._free += job.takes_slot


def slots_of(settings: Settings) -> tuple[int, bool]:
    """How many jobs may run at once, and whether the jobs of async nodes count."""
    if settings.ordered:
        return 1, True
    if settings.max_workers is not None:
        return settings.max_workers, True
    cpus = cpu_count()
    if settings.executor is not None:
        # Executors of the standard library and of loky have this attribute.
        return getattr(settings.executor, "_max_workers", None) or min(32, cpus + 4), False
    return (min(32, cpus + 4) if settings.mode is ASYNC else cpus), False


def cpu_count() -> int:
    """How many CPUs this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this platform
        return os.cpu_count() or 1
