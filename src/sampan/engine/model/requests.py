"""What is asked of the engine: a container, a further process in one, a place on a network."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from sampan.engine.model.config import Config, SystemVm
from sampan.engine.model.host_config import HostConfig
from sampan.network.attachment import EndpointSettings, PortBinding


class CreateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A container that is wanted; `endpoints` are its settings by network, each by name or id."""

    config: Config = Config()
    host_config: HostConfig = HostConfig()
    endpoints: Mapping[str, EndpointSettings] = {}


class Asked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What of a request the policy looks at again. None: those of the configuration, as records before there was this say nothing."""

    labels: Mapping[str, str] | None = None
    names: tuple[str, ...] = ()  # of the image


class ExecRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A process to be started in a container that runs. "" and () are the container's own."""

    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    tty: bool = False
    privileged: bool = False
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    console_size: tuple[int, int] | None = None  # rows and columns
    detach_keys: str = ""
    kill_on_disconnect: bool = False  # it ends with the connection of who started it


class ExecStart(msgspec.Struct, frozen=True, kw_only=True):
    """How it is started."""

    detach: bool = False
    tty: bool = False
    console_size: tuple[int, int] | None = None


class ConnectRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A container that is to be on a network, or off it."""

    container: str = ""
    endpoint: EndpointSettings = EndpointSettings()
    force: bool = False


class SystemVmRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A system VM that is wanted, made of one of `disk` (a path), `image` and `bootstrap` (DISTRIBUTION:SUITE)."""

    name: str = ""
    disk: str = ""
    image: str = ""
    bootstrap: str = ""
    disk_size: int = 0  # bytes; 0: as large as what it is made of
    network: str = ""
    ports: Mapping[str, tuple[PortBinding, ...]] = {}
    hardware: SystemVm = SystemVm()
