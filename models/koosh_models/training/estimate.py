"""What a run would need, before it starts: parameters, memory, steps and time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from koosh_models.memory import resident
from koosh_models.networks.unrolled import Unrolled, build
from koosh_models.physics.mri import PAIR_BELOW
from koosh_models.physics.problem import EmissionProblem, LinearProblem, Problem
from koosh_models.physics.toeplitz import GROWTH
from koosh_models.strategies.strategy import graph
from koosh_models.training.distributed import CoilTeam
from koosh_models.training.plan import parts
from koosh_models.training.recipe import Recipe
from koosh_models.training.tables import Data
from koosh_models.training.trial import Pace, Trial, pace, samples_per_voxel, trial

MB = 2**20
BOARD = 75 * MB  # TensorBoard's writer and what it imports
AHEAD = 2  # cases that the feed has ready or under way
WORK = 12  # images that a step holds besides autograd's: conjugate gradients, the network's input and output
PASSING = 0.6  # of one graph: gradients of activations under way, which autograd does not save


@dataclass(frozen=True)
class Need:
    """Bytes of one part of a run.

    activations  what autograd holds at the peak of a step, by the strategy's formula
    fixed        weights, gradients, optimizer and running mean
    scan         problems in memory, with maps, kernels, samples and targets
    work         images and gradients that pass during a step; images that are kept between steps
    base         on a CPU: the interpreter with all that is imported, and what making a case takes
    """

    strategy: str
    steps: int
    activations: int
    fixed: int
    scan: int
    work: int
    base: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.activations + self.fixed + self.scan + self.work + self.base


@dataclass(frozen=True)
class Sizes:
    """Of one scan: voxels of a frame in the object's box, frames, coils, samples of a frame; with a nearby operator."""

    voxels: int
    frames: int
    coils: float
    samples: float
    axes: int
    grid: bool
    near: bool = False

    @property
    def image(self) -> int:
        """Bytes of one complex image."""
        return 8 * self.voxels * self.frames

    @property
    def bytes(self) -> float:
        """Of a case with its operator: samples, trajectory, weights, maps, target, mask, b, and the normal operator."""
        sampled = self.frames * self.samples * (8 * self.coils + 4 * self.axes + 4)
        return sampled + 8 * self.coils * self.voxels + 2.125 * self.image + self.normal + self.nearby

    @property
    def normal(self) -> float:
        """Bytes of the normal operator: masks; a gridder's grid and points; or a Toeplitz kernel with its scratch."""
        if self.grid:
            return self.image
        if self.samples / self.voxels < PAIR_BELOW[self.axes]:
            return 2 * self.image + 8 * self.axes * self.samples * self.frames
        slab = self.frames * min(3 * MB, 8 * 2**self.axes * self.voxels)
        return 4 * 2**self.axes * self.voxels * self.frames + 2 * self.image + slab

    @property
    def nearby(self) -> float:
        """Bytes of a nearby operator: half of the coils, its own kernel and scratch unless there is a gridder."""
        if not self.near or self.grid or self.frames > 1:
            return 0.0
        coils = 4 * self.coils * self.voxels
        if self.samples / self.voxels < PAIR_BELOW[self.axes]:
            return coils
        return coils + 4 * GROWTH**self.axes * self.voxels + GROWTH * self.image

    @property
    def making(self) -> float:
        """Bytes while a case is simulated: coil images and spectra, samples twice."""
        return 8 * self.coils * (3 * self.voxels + 2 * self.samples)


