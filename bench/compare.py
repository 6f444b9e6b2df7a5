"""The comparison that docs/comparison holds: made twice, and the two held against each other.

    python bench/compare.py [--image busybox] [--out docs/comparison] [--rounds 8] [--starts 20] [--cold-starts 5]

Two runs agree when, for each measure and kind, what they print as spread has something in common.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from peers import sampan

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))


def main() -> None:
    from sampan.compare.model import disagreements, from_json

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", default="busybox")
    parser.add_argument("--out", default="docs/comparison")
    for name, default in (("rounds", 8), ("starts", 20), ("cold-starts", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    amounts = [f"--{name}={vars(options)[name.replace('-', '_')]}" for name in ("rounds", "starts", "cold-starts")]
    with tempfile.TemporaryDirectory(prefix="sampan-bench-") as root, sampan(root) as env:
        for number in (1, 2):
            subprocess.run(
                ["sampan", "compare", "--system-vm", *amounts, "-o", f"{out}/run{number}.json", options.image],
                env=env,
                check=True,
            )
        for form, name in (("html", "report.html"), ("table", "table.txt")):
            subprocess.run(
                ["sampan", "compare", "--from", f"{out}/run1.json", "--format", form, "-o", f"{out}/{name}"],
                env=env,
                check=True,
            )
    runs = [from_json(json.loads((out / f"run{number}.json").read_text())) for number in (1, 2)]
    found = disagreements(*runs)
    count = sum(len(row) for row in runs[0].found.values())
    print(f"{count - len(found)} of {count} figures of the second run agree with the first within the printed spread")
    for text in found:
        print(f"  {text}")


if __name__ == "__main__":
    main()
