"""What is asked of the engine: a container, a further process in one, a place on a network."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from sampan.engine.model.config import Config
from sampan.engine.model.host_config import HostConfig
from sampan.network.attachment import EndpointSettings


class CreateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A container that is wanted; `endpoints` are its settings by network, each by name or id."""

    config: Config = Config()
    host_config: HostConfig = HostConfig()
    endpoints: Mapping[str, EndpointSettings] = {}


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
