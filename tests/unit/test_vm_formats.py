"""What virtual machines are made of: the cpio archive, modules in their order, QEMU's arguments."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.vm import cpio, hypervisor
from sampan.vm.kernel import Kernel

NAMES = st.lists(
    st.text("abc.-_", min_size=1, max_size=8).filter(lambda name: name not in (".", "..")), min_size=1, max_size=3
)


def _entries(data: bytes) -> list[tuple[str, int, bytes]]:
    """Reads an archive as the kernel does."""
    found, position = [], 0
    while True:
        fields = [int(data[position + 6 + 8 * n : position + 14 + 8 * n], 16) for n in range(13)]
        assert data[position : position + 6] == b"070701"
        size, name_size = fields[6], fields[11]
        name = data[position + 110 : position + 110 + name_size - 1].decode()
        position += 110 + name_size
        position += -position % 4
        content = data[position : position + size]
        position += size
        position += -position % 4
        if name == "TRAILER!!!":
            return found
        found.append((name, fields[1], content))


@given(st.dictionaries(NAMES.map("/".join), st.binary(max_size=50), max_size=8))
def test_archives_read_back(files: dict[str, bytes]) -> None:
    entries = _entries(cpio.archive(cpio.file(name, data) for name, data in files.items()))
    names = [name for name, _, _ in entries]
    assert len(names) == len(set(names))
    for index, name in enumerate(names):
        parent = name.rpartition("/")[0]
        assert not parent or parent in names[:index]
    found = {name: data for name, _, data in entries}
    assert all(
        found[name] == data for name, data in files.items() if not any(other.startswith(f"{name}/") for other in files)
    )


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_cpio_itself_reads_it(tmp_path: Path) -> None:
    data = cpio.archive([cpio.file("a/b", b"1", executable=True), cpio.link("l", "a/b"), cpio.directory("d")])
    subprocess.run(["cpio", "-id", "--quiet"], input=data, cwd=tmp_path, check=True)
    assert (tmp_path / "l").read_bytes() == b"1"
    assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o755


def test_modules_come_after_what_they_need(tmp_path: Path) -> None:
    top = tmp_path / "kernel/x"
    top.mkdir(parents=True)
    for name, needs in (("a-mod", "b_mod,c"), ("b_mod", "c"), ("c", ""), ("other", "")):
        (top / f"{name}.ko").write_bytes(b"junk\0license=GPL\0depends=" + needs.encode() + b"\0name=x\0")
    kernel = Kernel("1", "", str(tmp_path))
    assert [name for name, _ in kernel.load_order(["a_mod", "missing"])] == ["c", "b_mod", "a_mod"]


def test_arguments_of_a_machine() -> None:
    shape = hypervisor.Shape("/k", "/i", 2, 256)
    parts = hypervisor.Parts(10, 11, 12, -1, [13, 14])
    text = " ".join(hypervisor.arguments(shape, parts, 20, 21, 22, restored=True))
    assert (
        "-cpu max,min-xlevel=0x80000008,svm=off,vmx=off " in text
    )  # no guests of its own, and it knows how long addresses are
    assert "mem-path=/proc/self/fd/10,share=off" in text
    assert "-incoming defer" in text
    assert "-kernel" not in text
    assert "id=disk0,format=raw,readonly=on,auto-read-only=off,file=/dev/fdset/0" in text
    assert "id=disk1,format=raw,readonly=off,auto-read-only=off,file=/dev/fdset/1" in text
    assert "id=disk2,driver=null-co" in text
    assert "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny" in text
    assert "-smp 2 -m 256M" in text
    assert text.count("virtio-net-device") == 2
    booted = " ".join(hypervisor.arguments(shape, parts, 20, 21, 22, restored=False))
    assert "share=on" in booted
    assert "-kernel /k -initrd /i" in booted
