"""Outcome, and the effects that a node call asks its driver to carry out.

A node call that is more than the bare function is a generator. It yields effects, and the driver
sends back how each of them ended. An exception of user code is sent back as `Raised`; it never
propagates through the generator.
"""

from __future__ import annotations

from threading import TIMEOUT_MAX
from types import AsyncGeneratorType, CoroutineType, GeneratorType

from fast_dag._fields import Fields
from fast_dag.errors import failures

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from typing import Any, Final, Protocol

    class Waitable(Protocol):
        """Something that becomes ready once and stays ready."""

        def wait(self) -> None:
            """Block until it is ready."""

        def when_ready(self, callback: Callable[[], None], /) -> None:
            """Call `callback` once it is ready, in any thread; at once if it is ready already."""


ONE_SHOT: Final = frozenset({GeneratorType, AsyncGeneratorType, map, filter, zip})
"""Iterators that can be consumed once only, so that only one node may take them."""
LOOKED_AT: Final = ONE_SHOT | {CoroutineType}
"""The types of results that need more than being stored."""


class Outcome(Fields):
    """How a node's call ended.

    `value` is the value if `ok`, else the exception. `where` says what raised it, such as "cleanup
    hook", None for the node's own function. `attempts` counts the calls of the function. `cached`
    is True if the value came from the node's cache, False if it was computed, None if the node has
    no cache. `verdict` is what the outcome means to the run, once that has been judged.
    """

    __slots__ = ("attempts", "cached", "ok", "value", "verdict", "where")

    def __init__(
        self,
        ok: bool,
        value: Any,
        attempts: int = 1,
        where: str | None = None,
        cached: bool | None = None,
    ) -> None:
        self.ok = ok
        self.value = value
        self.attempts = attempts
        self.where = where
        self.cached = cached
        self.verdict: Any = None

    def answer(self) -> Any:
        """The outcome as the answer to an effect: the value, or Raised."""
        return self.value if self.ok else Raised(self.value)


STOPPED: Final = Outcome(False, None, attempts=0)
"""The outcome of a call that was given up because its run was stopped."""


class Invoke(Fields):
    """Call a hook or handler in the process of the run; answered like an Attempt. A call with
    `cleans_up` may end even if its run is cut short meanwhile."""

    __slots__ = ("args", "cleans_up", "func", "is_async")

    def __init__(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        is_async: bool,
        cleans_up: bool = False,
    ) -> None:
        self.func = func
        self.args = args
        self.is_async = is_async
        self.cleans_up = cleans_up


LONGEST: Final = min(100 * 365.25 * 24 * 3600, TIMEOUT_MAX)
"""The longest wait, in seconds: a hundred years, or the longest that locks can wait, if that is
less. `time.sleep`, locks or event loops raise for longer ones, depending on the platform."""


def waitable(seconds: float) -> float:
    """`seconds`, but at most `LONGEST`. An integer may be larger than any float.

    >>> waitable(0.5), waitable(float("inf")) == waitable(10**400) == LONGEST
    (0.5, True)
    """
    return min(seconds, LONGEST)


class Sleep(Fields):
    """Wait; answered with True if the run goes on, with False if it was stopped meanwhile."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class Await(Fields):
    """Wait until something is ready, such as a computation of another run or the token of a
    limiter; answered like Sleep."""

    __slots__ = ("waitable",)

    def __init__(self, waitable: Waitable) -> None:
        self.waitable = waitable


class Raised(Fields):
    """The answer to a call that raised."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


if TYPE_CHECKING:
    Attempt = tuple[Sequence[Any], dict[str, Any]]
    """Call the node's function with these arguments; answered with its value, or with Raised."""
    Effect = Attempt | Invoke | Sleep | Await
    Effects = Generator[Effect, Any, Outcome]


def bare_effects(attempt: Attempt) -> Effects:
    """A call with nothing around it, as effects."""
    answer = yield attempt
    if isinstance(answer, Raised):
        return Outcome(False, answer.error)
    return Outcome(True, answer)


def interpret(
    effects: Effects,
    func: Callable[..., Any],
    call: Callable[..., Any],
    wait: Callable[[Any], Any],
    sleep: Callable[[float], None],
) -> Outcome:
    """Carry out all effects in this thread.

    `func` is the node's function. `call(f, *args, **kwargs)` calls the function and the hooks.
    `wait(coroutine)` returns the result of a coroutine that one of them returned. `sleep(seconds)`
    waits.
    """
    answer: Any = None
    args: Sequence[Any]
    try:
        while True:
            effect = effects.send(answer)
            if isinstance(effect, Invoke):
                called, args, kwargs = effect.func, effect.args, _NO_KEYWORDS
            elif isinstance(effect, tuple):
                called, (args, kwargs) = func, effect
            else:
                if isinstance(effect, Sleep):
                    sleep(effect.seconds)
                else:
                    effect.waitable.wait()
                answer = True
                continue
            try:
                answer = call(called, *args, **kwargs)
                if type(answer) is CoroutineType:
                    answer = wait(answer)
            except failures() as error:
                answer = Raised(error)  # type: ignore[arg-type]  # may be a CancelledError
    except StopIteration as stop:
        outcome: Outcome = stop.value
        return outcome
    except BaseException:
        effects.close()
        raise


_NO_KEYWORDS: Final[dict[str, Any]] = {}
