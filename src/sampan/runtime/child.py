"""What a cloned child does until execve: becoming the container, or joining one that runs."""

from __future__ import annotations

import binascii
import fcntl
import os
import socket
import termios

from sampan.linux import caps, openat2, prctl, tty
from sampan.linux import mount as lm
from sampan.linux import namespaces as ns
from sampan.linux.cgroup import Cgroup, hierarchies
from sampan.record import record
from sampan.runtime import channel, hooks, prefork_mounts, process, rootfs, sysctls
from sampan.runtime.channel import Stdio
from sampan.runtime.crossing import Plan, Way, cross, plan
from sampan.runtime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.oci.runtime_spec import Personality, Process
    from sampan.runtime.requests import Common, Join, Launch

_PERSONALITIES = {"LINUX": 0x0000, "LINUX32": 0x0008}


@record
class Base:
    """What of a container is the same for all: taken in by become_container(), made ahead by a prefork."""

    null: int
    premounted: prefork_mounts.PreforkMounts | None = None


@record
class Crossing:
    """A pid namespace to be in at last, and whether what we have done already puts our children there."""

    namespace: int
    entered: bool


def make_base(new: set[str], userns: bool, ping: bool) -> Base:
    """The part of becoming a container that needs no request. `new`: types of the new namespaces; `ping`: a new network
    is one where users may."""
    prctl.set_dumpable(False)
    if userns:
        become_root_inside()
    os.setsid()
    process.reset_signals(process.handled_signals())
    if "network" in new:
        ns.loopback_up()
        if ping:
            ns.let_users_ping()
    return Base(rootfs.open_null())


def become_container(
    request: Launch,
    stdio: Stdio | None,
    parent: socket.socket,
    base: Base | None = None,
    crossing: Crossing | None = None,
) -> None:
    """Turns this process, in its new namespaces, into the container of `request`; `crossing`: into another's pid namespace."""
    spec = request["spec"]
    new = {entry["type"] for entry in spec["linux"].get("namespaces") or [] if not entry.get("path")}
    userns = any(entry["type"] == "user" for entry in spec["linux"].get("namespaces") or [])
    base = base or make_base(new, userns, bool(request.get("ping")))
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
    if base.premounted is not None:
        base.premounted.move(rootfd, spec, trees)
    else:
        kernels = rootfs.populate(rootfd, spec, userns, trees)
    if request.get("hooks"):
        # The parent runs the hooks that belong before pivot_root and outside of the container.
        channel.send(parent, kind="prepared")
        channel.wait_for_go(parent)
    if "state" in request and (spec.get("hooks") or {}).get("createContainer"):
        _create_hooks(request, crossing)
    if "cgroup" in new and hierarchies().v1:
        ns.unshare(ns.CLONE_NEWCGROUP)
    slave = _terminal_or_stdio(spec["process"], stdio, parent, rootfd, crossing is not None)
    if slave >= 0:
        _console(rootfd, slave)
    if base.premounted is None:
        rootfs.protect(rootfd, spec, base.null, kernels)
    rootfs.pivot(rootfd, spec, bool(request.get("no_pivot")))
    proc = rootfs.private_proc() if spec["linux"].get("sysctl") else -1
    if proc >= 0:
        sysctls.write(proc, spec["linux"]["sysctl"])
    personality = spec["linux"].get("personality")
    if personality:
        _set_personality(personality)
    _finish(request, spec["process"], rootfd, parent, crossing)


@record
class Joining:
    """What a further process in a container is to be, found out by who clones it: the namespaces of `target`, a pidfd, that
    it joins, signals to reset, and what it is known to become."""

    target: int
    namespaces: int
    signals: list[int]
    ahead: process.Ahead
    planned: Plan | None


def _create_hooks(request: Launch, crossing: Crossing | None) -> None:
    """Runs the hooks of this stage; of devices there are no others, and none that our parent would have to run. Raises RuntimeFailure."""
    if (
        crossing is not None
    ):  # they would be where the other container sees them, with our root where it has been entered
        if not request.get("hooks"):
            raise RuntimeFailure("hooks of devices can't run in a container with another's pid namespace")
        if crossing.entered:
            raise RuntimeFailure(
                "createContainer hooks can't run with a new user namespace and another's pid namespace"
            )
    hooks.run_all(request["spec"], "createContainer", request["state"])


def look_ahead(request: Join, target: int, namespaces: int) -> Joining:
    """For a request of spawn.join()."""
    wanted = request["process"]
    ahead = process.look_ahead(wanted, process.bounding_here())
    planned = None
    if namespaces & ns.CLONE_NEWPID:
        planned = plan(wanted, *_filter(request), _way(request, wanted, True))
    return Joining(target, namespaces, process.handled_signals(), ahead, planned)


