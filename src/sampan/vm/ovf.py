"""Appliances in OVF packages (DSP0243): a tar of a description in XML, digests, and a disk for streaming (VMDK)."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import xml.etree.ElementTree as ET
from dataclasses import dataclass

from sampan.images import compression
from sampan.images.errors import ImageError
from sampan.images.tarstream import TarStream
from sampan.vm import xmltext
from sampan.vm.errors import BadDisk

_OVF = "http://schemas.dmtf.org/ovf/envelope/1"
_RASD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
_VSSD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
_STREAM = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
# Resource types (CIM_ResourceAllocationSettingData.ResourceType).
_CPU, _MEMORY, _ETHERNET, _DISK, _SATA = 3, 4, 10, 17, 20
_MOST_XML = xmltext.MOST
_MOST = {_CPU: 4096, _MEMORY: 16 << 20}


@dataclass(frozen=True, slots=True)
class Appliance:
    """What an OVF says of a machine. `memory` in MiB, `capacity` of the disk in bytes."""

    name: str
    cpus: int
    memory: int
    disk: str  # the disk's file in the package
    capacity: int


def describe(appliance: Appliance, size: int) -> bytes:
    """The OVF envelope; `size`: of the disk's file, in bytes."""
    for prefix, uri in (("ovf", _OVF), ("rasd", _RASD), ("vssd", _VSSD)):
        ET.register_namespace(prefix, uri)

    def ovf(name: str) -> str:
        return f"{{{_OVF}}}{name}"

    envelope = ET.Element(ovf("Envelope"))
    references = ET.SubElement(envelope, ovf("References"))
    ET.SubElement(references, ovf("File"), {ovf("id"): "file1", ovf("href"): appliance.disk, ovf("size"): str(size)})
    disks = ET.SubElement(envelope, ovf("DiskSection"))
    ET.SubElement(disks, ovf("Info")).text = "The virtual disks"
    ET.SubElement(disks, ovf("Disk"), {ovf("diskId"): "disk1", ovf("fileRef"): "file1", ovf("capacity"): str(appliance.capacity),
                                       ovf("format"): _STREAM})  # fmt: skip
    networks = ET.SubElement(envelope, ovf("NetworkSection"))
    ET.SubElement(networks, ovf("Info")).text = "The networks"
    network = ET.SubElement(networks, ovf("Network"), {ovf("name"): "default"})
    ET.SubElement(network, ovf("Description")).text = "The network of the machine's one interface"
    system = ET.SubElement(envelope, ovf("VirtualSystem"), {ovf("id"): appliance.name})
    ET.SubElement(system, ovf("Info")).text = "A virtual machine made by Sampan"
    ET.SubElement(system, ovf("Name")).text = appliance.name
    # 101 is "Linux 64-Bit" in CIM_OperatingSystem.OSType.
    operating = ET.SubElement(system, ovf("OperatingSystemSection"), {ovf("id"): "101"})
    ET.SubElement(operating, ovf("Info")).text = "The operating system"
    ET.SubElement(operating, ovf("Description")).text = "Linux"
    hardware = ET.SubElement(system, ovf("VirtualHardwareSection"))
    ET.SubElement(hardware, ovf("Info")).text = "The virtual hardware"
    virtual = ET.SubElement(hardware, ovf("System"))
    for key, text in (("ElementName", "Virtual Hardware Family"), ("InstanceID", "0"), ("VirtualSystemIdentifier", appliance.name),
                      ("VirtualSystemType", "vmx-10")):  # fmt: skip
        ET.SubElement(virtual, f"{{{_VSSD}}}{key}").text = text
    _item(hardware, AllocationUnits="hertz * 10^6", ElementName=f"{appliance.cpus} virtual CPUs", InstanceID=1, ResourceType=_CPU,
          VirtualQuantity=appliance.cpus)  # fmt: skip
    _item(hardware, AllocationUnits="byte * 2^20", ElementName=f"{appliance.memory} MB of memory", InstanceID=2,
          ResourceType=_MEMORY, VirtualQuantity=appliance.memory)  # fmt: skip
    _item(
        hardware, Address="0", ElementName="SATA controller", InstanceID=3, ResourceSubType="AHCI", ResourceType=_SATA
    )
    _item(hardware, AddressOnParent="0", ElementName="Disk 1", HostResource="ovf:/disk/disk1", InstanceID=4, Parent=3,
          ResourceType=_DISK)  # fmt: skip
    _item(hardware, AddressOnParent="1", AutomaticAllocation="true", Connection="default", ElementName="Ethernet 1", InstanceID=5,
          ResourceSubType="E1000", ResourceType=_ETHERNET)  # fmt: skip
    written: bytes = ET.tostring(envelope, encoding="UTF-8", xml_declaration=True)
    return written


