"""Self-contained HTML: curves, tables, montages and error maps of a run or of an evaluation."""

from __future__ import annotations

import base64
import html
import platform
import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from koosh_models.training.feed import AnyCase
from koosh_models.training.journal import rows
from koosh_models.training.validate import Score, means, picture

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .75rem;border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left}img{image-rendering:pixelated;width:100%;max-width:46rem}
pre{background:#f5f5f5;padding:1rem;overflow:auto}figure{margin:1rem 0}figcaption{color:#555}"""


def png(picture: Tensor) -> bytes:
    """An 8-bit grey PNG of (row, column) values 0 to 1."""
    grey = (picture.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    raw = b"".join(b"\0" + row.tobytes() for row in grey)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", grey.shape[1], grey.shape[0], 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def figure(picture: Tensor, text: str) -> str:
    """A picture inside the page."""
    data = base64.b64encode(png(picture)).decode()
    return (
        f'<figure><img alt="" src="data:image/png;base64,{data}"><figcaption>{html.escape(text)}</figcaption></figure>'
    )


def table(head: Sequence[str], body: Iterable[Sequence[str | float]]) -> str:
    """A table; numbers to four digits."""

    def cell(value: str | float, tag: str = "td") -> str:
        return f"<{tag}>{html.escape(value if isinstance(value, str) else f'{value:.4g}')}</{tag}>"

    lines = ["".join(cell(v) for v in row) for row in body]
    return f"<table><tr>{''.join(cell(h, 'th') for h in head)}</tr><tr>{'</tr><tr>'.join(lines)}</tr></table>"


def curve(points: Sequence[tuple[float, float]], title: str) -> str:
    """A line of (x, y) as SVG with its extremes written beside."""
    if len(points) < 2:
        return ""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    left, right, low, high = min(xs), max(xs), min(ys), max(ys)
    path = " ".join(
        f"{50 + 600 * (x - left) / ((right - left) or 1):.1f},{150 - 130 * (y - low) / ((high - low) or 1):.1f}"
        for x, y in points
    )
    labels = [(2, 24, f"{high:.4g}"), (2, 154, f"{low:.4g}"), (50, 172, f"{left:g}"), (620, 172, f"{right:g}")]
    text = "".join(f'<text x="{x}" y="{y}" font-size="11">{t}</text>' for x, y, t in labels)
    return (
        f"<h3>{html.escape(title)}</h3>"
        f'<svg viewBox="0 0 660 180" width="660"><polyline fill="none" stroke="#205080" points="{path}"/>{text}</svg>'
    )


def page(title: str, parts: Iterable[str]) -> str:
    """The whole document."""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style><h1>{html.escape(title)}</h1>{''.join(parts)}"
        f"<p>{versions}. Research output, not for diagnosis.</p></html>\n"
    )


def comparison(scores: Sequence[Score], cases: Sequence[AnyCase]) -> list[str]:
    """Tables by method and by case, then a montage of each image beside the truth."""
    keys = ("psnr", "ssim", "nrmse", "hfen", "seconds")
    found = means(scores)
    parts = [
        "<h2>Mean over the cases</h2>",
        table(("method", *keys), [(m, *(v[k] for k in keys)) for m, v in found.items()]),
        "<h2>Each case</h2>",
        table(
            ("case", "method", *keys[:-1], "s"),
            [(s.case, s.method, *(s.values[k] for k in keys[:-1]), s.seconds) for s in scores],
        ),
    ]
    for case in cases:
        for score in (s for s in scores if s.case == case.name):
            text = (
                f"{case.name}, {score.method}: image, truth, five times the difference; {score.values['psnr']:.2f} dB"
            )
            parts.append(figure(picture(case, score.image), text))
    return parts


def of_run(folder: Path, scores: Sequence[Score], cases: Sequence[AnyCase]) -> str:
    """The report of a run: curves of its log, memory and time, recipe, and the comparison."""
    log = rows(folder / "log.csv")
    steps = [row for row in log if row["loss"]]
    seen = [row for row in log if row["psnr"]]
    size = max(1, len(steps) // 200)
    smooth = [steps[i : i + size] for i in range(0, len(steps), size)]
    loss = [(float(g[-1]["step"]), sum(float(r["loss"]) for r in g) / len(g)) for g in smooth]
    parts = [curve(loss, "Training loss")]
    parts.append(curve([(float(r["step"]), float(r["psnr"])) for r in seen], "PSNR of the validation cases, dB"))
    if steps:
        seconds = sorted(float(r["seconds"]) for r in steps)
        total, waited = sum(seconds), float(steps[-1]["waiting"])
        parts.append("<h2>Memory and time</h2>")
        parts.append(
            table(
                ("steps", "median s a step", "hours", "waiting for data, %", "peak memory, MB"),
                [(str(len(steps)), seconds[len(seconds) // 2], total / 3600, 100 * waited / max(total, 1e-9),
                  max(float(r["peak_mb"]) for r in steps))],
            )
        )  # fmt: skip
    parts += comparison(scores, cases) if scores else []
    parts += ["<h2>Recipe</h2>", f"<pre>{html.escape((folder / 'recipe.json').read_text())}</pre>"]
    return page(folder.name, parts)
