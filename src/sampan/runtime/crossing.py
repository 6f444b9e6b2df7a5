"""The last steps of a process that others see before it is the container's: in the pid namespace of another container,
or in one's own while it waits for `start`. Everything is given up first; the rest `linux.airlock` does, without our memory.
"""

from __future__ import annotations

import fcntl
import os
import resource
import socket
import struct
import termios
from collections.abc import Callable

from sampan import quickjson
from sampan.linux import airlock, caps, namespaces, seccomp
from sampan.linux.syscall import NR
from sampan.record import record
from sampan.runtime import channel, process
from sampan.runtime.channel import Report
from sampan.runtime.errors import OTHER, RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from sampan.oci.runtime_spec import Process, Rlimit

_RESULTS, _ARRIVED, _CREATED = 0, 1, 2  # what a message begins with
_HEAD = struct.Struct("<II")
_PARENT_SETTID = 0x00100000
_CLONE = namespaces.CLONE_PARENT | _PARENT_SETTID
_NPROC = "RLIMIT_NPROC"


@record
class Way:
    """Where to: into the pid namespace that our children are born in (`moving`), or not; with a terminal on 0 to be taken
    there; behind a listening socket (`gate`), until somebody connects to it."""

    moving: bool
    terminal: bool = False
    gate: int = -1
    preserve_fds: int = 0


@record
class Plan:
    """The calls of a way, made before it is known who the process will be; `home`: where in the environment its home
    directory goes, or -1 when one was asked for."""

    pages: airlock.Pages | airlock.Plain
    capabilities: airlock.Buffer | None
    limits: list[airlock.Buffer]
    environment: list[int | bytes]
    home: int


