"""The lint of scripts/lint/house: import circles, sizes, and imports in functions."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.unit.lints import load

lint = load("house")


def package(top: Path, files: dict[str, str]) -> Path:
    """A package `p` of these files."""
    for path, text in {"__init__.py": "", **files}.items():
        target = top / "p" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return top / "p"


def test_the_project_is_as_it_is_to_be() -> None:
    assert lint.complaints(lint.SOURCE, tomllib.loads(lint.ALLOWED.read_text())) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("import p.b", "import p.a"),
        ("from p import b", "from p.a import x"),
        ("from p.b import x", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.a import x"),
        ("from . import b", "from .a import x"),
        ("import p.b", "def f():\n    from p import a  # why"),
        ("from p import q, b", "import p.a"),
    ],
)
def test_a_circle_is_found_wherever_the_imports_stand(tmp_path: Path, one: str, other: str) -> None:
    found = lint.modules(package(tmp_path, {"a.py": one, "b.py": other, "c.py": "from p import a, b"}))
    assert lint.circles(lint.graph(found)) == [["p.a", "p.b"]]


def test_a_long_circle_is_one_and_a_diamond_none(tmp_path: Path) -> None:
    long = {f"m{i}.py": f"import p.m{(i + 1) % 5}" for i in range(5)}
    diamond = {
        "top.py": "from p import left, right",
        "left.py": "import p.base",
        "right.py": "import p.base",
        "base.py": "",
    }
    found = lint.modules(package(tmp_path, long | diamond))
    assert lint.circles(lint.graph(found)) == [[f"p.m{i}" for i in range(5)]]


def test_what_is_too_long_is_named(tmp_path: Path) -> None:
    body = "".join(f"    x = {i}\n" for i in range(lint.LONGEST_FUNCTION))
    at_most = "".join(f"    x = {i}\n" for i in range(lint.LONGEST_FUNCTION - 1))
    files = {"f.py": f"def long():\n{body}\nasync def fits():\n{at_most}", "g.py": "x = 1\n" * (lint.LONGEST_FILE + 1)}
    found = dict(lint.sizes(lint.modules(package(tmp_path, files))))
    assert set(found) == {"f.py:long", "g.py"}


HIDDEN = [
    ("def f():\n    import json\n", True),
    ("def f():\n    x = 1  # a comment of something else\n    y = 2\n    import json\n", True),
    ("def f():\n    import json  # 5 ms\n", False),
    ("def f():\n    # 5 ms each\n    import json\n    import re\n", False),
    ("def f():\n    if x:\n        from a import (  # 5 ms\n            b,\n        )\n", False),
    ("if x:\n    import json\n", False),  # in no function
]


@pytest.mark.parametrize(("text", "hidden"), HIDDEN)
def test_an_import_in_a_function_says_why(tmp_path: Path, text: str, hidden: bool) -> None:
    [module] = [m for m in lint.modules(package(tmp_path, {"m.py": text})) if m.name == "p.m"]
    assert bool(list(lint.hidden_imports(module))) is hidden


def test_what_is_allowed_and_not_needed_is_a_fault(tmp_path: Path) -> None:
    source = package(tmp_path, {"a.py": "import p.b", "b.py": "import p.a", "q/m.py": "def f():\n    import re\n"})
    allowed = {"circles": {"p.a": "why"}, "imports": {"q": "why"}}
    assert lint.complaints(source, allowed) == []
    [line] = lint.complaints(source, allowed | {"sizes": {"a.py": "why"}})
    assert "allows a.py under sizes" in line
    assert len(lint.complaints(source, {})) == 2
