"""Resolution of the scanner: a Gaussian blur of the image that is its own adjoint, borders included."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from koosh_models.physics.operator import selfadjoint


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Separable Gaussian blur, activity beyond the border counted as zero.

    Each axis is a symmetric banded matrix, so the blur is self-adjoint to rounding wherever the object lies.

    fwhm_mm, voxel_mm  same order as the image axes; 0 leaves an axis alone
    """

    fwhm_mm: tuple[float, ...]
    voxel_mm: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.fwhm_mm) != len(self.voxel_mm) or min(self.fwhm_mm) < 0 or min(self.voxel_mm) <= 0:
            raise ValueError(f"blur of {self.fwhm_mm} mm on voxels of {self.voxel_mm} mm; wanted one FWHM >= 0 an axis")

    @cached_property
    def _matrices(self) -> dict[tuple[int, int, torch.dtype, torch.device], Tensor]:
        return {}

    def _matrix(self, axis: int, size: int, x: Tensor) -> Tensor:
        key = axis, size, x.dtype, x.device
        if key not in self._matrices:
            self._matrices[key] = band(self.fwhm_mm[axis] / self.voxel_mm[axis], size).to(x)
        return self._matrices[key]

    def normal(self, x: Tensor) -> Tensor:
        """The blurred image, same shape."""
        for axis, size in enumerate(x.shape):
            if self.fwhm_mm[axis] > 0:
                x = torch.tensordot(self._matrix(axis, size, x), x, dims=([1], [axis])).movedim(0, axis)
        return x.contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """The blurred image, same shape."""
        if x.ndim != len(self.fwhm_mm):
            raise ValueError(f"a blur of {len(self.fwhm_mm)} axes for an image of shape {tuple(x.shape)}")
        return selfadjoint(x, self.normal)

    adjoint = forward


def band(fwhm: float, size: int) -> Tensor:
    """(size, size) symmetric matrix of a Gaussian integrated over each voxel, cut at 4 sigma, float64.

    fwhm in voxels
    """
    sigma = fwhm / math.sqrt(8 * math.log(2))
    edges = torch.arange(0, size + 1, dtype=torch.float64) - 0.5
    weight = torch.special.ndtr(edges[1:] / sigma) - torch.special.ndtr(edges[:-1] / sigma)
    weight[edges[:-1] > 4 * sigma] = 0
    weight = weight / (2 * weight.sum() - weight[0])
    index = torch.arange(size)
    return weight[(index[:, None] - index).abs()]
