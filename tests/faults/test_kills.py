"""SIGKILL for sampand, the keeper or both while clients are at work and containers write (T90, T92)."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from sampan.client.http import APIError
from tests.conftest import eventually
from tests.faults import operations, processes
from tests.faults.ledger import ABSENT, Ledger
from tests.faults.limited import HANGING, LimitedHttp
from tests.faults.machine import Machine, directory, machine

SOAK = bool(os.environ.get("SAMPAN_SOAK"))
SEED = int(os.environ.get("SAMPAN_SEED") or random.randrange(1 << 30))
KILLS = int(os.environ.get("SAMPAN_KILLS") or (300 if SOAK else 3))
ENDS = int(os.environ.get("SAMPAN_ENDS") or (300 if SOAK else 12))
WRITERS = 20 if SOAK else 6
CLIENTS = 3
WRITE = (
    "trap 'echo end $i; exit {code}' TERM; i=0; while :; do n=0; "
    "while [ $n -lt 10 ]; do echo line $i; i=$((i+1)); n=$((n+1)); done; sleep 0.05 & wait $!; done"
)
STAY = "trap 'exit 7' TERM; sleep 600 & wait $!"
KINDS = ("sampand", "keeper", "both")


class Client(operations.Worker):
    """A client of running containers and of the rest, with names of its own."""

    running: dict[str, str]
    cut_short = ("running", 0)

    def choices(self) -> list[Callable[[], None]]:
        """Everything that begins, changes or ends a process, and some that write."""
        self.running = {}
        return [self.begin, self.begin, self.stop, self.kill, self.restart, self.pause, self.exec, self.force,
                self.run_to_exit, self.rename, self.commit, self.load, self.make_volume, self.drop_volume,
                self.make_network, self.drop_network]  # fmt: skip

    def begin(self) -> None:
        """A container that runs until it is told to end."""
        label = self._new("b")
        body = {
            "Image": "busybox",
            "Cmd": ["sh", "-c", STAY],
            "Labels": {"cut": label},
            "HostConfig": {"NetworkMode": "none"},
        }
        with self.ledger.becoming({("container", label): frozenset({(label, "created", 0)})}):
            identifier = self.http.call("POST", f"/containers/create?name={label}", body)["Id"]
        with self.ledger.becoming({("container", label): frozenset({(label, "running", 0)})}):
            self.http.call("POST", f"/containers/{identifier}/start")
        self.running[label] = identifier

    def _one(self) -> tuple[str, str]:
        if not self.running:
            self.begin()
        return self.rng.choice(sorted(self.running.items()))

    def _change(self, operation: str, status: str, codes: tuple[int, ...]) -> None:
        label, identifier = self._one()
        with self.ledger.becoming({("container", label): frozenset((label, status, code) for code in codes)}):
            self.http.call("POST", f"/containers/{identifier}/{operation}")
        if status == "exited":
            del self.running[label]

    def stop(self) -> None:
        """Ends by itself when asked; 143 when it was asked before it could listen."""
        self._change("stop?t=5", "exited", (7, 137))

    def kill(self) -> None:
        """Ends at once."""
        self._change("kill", "exited", (137,))

    def restart(self) -> None:
        """Another run."""
        self._change("restart?t=5", "running", (0,))

    def pause(self) -> None:
        """Frozen and thawed."""
        label, identifier = self._one()
        for operation, status in (("pause", "paused"), ("unpause", "running")):
            with self.ledger.becoming({("container", label): frozenset({(label, status, 0)})}):
                self.http.call("POST", f"/containers/{identifier}/{operation}")

    def exec(self) -> None:
        """A command beside the others, whose output and exit code are asked for."""
        _, identifier = self._one()
        body = {"Cmd": ["sh", "-c", "echo out; exit 3"], "AttachStdout": True}
        with self.ledger.becoming({}):
            session = self.http.call("POST", f"/containers/{identifier}/exec", body)["Id"]
            response = LimitedHttp(self.socket).send("POST", f"/exec/{session}/start", {}, upgrade=True)
            output = b"".join(data for _, data in response.frames())
            response.close()
            code = self.http.call("GET", f"/exec/{session}/json")["ExitCode"]
            if not self.over.is_set() and (output, code) != (b"out\n", 3):
                self.errors.append(f"exec said {output!r} and ended with {code}")

    def force(self) -> None:
        """Removed while it runs."""
        label, identifier = self._one()
        with self.ledger.becoming({("container", label): ABSENT}):
            self.http.call("DELETE", f"/containers/{identifier}?force=1")
        del self.running[label]


def start_writers(box: Machine) -> dict[str, int]:
    """Containers that log until they are stopped, each with an exit code of its own, by id."""
    found = {}
    for number in range(WRITERS):
        body = {
            "Image": "busybox",
            "Cmd": ["sh", "-c", WRITE.format(code=number + 10)],
            "HostConfig": {"NetworkMode": "none"},
        }
        identifier = box.http.call("POST", f"/containers/create?name=writer{number}", body)["Id"]
        box.http.call("POST", f"/containers/{identifier}/start")
        found[identifier] = number + 10
    return found


def end_of(box: Machine, identifier: str, *before: str) -> int | str:
    """A container's exit code, after requests that end it; or what went wrong."""
    try:
        for path in before:
            box.http.call("POST", path)
        code: int = box.http.call("POST", f"/containers/{identifier}/wait")["StatusCode"]
        return code
    except (APIError, TimeoutError) as error:
        return f"an error: {error}"


