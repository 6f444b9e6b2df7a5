"""What a virtual machine is asked, as typed records: by the engine over its process's socket, and by that of its guest.

The agent of a guest can be as old as its disk or its template, and a machine's process as old as its start, so what has once
been written here is read for ever: members are added, with defaults, and never change their meaning. Who does not know a
request answers with an error that says so. An agent tells its VERSION when it is "ready" (docs/protocol.md has the table).
"""

from __future__ import annotations

from sampan.keeper import fields
from sampan.keeper.fields import Malformed
from sampan.record import record
from sampan.vm.request_fields import CHECKS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from sampan.keeper.fields import Message
    from sampan.linux.spec_types import Resources
    from sampan.oci.runtime_spec import Process, Spec
    from sampan.runtime.requests import Launch
    from sampan.vm.machine_types import Belongings, Interface

    # The annotation of a field is the name of its check.
    Id = str
    Path = str
    Text = str
    Hex = str
    Base64 = str
    Seconds = float
    Bytes = int
    Cells = int
    Slot = int
    Stream = int
    Count = int
    SignalNumber = int
    Arguments = dict[str, str | int | bool | None]

    class Request(Protocol):
        """What every request has: its name."""

        op: str


VERSION = 1
STREAMS = 3  # that an exec or a job has, from `base` on


# Of a guest.


@record
class Expect:
    """Before the guest is anybody's: a container like the one of `request` half made, its disk mounted."""

    op = "expect"
    request: Launch


@record
class Clock:
    """Sets the clock to `time`, seconds since 1970, and mixes in what only the host knows."""

    op = "clock"
    time: Seconds
    entropy: Hex


@record
class Open:
    """For work on the files of a container that does not run; `cwd` is made in them."""

    op = "open"
    time: Seconds
    entropy: Hex
    guest: Belongings
    cwd: Path


@record
class Close:
    """After that work."""

    op = "close"


@record
class Start:
    """Makes the guest somebody's and starts its container, with the streams from `base` on."""

    op = "start"
    id: Id
    base: Stream
    time: Seconds
    entropy: Hex
    guest: Belongings
    spec: Spec
    cgroup: Path
    seccomp: Base64 | None


@record
class Exec:
    """A further process in the container. Over a machine's socket with the descriptors "stdin", "stdout" and "stderr", the last
    not with a terminal; the machine's process then gives it an id and streams."""

    op = "exec"
    process: Process
    seccomp: Base64 | None
    id: Id = ""
    base: Stream = 0


@record
class Job:
    """Work on the container's files (vm/jobs), which reads "stdin" and writes "stdout"; otherwise as Exec."""

    op = "job"
    name: Id
    args: Arguments
    id: Id = ""
    base: Stream = 0


@record
class Signal:
    """Sends a signal to a process that was asked for."""

    op = "signal"
    id: Id
    number: SignalNumber


@record
class EndProcess:
    """Kills a process and what it has started, nothing else of the container."""

    op = "end"
    id: Id


@record
class Resize:
    """Sets the size of a process's terminal, in characters."""

    op = "resize"
    id: Id
    rows: Cells
    columns: Cells


@record
class Usage:
    """What the container uses, as `docker stats` has it (runtime/usage)."""

    op = "usage"


@record
class Processes:
    """The container's processes, a row each."""

    op = "processes"


@record
class Limits:
    """Changes the limits of the running container; gives warnings."""

    op = "limits"
    resources: Resources


@record
class Freeze:
    """Stops the container, or lets it go on; the guest itself runs, so that its files can be reached."""

    op = "freeze"
    frozen: bool


@record
class Files:
    """Small files that are bound into the container, by name."""

    op = "files"
    files: dict[str, str]


@record
class Named:
    """The name and the name servers of a system machine, unless it has servers already."""

    op = "named"
    hostname: Id
    servers: list[str]


@record
class Shutdown:
    """Asks the first process to end the machine, in the way that it understands."""

    op = "shutdown"


@record
class Connect:
    """Brings a network interface into use. `names`: there is a name server now."""

    op = "connect"
    interface: Interface
    names: bool = False


@record
class Disconnect:
    """Takes an interface out of use: its slot is free again, and `way_out` is the default route's interface now."""

    op = "disconnect"
    name: Id
    slot: Slot
    way_out: Id
    gateways: list[str]


@record
class Resolved:
    """The answer to a question for the name server that the guest has asked."""

    op = "dns"
    number: Count
    data: Base64


@record
class Alive:
    """Whether anybody answers."""

    op = "alive"


# Of the process of a machine, which answers them itself.


@record
class GetShape:
    """The machine's size (hypervisor.Shape)."""

    op = "shape"


@record
class TakeTap:
    """The tap of this slot is going to the host's network, and must not stay with the machine."""

    op = "take"
    slot: Slot


@record
class Balloon:
    """How much of the machine's memory the guest may have."""

    op = "balloon"
    bytes: Bytes


@record
class Pause:
    """Stops the whole machine."""

    op = "pause"


@record
class Resume:
    """Lets it go on."""

    op = "resume"


@record
class Reset:
    """Its reset button."""

    op = "reset"


@record
class SaveSnapshot:
    """Saves the machine, with its memory, in its disk."""

    op = "savevm"
    name: Id


@record
class LoadSnapshot:
    """Goes back to such a state."""

    op = "loadvm"
    name: Id


@record
class DeleteSnapshot:
    """Deletes one."""

    op = "delvm"
    name: Id


@record
class IsReady:
    """Whether the guest has an agent of ours that answers."""

    op = "ready"


_OF_GUESTS = (Expect, Clock, Open, Close, Start, Exec, Job, Signal, EndProcess, Resize, Usage, Processes, Limits, Freeze, Files,
              Named, Shutdown, Connect, Disconnect, Resolved, Alive)  # fmt: skip
_OF_MACHINES = (GetShape, TakeTap, Balloon, Pause, Resume, Reset, SaveSnapshot, LoadSnapshot, DeleteSnapshot, IsReady)
_REQUESTS: dict[str, type[Request]] = {cls.op: cls for cls in (*_OF_GUESTS, *_OF_MACHINES)}


def to_message(request: Request) -> Message:
    """A request as a message, without its "seq"."""
    return {"op": request.op, **vars(request)}


def read(message: Message) -> Request:
    """The request of a message. Raises Malformed."""
    cls = _REQUESTS.get(str(message.get("op")))
    if cls is None:
        raise Malformed(f"no request to a virtual machine: {str(message.get('op'))[:80]}")
    found: Request = fields.read(cls, message, CHECKS)
    return found
