"""Types of the OCI runtime specification's config.json, with the few members that are ours and not the specification's.

Type checkers alone import this: at run time these are plain dicts, as they came out of JSON. Whether they really are of
these types `runtime/bundle` checks for bundles of others, and each reader for what the engine sends.
"""

from __future__ import annotations

from typing import TypedDict

from sampan.linux.spec_types import Resources, Scheduling, SeccompSection, TimeOffset


class IdMapping(TypedDict):
    """A row of uidMappings or gidMappings."""

    containerID: int
    hostID: int
    size: int


class Mount(TypedDict, total=False):
    """One of mounts. Ours: `source_fd`, a descriptor of the engine's (runtime/sources), and `tree`, an index into the request's."""

    destination: str
    type: str
    source: str
    options: list[str]
    uidMappings: list[IdMapping]
    gidMappings: list[IdMapping]
    source_fd: int
    tree: int


class Namespace(TypedDict, total=False):
    """One of linux.namespaces. Without a path it is a new one."""

    type: str
    path: str


class Device(TypedDict, total=False):
    """One of linux.devices."""

    type: str
    path: str
    major: int
    minor: int
    fileMode: int | None
    uid: int | None
    gid: int | None


class Personality(TypedDict, total=False):
    """linux.personality."""

    domain: str
    flags: list[str]


class Linux(TypedDict, total=False):
    """linux: what only that system has."""

    namespaces: list[Namespace]
    uidMappings: list[IdMapping]
    gidMappings: list[IdMapping]
    timeOffsets: dict[str, TimeOffset]
    devices: list[Device]
    cgroupsPath: str
    resources: Resources
    rootfsPropagation: str
    seccomp: SeccompSection
    sysctl: dict[str, str]
    maskedPaths: list[str]
    readonlyPaths: list[str]
    mountLabel: str
    personality: Personality
    intelRdt: dict[str, object]


class User(TypedDict, total=False):
    """process.user. Ours: `username`, as of --user, which is looked up inside the container."""

    uid: int
    gid: int
    umask: int | None
    additionalGids: list[int]
    username: str
    additionalGroups: list[str]


class ConsoleSize(TypedDict):
    """process.consoleSize, in characters."""

    height: int
    width: int


class Rlimit(TypedDict):
    """One of process.rlimits."""

    type: str
    soft: int
    hard: int


class Capabilities(TypedDict, total=False):
    """process.capabilities. Ours: `nonRootAmbient`, those that another user than root keeps."""

    bounding: list[str]
    effective: list[str]
    inheritable: list[str]
    permitted: list[str]
    ambient: list[str]
    nonRootAmbient: list[str]


class Process(Scheduling, total=False):
    """process: a program and how it is run."""

    terminal: bool
    consoleSize: ConsoleSize
    cwd: str
    env: list[str]
    args: list[str]
    rlimits: list[Rlimit]
    apparmorProfile: str
    selinuxLabel: str
    capabilities: Capabilities
    noNewPrivileges: bool
    oomScoreAdj: int | None
    user: User


class Root(TypedDict, total=False):
    """root: where the container's file system is."""

    path: str
    readonly: bool


class Hook(TypedDict, total=False):
    """One of hooks.*; `timeout` in seconds."""

    path: str
    args: list[str]
    env: list[str]
    timeout: int


class Spec(TypedDict, total=False):
    """A whole config.json."""

    ociVersion: str
    process: Process
    root: Root
    hostname: str
    domainname: str
    mounts: list[Mount]
    hooks: dict[str, list[Hook]]
    annotations: dict[str, str]
    linux: Linux


class State(TypedDict, total=False):
    """What hooks and the command `state` are given (runtime.md, State)."""

    ociVersion: str
    id: str
    status: str
    pid: int
    bundle: str
    annotations: dict[str, str]
