"""What a person should know of this engine: what is damaged, what can't be written. For `info`, `doctor` and events."""

from __future__ import annotations

import logging

from sampan.engine.containers import Containers
from sampan.engine.events import Events
from sampan.engine.records import Records
from sampan.images.store import ImageStore
from sampan.network.networks import Networks
from sampan.volumes.local import LocalVolumes

_log = logging.getLogger(__name__)


class Trouble:
    """Gathers it from where it is known."""

    def __init__(
        self, records: Records, containers: Containers, networks: Networks, images: ImageStore, volumes: LocalVolumes
    ) -> None:
        self._records, self._containers, self._networks = records, containers, networks
        self._images, self._volumes = images, volumes

    def found(self) -> list[str]:
        """One line on each thing, with the way out of it. Blocks."""
        lines = list(self._records.notes)
        told = " ".join(lines)
        lines += [
            f"{path} is a damaged database of an earlier start: remove it when you do not need it any more"
            for path in self._records.damaged_files()
            if path not in told
        ]
        if self._records.owing:
            lines.append(f"{self._records.owing} changes are not on disk yet: it is full, read-only or failing")
        lines += [
            f"container {container.name} ({container.id[:12]}) is broken: {container.broken}; "
            f"copy what you need, then sampan rm -f {container.id[:12]}"
            for container in list(self._containers.values())
            if container.broken
        ]
        lines += [
            f"{one.kind} {one.name} is broken: {one.why}; it is kept"
            + (f" until sampan network rm {one.row.key[:12]}" if one.kind == "network" else "")
            for one in self._networks.broken
        ]
        lines += self._images.index.trouble
        lines += [
            f"image {image.name} is broken: {image.broken}; or remove it: sampan rmi -f {image.id[7:19]}"
            for image in self._images.index.all()
            if image.broken
        ]
        lines += [
            f"volume {volume.name} is broken: {volume.broken}; its data is in {volume.path}"
            for volume in self._volumes.all()
            if volume.broken
        ]
        return lines

    def announce(self, events: Events, data_root: str) -> None:
        """At the start: on stderr, and as an event each."""
        for line in self.found():
            _log.warning(line)
            events.publish("daemon", "damaged", data_root, {"message": line})
