"""The lint of scripts/lint/foreign_paths: no path call that follows a link on a tree that somebody else writes (T54)."""

from __future__ import annotations

import pytest

from tests.unit.lints import load

lint = load("foreign_paths")


def test_there_is_none_without_a_reason() -> None:
    assert lint.complaints() == []


FOLLOWING = [
    "os.chmod(path, 0o644)", "os.chmod(name, mode, dir_fd=parent)", "os.chown(name, 0, 0, dir_fd=parent)",
    "os.makedirs(f'/proc/self/fd/{parent}/{name}')", "os.utime(path)", "os.utime(name, ns=(0, 0), dir_fd=parent)",
    "os.setxattr(f'/proc/self/fd/{parent}/{name}', a, b)", "os.link(a, b)", "os.link(a, b, src_dir_fd=c, dst_dir_fd=d)",
    "open(path, 'wb')", "open(f'{root}/etc/hosts')", "shutil.copytree(a, b)", "shutil.rmtree(a)", "os.walk(root)",
    "os.listdir(path)", "os.scandir(path)", "os.path.exists(path)", "os.path.isdir(f'{root}/x')", "Path(root).read_text()",
    "os.open(name, os.O_RDONLY, dir_fd=parent)", "os.open(path, os.O_RDONLY)", "os.stat(name, dir_fd=parent)", "os.stat(path)",
    "os.rename(a, b)", "os.mkdir(path)", "os.unlink(path)", "os.truncate(path, 0)", "os.readlink(path)",
]  # fmt: skip


@pytest.mark.parametrize("call", FOLLOWING)
def test_it_finds(call: str) -> None:
    assert list(lint.found(f"def work(root: str, parent: int, name: str, path: str) -> None:\n    {call}\n"))


STAYING = [
    "os.fchmod(parent, 0o644)", "os.utime(parent)", "os.listdir(parent)", "os.mkdir(name, dir_fd=parent)", "os.unlink(name, dir_fd=parent)",
    "os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=parent)", "os.open('.', os.O_RDONLY, dir_fd=parent)",
    "os.stat(name, dir_fd=parent, follow_symlinks=False)", "os.chown(name, 0, 0, dir_fd=parent, follow_symlinks=False)",
    "os.rename(a, b, src_dir_fd=c, dst_dir_fd=d)", "os.path.join(root, name)", "shutil.copyfileobj(a, b)",
    "fd = nodes.hold(parent, name); os.listdir(fd)", "fd = openat2.open_in_root(parent, path); open(fd, 'rb')",
]  # fmt: skip


@pytest.mark.parametrize("call", STAYING)
def test_it_lets_pass(call: str) -> None:
    assert not list(lint.found(f"def work(root: str, parent: int, name: str, path: str) -> None:\n    {call}\n"))


def test_a_new_call_is_complained_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a module whose calls are listed one by one, and in a module that is new."""
    added = "\n\ndef added(path: str) -> None:\n    os.chmod(path, 0o666)\n"
    before = list(lint.modules())
    for name in ("images/root_fs.py", "engine/files.py", "api/buildkit/brand_new.py"):
        text = dict(before).get(name, "import os\n") + added
        monkeypatch.setattr(
            lint, "modules", lambda text=text, name=name: [*(row for row in before if row[0] != name), (name, text)]
        )
        assert any(f"{name}:" in line and "os.chmod(path)" in line for line in lint.complaints()), name
