"""Answers without what differs from one engine or run to the next: ids, times, addresses, places, sizes of what runs."""

from __future__ import annotations

import io
import json
import re
import tarfile
from typing import Any

from tests.differential.sides import Answer

Plain = Any  # JSON, or text

RULES: list[tuple[re.Pattern[str], str]] = [
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?[+-]\d\d:?\d\d)?(Z| UTC)?( UTC)?"), "<time>"),
    (re.compile(r"\bsha256:[0-9a-f]{64}\b"), "sha256:<id>"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "<id>"),
    (re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{12}\b"), "<short>"),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "<uuid>"),
    (re.compile(r"\b(172\.(1[6-9]|2\d|3[01])|192\.168|10\.(?!177)\d+)\.\d+\.\d+(/\d\d)?\b"), "<address>"),
    (re.compile(r"\b(02:42|[0-9a-f][26ae]:[0-9a-f]{2})(:[0-9a-f]{2}){4}\b"), "<mac>"),
    (
        re.compile(
            r"\b(Less than a second|About an? (minute|hour)|\d+ (seconds?|minutes?|hours?|days?|weeks?|months?|years?)) ago\b"
        ),
        "<ago>",
    ),
    (re.compile(r"\bUp (Less than a second|About an? (minute|hour)|\d+ (seconds?|minutes?|hours?))"), "Up <while>"),
    (re.compile(r"\b\d+(\.\d+)?\s?[kKMGT]?i?B\b"), "<size>"),
]
NAME = re.compile(r"\b(?:admiring|adoring|affectionate|[a-z]+)_[a-z]+\d?\b")
# Of these keys only the type counts.
LOOSE = {"Size", "SizeRw", "SizeRootFs", "VirtualSize", "LayersSize", "Pid", "Created", "timeNano", "time", "ContainerIDFile", "UsageData", "MemTotal",
         "NEventsListener", "NFd", "NGoroutines", "KernelVersion", "ServerVersion", "ID", "Built", "Containerd", "CreatedAt", "DockerRootDir", "SystemTime",
         "progressDetail", "progress", "BuildTime", "GitCommit", "GoVersion", "read", "preread", "usage", "Platform", "Duration", "execDuration"}  # fmt: skip


def text(value: str, places: dict[str, str]) -> str:
    for place, name in places.items():
        value = value.replace(place, name)
    for pattern, name in RULES:
        value = pattern.sub(name, value)
    return value


def tree(value: Any, places: dict[str, str], key: str = "") -> Plain:
    if key in LOOSE:
        return f"<{type(value).__name__}>"
    if isinstance(value, dict):
        return {text(name, places): tree(item, places, name) for name, item in value.items()}
    if isinstance(value, list):
        return [tree(item, places) for item in value]
    if isinstance(value, str):
        return text(value, places)
    return value


def members(data: bytes, places: dict[str, str]) -> Plain:
    """What an archive holds: a line for each member."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            return [
                f"{text(m.name, places)} {m.mode:o} {m.uid}:{m.gid} {m.type.decode()} {m.size if m.isfile() else 0} {m.linkname}"
                for m in tar
            ]
    except tarfile.TarError as error:
        return f"no archive: {error}"


def documents(data: bytes) -> list[Any] | None:
    """A sequence of JSON documents, or None if it is something else."""
    decoder, found, rest = json.JSONDecoder(), [], data.decode(errors="replace").strip()
    while rest:
        try:
            value, end = decoder.raw_decode(rest)
        except ValueError:
            return None
        found.append(value)
        rest = rest[end:].lstrip()
    return found


def body(answer: Answer, places: dict[str, str]) -> Plain:
    kind = answer.head.get("content-type", "").partition(";")[0]
    if kind == "application/x-tar" and answer.status < 300:
        return members(answer.body, places)
    found = (
        documents(answer.body)
        if b"{" in answer.body[:2] or b"[" in answer.body[:2] or answer.body[:5].strip() == b"null"
        else None
    )
    if found is None:
        return text(answer.body.decode("latin-1"), places)
    plain = [tree(value, places) for value in found]
    return plain[0] if len(plain) == 1 else plain


def lines(data: bytes, places: dict[str, str]) -> list[str]:
    """What a command wrote, without its alignment."""
    return [re.sub(r"\s{2,}", "  ", text(line, places)).rstrip() for line in data.decode(errors="replace").splitlines()]
