"""The shapes of request bodies, checked before the engine sees them."""

from __future__ import annotations

from typing import Any

from sampan.api.conform import (
    Reader,
    anything,
    conform,
    each,
    exactly,
    flag,
    mapping,
    names,
    strings,
    struct,
    text,
    texts,
    whole,
    words,
)

_rate = struct({"Path": text, "Rate": whole}, {"Path": "", "Rate": 0})
_ulimit = struct({"Name": text, "Soft": whole, "Hard": whole}, {"Name": "", "Soft": 0, "Hard": 0})
_size = exactly(2, whole)

_driver = struct({"Name": text, "Options": texts})
_mount = struct(
    {
        "Type": text, "Source": text, "Target": text, "ReadOnly": flag, "Consistency": text,
        "BindOptions": struct({"Propagation": text, "NonRecursive": flag, "CreateMountpoint": flag, "ReadOnlyNonRecursive": flag,
                               "ReadOnlyForceRecursive": flag}),
        "VolumeOptions": struct({"NoCopy": flag, "Labels": texts, "DriverConfig": _driver, "Subpath": text}),
        "TmpfsOptions": struct({"SizeBytes": whole, "Mode": whole, "Options": each(strings)}),
        "ImageOptions": struct({"Subpath": text}),
        "ClusterOptions": struct({}),
    }
)  # fmt: skip
_request = struct(
    {"Driver": text, "Count": whole, "DeviceIDs": strings, "Capabilities": each(strings), "Options": texts}
)
_device = struct({"PathOnHost": text, "PathInContainer": text, "CgroupPermissions": text}, {"PathOnHost": ""})

HostConfig = struct(
    {
        "Binds": strings, "ContainerIDFile": text, "LogConfig": struct({"Type": text, "Config": texts}), "NetworkMode": text,
        "PortBindings": mapping(each(struct({"HostIp": text, "HostPort": text}))),
        "RestartPolicy": struct({"Name": text, "MaximumRetryCount": whole}), "AutoRemove": flag, "VolumeDriver": text,
        "VolumesFrom": strings, "Mounts": each(_mount), "ConsoleSize": _size, "Annotations": texts, "CapAdd": strings,
        "CapDrop": strings, "CgroupnsMode": text, "Dns": strings, "DnsOptions": strings, "DnsSearch": strings, "ExtraHosts": strings,
        "GroupAdd": strings, "IpcMode": text, "Cgroup": text, "Links": strings, "OomScoreAdj": whole, "PidMode": text,
        "Privileged": flag, "PublishAllPorts": flag, "ReadonlyRootfs": flag, "SecurityOpt": strings, "StorageOpt": texts,
        "Tmpfs": texts, "UTSMode": text, "UsernsMode": text, "ShmSize": whole, "Sysctls": texts, "Runtime": text, "Isolation": text,
        "MaskedPaths": strings, "ReadonlyPaths": strings, "CpuShares": whole, "Memory": whole, "CgroupParent": text,
        "BlkioWeight": whole, "BlkioWeightDevice": each(struct({"Path": text, "Weight": whole}, {"Path": "", "Weight": 0})), "BlkioDeviceReadBps": each(_rate),
        "BlkioDeviceWriteBps": each(_rate), "BlkioDeviceReadIOps": each(_rate), "BlkioDeviceWriteIOps": each(_rate),
        "CpuPeriod": whole, "CpuQuota": whole, "CpuRealtimePeriod": whole, "CpuRealtimeRuntime": whole, "CpusetCpus": text,
        "CpusetMems": text, "Devices": each(_device), "DeviceCgroupRules": strings, "DeviceRequests": each(_request),
        "KernelMemory": whole, "KernelMemoryTCP": whole, "MemoryReservation": whole, "MemorySwap": whole, "MemorySwappiness": whole,
        "NanoCpus": whole, "OomKillDisable": flag, "Init": flag, "PidsLimit": whole, "Ulimits": each(_ulimit), "CpuCount": whole,
        "CpuPercent": whole, "IOMaximumIOps": whole, "IOMaximumBandwidth": whole,
    }
)  # fmt: skip

_health = struct(
    {
        "Test": strings, "Interval": whole, "Timeout": whole, "StartPeriod": whole, "StartInterval": whole, "Retries": whole,
    }
)  # fmt: skip

