"""Sequential mode: the caller's thread, one node at a time."""

from __future__ import annotations

from contextvars import copy_context
from heapq import heapify, heappop, heappush
from sys import modules
from time import perf_counter, sleep
from types import CoroutineType

from fast_dag.call.effects import LOOKED_AT, ONE_SHOT, Outcome, interpret
from fast_dag.errors import ValidationError, failures, is_a, raised_in, trace_of
from fast_dag.plan.binding import GeneralBinding, PlainBinding
from fast_dag.plan.plan import AROUND, MANY
from fast_dag.run.dag_execution import DagRun
from fast_dag.run.run import current_run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import Runner
    from collections.abc import Callable, Coroutine, Sequence
    from contextvars import Context as Variables
    from typing import Any, Final

    from fast_dag.call.effects import Effects
    from fast_dag.run.run import Run

_LOOKED_AT: Final = LOOKED_AT | {Outcome}
_GATHERING: Final = {PlainBinding.gather.__code__, GeneralBinding.gather.__code__}


def drive(run: Run) -> None:
    """Execute a run from its start to its end, in a copy of the caller's contextvars."""
    waiter = Waiter()
    try:
        copy_context().run(_drive, run, waiter)
    finally:
        try:
            waiter.close()
        finally:
            run.tell_end()


def _drive(run: Run, waiter: Waiter) -> None:
    run.open()
    token = current_run.set(run)
    try:
        try:
            if run.observers is not None or run.resources is not None or not run.plan.is_straight:
                _drive_by_schedule(run, waiter, run.begin(eager=False))
            elif isinstance(run, DagRun):
                _drive_straight(run, waiter)
            else:
                from fast_dag.drive.inline_machine import (
                    drive_straight_machine,  # with machines, that load when used
                )

                drive_straight_machine(run, waiter, _perform)  # type: ignore[arg-type]  # no DAG's run is one's
            _release(run, waiter, None)
        except BaseException:
            _release(run, waiter, "cancelled")
            run.close("cancelled")
            raise
        run.close()
    finally:
        current_run.reset(token)


def _release(run: Run, waiter: Waiter, status: str | None) -> None:
    """Close the run's resources, if any is open; all of them, whatever interrupts that."""
    interrupted: BaseException | None = None
    while (effects := run.release(status)) is not None:
        try:
            waiter.carry_out(effects, _no_function, copy_context())
        except BaseException as error:
            interrupted = interrupted or error
    if interrupted is not None:
        raise interrupted


def _drive_straight(run: DagRun, waiter: Waiter) -> None:  # noqa: PLR0912  see below
    """Call each node in order: no statuses to keep, for each node ran or did not.

    The loops are one and the same but for the call. Written out, the frequent ones take a fifth
    less time than one that looks at each node's arity."""
    results, stamps, clock = run.results, run.record.stamps, perf_counter
    stamp, looked_at = stamps.append, _LOOKED_AT
    plain: type | None = None  # the class of the last value that is simply stored
    stamp(clock())
    try:
        for arity, steps in run.plan.stretches:
            if arity == 1:
                for name, func, first in steps:
                    value = func(results[first])
                    if type(value) is not plain:
                        plain = type(value)
                        if plain in looked_at:
                            value, plain = _looked_at(run, waiter, name, value), None
                    results[name], value = value, None  # who deletes it there frees it
                    stamp(clock())
            elif arity == 2:
                for name, func, first, second in steps:
                    value = func(results[first], results[second])
                    if type(value) is not plain:
                        plain = type(value)
                        if plain in looked_at:
                            value, plain = _looked_at(run, waiter, name, value), None
                    results[name], value = value, None  # who deletes it there frees it
                    stamp(clock())
            else:
                for name, func, where in steps:
                    if arity == MANY:
                        value = func(*[results[key] for key in where])
                    elif arity == AROUND:
                        policy, sole, binding = where
                        attempt = binding.gather(run) if sole is None else ([results[sole]], {})
                        value = policy.call_inline(run, attempt, func, waiter)
                    else:
                        args, kwargs = where.gather(run)
                        value = func(*args, **kwargs)
                    if type(value) is not plain:
                        plain = type(value)
                        if plain in looked_at:
                            value, plain = _looked_at(run, waiter, name, value), None
                    results[name], value = value, None  # who deletes it there frees it
                    stamp(clock())
    except failures() as error:
        failed, started = run.leave_straight(), stamps[-1]
        verdict = run.judge(failed, _outcome_of(run, failed, error))
        run.settle(failed, verdict, started)
    else:
        return
    # No longer while that error is handled: it is no context of those that come.
    if not run.stopped:
        _drive_by_schedule(run, waiter, run.ready())


def deliver(run: Run) -> None:
    """Tell a run's observers, if it has any, what was noted for them."""
    if run.observers is not None:
        run.observers.deliver()


