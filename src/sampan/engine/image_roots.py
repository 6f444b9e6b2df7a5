"""The layers of a container's root: its image's, which all containers of it share, or a build step's."""

from __future__ import annotations

import asyncio
import os

from sampan.engine.container import Container
from sampan.engine.containers import Containers
from sampan.images.image import Image
from sampan.images.store import ImageStore
from sampan.linux import mount
from sampan.runtime.requests import Overlay


class ImageRoots:
    """Layers of images, as lower directories of overlays."""

    def __init__(self, images: ImageStore, containers: Containers) -> None:
        self._images, self._containers = images, containers
        self._mountpoints = images.layers.mountpoints_directory()

    async def ready(self, container: Container) -> None:
        """Its image's layers are there and whole; what has to be unpacked again for that, a thread does. Raises ImageError."""
        if container.step is None and not self._images.prepared(container.image):
            await asyncio.to_thread(self._images.lower_directories, self._images.index.get(container.image))

    def overlay(self, container: Container) -> Overlay:
        """The layers of a container's root, as the keeper mounts them."""
        if container.step is not None:
            return container.step.overlay
        directory = self._containers.directory(container)
        return {
            "lower": [*self._images.lower_directories(self._images.index.get(container.image)), self._mountpoints],
            "upper": f"{directory}/upper",
            "work": f"{directory}/work",
        }

    def open(self, image: Image) -> int:
        """A descriptor of an image's file system, read-only and mounted nowhere; the caller closes it. Raises ImageError, OSError."""
        directories = self._images.lower_directories(image)
        if len(directories) == 1:
            return os.open(directories[0], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return mount.overlay(directories, None, None)
