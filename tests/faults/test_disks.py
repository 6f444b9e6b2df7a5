"""The whole data root full, out of inodes, or read-only, while containers run (T91)."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sampan.client.http import APIError, NoEngine
from tests.conftest import eventually
from tests.faults import disks, operations, processes
from tests.faults.limited import LimitedHttp
from tests.faults.machine import Machine, directory, machine

LIMIT = 5.0 if os.environ.get("SAMPAN_SOAK") else 15.0  # seconds that any answer may take; the machine may be busy
STAY = "trap 'exit {code}' TERM; sleep 600 & wait $!"
NAMES_IT = ("no space", "full", "read-only", "readonly", "inode", "i/o error")  # how an error says what is wrong
READS = ("/containers/json?all=1", "/images/json", "/volumes", "/networks", "/info", "/version", "/system/df", "/metrics",
         "/sampan/overview", "/containers/writer/json", "/containers/writer/logs?stdout=1&tail=5", "/containers/ended/logs?stdout=1",
         "/containers/writer/top", "/containers/writer/stats?stream=0&one-shot=1", "/images/busybox/json", "/images/busybox/history",
         "/networks/net", "/volumes/vol", "/containers/ended/export", "/images/busybox/get", "/containers/ended/changes")  # fmt: skip


class Trouble:
    """An engine whose disk is in trouble, the questions put to it, and what was wrong with the answers."""

    def __init__(self, box: Machine, place: disks.Disk) -> None:
        self.box, self.place = box, place
        self.found: list[str] = []
        self.ids: dict[str, str] = {}

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The answer, or the error; a fault when there is none in time."""
        http, began = LimitedHttp(self.box.socket, LIMIT), time.monotonic()
        try:
            response = http.send(method, path, body)
            answer: Any = response.read()
        except APIError as error:
            answer = error
        except (TimeoutError, NoEngine, ValueError) as error:
            self.found.append(f"{method} {path}: {type(error).__name__} {error}")
            return error
        finally:
            http.close()
        if time.monotonic() - began > LIMIT:
            self.found.append(f"{method} {path} took {time.monotonic() - began:.1f} s")
        return answer

    def works(self, method: str, path: str, body: Any = None) -> Any:
        """A request that has to be done whatever the disk says."""
        answer = self.ask(method, path, body)
        if isinstance(answer, APIError):
            self.found.append(f"{method} {path}: {answer.status} {answer}")
        return answer

    def refused(self, method: str, path: str, body: Any = None) -> None:
        """A request that has to be refused with the reason."""
        answer = self.ask(method, path, body)
        if isinstance(answer, APIError):
            self.by_name(f"{method} {path}", answer)
        elif not isinstance(answer, Exception):
            self.found.append(f"{method} {path} was answered as done")

    def by_name(self, what: str, error: APIError) -> None:
        """An error has to say what is wrong with the disk."""
        if not any(word in str(error).lower() for word in NAMES_IT):
            self.found.append(f"{what} does not say what is wrong: {error.status} {error}")

    def begin(self, name: str, command: str, **host: Any) -> str:
        """A running container."""
        body = {"Image": "busybox", "Cmd": ["sh", "-c", command], "HostConfig": {"NetworkMode": "none", **host}}
        identifier: str = self.box.http.call("POST", f"/containers/create?name={name}", body)["Id"]
        self.box.http.call("POST", f"/containers/{identifier}/start")
        self.ids[name] = identifier
        return identifier

    def state(self, name: str) -> tuple[str, int]:
        """Status and exit code."""
        answer = self.ask("GET", f"/containers/{self.ids[name]}/json")
        if isinstance(answer, Exception):
            return str(answer), -1
        state = json.loads(answer)["State"]
        return state["Status"], state["ExitCode"]

    def expect(self, name: str, code: int, when: str) -> None:
        """A container has ended with a code."""
        if self.state(name) != ("exited", code):
            self.found.append(f"{when}: {name} is {self.state(name)}, not exited with {code}")

    def process_of(self, name: str) -> int:
        """A container's process, as we see it."""
        pid = self.box.http.call("GET", f"/containers/{self.ids[name]}/json")["State"]["Pid"]
        return next(found for found in self.box.everything() if processes.inner_pid(found) == pid)


