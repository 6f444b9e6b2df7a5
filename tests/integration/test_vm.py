"""Virtual machines for real: a boot, a template, machines made of it, and what is unique in each."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from sampan.vm import hypervisor
from sampan.vm.errors import VmError
from sampan.vm.hypervisor import Machine, Shape
from sampan.vm.kernel import Kernel
from sampan.vm.templates import ROOT_SIZE, Templates

pytestmark = pytest.mark.skipif(
    not shutil.which("qemu-system-x86_64") or not shutil.which("mkfs.erofs"),
    reason="QEMU or erofs-utils is not installed",
)


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Templates:
    top = tmp_path_factory.mktemp("vm")
    return Templates(str(top / "cache"), str(top / "run"))


@pytest.fixture(scope="module")
def shape(templates: Templates) -> Shape:
    return asyncio.run(templates.shape(print))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    top = tmp_path_factory.mktemp("root")
    (top / "fs/bin").mkdir(parents=True)
    for name in ("proc", "dev"):
        (top / "fs" / name).mkdir()
    shutil.copy("/bin/busybox", top / "fs/bin/sh")
    subprocess.run(["mkfs.erofs", "--quiet", str(top / "disk"), str(top / "fs")], check=True, stdout=subprocess.DEVNULL)
    os.truncate(top / "disk", ROOT_SIZE)
    return str(top / "disk")


def _left(templates: Templates) -> list[str]:
    return os.listdir(templates._run)


def test_machines_of_a_template(templates: Templates, shape: Shape, root: str) -> None:
    async def run() -> None:
        said: list[str] = []
        first = await templates.start(shape, root, said.append)
        assert said == ["booting a guest once, with 1 CPU and 128 MiB, under tcg"]
        second = await templates.start(shape, root, said.append)
        assert len(said) == 1
        machines = [first, second]
        try:
            await _check(machines)
        finally:
            for machine in machines:
                await machine.close()

    asyncio.run(run())
    assert _left(templates) == []


async def _check(machines: list[Machine]) -> None:
    entropy = []
    for machine in machines:
        answer = await machine.ask({"op": "ping"})
        assert answer["pong"] != os.uname().release
        assert abs(answer["time"] - time.time()) < 1
        run = {"op": "run", "args": ["/bin/sh", "-c", "echo in; echo x > /written; exit 7"], "root": "/dev/vda"}
        assert await machine.ask(run) == {"code": 7, "output": "in\n"}
        code = "import os; print(os.urandom(16).hex())"
        entropy.append((await machine.ask({"op": "run", "args": ["/usr/bin/python3", "-ISc", code]}))["output"])
    assert entropy[0] != entropy[1]
    # What one writes is not in the other, nor on the disk they share.
    ask = {"op": "run", "args": ["/bin/sh", "-c", "[ -e /written ] && echo there"], "root": "/dev/vda"}
    assert [(await machine.ask(ask))["output"] for machine in machines] == ["there\n", "there\n"]
    third = {"op": "run", "args": ["/nope"], "root": "/dev/vda"}
    assert (await machines[0].ask(third))["code"] == 127
    with pytest.raises(VmError, match="unknown operation"):
        await machines[0].ask({"op": "nonsense"})


def test_a_new_machine_sees_nothing_of_another(templates: Templates, shape: Shape, root: str) -> None:
    async def run() -> str:
        machine = await templates.start(shape, root, print)
        try:
            ask = {"op": "run", "args": ["/bin/sh", "-c", "[ -e /written ] && echo there"], "root": "/dev/vda"}
            return str((await machine.ask(ask))["output"])
        finally:
            await machine.close()

    assert asyncio.run(run()) == ""


def test_a_machine_that_can_not_boot(templates: Templates, shape: Shape, tmp_path: Path) -> None:
    """The error says why, and nothing is left of it."""
    (tmp_path / "k").write_bytes(b"no kernel")
    bad = Shape(Kernel("x", str(tmp_path / "k"), ""), shape.initramfs)
    with pytest.raises(VmError, match=r"qemu|guest"):
        asyncio.run(hypervisor.boot(bad, templates._run, timeout=5))
    assert _left(templates) == []


def test_a_machine_that_is_killed(templates: Templates, shape: Shape, root: str) -> None:
    async def run() -> None:
        machine = await templates.start(shape, root, print)
        machine.process.kill()
        with pytest.raises(VmError, match="ended"):
            await machine.ask({"op": "ping"})
        await machine.close()

    asyncio.run(run())
    assert _left(templates) == []


def test_the_accelerator_is_tried(templates: Templates, shape: Shape) -> None:
    name, why = asyncio.run(templates.accelerator(shape))
    assert name in ("kvm", "tcg")
    assert why
    assert asyncio.run(templates.accelerator(shape)) == (name, why)
