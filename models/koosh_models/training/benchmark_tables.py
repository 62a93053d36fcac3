"""The tables of a benchmark as Markdown: means, paired differences with intervals, worst cases, spheres."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from koosh_models.training.benchmark import Row, differences

PEER = "l1"


def shown(rows: Sequence[Row], networks: Sequence[str]) -> str:
    """Every table, one below the other."""
    parts = ["Means over the cases of each group\n", table(HEAD, means(rows))]
    for name in networks:
        parts += [f"\n{name} minus {PEER} (tuned on the truth of each case), paired; better is positive\n"]
        parts += [table(DIFFERENCE, against(rows, name))]
    if any(r.spheres for r in rows):
        parts += ["\nInserted spheres: share of their contrast that is kept\n", table(SPHERES, kept(rows))]
    parts += ["\nResearch output, not for diagnosis.\n"]
    return "".join(parts)


HEAD = ("group", "cases", "method", "PSNR dB", "SSIM", "NRMSE", "HFEN", "invented a case", "CPU s")
DIFFERENCE = ("group", "measure", "cases", "mean", "95 % interval", "worst", "worst case")
SPHERES = ("method", "spheres", "mean", "standard deviation", "fewest 5 % below")


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
        numbers = [mean("psnr", 2), mean("ssim", 4), mean("nrmse", 4), mean("hfen", 4), mean("invented", 1)]
        out.append([title, str(len(some)), method, *numbers, f"{seconds:.1f}"])
    return out


def against(rows: Sequence[Row], network: str) -> list[list[str]]:
    """A line for every group and measure."""
    out = []
    for title in dict.fromkeys(r.group for r in rows):
        for measure, digits in (("psnr", 2), ("ssim", 4), ("nrmse", 4), ("hfen", 4)):
            d = differences(rows, title, network, PEER, measure)
            if d is not None:
                interval = f"{d.low:+.{digits}f} to {d.high:+.{digits}f}"
                worst = f"{d.worst:+.{digits}f}"
                out.append([title, measure, str(d.count), f"{d.mean:+.{digits}f}", interval, worst, d.case])
    return out


def kept(rows: Sequence[Row]) -> list[list[str]]:
    """A line for every method."""
    out = []
    for method in dict.fromkeys(r.method for r in rows if r.spheres):
        shares = sorted(s for r in rows if r.method == method for s in r.spheres)
        mean = math.fsum(shares) / len(shares)
        spread = math.sqrt(math.fsum((s - mean) ** 2 for s in shares) / len(shares))
        low = shares[len(shares) // 20]
        out.append([method, str(len(shares)), f"{mean:.3f}", f"{spread:.3f}", f"{low:.3f}"])
    return out
