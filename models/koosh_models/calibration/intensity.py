"""Even brightness: what unit root-sum-of-squares maps leave of the coils' shading, divided out of the image."""

from __future__ import annotations

import torch
from torch import Tensor

from koosh_models.physics.sense import fourier_basis

ORDER = 3  # waves an axis, of period STRETCH; five take the contrast of a head for shading
STRETCH = 1.5
FLOOR = 0.1  # of the shading's median: no voxel is brightened more than tenfold


def bias_estimate(image: Tensor, mask: Tensor, iterations: int = 8, ridge: float = 1e-2) -> Tensor:
    """(z, y, x) smooth positive shading of an image, its geometric mean 1 inside the mask.

    The logarithm of the magnitude is fitted by a few smooth waves inside the mask, voxels that differ much from the fit
    (edges, fluid, vessels, air) counting less each time: a robust homomorphic fit. Contrast as smooth as shading is
    taken for shading.
    """
    magnitude, inside = image.abs(), mask.bool()
    if magnitude.shape != inside.shape or not bool((magnitude[inside] > 0).any()):
        raise ValueError(f"mask {tuple(inside.shape)} and image {tuple(magnitude.shape)} must agree and hold signal")
    level = torch.quantile(magnitude[inside][:: max(1, int(inside.sum()) // 1_000_000)], 0.99)
    seen = inside & (magnitude > 0.1 * level)
    basis = [wave_rows(n) for n in image.shape]
    target = torch.where(seen, magnitude.clamp_min(1e-12 * float(level)).log(), torch.zeros_like(magnitude)).double()
    weight = seen.double()
    fit = torch.zeros_like(target)
    for _ in range(iterations):
        fit = smooth_fit(target, weight, basis, ridge)
        off = target - fit
        spread = off[seen].abs().median() * 1.4826 + 1e-3
        weight = seen / (1 + (off / (2 * spread)).square()).square()
    return (fit - fit[seen].mean()).exp().to(magnitude.dtype)


def wave_rows(n: int) -> Tensor:
    """(n, wave) smooth real functions of one axis."""
    order = min(ORDER, n)
    waves = fourier_basis(n, order, torch.complex128, torch.device("cpu"), STRETCH)[:, order // 2 :]
    real = torch.cat([waves.real, waves.imag[:, 1:]], 1)
    return torch.linalg.qr(real).Q


def smooth_fit(target: Tensor, weight: Tensor, basis: list[Tensor], ridge: float) -> Tensor:
    """The sum of products of `basis` functions closest to `target` where `weight` (same shape) is large."""
    columns = [b.shape[1] for b in basis]
    gram, rhs = weight.cpu(), (weight * target).cpu()
    for b in basis:
        pairs = (b[:, :, None] * b[:, None, :]).flatten(1)
        gram = torch.tensordot(gram, pairs, dims=([0], [0]))
        rhs = torch.tensordot(rhs, b, dims=([0], [0]))
    n = len(columns)
    split = gram.reshape([c for column in columns for c in (column, column)])
    size = rhs.numel()
    matrix = split.permute(*range(0, 2 * n, 2), *range(1, 2 * n, 2)).reshape(size, size)
    matrix = matrix + ridge * float(matrix.diagonal().mean()) * torch.eye(size, dtype=matrix.dtype)
    out = torch.linalg.solve(matrix, rhs.flatten()).reshape(columns)
    for b in basis:
        out = torch.tensordot(out, b, dims=([0], [1]))
    return out.to(target.device)


def shading_from_body(array: Tensor, body: Tensor) -> Tensor:
    """(z, y, x) shading of a surface array: its low-resolution image over the body coil's, median 1 in the object.

    array, body  images of one place and shape, of any resolution; both are smoothed alike
    """
    if array.shape != body.shape:
        raise ValueError(f"array image {tuple(array.shape)} and body image {tuple(body.shape)} differ: resample one")
    small = [smoothed(image.abs()) for image in (array, body)]
    peak = torch.quantile(small[1].flatten()[:: max(1, small[1].numel() // 1_000_000)], 0.99)
    if not float(peak) > 0:
        raise ValueError("the body coil's image is all zero")
    inside = small[1] > 0.1 * peak
    ratio = small[0] / small[1].clamp_min(0.1 * float(peak))
    return ratio / ratio[inside].median()


def smoothed(image: Tensor, cells: int = 12) -> Tensor:
    """The image with only the central cells of its k-space, tapered."""
    axes = tuple(range(image.ndim))
    places = [torch.fft.fftfreq(n, 1 / n, device=image.device) / (cells / 2) for n in image.shape]
    radius = torch.stack(torch.meshgrid(*places, indexing="ij")).norm(dim=0)
    window = torch.cos(radius.clamp_max(1) * (torch.pi / 2)).square()
    return torch.fft.ifftn(torch.fft.fftn(image) * window, dim=axes).real.clamp_min(0)


def evened(image: Tensor, shading: Tensor) -> Tensor:
    """The image divided by its shading, nowhere brightened more than tenfold."""
    return image / shading.clamp_min(FLOOR * float(shading.median()))
