"""A container's record on its way into the database and back: a schema, migrations, and nothing believed unread.

What is read may be of an older or newer engine, cut, or damaged. It becomes a container only when every value is one
that this engine writes; everything else is `Unreadable`, and says why.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, cast

import msgspec

from sampan.engine import record_migrations as old
from sampan.engine.container import Container
from sampan.engine.model import (
    Asked,
    Config,
    EndpointSettings,
    Health,
    HostConfig,
    Isolation,
    Mount,
    MountType,
    PublishedPort,
    State,
)
from sampan.volumes.local import NAME as VOLUME_NAME

SCHEMA = old.NEWEST + 1
ID = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
GROUP = re.compile(r"/sampan(-[0-9a-f]{8})?")
_IMAGE = re.compile(r"sha256:[0-9a-f]{64}")
_PID_MAX = 1 << 22  # PID_MAX_LIMIT in include/linux/threads.h
_LATEST = 253370764800 * 10**9  # the year 9999
_HEAD = b'{"schema":%d,' % SCHEMA

_Natural = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
Value = object


class Unreadable(Exception):
    """It is no record of a container that this engine can use."""


class Record(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is saved of a container: the fields of Container of the same names."""

    schema: int
    id: str
    name: str
    created: _Natural
    image: str
    image_name: str
    config: Config
    host_config: HostConfig
    state: State = msgspec.field(default_factory=State)
    mounts: list[Mount] = []
    networks: dict[str, EndpointSettings] = {}
    ports: list[PublishedPort] = []
    restart_count: _Natural = 0
    stopped_by_user: bool = False
    start_time: Annotated[int, msgspec.Meta(ge=-1, le=1 << 62)] = 0
    health: Health | None = None
    owner: str = "root"
    claim: str = ""
    decision: list[str] = []
    asked: Asked = Asked()
    group: str = "/sampan"


SAVED = tuple(name for name in Record.__struct_fields__ if name != "schema")
_TYPES = {each.name: each.type for each in msgspec.structs.fields(Record)}
_NEEDED = tuple(each.name for each in msgspec.structs.fields(Record) if each.required and each.name != "schema")


def write(container: Container) -> str:
    """What is saved of a container, as JSON."""
    return _encoded(container).decode()


def _encoded(container: Container) -> bytes:
    return msgspec.json.encode(Record(schema=SCHEMA, **{name: getattr(container, name) for name in SAVED}))


def read(key: str, body: bytes) -> Container:
    """The container of a record. Raises Unreadable."""
    try:
        record = _parse(body)
    except RecursionError:
        raise Unreadable("it is nested too deeply") from None
    _check(key, record)
    return Container(**{name: getattr(record, name) for name in SAVED})


def checked(container: Container) -> str:
    """What is saved of a container, as JSON. Raises Unreadable, with the field's name, for what could not be read again."""
    try:
        text = _encoded(container)
    except (ValueError, TypeError, OverflowError) as error:
        raise Unreadable(str(error)) from None
    _check(container.id, _parse(text))
    return text.decode()


def _parse(body: bytes) -> Record:
    if body.startswith(_HEAD):
        return _typed(body)
    fields = _members_of(body)
    schema = fields.pop("schema", 0)
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 0:
        raise Unreadable(f"it is damaged: schema {schema!r}")
    if schema > SCHEMA:
        raise Unreadable(f"a newer Sampan wrote it (schema {schema}, this one knows {SCHEMA}): start that one")
    if schema == SCHEMA:
        return _typed(body)
    return _migrated(fields)


