"""The SQLite file of the records: opened whatever state disk and file are in.

- A newer schema is refused before anything is touched; an older one is migrated in one transaction.
- A damaged file is renamed and kept; what can still be read of it goes into a new one.
- On a read-only file system a copy in the exec root is read.
- The write-ahead log is never smaller than `_LOG_SIZE` and its blocks are kept under a second name when SQLite deletes it,
  and the main file has `_RESERVE` free pages: so removals, exits and checkpoints need no space of a full disk.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import sqlite3
import struct
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from sampan.engine.errors import EngineError
from sampan.linux import durable
from sampan.linux.files import is_strange, regular
from sampan.linux.syscall import check, libc

SCHEMA = 1
_MAGIC = b"SQLite format 3\0"
_LOG_SIZE = 5 << 20  # SQLite begins it anew after 1,000 pages of 4 KiB
_RESERVE, _LEAST = 256, 128  # pages
_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE
_TABLE = (
    "CREATE TABLE IF NOT EXISTS records "
    "(kind TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (kind, key))"
)
# _MIGRATIONS[n] brings schema n to n + 1; each is a list of statements.
_MIGRATIONS: list[list[str]] = [[_TABLE]]
# What says nothing about the file: a full, failing or read-only disk, no memory, another process's lock.
_OUTSIDE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}  # fmt: skip


@dataclass(slots=True)
class Database:
    """An open database. `read_only` says why nothing can be written, or "".

    `main` and `log` are descriptors of its two files: closing one of the main file drops SQLite's locks, so it stays open.
    """

    connection: sqlite3.Connection
    main: int = -1
    log: int = -1
    read_only: str = ""
    notes: list[str] = field(default_factory=list)  # what a person should know
    _reserved: bool = True  # the free pages have blocks

    def close(self) -> None:
        """Closes it; all that was written is on disk then."""
        self.connection.close()
        for fd in (self.main, self.log):
            if fd >= 0:
                os.close(fd)
        self.main = self.log = -1

    def has_reserve(self) -> bool:
        """Whether enough is kept for what must be written on a full disk; makes more if it can."""
        if self._reserved and self._free() >= _LEAST:
            return True
        try:
            self._refill()
        except (sqlite3.Error, OSError):
            self._reserved = False
        return self._reserved

    def _free(self) -> int:
        (count,) = self.connection.execute("PRAGMA freelist_count").fetchone()
        return int(count)

    def _refill(self) -> None:
        """Makes free pages that have blocks on the disk. Raises OSError, sqlite3.Error: the disk is full."""
        allocate(self.main, _RESERVE * 4096)
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            self.connection.execute("CREATE TABLE reserve (space BLOB)")
            for _ in range(_RESERVE // 32):
                self.connection.execute("INSERT INTO reserve VALUES (zeroblob(?))", (32 * 4096,))
            self.connection.execute("COMMIT")
            checkpoint(self.connection)
        finally:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            self.connection.execute("DROP TABLE IF EXISTS reserve")
        self._reserved = True


def checkpoint(connection: sqlite3.Connection) -> None:
    """Brings the log's content to the main file; the log begins anew. Raises sqlite3.OperationalError."""
    busy, pages, done = connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
    if busy or pages != done:
        raise sqlite3.OperationalError("the log could not be brought to the main file")


def allocate(fd: int, size: int) -> None:
    """Takes blocks behind the end of a file, which keeps its length. Raises OSError: the disk is full."""
    try:
        length = os.fstat(fd).st_size
        check(libc.fallocate(fd, _KEEP_SIZE, ctypes.c_int64(length), ctypes.c_int64(size)), "fallocate")
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise


def code(error: sqlite3.Error) -> int:
    """SQLite's primary result code of an error."""
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) or sqlite3.SQLITE_ERROR) & 0xFF


def open_database(path: str, scratch: str, *, expected: bool = False) -> Database:
    """Opens or makes it. Files for reading a read-only or damaged one go to the directory `scratch`. `expected`: there must
    be one, as there is what only an engine with one has made; that it is missing is damage then.

    Raises EngineError when it is of a newer version or the disk fails; then nothing has been changed.
    """
    notes = _clear_place(path)
    _check_version(path)
    lost = _lost(path) if expected else ""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        return _read_copy(path, scratch, error)
    try:
        if lost:
            raise sqlite3.DatabaseError(lost)
        found = _open(path)
    except sqlite3.DatabaseError as error:
        if code(error) in _OUTSIDE:
            raise EngineError(f"the records in {path} can't be opened: {error}") from error
        aside = _set_aside(path)
        found = _open(path)
        kept = _salvage(aside, scratch, found.connection)
        notes.append(f"{path} was damaged ({error}) and is kept as {aside}; {kept} records of it could be read")
    found.notes += notes
    return found


def _clear_place(path: str) -> list[str]:
    """Sets aside what is no file where the database and its log should be; a fifo there would keep us waiting."""
    notes = []
    for name in (path, f"{path}-wal", f"{path}-reserve"):
        if is_strange(name):
            aside = f"{name}.damaged-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.getpid()}"
            with contextlib.suppress(OSError):
                os.rename(name, aside)
                notes.append(f"{name} is no regular file; it is kept as {aside}")
    return notes


def _lost(path: str) -> str:
    """Why there is no database where one was, or "". SQLite takes an empty file for a new one."""
    try:
        return "" if os.stat(path).st_size else "it is empty"
    except FileNotFoundError:
        return "it is missing"
    except OSError:
        return ""


