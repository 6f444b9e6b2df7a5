"""Patterns from somebody else: Go's meaning of them, and no more time for a bad one than for a good one."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan import matching
from sampan.build import words
from sampan.build.dockerfile import parse
from sampan.build.errors import BuildError
from sampan.build.patterns import Ignore


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("a*c", "abbc", True),
        ("a*c", "ab/c", False),
        ("a?c", "a/c", False),
        ("[a-c]x", "bx", True),
        ("[^a-c]x", "bx", False),
        ("[^a]x", "/x", False),
        ("[]a]", "]", True),
        ("[a-]", "-", True),
        (r"\*", "*", True),
        (r"[\]]", "]", True),
        ("a.c", "abc", False),
        ("ü?", "üß", True),
        ("*", "", True),
        ("a?", "a\udc80", True),  # a byte of a file name that is no UTF-8
        ("library/*", "library/busybox", True),
    ],
)
def test_paths(pattern: str, text: str, expected: bool) -> None:
    assert matching.path(pattern).matches(text) is expected


@pytest.mark.parametrize("pattern", ["[", "[a", "[]", "a\\", "[b-a]", "[a-", "[^"])
def test_bad_paths_are_named(pattern: str) -> None:
    with pytest.raises(matching.BadPattern, match="syntax error in pattern"):
        matching.path(pattern)


@pytest.mark.parametrize(
    "text", ["(", "a{99999}", "(?<!a)b", r"(a)\1", "[[:bogus:]]", "((a{500}){500}){500}", "a" * 9999]
)
def test_bad_expressions_are_named(text: str) -> None:
    with pytest.raises(matching.BadPattern):
        matching.expression(text)


@given(st.text(), st.text())
def test_a_literal_matches_itself_only(text: str, other: str) -> None:
    found = matching.expression(matching.literal(text))
    assert found.matches(text)
    assert found.matches(other) == (other == text)


@given(st.text(alphabet="ab*?[]^-\\/!{}()+.", max_size=20), st.text(max_size=20))
def test_no_pattern_is_worse_than_bad(pattern: str, text: str) -> None:
    try:
        matching.path(pattern, across=True).matches(text)
    except matching.BadPattern:
        pass


def test_time_is_linear() -> None:
    """Each takes minutes to for ever with a matcher that goes back."""
    began = time.process_time()
    assert not matching.expression("(a+)+$").found_in("a" * 50_000 + "b")
    assert not matching.expression("(a|a)*c").matches("a" * 50_000)
    assert not matching.path("*a" * 30 + "b").matches("a" * 50_000)
    assert not matching.path("a*" * 30 + "[b]").matches("a" * 50_000)
    assert not Ignore(["**/a" * 20 + "/b"]).hides("/".join("a" * 5_000))
    assert words.expand("${V%%" + "*a" * 30 + "b}", {"V": "a" * 50_000}) == "a" * 50_000
    assert words.expand("${V##" + "*a" * 30 + "b}", {"V": "a" * 50_000}) == "a" * 50_000
    assert words.expand("${V//" + "*a" * 20 + "b/x}", {"V": "a" * 5_000}) == "a" * 5_000
    with pytest.raises(BuildError, match="escape"):
        parse(("# escape=" + " " * 50_000 + "x" + " " * 50_000 + "y\nFROM scratch\n").encode())
    assert time.process_time() - began < 10
