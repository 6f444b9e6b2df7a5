"""Builds: a rebuild with nothing to do (20 steps, 5,000 files) and a cold one of several stages. Sampan, and Docker's BuildKit.

Docker needs a client that speaks to BuildKit itself: Debian 12's docker.io, or docker-cli with docker-buildx.
Prints a table and writes JSON. Never a gate.

    python bench/build.py [--runs 10] [--files 5000] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from peers import dockerd, namespaces, sampan

COLD = """FROM busybox AS one
RUN i=0; while [ $i -lt 300 ]; do echo $i > /f$i; i=$((i+1)); done
RUN mkdir /out && cat /f* > /out/one
FROM busybox AS two
COPY files /src
RUN find /src -type f | wc -l > /two
FROM busybox
WORKDIR /app
COPY --from=one /out /app/out
COPY --from=two /two /app/
COPY files/0 /app/files
RUN ls -R /app > /listing
CMD ["cat", "/listing"]
"""


def make_contexts(root: str, count: int) -> tuple[str, str]:
    """A context of many files with 20 steps, and one of several stages."""
    noop, cold = f"{root}/noop", f"{root}/cold"
    for number in range(count):
        path = Path(noop, "files", str(number // 100), f"{number}.txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}\n" * 50)
    steps = [f"RUN echo {number} > /r{number}" for number in range(16)]
    Path(noop, "Dockerfile").write_text(
        "\n".join(["FROM busybox", "WORKDIR /w", "COPY . .", *steps, 'CMD ["true"]']) + "\n"
    )
    shutil.copytree(f"{noop}/files", f"{cold}/files")
    Path(cold, "Dockerfile").write_text(COLD)
    return noop, cold


def timed(run: Callable[[], object], runs: int, before: Callable[[], object] = lambda: None) -> float:
    """Median milliseconds of a whole process."""
    times = []
    for _ in range(runs):
        before()
        began = time.perf_counter()
        run()
        times.append((time.perf_counter() - began) * 1000)
        time.sleep(0.2)
    return statistics.median(times)


def buildkit_client() -> str | None:
    """A docker CLI that can talk to BuildKit."""
    for program in ("/usr/bin/docker", shutil.which("docker") or ""):
        if program and os.path.exists(program):
            version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
            if (
                "version 20." in version
                or subprocess.run([program, "buildx", "version"], capture_output=True).returncode == 0
            ):
                return program
    return None


def main() -> None:
    """Measures whatever is installed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--json")
    options = parser.parse_args()
    root, results = tempfile.mkdtemp(prefix="sampan-bench-"), {}

    def measure(name: str, program: str, env: dict[str, str], prune: list[str]) -> None:
        def build(context: str) -> Callable[[], object]:
            return lambda: subprocess.run(
                [program, "build", "-t", "bench", context], env=env, check=True, capture_output=True
            )

        build(noop)()
        results[f"{name}: nothing to do"] = timed(build(noop), options.runs)
        results[f"{name}: cold, several stages"] = timed(build(cold), max(3, options.runs // 3),
                                                         lambda: subprocess.run([program, *prune], env=env, check=True, capture_output=True))  # fmt: skip

    try:
        with namespaces() as (host, _):
            noop, cold = make_contexts(root, options.files)
            with sampan(root, host) as env:
                measure("sampan", "sampan", env, ["builder", "prune", "-f"])
            client = buildkit_client()
            if client and shutil.which("dockerd"):
                with dockerd(root, host) as env:
                    measure("docker", client, {**env, "DOCKER_BUILDKIT": "1"}, ["builder", "prune", "-a", "-f"])
    finally:
        shutil.rmtree(root, ignore_errors=True)
    for name, value in results.items():
        print(f"{name:<32}{value:9.0f} ms")
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": os.uname().release, "results": results}, indent=1))


if __name__ == "__main__":
    main()
