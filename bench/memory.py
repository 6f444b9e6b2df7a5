"""What the engine costs in memory: idle, and for each of 100 idle containers.

The sum over all processes of ours: sampand, the keeper, its prefork. PSS, since they share pages; RSS for the idle engine.

    python bench/memory.py [--containers 100] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from peers import sampan


def processes(root: str) -> list[int]:
    """The pids of this engine's processes."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(word.startswith(root.encode()) for word in words) and b"python" in words[0]:
                found.append(int(entry))
    return found


def memory(root: str, field: str) -> float:
    """MiB of all processes together ("Pss" or "Rss")."""
    total = 0
    for pid in processes(root):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(f"{field}:"):
                total += int(line.split()[1])
    return total / 1024


def main() -> None:
    """Starts an engine and its containers and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--containers", type=int, default=100)
    parser.add_argument("--json")
    options = parser.parse_args()
    root = tempfile.mkdtemp(prefix="sampan-bench-")
    try:
        with sampan(root) as env:
            run = ["sampan", "run", "-d", "--rm", "--network", "none", "busybox", "sleep", "100000"]
            names = [subprocess.run(run, env=env, check=True, capture_output=True, text=True).stdout.strip()]
            time.sleep(1)
            idle, before = memory(root, "Rss"), memory(root, "Pss")
            for _ in range(options.containers):
                names.append(subprocess.run(run, env=env, check=True, capture_output=True, text=True).stdout.strip())
            time.sleep(1)
            each = (memory(root, "Pss") - before) / options.containers
            subprocess.run(["sampan", "rm", "-f", *names], env=env, check=True, capture_output=True)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print(f"idle engine           {idle:7.1f} MiB RSS, {before:.1f} MiB PSS")
    print(f"per idle container    {each:7.3f} MiB PSS")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"idle_rss_mib": idle, "idle_pss_mib": before, "per_container_pss_mib": each}, file, indent=2)


if __name__ == "__main__":
    main()
