"""Which frames of a traceback are this package's, and tracebacks without them for IPython."""

from __future__ import annotations

import os
import sys
from itertools import pairwise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Final

PACKAGE: Final = os.path.dirname(__file__) + os.sep
"""How the names of this package's files begin."""
_STANDARD: Final = os.path.dirname(os.__file__) + os.sep


def rendered(error: BaseException, kind: type[BaseException]) -> list[str]:
    """The parts of a traceback as IPython shows them, without frames of this package, also in the
    exceptions that led to this one. With `%xmode Verbose` IPython shows all.

    An error of this `kind` says all that there is to know. Of other exceptions, the frames behind
    the last one of the user's stay: they show an error in this package.
    """
    shell_of = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = None if shell_of is None else shell_of()
    if shell is None:  # somebody else asks
        import traceback

        return traceback.format_exception(error)
    chain = [(each, trace_of(each)) for each in _chain(error)]
    try:
        if shell.InteractiveTB.mode != "Verbose":
            for each, trace in chain:
                BaseException.with_traceback(each, _shown(trace, isinstance(each, kind)))
        parts: list[str] = shell.InteractiveTB.structured_traceback(
            type(error), error, trace_of(error)
        )
        return parts
    finally:
        for each, trace in chain:
            BaseException.with_traceback(each, trace)


def trace_of(error: BaseException) -> TracebackType | None:
    """The `__traceback__` of an exception, even if its class has a property of this name."""
    trace: TracebackType | None = BaseException.__dict__["__traceback__"].__get__(error)
    return trace


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and those that Python prints before it."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)


def _shown(trace: TracebackType | None, says_all: bool) -> TracebackType | None:
    """A copy of a traceback without the frames that tell a user nothing."""
    entries: list[TracebackType] = []
    while trace is not None:
        entries.append(trace)
        trace = trace.tb_next
    files = [each.tb_frame.f_code.co_filename for each in entries]
    own = [index for index, file in enumerate(files) if file.startswith(PACKAGE)]
    if not says_all:
        others = set(range(len(files))).difference(own)
        last = max((index for index in others if not _is_python(files[index])), default=-1)
        own = [index for index in own if index < last]
    hidden = set(own)
    for first, last in pairwise(own):
        between = range(first + 1, last)
        if all(_is_python(files[index]) for index in between):  # as asyncio calls this package
            hidden.update(between)
    shown: TracebackType | None = None
    for index in reversed(range(len(entries))):
        if index not in hidden:
            at = entries[index]
            shown = type(at)(shown, at.tb_frame, at.tb_lasti, at.tb_lineno)
    return shown


def _is_python(file: str) -> bool:
    return file.startswith("<frozen") or (
        file.startswith(_STANDARD) and "site-packages" not in file
    )
