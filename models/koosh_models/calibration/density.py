"""Density weights: the k-space volume that each sample stands for, in cells of the image's own grid.

With such weights `F^H W F` is about the identity on the sampled part of k-space, so images keep their amplitude and
gradient steps of length one converge.
"""

from __future__ import annotations

from math import prod
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from koosh_models.physics import engines
from koosh_models.physics.nufft import Nufft

ITERATIONS = 10  # at 20 and 30 the gridded image of an R = 12 koosh ball gains less than 0.1 dB
SPREAD_EPS = 1e-2  # kernel width in finufft's terms; narrower or wider ones lose 0.1 to 0.8 dB at grid size 1


def analytic(omega: Tensor, matrix: tuple[int, ...], radial_axes: tuple[int, ...] | None = None) -> Tensor:
    """Weights (sample) of a centre-out or full-spoke family: the cells of a ball (disc) grow as radius^(n-1).

    radial_axes  rows of `omega` that are sampled radially; all of them for a koosh ball, (1, 2) for a stack of stars.
    """
    rows = list(range(len(matrix))) if radial_axes is None else list(radial_axes)
    radius = omega[rows].norm(dim=0)
    step = 2 * torch.pi / max(matrix[axis] for axis in rows)
    cell = torch.clamp_min(radius, step / 4) ** (len(rows) - 1)
    covered = _ball(len(rows)) * float(radius.max()) ** len(rows)
    others = [axis for axis in range(len(matrix)) if axis not in rows]
    for axis in others:
        covered *= float(omega[axis].max() - omega[axis].min()) + 2 * torch.pi / matrix[axis]
    return cell * (prod(matrix) * covered / (2 * torch.pi) ** len(matrix) / float(cell.sum()))


def _ball(axes: int) -> float:
    """Volume of the unit ball in 1, 2 or 3 axes."""
    return (2.0, float(torch.pi), 4 * torch.pi / 3)[axes - 1]


class Density(Protocol):
    """Sum of the weights around each sample, 1 where they are right."""

    def __call__(self, weights: Tensor) -> Tensor:
        """(sample) -> (sample)."""


def pipe_menon(omega: Tensor, matrix: tuple[int, ...], iterations: int = ITERATIONS) -> Tensor:
    """Weights (sample) for any trajectory: repeated division by the local density of weights.

    Pipe and Menon 1999, with the convolution done by spreading onto the image's own grid and back.
    """
    density = density_of(omega, matrix)
    weights = torch.ones_like(omega[0])
    for _ in range(iterations):
        weights = weights / density(weights).clamp_min(1e-12)
    return weights


def density_of(omega: Tensor, matrix: tuple[int, ...]) -> Density:
    """The local density of weights, by finufft's spread-only mode, or by a whole NUFFT where there is no finufft."""
    if omega.device.type == "cpu" and engines.available("finufft"):
        return _Spread(omega, matrix)
    nufft = Nufft(omega, matrix, 1e-3)

    def whole(weights: Tensor) -> Tensor:
        return nufft.forward(nufft.adjoint(weights.to(torch.complex64))).abs()

    return whole


class _Spread:
    """Spreads weights onto the grid and interpolates them back: a convolution about one cell wide."""

    def __init__(self, omega: Tensor, matrix: tuple[int, ...]) -> None:
        import finufft

        self.points = [np.ascontiguousarray(row, np.float32) for row in omega.numpy()]
        # spreading needs a grid wider than its kernel on every axis
        self.grid = tuple(max(12, n + n % 2) for n in matrix)
        at = {"eps": SPREAD_EPS, "dtype": "complex64", "spreadinterponly": 1, "upsampfac": 2.0}
        self.plan = finufft.Plan(2, self.grid, isign=-1, nthreads=torch.get_num_threads(), **at)
        self.plan.setpts(*self.points)
        # one sample of weight 1 standing alone fills `mass` cells; matrix/grid converts grid cells to image cells
        one = finufft.Plan(1, self.grid, isign=1, nthreads=1, **at)
        one.setpts(*[np.zeros(1, np.float32) for _ in matrix])
        mass = float(one.execute(np.ones(1, np.complex64)).real.sum())
        self.scale = prod(self.grid) / prod(matrix) / mass**2
        self.buffer = np.empty(self.grid, np.complex64)

    def __call__(self, weights: Tensor) -> Tensor:
        self.plan.execute_adjoint(weights.numpy().astype(np.complex64), out=self.buffer)
        return torch.from_numpy(self.plan.execute(self.buffer).real * self.scale)


def bound(omega: Tensor, matrix: tuple[int, ...], weights: Tensor) -> float:
    """An estimate of the largest eigenvalue of `F^H W F`: the largest local density of the weights."""
    return float(density_of(omega, matrix)(weights).max())
