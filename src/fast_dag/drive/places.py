"""The place of a pool that this thread has, and lends while it waits.

A node that starts a run and waits for it lends its place to that run. Else nested runs could take
all places and wait for each other forever. An around hook lends its place while it waits for calls
in other places.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Protocol

    class Placed(Protocol):
        """A call that a thread of a pool makes."""

        @property
        def pool(self) -> Any: ...


class _Here(threading.local):
    call: Placed | None = None


here = _Here()
"""The call that this thread makes, None if it is of no pool."""


@contextmanager
def place_lent() -> Iterator[None]:
    """While this thread waits, other calls may use its place."""
    call = here.call
    if call is None:
        yield
        return
    call.pool.lend_place(call)
    try:
        yield
    finally:
        call.pool.take_back(call)
