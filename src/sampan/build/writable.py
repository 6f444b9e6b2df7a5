"""A step that changes files: the layers so far under a new one, which becomes a layer when the step has succeeded."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

from sampan.build.model import LayerRef, State
from sampan.images.layers import Layers
from sampan.linux import filetree, mount


@contextlib.contextmanager
def root_of(store: Layers, layers: list[LayerRef]) -> Iterator[int]:
    """The files of a state, to read."""
    fd = mount.overlay([*lower(layers), store.empty_directory(0), store.empty_directory(1)], None, None)
    try:
        yield fd
    finally:
        os.close(fd)


def lower(layers: list[LayerRef]) -> list[str]:
    """The directories of layers as overlay wants them, the top first."""
    return [ref.directory for ref in reversed(layers)]


def change(store: Layers, state: State, make: Callable[[int], None]) -> int:
    """Runs `make` with the root to change. Returns the number of the new layer, or 0 when nothing has changed."""
    directory = store.new_stage()
    try:
        os.mkdir(f"{directory}/work", 0o700)
        below = lower(state.layers) or [store.mountpoints_directory()]
        rootfd = mount.overlay(below, f"{directory}/fs", f"{directory}/work")
        try:
            make(rootfd)
        finally:
            os.close(rootfd)
        return finish(store, directory)
    except BaseException:
        filetree.remove(directory, ignore_errors=True)
        raise


def finish(store: Layers, directory: str) -> int:
    """Makes a stage with its upper directory a layer; 0 and nothing left when it is empty."""
    filetree.remove(f"{directory}/work", ignore_errors=True)
    if not os.listdir(f"{directory}/fs"):
        filetree.remove(directory)
        return 0
    return store.commit(directory)
