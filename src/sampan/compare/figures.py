"""The figures of a comparison as texts, for the table and for the page."""

from __future__ import annotations

from sampan.compare.model import MEASURES, Measure, Result, Samples

SPREAD = (
    "Medians, and in brackets between which values all samples lie: of 20 and more 90 % of them; of fewer than 10, widened to\n"
    "where another run's mean would be in 99 of 100 cases."
)


def number(value: float) -> str:
    """Three digits that count, without exponents."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def cell(measure: Measure, samples: Samples | None) -> str:
    """The middle, and between which all samples lie."""
    if samples is None:
        return "-"
    text = number(samples.median * measure.scale)
    if len(samples.values) == 1:
        return text
    low, high = (number(value * measure.scale) for value in samples.spread)
    tail = f", p95 {number(samples.p95 * measure.scale)}" if measure.group == "Start" else ""
    return f"{text} ({low}-{high}{tail})"


def shown(result: Result) -> list[Measure]:
    """What was measured, in the order of MEASURES."""
    return [measure for measure in MEASURES if measure.key in result.found]


def machine_lines(result: Result) -> list[str]:
    """Where and when it was measured."""
    machine = result.machine
    return [
        f"{result.image}: {' '.join(result.command)}",
        f"{machine['when']}, {machine['processor']}, {machine['cpus']} CPUs, {machine['memory'] / 2**30:.1f} GiB, "
        f"kernel {machine['kernel']}, virtual machines under {machine['accelerator']}, Sampan {machine['engine']}",
    ]
