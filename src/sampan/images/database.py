"""A database of the store: every change is one transaction, who reads waits for nobody's disk, and damage is set aside.

Used with synchronous=FULL a change is on disk when it returns.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from typing import Any

from sampan.images.errors import ImageError, StoreFull
from sampan.linux.files import is_strange

_RESERVE = 1 << 20  # bytes, for the removal of images when there are no others

_FEW, _MOST_FOUND = 64, 512  # rows of an answer, and answers, that are kept

Value = str | int | float | bytes | None
Statement = tuple[str, tuple[Value, ...]]
Row = tuple[Any, ...]  # of the kinds that the table declares, which has been checked when it was opened


class Database:
    """The database at `path`. `aside`, when not empty, is where a damaged one was put; what could be read of it is in the new one."""

    def __init__(self, path: str, tables: dict[str, str], place: str, durable: bool = True) -> None:
        """`tables`: the columns of each; `place`: the directory for a damaged database."""
        self._path, self._tables, self._durable, self._reserve = path, tables, durable, f"{path}.reserve"
        self._turn = threading.RLock()  # a connection has one transaction at a time, whichever thread began it
        self._found: dict[tuple[str, tuple[Value, ...]], list[Row]] = {}
        self.aside, self.read_only = "", False
        try:
            if is_strange(path):
                raise sqlite3.DatabaseError("malformed: it is no regular file")
            self._open(path)
        except sqlite3.DatabaseError as error:
            if _is_read_only(error):
                self._open_copy()
                return
            if isinstance(error, sqlite3.OperationalError) and _is_full(error):
                raise StoreFull(f"{path}: {error}: make room on its file system") from error
            if not _is_damage(error):
                raise
            self._begin_anew(path, place)
        self._refill()

    def _open(self, path: str) -> None:
        self._writer = _connect(path)
        self._writer.execute("PRAGMA journal_mode=WAL")
        self._writer.execute(f"PRAGMA synchronous={'FULL' if self._durable else 'NORMAL'}")
        self._writer.execute("PRAGMA journal_size_limit=1048576")
        for row in self._writer.execute("PRAGMA quick_check(1)").fetchall():
            if row[0] != "ok":
                raise sqlite3.DatabaseError(f"malformed: {row[0]}")
        self._make_tables(self._writer)
        for name in self._tables:
            if self._writer.execute(
                f"SELECT 1 FROM {name} WHERE NOT ({_sound(self._writer, name)}) LIMIT 1"
            ).fetchone():
                raise sqlite3.DatabaseError(f"malformed: a row of {name} has a value of the wrong kind")
        self._reader = _connect(path)
        self._reader.execute("SELECT count(*) FROM sqlite_master").fetchall()

    def _make_tables(self, database: sqlite3.Connection) -> None:
        for name, columns in self._tables.items():
            database.execute(f"CREATE TABLE IF NOT EXISTS {name} ({columns})")

    def _open_copy(self) -> None:
        """On a file system that is read-only: a copy in memory is enough to say what is there."""
        self.read_only = True
        with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as place:
            for suffix in ("", "-wal"):
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(f"{self._path}{suffix}", f"{place}/copy{suffix}")
            found = _connect(f"{place}/copy")
            self._reader = self._writer = _connect(":memory:")
            found.backup(self._reader)
            found.close()
        self._make_tables(self._reader)

    def _begin_anew(self, path: str, place: str) -> None:
        with contextlib.suppress(AttributeError, sqlite3.Error):
            self._writer.close()
        self.aside = f"{place}/{os.path.basename(path)}-{time.strftime('%Y%m%dT%H%M%S')}-{os.urandom(2).hex()}"
        for suffix in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{path}{suffix}", f"{self.aside}{suffix}")
        self._open(path)
        if is_strange(self.aside):
            return
        for table, rows in _salvage(self.aside, place, self._tables).items():
            for row in rows:
                with contextlib.suppress(sqlite3.Error):
                    self._writer.execute(f"INSERT OR IGNORE INTO {table} VALUES ({', '.join('?' * len(row))})", row)

    def rows(self, sql: str, *values: Value) -> list[Row]:
        """What a SELECT finds, as of the last change. Nobody else writes, so what was found since that need not be asked again."""
        found = self._found
        rows = found.get((sql, values))
        if rows is None:
            rows = self._read(sql, values)
            if len(rows) <= _FEW and len(found) < _MOST_FOUND:
                found[sql, values] = (
                    rows  # in what was there before it was read: a change meanwhile has left that behind
                )
        return list(rows)

    def _read(self, sql: str, values: tuple[Value, ...]) -> list[Row]:
        try:
            return self._reader.execute(sql, values).fetchall()
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            raise ImageError(f"{self._path}: {error}: start the engine again, which repairs it") from error

    def change(self, *statements: Statement, removing: bool = False) -> None:
        """Makes all the changes or none; they are on disk when this returns. Raises StoreFull, ImageError.

        `removing` may use the space that is kept for it on a full disk.
        """
        with self._turn:
            try:
                self._apply(statements)
            except sqlite3.OperationalError as error:
                if _is_read_only(error) or self.read_only:
                    raise ImageError(f"the image store is read-only: {error}") from error
                if not _is_full(error):
                    raise
                if not removing:
                    raise StoreFull("no space left on device: the change of the image store is not made") from error
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._reserve)
                self._apply(statements)
            finally:
                self._found = {}

    def _apply(self, statements: tuple[Statement, ...]) -> None:
        if self.read_only:
            raise sqlite3.OperationalError("its file system is read-only")
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            for sql, values in statements:
                self._writer.execute(sql, values)
            self._writer.execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise

    def has_room_again(self) -> None:
        """Something has been deleted: the space for removals is taken again if it was used."""
        if not self.read_only:
            with self._turn:
                self._refill()

    def _refill(self) -> None:
        if os.path.exists(self._reserve):
            return
        with contextlib.suppress(OSError):
            fd = os.open(self._reserve, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, _RESERVE)
            except OSError:
                os.unlink(self._reserve)
            finally:
                os.close(fd)

    def close(self) -> None:
        """Closes the database; its log is written into it."""
        with self._turn:
            self._reader.close()
            self._writer.close()


def _connect(path: str) -> sqlite3.Connection:
    return sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)


_KINDS = {"TEXT": "'text'", "INTEGER": "'integer'", "REAL": "'real', 'integer'"}


def _sound(db: sqlite3.Connection, table: str) -> str:
    """The condition under which a row's values are of the kinds that its table declares: SQLite keeps any in any column."""
    parts = []
    for _, name, kind, required, _, key in db.execute(f"PRAGMA table_info({table})").fetchall():
        if kind in _KINDS:
            parts.append(f"typeof({name}) IN ({_KINDS[kind]}{'' if required or key else ', ' + repr('null')})")
    return " AND ".join(parts) or "1"


def _salvage(path: str, place: str, tables: dict[str, str]) -> dict[str, list[Row]]:
    """The rows of a damaged database that can still be read: of each table up to the damage, from both its ends."""
    found: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory(dir=place) as copies:
        for suffix in ("", "-wal"):
            with contextlib.suppress(OSError):
                shutil.copyfile(f"{path}{suffix}", f"{copies}/copy{suffix}")
        for name in tables:
            rows: dict[Row, None] = {}
            for order in ("ASC", "DESC"):
                with contextlib.suppress(sqlite3.Error), contextlib.closing(_connect(f"{copies}/copy")) as db:
                    for row in db.execute(f"SELECT * FROM {name} WHERE {_sound(db, name)} ORDER BY rowid {order}"):
                        rows[row] = None
            found[name] = list(rows)
    return found


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    text = str(error)
    return "malformed" in text or "not a database" in text or "encrypted" in text or "file is truncated" in text


def _is_full(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_SHMSIZE


def _is_read_only(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
