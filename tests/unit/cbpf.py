"""An interpreter of the classic BPF that seccomp takes: only what it has, only forward."""

from __future__ import annotations

import struct

X86_64, I386 = 0xC000003E, 0x40000003


def evaluate(program: bytes, number: int, args: tuple[int, ...] = (), arch: int = X86_64) -> int:
    """What the filter returns for a call."""
    data = struct.pack("<IIQ6Q", number, arch, 0, *(args + (0,) * (6 - len(args))))
    instructions = list(struct.iter_unpack("<HBBI", program))
    accumulator = position = 0
    while True:
        code, true, false, k = instructions[position]
        position += 1
        if code == 0x20:
            accumulator = struct.unpack_from("<I", data, k)[0]
        elif code == 0x54:
            accumulator &= k
        elif code == 0x06:
            return k
        elif code == 0x05:
            position += k
        else:
            holds = {0x15: accumulator == k, 0x25: accumulator > k, 0x35: accumulator >= k}[code]
            position += true if holds else false
