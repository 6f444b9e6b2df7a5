"""Making a container's first process, and further ones inside it, by cloning this very process.

The parent is single-threaded (the keeper or ``sampan-runtime``). What the child does is in `child`,
what it tells its parent in `channel`.
"""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable

from sampan.linux import namespaces as ns
from sampan.linux import pidfd
from sampan.linux.cgroup import Cgroup
from sampan.record import field, record
from sampan.runtime import channel, child, idmap, sources
from sampan.runtime import stdio as streams
from sampan.runtime.channel import Stdio
from sampan.runtime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_Body = Callable[[socket.socket], None]


@record
class Child:
    """A process being set up: its pid and pidfd, the socket on which it reports, and descriptors to
    close when it has ended."""

    pid: int
    pidfd: int
    channel: socket.socket
    held: list[int] = field(default_factory=list)

    def go(self) -> None:
        """Lets the child continue. Raises OSError when it is gone, after reaping it."""
        try:
            self.channel.send(b"g")
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Gives up a child that has not been set up: it ends when its channel closes."""
        self.channel.close()
        os.waitpid(self.pid, 0)
        for fd in (self.pidfd, *self.held):
            os.close(fd)


def start(request: dict[str, Any], stdio: Stdio | None) -> Child:
    """Clones a container's init process. Raises OSError or RuntimeFailure before there is one.

    `request`: "spec" (runtime specification), "cgroup" (path below the roots, or None for our own),
    "overlay" or None, "where" (an empty directory to mount on), "seccomp" (BPF in base64); from the
    OCI command line also "gate", "hooks", "state", "preserve_fds". `stdio` is None for a tty.
    """
    spec = request["spec"]
    group = create_group(request)
    flags, joins = _namespaces(spec)
    # A user namespace that is joined has to own the new ones, and a new time namespace takes in only
    # children: both need a process between us and the container's.
    user_joined = any(kind == "user" for kind, _ in joins)
    staged = flags if user_joined else flags & (ns.CLONE_NEWTIME | ns.CLONE_NEWPID) if flags & ns.CLONE_NEWTIME else 0
    request["trees"] = trees = sources.open_all(request)

    def body(parent: socket.socket) -> None:
        child.enter(group, joins, spec["process"])
        if staged:
            _continue_in_second(parent, lambda: _unshare(spec, staged))
        child.become_container(request, stdio, parent)

    try:
        made = clone_child(flags & ~staged, joins, body)
    finally:
        for fd in [*(fd for _, fd in joins), *trees]:
            os.close(fd)
    try:
        if flags & ns.CLONE_NEWUSER:
            idmap.write(made.pid, spec)
            streams.bring(stdio, made.pid)
    except BaseException:
        made.abandon()
        raise
    made.go()
    if staged:
        _follow_second(made, stdio if user_joined else None)
    return made


def start_entry(request: dict[str, Any], stdio: Stdio | None, fds: list[int]) -> Child:
    """Clones a process that stays in this interpreter: request["entry"] ("module:function") is its whole life.

    For what stands for a container whose processes are elsewhere. The function gets the request, the streams,
    the channel and `fds`; namespaces and cgroup are as in start(). Raises OSError, RuntimeFailure.
    """
    spec = request["spec"]
    for entry in spec["linux"]["namespaces"]:
        if entry.get("path", "").startswith("@"):
            entry["path"] = f"/proc/self/fd/{fds[int(entry['path'][1:])]}"
    group = create_group(request)
    flags, joins = _namespaces(spec)
    module, _, name = request["entry"].partition(":")

    def body(parent: socket.socket) -> None:
        child.enter(group, joins, {})
        getattr(__import__(module, fromlist=[name]), name)(request, stdio, parent, fds)

    try:
        made = clone_child(flags, joins, body)
    finally:
        for _, fd in joins:
            os.close(fd)
    made.go()
    return made


def group_of(request: dict[str, Any]) -> Cgroup | None:
    """The container's cgroup, or None when it stays in ours."""
    return Cgroup(request["cgroup"]) if request.get("cgroup") else None


def create_group(request: dict[str, Any]) -> Cgroup | None:
    """Makes the container's cgroup with its limits; warnings go into the request. Raises OSError."""
    group = group_of(request)
    if group is not None:
        group.create(request["spec"]["linux"].get("resources") or {})
        request["warnings"] = list(group.warnings)
    return group