def _typed(body: bytes) -> Record:
    try:
        return msgspec.json.decode(body, type=Record)
    except msgspec.ValidationError as error:
        raise Unreadable(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unreadable(f"it is damaged: {error}") from None


def _members_of(body: bytes) -> dict[str, Value]:
    try:
        found = json.loads(body.decode(), parse_constant=_no_constant)
        json.dumps(found, ensure_ascii=False).encode()  # no half characters
    except (ValueError, TypeError) as error:
        raise Unreadable(f"it is damaged: {error}") from None
    if not isinstance(found, dict):
        raise Unreadable("it is damaged: no object")
    return found


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no value of JSON")


def _migrated(fields: dict[str, Value]) -> Record:
    """The record of one of an older schema, checked by what that was and by what this is."""
    for name in _NEEDED:
        if name not in fields:
            raise Unreadable(f"it has no {name}")
    found: dict[str, Value] = {}
    for name, value in fields.items():
        if name not in SAVED:
            raise Unreadable(f"it has an unknown field {name!r}")
        try:
            found[name] = old.value(name, value)
        except old.Bad as error:
            raise Unreadable(f"{name}: {error}") from None
    try:
        return _typed(msgspec.json.encode({"schema": SCHEMA, **found}))
    except (TypeError, ValueError, OverflowError) as error:
        raise Unreadable(f"it is damaged: {error}") from None


def _check(key: str, record: Record) -> None:
    for name, check in _MORE.items():
        problem = check(getattr(record, name))
        if problem:
            raise Unreadable(f"{name}: {problem}")
    if record.id != key:
        raise Unreadable(f"id: it is {record.id!r} in the record of {key!r}")
    if record.state.running and (record.state.pid < 2 or record.start_time <= 0):
        raise Unreadable(f"state: it runs as process {record.state.pid} with start_time {record.start_time}")


def _state_problem(state: State) -> str:
    if not 0 <= state.pid <= _PID_MAX:
        return f"the process {state.pid}"
    if not -(1 << 31) <= state.exit_code <= 1 << 32:
        return f"the exit code {state.exit_code}"
    late = next((moment for moment in (state.started_at, state.finished_at) if not 0 <= moment < _LATEST), 0)
    return f"{late} is no time" if late else ""


def _health_problem(health: Health | None) -> str:
    moments = (
        [] if health is None else [moment for probe in health.log for moment in (probe.started_at, probe.finished_at)]
    )
    return next((f"{moment} is no time" for moment in moments if not 0 <= moment < _LATEST), "")


def _host_problem(host: HostConfig) -> str:
    return "" if host.isolation in _ISOLATIONS else f"the isolation {host.isolation!r}"


_ISOLATIONS = frozenset(Isolation)


def _mounts_problem(rows: Sequence[Mount]) -> str:
    seen = set()
    for row in rows:
        if not _is_path(row.destination) or row.destination == "/" or row.destination in seen:
            return f"the destination {row.destination!r}"
        seen.add(row.destination)
        if "\0" in row.source:
            return f"the source {row.source!r}"
        ours = VOLUME_NAME.fullmatch(row.name) and row.source.endswith(f"/{row.name}/_data")
        if row.kind is MountType.VOLUME and not ours:
            return f"the volume {row.name!r} at {row.source!r}"
    return ""


def _is_path(text: str) -> bool:
    return text.startswith("/") and "\0" not in text and ".." not in text.split("/")


def _networks_problem(names: Mapping[str, EndpointSettings]) -> str:
    return next((f"{name!r} is no name" for name in names if "/" in name or "\0" in name or not name), "")


def _ports_problem(rows: Sequence[PublishedPort]) -> str:
    numbers = (number for row in rows for number in (row.container_port, row.host_port))
    return next((f"{number} is no port" for number in numbers if not 0 <= number <= 65535), "")


_MORE: dict[str, Callable[..., str]] = {
    "id": lambda value: "" if ID.fullmatch(value) else f"{value!r} is none",
    "name": lambda value: "" if NAME.fullmatch(value) else f"{value!r} is none",
    "image": lambda value: "" if not value or _IMAGE.fullmatch(value) else f"{value!r} is no image",
    "created": lambda value: "" if value < _LATEST else f"{value} is no time",
    "group": lambda value: "" if GROUP.fullmatch(value) else f"{value!r} is no control group of an engine",
    "host_config": _host_problem,
    "state": _state_problem,
    "health": _health_problem,
    "mounts": _mounts_problem,
    "networks": _networks_problem,
    "ports": _ports_problem,
}


def salvage(body: bytes) -> dict[str, Value]:
    """The fields of an unreadable record whose values are good, each by itself; of cut JSON those before the cut."""
    found: dict[str, Value] = {}
    schema: Value = 0
    for name, value in _members(body.decode("utf-8", "replace")):
        if name == "schema":
            schema = value
        try:
            if name in SAVED:
                typed = _salvaged(name, value, isinstance(schema, int) and schema <= old.NEWEST)
                if name not in _MORE or not _MORE[name](typed):
                    found[name] = typed
        except (ValueError, TypeError, OverflowError, RecursionError):
            continue
    return found


def _salvaged(name: str, value: Value, of_old: bool) -> Value:
    """One field's value. Raises ValueError, TypeError: it is none."""
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    text = msgspec.json.encode(old.value(name, value) if of_old else value)
    return cast(Value, msgspec.json.decode(text, type=_TYPES[name]))


def _members(text: str) -> list[tuple[str, Value]]:
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
