"""Where a machine is: the states it visited, the one it goes to, and with what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fast_dag.errors import MissingResultError

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


Visit = tuple[int, Any, float, float]
"""One execution of a state: which, its value (FAILED where it failed), and two clock readings."""


class MachineState:
    """One machine's way through its states, which may take several runs.

    `at` is the state visited last, `next` the one to be executed next, given `value` and the `data`
    of an event; both None where it has ended or `waits` for an event. `visits` has the last ones,
    at least `keep` of them; of older ones only how many there were, and how long they took, is
    known.
    """

    def __init__(self, names: Sequence[str], start: int, keep: int | None) -> None:
        self.names = names
        self.keep = keep
        self.visits: list[Visit] = []
        self.at: int | None = None
        self.next: int | None = start
        self.value: Any = None
        self.data: Mapping[str, Any] = {}
        self.waits = False
        self.ended = False
        self.running: int | None = None
        self._forgotten: dict[int, tuple[int, float]] = {}  # visits and seconds of each state
        self._forgotten_in_all = 0
        self._seen: set[str] = set()  # in the first so many visits, and in those forgotten
        self._looked_at = 0

    @property
    def room(self) -> int | None:
        """After how many visits more `forget` is to be called; None for never."""
        return None if self.keep is None else self.keep + _AT_ONCE

    def move_to(self, state: int, value: Any) -> None:
        """States were visited, and recorded in `visits` only: this one is next, given `value`."""
        self.value, self.next = value, state
        if self.visits:
            self.at = self.visits[-1][0]
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

    def value_of(self, state: int, number: int, newest: tuple[int, Any] | None = None) -> Any:
        """The value of the `number`-th visit (from 0) of a state; raises MissingResultError.

        `newest` are the state and the value of a visit that has not been recorded yet."""
        name = self.names[state]
        there = [value for at, value, *_ in self.kept if at == state]
        in_all = self.counts().get(state, 0)
        if newest is not None and newest[0] == state:
            there.append(newest[1])
            in_all += 1
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

    def to_dict(self) -> dict[str, Any]:
        """All of it, with states by name."""

        def name(state: int | None) -> str | None:
            return None if state is None else self.names[state]

        return {
            "at": name(self.at),
            "next": name(self.next),
            "waits": self.waits,
            "ended": self.ended,
            "value": self.value,
            "data": dict(self.data),
            "history": [
                {"state": name(state), "seconds": ended - started}
                | ({"failed": True} if value is FAILED else {"value": value})
                for state, value, started, ended in self.kept
            ],
            "forgotten": {
                self.names[state]: {"visits": count, "seconds": seconds}
                for state, (count, seconds) in self._all_forgotten().items()
            },
        }

    def _all_forgotten(self) -> dict[int, tuple[int, float]]:
        forgotten = dict(self._forgotten)
        for state, _, started, ended in self.visits[: len(self.visits) - len(self.kept)]:
            count, seconds = forgotten.get(state, (0, 0.0))
            forgotten[state] = count + 1, seconds + ended - started
        return forgotten

    def load(self, data: Mapping[str, Any]) -> None:
        """Go on where `to_dict` was called; all its names are those of states."""
        index = {name: position for position, name in enumerate(self.names)}
        self.at, self.next = index.get(data["at"]), index.get(data["next"])
        self.waits, self.ended = data["waits"], data["ended"]
        self.value, self.data = data["value"], dict(data["data"])
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
