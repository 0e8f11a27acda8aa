"""Resources of a run: opened at their first use, closed when the run ends.

A resource is opened and closed in the same contextvars Context, an async one in the same task, so
that it may use ContextVar tokens, task groups and cancel scopes.
"""

from __future__ import annotations

from collections import ChainMap
from contextlib import suppress
from contextvars import copy_context
from copy import copy
from functools import wraps
from threading import Lock
from types import CoroutineType, MethodType

from fast_dag._frames import trace_of
from fast_dag.cache.single_flight import SingleFlight
from fast_dag.call.effects import STOPPED, Await, Invoke, Outcome, Raised
from fast_dag.call.hooks import Hook
from fast_dag.errors import InvalidNodeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from asyncio import Event, Future, Task
    from collections.abc import AsyncGenerator, Callable, Generator, Mapping
    from contextvars import Context as Variables
    from typing import Any

    from fast_dag.call.effects import Effect
    from fast_dag.call.host import Host
    from fast_dag.context import Context

    Steps = Generator[Effect, Any, Outcome]


def read_factory(name: str, factory: Any) -> Hook:
    """The factory of a resource, with its signature read. Raises InvalidNodeError if it cannot be
    called."""
    if not callable(factory):
        raise InvalidNodeError(
            f"resource {name!r}: the factory is a function that makes a context manager, "
            f"or a generator function, not {factory!r}",
            node=None,
        )
    import inspect  # slow to import, and needed here only

    hook = Hook.read(factory, ("context",), f"factory of resource {name!r}, a")
    resumed: Any = None
    if inspect.isgeneratorfunction(factory):
        resumed = _Resumed
    elif inspect.isasyncgenfunction(factory):
        resumed = _ResumedAsync
    if resumed is None:
        return hook
    return Hook(wraps(factory)(lambda *args: resumed(factory(*args))), hook.takes, False)


class _Resumed:
    """The context manager made from a generator. The code after its `yield` runs however the run
    ended, and is not told of a failure."""

    def __init__(self, generator: Generator[Any, Any, Any]) -> None:
        self._generator = generator

    def __enter__(self) -> Any:
        try:
            return next(self._generator)
        except StopIteration:
            raise RuntimeError("the generator function of a resource did not yield") from None

    def __exit__(self, *ended_by: object) -> None:
        try:
            next(self._generator)
        except StopIteration:
            return
        self._generator.close()
        raise RuntimeError("the generator function of a resource yielded more than once")


class _ResumedAsync:
    """The context manager made from an async generator. If the generator's own task group cancelled
    its task, the `yield` raises that CancelledError."""

    def __init__(self, generator: AsyncGenerator[Any, Any]) -> None:
        self._generator = generator

    async def __aenter__(self) -> Any:
        try:
            return await anext(self._generator)
        except StopAsyncIteration:
            raise RuntimeError("the generator function of a resource did not yield") from None

    async def __aexit__(self, kind: object, ended_by: BaseException | None, where: object) -> None:
        from asyncio import CancelledError

        try:
            if isinstance(ended_by, CancelledError):
                await self._generator.athrow(ended_by)
            else:
                await anext(self._generator)
        except StopAsyncIteration:
            return
        await self._generator.aclose()
        raise RuntimeError("the generator function of a resource yielded more than once")


class _Metadata(ChainMap[str, object]):
    """The metadata of a nested run, as its resources see them: shared with the outermost run,
    except for the status, which is the nested run's own as soon as that is known."""

    def __init__(self, shared: dict[str, Any]) -> None:
        super().__init__({}, shared)

    def __setitem__(self, key: str, value: Any) -> None:
        self.maps[1][key] = value

    def __delitem__(self, key: str) -> None:
        del self.maps[1][key]


