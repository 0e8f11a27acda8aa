"""Turns: how long tasks that never wait may keep an event loop from all others."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

_TURN: Final = 0.01
"""Seconds that the tasks of all runs on a loop go on, together, before the loop goes round."""

_ends: WeakKeyDictionary[AbstractEventLoop, float] = WeakKeyDictionary()


def turn_ends() -> float:
    """When a task on the running loop must yield, by the clock. A task that is resumed after that
    makes one call, and yields: so none starves, and however many there are, others wait for little
    more than `_TURN`."""
    import asyncio  # slow to import

    loop = asyncio.get_running_loop()
    ends = _ends.get(loop)
    if ends is None:
        ends = _ends[loop] = perf_counter() + _TURN
        loop.call_soon(_ends.pop, loop, None)  # called when the loop has gone round
    return ends
