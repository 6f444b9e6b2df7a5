"""vm: virtual machines with an operating system, and what all machines need."""

from __future__ import annotations

import os
import sys

from sampan import sizes
from sampan.cli import output, ports, transfers
from sampan.cli import run as streams
from sampan.cli.flags import BOOL, INT, LIST, STR, Flag, UsageError, parse
from sampan.cli.results import is_seekable, result
from sampan.client.connection import engine
from sampan.client.http import APIError, Http, query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_CREATE = [
    Flag("disk", "", STR, "A disk to copy: qcow2, raw, vmdk, vdi, vhdx or ova"),
    Flag("from", "", STR, "An image to make the disk of; its own init runs, or its command"),
    Flag("bootstrap", "", STR, "A distribution to install, such as debian:bookworm"),
    Flag("cpus", "", INT, "Virtual CPUs"),
    Flag("memory", "m", STR, "Memory (1g)"),
    Flag("disk-size", "", STR, "Size of the disk"),
    Flag("bus", "", STR, "How the disk is connected: virtio, sata or ide"),
    Flag("network", "", STR, "Network to be on"),
    Flag("publish", "p", LIST, "Publish a port to the host"),
    Flag("user", "", STR, "A user for cloud-init to make"),
    Flag("password", "", STR, "The user's password"),
    Flag("ssh-key", "", LIST, "A public key that may log in: a file, or the key itself"),
    Flag("user-data", "", STR, "A file with cloud-init's user data, instead"),
]
_FORMATS = {"qcow2": "qcow2", "raw": "raw", "img": "raw", "vmdk": "vmdk", "vdi": "vdi", "vhdx": "vhdx", "ova": "ova"}
_BLOCK = 1 << 20


def vm(args: list[str]) -> int:
    """vm COMMAND"""
    command = _COMMANDS.get(args[0]) if args else None
    if command is None:
        raise UsageError(f"'sampan vm' knows {', '.join(sorted(_COMMANDS))}")
    return command(args[1:])


def _prepare(args: list[str]) -> int:
    v, rest = parse([Flag("cpus", "", INT), Flag("memory", "m", STR)], args)
    if rest:
        raise UsageError("'sampan vm prepare' takes no arguments")
    memory = _size(v["memory"])
    asked = query(cpus=v["cpus"], memory=memory >> 20 if memory else None)
    transfers.show(engine().send("POST", "/sampan/vm/prepare" + asked).lines())
    return 0


def _size(text: str | None) -> int:
    try:
        return sizes.parse(text) if text else 0
    except ValueError as error:
        raise UsageError(f"invalid size: {error}") from None


def _create(args: list[str]) -> int:
    v, rest = parse(_CREATE, args)
    if len(rest) != 1:
        raise UsageError("'sampan vm create' requires 1 argument: NAME")
    body = {
        "Name": rest[0], "Disk": os.path.abspath(v["disk"]) if v["disk"] else "", "Image": v["from"], "Bootstrap": v["bootstrap"],
        "Cpus": v["cpus"], "Memory": _size(v["memory"]), "DiskSize": _size(v["disk-size"]), "Bus": v["bus"], "Network": v["network"],
        "Ports": ports.bindings(v["publish"] or []), "User": v["user"], "Password": v["password"], "SshKeys": [_key(text) for text in v["ssh-key"] or []],
        "UserData": _text(v["user-data"]) if v["user-data"] else "",
    }  # fmt: skip
    return _make(body)


def _make(body: dict[str, Any]) -> int:
    from contextlib import redirect_stdout

    with redirect_stdout(sys.stderr):
        aux = transfers.show(engine().send("POST", "/sampan/vm/create", body).lines())
    print(aux[-1]["ID"])
    return 0


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def _key(text: str) -> str:
    return text if text.startswith(("ssh-", "ecdsa-", "sk-")) else _text(text).strip()


def _import(args: list[str]) -> int:
    v, rest = parse([flag for flag in _CREATE if flag.name not in ("disk", "from", "bootstrap")], args)
    if not 1 <= len(rest) <= 2:
        raise UsageError("'sampan vm import' requires 1 or 2 arguments: FILE [NAME]")
    name = rest[1] if len(rest) > 1 else os.path.basename(rest[0]).rpartition(".")[0]
    return _make({"Name": name, "Disk": os.path.abspath(rest[0]), "Cpus": v["cpus"], "Memory": _size(v["memory"]), "Bus": v["bus"],
                  "DiskSize": _size(v["disk-size"]), "Network": v["network"]})  # fmt: skip


def _export(args: list[str]) -> int:
    flags = [Flag("format", "", STR, "qcow2, raw, vmdk, vdi, vhdx or ova"), Flag("output", "o", STR, "The file to write"),
             Flag("disk-size", "", STR, "Size of the disk")]  # fmt: skip
    v, rest = parse(flags, args)
    if len(rest) != 1:
        raise UsageError("'sampan vm export' requires 1 argument: IMAGE or the name of a virtual machine")
    form = v["format"] or _FORMATS.get((v["output"] or "").rpartition(".")[2], "qcow2")
    target = v["output"] or f"{rest[0].rpartition('/')[2].replace(':', '-')}.{form}"
    response = engine().send(
        "GET", "/sampan/vm/export" + query(source=rest[0], format=form, size=_size(v["disk-size"]) or None)
    )
    with result(target) as file:
        sparse = is_seekable(file)
        for data in response.chunks():
            _write_sparse(file, data) if sparse else file.write(data)
        if sparse:
            file.truncate(file.tell())
    print(target)
    return 0


