"""A place where calls happen: threads, a loop, processes, an executor, the caller's own thread."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fast_dag.drive.job import Job


class Lane(ABC):
    """A place where the calls of jobs happen. From the launch of a call to its end the job belongs
    to its lane."""

    calls_here = False  # in the thread that takes a job, by a mere call
    ends_calls = False  # calls that are given up end soon, and say so

    @abstractmethod
    def launch(self, job: Job) -> None:
        """Start the job's call, soon and without blocking; report its outcome to the dispatcher's
        `ended`."""

    def withdraw(self, job: Job) -> bool:
        """Take back a call that was launched and has not begun; whether that was possible. The job
        belongs to the caller then."""
        return False

    def give_up(self, job: Job) -> None:  # noqa: B027  most lanes have nothing to do
        """Nobody waits for the job's present call any more; it ends soon if `ends_calls`."""

    @abstractmethod
    def close(self, *, abandon: bool) -> None:
        """End what was started for this lane; with `abandon`, although calls may be at work."""
