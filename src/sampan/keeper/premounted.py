"""The root of the container that was made last, mounted before it is started."""

from __future__ import annotations

import os
import time

from sampan.runtime import sources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.runtime.requests import Overlay

_PATIENCE = 5.0


class PremountedRoot:
    """At most one detached overlay. A `create` is mostly followed by the `start` of the same container,
    and mounting its root takes a tenth of that start; one that nobody asks for is dropped soon."""

    def __init__(self) -> None:
        self._id = ""
        self._overlay: Overlay = {}
        self._fd = -1
        self._since = 0.0

    def mount(self, identifier: str, overlay: Overlay) -> None:
        """Mounts it; a failure will be met, and reported, again by the start."""
        self.close()
        try:
            self._fd = sources.open_overlay(overlay)
        except OSError:
            return
        self._id, self._overlay, self._since = identifier, overlay, time.monotonic()

    def take(self, identifier: str, overlay: Overlay | None) -> int:
        """The descriptor, now the caller's, if it is this container's and of these layers; or -1."""
        if self._fd < 0 or identifier != self._id or overlay != self._overlay:
            return -1
        fd, self._fd = self._fd, -1
        return fd

    def drop(self, identifier: str) -> None:
        """Drops the root of this container."""
        if identifier == self._id:
            self.close()

    def expire(self) -> None:
        """Drops a root that has waited for too long."""
        if self._fd >= 0 and time.monotonic() - self._since > _PATIENCE:
            self.close()

    def close(self) -> None:
        """Drops the root."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
