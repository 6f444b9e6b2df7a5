"""Making a container's first process, and further ones inside it, by cloning this very process.

The parent is single-threaded (the keeper or ``sampan-runtime``). What the child does is in `child`,
what it tells its parent in `channel`.
"""

from __future__ import annotations

import contextlib
import gc
import os
import socket
from collections.abc import Callable, Iterator

from sampan.linux import airlock, caps, descriptors, pidfd
from sampan.linux import namespaces as ns
from sampan.linux.cgroup import Cgroup
from sampan.record import field, record
from sampan.runtime import channel, child, crossing, idmap, mounts, namespaces, procfs, sources, sysctls
from sampan.runtime import stdio as streams
from sampan.runtime.channel import Report, Stdio
from sampan.runtime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.oci.runtime_spec import Spec
    from sampan.runtime.requests import Common, Join, Launch

_Body = Callable[[socket.socket], None]


@record
class Child:
    """A process being set up: its pid and pidfd, the socket on which it reports, and descriptors to
    close when it has ended. `moving`: it has made, or will, a child of ours that is to take its place, whose pid is not known."""

    pid: int
    pidfd: int
    channel: socket.socket
    held: list[int] = field(default_factory=list)
    moving: bool = False
    _leaving: bool = False
    _early: Report | None = None

    def hear(self) -> Report:
        """The process's next report; blocks. It can be another process from then on: see `pid` and `pidfd`.

        Others can have a hand in what comes of one that is seen in another's pid namespace, or from "leaving" on. Who is our
        child the kernel says: whatever the one sends that stays outside has its own pid as the sender's.
        """
        if self.moving:
            return self._hear_moving()
        if self._leaving:
            report = crossing.read(descriptors.receive_from(self.channel, channel.MAX_MESSAGE)[0])
            return report if report.kind != "arrived" else crossing.read(b"?")
        report = channel.receive(self.channel)
        self._leaving = report.kind == "leaving"
        return report

    def _hear_moving(self) -> Report:
        # Looked at first: descriptors are taken of nobody else, for closing what they refer to could block.
        data, sender = descriptors.receive_from(self.channel, channel.MAX_MESSAGE, socket.MSG_PEEK)
        if sender == self.pid and data[:1] == b"{":
            return channel.receive(self.channel)
        data, sender = descriptors.receive_from(self.channel, channel.MAX_MESSAGE)
        if not data:
            return Report("error", "the process ended while it was being set up")
        report = crossing.read(data)
        if sender != self.pid:
            self._early = self._early or report  # it has overtaken the one that made it
            return Report("leaving")
        if report.kind != "arrived":
            return report
        pid = int(report.text)
        descriptor = os.pidfd_open(pid)
        os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        self.pid, self.pidfd, self.moving, self._leaving = pid, descriptor, False, True
        return self._early or Report("moved")

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
        descriptors.close([self.pidfd, *self.held])


def start(request: Launch, stdio: Stdio | None) -> Child:
    """Clones a container's init process. Raises OSError or RuntimeFailure before there is one.

    `request`: "spec" (runtime specification), "cgroup" (path below the roots, or None for our own),
    "overlay" or None, "where" (an empty directory to mount on), "seccomp" (BPF in base64), "ping" (in a network of its own
    users may); from the OCI command line also "gate", "hooks", "state", "preserve_fds". `stdio` is None for a tty.
    """
    spec = request["spec"]
    group = create_group(request)
    plan = namespaces.plan(spec)
    request["trees"] = trees = []

    def body(parent: socket.socket) -> None:
        child.enter(group, plan.joins, spec["process"])
        namespaces.make(spec, plan, parent)
        child.become_container(request, stdio, parent, crossing=plan.crossing)

    try:
        trees += sources.open_all(request)
        if plan.crossing is not None:
            _open_procs(request, trees, plan.crossing.namespace)
        made = clone_child(plan.cloned, body, plan.crossing is not None)
    finally:
        descriptors.close([*plan.descriptors, *trees])
    _map_users(made, spec, plan, stdio)
    made.go()
    if plan.staged:
        _follow_second(made, stdio if plan.user_joined else None)
    return made


def _map_users(made: Child, spec: Spec, plan: namespaces.Plan, stdio: Stdio | None) -> None:
    """Gives a new user namespace its ids, and who is to be its root the streams. Raises RuntimeFailure, OSError: the child is given up."""
    try:
        if plan.waits_inside:
            made.go()
            report = made.hear()
            if report.kind != "prepared":
                raise RuntimeFailure(
                    report.text or "the container's process ended before it was set up", report.failure
                )
        if plan.user_made:
            idmap.write(made.pid, spec)
        if plan.user_made or plan.waits_inside:
            streams.bring(stdio, made.pid)
    except BaseException:
        made.abandon()
        raise


