"""Quadratic neighbourhood priors and the closed-form step that joins one with EM (De Pierro, IEEE TMI 1995)."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from koosh_models.physics.problem import EmissionProblem


class _Fuse(torch.autograd.Function):
    """The root with its implicit gradient: saves the regularized image and the result, nothing in between."""

    @staticmethod
    def forward(ctx: Any, x_em: Tensor, x_reg: Tensor, inverse: Tensor, strength: Tensor) -> Tensor:
        x = positive_root(x_em, x_reg, strength * inverse)
        ctx.save_for_backward(x_reg, inverse, strength, x)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, Tensor]:
        x_reg, inverse, strength, x = ctx.saved_tensors
        weight = strength * inverse
        # the slope of the quadratic at its root; 0 only where x_em and 1 - weight x_reg both vanish
        slope = grads[0] / (2 * weight * x + 1 - weight * x_reg).clamp_min(1e-6)
        to_strength = (slope * x * (x_reg - x) * inverse).sum_to_size(strength.shape)
        return slope, slope * weight * x, None, to_strength


def fuse(x_em: Tensor, x_reg: Tensor, inverse: Tensor, strength: Tensor) -> Tensor:
    """Positive root of `w x^2 + (1 - w x_reg) x - x_em = 0`, w = g S: the joint maximiser; x_em where g is 0.

    x_em      EM update, >= 0
    x_reg     where the penalty `g/2 (x - x_reg)^2` pulls
    inverse   S, inverse sensitivity of the subset
    strength  g >= 0, a scalar or an image
    Mehranian & Reader 2020, eq. 9 (there with gamma for g).
    """
    return cast(Tensor, _Fuse.apply(x_em, x_reg, inverse, strength))  # type: ignore[no-untyped-call]


def positive_root(x_em: Tensor, x_reg: Tensor, weight: Tensor) -> Tensor:
    """The root, in the one of its two forms in which nothing cancels."""
    b = 1 - weight * x_reg
    root = (b.square() + 4 * weight * x_em).sqrt()
    up = b > 0
    above = 2 * x_em / torch.where(up, b + root, 1)
    below = (root - b) / torch.where(up, 1, 2 * weight)
    return torch.where(up, above, below)


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Quadratic prior `1/4 sum_jk w_jk (x_j - x_k)^2` over nearest neighbours.

    offsets  steps to the neighbours k of a voxel j
    weights  (offset, *image) w_jk >= 0, symmetric: w_jk = w_kj; 0 for neighbours beyond the border
    """

    offsets: tuple[tuple[int, ...], ...]
    weights: Tensor

    @property
    def total(self) -> Tensor:
        """(*image) sum of a voxel's weights."""
        return self.weights.sum(0)

    def middle(self, x: Tensor) -> Tensor:
        """Weighted mean of `(x_j + x_k) / 2`: where De Pierro's separable surrogate has its minimum."""
        total = self.total
        mean = sum((w * neighbour(x, o) for o, w in zip(self.offsets, self.weights, strict=True)), torch.zeros_like(x))
        return torch.where(total > 0, (x + mean / torch.where(total > 0, total, 1)) / 2, x)

    def energy(self, x: Tensor) -> float:
        """Value of the prior."""
        pairs = zip(self.offsets, self.weights, strict=True)
        return float(sum((w * (x - neighbour(x, o)).square()).double().sum() for o, w in pairs) / 4)


def neighbour(x: Tensor, offset: tuple[int, ...]) -> Tensor:
    """The value each voxel finds at `offset`; 0 beyond the border. Last axes of `x` are the image."""
    reach = [abs(o) for o in offset]
    padded = torch.nn.functional.pad(x, [r for r in reversed(reach) for _ in (0, 1)])
    window = tuple(slice(r + o, r + o + n) for r, o, n in zip(reach, offset, x.shape[-len(offset) :], strict=True))
    return padded[(slice(None),) * (x.ndim - len(offset)) + window]


def offsets(n_axes: int) -> tuple[tuple[int, ...], ...]:
    """Steps to all neighbours that share a corner (8 in 2D, 26 in 3D)."""
    return tuple(o for o in itertools.product((-1, 0, 1), repeat=n_axes) if any(o))


def quadratic(shape: tuple[int, ...], voxel_mm: tuple[float, ...], like: Tensor) -> Neighbours:
    """Every neighbour counts by the inverse of its distance; weights of an inner voxel add up to 1."""
    steps = offsets(len(shape))
    near = [min(voxel_mm) / math.hypot(*(o * v for o, v in zip(step, voxel_mm, strict=True))) for step in steps]
    inside = torch.ones(shape).to(like)
    return Neighbours(
        steps, torch.stack([w / sum(near) * neighbour(inside, o) for o, w in zip(steps, near, strict=True)])
    )


def bowsher(guide: Tensor, voxel_mm: tuple[float, ...], keep: int | None = None) -> Neighbours:
    """Only the `keep` neighbours most alike in the guide count (Bowsher, IEEE NSS 2004), made symmetric.

    guide  (channel, *image); likeness is the sum of squared differences over the channels
    keep   neighbours of a voxel that count; None is half of them
    """
    plain = quadratic(tuple(guide.shape[1:]), voxel_mm, guide)
    count = len(plain.offsets) // 2 if keep is None else keep
    if not 1 <= count <= len(plain.offsets):
        raise ValueError(f"keep is {keep}, wanted 1..{len(plain.offsets)} neighbours")
    unlike = torch.stack([(guide - neighbour(guide, o)).square().sum(0) for o in plain.offsets])
    unlike = torch.where(plain.weights > 0, unlike, torch.inf)
    chosen = torch.zeros_like(unlike).scatter_(0, unlike.argsort(dim=0, stable=True)[:count], 1.0)
    directed = chosen * plain.weights
    back = [directed[plain.offsets.index(tuple(-i for i in o))] for o in plain.offsets]
    mirrored = torch.stack([neighbour(w, o) for o, w in zip(plain.offsets, back, strict=True)])
    return Neighbours(plain.offsets, (directed + mirrored) / 2)


def relative(problem: EmissionProblem, subset: int) -> float:
    """The unit of a strength that itself has none: g = strength * relative = strength / (scale * typical S_s)."""
    return 1 / (problem.scale * unit(problem.inverse_sensitivity[subset]))


def unit(inverse: Tensor) -> float:
    """Median inverse sensitivity of the voxels seen."""
    seen = inverse[inverse > 0]
    return float(seen.median()) if len(seen) else 1.0


def access_order(n_subsets: int) -> tuple[int, ...]:
    """Subsets in an order that turns by about the golden angle, so that neighbours in time differ in direction."""
    step = max(1, round(n_subsets * 0.381966))
    while math.gcd(step, n_subsets) > 1:
        step += 1
    return tuple(i * step % n_subsets for i in range(n_subsets))
