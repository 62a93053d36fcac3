"""Conjugate gradients, stopped on the residual."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from koosh_models.physics.operator import Apply


@dataclass(frozen=True, eq=False)
class Solution:
    """What conjugate gradients found.

    x           same shape as the right-hand side
    iterations  applications of the operator
    residual    |N x - b| / |b|, the largest over independent systems
    """

    x: Tensor
    iterations: int
    residual: float


def conjugate_gradient(
    normal: Apply,
    b: Tensor,
    x0: Tensor | None = None,
    iterations: int = 10,
    tolerance: float = 1e-6,
    independent: int = 0,
    progress: Callable[[Tensor], None] | None = None,
) -> Solution:
    """Solve `normal(x) = b` for a self-adjoint positive operator.

    independent  leading axes that number separate systems (coils), each with step sizes of its own
    progress     is shown each iterate, which the next step overwrites
    """
    axes = tuple(range(independent, b.ndim))
    x = torch.zeros_like(b) if x0 is None else x0.clone()
    r = b.clone() if x0 is None else b - normal(x)
    target = tolerance * _dot(b, b, axes).sqrt()
    p, rr = r.clone(), _dot(r, r, axes)
    done = 0
    while done < iterations and bool((rr.sqrt() > target).any()):
        q = normal(p)
        pq = _dot(p, q, axes)
        # a system that has converged keeps a zero direction: 0/0 must not reach the others
        alpha = torch.where(pq > 0, rr / pq.clamp_min(torch.finfo(pq.dtype).tiny), torch.zeros_like(pq))
        x.add_(alpha * p)
        r.sub_(alpha * q)
        rr, before = _dot(r, r, axes), rr
        p = r + torch.where(before > 0, rr / before.clamp_min(torch.finfo(rr.dtype).tiny), torch.zeros_like(rr)) * p
        done += 1
        if progress is not None:
            progress(x)
    size = _dot(b, b, axes).sqrt()
    worst = float((rr.sqrt() / size.clamp_min(torch.finfo(size.dtype).tiny)).max())
    return Solution(x, done, worst if bool((size > 0).any()) else 0.0)


def _dot(a: Tensor, b: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Real inner product over `axes`, kept for broadcasting; one pass where all axes are summed."""
    if len(axes) == a.ndim:
        return torch.vdot(a.flatten(), b.flatten()).real.reshape((1,) * a.ndim)
    return (a.conj() * b).real.sum(axes, keepdim=True)


def largest_eigenvalue(normal: Apply, like: Tensor, iterations: int = 8, seed: int = 0) -> float:
    """An estimate from below of the largest eigenvalue of a self-adjoint positive operator, by power iteration."""
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(like.shape, dtype=like.dtype, generator=generator).to(like.device)
    value = 0.0
    for _ in range(iterations):
        v = normal(v / v.norm())
        value = float(v.norm())
    return value
