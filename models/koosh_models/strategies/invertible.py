"""Memory-efficient learning: inputs of stages are recomputed by running the stages backwards.

Wang et al. 2021, Kellman et al. 2020. `z` comes back from `x' = (N + lam)^-1 (b + lam z)` by one application of N, `x`
from `z = x + f(x)` by a fixed point. Each stage's way back is tried while going forward; where it would not hold, the
stage's input is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, distributed, nn

from koosh_models.losses import Objective, Target
from koosh_models.networks import spectral, tiles
from koosh_models.networks.tiles import Tile
from koosh_models.networks.unrolled import Unrolled
from koosh_models.physics.problem import Problem
from koosh_models.strategies.chain import Chain, Link
from koosh_models.strategies.strategy import graph, settle, trainable, volume

log = logging.getLogger(__name__)


@runtime_checkable
class Reversible(Protocol):
    """A consistency step whose regularized image can be told from its result."""

    def inverse(self, problem: Problem, out: Tensor) -> Tensor:
        """The regularized image."""

    def spread(self, problem: Problem, error: Tensor) -> Tensor:
        """What an error of the result becomes in the regularized image."""


@torch.no_grad()
def backwards(link: Link, out: Tensor, steps: int) -> tuple[Tensor, float, float]:
    """The input of a stage from its output, the most that a change kept of its size in a step of the fixed point, and
    the same of changes well above rounding: by how much the residual stretches.
    """
    step = link.stage.consistency
    assert isinstance(step, Reversible)
    z = step.inverse(link.problem, out)
    y, before, shrinking, stretch = z, float("inf"), 0.0, 0.0
    rounding = torch.finfo(z.real.dtype).eps * float(torch.linalg.vector_norm(z))
    for _ in range(steps):
        change = z - tiles.regularize(link.stage, link.problem, y, link.condition, link.tiles)
        y = y + change
        size = float(torch.linalg.vector_norm(change))
        if before < float("inf") and before > 0:
            shrinking = max(shrinking, size / before)
            stretch = max(stretch, size / before) if size > 1e3 * rounding else stretch
        if not size > 2 * torch.finfo(y.dtype).eps * float(torch.linalg.vector_norm(y)) or size > 10 * before:
            break
        before = size
    return y, shrinking, stretch


@dataclass
class Recomputed:
    """Boundaries that are run backwards, except where the guard keeps one.

    The error of a recomputed image is that of its own way back plus the errors above it, amplified by each stage they
    pass. The sum over a stretch of stages without a kept image stays below `tolerance`.
    """

    tolerance: float
    steps: int
    kept: list[int] = field(default_factory=list)
    stretches: list[float] = field(default_factory=list)
    error: float = 0.0
    amplified: float = 1.0
    worst: float = 0.0

    def __post_init__(self) -> None:
        self._images: list[Tensor] = []

    def leave(self, k: int, link: Link, x: Tensor, out: Tensor) -> None:
        """Try the way back; keep the input where it, or what has added up so far, is too far off."""
        back, shrinking, stretch = backwards(link, out, self.steps)
        self.stretches.append(stretch)
        own = float(torch.linalg.vector_norm(back - x) / torch.linalg.vector_norm(x).clamp_min(1e-30))
        error = self.error + self.amplified * own
        amplified = self.amplified * amplification(link, out, k) / max(1 - shrinking, 1e-3)
        if error <= self.tolerance:
            self.error, self.amplified, self.worst = error, amplified, max(self.worst, error)
            return
        self.kept.append(k)
        self._images.append(x)
        self.error, self.amplified = 0.0, 1.0

    def held(self) -> list[Tensor]:
        """The kept ones."""
        images, self._images = self._images, []
        return images

    def enter(self, k: int, link: Link, out: Tensor, held: Sequence[Tensor]) -> Tensor:
        """The input of stage `k`: kept, or recomputed."""
        return held[self.kept.index(k)] if k in self.kept else backwards(link, out, self.steps)[0]


@torch.no_grad()
def amplification(link: Link, out: Tensor, seed: int) -> float:
    """How much a random error e of a stage's output grows in its regularized image: `|(N + lam) e| / |lam e|`."""
    drawn = torch.Generator(out.device).manual_seed(seed)
    noise = torch.randn(out.shape, dtype=out.dtype, device=out.device, generator=drawn)
    step = link.stage.consistency
    assert isinstance(step, Reversible)
    return float(torch.linalg.vector_norm(step.spread(link.problem, noise)) / torch.linalg.vector_norm(noise))


