"""A comparison as a table for a terminal, as JSON, as CSV; HTML is in html.py."""

from __future__ import annotations

import csv
import io
import json
import textwrap

from sampan.compare import html
from sampan.compare.figures import SPREAD, cell, machine_lines, number, shown
from sampan.compare.model import TITLES, Result

_WIDTH = 100


def render(result: Result, form: str) -> str:
    """The comparison as "table", "json", "csv" or "html"."""
    if form == "json":
        return json.dumps(result.json(), indent=1) + "\n"
    if form == "csv":
        return _csv(result)
    if form == "html":
        return html.page(result)
    return _table(result)


def _table(result: Result) -> str:
    rows = [["", *(TITLES[kind] for kind in result.kinds)]]
    group = ""
    for measure in shown(result):
        if measure.group != group:
            group = measure.group
            rows.append([group.upper(), *("" for _ in result.kinds)])
        rows.append(
            [f"  {measure.label}", *(cell(measure, result.found[measure.key].get(kind)) for kind in result.kinds)]
        )
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = [*machine_lines(result), ""]
    lines += [
        "  ".join(
            [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    ]
    lines += ["", SPREAD]
    lines += [*_layer_lines(result), ""]
    for text in result.notes:
        lines += textwrap.wrap(f"Note: {text}", _WIDTH)
    lines += textwrap.wrap(result.advice["headline"], _WIDTH)
    for text in result.advice["reasons"]:
        lines += textwrap.wrap(text, _WIDTH, initial_indent="  - ", subsequent_indent="    ")
    return "\n".join(lines) + "\n"


def _layer_lines(result: Result) -> list[str]:
    if not result.layers:
        return []
    lines = ["", "Memory by layer, MiB, from the top (the probe's server is the application):"]
    for kind, rows in result.layers.items():
        lines.append(
            f"  {TITLES[kind]:<10}"
            + "  |  ".join(f"{name} {number(round(size / 2**20, 1))}" for name, size in reversed(rows))
        )
    return lines


def _csv(result: Result) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["measure", "title", "unit", "kind", "median", "low", "high", "p95", "samples"])
    for measure in shown(result):
        for kind, samples in result.found[measure.key].items():
            low, high = samples.spread
            values = [value * measure.scale for value in (samples.median, low, high, samples.p95)]
            writer.writerow([measure.key, measure.title, measure.unit, kind, *(f"{value:.6g}" for value in values),
                             " ".join(f"{value * measure.scale:.6g}" for value in samples.values)])  # fmt: skip
    return out.getvalue()