def _write_sparse(file: Any, data: bytes) -> None:
    """Zeros become a hole."""
    if data.count(0) == len(data):
        file.seek(len(data), 1)
    else:
        file.write(data)


def _list(args: list[str]) -> int:
    v, _ = parse([Flag("quiet", "q", BOOL), Flag("format", "", STR)], args)
    rows = engine().call("GET", "/sampan/vm/json")
    if v["quiet"]:
        for row in rows:
            print(row["Id"][:12])
        return 0
    columns = [("ID", "ID"), ("NAME", "Name"), ("SOURCE", "Source"), ("STATE", "State"), ("CPUS", "Cpus"), ("MEMORY", "Memory"),
               ("ADDRESS", "Address")]  # fmt: skip
    shown = [{"ID": row["Id"][:12], "Name": row["Name"], "Source": row["Source"], "State": row["State"], "Cpus": str(row["Cpus"]),
              "Memory": f"{row['Memory'] >> 20}MiB", "Address": ", ".join(row["Addresses"])} for row in rows]  # fmt: skip
    return output.rows_out(shown, columns, v["format"] or "")


def _inspect(args: list[str]) -> int:
    import json

    _, names = parse([], args)
    http = engine()
    print(json.dumps([http.call("GET", f"/sampan/vm/{name}/json") for name in _some(names, "inspect")], indent=4))
    return 0


def _some(names: list[str], command: str) -> list[str]:
    if not names:
        raise UsageError(f"'sampan vm {command}' requires at least 1 argument: NAME")
    return names


def _each(
    command: str, flags: list[Flag], call: Callable[[Http, str, dict[str, Any]], object]
) -> Callable[[list[str]], int]:
    """A command that does something with every machine it is given, and prints their names."""

    def run(args: list[str]) -> int:
        v, names = parse(flags, args)
        http, status = engine(), 0
        for name in _some(names, command):
            try:
                call(http, name, v)
                print(name)
            except APIError as error:
                status = streams.fail(error, 1)
        return status

    return run


def _identifier(http: Http, name: str) -> str:
    return str(http.call("GET", f"/sampan/vm/{name}/json")["Id"])


def _console(args: list[str]) -> int:
    _, names = parse([Flag("detach-keys", "", STR)], args)
    if len(names) != 1:
        raise UsageError("'sampan vm console' requires 1 argument: NAME")
    try:
        identifier = _identifier(engine(), names[0])
    except APIError as error:
        return streams.fail(error, 1)
    return streams.attach([identifier])


def _logs(args: list[str]) -> int:
    from sampan.cli import containers

    if not args:
        raise UsageError("'sampan vm logs' requires 1 argument: NAME")
    return containers.logs([*args[:-1], _identifier(engine(), args[-1])])


def _exec(args: list[str]) -> int:
    _, rest = parse(streams.EXEC_FLAGS, args, interspersed=False)
    if len(rest) < 2:
        raise UsageError("'sampan vm exec' requires at least 2 arguments: NAME COMMAND [ARG...]")
    at = len(args) - len(rest)
    try:
        identifier = _identifier(engine(), rest[0])
    except APIError as error:
        return streams.fail(error, 1)
    return streams.exec_([*args[:at], identifier, *rest[1:]])


def _snapshot(args: list[str]) -> int:
    """vm snapshot NAME [SNAPSHOT]: makes one, or lists them"""
    v, rest = parse([Flag("delete", "d", BOOL, "Delete it")], args)
    if len(rest) == 1:
        for row in engine().call("GET", f"/sampan/vm/{rest[0]}/json")["Snapshots"]:
            print(f"{row['name']}\t{'disk and memory' if row['memory'] else 'disk'}")
        return 0
    if len(rest) != 2:
        raise UsageError("'sampan vm snapshot' requires 2 arguments: NAME SNAPSHOT")
    engine().call("POST", f"/sampan/vm/{rest[0]}/snapshots/{rest[1]}/{'delete' if v['delete'] else 'create'}")
    print(rest[1])
    return 0


def _restore(args: list[str]) -> int:
    _, rest = parse([], args)
    if len(rest) != 2:
        raise UsageError("'sampan vm restore' requires 2 arguments: NAME SNAPSHOT")
    engine().call("POST", f"/sampan/vm/{rest[0]}/snapshots/{rest[1]}/restore")
    print(rest[1])
    return 0


def _post(action: str) -> Callable[[Http, str, dict[str, Any]], object]:
    return lambda http, name, _: http.call("POST", f"/sampan/vm/{name}/{action}")


_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "prepare": _prepare,
    "create": _create,
    "import": _import,
    "export": _export,
    "ls": _list,
    "inspect": _inspect,
    "start": _each("start", [], _post("start")),
    "stop": _each(
        "stop",
        [Flag("time", "t", INT)],
        lambda http, name, v: http.call("POST", f"/sampan/vm/{name}/stop" + query(t=v["time"])),
    ),
    "kill": _each("kill", [], _post("kill")),
    "pause": _each("pause", [], _post("pause")),
    "unpause": _each("unpause", [], _post("unpause")),
    "reset": _each("reset", [], _post("reset")),
    "rm": _each(
        "rm",
        [Flag("force", "f", BOOL)],
        lambda http, name, v: http.call("DELETE", f"/sampan/vm/{name}" + query(force=v["force"])),
    ),
    "console": _console,
    "logs": _logs,
    "exec": _exec,
    "snapshot": _snapshot,
    "restore": _restore,
}
