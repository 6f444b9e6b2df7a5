"""Layers as directories by chain ID. What comes into them, `unpacker` knows; what an image is, `index`.

The order of things: a layer's files are written, everything is synced once (`seal`), then its record is written, then the
link from its chain ID. So a link that is there leads to a layer that was on disk. Until then a layer is known in memory
only. After a stop of the host that was not ours (`session`) every layer is compared with its record before it is used.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Sequence

from sampan.images import layerrecords
from sampan.images.errors import ImageError
from sampan.images.image import chain_ids
from sampan.images.session import boot_id
from sampan.linux import durable, filetree


class Layers:
    """The layer directories of a store: each has a number, and its files are in its "fs". Methods block: call them from a thread."""

    def __init__(self, root: str, doubtful: bool = False) -> None:
        """`doubtful`: the host has stopped since, so that no layer is taken for whole before it has been compared."""
        self._root = root
        self._lock, self._sealing = threading.Lock(), threading.Lock()
        self._pending: dict[str, int] = {}  # layers by chain ID that are not linked yet
        for name in ("layers", "chains", "tmp", "damaged"):
            os.makedirs(f"{root}/{name}", 0o700, exist_ok=True)
        numbers = self._numbers()
        self._last = 0  # the highest number that anything has said
        self.reserve_numbers(numbers | {_target(f"{root}/chains/{name}") for name in os.listdir(f"{root}/chains")})
        # Of before a stop of the host: they may not be what they were.
        self._suspect = numbers if doubtful else set()
        # Whole, but not known to be on disk.
        self._loose = {n for n in numbers - self._suspect if not layerrecords.exists(f"{root}/layers/{n}")}
        for name in os.listdir(f"{root}/damaged"):  # nothing has those of an earlier boot mounted
            if name.startswith("layer-") and not name.startswith(f"layer-{boot_id()}"):
                filetree.remove(f"{root}/damaged/{name}", ignore_errors=True)

    @property
    def doubtful(self) -> bool:
        """Whether there are layers that are still to be compared with their records."""
        return bool(self._suspect)

    # directories and their numbers

    def directory(self, number: int) -> str:
        """The files of a layer, by the number of its directory."""
        return f"{self._root}/layers/{number}/fs"

    def _numbers(self) -> set[int]:
        return {int(name) for name in os.listdir(f"{self._root}/layers") if name.isdecimal()}

    def new_stage(self) -> str:
        """A new directory to stage a layer in; its "fs" is where the files go."""
        directory = tempfile.mkdtemp(dir=f"{self._root}/tmp")
        os.mkdir(f"{directory}/fs", 0o755)
        return directory

    def commit(self, directory: str) -> int:
        """Makes a stage (see new_stage) a layer directory. Returns its number; it is garbage until a chain or something else has it."""
        with self._lock:
            self._last += 1
            number = self._last
            self._loose.add(number)
        os.rename(directory, f"{self._root}/layers/{number}")
        return number

    def reserve_numbers(self, used: set[int]) -> None:
        """No new layer gets one of these numbers, whether there is such a directory or not."""
        with self._lock:
            self._last = max(used | {self._last})

    def trusted(self, number: int, again: bool = False) -> bool:
        """Whether a layer directory is there and whole, as far as is known; `again` compares it with its record in any case."""
        if not os.path.isdir(self.directory(number)):
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

    # chains

    def _number(self, chain: str) -> int | None:
        """The directory of a chain ID, or None when it is not unpacked."""
        with self._lock:
            number = self._pending.get(chain)
        if number is None:
            number = _target(f"{self._root}/chains/{chain[7:]}")
        return number if number and os.path.isdir(self.directory(number)) else None

    def has(self, diff_ids: Sequence[str], again: bool = False) -> bool:
        """Whether the layers up to the last of `diff_ids` are there as a directory. `again`: see trusted."""
        number = self._number(chain_ids(diff_ids)[-1])
        return number is not None and self.trusted(number, again)

    def directories(self, chain: list[str]) -> list[str]:
        """The directories of these chain IDs, the last first, as overlay wants its lower ones. Raises ImageError for one that is missing."""
        found = []
        for chain_id in reversed(chain):
            number = self._number(chain_id)
            if number is None:
                raise ImageError(f"layer {chain_id} is not unpacked: load the image again")
            found.append(self.directory(number))
        return found

    def link_chain(self, diff_ids: Sequence[str], number: int) -> None:
        """Says that a layer directory is the last of `diff_ids`; where there is one already, that stays."""
        if self._number(chain := chain_ids(diff_ids)[-1]) is None:
            with self._lock:
                self._pending.setdefault(chain, number)

    def replace(self, chain: str, number: int) -> None:
        """Makes a layer directory that of a chain ID, unless a whole one is there. One that was there and is not whole is set
        aside: something may have it mounted.
        """
        old = self._number(chain)
        if old is not None and self.trusted(old, again=True):  # somebody was faster
            with self._lock:
                self._loose.discard(number)
            filetree.remove(f"{self._root}/layers/{number}", ignore_errors=True)
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

    def seal(self) -> None:
        """Puts on disk what has been unpacked, with one sync of the whole file system, and then links it."""
        with self._sealing:
            with self._lock:
                pending, loose = dict(self._pending), set(self._loose)
            if not pending and not loose:
                return
            durable.sync_tree(self._root)
            for number in loose:
                if os.path.isdir(self.directory(number)):
                    layerrecords.write(f"{self._root}/layers/{number}")
            for chain, number in pending.items():
                _link(f"{self._root}/chains/{chain[7:]}", number)
            durable.sync_tree(self._root)
            with self._lock:
                self._loose -= loose
                for chain, number in pending.items():
                    if self._pending.get(chain) == number:
                        del self._pending[chain]

    # what garbage collection needs

    def used(self) -> set[int]:
        """The numbers of the layer directories that images have."""
        with self._lock:
            found = set(self._pending.values())
        return found | {self._number(f"sha256:{name}") or 0 for name in os.listdir(f"{self._root}/chains")}

    def take_out(self, chains: set[str], kept: set[int], place: str) -> list[str]:
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

    # directories that are below or beside all layers

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
