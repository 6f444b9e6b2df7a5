"""A container's record on its way into the database and back: a schema, migrations, and nothing believed unread.

What is read may be of an older or newer engine, cut, or damaged. It becomes a container only when every value is one
that this engine writes; everything else is `Unreadable`, and says why.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypedDict

import msgspec

from sampan.engine.container import Container, new_state
from sampan.volumes.local import NAME as VOLUME_NAME

SCHEMA = 2
ID = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
GROUP = re.compile(r"/sampan(-[0-9a-f]{8})?")
_IMAGE = re.compile(r"sha256:[0-9a-f]{64}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z")
_PID_MAX = 1 << 22

_Natural = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
_Code = Annotated[int, msgspec.Meta(ge=-(1 << 31), le=1 << 32)]
_Int = Annotated[int, msgspec.Meta(ge=-(1 << 62), le=1 << 62)]
_Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
_Strings = list[str] | None
_Map = dict[str, str] | None
_Objects = list[dict[str, Any]] | None


class Unreadable(Exception):
    """It is no record of a container that this engine can use."""


class _State(TypedDict):
    Status: Literal["created", "running", "paused", "restarting", "removing", "exited", "dead"]
    Running: bool
    Paused: bool
    Restarting: bool
    OOMKilled: bool
    Dead: bool
    Pid: Annotated[int, msgspec.Meta(ge=0, le=_PID_MAX)]
    ExitCode: _Code
    Error: str
    StartedAt: str
    FinishedAt: str


class _Health(TypedDict):
    Status: Literal["starting", "healthy", "unhealthy", "none"]
    FailingStreak: _Natural
    Log: list[dict[str, Any]]


class _MountRow(TypedDict):
    Type: Literal["bind", "volume", "tmpfs"]
    Source: str
    Destination: str
    RW: bool
    Mode: str
    Propagation: str


class _MountExtras(TypedDict, total=False):
    Name: str
    Driver: str
    Subpath: str
    NoCopy: bool
    NonRecursive: bool


class _PublishedPort(TypedDict):
    protocol: Literal["tcp", "udp", "sctp"]
    container_port: _Port
    host_ip: str
    host_port: _Port


class _Check(TypedDict, total=False):
    Test: _Strings
    Interval: _Int | None
    Timeout: _Int | None
    StartPeriod: _Int | None
    StartInterval: _Int | None
    Retries: _Int | None


class _Settings(TypedDict, total=False):
    IPAMConfig: dict[str, Any] | None
    Aliases: _Strings
    Links: _Strings
    MacAddress: str | None
    DriverOpts: _Map
    GwPriority: _Int | None


class _Config(TypedDict, total=False):
    """The members of `Config` that the engine uses; others may be anything."""

    Image: str | None
    Hostname: str | None
    Domainname: str | None
    User: str | None
    WorkingDir: str | None
    StopSignal: str | None
    StopTimeout: _Int | None
    Tty: bool | None
    OpenStdin: bool | None
    StdinOnce: bool | None
    Cmd: _Strings
    Entrypoint: _Strings
    Env: _Strings
    Shell: _Strings
    Labels: _Map
    ExposedPorts: dict[str, Any] | None
    Volumes: dict[str, Any] | None
    Healthcheck: _Check | None
    Machine: dict[str, Any]


class _Restart(TypedDict, total=False):
    Name: str | None
    MaximumRetryCount: _Int | None


class _Log(TypedDict, total=False):
    Type: str | None
    Config: _Map


class _Ulimit(TypedDict):
    Name: str
    Soft: _Int
    Hard: _Int


class _HostConfig(TypedDict, total=False):
    """As `_Config`."""

    Isolation: Literal["", "default", "container", "process", "vm", "machine"] | None
    NetworkMode: str | None
    PidMode: str | None
    IpcMode: str | None
    UTSMode: str | None
    UsernsMode: str | None
    CgroupnsMode: str | None
    RestartPolicy: _Restart | None
    LogConfig: _Log | None
    PortBindings: dict[str, list[dict[str, str | int | None]] | None] | None
    AutoRemove: bool | None
    Privileged: bool | None
    ReadonlyRootfs: bool | None
    PublishAllPorts: bool | None
    Init: bool | None
    Binds: _Strings
    Mounts: _Objects
    Tmpfs: _Map
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
    ShmSize: _Int | None
    Memory: _Int | None
    MemorySwap: _Int | None
    MemoryReservation: _Int | None
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
    Ulimits: list[_Ulimit] | None
    Devices: _Objects
    DeviceRequests: _Objects


class _Asked(TypedDict, total=False):
    labels: dict[str, str]
    names: list[str]


_TYPES: dict[str, Any] = {
    "id": str, "name": str, "created": _Natural, "image": str, "image_name": str, "config": _Config,
    "host_config": _HostConfig, "state": _State, "mounts": list[_MountRow], "networks": dict[str, _Settings],
    "ports": list[_PublishedPort], "restart_count": _Natural, "stopped_by_user": bool,
    "start_time": Annotated[int, msgspec.Meta(ge=-1, le=1 << 62)], "health": _Health | None, "owner": str, "claim": str,
    "decision": list[str], "asked": _Asked, "group": str,
}  # fmt: skip
_RECORD: Any = TypedDict("_RECORD", _TYPES, total=False)  # type: ignore[misc]
_NEEDED = ("id", "name", "created", "image", "image_name", "config", "host_config")


def write(container: Container) -> dict[str, Any]:
    """What is saved of a container."""
    return {"schema": SCHEMA, **{key: getattr(container, key) for key in Container.SAVED}}


def _to_1(record: dict[str, Any]) -> dict[str, Any]:
    """The records that had no number differ in nothing else."""
    return record


def _to_2(record: dict[str, Any]) -> dict[str, Any]:
    """Before there was `asked`: the policy looks at all labels then, and at the names that the image has."""
    return record


# _MIGRATIONS[n] makes a record of schema n + 1 of one of schema n.
_MIGRATIONS: list[Callable[[dict[str, Any]], dict[str, Any]]] = [_to_1, _to_2]


def read(key: str, body: bytes) -> Container:
    """The container of a record. Raises Unreadable."""
    try:
        record = _migrated(_parse(body))
        _check(key, record)
        return Container(**record)
    except RecursionError:
        raise Unreadable("it is nested too deeply") from None


def checked(container: Container) -> str:
    """What is saved of a container, as JSON. Raises Unreadable, with the field's name, for what could not be read again."""
    try:
        text = json.dumps(write(container), allow_nan=False)
        # Refuses half characters and endless numbers, as read() does.
        _check(container.id, _migrated(msgspec.json.decode(text)))
        return text
    except (ValueError, TypeError, RecursionError) as error:
        raise Unreadable(str(error)) from None


