"""The last steps before execve: identity, limits, capabilities, seccomp, descriptors."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # without the enums of `signal`
import ctypes
import errno
import functools
import os
import resource
from collections.abc import Callable

from sampan.linux import caps, openat2, prctl, scheduling, seccomp
from sampan.linux import mount as lm
from sampan.linux.syscall import check, libc, syscall
from sampan.record import record
from sampan.runtime import accounts, stdio
from sampan.runtime.errors import NOT_EXECUTABLE, NOT_FOUND, OTHER, RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.oci.runtime_spec import Capabilities, Process, Rlimit, Spec

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CLOSE_RANGE_CLOEXEC = 4
_SETS = ("bounding", "permitted", "effective", "inheritable", "ambient", "nonRootAmbient")  # as in Asked


@record
class Asked:
    """Capability sets of a specification as masks, and names in them that nobody knows."""

    unknown: list[str]
    bounding: int
    permitted: int
    effective: int
    inheritable: int
    ambient: int
    others_ambient: int  # for who is not root, who gets them no other way (P053)


@record
class Ahead:
    """What is known of a process without being it: found out by who clones it, for whom it costs no page faults."""

    environment: dict[str, str]  # HOME is "" where it is to be the account's
    asked: Asked | None
    bounding: int  # the capabilities that there are to be had


@record
class Prepared:
    """A process whose identity, environment and directory are known, and nothing of it given up yet."""

    wanted: Process
    account: accounts.Account
    environment: dict[str, str]
    ahead: Ahead


def look_ahead(process: Process, bounding: int) -> Ahead:
    """What a specification says of a process that will have this bounding set."""
    return Ahead(environment(process), _asked(process.get("capabilities")), bounding)


@functools.cache
def bounding_here() -> int:
    """The bounding set of a process that keeps it, and its user namespace, for as long as it lives."""
    return caps.bounding()


def prepare(process: Process, rootfd: int, create_cwd: bool, ahead: Ahead) -> Prepared:
    """Resolves user and environment and enters the working directory. Raises RuntimeFailure.

    Must run inside all namespaces with the root already in place, single-threaded.
    """
    account = _account(process, rootfd)
    home = ahead.environment["HOME"] or account.home
    _change_directory(rootfd, process.get("cwd") or "/", create_cwd)
    return Prepared(process, account, {**ahead.environment, "HOME": home}, ahead)


def execute(
    prepared: Prepared,
    seccomp_filter: bytes | None,
    seccomp_flags: int,
    warn: Callable[[str], None],
    preserve_fds: int = 0,
) -> None:
    """Turns this process into the container's. Returns only by raising RuntimeFailure."""
    process = prepared.wanted
    settle(process, warn)
    close_on_exec(3 + preserve_fds)
    sets = give_up(prepared, warn)
    if seccomp_filter is not None:
        # As late as can be: whatever comes after it, only capset and execve, the filter may deny.
        seccomp.install(seccomp_filter, seccomp_flags)
    if sets is not None:
        caps.capset(sets.effective, sets.permitted, sets.inheritable)
    _execute(process["args"], prepared.environment)


def settle(process: Process, warn: Callable[[str], None]) -> None:
    """What needs our privileges and takes none away. Raises RuntimeFailure."""
    _limits(process, warn)
    scheduling.apply(process)
    _security_label(process)
    mask = (process.get("user") or {}).get("umask")
    os.umask(0o022 if mask is None else mask)


def give_up(prepared: Prepared, warn: Callable[[str], None]) -> Sets | None:
    """Becomes the user, with the capabilities of the specification and the one that a filter's installation needs."""
    sets = _capability_sets(prepared.ahead, prepared.account, warn)
    _become(prepared.account, sets)
    _check_directory()
    if prepared.wanted.get("noNewPrivileges"):
        prctl.set_no_new_privs()
    return sets


@record
class Sets:
    """The capability sets as masks, the bounding set by what is dropped from it."""

    dropped: int
    permitted: int
    effective: int
    inheritable: int
    ambient: int


def _asked(capabilities: Capabilities | None) -> Asked | None:
    if capabilities is None:
        return None
    wanted: dict[str, list[str]] = capabilities  # type: ignore[assignment]
    names = [wanted.get(key) or [] for key in _SETS]
    unknown = set().union(*names).difference(caps.NUMBER)
    masks = [caps.mask([name for name in each if name not in unknown] if unknown else each) for each in names]
    return Asked(sorted(unknown), *masks)


