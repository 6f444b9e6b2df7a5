"""The form of a container's record up to schema 2: what that engine kept of the API's objects, and looked at. It never changes."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypedDict

import msgspec

_Natural = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
_Code = Annotated[int, msgspec.Meta(ge=-(1 << 31), le=1 << 32)]
_Int = Annotated[int, msgspec.Meta(ge=-(1 << 62), le=1 << 62)]
_Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
_Strings = list[str] | None
_Map = dict[str, str] | None
_Objects = list[dict[str, Any]] | None


class State(TypedDict):
    Status: Literal["created", "running", "paused", "restarting", "removing", "exited", "dead"]
    Running: bool
    Paused: bool
    Restarting: bool
    OOMKilled: bool
    Dead: bool
    Pid: Annotated[int, msgspec.Meta(ge=0, le=1 << 22)]
    ExitCode: _Code
    Error: str
    StartedAt: str
    FinishedAt: str


class Probe(TypedDict, total=False):
    Start: str
    End: str
    ExitCode: _Int
    Output: str


class Health(TypedDict):
    Status: Literal["starting", "healthy", "unhealthy", "none"]
    FailingStreak: _Natural
    Log: list[Probe]


class Mount(TypedDict, total=False):
    Type: Literal["bind", "volume", "tmpfs"]
    Source: str
    Destination: str
    RW: bool
    Mode: str
    Propagation: str
    Name: str
    Driver: str
    Subpath: str
    NoCopy: bool
    NonRecursive: bool


class PublishedPort(TypedDict):
    protocol: Literal["tcp", "udp", "sctp"]
    container_port: _Port
    host_ip: str
    host_port: _Port


class Check(TypedDict, total=False):
    Test: _Strings
    Interval: _Int | None
    Timeout: _Int | None
    StartPeriod: _Int | None
    StartInterval: _Int | None
    Retries: _Int | None


class Addresses(TypedDict, total=False):
    IPv4Address: str | None
    IPv6Address: str | None
    LinkLocalIPs: _Strings


class Settings(TypedDict, total=False):
    IPAMConfig: Addresses | None
    Aliases: _Strings
    Links: _Strings
    MacAddress: str | None
    DriverOpts: _Map
    GwPriority: _Int | None


class Machine(TypedDict, total=False):
    Cpus: _Int | None
    Memory: _Int | None
    Bus: str | None
    User: str | None
    Password: str | None
    SshKeys: _Strings
    UserData: str | None


class Config(TypedDict, total=False):
    Image: str | None
    Hostname: str | None
    Domainname: str | None
    User: str | None
    WorkingDir: str | None
    StopSignal: str | None
    MacAddress: str | None
    StopTimeout: _Int | None
    Tty: bool | None
    OpenStdin: bool | None
    StdinOnce: bool | None
    AttachStdin: bool | None
    AttachStdout: bool | None
    AttachStderr: bool | None
    ArgsEscaped: bool | None
    Cmd: _Strings
    Entrypoint: _Strings
    Env: _Strings
    Shell: list[str] | str | None
    OnBuild: _Strings
    Labels: _Map
    ExposedPorts: dict[str, Any] | None
    Volumes: dict[str, Any] | None
    Healthcheck: Check | None
    Machine: Machine


class Restart(TypedDict, total=False):
    Name: str | None
    MaximumRetryCount: _Int | None


class Log(TypedDict, total=False):
    Type: str | None
    Config: _Map


class Ulimit(TypedDict):
    Name: str
    Soft: _Int
    Hard: _Int


class HostConfig(TypedDict, total=False):
    Isolation: Literal["", "default", "container", "process", "vm", "machine"] | None
    NetworkMode: str | None
    PidMode: str | None
    IpcMode: str | None
    UTSMode: str | None
    UsernsMode: str | None
    CgroupnsMode: str | None
    CgroupParent: str | None
    ContainerIDFile: str | None
    Runtime: str | None
    VolumeDriver: str | None
    RestartPolicy: Restart | None
    LogConfig: Log | None
    PortBindings: dict[str, list[dict[str, str | int | None]] | None] | None
    AutoRemove: bool | None
    Privileged: bool | None
    ReadonlyRootfs: bool | None
    PublishAllPorts: bool | None
    Init: bool | None
    Binds: _Strings
    Mounts: _Objects
    Tmpfs: _Map
    VolumesFrom: _Strings
    Links: _Strings
    CapAdd: _Strings
    CapDrop: _Strings
    Dns: _Strings
    DnsOptions: _Strings
    DnsSearch: _Strings
    ExtraHosts: _Strings
    GroupAdd: list[str | int] | None
    SecurityOpt: _Strings
    MaskedPaths: _Strings
    ReadonlyPaths: _Strings
    DeviceCgroupRules: _Strings
    Sysctls: _Map
    StorageOpt: _Map
    Annotations: _Map
    ConsoleSize: list[_Int] | None
    ShmSize: _Int | None
    Memory: _Int | None
    MemorySwap: _Int | None
    MemoryReservation: _Int | None
    MemorySwappiness: _Int | None
    NanoCpus: _Int | None
    CpuShares: _Int | None
    CpuPeriod: _Int | None
    CpuQuota: _Int | None
    CpusetCpus: str | None
    CpusetMems: str | None
    PidsLimit: _Int | None
    BlkioWeight: _Int | None
    OomScoreAdj: _Int | None
    OomKillDisable: bool | None
    Ulimits: list[Ulimit] | None
    Devices: _Objects
    DeviceRequests: _Objects


class Asked(TypedDict, total=False):
    labels: dict[str, str]
    names: list[str]
