"""The procfs of a pid namespace that we are not in, and are not to be seen in while we have our rights (T60)."""

from __future__ import annotations

import errno
import os
import socket

from sampan.linux import descriptors, openat2
from sampan.linux import mount as lm
from sampan.linux import namespaces as ns
from sampan.runtime.errors import RuntimeFailure

_ROOT_INODE = 1


def of_namespace(fd: int, options: list[tuple[str, str | None]]) -> int:
    """A detached mount of the procfs of the pid namespace `fd`. Raises OSError, RuntimeFailure.

    Linux 6.17 has an option for it. Before, it is a copy of the mount that a process of the namespace has on its /proc.
    """
    try:
        return lm.new_filesystem("proc", [*options, ("source", "proc"), ("pidns", f"/proc/self/fd/{fd}")])
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return copy(fd)


def copy(fd: int) -> int:
    """The mount that the namespace's own processes have, without what covers parts of it. Raises OSError, RuntimeFailure.

    A process of ours enters their mount namespaces for it, for only what is mounted in one's own can be mounted once
    more (before Linux 6.15); in their pid namespace it is not.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        pid = os.fork()
        if pid == 0:
            try:
                _send_copy(fd, theirs)
            finally:
                os._exit(1)
        os.waitpid(pid, 0)
        theirs.close()
        _, found = descriptors.receive(ours, 1, 1)
    if not found:
        raise RuntimeFailure(
            "no process of the pid namespace has its procfs on /proc: it can't be shown (Linux 6.17 can)"
        )
    return found[0]


def _send_copy(fd: int, to: socket.socket) -> None:
    host = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
    for pid in ns.members_of(fd, "pid"):
        try:
            namespace = os.open(f"{pid}/ns/mnt", os.O_RDONLY, dir_fd=host)
            root = os.open(f"{pid}/root", os.O_PATH | os.O_DIRECTORY, dir_fd=host)
            ns.setns(namespace, ns.CLONE_NEWNS)
            tree = lm.open_tree(openat2.open_in_root(root, "proc", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW), "")
            # Asked of the copy, which nobody can exchange any more.
            shown = os.stat("1/ns/pid", dir_fd=tree)
            same = (shown.st_dev, shown.st_ino) == (os.fstat(fd).st_dev, os.fstat(fd).st_ino)
            if same and lm.filesystem_type(tree) == lm.PROC_MAGIC and os.fstat(tree).st_ino == _ROOT_INODE:
                lm.mount_setattr(tree, clear=lm.MOUNT_ATTR_RDONLY, propagation=lm.MS_PRIVATE)
                socket.send_fds(to, [b"+"], [tree])
                return
        except OSError:
            continue  # it has another root, or is gone
