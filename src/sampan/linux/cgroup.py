"""Control groups: where they are mounted, and one class for a group on v1, v2 and the hybrid."""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import signal
import time

from sampan.linux import cgroup_limits, devicefilter, filetree, pidfd
from sampan.linux.cgroup_limits import LimitRefused
from sampan.linux.files import read_or_empty
from sampan.linux.namespaces import initial_user_namespace
from sampan.record import field, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sampan.linux.spec_types import DeviceRule, Resources

ROOT = "/sys/fs/cgroup"


@record
class Hierarchies:
    """The mounted hierarchies: v1 controller name → mountpoint, and the v2 root with its controllers."""

    v1: dict[str, str]
    v2: str | None
    v2_controllers: frozenset[str]

    @property
    def usable(self) -> bool:
        """Whether there are any that we can make groups in."""
        return bool(self.v1 or self.v2)

    @property
    def version(self) -> str:
        """ "2" when every controller we need is on v2, else "1" (as `docker info` says it)."""
        return "2" if self.v2 and not self.v1.get("memory") and not self.v1.get("pids") else "1"


@functools.cache
def hierarchies() -> Hierarchies:
    """Reads /proc/self/mountinfo (proc(5)) once. In a user namespace, none: the kernel lets nobody there make groups
    in the machine's hierarchies."""
    if not initial_user_namespace():
        return Hierarchies({}, None, frozenset())
    v1: dict[str, str] = {}
    v2: str | None = None
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            target = before.split()[4]
            fstype, _, options = after.split()[:3]
            if fstype == "cgroup2" and v2 is None:
                v2 = target
            elif fstype == "cgroup":
                for option in options.split(","):
                    if option in cgroup_limits.V1_CONTROLLERS or option.startswith("name="):
                        v1.setdefault(option, target)
    controllers: frozenset[str] = frozenset()
    if v2:
        with open(f"{v2}/cgroup.controllers", encoding="ascii") as file:
            controllers = frozenset(file.read().split())
    return Hierarchies(v1, v2, controllers)


# What every container joins; the others only where a limit asks for them.
_ALWAYS = ("memory", "cpu", "cpuacct", "pids", "devices", "freezer", "blkio")


