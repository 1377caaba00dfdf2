"""Small plots as inline SVG: no script, no files."""

from collections.abc import Sequence

import numpy as np

WIDTH, HEIGHT, MARGIN = 300, 110, 26
BARS = 20


def histogram(
    values: Sequence[float], value: float | None, interval: tuple[float, float] | None
) -> str:
    """Draws the spread of clips: bars of counts, the average as a line, its interval as a band."""
    data = np.asarray(values, np.float64)
    low, high = float(data.min()), float(data.max())
    if low == high:  # one bar in the middle
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(data, BARS, (low, high))
    top, bottom, inside = 14, HEIGHT - 18, WIDTH - 2 * MARGIN

    def x(v: float) -> float:
        return MARGIN + inside * float(np.clip((v - low) / (high - low), 0.0, 1.0))

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">']
    if interval is not None:
        left, right = x(interval[0]), x(interval[1])
        parts.append(
            f'<rect x="{left:.1f}" y="{top}" width="{max(right - left, 1):.1f}" '
            f'height="{bottom - top}" fill="#f6d9a8"/>'
        )
    for count, a, b in zip(counts, edges[:-1], edges[1:], strict=True):
        tall = (bottom - top) * count / counts.max()
        parts.append(
            f'<rect x="{x(a) + 0.5:.1f}" y="{bottom - tall:.1f}" '
            f'width="{x(b) - x(a) - 1:.1f}" height="{tall:.1f}" fill="#4a78b5"/>'
        )
    parts.append(
        f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{bottom}" y2="{bottom}" stroke="#555"/>'
    )
    if value is not None:
        at = f"{x(value):.1f}"
        parts.append(f'<line x1="{at}" x2="{at}" y1="{top}" y2="{bottom}" stroke="#c2410c"/>')
        parts.append(_text(x(value), 10, f"{value:.4g}"))
    parts += [_text(x(low), HEIGHT - 4, f"{low:.4g}"), _text(x(high), HEIGHT - 4, f"{high:.4g}")]
    return "".join([*parts, "</svg>"])


def bar(at: float, interval: tuple[float, float] | None) -> str:
    """Draws a bar from 0 to 1, filled to a value, with the value's interval as a line.

    Values outside of [0, 1] are drawn at most a margin beside the bar.
    """
    inside, top, tall = WIDTH - 2 * MARGIN, 8, 14

    def x(v: float) -> float:
        return float(np.clip(MARGIN + inside * v, 2, WIDTH - 2))

    low, high = sorted((x(0.0), x(at)))
    colour = "#4a78b5" if at >= 0 else "#c2410c"
    parts = [
        f'<svg viewBox="0 0 {WIDTH} 44" width="{WIDTH}" height="44" role="img">'
        f'<rect x="{MARGIN}" y="{top}" width="{inside}" height="{tall}" fill="#e5e7eb"/>'
        f'<rect x="{low:.1f}" y="{top}" width="{high - low:.1f}" height="{tall}" fill="{colour}"/>'
    ]
    if interval is not None:
        left, right = map(x, interval)
        parts.append(
            f'<line x1="{left:.1f}" x2="{right:.1f}" y1="{top + tall / 2}" y2="{top + tall / 2}" '
            'stroke="#111827" stroke-width="2"/>'
        )
    for end in (MARGIN, WIDTH - MARGIN):
        parts.append(
            f'<line x1="{end}" x2="{end}" y1="{top - 4}" y2="{top + tall + 4}" stroke="#555"/>'
        )
    return "".join([*parts, _text(x(at), top + tall + 16, f"{at:.0%}"), "</svg>"])


def _text(x: float, y: int, words: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" font-size="10" text-anchor="middle">{words}</text>'