class Resources:
    """The resources of one host, by name. The first call that needs a resource opens it.

    `when_lost` is called after a resource broke while it was open, and the host was told.
    """

    def __init__(
        self, factories: Mapping[str, Hook], context: Context, *, is_nested: bool = False
    ) -> None:
        self._factories = factories
        self.context = context
        if is_nested:  # the nested run ends, while the outermost, whose metadata it has, goes on
            self.context = copy(context)
            self.context.metadata = _Metadata(context.metadata)  # type: ignore[assignment]
        self._lock = Lock()
        self._flights: dict[str, SingleFlight] = {}
        self._open: dict[str, _Opened] = {}  # in the order in which they were opened
        self._ended = False
        self.when_lost: Callable[[], None] | None = None

    def set_status(self, status: str) -> None:
        """Set the status that the resources of this run, but not those of others, see."""
        metadata = self.context.metadata
        known = metadata.maps[0] if isinstance(metadata, _Metadata) else metadata
        known["execution_status"] = status

    # Opening.

    def open(self, name: str, host: Host) -> Steps:
        """Return the resource, opened by this call or by another one; as effects."""
        while True:
            with self._lock:
                opened = self._open.get(name)
                if opened is not None:
                    return Outcome(True, opened.value)
                flight = self._flights.get(name)
                is_own = flight is None
                if flight is None:
                    flight = self._flights[name] = SingleFlight(host)
            if is_own:
                try:
                    return (yield from self._enter(name, host))
                finally:  # also if the call is given up
                    with self._lock:
                        del self._flights[name]
                    flight.finish()
            if not (yield Await(flight)):
                return STOPPED

    def _enter(self, name: str, host: Host) -> Steps:
        factory = self._factories[name]
        opening = _Opening(self, name, factory, factory.offered(self.context), host)
        answer: Any = None
        if not factory.is_async:
            answer = yield Invoke(opening.open, (), False)
        if not isinstance(answer, (Raised, _Opened)):  # it must be opened on a loop
            answer = yield Invoke(opening.open_async, (), True)
        if isinstance(answer, Raised):
            return Outcome(False, answer.error)
        return Outcome(True, answer.value)

    def keep(self, name: str, opened: _Opened) -> bool:
        """Keep an opened resource, so that it is closed at the end. Called right where it is
        opened, because the call that opens it may be given up before its outcome is read. False if
        the run has ended: then the caller must close it."""
        with self._lock:
            if not self._ended:
                self._open[name] = opened
            return not self._ended

    # Closing.

    def end(self) -> bool:
        """Open nothing more. Returns whether some resource is open."""
        with self._lock:
            self._ended = True
            return bool(self._open)

    def close(
        self, error: BaseException | None, report: Callable[[str, BaseException], None]
    ) -> Generator[Invoke, Any, Outcome]:
        """Close the open resources, the last opened first, as effects; `error` is what ended the
        run.

        If closing one raises, `report` is called with its name and the error, and the others are
        closed nevertheless.
        """
        while True:
            with self._lock:
                if not self._open:
                    return STOPPED
                name, opened = self._open.popitem()
            answer = yield Invoke(opened.close, (error,), opened.is_async, True)
            if type(answer) is Raised and not _is_all_of(answer.error, error):
                if isinstance(answer.error, Exception):
                    error = answer.error  # as in nested `with` statements
                report(name, answer.error)

    def forget(self, name: str) -> bool:
        """Drop a resource that broke. Returns whether it was open; if not, it is being closed, and
        what it raises is told there."""
        with self._lock:
            return self._open.pop(name, None) is not None


class _Opened:
    """An open resource: its `value`, and how to close it."""

    is_async = False

    def __init__(self, value: Any, leave: Callable[..., Any], variables: Variables) -> None:
        self.value = value
        self._leave = leave
        self._variables = variables

    def close(self, error: BaseException | None) -> Any:
        """Close it; `error` is what ended the run."""
        self._variables.run(self._leave, *_exit_arguments(error))


class _OpenedInTask(_Opened):
    """An open resource whose own task waits until it must close it."""

    is_async = True

    def __init__(self, value: Any, task: Task[None], asked: Event) -> None:
        self.value = value
        self.ended_by: BaseException | None = None
        self.raised: BaseException | None = None
        self._task = task
        self._asked = asked

    async def close(self, error: BaseException | None) -> None:
        """Close it in its own task."""
        self.ended_by = error
        self._asked.set()
        await _end_of(self._task)
        if self.raised is not None:
            raised, self.raised = self.raised, None
            raise raised


