"""Fourier sampling on the grid itself: any mask, whole or decoupled along fully sampled axes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from koosh_models.physics.operator import linear, selfadjoint
from koosh_models.scan import Scan


@dataclass(frozen=True, eq=False)
class Cartesian:
    """`y = M F x` with the centred, unitary FFT over `axes`; k-space is kept on its grid, zero where not sampled.

    mask  broadcasts against the image's trailing axes: 0 or 1, or the number of averages under a square root
    axes  negative; those that are still Fourier encoded, (-3, -2, -1) for a whole volume
    """

    mask: Tensor
    axes: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.mask.is_complex() or not bool((self.mask >= 0).all()):
            raise ValueError(f"the sampling mask is {self.mask.dtype}; wanted real values, 0 or more")
        if any(axis >= 0 for axis in self.axes) or not self.axes:
            raise ValueError(f"axes {self.axes} must be negative, counted from the last")

    @cached_property
    def corner_mask(self) -> Tensor:
        """The squared mask with k = 0 in the corner: the normal operator is a circular convolution, free of shifts."""
        real = self.mask.double() if self.mask.dtype == torch.float64 else self.mask.float()
        axes = [axis for axis in self.axes if -axis <= self.mask.ndim]
        return torch.fft.ifftshift(real.square(), dim=axes)

    def forward(self, x: Tensor) -> Tensor:
        """(..., z, y, x) images -> k-space on the same grid."""
        return linear(x, self._forward, self._adjoint)

    def adjoint(self, y: Tensor) -> Tensor:
        """k-space on the grid -> (..., z, y, x) images."""
        return linear(y, self._adjoint, self._forward)

    def normal(self, x: Tensor) -> Tensor:
        """`F^H M^2 F x`."""
        return selfadjoint(x, self.convolve)

    def convolve(self, image: Tensor) -> Tensor:
        """The normal operator outside autograd."""
        return torch.fft.ifftn(torch.fft.fftn(image, dim=self.axes).mul_(self.corner_mask), dim=self.axes)

    def product(self, one: Tensor, image: Tensor) -> Tensor:
        """`convolve(one * image)`."""
        return self.convolve(one * image)

    def nearby(self) -> Cartesian:
        """Itself."""
        return self

    def to(self, device: torch.device | str) -> Cartesian:
        """The same operator on `device`."""
        return Cartesian(self.mask.to(device), self.axes)

    def _forward(self, x: Tensor) -> Tensor:
        return centred_fft(x, self.axes) * self.mask

    def _adjoint(self, y: Tensor) -> Tensor:
        return centred_ifft(y * self.mask, self.axes)


def centred_fft(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Unitary FFT with index n//2 as the origin on both sides."""
    return torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(x, dim=axes), dim=axes, norm="ortho"), dim=axes)


def centred_ifft(y: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The inverse, and adjoint, of `centred_fft`."""
    return torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(y, dim=axes), dim=axes, norm="ortho"), dim=axes)


@dataclass(frozen=True, eq=False)
class Decoupled:
    """Cartesian data whose fully sampled axis has been transformed: each slab along it is a problem of its own.

    hybrid   (coil, z, y, x): k-space along the undersampled axes, image space along `axis`
    fourier  the operator of the remaining axes
    axis     the decoupled one, negative
    """

    hybrid: Tensor
    fourier: Cartesian
    axis: int

    def slab(self, first: int, last: int) -> Tensor:
        """The hybrid data of positions first..last-1 along the decoupled axis."""
        return self.hybrid.narrow(self.axis, first, last - first)


def decouple(kspace: Tensor, mask: Tensor, axis: int = -1) -> Decoupled:
    """Cartesian k-space (coil, z, y, x), decoupled along a fully sampled axis.

    mask  (z, y, x) or broadcastable, the same everywhere along `axis`
    """
    along = mask.expand(kspace.shape[1:])
    if not bool((along == along.narrow(axis, 0, 1)).all()):
        raise ValueError(f"the mask varies along axis {axis}: it is not fully sampled there and can't be decoupled")
    axes = tuple(a for a in range(-(kspace.ndim - 1), 0) if a != axis)
    return Decoupled(centred_ifft(kspace, (axis,)), Cartesian(along.narrow(axis, 0, 1).contiguous(), axes), axis)


def gridded(scan: Scan) -> tuple[Tensor, Tensor]:
    """k-space (.., coil, *matrix) and mask (.., *matrix) of samples that lie on the grid.

    Both hold the root of the density weights, where the scan has them: the normal equations are then those that the
    same scan has without its grid.
    """
    matrix, frames = scan.geometry.matrix, scan.n_frames or 1
    coils, axes = scan.n_coils, len(matrix)
    sizes = torch.tensor(matrix, dtype=scan.omega.dtype, device=scan.omega.device)
    omega = scan.omega.reshape(frames, axes, -1)
    index = (omega * sizes[:, None] / (2 * math.pi)).round().long() + (sizes.long() // 2)[:, None]
    root = torch.ones_like(omega[:, 0]) if scan.weights is None else scan.weights.reshape(frames, -1).sqrt()
    kspace = scan.kspace.new_zeros(frames, coils, math.prod(matrix))
    mask = torch.zeros(frames, math.prod(matrix), device=scan.omega.device)
    for frame in range(frames):
        at = torch.zeros_like(index[frame, 0])
        for axis, n in enumerate(matrix):
            at = at * n + index[frame, axis] % n
        kspace[frame][:, at] = scan.kspace.reshape(frames, coils, -1)[frame] * root[frame]
        mask[frame][at] = root[frame]
    kspace, mask = kspace.reshape(frames, coils, *matrix), mask.reshape(frames, *matrix)
    return (kspace, mask) if scan.n_frames is not None else (kspace[0], mask[0])
