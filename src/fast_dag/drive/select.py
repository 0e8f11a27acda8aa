"""Which driver executes a run."""

from __future__ import annotations

from sys import modules

from fast_dag.drive import inline
from fast_dag.run.run import ASYNC, PARALLEL, PROCESS, SEQUENTIAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fast_dag.run.run import Run


def drive(run: Run) -> None:
    """Execute a run while the caller waits.

    Raises ValidationError where that needs an event loop and the caller is inside of one,
    MissingExtraError where it needs other processes and cannot have them."""
    _refuse_processes(run)
    run.blocks_loop = inline.in_running_loop()
    if run.settings.mode is ASYNC or run.plan.needs_loop:
        inline.refuse_running_loop(run.name)
    pool: Any = None if run.outer is None else modules.get("fast_dag.drive.threads")
    if pool is None:
        _drive(run)
    else:
        with pool.place_lent():
            _drive(run)


def _drive(run: Run) -> None:
    if _needs_one_thread(run):
        inline.drive(run)
    elif run.settings.mode is ASYNC:
        from fast_dag.drive import aio

        aio.drive_here(run)
    else:
        from fast_dag.drive import blocking

        blocking.drive(run)


def _needs_one_thread(run: Run) -> bool:
    """Whether the caller's thread is all that a run needs: always in sequential mode, unless it has
    a time to keep or goes elsewhere; with threads, where never two nodes could run at once."""
    settings, plan = run.settings, run.plan
    if settings.timeout is not None or settings.executor is not None:
        return False
    if settings.mode is PARALLEL:
        return plan.is_line and not inline.in_running_loop()
    return settings.mode is SEQUENTIAL and not plan.goes_elsewhere


def _refuse_processes(run: Run) -> None:
    """Raise before anything has run where nodes go to other processes, which cannot be."""
    settings, plan = run.settings, run.plan
    own = settings.mode is PROCESS or (plan.goes_elsewhere and plan.uses_processes)
    if not own and settings.executor is None:
        return
    if own:
        from fast_dag.drive import processes

        processes.refuse()
    if settings.executor is not None:
        from fast_dag.drive import executor

        executor.refuse(settings.executor)


async def drive_async(run: Run) -> None:
    """Execute a run on the caller's event loop, without blocking it."""
    _refuse_processes(run)
    from fast_dag.drive import aio

    await aio.drive(run)
