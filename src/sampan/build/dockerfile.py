"""The Dockerfile's text: directives, continuation lines, comments, heredocs, flags and JSON forms.

Gives instructions with their arguments as written; what they mean is in `stages`. Source: the Dockerfile reference.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass, field

from sampan.build import words
from sampan.build.errors import DockerfileError

INSTRUCTIONS = frozenset(
    ["ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "MAINTAINER", "ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"]
)  # fmt: skip
_JSON_FORMS = frozenset(["ADD", "CMD", "COPY", "ENTRYPOINT", "RUN", "SHELL", "VOLUME"])
_HEREDOCS = frozenset(["ADD", "COPY", "RUN"])
_FLAGS = {
    "ADD": {"chmod", "chown", "link", "checksum", "keep-git-dir", "exclude", "unpack"},
    "COPY": {"chmod", "chown", "from", "link", "parents", "exclude"},
    "RUN": {"mount", "network", "security", "device"},
    "FROM": {"platform"},
    "HEALTHCHECK": {"interval", "timeout", "start-period", "start-interval", "retries"},
}
REPEATED = {"mount", "exclude", "device"}
BOOLEAN = {"link", "parents", "keep-git-dir", "unpack"}
_MOST_LINES = 50_000
_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(\S.*)")
_KNOWN_DIRECTIVES = {"syntax", "escape", "check"}
_HEREDOC = re.compile(r"(\d{0,9})<<(-?)([^<]*)")
_FLAG = re.compile(r"--([a-z][a-z-]*)(?:=(.*))?", re.DOTALL)


@dataclass(slots=True)
class Heredoc:
    """A heredoc: its name, its content, and whether variables in it are expanded."""

    name: str
    content: str
    expand: bool
    descriptor: int = 0


@dataclass(slots=True)
class Instruction:
    """One instruction. `text` is the rest of its line after flags; `json` the list of a JSON form."""

    name: str
    line: int
    text: str
    flags: dict[str, list[str]] = field(default_factory=dict)
    json: list[str] | None = None
    heredocs: list[Heredoc] = field(default_factory=list)
    original: str = ""

    def flag(self, name: str, default: str = "") -> str:
        """The value of a flag given once."""
        return self.flags.get(name, [default])[-1]

    def on(self, name: str, default: bool = False) -> bool:
        """A boolean flag. Raises DockerfileError for a value that is none."""
        if name not in self.flags:
            return default
        value = self.flags[name][-1].lower()
        if value not in ("true", "false", "1", "0", ""):
            raise self.error(f"expecting boolean value for flag {name}, not: {self.flags[name][-1]}")
        return value in ("true", "1", "")

    def error(self, message: str) -> DockerfileError:
        """An error that names the line."""
        return DockerfileError(f"dockerfile parse error on line {self.line}: {message}")


@dataclass(slots=True)
class Dockerfile:
    """The whole file."""

    instructions: list[Instruction]
    escape: str = "\\"
    syntax: str = ""
    warnings: list[str] = field(default_factory=list)


def parse(data: bytes) -> Dockerfile:
    """Parses a Dockerfile. Raises DockerfileError naming the line."""
    try:
        text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError as error:
        raise DockerfileError(f"dockerfile parse error: not UTF-8: {error}") from None
    if text.count("\n") > _MOST_LINES:
        raise DockerfileError(f"dockerfile parse error: it has more than {_MOST_LINES} lines")
    lines = text.replace("\r\n", "\n").split("\n")
    found = Dockerfile([])
    _directives(lines, found)
    reader = _Lines(lines, found.escape)
    while (logical := reader.next()) is not None:
        number, line, original = logical
        found.instructions.append(_instruction(line, number, original, reader, found))
    found.warnings += reader.warnings
    if not found.instructions:
        raise DockerfileError("the Dockerfile cannot be empty")
    return found


def _directives(lines: list[str], found: Dockerfile) -> None:
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        match = _DIRECTIVE.fullmatch(line.strip())
        if match is None or match[1].lower() not in _KNOWN_DIRECTIVES:
            return
        key, value = match[1].lower(), match[2]
        if key in seen:
            raise DockerfileError(
                f"dockerfile parse error on line {number}: only one {key} parser directive can be used"
            )
        seen.add(key)
        if key == "escape":
            if value not in ("\\", "`"):
                raise DockerfileError(
                    f"dockerfile parse error on line {number}: invalid escape token '{value}' does not match ` or \\"
                )
            found.escape = value
        elif key == "syntax":
            found.syntax = value


class _Lines:
    """Logical lines: continued ones joined, comments left out."""

    def __init__(self, lines: list[str], escape: str) -> None:
        self._lines, self._index = lines, 0
        self.warnings: list[str] = []
        self._continues = re.compile(rf"(?<!{re.escape(escape)}){re.escape(escape)}[ \t]*$")
        if escape == "\\":
            self._continues = re.compile(r"\\[ \t]*$")

    def raw(self) -> str | None:
        """The next physical line, as it is."""
        if self._index >= len(self._lines):
            return None
        self._index += 1
        return self._lines[self._index - 1]

    def next(self) -> tuple[int, str, str] | None:
        """(number of its first line, text, text as written) of the next logical line."""
        parts: list[str] = []
        original: list[str] = []
        start = 0
        while (line := self.raw()) is not None:
            stripped = line.lstrip()
            if stripped.startswith("#"):
                continue
            if not stripped:
                if parts:
                    self.warnings.append(
                        f"empty continuation line {self._index}: it will become an error in a future release"
                    )
                continue
            if not parts:
                start, line = self._index, stripped
            original.append(line)
            match = self._continues.search(line)
            if match is None:
                parts.append(line)
                return start, "".join(parts).rstrip(), "\n".join(original)
            parts.append(line[: match.start()])
        if not parts or not "".join(parts).strip():
            return None
        return start, "".join(parts).rstrip(), "\n".join(original)


def _instruction(line: str, number: int, original: str, reader: _Lines | None, found: Dockerfile) -> Instruction:
    first, _, rest = line.partition(line_space(line))
    name = first.upper()
    made = Instruction(name, number, rest.strip(), original=original)
    if name not in INSTRUCTIONS:
        near = difflib.get_close_matches(name, INSTRUCTIONS, 1, 0.6)
        raise made.error(f"unknown instruction: {first}" + (f" (did you mean {near[0]}?)" if near else ""))
    _take_flags(made, found.escape)
    if name in _HEREDOCS or (name == "ONBUILD" and made.text[:5].upper().startswith(("RUN", "COPY", "ADD"))):
        _take_heredocs(made, reader, found.escape)
    if not made.text and not made.heredocs:
        raise made.error(f"{name} requires {'exactly one argument' if name in _ONE else 'at least one argument'}")
    if name in _JSON_FORMS:
        made.json = _json_form(made, found)
    return made


_ONE = {"WORKDIR", "USER", "STOPSIGNAL", "MAINTAINER"}


def line_space(line: str) -> str:
    """The first white space of a line (that ends its first word), or a space."""
    match = re.search(r"\s", line)
    return match[0] if match else " "


def nested(instruction: Instruction, escape: str) -> Instruction:
    """The instruction in an ONBUILD. Raises DockerfileError."""
    inner = _instruction(instruction.text, instruction.line, instruction.text, None, Dockerfile([], escape))
    if inner.name in ("ONBUILD", "FROM", "MAINTAINER"):
        chained = "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"
        raise instruction.error(
            chained if inner.name == "ONBUILD" else f"{inner.name} isn't allowed as an ONBUILD trigger"
        )
    inner.heredocs = inner.heredocs or instruction.heredocs
    return inner


def trigger(text: str) -> Instruction:
    """An instruction that an image's ONBUILD asks for. Raises DockerfileError."""
    return nested(Instruction("ONBUILD", 0, text), "\\")


