"""Disks and appliances from elsewhere: read in a jail that holds that one file, whatever they refer to (T53, S036, S045, S047)."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import struct
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.linux import mount
from sampan.runtime import jail
from sampan.vm import bootdisk, diskimage, disks, ovf, tools, xmltext
from sampan.vm.errors import BadDisk, VmError
from tests.conftest import eventually
from tests.support.processes import command_lines

SECRET = b"the host's secret " * 4096
SOAK = bool(os.environ.get("SAMPAN_SOAK"))


def make(path: Path, form: str, *options: str, size: str = "4M") -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", form, *options, str(path), size], check=True)
    return path


def take(path: Path, target: Path) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        return bootdisk.take(fd, path.name, str(target))
    finally:
        os.close(fd)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    return path


def patched(path: Path, where: int, data: bytes) -> Path:
    with open(path, "r+b") as file:
        file.seek(where)
        file.write(data)
    return path


def vmdk_text(*extents: str, kind: str = "monolithicFlat", parent: str = "ffffffff") -> bytes:
    head = f'# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID={parent}\ncreateType="{kind}"\n'
    return (head + "\n".join(extents) + '\nddb.adapterType = "ide"\n').encode()


def evil(top: Path, secret: Path) -> Iterator[tuple[str, Path]]:
    """Disks that name a file of the host, each in another way."""
    yield "backing", make(top / "backing.qcow2", "qcow2", "-b", str(secret), "-F", "raw")
    json_name = "json:" + json.dumps({"driver": "raw", "file": {"driver": "file", "filename": str(secret)}})
    yield "json", make(top / "json.qcow2", "qcow2", "-u", "-b", json_name, "-F", "raw")
    yield "nbd", make(top / "nbd.qcow2", "qcow2", "-u", "-b", "nbd://127.0.0.1:1/x", "-F", "raw")
    yield "v2", make(top / "v2.qcow2", "qcow2", "-o", "compat=0.10", "-b", str(secret), "-F", "raw")
    data = top / "data"
    data.write_bytes(b"")
    yield "data-file", make(top / "ext.qcow2", "qcow2", "-o", f"data_file={data},data_file_raw=on")
    for name, line in (
        ("flat", f'RW 144 FLAT "{secret}" 0'),
        ("zero and flat", f'RW 1 ZERO\nRW 143 FLAT "{secret}" 1'),
        ("vmfs", f'RW 144 VMFS "{secret}"'),
        ("relative", 'RW 144 FLAT "secret" 0'),
    ):
        path = top / f"{name}.vmdk"
        path.write_bytes(vmdk_text(*line.split("\n")))
        yield name, path
    sparse = make(top / "sparse.vmdk", "vmdk")
    where = 512  # its description is in the second sector
    patched(sparse, where, vmdk_text(f'RW 8192 FLAT "{secret}" 0').ljust(2048, b"\0"))
    yield "embedded", sparse
    yield "empty header", patched(shutil.copy(sparse, top / "empty.vmdk"), 12, bytes(8))  # type: ignore[arg-type]
    child = make(top / "child.vmdk", "vmdk")
    patched(
        child,
        where,
        vmdk_text('RW 8192 SPARSE "child.vmdk"', f'parentFileNameHint="{secret}"', kind="monolithicSparse", parent="1"),
    )
    yield "parent", child
    yield "vdi", patched(make(top / "diff.vdi", "vdi"), 76, struct.pack("<I", 4))
    yield "vdi parent", patched(make(top / "parent.vdi", "vdi"), 440, b"\1" * 16)


def test_a_disk_that_names_another_file_is_refused_by_name(tmp_path: Path, secret: Path) -> None:
    for kind, path in evil(tmp_path, secret):
        with pytest.raises(BadDisk, match="refers to another file"):
            take(path, tmp_path / "out")
        assert not (tmp_path / "out").exists(), kind


def test_the_jail_holds_what_the_check_lets_through(
    tmp_path: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the check of headers nothing of the host gets into a disk either."""
    forms = {".qcow2": "qcow2", ".vmdk": "vmdk", ".vdi": "vdi"}
    for kind, path in evil(tmp_path, secret):
        monkeypatch.setattr(diskimage, "examine", lambda read, name: forms[Path(name).suffix])
        monkeypatch.setattr(bootdisk, "capacity", lambda source, form, name: 4 << 20)
        out = tmp_path / "out"
        try:
            take(path, out)
        except VmError:
            pass
        content = out.read_bytes() if out.exists() else b""
        assert b"the host's secret" not in content, kind


