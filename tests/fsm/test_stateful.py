"""Random live machines driven at random, against a small model: dictionaries and a position."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from fast_dag import (
    FSM,
    ExecutionError,
    FSMReturn,
    InvalidTransitionError,
    Machine,
    MaxCyclesError,
)
from tests.properties import tries

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = ("a", "b", "c", "d", "e")
EVENTS = ("push", "pull", "ring")
MOST = 25

# A machine as data. A state adds its `adds` to the number it is given (that of an event first, else
# that of the state before, else 0). It `goes` to a state, "stops", or leaves that to the `ways`:
# (source, target, event, condition); a condition asks whether the sum leaves that rest by 3.
Spec = dict[str, Any]

names = st.sampled_from(NAMES)
specs = st.fixed_dictionaries(
    {
        "adds": st.fixed_dictionaries({name: st.integers(0, 9) for name in NAMES}),
        "goes": st.dictionaries(names, st.sampled_from([*NAMES, "stops"]), max_size=2),
        "terminal": st.sets(names, max_size=1),
        "ways": st.lists(
            st.tuples(
                names,
                names,
                st.sampled_from([None, *EVENTS, *EVENTS]),
                st.sampled_from([None, None, 0, 1, 2]),
            ),
            min_size=4,
            max_size=14,
        ),
        "keep": st.sampled_from([None, None, 1, 3]),
        "raises": st.booleans(),
    }
)


class NotNowError(Exception):
    """What a state raises that fails."""


def condition(rest: int | None) -> Callable[[int], bool] | None:
    return None if rest is None else lambda value: value % 3 == rest


def built(spec: Spec, failing: list[bool]) -> FSM:
    fsm = FSM(
        "random",
        "a",
        spec["terminal"],
        max_cycles=MOST,
        on_max_cycles="raise" if spec["raises"] else "stop",
        keep_history=spec["keep"],
    )

    def state(name: str) -> Callable[..., Any]:
        adds, goes = spec["adds"][name], spec["goes"].get(name)

        def function(n: int = 0) -> Any:
            if failing[0]:
                raise NotNowError
            value = n + adds
            if goes == "stops":
                return FSMReturn(value=value, stop=True)
            return value if goes is None else FSMReturn(goes, value)

        return function

    for name in NAMES:
        fsm.add_state(name, state(name))
    for source, target, event, rest in spec["ways"]:
        fsm.add_transition(source, target, condition(rest), event=event)
    return fsm


class Model:
    """What must come of it."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.history: list[tuple[str, Any]] = []
        self.next: str | None = "a"
        self.given: int | None = None
        self.value: Any = None
        self.waits = False

    @property
    def spent(self) -> bool:
        return len(self.history) >= MOST

    def ways(self, *, by_event: bool) -> list[tuple[str, str, str | None, int | None]]:
        at = self.history[-1][0]
        return [way for way in self.spec["ways"] if way[0] == at and (way[2] is None) != by_event]

    def target(self, ways: list[Any]) -> str | None:
        for _, target, _, rest in ways:
            if rest is None or self.value % 3 == rest:
                return str(target)
        return None

    def step(self, *, fails: bool) -> type[Exception] | None:
        """Execute the next state; the kind of error that comes of it."""
        assert self.next is not None
        name = self.next
        if fails:
            self.history.append((name, NotNowError))
            return ExecutionError
        number = self.given if self.given is not None else self.value
        self.value = (number or 0) + self.spec["adds"][name]
        self.given, self.next = None, None
        self.history.append((name, self.value))
        goes = self.spec["goes"].get(name)
        if goes == "stops" or name in self.spec["terminal"]:
            return None
        self.next = goes or self.target(self.ways(by_event=False))
        if self.next is None:
            self.waits = bool(self.ways(by_event=True))
            return None if self.waits else InvalidTransitionError
        return None

    def events(self) -> list[str]:
        if not self.waits or (self.spent and not self.spec["raises"]):
            return []
        return list(dict.fromkeys(str(way[2]) for way in self.ways(by_event=True)))


