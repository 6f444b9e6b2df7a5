"""One blob from a registry: resumed where a transfer broke, hashed as it comes, never longer than announced."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import Callable

from sampan.images.errors import StoreFull
from sampan.images.registry.client import Registry, Scopes, retried
from sampan.images.registry.errors import Incomplete, RegistryError
from sampan.images.store import ImageStore
from sampan.oci.manifest import Descriptor

_BLOCK = 1 << 20
_WHILE, _LEAST = 120.0, 64 << 10  # seconds, and the bytes that they bring at least


class _Pace:
    """Whether a sender gets on: a drop now and then keeps a connection open, and the store held, for ever."""

    def __init__(self) -> None:
        self._since, self._bytes = time.monotonic(), 0

    def too_slow(self, count: int) -> bool:
        """Notes so many bytes more. True when a while has brought next to nothing."""
        self._bytes += count
        now = time.monotonic()
        if now - self._since < _WHILE:
            return False
        slow = self._bytes < _LEAST
        self._since, self._bytes = now, 0
        return slow


class _Partial:
    """The part that has arrived, kept over breaks and over aborted pulls."""

    def __init__(self, path: str) -> None:
        self.file = open(path, "a+b", buffering=0)
        os.chmod(path, 0o600)
        self.hash, self.size = hashlib.sha256(), 0
        self.file.seek(0)
        while block := self.file.read(_BLOCK):
            self.hash.update(block)
            self.size += len(block)

    def add(self, block: bytes) -> None:
        view = memoryview(block)
        while view:
            view = view[self.file.write(view) :]
        self.hash.update(block)
        self.size += len(block)

    def restart(self) -> None:
        self.file.truncate(0)
        self.hash, self.size = hashlib.sha256(), 0

    def close(self) -> None:
        self.file.close()


async def fetch(
    registry: Registry,
    repository: str,
    blob: Descriptor,
    store: ImageStore,
    scopes: Scopes,
    progress: Callable[[int], None],
) -> None:
    """Brings a blob into the store. Raises RegistryError; what has arrived stays for the next attempt."""
    path = store.blobs.partial_path(blob.digest)
    part = await asyncio.to_thread(_Partial, path)
    try:
        if part.size > blob.size:
            part.restart()

        async def once() -> None:
            if part.size < blob.size or not part.size:
                await _continue(registry, repository, blob, part, scopes, progress)

        await retried(once, lambda: part.size)
        found = f"sha256:{part.hash.hexdigest()}"
        if found != blob.digest or part.size != blob.size:
            os.unlink(path)
            raise RegistryError(f"{registry.name}: blob {blob.digest} came with digest {found}: refused")
        await asyncio.to_thread(store.blobs.commit, path, blob.digest)
    except RegistryError as error:
        if not isinstance(error, Incomplete) or not part.size:  # what lies is not gone on with
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        raise
    except OSError as error:
        if error.errno == 28:  # ENOSPC: what has arrived must not keep the disk full (P089)
            part.restart()
            os.unlink(path)
            raise StoreFull(f"no space left on device while pulling {blob.digest}") from error
        raise
    finally:
        part.close()


async def _continue(
    registry: Registry,
    repository: str,
    blob: Descriptor,
    part: _Partial,
    scopes: Scopes,
    progress: Callable[[int], None],
) -> None:
    headers = {"Range": f"bytes={part.size}-"} if part.size else {}
    async with registry.open("GET", f"v2/{repository}/blobs/{blob.digest}", scopes, headers) as answer:
        start = f"bytes {part.size}-"
        if part.size and not (answer.status == 206 and answer.headers.get("Content-Range", "").startswith(start)):
            part.restart()
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise RegistryError(f"{registry.name} sends blob {blob.digest} compressed although it was asked not to")
        buffer = bytearray()
        pace = _Pace()
        try:
            async for block in answer.content.iter_any():
                if pace.too_slow(len(block)):
                    raise RegistryError(f"{registry.name}: blob {blob.digest} comes too slowly to ever be here")
                if part.size + len(buffer) + len(block) > blob.size:
                    buffer.clear()
                    part.restart()
                    raise RegistryError(
                        f"{registry.name}: blob {blob.digest} is longer than the {blob.size} bytes announced"
                    )
                buffer += block
                if len(buffer) >= _BLOCK:
                    full, buffer = bytes(buffer), bytearray()
                    await asyncio.to_thread(part.add, full)
                    progress(part.size)
        finally:
            part.add(bytes(buffer))  # what came before a break counts
            progress(part.size)
    if part.size < blob.size:
        raise Incomplete(f"{registry.name}: blob {blob.digest} ended after {part.size} of {blob.size} bytes")
