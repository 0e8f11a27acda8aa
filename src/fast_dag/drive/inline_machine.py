"""A machine in the caller's thread, where nothing is to be done but to call states."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import repeat
from time import perf_counter
from types import CoroutineType
from typing import TYPE_CHECKING, Final

from fast_dag.call.effects import Outcome
from fast_dag.errors import failures, raised_in
from fast_dag.plan.state_binding import StateBinding
from fast_dag.returns import FSMReturn

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_dag.call.policy import Waiter
    from fast_dag.run.machine_execution import FsmRun

_GATHERING: Final = {StateBinding.gather.__code__}

_PLAIN: Final[frozenset[type]] = frozenset(
    {int, float, complex, bool, str, bytes, tuple, list, set, frozenset}
)
"""Values that are no mappings: a state of one parameter takes them whole."""


def drive_straight_machine(
    run: FsmRun, waiter: Waiter, perform: Callable[[FsmRun, int, Waiter], Outcome]
) -> None:
    """Call one state after another. What leads on by itself is recorded and no more; the run judges
    and settles what is to be decided about, the end, and failures."""
    ready = run.begin(eager=False)
    now, inputs, context, results = (
        run.machine_state,
        run.inputs,
        run.context,
        run.results,
    )
    plain_states, state_bindings, find = (
        run.plan.plain_states,
        run.plan.state_bindings,
        run.plan.topology.index.get,
    )
    clock, plain = perf_counter, set(_PLAIN)
    while ready and not run.stopped:
        state, value, started, outcome = ready[0], now.value, clock(), None
        visited = now.visits.append
        try:
            for _ in repeat(None, run.free_steps):
                now.running = state
                name, func, takes_none, parameter, onward, is_last = plain_states[state]
                if takes_none:
                    result = func()
                elif parameter is not None and type(value) in plain:
                    result = func(value)
                else:
                    if value is not None and not isinstance(value, Mapping):
                        plain.add(type(value))
                    args, kwargs = state_bindings[state].gather(value, {}, inputs, context)
                    result = func(*args, **kwargs)
                kind = type(result)
                if kind is CoroutineType:
                    result = waiter.wait(result)
                    kind = type(result)
                if kind is FSMReturn:
                    target, passed_on = result.next_state, result.value
                    leads = type(target) is str and not result.stop
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
        except failures() as error:
            outcome = Outcome(False, error, attempts=int(not raised_in(_GATHERING, error)))
        finally:
            now.move_to(state, value)
        if outcome is None:
            if run.free_steps:
                ready = [state]
                continue
            started = clock()
            outcome = perform(run, state, waiter)
        ready = run.settle(state, run.judge(state, outcome), started)
