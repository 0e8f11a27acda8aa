"""The program of a worker process: import the main script, then make one call after another."""

from __future__ import annotations

import os
import pkgutil
import signal
import sys
import threading
from array import array
from collections import deque
from contextlib import suppress
from importlib.util import find_spec
from multiprocessing import process as current
from time import perf_counter
from types import CoroutineType, ModuleType
from typing import TYPE_CHECKING, Any

from fast_dag.drive import payload, scripts
from fast_dag.drive.faults import words_of
from fast_dag.drive.protocol import (
    BATCH,
    BEGINS,
    CALL,
    EMITTED,
    EVERY,
    FORGET,
    HEAD,
    LOG,
    NO_HEAD,
    NO_ITEMS,
    PART,
    READY,
    RESULT,
    VERSION,
    Cell,
    Channel,
    Packed,
    TooManyFilesError,
)
from fast_dag.run.map_batches import TINY, TOGETHER

if TYPE_CHECKING:
    import logging
    from collections.abc import Sequence
    from multiprocessing.connection import Connection

    from fast_dag.drive.protocol import Message

    Pipe = Connection[Any, Any]

_here: list[_Worker] = []
"""What this process is, if it is a worker."""


def main(pipe: Pipe, alive: Pipe, cell: int, home: dict[str, Any], tracker: int = -1) -> None:
    """Make the calls that the program sends, until it sends `END`.

    Parameters
    ----------
    pipe:
        To the program.
    alive:
        Nobody writes to it. It is closed when the program has died.
    cell:
        The descriptor of the cell of this worker, or -1.
    home:
        The result of `processes.preparation`: settings that make this process like the program.
    tracker:
        The pipe to the program's resource tracker, or -1.
    """
    if tracker >= 0:
        from multiprocessing import resource_tracker

        resource_tracker._resource_tracker._fd = tracker  # type: ignore[attr-defined]
    # A terminal sends these signals to all processes, but they are for the program, whose run then
    # ends this process. The handler is not SIG_IGN because programs that nodes start would inherit
    # that.
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: None)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if hasattr(os, "register_at_fork"):
        # Else the pipes would stay open as long as a forked child lives, and the program would not
        # see the end of this process.
        os.register_at_fork(after_in_child=pipe.close)
        os.register_at_fork(after_in_child=alive.close)
    threading.Thread(target=_end_with, args=(alive,), name="fast_dag parent", daemon=True).start()
    worker = _Worker(Channel(pipe), cell)
    _here.append(worker)
    try:
        worker.channel.send(READY, _prepared(home, alive))
        if home["logging"] is not None:
            _send_records(worker.channel, home["logging"])
        worker.serve()
        pipe.close()  # it may take long until this process has ended: other threads of it go on
    except (EOFError, OSError):
        os._exit(1)  # the program has died


def emit(value: Any) -> None:
    """Send a value home while the call goes on, whose task is given it there. Called by calls in
    worker processes."""
    _here[0].channel.send(EMITTED, payload.packed(value))


class _Worker:
    """Makes one call after another."""

    def __init__(self, channel: Channel, cell: int) -> None:
        self.channel = channel
        self._cell = Cell(cell) if cell >= 0 else None
        self._heads: dict[int, Message | payload.Head] = {}
        self._parts: _Parts | None = None

    def serve(self) -> None:
        """Make calls until the program sends `END`."""
        while True:
            try:
                message = self.channel.receive()
            except TooManyFilesError as error:
                told = None, words_of(error), None, 0.0
                self.channel.send(RESULT, payload.packed(told))
                continue
            if message.kind == CALL:
                self._call(message)
            elif message.kind == BATCH:
                self._batch(message)
            elif message.kind == HEAD:
                self._heads[message.number] = message
            elif message.kind == FORGET:
                self._heads.pop(message.number, None)
            else:
                return
            del message  # which would keep large buffers while this process is idle

    def _begins(self, number: int, item: int, is_reported: bool) -> None:
        if self._cell is not None:
            self._cell.begin(number, item)
        if is_reported or self._cell is None:
            self.channel.send(BEGINS, _NOTHING, item)

    def _call(self, message: Message) -> None:
        try:
            answer = payload.run_call(
                message, lambda: self._begins(message.number, 0, message.flag)
            )
        except OSError:
            raise
        except BaseException as error:
            text = f"its worker process could not report how it ended: {type(error).__name__}"
            answer = payload.packed((None, text, None, 0.0))
        self.channel.send(RESULT, answer)

    def _batch(self, message: Message) -> None:
        parts = self._parts = self._parts or _Parts(self.channel)
        parts.begin()
        lacking = NO_ITEMS
        try:
            head_number, items, budget, is_sole = payload.unpacked(message)
            lacking = NO_HEAD
            head = self._heads[head_number]
            if not isinstance(head, payload.Head):
                head = self._heads[head_number] = payload.unpacked(head)
            call = head.call_for(is_sole)
        except BaseException as error:
            parts.fail(payload.not_unpickled(error), lacking)
            return
        self._call_items(message.number, call, items, perf_counter() + budget, parts)
        parts.end()

    def _call_items(
        self, number: int, call: Any, items: Sequence[Any], until: float, parts: _Parts
    ) -> None:
        """Call items until the time is `until`, or the program stops the batch. Written out,
        because items may take less time than all else here."""
        keep, clock = parts.values.append, perf_counter
        plain: type | None = None
        words = None if self._cell is None else self._cell.words
        index, group, now = 0, 1, clock()
        while index < len(items) and now <= until:
            begun = now
            for item in items[index : index + group]:
                if words is None or not index:
                    self._begins(number, index, False)
                else:
                    words[1] = index
                    if words[2] == number:
                        return
                try:
                    value = call(item)
                    if type(value) is not plain:
                        if type(value) in _SPECIAL:
                            value = payload.sent_value(value)
                        else:
                            plain = type(value)
                except BaseException as error:  # SystemExit, too, must reach the run's caller
                    parts.failed[index] = payload.told_of(error, clock() - now)
                    value = None
                keep(value)
                index += 1
            now = clock()
            parts.marks.append((index, now))
            group = min(2 * group, TOGETHER) if now - begun < group * TINY else 1


