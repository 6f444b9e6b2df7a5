"""Test modules stand alone: what two of them share is no test, and lies in tests/support or beside them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def imported(text: str, package: str) -> set[str]:
    """The modules that a module of `package` may be importing, wherever in it: `from a import b` may name a module or what is in one."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(TESTS.parent).with_suffix("").parts)


def test_no_module_imports_from_a_test_module() -> None:
    """Who imports a test module depends on all that it needs, and runs its fixtures and marks by accident."""
    paths = list(TESTS.rglob("*.py"))
    tests = {name_of(path) for path in paths if path.name.startswith("test_")}
    assert name_of(Path(__file__)) in tests
    found = {
        name_of(path): both
        for path in paths
        if (both := imported(path.read_text(), name_of(path.parent)) & tests - {name_of(path)})
    }
    assert found == {}


@pytest.mark.parametrize(
    "text",
    [
        "from tests.e2e.test_x import y",
        "from tests.e2e import cli, test_x",
        "import tests.e2e.test_x as x",
        "from .test_x import y",
        "from . import test_x",
        "from ..e2e.test_x import y",
        "def f():\n    from tests.e2e.test_x import y",
    ],
)
def test_an_import_is_found_however_it_is_written(text: str) -> None:
    assert "tests.e2e.test_x" in imported(text, "tests.e2e")