def plan(wanted: Process, program: bytes | None, flags: int, way: Way) -> Plan:
    """For a process of this specification. It can be made by who clones the process: in memory that is not new to it.
    Raises OSError (E2BIG)."""
    channel_fd, gate = _numbers(way)
    cookie = int.from_bytes(os.urandom(8), "little")
    names = ["execve", "sendto", "capset"]

    def call(name: str, *args: Any, **jumps: str) -> airlock.Call:
        # The sixth argument tells the filter that it is us: none of these calls has one that counts.
        names.append(name)
        return airlock.Call(name, NR[name], [*args, *(0,) * (5 - len(args)), cookie], **jumps)

    calls, capabilities = [], None
    if wanted.get("capabilities") is not None:
        # Before the filter is there it needs CAP_SYS_ADMIN or no_new_privs, after it, nobody does.
        header, none = caps.packed(0, 0, 0)
        capabilities = airlock.Buffer(none)
        calls.append(call("capset", header, capabilities))
    arrived = airlock.Buffer(_HEAD.pack(_ARRIVED, 0))
    if way.moving:
        calls += [call("clone", _CLONE, 0, (arrived, 4), positive="parent"), call("setsid")]
        if way.terminal:
            calls.append(call("ioctl", 0, termios.TIOCSCTTY, 0))
    limits = [airlock.Buffer(bytes(16)) for limit in wanted.get("rlimits") or [] if limit["type"] == _NPROC]
    calls += [call("prlimit64", 0, resource.RLIMIT_NPROC, limit, 0) for limit in limits]
    if gate >= 0:
        calls += [call("sendto", channel_fd, _HEAD.pack(_CREATED, 0), _HEAD.size, socket.MSG_NOSIGNAL),
                  call("close", channel_fd), call("accept4", gate, 0, 0, socket.SOCK_CLOEXEC)]  # fmt: skip
    variables = process.environment(wanted)
    argv: list[int | bytes] = [os.fsencode(arg) + b"\0" for arg in wanted["args"]]
    environment: list[int | bytes] = [os.fsencode(f"{key}={value}") + b"\0" for key, value in variables.items()]
    argv.append(0)
    environment.append(0)
    for candidate in process.candidates(wanted["args"][0], variables):
        path = os.fsencode(candidate) + b"\0"
        calls.append(call("execve", path, argv, environment, failed=airlock.NEXT))
    if program is not None:
        filtered = seccomp.passage(program, {NR[name] for name in names}, cookie)
        install = airlock.Call("seccomp", NR["seccomp"], [1, flags, [len(filtered) // 8, filtered]])
        calls.insert(0, install)
    said = quickjson.dumps({"calls": [item.name for item in calls], "command": wanted["args"][0][:1024]}).encode()
    report = airlock.Buffer(_HEAD.pack(_RESULTS, len(calls)) + bytes(8 * (len(calls) + 4)) + said)
    calls += [
        call("sendto", channel_fd, report, len(report.content), socket.MSG_NOSIGNAL, label=airlock.FAILED, failed=airlock.NEXT),
        call("exit_group", 1, failed=airlock.NOWHERE, zero=airlock.NOWHERE, positive=airlock.NOWHERE),
        call("sendto", channel_fd, arrived, _HEAD.size, socket.MSG_NOSIGNAL, label="parent", failed=airlock.NEXT),
        call("exit_group", 0, failed=airlock.NOWHERE, zero=airlock.NOWHERE, positive=airlock.NOWHERE),
    ]  # fmt: skip
    home = -1 if variables["HOME"] else list(variables).index("HOME")
    return Plan(airlock.lay_out(calls, report), capabilities, limits, environment, home)


def cross(prepared: process.Prepared, planned: Plan, parent: socket.socket, way: Way) -> NoReturn:
    """Becomes the container's process. What fails before it is to be seen is told to `parent` as ever; later failures are
    messages that read() understands, to `parent` or by the connection that came through the gate."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, _keep_only(parent, way))
    try:
        _cross(prepared, planned, sock, way)
    except BaseException as error:
        channel.send_failure(sock, error)
    finally:
        os._exit(1)


def _cross(prepared: process.Prepared, planned: Plan, parent: socket.socket, way: Way) -> None:
    def warn(text: str) -> None:
        channel.send(parent, kind="warning", text=text)

    wanted, pages = prepared.wanted, planned.pages
    limits = wanted.get("rlimits") or []
    process.settle({**wanted, "rlimits": [limit for limit in limits if limit["type"] != _NPROC]}, warn)
    later = [_limit(limit, warn) for limit in limits if limit["type"] == _NPROC]
    for buffer, content in zip(planned.limits, later, strict=True):
        pages.fill(buffer, content)
    sets = process.give_up(prepared, warn)
    if sets is not None and planned.capabilities is not None:
        pages.fill(planned.capabilities, caps.packed(sets.effective, sets.permitted, sets.inheritable)[1])
    if planned.home >= 0:
        pages.point(planned.environment, planned.home, os.fsencode(f"HOME={prepared.environment['HOME']}") + b"\0")
    if not way.moving:
        channel.send(parent, kind="leaving")  # who moves is told by its pid, which nobody who sees it has
    pages.enter()


def _numbers(way: Way) -> tuple[int, int]:
    """Of the channel and of the gate, if there is one: those behind the process's own descriptors."""
    return 3 + way.preserve_fds, -1 if way.gate < 0 else 4 + way.preserve_fds


def _keep_only(parent: socket.socket, way: Way) -> int:
    """Closes every descriptor but the process's own, the channel, whose number is returned, and the gate.

    accept4(2) takes the lowest that is free, which is to be the channel's: there must be none below.
    """
    first = _numbers(way)[0]
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, first + 2) for fd in (parent.fileno(), way.gate) if fd >= 0]
    for number, fd in enumerate(high):
        os.dup2(fd, first + number, inheritable=False)
    process.close_from(first + len(high))
    if way.gate < 0:
        return first
    for fd in range(first):
        try:
            os.fstat(fd)
        except OSError:
            os.dup2(first + 1, fd, inheritable=False)
    return first


def _limit(limit: Rlimit, warn: Callable[[str], None]) -> bytes:
    """The limit of processes, for after the clone, which it would count: raised now if it has to be."""
    soft, hard = (process.rlim(limit[key]) for key in ("soft", "hard"))
    roof = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    if roof >= 0 and not 0 <= hard <= roof:
        process.limit({"type": _NPROC, "soft": hard, "hard": hard}, warn)
        roof = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        hard = roof
        soft = soft if 0 <= soft <= roof or roof < 0 else roof
    return struct.pack("<QQ", soft & (1 << 64) - 1, hard & (1 << 64) - 1)


def read(data: bytes) -> Report:
    """A message of a process in the airlock, which those who see it could have sent as well: "started" (none), "created",
    "arrived" (text: its pid) or "error"."""
    if not data:
        return Report("started")
    try:
        kind, number = _HEAD.unpack_from(data)
        if kind == _ARRIVED and len(data) == _HEAD.size:
            return Report("arrived", str(number))
        if kind == _CREATED:
            return Report("created")
        results = struct.unpack_from(f"<{number}q", data, _HEAD.size)
        said = quickjson.loads(data[_HEAD.size + 8 * (number + 4) :])
        failure = _explain([str(name) for name in said["calls"]], results, str(said["command"]))
    except (ValueError, KeyError, TypeError, struct.error):
        failure = RuntimeFailure("the process was disturbed while it was being set up")
    return Report("error", str(failure), failure.kind)


def _explain(names: list[str], results: tuple[int, ...], command: str) -> RuntimeFailure:
    for name, result in zip(names, results, strict=True):
        if result < 0 and name != "execve":
            return RuntimeFailure(f"{name}: {os.strerror(-result)}", OTHER)
    return process.not_executed(
        command, [-result for name, result in zip(names, results, strict=True) if name == "execve"]
    )


def receive(sock: socket.socket) -> Report:
    """What comes through the gate's connection: of a process in the airlock, or of one that goes on in Python."""
    data = sock.recv(channel.MAX_MESSAGE, socket.MSG_PEEK)
    return channel.receive(sock) if data[:1] == b"{" else read(sock.recv(channel.MAX_MESSAGE))
