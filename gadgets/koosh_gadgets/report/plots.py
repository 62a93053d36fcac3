"""Curves and trajectories as SVG, without further packages."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

COLOURS = 5
LEFT, RIGHT, BOTTOM = 14, 4, 12  # margins of a plot that is 100 wide
HEIGHT = 60


@dataclass(frozen=True, eq=False)
class Curve:
    """One line of a plot: its name in the key, x and y (n); points that are not numbers are left out."""

    name: str
    x: np.ndarray
    y: np.ndarray


def plot(curves: Sequence[Curve], across: str, up: str, top: float | None = None) -> str:
    """A figure of the curves over one x axis from 0 to 0.5, and y from 0."""
    highest = top or max((float(np.nanmax(c.y)) for c in curves if np.isfinite(c.y).any()), default=1.0) or 1.0
    lines = "".join(line(curve, index, highest) for index, curve in enumerate(curves))
    keys = "".join(
        f'<span class="key"><i style="background:var(--c{i % COLOURS})"></i>{html.escape(c.name)}</span>'
        for i, c in enumerate(curves)
        if c.name
    )
    what = html.escape(f"{up} over {across}")
    return (
        f'<figure><svg class="plot" viewBox="0 0 100 {HEIGHT + BOTTOM}" role="img" aria-label="{what}">'
        f"{frame(highest, html.escape(across), html.escape(up))}{lines}</svg><figcaption>{keys}</figcaption></figure>"
    )


def at(x: float, y: float, highest: float) -> tuple[float, float]:
    """Where a point lies in the drawing."""
    return LEFT + (100 - LEFT - RIGHT) * x / 0.5, HEIGHT - (HEIGHT - 8) * y / highest


def line(curve: Curve, index: int, highest: float) -> str:
    """One curve."""
    pairs = [at(x, min(y, highest), highest) for x, y in zip(curve.x, curve.y, strict=True) if np.isfinite(y)]
    points = " ".join(f"{x:.2f},{y:.2f}" for x, y in pairs)
    # dashes grow shorter, so that a line below another one is seen
    dash = f";stroke-dasharray:{3 / index:.1f} {index}" if index else ""
    return f'<polyline style="stroke:var(--c{index % COLOURS}){dash}" points="{points}"/>'


def frame(highest: float, across: str, up: str) -> str:
    """Axes with numbers."""
    parts = [f'<path class="frame" d="M{LEFT} 8V{HEIGHT}H{100 - RIGHT}"/>', f'<text x="1" y="4">{up}</text>']
    for share in (0.0, 0.5, 1.0):
        x, y = at(0.5 * share, share * highest, highest)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT + 5}" text-anchor="middle">{0.5 * share:g}</text>')
        parts.append(f'<text x="{LEFT - 1.5}" y="{y + 1.2:.1f}" text-anchor="end">{share * highest:.2g}</text>')
    middle = (LEFT + 100 - RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT + 10}" text-anchor="middle">{across}</text>')
    return "".join(parts)


def spokes(k: np.ndarray, most: int = 60) -> str:
    """The first readouts, (readout, sample, axis) in cycles per voxel, seen along z and along y."""
    views = [(0, 1, "kx, ky")] + ([(0, 2, "kx, kz")] if k.shape[2] == 3 else [])
    parts = []
    for a, b, name in views:
        lines = "".join(
            f'<polyline points="{" ".join(f"{100 * x:.1f},{-100 * y:.1f}" for x, y in path[:, [a, b]])}"/>'
            for path in k[:most, :: max(1, k.shape[1] // 64)]
        )
        parts.append(
            f'<figure><svg class="dark" viewBox="-52 -52 104 104" role="img" aria-label="{name}"><g fill="none" '
            f'stroke="currentColor" stroke-width="0.4" opacity="0.6">{lines}</g></svg>'
            f"<figcaption>{name}, {min(most, len(k))} readouts</figcaption></figure>"
        )
    return "".join(parts)
