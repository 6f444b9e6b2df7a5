"""From a configuration to a runtime specification: pure, but for looking at device nodes."""

from __future__ import annotations

import base64
import functools
import resource
from collections.abc import Mapping, Sequence

from sampan.engine import cdi, devices, seccomp_profile
from sampan.engine.container import Container
from sampan.engine.errors import BadRequest
from sampan.engine.model import Config, HostConfig
from sampan.engine.mounts import DEFAULT_SHM, shared_memory, standard
from sampan.linux import caps, seccomp
from sampan.linux.spec_types import CpuLimits, DeviceRule, Resources
from sampan.oci.runtime_spec import Mount as MountEntry
from sampan.oci.runtime_spec import Namespace, Process, Rlimit, Spec
from sampan.runtime import init_program, seccomp_default
from sampan.runtime.errors import RuntimeFailure
from sampan.runtime.process import DEFAULT_PATH
from sampan.runtime.requests import Launch
from sampan.runtime.rootfs import DEVICE_RULES
from sampan.runtime.sysctls import namespace

DEFAULT_CAPABILITIES = [
    f"CAP_{name}"
    for name in [
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    ]
]
MASKED_PATHS = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
]
READONLY_PATHS = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
_NAMESPACES = ("network", "ipc", "uts")  # that have kernel parameters
_KNOWN_OPTIONS = ("no-new-privileges", "seccomp", "apparmor", "label", "systempaths", "writable-cgroups")


def capability_sets(host: HostConfig) -> tuple[list[str], list[str]]:
    """(capabilities, those asked for by name) from Privileged, CapAdd, CapDrop. Raises BadRequest."""
    add = added_capabilities(host)
    drop = [_capability(name) for name in host.capabilities_dropped]
    everything = [f"CAP_{name}" for name in caps.NAMES]
    permitted = _our_capabilities()
    if host.privileged:
        wanted = everything
    else:
        wanted = everything if "ALL" in add else [] if "ALL" in drop else list(DEFAULT_CAPABILITIES)
        wanted = [name for name in wanted if name not in drop]
        wanted += [name for name in add if name != "ALL" and name not in wanted]
    available = [name for name in wanted if permitted >> caps.NUMBER[name] & 1]
    return available, [name for name in add if name in available and "ALL" not in add]


@functools.cache
def _our_capabilities() -> int:
    """What the engine has itself; it never drops any."""
    return caps.permitted()


def added_capabilities(host: HostConfig) -> list[str]:
    """What CapAdd asks for, by whole names; ALL. Raises BadRequest."""
    return [_capability(name) for name in host.capabilities_added]


def _capability(name: str) -> str:
    upper = name.upper()
    if upper == "ALL":
        return upper
    full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
    if full not in caps.NUMBER:
        raise BadRequest(f'invalid capability: "{name}": unknown capability: "{full}"')
    return full


def security_options(host: HostConfig) -> dict[str, str]:
    """SecurityOpt by name. Raises BadRequest for one that is unknown."""
    found: dict[str, str] = {}
    for option in host.security_options:
        key, _, value = option.replace(":", "=", 1).partition("=") if "=" not in option else option.partition("=")
        if key not in _KNOWN_OPTIONS:
            raise BadRequest(f"invalid --security-opt: {option!r}")
        found[key] = value or "true"
    return found


def hidden_paths(host: HostConfig) -> dict[str, list[str] | None]:
    """The paths of the kernel's that it does not see, or can't write to, by Docker's keys; None where nothing is hidden."""
    if host.privileged or security_options(host).get("systempaths") == "unconfined":
        return {"MaskedPaths": None, "ReadonlyPaths": None}
    masked, readonly = host.masked_paths, host.read_only_paths
    return {
        "MaskedPaths": MASKED_PATHS if masked is None else list(masked),
        "ReadonlyPaths": READONLY_PATHS if readonly is None else list(readonly),
    }


def build(container: Container, mounts: Sequence[MountEntry], joins: Mapping[str, str]) -> Launch:
    """The keeper's request without "overlay" and "where". `joins`: namespace → path, "host" or ""."""
    config, host = container.config, container.host_config
    options = security_options(host)
    privileged = host.privileged
    sets, explicit = capability_sets(host)
    init = host.init and any(entry["destination"] == init_program.INSIDE for entry in mounts)
    process: Process = {
        "terminal": container.tty,
        "args": [*([init_program.INSIDE, "--"] if init else []), *command(config)],
        "env": environment(container),
        "cwd": config.working_dir or "/",
        "user": {"username": config.user, "additionalGroups": list(host.additional_groups)},
        "capabilities": {"bounding": sets, "effective": sets, "permitted": sets, "nonRootAmbient": explicit},
        "noNewPrivileges": options.get("no-new-privileges") == "true",
        "rlimits": rlimits(host),
    }
    if host.oom_score_adj:
        process["oomScoreAdj"] = host.oom_score_adj
    rows, columns = host.console_size or (0, 0)
    if rows and columns:
        process["consoleSize"] = {"height": rows, "width": columns}
    namespaces: list[Namespace] = [{"type": "mount"}]
    for kind, path in joins.items():
        if path != "host":
            namespaces.append({"type": kind, "path": path} if path else {"type": kind})
    hidden = hidden_paths(host)
    spec: Spec = {
        "ociVersion": "1.2.0",
        "process": process,
        "root": {"path": "rootfs", "readonly": host.read_only_root},
        "mounts": list(mounts),
        "linux": {
            "namespaces": namespaces,
            "resources": resources(host),
            "maskedPaths": hidden["MaskedPaths"] or [],
            "readonlyPaths": hidden["ReadonlyPaths"] or [],
            "sysctl": sysctls(host),
            "devices": [devices.node(item) for item in host.devices],
        },
    }
    if host.annotations:
        spec["annotations"] = dict(host.annotations)
    if joins.get("uts") != "host":
        spec["hostname"] = config.hostname
        spec["domainname"] = config.domainname
    if host.device_requests:
        cdi.apply(spec, cdi.edits(host.device_requests))
    program = seccomp_program(options, privileged, sets)
    return {"spec": spec, "cgroup": container.cgroup, "seccomp": program, "ping": True}


