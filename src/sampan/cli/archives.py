"""commit, export, save, load and import: containers and images as archives, and one as the other."""

from __future__ import annotations

import sys

from sampan import quickjson
from sampan.cli.arguments import chunks, open_file, platform, to_file
from sampan.cli.flags import Values
from sampan.cli.session import fail
from sampan.client.connection import engine
from sampan.client.http import at, query


def commit(v: Values, names: list[str]) -> int:
    """commit"""
    wanted = query(
        container=names[0], repo=names[1] if len(names) > 1 else None, comment=v.text("message") or None, author=v.text("author") or None,
        pause=v.on("pause"), changes=v.items("change"),
    )  # fmt: skip
    print(engine().call("POST", f"/commit{wanted}")["Id"])
    return 0


def export(v: Values, names: list[str]) -> int:
    """export: a container's files as a tar."""
    return to_file(v.text("output"), engine().send("GET", at("/containers/{}/export", names[0])).chunks())


def save(v: Values, names: list[str]) -> int:
    """save"""
    return save_images(names, v.text("output"), v.text("platform"))


def save_images(names: list[str], path: str, only: str = "") -> int:
    """Writes images, which must be for the platform `only` if there is one, as a tar to a file, or to standard output where `path` is "".
    Returns the exit code."""
    wanted = query(names=names, platform=platform(only))
    return to_file(path, engine().send("GET", f"/images/get{wanted}").chunks())


def load(v: Values, names: list[str]) -> int:
    """load"""
    try:
        file = open_file(v.text("input"))
    except OSError as error:
        return fail(Exception(f"open {v.text('input')}: {error.strerror}"), 1)
    with file:
        wanted = query(quiet=v.on("quiet"), platform=platform(v.text("platform")))
        answer = engine().send("POST", f"/images/load{wanted}", stream=chunks(file))
        for line in answer.lines():
            sys.stdout.write(quickjson.loads(line).get("stream", ""))
    return 0


def import_image(v: Values, names: list[str]) -> int:
    """import: an image of a file system's tar."""
    repository = names[1] if len(names) > 1 else None
    wanted = query(
        fromSrc="-",
        repo=repository,
        message=v.text("message") or None,
        changes=v.items("change"),
        platform=v.text("platform") or None,
    )
    try:
        file = open_file(names[0])
    except OSError as error:
        return fail(Exception(f"open {names[0]}: {error.strerror}"), 1)
    with file:
        for line in engine().send("POST", f"/images/create{wanted}", stream=chunks(file)).lines():
            print(quickjson.loads(line)["status"])
    return 0
