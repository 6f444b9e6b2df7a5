"""The probe with its interpreter as one directory that runs in any image, however little is in it."""

from __future__ import annotations

import io
import os
import sys
import tarfile

from sampan.compare import probe
from sampan.linux import pythonfiles

TOP = ".sampan-probe"
_MODULES = [
    "__future__",
    "encodings.utf_8",
    "encodings.ascii",
    "encodings.latin_1",
    "encodings.idna",
    "json",
    "math",
    "os",
    "random",
    "socket",
]
# A program of one system call that sleeps until it is killed (pause(2), again and again), and one that ends at once (exit(2)).
_CODE = {"pause": bytes.fromhex("b822000000 0f05 ebf7"), "true": bytes.fromhex("31ff b83c000000 0f05")}
_LOADER = ("ld-linux", "ld-musl", "ld64")


def pause() -> list[str]:
    """The command of an application that does nothing at all."""
    return [f"/{TOP}/pause"] if os.uname().machine == "x86_64" else python("-c", "import signal; signal.pause()")


def true() -> list[str]:
    """The command of an application that ends at once, for images that have none."""
    return [f"/{TOP}/true"] if os.uname().machine == "x86_64" else python("-c", "")


def python(*args: str) -> list[str]:
    """The command that runs the bundle's interpreter, by its own loader and libraries."""
    return [f"/{TOP}/ld.so", "--library-path", f"/{TOP}/libs", f"/{TOP}/bin/python3", "-I", "-S", "-B", *args]


def command(*args: str) -> list[str]:
    """The command that runs the probe."""
    return python(f"/{TOP}/probe.py", *args)


def program(name: str) -> bytes:
    """The program "pause" or "true", for x86-64."""
    return elf(_CODE[name])


def elf(code: bytes) -> bytes:
    """The smallest program for x86-64 around some code: an ELF header and one segment (elf(5))."""
    base, header = 0x400000, 64 + 56
    size = header + len(code)
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    fields = [
        (2, 2),
        (62, 2),
        (1, 4),
        (base + header, 8),
        (64, 8),
        (0, 8),
        (0, 4),
        (64, 2),
        (56, 2),
        (1, 2),
        (0, 2),
        (0, 2),
        (0, 2),
    ]
    segment = [(1, 4), (5, 4), (0, 8), (base, 8), (base, 8), (size, 8), (size, 8), (4096, 8)]
    return ident + b"".join(value.to_bytes(width, "little") for value, width in (*fields, *segment)) + code


def archive() -> bytes:
    """The directory as a tar, to be extracted at the root of an image. Raises OSError."""
    standard = os.path.dirname(os.__file__)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    sources = pythonfiles.modules(_MODULES)
    files = {f"bin/{version}": pythonfiles.interpreter()}
    files |= {
        f"lib/{version}/{os.path.relpath(path, standard)}": path for path in sources if path.startswith(f"{standard}/")
    }
    for path in pythonfiles.libraries([pythonfiles.interpreter(), *sources]):
        name = os.path.basename(path)
        files["ld.so" if name.startswith(_LOADER) else f"libs/{name}"] = os.path.realpath(path)
    files["probe.py"] = probe.__file__
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, path in sorted(files.items()):
            with open(path, "rb") as file:
                _add(tar, name, file.read())
        link = tarfile.TarInfo(f"{TOP}/bin/python3")
        link.type, link.linkname = tarfile.SYMTYPE, version
        tar.addfile(link)
        lib = tarfile.TarInfo(f"{TOP}/lib/{version}/lib-dynload")  # where there is none, the interpreter complains
        lib.type, lib.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(lib)
        for name, code in _CODE.items():
            _add(tar, name, elf(code))
    return out.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(f"{TOP}/{name}")
    member.size, member.mode = len(data), 0o755
    tar.addfile(member, io.BytesIO(data))
