"""User namespaces: the id maps of a container."""

from __future__ import annotations

import os
import signal

from sampan.linux import namespaces as ns
from sampan.runtime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.oci.runtime_spec import IdMapping, Spec

_Rows = list[tuple[int, int, int]]


def rows(mappings: list[IdMapping] | None) -> _Rows:
    """(inside, outside, count) rows of a `uidMappings` or `gidMappings`."""
    return [(row["containerID"], row["hostID"], row["size"]) for row in mappings or []]


def write(pid: int, spec: Spec) -> None:
    """Writes the maps of the child's new user namespace. Raises RuntimeFailure, OSError.

    Without privilege only one's own id can be mapped directly; more takes the set-uid helpers of
    shadow-utils, which check /etc/subuid and /etc/subgid.
    """
    uids, gids = rows(spec["linux"].get("uidMappings")), rows(spec["linux"].get("gidMappings"))
    if not uids or not gids:
        raise RuntimeFailure("a new user namespace needs uidMappings and gidMappings")
    write_rows(pid, uids, gids)


def write_rows(pid: int, uids: _Rows, gids: _Rows) -> None:
    """As write(), for rows."""
    if os.geteuid() == 0:
        ns.write_id_map(pid, "gid", gids)
        ns.write_id_map(pid, "uid", uids)
        return
    if [row[1:] for row in uids] == [(os.geteuid(), 1)] and [row[1:] for row in gids] == [(os.getegid(), 1)]:
        ns.deny_setgroups(pid)
        ns.write_id_map(pid, "gid", gids)
        ns.write_id_map(pid, "uid", uids)
        return
    import subprocess

    for helper, table in (("newuidmap", uids), ("newgidmap", gids)):
        arguments = [str(number) for row in table for number in row]
        try:
            done = subprocess.run([helper, str(pid), *arguments], capture_output=True, check=False)
        except FileNotFoundError:
            raise RuntimeFailure(f"{helper} is not installed: install the package uidmap") from None
        if done.returncode:
            raise RuntimeFailure(f"{helper}: {done.stderr.decode(errors='replace').strip()}")


def root_of(pid: int) -> tuple[int, int] | None:
    """User and group that root of the user namespace of `pid` is out here; None where nobody is root, or it is gone."""
    try:
        found = [
            outside for kind in ("uid", "gid") for inside, outside, _ in _read(f"/proc/{pid}/{kind}_map") if inside == 0
        ]
    except FileNotFoundError:
        return None
    return (found[0], found[1]) if len(found) == 2 else None


def maps_group(gid: int) -> bool:
    """Whether a group id means somebody in our own user namespace."""
    return any(inside <= gid < inside + count for inside, _, count in _read("/proc/self/gid_map"))


def _read(path: str) -> _Rows:
    with open(path, encoding="ascii") as file:
        found = [tuple(map(int, line.split())) for line in file]
    return [(row[0], row[1], row[2]) for row in found]


def namespace_of(uids: _Rows, gids: _Rows) -> int:
    """A descriptor of a user namespace with these maps and no process in it."""
    pid, pidfd = ns.clone(ns.CLONE_NEWUSER)
    if pid == 0:
        while True:
            signal.pause()
    try:
        write_rows(pid, uids, gids)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(pidfd)
