"""Finds path calls that follow links on trees that somebody else writes: `make lint` and the unit tests run it.

A call of `os`, `os.path`, `shutil`, `pathlib` or `open` passes when it can't follow a link that somebody has just put there:
its subject is a descriptor, or one name in a directory given by a descriptor and the call does not follow that name. Everything
else has to stand in foreign_paths.toml with its reason, or the module there, when all it touches is ours alone.
"""

from __future__ import annotations

import ast
import functools
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src/sampan"
ALLOWED = Path(__file__).with_suffix(".toml")
# Where files of images, containers, volumes, contexts and guests pass through; a new module of these packages too.
SCOPE = (
    "images", "build", "volumes", "runtime", "api/buildkit", "engine/files.py", "engine/backends/host_files.py", "engine/backends/guest_files.py",
    "engine/image_roots.py", "engine/mounts.py", "engine/copy_up.py", "engine/roots.py", "engine/builds.py", "engine/build_steps.py",
    "engine/network/resolver.py", "linux/filetree.py", "linux/nodes.py", "linux/openat2.py", "linux/treecopy.py", "vm/jobs.py",
    "vm/guestroot.py", "vm/jail.py", "vm/dhcp.py", "cli/copy.py",
)  # fmt: skip

# Calls that look at their last name themselves and never through it: one name and a directory's descriptor are enough.
_NOT_FOLLOWING = {"mkdir", "mknod", "mkfifo", "unlink", "rmdir", "symlink", "readlink", "remove", "lstat"}
_TWO_NAMES = {"rename", "replace", "link"}
_FOLLOWING = {
    "access", "chdir", "chmod", "chown", "chroot", "fwalk", "getxattr", "lchown", "listdir", "listxattr", "makedirs",
    "open", "pathconf", "removedirs", "removexattr", "renames", "scandir", "setxattr", "stat", "statvfs", "truncate",
    "utime", "walk",
}  # fmt: skip
_PATH = {
    "exists", "isdir", "isfile", "lexists", "islink", "ismount", "getsize", "getmtime", "getatime", "getctime", "realpath",
    "samefile",
}  # fmt: skip
_SHUTIL_HARMLESS = {"copyfileobj", "which", "get_terminal_size"}
# What gives a descriptor, by the last part of the callee's name.
_GIVES_DESCRIPTOR = {
    "hold", "reopen", "open_regular", "reopen_regular", "open_regular_in_root", "open_in_root", "open_beneath", "openat2", "mkdir_in_root",
    "mkdir_beneath", "create_file_in_root", "open_tree", "new_filesystem", "overlay", "dup", "fileno", "memfd_create",
    "make_parents", "open_directory", "regular",
}  # fmt: skip


class _Function:
    """What is known of the names in one function: which of them are descriptors."""

    def __init__(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Module) -> None:
        self._descriptors: set[str] = set()
        if not isinstance(node, ast.Module):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            self._descriptors |= {arg.arg for arg in arguments if _text(arg.annotation) == "int"}
        for child in ast.walk(node):
            if isinstance(child, ast.Assign) and self.is_descriptor(child.value):
                self._descriptors |= {name.id for name in child.targets if isinstance(name, ast.Name)}

    def is_descriptor(self, node: ast.expr | None) -> bool:
        """Whether an expression is a descriptor and no path."""
        if isinstance(node, ast.Name):
            return node.id in self._descriptors
        if isinstance(node, ast.Attribute):
            return node.attr in ("fd", "rootfd", "_fd", "parent", "_parent_fd") or node.attr.endswith("_fd")
        if isinstance(node, ast.Call):
            name = _callee(node).rpartition(".")[2]
            return _callee(node) == "os.open" or name in _GIVES_DESCRIPTOR or name.startswith("_open")
        return False


def _text(node: ast.AST | None) -> str:
    return "" if node is None else ast.unparse(node)


def _callee(node: ast.expr) -> str:
    return _text(node.func) if isinstance(node, ast.Call) else ""


