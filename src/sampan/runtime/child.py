"""What a cloned child does until execve: becoming the container, or joining one that runs."""

from __future__ import annotations

import binascii
import fcntl
import os
import socket
import termios

from sampan.linux import mount as lm
from sampan.linux import namespaces as ns
from sampan.linux import openat2, prctl, tty
from sampan.linux.cgroup import Cgroup, hierarchies
from sampan.record import record
from sampan.runtime import channel, hooks, process, rootfs, skeletons
from sampan.runtime.channel import Stdio
from sampan.runtime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PERSONALITIES = {"LINUX": 0x0000, "LINUX32": 0x0008}


@record
class Base:
    """What of a container is the same for all: taken in by become_container(), made ahead by a spare."""

    null: int
    skeleton: skeletons.Skeleton | None = None


def make_base(new: set[str], userns: bool) -> Base:
    """The part of becoming a container that needs no request. `new`: types of the new namespaces."""
    prctl.set_dumpable(False)
    if userns:
        _become_root_inside()
    os.setsid()
    process.reset_signals()
    if "network" in new:
        ns.loopback_up()
    return Base(rootfs.open_null())


def become_container(
    request: dict[str, Any], stdio: Stdio | None, parent: socket.socket, base: Base | None = None
) -> None:
    """Turns this process, in its new namespaces, into the container of `request`."""
    spec = request["spec"]
    new = {entry["type"] for entry in spec["linux"].get("namespaces") or [] if not entry.get("path")}
    userns = any(entry["type"] == "user" for entry in spec["linux"].get("namespaces") or [])
    base = base or make_base(new, userns)
    if "uts" in new:
        process.set_hostnames(spec)
    if not request.get("keep_keyring"):
        prctl.join_session_keyring()
    trees: list[int] = request.get("trees") or []
    root = trees[request["root"]] if "root" in request else -1
    rootfd = rootfs.mount_root(spec, request.get("overlay"), request["where"], root)
    if "cgroup" in new and not hierarchies().v1:
        ns.unshare(ns.CLONE_NEWCGROUP)  # a cgroup2 mount shows what its namespace shows
    kernels: dict[str, int] = {}
    if base.skeleton is not None:
        base.skeleton.move(rootfd, spec, trees)
    else:
        kernels = rootfs.populate(rootfd, spec, userns, trees)
    if request.get("hooks"):
        # The parent runs the hooks that belong before pivot_root and outside of the container.
        channel.send(parent, kind="prepared")
        channel.wait_for_go(parent)
        hooks.run_all(spec, "createContainer", request["state"])
    if "cgroup" in new and hierarchies().v1:
        ns.unshare(ns.CLONE_NEWCGROUP)
    slave = _terminal_or_stdio(spec["process"], stdio, parent, rootfd)
    if slave >= 0:
        _console(rootfd, slave)
    if base.skeleton is None:
        rootfs.protect(rootfd, spec, base.null, kernels)
    rootfs.pivot(rootfd, spec, bool(request.get("no_pivot")))
    proc = rootfs.private_proc() if spec["linux"].get("sysctl") else -1
    if proc >= 0:
        rootfs.write_sysctls(proc, spec["linux"]["sysctl"])
    personality = spec["linux"].get("personality")
    if personality:
        _set_personality(personality)
    _finish(request, spec["process"], rootfd, parent, create_cwd=True)


def become_joined(request: dict[str, Any], stdio: Stdio | None, parent: socket.socket) -> None:
    """Turns this process, which has entered a container's namespaces, into a further one in it."""
    if request.get("chroot"):
        os.chroot(request["chroot"])
        os.chdir("/")
    os.setsid()
    process.reset_signals()
    prctl.join_session_keyring()
    rootfd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    _terminal_or_stdio(request["process"], stdio, parent, rootfd)
    _finish(request, request["process"], rootfd, parent, create_cwd=False)


def enter(group: Cgroup | None, joins: list[tuple[str, int]], wanted: dict[str, Any]) -> None:
    """Joins the cgroups and then every namespace but the pid one, which the parent has prepared."""
    if group is not None:
        group.join()
    if wanted.get("oomScoreAdj") is not None:
        # Now: a process that is not dumpable may not write its own /proc files in a user namespace.
        prctl.set_oom_score_adj(int(wanted["oomScoreAdj"]))
    # Not dumpable: a process of the container must not ptrace us or read our memory (S003).
    prctl.set_dumpable(False)
    order = ["cgroup", "ipc", "uts", "network", "time", "mount", "user"]
    if os.geteuid() != 0:
        order = ["user", *order[:-1]]  # the user namespace gives the privilege to join the others
    for kind, fd in sorted((j for j in joins if j[0] != "pid"), key=lambda j: order.index(j[0])):
        ns.setns(fd, ns.KINDS[kind][0])
    if any(kind == "user" for kind, _ in joins):
        _become_root_inside()


