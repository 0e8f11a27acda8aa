"""Sequential mode: the caller's thread, one node at a time."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from contextvars import copy_context
from heapq import heapify, heappop, heappush
from itertools import repeat
from time import perf_counter, sleep
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final

from fast_dag.call.effects import LOOKED_AT, ONE_SHOT, Outcome, interpret
from fast_dag.dag_run import DagRun
from fast_dag.errors import ValidationError
from fast_dag.fsm_run import FsmRun
from fast_dag.intake import Intake
from fast_dag.plan import AROUND, MANY
from fast_dag.returns import FSMReturn
from fast_dag.run import current_run

if TYPE_CHECKING:
    from asyncio import Runner
    from collections.abc import Callable, Sequence
    from contextvars import Context as Variables

    from fast_dag.call.effects import Effects
    from fast_dag.run import Run

_PLAIN: Final[frozenset[type]] = frozenset(
    {int, float, complex, bool, str, bytes, tuple, list, set, frozenset}
)
"""Values that are no mappings: a state of one parameter takes them whole."""


def drive(run: Run) -> None:
    """Execute a run from its start to its end, in a copy of the caller's contextvars."""
    try:
        with Waiter() as waiter:
            copy_context().run(_drive, run, waiter)
    finally:
        run.tell_end()


def _drive(run: Run, waiter: Waiter) -> None:
    run.open()
    token = current_run.set(run)
    try:
        if run.observers is None and run.plan.is_straight and isinstance(run, DagRun):
            _go_straight(run, waiter)
        elif run.observers is None and run.plan.is_straight and isinstance(run, FsmRun):
            _go_round(run, waiter)
        else:
            _go_by_schedule(run, waiter, run.begin(eager=False))
        _release(run, waiter, "completed")
    except BaseException:
        _release(run, waiter, "cancelled")
        run.close("cancelled")
        raise
    finally:
        current_run.reset(token)
    run.close()


def _release(run: Run, waiter: Waiter, status: str) -> None:
    """Close the run's resources, if any is open."""
    effects = run.release(status)
    if effects is not None:
        waiter.carry_out(effects, _no_function, copy_context())


def _go_straight(run: DagRun, waiter: Waiter) -> None:  # noqa: PLR0912  see below
    """Call each node in order: no statuses to keep, for each node ran or did not.

    The loops are one and the same but for the call. Written out, the frequent ones take a fifth
    less time than one that looks at each node's arity."""
    results, stamps, clock = run.results, run.record.stamps, perf_counter
    stamp, looked_at = stamps.append, LOOKED_AT
    plain: type | None = None  # the class of the last value that is simply stored
    stamp(clock())
    try:
        for arity, steps in run.plan.stretches:
            if arity == 1:
                for name, func, first in steps:
                    value = func(results[first])
                    if value.__class__ is not plain:
                        plain = value.__class__
                        if plain in looked_at:
                            value, plain = _looked_at(run, waiter, name, value), None
                    results[name] = value
                    stamp(clock())
            elif arity == 2:
                for name, func, first, second in steps:
                    value = func(results[first], results[second])
                    if value.__class__ is not plain:
                        plain = value.__class__
                        if plain in looked_at:
                            value, plain = _looked_at(run, waiter, name, value), None
                    results[name] = value
                    stamp(clock())
            else:
                for name, func, where in steps:
                    if arity == MANY:
                        value = func(*[results[key] for key in where])
                    elif arity == AROUND:
                        outcome = _surrounded(run, where, func, waiter)
                        if not outcome.ok:
                            raise _FailedError(outcome)
                        if outcome.attempts != 1 or outcome.cached is not None:
                            _count(run, where, outcome)
                        value = outcome.value
                    else:
                        args, kwargs = where.gather(run)
                        value = func(*args, **kwargs)
                    if value.__class__ is not plain:
                        plain = value.__class__
                        if plain in looked_at:
                            value, plain = _looked_at(run, waiter, name, value), None
                    results[name] = value
                    stamp(clock())
    except Exception as error:
        failed, started = run.leave_straight(), stamps[-1]
        verdict = run.judge(failed, _outcome_of(run, failed, error))
        run.settle(failed, verdict, started)
    else:
        return
    # No longer while that error is handled: it is no context of those that come.
    if not run.stopped:
        _go_by_schedule(run, waiter, run.ready())


def _go_round(run: FsmRun, waiter: Waiter) -> None:
    """Call one state after another. What leads on by itself is recorded and no more; the run judges
    and settles what is to be decided about, the end, and failures."""
    ready = run.begin(eager=False)
    walk, inputs, context, results = run.walk, run.inputs, run.context, run.results
    turns, intakes, find = run.plan.turns, run.plan.intakes, run.plan.topology.index.get
    clock, plain = perf_counter, set(_PLAIN)
    while ready and not run.stopped:
        state, value, started, outcome = ready[0], walk.value, clock(), None
        visited = walk.visits.append
        try:
            for _ in repeat(None, run.free_steps):
                walk.running = state
                name, func, takes_none, parameter, onward, is_last = turns[state]
                if takes_none:
                    result = func()
                elif parameter is not None and value.__class__ in plain:
                    result = func(value)
                else:
                    if value is not None and not isinstance(value, Mapping):
                        plain.add(value.__class__)
                    args, kwargs = intakes[state].gather(value, {}, inputs, context)
                    result = func(*args, **kwargs)
                kind = result.__class__
                if kind is CoroutineType:
                    result = waiter.wait(result)
                    kind = result.__class__
                if kind is FSMReturn:
                    target, passed_on = result.next_state, result.value
                    leads = target.__class__ is str and not result.stop
                    following = find(target) if leads else None
                else:
                    following = None if isinstance(result, FSMReturn) else onward
                    passed_on = result
                if following is None or is_last:
                    outcome = Outcome(True, result)
                    break
                ended = clock()
                visited((state, passed_on, started, ended))
                results[name] = passed_on
                state, value, started = following, passed_on, ended
        except Exception as error:
            outcome = Outcome(False, error, attempts=int(not _was_gathering(error)))
        finally:
            walk.move_to(state, value)
        if outcome is None:
            if run.free_steps:
                ready = [state]
                continue
            started = clock()
            outcome = _perform(run, state, waiter)
        ready = run.settle(state, run.judge(state, outcome), started)


