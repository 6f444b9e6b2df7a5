"""Tables and templates of `--format`, sizes, ages and times."""

from __future__ import annotations

import time

from sampan import quickjson
from sampan.cli.columns import aligned
from sampan.cli.session import fail

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any


class Row(dict[str, "Any"]):
    """What a template sees of one object: its fields, its methods, and what `json` shows of it if that is something else."""

    def __init__(
        self, fields: dict[str, Any], kind: str = "", labels: dict[str, str] | None = None, original: Any = None
    ) -> None:
        super().__init__(fields)
        self.kind, self.original = kind, original
        self.methods: dict[str, Callable[[str], str]] = {}
        if labels is not None:
            self.methods["Label"] = lambda name: labels.get(name, "")


def table(rows: Sequence[Sequence[str]]) -> None:
    """Prints rows in columns."""
    print(aligned("\n".join("\t".join(row) for row in rows)))


def rows_out(rows: Sequence[dict[str, Any]], columns: list[tuple[str, str]], form: str) -> int:
    """Prints rows as a table of (title, field)s, or as --format says: json, a template, or "table" and one.

    Returns the exit code.
    """
    if form in ("", "table"):
        table([[title for title, _ in columns], *[[str(row[key]) for _, key in columns] for row in rows]])
        return 0
    if form == "json":
        for row in rows:
            print(as_json(dict(sorted(row.items()))))
        return 0
    return _by_template(rows, columns, form)


def _by_template(rows: Sequence[dict[str, Any]], columns: list[tuple[str, str]], form: str) -> int:
    from sampan.cli.template import Template, TemplateError

    source = form.removeprefix("table").strip(" ") if form.startswith("table") else form
    source = source.replace("\\t", "\t").replace("\\n", "\n")
    try:
        template, headers = Template(source), Template(source, _IN_HEADERS)
    except TemplateError as error:
        return fail(Exception(f"failed to parse template: {error}"), 1)
    lines: list[str] = []
    failed = None
    try:
        lines += [template.render(row) for row in rows]
        if form.startswith("table"):
            lines.insert(0, headers.render(_titles(rows, columns)))
    except TemplateError as error:
        failed = error
    if (lines and failed is None) or (lines and not form.startswith("table")):
        print(aligned("\n".join(lines)) if form.startswith("table") else "\n".join(lines))
    return fail(Exception(f"failed to execute template: {failed}"), 1) if failed else 0


_IN_HEADERS: dict[str, Callable[..., object]] = {
    name: (lambda value, *_: value) for name in ("json", "title", "lower", "upper", "truncate")
}


def _titles(rows: Sequence[dict[str, Any]], columns: list[tuple[str, str]]) -> Row:
    """The titles of all fields, for the first line of a table by a template."""
    fields = {key for row in rows for key in row} | {key for _, key in columns}
    found = Row({key: title_of(key) for key in fields} | {key: title for title, key in columns})
    found.methods["Label"] = lambda name: name.rpartition(".")[2].replace("-", " ").replace("_", " ")
    return found


def title_of(field: str) -> str:
    """The title of a field: "LocalVolumes" has "LOCAL VOLUMES"."""
    words = "".join(
        f" {letter}" if letter.isupper() and index and not field[index - 1].isupper() else letter
        for index, letter in enumerate(field)
    )
    return words.upper()


def object_out(found: Any, form: str) -> int:
    """Prints one object as JSON or by a template. Returns the exit code."""
    from sampan.cli.template import Template, TemplateError

    try:
        print(Template("{{json .}}" if form == "json" else form).render(found))
    except TemplateError as error:
        return fail(Exception(str(error)), 1 if "executing" in str(error) else 64)
    return 0


def as_json(value: Any) -> str:
    """JSON in one line, as Go writes it, but that text stays text."""
    import json  # 9 ms: not for tables

    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def quoted(text: str) -> str:
    """A text in quotation marks, as Go's strconv.Quote writes it."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else quickjson.dumps(c)[1:-1] for c in plain) + '"'


def human(count: float, base: int = 1000, digits: int = 3) -> str:
    """Bytes for people: "2.14MB", or with base 1024 "2.041MiB". Docker has three digits for one thing and four for a sum."""
    units = ["B", "kB", "MB", "GB", "TB", "PB"] if base == 1000 else ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    index = 0
    while count >= base and index < len(units) - 1:
        count, index = count / base, index + 1
    return f"{count:.{4 if base == 1024 else digits}g}{units[index]}"


def since(seconds: float) -> str:
    """An age for people, in Docker's words."""
    return f"{duration(time.time() - seconds)} ago"


def duration(seconds: float) -> str:
    """A duration for people: "About an hour", "3 weeks"."""
    age = int(seconds)
    if age < 1:
        return "Less than a second"
    if age < 60:
        return f"{age} second{'s' if age > 1 else ''}"
    if age < 3600:
        return "About a minute" if age < 120 else f"{age // 60} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    for unit, size, most in (("days", 24, 24 * 14), ("weeks", 24 * 7, 24 * 60), ("months", 24 * 30, 24 * 365 * 2)):
        if hours < most:
            return f"{hours // size} {unit}"
    return f"{hours // (24 * 365)} years"


def stamp(seconds: float, form: str = "%Y-%m-%d %H:%M:%S %z %Z") -> str:
    """A time in the zone of this place, as Go prints it: "2026-11-29 01:02:03 +0000 UTC"."""
    return time.strftime(form, time.localtime(seconds))
