"""A backend that keeps results in a directory, for later runs and for other processes."""

from __future__ import annotations

import os
import pickle
import tempfile
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from time import time, time_ns
from typing import TYPE_CHECKING, Any, Final

from fast_dag.cache.keys import digest_of
from fast_dag.cache.origins import Pickler
from fast_dag.errors import failures

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    class Codec(Protocol):
        @property
        def name(self) -> str: ...
        def encode(self, value: object, *, context: bytes = b"") -> bytes: ...
        def decode(self, data: bytes, *, context: bytes = b"") -> Any: ...


_DIGEST: Final = 32  # bytes
_NAME: Final = 40  # characters of a file's name
_PROTOCOL: Final = 5  # of pickle: the same for every Python that fast_dag supports
_ABANDONED: Final = 3600.0
"""After so many seconds nobody is writing a temporary file any more: its process died."""
_AT_ONCE: Final = 1000
"""So many files are deleted at most when an entry is written. If far more must go, because a bound
was set later, no node waits for all of them."""
_SHARE: Final = 16
"""A process counts all files anew after it has written a 16th of `max_bytes`, because other
processes write there, too."""


class DiskCache:
    """Keeps the results of cached nodes in the directory `path`.

    Threads and processes may share the directory. A reader never sees half of a file: each entry is
    written to a temporary file, which is then renamed. What cannot be read (a damaged file, a class
    that is gone, a format of another version) counts as missing and is computed again.

    `max_bytes` bounds the size of all files together; when there is no room, the entries that were
    not used for longest go first. None is no bound. Several processes that write at once may exceed
    the bound by a sixteenth each.

    Values are stored by pickle. Loading a pickle can run any code, so use a directory that only you
    can write to. With another `codec`, such as `fast_dag.store.codec.Plain()`, a file runs no code
    whoever wrote it, and a result that the codec cannot keep is not cached, which is a warning.
    Entries of another codec count as missing.

    >>> from tempfile import TemporaryDirectory
    >>> from fast_dag import DAG
    >>> with TemporaryDirectory() as directory:
    ...     dag = DAG("demo")
    ...     @dag.cached_node(backend=DiskCache(directory))
    ...     def double(x):
    ...         return 2 * x
    ...     dag.run(x=1), dag.run(x=1), dag.context.metrics["cache_hits"]
    (2, 2, 1)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        max_bytes: int | None = None,
        *,
        codec: Codec | None = None,
    ) -> None:
        if max_bytes is not None and (type(max_bytes) is not int or max_bytes < 1):
            raise ValueError(
                f"max_bytes is a number of bytes of at least 1, or None for no bound, "
                f"not {max_bytes!r}"
            )
        if codec is not None and not hasattr(codec, "decode"):
            raise ValueError(
                "codec is an object that encodes and decodes values, like "
                f"fast_dag.store.codec.Plain(), not {codec!r}"
            )
        # Absolute, so that a later `os.chdir` does not move the cache.
        self.path = Path(os.path.abspath(os.path.expanduser(os.fspath(path))))
        self.max_bytes = max_bytes
        self.codec = codec or _Pickled()
        # The first bytes of an entry's file. Another format must begin with others.
        self._magic = f"{f'fast_dag cache 1 {self.codec.name}'.rstrip()}\n".encode()
        self._forget_counts()

    def _forget_counts(self) -> None:
        # No lock guards these: a wrong count only means that files are counted too early or late,
        # and a lock could stay locked in a forked child.
        self._counted: int | None = None  # bytes, when the files were last counted
        self._written = 0  # bytes, by this process since then
        self._doomed: list[tuple[int, str]] = []  # when last used, and where; oldest at the end
        self._cleaned = False

    def __repr__(self) -> str:
        bound = "" if self.max_bytes is None else f", max_bytes={self.max_bytes}"
        codec = "" if type(self.codec) is _Pickled else f", codec={self.codec!r}"
        return f"DiskCache({str(self.path)!r}{bound}{codec})"

    def __eq__(self, other: object) -> bool:
        """Two objects for one directory are one cache."""
        return isinstance(other, DiskCache) and other.path == self.path

    def __hash__(self) -> int:
        return hash(self.path)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "max_bytes": self.max_bytes, "codec": self.codec}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    # Where an entry is: one directory for each function and version, so that all of its results can
    # be deleted at once. Names are digests, which every file system can store.

    def _group(self, prefix: str) -> Path:
        return self.path / _name(prefix)

    def _file(self, key: str) -> Path:
        prefix, _, rest = key.rpartition(":")
        return self._group(prefix) / _name(rest)

    # The methods of a backend.

    def get(self, key: str, /) -> Any:
        """The entry under `key`; None if there is none that can be read."""
        file = self._file(key)
        try:
            data = file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        entry = self._unpacked(data, key)
        if entry is not None and self.max_bytes is not None:
            with suppress(OSError):  # another process deleted it, or the directory is read-only
                _touch(file)
        return entry

    def set(self, key: str, entry: Any, /) -> None:
        """Store an entry under `key`. Raises what the codec raises, and OSError."""
        data = self._packed(key, entry)
        if self.max_bytes is not None and len(data) > self.max_bytes:
            raise ValueError(f"a result of {len(data)} bytes exceeds max_bytes={self.max_bytes}")
        file = self._file(key)
        self._write(file, data)
        self._written += len(data)
        self._make_room()

    def delete(self, key: str, /) -> None:
        """Delete the entry under `key`, if there is one."""
        with suppress(FileNotFoundError, NotADirectoryError):
            self._file(key).unlink()

    def forget(self, prefix: str, /) -> None:
        """Delete all entries whose keys are `prefix`, a colon, and text without a colon."""
        for file in _files_in(self._group(prefix)):
            with suppress(FileNotFoundError):
                os.unlink(file.path)

    def clear(self) -> None:
        """Delete all entries."""
        for file in self._files():
            with suppress(FileNotFoundError):
                os.unlink(file.path)
        self._forget_counts()

    # An entry as bytes.

    def _packed(self, key: str, entry: Any) -> bytes:
        context = _encoded(key)
        try:
            body = self.codec.encode((key, entry), context=context)
        except failures():
            if isinstance(entry, tuple) and entry:  # so that places are those in the user's value
                self.codec.encode(entry[0], context=context)
            raise
        return b"".join([self._magic, sha256(body).digest(), body])

    def _unpacked(self, data: bytes, key: str) -> Any:
        """The entry in a file's bytes; None if they are damaged, of another format, of another key,
        or if their classes cannot be found."""
        begin = len(self._magic)
        start = begin + _DIGEST
        if data[:begin] != self._magic:
            return None
        body = data[start:]
        # Before it is decoded: damaged pickles may do anything.
        if sha256(body).digest() != data[begin:start]:
            return None
        try:
            stored, entry = self.codec.decode(body, context=_encoded(key))
        except failures():
            return None
        return entry if stored == key else None

    # Writing.

    @property
    def _temporary(self) -> Path:
        return self.path / "tmp"

    def _write(self, file: Path, data: bytes) -> None:
        self._temporary.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._clean()
        handle, name = tempfile.mkstemp(dir=self._temporary)  # readable by its owner only
        try:
            with open(handle, "wb") as stream:
                stream.write(data)
            if self.max_bytes is not None:
                _touch(name)
            try:
                os.replace(name, file)
            except FileNotFoundError:  # the first entry of its group
                file.parent.mkdir(exist_ok=True, mode=0o700)
                os.replace(name, file)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise

    def _clean(self) -> None:
        """Delete what writers left that died."""
        if self._cleaned:
            return
        self._cleaned = True
        limit = time() - _ABANDONED
        for file in _files_in(self._temporary):
            with suppress(OSError):
                if file.stat().st_mtime < limit:
                    os.unlink(file.path)

    # The bound.

    def _files(self) -> Iterator[os.DirEntry[str]]:
        """The files of all entries."""
        try:
            groups = list(os.scandir(self.path))
        except (FileNotFoundError, NotADirectoryError):
            return
        for group in groups:
            if _is_name(group.name):
                yield from _files_in(group.path)

    def _make_room(self) -> None:
        """Delete the entries that were not used for longest, if all exceed the bound."""
        if self.max_bytes is None:
            return
        if not self._doomed and self._may_exceed(self.max_bytes):
            self._doom(self.max_bytes)
        for _ in range(_AT_ONCE):
            try:
                used, path = self._doomed.pop()
            except IndexError:
                return
            with suppress(FileNotFoundError):  # another process deleted it meanwhile
                if os.stat(path).st_mtime_ns == used:
                    os.unlink(path)

    def _may_exceed(self, bound: int) -> bool:
        counted = self._counted
        return counted is None or self._written > min(bound // _SHARE, bound - counted)

    def _doom(self, bound: int) -> None:
        """Count all files, and choose those that must go."""
        self._written = 0
        found, total = [], 0
        for file in self._files():
            with suppress(FileNotFoundError):  # another process deleted it meanwhile
                status = file.stat()
                found.append((status.st_mtime_ns, status.st_size, file.path))
                total += status.st_size
        doomed: list[tuple[int, str]] = []
        if total > bound:
            found.sort()
            for used, size, path in found[:-1]:  # the newest is what was just written
                if total <= bound - bound // _SHARE:
                    break
                doomed.append((used, path))
                total -= size
        doomed.reverse()
        self._counted, self._doomed = total, doomed


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _name(text: str) -> str:
    return digest_of(_encoded(text)).hex()


def _is_name(text: str) -> bool:
    return len(text) == _NAME


def _files_in(directory: str | Path) -> Iterator[os.DirEntry[str]]:
    """The files in a directory whose names are ours; none if there is no such directory."""
    try:
        found = os.scandir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return
    with found:
        yield from (each for each in found if each.is_file(follow_symlinks=False))


def _touch(path: str | Path) -> None:
    """Note that the file is used now, in nanoseconds. The kernel's own clock is too coarse: it has
    250 ticks a second."""
    now = time_ns()
    os.utime(path, ns=(now, now))


class _Pickled:
    """The codec of a cache that was given none."""

    name = ""

    def encode(self, value: object, *, context: bytes = b"") -> bytes:
        return Pickler.dumps(value, _PROTOCOL)

    def decode(self, data: bytes, *, context: bytes = b"") -> Any:
        return pickle.loads(data)
