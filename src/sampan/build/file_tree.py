"""File trees that a build copies from: the context, a stage, an image. Walked, digested and copied by descriptors."""

from __future__ import annotations

import hashlib
import os
import posixpath
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from sampan.build.errors import BuildError
from sampan.build.patterns import Ignore, compile_pattern, has_wildcards
from sampan.linux import filetree, nodes, openat2

_BLOCK = 1 << 20
_MAX_KNOWN = 200_000
_LONGEST = 4095  # PATH_MAX: what is longer can't be named


class Hashes:
    """Digests of files already read, by what stat(2) says of them: unchanged files are not read again."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int, int, int], bytes] = {}

    def of(self, parent_fd: int, name: str, info: os.stat_result) -> bytes:
        """The sha256 of a regular file's content."""
        key = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        found = self._known.get(key)
        if found is None:
            if len(self._known) > _MAX_KNOWN:
                self._known.clear()
            found = self._known[key] = _hash(parent_fd, name)
        return found


def _hash(parent_fd: int, name: str) -> bytes:
    digest = hashlib.sha256()
    fd = nodes.open_regular(parent_fd, name)
    try:
        while block := os.read(fd, _BLOCK):
            digest.update(block)
    finally:
        os.close(fd)
    return digest.digest()


@dataclass(slots=True)
class Tree:
    """A root and what of it is visible. Paths are relative to the root; links never lead out of it."""

    rootfd: int
    ignore: Ignore = field(default_factory=lambda: Ignore([]))
    hashes: Hashes = field(default_factory=Hashes)
    name: str = "the build context"
    layers: list[str] = field(default_factory=list)  # what an overlay root is made of, the top first

    def resolve(self, path: str) -> tuple[str, os.stat_result]:
        """A source's path with links at its end and on the way followed inside the root. Raises BuildError."""
        clean = _clean(path)
        for _ in range(40):
            try:
                fd = openat2.open_in_root(self.rootfd, clean or ".", os.O_PATH | os.O_NOFOLLOW)
            except OSError as error:
                raise self.missing(path) from error
            try:
                info = os.fstat(fd)
                if not stat.S_ISLNK(info.st_mode):
                    if clean and self.ignore.hides(clean) and not self._shows_below(clean, info):
                        raise self.missing(path)
                    return clean, info
                target = os.readlink("", dir_fd=fd)
            finally:
                os.close(fd)
            clean = _clean(target if target.startswith("/") else f"{posixpath.dirname(clean)}/{target}")
        raise BuildError(f'failed to compute cache key: "{path}": too many levels of symbolic links')

    def _shows_below(self, path: str, info: os.stat_result) -> bool:
        return (
            stat.S_ISDIR(info.st_mode) and not self.ignore.hides_all_below(path) and any(True for _ in self.walk(path))
        )

    def missing(self, path: str) -> BuildError:
        """There is no such source."""
        return BuildError(
            f'failed to compute cache key: failed to calculate checksum of {self.name}: "{path}": not found'
        )

    def sources(self, pattern: str) -> list[str]:
        """The paths that a COPY source stands for; a pattern that matches nothing is an error. Raises BuildError."""
        clean = _clean(pattern)
        if not has_wildcards(clean):
            return [clean]
        compiled = compile_pattern(clean)
        depth = None if "**" in clean else clean.count("/")
        found = [path for path, _, _ in self._walk("", depth, everything=True) if compiled.matches(path)]
        if "**" in clean:  # the topmost of what is inside each other
            found = [path for path in found if not any(path.startswith(f"{other}/") for other in found)]
        visible = [path for path in found if not self.ignore.hides(path) or self._has_visible(path)]
        if not visible:
            raise self.missing(pattern)
        return sorted(visible)

    def _has_visible(self, path: str) -> bool:
        return not self.ignore.hides_all_below(path) and any(True for _ in self.walk(path))

    def walk(self, path: str) -> Iterator[tuple[str, int, os.stat_result]]:
        """(path, descriptor of its directory, lstat) of everything visible below a directory, parents first."""
        return self._walk(path, None)

    def _walk(
        self, path: str, depth: int | None, everything: bool = False
    ) -> Iterator[tuple[str, int, os.stat_result]]:
        """As walk(), down to `depth`, hidden entries too if `everything`. The descriptor is good until the next is asked for."""
        fd = openat2.open_in_root(self.rootfd, path or ".", os.O_RDONLY | os.O_DIRECTORY)
        base = path.count("/") + 1 if path else 0
        try:
            for entry in filetree.descend(fd, path):
                full = entry.path
                hidden = bool(self.ignore) and self.ignore.hides(full)
                if not hidden or everything:
                    try:
                        info = entry.stat()
                    except FileNotFoundError:
                        continue  # since it was listed
                    yield full, entry.parent, info
                if entry.fd < 0:
                    continue
                entry.enter = depth is None or full.count("/") - base < depth
                entry.enter &= not (hidden and self.ignore.hides_all_below(full))
                if entry.enter and len(full) > _LONGEST:
                    raise BuildError(f"{self.name}: directories are nested too deep below {full[:60]}…")
        finally:
            os.close(fd)

    def read(self, path: str, limit: int = 16 << 20) -> bytes | None:
        """A small file's content, or None when there is no such file. Never what is outside of the root."""
        try:
            fd = nodes.open_regular_in_root(self.rootfd, path)
        except OSError:
            return None
        with open(fd, "rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise BuildError(f"{path} is larger than {limit} bytes")
        return data

    def digest(self, path: str, info: os.stat_result, owners: bool, exclude: Ignore) -> bytes:
        """A digest of what copying `path` brings: names, modes, contents, links; `owners` too when they are kept."""
        total = hashlib.sha256()
        if not stat.S_ISDIR(info.st_mode):
            parent = openat2.open_in_root(self.rootfd, posixpath.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY)
            try:
                self._digest_one(total, "", parent, posixpath.basename(path), info, owners)
            finally:
                os.close(parent)
            return total.digest()
        total.update(f"{info.st_mode:o}\0".encode())
        for full, parent_fd, entry in self.walk(path):
            relative = full[len(path) + 1 :] if path else full
            if exclude and exclude.hides(relative):
                continue
            self._digest_one(total, relative, parent_fd, posixpath.basename(full), entry, owners)
        return total.digest()

    def _digest_one(
        self, total: hashlib._Hash, shown: str, parent_fd: int, name: str, info: os.stat_result, owners: bool
    ) -> None:
        owner = f"{info.st_uid}:{info.st_gid}" if owners else ""
        total.update(f"{shown}\0{info.st_mode:o}\0{owner}\0".encode("utf-8", "surrogateescape"))
        if stat.S_ISREG(info.st_mode):
            total.update(self.hashes.of(parent_fd, name, info))
        elif stat.S_ISLNK(info.st_mode):
            total.update(os.readlink(name, dir_fd=parent_fd).encode("utf-8", "surrogateescape") + b"\0")
        elif stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
            total.update(f"{info.st_rdev}\0".encode())


def _clean(path: str) -> str:
    """Relative, without "." and without ".." that lead above the root."""
    return posixpath.normpath("/" + path).lstrip("/")


clean = _clean
