"""The protocol between sampand and its keeper: requests, answers and the one event, as typed records with named descriptors.

Nobody is trusted: what comes is parsed with checks of types and bounds, and refused by name. The bytes are `wire`'s, the
members that every message has and the versions `envelope`'s; docs/protocol.md tells all of it.
"""

from __future__ import annotations

from sampan.keeper import fields
from sampan.keeper.fields import Malformed
from sampan.record import field, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol, TypeVar

    from sampan.keeper.fields import Message
    from sampan.runtime.requests import Join, Launch, Overlay

    # The annotation of a field is the name of its check.
    Id = str
    Path = str
    Pid = int
    Ticks = int
    Status = int
    Nanoseconds = int
    Cells = int
    Bytes = int
    Count = int
    Streams = list[int]
    A_co = TypeVar("A_co", covariant=True)

    class Request(Protocol[A_co]):
        """What every request has: its name, and how its answer is read."""

        op: str

        def answer(self, message: Message, descriptors: Descriptors) -> A_co: ...


Descriptors = dict[str, int]  # name → descriptor
STDIO = ("stdin", "stdout", "stderr")
_STREAMS = {1: "stdout", 2: "stderr"}  # an output's number in logs, and its descriptor's name


@record
class LogOptions:
    """How a container's output is kept: bytes of a file (0: no limit), number of files."""

    max_size: Bytes = 0
    max_files: Count = 1


@record
class Handover:
    """A process as one keeper describes it to the next: with its descriptors it can be looked after by either.

    `start_time` is in clock ticks since boot (proc_pid_stat(5)); `directory` is empty for an exec, which has no log.
    """

    id: Id
    pid: Pid
    start_time: Ticks
    directory: Path
    tty: bool
    log: LogOptions
    streams: Streams
    has_stdin: bool

    def message(self) -> Message:
        """Its members in a message."""
        return {**vars(self), "log": vars(self.log)}

    def names(self) -> list[str]:
        """Its descriptors: "process" (a pidfd) and "terminal", or "stdout" and "stderr" as `streams` says, and "stdin"."""
        if self.tty:
            return ["process", *(["terminal"] if self.streams or self.has_stdin else [])]
        return ["process", *(_STREAMS[stream] for stream in self.streams), *(["stdin"] if self.has_stdin else [])]


@record
class End:
    """A process has ended. `status` is one of wait(2), `time` in nanoseconds since 1970."""

    id: Id
    status: Status
    time: Nanoseconds
    start_time: Ticks

    @property
    def key(self) -> str:
        """What names an end: a container has many."""
        return f"{self.id}:{self.start_time}"


# Answers


@record
class Done:
    """It has been done; there is nothing to say about it."""


@record
class Pong:
    """The keeper is there: its pid, the newest version of messages that it reads, and the oldest."""

    pid: Pid
    version: Count = 1
    oldest: Count = 1


@record
class Started:
    """A process that runs, with copies of its descriptors that are the receiver's; `warnings` of what was not done as asked."""

    task: Handover
    descriptors: Descriptors
    warnings: list[str] = field(default_factory=list)


@record
class Tasks:
    """All that runs: containers, and execs; and the ends that nobody has acknowledged."""

    tasks: list[Handover]
    others: list[Handover]
    ended: list[End]


# Requests: `op` names one in a message, `answer` reads what comes back.


class _AnsweredByDone:
    def answer(self, message: Message, descriptors: Descriptors) -> Done:
        return Done()


class _AnsweredByStarted:
    def answer(self, message: Message, descriptors: Descriptors) -> Started:
        task = read_task(message)
        warnings = fields.texts(message, "warnings", 1 << 16) if "warnings" in message else []
        return Started(task, checked_descriptors(task, descriptors), warnings)


@record
class Ping:
    """Asks whether the keeper is there, and what it reads."""

    op = "ping"

    def answer(self, message: Message, descriptors: Descriptors) -> Pong:
        return fields.read(Pong, message, _CHECKS)


@record
class Prepare(_AnsweredByDone):
    """Has a process ready for the next container: one like `request`, or like the last when that is None.

    With a `sandbox`, the name of a network namespace, it is in that one: the descriptor "network".
    """

    op = "prepare"
    sandbox: Id
    request: Launch | None = None
    descriptors: Descriptors = field(default_factory=dict)


@record
class MountRoot(_AnsweredByDone):
    """Mounts a container's root ahead of its start."""

    op = "mount"
    id: Id
    overlay: Overlay


@record
class UnmountRoot(_AnsweredByDone):
    """Lets go of a root that was mounted ahead: somebody else is to write into it."""

    op = "unmount"
    id: Id


@record
class Stop(_AnsweredByDone):
    """Ends the keeper, if it has nothing to keep."""

    op = "stop"


@record
class List:
    """Asks what runs, and what has ended."""

    op = "list"

    def answer(self, message: Message, descriptors: Descriptors) -> Tasks:
        tasks, others = ([read_task(task) for task in fields.mappings(message, key)] for key in ("tasks", "others"))
        return Tasks(tasks, others, [read_end(found) for found in fields.mappings(message, "ended")])


@record
class Acknowledge(_AnsweredByDone):
    """Ends (by their keys) that somebody has recorded, so that the keeper can forget them."""

    op = "acknowledge"
    keys: list[str]


@record
class Abandon(_AnsweredByDone):
    """Ends what is being set up and nobody waits for any more."""

    op = "abandon"
    id: Id