def _parse(body: bytes) -> dict[str, Any]:
    try:
        record = json.loads(body.decode(), parse_constant=_no_constant)
        json.dumps(record, ensure_ascii=False).encode()  # no half characters
    except (ValueError, TypeError) as error:
        raise Unreadable(f"it is damaged: {error}") from None
    if not isinstance(record, dict):
        raise Unreadable("it is damaged: no object")
    return record


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no value of JSON")


def _migrated(record: dict[str, Any]) -> dict[str, Any]:
    schema = record.pop("schema", 0)
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 0:
        raise Unreadable(f"it is damaged: schema {schema!r}")
    if schema > SCHEMA:
        raise Unreadable(f"a newer Sampan wrote it (schema {schema}, this one knows {SCHEMA}): start that one")
    for migration in _MIGRATIONS[schema:]:
        record = migration(record)
    return record


def _check(key: str, record: dict[str, Any]) -> None:
    unknown = sorted(set(record) - set(Container.SAVED))
    if unknown:
        raise Unreadable(f"it has an unknown field {unknown[0]!r}")
    for name in _NEEDED:
        if name not in record:
            raise Unreadable(f"it has no {name}")
    try:
        msgspec.convert(record, _RECORD)
        typed = True
    except msgspec.ValidationError:
        typed = False  # by its fields, to name the one
    for name, value in record.items():
        problem = _problem(name, value, typed)
        if problem:
            raise Unreadable(f"{name}: {problem}")
    if record["id"] != key:
        raise Unreadable(f"id: it is {record['id']!r} in the record of {key!r}")
    _check_state(record)


