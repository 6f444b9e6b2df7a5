"""What commands have in common: filters, files, questions, the same for each of several names."""

from __future__ import annotations

import os
import sys

from sampan import quickjson
from sampan.cli.flags import UsageError, Values
from sampan.cli.session import fail, write_all
from sampan.client.connection import engine
from sampan.client.http import APIError, Http

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO


def filters(items: list[str]) -> str | None:
    """The JSON of --filter's NAME=VALUEs, None without any. Raises UsageError."""
    found: dict[str, list[str]] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f'invalid argument "{item}" for "--filter" flag: expected name=value')
        found.setdefault(key, []).append(value)
    return quickjson.dumps(found) if found else None


def platform(text: str) -> str | None:
    """The JSON of --platform's OS/ARCHITECTURE[/VARIANT], None without one. Raises UsageError."""
    if not text:
        return None
    from sampan.oci import manifest as oci

    try:
        found = oci.parse_platform(text)
    except oci.BadManifest as error:
        raise UsageError(f"invalid platform: {error}", 1) from None
    fields = {"architecture": found.architecture, "os": found.os, "variant": found.variant}
    return quickjson.dumps({key: value for key, value in fields.items() if value})


def chunks(file: IO[bytes]) -> Iterator[bytes]:
    """A file in pieces."""
    while block := file.read(1 << 20):
        yield block


def to_file(path: str, parts: Iterator[bytes]) -> int:
    """Writes a result to a file, or to standard output where `path` is "". Returns the exit code. Raises UsageError."""
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
    """A file to read, standard input for "" and "-", a directory (an OCI layout) as a tar. Raises OSError."""
    if os.path.isdir(path):
        import tarfile
        import tempfile

        spool = tempfile.TemporaryFile()
        with tarfile.open(fileobj=spool, mode="w") as tar:
            tar.add(path, arcname=".")
        spool.seek(0)
        return spool
    return open(path, "rb") if path and path != "-" else sys.stdin.buffer


def confirmed(question: str, force: bool) -> bool:
    """Whether the user lets it be removed."""
    if force:
        return True
    print(
        f"WARNING! This will remove{question if question.startswith(':') else f' {question}.'}\nAre you sure you want to continue? [y/N] ",
        end="",
        flush=True,
    )
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def each(action: Callable[[Http, str, Values], object]) -> Callable[[Values, list[str]], int]:
    """A command that does one thing to each name, goes on after a failure and exits 1 then.

    It prints what the action returns, or the name.
    """

    def command(values: Values, names: list[str]) -> int:
        http, status = engine(), 0
        for name in names:
            try:
                answer = action(http, name, values)
                print(name if answer is None else answer)
            except APIError as error:
                status = fail(error, 1)
        return status

    return command