class Driven(RuleBasedStateMachine):
    """Steps, runs, events, failures and snapshots in any order; with `restores`, each step is done
    on a machine that was restored from a snapshot just before."""

    restores = False
    options: dict[str, Any] = {}  # noqa: RUF012

    @initialize(spec=specs)
    def begin(self, spec: Spec) -> None:
        self.failing = [False]
        self.spec = spec
        self.model = Model(spec)
        self.live: Machine = built(spec, self.failing).start(**self.options)

    def restored(self) -> None:
        saved = json.loads(json.dumps(self.live.snapshot()))
        self.live = built(self.spec, self.failing).restore(saved, **self.options)
        assert json.loads(json.dumps(self.live.snapshot())) == saved

    def go(self, call: Callable[[], Any], error: type[Exception] | None) -> Any:
        if self.restores:
            self.restored()
        if error is None:
            return call()
        with pytest.raises(error) as caught:
            call()
        assert type(caught.value) is error
        return None

    def expect_run(self, fails: bool = False) -> type[Exception] | None:
        """What `run` does to the model."""
        model = self.model
        while model.next is not None:
            if model.spent:
                return MaxCyclesError if self.spec["raises"] else None
            error = model.step(fails=fails)
            if error is not None:
                return error
        return None

    @rule(fails=st.sampled_from([False, False, False, True]))
    def step(self, fails: bool) -> None:
        model = self.model
        error: type[Exception] | None
        if model.next is None:
            error = InvalidTransitionError
        elif model.spent:
            error = MaxCyclesError if self.spec["raises"] else InvalidTransitionError
        else:
            error = model.step(fails=fails)
        self.failing[0] = fails
        step = self.go(lambda: self.live.step(), error)
        self.failing[0] = False
        if error is None:
            assert step == (model.history[-1][0], model.value, model.next)

    @rule(fails=st.sampled_from([False, False, False, True]))
    def run_on(self, fails: bool) -> None:
        error = self.expect_run(fails)
        self.failing[0] = fails
        value = self.go(lambda: self.live.run(), error)
        self.failing[0] = False
        if error is None:
            assert value == self.model.value

    @rule(event=st.sampled_from(EVENTS), n=st.none() | st.integers(0, 20), ignore=st.booleans())
    def send(self, event: str, n: int | None, ignore: bool) -> None:
        model = self.model
        error = self.expect_run()
        if error is None:
            heard = model.events()
            if event not in heard:
                error = None if ignore else InvalidTransitionError
            elif model.spent:
                error = MaxCyclesError
            else:
                ways = [way for way in model.ways(by_event=True) if way[2] == event]
                target = model.target(ways)
                if target is None:
                    error = InvalidTransitionError
                else:
                    model.next, model.waits, model.given = target, False, n
                    error = self.expect_run()
        data = {} if n is None else {"n": n}
        how = "ignore" if ignore else "raise"
        value = self.go(lambda: self.live.send(event, on_unknown=how, **data), error)  # type: ignore[arg-type]
        if error is None:
            assert value == model.value

    @rule()
    def snapshot_and_restore(self) -> None:
        self.restored()

    @precondition(lambda self: self.model.history)
    @rule(data=st.data())
    def look_back(self, data: st.DataObject) -> None:
        visits = self.model.history
        keep = self.spec["keep"] or len(visits)
        index = data.draw(st.integers(0, len(visits) - 1))
        name, value = visits[index]
        path = f"{name}.{sum(each == name for each, _ in visits[:index])}"
        if index < len(visits) - keep:
            with pytest.raises(KeyError, match="no longer kept"):
                self.live[path]
        elif value is NotNowError:
            with pytest.raises(KeyError, match="failed in this visit"):
                self.live[path]
        else:
            assert self.live[path] == value

    @invariant()
    def is_where_the_model_is(self) -> None:
        live, model = self.live, self.model
        visits = [name for name, _ in model.history]
        stopped = model.spent and not self.spec["raises"]
        assert live.state == (visits[-1] if visits else "a")
        assert live.next_state == model.next
        assert live.value == model.value
        assert live.cycle_count == len(visits)
        assert live.state_history == visits[-(self.spec["keep"] or len(visits) or 1) :]
        assert live.waiting == (model.waits and not stopped)
        assert live.events == model.events()
        assert live.done == (stopped or (model.next is None and not model.waits))
        latest = {name: value for name, value in model.history if value is not NotNowError}
        assert live.results == latest


class DrivenByTheGeneralPath(Driven):
    options = {"progress": lambda name, status, fraction: None}  # noqa: RUF012


class DrivenOverSnapshots(Driven):
    restores = True


how_long = settings(tries(60), stateful_step_count=25)
TestDriven = Driven.TestCase
TestDriven.settings = how_long
TestDrivenByTheGeneralPath = DrivenByTheGeneralPath.TestCase
TestDrivenByTheGeneralPath.settings = how_long
TestDrivenOverSnapshots = DrivenOverSnapshots.TestCase
TestDrivenOverSnapshots.settings = how_long