def _become_root_inside() -> None:
    """In a user namespace: its root, or what we are already where only that id is mapped."""
    try:
        os.setgroups([])
    except PermissionError:
        pass  # denied in a namespace made without privilege (user_namespaces(7))
    for call in (os.setresgid, os.setresuid):
        try:
            call(0, 0, 0)
        except OSError as error:
            raise RuntimeFailure(f"id 0 is not mapped in the user namespace: {error.strerror}") from error


def _terminal_or_stdio(wanted: dict[str, Any], stdio: Stdio | None, parent: socket.socket, rootfd: int) -> int:
    """Puts 0, 1 and 2 in place. Returns the terminal's descriptor, or -1 without one."""
    if not wanted.get("terminal"):
        assert stdio is not None
        for target, fd in enumerate(stdio):
            os.dup2(fd, target, inheritable=True)
        return -1
    master = _open_ptmx(rootfd)
    slave = tty.open_peer(master)
    size = wanted.get("consoleSize") or {}
    if size.get("height") and size.get("width"):
        tty.set_size(master, size["height"], size["width"])
    channel.send(parent, [master], kind="tty")
    os.close(master)
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for target in range(3):
        os.dup2(slave, target, inheritable=True)
    return slave


def _open_ptmx(rootfd: int) -> int:
    """A new terminal's master. Only the kernel's own /dev/pts is opened at all (S011: others may write where it should be)."""
    path = "/dev/pts/ptmx"
    for flags in (os.O_PATH, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK):
        fd = openat2.open_in_root(rootfd, path, flags)
        if lm.filesystem_type(fd) != lm.DEVPTS_MAGIC:
            os.close(fd)
            raise RuntimeFailure(f"{path} is not the kernel's: there can be no terminal")
        if flags == os.O_PATH:
            os.close(fd)
    os.set_blocking(fd, True)
    return fd


def _console(rootfd: int, slave: int) -> None:
    """Shows the terminal as /dev/console too, as the runtime specification asks."""
    path = "/dev/console"
    try:
        target = openat2.create_file_in_root(rootfd, path)
        tree = lm.open_tree(slave, "")
    except OSError as error:
        raise RuntimeFailure(f"{path}: {error.strerror}") from error
    try:
        if lm.filesystem_type(target) == lm.PROC_MAGIC:
            raise RuntimeFailure(f"{path} leads into /proc: it is not mounted there")
        lm.move_mount(tree, target, subject=path)
    finally:
        os.close(tree)
        os.close(target)


def _set_personality(wanted: dict[str, Any]) -> None:
    if wanted.get("domain") not in _PERSONALITIES or wanted.get("flags"):
        raise RuntimeFailure(f"unknown personality {wanted.get('domain')} {wanted.get('flags') or ''}")
    prctl.set_personality(_PERSONALITIES[wanted["domain"]])


def _finish(
    request: dict[str, Any], wanted: dict[str, Any], rootfd: int, parent: socket.socket, create_cwd: bool
) -> None:
    code = request.get("seccomp")
    prepared = process.prepare(wanted, rootfd, create_cwd)
    if "gate" in request:
        parent = _wait_at_gate(request, prepared, parent)
    elif channel.deserted(parent):
        os._exit(1)  # nobody would know of the container
    try:
        process.execute(
            prepared,
            binascii.a2b_base64(code) if code else None,
            request.get("seccomp_flags", 0),
            lambda text: channel.send(parent, kind="warning", text=text),
            int(request.get("preserve_fds") or 0),
        )
    except BaseException as error:
        # Here, and not in our caller: behind the gate another process is listening.
        channel.send_failure(parent, error)
        os._exit(1)


def _wait_at_gate(request: dict[str, Any], prepared: process.Prepared, parent: socket.socket) -> socket.socket:
    """Stays "created" until `start` connects to the listening socket `request["gate"]`.

    The descriptor was inherited, so the wait depends on nothing that the container's files could fake.
    """
    process.find_executable(prepared)
    gate = socket.socket(fileno=request["gate"])
    channel.send(parent, kind="created")
    parent.close()
    starter, _ = gate.accept()
    gate.close()
    try:
        hooks.run_all(request["spec"], "startContainer", {**request["state"], "status": "running"})
    except RuntimeFailure as failure:
        channel.send_failure(starter, failure)
        os._exit(1)
    return starter
