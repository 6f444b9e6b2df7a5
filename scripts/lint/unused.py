"""Finds names of the package that nothing uses: functions, classes, methods and names of modules whose word stands once in its
source, its commands and its benchmarks; tests don't count. unused.toml beside it has what is allowed all the same, with the reason; what stands
there and is not needed is a fault, too. `make lint` and the unit tests run it.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src/sampan"
ALLOWED = Path(__file__).with_suffix(".toml")
_COMMANDS = (
    "scripts/sampan",
    "scripts/sampan-runtime",
    "scripts/sync_client.py",
    "scripts/command_table",
    "pyproject.toml",
)
_WORD = re.compile(r"[A-Za-z_]\w*")


def defined(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """(name, line) of what a module and its classes define. Fields of classes are data, and not among them."""
    for node in tree.body:
        yield from _names(node)
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield inner.name, inner.lineno


def _names(node: ast.stmt) -> Iterator[tuple[str, int]]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name, node.lineno
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            for part in ast.walk(target):
                if isinstance(part, ast.Name):
                    yield part.id, node.lineno


def words(text: str) -> Counter[str]:
    """How often each word stands in a text, comments and strings included: names are looked up by them, too."""
    return Counter(_WORD.findall(text))


def elsewhere() -> list[Path]:
    """Files outside of the package whose use of a name counts."""
    return [*(ROOT / name for name in _COMMANDS), *sorted((ROOT / "bench").rglob("*.py"))]


def complaints(source: Path, commands: list[Path], allowed: Mapping[str, str]) -> list[str]:
    """What is used nowhere and not allowed, and what is allowed without need."""
    texts = {path: path.read_text() for path in sorted(source.rglob("*.py"))}
    count: Counter[str] = Counter()
    for text in [*texts.values(), *(path.read_text() for path in commands if path.is_file())]:
        count += words(text)
    found, needed = [], set()
    for path, text in texts.items():
        for name, line in defined(ast.parse(text)):
            if count[name] > 1 or (name.startswith("__") and name.endswith("__")):
                continue
            key = f"{path.relative_to(source).as_posix()}:{name}"
            if key in allowed:
                needed.add(key)
            else:
                found.append(f"{path.relative_to(source)}:{line}: {name} is used nowhere")
    return found + [f"{ALLOWED.name}: {rule} need not be allowed" for rule in allowed if rule not in needed]


def main() -> None:
    """Prints the complaints; exits with 1 if there are any."""
    found = complaints(SOURCE, elsewhere(), tomllib.loads(ALLOWED.read_text()))
    print("\n".join(found) or "no name without a use")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
