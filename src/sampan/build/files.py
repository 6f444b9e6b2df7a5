"""COPY, ADD and WORKDIR: the instructions that bring files without running anything."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import posixpath
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO

from sampan.build import copying
from sampan.build.configuring import expand
from sampan.build.copying import Manner
from sampan.build.dockerfile import Heredoc, Instruction
from sampan.build.errors import BuildError
from sampan.build.file_tree import Tree, clean
from sampan.build.model import State
from sampan.build.patterns import Ignore
from sampan.build.words import WordError, expand_body, split
from sampan.images import compression
from sampan.images.extract import Extractor
from sampan.images.tarstream import is_tar
from sampan.linux import nodes, openat2
from sampan.runtime import accounts
from sampan.runtime.errors import RuntimeFailure

_NONE = Ignore([])


@dataclass(slots=True)
class Source:
    """One thing to copy: a path of a tree, or bytes (a heredoc, a download) with a name."""

    path: str = ""
    info: os.stat_result | None = None
    data: bytes | None = None
    file: IO[bytes] | None = None
    name: str = ""
    mode: int = 0o644
    mtime: int = 0
    pivot: str = ""  # with --parents: what of the path is not repeated
    unpack: bool = False

    @property
    def is_path(self) -> bool:
        """Whether it is in the tree; else it is a content."""
        return self.data is None and self.file is None

    def open(self) -> IO[bytes]:
        """The content, from its begin."""
        if self.file is None:
            return io.BytesIO(self.data or b"")
        self.file.seek(0)
        return self.file


@dataclass(slots=True)
class Copy:
    """A COPY or ADD with everything expanded."""

    tree: Tree
    sources: list[Source]
    target: str
    chown: str = ""
    manner: Manner = field(default_factory=Manner)
    parents: bool = False
    keep_owners: bool = False

    def digest(self) -> str:
        """A digest of everything that is copied, and where and how."""
        total = hashlib.sha256(f"{self.target}\0{self.chown}\0{self.manner.mode}\0{self.parents}\0".encode())
        for source in self.sources:
            if not source.is_path:
                total.update(f"{source.name}\0{source.mode}\0{source.unpack}\0".encode())
                content = source.open()
                while block := content.read(1 << 20):
                    total.update(block)
            else:
                assert source.info is not None
                shown = source.path if self.parents else posixpath.basename(source.path)
                total.update(f"{shown}\0{source.pivot}\0{source.unpack}\0".encode("utf-8", "surrogateescape"))
                total.update(self.tree.digest(source.path, source.info, self.keep_owners, self.manner.exclude))
        return total.hexdigest()


def arguments(instruction: Instruction, state: State, escape: str) -> tuple[list[str], str]:
    """(sources, destination), expanded. Raises DockerfileError."""
    try:
        parts = instruction.json if instruction.json is not None else split(instruction.text, escape)
    except WordError as error:
        raise instruction.error(str(error)) from None
    names = {
        f"<<{dash}{quote}{doc.name}{quote}"
        for doc in instruction.heredocs
        for dash in ("", "-")
        for quote in ("", "'", '"')
    }
    found = [part if part in names else expand(instruction, part, state, escape) for part in parts]
    if len(found) < 2:
        raise instruction.error(
            f"{instruction.name} requires at least two arguments, but only one was provided. Destination could not be determined"
        )
    return found[:-1], found[-1]


def heredoc_sources(instruction: Instruction, state: State) -> list[Source]:
    """The files that heredocs are."""
    try:
        return [Source(data=content(doc, state).encode(), name=doc.name) for doc in instruction.heredocs]
    except WordError as error:
        raise instruction.error(str(error)) from None


def content(doc: Heredoc, state: State) -> str:
    """A heredoc's content with variables in their place. Raises WordError."""
    return expand_body(doc.content, state.variables) if doc.expand else doc.content


def prepare(
    instruction: Instruction, state: State, escape: str, tree: Tree, paths: list[str], target: str, keep_owners: bool
) -> Copy:
    """Finds the sources of a COPY in a tree. Raises BuildError."""
    exclude = [expand(instruction, text, state, escape) for text in instruction.flags.get("exclude", [])]
    parents = instruction.on("parents")
    sources: list[Source] = []
    for path in paths:
        pivot = ""
        trimmed = path.lstrip("/")
        while trimmed.startswith("./"):
            trimmed = trimmed[2:].lstrip("/")
        if parents and "/./" in f"/{trimmed}":
            before, _, after = f"/{trimmed}".partition("/./")
            pivot, path = clean(before), f"{before}/{after}"
        for found in tree.sources(path):
            resolved, info = tree.resolve(found)
            sources.append(Source(resolved if not parents else clean(found), info, pivot=pivot))
    chown = expand(instruction, instruction.flag("chown"), state, escape)
    mode = expand(instruction, instruction.flag("chmod"), state, escape)
    copying.changed_mode(0, mode, False)
    owner = None if keep_owners and not chown else (0, 0)
    manner = Manner(owner, mode, Ignore(exclude) if exclude else _NONE)
    return Copy(tree, sources, target, chown, manner, parents, keep_owners and not chown)


