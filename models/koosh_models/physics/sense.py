"""Coil maps before any Fourier operator, in groups of coils so that memory is bounded whatever their number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from koosh_models.physics.compress import coils_for, compression, gram
from koosh_models.physics.operator import Apply, Operator, linear, selfadjoint

KEPT = 0.96  # of the energy: four of eight coils around a head; what is left out costs no quality (docs/networks.md)


class Convolution(Protocol):
    """A normal operator of one image without coils (Toeplitz)."""

    def product(self, one: Tensor, image: Tensor) -> Tensor:
        """The convolution of `one * image`, (*matrix), outside autograd; may be overwritten by the next call."""

    def nearby(self) -> Convolution:
        """Nearly the same and cheaper; itself where there is no such one."""


class Maps(Protocol):
    """Coil maps that are made when they are needed."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(coil, z, y, x)."""

    def coils(self, first: int, last: int) -> Tensor:
        """(last - first, z, y, x) complex."""

    def to(self, device: torch.device | str) -> Maps:
        """The same maps on `device`."""

    def combined(self, matrix: Tensor) -> Maps:
        """The maps of virtual coils, `matrix` (virtual, coil) times these."""


@dataclass(frozen=True, eq=False)
class DenseMaps:
    """Coil maps held whole, (coil, z, y, x) complex."""

    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """(coil, z, y, x)."""
        return tuple(self.tensor.shape)

    def coils(self, first: int, last: int) -> Tensor:
        """(last - first, z, y, x)."""
        return self.tensor[first:last]

    def to(self, device: torch.device | str) -> DenseMaps:
        """The same maps on `device`."""
        return DenseMaps(self.tensor.to(device))

    def combined(self, matrix: Tensor) -> DenseMaps:
        """The maps of virtual coils."""
        return DenseMaps(torch.tensordot(matrix, self.tensor, dims=1))


@dataclass(frozen=True, eq=False)
class SmoothMaps:
    """Coil maps kept as a few Fourier coefficients and synthesised coil by coil: `S_c = g * sum_k c_k exp(i k r)`.

    coefficients  (coil, kz, ky, kx) complex, centred
    gain          (z, y, x) real: one over the root-sum-of-squares inside the object, 0 outside
    stretch       period of the waves in fields of view; sensitivities are not periodic, so that a period of 1.5 takes
                  far fewer coefficients (7 an axis are exact to 0.004 rms where a period of 1 leaves 0.13)
    """

    coefficients: Tensor
    gain: Tensor
    stretch: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """(coil, z, y, x)."""
        return (self.coefficients.shape[0], *self.gain.shape)

    @cached_property
    def waves(self) -> list[Tensor]:
        """For each axis (n, k): the exponentials that take coefficients to voxels."""
        dtype, device = self.coefficients.dtype, self.coefficients.device
        return [
            fourier_basis(n, k, dtype, device, self.stretch)
            for n, k in zip(self.gain.shape, self.coefficients.shape[1:], strict=True)
        ]

    def coils(self, first: int, last: int) -> Tensor:
        """(last - first, z, y, x)."""
        return synthesised(self.coefficients[first:last], self.waves).mul_(self.gain)

    def to(self, device: torch.device | str) -> SmoothMaps:
        """The same maps on `device`."""
        return SmoothMaps(self.coefficients.to(device), self.gain.to(device), self.stretch)

    def combined(self, matrix: Tensor) -> SmoothMaps:
        """The maps of virtual coils."""
        return replace(self, coefficients=torch.tensordot(matrix, self.coefficients, dims=1))


def held(maps: Tensor | Maps) -> Maps:
    """Maps behind one word, whether dense or smooth."""
    return DenseMaps(maps) if isinstance(maps, Tensor) else maps


def strongest(maps: Tensor | Maps, image: Tensor, kept: float = KEPT) -> Maps:
    """The fewest virtual coils that see the share `kept` of what all coils see of an image, on every fourth voxel."""
    every, sparse = held(maps), (slice(None, None, 4),) * image.ndim
    seen = torch.stack([(every.coils(c, c + 1)[0][sparse] * image[sparse]).flatten() for c in range(every.shape[0])])
    correlation = gram(seen)
    if not float(correlation.diagonal().real.sum()) > 0:
        return every
    matrix = compression(correlation, coils_for(correlation, kept)).matrix
    return every.combined(matrix.to(image.dtype))