def sizes(data: Data, small: Trial, largest: bool, near: bool = False) -> Sizes:
    """The largest scan of a recipe, or one in the middle."""
    matrices = sorted(data.matrix, key=math.prod)
    matrix = matrices[-1] if largest else matrices[len(matrices) // 2]
    low, high = data.acceleration
    speed = low if largest or high == low else (math.log(high / low)) / (1 / low - 1 / high)
    coils = float(data.coils[1]) if largest else sum(data.coils) / 2
    series = any(family.startswith("cine") for family in data.trajectory)
    samples = samples_per_voxel(data, speed) * math.prod(matrix)
    voxels = math.prod(small.box(matrix, largest))
    grid = all("cartesian" in family for family in data.trajectory)
    return Sizes(voxels, data.frames if series else 1, coils, samples, len(matrix), grid, near)


def stand_in(shape: tuple[int, ...], subsets: int = 0, ranks: int = 1) -> Problem:
    """A problem of that shape that holds nothing; with subsets, one of PET; of ranks that share it, the first's."""
    if subsets:
        return EmissionProblem(lambda x, subset: x, torch.empty((subsets, *shape), device="meta"))

    def normal(x: Tensor) -> Tensor:
        return x

    team = CoilTeam(0, ranks) if ranks > 1 else None
    return LinearProblem(normal, torch.empty(shape, dtype=torch.complex64, device="meta"), team=team)


def needs(recipe: Recipe, device: torch.device | None = None, small: Trial | None = None, ranks: int = 1) -> list[Need]:
    """Memory of each part on one rank.

    ranks  that share each volume
    """
    on_cpu = device is None or device.type == "cpu"
    data, base = recipe.data, 0.0
    with torch.device("cpu" if on_cpu else "meta"):
        network = build(recipe.network)
    if data.pet is not None:
        shape = extent = data.pet.geometry.matrix
        kept, scan, making = AHEAD + 1, 0.0, 0.0
    else:
        small = small or trial(recipe)
        near = recipe.network.cg_near
        one, usual = (sizes(data, small, largest, near) for largest in (True, False))
        matrix = max(data.matrix, key=math.prod)
        shape, extent = small.box(matrix, largest=True), small.tight(matrix)
        shape, extent = ((data.frames, *s) if one.frames > 1 else s for s in (shape, extent))
        kept = data.cases if data.fit(recipe.training.hold) else AHEAD + 1
        held = data.validation_cases + kept - 1
        scan = shared(one, ranks) + held * shared(usual, ranks)
        making = 0.0 if recipe.training.workers else one.making
    if on_cpu:
        base = resident() + BOARD + making
    fixed = 5 * sum(p.numel() * p.element_size() for p in network.parameters())
    out = []
    for part in parts(recipe):
        strategy = part.enter()
        inside = extent if part.phase.strategy == "warmstart" else shape  # a warm start sees the object alone
        problem = stand_in(inside, recipe.network.subsets, ranks)
        held_now = strategy.memory(network, problem)
        image = math.prod(shape) * 4 * recipe.network.channels
        # a start image of each problem that is kept, or what a warm start has made of it
        images = kept * image if data.fit(recipe.training.hold) or part.phase.strategy == "warmstart" else 0
        passing = PASSING * min(held_now, graph(network, math.prod(shape)))
        name = part.phase.strategy + ("" if part.stage is None else f" stage {part.stage}")
        work = round(WORK * image + passing + images)
        out.append(Need(name, part.last - part.first, held_now, fixed, round(scan), work, round(base)))
    return out


def shared(one: Sizes, ranks: int) -> float:
    """Bytes of a scan on a rank that has a share of its coils."""
    return replace(one, coils=math.ceil(one.coils / ranks)).bytes


def estimate(recipe: Recipe, device: torch.device, ranks: int = 1) -> list[str]:
    """Lines for a person: parameters, then each part with steps, memory and time."""
    with torch.device("meta"):
        network = build(recipe.network)
    small = None if recipe.data.pet is not None else trial(recipe)
    found = needs(recipe, device, small, ranks if recipe.training.share == "coils" else 1)
    paces: Sequence[Pace | None] = [None] * len(found) if small is None else pace(recipe, small, device)
    lines = [headline(recipe, network, device)]
    total = 0.0
    for need, speed in zip(found, paces, strict=True):
        seconds = None if speed is None else seconds_of(recipe, need.steps, speed)
        total += seconds or 0.0
        lines.append(
            f"  {need.strategy}: {need.steps} steps, {need.total / MB:.0f} MB (autograd {need.activations / MB:.0f}, "
            f"weights {need.fixed / MB:.1f}, scans {need.scan / MB:.0f}, work {need.work / MB:.0f}, "
            f"program {need.base / MB:.0f}){'' if seconds is None else f', about {spoken(seconds)}'}"
        )
    if small is not None:
        lines.append(f"  time: about {spoken(total)}, from steps on {small.described}")
    limit = recipe.training.memory_mb
    over = [n.strategy for n in found if n.activations > limit * MB]
    if over:
        lines.append(f"  over training.memory_mb = {limit}: {', '.join(over)}")
    return lines


def headline(recipe: Recipe, network: Unrolled, device: torch.device) -> str:
    """Parameters, stages, steps."""
    count = sum(p.numel() for p in network.parameters())
    return f"{recipe.name}: {count} weights, {recipe.network.stages} stages, {recipe.steps} steps on {device}"


def seconds_of(recipe: Recipe, steps: int, speed: Pace) -> float:
    """Of a part: each case is new once where it is kept, and each time where it is not."""
    cases = steps * recipe.training.accumulate
    new = min(cases, recipe.data.cases) if recipe.data.fit(recipe.training.hold) else cases
    return new * speed.fresh + (cases - new) * speed.again


def spoken(seconds: float) -> str:
    """A time as people say it."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