def check_writers(box: Machine, writers: dict[str, int]) -> list[str]:
    """Stops them: exit codes are theirs, and the log has every line that was written, whole and once."""
    found = []
    for identifier, code in writers.items():
        told = end_of(box, identifier, f"/containers/{identifier}/stop?t=10")
        if told != code:
            found.append(f"writer {code - 10} ended with {told}, not {code}")
        response = box.http.send("GET", f"/containers/{identifier}/logs?stdout=1")
        lines = b"".join(data for _, data in response.frames()).decode().splitlines()
        wanted = [f"line {n}" for n in range(len(lines) - 1)] + [f"end {len(lines) - 1}"]
        if lines != wanted:
            at = next((n for n, pair in enumerate(zip(lines, wanted, strict=True)) if pair[0] != pair[1]), -1)
            found.append(
                f"the log of writer {code - 10} is wrong from line {at} of {len(lines)} on: {lines[at : at + 3]}"
            )
    return found


def kill(box: Machine, kind: str) -> None:
    """SIGKILL for one or both, in either order; sampand is started anew."""
    keeper = box.named("sampan-keeper")
    first = kind == "both" and random.random() < 0.5
    if kind == "keeper" or first:
        for pid in keeper:
            os.kill(pid, signal.SIGKILL)
    if kind != "keeper":
        box.kill()
        if kind == "both" and not first:
            for pid in box.named("sampan-keeper"):
                os.kill(pid, signal.SIGKILL)
        box.start()
    assert box.answers()


def one_kill(box: Machine, kind: str, number: int, rng: random.Random, writers: dict[str, int]) -> list[str]:
    """Clients at work, a kill, and a look at all that they were told, and at every process."""
    ledger = Ledger()
    clients = [Client(f"k{number}-{n}", box.socket, ledger, random.Random(rng.random()), {}) for n in range(CLIENTS)]
    for client in clients:
        client.start()
    time.sleep(rng.uniform(0.02, 0.5))
    for client in clients:
        client.over.set()
    kill(box, kind)
    found = []
    deadline = time.monotonic() + HANGING + 5
    for client in clients:
        client.join(max(0.0, deadline - time.monotonic()))
        if client.is_alive():
            found.append(f"a client hangs in {client.doing}")
        found += [f"a client was told: {text}" for text in client.errors]
    found += processes.faults(box)
    seen = {key: value for key, value in operations.observe(box.http, box.top).items() if f"k{number}-" in key[1]}
    found += ledger.moment().faults(seen, unfinished=False)
    writing = {row["Id"] for row in box.http.call("GET", "/containers/json")}
    found += [
        f"writer {code - 10} does not run any more" for identifier, code in writers.items() if identifier not in writing
    ]
    found += clear(box, writers)
    return [f"kill {number} of {kind}: {text}" for text in found]


