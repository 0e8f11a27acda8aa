"""Claims in line: who gets units, and when; compared with a model that goes through all of them."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_dag import DAG, Limits, Rate, ValidationError
from fast_dag.run import limits as module
from fast_dag.run.limits import RISES_IN, Claim
from tests.patience import LONG, timeouts
from tests.properties import tries


class Host:
    """An execution with one node, of that priority, which was started in the call of `claim`."""

    def __init__(self, priority: int = 0, claim: Claim | None = None) -> None:
        self.priority = priority
        self.claim = claim

    def path_of(self, index: int) -> str:
        return "node"

    def priority_of(self, index: int) -> int:
        return self.priority


def claim(limits: Limits, priority: int = 0, outer: Claim | None = None, **uses: int) -> Claim:
    wants = [(limits._units[name], count) for name, count in uses.items()]
    return Claim(wants, Host(priority, outer), 0)


class Waiting:
    """A claim in line that counts how often it is told of its units."""

    def __init__(
        self, limits: Limits, priority: int = 0, outer: Claim | None = None, **uses: int
    ) -> None:
        self.claim = claim(limits, priority, outer, **uses)
        self.told = 0
        self.at_once = self.claim.take(self.tell)

    def tell(self) -> None:
        assert self.claim.is_held
        self.told += 1

    @property
    def has(self) -> bool:
        assert self.told + self.at_once == self.claim.is_held
        return self.claim.is_held


def test_units_that_come_back_go_to_who_came_first() -> None:
    limits = Limits(db=1)
    first, second, third = (Waiting(limits, db=1) for _ in range(3))
    assert [first.has, second.has, third.has] == [True, False, False]
    first.claim.give_back()
    assert [second.has, third.has] == [True, False]
    second.claim.give_back()
    assert third.has
    third.claim.give_back()


def test_higher_priority_comes_first() -> None:
    limits = Limits(db=1)
    holder, low, high = Waiting(limits, db=1), Waiting(limits, db=1), Waiting(limits, 5, db=1)
    holder.claim.give_back()
    assert [low.has, high.has] == [False, True]
    low.claim.give_back()
    high.claim.give_back()


def test_large_claim_is_not_starved_by_small_ones() -> None:
    limits = Limits(db=3)
    holder, large = Waiting(limits, db=1), Waiting(limits, db=3)
    small = Waiting(limits, db=1)
    assert [large.has, small.has] == [False, False]
    holder.claim.give_back()
    assert [large.has, small.has] == [True, False]
    large.claim.give_back()
    assert small.has
    small.claim.give_back()


def test_claim_that_waits_for_one_limit_does_not_keep_all_of_another() -> None:
    limits = Limits(db=1, api=2)
    holder = Waiting(limits, db=1)
    both, api, more = Waiting(limits, db=1, api=1), Waiting(limits, api=1), Waiting(limits, api=1)
    assert [both.has, api.has, more.has] == [False, True, False]
    holder.claim.give_back()
    assert both.has
    for each in (both, api, more):
        each.claim.give_back()


def test_claim_that_leaves_the_line_lets_others_pass() -> None:
    limits = Limits(db=2)
    holder, large, small = Waiting(limits, db=1), Waiting(limits, db=2), Waiting(limits, db=1)
    assert not small.has
    large.claim.give_back()
    assert small.has
    assert large.told == 0
    holder.claim.give_back()
    small.claim.give_back()


def test_claims_that_were_passed_over_get_units_when_another_of_their_group_asks_again() -> None:
    limits, group = Limits(db=1), object()
    holder = Waiting(limits, db=1)
    first, second, third = (Waiting(limits, db=1) for _ in range(3))
    for each in (first, second, third):
        each.claim.group = group
    holder.claim.give_back()
    first.claim.give_back(passes_over=group)  # no slot is free
    third.claim.give_back()  # it leaves the line, and the second gets what the first gave back
    assert second.claim.is_held
    assert not first.claim.take(first.tell)  # there is a slot now, and no unit
    second.claim.give_back(passes_over=group)
    assert not first.claim.is_held
    assert not second.claim.take()  # there is a slot for it, too, but the first comes first
    assert not second.claim.take(second.tell)
    assert first.claim.is_held
    first.claim.give_back()
    assert second.claim.is_held
    second.claim.give_back()


def test_claim_that_waits_rises_by_one_priority_in_30_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0  # after weeks of uptime a reading is not as exact as these steps
    monkeypatch.setattr(module, "monotonic", lambda: now)
    limits = Limits(db=1)
    holder, low = Waiting(limits, db=1), Waiting(limits, 0, db=1)
    now += RISES_IN - 1
    soon = Waiting(limits, 1, db=1)
    now += 2
    late = Waiting(limits, 1, db=1)
    order = []
    for _ in range(3):
        holder.claim.give_back()
        holder = next(
            each for each in (low, soon, late) if each not in order and each.claim.is_held
        )
        order.append(holder)
    holder.claim.give_back()
    assert order == [soon, low, late]


def test_bucket_begins_full_and_fills_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0  # after weeks of uptime a reading is not as exact as these steps
    monkeypatch.setattr(module, "monotonic", lambda: now)
    limits = Limits(api=Rate(10, per=1.0, burst=2))
    taken = []
    for step in (0, 0, 0, 0.1, 0.05, 0.05, 5.0, 0, 0):
        now += step
        each = claim(limits, api=1)
        taken.append(each.take())
        each.give_back()
    assert taken == [True, True, False, True, False, True, True, True, False]


def test_who_waits_for_a_rate_is_told_when_there_is_enough() -> None:
    limits = Limits(api=Rate(100, burst=1))
    assert claim(limits, api=1).take()
    told = threading.Event()
    waiting = claim(limits, api=1)
    if not waiting.take(told.set):
        assert told.wait(LONG)
    assert waiting.is_held


def test_nobody_keeps_the_time_once_nobody_waits() -> None:
    limits = Limits(api=Rate(1, per=3600))
    assert claim(limits, api=1).take()
    waiting = claim(limits, api=1)
    assert not waiting.take(lambda: None)
    keeper = module._timekeeper
    assert keeper is not None
    waiting.give_back()
    keeper.join(LONG)
    assert not keeper.is_alive()


# The model: it goes through all that wait, in order, with nothing but the rule.


class Model:
    def __init__(self, units: dict[str, int]) -> None:
        self.free = dict(units)
        self.waiting: list[tuple[int, int, dict[str, int]]] = []  # (-priority, number, wants)
        self.held: dict[int, dict[str, int]] = {}

    def take(self, number: int, priority: int, wants: dict[str, int]) -> None:
        self.waiting.append((-priority, number, wants))
        self.grant()

    def end(self, number: int) -> None:
        for name, count in self.held.pop(number, {}).items():
            self.free[name] += count
        self.waiting = [each for each in self.waiting if each[1] != number]
        self.grant()

    def grant(self) -> None:
        left = dict(self.free)
        for each in sorted(self.waiting, key=lambda each: each[:2]):
            _, number, wants = each
            if all(left[name] >= count for name, count in wants.items()):
                self.waiting.remove(each)
                self.held[number] = wants
                for name, count in wants.items():
                    self.free[name] -= count
            for name, count in wants.items():
                left[name] -= count


UNITS = {"a": 1, "b": 3, "c": 5}
wants = st.dictionaries(st.sampled_from(sorted(UNITS)), st.integers(1, 5), min_size=1).map(
    lambda asked: {name: min(count, UNITS[name]) for name, count in asked.items()}
)
events = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(-2, 2), wants),
        st.tuples(st.just("end"), st.integers(0, 40), st.none()),
    ),
    max_size=60,
)


@pytest.mark.hypothesis
@given(events)
@tries(300)
def test_claims_get_what_the_model_gives(happened: list[Any]) -> None:
    limits, model, claims = Limits(**UNITS), Model(UNITS), []
    for what, value, asked in happened:
        if what == "take":
            model.take(len(claims), value, asked)
            claims.append(Waiting(limits, value, **asked))
        elif claims:
            number = value % len(claims)
            model.end(number)
            claims[number].claim.give_back()
        held = {number for number, each in enumerate(claims) if each.claim.is_held}
        assert held == model.held.keys()
        assert {name: units.free for name, units in limits._units.items()} == model.free
        assert all(free >= 0 for free in model.free.values())
    for each in claims:
        each.claim.give_back()
    assert {name: units.free for name, units in limits._units.items()} == UNITS
    assert not any(units.line for units in limits._units.values())


# Inner claims, of runs that were started in the calls of nodes with units.


def test_inner_claims_come_before_those_that_may_wait_for_them() -> None:
    limits = Limits(a=2)
    holder = Waiting(limits, a=1)
    large = Waiting(limits, priority=9, a=2)
    assert not large.has
    assert Waiting(limits, outer=holder.claim, a=1).has


def test_inner_claim_keeps_nothing_from_another() -> None:
    limits = Limits(a=5)
    one, other, rest = Waiting(limits, a=1), Waiting(limits, a=2), Waiting(limits, a=2)
    large = Waiting(limits, outer=one.claim, a=3)
    small = Waiting(limits, outer=other.claim, a=1)
    assert not small.has
    rest.claim.give_back()
    assert not large.has
    assert small.has
    small.claim.give_back()
    other.claim.give_back()
    assert large.has


def test_claims_that_would_wait_for_each_other_are_refused() -> None:
    limits = Limits(a=1, b=1)
    one, other = Waiting(limits, a=1), Waiting(limits, b=1)
    waits = Waiting(limits, outer=one.claim, b=1)
    with pytest.raises(ValidationError, match=r"for ever.*in a circle"):
        Waiting(limits, outer=other.claim, a=1)
    assert not waits.has
    other.claim.give_back()
    assert waits.has


inner_events = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.one_of(st.none(), st.integers(0, 40)), wants),
        st.tuples(st.just("end"), st.integers(0, 40), st.none()),
    ),
    max_size=40,
)


@pytest.mark.hypothesis
@given(inner_events)
@tries(300)
def test_no_claim_waits_for_ever_and_no_other_is_refused(happened: list[Any]) -> None:
    limits = Limits(**UNITS)
    live: list[Waiting] = []

    def inside(each: Waiting) -> list[Waiting]:
        return [other for other in live if other.claim.outer is each.claim]

    def end(each: Waiting) -> None:
        live.remove(each)
        each.claim.give_back()

    def could_get(new: Claim) -> bool:
        """Whether it could, were all to end that can, and all to be let pass who come before it."""
        held = {each.claim for each in live if each.has}
        waiting = {each.claim for each in live if not each.has and each.claim.outer} | {new}
        free = {name: units.free for name, units in limits._units.items()}
        while True:
            needed = {each.outer for each in held | waiting}
            done = {each for each in held if each not in needed}
            for each in done:
                for units, count in each.wants:
                    free[units.name] += count
            held -= done
            fitting = {
                each for each in waiting if all(free[u.name] >= count for u, count in each.wants)
            }
            if new in fitting:
                return True
            waiting -= fitting
            if not done and not fitting:
                return False

    for what, value, asked in happened:
        holders = [each for each in live if each.has]
        if what == "take":
            outer = holders[value % len(holders)].claim if value is not None and holders else None
            try:
                live.append(Waiting(limits, outer=outer, **asked))
            except ValidationError:
                assert outer is not None
                assert not could_get(claim(limits, outer=outer, **asked))
        elif idle := [each for each in live if not inside(each)]:
            end(idle[value % len(idle)])
    while live:  # else all that is left waits for ever
        end(next(each for each in live if each.has and not inside(each)))
    assert {name: units.free for name, units in limits._units.items()} == UNITS
    assert not any(units.line for units in limits._units.values())


def test_threads_never_have_more_than_the_units() -> None:
    limits, lock = Limits(a=2, b=3), threading.Lock()
    inside, errors = {"a": 0, "b": 0}, []

    def work(uses: dict[str, int]) -> None:
        for _ in range(200):
            each = claim(limits, **uses)
            each.wait()
            with lock:
                for name, count in uses.items():
                    inside[name] += count
                if inside["a"] > 2 or inside["b"] > 3:
                    errors.append(dict(inside))
            with lock:
                for name, count in uses.items():
                    inside[name] -= count
            each.give_back()

    asked = [{"a": 1}, {"a": 2}, {"b": 2}, {"a": 1, "b": 1}, {"b": 3}, {"a": 2, "b": 3}]
    threads = [threading.Thread(target=work, args=(each,)) for each in asked]
    for each in threads:
        each.start()
    for each in threads:
        each.join(6 * LONG)
    assert not any(each.is_alive() for each in threads)
    assert errors == []


def test_units_of_a_rate_that_nothing_was_begun_with_come_back() -> None:
    limits = Limits(api=Rate(1, per=3600, burst=2))
    each = claim(limits, api=2)
    assert each.take()
    each.give_back(passes_over=object())
    again = claim(limits, api=2)
    assert again.take()
    again.give_back()
    assert not claim(limits, api=1).take()


class LateLock:
    """The lock of the limits, for which one thread comes late: another one is served first."""

    def __init__(self) -> None:
        self.is_late, self._another = False, threading.Event()
        self._left: dict[int, int] = {}  # how often a thread is in time still
        self._lock = module._lock

    def next_but_one(self) -> None:
        """This thread comes late the next time but one."""
        self._left[threading.get_ident()] = 1

    def __enter__(self) -> None:
        if self._left.get(threading.get_ident()) == 0:
            self.is_late = True
            assert self._another.wait(LONG)
        self._lock.acquire()

    def __exit__(self, *args: object) -> None:
        self._lock.release()
        left = self._left.get(threading.get_ident())
        if left is not None:
            self._left[threading.get_ident()] = left - 1
        elif self.is_late:
            self._another.set()


def test_node_whose_run_ends_just_before_it_stands_in_line_takes_no_units(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for timeout in timeouts():
        limits, lock = Limits(db=1), LateLock()
        monkeypatch.setattr(module, "_lock", lock)
        holder = claim(limits, db=1)
        assert holder.take()
        dag = DAG("late", limits=limits)
        # The thread of `first` goes on with `second`, which asks for the unit, then stands in line.
        dag.add_node("first", lock.next_but_one).add_node("second", lambda: None, uses="db")
        dag.connect("first", "second")
        assert dag.execute(mode="parallel", timeout=timeout).status == "timed_out"
        monkeypatch.undo()
        if lock.is_late:
            break
    holder.give_back()
    assert limits._units["db"].free == 1
