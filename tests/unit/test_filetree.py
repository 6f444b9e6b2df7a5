"""Trees whose depth and names somebody else chooses (T70): removed, measured and copied."""

from __future__ import annotations

import gc
import os
import stat
from pathlib import Path

import pytest

from sampan.cli import copy
from sampan.linux import descriptors, filetree, treecopy

# Deeper than Python's calls and than a path may be long.
DEPTHS = [(1, 3), (1200, 10), *([(1200, 255), (20000, 1)] if os.environ.get("SAMPAN_SOAK") else [])]


def nest(top: Path, depth: int, length: int) -> None:
    """`depth` directories in each other, each with a file of three bytes in it."""
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d" * length, dir_fd=fd)
        below = os.open("d" * length, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
        file = os.open("f", os.O_WRONLY | os.O_CREAT, 0o640, dir_fd=fd)
        os.write(file, b"abc")
        os.close(file)
    os.close(fd)


def climb(place: filetree.Descent) -> None:
    while place.depth:
        place.leave()


def open_descriptors() -> int:
    gc.collect()  # what other tests have left is closed now, and not between two looks
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(("depth", "length"), DEPTHS)
def test_deep_trees(tmp_path: Path, depth: int, length: int) -> None:
    before = open_descriptors()
    nest(tmp_path / "a", depth, length)
    assert filetree.measure(str(tmp_path / "a"))[0] == 3 * depth
    (tmp_path / "b").mkdir()
    source, target = (os.open(tmp_path / name, os.O_RDONLY) for name in "ab")
    treecopy.copy(source, target)
    os.close(source)
    os.close(target)
    assert filetree.measure(str(tmp_path / "b"))[0] == 3 * depth
    assert sum(1 for _ in filetree.walk(str(tmp_path / "b"))) == depth + 1
    for name in "ab":
        filetree.remove(str(tmp_path / name))
    assert os.listdir(tmp_path) == []
    assert open_descriptors() == before


def test_links_are_never_followed(tmp_path: Path) -> None:
    outside, tree = tmp_path / "outside", tmp_path / "tree"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (tree / "in").mkdir(parents=True)
    (tree / "in/link").symlink_to(outside)
    (tree / "in/file").symlink_to(outside / "kept")
    assert filetree.measure(str(tree))[0] < 500
    filetree.remove(str(tree))
    assert not tree.exists()
    (tmp_path / "top").symlink_to(outside)
    filetree.remove(str(tmp_path / "top"))
    assert os.listdir(tmp_path) == ["outside"]
    assert (outside / "kept").read_text() == "kept"


def test_a_directory_exchanged_for_a_link_while_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "tree/a").mkdir(parents=True)
    (tmp_path / "outside/secret").mkdir(parents=True)
    seen = []
    for fd, entries in filetree.walk(str(tmp_path / "tree")):
        seen += [entry.name for entry in entries]
        if "a" in [entry.name for entry in entries]:
            os.rmdir("a", dir_fd=fd)
            os.symlink(tmp_path / "outside", "a", dir_fd=fd)
    assert seen == ["a"]


def test_a_directory_moved_away_leads_nowhere_else(tmp_path: Path) -> None:
    """Going up by ".." from a directory that was moved meanwhile must not delete in its new place."""
    nest(tmp_path / "tree", 100, 1)
    (tmp_path / "elsewhere/d").mkdir(parents=True)
    (tmp_path / "elsewhere/f").write_text("kept")
    place = filetree.Descent(str(tmp_path / "tree"))
    for _ in range(100):
        place.enter("d")
    deep = tmp_path / "tree" / "/".join("d" * 60)
    os.rename(deep, tmp_path / "elsewhere/moved")
    with pytest.raises(OSError, match="moved"):
        climb(place)
    place.close()
    assert (tmp_path / "elsewhere/f").exists()


def test_what_is_written_meanwhile_is_removed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nest(tmp_path / "tree", 3, 1)
    clear, late = filetree._clear, iter(range(5))

    def clear_and_write(fd: int, files: bool, trouble: list[OSError]) -> list[str]:
        found = clear(fd, files, trouble)
        for number in late:
            os.close(os.open(f"late{number}", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
            break
        return found

    monkeypatch.setattr(filetree, "_clear", clear_and_write)
    filetree.remove(str(tmp_path / "tree"))
    assert not (tmp_path / "tree").exists()


def test_the_first_error_is_raised_and_the_rest_is_gone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        filetree.remove(str(tmp_path / "none"))
    filetree.remove(str(tmp_path / "none"), ignore_errors=True)
    (tmp_path / "file").write_text("x")
    filetree.remove(str(tmp_path / "file"))
    assert os.listdir(tmp_path) == []


def test_a_copy_has_owners_modes_times_and_links(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    (source / "in").mkdir(parents=True, mode=0o711)
    (source / "in/file").write_text("text")
    os.chmod(source / "in/file", 0o4711)
    os.utime(source / "in", ns=(10**9, 2 * 10**9))
    (source / "link").symlink_to("/nowhere")
    os.mkfifo(source / "fifo", 0o620)
    target.mkdir()
    fds = [os.open(path, os.O_PATH | os.O_DIRECTORY) for path in (source, target)]
    treecopy.copy(*fds)
    for fd in fds:
        os.close(fd)
    assert os.readlink(target / "link") == "/nowhere"
    assert (target / "in/file").read_text() == "text"
    assert stat.S_IMODE((target / "in/file").stat().st_mode) == 0o4711
    assert stat.S_IMODE((target / "in").stat().st_mode) == 0o711
    assert (target / "in").stat().st_mtime_ns == 2 * 10**9
    assert stat.S_ISFIFO((target / "fifo").stat().st_mode)


def test_a_file_of_two_names_counts_once_on_the_disk(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"x" * 8192)
    os.link(tmp_path / "one", tmp_path / "two")
    length, blocks = filetree.measure(str(tmp_path))
    assert (length, blocks) == (16384, (tmp_path / "one").stat().st_blocks * 512)


def test_a_directory_that_another_is_merged_into_has_its_time(tmp_path: Path) -> None:
    """`sampan cp` of a directory over one that is there: what is put into it must not be later than its time is set."""
    for name, text in (("s/d/e/new", "new"), ("s/d/both", "new"), ("t/d/e/old", "old"), ("t/d/both", "old")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    times = {name: 10**18 + number * 10**9 for number, name in enumerate(("d/e", "d"), 1)}
    for name, time in times.items():
        os.utime(tmp_path / "s" / name, ns=(time, time))
    source, target = (os.open(tmp_path / name, os.O_RDONLY) for name in "st")
    copy._merge(source, target)
    descriptors.close([source, target])
    assert sorted(str(path.relative_to(tmp_path / "t")) for path in (tmp_path / "t").rglob("*") if path.is_file()) == [
        "d/both", "d/e/new", "d/e/old"]  # fmt: skip
    assert (tmp_path / "t/d/both").read_text() == "new"
    assert {name: (tmp_path / "t" / name).stat().st_mtime_ns for name in times} == times
