"""The guest's first file system: this interpreter, the agent, and the kernel modules they need."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import marshal
import os
import stat
import subprocess
import sys

from sampan.vm import cpio
from sampan.vm.errors import VmError
from sampan.vm.kernel import Kernel

MODULES = ["virtio_mmio", "virtio_pci", "virtio_console", "virtio_blk", "virtio_net", "virtio_balloon", "virtio_rng", "crc32c_generic", "crc32c_intel", "erofs", "ext4",
           "overlay", "9pnet_virtio", "9p", "fuse", "tun"]  # fmt: skip
# For a disk that any hypervisor boots: what KVM, VMware, VirtualBox and Hyper-V have for disks, networks and consoles.
APPLIANCE_MODULES = [*MODULES, "scsi_mod", "sd_mod", "virtio_scsi", "ahci", "ata_piix", "ata_generic", "nvme", "mptspi", "mptsas",
                     "vmw_pvscsi", "hv_vmbus", "hv_storvsc", "hv_netvsc", "hv_utils", "e1000", "e1000e", "vmxnet3", "pcnet32", "isofs",
                     "cdrom", "sr_mod", "button"]  # fmt: skip
# Everything that the agent imports, by file; computed in a fresh interpreter so that nothing of ours is among it.
_LIST = """
import sys
sys.path.insert(0, sys.argv[1])
import sampan.vm.agent, sampan.vm.appliance, encodings.utf_8, encodings.ascii, encodings.latin_1, encodings.idna
for module in list(sys.modules.values()):
    path = getattr(module, "__file__", None)
    if path and path != "frozen":
        print(path)
"""
_INIT = "#!/usr/bin/python3 -ISB\nimport sys\nsys.path.insert(0, '/sampan')\nfrom sampan.vm.{} import main\nmain()\n"


def build(kernel: Kernel, cache: str, appliance: bool = False) -> str:
    """The archive's path, made if there is none with this content yet. Raises VmError.

    `appliance`: for a disk that any hypervisor boots, and not for machines of ours.
    """
    data = cpio.archive(_members(kernel, appliance))
    path = f"{cache}/initramfs-{hashlib.sha256(data).hexdigest()[:16]}.gz"
    if not os.path.exists(path):
        temporary = f"{path}.{os.getpid()}"
        with open(temporary, "wb") as file:
            file.write(gzip.compress(data, 1, mtime=0))
        os.rename(temporary, path)
    return path


def _members(kernel: Kernel, appliance: bool) -> list[cpio.Member]:
    interpreter = os.path.realpath(sys.executable)
    members = [cpio.directory(name) for name in ("proc", "sys", "dev", "run", "run/self", "tmp", "root")]
    members += [cpio.file("init", _INIT.format("appliance" if appliance else "agent").encode(), executable=True)]
    # A guest whose CPU has no random numbers starts its interpreter with those of /dev/urandom.
    members += [
        cpio.Member(f"dev/{name}", stat.S_IFCHR | 0o666, b"", (1, minor))
        for name, minor in (("null", 3), ("urandom", 9))
    ]
    files = {"/usr/bin/python3": interpreter}
    for path in _python_files(interpreter):
        files[path] = path
    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    for name in sorted(
        {library for binary in [interpreter, *files.values()] if _is_elf(binary) for library in _libraries(binary)}
    ):
        files[name] = os.path.realpath(name)
    for name, path in sorted(files.items()):
        inside = f"/sampan/{os.path.relpath(path, source)}" if path.startswith(f"{source}/sampan/") else name
        with open(path, "rb") as file:
            data = file.read()
        if path.endswith(".py"):
            inside, data = f"{inside}c", _compiled(inside, data)
        members.append(cpio.file(inside.lstrip("/"), data, executable=os.access(path, os.X_OK)))
    modules = kernel.load_order(APPLIANCE_MODULES if appliance else MODULES)
    members += [cpio.file(f"modules/{name}.ko", data) for name, data in modules]
    members.append(cpio.file("modules/order", "".join(f"{name}.ko\n" for name, _ in modules).encode()))
    return members


def _compiled(name: str, source: bytes) -> bytes:
    """A module without its source (a .pyc beside no .py): an emulated guest takes seconds to compile them all.

    The header says that it is checked against nothing (PEP 552).
    """
    code = compile(source, name, "exec", dont_inherit=True, optimize=0)
    return importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8) + marshal.dumps(code)


def _python_files(interpreter: str) -> list[str]:
    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    done = subprocess.run(
        [interpreter, "-I", "-S", "-B", "-c", _LIST, source], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise VmError(f"the agent can't be loaded: {done.stderr.strip()[-500:]}")
    return sorted(set(done.stdout.split("\n")) - {""})


def _is_elf(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


def _libraries(binary: str) -> list[str]:
    """The shared libraries that a binary loads, its loader among them (ldd(1))."""
    out = subprocess.run(["ldd", binary], capture_output=True, text=True, check=False).stdout
    return [word for line in out.splitlines() for word in line.split() if word.startswith("/") and os.path.exists(word)]
