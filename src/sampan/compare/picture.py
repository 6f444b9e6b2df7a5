"""The layered picture: who holds which part of the memory, as stacks of blocks drawn to scale."""

from __future__ import annotations

from html import escape

from sampan.compare.model import TITLES, Result

_TALLEST, _BASE, _WIDE, _GAP = 340.0, 34.0, 150, 30  # pixels
_MOST_DENSE = 13.0  # pixels between two labels, at least
# Below the break the layers are not to scale: the machine and its operating system are the same under every stack.
_BELOW = ("host OS",)


def layered(result: Result) -> str:
    """An SVG of the stacks, the same scale for all; what is below the break is named with its size and not to scale."""
    kinds = [kind for kind in result.kinds if kind in result.layers]
    above = {kind: [row for row in result.layers[kind] if row[0] not in _BELOW] for kind in kinds}
    tallest = max((sum(size for _, size in rows) for rows in above.values()), default=1.0) or 1.0
    scale = _TALLEST / tallest
    column = _WIDE + 2 * _GAP + 110
    width, height = column * len(kinds) + _GAP, int(_TALLEST + 2 * _BASE + 90)
    ground = height - 40
    parts = [f'<svg class="layers" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(_words(result))}">']
    host = next((size for rows in result.layers.values() for name, size in rows if name == "host OS"), 0.0)
    parts += _block(
        "infrastructure",
        _GAP / 2,
        ground - _BASE,
        width - _GAP,
        _BASE,
        f"infrastructure: {result.machine['memory'] / 2**30:.1f} GiB of memory",
    )
    parts += _block(
        "host-os", _GAP / 2, ground - 2 * _BASE - 4, width - _GAP, _BASE, f"host OS: {host / 2**20:,.0f} MiB"
    )
    top = ground - 2 * _BASE - 14
    parts.append(
        f'<path class="break" d="M{_GAP / 2} {top + 5} '
        + " ".join(f"l8 {-4 if n % 2 else 4}" for n in range(int((width - _GAP) / 8)))
        + '"/>'
    )
    for index, kind in enumerate(kinds):
        left, y, label = _GAP + index * column, top, top + _MOST_DENSE
        for name, size in above[kind]:
            tall = max(size * scale, 1.5)
            y -= tall
            label = min(label - _MOST_DENSE, y + tall / 2 + 4)
            parts += _block(name.lower().replace(" ", "-"), left, y, _WIDE, tall)
            parts.append(f'<path class="lead" d="M{left + _WIDE} {y + tall / 2} L{left + _WIDE + 10} {label - 4}"/>')
            parts.append(f'<text x="{left + _WIDE + 13}" y="{label}">{escape(name)}, {_mib(size)}</text>')
        parts.append(
            f'<text class="title" x="{left + _WIDE / 2}" y="{ground + 28}" text-anchor="middle">{escape(TITLES[kind])}</text>'
        )
    return "".join([*parts, "</svg>"])


def _block(name: str, x: float, y: float, width: float, height: float, text: str = "") -> list[str]:
    found = [f'<rect class="layer {escape(name)}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>']
    if text:
        at = f'x="{x + width / 2:.1f}" y="{y + height / 2 + 4:.1f}" text-anchor="middle"'
        found.append(f'<text class="inside" {at}>{escape(text)}</text>')
    return found


def _mib(size: float) -> str:
    value = size / 2**20
    return f"{value:.0f} MiB" if value >= 10 else f"{value:.1f} MiB"


def _words(result: Result) -> str:
    """The picture in words, for those who can't see it."""
    return "; ".join(
        f"{TITLES[kind]}, from the bottom: {', '.join(f'{name} {_mib(size)}' for name, size in rows)}"
        for kind, rows in result.layers.items()
    )
