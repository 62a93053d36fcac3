"""What a run would need, before it starts: parameters, memory by the strategies' own formulas, steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from koosh_models.networks.unrolled import build
from koosh_models.physics.problem import EmissionProblem, LinearProblem, Problem
from koosh_models.training.plan import parts
from koosh_models.training.recipe import Recipe
from koosh_models.training.tables import Data

MB = 2**20


@dataclass(frozen=True)
class Need:
    """Bytes of one part of a run.

    activations  what autograd holds at the peak of a step, by the strategy's formula
    fixed        weights, gradients, optimizer and running mean
    scan         maps, kernel, samples and work volumes of the largest case
    """

    strategy: str
    steps: int
    activations: int
    fixed: int
    scan: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.activations + self.fixed + self.scan


def image_shape(data: Data, frames: bool) -> tuple[int, ...]:
    """The largest image of a recipe."""
    if data.pet is not None:
        return data.pet.geometry.matrix
    largest = max(data.matrix, key=math.prod)
    return (data.frames, *largest) if frames else largest


def stand_in(shape: tuple[int, ...], subsets: int = 0) -> Problem:
    """A problem of that shape that holds nothing; with subsets, one of PET."""
    if subsets:
        return EmissionProblem(lambda x, subset: x, torch.empty((subsets, *shape), device="meta"))

    def normal(x: Tensor) -> Tensor:
        return x

    return LinearProblem(normal, torch.empty(shape, dtype=torch.complex64, device="meta"))


def needs(recipe: Recipe) -> list[Need]:
    """Memory of each part; nothing is allocated."""
    frames = any(f.startswith("cine") for f in recipe.data.trajectory)
    shape = image_shape(recipe.data, frames)
    with torch.device("meta"):
        network = build(recipe.network)
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    voxels, coils = math.prod(shape), recipe.data.coils[1]
    # dense maps, padded kernel, five work volumes of conjugate gradients, one coil image and its padded transform
    scan = 8 * (coils * voxels // (shape[0] if frames else 1) + 5 * voxels + 3 * voxels) + 4 * 8 * voxels
    out = []
    for part in parts(recipe):
        strategy = part.enter()
        held = strategy.memory(network, stand_in(shape, recipe.network.subsets))
        name = part.phase.strategy + ("" if part.stage is None else f" stage {part.stage}")
        out.append(Need(name, part.last - part.first, held, 4 * weights, scan))
    return out


def estimate(recipe: Recipe, device: torch.device) -> list[str]:
    """Lines for a person: parameters, then each part with steps and memory."""
    with torch.device("meta"):
        network = build(recipe.network)
    count = sum(p.numel() for p in network.parameters())
    lines = [f"{recipe.name}: {count} weights, {recipe.network.stages} stages, {recipe.steps} steps on {device}"]
    found = needs(recipe)
    for need in found:
        lines.append(
            f"  {need.strategy}: {need.steps} steps, {need.total / MB:.0f} MB "
            f"(autograd {need.activations / MB:.0f}, weights {need.fixed / MB:.1f}, scan {need.scan / MB:.0f})"
        )
    limit = recipe.training.memory_mb
    over = [n.strategy for n in found if n.activations > limit * MB]
    if over:
        lines.append(f"  over training.memory_mb = {limit}: {', '.join(over)}")
    return lines
