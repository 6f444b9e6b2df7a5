"""Programs that read what strangers have made (disks, trees, repositories), each in a jail that holds nothing else.

The root is empty but for the machine's programs, to read only, and the files that it is given by descriptor. The process
is a user that is nobody else, sees no other process and no network, has limits of memory, time and size, and a filter of
system calls. What a file refers to beyond itself is not there, whatever it is called (ADR 28).
"""

from __future__ import annotations

import json
import os
import resource
import selectors
import signal
import stat
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from sampan.linux import caps, mount, prctl, seccomp
from sampan.linux import namespaces as ns
from sampan.record import field, record

if TYPE_CHECKING:
    from sampan.linux.spec_types import SeccompCondition, SeccompRule

_PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/alternatives", "/etc/mke2fs.conf")
_NETWORK = ("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/ssl", "/etc/services")
_DEVICES = ("null", "zero", "urandom")
_FIRST_USER = 0x60000000  # of users that no distribution has: one for each mount namespace (as in vm.confine)
_NOBODY = 65534
_MOST_OUTPUT = 4 << 20
_MEMORY = 2 << 30  # of addresses
_DESCRIPTORS = 256
# What Docker's default policy lets containers do, and these programs need not.
_NEVER = """
fanotify_mark fanotify_init io_setup io_submit io_getevents io_pgetevents io_cancel io_destroy keyctl
memfd_secret mknod mknodat mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd
name_to_handle_at open_by_handle_at personality pidfd_open pidfd_send_signal process_mrelease process_vm_readv
process_vm_writev ptrace semctl semget semop semtimedop shmat shmctl shmdt shmget listen accept accept4 syslog
"""
_FAMILIES = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK: what looking up a name and connecting take
_ENTRY = """
import sys
sys.path.insert(0, sys.argv[1])
from sampan.runtime import jail
jail.enter(sys.argv[2])
"""


class JailError(Exception):
    """The program failed, or took more than it may; the text names it."""


@record
class Given:
    """A file or directory, or a mount that is nowhere: what the program finds at `path`. It may be written if `writable`, and
    belongs to the program's user for good if `owned`.
    """

    fd: int
    path: str
    writable: bool = False
    owned: bool = False


@record
class Limits:
    """What a run may take. `size` of each file it writes, `memory` of addresses, in bytes."""

    seconds: int = 600
    size: int = 0
    memory: int = _MEMORY


@record
class Ways:
    """What else a run has: the machine's network; an environment; where it begins."""

    network: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    directory: str = "/"


def arguments(command: list[str], given: list[Given], limits: Limits, ways: Ways | None = None) -> list[str]:
    """What to execute, with the descriptors of `given` to be inherited, for a program in a jail."""
    ways = ways or Ways()
    request = {
        "command": command,
        "given": [[each.fd, each.path, each.writable, each.owned] for each in given],
        "limits": [limits.seconds, limits.size, limits.memory],
        "network": ways.network,
        "environment": ways.environment,
        "directory": ways.directory,
    }
    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return [sys.executable, "-I", "-S", "-B", "-c", _ENTRY, source, json.dumps(request)]


def run(command: list[str], given: list[Given], limits: Limits, ways: Ways | None = None) -> str:
    """What a program prints. Raises JailError."""
    process = subprocess.Popen(
        arguments(command, given, limits, ways), pass_fds=[each.fd for each in given], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )  # fmt: skip
    try:
        out, error = _collect(process, command[0], limits.seconds)
        process.wait()
    finally:
        if process.returncode is None:
            process.kill()  # what is in the jail ends with it, even where it can't be waited for
            process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    if process.returncode:
        said = (error or out).decode(errors="replace").strip()[-500:]
        raise JailError(f"{command[0]}: {said or _ending(process.returncode)}")
    return out.decode(errors="replace")


def _ending(code: int) -> str:
    if code == 128 + signal.SIGKILL:
        return "it was ended: it took more time or memory than it may"
    return f"it ended with {code}"


def _collect(process: subprocess.Popen[bytes], name: str, seconds: int) -> tuple[bytes, bytes]:
    """What a process writes on its two ways out until it has closed both. Raises JailError when it takes too long or says too much."""
    deadline = time.monotonic() + seconds
    found: dict[Any, bytearray] = {process.stdout: bytearray(), process.stderr: bytearray()}
    with selectors.DefaultSelector() as waiting:
        for pipe in found:
            waiting.register(pipe, selectors.EVENT_READ)
        while waiting.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                raise JailError(f"{name}: ended after {seconds} seconds, which is as long as it may take")
            for key, _ in waiting.select(left):
                data = os.read(key.fd, 1 << 16)
                if not data:
                    waiting.unregister(key.fileobj)
                found[key.fileobj] += data
                if len(found[key.fileobj]) > _MOST_OUTPUT:
                    raise JailError(f"{name}: said more than {_MOST_OUTPUT} bytes")
    return bytes(found[process.stdout]), bytes(found[process.stderr])


# In the new process, from here on.


def enter(text: str) -> None:
    """The process's life: makes the jail, waits for the program in it, and ends as it does."""
    request: dict[str, Any] = json.loads(text)
    prctl.set_parent_death_signal(signal.SIGKILL)
    given = [(_copy(fd), fd, path, writable, owned) for fd, path, writable, owned in request["given"]]
    program = _filter(request["network"])
    flags = ns.CLONE_NEWNS | ns.CLONE_NEWPID | ns.CLONE_NEWIPC | ns.CLONE_NEWUTS
    ns.unshare(flags if request["network"] else flags | ns.CLONE_NEWNET)
    pid = os.fork()
    if pid:
        for fd in [*range(3), *(row[1] for row in given)]:
            os.close(fd)
        _, status = os.waitpid(pid, 0)
        os._exit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status))
    try:
        prctl.set_parent_death_signal(signal.SIGKILL)
        _become(request, given, program)
    except BaseException as error:
        os.write(2, f"the jail can't be made: {error}\n".encode())
        os._exit(125)


