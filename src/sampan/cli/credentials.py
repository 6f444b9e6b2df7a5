"""Docker's config.json: credentials by registry, in the file or in the helper programs it names."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from typing import Any

from sampan.cli.flags import UsageError
from sampan.linux import durable

_DEFAULT = "https://index.docker.io/v1/"
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NOT_FOUND = "credentials not found"


def server_of(image: str) -> str:
    """The key in config.json of an image's registry."""
    first, slash, _ = image.partition("/")
    is_host = bool(slash) and ("." in first or ":" in first or first == "localhost")
    return key_of(first if is_host else "")


def key_of(server: str) -> str:
    """The key in config.json of a server as the user gives it; all of docker.io's names are one."""
    name = server.partition("://")[2] if "://" in server else server
    host = name.partition("/")[0]
    return _DEFAULT if host in ("", "docker.io", "index.docker.io", "registry-1.docker.io") else host


def _path() -> str:
    return os.path.join(os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker"), "config.json")


def _load() -> dict[str, Any]:
    try:
        with open(_path(), encoding="utf-8") as file:
            found = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{_path()}: {error}") from None
    return found if isinstance(found, dict) else {}


def _save(config: dict[str, object]) -> None:
    """Writes the file for its owner alone, in one step; what else is in it stays (S039)."""
    path = os.path.realpath(_path())
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    durable.write(path, json.dumps(config, indent="\t"))


def _helper(config: dict[str, Any], key: str) -> str:
    name = (config.get("credHelpers") or {}).get(key) or config.get("credsStore") or ""
    if name and not _HELPER.fullmatch(name):
        raise UsageError(f"{_path()}: {name!r} is no name of a credential helper")
    return str(name)


def _ask(helper: str, action: str, text: str) -> str:
    try:
        done = subprocess.run(
            [f"docker-credential-{helper}", action], input=text, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise UsageError(f"credential helper docker-credential-{helper}: {error.strerror}") from None
    if done.returncode and _NOT_FOUND not in (done.stdout + done.stderr).lower():
        raise UsageError(f"docker-credential-{helper} {action}: {(done.stdout or done.stderr).strip()}")
    return "" if done.returncode else done.stdout


def find(key: str) -> dict[str, str]:
    """The AuthConfig of a registry; empty when there is none. Raises UsageError."""
    config = _load()
    helper = _helper(config, key)
    if helper:
        answer = json.loads(_ask(helper, "get", key) or "{}")
        name, secret = answer.get("Username") or "", answer.get("Secret") or ""
        if name == "<token>":
            return {"identitytoken": secret, "serveraddress": key}
        return {"username": name, "password": secret, "serveraddress": key} if name else {}
    entries = config.get("auths") or {}
    row = entries.get(key) or next((value for name, value in entries.items() if key_of(name) == key), None)
    if not row:
        return {}
    found = {"serveraddress": key}
    if row.get("auth"):
        found["username"], _, found["password"] = base64.b64decode(row["auth"]).decode().partition(":")
    if row.get("identitytoken"):
        found["identitytoken"] = row["identitytoken"]
    return found


def header(image: str) -> str:
    """The X-Registry-Auth header line for an image, or ""."""
    found = find(server_of(image))
    if not found:
        return ""
    return f"X-Registry-Auth: {base64.urlsafe_b64encode(json.dumps(found).encode()).decode()}\r\n"


def store(key: str, username: str, password: str, identity_token: str = "") -> str:
    """Keeps credentials. Returns where."""
    config = _load()
    helper = _helper(config, key)
    if helper:
        row = {
            "ServerURL": key,
            "Username": "<token>" if identity_token else username,
            "Secret": identity_token or password,
        }
        _ask(helper, "store", json.dumps(row))
        return f"docker-credential-{helper}"
    entry = {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}
    if identity_token:
        entry = {"auth": base64.b64encode(f"{username}:".encode()).decode(), "identitytoken": identity_token}
    config.setdefault("auths", {})[key] = entry
    _save(config)
    return _path()


def erase(key: str) -> bool:
    """Forgets credentials. Whether there were any."""
    config = _load()
    helper = _helper(config, key)
    if helper:
        _ask(helper, "erase", key)
    entries = config.get("auths") or {}
    gone = [name for name in entries if key_of(name) == key]
    for name in gone:
        del entries[name]
    if gone:
        _save(config)
    return bool(gone or helper)


def every() -> dict[str, dict[str, str]]:
    """All credentials of config.json by registry, for a build that may pull from any of them."""
    config = _load()
    keys = {*(config.get("auths") or {}), *(config.get("credHelpers") or {})}
    return {key: found for key in sorted(keys) if (found := find(key_of(key)))}


def config_header() -> str:
    """The X-Registry-Config header line, or "" when there are no credentials."""
    found = every()
    return f"X-Registry-Config: {base64.urlsafe_b64encode(json.dumps(found).encode()).decode()}\r\n" if found else ""