def become_joined(
    request: Join, stdio: Stdio | None, parent: socket.socket, group: Cgroup | None, joining: Joining
) -> None:
    """Turns this process into a further one in a container."""
    _before_entering(group, request["process"])
    ns.setns(joining.target, joining.namespaces)
    if joining.namespaces & ns.CLONE_NEWUSER:
        become_root_inside()
        joining.ahead.bounding = caps.bounding()
    if request.get("chroot"):
        os.chroot(request["chroot"])
        os.chdir("/")
    os.setsid()
    process.reset_signals(joining.signals)
    prctl.join_session_keyring()
    rootfd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    crossing = Crossing(-1, True) if joining.planned is not None else None
    _terminal_or_stdio(request["process"], stdio, parent, rootfd, crossing is not None)
    _finish(request, request["process"], rootfd, parent, crossing, joining)


def enter(group: Cgroup | None, joins: list[tuple[str, int]], wanted: Process) -> None:
    """Joins the cgroups and then every namespace. Of a pid namespace only children of ours will be (T60)."""
    _before_entering(group, wanted)
    order = ["pid", "cgroup", "ipc", "uts", "network", "time", "mount", "user"]
    if os.geteuid() != 0:
        order = ["user", *order[:-1]]  # the user namespace gives the privilege to join the others
    for kind, fd in sorted(joins, key=lambda j: order.index(j[0])):
        ns.setns(fd, ns.KINDS[kind][0])
    if any(kind == "user" for kind, _ in joins):
        become_root_inside()


def _before_entering(group: Cgroup | None, wanted: Process) -> None:
    if group is not None:
        group.join()
    score = wanted.get("oomScoreAdj")
    if score is not None:
        # Now: a process that is not dumpable may not write its own /proc files in a user namespace.
        prctl.set_oom_score_adj(int(score))
    # Not dumpable: a process of the container must not ptrace us or read our memory (S003).
    prctl.set_dumpable(False)


def become_root_inside() -> None:
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


def _terminal_or_stdio(wanted: Process, stdio: Stdio | None, parent: socket.socket, rootfd: int, crossing: bool) -> int:
    """Puts 0, 1 and 2 in place. Returns the terminal's descriptor, or -1 without one.

    It becomes ours, unless we are `crossing`: then the process after us takes it.
    """
    if not wanted.get("terminal"):
        assert stdio is not None
        for target, fd in enumerate(stdio):
            os.dup2(fd, target, inheritable=True)
        return -1
    master = _open_ptmx(rootfd)
    slave = tty.open_peer(master)
    size = wanted.get("consoleSize")
    if size and size.get("height") and size.get("width"):
        tty.set_size(master, size["height"], size["width"])
    channel.send(parent, [master], kind="tty")
    os.close(master)
    if not crossing:
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


def _set_personality(wanted: Personality) -> None:
    if wanted.get("domain") not in _PERSONALITIES or wanted.get("flags"):
        raise RuntimeFailure(f"unknown personality {wanted.get('domain')} {wanted.get('flags') or ''}")
    prctl.set_personality(_PERSONALITIES[wanted["domain"]])


def _finish(
    request: Common,
    wanted: Process,
    rootfd: int,
    parent: socket.socket,
    crossing: Crossing | None,
    joining: Joining | None = None,
) -> None:
    ahead = process.look_ahead(wanted, caps.bounding()) if joining is None else joining.ahead
    prepared = process.prepare(wanted, rootfd, joining is None, ahead)

    def warn(text: str) -> None:
        channel.send(parent, kind="warning", text=text)

    gate = request.get("gate", -1)
    own_hooks = gate >= 0 and bool((request["spec"].get("hooks") or {}).get("startContainer"))
    if own_hooks and crossing is not None:
        raise RuntimeFailure("startContainer hooks can't run in a container with another's pid namespace")
    if gate < 0 and channel.deserted(parent):
        os._exit(1)  # nobody would know of the container
    if gate >= 0:
        process.find_executable(prepared)
    if crossing is not None or (gate >= 0 and not own_hooks):
        if crossing is not None and not crossing.entered:
            ns.setns(crossing.namespace, ns.CLONE_NEWPID)  # before we lose the right to
        way = _way(request, wanted, crossing is not None)
        planned = joining.planned if joining is not None else None
        cross(prepared, planned or plan(wanted, *_filter(request), way), parent, way)
    if own_hooks:
        parent = _wait_at_gate(request, parent)
    try:
        process.execute(prepared, *_filter(request), warn, int(request.get("preserve_fds") or 0))
    except BaseException as error:
        # Here, and not in our caller: behind the gate another process is listening.
        channel.send_failure(parent, error)
        os._exit(1)


def _way(request: Common, wanted: Process, moving: bool) -> Way:
    return Way(moving, bool(wanted.get("terminal")), request.get("gate", -1), int(request.get("preserve_fds") or 0))


def _filter(request: Common) -> tuple[bytes | None, int]:
    """The program, if there is one, and flags of its installation."""
    encoded = request.get("seccomp")
    return binascii.a2b_base64(encoded) if encoded else None, request.get("seccomp_flags", 0)


def _wait_at_gate(request: Common, parent: socket.socket) -> socket.socket:
    """Stays "created" until `start` connects to the listening socket `request["gate"]`, and runs the hooks that come then.

    The descriptor was inherited, so the wait depends on nothing that the container's files could fake.
    """
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
