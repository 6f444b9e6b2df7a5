"""What the store knows of images besides their content: names, digests, manifests, where layers came from."""

from __future__ import annotations

import sqlite3

_TABLES = (
    "CREATE TABLE IF NOT EXISTS images (id TEXT PRIMARY KEY, layers TEXT NOT NULL, loaded REAL NOT NULL)",
    "CREATE TABLE IF NOT EXISTS tags (name TEXT PRIMARY KEY, id TEXT NOT NULL)",
    # A repository's name, the digest that it has there (of an index or manifest), and the image.
    "CREATE TABLE IF NOT EXISTS digests (name TEXT, digest TEXT, id TEXT NOT NULL, PRIMARY KEY (name, digest))",
    "CREATE TABLE IF NOT EXISTS manifests (id TEXT, digest TEXT, PRIMARY KEY (id, digest))",
    "CREATE TABLE IF NOT EXISTS sources (digest TEXT, registry TEXT, repository TEXT, PRIMARY KEY (digest, registry, repository))",
    # A layer kept as a plain tar, and the gzip of it that was sent.
    "CREATE TABLE IF NOT EXISTS compressed (digest TEXT PRIMARY KEY, gzip TEXT NOT NULL, size INTEGER NOT NULL)",
    # Of a manifest or index; not checked yet.
    "CREATE TABLE IF NOT EXISTS signatures (digest TEXT, payload BLOB, signature BLOB, PRIMARY KEY (digest, payload, signature))",
)


def open_ledger(path: str) -> sqlite3.Connection:
    """The database with its tables."""
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=NORMAL")
    for table in _TABLES:
        db.execute(table)
    return db
