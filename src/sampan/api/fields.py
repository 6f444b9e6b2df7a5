"""Docker's keys of a container's configuration: the tables that api.decode reads by and api.encode writes by."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

from sampan.api import conform
from sampan.api.conform import Reader, exactly, flag, mapping, strings, struct, text, texts, whole
from sampan.api.record import Field, Record, S, unavailable
from sampan.engine import model
from sampan.engine.errors import BadRequest
from sampan.network.ipam import PoolRequest
from sampan.network.model import IpamRequest, NetworkRequest

# readers of what is a tuple, a set or nothing in the model


def tuples(reader: Reader) -> Reader:
    """A list."""
    whole_list = conform.each(reader)
    return lambda value, path: tuple(cast(Iterable[object], whole_list(value, path)))


words_of = tuples(text)


def words(value: object, path: str) -> tuple[str, ...]:
    """A list of strings, or one string."""
    return (value,) if type(value) is str else cast(tuple[str, ...], words_of(value, path))


def _command(value: object, path: str) -> tuple[str, ...]:
    return () if value == "" else words(value, path)


def _names(value: object, path: str) -> tuple[str, ...]:
    """The keys of an object whose values say nothing: Go's way of writing a set."""
    return tuple(cast(dict[str, object], conform.names(value, path)))


def _set(value: object) -> dict[str, object]:
    return {name: {} for name in cast(Iterable[str], value)}


def size(value: object, path: str) -> tuple[int, int] | None:
    """Rows and columns of a terminal."""
    found = cast(list[int] | None, exactly(2, whole)(value, path))
    return (found[0], found[1]) if found and any(found) else None


def _list_or_null(value: object) -> list[str] | None:
    return list(cast(Iterable[str], value)) if value else None


def _or_null(value: object) -> object:
    return value or None


def _size_or_zeros(value: object) -> list[int]:
    return list(cast(tuple[int, int], value)) if value else [0, 0]


def unless_empty(record: Record[S]) -> Reader:
    """A record, or None when nothing in it is given."""
    nothing = record.read(None, "")

    def read(value: object, path: str) -> S | None:
        found = record.read(value, path)
        return None if found == nothing else found

    return read


def those_given(record: Record[S]) -> Reader:
    """A list of records without those in which nothing is given, as in Docker's own example."""
    nothing = record.read(None, "")
    whole_list = conform.each(record.read)
    return lambda value, path: tuple(
        each for each in cast(Iterable[object], whole_list(value, path)) if each != nothing
    )


def optional(record: Record[S]) -> Callable[[object], object]:
    """Writes a record, or null for None."""
    return lambda value: None if value is None else record.write(cast(S, value))


def each(record: Record[S]) -> Callable[[object], object]:
    """Writes a list of records."""
    return lambda value: record.write_each(cast(Iterable[S], value))


def each_or_null(record: Record[S]) -> Callable[[object], object]:
    """Writes a list of records, or null for an empty one."""
    return lambda value: record.write_each(cast(Iterable[S], value)) or None


# what runs

HEALTH_CHECK = Record(
    model.HealthCheck,
    {
        "Test": Field("test", words_of), "Interval": Field("interval", whole, optional=True), "Timeout": Field("timeout", whole, optional=True),
        "StartPeriod": Field("start_period", whole, optional=True), "StartInterval": Field("start_interval", whole, optional=True),
        "Retries": Field("retries", whole, optional=True),
    },
)  # fmt: skip

CONFIG = Record(
    model.Config,
    {
        "Hostname": Field("hostname", text), "Domainname": Field("domainname", text), "User": Field("user", text),
        "AttachStdin": Field("attach_stdin", flag), "AttachStdout": Field("attach_stdout", flag),
        "AttachStderr": Field("attach_stderr", flag), "ExposedPorts": Field("exposed_ports", _names, _set, optional=True),
        "Tty": Field("tty", flag), "OpenStdin": Field("open_stdin", flag), "StdinOnce": Field("stdin_once", flag),
        "Env": Field("env", words_of, _list_or_null), "Cmd": Field("cmd", _command, _list_or_null),
        "Healthcheck": Field("health_check", unless_empty(HEALTH_CHECK), optional(HEALTH_CHECK), optional=True),
        "ArgsEscaped": Field("args_escaped", flag, optional=True), "Image": Field("image", text),
        "Volumes": Field("volumes", _names, lambda value: _set(value) or None), "WorkingDir": Field("working_dir", text),
        "Entrypoint": Field("entrypoint", words), "MacAddress": Field("mac_address", text, optional=True),
        "OnBuild": Field("on_build", words_of, _list_or_null), "Labels": Field("labels", texts),
        "StopSignal": Field("stop_signal", text, optional=True), "Shell": Field("shell", words, optional=True),
        "StopTimeout": Field("stop_timeout", whole, optional=True),
    },
    checked={"NetworkDisabled": unavailable(flag)},
)  # fmt: skip

