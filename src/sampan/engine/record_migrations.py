"""Records of schema 0 to 2, which kept the API's objects as they came, as records of today.

This is the only place in engine/ that knows those keys, and it never changes: tests/unit/records/ has such records as they were
written. What such an engine would have refused is refused here with the same words; of what passes nothing is lost but members
that no engine has ever looked at.
"""

from __future__ import annotations

import calendar
import datetime
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import msgspec

from sampan.engine import model
from sampan.engine import record_v2 as form

NEWEST = 2  # of the schemas that this reads

_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z")
_NEVER = "0001-01-01T00:00:00Z"


class Bad(ValueError):
    """A value that no engine has written."""


_Row = Mapping[str, Any]


def _plain(row: _Row, names: Mapping[str, str]) -> dict[str, Any]:
    """What is given of these members, by the names that they have now."""
    found = {new: row[old] for old, new in names.items() if row.get(old) is not None}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


_CONFIG = {
    "Image": "image", "Hostname": "hostname", "Domainname": "domainname", "User": "user", "WorkingDir": "working_dir",
    "StopSignal": "stop_signal", "MacAddress": "mac_address", "StopTimeout": "stop_timeout", "Tty": "tty", "OpenStdin": "open_stdin",
    "StdinOnce": "stdin_once", "AttachStdin": "attach_stdin", "AttachStdout": "attach_stdout", "AttachStderr": "attach_stderr",
    "ArgsEscaped": "args_escaped", "Cmd": "cmd", "Entrypoint": "entrypoint", "Env": "env", "OnBuild": "on_build", "Labels": "labels",
}  # fmt: skip
_CHECK = {
    "Test": "test", "Interval": "interval", "Timeout": "timeout", "StartPeriod": "start_period", "StartInterval": "start_interval",
    "Retries": "retries",
}  # fmt: skip
_MACHINE = {
    "Cpus": "cpus", "Memory": "memory", "Bus": "bus", "User": "user", "Password": "password", "SshKeys": "ssh_keys", "UserData": "user_data",
}  # fmt: skip


def _config(row: _Row) -> model.Config:
    found = _plain(row, _CONFIG)
    for old, new in (("ExposedPorts", "exposed_ports"), ("Volumes", "volumes")):
        found[new] = tuple(row.get(old) or ())
    if row.get("Healthcheck"):
        found["health_check"] = model.HealthCheck(**_plain(row["Healthcheck"], _CHECK))
    if "Machine" in row:
        found["system_vm"] = model.SystemVm(**_plain(row["Machine"], _MACHINE))
    shell = row.get("Shell") or ()
    return model.Config(**found, shell=(shell,) if isinstance(shell, str) else tuple(shell))


_HOST = {
    "Isolation": "isolation", "NetworkMode": "network_mode", "PidMode": "pid_mode", "IpcMode": "ipc_mode", "UTSMode": "uts_mode",
    "UsernsMode": "user_namespace", "CgroupnsMode": "cgroup_namespace", "CgroupParent": "cgroup_parent",
    "ContainerIDFile": "container_id_file", "Runtime": "runtime", "VolumeDriver": "volume_driver", "AutoRemove": "auto_remove",
    "Privileged": "privileged", "ReadonlyRootfs": "read_only_root", "PublishAllPorts": "publish_all_ports", "Init": "init",
    "Binds": "binds", "Tmpfs": "tmpfs", "VolumesFrom": "volumes_from", "Links": "links", "CapAdd": "capabilities_added",
    "CapDrop": "capabilities_dropped", "Dns": "dns", "DnsOptions": "dns_options", "DnsSearch": "dns_search",
    "ExtraHosts": "extra_hosts", "SecurityOpt": "security_options", "MaskedPaths": "masked_paths", "ReadonlyPaths": "read_only_paths",
    "DeviceCgroupRules": "device_cgroup_rules", "Sysctls": "sysctls", "StorageOpt": "storage_options", "Annotations": "annotations",
    "ShmSize": "shm_size", "OomScoreAdj": "oom_score_adj",
}  # fmt: skip
_LIMITS = {
    "Memory": "memory", "MemorySwap": "memory_swap", "MemoryReservation": "memory_reservation", "MemorySwappiness": "memory_swappiness",
    "NanoCpus": "nano_cpus", "CpuShares": "cpu_shares", "CpuPeriod": "cpu_period", "CpuQuota": "cpu_quota", "CpusetCpus": "cpuset_cpus",
    "CpusetMems": "cpuset_mems", "PidsLimit": "pids_limit", "BlkioWeight": "blkio_weight", "OomKillDisable": "oom_kill_disable",
}  # fmt: skip
_DEVICE = {"PathOnHost": "host_path", "PathInContainer": "path", "CgroupPermissions": "access"}
_REQUEST = {"Driver": "driver", "Count": "count", "DeviceIDs": "device_ids", "Options": "options"}


