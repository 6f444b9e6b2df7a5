"""The guest's first file system: this interpreter, the agent, and the kernel modules they need."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import marshal
import os
import stat

from sampan.linux import durable, pythonfiles
from sampan.vm import cpio
from sampan.vm.errors import VmError
from sampan.vm.kernel import Kernel

MODULES = ["virtio_mmio", "virtio_pci", "virtio_console", "virtio_blk", "virtio_net", "virtio_balloon", "virtio_rng", "crc32c_generic", "crc32c_intel", "erofs", "ext4",
           "overlay", "9pnet_virtio", "9p", "fuse", "tun"]  # fmt: skip
# For a disk that any hypervisor boots: what KVM, VMware, VirtualBox and Hyper-V have for disks, networks and consoles.
APPLIANCE_MODULES = [*MODULES, "scsi_mod", "sd_mod", "virtio_scsi", "ahci", "ata_piix", "ata_generic", "nvme", "mptspi", "mptsas",
                     "vmw_pvscsi", "hv_vmbus", "hv_storvsc", "hv_netvsc", "hv_utils", "e1000", "e1000e", "vmxnet3", "pcnet32", "isofs",
                     "cdrom", "sr_mod", "button"]  # fmt: skip
_IMPORTS = [
    "sampan.vm.agent",
    "sampan.vm.disk_init",
    "encodings.utf_8",
    "encodings.ascii",
    "encodings.latin_1",
    "encodings.idna",
]
_INIT = "#!/usr/bin/python3 -ISB\nimport sys\nsys.path.insert(0, '/sampan')\nfrom sampan.vm.{} import main\nmain()\n"


def build(kernel: Kernel, cache: str, appliance: bool = False) -> str:
    """The archive's path, made if there is none with this content yet. Raises VmError.

    `appliance`: for a disk that any hypervisor boots, and not for machines of ours.
    """
    data = cpio.archive(_members(kernel, appliance))
    path = f"{cache}/initramfs-{hashlib.sha256(data).hexdigest()[:16]}.gz"
    if not os.path.exists(path):
        durable.write(path, gzip.compress(data, 1, mtime=0), 0o644)
    return path


def _members(kernel: Kernel, appliance: bool) -> list[cpio.Member]:
    members = [cpio.directory(name) for name in ("proc", "sys", "dev", "run", "run/self", "tmp", "root")]
    members += [cpio.file("init", _INIT.format("disk_init" if appliance else "agent").encode(), executable=True)]
    # A guest whose CPU has no random numbers starts its interpreter with those of /dev/urandom.
    members += [
        cpio.Member(f"dev/{name}", stat.S_IFCHR | 0o666, b"", (1, minor))
        for name, minor in (("null", 3), ("urandom", 9))
    ]
    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    try:
        needed = pythonfiles.modules(_IMPORTS, source)
    except OSError as error:
        raise VmError(f"the agent can't be loaded: {error}") from None
    files = {"/usr/bin/python3": pythonfiles.interpreter(), **{path: path for path in needed}}
    for name in pythonfiles.libraries(list(files.values())):
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
