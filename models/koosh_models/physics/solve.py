"""Conjugate gradients, stopped on the residual."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from koosh_models.physics.operator import Apply

Path = tuple[tuple[float, float], ...]
ROUNDING = 1e-2  # of the operator's norm: what NUFFTs of 1e-3 and 16-bit kernels may take from a curvature of 0


@dataclass(frozen=True, eq=False)
class Solution:
    """What conjugate gradients found.

    x           same shape as the right-hand side
    iterations  applications of the operator
    residual    |N x - b| / |b|, the largest over independent systems
    path        of one system: (length of the step, share of the old direction in the next one) for each iteration
    """

    x: Tensor
    iterations: int
    residual: float
    path: Path = ()


@torch.no_grad()
def conjugate_gradient(
    normal: Apply,
    b: Tensor,
    x0: Tensor | None = None,
    iterations: int = 10,
    tolerance: float = 1e-6,
    independent: int = 0,
    progress: Callable[[Tensor], None] | None = None,
    near: Apply | None = None,
) -> Solution:
    """Solve `normal(x) = b` for a self-adjoint positive operator; zero for a `b` of zero.

    independent  leading axes that number separate systems (coils), each with step sizes of its own
    progress     is shown each iterate, which the next step overwrites
    near         takes normal's place in the steps: a few of them do nearly as well with an operator that is nearly it,
                 as long as the first residual is exact; many would converge to another solution
    """
    axes = tuple(range(independent, b.ndim))
    size = _dot(b, b, axes).sqrt()
    if not bool((size > 0).any()):
        return Solution(torch.zeros_like(b), 0, 0.0)
    x = torch.zeros_like(b) if x0 is None else x0.clone()
    r = b.clone() if x0 is None else b - normal(x)
    p, rr, done = r.clone(), _dot(r, r, axes), 0
    norm, live = torch.zeros_like(rr), torch.ones_like(rr, dtype=torch.bool)
    path: list[tuple[float, float]] = []
    step = near or normal
    while done < iterations and bool((live & (rr.sqrt() > tolerance * size)).any()):
        q = step(p)
        bend = _curvature(p, q, axes, norm) if near is None else _dot(p, q, axes)  # a nearby one may be indefinite
        live &= bend > 0
        alpha = _ratio(rr, bend) * live
        norm = torch.maximum(norm, _ratio(bend, rr))  # 1 / alpha is never above the operator's norm
        _add(x, alpha, p)
        _add(r, -alpha, q)
        rr, before = _dot(r, r, axes), rr
        beta = _ratio(rr, before)
        p.mul_(beta).add_(r)
        done += 1
        if not independent:
            path.append((float(alpha), float(beta)))
        if progress is not None:
            progress(x)
    return Solution(x, done, float(_ratio(rr.sqrt(), size).max()), tuple(path))


@torch.no_grad()
def along(path: Path, normal: Apply, b: Tensor) -> Tensor:
    """What the steps of an earlier solution make of another right-hand side: `q(normal) b`, q the same polynomial."""
    x, r, p = torch.zeros_like(b), b.clone(), b.clone()
    for step, (alpha, beta) in enumerate(path, start=1):
        x.add_(p, alpha=alpha)
        if step < len(path):
            r.add_(normal(p), alpha=-alpha)
            p.mul_(beta).add_(r)
    return x


def _curvature(p: Tensor, q: Tensor, axes: tuple[int, ...], norm: Tensor) -> Tensor:
    """`<p, N p>` for `q = N p`; an error where it is so negative that the operator can't be what it should.

    norm  of the operator, as far as is known. Where samples are missing, an approximate operator gives a curvature of
          either sign: that system ends there.
    """
    found = _dot(p, q, axes)
    if bool((found < 0).any()):
        pp = _dot(p, p, axes)
        seen = torch.maximum(norm, _ratio(_dot(q, q, axes), pp).sqrt())
        if bool((found < -ROUNDING * seen * pp).any()):
            raise ValueError(
                f"curvature {float(found.min()):.3g} in conjugate gradients: the normal operator is not positive; "
                "are the density weights negative, or is it not scaled?"
            )
    return found


def _ratio(over: Tensor, under: Tensor) -> Tensor:
    """The quotient, 0 where nothing is below: a system that has converged must not bring 0/0 to the others."""
    return torch.where(under > 0, over / under.clamp_min(torch.finfo(under.dtype).tiny), torch.zeros_like(under))


def _add(x: Tensor, alpha: Tensor, p: Tensor) -> None:
    """`x += alpha p` in place, without a copy where there is one system."""
    if alpha.numel() == 1:
        x.add_(p, alpha=float(alpha))
    else:
        x.add_(alpha * p)


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
