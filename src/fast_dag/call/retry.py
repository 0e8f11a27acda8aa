"""Which failures are tried again, and after which delay."""

from __future__ import annotations

from fast_dag.call.effects import LONGEST, waitable
from fast_dag.define.options import OPTIONS
from fast_dag.errors import add_note, brief_of, failures

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final

_DELAY: Final = OPTIONS["retry_delay"].default
_BACKOFF: Final = OPTIONS["retry_backoff"].default


def wait_after(attempt: int, options: Mapping[str, Any]) -> float:
    """Seconds to wait after failure number `attempt`: exponential backoff,
    `retry_delay * retry_backoff ** (attempt - 1)`, at most `retry_max_delay` and
    `LONGEST`, then shortened at random by up to the fraction `retry_jitter`.

    >>> [wait_after(k, {"retry_delay": 1.0, "retry_max_delay": 3.0}) for k in (1, 2, 3)]
    [1.0, 2.0, 3.0]
    """
    wait = waitable(options.get("retry_delay", _DELAY))
    most = options.get("retry_max_delay")
    if wait and attempt > 1:  # 0 must stay 0, even with an infinite backoff
        try:
            wait *= float(options.get("retry_backoff", _BACKOFF)) ** (attempt - 1)
        except OverflowError:
            wait = LONGEST
    wait = float(min(waitable(wait), LONGEST if most is None else most))
    jitter = options.get("retry_jitter")
    if not jitter:
        return wait
    import random  # slow to import

    shortened: float = wait * (1 - random.random() * jitter)
    return shortened


def is_retried(error: BaseException, options: Mapping[str, Any]) -> bool:
    """Whether `retry_on` admits a failure. It does not if it is a predicate that raises; the
    failure then gets a note.

    >>> is_retried(KeyError("x"), {"retry_on": LookupError})
    True
    """
    wanted = options.get("retry_on")
    if wanted is None:
        return True
    if isinstance(wanted, (type, tuple)):
        return isinstance(error, wanted)
    try:
        return bool(wanted(error))
    except failures() as raised:
        add_note(error, f"retry_on raised for it: {brief_of(raised)}")
        return False