def perform(copy: Copy, state: State, rootfd: int) -> None:
    """Copies into the root. Raises BuildError."""
    if copy.chown:
        copy.manner.owner = owner_of(copy.chown, rootfd)
    target = posixpath.join("/", state.workdir, copy.target)
    into = copy.target.endswith("/") or copy.target in (".", "") or copy.target.endswith("/.")
    several = len(copy.sources) > 1
    if several and not into and not copying.is_directory(rootfd, target):
        raise BuildError(
            f"When using COPY or ADD with more than one source file, the destination must be a directory and end with a / or be an existing directory: {copy.target}"
        )
    into = into or copying.is_directory(rootfd, target) or copy.parents
    for source in copy.sources:
        if not source.is_path:
            _write(source, copy, rootfd, target, into)
        else:
            _copy_path(source, copy, rootfd, target, into)


def _copy_path(source: Source, copy: Copy, rootfd: int, target: str, into: bool) -> None:
    assert source.info is not None
    path = source.path
    if copy.parents:
        shown = path[len(source.pivot) :].lstrip("/") if source.pivot and path.startswith(source.pivot) else path
        target = posixpath.join(target, shown)
    elif not stat.S_ISDIR(source.info.st_mode) and into:
        target = posixpath.join(target, posixpath.basename(path))
    if (
        source.unpack
        and stat.S_ISREG(source.info.st_mode)
        and _unpack(copy, path, rootfd, posixpath.dirname(target) if into else target)
    ):
        return
    copying.copy(copy.tree, path, source.info, rootfd, posixpath.normpath(target), copy.manner)


def _unpack(copy: Copy, path: str, rootfd: int, target: str) -> bool:
    """Unpacks a local archive, known by its content (P014). False when it is none."""
    try:
        fd = nodes.open_regular_in_root(copy.tree.rootfd, path)
    except OSError:
        return False  # who copies it says why
    with open(fd, "rb") as file:
        return unpack_stream(file, rootfd, target, copy.manner.owner if copy.chown else None)


def unpack_stream(file: IO[bytes], rootfd: int, target: str, owner: tuple[int, int] | None) -> bool:
    """Unpacks a stream below a directory if it is a tar, plain or compressed. Raises BuildError for a damaged one."""
    try:
        head = compression.decompress(file).read(512)
    except compression.ERRORS:
        return False
    finally:
        file.seek(0)
    if not is_tar(head):
        return False
    directory = copying.make_parents(rootfd, target)
    try:
        Extractor(directory, owner=owner).extract(compression.decompress(file))
    except compression.ERRORS as error:
        raise BuildError(f"damaged archive: {error}") from None
    finally:
        os.close(directory)
    return True


def _write(source: Source, copy: Copy, rootfd: int, target: str, into: bool) -> None:
    if source.unpack and unpack_stream(source.open(), rootfd, target, copy.manner.owner if copy.chown else None):
        return
    path = posixpath.normpath(posixpath.join(target, source.name) if into else target)
    parent = copying.make_parents(rootfd, posixpath.dirname(path))
    try:
        name = posixpath.basename(path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(name, flags, 0o600, dir_fd=parent), "wb") as file:
            shutil.copyfileobj(source.open(), file, 1 << 20)
            file.flush()
            os.fchown(file.fileno(), *(copy.manner.owner or (0, 0)))
            os.fchmod(file.fileno(), copying.changed_mode(source.mode, copy.manner.mode, False))
            if source.mtime:
                os.utime(file.fileno(), ns=(source.mtime, source.mtime))
    except IsADirectoryError:
        raise BuildError(f"cannot replace to directory {path} with file") from None
    finally:
        os.close(parent)


def owner_of(text: str, rootfd: int) -> tuple[int, int]:
    """uid and gid of "USER[:GROUP]", looked up in the stage's own files. Raises BuildError."""
    try:
        found = accounts.resolve(rootfd, text)
    except RuntimeFailure as error:
        raise BuildError(f"invalid user {text!r} in --chown: {error}") from None
    if ":" not in text and accounts.is_number(text):
        return found.uid, found.uid
    return found.uid, found.gid


def make_workdir(path: str) -> Callable[[int], None]:
    """What a WORKDIR does to the files: the directory is there, an existing one as it was (P023)."""

    def make(rootfd: int) -> None:
        os.close(copying.make_parents(rootfd, path))

    return make


def workdir_exists(rootfd: int, path: str) -> bool:
    """Whether a WORKDIR has nothing to do. Raises BuildError when something else is there."""
    if copying.is_directory(rootfd, path):
        return True
    try:
        os.close(openat2.open_in_root(rootfd, path, os.O_PATH))
    except OSError:
        return False
    raise BuildError(f"cannot use {path} as the working directory: it is no directory")


__all__ = [
    "Copy",
    "Source",
    "arguments",
    "content",
    "heredoc_sources",
    "make_workdir",
    "owner_of",
    "perform",
    "prepare",
    "unpack_stream",
    "workdir_exists",
]
