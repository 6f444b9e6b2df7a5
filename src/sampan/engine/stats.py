"""Usage of a container in the shape of the API's `stats`; and `top`."""

from __future__ import annotations

import pwd
import subprocess
import time
from collections.abc import Callable
from typing import TypedDict

from sampan.engine.container import ZERO_TIME, Container, timestamp
from sampan.engine.errors import BadRequest, EngineError
from sampan.runtime import usage
from sampan.runtime.usage_types import CpuStats, Usage

_LONGEST = 20.0  # seconds for ps(1)


class Processes(TypedDict):
    """What `top` shows."""

    Titles: list[str]
    Processes: list[list[str]]


class Sample(Usage, total=False):
    """The API's `stats` at one moment; `precpu_stats` is of the sample before."""

    read: str
    preread: str
    name: str
    id: str
    num_procs: int
    precpu_stats: CpuStats
    blkio_stats: dict[str, None]
    storage_stats: dict[str, int]


TITLES = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]


def sample(container: Container, previous: Sample | None, found: Usage) -> Sample:
    """One sample. `previous` fills precpu_stats; `found` is what it uses, if it runs."""
    now = timestamp(time.time_ns())
    empty: CpuStats = {"cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0}, "throttling_data": {
        "periods": 0, "throttled_periods": 0, "throttled_time": 0}}  # fmt: skip
    result: Sample = {
        "read": now if container.running else ZERO_TIME,
        "preread": previous["read"] if previous else ZERO_TIME,
        "name": f"/{container.name}",
        "id": container.id,
        "num_procs": 0,
        "pids_stats": {},
        "cpu_stats": empty,
        "precpu_stats": previous["cpu_stats"] if previous else empty,
        "memory_stats": {},
        "blkio_stats": {"io_service_bytes_recursive": None, "io_serviced_recursive": None},
        "storage_stats": {},
        "networks": {},
    }
    if not container.running:
        return result
    return {**result, **found}


def top(container: Container, arguments: str) -> Processes:
    """Titles and processes. Without `arguments` (or with -ef) the columns of `ps -ef`; else ps(1) itself."""
    if arguments not in ("", "-ef"):
        return _ps(arguments, container.pids)
    return {"Titles": TITLES, "Processes": [[_user(int(row[0])), *row[1:]] for row in usage.processes(container.pids)]}


def top_of(rows: list[list[str]], arguments: str) -> Processes:
    """As top(), of processes that a guest has told of. Raises BadRequest: there is no ps(1) of ours in a guest."""
    if arguments not in ("", "-ef"):
        raise BadRequest(f"ps {arguments}: only -ef is possible in a virtual machine")
    return {"Titles": TITLES, "Processes": [[_user(int(row[0])), *row[1:]] for row in rows]}


def _ps(arguments: str, members: Callable[[], list[int]]) -> Processes:
    """What ps(1) says of the members; a number that was one's before it was asked and is none's after may be another's by now."""
    before = members()
    try:
        answer = subprocess.run(["ps", *arguments.split()], capture_output=True, text=True, timeout=_LONGEST)
    except subprocess.TimeoutExpired:
        raise EngineError(f"ps {arguments} has not ended in {_LONGEST:g} s") from None
    if answer.returncode:
        raise BadRequest(f"ps {arguments}: {answer.stderr.strip()}")
    pids = {*before}.intersection(members())
    lines = answer.stdout.splitlines()
    titles = lines[0].split()
    if "PID" not in titles:
        raise BadRequest("Couldn't find PID field in ps output")
    column = titles.index("PID")
    rows = [line.split(None, len(titles) - 1) for line in lines[1:]]
    return {"Titles": titles, "Processes": [row for row in rows if int(row[column]) in pids]}


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
