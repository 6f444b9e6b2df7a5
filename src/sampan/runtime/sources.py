"""What a container mounts from the host, opened by the parent before there is a child.

In the parent's mount namespace, because a prefork has an older copy of it, because a mount that is to
propagate has to come from the original, and because a process in a user namespace could not reach
sources below directories closed to it. The child gets detached mounts, by index into "trees".

What the engine has looked at already it names by "source_fd", a descriptor of its own, and not once more by a path: "sources"
of the request is a descriptor of its /proc/self/fd, which is that process's and no later one's.
"""

from __future__ import annotations

import os

from sampan.linux import mount as lm
from sampan.runtime import idmap
from sampan.runtime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.oci.runtime_spec import Mount, Spec
    from sampan.runtime.requests import Launch, Overlay

_OWN_CONTENT = ("tmpfs", "shm", "proc", "sysfs", "mqueue", "devpts")  # file systems that show nothing of another


def is_bind(entry: Mount) -> bool:
    """Whether an entry of `mounts` shows a path of the host. Raises RuntimeFailure for one that is to be two things."""
    options = entry.get("options") or []
    if "bind" not in options and "rbind" not in options:
        return bool(entry.get("type") == "bind")
    if entry.get("type") in _OWN_CONTENT:  # its "source" is a word, and would be a path from wherever we are
        raise RuntimeFailure(
            f"mount on {entry['destination']}: a bind mount has the type bind, and not {entry['type']}"
        )
    return True


def open_all(request: Launch) -> list[int]:
    """Opens the root and every bind source; puts indices into the request. Raises RuntimeFailure.

    Returns the descriptors, which the caller closes; one is a copy of "mounted", the request's overlay when it was
    made ahead. Without the right to mount here (an ordinary
    user) there are none, and the child, root in its user namespace, opens them itself.
    """
    if os.geteuid() != 0:
        return []
    trees: list[int] = []
    userns = any(entry["type"] == "user" for entry in request["spec"]["linux"].get("namespaces") or [])
    try:
        overlay = request.get("overlay")
        if overlay is None:
            trees.append(lm.open_tree(lm.AT_FDCWD, request["where"], recursive=True))
            request["root"] = 0
        elif not userns:
            mounted = request.get("mounted", -1)
            trees.append(os.dup(mounted) if mounted >= 0 else open_overlay(overlay))
            request["root"] = 0
        for entry in request["spec"].get("mounts") or []:
            if is_bind(entry):
                trees.append(_open(entry, request["spec"], request.get("sources", -1)))
                entry["tree"] = len(trees) - 1
    except BaseException as error:
        for fd in trees:
            os.close(fd)
        if isinstance(error, OSError):
            raise RuntimeFailure(f"mount: {error}") from error
        raise
    return trees


def open_overlay(overlay: Overlay) -> int:
    """The detached mount of a container's root. Raises OSError."""
    return lm.overlay(overlay["lower"], overlay.get("upper"), overlay.get("work"))


def _open(entry: Mount, spec: Spec, table: int) -> int:
    options = entry.get("options") or []
    where, name = (table, str(int(entry["source_fd"]))) if "source_fd" in entry else (lm.AT_FDCWD, entry["source"])
    try:
        tree = lm.open_tree(where, name, recursive="rbind" in options)
    except OSError as error:
        raise RuntimeFailure(f"mount {entry['source']} on {entry['destination']}: {error}") from error
    if entry.get("uidMappings") or "idmap" in options or "ridmap" in options:
        try:
            _map_owners(tree, entry, spec)
        except BaseException:
            os.close(tree)
            raise
    return tree


def _map_owners(tree: int, entry: Mount, spec: Spec) -> None:
    uids = idmap.rows(entry.get("uidMappings") or spec["linux"].get("uidMappings"))
    gids = idmap.rows(entry.get("gidMappings") or spec["linux"].get("gidMappings"))
    if not uids or not gids:
        raise RuntimeFailure(f"mount {entry['destination']}: idmap without uidMappings and gidMappings")
    fd = idmap.namespace_of(uids, gids)
    try:
        recursive = "ridmap" in (entry.get("options") or [])
        lm.mount_setattr(tree, lm.MOUNT_ATTR_IDMAP, userns_fd=fd, recursive=recursive)
    except OSError as error:
        raise RuntimeFailure(f"mount {entry['destination']}: its file system can't map owners: {error}") from error
    finally:
        os.close(fd)