def _host_config(row: _Row) -> model.HostConfig:
    found = _plain(row, _HOST)
    size: list[int] = row.get("ConsoleSize") or []
    policy, log = row.get("RestartPolicy") or {}, row.get("LogConfig") or {}
    return model.HostConfig(
        **found,
        console_size=(size[0], size[1]) if len(size) == 2 else None,
        additional_groups=tuple(map(str, row.get("GroupAdd") or ())),
        mounts=tuple(map(_mount_request, row.get("Mounts") or ())),
        port_bindings={port: _bindings(rows or ()) for port, rows in (row.get("PortBindings") or {}).items()},
        devices=tuple(model.Device(**_plain(item, _DEVICE)) for item in row.get("Devices") or ()),
        device_requests=tuple(map(_device_request, row.get("DeviceRequests") or ())),
        limits=model.Limits(**_plain(row, _LIMITS)),
        ulimits=tuple(model.Ulimit(item["Name"], item["Soft"], item["Hard"]) for item in row.get("Ulimits") or ()),
        restart_policy=model.RestartPolicy(**_plain(policy, {"Name": "name", "MaximumRetryCount": "max_retries"})),
        log_config=model.LogConfig(**_plain(log, {"Type": "driver", "Config": "options"})),
    )


def _bindings(rows: Iterable[_Row]) -> tuple[model.PortBinding, ...]:
    return tuple(model.PortBinding(str(row.get("HostIp") or ""), str(row.get("HostPort") or "")) for row in rows)


def _device_request(row: _Row) -> model.DeviceRequest:
    kinds = tuple(tuple(kind or ()) for kind in row.get("Capabilities") or ())
    return model.DeviceRequest(**_plain(row, _REQUEST), capabilities=kinds)


_BIND = {
    "Propagation": "propagation", "NonRecursive": "non_recursive", "CreateMountpoint": "create_source",
    "ReadOnlyForceRecursive": "read_only_force_recursive",
}  # fmt: skip


def _mount_request(row: _Row) -> model.MountRequest:
    found = _plain(
        row,
        {"Type": "kind", "Source": "source", "Target": "target", "ReadOnly": "read_only", "Consistency": "consistency"},
    )
    bind, volume, tmpfs = (row.get(f"{kind}Options") for kind in ("Bind", "Volume", "Tmpfs"))
    if bind is not None:
        found["bind"] = model.BindOptions(**_plain(bind, _BIND))
    if volume is not None:
        driver = _plain(volume.get("DriverConfig") or {}, {"Name": "driver", "Options": "driver_options"})
        options = _plain(volume, {"NoCopy": "no_copy", "Labels": "labels", "Subpath": "subpath"})
        found["volume"] = model.VolumeOptions(**options, **driver)
    if tmpfs is not None:
        found["tmpfs"] = model.TmpfsOptions(**_plain(tmpfs, {"SizeBytes": "size", "Mode": "mode"}))
    return model.MountRequest(**found)


