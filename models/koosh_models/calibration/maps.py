"""Coil maps: what every method returns, the mask and the figures they share, and the low-frequency method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor
from torch.nn import functional

from koosh_models.calibration.cells import Cells, ball, filtered, fitted, taper, to_cells
from koosh_models.physics.sense import SmoothMaps

CALIBRATION = 32  # k-space cells across the calibration ball; 24 and 48 are less exact on heads at 96^3
MASK_LEVEL = 0.015  # of the 99th percentile of the combined low-resolution image; 0.03 cuts 0.08 % of a thin scalp
SMALLEST = 6  # cells across the densely sampled ball without which no map can be made


@dataclass(frozen=True, eq=False)
class CoilMaps:
    """Maps with what is known of them.

    maps     sum of squares over coil 1 inside the mask, 0 outside
    mask     (z, y, x) bool: where there is signal to calibrate on, one low-resolution cell wider than what is seen
    quality  fraction of the calibration signal's energy that one image times these maps explains, 1 at best
    """

    maps: SmoothMaps
    mask: Tensor
    quality: float


def low_frequency(
    kspace: Tensor, omega: Tensor, weights: Tensor, matrix: tuple[int, ...], size: int = CALIBRATION
) -> CoilMaps:
    """Each coil's low-resolution image over their root-sum-of-squares (McKenzie et al. 2002, MRM 47:529).

    kspace   (coil, sample) complex
    omega    (axis, sample) rad/voxel
    weights  (sample) density weights
    """
    cells = fitted(kspace, omega, weights, matrix, size)
    smooth = filtered(cells.images, taper(cells.size))
    return finished(to_cells(smooth), 1.0, cells, smooth, matrix)


def finished(coefficients: Tensor, stretch: float, cells: Cells, small: Tensor, matrix: tuple[int, ...]) -> CoilMaps:
    """Maps of unit root-sum-of-squares inside the object's mask and 0 outside.

    coefficients  (coil, kz, ky, kx) of unnormalised maps
    small         (coil, *cells) the same maps on the calibration cells
    """
    mask = support(combined(cells, small), matrix)
    plain = SmoothMaps(coefficients, torch.ones(matrix, device=coefficients.device), stretch)
    power = torch.zeros(matrix, device=coefficients.device)
    for coil in range(len(coefficients)):
        power += plain.coils(coil, coil + 1)[0].abs().square()
    rss = power.sqrt()
    gain = mask / rss.clamp_min(1e-6 * float(rss.max()))
    return CoilMaps(SmoothMaps(coefficients, gain, stretch), mask, explained(cells, small))


def combined(cells: Cells, small: Tensor) -> Tensor:
    """(*cells) the low-resolution image that the maps combine the coils to, without ringing."""
    images = filtered(cells.images, taper(cells.size, min(max(cells.size), max(cells.diameter, SMALLEST))))
    return (small.conj() * images).sum(0) / small.norm(dim=0).clamp_min(1e-12 * float(small.abs().max()))


def support(image: Tensor, matrix: tuple[int, ...], level: float = MASK_LEVEL) -> Tensor:
    """(z, y, x) bool: where a low-resolution image exceeds `level` of its 99th percentile, widened by one of its cells.

    Widened, because thin or weak anatomy at the rim is below the level and must not be cut.
    """
    seen = SmoothMaps(to_cells(image[None]), torch.ones(matrix, device=image.device)).coils(0, 1)[0].abs()
    peak = float(torch.quantile(seen.flatten()[:: max(1, seen.numel() // 1_000_000)], 0.99))
    return widened(seen > level * peak, [ceil(n / m) for n, m in zip(matrix, image.shape, strict=True)])


def widened(mask: Tensor, by: Sequence[int]) -> Tensor:
    """The mask grown by `by` voxels along each axis."""
    for axis, reach in enumerate(by):
        rows = mask.movedim(axis, -1)
        grown = functional.max_pool1d(rows.reshape(-1, 1, rows.shape[-1]).float(), 2 * reach + 1, 1, reach) > 0
        mask = grown.reshape(rows.shape).movedim(-1, axis)
    return mask.contiguous()


def explained(cells: Cells, small: Tensor) -> float:
    """Energy of the calibration images that lies along the maps, voxel by voxel, over all of it."""
    images = filtered(cells.images, ball(cells, max(cells.diameter, SMALLEST)))
    along = (small.conj() * images).sum(0).abs().square() / small.abs().square().sum(0).clamp_min(1e-30)
    return float(along.sum() / images.abs().square().sum().clamp_min(1e-30))


def angle(maps: Tensor, truth: Tensor, mask: Tensor) -> float:
    """Root mean square over the mask of sin(angle between the coil vectors of the two sets of maps)."""
    a, b = maps[:, mask], truth[:, mask]
    cosine = (a.conj() * b).sum(0).abs() / (a.norm(dim=0) * b.norm(dim=0)).clamp_min(1e-12)
    return float((1 - cosine.square().clamp_max(1)).mean().sqrt())
