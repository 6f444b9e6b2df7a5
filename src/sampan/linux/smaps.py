"""How much memory processes really hold: their proportional set size (proc_pid_smaps(5))."""

from __future__ import annotations


def pss(pids: list[int]) -> int:
    """Bytes: private pages whole, shared ones by their part. Processes that have ended count nothing."""
    return sum(_rollup(pid).get("Pss:", 0) for pid in pids)


def parts(pid: int) -> dict[str, int]:
    """Bytes that a process holds: "files" (of programs and libraries) and "own". Zeros when it has ended."""
    rows = _rollup(pid)
    return {"files": rows.get("Pss_File:", 0), "own": rows.get("Pss_Anon:", 0) + rows.get("Pss_Shmem:", 0)}


def _rollup(pid: int) -> dict[str, int]:
    """Bytes by name over all of a process's mappings; nothing when it has ended."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii", errors="replace") as file:
            return {line.split()[0]: int(line.split()[1]) << 10 for line in file if line.startswith("Pss")}
    except OSError:
        return {}


def pss_of_large(pid: int, size: int) -> int:
    """Bytes that a process holds of its mappings of `size` bytes and more: of an emulator, its guest's memory."""
    total, counts = 0, False
    try:
        with open(f"/proc/{pid}/smaps", encoding="utf-8", errors="replace") as file:
            for line in file:
                first = line.partition(" ")[0]
                if first == "Size:":
                    counts = int(line.split()[1]) << 10 >= size
                elif counts and first == "Pss:":
                    total += int(line.split()[1]) << 10
    except OSError:
        return 0
    return total
