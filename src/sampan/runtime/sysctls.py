"""Kernel parameters of a container: of its own namespaces, and never the host's (T45, S013)."""

from __future__ import annotations

import os
import re

from sampan.linux import openat2
from sampan.linux.namespaces import KINDS
from sampan.runtime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.oci.runtime_spec import Spec

# Which namespace has a copy of a parameter: net/core/sysctl_net_core.c and its like, ipc/ipc_sysctl.c, ipc/mq_sysctl.c,
# kernel/utsname_sysctl.c, kernel/ucount.c.
_OWNERS = {
    "network": re.compile(r"net/.+"),
    "ipc": re.compile(r"kernel/(msg(max|mnb|mni|_next_id)|sem(_next_id)?|shm(all|max|mni|_rmid_forced|_next_id))|fs/mqueue/.+"),
    "uts": re.compile(r"kernel/(hostname|domainname)"),
    "user": re.compile(r"user/.+"),
}  # fmt: skip


def path(name: str) -> str:
    """Where it is below /proc/sys, by the rules of sysctl(8): the first separator is the one, the other is part of a name
    ("net.ipv4.conf.eth0/100.rp_filter"). Raises RuntimeFailure."""
    slash, dot = name.find("/"), name.find(".")
    if slash >= 0 and (dot < 0 or slash < dot):
        parts = name.split("/")
    else:
        parts = [part.replace("/", ".") for part in name.split(".")]
    if "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise RuntimeFailure(f"sysctl {name!r} is no name of a kernel parameter")
    return "/".join(parts)


def namespace(name: str) -> str:
    """The kind of namespace that has a parameter of its own. Raises RuntimeFailure."""
    where = path(name)
    kind = next((kind for kind, pattern in _OWNERS.items() if pattern.fullmatch(where)), None)
    if kind is None:
        raise RuntimeFailure(f"sysctl {name} is not allowed: it is of no namespace, but of the whole machine")
    return kind


def check(spec: Spec) -> None:
    """Refuses what is not of a namespace that the container has and we are not in ourselves. Raises RuntimeFailure."""
    for name in spec["linux"].get("sysctl") or {}:
        kind = namespace(name)
        if not _is_own(spec, kind):
            raise RuntimeFailure(f"sysctl {name} is not allowed: the container has the host's {kind} namespace")


def _is_own(spec: Spec, kind: str) -> bool:
    for entry in spec["linux"].get("namespaces") or []:
        if entry["type"] == kind:
            if not entry.get("path"):
                return True
            try:
                joined, ours = os.stat(entry["path"]), os.stat(f"/proc/self/ns/{KINDS[kind][1]}")
            except OSError as error:
                raise RuntimeFailure(f"{kind} namespace {entry['path']}: {error.strerror}") from error
            return (joined.st_dev, joined.st_ino) != (ours.st_dev, ours.st_ino)
    return False


def write(proc: int, sysctls: dict[str, str]) -> None:
    """Writes them through a private procfs mount, which no container can have covered. Raises RuntimeFailure."""
    beneath = openat2.RESOLVE_BENEATH | openat2.RESOLVE_NO_SYMLINKS | openat2.RESOLVE_NO_XDEV
    for name, value in sysctls.items():
        try:
            fd = openat2.openat2(
                proc, f"sys/{path(name)}", os.O_WRONLY, resolve=beneath | openat2.RESOLVE_NO_MAGICLINKS
            )
        except OSError as error:
            raise RuntimeFailure(f"sysctl {name}: {os.strerror(error.errno or 0)}") from error
        try:
            os.write(fd, value.encode())
        except OSError as error:
            raise RuntimeFailure(f"sysctl {name}={value}: {os.strerror(error.errno or 0)}") from error
        finally:
            os.close(fd)
