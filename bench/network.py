"""Networks: start on the default bridge, growth over 200 containers, names, and a published port's throughput.

Sampan and, where it is installed, Docker (without its userland proxy), each on a host of its own made of network
namespaces; iperf3 from Debian for the throughput. Prints a table and writes JSON. Never a gate.

    python bench/network.py [--runs 20] [--containers 200] [--rounds 7] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

from peers import dockerd, namespaces, sampan
from sampan.client.http import Http

_ASK = """
import socket, sys, time
s = socket.socket(2, 2); s.settimeout(5); times = []
for number in range(int(sys.argv[1])):
    name = b"m%d" % number
    query = b"aa" + bytes([1, 0, 0, 1, 0, 0, 0, 0, 0, 0, len(name)]) + name + bytes([0, 0, 1, 0, 1])
    began = time.perf_counter(); s.sendto(query, ("127.0.0.11", 53)); answer = s.recv(500)
    times.append((time.perf_counter() - began) * 1000); assert answer[7] == 1
times.sort(); print(times[len(times) // 2], times[-1])
"""


def runs(program: str, env: dict[str, str], count: int) -> float:
    """Median milliseconds of `run --rm busybox true` on the default bridge."""
    times = []
    for number in range(count + 3):
        began = time.perf_counter()
        subprocess.run([program, "run", "--rm", "busybox", "true"], env=env, check=True, capture_output=True)
        if number >= 3:
            times.append((time.perf_counter() - began) * 1000)
        time.sleep(0.1)
    return statistics.median(times)


def inside(pid: int, *command: str) -> list[str]:
    """A command in the network namespace of a process."""
    return ["nsenter", "-t", str(pid), "-n", *command]


def pid_of(program: str, env: dict[str, str], name: str) -> int:
    """The pid of a container's init."""
    command = [program, "inspect", "-f", "{{.State.Pid}}", name]
    return int(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)


@contextlib.contextmanager
def published(program: str, env: dict[str, str], outside: int) -> Iterator[Callable[[], float]]:
    """An iperf3 server in a container behind a published port; gives what measures Gbit/s from outside to it."""
    run = [program, "run", "-d", "--name", "perf", "-p", "5201:5201", "busybox", "sleep", "1000"]
    subprocess.run(run, env=env, check=True, capture_output=True)
    server = subprocess.Popen(inside(pid_of(program, env, "perf"), "iperf3", "-s"), stdout=subprocess.DEVNULL)

    def measure() -> float:
        client = inside(outside, "iperf3", "-c", "10.99.0.1", "-t", "2", "-J")
        report = json.loads(subprocess.run(client, check=True, capture_output=True).stdout)
        return float(report["end"]["sum_received"]["bits_per_second"]) / 1e9

    try:
        time.sleep(0.5)
        yield measure
    finally:
        server.kill()
        server.wait()
        subprocess.run([program, "rm", "-f", "perf"], env=env, check=True, capture_output=True)


def growth(env: dict[str, str], root: str, count: int) -> dict[str, float]:
    """Milliseconds to create and start the first and the last twenty of many containers on one network, and their names."""
    http, times = Http(f"{root}/s.sock"), []
    subprocess.run(["sampan", "network", "create", "many"], env=env, check=True, capture_output=True)
    for number in range(count):
        body = {"Image": "busybox", "Cmd": ["sleep", "10000"], "HostConfig": {"NetworkMode": "many"}}
        began = time.perf_counter()
        identifier = http.call("POST", f"/containers/create?name=m{number}", body)["Id"]
        http.call("POST", f"/containers/{identifier}/start")
        times.append((time.perf_counter() - began) * 1000)
        time.sleep(0.06)
    asked = subprocess.run(inside(pid_of("sampan", env, "m0"), sys.executable, "-c", _ASK, str(count)),
                           check=True, capture_output=True, text=True).stdout.split()  # fmt: skip
    names = [f"m{number}" for number in range(count)]
    subprocess.run(["sampan", "rm", "-f", *names], env=env, check=True, capture_output=True)
    return {"first 20": statistics.median(times[:20]), "last 20": statistics.median(times[-20:]),
            "name, median": float(asked[0]), "name, slowest": float(asked[1])}  # fmt: skip


def main() -> None:
    """Measures whatever is installed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--containers", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json")
    options = parser.parse_args()
    root = tempfile.mkdtemp(prefix="sampan-bench-")
    results: dict[str, float] = {}
    try:
        with contextlib.ExitStack() as stack:
            hosts = {}
            ours, outside = stack.enter_context(namespaces())
            hosts["sampan"] = (stack.enter_context(sampan(root, ours)), outside)
            results["sampan run, bridge (ms)"] = runs("sampan", hosts["sampan"][0], options.runs)
            results |= {
                f"{key} of {options.containers} (ms)": value
                for key, value in growth(hosts["sampan"][0], root, options.containers).items()
            }
            if shutil.which("dockerd"):
                theirs, outside = stack.enter_context(namespaces())
                hosts["docker"] = (stack.enter_context(dockerd(root, theirs)), outside)
                results["docker run, bridge (ms)"] = runs("docker", hosts["docker"][0], options.runs)
            if shutil.which("iperf3"):
                ports = {name: stack.enter_context(published(name, *host)) for name, host in hosts.items()}
                # In turn, as what else the machine does changes from second to second.
                rounds = [{name: measure() for name, measure in ports.items()} for _ in range(options.rounds)]
                for name in ports:
                    results[f"{name} published port (Gbit/s)"] = statistics.median(row[name] for row in rounds)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    for name, value in results.items():
        print(f"{name:36} {value:8.2f}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=2)


if __name__ == "__main__":
    main()
