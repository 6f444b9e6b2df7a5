"""/proc, /dev and /sys of a container with all that belongs on them, made before there is a root."""

from __future__ import annotations

import os

from sampan.linux import mount as lm
from sampan.record import record
from sampan.runtime import mounts, rootfs, sources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.oci.runtime_spec import Linux, Mount, Spec
    from sampan.runtime.requests import Outline

_TOPS = ("/proc", "/dev", "/sys")


def _belongs(entry: Mount) -> bool:
    return any(entry["destination"] == top or entry["destination"].startswith(f"{top}/") for top in _TOPS)


@record
class PreforkMounts:
    """Three mounts with what is mounted on them, waiting on a private directory."""

    fd: int

    def move(self, rootfd: int, spec: Spec, trees: list[int]) -> None:
        """Puts the three in place, then mounts the rest of the specification's `mounts`."""
        for top in _TOPS:
            target = mounts.destination_fd(rootfd, top, directory=True, strict=top != "/dev")
            tree = lm.open_tree(self.fd, top[1:], clone=False)
            lm.move_mount(tree, target, subject=top)
            os.close(tree)
            os.close(target)
        os.close(self.fd)
        for entry in spec.get("mounts") or []:
            if not _belongs(entry) and (mounted := mounts.attach(rootfd, entry, False, trees)) >= 0:
                os.close(mounted)


def fits(spec: Spec, wanted: Outline) -> bool:
    """Whether what was made for `wanted` (as outline() gives it) is what this container gets."""
    return outline(spec) == wanted


def outline(spec: Spec) -> Outline:
    """The parts of a specification that they are made from."""
    linux = spec["linux"]
    return {
        "mounts": [entry for entry in spec.get("mounts") or [] if _belongs(entry)],
        "maskedPaths": linux.get("maskedPaths") or [],
        "readonlyPaths": linux.get("readonlyPaths") or [],
        "devices": linux.get("devices") or [],
        "propagation": linux.get("rootfsPropagation") or "",
    }


def possible(wanted: Outline) -> bool:
    """Whether they can be made ahead: no sources of the container's own, all three tops present."""
    tops = {entry["destination"] for entry in wanted["mounts"]}
    own = any(sources.is_bind(entry) or "tmpcopyup" in (entry.get("options") or []) for entry in wanted["mounts"])
    return tops.issuperset(_TOPS) and not own and not wanted["propagation"]


def make(where: str, wanted: Outline, null: int) -> PreforkMounts:
    """Builds it on the directory `where`, in the mount namespace of the container to be. Raises OSError, RuntimeFailure."""
    lm.mount(None, "/", None, lm.MS_SLAVE | lm.MS_REC)
    top = lm.new_filesystem("tmpfs", [("mode", "755"), ("source", "tmpfs")])
    lm.move_mount(top, lm.AT_FDCWD, where, subject=where)
    linux: Linux = {
        "maskedPaths": wanted["maskedPaths"],
        "readonlyPaths": wanted["readonlyPaths"],
        "devices": wanted["devices"],
    }
    spec: Spec = {"mounts": wanted["mounts"], "linux": linux}
    rootfs.protect(top, spec, null, rootfs.populate(top, spec, False, []))
    return PreforkMounts(top)
