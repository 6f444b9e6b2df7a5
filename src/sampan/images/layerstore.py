"""Blobs by digest, and layers as directories by chain ID. What an image is, `store` knows."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import hashlib
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import IO

from sampan.images import compression, staging
from sampan.images.errors import ImageError
from sampan.images.extract import Extractor
from sampan.images.layer import NeedsLower
from sampan.images.layer import settle as settle_implied
from sampan.images.staging import Staged
from sampan.linux import mount
from sampan.oci import reference

_MAX_LAYERS = 128


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer as it came: digest and size of the blob, and the digest of the plain tar."""

    digest: str
    size: int
    diff_id: str
    media_type: str = "application/vnd.oci.image.layer.v1.tar"


def chain_ids(diff_ids: list[str]) -> list[str]:
    """The chain ID after each layer (image-spec, config.md)."""
    chain: list[str] = []
    for diff_id in diff_ids:
        text = f"{chain[-1]} {diff_id}" if chain else diff_id
        chain.append(diff_id if not chain else f"sha256:{hashlib.sha256(text.encode()).hexdigest()}")
    return chain


class LayerStore(abc.ABC):
    """The files below one directory. Methods block: call them from a thread."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._holds, self._garbage, self._hold_lock = 0, False, threading.Lock()
        self._fetching: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        for name in ("blobs/sha256", "partial", "layers", "chains", "tmp"):
            os.makedirs(f"{root}/{name}", 0o700, exist_ok=True)
        os.chmod(root, 0o700)
        for leftover in os.listdir(f"{root}/tmp"):
            shutil.rmtree(f"{root}/tmp/{leftover}", ignore_errors=True)
            if os.path.exists(f"{root}/tmp/{leftover}"):
                os.unlink(f"{root}/tmp/{leftover}")

    @abc.abstractmethod
    def collect_garbage(self) -> int:
        """Deletes what nothing needs, which those know who know what an image is. Returns the bytes of blobs freed."""

    # blobs

    def blob_path(self, digest: str) -> str:
        """Where a blob is kept. Raises ImageError for text that is not a sha256 digest."""
        if not reference.is_digest(digest) or not digest.startswith("sha256:"):
            raise ImageError(f"unsupported digest {digest[:80]!r}")
        return f"{self._root}/blobs/sha256/{digest[7:]}"

    def has_blob(self, digest: str) -> bool:
        """Whether a blob is here, complete."""
        return os.path.exists(self.blob_path(digest))

    def partial_path(self, digest: str) -> str:
        """Where a blob grows while it is fetched."""
        return f"{self._root}/partial/{os.path.basename(self.blob_path(digest))}"

    @contextlib.asynccontextmanager
    async def fetching(self, digest: str) -> AsyncIterator[None]:
        """One at a time for each blob: the second who wants it finds it there."""
        lock = self._fetching.setdefault(digest, asyncio.Lock())
        async with lock:
            yield

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """While this lasts no garbage is collected: what has no image yet is about to get one (P038)."""
        with self._hold_lock:
            self._holds += 1
        try:
            yield
        finally:
            with self._hold_lock:
                self._holds -= 1
                due = self._garbage and not self._holds
            if due:
                self.collect_garbage()

    def put_blob(self, stream: IO[bytes], expected: str | None = None) -> tuple[str, int]:
        """Stores a stream. Returns (digest, size); raises ImageError when it is not `expected`."""
        digest, size = hashlib.sha256(), 0
        with tempfile.NamedTemporaryFile(dir=f"{self._root}/tmp", delete=False) as file:
            try:
                while block := stream.read(1 << 20):
                    digest.update(block)
                    size += len(block)
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
                name = f"sha256:{digest.hexdigest()}"
                if expected and name != expected:
                    raise ImageError(f"content has digest {name}, not {expected}")
                os.chmod(file.name, 0o600)
                os.rename(file.name, self.blob_path(name))
            except BaseException:
                os.unlink(file.name)
                raise
        return name, size

    def read_blob(self, digest: str, limit: int = 16 << 20) -> bytes:
        """A small blob's bytes, checked against its digest again (S050)."""
        try:
            with open(self.blob_path(digest), "rb") as file:
                data = file.read(limit + 1)
        except FileNotFoundError:
            raise ImageError(f"blob {digest} is missing: load the image again") from None
        if len(data) > limit or f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            raise ImageError(f"blob {digest} is damaged: load the image again")
        return data

    # layers

    @property
    def temporary(self) -> str:
        """A directory for what need not survive."""
        return f"{self._root}/tmp"

    def layer_directory(self, number: int) -> str:
        """The files of a layer, by the number of its directory."""
        return f"{self._root}/layers/{number}/fs"

    def adopt(self, directory: str) -> int:
        """Makes a stage (see new_stage) a layer directory. Returns its number; the caller keeps it alive by `kept_layers`."""
        return self._next_layer(directory)

    def link_chain(self, diff_ids: list[str], number: int) -> None:
        """Says that a layer directory is the last of `diff_ids`; where there is one already, that stays."""
        with contextlib.suppress(FileExistsError):
            os.symlink(f"../layers/{number}", f"{self._root}/chains/{chain_ids(diff_ids)[-1][7:]}")

    def used_layers(self) -> set[int]:
        """The numbers of the layer directories that images have."""
        chains = f"{self._root}/chains"
        return {int(os.path.basename(os.readlink(f"{chains}/{name}"))) for name in os.listdir(chains)}

    def is_unpacked(self, diff_ids: list[str]) -> bool:
        """Whether the layers up to the last of `diff_ids` are there as directories."""
        return os.path.exists(f"{self._root}/chains/{chain_ids(diff_ids)[-1][7:]}")

    def new_stage(self) -> str:
        """A new directory to stage a layer in; its "fs" is where the files go."""
        directory = tempfile.mkdtemp(dir=f"{self._root}/tmp")
        os.mkdir(f"{directory}/fs", 0o755)
        return directory

    def unpack(self, layer_digest: str, diff_ids: list[str]) -> None:
        """Unpacks the last of `diff_ids` on top of the others, unless that chain is there already."""
        if self.is_unpacked(diff_ids):
            return
        directory = self.new_stage()
        try:
            staged = staging.stage(self.blob_path(layer_digest), f"{directory}/fs")
        except BaseException as error:
            shutil.rmtree(directory, ignore_errors=True)
            if isinstance(error, ImageError):
                raise ImageError(f"layer {layer_digest}: {error}") from error
            raise
        self.settle(layer_digest, diff_ids, directory, staged)

    def settle(self, layer_digest: str, diff_ids: list[str], directory: str, staged: Staged) -> None:
        """Makes a staged layer the last of `diff_ids`, whose others are there. Raises ImageError; the stage is gone then."""
        chain = chain_ids(diff_ids)
        if len(chain) > _MAX_LAYERS:
            shutil.rmtree(directory, ignore_errors=True)
            raise ImageError(f"the image has more than {_MAX_LAYERS} layers")
        try:
            if staged.diff_id != diff_ids[-1]:
                raise ImageError(
                    f"layer {layer_digest} unpacks to {staged.diff_id}, not to {diff_ids[-1]} as the image says"
                )
            if not self._fits_below(directory, staged, chain[:-1]):
                shutil.rmtree(f"{directory}/fs")
                os.mkdir(f"{directory}/fs", 0o755)
                self._unpack_on_overlay(directory, layer_digest, chain[:-1])
            target = self._next_layer(directory)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        try:
            os.symlink(f"../layers/{target}", f"{self._root}/chains/{chain[-1][7:]}")
        except FileExistsError:
            shutil.rmtree(f"{self._root}/layers/{target}", ignore_errors=True)

    def _fits_below(self, directory: str, staged: Staged, parents: list[str]) -> bool:
        """Settles the stage's implied directories. False when the layer has to be unpacked on an overlay."""
        if not staged.complete:
            return False
        if not parents or not staged.implied:
            return True
        lower = mount.overlay([*self._layer_directories(parents), self.mountpoints_directory()], None, None)
        upper = os.open(f"{directory}/fs", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            settle_implied(upper, staged.implied, lower)
            return True
        except NeedsLower:
            return False
        finally:
            os.close(lower)
            os.close(upper)

    def _unpack_on_overlay(self, directory: str, digest: str, parents: list[str]) -> None:
        upper = f"{directory}/fs"
        if parents:
            os.mkdir(f"{directory}/work", 0o700)
            rootfd = mount.overlay(self._layer_directories(parents), upper, f"{directory}/work")
        else:
            rootfd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with open(self.blob_path(digest), "rb") as blob:
                try:
                    Extractor(rootfd, whiteouts=True).extract(compression.decompress(blob))
                except compression.ERRORS as error:
                    raise ImageError(f"layer {digest}: {error}") from error
        finally:
            os.close(rootfd)
        shutil.rmtree(f"{directory}/work", ignore_errors=True)

    def _next_layer(self, directory: str) -> int:
        number = max((int(name) for name in os.listdir(f"{self._root}/layers")), default=0) + 1
        while True:
            try:
                os.mkdir(f"{self._root}/layers/{number}", 0o700)
                os.rename(directory, f"{self._root}/layers/{number}")
                return number
            except FileExistsError:
                number += 1

    def _layer_directories(self, chain: list[str]) -> list[str]:
        """Layer directories from top to bottom, as overlay wants them."""
        found = []
        for chain_id in reversed(chain):
            marker = f"{self._root}/chains/{chain_id[7:]}"
            if not os.path.exists(marker):
                raise ImageError(f"layer {chain_id} is not unpacked: load the image again")
            found.append(f"{os.path.realpath(marker)}/fs")
        return found

    def empty_directory(self, number: int) -> str:
        """An empty directory. (An overlay that can't be written needs two lower ones, whatever is in them.)"""
        path = f"{self._root}/empty/{number}"
        os.makedirs(path, 0o755, exist_ok=True)
        return path

    def mountpoints_directory(self) -> str:
        """A layer that holds only the mountpoints every container needs, to lie below all others.

        With it an image that lacks them costs no copy-up of /etc at each start, and its containers'
        changes do not show them.
        """
        top = f"{self._root}/mountpoints"
        if not os.path.isdir(f"{top}/etc"):
            for name in ("proc", "dev", "sys", "etc"):
                os.makedirs(f"{top}/{name}", 0o755, exist_ok=True)
        for name in ("hostname", "hosts", "resolv.conf"):
            if not os.path.exists(f"{top}/etc/{name}"):
                os.close(os.open(f"{top}/etc/{name}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        return top
