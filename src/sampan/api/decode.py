"""Requests of Docker's API as the model has them: types are checked by name, and what there is not is refused by name.

A body is what `api.json` has read. Keys match whatever their case and null is "not given", as Go reads them. Each function
raises BadRequest ("invalid JSON: HostConfig.Memory must be a whole number, not a string").
"""

from __future__ import annotations

from typing import cast

from sampan.api import fields
from sampan.api.conform import flag, mapping, struct, text, whole
from sampan.api.record import Field, Record
from sampan.engine import model
from sampan.network.model import NetworkRequest

_networking = struct({"EndpointsConfig": mapping(fields.ENDPOINT.read)})


def _endpoints(value: object, path: str) -> object:
    found = cast(dict[str, object], _networking(value, path))
    return found.get("EndpointsConfig") or {}


_CREATE = Record(
    model.CreateRequest,
    {
        **fields.CONFIG.as_part("config"),
        "HostConfig": Field("host_config", fields.HOST_CONFIG.read),
        "NetworkingConfig": Field("endpoints", _endpoints),
    },
    parts={"config": model.Config},
)
_EXEC = Record(
    model.ExecRequest,
    {
        "Cmd": Field("cmd", fields.words), "Env": Field("env", fields.words_of), "User": Field("user", text),
        "WorkingDir": Field("working_dir", text), "KillOnDisconnect": Field("kill_on_disconnect", flag),
        "DetachKeys": Field("detach_keys", text), "Tty": Field("tty", flag), "Privileged": Field("privileged", flag),
        "AttachStdin": Field("attach_stdin", flag), "AttachStdout": Field("attach_stdout", flag),
        "AttachStderr": Field("attach_stderr", flag), "ConsoleSize": Field("console_size", fields.size),
    },
)  # fmt: skip
_EXEC_START = Record(
    model.ExecStart,
    {
        "Detach": Field("detach", flag),
        "Tty": Field("tty", flag),
        "ConsoleSize": Field("console_size", fields.size),
    },
)
_CONNECT = Record(
    model.ConnectRequest,
    {
        "Container": Field("container", text),
        "EndpointConfig": Field("endpoint", fields.ENDPOINT.read),
        "Force": Field("force", flag),
    },
)

_SYSTEM_VM = Record(
    model.SystemVmRequest,
    {
        "Name": Field("name", text), "Disk": Field("disk", text), "Image": Field("image", text), "Bootstrap": Field("bootstrap", text),
        "DiskSize": Field("disk_size", whole), "Network": Field("network", text), "Ports": Field("ports", fields.bindings),
        "Cpus": Field("hardware.cpus", whole), "Memory": Field("hardware.memory", whole), "Bus": Field("hardware.bus", text),
        "User": Field("hardware.user", text), "Password": Field("hardware.password", text),
        "SshKeys": Field("hardware.ssh_keys", fields.words_of), "UserData": Field("hardware.user_data", text),
    },
    parts={"hardware": model.SystemVm},
)  # fmt: skip


def create_request(body: object) -> model.CreateRequest:
    """POST /containers/create: a Config with a HostConfig and a NetworkingConfig in it."""
    return _CREATE.read(body, "")


def config(body: object) -> model.Config:
    """A Config, as in POST /commit."""
    return fields.CONFIG.read(body, "")


def host_config(body: object, path: str = "") -> model.HostConfig:
    """A HostConfig by itself, as in POST /containers/{id}/update."""
    return fields.HOST_CONFIG.read(body, path)


def exec_request(body: object) -> model.ExecRequest:
    """POST /containers/{id}/exec."""
    return _EXEC.read(body, "")


def exec_start(body: object) -> model.ExecStart:
    """POST /exec/{id}/start."""
    return _EXEC_START.read(body, "")


def connect_request(body: object) -> model.ConnectRequest:
    """POST /networks/{id}/connect, and disconnect."""
    return _CONNECT.read(body, "")


def network_request(body: object) -> NetworkRequest:
    """POST /networks/create."""
    return fields.NETWORK.read(body, "")


def ulimits(body: object, path: str) -> tuple[model.Ulimit, ...]:
    """A list of limits of processes."""
    return cast(tuple[model.Ulimit, ...], fields.tuples(fields.ULIMIT.read)(body, path))


def system_vm_request(body: object) -> model.SystemVmRequest:
    """POST /sampan/vm/create."""
    return _SYSTEM_VM.read(body, "")