# what it has of the host

RESTART_POLICY = Record(
    model.RestartPolicy, {"Name": Field("name", text), "MaximumRetryCount": Field("max_retries", whole)}
)
LOG_CONFIG = Record(model.LogConfig, {"Type": Field("driver", text), "Config": Field("options", texts)})
PORT_BINDING = Record(model.PortBinding, {"HostIp": Field("host_ip", text), "HostPort": Field("host_port", text)})
ULIMIT = Record(model.Ulimit, {"Name": Field("name", text), "Soft": Field("soft", whole), "Hard": Field("hard", whole)})
DEVICE = Record(
    model.Device,
    {
        "PathOnHost": Field("host_path", text),
        "PathInContainer": Field("path", text),
        "CgroupPermissions": Field("access", text),
    },
)
DEVICE_REQUEST = Record(
    model.DeviceRequest,
    {
        "Driver": Field("driver", text), "Count": Field("count", whole), "DeviceIDs": Field("device_ids", words_of),
        "Capabilities": Field("capabilities", tuples(words_of)), "Options": Field("options", texts),
    },
)  # fmt: skip
BIND_OPTIONS = Record(
    model.BindOptions,
    {
        "Propagation": Field("propagation", text, optional=True), "NonRecursive": Field("non_recursive", flag, optional=True),
        "CreateMountpoint": Field("create_source", flag, optional=True),
        "ReadOnlyForceRecursive": Field("read_only_force_recursive", flag, optional=True),
    },
    checked={"ReadOnlyNonRecursive": unavailable(flag)},
)  # fmt: skip
_DRIVER = Record(
    model.VolumeOptions, {"Name": Field("driver", text), "Options": Field("driver_options", texts, optional=True)}
)


def _with_driver(value: object, path: str) -> model.VolumeOptions:
    """Volume options, whose driver is an object inside them."""
    found = _VOLUME.read(value, path)
    if isinstance(value, dict):
        inner = next((item for key, item in value.items() if key.lower() == "driverconfig"), None)
        driver = _DRIVER.read(inner, f"{path}.DriverConfig")
        unavailable(text, "local")(driver.driver, f"{path}.DriverConfig.Name")
        return model.VolumeOptions(no_copy=found.no_copy, labels=found.labels, subpath=found.subpath, driver=driver.driver,
                                   driver_options=driver.driver_options)  # fmt: skip
    return found


def _write_volume(value: object) -> object:
    if value is None:
        return None
    options = cast(model.VolumeOptions, value)
    driver = {"DriverConfig": _DRIVER.write(options)} if options.driver or options.driver_options else {}
    return _VOLUME.write(options) | driver


_VOLUME = Record(
    model.VolumeOptions,
    {
        "NoCopy": Field("no_copy", flag, optional=True), "Labels": Field("labels", texts, optional=True),
        "Subpath": Field("subpath", text, optional=True),
    },
)  # fmt: skip
TMPFS_OPTIONS = Record(
    model.TmpfsOptions,
    {"SizeBytes": Field("size", whole, optional=True), "Mode": Field("mode", whole, optional=True)},
    checked={"Options": unavailable(conform.each(strings))},
)
MOUNT = Record(
    model.MountRequest,
    {
        "Type": Field("kind", text), "Source": Field("source", text, optional=True), "Target": Field("target", text),
        "ReadOnly": Field("read_only", flag, optional=True), "Consistency": Field("consistency", text, optional=True),
        "BindOptions": Field("bind", BIND_OPTIONS.read, optional(BIND_OPTIONS), optional=True),
        "VolumeOptions": Field("volume", _with_driver, _write_volume, optional=True),
        "TmpfsOptions": Field("tmpfs", TMPFS_OPTIONS.read, optional(TMPFS_OPTIONS), optional=True),
    },
    checked={"ImageOptions": struct({"Subpath": text}), "ClusterOptions": struct({})},
)  # fmt: skip