class _FailedError(Exception):
    """A call with something around it failed."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome


def _looked_at(run: DagRun, waiter: Waiter, name: str, value: Any) -> Any:
    """A result that is not simply stored: there is more to tell of it, coroutines are waited for,
    iterators have one taker."""
    outcome = value if type(value) is Outcome else Outcome(True, value)
    if not outcome.ok:
        raise _FailedError(outcome)
    value = outcome.value
    if type(value) is CoroutineType:
        value = waiter.wait(value)
    if type(value) in ONE_SHOT:
        try:
            run.refuse_sharing(run.plan.topology.index[name], value)
        except ValidationError as error:
            raise _FailedError(Outcome(False, error, outcome.attempts)) from None
    run.record.count(outcome)
    return value


def _outcome_of(run: DagRun, index: int, error: BaseException) -> Outcome:
    """How the node ended that raised this. A KeyError of the line's own lookup means that a result
    was deleted, and nothing called."""
    if is_a(error, _FailedError):
        return error.outcome
    traceback = trace_of(error)
    if is_a(error, KeyError) and traceback is not None and traceback.tb_next is None:
        try:
            run.plan.bindings[index].gather(run)
        except KeyError as told:
            error = told
    return Outcome(False, error, attempts=int(not raised_in(_GATHERING, error)))


def _drive_by_schedule(run: Run, waiter: Waiter, ready: list[int]) -> None:
    """Of the ready nodes always the one defined first."""
    heapify(ready)
    plain = run.plan.plain if run.observers is None else ()
    while ready and not run.stopped:
        index = heappop(ready)
        started = perf_counter()
        if plain and plain[index] is not None:
            following = _plainly(run, index, started, waiter)
        else:
            run.note_start(index)
            deliver(run)
            verdict = run.judge(index, _perform(run, index, waiter))
            following = run.settle(index, verdict, started)
            deliver(run)
        for each in following:
            heappush(ready, each)


def _plainly(run: Run, index: int, started: float, waiter: Waiter) -> list[int]:
    """Make a plain call, with little more than the call itself; the nodes that may start now."""
    args = run.start_plain(index)
    if args is None:
        outcome = _perform(run, index, waiter)
    else:
        try:
            value = run.plan.nodes[index].func(*args)
            if type(value) is CoroutineType:
                value = waiter.wait(value)
        except failures() as error:
            outcome = Outcome(False, error)
        else:
            if type(value) not in ONE_SHOT:
                return run.settle_plain(index, value, started, perf_counter())
            outcome = Outcome(True, value)
    return run.settle(index, run.judge(index, outcome), started)


def _perform(run: Run, index: int, waiter: Waiter) -> Outcome:
    try:
        attempt = run.start(index)
    except failures() as error:
        return Outcome(False, error, attempts=0)
    node = run.plan.nodes[index]

    def nested(**inputs: Any) -> Any:
        return _nested(run.child(index, inputs), waiter)

    func: Callable[..., Any] = node.func if node.workflow is None else nested
    if index in run.plan.policies:
        value = run.plan.policies[index].call_inline(run, attempt, func, waiter)
        return value if type(value) is Outcome else Outcome(True, value)
    return _outcome(func, *attempt, waiter)


def _no_function() -> None: ...


def _outcome(
    func: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    waiter: Waiter,
    variables: Variables | None = None,
) -> Outcome:
    try:
        if variables is None:
            value = func(*args, **kwargs)
        else:
            value = variables.run(func, *args, **kwargs)
        if type(value) is CoroutineType:
            value = waiter.wait(value, variables)
    except failures() as error:
        return Outcome(False, error)
    return Outcome(True, value)


def _nested(child: Run, waiter: Waiter) -> Any:
    _drive(child, waiter)
    child.raise_for_error()
    return child.value


class Waiter:
    """Runs coroutines for a thread that has no event loop: one loop, made when first needed."""

    _runner: Runner | None = None

    def close(self) -> None:
        """End the loop, if there is one."""
        if self._runner is not None:
            self._runner.close()

    def wait(self, coroutine: Coroutine[Any, Any, Any], variables: Variables | None = None) -> Any:
        """The coroutine's result; `variables` are the contextvars it works in, a copy of the
        thread's when not given."""
        if self._runner is None:
            import asyncio  # slow to import, and sync workflows do without

            try:
                refuse_running_loop("this workflow")
            except ValidationError:
                coroutine.close()
                raise
            self._runner = asyncio.Runner()
        return self._runner.run(coroutine, context=variables or copy_context())

    def carry_out(
        self, effects: Effects, func: Callable[..., Any], variables: Variables
    ) -> Outcome:
        """Carry the effects of a call of `func` out in this thread, in those contextvars."""
        return interpret(effects, func, variables.run, lambda it: self.wait(it, variables), sleep)


def in_running_loop() -> bool:
    """Whether the caller is inside of a running event loop."""
    asyncio: Any = modules.get("asyncio")  # who runs a loop has imported it
    return asyncio is not None and asyncio._get_running_loop() is not None


def refuse_running_loop(name: str) -> None:
    """Raise ValidationError inside a running event loop, which a run that waits would block."""
    if in_running_loop():
        raise ValidationError(
            f"{name!r} has async nodes and was run inside a running event loop, which that would "
            "block; use `await dag.run_async(...)` here"
        )
