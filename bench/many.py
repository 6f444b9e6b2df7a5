"""What a thousand running containers cost those who look: ps, /metrics, the page's overview; and the daemon's restart.

Starts a daemon of its own, in a network namespace of its own, and `sleep` in busybox so many times. Prints a table, writes JSON.

    python bench/many.py [--count 1000] [--network none|bridge|named] [--rounds 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sampan import Client
from sampan.client.http import Http, NoEngine

BIN = Path(sys.executable).parent


class Daemon:
    """A sampand that can be restarted."""

    def __init__(self, root: str) -> None:
        self.socket, self._root = f"{root}/s.sock", root
        self.env = {
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "SAMPAN_HOST": f"unix://{self.socket}",
            "SAMPAN_AUTOSTART": "0",
        }
        self._holder = subprocess.Popen(["unshare", "-n", "sleep", "7200"])
        time.sleep(0.3)
        subprocess.run(["nsenter", "-t", str(self._holder.pid), "-n", "ip", "link", "set", "lo", "up"], check=True)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Seconds until it answers a list of its containers."""
        began = time.monotonic()
        self._process = subprocess.Popen(
            ["nsenter", "-t", str(self._holder.pid), "-n", str(BIN / "sampand"), "-H", f"unix://{self.socket}",
             "--data-root", f"{self._root}/data", "--exec-root", f"{self._root}/run"],
        )  # fmt: skip
        while True:
            try:
                Http(self.socket).call("GET", "/containers/json")
                return time.monotonic() - began
            except NoEngine:
                assert self._process.poll() is None, "sampand does not start"
                time.sleep(0.01)

    def stop(self, kill: bool = False) -> None:
        """SIGTERM or SIGKILL, and its end."""
        assert self._process is not None
        (self._process.kill if kill else self._process.terminate)()
        self._process.wait()

    def close(self) -> None:
        """Takes the namespace away too."""
        self.stop()
        self._holder.kill()
        self._holder.wait()


@contextlib.contextmanager
def running(count: int, network: str) -> Iterator[Daemon]:
    """A daemon with so many containers."""
    root = tempfile.mkdtemp(prefix="sampan-many-")
    daemon = Daemon(root)
    daemon.start()
    made: list[str] = []
    try:
        subprocess.run(["sampan", "bootstrap", "busybox"], env=daemon.env, check=True, capture_output=True)
        client = Client(f"unix://{daemon.socket}")
        names = _networks(client, count, network)

        def start(number: int) -> None:
            one = Client(f"unix://{daemon.socket}").containers.start(
                "busybox", ["sleep", "7200"], network=names[number % len(names)]
            )
            made.append(one.id)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(start, range(count)))
        yield daemon
    finally:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda name: Http(daemon.socket).call("DELETE", f"/containers/{name}?force=1"), made))
        daemon.close()
        shutil.rmtree(root)


def _networks(client: Client, count: int, network: str) -> list[str]:
    """Names of networks with room for all: a bridge of Linux has 1,023 ports."""
    if network != "named":
        return [network]
    names = [f"many{number}" for number in range(count // 500 + 1)]
    for number, name in enumerate(names):
        client.networks.create(name, subnet=f"10.{100 + number}.0.0/16")
    return names


def measure(what: Callable[[], object], rounds: int) -> dict[str, float]:
    """Seconds: of the first time, and of those after it the median and the longest."""
    times = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        what()
        times.append(time.perf_counter() - began)
        time.sleep(0.3)
    return {"first": times[0], "median": statistics.median(times[1:]), "longest": max(times[1:])}


def restart(daemon: Daemon, rounds: int, kill: bool) -> dict[str, float]:
    """As measure(), from the end of the old daemon to the first answer of the new one."""
    times = []
    for _ in range(rounds + 1):
        daemon.stop(kill)
        times.append(daemon.start())
    return {"first": times[0], "median": statistics.median(times[1:]), "longest": max(times[1:])}


def main() -> None:
    """The entry."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--network", choices=["none", "bridge", "named"], default="none")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json")
    options = parser.parse_args()
    began = time.monotonic()
    with running(options.count, options.network) as daemon:
        print(
            f"{options.count} containers on {options.network}: started in {time.monotonic() - began:.1f} s", flush=True
        )
        http = Http(daemon.socket)

        def raw(path: str) -> Callable[[], object]:
            return lambda: http.send("GET", path).read()

        rows = {
            "ps (command)": measure(
                lambda: subprocess.run(["sampan", "ps"], env=daemon.env, check=True, stdout=subprocess.DEVNULL),
                options.rounds,
            ),
            "GET /containers/json": measure(raw("/containers/json"), options.rounds),
            "GET /metrics": measure(raw("/metrics"), options.rounds),
            "GET /sampan/overview": measure(raw("/sampan/overview"), options.rounds),
            "GET /networks": measure(raw("/networks"), options.rounds),
            "restart": restart(daemon, 1, kill=False),
            "restart after SIGKILL": restart(daemon, 1, kill=True),
        }
        assert len(Http(daemon.socket).call("GET", "/containers/json")) == options.count
    print(f"{'seconds':<24}{'first':>8}{'median':>8}{'longest':>9}")
    for name, row in rows.items():
        print(f"{name:<24}{row['first']:>8.3f}{row['median']:>8.3f}{row['longest']:>9.3f}")
    if options.json:
        Path(options.json).write_text(
            json.dumps({"count": options.count, "network": options.network, "seconds": rows}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
