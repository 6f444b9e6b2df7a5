"""The power fails at any moment: what was answered is there, whole, and what was removed is not (T06)."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sampan.client.http import APIError, NoEngine
from tests.faults import disks, operations
from tests.faults.ledger import Ledger, Moment
from tests.faults.machine import Machine, directory, machine

SOAK = bool(os.environ.get("SAMPAN_SOAK"))
CUTS = int(os.environ.get("SAMPAN_CUTS") or (100 if SOAK else 2))
SEED = int(os.environ.get("SAMPAN_SEED") or random.randrange(1 << 30))
PER_ROUND = 10  # cuts of one running engine
WORKERS = 2
MEGABYTES = 384


@dataclass
class Found:
    """What a soak counts."""

    cuts: int = 0
    midway: int = 0
    operations: int = 0
    answered: int = 0  # promises that were looked at, over all cuts
    undone: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)  # stores that did not open
    errors: list[str] = field(default_factory=list)
    kinds: dict[str, int] = field(default_factory=dict)

    def report(self) -> str:
        """The figures in a line, the faults in one each."""
        line = (
            f"seed {SEED}: {self.operations} operations, {self.cuts} cuts ({self.midway} of them with an operation under way): "
            f"{len(self.undone)} of {self.answered} answered things undone or damaged, {len(self.closed)} stores that do not open, "
            f"{len(self.errors)} errors without a cut; " + ", ".join(f"{k} {v}" for k, v in sorted(self.kinds.items()))
        )
        return "\n".join([line, *self.closed, *self.undone[:60], *self.errors[:20]])


@contextlib.contextmanager
def registry_in(box: Machine, root: Path) -> Iterator[None]:
    """A registry on the machine's loopback, whose data outlives the machine."""
    if shutil.which("docker-registry") is None:
        yield
        return
    (root / "registry.yml").write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {root}/registry}}}}\nlog: {{level: error}}\n"
        f"http:\n  addr: {operations.REGISTRY}\n"
    )
    command = [*box.enter, "docker-registry", "serve", str(root / "registry.yml")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    host, _, port = operations.REGISTRY.partition(":")
    probe = [
        *box.enter,
        "busybox",
        "sh",
        "-c",
        f"until busybox nc {host} {port} </dev/null; do busybox usleep 20000; done",
    ]
    try:
        subprocess.run(probe, check=True, timeout=20, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        yield
    finally:
        process.kill()
        process.wait()


def prepare(image: Path, root: Path) -> dict[str, str]:
    """A disk with busybox, and a registry with some images. Returns the fingerprints of those."""
    rng = random.Random(SEED)
    found: dict[str, str] = {}
    place = disks.Disk(image, root / "data")
    place.make(MEGABYTES)
    with machine(root) as box, registry_in(box, root):
        place.mount(box.init)
        box.start()
        box.ok("bootstrap", "busybox")
        for number in range(4 if shutil.which("docker-registry") else 0):
            files = operations.payload(rng)
            name = f"{operations.REGISTRY}/cut/p{number}:1"
            operations.send(box.http, "/images/load?quiet=1", operations.saved_image(name, [files]))
            box.ok("push", name)
            box.ok("rmi", name)
            found[name] = operations.fingerprint(files)
        box.stop()
    place.released()
    return found


@dataclass
class Cut:
    """A disk as a power cut left it, and what had been answered by then."""

    image: Path
    moment: Moment
    midway: bool


def one_cut(
    box: Machine, place: disks.Disk, ledger: Ledger, rng: random.Random, target: Path, midway: bool
) -> Cut | None:
    """Cuts at a random moment of operations under way, or right after an answer. None: it was not such a moment."""
    if midway:
        time.sleep(rng.uniform(0, 0.5 if SOAK else 0.15))
    else:
        for _ in range(rng.randrange(1, 12)):
            with ledger.changed:
                ledger.changed.wait(10)
    with box.frozen():
        time.sleep(0.01)  # what had been sent before is read and entered meanwhile
        moment = ledger.moment()
        if (midway and not moment.pending) or not place.copy(target):
            return None
    return Cut(target, moment, bool(moment.pending))


def one_round(
    base: Path, pulls: dict[str, str], root: Path, store: Path, rng: random.Random, cuts: int, found: Found
) -> list[Cut]:
    """An engine at work, and the cuts taken of its disk meanwhile."""
    image, ledger = store / "live", Ledger()
    taken: list[Cut] = []
    disks.copy_sparse(base, image)
    place = disks.Disk(image, root / "data", disks.LAZY)
    with machine(root) as box, registry_in(box, root):
        place.mount(box.init)
        box.start()
        workers = []
        for number in range(WORKERS):
            mine = {name: pulls[name] for name in sorted(pulls)[number::WORKERS]}
            workers.append(operations.Worker(f"w{number}", box.socket, ledger, random.Random(rng.random()), mine))
            workers[-1].start()
        try:
            tries = 0
            while len(taken) < cuts and any(worker.is_alive() for worker in workers):
                tries += 1
                assert tries < cuts * 20, "hardly ever a moment to cut at"
                cut = one_cut(box, place, ledger, rng, store / f"cut{len(taken)}", len(taken) % 2 == 0)
                if cut is not None:
                    taken.append(cut)
        finally:
            for worker in workers:
                worker.over.set()
    for worker in workers:
        worker.join(20)
        assert not worker.is_alive(), "a client hangs although its engine is gone"
        found.errors += worker.errors
        for kind, count in worker.counts.items():
            found.kinds[kind] = found.kinds.get(kind, 0) + count
    found.operations += ledger.answered
    place.released()
    image.unlink()
    return taken


def look(cut: Cut, root: Path, found: Found) -> None:
    """Opens what a cut left, with another engine, and compares it with what was answered."""
    place = disks.Disk(cut.image, root / "data")
    found.cuts += 1
    found.midway += cut.midway
    found.answered += len(cut.moment.told)
    number = f"cut {found.cuts}"
    try:
        with machine(root) as box:
            place.mount(box.init)
            box.start()
            assert box.answers()
            seen = operations.observe(box.http, box.top)
            base = seen.pop(("image", "busybox:latest"), None) or seen.pop(
                ("image", "docker.io/library/busybox:latest"), None
            )
            faults = cut.moment.faults(seen)
            if base is None or "unreadable" in str(base):
                faults.append(f"busybox is {base}")
            found.undone += [f"{number}: {fault}" for fault in faults]
            done = box.sampan("run", "--rm", "--network", "none", "busybox", "echo", "works")
            if done.stdout != b"works\n":
                found.closed.append(f"{number}: run says {done.stderr.decode()}")
    except (AssertionError, NoEngine, APIError, OSError, subprocess.SubprocessError) as error:
        found.closed.append(f"{number}: {str(error)[-600:]}")
    place.released()
    cut.image.unlink()


@pytest.mark.timeout(3600 if CUTS > 10 else 120)
def test_power_cuts_undo_nothing_that_was_answered() -> None:
    rng, found = random.Random(SEED), Found()
    with directory() as root, tempfile.TemporaryDirectory(prefix="sampan-cuts-", dir=disks.memory_directory()) as store:
        base = Path(store) / "base"
        pulls = prepare(base, root)
        while found.cuts < CUTS:
            count = min(PER_ROUND, CUTS - found.cuts)
            cuts = one_round(base, pulls, root, Path(store), rng, count, found)
            for cut in cuts:
                look(cut, root, found)
            if len(cuts) < count:
                break  # the workers ended with errors, which are reported
    print("\n" + found.report())
    assert not found.undone, found.report()
    assert not found.closed, found.report()
    assert not found.errors, found.report()
    assert found.cuts == CUTS
