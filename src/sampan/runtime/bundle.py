"""A bundle's config.json: read, checked, and turned into what `spawn` takes."""

from __future__ import annotations

import base64
import json
import os
import resource

from sampan.linux import cgroup_limits, namespaces, seccomp
from sampan.linux.cgroup import Cgroup
from sampan.runtime import sysctls
from sampan.runtime.errors import RuntimeFailure
from sampan.runtime.rootfs import DEVICE_RULES
from sampan.runtime.sources import is_bind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.linux.spec_types import Resources
    from sampan.oci.runtime_spec import Linux, Process, Spec
    from sampan.runtime.requests import Launch

OCI_VERSION = "1.2.0"
_MAX_CONFIG = 16 << 20
# What would leave a container less confined than its configuration says, if it were passed over.
_NOT_HERE = {
    "intelRdt": "this runtime has no resctrl",
    "mountLabel": "this runtime has no SELinux; leave the label out",
    "netDevices": "this runtime moves no network interfaces",
}


def load(bundle: str) -> Spec:
    """The checked specification of the bundle. Raises RuntimeFailure naming what is wrong."""
    path = f"{bundle}/config.json"
    try:
        with open(path, "rb") as file:
            spec: Spec = json.loads(file.read(_MAX_CONFIG))
    except FileNotFoundError:
        raise RuntimeFailure(f"{path} not found: is {bundle} a bundle?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RuntimeFailure(f"{path}: {error}") from error
    if not isinstance(spec, dict):
        raise RuntimeFailure(f"{path}: not an object")
    spec.setdefault("linux", {})
    try:
        check(spec)
    except (KeyError, TypeError, AttributeError) as error:
        raise RuntimeFailure(f"{path}: missing or of the wrong type: {error}") from error
    return spec


def check(spec: Spec) -> None:
    """Refuses what the specification forbids (config.md). Raises RuntimeFailure."""
    version = str(spec.get("ociVersion", ""))
    if version.split(".")[0] != "1":
        raise RuntimeFailure(f"unsupported ociVersion {version!r}: this runtime speaks 1.x")
    if not (spec.get("root") or {}).get("path"):
        raise RuntimeFailure("root.path is required")
    if "process" in spec:
        check_process(spec["process"])
    check_resources(spec["linux"].get("resources") or {})
    seen: set[str] = set()
    for entry in spec["linux"].get("namespaces") or []:
        kind = entry["type"]
        if kind not in namespaces.KINDS:
            raise RuntimeFailure(f"unknown namespace type {kind!r}")
        if kind in seen:
            raise RuntimeFailure(f"namespace {kind} is listed twice")
        seen.add(kind)
    if "mount" not in seen:
        raise RuntimeFailure("linux.namespaces has no mount namespace: a root needs one")
    if spec.get("hostname") and "uts" not in seen:
        raise RuntimeFailure("hostname can't be set without a uts namespace")
    if spec["linux"].get("uidMappings") and "user" not in seen:
        raise RuntimeFailure("uidMappings without a user namespace")
    sysctls.check(spec)
    for key, what in _NOT_HERE.items():
        if spec["linux"].get(key):
            raise RuntimeFailure(f"linux.{key}: {what}")
    for mount in spec.get("mounts") or []:
        if not str(mount["destination"]).startswith("/"):
            mount["destination"] = "/" + mount["destination"]


def check_process(process: Process) -> None:
    """Refuses a process that can't be run. Raises RuntimeFailure."""
    if process.get("selinuxLabel"):
        raise RuntimeFailure(f"process.selinuxLabel {process['selinuxLabel']}: {_NOT_HERE['mountLabel']}")
    if not process.get("args"):
        raise RuntimeFailure("process.args must name a program")
    if not str(process.get("cwd") or "").startswith("/"):
        raise RuntimeFailure(f"process.cwd {process.get('cwd')!r} is not an absolute path")
    for limit in process.get("rlimits") or []:
        if not hasattr(resource, str(limit["type"])):
            raise RuntimeFailure(f"unknown rlimit {limit['type']}")


def check_resources(resources: Resources) -> None:
    """Refuses `linux.resources` of other types than the specification's. Raises RuntimeFailure."""
    try:
        cgroup_limits.changes(resources, cgroup_limits.V1_CONTROLLERS, ())
        cgroup_limits.changes(resources, (), ())
        for rule in resources.get("devices") or []:
            rule["allow"], rule.get("type")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RuntimeFailure(f"linux.resources: missing or of the wrong type: {error}") from error


def cgroup_path(spec: Spec, container_id: str, systemd: bool) -> str:
    """Where below the cgroup roots the container goes; "slice:prefix:name" is systemd's way to say it."""
    path = str(spec["linux"].get("cgroupsPath") or "")
    if systemd and path.count(":") == 2:
        slice_, prefix, name = path.split(":")
        unit = name if name.endswith(".slice") else f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
        if "/" in path:
            raise RuntimeFailure(f"linux.cgroupsPath {path!r} is no slice:prefix:name of systemd's")
        return f"{_slice_path(slice_ or 'system.slice')}/{unit}"
    if path.startswith("/"):
        return os.path.normpath(path)
    return f"/sampan-runtime/{os.path.normpath('/' + (path or container_id)).lstrip('/')}"


def _slice_path(name: str) -> str:
    """ "a-b.slice" lies in "a.slice" (systemd.slice(5))."""
    stem = name.removesuffix(".slice")
    if stem in ("", "-"):
        return ""
    parts = stem.split("-")
    return "".join(f"/{'-'.join(parts[: end + 1])}.slice" for end in range(len(parts)))


def request(spec: Spec, bundle: str, cgroup: str | None) -> Launch:
    """What `spawn.start` takes for this bundle. Raises RuntimeFailure."""
    for entry in spec.get("mounts") or []:
        source = entry.get("source") or ""
        if is_bind(entry) and not source.startswith("/"):
            entry["source"] = os.path.join(bundle, source)  # config.md: relative to the bundle
    where = os.path.realpath(os.path.join(bundle, spec["root"]["path"]))
    if not os.path.isdir(where):
        raise RuntimeFailure(f"root.path {spec['root']['path']!r}: {where} is not a directory")
    rules = (spec["linux"].get("resources") or {}).get("devices")
    if rules:
        rules += DEVICE_RULES  # those that config-linux.md says every container has
    section = spec["linux"].get("seccomp")
    program, flags = None, 0
    if section:
        try:
            program = base64.b64encode(seccomp.compile_filter(section)).decode()
            flags = seccomp.flags(section)
        except seccomp.SeccompError as error:
            raise RuntimeFailure(f"linux.seccomp: {error}") from error
    return {"spec": spec, "cgroup": cgroup, "where": where, "seccomp": program, "seccomp_flags": flags}


def usable_cgroup(path: str, spec: Spec) -> str | None:
    """The path, or None where an ordinary user may make no cgroup and none was asked for."""
    if os.geteuid() == 0 and os.access("/sys/fs/cgroup", os.W_OK):
        return path
    try:
        Cgroup(path).create({})
    except OSError:
        if spec["linux"].get("cgroupsPath") and os.geteuid() == 0:
            raise
        return None
    return path


def template(rootless: bool) -> Spec:
    """A specification to start from, for the command `spec`."""
    capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
    kinds = ["pid", "network", "ipc", "uts", "mount", "cgroup", *(["user"] if rootless else [])]
    linux: Linux = {
        "namespaces": [{"type": kind} for kind in kinds],
        "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                        "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    }  # fmt: skip
    if rootless:
        linux["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
        linux["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
    else:
        linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    return {
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "sampan",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
        ],
        "linux": linux,
    }  # fmt: skip
