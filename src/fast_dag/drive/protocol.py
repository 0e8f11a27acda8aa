"""What a program and its worker processes say to each other. This is version 1 of it.

Each worker has one pipe, a pair of sockets where the system has them. Each message is one frame,
which a `Channel` sends and receives: a head (its kind, how many descriptors follow, how many
buffers), a table of the buffers, and a pickle. The descriptors of the memory that the buffers lie
in (see `buffers`) follow, as ancillary data of a byte of its own.

First the program sends PREPARE: settings that make the worker process like it. The worker answers
READY: what it found in the main script, or why it cannot take calls. Then the worker makes what it
is sent, one after the other, until it is sent END:

=========  ================================================================================
CALL       one call: its number, whether to report its beginning, and the call as
           `payload.packed_call` made it; answered by
BEGINS     the call, or this item of a batch, begins (only if asked for)
EMITTED    a value that the call emitted, while it goes on
LOG        a log record, as a dict
RESULT     the outcome of the call, as `payload.outcome` reads it
BATCH      calls of one function: see below
HEAD       the function of batches and what all its calls are given: a `payload.Head`, sent
           before its first batch to this worker
FORGET     the number of a head that is not needed any more
=========  ================================================================================

A **batch** has the number of its HEAD, the values of its items, and a time in seconds: the worker
begins no item any more once that has passed. It is answered by PARTs, each with the outcomes of the
items that have ended since the one before it, at least every `EVERY` seconds; the last one has the
flag. The items without an outcome then were not begun: they are given back. The number of a PART
says how many outcomes it has. It is `NO_HEAD` or `NO_ITEMS` if the batch could not be begun,
because its HEAD or its items could not be unpickled; then its only outcome says why.

A worker also has a **cell** of memory that it shares with the program, if there are descriptors:
the number of the call that it has begun, the item of the batch that it is at, and a batch of which
it should begin no further item. So the program knows, even if the worker was killed, whether it had
begun its call, and which item it was at. Where there is no cell, BEGINS tells so.

A carrier travels in the call itself: a dict of strings, for telemetry, which `payload` hands to
`carried` in the worker while the call is made.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fast_dag.drive import buffers
from fast_dag.drive.buffers import Memory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection

    from fast_dag.drive.buffers import Span

VERSION: Final = 1

# From the program.
PREPARE: Final = 0
CALL: Final = 1
HEAD: Final = 2
BATCH: Final = 3
FORGET: Final = 4
END: Final = 5
# From the worker.
READY: Final = 16
BEGINS: Final = 17
EMITTED: Final = 18
LOG: Final = 19
PART: Final = 20
RESULT: Final = 21

# Numbers of a PART that are no counts.
NO_ITEMS: Final = (1 << 64) - 2
NO_HEAD: Final = (1 << 64) - 1

EVERY: Final = 0.05
"""Seconds after which the items of a batch that have ended are reported."""

PASSES: Final = hasattr(socket, "send_fds") and hasattr(socket, "AF_UNIX")
"""Whether descriptors can be sent. Else large buffers travel in their pickle."""


class Packed(NamedTuple):
    """A value as it travels: a pickle, and the large buffers that were taken out of it."""

    data: bytes
    spans: Sequence[Span] = ()


class Message(NamedTuple):
    """A message that has arrived. `number` and `flag` belong to its kind: the number of a call, for
    example, and whether its beginning is to be reported."""

    kind: int
    number: int
    flag: bool
    data: memoryview
    buffers: Sequence[memoryview]


# The kind, a flag, how many descriptors follow, how many buffers there are, the number.
_FRAME: Final = struct.Struct("<BBBxIQ")
# Of one buffer: in which memory it lies, where it begins, how long it is.
_SPAN: Final = struct.Struct("<QQQ")
_SIZE: Final = struct.Struct("<Q")


class Channel:
    """One end of the pipe between a program and a worker. Several threads may send."""

    def __init__(self, pipe: Connection[Any, Any]) -> None:
        self.pipe = pipe
        self._lock = threading.Lock()

    def send(self, kind: int, packed: Packed, number: int = 0, flag: bool = False) -> None:
        """Send a message. Raises OSError if nobody is at the other end any more."""
        data, spans = packed
        if not spans:
            with self._lock:
                self.pipe.send_bytes(_FRAME.pack(kind, flag, 0, 0, number) + data)
            return
        memories = list({id(span.memory): span.memory for span in spans}.values())
        numbers = {id(memory): index for index, memory in enumerate(memories)}
        table = [_SPAN.pack(numbers[id(each.memory)], each.start, each.length) for each in spans]
        sizes = [_SIZE.pack(memory.size) for memory in memories]
        frame = _FRAME.pack(kind, flag, len(memories), len(spans), number)
        with self._lock:
            self.pipe.send_bytes(b"".join((frame, *sizes, *table, data)))
            with _SocketOf(self.pipe) as end:
                socket.send_fds(end, [b"m"], [memory.fd for memory in memories])

    def receive(self) -> Message:
        """Wait for a message. Raises EOFError or OSError if none can come any more."""
        frame = memoryview(self.pipe.recv_bytes())
        kind, flag, files, count, number = _FRAME.unpack_from(frame)
        at = _FRAME.size
        if not count:
            return Message(kind, number, bool(flag), frame[at:], ())
        sizes = [_SIZE.unpack_from(frame, at + index * _SIZE.size)[0] for index in range(files)]
        at += files * _SIZE.size
        spans = [_SPAN.unpack_from(frame, at + index * _SPAN.size) for index in range(count)]
        at += count * _SPAN.size
        with _SocketOf(self.pipe) as end:
            got, descriptors, *_ = socket.recv_fds(end, 1, files)
        memories = [Memory(fd, size) for fd, size in zip(descriptors, sizes, strict=False)]
        if not got:
            raise EOFError
        if len(memories) < files:
            raise TooManyFilesError("this process has too many files open to receive large buffers")
        return Message(kind, number, bool(flag), frame[at:], buffers.arrived(memories, spans))


class TooManyFilesError(Exception):
    """Raised when a message has arrived without its descriptors."""


class _SocketOf:
    """The socket that a pipe consists of, while it is used."""

    def __init__(self, pipe: Connection[Any, Any]) -> None:
        self._socket = socket.socket(fileno=pipe.fileno())

    def __enter__(self) -> socket.socket:
        return self._socket

    def __exit__(self, *exc: object) -> None:
        self._socket.detach()


class Cell:
    """Memory that a worker shares with its program, as `words`: the call that it has begun, the
    item of a batch that it is at, and the batch that is to be stopped."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, mmap.PAGESIZE)
        self._view = memoryview(self._map)
        self.words = self._view.cast("Q")

    @classmethod
    def made(cls) -> tuple[Cell, int] | tuple[None, None]:
        """A new cell, and the descriptor that another process makes it of; None and None where
        descriptors cannot be sent, or there is no room."""
        if not PASSES:
            return None, None
        fd = -1
        try:
            fd = buffers.nameless()
            os.pwrite(fd, bytes(mmap.PAGESIZE), 0)
            return cls(fd), fd
        except OSError:
            if fd >= 0:
                os.close(fd)
            return None, None

    @property
    def call(self) -> int:
        """The number of the call that was begun last."""
        return self.words[0]

    @property
    def item(self) -> int:
        """The item of the batch that was begun last."""
        return self.words[1]

    def begin(self, call: int, item: int = 0) -> None:
        """Called by the worker: a call begins, or an item of it."""
        self.words[1] = item
        self.words[0] = call

    def stop(self, call: int) -> bool:
        """Called by the program: no further item of this batch should begin. Returns whether it had
        said so before."""
        before, self.words[2] = self.words[2], call
        return before == call

    def close(self) -> None:
        with suppress(BufferError):
            self.words.release()
            self._view.release()
            self._map.close()