def _item(parent: ET.Element, **values: object) -> None:
    item = ET.SubElement(parent, f"{{{_OVF}}}Item")
    for key, value in sorted(values.items()):  # the schema has them in this order
        ET.SubElement(item, f"{{{_RASD}}}{key}").text = str(value)


def pack(target: str, appliance: Appliance, disk: str) -> None:
    """Writes the package: first the description, then the digests, then the disk (DSP0243, 5.2)."""
    text = describe(appliance, os.path.getsize(disk))
    with open(disk, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    manifest = f"SHA256({appliance.name}.ovf)= {hashlib.sha256(text).hexdigest()}\nSHA256({appliance.disk})= {digest}\n"
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in ((f"{appliance.name}.ovf", text), (f"{appliance.name}.mf", manifest.encode())):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
        tar.add(disk, appliance.disk, filter=_anonymous)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member


def parse(text: bytes) -> Appliance:
    """What an envelope says. Raises BadDisk for one that is none, or that has not exactly one disk."""
    envelope = xmltext.parse(text)
    names = {"ovf": _OVF, "rasd": _RASD}
    disks = envelope.findall(".//ovf:DiskSection/ovf:Disk", names)
    files = {
        item.get(f"{{{_OVF}}}id"): item.get(f"{{{_OVF}}}href")
        for item in envelope.findall(".//ovf:References/ovf:File", names)
    }
    system = envelope.find(".//ovf:VirtualSystem", names)
    if system is None or len(disks) != 1 or not files.get(disks[0].get(f"{{{_OVF}}}fileRef")):
        raise BadDisk("the OVF description is not of one machine with one disk")
    quantity = {_CPU: 1, _MEMORY: 1024}
    for item in system.findall(".//ovf:Item", names):
        kind = _number(item.findtext("rasd:ResourceType", "", names), 1 << 16)
        value = item.findtext("rasd:VirtualQuantity", "", names)
        if kind in quantity and value:
            quantity[kind] = _number(value, _MOST[kind])
    disk = str(files[disks[0].get(f"{{{_OVF}}}fileRef")])
    if disk.startswith("/") or "../" in disk or "/.." in disk or "://" in disk:
        raise BadDisk(f"the OVF description names {disk[:60]!r} as its disk, which is no file of the package")
    capacity = _number(disks[0].get(f"{{{_OVF}}}capacity") or "0", 1 << 62)
    return Appliance(system.get(f"{{{_OVF}}}id") or "machine", quantity[_CPU], quantity[_MEMORY], disk, capacity)


def _number(text: str, most: int) -> int:
    """A number of a description; 0 is what is left out or is none. Raises BadDisk for one that can't be meant."""
    text = text.strip()
    if not (text.isascii() and text.isdecimal()):
        return 0
    if len(text) > 20 or int(text) > most:
        raise BadDisk(f"the OVF description has {text[:24]} where {most} is the most")
    return int(text)


def unpack(source: int, name: str, target: int) -> Appliance:
    """Reads a package: writes its disk to the file `target`, and checks it against the digests. Raises BadDisk."""
    digests: dict[str, str] = {}
    appliance: Appliance | None = None
    found = ""
    room = compression.room(target)
    try:
        with open(os.dup(source), "rb") as file, open(os.dup(target), "wb") as out:
            file.seek(0)
            members = TarStream(file.read, lambda count: file.seek(count, os.SEEK_CUR))
            for member in members:
                if not member.is_file:
                    continue
                if member.name.endswith(".ovf") and appliance is None:
                    appliance = parse(_start(members, _MOST_XML + 1))
                elif member.name.endswith(".mf"):
                    digests = _digests(_start(members, _MOST_XML).decode(errors="replace"))
                elif appliance is not None and member.name == appliance.disk and not found:
                    digest = hashlib.sha256()
                    if member.size > room:
                        raise BadDisk(f"no space left on device: {member.name} has {member.size} bytes")
                    for piece in members.content():
                        digest.update(piece)
                        out.write(piece)
                    found = digest.hexdigest()
    except (ImageError, OSError) as error:
        raise BadDisk(f"{name} is no OVA: {error}") from None
    if appliance is None or not found:
        raise BadDisk(f"{name} has no OVF description, or not the disk that it names")
    if digests.get(appliance.disk, found) != found:
        raise BadDisk(f"{appliance.disk} is not what the manifest says: the file is damaged")
    return appliance


def _start(members: TarStream, limit: int) -> bytes:
    """The content of a member, or as much of it as is more than what is wanted."""
    data = b""
    for piece in members.content():
        data += bytes(piece[:limit])
        if len(data) >= limit:
            break
    return data[:limit]


def _digests(text: str) -> dict[str, str]:
    """SHA-256 digests by file name, of a manifest's lines "SHA256(name)= digest"."""
    found = {}
    for line in text.splitlines():
        head, _, digest = line.partition("=")
        if head.startswith("SHA256(") and head.strip().endswith(")"):
            found[head.strip()[7:-1]] = digest.strip()
    return found
