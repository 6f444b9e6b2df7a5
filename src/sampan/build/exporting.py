"""From a finished stage to what was asked for: an image, a directory, a tar, an OCI layout."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from typing import IO

from msgspec.structs import replace

from sampan.build import writable
from sampan.build.cache import BuildCache
from sampan.build.copying import Manner
from sampan.build.copying import copy as copy_tree
from sampan.build.file_tree import Tree
from sampan.build.model import LayerRef, Options, State
from sampan.build.steps import created
from sampan.images import compression, pack
from sampan.images.config import INLINE, History, ImageConfig, write_config
from sampan.images.extract import FORBIDDEN_XATTRS, remove_tree
from sampan.images.image import Image, Layer
from sampan.images.index import Check
from sampan.images.store import ImageStore
from sampan.linux import filetree, mount, nodes, treecopy
from sampan.oci import manifest as oci
from sampan.oci import reference


class _Counting:
    """Hashes the plain bytes of a tar on their way into its gzip."""

    def __init__(self, out: compression.Writable) -> None:
        self._out, self.hash = out, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        self._out.write(data)
        return len(data)


def pack_directory(store: ImageStore, directory: str, clamp: int | None) -> Layer:
    """A layer's blob, gzip, made of its directory; zeros are never on the disk (P018)."""
    with tempfile.TemporaryFile(dir=store.temporary) as file:
        with compression.gzip_writer(file) as out:
            counted = _Counting(out)
            pack.pack_layer(directory, counted, clamp)  # type: ignore[arg-type]
        file.seek(0)
        digest, size = store.blobs.put(file)
    return Layer(digest, size, f"sha256:{counted.hash.hexdigest()}", f"{oci.OCI_LAYER}+gzip")


def export_image(
    store: ImageStore, cache: BuildCache, state: State, options: Options, check: Check | None = None
) -> Image:
    """Enters the state as an image under the tags asked for."""
    with store.hold():
        layers = [_layer(store, cache, ref, options.epoch) for ref in state.layers]
        history = state.history
        if options.squash:
            layers, history = (
                _squashed(store, state, options, layers),
                [row for row in history if row.empty_layer],
            )
            history.append(History(created=created(options, state), created_by="squash", comment="sampan"))
        diff_ids = [layer.diff_id for layer in layers]
        if not options.squash:
            for index, ref in enumerate(state.layers):
                if ref.number:
                    store.layers.link_chain(diff_ids[: index + 1], ref.number)
        config = write_config(configuration(state, options, diff_ids, history))
        tags = [str(reference.parse(tag).with_default_tag()) for tag in options.tags]
        return store.add(config, layers, tags, check=check)


def configuration(state: State, options: Options, diff_ids: list[str], history: list[History]) -> ImageConfig:
    """The image's configuration."""
    rest = dict(state.image.rest)
    if options.inline_cache and not options.squash:
        below = len(state.layers) - sum(has_layer for _, has_layer in state.steps)
        rows: list[tuple[str, int]] = []
        for key, has_layer in state.steps:
            rows.append((key, below if has_layer else -1))
            below += has_layer
        rest[INLINE] = rows
    return replace(
        state.image,
        created=created(options, state),
        architecture=state.platform.architecture,
        os=state.platform.os,
        variant=state.platform.variant,
        execution=replace(state.config, labels={**state.config.labels, **options.labels}),
        diff_ids=tuple(diff_ids),
        history=tuple(history),
        rest=rest,
    )


def _layer(store: ImageStore, cache: BuildCache, ref: LayerRef, clamp: int | None) -> Layer:
    if ref.layer is not None:
        return ref.layer
    known = cache.packed(ref.number, clamp or 0)
    if known is None:
        known = pack_directory(store, ref.directory, clamp)
        cache.remember_packed(ref.number, clamp or 0, known)
    return known


def _squashed(store: ImageStore, state: State, options: Options, layers: list[Layer]) -> list[Layer]:
    """The base's layers and one of all that the build has added."""
    base = [layer for ref, layer in zip(state.layers, layers, strict=True) if not ref.number]
    own = [ref for ref in state.layers if ref.number]
    if len(own) < 2:
        return layers
    # Merged from the top layer's view down to the first of ours, deletions kept as such.
    with tempfile.TemporaryDirectory(dir=store.temporary) as top:
        for ref in own:
            _merge(ref.directory, top)
        return [*base, pack_directory(store, top, options.epoch)]


def _merge(source: str, target: str) -> None:
    """Lays one upper directory over another, both with whiteouts as overlay has them."""
    with contextlib.closing(filetree.Descent(source)) as reader, contextlib.closing(filetree.Descent(target)) as writer:
        treecopy.together(reader.fd, writer.fd, _merge_one, _keep_time)


def _keep_time(_: int, made: int, info: os.stat_result) -> None:
    os.utime(made, ns=(info.st_mtime_ns, info.st_mtime_ns))


def _merge_one(source: int, target: int, name: str) -> bool:
    """Lays one entry over what has its name; whether it is a directory, into which to go."""
    info = os.stat(name, dir_fd=source, follow_symlinks=False)
    directory = stat.S_ISDIR(info.st_mode)
    opaque = directory and _opaque(source, name)
    try:
        below = os.stat(name, dir_fd=target, follow_symlinks=False)
    except FileNotFoundError:
        below = None
    if below is not None and not (directory and stat.S_ISDIR(below.st_mode) and not opaque):
        remove_tree(target, name)
        below = None
    if not directory:
        os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        return False
    held = nodes.hold(source, name)
    try:
        attributes = nodes.xattrs(held)
    finally:
        os.close(held)
    if below is None:
        os.mkdir(name, 0o700, dir_fd=target)
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target)
    try:
        os.fchown(fd, info.st_uid, info.st_gid)
        os.fchmod(fd, stat.S_IMODE(info.st_mode))
        for attribute, value in attributes.items():
            if not attribute.startswith(FORBIDDEN_XATTRS):
                os.setxattr(fd, attribute, value)
        if opaque:
            os.setxattr(fd, mount.overlay_attribute("opaque"), b"y")
    finally:
        os.close(fd)
    return True


def _opaque(parent: int, name: str) -> bool:
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        return pack.is_opaque(fd)
    finally:
        os.close(fd)


def export_tar(store: ImageStore, state: State, out: IO[bytes]) -> None:
    """The stage's files as one tar (`--output type=tar`)."""
    with writable.root_of(store.layers, state.layers) as rootfd:
        pack.pack_tree(rootfd, "", out)


def export_directory(store: ImageStore, state: State, directory: int) -> None:
    """The stage's files into a directory, given by a descriptor (`--output type=local`)."""
    with writable.root_of(store.layers, state.layers) as rootfd:
        tree = Tree(rootfd, name="the result")
        path, info = tree.resolve("/")
        copy_tree(tree, path, info, directory, "/", Manner(owner=None))
