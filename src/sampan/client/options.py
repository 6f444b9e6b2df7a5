"""What a container or an exec may be given, as keywords with their types, and the API's objects that are made of them. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypedDict, Unpack

from sampan import sizes
from sampan.client.calls import Object

Command = str | list[str] | None  # a string is split at blanks
Ports = Mapping[int, object] | Mapping[str, object] | Mapping[str | int, object] | None


class ProcessOptions(TypedDict, total=False):
    """What runs, and as whom."""

    entrypoint: Command
    environment: Mapping[str, str] | Iterable[str] | None
    user: str | None
    working_dir: str | None
    tty: bool
    stdin_open: bool
    init: bool
    stop_signal: str | None


class FileOptions(TypedDict, total=False):
    """What it sees of files. `volumes` are "source:target[:ro]"."""

    volumes: list[str] | None
    tmpfs: Mapping[str, str] | None
    read_only: bool


class NetworkOptions(TypedDict, total=False):
    """Its place in networks. `ports`: {80: 8080, "53/udp": ("127.0.0.1", 5353), 443: None}, the container's first."""

    network: str | None
    hostname: str | None
    ports: Ports


class LimitOptions(TypedDict, total=False):
    """What it may use; `memory` takes "64m"."""

    memory: int | str | None
    cpus: float | None
    pids_limit: int | None


class SecurityOptions(TypedDict, total=False):
    """What it may do, and what keeps it from the rest; `isolation` as in `sampan run --isolation`."""

    cap_add: list[str] | None
    cap_drop: list[str] | None
    security_opt: list[str] | None
    privileged: bool
    isolation: str | None


class ContainerOptions(ProcessOptions, FileOptions, NetworkOptions, LimitOptions, SecurityOptions, total=False):
    """All that a container may be given. `restart` is "always", "unless-stopped" or "on-failure:3".

    `host_config` goes into HostConfig as it is and `config` into the whole, in the API's spelling.
    """

    labels: Mapping[str, str] | None
    auto_remove: bool
    restart: str | None
    host_config: Mapping[str, object] | None
    config: Mapping[str, object] | None


class ExecOptions(TypedDict, total=False):
    """What a further process in a container may be given."""

    environment: Mapping[str, str] | Iterable[str] | None
    user: str
    working_dir: str
    tty: bool
    privileged: bool


def size(value: int | str | None) -> int | None:
    """Bytes of 5, "64m" or "1.5g". Raises ValueError."""
    return sizes.parse(value) if isinstance(value, str) else value


def env_list(values: Mapping[str, str] | Iterable[str] | None) -> list[str] | None:
    """ "NAME=value" strings of a mapping or of such strings."""
    if values is None:
        return None
    if isinstance(values, Mapping):
        return [f"{name}={value}" for name, value in values.items()]
    return list(values)


def restart_policy(text: str | None) -> Object | None:
    """ "always", "unless-stopped", "on-failure:3" as the API's object."""
    if not text:
        return None
    name, _, count = text.partition(":")
    return {"Name": name, "MaximumRetryCount": int(count or 0)}


def port_maps(given: Ports) -> tuple[Object | None, Object | None]:
    """ExposedPorts and PortBindings of {80: 8080, "53/udp": ("127.0.0.1", 5353), 443: None}."""
    if given is None:
        return None, None
    bindings: Object = {}
    for container_port, host in given.items():
        key = str(container_port) if "/" in str(container_port) else f"{container_port}/tcp"
        address, port = host if isinstance(host, tuple) else ("", host)
        bindings[key] = [{"HostIp": address, "HostPort": "" if port is None else str(port)}]
    return {key: {} for key in bindings}, bindings


def container_body(image: str, command: Command = None, **options: Unpack[ContainerOptions]) -> Object:
    """The body of POST /containers/create. Raises TypeError for an option that there is not."""
    _check(options, ContainerOptions)
    exposed, bindings = port_maps(options.get("ports"))
    host = {
        **_files(options),
        **_limits(options),
        **_security(options),
        "NetworkMode": options.get("network"),
        "PortBindings": bindings,
        "Init": options.get("init") or None,
        "AutoRemove": options.get("auto_remove") or None,
        "RestartPolicy": restart_policy(options.get("restart")),
        **(options.get("host_config") or {}),
    }
    body = {
        "Image": image,
        "Cmd": _words(command),
        **_process(options),
        "Hostname": options.get("hostname"),
        "Labels": _mapping(options.get("labels")),
        "ExposedPorts": exposed,
        "HostConfig": _given(host),
        **(options.get("config") or {}),
    }
    return _given(body)


def _process(options: ProcessOptions) -> Object:
    stdin = options.get("stdin_open") or None
    return {
        "Entrypoint": _words(options.get("entrypoint")),
        "Env": env_list(options.get("environment")),
        "User": options.get("user"),
        "WorkingDir": options.get("working_dir"),
        "Tty": options.get("tty") or None,
        "OpenStdin": stdin,
        "StdinOnce": stdin,
        "StopSignal": options.get("stop_signal"),
    }


def _files(options: FileOptions) -> Object:
    return {
        "Binds": options.get("volumes"),
        "Tmpfs": _mapping(options.get("tmpfs")),
        "ReadonlyRootfs": options.get("read_only") or None,
    }


def _limits(options: LimitOptions) -> Object:
    cpus = options.get("cpus")
    return {
        "Memory": size(options.get("memory")),
        "NanoCpus": None if cpus is None else round(cpus * 10**9),
        "PidsLimit": options.get("pids_limit"),
    }


def _security(options: SecurityOptions) -> Object:
    return {
        "CapAdd": options.get("cap_add"),
        "CapDrop": options.get("cap_drop"),
        "SecurityOpt": options.get("security_opt"),
        "Privileged": options.get("privileged") or None,
        "Isolation": options.get("isolation"),
    }


def exec_body(command: Command, stdin: bool = False, **options: Unpack[ExecOptions]) -> Object:
    """The body of POST /containers/{id}/exec. Raises TypeError for an option that there is not."""
    _check(options, ExecOptions)
    return {
        "Cmd": _words(command),
        "Env": env_list(options.get("environment")) or [],
        "User": options.get("user", ""),
        "WorkingDir": options.get("working_dir", ""),
        "Tty": options.get("tty", False),
        "Privileged": options.get("privileged", False),
        "AttachStdin": stdin,
        "AttachStdout": True,
        "AttachStderr": True,
    }


def update_body(restart: str | None = None, **limits: Unpack[LimitOptions]) -> Object:
    """The body of POST /containers/{id}/update."""
    return _given({**_limits(limits), "RestartPolicy": restart_policy(restart)})


def _check(options: Mapping[str, object], known: type) -> None:
    # As Python does for keywords that are named one by one: one that is misspelt would be passed over by the engine.
    for name in options:
        if name not in known.__annotations__:
            raise TypeError(
                f"there is no option {name!r}; keys of the API go into host_config={{...}} or config={{...}}"
            )


def _given(body: Object) -> Object:
    return {key: value for key, value in body.items() if value is not None}


def _mapping(values: Mapping[str, str] | None) -> Object | None:
    return dict(values) if values else None


def _words(command: Command) -> list[str] | None:
    return command.split() if isinstance(command, str) else command
