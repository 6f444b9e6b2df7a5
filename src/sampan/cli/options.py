"""The flags of `run` and `create`, and the API request they make."""

from __future__ import annotations

import os

from sampan.cli.flags import UsageError, Values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def size(text: str, flag: str) -> int:
    """Bytes of "64m", "1.5g". Raises UsageError."""
    from sampan import sizes  # most runs have none: not on the quick path

    try:
        return sizes.parse(text)
    except ValueError:
        raise UsageError(f'invalid argument "{text}" for "--{flag}" flag: invalid size: {text!r}') from None


def duration(text: str, flag: str) -> int:
    """Nanoseconds of "1m30s". Raises UsageError."""
    units = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
    total, number, rest = 0.0, "", text
    while rest:
        while rest[:1] in _DIGITS:
            number, rest = number + rest[0], rest[1:]
        unit = next((u for u in ("ns", "us", "ms", "s", "m", "h") if rest.startswith(u)), None)
        if unit is None or number in ("", ".") or number.count(".") > 1:
            break
        total, number, rest = total + float(number) * units[unit], "", rest[len(unit) :]
    if rest or number or total >= 1 << 63:
        raise UsageError(f'invalid argument "{text}" for "--{flag}" flag: invalid duration {text!r}')
    return int(total)


_DIGITS = frozenset("0123456789.")


