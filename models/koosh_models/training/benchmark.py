"""Networks beside the classical methods on held-out subjects: numbers of each case, paired differences, lesions."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from koosh_models import memory, metrics
from koosh_models.baselines import bart
from koosh_models.networks.unrolled import Unrolled
from koosh_models.training.benchmark_groups import Group, cases_of
from koosh_models.training.cases import Case
from koosh_models.training.findings import invented, spots
from koosh_models.training.validate import TUNED, best_weight, classic, tuned

BART_WEIGHTS = (0.0025, 0.005, 0.01, 0.02, 0.04)


@dataclass(frozen=True)
class Row:
    """One method on one case.

    values    psnr (dB), ssim, nrmse, hfen; `invented` blobs; `kept` share of the spots' contrast where there are any
    seconds   of CPU, once maps and operator are made (BART makes its own); of tuned methods for one weight
    spheres   kept share of each inserted spot
    contrasts of the same spots
    memory    MiB at the peak, operator included, above what the process held before; of BART its whole process
    weights   SHA-256 of a network's, "" where they are not known or there are none
    """

    group: str
    case: str
    method: str
    values: dict[str, float]
    seconds: float
    spheres: tuple[float, ...] = ()
    conditions: dict[str, float | str] = field(default_factory=dict)
    contrasts: tuple[float, ...] = ()
    memory: float = 0.0
    weights: str = ""


@dataclass(frozen=True, eq=False)
class Made:
    """An image with its cost."""

    image: Tensor
    seconds: float
    memory: float


@torch.no_grad()
def made(case: Case, method: str, network: Unrolled | None) -> Made:
    """The image of one method, and what it cost."""
    if method == "bart":
        return made_by_bart(case)
    memory.give_back()
    before = memory.resident()
    memory.forget_peak()
    problem = case.problem()
    begun, tries = time.process_time(), 1
    if method in TUNED:
        image, tries = best_weight(problem, case, method)
    else:
        image = network(problem) if network is not None else classic(case, problem, method)
    seconds = (time.process_time() - begun) / tries
    return Made(image, seconds, (memory.peak() - before) / 2**20)


def made_by_bart(case: Case) -> Made:
    """BART's L1-wavelet with the weight that is best for the truth of the case."""
    if not bart.installed():
        raise ValueError("`bart` is not installed (Debian's package bart); leave it out of --against")
    runs: list[bart.Run] = []

    def image(weight: float) -> Tensor:
        runs.append(bart.l1_wavelet(folder, weight))
        return runs[-1].image

    with bart.exported(case.scan, case.maps) as folder:
        best, _ = tuned(image, BART_WEIGHTS, case)
    seconds = math.fsum(run.seconds for run in runs) / len(runs)
    return Made(best, seconds, max(run.megabytes for run in runs))


def row(group: str, name: str, case: Case, plain: Case | None, method: str, network: Unrolled | None) -> Row:
    """The numbers of one method on one case."""
    found = made(case, method, network)
    values = metrics.evaluate(found.image, case.target, case.mask)
    seen = [] if plain is None else spots(found.image, case.target, plain.target, case.mask)
    if plain is None:
        values["invented"] = float(invented(found.image, case.target, case.mask))
    else:
        values["kept"] = math.fsum(s.kept for s in seen) / len(seen) if seen else math.nan
    kept, contrasts = tuple(s.kept for s in seen), tuple(s.contrast for s in seen)
    return Row(group, name, method, values, found.seconds, kept, case.facts, contrasts, found.memory)


@dataclass(frozen=True)
class Difference:
    """Network minus another method over the same cases: mean, 95 % interval (bootstrap over cases), the worst case."""

    measure: str
    mean: float
    low: float
    high: float
    worst: float
    case: str
    count: int


def differences(rows: Sequence[Row], group: str, method: str, other: str, measure: str) -> Difference | None:
    """Paired over the cases of a group; None where either was not run. Better is positive, whatever the measure."""
    sign = 1.0 if measure in ("psnr", "ssim") else -1.0
    mine = {r.case: r.values for r in rows if r.group == group and r.method == method}
    theirs = {r.case: r.values for r in rows if r.group == group and r.method == other}
    both = [name for name in mine if name in theirs and measure in mine[name]]
    if not both:
        return None
    found = np.array([sign * (mine[name][measure] - theirs[name][measure]) for name in both])
    draws = np.random.default_rng(0).integers(len(found), size=(10_000, len(found)))
    low, high = np.percentile(found[draws].mean(1), [2.5, 97.5])
    worst = int(found.argmin())
    return Difference(
        measure, float(found.mean()), float(low), float(high), float(found[worst]), both[worst], len(both)
    )


Told = Callable[[Row], None]


def run(
    chosen: Sequence[Group],
    against: Sequence[str],
    networks: dict[str, Unrolled],
    cache: Path | None,
    done: Sequence[Row] = (),
    told: Told | None = None,
    hashes: Mapping[str, str] | None = None,
) -> list[Row]:
    """Every method and network on every case; what is `done` already is not done again.

    hashes  SHA-256 of the networks' weights: rows of others under the same name are left out
    """
    hashes = hashes or {}
    out = [r for r in done if r.weights == hashes.get(r.method, r.weights)]
    known = {(r.case, r.method) for r in out}
    warm = False
    for group in chosen:
        methods = [*(group.l1 if method == "l1" else method for method in against), *networks]
        finished = {name for name, _ in known if all((name, method) in known for method in methods)}
        for name, case, plain in cases_of(group, cache, finished):
            for method in methods:
                if (name, method) in known:
                    continue
                if not warm:  # libraries that are loaded now are nobody's memory
                    case.problem()
                    warm = True
                found = row(group.title, name, case, plain, method, networks.get(method))
                out.append(replace(found, weights=hashes.get(method, "")))
                if told is not None:
                    told(out[-1])
    return out
