"""What runs in a machine, against what its engine says that runs: nothing more and nothing less."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.faults.machine import Machine, command_of, name_of

OURS = ("sampan-spare", "sampan-keeper", "sampan-standby")


def _namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def inner_pid(pid: int) -> int:
    """A process's pid as the machine's own processes see it, or 0."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[2])
    except (OSError, IndexError):
        pass
    return 0


def _ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _seen(pid: int) -> str:
    """What a process is waiting for, for how long it has been there, and whose it is."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        age = float(Path("/proc/uptime").read_text().split()[0]) - int(stat[19]) / os.sysconf("SC_CLK_TCK")
        waits = Path(f"/proc/{pid}/wchan").read_text() or Path(f"/proc/{pid}/syscall").read_text().strip()
        return f"{pid} of {stat[1]}, {age:.1f} s old, in {stat[0]} {waits}, {len(os.listdir(f'/proc/{pid}/fd'))} descriptors"
    except (OSError, ValueError) as error:
        return f"{pid}: {error}"


def _faults(box: Machine) -> list[str]:
    home, found = _namespace(box.init), []
    alive = [pid for pid in box.everything() if not _ended(pid)]
    by_pid = {inner_pid(pid): pid for pid in alive}
    claimed = set()
    http = box.http
    for row in http.call("GET", "/containers/json?all=1"):
        state = http.call("GET", f"/containers/{row['Id']}/json")["State"]
        name = row["Names"][0]
        if state["Running"] != (state["Status"] in ("running", "paused")):
            found.append(f"{name} is {state['Status']} and Running is {state['Running']}")
        if not state["Running"]:
            continue
        if state["Pid"] not in by_pid:
            found.append(f"{name} is {state['Status']}, and its process {state['Pid']} is gone")
        else:
            claimed.add(_namespace(by_pid[state["Pid"]]))
    for pid in alive:
        namespace = _namespace(pid)
        inside = namespace not in (home, "") and inner_pid(pid)
        if inside and namespace not in claimed and name_of(pid) not in OURS and not _ended(pid):
            found.append(f"nobody lists process {pid}: {command_of(pid)}")
    keepers = [pid for pid in box.named("sampan-keeper") if name_of(_parent(pid)) == "sampan-standby"]
    if len(keepers) > 1:  # others with that name are its children, which have not become what they will be
        found.append(f"{len(keepers)} keepers: {'; '.join(_seen(pid) for pid in keepers)}")
    return found


def faults(box: Machine, seconds: float = 8) -> list[str]:
    """What still differs after a while, in which the engine may notice what has happened."""
    deadline = time.monotonic() + seconds
    while (found := _faults(box)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found
