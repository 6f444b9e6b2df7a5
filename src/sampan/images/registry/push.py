"""Pushing: from the store to a name in a registry."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from urllib.parse import quote

from yarl import URL

from sampan.images.errors import ImageError
from sampan.images.image import Image, Layer, manifest_of
from sampan.images.registry.client import Registry, Scopes, retried
from sampan.images.registry.errors import RegistryError, RegistryNotFound
from sampan.images.registry.progress import Progress
from sampan.images.store import ImageStore
from sampan.oci import manifest as oci
from sampan.oci.reference import Reference

_BLOCK = 1 << 20
_AT_ONCE = 5


class Push:
    """One push of one image to one reference."""

    def __init__(self, store: ImageStore, registry: Registry, ref: Reference, progress: Progress) -> None:
        self._store, self._registry, self._ref, self._progress = store, registry, ref, progress
        self._scopes: Scopes = (f"repository:{ref.repository}:pull,push",)
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def run(self, image: Image) -> tuple[str, int]:
        """Does it. Returns digest and size of the manifest. Raises RegistryError."""
        self._progress.say(f"The push refers to repository [{self._ref.name}]")
        with self._store.hold():
            if image.broken:
                raise ImageError(f"image {image.name} is broken: {image.broken}")
            for layer in image.layers:
                self._progress.step(_short(layer), "Preparing")
            kind, data, layers = await asyncio.to_thread(self._manifest, image)
            unique = {layer.digest: layer for layer in layers}
            tasks = [asyncio.ensure_future(self._layer(layer, media_type)) for media_type, layer in
                     {layer.digest: (layer.media_type, layer) for layer in unique.values()}.values()]  # fmt: skip
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            config = json.loads(data)["config"]["digest"]
            await self._blob(config, len(self._store.blobs.read(config)), [], lambda _: None)
            await self._put_manifest(data, kind)
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            await asyncio.to_thread(self._remember, image, data, layers)
        self._progress.say(f"{self._ref.tag}: digest: {digest} size: {len(data)}")
        return digest, len(data)

    def _manifest(self, image: Image) -> tuple[str, bytes, list[Layer]]:
        """(media type, bytes, layers as they are sent). The bytes it was pulled with, if it was: same digest everywhere."""
        for data in self._store.index.manifests(image):
            parsed = oci.parse(data)
            if len(getattr(parsed, "layers", ())) != len(image.layers):
                continue
            if isinstance(parsed, oci.Manifest) and all(self._store.blobs.has(row.digest) for row in parsed.layers):
                return parsed.media_type, data, [Layer(r.digest, r.size, x.diff_id, r.media_type)
                                                 for r, x in zip(parsed.layers, image.layers, strict=True)]  # fmt: skip
        layers = [self._store.compressed(layer) for layer in image.layers]
        return oci.OCI_MANIFEST, manifest_of(image.id, len(self._store.blobs.read(image.id)), layers), layers

    async def _layer(self, layer: Layer, media_type: str) -> None:
        name = _short(layer)
        async with self._slots:
            sources = [repository for registry, repository in self._store.index.sources(layer.digest)
                       if registry == self._ref.registry and repository != self._ref.repository]  # fmt: skip
            how = await self._blob(layer.digest, layer.size, sources,
                                   lambda done: self._progress.amount(name, "Pushing", done, layer.size))  # fmt: skip
        self._progress.step(name, how)

    async def _blob(self, digest: str, size: int, sources: list[str], progress: Callable[[int], None]) -> str:
        try:
            await self._registry.small("HEAD", f"v2/{self._ref.repository}/blobs/{digest}", self._scopes)
            return "Layer already exists"
        except RegistryNotFound:
            pass
        for source in sources[:3]:
            if await self._mount(digest, source):
                return f"Mounted from {source}"

        await asyncio.to_thread(self._store.blobs.check, digest)

        async def once() -> None:
            await self._upload(digest, size, progress)

        await retried(once)
        return "Pushed"

    async def _mount(self, digest: str, source: str) -> bool:
        """Takes a blob over from a repository of the same registry (distribution-spec, "Mounting")."""
        scopes = (*self._scopes, f"repository:{source}:pull")
        path = f"v2/{self._ref.repository}/blobs/uploads/?mount={digest}&from={quote(source, safe='')}"
        try:
            async with self._registry.open("POST", path, scopes) as answer:
                if answer.status == 201:
                    return True
                location = answer.headers.get("Location", "")
            if location:
                await self._registry.small("DELETE", location, self._scopes)
        except RegistryError:
            pass  # no right to read there, or it knows no mounting: send it
        return False

    async def _upload(self, digest: str, size: int, progress: Callable[[int], None]) -> None:
        async with self._registry.open("POST", f"v2/{self._ref.repository}/blobs/uploads/", self._scopes) as answer:
            try:
                location = str(answer.url.join(URL(answer.headers.get("Location", ""), encoded=True)))
            except ValueError as error:
                raise RegistryError(f"{self._registry.name} gives no place to send a blob to: {error}") from None
        location += ("&" if "?" in location else "?") + f"digest={digest}"
        path = self._store.blobs.path(digest)

        async def body() -> AsyncIterator[bytes]:
            done = 0
            with open(path, "rb") as file:
                while block := await asyncio.to_thread(file.read, _BLOCK):
                    yield block
                    done += len(block)
                    progress(done)

        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        async with self._registry.open("PUT", location, self._scopes, headers, body) as answer:
            if answer.status != 201:
                raise RegistryError(f"{self._registry.name}: upload of {digest}: unexpected status {answer.status}")

    async def _put_manifest(self, data: bytes, kind: str) -> None:
        path = f"v2/{self._ref.repository}/manifests/{self._ref.tag}"
        await self._registry.small("PUT", path, self._scopes, {"Content-Type": kind}, data)

    def _remember(self, image: Image, data: bytes, layers: list[Layer]) -> None:
        self._store.index.remember_manifest(image, self._ref.name, data)
        self._store.index.remember_sources([layer.digest for layer in layers], self._ref.registry, self._ref.repository)


def _short(layer: Layer) -> str:
    return layer.diff_id[7:19]
