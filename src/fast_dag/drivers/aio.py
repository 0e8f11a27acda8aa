"""The coordinator of a run that is awaited: the caller's loop has the async nodes."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from fast_dag.drivers.crew import Crew, Lane
from fast_dag.drivers.lanes import Lanes
from fast_dag.drivers.loops import LoopLane
from fast_dag.drivers.tasks import Tasks, suits

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_dag.drivers.crew import Job
    from fast_dag.run import Run


async def drive(run: Run) -> None:
    """Execute a run from its start to its end, in copies of the caller's contextvars."""
    await (Tasks(run) if suits(run) else _Coordinator(run)).drive()


class _Coordinator(Lane):
    """Waits on the loop, which keeps the time and runs inline nodes."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.crew = Crew(run)
        loop = asyncio.get_running_loop()
        self.loop = LoopLane(self.crew, loop, threading.get_ident())
        self.lanes = Lanes(self.crew, run.settings, loop=self.loop, inline=self)
        self.done = asyncio.Event()
        self.crew.finish = lambda: self._soon(self.done.set)
        self.crew.call_later = lambda seconds, function: self._soon(
            loop.call_later, seconds, self._guarded, function
        )
        self.crew.lanes = self.lanes

    def _soon(self, function: object, *args: object) -> None:
        self.loop.loop.call_soon_threadsafe(function, *args)  # type: ignore[arg-type]

    def _guarded(self, function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as error:
            self.crew.fail(error)

    async def drive(self) -> None:
        try:
            self.crew.go_on(self.crew.begin())
            async with asyncio.timeout(self.run.settings.timeout):
                await self.done.wait()
            if self.crew.crash is not None:
                raise self.crew.crash
        except TimeoutError:
            await self._abort("timed_out")
        except BaseException:
            await self._abort("cancelled")
            raise
        else:
            await self.loop.cancel_all()
            self.lanes.close(abandon=False)
        finally:
            self.run.tell_end()

    async def _abort(self, status: str) -> None:
        hooks = self.crew.abort(status)
        await self.loop.cancel_all()
        for hook in hooks:
            with suppress(Exception):  # the run's end is what its caller is told of
                if hook.is_async:
                    await hook.func(*hook.args)
                else:
                    await asyncio.to_thread(hook.func, *hook.args)
        self.lanes.close(abandon=True)

    # As the lane of inline nodes.

    def launch(self, job: Job) -> None:
        self._soon(self._run_inline, job)

    def _run_inline(self, job: Job | None) -> None:
        variables = self.crew.variables.copy()
        try:
            while job is not None:
                job = variables.run(self.crew.run_here, job, self)
        except BaseException as error:
            self.crew.fail(error)

    def close(self, *, abandon: bool) -> None:
        """The caller's loop is not ended."""
