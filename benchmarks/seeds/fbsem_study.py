"""What the FBSEM benchmark measures with: sets of scans, training by every strategy, tuned baselines."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from koosh_models.baselines.pet import error, iterates, map_em, smoothed
from koosh_models.networks import Dims, Unrolled, build
from koosh_models.physics.pet.prior import bowsher, quadratic
from koosh_models.physics.pet.scanner import Scanner, natural
from koosh_models.scan import Geometry
from koosh_models.simulation.petset import Example, PetSet
from koosh_models.simulation.tissue import Labels
from koosh_models.strategies.backprop import Backprop
from koosh_models.strategies.sequential import Sequential
from koosh_models.strategies.strategy import Strategy

SMOOTHINGS_MM = (0.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
SCALARS = 10.0
STRENGTHS = (0.003, 0.01, 0.03, 0.06, 0.12, 0.25)


@dataclass(frozen=True)
class Plan:
    """How large a study is.

    size, views, rings   grid and scanner; one ring is 2D
    counts               lowest and highest prompts
    train, test          scans
    dims                 the network with weights of its own for each stage
    steps                of a sequentially trained stage; the first takes three times as many
    rate, batch          learning rate, scans a step
    whole                steps of end-to-end training
    """

    size: int
    views: int
    counts: tuple[float, float]
    train: int
    test: int
    dims: Dims
    steps: int
    whole: int
    rings: int = 1
    ring_mm: float = 10.0
    n_subsets: int = 12
    rate: float = 2e-3
    batch: int = 2
    fov_mm: float = 256.0

    @property
    def scanner(self) -> Scanner:
        """Bins as wide as voxels."""
        return Scanner(
            self.views, self.size, self.fov_mm / self.size, n_rings=self.rings, ring_mm=self.ring_mm,
            max_difference=self.rings // 2, diameter_mm=700.0,
        )  # fmt: skip

    @property
    def geometry(self) -> Geometry:
        """The scanner's natural grid."""
        return natural(self.scanner, self.size, self.fov_mm)

    def sets(self, train: Sequence[Labels], test: Sequence[Labels], stride: int = 1) -> tuple[PetSet, PetSet]:
        """Scans to train on and held-out ones, of other patients."""
        first = self.dims.start_steps if self.dims.start == "osem" else 0
        made = PetSet(
            self.scanner, self.geometry, self.n_subsets, self.counts, 1, train,
            guided=self.dims.guides > 0, first=first, stride=stride,
        )  # fmt: skip
        return made, replace(made, seed=2, labels=test)


Targets = Callable[[Example], Tensor | Callable[[int], Tensor]]


def truth(example: Example) -> Tensor:
    """The simulated activity is the target of every stage."""
    return example.truth


def iterated(example: Example) -> Callable[[int], Tensor]:
    """Targets of their own for each stage: noise-free OSEM images."""
    return example.target


def fit(
    network: Unrolled,
    strategy: Strategy,
    examples: Sequence[Example],
    targets: Targets,
    plan: Plan,
    steps: int,
    seed: int,
) -> None:
    """Adam over one cycle of the learning rate; gammas have further to go than kernels and take longer steps."""
    parameters = [p for phase in strategy.phases(network) for p in phase]
    kernels, gammas = [p for p in parameters if p.ndim], [p for p in parameters if not p.ndim]
    rates = [plan.rate, SCALARS * plan.rate]
    optimizer = torch.optim.Adam([{"params": kernels}, {"params": gammas}])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps)
    drawn = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        for index in torch.randint(len(examples), (plan.batch,), generator=drawn).tolist():
            strategy.step(network, examples[index].problem, targets(examples[index]))
        optimizer.step()
        schedule.step()


def sequentially(plan: Plan, examples: Sequence[Example], targets: Targets, seed: int) -> Unrolled:
    """One stage after the other; each starts from the weights of the one before it."""
    torch.manual_seed(seed)
    network, strategy = build(plan.dims), Sequential()
    for k in range(plan.dims.stages):
        if k:
            network.regularizers[k].load_state_dict(network.regularizers[k - 1].state_dict())
            network.steps[k].load_state_dict(network.steps[k - 1].state_dict())
            strategy.advance(network)
        fit(network, strategy, examples, targets, plan, plan.steps * (1 if k else 3), 1000 * seed + k)
    return network


def end_to_end(
    plan: Plan, examples: Sequence[Example], seed: int, begun: Unrolled | None = None, **change: bool
) -> Unrolled:
    """All stages at once; `change` may share the weights or cut the gradient through the projections.

    begun  a trained network to go on with, which stays as it is
    """
    torch.manual_seed(seed)
    network = build(replace(plan.dims, **change)) if begun is None else copy.deepcopy(begun)
    if begun is None and not network.dims.shared:  # the same first weights everywhere, as sequential training has them
        for k in range(1, plan.dims.stages):
            network.regularizers[k].load_state_dict(network.regularizers[0].state_dict())
    fit(network, Backprop(), examples, truth, plan, plan.whole, seed)
    return network


@torch.no_grad()
def errors(network: Unrolled, examples: Sequence[Example]) -> Tensor:
    """(scan) error of the network's images, `|image - truth| / |truth|`."""
    return torch.tensor([error(network(e.problem), e.truth) for e in examples])


@torch.no_grad()
def baselines(
    examples: Sequence[Example], updates: int = 72, strengths: Sequence[float] = STRENGTHS
) -> dict[str, Tensor]:
    """(scan) errors of OSEM, each tuned in its own way.

    best-stopped and best-smoothed choose update and filter for every scan by its truth: no method could choose better.
    MAP-EM takes the one strength (and number of neighbours) that is best over all scans.
    """
    voxel = examples[0].projectors[0].geometry.voxel_mm
    stopped, filtered, priors = [], [], []
    for e in examples:
        images = list(islice(iterates(e.problem), updates))
        stopped.append(min(error(x, e.truth) for x in images))
        late = images[11::12]
        filtered.append(min(error(smoothed(x, mm, voxel), e.truth) for x in late for mm in SMOOTHINGS_MM))
        priors.append(maps(e, voxel, max(1, updates // e.problem.n_subsets), strengths))
    found = {"OSEM, best-stopped": torch.tensor(stopped), "OSEM, best-smoothed": torch.tensor(filtered)}
    if strengths:
        table = torch.tensor(priors)  # (scan, kind, strength)
        best = table.mean(0).argmin(1)
        found |= {"MAP-EM, quadratic": table[:, 0, best[0]], "MAP-EM, Bowsher with MR": table[:, 1, best[1]]}
    return found


def maps(e: Example, voxel: tuple[float, ...], iterations: int, strengths: Sequence[float]) -> list[list[float]]:
    """Errors of MAP-EM by kind of prior and strength."""
    plain, guided = quadratic(e.problem.shape, voxel, e.truth), bowsher(e.scan.guide, voxel, 2 ** len(voxel))
    return [[error(map_em(e.problem, p, s, iterations), e.truth) for s in strengths] for p in (plain, guided)]


def interval(values: Tensor) -> tuple[float, float]:
    """Mean and half of the 95 % interval (Student's t) of these values."""
    from scipy.stats import t

    n = len(values)
    return float(values.mean()), float(t.ppf(0.975, n - 1)) * float(values.std()) / math.sqrt(n)


def timed(run: Callable[[], Unrolled]) -> tuple[Unrolled, float]:
    """A trained network and the seconds of CPU it took."""
    start = time.process_time()
    return run(), time.process_time() - start