def env_file(path: str) -> list[str]:
    """Lines of an environment file, by Docker's rules: no quotes, no expansion. Raises UsageError."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise UsageError(f"open {path}: {(error.strerror or '').lower()}") from None
    found: list[str] = []
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            line = raw.decode().removesuffix("\r").lstrip(" \t")
        except UnicodeDecodeError:
            raise UsageError(f"invalid env file ({path}): line {number}: invalid utf8 bytes") from None
        if not line or line.startswith("#"):
            continue
        name, equals, _ = line.partition("=")
        if not name or any(c.isspace() for c in name):
            raise UsageError(f"invalid env file ({path}): line {number}: variable '{name}' contains whitespaces")
        if equals:
            found.append(line)
        elif name in os.environ:
            found.append(f"{name}={os.environ[name]}")
    return found


def environment(values: Values) -> list[str]:
    """--env-file then --env; a name alone takes its value from here, or is removed."""
    found = [line for path in values.items("env-file") for line in env_file(path)]
    for item in values.items("env"):
        name, equals, _ = item.partition("=")
        if not name:
            raise UsageError(f"invalid environment variable: {item}")
        found.append(item if equals else f"{name}={os.environ[name]}" if name in os.environ else name)
    return found


def pairs(items: list[str]) -> dict[str, str]:
    """The mapping of "key=value" options; without "=" the value is empty."""
    return {key: value for key, _, value in (item.partition("=") for item in items)}


def ulimit(text: str) -> dict[str, object]:
    """One --ulimit: NAME=SOFT[:HARD]. Raises UsageError."""
    name, equals, limits = text.partition("=")
    soft, _, hard = limits.partition(":")
    try:
        if not equals:
            raise ValueError
        return {"Name": name, "Soft": int(soft), "Hard": int(hard or soft)}
    except ValueError:
        raise UsageError(f'invalid argument "{text}" for "--ulimit" flag: invalid ulimit argument') from None


def _device(text: str) -> dict[str, str]:
    parts = text.split(":")
    source, target, mode = parts[0], parts[0], "rwm"
    if len(parts) > 1:
        if set(parts[1]) <= set("rwm"):
            mode = parts[1]
        else:
            target = parts[1]
    if len(parts) > 2:
        mode = parts[2]
    return {"PathOnHost": source, "PathInContainer": target, "CgroupPermissions": mode}


def _mount(text: str) -> dict[str, object]:
    mount: dict[str, Any] = {"Type": "volume"}
    for item in text.split(","):
        key, equals, value = item.partition("=")
        on = not equals or value in ("true", "1")
        if key == "type":
            mount["Type"] = value
        elif key in ("source", "src"):
            mount["Source"] = value
        elif key in ("target", "destination", "dst"):
            mount["Target"] = value
        elif key in ("readonly", "ro"):
            mount["ReadOnly"] = on
        elif key == "bind-propagation":
            mount.setdefault("BindOptions", {})["Propagation"] = value
        elif key in ("bind-create-src", "bind-create-mountpoint"):
            mount.setdefault("BindOptions", {})["CreateMountpoint"] = on
        elif key == "volume-nocopy":
            mount.setdefault("VolumeOptions", {})["NoCopy"] = on
        elif key == "volume-subpath":
            mount.setdefault("VolumeOptions", {})["Subpath"] = value
        elif key == "tmpfs-size":
            mount.setdefault("TmpfsOptions", {})["SizeBytes"] = size(value, "mount")
        elif key == "tmpfs-mode":
            mount.setdefault("TmpfsOptions", {})["Mode"] = int(value, 8)
        else:
            raise UsageError(f'invalid argument "{text}" for "--mount" flag: unexpected key \'{key}\'')
    if "Target" not in mount:
        raise UsageError(f'invalid argument "{text}" for "--mount" flag: target is required')
    return mount


def _volume(text: str) -> str:
    source, colon, rest = text.partition(":")
    if colon and source.startswith((".", "~")):
        return f"{os.path.abspath(os.path.expanduser(source))}:{rest}"
    return text


def _security(option: str) -> str:
    key, _, value = option.partition("=")
    if key == "seccomp" and value not in ("unconfined", "builtin"):
        try:
            with open(value, encoding="utf-8") as file:
                return f"seccomp={file.read()}"
        except OSError as error:
            raise UsageError(f"opening seccomp profile ({value}) failed: {error.strerror}") from None
    return option


def _health(v: Values) -> dict[str, object] | None:
    if v.on("no-healthcheck"):
        if any(name.startswith("health-") for name in v.given):
            raise UsageError("--no-healthcheck conflicts with --health-* options")
        return {"Test": ["NONE"]}
    times = {
        "Interval": (v.text("health-interval"), "health-interval"),
        "Timeout": (v.text("health-timeout"), "health-timeout"),
        "StartPeriod": (v.text("health-start-period"), "health-start-period"),
        "StartInterval": (v.text("health-start-interval"), "health-start-interval"),
    }
    check: dict[str, object] = {key: duration(text, flag) for key, (text, flag) in times.items() if text}
    if v.text("health-cmd"):
        check["Test"] = ["CMD-SHELL", v.text("health-cmd")]
    if v.number("health-retries"):
        check["Retries"] = v.number("health-retries")
    return check or None


def bytes_of(v: Values, flag: str) -> int:
    """The bytes of a flag that is a size; 0 where it was not given. Raises UsageError."""
    text = v.text(flag)
    return size(text, flag) if text else 0


def nano_cpus(v: Values) -> int:
    """--cpus in billionths; 0 where it was not given. Raises UsageError."""
    text = v.text("cpus")
    try:
        return round(float(text) * 10**9) if text else 0
    except (ValueError, OverflowError):
        raise UsageError(f'invalid argument "{text}" for "--cpus" flag: not a number') from None


def restart_policy(text: str) -> dict[str, Any] | None:
    """The RestartPolicy of --restart, such as "on-failure:3"; None where none is asked for. Raises UsageError."""
    name, colon, retries = text.partition(":")
    if name in ("", "no") and not colon:
        return None
    if colon and not retries.isdecimal():
        raise UsageError("invalid restart policy format: maximum retry count must be an integer")
    return {"Name": name, "MaximumRetryCount": int(retries or 0)}


def limits(v: Values) -> dict[str, Any]:
    """What `run` and `update` have in common: limits by their keys in HostConfig. Raises UsageError."""
    return {
        "Memory": bytes_of(v, "memory"), "MemorySwap": bytes_of(v, "memory-swap"), "MemoryReservation": bytes_of(v, "memory-reservation"),
        "CpuShares": v.number("cpu-shares"), "CpuPeriod": v.number("cpu-period"), "CpuQuota": v.number("cpu-quota"),
        "CpusetCpus": v.text("cpuset-cpus"), "CpusetMems": v.text("cpuset-mems"), "PidsLimit": v.number("pids-limit"),
        "BlkioWeight": v.number("blkio-weight"), "NanoCpus": nano_cpus(v),
        "CpuRealtimePeriod": v.number("cpu-rt-period"), "CpuRealtimeRuntime": v.number("cpu-rt-runtime"),
    }  # fmt: skip


def _networks(v: Values) -> tuple[str, dict[str, Any] | None]:
    """(NetworkMode, EndpointsConfig). Raises UsageError."""
    names = v.items("network")
    if len(names) < 2 and not any("=" in name for name in names) and v.given.isdisjoint(_ENDPOINT):
        return names[0] if names else "default", None
    from sampan.cli import ports  # most runs say no more of networks than a name: not on the quick path

    return ports.networks(v)


_ENDPOINT = ("network-alias", "ip", "ip6", "link-local-ip", "mac-address")


def _ports(v: Values) -> tuple[dict[str, Any], dict[str, Any]]:
    """(PortBindings, ExposedPorts). Raises UsageError."""
    if v.given.isdisjoint(("publish", "expose")):
        return {}, {}
    from sampan.cli import ports  # as above

    published = ports.bindings(v.items("publish"))
    exposed: dict[str, Any] = {port: {} for item in v.items("expose") for port in ports.expand(item)}
    return published, exposed | {port: {} for port in published}


def _devices(v: Values) -> dict[str, Any]:
    """Devices of the host's, and limits of single ones. Raises UsageError."""
    if v.given.isdisjoint(_OF_DEVICES):
        return {}
    from sampan.cli import devices  # most runs name none of those: not on the quick path

    found = devices.limits(v) | {"DeviceRequests": devices.requests(v)}
    return found | {"Devices": [_device(item) for item in v.items("device") if not devices.is_cdi(item)]}


