"""Pulling and unpacking an image of some 200 MB from a registry on loopback: Sampan, Docker and Podman in one run.

The image is made of this machine's /usr, five layers with gzip; the registry is Debian's docker-registry. All run in
a network namespace of their own. Prints a table and writes JSON. Never a gate.

    python bench/pull.py [--runs 3] [--megabytes 200] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from isal import igzip

from peers import dockerd, namespaces, sampan

NAME = "127.0.0.1:5000/bench/big:1"


def make_image(path: str, megabytes: int) -> None:
    """A docker-archive of five layers with files of /usr until they are that large compressed."""
    files = (
        os.path.join(top, name)
        for start in (
            "/usr/lib/python3",
            "/usr/share",
            "/usr/lib/x86_64-linux-gnu",
            "/usr/bin",
            "/usr/lib",
            "/usr/sbin",
        )
        for top, _, names in os.walk(start)
        for name in sorted(names)
    )
    layers, diff_ids = [], []
    for _ in range(5):
        plain, packed = hashlib.sha256(), io.BytesIO()
        with igzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1) as out:
            counted = _Tee(out, plain)
            with tarfile.open(fileobj=counted, mode="w|") as tar:
                while packed.tell() < megabytes * 10**6 // 5 and (file := next(files, None)):
                    if os.path.isfile(file) and not os.path.islink(file):
                        tar.add(file, recursive=False)
        layers.append(packed.getvalue())
        diff_ids.append(f"sha256:{plain.hexdigest()}")
    config = json.dumps(
        {"os": "linux", "architecture": "amd64", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    ).encode()
    with tarfile.open(path, "w") as archive:
        entries = [(f"{index}.tar.gz", layer) for index, layer in enumerate(layers)]
        manifest = [{"Config": "config.json", "RepoTags": [NAME], "Layers": [name for name, _ in entries]}]
        for name, data in [*entries, ("config.json", config), ("manifest.json", json.dumps(manifest).encode())]:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


class _Tee:
    def __init__(self, out: object, digest: object) -> None:
        self._out, self._digest = out, digest

    def write(self, data: bytes) -> int:
        self._digest.update(data)  # type: ignore[attr-defined]
        self._out.write(data)  # type: ignore[attr-defined]
        return len(data)


@contextlib.contextmanager
def registry(root: str, namespace: int) -> Iterator[None]:
    """Debian's docker-registry in a network namespace."""
    config = f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {root}/registry}}}}\nhttp: {{addr: 127.0.0.1:5000}}\nlog: {{level: error}}\n"
    Path(f"{root}/registry.yml").write_text(config)
    process = subprocess.Popen(["nsenter", "-t", str(namespace), "-n", "docker-registry", "serve", f"{root}/registry.yml"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    time.sleep(1)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def timed(pull: Callable[[], object], forget: Callable[[], object], runs: int) -> float:
    """Median seconds of a pull into a store that has not got the image; what is written is on the disk before the next."""
    times = []
    for _ in range(runs):
        forget()
        os.sync()
        began = time.perf_counter()
        pull()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def command(*arguments: str, env: dict[str, str], check: bool = True) -> Callable[[], object]:
    """A callable that runs a command."""
    return lambda: subprocess.run(arguments, env=env, check=check, capture_output=True)


class Peak:
    """The largest memory (PSS) of the engine's processes and their children while this lasts, in MiB (samples)."""

    def __init__(self, path: str) -> None:
        self._path, self.mib, self._stop = path, 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            self.mib = max(self.mib, sum(map(_pss, self._processes())) / 1024)

    def _processes(self) -> set[int]:
        parents, found = {}, set()
        for entry in os.listdir("/proc"):
            if entry.isdecimal():
                with contextlib.suppress(OSError):
                    parents[int(entry)] = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
                    words = Path(f"/proc/{entry}/cmdline").read_bytes()
                    if self._path.encode() in words and (b"sampand" in words or b"sampan.keeper" in words):
                        found.add(int(entry))
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return found


def _pss(pid: int) -> int:
    """Proportional set size in KiB (proc_pid_smaps(5))."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def main() -> None:
    """Measures whatever is installed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--json")
    options = parser.parse_args()
    root, results = tempfile.mkdtemp(prefix="sampan-bench-"), {}
    try:
        with namespaces() as (host, _), registry(root, host):
            make_image(f"{root}/image.tar", options.megabytes)
            with sampan(root, host) as env:
                for words in (("load", "-i", f"{root}/image.tar"), ("push", NAME)):
                    subprocess.run(["sampan", *words], env=env, check=True, capture_output=True)
                forget = command("sampan", "rmi", NAME, env=env)
                with Peak(f"{root}/") as peak:
                    results["sampan"] = timed(command("sampan", "pull", NAME, env=env), forget, options.runs)
                results["sampan peak MiB"] = peak.mib
            if shutil.which("dockerd"):
                with dockerd(root, host) as env:
                    forget = command("docker", "rmi", NAME, env=env, check=False)
                    results["docker"] = timed(command("docker", "pull", NAME, env=env), forget, options.runs)
            if shutil.which("podman"):
                podman = [
                    "nsenter",
                    "-t",
                    str(host),
                    "-n",
                    "podman",
                    "--root",
                    f"{root}/podman",
                    "--runroot",
                    f"{root}/podman-run",
                ]
                forget = command(*podman, "rmi", "-f", NAME, env=dict(os.environ), check=False)
                pull = command(*podman, "pull", "--tls-verify=false", NAME, env=dict(os.environ))
                results["podman"] = timed(pull, forget, options.runs)
    finally:
        subprocess.run(["umount", f"{root}/podman/overlay"], capture_output=True)
        shutil.rmtree(root, ignore_errors=True)
    for name, value in results.items():
        print(f"{name:<20}{value:9.2f}" + ("" if "MiB" in name else f" s   {value / results['sampan']:.2f}x"))
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": os.uname().release, "results": results}, indent=1))
    sys.exit(0)


if __name__ == "__main__":
    main()
