"""The declared transitions between states."""

from __future__ import annotations

from typing import Any, NamedTuple

from fast_dag.call.hooks import Hook
from fast_dag.define.node import name_of
from fast_dag.define.signature import UnreadableSignatureError, read_signature
from fast_dag.errors import ValidationError


class Transition(NamedTuple):
    """A transition from `source` to `target`, taken if `condition` holds; with an `event`, only
    when that event is sent."""

    source: str
    target: str
    condition: Hook | None
    event: str | None

    @classmethod
    def read(cls, source: str, target: str, condition: Any, event: Any) -> Transition:
        """A checked transition; raises ValidationError if a part is wrong."""
        event = name_of(event)
        if event is not None and (not isinstance(event, str) or not event):
            raise ValidationError(f"an event is named by a non-empty string, not {event!r}")
        guard = None if condition is None else _read_condition(condition)
        return cls(source, target, guard, event)

    @property
    def is_async(self) -> bool:
        """Whether the condition is asked by awaiting it."""
        return self.condition is not None and self.condition.is_async

    def __str__(self) -> str:
        event = "" if self.event is None else f" on {self.event!r}"
        return f"{self.source!r} -> {self.target!r}{event}"


def _read_condition(condition: Any) -> Hook:
    if callable(condition):
        try:
            read_signature(condition)
        except UnreadableSignatureError:  # of a builtin, say `bool`
            return Hook(condition, 1, False)
    return Hook.read(condition, ("value", "context", "data"), "condition of a transition, a")
