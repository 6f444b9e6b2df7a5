"""What a person should know of this engine: what is damaged, what can't be written. For `info`, `doctor` and events."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sampan.engine.engine import Engine


def found(engine: Engine) -> list[str]:
    """One line on each thing, with the way out of it."""
    lines = list(engine.store.notes)
    told = " ".join(lines)
    for path in engine.store.damaged_files():
        if path not in told:
            lines.append(
                f"{path} is a damaged database of an earlier start: remove it when you do not need it any more"
            )
    if engine.store.owing:
        lines.append(f"{engine.store.owing} changes are not on disk yet: it is full, read-only or failing")
    lines += [
        f"container {container.name} ({container.id[:12]}) is broken: {container.broken}; "
        f"copy what you need, then sampan rm -f {container.id[:12]}"
        for container in engine.containers.values()
        if container.broken
    ]
    lines += [
        f"{one.kind} {one.name} is broken: {one.why}; it is kept"
        + (f" until sampan network rm {one.row.key[:12]}" if one.kind == "network" else "")
        for one in engine.networking.networks.broken
    ]
    lines += engine.images.index.trouble
    lines += [
        f"image {image.name} is broken: {image.broken}; or remove it: sampan rmi -f {image.id[7:19]}"
        for image in engine.images.index.all()
        if image.broken
    ]
    lines += [
        f"volume {volume.name} is broken: {volume.broken}; its data is in {volume.path}"
        for volume in engine.volumes.all()
        if volume.broken
    ]
    return lines


def announce(engine: Engine) -> None:
    """At the start: on stderr, and as an event each."""
    for line in found(engine):
        print(f"sampand: {line}", file=sys.stderr)
        engine.events.publish("daemon", "damaged", engine.data_root, {"message": line})
