"""The tables of a benchmark as Markdown: means, paired differences with intervals, worst cases, spheres."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from koosh_models.training.benchmark import Row, differences

TUNED = "tuned on the truth of each case"
PEERS = {"l1": TUNED, "llr": f"locally low rank, {TUNED}", "bart": f"BART's L1-wavelet, {TUNED}"}
CLASSES = ((0.2, 0.3), (0.3, 0.4), (0.4, 0.5))
"""Contrasts of the inserted spheres, darker and brighter."""


def shown(rows: Sequence[Row], networks: Sequence[str]) -> str:
    """Every table, one below the other."""
    parts = ["Means over the cases of each group\n", table(HEAD, means(rows))]
    for name in networks:
        for peer, what in PEERS.items():
            if lines := against(rows, name, peer):
                parts += [f"\n{name} minus {peer} ({what}), paired; better is positive\n", table(DIFFERENCE, lines)]
    if any(r.spheres for r in rows):
        parts += ["\nInserted spots: share of their contrast that is kept\n", table(SPOTS, kept(rows))]
        parts += ["\nOf spheres, mean share by their contrast\n", table(CLASS_HEAD, by_class(rows))]
    if any("invented" in r.values for r in rows):
        parts += ["\nInvented blobs\n", table(INVENTED, invented(rows))]
    parts += ["\nResearch output, not for diagnosis.\n"]
    return "".join(parts)


HEAD = ("group", "cases", "method", "PSNR dB", "SSIM", "NRMSE", "HFEN", "CPU s", "MiB")
DIFFERENCE = ("group", "measure", "cases", "mean", "95 % interval", "worst", "worst case")
SPOTS = ("group", "method", "spots", "mean", "standard deviation", "fewest 5 % below")
CLASS_HEAD = (
    "group", "method",
    *(f"{sign} {100 * low:.0f} to {100 * high:.0f} %" for sign in ("darker", "brighter") for low, high in CLASSES),
)  # fmt: skip
INVENTED = ("group", "method", "volumes", "volumes with one", "blobs", "most in a volume")


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def grouped(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Rows by group and method, in the order in which they first come."""
    titles = list(dict.fromkeys(r.group for r in rows))
    methods = list(dict.fromkeys(r.method for r in rows))
    found = {(t, m): [r for r in rows if r.group == t and r.method == m] for t in titles for m in methods}
    return {key: some for key, some in found.items() if some}


def means(rows: Sequence[Row]) -> list[list[str]]:
    """A line for every group and method."""
    out = []
    for (title, method), some in grouped(rows).items():

        def mean(name: str, digits: int, some: list[Row] = some) -> str:
            values = [r.values[name] for r in some if name in r.values]
            return f"{math.fsum(values) / len(values):.{digits}f}" if values else "-"

        seconds = math.fsum(r.seconds for r in some) / len(some)
        held = [r.memory for r in some if r.memory]
        cost = [f"{seconds:.1f}", f"{math.fsum(held) / len(held):.0f}" if held else "-"]
        numbers = [mean("psnr", 2), mean("ssim", 4), mean("nrmse", 4), mean("hfen", 4)]
        out.append([title, str(len(some)), method, *numbers, *cost])
    return out


def against(rows: Sequence[Row], network: str, peer: str) -> list[list[str]]:
    """A line for every group and measure."""
    out = []
    for title in dict.fromkeys(r.group for r in rows):
        for measure, digits in (("psnr", 2), ("ssim", 4), ("nrmse", 4), ("hfen", 4)):
            d = differences(rows, title, network, peer, measure)
            if d is not None:
                interval = f"{d.low:+.{digits}f} to {d.high:+.{digits}f}"
                worst = f"{d.worst:+.{digits}f}"
                out.append([title, measure, str(d.count), f"{d.mean:+.{digits}f}", interval, worst, d.case])
    return out


def kept(rows: Sequence[Row]) -> list[list[str]]:
    """A line for every group and method."""
    out = []
    for (title, method), some in grouped([r for r in rows if r.spheres]).items():
        shares = sorted(s for r in some for s in r.spheres)
        mean = math.fsum(shares) / len(shares)
        spread = math.sqrt(math.fsum((s - mean) ** 2 for s in shares) / len(shares))
        low = shares[len(shares) // 20]
        out.append([title, method, str(len(shares)), f"{mean:.3f}", f"{spread:.3f}", f"{low:.3f}"])
    return out


def by_class(rows: Sequence[Row]) -> list[list[str]]:
    """A line for every group and method: mean share kept and number of spots in each class of contrast."""
    out = []
    for (title, method), some in grouped([r for r in rows if r.contrasts]).items():
        pairs = [pair for r in some for pair in zip(r.contrasts, r.spheres, strict=True)]
        line = [title, method]
        for sign in (-1, 1):
            for low, high in CLASSES:
                found = [share for contrast, share in pairs if low <= sign * contrast < high]
                line.append(f"{math.fsum(found) / len(found):.3f} ({len(found)})" if found else "-")
        out.append(line)
    return out


def invented(rows: Sequence[Row]) -> list[list[str]]:
    """A line for every group and method."""
    out = []
    for (title, method), some in grouped([r for r in rows if "invented" in r.values]).items():
        counts = [round(r.values["invented"]) for r in some]
        numbers = (len(counts), sum(c > 0 for c in counts), sum(counts), max(counts))
        out.append([title, method, *map(str, numbers)])
    return out
