"""The commands on images."""

from __future__ import annotations

import sys

from sampan.cli.arguments import filters, platform
from sampan.cli.flags import UsageError, Values
from sampan.cli.output import Row, human, rows_out, since, stamp
from sampan.cli.session import fail, warn
from sampan.client.connection import engine
from sampan.client.http import APIError, at, query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def images(v: Values, names: list[str]) -> int:
    """images"""
    wanted = v.items("filter") + [f"reference={name}" for name in names]
    if v.on("tree"):
        from sampan.cli import imagetree

        for other in ("quiet", "no-trunc", "digests", "format"):
            if other in v.given:
                raise UsageError(f"--{other} is not yet supported with --tree", 1)
        return imagetree.show(filters(wanted), v.on("all"))
    found = engine().call(
        "GET", "/images/json" + query(filters=filters(wanted), all=v.on("all") or None, digests=v.on("digests") or None)
    )
    for row in found:
        if row.get("Broken"):
            warn(f"image {row['Id'][7:19]} is broken: {row['Broken']}")
    if v.on("quiet"):
        for identifier in dict.fromkeys(row["Id"] for row in found):
            print(identifier if v.on("no-trunc") else identifier[7:19])
        return 0
    shown = [one for row in found for one in _names(row, v.on("no-trunc"), v.on("digests"))]
    digest = [("DIGEST", "Digest")] if v.on("digests") else []
    columns = [
        ("REPOSITORY", "Repository"),
        ("TAG", "Tag"),
        *digest,
        ("IMAGE ID", "ID"),
        ("CREATED", "CreatedSince"),
        ("SIZE", "Size"),
    ]
    return rows_out(shown, columns, v.text("format"))


def _names(row: dict[str, Any], whole: bool, digests: bool) -> list[Row]:
    """An image's fields as `--format` names them, once for each of its names."""
    common = {
        "ID": row["Id"] if whole else row["Id"][7:19],
        "CreatedSince": since(row["Created"]),
        "CreatedAt": stamp(row["Created"]),
        "Size": human(row["Size"]),
        "VirtualSize": human(row["Size"]),
        "SharedSize": "N/A" if row.get("SharedSize", -1) == -1 else human(row["SharedSize"], digits=4),
        "UniqueSize": "N/A",
        "Containers": "N/A" if row.get("Containers", -1) == -1 else str(row["Containers"]),
    }
    by_repository = dict(text.split("@", 1) for text in row.get("RepoDigests") or [])
    found: list[Row] = []
    for name in row["RepoTags"] or ["<none>:<none>"]:
        repository, _, tag = name.rpartition(":")
        digest = by_repository.get(repository, "<none>") if digests else "<none>"
        fields = {"Repository": repository, "Tag": tag, "Digest": digest, **common}
        found.append(Row(fields, "*formatter.imageContext", row.get("Labels") or {}))
    return found


def rmi(v: Values, names: list[str]) -> int:
    """rmi"""
    http, status = engine(), 0
    wanted = query(
        force=v.on("force"),
        noprune=v.on("no-prune") or None,
        platforms=[platform(text) for text in v.items("platform")],
    )
    for name in names:
        try:
            for row in http.call("DELETE", at("/images/{}", name) + wanted):
                for key, value in row.items():
                    print(f"{key}: {value}")
        except APIError as error:
            status = fail(error, 1)
    return status


def tag(v: Values, names: list[str]) -> int:
    """tag"""
    engine().call("POST", at("/images/{}/tag", names[0]) + query(repo=names[1]))
    return 0


def history(v: Values, names: list[str]) -> int:
    """history"""
    found = engine().call("GET", at("/images/{}/history", names[0]) + query(platform=platform(v.text("platform"))))
    shown = [_step(row, v.on("no-trunc"), v.on("human")) for row in found]
    if v.on("quiet"):
        for one in shown:
            print(one["ID"])
        return 0
    columns = [("IMAGE", "ID"), ("CREATED", "CreatedSince" if v.on("human") else "CreatedAt"), ("CREATED BY", "CreatedBy"),
               ("SIZE", "Size"), ("COMMENT", "Comment")]  # fmt: skip
    return rows_out(shown, columns, v.text("format"))


def _step(row: dict[str, Any], whole: bool, for_people: bool) -> Row:
    """A step of an image's history as `--format` names its fields."""
    made, text = row["Created"], row["CreatedBy"].replace("\t", " ")
    fields = {
        "ID": row["Id"] if whole or not row["Id"].startswith("sha256:") else row["Id"][7:19],
        "CreatedSince": since(made),
        "CreatedAt": _rfc3339(made),
        "CreatedBy": text if whole or len(text) <= 45 else f"{text[:44]}…",
        "Size": human(row["Size"]) if for_people else str(row["Size"]),
        "Comment": row["Comment"],
    }
    return Row(fields, "*formatter.historyContext")


def _rfc3339(seconds: float) -> str:
    """A time in the zone of this place: "2026-11-29T01:41:09Z", or with "+01:00"."""
    text = stamp(seconds, "%Y-%m-%dT%H:%M:%S%z")
    return f"{text[:-5]}Z" if text.endswith("+0000") else f"{text[:-2]}:{text[-2:]}"


def bootstrap(v: Values, names: list[str]) -> int:
    """bootstrap"""
    for name in names:
        print(f"making {name} from this host's packages ...", file=sys.stderr)
        print(engine().call("POST", "/sampan/bootstrap" + query(name=name))["Id"])
    return 0
