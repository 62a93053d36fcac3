"""Coil maps as the eigenvectors of local relations between the coils' k-space (ESPIRiT)."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from koosh_models.calibration.cells import Cells, ball, filtered, fitted
from koosh_models.calibration.joint import ALTERNATIONS, STRETCH, SmoothModel
from koosh_models.calibration.maps import SMALLEST, CoilMaps, finished
from koosh_models.physics.sense import fourier_basis

DIAMETER = 24  # cells of data
MARGIN = 4
COLUMNS = 1100  # of the calibration matrix at most: its Gram matrix is decomposed, in 2 s at this size
RADII = (2.5, 2.0, 1.5, 1.0)  # of the kernel in cells: 81, 33, 19 or 7 places in 3D
THRESHOLD = 3e-4  # of the largest eigenvalue of the Gram matrix: relations weaker than this are noise
WIDE = 1.25  # fields of view of the cells: kernels act periodically, and must not join opposite sides of the object
CROP = 0.95  # eigenvalues below this belong to places without signal


def espirit(kspace: Tensor, omega: Tensor, weights: Tensor, matrix: tuple[int, ...], size: int = DIAMETER) -> CoilMaps:
    """Eigenvector maps on the calibration cells, held smooth.

    Uecker et al. 2014 (MRM 71:990), with a ball for a kernel and the Gram matrix in place of the calibration matrix's
    singular vectors. The eigenvectors, whose phase is free, are carried to the full matrix by the smooth waves that fit
    them best where their eigenvalue is near 1.

    kspace   (coil, sample) complex
    omega    (axis, sample) rad/voxel
    weights  (sample) density weights
    size     cells across the ball; less where the trajectory samples less of it densely
    """
    cells = fitted(kspace, omega, weights, matrix, size + 2 * MARGIN)
    wide = fitted(kspace, omega, weights, matrix, size + 2 * MARGIN, WIDE)
    # Cartesian samples, and sparse ones, say nothing of a wider field of view
    used, period = (wide, WIDE) if wide.diameter >= WIDE * min(size, cells.diameter) else (cells, 1.0)
    diameter = max(SMALLEST, min(period * size, used.diameter))
    offsets = kernel(len(matrix), len(kspace), diameter)
    lags = relations(signal_space(calibration_gram(used, offsets, diameter)), offsets, len(kspace))
    vectors, values = eigenvectors(lags, used)
    confident = (values > CROP) & (values > 0.5 * float(values.max()))
    if not bool(confident.any()):
        raise ValueError(
            "no place has coils that agree: is the calibration noise alone? supply maps, or use low-frequency"
        )
    strength = filtered(used.images, ball(used, diameter)).norm(dim=0)
    # a floor on the magnitude, so that weak anatomy counts, but less than strong
    weight = confident * strength.clamp_min(0.1 * float(strength.max()))
    model = SmoothModel.of_images(middle(vectors * weight, cells.size))
    coefficients, _ = model.alternate(ALTERNATIONS)
    return finished(coefficients, STRETCH, cells, model.synthesis(coefficients), matrix)


def middle(images: Tensor, size: tuple[int, ...]) -> Tensor:
    """(coil, *size) the central part, voxel n//2 staying in place."""
    for axis, n in enumerate(size, start=1):
        images = images.narrow(axis, images.shape[axis] // 2 - n // 2, n)
    return images


def kernel(n_axes: int, n_coils: int, diameter: float) -> Tensor:
    """(place, axis) offsets of the largest ball of cells for which the calibration matrix stays small."""
    chosen = RADII[-1]
    for radius in RADII:
        if n_coils * len(ball_offsets(n_axes, radius)) <= COLUMNS and 4 * radius <= diameter:
            chosen = radius
            break
    return torch.tensor(ball_offsets(n_axes, chosen))


def ball_offsets(n_axes: int, radius: float) -> list[tuple[int, ...]]:
    """Cells within `radius` of the centre."""
    side = range(-int(radius), int(radius) + 1)
    return [place for place in product(side, repeat=n_axes) if sum(p * p for p in place) <= radius * radius]


def calibration_gram(cells: Cells, offsets: Tensor, diameter: float) -> Tensor:
    """(coil * place, coil * place) A^H A, each row of A the data under the kernel at one place inside the ball."""
    axes = tuple(range(1, cells.images.ndim))
    centred = torch.fft.ifftshift(cells.images, dim=axes)
    data = torch.fft.fftshift(torch.fft.fftn(centred, dim=axes), dim=axes)
    room = diameter / 2 - float(offsets.float().norm(dim=1).max())
    centres = (cells.radius() <= max(1.0, room)).nonzero()
    reach = int(offsets.abs().max())
    for axis, n in enumerate(cells.size):
        centres = centres[(centres[:, axis] >= reach) & (centres[:, axis] < n - reach)]
    gram = data.new_zeros((len(data) * len(offsets),) * 2)
    for part in torch.split(centres, 4096):
        places = part[:, None] + offsets.to(part.device)
        rows = data[(slice(None), *places.unbind(-1))].movedim(1, 0).flatten(1)
        gram += rows.mH @ rows
    return gram


def signal_space(gram: Tensor) -> Tensor:
    """(coil * place, component) orthonormal vectors that span the signal's neighbourhoods."""
    values, vectors = torch.linalg.eigh(gram)
    return vectors[:, values > THRESHOLD * values[-1].clamp_min(1e-30)].conj()


def relations(space: Tensor, offsets: Tensor, n_coils: int) -> Tensor:
    """(coil, coil, *lags) the projection onto the signal space, averaged over the places of the kernel."""
    n = len(offsets)
    projection = (space @ space.mH).reshape(n_coils, n, n_coils, n).movedim(2, 1).reshape(n_coils**2, n * n)
    reach = int(offsets.abs().max())
    lag = (offsets[:, None] - offsets[None]).reshape(n * n, -1) + 2 * reach
    side = 4 * reach + 1
    flat = torch.zeros(n * n, dtype=torch.long)
    for axis in range(lag.shape[1]):
        flat = flat * side + lag[:, axis]
    out = projection.new_zeros((n_coils**2, side ** lag.shape[1]))
    out.index_add_(1, flat.to(out.device), projection)
    return out.reshape(n_coils, n_coils, *[side] * lag.shape[1]) / n


def eigenvectors(lags: Tensor, cells: Cells) -> tuple[Tensor, Tensor]:
    """(coil, *cells) leading eigenvectors of the relations at every place, and their eigenvalues (*cells).

    By power iteration from the coil images, plane by plane, which bounds the memory whatever the number of coils.
    """
    n_axes = lags.ndim - 2
    waves = [fourier_basis(n, lags.shape[2], lags.dtype, lags.device) for n in cells.size]
    vectors, values = torch.empty_like(cells.images), cells.images.real.new_empty(cells.size)
    for plane in range(cells.size[0]):
        here = torch.tensordot(lags, waves[0][plane], dims=([2], [0]))
        for axis in range(1, n_axes):
            here = torch.tensordot(here, waves[axis], dims=([2], [1]))  # the new axis comes last: order is kept
        local = here.flatten(2).movedim(-1, 0)
        start = cells.images[:, plane].flatten(1).T[..., None]
        v, value = leading(local, start)
        vectors[:, plane] = v.T.reshape(len(cells.images), *cells.size[1:])
        values[plane] = value.reshape(cells.size[1:])
    return vectors, values


def leading(matrices: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """(place, coil) leading eigenvectors of Hermitian matrices (place, coil, coil), eigenvalues (place)."""
    power = matrices
    for _ in range(3):
        power = power @ power
        power = power / power.abs().amax((1, 2), keepdim=True).clamp_min(1e-30)
    v = start / start.norm(dim=1, keepdim=True).clamp_min(1e-30)
    for _ in range(4):
        v = power @ v
        v = v / v.norm(dim=1, keepdim=True).clamp_min(1e-30)
    return v[..., 0], (v.mH @ matrices @ v).real[:, 0, 0]
