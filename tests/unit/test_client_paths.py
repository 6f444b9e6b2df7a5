"""A name in a path of the API is one segment of it, whatever is in it: a name never becomes a query, a fragment or another path."""

from __future__ import annotations

import ast
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sampan
from sampan.client.http import APIError, at, encode_request

SOURCES = [
    path for part in ("cli", "client", "compare") for path in (Path(sampan.__file__).parent / part).rglob("*.py")
]
_NAMES = st.text(st.characters(exclude_categories=()), min_size=1)


@given(_NAMES, _NAMES)
def test_each_name_stays_one_segment(first: str, second: str) -> None:
    try:
        wanted = [text.encode("utf-8", "surrogateescape") for text in (first, second)]
    except UnicodeEncodeError:  # no argument of a command: half a character that comes from no byte
        return
    path = at("/sampan/vm/{}/snapshots/{}/restore", first, second)
    request = encode_request("POST", path + "?a=b", None, streamed=False)
    line = request.partition(b"\r\n")[0]
    assert line == b"POST " + path.encode("ascii") + b"?a=b HTTP/1.1"
    assert [unquote_to_bytes(part) for part in path.split("/")] == [
        b"",
        b"sampan",
        b"vm",
        wanted[0],
        b"snapshots",
        wanted[1],
        b"restore",
    ]
    assert not set("?#& \r\n\0") & set(path)


@pytest.mark.parametrize("names", [("",), ("a", "")])
def test_an_empty_name_is_refused_here(names: tuple[str, ...]) -> None:
    with pytest.raises(APIError, match="value is empty"):
        at("/x/{}" * len(names), *names)


def test_no_path_is_put_together_otherwise() -> None:
    """An f-string that is a path has nothing right behind a slash in it but what the engine itself gave: ids."""
    given_by_engine = {"identifier", "id"}
    found = []
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if not isinstance(node, ast.JoinedStr) or not isinstance(node.values[0], ast.Constant):
                continue
            if not str(node.values[0].value).startswith(
                ("/containers", "/images", "/volumes", "/networks", "/exec", "/sampan")
            ):
                continue
            for before, part in zip(node.values, node.values[1:], strict=False):
                if (
                    isinstance(part, ast.FormattedValue)
                    and isinstance(before, ast.Constant)
                    and str(before.value).endswith("/")
                ):
                    value = part.value
                    name = value.attr if isinstance(value, ast.Attribute) else getattr(value, "id", "")
                    found += [f"{source}:{node.lineno}"] if name not in given_by_engine else []
    assert not found, "use client.http.at()"
