"""/proc/self/mountinfo (proc_pid_mountinfo(5))."""

from __future__ import annotations

import os

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


def mount_of(path: str) -> Mount:
    """The mount that `path`, with its links resolved, lies on."""
    resolved = os.path.realpath(path)
    best = Mount("", set())
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split()
            target = _unescape(fields[4])
            inside = resolved == target or resolved.startswith(target.rstrip("/") + "/")
            if inside and len(target) >= len(best.target):
                kinds = {tag.partition(":")[0] for tag in fields[6 : fields.index("-")]}
                best = Mount(
                    target, {name for tag, name in (("shared", "shared"), ("master", "slave")) if tag in kinds}
                )
    return best
