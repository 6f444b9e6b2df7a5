"""seccomp(2): an OCI seccomp section compiled to BPF, and its installation."""

from __future__ import annotations

import ctypes
import itertools
import math
import struct

from sampan.linux import bpf
from sampan.linux.syscall import ARCH, syscall
from sampan.linux.syscalls import MULTIPLEXED, numbers, width

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.linux.spec_types import SeccompCondition, SeccompRule, SeccompSection

    _Conditions = list[SeccompCondition]

_ALLOW = 0x7FFF0000
_ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": _ALLOW,
}
_FLAGS = {"SECCOMP_FILTER_FLAG_TSYNC": 1, "SECCOMP_FILTER_FLAG_LOG": 2, "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4}
_AUDIT_ARCH = {"x86_64": 0xC000003E, "i386": 0x40000003, "aarch64": 0xC00000B7}
_OCI_ARCH = {"SCMP_ARCH_X86_64": "x86_64", "SCMP_ARCH_X86": "i386", "SCMP_ARCH_AARCH64": "aarch64"}
_ENOSYS = 38
_ARGUMENTS = 6
_ACTION = 0xFFFF0000
_INSTRUCTION = struct.Struct("HBBI")  # struct sock_filter
_MOST_ALTERNATIVES = 256


class SeccompError(ValueError):
    """The seccomp section asks for something that cannot be compiled."""


def compile_filter(section: SeccompSection) -> bytes:
    """Compiles `linux.seccomp` of the runtime specification to BPF. Raises SeccompError.

    Calls newer than the newest in our table get ENOSYS instead of the default errno, so that
    programs fall back to older calls (moby/moby#42871). The x32 entry gets ENOSYS too.
    """
    default = _action(section["defaultAction"], section.get("defaultErrnoRet"))
    listed = section.get("architectures") or [f"SCMP_ARCH_{ARCH.upper()}"]
    arches = [_OCI_ARCH[name] for name in listed if name in _OCI_ARCH]
    program = bpf.Program()
    program.load(4)  # seccomp_data.arch
    for arch in arches:
        following = program.new_label()
        body = program.new_label()
        program.jump(bpf.JEQ, _AUDIT_ARCH[arch], body, "")
        program.goto(following)
        program.place(body)
        _compile_arch(program, arch, section.get("syscalls") or [], default)
        program.place(following)
    program.ret(_ACTIONS["SCMP_ACT_KILL_PROCESS"])
    return program.assemble()


def known_actions() -> list[str]:
    """The actions compile_filter() takes."""
    return sorted(_ACTIONS)


def known_operators() -> list[str]:
    """The comparisons compile_filter() takes."""
    return [f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")]


def known_archs() -> list[str]:
    """The architectures compile_filter() takes."""
    return sorted(_OCI_ARCH)


def known_flags() -> list[str]:
    """The flags of seccomp(2) that flags() takes."""
    return sorted(_FLAGS)


def flags(section: SeccompSection) -> int:
    """The filter flags of the section as seccomp(2) takes them."""
    value = 0
    for name in section.get("flags") or []:
        if name not in _FLAGS:
            raise SeccompError(f"unknown seccomp flag {name}")
        value |= _FLAGS[name]
    return value


def install(program: bytes, filter_flags: int = 0) -> None:
    """Puts the calling process under a filter, for ever. Needs no_new_privs or CAP_SYS_ADMIN."""
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    syscall("seccomp", ctypes.c_uint(1), ctypes.c_uint(filter_flags), ctypes.c_char_p(header))


def passage(program: bytes, calls: set[int], cookie: int) -> bytes:
    """The filter with a way around it: for some calls by who knows `cookie`, 64 bits in the sixth argument, which none of
    them has. Every other call takes two or three instructions more, and none that looks at an argument."""
    # By hand, for each exec does it in a process to which every page that it touches is new: a list of code, jumps, value.
    numbers, halves = sorted(calls), (cookie & 0xFFFFFFFF, cookie >> 32)
    known, ordinary = len(numbers) + 2, len(numbers) + 9
    rows = [(bpf.LD_ABS, 0, 0, 0)]  # seccomp_data.nr
    rows += [(bpf.JEQ, known - at - 1, 0, number) for at, number in enumerate(numbers, 1)]
    rows.append((bpf.JA, 0, 0, ordinary - known))
    for at, offset, value in (
        (known, 16 + 8 * 5, halves[0]),  # seccomp_data.args[5], its lower half
        (known + 2, 20 + 8 * 5, halves[1]),
        (known + 4, 4, _AUDIT_ARCH[ARCH]),  # seccomp_data.arch
    ):
        rows += [(bpf.LD_ABS, 0, 0, offset), (bpf.JEQ, 0, ordinary - at - 2, value)]
    rows.append((bpf.RET, 0, 0, _ALLOW))
    return b"".join([_INSTRUCTION.pack(*row) for row in rows]) + program


def _action(name: str, errno: int | None) -> int:
    if name not in _ACTIONS:
        raise SeccompError(f"unsupported seccomp action {name}")
    value = _ACTIONS[name]
    if name in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        value |= (1 if errno is None else errno) & 0xFFFF
    return value


def _compile_arch(program: bpf.Program, arch: str, rules: list[SeccompRule], default: int) -> None:
    table = numbers(arch)
    plain: dict[str, int] = {}
    conditional: dict[str, list[tuple[_Conditions, int]]] = {}
    for rule in [*rules, *_implied(arch, rules, default)]:
        action = _action(rule["action"], rule.get("errnoRet"))
        for name in rule["names"]:
            if name not in table:
                continue
            if not rule.get("args"):
                plain[name] = min(plain.get(name, action), action, key=_leniency)
            else:
                groups = _groups(rule["args"], _leniency(action) < _leniency(default))
                conditional.setdefault(name, []).extend((group, action) for group in groups)
    program.load(0)  # seccomp_data.nr
    blocks = {}
    for name, found in list(conditional.items()):
        # The strictest of all that apply decides, as among several filters (seccomp(2)).
        stricter = [entry for entry in found if name not in plain or _leniency(entry[1]) < _leniency(plain[name])]
        conditional[name] = sorted(stricter, key=lambda entry: _leniency(entry[1]))
        if conditional[name]:
            blocks[name] = program.new_label()
    targets: dict[int, int | str] = {table[name]: action for name, action in plain.items()}
    targets |= {table[name]: label for name, label in blocks.items()}
    _search(program, _ranges(targets, default, max(table.values())))
    for name, label in blocks.items():
        program.place(label)
        for conditions, action in conditional[name]:
            _check(program, arch, name, conditions, action)
        program.ret(plain.get(name, default))


def _leniency(action: int) -> int:
    """The order in which the kernel prefers actions: the signed value, the smallest first (seccomp_run_filters)."""
    kind = action & _ACTION
    return kind - (1 << 32) if kind >> 31 else kind


def _implied(arch: str, rules: list[SeccompRule], default: int) -> list[SeccompRule]:
    """What has to be denied too, or a denied call could be made by another: one that multiplexes it (i386), and
    clone3, whose flags no filter can see. It then looks as if the kernel had no such call, and libc takes clone."""
    found: list[SeccompRule] = []
    named = {name for rule in rules for name in rule["names"]}
    for rule in rules:
        if _leniency(_action(rule["action"], rule.get("errnoRet"))) >= _leniency(default):
            continue
        if rule.get("args") and "clone" in rule["names"] and "clone3" not in named:
            found.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS})
        for name in rule["names"] if arch == "i386" else ():
            for call, members in MULTIPLEXED.items():
                if name in members:
                    found.append(
                        {**rule, "names": [call], "args": [{"index": 0, "value": members[name], "op": "SCMP_CMP_EQ"}]}
                    )
    return found


