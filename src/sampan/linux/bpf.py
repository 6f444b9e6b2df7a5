"""Assemblers for classic BPF (seccomp filters), with labels and long jumps."""

from __future__ import annotations

import struct

from sampan.record import field, record

LD_ABS, ALU_AND, RET = 0x20, 0x54, 0x06
JA, JEQ, JGT, JGE = 0x05, 0x15, 0x25, 0x35


@record
class _Instruction:
    code: int
    k: int = 0
    true: str = ""
    false: str = ""
    label: str = ""


@record
class Program:
    """A BPF program under construction. Jumps go forward only, to labels placed later."""

    _items: list[_Instruction] = field(default_factory=list)
    _serial: int = 0

    def new_label(self) -> str:
        """A label name that is not used yet."""
        self._serial += 1
        return f"L{self._serial}"

    def place(self, label: str) -> None:
        """The next instruction is where `label` points."""
        self._items.append(_Instruction(-1, label=label))

    def load(self, offset: int) -> None:
        """A = the 32-bit word of seccomp_data at `offset`."""
        self._items.append(_Instruction(LD_ABS, offset))

    def and_(self, mask: int) -> None:
        """A &= mask."""
        self._items.append(_Instruction(ALU_AND, mask))

    def ret(self, value: int) -> None:
        """Ends the program with `value`."""
        self._items.append(_Instruction(RET, value))

    def jump(self, code: int, k: int, true: str, false: str) -> None:
        """Goes to `true` or `false`, an empty label meaning the next instruction."""
        self._items.append(_Instruction(code, k, true, false))

    def goto(self, label: str) -> None:
        """Goes to `label`."""
        self._items.append(_Instruction(JA, 0, label))

    def assemble(self) -> bytes:
        """The program as an array of struct sock_filter.

        Conditional jumps reach 255 instructions only; where a target is farther the jump goes to a
        32-bit JA placed right behind it. Raises ValueError when it is over the kernel's 4096.
        """
        wide: set[int] = set()
        while True:
            positions, labels = self._layout(wide)
            too_far = {
                index
                for index, item in enumerate(self._items)
                if item.code in (JEQ, JGT, JGE)
                and index not in wide
                and any(name and labels[name] - positions[index] - 1 > 255 for name in (item.true, item.false))
            }
            if not too_far:
                break
            wide |= too_far
        out = bytearray()
        for index, item in enumerate(self._items):
            out += self._encode(item, positions[index], labels, index in wide)
        if len(out) // 8 > 4096:
            raise ValueError(f"seccomp filter has {len(out) // 8} instructions; the kernel takes 4096")
        return bytes(out)

    def _layout(self, wide: set[int]) -> tuple[list[int], dict[str, int]]:
        positions: list[int] = []
        labels: dict[str, int] = {}
        here = 0
        for index, item in enumerate(self._items):
            positions.append(here)
            if item.code == -1:
                labels[item.label] = here
            else:
                here += 3 if index in wide else 1
        return positions, labels

    @staticmethod
    def _encode(item: _Instruction, here: int, labels: dict[str, int], wide: bool) -> bytes:
        if item.code == -1:
            return b""
        if item.code == JA:
            return struct.pack("HBBI", JA, 0, 0, labels[item.true] - here - 1)
        if item.code not in (JEQ, JGT, JGE):
            return struct.pack("HBBI", item.code, 0, 0, item.k)
        after = here + (3 if wide else 1)
        true = labels[item.true] if item.true else after
        false = labels[item.false] if item.false else after
        if not wide:
            return struct.pack("HBBI", item.code, true - after, false - after, item.k)
        return (
            struct.pack("HBBI", item.code, 0, 1, item.k)
            + struct.pack("HBBI", JA, 0, 0, true - here - 2)
            + struct.pack("HBBI", JA, 0, 0, false - here - 3)
        )
