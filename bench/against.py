"""One checkout against another, in turn on one machine: how much longer a container takes to start, or an exec in one.

Each checkout has an environment of its own (.venv). Both engines run at the same time with data roots of their own, and
each round measures one after the other, in alternating order, so that what the machine does meanwhile meets both alike.
Prints medians, and the difference of each pair of rounds in percent with its spread. Never a gate.

    python bench/against.py BASE [HERE] [--runs 300] [--places memory,disk]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from sampan.client.http import Http, NoEngine

MEMORY = "/dev/shm"
BODY = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}}


class Side:
    """One of the two: a checkout with its engine."""

    def __init__(self, checkout: Path, root: Path) -> None:
        self.checkout, self.root = checkout, root
        self.socket = f"{root}/s.sock"
        path = f"{checkout}/.venv/bin:{os.environ['PATH']}"
        self.env = {**os.environ, "PATH": path, "SAMPAN_HOST": f"unix://{self.socket}", "SAMPAN_AUTOSTART": "0"}
        self.http = Http(self.socket)
        self.made: list[str] = []
        self.inside: dict[str, str] = {}  # containers and machines that run, for execs in them

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The engine with busybox, until the end of the context."""
        command = [f"{self.checkout}/.venv/bin/sampand", "-H", f"unix://{self.socket}",
                   "--data-root", f"{self.root}/data", "--exec-root", f"{self.root}/run"]  # fmt: skip
        with open(self.root / "log", "ab") as log:
            process = subprocess.Popen(command, env=self.env, stdout=log, stderr=log)
        try:
            for _ in range(400):
                with contextlib.suppress(NoEngine):
                    self.http.open()
                    break
                time.sleep(0.05)
            subprocess.run(["sampan", "bootstrap", "busybox"], env=self.env, check=True, stdout=subprocess.DEVNULL)
            yield
        finally:
            process.terminate()
            process.wait()

    def whole(self) -> float:
        """create + start + wait over the API, in milliseconds."""
        began = time.perf_counter()
        identifier = self.http.call("POST", "/containers/create", BODY)["Id"]
        self.http.call("POST", f"/containers/{identifier}/start")
        self.http.call("POST", f"/containers/{identifier}/wait")
        took = time.perf_counter() - began
        self.made.append(identifier)
        return took * 1000

    def start_alone(self) -> float:
        """start of a container that exists."""
        identifier = self.http.call("POST", "/containers/create", BODY)["Id"]
        time.sleep(0.01)
        began = time.perf_counter()
        self.http.call("POST", f"/containers/{identifier}/start")
        took = time.perf_counter() - began
        self.http.call("POST", f"/containers/{identifier}/wait")
        self.made.append(identifier)
        return took * 1000

    def exec(self, isolation: str = "") -> float:
        """create + start of an exec of `true` in what runs already, to the end of its output."""
        if isolation not in self.inside:
            body = {
                "Image": "busybox",
                "Cmd": ["sleep", "86400"],
                "HostConfig": {"NetworkMode": "none", "Isolation": isolation},
            }
            self.inside[isolation] = self.http.call("POST", "/containers/create", body)["Id"]
            self.http.call("POST", f"/containers/{self.inside[isolation]}/start")
        began = time.perf_counter()
        wanted = {"Cmd": ["true"], "AttachStdout": True, "AttachStderr": True}
        identifier = self.http.call("POST", f"/containers/{self.inside[isolation]}/exec", wanted)["Id"]
        Http(self.socket).call(
            "POST", f"/exec/{identifier}/start", {"Detach": False, "Tty": False}
        )  # it ends with the output
        return (time.perf_counter() - began) * 1000

    def exec_in_machine(self) -> float:
        """exec(), in a virtual machine."""
        return self.exec("vm")

    def spent(self) -> float:
        """What the keepers and their children that have ended took of the processors, in milliseconds: user and system."""
        ticks = 0
        for name in filter(str.isdecimal, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{name}/cmdline").read_bytes()
                if f"{self.root}/run".encode() in command and b"keeper" in command:
                    fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                    ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime of proc_pid_stat(5)
        return ticks * 1000 / os.sysconf("SC_CLK_TCK")

    def command(self) -> float:
        """`sampan run --rm --network none busybox true`, the whole process."""
        began = time.perf_counter()
        subprocess.run(["sampan", "run", "--rm", "--network", "none", "busybox", "true"], env=self.env, check=True)
        return (time.perf_counter() - began) * 1000

    def clear(self) -> None:
        """Removes the containers of a round."""
        for identifier in self.made:
            self.http.call("DELETE", f"/containers/{identifier}")
        self.made = []


MEASURES: dict[str, tuple[Callable[[Side], float], int]] = {  # what it is, and of how many runs one is measured
    "create+start+wait": (Side.whole, 1),
    "start": (Side.start_alone, 1),
    "sampan run --rm": (Side.command, 4),
    "exec": (Side.exec, 1),
    "exec in a machine": (Side.exec_in_machine, 4),
}


def compare(base: Side, here: Side, runs: int, titles: list[str]) -> None:
    """Prints a row for each measure."""
    for title in titles:
        measure, share = MEASURES[title]
        times: dict[Side, list[float]] = {base: [], here: []}
        spent = {base: 0.0, here: 0.0}
        rounds = max(runs // share, 10)
        for number in range(rounds + 5):
            pair = (base, here) if number % 2 else (here, base)
            for side in pair:
                before = side.spent()
                took = measure(side)
                time.sleep(0.03)  # for what the engine does once nobody asks
                if number >= 5:
                    times[side].append(took)
                    spent[side] += side.spent() - before
            if number % 50 == 49:
                base.clear()
                here.clear()
        base.clear()
        here.clear()
        old, new = statistics.median(times[base]), statistics.median(times[here])
        ratios = [100 * (b / a - 1) for a, b in zip(times[base], times[here], strict=True)]
        low, high = quartiles(ratios)
        fast = [min(times[side]) for side in (base, here)]
        print(
            f"  {title:<20}{old:8.2f} ms {new:8.2f} ms {100 * (new / old - 1):+7.1f} %   "
            f"pairs {statistics.median(ratios):+.1f} % (half of them {low:+.1f} to {high:+.1f})   fastest {fast[0]:.2f} and {fast[1]:.2f}   "
            f"keeper and its children {spent[base] / rounds:.2f} and {spent[here] / rounds:.2f} ms of CPU",
            flush=True,
        )


def quartiles(values: list[float]) -> tuple[float, float]:
    """Between which the middle half lies."""
    parts = statistics.quantiles(values, n=4)
    return parts[0], parts[2]


def main() -> None:
    """Measures both places that a data root may be in."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("here", type=Path, nargs="?", default=Path(__file__).parent.parent)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--places", default="memory,disk")
    parser.add_argument("--measures", default=",".join(MEASURES), help="which of: " + ", ".join(MEASURES))
    options = parser.parse_args()
    titles = options.measures.split(",")
    if not set(titles) <= set(MEASURES):
        parser.error(f"measures are {', '.join(MEASURES)}")
    sides = [options.base.resolve(), options.here.resolve()]
    for checkout in sides:
        if not (checkout / ".venv/bin/sampand").exists():
            sys.exit(f"{checkout} has no environment: run `make setup` there")
    names = [subprocess.run(["git", "-C", str(side), "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
             for side in sides]  # fmt: skip
    for place in options.places.split(","):
        print(
            f"data root {'in ' if place == 'memory' else 'on '}{place}: {names[0]} against {names[1]}, {options.runs} runs each"
        )
        roots = [
            Path(tempfile.mkdtemp(prefix="sampan-against-", dir=MEMORY if place == "memory" else None)) for _ in sides
        ]
        try:
            base, here = (Side(checkout, root) for checkout, root in zip(sides, roots, strict=True))
            with base.running(), here.running():
                compare(base, here, options.runs, titles)
        finally:
            for root in roots:
                shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
