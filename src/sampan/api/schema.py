"""The shapes of request bodies, checked before the engine sees them."""

from __future__ import annotations

from typing import Any, TypedDict

import msgspec

from sampan.engine.errors import BadRequest

_Strings = list[str] | None
_Map = dict[str, str] | None
_Set = dict[str, dict[str, Any]] | None


class _Ulimit(TypedDict):
    Name: str
    Soft: int
    Hard: int


class _RestartPolicy(TypedDict, total=False):
    Name: str
    MaximumRetryCount: int


class _LogConfig(TypedDict, total=False):
    Type: str
    Config: _Map


class _Device(TypedDict, total=False):
    PathOnHost: str
    PathInContainer: str
    CgroupPermissions: str


class HostConfig(TypedDict, total=False):
    """The members of HostConfig whose types the engine relies on; others pass unchecked."""

    Binds: _Strings
    NetworkMode: str
    RestartPolicy: _RestartPolicy | None
    LogConfig: _LogConfig | None
    AutoRemove: bool
    Mounts: list[dict[str, Any]] | None
    Tmpfs: _Map
    CapAdd: _Strings
    CapDrop: _Strings
    Dns: _Strings
    DnsOptions: _Strings
    DnsSearch: _Strings
    ExtraHosts: _Strings
    GroupAdd: _Strings
    IpcMode: str
    PidMode: str
    UTSMode: str
    Privileged: bool
    ReadonlyRootfs: bool
    SecurityOpt: _Strings
    ShmSize: int
    Sysctls: _Map
    Memory: int
    MemorySwap: int
    MemoryReservation: int
    NanoCpus: int
    CpuShares: int
    CpuPeriod: int
    CpuQuota: int
    CpusetCpus: str
    CpusetMems: str
    PidsLimit: int | None
    BlkioWeight: int
    OomScoreAdj: int
    Init: bool | None
    Isolation: str
    Ulimits: list[_Ulimit] | None
    Devices: list[_Device] | None
    ConsoleSize: tuple[int, int] | None
    MaskedPaths: _Strings
    ReadonlyPaths: _Strings


class Healthcheck(TypedDict, total=False):
    """A health check; times in nanoseconds."""

    Test: _Strings
    Interval: int
    Timeout: int
    StartPeriod: int
    StartInterval: int
    Retries: int


class EndpointConfig(TypedDict, total=False):
    """A container's settings on a network."""

    IPAMConfig: dict[str, str | list[str] | None] | None
    Aliases: _Strings
    Links: _Strings
    MacAddress: str
    DriverOpts: _Map


class NetworkingConfig(TypedDict, total=False):
    """The networks of a new container."""

    EndpointsConfig: dict[str, EndpointConfig | None] | None


class ContainerCreate(TypedDict, total=False):
    """The body of POST /containers/create."""

    Image: str
    Cmd: list[str] | str | None
    Entrypoint: list[str] | str | None
    Env: _Strings
    Labels: _Map
    Volumes: _Set
    ExposedPorts: _Set
    User: str
    WorkingDir: str
    Hostname: str
    Domainname: str
    Tty: bool
    OpenStdin: bool
    StdinOnce: bool
    StopSignal: str
    StopTimeout: int | None
    Healthcheck: Healthcheck | None
    HostConfig: HostConfig | None
    NetworkingConfig: NetworkingConfig | None
    MacAddress: str


class NetworkCreate(TypedDict, total=False):
    """The body of POST /networks/create."""

    Name: str
    Driver: str
    Internal: bool
    Attachable: bool
    EnableIPv6: bool | None
    Options: _Map
    Labels: _Map


class NetworkConnect(TypedDict, total=False):
    """The body of POST /networks/{id}/connect and /disconnect."""

    Container: str
    EndpointConfig: EndpointConfig | None
    Force: bool


class ExecCreate(TypedDict, total=False):
    """The body of POST /containers/{id}/exec."""

    Cmd: _Strings
    Env: _Strings
    User: str
    WorkingDir: str
    KillOnDisconnect: bool
    DetachKeys: str
    Tty: bool
    Privileged: bool
    AttachStdin: bool
    AttachStdout: bool
    AttachStderr: bool
    ConsoleSize: tuple[int, int] | None


def check(body: dict[str, Any], shape: Any) -> dict[str, Any]:
    """Returns the body when it has the shape. Raises BadRequest naming the member that has not."""
    try:
        msgspec.convert(body, shape)
    except msgspec.ValidationError as error:
        raise BadRequest(f"invalid JSON: {error}") from error
    return body
