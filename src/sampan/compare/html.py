"""The report as one file that needs nothing else: the picture, the plots, the figures, the advice."""

from __future__ import annotations

from html import escape

from sampan.compare.figures import SPREAD, cell, machine_lines, number, shown
from sampan.compare.model import TITLES, Measure, Result, Samples
from sampan.compare.picture import layered

_BAR, _LEFT, _WIDE = 17, 84, 460  # pixels
STYLE = """
:root { color-scheme: light dark; --ink: #1b2430; --soft: #5a6675; --paper: #ffffff; --line: #d7dde5;
  --native: #7d8792; --container: #1f77d0; --vm: #c2571a; --system-vm: #7b4fb3;
  --infrastructure: #c9d0d8; --host-os: #a9b4c0; --engine: #6d9bd1; --hypervisor: #d98a52; --guest-os: #e3b23c;
  --libraries: #7fb37a; --application: #3f8f5f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf1; --soft: #9aa7b6; --paper: #161b22; --line: #323b47;
  --native: #9aa4af; --container: #58a6ff; --vm: #f0883e; --system-vm: #b392f0;
  --infrastructure: #3a434e; --host-os: #4d5967; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; } .soft { color: var(--soft); }
.advice { border-left: 4px solid var(--container); padding: .2rem 1rem; } .advice p { font-weight: 600; }
svg { width: 100%; height: auto; } svg text { fill: var(--ink); font: 12px system-ui, sans-serif; } svg .title { font-size: 14px; font-weight: 600; }
svg .inside { fill: var(--ink); } .layer { stroke: var(--paper); } .break, .lead { fill: none; stroke: var(--soft); }
.infrastructure { fill: var(--infrastructure); } .host-os { fill: var(--host-os); } .engine { fill: var(--engine); } .hypervisor { fill: var(--hypervisor); }
.guest-os { fill: var(--guest-os); } .libraries { fill: var(--libraries); } .application { fill: var(--application); }
.native { fill: var(--native); } .container { fill: var(--container); } .vm { fill: var(--vm); } .system-vm { fill: var(--system-vm); }
.whisker { stroke: var(--ink); stroke-width: 1.5; } .plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(480px, 1fr)); gap: 0 2rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; } th, td { border-bottom: 1px solid var(--line); padding: .25rem .6rem; text-align: right; }
th:first-child, td:first-child { text-align: left; } figure { margin: 0 0 .8rem; } figcaption { font-size: 13px; }
@media (max-width: 540px) { .plots { grid-template-columns: 1fr; } }
"""


def page(result: Result) -> str:
    """The whole report."""
    lines = machine_lines(result)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(result.image)}: container or virtual machine</title><style>{STYLE}</style></head><body>
<main>{body(result, lines)}</main></body></html>
"""


def body(result: Result, lines: list[str]) -> str:
    """What is within the page's <main>."""
    reasons = "".join(f"<li>{escape(text)}</li>" for text in result.advice["reasons"])
    notes = "".join(f'<p class="soft">Note: {escape(text)}</p>' for text in result.notes)
    return f"""<h1>{escape(result.image)}: container or virtual machine?</h1>
<p class="soft">{"<br>".join(escape(line) for line in lines)}</p>
<section class="advice"><p>{escape(result.advice["headline"])}</p><ul>{reasons}</ul></section>
<h2>Who holds the memory</h2>
<p class="soft">One instance of each while the probe's server runs, by proportional set size. Above the break all stacks have one scale.</p>
{layered(result)}
<h2>Side by side</h2>
<p class="soft">{escape(SPREAD).replace("in brackets", "by a line")}</p>
<div class="plots">{"".join(_plot(measure, result) for measure in shown(result))}</div>
<h2>Figures</h2><div class="scroll">{_table(result)}</div>{notes}"""


def _plot(measure: Measure, result: Result) -> str:
    rows = [(kind, result.found[measure.key][kind]) for kind in result.kinds if kind in result.found[measure.key]]
    most = max(max(samples.spread[1], samples.median, 0) for _, samples in rows) or 1
    height = _BAR * len(rows) + 6
    bars = "".join(_bar(index, kind, measure, samples, most) for index, (kind, samples) in enumerate(rows))
    better = "more is better" if measure.more_is_better else "less is better"
    words = "; ".join(f"{TITLES[kind]} {cell(measure, samples)}" for kind, samples in rows)
    return f"""<figure><figcaption>{escape(measure.group)}: {escape(measure.label)} <span class="soft">({better})</span></figcaption>
<svg viewBox="0 0 {_LEFT + _WIDE + 90} {height}" role="img" aria-label="{escape(words)}">{bars}</svg></figure>"""


def _bar(index: int, kind: str, measure: Measure, samples: Samples, most: float) -> str:
    def at(value: float) -> float:
        return _LEFT + max(value, 0) / most * _WIDE

    y, (low, high) = index * _BAR + 3, samples.spread
    middle = y + (_BAR - 4) / 2
    return (
        f'<text x="{_LEFT - 6}" y="{middle + 4:.1f}" text-anchor="end">{escape(TITLES[kind])}</text>'
        f'<rect class="{escape(kind)}" x="{_LEFT}" y="{y}" width="{max(at(samples.median) - _LEFT, 1):.1f}" height="{_BAR - 4}"/>'
        f'<path class="whisker" d="M{at(low):.1f} {middle:.1f} H{at(high):.1f} M{at(low):.1f} {y + 2} V{y + _BAR - 6} M{at(high):.1f} {y + 2} V{y + _BAR - 6}"/>'
        f'<text x="{at(max(high, samples.median)) + 6:.1f}" y="{middle + 4:.1f}">{escape(number(samples.median * measure.scale))}</text>'
    )


def _table(result: Result) -> str:
    head = "".join(f"<th>{escape(TITLES[kind])}</th>" for kind in result.kinds)
    rows = []
    for measure in shown(result):
        cells = "".join(
            f"<td>{escape(cell(measure, result.found[measure.key].get(kind)))}</td>" for kind in result.kinds
        )
        rows.append(f"<tr><td>{escape(measure.group)}: {escape(measure.label)}</td>{cells}</tr>")
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
