"""The centre of k-space on Cartesian cells, fitted from samples of any trajectory: what coil maps are made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from koosh_models.physics import toeplitz
from koosh_models.physics.nufft import Nufft
from koosh_models.physics.operator import Apply
from koosh_models.physics.sense import fourier_basis
from koosh_models.physics.solve import conjugate_gradient

FIT_ITERATIONS = 10
SAMPLED = 0.8  # share of cells hit by a sample; two samples a cell, Nyquist for spokes at golden angles, hit 0.86


@dataclass(frozen=True, eq=False)
class Cells:
    """Low-resolution coil images whose centred Fourier transform is the centre of k-space.

    images    (coil, *cells) complex: the field of view of the scan on a small matrix
    diameter  cells across the ball of k-space that is sampled densely enough to be trusted
    """

    images: Tensor
    diameter: float

    @property
    def size(self) -> tuple[int, ...]:
        """Cells along each axis."""
        return tuple(self.images.shape[1:])

    def radius(self) -> Tensor:
        """(*cells) distance from the centre of k-space, in cells."""
        axes = [torch.arange(n, device=self.images.device) - n // 2 for n in self.size]
        return torch.stack(torch.meshgrid(*axes, indexing="ij")).float().norm(dim=0)


def fitted(
    kspace: Tensor, omega: Tensor, weights: Tensor, matrix: tuple[int, ...], size: int, wide: float = 1.0
) -> Cells:
    """The coil images of the central ball of k-space, `size` cells across, by weighted least squares.

    They are fitted on a small matrix with the same field of view rather than gridded: that frees them from errors of
    the density weights near the centre (rms map angle 0.017 against 0.05).

    kspace   (coil, sample) complex
    omega    (axis, sample) rad/voxel
    weights  (sample) density weights
    wide     fields of view that the images cover; cells of k-space are as much smaller
    """
    local, cells = scaled(omega, matrix, size, wide)
    central = Central.of(kspace, local, weights, cells, float(max(size, *cells)))
    images = conjugate_gradient(central.normal, central.b, iterations=FIT_ITERATIONS, tolerance=1e-4, independent=1).x
    return Cells(images, sampled_diameter(local, cells))


def scaled(omega: Tensor, matrix: tuple[int, ...], size: int, wide: float = 1.0) -> tuple[Tensor, tuple[int, ...]]:
    """The trajectory in rad per voxel of a small matrix with `wide` fields of view, and that matrix."""
    shown = tuple(min(size, n) for n in matrix)
    stretch = torch.tensor([n / c for n, c in zip(matrix, shown, strict=True)], device=omega.device)
    return omega * stretch[:, None], tuple(round(wide * n) for n in shown)


@dataclass(frozen=True, eq=False)
class Central:
    """The weighted normal equations of each coil's small image from the samples in a central ball of k-space.

    normal  images (coil, *cells) -> (coil, *cells)
    b       (coil, *cells)
    """

    normal: Apply
    b: Tensor

    @staticmethod
    def of(kspace: Tensor, local: Tensor, weights: Tensor, cells: tuple[int, ...], diameter: float) -> Central:
        """From samples (coil, sample) at `local` (axis, sample), rad per voxel of the small matrix."""
        across = torch.tensor(cells, device=local.device)[:, None] / (2 * torch.pi)
        share = torch.tensor([min(diameter, n) / 2 for n in cells], device=local.device)[:, None]
        inside = (local * across / share).norm(dim=0) < 1 + 1e-4
        if int(inside.sum()) < 2 * kspace.shape[0]:
            raise ValueError(
                f"only {int(inside.sum())} samples lie in the central {'x'.join(map(str, cells))} cells of k-space: "
                "too few for coil maps; supply maps, or a trajectory that passes the centre"
            )
        nufft, w = Nufft(local[:, inside].contiguous(), cells), weights[inside]
        b = torch.stack([nufft.adjoint(coil[inside] * w) for coil in kspace])
        if not bool(b.abs().max() > 0):
            raise ValueError("the centre of k-space is all zero: no coil has signal")
        return Central(toeplitz.build(nufft, w).normal, b)


def sampled_diameter(local: Tensor, cells: tuple[int, ...]) -> float:
    """Diameter, in cells, of the largest central ball in every shell of which most cells hold a sample.

    local  (axis, sample) rad per voxel of the small matrix
    """
    hit = torch.zeros(cells, dtype=torch.bool, device=local.device)
    inside = local.abs().amax(0) <= torch.pi
    local = local[:, inside]
    places = [(row * (n / (2 * torch.pi))).round().long() + n // 2 for row, n in zip(local, cells, strict=True)]
    hit[tuple(place.clamp(0, n - 1) for place, n in zip(places, cells, strict=True))] = True
    axes = [torch.arange(n, device=local.device) - n // 2 for n in cells]
    radius = torch.stack(torch.meshgrid(*axes, indexing="ij")).float().norm(dim=0)
    for shell in range(1, max(cells) // 2 + 1):
        ring = (radius > shell - 1) & (radius <= shell)
        if bool(ring.any()) and float(hit[ring].float().mean()) < SAMPLED:
            return 2.0 * (shell - 1)
    return float(max(cells))


def ball(cells: Cells, diameter: float) -> Tensor:
    """(*cells) 1 inside the central ball of k-space, 0 outside; centred."""
    return (cells.radius() <= diameter / 2).to(cells.images.real.dtype)


def taper(cells: tuple[int, ...], diameter: float | None = None) -> Tensor:
    """A cosine that falls from 1 at the centre of k-space to 0 at the edge of the ball; centred."""
    axes = [(torch.arange(n) - n // 2) / max(1.0, (diameter or n) / 2) for n in cells]
    radius = torch.stack(torch.meshgrid(*axes, indexing="ij")).norm(dim=0)
    return torch.cos(radius.clamp_max(1) * (torch.pi / 2))


def filtered(images: Tensor, window: Tensor) -> Tensor:
    """(..., *cells) images whose k-space is multiplied by a centred window (*cells)."""
    axes = tuple(range(images.ndim - window.ndim, images.ndim))
    window = torch.fft.ifftshift(window.to(images.device))
    # shifting the image or not is the same for a product in k-space
    return torch.fft.ifftn(torch.fft.fftn(images, dim=axes) * window, dim=axes)


def to_cells(images: Tensor) -> Tensor:
    """(coil, *cells) images -> centred Fourier coefficients such that `sum_k c_k exp(2 pi i k r / n)` is the image."""
    for axis, n in enumerate(images.shape[1:], start=1):
        wave = fourier_basis(n, n, images.dtype, images.device).conj() / n
        images = torch.movedim(torch.tensordot(images, wave, dims=([axis], [0])), -1, axis)
    return images
