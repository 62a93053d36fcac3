"""Quality on held-out cases: of a network, and of the classical methods it has to beat."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from koosh_models import metrics
from koosh_models.baselines import classical
from koosh_models.baselines.locally_low_rank import locally_low_rank
from koosh_models.networks.unrolled import Unrolled
from koosh_models.physics.problem import EmissionProblem, LinearProblem, Problem
from koosh_models.training.feed import AnyCase
from koosh_models.training.pet import PetCase, best_map, best_osem
from koosh_models.training.tables import Data

L1_WEIGHTS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)
LLR_WEIGHTS = (0.0025, 0.005, 0.01, 0.02, 0.04)
TUNED: dict[str, tuple[Callable[[LinearProblem, float], classical.Result], tuple[float, ...]]] = {
    "l1": (classical.l1_wavelet, L1_WEIGHTS),
    "llr": (locally_low_rank, LLR_WEIGHTS),
}
"""Methods and their weights, of which the best for each case is taken: tuned on the truth, which no user can."""


@dataclass(frozen=True, eq=False)
class Score:
    """One image of one case.

    image  kept for pictures, in the case's box
    """

    case: str
    method: str
    values: dict[str, float]
    seconds: float
    image: Tensor = field(repr=False)


def best_weight(problem: LinearProblem, case: AnyCase, method: str) -> tuple[Tensor, int]:
    """The image of one of `TUNED` whose weight is best for this case's truth, and how many were made."""
    solve, weights = TUNED[method]
    return tuned(lambda weight: solve(problem, weight).image, weights, case)


def tuned(make: Callable[[float], Tensor], weights: Sequence[float], case: AnyCase) -> tuple[Tensor, int]:
    """The image that is best for this case's truth, and how many were made, from the middle of the list outwards."""
    made: dict[int, tuple[Tensor, float]] = {}

    def quality(index: int) -> float:
        if index not in made:
            image = make(weights[index])
            made[index] = image, metrics.psnr(image, case.target, case.mask)
        return made[index][1]

    best = len(weights) // 2
    for way in (1, -1):
        while 0 <= best + way < len(weights) and quality(best + way) > quality(best):
            best += way
    quality(best)
    return made[best][0], len(made)


MRI: dict[str, Callable[[LinearProblem, AnyCase], Tensor]] = {
    "gridding": lambda problem, case: classical.gridding(problem).image,
    "cg": lambda problem, case: classical.cg_sense(problem).image,
    "l1": lambda problem, case: best_weight(problem, case, "l1")[0],
    "l1-default": lambda problem, case: classical.l1_wavelet(problem).image,
    "llr": lambda problem, case: best_weight(problem, case, "llr")[0],
    "llr-default": lambda problem, case: locally_low_rank(problem).image,
}
PET: dict[str, Callable[[EmissionProblem, PetCase], Tensor]] = {"osem": best_osem, "map": best_map}


def usual(data: Data) -> tuple[str, ...]:
    """The methods that a network for such data is compared with."""
    if data.pet is not None:
        return tuple(PET)
    return ("gridding", "cg", "l1", *(["llr"] if data.dynamic else []))


def classic(case: AnyCase, problem: Problem, method: str) -> Tensor:
    """The image of a classical method."""
    if method in PET and isinstance(problem, EmissionProblem) and isinstance(case, PetCase):
        return PET[method](problem, case)
    if method in MRI and isinstance(problem, LinearProblem):
        return MRI[method](problem, case)
    raise ValueError(f"{method} is no method for {case.name}; for MRI: {', '.join(MRI)}; for PET: {', '.join(PET)}")


@torch.no_grad()
def score(case: AnyCase, problem: Problem, method: str, network: Unrolled | None = None) -> Score:
    """The image of one method on one case, with its numbers."""
    start = time.perf_counter()
    image = network(problem) if network is not None else classic(case, problem, method)
    seconds = time.perf_counter() - start
    values = metrics.evaluate(image.cpu(), case.target, case.mask)
    return Score(case.name, method, values, seconds, image.cpu())


def compare(cases: Sequence[AnyCase], against: Sequence[str], networks: dict[str, Unrolled]) -> list[Score]:
    """Every network and every classical method on every case."""
    if unknown := sorted(set(against) - set(MRI) - set(PET)):
        raise ValueError(f"unknown method {', '.join(unknown)}; known: {', '.join((*MRI, *PET))}")
    out = []
    for case in cases:
        problem = case.problem()
        out += [score(case, problem, method) for method in against]
        out += [score(case, problem, name, network) for name, network in networks.items()]
    return out


def means(scores: Sequence[Score]) -> dict[str, dict[str, float]]:
    """Mean of each number over the cases, by method."""
    out: dict[str, dict[str, float]] = {}
    for method in dict.fromkeys(s.method for s in scores):
        mine = [s for s in scores if s.method == method]
        keys = mine[0].values
        out[method] = {key: math.fsum(s.values[key] for s in mine) / len(mine) for key in keys}
        out[method]["seconds"] = math.fsum(s.seconds for s in mine) / len(mine)
    return out


def picture(case: AnyCase, image: Tensor) -> Tensor:
    """(row, column) 0 to 1: image, truth and five times their difference, the middle plane."""
    seen, wanted, _ = metrics.fitted(image, case.target, case.mask)
    while seen.ndim > 2:
        seen, wanted = seen[seen.shape[0] // 2], wanted[wanted.shape[0] // 2]
    peak = float(torch.quantile(wanted.flatten(), 0.995)) or 1.0
    return (torch.cat([seen, wanted, 5 * (seen - wanted).abs()], dim=1) / peak).clamp(0, 1).float()
