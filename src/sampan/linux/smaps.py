"""How much memory processes really hold: their proportional set size (proc_pid_smaps(5))."""

from __future__ import annotations

from sampan.linux import pidfd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Members = Callable[[], list[int]]


def pss(members: Members) -> int:
    """Bytes that the processes hold which `members()` lists: private pages whole, shared ones by their part. Who has ended counts nothing."""
    return sum(_rollup(directory).get("Pss:", 0) for _, directory in pidfd.held_members(members))


def parts(pid: int) -> dict[str, int]:
    """Bytes that a child of ours holds: "files" (of programs and libraries) and "own". Zeros when it has ended."""
    rows = next((_rollup(directory) for _, directory in pidfd.held_members(lambda: [pid])), {})
    return {"files": rows.get("Pss_File:", 0), "own": rows.get("Pss_Anon:", 0) + rows.get("Pss_Shmem:", 0)}


def pss_of_large(members: Members, size: int) -> int:
    """Bytes that the processes hold of their mappings of `size` bytes and more: of an emulator, its guest's memory."""
    return sum(_large(directory, size) for _, directory in pidfd.held_members(members))


def _lines(directory: int, name: str) -> list[str]:
    """The lines of a file below a process's directory; none when it has ended."""
    try:
        return pidfd.read_at(directory, name).decode(errors="replace").splitlines()
    except OSError:
        return []


def _rollup(directory: int) -> dict[str, int]:
    """Bytes by name over all of a process's mappings."""
    rows = (line.split() for line in _lines(directory, "smaps_rollup") if line.startswith("Pss"))
    return {row[0]: int(row[1]) << 10 for row in rows}


def _large(directory: int, size: int) -> int:
    total, counts = 0, False
    for line in _lines(directory, "smaps"):
        first = line.partition(" ")[0]
        if first == "Size:":
            counts = int(line.split()[1]) << 10 >= size
        elif counts and first == "Pss:":
            total += int(line.split()[1]) << 10
    return total
