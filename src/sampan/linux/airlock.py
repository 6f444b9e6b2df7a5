"""The last system calls before a program, made by a process that has nothing left in its memory (T60).

A process that joins a pid namespace can be looked at by those in it before it has called execve: with CAP_SYS_PTRACE they
read its memory, take its descriptors and make it run what they like. So what is visible there must be worth nothing.
All that is to be done is put down as a list of calls on pages of their own, with a few instructions that make one
after the other; these calls begin by taking away every other page. Only then is there a clone in that namespace.

Where there are no such instructions for the machine, the calls are made from Python, by a copy of its memory.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import os
import struct

from sampan.linux import syscall as sc
from sampan.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, TypeAlias

    Item: TypeAlias = int | bytes
    Argument: TypeAlias = Item | "Buffer" | tuple["Buffer", int] | list[Item]

NEXT, FAILED, NOWHERE = "", "failed", "nowhere"
_ENTRY = struct.Struct("<11Q")
# mov rbx, rdi; loop: rax, rdi, rsi, rdx, r10, r8 and r9 from [rbx]; syscall; the result to where [rbx+56] points;
# rbx = [rbx+64] if it is negative, [rbx+72] if it is 0, else [rbx+80]; loop.
_X86_64 = bytes.fromhex(
    "4889fb 488b03 488b7b08 488b7310 488b5318 4c8b5320 4c8b4328 4c8b4b30 0f05 488b4b38 488901"
    "4885c0 7808 740c 488b5b50 ebcf 488b5b40 ebc9 488b5b48 ebc3"
)
_TASK_SIZE = 0x7FFFFFFFF000
_KEPT = ("[vvar", "[vdso", "[vsyscall", "[uprobes")  # the kernel's own, which a hardened one does not let go of
_ARCH_GET_FS, _RSEQ_UNREGISTER, _RSEQ_SIGNATURE, _RSEQ_SIZE = 0x1003, 1, 0x53053053, 32
_ROOM = 16 << 20  # of addresses: execve(2) takes 6 MiB of strings at most, and each has a pointer
_SPARE = 132 << 10  # of these for what is known late: execve(2) takes 128 KiB of one string
_MAP_NORESERVE = 0x4000
_ROUTINE = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)


@record
class Buffer:
    """Bytes that calls share, on the pages that stay."""

    content: bytes


_NOTHING = Buffer(bytes(8))  # results that nobody wants to know


class Call:
    """A system call. An argument may be bytes or a Buffer (its address; with an offset as a pair), or a list of such
    and numbers: the address of an array. By its result it goes on at one of three labels."""

    __slots__ = ("args", "failed", "label", "name", "number", "positive", "zero")

    def __init__(
        self, name: str, number: int, args: list[Argument], label: str = "", failed: str = FAILED, zero: str = NEXT, positive: str = NEXT
    ) -> None:  # fmt: skip
        self.name, self.number, self.args, self.label = name, number, args, label
        self.failed, self.zero, self.positive = failed, zero, positive


def possible() -> bool:
    """Whether there are instructions for this machine."""
    return sc.ARCH == "x86_64"


@functools.cache
def kernel_areas() -> tuple[tuple[int, int], ...]:
    """Where the kernel's own pages are in our memory; the same in every copy of it. To be asked where /proc is ours."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        rows = [line.split() for line in maps if any(name in line for name in _KEPT)]
    return tuple((int(row[0].split("-")[0], 16), int(row[0].split("-")[1], 16)) for row in rows)


@functools.cache
def _room() -> tuple[mmap.mmap, int]:
    """Addresses for the pages of every copy of this process: the same in all, and known beforehand. Nothing may be there
    until they are needed, so they take no memory, whoever makes all of it its own."""
    room = mmap.mmap(
        -1, _ROOM, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
    )
    base = ctypes.addressof(ctypes.c_char.from_buffer(room))
    _protect(base, _ROOM, 0)
    return room, base


