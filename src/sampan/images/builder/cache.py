"""The build cache: what each step made, by a key of everything that went into it (S028)."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from sampan.images.layerstore import Layer
from sampan.images.store import Image, ImageStore

INLINE = "sampan.cache"  # in an image's configuration: [key, index of its layer or -1] of each step


@dataclass(frozen=True, slots=True)
class Record:
    """A step's result. `layer` is the number of its directory, or 0 when the step has changed no file."""

    key: str
    layer: int
    used: float
    created: float
    description: str
    size: int


class BuildCache:
    """Results of steps, in a database beside the image store; the directories are the store's layers."""

    def __init__(self, store: ImageStore, path: str) -> None:
        self._store, self._lock = store, threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("CREATE TABLE IF NOT EXISTS steps (key TEXT PRIMARY KEY, layer INTEGER, created REAL, used REAL, "
                         "description TEXT, size INTEGER)")  # fmt: skip
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS packed (layer INTEGER, clamp INTEGER, row TEXT, PRIMARY KEY (layer, clamp))"
        )
        store.kept_layers = self.layers

    def find(self, key: str) -> Record | None:
        """A step's result, if its layer is still there."""
        with self._lock:
            row = self._db.execute(
                "SELECT key, layer, used, created, description, size FROM steps WHERE key = ?", (key,)
            ).fetchone()
            if row is None:
                return None
            if row[1] and not os.path.isdir(self._store.layer_directory(row[1])):
                self._db.execute("DELETE FROM steps WHERE key = ?", (key,))
                return None
            self._db.execute("UPDATE steps SET used = ? WHERE key = ?", (time.time(), key))
        return Record(*row)

    def put(self, key: str, layer: int, description: str, size: int) -> float:
        """Remembers a step's result. Returns when that was, in seconds since the epoch."""
        now = time.time()
        with self._lock:
            self._db.execute(
                "INSERT OR REPLACE INTO steps VALUES (?, ?, ?, ?, ?, ?)",
                (key, layer, now, now, description[:200], size),
            )
        return now

    def take_over(self, image: Image, directories: list[str]) -> None:
        """Enters the steps that an image's inline cache lists, with the image's layers (the top first in `directories`)."""
        rows = image.config.get(INLINE)
        layers = [int(os.path.basename(os.path.dirname(path))) for path in reversed(directories)][: len(image.layers)]
        for row in rows if isinstance(rows, list) else []:
            if not (isinstance(row, list) and len(row) == 2 and isinstance(row[0], str) and isinstance(row[1], int)):
                return  # damaged or hostile: no cache
            if not -1 <= row[1] < len(layers):
                return
            number = layers[row[1]] if row[1] >= 0 else 0
            if self.find(row[0]) is None:
                self.put(row[0], number, f"from {image.id[7:19]}", 0)

    def all(self) -> list[Record]:
        """Everything, the longest unused first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT key, layer, used, created, description, size FROM steps ORDER BY used"
            ).fetchall()
        return [Record(*row) for row in rows]

    def layers(self) -> set[int]:
        """The numbers of the layer directories that the cache needs."""
        with self._lock:
            return {row[0] for row in self._db.execute("SELECT layer FROM steps WHERE layer != 0")}

    def packed(self, layer: int, clamp: int) -> Layer | None:
        """The blob that was made of a layer directory, if it is still there. `clamp`: see pack_layer; 0 for none."""
        with self._lock:
            row = self._db.execute("SELECT row FROM packed WHERE layer = ? AND clamp = ?", (layer, clamp)).fetchone()
        found = Layer(*json.loads(row[0])) if row else None
        return found if found and self._store.has_blob(found.digest) else None

    def remember_packed(self, layer: int, clamp: int, made: Layer) -> None:
        """Notes the blob of a layer directory."""
        text = json.dumps([made.digest, made.size, made.diff_id, made.media_type])
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO packed VALUES (?, ?, ?)", (layer, clamp, text))

    def prune(self, wanted: Callable[[Record], bool], keep_bytes: int = 0) -> tuple[list[str], int]:
        """Forgets steps that are `wanted`, the oldest first until `keep_bytes` are left. (keys, bytes freed)."""
        gone, freed = [], 0
        records = self.all()
        total = sum(record.size for record in records)
        for record in records:
            if not wanted(record) or (keep_bytes and total <= keep_bytes):
                continue
            with self._lock:
                self._db.execute("DELETE FROM steps WHERE key = ?", (record.key,))
            gone.append(record.key)
            total -= record.size
        before = {record.layer: record.size for record in records if record.layer}
        kept = self.layers() | self._store.used_layers()
        for layer, size in before.items():
            if layer not in kept:
                shutil.rmtree(os.path.dirname(self._store.layer_directory(layer)), ignore_errors=True)
                with self._lock:
                    self._db.execute("DELETE FROM packed WHERE layer = ?", (layer,))
                freed += size
        return gone, freed
