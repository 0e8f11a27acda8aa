"""How long tests wait, on a machine that may be busy.

assert event.wait(LONG)              what must happen, and at once

for timeout in timeouts():           a deadline by which something must have begun
    run = dag.execute(timeout=timeout)
    if begun:
        break
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG = 100.0
"""Seconds after which something that must happen, and at once, is taken to happen never."""


def timeouts(first: float = 0.1) -> Iterator[float]:
    """Longer and longer timeouts, of which a test takes the first that left the time to begin what
    it is about: on an idle machine the first of all. One that ends what has begun needs no more."""
    while first < LONG / 2:
        yield first
        first *= 2
    raise AssertionError("it has not begun, however much time it had")
