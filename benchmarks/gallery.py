"""The pictures beside the benchmark's tables: `python -m benchmarks.gallery [WEIGHTS] --data FOLDER --out FILE.png`.

A row for each case: truth, L1-wavelet tuned on it, the network, their errors and the network's map of disagreement.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.problem import one_thread
from benchmarks.trust import data_of
from koosh_models import metrics, weights
from koosh_models.networks.unrolled import Unrolled
from koosh_models.physics.mri import non_cartesian
from koosh_models.training import benchmark_groups
from koosh_models.training.cases import Case
from koosh_models.training.validate import best_weight
from koosh_models.trust import disagreement, parts

matplotlib.use("Agg")
GAIN = 10.0  # by which errors and disagreement are drawn brighter: white is a tenth of the bright end
HEADS = ("truth", "L1-wavelet, tuned", "{}", "error of L1 x 10", "error of {} x 10", "disagreement x 10")


@torch.no_grad()
def row(case: Case, network: Unrolled) -> tuple[list[NDArray[np.float64]], tuple[float, float]]:
    """Six planes, 0 black and 1 white, and the PSNR of both methods."""
    problem = case.problem()
    l1, image = best_weight(problem, case, "l1")[0], network(problem)
    halves = [network(non_cartesian(part, case.maps)) for part in parts(case.scan)]
    seen = [metrics.fitted(x, case.target, case.mask) for x in (l1, image)]
    wanted = seen[0][1]
    top = float(torch.quantile(wanted.flatten(), 0.999))
    doubt = disagreement(image, halves) * (wanted.norm() / image.abs().norm())
    errors = [GAIN * (x - wanted).abs() for x, _, _ in seen]
    shown = [wanted, seen[0][0], seen[1][0], *errors, GAIN * doubt]
    scores = [metrics.psnr(x, case.target, case.mask) for x in (l1, image)]
    plane = int(wanted.square().sum((1, 2)).argmax())
    return [(x[plane] / top).double().numpy() for x in shown], (scores[0], scores[1])


def draw(rows: list[tuple[str, list[NDArray[np.float64]], tuple[float, float]]], name: str, out: Path) -> None:
    """One picture of all rows."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(rows), len(HEADS), figsize=(1.9 * len(HEADS), 2.15 * len(rows)), squeeze=False)
    for (title, planes, scores), line in zip(rows, axes, strict=True):
        for k, (plane, axis) in enumerate(zip(planes, line, strict=True)):
            axis.imshow(plane, cmap="gray", vmin=0, vmax=1)
            axis.set_axis_off()
            told = f", {scores[k - 1]:.1f} dB" if k in (1, 2) else ""
            axis.set_title((title if k == 0 else HEADS[k].format(name)) + told, fontsize=7)
    figure.tight_layout(pad=0.3, h_pad=1.2)
    figure.savefig(out, dpi=90)
    plt.close(figure)


def main() -> None:
    """Draw the cases that were named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", nargs="?", default="radial3d")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="of volumes; without it phantoms")
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="of the cases, made once")
    parser.add_argument("--matrix", type=int, default=64)
    parser.add_argument("--group", default="R = 12")
    parser.add_argument("--cases", type=int, nargs="+", default=[0, 1, 2], help="their numbers (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("docs/images/radial3d.png"))
    parser.set_defaults(quick=False)
    options = parser.parse_args()
    one_thread()
    network, card = weights.load(options.weights)
    (group,) = [g for g in benchmark_groups.groups(data_of(options), 20) if g.title == options.group]
    rows = []
    for number in options.cases:
        one = dataclasses.replace(group, numbers=range(number, number + 1))
        for name, case, _ in benchmark_groups.cases_of(one, options.cache):
            rows.append((name, *row(case, network)))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draw(rows, card.name, options.out)


if __name__ == "__main__":
    main()