def _groups(args: _Conditions, denying: bool) -> list[_Conditions]:
    """The alternatives of a rule: of each, all conditions have to hold.

    Conditions on one argument twice are alternatives for runc, "!= 1" and "!= 2" therefore everything. A rule that
    denies is read so. One that allows must not allow more than it says: values to be equal to are alternatives, for
    nothing else can be meant; other conditions on one argument have to hold together (S030).
    """
    by_index: dict[int, _Conditions] = {}
    for arg in args:
        by_index.setdefault(int(arg["index"]), []).append(arg)
    if len(by_index) == len(args):
        return [list(args)]
    if denying:
        return [[arg] for arg in args]
    choices: list[list[_Conditions]] = []
    for found in by_index.values():
        equal = all(arg["op"] in ("SCMP_CMP_EQ", "SCMP_CMP_MASKED_EQ") for arg in found)
        choices.append([[arg] for arg in found] if equal else [found])
    if math.prod(map(len, choices)) > _MOST_ALTERNATIVES:
        raise SeccompError(f"a rule has more than {_MOST_ALTERNATIVES} combinations of conditions")
    return [[arg for part in parts for arg in part] for parts in itertools.product(*choices)]


_Range = tuple[int, int | str]


def _ranges(targets: dict[int, int | str], default: int, newest: int) -> list[_Range]:
    """(first number, action or label) rows, sorted, neighbours with one action joined."""
    rows: list[_Range] = []
    for number in range(newest + 1):
        target = targets.get(number, default)
        if not rows or rows[-1][1] != target:
            rows.append((number, target))
    rows.append((newest + 1, _ACTIONS["SCMP_ACT_ERRNO"] | _ENOSYS))
    return rows


