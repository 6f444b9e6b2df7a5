"""How a container's first process gets into its namespaces: which are made and which are there, in what order, and by whom."""

from __future__ import annotations

import os
import socket

from sampan.linux import descriptors
from sampan.linux import namespaces as ns
from sampan.record import record
from sampan.runtime import channel, child
from sampan.runtime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.oci.runtime_spec import Spec


@record
class Plan:
    """How a container's first process gets into its namespaces: our child is `cloned` into some new ones, enters `joins`, pairs
    of kind and descriptor, and makes others: `unshared` for itself, or `staged` for a second process, which takes its place.

    `crossing`: how it gets into the pid namespace that it is to share.
    """

    joins: list[tuple[str, int]]
    cloned: int
    unshared: int
    staged: int
    crossing: child.Crossing | None

    @property
    def user_joined(self) -> bool:
        """Whether it enters a user namespace that is there."""
        return any(kind == "user" for kind, _ in self.joins)

    @property
    def user_made(self) -> bool:
        """Whether there is a new user namespace, of which nobody has written the maps."""
        return bool((self.cloned | self.unshared) & ns.CLONE_NEWUSER)

    @property
    def waits_inside(self) -> bool:
        """Whether our child, who is to make the container's process, waits in the user namespace until it is root there."""
        return self.crossing is not None and (self.user_joined or bool(self.unshared & ns.CLONE_NEWUSER))

    @property
    def descriptors(self) -> list[int]:
        """What is to be closed when there is a child, which has copies."""
        kept = [self.crossing.namespace] if self.crossing is not None and not self.crossing.entered else []
        return [*(fd for _, fd in self.joins), *kept]


def plan(spec: Spec) -> Plan:
    """For a specification; the caller closes its descriptors. Raises RuntimeFailure, OSError, with nothing left open."""
    flags, joins = flags_and_joins(spec)
    # A user namespace that is joined has to own the new ones, and a new time namespace takes in only
    # children: both need a process between us and the container's.
    user_joined = any(kind == "user" for kind, _ in joins)
    staged = flags if user_joined else flags & (ns.CLONE_NEWTIME | ns.CLONE_NEWPID) if flags & ns.CLONE_NEWTIME else 0
    try:
        crossing = _crossing(flags, joins)
    except BaseException:
        descriptors.close([fd for _, fd in joins])
        raise
    unshared = 0
    if crossing is not None:
        # Our child stays where nobody of that namespace sees it, and makes the container's process at last.
        unshared, staged = (flags if crossing.entered else staged), 0
        if not crossing.entered:
            joins = [(kind, fd) for kind, fd in joins if kind != "pid"]
    return Plan(joins, flags & ~staged & ~unshared, unshared, staged, crossing)


def _crossing(flags: int, joins: list[tuple[str, int]]) -> child.Crossing | None:
    """Into a pid namespace that is shared: as late as can be, or, where it would have lost the right to by then, by what makes
    its children be born there."""
    namespace = next((fd for kind, fd in joins if kind == "pid"), None)
    if namespace is None:
        return None
    user = next((os.fstat(fd) for kind, fd in joins if kind == "user"), None)
    foreign = user is not None and ns.owner(namespace) != (user.st_dev, user.st_ino)
    return child.Crossing(namespace, bool(flags & ns.CLONE_NEWUSER) or foreign)


def flags_and_joins(spec: Spec) -> tuple[int, list[tuple[str, int]]]:
    """Clone flags of the new namespaces, and descriptors of those to join (the caller closes them). As plan()."""
    flags, joins = 0, []
    try:
        for entry in spec["linux"].get("namespaces") or []:
            kind = entry["type"]
            if entry.get("path"):
                fd = _open(kind, entry["path"])
                joins += [(kind, fd)] if fd >= 0 else []
            elif kind != "cgroup":  # which is made by the child itself, when it is in its cgroup
                flags |= ns.KINDS[kind][0]
    except BaseException:
        descriptors.close([fd for _, fd in joins])
        raise
    return flags, joins


def _open(kind: str, path: str) -> int:
    """A namespace that is to be joined; -1 for our own: joining such a user namespace fails, and any other is needless."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise RuntimeFailure(f"{kind} namespace {path}: {error.strerror}") from error
    if not ns.is_kind(fd, kind):
        os.close(fd)
        raise RuntimeFailure(f"{path} is not a {kind} namespace (expected /proc/PID/ns/{ns.KINDS[kind][1]})")
    if ns.same_namespace(fd, kind):
        os.close(fd)
        return -1
    return fd


def make(spec: Spec, plan: Plan, parent: socket.socket) -> None:
    """What our child does when it is in those that it joins. Returns in the one that becomes the container, or makes it."""
    if plan.unshared:
        _unshare(spec, plan.unshared)
    if plan.waits_inside:
        channel.send(parent, kind="prepared")
        channel.wait_for_go(parent)
        child.become_root_inside()
    if plan.staged:
        _continue_in_second(spec, plan.staged, parent)


def _unshare(spec: Spec, flags: int) -> None:
    offsets = ns.open_time_offsets() if flags & ns.CLONE_NEWTIME else -1
    ns.unshare(flags)
    if offsets >= 0:
        ns.set_time_offsets(offsets, spec["linux"].get("timeOffsets") or {})


def _continue_in_second(spec: Spec, flags: int, parent: socket.socket) -> None:
    """Makes namespaces for our children, makes one of these, a sibling of ours, and ends this process.

    Returns in the second only.
    """
    _unshare(spec, flags)
    pid, descriptor = ns.clone(0, sibling=True)
    if pid:
        channel.send(parent, [descriptor], kind="moved")
        os._exit(0)
    channel.wait_for_go(parent)
