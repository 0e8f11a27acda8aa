"""Outcome, and the effects that a node call asks its driver to carry out.

A node call that is more than the bare function is a generator. It yields effects, and the driver
sends back how each of them ended. An exception of user code is sent back as `Raised`; it never
propagates through the generator.
"""

from __future__ import annotations

from io import IOBase
from sys import modules
from threading import TIMEOUT_MAX
from types import CoroutineType

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


class _Kinds(dict[type, bool]):
    """What is known of the classes of values; asked for with `[]`, which costs a look-up.

    It keeps only classes that live as long as the program or their modules do, so that it frees all
    others."""

    __slots__ = ("_finds",)

    def __init__(self, finds: Callable[[type], bool]) -> None:
        self._finds = finds

    def __missing__(self, kind: type) -> bool:
        found = self._finds(kind)
        home, name = modules.get(str(kind.__module__)), kind.__name__
        lives = not kind.__flags__ & _MADE_AT_RUN_TIME  # NoneType, too, which no module names
        if lives or getattr(home, "__dict__", {}).get(name) is kind:
            self[kind] = found
        return found


_MADE_AT_RUN_TIME: Final = 1 << 9
"""CPython's Py_TPFLAGS_HEAPTYPE: a class that may be freed."""


def _is_one_shot(kind: type) -> bool:
    has: set[str] = set()
    for each in kind.__mro__:
        has.update(vars(each).keys() & _TELLING)
    if not has & {"__next__", "__anext__"} or issubclass(kind, IOBase):
        return False
    # A cursor or a file can be asked again, or moved back. So can a reader of chunks of a frame,
    # but who goes through its chunks does that once. Whatever makes up its attributes may have
    # those of a file: a proxy of one, a mock.
    return "get_chunk" in has or not has & {"read", "execute", "fetchone", "__getattr__"}


_TELLING: Final = {
    *("__next__", "__anext__", "read", "execute", "fetchone", "get_chunk", "__getattr__")
}

ONE_SHOT: Final = _Kinds(_is_one_shot)
"""Whether values of a class can be gone through once only, so that one consumer may have them: all
iterators but files and cursors.

>>> ONE_SHOT[enumerate], ONE_SHOT[list]
(True, False)
"""
LOOKED_AT: Final = _Kinds(lambda kind: kind in (CoroutineType, Outcome) or ONE_SHOT[kind])
"""Whether results of a class are not simply stored."""


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
    `cleans_up` may end even if its run is cut short meanwhile. `role` names the thread of a map
    that the call belongs to, "" if any will do."""

    __slots__ = ("args", "cleans_up", "func", "is_async", "role")

    def __init__(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        is_async: bool,
        cleans_up: bool = False,
        role: str = "",
    ) -> None:
        self.role = role
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


class Surround(Fields):
    """Call a hook with `args` and with a function `call`, in which the driver carries out `inner`;
    answered like an Attempt. `outcome` is how `inner` ended, None if the hook did not call it."""

    __slots__ = ("args", "func", "inner", "is_async", "outcome")

    def __init__(
        self, func: Callable[..., Any], args: tuple[Any, ...], is_async: bool, inner: Effects
    ) -> None:
        self.func = func
        self.args = args
        self.is_async = is_async
        self.inner = inner
        self.outcome: Outcome | None = None


class Sleep(Fields):
    """Wait; answered with True if the run goes on, with False if it was stopped meanwhile."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class Await(Fields):
    """Wait until something is ready, such as a computation of another run or the token of a
    limiter; answered like Sleep. A wait that `cleans_up` goes on to its end even if the run is cut
    short meanwhile. One that is not `timed` counts in no timeout."""

    __slots__ = ("cleans_up", "timed", "waitable")

    def __init__(self, waitable: Waitable, cleans_up: bool = False, timed: bool = True) -> None:
        self.waitable = waitable
        self.cleans_up = cleans_up
        self.timed = timed


class Raised(Fields):
    """The answer to a call that raised.

    Told by `type()`: another answer may be a proxy, which may raise when `isinstance()` asks it.
    """

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


if TYPE_CHECKING:
    Attempt = tuple[Sequence[Any], dict[str, Any]]
    """Call the node's function with these arguments; answered with its value, or with Raised."""
    Effect = Attempt | Invoke | Surround | Sleep | Await
    Effects = Generator[Effect, Any, Outcome]


def bare_effects(attempt: Attempt) -> Effects:
    """A call with nothing around it, as effects."""
    answer = yield attempt
    if type(answer) is Raised:
        return Outcome(False, answer.error)
    return Outcome(True, answer)


def ended(outcome: Outcome) -> Effects:
    """A call that has ended, as effects."""
    return outcome
    yield


def interpret(
    effects: Effects,
    func: Callable[..., Any],
    call: Callable[..., Any],
    wait: Callable[..., Any],
    sleep: Callable[[float], None],
) -> Outcome:
    """Carry out all effects in this thread.

    `func` is the node's function. `call(f, *args, **kwargs)` calls the function and the hooks.
    `wait(coroutine)` returns the result of a coroutine that one of them returned; its second
    argument is True inside of an around hook, whose contextvars the thread has entered already.
    `sleep(seconds)` waits.
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
            elif isinstance(effect, Surround):
                inside = _Inside(effect, func, wait, sleep)
                try:
                    answer = call(effect.func, *effect.args, inside.call)
                except failures() as error:
                    answer = Raised(error)  # type: ignore[arg-type]
                inside.raise_what_interrupted()
                continue
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


class _Inside:
    """What a hook that surrounds a call is given as `call`, where that is made in its thread."""

    def __init__(
        self,
        effect: Surround,
        func: Callable[..., Any],
        wait: Callable[..., Any],
        sleep: Callable[[float], None],
    ) -> None:
        self.effect = effect
        self._interpreted = func, bare_call, lambda it: wait(it, True), sleep
        self._interrupted: BaseException | None = None
        self._is_called = False

    def call(self) -> Any:
        """Carry out what is inside: its value. Raises what it ended with."""
        if self._is_called:
            raise RuntimeError("an around hook calls call() once; it did so again")
        self._is_called = True
        try:
            outcome = self.effect.outcome = interpret(self.effect.inner, *self._interpreted)
        except BaseException as error:
            self._interrupted = error
            raise
        if not outcome.ok:
            raise outcome.value
        return outcome.value

    def raise_what_interrupted(self) -> None:
        """Raise what ended the program, say, also if the hook swallowed that."""
        if self._interrupted is not None:
            raise self._interrupted


def bare_call(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function in the contextvars that the thread is in."""
    return func(*args, **kwargs)
