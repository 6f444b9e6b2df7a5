"""RUN: the command, its environment and its mounts (bind, cache, tmpfs, secret, ssh)."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import os
import posixpath
import re
import stat
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from sampan import sizes
from sampan.build import configuring, files
from sampan.build.dockerfile import Instruction
from sampan.build.errors import BuildError
from sampan.build.file_tree import Tree
from sampan.build.model import DEFAULT_PATH, Options, State
from sampan.build.words import WordError
from sampan.linux import filetree, openat2
from sampan.linux import mount as lm
from sampan.oci.runtime_spec import Mount as Entry

PROXIES = frozenset(
    name for base in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY") for name in (base, base.lower())
)  # fmt: skip
_KEYS = {
    "bind": {"source", "from", "rw"},
    "cache": {"id", "ro", "sharing", "from", "source", "mode", "uid", "gid"},
    "tmpfs": {"size"},
    "secret": {"id", "required", "mode", "uid", "gid", "env"},
    "ssh": {"id", "required", "mode", "uid", "gid"},
}
_ALIASES = {
    "src": "source",
    "target": "target",
    "dst": "target",
    "destination": "target",
    "readonly": "ro",
    "readwrite": "rw",
}


@dataclass(slots=True)
class Mount:
    """One --mount, taken apart."""

    type: str
    target: str
    options: dict[str, str] = field(default_factory=dict)

    def on(self, name: str) -> bool:
        """A boolean option."""
        return name in self.options and self.options[name] in ("", "true", "1")

    def number(self, name: str, default: int, base: int = 10) -> int:
        """A numeric option. Raises BuildError."""
        text = self.options.get(name, "")
        try:
            found = int(text, base) if text else default
        except ValueError:
            found = -1
        if not 0 <= found < 1 << 31:
            raise BuildError(f"invalid value {text[:40]!r} for {name} of a {self.type} mount")
        return found

    def size(self) -> int:
        """The option `size` in bytes; 0 when it is not given. Raises BuildError."""
        text = self.options.get("size", "")
        try:
            return sizes.parse(text) if text else 0
        except ValueError:
            raise BuildError(f"invalid value {text[:40]!r} for size of a {self.type} mount") from None


def parse_mounts(instruction: Instruction, state: State, escape: str) -> list[Mount]:
    """The mounts of a RUN, with variables in their place. Raises DockerfileError."""
    found: list[Mount] = []
    for text in instruction.flags.get("mount", []):
        expanded = configuring.expand(instruction, text, state, escape)
        options: dict[str, str] = {}
        for item in next(csv.reader([expanded]), []):
            key, equals, value = item.partition("=")
            key = _ALIASES.get(key.strip().lower(), key.strip().lower())
            if not equals and key not in ("ro", "rw", "required"):
                raise instruction.error(f"invalid field {item!r} must be a key=value pair")
            options[key] = value if equals else "true"
        kind = options.pop("type", "bind")
        if kind not in _KEYS:
            raise instruction.error(f"unsupported mount type {kind!r}")
        unknown = set(options) - _KEYS[kind] - {"target", "ro", "rw"}
        if unknown:
            raise instruction.error(f"unexpected key {sorted(unknown)[0]!r} of a {kind} mount")
        target = options.pop("target", "")
        if not target and kind == "secret":
            target = "" if options.get("env") else f"/run/secrets/{posixpath.basename(options.get('id', ''))}"
        elif not target and kind == "ssh":
            target = f"/run/buildkit/ssh_agent.{len(found)}"
        elif not target:
            raise instruction.error(f"target of a {kind} mount is missing")
        if kind == "cache" and options.get("sharing", "shared") not in ("shared", "private", "locked"):
            raise instruction.error(f"unsupported sharing value {options['sharing']!r}")
        found.append(Mount(kind, posixpath.join("/", state.workdir, target) if target else "", options))
    return found


def script(instruction: Instruction, state: State) -> tuple[list[str], bytes | None]:
    """(arguments, a script to put in place of the last) of a RUN. With heredocs the shell reads them. Raises DockerfileError."""
    if not instruction.heredocs:
        return configuring.command(instruction, state), None
    try:
        bodies = [files.content(doc, state) if doc.expand else doc.content for doc in instruction.heredocs]
    except WordError as error:
        raise instruction.error(str(error)) from None
    only = len(instruction.heredocs) == 1 and re.fullmatch(r"""<<-?["']?[^\s"'<]+["']?""", instruction.text)
    if only:
        body = instruction.heredocs[0].content
        if body.startswith("#!"):
            return [_SCRIPT], body.encode()
        return [*state.shell, body], None
    # Other words around it: the shell's own heredocs, with what it may expand itself.
    text = instruction.text
    for doc, body in zip(instruction.heredocs, bodies, strict=True):
        text += f"\n{doc.content}{doc.name}" if doc.expand else f"\n{body}{doc.name}"
    return [*state.shell, text], None


_SCRIPT = "/dev/pipes/script"


def environment(state: State, options: Options) -> list[str]:
    """PATH, then the ARGs in force, then the ENVs, which win; proxies come along without an ARG."""
    merged = {"PATH": DEFAULT_PATH}
    merged |= {name: value for name, value in options.build_args.items() if name in PROXIES}
    merged |= state.args
    merged |= state.env
    return [f"{name}={value}" for name, value in merged.items()]


@dataclass(slots=True)
class Mounted:
    """What the mounts of a step need while it runs: entries for the runtime, further variables, a digest for the cache."""

    entries: list[Entry] = field(default_factory=list)
    env: list[str] = field(default_factory=list)
    locks: list[str] = field(default_factory=list)


def check_security(instruction: Instruction, options: Options) -> tuple[str, bool]:
    """(network, insecure) of a RUN. What weakens isolation needs the client's permission (S026)."""
    network = instruction.flag("network") or options.network or "default"
    if network not in ("default", "none", "host") and "network" in instruction.flags:
        raise instruction.error(f"unsupported network mode {network!r}: default, none or host")
    if instruction.flag("network") == "host" and "network.host" not in options.entitlements:
        raise BuildError("granting entitlement network.host is not allowed: build with --allow network.host")
    security = instruction.flag("security", "sandbox")
    if security not in ("sandbox", "insecure"):
        raise instruction.error(f"security {security!r} is not valid")
    if security == "insecure" and "security.insecure" not in options.entitlements:
        raise BuildError("granting entitlement security.insecure is not allowed: build with --allow security.insecure")
    return network, security == "insecure"


