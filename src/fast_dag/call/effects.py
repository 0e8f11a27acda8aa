"""The vocabulary between a node call and the driver that carries it out.

A node call that is more than the bare function is a generator: it yields effects, and a driver
answers each with how it ended. User code never raises through it.
"""

from __future__ import annotations

from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from fast_dag.cache.flight import Flight


ONE_SHOT: Final = frozenset({GeneratorType, AsyncGeneratorType, map, filter, zip})
"""What can be gone through once only, so that one consumer may have it."""
LOOKED_AT: Final = ONE_SHOT | {CoroutineType}
"""Results that are not simply stored."""


class Outcome(NamedTuple):
    """How a call ended: its value, or the exception it raised; `where` names the hook, if it was
    one.

    `attempts` counts the calls of the node's function; `cached` tells of a cached node whether the
    value was there.
    """

    ok: bool
    value: Any
    attempts: int = 1
    where: str | None = None
    cached: bool | None = None


STOPPED: Final = Outcome(False, None, attempts=0)
"""How a call ends that was not made, since its run was stopped."""


class Attempt(NamedTuple):
    """Call the node's function; answered with an Outcome."""

    args: list[Any]
    kwargs: dict[str, Any]


class Invoke(NamedTuple):
    """Call a hook or handler, at home; answered with an Outcome."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    is_async: bool


class Sleep(NamedTuple):
    """Wait; answered with True where the run goes on, with False where it was stopped meanwhile."""

    seconds: float


class Await(NamedTuple):
    """Wait for a computation of another run; answered like Sleep."""

    flight: Flight


Effect = Attempt | Invoke | Sleep | Await


def interpret(
    effects: Generator[Effect, Any, Outcome],
    call: Callable[[Attempt | Invoke], Outcome],
    sleep: Callable[[float], None],
) -> Outcome:
    """Carry effects out in this thread, to their end."""
    answer: Any = None
    try:
        while True:
            effect = effects.send(answer)
            if isinstance(effect, (Attempt, Invoke)):
                answer = call(effect)
                continue
            if isinstance(effect, Sleep):
                sleep(effect.seconds)
            else:
                effect.flight.wait()
            answer = True
    except StopIteration as stop:
        outcome: Outcome = stop.value
        return outcome
