"""Patterns of paths: .dockerignore with Docker's exact semantics, and the wildcards of COPY.

Source: ".dockerignore file" in the documentation; Go's path/filepath.Match for the wildcards of one component.
"""

from __future__ import annotations

import posixpath
import re

from sampan.images.builder.errors import BuildError


def _regex(pattern: str) -> str:
    """The pattern as a regular expression; `**` matches any number of directories. Raises BuildError."""
    parts, index = [], 0
    while index < len(pattern):
        char = pattern[index]
        if pattern.startswith("**", index):
            index += 2
            if pattern.startswith("/", index):
                index += 1
            parts.append(".*" if index >= len(pattern) else "(?:.*/)?")
            continue
        if char == "*":
            parts.append("[^/]*")
        elif char == "?":
            parts.append("[^/]")
        elif char == "[":
            end = _class_end(pattern, index)
            body = pattern[index + 1 : end]
            negated = body[:1] in ("^", "!")
            body = body[1:] if negated else body
            body = re.sub(r"([\[&~|])", r"\\\1", body)
            parts.append(f"[{'^' if negated else ''}{body}]")
            index = end
        elif char == "\\":
            index += 1
            if index >= len(pattern):
                raise BuildError(f"syntax error in pattern: {pattern!r}")
            parts.append(re.escape(pattern[index]))
        else:
            parts.append(re.escape(char))
        index += 1
    return "".join(parts)


def _class_end(pattern: str, start: int) -> int:
    index = start + 1
    if pattern[index : index + 1] in ("^", "!"):
        index += 1
    first = index
    while index < len(pattern):
        if pattern[index] == "\\":
            index += 1
        elif pattern[index] == "]" and index > first:
            return index
        index += 1
    raise BuildError(f"syntax error in pattern: {pattern!r}")


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """A whole-path pattern. Raises BuildError for a malformed one."""
    try:
        return re.compile(_regex(pattern), re.DOTALL)
    except re.error as error:
        raise BuildError(f"syntax error in pattern: {pattern!r}: {error}") from None


def has_wildcards(pattern: str) -> bool:
    """Whether a COPY source is a pattern."""
    return any(char in pattern for char in "*?[\\")


class Ignore:
    """A list of patterns, `!` for exceptions; the last that matches a path or one of its parents decides."""

    def __init__(self, lines: list[str]) -> None:
        self._rules: list[tuple[bool, re.Pattern[str], str]] = []
        for line in lines:
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            negated = text.startswith("!")
            text = text[1:].strip() if negated else text
            if not text:
                raise BuildError('illegal exclusion pattern: "!"')
            cleaned = posixpath.normpath(text).lstrip("/")
            if cleaned == ".":
                continue
            self._rules.append((negated, compile_pattern(cleaned), cleaned))
        self._exceptions = any(negated for negated, _, _ in self._rules)
        self._hidden: dict[str, bool] = {}

    def hides(self, path: str) -> bool:
        """Whether a path, relative and clean, is left out."""
        known = self._hidden.get(path)
        if known is None:
            known = self._hidden[path] = self._decide(path)
        return known

    def _decide(self, path: str) -> bool:
        hidden = False
        prefixes = [path]
        while "/" in prefixes[-1]:
            prefixes.append(prefixes[-1].rpartition("/")[0])
        for negated, pattern, _ in self._rules:
            if hidden == negated and any(pattern.fullmatch(prefix) for prefix in prefixes):
                hidden = not negated
        return hidden

    def hides_all_below(self, path: str) -> bool:
        """Whether nothing below a directory can be visible, so that it need not be walked."""
        return self.hides(path) and not self._exceptions

    def __bool__(self) -> bool:
        return bool(self._rules)


def parse_ignore(data: bytes) -> Ignore:
    """Reads a .dockerignore. Raises BuildError."""
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    return Ignore([line for line in text.splitlines() if not line.startswith("#")])