def _problem(name: str, value: Any, typed: bool = False) -> str:
    """What is wrong with a field's value, or "". `typed`: its type is known to be right."""
    try:
        if not typed:
            msgspec.convert(value, _TYPES[name])
        for row in value if name == "mounts" else []:
            msgspec.convert(row, _MountExtras)
    except msgspec.ValidationError as error:
        return str(error)
    if name in _MORE:
        return _MORE[name](value)
    return ""


def _check_state(record: dict[str, Any]) -> None:
    """The fields that say together whether it runs."""
    state = record.get("state") or new_state()
    runs = state["Status"] in ("running", "paused")
    if state["Running"] != runs or state["Paused"] != (state["Status"] == "paused"):
        raise Unreadable(f"state: Running and Paused contradict the status {state['Status']}")
    if runs and (state["Pid"] < 2 or record.get("start_time", 0) <= 0):
        raise Unreadable(f"state: it runs as process {state['Pid']} with start_time {record.get('start_time', 0)}")


def _state_problem(state: _State) -> str:
    for key in ("StartedAt", "FinishedAt"):
        if not _is_time(state[key]):
            return f"{key} is no time: {state[key]!r}"
    return ""


def _is_time(text: str) -> bool:
    try:
        datetime.datetime.fromisoformat(text[:19])
    except ValueError:
        return False
    return _TIME.fullmatch(text) is not None


def _mounts_problem(rows: list[dict[str, Any]]) -> str:
    seen = set()
    for row in rows:
        destination, source = row["Destination"], row["Source"]
        if not _is_path(destination) or destination == "/" or destination in seen:
            return f"Destination {destination!r}"
        seen.add(destination)
        if "\0" in source:
            return f"Source {source!r}"
        if row["Type"] == "volume":
            name = row.get("Name", "")
            if not VOLUME_NAME.fullmatch(name) or not source.endswith(f"/{name}/_data"):
                return f"the volume {name!r} at {source!r}"
    return ""


def _is_path(text: str) -> bool:
    return text.startswith("/") and "\0" not in text and ".." not in text.split("/")


def _names_problem(names: dict[str, Any]) -> str:
    return next((f"{name!r} is no name" for name in names if "/" in name or "\0" in name or not name), "")


_MORE: dict[str, Callable[[Any], str]] = {
    "id": lambda value: "" if ID.fullmatch(value) else f"{value!r} is none",
    "name": lambda value: "" if NAME.fullmatch(value) else f"{value!r} is none",
    "image": lambda value: "" if not value or _IMAGE.fullmatch(value) else f"{value!r} is no image",
    "created": lambda value: "" if value < 253370764800 * 10**9 else f"{value} is no time",
    "group": lambda value: "" if GROUP.fullmatch(value) else f"{value!r} is no control group of an engine",
    "state": _state_problem,
    "mounts": _mounts_problem,
    "networks": _names_problem,
}


def salvage(body: bytes) -> dict[str, Any]:
    """The fields of an unreadable record whose values are good, each by itself; of cut JSON those before the cut."""
    found: dict[str, Any] = {}
    for name, value in _members(body.decode("utf-8", "replace")):
        try:
            if name in _TYPES and not _problem(name, value):
                json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
                found[name] = value
        except (ValueError, TypeError, RecursionError):
            continue
    return found


def _members(text: str) -> list[tuple[str, Any]]:
    """The members of a JSON object as far as it can be read."""
    decoder, found = json.JSONDecoder(), []
    position = text.find("{") + 1
    try:
        while position:
            name, position = decoder.raw_decode(text, _skip(text, position))
            position = _skip(text, position)
            if text[position] != ":" or not isinstance(name, str):
                break
            value, position = decoder.raw_decode(text, _skip(text, position + 1))
            found.append((name, value))
            position = _skip(text, position)
            if text[position] != ",":
                break
            position += 1
    except (ValueError, IndexError, RecursionError):
        pass
    return found


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position
