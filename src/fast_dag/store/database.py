"""The database of a store in this process: one connection, and the commits that wait for it.

**Group commit.** Whoever wants something committed puts it in a queue and takes the lock. The
thread that has the lock writes all that is in the queue, in one transaction with one sync. The
others then find theirs written. Callers that must not block leave the writing to a thread.

**Checkpoints.** Before 3.51.3, SQLite can corrupt a database if a checkpoint runs right after
another one while a third connection commits. So there are no automatic checkpoints: one process at
a time makes one, and only while nobody can write.

**Forks.** A connection must not be used, nor even closed, in a forked child. There it is put aside
for good, and the child opens its own.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from collections import deque
from contextlib import contextmanager, suppress
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread, get_ident
from typing import TYPE_CHECKING, Any, Final

from fast_dag.errors import FastDAGError, ValidationError, brief_of, failures
from fast_dag.store import schema
from fast_dag.store.errors import StoreError
from fast_dag.store.locks import LockFile, at_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import TypeVar

    T = TypeVar("T")

MEMORY: Final = ":memory:"
DURABILITY: Final = {"disk": "FULL", "process": "NORMAL"}

_PATIENCE: Final = 60.0
"""Seconds to wait for other processes that write."""

_FORK_PATIENCE: Final = 5.0
"""Seconds that a fork waits for a commit in progress. One that is made by a signal handler in the
middle of a commit would wait for itself."""

_WAL_BYTES: Final = 4 * 2**20
"""The size of the log beyond which a checkpoint is made."""

_OFTEN: Final = 50
"""So many commits later, the size of the log is looked at again."""

_OF_CHECKPOINTS: Final = 0
"""The byte of the lock for checkpoints; those of runs begin with 1."""


class FairLock:
    """A lock that is given to whoever has waited longest. With a `threading.Lock`, a thread that
    commits one node after another takes the lock again before those who wait for it have woken up.

    >>> lock = FairLock()
    >>> with lock:
    ...     lock.acquire_now()
    False
    """

    def __init__(self) -> None:
        self._lock = Lock()  # held for as long as somebody has this one
        self._mutex = Lock()
        self._waiting: deque[Lock] = deque()
        self.acquire_now: Callable[[], bool] = partial(self._lock.acquire, False)  # if it is free

    def acquire(self, timeout: float = -1) -> bool:
        """Take the lock. Returns whether that was done within so many seconds."""
        if self.acquire_now():
            return True
        ticket = Lock()
        ticket.acquire()
        with self._mutex:
            self._waiting.append(ticket)
        self._hand_over()  # it may have been released just before
        try:  # released by whoever hands the lock over
            return ticket.acquire(timeout=timeout) or not self._gave_up(ticket)
        except BaseException:  # Ctrl-C
            if not self._gave_up(ticket):
                self.release()
            raise

    def _gave_up(self, ticket: Lock) -> bool:
        """Wait no longer. False if the lock was handed over just before."""
        with self._mutex:
            waits = ticket in self._waiting
            if waits:
                self._waiting.remove(ticket)
        return waits

    def release(self) -> None:
        """Hand the lock over."""
        if self._waiting:
            with self._mutex:
                if self._waiting:
                    self._waiting.popleft().release()
                    return
        self._lock.release()
        if self._waiting:  # since then
            self._hand_over()

    def _hand_over(self) -> None:
        """Give the lock, if it is free, to whoever has waited longest."""
        with self._mutex:
            if self._waiting and self.acquire_now():
                self._waiting.popleft().release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *raised: object) -> None:
        self.release()


class Write:
    """Something to be committed, which other threads may commit together with theirs.

    It is `Waitable`. `error` is why it could not be committed, once it `is_done`."""

    # Defaults on the class, so that making one sets fewer attributes.
    database: Database
    error: BaseException | None = None
    is_done = False
    _callback: Callable[[], None] | None = None

    def apply(self, connection: sqlite3.Connection) -> None:
        """Write it, inside of a transaction. What it raises but errors of SQLite is its own
        `error`; then it must not have written anything."""
        raise NotImplementedError

    def apply_alone(self, connection: sqlite3.Connection) -> bool:
        """Write it with one statement, outside of a transaction. False if that cannot be: then
        nothing was written."""
        return False

    def take_back(self) -> None:
        """The transaction was rolled back."""

    def wait(self) -> None:
        """Commit it in this thread, unless another one does."""
        self.database.settle(self)

    def when_ready(self, callback: Callable[[], None], /) -> None:
        """Have it committed by a thread, which then calls `callback`."""
        self._callback = callback
        self.database.settle_later(self)

    def tell(self) -> None:
        """Call the callback, if there is one that was not called."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class Change(Write):
    """What a function writes, which may raise: then nothing of it is written, and `error` is what
    it raised. `undo` is called before the function is called once more."""

    result: Any = None

    def __init__(
        self,
        database: Database,
        function: Callable[[sqlite3.Connection], Any],
        undo: Callable[[], None],
    ) -> None:
        self.database = database
        self._function = function
        self.take_back = undo  # type: ignore[method-assign]

    def apply(self, connection: sqlite3.Connection) -> None:
        connection.execute("SAVEPOINT change")
        try:
            self.result = self._function(connection)
        except (sqlite3.OperationalError, sqlite3.InternalError):  # of the whole transaction
            raise
        except failures() as error:
            connection.execute("ROLLBACK TO change")
            is_own = isinstance(error, (sqlite3.Error, OSError))
            self.error = self.database.broken(error) if is_own else _told(error)
        connection.execute("RELEASE change")


