"""Which driver executes a run."""

from __future__ import annotations

from sys import modules

from fast_dag.drive import inline
from fast_dag.run.settings import ASYNC, PARALLEL, PROCESS, SEQUENTIAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fast_dag.run.execution import Execution


def drive(execution: Execution) -> None:
    """Execute a run while the caller waits.

    Raises ValidationError if the run needs an event loop and the caller is inside of one,
    MissingExtraError if it needs other processes and cloudpickle is not installed."""
    _refuse_processes(execution)
    execution.holds_loop = inline.in_running_loop()
    if execution.settings.mode is ASYNC or execution.needs_loop:
        why = "is run with mode='async'"
        if execution.needs_loop:
            why = "has async nodes" if execution.plan.needs_loop else "has async hooks"
        inline.refuse_running_loop(execution.name, why)
    # A place is lent only if the driver of the run around it was imported, with all that it needs.
    places = None if execution.outer is None else modules.get("fast_dag.drive.places")
    lent = getattr(places, "place_lent", None)
    if lent is None:
        _drive(execution)
    else:
        with lent():
            _drive(execution)


def _drive(execution: Execution) -> None:
    if _needs_one_thread(execution):
        inline.drive(execution)
    elif execution.settings.mode is ASYNC:
        from fast_dag.drive import aio

        aio.drive_here(execution)
    else:
        from fast_dag.drive import blocking

        blocking.drive(execution)


def _needs_one_thread(execution: Execution) -> bool:
    """Whether the caller's thread can execute the run alone. It can in sequential mode, unless the
    run has timeouts or nodes that run elsewhere, and in parallel mode if no two nodes could ever
    run at once."""
    settings, plan = execution.settings, execution.plan
    if settings.timeout is not None or settings.executor is not None:
        return False
    if settings.mode is PARALLEL:
        return plan.is_line and not inline.in_running_loop()
    return settings.mode is SEQUENTIAL and not plan.goes_elsewhere


def _refuse_processes(execution: Execution) -> None:
    """Raise, before anything has run, if nodes need other processes and these cannot be used."""
    settings, plan = execution.settings, execution.plan
    own = settings.mode is PROCESS or (plan.goes_elsewhere and plan.uses_processes)
    if not own and settings.executor is None:
        return
    if own:
        from fast_dag.drive import processes

        processes.refuse()
    if settings.executor is not None:
        from fast_dag.drive import executor

        executor.refuse(settings.executor)


async def drive_async(execution: Execution) -> None:
    """Execute a run on the caller's event loop, without blocking it."""
    _refuse_processes(execution)
    from fast_dag.drive import aio

    await aio.drive(execution)