def rlimits(host: HostConfig) -> list[Rlimit]:
    """The limits asked for and, unless it is among them, 1024 open files that can be raised to our own limit.

    Programs that walk over all possible descriptors take for ever with a large soft limit (F23).
    """
    wanted: list[Rlimit] = [
        {"type": f"RLIMIT_{item.name.upper()}", "soft": item.soft, "hard": item.hard} for item in host.ulimits
    ]
    if not any(limit["type"] == "RLIMIT_NOFILE" for limit in wanted):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        wanted.append({"type": "RLIMIT_NOFILE", "soft": min(1024, hard) if hard >= 0 else 1024, "hard": hard})
    return wanted


def ordinary(group: str, namespaces: tuple[str, ...] = ("network", "pid", "ipc", "uts", "cgroup")) -> Launch:
    """The request of a container without any option, below the control group `group`: what the keeper should be prepared for."""
    container = Container("ordinary", "", 0, "", "", Config(cmd=("true",)), HostConfig(), group=group)
    entries = [*standard(False), shared_memory(DEFAULT_SHM)]
    return build(container, entries, dict.fromkeys(namespaces, "")) | {"seccomp": None}


def seccomp_program(options: dict[str, str], privileged: bool, capabilities: list[str]) -> str | None:
    """The filter in base64, or None for unconfined. Raises BadRequest for a bad profile."""
    wanted = options.get("seccomp", "unconfined" if privileged else "builtin")
    if wanted == "unconfined":
        return None
    if wanted in ("builtin", "default"):
        return base64.b64encode(seccomp_default.compiled(tuple(capabilities))).decode()
    try:
        return base64.b64encode(seccomp.compile_filter(seccomp_profile.section(wanted, capabilities))).decode()
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadRequest(f"decoding seccomp profile failed: {error}") from error


def command(config: Config) -> list[str]:
    """The argument vector: Entrypoint then Cmd. Raises BadRequest when there is none."""
    args = [*(config.entrypoint or ()), *config.cmd]
    if not args:
        raise BadRequest("no command specified")
    return args


def environment(container: Container) -> list[str]:
    """PATH, HOSTNAME and TERM first, then what image and user set; a later one wins."""
    merged = {"PATH": DEFAULT_PATH, "HOSTNAME": container.config.hostname}
    if container.tty:
        merged["TERM"] = "xterm"
    for item in container.config.env:
        name, equals, value = item.partition("=")
        if equals:
            merged[name] = value
        else:
            merged.pop(name, None)
    return [f"{name}={value}" for name, value in merged.items()]


def sysctls(host: HostConfig) -> dict[str, str]:
    """Kernel parameters, only those of the container's own namespaces. Raises BadRequest."""
    modes = dict(zip(_NAMESPACES, (host.network_mode, host.ipc_mode, host.uts_mode), strict=True))
    for name in host.sysctls:
        try:
            kind = namespace(name)
        except RuntimeFailure as error:
            raise BadRequest(str(error)) from None
        if kind not in modes:
            raise BadRequest(f"sysctl {name!r} is not allowed: it belongs to no namespace of the container")
        if modes[kind] == "host":
            raise BadRequest(f"sysctl {name!r} not allowed in host {kind} namespace")
    return dict(host.sysctls)


def resources(host: HostConfig) -> Resources:
    """`linux.resources` for the limits, which `limits.check` has seen. Raises BadRequest for a device that is not there."""
    limits = host.limits
    memory, swap = limits.memory, limits.memory_swap
    if memory and not swap:
        swap = memory * 2
    if host.privileged:
        rules: list[DeviceRule] = [{"allow": True, "access": "rwm"}]
    else:
        rules = [{"allow": False, "access": "rwm"}, *DEVICE_RULES]
        rules += [devices.allowed(devices.node(device)) for device in host.devices]
        rules += [rule for text in host.device_cgroup_rules for rule in devices.rules(text)]
    cpu: CpuLimits = {
        "shares": limits.cpu_shares,
        "quota": limits.cpu_quota,
        "period": limits.cpu_period,
        "cpus": limits.cpuset_cpus,
        "mems": limits.cpuset_mems,
        "realtimePeriod": limits.realtime_period,
        "realtimeRuntime": limits.realtime_runtime,
    }
    if limits.nano_cpus:
        cpu["period"], cpu["quota"] = 100000, limits.nano_cpus * 100000 // 10**9
    return {
        "devices": rules,
        "memory": {"limit": memory, "swap": swap, "reservation": limits.memory_reservation,
                   "disableOOMKiller": limits.oom_kill_disable, "swappiness": limits.memory_swappiness},
        "cpu": cpu,
        "pids": {"limit": limits.pids_limit},
        "blockIO": devices.block_io(limits),
    }  # fmt: skip
