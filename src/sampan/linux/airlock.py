"""The last system calls before a program, made by a process that has nothing left in its memory (T60).

A process that joins a pid namespace can be looked at by those in it before it has called execve: with CAP_SYS_PTRACE they
read its memory, take its descriptors and make it run what they like. So what is visible there must be worth nothing.
All that is to be done is put down as a list of calls on pages of their own, with a few instructions that make one
after the other; these calls begin by taking away every other page. Only then is there a clone in that namespace.

Where there are no such instructions for the machine, the calls are made from Python, by a copy of its memory.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import struct

from sampan.linux import syscall as sc
from sampan.record import field, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

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


@record
class Buffer:
    """Bytes that calls share, on the pages that stay."""

    content: bytes


@record
class Call:
    """A system call. An argument may be bytes or a Buffer (its address; with an offset as a pair), or a list of such
    and numbers: the address of an array. By its result it goes on at one of three labels."""

    name: str
    number: int
    args: list[int | bytes | Buffer | tuple[Buffer, int] | list[int | bytes]] = field(default_factory=list)
    label: str = ""
    failed: str = FAILED
    zero: str = NEXT
    positive: str = NEXT


def possible() -> bool:
    """Whether there are instructions for this machine."""
    return sc.ARCH == "x86_64"


@functools.cache
def kernel_areas() -> tuple[tuple[int, int], ...]:
    """Where the kernel's own pages are in our memory; the same in every copy of it. To be asked where /proc is ours."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        rows = [line.split() for line in maps if any(name in line for name in _KEPT)]
    return tuple((int(row[0].split("-")[0], 16), int(row[0].split("-")[1], 16)) for row in rows)


class _Pages:
    """What stays: instructions, calls, data."""

    def __init__(self, calls: int) -> None:
        self._content = bytearray(len(_X86_64)) + bytearray(-len(_X86_64) % 8)
        self.entries = len(self._content)
        self._content += bytearray(calls * _ENTRY.size)
        self._buffers: dict[int, int] = {}
        self._pointers: list[tuple[int, int]] = []

    def put(self, value: bytes | list[int | bytes]) -> int:
        """Where it is, from the beginning."""
        if isinstance(value, list):
            parts = [(self.put(item), True) if isinstance(item, bytes) else (item, False) for item in value]
            at = self.put(b"".join(struct.pack("<Q", number) for number, _ in parts))
            self._pointers += [(at + 8 * index, where) for index, (where, inner) in enumerate(parts) if inner]
            return at
        at = len(self._content)
        self._content += value + bytes(-len(value) % 8)
        return at

    def place(self, buffer: Buffer) -> int:
        """As put(), once for each buffer."""
        if id(buffer) not in self._buffers:
            self._buffers[id(buffer)] = self.put(buffer.content)
        return self._buffers[id(buffer)]

    @property
    def size(self) -> int:
        return len(self._content) + -len(self._content) % mmap.PAGESIZE

    def finish(self, base: int, entries: list[bytes]) -> bytes:
        """The pages as they are at the address `base`."""
        for at, where in self._pointers:
            struct.pack_into("<Q", self._content, at, base + where)
        self._content[: len(_X86_64)] = _X86_64
        whole = b"".join(entries)
        self._content[self.entries : self.entries + len(whole)] = whole
        return bytes(self._content)


def go(calls: list[Call], report: Buffer) -> NoReturn:
    """Makes the calls from a memory in which there is nothing else. `report` gets each one's result, eight bytes each,
    behind its first eight. Raises OSError before that is begun."""
    if not possible():
        _go_in_python(calls, report)
    leave = _leave_rseq()
    fixed = kernel_areas()
    whole = [*leave, *(Call("munmap", sc.NR["munmap"], [0, 0]) for _ in range(len(fixed) + 2)), *calls]
    unseen = Buffer(bytes(8 * len(whole)))  # results of ours, before those of the calls
    pages = _Pages(len(whole))
    memory = [
        [pages.put(arg) if isinstance(arg, bytes | list) else _locate(pages, arg) for arg in call.args]
        for call in whole
    ]
    first, hidden = pages.place(report), pages.place(unseen)
    page = mmap.mmap(-1, pages.size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)  # fmt: skip
    base = ctypes.addressof(ctypes.c_char.from_buffer(page))
    gaps = _gaps([*fixed, (base, base + pages.size)])
    position = {call.label: index for index, call in enumerate(whole) if call.label}
    ahead = len(whole) - len(calls)
    entries = []
    for index, call in enumerate(whole):
        args = [
            base + value if not isinstance(arg, int) else value
            for arg, value in zip(call.args, memory[index], strict=True)
        ]
        if len(leave) <= index < ahead:
            at, length = gaps.pop() if gaps else (0, 0)
            args = [at, length]
        result = first + 8 * (index - ahead + 1) if index >= ahead else hidden + 8 * index
        targets = [call.failed, call.zero, call.positive]
        if index < ahead and len(leave) <= index:
            targets = [FAILED if args[1] else NEXT, NEXT, NEXT]
        jumps = [0 if name == NOWHERE else base + pages.entries + _ENTRY.size * (position[name] if name else index + 1)
                 for name in targets]  # fmt: skip
        args += [0] * (6 - len(args))
        entries.append(_ENTRY.pack(call.number, *(arg & (1 << 64) - 1 for arg in args), base + result, *jumps))
    page.write(pages.finish(base, entries))
    ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(base)(base + pages.entries)
    raise AssertionError("unreachable")


def _locate(pages: _Pages, arg: int | Buffer | tuple[Buffer, int]) -> int:
    if isinstance(arg, tuple):
        return pages.place(arg[0]) + arg[1]
    return pages.place(arg) if isinstance(arg, Buffer) else arg


def _gaps(kept: list[tuple[int, int]]) -> list[tuple[int, int]]:
    found, at = [], 0
    for begin, end in sorted(area for area in kept if area[0] < _TASK_SIZE):
        if begin > at:
            found.append((at, begin - at))
        at = max(at, end)
    return [*found, (at, _TASK_SIZE - at)]


def _leave_rseq() -> list[Call]:
    """The kernel writes into glibc's rseq area at any time, and kills who has none where it should be (rseq(2))."""
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
    return [Call("rseq", sc.NR["rseq"], [area, max(size, _RSEQ_SIZE), _RSEQ_UNREGISTER, _RSEQ_SIGNATURE])]


def _go_in_python(calls: list[Call], report: Buffer) -> NoReturn:
    results = (ctypes.c_long * (len(calls) + 1))()
    kept: list[ctypes.Array[ctypes.c_char]] = []
    buffers: dict[int, ctypes.Array[ctypes.c_char]] = {}

    def address(value: int | bytes | Buffer | tuple[Buffer, int] | list[int | bytes]) -> int:
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
