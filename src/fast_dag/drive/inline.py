"""Sequential runs in the caller's thread, one node at a time."""

from __future__ import annotations

from contextlib import suppress
from contextvars import copy_context
from functools import partial
from heapq import heapify, heappop, heappush
from sys import modules
from time import perf_counter, time
from types import CoroutineType

from fast_dag._frames import trace_of
from fast_dag._waits import Heartbeat, sleep
from fast_dag.call.effects import LOOKED_AT, ONE_SHOT, Outcome, interpret
from fast_dag.errors import ValidationError, failures, is_a, raised_in
from fast_dag.plan.binding import Binding
from fast_dag.plan.plan import LIMITED, MANY, PARTED, SURROUNDED
from fast_dag.plan.step import Step
from fast_dag.run.dag_execution import DagExecution
from fast_dag.run.execution import current

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import Runner
    from collections.abc import Callable, Coroutine, Sequence
    from contextvars import Context as Variables
    from typing import Any, Final

    from fast_dag.call.effects import Attempt, Effects
    from fast_dag.run.execution import Execution
    from fast_dag.run.limits import Claim

_GATHERING: Final = {Step.gather.__code__, Binding.gather.__code__}


def drive(execution: Execution) -> None:
    """Execute a run, in a copy of the caller's contextvars."""
    waiter = Waiter()
    try:
        copy_context().run(_drive, execution, waiter)
    finally:
        try:
            waiter.close()
        finally:
            execution.tell_end()


def _drive(execution: Execution, waiter: Waiter) -> None:
    execution.open()
    token = current.set(execution)
    try:
        try:
            if not execution.is_straight:
                _drive_by_schedule(execution, waiter, execution.begin(eager=False))
            elif isinstance(execution, DagExecution):
                _drive_straight(execution, waiter)
            else:  # machines load when used
                from fast_dag.drive.inline_machine import drive_straight_machine

                drive_straight_machine(execution, waiter, _outcome_of)  # type: ignore[arg-type]
            _release(execution, waiter, None)
        except BaseException:
            _release(execution, waiter, "cancelled")
            execution.close("cancelled")
            raise
        execution.close()
    finally:
        current.reset(token)


def _release(execution: Execution, waiter: Waiter, status: str | None) -> None:
    """Close all open resources, even if closing one is interrupted; then raise the first
    interruption."""
    interrupted: BaseException | None = None
    while (effects := execution.release(status)) is not None:
        try:
            waiter.carry_out(effects, _no_function, copy_context())
        except BaseException as error:
            interrupted = interrupted or error
    if interrupted is not None:
        raise interrupted


def _no_function() -> None: ...


# The straight line.


def _drive_straight(execution: DagExecution, waiter: Waiter) -> None:  # noqa: PLR0912, PLR0915  see below
    """Call the nodes in order. No schedule is needed, because every node runs unless one fails.

    The loops differ only in the call. The two frequent kinds of call are written out because that
    takes a fifth less time than one loop that tests each call."""
    results, stamps, clock = execution.results, execution.record.stamps, perf_counter
    stamp, looked_at = stamps.append, LOOKED_AT
    plain: type | None = None  # the type of the last value, if such values only have to be stored
    stamp(clock())
    try:
        for how, calls in execution.plan.line:
            if how == 1:
                for name, call, first in calls:
                    value = call(results[first])
                    if type(value) is not plain:
                        plain = type(value)
                        if looked_at[plain]:
                            value, plain = _looked_at(execution, waiter, name, value), None
                    results[name], value = value, None  # so that deleting the result frees it
                    stamp(clock())
            elif how == 2:
                for name, call, first, second in calls:
                    value = call(results[first], results[second])
                    if type(value) is not plain:
                        plain = type(value)
                        if looked_at[plain]:
                            value, plain = _looked_at(execution, waiter, name, value), None
                    results[name], value = value, None
                    stamp(clock())
            else:
                for name, what, keys in calls:
                    if how is MANY:
                        value = what(*[results[key] for key in keys])
                    elif how is SURROUNDED:
                        if keys is None:
                            attempt = what.gather(execution)
                        else:
                            attempt = [results[keys]], {}
                        value = what.policy.call_inline(execution, attempt, what.call, waiter)
                    elif how is LIMITED:
                        value = _called_limited(execution, what, waiter)
                    elif how is PARTED:
                        value = _parted(execution, waiter, what, what.gather(execution), what.call)
                    else:
                        args, kwargs = what.binding.gather(execution)
                        value = what.call(*args, **kwargs)
                    if type(value) is not plain:
                        plain = type(value)
                        if looked_at[plain]:
                            value, plain = _looked_at(execution, waiter, name, value), None
                    results[name], value = value, None
                    stamp(clock())
    except failures() as error:
        index, ready = execution.leave_straight()
        outcome = _outcome_of_line(execution, index, error)
        ready += execution.finish(index, outcome, stamps[-1])
    else:
        return
    # Outside of the `except` block, or the error would become the `__context__` of later ones.
    if not execution.stopped:
        _drive_by_schedule(execution, waiter, ready)


