"""Work on a container's files by a process of the guest's agent: what the engine does itself for containers."""

from __future__ import annotations

import os
from collections.abc import Callable

from sampan import quickjson
from sampan.images import pack, root_fs
from sampan.images.errors import ImageError
from sampan.runtime.errors import RuntimeFailure
from sampan.vm import guestroot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.vm.requests import Arguments


def run(name: str, args: Arguments, root: int, reader: int, writer: int, result: int) -> None:
    """The process's life: {"result"} or {"error", "kind"} goes to `result`. Never returns."""
    try:
        answer: dict[str, object] = {"result": _JOBS[name](root, reader, writer, **args)}
    except ImageError as error:
        answer = {"error": str(error), "kind": "image"}
    except OSError as error:
        answer = {"error": str(error), "kind": "os", "errno": error.errno or 0}
    except BaseException as error:
        answer = {"error": repr(error), "kind": "other"}
    try:
        with os.fdopen(result, "wb") as out:
            out.write(quickjson.dumps(answer).encode())
    finally:
        os._exit(0)


def _stat(root: int, reader: int, writer: int, path: str) -> dict[str, object]:
    return {**root_fs.stat_of(root, path)}


def _get(root: int, reader: int, writer: int, path: str) -> None:
    with os.fdopen(writer, "wb") as out:
        root_fs.get(root, path, out, os.path.basename(path.rstrip("/")) or ".")


def _check(root: int, reader: int, writer: int, path: str) -> None:
    os.close(root_fs.open_directory(root, path))


def _put(root: int, reader: int, writer: int, path: str, keep_type: bool, user: str) -> None:
    with os.fdopen(reader, "rb") as stream:
        try:
            root_fs.put(root, path, stream, keep_type, user)
        except RuntimeFailure as error:
            raise ImageError(str(error)) from error


def _export(root: int, reader: int, writer: int) -> None:
    """The container's own file system, as it would be without its mounts."""
    tree = guestroot.view()
    with os.fdopen(writer, "wb") as out:
        pack.pack_tree(tree, "/", out)


def _changes(root: int, reader: int, writer: int) -> None:
    """A line for each, a digit and the path, ended by a NUL."""
    lower = os.open(guestroot.LOWER, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with os.fdopen(writer, "wb") as out:
        for path, kind in pack.changes(str(guestroot.OVERLAY["upper"]), lower):
            out.write(f"{kind}{path}\0".encode(errors="surrogateescape"))


def _layer(root: int, reader: int, writer: int) -> None:
    with os.fdopen(writer, "wb") as out:
        pack.pack_layer(str(guestroot.OVERLAY["upper"]), out)


_JOBS: dict[str, Callable[..., object]] = {
    "stat": _stat,
    "get": _get,
    "check": _check,
    "put": _put,
    "export": _export,
    "changes": _changes,
    "layer": _layer,
}
