"""Whether the maps of doubt know where an image errs: `python -m benchmarks.trust [WEIGHTS] --data FOLDER`.

The truth is known, so the error is; each map is judged by how well it ranks the error inside the object, beside maps
that anybody could make: the image itself, its edges, its distance from a classical image.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.problem import one_thread
from benchmarks.report import Row, arguments, command, show
from koosh_models import metrics, weights
from koosh_models.baselines import classical
from koosh_models.networks.unrolled import Unrolled
from koosh_models.physics.mri import non_cartesian
from koosh_models.training import benchmark_groups as benchmark
from koosh_models.training.cases import Case
from koosh_models.training.recipe import Recipe, read, recipe_path
from koosh_models.training.tables import Data
from koosh_models.trust import disagreement, parts, smoothed, unexplained

THIS = "benchmarks.trust"
GROUPS = ("R = 12", "R = 20", "off-resonance 60 Hz", "motion 1 voxel, 1 degree")
BLOCK = 4  # voxels a side of the regions that a reader would judge
TOP = 0.1  # of the voxels, those that a map calls worst


def ranks(values: Tensor) -> Tensor:
    """Places in ascending order."""
    return values.argsort().argsort().double()


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation."""
    x, y = (ranks(v) - (len(v) - 1) / 2 for v in (a, b))
    return float((x * y).sum() / (x.norm() * y.norm()))


def in_blocks(values: Tensor, mask: Tensor) -> Tensor:
    """Root mean square in each block of voxels that lies wholly inside the mask."""
    square = functional.avg_pool3d(values.double().square()[None], BLOCK)[0]
    whole = functional.avg_pool3d(mask.double()[None], BLOCK)[0] > 1 - 1e-6
    return square[whole].sqrt()


def caught(error: Tensor, by: Tensor) -> float:
    """The share of the squared error in those voxels that a map calls worst; chance is `TOP`."""
    worst = by.argsort(descending=True)[: max(1, round(TOP * len(by)))]
    return float(error[worst].square().sum() / error.square().sum())


def maps_of(case: Case, network: Unrolled) -> tuple[Tensor, dict[str, Tensor]]:
    """The network's image and every map of it, inside the case's box."""
    problem = case.problem()
    image = network(problem)
    halves = [network(non_cartesian(part, case.maps)) for part in parts(case.scan)]
    cg, l1 = classical.cg_sense(problem).image, classical.l1_wavelet(problem).image
    flat = image.abs()
    edges = sum((g.square() for g in torch.gradient(flat)), start=torch.zeros_like(flat)).sqrt()
    found = {
        "the image itself": flat,
        "its edges": edges,
        "distance from CG": smoothed((image - cg).abs().square()).clamp_min(0).sqrt(),
        "distance from L1": smoothed((image - l1).abs().square()).clamp_min(0).sqrt(),
        "residual": unexplained(problem, image),
        "disagreement": disagreement(image, halves),
    }
    return image, found


@torch.no_grad()
def judged(group: str, name: str, case: Case, network: Unrolled) -> list[Row]:
    """How well each map ranks the error of one case."""
    image, found = maps_of(case, network)
    seen, wanted, mask = metrics.fitted(image, case.target, case.mask)
    error = (seen - wanted).abs()
    top, out = float(torch.quantile(image.abs().flatten()[:: max(1, image.numel() // 10**6)], 0.999)), []

    def row(by: str, what: str, value: float, unit: str = "") -> None:
        out.append(Row(f"{group} | {name} | {by} | {what}", value, unit, command=command(THIS)))

    row("the error itself", "caught", caught(error[mask], error[mask]))
    for by, values in found.items():
        row(by, "voxels", spearman(error[mask], values[mask].double()))
        row(by, "blocks", spearman(in_blocks(error, mask), in_blocks(values, mask)))
        row(by, "caught", caught(error[mask], values[mask].double()))
        row(by, "level", 100 * float(values[mask].square().mean().sqrt()) / top, "%")
    return out


def means(rows: Iterable[Row]) -> list[Row]:
    """Over the cases of each group."""
    sums: dict[str, list[float]] = {}
    units: dict[str, str] = {}
    for row in rows:
        group, _, by, what = row.name.split(" | ")
        sums.setdefault(name := f"{group} | {by} | {what}", []).append(row.value)
        units[name] = row.unit
    return [Row(name, math.fsum(v) / len(v), units[name], command=command(THIS)) for name, v in sums.items()]


def table(rows: Iterable[Row]) -> str:
    """A Markdown table, a line for each group and map."""
    lines: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        group, by, what = row.name.split(" | ")
        lines.setdefault((group, by), {})[what] = row.value
    columns = {"voxels": "{:.2f}", "blocks": "{:.2f}", "caught": "{:.3f}", "level": "{:.2f}"}
    out = (
        "| group | map | rank correlation, voxels | in blocks | error caught | level, % |\n|---|---|---|---|---|---|\n"
    )
    for (group, by), values in lines.items():
        cells = [form.format(values[w]) if w in values else "-" for w, form in columns.items()]
        out += f"| {group} | {by} | {' | '.join(cells)} |\n"
    return out


def data_of(options: argparse.Namespace) -> Data:
    """The recipe's data at the benchmark's conditions."""
    recipe = read(recipe_path("radial3d_blockwise"))
    assert isinstance(recipe, Recipe)
    size = 32 if options.quick else options.matrix
    changes: dict[str, object] = {"matrix": ((size,) * 3,)}
    changes["volumes"] = str(options.data) if options.data else ""
    return benchmark.at(recipe.data.model_copy(update=changes), acceleration=float(benchmark.MAIN), noise=0.02, coils=8)


def main() -> None:
    """Judge, print the table, keep what is done in the JSON file."""
    parser = arguments(__doc__ or "")
    parser.add_argument("weights", nargs="?", default="radial3d")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="of volumes; without it phantoms")
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="of the cases, made once")
    parser.add_argument("--matrix", type=int, default=64)
    parser.add_argument("--cases", type=int, default=4, help="of each group (%(default)s)")
    parser.add_argument("--only", nargs="+", default=GROUPS, metavar="GROUP")
    options = parser.parse_args()
    one_thread()
    network, _ = weights.load(options.weights)
    rows = [Row(**r) for r in json.loads(options.json.read_text())] if options.json and options.json.is_file() else []
    done = {" | ".join(r.name.split(" | ")[:2]) for r in rows}
    count = 1 if options.quick else options.cases
    for group in benchmark.groups(data_of(options), 5 * count):
        if group.title not in options.only:
            continue
        few = dataclasses.replace(group, numbers=range(count))
        for name, case, _ in benchmark.cases_of(few, options.cache):
            if f"{group.title} | {name}" in done:
                continue
            rows += judged(group.title, name, case, network)
            if options.json:
                options.json.write_text(json.dumps([dataclasses.asdict(r) for r in rows], indent=1) + "\n")
    summary = means(rows)
    show(summary)
    print(table(summary))


if __name__ == "__main__":
    main()
