"""A prefork: a process cloned ahead, in new namespaces, waiting to become the next ordinary container.

Cloning, the page faults after it, the cgroups, and the file systems that every container has are most
of the time of a start. A prefork has them behind it. It serves the containers that ask for exactly its
namespaces; one that also has the expected mounts gets them ready made. Every other start clones as usual.
"""

from __future__ import annotations

import itertools
import os
import socket

from sampan.linux import descriptors, polling
from sampan.linux import namespaces as ns
from sampan.linux.cgroup import Cgroup, hierarchies
from sampan.runtime import channel, child, prefork_memory, prefork_mounts, sources, spawn, sysctls
from sampan.runtime.channel import Stdio
from sampan.runtime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.runtime.requests import Expectation, HandOver, Launch

_KINDS = {"mount", "pid", "ipc", "uts"}
_FLAGS = ns.CLONE_NEWNS | ns.CLONE_NEWPID | ns.CLONE_NEWIPC | ns.CLONE_NEWUTS
_PREFIX = "spare-"  # the name since ever, so that engines of any age clear away what one of another has left
OURS = "ours"  # a sandbox: the network namespace that the caller is in itself
_numbers = itertools.count(1)


def fits(request: Launch, sandbox: str) -> bool:
    """Whether a prefork can become this container. `sandbox`: the prefork's, see Prefork."""
    entries = request["spec"]["linux"].get("namespaces") or []
    new = {entry["type"] for entry in entries if not entry.get("path")} - {"cgroup"}
    joined = {entry["type"] for entry in entries if entry.get("path")}
    if sandbox == OURS:
        return new == _KINDS and not joined
    if sandbox:
        return new == _KINDS and joined == {"network"} and request.get("sandbox") == sandbox
    return new == _KINDS | {"network"} and not joined


def expectation(request: Launch) -> Expectation:
    """What the next container will probably have, taken from the last one."""
    spec = request["spec"]
    rules = (spec["linux"].get("resources") or {}).get("devices") or []
    parent = os.path.dirname(request.get("cgroup") or "")
    return {"outline": prefork_mounts.outline(spec), "devices": rules, "cgroup_parent": parent}


def clean(parent: str) -> None:
    """Removes the cgroups that preforks of a dead keeper have left below `parent`.

    Dead is who no longer holds the lock on it: a process of another pid namespace is not in our /proc.
    """
    for name in Cgroup(parent).children():
        group = Cgroup(f"{parent}/{name}")
        held = group.hold() if name.startswith(_PREFIX) else -1
        if held >= 0:
            try:
                group.remove()
            except OSError:
                pass  # its processes are still ending: the next keeper does it
            finally:
                os.close(held)