def test_whole_disks_of_every_format_are_taken(tmp_path: Path) -> None:
    raw = tmp_path / "plain.raw"
    raw.write_bytes(os.urandom(1 << 20) + bytes(3 << 20))
    for form, options in (("raw", []), ("qcow2", []), ("qcow2", ["-c"]), ("vmdk", []), ("vmdk", ["-o", "subformat=streamOptimized"]),
                          ("vdi", []), ("vhdx", [])):  # fmt: skip
        path = tmp_path / "whole"
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", form, *options, raw, path], check=True)
        assert take(path, tmp_path / "out") == 4 << 20
        subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, tmp_path / "out"], check=True)
        assert (tmp_path / "out").stat().st_mode & 0o777 == 0o600


def test_claims_that_no_disk_can_hold(tmp_path: Path) -> None:
    large = make(tmp_path / "large.qcow2", "qcow2")
    for size in (1 << 60, (1 << 64) - 512, 0, diskimage.LARGEST + 1):
        with pytest.raises(BadDisk, match="says that it is a disk of"):
            take(patched(large, 24, struct.pack(">Q", size)), tmp_path / "out")
    tables = make(tmp_path / "tables.qcow2", "qcow2")
    with pytest.raises(BadDisk, match="tables"):
        take(patched(tables, 36, b"\x7f\xff\xff\xff"), tmp_path / "out")
    vmdk = make(tmp_path / "x.vmdk", "vmdk")
    with pytest.raises(BadDisk, match="says that it is a disk of"):
        take(patched(vmdk, 12, struct.pack("<Q", 1 << 54)), tmp_path / "out")
    encrypted = patched(make(tmp_path / "e.qcow2", "qcow2"), 32, struct.pack(">I", 2))
    with pytest.raises(BadDisk, match="encrypted"):
        take(encrypted, tmp_path / "out")
    (tmp_path / "l").write_bytes(b"LUKS\xba\xbe" + bytes(1000))
    with pytest.raises(BadDisk, match="LUKS"):
        take(tmp_path / "l", tmp_path / "out")


def test_a_disk_is_not_written_beyond_its_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file that unpacks to a large one ends where there is no room left for it."""
    monkeypatch.setattr("sampan.images.compression.room", lambda fd: 1 << 20)
    raw = tmp_path / "raw"
    raw.write_bytes(b"x" * (8 << 20))
    subprocess.run(["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", raw, tmp_path / "bomb"], check=True)
    assert (tmp_path / "bomb").stat().st_size < 1 << 20
    with pytest.raises(VmError, match="qemu-img"):
        take(tmp_path / "bomb", tmp_path / "out")
    assert (tmp_path / "out").stat().st_size <= 1 << 20


# The jail itself.

LOOK = """
import json, os, socket
found = {"uid": os.getuid(), "pid": os.getpid(), "files": sorted(os.listdir("/")), "fds": sorted(os.listdir("/dev"))}
def tried(call, *given):
    try:
        call(*given)
        return "done"
    except OSError as error:
        return error.strerror
