"""Running a program that wants a file system by its path, when we have it as a descriptor only.

In a process and a mount namespace of its own: nothing of it shows on the host, and it ends with the program.
"""

from __future__ import annotations

import os
import subprocess
import sys

from sampan.linux import mount
from sampan.linux import namespaces as ns
from sampan.vm.errors import VmError

_LONGEST = 1800.0  # seconds: a large image on a slow disk

_ENTRY = """
import sys
sys.path.insert(0, sys.argv[1])
from sampan.vm.mounted import enter
enter(int(sys.argv[2]), sys.argv[3], sys.argv[4:])
"""


def enter(tree: int, where: str, command: list[str]) -> None:
    """The process's life: mounts `tree` on the directory `where` and becomes the program."""
    try:
        copy = mount.open_tree(tree, "")
    except OSError:  # a mount that is nowhere yet, which before Linux 6.15 has no copies: itself
        copy = tree
    ns.unshare(ns.CLONE_NEWNS)
    mount.mount(None, "/", None, mount.MS_SLAVE | mount.MS_REC)
    mount.move_mount(copy, mount.AT_FDCWD, where)
    os.chdir(where)
    os.execvp(command[0], command)


def run(tree: int, where: str, command: list[str]) -> str:
    """What a program prints that finds the file system `tree` on the directory `where`. Raises VmError."""
    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-B", "-c", _ENTRY, source, str(tree), where, *command],
            pass_fds=(tree,), capture_output=True, text=True, check=False, timeout=_LONGEST,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise VmError(f"{command[0]}: it has not ended in {_LONGEST:g} s") from None
    if done.returncode:
        raise VmError(f"{command[0]}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout
