"""The files that a program in this interpreter needs, to take them somewhere else."""

from __future__ import annotations

import os
import subprocess
import sys

# Run in a fresh interpreter, so that nothing of ours is among them.
_LIST = """
import sys
sys.path[:0] = sys.argv[2:]
for name in sys.argv[1].split():
    __import__(name)
for module in list(sys.modules.values()):
    path = getattr(module, "__file__", None)
    if path and path != "frozen":
        print(path)
"""


def interpreter() -> str:
    """The interpreter's own file."""
    return os.path.realpath(sys.executable)


def modules(names: list[str], *directories: str) -> list[str]:
    """The files of modules and of all that they import; looked for in `directories` too. Raises OSError."""
    command = [interpreter(), "-I", "-S", "-B", "-c", _LIST, " ".join(names), *directories]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{', '.join(names)} can't be loaded: {done.stderr.strip()[-500:]}")
    return sorted(set(done.stdout.split("\n")) - {""})


def libraries(files: list[str]) -> list[str]:
    """The shared libraries that some of these files load, their loader among them (ldd(1))."""
    found: set[str] = set()
    for path in files:
        if _is_elf(path):
            out = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
            found |= {word for line in out.splitlines() for word in line.split() if word.startswith("/")}
    return sorted(path for path in found if os.path.exists(path))


def _is_elf(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"
