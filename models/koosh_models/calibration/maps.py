"""Coil maps from the centre of k-space, kept as a few Fourier coefficients each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from koosh_models.physics.nufft import Nufft
from koosh_models.physics.sense import SmoothMaps, fourier_basis
from koosh_models.physics.solve import conjugate_gradient

CALIBRATION = 32  # k-space cells across the calibration ball; 24 and 48 are less exact on heads at 96^3
FIT_ITERATIONS = 6
MASK_LEVEL = 0.03  # of the 99th percentile of the root-sum-of-squares image


@dataclass(frozen=True, eq=False)
class CoilMaps:
    """Maps with what is known of them.

    maps     sum of squares over coil 1 inside the mask, 0 outside
    mask     (z, y, x) bool: where there is signal to calibrate on
    quality  fraction of the calibration signal's energy that the maps explain, 1 at best
    """

    maps: SmoothMaps
    mask: Tensor
    quality: float


def low_frequency(
    kspace: Tensor, omega: Tensor, weights: Tensor, matrix: tuple[int, ...], size: int = CALIBRATION
) -> CoilMaps:
    """Each coil's low-resolution image over their root-sum-of-squares (McKenzie et al. 2002).

    kspace   (coil, sample) complex
    omega    (axis, sample) rad/voxel
    weights  (sample) density weights
    """
    coefficients = calibration_cells(kspace, omega, weights, matrix, size)
    return normalised(coefficients, matrix, quality=1.0)


def calibration_cells(kspace: Tensor, omega: Tensor, weights: Tensor, matrix: tuple[int, ...], size: int) -> Tensor:
    """(coil, kz, ky, kx) Cartesian k-space of the calibration ball, tapered to zero at its edge.

    The ball is well sampled, so its coil images are fitted on a small matrix with the same field of view rather than
    gridded: that frees them from errors of the density weights near the centre (rms map angle 0.017 against 0.05).
    """
    cells = tuple(min(size, n) for n in matrix)
    stretch = torch.tensor([n / c for n, c in zip(matrix, cells, strict=True)], device=omega.device)
    local = omega * stretch[:, None]
    inside = local.norm(dim=0) < torch.pi
    if int(inside.sum()) < 2 * kspace.shape[0]:
        raise ValueError(
            f"only {int(inside.sum())} samples lie in the central {'x'.join(map(str, cells))} cells of k-space: "
            "too few for coil maps; supply maps, or a trajectory that passes the centre"
        )
    nufft, w = Nufft(local[:, inside].contiguous(), cells), weights[inside]
    b = nufft.adjoint(kspace[:, inside] * w)
    images = conjugate_gradient(
        lambda x: nufft.adjoint(nufft.forward(x) * w), b, iterations=FIT_ITERATIONS, tolerance=1e-4, independent=1
    ).x
    return to_cells(images) * taper(cells).to(images.device)


def taper(cells: tuple[int, ...]) -> Tensor:
    """A cosine that falls from 1 at the centre of k-space to 0 at the edge of the ball."""
    axes = [(torch.arange(n) - n // 2) / max(1.0, n / 2) for n in cells]
    radius = torch.stack(torch.meshgrid(*axes, indexing="ij")).norm(dim=0)
    return torch.cos(radius.clamp_max(1) * (torch.pi / 2))


def to_cells(images: Tensor) -> Tensor:
    """(coil, *cells) images -> centred Fourier coefficients such that `sum_k c_k exp(2 pi i k r / n)` is the image."""
    for axis, n in enumerate(images.shape[1:], start=1):
        wave = fourier_basis(n, n, images.dtype, images.device).conj() / n
        images = torch.movedim(torch.tensordot(images, wave, dims=([axis], [0])), -1, axis)
    return images


def normalised(coefficients: Tensor, matrix: tuple[int, ...], quality: float) -> CoilMaps:
    """Maps whose sum of squares is 1 inside the object's mask and 0 outside."""
    plain = SmoothMaps(coefficients, torch.ones(matrix, device=coefficients.device))
    power = torch.zeros(matrix, device=coefficients.device)
    for coil in range(len(coefficients)):
        power += plain.coils(coil, coil + 1)[0].abs().square()
    rss = power.sqrt()
    peak = float(torch.quantile(rss.flatten()[:: max(1, rss.numel() // 1_000_000)], 0.99))
    if peak == 0:
        raise ValueError("the centre of k-space is all zero: no coil has signal")
    mask = rss > MASK_LEVEL * peak
    return CoilMaps(SmoothMaps(coefficients, mask / rss.clamp_min(MASK_LEVEL * peak)), mask, quality)


def angle(maps: Tensor, truth: Tensor, mask: Tensor) -> float:
    """Root mean square over the mask of sin(angle between the coil vectors of the two sets of maps)."""
    a, b = maps[:, mask], truth[:, mask]
    cosine = (a.conj() * b).sum(0).abs() / (a.norm(dim=0) * b.norm(dim=0)).clamp_min(1e-12)
    return float((1 - cosine.square().clamp_max(1)).mean().sqrt())