def _copy(fd: int) -> int:
    """A mount of what a descriptor refers to, which is nowhere yet."""
    try:
        return mount.open_tree(fd, "", recursive=stat.S_ISDIR(os.fstat(fd).st_mode))
    except OSError:  # a mount that is nowhere itself, which before Linux 6.15 has no copies
        return fd


def _become(request: dict[str, Any], given: list[tuple[int, int, str, bool, bool]], program: bytes) -> None:
    seconds, size, memory = request["limits"]
    command = request["command"]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/tmp", "TMPDIR": "/tmp", "LC_ALL": "C.UTF-8"}
    user = _user()
    _make_root(given, user, request["network"])
    os.chdir(request["directory"])
    os.umask(0o022)
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, size),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_NOFILE, _DESCRIPTORS),
        (resource.RLIMIT_NPROC, _DESCRIPTORS),
    ):
        resource.setrlimit(kind, (most, most))
    os.closerange(3, 1 << 16)
    caps.become(user, caps.mask(["CAP_DAC_OVERRIDE"]))  # whoever owns what it is given: there is nothing else
    prctl.set_parent_death_signal(signal.SIGKILL)  # a change of ids takes it back
    seccomp.install(program)
    os.execvpe(command[0], command, {**environment, **request["environment"]})


def _user() -> int:
    """A user that nobody else on this machine is while this process lives: numbers of namespaces are given out once."""
    if not ns.initial_user_namespace():
        return _NOBODY
    return _FIRST_USER + (os.stat("/proc/self/ns/mnt").st_ino - 0xF0000000) % 0x10000000


def _make_root(given: list[tuple[int, int, str, bool, bool]], user: int, network: bool) -> None:
    mount.mount(None, "/", None, mount.MS_SLAVE | mount.MS_REC)
    top = mount.new_filesystem("tmpfs", [("mode", "755"), ("size", "1m"), ("source", "jail")])
    closed = mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV
    for path in (*_PROGRAMS, *(_NETWORK if network else ())):
        if os.path.islink(path) and path in ("/bin", "/sbin", "/lib", "/lib64"):
            os.symlink(os.readlink(path), path.lstrip("/"), dir_fd=top)
        elif os.path.exists(path):
            tree = mount.open_tree(mount.AT_FDCWD, os.path.realpath(path), recursive=True)
            _place(top, tree, path, closed | mount.MOUNT_ATTR_RDONLY)
    for tree, fd, path, writable, owned in given:
        if owned:
            os.fchown(fd, user, user)
        _place(top, tree, path, closed | mount.MOUNT_ATTR_NOEXEC | (0 if writable else mount.MOUNT_ATTR_RDONLY))
    for name in ("dev", "tmp"):
        os.mkdir(name, 0o755, dir_fd=top)
    for name in _DEVICES:
        _place(top, mount.open_tree(mount.AT_FDCWD, f"/dev/{name}"), f"/dev/{name}", mount.MOUNT_ATTR_NOSUID)
    scratch = mount.new_filesystem("tmpfs", [("mode", "1777"), ("size", "64m"), ("source", "tmp")], closed)
    mount.move_mount(scratch, top, "tmp")
    _write(top, "etc/passwd", f"jail:x:{user}:{user}::/tmp:/bin/false\n")
    mount.mount_setattr(top, mount.MOUNT_ATTR_RDONLY)
    mount.move_mount(top, mount.AT_FDCWD, "/tmp")
    os.chdir("/tmp")
    mount.pivot_root(".", ".")
    mount.umount(".", mount.MNT_DETACH)
    os.chdir("/")


def _place(top: int, tree: int, path: str, attributes: int) -> None:
    """Puts a mount at `path` of the new root."""
    mount.mount_setattr(tree, attributes, propagation=mount.MS_PRIVATE, recursive=True)
    inside = f"/proc/self/fd/{top}{path}"
    if stat.S_ISDIR(os.fstat(tree).st_mode):
        os.makedirs(inside, 0o755, exist_ok=True)
    else:
        _write(top, path.lstrip("/"), "")
    mount.move_mount(tree, top, path.lstrip("/"))
    os.close(tree)


def _write(top: int, path: str, text: str) -> None:
    os.makedirs(f"/proc/self/fd/{top}/{os.path.dirname(path)}", 0o755, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644, dir_fd=top)
    os.write(fd, text.encode())
    os.close(fd)


def _filter(network: bool) -> bytes:
    """Docker's default policy for a container without capabilities, less what a converter of files never does."""
    from sampan.runtime.seccomp_default import profile

    section = profile([])
    section["architectures"] = section["architectures"][:1]
    never = {"socket", *_NEVER.split()}
    rules: list[SeccompRule] = []
    for rule in section["syscalls"]:
        names = [name for name in rule["names"] if name not in never]
        if names:
            rules.append({**rule, "names": names})
    for family in _FAMILIES if network else ():
        equal: SeccompCondition = {"index": 0, "value": family, "op": "SCMP_CMP_EQ"}
        rules.append({"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [equal]})
    return seccomp.compile_filter({**section, "syscalls": rules})
