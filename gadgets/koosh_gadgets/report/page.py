"""The page: everything inside one file, no request to anywhere, readable on a phone."""

from __future__ import annotations

import html
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from koosh_gadgets.atomic import write_atomic
from koosh_gadgets.report import pictures

NOTICE = "Research output, not for diagnosis."
STYLE = """
:root{color-scheme:light dark;--line:#8884}body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:75rem;
padding:1rem}h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}.grid{display:grid;gap:.5rem;
grid-template-columns:repeat(auto-fit,minmax(9rem,1fr))}figure{margin:0}figure img,figure svg{width:100%;display:block;
image-rendering:pixelated;background:#000;color:#7cf}figcaption{font-size:.8rem;opacity:.8}.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{border-bottom:1px solid var(--line);
padding:.2rem .7rem;text-align:left;vertical-align:top}.warn{border-left:.3rem solid #d80;padding:.3rem .8rem}
.notice{font-weight:600}
"""


@dataclass(frozen=True, eq=False)
class Shown:
    """One reconstruction on the page.

    title   of its column
    volume  (z, y, x) or (y, x) magnitude, any scale
    facts   name -> text: method, seconds, notes
    scores  name -> number against the truth, where it is known
    """

    title: str
    volume: np.ndarray
    facts: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Measured:
    """Pictures of a non-Cartesian scan.

    k       (readout, sample, axis) trajectory in cycles per voxel
    spread  (y, x) point-spread function's central plane, magnitude, its peak is one
    coils   (coil, y, x) magnitudes of the coil maps' central plane
    """

    k: np.ndarray
    spread: np.ndarray
    coils: np.ndarray


@dataclass(frozen=True, eq=False)
class Content:
    """Everything a page shows.

    truth     (z, y, x) magnitude, None where unknown
    measured  pictures of the scan, None where there is none or it is Cartesian
    """

    title: str
    shown: Sequence[Shown]
    scan: Mapping[str, str]
    truth: np.ndarray | None = None
    measured: Measured | None = None
    warnings: Sequence[str] = ()


def write_report(path: str | Path, content: Content) -> None:
    """Write the page; it is whole or absent."""
    if not content.shown:
        raise ValueError("a report needs at least one reconstruction")
    write_atomic(path, page(content).encode())


def page(content: Content) -> str:
    """The page as text; whatever came from a file is escaped."""
    parts = [f"<h1>{text(content.title)}</h1>", f'<p class="notice">{NOTICE}</p>']
    parts += [f'<p class="warn">{text(warning)}</p>' for warning in content.warnings]
    if any(one.scores for one in content.shown):
        parts.append("<h2>Against the truth</h2>" + scores(content.shown))
    parts.append("<h2>Images</h2>" + images(content))
    parts.append("<h2>Scan</h2>" + table([(name, value) for name, value in content.scan.items()]))
    if content.measured is not None:
        parts.append('<h2>Trajectory</h2><div class="grid">' + trajectory(content.measured) + "</div>")
        parts.append('<h2>Coil maps</h2><div class="grid">' + coils(content.measured.coils) + "</div>")
    for one in content.shown:
        parts.append(f"<h2>{text(one.title)}</h2>" + table(list(one.facts.items())))
    parts.append("<h2>Versions</h2>" + table(versions()))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width,initial-scale=1"><title>{text(content.title)}</title><style>{STYLE}</style></head>'
        f"<body>{''.join(parts)}</body></html>\n"
    )


def text(value: object) -> str:
    """Escaped for HTML."""
    return html.escape(str(value))


def table(rows: Sequence[tuple[str, object]]) -> str:
    """Two columns."""
    lines = "".join(f"<tr><th>{text(name)}</th><td>{text(value)}</td></tr>" for name, value in rows)
    return f'<div class="wide"><table>{lines}</table></div>'


def scores(shown: Sequence[Shown]) -> str:
    """One row for every reconstruction that was measured."""
    names = list(dict.fromkeys(name for one in shown for name in one.scores))
    head = "".join(f"<th>{text(name)}</th>" for name in names)
    rows = "".join(
        f"<tr><th>{text(one.title)}</th>"
        + "".join(f"<td>{one.scores.get(n, float('nan')):.4g}</td>" for n in names)
        + "</tr>"
        for one in shown
    )
    return f'<div class="wide"><table><tr><th></th>{head}</tr>{rows}</table></div>'


def images(content: Content) -> str:
    """A row of orthogonal slices for every plane, and the errors below where the truth is known."""
    columns = [(one.title, matched(one.volume, content.truth)) for one in content.shown]
    if content.truth is not None:
        columns.append(("truth", content.truth.astype(np.float64)))
    top = float(np.percentile(columns[-1][1], 99.7))
    planes = pictures.PLANES if content.shown[0].volume.ndim == 3 else pictures.PLANES[:1]
    rows = []
    for plane in planes:
        cells = [figure(pictures.grey(pictures.cut(v, plane), top), f"{title}, {plane}") for title, v in columns]
        rows.append(f'<div class="grid">{"".join(cells)}</div>')
    if content.truth is not None:
        cells = [
            figure(pictures.heat(np.abs(pictures.cut(v - columns[-1][1], planes[0])), 0.2 * top), f"{title}, error x 5")
            for title, v in columns[:-1]
        ]
        rows.append(f'<div class="grid">{"".join(cells)}</div>')
    return "".join(rows)


def matched(volume: np.ndarray, truth: np.ndarray | None) -> np.ndarray:
    """The volume scaled to the truth by least squares, or to its own 99.7th percentile."""
    volume = np.abs(volume).astype(np.float64)
    if truth is None:
        return volume / max(float(np.percentile(volume, 99.7)), 1e-30)
    energy = float((volume * volume).sum())
    return volume * (float((volume * truth).sum()) / energy if energy > 0 else 1.0)


def figure(pixels: np.ndarray, caption: str) -> str:
    """A picture with its caption."""
    what = text(caption)
    return f'<figure><img alt="{what}" src="{pictures.inline(pixels)}"><figcaption>{what}</figcaption></figure>'


def coils(maps: np.ndarray) -> str:
    """The magnitude of every map on one scale."""
    return "".join(figure(pictures.grey(plane, float(maps.max())), f"coil {i + 1}") for i, plane in enumerate(maps))


def trajectory(measured: Measured) -> str:
    """The first readouts, the sampling density over the radius, and the point-spread function in dB."""
    k = measured.k
    radius = np.linalg.norm(k, axis=2).ravel()
    counts, edges = np.histogram(radius, bins=40, range=(0, 0.5))
    shell = edges[1:] ** k.shape[2] - edges[:-1] ** k.shape[2]
    parts = [pictures.spokes(k), pictures.curve(counts / shell, "samples per volume of k-space over |k|", "")]
    decibel = 20 * np.log10(np.maximum(measured.spread, 1e-4))
    parts.append(figure(pictures.grey(decibel, 0.0, -60.0), "point spread, -60 to 0 dB"))
    return "".join(parts)


def versions() -> list[tuple[str, object]]:
    """What made the page."""
    from importlib.metadata import PackageNotFoundError, version

    rows: list[tuple[str, object]] = [("Python", platform.python_version()), ("machine", platform.machine())]
    for name in ("koosh", "torch", "finufft", "ducc0", "ismrmrd", "numpy"):
        try:
            rows.append((name, version(name)))
        except PackageNotFoundError:
            rows.append((name, "not installed"))
    return rows