@record
class Hold(_AnsweredByStarted):
    """Asks for copies of a process's descriptors."""

    op = "hold"
    id: Id


@record
class Adopt(_AnsweredByDone):
    """Gives a keeper a process whose own keeper died with its standby, and the descriptors that sampand kept of it."""

    op = "adopt"
    task: Handover
    descriptors: Descriptors


@record
class Start(_AnsweredByStarted):
    """Starts a container. `stdin`: its standard input is a pipe that stays open, and not /dev/null.

    Descriptors: "network", a namespace that `request` calls "@network"; "sources", the table that its mounts count in;
    "root", the container's root; with request["entry"] whatever that takes.
    """

    op = "start"
    id: Id
    request: Launch
    directory: Path
    stdin: bool
    log: LogOptions
    descriptors: Descriptors = field(default_factory=dict)


@record
class Exec(_AnsweredByStarted):
    """Starts a further process: in a container or, with request["entry"], one of our program.

    Descriptors: those of STDIO, unless it is to have a terminal; with request["entry"] whatever that takes.
    """

    op = "exec"
    id: Id
    request: Join
    descriptors: Descriptors = field(default_factory=dict)


@record
class GetStdin:
    """Asks for a copy of the standard input of a process, or of its terminal."""

    op = "stdin"
    id: Id

    def answer(self, message: Message, descriptors: Descriptors) -> int:
        for fd in descriptors.values():
            return fd
        raise Malformed("no descriptor came along")


@record
class CloseStdin(_AnsweredByDone):
    """Closes the standard input of a process."""

    op = "close_stdin"
    id: Id


@record
class Resize(_AnsweredByDone):
    """Sets the size of a process's terminal, in characters."""

    op = "resize"
    id: Id
    rows: Cells
    columns: Cells


_REQUESTS = {
    cls.op: cls
    for cls in (Ping, Prepare, MountRoot, UnmountRoot, Stop, List, Acknowledge, Abandon, Hold, Adopt, Start, Exec,
                GetStdin, CloseStdin, Resize)
}  # fmt: skip


def read_request(message: Message, descriptors: Descriptors) -> Request[object]:
    """The request of a message; all of `descriptors` are in it if it has any. Raises Malformed."""
    cls = _REQUESTS.get(str(message.get("op")))
    if cls is None:
        raise Malformed(f"no keeper operation: {str(message.get('op'))[:80]}")
    given: Message = {"descriptors": descriptors} if "descriptors" in cls.__annotations__ else {}
    if cls is Adopt:
        given["task"] = task = read_task(message)
        checked_descriptors(task, descriptors)
    return fields.read(cls, message, _CHECKS, **given)


def read_task(message: Message) -> Handover:
    """A process from the members of a message. Raises Malformed."""
    return fields.read(Handover, message, _CHECKS)


def read_end(message: Message) -> End:
    """An end from the members of a message. Raises Malformed."""
    return fields.read(End, message, _CHECKS)


def checked_descriptors(task: Handover, descriptors: Descriptors) -> Descriptors:
    """Those of a process. Raises Malformed when they are not the ones that it says."""
    if list(descriptors) != task.names():
        raise Malformed(f"the descriptors of {task.id} are {', '.join(descriptors)}, not {', '.join(task.names())}")
    return descriptors


def _launch(message: Message, key: str) -> Message:
    request = fields.mapping(message, key)
    spec = _spec(request)
    fields.mapping(spec, "process")
    return request


def _join(message: Message, key: str) -> Message:
    request = fields.mapping(message, key)
    fields.mapping(request, "process")
    if "entry" in request:
        _spec(request)
    else:
        fields.number(request, "pid", _MAX_PID, 1)
    return request


def _spec(request: Message) -> Message:
    spec = fields.mapping(request, "spec")
    for entry in fields.mappings(fields.mapping(spec, "linux"), "namespaces"):
        fields.text(entry, "type", 16)
        if "path" in entry:
            fields.text(entry, "path")
    return spec


def _overlay(message: Message, key: str) -> Message:
    overlay = fields.mapping(message, key)
    fields.texts(overlay, "lower")
    return overlay


def _streams(message: Message, key: str) -> list[int]:
    found = fields.numbers(message, key, max(_STREAMS))
    if found not in ([], [1], [1, 2], [2], [2, 1]):
        raise Malformed(f"{key} {found[:4]} are no streams")
    return found


_MAX_PID = 1 << 22  # PID_MAX_LIMIT, linux/threads.h
_CHECKS: dict[str, fields.Check] = {
    "Id": lambda message, key: fields.text(message, key, 128),
    "Path": fields.text,
    "bool": fields.flag,
    "list[str]": fields.texts,
    "Pid": lambda message, key: fields.number(message, key, _MAX_PID),
    "Ticks": lambda message, key: fields.number(message, key, 1 << 62),
    "Nanoseconds": lambda message, key: fields.number(message, key, 1 << 63),
    "Bytes": lambda message, key: fields.number(message, key, 1 << 63),
    "Count": lambda message, key: fields.number(message, key, 1 << 31),
    "Status": lambda message, key: fields.number(message, key, 0xFFFF),
    "Cells": lambda message, key: fields.number(message, key, 0xFFFF),  # struct winsize
    "Streams": _streams,
    "LogOptions": lambda message, key: fields.read(LogOptions, fields.mapping(message, key), _CHECKS),
    "Launch": _launch,
    "Launch | None": lambda message, key: None if message[key] is None else _launch(message, key),
    "Join": _join,
    "Overlay": _overlay,
}
