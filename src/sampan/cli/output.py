"""Tables, templates, sizes and ages."""

from __future__ import annotations

import time

from sampan import quickjson
from sampan.cli.flags import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
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
            print(as_json(row) if template == "json" else expand(template, row))
    return 0


def as_json(value: Any) -> str:
    """JSON in one line, as Go writes it: text stays text."""
    import json  # 9 ms: not for tables

    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def quoted(text: str) -> str:
    """A text in quotation marks, as Go's strconv.Quote writes it."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else quickjson.dumps(c)[1:-1] for c in plain) + '"'


def expand(template: str, value: Any) -> str:
    """The part of Go templates people use: {{.A.B}}, {{json .A}} and {{.}}. Raises UsageError."""
    import re

    def one(match: re.Match[str]) -> str:
        text = match[1].strip()
        whole = text.startswith("json ")
        path = text.removeprefix("json ").strip()
        if not path.startswith("."):
            raise UsageError(f"template: {{{{{text}}}}} is not understood: use {{{{.Field}}}} or {{{{json .Field}}}}")
        current = value
        for part in [item for item in path.split(".") if item]:
            if not isinstance(current, dict) or part not in current:
                raise UsageError(f"template: no field {path}")
            current = current[part]
        if whole:
            return as_json(current)
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


def stamp(seconds: float, form: str = "%Y-%m-%d %H:%M:%S %z %Z") -> str:
    """A time in the zone of this place, as Go prints it: "2026-11-29 01:02:03 +0000 UTC"."""
    return time.strftime(form, time.localtime(seconds))
