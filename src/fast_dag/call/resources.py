"""Resources of a run: opened at their first use, closed when the run ends."""

from __future__ import annotations

from threading import Lock
from types import MethodType

from fast_dag.cache.flight import Flight
from fast_dag.call.effects import STOPPED, Await, Invoke, Outcome, Raised
from fast_dag.call.hooks import Hook
from fast_dag.errors import InvalidNodeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from typing import Any

    from fast_dag.call.effects import Effect
    from fast_dag.context import Context
    from fast_dag.run import Run

    Steps = Generator[Effect, Any, Outcome]


def read_factory(name: str, factory: Any) -> Hook:
    """What opens a resource, read once. Raises InvalidNodeError where that cannot be called."""
    if not callable(factory):
        raise InvalidNodeError(
            f"resource {name!r}: the factory is a function that makes a context manager, "
            f"or a generator function, not {factory!r}",
            node=None,
        )
    import contextlib  # slow to import, like the next, and needed here only
    import inspect

    hook = Hook.read(factory, ("context",), f"factory of resource {name!r}, a")
    wrap: Any = None
    if inspect.isgeneratorfunction(factory):
        wrap = contextlib.contextmanager
    elif inspect.isasyncgenfunction(factory):
        wrap = contextlib.asynccontextmanager
    return hook if wrap is None else Hook(wrap(factory), hook.takes, False)


class Resources:
    """The resources of one run, by name; each is opened once, whoever comes first."""

    def __init__(self, factories: Mapping[str, Hook], context: Context) -> None:
        self._factories = factories
        self._context = context
        self._lock = Lock()
        self._flights: dict[str, Flight] = {}
        self._values: dict[str, Any] = {}
        self._open: list[tuple[str, Any]] = []  # with their context managers
        self._ended = False

    def open(self, name: str, run: Run) -> Steps:
        """The resource, opened by this call or by another; as effects."""
        while True:
            with self._lock:
                if name in self._values:
                    return Outcome(True, self._values[name])
                flight = self._flights.get(name)
                is_own = flight is None
                if flight is None:
                    flight = self._flights[name] = Flight(run)
            if is_own:
                try:
                    return (yield from self._enter(name))
                finally:  # also where the call is given up
                    with self._lock:
                        del self._flights[name]
                    flight.land()
            if not (yield Await(flight)):
                return STOPPED

    def _enter(self, name: str) -> Steps:
        manager = yield self._factories[name].invoke(self._context)
        if isinstance(manager, Raised):
            return Outcome(False, manager.error)
        entering = _method(manager, "__enter__", "__aenter__")
        leaving = _method(manager, "__exit__", "__aexit__")
        if entering is None or leaving is None:
            problem = TypeError(
                f"the factory of resource {name!r} returned a {type(manager).__name__}, which is "
                "no context manager; yield it from a generator function, which closes it after "
                "the yield, or wrap it in contextlib.closing"
            )
            return Outcome(False, problem)
        enter, is_async = entering
        leave = leaving[0]

        def entered() -> Any:
            value = enter()
            if self._is_late(name, manager, value):
                leave(None, None, None)
            return value

        async def entered_async() -> Any:
            value = await enter()
            if self._is_late(name, manager, value):
                await leave(None, None, None)
            return value

        # Noted where it is entered: the call may be given up before its outcome is looked at.
        answer = yield Invoke(entered_async if is_async else entered, (), is_async)
        if isinstance(answer, Raised):
            return Outcome(False, answer.error)
        return Outcome(True, answer)

    def _is_late(self, name: str, manager: Any, value: Any) -> bool:
        """Keep what was opened, unless nobody is there any more to close it."""
        with self._lock:
            if not self._ended:
                self._open.append((name, manager))
                self._values[name] = value
            return self._ended

    def end(self) -> bool:
        """Open nothing more; whether something is to be closed."""
        with self._lock:
            self._ended = True
            return bool(self._open)

    def close(
        self, error: BaseException | None, told: Callable[[str, Exception], None]
    ) -> Generator[Invoke, Any, Outcome]:
        """Close what is open, last opened first, as effects; `error` is what ended the run.

        What a closing raises is `told` of, and keeps nothing else from being closed.
        """
        while self._open:
            with self._lock:
                if not self._open:
                    break
                name, manager = self._open.pop()
                self._values.pop(name, None)
            leaving = _method(manager, "__exit__", "__aexit__")
            assert leaving is not None
            leave, is_async = leaving
            given = (None if error is None else type(error), error, _traceback(error))
            answer = yield Invoke(leave, given, is_async)
            if isinstance(answer, Raised) and answer.error is not error:
                error = answer.error  # as in nested `with` statements
                told(name, answer.error)
        return STOPPED


def _traceback(error: BaseException | None) -> Any:
    return None if error is None else error.__traceback__


def _method(manager: Any, sync: str, asynchronous: str) -> tuple[Callable[..., Any], bool] | None:
    """A context manager's method, looked up as `with` does, and whether it is async."""
    for name, is_async in ((sync, False), (asynchronous, True)):
        method = getattr(type(manager), name, None)
        if method is not None:
            return MethodType(method, manager), is_async
    return None