def _protect(at: int, length: int, rights: int) -> None:
    size = ctypes.c_size_t(length + -length % mmap.PAGESIZE)
    sc.check(sc.libc.mprotect(ctypes.c_void_p(at), size, ctypes.c_int(rights)), "mprotect")


class _Data:
    """What calls point to, from the address `at` on."""

    def __init__(self, at: int) -> None:
        self.end = at
        self.parts: list[bytes] = []
        self._places: dict[int, int] = {}  # of what is there once, by its id()

    def place(self, value: bytes | Buffer | tuple[Buffer, int] | list[Item]) -> int:
        """Where it is."""
        if isinstance(value, tuple):
            return self.place(value[0]) + value[1]
        at = self._places.get(id(value))
        if at is None:
            if isinstance(value, list):
                addresses = [item if isinstance(item, int) else self.place(item) for item in value]
                raw = struct.pack(f"<{len(value)}Q", *addresses)
            else:
                raw = value if isinstance(value, bytes) else value.content
            at = self._places[id(value)] = self.end
            self.parts.append(raw + bytes(-len(raw) % 8))
            self.end += len(raw) + -len(raw) % 8
        return at


def foresee() -> None:
    """Finds out what is the same in every copy of this process, for all those to come. To be called where /proc is ours."""
    if possible():
        kernel_areas()
        _leave_rseq()
        _room()


