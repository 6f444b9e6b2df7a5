"""The commands on images."""

from __future__ import annotations

import json
import sys

from sampan.cli.arguments import chunks, filters, need, open_file, to_file
from sampan.cli.flags import BOOL, LIST, STR, Flag, parse
from sampan.cli.output import human, rows_out, since
from sampan.cli.run import fail
from sampan.client.connection import engine
from sampan.client.http import APIError, query


def images(args: list[str]) -> int:
    """images"""
    flags = [
        Flag("all", "a"),
        Flag("digests"),
        Flag("filter", "f", LIST),
        Flag("format", "", STR),
        Flag("no-trunc"),
        Flag("quiet", "q"),
    ]
    v, names = parse(flags, args)
    wanted = v["filter"] + [f"reference={name}" for name in names]
    shown = []
    for row in engine().call("GET", "/images/json" + query(filters=filters(wanted))):
        if row.get("Broken"):
            print(f"WARNING: image {row['Id'][7:19]} is broken: {row['Broken']}", file=sys.stderr)
        for name in row["RepoTags"] or ["<none>:<none>"]:
            repository, _, tag = name.rpartition(":")
            identifier = row["Id"] if v["no-trunc"] else row["Id"][7:19]
            shown.append(
                {
                    "Repository": repository,
                    "Tag": tag,
                    "ID": identifier,
                    "CreatedSince": since(row["Created"]),
                    "Size": human(row["Size"]),
                }
            )
    if v["quiet"]:
        for identifier in dict.fromkeys(row["ID"] for row in shown):
            print(identifier)
        return 0
    columns = [
        ("REPOSITORY", "Repository"),
        ("TAG", "Tag"),
        ("IMAGE ID", "ID"),
        ("CREATED", "CreatedSince"),
        ("SIZE", "Size"),
    ]
    return rows_out(shown, columns, v["format"])


def save(args: list[str]) -> int:
    """save IMAGE..."""
    v, names = parse([Flag("output", "o", STR), Flag("platform", "", STR)], args)
    need(names, 1, "save IMAGE...")
    return to_file(v["output"], engine().send("GET", "/images/get" + query(names=names)).chunks())


def load(args: list[str]) -> int:
    """load"""
    v, _ = parse([Flag("input", "i", STR), Flag("quiet", "q"), Flag("platform", "", STR)], args)
    try:
        file = open_file(v["input"])
    except OSError as error:
        return fail(Exception(f"open {v['input']}: {error.strerror}"), 1)
    with file:
        for line in engine().send("POST", "/images/load", stream=chunks(file)).lines():
            sys.stdout.write(json.loads(line).get("stream", ""))
    return 0


def import_(args: list[str]) -> int:
    """import FILE|- [NAME[:TAG]]"""
    v, names = parse([Flag("change", "c", LIST), Flag("message", "m", STR), Flag("platform", "", STR)], args)
    need(names, 1, "import FILE|- [REPOSITORY[:TAG]]")
    wanted = query(
        fromSrc="-", repo=names[1] if len(names) > 1 else None, message=v["message"] or None, changes=v["change"]
    )
    with open_file(names[0]) as file:
        for line in engine().send("POST", f"/images/create{wanted}", stream=chunks(file)).lines():
            print(json.loads(line)["status"])
    return 0


def rmi(args: list[str]) -> int:
    """rmi IMAGE..."""
    v, names = parse([Flag("force", "f"), Flag("no-prune")], args)
    need(names, 1, "rmi IMAGE...")
    http, status = engine(), 0
    for name in names:
        try:
            for row in http.call("DELETE", f"/images/{name}" + query(force=v["force"])):
                for key, value in row.items():
                    print(f"{key}: {value}")
        except APIError as error:
            status = fail(error, 1)
    return status


def tag(args: list[str]) -> int:
    """tag SOURCE TARGET"""
    need(args, 2, "tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]")
    engine().call("POST", f"/images/{args[0]}/tag" + query(repo=args[1]))
    return 0


def history(args: list[str]) -> int:
    """history IMAGE"""
    v, names = parse(
        [Flag("no-trunc"), Flag("quiet", "q"), Flag("human", "H", BOOL, "", True), Flag("format", "", STR)], args
    )
    need(names, 1, "history IMAGE")
    shown = [
        {"ID": row["Id"][7:19] if row["Id"].startswith("sha256:") else row["Id"], "CreatedSince": since(row["Created"]),
         "CreatedBy": row["CreatedBy"] if v["no-trunc"] else row["CreatedBy"][:45], "Size": human(row["Size"]), "Comment": row["Comment"]}
        for row in engine().call("GET", f"/images/{names[0]}/history")
    ]  # fmt: skip
    columns = [
        ("IMAGE", "ID"),
        ("CREATED", "CreatedSince"),
        ("CREATED BY", "CreatedBy"),
        ("SIZE", "Size"),
        ("COMMENT", "Comment"),
    ]
    return rows_out(shown, columns, v["format"])


def bootstrap(args: list[str]) -> int:
    """bootstrap debian:SUITE|ubuntu:SUITE|busybox"""
    need(args, 1, "bootstrap debian:SUITE|ubuntu:SUITE|busybox")
    for name in args:
        print(f"making {name} from this host's packages ...", file=sys.stderr)
        print(engine().call("POST", "/sampan/bootstrap" + query(name=name))["Id"])
    return 0
