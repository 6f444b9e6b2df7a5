"""Content by digest: every blob is named by its sha256, is whole under its name or not there, and is checked when it is read."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import tempfile
import weakref
from collections.abc import AsyncIterator, Callable
from typing import IO

from sampan.images.errors import BlobDamaged, ImageError
from sampan.linux import durable
from sampan.linux.files import is_strange, regular
from sampan.oci import reference

_BLOCK = 1 << 20
_Identity = tuple[int, int, int, int]


class Blobs:
    """The blobs below a store's directory. Methods block: call them from a thread."""

    def __init__(self, root: str, owner_of: Callable[[str], str]) -> None:
        """`owner_of` names the images that need a blob, for messages."""
        self._top, self._partial, self._aside, self._temporary = (
            f"{root}/blobs/sha256", f"{root}/partial", f"{root}/damaged", f"{root}/tmp")  # fmt: skip
        self._owner_of = owner_of
        self._fetching: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._checked: dict[str, _Identity] = {}  # files whose content has been compared with their name
        for path in (self._top, self._partial, self._aside):
            os.makedirs(path, 0o700, exist_ok=True)

    def path(self, digest: str) -> str:
        """Where a blob is kept. Raises ImageError for text that is not a sha256 digest."""
        return f"{self._top}/{_name(digest)}"

    def partial_path(self, digest: str) -> str:
        """Where a blob grows while it is fetched."""
        return f"{self._partial}/{_name(digest)}"

    @contextlib.asynccontextmanager
    async def fetching(self, digest: str) -> AsyncIterator[None]:
        """One at a time for each blob: the second who wants it finds it there."""
        lock = self._fetching.setdefault(digest, asyncio.Lock())
        async with lock:
            yield

    def has(self, digest: str) -> bool:
        """Whether a blob is here; what is in it, `sound` says."""
        return os.path.exists(self.path(digest))

    def size(self, digest: str) -> int:
        """Bytes of a blob. Raises BlobDamaged for one that is missing."""
        try:
            return os.stat(self.path(digest)).st_size
        except FileNotFoundError:
            raise self.damaged(digest, "missing") from None

    def sound(self, digest: str) -> bool:
        """Whether a blob is here with the content that its name says. One that is not is set aside, so that the next
        pull or load brings it anew. A file is read once, and again when stat(2) says that it is another.
        """
        try:
            with open(self.path(digest), "rb", buffering=0, opener=regular) as file:
                identity = _identity(file.fileno())
                if self._checked.get(digest) == identity:
                    return True
                if f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == digest:
                    self._checked[digest] = identity
                    return True
        except OSError:  # not there, no file, or the disk can't read it
            self._set_strange_aside(digest)
            return False
        self._set_aside(digest, identity)
        return False

    def check(self, digest: str) -> None:
        """Raises BlobDamaged, which names the images and the way out, when a blob is missing or has another content."""
        there = self.has(digest)
        if not self.sound(digest):
            raise self.damaged(digest, "damaged" if there else "missing")

    def put(self, stream: IO[bytes], expected: str | None = None) -> tuple[str, int]:
        """Stores a stream; it is on disk when this returns. (digest, size). Raises ImageError when it is not `expected`."""
        total, size = hashlib.sha256(), 0
        handle, temporary = tempfile.mkstemp(dir=self._temporary)
        try:
            with open(handle, "wb") as file:
                while block := stream.read(_BLOCK):
                    total.update(block)
                    size += len(block)
                    file.write(block)
            digest = f"sha256:{total.hexdigest()}"
            if expected and digest != expected:
                raise ImageError(f"content has digest {digest}, not {expected}")
            self.commit(temporary, digest)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        return digest, size

    def commit(self, path: str, digest: str) -> None:
        """Makes a file whose digest has been computed a blob, durably; it takes the place of what was there."""
        os.chmod(path, 0o600)
        durable.publish(path, self.path(digest))
        with open(self.path(digest), "rb", opener=regular) as file:
            self._checked[digest] = _identity(file.fileno())
        with contextlib.suppress(OSError):
            os.unlink(f"{self._aside}/{_name(digest)}")

    def read(self, digest: str, limit: int = 16 << 20) -> bytes:
        """A small blob's bytes, checked against its digest again (S050). Raises BlobDamaged."""
        try:
            with open(self.path(digest), "rb", opener=regular) as file:
                data = file.read(limit + 1)
        except OSError as error:
            raise self._unreadable(digest, error) from None
        if len(data) > limit or f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            self.check(digest)
            raise ImageError(f"blob {digest} is larger than {limit} bytes")
        return data

    def open(self, digest: str) -> io.BufferedReader:
        """A blob to read from its begin to its end, hashed on the way: the end raises BlobDamaged for a wrong content."""
        try:
            file = open(self.path(digest), "rb", buffering=0, opener=regular)
        except OSError as error:
            raise self._unreadable(digest, error) from None
        return io.BufferedReader(_Checked(file, digest, self), _BLOCK)

    def damaged(self, digest: str, how: str) -> BlobDamaged:
        """The error for a blob that is "missing" or "damaged"; a damaged one is out of the way already."""
        if os.path.exists(f"{self._aside}/{_name(digest)}"):
            how = "damaged"
        owner = self._owner_of(digest)
        way_out = f"load or pull {owner} again, which repairs it" if owner else "load or pull its image again"
        return BlobDamaged(f"{f'image {owner}: ' if owner else ''}blob {digest} is {how}: {way_out}")

    def _unreadable(self, digest: str, error: OSError) -> Exception:
        """What to raise for a blob that can't be opened: our own error where a load mends it."""
        if isinstance(error, FileNotFoundError):
            return self.damaged(digest, "missing")
        return self.damaged(digest, "damaged") if self._set_strange_aside(digest) else error

    def _set_strange_aside(self, digest: str) -> bool:
        """Sets aside what stands in a blob's place and is no file. Whether there was such a thing."""
        strange = is_strange(self.path(digest))
        if strange:
            with contextlib.suppress(OSError):
                os.rename(self.path(digest), f"{self._aside}/{_name(digest)}")
        return strange

    def _set_aside(self, digest: str, found: _Identity) -> None:
        self._checked.pop(digest, None)
        with contextlib.suppress(OSError):
            with open(self.path(digest), "rb", opener=regular) as file:
                if _identity(file.fileno()) != found:
                    return  # a good one has come meanwhile
            os.rename(self.path(digest), f"{self._aside}/{_name(digest)}")

    # what garbage collection needs

    def all(self) -> list[str]:
        """The digests of all blobs."""
        return [f"sha256:{name}" for name in os.listdir(self._top) if len(name) == 64]

    def take_out(self, digest: str, place: str) -> int:
        """Moves a blob to `place`, from where it is to be deleted. Returns its size."""
        self._checked.pop(digest, None)
        size = os.stat(self.path(digest)).st_size
        os.rename(self.path(digest), place)
        return size

    def forget_leftovers(self, needed: set[str]) -> None:
        """Deletes parts of blobs that nobody fetches, and damaged ones of images that are gone."""
        for name in os.listdir(self._partial):
            os.unlink(f"{self._partial}/{name}")
        for name in os.listdir(self._aside):
            if len(name) == 64 and f"sha256:{name}" not in needed:
                os.unlink(f"{self._aside}/{name}")


class _Checked(io.RawIOBase):
    def __init__(self, file: io.FileIO, digest: str, blobs: Blobs) -> None:
        self._file, self._digest, self._blobs, self._total = file, digest, blobs, hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = self._file.readinto(buffer)
        if count:
            self._total.update(memoryview(buffer)[:count])
        elif f"sha256:{self._total.hexdigest()}" != self._digest:
            self._blobs.check(self._digest)
            raise ImageError(f"blob {self._digest} could not be read whole")  # it changed while it was read
        return count or 0

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()
        super().close()


def _name(digest: str) -> str:
    if not reference.is_digest(digest) or not digest.startswith("sha256:"):
        raise ImageError(f"unsupported digest {digest[:80]!r}")
    return digest[7:]


def _identity(fd: int) -> _Identity:
    info = os.fstat(fd)
    return info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns
