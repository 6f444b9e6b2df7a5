"""Image references."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.oci import reference

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("debian:bookworm", "docker.io/library/debian:bookworm", "debian:bookworm"),
        ("me/app:1.0", "docker.io/me/app:1.0", "me/app:1.0"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("127.0.0.1:5000/a/b:x", "127.0.0.1:5000/a/b:x", "127.0.0.1:5000/a/b:x"),
        ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}", f"busybox@{DIGEST}"),
        (f"busybox:1@{DIGEST}", f"docker.io/library/busybox:1@{DIGEST}", f"busybox:1@{DIGEST}"),
    ],
)
def test_forms(text: str, full: str, familiar: str) -> None:
    parsed = reference.parse(text).with_default_tag()
    assert (str(parsed), parsed.familiar) == (full, familiar)


@pytest.mark.parametrize(
    "text", ["", "Busybox", "a//b", "a:b:c", "a:", "-a", f"a@{DIGEST.upper()}", "a@sha256:xyz", "a b", "../a", "a/../b"]
)
def test_bad_ones_are_named(text: str) -> None:
    with pytest.raises(reference.BadReference):
        reference.parse(text)


@given(st.text(max_size=80))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        parsed = reference.parse(text)
    except reference.BadReference:
        return
    assert reference.parse(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a", True), ("a.b:5000", True), ("localhost:0", True), ("[::1]:5000", True), ("[::1]", True), ("[::::]:1", False), ("[:]", False),
     ("a:65536", False), ("a:" + "1" * 200, False), ("", False), ("a b", False), ("h" * 256, False), ("-a", False)],
)  # fmt: skip
def test_hosts(text: str, expected: bool) -> None:
    assert reference.names_host(text) is expected
