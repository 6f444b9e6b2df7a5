"""Making a container's first process, and further ones inside it, by cloning this very process.

The parent is single-threaded (the keeper or ``sampan-runtime``). The child talks back over a
seqpacket socket: a pty master as ancillary data, warnings, one error. The end of the stream means
that execve succeeded.
"""

from __future__ import annotations

import base64
import gc
import json
import os
import socket
from dataclasses import dataclass
from typing import Any

from sampan.linux import namespaces as ns
from sampan.linux import prctl, tty
from sampan.linux.cgroup import Cgroup
from sampan.runtime import process, rootfs
from sampan.runtime.errors import OTHER, RuntimeFailure

_MAX_MESSAGE = 64 << 10


@dataclass(slots=True)
class Child:
    """A process being set up: its pid and pidfd, and the socket on which it reports."""

    pid: int
    pidfd: int
    channel: socket.socket


@dataclass(frozen=True, slots=True)
class Report:
    """A message from a child being set up. `kind` is "tty", "warning", "error" or "started"."""

    kind: str
    text: str = ""
    failure: str = OTHER
    fd: int = -1


def start(request: dict[str, Any], stdio: tuple[int, int, int] | None) -> Child:
    """Clones a container's init process. Raises OSError or RuntimeFailure before there is one.

    `request`: "spec" (runtime specification), "cgroup" (path below the roots), "overlay" or None,
    "where" (an empty directory to mount on), "seccomp" (BPF in base64). `stdio` is None for a tty.
    """
    spec = request["spec"]
    group = Cgroup(request["cgroup"])
    group.create(spec["linux"].get("resources") or {})
    flags, joins = 0, []
    for entry in spec["linux"].get("namespaces") or []:
        flag = ns.KINDS[entry["type"]][0]
        if entry.get("path"):
            fd = os.open(entry["path"], os.O_RDONLY | os.O_CLOEXEC)
            joins.append((entry["type"], fd))
        elif entry["type"] not in ("cgroup", "time"):
            flags |= flag
    try:
        child = clone_child(flags, joins, lambda channel: become_container(request, joins, stdio, channel))
    finally:
        for _, fd in joins:
            os.close(fd)
    if flags & ns.CLONE_NEWUSER:
        rows = [
            [(row["containerID"], row["hostID"], row["size"]) for row in spec["linux"].get(key) or []]
            for key in ("uidMappings", "gidMappings")
        ]
        ns.write_id_maps(child.pid, rows[0], rows[1])
    _release(child)
    for warning in group.warnings:
        request.setdefault("warnings", []).append(warning)
    return child


def join(request: dict[str, Any], stdio: tuple[int, int, int] | None) -> Child:
    """Clones a further process inside the container whose init is `request["pid"]`.

    `request`: "process", "cgroup", "seccomp" as in start(). Raises ProcessLookupError when the
    container is gone.
    """
    try:
        opened = ns.open_namespaces(request["pid"])
    except FileNotFoundError:
        raise ProcessLookupError(f"process {request['pid']} is gone") from None
    joins = [(kind, fd) for kind, fd in opened.items() if not ns.same_namespace(fd, kind)]
    try:
        child = clone_child(0, joins, lambda channel: _joined(request, joins, stdio, channel))
    finally:
        for fd in opened.values():
            os.close(fd)
    _release(child)
    return child


def receive(channel: socket.socket) -> Report:
    """The child's next message; blocks. After "started" or "error" the channel can be closed."""
    data, fds, _, _ = socket.recv_fds(channel, _MAX_MESSAGE, 1, socket.MSG_CMSG_CLOEXEC)
    if not data:
        return Report("started")
    message = json.loads(data)
    return Report(message["kind"], message.get("text", ""), message.get("failure", OTHER), fds[0] if fds else -1)


def clone_child(flags: int, joins: list[tuple[str, int]], body: Any) -> Child:
    """Clones this process; the child runs `body(channel)` once it has received one byte "g"."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid_namespace = next((fd for kind, fd in joins if kind == "pid"), None)
    own = -1
    if pid_namespace is not None:
        # Only children move (pid_namespaces(7)); we take our own back right after.
        own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        ns.setns(pid_namespace, ns.CLONE_NEWPID)
    try:
        pid, pidfd = ns.clone(flags)
        if pid == 0:
            _run_child(ours, theirs, body)
    finally:
        if own >= 0:
            ns.setns(own, ns.CLONE_NEWPID)
            os.close(own)
    theirs.close()
    return Child(pid, pidfd, ours)


def _run_child(ours: socket.socket, theirs: socket.socket, body: Any) -> None:
    """The child's life up to execve. Never returns."""
    try:
        gc.disable()
        ours.close()
        if theirs.recv(1) != b"g":
            os._exit(1)
        body(theirs)
    except RuntimeFailure as failure:
        _report(theirs, kind="error", text=str(failure), failure=failure.kind)
    except BaseException as error:
        _report(theirs, kind="error", text=str(error) or repr(error), failure=OTHER)
    finally:
        os._exit(1)


