"""Large values, in files beside the database, named by their digest.

A file is synced before the row that names it is committed. Two rows with the same value share one
file. What is read has the digest that its name says, or is an error.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fast_dag.store.codec import digest
from fast_dag.store.errors import DamagedError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGE: Final = 256 * 2**10
"""Bytes from which a value gets a file of its own."""


class Values:
    """The files of one store, in a directory that is made with the first of them.

    >>> import tempfile
    >>> values = Values(tempfile.mkdtemp() + "/values")
    >>> name = values.write(b"x" * 10)
    >>> values.read(name), values.has(name), [*values.names()] == [name]
    (b'xxxxxxxxxx', True, True)
    """

    def __init__(self, directory: str) -> None:
        self.directory = Path(directory)

    def write(self, data: bytes) -> str:
        """Write a value, unless it is there. Returns its name once it is on the disk."""
        name = digest(data)
        path = self._path(name)
        try:
            if not self._is_there(path, len(data)):
                self._make(path, data)
            # Also if it was there: whoever made it may have died, or be about to do this.
            for each in (path.parent, self.directory, self.directory.parent):
                _sync_directory(each)
        except OSError as error:
            raise StoreError(
                f"a value of {len(data)} bytes cannot be written to {str(path)!r}: {error}",
                path=str(path),
            ) from error
        return name

    def _make(self, path: Path, data: bytes) -> None:
        for each in (self.directory, path.parent):
            each.mkdir(mode=0o700, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
        try:
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(fd)
            os.replace(draft, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(draft)
            raise

    def read(self, name: str) -> bytes:
        """The value of a file. Raises StoreError if it is gone, DamagedError if it is another."""
        path = self._path(name)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StoreError(
                f"a value of the store cannot be read from {str(path)!r}: {error}", path=str(path)
            ) from error
        if digest(data) != name:
            raise DamagedError(f"the file {str(path)!r} is damaged: its digest is another")
        return data

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return self._path(name).exists()

    def names(self) -> Iterator[str]:
        """The names of all files."""
        if self.directory.is_dir():
            for group in self.directory.iterdir():
                yield from (each.name for each in group.iterdir() if "." not in each.name)

    def drop(self, name: str, before: float) -> int | None:
        """Delete a file that nobody has written since. Returns how many bytes it had; None if it
        was not deleted."""
        path = self._path(name)
        try:
            found = path.stat()
            if found.st_mtime > before:
                return None
            path.unlink()
        except FileNotFoundError:
            return None
        return found.st_size

    def drop_drafts(self, before: float) -> None:
        """Delete what processes had begun to write that were killed before then."""
        if self.directory.is_dir():
            for group in self.directory.iterdir():
                for each in group.iterdir():
                    with suppress(FileNotFoundError):
                        if "." in each.name and each.stat().st_mtime < before:
                            each.unlink()

    def _path(self, name: str) -> Path:
        return self.directory / name[:2] / name

    @staticmethod
    def _is_there(path: Path, size: int) -> bool:
        try:
            os.utime(path)  # a prune must not delete it before it is committed
            return path.stat().st_size == size
        except OSError:
            return False


def _sync_directory(path: Path) -> None:
    """Have the names in a directory on the disk, where the system can do that."""
    if os.name == "nt":
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