@record
class Cgroup:
    """One control group, by its path below the roots ("/sampan/ID"), on all hierarchies at once."""

    path: str
    warnings: list[str] = field(default_factory=list)

    def directories(self, extra: tuple[str, ...] = ()) -> dict[str, str]:
        """Controller → directory of this group on v1 (each mountpoint once)."""
        found: dict[str, str] = {}
        mounts = hierarchies().v1
        seen: set[str] = set()
        for name in (*_ALWAYS, *extra):
            mountpoint = mounts.get(name)
            if mountpoint and mountpoint not in seen:
                seen.add(mountpoint)
                found[name] = mountpoint + self.path
        return found

    @property
    def v2_directory(self) -> str | None:
        """The directory on the v2 hierarchy, if one is mounted."""
        root = hierarchies().v2
        return root + self.path if root else None

    def create(self, resources: Resources) -> None:
        """Makes the group and applies the limits of `linux.resources`.

        A limit the kernel has no controller for becomes a line in `warnings`; a value the kernel
        refuses raises LimitRefused.
        """
        extra = cgroup_limits.extra_controllers(resources)
        for name, directory in self.directories(extra).items():
            made = _make(directory)
            if name == "cpuset" or "cpuset" in extra:
                _inherit_cpuset(directory)
            if made and name == "memory":
                _try_write(f"{directory}/memory.use_hierarchy", "1")
        if self._uses_v2():
            directory = self.v2_directory or ""
            _enable_controllers(hierarchies().v2 or "", self.path)
            _make(directory)
        self.apply(resources)

    def apply(self, resources: Resources, devices: bool = True) -> None:
        """Writes limits to a group that is being made. Raises LimitRefused."""
        for directory, change in self._changes(resources):
            self._write(directory, change)
        rules = resources.get("devices") or []
        if devices and rules:
            self._apply_devices(rules)

    def update(self, resources: Resources) -> Callable[[], None]:
        """Writes the limits of a group that is in use, all of them or none; returns what takes them back. Raises LimitRefused."""
        before: list[tuple[str, str]] = []

        def put_back() -> None:
            for path, value in reversed(before):
                _try_write(path, value)

        try:
            for directory, change in self._changes(resources):
                path = f"{directory}/{change.file}"
                values = cgroup_limits.before(read_or_empty(path), change.value)
                if self._write(directory, change):
                    before += [(path, value) for value in values]
        except BaseException:
            put_back()
            raise
        return put_back

    def _changes(self, resources: Resources) -> Iterator[tuple[str, cgroup_limits.Change]]:
        """The writes with their directories; what the kernel has no controller for is a warning."""
        mounts = hierarchies()
        for change in cgroup_limits.changes(resources, mounts.v1.keys(), mounts.v2_controllers):
            if change.controller in mounts.v1:
                directory = mounts.v1[change.controller] + self.path
            elif self.v2_directory and change.controller in mounts.v2_controllers:
                directory = self.v2_directory
            else:
                self.warnings.append(f"this kernel has no {change.controller} cgroup: {change.what} ignored")
                continue
            yield directory, change

    def _write(self, directory: str, change: cgroup_limits.Change) -> bool:
        """Whether it has been written; a warning says why not. Raises LimitRefused."""
        try:
            _write(f"{directory}/{change.file}", change.value)
        except FileNotFoundError:
            self.warnings.append(f"this kernel has no {change.file}: {change.what} ignored")
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            if not change.optional:
                raise LimitRefused(error.errno, f"{change.what} {change.value}: {reason}", change.file) from None
            self.warnings.append(f"{change.file}: {reason}: {change.what} ignored")
        else:
            return True
        return False

    def _apply_devices(self, rules: list[DeviceRule]) -> None:
        mountpoint = hierarchies().v1.get("devices")
        if mountpoint is None:
            if self.v2_directory:
                devicefilter.attach(self.v2_directory, rules)
            return
        for rule in rules:
            file = "devices.allow" if rule["allow"] else "devices.deny"
            kind = rule.get("type") or "a"
            text = "a"
            if kind != "a" or any(rule.get(key) not in (None, -1) for key in ("major", "minor")):
                major, minor = ("*" if rule.get(k) in (None, -1) else rule[k] for k in ("major", "minor"))
                text = f"{kind} {major}:{minor} {rule.get('access') or 'rwm'}"
            _write(f"{mountpoint}{self.path}/{file}", text)

    def _uses_v2(self) -> bool:
        mounts = hierarchies()
        return bool(mounts.v2) and (mounts.version == "2" or not mounts.v1)

    def join(self) -> None:
        """Moves the calling process, which must be single-threaded, into the group.

        On v1 through ``tasks`` with "0": the kernel takes no system-wide lock when a thread moves itself, and
        this costs 0.05 ms a hierarchy. Moving another process, or through ``cgroup.procs``, waits for an RCU
        grace period: 5 to 15 ms for all of them here (cgroup_procs_write_start in kernel/cgroup/cgroup.c).
        """
        for directory in self._all_directories():
            v1 = directory != self.v2_directory
            try:
                _write(f"{directory}/{'tasks' if v1 else 'cgroup.procs'}", "0")
            except FileNotFoundError:
                continue  # this controller was not asked for

    def _all_directories(self) -> list[str]:
        found = list(self.directories(("cpuset", "hugetlb", "net_cls", "net_prio", "perf_event", "rdma",
                                       "misc", "name=systemd")).values())  # fmt: skip
        if self.v2_directory:
            found.append(self.v2_directory)
        return found

    def rename(self, path: str) -> None:
        """Gives the group another name below the same parent; v1 only. Raises OSError."""
        for directory in self._all_directories():
            if directory != self.v2_directory and os.path.isdir(directory):
                os.rename(directory, f"{os.path.dirname(directory)}/{os.path.basename(path)}")
        if self.v2_directory and os.path.isdir(self.v2_directory):
            os.rmdir(self.v2_directory)
        self.path = path

    def children(self) -> list[str]:
        """The names of the groups directly below this one."""
        names: set[str] = set()
        for directory in self._all_directories():
            try:
                names.update(entry.name for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False))
            except FileNotFoundError:
                continue
        return sorted(names)

    @staticmethod
    def extra_controllers(resources: Resources) -> tuple[str, ...]:
        """The v1 controllers that these limits need beyond those that every group is made on."""
        return cgroup_limits.extra_controllers(resources)

    def hold(self) -> int:
        """A descriptor with a lock on the group, for as long as it is open; -1 when another has it, or there is no group.

        By flock(2) on a directory of the group: it holds across pid and mount namespaces that share the tree.
        """
        for directory in self._all_directories():
            try:
                fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(fd)
                return -1
            return fd
        return -1

    def exists(self) -> bool:
        """Whether the group exists on any hierarchy."""
        return any(os.path.isdir(directory) for directory in self._all_directories())

    def pids(self) -> list[int]:
        """All processes of the group and its subgroups."""
        if self._uses_v2():
            top = self.v2_directory or ""
        else:
            top = next(iter(self.directories().values()), "")
        found: list[int] = []
        for fd, _ in filetree.walk(top):
            try:
                with open("cgroup.procs", encoding="ascii", opener=functools.partial(os.open, dir_fd=fd)) as file:
                    found += [int(line) for line in file]
            except OSError:
                continue
        return found

    def freeze(self, frozen: bool) -> None:
        """Stops or continues every process of the group, and waits until the kernel has done it."""
        if self._uses_v2():
            _write(f"{self.v2_directory}/cgroup.freeze", "1" if frozen else "0")
            wanted, file = f"frozen {int(frozen)}", f"{self.v2_directory}/cgroup.events"
        else:
            wanted = "FROZEN" if frozen else "THAWED"
            file = f"{self.directories()['freezer']}/freezer.state"
            _write(file, wanted)
        for attempt in range(500):
            if wanted in read_or_empty(file):
                return
            if frozen and attempt % 50 == 49 and not self._uses_v2():
                _write(file, wanted)
            time.sleep(0.002)
        raise TimeoutError(f"cgroup {self.path} did not become {wanted.lower()} within a second")

    def frozen(self) -> bool:
        """Whether the group is frozen."""
        if self._uses_v2():
            return "frozen 1" in read_or_empty(f"{self.v2_directory}/cgroup.events")
        directory = self.directories().get("freezer")
        return bool(directory) and read_or_empty(f"{directory}/freezer.state").startswith("FRO")

    def end(self, seconds: float = 10.0) -> bool:
        """Kills every process of the group, frozen ones too. Returns whether none is left."""
        deadline = time.monotonic() + seconds
        while (members := pidfd.signal_members(self.pids, signal.SIGKILL)) and time.monotonic() < deadline:
            if self.frozen():
                self.freeze(False)
            time.sleep(0.005)
        return not members

    def oom_kills(self) -> int:
        """How many processes of the group the kernel killed for lack of memory."""
        v1 = self.directories().get("memory")
        text = read_or_empty(f"{v1}/memory.oom_control") if v1 else read_or_empty(f"{self.v2_directory}/memory.events")
        for line in text.splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill":
                return int(value)
        return 0

    def discard(self) -> None:
        """Deletes the group where nothing is in it."""
        for directory in self._all_directories():
            try:
                os.rmdir(directory)
            except OSError:
                continue

    def remove(self) -> None:
        """Deletes the group and its subgroups; processes must be gone or going. Missing is fine."""
        for directory in self._all_directories():
            _remove_tree(directory)