Find = Callable[[str], Awaitable[Tree]]


async def digest(mounts: list[Mount], find: Find, context: Tree) -> str:
    """What of the mounts decides the result: the files of bind mounts, and how all are mounted. Secrets are not in it."""
    total = hashlib.sha256()
    for item in mounts:
        shown = {key: value for key, value in item.options.items() if item.type != "secret" or key in ("id", "env")}
        total.update(f"{item.type}\0{item.target}\0{sorted(shown.items())}\0".encode())
        if item.type == "bind":
            tree = await find(item.options["from"]) if item.options.get("from") else context
            path, info = tree.resolve(item.options.get("source", "/"))
            total.update(tree.digest(path, info, True, files._NONE))
    return total.hexdigest()


class MountMaker:
    """Makes the mounts of one step below a directory of its own, and takes them down after it.

    The host's side of each is opened by descriptor inside its tree: a link can't lead elsewhere (S026, S027).
    """

    def __init__(self, directory: str, caches: str, options: Options, find: Find, context: Tree) -> None:
        self._directory, self._caches, self._options = directory, caches, options
        self._find, self._context = find, context
        self._held: list[int] = []
        self._mounted: list[str] = []
        self._count = 0

    async def make(self, mounts: list[Mount]) -> Mounted:
        """All of them. Raises BuildError."""
        made = Mounted()
        for item in mounts:
            if item.type == "tmpfs":
                data = [f"size={size}"] if (size := item.size()) else []
                made.entries.append({"destination": item.target, "type": "tmpfs", "source": "tmpfs",
                                     "options": ["nosuid", "nodev", *data]})  # fmt: skip
            elif item.type == "secret":
                self._secret(item, made)
            elif item.type == "ssh":
                self._ssh(item, made)
            elif item.type == "cache":
                await self._cache(item, made)
            else:
                await self._bind(item, made)
        return made

    def script(self, data: bytes, made: Mounted) -> None:
        """A heredoc that names its own interpreter, as a file to run."""
        path = self._file(data, 0o755, 0, 0)
        made.entries.append(_bound(path, _SCRIPT, "ro"))

    def _file(self, data: bytes, mode: int, uid: int, gid: int) -> str:
        self._count += 1
        path = f"{self._directory}/{self._count}"
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(data)
            os.fchown(file.fileno(), uid, gid)
            os.fchmod(file.fileno(), mode)
        return path

    def _secret(self, item: Mount, made: Mounted) -> None:
        name = item.options.get("id") or posixpath.basename(item.target)
        data = self._options.secrets.get(name)
        if data is None:
            if item.on("required"):
                raise BuildError(f"secret {name}: not found")
            return
        if item.options.get("env"):
            made.env.append(f"{item.options['env']}={data.decode('utf-8', 'surrogateescape')}")
        if item.target:
            path = self._file(data, item.number("mode", 0o400, 8), item.number("uid", 0), item.number("gid", 0))
            made.entries.append(_bound(path, item.target, "ro"))

    def _ssh(self, item: Mount, made: Mounted) -> None:
        name = item.options.get("id", "default")
        socket = self._options.ssh.get(name)
        if socket is None:
            if item.on("required"):
                raise BuildError(f"unset ssh forward key {name}: build with --ssh {name}")
            return
        made.entries.append(_bound(socket, item.target, "rw"))
        made.env.append(f"SSH_AUTH_SOCK={item.target}")

    async def _cache(self, item: Mount, made: Mounted) -> None:
        name = item.options.get("id") or item.target
        # Hashed: an id is no path (S027).
        top = f"{self._caches}/{hashlib.sha256(name.encode()).hexdigest()[:32]}"
        uid, gid, mode = item.number("uid", 0), item.number("gid", 0), item.number("mode", 0o755, 8)
        new = not os.path.isdir(top)
        if new:
            os.makedirs(f"{top}/data", 0o700)
        data = os.open(f"{top}/data", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._held.append(data)
        if new:
            os.fchown(data, uid, gid)
            os.fchmod(data, mode)
            if item.options.get("from"):
                await self._fill(item, data)
            with open(f"{top}/name", "w", encoding="utf-8") as file:
                file.write(name)
        if item.options.get("sharing") in ("locked", "private"):
            made.locks.append(name)
        if item.options.get("source") and not item.options.get("from"):
            data = openat2.mkdir_in_root(data, item.options["source"])
            self._held.append(data)
        made.entries.append(_bound(f"{top}/data", item.target, "ro" if item.on("ro") else "rw", data))

    async def _fill(self, item: Mount, target: int) -> None:
        from sampan.build import copying

        tree = await self._find(item.options["from"])
        path, info = tree.resolve(item.options.get("source", "/"))
        copying.copy(tree, path, info, target, "/", copying.Manner(owner=None))

    async def _bind(self, item: Mount, made: Mounted) -> None:
        tree = await self._find(item.options["from"]) if item.options.get("from") else self._context
        path, _ = tree.resolve(item.options.get("source", "/"))
        # The keeper clones the mount, which kernels before 6.15 do only of one that is attached somewhere.
        rootfd = self._attach(lm.overlay(tree.layers, None, None)) if tree.layers else tree.rootfd
        fd = openat2.open_in_root(rootfd, path or ".")
        self._held.append(fd)
        if item.on("rw") and stat.S_ISDIR(os.fstat(fd).st_mode):
            fd = self._scratch(fd)
        made.entries.append(_bound(f"/{path}", item.target, "rw" if item.on("rw") else "ro", fd))

    def _scratch(self, source: int) -> int:
        """A writable view of a directory; what is written is gone with the step."""
        self._count += 1
        top = f"{self._directory}/{self._count}"
        for name in ("u", "w"):
            os.makedirs(f"{top}/{name}")
        return self._attach(lm.overlay([f"/proc/self/fd/{source}"], f"{top}/u", f"{top}/w"))

    def _attach(self, tree: int) -> int:
        self._count += 1
        path = f"{self._directory}/{self._count}"
        os.mkdir(path)
        self._held.append(tree)
        lm.move_mount(tree, lm.AT_FDCWD, path, subject=path)
        self._mounted.append(path)
        return tree

    def close(self) -> None:
        """Takes everything down."""
        for fd in self._held:
            os.close(fd)
        for path in self._mounted:
            lm.umount(path, lm.MNT_DETACH)
        filetree.remove(self._directory, ignore_errors=True)


def _bound(source: str, target: str, access: str, fd: int = -1) -> Entry:
    """An entry of the specification's mounts; `fd`: the source, where it was looked at (as engine/mounts has it)."""
    entry: Entry = {"destination": target, "type": "bind", "source": source, "options": ["rbind", "rprivate", access]}
    if fd >= 0:
        entry["source_fd"] = fd
    return entry


def targets(top: str, mounts: list[Entry]) -> str:
    """A bottom layer with the targets of a step's mounts, so that they don't appear in what the step leaves."""
    os.makedirs(top, 0o755)
    for entry in mounts:
        path = f"{top}/{os.path.normpath(entry['destination']).lstrip('/')}"
        held = entry.get("source_fd", -1)
        if entry["type"] == "tmpfs" or (
            stat.S_ISDIR(os.fstat(held).st_mode) if held >= 0 else os.path.isdir(entry["source"])
        ):
            os.makedirs(path, 0o755, exist_ok=True)
            if entry["type"] == "tmpfs":
                os.chmod(path, 0o1777)  # what it shows, unless the image has a directory of its own there
        else:
            os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
            open(path, "ab").close()
    return top


@contextlib.contextmanager
def directory(path: str) -> Iterator[str]:
    """A private directory for as long as this lasts."""
    os.makedirs(path, 0o700)
    try:
        yield path
    finally:
        filetree.remove(path, ignore_errors=True)