def populate(trouble: Trouble) -> None:
    """What the questions are about."""
    box = trouble.box
    box.ok("bootstrap", "busybox")
    for number in range(3):
        files = {f"payload/{n}": os.urandom(20000) for n in range(3)}
        operations.send(box.http, "/images/load?quiet=1", operations.saved_image(f"cut/i{number}:1", [files]))
    for name in ("vol", "unused"):
        box.http.call("POST", "/volumes/create", {"Name": name})
    for name in ("net", "other"):
        box.http.call("POST", "/networks/create", {"Name": name})
    trouble.begin("ended", "echo said; exit 5")
    box.http.call("POST", "/containers/ended/wait")
    for number in range(3):
        trouble.begin(f"old{number}", "exit 6", Binds=["vol:/d"])
        box.http.call("POST", f"/containers/old{number}/wait")
    for name, code in (("waited", 21), ("stopped", 22), ("killed", 23), ("forced", 24), ("later", 25), ("awaited", 26)):
        trouble.begin(name, STAY.format(code=code))
    trouble.begin("vanishing", STAY.format(code=27), AutoRemove=True)
    trouble.begin("writer", "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.02; done")


class Waiter(threading.Thread):
    """A client that waits for a container's end."""

    def __init__(self, box: Machine, identifier: str) -> None:
        super().__init__(daemon=True)
        self.http, self.identifier = LimitedHttp(box.socket, 120), identifier
        self.code: int | None = None
        self.start()

    def run(self) -> None:
        """Until the answer is there."""
        with contextlib.suppress(OSError, APIError, NoEngine):
            self.code = self.http.call("POST", f"/containers/{self.identifier}/wait")["StatusCode"]


def look(trouble: Trouble, writable: bool) -> None:
    """All that has to go on, whatever the disk is like. `writable`: what is there can be removed."""
    for path in READS:
        trouble.works("GET", path)
    waiters = {name: Waiter(trouble.box, trouble.ids[name]) for name in ("waited", "vanishing")}
    for name in waiters:
        time.sleep(0.2)
        os.kill(trouble.process_of(name), signal.SIGTERM)
    for name, code in (("waited", 21), ("vanishing", 27)):
        waiters[name].join(LIMIT)
        if waiters[name].code != code:
            trouble.found.append(f"who waits for {name} is told {waiters[name].code}, not {code}")
    trouble.works("POST", f"/containers/{trouble.ids['stopped']}/stop?t=5")
    trouble.works("POST", f"/containers/{trouble.ids['killed']}/kill")
    for name, code in (("waited", 21), ("stopped", 22), ("killed", 137)):
        trouble.expect(name, code, "at once")
    answer = trouble.ask("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"]})
    if isinstance(answer, APIError):
        trouble.by_name("create", answer)
    remove = trouble.works if writable else trouble.refused
    for path in (
        "/containers/forced?force=1",
        "/containers/old0",
        "/images/cut/i0:1",
        "/volumes/unused",
        "/networks/other",
    ):
        remove("DELETE", path)
    if writable:
        eventually(lambda: trouble.ask("GET", "/containers/vanishing/json").__class__ is APIError, LIMIT)
        trouble.works("POST", "/volumes/prune?filters=" + '{"all":["true"]}'.replace('"', "%22"))
        trouble.works("POST", "/images/prune?filters=" + '{"dangling":["false"]}'.replace('"', "%22"))


def again(trouble: Trouble, remembers: bool) -> None:
    """The daemon dies, a container ends, and it starts on the same disk: it serves. `remembers`: it can write what it learns."""
    os.kill(trouble.process_of("later"), signal.SIGTERM)
    eventually(lambda: trouble.state("later")[0] == "exited")
    process = trouble.process_of("awaited")
    trouble.box.kill()
    os.kill(process, signal.SIGTERM)
    try:
        trouble.box.start()
    except AssertionError as error:
        trouble.found.append(f"sampand does not start: {str(error)[-1500:]}")
        return
    for path in READS:
        trouble.works("GET", path)
    eventually(lambda: trouble.state("awaited")[0] == "exited")
    for name, code in (("waited", 21), ("stopped", 22), ("later", 25), ("awaited", 26)) if remembers else ():
        trouble.expect(name, code, "after a restart")


