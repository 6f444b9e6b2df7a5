"""What a container has of this host, and what the engine does with it (Docker's HostConfig)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from sampan.engine.model.limits import Device, Limits, Ulimit
from sampan.engine.model.mounts import MountRequest
from sampan.network.attachment import PortBinding


class Isolation(StrEnum):
    """Whose kernel a container has. `UNDECIDED` is a request that leaves it to the policy and the engine's default."""

    UNDECIDED = ""
    DEFAULT = "default"
    CONTAINER = "container"  # the host's
    PROCESS = "process"  # the same, in the words of Docker for Windows
    AUTO = "auto"  # as UNDECIDED, whatever the engine's default is
    VM = "vm"  # one of its own, with the image as its root
    MACHINE = "machine"  # one of its own, with a disk that boots: a system VM


class RestartPolicy(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What follows an end. `name`: no, always, unless-stopped or on-failure, and "" for no; `max_retries` 0 is without end."""

    name: str = ""
    max_retries: int = 0


class LogConfig(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """How output is kept, and where it goes besides. `driver`: json-file, local, none, journald or syslog; `options`: engine.log_options."""

    driver: str = ""
    options: Mapping[str, str] = {}


class DeviceRequest(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Devices by what they can do, such as GPUs: no driver here knows any."""

    driver: str = ""
    count: int = 0
    device_ids: tuple[str, ...] = ()
    capabilities: tuple[tuple[str, ...], ...] = ()
    options: Mapping[str, str] = {}


class HostConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Namespaces, files, networks, rights and limits. "", () and None are "not given".

    A namespace's mode is "", "host", "private", "container:ID", or what its field says besides.
    """

    isolation: str = ""  # an Isolation, or whatever was asked for: engine.policy.facts.isolation refuses others
    network_mode: str = ""  # also a network's name, bridge or none
    pid_mode: str = ""
    ipc_mode: str = ""  # also none or shareable
    uts_mode: str = ""
    user_namespace: str = ""
    cgroup_namespace: str = ""
    cgroup_parent: str = ""

    binds: tuple[str, ...] = ()  # SOURCE:DESTINATION[:MODE]
    mounts: tuple[MountRequest, ...] = ()
    tmpfs: Mapping[str, str] = {}  # options of mount(8) by destination
    volumes_from: tuple[str, ...] = ()  # CONTAINER[:MODE]
    shm_size: int = 0  # bytes of /dev/shm
    storage_options: Mapping[str, str] = {}
    read_only_root: bool = False

    port_bindings: Mapping[str, tuple[PortBinding, ...]] = {}  # by PORT[-PORT][/PROTOCOL]
    publish_all_ports: bool = False
    links: tuple[str, ...] = ()  # CONTAINER:ALIAS
    dns: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()  # NAME:ADDRESS

    privileged: bool = False
    capabilities_added: tuple[str, ...] = ()
    capabilities_dropped: tuple[str, ...] = ()
    security_options: tuple[str, ...] = ()
    masked_paths: tuple[str, ...] | None = None  # None: engine.spec's
    read_only_paths: tuple[str, ...] | None = None
    additional_groups: tuple[str, ...] = ()
    sysctls: Mapping[str, str] = {}
    devices: tuple[Device, ...] = ()
    device_cgroup_rules: tuple[str, ...] = ()
    device_requests: tuple[DeviceRequest, ...] = ()

    limits: Limits = Limits()
    ulimits: tuple[Ulimit, ...] = ()
    oom_score_adj: int = 0

    restart_policy: RestartPolicy = RestartPolicy()
    auto_remove: bool = False
    health_on_failure: str = ""  # what is done with it when it becomes unhealthy: kill, restart or stop
    init: bool | None = None  # whether a small init is its first process; None: as the engine likes
    log_config: LogConfig = LogConfig()
    console_size: tuple[int, int] | None = None  # rows and columns
    runtime: str = ""
    annotations: Mapping[str, str] = {}
    container_id_file: str = ""  # the client's: shown, and nothing more
    volume_driver: str = ""  # local, or "" for that
