"""Conjugate gradients that stop on their residual."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from koosh_models.physics.operator import Apply, inner


@dataclass(frozen=True)
class Solution:
    """What the solver reached: the image, the steps taken and `|residual| / |right side|` at the end."""

    x: Tensor
    steps: int
    residual: float


@torch.no_grad()
def conjugate_gradients(apply: Apply, right: Tensor, start: Tensor | None, steps: int, tolerance: float) -> Solution:
    """Solution of `apply(x) = right` for a positive self-adjoint `apply`, from `start` (None: zero).

    Stops once `|residual| <= tolerance |right|`; a step past convergence would divide zero by zero.
    """
    wanted = float(inner(right, right))
    if wanted == 0:
        return Solution(torch.zeros_like(right), 0, 0.0)
    x = torch.zeros_like(right) if start is None else start.clone()
    residual = right.clone() if start is None else right - apply(x)
    direction, now, done = residual.clone(), float(inner(residual, residual)), 0
    while done < steps and now > tolerance**2 * wanted:
        image = apply(direction)
        curvature = float(inner(direction, image))
        if curvature <= 0:
            raise ValueError(
                f"curvature {curvature:.3g} in conjugate gradients: the normal operator is not positive; "
                "are the density weights negative, or is it not scaled?"
            )
        x.add_(direction, alpha=now / curvature)
        residual.sub_(image, alpha=now / curvature)
        before, now = now, float(inner(residual, residual))
        direction.mul_(now / before).add_(residual)
        done += 1
    return Solution(x, done, (now / wanted) ** 0.5)