def _release(child: Child) -> None:
    try:
        child.channel.send(b"g")
    except BaseException:
        child.channel.close()
        os.waitpid(child.pid, 0)
        os.close(child.pidfd)
        raise


def _report(channel: socket.socket, **message: str) -> None:
    text = message.get("text")
    if text is not None:
        message["text"] = text[:8192]
    try:
        channel.send(json.dumps(message).encode())
    except OSError:
        pass


def become_container(
    request: dict[str, Any],
    joins: list[tuple[str, int]],
    stdio: tuple[int, int, int] | None,
    channel: socket.socket,
) -> None:
    """Turns this process, in its new namespaces, into the container of `request`."""
    spec = request["spec"]
    Cgroup(request["cgroup"]).join()
    new = {entry["type"] for entry in spec["linux"].get("namespaces") or [] if not entry.get("path")}
    prctl.set_dumpable(False)
    _enter(joins, {"pid"})
    if "user" in new:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    os.setsid()
    if "uts" in new:
        process.set_hostnames(spec)
    if "network" in new:
        ns.loopback_up()
    prctl.join_session_keyring()
    null = rootfs.open_null()
    rootfd = rootfs.mount_root(spec, request.get("overlay"), request["where"])
    rootfs.populate(rootfd, spec, "user" in new)
    if "cgroup" in new:
        ns.unshare(ns.CLONE_NEWCGROUP)
    _terminal_or_stdio(spec["process"], stdio, channel, rootfd)
    rootfs.pivot(rootfd, spec)
    proc = rootfs.private_proc() if spec["linux"].get("sysctl") else -1
    if proc >= 0:
        rootfs.write_sysctls(proc, spec["linux"]["sysctl"])
    rootfs.protect(rootfd, spec, null)
    _finish(request, spec["process"], rootfd, channel, create_cwd=True)


def _joined(
    request: dict[str, Any],
    joins: list[tuple[str, int]],
    stdio: tuple[int, int, int] | None,
    channel: socket.socket,
) -> None:
    Cgroup(request["cgroup"]).join()
    # Not dumpable: a process of the container must not ptrace us or read our memory (S003).
    prctl.set_dumpable(False)
    _enter(joins, {"pid"})
    os.setsid()
    prctl.join_session_keyring()
    rootfd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    _terminal_or_stdio(request["process"], stdio, channel, rootfd)
    _finish(request, request["process"], rootfd, channel, create_cwd=False)


def _enter(joins: list[tuple[str, int]], done: set[str]) -> None:
    order = ["cgroup", "ipc", "uts", "network", "time", "mount", "user"]
    for kind, fd in sorted((j for j in joins if j[0] not in done), key=lambda j: order.index(j[0])):
        ns.setns(fd, ns.KINDS[kind][0])


def _terminal_or_stdio(
    wanted: dict[str, Any], stdio: tuple[int, int, int] | None, channel: socket.socket, rootfd: int
) -> None:
    if not wanted.get("terminal"):
        assert stdio is not None
        for target, fd in enumerate(stdio):
            os.dup2(fd, target, inheritable=True)
        return
    ptmx = os.open("dev/pts/ptmx", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=rootfd)
    master, slave = tty.open_pair(f"/proc/self/fd/{ptmx}")
    os.close(ptmx)
    size = wanted.get("consoleSize") or {}
    if size.get("height") and size.get("width"):
        tty.set_size(master, size["height"], size["width"])
    socket.send_fds(channel, [json.dumps({"kind": "tty"}).encode()], [master])
    import fcntl
    import termios

    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for target in range(3):
        os.dup2(slave, target, inheritable=True)


def _finish(
    request: dict[str, Any], wanted: dict[str, Any], rootfd: int, channel: socket.socket, create_cwd: bool
) -> None:
    code = request.get("seccomp")
    warnings: list[str] = []
    filter_ = base64.b64decode(code) if code else None
    process.prepare_and_exec(wanted, rootfd, filter_, warnings, create_cwd)
