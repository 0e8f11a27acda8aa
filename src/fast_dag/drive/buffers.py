"""Large buffers, such as the memory of arrays, which travel in memory that has no name.

The sender copies a buffer into a file that exists in memory only (`memfd`; elsewhere a temporary
file that is unlinked at once), and sends its descriptor. The receiver maps the file privately: it
may write, and nobody else sees that. So a buffer is copied once, when it is first sent, and its
memory is freed when the last process lets go of it, however that ends.

A buffer that lies unmodified in memory that came from another process is not copied again: whoever
sends it on sends the descriptor of the file that it came in.
"""

from __future__ import annotations

import mmap
import os
import pickle
import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import ref

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LARGE: Final = 1 << 20
"""Bytes from which on a buffer travels in memory of its own."""

_MOST: Final = 128
"""How many files may be mapped here at once. What comes in more of them is copied, because each
keeps a descriptor open, of which a process has few."""


class Memory:
    """A file without a name. It is closed when nobody refers to it any more."""

    __slots__ = ("fd", "size")

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.size = size

    def __del__(self, close: Any = os.close) -> None:
        close(self.fd)


def nameless() -> int:
    """The descriptor of a new, empty file in memory that has no name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("fast_dag", os.MFD_CLOEXEC)
    import tempfile  # slow

    where = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryFile(dir=where) as file:
        return os.dup(file.fileno())


class Span(NamedTuple):
    """A part of a Memory, which is one buffer."""

    memory: Memory
    start: int
    length: int


class Outgoing:
    """Takes large buffers out of a pickle. An instance is the `buffer_callback` of the pickler."""

    def __init__(self) -> None:
        self._views: list[memoryview] = []

    def __call__(self, buffer: pickle.PickleBuffer) -> bool:
        """Returns whether the buffer stays in the pickle."""
        view = buffer.raw()
        if view.nbytes < LARGE:
            return True
        self._views.append(view)
        return False

    def spans(self) -> list[Span]:
        """The buffers that were taken out, in memory that can be sent. Raises OSError if there is
        no room for them."""
        found = [_found(view) for view in self._views]
        new = [view for view, span in zip(self._views, found, strict=True) if span is None]
        if not new:
            return [span for span in found if span is not None]
        memory, start, spans = Memory(nameless(), 0), 0, []
        for view in new:
            _write(memory.fd, view, start)
            spans.append(Span(memory, start, view.nbytes))
            memory.size = start + view.nbytes
            start += -(-view.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
        new_spans = iter(spans)
        return [span or next(new_spans) for span in found]


def _write(fd: int, view: memoryview, start: int) -> None:
    """Copy a buffer into a file. Writing allocates memory, or raises; a mapping would kill the
    process that uses it where there is none."""
    done = 0
    while done < view.nbytes:
        done += os.pwrite(fd, view[done : done + _STEP], start + done)


_STEP: Final = 1 << 30  # no system writes more than 2 GB at once


class Whole:
    """Bytes that are an argument or a result themselves, to be pickled as a buffer."""

    __slots__ = ("value",)

    def __init__(self, value: bytes | bytearray) -> None:
        self.value = value

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return type(self.value), (pickle.PickleBuffer(self.value),)


def whole(value: Any) -> Any:
    """The value, or the same bytes as a buffer if they are large."""
    return Whole(value) if type(value) in _BYTES and len(value) >= LARGE else value


_BYTES: Final = frozenset({bytes, bytearray})


# What has arrived.


class _Mapping(mmap.mmap):
    """A private mapping of a Memory that came from another process."""

    memory: Memory
    address = 0

    def __del__(self) -> None:
        _mappings.pop(self.address, None)


_mappings: dict[int, ref[_Mapping]] = {}
"""All mappings by their addresses."""


def arrived(memories: Sequence[Memory], spans: Iterable[tuple[int, int, int]]) -> list[memoryview]:
    """The buffers of a message, each given as (number of its memory, start, length)."""
    views = [_mapped(memory) for memory in memories]
    return [views[number][start : start + length] for number, start, length in spans]


def _mapped(memory: Memory) -> memoryview:
    if len(_mappings) >= _most():
        return _copied(memory)
    try:
        mapping = _Mapping(memory.fd, memory.size, flags=mmap.MAP_PRIVATE, **_UNTRACKED)
    except OSError:  # no descriptor is left, though there was one to receive it with
        return _copied(memory)
    view = memoryview(mapping)
    mapping.memory, mapping.address = memory, _address(view)
    if mapping.address:
        _mappings[mapping.address] = ref(mapping)
    return view


def _most() -> int:
    """How many mappings there may be: with two descriptors each, a quarter of all at most."""
    import resource  # which Windows, where nothing is mapped, does not have

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if soft == resource.RLIM_INFINITY else min(_MOST, soft // 8)


# Before Python 3.13 each mmap has a descriptor of its own.
_UNTRACKED: Final[dict[str, Any]] = {"trackfd": False} if sys.version_info >= (3, 13) else {}


def _copied(memory: Memory) -> memoryview:
    view = memoryview(mmap.mmap(-1, memory.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    done = 0
    while done < memory.size:
        done += os.preadv(memory.fd, [view[done : done + _STEP]], done)
    return view


def _found(view: memoryview) -> Span | None:
    """Where a buffer lies in memory that came from another process, if nobody has written to it
    since."""
    address = _address(view) if _mappings else 0
    for start, known in list(_mappings.items()):
        mapping = known() if start <= address else None
        if mapping is not None and address + view.nbytes <= start + len(mapping):
            is_same = _is_unmodified(address, view.nbytes)
            return Span(mapping.memory, address - start, view.nbytes) if is_same else None
    return None


def _is_unmodified(address: int, length: int) -> bool:
    """Whether no page of a private mapping has been written to. If the system does not tell: False.

    The system has copied pages that were written to: they are not of the file any more.
    """
    first, last = address // mmap.PAGESIZE, (address + length - 1) // mmap.PAGESIZE
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            file.seek(8 * first)
            pages = file.read(8 * (last - first + 1))
    except OSError:
        return False
    if len(pages) < 8 * (last - first + 1):
        return False
    # The first byte of each entry: 0x80 in memory, 0x40 swapped out, 0x20 of the file, 0x01 mapped
    # nowhere else. A page that was never read has none of these.
    flags = pages[7::8] if sys.byteorder == "little" else pages[::8]
    return not flags.translate(None, b"\x00\xa0\xa1")


def _address(view: memoryview) -> int:
    """Where the memory of a buffer is; 0 if this cannot be found out."""
    try:
        import ctypes

        get, release = ctypes.pythonapi.PyObject_GetBuffer, ctypes.pythonapi.PyBuffer_Release
    except (ImportError, AttributeError):  # not in this build, or not in CPython
        return 0
    # A Py_buffer begins with the address, and is shorter than this.
    buffer = (ctypes.c_void_p * 16)()
    if get(ctypes.py_object(view), buffer, 0) != 0:
        return 0
    address = buffer[0] or 0
    release(buffer)
    return address
