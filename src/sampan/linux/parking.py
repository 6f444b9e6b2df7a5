"""Cloning a process that goes on in our memory while we are parked for ever.

As vfork(2), but the parent never comes back, and it sleeps interruptibly: a process in vfork's wait counts
as load. After the call the stack belongs to the child, so the parent's part can be no Python and no C: it
is a loop around pause(2) of two instructions.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal

from sampan.linux.namespaces import CLONE_PARENT, CloneArgs

_CLONE_VM = 0x100
# clone3(rdi, rsi); return what is not positive: 0 in the child, -errno; else pause() again and again.
_X86_64 = bytes.fromhex("b8b3010000 0f05 4885c0 7f01 c3 b822000000 0f05 ebf7")


def possible() -> bool:
    """Whether there is such code for this machine."""
    return os.uname().machine == "x86_64"


def clone_and_park(flags: int) -> None:
    """Returns in the child only, a sibling of this process with `flags`' new namespaces. Raises OSError here."""
    page = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)  # fmt: skip
    page.write(_X86_64)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    # PYFUNCTYPE: without letting go of the interpreter's lock, which only one of the two could take again.
    call = ctypes.PYFUNCTYPE(ctypes.c_long, ctypes.c_void_p, ctypes.c_size_t)(address)
    args = CloneArgs(flags=flags | CLONE_PARENT | _CLONE_VM, exit_signal=0)
    result = call(ctypes.addressof(args), ctypes.sizeof(args))
    if result < 0:
        raise OSError(-result, f"clone3 {flags:#x}: {os.strerror(-result)}")


def end(pidfd: int, pid: int) -> None:
    """Kills and reaps a parked process that is our child."""
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.waitpid(pid, 0)
