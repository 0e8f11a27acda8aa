"""Random live machines driven at random, against a small model: dictionaries and a position."""

from __future__ import annotations

import itertools
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

pytestmark = pytest.mark.stress

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
        "on_error": st.dictionaries(names, names, max_size=2),
        "leads_failures": st.sampled_from([None, None, *NAMES]),
        "is_async": st.booleans(),
    }
)


trouble = st.sampled_from(["", "", "", "states fail", "conditions fail"])


class NotNowError(Exception):
    """What a state or condition raises that fails."""


def condition(rest: int | None, broken: list[bool], is_async: bool) -> Callable[..., Any] | None:
    if rest is None:
        return None

    def holds(value: int) -> bool:
        if broken[0]:
            raise NotNowError
        return value % 3 == rest

    async def holds_later(value: int) -> bool:
        return holds(value)

    return holds_later if is_async else holds


def built(spec: Spec, failing: list[bool], broken: list[bool]) -> FSM:
    fsm = FSM(
        "random",
        "a",
        spec["terminal"],
        max_cycles=MOST,
        on_max_cycles="raise" if spec["raises"] else "stop",
        keep_history=spec["keep"],
        on_error=spec["leads_failures"],
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
        fsm.add_state(name, state(name), on_error=spec["on_error"].get(name))
    for source, target, event, rest in spec["ways"]:
        asks = condition(rest, broken, spec["is_async"])
        fsm.add_transition(source, target, asks, event=event)
    return fsm


class Model:
    """What must come of it."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.history: list[tuple[str, Any]] = []
        self.next: str | None = "a"
        self.given: int | None = None
        self.value: Any = None
        self.waits = self.is_open = self.halted = self.broken = self.fails = False
        self.queue: list[tuple[str, int | None, bool]] = []
        self.sent: tuple[str, int | None, bool] | None = None  # it comes last

    def ways(self, *, by_event: bool) -> list[tuple[str, str, str | None, int | None]]:
        at = self.history[-1][0]
        return [way for way in self.spec["ways"] if way[0] == at and (way[2] is None) != by_event]

    def target(self, ways: list[Any]) -> str | None:
        for _, target, _, rest in ways:
            if rest is not None and self.broken:
                raise NotNowError
            if rest is None or self.value % 3 == rest:
                return str(target)
        return None

    def events(self) -> list[str]:
        if not self.waits:
            return []
        return list(dict.fromkeys(str(way[2]) for way in self.ways(by_event=True)))

    def goes_on(self) -> bool:
        return self.next is not None or self.is_open or (self.waits and bool(self.queue))

    def taken(self, event: str) -> str | None:
        """Where an event leads that is listened to."""
        return self.target([way for way in self.ways(by_event=True) if way[2] == event])

    def visit(self) -> type[Exception] | None:
        """Execute the next state; the kind of error that comes of it."""
        assert self.next is not None
        name = self.next
        if self.fails:
            self.history.append((name, NotNowError))
            default = self.spec["leads_failures"]
            leads = self.spec["on_error"].get(name, None if default == name else default)
            self.next = leads or name
            return None if leads else ExecutionError
        number = self.given if self.given is not None else self.value
        self.value = (number or 0) + self.spec["adds"][name]
        self.given, self.next = None, None
        self.history.append((name, self.value))
        return self.route()

    def route(self) -> type[Exception] | None:
        name = self.history[-1][0]
        self.is_open = False
        goes = self.spec["goes"].get(name)
        if goes == "stops" or name in self.spec["terminal"]:
            return None
        try:
            self.next = goes or self.target(self.ways(by_event=False))
        except NotNowError:
            self.is_open = True
            return ExecutionError
        if self.next is None:
            self.waits = bool(self.ways(by_event=True))
            return None if self.waits else InvalidTransitionError
        return None

    def take(self, *, at_limit: bool) -> type[Exception] | None:
        """Take a queued event, if there is one."""
        while self.queue:
            event, given, ignored = self.queue[0]
            is_sent, target = self.queue[0] is self.sent, None
            if is_sent and event not in self.events():
                return None
            if event in self.events():
                if at_limit:
                    self.halted = True
                    return MaxCyclesError if self.spec["raises"] else None
                try:
                    target = self.taken(event)
                except NotNowError:
                    return ExecutionError
            self.queue.pop(0)
            if target is not None:
                self.next, self.waits, self.given = target, False, given
                return None
            if is_sent or not ignored:
                return InvalidTransitionError
        return None

    def drive(self, steps: int | None = None) -> type[Exception] | None:
        """What one call does; the kind of error that comes of it."""
        executed, self.halted = 0, False
        error = self.route() if self.is_open else None
        while error is None:
            at_limit = steps is None and executed >= MOST
            if self.waits:
                error = self.take(at_limit=at_limit)
            if error is not None or self.next is None or executed == steps:
                break
            if at_limit:
                self.halted = True
                return MaxCyclesError if self.spec["raises"] else None
            error = self.visit()
            executed += 1
        self.executed = executed
        return error


class Driven(RuleBasedStateMachine):
    """Steps, runs, events, failures and snapshots in any order; with `restores`, each step is done
    on a machine that was restored from a snapshot just before."""

    restores = False
    options: dict[str, Any] = {}  # noqa: RUF012

    @initialize(spec=specs)
    def begin(self, spec: Spec) -> None:
        if self.restores:  # asks async conditions later, so that it stands elsewhere till then
            spec = {**spec, "is_async": False}
        self.failing, self.broken = [False], [False]
        self.spec = spec
        self.model = Model(spec)
        self.live: Machine = self.built().start(**self.options)

    def built(self) -> FSM:
        return built(self.spec, self.failing, self.broken)

    def restored(self) -> None:
        saved = json.loads(json.dumps(self.live.snapshot(check=True)))
        self.live = self.built().restore(saved, **self.options)
        assert json.loads(json.dumps(self.live.snapshot())) == saved

    def go(
        self, call: Callable[[], Any], expect: Callable[[], type[Exception] | None], how: str = ""
    ) -> Any:
        """Do the same to the machine and to the model, while states or conditions fail."""
        if self.restores:
            self.restored()
        self.failing[0] = self.model.fails = how == "states fail"
        self.broken[0] = self.model.broken = how == "conditions fail"
        try:
            error = expect()
            if error is None:
                return call()
            with pytest.raises(error) as caught:
                call()
            assert type(caught.value) is error
            return None
        finally:
            self.failing[0] = self.broken[0] = self.model.broken = False

    @rule(how=trouble)
    def step(self, how: str) -> None:
        model = self.model

        def expect() -> type[Exception] | None:
            if not model.goes_on():
                return InvalidTransitionError
            error = model.drive(1)
            return InvalidTransitionError if error is None and not model.executed else error

        visits = len(model.history)
        step = self.go(lambda: self.live.step(), expect, how)
        if step is not None:
            assert step == (model.history[visits][0], model.value, model.next)

    @rule(how=trouble)
    def run_on(self, how: str) -> None:
        value = self.go(lambda: self.live.run(), self.model.drive, how)
        if value is not None:
            assert value == self.model.value

    @rule(how=trouble)
    def iterate(self, how: str) -> None:
        model, told = self.model, self.live.cycle_count

        def expect() -> type[Exception] | None:
            for _ in range(MOST):
                if not model.goes_on():
                    break
                error = model.drive(1)
                if error is not None or not model.executed:
                    return error
            return None

        steps = self.go(lambda: list(itertools.islice(self.live, MOST)), expect, how)
        if steps is not None:
            assert [each.state for each in steps] == [name for name, _ in model.history[told:]]

    @rule(
        event=st.sampled_from(EVENTS),
        n=st.none() | st.integers(0, 20),
        ignore=st.booleans(),
        how=trouble,
    )
    def send(self, event: str, n: int | None, ignore: bool, how: str) -> None:
        model = self.model
        sent = (event, n, bool(ignore))
        unknown = None if ignore else InvalidTransitionError

        def expect() -> type[Exception] | None:
            if not model.goes_on() and event not in model.events():
                return unknown
            model.sent = sent
            model.queue.append(sent)
            error = model.drive()
            model.sent = None
            if model.queue and model.queue[-1] is sent:
                is_kept = model.halted and error is None and event in self.known
                if not is_kept:
                    model.queue.pop()
                    error = error or unknown
            return error

        data = {} if n is None else {"n": n}
        on_unknown = "ignore" if ignore else "raise"
        value = self.go(lambda: self.live.send(event, on_unknown=on_unknown, **data), expect, how)  # type: ignore[arg-type]
        if value is not None:
            assert value == model.value

    @property
    def known(self) -> set[str]:
        return {way[2] for way in self.spec["ways"] if way[2] is not None}

    @rule(event=st.sampled_from(EVENTS), n=st.none() | st.integers(0, 20), ignore=st.booleans())
    def post(self, event: str, n: int | None, ignore: bool) -> None:
        model = self.model

        def expect() -> type[Exception] | None:
            is_done = model.next is None and not model.waits and not model.is_open
            if event not in self.known or is_done:
                return None if ignore else InvalidTransitionError
            model.queue.append((event, n, ignore))
            return None

        data = {} if n is None else {"n": n}
        self.go(lambda: self.live.post(event, "ignore" if ignore else None, **data), expect)

    @rule(event=st.sampled_from(EVENTS))
    def ask(self, event: str) -> None:
        expected = event in self.model.events() and self.model.taken(event) is not None
        assert self.live.can(event) == expected

    @rule()
    def snapshot_and_restore(self) -> None:
        if not self.spec["is_async"]:
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
        assert live.state == (visits[-1] if visits else "a")
        assert live.next_state == model.next
        assert live.value == model.value
        assert live.cycle_count == len(visits)
        assert live.state_history == visits[-(self.spec["keep"] or len(visits) or 1) :]
        assert live.waiting == model.waits
        assert live.queue == [(event, {} if n is None else {"n": n}) for event, n, _ in model.queue]
        assert live.events == model.events()
        assert live.done == (model.next is None and not model.waits and not model.is_open)
        latest = {name: value for name, value in model.history if value is not NotNowError}
        assert live.results == latest


class DrivenByTheGeneralPath(Driven):
    options = {"progress": lambda name, status, fraction: None}  # noqa: RUF012


class DrivenTellingOfSteps(Driven):
    """Each visit is told of, with a snapshot that goes on behind it."""

    def begin_telling(self, live: Machine, step: Any) -> None:
        assert live.snapshot(history=False)["history"] == []
        self.told.append(step.state)

    @initialize(spec=specs)
    def begin(self, spec: Spec) -> None:
        self.told: list[str] = []
        self.options = {"on_step": self.begin_telling}
        super().begin(spec)

    @invariant()
    def was_told_of_all(self) -> None:
        assert self.told == [name for name, _ in self.model.history]


class DrivenOverSnapshots(Driven):
    restores = True


how_long = settings(tries(60), stateful_step_count=25)
TestDriven = Driven.TestCase
TestDriven.settings = how_long
TestDrivenByTheGeneralPath = DrivenByTheGeneralPath.TestCase
TestDrivenByTheGeneralPath.settings = how_long
TestDrivenTellingOfSteps = DrivenTellingOfSteps.TestCase
TestDrivenTellingOfSteps.settings = how_long
TestDrivenOverSnapshots = DrivenOverSnapshots.TestCase
TestDrivenOverSnapshots.settings = how_long