class Pages:
    """The pages that stay, made before all of what is on them is known: calls, what they point to, and room for more."""

    def __init__(self, calls: list[Call], report: Buffer) -> None:
        """`report` gets each call's result, eight bytes each, behind its first eight. Raises OSError (E2BIG)."""
        fixed, leave, (_, base) = kernel_areas(), _leave_rseq(), _room()
        unmapping = len(fixed) + 2  # so many gaps are around those areas and our pages, at most
        self._begin = base + len(_X86_64) + -len(_X86_64) % 8
        first = self._begin + (len(leave) + unmapping) * _ENTRY.size
        self._data = data = _Data(first + len(calls) * _ENTRY.size)
        results, nothing = data.place(report), data.place(_NOTHING)
        position = {call.label: first + index * _ENTRY.size for index, call in enumerate(calls) if call.label}
        position[NOWHERE] = 0
        entries, following = [], first
        for index, call in enumerate(calls, 1):
            position[NEXT] = following = following + _ENTRY.size
            args = [arg if isinstance(arg, int) else data.place(arg) for arg in call.args]
            args += (0,) * (6 - len(args))
            jumps = position[call.failed], position[call.zero], position[call.positive]
            entries.append(_ENTRY.pack(call.number, *args, results + 8 * index, *jumps))
        self._end = data.end + _SPARE + -(data.end + _SPARE) % mmap.PAGESIZE
        if self._end - base > _ROOM:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
        gaps = _gaps([*fixed, (base, self._end)])
        gaps += [gaps[-1]] * (unmapping - len(gaps))  # once more is no error
        ours, following, failed = [], self._begin, position[FAILED]
        for number, args in [*leave, *((sc.NR["munmap"], [at, length]) for at, length in gaps)]:
            following += _ENTRY.size
            ours.append(_ENTRY.pack(number, *args, *[0] * (6 - len(args)), nothing, failed, following, following))
        self._content = b"".join([_X86_64, bytes(-len(_X86_64) % 8), *ours, *entries, *data.parts])
        self._late: list[tuple[int, bytes]] = []  # and what comes where, in place of that or after it

    def fill(self, buffer: Buffer, content: bytes) -> None:
        """Gives a buffer of the calls another content, of the same length."""
        self._late.append((self._data.place(buffer), content))

    def point(self, array: list[Item], index: int, content: bytes) -> None:
        """Lets an array's item be where `content` is. Raises OSError (E2BIG) for more than execve(2) would take."""
        at = self._data.end
        self._data.end += len(content) + -len(content) % 8
        if self._data.end > self._end:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
        self._late += [(self._data.place(array) + 8 * index, struct.pack("<Q", at)), (at, content)]

    def enter(self) -> NoReturn:
        """Makes the calls from a memory in which there is nothing else. Raises OSError before that is begun."""
        room, base = _room()
        _protect(base, self._end - base, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        for at, content in [(base, self._content), *self._late]:
            room[at - base : at - base + len(content)] = content
        _ROUTINE(base)(self._begin)
        raise AssertionError("unreachable")


class Plain:
    """The same where there are no instructions for the machine: the calls are made one by one from here."""

    def __init__(self, calls: list[Call], report: Buffer) -> None:
        self._calls, self._report = calls, report

    def fill(self, buffer: Buffer, content: bytes) -> None:
        buffer.content = content

    def point(self, array: list[Item], index: int, content: bytes) -> None:
        array[index] = content

    def enter(self) -> NoReturn:
        _go_in_python(self._calls, self._report)


def lay_out(calls: list[Call], report: Buffer) -> Pages | Plain:
    """Pages for these calls, to be entered by this process or by a copy of it. Raises OSError (E2BIG)."""
    return Pages(calls, report) if possible() else Plain(calls, report)


def _gaps(kept: list[tuple[int, int]]) -> list[tuple[int, int]]:
    found, at = [], 0
    for begin, end in sorted(area for area in kept if area[0] < _TASK_SIZE):
        if begin > at:
            found.append((at, begin - at))
        at = max(at, end)
    return [*found, (at, _TASK_SIZE - at)]


@functools.cache
def _leave_rseq() -> list[tuple[int, list[int]]]:
    """The kernel writes into glibc's rseq area at any time, and kills who has none where it should be (rseq(2)).

    The call that leaves it, or none; the area is at the same address in every copy of this thread.
    """
    try:
        size = ctypes.c_uint.in_dll(sc.libc, "__rseq_size").value
        offset = ctypes.c_ssize_t.in_dll(sc.libc, "__rseq_offset").value
    except ValueError:
        return []  # another libc
    if not size:
        return []
    pointer = ctypes.c_ulong()
    sc.check(
        sc.libc.syscall(ctypes.c_long(sc.NR["arch_prctl"]), ctypes.c_long(_ARCH_GET_FS), ctypes.byref(pointer)),
        "arch_prctl",
    )
    area = pointer.value + offset
    return [(sc.NR["rseq"], [area, max(size, _RSEQ_SIZE), _RSEQ_UNREGISTER, _RSEQ_SIGNATURE])]


def _go_in_python(calls: list[Call], report: Buffer) -> NoReturn:
    results = (ctypes.c_long * (len(calls) + 1))()
    kept: list[ctypes.Array[ctypes.c_char]] = []
    buffers: dict[int, ctypes.Array[ctypes.c_char]] = {}

    def address(value: Argument) -> int:
        if isinstance(value, int):
            return value
        if isinstance(value, tuple):
            return address(value[0]) + value[1]
        if value is report:
            return ctypes.addressof(results)
        if isinstance(value, Buffer):
            made = buffers.setdefault(id(value), ctypes.create_string_buffer(value.content, len(value.content)))
            return ctypes.addressof(made)
        raw = value if isinstance(value, bytes) else b"".join(struct.pack("<Q", address(item)) for item in value)
        kept.append(ctypes.create_string_buffer(raw, len(raw)))
        return ctypes.addressof(kept[-1])

    made = [[ctypes.c_long(address(arg)) for arg in call.args] for call in calls]
    position = {call.label: index for index, call in enumerate(calls) if call.label}
    index = 0
    while True:
        result = sc.libc.syscall(ctypes.c_long(calls[index].number), *made[index])
        results[index + 1] = result if result >= 0 else -ctypes.get_errno()
        call = calls[index]
        following = call.failed if result < 0 else call.positive if result else call.zero
        if following == NOWHERE:
            os._exit(1)
        index = position[following] if following else index + 1
