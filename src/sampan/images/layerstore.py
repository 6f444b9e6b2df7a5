"""Layers as directories by chain ID, over their blobs. What an image is, `store` knows.

The order of things: a layer's files are written, everything is synced once (`seal`), then its record is written, then the
link from its chain ID. So a link that is there leads to a layer that was on disk. Until then a layer is known in memory
only. After a stop of the host that was not ours (`_opened`) every layer is compared with its record before it is used.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import hashlib
import json
import os
import tempfile
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import IO

from sampan.images import compression, layerrecords, staging
from sampan.images.blobs import Blobs
from sampan.images.errors import ImageError
from sampan.images.extract import Extractor
from sampan.images.layer import NeedsLower
from sampan.images.layer import settle as settle_implied
from sampan.images.staging import Staged
from sampan.linux import durable, filetree, mount
from sampan.linux.files import regular

MAX_LAYERS = 128


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

    def __init__(self, root: str, session: str = "") -> None:
        """`session`: a file that does not outlive a stop of the host, to tell by whether there has been one."""
        self._root, self._session = root, session
        self._holds, self._garbage, self._hold_lock = 0, False, threading.Lock()
        self._fetching: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._lock, self._sealing = threading.Lock(), threading.Lock()
        self._pending: dict[str, int] = {}  # layers by chain ID that are not linked yet
        for name in ("layers", "chains", "tmp", "damaged"):
            os.makedirs(f"{root}/{name}", 0o700, exist_ok=True)
        with contextlib.suppress(OSError):  # read-only: what is there can be used
            os.chmod(root, 0o700)
        self.blobs = Blobs(root, self.owner_of)
        for leftover in os.listdir(f"{root}/tmp"):
            filetree.remove(f"{root}/tmp/{leftover}", ignore_errors=True)
        numbers, cut_short = self._numbers(), self._was_cut_short()
        self._last = 0  # the highest number that anything has said
        self.spare_numbers(numbers | {_target(f"{root}/chains/{name}") for name in os.listdir(f"{root}/chains")})
        # Of before a stop of the host: they may not be what they were.
        self._suspect = numbers if cut_short else set()
        # Whole, but not known to be on disk.
        self._loose = {n for n in numbers - self._suspect if not layerrecords.exists(f"{root}/layers/{n}")}
        self._mark_opened()

    @abc.abstractmethod
    def collect_garbage(self) -> int:
        """Deletes what nothing needs, which those know who know what an image is. Returns the bytes of blobs freed."""

    @abc.abstractmethod
    def owner_of(self, digest: str) -> str:
        """The image that needs a blob, for messages; "" when none is known."""

    # opening and closing

    def _was_cut_short(self) -> bool:
        """Whether the host stopped while the store was open, or before all that this made doubtful had been checked."""
        try:
            with open(f"{self._root}/opened", "rb", opener=regular) as file:
                found = json.loads(file.read(4096))
            with open(self._session or os.devnull, encoding="ascii") as file:
                token = file.read(100)
            return bool(found["boot"] != boot_id() or found["suspect"] or (self._session and found["token"] != token))
        except FileNotFoundError:
            return os.path.exists(f"{self._root}/opened")
        except (OSError, ValueError, KeyError, TypeError):
            return True

    def _mark_opened(self) -> None:
        token = os.urandom(16).hex()
        with contextlib.suppress(OSError):  # read-only: nothing will become doubtful
            if self._session:
                durable.replace(self._session, token)
            body = {"boot": boot_id(), "token": token, "suspect": bool(self._suspect)}
            durable.write(f"{self._root}/opened", json.dumps(body))
            for name in os.listdir(f"{self._root}/damaged"):
                if name.startswith("layer-") and not name.startswith(f"layer-{boot_id()}"):
                    filetree.remove(f"{self._root}/damaged/{name}", ignore_errors=True)

    def close(self) -> None:
        """Ends the use of the store: all layers are on disk, and the next to open it knows that."""
        with contextlib.suppress(OSError):  # else it is for the next to check
            self.seal()
            if not self._suspect:
                os.unlink(f"{self._root}/opened")
                durable.sync_directory(self._root)

    # blobs

    def blob_path(self, digest: str) -> str:
        """Where a blob is kept. Raises ImageError for text that is not a sha256 digest."""
        return self.blobs.path(digest)

    def has_blob(self, digest: str) -> bool:
        """Whether a blob is here."""
        return self.blobs.has(digest)

    def partial_path(self, digest: str) -> str:
        """Where a blob grows while it is fetched."""
        return self.blobs.partial_path(digest)

    def put_blob(self, stream: IO[bytes], expected: str | None = None) -> tuple[str, int]:
        """See Blobs.put."""
        return self.blobs.put(stream, expected)

    def read_blob(self, digest: str, limit: int = 16 << 20) -> bytes:
        """See Blobs.read."""
        return self.blobs.read(digest, limit)

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
                _beside_a_loop(self.collect_garbage)

    # layers

    @property
    def temporary(self) -> str:
        """A directory for what need not survive."""
        return f"{self._root}/tmp"

    def layer_directory(self, number: int) -> str:
        """The files of a layer, by the number of its directory."""
        return f"{self._root}/layers/{number}/fs"

    def _numbers(self) -> set[int]:
        return {int(name) for name in os.listdir(f"{self._root}/layers") if name.isdecimal()}

    def adopt(self, directory: str) -> int:
        """Makes a stage (see new_stage) a layer directory. Returns its number; the caller keeps it alive by `kept_layers`."""
        with self._lock:
            self._last += 1
            number = self._last
            self._loose.add(number)
        os.rename(directory, f"{self._root}/layers/{number}")
        return number

    def spare_numbers(self, used: set[int]) -> None:
        """No new layer gets one of these numbers, whether there is such a directory or not."""
        with self._lock:
            self._last = max(used | {self._last})

    def link_chain(self, diff_ids: list[str], number: int) -> None:
        """Says that a layer directory is the last of `diff_ids`; where there is one already, that stays."""
        if self._number(chain := chain_ids(diff_ids)[-1]) is None:
            with self._lock:
                self._pending.setdefault(chain, number)

    def seal(self) -> None:
        """Puts on disk what has been unpacked, with one sync of the whole file system, and then links it."""
        with self._sealing:
            with self._lock:
                pending, loose = dict(self._pending), set(self._loose)
            if not pending and not loose:
                return
            durable.sync_tree(self._root)
            for number in loose:
                if os.path.isdir(self.layer_directory(number)):
                    layerrecords.write(f"{self._root}/layers/{number}")
            for chain, number in pending.items():
                _link(f"{self._root}/chains/{chain[7:]}", number)
            durable.sync_tree(self._root)
            with self._lock:
                self._loose -= loose
                for chain, number in pending.items():
                    if self._pending.get(chain) == number:
                        del self._pending[chain]

    def _number(self, chain: str) -> int | None:
        """The directory of a chain ID, or None when it is not unpacked."""
        with self._lock:
            number = self._pending.get(chain)
        if number is None:
            number = _target(f"{self._root}/chains/{chain[7:]}")
        return number if number and os.path.isdir(self.layer_directory(number)) else None

    def trusted(self, number: int, again: bool = False) -> bool:
        """Whether a layer directory is there and whole, as far as is known; `again` compares it with its record in any case."""
        if not os.path.isdir(self.layer_directory(number)):
            return False
        with self._lock:
            doubtful = number in self._suspect or (again and number not in self._loose)
        if not doubtful:
            return True
        if not layerrecords.matches(f"{self._root}/layers/{number}"):
            return False
        with self._lock:
            self._suspect.discard(number)
        return True

    def used_layers(self) -> set[int]:
        """The numbers of the layer directories that images have."""
        with self._lock:
            found = set(self._pending.values())
        return found | {self._number(f"sha256:{name}") or 0 for name in os.listdir(f"{self._root}/chains")}

    def is_unpacked(self, diff_ids: list[str], again: bool = False) -> bool:
        """Whether the layers up to the last of `diff_ids` are there as a directory. `again`: see trusted."""
        number = self._number(chain_ids(diff_ids)[-1])
        return number is not None and self.trusted(number, again)

    def new_stage(self) -> str:
        """A new directory to stage a layer in; its "fs" is where the files go."""
        directory = tempfile.mkdtemp(dir=f"{self._root}/tmp")
        os.mkdir(f"{directory}/fs", 0o755)
        return directory

    def unpack(self, layer_digest: str, diff_ids: list[str], again: bool = False) -> None:
        """Unpacks the last of `diff_ids` on top of the others, unless that chain is there already. `again`: see trusted."""
        if self.is_unpacked(diff_ids, again):
            return
        if not self.blobs.has(layer_digest):
            raise self.blobs.damaged(layer_digest, "missing")
        directory = self.new_stage()
        try:
            staged = staging.stage(self.blobs.path(layer_digest), f"{directory}/fs")
        except BaseException as error:
            filetree.remove(directory, ignore_errors=True)
            if isinstance(error, ImageError):
                self.blobs.check(layer_digest)  # a damaged blob is the better explanation
                raise ImageError(f"layer {layer_digest}: {error}") from error
            raise
        self.settle(layer_digest, diff_ids, directory, staged)

    def settle(self, layer_digest: str, diff_ids: list[str], directory: str, staged: Staged) -> None:
        """Makes a staged layer the last of `diff_ids`, whose others are there. Raises ImageError; the stage is gone then."""
        chain = chain_ids(diff_ids)
        try:
            if len(chain) > MAX_LAYERS:
                raise ImageError(f"the image has more than {MAX_LAYERS} layers")
            if staged.diff_id != diff_ids[-1]:
                self.blobs.check(layer_digest)
                raise ImageError(
                    f"layer {layer_digest} unpacks to {staged.diff_id}, not to {diff_ids[-1]} as the image says"
                )
            if not self._fits_below(directory, staged, chain[:-1]):
                filetree.remove(f"{directory}/fs")
                os.mkdir(f"{directory}/fs", 0o755)
                self._unpack_on_overlay(directory, layer_digest, chain[:-1])
            number = self.adopt(directory)
        except BaseException:
            filetree.remove(directory, ignore_errors=True)
            raise
        self._replace(chain[-1], number)

    def _replace(self, chain: str, number: int) -> None:
        """Enters a layer that has been unpacked. One that was there and is not whole is set aside: something may have it mounted."""
        old = self._number(chain)
        if old is not None and self.trusted(old, again=True):  # somebody was faster
            self._drop(number)
            return
        with self._lock:
            self._pending[chain] = number
        if old is not None:
            with contextlib.suppress(OSError):
                place = tempfile.mkdtemp(dir=f"{self._root}/damaged", prefix=f"layer-{boot_id()}-")
                os.rename(f"{self._root}/layers/{old}", place)
            with self._lock:
                self._suspect.discard(old)
                self._loose.discard(old)

    def _drop(self, number: int) -> None:
        with self._lock:
            self._loose.discard(number)
        filetree.remove(f"{self._root}/layers/{number}", ignore_errors=True)

    def take_out_layers(self, chains: set[str], kept: set[int], place: str) -> list[str]:
        """Takes away the links of all but these chains, and the directories that are neither linked nor `kept`.

        Returns what is to be deleted: the directories where they are now, in `place` if there is one. To be called when
        nobody holds the store.
        """
        found = []
        with self._lock:
            self._pending = {chain: number for chain, number in self._pending.items() if chain in chains}
            linked = set(self._pending.values())
        for name in os.listdir(f"{self._root}/chains"):
            if f"sha256:{name}" not in chains:
                os.unlink(f"{self._root}/chains/{name}")
            elif (number := self._number(f"sha256:{name}")) is not None:
                linked.add(number)
        for number in self._numbers() - linked - kept:
            path = f"{self._root}/layers/{number}"
            if place:
                with contextlib.suppress(OSError):
                    os.rename(path, f"{place}/layer-{number}")
                    continue
            found.append(path)
        with self._lock:
            self._loose &= linked | kept
            self._suspect &= linked | kept
        return found

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
            with self.blobs.open(digest) as blob:
                try:
                    Extractor(rootfd, whiteouts=True).extract(compression.decompress(blob))
                except compression.ERRORS as error:
                    raise ImageError(f"layer {digest}: {error}") from error
        finally:
            os.close(rootfd)
        filetree.remove(f"{directory}/work", ignore_errors=True)

    def _layer_directories(self, chain: list[str]) -> list[str]:
        """Layer directories from top to bottom, as overlay wants them."""
        found = []
        for chain_id in reversed(chain):
            number = self._number(chain_id)
            if number is None:
                raise ImageError(f"layer {chain_id} is not unpacked: load the image again")
            found.append(self.layer_directory(number))
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


def boot_id() -> str:
    """The id of this run of the kernel."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def _target(path: str) -> int:
    """The number that a chain's link leads to; 0 when there is none."""
    try:
        return int(os.path.basename(os.readlink(path)))
    except (OSError, ValueError):
        return 0


def _link(path: str, number: int) -> None:
    """Makes or replaces a chain's link, in one step."""
    temporary = f"{path}.{os.urandom(4).hex()}"
    os.symlink(f"../layers/{number}", temporary)
    os.rename(temporary, path)


def _beside_a_loop(work: object) -> None:
    """Calls it; in a thread when this one runs an event loop."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        work()  # type: ignore[operator]
        return
    loop.run_in_executor(None, work)  # type: ignore[arg-type]