def _called_limited(execution: DagExecution, step: Step, waiter: Waiter) -> Any:
    """The call of a node that uses limits, with all that surrounds it."""
    args, kwargs = attempt = step.gather(execution)
    call = partial(_limited, execution, step)
    if step.is_parted:
        return _parted(execution, waiter, step, attempt, call)
    if step.policy is None:
        return call(*args, **kwargs)
    return step.policy.call_inline(execution, attempt, call, waiter)


class _FailedError(Exception):
    """Carries the failed Outcome of a call out of the straight line."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome


def _parted(
    execution: DagExecution,
    waiter: Waiter,
    step: Step,
    attempt: Attempt,
    call: Callable[..., Any],
) -> Any:
    """The result of a node of which several nodes take one part."""
    args, kwargs = attempt
    if step.policy is not None:
        value = step.policy.call_inline(execution, attempt, call, waiter)
    else:
        value = call(*args, **kwargs)
    if type(value) is CoroutineType:
        value = waiter.wait(value)
    outcome = value if type(value) is Outcome else Outcome(True, value)
    if outcome.ok:
        try:
            execution.refuse_shared_parts(step.index, outcome.value)
        except ValidationError as error:
            raise _FailedError(Outcome(False, error, outcome.attempts)) from None
    return value


def _looked_at(execution: DagExecution, waiter: Waiter, name: str, value: Any) -> Any:
    """The value to store for a result of a special type: a coroutine is awaited, an iterator may
    have only one consumer, and an Outcome has the value in it. Raises _FailedError for a failed
    Outcome."""
    outcome = value if type(value) is Outcome else Outcome(True, value)
    if not outcome.ok:
        raise _FailedError(outcome)
    value = outcome.value
    if type(value) is CoroutineType:
        value = waiter.wait(value)
    if ONE_SHOT[type(value)]:
        try:
            execution.refuse_sharing(execution.plan.topology.index[name], value)
        except ValidationError as error:
            raise _FailedError(Outcome(False, error, outcome.attempts)) from None
    execution.record.count(name, outcome)
    return value


def _outcome_of_line(execution: DagExecution, index: int, error: BaseException) -> Outcome:
    """The outcome of the node that raised `error`. A KeyError raised by the straight line itself
    means that a result was deleted, and the node was not called."""
    if is_a(error, _FailedError):
        return error.outcome
    traceback = trace_of(error)
    if is_a(error, KeyError) and traceback is not None and traceback.tb_next is None:
        try:
            execution.plan.steps[index].gather(execution)
        except KeyError as missing:
            error = missing
    return Outcome(False, error, attempts=int(not raised_in(_GATHERING, error)))


# By the schedule.


def _drive_by_schedule(execution: Execution, waiter: Waiter, ready: list[int]) -> None:
    """Call ready nodes until there are none; of several, the one that was defined first."""
    heapify(ready)
    steps, is_told = execution.plan.steps, execution.is_told_each
    while ready and not execution.stopped:
        index = heappop(ready)
        started = perf_counter()
        if steps[index].plain is not None and not is_told:
            following = _finish_plainly(execution, index, started, waiter)
        else:
            execution.note_start(index)
            execution.deliver()
            outcome = _outcome_of(execution, index, waiter)
            following = execution.finish(index, outcome, started)
            execution.deliver()
        for each in following:
            heappush(ready, each)


def _finish_plainly(execution: Execution, index: int, started: float, waiter: Waiter) -> list[int]:
    """Make a plain call and finish its node, with little more than the call itself, and the commit
    if there is a store. Returns the nodes that may start now."""
    store, args, began = execution.store, None, 0.0
    if store is None:
        args = execution.start_plain(index)
    elif store.begin(execution, index) is None:
        began, args = time(), execution.start_plain(index)
    if args is None:
        return execution.finish(index, _outcome_of(execution, index, waiter), started)
    try:
        value = execution.plan.steps[index].call(*args)
        if type(value) is CoroutineType:
            value = waiter.wait(value)
    except failures() as error:
        outcome = Outcome(False, error)
    else:
        if store is None and not ONE_SHOT[type(value)]:
            return execution.finish_plain(index, value, started, perf_counter())
        outcome = Outcome(True, value)
    if store is not None:
        outcome = execution.committed_now(index, outcome, began)
    return execution.finish(index, outcome, started)


def _outcome_of(execution: Execution, index: int, waiter: Waiter) -> Outcome:
    """Start a node, make its call and what surrounds it, and return the outcome."""
    try:
        attempt = execution.start(index)
    except failures() as error:
        outcome = Outcome(False, error, attempts=0)
        if execution.store is None:
            return outcome
        effects = execution.effects_of_failed(index, outcome)
        return waiter.carry_out(effects, _no_function, copy_context())
    step = execution.plan.steps[index]
    call = step.call
    if step.uses:
        call = partial(_limited, execution, step)
    elif step.nests:
        call = partial(_nested_value, execution, index, waiter)
    if not execution.is_surrounded(step):
        return _called(call, *attempt, waiter)
    policy = execution.sole_policy(step)
    if policy is not None:
        value = policy.call_inline(execution.host_of(index), attempt, call, waiter)
        return value if type(value) is Outcome else Outcome(True, value)
    return _carried_out(execution, index, attempt, call, waiter)


def _carried_out(
    execution: Execution, index: int, attempt: Attempt, call: Callable[..., Any], waiter: Waiter
) -> Outcome:
    variables = copy_context()
    try:
        return waiter.carry_out(execution.effects_of(index, attempt), call, variables)
    except BaseException:
        left = execution.effects_of_cancelled(execution.plan.steps[index])
        if left is not None:
            waiter.carry_out(left, call, variables)
        raise


def _called(
    func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], waiter: Waiter
) -> Outcome:
    try:
        value = func(*args, **kwargs)
        if type(value) is CoroutineType:
            value = waiter.wait(value)
    except failures() as error:
        return Outcome(False, error)
    return Outcome(True, value)


def _limited(execution: Execution, step: Step, /, *args: Any, **kwargs: Any) -> Any:
    """Call a node with the units of limits that it uses, for which this thread waits."""
    claim = execution.claim_of(step.index)
    if not claim.take():
        if in_running_loop():
            raise claim.blocks()
        claim.wait()
    claim.enter()
    try:
        value = step.call(*args, **kwargs)
    except BaseException:
        claim.leave()
        raise
    if type(value) is CoroutineType and not in_running_loop():  # where nobody may await it
        return _giving_back(value, claim)
    claim.leave()
    return value


async def _giving_back(coroutine: Coroutine[Any, Any, Any], claim: Claim) -> Any:
    try:
        return await coroutine
    finally:
        claim.leave()


def _nested_value(
    execution: Execution, index: int, waiter: Waiter, /, *args: Any, **inputs: Any
) -> Any:
    """The value of a nested workflow, or of a map. Raises the error that ended it."""
    child = execution.nested(index, (args, inputs))
    if child.is_map:
        from fast_dag.drive.inline_map import drive_map  # for those who map

        drive_map(child, waiter, _outcome_of)  # type: ignore[arg-type]
    else:
        _drive(child, waiter)
    error = child.failure()
    if error is not None:
        raise error
    return child.value


class _Noted:
    """Awaits a coroutine and keeps its outcome apart from the task. The signal module formats the
    handler of a Runner, and with it the task and its outcome, whose `repr` may be slow or raise."""

    is_begun = False
    is_given_up = False
    value: Any = None
    error: Exception | None = None

    async def watch(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Await the coroutine, unless it was given up before."""
        if not self.is_given_up:
            self.is_begun = True
            try:
                self.value = await coroutine
            except Exception as error:
                self.error = error

    def result(self) -> Any:
        """The coroutine's result, once. Raises the exception that it raised."""
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback refers to this frame
        return self.value


