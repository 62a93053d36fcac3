"""A regularizer applied tile by tile, exactly: the same image and the same gradients as on the whole volume.

Each tile reads its core and a halo of the regularizer's radius, cropped at the border of the volume, so that the
convolutions' own zeros act only there. Cores partition the volume (the last ones are smaller), so gradients add up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch import Tensor

from koosh_models.networks.regularizer import Regularizer
from koosh_models.networks.stage import Box, Stage
from koosh_models.physics.operator import inner
from koosh_models.physics.problem import Problem, Team


@dataclass(frozen=True)
class Tile:
    """Where a tile lies: `core` and `outer` in the volume, `local` is the core within the outer box."""

    core: Box
    outer: Box
    local: Box

    @property
    def voxels(self) -> int:
        """Voxels of the outer box."""
        return math.prod(s.stop - s.start for s in self.outer)


def plan(shape: Sequence[int], side: int | Sequence[int], regularizer: Regularizer) -> list[Tile]:
    """Tiles of at most `side` voxels (rounded down to the regularizer's stride) whose cores partition the volume."""
    sides = (side,) * len(shape) if isinstance(side, int) else tuple(side)
    if len(sides) != len(shape) or len(regularizer.radius) != len(shape):
        raise ValueError(f"tile {sides} and radius {regularizer.radius} for an image of shape {tuple(shape)}")
    if min(sides) < 1:
        raise ValueError(f"tile {sides}: every side must be at least 1")
    axes = [_cut(*numbers) for numbers in zip(shape, sides, regularizer.radius, regularizer.stride, strict=True)]
    return [Tile(*(tuple(boxes) for boxes in zip(*cell, strict=True))) for cell in product(*axes)]


def _cut(size: int, side: int, radius: int, stride: int) -> list[tuple[slice, slice, slice]]:
    step = max(side // stride, 1) * stride
    halo = -(-radius // stride) * stride
    parts = []
    for start in range(0, size, step):
        stop = min(start + step, size)
        low, high = max(start - halo, 0), min(stop + halo, size)
        parts.append((slice(start, stop), slice(low, high), slice(start - low, stop - low)))
    return parts


def largest(tiles: Sequence[Tile]) -> int:
    """Voxels of the largest outer box: what one recomputed graph spans."""
    return max((tile.voxels for tile in tiles), default=0)


def widest(shape: Sequence[int], side: int, regularizer: Regularizer) -> int:
    """Voxels of the largest outer box of the tiles of that side, without making them: boxes are products of axes."""
    reach = zip(shape, regularizer.radius, regularizer.stride, strict=True)
    return math.prod(max(o.stop - o.start for _, o, _ in _cut(n, side, r, stride)) for n, r, stride in reach)


def side_for(shape: Sequence[int], regularizer: Regularizer, budget: int, itemsize: int = 4) -> int:
    """The largest tile side whose graph fits into `budget` bytes; raises where not even the smallest does."""
    step = max(regularizer.stride)
    best = 0
    for side in range(step, max(shape) + step, step):
        # half a side has one halo where a little less has two: what is needed does not always grow with the side
        if math.ceil(widest(shape, side, regularizer) * regularizer.activations * itemsize) <= budget:
            best = side
    if not best:
        needed = math.ceil(widest(shape, step, regularizer) * regularizer.activations * itemsize)
        raise ValueError(
            f"a budget of {budget} bytes is too small for any tile: one of side {step} with its halo "
            f"{regularizer.radius} needs {needed} bytes; allow more, or use fewer features or layers"
        )
    return best


def team_of(problem: Problem) -> Team | None:
    """The ranks that share a measurement, None where there are no others."""
    team: Team | None = getattr(problem, "team", None)
    return team if team is not None and team.size > 1 else None


def divided(shape: Sequence[int], side: int, team: Team | None) -> tuple[int, ...]:
    """Sides of tiles of at most `side`, of which there is one for each rank of the team at least."""
    sides = [min(side, n) for n in shape]
    if team is not None:
        longest = max(range(len(shape)), key=lambda axis: shape[axis])
        sides[longest] = min(sides[longest], -(-shape[longest] // team.size))
    return tuple(sides)


def own(tiles: Sequence[Tile], team: Team | None) -> Sequence[Tile]:
    """The tiles that this rank works on: all, or its share, the largest dealt out first to whoever has least."""
    if team is None:
        return tiles
    loads, mine = [0] * team.size, []
    for tile in sorted(tiles, key=lambda t: -t.voxels):
        least = loads.index(min(loads))
        loads[least] += tile.voxels
        if least == team.rank:
            mine.append(tile)
    return mine


@dataclass
class Gradients:
    """What one pass back through a tiled regularizer yields.

    x           gradient of the image
    parameters  gradient of each trainable parameter of the regularizer, None where it has no effect
    condition   gradient of the condition vector
    dots        Re<probe, regularized> of each probe
    """

    x: Tensor
    parameters: list[Tensor | None]
    condition: Tensor | None
    dots: list[Tensor] = field(default_factory=list)


@torch.no_grad()
def regularize(stage: Stage, problem: Problem, x: Tensor, condition: Tensor | None, tiles: Sequence[Tile]) -> Tensor:
    """The regularized image, one tile at a time, outside autograd; ranks that share the measurement share the tiles."""
    team = team_of(problem)
    out = torch.empty_like(x) if team is None else torch.zeros_like(x)
    for tile in own(tiles, team):
        out[tile.core] = stage.regularize(problem, x[tile.outer], condition, tile.outer)[tile.local]
    return out if team is None else team.total(out)  # cores don't overlap: the sum puts them side by side


def pull(
    stage: Stage,
    problem: Problem,
    x: Tensor,
    condition: Tensor | None,
    tiles: Sequence[Tile],
    grad: Tensor,
    probes: Sequence[Tensor] = (),
) -> Gradients:
    """Gradients from that of the regularized image, one tile recomputed at a time, each by one rank of the team."""
    team = team_of(problem)
    weights = [p for p in stage.parts[0].parameters() if p.requires_grad]
    total = Gradients(
        torch.zeros_like(x), [None] * len(weights), None, [x.new_zeros((), dtype=x.real.dtype)] * len(probes)
    )
    for tile in own(tiles, team):
        with torch.enable_grad():
            part = x[tile.outer].detach().requires_grad_()
            vector = None if condition is None else condition.detach().requires_grad_()
            z = stage.regularize(problem, part, vector, tile.outer)[tile.local]
        wanted = [part, *weights] if vector is None else [part, *weights, vector]
        found = list(torch.autograd.grad(z, wanted, grad[tile.core], allow_unused=True))
        total.dots = [d + inner(p[tile.core], z.detach()) for d, p in zip(total.dots, probes, strict=True)]
        total.x[tile.outer] += found[0]
        if vector is not None:
            total.condition = _sum(total.condition, found.pop())
        total.parameters = [_sum(a, b) for a, b in zip(total.parameters, found[1:], strict=True)]
        del z, part, found
    return total if team is None else summed(total, weights, condition, team)


def summed(own: Gradients, weights: Sequence[Tensor], condition: Tensor | None, team: Team) -> Gradients:
    """The gradients of all tiles from those of this rank's: the image in one message, all the rest in another."""
    like = [*weights, *([] if condition is None else [condition])]
    found = [*own.parameters, *([] if condition is None else [own.condition])]
    filled = [torch.zeros_like(w) if g is None else g for g, w in zip(found, like, strict=True)]
    dots = torch.stack(own.dots) if own.dots else own.x.real.new_zeros(0)
    flat = team.total(torch.cat([*(g.flatten() for g in filled), dots.to(like[0])]))
    *parts, dots = torch.split(flat, [*(g.numel() for g in filled), len(own.dots)])
    shaped: list[Tensor | None] = [part.view_as(w).clone() for part, w in zip(parts, like, strict=True)]
    vector = shaped.pop() if condition is not None else None
    return Gradients(team.total(own.x), shaped, vector, list(dots.to(own.x.real.dtype)))


def _sum(total: Tensor | None, more: Tensor | None) -> Tensor | None:
    if total is None or more is None:
        return total if more is None else more
    return total.add_(more)


class _Tiled(torch.autograd.Function):
    """The whole tiled regularizer; saves the image it was given and nothing else."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        condition: Tensor | None,
        stage: Stage,
        problem: Problem,
        tiles: list[Tile],
        *weights: Tensor,
    ) -> Tensor:
        ctx.stage, ctx.problem, ctx.tiles = stage, problem, tiles
        ctx.save_for_backward(x, condition)
        return regularize(stage, problem, x, condition, tiles)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, condition = ctx.saved_tensors
        total = pull(ctx.stage, ctx.problem, x, condition, ctx.tiles, grads[0])
        return total.x, total.condition, None, None, None, *total.parameters


def tiled(stage: Stage, problem: Problem, x: Tensor, condition: Tensor | None, tiles: list[Tile]) -> Tensor:
    """The regularized image, differentiable; autograd holds one volume for it."""
    weights = [p for p in stage.parts[0].parameters() if p.requires_grad]
    return _Tiled.apply(x, condition, stage, problem, tiles, *weights)  # type: ignore[no-untyped-call]
