"""Slots: which jobs may run now, and which wait."""

from __future__ import annotations

import os
from bisect import insort
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from fast_dag.run.settings import ASYNC

if TYPE_CHECKING:
    from typing import Any

    from fast_dag.drive.job import Job
    from fast_dag.plan.plan import Plan
    from fast_dag.plan.step import Step
    from fast_dag.run.settings import Settings


class Slots:
    """Hands out the slots of one run. It knows no threads and no clock; the dispatcher's lock
    guards it."""

    def __init__(self, settings: Settings, plan: Plan) -> None:
        # One job at a time, in the order of definition. A job that waits keeps its slot.
        self.is_ordered = settings.ordered
        self.most, self._bounds_all = slots_of(settings)
        self._free = self.most
        self._has_priorities = plan.has_priorities
        # Whether the order counts although there may be slots for all.
        self._is_ranked = plan.needs_limits or plan.has_priorities
        self._new: list[Job] = []  # those that want a slot since the last look
        self._unbounded: list[Job] = []  # that need no slot
        self._heap: list[Job] = []  # all that wait, where they go by definition only
        # Then also the nodes in progress that nest something, the innermost last: until that node
        # has ended, only what is inside of it goes on.
        self._around: list[Job] = []
        self._line: list[tuple[int, float, int, int, Job]] = []  # who waits, the first at the end
        self._placed_so_far = 0

    def queue(self, job: Job) -> None:
        """Queue a job that can go on."""
        if self.is_ordered:
            heappush(self._heap, job)
        elif job.takes_slot:
            self._new.append(job)
        else:
            self._unbounded.append(job)

    def queue_new(self, job: Job) -> None:
        """Queue a job that has not begun."""
        job.takes_slot = self._bounds_all or not job.step.node.signature.is_async
        self.queue(job)

    def places_of(self, step: Step) -> int:
        """How many items of a map may be in progress at once."""
        plan: Any = step.nested
        if self.is_ordered:
            return 1
        if plan.spec.max_concurrency is not None:
            return int(plan.spec.max_concurrency)
        if self._bounds_all:
            return self.most
        inner = plan.nested
        is_async = plan.is_async if inner is None else inner.needs_loop
        return MOST_ASYNC if is_async else self.most

    def picked(self) -> list[Job]:
        """Remove from the queue, and return, the jobs that may go on now; each has taken its slot.
        Jobs of a stopped execution do not wait for a free slot, because they only end."""
        if self.is_ordered:
            picked = []
            around = self._around
            while self._heap and self._free:
                job = self._heap[0]
                is_beside = job.step.role  # what a map calls besides its items goes on beside them
                if around and job.parent is not around[-1] and not is_beside:
                    break
                heappop(self._heap)
                self._free -= job.takes_slot
                picked.append(job)
                if not is_beside:
                    if job.step.nests:
                        around.append(job)
                    break
            return picked
        picked, self._unbounded = self._unbounded, []
        if picked and self._is_ranked:
            picked = [each[4] for each in sorted(map(self._placed, picked), reverse=True)]
        new, line = self._new, self._line
        if new:
            self._new = []
            if len(new) <= self._free and not line and not self._is_ranked:
                self._free -= len(new)
                return picked + new if picked else new
            if len(new) > _FEW:
                line.extend(map(self._placed, new))
                line.sort()
            else:
                for job in new:
                    insort(line, self._placed(job))
        while line and (self._free > 0 or line[-1][4].execution.stopped):
            self._free -= 1
            picked.append(line.pop()[4])
        return picked

    def _placed(self, job: Job) -> tuple[int, float, int, int, Job]:
        self._placed_so_far += 1
        return job.placed(self._has_priorities, self._placed_so_far)

    @property
    def is_full(self) -> bool:
        """Whether some job waits for a slot."""
        return bool(self._line)

    def take_free(self, job: Job) -> bool:
        """A job goes on if a slot is free; whether it does."""
        if job.takes_slot and self._free <= 0:
            return False
        self._free -= job.takes_slot
        return True

    def take(self, job: Job) -> None:
        """Take a slot for a job, even if none is free."""
        self._free -= job.takes_slot

    def give_back(self, job: Job) -> None:
        """Free the slot of a job that has ended or waits."""
        self._free += job.takes_slot
        if self._around and self._around[-1] is job:
            self._around.pop()


MOST_ASYNC = 100
"""How many async items are in progress at once where nothing else is asked for."""

_FEW = 4
"""Jobs that are put in their places one by one; sorting the line is faster for more."""


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
