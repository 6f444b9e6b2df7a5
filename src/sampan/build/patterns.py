"""Patterns of paths: .dockerignore with Docker's exact semantics, and the wildcards of COPY.

Source: ".dockerignore file" in the documentation; Go's path/filepath.Match for the wildcards of one component.
"""

from __future__ import annotations

import posixpath

from sampan import matching
from sampan.build.errors import BuildError
from sampan.matching import BadPattern, Pattern

_MOST = 1000  # patterns of one list: each is compiled, and compared with every path


def compile_pattern(pattern: str) -> Pattern:
    """A whole-path pattern; `**` matches any number of directories. Raises BuildError for a malformed one."""
    try:
        return matching.path(pattern, across=True)
    except BadPattern as error:
        raise BuildError(str(error)) from None


def has_wildcards(pattern: str) -> bool:
    """Whether a COPY source is a pattern."""
    return any(char in pattern for char in "*?[\\")


class Ignore:
    """A list of patterns, `!` for exceptions; the last that matches a path or one of its parents decides."""

    def __init__(self, lines: list[str]) -> None:
        self._rules: list[tuple[bool, Pattern, str]] = []
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
            if len(self._rules) >= _MOST:
                raise BuildError(f"more than {_MOST} patterns of what is left out")
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
            if hidden == negated and any(pattern.matches(prefix) for prefix in prefixes):
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
