"""The signatures that lie beside an image in its registry."""

from __future__ import annotations

import hashlib

from sampan.images import signatures
from sampan.images.registry.client import Registry, Scopes
from sampan.images.registry.errors import RegistryError, RegistryNotFound
from sampan.oci import manifest as oci


async def fetch(registry: Registry, repository: str, digest: str, scopes: Scopes) -> list[tuple[bytes, bytes]]:
    """(payload, signature) of those that a manifest has; they are checked when somebody asks. Raises RegistryError."""
    path = f"v2/{repository}/manifests/{signatures.tag_of(digest)}"
    try:
        _, document = await registry.small("GET", path, scopes, {"Accept": ", ".join(oci.MANIFESTS)})
    except RegistryNotFound:
        return []
    found = []
    for row, signature in signatures.rows_of(document):
        _, payload = await registry.small("GET", f"v2/{repository}/blobs/{row.digest}", scopes)
        if f"sha256:{hashlib.sha256(payload).hexdigest()}" != row.digest:
            raise RegistryError(
                f"{registry.name}: a signature of {digest} does not have the digest {row.digest}: refused"
            )
        found.append((payload, signature))
    return found
