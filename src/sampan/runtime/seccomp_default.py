"""The default seccomp policy: what Docker's allows, as data, in the form of the runtime specification.

Facts taken from Docker's published profile (moby/profiles, June 2026): which calls are allowed, and
which come with a capability. `socketcall` is left out, since it hides the address family (S030).
"""

from __future__ import annotations

import functools
import os

from sampan.linux.seccomp import compile_filter
from sampan.linux.syscall import ARCH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.linux.spec_types import SeccompCondition, SeccompRule, SeccompSection

_WITH_CAPABILITY = {
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_SYS_ADMIN": "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie "
    "lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree "
    "open_tree_attr perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount "
    "umount2 unshare",
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module init_module finit_module",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    "CAP_SYS_RAWIO": "iopl ioperm",
    "CAP_SYS_TIME": "settimeofday stime clock_settime clock_settime64",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "CAP_SYSLOG": "syslog",
    "CAP_BPF": "bpf",
    "CAP_PERFMON": "perf_event_open",
}
_ARCH_ONLY = {
    "x86_64": "arch_prctl modify_ldt",
    "aarch64": "sync_file_range2 arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls",
}
_NAMESPACE_FLAGS = 0x7E020000
_AF_ALG, _AF_VSOCK = 38, 40


def _allow(names: list[str], args: list[SeccompCondition] | None = None) -> SeccompRule:
    rule: SeccompRule = {"names": names, "action": "SCMP_ACT_ALLOW"}
    if args:
        rule["args"] = args
    return rule


def _argument(op: str, value: int, index: int = 0, expected: int = 0) -> list[SeccompCondition]:
    return [{"index": index, "value": value, "valueTwo": expected, "op": f"SCMP_CMP_{op}"}]


def _base_calls() -> list[str]:
    with open(os.path.join(os.path.dirname(__file__), "seccomp_allowed.txt"), encoding="ascii") as file:
        return file.read().split()


def profile(capabilities: list[str]) -> SeccompSection:
    """The `linux.seccomp` section for a container with these bounding capabilities."""
    base = _base_calls()
    rules = [_allow([*base, "ptrace", "process_vm_readv", "process_vm_writev"])]
    # A single "!=" for each family would allow both: three ranges leave out exactly two (S030).
    rules += [
        _allow(["socket"], _argument("LT", _AF_ALG)),
        _allow(["socket"], _argument("EQ", _AF_ALG + 1)),
        _allow(["socket"], _argument("GT", _AF_VSOCK)),
    ]
    for persona in (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF):
        rules.append(_allow(["personality"], _argument("EQ", persona)))
    rules.append(_allow(_ARCH_ONLY.get(ARCH, "").split()))
    for capability, names in _WITH_CAPABILITY.items():
        if capability in capabilities:
            rules.append(_allow(names.split()))
    if "CAP_SYS_ADMIN" not in capabilities:
        rules.append(_allow(["clone"], _argument("MASKED_EQ", _NAMESPACE_FLAGS)))
        # clone3's flags are behind a pointer: ENOSYS makes libc fall back to clone.
        rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38})
    arches = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"] if ARCH == "x86_64" else ["SCMP_ARCH_AARCH64"]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": arches,
        "syscalls": rules,
    }


@functools.lru_cache(maxsize=64)
def compiled(capabilities: tuple[str, ...]) -> bytes:
    """The default policy as BPF, made once for each set of capabilities."""
    return compile_filter(profile(list(capabilities)))
