"""One owner of a container's root while it does not run: the overlay of a container is never mounted twice for writing.

A second mount of the same upper and work directories takes the first one's work directory away, and whatever has
to be copied up in the first fails (ovl_workdir_create in fs/overlayfs/super.c). So those who write into a root
share one mount of it, and a start takes that one along.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

from sampan.engine.container import Container
from sampan.engine.image_roots import ImageRoots
from sampan.engine.keeper_link import KeeperLink
from sampan.keeper.client import KeeperGone
from sampan.keeper.protocol import MountRoot, UnmountRoot
from sampan.linux import mount, openat2
from sampan.runtime.errors import RuntimeFailure

_MOST_KNOWN = 1000


@dataclass(slots=True)
class _Root:
    """A detached mount and how many have it in hand."""

    fd: int
    users: int = 0


class Roots:
    """The roots that are mounted outside of any container, by the container's id."""

    def __init__(
        self, image_roots: ImageRoots, keeper: KeeperLink, in_thread: Callable[[Coroutine[Any, Any, Any]], Any]
    ) -> None:
        """`in_thread` does a coroutine for a thread (Machines.in_thread)."""
        self._image_roots, self._keeper, self._in_thread = image_roots, keeper, in_thread
        self._open: dict[str, _Root] = {}
        self._there: set[tuple[str, str]] = set()  # images and directories that they have

    async def make_directory(self, container: Container, path: str) -> None:
        """Makes sure that the root of a container that is being made has a directory. Raises OSError, ImageError."""
        known = (container.image, path)
        if known in self._there:
            return
        await self._image_roots.ready(container)
        root = await self._take(container)
        try:
            if not await asyncio.to_thread(_make_directory, root.fd, path):
                if len(self._there) >= _MOST_KNOWN:
                    self._there.clear()
                self._there.add(known)
        finally:
            await self._give_back(container, root)

    async def mount_ahead(self, container: Container) -> None:
        """Has the keeper mount the root of a container that will probably be started soon."""
        if container.running or container.removed or container.id in self._open:
            return
        with contextlib.suppress(KeeperGone, RuntimeFailure, OSError):  # then the start does it
            await self._keeper.call(MountRoot(container.id, self._image_roots.overlay(container)))

    @contextlib.contextmanager
    def writable(self, container: Container) -> Iterator[int]:
        """A descriptor of the root to write into, running or not. For threads. Raises OSError."""
        root = self._in_thread(self._take(container))
        try:
            yield root.fd
        finally:
            self._in_thread(self._give_back(container, root))

    async def _take(self, container: Container) -> _Root:
        async with container.lock:  # nobody is starting it now
            if container.running:
                with contextlib.suppress(ProcessLookupError):  # it has just ended, and that is not told yet
                    return _Root(container.open_process("root", os.O_RDONLY | os.O_DIRECTORY), 1)
            root = self._open.get(container.id)
            if root is None:
                root = self._open[container.id] = _Root(-1)
                try:
                    root.fd = await self._mount(container)
                except BaseException:
                    del self._open[container.id]
                    raise
            root.users += 1
            return root

    async def _mount(self, container: Container) -> int:
        with contextlib.suppress(KeeperGone):  # then there is nothing mounted ahead either
            await self._keeper.call(UnmountRoot(container.id))
        overlay = self._image_roots.overlay(container)
        return await asyncio.to_thread(mount.overlay, overlay["lower"], overlay["upper"], overlay["work"])

    async def _give_back(self, container: Container, root: _Root) -> None:
        root.users -= 1
        if not root.users:
            if self._open.get(container.id) is root:
                del self._open[container.id]
            os.close(root.fd)

    def hand_over(self, container: Container) -> int:
        """For a start, inside the container's lock: a copy of the descriptor that somebody is writing into, or -1.

        The mount is the container's from now on; its writers go on in it.
        """
        root = self._open.pop(container.id, None)
        return -1 if root is None else os.dup(root.fd)


def _make_directory(rootfd: int, path: str) -> bool:
    """Whether it had to be made. Raises OSError."""
    try:
        os.close(openat2.open_in_root(rootfd, path, os.O_PATH | os.O_DIRECTORY))
        return False
    except FileNotFoundError:
        os.close(openat2.mkdir_in_root(rootfd, path))
        return True