def _make(directory: str) -> bool:
    try:
        os.mkdir(directory, 0o755)
        return True
    except FileExistsError:
        return False
    except FileNotFoundError:
        os.makedirs(directory, 0o755, exist_ok=True)
        return True


def _inherit_cpuset(directory: str) -> None:
    """A v1 cpuset starts empty, and then takes no process: fill it from its ancestors, top down."""
    mountpoint = hierarchies().v1.get("cpuset")
    if not mountpoint or not directory.startswith(mountpoint):
        return
    current = mountpoint
    for part in directory[len(mountpoint) :].strip("/").split("/"):
        for name in ("cpuset.cpus", "cpuset.mems"):
            inherited = read_or_empty(f"{current}/{name}")
            if not read_or_empty(f"{current}/{part}/{name}").strip():
                _try_write(f"{current}/{part}/{name}", inherited.strip())
        current = f"{current}/{part}"


def _enable_controllers(root: str, path: str) -> None:
    """Delegates every available controller down to the parent of `path` (cgroup v2's subtree_control)."""
    current = root
    for part in path.strip("/").split("/"):
        available = read_or_empty(f"{current}/cgroup.controllers").split()
        enabled = read_or_empty(f"{current}/cgroup.subtree_control").split()
        for name in available:
            if name not in enabled:
                _try_write(f"{current}/cgroup.subtree_control", f"+{name}")
        current = f"{current}/{part}"
        _make(current)


def _remove_tree(directory: str) -> None:
    for attempt in range(100):
        try:
            os.rmdir(directory)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise
            filetree.remove(directory, ignore_errors=True, files=False)  # groups that the container made
            time.sleep(0.001 * min(attempt, 20))
    raise OSError(errno.EBUSY, "cgroup still has processes", directory)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _try_write(path: str, text: str) -> None:
    try:
        _write(path, text)
    except OSError:
        pass
