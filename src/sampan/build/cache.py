"""The build cache: what each step made, by a key of everything that went into it (S028)."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from sampan.images.config import INLINE
from sampan.images.database import Database
from sampan.images.errors import ImageError
from sampan.images.image import Image, Layer
from sampan.images.store import ImageStore

_TABLES = {
    "steps": "key TEXT PRIMARY KEY, layer INTEGER, created REAL, used REAL, description TEXT, size INTEGER",
    "packed": "layer INTEGER, clamp INTEGER, row TEXT, PRIMARY KEY (layer, clamp)",
}


@dataclass(frozen=True, slots=True)
class Record:
    """A step's result. `layer` is the number of its directory, or 0 when the step has changed no file."""

    key: str
    layer: int
    used: float
    created: float
    description: str
    size: int


@dataclass(frozen=True, slots=True)
class Space:
    """What a prune leaves, in bytes, as BuildKit has it: at most `most`, less where the disk has not `free` of them, but `reserved` in any
    case. 0 is not asked for."""

    reserved: int = 0
    most: int = 0
    free: int = 0

    def kept(self, total: int, free: int) -> int:
        """How much of the cache's total is kept, of which all that is wanted goes when it is 0."""
        kept, excess = self.most, self.free - free
        if excess > 0:
            kept = min(kept, total - excess) if kept else total - excess
        elif self.free and not kept:
            kept = total  # enough is free
        return max(kept, self.reserved, 0)


class BuildCache:
    """Results of steps, in a database beside the image store; the directories are the store's layers."""

    def __init__(self, store: ImageStore, path: str) -> None:
        self._store = store
        self._space = ""
        # What it says may be lost with the power: then a step runs again. What it says is never more than what is there.
        self._db = Database(path, _TABLES, os.path.dirname(path), durable=False)
        store.garbage.kept_layers = self.layers
        store.layers.reserve_numbers(self.layers())

    def of(self, space: str) -> BuildCache:
        """The same cache as somebody has it who must not get what others' steps have made; of "" it is the whole."""
        found = copy.copy(self)
        found._space = f"@{space}" if space else ""  # in a key, behind its first "@": steps' keys have none
        return found

    def find(self, key: str) -> Record | None:
        """A step's result, if its layer is still there, and whole."""
        key += self._space
        rows = self._db.rows("SELECT key, layer, used, created, description, size FROM steps WHERE key = ?", key)
        if not rows:
            return None
        record = Record(*rows[0])
        whole = not record.layer or self._store.layers.trusted(record.layer)
        with contextlib.suppress(ImageError):  # on a full disk: neither is of weight
            if whole:
                self._db.change(("UPDATE steps SET used = ? WHERE key = ?", (time.time(), key)))
            else:
                self._db.change(("DELETE FROM steps WHERE key = ?", (key,)), removing=True)
        return record if whole else None

    def put(self, key: str, layer: int, description: str, size: int) -> float:
        """Remembers a step's result. Returns when that was, in seconds since the epoch."""
        now = time.time()
        row = (key + self._space, layer, now, now, description[:200], size)
        self._db.change(("INSERT OR REPLACE INTO steps VALUES (?, ?, ?, ?, ?, ?)", row))
        return now

    def take_over(self, image: Image, directories: list[str]) -> None:
        """Enters the steps that an image's inline cache lists, with the image's layers (the top first in `directories`)."""
        rows = image.config.rest.get(INLINE)  # [key, index of its layer or -1] of each step
        layers = [int(os.path.basename(os.path.dirname(path))) for path in reversed(directories)][: len(image.layers)]
        for row in rows if isinstance(rows, list) else []:
            if not (isinstance(row, list) and len(row) == 2 and isinstance(row[0], str) and isinstance(row[1], int)):
                return  # damaged or hostile: no cache
            if not -1 <= row[1] < len(layers) or "@" in row[0]:  # it would be another's step
                return
            number = layers[row[1]] if row[1] >= 0 else 0
            if self.find(row[0]) is None:
                self.put(row[0], number, f"from {image.id[7:19]}", 0)

    def all(self) -> list[Record]:
        """Everything, the longest unused first."""
        rows = self._db.rows("SELECT key, layer, used, created, description, size FROM steps ORDER BY used")
        return [Record(*row) for row in rows if not self._space or row[0].partition("@")[2] == self._space[1:]]

    def layers(self) -> set[int]:
        """The numbers of the layer directories that the cache needs."""
        return {row[0] for row in self._db.rows("SELECT layer FROM steps WHERE layer != 0")}

    def packed(self, layer: int, clamp: int) -> Layer | None:
        """The blob that was made of a layer directory, if it is still there. `clamp`: see pack_layer; 0 for none."""
        rows = self._db.rows("SELECT row FROM packed WHERE layer = ? AND clamp = ?", layer, clamp)
        found = Layer(*json.loads(rows[0][0])) if rows else None
        return found if found and self._store.blobs.sound(found.digest) else None

    def remember_packed(self, layer: int, clamp: int, made: Layer) -> None:
        """Notes the blob of a layer directory."""
        text = json.dumps([made.digest, made.size, made.diff_id, made.media_type])
        self._db.change(("INSERT OR REPLACE INTO packed VALUES (?, ?, ?)", (layer, clamp, text)))

    def shared(self) -> Callable[[Record], bool]:
        """Whether an image has a step's layer as well, so that forgetting the step frees nothing."""
        used = self._store.layers.used()
        return lambda record: record.layer in used

    def prune(self, wanted: Callable[[Record], bool], space: Space | None = None) -> tuple[list[str], int]:
        """Forgets steps that are `wanted`, the oldest first until there is enough `space`. (keys, bytes freed)."""
        gone: list[str] = []
        records = self.all()
        total = sum(record.size for record in records)
        keep_bytes = space.kept(total, self._store.free()) if space else 0
        for record in records:
            if not wanted(record) or (keep_bytes and total <= keep_bytes):
                continue
            gone.append(record.key)
            total -= record.size
        self._db.change(*(("DELETE FROM steps WHERE key = ?", (key,)) for key in gone), removing=True)
        kept = self.layers() | self._store.layers.used()
        lost = {record.layer: record.size for record in records if record.layer and record.layer not in kept}
        self._db.change(*(("DELETE FROM packed WHERE layer = ?", (layer,)) for layer in lost), removing=True)
        self._store.collect_garbage()  # when no build is under way that has found them in time
        return gone, sum(lost.values())

    def close(self) -> None:
        """Closes the database."""
        self._db.close()