def damaged_files(path: str) -> list[str]:
    """Databases that were set aside, until a person removes them."""
    directory, name = os.path.split(path)
    return sorted(
        f"{directory}/{entry}"
        for entry in os.listdir(directory)
        if entry.startswith(f"{name}.damaged-") and not entry.endswith("-wal")
    )


def _check_version(path: str) -> None:
    """Reads it from the file itself, which opening it with SQLite would already change. Raises EngineError."""
    try:
        with open(path, "rb", opener=regular) as file:
            head = file.read(100)
    except OSError:
        return
    if head.startswith(_MAGIC) and len(head) == 100:
        (version,) = struct.unpack_from(">i", head, 60)
        if version > SCHEMA:
            raise EngineError(
                f"{path} has schema {version} of a newer Sampan; this one knows {SCHEMA} at most. Nothing was changed: "
                "start the newer sampand, or this one with another --data-root"
            )


def _open(path: str) -> Database:
    """Raises sqlite3.DatabaseError, OSError."""
    _provide_log(path)
    main = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    found = Database(connection, main)
    try:
        # One daemon per data root: without the locks and the shared index a change takes a quarter of the time.
        for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=NORMAL", "temp_store=MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
        _check(connection)
        _migrate(connection)
        _provide_log(path)  # SQLite deletes that of an empty database
        found.has_reserve()
        found.log = os.open(f"{path}-wal", os.O_RDWR | os.O_CLOEXEC)
    except BaseException:
        found.close()
        raise
    with contextlib.suppress(OSError):
        durable.sync_directory(os.path.dirname(path))
    return found


def _check(connection: sqlite3.Connection) -> None:
    """Raises sqlite3.DatabaseError."""
    rows = connection.execute("PRAGMA quick_check(1)").fetchall()
    if rows != [("ok",)]:
        raise sqlite3.DatabaseError("; ".join(str(row[0]) for row in rows))


def _migrate(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version < SCHEMA:
        connection.execute("BEGIN IMMEDIATE")
        for statements in _MIGRATIONS[max(version, 0) :]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version={SCHEMA}")
        connection.execute("COMMIT")
        checkpoint(connection)  # the version is read from the main file
    connection.execute("SELECT kind, key, body FROM records LIMIT 1").fetchone()


def _provide_log(path: str) -> None:
    """A log whose blocks are there already; its old ones, kept under another name, before new ones."""
    log, kept = f"{path}-wal", f"{path}-reserve"
    try:
        if not os.path.exists(log) and os.path.exists(kept):
            with open(kept, "r+b") as file:
                file.write(bytes(4096))  # no header: to SQLite it is empty
                file.flush()
                os.fsync(file.fileno())
            os.rename(kept, log)
        with open(log, "ab") as file:
            missing = _LOG_SIZE - os.fstat(file.fileno()).st_size
            os.fchmod(file.fileno(), 0o600)
            while missing > 0:
                missing -= file.write(bytes(min(missing, 1 << 20)))
        if not os.path.exists(kept) or not os.path.samefile(kept, log):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(kept)
            os.link(log, kept)
    except OSError:
        return  # full: SQLite says so when it needs more


def _set_aside(path: str) -> str:
    aside = f"{path}.damaged-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
    while os.path.exists(aside):
        aside += "+"
    for suffix in ("", "-wal"):
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{aside}{suffix}")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{path}-reserve")  # a second name of the log that was just renamed
    durable.sync_directory(os.path.dirname(path))
    return aside


def _salvage(aside: str, scratch: str, target: sqlite3.Connection) -> int:
    """Copies what can be read of a damaged database; returns how many records that are."""
    rows: dict[int, tuple[object, ...]] = {}
    with _copied(aside, scratch) as copy:
        for order in ("ASC", "DESC"):  # from both ends to the damaged page
            with contextlib.suppress(sqlite3.DatabaseError), contextlib.closing(sqlite3.connect(copy)) as source:
                source.text_factory = bytes
                source.execute("PRAGMA writable_schema=ON")  # also of a file that is shorter than it says
                for row in source.execute(
                    f"SELECT rowid, CAST(kind AS TEXT), CAST(key AS TEXT), body FROM records ORDER BY rowid {order}"
                ):
                    rows[row[0]] = row[1:]
    count = 0
    target.execute("BEGIN IMMEDIATE")
    for rowid in sorted(rows):
        kind, key, body = (_text(value) for value in rows[rowid])
        with contextlib.suppress(sqlite3.DatabaseError, UnicodeError):
            target.execute("INSERT OR IGNORE INTO records VALUES (?, ?, ?)", (kind, key, body))
            count += 1
    target.execute("COMMIT")
    return count


def _text(value: object) -> object:
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return value


@contextlib.contextmanager
def _copied(path: str, scratch: str) -> Iterator[str]:
    """A copy of a database and its log, to be deleted afterwards."""
    with tempfile.TemporaryDirectory(dir=scratch, prefix="records-") as directory:
        for suffix in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(f"{path}{suffix}", f"{directory}/copy{suffix}")
        yield f"{directory}/copy"


def _read_copy(path: str, scratch: str, reason: OSError) -> Database:
    """A database of what can be read of one that can't be written."""
    connection = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
    connection.execute(_TABLE)
    notes = [f"the records in {path} can't be written: {reason.strerror}: only what reads works"]
    if os.path.exists(path):
        _salvage(path, scratch, connection)
    return Database(connection, read_only=f"{path}: {reason.strerror}", notes=notes)