class _Opening:
    """One attempt to open a resource."""

    def __init__(
        self,
        resources: Resources,
        name: str,
        factory: Hook,
        offered: tuple[Any, ...],
        host: Host,
    ) -> None:
        self._resources = resources
        self._name = name
        self._make: Callable[[], Any] | None = lambda: factory.func(*offered)
        self._host = host
        self._manager: Any = None
        self._failure: BaseException | None = None
        self._variables: Variables | None = None

    def open(self) -> _Opened | None:
        """Open it in this thread; None if it must be opened on a loop."""
        assert self._make is not None
        variables = self._variables = copy_context()
        self._manager, self._make = variables.run(self._make), None
        methods = _methods(self._name, self._manager)
        if methods is None or methods[2]:
            return None
        enter, leave, _ = methods
        opened = _Opened(variables.run(enter), leave, variables)
        if not self._resources.keep(self._name, opened):
            opened.close(None)
        return opened

    async def open_async(self) -> _Opened:
        """Open it in a task of its own, which then waits until it must close it."""
        import asyncio

        loop = asyncio.get_running_loop()
        opened: Future[_Opened] = loop.create_future()
        task = loop.create_task(self._live(opened), context=self._variables or copy_context())
        try:
            both: list[Future[Any]] = [opened, task]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            if not opened.done():
                task.cancel()
                await _finished(task)
            raise
        if self._failure is not None:
            raise self._failure
        return opened.result()

    async def _live(self, opened: Future[_Opened]) -> None:
        """The life of an async resource: open it, wait, close it.

        The task raises nothing itself, because a SystemExit or KeyboardInterrupt would stop the
        loop."""
        import asyncio

        task = asyncio.current_task()
        assert task is not None
        try:
            manager = self._manager if self._make is None else self._make()
            if type(manager) is CoroutineType:
                manager = await manager
            methods = _methods(self._name, manager)
            assert methods is not None
            enter, leave, is_async = methods
            value = await enter() if is_async else enter()
        except BaseException as error:
            self._failure = error
            return
        asked = asyncio.Event()
        this = _OpenedInTask(value, task, asked)
        is_kept = self._resources.keep(self._name, this)
        opened.set_result(this)
        cancelled = await self._cancellation(asked) if is_kept else None
        if self._is_given_up:
            this.ended_by, cancelled = cancelled, None
        is_lost = cancelled is not None and self._resources.forget(self._name)
        broken = cancelled if is_lost else None
        arguments = _exit_arguments(broken or this.ended_by)
        if broken is None and isinstance(manager, _ResumedAsync):
            arguments = _exit_arguments(None)
        try:
            left = leave(*arguments)
            if is_async:
                await left
        except BaseException as raised:
            this.raised = raised
            broken = broken and raised
        del this
        if broken is not None:
            self._host.lose(self._name, broken)
            if self._resources.when_lost is not None:
                self._resources.when_lost()

    async def _cancellation(self, asked: asyncio.Event) -> BaseException | None:
        """Wait until the resource must be closed. Returns the CancelledError if the resource itself
        cancelled this task before that, or the loop that ends did so after the run was given up,
        else None."""
        import asyncio

        while not asked.is_set():
            try:
                await asked.wait()
            except asyncio.CancelledError as cancelled:
                # A loop that ends cancels all tasks. The run's own task is then cancelled, too, and
                # sets `asked` or stops the run during this pause.
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)
                if self._is_given_up or not self._host.stopped:
                    return cancelled
        return None

    @property
    def _is_given_up(self) -> bool:
        """Whether the run ended while this was open, as by a second Ctrl-C: nobody will ask."""
        return self._host.home.status != "running"


async def _finished(task: Task[None]) -> None:
    """Wait until a task has ended, even if the caller is cancelled again meanwhile."""
    import asyncio

    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            continue


async def _end_of(task: Task[None]) -> None:
    """Wait until a task has ended. If the caller is cancelled, the task is cancelled, too."""
    import asyncio

    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        task.cancel()
        await _finished(task)
        raise


def _exit_arguments(error: BaseException | None) -> tuple[Any, Any, Any]:
    """The arguments of `__exit__` for the failure that ended the run."""
    return (None, None, None) if error is None else (type(error), error, trace_of(error))


def _is_all_of(raised: BaseException, error: BaseException | None) -> bool:
    """Whether a context manager only raised the error that it was given, perhaps wrapped in a
    group, as task groups do."""
    if isinstance(raised, BaseExceptionGroup):
        return all(_is_all_of(each, error) for each in raised.exceptions)
    return raised is error


def _methods(name: str, manager: Any) -> tuple[Callable[[], Any], Callable[..., Any], bool] | None:
    """The bound methods that enter and leave a context manager, looked up on its class as `with`
    does, and whether they are async. None for a coroutine, which must be awaited to get the
    manager. Raises TypeError for anything else."""
    if type(manager) is CoroutineType:
        return None
    for enter, leave, is_async in (
        ("__enter__", "__exit__", False),
        ("__aenter__", "__aexit__", True),
    ):
        methods = [getattr(type(manager), each, None) for each in (enter, leave)]
        if None not in methods:
            bound = [MethodType(each, manager) for each in methods if each is not None]
            return bound[0], bound[1], is_async
    raise TypeError(
        f"the factory of resource {name!r} returned a {type(manager).__name__}, which is "
        "no context manager; yield it from a generator function, which closes it after "
        "the yield, or wrap it in contextlib.closing"
    )
