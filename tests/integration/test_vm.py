"""Virtual machines below the engine: a boot, a template, the accelerator, what can't boot."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sampan.engine.machines import ordinary
from sampan.vm import bootdisk
from sampan.vm import templates as vm_templates
from sampan.vm.disks import Disks
from sampan.vm.errors import VmError
from sampan.vm.hypervisor import DISK_SIZE, Shape
from sampan.vm.templates import Templates
from tests.conftest import VM_CACHE, fetch_kernel

pytestmark = pytest.mark.skipif(
    not shutil.which("qemu-system-x86_64") or not shutil.which("mkfs.erofs"),
    reason="QEMU or erofs-utils is not installed",
)


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Templates:
    top = str(tmp_path_factory.mktemp("vm"))
    fetch_kernel()
    shutil.copytree(VM_CACHE / "kernel", f"{top}/kernel")
    return Templates(top, Disks(top), ordinary())


@pytest.fixture(scope="module")
def shape(templates: Templates) -> Shape:
    return asyncio.run(templates.shape(print))


def test_a_template_is_made_once(templates: Templates, shape: Shape) -> None:
    said: list[str] = []
    assert not templates.ready(shape)
    first = asyncio.run(templates.get(shape, said.append))
    assert said == [f"booting a guest once, with 1 CPU and 512 MiB, under {shape.accelerator}"]
    assert templates.ready(shape)
    assert asyncio.run(templates.get(shape, said.append)) is first
    templates.close()
    again = asyncio.run(templates.get(shape, said.append))
    assert len(said) == 1
    assert os.fstat(again.memory).st_size == 512 << 20
    with pytest.raises(OSError, match="not permitted"):
        os.pwrite(again.memory, b"x", 0)  # machines can't change it for each other
    assert sorted(os.listdir(os.path.dirname(again.disk))) == ["console", "disk", "memory", "state"]
    templates.close()
    old = os.path.dirname(again.disk)
    os.utime(old, (0, 0))
    templates._forget_old()
    assert not os.path.exists(old)


def test_the_accelerator_is_tried(templates: Templates, shape: Shape) -> None:
    name, why = asyncio.run(templates.accelerator(shape))
    assert name == shape.accelerator
    assert name in ("kvm", "tcg")
    assert why


def test_a_machine_that_can_not_boot(templates: Templates, shape: Shape, tmp_path: Path) -> None:
    """The error says why, and nothing is left of it."""
    (tmp_path / "k").write_bytes(b"no kernel")
    bad = Shape(str(tmp_path / "k"), shape.initramfs)
    with pytest.raises(VmError, match=r"qemu|guest"):
        asyncio.run(templates.get(bad, print))
    assert not [name for name in os.listdir(f"{templates._cache}/templates") if name.startswith("tmp")]


def test_a_machine_that_never_answers(
    templates: Templates, shape: Shape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vm_templates.progress, "LONGEST", 1.0)
    with pytest.raises(VmError, match="did not answer"):
        asyncio.run(templates.get(Shape(shape.kernel, shape.initramfs, 1, 192), print))


def test_disks_where_less_is_free_than_they_could_hold(tmp_path: Path) -> None:
    """What a program may write has a limit, which counts what is in a file and not the holes of it."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", tmp_path], check=True)
    try:
        os.close(Disks(str(tmp_path)).writable(str(tmp_path / "disk")))
        assert (tmp_path / "disk").stat().st_size == DISK_SIZE
        bootdisk.convert(str(tmp_path / "disk"), str(tmp_path / "qcow2"), "qcow2", "raw")
        bootdisk.convert(str(tmp_path / "qcow2"), str(tmp_path / "raw"), "raw", "qcow2")
        assert (tmp_path / "raw").stat().st_size == DISK_SIZE
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_disks(tmp_path: Path) -> None:
    disks = Disks(str(tmp_path))
    os.close(disks.writable(str(tmp_path / "a")))
    info = os.stat(tmp_path / "a")
    assert info.st_size == DISK_SIZE
    assert info.st_blocks * 512 < 4 << 20
    with pytest.raises(VmError, match="32 MiB to 64 GiB"):
        disks.writable(str(tmp_path / "b"), 1 << 20)
    assert not (tmp_path / "b").exists()
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("x")
    image, opened = "sha256:" + "a" * 64, []

    def open_tree() -> int:
        opened.append(os.open(tree, os.O_RDONLY))
        return opened[-1]

    for _ in range(2):
        root = disks.root(image, open_tree)
        assert os.pread(root, 4, 1024) == b"\xe2\xe1\xf5\xe0"  # EROFS_SUPER_MAGIC_V1
        os.close(root)
    assert len(opened) == 1
    disks.keep(set())
    assert os.listdir(tmp_path / "roots") == []
