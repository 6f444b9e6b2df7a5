"""Who reads what a guest says has no rights: an empty root, a user that is nobody else, a filter. Standard library only.

Whatever takes a right (taps, disks, QEMU, sockets, files) is done before `enter()`, and no byte of a guest is read
before it: what is left has descriptors, and no name of the host (ADR 26).
"""

from __future__ import annotations

import binascii
import functools
import os
import resource

from sampan.linux import caps, mount, prctl, seccomp
from sampan.linux.namespaces import CLONE_NEWNS, initial_user_namespace, unshare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.linux.spec_types import SeccompCondition, SeccompRule

# Identities are numbers of namespaces, which the kernel gives out once each over all engines and containers of a
# machine (proc_alloc_inum(), from 0xF0000000 on), moved to where no distribution has users.
_FIRST_NAMESPACE, _FIRST_UID = 0xF0000000, 0x60000000
_NOBODY = 65534
_MEMORY = 512 << 20  # of addresses; the interpreter has some 60 MiB of them
_LARGEST_FILE = 1 << 20  # the only files are the console's log and a report
_FILES = 4096  # descriptors: an exec takes four

# What an interpreter with an event loop needs that opens nothing, makes no process and is nobody's parent.
_CALLS = """
accept4 brk clock_gettime clock_nanosleep close close_range dup dup2 dup3 epoll_ctl epoll_create1 epoll_pwait
epoll_wait exit exit_group fcntl fstat ftruncate futex getegid geteuid getgid getpeername getpid getppid
getrandom getsockname getsockopt gettid gettimeofday getuid kill lseek madvise mremap munmap nanosleep newfstatat
pipe2 poll ppoll pread64 pwrite64 read readv recvfrom recvmsg restart_syscall rseq rt_sigaction rt_sigprocmask
rt_sigreturn sched_yield select pselect6 sendmsg sendto set_robust_list setsockopt shutdown sigaltstack
tgkill time wait4 write writev
"""
_PROT_EXEC = 4
_AF_INET = 2  # to the name server in its own network namespace: `dnsrelay`
# FIONBIO, FIOCLEX; FIONREAD; TCGETS (isatty), TIOCGWINSZ; TUNSETPERSIST.
_CONTROLS = (0x5421, 0x5451, 0x541B, 0x5401, 0x5413, 0x400454CB)


def identity() -> int:
    """The user for this process and its QEMU, nobody else's on this machine for as long as this process lives.

    That of its pid namespace if it is the first there; else it gets a mount namespace of its own.
    """
    kind = "pid" if os.getpid() == 1 else "mnt"
    if kind == "mnt":
        unshare(CLONE_NEWNS)
    if not initial_user_namespace():
        return _NOBODY  # the only one that is surely there; the host sees one of the engine's user's own
    return _FIRST_UID + (os.stat(f"/proc/self/ns/{kind}").st_ino - _FIRST_NAMESPACE) % 0x10000000


def enter(user: int, program: str) -> None:
    """Gives up every right of this process, for good; `user` is from identity(), called before. `program`: compiled()."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for target in (0, 1, 2):
        os.dup2(null, target)
    os.close(null)
    os.umask(0o077)
    unshare(CLONE_NEWNS)  # whoever was made since identity() stays in that namespace, with its root
    mount.mount(None, "/", None, mount.MS_SLAVE | mount.MS_REC)
    pivot(mount.new_filesystem("tmpfs", [("mode", "555"), ("size", "4k"), ("nr_inodes", "1"), ("source", "empty")]))
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_FSIZE, _LARGEST_FILE),
        (resource.RLIMIT_AS, _MEMORY),
        (resource.RLIMIT_NOFILE, min(_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1])),
    ):
        resource.setrlimit(kind, (most, most))
    caps.become(user, 0)
    prctl.set_dumpable(False)  # after the change of ids, which decides it anew
    seccomp.install(binascii.a2b_base64(program))


def pivot(top: int) -> None:
    """Makes a detached mount the root, read-only, with nothing of the old one left."""
    mount.mount_setattr(top, mount.MOUNT_ATTR_RDONLY)
    mount.move_mount(top, mount.AT_FDCWD, "/tmp")
    os.close(top)
    os.chdir("/tmp")
    mount.pivot_root(".", ".")
    mount.umount(".", mount.MNT_DETACH)
    os.chdir("/")


@functools.cache
def compiled(resolver: bool) -> str:
    """The program for enter(), in base64, made once by who asks for many: what is not among these calls fails with EPERM.

    `resolver`: whether it asks a name server, in a network namespace that has nothing else.
    """

    def only(name: str, index: int, value: int, mask: int = 0xFFFFFFFF) -> SeccompRule:
        equal: SeccompCondition = {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
        return {"names": [name], "action": "SCMP_ACT_ALLOW", "args": [equal]}

    rules: list[SeccompRule] = [{"names": _CALLS.split(), "action": "SCMP_ACT_ALLOW"}]
    if resolver:
        rules += [{"names": ["connect"], "action": "SCMP_ACT_ALLOW"}, only("socket", 0, _AF_INET)]
    rules += [only("ioctl", 1, number) for number in _CONTROLS]
    rules += [only(name, 2, 0, _PROT_EXEC) for name in ("mmap", "mprotect")]  # no new code
    program = seccomp.compile_filter({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules})
    return binascii.b2a_base64(program, newline=False).decode()
