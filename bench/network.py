"""Networks: start on the default bridge, growth over 200 containers, names, and a published port's throughput.

Sampan and, where it is installed, Docker (without its userland proxy), each on a host of its own made of network
namespaces; iperf3 from Debian for the throughput. Prints a table and writes JSON. Never a gate.

    python bench/network.py [--runs 20] [--containers 200] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

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


def throughput(program: str, env: dict[str, str], outside: int) -> float:
    """Gbit/s from outside to a published port, the better of three runs."""
    run = [program, "run", "-d", "--name", "perf", "-p", "5201:5201", "busybox", "sleep", "1000"]
    subprocess.run(run, env=env, check=True, capture_output=True)
    server = subprocess.Popen(inside(pid_of(program, env, "perf"), "iperf3", "-s"), stdout=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        best = 0.0
        for _ in range(3):
            client = inside(outside, "iperf3", "-c", "10.99.0.1", "-t", "3", "-J")
            report = json.loads(subprocess.run(client, check=True, capture_output=True).stdout)
            best = max(best, report["end"]["sum_received"]["bits_per_second"] / 1e9)
        return best
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
    parser.add_argument("--json")
    options = parser.parse_args()
    root = tempfile.mkdtemp(prefix="sampan-bench-")
    results: dict[str, float] = {}
    iperf = shutil.which("iperf3") is not None
    try:
        with namespaces() as (host, outside), sampan(root, host) as env:
            results["sampan run, bridge (ms)"] = runs("sampan", env, options.runs)
            results |= {
                f"{key} of {options.containers} (ms)": value
                for key, value in growth(env, root, options.containers).items()
            }
            if iperf:
                results["sampan published port (Gbit/s)"] = throughput("sampan", env, outside)
        if shutil.which("dockerd"):
            with namespaces() as (host, outside), dockerd(root, host) as env:
                results["docker run, bridge (ms)"] = runs("docker", env, options.runs)
                if iperf:
                    results["docker published port (Gbit/s)"] = throughput("docker", env, outside)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    for name, value in results.items():
        print(f"{name:36} {value:8.2f}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=2)


if __name__ == "__main__":
    main()
