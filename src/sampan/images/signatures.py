"""Signatures of images as cosign makes them: a payload that names a manifest's digest, signed with a key.

The form is that of the "simple signing" payload and of cosign's signature specification: a manifest at the tag
`sha256-DIGEST.sig` of the same repository, whose layers are the payloads, with the signatures in annotations.
"""

from __future__ import annotations

import base64
import binascii
import json

from sampan.images.image import Image
from sampan.images.index import Index
from sampan.oci import documents, reference
from sampan.oci import manifest as oci

ANNOTATION = "dev.cosignproject.cosign/signature"
PAYLOAD_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
MOST, LARGEST = 32, 64 << 10  # signatures of an image, and bytes of a payload


def tag_of(digest: str) -> str:
    """The tag under which the signatures of a manifest lie."""
    return f"{digest.replace(':', '-')}.sig"


def rows_of(document: bytes) -> list[tuple[oci.Descriptor, bytes]]:
    """(payload, signature) of each in a signature manifest; what makes no sense is left out."""
    try:
        layers = documents.loads(document)["layers"]
    except (ValueError, KeyError, TypeError):
        return []
    found = []
    for row in layers[:MOST] if isinstance(layers, list) else []:
        try:
            digest, size = str(row["digest"]), int(row["size"])
            signature = base64.b64decode(row["annotations"][ANNOTATION], validate=True)
        except (KeyError, TypeError, ValueError, binascii.Error):
            continue
        if size <= LARGEST and reference.is_digest(digest) and digest.startswith("sha256:"):
            found.append((oci.Descriptor(PAYLOAD_TYPE, digest, size), signature))
    return found


def signers(index: Index, image: Image, keys: dict[str, str]) -> list[str]:
    """The names of those keys (name: path of a PEM file) that have signed a manifest of the image."""
    digests = {text.partition("@")[2] for text in index.digests(image)}
    kept = [row for digest in digests for row in index.signatures(digest)]
    found = []
    for name, path in keys.items():
        key = _load(path)
        if key is not None and any(_names(payload) in digests and _good(key, payload, sign) for payload, sign in kept):
            found.append(name)
    return found


def _names(payload: bytes) -> str:
    """The digest that a payload is about."""
    try:
        return str(json.loads(payload)["critical"]["image"]["docker-manifest-digest"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def _load(path: str) -> object | None:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        with open(path, "rb") as file:
            key: object = load_pem_public_key(file.read(LARGEST))
            return key
    except (OSError, ValueError):
        return None  # told by `sampan policy check`; an unreadable key has signed nothing


def readable(path: str) -> bool:
    """Whether a file holds a public key."""
    return _load(path) is not None


def _good(key: object, payload: bytes, signature: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, payload, ec.ECDSA(hashes.SHA256()))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, payload, padding.PKCS1v15(), hashes.SHA256())
        elif isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, payload)
        else:
            return False
    except InvalidSignature:
        return False
    return True
