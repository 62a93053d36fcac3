"""The non-uniform Fourier transform in the project's one convention."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from koosh_models.physics import engines
from koosh_models.physics.operator import linear


@dataclass(frozen=True, eq=False)
class Nufft:
    """Non-uniform FFT `y(k) = N^-1/2 sum_r x(r) exp(-i omega.r)`, r = index - n//2, N voxels.

    omega    (axis, sample)  rad/voxel in [-pi, pi], rows ordered z, y, x; float64 for a reference
    matrix   (z, y, x) or (y, x)
    eps      relative accuracy
    backend  finufft, ducc0, torchkbnufft, cufinufft, or auto: a fixed order for the device
    """

    omega: Tensor
    matrix: tuple[int, ...]
    eps: float = 1e-4
    backend: str = "auto"

    def __post_init__(self) -> None:
        if self.omega.ndim != 2 or self.omega.shape[0] != len(self.matrix):
            raise ValueError(f"trajectory has shape {tuple(self.omega.shape)}, wanted ({len(self.matrix)}, sample)")
        peak = float(self.omega.abs().max()) if self.omega.numel() else float("nan")
        if not peak <= torch.pi * (1 + 1e-4):  # also catches NaN and an empty trajectory
            raise ValueError(f"trajectory reaches {peak:.4g} rad/voxel, wanted at most pi: convert its unit first")

    @cached_property
    def engine(self) -> engines.Engine:
        """The planned backend, kept for the operator's life."""
        name = engines.choose(self.omega.device) if self.backend == "auto" else self.backend
        return engines.build(name, self.omega, self.matrix, self.eps)

    def forward(self, x: Tensor) -> Tensor:
        """(..., *matrix) images -> (..., sample) k-space."""
        if tuple(x.shape[-len(self.matrix) :]) != self.matrix:
            raise ValueError(f"image has shape {tuple(x.shape)}, wanted (..., {', '.join(map(str, self.matrix))})")
        return linear(x, self._forward, self._adjoint)

    def adjoint(self, y: Tensor) -> Tensor:
        """(..., sample) k-space -> (..., *matrix) images."""
        if y.shape[-1] != self.omega.shape[1]:
            raise ValueError(f"k-space has {y.shape[-1]} samples, the trajectory {self.omega.shape[1]}")
        return linear(y, self._adjoint, self._forward)

    def to(self, device: torch.device | str) -> Nufft:
        """The same transform on `device`."""
        return Nufft(self.omega.to(device), self.matrix, self.eps, self.backend)

    def _forward(self, x: Tensor) -> Tensor:
        batch = x.shape[: x.ndim - len(self.matrix)]
        return self.engine.type2(x.reshape(prod(batch), *self.matrix)).reshape(*batch, -1)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.engine.type1(y.reshape(-1, y.shape[-1])).reshape(*y.shape[:-1], *self.matrix)
