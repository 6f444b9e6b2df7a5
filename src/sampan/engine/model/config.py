"""What runs in a container: the portable half of its configuration, most of which an image can give (Docker's Config)."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class HealthCheck(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A health check as asked for. 0 and () are "not given": the defaults are engine.health's."""

    test: tuple[str, ...] = ()  # ("NONE",), ("CMD", argument, …) or ("CMD-SHELL", command)
    interval: int = 0  # nanoseconds between two probes
    timeout: int = 0  # nanoseconds that a probe may take
    start_period: int = 0  # nanoseconds after the start in which failures don't count
    start_interval: int = 0  # nanoseconds between two probes in the start period
    retries: int = 0  # failures in a row that make it unhealthy


class SystemVm(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The hardware of a system VM, and what cloud-init makes of its guest. 0 and "" are "not given"."""

    cpus: int = 0
    memory: int = 0  # bytes
    bus: str = ""  # of its disk: one of vm.qemu_pc.BUSES
    user: str = ""
    password: str = ""
    ssh_keys: tuple[str, ...] = ()
    user_data: str = ""  # a cloud-init document that replaces what is made of the fields above


class Config(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A process and its surroundings. "", () and None are "not given"."""

    image: str = ""  # as the user wrote it
    hostname: str = ""
    domainname: str = ""
    user: str = ""  # NAME|UID[:GROUP|GID]
    working_dir: str = ""
    entrypoint: tuple[str, ...] | None = None  # None: the image's; (): none
    cmd: tuple[str, ...] = ()
    shell: tuple[str, ...] = ()  # what runs the shell form of a command
    env: tuple[str, ...] = ()  # NAME=VALUE, or NAME to take it away
    labels: Mapping[str, str] = {}
    exposed_ports: tuple[str, ...] = ()  # PORT[-PORT][/PROTOCOL]
    volumes: tuple[str, ...] = ()  # paths that are anonymous volumes
    health_check: HealthCheck | None = None
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False  # its standard input ends with its first client
    attach_stdin: bool = False  # what the client that made it attached to: shown, and nothing more
    attach_stdout: bool = False
    attach_stderr: bool = False
    stop_signal: str = ""
    stop_timeout: int | None = None  # seconds; -1: for ever
    mac_address: str = ""  # of its first interface
    on_build: tuple[str, ...] = ()  # of its image: shown, and nothing more
    args_escaped: bool = False  # of its image: shown, and nothing more
    system_vm: SystemVm | None = None  # only of a system VM
