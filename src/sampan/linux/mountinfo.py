"""/proc/self/mountinfo (proc_pid_mountinfo(5))."""

from __future__ import annotations

from sampan.record import record


@record
class Mount:
    """A mount of this process's namespace. `propagation` has "shared", "slave", both or neither."""

    target: str
    propagation: set[str]


def _unescape(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def mount_of(fd: int) -> Mount:
    """The mount that an open file or directory is on. Raises FileNotFoundError when this namespace has none such."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        number = next(line.split()[1] for line in file if line.startswith("mnt_id:"))
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split()
            if fields[0] == number:
                kinds = {tag.partition(":")[0] for tag in fields[6 : fields.index("-")]}
                found = {name for tag, name in (("shared", "shared"), ("master", "slave")) if tag in kinds}
                return Mount(_unescape(fields[4]), found)
    raise FileNotFoundError(f"no mount {number} here")
