"""Contexts: names for engines, kept where Docker's client keeps its own, in its format.

Which one is current is Sampan's own file: Docker's current context names Docker's engine.
"""

from __future__ import annotations

import hashlib
import json
import os
import re

from sampan.cli.flags import UsageError
from sampan.linux import durable, filetree
from sampan.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT = "default"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.+-]+")


@record
class Context:
    """A context: its name, a description, the engine's address, and the rest of what its file says."""

    name: str
    description: str
    host: str
    path: str


def directory() -> str:
    """Docker's configuration directory."""
    return os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")


def current() -> str:
    """The name of the context in use: SAMPAN_CONTEXT, else that of `context use`, else "default"."""
    if "SAMPAN_HOST" in os.environ and not _followed:
        return DEFAULT
    if os.environ.get("SAMPAN_CONTEXT"):
        return os.environ["SAMPAN_CONTEXT"]
    try:
        with open(f"{directory()}/contexts/sampan", encoding="utf-8") as file:
            return file.read().strip() or DEFAULT
    except OSError:
        return DEFAULT


_followed: list[str] = []  # the context whose engine SAMPAN_HOST names in this process


def follow(name: str) -> None:
    """Makes a context's engine the one that this process talks to. Raises UsageError."""
    if name != DEFAULT:
        os.environ["SAMPAN_HOST"] = find(name).host
        _followed.append(name)


def find(name: str) -> Context:
    """A context by name. Raises UsageError."""
    if name == DEFAULT:
        from sampan import paths

        host = "" if _followed else os.environ.get("SAMPAN_HOST") or ""
        return Context(DEFAULT, "The engine of SAMPAN_HOST, or of this machine", host or f"unix://{paths.socket()}", "")
    path = _path(name)
    try:
        with open(path, encoding="utf-8") as file:
            return parse(file.read(), name, path)
    except OSError as error:
        raise UsageError(
            f'context "{name}": context not found: open {path}: {(error.strerror or "").lower()}', 1
        ) from None


def parse(text: str, name: str, path: str = "") -> Context:
    """A context of the text of its file. Raises UsageError."""
    try:
        found = json.loads(text)
        host = found["Endpoints"]["docker"]["Host"]
        description = (found.get("Metadata") or {}).get("Description") or ""
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f'context "{name}" is of no form that is known', 1) from None
    return Context(name, str(description), checked(str(host)), path)


def checked(host: str) -> str:
    """An engine's address. Raises UsageError for one that this client can't reach."""
    if not host.startswith("unix://"):
        raise UsageError(f"unable to reach {host}: only unix:// sockets", 1)
    return host


def every() -> list[Context]:
    """All contexts by name; those of engines that can't be reached from here are left out."""
    found = [find(DEFAULT)]
    try:
        entries = os.listdir(f"{directory()}/contexts/meta")
    except OSError:
        entries = []
    for entry in entries:
        path = f"{directory()}/contexts/meta/{entry}/meta.json"
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
            found.append(parse(text, str(json.loads(text).get("Name")), path))
        except (OSError, ValueError, UsageError):
            continue
    return sorted(found, key=lambda context: context.name)


def save(context: Context) -> None:
    """Keeps a context. Raises UsageError, OSError."""
    path = _path(context.name)
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    durable.write(path, text(context))


def text(context: Context) -> str:
    """The text of a context's file."""
    metadata = {"Description": context.description} if context.description else {}
    return json.dumps({"Name": context.name, "Metadata": metadata, "Endpoints": endpoints(context)})


def endpoints(context: Context) -> dict[str, Any]:
    """The engine's address as Docker's client writes it."""
    return {"docker": {"Host": context.host, "SkipTLSVerify": False}}


def use(name: str) -> None:
    """Makes a context the current one. Raises UsageError, OSError."""
    path = f"{directory()}/contexts/sampan"
    if name == DEFAULT:
        if os.path.exists(path):
            os.unlink(path)
        return
    find(name)
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    durable.write(path, f"{name}\n")


def remove(name: str) -> None:
    """Forgets a context. Raises UsageError."""
    if name == DEFAULT:
        raise UsageError('context "default" cannot be removed', 1)
    if not os.path.exists(_path(name)):
        raise UsageError(f'context "{name}" does not exist', 1)
    filetree.remove(os.path.dirname(_path(name)))
    tls = f"{directory()}/contexts/tls/{_digest(name)}"
    if os.path.isdir(tls):
        filetree.remove(tls)


def exists(name: str) -> bool:
    """Whether there is such a context."""
    return name == DEFAULT or os.path.exists(_path(name))


def named(name: str) -> str:
    """A name for a new context. Raises UsageError."""
    if name == DEFAULT:
        raise UsageError('"default" is a reserved context name', 1)
    if not _NAME.fullmatch(name):
        raise UsageError(f'context name "{name}" is invalid, names are validated against regexp "^{_NAME.pattern}$"', 1)
    if exists(name):
        raise UsageError(f'context "{name}" already exists', 1)
    return name


def _path(name: str) -> str:
    return f"{directory()}/contexts/meta/{_digest(name)}/meta.json"


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
