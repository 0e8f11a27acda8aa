"""Limits: how many of something may be in use at once, and how many may begin in a second.

A *claim* is what one attempt of a node takes: units of one or several limits, all or none. Claims
that must wait stand in the line of each limit that they want, by priority, then first come, first
served. A claim that waits keeps what it wants for itself: those behind it get what is left over. So
a large claim is not starved by small ones, and what nobody before them wants keeps nobody waiting.

A claim is *inner* if it belongs to a run that was started in the call of a node, and that node has
units, which it gives back when the run has ended. So somebody in line may wait for this claim:
inner ones come before all others, and keep nothing from each other. One that would wait for ever,
because those who have what it wants wait for it in turn, is refused.

One lock guards all limits of the process, because a claim may take units of any of them. It is held
for a moment only, and nothing is called while it is held but what is in here.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_left, insort
from contextvars import ContextVar
from itertools import count as counting
from time import monotonic
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from fast_dag._fields import Fields
from fast_dag._waits import wait
from fast_dag.define.options import WRONG, count, deadline
from fast_dag.errors import ValidationError, closest, names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Protocol, SupportsIndex

    from fast_dag.define.node import Node
    from fast_dag.define.options import Seconds
    from fast_dag.plan.plan import Plan

    Wants = Sequence[tuple["_Units", int]]
    """The limits that a claim wants units of, and how many of each."""

    class Host(Protocol):
        """An execution, as claims see it."""

        claim: Claim | None
        """That of the node in whose call it was started."""

        def path_of(self, index: int, /) -> str: ...
        def priority_of(self, index: int, /) -> int: ...


class Rate(Fields):
    """How many may begin in a time: a limit whose units are not given back, but come back by
    themselves, evenly.

    Parameters
    ----------
    count:
        How many units come back in `per` seconds.
    per:
        A number of seconds, or a timedelta.
    burst:
        How many units there can be at most, so that as many attempts may begin at once; `count` if
        not given. At first there are that many.

    Raises ValidationError where one of these is something else.

    >>> Rate(10, per=60, burst=2)
    Rate(10, per=60, burst=2)
    """

    __slots__ = ("burst", "count", "per")

    def __init__(
        self, count: SupportsIndex, per: Seconds = 1.0, burst: SupportsIndex | None = None
    ) -> None:
        self.count = _counted("the count of a Rate", count)
        try:
            self.per = deadline(per)
        except WRONG:
            raise ValidationError(
                f"per= of a Rate is a number of seconds above 0, or a timedelta, not {per!r}"
            ) from None
        self.burst = self.count if burst is None else _counted("burst= of a Rate", burst)

    def __repr__(self) -> str:
        burst = "" if self.burst == self.count else f", burst={self.burst}"
        return f"Rate({self.count}, per={self.per:g}{burst})"

    def __hash__(self) -> int:
        return hash((self.count, self.per, self.burst))


class Limits:
    """How many units there are of what nodes use, by name; a `Rate` says how many may begin in a
    time.

    Nodes say what they use with `uses=`. All workflows and runs that are given the same object
    share its units, in all threads and event loops of the process. A copy or a pickle has units of
    its own.

    Raises ValidationError for what is neither a count of at least 1 nor a Rate.

    >>> from fast_dag import DAG, Limits, Rate
    >>> limits = Limits(db=4, api=Rate(10, per=1.0, burst=5))
    >>> dag = DAG("etl", limits=limits)
    >>> @dag.node(uses="db")
    ... def load(key):
    ...     return key.upper()
    >>> dag.run(key="a")
    'A'
    """

    __slots__ = ("__weakref__", "_units")

    def __init__(self, /, **limits: SupportsIndex | Rate) -> None:
        self._units = {
            name: _Bucket(name, each)
            if isinstance(each, Rate)
            else _Units(name, _counted(f"the limit {name!r}", each, " or a Rate"))
            for name, each in limits.items()
        }
        _known.add(self)

    @property
    def _asked(self) -> dict[str, int | Rate]:
        """The counts and rates by name, as they were given."""
        return {name: units.asked for name, units in self._units.items()}

    def as_data(self) -> dict[str, Any]:
        """The limits as plain data, as files have them.

        >>> Limits(db=4, api=Rate(10)).as_data()
        {'db': 4, 'api': {'count': 10, 'per': 1.0, 'burst': 10}}
        """
        return {
            name: {"count": each.count, "per": each.per, "burst": each.burst}
            if isinstance(each, Rate)
            else each
            for name, each in self._asked.items()
        }

    def __repr__(self) -> str:
        told = (f"{name}={each!r}" for name, each in self._asked.items())
        return f"Limits({', '.join(told)})"

    def __reduce__(self) -> Any:
        return _again, (self._asked,)


def _again(asked: Mapping[str, Any]) -> Limits:
    return Limits(**asked)


def _counted(what: str, value: Any, others: str = "") -> int:
    try:
        return count(value, 1)
    except WRONG:
        raise ValidationError(f"{what} is a count of at least 1{others}, not {value!r}") from None


def asked_limits(value: Any) -> Limits | None:
    """The value of an option `limits=`; raises ValidationError."""
    if value is None or isinstance(value, Limits):
        return value
    raise ValidationError(
        f"limits is a fast_dag.Limits, such as Limits(db=4, api=Rate(10)), not {value!r}"
    )


# Units, and the lines of those who wait for them.


class _Units:
    """The units of one limit, and the claims that wait for some: (rank, units, claim), in order."""

    __slots__ = ("asked", "free", "line", "most", "name")

    gives_back = True

    def __init__(self, name: str, asked: Any) -> None:
        self.name = name
        self.asked = asked
        self.most: int = asked
        self.refill()

    def refill(self) -> None:
        """Begin with all units, and nobody in line."""
        self.free: float = self.most
        self.line: list[tuple[tuple[bool, float, int], int, Claim]] = []

    def left(self, now: float) -> float:
        """How many units there are."""
        return self.free

    def take(self, units: int) -> None:
        """Take some that are there. Where units are given back, adding them to `free` does that."""
        self.free -= units

    def when(self, now: float) -> float | None:
        """When there will be enough for somebody in line; None if nobody knows."""
        return None


class _Bucket(_Units):
    """Units that come back by themselves: a bucket that is filled evenly."""

    __slots__ = ("_at", "_speed")

    gives_back = False

    def __init__(self, name: str, asked: Rate) -> None:
        super().__init__(name, asked.burst)
        self.asked = asked
        self._speed = asked.count / asked.per
        self._at = 0.0

    def left(self, now: float) -> float:
        passed = max(now - self._at, 0.0)
        return min(self.free + passed * self._speed + _ROUNDING, self.most)

    def take(self, units: int) -> None:
        now = monotonic()
        passed = max(now - self._at, 0.0)
        self.free, self._at = min(self.free + passed * self._speed, self.most) - units, now

    def when(self, now: float) -> float | None:
        wanted, left = 0, self.left(now)
        for _, units, _ in self.line:
            wanted += units
            if wanted > left:
                missing = wanted - left
                return now + missing / self._speed if wanted <= self.most else None
        return None


_ROUNDING: Final = 1e-9
"""Units that may be lacking by the arithmetic of floats."""

RISES_IN: Final = 30.0
"""Seconds in which a claim that waits rises by one priority."""

_WAITS, _HELD, _OVER = "waits", "held", "over"


held: ContextVar[Claim | None] = ContextVar("fast_dag_claim", default=None)
"""The claim of the node in whose call the caller is, if that uses limits."""


class Claim:
    """The units that one attempt wants, until it gives them back.

    Parameters
    ----------
    wants:
        What it takes, all or none.
    host, index:
        The execution and the node that it belongs to. Those of higher priority come first; a claim
        that waits rises by one every 30 seconds.
    """

    # Until it is otherwise, so that a claim that need not wait does not set them.
    _state = _OVER
    _rank: tuple[bool, float, int] | None = None  # kept by a claim that has to wait again
    _callback: Callable[[], None] | None = None
    group: object = None  # those that have one cannot go on while that has no free slot

    def __init__(self, wants: Wants, host: Host, index: int) -> None:
        self.wants = wants
        self.host = host
        self.index = index

    @property
    def who(self) -> str:
        """The path of its node, for messages."""
        return self.host.path_of(self.index)

    @property
    def outer(self) -> Claim | None:
        """The claim of the node in whose call the run was started."""
        return self.host.claim

    @property
    def is_held(self) -> bool:
        """Whether it has its units."""
        return self._state is _HELD

    @property
    def told(self) -> str:
        """What it takes, for messages: "'db', 2 of 'api'"."""
        return ", ".join(
            f"{wanted} of {units.name!r}" if wanted > 1 else repr(units.name)
            for units, wanted in self.wants
        )

    def holders(self) -> Iterator[Claim]:
        """Those of the nodes in whose calls its run was started that have units until this one
        has ended."""
        return _holding(self.outer)

    @property
    def kept(self) -> list[tuple[_Units, int]]:
        """What it has until it has ended, and gives back then."""
        return [each for each in self.wants if each[0].gives_back] if self.is_held else []

    @property
    def is_inner(self) -> bool:
        """Whether it has holders; asked of a claim in line."""
        assert self._rank is not None
        return not self._rank[0]

    def enter(self) -> None:
        """From here on, runs that are started in these contextvars are started in its call."""
        held.set(self)

    def leave(self) -> None:
        """The call has ended: no longer, and give the units back."""
        held.set(self.host.claim)
        self.give_back()

    def blocks(self) -> ValidationError:
        """What a node fails with that would block an event loop by waiting for its units."""
        return ValidationError(
            f"node {self.who!r} must wait for {self.told}, and the event loop of this thread would "
            "stand still meanwhile; use `await dag.run_async(...)` here",
            node=self.who,
        )

    def _waits_for_ever(self, holders: Sequence[Claim]) -> ValidationError:
        told = names(sorted({each.who for each in holders}))
        return ValidationError(
            f"node {self.who!r} would wait for {self.told} for ever: nodes that have units ({told})"
            " wait for runs that they started, and these for units, in a circle. Raise the limit, "
            "or let nodes and the runs that they start use different ones",
            node=self.who,
        )

    def take(self, callback: Callable[[], None] | None = None) -> bool:
        """Take all units, if they are there and nobody before it in line wants them; else stand in
        line, if there is a `callback`, which is called once, in whatever thread, when it has them.
        Raises ValidationError if it would stand there for ever.
        """
        with _lock:
            for units, wanted in self.wants:
                if units.line or (units.free < wanted and units.left(monotonic()) < wanted):
                    break
            else:
                for units, wanted in self.wants:
                    if units.gives_back:  # with no call, for this is done for each node
                        units.free -= wanted
                    else:
                        units.take(wanted)
                self._state = _HELD
                return True
            now = monotonic()
            if self._rank is None:
                since = now - RISES_IN * self.host.priority_of(self.index)
                self._rank = next(self.holders(), None) is None, since, next(_order)
            for units, wanted in self.wants:
                insort(units.line, (self._rank, wanted, self))
            stuck: Sequence[Claim] = ()
            has_units = _is_next(self, now)
            if has_units:
                _grant(self)
            elif callback is None:
                _leave_line(self)
                return False
            elif self.is_inner and not _has_twin(self) and (stuck := _stuck(self)):
                _leave_line(self)
            else:
                self._callback, self._state = callback, _WAITS
                if not all(units.gives_back for units, _ in self.wants):
                    _keep_time()
            # Others of its group may have been passed over while it had no slot.
            granted = _granted([units for units, _ in self.wants if units.line])
        for each in granted:
            each()
        if stuck:
            raise self._waits_for_ever(stuck)
        return has_units

    def wait(self) -> None:
        """Take all units, in this thread, which waits until they are there."""
        there = threading.Event()
        if not self.take(there.set):
            try:
                wait(there)
            except BaseException:
                self.give_back()
                raise

    def give_back(self, *, passes_over: object = None) -> None:
        """End it: give back what it has, or leave the line. Others may get their units by that, but
        not those of the group `passes_over`, which has no free slot: it asks again with this claim
        as soon as it has one, and then the others get theirs."""
        with _lock:
            if self._state is _HELD:
                self._state, somebody_waits = _OVER, False
                for units, wanted in self.wants:
                    if units.gives_back:
                        units.free += wanted
                        if units.line:
                            somebody_waits = True
                    elif passes_over is not None:  # nothing was begun with them
                        units.free = min(units.free + wanted, units.most)
                        somebody_waits = True
                if not somebody_waits:
                    return
            elif self._state is _WAITS:
                self._state, self._callback = _OVER, None
                _leave_line(self)
            elif self._rank is None:
                return
            granted = _granted([units for units, _ in self.wants if units.line], passes_over)
        for callback in granted:
            callback()


def _holding(claim: Claim | None) -> Iterator[Claim]:
    """Of a claim and those around it, the ones that have units which they give back."""
    while claim is not None:
        if claim.kept:
            yield claim
        claim = claim.outer


_order = counting()


def _is_next(claim: Claim, now: float, passes_over: object = None) -> bool:
    """Whether what a claim in line wants is there, beyond what those before it want."""
    for units, wanted in claim.wants:
        left = units.left(now)
        for _, before, other in units.line:
            if left < wanted:
                return False
            if other is claim or claim.is_inner:
                break
            if passes_over is None or other.group is not passes_over:
                left -= before
    return True


def _has_twin(claim: Claim) -> bool:
    """Whether another one in line wants the same for the same run: what is true of that one, which
    may get its units, is true of this one. So of thousands of nodes that wait one is looked at."""
    line = claim.wants[0][0].line
    at = bisect_left(line, (claim._rank,))
    return any(
        other.outer is claim.outer and other.wants == claim.wants
        for _, _, other in (line[before] for before in range(at - 1, -1, -1))
    )


def _stuck(claim: Claim) -> list[Claim]:
    """Who has units and waits for ever if this inner claim waits; nobody, if it may get its own.

    Those who wait for no inner claim are taken to give back all that they have. So whoever wants no
    more than the rest is taken to get it and to end, which gives back more, and so on (this is how
    the banker's algorithm finds deadlocks)."""
    waiting, unseen = {claim}, [claim]
    below: dict[Claim, set[Claim]] = {}  # what each holder waits for
    while unseen:
        seen = unseen.pop()
        for holder in seen.holders():
            below.setdefault(holder, set()).add(seen)
            for units, _ in holder.kept:
                news = {each for _, _, each in units.line if each.is_inner} - waiting
                waiting |= news
                unseen.extend(news)
    rest = {units: float(units.most) for holder in below for units, _ in holder.kept}
    for holder in below:
        for units, taken in holder.kept:
            rest[units] -= taken

    def may_end(each: Claim) -> bool:
        return all(rest[units] >= wanted for units, wanted in each.wants if units in rest)

    while ended := [each for each in waiting if may_end(each)]:
        waiting.difference_update(ended)
        for holder in [each for each, inside in below.items() if not inside & waiting]:
            del below[holder]
            for units, taken in holder.kept:
                rest[units] += taken
    return list(below) if claim in waiting else []


def _grant(claim: Claim) -> None:
    _leave_line(claim)
    for units, wanted in claim.wants:
        units.take(wanted)
    claim._state = _HELD


def _leave_line(claim: Claim) -> None:
    for units, _ in claim.wants:
        del units.line[bisect_left(units.line, (claim._rank,))]
        if not units.line and not units.gives_back:
            _wakes.notify_all()  # nobody needs the time to be kept any more


def _granted(changed: Iterable[_Units], passes_over: object = None) -> list[Callable[[], None]]:
    """Give claims in line their units, after some came back or a claim left: what to call, once the
    lock is free. It looks at no more claims than there are units, beside inner ones."""
    callbacks: list[Callable[[], None]] = []
    now, is_timed = monotonic(), False
    for units in changed:
        at, left = 0, units.left(now)
        is_timed = is_timed or not units.gives_back
        while left > 0 and at < len(units.line):
            _, wanted, claim = units.line[at]
            if passes_over is not None and claim.group is passes_over:
                at += 1
                continue
            if left >= wanted and _is_next(claim, now, passes_over):
                _grant(claim)
                assert claim._callback is not None
                callbacks.append(claim._callback)
                claim._callback = None
                is_timed = is_timed or not all(each.gives_back for each, _ in claim.wants)
            else:
                at += 1
                if claim.is_inner:
                    continue
            left -= wanted
    if is_timed:
        _wakes.notify_all()
    return callbacks


# Units of rates come back by themselves: while somebody waits for some, a thread keeps the time.

_timekeeper: threading.Thread | None = None


def _keep_time() -> None:
    global _timekeeper  # noqa: PLW0603  one for the process
    if _timekeeper is None:
        _timekeeper = threading.Thread(target=_watch, name="fast_dag rates", daemon=True)
        _timekeeper.start()
    else:
        _wakes.notify_all()


def _watch() -> None:
    global _timekeeper  # noqa: PLW0603
    while True:
        with _wakes:
            buckets = [
                units
                for limits in list(_known)
                for units in limits._units.values()
                if units.line and not units.gives_back
            ]
            if not buckets:
                _timekeeper = None
                return
            callbacks = _granted(buckets)
            if not callbacks:
                now = monotonic()
                due = [at for each in buckets if (at := each.when(now)) is not None]
                _wakes.wait(max(min(due) - now, 0.0) if due else None)
        for callback in callbacks:
            callback()
        del callbacks


_known: WeakSet[Limits] = WeakSet()
_lock = threading.RLock()  # a finalizer may come back here
_wakes = threading.Condition(_lock)


def _in_child() -> None:
    """A forked child has none of the threads that hold units or wait for some."""
    global _lock, _wakes, _timekeeper  # noqa: PLW0603
    _lock, _timekeeper = threading.RLock(), None
    _wakes = threading.Condition(_lock)
    for limits in list(_known):
        for units in limits._units.values():
            units.refill()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


# The limits of a run.


def units_of(
    plan: Plan, run: Limits | None, around: tuple[Limits | None, ...], outer: Claim | None
) -> dict[int, Wants]:
    """What each node of a plan takes, by index.

    Names are looked up in the limits of the `run`, those of the workflow, and those of the
    workflows `around` it, the closest first. Raises ValidationError, also for workflows nested in
    the plan, for names that none has, for more than there is, and for what `outer`, the claim of
    the node in whose call the run was started, keeps from it.
    """
    chain = (run, plan.limits, *around)
    holders = _holders(outer)
    known: tuple[Any, dict[int, Wants]] | None = plan.units
    if known is not None and known[0] == chain and not holders:
        return known[1]
    search = _Search(holders)
    topology = plan.topology
    by_name = search.through(plan.name, topology.nodes, chain)
    if search.problems:
        raise ValidationError.of(search.problems, repr(plan.name))
    found = {topology.index[name]: wants for name, wants in by_name.items()}
    plan.units = chain, found
    return found


def _holders(claim: Claim | None) -> dict[_Units, list[tuple[str, int]]]:
    """Who has units until the run has ended, and how many: a claim, and those around it."""
    holders: dict[_Units, list[tuple[str, int]]] = {}
    for holder in _holding(claim):
        for units, taken in holder.kept:
            holders.setdefault(units, []).append((holder.who, taken))
    return holders


class _Search:
    """Looks up what nodes use, and collects the problems."""

    def __init__(self, holders: Mapping[_Units, list[tuple[str, int]]]) -> None:
        self.holders = holders
        self.problems: list[ValidationError] = []

    def through(
        self, workflow: str, nodes: Iterable[Node[..., Any]], chain: tuple[Limits | None, ...]
    ) -> dict[str, Wants]:
        """What the nodes of a workflow take, by name; those of nested workflows are looked at,
        too."""
        found: dict[str, Wants] = {}
        for node in nodes:
            inner = node.workflow
            if inner is not None:
                inside = (chain[0], inner.limits, *chain[1:])
                self.through(inner.name, inner.graph.nodes.values(), inside)
            elif node.uses:
                whose = f"node {node.name!r} of {workflow!r}"
                wants = []
                for name, asked in node.uses.items():
                    units = _named(name, chain)
                    told = self._problem(whose, units, name, asked, chain)
                    if told:
                        self.problems.append(ValidationError(told, node=node.name, limit=name))
                    elif units is not None:
                        wants.append((units, asked))
                found[node.name] = tuple(wants)
        return found

    def _problem(
        self,
        whose: str,
        units: _Units | None,
        name: str,
        asked: int,
        chain: tuple[Limits | None, ...],
    ) -> str:
        """Why a node could never have its units; '' if it could."""
        if units is None:
            known = dict.fromkeys(key for each in chain if each is not None for key in each._units)
            there = f"there are {names(known)}" if known else "there are none"
            return (
                f"{whose} uses {name!r}, but there is no limit of that name"
                f"{closest(name, known)[1]}; {there}. Give the workflow or the run "
                f"limits=Limits({name}=...)"
            )
        if asked > units.most:
            has = "has" if units.gives_back else "has a burst of"
            return f"{whose} uses {asked} of {name!r}, which {has} {units.most} at most"
        holders = self.holders.get(units, ())
        taken = sum(each for _, each in holders)
        if holders and asked > units.most - taken:
            return (
                f"{whose} needs {asked} of {name!r}, but {names(who for who, _ in holders)}, in "
                f"whose call this run was started, has {taken} of {units.most} until the run has "
                "ended, so it could never end: raise the limit, or let the two use different ones"
            )
        return ""


def _named(name: str, chain: tuple[Limits | None, ...]) -> _Units | None:
    for limits in chain:
        units = None if limits is None else limits._units.get(name)
        if units is not None:
            return units
    return None
