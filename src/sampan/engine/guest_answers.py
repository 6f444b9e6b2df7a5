"""What a virtual machine answers, as the types that the rest of the engine rests on: nothing of it is believed beyond that.

The process that passes a guest's answers on has read them with no rights (ADR 26), and may have been taken over by the guest.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Generic, TypeVar, cast

import msgspec

from sampan.engine.errors import EngineError
from sampan.images.root_fs import Stat
from sampan.runtime.usage_types import Usage
from sampan.vm.protocol import one_line, printable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

T = TypeVar("T")
_MOST = (1 << 64) - 1
_LONGEST_TIME = 1 << 62  # nanoseconds; the year 2116
_MAX_ROWS, _MAX_TEXT = 2000, 4096
_MAX_REPORT = 64 << 10
_MAX_CHANGES = 300_000

_Name = Annotated[str, msgspec.Meta(max_length=15, pattern=r"^[A-Za-z0-9_.@-]+$")]
_Key = Annotated[str, msgspec.Meta(max_length=64, pattern=r"^[A-Za-z0-9_.]+$")]
_Counters = Annotated[dict[_Key, int], msgspec.Meta(max_length=256)]
_Text = Annotated[str, msgspec.Meta(max_length=_MAX_TEXT)]
_Number = Annotated[str, msgspec.Meta(max_length=10, pattern=r"^[0-9]+$")]
_Cell = Annotated[str, msgspec.Meta(max_length=512)]


class _CpuUsage(msgspec.Struct):
    total_usage: int
    usage_in_usermode: int
    usage_in_kernelmode: int


class _Cpu(msgspec.Struct):
    cpu_usage: _CpuUsage
    system_cpu_usage: int
    online_cpus: int
    throttling_data: _Counters


class _Memory(msgspec.Struct, omit_defaults=True):
    usage: int = 0
    limit: int = 0
    max_usage: int = 0
    stats: _Counters = msgspec.field(default_factory=dict)


class _Pids(msgspec.Struct):
    current: int
    limit: int


class _Interface(msgspec.Struct):
    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int


class _Usage(msgspec.Struct):
    cpu_stats: _Cpu
    memory_stats: _Memory
    pids_stats: _Pids
    networks: Annotated[dict[_Name, _Interface], msgspec.Meta(max_length=64)]


class _Shape(msgspec.Struct):
    memory: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]


class _Stat(msgspec.Struct):
    size: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
    mode: Annotated[int, msgspec.Meta(ge=0, le=0o177777)]
    mtime: Annotated[int, msgspec.Meta(ge=-_LONGEST_TIME, le=_LONGEST_TIME)]
    link: _Text


class _Failure(msgspec.Struct):
    """Why a job has not been done."""

    error: _Text
    kind: str
    errno: Annotated[int, msgspec.Meta(ge=0, le=4095)] = 0


class _Report(msgspec.Struct):
    oom: bool = False
    error: _Text = ""


_Process = tuple[_Number, _Number, _Number, _Cell, _Cell, _Cell, _Cell, _Cell]


class Answer(Generic[T]):
    """What a request is answered with: `T`, which is as msgspec has found `form`."""

    def __init__(self, operation: str, form: object) -> None:
        self._operation, self._form = operation, form

    def of(self, name: str, value: object) -> T:
        """The answer of the machine of the container `name`. Raises EngineError."""
        try:
            found = msgspec.convert(value, self._form, strict=True)
        except (msgspec.ValidationError, RecursionError) as error:
            raise EngineError(
                f"the virtual machine of {name} answers {self._operation} with what is none: {error}"
            ) from None
        return cast(T, _tame(msgspec.to_builtins(found)))


USAGE: Answer[Usage] = Answer("usage", _Usage)
PROCESSES: Answer[list[list[str]]] = Answer("processes", Annotated[list[_Process], msgspec.Meta(max_length=_MAX_ROWS)])
WARNINGS: Answer[list[str]] = Answer("limits", Annotated[list[_Text], msgspec.Meta(max_length=64)])
SHAPE: Answer[dict[str, int]] = Answer("shape", _Shape)
READY: Answer[bool] = Answer("ready", bool)
STAT: Answer[Stat] = Answer("stat", _Stat)


def failure(name: str, value: Mapping[str, object]) -> _Failure:
    """What a job says that could not be done. Raises EngineError."""
    try:
        found = msgspec.convert(value, _Failure, strict=True)
    except (msgspec.ValidationError, RecursionError) as error:
        raise EngineError(f"the virtual machine of {name} fails with what is no failure: {error}") from None
    found.error = one_line(found.error)
    return found


def report(name: str, data: bytes) -> tuple[bool, str]:
    """(Whether a container was killed for its memory, why its machine was ended or ""), of what its machine has left."""
    try:
        found = msgspec.json.decode(data[:_MAX_REPORT], type=_Report, strict=True)
    except (msgspec.MsgspecError, RecursionError):
        return False, ""  # it has ended without a word
    return found.oom, f"virtual machine {name}: {one_line(found.error)}" if found.error else ""


class Changes(io.BytesIO):
    """What a container has changed, as its guest writes it: rows of a digit and a path, each ended by a NUL."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name, self._count = name, 0

    def write(self, data: ReadableBuffer) -> int:
        """Raises EngineError when it becomes more than anybody could read."""
        self._count += bytes(data).count(b"\0")
        if self._count > _MAX_CHANGES or self.tell() + memoryview(data).nbytes > _MAX_CHANGES * 128:
            raise EngineError(
                f"container {self._name} has changed more than can be told: {_MAX_CHANGES} files is the most"
            )
        return super().write(data)

    def rows(self) -> list[tuple[str, int]]:
        """(path, kind) of each. Raises EngineError."""
        return [self._row(row) for row in self.getvalue().split(b"\0") if row]

    def _row(self, row: bytes) -> tuple[str, int]:
        kind, path = row[:1], row[1:].decode(errors="surrogateescape")
        if kind not in (b"0", b"1", b"2") or not path.startswith("/"):
            raise EngineError(
                f"the virtual machine of {self._name} tells of a change that is none: {printable(path)[:80]!r}"
            )
        return path, int(kind)


def _tame(value: object) -> object:
    """Numbers as a 64-bit counter has them, and texts without commands to terminals."""
    if isinstance(value, dict):
        return {key: _tame(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_tame(each) for each in value]
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return min(max(value, -_MOST), _MOST)
    return value