def _moment(text: str, key: str) -> int:
    """Nanoseconds since the epoch of a time as RFC 3339 writes it; 0 for never. Raises Bad."""
    parts = _TIME.fullmatch(text)
    try:
        moment = datetime.datetime.fromisoformat(parts[1]) if parts else None
    except ValueError:
        moment = None
    if parts is None or moment is None:
        raise Bad(f"{key} is no time: {text!r}")
    seconds = calendar.timegm(moment.timetuple())
    return 0 if text == _NEVER else max(seconds * 10**9 + int((parts[2] or "").ljust(9, "0")), 0)


def _state(row: _Row) -> model.State:
    runs = row["Status"] in ("running", "paused")
    if row["Running"] != runs or row["Paused"] != (row["Status"] == "paused"):
        raise Bad(f"Running and Paused contradict the status {row['Status']}")
    return model.State(
        status=model.Status(row["Status"]), pid=row["Pid"], exit_code=row["ExitCode"], error=row["Error"], oom_killed=row["OOMKilled"],
        started_at=_moment(row["StartedAt"], "StartedAt"), finished_at=_moment(row["FinishedAt"], "FinishedAt"),
    )  # fmt: skip


def _health(row: _Row | None) -> model.Health | None:
    if row is None:
        return None
    log = [model.Probe(_moment(item.get("Start") or _NEVER, "Start"), _moment(item.get("End") or _NEVER, "End"), item.get("ExitCode", 0),
                       item.get("Output", "")) for item in row["Log"]]  # fmt: skip
    return model.Health(model.HealthStatus(row["Status"]), row["FailingStreak"], log)


_MOUNT = {
    "Source": "source", "Destination": "destination", "Mode": "mode", "Propagation": "propagation", "Name": "name", "Driver": "driver",
    "Subpath": "subpath", "NoCopy": "no_copy", "NonRecursive": "non_recursive",
}  # fmt: skip


def _mounts(rows: list[_Row]) -> list[model.Mount]:
    for row in rows:
        for key in ("Type", "Source", "Destination", "RW", "Mode", "Propagation"):
            if key not in row:
                raise Bad(f"a mount has no {key}")
    return [
        model.Mount(kind=model.MountType(row["Type"]), read_only=not row["RW"], **_plain(row, _MOUNT)) for row in rows
    ]


def _networks(rows: Mapping[str, _Row]) -> dict[str, model.EndpointSettings]:
    return {name: _endpoint(row) for name, row in rows.items()}


def _endpoint(row: _Row) -> model.EndpointSettings:
    names = {
        "Aliases": "aliases",
        "Links": "links",
        "MacAddress": "mac",
        "DriverOpts": "driver_options",
        "GwPriority": "gateway_priority",
    }
    found = _plain(row, names)
    if row.get("IPAMConfig"):
        addresses = {"IPv4Address": "ipv4", "IPv6Address": "ipv6", "LinkLocalIPs": "link_local"}
        found["addresses"] = model.Addresses(**_plain(row["IPAMConfig"], addresses))
    return model.EndpointSettings(**found)


def _ports(rows: list[_Row]) -> list[model.PublishedPort]:
    return [model.PublishedPort(**row) for row in rows]


def _asked(row: _Row) -> model.Asked:
    return model.Asked(labels=row.get("labels"), names=tuple(row.get("names") or ()))


# By the fields that have another form now: what they had to be, and what becomes of them.
_FORMS: dict[str, tuple[Any, Callable[[Any], object]]] = {
    "config": (form.Config, _config), "host_config": (form.HostConfig, _host_config), "state": (form.State, _state),
    "mounts": (list[form.Mount], _mounts), "networks": (dict[str, form.Settings], _networks), "ports": (list[form.PublishedPort], _ports),
    "health": (form.Health | None, _health), "asked": (form.Asked, _asked),
}  # fmt: skip


def value(name: str, found: object) -> object:
    """A field's value of an old record as it is now. Raises Bad, which says what is wrong with it."""
    if name not in _FORMS:
        return found
    kind, convert = _FORMS[name]
    try:
        msgspec.convert(found, kind)
        return convert(cast(Any, found))
    except msgspec.ValidationError as error:
        raise Bad(str(error)) from None
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise Bad(f"it is damaged: {error}") from None