def _take_flags(made: Instruction, escape: str) -> None:
    known = _FLAGS.get(made.name, set())
    while made.text.startswith("--") and (made.name in _FLAGS):
        try:
            parts = words.split(made.text, escape)
        except words.WordError:
            parts = made.text.split()
        word = parts[0]
        match = _FLAG.fullmatch(word)
        if word == "--":
            made.text = made.text[2:].lstrip()
            return
        if match is None or match[1] not in known:
            raise made.error(f"unknown flag: {match[1] if match else word.removeprefix('--')}")
        key, value = match[1], match[2]
        if value is None and key not in BOOLEAN:
            raise made.error(f"flag {key!r} requires a value: --{key}=...")
        if key in made.flags and key not in REPEATED:
            raise made.error(f"duplicate flag specified: {key}")
        made.flags.setdefault(key, []).append(value or "")
        made.text = made.text[len(word) :].lstrip()


def _take_heredocs(made: Instruction, reader: _Lines | None, escape: str) -> None:
    if "<<" not in made.text:
        return  # a line of megabytes need not be taken apart
    try:
        parts = words.split(made.text, escape)
    except words.WordError:
        return
    for word in parts:
        match = _HEREDOC.fullmatch(word)
        if match is None or not match[3]:
            continue
        name = match[3].replace("'", "").replace('"', "")
        if not name or reader is None:
            continue
        quoted = name != match[3]
        body = []
        while (line := reader.raw()) is not None:
            if match[2]:
                line = line.lstrip("\t")
            if line == name:
                break
            body.append(line + "\n")
        else:
            raise made.error(f"unterminated heredoc {name!r}")
        made.heredocs.append(Heredoc(name, "".join(body), not quoted, int(match[1] or 0)))
        made.original += f"\n{''.join(body)}{name}"


def _json_form(made: Instruction, found: Dockerfile) -> list[str] | None:
    if not made.text.startswith("["):
        if made.name == "SHELL":
            raise made.error("SHELL requires the arguments to be in JSON form")
        return None
    try:
        value = json.loads(made.text)
    except (ValueError, RecursionError):
        if made.name == "SHELL":
            raise made.error("SHELL requires the arguments to be in JSON form") from None
        found.warnings.append(f"line {made.line}: {made.text[:40]!r} is no JSON, so it is taken in its shell form")
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        return None
    return value