def _keywords(call: ast.Call) -> dict[str, ast.expr]:
    return {word.arg: word.value for word in call.keywords if word.arg}


def _follows(call: ast.Call, where: _Function) -> bool:
    """Whether a call might follow a link that somebody else has put there."""
    module, _, name = _callee(call).rpartition(".")
    words = _keywords(call)
    subject = call.args[0] if call.args else None
    if (module, name) == ("", "open"):  # a descriptor, or an opener that looks
        return not where.is_descriptor(subject) and "opener" not in words
    if module == "shutil":
        return name not in _SHUTIL_HARMLESS
    if module == "os.path":
        return name in _PATH
    if module in ("pathlib", "") and name == "Path":
        return True
    if module != "os" or name not in _NOT_FOLLOWING | _TWO_NAMES | _FOLLOWING:
        return False
    if name in _TWO_NAMES:
        safe = {"src_dir_fd", "dst_dir_fd"} <= set(words)
        return not safe or (name == "link" and _text(words.get("follow_symlinks")) != "False")
    if where.is_descriptor(subject):
        return False
    if "dir_fd" not in words:
        return True
    if name in _NOT_FOLLOWING:
        return False
    if name == "open":
        flags = _text(call.args[1]) if len(call.args) > 1 else ""
        inside = isinstance(subject, ast.Constant) and subject.value in (".", "..")
        return not (
            inside or "O_NOFOLLOW" in flags or "O_EXCL" in flags or flags in ("_DIRECTORY", "_NEW_FILE", "flags")
        )
    return name == "chmod" or _text(words.get("follow_symlinks")) != "False"


@functools.cache  # the unit tests ask for the same modules again and again
def found(text: str) -> list[tuple[int, str]]:
    """(line, "os.call(subject)") of each call in a module's text that follows links."""
    calls: list[tuple[int, str]] = []
    tree = ast.parse(text)
    seen: set[int] = set()
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for node in [*reversed(functions), tree]:  # the inner ones first
        where = _Function(node)
        for call in ast.walk(node):
            if isinstance(call, ast.Call) and id(call) not in seen:
                seen.add(id(call))
                if _follows(call, where):
                    calls.append((call.lineno, f"{_callee(call)}({_text(call.args[0]) if call.args else ''})"))
    return calls


def modules() -> Iterator[tuple[str, str]]:
    """(name, text) of what is looked at."""
    for part in SCOPE:
        top = SOURCE / part
        for path in sorted(top.rglob("*.py")) if top.is_dir() else [top]:
            yield str(path.relative_to(SOURCE)), path.read_text(encoding="utf-8")


def complaints() -> list[str]:
    """Calls without a reason, and reasons without a call."""
    allowed = tomllib.loads(ALLOWED.read_text(encoding="utf-8"))
    ours: dict[str, str] = allowed["modules"]
    calls: dict[str, dict[str, str]] = allowed["calls"]
    said: list[str] = []
    used: Counter[tuple[str, str]] = Counter()
    names = set()
    for module, text in modules():
        names.add(module)
        if module in ours:
            continue
        for line, call in found(text):
            used[module, call] += 1
            if call not in calls.get(module, {}):
                said.append(
                    f"src/sampan/{module}:{line}: {call} follows links: hold it by linux/nodes or openat2, or say why not"
                )
    for module, rows in calls.items():
        said += [f"{ALLOWED.name}: {module} has no {call}" for call in rows if not used[module, call]]
    said += [f"{ALLOWED.name}: there is no {module}" for module in ours if module not in names]
    said += [f"{ALLOWED.name}: {module} has no reason" for module, reason in ours.items() if len(reason) < 20]
    said += [f"{ALLOWED.name}: {module}: {call} has no reason" for module, rows in calls.items()
             for call, reason in rows.items() if len(reason) < 20]  # fmt: skip
    return said


if __name__ == "__main__":
    problems = complaints()
    print("\n".join(problems) or "no path call follows links on foreign trees")
    sys.exit(bool(problems))
