"""What the OCI command line remembers of a container: one directory each, under `--root`."""

from __future__ import annotations

import json
import os
import re
import socket
from dataclasses import asdict, dataclass, field

from sampan.linux import durable, filetree, pidfd
from sampan.linux.cgroup import Cgroup
from sampan.runtime.bundle import OCI_VERSION
from sampan.runtime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.oci.runtime_spec import Spec, State

_ID = re.compile(r"[A-Za-z0-9_+.-]{1,1024}")


def default_root() -> str:
    """/run/sampan-runtime, or the user's own runtime directory."""
    if os.geteuid() == 0:
        return "/run/sampan-runtime"
    return f"{os.environ.get('XDG_RUNTIME_DIR') or f'/tmp/sampan-runtime-{os.geteuid()}'}/sampan-runtime"


@dataclass(slots=True)
class Record:
    """A container as the runtime knows it."""

    id: str
    bundle: str
    cgroup: str | None
    created: str
    spec: Spec
    pid: int = 0
    start_time: int = 0
    seccomp: str | None = None
    seccomp_flags: int = 0
    owner: str = ""
    annotations: dict[str, str] = field(default_factory=dict)


class StateDirectory:
    """The directory of one container. Its existence reserves the id."""

    def __init__(self, root: str, container_id: str) -> None:
        if not _ID.fullmatch(container_id) or container_id in (".", ".."):
            raise RuntimeFailure(f"invalid container id {container_id!r}: letters, digits and _+.- only")
        self.id = container_id
        self.path = os.path.join(root, container_id)

    def reserve(self) -> None:
        """Takes the id. Raises RuntimeFailure when it is in use."""
        os.makedirs(os.path.dirname(self.path), 0o700, exist_ok=True)
        try:
            os.mkdir(self.path, 0o711)
        except FileExistsError:
            raise RuntimeFailure(f"container {self.id} already exists") from None

    def save(self, record: Record) -> None:
        """Writes the record, whole or not at all."""
        durable.replace(f"{self.path}/state.json", json.dumps(asdict(record)))

    def load(self) -> Record:
        """The record. Raises RuntimeFailure when there is no such container."""
        try:
            with open(f"{self.path}/state.json", encoding="utf-8") as file:
                return Record(**json.load(file))
        except FileNotFoundError:
            raise RuntimeFailure(f"container {self.id} does not exist") from None
        except (ValueError, TypeError) as error:
            raise RuntimeFailure(f"{self.path}/state.json: {error}") from error

    def remove(self) -> None:
        """Gives the id back."""
        filetree.remove(self.path, ignore_errors=True)

    # The gate: a socket that a created container listens on and `start` connects to.

    def open_gate(self) -> socket.socket:
        """Binds and listens, by a relative name: a socket's path is limited to 107 bytes (unix(7))."""
        gate = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._at_directory(lambda: gate.bind("start"))
        os.chmod(f"{self.path}/start", 0o600)
        gate.listen(1)
        return gate

    def connect_gate(self) -> socket.socket:
        """The connection that lets a created container go on."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._at_directory(lambda: sock.connect("start"))
        os.unlink(f"{self.path}/start")
        return sock

    def _at_directory(self, call: Any) -> None:
        here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.chdir(self.path)
            call()
        finally:
            os.fchdir(here)
            os.close(here)

    def status(self, record: Record) -> str:
        """ "creating", "created", "running", "paused" or "stopped"."""
        if not record.pid:
            return "creating"
        if pidfd.start_time(record.pid) != record.start_time or pidfd.state(record.pid) in (None, "Z", "X"):
            return "stopped"
        if record.cgroup and Cgroup(record.cgroup).frozen():
            return "paused"
        return "created" if os.path.exists(f"{self.path}/start") else "running"

    def describe(self, record: Record, status: str | None = None) -> State:
        """The state as runtime.md of the specification gives it to callers and hooks."""
        status = status or self.status(record)
        described: State = {
            "ociVersion": OCI_VERSION,
            "id": record.id,
            "status": status,
            "pid": 0 if status == "stopped" else record.pid,
            "bundle": record.bundle,
        }
        if record.annotations:
            described["annotations"] = record.annotations
        return described


def containers(root: str) -> list[StateDirectory]:
    """All containers below `root`."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return []
    return [StateDirectory(root, name) for name in names if os.path.exists(f"{root}/{name}/state.json")]
