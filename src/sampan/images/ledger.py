"""What the store knows of images besides their content: names, digests, manifests, where layers came from."""

from __future__ import annotations

from sampan.images.database import Database, Statement

__all__ = ["Database", "Statement", "open_ledger"]

_TABLES = {
    "images": "id TEXT PRIMARY KEY, layers TEXT NOT NULL, loaded REAL NOT NULL",
    "tags": "name TEXT PRIMARY KEY, id TEXT NOT NULL",
    # A repository's name, the digest that it has there (of an index or manifest), and the image.
    "digests": "name TEXT, digest TEXT, id TEXT NOT NULL, PRIMARY KEY (name, digest)",
    "manifests": "id TEXT, digest TEXT, PRIMARY KEY (id, digest)",
    "sources": "digest TEXT, registry TEXT, repository TEXT, PRIMARY KEY (digest, registry, repository)",
    # A layer kept as a plain tar, and the gzip of it that was sent.
    "compressed": "digest TEXT PRIMARY KEY, gzip TEXT NOT NULL, size INTEGER NOT NULL",
    # Of a manifest or index; not checked yet.
    "signatures": "digest TEXT, payload BLOB, signature BLOB, PRIMARY KEY (digest, payload, signature)",
}


def open_ledger(path: str, place: str) -> Database:
    """The database of images; its changes are on disk when they return. `place`: see Database."""
    return Database(path, _TABLES, place)
