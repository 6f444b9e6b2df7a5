"""What commands have in common: counted arguments, filters, files, questions."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import IO, Any

from sampan.cli.flags import Flag, UsageError, parse
from sampan.cli.run import fail
from sampan.cli.session import write_all
from sampan.client.connection import engine
from sampan.client.http import APIError, Http


def need(names: list[str], count: int, usage: str) -> None:
    """Raises UsageError when there are fewer than `count` arguments."""
    if len(names) < count:
        raise UsageError(
            f"'sampan {usage.split()[0]}' requires at least {count} argument{'s' if count > 1 else ''}: {usage}"
        )


def filters(items: list[str]) -> str | None:
    found: dict[str, list[str]] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f'invalid argument {item!r} for "--filter" flag: expected name=value')
        found.setdefault(key, []).append(value)
    return json.dumps(found) if found else None


def chunks(file: IO[bytes]) -> Iterator[bytes]:
    """A file in pieces."""
    while block := file.read(1 << 20):
        yield block


def to_file(path: str, parts: Iterator[bytes]) -> int:
    if not path and sys.stdout.isatty():
        raise UsageError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    if not path:
        for part in parts:
            write_all(1, part)
        return 0
    from sampan.cli.results import result

    try:
        with result(path) as file:
            for part in parts:
                file.write(part)
    except OSError as error:
        return fail(Exception(f"{path}: {error.strerror or error}"), 1)
    return 0


def open_file(path: str) -> IO[bytes]:
    if os.path.isdir(path):  # an OCI layout as a directory
        import tarfile
        import tempfile

        spool = tempfile.TemporaryFile()
        with tarfile.open(fileobj=spool, mode="w") as tar:
            tar.add(path, arcname=".")
        spool.seek(0)
        return spool
    return open(path, "rb") if path and path != "-" else sys.stdin.buffer


def confirmed(question: str, force: bool) -> bool:
    if force:
        return True
    print(f"WARNING! This will remove {question}.\nAre you sure you want to continue? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def each(
    usage: str, flags: list[Flag], action: Callable[[Http, str, dict[str, Any]], Any]
) -> Callable[[list[str]], int]:
    """A command that does one thing to each name, goes on after a failure and exits 1 then."""

    def command(args: list[str]) -> int:
        values, names = parse(flags, args)
        need(names, 1, usage)
        http, status = engine(), 0
        for name in names:
            try:
                answer = action(http, name, values)
                print(name if answer is None else answer)
            except APIError as error:
                status = fail(error, 1)
        return status

    command.__doc__ = usage
    return command
