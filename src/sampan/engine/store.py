"""The records in SQLite: each change is one transaction, and a broken row harms no other."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
from typing import Any


class Store:
    """Named tables of JSON records by key."""

    def __init__(self, path: str) -> None:
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        # One daemon per data root: without the locks and the shared index a change takes a quarter of the time.
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS records "
            "(kind TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (kind, key))"
        )
        self._log = os.open(f"{path}-wal", os.O_RDWR | os.O_CLOEXEC)
        self._next: asyncio.Task[None] | None = None  # the sync that has not begun yet
        self._turn = asyncio.Lock()

    async def flush(self) -> None:
        """Group commit: returns when all that was written before is on disk; those who wait together share one fdatasync."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._sync())
        await asyncio.shield(self._next)

    async def _sync(self) -> None:
        async with self._turn:
            self._next = None  # who comes from here on may have written too late for this one
            await asyncio.to_thread(os.fdatasync, self._log)

    def put(self, kind: str, key: str, body: dict[str, Any]) -> None:
        """Inserts or replaces a record."""
        self._db.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", (kind, key, json.dumps(body)))

    def delete(self, kind: str, key: str) -> None:
        """Deletes a record; a missing one is fine."""
        self._db.execute("DELETE FROM records WHERE kind = ? AND key = ?", (kind, key))

    def all(self, kind: str) -> list[dict[str, Any]]:
        """All readable records of a kind. A damaged one is named on stderr and left out."""
        found = []
        for key, body in self._db.execute("SELECT key, body FROM records WHERE kind = ?", (kind,)):
            try:
                found.append(json.loads(body))
            except ValueError:
                print(f"sampand: the record of {kind} {key} is damaged and skipped", file=sys.stderr)
        return found