def _was_gathering(error: Exception) -> bool:
    """Whether a round failed before its state was called."""
    below = error.__traceback__.tb_next if error.__traceback__ is not None else None
    return below is not None and below.tb_frame.f_code is Intake.gather.__code__


def deliver(run: Run) -> None:
    """Tell a run's observers, if it has any, what was noted for them."""
    if run.observers is not None:
        run.observers.deliver()


class _FailedError(Exception):
    """A call with something around it failed."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome


def _count(run: DagRun, index: int, outcome: Outcome) -> None:
    """Count the attempts of a call on the straight line; of one that fails by its result, later."""
    if outcome.value.__class__ in ONE_SHOT:
        try:
            run.refuse_sharing(index, outcome.value)
        except ValidationError as error:
            raise _FailedError(Outcome(False, error, outcome.attempts)) from None
    run.record.count(outcome)


def _looked_at(run: DagRun, waiter: Waiter, name: str, value: Any) -> Any:
    """A result that is not simply stored: coroutines are waited for, iterators have one taker."""
    if value.__class__ is CoroutineType:
        value = waiter.wait(value)
    if value.__class__ in ONE_SHOT:
        run.refuse_sharing(run.plan.topology.index[name], value)
    return value


def _outcome_of(run: DagRun, index: int, error: Exception) -> Outcome:
    """A KeyError of the line's own lookup means that a result was deleted, and nothing called."""
    if isinstance(error, _FailedError):
        return error.outcome
    traceback = error.__traceback__
    if isinstance(error, KeyError) and traceback is not None and traceback.tb_next is None:
        try:
            run.plan.bindings[index].gather(run)
        except KeyError as told:
            return Outcome(False, told, attempts=0)
    return Outcome(False, error)


def _go_by_schedule(run: Run, waiter: Waiter, ready: list[int]) -> None:
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
            if value.__class__ is CoroutineType:
                value = waiter.wait(value)
        except Exception as error:
            outcome = Outcome(False, error)
        else:
            if value.__class__ not in ONE_SHOT:
                return run.settle_plain(index, value, started, perf_counter())
            outcome = Outcome(True, value)
    return run.settle(index, run.judge(index, outcome), started)


def _perform(run: Run, index: int, waiter: Waiter) -> Outcome:
    try:
        args, kwargs = run.start(index)
    except Exception as error:
        return Outcome(False, error, attempts=0)
    node = run.plan.nodes[index]

    def nested(**inputs: Any) -> Any:
        return _nested(run.child(index, inputs), waiter)

    func: Callable[..., Any] = node.func if node.workflow is None else nested
    if index in run.plan.around:
        return _around(run, index, func, args, kwargs, waiter)
    return _outcome(func, args, kwargs, waiter)


def _surrounded(run: DagRun, index: int, func: Callable[..., Any], waiter: Waiter) -> Outcome:
    """A call on the straight line, with what surrounds it."""
    try:
        args, kwargs = run.plan.bindings[index].gather(run)
    except Exception as error:
        return Outcome(False, error, attempts=0)
    return _around(run, index, func, args, kwargs, waiter)


def _around(
    run: Run,
    index: int,
    func: Callable[..., Any],
    args: list[Any],
    kwargs: dict[str, Any],
    waiter: Waiter,
) -> Outcome:
    around = run.plan.around[index]
    # Hooks and attempts of one call share a copy of the contextvars.
    variables = copy_context()
    try:
        return around.made_here(run, (args, kwargs), func, variables, waiter)
    except BaseException:
        waiter.carry_out(around.of_cancelled(run), func, variables)
        raise


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
        if value.__class__ is CoroutineType:
            value = waiter.wait(value, variables)
    except Exception as error:
        return Outcome(False, error)
    return Outcome(True, value)


def _nested(child: Run, waiter: Waiter) -> Any:
    _drive(child, waiter)
    child.raise_for_error()
    return child.value


class Waiter:
    """Runs coroutines for a thread that has no event loop: one loop, made when first needed."""

    def __init__(self) -> None:
        self._runner: Runner | None = None

    def __enter__(self) -> Waiter:
        return self

    def __exit__(self, *exc_info: object) -> None:
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


def refuse_running_loop(name: str) -> None:
    """Raise ValidationError inside a running event loop, which a run that waits would block."""
    import asyncio

    if asyncio._get_running_loop() is not None:
        raise ValidationError(
            f"{name!r} has async nodes and was run inside a running event loop, which that would "
            "block; use `await dag.run_async(...)` here"
        )