found["shadow"] = tried(open, "/etc/shadow")
found["proc"] = tried(os.listdir, "/proc")
found["write source"] = tried(open, "/source", "r+")
found["write program"] = tried(open, "/usr/lib/os-release", "r+")
found["root"] = tried(open, "/new", "w")
found["socket"] = tried(socket.socket, socket.AF_INET)
found["unix"] = tried(socket.socket, socket.AF_UNIX)
found["setuid"] = tried(os.setuid, 0)
found["device"] = tried(os.mknod, "/tmp/sda", 0o60600, os.makedev(8, 0))
found["chroot"] = tried(os.chroot, "/tmp")
found["kill"] = tried(os.kill, 2, 9)
found["descriptors"] = [fd for fd in range(3, 64) if tried(os.fstat, fd) == "done"]
print(json.dumps(found))
"""


def test_what_a_program_in_the_jail_finds(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("x")
    source.chmod(0o600)
    fd = os.open(source, os.O_RDONLY)
    try:
        text = jail.run(["/usr/bin/python3", "-I", "-c", LOOK], [jail.Given(fd, "/source")], jail.Limits())
    finally:
        os.close(fd)
    found = json.loads(text)
    assert found.pop("uid") not in (0, os.getuid())
    assert found.pop("pid") == 1
    assert {"source", "usr", "tmp", "dev"} <= set(found["files"])
    assert set(found.pop("files")) <= {"source", "usr", "tmp", "dev", "etc", "bin", "sbin", "lib", "lib64"}
    assert found.pop("fds") == ["null", "urandom", "zero"]
    assert found.pop("descriptors") == []
    assert found == {
        "shadow": "No such file or directory",
        "proc": "No such file or directory",
        "write source": "Read-only file system",
        "write program": "Read-only file system",
        "root": "Read-only file system",
        "socket": "Operation not permitted",
        "unix": "Operation not permitted",
        "setuid": "Operation not permitted",
        "device": "Operation not permitted",
        "chroot": "Operation not permitted",
        "kill": "No such process",
    }


def test_what_the_host_sees_of_a_program_in_the_jail() -> None:
    """Namespaces of its own, one capability that reaches nothing but what it is given, a filter."""
    name = f"2{os.getpid()}"

    def sleep() -> None:
        with contextlib.suppress(jail.JailError):
            jail.run(["sleep", name], [], jail.Limits(seconds=30))

    thread = threading.Thread(target=sleep)
    thread.start()
    try:
        eventually(lambda: b"sleep\0" + name.encode() + b"\0" in list(command_lines()))
        pid = next(path.parent.name for path in Path("/proc").glob("[0-9]*/cmdline") if is_sleep(path, name))
        for kind in ("mnt", "net", "ipc", "uts", "pid"):
            assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"), kind
        lines = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
        )
        assert {lines[name] for name in ("CapPrm", "CapEff", "CapBnd")} == {f"{1 << 1:016x}"}  # CAP_DAC_OVERRIDE
        assert (lines["NoNewPrivs"], lines["Seccomp"], lines["Groups"].strip()) == ("1", "2", "")
        os.kill(int(pid), 9)
    finally:
        thread.join()


def is_sleep(path: Path, name: str) -> bool:
    try:
        return path.read_bytes() == b"sleep\0" + name.encode() + b"\0"
    except OSError:
        return False


def test_programs_in_the_jail_have_limits() -> None:
    begun = time.monotonic()
    with pytest.raises(jail.JailError, match="sleep: ended after 1 seconds"):
        jail.run(["sleep", "1000"], [], jail.Limits(seconds=1))
    assert time.monotonic() - begun < 30
    with pytest.raises(jail.JailError, match="more than"):
        jail.run(["yes"], [], jail.Limits())
    with pytest.raises(jail.JailError, match="MemoryError"):
        jail.run(["/usr/bin/python3", "-Ic", "x = 'x' * (1 << 32)"], [], jail.Limits(memory=1 << 30))
    with pytest.raises(jail.JailError, match=r"said-this"):
        jail.run(["sh", "-c", "echo said-this >&2; exit 3"], [], jail.Limits())


def test_programs_end_with_their_jail() -> None:
    """Nothing is left of one that takes too long: not what it has started either."""
    name = f"3{os.getpid()}"
    with pytest.raises(jail.JailError):
        jail.run(["sh", "-c", f"sleep {name} & exec sleep {name}"], [], jail.Limits(seconds=1))
    eventually(lambda: not any(name.encode() in line for line in command_lines()))


def test_trees_are_read_in_the_jail(tmp_path: Path) -> None:
    """An image's files, also those that nobody may read, and none of the host's by a link."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a/closed").write_text("x")
    (tmp_path / "a/closed").chmod(0)
    (tmp_path / "a/link").symlink_to("/etc/shadow")
    cache = disks.Disks(str(tmp_path / "cache"))
    fd = cache.root("a" * 64, lambda: mount.overlay([str(tmp_path / "a"), str(tmp_path / "b")], None, None))
    try:
        assert os.fstat(fd).st_mode & 0o777 == 0o400
        os.lseek(fd, 1024, os.SEEK_SET)
        assert os.read(fd, 4) == b"\xe2\xe1\xf5\xe0"  # erofs
    finally:
        os.close(fd)
    os.close(cache.writable(str(tmp_path / "own"), 64 << 20))
    for path in (tmp_path / "own", *(tmp_path / "cache/empty").iterdir()):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(VmError, match="apt-get install qemu-utils"):
        tools.run(["qemu-img"])


# Appliances.

OVF = """<?xml version="1.0"?>{doctype}
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData">
<References><File ovf:id="f" ovf:href="{href}"/></References>
<DiskSection><Disk ovf:fileRef="f" ovf:capacity="{capacity}"/></DiskSection>
<VirtualSystem ovf:id="m"><VirtualHardwareSection><Item><rasd:ResourceType>3</rasd:ResourceType>
<rasd:VirtualQuantity>{cpus}</rasd:VirtualQuantity></Item></VirtualHardwareSection></VirtualSystem></Envelope>"""


def described(**changed: str) -> bytes:
    return OVF.format(**({"doctype": "", "href": "d.vmdk", "capacity": "1", "cpus": "2"} | changed)).encode()


