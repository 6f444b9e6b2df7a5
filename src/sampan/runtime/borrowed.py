"""Work with the rights of a client and no others, in a process of its own: what the client could not open, it can't (T52).

The process has the client's user, groups and no capability before it looks at anything of the client's; paths are resolved
below a descriptor of the client's root, in its mount namespace, and never through /proc's magic links. What it opens it
sends back by descriptor.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from sampan.linux import caps, openat2, prctl
from sampan.linux.peer import Peer
from sampan.linux.syscall import faccess, failure

DIRECTORY, FILE, SOCKET = "directory", "file", "socket"
_FLAGS = {DIRECTORY: os.O_RDONLY | os.O_DIRECTORY, FILE: os.O_RDONLY | os.O_NONBLOCK, SOCKET: os.O_PATH}
_SECONDS = 20.0  # for a path: what is behind it may be a file system of the client's own making
_SITE = (
    "import sys; sys.path[:0] = sys.argv[1].split(':'); from sampan.runtime import borrowed; borrowed.main(sys.argv[2])"
)


def open_as(peer: Peer, path: str, kind: str) -> int:
    """A descriptor of what a client sees at `path`, opened with its rights. Raises OSError, TimeoutError too."""
    if peer.every:
        return _open(peer.root, path, kind)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        process = start(peer, "sampan.runtime.borrowed:send", [path, kind], [peer.root, theirs.fileno()])
        theirs.close()
        try:
            ours.settimeout(_SECONDS)
            text, fds, _, _ = socket.recv_fds(ours, 1 << 16, 1, socket.MSG_CMSG_CLOEXEC)
        except TimeoutError:
            raise TimeoutError(110, f"{path} did not open within {_SECONDS:.0f} seconds") from None
        finally:
            end(process)
    if not fds:
        found = json.loads(text or "[5]")
        raise failure(int(found[0]), "open", path)
    return fds[0]


def _open(root: int, path: str, kind: str) -> int:
    fd = openat2.open_in_root(root, path, _FLAGS[kind] | os.O_CLOEXEC)
    try:
        mode = os.fstat(fd).st_mode
        if kind == FILE and not stat.S_ISREG(mode):
            raise failure(22 if not stat.S_ISDIR(mode) else 21, "open", path)
        if kind == SOCKET:
            if not stat.S_ISSOCK(mode):
                raise failure(111, "connect", path)
            faccess(fd, os.W_OK, path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def start(
    peer: Peer, what: str, arguments: Sequence[object], fds: list[int], stderr: int | None = None
) -> subprocess.Popen[bytes]:
    """Starts `what` ("module:function") with the descriptors and arguments, as the client."""
    request = {"what": what, "uid": peer.uid, "gid": peer.gid, "groups": peer.groups, "every": peer.every,
               "arguments": arguments, "fds": fds}  # fmt: skip
    places = ":".join(path for path in sys.path if path)
    command = [sys.executable, "-I", "-S", "-B", "-c", _SITE, places, json.dumps(request)]
    return subprocess.Popen(command, pass_fds=fds, stdin=subprocess.DEVNULL, stderr=stderr)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends one that is not needed any more. One that a file system holds is not waited for: it ends when that lets it."""
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)


# In the new process, from here on.


def main(text: str) -> None:
    """Becomes the client, then works. What is needed is loaded before."""
    request: dict[str, Any] = json.loads(text)
    module, _, name = request["what"].partition(":")
    work = getattr(importlib.import_module(module), name)
    become(request["uid"], request["gid"], request["groups"], request["every"])
    work(*request["fds"], *request["arguments"])


def become(uid: int, gid: int, groups: list[int], every: bool) -> None:
    """Gives up what the client has not, for good."""
    kept = caps.mask(["CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH"]) & caps.permitted() if every else 0
    with contextlib.suppress(PermissionError):  # not for an engine that has no more rights than its user
        os.setgroups(groups)
    caps.drop_bounding(caps.bounding() & ~kept)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    caps.capset(kept, kept, 0)
    prctl.set_no_new_privs()
    prctl.set_dumpable(False)
    os.umask(0o022)


def send(root: int, channel: int, path: str, kind: str) -> None:
    """Sends what is at a path, or the number of an error."""
    with socket.socket(fileno=channel) as sock:
        try:
            fd = _open(root, path, kind)
        except OSError as error:
            sock.send(json.dumps([error.errno or 5]).encode())
            return
        socket.send_fds(sock, [b"ok"], [fd])