def _capability_sets(ahead: Ahead, account: accounts.Account, warn: Callable[[str], None]) -> Sets | None:
    """What the specification asks for as far as we have it ourselves; config.md wants a warning for the rest."""
    asked, available = ahead.asked, ahead.bounding
    if asked is None:
        return None
    if asked.unknown:
        warn(f"unknown capabilities {', '.join(asked.unknown)} are ignored")
    missing = asked.bounding & ~available
    if missing:
        warn(f"capabilities {', '.join(caps.names(missing))} are not ours to give")
    bounding = available & asked.bounding
    # Capabilities asked for by name reach a program run by another user only as ambient (P053).
    ambient = (asked.ambient | (asked.others_ambient if account.uid != 0 else 0)) & bounding
    permitted = asked.permitted & bounding | ambient
    effective = asked.effective & permitted | ambient
    return Sets(available & ~bounding, permitted, effective, asked.inheritable & bounding | ambient, ambient)


def _security_label(process: Process) -> None:
    """The AppArmor profile that the next execve takes (proc_pid_attr(5)), by a private procfs (S013)."""
    profile = process.get("apparmorProfile")
    if not profile or profile == "unconfined":
        return
    if not os.path.isdir("/sys/module/apparmor") and not os.path.isdir("/sys/kernel/security/apparmor"):
        raise RuntimeFailure(f"apparmor profile {profile}: this kernel runs without AppArmor")
    proc = lm.new_filesystem("proc", [("source", "proc")])
    try:
        fd = os.open("thread-self/attr/apparmor/exec", os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
        os.write(fd, f"exec {profile}".encode())
        os.close(fd)
    except OSError as error:
        raise RuntimeFailure(f"apparmor profile {profile}: {error.strerror}") from error
    finally:
        os.close(proc)


def close_on_exec(first: int) -> None:
    """Marks every descriptor from `first` on close-on-exec, so that nothing leaks whatever opened it (S002)."""
    syscall("close_range", ctypes.c_uint(first), ctypes.c_uint(0xFFFFFFFF), ctypes.c_uint(_CLOSE_RANGE_CLOEXEC))


def close_from(first: int) -> None:
    """Closes every descriptor from `first` on."""
    syscall("close_range", ctypes.c_uint(first), ctypes.c_uint(0xFFFFFFFF), ctypes.c_uint(0))


def _account(process: Process, rootfd: int) -> accounts.Account:
    user = process.get("user") or {}
    if "username" in user:
        return accounts.resolve(rootfd, user["username"], tuple(user.get("additionalGroups") or ()))
    return accounts.of_numbers(rootfd, user.get("uid", 0), user.get("gid", 0), user.get("additionalGids") or [])


def environment(process: Process) -> dict[str, str]:
    """The variables of a specification, with a HOME, which is "" where it is to be the account's."""
    found: dict[str, str] = {}
    for item in process.get("env") or []:
        name, equals, value = item.partition("=")
        if equals and name:
            found[name] = value
    found.setdefault("HOME", "")
    return found


def _change_directory(rootfd: int, cwd: str, create: bool) -> None:
    if not cwd.startswith("/"):
        raise RuntimeFailure(f"the working directory {cwd!r} is invalid: it needs to be an absolute path")
    try:
        if create:
            fd = openat2.mkdir_in_root(rootfd, cwd)
        else:
            fd = openat2.open_in_root(rootfd, cwd, os.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise RuntimeFailure(f"chdir to cwd ({cwd!r}): {reason}", NOT_EXECUTABLE) from error
    os.fchdir(fd)
    os.close(fd)


def _check_directory() -> None:
    """A working directory outside of the root shows as "(unreachable)": refuse to go on (S002)."""
    try:
        inside = os.getcwd().startswith("/")
    except FileNotFoundError:
        inside = False
    except PermissionError:
        inside = True
    if not inside:
        raise RuntimeFailure("the working directory is outside of the container's root")


def _limits(process: Process, warn: Callable[[str], None]) -> None:
    for wanted in process.get("rlimits") or []:
        limit(wanted, warn)


def limit(wanted: Rlimit, warn: Callable[[str], None]) -> None:
    """One of `rlimits`; what may not be raised that far is clamped, with a warning."""
    number = getattr(resource, wanted["type"], None)
    if number is None:
        raise RuntimeFailure(f"unknown rlimit {wanted['type']}")
    soft, hard = (rlim(wanted[key]) for key in ("soft", "hard"))
    try:
        resource.setrlimit(number, (soft, hard))
    except (PermissionError, ValueError):
        roof = resource.getrlimit(number)[1]
        clamp = [value if roof == -1 or 0 <= value <= roof else roof for value in (soft, hard)]
        resource.setrlimit(number, (clamp[0], clamp[1]))
        warn(f"{wanted['type']}: may not be raised to {wanted['hard']}, clamped to {roof}")


def rlim(value: int) -> int:
    """A limit as setrlimit(2) has it in Python: -1 is none."""
    return -1 if value < 0 or value >= 1 << 63 else value


def _become(account: accounts.Account, sets: Sets | None) -> None:
    """Takes the ids and drops capabilities, all but the one that installing a seccomp filter needs."""
    if sets is not None:
        caps.drop_bounding(sets.dropped)
        prctl.set_keepcaps(True)
    stdio.give(account.uid)
    try:
        os.setgroups(account.groups)
    except PermissionError:
        if account.groups not in ((), (account.gid,)):
            raise RuntimeFailure("supplementary groups can't be set in this user namespace") from None
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)
    if sets is None:
        return
    admin = caps.mask(["CAP_SYS_ADMIN"]) & caps.permitted()
    caps.capset(sets.effective | admin, sets.permitted | admin, sets.inheritable)
    caps.set_ambient(sets.ambient)
    prctl.set_keepcaps(False)


def handled_signals() -> list[int]:
    """The signals that this process, and who is cloned from it, does not leave to the kernel."""
    handler, default = _signal.getsignal, (_signal.SIG_DFL, None)
    return [number for number in range(1, _signal.NSIG) if handler(number) not in default]


def reset_signals(handled: list[int]) -> None:
    """Ignored signals survive execve: give the defaults back to those that Python or our caller ignores."""
    for number in handled:
        _signal.signal(number, _signal.SIG_DFL)  # a handler, too: what it is may be gone before execve
    _signal.pthread_sigmask(_signal.SIG_SETMASK, [])


def candidates(command: str, environment: dict[str, str]) -> list[str]:
    if "/" in command:
        return [command]
    return [f"{directory or '.'}/{command}" for directory in environment.get("PATH", DEFAULT_PATH).split(":")]


def _not_found(command: str) -> RuntimeFailure:
    if "/" in command:
        return RuntimeFailure(f'exec: "{command}": stat {command}: no such file or directory', NOT_FOUND)
    return RuntimeFailure(f'exec: "{command}": executable file not found in $PATH', NOT_FOUND)


def find_executable(prepared: Prepared) -> None:
    """Checks, without running it, that there is such a program. Raises RuntimeFailure."""
    command = prepared.wanted["args"][0]
    found = [name for name in candidates(command, prepared.environment) if os.path.exists(name)]
    if not found:
        raise _not_found(command)
    if not any(os.access(name, os.X_OK) and not os.path.isdir(name) for name in found):
        raise RuntimeFailure(f'exec: "{command}": permission denied', NOT_EXECUTABLE)


def _execute(args: list[str], environment: dict[str, str]) -> None:
    command = args[0]
    found = []
    for candidate in candidates(command, environment):
        try:
            os.execve(candidate, args, environment)
        except OSError as error:
            found.append(error.errno or 0)
    raise not_executed(command, found)


def not_executed(command: str, found: list[int]) -> RuntimeFailure:
    """Why none of a program's candidates could be executed, by their errors."""
    failure = next((number for number in found if number not in (errno.ENOENT, errno.ENOTDIR)), None)
    if failure is None:
        return _not_found(command)
    kind = NOT_EXECUTABLE if failure in (errno.EACCES, errno.ENOEXEC, errno.EISDIR) else OTHER
    return RuntimeFailure(f'exec: "{command}": {os.strerror(failure).lower()}', kind)


def set_hostnames(spec: Spec) -> None:
    """sethostname(2) and setdomainname(2), in the container's own UTS namespace."""
    for name, call, subject in (
        (spec.get("hostname"), libc.sethostname, "hostname"),
        (spec.get("domainname"), libc.setdomainname, "domainname"),
    ):
        if name:
            raw = name.encode()
            check(call(raw, ctypes.c_size_t(len(raw))), subject, name)
