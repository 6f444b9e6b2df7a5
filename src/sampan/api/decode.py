"""Requests of Docker's API as the model has them: types are checked by name, and what there is not is refused by name.

A body is what `api.json` has read. Keys match whatever their case and null is "not given", as Go reads them. Each function
raises BadRequest ("invalid JSON: HostConfig.Memory must be a whole number, not a string").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from sampan.api import fields
from sampan.api.conform import flag, mapping, struct, text
from sampan.api.record import Field, Record
from sampan.engine import model

_CREATE = struct(
    {
        "HostConfig": fields.HOST_CONFIG.read,
        "NetworkingConfig": struct({"EndpointsConfig": mapping(fields.ENDPOINT.read)}),
    }
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


def create_request(body: object) -> model.CreateRequest:
    """POST /containers/create: a Config with a HostConfig and a NetworkingConfig in it."""
    config = fields.CONFIG.read(body, "")
    rest = cast(Mapping[str, object], _CREATE(body, ""))
    networking = cast(Mapping[str, Mapping[str, model.EndpointSettings]], rest.get("NetworkingConfig") or {})
    return model.CreateRequest(
        config=config,
        host_config=cast(model.HostConfig, rest.get("HostConfig") or model.HostConfig()),
        endpoints=networking.get("EndpointsConfig") or {},
    )


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
