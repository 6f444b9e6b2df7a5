"""The comparison itself: both engines play each case at the same time. `python -m tests.differential.run [SUBJECT[:TEXT]]...`"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import Daemon
from tests.differential import differ, dockerd, table, verdicts, world
from tests.differential.sides import Side


@contextmanager
def both() -> Iterator[tuple[Side, Side]]:
    """dockerd's side and Sampan's, with the same world."""
    shared = Path(tempfile.mkdtemp(prefix="differential-"))
    (shared / "config").mkdir()
    ours = Daemon(shared / "sampan", prefix=["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh"])
    ours.root.mkdir()
    try:
        with dockerd.running(shared) as socket:
            ours.start()
            try:
                sides = Side("docker", socket, shared), Side("us", ours.socket, shared)
                archive = world.archive()
                with ThreadPoolExecutor(2) as pool:
                    list(pool.map(lambda side: side.populate(archive), sides))
                yield sides
                with ThreadPoolExecutor(2) as pool:
                    list(pool.map(lambda side: side.tidy(), sides))
                for row in ours.http.call("GET", "/containers/json?all=1"):
                    ours.http.call("DELETE", f"/containers/{row['Id']}?force=1&v=1")
            finally:
                ours.stop()
    finally:
        if not os.environ.get("SAMPAN_KEEP"):
            shutil.rmtree(shared, ignore_errors=True)


def places(side: Side) -> dict[str, str]:
    shared = str(side.shared)
    return {f"{shared}/{side.name}": "<here>", f"{shared}/data": "<root>", f"{shared}/sampan/data": "<root>", f"{shared}/sampan/run": "<run>",
            side.socket: "<socket>"}  # fmt: skip


def cases(chosen: list[str]) -> list[table.Case]:
    found = []
    for subject in table.subjects():
        wanted = [one.partition(":")[2] for one in chosen if one.partition(":")[0] in (subject, "")]
        found += [
            case
            for case in table.read(subject)
            if not chosen or any(w in "\n".join(s.text for s in case.steps) for w in wanted)
        ]
    return found


def play(sides: tuple[Side, Side], chosen: list[table.Case], tell: Callable[[str], Any] = print) -> Counter[str]:
    """Compares all; what nobody has explained is told."""
    known, count = verdicts.rows(), Counter[str]()
    with ThreadPoolExecutor(2) as pool:
        for case in chosen:
            theirs, ours = pool.map(lambda side, case=case: side.play(case), sides)  # type: ignore[misc]
            for step, a, b in zip(case.steps, theirs, ours, strict=True):
                found = differ.compare(a, b, places(sides[0]), places(sides[1]))
                if step.setup:
                    found = [one for one in found if one.kind in ("status", "exit")]
                    if not found:
                        continue
                name = f"{case.subject}: {step.text}"
                result, left = verdicts.verdict(name, found, known)
                count[result] += 1
                if left:
                    tell("\n   ".join([name, *map(str, left)]))
            list(pool.map(lambda side: side.tidy(), sides))
    for row in known:
        if not row.used:
            tell(f"docs/differences.md: nothing is as it says: {row.lines} {row.what}")
    return count


if __name__ == "__main__":
    with both() as sides:
        counts = play(sides, cases(sys.argv[1:]), lambda words: print(words, flush=True))
    print(f"{sum(counts.values())} answers: {json.dumps(counts)}")
    sys.exit(1 if counts["wrong"] else 0)
