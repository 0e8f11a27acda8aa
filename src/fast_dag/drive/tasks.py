"""A run of plain async nodes on the caller's loop: tasks that call nodes and go on with those that
follow. Everything happens in one thread, so there are no locks, jobs or lanes."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from time import perf_counter
from typing import TYPE_CHECKING, Any

from fast_dag.call.effects import ONE_SHOT, Outcome
from fast_dag.drive.loops import UNWINDING, let_others_go
from fast_dag.errors import failures
from fast_dag.run.execution import current
from fast_dag.run.turns import turn_ends

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fast_dag.run.execution import Execution


def suits(execution: Execution) -> bool:
    """Whether a run has only plain async nodes, any number of which may run at once."""
    settings = execution.settings
    return (
        not execution.watched
        and execution.resources is None
        and settings.max_workers is None
        and not settings.ordered
        and execution.plan.only_async
    )


class Tasks:
    """The tasks of one run."""

    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[int, asyncio.Task[None]] = {}  # by the node that each began with
        self._open = 0  # how many tasks have not ended
        self._done = asyncio.Event()
        self._crash: BaseException | None = None
        self._stopped = False  # nothing more starts
        self._ending: str | None = None  # the final status of a run that is cut short
        self._spared: list[asyncio.Task[None]] = []
        self._variables = copy_context()
        self._variables.run(current.set, execution)

    async def drive(self) -> None:
        """Execute the run. A cancellation cuts it short, and is raised when the run has ended. A
        second cancellation meanwhile changes nothing."""
        execution, cancelled = self.execution, None
        timeout = execution.settings.timeout
        execution.open()
        deadline = None if timeout is None else self._loop.time() + timeout
        timer = None if deadline is None else self._loop.call_at(deadline, self._cut, "timed_out")
        try:
            self._launch(execution.begin(eager=True))
            while self._open and not (self._ending and self._are_done()):
                try:
                    await (self._unwound() if self._ending else self._done.wait())
                except asyncio.CancelledError as error:
                    cancelled = error
                    self._cut("cancelled")
            if deadline is not None and not execution.stopped and self._loop.time() > deadline:
                self._ending = self._ending or "timed_out"
        except BaseException:  # the loop was closed, and this coroutine with it
            self._cut("cancelled")
            raise
        finally:
            if timer is not None:
                timer.cancel()
            execution.close(self._ending)
        if self._crash is not None:
            raise self._crash
        if cancelled is not None:
            raise cancelled

    def _cut(self, status: str) -> None:
        """Cut the run short: nothing more starts, and outcomes that come now are dropped."""
        if self._ending is None:
            self._stopped, self._ending = True, status
            self._done.set()
            if self._loop.is_closed():  # its tasks end when they are collected
                return
            for task in self._tasks.values():
                if task.cancelling():
                    # Somebody else has cancelled it, as `asyncio.run` does at its end. A second
                    # cancellation would interrupt its unwinding.
                    self._spared.append(task)
                else:
                    task.cancel()

    def _are_done(self) -> bool:
        return all(task.done() for task in self._tasks.values())

    async def _unwound(self) -> None:
        """Wait until all tasks have ended. Those that somebody else had cancelled are cancelled
        again if they take longer than `UNWINDING`."""
        left = [task for task in self._tasks.values() if not task.done()]
        if left:
            await asyncio.wait(left, timeout=UNWINDING if self._spared else None)
        spared, self._spared = self._spared, []
        for task in spared:
            task.cancel()

    def _launch(self, ready: Sequence[int]) -> None:
        create, variables = self._loop.create_task, self._variables
        self._open += len(ready)
        for index in ready:
            task = create(self._make_calls(index), context=variables.copy())
            if not task.done():  # with an eager task factory, it may have ended
                self._tasks[index] = task

    async def _make_calls(self, first: int) -> None:
        try:
            await self._follow(first)
        except BaseException as error:  # not a failure of a node: it ends the run
            if self._ending is None:
                self._crash = error
                self._cut("cancelled")
        self._tasks.pop(first, None)
        self._open -= 1
        if not self._open:
            self._done.set()

    async def _follow(self, index: int) -> None:
        """Call a node, then one of those that became ready by it, and so on. The others get tasks
        of their own."""
        execution, steps = self.execution, self.execution.plan.steps
        ended = perf_counter()
        until = turn_ends()
        value: Any = None
        while not self._stopped:
            started, attempts = ended, 0
            try:
                args: Sequence[Any] | None = execution.start_plain(index)
                kwargs = _NO_KEYWORDS
                if args is None:
                    args, kwargs = execution.start(index)
                attempts = 1
                value = await steps[index].call(*args, **kwargs)
                outcome = Outcome(True, value) if ONE_SHOT[type(value)] else None
            except failures() as error:
                outcome = Outcome(False, error, attempts)
            if self._ending is not None:
                return
            ended = perf_counter()
            if outcome is None:
                ready = execution.finish_plain(index, value, started, ended)
                value = None  # so that deleting it from the results frees it
            else:
                ready = execution.finish(index, outcome, started)
                self._stopped = self._stopped or execution.stopped
            if not ready:
                return
            index = ready[0]
            if len(ready) > 1:
                self._launch(ready[1:])
            if ended > until:
                until = await let_others_go()


_NO_KEYWORDS: dict[str, Any] = {}