def goes_on(trouble: Trouble) -> None:
    """There is space again: everything works, and what wrote before writes again."""
    done = trouble.box.sampan("run", "--rm", "--network", "none", "busybox", "echo", "works")
    if done.stdout != b"works\n":
        trouble.found.append(f"with space again, run says {done.stderr.decode()}")
    archive = operations.saved_image("cut/after:1", [{"payload/x": b"x"}])
    operations.send(trouble.box.http, "/images/load?quiet=1", archive)
    trouble.works("POST", "/volumes/create", {"Name": "after"})
    before = trouble.ask("GET", f"/containers/{trouble.ids['writer']}/logs?stdout=1&tail=1")
    eventually(lambda: trouble.ask("GET", f"/containers/{trouble.ids['writer']}/logs?stdout=1&tail=1") != before)
    trouble.works("DELETE", f"/containers/{trouble.ids['writer']}?force=1")
    trouble.found += processes.faults(trouble.box)


def report(trouble: Trouble) -> None:
    """Fails with all that was found."""
    log = (trouble.box.root / "log").read_text(errors="replace")
    tracebacks = log.count("Traceback")
    if tracebacks:
        trouble.found.append(f"{tracebacks} tracebacks: {log[log.index('Traceback') :][:1500]}")
    assert not trouble.found, "\n" + "\n".join(trouble.found)


@contextlib.contextmanager
def troubled(megabytes: int, inodes: int = 0, options: str = "") -> Iterator[Trouble]:
    """An engine with its data root on a small disk, and containers, images, volumes and networks there."""
    with directory() as root, disks.disk(root / "data", megabytes, inodes, options) as place, machine(root) as box:
        place.mount(box.init)
        box.start()
        trouble = Trouble(box, place)
        populate(trouble)
        yield trouble


@pytest.mark.parametrize("what", ["bytes", "inodes"])
def test_a_full_disk(what: str) -> None:
    with troubled(*((64, 0) if what == "bytes" else (96, 1600))) as trouble:
        take = disks.fill if what == "bytes" else disks.use_inodes
        ballast = take(trouble.place.files)
        look(trouble, writable=True)
        if ballast.is_dir():
            shutil.rmtree(ballast)
        else:
            ballast.unlink()
        ballast = take(trouble.place.files)  # what the removals have freed
        again(trouble, remembers=True)
        if ballast.is_dir():
            shutil.rmtree(ballast)
        else:
            ballast.unlink()
        goes_on(trouble)
        report(trouble)


def test_a_disk_that_breaks_and_is_read_only_from_then_on() -> None:
    with troubled(64, 0, "errors=remount-ro") as trouble:
        trouble.place.break_down()
        look(trouble, writable=False)
        again(trouble, remembers=False)
        report(trouble)
        trouble.box.pull_the_plug()
        trouble.place.released()
        trouble.place.mend()
        with machine(trouble.box.root) as box:
            trouble.place.mount(box.init)
            box.start()
            for name in trouble.ids:
                if name not in ("vanishing",) and box.sampan("inspect", name).returncode != 0:
                    trouble.found.append(f"{name} is gone after the disk was mended")
            if box.sampan("run", "--rm", "--network", "none", "busybox", "echo", "works").stdout != b"works\n":
                trouble.found.append("run does not work after the disk was mended")
        report(trouble)


def test_an_engine_started_on_a_read_only_disk() -> None:
    """It serves what is there, and refuses by name what it can't do."""
    with directory() as root, disks.disk(root / "data", 64) as place:
        with machine(root) as box:
            place.mount(box.init)
            box.start()
            trouble = Trouble(box, place)
            populate(trouble)
        place.released()
        with machine(root) as box:
            place.mount(box.init, "ro")
            box.start()
            trouble.box = box
            for path in READS:
                if "top" not in path and "stats" not in path:
                    trouble.works("GET", path)
            trouble.refused("POST", "/containers/ended/start", None)
            for path in ("/volumes/create", "/networks/create", "/containers/create"):
                trouble.refused("POST", path, {"Image": "busybox", "Name": "new"})
            for path in ("/containers/old0", "/images/cut/i0:1", "/volumes/unused", "/networks/other"):
                trouble.refused("DELETE", path)
            report(trouble)