class Prefork:
    """One waiting process. `where`: an empty directory for it to mount on, in its own mount namespace.

    With a `sandbox`, a name its caller gives, it is in the network namespace `namespace`; it then
    serves only the container that is meant for that one. Without it has a new one. With a `group` the cgroup
    of that path is made, for the container that asks for the same.
    """

    def __init__(
        self, expected: Expectation, where: str, sandbox: str = "", namespace: int = -1, group: str = ""
    ) -> None:
        self._expected = expected
        self.sandbox = sandbox
        self._group: Cgroup | None = None
        self._has_mounts = False
        if group:
            self._group = Cgroup(group)
        elif expected["cgroup_parent"] and _can_rename():
            self._group = Cgroup(f"{expected['cgroup_parent']}/{_PREFIX}{os.urandom(4).hex()}-{next(_numbers)}")
        self._held = -1  # while it is open, nobody takes the group for a dead keeper's
        if self._group is not None:
            self._group.create({"devices": expected["devices"]})
            self._held = self._group.hold()
        made = self._group
        flags = _FLAGS if sandbox else _FLAGS | ns.CLONE_NEWNET
        fds = [namespace] if namespace >= 0 else []
        self.child, self.owner = prefork_memory.clone(
            "sampan-spare", flags, fds, lambda parent, fds: _wait(parent, expected, where, made, not sandbox, fds)
        )
        self.ready = False

    def poll(self) -> bool:
        """Notes that the process is ready. False when it has ended."""
        if not self.ready and polling.readable(self.child.channel.fileno()):
            report = channel.receive(self.child.channel)
            self._has_mounts = report.text == "premounted"
            self.child.held += report.fds
            self.ready = report.kind == "ready"
            return self.ready
        return True

    def use(self, request: Launch, stdio: Stdio | None) -> spawn.Child:
        """Lets it become the container. As spawn.start(); OSError also when it has ended meanwhile."""
        if not request.get("machine"):
            sysctls.check(request["spec"])
        joined = self._give_group(request)
        premounted = self._has_mounts and joined and prefork_mounts.fits(request["spec"], self._expected["outline"])
        trees = sources.open_all(request)
        what: HandOver = {"launch": request, "joined": joined, "premounted": premounted}
        try:
            channel.hand_over(self.child.channel, what, stdio, trees)
        finally:
            descriptors.close(trees)
        return self.child

    def _give_group(self, request: Launch) -> bool:
        """Renames our cgroup to the container's and sets its limits. False: it has to join another."""
        resources, wanted = request["spec"]["linux"].get("resources") or {}, request.get("cgroup") or ""
        if (
            self._group is None
            or os.path.dirname(wanted) != self._expected["cgroup_parent"]
            or (self._group.path != wanted and Cgroup(wanted).exists())
        ):
            spawn.create_group(request)
            return False
        if self._group.path != wanted:
            self._group.rename(wanted)
        group, self._group = self._group, None
        self._let_go()
        ours = not group.extra_controllers(resources)
        if ours:
            group.apply(resources, devices=(resources.get("devices") or []) != self._expected["devices"])
        else:
            group.create(resources)
        request["warnings"] = list(group.warnings)
        return ours

    def discard(self) -> None:
        """Ends it."""
        self.child.abandon()
        if self.owner is not None:
            self.owner.end()
        if self._group is not None:
            self._group.remove()
        self._let_go()

    def _let_go(self) -> None:
        if self._held >= 0:
            os.close(self._held)
            self._held = -1


def _can_rename() -> bool:
    """Cgroups can be renamed on v1 only (there is no rename operation for v2 in kernel/cgroup/cgroup.c)."""
    mounts = hierarchies()
    return bool(mounts.v1) and mounts.version == "1"


def _wait(
    parent: socket.socket, expected: Expectation, where: str, group: Cgroup | None, network: bool, fds: list[int]
) -> None:
    for fd in fds:
        ns.setns(fd, ns.CLONE_NEWNET)
        os.close(fd)
    base = child.make_base(_KINDS | {"network"} if network else _KINDS, userns=False, ping=True)
    premounted = None
    if group is not None:
        group.join()
        if not hierarchies().v1:
            ns.unshare(ns.CLONE_NEWCGROUP)  # a cgroup2 mount shows what its namespace shows
        if prefork_mounts.possible(expected["outline"]):
            try:
                premounted = prefork_mounts.make(where, expected["outline"], base.null)
            except (OSError, RuntimeFailure):
                pass  # it will fail, and be named, when the container asks for it
    # The keeper holds our mount namespace until it has announced our end: taking some thirty mounts
    # apart would otherwise come first (exit_task_namespaces precedes exit_notify in kernel/exit.c).
    mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    channel.send(parent, [mounts], kind="ready", text="premounted" if premounted else "")
    os.close(mounts)
    what, stdio, trees = channel.take_over(parent)
    request = what["launch"]
    request["trees"] = trees
    base.premounted = premounted if what["premounted"] else None
    child.enter(None if what["joined"] else spawn.group_of(request), [], request["spec"]["process"])
    child.become_container(request, stdio, parent, base)
