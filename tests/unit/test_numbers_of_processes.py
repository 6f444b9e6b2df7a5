"""A process's number is somebody else's as soon as it has been reaped: what is opened or signalled by it is that very process's, or nobody's."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import sampan
from sampan.engine import killing, stats, vanishing
from sampan.engine.backends import host_usage
from sampan.engine.backends.host_files import HostFiles
from sampan.engine.backends.namespaces import Namespaces
from sampan.engine.container import Container
from sampan.engine.errors import Conflict
from sampan.engine.model import Config, HostConfig, State, Status
from sampan.images.errors import ImageError
from sampan.linux import namespaces, pidfd, smaps
from sampan.linux.cgroup import Cgroup
from sampan.runtime import spawn, usage


@pytest.fixture
def stranger() -> Iterator[int]:
    """A process of the host's, which has the number that a container's had."""
    with subprocess.Popen(["sleep", "100"]) as process:
        yield process.pid
        process.kill()


def _container(pid: int, started: int) -> Container:
    host = HostConfig(pid_mode="container:other", network_mode="none")
    state = State(status=Status.RUNNING, pid=pid)
    found = Container("c" * 64, "other", 0, "", "", Config(), host, state=state, start_time=started)
    return found


def _earlier(pid: int) -> int:
    return (pidfd.start_time(pid) or 0) - 1


def test_files_of_a_process(stranger: int) -> None:
    fd = pidfd.open_file(stranger, pidfd.start_time(stranger) or 0, "ns/pid")
    assert os.path.samestat(os.fstat(fd), os.stat(f"/proc/{stranger}/ns/pid"))
    os.close(fd)
    with pytest.raises(ProcessLookupError):
        pidfd.open_file(stranger, _earlier(stranger), "ns/pid")


def test_files_of_one_that_has_gone() -> None:
    with subprocess.Popen(["true"]) as process:
        started = pidfd.start_time(process.pid) or 0
    with pytest.raises(ProcessLookupError):
        pidfd.open_file(process.pid, started, "root", os.O_RDONLY | os.O_DIRECTORY)


def test_the_root_of_a_container_is_never_a_stranger_s(stranger: int, tmp_path: Path) -> None:
    """Before, `cp` would have read and written the host's files."""

    def unknown(_: str) -> Any:
        raise ImageError("no such image")

    (tmp_path / "upper").mkdir()
    container = _container(stranger, _earlier(stranger))
    container.broken = "its record"
    containers: Any = SimpleNamespace(directory=lambda _: tmp_path)
    images: Any = SimpleNamespace(index=SimpleNamespace(get=unknown), lower_directories=unknown)
    nothing: Any = None
    fd = HostFiles(containers, images, nothing, nothing).root(container)
    try:
        assert os.path.samestat(os.fstat(fd), os.stat(tmp_path / "upper"))
    finally:
        os.close(fd)


def test_namespaces_that_are_shared_are_never_a_stranger_s(stranger: int, tmp_path: Path) -> None:
    """Before, `--pid container:X` would have had the host's processes."""
    container = _container(stranger, _earlier(stranger))
    containers: Any = SimpleNamespace(find=lambda _: container, directory=lambda _: str(tmp_path))
    nothing: Any = None
    backend = Namespaces(containers, *[nothing] * 7)
    with pytest.raises(Conflict, match="non running container"):
        backend.request(container, [], lambda name, fd: None)


def test_exec_is_never_in_a_stranger_s_namespaces(stranger: int) -> None:
    with pytest.raises(ProcessLookupError):
        namespaces.open_namespaces(stranger, _earlier(stranger))
    with pytest.raises(ProcessLookupError):
        spawn.join({"pid": stranger, "start_time": _earlier(stranger), "cgroup": None}, None)


def test_signals_do_not_reach_a_stranger(stranger: int) -> None:
    container = _container(stranger, _earlier(stranger))
    killing._signal(container, signal.SIGKILL)
    assert vanishing.ended(container)
    assert pidfd.state(stranger) not in (None, "Z", "X")


def test_who_has_left_a_group_is_not_signalled(stranger: int) -> None:
    """A member's number that another process has got between the list and the signal."""
    lists = iter([[stranger], []])
    assert pidfd.signal_members(lambda: next(lists), signal.SIGKILL) == [stranger]
    assert pidfd.state(stranger) not in (None, "Z", "X")
    assert pidfd.signal_members(lambda: [stranger], signal.SIGTERM) == [stranger]
    assert os.waitstatus_to_exitcode(os.waitpid(stranger, 0)[1]) == -signal.SIGTERM


