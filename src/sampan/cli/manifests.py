"""The command `manifest`: lists of images for several platforms, made here of what is in a registry, and put there.

A list that is not pushed yet is a directory beside Docker's own configuration, with a file for each of its manifests.
"""

from __future__ import annotations

import base64
import json
import os

from sampan.cli import credentials
from sampan.cli.contexts import directory
from sampan.cli.flags import UsageError, Values
from sampan.cli.session import fail, warn
from sampan.client.connection import engine
from sampan.client.http import APIError, at
from sampan.linux import durable, filetree
from sampan.oci import manifest as oci
from sampan.oci import reference
from sampan.oci.reference import BadReference, Reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _parse(text: str) -> Reference:
    try:
        return reference.parse(text).with_default_tag()
    except BadReference as error:
        raise UsageError(str(error), 1) from None


def _place(ref: Reference) -> str:
    return f"{directory()}/sampan-manifests/{_plain(ref)}"


def _plain(ref: Reference) -> str:
    return str(ref).replace("/", "_").replace(":", "-")


def _local(ref: Reference) -> list[dict[str, Any]]:
    """The manifests of a list that is made here; none where there is no such list. Raises UsageError."""
    found = []
    try:
        for name in sorted(os.listdir(_place(ref))):
            with open(f"{_place(ref)}/{name}", encoding="utf-8") as file:
                found.append(json.load(file))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise UsageError(f"{_place(ref)}: {error}", 1) from None
    return found


def _fetch(ref: Reference) -> dict[str, Any]:
    """A manifest or list of a registry. Raises APIError."""
    answer = engine().send("GET", at("/sampan/manifests/{}", str(ref)), headers=credentials.header(str(ref)))
    found: dict[str, Any] = json.loads(answer.read())
    return found


def _is_list(row: dict[str, Any]) -> bool:
    return row["Descriptor"]["mediaType"] in oci.INDEXES


def _insecure(v: Values) -> None:
    if v.on("insecure"):
        warn(
            "--insecure: the engine speaks to the registry, and takes those for insecure that sampand --insecure-registry names"
        )


def create(v: Values, names: list[str]) -> int:
    """manifest create"""
    _insecure(v)
    top = _parse(names[0])
    if os.path.isdir(_place(top)) and not v.on("amend"):
        raise UsageError("refusing to amend an existing manifest list with no --amend flag", 1)
    rows = [_fetch(_parse(name)) for name in names[1:]]
    for name, row in zip(names[1:], rows, strict=True):
        if _is_list(row):
            raise UsageError(f"{name} is a manifest list: a list consists of images", 1)
    for row in rows:
        _keep(top, row)
    print(f"Created manifest list {top}")
    return 0


def _keep(top: Reference, row: dict[str, Any]) -> None:
    os.makedirs(_place(top), 0o755, exist_ok=True)
    durable.write(f"{_place(top)}/{_plain(_parse(row['Ref']))}", json.dumps(row))


def annotate(v: Values, names: list[str]) -> int:
    """manifest annotate"""
    top, ref = _parse(names[0]), _parse(names[1])
    row = next((row for row in _local(top) if row["Ref"] == str(ref)), None)
    if row is None:
        raise UsageError(f"manifest for image {names[1]} does not exist in {names[0]}", 1)
    platform = row["Descriptor"].setdefault("platform", {})
    given = {
        "architecture": v.text("arch"),
        "os": v.text("os"),
        "variant": v.text("variant"),
        "os.version": v.text("os-version"),
    }
    platform.update({key: value for key, value in given.items() if value})
    if v.items("os-features"):
        platform["os.features"] = v.items("os-features")
    if not platform.get("os") or not platform.get("architecture"):
        raise UsageError(
            f"manifest entry for image has unsupported os/arch combination: {platform.get('os', '')}/{platform.get('architecture', '')}",
            1,
        )
    _keep(top, row)
    return 0


def _list_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The list as it is pushed: OCI's index where all of its manifests are OCI's, else Docker's."""
    kinds = {row["Descriptor"]["mediaType"] for row in rows}
    kind = oci.OCI_INDEX if kinds == {oci.OCI_MANIFEST} else oci.DOCKER_LIST
    return {"schemaVersion": 2, "mediaType": kind, "manifests": [row["Descriptor"] for row in rows]}


def inspect(v: Values, names: list[str]) -> int:
    """manifest inspect"""
    _insecure(v)
    if len(names) == 2:
        ref = _parse(names[1])
        rows = [row for row in _local(_parse(names[0])) if row["Ref"] == str(ref)] or [_fetch(ref)]
    else:
        rows = _local(_parse(names[0]))
        if rows and not v.on("verbose"):
            print(json.dumps(_list_of(rows), indent="\t", ensure_ascii=False))
            return 0
        rows = rows or [_fetch(_parse(names[0]))]
    if not v.on("verbose"):
        print(json.dumps(json.loads(rows[0]["Content"]), indent="\t", ensure_ascii=False))
        return 0
    if _is_list(rows[0]):
        top = _parse(rows[0]["Ref"])
        rows = [_with_platform(row, _fetch(Reference(top.registry, top.repository, "", row["digest"])))
                for row in json.loads(rows[0]["Content"])["manifests"]]  # fmt: skip
    shown = [_whole(row) for row in rows]
    print(json.dumps(shown if len(shown) > 1 else shown[0], indent="\t", ensure_ascii=False))
    return 0


def _with_platform(listed: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    row["Descriptor"]["platform"] = listed.get("platform") or row["Descriptor"].get("platform") or {}
    return row


def _whole(row: dict[str, Any]) -> dict[str, Any]:
    kind = "OCIManifest" if row["Descriptor"]["mediaType"] == oci.OCI_MANIFEST else "SchemaV2Manifest"
    raw = base64.b64encode(row["Content"].encode()).decode()
    return {"Ref": row["Ref"], "Descriptor": row["Descriptor"], "Raw": raw, kind: json.loads(row["Content"])}


def push(v: Values, names: list[str]) -> int:
    """manifest push"""
    _insecure(v)
    top = _parse(names[0])
    rows = _local(top)
    if not rows:
        raise UsageError(f"{names[0]} not found: make it with `sampan manifest create`", 1)
    for row in rows:
        ref, platform = _parse(row["Ref"]), row["Descriptor"].get("platform") or {}
        if not platform.get("os") or not platform.get("architecture"):
            raise UsageError(f"manifest {row['Ref']} must have an OS and Architecture to be pushed to a registry", 1)
        if (ref.registry, ref.repository) != (top.registry, top.repository):
            raise UsageError(f"{row['Ref']} is in another repository: push it to {top.name} first", 1)
    body = {"Content": json.dumps(_list_of(rows))}
    answer = engine().send("PUT", at("/sampan/manifests/{}", str(top)), body, headers=credentials.header(str(top)))
    print(json.loads(answer.read())["Digest"])
    if v.on("purge"):
        filetree.remove(_place(top))
    return 0


def rm(v: Values, names: list[str]) -> int:
    """manifest rm"""
    status = 0
    for name in names:
        if not _local(_parse(name)):
            status = fail(APIError(404, f"No such manifest: {name}"), 1)
            continue
        filetree.remove(_place(_parse(name)))
        print(f"Deleted {name}")
    return status
