"""How long a container takes from command to exit: Sampan against Docker and Podman, in one run.

Whole processes, `true` in busybox, no network. Peers are measured when they are installed (docker.io, podman, crun:
`apt-get install --no-install-recommends docker.io podman crun`); their daemons run in a network and mount namespace
of their own. Prints a table and writes JSON. Never a gate: times belong to the machine.

    python bench/start.py [--runs 20] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from peers import dockerd, sampan


def measure(run: Callable[[], object], runs: int) -> dict[str, float]:
    """Median, fastest and 95th percentile in milliseconds, after three warm-up runs."""
    times = []
    for number in range(runs + 3):
        began = time.perf_counter()
        run()
        if number >= 3:
            times.append((time.perf_counter() - began) * 1000)
        time.sleep(0.05)
    times.sort()
    return {"median": statistics.median(times), "min": times[0], "p95": times[int(len(times) * 0.95) - 1]}


def command(*args: str, env: dict[str, str] | None = None) -> Callable[[], object]:
    """A callable that runs a command and fails when the command does."""
    return lambda: subprocess.run(args, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def api_times(socket_path: str, runs: int) -> dict[str, dict[str, float]]:
    """create + start + wait, and exec of true, over the API with one connection."""
    from sampan.client.http import Http

    http = Http(socket_path)
    body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}}
    made: list[str] = []

    def whole() -> None:
        made.append(http.call("POST", "/containers/create", body)["Id"])
        http.call("POST", f"/containers/{made[-1]}/start")
        http.call("POST", f"/containers/{made[-1]}/wait")

    found = {"create+start+wait (API)": measure(whole, runs)}
    for identifier in made:
        http.call("DELETE", f"/containers/{identifier}")
    box = http.call("POST", "/containers/create", {**body, "Cmd": ["sleep", "600"]})["Id"]
    http.call("POST", f"/containers/{box}/start")

    def exec_() -> None:
        session = http.call("POST", f"/containers/{box}/exec", {"Cmd": ["true"], "AttachStdout": True})["Id"]
        response = Http(socket_path).send("POST", f"/exec/{session}/start", {}, upgrade=True)
        for _ in response.frames():
            pass
        response.close()

    found["exec true (API)"] = measure(exec_, runs)
    http.call("DELETE", f"/containers/{box}?force=1")
    return found


def parallel(socket_path: str, count: int) -> float:
    """Seconds to create, start and await `count` containers side by side."""
    from concurrent.futures import ThreadPoolExecutor

    from sampan.client.http import Http

    def one(_: int) -> None:
        http = Http(socket_path)
        body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none", "AutoRemove": True}}
        identifier = http.call("POST", "/containers/create", body)["Id"]
        waiting = Http(socket_path).send("POST", f"/containers/{identifier}/wait?condition=removed")
        http.call("POST", f"/containers/{identifier}/start")
        waiting.read()

    began = time.perf_counter()
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(one, range(count)))
    return time.perf_counter() - began


def docker_run(root: str, run: tuple[str, ...], runs: int) -> dict[str, float]:
    """`docker run` against its own daemon."""
    with dockerd(root) as env:
        subprocess.run(["docker", *run], env=env, check=True, stdout=subprocess.DEVNULL)
        return measure(command("docker", *run, env=env), runs)


def podman_run(root: str, run: tuple[str, ...], runs: int) -> dict[str, float]:
    """`podman run`, with crun, or with runc where crun refuses the machine's hybrid cgroups."""
    base = ("podman", "--root", f"{root}/podman", "--runroot", f"{root}/podman-run", "--cgroup-manager", "cgroupfs")
    subprocess.run([*base, "load", "-i", f"{root}/busybox.tar"], check=True, capture_output=True)
    # Its default of raised limits fails without CAP_SYS_RESOURCE.
    run = (*run[:2], "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000", *run[2:])
    failed: subprocess.CalledProcessError | None = None
    for runtime in ("crun", "runc"):
        whole = [*base, "--runtime", runtime, *run]
        try:
            subprocess.run(whole, check=True, capture_output=True)
        except subprocess.CalledProcessError as error:
            failed = error
            continue
        print(f"podman runs with {runtime}", file=sys.stderr)
        return measure(command(*whole), runs)
    assert failed is not None
    raise failed


def main() -> None:
    """Measures whatever is installed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--json")
    options = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    root = tempfile.mkdtemp(prefix="sampan-bench-")
    try:
        with sampan(root) as env:
            run = ("run", "--rm", "--network", "none", "busybox", "true")
            results["sampan run"] = measure(command("sampan", *run, env=env), options.runs)
            results |= api_times(f"{root}/s.sock", options.runs)
            results["100 in parallel"] = {"median": parallel(f"{root}/s.sock", 100) * 1000}
            for name, peer in (("docker", docker_run), ("podman", podman_run)):
                try:
                    results[f"{name} run"] = peer(root, run, options.runs)
                except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
                    print(f"{name} could not be measured: {error}", file=sys.stderr)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print(f"{'':<26}{'median':>9}{'min':>9}{'p95':>9}  ms")
    for name, row in results.items():
        print(
            f"{name:<26}" + "".join(f"{row[key]:9.1f}" if key in row else " " * 9 for key in ("median", "min", "p95"))
        )
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": os.uname().release, "results": results}, indent=1))


if __name__ == "__main__":
    main()
