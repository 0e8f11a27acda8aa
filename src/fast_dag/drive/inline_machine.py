"""Sequential machines without hooks, policies, nested workflows or observers."""

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
    from fast_dag.run.machine_execution import MachineExecution

_GATHERING: Final = {StateBinding.gather.__code__}

_PLAIN: Final[frozenset[type]] = frozenset(
    {int, float, complex, bool, str, bytes, tuple, list, set, frozenset}
)
"""Types that are not mappings: a state with one parameter takes their values whole."""


def drive_straight_machine(
    execution: MachineExecution,
    waiter: Waiter,
    outcome_of: Callable[[MachineExecution, int, Waiter], Outcome],
) -> None:
    """Call one state after another. A state whose successor is known at once is only recorded. The
    execution finishes the others: other returns, the end, failures."""
    ready = execution.begin(eager=False)
    now, inputs, context = execution.machine_state, execution.inputs, execution.context
    steps, find, results = execution.plan.steps, execution.plan.topology.index.get, context.results
    clock, plain, call_id, visits = perf_counter, set(_PLAIN), execution.call_id, now.visits
    while ready and not execution.stopped:
        state, value, started, outcome = ready[0], now.value, clock(), None
        visited, before = visits.append, len(visits)
        try:
            for _ in repeat(None, execution.free_steps):
                now.running = state
                step = steps[state]
                intake = step.intake
                if intake.takes_none:
                    result = step.call()
                elif intake.takes_one is not None and type(value) in plain:
                    result = step.call(value)
                else:
                    if value is not None and not isinstance(value, Mapping):
                        plain.add(type(value))
                    args, kwargs = intake.gather(value, {}, inputs, context, call_id)
                    result = step.call(*args, **kwargs)
                if type(result) is CoroutineType:
                    result = waiter.wait(result)
                if type(result) is FSMReturn:
                    target, passed_on = result.next_state, result.value
                    following = find(target) if type(target) is str and not result.stop else None
                else:
                    following = None if issubclass(type(result), FSMReturn) else step.onward
                    passed_on = result
                if following is None or step.is_terminal:
                    outcome = Outcome(True, result)
                    break
                ended = clock()
                visited((state, passed_on, started, ended))
                results[step.name] = passed_on
                state, value, started = following, passed_on, ended
        except failures() as error:
            outcome = Outcome(False, error, attempts=int(not raised_in(_GATHERING, error)))
        finally:
            if len(visits) > before:
                now.move_to(state, value)
        if outcome is None:
            if execution.free_steps > 0:
                ready = [state]
                continue
            started = clock()
            outcome = outcome_of(execution, state, waiter)
        ready = execution.finish(state, outcome, started)
