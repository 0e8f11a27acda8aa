"""Record locks: which process has a run, told by the operating system.

A record lock of POSIX belongs to a process. It is free as soon as that process is gone, however it
ended, and held while the process is merely stopped. No clock is involved. Two rules come with it,
and this module keeps both:

- The process loses all locks of a file as soon as it closes any descriptor of that file. So there
  is one descriptor for each file, found by device and inode, and it stays open while the process
  has something to do with the database.
- The system sees no difference between the threads of a process. So `held` does.

A forked child has none of the locks of its parent: everything here begins anew in it.
"""

from __future__ import annotations

import os
import struct
import sys
from threading import Lock
from typing import TYPE_CHECKING, Final

from fast_dag.store.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

if sys.platform == "win32":
    import msvcrt

    def _lock(fd: int, byte: int) -> None:
        os.lseek(fd, byte, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)

    def _unlock(fd: int, byte: int) -> None:
        os.lseek(fd, byte, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)

    def _is_locked(fd: int, byte: int) -> bool | None:
        return None  # only trying tells

else:
    import fcntl

    def _lock(fd: int, byte: int) -> None:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)

    def _unlock(fd: int, byte: int) -> None:
        fcntl.lockf(fd, fcntl.LOCK_UN, 1, byte)

    def _is_locked(fd: int, byte: int) -> bool | None:
        """Whether another process has the lock of a byte, without taking it; None if only trying
        tells."""
        form = _FLOCK.get(sys.platform)
        if form is None or struct.calcsize("P") != 8:
            return None
        asked = (fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
        if form[0] == "q":
            asked = (byte, 1, 0, fcntl.F_WRLCK, os.SEEK_SET)
        found = struct.unpack(form, fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack(form, *asked)))
        return bool(found[form.index("h")] != fcntl.F_UNLCK)


_FLOCK: Final = {"linux": "hhqqi", "darwin": "qqihh"}
"""The fields of C's struct flock, where their order is known."""


class Hold:
    """One lock that this process has. `is_lost` once the process was forked, in the child."""

    __slots__ = ("byte", "is_lost")

    def __init__(self, byte: int) -> None:
        self.byte = byte
        self.is_lost = False


class LockFile:
    """The record locks of one file, as this process has them; see `LockFile.of`."""

    def __init__(self, fd: int | None = None, key: tuple[int, int] | None = None) -> None:
        self._fd = fd  # None: of a database in memory, which no other process can have
        self._key = key
        self._users = 0
        self._held: dict[int, Hold] = {}
        self._guard = Lock()

    @classmethod
    def of(cls, path: str) -> LockFile:
        """The locks of this file, which is made if there is none. Each call must be followed by one
        of `leave`, when the caller needs it no more.

        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "locks")
        >>> one, other = LockFile.of(path), LockFile.of(path)
        >>> one is other, one.take(7) is None, other.take(7)
        (True, False, None)
        """
        with _registry.guard:
            known = _key_of(path)
            found = None if known is None else _registry.files.get(known)
            if found is None:
                fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
                status = os.fstat(fd)
                key = status.st_dev, status.st_ino
                found = _registry.files.setdefault(key, cls(fd, key))
                if found._fd != fd:  # it was put there meanwhile; to close it would free its locks
                    _registry.spare.append(fd)
            found._users += 1
            return found

    def leave(self) -> None:
        """The caller needs these locks no more. They are all given back with the last caller."""
        with _registry.guard:
            self._users -= 1
            if self._fd is None or self._key is None or self._users or self._held:
                return
            if _registry.files.pop(self._key, None):
                os.close(self._fd)

    def take(self, byte: int) -> Hold | None:
        """Take the lock of a byte; None if some other owner has it, in this process or another."""
        with self._guard:
            if byte in self._held:
                return None
            try:
                if self._fd is not None:
                    _lock(self._fd, byte)
            except (BlockingIOError, PermissionError):
                return None
            except OSError as error:
                raise StoreError(f"the lock of a run cannot be taken: {error}") from error
            hold = self._held[byte] = Hold(byte)
            return hold

    def give_back(self, hold: Hold) -> None:
        """Give a lock back. One that a fork has lost is nobody's."""
        with self._guard:
            if not hold.is_lost and self._held.get(hold.byte) is hold:
                del self._held[hold.byte]
                if self._fd is not None:
                    _unlock(self._fd, hold.byte)

    def is_held(self, byte: int) -> bool:
        """Whether somebody has the lock of a byte, here or in another process."""
        with self._guard:
            if byte in self._held:
                return True
            if self._fd is None:
                return False
            seen = _is_locked(self._fd, byte)
        if seen is not None:
            return seen
        hold = self.take(byte)
        if hold is None:
            return True
        self.give_back(hold)
        return False

    def forget(self) -> None:
        """In a forked child: nothing is held."""
        self._guard = Lock()
        for hold in self._held.values():
            hold.is_lost = True
        self._held = {}


class _Registry:
    """The lock files of this process, by device and inode."""

    def __init__(self) -> None:
        self.guard = Lock()
        self.files: dict[tuple[int, int], LockFile] = {}
        self.spare: list[int] = []  # descriptors that must stay open

    def forget(self) -> None:
        """In a forked child, whose only thread this is."""
        self.guard = Lock()
        for each in self.files.values():
            each.forget()


def _key_of(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


_registry: Final = _Registry()


def _nothing() -> None: ...


def at_fork(
    in_child: Callable[[], None],
    before: Callable[[], None] = _nothing,
    in_parent: Callable[[], None] = _nothing,
) -> None:
    """Have functions called whenever the process forks; nothing where it never does."""
    register = getattr(os, "register_at_fork", None)
    if register is not None:
        register(before=before, after_in_parent=in_parent, after_in_child=in_child)


at_fork(_registry.forget)
