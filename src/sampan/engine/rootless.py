"""An engine for an ordinary user: everything happens inside a user namespace in which the user is root.

A small process, the holder, keeps three namespaces alive: user, mount and network. A daemon joins them
before it does anything else, so that one daemon can follow another, and its keeper with every container
lives in them. The way out of the network namespace is slirp4netns, which ends with the holder.
"""

from __future__ import annotations

import json
import os
import pwd
import signal

from sampan.engine.errors import EngineError
from sampan.linux import durable, mount, pidfd, prctl
from sampan.linux import namespaces as ns
from sampan.network import slirp
from sampan.network.errors import NetworkError
from sampan.runtime import idmap
from sampan.runtime.errors import RuntimeFailure

_Rows = list[tuple[int, int, int]]
_JOINED = ("user", "mount", "network")


def enter(run_root: str) -> None:
    """Moves this single-threaded process into the user's namespaces, made now if there are none.

    Afterwards we are root in them. Raises EngineError that says what is missing.
    """
    _private_directory(run_root)
    try:
        holder = _find(run_root) or _make(run_root)
    except (NetworkError, RuntimeFailure, OSError) as error:
        raise EngineError(f"can't run without root: {error}") from error
    opened = ns.open_namespaces(holder)
    for kind in _JOINED:
        ns.setns(opened[kind], ns.KINDS[kind][0])
        if kind == "user":
            _become_root()
    for fd in opened.values():
        os.close(fd)


def leave(run_root: str) -> None:
    """Ends the namespaces: the last daemon has stopped and nothing runs in them."""
    holder = _find(run_root)
    if holder is not None:
        os.unlink(f"{run_root}/namespaces.json")
        os.kill(holder, signal.SIGKILL)


def _private_directory(path: str) -> None:
    os.makedirs(path, 0o700, exist_ok=True)
    if os.stat(path).st_uid != os.geteuid():
        raise EngineError(f"{path} belongs to somebody else: remove it or set XDG_RUNTIME_DIR")


def _find(run_root: str) -> int | None:
    try:
        with open(f"{run_root}/namespaces.json", encoding="ascii") as file:
            found = json.load(file)
        fd = pidfd.open_if_same(found["pid"], found["start_time"])
    except (OSError, ValueError, KeyError):
        return None
    if fd is None:
        return None
    os.close(fd)
    return int(found["pid"])


def _make(run_root: str) -> int:
    uids, gids = id_rows("/etc/subuid", os.geteuid()), id_rows("/etc/subgid", os.getegid())
    exit_read, exit_write = os.pipe()
    go_read, go_write = os.pipe()
    ready_read, ready_write = os.pipe()
    pid, descriptor = ns.clone(ns.CLONE_NEWUSER | ns.CLONE_NEWNS | ns.CLONE_NEWNET)
    if pid == 0:
        os.close(go_write)
        _hold(go_read, ready_write, exit_write)
    for fd in (go_read, ready_write, exit_write):
        os.close(fd)
    try:
        idmap.write_rows(pid, uids, gids)
        os.write(go_write, b"g")
        if os.read(ready_read, 1) != b"r":
            raise RuntimeFailure("the user namespace could not be set up")
        slirp.launch(pid, f"{run_root}/slirp.log", exit_read)
        started = pidfd.start_time(pid)
        durable.replace(f"{run_root}/namespaces.json", json.dumps({"pid": pid, "start_time": started}), 0o644)
    except BaseException:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        for fd in (exit_read, go_write, ready_read, descriptor):
            os.close(fd)
    return pid


def _hold(go: int, ready: int, keep: int) -> None:
    """The holder: waits for its id maps, sets up what is inherited, sleeps. Never returns."""
    try:
        prctl.set_name("sampan-rootless")
        os.setsid()
        if os.read(go, 1) != b"g":
            os._exit(1)
        _become_root()
        mount.mount(None, "/", None, mount.MS_SLAVE | mount.MS_REC)
        ns.loopback_up()
        os.write(ready, b"r")
        null = os.open("/dev/null", os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        os.closerange(3, keep)
        os.closerange(keep + 1, 1 << 16)
        while True:
            signal.pause()
    finally:
        os._exit(1)


def _become_root() -> None:
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def id_rows(path: str, own: int) -> _Rows:
    """The id map of a user: root inside is the user, the rest are the subordinate ids (subuid(5)).

    Raises EngineError when there are none: an image has more than one user.
    """
    user = pwd.getpwuid(os.geteuid())
    rows = [(0, own, 1)]
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.strip().split(":") for line in file]
    except FileNotFoundError:
        lines = []
    for name, first, count in (line for line in lines if len(line) == 3):
        if name in (user.pw_name, str(user.pw_uid)):
            rows.append((rows[-1][0] + rows[-1][2], int(first), int(count)))
    if len(rows) == 1:
        flag = "--add-subuids" if path.endswith("uid") else "--add-subgids"
        raise EngineError(f"{path} gives {user.pw_name} no ids: usermod {flag} 100000-165535 {user.pw_name}")
    return rows