class Database:
    """The database file of a store, or a database in memory. `Database.of` opens it."""

    def __init__(self, path: str, durability: str) -> None:
        self.path = path
        self.durability = durability
        self.is_file = path != MEMORY
        self.lock = FairLock()
        self.locks = LockFile()
        self._users = 0
        self._key: tuple[int, int] | None = None
        self._connection: sqlite3.Connection | None = None
        self._queue: deque[Write] = deque()
        self._batch: list[Write] = []  # what is being written
        self._before = 0  # how many rows the connection had changed before
        self._busy = 0  # for how many runs a thread may be needed
        self._is_closed = False
        self._since = 0  # how much was written since the size of the log was looked at
        self._signals: SimpleQueue[bool] | None = None  # of that thread
        self._guard = Lock()  # of these two, held for a moment only

    @classmethod
    def of(cls, path: str, durability: str = "disk", check_filesystem: bool = True) -> Database:
        """The database of this path, which this process opens once. Each call must be followed by
        one of `leave`. Raises StoreError if it cannot be used."""
        if durability not in DURABILITY:
            raise ValidationError(f"durability is 'disk' or 'process', not {durability!r}")
        if path == MEMORY:
            made = cls(path, durability)
            made._users = 1
            made._open()
            return made
        path = os.path.realpath(path)
        with _registry.guard:
            found = _registry.files.get(_made(path))
            if found is None:
                if check_filesystem:
                    refuse_network(path)
                found = cls(path, durability)
                found._open()
                assert found._key is not None
                _registry.files[found._key] = found
            elif durability == "disk" and found.durability != "disk":
                found.durability = durability
                found.call(lambda connection: connection.execute("PRAGMA synchronous = FULL"))
            found._users += 1
            return found

    def leave(self) -> None:
        """The caller needs it no more. The last one closes it."""
        with _registry.guard:
            self._users -= 1
            if self._users:
                return
            if self._key is not None and _registry.files.get(self._key) is self:
                del _registry.files[self._key]
            with self.lock:
                self._close()

    # The connection.

    def _open(self) -> None:
        try:
            if self.is_file:
                # SQLite gives its other files the mode of this one.
                status = os.stat(self.path)
                self._key = status.st_dev, status.st_ino
                self.locks = LockFile.of(f"{self.path}-locks")
            self._connection = self._connected()
        except (OSError, sqlite3.Error) as error:
            raise self.broken(error) from error
        finally:
            if self._connection is None:
                self.locks.leave()

    def _connected(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute(f"PRAGMA synchronous = {DURABILITY[self.durability]}")
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if self.is_file and mode != "wal":
                raise StoreError(
                    f"the store {self.path!r} cannot have a write-ahead log here: it is in mode "
                    f"{mode}",
                    path=self.path,
                )
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA cell_size_check = ON")
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Make or migrate the tables."""
        if self._version(connection) == schema.VERSION:
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            version = self._version(connection)
            if version is None:
                schema.make(connection)
            elif version < schema.VERSION:
                schema.migrate(connection, version)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.rollback()
            raise

    def _version(self, connection: sqlite3.Connection) -> int | None:
        """The version of the tables; None if there are none. Raises StoreError for a database of
        something else, or of a version that is too new."""
        tables = {
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
        if not tables:
            return None
        about: dict[str, Any] = {}
        if "about" in tables:
            about = dict(connection.execute("SELECT key, value FROM about").fetchall())
        version, oldest = about.get("version"), about.get("oldest_reader")
        if not (isinstance(version, int) and isinstance(oldest, int) and version >= 1):
            raise StoreError(
                f"{self.path!r} is a database of something else; give the store a file of its own",
                path=self.path,
            )
        if oldest > schema.VERSION:
            raise StoreError(
                f"the store {self.path!r} was written by a newer fast-dag, which this one cannot "
                "read; upgrade fast-dag",
                path=self.path,
            )
        return max(version, schema.VERSION) if version > schema.VERSION else version

    def _close(self) -> None:
        """Close the connection; the lock is held. SQLite makes a checkpoint when the last
        connection is closed, so this waits for the lock of checkpoints."""
        connection, self._connection = self._connection, None
        self._is_closed = True
        hold = self.locks.take(_OF_CHECKPOINTS)
        try:
            if connection is not None:
                connection.close()
        finally:
            if hold is not None:
                self.locks.give_back(hold)
            self.locks.leave()

    def _at_hand(self) -> sqlite3.Connection:
        """The connection. Opened again in a forked child; raises StoreError if it was closed, or
        if the file is another one by now."""
        connection = self._connection
        if connection is None:
            if self._is_closed:
                raise closed(self.path)
            connection = self._connection = self._connected()
        if self.is_file and _key_of(self.path) != self._key:
            raise StoreError(
                f"the store {self.path!r} is gone: its file was moved, deleted or replaced while "
                "it was open",
                path=self.path,
            )
        return connection

    def broken(self, error: BaseException) -> StoreError:
        """The error for one of SQLite, or of the system."""
        if isinstance(error, StoreError):
            return error
        made = StoreError(f"the store {self.path!r} failed: {error}", path=self.path)
        made.__cause__ = error
        return made

    # One thing at a time.

    def call(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """What a function returns that reads. Raises StoreError."""
        with self.lock:
            try:
                return function(self._at_hand())
            except (sqlite3.Error, OSError) as error:
                raise self.broken(error) from error

    def rows(self, statement: str, *values: Any) -> list[Any]:
        """The rows that a statement finds."""
        return self.call(lambda connection: connection.execute(statement, values).fetchall())

    def transact(
        self, function: Callable[[sqlite3.Connection], T], *, is_undone: bool = False
    ) -> T:
        """What a function returns that writes, in a transaction of its own; `is_undone` if only the
        answer is asked for. Raises StoreError."""
        with self.lock:
            self._recover()
            try:
                connection = self._at_hand()
                connection.execute("BEGIN IMMEDIATE")
                done = function(connection)
                connection.execute("ROLLBACK" if is_undone else "COMMIT")
            except BaseException as error:
                connection_ = self._connection
                if connection_ is not None and connection_.in_transaction:
                    with suppress(sqlite3.Error):
                        connection_.rollback()
                if isinstance(error, (sqlite3.Error, OSError)):
                    raise self.broken(error) from error
                raise
        return done

    # Together.

    def change(self, function: Callable[[sqlite3.Connection], T], undo: Callable[[], None]) -> T:
        """What a function returns that writes, committed together with what others write. It may
        be called several times, and `undo` between. Raises what it raises, and StoreError."""
        change = Change(self, function, undo)
        self.settle(change)
        error, change.error = change.error, None
        if error is not None:
            try:
                raise error
            finally:  # its traceback refers to this frame: that would be a cycle
                del error
        result: T = change.result
        return result

    def settle(self, write: Write) -> None:
        """Have something committed before this returns. Ctrl-C meanwhile is raised afterwards."""
        interrupted: BaseException | None = None
        lock = self.lock
        if not self._queue and lock.acquire_now():  # nobody else is there
            try:
                if not self._batch:
                    self._write([write])
            except BaseException as error:
                interrupted = error
            finally:
                lock.release()
        finished: list[Write] = []
        if not write.is_done:
            self._queue.append(write)
        while not write.is_done:
            try:
                with self.lock:
                    if not write.is_done:  # by now, by whoever had the lock before
                        finished += self._flushed()
            except BaseException as error:
                interrupted = error
        for each in finished:
            each.tell()
        if interrupted is not None:
            raise interrupted
        if self._since > _OFTEN:
            self._checkpoint_if_due()

    def settle_later(self, write: Write) -> None:
        """Have something committed by a thread."""
        self._queue.append(write)
        signals = self._signals
        if signals is None:
            with self._guard:
                signals = self._signals
                if signals is None:
                    signals = self._signals = SimpleQueue()
                    Thread(
                        target=self._serve, args=(signals,), name="fast_dag store", daemon=True
                    ).start()
        signals.put(True)

    def _serve(self, signals: SimpleQueue[bool]) -> None:
        while signals.get():
            with self.lock:
                finished = self._flushed()
            for each in finished:
                each.tell()
            del finished
            if self._since > _OFTEN:
                self._checkpoint_if_due()

    def enter(self) -> None:
        """A run begins to use the database."""
        with self._guard:
            self._busy += 1

    def rest(self) -> None:
        """A run that used it has ended. The thread ends with the last of them."""
        with self._guard:
            self._busy -= 1
            if not self._busy and self._signals is not None:
                self._signals.put(False)
                self._signals = None
        self._checkpoint_if_due()

    def _flushed(self) -> list[Write]:
        """Write all that is in the queue, and return it; the lock is held."""
        finished = self._recover()
        queue = self._queue
        batch = [each for each in queue.copy() if not each.is_done]
        if batch:
            self._write(batch)
            finished += batch
        while queue and queue[0].is_done:
            queue.popleft()
        return finished

    def _write(self, batch: list[Write]) -> None:
        try:
            connection = self._at_hand()
        except StoreError as error:
            self._end(batch, error)
            return
        self._before = connection.total_changes
        self._batch = batch
        try:
            if len(batch) == 1 and batch[0].apply_alone(connection):
                batch[0].is_done = True
                self._batch = []
                self._since += 1
                return
            connection.execute("BEGIN IMMEDIATE")
            for each in batch:
                try:
                    each.apply(connection)
                except (StoreError, ValueError) as error:
                    each.error = _told(error)
            connection.execute("COMMIT")
        except failures() as error:  # a Ctrl-C is not one: then the batch is written again
            self._batch = []
            self._undo(connection, batch)
            if len(batch) > 1 and isinstance(error, sqlite3.IntegrityError):
                for each in batch:  # only one of them is wrong
                    self._write([each])
                return
            self._end(batch, self.broken(error))
            return
        self._end(batch, None)
        self._batch = []
        self._since += len(batch)

    def _undo(self, connection: sqlite3.Connection, batch: list[Write]) -> None:
        with suppress(sqlite3.Error):
            connection.rollback()
        for each in batch:
            each.error = None
            each.take_back()

    def _end(self, batch: list[Write], error: BaseException | None) -> None:
        for each in batch:
            if each.error is None:
                each.error = error
            each.is_done = True

    def _recover(self) -> list[Write]:
        """After a Ctrl-C in the middle of a batch: whether it was written. Returns it if so."""
        batch, connection = self._batch, self._connection
        if not batch or connection is None:
            return []
        if connection.in_transaction:
            self._undo(connection, batch)
        elif connection.total_changes != self._before or all(each.is_done for each in batch):
            self._end(batch, None)
            self._batch = []
            return batch
        self._batch = []
        return []

    # Checkpoints.

    def _checkpoint_if_due(self) -> None:
        """Make a checkpoint if the log has grown, and no other process is making one."""
        self._since = 0
        if not self.is_file:
            return
        try:
            if os.stat(f"{self.path}-wal").st_size <= _WAL_BYTES:
                return
        except OSError:
            return
        hold = self.locks.take(_OF_CHECKPOINTS)
        if hold is None:
            return
        try:
            with self.lock, suppress(sqlite3.Error):
                if self._connection is not None and not self._connection.in_transaction:
                    self._checkpoint(self._connection)
        finally:
            self.locks.give_back(hold)

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        """Copy the log to the database. This waits for whoever writes, and nobody can write
        meanwhile. It does not wait for those who read: what they need stays in the log. The next
        commit begins the log anew, if nobody needs it, and cuts it to its limit. To write over
        what was there takes half of the time that it takes to make a file longer."""
        connection.execute("BEGIN IMMEDIATE")
        try:
            other = sqlite3.connect(self.path, timeout=0, isolation_level=None)
            try:
                other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            finally:
                other.close()
        finally:
            connection.rollback()

    # Forks.

    def forget(self) -> None:
        """In a forked child: the connection belongs to the parent."""
        self.lock, self._guard = FairLock(), Lock()
        self._queue, self._batch, self._signals, self._busy = deque(), [], None, 0
        if self._connection is None:
            return
        _registry.inherited.append(self._connection)
        self._connection = None
        if not self.is_file:
            self._is_closed = True


def _told(error: BaseException) -> BaseException:
    """What is raised to the caller of what he writes."""
    if not isinstance(error, UnicodeEncodeError):
        return error
    told = StoreError(f"names in a store are text that UTF-8 can write: {error}")
    told.__cause__ = error
    return told


def closed(path: str) -> StoreError:
    """The error of a store that is used after it was closed."""
    return StoreError(f"the store {path!r} is closed; open another Store of it", path=path)


class _Registry:
    """The databases of this process, by device and inode."""

    def __init__(self) -> None:
        self.guard = Lock()
        self.files: dict[tuple[int, int], Database] = {}
        self.inherited: list[sqlite3.Connection] = []  # which only the parent may close
        self._paused: dict[int, list[FairLock]] = {}  # the locks that a thread has while it forks

    def pause(self) -> None:
        """Before a fork: no other thread is inside of SQLite meanwhile, whose own locks would be
        taken for ever in the child."""
        databases = list(self.files.values())
        locks = [each.lock for each in databases if each.lock.acquire(_FORK_PATIENCE)]
        self._paused[get_ident()] = locks

    def go_on(self) -> None:
        """After a fork, in the parent."""
        for lock in self._paused.pop(get_ident(), ()):
            lock.release()

    def forget(self) -> None:
        """In a forked child, whose only thread this is."""
        self.guard = Lock()
        self._paused = {}
        for each in self.files.values():
            each.forget()


_registry: Final = _Registry()
at_fork(before=_registry.pause, in_parent=_registry.go_on, in_child=_registry.forget)


def _key_of(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _made(path: str) -> tuple[int, int]:
    """Device and inode of a file, which is made if there is none. It must not be opened if it is
    there: to close it again would free the locks that SQLite has of it."""
    key = _key_of(path)
    try:
        if key is None:
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        status = os.stat(path)
    except OSError as error:
        raise StoreError(f"the store {path!r} cannot be opened: {error}", path=path) from error
    return status.st_dev, status.st_ino


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn what rows raise that nobody could have written into a StoreError."""
    try:
        yield
    except FastDAGError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, OSError) as error:
        raise StoreError(f"the store {path!r} is damaged: {brief_of(error)}", path=path) from error


