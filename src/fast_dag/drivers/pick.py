"""Which driver executes a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fast_dag.drivers import inline
from fast_dag.run import ExecutionMode

if TYPE_CHECKING:
    from fast_dag.run import Run


def drive(run: Run) -> None:
    """Execute a run while the caller waits.

    Raises ValidationError where that needs an event loop and the caller is inside of one."""
    settings = run.settings
    plan = run.plan
    if plan.needs_loop or settings.mode is ExecutionMode.ASYNC:
        inline.refuse_running_loop(run.name)
    at_home = settings.timeout is None and settings.executor is None and not plan.goes_elsewhere
    if settings.mode is ExecutionMode.SEQUENTIAL and at_home:
        inline.drive(run)
    elif settings.mode is ExecutionMode.ASYNC:
        import asyncio

        from fast_dag.drivers import aio

        with asyncio.Runner() as runner:
            runner.run(aio.drive(run))
    else:
        from fast_dag.drivers import blocking

        blocking.drive(run)


async def drive_async(run: Run) -> None:
    """Execute a run on the caller's event loop, without blocking it."""
    from fast_dag.drivers import aio

    await aio.drive(run)
