"""What the members of requests to machines and guests may be: a check for each annotation of the records of `requests`."""

from __future__ import annotations

from sampan.keeper import fields
from sampan.keeper.fields import Malformed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.keeper.fields import Message


def _optional_text(message: Message, key: str) -> str | None:
    return None if message.get(key) is None else fields.text(message, key, 1 << 24)


def _seconds(message: Message, key: str) -> float:
    value = message.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1 << 33:
        raise Malformed(f"{key} is no time")
    return float(value)


def _hex(message: Message, key: str) -> str:
    text = fields.text(message, key, 1024)
    if len(text) % 2 or not set(text) <= set("0123456789abcdef"):
        raise Malformed(f"{key} is not hexadecimal")
    return text


def _files(message: Message, key: str) -> Message:
    found = fields.mapping(message, key)
    for name in found:
        if "/" in name or name in ("", ".", ".."):
            raise Malformed(f"{name[:40]!r} is no name of a file")
        fields.text(found, name, 1 << 22)
    return found


def _interface(message: Message, key: str) -> Message:
    found = fields.mapping(message, key)
    fields.number(found, "slot", _MAX_SLOT)
    fields.number(found, "mtu", 0xFFFF)
    fields.flag(found, "ipv6")
    for name in ("name", "mac"):
        fields.text(found, name, 64)
    for name in ("addresses", "gateways"):
        fields.texts(found, name, 64)
    return found


def _belongings(message: Message, key: str) -> Message:
    found = fields.mapping(message, key)
    if found.get("files") is not None:
        _files(found, "files")
    for interface in found.get("interfaces") or []:
        _interface({key: interface}, key)
    return found


_MAX_SLOT = 1 << 16
CHECKS: dict[str, fields.Check] = {
    "Id": lambda message, key: fields.text(message, key, 256),
    "Path": fields.text,
    "Hex": _hex,
    "Base64": lambda message, key: fields.text(message, key, 1 << 20),
    "Base64 | None": _optional_text,
    "Seconds": _seconds,
    "Bytes": lambda message, key: fields.number(message, key, 1 << 53),
    "Cells": lambda message, key: fields.number(message, key, 0xFFFF),
    "Slot": lambda message, key: fields.number(message, key, _MAX_SLOT),
    "Stream": lambda message, key: fields.number(message, key, 1 << 31),
    "Count": fields.number,
    "SignalNumber": lambda message, key: fields.number(message, key, 64, 1),
    "bool": fields.flag,
    "list[str]": fields.texts,
    "Arguments": fields.mapping,
    "dict[str, str]": _files,
    "Launch": fields.mapping,
    "Process": fields.mapping,
    "Spec": fields.mapping,
    "Resources": fields.mapping,
    "Interface": _interface,
    "Belongings": _belongings,
}
