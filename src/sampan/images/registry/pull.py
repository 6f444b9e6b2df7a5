"""Pulling: from a name to an image in the store."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from sampan.images.config import read_config
from sampan.images.errors import ImageError, StoreFull
from sampan.images.image import Image, Layer
from sampan.images.index import Check, anybody
from sampan.images.registry import blobs, signed
from sampan.images.registry.client import Registry, Scopes
from sampan.images.registry.errors import RegistryError, RegistryNotFound, Unauthorized
from sampan.images.registry.progress import Progress
from sampan.images.store import ImageStore
from sampan.images.unpack_worker import Staged, Workers
from sampan.linux import filetree
from sampan.oci import manifest as oci
from sampan.oci.manifest import Descriptor, Index, Manifest, Platform
from sampan.oci.reference import Reference

_ACCEPT = ", ".join((*oci.MANIFESTS, *oci.INDEXES))
_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Found:
    """A document of a registry: what it is, its bytes and their digest."""

    document: Manifest | Index
    data: bytes
    digest: str


def pull_scope(repository: str) -> Scopes:
    """The scope that reading a repository needs, and no more (P032)."""
    return (f"repository:{repository}:pull",)


async def resolve(registry: Registry, repository: str, wanted: str) -> Found:
    """The manifest or index of a tag or digest, checked against the digest. Raises RegistryError."""
    headers, data = await registry.small(
        "GET", f"v2/{repository}/manifests/{wanted}", pull_scope(repository), {"Accept": _ACCEPT}
    )
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if ":" in wanted and wanted != digest:
        raise RegistryError(f"{registry.name}: the manifest asked for by {wanted} has digest {digest}: refused")
    try:
        return Found(oci.parse(data, headers.get("content-type", "")), data, digest)
    except oci.BadManifest as error:
        raise RegistryError(f"{registry.name}/{repository}: {error}") from None


class Pull:
    """One pull of one reference for one platform; with `signatures`, what signs it comes along."""

    def __init__(
        self,
        store: ImageStore,
        registry: Registry,
        ref: Reference,
        platform: Platform,
        progress: Progress,
        signatures: bool = False,
        check: Check | None = None,
    ) -> None:
        self._check = check
        self._store, self._registry, self._ref, self._signatures = store, registry, ref, signatures
        self._platform, self._progress = platform, progress
        self._scopes = pull_scope(ref.repository)
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._workers = Workers()

    async def run(self) -> Image:
        """Does it. Raises RegistryError, ImageError; finished layers stay in the store for the next attempt."""
        ref = self._ref
        try:
            top = await resolve(self._registry, ref.repository, ref.digest or ref.tag)
        except RegistryNotFound as error:
            raise RegistryNotFound(f"manifest for {ref.familiar} not found: {error}") from None
        except Unauthorized as error:
            raise Unauthorized(f"pull access denied for {ref.familiar_name}, repository does not exist or may require "
                               f"'sampan login': {error}") from None  # fmt: skip
        self._progress.say(f"Pulling from {ref.repository}", ref.tag or ref.digest)
        with self._store.hold():
            chosen = await self._for_platform(top)
            image = await self._image(chosen, top.digest)
            if self._signatures:
                for digest in {top.digest, chosen.digest}:
                    for row in await signed.fetch(self._registry, ref.repository, digest, self._scopes):
                        await asyncio.to_thread(self._store.index.remember_signature, digest, *row)
        self._progress.say(f"Digest: {top.digest}")
        return image

    async def _for_platform(self, top: Found) -> Found:
        if isinstance(top.document, Manifest):
            return top
        try:
            row = oci.choose(top.document, self._platform)
        except oci.BadManifest as error:
            raise RegistryError(str(error)) from None
        found = await resolve(self._registry, self._ref.repository, row.digest)
        if not isinstance(found.document, Manifest) or len(found.data) != row.size:
            raise RegistryError(f"{row.digest} is not the manifest that the index announces")
        return found

    async def _image(self, found: Found, top: str) -> Image:
        """Everything of the image, on disk and then under its names."""
        assert isinstance(found.document, Manifest)
        config, diff_ids = await self._config(found.document.config)
        layers = found.document.layers
        if len(diff_ids) != len(layers):
            raise RegistryError(f"the image's configuration lists {len(diff_ids)} layers, its manifest {len(layers)}")
        entries = [Layer(row.digest, row.size, diff_id, row.media_type or oci.OCI_LAYER)
                   for row, diff_id in zip(layers, diff_ids, strict=True)]  # fmt: skip
        await asyncio.to_thread(self._check_room, layers)
        fetches = {row.digest: asyncio.ensure_future(self._layer(row)) for row in layers}
        stages = [asyncio.ensure_future(self._stage(fetches[layer.digest], layer, diff_ids[: index + 1]))
                  for index, layer in enumerate(entries)]  # fmt: skip
        try:
            for index, (layer, task) in enumerate(zip(entries, stages, strict=True)):
                staged = await task
                if staged is not None:
                    await asyncio.to_thread(self._store.unpacker.commit, layer.digest, diff_ids[: index + 1], *staged)
                    self._progress.step(_short(layer.digest), "Pull complete")
        finally:
            tasks = [*fetches.values(), *stages]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for task in stages:
                left = None if task.cancelled() or task.exception() else task.result()
                if left is not None:
                    filetree.remove(left[0], ignore_errors=True)
            await self._workers.close()
        return await asyncio.to_thread(self._enter, config, entries, found, top)

    def _check_room(self, layers: tuple[Descriptor, ...]) -> None:
        """Raises StoreFull at once, and not when the disk is full, for an image that is larger than what is free."""
        free = os.statvfs(self._store.temporary)
        wanted = sum(
            row.size for row in {row.digest: row for row in layers}.values() if not self._store.blobs.has(row.digest)
        )
        if wanted > free.f_bavail * free.f_frsize:
            raise StoreFull(f"no space left on device: {self._ref.familiar} has {wanted} bytes to be pulled")

    def _enter(self, config: bytes, entries: list[Layer], found: Found, top: str) -> Image:
        """The image with its tag and digests in one step, when all else is on disk."""
        ref = self._ref
        image_id = f"sha256:{hashlib.sha256(config).hexdigest()}"
        tag = ref.tag if not ref.digest else ""  # with both the digest decides, and the tag stays where it is (P028)
        names = self._store.index.known_as(image_id, found.data, ref.name, top, tag)

        def check(image_id: str, tags: list[str]) -> contextlib.AbstractContextManager[None]:
            return (self._check or anybody)(image_id, [f"{ref.name}:{tag}"] if tag else [])

        image = self._store.add(config, entries, [], more=names, check=check)
        self._store.index.remember_sources([layer.digest for layer in entries], ref.registry, ref.repository)
        return image

    async def _stage(
        self, fetched: asyncio.Future[None], layer: Layer, diff_ids: Sequence[str]
    ) -> tuple[str, Staged] | None:
        """Unpacks a layer as soon as it is here, whatever comes below it. None when it is there already."""
        await asyncio.shield(fetched)
        if await asyncio.to_thread(self._store.layers.has, diff_ids, True):  # one that is not whole is unpacked again
            return None
        self._progress.step(_short(layer.digest), "Extracting")
        directory = await asyncio.to_thread(self._store.layers.new_stage)
        try:
            return directory, await self._workers.stage(self._store.blobs.path(layer.digest), f"{directory}/fs")
        except BaseException as error:
            filetree.remove(directory, ignore_errors=True)
            if isinstance(error, ImageError):
                raise ImageError(f"layer {layer.digest}: {error}") from error
            raise

    async def _config(self, row: Descriptor) -> tuple[bytes, Sequence[str]]:
        if row.media_type not in ("", oci.OCI_CONFIG, oci.DOCKER_CONFIG):
            raise RegistryError(f"not an image: its configuration is a {row.media_type}")
        if row.size > oci.MAX_SIZE:
            raise RegistryError(f"the image's configuration is larger than {oci.MAX_SIZE} bytes")
        _, data = await self._registry.small("GET", f"v2/{self._ref.repository}/blobs/{row.digest}", self._scopes)
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != row.digest:
            raise RegistryError(f"the image's configuration does not have the digest {row.digest}: refused")
        try:
            config = read_config(data)
        except ImageError as error:
            raise RegistryError(str(error)) from None
        self._compare(Platform(config.os, config.architecture))
        return data, config.diff_ids

    def _compare(self, said: Platform) -> None:
        """An image that is for another platform than was asked for is named (P027)."""
        wanted = self._platform
        if (said.os and said.os != wanted.os) or (said.architecture and said.architecture != wanted.architecture):
            self._progress.say(
                f"WARNING: The requested image's platform ({said}) does not match the wanted one ({wanted})"
            )

    async def _layer(self, row: Descriptor) -> None:
        name = _short(row.digest)
        if await asyncio.to_thread(self._store.blobs.sound, row.digest):
            self._progress.step(name, "Already exists")
            return
        self._progress.step(name, "Pulling fs layer")
        async with self._slots, self._store.blobs.fetching(row.digest):
            if not self._store.blobs.has(row.digest):
                await blobs.fetch(self._registry, self._ref.repository, row, self._store, self._scopes,
                                  lambda done: self._progress.amount(name, "Downloading", done, row.size))  # fmt: skip
        self._progress.step(name, "Download complete")


def _short(digest: str) -> str:
    return digest[7:19]