def test_nobody_opens_by_a_container_s_number() -> None:
    """The only ways are Container.open_process() and pidfd.held_members(): else it may be the file of one of the host's processes."""
    allowed = {
        "engine/hostpaths.py": "process",  # whoever asks, by a connection
        "engine/usage.py": "pid",  # the engine's own, asked about twice
        "api/builds.py": "os.getpid()",
        "api/listing.py": "container.state.pid",  # shown, not opened
    }
    top = Path(sampan.__file__).parent
    found = {}
    for path in [
        *(top / "engine").rglob("*.py"),
        *(top / "api").rglob("*.py"),
        top / "runtime/usage.py",
        top / "linux/smaps.py",
    ]:
        found.update({str(path.relative_to(top)): name for name in re.findall(r"/proc/\{([^}]*)\}", path.read_text())})
    assert found == allowed


def test_what_is_used_is_never_a_stranger_s(stranger: int) -> None:
    """Before, `stats`, `top` and the page would have shown the host's interfaces and processes."""
    group = Cgroup("/none")
    container = _container(stranger, _earlier(stranger))
    assert host_usage._devices(container) == b""
    container.start_time = pidfd.start_time(stranger) or 0
    own = host_usage._devices(container)
    assert usage.sample(group, own)["networks"].keys() == usage.reading(group, own).networks.keys()
    assert own.count(b":") == Path("/proc/net/dev").read_text().count(":") > 0
    container.host_config = HostConfig(network_mode="host")
    assert host_usage._devices(container) == b""


def test_a_file_of_more_than_a_page_is_read_whole() -> None:
    """/proc gives a page at a time."""
    directory = os.open("/proc/self", os.O_RDONLY)
    text = pidfd.read_at(directory, "smaps")
    os.close(directory)
    assert len(text) > 2 * os.sysconf("SC_PAGE_SIZE")
    assert b"VmFlags" in text.splitlines()[-1]


def test_the_members_numbers_are_never_a_stranger_s(stranger: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listed as a member, and no member any more when its directory is held; asked of all who go through members."""
    asks: list[Callable[[Callable[[], list[int]]], object]] = [
        lambda members: usage.processes(members),
        lambda members: smaps.pss(members),
        lambda members: smaps.pss_of_large(members, 1),
        lambda members: stats._ps("-e -o pid,comm", members)["Processes"],
    ]
    for ask in asks:
        assert ask(lambda: [stranger])
        lists = iter([[stranger], []])
        assert not ask(lists.__next__)


def test_interfaces_of_one_with_many() -> None:
    line = "  eth%d: " + " ".join(str(number) for number in range(16))
    text = "\n".join(["head", "head", "    lo: " + "1 " * 16, *(line % number for number in range(300))]).encode()
    found = usage.sample(Cgroup("/none"), text)["networks"]
    assert len(found) == 300
    assert (found["eth299"]["rx_bytes"], found["eth299"]["tx_dropped"]) == (0, 11)
    assert usage.reading(Cgroup("/none"), text).networks["eth299"] == (0, 8)


def test_a_family_is_signalled_from_its_parents_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell whose command is killed first goes on with the next, and may end with 0 before it is killed itself (P041)."""
    # Numbers have wrapped: children have smaller ones. 9 is in the session and has lost its parent; 50 is somebody else.
    processes = {100: (1, 100), 5: (100, 100), 7: (5, 100), 9: (1, 100), 8: (7, 8), 50: (1, 50)}
    monkeypatch.setattr(pidfd, "parent_and_session", processes.__getitem__)
    assert pidfd.family(100, sorted(processes)) == [9, 100, 5, 7, 8]


def test_members_are_signalled_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    children = [subprocess.Popen(["sleep", "100"]) for _ in range(20)]
    order = [child.pid for child in children]
    order = order[10:] + order[:10]
    told: list[int] = []
    opened = {os.pidfd_open(pid): pid for pid in order}
    monkeypatch.setattr(os, "pidfd_open", {pid: fd for fd, pid in opened.items()}.__getitem__)
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda fd, number: told.append(opened[fd]))
    pidfd.signal_members(lambda: order, signal.SIGKILL)
    assert told == order
    for child in children:
        child.kill()
        child.wait()
