"""Tables, templates, sizes and ages."""

from __future__ import annotations

import json
import time
from typing import Any


def table(rows: list[list[str]]) -> None:
    """Prints rows in columns three blanks apart."""
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(len(rows[0]))]
    for row in rows:
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip())


def rows_out(rows: list[dict[str, str]], columns: list[tuple[str, str]], template: str) -> int:
    """Prints rows as a table, as JSON lines (`--format json`) or by a Go template."""
    if template in ("", "table"):
        table([[title for title, _ in columns], *[[row[key] for _, key in columns] for row in rows]])
    else:
        for row in rows:
            print(json.dumps(row) if template == "json" else expand(template, row))
    return 0


def expand(template: str, value: Any) -> str:
    """The part of Go templates people use: {{.A.B}}, {{json .A}} and {{.}}. Raises UsageError."""
    import re

    from sampan.cli.flags import UsageError

    def one(match: re.Match[str]) -> str:
        text = match[1].strip()
        as_json = text.startswith("json ")
        path = text.removeprefix("json ").strip()
        if not path.startswith("."):
            raise UsageError(f"template: {{{{{text}}}}} is not understood: use {{{{.Field}}}} or {{{{json .Field}}}}")
        current = value
        for part in [item for item in path.split(".") if item]:
            if not isinstance(current, dict) or part not in current:
                raise UsageError(f"template: no field {path}")
            current = current[part]
        if as_json:
            return json.dumps(current)
        return str(current).lower() if isinstance(current, bool) else str(current)

    return re.sub(r"\{\{(.*?)\}\}", one, template.replace("\\t", "\t").replace("\\n", "\n"))


def human(count: float, base: int = 1000) -> str:
    """Bytes for people: "2.14MB", or with base 1024 "2.041MiB"."""
    units = ["B", "kB", "MB", "GB", "TB"] if base == 1000 else ["B", "KiB", "MiB", "GiB", "TiB"]
    index = 0
    while count >= base and index < len(units) - 1:
        count, index = count / base, index + 1
    return f"{count:.4g}{units[index]}" if base == 1024 else f"{count:.3g}{units[index]}"


def since(seconds: float) -> str:
    """An age for people."""
    age = int(time.time() - seconds)
    for unit, size in (("week", 604800), ("day", 86400), ("hour", 3600), ("minute", 60)):
        if age >= size:
            count = age // size
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "Less than a second ago" if age < 1 else f"{age} second{'s' if age > 1 else ''} ago"