@torch.no_grad()
def damp(network: Unrolled, stretches: Sequence[float], limit: float) -> None:
    """Scale the residuals down that stretched by more than `limit`, on all ranks alike."""
    found = torch.tensor(stretches)
    if distributed.is_available() and distributed.is_initialized():
        device = next(network.parameters()).device if distributed.get_backend() == "nccl" else "cpu"
        found = found.to(device)
        distributed.all_reduce(found, distributed.ReduceOp.MAX)
    count = len(network.regularizers)
    for index, regularizer in enumerate(network.regularizers):
        most = float(found[index::count].max())  # shared weights stand in every stage
        if most > limit:
            spectral.scale(regularizer, limit / most)


@dataclass
class Invertible:
    """Memory: the last image, the kept ones (none if all goes well) and one stage's graph, whatever the depth.

    tile       side of a tile; None: a stage's graph spans the whole image
    tolerance  relative error of a recomputed image above which one is kept
    steps      fixed-point steps at most
    lipschitz  residuals that stretch by more are scaled down; None: left alone
    bound      how that is told. "measured": after each step, from how fast the fixed point's changes shrank, a power
               iteration on the residual at these images. "proven": before each step, from a product of layers' norms,
               for any image; several times what residuals really do, so they learn less.
               At 0.7 the 30 `steps` leave 2e-5 of the first change
    kept       stages whose input was kept in the last step
    """

    tile: int | tuple[int, ...] | None = None
    tolerance: float = 3e-5
    steps: int = 30
    lipschitz: float | None = 0.7
    bound: Literal["measured", "proven"] = "measured"
    objective: Objective = field(default_factory=Objective)
    kept: tuple[int, ...] = field(default=(), init=False)

    def phases(self, network: Unrolled) -> list[list[nn.Parameter]]:
        """One group: all."""
        return [trainable(network)]

    def step(self, network: Unrolled, problem: Problem, target: Target) -> list[float]:
        """The loss; gradients are added to `.grad`."""
        self._check(network)
        if self.lipschitz is not None and self.bound == "proven":
            for regularizer in network.regularizers:
                spectral.project(regularizer, self.lipschitz)
        boundaries = Recomputed(self.tolerance, self.steps)
        images = Chain(network, problem, self._tiles(network, problem), boundaries)(network.start(problem))
        self.kept = tuple(boundaries.kept)
        log.info("invertible: kept %d of %d stage inputs", len(self.kept), network.dims.stages)
        loss = settle(self.objective(images, target, network.dims.stages), problem)
        if self.lipschitz is not None and self.bound == "measured":
            damp(network, boundaries.stretches, self.lipschitz)
        return [loss]

    def memory(self, network: Unrolled, problem: Problem) -> int:
        """`(1 + kept) V` and one stage's (or tile's) graph; `kept` as of the last step."""
        voxels = tiles.largest(tiles.own(self._tiles(network, problem), tiles.team_of(problem)))
        return (1 + len(self.kept)) * volume(network, problem) + graph(network, voxels)

    def _tiles(self, network: Unrolled, problem: Problem) -> list[Tile]:
        sides = self.tile
        if sides is None:
            sides = tiles.divided(problem.shape, max(problem.shape), tiles.team_of(problem))
        return tiles.plan(problem.shape, sides, network.stage(0).regularizer)

    def _check(self, network: Unrolled) -> None:
        step = network.stage(0).consistency
        if not isinstance(step, Reversible):
            raise TypeError(
                f"invertible training needs a consistency step that can be run backwards: cg, not {step.kind}"
            )
        if self.objective.every:
            raise ValueError("invertible training keeps no image between stages, so it has no loss on them: every=0")
