"""What a virtual machine costs beside a container: time to start, memory of one more, a cold boot, in one run.

    python bench/machines.py [--runs 15] [--count 6] [--json FILE]

Figures belong to the machine: under software emulation (TCG) they follow its CPU closely, so the cold boot of the same
run is printed beside them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from peers import dockerd, sampan
from start import command, measure

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))


def cold_boot(cache: str, runs: int) -> list[float]:
    """Seconds from nothing to a guest whose agent is ready for a container."""
    import asyncio

    from sampan.engine.machines import ordinary
    from sampan.vm.disks import Disks
    from sampan.vm.templates import Templates, boot

    async def once() -> float:
        templates = Templates(cache, Disks(cache), ordinary())
        shape = await templates.shape(lambda _: None)
        with tempfile.TemporaryDirectory(dir="/dev/shm") as work:
            os.close(Disks(cache).writable(f"{work}/disk"))
            began = time.perf_counter()
            await boot(shape, work, 120.0, ordinary())
            return time.perf_counter() - began

    return [asyncio.run(once()) for _ in range(runs)]


def machine_memory(root: str) -> tuple[int, int]:
    """(machines, PSS of their QEMUs and shims in bytes) of the daemon with this state."""
    count = total = 0
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes()
            parent = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1]
            if not words.startswith(b"qemu\0") or root.encode() not in Path(f"/proc/{parent}/cmdline").read_bytes():
                continue
            for pid in (name, parent):
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
                total += int(re.findall(r"^Pss:\s+(\d+)", text, re.M)[0]) << 10
            count += 1
        except (OSError, IndexError):
            continue
    return count, total


def marginal_memory(env: dict[str, str], root: str, count: int) -> list[float]:
    """MiB of PSS that each further idle machine adds."""
    totals = [0.0]
    for number in range(count):
        command(
            "sampan",
            "run",
            "-d",
            "--name",
            f"idle{number}",
            "--isolation",
            "vm",
            "--network",
            "none",
            "busybox",
            "sleep",
            "600",
            env=env,
        )()
        time.sleep(2)
        totals.append(machine_memory(root)[1] / (1 << 20))
    for number in range(count):
        command("sampan", "rm", "-f", f"idle{number}", env=env)()
    return [after - before for before, after in itertools.pairwise(totals)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--json", default="")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="sampan-bench-") as root, sampan(root) as env:
        command("sampan", "vm", "prepare", env=env)()
        run = ("run", "--rm", "--network", "none")
        machine = command("sampan", *run, "--isolation", "vm", "busybox", "true", env=env)
        found["machine (ms)"] = measure(machine, options.runs)
        found["container (ms)"] = measure(command("sampan", *run, "busybox", "true", env=env), options.runs)
        command(
            "sampan", "run", "-d", "--name", "box", "--isolation", "vm", *run[2:], "busybox", "sleep", "600", env=env
        )()
        found["exec in a machine (ms)"] = measure(command("sampan", "exec", "box", "true", env=env), options.runs)
        command("sampan", "rm", "-f", "box", env=env)()
        found["further idle machine (MiB PSS)"] = marginal_memory(env, root, options.count)
        boots = cold_boot(f"{root}/data/vm", 3)
        found["cold boot (s)"] = boots
        found["cold boot / machine"] = statistics.median(boots) * 1000 / found["machine (ms)"]["median"]
        if shutil.which("dockerd"):
            with dockerd(root) as docker:
                found["docker run (ms)"] = measure(command("docker", *run, "busybox", "true", env=docker), options.runs)
    for name, value in found.items():
        if isinstance(value, dict):
            print(f"{name:32} median {value['median']:.1f}   min {value['min']:.1f}   p95 {value['p95']:.1f}")
        elif isinstance(value, list):
            print(f"{name:32} {'  '.join(f'{item:.1f}' for item in value)}")
        else:
            print(f"{name:32} {value:.1f}")
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