def start_entry(request: Common, stdio: Stdio | None, fds: list[int]) -> Child:
    """Clones a process that stays in this interpreter: request["entry"] ("module:function") is its whole life.

    For what stands for a container whose processes are elsewhere. The function gets the request, the streams,
    the channel and `fds`; namespaces and cgroup are as in start(). Raises OSError, RuntimeFailure.
    """
    spec = request["spec"]
    group = create_group(request)
    flags, joins = namespaces.flags_and_joins(spec)
    module, _, name = request["entry"].partition(":")

    def body(parent: socket.socket) -> None:
        child.enter(group, joins, {})
        getattr(__import__(module, fromlist=[name]), name)(request, stdio, parent, fds)

    try:
        made = clone_child(flags, body)
    finally:
        descriptors.close([fd for _, fd in joins])
    made.go()
    return made


def _open_procs(request: Launch, trees: list[int], namespace: int) -> None:
    """Opens the procfs that the container is to see, for it is not yet where it could."""
    for entry in request["spec"].get("mounts") or []:
        if entry.get("type") == "proc" and not sources.is_bind(entry):
            trees.append(procfs.of_namespace(namespace, mounts.parse_options(entry.get("options") or []).data))
            entry["tree"] = len(trees) - 1


def group_of(request: Common) -> Cgroup | None:
    """The container's cgroup, or None when it stays in ours."""
    path = request.get("cgroup")
    return Cgroup(path) if path else None


def create_group(request: Common) -> Cgroup | None:
    """Makes the container's cgroup with its limits; warnings go into the request. Raises OSError."""
    if not request.get("machine"):  # whose every parameter is the container's own
        sysctls.check(request["spec"])
    group = group_of(request)
    if group is not None:
        group.create(request["spec"]["linux"].get("resources") or {})
        request["warnings"] = list(group.warnings)
    return group


@record
class Place:
    """Where a further process of a container goes: the namespaces of `target`, a pidfd, that it is not in already."""

    target: int
    namespaces: int

    @property
    def moving(self) -> bool:
        """Whether it gets into another pid namespace."""
        return bool(self.namespaces & ns.CLONE_NEWPID)


@contextlib.contextmanager
def place_of(request: Join, stdio: Stdio | None) -> Iterator[Place]:
    """The place of join(), until the end of the context. Raises ProcessLookupError when the container is gone."""
    target = os.pidfd_open(request["pid"])
    try:
        if request.get("start_time", started := pidfd.start_time(request["pid"])) != started:
            raise ProcessLookupError(f"process {request['pid']} is gone")
        # Who is ending has lost some of its namespaces: setns(2) by its pidfd gives all or none.
        place = Place(target, ns.others(request["pid"]))
        if place.namespaces & ns.CLONE_NEWUSER:
            streams.bring(stdio, request["pid"])
        yield place
    finally:
        os.close(target)


def join(request: Join, stdio: Stdio | None) -> Child:
    """Clones a further process inside the container whose init is `request["pid"]`.

    `request`: "process", "cgroup", "seccomp" as in start(); "start_time" of the init, unless it is an unreaped child of ours, which no
    other can have the number of; "chroot" where its root is not its namespace's. Raises ProcessLookupError when the container is gone.
    """
    with place_of(request, stdio) as place:
        return join_place(request, place, stdio)


def join_place(request: Join, place: Place, stdio: Stdio | None) -> Child:
    """As join(), in a place that was found."""
    group = group_of(request)
    joining = child.look_ahead(request, place.target, place.namespaces)

    def body(parent: socket.socket) -> None:
        child.become_joined(request, stdio, parent, group, joining)

    return clone_child(0, body, place.moving, at_once=True)


def clone_child(flags: int, body: _Body, crossing: bool = False, at_once: bool = False) -> Child:
    """Clones this process; the child runs `body(parent)`, `at_once` or when its parent has said go().

    It never is in another's pid namespace; `crossing`: what it becomes will be, which has to be told from who sees it.
    """
    airlock.foresee()
    caps.count()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if crossing:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    pid, descriptor = ns.clone(flags)
    if pid == 0:
        ours.close()
        _run_child(theirs, body, at_once)
    theirs.close()
    return Child(pid, descriptor, ours, moving=crossing)


def _run_child(parent: socket.socket, body: _Body, at_once: bool) -> None:
    """The child's life up to execve. Never returns."""
    try:
        gc.disable()
        if not at_once:
            channel.wait_for_go(parent)
        body(parent)
    except BaseException as error:
        channel.send_failure(parent, error)
    finally:
        os._exit(1)


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
