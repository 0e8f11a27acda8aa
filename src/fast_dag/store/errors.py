"""What durable runs raise.

FastDAGError
├── StoreError
│   ├── RunInUseError               .run_id .owner
│   ├── RunExistsError              .run_id
│   ├── RunLostError                .run_id
│   ├── ChangedError                .run_id .reasons
│   ├── UnknownRunError (KeyError)  .run_id
│   ├── InDoubtError                .run_id .node
│   ├── WaitingError                .run_id .node
│   ├── EncodeError                 .place .type
│   └── DecodeError                 .name
│       └── DamagedError
└── StoredError                     .type .message .notes .traceback
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fast_dag.errors import FastDAGError, add_note, notes_of, text_of, traceback_of

if TYPE_CHECKING:
    from collections.abc import Iterable


class StoreError(FastDAGError):
    """Raised when a store cannot do what it should. The run is interrupted; no node has failed.

    >>> StoreError("the disk is full", path="runs.db").path
    'runs.db'
    """


class RunInUseError(StoreError):
    """Raised when the run is at work elsewhere. `owner` says where.

    >>> RunInUseError("'order-17' is at work", run_id="order-17", owner="pid 12").owner
    'pid 12'
    """

    run_id: str
    owner: Any


class RunExistsError(StoreError):
    """Raised when there is a run of this id that differs: in its workflow, or in its inputs.

    >>> RunExistsError("'order-17' has another basket", run_id="order-17").run_id
    'order-17'
    """

    run_id: str


class RunLostError(StoreError):
    """Raised when another owner has taken the run meanwhile. Nothing more is committed.

    >>> RunLostError("'order-17' has another owner", run_id="order-17").run_id
    'order-17'
    """

    run_id: str


class ChangedError(StoreError):
    """Raised when code has changed that committed results came from. `reasons` lists what.

    >>> ChangedError("'price' has changed", run_id="order-17", reasons=("constant",)).reasons
    ('constant',)
    """

    run_id: str
    reasons: tuple[str, ...]


class UnknownRunError(StoreError, KeyError):
    """Raised when the store has no run of this id.

    >>> UnknownRunError("no run 'order-18'", run_id="order-18").run_id
    'order-18'
    """

    run_id: str


class InDoubtError(StoreError):
    """Raised when nobody can tell whether a node that may be called only once has done its work.

    >>> InDoubtError("'charge' is in doubt", run_id="order-17", node="charge").node
    'charge'
    """

    run_id: str
    node: str


class WaitingError(StoreError):
    """Raised when the value of a run is asked for that waits for something.

    >>> WaitingError("'order-17' waits", run_id="order-17", node="approve").node
    'approve'
    """

    run_id: str
    node: str


class EncodeError(StoreError):
    """Raised when a codec has no exact form for a value. `place` is where in the value, such as
    `['rows'][3].owner` ("" is the value itself), and `type` the name of the class found there.

    >>> EncodeError("it is a file", place="['log']", type="_io.TextIOWrapper").place
    "['log']"
    """

    place: str
    type: str


def unstorable(error: EncodeError, what: str, **facts: Any) -> EncodeError:
    """The error of a codec, which begins with what cannot be stored."""
    return EncodeError(f"{what}: {error}", place=error.place, type=error.type, **facts)


class DecodeError(StoreError):
    """Raised when bytes cannot become a value here. `name` is the class or package that is missing,
    has changed, or is not allowed; None if it is about none.

    >>> DecodeError("the class is gone", name="shop:Order").name
    'shop:Order'
    """

    name: str | None = None


class DamagedError(DecodeError):
    """Raised when bytes are not those that a codec wrote.

    >>> DamagedError("the checksum is another").name is None
    True
    """


class StoredError(FastDAGError):
    """An exception that was stored as text: the failure of a node, in a run that goes on.

    `type` is the name of its class, `message` its text, `notes` its notes, `traceback` its whole
    traceback as Python prints it. The class itself is not imported again.

    >>> error = StoredError("shop.OutOfStock", "no more tea", notes=["shelf 3"])
    >>> error.type, str(error), error.__notes__
    ('shop.OutOfStock', 'shop.OutOfStock: no more tea', ['shelf 3'])
    """

    type: str
    message: str
    notes: tuple[str, ...]
    traceback: str

    def __init__(
        self, type: str, message: str, notes: Iterable[str] = (), traceback: str = ""
    ) -> None:
        notes = tuple(notes)
        text = f"{type}: {message}" if message else type
        super().__init__(text, type=type, notes=notes, traceback=traceback)
        self.message = message
        if notes:
            add_note(self, *notes)

    def __reduce__(self) -> tuple[Any, ...]:
        kind, _, state = super().__reduce__()
        return kind, (self.type, self.message, self.notes, self.traceback), state


_MOST: Final = 100_000
"""Characters of one text of an error. Endless recursion has tracebacks of megabytes."""


def to_data(error: BaseException) -> dict[str, Any]:
    """An exception as plain data, which every codec can store.

    >>> to_data(ValueError("too small"))["type"]
    'ValueError'
    """
    if type(error) is StoredError:
        kind, text, trace = error.type, error.message, error.traceback
        notes: list[Any] = list(error.notes)
    else:
        kind, text, trace = name_of(type(error)), text_of(error), traceback_of(error)
        notes = [note if type(note) is str else repr(note) for note in notes_of(error)]
    return {
        "type": kind,
        "message": _cut(text),
        "notes": [_cut(note) for note in notes],
        "traceback": _cut(trace),
    }


def from_data(data: dict[str, Any]) -> StoredError:
    """The exception that stands for a stored one.

    >>> from_data(to_data(ValueError("too small")))
    StoredError('ValueError: too small')
    """
    return StoredError(data["type"], data["message"], data["notes"], data["traceback"])


def _cut(text: str) -> str:
    """A text without its middle if it is too long: the ends of a traceback say most."""
    if len(text) <= _MOST:
        return str(text)
    half = _MOST // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"


def name_of(kind: type) -> str:
    """The name of a class for people.

    >>> name_of(int), name_of(FastDAGError)
    ('int', 'fast_dag.errors.FastDAGError')
    """
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"
