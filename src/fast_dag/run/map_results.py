"""The results of a map as its `into` function takes them: one by one, as soon as they are there."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from threading import Condition
from typing import TYPE_CHECKING, Any, Final

from fast_dag.define.signature import ABSENT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from typing import Protocol

    class Making(Protocol):
        """The map that makes the results."""

        call_soon: Callable[[], None]

        def ended(self) -> Exception | None:
            """What a further result must not be waited for after: the error of the map, or one that
            says that its results cannot be taken any more."""

        @property
        def is_done(self) -> bool:
            """Whether no further result will come."""
            ...


END: Final = object()
"""Stands for a result where there are no more of them, and for that of an item that is left out."""


class Results:
    """Results by the number of their item, in order if `ordered`, else as they came."""

    def __init__(self, making: Making, *, ordered: bool) -> None:
        self.taken = 0  # or left out: they wait for nobody
        self._is_full = False  # whether the map is to be told when one is taken
        self.next_number = 0  # that is next in order
        self._making = making
        self._ordered = ordered
        self._there: dict[int, Any] = {}
        self._in_turn: deque[int] = deque()
        self._changed = Condition()
        self._waits: Any = None  # the loop and the event of an async function that waits

    def put(self, number: int, value: Any) -> None:
        """A result is there; `END` if the item is left out."""
        with self._changed:
            self.taken += value is END
            self._there[number] = value
            if not self._ordered:
                self._in_turn.append(number)
        self.notify()

    def has_room(self, pulled: int, most: int) -> bool:
        """Whether fewer than `most` of the items that were `pulled` wait to be taken. If not, the
        map is told when one is."""
        if pulled - self.taken < most:
            return True
        with self._changed:
            self._is_full = pulled - self.taken >= most
            return not self._is_full

    def _made_room(self) -> None:
        """Tell the map that a result was taken, if it waits for that."""
        if self._is_full:
            self._is_full = False
            self._making.call_soon()

    def notify(self) -> None:
        """Wake whoever waits for a result, because something has changed."""
        with self._changed:
            self._changed.notify_all()
        waits, self._waits = self._waits, None
        if waits is not None:
            with suppress(RuntimeError):  # the loop was closed
                waits[0].call_soon_threadsafe(waits[1].set)

    def clear(self) -> None:
        """Drop what nobody has taken."""
        with self._changed:
            self._there.clear()
            self._in_turn.clear()
        self.notify()

    def next(self, *, wait: bool) -> Any:
        """The next result; `END` after the last one; ABSENT if it is not there, unless the thread
        is to `wait` for it. Raises what ended the map."""
        making, there = self._making, self._there
        with self._changed:
            while True:
                error = making.ended()
                if error is not None:
                    raise error
                number = self._next_number()
                if number is not None:
                    self.next_number += 1
                    value = there.pop(number)
                    if value is not END:
                        self.taken += 1
                        return value
                elif making.is_done and not there:
                    return END
                elif wait:
                    self._changed.wait()
                else:
                    return ABSENT

    async def next_async(self) -> Any:
        """The same for code on an event loop, which waits."""
        import asyncio  # slow to import

        loop, event = asyncio.get_running_loop(), asyncio.Event()
        while True:
            event.clear()
            self._waits = loop, event
            result = self.next(wait=False)
            if result is not ABSENT:
                return result
            await event.wait()

    def _next_number(self) -> int | None:
        if self._ordered:
            return self.next_number if self.next_number in self._there else None
        return self._in_turn.popleft() if self._in_turn else None

    def ready(self) -> Iterator[Any]:
        """The results that are there, for the thread that makes them itself."""
        while True:
            result = self.next(wait=False)
            if result is ABSENT or result is END:
                return
            yield result

    # As a function takes them: iterators, sync and async.

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        result = self.next(wait=True)
        if result is END:
            raise StopIteration
        self._made_room()
        return result

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        result = await self.next_async()
        if result is END:
            raise StopAsyncIteration
        self._made_room()
        return result