class Waiter:
    """Runs coroutines in a thread that has no event loop. It makes one loop, when first needed."""

    _runner: Runner | None = None
    _beat: Heartbeat

    def close(self) -> None:
        """Close the loop, if there is one."""
        if self._runner is not None:
            self._beat.stop()
            self._runner.close()

    def wait(self, coroutine: Coroutine[Any, Any, Any], variables: Variables | None = None) -> Any:
        """The coroutine's result. It runs in the contextvars `variables`, by default in a copy of
        the thread's."""
        if self._runner is None:
            import asyncio  # slow to import, and sync workflows do not need it

            try:
                refuse_running_loop(
                    "this workflow", "has a hook, resource or function that gives a coroutine"
                )
            except ValidationError:
                coroutine.close()
                raise
            self._runner = asyncio.Runner()
            self._beat = Heartbeat(self._runner.get_loop())
        from fast_dag.drive.interruptions import LeftToTheLoop  # sync workflows need none

        noted = _Noted()
        try:
            with LeftToTheLoop():
                self._runner.run(noted.watch(coroutine), context=variables or copy_context())
        except BaseException as error:
            is_begun = noted.is_begun
            if not is_begun:
                noted.is_given_up = True
                coroutine.close()
            if is_a(error, KeyboardInterrupt):
                self._settle()
            elif not is_begun and not is_a(error, Exception):
                # Of Ctrl-C just before the coroutine begins, the Runner makes a CancelledError.
                raise KeyboardInterrupt from None
            raise
        return noted.result()

    def _settle(self) -> None:
        """Have the loop forget that it was to stop, which an interruption may have left in it. The
        coroutines that clean up would be stopped instead."""
        from asyncio import sleep  # it goes round once, and so ends after the loop has stopped

        assert self._runner is not None
        with suppress(RuntimeError):
            self._runner.run(sleep(0))

    def carry_out(
        self, effects: Effects, func: Callable[..., Any], variables: Variables
    ) -> Outcome:
        """Carry out the effects of a call of `func` in this thread, in these contextvars."""

        def wait(coroutine: Coroutine[Any, Any, Any], is_inside: bool = False) -> Any:
            return self.wait(coroutine, None if is_inside else variables)

        return interpret(effects, func, variables.run, wait, sleep)


def in_running_loop() -> bool:
    """Whether the caller is inside of a running event loop."""
    # No loop can run unless asyncio was imported; another thread may be at that just now.
    running = getattr(modules.get("asyncio"), "_get_running_loop", None)
    return running is not None and running() is not None


def refuse_running_loop(name: str, why: str) -> None:
    """Raise ValidationError if the caller is inside of a running event loop, which a run that waits
    would block."""
    if in_running_loop():
        raise ValidationError(
            f"{name!r} {why}, and running it here would block the running event loop; "
            "use `await dag.run_async(...)`; every method that waits has such a twin (step_async)"
        )
