"""A stream of Docker's progress messages on a terminal, or line by line where there is none."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from sampan import quickjson
from sampan.client.http import APIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def show(lines: Iterable[bytes], quiet: bool = False) -> list[dict[str, Any]]:
    """Prints the messages; returns those with `aux`. Raises APIError for the error in the stream."""
    rows: dict[str, int] = {}
    aux: list[dict[str, Any]] = []
    terminal = sys.stdout.isatty()
    for line in lines:
        if not line.strip():
            continue
        message = quickjson.loads(line)
        if "error" in message:
            raise APIError(500, message["error"])
        if "aux" in message:
            aux.append(message["aux"])
        if quiet:
            continue
        if "stream" in message:
            sys.stdout.write(message["stream"])
        elif "status" in message:
            _status(message, rows, terminal)
        sys.stdout.flush()
    return aux


def _status(message: dict[str, Any], rows: dict[str, int], terminal: bool) -> None:
    identifier, text = message.get("id", ""), message["status"]
    amount = message.get("progress", "")
    if not identifier:
        rows.clear()
        print(text)
    elif "progressDetail" not in message:
        print(f"{identifier}: {text}")
    elif not terminal:
        if not amount:
            print(f"{identifier}: {text}")
    else:
        if identifier not in rows:
            rows[identifier] = len(rows)
            print()
        up = len(rows) - rows[identifier]
        sys.stdout.write(f"\x1b[{up}A\x1b[2K\r{identifier}: {text} {amount}".rstrip() + f"\x1b[{up}B\r")
