"""Attempts and the waits between them, as a generator of effects that drivers interpret.

A user call never raises through the generator: it is answered with an `Outcome`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from fast_dag.node import Node


class Outcome(NamedTuple):
    """How a call ended: its value, or the exception it raised."""

    ok: bool
    value: Any
    attempts: int = 1


class Call(NamedTuple):
    """Effect: call the node's function; answered with an Outcome."""


class Sleep(NamedTuple):
    """Effect: wait; answered with None."""

    seconds: float


CALL = Call()


def attempts(node: Node[..., Any]) -> Generator[Call | Sleep, Outcome | None, Outcome]:
    """Call a node's function until it succeeds or nothing more is to be tried.

    >>> from fast_dag.node import Node
    >>> effects = attempts(Node(lambda: 0, "flaky", retry=1, retry_delay=0.5))
    >>> next(effects)
    Call()
    >>> effects.send(Outcome(False, ValueError("not yet")))
    Sleep(seconds=0.5)
    """
    retry = node.retry
    attempt = 0
    while True:
        attempt += 1
        outcome = yield CALL
        assert outcome is not None
        if outcome.ok or attempt > retry or not _is_retried(node, outcome.value):
            return Outcome(outcome.ok, outcome.value, attempt)
        yield Sleep(wait_after(attempt, node.options))


def wait_after(attempt: int, options: dict[str, Any]) -> float:
    """Seconds to wait after the `attempt`-th failure: exponential backoff,
    `retry_delay * retry_backoff ** (attempt - 1)`, at most `retry_max_delay`, then shortened at
    random by up to the part `retry_jitter`.

    >>> [wait_after(k, {"retry_delay": 1.0, "retry_max_delay": 3.0}) for k in (1, 2, 3)]
    [1.0, 2.0, 3.0]
    """
    delay = options.get("retry_delay", 0.1)
    most = options.get("retry_max_delay")
    try:
        wait = float(delay * options.get("retry_backoff", 2.0) ** (attempt - 1))
    except OverflowError:
        wait = float("inf")
    if most is not None:
        wait = min(wait, float(most))
    jitter = options.get("retry_jitter", False)
    if not jitter:
        return wait
    import random  # slow to import

    shortened: float = wait * (1 - random.random() * jitter)
    return shortened


def _is_retried(node: Node[..., Any], error: BaseException) -> bool:
    wanted = node.options.get("retry_on")
    if wanted is None:
        return True
    if isinstance(wanted, (type, tuple)):
        return isinstance(error, wanted)
    return bool(wanted(error))


def interpret(
    effects: Generator[Call | Sleep, Outcome | None, Outcome],
    call: Callable[[], Outcome],
    sleep: Callable[[float], None],
) -> Outcome:
    """Run effects to their end in this thread."""
    answer: Outcome | None = None
    try:
        while True:
            effect = effects.send(answer)
            if isinstance(effect, Sleep):
                sleep(effect.seconds)
                answer = None
            else:
                answer = call()
    except StopIteration as stop:
        result: Outcome = stop.value
        return result