def clear(box: Machine, kept: dict[str, int]) -> list[str]:
    """Removes all that clients have left; says what can't be removed."""
    found = []
    rows = [
        f"/containers/{row['Id']}" for row in box.http.call("GET", "/containers/json?all=1") if row["Id"] not in kept
    ]
    for row in box.http.call("GET", "/images/json"):
        if "busybox:latest" not in row["RepoTags"]:
            rows.append(f"/images/{row['Id']}")
    rows += [f"/volumes/{row['Name']}" for row in box.http.call("GET", "/volumes")["Volumes"] or []]
    rows += [f"/networks/{row['Id']}" for row in box.http.call("GET", "/networks") if row["Name"].startswith("k")]
    for path in rows:
        try:
            box.http.call("DELETE", f"{path}?force=1")
        except (APIError, TimeoutError) as error:
            found.append(f"can't remove {path}: {error}")
    return found


@pytest.fixture
def box() -> Iterator[Machine]:
    with directory() as root, machine(root) as made:
        made.start()
        made.ok("bootstrap", "busybox")
        yield made


@pytest.mark.timeout(3600 if SOAK else 120)
def test_kills_leave_no_orphan_no_wrong_state_and_no_hanging_client(box: Machine) -> None:
    rng, found = random.Random(SEED), []
    writers = start_writers(box)
    for number in range(KILLS):
        new = one_kill(box, KINDS[number % len(KINDS)], number, rng, writers)
        print("\n".join(new), end="", flush=True)
        found += new
    found += check_writers(box, writers)
    found += clear(box, {})
    found += processes.faults(box)
    summary = f"seed {SEED}: {KILLS} kills, {WRITERS} writers: {len(found)} faults"
    print("\n" + "\n".join([summary, *found[:60]]))
    assert not found, "\n".join([summary, *found[:60]])


@pytest.mark.timeout(3600 if SOAK else 120)
def test_every_end_around_a_restart_is_noticed_once_and_with_its_code(box: Machine) -> None:
    """T92"""
    rng, found = random.Random(SEED), []
    for first in range(0, ENDS, 12):
        codes = {}
        for number in range(first, min(first + 12, ENDS)):
            body = {"Image": "busybox", "Cmd": ["sh", "-c", f"sleep {rng.uniform(0, 1.5):.3f}; echo said; exit {number % 200}"],
                    "HostConfig": {"NetworkMode": "none"}}  # fmt: skip
            identifier = box.http.call("POST", "/containers/create", body)["Id"]
            box.http.call("POST", f"/containers/{identifier}/start")
            codes[identifier] = number % 200
        for kind in rng.sample(KINDS, 2):
            time.sleep(rng.uniform(0, 0.4))
            kill(box, kind)
        for identifier, code in codes.items():
            told = end_of(box, identifier)
            log = b"".join(data for _, data in box.http.send("GET", f"/containers/{identifier}/logs?stdout=1").frames())
            if (told, log) != (code, b"said\n"):
                found.append(f"container {identifier[:12]} ended with {told}, not {code}, and said {log!r}")
            box.http.call("DELETE", f"/containers/{identifier}?force=1")
    eventually(lambda: box.http.call("GET", "/containers/json?all=1") == [])
    found += processes.faults(box)
    summary = f"seed {SEED}: {ENDS} ends around {2 * -(-ENDS // 12)} kills: {len(found)} faults"
    print("\n" + "\n".join([summary, *found[:40]]))
    assert not found, "\n".join([summary, *found[:40]])
