"""How much memory processes really hold: their proportional set size (proc_pid_smaps(5))."""

from __future__ import annotations


def pss(pids: list[int]) -> int:
    """Bytes: private pages whole, shared ones by their part. Processes that have ended count nothing."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii", errors="replace") as file:
                total += sum(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))
        except OSError:
            continue
    return total


def pss_of(pid: int, name: str) -> int:
    """Bytes of a process's mappings of files whose path contains `name`."""
    total, counts = 0, False
    try:
        with open(f"/proc/{pid}/smaps", encoding="utf-8", errors="replace") as file:
            for line in file:
                first = line.partition(" ")[0]
                if not first.endswith(":"):  # the head of a mapping: addresses, permissions, ..., path
                    counts = name in line
                elif counts and first == "Pss:":
                    total += int(line.split()[1]) << 10
    except OSError:
        return 0
    return total
