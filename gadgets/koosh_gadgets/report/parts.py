"""The sections of the page."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np

from koosh_gadgets.report import pictures
from koosh_gadgets.report.content import Content, Mapped, Measured, Shown
from koosh_gadgets.report.plots import Curve, plot, spokes

ERROR_GAIN = 5
RESIDUAL = (
    "The part of the measured samples that an image and its coil maps do not explain, by distance from the centre of "
    "k-space. What lies above the noise is missing from the image, or wrong in maps or trajectory; what lies below it "
    "is noise in the image."
)
DOUBTS = (
    "White is a tenth of the image's bright end. Neither map is the error: what all of the data get wrong alike, or do "
    "not see, stays dark."
)
TIMES = (
    "Seconds while the scan ran (green) and after its last readout (orange). Of a recorded scan, reading the file "
    "counts as the scan."
)
DENSITY = (
    "A cell is what one sample of a fully sampled grid stands for: above a distance of one, k-space is undersampled."
)
ACROSS = "|k| in cycles per voxel"


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
    return f'<div class="wide"><table class="scores"><tr><th></th>{head}</tr>{rows}</table></div>'


def images(content: Content) -> str:
    """A row of orthogonal slices for every plane, and the errors below where the truth is known."""
    columns = [(one.title, matched(one.volume, content.truth)) for one in content.shown]
    if content.truth is not None:
        columns.append(("truth", content.truth.astype(np.float64)))
    top = float(np.percentile(columns[-1][1], 99.7))
    planes = pictures.PLANES if content.shown[0].volume.ndim == 3 else pictures.PLANES[:1]
    rows = [
        row([figure(pictures.grey(pictures.cut(v, plane), top), f"{title}, {plane}") for title, v in columns])
        for plane in planes
    ]
    if content.truth is not None:
        rows.append(f"<h3>Errors, {ERROR_GAIN} times brighter</h3>")
        rows += [row(errors(columns, plane, top)) for plane in planes]
    return "".join(rows)


def errors(columns: Sequence[tuple[str, np.ndarray]], plane: str, top: float) -> list[str]:
    """The distance of every column from the last one, the truth."""
    truth = columns[-1][1]
    return [
        figure(
            pictures.heat(np.abs(pictures.cut(volume - truth, plane)), top / ERROR_GAIN),
            f"{title}, {plane} error x {ERROR_GAIN}",
        )
        for title, volume in columns[:-1]
    ]


def doubts(maps: Sequence[Mapped]) -> str:
    """The maps of where an image is doubtful, in the planes of the images."""
    rows = [
        row([figure(pictures.heat(pictures.cut(m.volume, plane), m.top), f"{m.title}, {plane}") for m in maps])
        for plane in (pictures.PLANES if maps[0].volume.ndim == 3 else pictures.PLANES[:1])
    ]
    words = "".join(f"<p>{text(m.title)}: {text(m.shows)}.</p>" for m in maps)
    return f"{words}<p>{DOUBTS}</p>{''.join(rows)}"


def row(cells: Sequence[str]) -> str:
    """Pictures side by side, two at a time on a phone."""
    return f'<div class="row" style="--n:{len(cells)}">{"".join(cells)}</div>'


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


def residuals(shown: Sequence[Shown]) -> str:
    """The share of the data that each image leaves unexplained, from the centre of k-space to its edge."""
    curves = [Curve(one.title, shells(len(one.residual)), np.array(one.residual)) for one in shown if one.residual]
    noise = next((one.noise for one in shown if one.noise), ())
    if noise:
        curves.append(Curve("noise alone", shells(len(noise)), np.minimum(np.array(noise), 1.0)))
    drawing = plot(curves, ACROSS, "|y - F S x| / |y|", top=1.0)
    return f'<p>{RESIDUAL}</p><div class="plots">{drawing}</div>'


def shells(count: int) -> np.ndarray:
    """Middles of equally wide shells in cycles per voxel."""
    return (np.arange(count) + 0.5) / (2 * count)


def times(shown: Sequence[Shown]) -> str:
    """Seconds of each part, while the scan ran and after its last readout."""
    longest = max((before + after for one in shown for _, before, after in one.times), default=1.0) or 1.0
    tables = []
    for one in shown:
        if one.times:
            lines = "".join(timed(part, before, after, longest) for part, before, after in one.times)
            total = timed("all", sum(t[1] for t in one.times), sum(t[2] for t in one.times), 0.0)
            head = "<tr><th></th><td>while scanning</td><td>after it</td><td></td></tr>"
            rows = f'<div class="wide"><table class="times">{head}{lines}{total}</table></div>'
            tables.append(f"<div><h3>{text(one.title)}</h3>{rows}</div>")
    return f'<p>{TIMES}</p><div class="plots">{"".join(tables)}</div>'


def timed(part: str, before: float, after: float, longest: float) -> str:
    """One row, with a bar where there is a scale for one."""
    widths = [f'<i style="width:{100 * value / longest:.1f}%"></i>' for value in (before, after)] if longest else []
    bar = f'<div class="bar">{"".join(widths)}</div>' if longest else ""
    return f"<tr><th>{text(part)}</th><td>{before:.2f}</td><td>{after:.2f}</td><td>{bar}</td></tr>"


def coils(maps: np.ndarray) -> str:
    """The magnitude of every map on one scale."""
    top = float(maps.max())
    return (
        f'<div class="grid">{"".join(figure(pictures.grey(m, top), f"coil {i + 1}") for i, m in enumerate(maps))}</div>'
    )


def trajectory(measured: Measured) -> str:
    """The first readouts, the point-spread function in dB, distances and weights of samples over the radius."""
    k, n_axes = measured.k, measured.k.shape[2]
    radius = np.linalg.norm(k, axis=2).ravel()
    n_bins = int(np.clip(k.shape[1] // 4, 4, 40))  # a few samples of a readout in each
    counts, edges = np.histogram(radius, bins=n_bins, range=(0, 0.5))
    ball = {2: np.pi, 3: 4 * np.pi / 3}[n_axes] * np.prod(measured.matrix)
    cells = ball * (edges[1:] ** n_axes - edges[:-1] ** n_axes)
    middle = (edges[1:] + edges[:-1]) / 2
    sums, _ = np.histogram(radius, bins=n_bins, range=(0, 0.5), weights=measured.weights.ravel())
    with np.errstate(divide="ignore", invalid="ignore"):
        distance, mean = (cells / counts) ** (1 / n_axes), sums / counts
    distance[counts == 0] = np.nan
    decibel = 20 * np.log10(np.maximum(measured.spread, 1e-4))
    pictured = spokes(k) + figure(pictures.grey(decibel, 0.0, -60.0), "point spread, -60 to 0 dB")
    plots = [
        plot([Curve("", middle, distance)], ACROSS, "mean distance of samples, in cells of k-space"),
        plot([Curve("", middle, mean)], ACROSS, "mean density weight, in cells of k-space"),
    ]
    return f'<div class="grid">{pictured}</div><p>{DENSITY}</p><div class="plots">{"".join(plots)}</div>'
