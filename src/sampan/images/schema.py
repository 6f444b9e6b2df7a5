"""The tables of the images' database: images, their names, manifests, and where registries have them."""

from __future__ import annotations

from sampan.images.database import Database
from sampan.oci import reference

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


def open_database(path: str, place: str) -> Database:
    """The database of images; its changes are on disk when they return. `place`: see Database."""
    return Database(path, _TABLES, place)


def owner_of(database: Database, digest: str) -> str:
    """The image that needs a blob, for messages; "" when none is known."""
    for image_id, layers in database.rows("SELECT id, layers FROM images"):
        if digest == image_id or digest in str(layers):
            tags = database.rows("SELECT name FROM tags WHERE id = ? ORDER BY name LIMIT 1", image_id)
            return reference.parse(tags[0][0]).familiar if tags else str(image_id)[7:19]
    return ""