def _search(program: bpf.Program, rows: list[_Range]) -> None:
    """A binary search over the ranges for the call number in A."""
    if len(rows) == 1:
        target = rows[0][1]
        if isinstance(target, str):
            program.goto(target)
        else:
            program.ret(target)
        return
    middle = len(rows) // 2
    upper = program.new_label()
    program.jump(bpf.JGE, rows[middle][0], upper, "")
    _search(program, rows[:middle])
    program.place(upper)
    _search(program, rows[middle:])


def _check(program: bpf.Program, arch: str, name: str, conditions: _Conditions, action: int) -> None:
    fail = program.new_label()
    for condition in conditions:
        success = program.new_label()
        index = int(condition["index"])
        if not 0 <= index < _ARGUMENTS:
            raise SeccompError(f"{name} has no argument {index}: they are numbered from 0 to {_ARGUMENTS - 1}")
        _compare(program, condition, width(arch, name, index), success, fail)
        program.place(success)
    program.ret(action)
    program.place(fail)


def _compare(program: bpf.Program, condition: SeccompCondition, bits: int, success: str, fail: str) -> None:
    """A comparison of what the kernel takes of an argument, its lowest `bits`, with a value of 64 bits.

    A value that is negative in 64 bits is the same number in fewer, where it is to be equal.
    """
    low = 16 + 8 * int(condition["index"])  # little endian
    value, op = _unsigned(condition["value"]), condition["op"]
    if op == "SCMP_CMP_MASKED_EQ":
        expected = _narrow(_unsigned(condition.get("valueTwo") or 0), bits)
        _load_high(program, low, bits)
        program.and_(value >> 32)
        program.jump(bpf.JEQ, expected >> 32, "", fail)
        _load_low(program, low, bits)
        program.and_(value & 0xFFFFFFFF)
        program.jump(bpf.JEQ, expected & 0xFFFFFFFF, "", fail)
        return
    if op in ("SCMP_CMP_EQ", "SCMP_CMP_NE"):
        value = _narrow(value, bits)
    value_high, value_low = value >> 32, value & 0xFFFFFFFF
    if op in ("SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_NE"):
        success, fail = fail, success
    _load_high(program, low, bits)
    if op in ("SCMP_CMP_EQ", "SCMP_CMP_NE"):
        program.jump(bpf.JEQ, value_high, "", fail)
        _load_low(program, low, bits)
        program.jump(bpf.JEQ, value_low, success, fail)
    elif op in ("SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_GE", "SCMP_CMP_LT"):
        program.jump(bpf.JGT, value_high, success, "")
        program.jump(bpf.JEQ, value_high, "", fail)
        _load_low(program, low, bits)
        test = bpf.JGT if op in ("SCMP_CMP_GT", "SCMP_CMP_LE") else bpf.JGE
        program.jump(test, value_low, success, fail)
    else:
        raise SeccompError(f"unknown seccomp operator {op}")


def _load_high(program: bpf.Program, low: int, bits: int) -> None:
    program.load(low + 4)
    if bits < 64:
        program.and_(0)


def _load_low(program: bpf.Program, low: int, bits: int) -> None:
    program.load(low)
    if bits < 32:
        program.and_((1 << bits) - 1)


def _unsigned(value: int) -> int:
    return int(value) & (1 << 64) - 1


def _narrow(value: int, bits: int) -> int:
    return value & (1 << bits) - 1 if value >= (1 << 64) - (1 << bits - 1) else value
