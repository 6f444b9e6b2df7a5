"""The records in SQLite: each change is one transaction, and a broken row harms no other."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from sampan.engine import database
from sampan.engine.datasync import DataSync, has_no_disk
from sampan.engine.errors import DiskError

_log = logging.getLogger(__name__)

_BURIED = "removed "  # before the kind
Body = Mapping[str, object] | str  # as it is, or as JSON
_PATIENCE = 1.0  # seconds until what could not be written is tried again


@dataclass(slots=True)
class Row:
    """A record as it stands in the database, whatever that is."""

    rowid: int
    key: str
    body: bytes


class Sync:
    """One sync of the log, and all who wait for it: each for a future of his own, as one who gives up must not end it for the others."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []
        self._over = False
        self._error: DiskError | None = None

    async def ended(self) -> None:
        """Returns when it has been done. Raises DiskError when it failed."""
        if not self._over:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future
        if self._error is not None:
            raise self._error

    def end(self, error: DiskError | None) -> None:
        """It has been done, or failed."""
        self._over, self._error = True, error
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()


class Records:
    """Named tables of JSON records by key."""

    def __init__(self, path: str, scratch: str, *, expected: bool = False) -> None:
        """`scratch`: a directory for copies of a database that can't be used where it is. `expected`: there must be one, and
        that it is missing is damage. Raises EngineError.
        """
        self._path, self._scratch = path, scratch
        self._db = database.open_database(path, scratch, expected=expected)
        self.notes = self._db.notes
        self._owed: dict[tuple[str, str], Body | None] = {}  # not written yet; None: not deleted yet
        self._paying: asyncio.TimerHandle | None = None
        self._next: Sync | None = None  # the sync that has not begun yet
        self._now: Sync | None = None  # the one that has
        self._datasync = DataSync()
        self._no_disk = self._db.log < 0 or has_no_disk(self._db.log)
        self._written = self._covered = self._synced = 0  # changes: all, those of the last sync, those on disk
        self._suspect = False  # the last sync failed: what it was to write may never come to the disk by another

    @property
    def read_only(self) -> str:
        """Why nothing can be written, or ""."""
        return self._db.read_only

    def damaged_files(self) -> list[str]:
        """Databases that were set aside, until a person removes them."""
        return database.damaged_files(self._path)

    # reading

    def rows(self, kind: str) -> list[Row]:
        """All records of a kind as they are, in the order in which they were made."""
        found = self._db.connection.execute(
            "SELECT rowid, CAST(key AS BLOB), CAST(body AS BLOB) FROM records WHERE kind = ? ORDER BY rowid", (kind,)
        )
        return [Row(rowid, key.decode("utf-8", "surrogateescape"), body) for rowid, key, body in found.fetchall()]

    def all(self, kind: str) -> list[dict[str, object]]:
        """All records of a kind that are JSON objects. Others are named on stderr and left as they are."""
        found = []
        for row in self.rows(kind):
            try:
                body = json.loads(row.body)
                if not isinstance(body, dict):
                    raise ValueError("no object")
                found.append(body)
            except (ValueError, RecursionError) as error:
                _log.warning(f"the record of {kind} {row.key!r} is damaged ({error}) and kept")
        return found

    # writing

    def put(self, kind: str, key: str, body: Body) -> None:
        """Inserts or replaces a record, given as it is or as JSON. Raises DiskError; a new one needs more space than the reserve."""
        self._write(kind, key, body if isinstance(body, str) else json.dumps(body))

    def delete(self, kind: str, key: str) -> None:
        """Deletes a record; a missing one is fine. Raises DiskError."""
        self._write(kind, key, None)

    def bury(self, kind: str, key: str, rowid: int = 0) -> None:
        """Replaces a record (of that row, if its key can't be trusted) by a note that it was removed, which outlives a power
        cut that brings its files back. Raises DiskError.
        """
        where, values = ("rowid = ?", (rowid,)) if rowid else ("kind = ? AND key = ?", (kind, key))
        if not self._change(
            f"UPDATE OR REPLACE records SET kind = ?, body = '{{}}' WHERE {where}", _BURIED + kind, *values
        ):
            self._change("INSERT OR REPLACE INTO records VALUES (?, ?, '{}')", _BURIED + kind, key)
        self._owed.pop((kind, key), None)

    def buried(self, kind: str) -> list[Row]:
        """What was removed, until it is forgotten."""
        return self.rows(_BURIED + kind)

    def forget(self, rows: list[Row]) -> None:
        """Forgets removals of which nothing is left on the disk. Raises DiskError."""
        self._change(f"DELETE FROM records WHERE rowid IN ({','.join(str(row.rowid) for row in rows)})")

    def delete_row(self, row: Row) -> None:
        """Deletes a record as it was read, whatever it is. Raises DiskError."""
        self._change("DELETE FROM records WHERE rowid = ?", row.rowid)

    def owe(self, kind: str, key: str, body: Body | None) -> None:
        """As put, or delete without a body, for what has happened and must be told whatever the disk says: what can't be
        written is tried again until it is.
        """
        try:
            self._settle(kind, key, body)
        except DiskError as error:
            if not self._owed:
                _log.error(f"{error}; it is tried again")
            self._owed[kind, key] = body
            self._pay_later()

    @property
    def owing(self) -> int:
        """How many changes wait for the disk."""
        return len(self._owed)

    def _pay_later(self) -> None:
        if self._paying is None:
            self._paying = asyncio.get_running_loop().call_later(_PATIENCE, self._pay)

    def _pay(self) -> None:
        self._paying = None
        if not self._paid():
            self._pay_later()

    def _paid(self) -> bool:
        """Writes what is owed; whether the disk took all of it."""
        for (kind, key), body in list(self._owed.items()):
            try:
                self._settle(kind, key, body)
            except DiskError:
                return False
        return True

    def _settle(self, kind: str, key: str, body: Body | None) -> None:
        self._write(kind, key, body if body is None or isinstance(body, str) else json.dumps(body))

    def _write(self, kind: str, key: str, text: str | None) -> None:
        if text is None:
            self._change("DELETE FROM records WHERE kind = ? AND key = ?", kind, key)
        elif not self._change("UPDATE records SET body = ? WHERE kind = ? AND key = ?", text, kind, key):
            if not self._db.has_reserve():
                raise DiskError(
                    f"the disk of {self._path} is full: no space for new records; free some, or remove something"
                )
            self._change("INSERT INTO records VALUES (?, ?, ?)", kind, key, text)
        if self._owed:
            self._owed.pop((kind, key), None)

    def _change(self, statement: str, *values: str | int) -> int:
        """One change, tried a second time with an emptied log; returns how many records it met. Raises DiskError."""
        if self._db.read_only:
            self._reopen()
        self._written += 1
        try:
            return self._db.connection.execute(statement, values).rowcount
        except sqlite3.Error:
            try:
                database.checkpoint(self._db.connection)
                return self._db.connection.execute(statement, values).rowcount
            except sqlite3.Error as error:
                raise self._trouble(error) from error

    def _reopen(self) -> None:
        """A file system that was read-only may not be so any more. Raises DiskError when it is."""
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CLOEXEC))
        except OSError:
            raise DiskError(f"nothing can be written to {self._db.read_only}; reading works") from None
        old, self._db = self._db, database.open_database(self._path, self._scratch)
        self._no_disk = self._db.log < 0 or has_no_disk(self._db.log)
        old.close()

    def _trouble(self, error: sqlite3.Error) -> DiskError:
        code = database.code(error)
        what = {sqlite3.SQLITE_FULL: "the disk is full: free some space", sqlite3.SQLITE_READONLY: "read-only file system",
                sqlite3.SQLITE_IOERR: "the disk fails, or is read-only"}.get(code, str(error))  # fmt: skip
        return DiskError(f"the records in {self._path} can't be written: {what}")

    # durability

    async def flush(self) -> None:
        """Group commit: returns when all that was written before is on disk; those who wait together share one fdatasync.

        A checkpoint of SQLite's syncs the log, copies it to the main file and syncs that before the log is used again
        (synchronous=NORMAL), so what is not in the log any more is on disk as well. Raises DiskError.
        """
        if self._synced != self._written:
            await self.begin_flush().ended()

    def begin_flush(self) -> Sync:
        """Begins what flush() waits for, so that there is less to wait for later."""
        if self._now is not None and self._covered == self._written:
            return self._now
        sync = self._next = self._next or Sync()  # who writes while one is under way is too late for that one
        if self._now is None:
            self._begin()
        return sync

    def _begin(self) -> None:
        self._now, self._next = self._next, None
        self._covered = self._written
        if self._suspect:
            # fsync(2): after an error a later success says nothing. All is read again and written to the other file.
            loop = asyncio.get_running_loop()
            loop.run_in_executor(None, database.checkpoint, self._db.connection).add_done_callback(self._rewritten)
        else:
            self._sync()

    def _rewritten(self, done: asyncio.Future[None]) -> None:
        error = None if done.cancelled() else done.exception()
        if done.cancelled() or error is not None:
            self._end(self._trouble(error) if isinstance(error, sqlite3.Error) else DiskError(f"{self._path}: {error}"))
        else:
            self._sync()

    def _sync(self) -> None:
        if self._no_disk:
            self._synced_with(0)
        else:
            self._datasync.begin(self._db.log, self._synced_with)

    def _synced_with(self, error: int) -> None:
        if error:
            self._suspect = True
            self._end(DiskError(f"the records in {self._path} can't be written: {os.strerror(error)}"))
        else:
            self._suspect, self._synced = False, self._covered
            self._end(None)

    def _end(self, error: DiskError | None) -> None:
        """Tells those who waited, and begins the next if somebody waits for that."""
        over, self._now = self._now, None
        if over is not None:
            over.end(error)
        if self._next is not None:
            self._begin()

    def close(self) -> None:
        """Writes what is owed if it can, and closes the database."""
        if self._paying is not None:
            self._paying.cancel()
        self._paid()
        self._datasync.close()
        self._db.close()