def appliance(path: Path, description: bytes, disk: bytes, name: str = "d.vmdk") -> Path:
    with tarfile.open(path, "w") as tar:
        for member, data in (("m.ovf", description), (name, disk)):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def unpack(path: Path, target: Path) -> ovf.Appliance:
    with open(path, "rb") as source, open(target, "w+b") as out:
        return ovf.unpack(source.fileno(), path.name, out.fileno())


def test_appliances(tmp_path: Path, secret: Path) -> None:
    good = appliance(tmp_path / "good.ova", described(), b"disk")
    assert unpack(good, tmp_path / "out").cpus == 2
    assert (tmp_path / "out").read_bytes() == b"disk"
    for href in ("../secret", str(secret), "a/../../secret", "http://x/y"):
        with pytest.raises(BadDisk, match="no file of the package"):
            unpack(appliance(tmp_path / "x.ova", described(href=href), b"x", href), tmp_path / "out")
    for changed in ({"cpus": "9" * 5000}, {"cpus": "99999"}, {"capacity": "9" * 30}):
        with pytest.raises(BadDisk, match="is the most"):
            ovf.parse(described(**changed))
    linked = tmp_path / "linked.ova"
    with tarfile.open(linked, "w") as tar:
        info = tarfile.TarInfo("m.ovf")
        info.size = len(described())
        tar.addfile(info, io.BytesIO(described()))
        link = tarfile.TarInfo("d.vmdk")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(link)
    with pytest.raises(BadDisk, match="not the disk that it names"):
        unpack(linked, tmp_path / "out")


def test_descriptions_have_no_entities() -> None:
    doctype = f'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd"><!ENTITY l "{"x" * 1000}">]>'
    for encoding in ("utf-8", "utf-16", "utf-16-be", "cp037"):
        text = described(doctype=doctype).decode().replace("?>", f' encoding="{encoding}"?>', 1)
        with pytest.raises(BadDisk):
            xmltext.parse(text.encode(encoding))
        if encoding != "utf-8":
            continue
        with pytest.raises(BadDisk, match="entities"):
            xmltext.parse(text.encode())
    with pytest.raises(BadDisk, match="too many"):
        xmltext.parse(b"<a>" * 200 + b"</a>" * 200)
    with pytest.raises(BadDisk, match="too many"):
        xmltext.parse(b"<a>" + b"<b/>" * 50_000 + b"</a>")


# Readers of foreign bytes: whatever they are, an answer or BadDisk.

FUZZ = settings(max_examples=20_000 if SOAK else 150, deadline=None)
HEADS = st.sampled_from(
    [b"QFI\xfb\0\0\0\3", b"QFI\xfb\0\0\0\2", b"KDMV\1\0\0\0", b"vhdxfile", bytes(64) + b"\x7f\x10\xda\xbe", b""]
)


@FUZZ
@given(HEADS, st.binary(max_size=2048), st.lists(st.tuples(st.integers(0, 600), st.binary(max_size=16)), max_size=4))
def test_any_header_is_a_format_or_refused(head: bytes, rest: bytes, patches: list[tuple[int, bytes]]) -> None:
    data = bytearray(head + rest)
    for where, piece in patches:
        data[where : where + len(piece)] = piece
    try:
        found = diskimage.examine(lambda where, count: bytes(data[where : where + count]), "x")
    except BadDisk:
        return
    assert found in bootdisk.FORMATS


@FUZZ
@given(
    st.lists(
        st.sampled_from(["RW 1 SPARSE \"x\"", "RW 1 FLAT \"/etc/shadow\" 0", "parentCID=1", "createType=\"custom\"", "\0", "# x", "CID=1"])
        | st.text(max_size=20),
        max_size=6,
    )
)  # fmt: skip
def test_a_description_that_names_a_file_never_passes(lines: list[str]) -> None:
    text = "\n".join(lines).encode("utf-8", "replace")[:4096]
    head = b"KDMV" + struct.pack("<IIQQQQ", 1, 3, 64, 128, 1, 8)
    data = head.ljust(512, b"\0") + text.ljust(4096, b"\0")
    try:
        diskimage.examine(lambda where, count: data[where : where + count], "x")
    except BadDisk:
        return
    assert b"FLAT" not in text.split(b"\0")[0]


@FUZZ
@given(
    st.binary(max_size=400) | st.text("<>/ab \"='&;!?[]:-ovfrasd", max_size=400).map(str.encode),
    st.integers(0, 900),
    st.binary(max_size=8),
)
def test_any_description_is_read_or_refused(text: bytes, where: int, patch: bytes) -> None:
    whole = described()
    for each in (text, whole[:where] + patch + whole[where + len(patch) :], whole[:where]):
        try:
            ovf.parse(each)
        except BadDisk:
            pass
