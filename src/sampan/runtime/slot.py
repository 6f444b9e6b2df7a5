"""A container's first process made ahead of time.

Moving a process into seven cgroup v1 hierarchies waits for RCU grace periods (5 to 10 ms), and making
six namespaces takes 2 ms. A slot is a child that has done both before anybody asks: it waits in new
namespaces, inside a control group of its own, for its specification. Starting a container then means
renaming the group and sending a message (docs/adr/0005).
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
from typing import Any

from sampan.linux import namespaces as ns
from sampan.linux import prctl
from sampan.linux.cgroup import Cgroup, hierarchies
from sampan.runtime import process, spawn

_KINDS = ("mount", "ipc", "uts", "network", "pid", "cgroup")
_FLAGS = ns.CLONE_NEWNS | ns.CLONE_NEWIPC | ns.CLONE_NEWUTS | ns.CLONE_NEWNET | ns.CLONE_NEWPID
_MAX_REQUEST = 128 << 10
_PREFIX = "/sampan/slot-"


class Slot:
    """One waiting child. `ready` is set by the owner once `child.channel` has said so."""

    def __init__(self) -> None:
        self.group = Cgroup(_PREFIX + secrets.token_hex(8))
        self.ready = False
        self.child = spawn.clone_child(_FLAGS, [], self._wait)
        self.child.channel.send(b"g")

    def _wait(self, channel: socket.socket) -> None:
        """The child: joins its group, says so, becomes the container it is told to be."""
        prctl.set_pdeathsig(signal.SIGKILL)
        # We live as long as other containers: a copy of their stdin would keep it from ever ending.
        process.close_inherited(channel.fileno())
        prctl.set_dumpable(False)
        if self._groups_can_be_renamed():
            self.group.create({})
            self.group.add(0)
        ns.loopback_up()
        channel.send(json.dumps({"kind": "ready"}).encode())
        data, fds, _, _ = socket.recv_fds(channel, _MAX_REQUEST, 3, socket.MSG_CMSG_CLOEXEC)
        if not data:
            os._exit(0)
        prctl.set_pdeathsig(0)
        stdio = (fds[0], fds[1], fds[2]) if fds else None
        spawn.become_container(json.loads(data), [], stdio, channel)

    @staticmethod
    def _groups_can_be_renamed() -> bool:
        return bool(hierarchies().v1) and hierarchies().version == "1"

    def use(self, request: dict[str, Any], stdio: tuple[int, int, int] | None) -> spawn.Child | None:
        """Makes the slot the container of `request`, or returns None when it does not fit.

        Raises OSError for limits the kernel refuses; the slot is used up then.
        """
        message = json.dumps(request).encode()
        if not self.ready or len(message) > _MAX_REQUEST - 1024 or not fits(request["spec"]):
            return None
        group = Cgroup(request["cgroup"])
        try:
            if self._groups_can_be_renamed():
                self.group.rename(group.path)
                group.complete(request["spec"]["linux"].get("resources") or {}, self.child.pid)
            else:
                group.create(request["spec"]["linux"].get("resources") or {})
                group.add(self.child.pid)
            socket.send_fds(self.child.channel, [message], list(stdio or ()))
        except BaseException:
            self.discard()
            raise
        request.setdefault("warnings", []).extend(group.warnings)
        return self.child

    def discard(self) -> None:
        """Ends an unused slot."""
        self.child.channel.close()
        signal.pidfd_send_signal(self.child.pidfd, signal.SIGKILL)
        os.waitpid(self.child.pid, 0)
        os.close(self.child.pidfd)
        self.group.remove()


def fits(spec: dict[str, Any]) -> bool:
    """Whether a specification asks for exactly the namespaces a slot has."""
    entries = spec["linux"].get("namespaces") or []
    return sorted(entry["type"] for entry in entries) == sorted(_KINDS) and not any(e.get("path") for e in entries)


def remove_leftovers() -> None:
    """Removes the groups of slots whose keeper was killed; the kernel killed the slots with it."""
    for mountpoint in {*hierarchies().v1.values(), hierarchies().v2 or ""} - {""}:
        try:
            names = os.listdir(f"{mountpoint}/sampan")
        except OSError:
            continue
        for name in names:
            if name.startswith("slot-"):
                try:
                    os.rmdir(f"{mountpoint}/sampan/{name}")
                except OSError:
                    continue  # another engine's slot, with its process inside
