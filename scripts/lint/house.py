"""Checks what keeps a house easy to live in: `make lint` and the unit tests run it.

- No import circles between modules. Imports under TYPE_CHECKING and in functions count: a reader follows them all the same.
- No file over 400 lines, no function over 60.
- An import in a function has a comment that says why it is there (what it costs at start-up, mostly): on its line, on the line
  above, or above a block of them.

house.toml beside it has what is allowed all the same, with the reason; what stands there and is not needed is a fault, too.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src/sampan"
ALLOWED = Path(__file__).with_suffix(".toml")
LONGEST_FILE, LONGEST_FUNCTION = 400, 60

Function = ast.FunctionDef | ast.AsyncFunctionDef
Graph = Mapping[str, set[str]]


@dataclass(frozen=True, slots=True)
class Module:
    """A file of the package: its dotted name, its place below the package, and what is in it."""

    name: str
    path: str
    text: str
    nodes: list[ast.AST]  # all of its tree, outer ones first

    @property
    def package(self) -> list[str]:
        """The parts of the package that relative imports start from."""
        parts = self.name.split(".")
        return parts if self.path.endswith("__init__.py") else parts[:-1]

    def functions(self) -> Iterator[Function]:
        """All functions, those in others included."""
        return (node for node in self.nodes if isinstance(node, Function))


def modules(source: Path) -> list[Module]:
    """The modules below a package's directory."""
    found = []
    for path in sorted(source.rglob("*.py")):
        name = ".".join([source.name, *path.relative_to(source).with_suffix("").parts]).removesuffix(".__init__")
        text = path.read_text()
        found.append(Module(name, path.relative_to(source).as_posix(), text, list(ast.walk(ast.parse(text)))))
    return found


def graph(of: list[Module]) -> dict[str, set[str]]:
    """Which of these modules each imports, wherever the import stands."""
    names = {module.name for module in of}
    return {module.name: (_imported(module, names) & names) - {module.name} for module in of}


def _imported(module: Module, names: set[str]) -> set[str]:
    found: set[str] = set()
    for node in module.nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.package[: len(module.package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            inner = {f"{base}.{alias.name}" for alias in node.names}
            found |= {name for name in inner if name in names} or {base}
            found |= {base} if inner - names else set()
    return found


def circles(of: Graph) -> list[list[str]]:
    """Strongly connected components of more than one module (Tarjan, 1972), each sorted."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(of[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            place = stack.index(node)
            part, stack[place:] = stack[place:], []
            if len(part) > 1:
                found.append(sorted(part))

    sys.setrecursionlimit(10_000)
    for node in of:
        if node not in index:
            visit(node)
    return found


def sizes(of: list[Module]) -> Iterator[tuple[str, str]]:
    """(what, complaint) of files and functions that are too long."""
    for module in of:
        lines = len(module.text.splitlines())
        if lines > LONGEST_FILE:
            yield module.path, f"{module.path}: {lines} lines, {LONGEST_FILE} at most: it holds more than one idea"
        for node in module.functions():
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > LONGEST_FUNCTION:
                what = f"{module.path}:{node.name}"
                yield what, f"{what}: {lines} lines, {LONGEST_FUNCTION} at most: it does more than one thing"


def hidden_imports(module: Module) -> Iterator[tuple[int, str]]:
    """(line, complaint) of imports in functions that say no reason."""
    lines = module.text.splitlines()
    blocks = {id(statement): body for body in _blocks(module.nodes) for statement in body}
    seen: set[int] = set()
    for function in module.functions():
        if id(function) in seen:  # it is in another
            continue
        for node in ast.walk(function):
            seen.add(id(node))
            if isinstance(node, ast.Import | ast.ImportFrom) and not _says_why(node, blocks[id(node)], lines):
                yield (
                    node.lineno,
                    f"{module.path}:{node.lineno}: an import in a function that does not say why it is not above",
                )


def _blocks(nodes: list[ast.AST]) -> Iterator[list[ast.stmt]]:
    for node in nodes:
        for name in ("body", "orelse", "finalbody"):
            body = getattr(node, name, None)
            if isinstance(body, list):
                yield body


def _says_why(node: ast.stmt, block: list[ast.stmt], lines: list[str]) -> bool:
    """Whether there is a comment on the import's lines, or above it or the first of the imports that it follows."""
    if any("#" in line for line in lines[node.lineno - 1 : node.end_lineno]):
        return True
    first = node
    for other in reversed(block[: block.index(node)]):
        if not isinstance(other, ast.Import | ast.ImportFrom):
            break
        first = other
    return "#" in lines[first.lineno - 1] or lines[first.lineno - 2].lstrip().startswith("#")


def complaints(source: Path, allowed: Mapping[str, Mapping[str, str]]) -> list[str]:
    """All that is wrong below a package's directory, with tables of what is allowed ("circles", "sizes", "imports") and why."""
    found = modules(source)
    lines: list[str] = []
    used: dict[str, set[str]] = {"circles": set(), "sizes": set(), "imports": set()}

    def complain(table: str, key: str, text: str) -> None:
        if key in allowed.get(table, {}):
            used[table].add(key)
        else:
            lines.append(text)

    for part in circles(graph(found)):
        complain("circles", part[0], f"an import circle: {', '.join(part)}")
    for what, text in sizes(found):
        complain("sizes", what, text)
    for module in found:
        for _, text in hidden_imports(module):
            complain("imports", module.path.split("/")[0], text)
    lines += [
        f"house.toml allows {key} under {table}, and nothing needs that any more: take it out"
        for table, rows in allowed.items()
        for key in rows
        if key not in used.get(table, set())
    ]
    return lines


def main() -> int:
    """Prints what is wrong; 1 when anything is."""
    found = complaints(SOURCE, tomllib.loads(ALLOWED.read_text()))
    print("\n".join(found) or "no import circles, nothing too long, no import hidden without a reason")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
