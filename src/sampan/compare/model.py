"""What is measured, and what comes of it: measures, samples, their middle and spread."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

VERSION = 1
NATIVE, CONTAINER, VM, SYSTEM = "native", "container", "vm", "system-vm"
TITLES = {NATIVE: "native", CONTAINER: "container", VM: "microVM", SYSTEM: "system VM"}


# The quantile 0.995 of Student's distribution for the freedom that so many samples leave.
_STUDENT = {3: 9.925, 4: 5.841, 5: 4.604, 6: 4.032, 7: 3.707, 8: 3.499, 9: 3.355}


class CompareError(Exception):
    """The comparison can't be made; the message says why."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One thing that is measured. A sample times `scale` is in `unit`."""

    key: str
    group: str
    title: str
    unit: str
    scale: float = 1.0
    more_is_better: bool = False

    @property
    def label(self) -> str:
        """Its title with its unit."""
        return f"{self.title}, {self.unit}" if self.unit else self.title


MEASURES = [
    Measure("start.warm", "Start", "start to end of the command, warm", "ms", 1e3),
    Measure("start.cold", "Start", "the same, nothing cached", "ms", 1e3),
    Measure("memory.first", "Memory", "the first instance", "MiB", 2**-20),
    Measure("memory.next", "Memory", "each further instance", "MiB", 2**-20),
    Measure("memory.density", "Memory", "instances that fit into the free memory", "", 1, True),
    Measure("disk.own", "Disk", "each instance", "MiB", 2**-20),
    Measure("disk.shared", "Disk", "once for all of the image", "MiB", 2**-20),
    Measure("cpu.integer", "Processor", "integer arithmetic", "M/s", 1e-6, True),
    Measure("cpu.float", "Processor", "floating point", "M/s", 1e-6, True),
    Measure("memory.copy", "Processor", "copying memory", "GB/s", 1e-9, True),
    Measure("kernel.call", "Kernel", "a system call", "µs", 1e6),
    Measure("kernel.switch", "Kernel", "a switch between two processes", "µs", 1e6),
    Measure("file.write", "Files", "writing, to the disk", "MB/s", 1e-6, True),
    Measure("file.read", "Files", "reading, from the disk", "MB/s", 1e-6, True),
    Measure("file.random", "Files", "random reads of 4 KiB", "k/s", 1e-3, True),
    Measure("file.fsync", "Files", "fsync of 4 KiB", "ms", 1e3),
    Measure("file.names", "Files", "make, look at, delete a file", "k/s", 1e-3, True),
    Measure("net.latency", "Network", "there and back from the host", "µs", 1e6),
    Measure("net.throughput", "Network", "one stream to the host", "Gbit/s", 8e-9, True),
]
BY_KEY = {measure.key: measure for measure in MEASURES}


@dataclass(slots=True)
class Samples:
    """What was measured of one thing in one kind: in seconds, bytes, or per second."""

    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The middle."""
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """Between which all lie; of twenty and more, nine in ten.

        The range of few samples is narrower than what they come from: of three to nine it is widened to where the mean of
        as many others would be in 99 of 100 cases (Student's t for the difference of two means).
        """
        ordered = sorted(self.values)
        if len(ordered) >= 20:
            return quantile(ordered, 0.05), quantile(ordered, 0.95)
        if len(ordered) not in _STUDENT:
            return ordered[0], ordered[-1]
        mean = statistics.fmean(ordered)
        reach = _STUDENT[len(ordered)] * statistics.stdev(ordered) * (2 / len(ordered)) ** 0.5
        return min(ordered[0], mean - reach), max(ordered[-1], mean + reach)

    @property
    def p95(self) -> float:
        """What 95 % do not exceed."""
        return quantile(sorted(self.values), 0.95)

    def json(self) -> dict[str, Any]:
        """As it is kept in files."""
        low, high = self.spread
        return {"samples": self.values, "median": self.median, "p95": self.p95, "low": low, "high": high}


def quantile(ordered: list[float], part: float) -> float:
    """The value below which a part of sorted values lies, between two of them in proportion."""
    place = part * (len(ordered) - 1)
    index = int(place)
    rest = place - index
    return ordered[index] if not rest else ordered[index] * (1 - rest) + ordered[index + 1] * rest


@dataclass(slots=True)
class Result:
    """A whole comparison."""

    image: str
    command: list[str]
    machine: dict[str, Any]
    kinds: list[str]
    found: dict[str, dict[str, Samples]] = field(default_factory=dict)  # by measure, then kind
    layers: dict[str, list[tuple[str, float]]] = field(default_factory=dict)  # kind: (layer, bytes) from the bottom
    notes: list[str] = field(default_factory=list)
    advice: dict[str, Any] = field(default_factory=dict)

    def add(self, key: str, kind: str, value: float) -> None:
        """One more sample."""
        self.found.setdefault(key, {}).setdefault(kind, Samples()).values.append(value)

    def median(self, key: str, kind: str) -> float | None:
        """The middle of what was measured, or None."""
        samples = self.found.get(key, {}).get(kind)
        return None if samples is None else samples.median

    def json(self) -> dict[str, Any]:
        """Everything, for a file or another program."""
        return {
            "version": VERSION,
            "image": self.image,
            "command": self.command,
            "machine": self.machine,
            "kinds": self.kinds,
            "units": {m.key: {"title": m.title, "unit": m.unit, "scale": m.scale, "more_is_better": m.more_is_better} for m in MEASURES},
            "measures": {key: {kind: each.json() for kind, each in row.items()} for key, row in self.found.items()},
            "layers": {kind: [{"layer": name, "bytes": size} for name, size in rows] for kind, rows in self.layers.items()},
            "notes": self.notes,
            "advice": self.advice,
        }  # fmt: skip


def from_json(found: dict[str, Any]) -> Result:
    """A comparison out of a file. Raises CompareError."""
    if found.get("version") != VERSION:
        raise CompareError("this is no comparison, or one of another version")
    result = Result(
        found["image"], found["command"], found["machine"], found["kinds"], notes=found["notes"], advice=found["advice"]
    )
    result.found = {
        key: {kind: Samples(list(each["samples"])) for kind, each in row.items()}
        for key, row in found["measures"].items()
    }
    result.layers = {kind: [(row["layer"], row["bytes"]) for row in rows] for kind, rows in found["layers"].items()}
    return result


def disagreements(one: Result, other: Result) -> list[str]:
    """Where two runs of a comparison contradict each other: their spreads have nothing in common."""
    found = []
    for key, row in one.found.items():
        for kind, samples in row.items():
            second = other.found.get(key, {}).get(kind)
            if second is None:
                continue
            (low, high), (low2, high2) = samples.spread, second.spread
            if high < low2 or high2 < low:
                scale = BY_KEY[key].scale
                found.append(
                    f"{key} of {kind}: {low * scale:.4g} to {high * scale:.4g}, then {low2 * scale:.4g} to {high2 * scale:.4g}"
                )
    return found