_OF_DEVICES = (
    "blkio-weight-device",
    "device",
    "device-read-bps",
    "device-read-iops",
    "device-write-bps",
    "device-write-iops",
    "gpus",
)


def _host_config(v: Values, mode: str, published: dict[str, object]) -> dict[str, Any]:
    logs = v.text("log-driver") or v.items("log-opt")
    optional = {
        "PortBindings": published, "PublishAllPorts": v.on("publish-all"), "Links": v.items("link"),
        "Binds": [item for item in map(_volume, v.items("volume")) if ":" in item], "VolumesFrom": v.items("volumes-from"),
        "CapAdd": v.items("cap-add"), "CapDrop": v.items("cap-drop"), "SecurityOpt": [_security(o) for o in v.items("security-opt")],
        "Mounts": [_mount(item) for item in v.items("mount")],
        "Dns": v.items("dns"), "DnsOptions": v.items("dns-option"), "DnsSearch": v.items("dns-search"), "ExtraHosts": v.items("add-host"),
        "GroupAdd": v.items("group-add"), "PidMode": v.text("pid"), "IpcMode": v.text("ipc"), "UTSMode": v.text("uts"),
        "CgroupnsMode": v.text("cgroupns"), "Isolation": v.text("isolation"), "Runtime": v.text("runtime"), "StorageOpt": pairs(v.items("storage-opt")),
        "Init": v.on("init"), "ShmSize": bytes_of(v, "shm-size"), "OomScoreAdj": v.number("oom-score-adj"), "OomKillDisable": v.on("oom-kill-disable"),
        "Ulimits": [ulimit(item) for item in v.items("ulimit")], "Sysctls": pairs(v.items("sysctl")),
        "Tmpfs": {path: options for path, _, options in (item.partition(":") for item in v.items("tmpfs"))},
        "RestartPolicy": restart_policy(v.text("restart")),
        "LogConfig": {"Type": v.text("log-driver"), "Config": pairs(v.items("log-opt"))} if logs else None,
        "Annotations": pairs(v.items("annotation")), "CgroupParent": v.text("cgroup-parent"), "UsernsMode": v.text("userns"),
        "DeviceCgroupRules": v.items("device-cgroup-rule"), "VolumeDriver": v.text("volume-driver"), "HealthOnFailure": "" if v.text("health-on-failure") == "none" else v.text("health-on-failure"), "KernelMemory": bytes_of(v, "kernel-memory"),
        **limits(v), **_devices(v),
    }  # fmt: skip
    host: dict[str, Any] = {
        "AutoRemove": v.on("rm"),
        "NetworkMode": mode,
        "Privileged": v.on("privileged"),
        "ReadonlyRootfs": v.on("read-only"),
    }
    if v.number("memory-swappiness") is not None:
        host["MemorySwappiness"] = v.number("memory-swappiness")  # 0 says something, too
    return host | {key: value for key, value in optional.items() if value}


def request(v: Values, image: str, command: list[str], detached: bool = False) -> dict[str, Any]:
    """The body of POST /containers/create. Raises UsageError."""
    streams = {item.lower() for item in v.items("attach")}
    everything = not detached and not streams
    mode, endpoints = _networks(v)
    published, exposed = _ports(v)
    labels = [line for path in v.items("label-file") for line in env_file(path)] + v.items("label")
    body: dict[str, Any] = {
        "Image": image,
        "AttachStdin": (everything and v.on("interactive")) or "stdin" in streams,
        "AttachStdout": everything or "stdout" in streams,
        "AttachStderr": everything or "stderr" in streams,
        "OpenStdin": v.on("interactive"),
        "StdinOnce": v.on("interactive") and not detached,
        "Tty": v.on("tty"),
        "Env": environment(v),
        "HostConfig": _host_config(v, mode, published),
    }
    more: dict[str, Any] = {
        "Cmd": command or None, "Entrypoint": [v.text("entrypoint")] if "entrypoint" in v.given else None, "User": v.text("user"),
        "WorkingDir": v.text("workdir"), "Hostname": v.text("hostname"), "Domainname": v.text("domainname"), "Labels": pairs(labels),
        "StopSignal": v.text("stop-signal"), "StopTimeout": v.number("stop-timeout"), "Healthcheck": _health(v),
        "Volumes": {item: {} for item in v.items("volume") if ":" not in item}, "ExposedPorts": exposed,
        "NetworkingConfig": {"EndpointsConfig": endpoints} if endpoints else None,
    }  # fmt: skip
    body |= {key: value for key, value in more.items() if value not in (None, "", {}, [])}
    if v.on("use-api-socket"):
        from sampan.cli import apisocket  # few give it: not on the quick path

        apisocket.add(body)
    return body