# File systems.

_NETWORK: Final = ("nfs", "cifs", "smb", "fuse", "9p", "afs", "ceph", "gluster", "lustre", "sshfs")


def refuse_network(path: str) -> None:
    """Raise StoreError if the file system of a path is one on which locks cannot be relied on."""
    kind = filesystem_of(path)
    if kind is not None and kind.startswith(_NETWORK):
        raise StoreError(
            f"the store {path!r} is on a {kind} file system, where locks and syncs may not hold "
            "what they promise; put it on a local disk, or say check_filesystem=False",
            path=path,
            filesystem=kind,
        )


def filesystem_of(path: str, mounts: str = "/proc/self/mounts") -> str | None:
    """The kind of the file system that a path is on; None if the system does not tell."""
    if sys.platform == "win32":
        return "smb" if os.path.realpath(path).startswith("\\\\") else None
    try:
        with open(mounts, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.split() for line in file]
    except OSError:
        return None
    best, kind = "", None
    for fields in lines:
        if len(fields) < 3:
            continue
        place = fields[1].replace("\\040", " ")
        inside = path == place or path.startswith(place.rstrip("/") + "/")
        if inside and len(place) >= len(best):
            best, kind = place, fields[2]
    return kind


def placeholders(values: Sequence[Any]) -> str:
    """The question marks for so many values in a statement.

    >>> placeholders([1, 2])
    '?, ?'
    """
    return ", ".join("?" * len(values))