def synthesised(coefficients: Tensor, waves: list[Tensor]) -> Tensor:
    """(coil, z, y, x) sums of waves, one axis after the other; the last axis first, where the result is smallest."""
    out = coefficients
    for axis, wave in reversed(list(enumerate(waves, start=1))):
        out = torch.movedim(torch.tensordot(out, wave, dims=([axis], [1])), -1, axis)
    return out.contiguous()


def fourier_basis(n: int, k: int, dtype: torch.dtype, device: torch.device, stretch: float = 1.0) -> Tensor:
    """(n, k) matrix of `exp(2 pi i f r / (stretch n))` with r = index - n//2 and f = index - k//2."""
    r = torch.arange(n, dtype=torch.float64) - n // 2
    f = torch.arange(k, dtype=torch.float64) - k // 2
    angle = 2 * torch.pi * r[:, None] * f[None, :] / (n * stretch)
    return torch.polar(torch.ones_like(angle), angle).to(dtype).to(device)


@dataclass(frozen=True, eq=False)
class Sense:
    """Coil maps, then a Fourier operator: `y = F S x`.

    maps     (coil, z, y, x) tensor, or maps made on demand; sum of squares over coil is 1 inside the object
    fourier  of one image: non-uniform or Cartesian
    group    coils held at a time
    """

    maps: Tensor | Maps
    fourier: Operator
    group: int = 4

    @cached_property
    def held(self) -> Maps:
        """The maps behind one word, whether dense or smooth."""
        return held(self.maps)

    def forward(self, x: Tensor) -> Tensor:
        """(z, y, x) image -> (coil, sample) k-space."""
        return linear(x, self._forward, self._adjoint)

    def adjoint(self, y: Tensor) -> Tensor:
        """(coil, sample) k-space -> (z, y, x) image."""
        return linear(y, self._adjoint, self._forward)

    def to(self, device: torch.device | str) -> Sense:
        """The same operator on `device`; the Fourier operator must offer `to`."""
        moved: Operator = self.fourier.to(device)  # type: ignore[attr-defined]
        return Sense(self.held.to(device), moved, self.group)

    def groups(self) -> Iterator[tuple[slice, Tensor]]:
        """Coil groups in order, each with its maps."""
        for first in range(0, self.held.shape[0], self.group):
            last = min(first + self.group, self.held.shape[0])
            yield slice(first, last), self.held.coils(first, last)

    def _forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.fourier.forward(maps * x) for _, maps in self.groups()])

    def _adjoint(self, y: Tensor) -> Tensor:
        out: Tensor | None = None
        for at, maps in self.groups():
            part = (maps.conj() * self.fourier.adjoint(y[at])).sum(0)
            out = part if out is None else out.add_(part)
        assert out is not None
        return out


@dataclass(frozen=True, eq=False)
class SenseNormal:
    """`x -> sum_c S_c^* T (S_c x)`: the normal operator of SENSE from one of a single image, coil by coil."""

    maps: Tensor | Maps
    convolution: Convolution

    def near(self, image: Tensor) -> Apply:
        """Nearly the same operator, of the coils that see most of such an image."""
        return SenseNormal(strongest(self.maps, image), self.convolution.nearby()).normal

    def normal(self, x: Tensor) -> Tensor:
        """(z, y, x) -> (z, y, x)."""
        return selfadjoint(x, self._normal)

    def _normal(self, x: Tensor) -> Tensor:
        maps = held(self.maps)
        out = torch.zeros_like(x)
        for coil in range(maps.shape[0]):
            one = maps.coils(coil, coil + 1)[0]
            part = self.convolution.product(one, x)
            out.addcmul_(one.conj(), part)
        return out


@dataclass(frozen=True, eq=False)
class PairNormal:
    """`x -> A^H W A x` from forward and adjoint, one coil group at a time so that no whole k-space is held.

    weights  (sample) real
    """

    sense: Sense
    weights: Tensor

    def near(self, image: Tensor) -> Apply:
        """Nearly the same operator, of the coils that see most of such an image."""
        return PairNormal(replace(self.sense, maps=strongest(self.sense.maps, image)), self.weights).normal

    def normal(self, x: Tensor) -> Tensor:
        """(z, y, x) -> (z, y, x)."""
        return selfadjoint(x, self._normal)

    def _normal(self, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        fourier = self.sense.fourier
        for _, maps in self.sense.groups():
            out += (maps.conj() * fourier.adjoint(fourier.forward(maps * x).mul_(self.weights))).sum(0)
        return out
