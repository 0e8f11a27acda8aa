"""Which state of a machine runs next: one at a time, the same one possibly again."""

from __future__ import annotations

from fast_dag.schedule.base import COMPLETED, FAILED, READY, Schedule


class FsmSchedule(Schedule):
    """When a state completed and chose the next one, this next state may start.

    >>> schedule = FsmSchedule(2)
    >>> schedule.begin(0), schedule.complete(0, 1), schedule.complete(1, None)
    ([0], [1], [])
    """

    __slots__ = ()

    def begin(self, state: int | None) -> list[int]:
        """The state that may start at once, if any."""
        return self._ready(state)

    def complete(self, node: int, choice: int | None = None) -> list[int]:
        self.status[node] = COMPLETED
        return self._ready(choice)

    def fail(self, node: int) -> list[int]:
        self.status[node] = FAILED
        return []

    def _ready(self, state: int | None) -> list[int]:
        if state is None:
            return []
        self.status[state] = READY
        return [state]