_SPECIAL = frozenset({CoroutineType, bytes, bytearray})
"""The classes of values that are not sent as they are."""


class _Parts:
    """Reports the items of a batch that have ended: many together, but none late. So a long item
    does not hold up those before it.

    One thread appends to `values`, and to `marks` how many there were at which time."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._is_active = False
        self._change = threading.Condition()
        self.begin()
        threading.Thread(target=self._watch, name="fast_dag parts", daemon=True).start()

    def begin(self) -> None:
        """A batch begins."""
        with self._change:
            self.values: list[Any] = []
            self.marks: deque[tuple[int, float]] = deque()
            self._since = perf_counter()
            self.failed: dict[int, payload.Told] = {}
            self._sent = 0
            self._is_active = True
            self._change.notify()

    def end(self) -> None:
        """The batch has ended."""
        with self._change:
            self._is_active = False
            self._send(is_last=True)
            self.values = []

    def fail(self, told: payload.Told, lacking: int) -> None:
        """The batch could not be begun: `NO_HEAD` or `NO_ITEMS`."""
        with self._change:
            self._is_active = False
            self._channel.send(PART, payload.told_home(told), lacking, flag=True)

    def _watch(self) -> None:
        with self._change:
            while True:
                self._change.wait(EVERY if self._is_active else None)
                if self._is_active and len(self.values) > self._sent:
                    self._send(is_last=False)

    def _send(self, *, is_last: bool) -> None:
        first, self._sent = self._sent, len(self.values)
        failed = {
            at - first: self.failed.pop(at)
            for at in (list(self.failed) if self.failed else ())
            if at < self._sent
        }
        if is_last:
            self.marks.append((self._sent, perf_counter()))
        values = self.values[first : self._sent]
        part = payload.packed_part(values, self._seconds(first), failed)
        self._channel.send(PART, part, len(values), flag=is_last)

    def _seconds(self, first: int) -> array[float]:
        """How long the items took that are sent now: those between two marks the same time, as far
        as anybody knows. The time since the last mark counts for the items that follow."""
        seconds = array("f")
        while self.marks and self.marks[0][0] <= self._sent:
            count, now = self.marks.popleft()
            new = count - first - len(seconds)
            if new > 0:
                seconds += array("f", ((now - self._since) / new,)) * new
            self._since = now
        return seconds + array("f", (0.0,)) * (self._sent - first - len(seconds))


_NOTHING = Packed(b"")


def _send_records(channel: Channel, level: int | str) -> None:
    """Send the log records of this process home."""
    import logging

    class ToHome(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                packed = payload.packed_record(record)
            except Exception:  # its message cannot be made: no matter of the call that logs it
                self.handleError(record)
                return
            with suppress(OSError):  # the program has died, or this is a forked child
                channel.send(LOG, packed)

    root = logging.getLogger()
    root.addHandler(ToHome())
    root.setLevel(level)


def _end_with(alive: Pipe) -> None:
    alive.poll(None)
    os._exit(1)


def _prepared(home: dict[str, Any], alive: Pipe) -> Packed:
    """Make this process like the program. Returns the answer to that: what the main script
    defines, or what failed."""
    if home["version"] != VERSION:
        text = "another version of fast_dag has been installed while the program runs"
        return payload.packed((None, text, None, 0.0))
    me: Any = current.current_process()
    me.authkey = home["authkey"]
    me.name = home["name"]
    current._parent_process = current._ParentProcess(*home["parent"], alive.fileno())  # type: ignore[attr-defined]
    sys.argv = home["argv"]
    scripts.know(home["files"])
    if home["start_method"] is not None:
        import multiprocessing

        multiprocessing.set_start_method(home["start_method"], force=True)
    # multiprocessing sets this, too, while a child imports the main script; see `processes.refuse`.
    me._inheriting = True
    try:
        module = _import_main(*home["main"])
    except BaseException as error:
        return payload.failure_of(error)
    finally:
        del me._inheriting
    names = {} if module is None else payload.names_of(module)
    return payload.packed((True, names, None, 0.0))


def _import_main(name: str | None, path: str | None) -> ModuleType | None:
    """Import the parent's main script, under the name that keeps it from running again."""
    if name is None and path is None:
        return None
    module = ModuleType("__mp_main__")
    if name is not None:
        spec = find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        module.__spec__, module.__file__, module.__package__ = spec, spec.origin, spec.parent
        code = spec.loader.get_code(name)  # type: ignore[attr-defined]
    else:
        assert path is not None
        module.__file__ = path
        with open(path, "rb") as file:
            code = pkgutil.read_code(file)
        if code is None:
            with open(path, "rb") as file:
                code = compile(file.read(), path, "exec")
    _OLD_MAIN.append(sys.modules["__main__"])
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    exec(code, vars(module))
    return module


_OLD_MAIN: list[ModuleType] = []  # kept because the globals of a freed module are cleared
