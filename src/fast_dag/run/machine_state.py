"""Where a machine is: the states it visited, the one it goes to, and with what."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fast_dag.errors import ExecutionError, MissingResultError, text_of
from fast_dag.returns import FSMReturn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_AT_ONCE = 1_000
"""Visits by which a bounded history may grow before it is cut back."""


class _Failed:
    def __repr__(self) -> str:
        return "<failed>"

    def __reduce__(self) -> str:
        return "FAILED"


FAILED: Final = _Failed()
"""The value of a visit that failed."""


_NO_DATA: Final[Mapping[str, Any]] = {}

Visit = tuple[int, Any, float, float]
"""One execution of a state: which, its value (FAILED where it failed), and two clock readings."""


class Sent(NamedTuple):
    """An event that waits in a queue, its data, and whether it is dropped where nobody listens."""

    event: str
    data: Mapping[str, Any]
    is_dropped: bool = False


class MachineState:
    """One machine's way through its states, which may take several runs.

    `at` is the state visited last, `next` the one to be executed next, given `value`, the `data` of
    an event and the `error` that led there. `visits` has the last ones, at least `keep` of them; of
    older ones only how many there were, and how long they took, is known.

    After a visit it `is_open` until it is found where that leads, with `choice` where the state
    returned that. Then there is a `next`, or it `waits` for an event, or has `ended`, or leads
    nowhere. This `stands` where more than declarations has decided it. State hooks were `asked`
    about the transition to that state. `queue` has the events that were posted.
    """

    def __init__(self, names: Sequence[str], start: int, keep: int | None) -> None:
        self.names = names
        self.keep = keep
        self.visits: list[Visit] = []
        self.at: int | None = None
        self.next: int | None = start
        self.value: Any = None
        self.data: Mapping[str, Any] = {}
        self.error: BaseException | None = None
        self.choice: Any = None
        self.waits = False
        self.ended = False
        self.is_open = False
        self.stands = False
        self.asked: int | None = None
        self.queue: deque[Sent] = deque()
        self.running: int | None = None
        self.has_failed = False  # in the last visit
        self._forgotten: dict[int, tuple[int, float]] = {}  # visits and seconds of each state
        self._forgotten_in_all = 0
        self._seen: set[str] = set()  # in the first so many visits, and in those forgotten
        self._looked_at = 0

    @property
    def room(self) -> int | None:
        """After how many visits more `forget` is to be called; None for never."""
        return None if self.keep is None else self.keep + _AT_ONCE

    def move_to(self, state: int, value: Any) -> None:
        """Called after states were visited that are recorded in `visits` only: `state` is next, and
        is given `value`."""
        self.value, self.next, self.asked, self.stands = value, state, state, True
        if self.visits:
            self.at, self.has_failed = self.visits[-1][0], self.visits[-1][1] is FAILED
        self.forget()

    def completed(self, state: int, result: Any, started: float, ended: float) -> Any:
        """Record a visit of a state that completed. Returns its value."""
        self.choice, self.ended = None, False
        if issubclass(type(result), FSMReturn):  # a proxy may raise when isinstance() asks it
            self.choice, self.ended, result = result.next_state, bool(result.stop), result.value
        self.value, self.data, self.error = result, _NO_DATA, None
        self.visits.append((state, result, started, ended))
        self._visited(state, is_open=not self.ended)
        return result

    def failed(
        self, state: int, error: BaseException, started: float, ended: float, *, leads_on: bool
    ) -> None:
        """Record a visit that failed. The same state is next, unless the failure leads on."""
        self.visits.append((state, FAILED, started, ended))
        self._visited(state, is_open=leads_on)
        self.has_failed = True
        if leads_on:
            self.error, self.choice = error, None
        else:
            self.next = self.asked = state

    def _visited(self, state: int, *, is_open: bool) -> None:
        self.at, self.is_open, self.stands = state, is_open, not is_open
        self.running = self.next = self.asked = None
        self.waits = self.has_failed = False
        if self.keep is not None:
            self.forget()

    def forget(self) -> None:
        """Cut the history back, where it is bounded."""
        visits = self.visits
        if self.keep is None or len(visits) < self.keep + _AT_ONCE:
            return
        old = len(visits) - self.keep
        counts, spent = [0] * len(self.names), [0.0] * len(self.names)
        for state, _, started, ended in visits[:old]:
            counts[state] += 1
            spent[state] += ended - started
        for state, number in enumerate(counts):
            if number:
                count, seconds = self._forgotten.get(state, (0, 0.0))
                self._forgotten[state] = count + number, seconds + spent[state]
        self._forgotten_in_all += old
        self.seen()
        self._looked_at -= old
        del visits[:old]

    @property
    def kept(self) -> list[Visit]:
        """The visits that the history shows."""
        return self.visits if self.keep is None else self.visits[-self.keep :]

    @property
    def visited(self) -> int:
        """How many states have been executed."""
        return self._forgotten_in_all + len(self.visits)

    # What users look at.

    @property
    def state_history(self) -> list[str]:
        """The visited states in order, the running one included, as far as they are kept."""
        history = [self.names[state] for state, *_ in self.kept]
        if self.running is not None:
            history.append(self.names[self.running])
        return history if self.keep is None else history[-self.keep :]

    @property
    def current_state(self) -> str | None:
        """The running state, else the one visited last."""
        at = self.at if self.running is None else self.running
        return None if at is None else self.names[at]

    @property
    def cycle_count(self) -> int:
        """How many states have been executed, the running one included."""
        return self.visited + (self.running is not None)

    def counts(self) -> dict[int, int]:
        """How often each state was visited."""
        counts = {state: count for state, (count, _) in self._forgotten.items()}
        for state, *_ in self.visits:
            counts[state] = counts.get(state, 0) + 1
        return counts

    def seen(self) -> set[str]:
        """The names of the states visited so far, always the same set, at the cost of the visits
        since the last call. Only who drives the machine may call it."""
        visits = self.visits
        for position in range(self._looked_at, len(visits)):
            self._seen.add(self.names[visits[position][0]])
        self._looked_at = len(visits)
        return self._seen

    def seconds(self) -> dict[int, float]:
        """How long each state took in all its visits."""
        seconds = {state: spent for state, (_, spent) in self._forgotten.items()}
        for state, _, started, ended in self.visits:
            seconds[state] = seconds.get(state, 0.0) + ended - started
        return seconds

    def value_of(self, state: int, number: int) -> Any:
        """The value of the `number`-th visit (from 0) of a state; raises MissingResultError."""
        name = self.names[state]
        there = [value for at, value, *_ in self.kept if at == state]
        in_all = self.counts().get(state, 0)
        if number >= in_all:
            times = f"{in_all} time{'s' * (in_all != 1)}"
            why, reason = f"was visited {times}", "not run"
        elif number < in_all - len(there):
            why, reason = f"of this visit is no longer kept (keep_history={self.keep})", "deleted"
        else:
            value = there[number - in_all]
            if value is not FAILED:
                return value
            why, reason = "failed in this visit", "failed"
        raise MissingResultError(
            f"there is no result of {name}.{number}: {name!r} {why}",
            node=f"{name}.{number}",
            reason=reason,
        )

    # As plain data.

    def to_dict(self, *, history: bool = True) -> dict[str, Any]:
        """All of it, with states by name; without `history` only counts of the visits."""

        def name(state: int | None) -> str | None:
            return None if state is None else self.names[state]

        return {
            "at": name(self.at),
            "next": name(self.next),
            "waits": self.waits,
            "ended": self.ended,
            "open": self.is_open,
            "stands": self.stands,
            "asked": name(self.asked),
            "failed": self.has_failed,
            "choice": self.choice if isinstance(self.choice, str) else None,
            "value": self.value,
            "data": dict(self.data),
            "error": None if self.error is None else _told(self.error),
            "queue": [
                {"event": event, "data": dict(data), "is_dropped": is_dropped}
                for event, data, is_dropped in list(self.queue)
            ],
            "history": [
                {"state": name(state), "seconds": ended - started}
                | ({"failed": True} if value is FAILED else {"value": value})
                for state, value, started, ended in (self.kept if history else ())
            ],
            "forgotten": {
                self.names[state]: {"visits": count, "seconds": seconds}
                for state, (count, seconds) in self._all_forgotten(history).items()
            },
        }

    def _all_forgotten(self, history: bool) -> dict[int, tuple[int, float]]:
        forgotten, kept = dict(self._forgotten), len(self.kept) if history else 0
        for state, _, started, ended in self.visits[: len(self.visits) - kept]:
            count, seconds = forgotten.get(state, (0, 0.0))
            forgotten[state] = count + 1, seconds + ended - started
        return forgotten

    def load(self, data: Mapping[str, Any]) -> None:
        """Go on where `to_dict` was called; all its names are those of states."""
        index = {name: position for position, name in enumerate(self.names)}
        self.at, self.next = index.get(data["at"]), index.get(data["next"])
        self.waits, self.ended = data["waits"], data["ended"]
        self.is_open, self.stands = data["open"], data["stands"]
        self.asked, self.choice = index.get(data["asked"]), data["choice"]
        self.has_failed = data["failed"]
        self.value, self.data = data["value"], dict(data["data"])
        self.error = None if data["error"] is None else _retold(data["error"], data["at"])
        self.queue = deque(
            Sent(each["event"], each["data"], each["is_dropped"]) for each in data["queue"]
        )
        self.visits = [
            (index[each["state"]], each.get("value", FAILED), 0.0, each["seconds"])
            for each in data["history"]
        ]
        self._forgotten = {
            index[name]: (each["visits"], each["seconds"])
            for name, each in data["forgotten"].items()
        }
        self._forgotten_in_all = sum(count for count, _ in self._forgotten.values())
        self._seen, self._looked_at = {self.names[state] for state in self._forgotten}, 0


def _told(error: BaseException) -> dict[str, str]:
    """The exception that led to a state, as plain data; also if it was read from a snapshot."""
    if isinstance(error, ExecutionError) and "told" in vars(error):
        return dict(vars(error)["told"])
    return {"type": type(error).__name__, "message": text_of(error)}


def _retold(told: Mapping[str, str], state: str) -> ExecutionError:
    told = {"type": told["type"], "message": told["message"]}
    return ExecutionError(f"{told['type']}: {told['message']}", node_name=state, told=told)
