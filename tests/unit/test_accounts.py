"""USER and its like: a number is a number, and no line of the image's files makes another of it (T55)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sampan.build import files
from sampan.build.errors import BuildError
from sampan.runtime import accounts
from sampan.runtime.errors import RuntimeFailure

# What one reader takes for a number and another for a name, or for another number.
NO_NUMBERS = [
    "0x0",
    "0X0",
    "0b0",
    "0o0",
    "+0",
    "+1000",
    " 0",
    "0 ",
    "0\t",
    "\t0",
    "0\0",
    "1_0",
    "\u0660",
    "\uff11\uff10",
    "\uff10",
]
OUT_OF_RANGE = ["4294967296", "4294967295", "2147483648", "-1", "-0001", "9" * 30, "1" * 5000, "18446744073709551616"]


@pytest.fixture
def root(tmp_path: Path) -> int:
    (tmp_path / "etc").mkdir()
    named = [f"{name}:x:0:0:evil:/evil:/bin/sh" for name in (*NO_NUMBERS, *OUT_OF_RANGE, "1000", "-", "0000")]
    (tmp_path / "etc/passwd").write_text(
        "\n".join(
            [
                *named,
                "root:x:0:0:root:/root:/bin/sh",
                "app:x:1000:1001:App:/home/app:/bin/sh\r",
                "wide:x:4294967296:0::/:",
                "minus:x:-1:0::/:",
                "void:x::0::/:",
                "arabic:x:\u0660:0::/:",
                "short:x:0",
                "a\u2028root2:x:7:7::/:",
                "#off:x:0:0::/:",
            ]
        )
    )
    groups = [f"{name}:x:0:" for name in (*NO_NUMBERS, *OUT_OF_RANGE, "50")]
    (tmp_path / "etc/group").write_text(
        "\n".join([*groups, "root:x:0:", "app:x:1001:", "disk:x:6:app,x", "wide:x:4294967296:"])
    )
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.mark.parametrize("text", [*NO_NUMBERS, *OUT_OF_RANGE])
def test_what_looks_like_a_number_is_never_a_name(root: int, text: str) -> None:
    for ask in (
        lambda: accounts.resolve(root, text),
        lambda: accounts.resolve(root, f"app:{text}"),
        lambda: accounts.resolve(root, "app", (text,)),
    ):
        with pytest.raises(RuntimeFailure, match=r"out of range|neither a name nor a number|unable to find"):
            ask()
    with pytest.raises(BuildError):
        files.owner_of(text, root)


def test_numbers_are_ids(root: int) -> None:
    account = accounts.resolve(root, "1000")
    assert (account.uid, account.gid, account.home, account.groups) == (1000, 1001, "/home/app", (1001, 6))
    account = accounts.resolve(root, "4000:50", ("60",))
    assert (account.uid, account.gid, account.groups) == (4000, 50, (50, 60))
    assert accounts.resolve(root, "2147483647").uid == 2147483647
    assert accounts.resolve(root, "").uid == accounts.resolve(root, "0000").uid == 0
    assert files.owner_of("5", root) == (5, 5)


def test_names_are_looked_up(root: int) -> None:
    account = accounts.resolve(root, "app", ("root",))
    assert (account.uid, account.gid, account.groups) == (1000, 1001, (1001, 6, 0))
    for name in ("wide", "minus", "void", "arabic"):  # 0 for Docker: its parser knows no failure
        with pytest.raises(RuntimeFailure, match=f"user {name}"):
            accounts.resolve(root, name)
    for name in ("short", "nobody", "#off", "root2"):
        with pytest.raises(RuntimeFailure, match="unable to find"):
            accounts.resolve(root, name)
    with pytest.raises(RuntimeFailure, match="unable to find group wide"):
        accounts.resolve(root, "app:wide")


@pytest.mark.parametrize(
    "ids", [(-1, 0, []), (0, -1, []), (2**32 - 1, 0, []), (2**32, 0, []), (0, 0, [-1]), (True, 0, [])]
)
def test_ids_of_a_specification_are_ids(root: int, ids: tuple[int, int, list[int]]) -> None:
    """-1 is "as it is" to setresuid(2): root."""
    with pytest.raises(RuntimeFailure, match="is no id"):
        accounts.of_numbers(root, *ids)


def test_a_huge_passwd_is_not_read_in_part(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    line = "app:x:1000:1000::/:\n"
    with open(tmp_path / "etc/passwd", "w") as file:  # cut at the limit, the last line would say uid 1
        file.write("\n" * ((4 << 20) - len("app:x:1")) + line)
        file.truncate(64 << 30)
    with pytest.raises(RuntimeFailure, match="larger than 4 MiB"):
        accounts.resolve(fd, "app")
    os.close(fd)


@pytest.mark.parametrize("kind", ["fifo", "link", "directory"])
def test_a_passwd_that_is_none_is_not_opened(tmp_path: Path, kind: str) -> None:
    """A fifo would keep us waiting; a link leads nowhere out of the image."""
    (tmp_path / "image/etc").mkdir(parents=True)
    (tmp_path / "passwd").write_text("app:x:0:0::/:")
    path = tmp_path / "image/etc/passwd"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(tmp_path / "passwd")
    else:
        path.mkdir()
    fd = os.open(tmp_path / "image", os.O_RDONLY | os.O_DIRECTORY)
    with pytest.raises(RuntimeFailure, match="unable to find user app"):
        accounts.resolve(fd, "app")
    assert accounts.resolve(fd, "5").uid == 5
    os.close(fd)
