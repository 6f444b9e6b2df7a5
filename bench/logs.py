"""How fast a container's output is stored: Sampan against Docker's json-file, in one run.

One container writes 100 MB of lines with `cat`, so that the writer is no limit; the time is that from start to the end of wait. Then the log is read back and its
SHA-256 compared with what was written.

    python bench/logs.py [--megabytes 100] [--json FILE]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import tempfile
import time

from peers import dockerd, sampan

LINE = b"The quick brown fox jumps over the lazy dog, again and again, for a hundred bytes of log: 0123456789.\n"


def write_lines(path: str, size: int) -> str:
    """Makes a file of lines for the container to write out. Returns its digest."""
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for begin in range(0, size, len(LINE)):
            part = LINE[: size - begin]
            digest.update(part)
            file.write(part)
    return digest.hexdigest()


def measure(program: str, env: dict[str, str], lines: str, expected: str) -> tuple[float, bool]:
    """(seconds, whether every byte was there)."""
    create = [
        program,
        "create",
        "--network",
        "none",
        "--name",
        "logger",
        "-v",
        f"{lines}:/lines:ro",
        "busybox",
        "cat",
        "/lines",
    ]
    subprocess.run(create, env=env, check=True, capture_output=True)
    began = time.perf_counter()
    subprocess.run([program, "start", "logger"], env=env, check=True, capture_output=True)
    subprocess.run([program, "wait", "logger"], env=env, check=True, capture_output=True)
    took = time.perf_counter() - began
    digest = hashlib.sha256()
    with subprocess.Popen([program, "logs", "logger"], env=env, stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        while data := reader.stdout.read(1 << 20):
            digest.update(data)
    subprocess.run([program, "rm", "logger"], env=env, check=True, capture_output=True)
    return took, digest.hexdigest() == expected


def main() -> None:
    """Measures whatever is installed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--json")
    options = parser.parse_args()
    size = options.megabytes * 1_000_000
    root = tempfile.mkdtemp(prefix="sampan-bench-")
    results = {}
    try:
        lines = f"{root}/lines"
        expected = write_lines(lines, size)
        with sampan(root) as env:
            results["sampan"] = measure("sampan", env, lines, expected)
        if shutil.which("dockerd"):
            with dockerd(root) as env:
                subprocess.run(
                    ["docker", "load", "-i", f"{root}/busybox.tar"], env=env, check=True, capture_output=True
                )
                results["docker json-file"] = measure("docker", env, lines, expected)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    for name, (took, exact) in results.items():
        print(f"{name:18} {took:7.2f} s {size / took / 1e6:8.1f} MB/s  {'exact' if exact else 'NOT EXACT'}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=2)


if __name__ == "__main__":
    main()