_endpoint = struct(
    {
        "IPAMConfig": struct({"IPv4Address": text, "IPv6Address": text, "LinkLocalIPs": strings}), "Links": strings,
        "Aliases": strings, "NetworkID": text, "EndpointID": text, "Gateway": text, "IPAddress": text, "IPPrefixLen": whole,
        "IPv6Gateway": text, "GlobalIPv6Address": text, "GlobalIPv6PrefixLen": whole, "MacAddress": text, "DriverOpts": texts,
        "GwPriority": whole, "DNSNames": strings,
    }
)  # fmt: skip

_CONFIG: dict[str, Reader] = {
    "Hostname": text, "Domainname": text, "User": text, "AttachStdin": flag, "AttachStdout": flag, "AttachStderr": flag,
    "ExposedPorts": names, "Tty": flag, "OpenStdin": flag, "StdinOnce": flag, "Env": strings, "Cmd": words, "Healthcheck": _health,
    "ArgsEscaped": flag, "Image": text, "Volumes": names, "WorkingDir": text, "Entrypoint": words, "NetworkDisabled": flag,
    "MacAddress": text, "OnBuild": strings, "Labels": texts, "StopSignal": text, "StopTimeout": whole, "Shell": words,
}  # fmt: skip

Config = struct(_CONFIG)
ContainerCreate = struct(
    {**_CONFIG, "HostConfig": HostConfig, "NetworkingConfig": struct({"EndpointsConfig": mapping(_endpoint)})}
)

_pool = struct({"Subnet": text, "IPRange": text, "Gateway": text, "AuxiliaryAddresses": texts, "AuxAddress": texts})
NetworkCreate = struct(
    {
        "Name": text, "CheckDuplicate": flag, "Driver": text, "Scope": text, "Internal": flag, "Attachable": flag, "Ingress": flag,
        "ConfigOnly": flag, "ConfigFrom": struct({"Network": text}), "EnableIPv4": flag, "EnableIPv6": flag, "Options": texts,
        "Labels": texts, "IPAM": struct({"Driver": text, "Options": texts, "Config": each(_pool)}),
    }
)  # fmt: skip
NetworkConnect = struct({"Container": text, "EndpointConfig": _endpoint, "Force": flag})

ExecCreate = struct(
    {
        "Cmd": words, "Env": strings, "User": text, "WorkingDir": text, "KillOnDisconnect": flag, "DetachKeys": text, "Tty": flag,
        "Privileged": flag, "AttachStdin": flag, "AttachStdout": flag, "AttachStderr": flag, "ConsoleSize": _size,
    }
)  # fmt: skip
ExecStart = struct({"Detach": flag, "Tty": flag, "ConsoleSize": _size})
VolumeCreate = struct(
    {"Name": text, "Driver": text, "DriverOpts": texts, "Labels": texts, "ClusterVolumeSpec": anything}
)
Auth = struct(
    {
        "username": text, "password": text, "email": text, "auth": text, "serveraddress": text, "identitytoken": text,
        "registrytoken": text,
    }
)  # fmt: skip
AuthConfigs = mapping(Auth)

BuildArgs = mapping(text, null=True)
Build = struct(
    {
        "context": text, "tags": strings, "dockerfile": text, "buildargs": BuildArgs, "target": text, "platform": text, "nocache": flag,
        "nocachefilter": strings, "pull": flag, "labels": texts, "network": text, "secrets": texts, "ssh": texts, "contexts": texts,
        "entitlements": strings, "host": HostConfig, "squash": flag, "cachefrom": strings, "inlinecache": flag, "text": text,
        "ignore": text, "remote": text, "auths": AuthConfigs, "output": struct({"type": text, "dest": text}, {"type": "image", "dest": ""}),
        "quiet": flag,
    }
)  # fmt: skip
Machine = struct(
    {
        "Name": text, "Disk": text, "Image": text, "Bootstrap": text, "Cpus": whole, "Memory": whole, "DiskSize": whole, "Bus": text,
        "Network": text, "Ports": mapping(each(struct({"HostIp": text, "HostPort": text}))), "User": text, "Password": text,
        "SshKeys": strings, "UserData": text,
    }
)  # fmt: skip
Ulimits = each(_ulimit)


def check(body: Any, shape: Reader, path: str = "") -> Any:
    """The body in the shape. Raises BadRequest naming the member that has it not."""
    return conform(body, shape, path)
