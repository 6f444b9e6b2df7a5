"""context: the commands on names of engines."""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
import zipfile

from sampan.cli import contexts
from sampan.cli.contexts import Context
from sampan.cli.flags import UsageError, Values
from sampan.cli.output import Row, object_out, rows_out
from sampan.cli.session import fail

TYPE_CHECKING = False
if TYPE_CHECKING:
    pass


def _host(pairs: list[str]) -> str:
    """The address of --docker host=unix://PATH, or of another context: from=NAME; "" where none is given. Raises UsageError."""
    host = ""
    for pair in pairs:
        key, _, value = pair.partition("=")
        if key == "host":
            host = contexts.checked(value)
        elif key == "from":
            host = contexts.find(value).host
        else:
            raise UsageError(f"unable to create docker endpoint config: unrecognized config key: {key}", 1)
    return host


def create(v: Values, names: list[str]) -> int:
    """context create"""
    name = contexts.named(names[0])
    if v.text("from") and v.items("docker"):
        raise UsageError("cannot use --docker flag when --from is set", 1)
    base = contexts.find(v.text("from") or contexts.current())
    host = _host(v.items("docker")) or base.host
    contexts.save(Context(name, v.text("description") or (base.description if v.text("from") else ""), host, ""))
    print(name)
    print(f'Successfully created context "{name}"', file=sys.stderr)
    return 0


def update(v: Values, names: list[str]) -> int:
    """context update"""
    if names[0] == contexts.DEFAULT:
        raise UsageError('context "default" is not changed', 1)
    found = contexts.find(names[0])
    description = v.text("description") if "description" in v.given else found.description
    contexts.save(Context(found.name, description, _host(v.items("docker")) or found.host, ""))
    print(found.name)
    print(f'Successfully updated context "{found.name}"', file=sys.stderr)
    return 0


def ls(v: Values, names: list[str]) -> int:
    """context ls"""
    found, current = contexts.every(), contexts.current()
    if v.on("quiet"):
        print("".join(f"{context.name}\n" for context in found), end="")
        return 0
    form = v.text("format")
    rows = [
        Row({"Name": one.name if form not in ("", "table") else f"{one.name} *" if one.name == current else one.name,
             "Description": one.description, "DockerEndpoint": one.host, "Current": one.name == current, "Error": ""},
            "*formatter.clientContextContext")
        for one in found
    ]  # fmt: skip
    columns = [
        ("NAME", "Name"),
        ("DESCRIPTION", "Description"),
        ("DOCKER ENDPOINT", "DockerEndpoint"),
        ("ERROR", "Error"),
    ]
    return rows_out(rows, columns, form)


def show(v: Values, names: list[str]) -> int:
    """context show"""
    print(contexts.current())
    return 0


def use(v: Values, names: list[str]) -> int:
    """context use"""
    contexts.use(names[0])
    print(names[0])
    print(f'Current context is now "{names[0]}"', file=sys.stderr)
    if "SAMPAN_HOST" in os.environ and contexts.current() == contexts.DEFAULT != names[0]:
        print("Warning: SAMPAN_HOST overrides the current context.", file=sys.stderr)
    return 0


def rm(v: Values, names: list[str]) -> int:
    """context rm"""
    status = 0
    for name in names:
        if name == contexts.current() and name != contexts.DEFAULT:
            if not v.on("force"):
                status = fail(Exception(f'context "{name}" is in use, set -f flag to force remove'), 1)
                continue
            contexts.use(contexts.DEFAULT)
        try:
            contexts.remove(name)
        except UsageError as error:
            status = status if v.on("force") and not contexts.exists(name) else fail(error, 1)
            continue
        print(name)
    return status


def inspect(v: Values, names: list[str]) -> int:
    """context inspect"""
    found = [_shown(contexts.find(name)) for name in names or [contexts.current()]]
    form = v.text("format")
    if not form:
        print(json.dumps(found, indent=4, ensure_ascii=False))
        return 0
    return max(object_out(one, form) for one in found)


def _shown(context: Context) -> dict[str, object]:
    metadata = {"Description": context.description} if context.description and context.path else {}
    where = os.path.dirname(context.path)
    return {
        "Name": context.name,
        "Metadata": metadata,
        "Endpoints": contexts.endpoints(context),
        "TLSMaterial": {},
        "Storage": {
            "MetadataPath": where or "<IN MEMORY>",
            "TLSPath": where.replace("/meta/", "/tls/") or "<IN MEMORY>",
        },
    }


def export(v: Values, names: list[str]) -> int:
    """context export"""
    if names[0] == contexts.DEFAULT:
        raise UsageError('context "default" is not exported: it says where this machine has its engine', 1)
    found = contexts.find(names[0])
    target = names[1] if len(names) > 1 else f"{names[0]}.dockercontext"
    data = contexts.text(found).encode()
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        member = tarfile.TarInfo("meta.json")
        member.size, member.mode = len(data), 0o644
        tar.addfile(member, io.BytesIO(data))
    if target == "-":
        if sys.stdout.isatty():
            raise UsageError("cowardly refusing to export to a terminal, specify a file path", 1)
        sys.stdout.buffer.write(file.getvalue())
        return 0
    try:
        with open(target, "xb") as out:
            out.write(file.getvalue())
    except OSError as error:
        return fail(Exception(f"open {target}: {(error.strerror or '').lower()}"), 1)
    print(f'Written file "{target}"', file=sys.stderr)
    return 0


_LARGEST = 10 << 20  # bytes of a context's archive, as with Docker's client


def import_context(v: Values, names: list[str]) -> int:
    """context import"""
    name = contexts.named(names[0])
    try:
        with open(names[1], "rb") if names[1] != "-" else sys.stdin.buffer as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        return fail(Exception(f"open {names[1]}: {(error.strerror or '').lower()}"), 1)
    if len(data) > _LARGEST:
        return fail(Exception(f"{names[1]} is larger than 10 MiB"), 1)
    found = contexts.parse(_meta(data, names[1]), name)
    contexts.save(Context(name, found.description, found.host, ""))
    print(name)
    print(f'Successfully imported context "{name}"', file=sys.stderr)
    return 0


def _meta(data: bytes, path: str) -> str:
    """meta.json of a tar or a zip. Raises UsageError."""
    try:
        if data[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                names, meta = archive.namelist(), archive.read("meta.json")
        else:
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                names, member = tar.getnames(), tar.extractfile("meta.json")
                meta = member.read() if member else b""
        if any(name.startswith("tls/") for name in names):
            raise UsageError(f"{path} has certificates: this client speaks to unix:// sockets only", 1)
        return meta.decode()
    except (KeyError, tarfile.TarError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no archive of a context: {error}", 1) from None
