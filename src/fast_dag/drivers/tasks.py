"""A run of async nodes with nothing around them, on the caller's loop: tasks that follow the chain
they are on. All happens in one thread, so there are no locks, jobs or lanes."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from time import perf_counter
from typing import TYPE_CHECKING, Any

from fast_dag.call.effects import ONE_SHOT, Outcome
from fast_dag.dag_run import DagRun
from fast_dag.drivers.loops import cancel_all
from fast_dag.run import current_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fast_dag.run import Run


def suits(run: Run) -> bool:
    """Whether a run is nothing but plain async nodes, of which any number may run at once."""
    settings = run.settings
    return (
        run.observers is None
        and run.resources is None
        and settings.max_workers is None
        and not settings.ordered
        and run.plan.only_async
    )


class Tasks:
    """The tasks of one run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._line = run if isinstance(run, DagRun) and run.plan.line else None
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[int, asyncio.Task[None]] = {}  # by the node that each began with
        self._open = 0  # how many have not ended
        self._done = asyncio.Event()
        self._crash: BaseException | None = None
        self._stopped = self._closed = False  # nothing more starts; and what ends is of no interest
        self._variables = copy_context()
        self._variables.run(current_run.set, run)

    async def drive(self) -> None:
        """Execute the run from its start to its end."""
        run = self.run
        run.open()
        try:
            self._launch(run.begin(eager=True) if self._line is None else _LINE)
            if self._open:
                async with asyncio.timeout(run.settings.timeout):
                    await self._done.wait()
            if self._crash is not None:
                raise self._crash
        except TimeoutError:
            await self._abort("timed_out")
        except BaseException:
            await self._abort("cancelled")
            raise
        else:
            run.close()

    async def _abort(self, status: str) -> None:
        self._stopped = self._closed = True
        self.run.close(status)
        await cancel_all(self._tasks.values())

    def _launch(self, ready: Sequence[int]) -> None:
        create, variables = self._loop.create_task, self._variables
        self._open += len(ready)
        for index in ready:
            task = create(self._make_calls(index), context=variables.copy())
            if not task.done():  # by now, where tasks start eagerly
                self._tasks[index] = task

    async def _make_calls(self, first: int) -> None:
        try:
            if self._line is None:
                await self._follow(first)
            else:
                await self._go_straight(self._line)
        except BaseException as error:
            # What is no failure, such as being cancelled by somebody else, ends the run.
            if not self._closed and self._crash is None:
                self._crash, self._stopped = error, True
                self._done.set()
        else:
            self._tasks.pop(first, None)
            self._open -= 1
            if not self._open:
                self._done.set()

    async def _go_straight(self, run: DagRun) -> None:
        """Call the nodes of a line, where statuses need not be kept: each ran or did not, and
        nothing follows one that failed."""
        plan, results, stamps, clock = run.plan, run.results, run.record.stamps, perf_counter
        nodes, bindings, attempts = plan.nodes, plan.bindings, 0
        stamps.append(clock())
        try:
            for index in plan.topology.order:
                args, kwargs = bindings[index].gather(run)
                attempts, node = 1, nodes[index]
                value = await node.func(*args, **kwargs)
                if self._closed:
                    return
                if value.__class__ in ONE_SHOT:
                    run.refuse_sharing(index, value)
                results[node.name], attempts = value, 0
                stamps.append(clock())
        except Exception as error:
            outcome = Outcome(False, error, attempts)
        else:
            return
        if not self._closed:
            started, index = stamps[-1], run.leave_straight()
            run.settle(index, run.judge(index, outcome), started)

    async def _follow(self, index: int) -> None:
        """Call a node, then one of those that it made ready, and so on; others get tasks of their
        own."""
        run, nodes = self.run, self.run.plan.nodes
        ended = perf_counter()
        value: Any = None
        while not self._stopped:
            started, attempts = ended, 0
            try:
                args, kwargs = run.start_plain(index), _NO_KEYWORDS
                if args is None:
                    args, kwargs = run.start(index)
                attempts = 1
                value = await nodes[index].func(*args, **kwargs)
                outcome = Outcome(True, value) if value.__class__ in ONE_SHOT else None
            except Exception as error:
                outcome = Outcome(False, error, attempts)
            if self._closed:
                return
            ended = perf_counter()
            if outcome is None:
                ready = run.settle_plain(index, value, started, ended)
            else:
                ready = run.settle(index, run.judge(index, outcome), started)
                self._stopped = self._stopped or run.stopped
            if not ready:
                return
            index = ready[0]
            if len(ready) > 1:
                self._launch(ready[1:])


_LINE = (0,)
"""All of it is one task's."""

_NO_KEYWORDS: dict[str, Any] = {}