def _namespaces(spec: dict[str, Any]) -> tuple[int, list[tuple[str, int]]]:
    """Clone flags of the new namespaces, and descriptors of those to join (the caller closes them)."""
    flags, joins = 0, []
    for entry in spec["linux"].get("namespaces") or []:
        flag, file = ns.KINDS[entry["type"]]
        if not entry.get("path"):
            # The cgroup namespace is made by the child itself, when it is in its cgroup.
            flags |= 0 if entry["type"] == "cgroup" else flag
            continue
        try:
            fd = os.open(entry["path"], os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise RuntimeFailure(f"{entry['type']} namespace {entry['path']}: {error.strerror}") from error
        joins.append((entry["type"], fd))
        if not ns.is_kind(fd, entry["type"]):
            for _, other in joins:
                os.close(other)
            raise RuntimeFailure(f"{entry['path']} is not a {entry['type']} namespace (expected /proc/PID/ns/{file})")
    return flags, [(kind, fd) for kind, fd in joins if not _close_if_own(fd, kind)]


def _close_if_own(fd: int, kind: str) -> bool:
    """Joining the user namespace one is in fails, and joining any other such is needless."""
    if not ns.same_namespace(fd, kind):
        return False
    os.close(fd)
    return True


def join(request: dict[str, Any], stdio: Stdio | None) -> Child:
    """Clones a further process inside the container whose init is `request["pid"]`.

    `request`: "process", "cgroup", "seccomp" as in start(); "chroot" where its root is not its namespace's. Raises ProcessLookupError when the
    container is gone.
    """
    try:
        opened = ns.open_namespaces(request["pid"])
        if not ns.same_namespace(opened["user"], "user"):
            streams.bring(stdio, request["pid"])
    except FileNotFoundError:
        raise ProcessLookupError(f"process {request['pid']} is gone") from None
    joins = [(kind, fd) for kind, fd in opened.items() if not ns.same_namespace(fd, kind)]
    group = group_of(request)

    # Only with privilege over our own pid namespace can we go there and come back.
    staged = next((fd for kind, fd in joins if kind == "pid" and not ns.initial_user_namespace()), -1)

    def body(parent: socket.socket) -> None:
        if staged >= 0:
            _continue_in_second(parent, lambda: ns.setns(staged, ns.CLONE_NEWPID))
        child.enter(group, joins, request["process"])
        child.become_joined(request, stdio, parent)

    try:
        made = clone_child(0, [] if staged >= 0 else joins, body)
    finally:
        for fd in opened.values():
            os.close(fd)
    made.go()
    if staged >= 0:
        _follow_second(made)
    return made


def clone_child(flags: int, joins: list[tuple[str, int]], body: _Body) -> Child:
    """Clones this process; the child runs `body(parent)` once its parent has said go()."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid_namespace = next((fd for kind, fd in joins if kind == "pid"), None)
    own = -1
    if pid_namespace is not None:
        # Only children move (pid_namespaces(7)); we take our own back right after.
        own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        ns.setns(pid_namespace, ns.CLONE_NEWPID)
    try:
        pid, descriptor = ns.clone(flags)
        if pid == 0:
            ours.close()
            _run_child(theirs, body)
    finally:
        if own >= 0:
            ns.setns(own, ns.CLONE_NEWPID)
            os.close(own)
    theirs.close()
    return Child(pid, descriptor, ours)


def _run_child(parent: socket.socket, body: _Body) -> None:
    """The child's life up to execve. Never returns."""
    try:
        gc.disable()
        channel.wait_for_go(parent)
        body(parent)
    except BaseException as error:
        channel.send_failure(parent, error)
    finally:
        os._exit(1)


def _unshare(spec: dict[str, Any], flags: int) -> None:
    offsets = ns.open_time_offsets() if flags & ns.CLONE_NEWTIME else -1
    ns.unshare(flags)
    if offsets >= 0:
        ns.set_time_offsets(offsets, spec["linux"].get("timeOffsets") or {})


def _continue_in_second(parent: socket.socket, move: Callable[[], None]) -> None:
    """Moves what becomes of our children by `move`, makes one, a sibling of ours, and ends this process.

    Returns in the second only.
    """
    move()
    pid, descriptor = ns.clone(0, sibling=True)
    if pid:
        channel.send(parent, [descriptor], kind="moved")
        os._exit(0)
    channel.wait_for_go(parent)


def _follow_second(made: Child, stdio: Stdio | None = None) -> None:
    """Waits until the second process is there. `stdio`: to be brought to the user namespace that it is in."""
    report = channel.receive(made.channel)
    os.waitpid(made.pid, 0)
    os.close(made.pidfd)
    if report.kind != "moved":
        made.channel.close()
        raise RuntimeFailure(report.text or "the container's process ended before it was set up", report.failure)
    made.pidfd = report.fds[0]
    made.pid = pidfd.pid_of(made.pidfd)
    streams.bring(stdio, made.pid)
    made.go()
