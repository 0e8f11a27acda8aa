"""Random machines: the loop of its own that sequential mode has, the general path, every other
mode, and single steps give the same results, histories and errors."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from fast_dag import FSM, ExecutionError, FSMReturn, MaxCyclesError
from tests.properties import tries
from tests.ways import EXECUTE, MACHINES

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_dag import Run

NAMES = ("a", "b", "c", "d")
SHAPES: dict[str, Callable[[Any], Callable[..., Any]]] = {
    "none": lambda act: lambda: act(0),
    "one": lambda act: lambda n: act(n),
    "optional": lambda act: lambda n=7: act(n),
    "keyword": lambda act: lambda *, n=7: act(n),
    "two": lambda act: lambda n, k: act(n if isinstance(n, int) else k),
    "star": lambda act: lambda *args: act(args[0] if args else 3),
    "more": lambda act: lambda **more: act(more.get("n", 5)),
    "context": lambda act: lambda context, n=2: act(n + context.cycle_count),
}


@dataclass(frozen=True)
class Act:
    """What a state does: how it takes `n`, what it makes of it, and where it goes."""

    shape: str
    wrap: str
    leads: str | None
    stops_at: int
    fails_at: int
    is_async: bool

    def function(self) -> Callable[..., Any]:
        def act(n: Any) -> Any:
            number = (n if isinstance(n, int) else len(n)) + 1
            if number % 11 == self.fails_at:
                raise ValueError(f"{number} is bad")
            value = {"whole": number, "key": {"n": number}, "text": "x" * number, "none": None}
            passed = value[self.wrap]
            if number % 7 == self.stops_at:
                return FSMReturn("nowhere", passed, stop=True)
            return passed if self.leads == "plain" else FSMReturn(self.leads, passed)

        if not self.is_async:
            return SHAPES[self.shape](act)

        async def later(n: int) -> Any:
            return act(n)

        return SHAPES[self.shape](later)


acts = st.builds(
    Act,
    shape=st.sampled_from(list(SHAPES)),
    wrap=st.sampled_from(["whole", "whole", "key", "text", "none"]),
    leads=st.sampled_from(["plain", None, *NAMES, *NAMES, "last", "nowhere"]),
    stops_at=st.sampled_from([-1, -1, -1, 3]),
    fails_at=st.sampled_from([-1, -1, -1, 5]),
    is_async=st.sampled_from([False, False, False, True]),
)
guards = st.sampled_from([None, None, "even", "small", "never", "raises"])


def guard(kind: str | None) -> Callable[..., Any] | None:
    def size(value: Any) -> int:
        return value if isinstance(value, int) else len(value or ())

    def raises(value: Any) -> bool:
        raise LookupError("guard")

    made: dict[str | None, Any] = {
        None: None,
        "even": lambda value: size(value) % 2 == 0,
        "small": lambda value, context: size(value) < 5,
        "never": lambda: False,
        "raises": raises,
    }
    return made[kind]


@st.composite
def machines(draw: st.DrawFn) -> Callable[..., FSM]:
    """Makers of one random machine; each call makes another of the same kind."""
    names = NAMES[: draw(st.integers(1, len(NAMES)))]
    states = {name: draw(acts) for name in names}
    targets = [*names, "last"]
    ways = draw(
        st.lists(st.tuples(st.sampled_from(names), st.sampled_from(targets), guards), max_size=9)
    )
    options: dict[str, Any] = {
        "max_cycles": draw(st.integers(1, 12)),
        "on_max_cycles": draw(st.sampled_from(["raise", "stop"])),
        "keep_history": draw(st.sampled_from([None, None, 1, 3])),
    }

    def make() -> FSM:
        fsm = FSM("random", names[0], ["last"], **options)
        for name, act in states.items():
            fsm.add_state(name, act.function())
        # It takes all inputs, so that none is refused.
        fsm.add_state("last", lambda n=0, k=0: (n, k))
        for source, target, kind in ways:
            fsm.add_transition(source, target, guard(kind))
        return fsm

    return make


def told(run: Run) -> dict[str, Any]:
    """All there is to see of a run, but for times."""
    error = run.exception()
    metrics = dict(run.metrics)
    metrics["node_times"] = list(metrics["node_times"])
    del metrics["execution_time"]
    return {
        "value": run.value,
        "status": run.status,
        "statuses": run.statuses,
        "results": run.results,
        "errors": {name: (type(each), str(each)) for name, each in run.errors.items()},
        "error": error
        and (type(error), str(error), error.node_name, error.attempts, repr(error.__cause__)),
        "views": (run.state_history, run.current_state, run.cycle_count, run.is_terminated),
        "visits": {
            f"{name}.{number}": run.get(f"{name}.{number}", "none")
            for name in run.statuses
            for number in range(13)
        },
        "metrics": metrics,
    }


def hooked(fsm: FSM, hook: str) -> FSM:
    """The same machine with a hook that does nothing."""
    if hook == "state hook":
        fsm.add_state_hook(lambda fsm: None)
    else:
        fsm.set_default_hooks(cleanup=lambda: None)
    return fsm


@given(machines(), st.sampled_from([{}, {"n": 1}, {"n": 4, "k": 2}]))
@tries(100)
def test_all_ways_to_run_a_machine_give_the_same(
    make: Callable[[], FSM], inputs: dict[str, Any]
) -> None:
    fsm = make()
    try:
        expected = told(fsm.execute(inputs))
    except ValueError:  # it lacks an input
        return
    assert told(fsm.execute(inputs)) == expected
    for way in (*MACHINES, "timed"):
        assert told(EXECUTE[way](make(), inputs)) == expected, way
    for hook in ("state hook", "node hook"):
        assert told(hooked(make(), hook).execute(inputs)) == expected, hook


@given(machines(), st.sampled_from([{"n": 1}, {"n": 4, "k": 2}]))
@tries(100)
def test_steps_give_the_same_as_a_run(make: Callable[[], FSM], inputs: dict[str, Any]) -> None:
    try:
        ran = make().execute(inputs)
    except ValueError:
        return
    fsm = make()
    live = fsm.start(inputs)
    error: ExecutionError | None = None
    assert fsm.max_cycles is not None
    try:
        for step in itertools.islice(live, fsm.max_cycles):  # each step is a drive of its own
            assert step.value == live.value
    except ExecutionError as raised:
        error = raised
    expected = ran.exception()
    if isinstance(expected, MaxCyclesError):
        assert live.next_state is not None
        expected = None
    assert type(error) is type(expected)
    if error is not None:
        assert str(error) == str(expected)
    assert live.value == ran.value
    assert live.results == ran.results
    assert (live.state_history, live.cycle_count) == (ran.state_history, ran.cycle_count)
    assert live.state == ran.current_state
