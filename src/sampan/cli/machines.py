"""vm: virtual machines with an operating system, and what all machines need."""

from __future__ import annotations

import os
import sys

from sampan.cli import output, ports, transfers
from sampan.cli import run as processes
from sampan.cli.arguments import each
from sampan.cli.flags import UsageError, Values
from sampan.cli.options import bytes_of
from sampan.cli.results import is_seekable, result
from sampan.cli.session import fail
from sampan.client.connection import engine
from sampan.client.http import APIError, Http, at, query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_FORMATS = {"qcow2": "qcow2", "raw": "raw", "img": "raw", "vmdk": "vmdk", "vdi": "vdi", "vhdx": "vhdx", "ova": "ova"}
_BLOCK = 1 << 20


def prepare(v: Values, rest: list[str]) -> int:
    """vm prepare"""
    memory = bytes_of(v, "memory")
    asked = query(cpus=v.number("cpus"), memory=memory >> 20 if memory else None)
    transfers.show(engine().send("POST", "/sampan/vm/prepare" + asked).lines())
    return 0


def create(v: Values, rest: list[str]) -> int:
    """vm create"""
    body = {
        "Name": rest[0], "Disk": os.path.abspath(v.text("disk")) if v.text("disk") else "", "Image": v.text("from"), "Bootstrap": v.text("bootstrap"),
        "Cpus": v.number("cpus"), "Memory": bytes_of(v, "memory"), "DiskSize": bytes_of(v, "disk-size"), "Bus": v.text("bus"), "Network": v.text("network"),
        "Ports": ports.bindings(v.items("publish") or []), "User": v.text("user"), "Password": v.text("password"), "SshKeys": [_key(text) for text in v.items("ssh-key") or []],
        "UserData": _text(v.text("user-data")) if v.text("user-data") else "",
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


def import_disk(v: Values, rest: list[str]) -> int:
    """vm import"""
    name = rest[1] if len(rest) > 1 else os.path.basename(rest[0]).rpartition(".")[0]
    return _make({"Name": name, "Disk": os.path.abspath(rest[0]), "Cpus": v.number("cpus"), "Memory": bytes_of(v, "memory"), "Bus": v.text("bus"),
                  "DiskSize": bytes_of(v, "disk-size"), "Network": v.text("network")})  # fmt: skip


def export(v: Values, rest: list[str]) -> int:
    """vm export"""
    form = v.text("format") or _FORMATS.get((v.text("output") or "").rpartition(".")[2], "qcow2")
    target = v.text("output") or f"{rest[0].rpartition('/')[2].replace(':', '-')}.{form}"
    response = engine().send(
        "GET", "/sampan/vm/export" + query(source=rest[0], format=form, size=bytes_of(v, "disk-size") or None)
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


def ls(v: Values, rest: list[str]) -> int:
    """vm ls"""
    rows = engine().call("GET", "/sampan/vm/json")
    if v.on("quiet"):
        for row in rows:
            print(row["Id"][:12])
        return 0
    columns = [("ID", "ID"), ("NAME", "Name"), ("SOURCE", "Source"), ("STATE", "State"), ("CPUS", "Cpus"), ("MEMORY", "Memory"),
               ("ADDRESS", "Address")]  # fmt: skip
    shown = [{"ID": row["Id"][:12], "Name": row["Name"], "Source": row["Source"], "State": row["State"], "Cpus": str(row["Cpus"]),
              "Memory": f"{row['Memory'] >> 20}MiB", "Address": ", ".join(row["Addresses"])} for row in rows]  # fmt: skip
    return output.rows_out(shown, columns, v.text("format") or "")


def inspect(v: Values, rest: list[str]) -> int:
    """vm inspect"""
    import json

    http = engine()
    found = [http.call("GET", at("/sampan/vm/{}/json", name)) for name in rest]
    print(json.dumps(found, indent=4, ensure_ascii=False))
    return 0


def _identifier(http: Http, name: str) -> str:
    return str(http.call("GET", at("/sampan/vm/{}/json", name))["Id"])


def console(v: Values, rest: list[str]) -> int:
    """vm console"""
    try:
        identifier = _identifier(engine(), rest[0])
    except APIError as error:
        return fail(error, 1)
    return processes.attach_console(identifier, v.text("detach-keys"))


def logs(v: Values, rest: list[str]) -> int:
    """vm logs"""
    from sampan.cli import containers

    return containers.logs(v, [_identifier(engine(), rest[0])])


def execute(v: Values, rest: list[str]) -> int:
    """vm exec"""
    try:
        identifier = _identifier(engine(), rest[0])
    except APIError as error:
        return fail(error, 1)
    return processes.exec_(v, [identifier, *rest[1:]])


def snapshot(v: Values, rest: list[str]) -> int:
    """vm snapshot: makes one, or lists them"""
    if len(rest) == 1:
        for row in engine().call("GET", at("/sampan/vm/{}/json", rest[0]))["Snapshots"]:
            print(f"{row['name']}\t{'disk and memory' if row['memory'] else 'disk'}")
        return 0
    engine().call("POST", at("/sampan/vm/{}/snapshots/{}/{}", *rest[:2], "delete" if v.on("delete") else "create"))
    print(rest[1])
    return 0


def restore(v: Values, rest: list[str]) -> int:
    """vm restore"""
    engine().call("POST", at("/sampan/vm/{}/snapshots/{}/restore", *rest[:2]))
    print(rest[1])
    return 0


def _post(action: str) -> Callable[[Http, str, Values], object]:
    def call(http: Http, name: str, v: Values) -> None:
        http.call("POST", at("/sampan/vm/{}/{}", name, action))

    return call


start = each(_post("start"))
kill = each(_post("kill"))
pause = each(_post("pause"))
unpause = each(_post("unpause"))
reset = each(_post("reset"))


@each
def stop(http: Http, name: str, v: Values) -> None:
    """vm stop"""
    http.call("POST", at("/sampan/vm/{}/stop", name) + query(t=v.number("time")))


@each
def rm(http: Http, name: str, v: Values) -> None:
    """vm rm"""
    http.call("DELETE", at("/sampan/vm/{}", name) + query(force=v.on("force")))