def bindings(value: object, path: str) -> object:
    """Port bindings by the container's port."""
    return mapping(tuples(PORT_BINDING.read))(value, path)


def _write_bindings(value: object) -> object:
    found = cast(dict[str, tuple[model.PortBinding, ...]], value)
    return {port: PORT_BINDING.write_each(rows) for port, rows in found.items()}


RATE = Record(model.DeviceRate, {"Path": Field("path", text), "Rate": Field("rate", whole)})
WEIGHT = Record(model.DeviceWeight, {"Path": Field("path", text), "Weight": Field("weight", whole)})


def _swappiness(value: object) -> object:
    return None if value == -1 else value


LIMITS = {
    "Memory": Field("limits.memory", whole), "MemorySwap": Field("limits.memory_swap", whole),
    "MemoryReservation": Field("limits.memory_reservation", whole), "MemorySwappiness": Field("limits.memory_swappiness", whole, _swappiness),
    "OomKillDisable": Field("limits.oom_kill_disable", flag), "NanoCpus": Field("limits.nano_cpus", whole),
    "CpuShares": Field("limits.cpu_shares", whole), "CpuPeriod": Field("limits.cpu_period", whole),
    "CpuQuota": Field("limits.cpu_quota", whole), "CpusetCpus": Field("limits.cpuset_cpus", text),
    "CpusetMems": Field("limits.cpuset_mems", text), "PidsLimit": Field("limits.pids_limit", whole, _or_null),
    "CpuRealtimePeriod": Field("limits.realtime_period", whole), "CpuRealtimeRuntime": Field("limits.realtime_runtime", whole),
    "BlkioWeight": Field("limits.blkio_weight", whole),
    "BlkioWeightDevice": Field("limits.device_weights", those_given(WEIGHT), each(WEIGHT)),
    "BlkioDeviceReadBps": Field("limits.read_bps", those_given(RATE), each(RATE)),
    "BlkioDeviceWriteBps": Field("limits.write_bps", those_given(RATE), each(RATE)),
    "BlkioDeviceReadIOps": Field("limits.read_iops", those_given(RATE), each(RATE)),
    "BlkioDeviceWriteIOps": Field("limits.write_iops", those_given(RATE), each(RATE)),
}  # fmt: skip

HOST_CONFIG = Record(
    model.HostConfig,
    {
        "Binds": Field("binds", words_of, _list_or_null), "ContainerIDFile": Field("container_id_file", text),
        "LogConfig": Field("log_config", LOG_CONFIG.read, optional(LOG_CONFIG)), "NetworkMode": Field("network_mode", text),
        "PortBindings": Field("port_bindings", bindings, _write_bindings),
        "RestartPolicy": Field("restart_policy", RESTART_POLICY.read, optional(RESTART_POLICY)),
        "AutoRemove": Field("auto_remove", flag), "VolumeDriver": Field("volume_driver", unavailable(text, "local")),
        "VolumesFrom": Field("volumes_from", words_of, _list_or_null), "Mounts": Field("mounts", tuples(MOUNT.read), each(MOUNT), optional=True),
        "ConsoleSize": Field("console_size", size, _size_or_zeros), "Annotations": Field("annotations", texts, optional=True),
        "CapAdd": Field("capabilities_added", words_of, _list_or_null), "CapDrop": Field("capabilities_dropped", words_of, _list_or_null),
        "CgroupnsMode": Field("cgroup_namespace", text), "Dns": Field("dns", words_of), "DnsOptions": Field("dns_options", words_of),
        "DnsSearch": Field("dns_search", words_of), "ExtraHosts": Field("extra_hosts", words_of, _list_or_null),
        "GroupAdd": Field("additional_groups", words_of, _list_or_null), "IpcMode": Field("ipc_mode", text), "Links": Field("links", words_of, _list_or_null),
        "OomScoreAdj": Field("oom_score_adj", whole), "PidMode": Field("pid_mode", text), "Privileged": Field("privileged", flag),
        "PublishAllPorts": Field("publish_all_ports", flag), "ReadonlyRootfs": Field("read_only_root", flag),
        "SecurityOpt": Field("security_options", words_of, _list_or_null), "StorageOpt": Field("storage_options", texts, optional=True),
        "Tmpfs": Field("tmpfs", texts, optional=True), "UTSMode": Field("uts_mode", text),
        "UsernsMode": Field("user_namespace", text), "ShmSize": Field("shm_size", whole),
        "HealthOnFailure": Field("health_on_failure", text, optional=True),
        "Sysctls": Field("sysctls", texts, optional=True), "Runtime": Field("runtime", text), "Isolation": Field("isolation", text),
        "MaskedPaths": Field("masked_paths", words_of), "ReadonlyPaths": Field("read_only_paths", words_of),
        "CgroupParent": Field("cgroup_parent", text), "Devices": Field("devices", tuples(DEVICE.read), each(DEVICE)),
        "DeviceCgroupRules": Field("device_cgroup_rules", words_of, _list_or_null),
        "DeviceRequests": Field("device_requests", tuples(DEVICE_REQUEST.read), each_or_null(DEVICE_REQUEST)), "Init": Field("init", flag, optional=True),
        "Ulimits": Field("ulimits", tuples(ULIMIT.read), each_or_null(ULIMIT)), **LIMITS,
    },
    checked={
        "Cgroup": unavailable(text), "KernelMemory": unavailable(whole),
        "KernelMemoryTCP": unavailable(whole), "CpuCount": unavailable(whole), "CpuPercent": unavailable(whole),
        "IOMaximumIOps": unavailable(whole), "IOMaximumBandwidth": unavailable(whole),
    },
    parts={"limits": model.Limits},
)  # fmt: skip

# its places on networks

ADDRESSES = Record(
    model.Addresses,
    {
        "IPv4Address": Field("ipv4", text, optional=True), "IPv6Address": Field("ipv6", text, optional=True),
        "LinkLocalIPs": Field("link_local", words_of, optional=True),
    },
)  # fmt: skip
ENDPOINT = Record(
    model.EndpointSettings,
    {
        "IPAMConfig": Field("addresses", unless_empty(ADDRESSES), optional(ADDRESSES)), "Links": Field("links", words_of, _list_or_null),
        "Aliases": Field("aliases", words_of, _list_or_null), "MacAddress": Field("mac", text),
        "DriverOpts": Field("driver_options", texts, lambda value: dict(cast(dict[str, str], value)) or None),
        "GwPriority": Field("gateway_priority", whole),
    },
    checked={
        "NetworkID": text, "EndpointID": text, "Gateway": text, "IPAddress": text, "IPPrefixLen": whole, "IPv6Gateway": text,
        "GlobalIPv6Address": text, "GlobalIPv6PrefixLen": whole, "DNSNames": strings,
    },
)  # fmt: skip

# networks

POOL = Record(
    PoolRequest,
    {
        "Subnet": Field("subnet", text), "Gateway": Field("gateway", text), "IPRange": Field("ip_range", text, optional=True),
        "AuxiliaryAddresses": Field("auxiliary", texts, optional=True),
    },
    checked={"AuxAddress": unavailable(texts)},
)  # fmt: skip


def _or(default: str) -> Reader:
    """A string, which is `default` where it says nothing."""
    return lambda value, path: text(value, path) or default


def _ipv4(value: object, path: str) -> None:
    if not flag(value, path):
        raise BadRequest(f"{path}: false is not implemented: every network has IPv4")


_IPAM = Record(
    IpamRequest,
    {"Driver": Field("driver", _or("default")), "Config": Field("pools", tuples(POOL.read), each(POOL))},
    checked={"Options": unavailable(texts)},
)
NETWORK = Record(
    NetworkRequest,
    {
        "Name": Field("name", text), "Driver": Field("driver", _or("bridge")), "IPAM": Field("ipam", _IPAM.read),
        "EnableIPv6": Field("ipv6", flag), "Internal": Field("internal", flag), "Attachable": Field("attachable", flag),
        "Options": Field("options", texts), "Labels": Field("labels", texts),
    },
    checked={
        "CheckDuplicate": flag, "Scope": unavailable(text, "local"), "Ingress": unavailable(flag), "ConfigOnly": unavailable(flag),
        "ConfigFrom": unavailable(struct({"Network": text})), "EnableIPv4": _ipv4,
    },
)  # fmt: skip
